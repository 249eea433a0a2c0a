"""Pictures to latents and back, whichever autoencoder a pipeline has: KL (Stable Diffusion, FLUX), tiny, or VQ."""
from __future__ import annotations

import threading
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checks import finite
from .pictures import as_pictures
from .undo import undone

_ONE_AT_A_TIME = threading.RLock()      # an autoencoder is changed for a while, see `_float32`


@torch.no_grad()
def encode(pipe, pictures, unit: int = 1) -> Tensor:
    """Whatever `as_pictures` takes, with sides that are multiples of `unit` -> latents (B, C, h, w) as the denoiser sees them, the
    mean where there is a distribution. Raises ValueError for anything else and for values that overflow even in float32."""
    vae, pictures = _autoencoder(pipe), as_pictures(pictures, unit=unit)

    def run(dtype):
        encoded = vae.encode(pictures.to(_device(pipe), dtype) * 2 - 1)
        return encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
    latents = _without_overflow(vae, run, "encoded latents")
    mean, std, shift, scale = _statistics(vae, latents)
    return ((latents - shift - mean) * scale / std).to(_dtype(pipe))


@torch.no_grad()
def decode(pipe, latents: Tensor, vae=None) -> Tensor:
    """Latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], float32; by another autoencoder of the same latents than the
    pipeline's own where one is given."""
    vae = _autoencoder(pipe) if vae is None else vae
    mean, std, shift, scale = _statistics(vae, latents)

    def run(dtype):
        return vae.decode((latents.to(_device(pipe)) * std / scale + shift + mean).to(dtype), return_dict=False)[0]
    return (_without_overflow(vae, run, "decoded picture").float() / 2 + 0.5).clamp(0, 1)


def _autoencoder(pipe):
    if getattr(pipe, "vae", None) is None:
        raise ValueError(f"this {type(pipe).__name__} has no autoencoder (`vae`), so pictures can neither be encoded nor decoded; pass the "
                         "whole pipeline")
    return pipe.vae


def _statistics(vae, like):
    """Mean, standard deviation, shift and scale of the latents: a model that has none gets 0 and 1, which change no bit."""
    config = vae.config
    mean, std = (None if getattr(config, name, None) is None else torch.tensor(getattr(config, name)).view(1, -1, 1, 1).to(like)
                 for name in ("latents_mean", "latents_std"))
    return (0.0 if mean is None else mean, 1.0 if std is None else std,
            getattr(config, "shift_factor", None) or 0.0, getattr(config, "scaling_factor", None) or 1.0)


def _without_overflow(vae, run, what) -> Tensor:
    """Run in the autoencoder's own number format, and in float32 where its config asks for it (SDXL) or values overflow."""
    with _ONE_AT_A_TIME:                                # the others would meet it in the wrong format
        dtype = vae.dtype
        if dtype == torch.float32 or not getattr(vae.config, "force_upcast", False):
            result = run(dtype)
            if dtype == torch.float32 or result.isfinite().all():
                return finite(result, what)
        with _float32(vae):
            return finite(run(torch.float32), what)


@contextmanager
def _float32(vae):
    """The autoencoder in float32 inside, and in what it was in outside, to the bit.

    By torch's own `to`: diffusers' warns of a change that is not undone.
    """
    before = vae.dtype
    with undone(lambda: nn.Module.to(vae, before)):
        nn.Module.to(vae, torch.float32)
        yield


def _device(pipe):
    return getattr(pipe, "_execution_device", None) or pipe.vae.device


def _dtype(pipe):
    network = getattr(pipe, "unet", None)
    return (network if network is not None else getattr(pipe, "transformer", pipe.vae)).dtype
