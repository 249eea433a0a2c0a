"""What may come in: declared once, checked at the door, in the user's words.

Numbers, choices and tensors are types with constraints (`Count`, `Fraction`, `Map`, ...). A dataclass that inherits from
`Declared` checks its fields against them when it is made, a function under `@declared` its arguments when it is called.
Both raise a ValueError that names the argument, what was passed, and what is allowed. pydantic does the checking.
"""
from __future__ import annotations

import argparse
import functools
import inspect
import math
import operator
import os
import sys
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Annotated, Any, Callable, Collection, Iterable, Literal, get_origin, get_type_hints

import torch
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor


# ---- numbers and choices -----------------------------------------------------------------------------------------------

def _is_truth(value) -> bool:
    """True or False, of Python, numpy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def as_whole(value) -> int:
    """A whole number of Python, numpy or torch as an int. Raises ValueError, also for True and False."""
    if _is_truth(value):
        raise ValueError("pass a whole number, not a truth value")
    try:
        return operator.index(value)                    # int, numpy's and torch's integers
    except (TypeError, ValueError, RuntimeError):
        raise ValueError("pass a whole number") from None


def as_number(value) -> float:
    """A finite number of Python, numpy or torch as a float. Raises ValueError, also for True, False and texts."""
    if _is_truth(value) or isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise ValueError("pass a number")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError("pass one number") from None
    if not math.isfinite(number):
        raise ValueError("pass a finite number")
    return number


def _two(value) -> tuple[int, int]:
    counts = _counts(value)
    if len(counts) != 2:
        raise ValueError("pass two whole numbers of at least 1")
    return counts


def _counts(value) -> tuple[int, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value           # of numpy or torch
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("pass one or more whole numbers")
    counts = tuple(as_whole(each) for each in value)
    if min(counts) < 1:
        raise ValueError("pass whole numbers of at least 1")
    return counts


def _sides(value) -> tuple[int, int]:
    try:
        return _two(value)
    except ValueError:
        raise ValueError("pass (height, width) in pixels, two whole numbers of at least 1") from None


def _truth(value) -> bool:
    if not _is_truth(value) or getattr(value, "ndim", 0):
        raise ValueError("pass True or False")
    return bool(value)


def _text(value) -> str:
    if not isinstance(value, str):
        raise ValueError("pass a text in quotes")
    return value


def _texts(value):
    if not isinstance(value, Collection) or isinstance(value, (str, bytes, dict)) or not all(isinstance(each, str) for each in value):
        raise ValueError("pass a list of texts")
    return value


def some_of(options: Iterable[str]):
    """The type of a list of some of these names, as a tuple; none may be missing from them."""
    def some(value) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(each, str) and each in known for each in value):
            raise ValueError(f"pass a list of some of {', '.join(known)}")
        return tuple(value)
    known = tuple(options)
    return Annotated[tuple, BeforeValidator(some)]


def _words(value) -> str:
    if not _text(value).strip():
        raise ValueError("pass a text that is not empty")
    return value


def _file_name(value) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("pass the name of a file or folder, a text in quotes")
    return os.fspath(value)


def _some_name(value) -> str:
    if not _file_name(value).strip():
        raise ValueError("pass the name of a file or folder, which is not empty")
    return os.fspath(value)


def _entries(value) -> dict:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError("pass a dict whose keys are texts")
    return value


def _seed_or_generator(value):
    if isinstance(value, torch.Generator):
        return value
    try:
        return checked("seed", value, Seed)
    except ValueError as error:
        raise ValueError(f"{str(error).split(': ', 1)[1]}; or pass a torch.Generator") from None


def _generator(value):
    if not isinstance(value, torch.Generator):
        raise ValueError("pass a torch.Generator, such as torch.Generator().manual_seed(0)")
    return value


def _rate_or_function(value):
    try:
        return value if callable(value) else checked("it", value, NonNegative)
    except ValueError as error:
        raise ValueError(f"{str(error).split(': ', 1)[1]}; or pass a function from the fraction of the steps done to it") from None


def _callable(value):
    if not callable(value):
        raise ValueError("pass a function")
    return value


Whole = Annotated[int, BeforeValidator(as_whole)]
Count = Annotated[int, BeforeValidator(as_whole), Field(ge=1)]
Index = Annotated[int, BeforeValidator(as_whole), Field(ge=0)]
Counts = Annotated[tuple, BeforeValidator(_counts)]
Two = Annotated[tuple, BeforeValidator(_two)]
Sides = Annotated[tuple, BeforeValidator(_sides)]                               # (height, width)
Number = Annotated[float, BeforeValidator(as_number)]
Positive = Annotated[float, BeforeValidator(as_number), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(as_number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(as_number), Field(ge=0, le=1)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Seed = Annotated[int, BeforeValidator(as_whole), Field(ge=0, le=10**12)]
Text = Annotated[str, BeforeValidator(_text)]                                   # may be empty
Words = Annotated[str, BeforeValidator(_words)]
RateOrFunction = Annotated[Any, BeforeValidator(_rate_or_function)]
Random = Annotated[Any, BeforeValidator(_generator)]
SeedOrGenerator = Annotated[Any, BeforeValidator(_seed_or_generator)]
Entries = Annotated[dict, BeforeValidator(_entries)]
FileName = Annotated[str, BeforeValidator(_file_name)]                          # or a Path; empty for none
SomeName = Annotated[str, BeforeValidator(_some_name)]                          # the same, never empty
Texts = Annotated[Any, BeforeValidator(_texts)]                                 # as they are
Function = Annotated[Any, BeforeValidator(_callable)]


# ---- tensors -----------------------------------------------------------------------------------------------------------

def can_be_read(value: Tensor) -> bool:
    """Whether a tensor has numbers, one after the other, that can be reckoned with: not those of meta, sparse, and 8-bit floating ones."""
    return not value.is_meta and value.layout is torch.strided and not (value.is_floating_point() and value.element_size() < 2)


def as_map(value, unit: bool = False) -> Tensor:
    """A finite map (B, C, H, W), in [0, 1] if `unit`; (C, H, W) gets its batch axis. Raises ValueError."""
    if not torch.is_tensor(value) or value.ndim not in (3, 4) or not value.numel() or value.is_complex() or not can_be_read(value):
        raise ValueError(f"pass a tensor (B, C, H, W) or (C, H, W), not {describe(value)}")
    value = value if value.is_floating_point() else value.float()
    value = value.clone() if value.is_inference() else value            # no gradient could pass what inference mode has made
    if not value.isfinite().all():
        raise ValueError(f"it holds NaN or infinity at {int((~value.isfinite()).sum())} places")
    if unit and (value.min() < 0 or value.max() > 1):
        raise ValueError(f"it lies in [{float(value.min()):g}, {float(value.max()):g}]; pass values in [0, 1]")
    return value if value.ndim == 4 else value[None]


def as_mask(value) -> Tensor:
    """A map in [0, 1] that is not zero everywhere."""
    value = as_map(value, unit=True)
    if not value.any():
        raise ValueError("it is zero everywhere, so nothing would count; pass 1 where it matters")
    return value


def as_area(value) -> Tensor:
    """A mask (B, 1, H, W), which is the same in all channels."""
    value = as_mask(value)
    if value.shape[1] != 1:
        raise ValueError(f"pass a mask of one channel, (B, 1, h, w), not of {value.shape[1]}")
    return value


def as_points(value, least: int = 1) -> Tensor:
    """N >= `least` finite points (x, y) in pixels as float32 (N, 2), on the CPU: they are few, and are brought to what they
    are compared with. Raises ValueError."""
    try:
        points = torch.as_tensor(value)
        points = points.new_empty(0, 2) if points.shape == (0,) else points             # [] are none
        good = points.ndim == 2 and points.shape[1] == 2 and len(points) >= least and not points.is_complex()
        good = good and points.dtype != torch.bool and bool(points.isfinite().all()) and not _holds_truths(value)
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good:
        few = "one" if least == 1 else least
        raise ValueError(f"pass N >= {least} finite points (x, y) in pixels, shape (N, 2), so at least {few}, not {describe(value)}")
    return points.to("cpu", torch.float32)


def _holds_truths(points) -> bool:
    """Whether points in lists are made of True and False, or of some: torch takes these for 1 and 0."""
    return isinstance(points, (list, tuple)) and any(_is_truth(number) for point in points for number in point)


def as_shares(value):
    """A finite number of at least 0, or a tensor (N,) of such, as it is. Raises ValueError."""
    if torch.is_tensor(value) and value.ndim == 1 and value.is_floating_point():
        if not value.isfinite().all() or value.min() < 0:
            raise ValueError("it holds numbers that are negative or not finite; pass a number of at least 0 for each point")
        return value
    return checked("it", value, NonNegative)


def as_boxes(value) -> tuple[tuple[float, ...], ...]:
    """Two boxes, each (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1. Raises ValueError."""
    try:
        boxes = tuple(tuple(as_number(side) for side in box) for box in value)
    except (TypeError, ValueError):
        boxes = ()
    if [len(box) for box in boxes] != [4, 4] or not all(b[0] < b[2] and b[1] < b[3] for b in boxes):
        raise ValueError(f"{value!r} is not (source box, picture box), each (x0, y0, x1, y1) with x0 < x1, y0 < y1")
    if any(0 <= min(box) and max(box) <= 1 for box in boxes):
        raise ValueError(f"{value!r} lies in [0, 1], which are fractions of the picture; pass boxes in pixels")
    return boxes


def as_head(value, spatial: bool | None = None):
    """A readout head; with `spatial` one that reads maps, or, where that is False, one whose features are compared."""
    channels = getattr(getattr(value, "config", None), "out_channels", None)
    if channels is None or not hasattr(value, "read"):
        raise ValueError("pass a ReadoutHead, e.g. ReadoutHead.from_pretrained(folder)")
    if spatial and not channels:
        raise ValueError("this head is relative (out_channels is 0): it has no map that could equal a target; pass a spatial head, or use a "
                         "relative objective (correspondence, appearance)")
    if spatial is False and channels:
        raise ValueError(f"this head is spatial (it reads {channels} channels), and has no features to be compared by cosine similarity; pass "
                         "a relative head (out_channels=0), or use SpatialObjective")
    return value


def as_objectives(value) -> list:
    """A list of objectives, maybe none. Raises ValueError."""
    found = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)) else [None]
    for each in found:
        if not callable(each) or not hasattr(each, "strength"):
            remedy = "put it into a list: [objective]" if hasattr(value, "strength") else "pass a list of objectives, such as [SpatialObjective(...)]"
            raise ValueError(remedy)
    return found


AnyHead, SpatialHead, RelativeHead = (Annotated[Any, BeforeValidator(functools.partial(as_head, spatial=kind))] for kind in (None, True, False))
Map = Annotated[Any, BeforeValidator(as_map)]
Aims = Annotated[Any, BeforeValidator(as_objectives)]
Mask = Annotated[Any, BeforeValidator(as_mask)]
Area = Annotated[Any, BeforeValidator(as_area)]
Points = Annotated[Any, BeforeValidator(as_points)]
AnyPoints = Annotated[Any, BeforeValidator(functools.partial(as_points, least=0))]      # also none
Boxes = Annotated[Any, BeforeValidator(as_boxes)]
Shares = Annotated[Any, BeforeValidator(as_shares)]


def factor(value) -> float:
    """What a schedule returned, as a finite number of at least 0."""
    try:
        number = as_number(value)
    except ValueError:
        number = -1.0
    if number < 0:
        raise ValueError(f"schedule returned {describe(value)}; it has to return a finite number of at least 0, which scales the step")
    return number


# ---- what belongs together ---------------------------------------------------------------------------------------------

def rows(tensor: Tensor, batch: int, name: str) -> Tensor:
    """Repeat a single row for the whole batch; any other number of rows than 1 or `batch` is a ValueError."""
    if tensor.shape[0] not in (1, batch):
        raise ValueError(f"{name} has {tensor.shape[0]} rows for {batch} pictures; pass 1 or {batch}")
    return tensor.expand(batch, *tensor.shape[1:])


def check_fit(settings, batch: int, image_size: tuple[int, int], model=None) -> None:
    """ValueError where a declared map has neither 1 nor `batch` rows or is not of the shape of the picture, a mask leaves none of the
    `model`'s cells, a point or box lies outside a picture of (H, W) pixels, or a source is another picture or model's than can be
    compared with. What a distance of your own makes of its target is its own affair."""
    if model is not None and model.stop_early and getattr(settings, "moves", None) == "prediction":
        raise ValueError("moves is 'prediction', which needs the prediction of the pass with gradient, but the pipeline's stop_early is True "
                         "and ends that pass before; set pipe.stop_early = False, or move 'latents'")
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if name == "source":
            check_source(name, value, model, batch, None if getattr(settings, "pool", False) else image_size)
        height, width = image_size
        kinds = [each for each in (Map, Mask, Area, Points, Boxes) if each == hint or each in getattr(hint, "__args__", ())]
        if not kinds or value is None:
            continue
        if kinds[0] is Points:
            outside = [point for point in value.tolist() if not (0 <= point[0] <= width and 0 <= point[1] <= height)]
        elif kinds[0] is Boxes:
            sizes = (getattr(getattr(settings, "source", None), "image_size", image_size), image_size)     # the first is of the source
            wrong = [(box, (down, across)) for box, (down, across) in zip(value, sizes)
                     if not (0 <= box[0] < box[2] <= across and 0 <= box[1] < box[3] <= down)]
            outside, (height, width) = [box for box, _ in wrong], wrong[0][1] if wrong else image_size
        else:
            outside = rows(value, batch, name)[:0].tolist()
            if not (name == "target" and getattr(settings, "distance", None)) and is_stretched(value.shape[-2:], image_size):
                raise ValueError(f"{name} has {value.shape[-2]} x {value.shape[-1]} cells (height x width), and would be stretched on a picture of "
                                 f"{height} x {width} pixels; bring it to the picture's shape by cutting or padding")
        if outside:
            what = "(" + ", ".join(f"{side:g}" for side in outside[0]) + ")"
            raise ValueError(f"{name} holds {what}, outside the picture of {width} x {height} pixels; points are (x, y) and boxes "
                             "(x0, y0, x1, y1) in pixels of the image")
        if kinds[0] in (Mask, Area) and model is not None:
            cells = (height // model.factor, width // model.factor)
            left = torch.nn.functional.interpolate(value.float(), cells, mode="bilinear").flatten(1).any(1)
            if not (left.all() if getattr(settings, "pool", False) else left.any()):
                raise ValueError(f"{name} is zero everywhere, in picture {int(left.logical_not().nonzero()[0])}, once it is brought to the {cells[0]} "
                                 f"x {cells[1]} cells of the latents, so nothing would count; pass 1 where it matters, a few cells large")


def is_other_shape(cells, size) -> bool:
    """Whether (h, w) and (H, W) differ in their proportions, by more than rounding."""
    (h, w), (height, width) = cells, size
    return abs(h * width - w * height) > max(h, w, height, width)


def is_stretched(cells, size) -> bool:
    """Whether a map of (h, w) cells has another shape than what it is laid on, of (H, W), and not one cell that stands for a whole side."""
    return min(cells) > 1 and is_other_shape(cells, size)


def check_source(name: str, source, model, batch: int, image_size: tuple[int, int] | None) -> None:
    """ValueError where a source has neither 1 nor `batch` pictures, comes from another model, or is of another size than a picture
    of `image_size` (H, W) that it is compared with position by position. Of a function of your own nothing is known."""
    if not callable(source) or (name == "keep" and not hasattr(source, "latents_at")):
        raise ValueError(f"{name} is {describe(source)}; pass a Source, such as Source.from_states(pipe, states, prompt)")
    theirs, count = getattr(source, "model", None), getattr(source, "count", 1)
    if theirs is not None and model is not None and not model.same_model(theirs):
        raise ValueError(f"{name} was made with another model ({type(theirs.pipe).__name__}) than the one that samples ({type(model.pipe).__name__}), "
                         "and their features cannot be compared; make the source with the pipeline that you pass")
    if count not in (1, batch):
        raise ValueError(f"{name} has {count} pictures for {batch} that are made; make it of 1 or {batch}")
    told = getattr(getattr(source, "conditioning", None), "prompt_embeds", None)
    if told is not None and len(told) not in (1, count):
        raise ValueError(f"{name} has {len(told)} prompts for {count} pictures; make it with 1 or {count}")
    if image_size is not None and getattr(source, "image_size", image_size) != image_size:
        raise ValueError(f"the source is a picture of {source.image_size} pixels (height, width), but one of {image_size} is made; "
                         "sample or invert the source at that size")


def of_each(objective, loss, latents: Tensor) -> Tensor:
    """What an objective returned. ValueError where it is not one number for each picture, (B,)."""
    if not torch.is_tensor(loss) or loss.shape != latents.shape[:1]:
        raise ValueError(f"{type(objective).__name__} returned {describe(loss)}; an objective returns one number for each of the {len(latents)} "
                         f"pictures, shape ({len(latents)},), such as a mean over all else")
    return loss


def like_gradient(direction, gradient: Tensor) -> Tensor:
    """What a step rule returned. ValueError where it is no direction (B, C, h, w) for these latents."""
    if not torch.is_tensor(direction) or direction.shape != gradient.shape:
        raise ValueError(f"step_rule returned {describe(direction)}; it returns a direction {tuple(gradient.shape)}, as the gradient is")
    return direction


def check_course(objectives, timesteps: list, takes: list, keep=None, first: int = 0) -> None:
    """ValueError where an objective's interval holds none of these steps from the `first` on, or none that `takes` moves, its schedule
    returns no number, or a source (also `keep`) has no latents at a timestep at which it is asked for them."""
    steps = len(timesteps)
    for objective in objectives:
        check_interval(objective, steps, first, takes)
        active = [t for step, t in enumerate(timesteps) if step >= first and takes[step] and objective.strength(step, steps)]
        check_trajectory(getattr(objective, "source", None), active)
    check_trajectory(keep, timesteps)


def check_interval(objective, steps: int, first: int = 0, takes: list | None = None) -> None:
    """ValueError where the interval of an objective that counts holds none of the steps `first`, ..., `steps` - 1, or none of these that
    `takes` a move, if that is told."""
    begin, end = (int(fraction * steps + 1e-9) for fraction in (objective.start, objective.stop))
    early = " (the first step has no step before it, so a callback cannot guide it)" if first and begin < first else ""
    if end <= max(begin, first):
        held = f"none of the {steps} steps{early}"
    elif takes is not None and not any(takes[max(begin, first):end]):
        held = f"only such of the {steps} steps from which the scheduler goes on as if nothing were moved (Heun's second looks, say)"
    else:
        return
    if objective.weight:
        raise ValueError(f"start {objective.start:g} and stop {objective.stop:g} of {type(objective).__name__} hold {held}, so nothing would be guided; "
                         "widen the interval, or take more steps")


def check_trajectory(source, timesteps: list) -> None:
    """ValueError where a source that was sampled or inverted has no latents at one of these timesteps."""
    for timestep in timesteps:
        if getattr(source, "timesteps", None) and timestep not in source.timesteps:
            source.latents_at(timestep)


def check_target(config, target: Tensor, mask: Tensor | None = None, free: bool = False) -> None:
    """ValueError where a head of this config cannot read the target (B, k, h, w), or the mask has neither 1 nor k channels. With
    `free` the target may be anything, since a distance of one's own makes sense of it."""
    k = config.out_channels
    for name, value, allowed in (("target", target, (k,)), ("mask", mask, (1, k))):
        if value is not None and value.shape[1] not in allowed and not (name == "target" and free):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, but this head reads (B, {k}, h, w)")
    low, high = value_range(config)
    if not free and (target.min() < low or target.max() > high):
        raise ValueError(f"target lies in [{float(target.min()):g}, {float(target.max()):g}], but this {config.property or 'readout'} head reads "
                         f"values in [{low:g}, {high:g}]; bring the target to that range")


def value_range(config) -> tuple[float, float]:
    """What a head of this config can read at all: where it ends in tanh the range of that, or what its `extra` says."""
    if config.activation != "tanh":
        return -math.inf, math.inf
    told = config.extra.get("value_range", (-1.0, 1.0))
    try:
        low, high = map(as_number, told)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ValueError(f"the head's extra says value_range {told!r}; save it with two numbers, the smaller one first, such as [-1, 1]")
    return low, high


def label_like(readout: Tensor, label, name: str = "target") -> Tensor:
    """A label (B, k, h', w') for a readout (B, k, h, w), both of which have B and k in common: nothing is broadcast."""
    try:
        found = as_map(label)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if label.ndim != 4 or found.shape[:2] != readout.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(label.shape)} for a readout of {tuple(readout.shape)}; pass ({readout.shape[0]}, "
                         f"{readout.shape[1]}, h, w), a row for each picture and a channel for each that is read")
    if is_stretched(found.shape[-2:], readout.shape[-2:]):
        raise ValueError(f"{name} has {found.shape[-2]} x {found.shape[-1]} cells, and would be stretched on a readout of {readout.shape[-2]} x "
                         f"{readout.shape[-1]} (height x width); cut it as its picture was cut")
    return found


