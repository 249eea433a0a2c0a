"""The doors: pipelines from disk, prompts and pictures in, and what `readout.py` does with them.

`guided_sample`, `sample`, `invert` and `read_picture` check what they are given, before anything slow begins, bring it into
the form that the method works on (a `Denoiser`, a `Conditioning`, latents), and hand it over.
"""
from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Iterable, Iterator, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from torch import Tensor

from . import hub
from .checks import (Count, FileName, Fraction, Index, NonNegative, Number, Texts, Truth, Words, as_number, check_course, check_source, checked,
                     declared, describe)
from .conditioning import Conditioning, warn_ignored
from .denoisers import ddim_scheduler, denoiser, draw, scheduler_step, step_settings, will_take_moves
from .files import read_json
from .pictures import as_pictures
from .readout import Guidance, Objective, Reading, SampleState, ddim_step, inversion, sampling, take_readings
from .saving import ReadoutHead
from .sources import Source
from .undo import undone

DEFAULT = "data/puppet-diffusion"       # the small model that the repository ships
Spacing = Literal["leading", "trailing", "linspace"]                      # of timesteps, as diffusers calls them
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}


# ---- sampling, inversion, reading --------------------------------------------------------------------------------------


@declared
def guided_sample(pipe, prompt=None, objectives: Iterable[Objective] = (), *, num_inference_steps: Count | None = None,
                  guidance_scale: Number | None = None, generator=None, latents: Tensor | None = None, eta: Fraction = 0.0,
                  height: Count | None = None, width: Count | None = None, variance_noise=None, keep: Source | None = None,
                  scheduler=None, timestep_spacing: Spacing | None = None, **settings) -> Iterator[SampleState]:
    """Sample pictures, guided by any number of objectives; a generator that yields after every step (`readout.sampling`).

    Without objectives this is diffusers' own pipeline, number for number.

    Args:
        prompt: a string, a list of strings (B pictures), or a `Conditioning`.
        num_inference_steps: by default what the model's folder recommends (see `load_pipeline`), else the pipeline's own
            default. `paces.py` has names for what they cost.
        guidance_scale: how strictly the prompt is followed; 1 is the plain model. The default is found in the same way.
        generator: a CPU generator, or a list of one for each picture; CPU noise is the same for every device.
        latents: initial noise (B or 1, C, h, w), instead of drawing it.
        eta: 0 is deterministic, 1 adds DDPM's noise, which is `variance_noise` (steps, B or 1, C, h, w) if given.
        height, width: of the picture in pixels, the model's own by default.
        keep: a `Source`; outside `mask` the picture follows its trajectory.
        scheduler: any of diffusers' that suits the model; DDIM by default, a flow model's own.
        timestep_spacing: diffusers' setting of schedulers: "trailing" begins at the very noise, which few steps need, and
            "leading" ends nearest to the picture; by default the scheduler's own.
        settings: those of `Guidance` (step_size, step_rule, gradient_branch, inner_steps, mask, moves), and what diffusers'
            pipelines take beside the prompt: negative_prompt, num_images_per_prompt, prompt_embeds, negative_prompt_embeds,
            pooled_prompt_embeds, negative_pooled_prompt_embeds.
    Raises ValueError at the call, before anything is sampled.
    """
    model = denoiser(pipe)
    told = {name: settings.pop(name) for name in list(settings) if "prompt" in name}
    known = [each.name for each in fields(Guidance)][1:]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"guided_sample takes no {', '.join(unknown)}; beside its own settings it takes those of Guidance, {', '.join(known)}. Of what "
                         f"{type(model.pipe).__name__} takes besides, make use in its own call, with callback_on_step_end=GuidanceCallback(objectives)")
    guide = Guidance(objectives, **settings)
    if keep is not None and guide.mask is None:
        raise ValueError("keep needs a mask (B, 1, h, w): 1 where the picture may change, 0 where it is kept")
    scale = model.default_guidance_scale if guidance_scale is None else guidance_scale
    num_inference_steps = num_inference_steps or model.default_num_inference_steps
    conditioning = model.encode_prompt(prompt, image_size=model.image_size(latents, height, width), **told)
    latents = model.initial_latents(conditioning, latents, generator, height, width)
    two = model.two_branches(scale) or guide.gradient_branch == "both"
    _refuse_unheard(told, scale, two)
    conditioning.check(model, latents, two)
    guide.check(model, len(latents), model.image_size(latents))
    if keep is not None:
        check_source("keep", keep, model, len(latents), model.image_size(latents))
    take_step = scheduler_step if scheduler is not None or not model.plain_ddim else ddim_step
    scheduler = model.scheduler(num_inference_steps, scheduler, latents, timestep_spacing)
    steps = step_settings(scheduler, eta, variance_noise, generator, latents)
    count = len(scheduler.timesteps)
    takes = will_take_moves(scheduler, count) if guide.moves == "latents" else [True] * count       # every prediction is made use of
    check_course(guide.objectives, [t.item() for t in scheduler.timesteps], takes, keep)
    return sampling(model, scheduler, take_step, guide, conditioning, latents, scale, steps, keep)


