"""An independent judge of puppet pictures: where the joints are, how deep it is, where edges run, what it shows.

One small network (`JudgeNetwork`), trained on rendered pictures alone. It never guides a picture, has never seen one
that a model made, and shares nothing with the readout heads, so it can measure what those do to a picture:

    judge = load_judge()
    reading = judge(pictures)                                   # (B, 3, 128, 128) in [0, 1]
    pck(reading.joints, target_joints)                          # (B,)
    attribute_accuracy(reading, scenes)                         # {"shirt": 0.98, ..., "mean": 0.97}
    judge.found(reading)                                        # (B,) bool: a whole puppet?

The second half of this file is how `data/judge` was made: `train_judge` (a generator that can be killed and resumed),
`calibrate`, `evaluate`, `export_judge`, all in one by `python -m rg_minimal.puppets.judge`.

Conventions are those of `puppets`: points are (x, y) in pixels, depth is larger where nearer, left and right are the
puppet's own. B pictures, J = 14 joints in the order of `world.JOINTS`.
"""
from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Iterator, Literal, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from . import world
from .training import TrainingState, autocast, print_progress, resume, same_recipe, save_every, set_rate, step_rng
from ..checks import (Count, Counts, Declared, FileName, Fraction, Index, NonNegative, Positive, Seed, SomeName, as_number, check_pixels,
                      check_weights, declared, one_sentence, option, stoppable)
from ..files import read_json, read_weights, refuse_card, refuse_file, write_file, write_weights
from ..pictures import as_pictures

DEFAULT = "data/judge"                                  # the judge that the repository ships
TRAIN_SEED = 600_000_000                                # scenes that the judge learns from; no other part uses them
TEST_SEED = world.HELD_OUT                            # scenes that its figures are measured on
CALIBRATION_SEED = world.HELD_OUT + 500_000_000       # scenes that the thresholds of `found` are set on

SIZE, JOINTS = world.SIZE, len(world.JOINTS)
CELL = 2                                                # pixels a cell of the joint maps, which are 64 x 64
WINDOW = 5                                              # cells a side around a peak that count as that peak
SIZES = tuple(len(values) for values in world.ATTRIBUTES.values())        # classes of each attribute
_SWAP = {"left": "right", "right": "left"}
MIRROR = ["_".join(_SWAP.get(word, word) for word in name.split("_")) for name in world.JOINTS]
MIRROR = [world.JOINTS.index(name) for name in MIRROR]        # the joint that each one becomes in a mirror


AtLeastTwo = Annotated[Count, Field(ge=2)]
Three = Annotated[Counts, Field(min_length=3, max_length=3)]


# ---------------------------------------------------------------------------------------------- the judge

@dataclass
class Reading:
    """What the judge sees in B pictures. Points are (x, y) in pixels of the image."""
    joints: Tensor                      # (B, J, 2) the best place for each joint, whether or not it was found
    confidence: Tensor                  # (B, J) in [0, 1], the probability that the joint is seen, and seen there
    depth: Tensor                       # (B, 1, 128, 128) in [0, 1], larger is nearer
    edges: Tensor                       # (B, 1, 128, 128) in [0, 1], the probability of an edge
    attributes: list[dict[str, str]]    # B dicts, keys and values as in world.ATTRIBUTES

    def __len__(self) -> int:
        return len(self.attributes)


