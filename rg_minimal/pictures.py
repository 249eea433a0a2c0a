"""The one door for pictures: what other libraries call a picture comes out as (B, 3, H, W) in [0, 1], or is refused in words.

    as_pictures(Image.open("photo.jpg"), "pictures", unit=8)        # (1, 3, H, W), float32

What a picture is has to be said by what holds it, never guessed from its numbers:

    PIL image, in any mode      turned as its EXIF data say, transparency laid on white, 16 bits a channel scaled
    path of a file              the same; its size is looked at before it is decoded
    numpy array                 (H, W, 3) or (B, H, W, 3) of uint8 or uint16, or of floats in [0, 1]; also (H, W) or one channel
                                for grey, and two or four channels, of which the last is opacity
    tensor                      (3, H, W) or (B, 3, H, W) of floats in [0, 1]
    list or tuple               of those, all of one size
"""
from __future__ import annotations

import math
import os
import warnings
from contextlib import contextmanager

import numpy
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from .checks import Count, Text, declared, describe

MOST = 100_000_000          # pixels of a picture: 10 000 x 10 000, more than phones take
ROUNDING = 1e-4             # how far outside [0, 1] a float may lie, as after resizing; it is brought back
LARGEST = {"uint8": 255, "uint16": 65535}
ALLOWED = ("pass a PIL image, a numpy array (H, W, 3) or (B, H, W, 3) of uint8, a tensor (3, H, W) or (B, 3, H, W) of floats in [0, 1], "
           "the path of a picture file, or a list of those")


