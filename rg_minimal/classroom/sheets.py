"""Sheets of the first measured pictures, whatever they look like: `python -m rg_minimal.classroom.sheets depth -o depth.png`.

The measurement itself is that of `puppets.measure`; its figures are not written.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from ..pipelines import load_pipeline
from ..puppets.judge import load_judge
from ..puppets.measure import finish, measurement
from .plots import picture_rows, save_figure, save_grid
from .widgets import draw_arrows

COUNTS = {"base": 32, "depth": 7, "edges": 7, "drag": 8, "drag-inverted": 8, "identity": 7}


def draw_sheet(path: str | Path):
    """What to pass to a measurement as `sheet`: it is called with pictures or rows of them, and writes `path`."""
    def sheet(pictures, arrows=()):
        if not isinstance(pictures, dict):
            return save_grid(pictures, path)
        figure = picture_rows(pictures)
        for axes, each in zip(figure.axes, arrows):
            draw_arrows(axes, each)
        return save_figure(figure, path)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the first pictures of a measurement, none picked.")
    parser.add_argument("what", choices=COUNTS)
    parser.add_argument("-o", "--out", required=True, help="the file to write, a .png")
    parser.add_argument("--count", type=int, default=None, help="how many cases are made (as many as are drawn)")
    parser.add_argument("--steps", type=int, default=None, help="DDIM steps (50)")
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--heads", default="data/heads", help="folder with a folder for each head")
    options = parser.parse_args()
    finish(measurement(options.what, load_pipeline(options.model), load_judge(), options.heads, options.count or COUNTS[options.what],
                       options.steps, draw_sheet(options.out)), lambda done, of: print(f"{options.what}: {done} of {of}", flush=True))
    print("written to", options.out)


if __name__ == "__main__":
    main()