def check_pairs(source_points: Tensor, target_points: Tensor, anti_ghosting) -> None:
    """ValueError where points (N, 2) do not belong together: another number of them, one source point with two targets, or fractions
    of the picture instead of pixels."""
    count, other = len(source_points), len(target_points)
    if count != other or torch.as_tensor(anti_ghosting).shape not in ((), (count,)):
        raise ValueError(f"{count} source points, {other} target points and anti_ghosting {anti_ghosting}; pass as many "
                         "of each (anti_ghosting may be one number)")
    check_pixels("source_points and target_points", torch.cat((source_points, target_points.to(source_points))))
    same = (source_points[:, None] == source_points).all(-1) & (target_points[:, None] != target_points).any(-1)
    if same.any():
        first, second = same.nonzero()[0].tolist()
        x, y = source_points[first].tolist()
        raise ValueError(f"the point ({x:g}, {y:g}) is to go to two places, {tuple(target_points[first].tolist())} and "
                         f"{tuple(target_points[second].tolist())}; give each source point one target")


def check_pixels(name: str, points: Tensor) -> None:
    """ValueError for two or more points (..., 2) that all lie in the picture's first pixel: they are fractions of it."""
    if points.numel() > 2 and points.min() >= 0 and points.max() <= 1:
        raise ValueError(f"{name} all lie in [0, 1], which are fractions of the picture; pass points (x, y) in pixels, such as fractions times "
                         "(width, height)")


