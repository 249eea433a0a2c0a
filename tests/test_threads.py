"""Two threads on one model get what they would get one after the other, to the bit, or a sentence that says why not."""
import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import rg_minimal
import test_guider
from rg_minimal import pipelines, readout as rg
from rg_minimal.callback import GuidanceCallback
from rg_minimal.denoisers import denoiser
from rg_minimal.guider import ReadoutGuidance
from rg_minimal.puppets.heads import pose_objective
from rg_minimal.saving import train_head
from rg_minimal.sources import Source
from rg_minimal.undo import frozen
from tiny import make_head, seed, spatial, tiny_pipe, tiny_sd3_pipe

PROMPTS = ("a puppet is waving", "red puppet in the park")


@pytest.fixture(autouse=True)
def switching():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def pipe():
    """Its weights ask for gradients, as those of a pipeline that nobody froze."""
    return tiny_pipe()


def together(*works) -> list:
    """What each work returns, or the ValueError that it ended with; all begin at the same moment, in threads of their own."""
    gate = threading.Barrier(len(works))

    def run(work):
        gate.wait()
        try:
            return work()
        except ValueError as error:
            return error
    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


def one_by_one(*works) -> list:
    return [together(work)[0] for work in works]


def same(found, expected):
    assert not [each for each in found if isinstance(each, Exception)], found
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def guided(pipe, prompt, objectives, number, steps=5, **settings):
    return lambda: torch.stack([state.latents for state in pipelines.guided_sample(
        pipe, prompt, objectives, num_inference_steps=steps, generator=seed(number), **settings)])


def left(network):
    return [hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)] + [
        weight for weight in network.parameters() if weight.grad is not None or not weight.requires_grad] + [
        key for key in network.__dict__ if key == "forward"]


@pytest.mark.parametrize("settings", [{}, {"gradient_branch": "both"}, {"moves": "prediction"}], ids=str)
def test_guided_sampling(pipe, settings):
    objective = spatial(pipe)                                                   # of both: it keeps nothing of a run
    works = [guided(pipe, prompt, [objective], number, steps, **settings) for prompt, number, steps in zip(PROMPTS * 2, range(4), (5, 4, 5, 6))]
    same(together(*works), one_by_one(*works))
    assert not left(pipe.unet)


def test_a_source_of_two_threads(pipe):
    states = list(pipelines.guided_sample(pipe, PROMPTS[0], num_inference_steps=6, generator=seed()))

    def works():
        source = Source.from_states(pipe, states, PROMPTS[0], read_ahead=2)
        objective = rg.AppearanceObjective(head=make_head(pipe, 0), source=source)
        return [guided(pipe, prompt, [objective], number, 6) for number, prompt in enumerate(PROMPTS)]
    same(together(*works()), one_by_one(*works()))


def test_inversion_reading_and_training_beside_guided_sampling(pipe):
    pictures = torch.rand(2, 3, 32, 32, generator=seed())

    def train():
        head = make_head(pipe)
        losses = [state.loss for state in train_head(head, pipe, lambda step: (pictures, torch.zeros(2, 2, 4, 4)), 8)]
        return torch.tensor([*losses, *head.mixing_weights.tolist()])

    def read():
        return torch.stack([pipelines.read_picture(pipe, pictures, 300, generator=seed(1))(make_head(pipe)) for _ in range(6)]).detach()

    def make_head(pipe):
        with torch.random.fork_rng(devices=[]):
            return copy.deepcopy(fresh)
    fresh = spatial(pipe).head.train(False)
    works = [train, guided(pipe, PROMPTS[0], [spatial(pipe)], 0, 8), read,
             lambda: torch.stack([state.latents for state in pipelines.invert(pipe, pictures, PROMPTS[1], num_inference_steps=6)])]
    same(together(*works), one_by_one(*works))
    assert not left(pipe.unet)


def of_its_own(pipe):
    """The same model with a scheduler of its own, as the message says."""
    return type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}, requires_safety_checker=False)


def called_back(pipe, callback, number, steps=6):
    """The prompt is encoded before: of a tokenizer that two of diffusers' own calls use at once nothing is claimed."""
    told = pipelines.encode_prompts(pipe, PROMPTS[number])

    def work():
        latents = pipe(prompt_embeds=told.prompt_embeds, negative_prompt_embeds=told.negative_prompt_embeds, output_type="latent",
                       num_inference_steps=steps + number, generator=seed(number), callback_on_step_end=callback).images
        return torch.cat([latents.flatten(), *(losses[0] for losses in callback.losses)]) if number == 0 else latents.flatten()
    return work


def test_callbacks_on_one_model(pipe):
    pipes, callback = [of_its_own(pipe) for _ in range(2)], GuidanceCallback([spatial(pipe)])
    for each in pipes:
        each.set_progress_bar_config(disable=True)
    works = [called_back(pipes[0], GuidanceCallback([spatial(pipe)]), 0), called_back(pipes[1], callback, 1),
             guided(pipe, PROMPTS[0], [spatial(pipe)], 0)]
    same(together(*works), one_by_one(*works))
    works = [called_back(each, callback, 1) for each in pipes]                  # and one callback for both
    same(together(*works), one_by_one(*works))
    assert not left(pipe.unet)


