"""What an arrow takes hold of, and what came of it: one arrow on a hand is a whole arm that turns about its shoulder.

    hold = grab(correspondence, pose, source, handles, targets)
    print(hold.words)                                       # before anything runs
    settings = drag(correspondence, source, hold.handles, hold.targets, fixed=hold.fixed, anatomy=pose)
    pictures, latents = sample(pipe, prompt, **settings)
    print(outcome(correspondence, pose, source, pictures, hold).words)

`drag(..., anatomy=pose, grab=True)` does the first step itself. The pose head reads the joints in the source. A hand or a foot
is brought to where the arrow ends by turning both bones of its limb, whose lengths are kept and whose root is pinned; an elbow
or a knee turns the limb as it is; the head turns about the neck; the body takes the whole puppet along. Of anything else the
source's own last step shows how far it reaches (`outline`), and the correspondence head what of that is the puppet's. Points are
(x, y) in pixels of the image, y down; left and right are the puppet's own.
"""
from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from pydantic import InstanceOf
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, max_pool2d

from . import world
from .heads import check_reads, match_points, pixel_grid, read_joints
from ..checks import AnyPoints, Declared, Fraction, NonNegative, Points, check_pairs, check_pixels, declared, describe
from ..pictures import as_pictures
from ..saving import ReadoutHead
from ..sources import Source

INDEX = {name: i for i, name in enumerate(world.JOINTS)}
CHAINS = {f"{side} {limb}": tuple(INDEX[f"{side}_{joint}"] for joint in joints) for side in ("left", "right")
          for limb, joints in (("arm", ("shoulder", "elbow", "wrist")), ("leg", ("hip", "knee", "ankle")))}
PARENTS = {joint: chain[0] for chain in CHAINS.values() for joint in chain}          # the root that a limb's joint turns about
RADII = {"arm": (0.043, 0.036), "leg": (0.055, 0.044), "head": 0.098, "body": 0.085}    # of the parts, in body heights
HEIGHTS = {"body": 0.285, "arm": 0.20, "leg": 0.23}         # lengths of torso, upper arm and thigh in body heights
REACH = 6.0                 # pixels from a point that moves within which a joint goes along
NEAR = 3.0                  # pixels beside a part that still count as on it
TIP = 1.14                  # how far a hand or a foot reaches along its lower bone, at whose end, 1, its joint is
ROOT = 0.35                 # of the upper bone, from its root, that belongs to the body
EDGE = 3.0                  # pixels that targets keep from the border
SPACING = 7.0               # pixels between the points that are held of a prop
NOD = 35.0                  # degrees by which a head can be turned
TOLD = 3.0                  # pixels by which a target falls short before the words say so
STRANGE = 15.0              # degrees beyond which a pose is one that no puppet of this world takes
ALIKE = 0.8                 # cosine similarity of features from which on two spots are one thing's
MATCHED = 50                # timestep, or the next above, at which joints are read and spots are matched
OFF, STRETCH, FAINT = 6.0, 0.2, 0.5     # what `outcome` lets pass: pixels, change of a length, share of a joint's peak


@dataclass(frozen=True)
class Hold(Declared):
    """What is held, before anything runs. Pass `handles`, `targets` and `fixed` to `drag`, changed or not."""
    what: tuple[str, ...]       # for each arrow "left arm", "head", "body", "prop", "point", or "pin" where it has no length
    handles: Points             # (N, 2) points of all that moves
    targets: Points             # (N, 2) where they go
    fixed: AnyPoints            # (M, 2) points that belong to it and stay: a shoulder, a hip, a neck
    words: str                  # for the user: a sentence for each arrow
    arrows: Points              # (2 K, 2): start and end of each arrow that has a length, as far as it can go
    joints: Points              # (14, 2) read in the source
    goal: Points                # (14, 2) where they are to be

    @property
    def points(self) -> list:
        """All of it as arrows [[x, y], [target x, target y]], what stays as ones without a length: to be moved by hand."""
        pinned = torch.stack((self.fixed, self.fixed), 1)
        return torch.cat((torch.stack((self.handles, self.targets), 1), pinned)).tolist()


