"""Metrics on trial: answers of known quality show what the metrics of drags are worth.

    python -m rg_minimal.evidence trial                    # scores them with every metric, into data/results/evidence/trial.csv
    python -m rg_minimal.evidence score out/mine           # scores anybody's answers to the same cases (see `drags`)

Two protocols of "mean distance" are in use, and both are here. Each takes the features of a frozen diffusion model at a
handle in the source, looks for the most similar place in the answer, and measures how far that is from the target:

    anywhere    the whole answer is searched, as DragDiffusion's `run_eval_point_matching.py` does
    near        only what is nearer to the handle or to the target than the way between them, divided by the root of two (at
                least 5 pixels), is searched, as RegionDrag's `evaluator.py` does; its unit is the picture's side, ours a pixel

Both take a decoder layer of Stable Diffusion 2.1 (DIFT) at timestep 261, told the caption, with the mean of 8 noises, brought
to the picture's size. Here it is the puppet model's layer that matches best (`best_layer`), or the correspondence head
(`..._head`). Papers do not always say which of the two they used: no published number is repeated or explained here.
"Likeness", as 1 - LPIPS is used there, is with the source, so it is largest where nothing was done.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .drags import ANSWERS, BAD, STEPS, Case, answers, in_256_steps, read_answers, real_drag, trial_cases
from .statistics import DRAWS, grid, mean_of, paired, shared_by
from ..checks import Count, Index, NonNegative, Points, Seed, SomeName, Truth, Words, declared
from ..denoisers import denoiser
from ..files import add_rows, refuse_file, rows_so_far
from ..maps import resize
from ..pipelines import encode, read_picture
from ..puppets.cases import whole
from ..puppets.heads import pixel_grid, score_raw_layers
from ..puppets.measure import checksum_of, drag_defaults

TIMESTEP, NOISES = 261, 8               # of the features, as both published protocols have them
NEAREST = 5.0                           # pixels that `near` searches around both points at least
GOOD = 0.9                              # a metric's bar: what this share of the exact answers reaches
DRAG = "drag"                           # the name of this project's own answers
USUAL, TERMS = 0.3, (0.0, 0.3, 1.0)     # the anti-ghosting term of `editing.drag`, by default and as it is tried


Terms = Annotated[tuple[NonNegative, ...], Field(min_length=1)]

# ---------------------------------------------------------------------------------------------- metrics

@dataclass(frozen=True)
class Metric:
    """How a column of the table is read."""
    larger: bool                        # is better
    says: str                           # for figures
    bar: float | None = None            # from which on it calls an answer good; by default see `GOOD`


METRICS = {"anywhere": Metric(False, "distance, searched anywhere"),
           "near": Metric(False, "distance, searched near"),
           "anywhere_head": Metric(False, "anywhere, our head"), "near_head": Metric(False, "near, our head"),
           "ssim": Metric(True, "SSIM with the source"), "likeness": Metric(True, "deep likeness with the source"),
           "judge": Metric(False, "judge's distance"), "whole": Metric(True, "whole puppet, by the judge", 1.0)}
KINDS_OF = {"answer": str, "picture": int, "seed": int, "scene": int, "kind": str, **dict.fromkeys(METRICS, float),
            "error": float, "settings": str, "version": str}


@declared
def search(source: Tensor, answer: Tensor, handles: Points, targets: Points, near: Truth = False) -> Tensor:
    """Where handles (N, 2) are found, (N, 2) pixels: features (C, H, W) of source and answer are compared by cosine
    similarity, over the whole answer, or `near` handle and target (see above)."""
    x, y = handles.long().unbind(-1)
    alike = F.normalize(source[:, y, x], dim=0).T @ F.normalize(answer, dim=0).flatten(1)               # (N, H * W)
    spots = pixel_grid(answer.shape[-1]).flatten(0, 1)                                                  # (H * W, 2)
    if near:
        reach = ((targets - handles).norm(dim=-1, keepdim=True) / 2 ** 0.5).clamp(min=NEAREST)
        gap = torch.minimum(torch.cdist(handles, spots), torch.cdist(targets, spots))
        alike = alike.masked_fill(gap >= reach, -torch.inf)
    return spots[alike.argmax(-1)]


def ssim(one: Tensor, other: Tensor, side: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) of pictures (B, 3, H, W) in [0, 1], over squares of `side` pixels, (B,)."""
    mean = lambda each: F.avg_pool2d(each, side, 1)
    a, b = mean(one), mean(other)
    spread = [mean(x * y) - mean(x) * mean(y) for x, y in ((one, one), (other, other), (one, other))]
    found = (2 * a * b + 1e-4) * (2 * spread[2] + 9e-4) / ((a * a + b * b + 1e-4) * (spread[0] + spread[1] + 9e-4))
    return found.mean((1, 2, 3))


