"""The same guidance in any diffusers pipeline, between two of its steps: img2img, inpainting, ControlNet, other schedulers.

    callback = GuidanceCallback([pose_objective(head, joints)])
    pipe(prompt, callback_on_step_end=callback)

After a step the callback lays a hook on the denoiser for the pipeline's next pass. It reads the features with exactly what
the pipeline passes in there (timestep, prompts, ControlNet and adapter residuals, image embeddings, masks, guidance
embeddings), moves the latents, and lets the pass go on with the moved ones. A guided step costs one more pass, with
gradient, of the conditional branch. The first step has no step before it, so it is not guided.
"""
from __future__ import annotations

import math
import sys
import threading
import weakref

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from .checks import check_course, finite
from .denoisers import Denoiser, Flux, denoiser, forget_last_sample, pack, seen_by, takes_moves, unpack, will_take_moves
from .readout import Guidance, Reading, collect_features


class GuidanceCallback(PipelineCallback):
    """Guide a diffusers pipeline by objectives; `guidance` are the settings of `Guidance`.

    Fractions of an objective's interval are of the steps that the pipeline takes (img2img at strength 0.5 takes half of
    them). `losses` has an entry for each guided step of the latest call. A callback can be used again, and combined with
    others by diffusers' `MultiPipelineCallbacks`. Pipelines that have only the old `callback` (PixArt, T2I-Adapter) take
    `callback=guidance.in_place(pipe), callback_steps=1`.

    Several threads may use a callback, and a model, at once, but not one scheduler, whose state each of their calls changes:
    they get a ValueError.
    """

    def __init__(self, objectives, **guidance):
        super().__init__()
        self.guide, self.losses, self._calls = Guidance(objectives, **guidance), [], _Calls()
        if self.guide.moves != "latents":
            raise ValueError(f"moves is {self.guide.moves!r}; a callback moves latents, between two steps. guided_sample and "
                             "guider.ReadoutGuidance can move the prediction")

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents"]

    @staticmethod
    def inputs(pipe) -> list[str]:
        """What to pass as `callback_on_step_end_tensor_inputs`; pipelines ask the callback themselves."""
        return ["latents"]

    def callback_fn(self, pipe, step_index, timestep, callback_kwargs) -> dict:
        if "latents" not in callback_kwargs:
            raise ValueError("the callback got no latents; leave callback_on_step_end_tensor_inputs out, or put 'latents' in it")
        latents = callback_kwargs["latents"].clone()
        self._lay(pipe, latents, step_index, float(timestep))
        return {**callback_kwargs, "latents": latents}

    def in_place(self, pipe):
        """The callback in the old form, (step, timestep, latents) -> None: the latents are changed where they lie."""
        def callback(step, timestep, latents):
            order = getattr(pipe.scheduler, "order", 1)             # it is called once for Heun's two evaluations
            self._lay(pipe, latents, step * order + order - 1)
        return callback

    def _lay(self, pipe, latents: Tensor, step: int, timestep: float | None = None) -> None:
        """Lay a hook on the denoiser for the pass after this step, in which these very latents are to be moved."""
        model, call = denoiser(pipe), self._calls
        before = call.laid
        self.clear()
        steps = getattr(pipe, "_num_timesteps", None) or len(pipe.scheduler.timesteps)
        if step <= call.step:                                       # another call of the pipeline
            call.losses = self.losses = []
            call.timesteps = pipe.scheduler.timesteps
            course = [t.item() for t in call.timesteps]             # img2img takes the last of them, SDXL with denoising_end the first
            begin = max(course.index(timestep) - step, 0) if timestep in course else len(course) - steps
            check_course(self.guide.objectives, course[begin:begin + steps], will_take_moves(pipe.scheduler, steps), first=1)
            if latents.ndim == 4:
                self.guide.check(model, len(latents), model.image_size(latents))
        elif before is not None and not before.done:
            raise ValueError(f"the pass after step {call.step} did not see the latents that this callback returned, so it was not guided; "
                             "put GuidanceCallback after what else changes latents, and run no pass of the denoiser between")
        call.step = step
        call.check_alone(pipe, steps)
        strengths = [objective.strength(step + 1, steps) for objective in self.guide.objectives]
        if step + 1 < steps and any(strengths):
            finite(latents, f"latents after step {step}")
            call.laid = _Once(self, pipe, model, latents, strengths)
            weakref.finalize(latents, call.laid.remove)         # a pipeline that was interrupted leaves nothing behind
            call.laid.lay()

    def clear(self) -> None:
        """Take this thread's hook away, if one lies."""
        if self._calls.laid is not None:
            self._calls.laid.remove()
        self._calls.laid = None


