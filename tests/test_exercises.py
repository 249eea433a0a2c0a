"""The self-checks of the exercises: each knows the right answer, None, and the mistakes that are likely."""
import pytest
import torch

from rg_minimal import exercises


def test_every_check_answers_none_with_not_done_yet():
    """A fresh notebook passes None; what else a check is given must not be looked at before that."""
    checks = [check for name, check in vars(exercises).items()
              if callable(check) and getattr(check, "__module__", "") == exercises.__name__ and not name.startswith("_")]
    for check in checks:
        needed = check.__code__.co_argcount - len(check.__defaults__ or ())
        answer = check(*[None] * needed)
        assert isinstance(answer, str) and answer.startswith("Not done yet: "), (check.__name__, answer)


# ---------------------------------------------------------------------------------------------- 1  diffusion


# ---------------------------------------------------------------------------------------------- 2  features


# ---------------------------------------------------------------------------------------------- 3  aggregation


# ---------------------------------------------------------------------------------------------- 11  larger models


# ---------------------------------------------------------------------------------------------- A2  measuring