def sample(pipe, prompt=None, objectives=(), **settings) -> tuple[Tensor, Tensor]:
    """Run `guided_sample` to its end: pictures (B, 3, H, W) in [0, 1] and latents (B, C, h, w)."""
    for state in guided_sample(pipe, prompt, objectives, **settings):
        pass
    return state.model.decode(state.latents), state.latents


@declared
def invert(pipe, pictures=None, prompt="", *, latents: Tensor | None = None, num_inference_steps: Count | None = None,
           guidance_scale: Number = 1.0, negative_prompt=None, fixed_point_iterations: Index = 0) -> Iterator[SampleState]:
    """From pictures back to noise; a generator of states at rising timesteps, the last holds the noise (`readout.inversion`).

    Sample from the last state's latents with the same prompt, steps and scale to get the pictures back;
    `Source.from_states(pipe, states, prompt)` makes them a source.

    Args:
        pictures: (B, 3, H, W) in [0, 1], or whatever else `pictures.as_pictures` takes.
        latents: clean latents (B, C, h, w) instead of pictures, as `encode` makes them.
        num_inference_steps: those that the picture will be sampled with; by default as in `guided_sample`.
        fixed_point_iterations: predictions more a step, each of which brings it nearer to the inverse.
    Raises ValueError at the call.
    """
    model = denoiser(pipe)
    steps = num_inference_steps or model.default_num_inference_steps
    model.scheduler(steps)                      # refuses a wrong number before the pictures are encoded
    latents = model.clean(pictures, latents)
    scheduler = model.scheduler(steps, latents=latents)
    conditioning = model.encode_prompt(prompt, negative_prompt, model.image_size(latents))
    _refuse_unheard({"negative_prompt": negative_prompt}, guidance_scale, model.two_branches(guidance_scale))
    conditioning.check(model, latents, model.two_branches(guidance_scale))
    return inversion(model, scheduler, conditioning, latents, guidance_scale, fixed_point_iterations)


def _refuse_unheard(told: dict, scale: float, two_branches: bool) -> None:
    """ValueError for a negative prompt, also one for the second text encoder, where only the prompt's branch is run."""
    for name, value in told.items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
        if name.startswith("negative_prompt") and any(texts) and not two_branches:
            raise ValueError(f"{name} is {value!r}, but with guidance_scale {scale:g} the model is not asked about it; pass a guidance_scale above 1, "
                             f"or leave {name} out")


@torch.no_grad()
def read_picture(pipe, pictures=None, timestep=None, prompt="", generator=None, *, latents: Tensor | None = None) -> Reading:
    """Noise clean pictures to a timestep and read them: `read_picture(pipe, pictures, 300)(head)` -> (B, k, h, w).

    Args:
        pictures: (B, 3, H, W) in [0, 1], or whatever else `pictures.as_pictures` takes.
        timestep: a number, or (B,) timesteps.
        prompt: what the denoiser is told; heads are trained with the empty prompt.
        generator: a CPU generator for the noise, so that every device draws the same.
        latents: clean latents (B, C, h, w) instead of pictures, as `encode` makes them.
    Raises ValueError for anything else.
    """
    model = denoiser(pipe)
    clean = model.clean(pictures, latents)
    timesteps = _timesteps(model, timestep, len(clean)).to(clean.device)
    noisy = model.add_noise(clean, draw(clean, generator), timesteps)
    told = timestep if isinstance(timestep, (int, float)) else timesteps
    conditioning = model.encode_prompt(prompt, image_size=model.image_size(clean))
    conditioning.check(model, clean, negative=False)
    return take_readings(model, noisy, told, conditioning)[0]


