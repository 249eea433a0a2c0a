"""Seeded test cases with known ground truth: what a drag is to do, and how well it was done.

A `DragCase` says which points of a picture are to go where, and which part of the picture may change for it. Limbs go to
where they are in other poses of this world and keep their lengths, and targets lie on free background, so a perfect drag
leaves a whole puppet behind. Points are (x, y) in pixels of the image.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from . import world
from .editing import region
from .heads import pixel_grid
from .judge import Judge, Reading, limb_lengths
from ..pictures import as_pictures
from ..checks import Count, NonNegative, Seed, declared

LIMB_JOINTS = {"wrist": ("shoulder", "elbow", "wrist"), "ankle": ("hip", "knee", "ankle")}
KINDS = ("wrist", "ankle", "puppet", "prop")
WAYS = {"wrist": (12.0, 45.0), "ankle": (7.0, 30.0)}      # how far a wrist or an ankle goes, in pixels
MARGIN = 5.0                            # pixels that a target keeps from the border
ARROWS = ("wrist", "elbow", "ankle", "head", "body", "prop")       # what a student's single arrow starts on
ELBOW, NODS = 7.0, (12.0, 30.0)         # the least way of an elbow's arrow in pixels; by how many degrees a head is turned
AIM = 3.0                               # pixels by which a student's arrow misses what it is meant for, at both ends
INSIDE = 5                              # points well inside a prop, see `_spread`
CLEAR = 10.0                            # pixels that points on a prop's outline keep from the puppet


@dataclass
class DragCase:
    """One drag. N points; those that are joints come first."""
    kind: str                           # one of KINDS
    seed: int
    handles: Tensor                     # (N, 2)
    targets: Tensor                     # (N, 2)
    joints: list[int]                   # which joints the first handles are, indices into world.JOINTS
    fixed: Tensor                       # (M, 2) points of the moving part that stay: the shoulder or the hip

    @declared
    def moved(self, margin: NonNegative = 10.0) -> Tensor:
        """(1, 1, H, W): the part of the picture that has to change, in [0, 1]."""
        return region(torch.cat((self.handles, self.targets, self.fixed)), margin)

    @property
    def distance(self) -> float:
        """Mean distance in pixels between handles and targets before anything is done."""
        return float((self.handles - self.targets).norm(dim=-1).mean())


@declared
def drag_case(kind: Literal[KINDS], joints: Tensor, seed: Seed, picture: Tensor | None = None, prop: Tensor | None = None) -> DragCase | None:
    """A drag of this kind for a puppet with these joints (14, 2); None where there is no room for one.

    Args:
        picture: (3, H, W) in [0, 1]: the targets are then on free background, so that nothing hides what was moved.
        prop: for kind 'prop' points (N, 2) on the prop, the first in its middle, the first five well inside.
    """
    picture = None if picture is None else one_picture(picture)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(60):
        case = (_limb if kind in LIMB_JOINTS else _shift)(kind, joints, seed, prop, rng)
        if case is not None and _inside(case.targets).all() and _apart(case, joints) \
                and (picture is None or _on_background(case, joints, picture)):
            return case if kind in LIMB_JOINTS else _with_rim(case, joints, prop)
    return None


def one_picture(picture, name: str = "picture") -> Tensor:
    """A single picture, (3, H, W) in [0, 1]. ValueError for anything else."""
    found = as_pictures(picture, name)
    if len(found) != 1:
        raise ValueError(f"{name} is {len(found)} pictures; pass one, such as pictures[0]")
    return found[0]


def _uniform(rng, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _limb(kind, joints, seed, prop, rng) -> DragCase | None:
    """Bring an arm or a leg to where it is in another pose of this world; both its bones keep their lengths.

    A leg that is merely turned about the hip soon is where no puppet's leg ever was, and no model can be asked for it.
    """
    side, sign = ("left", 1) if _uniform(rng, 0, 1) < 0.5 else ("right", -1)
    pose, _ = world.sample_pose(rng, world.ACTIONS[int(torch.randint(len(world.ACTIONS), (), generator=rng))])
    limb = getattr(pose, f"{side}_{'arm' if kind == 'wrist' else 'leg'}")
    index = [world.JOINTS.index(f"{side}_{name}") for name in LIMB_JOINTS[kind]]
    root, middle, end = joints[index]

    def bone(degrees, length):
        return torch.tensor([sign * math.sin(math.radians(degrees)), math.cos(math.radians(degrees))]) * length
    new_middle = root + bone(limb.swing, (middle - root).norm())
    new_end = new_middle + bone(limb.swing + limb.bend, (end - middle).norm())
    way = float((new_end - end).norm())
    if not WAYS[kind][0] <= way <= WAYS[kind][1]:
        return None
    handles, targets = (torch.stack((m, e, (m + e) / 2, (root + m) / 2)) for m, e in ((middle, end), (new_middle, new_end)))
    return DragCase(kind, seed, handles, targets, index[1:], root[None])


def _shift(kind, joints, seed, prop, rng) -> DragCase:
    """Move all of the puppet or the prop by 12 to 30 pixels to one side, and by up to 3 up or down."""
    across = _uniform(rng, 12, 30) * (1 if _uniform(rng, 0, 1) < 0.5 else -1)
    offset = torch.tensor([across, _uniform(rng, -3, 3)])
    handles = joints if kind == "puppet" else prop[:INSIDE]
    return DragCase(kind, seed, handles, handles + offset, list(range(14)) if kind == "puppet" else [], handles[:0])


def _with_rim(case: DragCase, joints: Tensor, prop: Tensor | None) -> DragCase:
    """Also take hold of the top of the head or hat, or of the prop's outline, or else scraps of it stay behind: all that
    lies within the picture and, of a prop, clear of the puppet, before and after."""
    head, neck = joints[:2]
    rim = (head + (head - neck))[None] if case.kind == "puppet" else prop[INSIDE:]
    moved = rim + (case.targets - case.handles)[0]
    ends = torch.stack((rim, moved))                                                     # (2, N, 2)
    good = _inside(ends)
    if case.kind == "prop":
        good &= (torch.cdist(ends, _body(joints)) >= CLEAR).all(-1)
    good = good.all(0)
    return replace(case, handles=torch.cat((case.handles, rim[good])), targets=torch.cat((case.targets, moved[good])))


def _inside(points: Tensor) -> Tensor:
    """(...) bool: which points (..., 2) keep their distance from the border."""
    return ((points >= MARGIN) & (points <= world.SIZE - MARGIN)).all(-1)


def _apart(case: DragCase, joints: Tensor) -> bool:
    """Whether the targets keep clear of the rest of the puppet, so that nothing would hide what was moved."""
    if case.kind == "puppet":
        return True
    far = {"wrist": 13.0, "ankle": 11.0, "prop": 16.0}[case.kind]
    points = case.targets[1:3] if case.kind in LIMB_JOINTS else case.targets[:1]
    return bool(torch.cdist(points, _body(joints, case.joints)).min() >= far)


def _body(joints: Tensor, without: list[int] = ()) -> Tensor:
    """Points (N, 2) along all limbs, but those with a joint in `without`."""
    start, end = (torch.stack([joints[pair[k]] for pair in world.LIMBS if not {*pair} & {*without}]) for k in (0, 1))
    return torch.cat([torch.lerp(start, end, w) for w in (0.0, 0.25, 0.5, 0.75, 1.0)])


def _on_background(case: DragCase, joints: Tensor, picture: Tensor) -> bool:
    """Whether each target shows what most of its row shows, or is nearer than 12 pixels to what moves there."""
    picture = torch.nn.functional.avg_pool2d(picture[None].to(joints), 5, 1, 2)[0]      # (3, H, W)
    x, y = case.targets.long().T
    strange = (picture[:, y, x] - picture.median(-1).values[:, y]).abs().amax(0)        # (N,)
    here = torch.cdist(case.targets, case.handles if case.kind == "prop" else _body(joints)).amin(1) < 12
    return bool(((strange < 0.12) | here).all())


def prop_points(frames: world.Frames, i: int = 0) -> Tensor | None:
    """(13, 2) points on the prop of rendered frame i: the middle, four around it, and eight near its outline, each as far
    from the others as can be; None where too little of it is seen."""
    spots = (frames.parts[i] == world.PART["prop"]).nonzero().flip(-1).float() + 0.5
    if len(spots) < 120:
        return None
    points = _spread(spots)
    middle, rim = points[0], []
    for _ in range(8):
        far = torch.cdist(spots, torch.stack([middle, *rim])).amin(1).argmax()
        rim.append(spots[far])
    return torch.cat((points, torch.lerp(middle, torch.stack(rim), 0.85)))


def ball_points(picture: Tensor, scene: world.Scene) -> Tensor | None:
    """(5, 2) points on the ball of a picture (3, H, W) that a model made for this scene's caption, by its colour, the
    middle first. None where the scene has no ball, something else has its colour, or what has it is no single disc.
    """
    looks, picture = scene.puppet, one_picture(picture)
    if scene.prop != "ball" or scene.prop_colour in (looks.shirt, looks.trousers, looks.hat):
        return None
    colour = torch.tensor(world.COLOURS[scene.prop_colour])[:, None, None]
    alike = torch.nn.functional.cosine_similarity(picture, colour, dim=0)               # (H, W): hue, not brightness
    spots = ((alike > 0.985) & (picture.amax(0) > 0.25)).nonzero().flip(-1).float() + 0.5
    if not 100 <= len(spots) <= 420:
        return None
    middle = spots.median(0).values
    disc = (spots - middle).norm(dim=-1) <= (len(spots) / math.pi) ** 0.5 + 2
    return _spread(spots[disc]) if disc.float().mean() > 0.9 else None


def _spread(spots: Tensor) -> Tensor:
    """The spots' middle and four places half-way to their borders."""
    middle, half = spots.mean(0), spots.std(0)
    return middle + torch.tensor([[0.0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]]) * half * 0.8


