"""Every figure of the notebooks, as functions that return a matplotlib Figure and show nothing themselves.

Pictures are (B, 3, H, W) tensors in [0, 1]; points are (x, y) in pixels of the image. Colours are blue and orange for the puppet's left and
right (told apart by nearly everybody), and every colour is doubled by a shape or a label.
"""
from __future__ import annotations

import io
import itertools
import math
import textwrap
from pathlib import Path
from typing import Annotated, Sequence

import matplotlib.figure
import matplotlib.patches
import matplotlib.patheffects
import matplotlib.text
import matplotlib.ticker
import matplotlib.transforms
import torch
from PIL import Image
from pydantic import BeforeValidator
from torch import Tensor

from ..checks import Count, FileName, Index, Positive, Text, Texts, Truth, as_number, declared
from ..files import write_file
from ..puppets.world import JOINTS, LIMBS

LEFT, RIGHT, MIDDLE = "#0072B2", "#E69F00", "#333333"           # Okabe and Ito's blue and orange, and a neutral grey


def _inches(value) -> tuple[float, float]:
    try:
        width, height = (as_number(each) for each in value)
    except (TypeError, ValueError):
        width = height = 0
    if min(width, height) <= 0:
        raise ValueError("pass (width, height), two numbers above 0")
    return width, height


Inches = Annotated[tuple, BeforeValidator(_inches)]


class Figure(matplotlib.figure.Figure):
    """A figure that notebooks show as it is, whether or not pyplot was ever imported; in 256 colours, to stay small.

    Its texts are texts: a $ in a prompt, a title or a name is a $, and begins no mathematics.
    """

    def draw(self, renderer):
        for text in self.findobj(matplotlib.text.Text):
            text.set_parse_math(False)
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            if isinstance(axis.get_major_formatter(), matplotlib.ticker.LogFormatter):              # writes its powers of ten so
                for label in axis.get_ticklabels(which="both"):
                    label.set_parse_math(True)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=90)
        few = Image.open(drawn).convert("RGB").quantize(256, kmeans=64)                     # without, a yellow shirt may come out orange
        few.save(small, format="png", optimize=True)
        return small.getvalue()


def side_colour(joint: int) -> str:
    """The colour of a joint: blue on the puppet's left, orange on its right, grey between."""
    return LEFT if JOINTS[joint].startswith("left") else RIGHT if JOINTS[joint].startswith("right") else MIDDLE


