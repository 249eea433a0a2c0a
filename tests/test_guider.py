"""The guider in diffusers' modular loops: classifier-free guidance at step size 0, to the bit, and a lower loss above."""
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.stable_diffusion_3.denoise import StableDiffusion3DenoiseStep
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import (StableDiffusionXLControlNetDenoiseStep,
                                                                     StableDiffusionXLDenoiseStep)

import tiny
from rg_minimal import pipelines
from rg_minimal.denoisers import denoiser
from rg_minimal.guider import ReadoutGuidance
from tiny import seed, spatial

PROMPT, STEPS, SCALE = "a puppet is waving", 5, 7.0
LOOPS = ("SD3", "SDXL", "SDXL ControlNet")


@pytest.fixture(scope="module")
def pipes():
    xl = tiny.tiny_xl_control_pipe()
    return {"SD3": tiny.tiny_sd3_pipe(), "SDXL": xl, "SDXL ControlNet": xl}


def loop(name, pipe, guider, steps=STEPS):
    """Latents after diffusers' own modular denoising loop."""
    block = {"SD3": StableDiffusion3DenoiseStep, "SDXL": StableDiffusionXLDenoiseStep,
             "SDXL ControlNet": StableDiffusionXLControlNetDenoiseStep}[name]()
    modular, state, told = block.init_pipeline(), PipelineState(), pipelines.encode_prompts(pipe, PROMPT)
    parts = {key: part for key, part in pipe.components.items() if key in ("unet", "transformer", "scheduler", "controlnet")}
    modular.update_components(guider=guider, **{key: part for key, part in parts.items() if key in modular._component_specs})
    modular.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(steps)
    pooled = "text_embeds" if name != "SD3" else "pooled_projections"
    fields = {"prompt_embeds": told.prompt_embeds, "negative_prompt_embeds": told.negative_prompt_embeds,
              "pooled_prompt_embeds": told.added[pooled], "negative_pooled_prompt_embeds": told.negative_added[pooled]}
    if name != "SD3":
        fields |= {"add_time_ids": told.added["time_ids"], "negative_add_time_ids": told.negative_added["time_ids"]}
    for key, value in fields.items():
        state.set(key, value, "denoiser_input_fields")
    values = {"timesteps": pipe.scheduler.timesteps, "num_inference_steps": steps, "latents": noise(), "eta": 0.0, "generator": None}
    if name == "SDXL ControlNet":
        values |= {"controlnet_cond": torch.rand(1, 3, 32, 32, generator=seed(2)), "conditioning_scale": 1.0, "guess_mode": False,
                   "controlnet_keep": [1.0] * steps}
    for key, value in values.items():
        state.set(key, value)
    return block(modular, state)[1].get("latents")


def noise():
    return torch.randn(1, 4, 16, 16, generator=seed())


def left(network):
    return [hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)] + [
        weight for weight in network.parameters() if weight.grad is not None] + [key for key in network.__dict__ if key == "forward"]


@pytest.mark.parametrize("name", LOOPS)
def test_it_is_classifier_free_guidance_and_lowers_the_loss(pipes, name):
    pipe = pipes[name]
    plain = loop(name, pipe, ClassifierFreeGuidance(guidance_scale=SCALE))
    zero, guided = (ReadoutGuidance([spatial(pipe)], guidance_scale=SCALE, step_size=size) for size in (0.0, 0.5))
    assert torch.equal(loop(name, pipe, zero), plain)
    first, second = loop(name, pipe, guided), loop(name, pipe, guided)
    assert torch.equal(first, second) and not torch.equal(first, plain)
    assert len(guided.losses) == STEPS and guided.losses[-1][0] < zero.losses[-1][0]
    assert not left(denoiser(pipe).network) and torch.is_grad_enabled()
    assert torch.equal(loop(name, pipe, ReadoutGuidance([], guidance_scale=SCALE)), plain)


@pytest.mark.parametrize("name", ["SD3", "SDXL"])
def test_the_sampler_follows_the_same_rule(pipes, name):
    pipe = pipes[name]
    guider = ReadoutGuidance([spatial(pipe)], guidance_scale=SCALE, step_size=0.3)
    states = list(pipelines.guided_sample(pipe, PROMPT, [spatial(pipe)], moves="prediction", step_size=0.3, latents=noise(),
                                          guidance_scale=SCALE, num_inference_steps=STEPS))
    assert torch.equal(loop(name, pipe, guider), states[-1].latents)
    assert [float(each[0]) for each in guider.losses] == [float(state.losses[0]) for state in states]


