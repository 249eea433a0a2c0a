"""What came of a picture, read off it by the heads themselves, in words for the user; the judge has no say in it.

    print(verdict(kit, result))
    # Pose: joints are 2 px from where they were asked for, at most 4 (left wrist); every joint is found; ...
"""
from __future__ import annotations

import torch
from torch import Tensor

from .recipe import BUILDERS, Kit, Result, ground, held, in_use
from ..puppets.grab import FAINT, OFF, STRETCH, Hold, outcome, reading_timestep
from ..puppets.heads import read_joints
from ..puppets.world import JOINTS, LIMBS
from ..sources import Source

BETTER = 0.7            # of the error without guidance: a map that comes no nearer than that was not followed


@torch.no_grad()
def verdict(kit: Kit, result: Result) -> str:
    """A sentence for each objective in use that can be read off the picture (looks cannot), and what to do where it failed."""
    state, words = result.state, []
    if not in_use(state) or ground(kit, state) is None:
        return ""
    kept = "drag" in in_use(state) and state["drag"]["keep"]
    hold = held(kit, state) if "drag" in in_use(state) and "pose" in kit.heads else None
    before, after = ground(kit, state), Source.from_picture(kit.pipe, result.after, state["prompt"], generator=torch.Generator().manual_seed(0))
    for name in in_use(state):
        told = ""
        if name == "pose":
            told, remedies = _of_pose(kit, torch.tensor(state["pose"]["joints"]), before, after)
        elif name == "drag" and hold:
            told, remedies = _of_drag(kit, result, before, hold)
        elif name in ("depth", "edges"):
            objective = BUILDERS[name](kit, state)
            was, now = (float(objective(each(reading_timestep(before)))) for each in (before, after))
            told = f"the error where you drew went from {was:.2g} to {now:.2g}."
            remedies = [] if now <= BETTER * was else ["a longer interval, a larger step size, or a sketch that suits the picture"]
        if kept and name in ("pose", "depth", "edges") and remedies:
            remedies = ["untick “keep the rest of the picture”, which leaves alone all that no arrow moves"]
        if name == "pose" and hold and (torn := _two_places(hold, torch.tensor(state["pose"]["joints"]))):
            remedies.append(f"pose and drag ask for two places of {torn}: move the joint or the arrow")
        if idle := "step size" if state["step_size"] == 0 else "weight" if state[name]["weight"] == 0 else "":
            told, remedies = told or "it guides nothing.", [f"a {idle} above 0, at which {name} guides nothing"]
        if told:
            words.append(f"{name.capitalize()}: {told}" + (f" Try: {'; '.join(remedies)}." if remedies else ""))
    return " ".join(words)


def _two_places(hold: Hold, asked: Tensor) -> str:
    """The joint that an arrow takes farthest from where the pose asks for it, (14, 2), or "" where they agree."""
    gaps = (hold.goal - asked).norm(dim=-1) * ((hold.goal - hold.joints).norm(dim=-1) > 1)
    return JOINTS[int(gaps.argmax())].replace("_", " ") if float(gaps.max()) > OFF else ""


def _of_drag(kit: Kit, result: Result, before: Source, hold: Hold) -> tuple[str, list[str]]:
    """What came of the arrows, and what can be tried with the controls; an `Outcome` has the remedies of the library."""
    grabs = result.state["drag"]["grab"]
    found = outcome(kit.heads["drag"], kit.heads["pose"], before, result.after, hold)
    whole = "take hold of the whole limb, puppet or prop"
    remedy = [f"a shorter way{'' if grabs else f', or {whole}'}"] if found.torn or found.missing else []
    if found.far and "point" in hold.what:
        remedy.append("start each arrow on what is to move" if grabs else whole)
    elif found.far:
        remedy.append(("" if remedy else "go a shorter way, or ") + "let it guide longer: a larger “until (of steps)”, more steps")
    return found.words, remedy


def _of_pose(kit: Kit, asked: Tensor, before: Source, after: Source) -> tuple[str, list[str]]:
    """How near the joints are to those that were asked for, (14, 2); the limbs against the lengths that were asked for; and what to try."""
    timestep = reading_timestep(before)
    (_, sure), (joints, peak) = (tuple(each[0].cpu() for each in read_joints(source(timestep)(kit.heads["pose"]))) for source in (before, after))
    gaps = (joints - asked).norm(dim=-1)
    named = [name.replace("_", " ") for name in JOINTS]
    lost = [name for name, was, now in zip(named, sure, peak) if now < FAINT * was]
    ratios = {f"{named[a]} to {named[b]}": float((joints[a] - joints[b]).norm() / (asked[a] - asked[b]).norm().clamp_min(1.0)) for a, b in LIMBS}
    worst = max(ratios, key=lambda name: abs(ratios[name] - 1))
    torn, far = abs(ratios[worst] - 1) > STRETCH, float(gaps.max()) > OFF
    words = [f"the joints are {float(gaps.median()):.0f} px from where you asked for them, {float(gaps.max()):.0f} at most ({named[int(gaps.argmax())]})",
             f"not found as surely as before: {', '.join(lost)}" if lost else "every joint is found",
             f"{worst} has {ratios[worst]:.0%} of the length you asked for" if torn else "every limb has the length you asked for"]
    remedy = [f"pull {named[int(gaps.argmax())]} less far, or lengthen the interval"] if far else []
    remedy += ["another seed, or limbs as long as the puppet's own"] if lost or torn else []
    return "; ".join(words) + ".", remedy
