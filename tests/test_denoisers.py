"""Every kind of model on tiny random pipelines of diffusers' own classes: number for number what their own pipelines give."""
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (AutoencoderTiny, FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel,
                       UNet2DConditionModel, VQModel)

import tiny
from rg_minimal import AppearanceObjective, guided_sample, invert, load_pipeline, pipelines, readout as rg
from rg_minimal.conditioning import Conditioning
from rg_minimal.denoisers import denoiser, pack, unpack
from rg_minimal.keypoints import keypoint_objective
from rg_minimal.puppets.heads import new_head, pose_objective
from rg_minimal.saving import train_head
from rg_minimal.sources import Source
from tiny import as_, make_head, seed, spatial

PROMPT = "a puppet is waving"
KINDS = {
    "SD 1.5": tiny.tiny_pipe,
    "SD 2.1": lambda: tiny.tiny_pipe("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    "SDXL": tiny.tiny_xl_pipe,
    "SDXL, deep": lambda: tiny.tiny_xl_pipe(unet=tiny.DEEP),
    "SD3": tiny.tiny_sd3_pipe, "FLUX": tiny.tiny_flux_pipe, "PixArt": tiny.tiny_pixart_pipe, "LCM": tiny.tiny_lcm_pipe}


@pytest.fixture(scope="module")
def pipes():
    return {name: build() for name, build in KINDS.items()}


@pytest.fixture(scope="module")
def pipe():
    return tiny.tiny_pipe()


def own(pipe, scheduler=None, prompt=PROMPT, **settings):
    """What the pipeline's own call gives, (B, C, h, w), with a scheduler like this one."""
    if "PixArt" in type(pipe).__name__:
        settings["use_resolution_binning"] = False
    before, pipe.scheduler = pipe.scheduler, scheduler or pipe.scheduler
    try:
        latents = pipe(prompt, output_type="latent", **{"num_inference_steps": 4, "generator": seed(), **settings}).images
    finally:
        pipe.scheduler = before
    return unpack(latents, 16, 16) if latents.ndim == 3 else latents


def ours(pipe, objectives=(), prompt=PROMPT, **settings):
    settings = {"num_inference_steps": 4, "generator": seed(), **settings}
    return list(pipelines.guided_sample(pipe, prompt, objectives, **settings))


def last_loss(states):
    return [float(state.losses[0].sum()) for state in states if state.losses[0] is not None][-1]


# ---- sampling is diffusers' own, bit for bit ---------------------------------------------------------------------------

DIFFUSION = ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
             "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler", "PNDMScheduler", "DDPMScheduler",
             "KDPM2DiscreteScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler"]
FLOW = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]


@pytest.mark.parametrize("kind, name", [
    *[(kind, name) for kind in ("SD 1.5", "SDXL") for name in DIFFUSION],
    *[("PixArt", name) for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler")],
    *[("SD 2.1", name) for name in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")],
    *[("SD3", name) for name in FLOW], ("FLUX", FLOW[0]), ("LCM", "LCMScheduler"), ("SDXL, deep", "DDIMScheduler")])
def test_a_scheduler_is_the_pipelines_own_at_strength_zero_and_lowers_the_loss_above(pipes, kind, name):
    pipe = pipes[kind]
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    expected = own(pipe, scheduler)
    assert torch.equal(ours(pipe, scheduler=scheduler)[-1].latents, expected)
    zero = ours(pipe, [spatial(pipe)], scheduler=scheduler, step_size=0.0)
    assert torch.equal(zero[-1].latents, expected)
    for moves, size in (("latents", 0.2), ("prediction", 0.3)):
        more = ours(pipe, [spatial(pipe)], scheduler=scheduler, step_size=size, moves=moves)
        assert last_loss(more) < last_loss(zero), f"in the {moves} nothing is lost, of Heun's second looks neither"


@pytest.mark.parametrize("kind", ["SD 1.5", "SD 2.1", "SDXL", "SDXL, deep", "SD3", "FLUX"])
def test_without_a_scheduler_it_is_the_pipelines_own_too(pipes, kind):
    assert torch.equal(ours(pipes[kind])[-1].latents, own(pipes[kind]))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind, name", [("SD 1.5", "DDIMScheduler"), ("SDXL", "DDIMScheduler"), ("SD 1.5", "EulerDiscreteScheduler"),
                                        ("PixArt", "DPMSolverMultistepScheduler")])
def test_timesteps_are_spaced_as_diffusers_spaces_them(pipes, kind, name, spacing):
    pipe = pipes[kind]
    plain = getattr(diffusers, name).from_config(pipe.scheduler.config)
    asked = {} if name == "DDIMScheduler" and kind != "PixArt" else {"scheduler": plain}
    expected = own(pipe, type(plain).from_config(plain.config, timestep_spacing=spacing))
    states = ours(pipe, timestep_spacing=spacing, **asked)
    assert torch.equal(states[-1].latents, expected)
    assert (states[0].timestep == 999) == (spacing != "leading"), "the very noise"


@pytest.mark.parametrize("kind, scale", [("SD 1.5", 7.5), ("SDXL", 5.0), ("SD3", 7.0), ("FLUX", 3.5), ("PixArt", 4.5), ("LCM", 8.5)])
def test_the_default_guidance_scale_is_the_pipelines_own(pipes, kind, scale):
    assert denoiser(pipes[kind]).default_guidance_scale == scale


@pytest.mark.parametrize("kind, steps", [("SD 1.5", 50), ("SDXL", 50), ("SD3", 28), ("FLUX", 28), ("PixArt", 20)])
def test_the_default_number_of_steps_is_the_pipelines_own(pipes, kind, steps):
    assert denoiser(pipes[kind]).default_num_inference_steps == steps == len(ours(pipes[kind], num_inference_steps=None))


@pytest.mark.parametrize("kind", ["SD 1.5", "SDXL", "SD3", "FLUX"])
def test_sizes_and_several_pictures_as_in_diffusers(pipes, kind):
    settings = dict(height=24, width=32, num_images_per_prompt=2)
    expected = pipes[kind](PROMPT, num_inference_steps=3, generator=[seed(1), seed(2)], output_type="latent", **settings).images
    latents = ours(pipes[kind], generator=(seed(1), seed(2)), num_inference_steps=3, **settings)[-1].latents
    assert latents.shape == (2, 4, 12, 16) and torch.equal(pack(latents) if expected.ndim == 3 else latents, expected)
    with pytest.raises(ValueError, match="height is 9"):
        ours(pipes[kind], height=9)


