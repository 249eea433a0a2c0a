"""What the notebooks' first cells say to a parameter that cannot work, before anything slow starts.

papermill passes on whatever it is given: a number too large, a word where a number belongs, a folder that is not there.
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Callable, Literal, Mapping

from pydantic import BeforeValidator, Field

from ..checks import FileName, Number, Truth, Whole, Words, as_number, checked
from ..files import refuse_file, refuse_others
from ..pipelines import find_folder
from ..puppets.basemodel import PARTS
from ..puppets.training import CARD
from ..puppets.world import JOINTS, SIZE

PICTURES = (".png", ".jpg", ".webp")    # ends of names that pictures are written to
SEED = (0, 10**12)                      # a rule for seeds: any whole number that this project may ask for


def check_parameters(values: Mapping, **rules) -> None:
    """Raise a ValueError that names the first parameter whose value breaks its rule, and says what to choose instead.

    `values` holds the parameters by their names, such as a notebook's `globals()`. A rule is one of
        (low, high): a number in this range, a whole one where both bounds are ints
        [low, high]: a list of at least one such number
        bool, str: True or False; a text that is not empty
        Path: the name of a file or folder, a text; empty for none
        a set, or the keys of a dict: one of its members
        a function: called with the value; its ValueError's message is passed on
    The other public functions of this module are such functions, `fits(...)` and `picture_points(...)` make some.
    """
    for name, rule in rules.items():
        checked(name, values[name], _kind(rule))


def existing_folder(value) -> None:
    """A folder, found as `load_pipeline` finds it."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or not Path(find_folder(value)).is_dir():
        raise ValueError("there is no such folder; name one that exists, from here or from the repository's top")


def model_folder(value) -> None:
    """The folder of a pipeline, as `load_pipeline` reads it."""
    _folder_with(value, "model_index.json", "this folder is no pipeline, it lacks model_index.json; name one such as data/puppet-diffusion")


def one_head(value) -> None:
    """The folder of a head, as `load_head` reads it."""
    _folder_with(value, "head.safetensors", "this folder is no head, it lacks head.safetensors; name one such as data/heads/pose")


def some_heads(value) -> None:
    """A folder that holds folders of heads."""
    _folder_with(value, "*/head.safetensors", "this folder holds no folders of heads (each with head.safetensors); name one such as data/heads")


def _folder_with(value, pattern: str, otherwise: str) -> None:
    existing_folder(value)
    if not any(path.is_file() for path in Path(find_folder(value)).glob(pattern)):
        raise ValueError(otherwise)


def existing_file(value) -> None:
    """A file that is there; empty for none."""
    if _name(value) and not Path(value).is_file():
        raise ValueError("there is no such file; name one that exists, or give \"\" for none")


def picture_file(value) -> None:
    """A file that a picture can be written to; empty for none."""
    if _name(value):
        if Path(value).suffix.lower() not in PICTURES:
            raise ValueError(f"give a name that ends in {', '.join(PICTURES)}, or \"\" for none")
        refuse_file(Path(value).parent)


def free_folder(value) -> None:
    """A folder that something can be written to; empty for none."""
    if _name(value):
        refuse_file(value)


def pipeline_folder(value) -> None:
    """A folder that a pipeline can be exported to: a new one, or that of another such pipeline; empty for none."""
    free_folder(value)
    if value:
        refuse_others(value, (*PARTS, *CARD))


def _name(value) -> str:
    if not isinstance(value, (str, Path)):
        raise ValueError("give the name of a file or folder, a text in quotes, \"\" for none")
    return str(value)


def any_text(value) -> None:
    """A text, which may be empty."""
    if not isinstance(value, str):
        raise ValueError("give a text in quotes, \"\" for none")


def list_of_texts(value) -> None:
    """A list of at least one text."""
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) and each.strip() for each in value):
        raise ValueError("give a list of at least one text")


def interval(value) -> None:
    """Two fractions of the steps, from where to where."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or any(map(_not_number, value)) or not 0 <= value[0] < value[1] <= 1:
        raise ValueError("give two fractions of the steps, [start, stop] with 0 <= start < stop <= 1")


def arm_angles(value) -> None:
    """Degrees for the left arm, the right arm, or both."""
    if not isinstance(value, dict) or not value or set(value) - {"left", "right"} or any(map(_not_number, value.values())):
        raise ValueError("give degrees by arm, such as {'left': 65, 'right': 65}")


def picture_points(count: int, names=()) -> Callable:
    """`count` points [x, y] inside the picture, in pixels; `names` are theirs."""
    def rule(value):
        good = isinstance(value, (list, tuple)) and len(value) == count and all(
            isinstance(point, (list, tuple)) and len(point) == 2 and not any(map(_not_number, point))
            and all(0 <= number < SIZE for number in point) for point in value)
        if not good:
            order = f", in the order {', '.join(names)}" if names else ""
            raise ValueError(f"give {count} points [x, y] in pixels from 0 to below {SIZE}{order}")
    return rule


joint_points = picture_points(len(JOINTS), JOINTS)


def fits(widget: type) -> Callable:
    """What a widget of this class accepts as its value; None, which makes it start with a value of its own, is refused."""
    def rule(value):
        if value is None:
            raise ValueError("give a list, [] for none")
        widget(value=value)
    return rule


def _kind(rule):
    """The type that a rule stands for."""
    if isinstance(rule, list):
        return Annotated[list[_kind(tuple(rule))], Field(min_length=1)]
    if isinstance(rule, tuple):
        return Annotated[Whole if all(isinstance(bound, int) for bound in rule) else Number, Field(ge=rule[0], le=rule[1])]
    if isinstance(rule, (set, frozenset, Mapping)):
        return Literal[tuple(sorted(rule))]
    return PLAIN.get(rule) or Annotated[Any, BeforeValidator(lambda value: rule(value))]


PLAIN = {bool: Truth, str: Words, Path: FileName}


def _not_number(value) -> bool:
    try:
        as_number(value)
    except ValueError:
        return True
    return False