@torch.no_grad()
def likeness(vae, one: Tensor, other: Tensor) -> Tensor:
    """1 - the distance of pictures (B, 3, H, W) by LPIPS's formula (Zhang et al. 2018), but not by its networks, which have
    to be fetched: features of the frozen autoencoder's encoder, all weights equal, nothing fitted to what people see. (B,)"""
    there = next(vae.parameters())                                      # its device and number format
    hidden, apart = [vae.encoder.conv_in(each.to(there) * 2 - 1) for each in (one, other)], []
    for block in vae.encoder.down_blocks:
        hidden = [block(each) for each in hidden]
        a, b = (F.normalize(each.float(), dim=1) for each in hidden)
        apart.append((a - b).square().sum(1).mean((1, 2)))
    return 1 - torch.stack(apart).mean(0).cpu()


def best_layer(pipe, count: int = 32) -> int:
    """The decoder layer that matches held-out pairs best, at `TIMESTEP`."""
    scores = score_raw_layers(pipe, "correspondence", (TIMESTEP,), count=count)[TIMESTEP]
    return max(range(len(scores)), key=scores.__getitem__)


class Metrics:
    """All metrics, of a model, its correspondence head and the judge: `Metrics(pipe, head, judge)(case, pictures, seed)`."""

    def __init__(self, pipe, head, judge, layer: int | None = None):
        self.pipe, self.head, self.judge = pipe, head, judge
        self.layer = best_layer(pipe) if layer is None else layer
        self.version, self.settings = checksum_of(pipe, judge, head), {"timestep": TIMESTEP, "noises": NOISES, "layer": self.layer}

    @torch.no_grad()
    def features(self, picture: Tensor, prompt: str, seed: int) -> tuple[Tensor, Tensor]:
        """Of one picture, (C, H, W): the raw layer's and the head's, each the mean of several noises."""
        reading = read_picture(self.pipe, None, TIMESTEP, prompt, torch.Generator().manual_seed(seed),
                               latents=encode(self.pipe, picture).expand(NOISES, -1, -1, -1))
        size = tuple(picture.shape[-2:])
        return tuple(resize(each.float().mean(0, keepdim=True), size)[0].cpu()
                     for each in (reading.features[self.layer], reading(self.head)))

    def __call__(self, case: Case, pictures: Tensor, seed: int = 0) -> list[dict]:
        """The numbers of answers (B, 3, 128, 128) to one case. All answers get the same noise, the source another one."""
        source, points = case.source, (case.drag.handles, case.drag.targets)
        old = self.features(source, case.scene.caption, 2 * seed)
        after, before, same = self.judge(pictures), self.judge(source), source.expand_as(pictures)
        columns = {"ssim": ssim(pictures, same), "likeness": likeness(denoiser(self.pipe).pipe.vae, pictures, same),
                   "judge": (after.joints[:, case.drag.joints] - points[1][:2]).norm(dim=-1).mean(-1),
                   "whole": torch.cat([whole(self.judge, self.judge(each[None]), before).float() for each in pictures]),
                   "error": (pictures - in_256_steps(case.after.image)).abs().mean((1, 2, 3))}
        rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(pictures))]
        for row, picture in zip(rows, pictures):
            new = self.features(picture[None], case.scene.caption, 2 * seed + 1)
            for end, a, b in zip(("", "_head"), old, new):
                for name in ("anywhere", "near"):
                    row[name + end] = float((search(a, b, *points, name == "near") - points[1]).norm(dim=-1).mean())
        return rows

    def rows(self, number: int, case: Case, made: dict[str, Tensor], seed: int = 0, **settings) -> list[dict]:
        """Rows of the table for several answers, by name, to case `number`."""
        told = json.dumps({**self.settings, **settings})
        shared = {"picture": number, "seed": seed, "scene": case.drag.seed, "kind": case.drag.kind, "settings": told,
                  "version": self.version}
        return [{"answer": name, **shared, **row} for name, row in zip(made, self(case, torch.cat(list(made.values())), seed))]


# ---------------------------------------------------------------------------------------------- tables

def read_table(table) -> list[dict]:
    """The rows of a table; none where there is no such file."""
    return rows_so_far(table, KINDS_OF, "the trial")