@pytest.mark.parametrize("kind", ["SD 1.5", "SDXL", "SD3"])
def test_embeddings_instead_of_a_prompt(pipes, kind):
    pipe = pipes[kind]
    encoded = pipelines.encode_prompts(pipe, PROMPT, "a red shirt")
    embeds = dict(prompt_embeds=encoded.prompt_embeds, negative_prompt_embeds=encoded.negative_prompt_embeds)
    for key in ("text_embeds", "pooled_projections"):
        if key in encoded.added:
            embeds |= dict(pooled_prompt_embeds=encoded.added[key], negative_pooled_prompt_embeds=encoded.negative_added[key])
    assert torch.equal(ours(pipe, prompt=None, **embeds)[-1].latents, own(pipe, prompt=None, **embeds))
    with pytest.raises(ValueError, match="pass one of them"):
        ours(pipe, **embeds)


def test_the_refiner_is_told_a_score_instead_of_a_size(pipes):
    pipe = tiny.tiny_refiner_pipe()
    conditioning = pipelines.encode_prompts(pipe, PROMPT)
    assert conditioning.added["time_ids"].tolist() == [[32, 32, 0, 0, 6]]
    assert conditioning.negative_added["time_ids"].tolist() == [[32, 32, 0, 0, 2.5]]
    latents, kept = torch.randn(1, 4, 16, 16, generator=seed()), pipelines.guided_sample(pipe, PROMPT, num_inference_steps=4)
    image = torch.rand(1, 3, 32, 32, generator=seed())
    seen = record(pipe.unet, lambda: pipe(PROMPT, image=image, strength=1.0, num_inference_steps=2, generator=seed()))
    model, (args, kwargs, output) = denoiser(pipe), seen[0]
    with torch.no_grad():
        again = rg.run(model, args[0][:1], args[1], conditioning, ("negative", "conditional"))
    assert torch.equal(torch.cat(again), output) and latents.shape == next(kept).latents.shape


def record(network, call):
    """(args, kwargs, output) of each pass of a network, heard by a hook that knows nothing of Readout Guidance."""
    passes = []
    hook = network.register_forward_hook(lambda module, args, kwargs, output: passes.append(
        (args, kwargs, output[0] if isinstance(output, tuple) else output.sample)), with_kwargs=True)
    try:
        call()
    finally:
        hook.remove()
    return passes


# ---- whatever else a UNet asks for -------------------------------------------------------------------------------------

def agree_with_pass(pipe, call, added, negative_added=None, control=None, extra=None):
    """The pipeline's second pass, done again from a Conditioning, gives the same numbers."""
    args, kwargs, expected = record(pipe.unet, call)[1]
    text = kwargs["encoder_hidden_states"]
    conditioning = Conditioning(text[1:], text[:1], added, negative_added or {}, control)
    model = denoiser(pipe)
    with torch.no_grad():
        again = torch.cat(rg.run(model, args[0][:1, :4], args[1], conditioning, ("negative", "conditional")))
    assert torch.equal(again, expected)
    conditioning.check(model, args[0][:1, :4], True)
    states = list(pipelines.guided_sample(pipe, conditioning, [spatial(pipe)], num_inference_steps=2))
    assert states[-1].latents.isfinite().all() and states[-1].losses[0] is not None


def test_image_embeddings_of_an_ip_adapter():
    pipe = tiny.tiny_ip_pipe()
    picture = torch.randn(1, 1, 8, generator=seed())
    both = torch.cat([torch.zeros_like(picture), picture])
    call = lambda: pipe(PROMPT, ip_adapter_image_embeds=[both], num_inference_steps=2, generator=seed())
    agree_with_pass(pipe, call, {"image_embeds": [picture]}, {"image_embeds": [torch.zeros_like(picture)]})


@pytest.mark.parametrize("build", [tiny.tiny_control_pipe, tiny.tiny_xl_control_pipe])
def test_a_controlnet(build):
    pipe, image = build(), torch.rand(1, 3, 32, 32, generator=seed())
    passes = record(pipe.unet, lambda: pipe(PROMPT, image=image, num_inference_steps=3, generator=seed()))
    encoded = pipelines.controlled(pipe, pipelines.encode_prompts(pipe, PROMPT, image_size=(32, 32)), image)
    for args, kwargs, output in passes:
        with torch.no_grad():
            again = rg.run(denoiser(pipe), args[0][:1], args[1], encoded, ("negative", "conditional"))
            plain = rg.run(denoiser(pipe), args[0][:1], args[1], pipelines.encode_prompts(pipe, PROMPT), ("negative", "conditional"))
        assert torch.equal(torch.cat(again), output) and not torch.allclose(torch.cat(plain), output, atol=1e-3)
    states = ours(pipe, [spatial(pipe)], prompt=encoded)
    expected = pipe(PROMPT, image=image, num_inference_steps=4, generator=seed(), output_type="latent").images
    assert states[-1].losses[0] is not None and torch.equal(ours(pipe, prompt=encoded)[-1].latents, expected)


def test_residuals_of_a_t2i_adapter():
    pipe, image = tiny.tiny_adapter_pipe(), torch.rand(1, 3, 32, 32, generator=seed())
    with torch.no_grad():
        residuals = [each for each in pipe.adapter(image)]
    call = lambda: pipe(PROMPT, image=image, height=32, width=32, num_inference_steps=2, generator=seed())
    agree_with_pass(pipe, call, {"down_intrablock_additional_residuals": residuals})


