"""How the project's numbers are measured: the base model, pose guidance, and what guidance costs.

`python -m rg_minimal.puppets.measure base` (or `pose`, `cost`) measures and writes `data/results/NAME.json`. Each measurement is a
generator that yields (pictures done, pictures in all) and ends with the result as its return value; `finish` runs one.
"""
from __future__ import annotations

import argparse
import inspect
import itertools
import json
import resource
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generator, Iterator, Literal

import torch
from pydantic import BeforeValidator, Field

from . import world
from .basemodel import autoencoder_psnr
from .cases import ARROWS, KINDS, ArrowCase, DragCase, arrow_case, ball_points, drag_case, find_patch, prop_points, whole
from .decoder import load_decoder
from .editing import HELD, drag, identity
from .heads import TASKS, depth_objective, drag_objective, edge_objective, identity_objective, pose_objective
from .judge import Judge, Reading, attribute_accuracy, depth_rmse, edge_f_score, load_judge, pck
from .tokens import measure_tokens
from ..autoencoders import decode
from ..checks import (Count, FileName, Fraction, Function, Index, NonNegative, Seed, SomeName, Truth, Words, as_whole, checked, declared,
                      one_sentence, option, stoppable)
from ..files import read_json, refuse_file, write_json
from ..paces import DRAFT, DRAG_FULL, FULL, WHOLE
from ..pictures import as_pictures
from ..pipelines import encode, find_folder, guided_sample, invert, load_head, load_pipeline, sample
from ..processes import add_up, is_main, mine_of
from ..saving import ReadoutHead
from ..sources import Source

BASE_SEED, POSE_SEED = world.HELD_OUT + 10_000, world.HELD_OUT + 20_000
MAP_SEED, DRAG_SEED, IDENTITY_SEED = world.HELD_OUT + 30_000, world.HELD_OUT + 60_000, world.HELD_OUT + 40_000
ARROW_SEED = world.HELD_OUT + 110_000
SCALE = 3.0                              # guidance scale, what the puppet model's recipe.json recommends
MEASURED = ("shirt", "trousers", "hat", "background", "prop", "action")      # what every caption decides

Steps = Annotated[Count, Field(le=1000)]
GuidedSteps = Annotated[Steps, Field(ge=2)]                # of one step no half can be guided
Drags = Annotated[Count, Field(multiple_of=len(KINDS))]    # as many of each kind

def _iterations(value) -> tuple[int, ...]:
    try:
        numbers = tuple(as_whole(each) for each in value)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise ValueError("pass one or more whole numbers of at least 0")
    return numbers


Iterations = Annotated[tuple, BeforeValidator(_iterations)]

Progress = Generator[tuple[int, int], None, dict]


def finish(measurement: Progress, report=None) -> dict:
    """Run a measurement to its end; `report(done, all)` is called after each batch where given."""
    while True:
        try:
            state = next(measurement)
        except StopIteration as stop:
            return stop.value
        if report:
            report(*state)


def checksum_of(pipe=None, judge: Judge | None = None, *heads) -> str:
    """Names what numbers were measured with, a pipeline, a judge (with its thresholds) and heads, or some of them, by all their weights:
    what one has measured is not continued by another. In which order a library lists the weights of one of them does not count."""
    parts = [getattr(pipe, "components", {}).values(), [getattr(judge, "network", None)], *([head] for head in heads)]
    sums = [sorted(zlib.crc32(each.detach().float().cpu().numpy().tobytes()) for network in part if isinstance(network, torch.nn.Module)
                   for each in network.parameters()) for part in parts]
    return f"{zlib.crc32(repr((sums, getattr(judge, 'thresholds', ()))).encode()):08x}"


def facts(scenes) -> list[dict[str, str]]:
    """The attributes that count in `attribute_accuracy`: those in `MEASURED`."""
    return [{name: scene.attributes[name] for name in MEASURED} for scene in scenes]


@declared
def measure_base(pipe, judge: Judge, count: Count = 500, steps: Steps = 50, batch: Count = 20, seed: Seed = BASE_SEED,
                 guidance_scale: NonNegative = SCALE, eta: Fraction = 0.0, sheet: Function | None = None) -> Progress:
    """Attribute accuracy, share of whole puppets and PSNR of the autoencoder, from `count` held-out captions.

    `eta` is new noise at each step, as of `guided_sample`. `sheet` is called with the first 32 pictures, whatever they look like.
    """
    hits, found, first = [], [], []
    for done, part, pictures, _ in base_pictures(pipe, count, steps, batch, seed, guidance_scale, eta):
        first = [*first, *pictures][:32]
        if sheet and (len(first) == 32 or done == count):
            sheet(torch.stack(first))
            sheet = None
        reading = judge(pictures)
        hits.append((attribute_accuracy(reading, facts(part)), len(part)))
        found.append(judge.found(reading))
        yield done, count
    return {"captions": count, "steps": steps, "guidance_scale": guidance_scale, "eta": eta, "seed": seed, "attribute_accuracy": _mean(hits, count),
            "all_joints_found": float(torch.cat(found).float().mean()), "vae_psnr_db": autoencoder_psnr(pipe.vae, 128)}