@dataclass(frozen=True)
class Outcome:
    """What came of a drag, by the readouts; the judge has no say in it."""
    good: bool
    off: tuple[float, ...]          # pixels from its target, for each arrow that has a length
    way: tuple[float, ...]          # pixels that it was to go
    lengths: dict[str, float]       # of each limb, against the source
    missing: tuple[str, ...]        # joints that the pose head does not find as surely as in the source
    far: bool                       # a handle is too far off its target
    torn: bool                      # a limb has another length
    words: str
    remedy: str                     # "" where all is well


# ---------------------------------------------------------------------------------------------- what is read

def reading_timestep(source: Source) -> float:
    """The timestep of a source at which joints are read and spots are matched, where noise hides little."""
    return next((t for t in source.timesteps if t >= MATCHED), source.timesteps[-1] if source.timesteps else MATCHED)


def check_is_source(source) -> None:
    """ValueError for what is no `Source`."""
    if not isinstance(source, Source):
        raise ValueError(f"source is {describe(source)}; pass a Source, such as Source.from_states(pipe, states, prompt)")


def check_source_is_one(source) -> None:
    """ValueError for what is no `Source`, and for one of several pictures: an edit is of one."""
    check_is_source(source)
    if source.count != 1:
        raise ValueError(f"source has {source.count} pictures; edit one at a time: make a Source of each")
    if source.image_size != (world.SIZE, world.SIZE):
        raise ValueError(f"source is a picture of {source.image_size} pixels (height, width); puppets are read, and edited, in pictures of {world.SIZE} x "
                         f"{world.SIZE}: sample or invert it at that size")


def check_is_pose(head) -> None:
    """ValueError for what is no head that reads the joints of a puppet."""
    check_reads(head, "pose")
    if head.config.out_channels != len(world.JOINTS):
        raise ValueError(f"this head reads {head.config.out_channels} channels, and not the {len(world.JOINTS)} joints of a puppet; load one such as "
                         "data/heads/pose")


def as_many(handles: Tensor, targets: Tensor) -> None:
    """ValueError for another number of handles than of targets, and for fractions of the picture."""
    if len(handles) != len(targets):
        raise ValueError(f"{len(handles)} handles and {len(targets)} targets; pass as many of each")
    check_pixels("handles and targets", torch.cat((handles, targets)))


def check_inside(points: Tensor, image_size: tuple[int, int], what: str) -> None:
    """ValueError for points (N, 2) of which one lies outside a picture of (H, W) pixels."""
    height, width = image_size
    outside = ((points < 0) | (points > torch.tensor([width, height]))).any(-1)
    if outside.any():
        x, y = points[outside][0].tolist()
        raise ValueError(f"the point ({x:g}, {y:g}) of {what} lies outside the picture of {width} x {height} pixels: pass points inside it")


@declared
def gone_along(joints: Points, start: Points, goal: Points, reach: NonNegative = REACH) -> Tensor:
    """Joints (14, 2), those within `reach` pixels of a point of `start` (N, 2) moved as it is, to `goal` (N, 2)."""
    as_many(start, goal)
    gap, nearest = torch.cdist(joints, start).min(-1)
    way = (goal - start)[nearest] * (gap <= reach)[:, None]
    return (joints + way).clamp(0, world.SIZE)


@torch.no_grad()
def source_joints(pose: ReadoutHead, source: Source) -> Tensor:
    """The joints (14, 2) that a pose head reads in the source. ValueError for another head, also one of another model or of other joints,
    and for a source of several pictures."""
    check_is_pose(pose)
    check_source_is_one(source)
    pose.check(source.model)
    return read_joints(source(reading_timestep(source))(pose))[0][0].cpu()


