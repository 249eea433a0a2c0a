"""The heads that the repository ships: what each one reads, how it is trained, how it is scored, how it guides.

The core (`readout.py`) trains any head on any labels; here are the labels of the puppet world. Read in this order:

    pose, depth, edges      maps of one picture: labels, how to read them, an objective each
    points, looks           features to be compared between pictures: correspondence and appearance
    tasks                   one row for each head: `TASKS`
    training, scores        `train_task`, `score_head`, the same for all rows
    cards                   `python -m rg_minimal.puppets.heads pose` (or any other name, or `all`) trains, scores and writes

A property of your own is one more `Task`; `train_task` and `score_head` take it as they take a name.
Points are (x, y) in pixels; B pictures; maps have 32 x 32 cells, one for each cell of the latents.
"""
from __future__ import annotations

import argparse
import inspect
import json
import math
import time
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Callable, Iterable, Iterator, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor

from . import world
from .judge import depth_rmse, edge_f_score, pck
from .. import keypoints
from ..checks import (AnyHead, Count, Declared, Entries, FileName, Function, Index, NonNegative, Points, Positive, Seed, SomeName, Text, Words,
                      as_map, as_points, as_whole, checked, declared, one_sentence, option, stoppable)
from ..denoisers import denoiser
from ..files import check_place, refuse_file, write_file
from ..maps import pool_features, resize
from ..pipelines import encode, find_folder, load_pipeline, read_picture
from ..processes import check_batch, is_main, share, wait
from ..readout import (AppearanceObjective, CorrespondenceObjective, HeadConfig, SpatialObjective, TrainState, appearance_loss,
                       correspondence_loss, spatial_loss)
from ..saving import ReadoutHead, train_head
from ..sources import Source
from ..undo import seeded

TRAIN_SEED = 400_000_000                 # scenes that heads are trained on; the held-out ones start at world.HELD_OUT
SCORE_SEED = world.HELD_OUT + 50_000
TIMESTEPS = (20, 100, 300, 500, 750)     # at which a head is scored
SCORED, FEW = 128, 100                   # held-out samples of a score; labelled samples of the second figure in a card
CELLS, EDGE_CELLS = 32, 64               # a side of a readout; of the map of edges that is folded into one


# ---------------------------------------------------------------------------------------------- pose

@declared
def heatmaps(joints: Tensor, cells: Count = CELLS, image_size: Count = world.SIZE, sigma: Positive = 1.5) -> Tensor:
    """`keypoints.heatmaps` for puppets: joints (B, N, 2) in pixels to heatmaps (B, N, cells, cells)."""
    return keypoints.heatmaps(joints, cells, image_size, sigma)


@declared
def read_joints(maps: Tensor, image_size: Count = world.SIZE) -> tuple[Tensor, Tensor]:
    """`keypoints.read_joints` for puppets: heatmaps (B, N, h, w) to joints (B, N, 2) in pixels and their peaks (B, N)."""
    return keypoints.read_joints(maps, image_size)


def pose_loss(readout: Tensor, target: Tensor) -> Tensor:
    """Squared error of heatmaps (B, 14, h, w), counting more where a joint is."""
    return keypoints.weighted_square(readout, target).mean()


def pose_objective(head: ReadoutHead, joints: Tensor, **settings) -> keypoints.KeypointObjective:
    """Guide all 14 joints to `joints` (B or 1, 14, 2) or (14, 2) in pixels; `settings` as of `SpatialObjective`."""
    check_reads(head, "pose")
    joints = joints if torch.is_tensor(joints) else checked("joints", joints, Points)
    joints = joints[None] if joints.ndim == 2 else joints
    if joints.ndim == 3 and joints.shape[1] != head.config.out_channels:
        raise ValueError(f"joints has {joints.shape[1]} points a picture, but this head reads {head.config.out_channels}; pass all of them, "
                         f"(B or 1, {head.config.out_channels}, 2), and `mask` says which count")
    return keypoints.KeypointObjective(head=head, target=heatmaps(joints), distance=keypoints.weighted_square, image_size=world.SIZE, **settings)


def _pose_samples(count: int, seed: int):
    frames = world.render(world.sample_scenes(count, seed))
    return (frames.image,), (frames.joints, frames.visible)


# ---------------------------------------------------------------------------------------------- depth

def depth_target(depth: Tensor) -> Tensor:
    """Depth (B, 1, H, W) in [0, 1], larger is nearer, to what the head is to read: cell means in [-1, 1], (B, 1, 32, 32)."""
    return F.adaptive_avg_pool2d(_one_channel("depth", depth), CELLS) * 2 - 1