def base_pictures(pipe, count: int, steps: int, batch: int, seed: int, guidance_scale: float, eta: float):
    """What the base model draws of `count` held-out captions, `batch` at a time: how many are done, their scenes, pictures and latents."""
    scenes, rng = world.sample_scenes(count, seed), torch.Generator().manual_seed(seed)
    for start in range(0, count, batch):
        part = scenes[start:start + batch]
        yield start + len(part), part, *sample(pipe, [scene.caption for scene in part], num_inference_steps=steps, generator=rng,
                                               guidance_scale=guidance_scale, eta=eta)


def _mean(hits: list[tuple[dict, int]], count: int) -> dict:
    """The mean accuracies of all pictures, of those of each batch and how many it held."""
    return {name: sum(each[name] * n for each, n in hits) / count for name in hits[0][0]}


@declared
def measure_base_decoder(pipe, judge: Judge, count: Count = 500, steps: Steps = 50, batch: Count = 20, seed: Seed = BASE_SEED,
                         guidance_scale: NonNegative = SCALE, sheet: Function | None = None) -> Progress:
    """Whole puppets and attributes by the finer decoder of `data/decoder`, beside the pipeline's own: of the same latents, those of
    `base` and of `base-noise`, and how many pictures are whole by one of the two only.

    `sheet` is called with the first 8 pictures, at most, that one of them alone draws whole, in a row for each. ValueError where there
    is no finer decoder for this pipeline.
    """
    finer = load_decoder(pipe)
    if finer is None:
        raise ValueError("there is no finer decoder for this pipeline: make one with `python -m rg_minimal.puppets.decoder --start-from FOLDER`")
    return _both_decoders(pipe, judge, finer, count, steps, batch, seed, guidance_scale, sheet)


def _both_decoders(pipe, judge, finer, count, steps, batch, seed, guidance_scale, sheet) -> Progress:
    result = {"captions": count, "steps": steps, "guidance_scale": guidance_scale, "seed": seed}
    differ = []
    for name, eta in (("new noise", WHOLE["eta"]), ("as it is", 0.0)):
        hits, found = [], []
        for done, part, own, latents in base_pictures(pipe, count, steps, batch, seed, guidance_scale, eta):
            fine = decode(pipe, latents, finer)
            reading = judge(fine)
            hits.append((attribute_accuracy(reading, facts(part)), len(part)))
            found.append(torch.stack((judge.found(judge(own)), judge.found(reading))))
            if sheet:
                differ += [(a, b) for a, b, (x, y) in zip(own, fine, found[-1].T.tolist()) if x != y]
                if differ and (len(differ) >= 8 or done == count):
                    sheet({"own decoder": [a for a, _ in differ[:8]], "finer decoder": [b for _, b in differ[:8]]})
                    sheet = None
            yield done, count
        own, fine = torch.cat(found, 1)
        result[name] = {"eta": eta, "attribute_accuracy": _mean(hits, count), "all_joints_found": float(fine.float().mean()),
                        "by_the_own_decoder": float(own.float().mean()), "only_by_the_finer": int((fine & ~own).sum()),
                        "only_by_the_own": int((own & ~fine).sum())}
    return result


@declared
def measure_pose(pipe, judge: Judge, head: ReadoutHead, count: Count = 100, steps: GuidedSteps = 50, batch: Count = 10,
                 seed: Seed = POSE_SEED, guidance_scale: NonNegative = SCALE, objective: dict | None = None, **guidance) -> Progress:
    """PCK of guided and unguided pictures against held-out poses, with the same captions and initial noise.

    `objective` are settings of the objective (weight, start, stop, schedule), `guidance` those of `guided_sample`.
    """
    scenes = world.sample_scenes(count, seed)
    totals: dict[str, dict] = {"unguided": {}, "guided": {}}
    for start in mine_of(range(0, count, batch)):
        part = scenes[start:start + batch]
        frames = world.render(part)
        goal = [pose_objective(head, frames.joints, **(objective or {}))]
        for name, objectives, extra in (("unguided", [], {}), ("guided", goal, guidance)):
            pictures, _ = sample(pipe, [scene.caption for scene in part], objectives, num_inference_steps=steps,
                                 generator=torch.Generator().manual_seed(seed + start), guidance_scale=guidance_scale, **extra)
            reading = judge(pictures)
            values = {"pck@0.05": pck(reading.joints, frames.joints, 0.05, frames.visible).mean(),
                      "pck@0.1": pck(reading.joints, frames.joints, 0.1, frames.visible).mean(),
                      "all_joints_found": judge.found(reading).float().mean(),
                      "attribute_accuracy": attribute_accuracy(reading, facts(part))["mean"]}
            _add(totals[name], len(part) / count, values)
        yield start + len(part), count
    totals = add_up(totals)
    return {"pictures": count, "steps": steps, "seed": seed, "guidance_scale": guidance_scale, **totals,
            "settings": {**(objective or {}), **guidance}}


