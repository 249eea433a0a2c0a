"""Sheets of the first measured pictures, whatever they look like: `python -m rg_minimal.classroom.sheets depth -o depth.png`.

The pictures are those of `puppets.measure`, whose measurement is left as soon as the sheet is drawn; no figures are written.
`front` is the figure of control against cost of poses, drawn from what `puppets.front` has measured, `fronts` that of the other
tasks, `evidence` that of control against labelled pictures, from the tables of `evidence`; `contest` are the first pictures of that
contest, made again by what was trained for it with ten labelled pictures.
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import torch

from ..checks import Count, FileName, declared, one_sentence, option, stoppable
from ..evidence import baselines, contest, report, seeds
from ..files import refuse_file
from ..pipelines import load_pipeline
from ..puppets.front import ANEW, FRONT, read_front, summarize
from ..puppets.judge import Judge, load_judge
from ..puppets.measure import Steps, check_options, measurement
from .plots import Figure, efficiency, front, fronts, picture_rows, save_figure, save_grid
from .widgets import draw_arrows

# How many cases are measured, None for as many as the measurement has: drags draw the first two of each kind at their end.
COUNTS = {"base": None, "depth": None, "edges": None, "drag": 8, "drag-inverted": 8, "identity": None, "base-decoder": None}


def draw_sheet(path: str | Path, pictures: torch.Tensor | dict, arrows=()) -> Path:
    """Write a grid of pictures (N, 3, H, W), or rows of them by name, with the arrows of each picture of the first row."""
    if not isinstance(pictures, dict):
        return save_grid(pictures, path)
    figure = picture_rows(pictures)
    for axes, each in zip(figure.axes, arrows):
        draw_arrows(axes, each)
    return save_figure(figure, path)


@declared
def make_sheet(what: Literal[tuple(COUNTS)], pipe, judge: Judge, heads: FileName, path: FileName, count: Count | None = None,
               steps: Steps | None = None, report=None) -> Path:
    """Measure one of `COUNTS` until its sheet is drawn to `path`; `report(done, all)` is called after each batch where given.

    ValueError where the measurement comes to its end without anything to draw: of few pictures both decoders may find the same whole.
    """
    drawn = []
    for state in measurement(what, pipe, judge, heads, COUNTS[what] if count is None else count, steps, lambda *shown: drawn.append(draw_sheet(path, *shown))):
        if report:
            report(*state)
        if drawn:
            break
    if not drawn:
        raise ValueError(f"nothing of {what} is to be drawn of so few: pass a larger count, or leave it out")
    return drawn[0]


# Of a task: what its error is called, and the best value of its control where larger is better.
ERRORS = {"pose": ("joints farther than 5 % from the target", 1.0), "depth": ("depth, RMSE", None), "edges": ("edges missed (1 - F-score)", 1.0),
          "drag": ("handle from its target, in pixels", None), "identity": ("looks that differ", 1.0)}


@declared
def draw_front(task: Literal[tuple(ERRORS)] = "pose", table: FileName = FRONT) -> Figure:
    """Control error against cost of what was measured of a task, and beside it the share of whole puppets."""
    rows = summarize(read_front(table))
    unguided = [row for row in rows if row["task"] == "none" and row["point"].endswith(" steps")]
    anew = [row for row in rows if row["task"] == "none" and row["point"] in ANEW]
    error, most = ERRORS[task]
    return front([row for row in rows if row["task"] == task], error, most, {"unguided": unguided, "unguided, new noise": anew},
                 ("draft", "full"), ("reference", "50 steps", "10 steps", "whole"))


@declared
def draw_fronts(table: FileName = FRONT) -> Figure:
    """Control error against cost of what was measured of each task but poses, which `draw_front` draws."""
    rows = summarize(read_front(table))
    return fronts({error: ([row for row in rows if row["task"] == task], most) for task, (error, most) in ERRORS.items() if task != "pose"},
                  ("draft", "full"), ("reference", "50 steps", "25 steps, step_size=0.1"))


@declared
def draw_evidence(task: Literal[baselines.TASKS] = "pose", folder: FileName = contest.FOLDER) -> Figure:
    """Control error against labelled pictures of everybody who was measured in a task. ValueError where nobody was."""
    curves = report.efficiency(report.read_tables(folder), task)
    if not curves:
        raise ValueError(f"{folder} has no rows of {task}; measure them with python -m rg_minimal.evidence contest {task}")
    return efficiency(curves, *ERRORS[task])


@declared
def draw_contest(task: Literal[baselines.TASKS] = "pose", labels: Count = 10, count: Count = 7, folder: FileName = contest.FOLDER,
                 runs: FileName = contest.RUNS) -> Figure:
    """The first pictures of the contest, by nobody's guidance, our head and the baselines, each with the settings that tuning chose, below
    what they were asked for. ValueError where something was not trained."""
    pipe, tuned = load_pipeline(), report.read_tables(folder).tune
    trained = {name: contest.load_parts(name, task, labels, 0, pipe, runs) for name in ("unguided", "head", *baselines.KINDS)}
    cases = contest.make_cases(pipe, task, seeds.TEST.first, count)
    rows = {"asked for": list(cases.shown)}
    for name, parts in trained.items():
        settings = contest.chosen(tuned, name, task, labels)
        rows[report.named(name)] = list(contest.CONTESTANTS[name].make(pipe, cases, parts, 1.0, **settings))
    return picture_rows(rows, inches=1.25)


FIGURES = {"front": draw_front, "fronts": draw_fronts, "evidence": draw_evidence, "contest": draw_contest}        # of what was measured before


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Draw the first pictures of a measurement, none picked.")
    parser.add_argument("what", choices=[*COUNTS, *FIGURES])
    parser.add_argument("-o", "--out", required=True, help="the file to write, a .png")
    parser.add_argument("--count", type=option(Count), default=None,
                        help="cases of the measurement (as in data/results; 8 drags, two of each kind); the sheet shows the first of them")
    parser.add_argument("--steps", type=option(Steps), default=None, help="DDIM steps (50)")
    parser.add_argument("--model", default=None, help="folder of the pipeline (data/puppet-diffusion)")
    parser.add_argument("--heads", default=None, help="folder with a folder for each head (data/heads)")
    options = parser.parse_args(arguments)
    if not options.out.endswith(".png"):
        parser.error(f"--out is {options.out!r}: give a name that ends in .png")
    if options.what in FIGURES:
        with one_sentence(parser):
            idle = [f"--{name}" for name in ("count", "steps", "model", "heads") if getattr(options, name) is not None]
            if idle:
                raise ValueError(f"{idle[0]} has no effect on {options.what}, which draws what was measured: leave it out")
            refuse_file(Path(options.out).parent)
            print("written to", save_figure(FIGURES[options.what](), options.out))
        return
    check_options(parser, [options.what], options.count, options.steps, options.heads)
    with one_sentence(parser):
        refuse_file(Path(options.out).parent)
        model = "data/puppet-diffusion" if options.model is None else options.model
        pipe, judge, heads = load_pipeline(model), load_judge(), "data/heads" if options.heads is None else options.heads
        measurement(options.what, pipe, judge, heads)                   # what it needs is there
        path = make_sheet(options.what, pipe, judge, heads, options.out, options.count, options.steps,
                          lambda done, of: print(f"{options.what}: {done} of {of}", flush=True))
    print("written to", path)


if __name__ == "__main__":
    main()