def test_a_mask_and_a_masked_picture_or_a_picture_behind_the_latents():
    pipe = tiny.tiny_inpaint_pipe(9)
    image, mask = torch.rand(1, 3, 32, 32, generator=seed()), torch.ones(1, 1, 32, 32)
    call = lambda: pipe(PROMPT, image=image, mask_image=mask, height=32, width=32, num_inference_steps=2, generator=seed())
    agree_with_pass(pipe, call, {"image_latents": record(pipe.unet, call)[0][0][0][:1, 4:]})
    edit = as_(tiny.tiny_pipe(unet=dict(in_channels=8)), "StableDiffusionPipeline")
    with pytest.raises(ValueError, match="lacks image_latents .*GuidanceCallback"):
        ours(edit)
    encoded = pipelines.encode_prompts(edit, PROMPT)
    encoded.added["image_latents"] = torch.randn(1, 4, 16, 16, generator=seed())
    assert ours(edit, [spatial(edit)], prompt=encoded)[-1].losses[0] is not None
    with pytest.raises(ValueError, match="cannot encode a prompt by itself"):
        ours(tiny.tiny_pix2pix_pipe())


def test_class_labels_and_a_guidance_embedding():
    pipe = tiny.tiny_pipe(unet=dict(num_class_embeds=4))
    encoded = pipelines.encode_prompts(pipe, PROMPT)
    one, two = (ours(pipe, prompt=Conditioning(encoded.prompt_embeds, encoded.negative_prompt_embeds, {
        "class_labels": torch.tensor([label])}))[-1].latents for label in (1, 2))
    assert not torch.equal(one, two)
    lcm = tiny.tiny_lcm_pipe()
    assert torch.equal(ours(lcm, scheduler=lcm.scheduler, guidance_scale=3.0)[-1].latents, own(lcm, guidance_scale=3.0))


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
                                       "KDPM2DiscreteScheduler"])
def test_a_clean_picture_is_a_source_at_timesteps_between_two(pipe, scheduler):
    other = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    source = Source.from_picture(pipe, latents=torch.rand(1, 4, 16, 16), generator=seed())
    aim = AppearanceObjective(head=make_head(pipe, 0), source=source, stop=1.0)
    states = list(guided_sample(pipe, PROMPT, [aim], scheduler=other, num_inference_steps=3, generator=seed()))
    assert states[0].losses[0].isfinite().all()


def test_noise_at_a_timestep_between_two_is_between(pipe):
    model, clean, noise = denoiser(pipe), torch.rand(1, 4, 8, 8, generator=seed()), torch.randn(1, 4, 8, 8, generator=seed(1))
    low, between, high, whole = (model.add_noise(clean, noise, torch.tensor([t])) for t in (400, 400.5, 401, 400.0))
    assert torch.allclose(whole, low, atol=1e-6)
    assert torch.allclose(between, (low + high) / 2, atol=1e-4) and not torch.allclose(between, low, atol=1e-5)


def test_each_picture_is_controlled_by_its_own_image():
    pipe, shown = tiny.tiny_control_pipe(), []
    pipe.controlnet.register_forward_pre_hook(lambda module, args, given: shown.append(given["controlnet_cond"][:, 0, 0, 0]), with_kwargs=True)
    images = torch.stack([torch.full((3, 32, 32), (number + 1) / 10) for number in range(4)])
    told = pipelines.encode_prompts(pipe, [PROMPT] * 2)
    next(guided_sample(pipe, pipelines.controlled(pipe, told, images[:2]), num_inference_steps=2, guidance_scale=3.0, generator=seed()))
    assert torch.allclose(shown[-1], torch.tensor([0.1, 0.2, 0.1, 0.2]))
    for count, prompts, scale in ((4, 2, 3.0), (2, 3, 3.0), (2, 3, 1.0), (3, 2, 1.0)):
        wrong = pipelines.controlled(pipe, [PROMPT] * prompts, images[:count])
        with pytest.raises(ValueError, match=f"image has shape .{count}, 3, 32, 32., but {prompts} pictures"):
            guided_sample(pipe, wrong, num_inference_steps=2, guidance_scale=scale, generator=seed())
    with pytest.raises(ValueError, match="prompt is 5"):
        pipelines.controlled(pipe, 5, images)


# ---- transformers ------------------------------------------------------------------------------------------------------

TRANSFORMERS = ("SD3", "FLUX", "PixArt")


def test_packing():
    latents = torch.randn(2, 4, 6, 8, generator=seed())
    assert torch.equal(pack(latents), diffusers.FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(latents), 6, 8), latents)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_block_becomes_a_map(pipes, kind):
    """Each cell of a map is the token of that place: what is changed in one corner of the first layer stays there."""
    model = denoiser(pipes[kind])
    tokens = torch.arange(64.0).view(1, 64, 1) + torch.tensor([0.0, 1000.0])
    model.normalize = False
    text = torch.zeros(1, 5, 2)
    for output in (tokens, (text, tokens), torch.cat([text, tokens], 1)):
        found = model.feature_map(output, torch.zeros(1, 4, 16, 16))
        assert found.shape == (1, 2, 8, 8) and torch.equal(found[0, 0], torch.arange(64.0).view(8, 8))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_heads_of_transformers_train_as_any(pipes, kind):
    pipe, pictures = pipes[kind], torch.rand(2, 3, 32, 32, generator=seed())
    labels = torch.rand(2, 2, 8, 8, generator=seed())
    states = list(train_head(make_head(pipe), pipe, lambda step: (pictures, labels), 20, lr=3e-3))
    assert sum(s.loss for s in states[-5:]) < 0.8 * sum(s.loss for s in states[:5])


@pytest.mark.parametrize("kind", ["SD3", "FLUX"])
def test_inversion_of_flow_models_is_the_euler_steps_backwards(pipes, kind):
    pipe, clean = pipes[kind], torch.randn(1, 4, 16, 16, generator=seed())
    errors = []
    for iterations in (0, 3, 12):
        states = list(pipelines.invert(pipe, None, PROMPT, latents=clean, num_inference_steps=10, fixed_point_iterations=iterations))
        assert [state.timestep for state in states] == sorted(state.timestep for state in states)
        again = ours(pipe, latents=states[-1].latents, guidance_scale=1.0, num_inference_steps=10)[-1].latents
        errors.append(float((again - clean).norm() / clean.norm()))
    assert errors[2] < 1e-4 and errors[2] < errors[1] < errors[0]


# ---- layers, channels and sizes without weights ------------------------------------------------------------------------

SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
SDXL = dict(
    sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
SD3 = dict(sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
           joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192)
PIXART = dict(sample_size=128, num_layers=28, attention_head_dim=72, in_channels=4, out_channels=8, num_attention_heads=16,
              cross_attention_dim=1152, caption_channels=4096)


@pytest.mark.parametrize("network, config, channels, sizes, embedding", [
    (UNet2DConditionModel, SD15, (1280,) * 6 + (640,) * 3 + (320,) * 3, [(8, 8)] * 3 + [(16, 16)] * 3 + [(32, 32)] * 3 + [(64, 64)] * 3, 1280),
    (UNet2DConditionModel, SDXL, (1280,) * 3 + (640,) * 3 + (320,) * 3, [(32, 32)] * 3 + [(64, 64)] * 3 + [(128, 128)] * 3, 1280),
    (SD3Transformer2DModel, SD3, (1536,) * 24, [(64, 64)] * 24, 1536),
    (FluxTransformer2DModel, dict(guidance_embeds=True), (3072,) * 57, [(64, 64)] * 57, 3072),
    (PixArtTransformer2DModel, PIXART, (1152,) * 28, [(64, 64)] * 28, 1152)])
def test_the_published_models_on_the_meta_device(network, config, channels, sizes, embedding):
    with torch.device("meta"):
        model = denoiser(network(**config))
    assert (model.channels, model.sizes(), model.embedding_channels) == (channels, sizes, embedding)
    assert len(model.names) == len(set(model.names)) == len(channels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height, width", [(None, None), (24, 32)])
def test_names_channels_and_sizes_are_those_of_a_pass(pipes, kind, height, width):
    model = denoiser(pipes[kind])
    rows, columns = (height or 32) // 2, (width or 32) // 2
    reading = pipelines.read_picture(pipes[kind], None, 300, latents=torch.randn(1, 4, rows, columns, generator=seed()), generator=seed())
    assert [tuple(each.shape[1:]) for each in reading.features] == [
        (channels, *size) for channels, size in zip(model.channels, model.sizes(rows, columns))]
    assert model.embed(300).shape == (1, model.embedding_channels)
    modules = dict(model.network.named_modules())
    for name, layer in zip(model.names, model.layers):
        assert layer in (modules[name], getattr(modules[name], "conv2", None))


# ---- autoencoders ------------------------------------------------------------------------------------------------------

PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_round_trips_with_shift_and_scale_are_those_of_the_pipelines(pipes):
    for kind in ("SD 1.5", "SDXL", "SD3", "PixArt"):
        pipe = pipes[kind]
        latents = torch.randn(1, 4, 16, 16, generator=seed())
        settings = dict(num_inference_steps=1, generator=seed(), output_type="pt")
        seen = {}

        def keep(pipe, step, timestep, kwargs):
            seen.update(kwargs)
            return kwargs
        if kind == "PixArt":
            pictures = pipe(PROMPT, use_resolution_binning=False, callback=lambda i, t, x: seen.update(latents=x), **settings).images
        else:
            pictures = pipe(PROMPT, callback_on_step_end=keep, latents=latents, **settings).images
        torch.testing.assert_close(pipelines.decode(pipe, seen["latents"]), pictures, atol=1e-6, rtol=0)
        mean = pipe.vae.encode(PICTURE * 2 - 1).latent_dist.mean
        shift = pipe.vae.config.shift_factor or 0.0
        torch.testing.assert_close(pipelines.encode(pipe, PICTURE), (mean - shift) * pipe.vae.config.scaling_factor)


def test_means_and_deviations_of_latents_as_sdxl_has_them():
    pipe = tiny.tiny_xl_pipe(vae=dict(latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[0.5, 1.5, 2.0, 0.8]))
    image = as_(pipe, "StableDiffusionXLImg2ImgPipeline")
    with torch.no_grad():
        own = image.prepare_latents(PICTURE * 2 - 1, None, 1, 1, torch.float32, torch.device("cpu"), seed(), add_noise=False)
        pipe.vae.encode = lambda x, encode=pipe.vae.encode: SimpleNamespace(latent_dist=SimpleNamespace(
            mean=encode(x).latent_dist.sample(seed())))
    torch.testing.assert_close(pipelines.encode(pipe, PICTURE), own)
    pictures, latents = pipelines.sample(pipe, PROMPT, num_inference_steps=2, generator=seed())
    expected = pipe(PROMPT, num_inference_steps=2, generator=seed(), output_type="pt").images
    torch.testing.assert_close(pictures, expected, atol=1e-6, rtol=0)


def test_a_tiny_and_a_vq_autoencoder(pipes):
    pipe = tiny.tiny_pipe()
    for vae in (AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                                num_decoder_blocks=(1, 1), scaling_factor=0.7).eval(),
                VQModel(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
                        up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=16, scaling_factor=0.6).eval()):
        pipe.vae = vae
        with torch.no_grad():
            latents = vae.encode(PICTURE * 2 - 1).latents
            picture = vae.decode(latents).sample
        torch.testing.assert_close(pipelines.encode(pipe, PICTURE), latents * vae.config.scaling_factor)
        torch.testing.assert_close(pipelines.decode(pipe, latents * vae.config.scaling_factor), (picture / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("force", [False, True])
def test_an_overflow_in_half_precision_is_computed_in_float32(force):
    """SDXL's autoencoder overflows; where its config does not say so, it is seen. The weights stay as they were."""
    pipe = tiny.tiny_xl_pipe(vae=dict(force_upcast=force)).to(torch.float16)
    for convolution in (pipe.vae.encoder.conv_in, pipe.vae.decoder.conv_in):
        convolution.weight.data.mul_(3e4)
        convolution.bias.data.fill_(6e4)
    before = {name: weight.clone() for name, weight in pipe.vae.state_dict().items()}
    formats = []
    hook = pipe.vae.decoder.conv_in.register_forward_hook(lambda module, args, output: formats.append(output.dtype))
    latents = pipelines.encode(pipe, PICTURE)
    pictures = pipelines.decode(pipe, latents)
    state = next(pipelines.guided_sample(pipe, PROMPT, num_inference_steps=2))
    assert state.preview().isfinite().all() and pictures.isfinite().all() and latents.isfinite().all()
    assert latents.dtype == torch.float16 and formats == ([torch.float32] if force else [torch.float16, torch.float32]) * 2
    assert pipe.vae.dtype == torch.float16
    assert all(torch.equal(before[name], weight) for name, weight in pipe.vae.state_dict().items())
    hook.remove()


# ---- what does not fit is said at the call -----------------------------------------------------------------------------

def test_a_conditioning_made_by_hand(pipes):
    pipe, xl = pipes["SD 1.5"], pipes["SDXL"]
    embeds = torch.zeros(1, 16, 32)
    encoded = pipelines.encode_prompts(xl, PROMPT)
    for pipe, conditioning, message, settings in (
            (pipe, Conditioning(embeds, embeds[:, :9]), "differ in length", {}),
            (pipe, Conditioning(embeds), "no negative_prompt_embeds", {}),
            (pipe, Conditioning(embeds), "no negative_prompt_embeds", {"guidance_scale": 1, "gradient_branch": "both", "objectives": 1}),
            (pipe, Conditioning(embeds[..., :9], embeds[..., :9]), r"takes \(B, L, 32\)", {}),
            (pipe, Conditioning(embeds, embeds), "which has its own rows", {"negative_prompt": "a red shirt"}),
            (xl, Conditioning(encoded.prompt_embeds, encoded.negative_prompt_embeds), "lacks text_embeds, time_ids", {}),
            (xl, Conditioning(encoded.prompt_embeds, encoded.negative_prompt_embeds, encoded.added), "negative branch .* lacks text_embeds", {}),
            (xl, encoded, r"time_ids say .*\(24, 32\)", {"height": 24}),
            (pipes["SD3"], Conditioning(torch.zeros(1, 9, 64), torch.zeros(1, 9, 64)), "lacks pooled_projections", {})):
        objectives = [spatial(pipe)] if settings.pop("objectives", 0) else []
        with pytest.raises(ValueError, match=message):
            pipelines.guided_sample(pipe, conditioning, objectives, **settings)
    assert len(ours(pipes["SD 1.5"], prompt=Conditioning(embeds), guidance_scale=1)) == 4


def test_generators_and_numbers_of_steps(pipes):
    pipe = pipes["SD 1.5"]
    with pytest.raises(ValueError, match="2 generators for 1 pictures"):
        pipelines.guided_sample(pipe, PROMPT, generator=[seed(), seed()])
    with pytest.raises(ValueError, match="generator is"):
        pipelines.guided_sample(pipe, PROMPT, generator=(3,))
    listed, tupled = (ours(pipe, prompt=[PROMPT] * 2, generator=kind([seed(1), seed(2)]))[-1].latents for kind in (list, tuple))
    assert torch.equal(listed, tupled) and not torch.equal(listed[0], listed[1])
    for steps in (np.int64(3), torch.tensor(3)):
        assert len(ours(pipe, num_inference_steps=steps)) == 3
    for steps in (True, np.float32(3), torch.tensor(True)):
        with pytest.raises(ValueError, match="num_inference_steps is"):
            pipelines.guided_sample(pipe, PROMPT, num_inference_steps=steps)


def test_a_source_of_another_size(pipes):
    pipe = pipes["SD 1.5"]
    source = Source.from_states(pipe, ours(pipe, height=24), PROMPT)
    objective = rg.AppearanceObjective(head=make_head(pipe, 0), source=source)
    with pytest.raises(ValueError, match="24"):
        pipelines.guided_sample(pipe, PROMPT, [objective], num_inference_steps=4)


def test_schedulers_that_do_not_suit(pipes):
    flow = pipes["SD3"].scheduler
    for kind, scheduler, message in (
            ("SD 1.5", flow, "is set for flow matching, but the model predicts by epsilon"),
            ("SD3", pipes["SD 1.5"].scheduler, "the model predicts by flow matching"),
            ("SD 2.1", pipes["SD 1.5"].scheduler, "v_prediction"), ("SD 1.5", "euler", "has no set_timesteps"),
            ("FLUX", diffusers.FlowMatchHeunDiscreteScheduler(), "cannot be told its sigmas")):
        with pytest.raises(ValueError, match=message):
            pipelines.guided_sample(pipes[kind], PROMPT, scheduler=scheduler)
    with pytest.raises(ValueError, match="timestep_spacing is 'trailing', but FlowMatchEuler.* leave it out"):
        pipelines.guided_sample(pipes["SD3"], PROMPT, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="timestep_spacing is 'middle'.*'leading', 'trailing' or 'linspace'"):
        pipelines.guided_sample(pipes["SD 1.5"], PROMPT, timestep_spacing="middle")


UNSUPPORTED = {"Kandinsky": tiny.tiny_kandinsky_pipe, "DeepFloyd IF": tiny.tiny_if_pipe, "UNetMotionModel": tiny.tiny_animate_pipe,
               "UNetSpatioTemporal": tiny.tiny_video_pipe, "UNet2DModel": tiny.tiny_ddpm_pipe, "FLUX Fill": tiny.tiny_fill_pipe,
               "Linear": lambda: SimpleNamespace(unet=torch.nn.Linear(1, 1))}


def test_what_is_not_supported_says_so_at_once():
    head = make_head(tiny.tiny_pipe())
    for reason, build in UNSUPPORTED.items():
        pipe = build()
        for call in (denoiser, pipelines.prepare_pipeline, lambda pipe: pipelines.guided_sample(pipe, PROMPT),
                     lambda pipe: pipelines.invert(pipe, PICTURE), lambda pipe: train_head(head, pipe, [], 1)):
            with pytest.raises(ValueError, match=f"is not supported: .*{reason}"):
                call(pipe)



def test_a_guided_step_does_not_ask_for_the_number_format_once_a_weight(monkeypatch):
    """diffusers looks through all modules for it: asked for each of the weights, it took longer than the network itself."""
    pipe, asked = load_pipeline(), []
    own = type(pipe.unet).dtype.fget
    monkeypatch.setattr(type(pipe.unet), "dtype", property(lambda network: asked.append(1) or own(network)))
    objective = pose_objective(new_head(pipe, "pose"), torch.full((14, 2), 64.0))
    list(guided_sample(pipe, "a puppet", [objective], num_inference_steps=2, generator=torch.Generator().manual_seed(0)))
    assert 0 < len(asked) < 40, len(asked)


LATENTS = torch.randn(1, 4, 16, 16, generator=seed())


@pytest.mark.parametrize("noise, eta, said", [
    (torch.randn(2, 3, 4, 16, 16), 1.0, r"pass a tensor of floats .2, 1 or 1, 4, 16, 16."), (torch.zeros(2), 1.0, "pass a tensor of floats"),
    (3, 1.0, "variance_noise is 3"), (torch.randn(3, 1, 4, 16, 16), 1.0, "holds 3 steps of noise, not 2"),
    (torch.full((2, 1, 4, 16, 16), float("nan")), 1.0, "NaN"), (torch.zeros(2, 1, 4, 16, 16, dtype=torch.long), 1.0, "floats"),
    (torch.randn(2, 1, 4, 16, 16), 0.0, "eta is 0, which adds no noise")])
def test_noise_of_the_steps_is_as_the_latents_are(pipe, noise, eta, said):
    with pytest.raises(ValueError, match=said):
        guided_sample(pipe, PROMPT, latents=LATENTS, num_inference_steps=2, eta=eta, variance_noise=noise)


@pytest.mark.parametrize("generator, said", [("x", "generator is 'x'"), ([seed(), seed(), seed()], "3 generators for 1 pictures"), (5, "generator is 5")])
def test_generators_are_looked_at_beside_latents(pipe, generator, said):
    with pytest.raises(ValueError, match=said):
        guided_sample(pipe, PROMPT, latents=LATENTS, num_inference_steps=2, eta=1.0, generator=generator)


def test_a_negative_prompt_is_given_once(pipe):
    embeds = pipelines.encode_prompts(pipe, "x").prompt_embeds
    with pytest.raises(ValueError, match="negative_prompt is 'red' beside negative_prompt_embeds"):
        guided_sample(pipe, PROMPT, negative_prompt="red", negative_prompt_embeds=embeds, num_inference_steps=2)


@pytest.mark.parametrize("made, said", [(lambda config: diffusers.DDIMScheduler(), "another noise schedule"),
                                        (lambda config: diffusers.EulerDiscreteScheduler(), "another noise schedule"),
                                        (lambda config: diffusers.CogVideoXDDIMScheduler.from_config(config), "another noise schedule"),      # in float64
                                        (lambda config: diffusers.DDIMScheduler.from_config(config, num_train_timesteps=500), "another noise schedule"),
                                        (lambda config: diffusers.IPNDMScheduler.from_config(config), "has no noise schedule by betas")])
def test_a_scheduler_has_the_noise_that_the_model_learned(pipe, made, said):
    with pytest.raises(ValueError, match=said):
        guided_sample(pipe, PROMPT, num_inference_steps=2, scheduler=made(pipe.scheduler.config))


def test_no_step_is_beyond_the_last_timestep(pipe):
    with pytest.raises(ValueError, match="num_inference_steps is 1000, with which DDIMScheduler begins at timestep 1000 of at most 999"):
        guided_sample(pipe, PROMPT, num_inference_steps=1000, scheduler=diffusers.DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=1))
    guided_sample(pipe, PROMPT, num_inference_steps=1000, timestep_spacing="trailing")


def test_states_are_those_of_one_run_of_this_model(pipe):
    states, other = ([*invert(each, latents=LATENTS, num_inference_steps=2)] for each in (pipe, tiny.tiny_pipe(unet=dict(norm_num_groups=8))))
    with pytest.raises(ValueError, match="another model"):
        Source.from_states(pipe, other)
    with pytest.raises(ValueError, match="step 0 more than once"):
        Source.from_states(pipe, states + states)
    source = Source.from_states(pipe, states, ["a", "a puppet"])
    aim = AppearanceObjective(head=make_head(pipe, 0), source=source, start=0.5, stop=1.0)
    with pytest.raises(ValueError, match="source has 2 prompts for 1 pictures"):
        guided_sample(pipe, PROMPT, [aim], latents=source.start, num_inference_steps=2)


# ---- fewer layers ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["SD 1.5", "SDXL, deep", "SD3", "FLUX"])
def test_with_read_layers_the_rest_of_the_network_is_neither_read_nor_run_with_gradient(kind):
    """A head of the first layers: its readout is that of a whole one whose other layers do not count, the gradient is the same
    whether the pass runs on or not, and what comes behind runs without gradient only."""
    pipe = KINDS[kind]()
    whole = make_head(pipe)
    pipe.read_layers = len(denoiser(pipe).layers) - 1
    model, head = denoiser(pipe), make_head(pipe)
    assert len(model.layers) == len(model.names) == len(model.sizes()) == len(head.config.layer_channels) == pipe.read_layers
    head.load_state_dict({name: value[:pipe.read_layers] if name == "mixing_weights" else value for name, value in whole.state_dict().items()
                          if f"bottleneck_layers.{pipe.read_layers}." not in name})
    target, ran, found = torch.zeros(1, 2, 4, 4), [], {}
    model.network.get_submodule(model.unread[0]).register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))

    def guided(objective):
        ran.clear()
        return ours(pipe, [objective], step_size=0.1)[-1].latents

    objective = rg.SpatialObjective(head=head, target=target)
    for pipe.stop_early in (False, True):
        found[pipe.stop_early] = guided(objective)
        assert any(ran) is not pipe.stop_early and not all(ran)
    assert torch.equal(found[False], found[True]) and not torch.equal(found[False], ours(pipe)[-1].latents)
    del pipe.read_layers
    pipe.stop_early = False
    with torch.no_grad():
        whole.mixing_weights[-1] = -60.0
    torch.testing.assert_close(guided(rg.SpatialObjective(head=whole, target=target)), found[False])