def test_callbacks_on_one_pipeline_are_refused(pipe):
    """Both calls, whoever is noticed first: the scheduler, whose state both change, would give either of them nonsense."""
    def turns(which, number):
        """A callback that lets the other thread run at each step, and itself goes on when that has."""
        callback = GuidanceCallback([spatial(pipe)])
        callback_fn = callback.callback_fn

        def taking_turns(*arguments):
            meet.wait(10) if not meet.broken else None
            return callback_fn(*arguments)
        callback.callback_fn = taking_turns
        return called_back(pipe, callback, number)
    for _ in range(3):
        meet = threading.Barrier(2)
        found = together(lambda: ending(turns(0, 0), meet), lambda: ending(turns(1, 1), meet))
        assert [type(each) for each in found] == [ValueError] * 2, found
        assert all("give each thread a pipeline with its own" in str(each) for each in found)
    alone = one_by_one(called_back(pipe, GuidanceCallback([spatial(pipe)]), 0))
    same(alone, one_by_one(called_back(of_its_own(pipe), GuidanceCallback([spatial(pipe)]), 0)))
    assert not left(pipe.unet)


def ending(work, meet):
    try:
        return work()
    finally:
        meet.abort()


def test_a_plain_call_between_two_steps_of_a_guided_one_is_noticed(pipe):
    callback = GuidanceCallback([spatial(pipe)])

    def between(pipe, step, timestep, tensors):
        if step == 2:
            together(lambda: pipe(PROMPTS[1], num_inference_steps=2, output_type="latent"))
        return callback(pipe, step, timestep, tensors)
    with pytest.raises(ValueError, match="another call set the scheduler of this StableDiffusionPipeline to its own steps"):
        pipe(PROMPTS[0], num_inference_steps=5, output_type="latent", callback_on_step_end=between)
    assert not left(pipe.unet)


def test_guiders_on_one_model():
    pipes = [pipe := tiny_sd3_pipe(), copy.copy(pipe)]
    pipes[1]._internal_dict = dict(pipe._internal_dict)
    pipes[1].scheduler = copy.deepcopy(pipe.scheduler)
    goal = spatial(pipe)                    # its weights are drawn by torch's one generator, so not in two threads
    works = [lambda each=each: test_guider.loop("SD3", each, ReadoutGuidance([goal], guidance_scale=7.0)) for each in pipes]
    works.append(guided(pipe, PROMPTS[0], [goal], 0))
    same(together(*works), one_by_one(*works))
    assert not left(pipe.transformer)


def test_a_guider_of_two_threads_is_refused():
    guider = ReadoutGuidance([spatial(tiny_sd3_pipe())])
    guider.set_state(0, 5, torch.tensor(900.0))
    other, = together(lambda: guider.set_state(1, 5, torch.tensor(800.0)))
    assert "two threads use this guider at once" in str(other)
    with pytest.raises(ValueError, match="two threads use this guider"):
        guider.set_state(1, 5, torch.tensor(800.0))
    guider.set_state(0, 5, torch.tensor(900.0))


def test_the_last_one_thaws(pipe):
    weight = next(pipe.unet.parameters())
    with frozen(pipe.unet):
        with frozen(pipe.unet):
            assert not weight.requires_grad
        assert not weight.requires_grad
    assert weight.requires_grad


def test_an_autoencoder_that_is_run_in_float32_for_a_while():
    """One thread's float32 must not be another's."""
    pipe = tiny_pipe()
    pipe.vae.to(torch.bfloat16)
    pipe.vae.register_to_config(force_upcast=True)
    works = [lambda number=number: pipelines.decode(pipe, torch.randn(1, 4, 8, 8, generator=seed(number))) for number in range(4)]
    same(together(*works), one_by_one(*works))
    assert {weight.dtype for weight in pipe.vae.parameters()} == {torch.bfloat16}


def test_prompts_and_loading():
    from diffusers.utils import logging
    pipe, before = rg_minimal.load_pipeline(device="cpu"), (logging.get_verbosity(), logging.is_progress_bar_enabled())
    works = [lambda number=number: torch.cat([pipelines.encode_prompts(pipe, "a puppet " * (number + 1)).prompt_embeds
                                              for _ in range(30)]) for number in range(3)]
    same(together(*works), one_by_one(*works))
    works = [lambda: next(rg_minimal.load_pipeline(device="cpu").unet.parameters()).detach() for _ in range(2)]
    same(together(*works), one_by_one(*works))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_shipped_model():
    pipe, head = rg_minimal.load_pipeline(device="cpu"), rg_minimal.load_head("data/heads/pose")
    joints = torch.rand(14, 2, generator=seed()) * 100 + 14
    works = [guided(pipe, "a puppet is waving", [pose_objective(head, joints + shift)], number, 4) for number, shift in enumerate((0, -9))]
    same(together(*works), one_by_one(*works))
    assert not any(hook for layer in denoiser(pipe).layers for hook in layer._forward_hooks)