@torch.no_grad()
def source_picture(source: Source) -> Tensor:
    """(3, H, W) in [0, 1]: the source's picture, as its last step shows it."""
    latents = source.latents_at(source.timesteps[0] if source.timesteps else 0)
    return source.model.decode(latents[:1].to(source.model.device, source.model.dtype))[0].float().cpu()


def body_height(joints: Tensor) -> float:
    """A puppet's height in pixels: what its torso and the upper bones of its limbs say, the middle of them."""
    bones = [(joints[INDEX["neck"]] - joints[[INDEX["left_hip"], INDEX["right_hip"]]].mean(0)).norm() / HEIGHTS["body"]]
    bones += [(joints[chain[0]] - joints[chain[1]]).norm() / HEIGHTS[name.split()[1]] for name, chain in CHAINS.items()]
    return float(torch.stack(bones).median())


def from_segment(point: Tensor, start: Tensor, end: Tensor) -> tuple[float, float]:
    """How far a point is from a segment, in pixels, and where along it (0 to 1) it is nearest."""
    step = end - start
    t = float(((point - start) @ step / step.square().sum().clamp_min(1e-6)).clamp(0, 1))
    return float((point - start - t * step).norm()), t


def part_at(point: Tensor, joints: Tensor) -> tuple[str, int]:
    """What the puppet with these joints (14, 2) has at a point (2,): a limb and the joint that it is moved by, ("head", 0),
    ("body", 1), or ("", -1) where the point is beside the puppet. Limbs lie in front of the body."""
    size, found = body_height(joints), []
    for name, (root, middle, end) in CHAINS.items():
        upper, lower = (size * radius for radius in RADII[name.split()[1]])
        tip = torch.lerp(joints[middle], joints[end], TIP)                              # a hand, a foot
        gap, t = from_segment(point, joints[root], joints[middle])
        found.append((gap / upper, gap - upper, *((name, middle) if t >= ROOT else ("body", INDEX["neck"]))))
        gap, t = from_segment(point, joints[middle], tip)
        found.append((gap / lower, gap - lower, name, end if t >= ROOT else middle))
    inside = [each for each in found if each[1] <= 1.0]
    if inside:
        return min(inside)[2:]
    head, neck = joints[INDEX["head"]], joints[INDEX["neck"]]
    hips = joints[[INDEX["left_hip"], INDEX["right_hip"]]].mean(0)
    for name, start, end in (("head", head, torch.lerp(neck, head, 1.7)), ("body", neck, hips)):
        gap = from_segment(point, start, end)[0] - size * RADII[name]
        found.append((0.0, gap, name, INDEX["head"] if name == "head" else INDEX["neck"]))
    gap, name, joint = min(each[1:] for each in found)
    return (name, joint) if gap <= NEAR else ("", -1)


def puppet_at(points: Tensor, joints: Tensor, beside: float = 1.0) -> Tensor:
    """(N,) bool: which of these points (N, 2) the puppet with these joints (14, 2) covers, or is `beside` pixels from."""
    size, covered = body_height(joints), torch.zeros(len(points), dtype=torch.bool)
    head, neck = joints[INDEX["head"]], joints[INDEX["neck"]]
    hips = joints[[INDEX["left_hip"], INDEX["right_hip"]]].mean(0)
    parts = [(head, torch.lerp(neck, head, 1.5), RADII["head"]), (neck, hips, RADII["body"])]
    for name, (root, middle, end) in CHAINS.items():
        upper, lower = RADII[name.split()[1]]
        parts += [(joints[root], joints[middle], upper), (joints[middle], torch.lerp(joints[middle], joints[end], 1.2), lower)]
    for start, end, radius in parts:
        step = end - start
        t = ((points - start) @ step / step.square().sum().clamp_min(1e-6)).clamp(0, 1)
        covered |= (points - start - t[:, None] * step).norm(dim=-1) <= size * radius + beside
    return covered


