"""Sheets of the first measured pictures, whatever they look like: `python -m rg_minimal.classroom.sheets depth -o depth.png`.

The pictures are those of `puppets.measure`, whose measurement is left as soon as the sheet is drawn; no figures are written.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..checks import Count, option
from ..pipelines import load_pipeline
from ..puppets.judge import Judge, load_judge
from ..puppets.measure import Steps, check_options, measurement
from .plots import picture_rows, save_figure, save_grid
from .widgets import draw_arrows

# How many cases are measured, None for as many as the measurement has: drags draw the first two of each kind at their end.
COUNTS = {"base": None, "depth": None, "edges": None, "drag": 8, "drag-inverted": 8, "identity": None}


def draw_sheet(path: str | Path, pictures: torch.Tensor | dict, arrows=()) -> Path:
    """Write a grid of pictures (N, 3, H, W), or rows of them by name, with the arrows of each picture of the first row."""
    if not isinstance(pictures, dict):
        return save_grid(pictures, path)
    figure = picture_rows(pictures)
    for axes, each in zip(figure.axes, arrows):
        draw_arrows(axes, each)
    return save_figure(figure, path)


def make_sheet(what: str, pipe, judge: Judge, heads: str | Path, path: str | Path, count: int | None = None,
               steps: int | None = None, report=None) -> Path:
    """Measure one of `COUNTS` until its sheet is drawn to `path`; `report(done, all)` is called after each batch where given."""
    drawn = []
    for state in measurement(what, pipe, judge, heads, count or COUNTS[what], steps, lambda *shown: drawn.append(draw_sheet(path, *shown))):
        if report:
            report(*state)
        if drawn:
            break
    return drawn[0]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Draw the first pictures of a measurement, none picked.")
    parser.add_argument("what", choices=COUNTS)
    parser.add_argument("-o", "--out", required=True, help="the file to write, a .png")
    parser.add_argument("--count", type=option(Count), default=None,
                        help="cases of the measurement (as in data/results; 8 drags, two of each kind); the sheet shows the first of them")
    parser.add_argument("--steps", type=option(Steps), default=None, help="DDIM steps (50)")
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--heads", default=None, help="folder with a folder for each head (data/heads)")
    options = parser.parse_args(arguments)
    check_options(parser, [options.what], options.count, options.heads, options.steps)
    if not options.out.endswith(".png"):
        parser.error(f"--out is {options.out!r}: give a name that ends in .png")
    path = make_sheet(options.what, load_pipeline(options.model), load_judge(), options.heads or "data/heads", options.out,
                      options.count, options.steps,
                      lambda done, of: print(f"{options.what}: {done} of {of}", flush=True))
    print("written to", path)


if __name__ == "__main__":
    main()