def _timesteps(model, timestep, batch: int) -> Tensor:
    """A timestep for each picture, (B,). Raises ValueError."""
    limit = model.train_timesteps
    try:
        timesteps = timestep if torch.is_tensor(timestep) and timestep.ndim else torch.tensor(
            timestep if isinstance(timestep, (list, tuple)) else as_number(timestep))
        good = timesteps.dtype != torch.bool and timesteps.shape in ((), (1,), (batch,)) and 0 <= timesteps.min() <= timesteps.max() <= limit
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good or not model.flow and (timesteps.max() == limit or (timesteps % 1).any()):
        most = f"to {limit}" if model.flow else f"to below {limit}, a whole number of at most {limit - 1}"
        raise ValueError(f"timestep is {describe(timestep)}; pass a number from 0 (clean) {most} (noise), or pass 1 for each of the "
                         f"{batch} pictures")
    return (timesteps if model.flow else timesteps.long()).expand(batch)


def encode(pipe, pictures) -> Tensor:
    """Pictures -> latents (B, C, h, w), the mean of the autoencoder.

    `pictures` are (B, 3, H, W) in [0, 1], or whatever else `pictures.as_pictures` takes: PIL images, numpy arrays, paths of files.
    Raises ValueError for anything else, and for sides that the model cannot have.
    """
    return denoiser(pipe).encode(pictures)


