"""The picture that a relative objective compares with, and that an edit keeps to outside its mask."""
from __future__ import annotations

from typing import Iterable

import torch
from torch import Tensor

from .checks import Count, Function, Truth, declared, describe
from .denoisers import denoiser, draw
from .readout import Reading, SampleState, take_readings


class Source:
    """The picture that a relative objective compares with: `source(timestep, branch)` -> `Reading` of 1 or B pictures.

    `latents_at(timestep)` -> noisy latents (1 or B, C, h, w). Of a trajectory's `timesteps`, which sampling asks for one after
    the other, `read_ahead` are read in one batch, in less time than one by one. `keep_all` trades memory for later time.
    """

    @declared
    def __init__(self, pipe, latents_at: Function, prompt="", keep_all: Truth = False, timesteps: Iterable = (), read_ahead: Count = 4):
        self.model, self.latents_at, self.keep_all, self.read_ahead = denoiser(pipe), latents_at, keep_all, read_ahead
        self.timesteps, self._readings = sorted(timesteps), {}
        latents = self._any_latents()
        self.conditioning = self.model.encode_prompt(prompt, image_size=self.model.image_size(latents))
        if len(self.conditioning.prompt_embeds) in (1, len(latents)):                   # else `check_source` has a word for it
            self.conditioning.check(self.model, latents, negative=False)

    @classmethod
    @declared
    def from_states(cls, pipe, states: Iterable[SampleState], prompt="", keep_all: Truth = False, read_ahead: Count = 4) -> "Source":
        """From the states of sampling (a generated picture) or of inversion (a real one). ValueError for those of another model, and
        for those of two runs."""
        model, states = denoiser(pipe), checked_states(states)
        trajectory = {state.timestep: state.noisy_latents for state in states}
        if not all(model.same_model(state.model) for state in states if getattr(state, "model", None) is not None):
            raise ValueError(f"states were made with another model than this {type(model.pipe).__name__}; pass those of this very pipeline")

        def latents_at(timestep):
            if timestep not in trajectory:
                raise ValueError(f"the source has no latents at timestep {timestep}, only at {sorted(trajectory)}; sample or "
                                 "invert it with the same num_inference_steps, and drag with the scheduler and timestep_spacing that it was made with")
            return trajectory[timestep]
        return cls(pipe, latents_at, prompt, keep_all, trajectory, read_ahead)

    @classmethod
    @declared
    def from_picture(cls, pipe, pictures=None, prompt="", generator=None, keep_all: Truth = False, *,
                     latents: Tensor | None = None) -> "Source":
        """From clean pictures (see `pictures.as_pictures`), or `latents` of such (B, C, h, w), noised with one fixed noise; needs no
        trajectory."""
        model = denoiser(pipe)
        clean = model.clean(pictures, latents)
        noise = draw(clean, generator)
        return cls(model, lambda t: model.add_noise(clean, noise, torch.tensor([t], device=clean.device)), prompt, keep_all)

    @property
    def count(self) -> int:
        """Number of its pictures."""
        return len(self._any_latents())

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of its picture in pixels."""
        return self.model.image_size(self._any_latents())

    def _any_latents(self) -> Tensor:
        return self.latents_at(self.timesteps[0] if self.timesteps else 0)

    @property
    def start(self) -> Tensor:
        """The noise of its trajectory, (1 or B, C, h, w): pass it as `latents` to edit this very picture."""
        if not self.timesteps:
            raise ValueError("this source is a picture without a trajectory, so there is no noise to edit it from; invert "
                             "the picture and make it by Source.from_states(pipe, invert(pipe, picture, prompt), prompt)")
        return self.latents_at(self.timesteps[-1])

    @torch.no_grad()
    def __call__(self, timestep, branch: str = "conditional") -> Reading:
        if torch.is_tensor(timestep) and timestep.numel() != 1:
            raise ValueError(f"timestep is {describe(timestep)}; a source is read at one timestep at a time, so read the picture that is compared with "
                             "it at one number, too")
        timestep, together = float(timestep), self._together(timestep)
        readings = {key: reading for key, reading in self._readings.items() if self.keep_all or key[0] in together}
        if (timestep, branch) not in readings:
            latents = torch.cat([self.latents_at(each) for each in together]).to(self.model.device, self.model.dtype)
            asked = together[0] if len(together) == 1 else torch.tensor(together, device=latents.device)
            several, = take_readings(self.model, latents, asked, self.conditioning.to(self.model.device, self.model.dtype), (branch,))
            parts = zip(*(every.chunk(len(together)) for every in (latents, *several.features)))
            for each, (noisy, *features) in zip(together, parts):
                readings[each, branch] = Reading(self.model, features, noisy, each, branch)
        self._readings = readings                       # as a whole: other threads may be reading at other timesteps
        return readings[timestep, branch]

    def _together(self, timestep) -> list:
        """The timesteps that are read in one batch with this one: always the same, whatever was asked for before."""
        if timestep not in self.timesteps or {len(self.start), len(self.conditioning.prompt_embeds)} != {1}:
            return [timestep]                       # a clean picture, or several of them
        first = self.timesteps.index(timestep) // self.read_ahead * self.read_ahead
        return self.timesteps[first:first + self.read_ahead]


def checked_states(states: Iterable[SampleState]) -> list[SampleState]:
    """The states as a list. ValueError where they are none at all, such as what a generator that was run before has left."""
    try:
        found = list(states)
    except TypeError:
        found = [None]
    if not found or not all(hasattr(state, "timestep") and torch.is_tensor(getattr(state, "noisy_latents", None)) for state in found):
        what = "nothing (a generator runs once: keep its states in a list)" if not found else describe(states)
        raise ValueError(f"states hold {what}; pass the states of guided_sample or invert, such as list(invert(pipe, picture))")
    steps = [state.step for state in found if hasattr(state, "step")]
    twice = next((step for step in steps if steps.count(step) > 1), None)
    if twice is not None:
        raise ValueError(f"states hold step {twice} more than once, so they are of several runs; pass those of one")
    return found
