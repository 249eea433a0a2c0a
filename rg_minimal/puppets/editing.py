"""Ready-made edits: what to pass to `guided_sample` to drag something, or to give a new picture the looks of another.

The objectives and the sampler are those of `readout.py`. What is added here are choices: which heads work together, how
strongly and in which interval, and which part of the picture may change. Each function returns the keyword arguments of
`guided_sample` and `sample`, so everything can be looked at and changed before it is used:

    settings = drag(correspondence, source, handles, targets, anatomy=pose)
    pictures, latents = sample(pipe, prompt, **settings, num_inference_steps=30)

Points are (x, y) in pixels of the image.
"""
from __future__ import annotations

import inspect
import warnings
from collections import deque
from typing import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from . import world
from .grab import grab as take_hold
from .grab import CHAINS, REACH, TIP, as_many, check_inside, check_is_source, check_source_is_one, from_segment, gone_along, source_joints
from .heads import drag_objective, identity_objective, pixel_grid, pose_objective
from ..checks import (AnyPoints, Area, Boxes, Count, Fraction, Map, NonNegative, Points, Positive, Random, Seed, Truth, check_pairs,
                      check_pixels, checked, declared, describe)
from ..pipelines import guided_sample
from ..saving import ReadoutHead
from ..sources import Source


LOOKS = (0.15, 0.95)        # fractions of the steps between which looks are given, see `identity`
# Settings of `drag` for what `grab.grab` holds: points that agree bear a longer step. Tried in the studio's pictures of 25 steps and left: moves of
# the prediction (0.8), a sixth fewer passes; of a hundred arrows 84 left one whole puppet, not 86 (before arms were spared), and notebook 7 kept a scrap.
HELD = {"step_size": 0.1}
WIDEST = 12.0               # pixels that `spare` leaves alone beside a bone at most: an arm is some 8 wide


@declared
def region(points: Points, margin: NonNegative, image_size: Count = world.SIZE, soft: Positive = 4.0) -> Tensor:
    """All that is within `margin` pixels of a point (N, 2): (1, 1, H, W), 1 there, falling to 0 over `soft` pixels."""
    check_pixels("points", points)
    distance = torch.cdist(pixel_grid(image_size).flatten(0, 1), points).amin(-1)
    return ((margin + soft - distance) / soft).clamp(0, 1).view(1, 1, image_size, image_size)


@declared
def joined(handles: Points, targets: Points, reach: NonNegative = 28.0, spacing: Positive = 4.0) -> tuple[Tensor, Tensor]:
    """More points between those that belong together: a hand and an elbow make a forearm. (M, 2) twice, M >= N.

    Handles (N, 2) are joined to a tree, each to the nearest one, unless they are more than `reach` pixels apart; along
    each branch there is a point every `spacing` pixels, and its target is in the same place between their targets.
    """
    as_many(handles, targets)
    gaps, inside, found = torch.cdist(handles, handles), {0}, [handles]
    found_targets, outside = [targets], set(range(1, len(handles)))
    while outside:                                                      # Prim's algorithm
        i, j = min(((i, j) for i in inside for j in outside), key=lambda pair: float(gaps[pair]))
        inside.add(j), outside.remove(j)
        if gaps[i, j] <= reach:
            between = torch.linspace(0, 1, int(gaps[i, j] / spacing) + 2)[1:-1, None]
            found.append(torch.lerp(handles[i], handles[j], between))
            found_targets.append(torch.lerp(targets[i], targets[j], between))
    return torch.cat(found), torch.cat(found_targets)


