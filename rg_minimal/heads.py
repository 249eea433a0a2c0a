"""The heads that the repository ships: what each one reads, how it is trained, how it is scored.

The core (`readout.py`) trains any head on any labels; here are the labels of the puppet world. A training run is one
line, `python -m rg_minimal.heads pose`, and writes the head with a card of its figures to `data/heads/pose`.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Callable, Iterator

import torch
from torch import Tensor

from . import puppets
from .judge import pck
from .pipelines import load_pipeline
from .readout import HeadConfig, ReadoutHead, SpatialObjective, TrainState, encode, read_picture, train_head

TRAIN_SEED = 400_000_000                 # scenes that heads are trained on; the held-out ones start at puppets.HELD_OUT
SCORE_SEED = puppets.HELD_OUT + 50_000
TIMESTEPS = (20, 100, 300, 500, 750)     # at which a head is scored


# ---------------------------------------------------------------------------------------------- pose

def heatmaps(joints: Tensor, cells: int = 32, image_size: int = puppets.SIZE, sigma: float = 1.5) -> Tensor:
    """Joints (B, N, 2) in pixels to heatmaps (B, N, cells, cells): Gaussians of height 1, `sigma` in cells.

    Raises ValueError for joints that are not finite or lie outside the picture.
    """
    if joints.ndim != 3 or joints.shape[-1] != 2 or not joints.isfinite().all():
        raise ValueError(f"joints have shape {tuple(joints.shape)}; pass finite (B, N, 2) points (x, y) in pixels")
    if joints.min() < 0 or joints.max() > image_size:
        x, y = joints[((joints < 0) | (joints > image_size)).any(-1)][0].tolist()
        raise ValueError(f"the joint ({x:g}, {y:g}) lies outside the picture of {image_size} x {image_size} pixels: "
                         f"move it inside")
    grid = (torch.arange(cells) + 0.5) * image_size / cells                         # centres of the cells, in pixels
    spread = 2 * (sigma * image_size / cells) ** 2
    across = torch.exp(-(grid - joints[..., :1]) ** 2 / spread)                     # (B, N, cells)
    down = torch.exp(-(grid - joints[..., 1:]) ** 2 / spread)
    return down[..., :, None] * across[..., None, :]


def read_joints(maps: Tensor, image_size: int = puppets.SIZE) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, N, h, w) to joints (B, N, 2) in pixels, finer than a cell, and their peaks (B, N).

    A joint is the centre of mass of the 5 x 5 cells around it: the window starts on the highest cell and is moved to the
    centre it found, twice, because a window that is off centre pulls the centre towards its own.
    """
    height, width = maps.shape[-2:]
    peak, index = maps.flatten(2).max(-1)                                           # (B, N)
    across, down = (torch.arange(side, device=maps.device) + 0.5 for side in (width, height))     # centres of the cells
    x, y = index % width + 0.5, index // width + 0.5
    for _ in range(3):
        near_x, near_y = (3 - (across - x[..., None]).abs()).clamp(0, 1), (3 - (down - y[..., None]).abs()).clamp(0, 1)
        mass = maps.clamp_min(1e-9) * near_y[..., :, None] * near_x[..., None, :]   # (B, N, h, w)
        total = mass.sum((-2, -1))
        x, y = (mass.sum(-2) * across).sum(-1) / total, (mass.sum(-1) * down).sum(-1) / total
    return torch.stack((x * image_size / width, y * image_size / height), -1), peak


def pose_loss(readout: Tensor, target: Tensor) -> Tensor:
    """Squared error of heatmaps (B, 14, h, w), counting more where a joint is."""
    return ((readout - target).square() * (1 + 20 * target)).mean()


def pose_objective(head: ReadoutHead, joints: Tensor, **settings) -> SpatialObjective:
    """Guide all 14 joints to `joints` (B or 1, 14, 2) or (14, 2) in pixels; `settings` as of `SpatialObjective`."""
    joints = joints[None] if joints.ndim == 2 else joints
    return SpatialObjective(head=head, target=heatmaps(joints), distance=_weighted_square, **settings)


def _weighted_square(readout: Tensor, target: Tensor) -> Tensor:
    return (readout - target).square() * (1 + 20 * target)


# ---------------------------------------------------------------------------------------------- training

def labelled_pictures(count: int, seed: int = TRAIN_SEED) -> tuple[Tensor, Tensor]:
    """Rendered pictures (N, 3, 128, 128) in [0, 1] and their joints (N, 14, 2) in pixels."""
    frames = puppets.render(puppets.sample_scenes(count, seed))
    return frames.image, frames.joints


def new_pose_head(pipe, width: int = 128) -> ReadoutHead:
    """An untrained pose head for any pipeline with a UNet: 14 heatmaps, no activation."""
    return ReadoutHead(HeadConfig.for_unet(
        pipe.unet, width=width, out_channels=len(puppets.JOINTS), hidden_channels=(64, 32), activation="none",
        resize_late=True, property="pose", base_model="puppet-diffusion",
        extra={"joints": list(puppets.JOINTS), "heatmap_sigma_cells": 1.5}))


