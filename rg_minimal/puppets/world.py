"""A world of puppets: an endless, seeded, procedural data set with exact ground truth.

A `Scene` is plain data (a puppet, its pose, a background, a prop). `render` turns a list of scenes into pictures,
depth, edges, parts, masks and joints in one vectorised pass: every solid is a *tapered capsule* (a segment with a
radius at each end), drawn as a signed distance field with one pixel of anti-aliasing. Because each pixel knows which
capsule it belongs to and where on it, two pictures of one puppet can be matched exactly (`correspondences`).

Conventions: pictures are (B, 3, H, W) in [0, 1], 128 x 128; points are (x, y) in pixels of the image, y down, the
centre of the top-left pixel is (0.5, 0.5); depth is in [0, 1] and *larger is nearer* (1 nearest, 0 the sky);
left and right are the puppet's own (it faces the viewer, so its left hand is on the right of the picture).
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Iterator, Literal, Sequence

import torch
from pydantic import InstanceOf
from torch import Tensor

from ..checks import Count, Declared, Index, Number, Positive, Random, Seed, SeedOrGenerator, declared, some_of

SIZE = 128                     # height and width of every picture, in pixels
HELD_OUT = 1_000_000_000       # seeds from here on are never used for training

JOINTS = ("head", "neck", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
          "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle")
LIMBS = ((0, 1), (1, 2), (1, 3), (2, 4), (4, 6), (3, 5), (5, 7), (1, 8), (1, 9), (8, 10), (10, 12), (9, 11), (11, 13))
COLOURS = {"red": (0.86, 0.13, 0.15), "orange": (0.97, 0.52, 0.10), "yellow": (0.97, 0.84, 0.16),
           "green": (0.16, 0.62, 0.24), "blue": (0.14, 0.33, 0.86), "purple": (0.55, 0.22, 0.74),
           "white": (0.96, 0.96, 0.95), "black": (0.13, 0.13, 0.15)}
SKINS = {"pale": (0.98, 0.83, 0.71), "tan": (0.80, 0.58, 0.40), "dark": (0.42, 0.27, 0.18)}
ACTIONS = ("standing", "walking", "waving", "pointing", "cheering", "jumping")
PROPS = ("none", "tree", "ball", "house")
# background: sky at the top, sky at the horizon, ground at the horizon, ground at the bottom, ambient light
BACKGROUNDS = {"meadow": ((0.42, 0.70, 0.96), (0.78, 0.90, 1.00), (0.45, 0.72, 0.36), (0.30, 0.58, 0.24), 1.00),
               "beach": ((0.35, 0.68, 0.98), (0.80, 0.93, 1.00), (0.93, 0.86, 0.65), (0.99, 0.93, 0.76), 1.00),
               "desert": ((0.98, 0.73, 0.47), (1.00, 0.88, 0.68), (0.82, 0.56, 0.32), (0.93, 0.69, 0.43), 1.00),
               "snow": ((0.70, 0.79, 0.90), (0.89, 0.93, 0.97), (0.86, 0.90, 0.95), (0.98, 0.99, 1.00), 1.00),
               "night": ((0.07, 0.08, 0.26), (0.27, 0.25, 0.48), (0.16, 0.24, 0.32), (0.10, 0.16, 0.22), 0.86),
               "street": ((0.66, 0.68, 0.74), (0.84, 0.85, 0.88), (0.50, 0.50, 0.54), (0.40, 0.40, 0.45), 0.97)}
_PLACE = {"meadow": "in a meadow", "beach": "on a beach", "desert": "in a desert", "snow": "in the snow",
          "night": "at night", "street": "on a street"}
LOOKS = ("skin", "shirt", "trousers", "hat")          # the attributes that make a puppet this one, whatever it does
ATTRIBUTES = {"skin": tuple(SKINS), "shirt": tuple(COLOURS), "trousers": tuple(COLOURS),
              "hat": ("none", *COLOURS), "action": ACTIONS, "background": tuple(BACKGROUNDS), "prop": PROPS}

# Parts, the values of the part-label map. 0 and 1 are the world, 2 the prop, from 3 on the puppet.
PARTS = ("sky", "ground", "prop", "torso", "neck", "head", "hat", "left_upper_arm", "left_forearm", "left_hand",
         "right_upper_arm", "right_forearm", "right_hand", "pelvis", "left_thigh", "left_shin", "left_foot",
         "right_thigh", "right_shin", "right_foot")
PART = {name: index for index, name in enumerate(PARTS)}


# ---------------------------------------------------------------------------------------------- scenes as data

Skin, Colour, Action = Literal[tuple(SKINS)], Literal[tuple(COLOURS)], Literal[ACTIONS]
Background, Prop, Side = Literal[tuple(BACKGROUNDS)], Literal[PROPS], Literal["left", "right"]


@dataclass(frozen=True)
class Limb(Declared):
    """One arm or leg. Angles in degrees: `swing` from hanging straight down (0) outwards (90 horizontal, 180 up),
    `bend` is added to it below the elbow or knee, `towards` tilts the lower half towards the viewer."""
    swing: Number
    bend: Number = 0.0
    towards: Number = 0.0


@dataclass(frozen=True)
class Pose(Declared):
    """A pose: lean of the body and tilt of the head in degrees (positive to the right of the picture), four limbs,
    and how far the feet are off the ground (in body heights)."""
    left_arm: InstanceOf[Limb]
    right_arm: InstanceOf[Limb]
    left_leg: InstanceOf[Limb]
    right_leg: InstanceOf[Limb]
    lean: Number = 0.0
    tilt: Number = 0.0
    lift: Number = 0.0


@dataclass(frozen=True)
class Puppet(Declared):
    """A puppet's body (lengths in body heights) and looks (names of `SKINS` and `COLOURS`, hat or None)."""
    skin: Skin = "tan"
    shirt: Colour = "red"
    trousers: Colour = "blue"
    hat: Colour | None = None
    torso: Positive = 0.285
    arm: Positive = 0.40
    leg: Positive = 0.46
    shoulders: Positive = 0.215
    hips: Positive = 0.115
    head: Positive = 0.098
    girth: Positive = 1.0