@torch.no_grad()
def outline(head: ReadoutHead, source: Source, point: Tensor, joints: Tensor, least: int = 60, most: int = 4000) -> Tensor | None:
    """The pixels (N, 2) of what the source shows at a point (2,) beside the puppet, a prop; None where that is background.

    A prop differs from what most of its row shows, and hangs together. What correspondence finds more like the puppet's limbs
    than like the spot itself is the puppet's.
    """
    picture = source_picture(source)                                                                # (3, H, W)
    size = picture.shape[-1]
    grid = pixel_grid(size).flatten(0, 1)                                                           # (H * W, 2)
    usual = picture.median(-1).values[:, :, None]
    strange = (avg_pool2d((picture - usual)[None], 3, 1, 1)[0]).abs().amax(0) > 0.09               # (H, W)
    features = source(reading_timestep(source))(head)[0].float().cpu()                                     # (C, h, w)
    cells = features.shape[-1]
    limbs = torch.cat([torch.lerp(joints[[a]], joints[[b]], w) for a, b in world.LIMBS for w in (0.1, 0.5, 0.9)])
    x, y = (torch.cat((point[None], limbs)).clamp(0, size - 0.1) * cells / size).long().T
    spot, puppet = features[:, y, x].T.split((1, len(limbs)))                                       # (1, C), (L, C)
    flat = features.flatten(1).T                                                                    # (h * w, C)
    alike = cosine_similarity(flat, spot, -1)
    as_limb = cosine_similarity(flat[:, None], puppet[None], -1).amax(1)
    theirs = (as_limb > alike + 0.15).view(cells, cells).repeat_interleave(size // cells, 0).repeat_interleave(size // cells, 1)
    near = puppet_at(grid, joints, 0.5).view(size, size) | (puppet_at(grid, joints, 5.0).view(size, size) & theirs)
    same = (alike > ALIKE).view(cells, cells).repeat_interleave(size // cells, 0).repeat_interleave(size // cells, 1)
    free = (strange | same) & ~near
    found = torch.zeros(size, size, dtype=torch.bool)
    x, y = (int(min(max(v, 0), size - 1)) for v in point.tolist())
    found[max(y - 2, 0):y + 3, max(x - 2, 0):x + 3] = True
    found &= free
    while True:                                                             # grows until nothing hangs on to it any more
        grown = (max_pool2d(found[None].float(), 3, 1, 1)[0] > 0) & free
        if bool((grown == found).all()):
            break
        found = grown
    spots = grid.view(size, size, 2)[found]
    return spots if least <= len(spots) <= most else None


def _spread(spots: Tensor, spacing: float = SPACING) -> Tensor:
    """Some of these pixels (N, 2), each about `spacing` from the others, from the middle out to the outline: (K, 2)."""
    chosen = [spots[(spots - spots.mean(0)).norm(dim=-1).argmin()]]
    while True:
        gap, far = torch.cdist(spots, torch.stack(chosen)).amin(1).max(0)
        if gap < spacing or len(chosen) >= 40:
            break
        chosen.append(spots[far])
    points = torch.stack(chosen)
    return torch.lerp(points[:1], points, 0.92)


# ---------------------------------------------------------------------------------------------- how limbs turn

@functools.cache
def _usual(limb: str) -> Tensor:
    """(N, 2) swing and bend in degrees of arms or legs in this world's poses."""
    rng, found = torch.Generator().manual_seed(0), []
    for action in world.ACTIONS:
        for _ in range(60):
            pose, _ = world.sample_pose(rng, action)
            found += [(each.swing, each.bend) for each in (getattr(pose, f"left_{limb}"), getattr(pose, f"right_{limb}"))]
    return torch.tensor(found)


def _degrees(vector: Tensor, sign: int) -> float:
    """From hanging straight down (0) outwards, `sign` is 1 for the puppet's left."""
    return math.degrees(math.atan2(sign * float(vector[0]), float(vector[1])))


def strangeness(chain: str, root: Tensor, middle: Tensor, end: Tensor) -> float:
    """How far, in degrees, a limb with these joints (2,) is from the nearest pose of this world."""
    sign, limb = (1 if chain.startswith("left") else -1), chain.split()[1]
    swing = _degrees(middle - root, sign)
    bend = (_degrees(end - middle, sign) - swing + 180) % 360 - 180
    gaps = (_usual(limb) - torch.tensor([swing, bend]) + 180) % 360 - 180
    return float(gaps.norm(dim=-1).min())


def bend(chain: str, limb: Tensor, end: Tensor) -> Tensor:
    """A limb (3, 2), root, middle and end, whose end is brought to `end` (2,) or as near as both bones reach: (3, 2).

    Of the two ways to bend it the one is taken that this world's puppets would rather take.
    """
    root, middle, old = limb
    upper, lower = float((middle - root).norm()), float((old - middle).norm())
    step = end - root
    reach = min(max(float(step.norm()), abs(upper - lower) + 1e-3), upper + lower - 1e-3)
    along = step / step.norm().clamp_min(1e-6)
    end = root + along * reach
    a = (upper ** 2 - lower ** 2 + reach ** 2) / (2 * reach)
    h = math.sqrt(max(upper ** 2 - a ** 2, 0.0))
    across = torch.stack((-along[1], along[0]))
    both = [root + along * a + side * h * across for side in (1, -1)]
    middle = min(both, key=lambda each: strangeness(chain, root, each, end) + 0.2 * float((each - middle).norm()))
    return torch.stack((root, middle, end))


def turn(points: Tensor, about: Tensor, angle: float) -> Tensor:
    """Points (N, 2) turned about a point (2,), in radians, clockwise as seen on the picture."""
    cos, sin = math.cos(angle), math.sin(angle)
    return (points - about) @ torch.tensor([[cos, sin], [-sin, cos]]) + about


def _angle(old: Tensor, new: Tensor) -> float:
    angle = math.atan2(float(new[1]), float(new[0])) - math.atan2(float(old[1]), float(old[0]))
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _moved(name: str, joint: int, joints: Tensor, way: Tensor, held: bool = False) -> Tensor:
    """The joints (14, 2) once the part `name` has been moved by `joint`, which was to go by `way` (2,). Where the middle of a
    limb is `held` by an arrow of its own, its end turns about that."""
    goal = joints.clone()
    if name == "body":
        return goal + way
    if name == "head" or held:
        root = INDEX["neck"] if name == "head" else CHAINS[name][1]
        most = math.radians(NOD) if name == "head" else math.pi
        angle = _angle(joints[joint] - joints[root], joints[joint] + way - joints[root])
        goal[joint] = turn(joints[[joint]], joints[root], min(max(angle, -most), most))[0]
        return goal
    chain = list(CHAINS[name])
    if joint == chain[2]:
        goal[chain] = bend(name, joints[chain], joints[joint] + way)
    else:
        root = joints[chain[0]]
        goal[chain] = turn(joints[chain], root, _angle(joints[joint] - root, joints[joint] + way - root))
    return goal


def _points(name: str, joints: Tensor) -> Tensor:
    """Points (N, 2) of a part, the same ones for the joints before and after."""
    neck, head = joints[INDEX["neck"]], joints[INDEX["head"]]
    up = head - neck
    side = torch.stack((-up[1], up[0]))
    face = torch.stack((head, head + 0.75 * up, head + 0.55 * side, head - 0.55 * side))
    if name == "head":
        return face
    if name == "body":
        tips = [torch.lerp(joints[middle], joints[end], 1.14)[None] for _, middle, end in CHAINS.values()]
        return torch.cat((joints, face[1:], *tips))
    root, middle, end = joints[list(CHAINS[name])]
    return torch.stack((end, middle, (middle + end) / 2, (root + middle) / 2))


# ---------------------------------------------------------------------------------------------- taking hold

@declared
def grab(head: ReadoutHead, pose: ReadoutHead, source: Source, handles: Points, targets: Points, amount: Fraction = 1.0) -> Hold:
    """What these arrows take hold of, see above; `amount` of the way, along the arc that a limb turns on.

    Args:
        head: a correspondence head.
        pose: a pose head.
        source: the picture to edit, as for `editing.drag`.
        handles, targets: (N, 2) each: where the arrows start and end. One without a length pins its point. Several work
            together: the body first, then limbs, of a limb the elbow or knee first.
    Raises ValueError for points outside the picture, or where nothing has a length.
    """
    check_reads(head, "correspondence")
    check_is_pose(pose)
    check_source_is_one(source)
    head.check(source.model)
    height, width = source.image_size
    check_pairs(handles, targets, 1.0)
    both = torch.stack((handles, targets), 1)                                           # (N, 2, 2)
    check_inside(both.flatten(0, 1), source.image_size, "an arrow")
    way, pins = targets - handles, _pins(handles, targets)
    joints = source_joints(pose, source)
    parts, kinds, words = [part_at(point, joints) for point in handles], [""] * len(handles), [""] * len(handles)
    low, high = EDGE, torch.tensor([width - EDGE, height - EDGE])
    goal, reached, taken, things = joints, targets.clone(), {}, {}
    beaten, last = {}, {part: i for i, part in enumerate(parts) if not pins[i]}             # of two arrows on one part the later one decides
    differ = lambda one, other: float((way[one] - way[other]).norm()) > TOLD                # of the whole way, whatever the amount
    order = {"body": 0, "head": 1, "": 3}
    for i in sorted(range(len(parts)), key=lambda i: (order.get(parts[i][0], 2), parts[i][1])):
        name, joint = parts[i]
        if pins[i]:
            kinds[i], words[i] = "pin", f"arrow {i + 1} has no length: its point stays where it is"
        elif name and differ(i, last[name, joint]):
            kinds[i], beaten[i] = name, last[name, joint]
        elif name:
            asked = joints[joint] + amount * way[i]
            held = name in CHAINS and joint == CHAINS[name][2] and CHAINS[name][1] in taken.get(name, ())
            for part in torch.linspace(1, 0, 21):                           # as far as all of it stays in the picture
                new = _moved(name, joint, goal, part * (asked - goal[joint]), held)
                if _inside(_points(name, new), low, high) or not _inside(_points(name, goal), low, high):
                    break
            kinds[i], goal, reached[i] = name, new, handles[i] + new[joint] - joints[joint]
            taken.setdefault(name, []).append(joint)
            strange = strangeness(name, *new[list(CHAINS[name])]) if name in CHAINS else 0.0
            words[i] = _say(i + 1, name, joint, float((new[joint] - asked).norm()), strange)
        else:
            kinds[i], start, end, words[i] = _thing(i + 1, head, source, joints, handles[i], amount * way[i], low, high)
            for other in list(things):
                if kinds[i] == kinds[other] == "prop" and _overlap(start, things[other][0]):
                    beaten[other] = i
                    del things[other]
            things[i] = start, end
            reached[i] = handles[i] + end[0] - start[0]
    for i, other in beaten.items():
        reached[i] = handles[i] + reached[other] - handles[other]
        if differ(i, other):
            words[i] = f"arrow {i + 1} holds what arrow {other + 1} holds, too, and that decides where it goes: take one of them away"
    names = ["body"] if "body" in taken else list(taken)
    roots = sorted({CHAINS[name][0] if name in CHAINS else INDEX["neck"] for name in names if name != "body"})
    start, end = (torch.cat(each) for each in zip(*((_points(name, joints), _points(name, goal)) for name in names), *things.values()))
    stays = handles[pins]
    kept = (start >= 0).all(-1) & (start <= torch.tensor([width, height])).all(-1)      # a hat may end above the picture
    if len(stays):
        kept &= torch.cdist(start, stays).amin(1) > NEAR
    if not kept.any():
        raise ValueError("every point that the arrows take hold of is pinned, so there is nothing to move; take away the arrows without a length")
    drawn = torch.stack((handles, reached), 1)[~pins].flatten(0, 1)
    limit = torch.tensor([width, height])
    return Hold(tuple(kinds), start[kept], end[kept].clamp(min=0).minimum(limit), torch.cat((joints[roots], stays)),
                ". ".join(words) + ".", drawn, joints, goal.clamp(min=0).minimum(limit))


def _pins(handles: Tensor, targets: Tensor) -> Tensor:
    """(N,) bool: the arrows without a length. ValueError where that is all of them."""
    pins = (targets - handles).norm(dim=-1) < 0.5
    if pins.all():
        raise ValueError("no arrow has a length, so there is nothing to move; draw at least one from what is to move to where it shall go")
    return pins


def _overlap(spots: Tensor, others: Tensor) -> bool:
    """Whether points (N, 2) and (M, 2), spread over a thing each, lie on the same one."""
    return float(torch.cdist(spots, others).amin(1).median()) < SPACING


def _inside(points: Tensor, low: float, high: Tensor) -> bool:
    return bool((points >= low).all() and (points <= high).all())


def _thing(number: int, head, source, joints, handle, way, low, high) -> tuple[str, Tensor, Tensor, str]:
    """What an arrow beside the puppet takes hold of: its kind, points (N, 2) before and after, words."""
    spots = outline(head, source, handle, joints)
    if spots is None:
        return "point", handle[None], (handle + way)[None], (
            f"arrow {number} starts beside the puppet and any prop: it moves its one point alone, which may leave scraps; start it on "
            "what is to move")
    points = _spread(spots)
    for part in torch.linspace(1, 0, 21):                                   # its middle stays in the picture
        if _inside(points[:1] + part * way, low, high):
            break
    room = ((points + part * way >= low) & (points + part * way <= high)).all(-1)
    room[0] = True
    words = f"arrow {number} takes the whole thing along that it starts on"
    if (1 - part) * way.norm() > TOLD:
        words += f", {float((1 - part) * way.norm()):.0f} pixels less far than asked for, or it would leave the picture"
    return "prop", points[room], points[room] + part * way, words


def _say(number: int, name: str, joint: int, short: float, strange: float) -> str:
    """A sentence for the user, without its full stop."""
    if name == "body":
        words = f"arrow {number} takes the whole puppet along"
    elif name == "head":
        words = f"arrow {number} turns the head about the neck"
    else:
        root, middle, end = CHAINS[name]
        how = "both of its bones turn" if joint == end else "it turns as it is"
        words = f"arrow {number} holds the {name} by the {world.JOINTS[joint].split('_')[1]}: {how}, the {world.JOINTS[root].split('_')[1]} stays"
    if short > TOLD:
        words += f", and it ends {short:.0f} pixels short of the arrow, as far as it reaches"
    if strange > STRANGE:
        words += ", in a pose that no puppet of this world takes, so it may come out badly"
    return words


# ---------------------------------------------------------------------------------------------- what came of it

@torch.no_grad()
@declared
def outcome(head: ReadoutHead, pose: ReadoutHead, source: Source, picture, hold: InstanceOf[Hold]) -> Outcome:
    """What came of a drag, by the readouts themselves: how far each arrow's handle is from its target, whether every joint is
    found as surely as in the source, whether every limb is as long as before; and what to do where not.

    Args:
        head: a correspondence head.
        pose: a pose head.
        source: the picture before.
        picture: (1, 3, H, W) or (3, H, W) in [0, 1], the picture after.
        hold: what was held, from `grab` or `bare`.
    Raises ValueError for more than one picture, or one of another size, and for other heads.
    """
    check_reads(head, "correspondence")
    check_reads(pose, "pose")
    check_source_is_one(source)
    picture = as_pictures(picture, "picture")
    if len(picture) != 1 or tuple(picture.shape[-2:]) != tuple(source.image_size):
        raise ValueError(f"picture has shape {tuple(picture.shape)}: pass the one picture after the drag, (1, 3, {source.image_size[0]}, "
                         f"{source.image_size[1]})")
    timestep = reading_timestep(source)
    after = Source.from_picture(source.model, picture, generator=torch.Generator().manual_seed(0))
    after.conditioning = source.conditioning                                            # as the source is read
    before, now = source(timestep), after(timestep)
    (joints, sure), (found, peak) = (tuple(each[0].cpu() for each in read_joints(reading(pose))) for reading in (before, now))
    missing = tuple(name for name, was, is_now in zip(world.JOINTS, sure, peak) if is_now < FAINT * was)
    lengths = {_limb_name(a, b): float((found[a] - found[b]).norm() / (joints[a] - joints[b]).norm().clamp_min(1e-6)) for a, b in world.LIMBS}
    pairs = hold.arrows.view(-1, 2, 2)
    moving = {i: kind for i, kind in enumerate(hold.what, 1) if kind != "pin"}              # by their numbers
    off, way = [], []
    for kind, (start, end) in zip(moving.values(), pairs):
        name, joint = part_at(start, joints)
        if kind == "body":
            gap = float((found - hold.goal).norm(dim=-1).median())
        elif kind in ("prop", "point") and name in ("", "body"):
            near = (hold.targets - hold.handles - end + start).norm(dim=-1) < 1.0       # what goes with this arrow
            points = hold.handles[near] if near.any() else start[None]
            size = (source.image_size[1])
            matched = match_points(before(head), now(head), points[None].to(before.latents.device), size)[0].cpu()
            gap = float((matched - points - end + start).norm(dim=-1).median())
        else:
            gap = float((found[joint] - joints[joint] - end + start).norm())
        off.append(gap), way.append(float((end - start).norm()))
    return Outcome(*_judged(list(moving), off, way, lengths, missing, loose="point" in hold.what))


@declared
def bare(pose: ReadoutHead, source: Source, handles: Points, targets: Points, fixed: AnyPoints | None = None) -> Hold:
    """A `Hold` of the arrows as they are, which take hold of nothing but their own points, for `outcome`; one without a length
    pins its point, as do those of `fixed`."""
    as_many(handles, targets)
    check_pairs(handles, targets, 1.0)
    pins, joints = _pins(handles, targets), source_joints(pose, source)
    stays = handles[pins] if fixed is None else torch.cat((handles[pins], fixed.to(handles)))
    what, handles, targets = tuple("pin" if pin else "point" for pin in pins.tolist()), handles[~pins], targets[~pins]
    return Hold(what, handles, targets, stays, "Each arrow moves its one point alone.",
                torch.stack((handles, targets), 1).flatten(0, 1), joints, gone_along(joints, handles, targets))


def _limb_name(a: int, b: int) -> str:
    return f"{world.JOINTS[a]} to {world.JOINTS[b]}".replace("_", " ")


def _judged(numbers, off, way, lengths, missing, loose) -> tuple:
    """The fields of an `Outcome`, of arrows with these numbers; `loose` where an arrow holds nothing but its own point."""
    worst = max(lengths, key=lambda name: abs(lengths[name] - 1))
    torn = {name: value for name, value in lengths.items() if abs(value - 1) > STRETCH}
    far = [i for i, (gap, length) in enumerate(zip(off, way)) if gap > max(OFF, length / 4)]
    words = [f"arrow {i}: what it holds is {gap:.0f} pixels off its target, of {length:.0f}" for i, gap, length in zip(numbers, off, way)]
    words.append(f"not found as surely as before: {', '.join(name.replace('_', ' ') for name in missing)}" if missing else "every joint is found")
    words.append(f"{worst} has {lengths[worst]:.0%} of its length" if torn else "every limb is as long as before")
    remedy = []
    if missing or torn:
        remedy.append("another seed of the drag is another try; a shorter way, or the whole limb instead of single points, tears less")
    if far and loose:
        remedy.append("let the arrow take hold of more than its own point: start it on what is to move, and grab that")
    elif far:
        remedy.append("go a shorter way, or let it be guided longer (a larger `stop`, more steps)")
    return not (far or torn or missing), tuple(off), tuple(way), lengths, missing, bool(far), bool(torn), "; ".join(words) + ".", "; ".join(remedy)
