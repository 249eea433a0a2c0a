"""The callback in diffusers' own pipelines: what it reads is what the pipeline's own pass has, and it guides."""
import gc
from functools import partial
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback

import tiny
from rg_minimal import pipelines, readout as rg
from rg_minimal.callback import GuidanceCallback
from rg_minimal.denoisers import denoiser, pack, scheduler_step, will_take_moves
from tiny import as_, make_head, seed, spatial

PROMPT = "a puppet is waving"
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
MASK = torch.zeros(1, 1, 32, 32)
MASK[..., 8:24, 8:24] = 1
EMBEDS = [torch.cat([torch.zeros(1, 1, 8), torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(4))])]

# pipeline, what its call takes beside the prompt, and where the conditional branch stands among how many
PIPELINES = {
    "SD": (tiny.tiny_pipe, {}, 1, 2),
    "SD without CFG": (tiny.tiny_pipe, {"guidance_scale": 1.0}, 0, 1),
    "SDXL": (tiny.tiny_xl_pipe, {}, 1, 2),
    "img2img": (lambda: as_(tiny.tiny_pipe(), "StableDiffusionImg2ImgPipeline"), {"image": IMAGE, "strength": 0.8}, 1, 2),
    "inpainting": (tiny.tiny_inpaint_pipe, {"image": IMAGE, "mask_image": MASK, "height": 32, "width": 32, "strength": 0.8}, 1, 2),
    "inpainting, 9 channels": (lambda: tiny.tiny_inpaint_pipe(9), {
        "image": IMAGE, "mask_image": MASK, "height": 32, "width": 32}, 1, 2),
    "SDXL img2img": (lambda: as_(tiny.tiny_xl_pipe(), "StableDiffusionXLImg2ImgPipeline"), {"image": IMAGE, "strength": 0.8}, 1, 2),
    "SDXL refiner": (tiny.tiny_refiner_pipe, {"image": IMAGE, "strength": 0.8}, 1, 2),
    "SDXL inpainting": (lambda: as_(tiny.tiny_xl_pipe(), "StableDiffusionXLInpaintPipeline"), {
        "image": IMAGE, "mask_image": MASK, "height": 32, "width": 32, "strength": 0.8}, 1, 2),
    "ControlNet": (tiny.tiny_control_pipe, {"image": IMAGE}, 1, 2),
    "SDXL ControlNet": (tiny.tiny_xl_control_pipe, {"image": IMAGE}, 1, 2),
    "IP-Adapter": (tiny.tiny_ip_pipe, {"ip_adapter_image_embeds": EMBEDS}, 1, 2),
    "PAG": (tiny.tiny_pag_pipe, {"pag_scale": 3.0}, 1, 3),
    "PAG without CFG": (tiny.tiny_pag_pipe, {"pag_scale": 3.0, "guidance_scale": 0.0}, 0, 2),
    "InstructPix2Pix": (tiny.tiny_pix2pix_pipe, {"image": IMAGE}, 0, 3),
    "LCM": (tiny.tiny_lcm_pipe, {}, 0, 1),
    "T2I-Adapter": (tiny.tiny_adapter_pipe, {"image": IMAGE, "height": 32, "width": 32}, 1, 2),
    "PixArt": (tiny.tiny_pixart_pipe, {"use_resolution_binning": False}, 1, 2),
    "SD3": (tiny.tiny_sd3_pipe, {}, 1, 2),
    "FLUX": (tiny.tiny_flux_pipe, {}, 0, 1)}


@pytest.fixture(scope="module")
def pipes():
    return {name: build() for name, (build, *_) in PIPELINES.items()}


@pytest.fixture(scope="module")
def pipe(pipes):
    return pipes["SD"]


def call(pipe, guidance, settings=(), prompt=PROMPT, **more):
    """The pipeline's own call, in the new form or the old; latents."""
    settings = {"num_inference_steps": 6, "generator": seed(), "output_type": "latent", **dict(settings), **more}
    if type(pipe).__name__ in ("PixArtSigmaPipeline", "StableDiffusionAdapterPipeline"):
        return pipe(prompt, callback=guidance.in_place(pipe), **settings).images
    return pipe(prompt, callback_on_step_end=guidance, **settings).images