@dataclass(frozen=True)
class Scene(Declared):
    """Everything a picture shows. `size` is the puppet's height in pixels, `x` and `y` the pixel its feet stand on."""
    puppet: InstanceOf[Puppet]
    pose: InstanceOf[Pose] | None        # None where only looks matter: such a scene cannot be rendered
    action: Action = "standing"
    side: Side | None = None             # which hand waves or points
    background: Background = "meadow"
    horizon: Number = 80.0               # row of the horizon, in pixels
    sun_x: Number = 100.0                # column of the sun or moon, in pixels
    prop: Prop = "none"
    prop_colour: Colour = "red"          # of a ball
    prop_x: Number = 20.0
    prop_y: Number = 105.0
    prop_size: Positive = 1.0
    size: Positive = 88.0
    x: Number = 64.0
    y: Number = 116.0

    def __post_init__(self):
        super().__post_init__()
        if self.side is None and self.action in ("waving", "pointing"):
            raise ValueError(f"side is None, but the action is {self.action}: pass 'left' or 'right', the hand that does it")

    @property
    def caption(self) -> str:
        """Plain English that names every visible fact."""
        return caption(self)

    @property
    def attributes(self) -> dict[str, str]:
        """The facts that the judge measures, keys and values as in `ATTRIBUTES`."""
        return {"skin": self.puppet.skin, "shirt": self.puppet.shirt, "trousers": self.puppet.trousers,
                "hat": self.puppet.hat or "none", "action": self.action, "background": self.background,
                "prop": self.prop}


@declared
def caption(scene: Scene, named: some_of(ATTRIBUTES) = tuple(ATTRIBUTES)) -> str:
    """Describe a scene, naming only the facts in `named` (keys of `ATTRIBUTES`; all of them by default)."""
    puppet, words = scene.puppet, ["a puppet"]
    if "skin" in named:
        words.append(f"with {puppet.skin} skin")
    clothes = [f"a {puppet.shirt} shirt"] * ("shirt" in named) + [f"{puppet.trousers} trousers"] * ("trousers" in named)
    if "hat" in named and puppet.hat:
        clothes.append(f"a {puppet.hat} hat")
    if clothes:
        words.append("in " + " and ".join(clothes))
    if "action" in named:
        hand = {"waving": " its {} hand", "pointing": " with its {} hand"}.get(scene.action, "")
        words.append(f"is {scene.action}{hand.format(scene.side)}")
    if "background" in named:
        words.append(_PLACE[scene.background])
    if "prop" in named and scene.prop != "none":
        colour = f"{scene.prop_colour} " if scene.prop == "ball" else ""
        words.append(f"next to a {colour}{scene.prop}")
    return " ".join(words).replace("a orange", "an orange")


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    text = set("a an puppet with skin in and is its left right hand the on at next to shirt trousers hat".split())
    text |= {*SKINS, *COLOURS, *ACTIONS, *PROPS[1:]}
    text |= {word for place in _PLACE.values() for word in place.split()}
    return sorted(text)


# ---------------------------------------------------------------------------------------------- random scenes

def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=rng).item()


def _choice(rng: torch.Generator, options: Sequence):
    return options[int(torch.randint(len(options), (), generator=rng))]


@declared
def sample_puppet(rng: Random) -> Puppet:
    """A random puppet: looks from the named colours (shirt and trousers differ), proportions within 8 to 12 %."""
    u = lambda value, spread=0.08: value * _uniform(rng, 1 - spread, 1 + spread)
    shirt = _choice(rng, tuple(COLOURS))
    trousers = _choice(rng, [c for c in COLOURS if c != shirt])
    hat = _choice(rng, tuple(COLOURS)) if _uniform(rng, 0, 1) < 0.5 else None
    return Puppet(_choice(rng, tuple(SKINS)), shirt, trousers, hat, u(0.285), u(0.40), u(0.46), u(0.215, 0.1),
                  u(0.115), u(0.098), u(1.0, 0.12))