def matches(points_a: Tensor, points_b: Tensor, features: tuple[Tensor, Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two sets of points (B, N, 2) or (N, 2), finite and inside a picture of (H, W) pixels, as they are; ValueError for others, and for
    features (B, C, h, w) of two shapes, to which they belong."""
    same_shapes(features_a=features[0], features_b=features[1])
    batch = len(features[0])
    for name, points in (("points_a", points_a), ("points_b", points_b)):
        if not torch.is_tensor(points) or points.ndim not in (2, 3) or points.shape[-1] != 2 or not points.numel() or points.is_complex() \
                or not points.isfinite().all() or (points.ndim == 3 and len(points) != batch):
            raise ValueError(f"{name} is {describe(points)}; pass finite points (x, y) in pixels, ({batch}, N, 2) or (N, 2)")
        if points.min() < 0 or (points > points.new_tensor(image_size[::-1])).any():
            raise ValueError(f"{name} lie in [{float(points.min()):g}, {float(points.max()):g}], partly outside the picture of {image_size[1]} x "
                             f"{image_size[0]} pixels; pass points (x, y) in pixels inside it")
        check_pixels(name, points)
    if points_a.shape[-2] != points_b.shape[-2]:
        raise ValueError(f"points_a has {points_a.shape[-2]} points and points_b {points_b.shape[-2]}; pass as many of each, row n of both for the "
                         "same spot")
    return points_a, points_b


def weight_like(readout: Tensor, weight: Tensor) -> Tensor:
    """A weight (B or 1, k or 1, H, W) for a readout (B, k, H, W): one for each of its cells."""
    (b, k, *cells), shape = readout.shape, tuple(weight.shape)
    if len(shape) != 4 or shape[0] not in (1, b) or shape[1] not in (1, k) or list(shape[2:]) != cells:
        raise ValueError(f"weight has shape {shape} for a readout of {tuple(readout.shape)}; pass ({b} or 1, {k} or 1, {cells[0]}, {cells[1]})")
    if not weight.isfinite().all() or weight.min() < 0:
        raise ValueError("weight holds NaN, infinity or numbers below 0, which would turn learning round; pass finite numbers of at least 0")
    return weight.to(readout)


def same_shapes(**tensors: Tensor) -> None:
    """ValueError where the tensors differ in shape."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"these have to have one shape: {shapes}; pass a row of each for each picture")


def check_weights(tensors: dict[str, Tensor], wanted: dict[str, Tensor], source) -> None:
    """ValueError, which names their source, where weights from a file are not finite, or whole numbers where fractions are wanted."""
    for name, tensor in tensors.items():
        if name in wanted and tensor.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"the weights in {source} are damaged: {name} holds {tensor.dtype} for {wanted[name].dtype}; make or fetch them again")
        if not tensor.isfinite().all():
            raise ValueError(f"the weights in {source} are damaged: {name} holds NaN or infinity; make or fetch them again")


def movable(loss):
    """A loss that depends on the latents. ValueError for a constant, along which nothing could be moved."""
    if not getattr(loss, "requires_grad", False):
        raise ValueError("the objectives do not depend on the latents, so nothing can be guided: let each read `reading(head)`, with a head "
                         "that was not made in inference mode, and without torch.no_grad or detach")
    return loss


def finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor as it is, or a ValueError that says what overflowed."""
    if not tensor.isfinite().all():
        raise ValueError(f"{what}: NaN or infinite values. In half precision (now {tensor.dtype}) this is an overflow: "
                         "use float32, or bfloat16; otherwise lower step_size or lr")
    return tensor


def describe(value) -> str:
    """A value in few words, for messages."""
    if torch.is_tensor(value) or hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}... ({type(value).__name__})"


# ---- declaring ---------------------------------------------------------------------------------------------------------

@functools.cache
def adapters(owner) -> dict[str, tuple[TypeAdapter, bool]]:
    """For each name with a constrained type, what checks it, and whether None is allowed."""
    found = {}
    for name, hint in get_type_hints(owner, include_extras=True).items():
        members = getattr(hint, "__args__", ()) if get_origin(hint) not in (Annotated, Literal) else ()
        optional = type(None) in members
        constrained = [each for each in members if get_origin(each) in (Annotated, Literal)] if optional else [hint]
        if constrained and get_origin(constrained[0]) in (Annotated, Literal):
            config = ConfigDict(arbitrary_types_allowed=True, strict=True)
            ours = is_dataclass(getattr(constrained[0], "__origin__", None))              # InstanceOf: it has been checked
            found[name] = TypeAdapter(constrained[0], config=None if ours else config), optional
    return found


def _check(owner, name: str, value):
    adapter, optional = adapters(owner)[name]
    return None if value is None and optional else _say(adapter, name, value)


def _say(adapter: TypeAdapter, name: str, value):
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(each["msg"].removeprefix("Value error, ").replace("Input should", "it has to") for each in error.errors())
        raise ValueError(f"{name} is {describe(value)}: {reasons}") from None


EXACT = {as_whole, as_number, _truth, _text, _file_name}        # let the exact type through as it is, and bring others into it


@functools.cache
def _at_once(owner) -> tuple[Callable, Callable, tuple[str, ...]]:
    """What takes the values of all constrained fields, what checks them in one go, and their names.

    Numbers and texts are checked by their exact types, which is the rule and many times faster, so what is refused may still
    be right, such as a number of numpy.
    """
    def exact(hint):
        before = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, BeforeValidator)]
        if not before or not {each.func for each in before} <= EXACT:
            return hint
        return Annotated[hint.__origin__, *(each for each in hint.__metadata__ if each not in before), Field(strict=True)]
    hints, kinds = get_type_hints(owner, include_extras=True), []
    for name, (_, optional) in adapters(owner).items():
        members = [each for each in hints[name].__args__ if each is not type(None)] if optional else [hints[name]]
        kinds.append(exact(members[0]) | None if optional else exact(members[0]))
    config = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
    names = tuple(adapters(owner))
    take = operator.itemgetter(*names) if len(names) > 1 else lambda values: tuple(values[name] for name in names)
    return take, TypeAdapter(tuple[tuple(kinds)], config=config).validator.validate_python, names


def checked(name: str, value, kind):
    """A value brought into one of the types above, or a ValueError that begins with its name."""
    return _say(TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True, strict=True)), name, value)


def option(kind) -> Callable[[str], int]:
    """For argparse: with `type=option(Count)` an option's text is a whole number of this type, or is refused in one sentence."""
    def read(text: str) -> int:
        try:
            return checked("it", int(text) if text.lstrip("+-").isdecimal() else text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return read


@contextmanager
def one_sentence(parser: argparse.ArgumentParser):
    """What is refused inside, before a command's slow work, is refused as the parser does: one sentence, exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


def stoppable(command: Callable) -> Callable:
    """Ctrl-C ends a command with a sentence and exit status 130, and not with where it was: there is nothing to mend."""
    @functools.wraps(command)
    def called(arguments=None):
        try:
            return command(arguments)
        except KeyboardInterrupt:
            print("stopped; what had been finished is kept", file=sys.stderr, flush=True)
            sys.exit(130)
    return called


class Declared:
    """Base of dataclasses whose constrained fields are checked, and brought into their type, when one is made."""

    def __post_init__(self):
        take, check, names = _at_once(type(self))
        found = take(self.__dict__)
        try:
            made = check(found)
        except ValidationError:
            made = tuple(_check(type(self), *each) for each in zip(names, found))
        if not all(map(operator.is_, made, found)):
            self.__dict__.update(zip(names, made))


def declared(function: Callable) -> Callable:
    """Check the arguments of a function whose annotations are constrained, before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in adapters(function):
                bound.arguments[name] = _check(function, name, value)
        return function(*bound.args, **bound.kwargs)
    return called
