"""Drags whose right answer is known: a small open benchmark, made from seeds.

    python -m rg_minimal.evidence cases out/drags          # pictures, captions, handles, targets, and the exact answers
    python -m rg_minimal.evidence score out/mine           # scores anybody's answers: 000.png, 001.png, ... (see `trial`)

A case is a puppet, points on one of its limbs and where they are to go; the exact answer is the same scene, rendered with
that limb turned. Six bad answers are made from the same renderings (`BAD`), so that metrics can be asked which of them
they take for good. Pictures are (1, 3, 128, 128) in [0, 1], in 256 steps, as files keep them; points are (x, y) in pixels.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from . import seeds
from ..checks import Count, Seed, SomeName, declared
from ..files import read_json, refuse_file, replace_folder, write_file, write_json
from ..pictures import as_pictures
from ..pipelines import invert, sample
from ..puppets import world
from ..puppets.cases import LIMB_JOINTS, MARGIN, WAYS, DragCase
from ..puppets.editing import drag
from ..puppets.grab import bend
from ..puppets.measure import SCALE
from ..sources import Source

TOO_LONG = 1.4                          # how many times as long as before a stretched limb is
LOWEST = -0.01                          # body heights: how far the lowest foot of a turned leg may sink into the ground
STRIP, SHIFTS = 8, (12, 36)             # pixels: columns of a torn background, and how far they slip
STEPS = 50                              # of real drags
CASES = "cases.json"


# ---------------------------------------------------------------------------------------------- cases

@dataclass
class Case:
    """One drag of a rendered puppet, with its exact answer."""
    drag: DragCase                      # handles and targets: middle and end joint of a limb, and two points between
    scene: world.Scene                  # before
    exact: world.Scene                  # and after
    limb: str                           # 'left_arm' ...
    before: world.Frames = field(repr=False)
    after: world.Frames = field(repr=False)

    @property
    def source(self) -> Tensor:
        return in_256_steps(self.before.image)


def in_256_steps(pictures: Tensor) -> Tensor:
    """What is left of pictures in [0, 1] once they were files."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def with_limb(scene: world.Scene, name: str, limb: world.Limb, puppet: world.Puppet | None = None) -> world.Scene:
    """The scene with another limb (and another puppet's lengths), and nothing else moved: feet that come off the ground
    would otherwise take the body along."""
    new = replace(scene, puppet=puppet or scene.puppet, pose=replace(scene.pose, **{name: limb}))
    sunk = (world.skeleton(new)[1][1] - world.skeleton(scene)[1][1]) / scene.size               # of the neck
    return replace(new, pose=replace(new.pose, lift=new.pose.lift + sunk))


@declared
def make_case(seed: Seed) -> Case | None:
    """The case of one scene: a limb turns to where it is in another pose of this world. None where there is no room for
    one: its points have to be seen before and after, and its lower half goes to free background."""
    rng = torch.Generator().manual_seed(seed)
    scene = world.sample_scene(rng)
    before = world.render(scene)
    for _ in range(40):
        kind, side = (names[int(torch.randint(2, (), generator=rng))] for names in (tuple(WAYS), ("left", "right")))
        limb = f"{side}_{'arm' if kind == 'wrist' else 'leg'}"
        pose, _ = world.sample_pose(rng, world.ACTIONS[int(torch.randint(len(world.ACTIONS), (), generator=rng))])
        turned = replace(getattr(pose, limb), towards=getattr(scene.pose, limb).towards)     # so that it looks as long
        exact = with_limb(scene, limb, turned)
        root, middle, end = index = [world.JOINTS.index(f"{side}_{name}") for name in LIMB_JOINTS[kind]]
        old, new = (torch.tensor(world.skeleton(each))[:, :2] for each in (scene, exact))
        handles, targets = (torch.stack((p[middle], p[end], p[[middle, end]].mean(0), p[[root, middle]].mean(0)))
                            for p in (old, new))
        way = float((targets - handles)[1].norm())
        if exact.pose.lift < LOWEST or not WAYS[kind][0] <= way <= WAYS[kind][1] \
                or targets.min() < MARGIN or targets.max() > world.SIZE - MARGIN:
            continue
        after, own = world.render(exact), torch.tensor(parts_of(limb))
        if before.visible[0, index].all() and after.visible[0, index].all() and (_part(before, targets[1:3]) < 2).all() \
                and torch.isin(torch.cat((_part(before, handles), _part(after, targets))), own).all():
            return Case(DragCase(kind, seed, handles, targets, index[1:], old[[root]]), scene, exact, limb, before, after)
    return None


