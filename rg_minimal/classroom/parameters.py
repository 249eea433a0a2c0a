"""What the notebooks' first cells say to a parameter that cannot work, before anything slow starts.

papermill passes on whatever it is given: a number too large, a word where a number belongs, a folder that is not there.
"""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping

from ..pipelines import find_folder
from ..puppets.world import JOINTS, SIZE

SEED = (0, 10**12)                      # a rule for seeds: any whole number that this project may ask for


def check_parameters(values: Mapping, **rules) -> None:
    """Raise a ValueError that names the first parameter whose value breaks its rule, and says what to choose instead.

    `values` holds the parameters by their names, such as a notebook's `globals()`. A rule is one of
        (low, high): a number in this range, a whole one where both bounds are ints
        [low, high]: a list of at least one such number
        bool, str: True or False; a text that is not empty
        a set, or the keys of a dict: one of its members
        a function: called with the value; its ValueError's message is passed on
    `existing_folder`, `list_of_texts`, `interval`, `arm_angles`, `joint_points`, `fits(...)` in this module are such functions.
    """
    for name, rule in rules.items():
        try:
            _check(values[name], rule)
        except ValueError as error:
            raise ValueError(f"{name} is {values[name]!r}: {error}") from None


def existing_folder(value) -> None:
    """A folder, found as `load_pipeline` finds it."""
    if not isinstance(value, (str, Path)) or not str(value).strip() or not Path(find_folder(value)).is_dir():
        raise ValueError("there is no such folder; name one that exists, from here or from the repository's top")


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
    """What a widget of this class accepts as its value."""
    return lambda value: widget(value=value)


def _check(value, rule) -> None:
    if isinstance(rule, list):
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError(f"give a list of numbers from {rule[0]} to {rule[1]}")
        for each in value:
            _check(each, tuple(rule))
    elif isinstance(rule, tuple):
        low, high = rule
        whole = isinstance(low, int) and isinstance(high, int)
        if _not_number(value) or whole and not isinstance(value, int) or not low <= value <= high:         # NaN is in no range
            raise ValueError(f"choose a {'whole ' if whole else ''}number from {low} to {high}")
    elif rule is bool:
        if not isinstance(value, bool):
            raise ValueError("choose True or False")
    elif rule is str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("write it in words")
    elif callable(rule):
        rule(value)
    elif not isinstance(value, str) or value not in rule:
        raise ValueError(f"choose one of {', '.join(map(repr, sorted(rule)))}")


def _not_number(value) -> bool:
    return isinstance(value, bool) or not isinstance(value, (int, float))