@declared
def measure_pose_paces(pipe, judge: Judge, head: ReadoutHead, count: Count = 100, seed: Seed = POSE_SEED) -> Progress:
    """`measure_pose` at the paces that have names, `draft` and `full`, and with 50 steps: the same poses, captions and first noise."""
    return _at_paces({"draft": DRAFT, "full": FULL, "50 steps": {"num_inference_steps": 50}},
                     lambda **pace: measure_pose(pipe, judge, head, count, seed=seed, **pace))


def _at_paces(paces: dict[str, dict], measure) -> Progress:
    """A measurement at each of these paces, by their names; `measure` takes `steps` and the rest of a pace."""
    found = {}
    for name, pace in paces.items():
        rest = {key: value for key, value in pace.items() if key != "num_inference_steps"}
        found[name] = yield from measure(steps=pace["num_inference_steps"], **rest)
    return found


@declared
def measure_cost(pipe, head: ReadoutHead, steps: GuidedSteps = 50, repeats: Count = 3, seed: Seed = POSE_SEED) -> Progress:
    """Process time of one picture guided by a pose, half of its steps and at the paces that have names (`paces.py`), against an
    unguided one, each in turn; medians."""
    scene = world.sample_scene(seed)
    goal = [pose_objective(head, world.render(scene).joints)]
    ways = {"unguided": ([], {"num_inference_steps": steps}), "guided": (goal, {"num_inference_steps": steps}), "full": (goal, FULL), "draft": (goal, DRAFT)}
    times: dict[str, list] = {name: [] for name in ways}
    for repeat in range(repeats + 1):                                  # the first one warms up and does not count
        for name, (objectives, settings) in ways.items():
            process, wall = time.process_time(), time.perf_counter()
            for state in guided_sample(pipe, scene.caption, objectives, guidance_scale=SCALE, generator=torch.Generator().manual_seed(seed),
                                       **settings):
                pass
            decode(pipe, state.latents)
            if repeat:
                times[name].append((time.process_time() - process, time.perf_counter() - wall))
        yield repeat, repeats
    middle = lambda values: sorted(values)[repeats // 2]
    return {"steps": steps, "repeats": repeats, "threads": torch.get_num_threads(),
            "process_seconds": {name: middle(process for process, _ in each) for name, each in times.items()},
            "wall_seconds": {name: middle(wall for _, wall in each) for name, each in times.items()},
            "process_time_ratio": {name: middle(one[0] / plain[0] for one, plain in zip(times[name], times["unguided"]))
                                   for name in times if name != "unguided"},
            "peak_memory_mb": peak_memory_mb()}


@declared
def measure_map(pipe, judge: Judge, head: ReadoutHead, what: Literal["depth", "edges"], count: Count = 100, steps: GuidedSteps = 50, batch: Count = 10,
                seed: Seed = MAP_SEED, guidance_scale: NonNegative = SCALE, sheet: Function | None = None, **settings) -> Progress:
    """Guidance by rendered maps, `what` is 'depth' or 'edges': the judge's depth RMSE or edge F-score against the map,
    guided and unguided, with the same captions and initial noise. `sheet` is called with rows of the first 7, whatever they
    look like.
    """
    objective, name = {"depth": (depth_objective, "depth_rmse"), "edges": (edge_objective, "edge_f_score")}[what]
    scenes, totals = world.sample_scenes(count, seed), {"unguided": {}, "guided": {}}
    for start in mine_of(range(0, count, batch)):
        part = scenes[start:start + batch]
        target = getattr(world.render(part), what)
        rows = {"asked for": target[:7]}
        for how, objectives in (("unguided", []), ("guided", [objective(head, target)])):
            pictures, _ = sample(pipe, [scene.caption for scene in part], objectives, num_inference_steps=steps,
                                 generator=torch.Generator().manual_seed(seed + start), guidance_scale=guidance_scale, **settings)
            reading = judge(pictures)
            score = depth_rmse(reading.depth, target) if what == "depth" else edge_f_score(reading.edges, target)
            rows[how] = pictures[:7]
            _add(totals[how], len(part) / count, {
                name: score.mean(), "all_joints_found": judge.found(reading).float().mean(),
                "attribute_accuracy": attribute_accuracy(reading, facts(part))["mean"]})
        if sheet and not start:
            sheet(rows)
        yield start + len(part), count
    totals = add_up(totals)
    return {"pictures": count, "steps": steps, "seed": seed, "guidance_scale": guidance_scale, **totals, "settings": settings}


@declared
def measure_drag(pipe, judge: Judge, head: ReadoutHead, anatomy: ReadoutHead | None = None, real: Truth = False,
                 count: Drags = 100, steps: GuidedSteps = 50, seed: Seed = DRAG_SEED, guidance_scale: NonNegative = SCALE,
                 inner_steps: Count = 1, moves: Literal["latents", "prediction"] = "latents", sheet: Function | None = None,
                 **settings) -> Progress:
    """Drags with known ground truth, a quarter of `count` of each kind in `cases.KINDS`, default settings of `drag`.

    The sources are generated from held-out captions, or rendered and inverted (`real`); the first seeds are taken whose
    source is a whole puppet by the judge and has room for the drag. Where the handles are joints the judge says where
    they ended, else the nearest patch of pixels does. `sheet` is called with rows of the first 2 of each kind, whatever they
    look like, and with their arrows.
    """
    rows, scale, first = [], guidance_scale, []
    for kind in KINDS:
        cases = drag_sources(pipe, judge, kind, real, steps, seed, scale)
        for number, case in zip(range(count // len(KINDS)), cases):
            start = time.perf_counter()
            edit = drag(head, case.source, case.case.handles, case.case.targets, fixed=case.case.fixed, anatomy=anatomy, **settings)
            picture, _ = sample(pipe, case.scene.caption, num_inference_steps=steps, guidance_scale=scale,
                                **edit | {"inner_steps": inner_steps, "moves": moves})
            seconds = time.perf_counter() - start
            rows.append({"kind": kind, "seed": case.case.seed, **judge_drag(judge, case, picture), "seconds": seconds})
            if number < 2:
                first.append((case, picture[0]))
            yield len(rows), count
    if sheet:
        sheet({"before": [case.picture[0] for case, _ in first], "after": [picture for _, picture in first]},
              [torch.stack((case.case.handles, case.case.targets), 1)[1:2].tolist() for case, _ in first])     # the wrist, the ankle ...
    return {"cases": len(rows), "steps": steps, "inner_steps": inner_steps, "moves": moves, "threads": torch.get_num_threads(), "seed": seed,
            "guidance_scale": scale, "inverted": real,
            **summary(rows), "kinds": {kind: summary([row for row in rows if row["kind"] == kind]) for kind in KINDS},
            "settings": {key: value for key, value in settings.items() if isinstance(value, (int, float, str))}}


@declared
def measure_drag_paces(pipe, judge: Judge, head: ReadoutHead, anatomy: ReadoutHead, count: Drags = 100, seed: Seed = DRAG_SEED) -> Progress:
    """`measure_drag` at the two paces for drags that are kept: `DRAG_FULL`, and in a picture of as many steps as `FULL` has with the
    moves of `editing.HELD`. Seconds are of a clock, with as many threads as torch has."""
    return _at_paces({"drag full": DRAG_FULL, "full, held": FULL | HELD},
                     lambda **pace: measure_drag(pipe, judge, head, anatomy, count=count, seed=seed, **pace))


@dataclass
class DragSource:
    """A picture to drag in, (1, 3, H, W), what is to be done with it, and what the judge reads in it."""
    scene: world.Scene
    picture: torch.Tensor
    reading: Reading
    source: Source
    case: DragCase


@declared
def drag_sources(pipe, judge: Judge, kind: Literal[KINDS], real: Truth = False, steps: Steps = 30, seed: Seed = DRAG_SEED,
                 guidance_scale: NonNegative = SCALE, scheduler=None) -> Iterator[DragSource]:
    """Endless: one after the other the seeds whose picture is a whole puppet and has room for a drag of this kind. `scheduler` is
    the sampler that draws the pictures, by default the pipeline's own."""
    for number in itertools.count(seed):
        scene = world.sample_scene(number)
        if kind == "prop" and (scene.prop == "none" if real else scene.prop != "ball"):
            continue
        frames = world.render(scene)
        if real:
            states = list(invert(pipe, frames.image, scene.caption, num_inference_steps=steps))
            picture = decode(pipe, encode(pipe, frames.image))
        else:
            states = list(guided_sample(pipe, scene.caption, num_inference_steps=steps, guidance_scale=guidance_scale,
                                        scheduler=scheduler, generator=torch.Generator().manual_seed(number)))
            picture = decode(pipe, states[-1].latents)
        reading = judge(picture)
        prop = None if kind != "prop" else prop_points(frames) if real else ball_points(picture[0], scene)
        if not judge.found(reading) or kind == "prop" and prop is None:
            continue
        case = drag_case(kind, frames.joints[0] if real else reading.joints[0], number, picture[0], prop)
        if case is not None:
            yield DragSource(scene, picture, reading, Source.from_states(pipe, states, scene.caption, keep_all=True), case)


def judge_drag(judge: Judge, made: DragSource, picture: torch.Tensor) -> dict:
    """What became of one drag: distances in pixels before and after, fidelity, attributes but the action, wholeness."""
    picture = as_pictures(picture, "picture")
    case, after = made.case, judge(picture)
    if case.joints:
        ended, count = after.joints[0, case.joints], len(case.joints)
    else:
        ended, count = find_patch(made.picture[0], case.handles[0], picture[0])[None], 1
    distance = lambda points: float((points - case.targets[:count]).norm(dim=-1).mean())
    kept = 1 - case.moved().to(picture)
    change = ((picture - made.picture).abs().mean(1, keepdim=True) * kept).sum() / kept.sum()
    looks = {name: value for name, value in made.scene.attributes.items() if name in MEASURED and name != "action"}
    return {"initial_distance": distance(case.handles[:count]), "distance": distance(ended), "fidelity": 1 - float(change),
            "attribute_accuracy": attribute_accuracy(after, [looks])["mean"],
            "attribute_accuracy_before": attribute_accuracy(made.reading, [looks])["mean"],
            "whole": float(whole(judge, after, made.reading)), "all_joints_found": float(judge.found(after))}


@dataclass
class ArrowSource:
    """A picture in which a student draws one arrow, (1, 3, H, W), and what the judge reads in it."""
    scene: world.Scene
    picture: torch.Tensor
    reading: Reading
    source: Source
    case: ArrowCase


@declared
def arrow_sources(pipe, judge: Judge, steps: Steps, seed: Seed = ARROW_SEED, guidance_scale: NonNegative = SCALE,
                  first: Index = 0) -> Iterator[ArrowSource]:
    """Endless: the kinds of `cases.ARROWS` in turn, each in the next seed's picture that is a whole puppet and has room for it.
    `first` is the kind that comes first."""
    kinds = itertools.cycle(ARROWS[first:] + ARROWS[:first])
    kind = next(kinds)
    for number in itertools.count(seed):
        scene = world.sample_scene(number)
        if kind == "prop" and scene.prop == "none":
            continue
        states = list(guided_sample(pipe, scene.caption, num_inference_steps=steps, guidance_scale=guidance_scale,
                                    generator=torch.Generator().manual_seed(number)))
        picture = decode(pipe, states[-1].latents)
        reading = judge(picture)
        case = arrow_case(kind, reading, number) if judge.found(reading) else None
        if case is not None:
            yield ArrowSource(scene, picture, reading, Source.from_states(pipe, states, scene.caption, keep_all=True), case)
            kind = next(kinds)


@declared
def measure_arrows(pipe, judge: Judge, head: ReadoutHead, pose: ReadoutHead, count: Count = 100, steps: GuidedSteps = FULL["num_inference_steps"],
                   seed: Seed = ARROW_SEED, guidance_scale: NonNegative = SCALE, work: FileName | None = None, sheet: Function | None = None,
                   **settings) -> Progress:
    """Single arrows, as a student might draw them: what they hold is dragged (`grabbed`) and, in the same picture, they are dragged
    as they are (`bare`), with the default settings of `drag` and a pose head.

    `left` is what the handle is off its target, over what it was, both as means; the judge says where a joint ended (of a body the
    mean of all 14), the nearest patch of pixels where a prop did. With `work`, a folder, what has been measured there before with the
    same settings, defaults of `drag`, model, heads and judge, which have a file of their own, is not measured again. `sheet` is called with rows (before, grabbed, bare) of the first 12, whatever they look like, and with their arrows.
    """
    asked = {"count": count, "steps": steps, "seed": seed, "guidance_scale": guidance_scale, "settings": settings}
    place, rows, shown = None, [], []
    if work is not None:
        refuse_file(work)
        told = asked | {"count": None, "weights": checksum_of(pipe, judge, head, pose), "defaults": drag_defaults()}
        place = Path(work) / f"arrows-{zlib.crc32(json.dumps(told, sort_keys=True).encode()):08x}.json"
        kept = read_json(place) if place.is_file() else {}
        rows = kept["rows"] if kept.get("asked") == told else []
    number = rows[-1]["seed"] + 1 if rows else seed
    kinds = len(rows) % len(ARROWS)
    sources = arrow_sources(pipe, judge, steps, number, guidance_scale, kinds)
    while len(rows) < count:
        made = next(sources)
        case, row = made.case, {"kind": made.case.kind, "seed": made.case.seed, "action": made.scene.action, "prop": made.scene.prop}
        pictures = [made.picture[0]]
        for how, grabs in (("grabbed", True), ("bare", False)):
            start = time.perf_counter()
            picture, _ = sample(pipe, made.scene.caption, num_inference_steps=steps, guidance_scale=guidance_scale,
                                **drag(head, made.source, case.handle[None], case.target[None], anatomy=pose, grab=grabs, **settings))
            pictures.append(picture[0])
            row[how] = judge_arrow(judge, made, picture) | {"seconds": time.perf_counter() - start}
        rows.append(row)
        if len(shown) < 12:
            shown.append((pictures, torch.stack((case.handle, case.target))[None].tolist()))
        if place is not None:
            write_json(place, {"asked": told, "rows": rows})
        yield len(rows), count
    if sheet and shown:
        sheet(dict(zip(("before", "grabbed", "bare"), zip(*(pictures for pictures, _ in shown)))), [arrow for _, arrow in shown])
    rows = rows[:count]
    return asked | {"n": count, "aim": "left at most 0.25 and whole at least 0.85, grabbed", **_both(rows),
                    "kinds": {kind: _both([row for row in rows if row["kind"] == kind]) for kind in ARROWS if kind in {row["kind"] for row in rows}},
                    "rows": rows}


def drag_defaults() -> str:
    """Names the settings of a drag that says nothing of them, bare and grabbed, as `checksum_of` does weights: what is measured with
    others is not gone on with."""
    takes = inspect.signature(drag).parameters.values()
    told = {each.name: each.default for each in takes if isinstance(each.default, (bool, int, float))} | {"held": HELD}
    return f"{zlib.crc32(json.dumps(told).encode()):08x}"


def judge_arrow(judge: Judge, made: ArrowSource, picture: torch.Tensor) -> dict:
    """What became of an arrow: its way and what is left of it in pixels, whether one whole puppet is left."""
    case, after = made.case, judge(picture)
    way = case.target - case.handle
    if case.joints:
        left = (after.joints[0, case.joints] - made.reading.joints[0, case.joints] - way).norm(dim=-1).mean()
    else:
        left = (find_patch(made.picture[0], case.handle, picture[0], 25) - find_patch(made.picture[0], case.handle, made.picture[0], 25) - way).norm()
    return {"way": float(way.norm()), "distance": float(left), "whole": float(whole(judge, after, made.reading)),
            "all_joints_found": float(judge.found(after))}


def _both(rows: list[dict]) -> dict:
    """Of rows of arrows: how many, and for grabbed and bare ones the means, and the way left."""
    made = {"n": len(rows)}
    for how in ("grabbed", "bare"):
        means = summary([row[how] for row in rows])
        made[how] = {"left": means["distance"] / means["way"], "left_each": sum(row[how]["distance"] / row[how]["way"] for row in rows) / len(rows), **means}
    return made


def summary(rows: list[dict]) -> dict:
    """Means of all numbers of the rows."""
    names = [name for name, value in rows[0].items() if name not in ("kind", "seed")] if rows else []
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


@declared
def measure_identity(pipe, judge: Judge, head: ReadoutHead, pose: ReadoutHead, count: Count = 100, steps: GuidedSteps = 50, batch: Count = 10,
                     seed: Seed = IDENTITY_SEED, guidance_scale: NonNegative = SCALE, sheet: Function | None = None,
                     **settings) -> Progress:
    """One reference picture each; a new prompt that names action, background and prop only; a new pose, for the pose head.
    How often are skin, shirt, trousers and hat those of the reference, with the appearance head and without it?

    `settings` are those of `editing.identity`. `sheet` is called with rows of the first 7, whatever they look like.
    """
    references, wanted = world.sample_scenes(count, seed), world.sample_scenes(count, seed + count)
    totals: dict[str, dict] = {"unguided": {}, "guided": {}, "posed": {}, "posed and guided": {}}
    for start in range(0, count, batch):
        old, new = references[start:start + batch], wanted[start:start + batch]
        rendered, posed = world.render(old).image, world.render(new)
        prompts = [world.caption(scene, ("action", "background", "prop")) for scene in new]
        source = Source.from_picture(pipe, rendered, prompts, torch.Generator().manual_seed(seed + start))
        looks, goal = identity(head, source, **settings), pose_objective(pose, posed.joints)
        clothes = [{name: scene.attributes[name] for name in world.LOOKS} for scene in old]
        words = [{name: scene.attributes[name] for name in ("action", "background", "prop")} for scene in new]
        rows = {"reference": rendered[:7]}
        for how, objectives in zip(totals, ([], looks["objectives"], [goal], [goal, *looks["objectives"]])):
            pictures, _ = sample(pipe, prompts, num_inference_steps=steps, guidance_scale=guidance_scale,
                                 generator=torch.Generator().manual_seed(seed + start), **(looks | {"objectives": objectives}))
            reading = judge(pictures)
            agreement = attribute_accuracy(reading, clothes)
            rows[how] = pictures[:7]
            _add(totals[how], len(old) / count, {
                "agreement": agreement.pop("mean"), **agreement, "words": attribute_accuracy(reading, words)["mean"],
                "pck@0.1": pck(reading.joints, posed.joints, 0.1, posed.visible).mean(),
                "all_joints_found": judge.found(reading).float().mean()})
        if sheet and not start:
            sheet(rows)
        yield start + len(old), count
    return {"pictures": count, "steps": steps, "seed": seed, "guidance_scale": guidance_scale, **totals, "settings": settings}


@declared
def measure_inversion(pipe, count: Count = 20, steps: Steps = 50, seed: Seed = DRAG_SEED, iterations: Iterations = (0, 1, 3)) -> Progress:
    """PSNR in dB of rendered pictures, inverted and sampled again at guidance scale 1, against the autoencoder's round trip,
    for each number of fixed-point iterations."""
    scenes, result = world.sample_scenes(count, seed), {}
    prompts, latents = [scene.caption for scene in scenes], encode(pipe, world.render(scenes).image)
    there = decode(pipe, latents)
    for done, number in enumerate(iterations, 1):
        for state in invert(pipe, None, prompts, latents=latents, num_inference_steps=steps, fixed_point_iterations=number):
            pass
        back, _ = sample(pipe, prompts, latents=state.latents, num_inference_steps=steps, guidance_scale=1.0)
        error = (back - there).square().mean((1, 2, 3))
        result[f"{number} iterations"] = {"psnr_db": float((-10 * error.log10()).mean()), "worst_db": float((-10 * error.log10()).min())}
        yield done, len(iterations)
    return {"pictures": count, "steps": steps, "seed": seed, **result}


@declared
def measure_combination(pipe, heads: dict[str, ReadoutHead], steps: GuidedSteps = 50, repeats: Count = 3, seed: Seed = POSE_SEED) -> Progress:
    """Process time of one picture guided by five objectives, one of each head, against the pose objective alone."""
    if missing := [name for name in TASKS if name not in heads]:
        raise ValueError(f"heads lack {', '.join(missing)}; pass one of each of {', '.join(TASKS)}")
    scene = world.sample_scene(seed)
    frames = world.render(scene)
    states = list(guided_sample(pipe, scene.caption, num_inference_steps=steps, guidance_scale=SCALE,
                                generator=torch.Generator().manual_seed(seed)))
    times: dict[str, list] = {"one": [], "five": []}
    for repeat in range(repeats + 1):                                  # the first one warms up and does not count
        for name in times:
            source = Source.from_states(pipe, states, scene.caption)
            goals = [pose_objective(heads["pose"], frames.joints)]
            if name == "five":
                goals += [depth_objective(heads["depth"], frames.depth), edge_objective(heads["edges"], frames.edges),
                          drag_objective(heads["correspondence"], source, frames.joints[0, :1], frames.joints[0, :1] + 5),
                          identity_objective(heads["appearance"], source)]
            process = time.process_time()
            for state in guided_sample(pipe, scene.caption, goals, num_inference_steps=steps, guidance_scale=SCALE,
                                       latents=source.start):
                pass
            decode(pipe, state.latents)
            if repeat:
                times[name].append(time.process_time() - process)
        yield repeat, repeats
    ratios = sorted(five / one for five, one in zip(times["five"], times["one"]))
    return {"steps": steps, "repeats": repeats, "process_seconds": {name: sorted(t)[repeats // 2] for name, t in times.items()},
            "process_time_ratio": ratios[repeats // 2]}


def _add(totals: dict, share: float, values: dict) -> None:
    """Add `values` to running means; `share` is this batch's part of all pictures."""
    for key, value in values.items():
        totals[key] = totals.get(key, 0.0) + float(value) * share


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


@declared
def write_result(name: Words, result: dict, folder: SomeName = "data/results") -> Path:
    """Write a measurement as `folder`/`name`.json, whole or not at all."""
    return write_json(Path(folder) / f"{name}.json", result)


WHAT = ("base", "base-noise", "base-decoder", "pose", "cost", "depth", "edges", "drag", "drag-inverted", "identity", "inversion", "combination", "tokens", "arrows", "pose-paces",
        "drag-paces")


@declared
def measurement(what: Literal[WHAT], pipe, judge: Judge, heads: FileName, count: Count | None = None, steps: Steps | None = None,
                sheet: Function | None = None) -> Progress:
    """One of `WHAT` with its defaults, or with another count and number of steps."""
    head = lambda name: load_head(Path(heads) / name, pipe)
    few = {} if steps is None else {"steps": steps}
    many = {} if count is None else {"count": count}
    size = few | many
    return {
        "base": lambda: measure_base(pipe, judge, sheet=sheet, **size),
        "base-noise": lambda: measure_base(pipe, judge, eta=WHOLE["eta"], sheet=sheet, **{"steps": WHOLE["num_inference_steps"]} | size),
        "base-decoder": lambda: measure_base_decoder(pipe, judge, sheet=sheet, **{"steps": WHOLE["num_inference_steps"]} | size),
        "pose": lambda: measure_pose(pipe, judge, head("pose"), **size),
        "cost": lambda: measure_cost(pipe, head("pose"), **few),
        "depth": lambda: measure_map(pipe, judge, head("depth"), "depth", sheet=sheet, **size),
        "edges": lambda: measure_map(pipe, judge, head("edges"), "edges", sheet=sheet, **size),
        "drag": lambda: measure_drag(pipe, judge, head("correspondence"), head("pose"), sheet=sheet, **size),
        "drag-inverted": lambda: measure_drag(pipe, judge, head("correspondence"), head("pose"), real=True, sheet=sheet, **size),
        "identity": lambda: measure_identity(pipe, judge, head("appearance"), head("pose"), sheet=sheet, **size),
        "inversion": lambda: measure_inversion(pipe, **size),
        "combination": lambda: measure_combination(pipe, {name: head(name) for name in TASKS}, **few),
        "tokens": lambda: measure_tokens(pipe, **many),
        "pose-paces": lambda: measure_pose_paces(pipe, judge, head("pose"), **many),
        "drag-paces": lambda: measure_drag_paces(pipe, judge, head("correspondence"), head("pose"), **many),
        "arrows": lambda: measure_arrows(pipe, judge, head("correspondence"), head("pose"), sheet=sheet, work=ARROW_WORK, **size)}[what]()


TAKES = dict.fromkeys(WHAT, Count) | {"drag": Drags, "drag-inverted": Drags, "drag-paces": Drags, "cost": None, "combination": None}     # as --count
ARROW_WORK = "runs/arrows"                                 # what has been measured, so that it can go on after a break
SHARED = ("pose", "depth", "edges")                        # several processes take a part of the batches each (see `processes`)
HEADLESS = ("base", "base-noise", "base-decoder", "inversion", "tokens")                 # and without guidance


def check_options(parser: argparse.ArgumentParser, chosen, count: int | None, steps: int | None, heads: str | None) -> None:
    """Let the parser refuse a count or steps that a measurement cannot have, and options without any effect on it."""
    for what in chosen:
        if steps == 1 and what not in HEADLESS:
            parser.error(f"--steps is 1, of which no half can be guided in {what}: give at least 2")
        if count is not None and TAKES[what] is None:
            parser.error(f"--count has no effect on {what}, which measures one picture several times: leave it out")
        try:
            checked("--count", count, TAKES[what]) if count is not None else None
        except ValueError as error:
            parser.error(f"{error}, for {what}")
        if heads is not None and what in HEADLESS:
            parser.error(f"--heads has no effect on {what}, which uses no head: leave it out")
        if steps is not None and what == "tokens":
            parser.error("--steps has no effect on tokens, for which nothing is sampled: leave it out")
        if steps is not None and what.endswith("-paces"):
            parser.error(f"--steps has no effect on {what}, whose paces say it: leave it out")


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Measure and write data/results/NAME.json.")
    parser.add_argument("what", nargs="+", choices=WHAT)
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--heads", default=None, help="folder with a folder for each head (data/heads)")
    parser.add_argument("--count", type=option(Count), default=None, help="pictures (500 for base, else 100; 20 for inversion, 64 pairs for tokens)")
    parser.add_argument("--steps", type=option(Steps), default=None, help="DDIM steps (50)")
    parser.add_argument("--out", default=find_folder("data/results"), help="folder of the results (data/results)")
    options = parser.parse_args(arguments)
    check_options(parser, options.what, options.count, options.steps, options.heads)
    with one_sentence(parser):
        refuse_file(options.out)
        pipe, judge, heads = load_pipeline(options.model), load_judge(), "data/heads" if options.heads is None else options.heads
        todo = {what: measurement(what, pipe, judge, heads, options.count, options.steps) for what in options.what}
    for what, each in todo.items():
        if what not in SHARED and not is_main():                # cannot be shared: the first process does it alone
            continue
        result = finish(each, lambda done, of: print(f"{what}: {done} of {of}", flush=True))
        if not is_main():                                       # one process writes
            continue
        print(json.dumps(result, indent=1))
        print("written to", write_result(what, result, options.out))


if __name__ == "__main__":
    main()