_RUNNING: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()      # scheduler -> {thread: "running" or "disturbed"}


class _Calls(threading.local):
    """What a callback knows of a pipeline's call: each thread has its own."""
    step, laid, timesteps, losses = math.inf, None, None, ()

    def check_alone(self, pipe, steps: int) -> None:
        """ValueError where another thread runs a pipeline with the same scheduler; that thread gets one, too."""
        threads, me = _RUNNING.setdefault(pipe.scheduler, {}), threading.get_ident()
        disturbed = threads.pop(me, None) == "disturbed" and self.step > 0
        others = [thread for thread in list(threads) if _runs(thread, pipe.scheduler)]
        threads.update(dict.fromkeys(others, "disturbed"))
        if others or disturbed or pipe.scheduler.timesteps is not self.timesteps:
            raise ValueError(f"another call set the scheduler of this {type(pipe).__name__} to its own steps, probably in another thread; "
                             "give each thread a pipeline with its own, the model may be shared: type(pipe)(**{**pipe.components, "
                             "'scheduler': copy.deepcopy(pipe.scheduler)})")
        if self.step + 1 < steps:
            threads[me] = "running"


def _runs(thread: int, scheduler) -> bool:
    """Whether a thread is inside a call of a pipeline that has this scheduler."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and getattr(frame.f_locals.get("self"), "scheduler", None) is scheduler:
            return True
        frame = frame.f_back
    return False


class _Once:
    """The hook for one pass: moves the latents that the pass sees, and those that the pipeline holds."""

    def __init__(self, callback, pipe, model: Denoiser, latents: Tensor, strengths):
        self.callback, self.pipe, self.model, self.strengths = callback, pipe, model, strengths
        self.losses = callback._calls.losses
        self.latents, self.thread, self.handle = weakref.ref(latents), threading.get_ident(), None
        self.done = False               # whether the pass came for which it was laid

    def lay(self) -> None:
        self.handle = self.model.network.register_forward_pre_hook(self, with_kwargs=True)

    def remove(self) -> None:
        if self.handle is not None:
            self.handle.remove()

    def __call__(self, network, args, kwargs=None):
        if threading.get_ident() != self.thread:
            return None                                         # somebody else's pass, maybe while torch still registers this hook
        self.remove()
        held = self.latents()
        place = 0 if args else "sample" if "sample" in kwargs else "hidden_states"
        given = args[0] if args else kwargs[place]
        self.done = not takes_moves(self.pipe.scheduler)        # Heun's second look is not guided
        if held is None or self.done:
            return None
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        seen, size = seen_by(self.pipe.scheduler, held, self._schedule_time(timestep))
        if len(given) % len(held) or not torch.equal(given[:len(held), :held.shape[1]], seen.to(given)):
            return None                                         # not the pass of the pipeline that was called back
        if given.ndim == 3 and given.shape[1:] != held.shape[1:]:
            raise ValueError(f"{type(self.pipe).__name__} tells its transformer more than the latents, which is not known here; use "
                             "the plain pipeline of the model, or guided_sample")
        self.done = True
        moved = self._moved(network, args, kwargs, place, given, len(held), timestep)
        if moved is None:
            return None
        held.copy_(moved * size)
        forget_last_sample(self.pipe.scheduler)
        branches = moved.repeat(len(given) // len(held), *[1] * (moved.ndim - 1))
        given = torch.cat([branches.to(given), given[:, moved.shape[1]:]], dim=1) if given.ndim == 4 else branches.to(given)
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, place: given})

    def _schedule_time(self, timestep):
        """The timestep as the scheduler names it."""
        value = torch.as_tensor(timestep).flatten()[0]
        return value * 1000 if isinstance(self.model, Flux) else value

    def _moved(self, network, args, kwargs, place, given, batch, timestep) -> Tensor | None:
        """The latents as the denoiser sees them, moved: (B, C, h, w), or FLUX's tokens. None where they stay."""
        count, channels = len(given) // batch, self.model.latent_channels
        wanted = branch_blocks(self.pipe, count, self.callback.guide.branches)
        together = range(count) if getattr(self.pipe, "do_perturbed_attention_guidance", False) else wanted
        fold, unfold = self._folding(kwargs)
        number = self._schedule_time(timestep).item()

        def read(latents):
            inputs, named = (_rows_of(each, together, batch, count) for each in (list(args), dict(kwargs)))
            told = inputs[0] if args else named[place]
            several = torch.cat([unfold(latents)] * len(together))
            several = torch.cat([several, told[:, channels:]], dim=1) if given.ndim == 4 else several

            def run():
                output = network(several, *inputs[1:], **named) if args else network(**{**named, place: several})
                return output[0] if isinstance(output, tuple) else output.sample
            with collect_features(self.model, latents) as features:
                output = self.model.until_read(run, several).chunk(len(together))
            chunks = [list(chunk) for chunk in zip(*(each.chunk(len(together)) for each in features))]
            chosen = [list(together).index(block) for block in wanted]
            return [Reading(self.model, chunks[i], latents, number, name, output[i][:, :channels] if given.ndim == 4 else output[i])
                    for i, name in zip(chosen, self.callback.guide.branches)]
        start = fold(given[:batch] if given.ndim == 3 else given[:batch, :channels])
        if given.ndim == 3:
            self.callback.guide.check(self.model, batch, self.model.image_size(start))
        with self.model.frozen():
            moved, losses = self.callback.guide.move(read, start, self.strengths)
        self.losses.append(losses)
        return None if moved is start else unfold(moved)

    def _folding(self, kwargs):
        """From what the network takes to maps (B, C, h, w), and back: FLUX packs its latents into tokens."""
        if not isinstance(self.model, Flux):
            return (lambda x: x), (lambda x: x)
        height, width = (2 * (int(side) + 1) for side in kwargs["img_ids"].reshape(-1, 3).amax(0)[1:])
        return (lambda x: unpack(x, height, width)), pack


