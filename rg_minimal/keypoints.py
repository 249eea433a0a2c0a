"""Points as maps, and back: what a head of keypoints learns, how it is read, scored and guided; where points are in another picture.

Points are (x, y) in pixels, B pictures of `image_size` x `image_size` pixels.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import AnyHead, Count, Fraction, Points, Positive, check_pixels, checked, declared, describe
from .maps import bilinear
from .readout import SpatialObjective, point_similarity


@declared
def heatmaps(joints: Tensor, cells: Count, image_size: Count, sigma: Positive = 1.5) -> Tensor:
    """Joints (B, N, 2) in pixels to heatmaps (B, N, cells, cells): Gaussians of height 1, `sigma` in cells.

    Raises ValueError for joints that are not finite, lie outside the picture, or are fractions of it.
    """
    if not torch.is_tensor(joints) or joints.is_complex():
        raise ValueError(f"joints are {describe(joints)}; pass a tensor (B, N, 2) of points (x, y) in pixels")
    if joints.ndim != 3 or joints.shape[-1] != 2 or not joints.numel() or not joints.isfinite().all():
        raise ValueError(f"joints have shape {tuple(joints.shape)}; pass finite (B, N, 2) points (x, y) in pixels")
    if joints.min() < 0 or joints.max() > image_size:
        x, y = joints[((joints < 0) | (joints > image_size)).any(-1)][0].tolist()
        raise ValueError(f"the joint ({x:g}, {y:g}) lies outside the picture of {image_size} x {image_size} pixels: "
                         f"move it inside")
    check_pixels("joints", joints)
    grid = (torch.arange(cells, device=joints.device) + 0.5) * image_size / cells   # centres of the cells, in pixels
    spread = 2 * (sigma * image_size / cells) ** 2
    across = torch.exp(-(grid - joints[..., :1]) ** 2 / spread)                     # (B, N, cells)
    down = torch.exp(-(grid - joints[..., 1:]) ** 2 / spread)
    return down[..., :, None] * across[..., None, :]


@declared
def read_joints(maps: Tensor, image_size: Count) -> tuple[Tensor, Tensor]:
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


def weighted_square(readout: Tensor, target: Tensor) -> Tensor:
    """Squared error of heatmaps (B, N, h, w), counting more where a joint is."""
    return (readout - target).square() * (1 + 20 * target)


def keypoint_loss(readout: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Mean of `weighted_square` over the heatmaps (B, N, h, w) of keypoints that are `labelled` (B, N) bool, by default all."""
    error = weighted_square(readout, target)
    return error.mean() if labelled is None or labelled.all() else error[labelled].mean()


@declared
def keypoint_score(readout: Tensor, points: Tensor, labelled: Tensor, image_size: Count, a: Fraction = 0.05) -> Tensor:
    """PCK@a, (B,): the share of labelled keypoints that are read within `a` times the larger side of the box around them; of a
    single one, the side of the picture. Points are (B, N, 2), `labelled` (B, N) bool."""
    found, outside = read_joints(readout, image_size)[0], ~labelled[..., None]
    box = points.masked_fill(outside, -torch.inf).amax(1) - points.masked_fill(outside, torch.inf).amin(1)      # (B, 2)
    side = torch.where(labelled.sum(-1) > 1, box.amax(-1), torch.full_like(box[:, 0], image_size))
    near = ((found - points).norm(dim=-1) <= a * side[:, None]) & labelled
    return near.sum(-1) / labelled.sum(-1)


@dataclass(kw_only=True, eq=False)
class KeypointObjective(SpatialObjective):
    """Heatmaps of points that were given in pixels of a square picture, and are not for one of another size."""
    image_size: Count

    def check(self, pipe, batch, image_size) -> None:
        if tuple(image_size) != (self.image_size, self.image_size):
            raise ValueError(f"the points are in pixels of a picture of {self.image_size} x {self.image_size}, but one of {image_size[0]} x {image_size[1]} "
                             "(height x width) is made; make one of that size, or give the points in its own pixels")
        super().check(pipe, batch, image_size)


def keypoint_objective(head, points, image_size: int, **settings) -> KeypointObjective:
    """Guide a head of keypoints to `points` (B or 1, N, 2) or (N, 2) in pixels; `settings` as of `SpatialObjective`, where a `mask`
    (B or 1, N, 1, 1) of 0 and 1 says which of them count. The head's heatmaps are as wide as it learned them."""
    head = checked("head", head, AnyHead)
    points = points if torch.is_tensor(points) else checked("points", points, Points)
    points = points[None] if points.ndim == 2 else points
    if points.ndim == 3 and points.shape[1] != head.config.out_channels:
        raise ValueError(f"points has {points.shape[1]} points a picture, but this head reads "
                         f"{head.config.out_channels}; pass all of them, "
                         f"(B or 1, {head.config.out_channels}, 2), and `mask` says which count")
    extra = head.config.extra
    if not head.config.out_channels or head.config.activation == "tanh" or extra.get("kind", "keypoints") != "keypoints":
        raise ValueError(f"this head reads {head.config.property or extra.get('kind', 'something else')}, no heatmaps of keypoints; pass one that was "
                         "trained on keypoints")
    target = heatmaps(points, extra.get("cells", 32), image_size, extra.get("heatmap_sigma_cells", 1.5))
    return KeypointObjective(head=head, target=target, distance=weighted_square, image_size=image_size, **settings)


@declared
def match_points(features_a: Tensor, features_b: Tensor, points: Tensor, image_size: Count) -> Tensor:
    """Where points (B, N, 2) of picture a are in picture b, by nearest neighbour: centres of cells, (B, N, 2) in pixels.

    The features are (B, C, h, w), compared by cosine similarity. What is found lives where the points do. ValueError for points outside
    the picture.
    """
    if not ((points >= 0) & (points <= image_size)).all():
        raise ValueError(f"points are {describe(points)} that lie, in part, outside the picture of {image_size} x {image_size} pixels, or are NaN; "
                         "pass points (x, y) in pixels inside it")
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.ndim != 4 or features.shape[:2] != features_a.shape[:2]:
            raise ValueError(f"features_a and features_b are {describe(features_a)} and {describe(features_b)}; pass features (B, C, h, w) of one head")
    weights = bilinear(points.to(features_a), features_a.shape[-2:], (image_size, image_size))
    height, width = features_b.shape[-2:]
    cell = point_similarity(features_a, features_b, weights).argmax(-1)                 # (B, N)
    return torch.stack(((cell % width + 0.5) * image_size / width, (cell // width + 0.5) * image_size / height), -1).to(points.device)