@declared
def sample_pose(rng: torch.Generator, action: Action) -> tuple[Pose, str | None]:
    """A random pose of the given action, and the side ("left" / "right") that waves or points, else None.

    Raises ValueError for an action that is not in `ACTIONS`.
    """
    u = lambda low, high: _uniform(rng, low, high)
    rest = lambda: Limb(u(8, 24), u(-22, 4), u(0, 25))
    stand = lambda: Limb(u(3, 10), u(-6, 3))
    side = _choice(rng, ("left", "right")) if action in ("waving", "pointing") else None
    lift, lean, arms, legs = 0.0, u(-4, 4), [rest(), rest()], [stand(), stand()]
    if action == "walking":
        lead = _choice(rng, (0, 1))                                  # the leading leg, 0 left, 1 right
        legs[lead], legs[1 - lead] = Limb(u(22, 36), u(-24, -8)), Limb(u(8, 20), u(14, 34))
        arms[lead], arms[1 - lead] = Limb(u(12, 26), u(-96, -66), u(5, 25)), Limb(u(34, 54), u(4, 34))
        lean = u(3, 8) * (1 if lead == 0 else -1)
    elif action in ("waving", "pointing"):
        up = Limb(u(98, 132), u(30, 62)) if action == "waving" else Limb(u(78, 100), u(-8, 8))
        arms[side == "right"] = up
    elif action == "cheering":
        arms = [Limb(u(132, 162), u(-4, 26)), Limb(u(132, 162), u(-4, 26))]
    elif action == "jumping":
        arms = [Limb(u(58, 108), u(4, 46)), Limb(u(58, 108), u(4, 46))]
        legs = [Limb(u(24, 44), u(-58, -22)), Limb(u(24, 44), u(-58, -22))]
        lift = u(0.08, 0.16)
    return Pose(*arms, *legs, lean, u(-8, 8), lift), side


@declared
def sample_scene(seed: SeedOrGenerator, puppet: InstanceOf[Puppet] | None = None, action: Action | None = None) -> Scene:
    """One random scene; the same seed gives the same scene. `puppet` and `action` fix what they name.

    Everything is placed so that all joints lie inside the picture.
    """
    rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    u = lambda low, high: _uniform(rng, low, high)
    puppet = puppet or sample_puppet(rng)
    action = action or _choice(rng, ACTIONS)
    pose, side = sample_pose(rng, action)
    scene = Scene(puppet, pose, action, side, _choice(rng, tuple(BACKGROUNDS)), u(74, 90), u(14, 114),
                  prop_colour=_choice(rng, tuple(COLOURS)), prop_size=u(0.9, 1.15), size=u(76, 100), x=0.0, y=u(113, 120))
    scene = _fit(scene, u(0, 1))
    if u(0, 1) < 0.75:
        side_of = 1 if u(0, 1) < (SIZE - scene.x) / SIZE else -1        # more often where there is more room
        offset = side_of * u(26, 46)
        prop_x = scene.x + offset if 13 <= scene.x + offset <= SIZE - 13 else scene.x - offset
        prop = _choice(rng, PROPS[1:])
        prop_y = scene.y + u(-6, 1) if prop == "ball" else u(scene.horizon + 6, scene.y - 4)
        scene = replace(scene, prop=prop, prop_x=min(max(prop_x, 10.0), SIZE - 10.0), prop_y=prop_y)
    return scene


def _fit(scene: Scene, where: float, margin: float = 6.0) -> Scene:
    """Shrink the puppet until it fits, and put it at the fraction `where` of the columns that hold all of it."""
    across, down, _ = zip(*_body(scene.puppet, scene.pose))
    left, top, right = torch.tensor([min(across), min(down), max(across)]).tolist()                      # rounded to float32
    top -= 0.11 if scene.puppet.hat else 0.09                        # the top of the head is above the joint
    size = min(scene.size, (scene.y - 3) / -top, (SIZE - 2 * margin) / (right - left))
    low, high = margin - left * size, SIZE - margin - right * size
    return replace(scene, size=size, x=low + (high - low) * (0.15 + 0.7 * where))


@declared
def sample_scenes(count: Count, seed: Seed = 0) -> list[Scene]:
    """`count` random scenes; scene i depends on `seed + i` alone. Seeds from `HELD_OUT` on are for tests."""
    return [sample_scene(seed + i) for i in range(count)]


@declared
def training_caption(scene: Scene, rng: Random) -> str:
    """The full caption four times of five, else one that leaves out each fact with probability one half."""
    if _uniform(rng, 0, 1) < 0.8:
        return caption(scene)
    return caption(scene, [name for name in ATTRIBUTES if _uniform(rng, 0, 1) < 0.5])


# ---------------------------------------------------------------------------------------------- geometry