@dataclass
class ArrowCase:
    """A single arrow, as a student might draw one."""
    kind: str                           # one of ARROWS
    seed: int
    handle: Tensor                      # (2,)
    target: Tensor                      # (2,)
    joints: list[int]                   # those that it is meant to bring `target - handle` further; none of a prop


@declared
def arrow_case(kind: Literal[ARROWS], reading: Reading, seed: Seed) -> ArrowCase | None:
    """An arrow on what the judge reads in one picture; None where there is no room for one, or no such thing.

    Wrists, elbows and ankles go to where they are in another pose of this world; the head is turned about the neck; the body and
    the prop go to one side. Both ends are drawn up to `AIM` pixels beside what is meant; there may be anything behind them.
    """
    joints, rng = reading.joints[0], torch.Generator().manual_seed(seed)
    prop = prop_spot(reading) if kind == "prop" else None
    if kind == "prop" and prop is None:
        return None
    for _ in range(60):
        aim = (2 * torch.rand(2, 2, generator=rng) - 1) * AIM / 2 ** 0.5
        if kind in ("wrist", "elbow", "ankle"):
            limb = _limb("ankle" if kind == "ankle" else "wrist", joints, seed, None, rng)
            if limb is None or not _inside(limb.targets).all() or not _apart(limb, joints):
                continue
            row = 0 if kind == "elbow" else 1
            start, end, meant = limb.handles[row], limb.targets[row], [limb.joints[row]]
            if (end - start).norm() < ELBOW:
                continue
        elif kind == "head":
            head, neck = joints[:2]
            angle = math.radians(_uniform(rng, *NODS)) * (1 if _uniform(rng, 0, 1) < 0.5 else -1)
            cos, sin = math.cos(angle), math.sin(angle)
            start, end, meant = head, neck + (head - neck) @ torch.tensor([[cos, sin], [-sin, cos]]), [0]
            aim[1] = aim[0]                                     # the way is short: a miss at both ends would be most of it
        else:
            shift = _shift("puppet", joints, seed, None, rng)
            way, meant = (shift.targets - shift.handles)[0], shift.joints if kind == "body" else []
            start = torch.lerp(joints[1], joints[8:10].mean(0), _uniform(rng, 0.3, 0.9)) if kind == "body" else prop
            end = start + way
            moved = joints + way if kind == "body" else end[None]
            if not _inside(moved).all() or kind == "prop" and torch.cdist(end[None], _body(joints)).min() < 16:
                continue
        start, end = start + aim[0], end + aim[1]
        if _inside(torch.stack((start, end))).all():
            return ArrowCase(kind, seed, start, end, meant)
    return None


