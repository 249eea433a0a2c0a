"""Drafts: pictures for the time that something is being dragged, made of a few of the run's own steps.

    draft = Draft(kit, state)
    for moment in draft.steps():                # as recipe.moments
        show(moment.picture())
        draft.take(newer_state)                 # 'taken', 'later' or 'dropped'

A draft starts from the noise of the run that it stands for, and goes along some of its timesteps: the seed stays, so pictures
that follow each other do not flicker, and a drag keeps to what is left of the trajectory of the picture without guidance.

The first draft moves the latents three times at each guided step. Each later one begins a step where the draft before had
moved it to, less a part, and moves once. On 24 poses, gone to from another pose in five drafts, PCK@0.05 by the judge is 0.82 on
the way, and 0.91, 0.98, 0.99 with each draft of a hand that rests, at 10 passes a draft; begun anew it is 0.86 and 0.98 at 20. On
12 arrows 0.16 of the way is left meanwhile, then 0.13, against 0.12 and 0.10.

Tried and left:
- To go on from the noised trajectory of the draft before (from timestep 700 or 600 on, 1.2 times faster). What has found its place
  by then stays there: a wrist that moves 8 pixels a draft was lost after three of them.
- To show the picture's own pixels where the arrows take them, and the mean of what is around where they were, before a draft is
  there: 46 ms, but limbs with sawn edges over a smear, and 4 of 9 puppets torn; the widget shows where all that is held goes at once.
- A linear map from latents to colours (least squares on 64 pictures): 0.1 ms where the small decoder takes 31, but 21.9 dB, not 35.5
  (32 other pictures), with the wrong shirts and skies. Nearly all that a draft waits for is its passes.
"""
from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Iterator

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ..denoisers import ddim_scheduler, denoiser
from ..pipelines import guided_sample
from ..readout import SampleState
from ..puppets.heads import pose_objective
from ..sources import Source
from ..undo import undone
from .recipe import Kit, Moment, check_state, guidance, in_use, plain_key, plain_runs, plain_settings, plain_states, recall

LIVE = {"steps": 4, "inner_steps": 3}   # of a first draft: as many steps, with as many moves at each
KEPT = 0.7              # of the moves of the draft before, in a draft that follows it and moves once a step
LONGER = 1.0, 2.0       # moves in a first and in a following draft, against those of a run ...
POSE_LONGER = 1.6, 2.4  # ... and of a pose alone, which bears it
FIRST = 2               # guided steps before the first look
NEAR = 24.0                             # pixels: how far a joint may go before a running draft is begun again
SAME = 0.5                              # pixels: a wish as near as this to what is shown is fulfilled

AIMS = {"pose": "joints", "drag": "arrows"}             # what is dragged


class OneStep(DDIMScheduler):
    """DDIM's step from timestep `course[0]` to `course[1]`, or to the picture where there is none."""
    course: tuple = ()

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps, device=device)
        self.timesteps = torch.tensor(self.course[:1], device=device)

    def step(self, output, timestep, sample, eta: float = 0.0, generator=None, variance_noise=None, return_dict: bool = True):
        """As `readout.ddim_step`, along the course."""
        product = self.alphas_cumprod[self.course[0]]
        before = self.alphas_cumprod[self.course[1]] if self.course[1:] else self.final_alpha_cumprod
        clean = (sample - (1 - product) ** 0.5 * output) / product ** 0.5
        std = eta * ((1 - before) / (1 - product) * (1 - product / before)) ** 0.5
        moved = before ** 0.5 * clean + (1 - before - std ** 2) ** 0.5 * output
        return (moved if variance_noise is None else moved + std * variance_noise.to(moved),)


@dataclass
class Trail:
    """What a draft leaves for those that follow it."""
    sources: dict = field(default_factory=dict)             # Sources along the course, which are read once
    frame: dict | None = None                               # all of the state but what is dragged; of another one, moves are void
    moves: dict[int, Tensor] = field(default_factory=dict)  # how far guidance had moved the latents (B, C, h, w) at a timestep