def skeleton(scene: Scene) -> list[tuple[float, float, float]]:
    """The 14 joints of a scene as (x, y, z): x and y in pixels of the image, z in pixels towards the viewer,
    relative to the ground that the puppet stands on. Order as in `JOINTS`."""
    left, top, size = scene.x, scene.y, scene.size
    return [(left + size * x, top + size * y, size * z) for x, y, z in _body(scene.puppet, scene.pose)]


def _body(p: Puppet, pose: Pose) -> list[tuple[float, float, float]]:
    """The same in body heights, from the spot that the puppet stands on."""
    lean, tilt = math.radians(pose.lean), math.radians(pose.lean + pose.tilt)
    neck = (p.torso * math.sin(lean), -p.torso * math.cos(lean), 0.0)
    head = (neck[0] + 0.145 * math.sin(tilt), neck[1] - 0.145 * math.cos(tilt), 0.01)
    joints: dict[str, tuple[float, float, float]] = {"head": head, "neck": neck}
    for side, sign in (("left", 1), ("right", -1)):                  # the puppet's left is on the picture's right
        half = sign * p.shoulders / 2
        shoulder = (neck[0] + half * math.cos(lean) - 0.035 * math.sin(lean),
                    neck[1] + half * math.sin(lean) + 0.035 * math.cos(lean), 0.0)
        hip = (sign * p.hips / 2, 0.0, 0.0)
        joints[f"{side}_shoulder"], joints[f"{side}_hip"] = shoulder, hip
        arm, leg = getattr(pose, f"{side}_arm"), getattr(pose, f"{side}_leg")
        joints[f"{side}_elbow"], joints[f"{side}_wrist"] = _two_bones(shoulder, arm, sign, p.arm * 0.50, p.arm * 0.50, 0.05)
        joints[f"{side}_knee"], joints[f"{side}_ankle"] = _two_bones(hip, leg, sign, p.leg * 0.51, p.leg * 0.49, 0.01)
    lowest = max(joints["left_ankle"][1], joints["right_ankle"][1]) + 0.035 + pose.lift
    return [(x, y - lowest, z) for x, y, z in (joints[name] for name in JOINTS)]


def _two_bones(start, limb: Limb, sign: int, upper: float, lower: float, forward: float):
    """The middle and end joint of a limb that starts at `start`; each bone also comes `forward` a little."""
    swing, low, towards = (math.radians(a) for a in (limb.swing, limb.swing + limb.bend, limb.towards))
    middle = (start[0] + sign * upper * math.sin(swing), start[1] + upper * math.cos(swing), start[2] + forward)
    reach = lower * math.cos(towards)
    return middle, (middle[0] + sign * reach * math.sin(low), middle[1] + reach * math.cos(low),
                    middle[2] + forward + lower * math.sin(towards))


_FIELDS = 13      # a capsule: start x, y, z; end x, y, z; radius at start, at end; r, g, b; part; decal (1 paints only)