@declared
def carry(latents: Map, handles: Points, targets: Points, radius: NonNegative, generator: Random,
          image_size: Count = world.SIZE) -> Tensor:
    """Noise (1, C, h, w) in which what lay within `radius` pixels of the handles lies at the targets; the places that
    were left get new noise.

    Where an object will form is largely decided by the noise it starts from, so a drag that leaves the noise alone
    works against it all the way (Nie et al., "The Blessing of Randomness", ICLR 2024, copy latents for the same reason).
    """
    as_many(handles, targets)
    cells = latents.shape[-1]
    if latents.shape != (1, latents.shape[1], cells, cells):
        raise ValueError(f"latents have shape {tuple(latents.shape)}; pass those of one square picture, (1, C, h, h)")
    grid = pixel_grid(cells, image_size).flatten(0, 1)                                  # (h * w, 2)
    new = torch.randn(latents.shape, generator=generator).to(latents)
    left = (torch.cdist(grid, handles).amin(-1) <= radius).view(cells, cells)
    gap, nearest = torch.cdist(grid, targets).min(-1)
    origin = ((grid + (handles - targets)[nearest]) * (cells / image_size)).floor().long()      # (h * w, 2)
    inside = ((gap <= radius) & (origin >= 0).all(-1) & (origin < cells).all(-1)).view(cells, cells)
    x, y = origin.clamp(0, cells - 1).unbind(-1)
    inside, left, x, y = (each.to(latents.device) for each in (inside, left, x, y))
    return torch.where(inside, latents[..., y, x].view_as(latents), torch.where(left, new, latents))


@declared
def drag(head: ReadoutHead, source: Source, handles: Points, targets: Points, *, fixed: AnyPoints | None = None,
         anatomy: ReadoutHead | None = None, appearance: ReadoutHead | None = None, free: Area | None = None,
         amount: Fraction = 1.0, stop: Fraction = 0.8, anatomy_weight: NonNegative = 8.0, looks_weight: NonNegative = 0.3,
         anti_ghosting: NonNegative = 0.3, margin: NonNegative = 12.0, spare: NonNegative = 4.0, radius: NonNegative = 6.0,
         step_size: NonNegative | None = None, eta: Fraction = 0.5, seed: Seed = 0, grab: Truth = False) -> dict:
    """Move what the source shows at `handles` to `targets`, and leave the rest of the picture as it is.

    Args:
        head: a correspondence head.
        source: the picture to edit, from `Source.from_states`: a generated one, or a real one after `invert`.
        handles, targets: (N, 2) each. Several points on one limb keep it a limb, see `joined`. Take hold of all that is to
            move, out to its edges: what is more than `margin` pixels, and 4 over which that falls off, from any of them stays where it is.
        fixed: (M, 2) points that belong to what moves, but stay: a shoulder, a hip. They are handles without a way to go.
        anatomy: a pose head, which knows that there is one left hand: joints within 6 pixels of what moves go along, all others stay.
            Without it a second hand at the target would do as well. A handle on a limb between joints that stay is warned of: it is held back.
        appearance: an appearance head; the free part then keeps its looks on the whole.
        free: (1, 1, h, w) in [0, 1], what may change; by default all that is within `margin` pixels of a handle or a
            target, but for arms that stay (`spare`). Outside, the picture follows the source's own trajectory.
        amount: the fraction of the way to go, from 0 to 1: several of them make an animation, see `drag_frames`.
        stop: the fraction of the steps that are guided; the rest mend what guidance has bent.
        anatomy_weight, looks_weight: of those heads, beside 1 for `head`.
        anti_ghosting: how strongly the handles are to be left, but for those that something else is moved to.
        spare: how wide the bones of arms that stay are left alone in the free part, in pixels to each side, falling off: a hand that
            hangs beside a leg is lost otherwise where the leg goes. Only with `anatomy`, which says where they are, and without `free`; at most 12.
            0 frees them, so that an arm can be brought to where the other one lies.
        radius: how far around the points the source's noise is carried along, in pixels, see `carry`; 0 leaves it alone.
        step_size: as of `guided_sample`; by default 0.05, and with `grab` what `HELD` says.
        eta: new noise at each step, in the free part, with which the model mends what a long drag has bent or torn.
        seed: of that noise, and of the noise that fills the places that were left; never what the source itself was made of, also where
            that has the same seed.
        grab: whether the arrows take hold of all that they start on, a limb, the puppet, a prop: see `grab.grab`, which needs
            `anatomy` and says before anything runs what is held.
    Raises ValueError where handles and targets do not match, one handle has two targets (also where it is `fixed`) or lies outside the
    picture, and for an amount outside [0, 1], or to `grab` without `anatomy`.
    """
    check_source_is_one(source)
    as_many(handles, targets)
    fixed = handles[:0] if fixed is None else fixed
    check_pairs(torch.cat((handles, fixed)), torch.cat((targets, fixed)), 1.0)
    check_inside(handles, source.image_size, "a handle")
    if spare > WIDEST:
        raise ValueError(f"spare is {spare:g} pixels, which would hold what moves as well: pass at most {WIDEST:g}, or 0 to leave nothing alone")
    if grab:
        if anatomy is None:
            raise ValueError("grab needs anatomy, a pose head that says where the limbs are: pass anatomy=load_head('data/heads/pose', pipe)")
        held = take_hold(head, anatomy, source, torch.cat((handles, fixed)), torch.cat((targets, fixed)), amount)
        handles, targets, fixed = held.handles, held.targets, held.fixed
    else:
        targets = torch.lerp(handles, targets, amount)
    if step_size is None:
        step_size = HELD["step_size"] if grab else 5e-2
    latents, generator = source.start, other_noise(source.start, seed)
    start, goal = joined(torch.cat((handles, fixed)), torch.cat((targets, fixed)))
    left = torch.cdist(start, goal).amin(1) > radius                    # what nothing is moved to
    objectives = [drag_objective(head, source, start, goal, anti_ghosting=anti_ghosting * left, stop=stop)]
    arms = start[:0]
    if anatomy is not None:
        joints = source_joints(anatomy, source)
        wanted = gone_along(joints, start, goal)
        arms = arms_that_stay(joints, wanted)
        for words in held_back(joints, wanted, handles, targets):
            warnings.warn(words, stacklevel=2)
        objectives.append(pose_objective(anatomy, wanted, weight=anatomy_weight, stop=stop))
    if free is None:
        free = region(torch.cat((start, goal)), margin)
        if spare and len(arms):
            free = free * (1 - region(arms, 0.0, soft=spare))
    if appearance is not None and looks_weight:
        objectives.append(identity_objective(appearance, source, mask=free, weight=looks_weight, stop=stop))
    if radius:
        latents = carry(latents, start, goal, radius, generator)
    settings = {"objectives": objectives, "latents": latents, "mask": free, "keep": source, "step_size": step_size, "eta": eta}
    if eta:
        settings["variance_noise"] = torch.randn((len(source.timesteps), *latents.shape), generator=generator)
    return settings


