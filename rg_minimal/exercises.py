"""The self-checks of the notebooks' exercises: each takes a student's answer and returns one sentence about it.

A notebook prints what a check returns: "Not done yet: ..." while the answer is None, "Right: ..." where it is right, and
otherwise what is wrong, with the numbers and the likely mistake. A check never raises because of an answer, so that
"Run all" gets through a notebook whose exercises are not solved. Nothing else in the package imports this module.
The sections follow the notebooks; worked solutions are in notebooks/solutions.
"""
from __future__ import annotations

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------- for all checks


def _tensor_problem(answer, like: Tensor, name: str = "your tensor") -> str:
    """What keeps an answer from being compared with the tensor `like`, or "" where nothing does."""
    if not torch.is_tensor(answer):
        return f"Not yet: {name} is a {type(answer).__name__}, and a tensor is asked for."
    if answer.shape != like.shape:
        return f"Not yet: {name} has shape {tuple(answer.shape)}, and {tuple(like.shape)} is asked for."
    if not answer.isfinite().all():
        return f"Not yet: {name} holds NaN or infinity."
    return ""


def _near(answer: Tensor, expected: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two tensors agree to `tolerance` of the expected one's largest value."""
    answer, expected = answer.detach().double().cpu(), expected.detach().double().cpu()
    return bool((answer - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-12))


# ---------------------------------------------------------------------------------------------- 1  diffusion


# ---------------------------------------------------------------------------------------------- 2  features


# ---------------------------------------------------------------------------------------------- 3  aggregation


# ---------------------------------------------------------------------------------------------- 11  larger models


# ---------------------------------------------------------------------------------------------- A2  measuring