@declared
def picture_grid(pictures: Sequence[Tensor] | Tensor, titles: Texts = (), columns: Count | None = None,
                 skeletons: Sequence[Tensor | None] = (), size: Positive = 1.7) -> Figure:
    """A grid of pictures, each (3, H, W) or (1, H, W), with titles and, where given, a skeleton (14, 2) on top."""
    pictures = list(pictures)
    if not pictures:
        raise ValueError("there are no pictures to show: pass at least one, each (3, H, W) or (1, H, W) in [0, 1]")
    columns = columns or min(len(pictures), 8)
    rows = -(-len(pictures) // columns)
    extra = 0.24 if any(titles) else 0.02
    figure = Figure(figsize=(columns * size, rows * (size + extra)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i >= len(pictures):
            continue
        show_picture(axes, pictures[i], titles[i] if i < len(titles) else "")
        if i < len(skeletons) and skeletons[i] is not None:
            draw_skeleton(axes, skeletons[i])
    return figure


def show_picture(axes, picture: Tensor, title: str = "") -> None:
    """One picture (3, H, W) or map (1, H, W) on existing axes, in pixels of the image."""
    array = picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    height, width = array.shape[:2]
    axes.imshow(array.squeeze(), cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_title(title, fontsize=8, pad=3, parse_math=False)
    axes.set_anchor("S")                                    # what room is left over is above, for the title


@declared
def draw_skeleton(axes, joints: Tensor, faint: Truth = False) -> None:
    """Draw 14 joints (14, 2) in pixels and the limbs between them: left blue with circles, right orange with squares."""
    joints = joints.detach().cpu()
    alpha = 0.55 if faint else 1.0
    for a, b in LIMBS:
        colour = side_colour(b)
        line = joints[[a, b]].T.tolist()
        axes.plot(*line, color="white", linewidth=3.4, alpha=alpha, solid_capstyle="round", clip_on=True)
        axes.plot(*line, color=colour, linewidth=1.9, alpha=alpha, solid_capstyle="round", clip_on=True)
    for i, (x, y) in enumerate(joints.tolist()):
        axes.plot(x, y, "s" if JOINTS[i].startswith("right") else "o", color=side_colour(i), markersize=3.6,
                  markeredgecolor="white", markeredgewidth=0.6, alpha=alpha)


@declared
def skeleton_figure(joints: Tensor, size: Count = 128, title: Text = "", inches: Positive = 2.2) -> Figure:
    """A skeleton alone on a light ground, as a target to show."""
    figure = Figure(figsize=(inches, inches + 0.25), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=[], yticks=[], facecolor="#f4f4f4")
    axes.set_title(title, fontsize=8, pad=3)
    draw_skeleton(axes, joints)
    return figure


@declared
def pose_comparison(unguided: Tensor, target: Tensor, guided: Tensor, scores: Sequence[tuple[float, float]] = (),
                    inches: Positive = 1.75) -> Figure:
    """Three rows for B pictures: unguided, target skeleton, guided with the target on top.

    Args:
        unguided, guided: (B, 3, H, W).
        target: (B, 14, 2) joints in pixels.
        scores: for each picture (PCK of the unguided one, PCK of the guided one), in [0, 1].
    """
    count, size = len(unguided), unguided.shape[-1]
    figure = Figure(figsize=(count * inches + 0.4, 3 * (inches + 0.16)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    grid = figure.subplots(3, count, squeeze=False)
    for column in range(count):
        before, after = scores[column] if len(scores) else (None, None)
        show_picture(grid[0, column], unguided[column], "" if before is None else f"judge: {before:.0%} of joints in place")
        show_picture(grid[2, column], guided[column], "" if after is None else f"judge: {after:.0%} of joints in place")
        grid[1, column].set(xlim=(0, size), ylim=(size, 0), aspect="equal", facecolor="#f4f4f4")
        draw_skeleton(grid[1, column], target[column])
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], ("unguided", "target pose", "guided")):
        axes.set_ylabel(name, fontsize=10)
    return figure


@declared
def readout_strip(picture: Tensor, maps: Sequence[Tensor], titles: Texts, skeletons: Sequence[Tensor] = (),
                  inches: Positive = 1.8) -> Figure:
    """A picture, then one readout map (h, w) in [0, 1] a noise level, laid over a faint copy of the picture."""
    figure = Figure(figsize=((len(maps) + 1) * inches, inches + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    axes = figure.subplots(1, len(maps) + 1)
    show_picture(axes[0], picture, "the picture")
    axes[0].set_axis_off()
    height, width = picture.shape[-2:]
    for i, readout in enumerate(maps):
        axis = axes[i + 1]
        show_picture(axis, picture * 0.35 + 0.65, titles[i])
        heat = readout.detach().float().cpu().clamp(0, 1)
        axis.imshow(heat.numpy(), cmap="magma_r", vmin=0, vmax=1, alpha=heat.sqrt().numpy(), extent=(0, width, height, 0),
                    interpolation="bilinear")
        if i < len(skeletons):
            draw_skeleton(axis, skeletons[i], faint=True)
        axis.set_axis_off()
    return figure


def upright(label: str) -> str:
    """A label for the upright axis of a small figure: a long one is broken into lines, so that none is cut off."""
    return textwrap.fill(label, 18)


@declared
def curve(values: Sequence[float], label: Text, x: Text = "step", smooth: Index = 0, inches: Inches = (4.2, 2.1)) -> Figure:
    """A line of values, such as a loss, with a running mean over `smooth` values where asked for."""
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    axes.plot(values, color=LEFT, linewidth=0.8, alpha=0.45 if smooth else 1.0, label=upright(f"each {x}"))
    if smooth and len(values) >= smooth:
        mean = torch.tensor(values).unfold(0, smooth, 1).mean(1).tolist()
        axes.plot(range(smooth - 1, len(values)), mean, color=LEFT, linewidth=1.8, label=f"mean of the last {smooth}")
        axes.legend(fontsize=7.5, frameon=False)
    axes.set(xlabel=x, ylabel=upright(label))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@declared
def save_grid(pictures: Tensor, path: FileName, columns: Count = 8) -> Path:
    """Write pictures (B, 3, H, W) edge to edge as an image file, pixel for pixel; the folder is made where missing."""
    rows = -(-len(pictures) // columns)
    blank = torch.ones(rows * columns - len(pictures), *pictures.shape[1:])
    tiles = torch.cat([pictures.detach().float().cpu().clamp(0, 1), blank])                 # (rows * columns, 3, H, W)
    _, channels, height, width = tiles.shape
    sheet = tiles.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, channels)
    picture, kind = Image.fromarray((sheet * 255).round().to(torch.uint8).squeeze(-1).numpy()), _kind(path)
    return write_file(path, lambda aside: picture.save(aside, format=kind))


@declared
def save_figure(figure: Figure, path: FileName, dpi: Positive = 130) -> Path:
    """Write a figure; the folder is made where missing."""
    kind = Path(path).suffix[1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"path is {str(path)!r}: give a name that ends in .png, .pdf or .svg")
    return write_file(path, lambda aside: figure.savefig(aside, dpi=dpi, format=kind))


def _kind(path) -> str:
    """The format of a picture file, by the end of its name."""
    kinds = Image.registered_extensions()
    if Path(path).suffix.lower() not in kinds:
        raise ValueError(f"path is {str(path)!r}: give a name that ends in .png, .webp or .jpg")
    return kinds[Path(path).suffix.lower()]


# ---------------------------------------------------------------------------------------------- rows, matches, drags

@declared
def picture_rows(rows: dict[str, Sequence[Tensor | None]], titles: Sequence[Sequence[str]] = (), inches: Positive = 1.6) -> Figure:
    """Named rows of pictures (3, H, W) or maps (1, h, w); None leaves a place empty. `titles` are one list a row."""
    if not rows or not any(len(row) for row in rows.values()):
        raise ValueError("there are no rows to show: pass {'name': [picture, ...], ...}, each (3, H, W) or (1, H, W)")
    columns = max(map(len, rows.values()))
    heights = [inches + (0.22 if i < len(titles) and any(titles[i]) else 0.03) for i in range(len(rows))]
    figure = Figure(figsize=(columns * inches + (0.35 if any(rows) else 0.05), sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for i, (name, row) in enumerate(rows.items()):
        for k, axes in enumerate(grid[i]):
            axes.set(xticks=[], yticks=[], facecolor="none")
            axes.spines[:].set_visible(False)
            if k < len(row) and row[k] is not None:
                show_picture(axes, row[k], titles[i][k] if i < len(titles) and k < len(titles[i]) else "")
        grid[i, 0].set_ylabel(name, fontsize=9)
    return figure


@declared
def match_row(first: Tensor, second: Tensor, points: Tensor, ways: dict[str, tuple[Tensor, Tensor]], inches: Positive = 2.6) -> Figure:
    """Numbered points on the first picture, then for each way of matching where they were found on the second.

    Args:
        points: (N, 2) in pixels of the first picture.
        ways: name -> (found (N, 2), right (N,) bool); right ones are blue circles, wrong ones orange crosses.
    """
    figure = Figure(figsize=(inches * (1 + len(ways)), inches + 0.25), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.01, wspace=0.01, hspace=0.01)
    axes = figure.subplots(1, 1 + len(ways))
    show_picture(axes[0], first, f"{len(points)} point{'s' * (len(points) != 1)}")
    for n, at in enumerate(points.tolist()):
        _number(axes[0], at, n + 1, True)
    for axis, (name, (found, right)) in zip(axes[1:], ways.items()):
        show_picture(axis, second, f"found by {name}: {int(right.sum())} of {len(right)} right")
        for n, (at, good) in enumerate(zip(found.tolist(), right.tolist())):
            _number(axis, at, n + 1, good)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _number(axes, at, number: int, good: bool) -> None:
    axes.plot(*at, "o" if good else "X", color=LEFT if good else RIGHT, markersize=8, markeredgecolor="white", markeredgewidth=0.6)
    axes.text(*at, str(number), color="white" if good else "black", fontsize=5, ha="center", va="center_baseline")


@declared
def drag_row(pictures: Sequence[Tensor], titles: Texts, handles: Tensor, targets: Tensor, box: Sequence[float] = (),
             inches: Positive = 2.0) -> Figure:
    """Pictures with the same handles (N, 2) and targets (N, 2): arrows on the first, both as marks on the others.

    A handle is a blue circle, its target an orange square. `box` (left, top, right, bottom) is drawn where given.
    """
    figure = Figure(figsize=(len(pictures) * inches, inches + 0.28), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for i, axes in enumerate(figure.subplots(1, len(pictures), squeeze=False)[0]):
        show_picture(axes, pictures[i], titles[i])
        axes.set_axis_off()
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
        for start, end in zip(handles.tolist(), targets.tolist()):
            if i == 0:
                for colour, width in (("white", 2.8), (RIGHT, 1.4)):
                    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=width, shrinkB=2))
            axes.plot(*start, "o", color=LEFT, markersize=4, markeredgecolor="white", markeredgewidth=0.7)
            axes.plot(*end, "s", color=RIGHT, markersize=4, markeredgecolor="white", markeredgewidth=0.7)
        if len(box):
            left, top, right, bottom = box
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", linewidth=2)
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="black", linewidth=1, linestyle=":")
    return figure


@declared
def bars(values: dict[str, float], label: Text, highlight: Texts = (), inches: Inches = (5.0, 2.2)) -> Figure:
    """A bar with its value for each name; `highlight` names the ones in orange."""
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    drawn = axes.bar(list(values), list(values.values()), color=[RIGHT if name in highlight else LEFT for name in values])
    axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    axes.set_ylabel(upright(label), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


LEAST = 1e-3                            # the least error on axes that double, which have no 0
STYLES = (("#0072B2", "o", "-"), ("#E69F00", "s", "--"), ("#009E73", "^", "-."), ("#D55E00", "D", ":"),
          ("#CC79A7", "v", "-"), ("#56B4E9", "P", "--"), ("#333333", "X", "-."))     # Okabe and Ito, each with a mark


@declared
def lines(series: dict[str, Sequence[float]], x_values: Sequence[float], x: Text, y: Text, inches: Inches = (4.6, 2.4),
          log: Truth = False, switches: Truth = False) -> Figure:
    """Several named lines over the same `x_values`, told apart by colour, mark and dash; up to 12 values get marks.

    `switches` draws values that hold from one place to the next, so that a switch is upright and not a ramp.
    """
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    _draw_lines(axes, series, x_values, x, y, log)
    if switches:
        for line in axes.lines:
            line.set_drawstyle("steps-mid")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw_lines(axes, series, x_values, x: str, y: str, log: bool = False) -> None:
    for i, (name, values) in enumerate(series.items()):
        colour, mark, dash = STYLES[i % len(STYLES)]
        axes.plot(x_values, values, dash, marker=mark if len(x_values) <= 12 else "", color=colour, markersize=4,
                  linewidth=1.5, label=name)
    axes.set(xlabel=x, ylabel=upright(y), **({"yscale": "log"} if log else {}))
    axes.spines[["top", "right"]].set_visible(False)


@declared
def line_panels(panels: dict[str, dict], columns: Count = 2, inches: Inches = (3.4, 2.1)) -> Figure:
    """Several `lines` side by side, each {title: dict(series=..., x_values=..., x=..., y=...)}; the same names look the same
    everywhere if every panel has them in one order, and stand in one legend below."""
    figure = Figure(figsize=(columns * inches[0], -(-len(panels) // columns) * inches[1] + 0.3), layout="constrained")
    grid, known = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat, {}
    for axes, (title, panel) in zip(grid, panels.items()):
        _draw_lines(axes, **panel)
        axes.set_title(title, fontsize=9)
        known |= {line.get_label(): line for line in axes.lines}
    for axes in list(figure.axes)[len(panels):]:
        axes.set_axis_off()
    figure.legend(known.values(), known.keys(), fontsize=8, frameon=False, loc="outside lower center", ncols=len(known))
    return figure


@declared
def memory_courses(needs: dict, limit: Positive | None = None, inches: Inches = (7.2, 2.1)) -> Figure:
    """What lives in memory from operation to operation, a panel for each {title: `cost.Needs`}, its parts named along the top, the
    weights in grey; all panels have one scale, and `limit` (bytes), say a card's memory, is a line."""
    figure = Figure(figsize=(inches[0], len(needs) * inches[1]), layout="constrained")
    most = max([limit or 0, *(each.peak for each in needs.values())])
    unit, name = next((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1, "bytes")) if most >= unit)
    for axes, (title, each) in zip(figure.subplots(len(needs), 1, squeeze=False, sharex=True).flat, needs.items()):
        axes.fill_between(range(len(each.course)), [live / unit for live in each.course], each.weights / unit, color=LEFT, linewidth=0)
        axes.axhspan(0, each.weights / unit, color="0.8", linewidth=0)
        for part, (first, last) in ((part, told.span) for part, told in each.parts.items()):
            axes.axvline(last, color=MIDDLE, linewidth=0.6, linestyle=":")
            axes.text((first + last) / 2, 1.32 * most / unit, upright(part).replace(" with ", "\nwith "), fontsize=6.5, ha="center", va="top")
        if limit:
            axes.axhline(limit / unit, color=RIGHT, linewidth=1.5, linestyle="--")
        axes.set(ylim=(0, 1.35 * most / unit), xlim=(0, max(len(each.course) for each in needs.values())))
        axes.set_ylabel(f"memory ({name})", fontsize=8)
        axes.set_title(f"{upright(title)}: at most {each.peak / unit:.2f} {name}", fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("operation", fontsize=8)
    return figure


@declared
def marked_bars(values: dict[str, float], label: Text, marks: Sequence[float] | float, mark: Text, inches: Inches = (4.6, 2.2)) -> Figure:
    """A bar for each name, and across each a short line at its mark (one for all, or one a bar); `mark` says what it is."""
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    places, marks = range(len(values)), [marks] * len(values) if isinstance(marks, (int, float)) else list(marks)
    axes.bar(places, list(values.values()), width=0.7, color=LEFT)
    axes.hlines(marks, [i - 0.45 for i in places], [i + 0.45 for i in places], color=RIGHT, linewidth=2, label=mark)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    long = max(map(len, values)) > 8
    axes.set_xticks(list(places), list(values), fontsize=8, rotation=40 if long else 0, ha="right" if long else "center")
    axes.set_ylabel(upright(label), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def pca_pictures(features: Tensor) -> Tensor:
    """Features (B, C, h, w) as pictures (B, 3, h, w): their three principal components over all cells of all B."""
    batch, _, height, width = features.shape
    cells = features.detach().float().cpu().permute(0, 2, 3, 1).flatten(0, 2)               # (B h w, C)
    centred = cells - cells.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred)[1][:, -3:].flip(-1)                 # (C, 3), largest first
    directions = directions * directions.sum(0).sign()                                      # their signs are arbitrary
    colours = centred @ directions
    low, high = colours.quantile(torch.tensor([0.01, 0.99]), dim=0)
    return ((colours - low) / (high - low)).clamp(0, 1).view(batch, height, width, 3).permute(0, 3, 1, 2)


@declared
def heat_row(pictures: Sequence[Tensor], maps: Sequence[Tensor], titles: Texts = (),
             points: Sequence[Tensor] = (), inches: Positive = 1.8) -> Figure:
    """Faint pictures with maps (h, w) over them, each drawn from its median to its highest value; a circle at a point (x, y)."""
    figure = Figure(figsize=(len(maps) * inches, inches + 0.22), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for i, axes in enumerate(figure.subplots(1, len(maps), squeeze=False)[0]):
        show_picture(axes, pictures[i] * 0.45 + 0.55, titles[i] if i < len(titles) else "")
        heat = maps[i].detach().float().cpu()
        heat = ((heat - heat.median()) / (heat.max() - heat.median()).clamp_min(1e-9)).clamp(0, 1)
        height, width = pictures[i].shape[-2:]
        axes.imshow(heat.numpy(), cmap="magma_r", vmin=0, vmax=1, alpha=(heat ** 2).numpy(), extent=(0, width, height, 0))
        if i < len(points):
            x, y = points[i].tolist()
            for colour, edge in (("white", 3.2), (LEFT, 1.6)):
                axes.plot(x, y, "o", color="none", markersize=9, markeredgecolor=colour, markeredgewidth=edge)
        axes.set_axis_off()
    return figure


@declared
def learning(losses: Sequence[float], scores: dict[int, dict[int, float]], steps: Count, measure: Text,
             inches: Inches = (7.6, 2.3)) -> Figure:
    """A training so far: the loss of each step, and beside it the scores {step: {timestep: score}}; the axes hold `steps`."""
    figure = Figure(figsize=inches, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(losses) + 1), losses, color=LEFT, linewidth=0.8)
    for i, timestep in enumerate(next(iter(scores.values()), {})):
        colour, mark, dash = STYLES[i]
        right.plot(list(scores), [each[timestep] for each in scores.values()], dash, marker=mark, color=colour, markersize=4,
                   label=f"t = {timestep}")
    if scores:
        right.legend(fontsize=8, frameon=False)
    left.set(xlabel="step", ylabel="loss", xlim=(0, steps), ylim=(0, None))
    right.set(xlabel="step", ylabel=upright(f"{measure}, held out"), xlim=(0, steps * 1.03))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@declared
def pck_row(pictures: Sequence[Tensor], targets: Tensor, predicted: Tensor, a: Positive, titles: Texts = (),
            inches: Positive = 2.6) -> Figure:
    """Pictures with a circle of `a` times the puppet's size around each target joint, and a dot where it was seen.

    targets, predicted: (B, J, 2) in pixels. Circles of hits are drawn solid and blue, of misses dashed and orange.
    """
    figure = Figure(figsize=(len(pictures) * inches, inches + 0.25), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, len(pictures), squeeze=False)[0]):
        show_picture(axes, pictures[i] * 0.5 + 0.5, titles[i] if i < len(titles) else "")
        goal, seen = targets[i].cpu(), predicted[i].cpu()
        radius = float(a * (goal.amax(0) - goal.amin(0)).max())
        for (x, y), (u, v) in zip(goal.tolist(), seen.tolist()):
            hit = (x - u) ** 2 + (y - v) ** 2 <= radius ** 2
            colour, dash = (LEFT, "-") if hit else ("#D55E00", "--")
            axes.add_patch(matplotlib.patches.Circle((x, y), radius, fill=False, color=colour, linestyle=dash, linewidth=1.4))
            axes.plot([x, u], [y, v], color=colour, linewidth=0.9)
            axes.plot(u, v, "o", color=colour, markersize=3)
        axes.set_axis_off()
    return figure


@declared
def front(rows: Sequence[dict], error: Text, most: Positive | None = None, whole: dict | None = None, named: Texts = (),
          told: Texts = (), base: Positive = 100.0, inches: Inches = (9.6, 3.8)) -> Figure:
    """Control error against cost, both on logarithmic axes, and beside it what becomes of the picture.

    Args:
        rows: summaries of points (`puppets.front.summarize`) of one task; bars are their 95 % intervals.
        error: the name of what is drawn; smaller is nearer.
        most: the best value of "control" where larger is better (1.0 of a PCK): drawn is what is missing to it. None
            where "control" is an error as it is.
        whole: summaries of unguided pictures, for the second panel, by what is to be said of them.
        named: points that are drawn full and by name; the rest are small and pale. Of these have a name those on the front, to which no
            other point is both as near and as cheap, and those that are told.
        told: further points whose names are shown.
        base: the passes of an unguided picture, which cost is given in.
    """
    if not rows:
        raise ValueError("there are no points to show: pass at least one summary")
    figure = Figure(figsize=inches, layout="constrained")
    near, quality = figure.subplots(1, 2, width_ratios=(2, 1))
    rows = sorted(rows, key=lambda row: row["passes"])
    names, bars = _near(near, rows, error, most, named, base, {*named, *told, *_best(rows, most)})
    near.set_xlabel("cost, in unguided pictures of 50 steps (denoiser passes)")
    plain = [(*each, marker, MIDDLE, 1.07 ** i) for i, (each, marker) in enumerate(zip((whole or {}).items(), itertools.cycle("sD^v")))]     # side by side
    for label, series, marker, colour, aside in (*plain, ("guided", [row for row in rows if row["point"] in named], "o", LEFT, 1)):
        for i, row in enumerate(sorted(series, key=lambda row: row["passes"])):
            _interval(quality, row, "whole", base / aside, marker=marker, color=colour, label=None if i else label)
    quality.set(ylim=(0.5, 1.02), xlabel="cost, as on the left", ylabel="whole puppets, by the judge")
    _doubles(quality)
    quality.legend(frameon=False, loc="lower right")
    _apart(figure, names, bars)
    return figure


@declared
def fronts(tasks: dict, named: Texts = (), told: Texts = (), base: Positive = 100.0, inches: Inches = (9.6, 8.2)) -> Figure:
    """Control error against cost of several tasks, a panel each, as in `front`: {name of the error: (summaries of points, the best
    value of "control" where larger is better, or None)}. Errors that are not within four times of
    each other have a logarithmic axis, as cost has; others start at nothing."""
    if not tasks or not all(rows for rows, _ in tasks.values()):
        raise ValueError("there are no points to show: pass at least one summary of each task")
    figure, names, bars = Figure(figsize=inches, layout="constrained"), [], []
    panels = figure.subplots(math.ceil(len(tasks) / 2), 2, squeeze=False).flat
    for (error, (rows, most)), axes in zip(tasks.items(), panels):              # in this order, or `zip` takes one panel more
        for found, more in zip((names, bars), _near(axes, rows, error, most, named, base, {*named, *told, *_best(rows, most)})):
            found += more
        errors = [_missing(row, most)["control"] for row in rows]
        if max(errors) < 4 * min(errors):
            axes.set(yscale="linear", ylim=(0, None))
        else:
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.set_xlabel("cost, in unguided pictures of 50 steps (denoiser passes)", fontsize=8)
    for axes in list(panels):
        axes.set_axis_off()
    _apart(figure, names, bars)
    return figure


def _best(rows, most) -> list[str]:
    """The points on the front: no other is as near and as cheap."""
    at = {row["point"]: (_missing(row, most)["control"], row["passes"]) for row in rows}
    return [name for name, (error, cost) in at.items()
            if not any(other != (error, cost) and other[0] <= error and other[1] <= cost for other in at.values())]


def _near(axes, rows, error: str, most, named, base, shown) -> tuple[list, list]:
    """Draw error against cost of the points of a task; return the names of those shown, and of each point's bar (axes, cost, low, high)."""
    halo, names, bars = matplotlib.patheffects.withStroke(linewidth=2, foreground="white"), [], []
    for row in (_missing(row, most) for row in rows):
        strong = row["point"] in named
        colour = RIGHT if row["point"] == "reference" else LEFT if strong else "#9a9a9a"
        _interval(axes, row, "control", base, marker="o" if strong else ".", color=colour, zorder=2 + strong)
        bars.append((axes, row["passes"] / base, row["control_low"], row["control_high"]))
        if row["point"] in shown:
            names.append(axes.annotate(row["point"], (row["passes"] / base, row["control"]), (5, 3), textcoords="offset points",
                                       color=colour if strong or row["point"] == "reference" else "0.3", fontsize=9 if strong else 7.5,
                                       fontweight="bold" if strong else "normal", path_effects=[halo],
                                       arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "0.6", "shrinkA": 1, "shrinkB": 2}))
            names[-1].set_in_layout(False)                                          # or axes shrink when it is moved
    axes.set(ylabel=error, yscale="log")
    _plain_numbers(axes.yaxis)
    _doubles(axes)
    axes.margins(x=0.2, y=0.12)
    return names, bars


def _doubles(axes) -> None:
    """An axis of cost."""
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2])
    _plain_numbers(axes.xaxis)


@declared
def efficiency(curves: dict, error: Text, most: Positive | None = None, inches: Inches = (6.4, 3.4)) -> Figure:
    """What labels buy: an error with its 95 % intervals over labelled pictures, both on logarithmic axes. Who needs no labels is a
    line across, with its interval as a band. Points of one training are hollow: what another would change, their intervals do not know.

    Args:
        curves: {name: [{"labels", "value", "low", "high", "n", "seeds"}, ...]}, n pictures and as many trainings as seeds; labels are 0 for
            who needs none.
        error: the name of what is drawn; smaller is nearer.
        most: the best value where larger is better (1.0 of a PCK): drawn is what is missing to it. None where values are errors.
    """
    if not curves:
        raise ValueError("there are no curves to show: pass at least one")
    figure = Figure(figsize=inches, layout="constrained")
    axes, ticks = figure.subplots(), sorted({each["labels"] for rows in curves.values() for each in rows} - {0})
    trained = [name for name, rows in curves.items() if any(each["labels"] for each in rows)]
    for name, rows in curves.items():
        rows = [_missing(row, most, "value", "low", "high") for row in rows]
        if name not in trained:
            axes.axhspan(rows[0]["low"], rows[0]["high"], color="0.88", linewidth=0)
            axes.axhline(rows[0]["value"], color="0.45", linewidth=1.2, label=name)
            continue
        colour, mark, dash = STYLES[trained.index(name) % len(STYLES)]
        aside = 1.09 ** (trained.index(name) - (len(trained) - 1) / 2)                  # so that intervals stand side by side
        single = [each for each in rows if each["seeds"] == 1]
        axes.errorbar([each["labels"] * aside for each in rows], [each["value"] for each in rows], _ends(rows), fmt=dash, marker=mark, color=colour, markersize=5, linewidth=1.4,
                      elinewidth=1, capsize=2, label=name, markerfacecolor="white" if single == rows else colour)
        axes.plot([each["labels"] * aside for each in single], [each["value"] for each in single], mark, color=colour, markersize=5, markerfacecolor="white", zorder=4)
    axes.set(xscale="log", yscale="log", xlabel="labelled pictures")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(0.6 * ticks[0], 1.7 * ticks[-1])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0,) if high > 20 * low else (1.0, 2.0, 5.0)))
    _plain_numbers(axes.yaxis)
    axes.set_ylabel(upright(error), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    every = [each for rows in curves.values() for each in rows]
    axes.set_title(_what_whiskers_are(every, most), fontsize=7.5, color="0.35", loc="left")
    return figure


def _what_whiskers_are(rows: list[dict], most: float | None = None) -> str:
    """What a figure has to say of its intervals: over what they are, how many pictures there are, which points are of one training, and which
    end where an error is 0, which no such axis has."""
    counts, trainings = {each["n"] for each in rows}, {min(each["seeds"], 2) for each in rows if each["labels"]}
    return (f"whiskers: 95 % intervals of n = {_from_to(counts)} pictures"
            + (" and of trainings" if 2 in trainings else "") + ("; hollow: one training" if 1 in trainings else "")
            + (f"\nwhiskers that end at {LEAST:g} reach 0" if most is not None and any(most - each["high"] < LEAST for each in rows) else ""))


@declared
def trade(found: dict, error: Text, panels: dict, most: Positive | None = None, inches: Inches = (3.2, 2.9)) -> Figure:
    """What control costs: a panel for each {number: label} over the control error, which gets less to the right, on an axis that
    doubles. All with 95 % intervals; hollow is who was trained once.

    Args:
        found: {name: [{"strength", "labels", "control", number: {"value", "low", "high", "n", "seeds"}}, ...]}: a line through strengths,
            which stand at the points, or a grey square where there is one only. A number that is None is not drawn.
        error, most: as of `efficiency`.
    """
    if not found or not panels:
        raise ValueError("there is nothing to show: pass at least one contestant and one panel")
    figure = Figure(figsize=(inches[0] * len(panels), inches[1] + 0.4), layout="constrained")
    grid, several, strengths = figure.subplots(1, len(panels), squeeze=False)[0], [name for name, rows in found.items() if len(rows) > 1], []
    halo = matplotlib.patheffects.withStroke(linewidth=2, foreground="white")
    for axes, (number, label) in zip(grid, panels.items()):
        for name, rows in found.items():
            rows = [row | {"error": _missing(row["control"], most, "value", "low", "high")} for row in rows if row[number] is not None]
            colour, mark, dash = STYLES[several.index(name) % len(STYLES)] if name in several else ("0.45", "s", "-")
            x, y = [row["error"]["value"] for row in rows], [row[number]["value"] for row in rows]
            single = name in several and rows and rows[0]["control"]["seeds"] == 1
            axes.errorbar(x, y, _ends([row[number] for row in rows]), _ends([row["error"] for row in rows]), fmt=dash, marker=mark,
                          color=colour, markersize=5, linewidth=1.2, elinewidth=0.5, label=name, markerfacecolor="white" if single else colour)
            if name in several:
                strengths += [axes.annotate(f"{row['strength']:g}", at, (4, 4), textcoords="offset points", fontsize=6.5, color=colour,
                                            path_effects=[halo]) for row, at in zip(rows, zip(x, y))]
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.margins(x=0.12)
        _plain_numbers(axes.xaxis)
        axes.set_ylabel(upright(label), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    told = _what_whiskers_are([row["control"] | {"labels": row["labels"]} for rows in found.values() for row in rows], most)
    figure.supxlabel(f"{error}; nearer to the right\n{told}", fontsize=8)
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside upper center", ncols=4)
    _apart(figure, strengths)
    return figure


@declared
def differences(found: dict, label: Text, inches: Inches | None = None, of: Text = "training") -> Figure:
    """A point with its 95 % interval for each {name: {"value", "low", "high"}}, one below the other, beside a line at 0; what holds 0
    is pale. Where all tell their "n" and "seeds", as `evidence.statistics` does, the figure says them, and what the seeds are `of`."""
    if not found:
        raise ValueError("there are no differences to show: pass at least one")
    figure = Figure(figsize=inches or (5.6, 0.9 + 0.24 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=1)
    for i, each in enumerate(found.values()):
        open_ = each["low"] <= 0 <= each["high"]
        axes.errorbar(each["value"], i, xerr=_ends([each]), fmt="o", color="0.55" if open_ else LEFT, markerfacecolor="white" if open_ else LEFT,
                      markersize=5, capsize=2, linewidth=1.2)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)                   # the first on top, with room for its marker
    axes.set_xlabel(textwrap.fill(label, 60), fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    if all({"n", "seeds"} <= each.keys() for each in found.values()):
        counts, seeds = ({each[what] for each in found.values()} for what in ("n", "seeds"))
        figure.suptitle(f"whiskers: 95 % intervals of n = {_from_to(counts)} pairs of pictures{_of_seeds(seeds, of)}",
                        fontsize=7.5, color="0.35", x=0.01, ha="left")
    return figure


def _from_to(several) -> str:
    """Numbers as their ends: "64", "16 to 64"."""
    return " to ".join(map(str, dict.fromkeys((min(several), max(several)))))


def _of_seeds(seeds: set[int], of: str = "training") -> str:
    return f"; one {of} each" if seeds == {1} else f"; {_from_to(seeds)} {of}s"


@declared
def score_panels(parts: dict, y: Text, columns: Count = 3, inches: Inches = (3.2, 2.2)) -> Figure:
    """A small panel for each {part: {name: [{"timestep", "value", "low", "high", "seeds", "n"}, ...]}}: scores over timesteps, with 95 %
    intervals of n pictures, or, where n is 0, bars from the least to the most of the trainings; the first name of each is drawn thick."""
    if not parts:
        raise ValueError("there are no scores to show: pass at least one part")
    rows_of = -(-len(parts) // columns)
    figure = Figure(figsize=(inches[0] * min(columns, len(parts)), inches[1] * rows_of), layout="constrained")
    grid = figure.subplots(rows_of, min(columns, len(parts)), squeeze=False, sharey=True).flat
    for (part, heads), axes in zip(parts.items(), grid):         # in this order: zip would take one frame too many
        for i, (name, rows) in enumerate(heads.items()):
            colour, mark, dash = STYLES[(i - 1) % len(STYLES)] if i else (MIDDLE, "", "-")
            axes.errorbar([row["timestep"] + 6 * i for row in rows], [row["value"] for row in rows], _ends(rows), fmt=dash, marker=mark,
                          color=colour, markersize=4, linewidth=1.2 if i else 2.4, elinewidth=0.8, capsize=2, label=name,
                          markerfacecolor="white" if i > len(STYLES) else None)
        axes.set_title(part, fontsize=8)
        axes.set_xlabel("timestep", fontsize=8)
        axes.set_ylabel(upright(y), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        many = len(heads) > 5                                   # then below the lines, in two columns
        axes.legend(fontsize=6, frameon=False, ncols=1 + many, **({"loc": "lower left", "columnspacing": 0.8} if many else {}))
    for axes in list(grid):
        axes.set_axis_off()
    every = [row for heads in parts.values() for rows in heads.values() for row in rows]
    counts, seeds = {row["n"] for row in every}, {row["seeds"] for row in every}
    told = f"whiskers: 95 % intervals of n = {_from_to(counts)} labelled pictures" if min(counts) else (
        "no intervals" if seeds == {1} else "whiskers: the least and the most of the trainings")
    figure.supxlabel(told + _of_seeds(seeds), fontsize=7.5, color="0.35")
    return figure


def _ends(rows) -> list[list[float]]:
    """How far the ends of intervals are from their values: below and above, for error bars."""
    return [[max(row["value"] - row["low"], 0) for row in rows], [max(row["high"] - row["value"], 0) for row in rows]]


@declared
def shares(rows: dict, label: Text, apart: Index = 0, inches: Inches | None = None) -> Figure:
    """A table of shares with their 95 % intervals, for {row: {column: {"value", "low", "high", "n"}}}, dark where they are large. The first
    `apart` columns stand apart from the others. Below a column's name is how many it is a share of."""
    if not rows or not all(rows.values()):
        raise ValueError("there is nothing to show: pass at least one row with a column")
    columns = list(next(iter(rows.values())))
    figure = Figure(figsize=inches or (1.9 + 0.78 * len(columns), 0.9 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow([[each[name]["value"] for name in columns] for each in rows.values()], cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for i, each in enumerate(rows.values()):
        for j, name in enumerate(columns):
            found = each[name]
            ink = "white" if found["value"] > 0.8 else "black"
            axes.text(j, i - 0.12, f"{found['value']:.0%}", ha="center", va="center", fontsize=8.5, color=ink)
            axes.text(j, i + 0.26, f"{found['low']:.0%} to {found['high']:.0%}", ha="center", va="center", fontsize=5.5, color=ink)
    if apart:
        axes.axvline(apart - 0.5, color="white", linewidth=5)
    counts = {name: {each[name]["n"] for each in rows.values()} for name in columns}
    axes.set_xticks(range(len(columns)), [f"{name}\nn = {_from_to(counts[name])}" for name in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(label, fontsize=8)
    return figure


def _apart(figure, names: list, bars=()) -> None:
    """Put each name on a side of its point where no other name is yet; where there are bars (axes, x, low, high), on none of them and
    inside of its axes, if there is such a place."""
    figure.draw_without_rendering()                                                 # so that sizes are known
    ends = [axes.transData.transform([(x, low), (x, high)]) for axes, x, low, high in bars]
    lines = [matplotlib.transforms.Bbox.from_extents(x - 4, min(a, b) - 4, x + 4, max(a, b) + 4) for (x, a), (_, b) in ends]
    taken, sides = [], list(itertools.product((1, -1), (5, 9), (3, -3, 11, -11, 20, -20)))

    def at(name, side, x, y):
        name.set(position=(side * x, y), ha="left" if side > 0 else "right", va="center")
        return matplotlib.text.Text.get_window_extent(name)                         # of the words alone

    def harm(name, box):
        room = name.axes.get_window_extent().padded(-8, -2)                         # words are wider in finer pictures
        outside = bool(bars) and not (room.x0 < box.x0 and box.x1 < room.x1 and room.y0 < box.y0 and box.y1 < room.y1)
        return sum(map(box.overlaps, taken)) + outside, sum(map(box.overlaps, lines))

    for name in sorted(names, key=lambda name: -name.get_fontsize()):
        taken.append(at(name, *min(sides, key=lambda side: harm(name, at(name, *side)))))


def _plain_numbers(axis) -> None:
    """On an axis that doubles: 0.1 instead of a power of ten, and nothing between the large ticks."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, position: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _missing(row: dict, most: float | None, middle: str = "control", low: str = "control_low", high: str = "control_high",
             least: float = LEAST) -> dict:
    """A summary with its number turned into an error: what is missing to `most`, and never 0, which no such axis has."""
    if most is None:
        return row
    return row | {mine: max(most - row[other], least) for mine, other in ((low, high), (middle, middle), (high, low))}


def _interval(axes, row: dict, name: str, base: float, **look) -> None:
    """A summary's mean and its 95 % interval, over its cost."""
    ends = [[max(row[name] - row[f"{name}_low"], 0)], [max(row[f"{name}_high"] - row[name], 0)]]
    axes.errorbar(row["passes"] / base, row[name], ends, capsize=2, linewidth=1, linestyle="none", **look)