def drag_frames(pipe, prompt, head: ReadoutHead, source: Source, handles, targets, amounts, **settings) -> Iterator[Tensor]:
    """The pictures (1, 3, H, W) of an animation: one drag, gone through to each of `amounts`, fractions of the way.

    `settings` are those of `drag`, and any of `guided_sample`, such as `num_inference_steps` or a pace's (`**DRAG_FULL`), which go over what
    the drag brings. ValueError at the call, as of `drag` and `guided_sample`, and for no amounts, or ones outside [0, 1].
    """
    own = {name: settings.pop(name) for name in inspect.signature(drag).parameters.keys() & settings.keys()}
    try:
        amounts = list(amounts)
    except TypeError:
        raise ValueError(f"amounts is {describe(amounts)}; pass several fractions of the way, such as (0.5, 1.0)") from None
    if not amounts:
        raise ValueError("amounts is empty; pass several fractions of the way, such as (0.5, 1.0)")
    amounts = [checked(f"amount {number}", amount, Fraction) for number, amount in enumerate(amounts)]
    runs = [guided_sample(pipe, prompt, **drag(head, source, handles, targets, amount=amount, **own) | settings) for amount in amounts]
    return (state.model.decode(state.latents) for state in map(_last, runs))


def _last(run: Iterator):
    """The last of what a generator yields."""
    return deque(run, maxlen=1).pop()