def draw_batches(pictures: Tensor, labels: Tensor, batch: int, seed: int = 0) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function from the step to a random batch; batch n depends on (seed, n) alone, so a training can resume."""
    def draw(step: int) -> tuple[Tensor, Tensor]:
        pick = torch.randint(len(pictures), (batch,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return pictures[pick], labels[pick]
    return draw


def train_pose_head(pipe, pictures: int = 1536, steps: int = 400, batch: int = 16, lr: float = 1e-3, seed: int = 0,
                    checkpoint: str | Path | None = None) -> Iterator[TrainState]:
    """Train a pose head on `pictures` rendered pictures; yields after every step, see `train_head`."""
    torch.manual_seed(seed)                                     # the head's initial weights
    head = new_pose_head(pipe)
    images, joints = labelled_pictures(pictures)
    latents = torch.cat([encode(pipe, part) for part in images.split(32)]).cpu()
    maps = torch.cat([heatmaps(part) for part in joints.split(256)])
    cosine = lambda done: lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    return train_head(head, pipe, draw_batches(latents, maps, batch, seed), steps, loss=pose_loss, lr=cosine,
                      generator=torch.Generator().manual_seed(seed), checkpoint=checkpoint)


@torch.no_grad()
def score_pose_head(pipe, head: ReadoutHead, timesteps=TIMESTEPS, count: int = 128, a: float = 0.05,
                    seed: int = SCORE_SEED) -> dict[int, float]:
    """PCK@a of the head's joints on held-out renderings noised to each timestep, visible joints only, in [0, 1]."""
    frames = puppets.render(puppets.sample_scenes(count, seed))
    latents = torch.cat([encode(pipe, part) for part in frames.image.split(32)])
    scores = {}
    for timestep in timesteps:
        rng = torch.Generator().manual_seed(seed + timestep)
        found = [read_joints(read_picture(pipe, part, timestep, generator=rng)(head))[0] for part in latents.split(32)]
        scores[timestep] = float(pck(torch.cat(found).cpu(), frames.joints, a, frames.visible).mean())
    return scores


CARD = """# Pose head

Reads 14 joints as heatmaps (B, 14, 32, 32) off the decoder features of `data/puppet-diffusion`, at any timestep.
Order of the joints: {joints}. Left and right are the puppet's own.

- Trained by `python -m rg_minimal.heads pose`: {pictures} rendered pictures (scene seeds from {seed}), {steps} steps of
  batch {batch}, AdamW, learning rate {lr} with a cosine fall, {seconds:.0f} s on {threads} CPU threads; every picture at a random
  timestep, empty prompt; squared error weighted by 1 + 20 x target. {parameters:,} parameters, licence Apache-2.0.
- PCK@0.05 (within 5 % of the larger side of the puppet's joint box) on {count} held-out renderings, visible joints:

| timestep | {header} |
|---|{rule}|
| {pictures} pictures | {scores} |
| 100 pictures | {small} |

Limits: rendered puppets only, 128 x 128; above t = 700 little of the picture is left to read.
"""


def make_pose_head(folder: str | Path, model: str | Path, pictures: int, steps: int, batch: int = 16, lr: float = 1e-3) -> dict:
    """Train, score and write the pose head and its card, once from `pictures` pictures and once, for the card, from 100."""
    pipe, start = load_pipeline(model), time.time()
    for state in train_pose_head(pipe, pictures, steps, batch, lr):
        if state.step % 50 == 0:
            print(f"step {state.step} of {steps}, loss {state.loss:.5f}, {time.time() - start:.0f} s", flush=True)
    head, seconds = state.head, time.time() - start
    scores = score_pose_head(pipe, head)
    print("PCK@0.05 by timestep:", {t: round(v, 3) for t, v in scores.items()}, flush=True)
    for state in train_pose_head(pipe, 100, steps, batch, lr):
        pass
    small = score_pose_head(pipe, state.head)
    print("... from 100 pictures:", {t: round(v, 3) for t, v in small.items()}, flush=True)
    head.config.extra |= {"training": {"pictures": pictures, "steps": steps, "batch": batch, "lr": lr,
                                       "seconds": round(seconds)}, "pck@0.05": scores, "pck@0.05 from 100 pictures": small}
    head.half().save_pretrained(folder)
    row = lambda values: " | ".join(f"{value:.3f}" for value in values)
    (Path(folder) / "README.md").write_text(CARD.format(
        joints=", ".join(puppets.JOINTS), pictures=pictures, seed=TRAIN_SEED, steps=steps, batch=batch, lr=lr,
        seconds=seconds, threads=torch.get_num_threads(), parameters=sum(p.numel() for p in head.parameters()), count=128,
        header=" | ".join(f"t = {t}" for t in scores), rule="---|" * (len(scores) - 1) + "---", scores=row(scores.values()),
        small=row(small.values())))
    return {"scores": scores, "from_100": small, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one of the shipped heads and write it with its card.")
    parser.add_argument("head", choices=["pose"])
    parser.add_argument("--out", default=None, help="folder to write, by default data/heads/NAME")
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--pictures", type=int, default=1536)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    print(json.dumps(make_pose_head(options.out or f"data/heads/{options.head}", options.model, options.pictures,
                                    options.steps), indent=1))


if __name__ == "__main__":
    main()
