"""Numbers with intervals: paired differences, labels needed to match another, the Frechet distance.

Rows are dicts as `contest.read_table` gives them. Intervals of 95 % come from drawing pictures again (the bootstrap); where
there are several trainings, of which two or three say little about how much trainings differ, their mean is moved by Student's t, and what
pictures do otherwise in each training is counted there alone. So is the mean of fewer than `FEW` pictures; a share has Wilson's interval.
Of one training the interval is over pictures alone: another training may come out otherwise.
"""
from __future__ import annotations

import math
from typing import Callable

import torch
from torch import Tensor

from ..checks import Count, Fraction, Seed, Truth, declared

NUMBERS = ("control", "whole", "attributes")
DRAWS = 2000
FEW = 30                                # so many pictures are too few to be drawn again: their mean is moved by Student's t


def pick(rows: list[dict], **which) -> list[dict]:
    """The rows whose columns are these; a set stands for any of its members."""
    for name, value in which.items():                   # one column after the other: the tables are long, and most rows go with the first
        several = value if isinstance(value, (set, frozenset)) else {value}
        rows = [row for row in rows if row[name] in several]
    return list(rows)


def grid(rows: list[dict], number: str = "control", **which) -> Tensor:
    """One number of the rows that `which` names, (trainings, pictures), of the pictures that all these trainings have.

    ValueError where there is none, or where something else than training and picture differs between the rows.
    """
    part = pick(rows, **which)
    found = {(row["seed"], row["picture"]): row[number] for row in part}
    if not part or len(found) != len(part):
        said = ", ".join(f"{name}={value!r}" for name, value in which.items())
        raise ValueError(f"there are {len(part)} rows of {said}, {len(found)} of different seeds and pictures; "
                         "measure it, or say more (task, contestant, labels, strength)")
    trainings = sorted({seed for seed, _ in found})
    pictures = sorted(set.intersection(*({p for s, p in found if s == seed} for seed in trainings)))
    if not pictures:
        raise ValueError("these trainings share no picture: measure all with the same pictures")
    return torch.tensor([[float(found[seed, picture]) for picture in pictures] for seed in trainings])


def resampled(grids: list[Tensor], value: Callable[..., float], draws: int = DRAWS, seed: int = 0, bounded: bool = True) -> dict:
    """`value` of the means of several grids (trainings, pictures), which share their pictures: {"value", "low", "high",
    "n", "seeds"}.

    Pictures are drawn for all grids at once, so what is compared stays paired; trainings for each grid by itself: what shares its
    trainings is better passed as one grid of differences, which is not `bounded`.
    """
    drawn = torch.tensor([value(*means) for means in _drawn(grids, draws, seed, bounded).tolist()])
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975]))
    return {"value": value(*(float(each.mean()) for each in grids)), "low": float(low), "high": float(high),
            "n": grids[0].shape[1], "seeds": min(len(each) for each in grids)}


@declared
def shared_by(grid: Tensor, parts: Count = 1, draws: Count = DRAWS, seed: Seed = 0) -> dict:
    """`resampled` of a share: the mean of zeros and ones, (trainings, pictures), or of shares of so many `parts` of each picture. Where all,
    or all but one, are alike, drawing again shows next to nothing, so the interval is Wilson's; of several trainings or parts, which a
    picture may have right or wrong together, it is what both cover."""
    found, n, score = resampled([grid], lambda mean: mean, draws, seed), parts * grid.shape[1], 1.96 ** 2
    middle, half = found["value"] + score / 2 / n, math.sqrt(score / n * (found["value"] * (1 - found["value"]) + score / 4 / n))
    low, high = (max(0.0, (middle - half) / (1 + score / n)), min(1.0, (middle + half) / (1 + score / n)))
    if len(grid) > 1 or parts > 1:
        low, high = min(low, found["low"]), max(high, found["high"])
    return found | {"low": low, "high": high}


@declared
def mean_of(grid: Tensor, bounded: Truth = True, draws: Count = DRAWS, seed: Seed = 0) -> dict:
    """`resampled` of a mean, (trainings, pictures); of fewer than `FEW` pictures of one training it is moved by Student's t, and one alone says
    nothing of others. Of numbers between 0 and 1 (`bounded`; distances are not) all may be 0, or 1, and another picture still
    differ: as `shared_by`."""
    if bounded and grid.min() == grid.max() and float(grid.max()) in (0.0, 1.0):
        return shared_by(grid, 1, draws, seed)
    if len(grid) > 1 or grid.shape[1] >= FEW:
        return resampled([grid], lambda mean: mean, draws, seed)
    found = _of_few(grid, draws, seed)
    return found | {"low": max(found["low"], 0.0 if grid.min() >= 0 else -math.inf), "high": min(found["high"], 1.0 if bounded else math.inf)}