def parts_of(limb: str) -> list[int]:
    """The values of a limb's parts in a map of parts."""
    side, kind = limb.split("_")
    names = ("upper_arm", "forearm", "hand") if kind == "arm" else ("thigh", "shin", "foot")
    return [world.PART[f"{side}_{name}"] for name in names]


def _part(frames: world.Frames, points: Tensor) -> Tensor:
    x, y = points.long().unbind(-1)
    return frames.parts[0, y, x]


@declared
def trial_cases(count: Count) -> Iterator[Case]:
    """The first `count` cases of the scenes that nothing else uses (`seeds.TRIAL`). ValueError where there are fewer."""
    seeds.TRIAL.part(0, count)
    found = 0
    for seed in range(seeds.TRIAL.first, seeds.TRIAL.end):
        case = make_case(seed)
        if case is not None:
            yield case
            found += 1
        if found == count:
            return


# ---------------------------------------------------------------------------------------------- answers of known quality

def _shown(frames: world.Frames, parts: list[int]) -> Tensor:
    """Where one of these parts is seen, with its soft border, (1, 1, H, W) bool."""
    return F.max_pool2d(torch.isin(frames.parts, torch.tensor(parts))[:, None].float(), 3, 1, 1) > 0


def _pasted(under: Tensor, frames: world.Frames, parts: list[int]) -> Tensor:
    """What `frames` show of these parts, laid on a picture."""
    return torch.where(_shown(frames, parts), frames.image, under)


def _stretched(case: Case) -> Tensor:
    """The hand or foot is where it is to be, at the end of a limb that is `TOO_LONG`, and the old limb is gone."""
    side, kind = case.limb.split("_")
    was, ends = getattr(case.scene.pose, case.limb), case.drag.joints
    root, old, new = case.drag.fixed[0], case.before.joints[0, ends], case.after.joints[0, ends]
    chain = bend(f"{side} {kind}", root + TOO_LONG * (torch.cat((root[None], old)) - root), new[1])
    sign = 1 if side == "left" else -1
    upper, lower = (math.degrees(math.atan2(sign * float(x), float(y))) for x, y in chain[1:] - chain[:-1])
    puppet = replace(case.scene.puppet, **{kind: TOO_LONG * getattr(case.scene.puppet, kind)})
    limb = world.Limb(upper, lower - upper, was.towards)
    long = world.render(with_limb(case.scene, case.limb, limb, puppet))
    away = world.render(with_limb(case.scene, case.limb, world.Limb(was.swing + 110)))      # shows what the old limb hides
    return _pasted(torch.where(_shown(case.before, parts_of(case.limb)), away.image, case.before.image), long,
                   parts_of(case.limb))


def _empty(scene: world.Scene) -> Tensor:
    """The scene without its puppet and the puppet's shadow, the light as it was."""
    return world.render(replace(scene, x=1e4 if scene.x >= scene.sun_x else -1e4)).image


def _torn(case: Case) -> Tensor:
    """The exact puppet; what is behind it is cut into columns that slip up or down."""
    rng, behind = torch.Generator().manual_seed(case.drag.seed), _empty(case.scene)
    for x in range(0, world.SIZE, STRIP):
        shift = int(torch.randint(*SHIFTS, (), generator=rng)) * (1 if torch.rand((), generator=rng) < 0.5 else -1)
        behind[..., x:x + STRIP] = behind[..., x:x + STRIP].roll(shift, -2)
    return _pasted(behind, case.after, list(range(3, len(world.PARTS))))


def _half(case: Case) -> Tensor:
    """The limb turned half the way."""
    old, new = (getattr(scene.pose, case.limb) for scene in (case.scene, case.exact))
    limb = world.Limb((old.swing + new.swing) / 2, (old.bend + new.bend) / 2, old.towards)
    return world.render(with_limb(case.scene, case.limb, limb)).image