def _capsules(scene: Scene) -> list[list[float]]:
    """All capsules of a scene, puppet first, then the prop; positions in pixels, z towards the viewer."""
    p, s = scene.puppet, scene.size
    joint = dict(zip(JOINTS, skeleton(scene)))
    skin, shirt, trousers = SKINS[p.skin], COLOURS[p.shirt], COLOURS[p.trousers]
    shoe, g = (0.20, 0.14, 0.11), s * p.girth
    mix = lambda a, b, w: tuple(x + (y - x) * w for x, y in zip(a, b))
    shift = lambda a, dx, dy, dz=0.0: (a[0] + dx, a[1] + dy, a[2] + dz)
    cap = lambda a, b, ra, rb, colour, part, decal=0.0: [*a, *b, ra, rb, *colour, float(PART[part]), decal]
    neck, head = joint["neck"], joint["head"]
    pelvis = mix(joint["left_hip"], joint["right_hip"], 0.5)
    up = ((head[0] - neck[0]) / (0.145 * s), (head[1] - neck[1]) / (0.145 * s))      # unit vector along the head
    right = (-up[1], up[0])
    at = lambda a, b, dz: (head[0] + s * (a * right[0] + b * up[0]), head[1] + s * (a * right[1] + b * up[1]), head[2] + dz)
    out = [cap(mix(neck, pelvis, 0.24), mix(neck, pelvis, 0.84), 0.088 * g, 0.066 * g, shirt, "torso"),
           cap(pelvis, shift(pelvis, 0, 0.01 * s), 0.074 * g, 0.070 * g, trousers, "pelvis"),
           cap(shift(neck, 0, 0.02 * s), mix(neck, head, 0.6), 0.034 * g, 0.032 * g, skin, "neck"),
           cap(at(0, -0.012, 0), at(0, 0.012, 0), p.head * s * 0.92, p.head * s, skin, "head")]
    dark = (0.10, 0.07, 0.06)
    for a in (-0.036, 0.036):
        out.append(cap(at(a, 0.014, 0), at(a, 0.026, 0), 0.0165 * s, 0.0165 * s, dark, "head", 1.0))
    for a in (-0.034, 0.034):                                        # a smile is two strokes
        out.append(cap(at(a, -0.032, 0), at(0, -0.050, 0), 0.0095 * s, 0.0095 * s, (0.55, 0.16, 0.14), "head", 1.0))
    for side, sign in (("left", 1), ("right", -1)):
        shoulder, elbow, wrist = (joint[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (joint[f"{side}_{n}"] for n in ("hip", "knee", "ankle"))
        hand = mix(elbow, wrist, 1.14)
        out += [cap(shoulder, elbow, 0.047 * g, 0.039 * g, shirt, f"{side}_upper_arm"),
                cap(elbow, wrist, 0.035 * g, 0.028 * g, skin, f"{side}_forearm"),
                cap(wrist, hand, 0.036 * g, 0.034 * g, skin, f"{side}_hand"),
                cap(hip, knee, 0.062 * g, 0.048 * g, trousers, f"{side}_thigh"),
                cap(knee, ankle, 0.047 * g, 0.036 * g, trousers, f"{side}_shin"),
                cap(ankle, shift(ankle, sign * 0.05 * s, 0.012 * s, 0.03 * s), 0.040 * g, 0.034 * g, shoe, f"{side}_foot")]
    if p.hat:
        colour = COLOURS[p.hat]
        out += [cap(at(-0.085, 0.062, 2), at(0.085, 0.062, 2), 0.024 * s, 0.024 * s, colour, "hat"),
                cap(at(0, 0.075, 1), at(0, 0.125, 1), 0.075 * s, 0.058 * s, colour, "hat")]
    return out + _prop_capsules(scene)


def _prop_capsules(scene: Scene) -> list[list[float]]:
    """The prop's capsules; its z says how far behind (or before) the puppet it stands."""
    x, y, k = scene.prop_x, scene.prop_y, scene.prop_size
    z = 2.0 * (y - scene.y)
    colour, part = COLOURS[scene.prop_colour], float(PART["prop"])
    cap = lambda ax, ay, bx, by, ra, rb, c, dz=0.0: [x + k * ax, y + k * ay, z + dz, x + k * bx, y + k * by, z + dz,
                                                   k * ra, k * rb, *c, part, 0.0]
    if scene.prop == "ball":
        return [cap(0, -8, 0, -8, 8, 8, colour)]
    if scene.prop == "tree":
        leaf = (0.13, 0.45, 0.20)
        return [cap(0, -1, 0, -26, 3.4, 2.6, (0.42, 0.26, 0.15)), cap(0, -32, 0, -48, 13.5, 9.5, leaf, 2)]
    if scene.prop == "house":
        wall, roof, door = (0.93, 0.87, 0.74), (0.72, 0.22, 0.17), (0.36, 0.21, 0.13)
        return [cap(-7, -20, 7, -20, 8, 8, wall), cap(-8, -7, 8, -7, 7, 7, wall, 1),
                cap(0, -27, 0, -46, 18, 1.5, roof, -9), cap(0, -4, 0, -11, 3.8, 3.8, door, 6)]
    return []


# ---------------------------------------------------------------------------------------------- rendering

@dataclass
class Frames:
    """What `render` returns for B scenes. Points are (x, y) in pixels of the image."""
    scenes: list[Scene]
    image: Tensor       # (B, 3, H, W) colours in [0, 1]
    depth: Tensor       # (B, 1, H, W) in [0, 1], larger is nearer, the sky is 0
    edges: Tensor       # (B, 1, H, W) 1 on the borders between parts and at jumps of depth, else 0
    parts: Tensor       # (B, H, W) int64, index into PARTS
    mask: Tensor        # (B, 1, H, W) bool, True on the puppet
    joints: Tensor      # (B, 14, 2) (x, y) in pixels, order as in JOINTS
    visible: Tensor     # (B, 14) bool, False where something hides the joint
    capsule: Tensor = field(repr=False)     # (B, H, W) int64, which capsule of the scene a pixel shows, -1 for none
    geometry: Tensor = field(repr=False)    # (B, N, 13) the capsules, for exact correspondence

    def __len__(self) -> int:
        return len(self.scenes)


@declared
def render(scenes: Scene | Sequence[Scene], chunk: Count = 8) -> Frames:
    """Render scenes to 128 x 128 pictures with all ground truth, on the CPU, deterministically.

    Args:
        scenes: one scene or a sequence of them.
        chunk: how many are drawn at once; it changes the speed, not the pixels.
    Raises:
        ValueError: for an empty sequence or something that is not a Scene.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    if not scenes or not all(isinstance(scene, Scene) and scene.pose for scene in scenes):
        raise ValueError("render takes a Scene or a non-empty sequence of Scene, each with a pose, see sample_scenes")
    pieces = [_render_chunk(scenes[i:i + chunk]) for i in range(0, len(scenes), chunk)]
    width = max(piece["geometry"].shape[1] for piece in pieces)
    for piece in pieces:
        missing = width - piece["geometry"].shape[1]
        piece["geometry"] = torch.nn.functional.pad(piece["geometry"], (0, 0, 0, missing))
    return Frames(scenes, **{key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]})


def _pack(scenes: Sequence[Scene]) -> Tensor:
    """The capsules of all scenes as one tensor (B, N, 13), padded with capsules of negative radius."""
    rows = [_capsules(scene) for scene in scenes]
    width = max(map(len, rows))
    nothing = [0.0] * 6 + [-1e4, -1e4] + [0.0] * 5
    return torch.tensor([row + [nothing] * (width - len(row)) for row in rows])


def _world(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sky, ground, sun and shadows: image (B, 3, H, W), z of the ground (B, H, W), parts, ambient light (B,)."""
    column = lambda values: torch.tensor(values, dtype=torch.float32)
    look = [BACKGROUNDS[scene.background] for scene in scenes]
    top, low, far, near = (column([l[i] for l in look])[:, :, None, None] for i in range(4))        # (B, 3, 1, 1)
    ambient = column([l[4] for l in look])
    grid = torch.arange(SIZE) + 0.5
    y, x = grid[None, None, :, None], grid[None, None, None, :]
    read = lambda name: column([getattr(scene, name) for scene in scenes])[:, None, None, None]
    horizon = read("horizon")
    sky = top + (low - top) * (y / horizon).clamp(0, 1)
    ground = far + (near - far) * ((y - horizon) / (SIZE - horizon)).clamp(0, 1)
    sea = column([[0.16, 0.52, 0.78] if scene.background == "beach" else [0.0] * 3 for scene in scenes])[:, :, None, None]
    is_sea = (sea.sum(1, keepdim=True) > 0) * (horizon + 8 - y + 0.5).clamp(0, 1)
    ground = ground + (sea - ground) * is_sea
    night = column([scene.background == "night" for scene in scenes])[:, None, None, None]
    disc = (8.0 - ((x - read("sun_x")) ** 2 + (y - 15) ** 2).sqrt() + 0.5).clamp(0, 1)
    sun = column([1.0, 0.95, 0.62])[None, :, None, None] * (1 - night) + column([0.93, 0.94, 0.86])[None, :, None, None] * night
    sky = sky + (sun - sky) * disc
    for cx, cy, radius, on in ((read("x"), read("y"), read("size") * 0.24, 1.0),
                               (read("prop_x"), read("prop_y"), read("prop_size") * 15, column([s.prop != "none" for s in scenes])[:, None, None, None])):
        shade = (1.3 - (((x - cx) / radius) ** 2 + ((y - cy) / (0.26 * radius)) ** 2).sqrt()).clamp(0, 1)
        ground = ground * (1 - 0.34 * on * shade)
    cover = (y - horizon + 0.5).clamp(0, 1)                           # (B, 1, H, 1)
    z = (2.0 * (y - read("y")) * (y > horizon) + (2.0 * (horizon - read("y"))) * (y <= horizon))[:, 0]
    parts = (y > horizon).long()[:, 0].expand(-1, SIZE, SIZE).clone()
    return sky + (ground - sky) * cover, z.expand(-1, SIZE, SIZE).clone(), parts, ambient


def _render_chunk(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    geometry = _pack(scenes)
    image, z, parts, ambient = _world(scenes)
    capsule = torch.full_like(parts, -1)
    grid = torch.arange(SIZE) + 0.5
    lit = torch.tensor([0.45 if scene.sun_x > scene.x else -0.45 for scene in scenes])[:, None, None]
    # Draw from back to front, so that every anti-aliased border blends with what really lies behind it.
    middle = (geometry[..., 2] + geometry[..., 5]) / 2 + geometry[..., 6:8].amax(-1) * 0.45 + 1e3 * geometry[..., 12]
    order = middle.argsort(dim=1, stable=True)
    for rank in range(geometry.shape[1]):
        index = order[:, rank]
        ax, ay, az, bx, by, bz, ra, rb, r, g, b, part, decal = (
            geometry[torch.arange(len(scenes)), index].T[:, :, None, None])                # each (B, 1, 1)
        reach = (ra.maximum(rb) + 2.0).clamp_min(0)
        rows = _window(torch.minimum(ay, by) - reach, torch.maximum(ay, by) + reach, ra)
        cols = _window(torch.minimum(ax, bx) - reach, torch.maximum(ax, bx) + reach, ra)
        if rows.start >= rows.stop or cols.start >= cols.stop:
            continue
        x, y = grid[cols][None, None, :] - ax, grid[rows][None, :, None] - ay
        dx, dy = bx - ax, by - ay
        along = ((x * dx + y * dy) / (dx * dx + dy * dy).clamp_min(1e-6)).clamp(0, 1)     # (B, h, w) 0 start, 1 end
        radius = torch.lerp(ra, rb, along)
        nx, ny = (x - along * dx) / radius, (y - along * dy) / radius
        square = nx * nx + ny * ny
        cover = ((1 - square.sqrt()) * radius + 0.5).clamp(0, 1) * (radius > 0)           # one pixel of anti-aliasing
        nz = (1 - square).clamp_min(0).sqrt()
        surface = az + (bz - az) * along + radius * nz * 0.45                             # solids are a bit flat
        here = z[:, rows, cols]
        front = torch.where(decal > 0, (parts[:, rows, cols] == part).float(), (surface - here + 0.5).clamp(0, 1))
        weight = cover * front
        light = (0.62 + 0.42 * (lit * nx - 0.5 * ny + 0.74 * nz).clamp_min(0)) * ambient[:, None, None]
        colour = torch.stack((r * light, g * light, b * light), 1)
        image[:, :, rows, cols] += (colour.clamp(0, 1) - image[:, :, rows, cols]) * weight[:, None]
        owns = (weight > 0.5) & (decal < 0.5)
        z[:, rows, cols] = torch.where(owns, surface, here)
        parts[:, rows, cols] = torch.where(owns, part.long(), parts[:, rows, cols])
        capsule[:, rows, cols] = torch.where(owns, index[:, None, None], capsule[:, rows, cols])
    return _ground_truth(scenes, image, z, parts, capsule, geometry)


def _window(low: Tensor, high: Tensor, radius: Tensor) -> slice:
    """The rows or columns that hold this capsule in every scene of the chunk that has it."""
    real = radius > -1e3
    if not real.any():
        return slice(0, 0)
    return slice(max(int(low[real].min()), 0), min(int(high[real].max()) + 1, SIZE))


def _ground_truth(scenes, image, z, parts, capsule, geometry) -> dict[str, Tensor]:
    base = torch.tensor([scene.y - scene.horizon for scene in scenes])[:, None, None]
    depth = ((z + 2.0 * base) / 110.0).clamp(0, 1) * (parts > 0)                # 0 at the horizon, 1 nearest
    joints = torch.tensor([skeleton(scene) for scene in scenes])                # (B, 14, 3)
    spot = joints[..., :2].long().clamp(0, SIZE - 1)
    batch = torch.arange(len(scenes))[:, None]
    shown = z[batch, spot[..., 1], spot[..., 0]]                                # z of what is seen at each joint
    inside = ((joints[..., :2] >= 0) & (joints[..., :2] < SIZE)).all(-1)
    size = torch.tensor([scene.size for scene in scenes])[:, None]
    visible = inside & (shown < joints[..., 2] + 0.075 * size) & (parts[batch, spot[..., 1], spot[..., 0]] > 2)
    return {"image": image.clamp(0, 1), "depth": depth[:, None], "edges": _edges(parts, z)[:, None], "parts": parts,
            "mask": (parts > 2)[:, None], "joints": joints[..., :2].clone(), "visible": visible, "capsule": capsule,
            "geometry": geometry}


def _edges(parts: Tensor, z: Tensor, jump: float = 5.0) -> Tensor:
    """1 on pixels whose right or lower neighbour shows another part or lies more than `jump` pixels deeper or nearer."""
    edges = torch.zeros_like(z)
    solid = parts > 1
    for axis in (-1, -2):
        n = SIZE - 1
        near, far = parts.narrow(axis, 0, n), parts.narrow(axis, 1, n)
        step = (z.narrow(axis, 0, n) - z.narrow(axis, 1, n)).abs() > jump
        step = step & solid.narrow(axis, 0, n) & solid.narrow(axis, 1, n)
        edges.narrow(axis, 0, n).masked_fill_((near != far) | step, 1.0)
    return edges


# ---------------------------------------------------------------------------------------------- pairs and triplets

@declared
def correspondences(frames_a: Frames, frames_b: Frames, count: Count = 64, generator: torch.Generator | None = None,
                    on_prop: Index = 0) -> tuple[Tensor, Tensor]:
    """Pairs of points that show the same spot of the same puppet and are visible in both pictures.

    Every puppet pixel of the first picture is written as (capsule, place along it, place across it), the same place is
    found on the capsule in the second picture, and kept where the second picture shows that capsule there.

    Args:
        frames_a, frames_b: B frames each, frame i of both showing the same puppet.
        count: pairs a frame; sampled with repetition where fewer pixels match.
        generator: for the choice of pairs (a CPU generator; seed 0 by default).
        on_prop: how many of the pairs, the last ones, lie on the prop, in frames that show the same one in both.
    Returns:
        Two tensors (B, count, 2), points (x, y) in pixels.
    Raises:
        ValueError: where the puppets differ, or where no point is visible in both.
    """
    if on_prop > count:
        raise ValueError(f"on_prop is {on_prop}, more than count, {count}: pass at most that")
    if [f.puppet for f in frames_a.scenes] != [f.puppet for f in frames_b.scenes]:
        raise ValueError("correspondences need the same puppet in both frames: render two scenes with one `puppet`")
    generator = generator or torch.Generator().manual_seed(0)
    points = []
    for i in range(len(frames_a)):
        source, target = _all_matches(frames_a, frames_b, i)
        if len(source) == 0:
            raise ValueError(f"frames {i} show no spot of the puppet that is visible in both")
        pick = torch.randint(len(source), (count,), generator=generator)
        points.append(torch.stack((source[pick], target[pick])))
        source, target = _all_matches(frames_a, frames_b, i, prop=True) if on_prop else ((), ())
        if len(source):
            pick = torch.randint(len(source), (on_prop,), generator=generator)
            points[-1][:, count - on_prop:] = torch.stack((source[pick], target[pick]))
    both = torch.stack(points)                                                  # (B, 2, count, 2)
    return both[:, 0], both[:, 1]


def _all_matches(a: Frames, b: Frames, i: int, prop: bool = False) -> tuple[Tensor, Tensor]:
    """All matching pairs of frame i: centres of the puppet's (or the prop's) pixels in `a`, and their places in `b`."""
    kinds = {(each.scenes[i].prop, each.scenes[i].prop_colour if each.scenes[i].prop == "ball" else "") for each in (a, b)}
    shown = a.mask[i, 0] if not prop else (a.parts[i] == PART["prop"]) & (len(kinds) == 1)
    yx = shown.nonzero()
    source = yx.flip(-1) + 0.5                                                  # (N, 2) as (x, y)
    index = a.capsule[i, yx[:, 0], yx[:, 1]]
    place = _local(a.geometry[i, index], source)
    target = _global(b.geometry[i, index], place)
    inside = ((target >= 0) & (target < SIZE)).all(-1)
    spot = target.long().clamp(0, SIZE - 1)
    same = b.capsule[i, spot[:, 1], spot[:, 0]] == index
    return source[inside & same], target[inside & same]


def _frame(capsules: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    start, end = capsules[:, 0:2], capsules[:, 3:5]
    length = (end - start).norm(dim=-1, keepdim=True).clamp_min(1e-3)
    axis = (end - start) / length
    return start, length, axis, torch.stack((-axis[:, 1], axis[:, 0]), -1)


def _local(capsules: Tensor, points: Tensor) -> Tensor:
    """(N, 2) pixels to (N, 3): place along the axis in [0, 1], beyond its ends and across it in radii."""
    start, length, axis, across = _frame(capsules)
    offset = points - start
    run = (offset * axis).sum(-1, keepdim=True)
    along = (run / length).clamp(0, 1)
    radius = torch.lerp(capsules[:, 6:7], capsules[:, 7:8], along)
    return torch.cat((along, (run - along * length) / radius, (offset * across).sum(-1, keepdim=True) / radius), -1)


def _global(capsules: Tensor, place: Tensor) -> Tensor:
    """The inverse of `_local`, on the same capsules in any picture."""
    start, length, axis, across = _frame(capsules)
    radius = torch.lerp(capsules[:, 6:7], capsules[:, 7:8], place[:, :1])
    return start + (place[:, :1] * length + place[:, 1:2] * radius) * axis + place[:, 2:3] * radius * across


@declared
def sample_pair(seed: Seed) -> tuple[Scene, Scene]:
    """Two scenes of one puppet: other pose, place and background; if both have a prop, it is the same one."""
    rng = torch.Generator().manual_seed(seed)
    puppet = sample_puppet(rng)
    first, second = sample_scene(rng, puppet), sample_scene(rng, puppet)
    if "none" not in (first.prop, second.prop):
        second = replace(second, prop=first.prop, prop_colour=first.prop_colour)
    return first, second


@declared
def sample_triplet(seed: Seed, differs: some_of(LOOKS) = ()) -> tuple[Scene, Scene, Scene]:
    """(anchor, positive, negative): the positive is the anchor's puppet in another pose and place, the negative is
    another puppet with the anchor's pose, place, background and prop.

    `differs` names those of `LOOKS` that the negative has otherwise. By default the seed decides: in two triplets of three
    it is one alone, since what always differs together with something else need not be learned; in the others each
    differs with a chance of one in three, and where none does, shirt and trousers exchange their colours.
    """
    rng = torch.Generator().manual_seed(seed)
    anchor = sample_scene(rng)
    positive = sample_scene(rng, anchor.puppet)
    if not differs:
        alone = _choice(rng, LOOKS)
        differs = [alone] if _uniform(rng, 0, 1) < 2 / 3 else [name for name in LOOKS if _uniform(rng, 0, 1) < 1 / 3]
    other = sample_puppet(rng)
    while any(getattr(other, name) == getattr(anchor.puppet, name) for name in differs):
        other = sample_puppet(rng)
    looks = {name: getattr(other, name) for name in differs} or dict(shirt=anchor.puppet.trousers, trousers=anchor.puppet.shirt)
    return anchor, positive, replace(anchor, puppet=replace(anchor.puppet, **looks))


@declared
def stream(batch_size: Count, seed: Seed = 0) -> Iterator[Frames]:
    """An endless stream of rendered batches; batch n depends on `seed` and n alone."""
    start = seed
    while True:
        yield render(sample_scenes(batch_size, start))
        start += batch_size