def _of_few(grid: Tensor, draws: int, seed: int) -> dict:
    """`resampled` of the mean of few pictures of one training, (1, pictures), moved by Student's t as trainings are; one alone says nothing."""
    found = resampled([grid.mT], lambda mean: mean, draws, seed, bounded=False) | {"n": grid.shape[1], "seeds": 1}
    return found | ({"low": -math.inf, "high": math.inf} if grid.shape[1] == 1 else {})


def _drawn(grids: list[Tensor], draws: int, seed: int, bounded: bool = True) -> Tensor:
    """The means of all grids, for each time that pictures are drawn again and trainings are moved: (draws, grids). What is measured lies
    between 0 and 1, or the most that was seen, and so do its means, but for differences."""
    counts = {each.shape[1] for each in grids}
    if len(counts) != 1:
        raise ValueError(f"grids have {sorted(counts)} pictures; pass those of the same pictures")
    n, rng = counts.pop(), torch.Generator().manual_seed(seed)
    pictures, means = _times(draws, n, rng), []                                                     # (draws, n)
    for each in (grid.double() for grid in grids):
        trainings = 1 + _moved(draws, len(each), rng)
        drawn = trainings @ each.mean(1) / len(each) + _own(each) * (pictures - 1) @ each.mean(0) / n
        means.append(drawn.clamp(min(0.0, float(each.min())), max(1.0, float(each.max()))) if bounded else drawn)
    return torch.stack(means, 1)


def _own(grid: Tensor) -> float:
    """How far pictures' means over trainings (trainings, pictures) spread by themselves, as a share: the rest is what pictures do otherwise in
    each training, which moves the trainings' means already. In an analysis of variance the residual is taken off."""
    count, n = grid.shape
    spread = float(grid.mean(0).var()) if n > 1 else 0.0
    if count == 1 or spread == 0:
        return 1.0
    rest = grid - grid.mean(0) - grid.mean(1, keepdim=True) + grid.mean()
    return math.sqrt(max(0.0, 1 - float(rest.square().sum()) / ((count - 1) * (n - 1)) / count / spread))


def _moved(draws: int, count: int, rng) -> Tensor:
    """What to add to the weights 1 of `count` trainings, (draws, count), so that their weighted mean is off the plain one by Student's t
    with count - 1 degrees of freedom, times the error of the mean. Drawing 3 of 3 again would leave its truth outside in a quarter of
    all cases, not in one of twenty."""
    normal, rest = torch.randn(draws, count, generator=rng).double(), torch.randn(draws, count - 1, generator=rng).double()
    scale = (1 / rest.square().mean(1, keepdim=True)).sqrt() if count > 1 else torch.zeros(draws, 1).double()
    return (normal - normal.mean(1, keepdim=True)) * scale * math.sqrt(count / max(count - 1, 1))


def _times(draws: int, count: int, rng) -> Tensor:
    """How often each of `count` is among `count` that are drawn: (draws, count)."""
    drawn = torch.randint(count, (draws, count), generator=rng)
    return torch.zeros(draws, count).double().scatter_add_(1, drawn, torch.ones(draws, count).double())


@declared
def paired(one: Tensor, other: Tensor, draws: Count = DRAWS, seed: Seed = 0) -> dict:
    """How much more `one` has than `other`, both (trainings, pictures) of the same pictures, and the same trainings or labelled pictures
    in each row; where one has fewer rows, or more, they are taken as independent. The mean of fewer than `FEW` pairs of one training is moved by
    Student's t. Shares that are alike in all pairs may still differ: of n pairs a share of 1 - 0.025 ** (1 / n) that differ would look like this in one case of forty.
    """
    if len(one) == len(other) == 1 and one.shape[1] < FEW:
        found = _of_few(one - other, draws, seed)
    elif len(one) == len(other):
        found = resampled([one - other], lambda apart: apart, draws, seed, bounded=False)
    else:
        found = resampled([one, other], lambda a, b: a - b, draws, seed)
    return _alike(found, one, other)


def _alike(found: dict, one: Tensor, other: Tensor) -> dict:
    """An interval of shares that no pair tells apart: see `paired`."""
    if found["low"] == found["value"] == found["high"] == 0 and min(one.min(), other.min()) >= 0 and max(one.max(), other.max()) <= 1:
        edge = 1 - 0.025 ** (1 / one.shape[1])
        found |= {"low": -edge, "high": edge}
    return found