def read_depth(readout: Tensor) -> Tensor:
    """The readout of a depth head (B, 1, h, w) as depth in [0, 1], larger is nearer."""
    return (readout / 2 + 0.5).clamp(0, 1)


def depth_objective(head: ReadoutHead, depth: Tensor, **settings) -> SpatialObjective:
    """Guide to a depth map (B or 1, 1, H, W) or (1, H, W) in [0, 1] of any size, larger is nearer.

    The map may be rendered (`Frames.depth`) or painted: flat grey shapes do. `mask` says where it counts.
    """
    check_reads(head, "depth")
    return SpatialObjective(head=head, target=depth_target(depth), **settings)


def _depth_samples(count: int, seed: int):
    frames = world.render(world.sample_scenes(count, seed))
    return (frames.image,), (depth_target(frames.depth),)


# ---------------------------------------------------------------------------------------------- edges

def edge_target(edges: Tensor) -> Tensor:
    """Edges (B, 1, H, W), at least 0.5 on an edge or stroke, to what the head is to read: -0.5 and +0.5, (B, 4, 32, 32).

    A cell of the readout is 4 pixels wide, too coarse for lines: brought back to pixels, the truth itself would reach an
    F-score of 0.82 (within 1 pixel). On 64 x 64 cells it reaches 1.00, so the channels of the readout are the upper
    left, upper right, lower left and lower right quarter of each of its cells.
    """
    lines = F.adaptive_max_pool2d(_one_channel("edges", edges), EDGE_CELLS) >= 0.5         # (B, 1, 64, 64)
    return F.pixel_unshuffle(lines.float() - 0.5, EDGE_CELLS // CELLS)                     # (B, 4, 32, 32)


def read_edges(readout: Tensor) -> Tensor:
    """The readout of an edge head (B, 4, h, w) as edges (B, 1, 2h, 2w) in [0, 1]; from 0.5 on a cell is an edge."""
    return (F.pixel_shuffle(readout, EDGE_CELLS // CELLS) + 0.5).clamp(0, 1)


def edge_loss(readout: Tensor, target: Tensor) -> Tensor:
    """The mean of the background's and the edges' squared error, so that thin lines count."""
    return spatial_loss(readout, target, background=-0.5)


@dataclass(kw_only=True, eq=False)
class EdgeObjective(SpatialObjective):
    """Edges are read in quarters of a cell, which are channels: a map of them cannot be resized to another picture's."""

    def check(self, pipe, batch, image_size) -> None:
        side = CELLS * denoiser(pipe).factor
        if tuple(image_size) != (side, side):
            raise ValueError(f"the edges are for a picture of {side} x {side} pixels, but one of {image_size[0]} x {image_size[1]} "
                             "(height x width) is made; make one of that size")
        super().check(pipe, batch, image_size)


@declared
def edge_objective(head: ReadoutHead, edges: Tensor, background: NonNegative = 1.0, **settings) -> EdgeObjective:
    """Guide to edges (B or 1, 1, H, W) or (1, H, W), at least 0.5 on an edge: rendered (`Frames.edges`) or drawn.

    Args:
        background: how much the places without a line count, all together, against the lines. A rough sketch leaves
            edges out, so ask less of them there; 0 asks for the strokes alone.
    """
    check_reads(head, "edges")
    target = edge_target(edges)
    if background == 0 and (target < 0).flatten(1).all(1).any():
        raise ValueError("there is a map without any edge, and background=0 asks nothing of the rest: draw a line")

    def distance(readout, target):
        drawn = (target > 0).to(readout)                                                # (B or 1, 4, h, w)
        share = drawn.mean((1, 2, 3), keepdim=True)
        weight = drawn / share.clamp_min(1e-4) + background * (1 - drawn) / (1 - share).clamp_min(1e-4)
        return (readout - target).square() * weight / (1 + background)
    return EdgeObjective(head=head, target=target, distance=distance, **settings)


@declared
def draw_strokes(strokes: Iterable, thickness: Positive = 2.0, image_size: Count = world.SIZE) -> Tensor:
    """Strokes, each N >= 2 points (x, y) in pixels joined by straight lines, to a map (1, 1, H, W) of 0 and 1. Those thinner
    than a pixel are a pixel thick. ValueError for one that lies outside the picture."""
    pixels = pixel_grid(image_size)[..., None, :]                                       # (H, W, 1, 2)
    drawn = torch.zeros(image_size, image_size, dtype=torch.bool)
    for stroke in strokes:
        try:
            points = as_points(stroke, least=2)
        except ValueError as error:
            raise ValueError(f"a stroke is none: {error}") from None
        start, step = points[:-1], points[1:] - points[:-1]                             # (N - 1, 2)
        along = ((pixels - start) * step).sum(-1) / step.square().sum(-1).clamp_min(1e-9)       # (H, W, N - 1)
        nearest = start + along.clamp(0, 1)[..., None] * step
        line = ((pixels - nearest).norm(dim=-1) <= max(thickness, 1.0) / 2).any(-1)     # a thinner one would run between pixels
        if not line.any():
            raise ValueError(f"a stroke from {tuple(points[0].tolist())} to {tuple(points[-1].tolist())} lies outside the picture of {image_size} x "
                             f"{image_size} pixels; pass points (x, y) in pixels of it")
        drawn |= line
    return drawn.float()[None, None]


@declared
def pixel_grid(cells: Count, image_size: Count | None = None) -> Tensor:
    """The centres (x, y) of a square grid of cells, (cells, cells, 2), in pixels; a cell is a pixel by default."""
    centre = (torch.arange(cells) + 0.5) * ((image_size or cells) / cells)
    return torch.stack((centre.expand(cells, -1), centre[:, None].expand(-1, cells)), -1)


def _edge_samples(count: int, seed: int):
    frames = world.render(world.sample_scenes(count, seed))
    return (frames.image,), (edge_target(frames.edges),)


def _edge_score(readout: Tensor, target: Tensor) -> Tensor:
    return edge_f_score(read_edges(readout), read_edges(target), tolerance=0)      # 1 would forgive lines of 3 cells


# ---------------------------------------------------------------------------------------------- points

POINTS, ON_PROP = 64, 16                 # matches of a training pair; those of them on its prop, if it shows one twice


@declared
def match_points(features_a: Tensor, features_b: Tensor, points: Tensor, image_size: Count = world.SIZE) -> Tensor:
    """`keypoints.match_points` for puppets: where points (B, N, 2) of picture a are in picture b, (B, N, 2) in pixels."""
    return keypoints.match_points(features_a, features_b, points, image_size)


def drag_objective(head: ReadoutHead, source: Source, handles, targets, **settings) -> CorrespondenceObjective:
    """What the source shows at `handles` is to appear at `targets`, both (N, 2) in pixels."""
    check_reads(head, "correspondence")
    return CorrespondenceObjective(head=head, source=source, source_points=handles, target_points=targets, **settings)


def _pair_samples(count: int, seed: int):
    first, second = (world.render(scenes) for scenes in zip(*(world.sample_pair(seed + i) for i in range(count))))
    points = world.correspondences(first, second, POINTS, torch.Generator().manual_seed(seed), ON_PROP)
    side = (second.joints.amax(1) - second.joints.amin(1)).amax(-1)                     # (B,) of the box of joints
    return (first.image, second.image), (*points, side)


def _pair_loss(features_a, features_b, points_a, points_b, side) -> Tensor:
    return correspondence_loss(features_a, features_b, points_a, points_b, (world.SIZE, world.SIZE))


@declared
def match_score(features_a, features_b, points_a, points_b, side, a: Positive = 0.1) -> Tensor:
    """PCK@a: the share of points whose match is nearer to its partner than `a` times `side` (B,) pixels. (B,)"""
    error = (match_points(features_a, features_b, points_a) - points_b).norm(dim=-1)    # (B, N)
    return (error <= a * side[:, None]).float().mean(-1)


# ---------------------------------------------------------------------------------------------- looks

def identity_objective(head: ReadoutHead, source: Source, **settings) -> AppearanceObjective:
    """The puppet is to look like the source's, in whatever pose and place: `pool_features` of pictures or boxes are compared.

    `boxes` and `mask` say where; `pool=False` compares position by position, which keeps the pose too.
    """
    check_reads(head, "appearance")
    return AppearanceObjective(head=head, source=source, **{"pool": True, **settings})


def _triplet_samples(count: int, seed: int, differs=()):
    """Anchor, positive, and the negative twice: in the anchor's pose and scene, and in the positive's."""
    scenes = [sample_looks(seed + i, differs) for i in range(count)]
    return tuple(world.render(each).image for each in zip(*scenes)), ()


@declared
def sample_looks(seed: Seed, differs=()) -> tuple[world.Scene, ...]:
    """Two puppets, each in the same two poses and scenes: (first in 1, first in 2, second in 1, second in 2).

    `differs` as in `world.sample_triplet`.
    """
    anchor, positive, negative = world.sample_triplet(seed, differs)
    clothes = {name: getattr(negative.puppet, name) for name in world.LOOKS}
    return anchor, positive, negative, replace(positive, puppet=replace(positive.puppet, **clothes))


def _triplet_loss(*features: Tensor) -> Tensor:
    """Hinge loss of four triplets, margin 1: either picture of the first puppet as anchor, either of the second as negative.

    With negatives in the anchor's scene alone, the quickest way to a small loss is to make all features equal. So half of
    it is taken after what the four pictures have in common is taken away, which would leave nothing of equal features.
    """
    members = torch.stack([pool_features(each) for each in features])                   # (4, B, C, 1, 1)

    def hinge(first_1, first_2, second_1, second_2):
        return sum(appearance_loss(anchor, positive, negative, margin=1.0) for negative in (second_1, second_2)
                   for anchor, positive in ((first_1, first_2), (first_2, first_1))) / 4
    return (hinge(*members) + hinge(*(members - members.mean(0)))) / 2


def triplet_score(anchor: Tensor, positive: Tensor, negative: Tensor, *others: Tensor) -> Tensor:
    """1 where the positive is nearer to the anchor than the negative, else 0: features (B, C, h, w), (B,).

    Nearness is the cosine similarity of `pool_features`.
    """
    near, far = (F.cosine_similarity(pool_features(anchor), pool_features(other), dim=1).mean((-2, -1))
                 for other in (positive, negative))
    return (near > far).float()


# ---------------------------------------------------------------------------------------------- tasks

@dataclass(frozen=True)
class Task(Declared):
    """One head: what it reads, from what it learns, by what it is measured. `TASKS` has the five that are shipped.

    A sample is one picture, or two or three that a relative head compares. `samples(count, seed)` returns a tuple of
    pictures (count, 3, H, W) in [0, 1], one for each member of a sample, and a tuple of what is known about them, each
    (count, ...); the same count and seed give the same. `loss(*readouts, *truth)` is one number and
    `score(*readouts, *truth)` is (B,), with one readout for each member. Scored are samples of other seeds, or what
    `held_out` makes in the same way; `further` are other such functions, a row of the card for each.
    """
    name: Words
    reads: Text                         # what comes out, for the card
    samples: Function
    loss: Function | None               # None for a task that is only scored
    score: Function
    out_channels: Index = 0             # 0 is a relative head: features of `width`
    activation: Literal["none", "tanh"] = "none"
    unit: Words = "pictures"            # what a sample is: 'pictures', 'pairs', 'triplets'
    learns: Text = ""                   # the loss in words
    measure: Words = "score"            # short name of the score
    measured: Text = ""                 # the score in words
    limits: Text = "rendered puppets only, 128 x 128."
    extra: Entries = field(default_factory=dict)                       # goes into the head's config
    held_out: Function | None = None    # samples to score on, where they are not made as those to learn from
    further: Annotated[dict[str, Function], Field()] = field(default_factory=dict)
    count: Count = 1536                 # labelled samples
    steps: Count = 400
    batch: Count = 16                   # samples a step
    lr: Positive = 1e-3                 # of AdamW, falling to 2 % along a cosine


TASKS = {task.name: task for task in (
    Task("pose", f"14 joints as heatmaps (B, 14, 32, 32). Order of the joints: {', '.join(world.JOINTS)}. Left and right "
         "are the puppet's own. `read_joints` turns them into points",
         _pose_samples, lambda readout, joints, visible: pose_loss(readout, heatmaps(joints)),
         lambda readout, joints, visible: pck(read_joints(readout)[0], joints, 0.05, visible),
         out_channels=len(world.JOINTS), learns="squared error weighted by 1 + 20 x target", measure="pck@0.05",
         measured="PCK@0.05 (within 5 % of the larger side of the puppet's joint box), visible joints",
         limits="rendered puppets only, 128 x 128; above t = 700 little of the picture is left to read.",
         extra={"joints": list(world.JOINTS), "heatmap_sigma_cells": 1.5}),
    Task("depth", "depth as a map (B, 1, 32, 32) in [-1, 1], larger is nearer, -1 the sky. `read_depth` brings it to [0, 1]",
         _depth_samples, spatial_loss, lambda readout, target: depth_rmse(read_depth(readout), read_depth(target)),
         out_channels=1, activation="tanh", learns="squared error", measure="depth rmse",
         measured="RMSE of depth in [0, 1] over the 32 x 32 cells, after the best scale and shift (smaller is better)",
         extra={"value_range": [-1, 1]}),
    Task("edges", "edges as a map (B, 4, 32, 32) of -0.5 (none) to 0.5; the channels are the quarters of each cell. "
         "`read_edges` turns it into one map (B, 1, 64, 64) in [0, 1]",
         _edge_samples, edge_loss, _edge_score, out_channels=(EDGE_CELLS // CELLS) ** 2, activation="tanh",
         learns="mean of the squared errors of background and edges", measure="edge f-score",
         measured="F-score of edges on 64 x 64 cells of 2 pixels, cell by cell (all cells an edge: 0.18)",
         extra={"value_range": [-0.5, 0.5], "cells": EDGE_CELLS}),
    Task("correspondence", "features (B, 128, 32, 32): the same spot of a puppet has similar ones (cosine) in two pictures. "
         "`match_points` finds it", _pair_samples, _pair_loss, match_score, unit="pairs", batch=8, count=512, steps=300,
         learns=f"symmetric cross-entropy over cosine similarities of {POINTS} exact matches a pair, temperature 0.07, both "
         "pictures at one timestep", measure="pck@0.1",
         measured=f"PCK@0.1 (within 10 % of the larger side of the joint box) of nearest neighbours, {POINTS} points a pair, "
         f"{ON_PROP} of them on the prop where both pictures show it",
         limits="trained and scored on puppet and prop, not on the background; 128 x 128."),
    Task("appearance", "features (B, 128, 32, 32): their generalised means over positions (`pool_features`) are alike "
         "(cosine similarity) where the puppets look alike, whatever their pose and place", _triplet_samples, _triplet_loss,
         triplet_score, unit="triplets", batch=6, count=1280, steps=1500, lr=4e-3, learns="hinge loss of the difference of cosine "
         "distances between centred generalised means over positions, margin 1, as they are and after what the pictures of a "
         "triplet have in common is taken away; all pictures at one timestep; two negatives of three differ in one look alone",
         measure="triplet accuracy",
         measured="share of triplets in which the same puppet in another pose, place and scene is nearer than one in the same "
         "pose, place and scene whose shirt and trousers are others (further down: that differs in one look alone)",
         held_out=lambda count, seed: _triplet_samples(count, seed, ("shirt", "trousers")),
         further={f"{look} alone differs": lambda count, seed, look=look: _triplet_samples(count, seed, (look,))
                  for look in world.LOOKS}),
)}


def get_task(task: str | Task, **changes) -> Task:
    """A task by its name, or as it is, with `count`, `steps`, `batch` or `lr` changed; None changes nothing."""
    if not isinstance(task, Task):
        if not isinstance(task, str) or task not in TASKS:
            raise ValueError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}, or pass a Task of your own")
        task = TASKS[task]
    return replace(task, **{name: value for name, value in changes.items() if value is not None})


# ---------------------------------------------------------------------------------------------- training

@dataclass
class Samples:
    """N samples of a task, their pictures encoded."""
    latents: tuple[Tensor, ...]         # (N, C, h, w) for each member of a sample
    truth: tuple[Tensor, ...]           # (N, ...) each

    def __len__(self) -> int:
        return len(self.latents[0])

    def __getitem__(self, index) -> "Samples":
        """Those of a slice or a tensor of indices."""
        return Samples(*(tuple(each[index] for each in part) for part in (self.latents, self.truth)))


@declared
def collect(pipe, task: str | Task, count: Count | None = None, seed: Seed = TRAIN_SEED, chunk: Count = 8) -> Samples:
    """Render `count` samples of a task (by default as many as it is trained on) and encode their pictures, once.

    `chunk` samples at a time: with 8, what the encoder writes stays in the cache of a laptop's processor, and 32 take twice
    as long a picture.
    """
    task, parts = get_task(task, count=count), []
    for first in range(0, task.count, chunk):
        pictures, truth = task.samples(min(chunk, task.count - first), seed + first)
        parts.append(([encode(pipe, each).cpu() for each in pictures], truth))
    return Samples(*(tuple(torch.cat(each) for each in zip(*part)) for part in zip(*parts)))


@declared
def collect_held_out(pipe, task: str | Task, count: Count = SCORED) -> Samples:
    """Samples to score a task on; no head was trained on their seeds."""
    return collect(pipe, get_task(task, samples=get_task(task).held_out), count, SCORE_SEED)


@declared
def new_head(pipe, task: str | Task, seed: Seed = 0, width: Count = 128) -> ReadoutHead:
    """An untrained head for any pipeline with a UNet; the seed decides its weights."""
    task = get_task(task)
    with seeded(seed):
        head = ReadoutHead(HeadConfig.for_model(
            pipe, width=width, out_channels=task.out_channels, hidden_channels=(64, 32), activation=task.activation,
            resize_late=True, property=task.name, base_model="puppet-diffusion", extra=dict(task.extra)))
    return head.to(denoiser(pipe).device)


@declared
def draw_batches(samples: Samples, batch: Count, seed: Seed = 0) -> Callable[[int], tuple]:
    """A function from the step to a random batch; batch n depends on (seed, n) alone, so a training can resume."""
    def draw(step: int) -> tuple:
        if not len(samples):
            raise ValueError("samples are empty, so there is nothing to draw a batch from; collect at least one")
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        part = samples[torch.randint(len(samples), (batch,), generator=rng)]
        return part.latents, *part.truth
    return draw


@declared
def train_task(pipe, task: str | Task, samples: Samples | None = None, head: ReadoutHead | None = None, seed: Seed = 0,
               checkpoint: FileName | None = None, checkpoint_every: Count = 50, timesteps=(0, 1000), **changes) -> Iterator[TrainState]:
    """Train a head for a task, as the task says or with `count`, `steps`, `batch` or `lr` changed, at `timesteps` from the first to
    before the last.

    A generator that yields after every step and resumes from `checkpoint`, see `train_head`. Samples and head are made
    anew where none are given.
    """
    task = get_task(task, **changes)
    samples = collect(pipe, task) if samples is None else samples
    cosine = lambda done: task.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    return train_head(new_head(pipe, task, seed) if head is None else head, pipe, draw_batches(samples, task.batch, seed),
                      task.steps, loss=task.loss, lr=cosine, generator=torch.Generator().manual_seed(seed),
                      timesteps=timesteps, checkpoint=checkpoint, checkpoint_every=checkpoint_every, latents=True)


# ---------------------------------------------------------------------------------------------- scores

def _timesteps(value) -> tuple[int, ...]:
    try:
        timesteps = tuple(as_whole(each) for each in value)
    except (TypeError, ValueError):
        timesteps = ()
    if not timesteps or not all(0 <= each < 1000 for each in timesteps):
        raise ValueError("pass one or more whole numbers from 0 to 999, such as (100, 500)")
    return timesteps


Timesteps = Annotated[tuple, BeforeValidator(_timesteps)]


@declared
def score_head(pipe, task: str | Task, head: ReadoutHead, timesteps: Timesteps = TIMESTEPS, samples: Samples | None = None,
               count: Count = SCORED) -> dict[int, float]:
    """The task's score on samples noised to each timestep, by default `count` held-out ones."""
    return {timestep: scores.mean().item() for timestep, scores in score_each(pipe, task, head, timesteps, samples, count).items()}


@declared
def score_each(pipe, task: str | Task, head: ReadoutHead, timesteps: Timesteps = TIMESTEPS, samples: Samples | None = None,
               count: Count = SCORED) -> dict[int, Tensor]:
    """`score_head` of each sample by itself: {timestep: (B,)}."""
    samples = collect_held_out(pipe, task, count) if samples is None else samples
    return {timestep: scores[0] for timestep, scores in _score(pipe, get_task(task), samples, timesteps, [lambda reading: reading(head)]).items()}


@declared
def score_raw_layers(pipe, task: str | Task, timesteps: Timesteps = TIMESTEPS, samples: Samples | None = None,
                     count: Count = SCORED) -> dict[int, list[float]]:
    """The same for a relative task without any head: for each timestep the score of each decoder layer's own features,
    resized to the latents as a head's are."""
    task = get_task(task)
    if task.out_channels:
        raise ValueError(f"{task.name} is read by an output head, raw features have no such score; choose a relative task")
    samples = collect_held_out(pipe, task, count) if samples is None else samples
    layer = lambda index: lambda reading: resize(reading.features[index], reading.latents.shape[-2:])
    layers = len(new_head(pipe, task).config.layer_channels)
    return {timestep: scores.mean(1).tolist() for timestep, scores in
            _score(pipe, task, samples, timesteps, [layer(index) for index in range(layers)]).items()}


@torch.no_grad()
def _score(pipe, task, samples, timesteps, views, chunk: int = 32) -> dict[int, Tensor]:
    """For each timestep the scores of each view, a function Reading -> (B, k, H, W), of all samples: (views, samples)."""
    scores = {}
    if not len(samples):
        raise ValueError("samples are empty, so there is nothing to score; collect at least one")
    try:
        inspect.signature(task.score).bind(*samples.latents, *samples.truth)
    except TypeError:
        raise ValueError(f"samples hold {len(samples.latents)} pictures and {len(samples.truth)} labels each, which is not what {task.name} is scored "
                         f"by; collect those of this task") from None
    for timestep in timesteps:
        rng, values = torch.Generator().manual_seed(SCORE_SEED + timestep), []
        for first in range(0, len(samples), chunk):
            part = samples[first:first + chunk]
            readings = [read_picture(pipe, None, timestep, generator=rng, latents=latents) for latents in part.latents]
            values.append(torch.stack([task.score(*(view(reading).float().cpu() for reading in readings), *part.truth)
                                       for view in views]))                             # (views, B)
        scores[timestep] = torch.cat(values, 1)
    return scores


# ---------------------------------------------------------------------------------------------- cards

CARD = """# {title} head

Reads, off the decoder features of `data/puppet-diffusion` at any timestep: {reads}.

- Trained by `python -m rg_minimal.puppets.heads {name}`: {count} rendered {unit} (scene seeds from {seed}), {steps} steps of
  batch {batch}, AdamW, learning rate {lr:g} with a cosine fall, {seconds:.0f} s on {where}; every sample at a random
  timestep, empty prompt; loss: {learns}. {parameters:,} parameters, licence Apache-2.0.
- {measured}; {scored} held-out {unit}:

| timestep | {header} |
|---|{rule}|
{rows}

Limits: {limits}
"""


@declared
def make_head(task: str | Task, folder: SomeName, pipe, work: SomeName = "runs/heads", report: Function = print,
              **changes) -> dict:
    """Train, score and write a head and its card, once from all samples and once, for the card, from 100 of them.

    A killed run goes on from its checkpoints in `work`, which are deleted in the end. Relative heads are compared with
    the raw features: at each timestep the best of the decoder's layers.
    """
    task, start = get_task(task, **changes), time.time()
    check_batch(task.batch), refuse_file(work), check_place(folder, asdict(new_head(pipe, task).config))
    samples, held_out = collect(pipe, task, max(task.count, FEW)), collect_held_out(pipe, task)
    prepared = time.time() - start
    report(f"{task.name}: {len(samples)} {task.unit} and {SCORED} held-out ones rendered and encoded, {prepared:.0f} s")
    results, files = {}, []
    for count in (task.count, FEW):
        files.append(Path(work) / f"{task.name}-{_fingerprint(pipe, task, samples[:count])}-{count}.safetensors")
        trained, seconds = _train_to_the_end(pipe, task, samples[:count], held_out, files[-1], report)
        results[f"{count} {task.unit}"] = share(lambda some: score_head(pipe, task, trained, some, samples=held_out), TIMESTEPS)
        if count == task.count and len(results) == 1:
            head, taken = trained, prepared + seconds
    for name, make in task.further.items():
        others = collect_held_out(pipe, get_task(task, held_out=make))
        results[f"{task.count} {task.unit}, {name}"] = share(lambda some: score_head(pipe, task, head, some, samples=others), TIMESTEPS)
    if not task.out_channels:
        raw = share(lambda some: score_raw_layers(pipe, task, some, samples=held_out), TIMESTEPS)
        results["raw features, best layer"] = {timestep: max(values) for timestep, values in raw.items()}
    for name, scores in results.items():
        report(f"{task.measure}, {name}: " + ", ".join(f"{value:.3f} at t = {t}" for t, value in scores.items()))
    head.config.extra |= {"training": {"pictures": task.count, "steps": task.steps, "batch": task.batch, "lr": task.lr,
                                       "seconds": round(taken)}, task.measure: results[f"{task.count} {task.unit}"]}
    head.config.extra |= {f"{task.measure} from {name}": scores for name, scores in list(results.items())[1:]}
    wait()                                              # all have read the checkpoints
    if is_main():
        head.half().save_pretrained(folder)
        write_file(Path(folder) / "README.md", card(task, head, results, taken))
        for file in files:
            file.unlink(missing_ok=True), _clock(file).unlink(missing_ok=True)
    wait()
    return {"scores": results, "seconds": taken}


def card(task: Task, head: ReadoutHead, results: dict[str, dict[int, float]], seconds: float) -> str:
    """The text that is shipped beside a head; `results` are rows of scores by timestep."""
    device = next(head.parameters()).device
    where = f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else f"an {torch.cuda.get_device_name(device)}"
    timesteps = next(iter(results.values()))
    rows = "\n".join(f"| {name} | " + " | ".join(f"{value:.3f}" for value in scores.values()) + " |"
                     for name, scores in results.items())
    words = {name: getattr(task, name) for name in "name reads count unit steps batch lr learns measured limits".split()}
    return CARD.format(title=task.name.capitalize(), **words, seed=TRAIN_SEED, seconds=seconds, rows=rows, scored=SCORED,
                       where=where, parameters=sum(p.numel() for p in head.parameters()),
                       header=" | ".join(f"t = {t}" for t in timesteps), rule="|".join(["---"] * len(timesteps)))


def _train_to_the_end(pipe, task, samples, held_out, checkpoint, report) -> tuple[ReadoutHead, float]:
    """Train or go on training; every 50 steps, when a checkpoint was written, report loss, score and seconds so far."""
    head, clock = new_head(pipe, task), _clock(checkpoint)
    seconds = before = float(clock.read_text() or 0) if checkpoint.exists() and clock.exists() else 0.0
    start = time.time()
    for state in train_task(pipe, task, samples, head, checkpoint=checkpoint):
        if state.step % 50 == 0 or state.step == state.steps:
            scores = share(lambda some: score_head(pipe, task, head, some, held_out[:32]), (100, 500))
            seconds = before + time.time() - start
            if is_main():
                write_file(clock, f"{seconds:.1f}")
            report(f"{len(samples)} {task.unit}, step {state.step} of {state.steps}, loss {state.loss:.5f}, {task.measure} "
                   f"{scores[100]:.3f} at t = 100, {scores[500]:.3f} at t = 500, {seconds:.0f} s")
    return head.eval(), seconds


def _clock(checkpoint: Path) -> Path:
    """The file beside a checkpoint that remembers the seconds of training before it."""
    return Path(f"{checkpoint}.seconds")


def _fingerprint(pipe, task, samples) -> str:
    """Names the model, the labels and the recipe that a checkpoint belongs to, so that no other one goes on from it."""
    last = list(denoiser(pipe).network.parameters())[-1].detach()
    told = b"".join(each.float().cpu().numpy().tobytes() for each in (last, *samples.truth))
    return f"{zlib.crc32(told + repr((task.name, task.steps, task.batch, task.lr, task.learns)).encode()):08x}"


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Train shipped heads and write each with its card.")
    parser.add_argument("heads", nargs="+", choices=[*TASKS, "all"])
    parser.add_argument("--out", default=find_folder("data/heads"), help="folder in which each head gets its own (data/heads)")
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--work", default="runs/heads", help="folder of checkpoints, from which a killed run goes on")
    parser.add_argument("--pictures", type=option(Count), default=None, help="labelled pictures, pairs or triplets")
    parser.add_argument("--steps", type=option(Count), default=None)
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        refuse_file(options.out), refuse_file(options.work)
        names = TASKS if "all" in options.heads else dict.fromkeys(options.heads)
        for name in names:
            check_batch(TASKS[name].batch)
        pipe, results = load_pipeline(options.model), {}
    for name in names:
        results[name] = make_head(name, Path(options.out) / name, pipe, options.work,
                                  lambda line: print(line, flush=True) if is_main() else None, count=options.pictures, steps=options.steps)
    if is_main():
        print(json.dumps(results, indent=1))


# ---------------------------------------------------------------------------------------------- small helpers

def _one_channel(name: str, value: Tensor) -> Tensor:
    """A finite map (B, 1, H, W) in [0, 1]; (1, H, W) gets its batch axis."""
    try:
        value = as_map(value, unit=True)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if value.shape[1] != 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; pass one channel, (B, 1, H, W) or (1, H, W)")
    return value.float()


def check_reads(head, name: str) -> None:
    """Refuse a head that says it reads something else, and what is no head."""
    checked("head", head, AnyHead)
    found = head.config.property if isinstance(head, ReadoutHead) else ""
    if found not in ("", name):
        raise ValueError(f"this head reads {found}, not {name}; load one such as data/heads/{name}")


if __name__ == "__main__":
    main()