def test_a_head_and_read_layers_that_differ_are_refused_with_the_remedy(pipes):
    pipe = tiny.tiny_pipe()
    count = len(denoiser(pipe).layers)
    whole = make_head(pipe)
    pipe.read_layers = count - 1
    short = make_head(pipe)
    with pytest.raises(ValueError, match=f"reads the first {count} layers, but {count - 1} of {count} are read; set pipe.read_layers = None"):
        ours(pipe, [rg.SpatialObjective(head=whole, target=torch.zeros(1, 2, 4, 4))])
    pipe.read_layers = None
    with pytest.raises(ValueError, match=f"reads the first {count - 1} layers, .* set pipe.read_layers = {count - 1}, or load a head"):
        ours(pipe, [rg.SpatialObjective(head=short, target=torch.zeros(1, 2, 4, 4))])


@pytest.mark.parametrize("count", [0, -1, 99, 1.5, True, "two"])
def test_read_layers_that_are_no_number_of_layers_are_refused(count):
    pipe = tiny.tiny_pipe()
    pipe.read_layers = count
    with pytest.raises(ValueError, match="pipe.read_layers"):
        denoiser(pipe)


# ---- what is the same at every size, in every format ---------------------------------------------------------------------

def test_a_picture_of_another_size_is_inverted_along_the_timesteps_that_it_is_sampled_with():
    """FLUX shifts its schedule by the number of tokens."""
    pipe = tiny.tiny_flux_pipe()
    states = list(invert(pipe, torch.rand(1, 3, 48, 32, generator=seed()), PROMPT, num_inference_steps=4, fixed_point_iterations=30))
    again = list(guided_sample(pipe, PROMPT, latents=states[-1].latents, num_inference_steps=4, guidance_scale=1.0))
    assert [state.timestep for state in states] == [state.timestep for state in again][::-1]
    torch.testing.assert_close(again[-1].latents, pipelines.encode(pipe, torch.rand(1, 3, 48, 32, generator=seed())), atol=1e-4, rtol=1e-4)
    Source.from_states(pipe, states, PROMPT)(again[0].timestep)