def other_noise(latents: Tensor, seed: int) -> torch.Generator:
    """A generator of this seed, or further on where its noise would be what `latents` (1, C, h, w) are: whoever makes a picture with
    seed 0 and then drags with seed 0 would be given the old noise for new."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(latents.shape, generator=generator)
    if cosine_similarity(first.flatten(), latents.detach().float().cpu().flatten(), 0) < 0.5:
        generator.manual_seed(seed)
    return generator


@declared
def arms_that_stay(joints: Points, goal: Points, spacing: Positive = 2.0) -> Tensor:
    """Points (M, 2), `spacing` pixels apart, along the bones of arms, out to the ends of hands, whose joints (14, 2) are to be where
    they are, `goal` (14, 2)."""
    as_many(joints, goal)
    stays, found = (goal - joints).norm(dim=-1) < 0.5, [joints[:0]]
    for root, middle, end in (chain for name, chain in CHAINS.items() if name.endswith("arm")):
        for start, stop, reach in ((root, middle, 1.0), (middle, end, TIP)):
            if stays[start] and stays[stop]:
                count = int((joints[stop] - joints[start]).norm() * reach / spacing) + 2
                found.append(torch.lerp(joints[[start]], joints[[stop]], torch.linspace(0, reach, count)[:, None]))
    return torch.cat(found)


def held_back(joints: Tensor, goal: Tensor, handles: Tensor, targets: Tensor, near: float = 3.0) -> list[str]:
    """A sentence for each handle (N, 2) that is to move, but lies on a bone whose joints (14, 2) are to stay where they are, and by no
    joint that moves: anatomy holds what it is on."""
    stays, said = (goal - joints).norm(dim=-1) < 0.5, []
    for handle, target in zip(handles, targets):
        if (target - handle).norm() < 0.5 or (~stays).any() and (joints[~stays] - handle).norm(dim=-1).min() <= REACH:
            continue
        for name, chain in CHAINS.items():
            if any(stays[a] and stays[b] and from_segment(handle, joints[a], joints[b])[0] <= near for a, b in zip(chain, chain[1:])):
                said.append(f"the handle ({handle[0]:.0f}, {handle[1]:.0f}) lies on the {name}, between joints that anatomy keeps where they are, so "
                            "it will hardly move: pass grab=True, or handles on the joints that are to go along")
                break
    return said


@declared
def identity(head: ReadoutHead, source: Source, *, boxes: Boxes | None = None, start: Fraction = LOOKS[0], stop: Fraction = LOOKS[1],
             step_size: NonNegative = 4e-2, eta: Fraction = 1.0) -> dict:
    """Give the new picture the looks of the source's puppet, whatever the prompt says of pose and place.

    Args:
        head: an appearance head.
        source: the reference, from `Source.from_picture` (any picture) or `Source.from_states`. Give it the prompt of the
            new picture: features depend on the words, too.
        boxes: (box in the source, box in the new picture) around the puppets, each (x0, y0, x1, y1); by default the
            whole pictures are compared.
        start, stop: the fractions of the steps at which guidance begins, since at first there is nothing to tell looks by,
            and ends.
        step_size: as of `guided_sample`. The way that all steps go together counts: on 60 references of their own, steps of 0.05
            do best of 25 (looks that agree 0.925; 0.04 0.917, 0.03 0.892), and of 50 steps 0.02 and 0.03 (0.938; 0.05 0.917, 0.08
            0.879), beyond which fewer puppets are whole.
        eta: new noise at each step. A prompt that does not say the colour of a shirt leaves it open to the end, and
            patches of several colours remain where guidance changed its mind; noise gives the model the chance to mend them.
    """
    check_is_source(source)
    objective = identity_objective(head, source, boxes=boxes, start=start, stop=stop)
    return {"objectives": [objective], "step_size": step_size, "eta": eta}