class Witness(rg.SpatialObjective):
    """An objective that remembers the readings."""

    def __call__(self, reading):
        self.readings.append(SimpleNamespace(timestep=reading.timestep, branch=reading.branch, latents=reading.latents.detach(),
                                             features=[each.detach() for each in reading.features], output=reading.output.detach()))
        return super().__call__(reading)


def witness(pipe, **settings):
    objective = Witness(**{name: getattr(spatial(pipe), name) for name in ("head", "target")}, **{"stop": 1.0, **settings})
    objective.readings = []
    return objective


def listen(pipe):
    """What the denoiser is given, what its layers and the denoiser itself return in each pass, by hooks of our own."""
    model, passes, layers = denoiser(pipe), [], {}
    hooks = [layer.register_forward_hook(lambda module, args, output, i=i: layers.__setitem__(i, output[-1] if isinstance(output, tuple) else output))
             for i, layer in enumerate(model.layers)]

    def end(module, args, kwargs, output):
        given = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        time = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten()[0].item()
        passes.append(SimpleNamespace(given=given.detach().clone(), time=time, grad=given.requires_grad, output=output[0].detach(),
                                      layers=[layers[i].detach() for i in range(len(model.layers))]))
    hooks.append(model.network.register_forward_hook(end, with_kwargs=True))
    return passes, hooks