def test_a_source_and_a_training_tell_the_model_the_size_of_their_picture(monkeypatch):
    pipe = tiny.tiny_xl_pipe()
    states = list(guided_sample(pipe, PROMPT, height=48, width=48, num_inference_steps=3, generator=seed()))
    assert Source.from_states(pipe, states, PROMPT).conditioning.added["time_ids"].tolist() == [[48, 48, 0, 0, 48, 48]]
    assert Source.from_picture(pipe, torch.rand(1, 3, 48, 32), PROMPT).conditioning.added["time_ids"].tolist() == [[48, 32, 0, 0, 48, 32]]
    told = []
    own = type(denoiser(pipe)).forward
    monkeypatch.setattr(type(denoiser(pipe)), "forward", lambda self, latents, t, embeds, added=None, *rest: told.append(
        added["time_ids"][0].tolist()) or own(self, latents, t, embeds, added, *rest))
    batches = [(torch.rand(1, 3, side, 48), torch.rand(1, 2, side // 4, 12)) for side in (48, 48, 32)]
    assert len(list(train_head(make_head(pipe), pipe, batches, 3))) == 3
    assert told == [[48, 48, 0, 0, 48, 48]] * 2 + [[32, 48, 0, 0, 32, 48]]


def test_noise_of_the_steps_and_generators_come_in_any_form_with_any_scheduler(pipe):
    half = tiny.tiny_pipe().to(torch.bfloat16)
    half.scheduler = diffusers.DDIMScheduler.from_config(half.scheduler.config, clip_sample=True)
    noise = torch.randn(3, 1, 4, 16, 16, generator=seed())
    assert pipelines.sample(half, PROMPT, num_inference_steps=3, eta=0.5, variance_noise=noise, generator=seed())[1].dtype == torch.bfloat16
    ancestral = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    one, other = (pipelines.sample(pipe, [PROMPT] * 2, num_inference_steps=3, generator=kind((seed(0), seed(1))), scheduler=ancestral)[1]
                  for kind in (tuple, list))
    assert torch.equal(one, other)


@pytest.mark.parametrize("call, said", [
    (lambda pipe: pipelines.read_picture(pipe, PICTURE, 300, Conditioning(torch.randn(1, 16, 99))), r"prompt_embeds have shape \(1, 16, 99\)"),
    (lambda pipe: Source.from_picture(pipe, PICTURE, Conditioning(torch.randn(1, 16, 99))), r"prompt_embeds have shape \(1, 16, 99\)"),
    (lambda pipe: guided_sample(pipe, prompt_embeds=np.zeros((1, 16, 32), "float32")), "prompt_embeds is ndarray of shape"),
    (lambda pipe: guided_sample(pipe, prompt_embeds=[[0.0]]), "prompt_embeds is .*pass a tensor of floats"),
    (lambda pipe: guided_sample(pipe, prompt_embeds=True), "prompt_embeds is True"),
    (lambda pipe: guided_sample(pipe, PROMPT, clip_skip=1, stepsize=0.1), "takes no clip_skip, stepsize; .* step_size, .*make use in its own call"),
    (lambda pipe: pipelines.sample(pipe, PROMPT, strength=0.5), "takes no strength; .*StableDiffusionPipeline takes besides, .*GuidanceCallback"),
    (lambda pipe: guided_sample(pipe, prompt_embeds=torch.zeros(16, 32)), r"prompt_embeds is Tensor of shape \(16, 32\).*B, L, D"),
    (lambda pipe: guided_sample(pipe, prompt_embeds=torch.full((1, 16, 32), float("nan"))), "prompt_embeds holds NaN or infinity; encode the prompt again"),
    (lambda pipe: guided_sample(pipe, PROMPT, num_inference_steps=2, scheduler=diffusers.PNDMScheduler.from_config(pipe.scheduler.config)),
     "num_inference_steps is 2, which PNDMScheduler cannot do"),
    (lambda pipe: guided_sample(pipe, PROMPT, scheduler=diffusers.RePaintScheduler.from_config(pipe.scheduler.config)), "RePaintScheduler has to be told original_image, mask"),
    (lambda pipe: pipelines.read_picture(pipe.unet, latents=LATENTS, timestep=3), "a bare UNet2DConditionModel has no scheduler.*pass its pipeline"),
    (lambda pipe: train_head(make_head(pipe), pipe.unet, [], 3), "a bare UNet2DConditionModel has no scheduler"),
    (lambda pipe: train_head(None, pipe, [], 3), "head is None: pass a ReadoutHead"), (lambda pipe: train_head("head", pipe, [], 3), "head is 'head'"),
    (lambda pipe: pose_objective(None, torch.full((14, 2), 9.0)), "head is None: pass a ReadoutHead"),
    (lambda pipe: keypoint_objective(None, torch.full((14, 2), 9.0), 32), "head is None: pass a ReadoutHead"),
    (lambda pipe: guided_sample(pipe, PROMPT, latents=torch.empty(1, 4, 16, 16, device="meta")), "initial latents are Tensor"),
    (lambda pipe: guided_sample(pipe, PROMPT, latents=torch.zeros(1, 4, 16, 16).to_sparse()), "initial latents are Tensor"),
    (lambda pipe: spatial(pipe, mask=torch.ones(1, 1, 16, 16).to(torch.float8_e4m3fn)), "mask is Tensor")])
def test_what_no_pass_could_use_is_refused_at_the_door(pipe, call, said):
    with pytest.raises(ValueError, match=said):
        call(pipe)


def test_a_mask_made_in_inference_mode_guides(pipe):
    with torch.inference_mode():
        mask = torch.ones(1, 1, 16, 16)
    made, plain = (pipelines.sample(pipe, PROMPT, [spatial(pipe, **settings)], num_inference_steps=3, generator=seed())[1]
                   for settings in ({"mask": mask}, {"mask": torch.ones(1, 1, 16, 16)}))
    assert torch.equal(made, plain)


@pytest.mark.parametrize("channels", [3, 4])
def test_what_may_move_is_a_mask_of_one_channel(pipe, channels):
    """With one for each channel of the latents the step was longer: its cells were counted once more for each."""
    with pytest.raises(ValueError, match=f"mask is .*pass a mask of one channel, .*not of {channels}"):
        guided_sample(pipe, PROMPT, [spatial(pipe)], num_inference_steps=3, mask=torch.ones(1, channels, 16, 16))


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_a_scheduler_that_goes_to_noise_does_not_sample(pipe, name):
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=f"{name} goes from the picture to noise, its timesteps rise; .* use invert"):
        guided_sample(pipe, PROMPT, num_inference_steps=6, scheduler=scheduler, generator=seed())


@pytest.mark.parametrize("steps", [3, 24, 50])
def test_new_noise_is_finite_with_zero_terminal_snr(pipes, steps):
    """There 1 - alpha - std ** 2 is 0, and below it by rounding."""
    states = guided_sample(pipes["SD 2.1"], PROMPT, num_inference_steps=steps, eta=1.0, generator=seed())
    assert next(states).latents.isfinite().all()


def test_a_negative_prompt_that_nothing_asks_about_is_refused(pipe):
    picture = torch.rand(1, 3, 32, 32, generator=seed())
    for run in (lambda **told: invert(pipe, picture, PROMPT, num_inference_steps=2, **told),
                lambda **told: guided_sample(pipe, PROMPT, num_inference_steps=2, generator=seed(), **{"guidance_scale": 1.0, **told})):
        with pytest.raises(ValueError, match="negative_prompt is 'a red hat', but with guidance_scale 1 the model is not asked"):
            run(negative_prompt="a red hat")
        for told in ({"negative_prompt": ""}, {"negative_prompt": [""]}, {"negative_prompt": "a red hat", "guidance_scale": 3.0}):
            next(run(**told))
    with pytest.raises(ValueError, match="negative_prompt_2 is 'a red hat', but with guidance_scale 1"):
        guided_sample(tiny.tiny_xl_pipe(), PROMPT, negative_prompt_2="a red hat", guidance_scale=1.0)
    next(guided_sample(pipe, PROMPT, [spatial(pipe)], num_inference_steps=2, generator=seed(), guidance_scale=1.0, gradient_branch="both",
                       negative_prompt="a red hat"))


def test_of_several_controlnets_none_is_taken_for_one():
    pipe = tiny.tiny_control_pipe()
    pipe.controlnet = diffusers.MultiControlNetModel([pipe.controlnet] * 2) if hasattr(diffusers, "MultiControlNetModel") else SimpleNamespace(
        nets=[pipe.controlnet] * 2)
    with pytest.raises(ValueError, match="has 2 ControlNets, and this takes one"):
        pipelines.controlled(pipe, PROMPT, torch.rand(1, 3, 32, 32))


def test_a_source_follows_its_pipeline_into_another_number_format():
    pipe = tiny.tiny_pipe()
    states = list(guided_sample(pipe, PROMPT, num_inference_steps=2, generator=seed()))
    source = Source.from_states(pipe, states, PROMPT)
    pipe.to(torch.bfloat16)
    assert all(each.dtype == torch.bfloat16 for each in source(states[0].timestep).features)
    with pytest.raises(ValueError, match="timestep is Tensor of shape .2,.* one timestep at a time"):
        source(torch.tensor([100, 300]))


@pytest.mark.parametrize("kind", ["SD 1.5", "SDXL", "SD3", "FLUX"])
def test_without_text_encoders_a_prompt_is_refused_and_what_was_encoded_before_is_taken(kind):
    """Who needs their memory takes them away when all prompts are encoded."""
    pipe = KINDS[kind]()
    told, given = pipelines.encode_prompts(pipe, "a puppet"), {"num_inference_steps": 2, "generator": seed()}
    expected = pipelines.sample(pipe, "a puppet", **given)[1]
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if hasattr(pipe, name):
            setattr(pipe, name, None)
    assert torch.equal(pipelines.sample(pipe, told, **given | {"generator": seed()})[1], expected)
    for prompt in ({"prompt": "a puppet"}, {"prompt": ""}):
        with pytest.raises(ValueError, match="has no text encoder; pass prompt_embeds"):
            pipelines.sample(pipe, **prompt, **given)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_without_numbers_are_refused_by_name(part):
    pipe = tiny.tiny_pipe()
    getattr(pipe, part).to("meta")
    for call in (lambda: pipelines.sample(pipe, "a puppet"), lambda: pipelines.encode_prompts(pipe, "a puppet")):
        with pytest.raises(ValueError, match=f"weights of the {part} .* on the meta device"):
            call()
