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
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Annotated, Any, Callable, Literal, get_origin, get_type_hints

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


def _counts(value) -> tuple[int, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value           # of numpy or torch
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("pass one or more whole numbers")
    counts = tuple(as_whole(each) for each in value)
    if min(counts) < 1:
        raise ValueError("pass whole numbers of at least 1")
    return counts


def _truth(value) -> bool:
    if not _is_truth(value) or getattr(value, "ndim", 0):
        raise ValueError("pass True or False")
    return bool(value)


def _text(value) -> str:
    if not isinstance(value, str):
        raise ValueError("pass a text in quotes")
    return value


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
Number = Annotated[float, BeforeValidator(as_number)]
Positive = Annotated[float, BeforeValidator(as_number), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(as_number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(as_number), Field(ge=0, le=1)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Seed = Annotated[int, BeforeValidator(as_whole), Field(ge=0, le=10**12)]
Text = Annotated[str, BeforeValidator(_text)]                                   # may be empty
Words = Annotated[str, BeforeValidator(_words)]
RateOrFunction = Annotated[Any, BeforeValidator(_rate_or_function)]
SeedOrGenerator = Annotated[Any, BeforeValidator(_seed_or_generator)]
Entries = Annotated[dict, BeforeValidator(_entries)]
FileName = Annotated[str, BeforeValidator(_file_name)]                          # or a Path; empty for none
SomeName = Annotated[str, BeforeValidator(_some_name)]                          # the same, never empty
Function = Annotated[Any, BeforeValidator(_callable)]


# ---- tensors -----------------------------------------------------------------------------------------------------------

def as_map(value, unit: bool = False) -> Tensor:
    """A finite map (B, C, H, W), in [0, 1] if `unit`; (C, H, W) gets its batch axis. Raises ValueError."""
    if not torch.is_tensor(value) or value.ndim not in (3, 4) or not value.numel() or value.is_complex():
        raise ValueError(f"pass a tensor (B, C, H, W) or (C, H, W), not {describe(value)}")
    value = value if value.is_floating_point() else value.float()
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
        raise ValueError(f"pass N >= {least} finite points (x, y) in pixels, shape (N, 2), not {describe(value)}")
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
    return boxes


Map = Annotated[Any, BeforeValidator(as_map)]
UnitMap = Annotated[Any, BeforeValidator(functools.partial(as_map, unit=True))]
Mask = Annotated[Any, BeforeValidator(as_mask)]
Points = Annotated[Any, BeforeValidator(as_points)]
AnyPoints = Annotated[Any, BeforeValidator(functools.partial(as_points, least=0))]      # also none
Boxes = Annotated[Any, BeforeValidator(as_boxes)]
Shares = Annotated[Any, BeforeValidator(as_shares)]


def rows(tensor: Tensor, batch: int, name: str) -> Tensor:
    """Repeat a single row for the whole batch; any other number of rows than 1 or `batch` is a ValueError."""
    if tensor.shape[0] not in (1, batch):
        raise ValueError(f"{name} has {tensor.shape[0]} rows for {batch} pictures; pass 1 or {batch}")
    return tensor.expand(batch, *tensor.shape[1:])


def check_fit(settings, batch: int, image_size: tuple[int, int]) -> None:
    """ValueError where a declared map has neither 1 nor `batch` rows, a point or box lies outside a picture of (H, W) pixels, or
    the source of a comparison position by position is a picture of another size."""
    height, width = image_size
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if name == "source" and getattr(value, "image_size", image_size) != image_size and not getattr(settings, "pool", False):
            raise ValueError(f"the source is a picture of {value.image_size} pixels (height, width), but one of {image_size} is made; "
                             "sample or invert the source at that size")
        kinds = [each for each in (Map, UnitMap, Mask, Points, Boxes) if each == hint or each in getattr(hint, "__args__", ())]
        if not kinds or value is None:
            continue
        if kinds[0] is Points:
            outside = [point for point in value.tolist() if not (0 <= point[0] < width and 0 <= point[1] < height)]
        elif kinds[0] is Boxes:
            outside = [box for box in value if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height)]
        else:
            outside = rows(value, batch, name)[:0].tolist()
        if outside:
            what = "(" + ", ".join(f"{side:g}" for side in outside[0]) + ")"
            raise ValueError(f"{name} holds {what}, outside the picture of {width} x {height} pixels; points are (x, y) and boxes "
                             "(x0, y0, x1, y1) in pixels of the image")


def check_weights(tensors: dict[str, Tensor], wanted: dict[str, Tensor], source) -> None:
    """ValueError, which names their source, where weights from a file are not finite, or whole numbers where fractions are wanted."""
    for name, tensor in tensors.items():
        if name in wanted and tensor.is_floating_point() != wanted[name].is_floating_point():
            raise ValueError(f"the weights in {source} are damaged: {name} holds {tensor.dtype} for {wanted[name].dtype}; make or fetch them again")
        if not tensor.isfinite().all():
            raise ValueError(f"the weights in {source} are damaged: {name} holds NaN or infinity; make or fetch them again")


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