def _rows_of(table, metrics: Metrics, **settings) -> list[dict]:
    """The same. ValueError where they are of another model or other settings: what is not alike is not added up."""
    rows = read_table(table)
    alien = {row["version"] for row in rows} - {metrics.version}
    if alien:
        raise ValueError(f"{table} has rows of another model, head or judge ({', '.join(sorted(alien))}); keep it "
                         "elsewhere, or name another table")
    now = {**metrics.settings, **settings}
    for told in map(json.loads, dict.fromkeys(row["settings"] for row in rows)):
        wrong = [f"{name} {told[name]}, not {value}" for name, value in now.items() if told.get(name, value) != value]
        if wrong:
            raise ValueError(f"{table} has rows of other settings ({'; '.join(wrong)}): go on with those, keep it elsewhere, or name another table")
    return rows


@declared
def run(metrics, table: SomeName, count: Count = 64, seed: Index = 0, pose=None, drags: Index = 0,
        steps: Count = STEPS) -> Iterator[tuple[int, int]]:
    """The trial: score the answers of known quality to `count` cases, and, with a `pose` head, this project's own drags of the
    first `drags` of them. Writes `table` after each case, goes on where it stopped, and yields (cases done, of)."""
    if drags and pose is None or drags > count:
        raise ValueError(f"drags is {drags}: pass at most {count}, the number of cases, and a pose head")
    told = {"steps": steps, "defaults": drag_defaults()}
    rows = _rows_of(table, metrics, **(told if drags else {}))
    done = {(row["answer"], row["picture"]) for row in rows if row["seed"] == seed}
    for number, case in enumerate(trial_cases(count)):
        made = {name: picture for name, picture in answers(case).items() if (name, number) not in done}
        new = metrics.rows(number, case, made, seed) if made else []
        if number < drags and (DRAG, number) not in done:
            made = {DRAG: real_drag(metrics.pipe, metrics.head, pose, case, steps, seed)}
            new += metrics.rows(number, case, made, seed, **told)
        if new:
            _add(table, new)
        yield number + 1, count


def _add(table, new: list[dict], kept: Callable[[list[dict]], list[dict]] = list) -> None:
    add_rows(table, new, KINDS_OF, ("answer", "picture", "seed"), "the trial", kept=kept)


def ghost_name(term: float) -> str:
    """What answers with this anti-ghosting term are called."""
    return f"anti-ghosting {term:g}"


@declared
def run_ghosting(metrics, table: SomeName, pose, count: Count = 16, terms: Terms = TERMS, steps: Count = STEPS) -> Iterator[tuple[int, int]]:
    """Our own drags of the first `count` cases with several anti-ghosting terms and one noise. Writes `table` after each case, goes
    on where it stopped, and yields (cases done, of)."""
    told = {"steps": steps, "defaults": drag_defaults()}
    rows = _rows_of(table, metrics, **told)
    done = {(row["answer"], row["picture"]) for row in rows}
    for number, case in enumerate(trial_cases(count)):
        new = []
        for term in terms:
            if (ghost_name(term), number) not in done:
                made = {ghost_name(term): real_drag(metrics.pipe, metrics.head, pose, case, steps, anti_ghosting=term)}
                new += metrics.rows(number, case, made, **told, anti_ghosting=term)
        if new:
            _add(table, new)
        yield number + 1, count


@declared
def score_answers(metrics, folder: SomeName, name: Words, table: SomeName, count: Count = 64,
                  seed: Index = 0) -> Iterator[tuple[int, int]]:
    """Score anybody's folder of answers under a name, yield (cases done, of), and write the rows in the end, in the place of
    what `table` has under this name. ValueError where a picture is missing or of another size (see `read_answers`), or a name or table
    cannot be used."""
    check_name(name, table)
    _rows_of(table, metrics)
    pictures, new = read_answers(folder, count), []
    for number, case in enumerate(trial_cases(count)):
        new += metrics.rows(number, case, {name: pictures[number:number + 1]}, seed)
        yield number + 1, count
    _add(table, new, lambda there: [row for row in there if row["answer"] != name])


@declared
def check_name(name: Words, table: SomeName) -> None:
    """ValueError where answers cannot have this name, or their scores not be written to this table."""
    if name in (*ANSWERS, DRAG) or not name.strip():
        raise ValueError(f"name is {name!r}, which {'the trial itself uses' if name.strip() else 'says nothing'}; choose one of your own")
    refuse_file(Path(table).parent)
    read_table(table)


# ---------------------------------------------------------------------------------------------- the verdict

