"""Larger models: what they look like without their weights, what they need, and a stand-in where that is missing.

The method (`readout.py`) runs any diffusers pipeline with a UNet, and `load_pipeline` loads it. Notebook 11 has to run on
machines that have neither the weights nor a GPU; this module says what is missing and how to get it.
"""
from __future__ import annotations

import re
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from .. import hub
from ..checks import FileName, Truth, declared
from ..guider import ReadoutGuidance
from ..pipelines import DEFAULT, encode_prompts, find_folder, load_pipeline
from ..denoisers import denoiser
from ..readout import HeadConfig
from ..saving import ReadoutHead

ON_CPU = 200_000_000                    # weights of a UNet; larger ones run on a GPU, or on a CPU if somebody insists

# What `unet/config.json` of the two best known families says where it differs from the class's own defaults.
ARCHITECTURES = {
    "Stable Diffusion 1.5": dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    "Stable Diffusion XL": dict(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816)}


def weightless_unet(config: dict) -> UNet2DConditionModel:
    """A UNet on PyTorch's meta device: every shape is there, no weight is, so it takes no memory."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config).eval()


def feature_shapes(unet) -> list[tuple[int, int, int]]:
    """(C, h, w) of each decoder feature of a weightless UNet, for one picture of the model's own size."""
    model = denoiser(unet)
    return [(channels, *size) for channels, size in zip(model.channels, model.sizes())]


def weightless_head(unet, **settings) -> ReadoutHead:
    """A head for a weightless UNet, as weightless; `settings` as of `HeadConfig`."""
    with torch.device("meta"):
        return ReadoutHead(HeadConfig.for_model(unet, **settings))


@declared
def what_is_missing(model, download: Truth = False, on_cpu: Truth = False) -> str:
    """What keeps this machine from running a model, in one sentence with the remedy; "" where nothing does.

    Raises ValueError where `model` can be neither a folder nor a hub id.
    """
    folder = _folder_or_hub_id(model)
    try:
        with hub.asked(local_files_only=not download), warnings.catch_warnings():
            warnings.simplefilter("ignore")                         # about options that diffusers itself passes on to the hub
            config = UNet2DConditionModel.load_config(folder, subfolder="unet", local_files_only=not download)
    except Exception as error:          # the hub's, requests' and the operating system's
        if Path(folder).is_dir():
            return ""                   # load_pipeline will say what is wrong with it
        if download:
            return f"{model} could not be downloaded{hub.forbidden(False) or f': {str(error).strip().splitlines()[0]}'}"
        return (f"the weights of {model} are not on this machine. To get them, set download = True in the parameters, or "
                f"call load_pipeline({model!r}, local_files_only=False) once: that takes an internet connection and some "
                "gigabytes of disk.")
    weights = sum(parameter.numel() for parameter in weightless_unet(config).parameters())
    if weights > ON_CPU and not torch.cuda.is_available() and not on_cpu:
        return (f"{model} is here, but no GPU that torch can use (torch.cuda.is_available() is False), and its UNet has "
                f"{weights / 1e6:.0f} million weights. Run this on a machine with an NVIDIA GPU, or set on_cpu = True to wait.")
    return ""


@declared
def load_or_stand_in(model, download: Truth = False, on_cpu: Truth = False, stand_in: FileName = DEFAULT):
    """(pipeline, ""), or (the stand-in, what is missing): see `what_is_missing`.

    Large models are loaded in bfloat16 on a GPU (float16 overflows in the autoencoder of SDXL), all others in float32.
    """
    missing = what_is_missing(model, download, on_cpu)
    if missing:
        return load_pipeline(stand_in), missing
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return load_pipeline(model, dtype=dtype, local_files_only=not download), ""


def _folder_or_hub_id(model) -> str:
    """The folder, found from anywhere in the repository, or the hub id as it is."""
    if not isinstance(model, str) or not model.strip():
        raise ValueError(f"model is {model!r}: pass a folder in diffusers' layout, or a hub id such as "
                         "'stable-diffusion-v1-5/stable-diffusion-v1-5'")
    folder = find_folder(model)
    beside = Path(find_folder(str(Path(model).parent)))
    if not Path(folder).exists() and (not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or beside.is_dir()):
        raise ValueError(f"model is {model!r}: there is no such folder; pass one in diffusers' layout, or a hub id OWNER/NAME")
    return folder


# ---------------------------------------------------------------------------------------------- one gradient, three doors

@dataclass
class Cost:
    """What went through a denoiser."""
    passes: int = 0
    pictures: int = 0                   # each branch of each picture is one
    with_gradient: int = 0              # of these
    seconds: float = 0.0


@contextmanager
def counted(pipe) -> Iterator[Cost]:
    """Count what goes through a pipeline's denoiser inside: `with counted(pipe) as cost: ...`."""
    cost, started = Cost(), time.perf_counter()

    def count(module, given, output):
        prediction = output[0] if isinstance(output, tuple) else output.sample
        cost.passes += 1
        cost.pictures += len(prediction)
        cost.with_gradient += len(prediction) * prediction.requires_grad
    hook = denoiser(pipe).network.register_forward_hook(count)
    try:
        yield cost
    finally:
        hook.remove()
        cost.seconds = time.perf_counter() - started


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of diffusers and transformers on what is experimental or not installed."""
    loggers = (logging, transformers_logging)
    levels = [logger.get_verbosity() for logger in loggers]
    try:
        for logger in loggers:
            logger.set_verbosity_error()
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.set_verbosity(level)


def modular_loop(pipe, prompt, latents: Tensor, steps: int, guider=None, **settings) -> Tensor:
    """Latents (B, C, h, w) after diffusers' modular denoising loop for Stable Diffusion XL, with the parts of `pipe`.

    The loop tells the UNet SDXL's added inputs; that of Stable Diffusion does not ask for them, so it runs there as well.
    `settings` are those of `ReadoutGuidance`, which is made where no `guider` is given. Prompts are encoded, and latents are
    to be decoded, outside.
    """
    with quiet():
        from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLDenoiseStep
        guider = ReadoutGuidance(vae_scale_factor=denoiser(pipe).factor, **settings) if guider is None else guider
        loop = StableDiffusionXLDenoiseStep()
        loop.set_progress_bar_config(disable=True)
        modular = loop.init_pipeline()
        scheduler = denoiser(pipe).scheduler(steps)
        modular.update_components(unet=pipe.unet, scheduler=scheduler, guider=guider)
    told = encode_prompts(pipe, prompt, image_size=denoiser(pipe).image_size(latents))
    fields = {"prompt_embeds": told.prompt_embeds, "negative_prompt_embeds": told.negative_prompt_embeds}
    for name, key in (("pooled_prompt_embeds", "text_embeds"), ("add_time_ids", "time_ids")):
        if told.added.get(key) is not None:
            fields |= {name: told.added[key], f"negative_{name}": told.negative_added[key]}
    return modular(denoiser_input_fields=fields, latents=latents, timesteps=scheduler.timesteps, num_inference_steps=steps,
                   output="latents")