@pytest.mark.parametrize("name", PIPELINES)
def test_the_reading_is_that_of_the_pipelines_own_pass(pipes, name):
    """At step size 0 nothing is moved: each guided pass is followed by the pipeline's own with the same latents, and the
    conditional rows of that pass are what was read. The result is the unguided one, to the bit."""
    pipe, (_, settings, place, count) = pipes[name], PIPELINES[name]
    objective = witness(pipe)
    settings = {**settings, "num_inference_steps": 4}
    plain = call(pipe, GuidanceCallback([]), settings)
    passes, hooks = listen(pipe)
    try:
        latents = call(pipe, GuidanceCallback([objective], step_size=0.0), settings)
    finally:
        [hook.remove() for hook in hooks]
    assert torch.equal(latents, plain)
    model, own = denoiser(pipe), [each for each in passes if not each.grad]
    assert len(objective.readings) == len(passes) - len(own) == len(own) - 1         # every step but the first
    for reading, (of, index) in zip(objective.readings, [(each, place) for each in own[1:]]):
        rows = slice(index * len(reading.latents), (index + 1) * len(reading.latents))
        assert len(of.given) == count * len(reading.latents)
        given = pack(reading.latents) if of.given.ndim == 3 else reading.latents
        assert torch.equal(given, of.given[rows, :given.shape[1]])
        assert reading.timestep == pytest.approx(of.time * 1000 if name == "FLUX" else of.time)
        for found, layer in zip(reading.features, of.layers):
            expected = model.feature_map(layer, reading.latents)[rows]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(reading.output, of.output[rows, :reading.output.shape[1]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name, inner_steps", [*[(name, 1) for name in PIPELINES], ("SD", 2), ("T2I-Adapter", 2), ("FLUX", 2)])
def test_it_lowers_the_loss_can_be_used_again_and_leaves_nothing(pipes, name, inner_steps):
    pipe, settings = pipes[name], PIPELINES[name][1]
    plain, guided = (GuidanceCallback([spatial(pipe)], step_size=size, inner_steps=inner_steps) for size in (0.0, 0.1))
    settings = {**settings, "num_inference_steps": 4}
    unguided, first, second = (call(pipe, each, settings) for each in (plain, guided, guided))
    assert guided.losses[-1][0] < plain.losses[-1][0] and len(guided.losses) == len(plain.losses)
    assert torch.equal(first, second) and not torch.equal(first, unguided)
    assert not left(pipe)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pass_that_may_end_early_ends_early_and_gives_the_same(pipes, name):
    """To the bit; its end is not reached, by no hook of ours."""
    pipe, settings = pipes[name], {**PIPELINES[name][1], "num_inference_steps": 3}
    model, ends = denoiser(pipe), []
    whole, early = (call(pipe, GuidanceCallback([spatial(pipe)], step_size=0.1), settings) for _ in early_or_not(pipe, model, ends))
    assert torch.equal(whole, early) and not left(pipe)
    assert ends[0].count(True) and not ends[1].count(True) and ends[0].count(False) == ends[1].count(False)


def early_or_not(pipe, model, ends):
    """Twice: with `stop_early` False, then True; `ends` gets a list each time, whether a pass that ended had a gradient."""
    for pipe.stop_early in (False, True):
        ends.append([])
        hook = model.network.register_forward_hook(lambda *_, ended=ends[-1]: ended.append(torch.is_grad_enabled()))
        yield
        hook.remove()
    del pipe.stop_early


def left(pipe):
    gc.collect()
    network = denoiser(pipe).network
    return [hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)] + [
        weight for weight in network.parameters() if weight.grad is not None]


@pytest.mark.parametrize("name", ["SD", "PAG", "InstructPix2Pix", "SD3", "IP-Adapter", "ControlNet"])
def test_of_several_pictures_each_is_guided_by_itself(pipes, name):
    """The rows of the right branch and the right picture: two pictures together give what they give alone."""
    pipe, settings = pipes[name], PIPELINES[name][1]
    noise = torch.randn(3, 4, 16, 16, generator=seed(5))
    targets = torch.rand(3, 2, 8, 8, generator=seed(6))
    more = {"output_type": "latent"} if name != "InstructPix2Pix" else {"output_type": "latent", "generator": None}
    together = GuidanceCallback([spatial(pipe, target=targets)], step_size=0.1)
    three = call(pipe, together, settings, num_images_per_prompt=3, latents=noise, num_inference_steps=3, **more)
    for row in range(3):
        alone = GuidanceCallback([spatial(pipe, target=targets[row:row + 1])], step_size=0.1)
        one = call(pipe, alone, settings, latents=noise[row:row + 1], num_inference_steps=3, **more)
        assert (three[row:row + 1] - one).norm() < 2e-3 * one.norm()                # a random network multiplies rounding
        torch.testing.assert_close(together.losses[0][0][row:row + 1], alone.losses[0][0], atol=1e-5, rtol=1e-4)


# ---- timesteps and intervals -------------------------------------------------------------------------------------------

def test_img2img_is_read_at_the_timesteps_that_the_model_sees(pipes):
    """Strength 0.5 of twelve steps takes the last six; the old callback read 831, 748, 665."""
    pipe, objective = pipes["img2img"], witness(pipes["img2img"], stop=0.75)
    guidance = GuidanceCallback([objective])
    call(pipe, guidance, {"image": IMAGE, "strength": 0.5, "num_inference_steps": 12})
    assert [reading.timestep for reading in objective.readings] == [333, 250, 167]        # of the six the first four, but one
    assert len(guidance.losses) == 3


@pytest.mark.parametrize("name", ["img2img", "T2I-Adapter", "SD"])
@pytest.mark.parametrize("scheduler, evaluations", [("EulerDiscreteScheduler", 1), ("HeunDiscreteScheduler", 2)])
def test_intervals_are_of_the_steps_that_the_pipeline_takes(pipes, name, scheduler, evaluations):
    pipe, settings = pipes[name], {**PIPELINES[name][1], "num_inference_steps": 8}
    before, pipe.scheduler = pipe.scheduler, getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    if name == "img2img":
        settings["strength"] = 0.5
    steps = 4 if name == "img2img" else 8
    objective = witness(pipe, start=0.5, stop=1.0)
    try:
        passes, hooks = listen(pipe)
        call(pipe, GuidanceCallback([objective], step_size=0.1), settings)
        [hook.remove() for hook in hooks]
    finally:
        pipe.scheduler = before
    times = sorted({each.time for each in passes}, reverse=True)
    assert len(times) == steps
    guided = [reading.timestep for reading in objective.readings]
    assert guided == times[steps // 2:] if evaluations == 1 else set(guided) <= set(times[steps // 2 - 1:]) and len(guided) == steps // 2


@pytest.mark.parametrize("kind, scale", [("SD", 1.0), ("SD", 5.0), ("SDXL", 1.0), ("SDXL", 5.0), ("SD3", 7.0), ("FLUX", 3.5)])
def test_the_callback_equals_the_sampler(pipes, kind, scale):
    """The callback cannot guide the first step; from the second on it does what guided_sample does, to the bit."""
    pipe, branch = pipes[kind], "both" if scale > 1 and kind != "FLUX" else "conditional"
    guidance = GuidanceCallback([spatial(pipe, stop=0.5)], gradient_branch=branch)
    latents = call(pipe, guidance, guidance_scale=scale)
    states = list(pipelines.guided_sample(pipe, PROMPT, [spatial(pipe, start=1 / 6, stop=0.5)], guidance_scale=scale, generator=seed(),
                                          gradient_branch=branch, num_inference_steps=6))
    assert torch.equal(latents, pack(states[-1].latents) if kind == "FLUX" else states[-1].latents)
    assert len(guidance.losses) == 2      # of the first three steps the second and the third


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler",
                                  "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_the_callback_equals_the_sampler_with_other_schedulers(pipe, name):
    before = pipe.scheduler
    pipe.scheduler = getattr(diffusers, name).from_config(before.config)
    try:
        guidance = GuidanceCallback([spatial(pipe)])
        latents = call(pipe, guidance)
        count = len(pipe.scheduler.timesteps)
        expected = list(pipelines.guided_sample(pipe, PROMPT, [spatial(pipe, start=1.001 / count)], generator=seed(), num_inference_steps=6,
                                                scheduler=getattr(diffusers, name).from_config(before.config)))
    finally:
        pipe.scheduler = before
    assert len(guidance.losses) == sum(state.losses[0] is not None for state in expected)
    torch.testing.assert_close(latents, expected[-1].latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_a_corrector_does_not_take_the_move_back(pipe, name):
    """UniPC computes the latents anew from those before the step; after a move it must not."""
    latents, one, two = torch.randn(3, 1, 4, 8, 8, generator=seed())
    results = []
    for step in (scheduler_step, lambda scheduler, output, t, latents, *rest: scheduler.step(output, t, latents).prev_sample):
        scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(4)
        first = step(scheduler, one, scheduler.timesteps[0], latents, None, None)
        if results and name.startswith("UniPC"):
            scheduler.last_sample = None                        # what diffusers has for the step after which nothing is corrected
        results.append(step(scheduler, two, scheduler.timesteps[1], first + 1, None, None))
    assert torch.equal(*results)


# ---- other callbacks, errors, interrupts -------------------------------------------------------------------------------

def test_among_other_callbacks(pipe):
    guidance = GuidanceCallback([spatial(pipe)], step_size=0.1)
    assert isinstance(guidance, PipelineCallback) and guidance.tensor_inputs == ["latents"] == guidance.inputs(pipe)
    alone = call(pipe, guidance)
    several = MultiPipelineCallbacks([SDCFGCutoffCallback(cutoff_step_ratio=1.0), guidance])
    assert torch.equal(call(pipe, several), alone)
    cut = call(pipe, MultiPipelineCallbacks([guidance, SDCFGCutoffCallback(cutoff_step_ratio=0.4)]))
    assert not torch.equal(cut, alone) and len(guidance.losses) == 5
    assert torch.equal(call(pipe, guidance, callback_on_step_end_tensor_inputs=["prompt_embeds"]), alone)
    with pytest.raises(ValueError, match="leave callback_on_step_end_tensor_inputs out"):
        call(pipe, lambda *args: guidance(*args), callback_on_step_end_tensor_inputs=["prompt_embeds"])


class Louder(PipelineCallback):
    """Another callback, that changes latents."""
    tensor_inputs = ["latents"]

    def callback_fn(self, pipe, step_index, timestep, callback_kwargs):
        return {"latents": callback_kwargs["latents"] * 1.01}


def test_one_that_changes_latents_comes_before_or_is_refused(pipe):
    guidance = GuidanceCallback([spatial(pipe)], step_size=0.1)
    assert call(pipe, MultiPipelineCallbacks([Louder(), guidance])).isfinite().all() and len(guidance.losses) == 5
    with pytest.raises(ValueError, match="after step 0 did not see .* put GuidanceCallback after"):
        call(pipe, MultiPipelineCallbacks([guidance, Louder()]))
    assert call(pipe, guidance).isfinite().all() and len(guidance.losses) == 5


class Broken(rg.SpatialObjective):
    error: type = RuntimeError

    def __call__(self, reading):
        raise self.error("broken")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["SD", "FLUX", "T2I-Adapter"])
def test_nothing_is_left_after_an_error_in_an_objective(pipes, name, error):
    pipe, objective = pipes[name], spatial(pipes[name])
    broken = Broken(head=objective.head, target=objective.target, stop=1.0)
    broken.error = error
    wanted = [weight.requires_grad for weight in denoiser(pipe).network.parameters()]
    with pytest.raises(error):
        call(pipe, GuidanceCallback([broken]), PIPELINES[name][1])
    assert not left(pipe) and torch.is_grad_enabled()
    assert [weight.requires_grad for weight in denoiser(pipe).network.parameters()] == wanted


@pytest.mark.parametrize("how", ["error", "interrupt", "stop"])
def test_nothing_is_left_after_an_interrupt_between_the_steps(pipe, how):
    guidance = GuidanceCallback([spatial(pipe)], step_size=0.1)
    expected = call(pipe, guidance)

    def breaks(pipe, step, timestep, kwargs):
        kwargs = guidance(pipe, step, timestep, kwargs)
        if step == 2:
            if how == "error":
                raise KeyboardInterrupt
            pipe._interrupt = True
        return kwargs
    if how == "error":
        with pytest.raises(KeyboardInterrupt):
            call(pipe, breaks)
    else:
        call(pipe, breaks)
    assert not left(pipe)
    assert torch.equal(call(pipe, guidance), expected) and len(guidance.losses) == 5


def test_what_does_not_fit_is_said_after_the_first_step(pipes, pipe):
    with pytest.raises(ValueError, match="target has 3 rows for 1 pictures"):
        call(pipe, GuidanceCallback([spatial(pipe, target=torch.zeros(3, 2, 8, 8))]))
    with pytest.raises(ValueError, match="head reads layers"):
        call(pipe, GuidanceCallback([spatial(pipes["SD3"])]))
    with pytest.raises(ValueError, match="no negative branch"):
        call(pipe, GuidanceCallback([spatial(pipe)], gradient_branch="both"), guidance_scale=1.0)
    with pytest.raises(ValueError, match="moves is 'prediction'"):
        GuidanceCallback([spatial(pipe)], moves="prediction")
    with pytest.raises(ValueError, match="is not supported"):
        GuidanceCallback([spatial(pipe)])(SimpleNamespace(unet=torch.nn.Linear(1, 1)), 0, 1, {"latents": torch.zeros(1, 4, 2, 2)})
    assert not left(pipe)


def test_latents_that_overflowed_are_named(pipe):
    """They are not equal to themselves, so nobody else was to blame for what the pass saw."""
    def overflows(pipe, step, timestep, kwargs):
        return guidance(pipe, step, timestep, {**kwargs, "latents": kwargs["latents"] * (float("inf") if step == 1 else 1)})
    guidance = GuidanceCallback([spatial(pipe)])
    with pytest.raises(ValueError, match="latents after step 1: NaN or infinite values. In half precision"):
        call(pipe, overflows)
    assert not left(pipe)


def test_a_source_is_asked_for_the_steps_that_the_pipeline_takes():
    """With denoising_end these are the first of the scheduler's, in img2img the last."""
    pipe = tiny.tiny_xl_pipe()
    states, head = list(pipelines.guided_sample(pipe, PROMPT, num_inference_steps=6, generator=seed())), make_head(pipe, out_channels=0)
    aim = lambda some: GuidanceCallback([rg.AppearanceObjective(head=head, source=pipelines.Source.from_states(pipe, some, PROMPT), stop=1.0)])
    first, last = aim(states[:2]), aim(states[2:])
    call(pipe, first, denoising_end=0.5)
    call(as_(pipe, "StableDiffusionXLImg2ImgPipeline"), last, image=torch.zeros(1, 4, 16, 16), denoising_start=0.5)
    assert (len(first.losses), len(last.losses)) == (1, 3)
    with pytest.raises(ValueError, match="the source has no latents at timestep"):
        call(pipe, last, denoising_end=0.5)


def test_points_of_a_source_in_the_callback(pipe):
    """A relative objective runs the denoiser for its source inside the pass that is read."""
    from rg_minimal.sources import Source
    states = list(pipelines.guided_sample(pipe, PROMPT, generator=seed(9), num_inference_steps=6))
    source = Source.from_states(pipe, states, PROMPT)
    objective = rg.CorrespondenceObjective(head=make_head(pipe, 0), source=source, source_points=[[8, 8]], target_points=[[20, 20]], stop=1.0)
    guidance = GuidanceCallback([objective], step_size=0.1)
    latents = call(pipe, guidance)
    expected = list(pipelines.guided_sample(pipe, PROMPT, [rg.CorrespondenceObjective(
        head=make_head(pipe, 0), source=source, source_points=[[8, 8]], target_points=[[20, 20]], start=1 / 6, stop=1.0)], generator=seed(),
        num_inference_steps=6, step_size=0.1))
    assert torch.equal(latents, expected[-1].latents)


def test_euler_keeps_its_own_size_of_latents():
    pipe = tiny.tiny_pipe()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    losses = []
    for size in (0.0, 0.1):
        guidance = GuidanceCallback([spatial(pipe)], step_size=size)
        call(pipe, guidance)
        losses.append(guidance.losses[-1][0])
    assert losses[1] < losses[0]


SECOND_LOOKS = [("DDIMScheduler", {}), ("HeunDiscreteScheduler", {}), ("KDPM2DiscreteScheduler", {}), ("DPMSolverSinglestepScheduler", {}),
                ("DPMSolverSinglestepScheduler", {"solver_order": 3}), ("PNDMScheduler", {"skip_prk_steps": True}), ("PNDMScheduler", {"skip_prk_steps": False})]


@pytest.mark.parametrize("name, settings", SECOND_LOOKS)
def test_which_steps_take_a_move_is_known_before_the_first(name, settings):
    """As the runs themselves find out, of the sampler and of the callback, also in the part of the steps that img2img takes."""
    pipe = as_(tiny.tiny_pipe(), "StableDiffusionImg2ImgPipeline")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    states = list(pipelines.guided_sample(pipe, PROMPT, [spatial(pipe)], num_inference_steps=8, scheduler=pipe.scheduler, generator=seed()))
    scheduler = denoiser(pipe).scheduler(8, pipe.scheduler)
    assert will_take_moves(scheduler, len(states)) == [state.losses[0] is not None for state in states]
    guidance = GuidanceCallback([spatial(pipe)])
    call(pipe, guidance, image=IMAGE, strength=0.6, num_inference_steps=8)
    assert len(guidance.losses) == sum(will_take_moves(pipe.scheduler, pipe._num_timesteps)[1:])


@pytest.mark.parametrize("name, steps", [("HeunDiscreteScheduler", 3), ("DPMSolverSinglestepScheduler", 4), ("KDPM2DiscreteScheduler", 3)])
def test_an_interval_in_which_no_move_is_taken_is_refused(name, steps):
    """Else the picture comes out as without guidance, and nobody is told."""
    pipe = tiny.tiny_pipe()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="as if nothing were moved .* take more steps"):
        call(pipe, GuidanceCallback([spatial(pipe, stop=0.5)]), num_inference_steps=steps)
    count = len(denoiser(pipe).scheduler(steps, pipe.scheduler).timesteps)
    second = partial(pipelines.guided_sample, pipe, PROMPT, [spatial(pipe, start=1 / count, stop=2 / count)], num_inference_steps=steps,
                     scheduler=pipe.scheduler)
    with pytest.raises(ValueError, match="as if nothing were moved"):
        second()
    assert [state.losses[0] is not None for state in second(moves="prediction")] == [step == 1 for step in range(count)], "a prediction counts"


def test_a_source_of_other_steps_is_refused_before_the_second_pass():
    pipe = tiny.tiny_pipe()
    head, passes = make_head(pipe, out_channels=0), []
    states = list(pipelines.guided_sample(pipe, PROMPT, num_inference_steps=4, generator=seed()))
    source = pipelines.Source.from_states(pipe, states, PROMPT)
    goal = rg.AppearanceObjective(head=head, source=source, start=0.5, stop=1.0)
    hook = pipe.unet.register_forward_pre_hook(lambda *args: passes.append(1))
    for steps, said in ((6, "the source has no latents at timestep"), (4, None)):
        passes.clear()
        run = lambda: pipe(PROMPT, num_inference_steps=steps, output_type="latent", generator=seed(), callback_on_step_end=GuidanceCallback([goal]))
        if said:
            with pytest.raises(ValueError, match=said):
                run()
            assert len(passes) == 1
        else:
            run()
    hook.remove()