@declared
def few_pairs(one: Tensor, other: Tensor) -> dict:
    """`paired`, (1, pictures) each. Also the "median" of the differences, and how many "less" and how many "more" there are."""
    apart = one - other
    return paired(one, other) | {"median": float(apart.median()), "less": int((apart < 0).sum()), "more": int((apart > 0).sum())}


def crossing(labels: list[int], values: list[float], goal: float, larger: bool = True) -> float:
    """The number of labels from which a curve is at `goal` or better: between two of the numbers on a line over
    log(labels).

    0 where its first value is there already, infinity where none is. A curve that falls back counts from its last way
    up.
    """
    sign = 1 if larger else -1
    good = [sign * value >= sign * goal for value in values]
    if all(good):
        return 0.0
    last = max(i for i, each in enumerate(good) if not each)
    if last == len(good) - 1:
        return math.inf
    share = (goal - values[last]) / (values[last + 1] - values[last])
    return math.exp(math.log(labels[last]) + share * (math.log(labels[last + 1]) - math.log(labels[last])))


def rising(curves: Tensor, larger: bool = True) -> Tensor:
    """The curves (..., numbers of labels) nearest to these, in squares, that never get worse: where one falls back, the mean of those that
    pull against each other (isotonic regression). More labels of the same kind do no harm but by chance, or by the recipe, and a curve about
    a goal would cross it anywhere."""
    sign, several = 1 if larger else -1, range(curves.shape[-1])
    mean = lambda first, last: sign * sum(curves[..., first:last + 1].unbind(-1)) / (last + 1 - first)
    least = lambda first, i: torch.stack([mean(first, last) for last in several[i:]]).amin(0)
    return torch.stack([sign * torch.stack([least(first, i) for first in several[:i + 1]]).amax(0) for i in several], -1)


@declared
def labels_needed(rows: list, task: str, of: str = "controlnet", against: str = "head", at: Count = 100,
                  draws: Count = DRAWS,
                  seed: Seed = 0) -> dict:
    """How many labels one contestant needs to control as well as another does with `at` of them, at strength 1. `value`
    is 0 where the fewest that were measured suffice, and infinite where the most do not; so may be the ends of the
    interval. `seeds` are the trainings of each that the interval comes from: of the numbers of labels up to its upper end. Each curve is made `rising` before it is asked.

    A number of labels with one training is left out where fewer labels have several: one that came out badly would move all answers, and
    the interval would not show it.
    """
    which = {"task": task, "strength": 1.0}
    labels = sorted({row["labels"] for row in rows if row["contestant"] == of and row["task"] == task
                     and row["strength"] == 1.0})
    if not labels:
        raise ValueError(f"there are no rows of {of} in {task}; measure them first")
    theirs = {each: grid(rows, contestant=of, labels=each, **which) for each in labels}
    labels = [each for each in labels if len(theirs[each]) > 1 or all(len(theirs[fewer]) == 1 for fewer in labels if fewer < each)]
    grids = [grid(rows, contestant=against, labels=at, **which), *(theirs[each] for each in labels)]
    larger = task != "depth"                                # of depth the error is measured
    if any(each.shape[1] != grids[0].shape[1] for each in grids):
        raise ValueError("not all were measured on the same pictures; run the contest again, it goes on where it "
                         "stopped")
    measured = torch.tensor([[float(each.mean()) for each in grids]], dtype=torch.float64)
    drawn = torch.cat([measured, _drawn(grids, draws, seed)])                                        # (1 + draws, 1 + numbers of labels)
    value, *found = (crossing(labels, values, goal, larger)
                     for goal, values in zip(drawn[:, 0].tolist(), rising(drawn[:, 1:], larger).tolist()))
    found.sort()
    low, high = found[int(0.025 * draws)], found[min(int(0.975 * draws), draws - 1)]
    reached = 1 + sum(each < high for each in labels)
    return {"value": value, "low": low, "high": high, "n": grids[0].shape[1],
            "seeds": min(len(each) for each in (grids[0], *grids[1:][:reached])), "measured": labels}


def curves(rows: list[dict], task: str, number: str = "control", strength: float = 1.0) -> dict[str, list[dict]]:
    """For each contestant of a task the mean of one number over its labels, with its 95 % interval: {contestant: [{"labels",
    "value", "low", "high", "n", "seeds"}, ...]}. Who is not trained has one entry, with 0 labels."""
    asked = [row for row in rows if row["task"] == task and row["strength"] == strength]
    found: dict[str, list[dict]] = {}
    for name in dict.fromkeys(row["contestant"] for row in asked):
        for labels in sorted({row["labels"] for row in asked if row["contestant"] == name}):
            mine = grid(asked, number, contestant=name, labels=labels)
            found.setdefault(name, []).append({"labels": labels, **mean_of(mine)})
    return found