def decode(pipe, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], float32. Raises ValueError for anything else."""
    return denoiser(pipe).decode(latents)


def encode_prompts(pipe, prompt, negative_prompt=None, image_size=None) -> Conditioning:
    """Encode prompts once and reuse them: the result can stand wherever a `prompt` is asked for."""
    return denoiser(pipe).encode_prompt(prompt, negative_prompt, image_size)


def check_prompt(pipe, prompt) -> list[str]:
    """What the model ignores of a prompt, also said in a warning: words that it does not know (CLIP tokenizers know every word), and
    the end of a prompt that is longer than it reads."""
    return warn_ignored(pipe, [prompt] if isinstance(prompt, str) else checked("prompt", prompt, Texts))


@declared
def controlled(pipe, conditioning, image, scale: NonNegative = 1.0) -> Conditioning:
    """The same conditioning (or that of a prompt), with the residuals of the pipeline's ControlNet at every pass; `image` is what that
    is shown, 1 or B pictures (see `pictures.as_pictures`) of the size that is sampled. ValueError where it does not fit, also later at
    the call that samples.

    One more pass of the ControlNet for each pass of the denoiser, with gradient where the denoiser has it.
    """
    if getattr(pipe, "controlnet", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no `controlnet`; load a StableDiffusionControlNetPipeline or its SDXL kin")
    if hasattr(pipe.controlnet, "nets"):
        raise ValueError(f"{type(pipe).__name__} has {len(pipe.controlnet.nets)} ControlNets, and this takes one; make a pipeline with one of them, or "
                         "pass GuidanceCallback to this one")
    model = denoiser(pipe)
    image = as_pictures(image, "image", model.unit)
    conditioning = model.encode_prompt(conditioning, image_size=tuple(image.shape[-2:]))

    def check(latents):
        if tuple(image.shape[-2:]) != model.image_size(latents) or len(image) not in (1, len(latents)):
            raise ValueError(f"image has shape {tuple(image.shape)}, but {len(latents)} pictures of {model.image_size(latents)} pixels (height, width) "
                             "are made; show the ControlNet one, or as many, of that size")

    def residuals(latents, timestep, embeds, added):
        shown = image.to(latents).expand(len(latents), *image.shape[1:]) if len(image) == 1 else image.to(latents).repeat(
            len(latents) // len(image), 1, 1, 1)
        given = {key: added[key] for key in ("text_embeds", "time_ids") if key in added}
        down, mid = pipe.controlnet(latents, timestep, encoder_hidden_states=embeds, controlnet_cond=shown, conditioning_scale=scale,
                                    added_cond_kwargs=given or None, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    residuals.check = check
    return replace(conditioning, control=residuals)


# ---- loading -----------------------------------------------------------------------------------------------------------

@declared
def load_pipeline(path: FileName = DEFAULT, device=None, dtype=None, local_files_only: Truth = True):
    """Load a pipeline that `denoiser` knows: eval mode, frozen, silent, with DDIM unless it was trained with flow matching.

    Args:
        path: a folder in diffusers' layout, or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
            The default is found from any folder inside the repository.
        device: by default a GPU if there is one.
        dtype: float32 by default, whatever the files hold. On a GPU float16 halves the memory of large models.
        local_files_only: False allows a download from the hub.
    A `guidance_scale` and `sampling_steps` in the folder's recipe.json become `pipe.default_guidance_scale` and
    `pipe.default_num_inference_steps`, which sampling then starts from.
    Raises ValueError where nothing is found, a file is damaged, or the pipeline is of another kind.
    """
    dtype, device = _dtype(dtype), _device(device)
    folder = find_folder(path)
    try:
        with _QUIET, _quiet(), hub.asked(local_files_only), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)      # diffusers calls it torch_dtype in old, dtype in new versions
            pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=local_files_only)
    except Exception as error:          # diffusers, transformers, safetensors and the hub each raise their own
        raise ValueError(f"could not load a diffusion pipeline from {path!r}: {error}. Pass a folder that holds a "
                         f"model_index.json, or a hub id with local_files_only=False to download it{hub.forbidden(local_files_only)}.") from error
    recipe = Path(folder) / "recipe.json"
    if recipe.is_file():
        told = read_json(recipe)
        for name, entry, kind in (("guidance_scale", "guidance_scale", NonNegative), ("num_inference_steps", "sampling_steps", Count)):
            if entry in told:
                setattr(pipe, f"default_{name}", checked(f"{entry} in {recipe}", told[entry], kind))
    return prepare_pipeline(pipe).to(device)


def prepare_pipeline(pipe):
    """Make a pipeline that you loaded yourself ready: DDIM (or its own flow matching), eval mode, frozen weights, silent."""
    if not denoiser(pipe).flow:
        pipe.scheduler = ddim_scheduler(pipe)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@declared
def load_head(folder: FileName, pipe=None, revision: Words | None = None, local_files_only: Truth = True) -> ReadoutHead:
    """Load a head, on the pipeline's device if one is given, which it then has to fit.

    A relative folder such as "data/heads/pose" is found from any folder inside the repository; "who/what" is a head on the hub, whose
    cache alone is asked unless local_files_only=False. Raises ValueError where
    it is missing, damaged, or made for another model.
    """
    head = ReadoutHead.from_pretrained(find_folder(folder), revision, local_files_only)
    if pipe is not None:
        head.check(pipe)
        head.to(denoiser(pipe).device)
    return head


def find_folder(path) -> str:
    """A relative path is also looked for beside the package, so that notebooks run from any folder. Returned as it is
    where nothing is found."""
    beside = Path(__file__).resolve().parent.parent / path
    return str(beside) if not Path(path).exists() and beside.exists() else str(path)


def _dtype(dtype) -> torch.dtype:
    found = torch.float32 if dtype is None else DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    return found


def _device(device) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if isinstance(device, bool):
            raise TypeError("a truth value")
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device is {device!r}, which is not here ({str(error).splitlines()[0]}); pass 'cpu', or 'cuda' or 'mps' "
                         "where there is one") from error


_QUIET = threading.RLock()              # what is switched off, and back on, is the same for all threads


@contextmanager
def _quiet():
    """Switch what diffusers and transformers say while they load off, and back to what it was."""
    from transformers.utils import logging as transformers_logging
    loggers, level = (logging, transformers_logging), logging.get_verbosity()
    were_on = [logger for logger in loggers if logger.is_progress_bar_enabled()]

    def undo():
        logging.set_verbosity(level)
        for logger in were_on:
            logger.enable_progress_bar()
    with undone(undo):
        logging.set_verbosity_error()
        for logger in loggers:
            logger.disable_progress_bar()
        yield
