"""Maps, points and boxes: from pixels to cells. Axes are (B, C, H, W), points (x, y), boxes (x0, y0, x1, y1), all in pixels."""
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import Positive, declared


def resize(x, size, mode="bilinear") -> Tensor:
    """(B, C, H, W) -> (B, C, *size)."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, tuple(size), mode=mode)


def crop(features, box, image_size) -> Tensor:
    """Cut a box (x0, y0, x1, y1) in pixels out of features (B, C, h, w), at least one cell large."""
    h, w = features.shape[-2:]
    x0, x1 = (int(x * w / image_size[1]) for x in box[0::2])
    y0, y1 = (int(y * h / image_size[0]) for y in box[1::2])
    return features[:, :, y0:max(y1, y0 + 1), x0:max(x1, x0 + 1)]


def masked_mean(error, mask=None) -> Tensor:
    """Mean of (B, C, H, W) over all but B, weighted by a mask (B or 1, C or 1, h, w): (B,)."""
    if error.ndim != 4:
        raise ValueError(f"the error has shape {tuple(error.shape)}; a distance of your own returns one for each cell, (B, C, h, w)")
    if mask is None:
        return error.mean((1, 2, 3))
    if mask.shape[1] not in (1, error.shape[1]):
        raise ValueError(f"mask has {mask.shape[1]} channels, but the distance returned {error.shape[1]}; pass a mask of 1 channel, or a distance that "
                         "keeps the channels apart")
    mask = resize(mask.to(error), error.shape[-2:]).expand(error.shape)
    return (error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1e-8)


def bilinear(points, cells, image_size) -> Tensor:
    """Points (..., N, 2) in pixels -> (..., N, h*w): how much each cell of an (h, w) map counts for each point."""
    def along(coordinate, count, length):                                               # (..., N) -> (..., N, count)
        place = (coordinate * count / length - 0.5).clamp(0, count - 1)                 # cell i has its centre at i
        return (1 - (place[..., None] - torch.arange(count).to(points)).abs()).relu()
    across = along(points[..., 0], cells[1], image_size[1])                             # (..., N, w)
    down = along(points[..., 1], cells[0], image_size[0])                               # (..., N, h)
    return (down[..., :, None] * across[..., None, :]).flatten(-2)                      # (..., N, h*w)


@declared
def pool_features(features, weight=None, power: Positive = 6.0) -> Tensor:
    """Features (B, C, h, w), not negative, to one vector a picture (B, C, 1, 1): what there is, not where.

    A generalised mean (arXiv 1711.02512) between the mean (power 1), which drowns what is small in its background, and the
    maximum. Then the vector's own mean is taken away: what is positive everywhere is nearly parallel, and pictures that
    have nothing in common would have a cosine similarity of 0.99. `weight` (B or 1, 1, h, w): which positions count.
    """
    raised = features.float().clamp_min(1e-3) ** power                  # half precision would overflow
    weight = torch.ones_like(raised[:, :1]) if weight is None else weight
    pooled = ((raised * weight).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True)) ** (1 / power)
    return pooled - pooled.mean(1, keepdim=True)