# ---------------------------------------------------------------------------------------------- the Frechet distance

@torch.no_grad()
def looks(judge, pictures: Tensor) -> Tensor:
    """Features (B, 128) for the Frechet distance: the mean of the judge's coarsest ones, before any of its heads.

    No contestant saw them: the judge learned from scenes of its own, and no gradient of it reaches any training or
    guidance.
    """
    return torch.cat([judge.network.trunk(part)[2].mean((2, 3)) for part in pictures.split(32)])


def axes_of(features: Tensor, count: int = 16) -> tuple[Tensor, Tensor]:
    """The mean (C,) of features (n, C) and their `count` main axes (C, count), each scaled to a spread of 1: few enough
    for a covariance of a few hundred pictures. The largest entry of each axis is positive, so that they are the same
    everywhere."""
    mean = features.mean(0)
    _, spread, axes = torch.linalg.svd((features - mean).double(), full_matrices=False)
    axes, spread = axes[:count].T, spread[:count] / (len(features) - 1) ** 0.5
    sign = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return mean, (axes * sign / spread).float()


@declared
def frechet(one: Tensor, other: Tensor, least: Count = 32) -> float:
    """The Frechet distance of two sets of features (n, k) and (m, k): |difference of means|^2 + tr(A + B - 2 (A
    B)^(1/2))."""
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < least:
        raise ValueError(f"features have shapes {tuple(one.shape)} and {tuple(other.shape)}; pass (n, k) and "
                         f"(m, k) with at least {least} rows")
    return float(_frechet(one, other))


def _frechet(one: Tensor, other: Tensor) -> Tensor:
    """`frechet` of several sets at once, (..., n, k) and (..., m, k) -> (...)."""
    means, spreads = zip(*(_moments(each.double()) for each in (one, other)))
    values, vectors = torch.linalg.eigh(spreads[0])
    root = vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT
    together = torch.linalg.eigvalsh(root @ spreads[1] @ root).clamp_min(0).sqrt().sum(-1)
    size = sum(each.diagonal(dim1=-2, dim2=-1).sum(-1) for each in spreads)
    return (means[0] - means[1]).square().sum(-1) + size - 2 * together


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The means (..., k) and covariances (..., k, k) of features (..., n, k)."""
    mean = features.mean(-2, keepdim=True)
    return mean[..., 0, :], (features - mean).mT @ (features - mean) / (features.shape[-2] - 1)


def _redrawn(sets: tuple[Tensor, ...], draws: int, seed: int) -> list[Tensor]:
    """Which of each set (n, k) are drawn, with replacement, so many times: (draws, n) each."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [[torch.randint(len(each), (len(each),), generator=rng) for each in sets] for _ in range(draws)]
    return [torch.stack(each) for each in zip(*drawn)]


@declared
def frechet_interval(one: Tensor, other: Tensor, draws: Count = 200, seed: Seed = 0, share: Fraction = 0.95) -> dict:
    """The distance with the interval of the bootstrap over the pictures of both. Few pictures make it larger than it
    is, so compare only what has equally many; pictures that are drawn again are fewer still, and what that adds is taken
    off the ends, so that they lie about the value."""
    value = frechet(one, other)
    here, there = _redrawn((one, other), draws, seed)
    drawn = _frechet(one[here], other[there]).float()
    low, high = torch.quantile(drawn, torch.tensor([(1 - share) / 2, (1 + share) / 2])) - drawn.mean() + value
    return {"value": value, "low": max(float(low), 0.0), "high": float(high), "n": len(one)}


@declared
def frechet_paired(one: Tensor, other: Tensor, real: Tensor, draws: Count = 200, seed: Seed = 0) -> dict:
    """How much farther `one` is from `real` than `other`, both (n, k) of the same captions and noise: they are drawn again in pairs, as is what
    both are compared with, and the ends lie about the value as in `frechet_interval`."""
    if one.shape != other.shape:
        raise ValueError(f"features have shapes {tuple(one.shape)} and {tuple(other.shape)}; pass those of the same pictures")
    value = frechet(one, real) - frechet(other, real)
    here, there = _redrawn((one, real), draws, seed)
    drawn = (_frechet(one[here], real[there]) - _frechet(other[here], real[there])).float()
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975])) - drawn.mean() + value
    return {"value": value, "low": float(low), "high": float(high), "n": len(one)}