def branch_blocks(pipe, count: int, branches) -> list[int]:
    """Where the conditional branch, and the negative if it is asked for, stand among the `count` in a pipeline's batch."""
    perturbed = getattr(pipe, "do_perturbed_attention_guidance", False)
    if "InstructPix2Pix" in type(pipe).__name__ and count == 3:
        places = {"conditional": 0, "negative": 2}                      # text and picture, picture, nothing
    elif count == 1 + perturbed:
        places = {"conditional": 0}
    elif count == 2 + perturbed:
        places = {"negative": 0, "conditional": 1}
    else:
        raise ValueError(f"{type(pipe).__name__} runs {count} branches a step, and which of them follows the prompt is not known here; "
                         "use a pipeline with plain classifier-free guidance, or guided_sample")
    if len(branches) > len(places):
        raise ValueError("gradient_branch is 'both', but the pipeline runs no negative branch at this guidance_scale; raise it, or "
                         "leave gradient_branch out")
    return [places[branch] for branch in branches]


def _rows_of(value, blocks, batch: int, count: int):
    """The rows of some of `count` blocks, in every tensor that has as many; whatever else is in nested containers stays."""
    if torch.is_tensor(value):
        whole = value.ndim > 0 and value.shape[0] == batch * count and count > 1
        return torch.cat([value[block * batch:(block + 1) * batch] for block in blocks]) if whole else value
    if isinstance(value, dict):
        return {key: _rows_of(each, blocks, batch, count) for key, each in value.items()}
    return type(value)(_rows_of(each, blocks, batch, count) for each in value) if isinstance(value, (list, tuple)) else value