ANSWERS = {"exact": lambda case: case.after.image,
           "nothing": lambda case: case.before.image,                                   # nothing moved
           "half": _half,
           "second": lambda case: _pasted(case.before.image, case.after, parts_of(case.limb)),      # and the old limb stays
           "stretched": _stretched,
           "gone": lambda case: _empty(case.scene),
           "torn": _torn}
BAD = tuple(ANSWERS)[1:]


def answers(case: Case) -> dict[str, Tensor]:
    """The exact answer and six bad ones, (1, 3, 128, 128) each."""
    return {name: in_256_steps(make(case)) for name, make in ANSWERS.items()}


def real_drag(pipe, correspondence, pose, case: Case, steps: int = STEPS, seed: int = 0, **changes) -> Tensor:
    """What this project's own recipe makes of a case, with `editing.drag`'s defaults but for `changes`, after inversion of
    the source."""
    states = list(invert(pipe, case.source, case.scene.caption, num_inference_steps=steps))
    source = Source.from_states(pipe, states, case.scene.caption, keep_all=True)
    settings = drag(correspondence, source, case.drag.handles, case.drag.targets, fixed=case.drag.fixed, anatomy=pose,
                    seed=seed, **changes)
    return in_256_steps(sample(pipe, case.scene.caption, num_inference_steps=steps, guidance_scale=SCALE, **settings)[0])


# ---------------------------------------------------------------------------------------------- files

@declared
def write_cases(folder: SomeName, count: Count = 64) -> Path:
    """The benchmark as files: the pictures 000.png, ..., the exact answers in `exact/`, and cases.json with the caption,
    handles and targets of each in pixels; all of them or, when it is killed, none. ValueError where the folder holds anything else, such as
    somebody's answers."""
    refuse_file(folder)
    folder, names = Path(folder), [picture_name(number) for number in range(count)]
    there = len(read_json(folder / CASES).get("cases", ())) if (folder / CASES).exists() else 0
    if folder.exists() and any(folder.iterdir()) and not there:
        raise ValueError(f"{folder} holds something else than cases: choose an empty or a new folder")
    if there > count:
        raise ValueError(f"{folder} holds more than {count} cases: choose another folder")

    def fill(aside: Path) -> None:
        told = []
        for name, case in zip(names, trial_cases(count)):
            write_picture(aside / name, case.source)
            write_picture(aside / "exact" / name, in_256_steps(case.after.image))
            told.append({"picture": name, "scene": case.drag.seed, "kind": case.drag.kind, "caption": case.scene.caption,
                         "handles": case.drag.handles.tolist(), "targets": case.drag.targets.tolist(),
                         "fixed": case.drag.fixed.tolist()})
        write_json(aside / CASES, {"size": world.SIZE, "cases": told})
    return replace_folder(folder, fill, (CASES, *names, *(f"exact/{name}" for name in names))) / CASES


def picture_name(number: int) -> str:
    return f"{number:03d}.png"


def write_picture(path: Path, picture: Tensor) -> Path:
    """One picture (1, 3, H, W) in [0, 1] as PNG."""
    values = (picture[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return write_file(path, lambda aside: Image.fromarray(values).save(aside, format="PNG"))


@declared
def read_answers(folder: SomeName, count: Count = 64) -> Tensor:
    """Anybody's answers, `count` pictures 000.png, ... of a folder: (count, 3, 128, 128) in [0, 1]. ValueError, before any
    is scored, where the folder, or one of them, is missing, or is no picture, or of another size."""
    folder, made = Path(folder), []
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: pass the one that holds the answers, {picture_name(0)} and so on")
    for number in range(count):
        path = folder / picture_name(number)
        if not path.is_file():
            fewer = f", or score fewer with --pictures {number}" if number else ""
            raise ValueError(f"{path} is missing: the answer to each of {count} cases is asked for; make it{fewer}")
        picture = as_pictures(path, str(path))
        if tuple(picture.shape[-2:]) != (world.SIZE, world.SIZE):
            raise ValueError(f"{path} has {picture.shape[-2]} x {picture.shape[-1]} pixels: answers are as large as the "
                             f"sources, so make or resize it to {world.SIZE} x {world.SIZE}")
        made.append(picture)
    return torch.cat(made)
