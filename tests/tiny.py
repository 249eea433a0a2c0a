"""Random pipelines of a few thousand weights in diffusers' own classes, built in a blink, for tests of the core."""
import diffusers
import torch
from diffusers import (AutoencoderKL, ControlNetModel, DDIMScheduler, DPMSolverMultistepScheduler,
                       FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, LCMScheduler, PixArtTransformer2DModel,
                       SD3Transformer2DModel, StableDiffusionPipeline, StableDiffusionXLPipeline, T2IAdapter,
                       UNet2DConditionModel, VQModel)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast, T5Config,
                          T5EncoderModel)

from rg_minimal.readout import HeadConfig, SpatialObjective
from rg_minimal.saving import ReadoutHead

WORDS = "a puppet with red blue shirt is waving jumping in the park".split()
TEXT = dict(hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=32,
            max_position_embeddings=16, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=2)


def tiny_tokenizer():
    """Word-level, as the shipped model's: unknown words become <unk>."""
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   unk_token="<unk>", model_max_length=16)


def tiny_scheduler(**settings):
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, **settings)


def tiny_vae(**settings):
    return AutoencoderKL(**{**dict(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, sample_size=32), **settings})


UNET = dict(
    sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32, attention_head_dim=4)
XL = dict(cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
          projection_class_embeddings_input_dim=6 * 8 + 32)
DEEP = dict(block_out_channels=(8, 16, 16), transformer_layers_per_block=(1, 2, 2), attention_head_dim=(2, 4, 4),
            use_linear_projection=True, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))


def tiny_unet(**settings):
    return UNet2DConditionModel(**{**UNET, **settings})


def tiny_pipe(prediction_type="epsilon", unet=(), vae=(), **scheduler):
    """Stable Diffusion: latents 4 x 16 x 16, pictures 32 x 32."""
    torch.manual_seed(0)
    return _ready(StableDiffusionPipeline(
        vae=tiny_vae(**dict(vae)), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)), tokenizer=tiny_tokenizer(),
        unet=tiny_unet(**dict(unet)), scheduler=tiny_scheduler(prediction_type=prediction_type, **scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False))


def tiny_xl_pipe(unet=(), vae=()):
    """Stable Diffusion XL: two text encoders, pooled text and sizes as added conditions."""
    torch.manual_seed(0)
    return _ready(StableDiffusionXLPipeline(
        vae=tiny_vae(**dict(vae)), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)), tokenizer=tiny_tokenizer(),
        unet=tiny_unet(**{**XL, **dict(unet)}), text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)),
        tokenizer_2=tiny_tokenizer(), scheduler=tiny_scheduler(), add_watermarker=False))


def tiny_sd3_pipe():
    """Stable Diffusion 3: three text encoders, blocks that return (text, picture)."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4, pos_embed_max_size=16)
    return _ready(diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=tiny_vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), tokenizer=tiny_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), tokenizer_2=tiny_tokenizer(),
        text_encoder_3=tiny_t5(64), tokenizer_3=tiny_tokenizer()))


def tiny_flux_pipe(guidance_embeds=True):
    """FLUX: packed latents, double and single blocks, the guidance scale as an input."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 2, 2))
    pipe = diffusers.FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=tiny_vae(shift_factor=0.1, scaling_factor=0.4), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=tiny_tokenizer(), text_encoder_2=tiny_t5(32), tokenizer_2=tiny_tokenizer())
    pipe.default_sample_size = 16
    return _ready(pipe)


def tiny_pixart_pipe():
    """PixArt-Sigma: noise and a variance predicted, T5 with a mask."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4, in_channels=4, out_channels=8,
        cross_attention_dim=32, caption_channels=32, use_additional_conditions=False, attention_bias=True, norm_num_groups=4)
    return _ready(diffusers.PixArtSigmaPipeline(
        transformer=transformer, vae=tiny_vae(), text_encoder=tiny_t5(32), tokenizer=tiny_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)))


def tiny_t5(width):
    return T5EncoderModel(T5Config(vocab_size=32, d_model=width, d_kv=8, d_ff=37, num_layers=1, num_heads=4))


def tiny_controlnet(**settings):
    """A ControlNet whose residuals are not zero, as they are at birth."""
    kept = {key: value for key, value in {**UNET, **settings}.items() if key not in ("sample_size", "out_channels", "up_block_types")}
    control = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **kept)
    _shake([*control.controlnet_down_blocks, control.controlnet_mid_block, control.controlnet_cond_embedding.conv_out])
    return control.eval()


def as_(pipe, name, **more):
    """The same parts in another of diffusers' pipelines, by its name."""
    parts = {key: part for key, part in pipe.components.items() if key != "image_encoder" or part is not None}
    if "XL" not in name and hasattr(pipe, "safety_checker"):
        more["requires_safety_checker"] = False
    if "XL" in name:
        parts = {key: part for key, part in parts.items() if key != "feature_extractor"}
    return _ready(getattr(diffusers, name)(**parts, **more))