def _badness(rows: list[dict], metric: str, answer: str) -> Tensor:
    """(seeds, pictures): what the metric says against these answers."""
    return grid(rows, metric, answer=answer) * (-1 if METRICS[metric].larger else 1)


@declared
def summarize(rows: list, draws: Count = DRAWS, seed: Seed = 0) -> list[dict]:
    """What each metric makes of each answer in the rows of a trial, a dict for each pair, with 95 % intervals over cases:

        value                   the metric's mean, `low`, `high`
        more                    how much more it gives this answer than the exact one, in pairs; `more_low`, `more_high`
        good                    the share of these answers that it calls good; `good_low`, `good_high`: it scores them no
                                worse than its `bar`, which a share `GOOD` of the exact answers reaches (the interval takes
                                the bar as it is); of whole puppets the bar is one whole puppet
        n                       cases

    ValueError where the exact answers are not among the rows.
    """
    names, found = list(dict.fromkeys(row["answer"] for row in rows)), []
    for metric, told in METRICS.items():
        exact = _badness(rows, metric, "exact")
        bar = -told.bar if told.bar is not None else float(torch.quantile(exact.flatten(), GOOD))
        for name in names:
            here = {(row["picture"], row["seed"]) for row in rows if row["answer"] == name}
            both = [row for row in rows if (row["picture"], row["seed"]) in here and row["answer"] in (name, "exact")]
            mine = grid(both, metric, answer=name)
            parts = {"": mean_score(mine, metric, draws, seed),
                     "more_": paired(mine, grid(both, metric, answer="exact"), draws, seed),
                     "good_": shared_by((_badness(both, metric, name) <= bar).float(), 1, draws, seed)}
            found.append({"metric": metric, "answer": name, "n": mine.shape[1], "bar": -bar if told.larger else bar,
                          **{(start + end if end != "value" else start.rstrip("_") or end): each[end]
                             for start, each in parts.items() for end in ("value", "low", "high")}})
    return found


def mean_score(scores: Tensor, metric: str, draws: int = DRAWS, seed: int = 0) -> dict:
    """The mean of one metric's scores, (noises, cases), with its interval: of whole puppets it is a share."""
    return shared_by(scores, 1, draws, seed) if metric == "whole" else mean_of(scores, METRICS[metric].larger, draws, seed)


@declared
def firsts(rows: list, draws: Count = DRAWS, seed: Seed = 0) -> dict[str, dict]:
    """For each metric the share of cases in which it puts the exact answer before every bad one, alone: {"value", "low",
    "high", "n", "seeds"}."""
    found = {}
    for metric in METRICS:
        best = torch.stack([_badness(rows, metric, name) for name in BAD]).amin(0)
        found[metric] = shared_by((_badness(rows, metric, "exact") < best).float(), 1, draws, seed)
    return found


def verdict(rows: list[dict]) -> dict[str, dict]:
    """For `plots.shares`: for each metric in how many cases it puts the exact answer first, and how many of the other answers
    it calls good."""
    told = summarize(rows)
    says = {each["metric"]: f"{METRICS[each['metric']].says}, bar {each['bar']:.3g}" for each in told}
    found = {says[name]: {"exact first": each} for name, each in firsts(rows).items()}
    for each in told:
        if each["answer"] != "exact":
            found[says[each["metric"]]][each["answer"]] = {"n": each["n"], **{end: each[f"good{way}"] for end, way in
                                                                   (("value", ""), ("low", "_low"), ("high", "_high"))}}
    return found


@declared
def ranked(rows: list, metric: str, answer: str = "nothing") -> dict:
    """How often a metric puts the exact answer before another one in the same case, a tie counted half: {"value", "low", "high", "n", "seeds"}."""
    mine, exact = _badness(rows, metric, answer), _badness(rows, metric, "exact")
    return shared_by((exact < mine).float() + (exact == mine).float() / 2)


def said(rows: list[dict]) -> str:
    """The verdict in lines of text."""
    percent = lambda found, way="": f"{found[way or 'value']:.0%} ({found[f'{way}_low'.strip('_')]:.0%} to {found[f'{way}_high'.strip('_')]:.0%})"
    lines = [f"{METRICS[name].says}: the exact answer comes first in {percent(found)} of {found['n']}" for name, found in firsts(rows).items()]
    return "\n".join([*lines, *(f"{METRICS[each['metric']].says}, {each['answer']}: {each['value']:.3f}, called good in "
                                f"{percent(each, 'good')} of {each['n']}" for each in summarize(rows) if each["answer"] != "exact")])
