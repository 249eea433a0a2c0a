"""Ready-made edits: what to pass to `guided_sample` to drag something, or to give a new picture the looks of another.

The objectives and the sampler are those of `readout.py`. What is added here are choices: which heads work together, how
strongly and in which interval, and which part of the picture may change. Each function returns the keyword arguments of
`guided_sample` and `sample`, so everything can be looked at and changed before it is used:

    settings = drag(correspondence, source, handles, targets)
    pictures, latents = sample(pipe, prompt, **settings, num_inference_steps=30)

Points are (x, y) in pixels of the image.
"""
from __future__ import annotations


import torch
import torch.nn.functional as F
from torch import Tensor

from . import puppets
from .heads import drag_objective, identity_objective
from .readout import ReadoutHead, Source


def region(points, margin: float, image_size: int = puppets.SIZE, soft: float = 4.0) -> Tensor:
    """The convex hull of points (N, 2), widened by `margin` pixels: (1, 1, H, W), 1 inside, falling to 0 over `soft`."""
    points = torch.as_tensor(points, dtype=torch.float32)
    grid = torch.arange(image_size) + 0.5
    pixels = torch.stack((grid.expand(image_size, -1), grid[:, None].expand(-1, image_size)), -1)       # (H, W, 2)
    distance = _distance_to_hull(pixels.flatten(0, 1), _hull(points)).view(image_size, image_size)
    return ((margin + soft - distance) / soft).clamp(0, 1)[None, None]


def _hull(points: Tensor) -> Tensor:
    """Corners (K, 2) of the convex hull of points (N, 2), in order (Andrew's monotone chain)."""
    rows = sorted(set(map(tuple, points.tolist())))
    if len(rows) < 3:
        return torch.tensor(rows)

    def half(rows):
        chain = []
        for x, y in rows:
            while len(chain) > 1 and ((chain[-1][0] - chain[-2][0]) * (y - chain[-2][1])
                                      - (chain[-1][1] - chain[-2][1]) * (x - chain[-2][0])) <= 0:
                chain.pop()
            chain.append((x, y))
        return chain[:-1]
    return torch.tensor(half(rows) + half(rows[::-1]))


def _distance_to_hull(pixels: Tensor, corners: Tensor) -> Tensor:
    """Distances (P,) of pixels (P, 2) to a convex polygon (K, 2), 0 inside."""
    start, step = corners, corners.roll(-1, 0) - corners                                # (K, 2)
    offset = pixels[:, None] - start                                                    # (P, K, 2)
    along = ((offset * step).sum(-1) / step.square().sum(-1).clamp_min(1e-9)).clamp(0, 1)
    nearest = (offset - along[..., None] * step).norm(dim=-1).amin(1)
    turns = step[:, 0] * offset[..., 1] - step[:, 1] * offset[..., 0]                   # (P, K)
    inside = (turns >= 0).all(1) if len(corners) > 2 else torch.zeros(len(pixels), dtype=torch.bool)
    return nearest.masked_fill(inside, 0.0)


def drag(head: ReadoutHead, source: Source, handles, targets, *, fixed=None, free: Tensor | None = None,
         appearance: ReadoutHead | None = None, margin: float = 12.0, anti_ghosting: float = 1.0, stop: float = 0.8,
         looks_weight: float = 0.3, step_size: float = 5e-2, renew: torch.Generator | None = None) -> dict:
    """Move what the source shows at `handles` to `targets`, and leave the rest of the picture as it is.

    Args:
        head: a correspondence head.
        source: the picture to edit, from `Source.from_states`: a generated one, or a real one after `invert`.
        handles, targets: (N, 2) each. Several points on one limb keep it a limb.
        fixed: (M, 2) points that belong to what moves, but stay: a shoulder, a hip. They are handles without a way to go.
        free: (1, 1, h, w) in [0, 1], what may change; by default the convex hull of all points, `margin` pixels wider.
            Outside the picture follows the source's own trajectory.
        appearance: an appearance head; the free part then keeps its looks on the whole (weight `looks_weight`).
        renew: a generator: the free part starts from new noise instead of the source's.
    """
    handles, targets = (torch.as_tensor(p, dtype=torch.float32).reshape(-1, 2) for p in (handles, targets))
    fixed = torch.as_tensor([] if fixed is None else fixed, dtype=torch.float32).reshape(-1, 2)
    if free is None:
        free = region(torch.cat((handles, targets, fixed)), margin)
    settings = {"start": 0.0, "stop": stop}
    objectives = [drag_objective(head, source, handles, targets, anti_ghosting=anti_ghosting, **settings)]
    if len(fixed):
        objectives.append(drag_objective(head, source, fixed, fixed, anti_ghosting=0.0, weight=0.5, **settings))
    if appearance is not None and looks_weight:
        objectives.append(identity_objective(appearance, source, mask=free, weight=looks_weight, **settings))
    latents = source.start
    if renew is not None:
        cells = F.interpolate(free, latents.shape[-2:], mode="area")
        latents = torch.where(cells > 0.5, torch.randn(latents.shape, generator=renew).to(latents), latents)
    return {"objectives": objectives, "latents": latents, "mask": free, "keep": source, "step_size": step_size}


def identity(head: ReadoutHead, source: Source, *, boxes=None, stop: float = 0.8, step_size: float = 5e-2) -> dict:
    """Give the new picture the looks of the source's puppet, whatever the prompt says of pose and place.

    Args:
        head: an appearance head.
        source: the reference, from `Source.from_picture` (any picture) or `Source.from_states`.
        boxes: (box in the source, box in the new picture) around the puppets, each (x0, y0, x1, y1); by default the
            means over the whole pictures are compared.
    """
    return {"objectives": [identity_objective(head, source, boxes=boxes, stop=stop)], "step_size": step_size}