class Judge:
    """The trained network with its thresholds and its held-out figures. Made by `load_judge`."""

    def __init__(self, network: "JudgeNetwork", thresholds: Sequence[float] = (0.0,) * JOINTS, figures: dict | None = None,
                 recipe: dict | None = None):
        try:
            good = len(thresholds) == JOINTS and all(0 <= as_number(value) <= 1 for value in thresholds)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(f"thresholds are {thresholds!r}: pass {JOINTS} numbers in [0, 1], see `calibrate`")
        self.network = network.eval().requires_grad_(False)
        self.thresholds = tuple(float(value) for value in thresholds)      # confidence from which a joint counts as found
        self.figures = figures or {}                                       # what `evaluate` measured
        self.recipe = recipe or {}                                         # how it was trained

    @torch.no_grad()
    @declared
    def __call__(self, images, batch: Count = 32) -> Reading:
        """Read pictures (B, 3, 128, 128) in [0, 1], or whatever else `pictures.as_pictures` takes of this size, `batch` at a time.
        ValueError where they are anything else."""
        images = _pictures(images)
        device = next(self.network.parameters()).device
        raw = [self.network(part.to(device, memory_format=torch.channels_last)) for part in images.split(batch)]
        maps, depth, edges, logits = (torch.cat(parts) for parts in zip(*raw))
        joints, confidence = locate(maps)
        return Reading(joints, confidence, depth.clamp(0, 1), edges.sigmoid(), _named(logits))

    def found(self, reading: Reading) -> Tensor:
        """(B,) bool: True where all 14 joints are found with the confidence of real renderings.

        The thresholds, one a joint, were set on held-out renderings with all joints visible, so that 99 % of *those
        pictures* (not of joints) pass. About one rendering of ten hides a joint (a hip behind a hand), so of all of them
        fewer may pass: `figures` has the share, of renderings and of renderings that went through the autoencoder.
        """
        return (reading.confidence >= reading.confidence.new_tensor(self.thresholds)).all(-1)

    @declared
    def save_pretrained(self, folder: SomeName) -> None:
        """Write model.safetensors (fp16, with the config inside) and config.json (sizes, thresholds, figures, recipe)."""
        weights = {name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
                   for name, value in self.network.state_dict().items()}
        config = {"channels": list(self.network.channels), "thresholds": list(self.thresholds), "figures": self.figures,
                  "recipe": self.recipe}
        write_weights(Path(folder) / "model.safetensors", weights, config)

    @classmethod
    @declared
    def from_pretrained(cls, folder: SomeName) -> "Judge":
        """Load a judge, float32 on the CPU. ValueError names what is missing, corrupt or does not fit."""
        folder = Path(folder)
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"{folder} is not a judge (it needs model.safetensors and config.json): pass the folder of "
                             f"one, {DEFAULT} is shipped, or make one with `python -m rg_minimal.puppets.judge`")
        try:
            weights, config = read_weights(folder / "model.safetensors")
            with torch.device("meta"):                   # draws no random numbers
                network = JudgeNetwork(config["channels"])
            check_weights(weights, network.state_dict(), folder)
            network.to_empty(device="cpu").load_state_dict(weights)
            return cls(network, config["thresholds"], config["figures"], config["recipe"])
        except Exception as error:                       # json, safetensors and torch each raise their own
            raise ValueError(f"{folder} is damaged ({error}): fetch it again, or make it again with "
                             "`python -m rg_minimal.puppets.judge`") from error


@declared
def load_judge(folder: FileName = DEFAULT) -> Judge:
    """The shipped judge, or the one in `folder`. A relative folder is looked for here and in the repository."""
    return Judge.from_pretrained(_found(folder))


def _found(folder) -> Path:
    """A folder here or, where there is none, in the repository. Not by `pipelines`, of which a judge knows nothing."""
    here, there = Path(folder), Path(__file__).resolve().parents[2] / folder
    return there if not here.is_dir() and there.is_dir() else here