def prop_spot(reading: Reading) -> Tensor | None:
    """(2,) the middle of what stands nearer than the rest of its rows and is not the puppet, in the judge's depth; None
    where there is little of it."""
    depth, joints = reading.depth[0, 0], reading.joints[0]
    grid = pixel_grid(depth.shape[-1])                                                  # (H, W, 2)
    beside = torch.cdist(grid.flatten(0, 1), _body(joints)).amin(1).view(depth.shape) > 12
    spots = grid[(depth - depth.median(-1, keepdim=True).values > 0.04) & beside]
    if len(spots) < 150:
        return None
    middle = spots.median(0).values
    return middle if (spots - middle).norm(dim=-1).median() < 20 else None


# ---------------------------------------------------------------------------------------------- how well it was done

def _odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError("pass an odd number, so that the patch has a middle")
    return side


Odd = Annotated[Count, AfterValidator(_odd)]


@declared
def whole(judge: Judge, after: Reading, before: Reading, tolerance: NonNegative = 0.15) -> Tensor:
    """(B,) bool: one whole puppet: all joints found with the source's confidence (or that of real renderings), and every
    limb as long as the source's to within `tolerance`."""
    enough = torch.minimum(before.confidence, after.confidence.new_tensor(judge.thresholds))
    found = (after.confidence >= enough).all(-1)
    change = (limb_lengths(after.joints) / limb_lengths(before.joints).clamp_min(1e-6) - 1).abs()
    return found & (change <= tolerance).all(-1)


@declared
def find_patch(source: Tensor, point: Tensor, picture: Tensor, side: Odd = 13) -> Tensor:
    """Where the patch around `point` (2,) of `source` (3, H, W) is in `picture` (3, H, W): (2,) in pixels.

    The nearest neighbour by the squared difference of the patch's pixels: a feature that no head has seen.
    """
    half, source, picture = side // 2, one_picture(source, "source"), one_picture(picture)
    padded, wanted = (torch.nn.functional.pad(p[None], (half,) * 4, mode="replicate") for p in (picture, source))
    x, y = (int(v) for v in point)
    patch = wanted[0, :, y:y + side, x:x + side].flatten()
    columns = torch.nn.functional.unfold(padded, side)[0]                                # (3 * side^2, H*W)
    best = int((columns - patch[:, None]).square().sum(0).argmin())
    width = picture.shape[-1]
    return torch.tensor([best % width + 0.5, best // width + 0.5])