def test_a_scheduler_that_evaluates_twice_is_refused(pipes, monkeypatch):
    """Of its 2 n - 1 passes the last n - 1 were not guided, whatever the interval, and nobody was told."""
    pipe = pipes["SD3"]
    monkeypatch.setattr(pipe, "scheduler", FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config))
    with pytest.raises(ValueError, match=f"goes on after its {STEPS} steps.* evaluates once, or guided_sample"):
        loop("SD3", pipe, ReadoutGuidance([spatial(pipe)], guidance_scale=SCALE))
    assert loop("SD3", pipe, ReadoutGuidance([], guidance_scale=SCALE)).isfinite().all()


def test_intervals_and_a_pass_no_more_than_without(pipes):
    pipe, calls = pipes["SD3"], []
    hook = pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    guider = ReadoutGuidance([spatial(pipe, stop=0.4)], guidance_scale=SCALE)
    loop("SD3", pipe, guider)
    hook.remove()
    assert len(guider.losses) == 2 and len(calls) == 2 * STEPS


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_in_the_pass(pipes, error):
    pipe = pipes["SD3"]
    guider, network = ReadoutGuidance([spatial(pipe)], guidance_scale=SCALE), pipe.transformer
    expected = loop("SD3", pipe, guider)

    def fails(*args):
        raise error("in the pass")
    hook = network.transformer_blocks[1].register_forward_pre_hook(fails)
    for _ in range(2):
        with pytest.raises(error):
            loop("SD3", pipe, guider)
        assert torch.is_grad_enabled()
    hook.remove()
    with torch.no_grad(), pytest.raises(error):
        hook = network.register_forward_pre_hook(fails)
        loop("SD3", pipe, guider)
    hook.remove()
    guider.cleanup_models(network)
    assert not left(network) and torch.equal(loop("SD3", pipe, guider), expected)


def test_what_does_not_fit(pipes):
    pipe = pipes["SD3"]
    with pytest.raises(ValueError, match="target has 3 rows"):
        loop("SD3", pipe, ReadoutGuidance([spatial(pipe, target=torch.zeros(3, 2, 8, 8))]))
    with pytest.raises(ValueError, match="head reads layers"):
        loop("SD3", pipe, ReadoutGuidance([spatial(pipes["SDXL"])]))
    with pytest.raises(ValueError, match="gradient_branch is 'both'"):
        ReadoutGuidance([], guidance={"gradient_branch": "both"})
    with torch.inference_mode(), pytest.raises(ValueError, match="torch.no_grad"):
        loop("SD3", pipe, ReadoutGuidance([spatial(pipe)]))
    assert not left(pipe.transformer)
    for own in ({"step_size": 1.0}, {"moves": "latents"}):
        with pytest.raises(ValueError, match=f"guidance holds {next(iter(own))}; pass objectives and step_size as arguments of their own"):
            ReadoutGuidance([], guidance=own)


def test_a_guider_with_another_scale_has_the_same_objectives(pipes):
    """`new` is how diffusers changes a setting of a guider."""
    one = ReadoutGuidance([spatial(pipes["SD3"])], guidance_scale=3.0, step_size=0.2, guidance={"inner_steps": 1})
    other = one.new(guidance_scale=5.0)
    assert other.guide.objectives == one.guide.objectives and (other.guidance_scale, one.guidance_scale) == (5.0, 3.0)
    assert (other.guide.step_size, other.guide.inner_steps) == (0.2, 1) and type(other) is ReadoutGuidance


def test_where_the_sample_is_predicted_the_move_goes_the_other_way(pipes):
    """As `guided_sample` does; a guider does not see the scheduler, and is told."""
    plain, epsilon, sample = (loop("SD3", pipes["SD3"], ReadoutGuidance([spatial(pipes["SD3"])], guidance_scale=SCALE, **told), steps=1) for told in (
        {"step_size": 0.0}, {}, {"prediction_type": "sample"}))
    torch.testing.assert_close(sample - plain, plain - epsilon, atol=1e-5, rtol=1e-4)
    assert (epsilon - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="prediction_type"):
        ReadoutGuidance([], prediction_type="noise")