def tiny_control_pipe():
    return as_(tiny_pipe(), "StableDiffusionControlNetPipeline", controlnet=tiny_controlnet())


def tiny_xl_control_pipe():
    return as_(tiny_xl_pipe(), "StableDiffusionXLControlNetPipeline", controlnet=tiny_controlnet(**XL))


def tiny_lcm_pipe():
    """A latent consistency model: the guidance scale is embedded."""
    pipe = tiny_pipe(unet=dict(time_cond_proj_dim=16))
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return as_(pipe, "LatentConsistencyModelPipeline")


def tiny_pix2pix_pipe():
    return as_(tiny_pipe(unet=dict(in_channels=8)), "StableDiffusionInstructPix2PixPipeline")


def tiny_inpaint_pipe(channels=4):
    """Four channels mix by the mask after each step; nine tell the UNet mask and masked picture."""
    return as_(tiny_pipe(unet=dict(in_channels=channels)), "StableDiffusionInpaintPipeline")


def tiny_refiner_pipe():
    """SDXL's refiner: one text encoder, five numbers as added ids, pictures to pictures."""
    base = tiny_xl_pipe(unet=dict(cross_attention_dim=32, projection_class_embeddings_input_dim=5 * 8 + 32))
    base.text_encoder = base.tokenizer = None
    return as_(base, "StableDiffusionXLImg2ImgPipeline", requires_aesthetics_score=True)


def tiny_pag_pipe():
    return as_(tiny_pipe(), "StableDiffusionPAGPipeline", pag_applied_layers=["mid", "up"])


def tiny_adapter_pipe():
    adapter = T2IAdapter(channels=(16, 32), num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter")
    blocks = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return as_(tiny_pipe(unet=blocks), "StableDiffusionAdapterPipeline", adapter=adapter.eval())


def tiny_ip_pipe():
    """An IP-Adapter: four tokens of a picture's embedding (8 numbers) beside the text."""
    pipe, weights = tiny_pipe(), {}
    for index, (name, processor) in enumerate(pipe.unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            hidden = 32                             # all cross-attention lies in the lower resolution
            weights |= {f"{index}.{key}.weight": torch.randn(hidden, 32) * 0.5 for key in ("to_k_ip", "to_v_ip")}
    proj = {"proj.weight": torch.randn(128, 8), "proj.bias": torch.zeros(128), "norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    pipe.unet._load_ip_adapter_weights([{"image_proj": proj, "ip_adapter": weights}])
    pipe.set_ip_adapter_scale(1.0)
    return pipe


# ---- what is not supported ---------------------------------------------------------------------------------------------

def tiny_kandinsky_pipe():
    unet = tiny_unet(encoder_hid_dim_type="image_proj", encoder_hid_dim=8, addition_embed_type="image")
    movq = VQModel(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                   up_block_types=("UpDecoderBlock2D",) * 2)
    return diffusers.KandinskyV22Pipeline(unet=unet, scheduler=tiny_scheduler(), movq=movq)


def tiny_if_pipe():
    return diffusers.IFPipeline(None, None, tiny_unet(), tiny_scheduler(), None, None, None, requires_safety_checker=False)


def tiny_animate_pipe():
    pipe = tiny_pipe()
    adapter = diffusers.MotionAdapter(block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4,
                                      motion_num_attention_heads=2)
    return diffusers.AnimateDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, adapter, pipe.scheduler)


def tiny_video_pipe():
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, num_attention_heads=(2, 4), cross_attention_dim=32,
        projection_class_embeddings_input_dim=96, addition_time_embed_dim=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"))
    return diffusers.StableVideoDiffusionPipeline(tiny_vae(), None, unet, tiny_scheduler(), None)


def tiny_ddpm_pipe():
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1,
                                 down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())


def tiny_fill_pipe():
    """FLUX Fill: the transformer takes a masked picture beside the latents."""
    pipe = tiny_flux_pipe()
    pipe.transformer = FluxTransformer2DModel(**{**pipe.transformer.config, "in_channels": 32, "out_channels": 16})
    return pipe


def _shake(modules):
    for module in modules:
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.3)


def _ready(pipe):
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- what the tests of the core share ----------------------------------------------------------------------------------

def seed(value=0):
    return torch.Generator().manual_seed(value)


def make_head(pipe, out_channels=2, **settings):
    torch.manual_seed(1)
    settings = {"width": 32, "num_groups": 4, "hidden_channels": (8, 8), "activation": "none", **settings}
    return ReadoutHead(HeadConfig.for_model(pipe, out_channels=out_channels, **settings)).eval()


def spatial(pipe, **settings):
    """An objective for a random head, over all steps."""
    target = torch.zeros(1, 2, 8, 8)
    target[:, :, 2:5, 3:6] = 1
    return SpatialObjective(head=make_head(pipe), **{"target": target, "stop": 1.0, **settings})
