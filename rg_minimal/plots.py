"""Every figure of the notebooks, as functions that return a matplotlib Figure and show nothing themselves.

Pictures are (B, 3, H, W) tensors in [0, 1]; points are (x, y) in pixels of the image. Colours are blue and orange for the puppet's left and
right (told apart by nearly everybody), and every colour is doubled by a shape or a label.
"""
from __future__ import annotations

import io
from pathlib import Path
from typing import Sequence

import matplotlib.figure
import torch
from PIL import Image
from torch import Tensor

from .puppets import JOINTS, LIMBS

LEFT, RIGHT, MIDDLE = "#0072B2", "#E69F00", "#333333"           # Okabe and Ito's blue and orange, and a neutral grey


class Figure(matplotlib.figure.Figure):
    """A figure that notebooks show as it is, whether or not pyplot was ever imported; in 256 colours, to stay small."""

    def _repr_png_(self) -> bytes:
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=90)
        Image.open(drawn).convert("RGB").quantize(256).save(small, format="png", optimize=True)
        return small.getvalue()


def side_colour(joint: int) -> str:
    """The colour of a joint: blue on the puppet's left, orange on its right, grey between."""
    return LEFT if JOINTS[joint].startswith("left") else RIGHT if JOINTS[joint].startswith("right") else MIDDLE


def picture_grid(pictures: Sequence[Tensor] | Tensor, titles: Sequence[str] = (), columns: int | None = None,
                 skeletons: Sequence[Tensor | None] = (), size: float = 1.7) -> Figure:
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
    axes.set_title(title, fontsize=8, pad=3)


def draw_skeleton(axes, joints: Tensor, faint: bool = False) -> None:
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


def skeleton_figure(joints: Tensor, size: int = 128, title: str = "", inches: float = 2.2) -> Figure:
    """A skeleton alone on a light ground, as a target to show."""
    figure = Figure(figsize=(inches, inches + 0.25), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=[], yticks=[], facecolor="#f4f4f4")
    axes.set_title(title, fontsize=8, pad=3)
    draw_skeleton(axes, joints)
    return figure


def pose_comparison(unguided: Tensor, target: Tensor, guided: Tensor, scores: Sequence[tuple[float, float]] = (),
                    inches: float = 1.75) -> Figure:
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


def readout_strip(picture: Tensor, maps: Sequence[Tensor], titles: Sequence[str], skeletons: Sequence[Tensor] = (),
                  inches: float = 1.8) -> Figure:
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


def curve(values: Sequence[float], label: str, x: str = "step", smooth: int = 0, inches: tuple = (4.2, 2.1)) -> Figure:
    """A line of values, such as a loss, with a running mean over `smooth` values where asked for."""
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    axes.plot(values, color=LEFT, linewidth=0.8, alpha=0.45 if smooth else 1.0)
    if smooth and len(values) >= smooth:
        mean = torch.tensor(values).unfold(0, smooth, 1).mean(1).tolist()
        axes.plot(range(smooth - 1, len(values)), mean, color=LEFT, linewidth=1.8)
    axes.set(xlabel=x, ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_grid(pictures: Tensor, path: str | Path, columns: int = 8) -> Path:
    """Write pictures (B, 3, H, W) edge to edge as an image file, pixel for pixel; the folder is made where missing."""
    rows = -(-len(pictures) // columns)
    blank = torch.ones(rows * columns - len(pictures), *pictures.shape[1:])
    tiles = torch.cat([pictures.detach().float().cpu().clamp(0, 1), blank])                 # (rows * columns, 3, H, W)
    _, channels, height, width = tiles.shape
    sheet = tiles.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, channels)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().to(torch.uint8).numpy()).save(path)
    return path


def save_figure(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write a figure; the folder is made where missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path
