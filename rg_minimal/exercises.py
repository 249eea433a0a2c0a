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


def _close(answer: Tensor, expected: Tensor, by: float) -> bool:
    """Whether two tensors of one shape differ nowhere by more than `by`."""
    return bool((answer - expected).abs().max() <= by)


def _number(answer) -> float | None:
    """A finite number, also from a tensor with one element, as a float; None for anything else."""
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):
        return None
    return value if value == value and abs(value) != float("inf") else None


# ---------------------------------------------------------------------------------------------- 1  diffusion


# ---------------------------------------------------------------------------------------------- 2  features


# ---------------------------------------------------------------------------------------------- 3  aggregation


# ---------------------------------------------------------------------------------------------- 6  sketches

def depth_ramp(answer) -> str:
    """6.1: sky 0 down to row 79, then from 0 at row 80 evenly to 0.8 at row 127, (1, 1, 128, 128)."""
    if answer is None:
        return "Not done yet: put a depth map (1, 1, 128, 128) into my_ground."
    wanted = torch.cat((torch.zeros(80), torch.linspace(0, 0.8, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    problem = _tensor_problem(answer, wanted, "my_ground")
    if problem:
        return problem
    answer = answer.detach().float().cpu()
    if _close(answer, wanted, 0.02):
        return "Right: the sky is farthest, and the ground comes nearer with every row."
    if _close(answer, wanted.mT, 0.02):
        return "Not yet: your ramp runs across the columns; depth changes from row to row, and rows are the third axis."
    if _close(answer[..., 80:, :], wanted[..., 80:, :].flip(-2), 0.02):
        return "Not yet: your ground is nearest at the horizon; larger is nearer, so it has to rise towards row 127."
    if answer[..., :80, :].abs().max() > 0.02:
        return f"Not yet: in the sky (rows 0 to 79) you have values up to {answer[..., :80, :].max():.2f}, and 0 is asked for."
    return (f"Not yet: row 80 has {answer[0, 0, 80].mean():.2f}, row 104 {answer[0, 0, 104].mean():.2f} and row 127 "
            f"{answer[0, 0, 127].mean():.2f}; asked for are 0.00, {wanted[0, 0, 104, 0]:.2f} and 0.80.")


def sketch_precision(answer, found, strokes, near: int = 2) -> str:
    """6.2: the share of the edge pixels `found` that lie within `near` pixels of `strokes`, both bool (1, 1, H, W)."""
    if answer is None:
        return "Not done yet: put the precision, a number from 0 to 1, into my_precision."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_precision is a {type(answer).__name__}, and a single number is asked for."
    wide = lambda x: torch.nn.functional.max_pool2d(x.float(), 2 * near + 1, 1, near) > 0
    share = lambda of, inside: float((of & inside).sum() / of.sum().clamp_min(1))
    right, recall, exact = share(found, wide(strokes)), share(strokes, wide(found)), share(found, strokes)
    if abs(value - right) <= 5e-3:
        return "Right: that is the share of the picture's edges that your strokes asked for."
    if abs(value - recall) <= 5e-3:
        return f"Not yet: {value:.3f} is the recall, the share of the strokes that became edges; exchange the two maps."
    if abs(value - exact) <= 5e-3:
        return f"Not yet: {value:.3f} counts exact hits only; widen the strokes by {near} pixels first."
    if abs(value - 100 * right) <= 0.5:
        return f"Not yet: {value:.1f} is in percent, and a number from 0 to 1 is asked for."
    if abs(value - share(torch.ones_like(found), found & wide(strokes))) <= 1e-3:
        return f"Not yet: {value:.3f} divides by all pixels; divide by the number of pixels where found is True."
    return f"Not yet: you have {value:.3f}. Of the {int(found.sum())} pixels of found, count those on the widened strokes, and divide."


# ---------------------------------------------------------------------------------------------- 11  larger models


# ---------------------------------------------------------------------------------------------- A2  measuring