def locate(maps: Tensor) -> tuple[Tensor, Tensor]:
    """From the network's joint maps (B, J, 64, 64) to points (B, J, 2) in pixels and confidences (B, J) in [0, 1].

    A map, with one more cell "nowhere" of logit 0, is a distribution over where the joint is. The point is the mean
    over the 5 x 5 cells that hold the most, the confidence the probability in them: low where the joint is missing,
    and also where it is seen twice.
    """
    height, width = maps.shape[-2:]
    flat = maps.flatten(2)                                                                # (B, J, h w)
    seen = 1 - torch.cat((flat, torch.zeros_like(flat[..., :1])), -1).softmax(-1)[..., -1]
    place = flat.softmax(-1).view_as(maps)
    mass, best = (F.avg_pool2d(place, WINDOW, 1, WINDOW // 2) * WINDOW ** 2).flatten(2).max(-1)       # (B, J)
    rows, cols = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    near_y = ((rows - (best // width)[..., None]).abs() <= WINDOW // 2).float()           # (B, J, h)
    near_x = ((cols - (best % width)[..., None]).abs() <= WINDOW // 2).float()            # (B, J, w)
    place = place * near_y[..., None] * near_x[..., None, :]
    total = place.sum((-1, -2))
    x, y = (place.sum(-2) @ (cols + 0.5)) / total, (place.sum(-1) @ (rows + 0.5)) / total
    return torch.stack((x, y), -1) * CELL, (mass * seen).clamp(0, 1)


def _named(logits: Tensor) -> list[dict[str, str]]:
    """(B, 44) class logits to B dicts of names."""
    picks = torch.stack([part.argmax(-1) for part in logits.split(SIZES, -1)], -1).tolist()            # B lists of 7
    return [{name: values[i] for (name, values), i in zip(world.ATTRIBUTES.items(), row)} for row in picks]


def _pictures(images) -> Tensor:
    images = as_pictures(images, "images")
    if images.shape[-2:] != (SIZE, SIZE):
        raise ValueError(f"images are {images.shape[-2]} x {images.shape[-1]} pixels large: pass pictures of {SIZE} x {SIZE}, the size of the "
                         "puppet world, or resize them")
    return images


# ---------------------------------------------------------------------------------------------- the network

class Residual(nn.Module):
    """Two 3 x 3 convolutions around which the input passes."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels, last=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def _conv(old: int, new: int, size: int = 3, stride: int = 1, last=nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(old, new, size, stride, size // 2, bias=False), nn.BatchNorm2d(new), last())


class JudgeNetwork(nn.Module):
    """A small U at 32 x 32, 16 x 16 and 8 x 8: 4 x 4 pixels become channels at once, which makes it fast on a CPU.

    Attributes are read *at the joints*: the features under each joint map, the joints' places and the features of the
    whole picture go into one small perceptron.
    """

    @declared
    def __init__(self, channels: Three = (48, 96, 128)):
        super().__init__()
        self.channels = a, b, c = channels
        self.fine = nn.Sequential(_conv(3 * 16, a), Residual(a))                          # (B, a, 32, 32)
        self.middle = nn.Sequential(_conv(a, b, stride=2), Residual(b))                   # (B, b, 16, 16)
        self.coarse = nn.Sequential(_conv(b, c, stride=2), Residual(c), Residual(c))      # (B, c, 8, 8)
        self.to_middle, self.from_middle = _conv(c, b, 1, last=nn.Identity), Residual(b)
        self.to_fine, self.from_fine = _conv(b, a, 1, last=nn.Identity), Residual(a)
        self.maps = nn.Conv2d(a, JOINTS * 4 + 16 + 16, 3, padding=1)
        self.facts = nn.Sequential(nn.Linear(JOINTS * (a + 2) + 2 * c, 160), nn.BatchNorm1d(160), nn.ReLU(),
                                   nn.Linear(160, sum(SIZES)))

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 128, 128) in [0, 1] to features (B, a, 32, 32), (B, b, 16, 16) and (B, c, 8, 8)."""
        fine = self.fine(F.pixel_unshuffle(images * 2 - 1, 4))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, 128, 128) in [0, 1] to float32 joint maps (B, J, 64, 64) of logits, depth (B, 1, 128, 128), edge logits
        (B, 1, 128, 128) and class logits (B, 44)."""
        fine, middle, coarse = self.trunk(images)
        middle = self.from_middle(F.relu(middle + F.interpolate(self.to_middle(coarse), scale_factor=2)))
        fine = self.from_fine(F.relu(fine + F.interpolate(self.to_fine(middle), scale_factor=2)))
        joints, depth, edges = self.maps(fine).float().split((JOINTS * 4, 16, 16), 1)
        joints = F.pixel_shuffle(joints, 2)                                               # (B, J, 64, 64)
        facts = self.facts(torch.cat((self._at_joints(joints.detach(), fine), coarse.mean((2, 3)), coarse.amax((2, 3))), 1))
        return joints, F.pixel_shuffle(depth, 4), F.pixel_shuffle(edges, 4), facts.float()

    @staticmethod
    def _at_joints(maps: Tensor, features: Tensor) -> Tensor:
        """Features (B, a, 32, 32) averaged under each joint map, and the joints' places: (B, J (a + 2))."""
        weight = maps.flatten(2).softmax(-1).view_as(maps)
        weight = (F.avg_pool2d(weight, 2) * 4).flatten(2)                                 # (B, J, 1024), sums to 1
        under = weight.to(features.dtype) @ features.flatten(2).transpose(1, 2)           # (B, J, a)
        grid = (torch.arange(32, device=maps.device) - 15.5) / 8                          # [-2, 2] over the picture
        spots = torch.stack((grid.repeat(32), grid.repeat_interleave(32)), -1)            # (1024, 2)
        places = weight @ spots                                                           # (B, J, 2)
        return torch.cat((under, places - places[:, 1:2]), -1).flatten(1)                 # relative to the neck


# ---------------------------------------------------------------------------------------------- measures

@declared
def pck(predicted: Tensor, target: Tensor, a: Positive = 0.05, visible: Tensor | None = None) -> Tensor:
    """Percentage of correct keypoints, as a fraction: the share of joints nearer than `a` times the larger side of the
    box around the target's joints.

    Args:
        predicted, target: points (B, J, 2) as (x, y) in pixels.
        visible: (B, J) bool, the joints that count; all by default. The box always holds all joints.
    Returns:
        (B,) in [0, 1], one value a picture; nan where no joint counts.
    """
    _points("predicted", predicted), _points("target", target)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted is {tuple(predicted.shape)} and target {tuple(target.shape)}: pass equal shapes (B, J, 2)")
    if predicted.max() > 1:
        check_pixels("target", target)
    if visible is not None and visible.shape != target.shape[:2]:
        raise ValueError(f"visible is {tuple(visible.shape)}: pass bools {tuple(target.shape[:2])}, one a joint")
    side = (target.amax(1) - target.amin(1)).amax(-1, keepdim=True)                       # (B, 1) pixels
    near = (predicted - target).norm(dim=-1) <= a * side                                  # (B, J)
    counts = torch.ones_like(near) if visible is None else visible.bool()
    return (near & counts).sum(-1) / counts.sum(-1)


def depth_rmse(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean squared error of depth after the best alignment scale * predicted + shift, picture by picture.

    The alignment is by least squares with a scale of at least 0 (else an inverted map would be as good as the right
    one); a constant prediction scores the target's standard deviation.

    Args:
        predicted, target: (B, 1, H, W), larger is nearer.
        mask: (B, 1, H, W) bool, the pixels that count; all by default.
    Returns:
        (B,) in units of the target; nan where no pixel counts.
    """
    _maps(predicted, target)
    if mask is not None and mask.shape != target.shape:
        raise ValueError(f"mask is {tuple(mask.shape)}: pass bools {tuple(target.shape)}, one a pixel")
    weight = torch.ones(target.shape, device=target.device) if mask is None else mask.to(target.device, torch.float32)
    weight = (weight / weight.sum((1, 2, 3), keepdim=True)).double()                      # sums to 1 a picture
    mean = lambda x: (weight * x).sum((1, 2, 3), keepdim=True)
    p, t = predicted.double(), target.double()
    p, t = p - mean(p), t - mean(t)
    scale = (mean(p * t) / mean(p * p).clamp_min(1e-12)).clamp_min(0)
    return mean((scale * p - t) ** 2).sqrt().flatten().to(target.dtype if target.is_floating_point() else torch.float32)


@declared
def edge_f_score(predicted: Tensor, target: Tensor, tolerance: Index = 1) -> Tensor:
    """F-score of edges: the harmonic mean of precision (share of predicted edge pixels with a target edge within
    `tolerance` pixels, diagonals included) and recall (the same with the roles exchanged).

    Args:
        predicted, target: (B, 1, H, W) in [0, 1]; from 0.5 on a pixel is an edge.
        tolerance: whole pixels, at least 0.
    Returns:
        (B,) in [0, 1]; 1 where neither has an edge, 0 where one alone has none.
    """
    _maps(predicted, target)
    ours, truth = (predicted >= 0.5).float(), (target.to(predicted.device) >= 0.5).float()
    wide = lambda x: F.max_pool2d(x, 2 * tolerance + 1, 1, tolerance)
    count = lambda x: x.sum((1, 2, 3))
    precision = count(ours * wide(truth)) / count(ours).clamp_min(1)
    recall = count(truth * wide(ours)) / count(truth).clamp_min(1)
    score = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    return torch.where((count(ours) == 0) & (count(truth) == 0), torch.ones_like(score), score)


def attribute_accuracy(reading: Reading, expected: Sequence) -> dict[str, float]:
    """How often each attribute is read as expected, and "mean" over the attributes.

    Args:
        expected: B scenes, or B dicts such as `scene.attributes`. What a dict leaves out does not count, so a prompt
            that names a shirt alone is asked for the shirt alone; an attribute that no dict names is not in the result.
    """
    facts = [each.attributes if isinstance(each, world.Scene) else each for each in expected]
    if len(facts) != len(reading) or not facts:
        raise ValueError(f"expected has {len(facts)} entries for {len(reading)} pictures: pass one scene or dict a picture")
    for name, value in {pair for each in facts for pair in each.items()}:
        if value not in world.ATTRIBUTES.get(name, ()):
            raise ValueError(f"{name}={value!r} is no attribute of the puppet world: choose from {world.ATTRIBUTES}")
    hits = {name: [seen[name] == each[name] for seen, each in zip(reading.attributes, facts) if name in each]
            for name in world.ATTRIBUTES}
    result = {name: sum(hit) / len(hit) for name, hit in hits.items() if hit}
    if not result:
        raise ValueError("expected names no attribute at all: put at least one key of world.ATTRIBUTES into a dict")
    return result | {"mean": sum(result.values()) / len(result)}


def limb_lengths(joints: Tensor) -> Tensor:
    """Points (B, J, 2) to the lengths in pixels (B, 13) of the limbs in `world.LIMBS`."""
    _points("joints", joints)
    if joints.shape[1] != JOINTS:
        raise ValueError(f"joints has {joints.shape[1]} points a picture: pass the {JOINTS} of world.JOINTS")
    start, end = zip(*world.LIMBS)
    return (joints[:, list(start)] - joints[:, list(end)]).norm(dim=-1)


def _points(name: str, points: Tensor) -> None:
    if not torch.is_tensor(points) or points.ndim != 3 or points.shape[-1] != 2 or points.is_complex() or not points.numel():
        raise ValueError(f"{name} is {tuple(getattr(points, 'shape', ()))}: pass points (B, J, 2) as (x, y) in pixels")
    if not points.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: pass finite pixels, and say by `visible` which joints count")


def _maps(predicted: Tensor, target: Tensor) -> None:
    for name, value in (("predicted", predicted), ("target", target)):
        if not torch.is_tensor(value) or value.ndim != 4 or value.shape[1] != 1 or not value.isfinite().all():
            raise ValueError(f"{name} is {tuple(getattr(value, 'shape', ()))}: pass finite maps (B, 1, H, W)")
    if predicted.shape != target.shape:
        raise ValueError(f"predicted is {tuple(predicted.shape)} and target {tuple(target.shape)}: resize one of them")


# ---------------------------------------------------------------------------------------------- training

@dataclass
class JudgeRecipe(Declared):
    """All numbers of a training run. The defaults made `data/judge`, in about ten minutes on two CPU cores."""
    run: SomeName = "runs/judge"            # folder of the checkpoint and the result
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Seed = 0
    save_every: Count = 200                # steps between checkpoints
    channels: Three = (48, 96, 128)
    pictures: Count = 8192                 # rendered once, at the start of each process (80 kB of memory each)
    steps: Count = 2000
    batch: AtLeastTwo = 32                 # batch normalisation needs at least 2
    lr: NonNegative = 3e-3
    warmup: Index = 100                    # steps of linear warm-up
    decay: Fraction = 0.7                  # last fraction of the steps, over which the rate falls to zero
    patched: Fraction = 0.3                # share of pictures with a piece of another one over a limb
    shift: Annotated[Index, Field(lt=SIZE)] = 8        # largest shift in pixels

    def __post_init__(self):
        super().__post_init__()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda' but no CUDA device is available: use device='cpu'")


@dataclass
class Batch:
    """Labelled pictures, as rendered or as the network is trained on."""
    packed: Tensor      # (B, 5, 128, 128) uint8: image, depth, edges
    joints: Tensor      # (B, J, 2) pixels
    classes: Tensor     # (B, 7) int64, index into each attribute's values
    present: Tensor     # (B, J) bool, False where the joint is outside the picture or under a patch
    whole: Tensor       # (B,) bool, False where a patch may hide what the picture shows


def train_judge(recipe: JudgeRecipe) -> Iterator[TrainingState]:
    """Render the pool, train the network and leave it in `run/judge` (no thresholds yet, see `export_judge`).

    Yields states of the stages "render" and "judge". Batch n depends on (seed, n) alone, so a run that was killed ends
    with the weights of one that was not.
    """
    run, start = Path(recipe.run), time.time()
    if (run / "judge" / "config.json").exists():
        same_recipe(read_json(run / "judge" / "config.json").get("recipe", {}), recipe,
                    [name for name in asdict(recipe) if name not in ("run", "device", "save_every")], run / "judge")
        return
    pieces = []
    for first in range(0, recipe.pictures, 256):
        pieces.append(label(world.render(world.sample_scenes(min(256, recipe.pictures - first), TRAIN_SEED + first))))
        yield TrainingState("render", min(first + 256, recipe.pictures), recipe.pictures, math.nan, time.time() - start)
    pool = Batch(*(torch.cat([getattr(piece, name) for piece in pieces]) for name in Batch.__dataclass_fields__))
    del pieces
    torch.manual_seed(recipe.seed)
    network = JudgeNetwork(recipe.channels).to(recipe.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, betas=(0.9, 0.99), weight_decay=1e-2)
    first, start = resume(run / "judge.pt", recipe, network=network, optimizer=optimizer), time.time()
    for step in range(first, recipe.steps):
        rng = step_rng(recipe, step)
        batch = augment(pool, torch.randint(recipe.pictures, (recipe.batch,), generator=rng), recipe, rng)
        images = degrade(batch.packed[:, :3].float() / 255, rng).to(recipe.device, memory_format=torch.channels_last)
        set_rate(optimizer, recipe.lr, step, recipe.steps, recipe.warmup, recipe.decay)
        with autocast(recipe):
            raw = network(images)
        loss = judge_loss(raw, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        save_every(run / "judge.pt", recipe, step + 1, recipe.steps, network=network, optimizer=optimizer)
        yield TrainingState("judge", step + 1, recipe.steps, loss.item(), time.time() - start)
    Judge(network, recipe=asdict(recipe) | {"run": run.name}).save_pretrained(run / "judge")


def label(frames: world.Frames) -> Batch:
    """Rendered frames as bytes and class numbers."""
    packed = torch.cat((frames.image, frames.depth, frames.edges), 1)                      # (B, 5, H, W)
    classes = [[values.index(scene.attributes[name]) for name, values in world.ATTRIBUTES.items()]
               for scene in frames.scenes]
    return Batch((packed * 255).round().to(torch.uint8), frames.joints, torch.tensor(classes),
                 torch.ones(frames.joints.shape[:2], dtype=torch.bool), torch.ones(len(frames), dtype=torch.bool))


def augment(pool: Batch, index: Tensor, recipe: JudgeRecipe, rng: torch.Generator) -> Batch:
    """The pictures `index` (B,), shifted, half of them mirrored, some with a piece of another picture over a joint."""
    n, grid = len(index), torch.arange(SIZE)
    shift = torch.randint(-recipe.shift, recipe.shift + 1, (n, 2), generator=rng)          # (B, 2) as (x, y)
    mirrored = torch.rand(n, generator=rng) < 0.5
    rows = (grid + shift[:, 1:]).clamp(0, SIZE - 1)                                        # (B, H), borders repeat
    cols = (grid + shift[:, :1]).clamp(0, SIZE - 1)
    cols = torch.where(mirrored[:, None], SIZE - 1 - cols, cols)
    packed = pool.packed[index[:, None, None], :, rows[:, :, None], cols[:, None, :]]      # (B, H, W, 5)
    joints = pool.joints[index]
    flipped = torch.stack((SIZE - joints[:, MIRROR, 0], joints[:, MIRROR, 1]), -1)
    joints = torch.where(mirrored[:, None, None], flipped, joints) - shift[:, None]
    present = ((joints >= 0) & (joints < SIZE)).all(-1)
    batch = Batch(packed.permute(0, 3, 1, 2), joints, pool.classes[index], present, torch.ones(n, dtype=torch.bool))
    return _patch(batch, recipe, rng)


def _patch(batch: Batch, recipe: JudgeRecipe, rng: torch.Generator) -> Batch:
    """Cover a random joint of some pictures with the same rectangle of the next picture: what is hidden is not there.

    It teaches the network to say "nowhere" for a missing limb, which no rendering lacks, and that a loose hand is no hand.
    """
    n, grid = len(batch.joints), torch.arange(SIZE) + 0.5
    chosen = torch.rand(n, generator=rng) < recipe.patched
    centre = batch.joints[torch.arange(n), torch.randint(JOINTS, (n,), generator=rng)]
    centre = centre + torch.randn(n, 2, generator=rng) * 4                                 # (B, 2) pixels
    half = 5 + 15 * torch.rand(n, 2, generator=rng)
    across, down = ((grid - centre[:, i:i + 1]).abs() < half[:, i:i + 1] for i in (0, 1))  # (B, W), (B, H)
    inside = (chosen[:, None, None] & down[:, :, None] & across[:, None, :])[:, None]      # (B, 1, H, W)
    under = ((batch.joints - centre[:, None]).abs() < half[:, None]).all(-1) & chosen[:, None]
    return Batch(torch.where(inside, batch.packed.roll(1, 0), batch.packed), batch.joints, batch.classes,
                 batch.present & ~under, ~chosen)


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """Slight changes of contrast, brightness, colour and sharpness, and coarse and fine noise, as strong as those
    between a rendering and a good reconstruction or a generated picture. (B, 3, H, W) in [0, 1], likewise."""
    n = len(images)
    u = lambda *shape: torch.rand(n, *shape, generator=rng)
    soft = images
    for _ in range(2):                                                                     # about a Gaussian of 1.2 pixels
        soft = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    images = torch.lerp(images, soft, u(1, 1, 1) * (u(1, 1, 1) < 0.7))
    images = (images - 0.5) * (1 + 0.16 * (u(3, 1, 1) - 0.5)) + 0.5 + 0.1 * (u(1, 1, 1) - 0.5)
    coarse = torch.randn(n, 3, SIZE // 4, SIZE // 4, generator=rng) * 0.03 * u(1, 1, 1)
    fine = torch.randn(n, 1, SIZE, SIZE, generator=rng) * 0.03 * u(1, 1, 1)
    return (images + F.interpolate(coarse, scale_factor=4, mode="bilinear") + fine).clamp(0, 1)


def judge_loss(raw: tuple[Tensor, Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
    """One number for the network's four outputs: KL divergence of the joint maps, absolute error of depth, cross-entropy
    of edges, and of attributes where no patch may hide them."""
    maps, depth, edges, logits = raw
    joints, classes, whole = (value.to(maps.device) for value in (batch.joints, batch.classes, batch.whole))
    truth = batch.packed[:, 3:].to(maps.device).float() / 255                              # (B, 2, H, W)
    flat = torch.cat((maps.flatten(2), torch.zeros_like(maps[..., :1, 0])), -1)            # (B, J, 4096 + "nowhere")
    place = F.kl_div(flat.log_softmax(-1), _spots(joints, batch.present.to(maps.device)), reduction="none").sum(-1).mean()
    facts = sum(F.cross_entropy(part, classes[:, i], reduction="none") for i, part in enumerate(logits.split(SIZES, -1)))
    facts = (facts * whole).sum() / whole.sum().clamp_min(1)
    return (place + 4 * F.l1_loss(depth, truth[:, :1]) + 0.5 * facts
            + 2 * F.binary_cross_entropy_with_logits(edges, truth[:, 1:], pos_weight=edges.new_tensor(2.0)))


def _spots(joints: Tensor, present: Tensor) -> Tensor:
    """Points (B, J, 2) to distributions (B, J, 4096 + 1): a Gaussian of one cell, or all of it "nowhere"."""
    grid = (torch.arange(SIZE // CELL, device=joints.device) + 0.5) * CELL
    x, y = (torch.exp(-((grid - joints[..., i:i + 1]) / CELL) ** 2 / 2) for i in (0, 1))   # (B, J, 64)
    spot = (y[..., :, None] * x[..., None, :]).flatten(2)                                  # (B, J, 4096)
    spot = spot / spot.sum(-1, keepdim=True).clamp_min(1e-6) * present[..., None]
    return torch.cat((spot, (~present)[..., None].float()), -1)


# ---------------------------------------------------------------------------------------------- held-out figures

@declared
def calibrate(judge: Judge, count: Count = 3000, seed: Seed = CALIBRATION_SEED, share: Fraction = 0.99) -> tuple[float, ...]:
    """The 14 thresholds with which at least `share` of the renderings whose joints are all visible pass `found`."""
    confidence, visible = [], []
    for first in range(0, count, 100):
        frames = world.render(world.sample_scenes(min(100, count - first), seed + first))
        confidence.append(judge(frames.image).confidence.cpu())
        visible.append(frames.visible)
    return thresholds_of(torch.cat(confidence)[torch.cat(visible).all(-1)], share)


@declared
def thresholds_of(confidence: Tensor, share: Fraction) -> tuple[float, ...]:
    """Confidences (n, J) of n whole puppets to J thresholds that at least `share` of the *puppets* reach everywhere.

    Every joint gets the same quantile of its own confidence, the highest one that lets that many pass.
    """
    if not len(confidence):
        raise ValueError("none of the renderings shows all joints: calibrate on more")
    rank = confidence.argsort(0).argsort(0).amin(1)                                       # (n,) of each one's weakest joint
    lowest = rank.sort().values[int((1 - share) * len(confidence) + 1e-6)]
    return tuple(confidence.sort(0).values[lowest].tolist())


@declared
def evaluate(judge: Judge, vae=None, count: Count = 500, seed: Seed = TEST_SEED) -> dict[str, dict]:
    """The judge's own accuracy on `count` held-out renderings ("rendered") and, where a `vae` is given, on the same
    pictures after its round trip ("autoencoded")."""
    frames = world.render(world.sample_scenes(count, seed))
    figures = {"rendered": measure(judge, judge(frames.image), frames)}
    if vae is not None:
        figures["autoencoded"] = measure(judge, judge(round_trip(vae, frames.image)), frames)
    return figures


@torch.no_grad()
def round_trip(vae, images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] through diffusers' AutoencoderKL and back."""
    images = as_pictures(images, "images", 2 ** (len(vae.config.block_out_channels) - 1))
    there = next(vae.parameters())                                      # its device and number format
    again = [vae.decode(vae.encode(part.to(there) * 2 - 1).latent_dist.mean).sample.cpu() for part in images.split(16)]
    return (torch.cat(again).float() / 2 + 0.5).clamp(0, 1)


def measure(judge: Judge, reading: Reading, frames: world.Frames) -> dict:
    """All figures of a reading against the truth, as plain numbers."""
    truth, visible, found = frames.joints, frames.visible, judge.found(reading).float()
    whole = visible.all(-1)
    error = (reading.joints - truth).norm(dim=-1)
    figures = {"pictures": len(frames), "pck@0.05": pck(reading.joints, truth, 0.05, visible).nanmean(),
               "pck@0.1": pck(reading.joints, truth, 0.1, visible).nanmean(),
               "pck@0.05, hidden joints too": pck(reading.joints, truth, 0.05).mean(),
               "joint error, median pixels": error[visible].median(),
               "depth rmse": depth_rmse(reading.depth, frames.depth).mean(),
               "edge f-score": edge_f_score(reading.edges, frames.edges).mean(),
               "found": found.mean(), "found, all joints visible": found[whole].mean()}
    return ({name: round(float(value), 4) for name, value in figures.items()}
            | {"attributes": {name: round(value, 4) for name, value in attribute_accuracy(reading, frames.scenes).items()}})


@declared
def export_judge(recipe: JudgeRecipe, folder: FileName = DEFAULT, vae=None, count: Count = 500,
                 calibration: Count = 3000) -> Judge:
    """Calibrate and measure the trained network of a run, with the fp16 weights that are shipped, and write `folder`. ValueError, before
    that, where somebody else's README.md is in it."""
    refuse_card(folder, "model.safetensors")
    judge = Judge.from_pretrained(Path(recipe.run) / "judge")
    judge = Judge(judge.network, calibrate(judge, calibration), recipe=judge.recipe)
    judge.figures = evaluate(judge, vae, count)
    judge.save_pretrained(folder)
    write_file(Path(folder) / "README.md", card(judge))
    return judge


def card(judge: Judge) -> str:
    """The text that is shipped beside the weights."""
    columns = list(judge.figures)
    flat = {name: {k: v for k, v in values.items() if k != "attributes"} | {f"attribute: {k}": v for k, v in values["attributes"].items()}
            for name, values in judge.figures.items()}
    rows = "\n".join(f"| {key} | " + " | ".join(f"{flat[name][key]:g}" for name in columns) + " |" for key in flat[columns[0]])
    recipe = judge.recipe
    weights = sum(value.numel() for value in judge.network.parameters())
    return f"""# The judge

Reads joints, depth, edges and attributes off pictures of the puppet world, to measure generated and guided pictures.
{weights / 1e6:.2f} million weights, fp16. Load it with `rg_minimal.puppets.judge.load_judge()`.

## Training
{recipe['pictures']} renderings (seeds from {TRAIN_SEED}), {recipe['steps']} steps of {recipe['batch']} pictures, shifted, mirrored, \
slightly blurred, noisy and discoloured, {recipe['patched']:.0%} of them with a piece of another one over a limb. No picture that a \
model made, no readout head, no weights of another network. To repeat it: `python -m rg_minimal.puppets.judge`.

## Held-out figures
Renderings with seeds from {TEST_SEED}; "autoencoded" are the same after encoder and decoder of `data/puppet-diffusion`.

| | {' | '.join(columns)} |
|---|{'---|' * len(columns)}
{rows}

PCK is over visible joints where not said otherwise; depth lies in [0, 1] and is aligned by scale and shift; edges match \
within one pixel. *Found* means that all 14 joints have at least the confidence (`thresholds` in `config.json`) that \
99 % of other renderings with all joints visible have.

## Limits
It knows the puppet world alone, at 128 x 128, with exactly one puppet. A joint that is hidden still gets a place. Attributes \
are always one of the known names, however strange the picture. Licence: Apache-2.0.
"""


@stoppable
def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m rg_minimal.puppets.judge`: train (or go on), calibrate, measure, write the folder."""
    import argparse
    parser = argparse.ArgumentParser(description="Train the judge and write data/judge.")
    for name in ("run", "device"):
        parser.add_argument(f"--{name}", default=getattr(JudgeRecipe, name), choices=["cpu", "cuda"] if name == "device" else None)
    for name, kind in (("pictures", Count), ("steps", Count), ("batch", AtLeastTwo), ("seed", Seed)):
        parser.add_argument(f"--{name}", type=option(kind), default=getattr(JudgeRecipe, name))
    parser.add_argument("--folder", default=_found(DEFAULT), help=f"where the result goes ({DEFAULT})")
    parser.add_argument("--vae", default=None, help="folder of an AutoencoderKL to measure reconstructions with")
    parser.add_argument("--count", type=option(Count), default=500, help="held-out pictures to measure on")
    options = vars(parser.parse_args(arguments))
    folder, path, count = (options.pop(name) for name in ("folder", "vae", "count"))
    vae = None
    with one_sentence(parser):
        recipe = JudgeRecipe(**options)
        refuse_file(folder), refuse_file(recipe.run), refuse_card(folder, "model.safetensors")
        if path is not None:
            from diffusers import AutoencoderKL
            if not Path(path).is_dir():
                raise ValueError(f"--vae is {path!r}: there is no such folder; pass that of an AutoencoderKL, such as "
                                 "data/puppet-diffusion/vae")
            vae = AutoencoderKL.from_pretrained(path).eval()
    print_progress(train_judge(recipe))
    print(json.dumps(export_judge(recipe, folder, vae, count).figures, indent=1))


if __name__ == "__main__":
    main()