class Draft:
    """A draft of a state's picture with guidance, which goes on from what a `Trail` holds and leaves there what it did.

    ValueError at the call where the state cannot run.
    """

    def __init__(self, kit: Kit, state: dict, trail: Trail | None = None):
        self.kit, self.state, self.trail = kit, check_state(state, kit), trail or Trail()
        self._guided, self._objective = 0, None            # so many steps are guided; what can still be told another aim
        self._done = 0

    def steps(self) -> Iterator[Moment]:
        """The moments of the picture without guidance where it is not known yet, then those of the draft."""
        runs = plain_runs(self.state)
        for name, run in runs.items():
            if not recall(self.kit, run):
                for each in plain_states(self.kit, run):
                    yield Moment(name, each.step + 1, run["steps"], each, each.step == run["steps"] - 1, self.kit.previews)
        states = {name: self.kit.known[plain_key(run)] for name, run in runs.items()}
        chosen = spread(self.state["steps"])
        course = tuple(int(states["before"][i].timestep) for i in chosen)
        settings = guidance(self.kit, self._shortened(len(chosen)), self._known(runs, states, chosen))
        self._guided = max(math.ceil(each.stop * len(chosen) - 1e-9) for each in settings["objectives"])
        following = self._follows(course)
        settings["inner_steps"] = 1 if following else LIVE["inner_steps"]
        settings["step_size"] *= (POSE_LONGER if in_use(self.state) == ["pose"] else LONGER)[following]
        for each in self._sampled(course, settings, states["before"][0].noisy_latents):
            self._done += 1
            yield Moment("after", self._done, len(course), each, self._done == len(course), self.kit.previews)

    def _follows(self, course) -> bool:
        """Whether the moves of the draft before are of use to this one."""
        if self.trail.frame != (frame := (_frame(self.state), course)):
            self.trail.frame, self.trail.moves = frame, {}
        return bool(self.trail.moves)

    def _sampled(self, course, settings, latents) -> Iterator[SampleState]:
        """A step at a time: the guided ones from where the draft before had moved the latents to, the others without the
        negative prompt, which decides little so late."""
        model, moves, told = denoiser(self.kit.pipe), self.trail.moves, plain_settings(self.state)
        told["prompt"] = model.encode_prompt(told["prompt"], "", model.image_size(latents))
        aims = {each: replace(each, start=0.0, stop=1.0) for each in settings.pop("objectives")}     # of a run of one step
        if in_use(self.state) == ["pose"]:
            self._objective, = aims.values()
        latents, noise = settings.pop("latents", latents), settings.pop("variance_noise", None)
        scheduler = OneStep.from_config(ddim_scheduler(self.kit.pipe).config)
        for step, timestep in enumerate(course):
            scheduler.course = course[step:]
            now = {"objectives": [aim for each, aim in aims.items() if each.strength(step, len(course))], "scheduler": scheduler,
                   "latents": latents - KEPT * moves.get(timestep, 0.0), "num_inference_steps": 1}
            if noise is not None:
                now["variance_noise"] = noise[step:step + 1]
            if not now["objectives"]:
                now["guidance_scale"] = 1.0
            with leaving_a_core():
                state, = guided_sample(self.kit.pipe, **told | settings | now)
            if now["objectives"]:
                moves[timestep] = latents - state.noisy_latents
            latents = state.latents
            yield state

    def worth_a_look(self, moment: Moment) -> bool:
        """The picture is done, or guided so far that it can be seen to follow: what comes then refines it."""
        return moment.name == "after" and (moment.last or min(FIRST, self._guided) <= moment.done <= self._guided)

    def take(self, state: dict) -> str:
        """What becomes of a newer wish: 'taken' into the steps that this draft has left to guide, 'later' where there are
        none left and the picture is all but done, or else this draft is 'dropped'."""
        if _frame(state) != _frame(self.state) or self._objective is None or gap(state, self.state) > NEAR:
            return "dropped"
        if self._done >= self._guided:
            return "later"
        joints = torch.tensor(state["pose"]["joints"], dtype=torch.float32)
        self._objective.target = _pose_target(self.kit, joints)
        self.state = {**self.state, "pose": {**self.state["pose"], "joints": state["pose"]["joints"]}}
        return "taken"

    def _shortened(self, steps: int) -> dict:
        """The state with intervals that hold at least one of so few steps."""
        def widened(entry):
            start, stop = (limit * steps for limit in entry["interval"])
            return {**entry, "interval": [math.floor(start + 1e-9) / steps, math.ceil(stop - 1e-9) / steps]}
        return {**self.state, **{name: widened(self.state[name]) for name in in_use(self.state)}}

    def _known(self, runs, states, chosen) -> dict:
        """Sources along the course, which are read once for all drafts."""
        made = {name: (plain_key(run), run["prompt"], tuple(chosen)) for name, run in runs.items()}
        for key in [key for key in self.trail.sources if key not in made.values()]:
            del self.trail.sources[key]
        for name, key in made.items():
            if key not in self.trail.sources:
                few = [states[name][i] for i in chosen]
                self.trail.sources[key] = Source.from_states(self.kit.pipe, few, key[1], keep_all=True)
        return {name: self.trail.sources[key] for name, key in made.items()}


@contextmanager
def leaving_a_core():
    """One thread less than PyTorch has, for the browser: where it takes a core from one thread, all others wait for that. What is
    to come again bit for bit is not made so, since the number of threads may decide how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    with undone(lambda: torch.set_num_threads(threads)):
        yield


def spread(steps: int, count: int = LIVE["steps"]) -> list[int]:
    """Which of a run's steps a draft takes: the first, and others at equal distances."""
    count = min(count, steps)
    return [i * steps // count for i in range(count)]


def gap(one: dict, other: dict) -> float:
    """How far the farthest of the points that are dragged is from where it was, in pixels; infinite where others are drawn."""
    far = 0.0
    for name, key in AIMS.items():
        here, there = (_points(state[name][key]) for state in (one, other))
        if len(here) != len(there):
            return math.inf
        far = max([far, *(math.dist(a, b) for a, b in zip(here, there))])
    return far


def same(one: dict, other: dict) -> bool:
    """Whether two states ask for the very same picture."""
    return _frame(one) == _frame(other) and gap(one, other) == 0


def _points(value: list) -> list:
    """Points, or the ends of arrows, as one list."""
    return [point for each in value for point in (each if isinstance(each[0], (list, tuple)) else [each])]


def _frame(state: dict) -> dict:
    """All of a state but what is dragged."""
    return {name: {k: v for k, v in entry.items() if k != AIMS.get(name)} if isinstance(entry, dict) else entry
            for name, entry in state.items()}


def _pose_target(kit: Kit, joints):
    """What the pose head is to read."""
    return pose_objective(kit.heads["pose"], joints).target