@declared
def as_pictures(value, name: Text = "pictures", unit: Count = 1) -> Tensor:
    """Pictures as (B, 3, H, W) in [0, 1], float32; a tensor that is so already is returned as it is.

    Args:
        value: see above.
        name: what messages call it.
        unit: pixels that both sides have to be multiples of, as an autoencoder needs it.
    Raises ValueError, which says what was passed (shape, number format, range), what is allowed and what to do.
    """
    pictures = _pictures(value, name)
    height, width = pictures.shape[-2:]
    if height % unit or width % unit:
        fits = " x ".join(str(max(side // unit, 1) * unit) for side in (height, width))
        raise ValueError(f"{_are(name)} {height} x {width} pixels large (height x width), but this model takes sides that are multiples of "
                         f"{unit}; crop or resize to {fits}")
    return pictures


@contextmanager
def opened(file, name: str = "picture", shown: str | None = None):
    """A picture file (a path, or an open file) as a PIL image of which only the header was read. ValueError where it is none, or
    holds more than `MOST` pixels; `shown` stands for it in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)     # `_check_size` decides
            image = Image.open(file)
    except Image.DecompressionBombError:
        raise ValueError(f"{_are(name)} {shown or repr(os.fspath(file))}: more than {MOST} pixels; make it smaller") from None
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise ValueError(f"{_are(name)} {shown or repr(file)}, which is no picture that can be read ({error}): give the path of a PNG or "
                         "JPEG file") from None
    with image:
        _check_size(image.size[::-1], name, _told(image))
        yield image


# ---- what holds it -----------------------------------------------------------------------------------------------------

def _pictures(value, name: str) -> Tensor:
    if isinstance(value, (str, os.PathLike)):
        with opened(value, name) as image:
            return _from_image(image, name)
    if isinstance(value, Image.Image):
        return _from_image(value, name)
    if torch.is_tensor(value):
        return _from_tensor(value, name)
    if isinstance(value, numpy.ndarray):
        return _from_array(value, name)
    if isinstance(value, (list, tuple)) and value:
        parts = [_pictures(each, f"{name}[{i}]") for i, each in enumerate(value)]
        for i, part in enumerate(parts):
            if part.shape[-2:] != parts[0].shape[-2:]:
                raise ValueError(f"{name}[{i}] is {_size(part)} and {name}[0] {_size(parts[0])} pixels large (height x width); crop or resize "
                                 "them to one size, or pass them one by one")
        return torch.cat([part.to(parts[0].device) for part in parts])
    raise ValueError(f"{_are(name)} {_told(value)}, which is no picture; {ALLOWED}")


def _from_image(image: Image.Image, name: str) -> Tensor:
    told = _told(image)
    _check_size(image.size[::-1], name, told)
    try:
        array = _array_of(ImageOps.exif_transpose(image))
    except Exception as error:              # the readers of PIL raise many kinds where a file is damaged
        raise ValueError(f"{_are(name)} {told}, which cannot be read ({error}); save it anew, as PNG") from None
    return _from_array(array, name, told)


def _array_of(image: Image.Image):
    """A PIL image as an array of uint8, uint16 or floats in [0, 1], (H, W) or (H, W, C)."""
    if image.mode.startswith("I;16"):
        return numpy.asarray(image)
    if image.mode in ("I", "F"):            # PIL keeps bytes, 16 bits (so it reads some PNG files) and, in F, fractions in these
        array = numpy.asarray(image)
        if array.min() < 0 or not array.max() <= 65535:
            raise ValueError(f"its values lie in [{array.min():g}, {array.max():g}], and 0 to 255 or 65535 are known")
        if image.mode == "F" and array.max() <= 1:
            return array
        return array.astype(numpy.float32) / (255 if array.max() <= 255 else 65535)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    if image.mode == "La":
        image = image.convert("LA")
    return numpy.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _from_array(array, name: str, told: str | None = None) -> Tensor:
    told = told or _told(array)
    if array.ndim not in (2, 3, 4) or not array.size or (array.ndim > 2 and array.shape[-1] not in (1, 2, 3, 4)):
        first = array.ndim > 2 and array.shape[-3] in (3, 4)
        remedy = "channels come last in numpy: numpy.moveaxis(array, -3, -1), or torch.from_numpy(array)" if first else ALLOWED
        raise ValueError(f"{_are(name)} {told}; {remedy}")
    if array.dtype.name not in LARGEST and array.dtype.kind != "f":
        raise ValueError(f"{_are(name)} {told}; pass uint8 from 0 to 255, uint16, or floats in [0, 1]")
    array = array[..., None] if array.ndim == 2 else array
    array = array[None] if array.ndim == 3 else array                                   # (B, H, W, C)
    _check_size(array.shape[1:3], name, told)
    scaled = array.astype(numpy.float32) / LARGEST.get(array.dtype.name, 1)
    pictures = _in_unit(torch.from_numpy(scaled).permute(0, 3, 1, 2).contiguous(), name, told)      # (B, C, H, W)
    if pictures.shape[1] in (2, 4):
        colours, opacity = pictures[:, :-1], pictures[:, -1:]
        pictures = colours * opacity + (1 - opacity)                                    # on white
    return pictures.expand(-1, 3, -1, -1).contiguous()


def _from_tensor(tensor: Tensor, name: str) -> Tensor:
    told = _told(tensor)
    if tensor.ndim not in (3, 4) or not tensor.numel() or tensor.is_meta or tensor.layout != torch.strided:
        raise ValueError(f"{_are(name)} {told}; {ALLOWED}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{_are(name)} {told}; pass floats in [0, 1], (B, 3, H, W)")
    if not tensor.is_floating_point():
        raise ValueError(f"{_are(name)} {told}; pass floats in [0, 1]: divide by the largest value there can be, bytes by 255")
    if tensor.shape[-3] != 3:
        remedies = {1: "grey pictures need their channel three times: .expand(-1, 3, -1, -1)",
                    4: "latents are asked for by name, latents=...; of pictures with opacity pass the PIL image, or the first three channels"}
        last = "the channels come last: .movedim(-1, -3) brings them to their place"
        remedy = last if tensor.shape[-1] in (3, 4) else remedies.get(tensor.shape[-3], "latents are asked for by name, latents=...")
        raise ValueError(f"{_are(name)} {told}; pass (B, 3, H, W), three channels before height and width: {remedy}")
    _check_size(tensor.shape[-2:], name, told)
    tensor = tensor if tensor.ndim == 4 else tensor[None]
    return _in_unit(tensor.float(), name, told)


# ---- what is in it -----------------------------------------------------------------------------------------------------

def _check_size(size, name: str, told: str) -> None:
    """ValueError for no pixel at all and for too many, before any of them is looked at."""
    if not size[0] * size[1]:
        raise ValueError(f"{_are(name)} {told}, without any pixel; pass a picture with at least one")
    if size[0] * size[1] > MOST:
        raise ValueError(f"{_are(name)} {told}: {size[0] * size[1]} pixels, more than {MOST}; make it smaller")


def _in_unit(pictures: Tensor, name: str, told: str) -> Tensor:
    """Floats in [0, 1]; what lies outside by no more than rounding is brought back."""
    low, high = float(pictures.min()), float(pictures.max())
    if not pictures.isfinite().all():
        count = int((~pictures.isfinite()).sum())
        raise ValueError(f"{_are(name)} {told} with {count} values that are not finite (NaN or infinity); pass floats in [0, 1]")
    if low < -ROUNDING or high > 1 + ROUNDING:
        remedy = ("divide by 255" if low >= 0 and high > 2 else "bring [-1, 1] to [0, 1] by (x + 1) / 2, or cut with .clamp(0, 1) what is a "
                  "little outside")
        raise ValueError(f"{_are(name)} {told}; pass floats in [0, 1]: {remedy}")
    return pictures.clamp(0, 1) if low < 0 or high > 1 else pictures


def _told(value) -> str:
    """A value in few words: shape, number format and range, or, of an image, size and mode."""
    if isinstance(value, Image.Image):
        return f"a PIL image of {value.height} x {value.width} pixels (height x width) in mode {value.mode}"
    numbers = torch.is_tensor(value) and not value.is_meta and value.layout == torch.strided and not value.is_complex() or \
        isinstance(value, numpy.ndarray) and value.dtype.kind in "biuf"
    if not numbers or not 0 < math.prod(value.shape) <= 3 * MOST:
        return describe(value)
    return f"{describe(value)} in [{float(value.min()):g}, {float(value.max()):g}]"


def _size(pictures: Tensor) -> str:
    return f"{pictures.shape[-2]} x {pictures.shape[-1]}"


def _are(name: str) -> str:
    return f"{name} {'are' if name.endswith('s') else 'is'}"
