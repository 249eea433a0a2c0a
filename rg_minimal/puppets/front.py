"""The front of control against cost: how near guidance comes, and what becomes of the picture, for what it costs.

    python -m rg_minimal.puppets.front --seeds 3 --pictures 16        # writes data/results/front.csv, and goes on where it stopped

A *point* is a setting of `guided_sample`: a number of steps, moves a step, a sampler ... Each is measured on the same held-out
captions, poses, maps and noise as all others, so they compare in pairs. One row is one picture, and says by which model and judge,
and with which heads, it was made; `summarize` makes means and 95 % intervals of them, and `classroom.plots.front` the figure.
"""
from __future__ import annotations

import argparse
import itertools
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from pydantic import BeforeValidator
from torch import Tensor

from . import world
from .cases import KINDS
from .editing import drag, identity
from .heads import depth_objective, edge_objective, pose_objective
from .judge import depth_rmse, edge_f_score, load_judge, pck
from .measure import SCALE, Progress, checksum_of, drag_defaults, drag_sources, facts, finish, judge_drag
from ..checks import Count, FileName, Seed, Text, Texts, declared, one_sentence, option, stoppable
from ..denoisers import denoiser
from ..files import add_rows, read_rows, refuse_file, rows_so_far
from ..paces import DRAFT, DRAG_FULL, FULL, WHOLE
from ..pipelines import find_folder, load_head, load_pipeline, sample
from ..reference import SETTINGS as REFERENCE
from ..sources import Source
from ..undo import undone

FRONT = "data/results/front.csv"
FRONT_SEED = world.HELD_OUT + 80_000
NUMBERS = ("control", "whole", "attributes", "passes")
KINDS_OF = {"task": str, "point": str, "seed": int, "picture": int, **dict.fromkeys(NUMBERS, float), "version": str}
HEADS = {"pose": ["pose"], "depth": ["depth"], "edges": ["edges"], "identity": ["appearance"], "drag": ["correspondence", "pose"]}

# `control` is PCK@0.05 of poses, RMSE of depth, F-score of edges, the share of looks that agree, a drag's pixels from its target.


@dataclass(frozen=True)
class Point:
    """A name for the figure, settings of `guided_sample` and of what makes the objectives, a sampler (None is DDIM), and a schedule
    of the objectives over the steps (None is their own)."""
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    sampler: Any = None
    schedule: Any = None

    def scheduler(self, pipe) -> dict:
        if self.sampler is None:
            return {}
        return {"scheduler": self.sampler.from_config(pipe.scheduler.config, timestep_spacing="trailing")}

    def scheduled(self, objectives) -> list:
        return [each if self.schedule is None else replace(each, schedule=self.schedule) for each in objectives]


def every_second(done: float) -> float:
    """A schedule: of 25 steps every second one is guided."""
    return float(round(done * 25) % 2 == 0)


def _points(*counts, **settings) -> list[Point]:
    return [Point(", ".join([f"{steps} steps", *(f"{key}={value}" for key, value in settings.items())]),
                  {"num_inference_steps": steps, **settings}) for steps in counts]


def _tried(**settings) -> list[Point]:
    """What is tried of every property that is read off one picture; `settings` are of the samplers without new noise."""
    quick = {"num_inference_steps": 8, "inner_steps": 2, "step_size": 0.07, **settings}
    return [*_points(50, 15, 10, 8, 6), *_points(25, 10, 8, 6, inner_steps=2),
            Point("10 steps, step_size=0.1", {"num_inference_steps": 10, "step_size": 0.1}),
            Point("12 steps, on the prediction", {"num_inference_steps": 12, "moves": "prediction", "step_size": 0.4}),
            Point("8 steps, DPM-Solver++", quick, sampler=DPMSolverMultistepScheduler),
            Point("8 steps, UniPC", quick, sampler=UniPCMultistepScheduler),
            Point("25 steps, every second one", {"num_inference_steps": 25}, schedule=every_second),
            Point("25 steps, until 0.3", {"num_inference_steps": 25}, {"stop": 0.3}),
            Point("25 steps, until 0.8", {"num_inference_steps": 25}, {"stop": 0.8})]


# What the authors' settings leave out of `identity` and `drag`: their guidance is over at half of the steps, and a drag has the
# correspondence head alone, which leaves the handles as strongly as it goes to the targets, in a picture that is free everywhere.
# Their term for the looks of the rest, which `drag` has no use for where the rest is kept, is left out of both.
HALF = {"start": 0.0, "stop": 0.5}
BARE = {"anatomy": None, "stop": 0.5, "eta": 0.0, "radius": 0.0, "anti_ghosting": 1.0, "free": torch.ones(1, 1, world.SIZE, world.SIZE)}

POINTS: dict[str, list[Point]] = {
    "none": [*_points(50, 25, 15, 10, 8, 6), Point("whole", WHOLE), *_points(25, eta=1.0),
             Point("10 steps, trailing DDIM", {"num_inference_steps": 10}, sampler=DDIMScheduler),
             Point("10 steps, DPM-Solver++", {"num_inference_steps": 10}, sampler=DPMSolverMultistepScheduler)],
    "pose": [Point("draft", DRAFT), Point("full", FULL), Point("whole", WHOLE), Point("reference", {"num_inference_steps": 50, **REFERENCE}),
             *_points(25, eta=1.0), *_tried()],
    **{task: [Point("draft", DRAFT), Point("full", FULL), Point("reference", {"num_inference_steps": 50, **REFERENCE}),
              *_points(25, eta=1.0), *_tried()] for task in ("depth", "edges")},
    "identity": [Point("draft", DRAFT), Point("full", FULL), Point("reference", {"num_inference_steps": 50, **REFERENCE, "eta": 0.0}, HALF),
                 *_tried(eta=0.0), *_points(25, eta=0.0)],
    "drag": [Point("full", DRAG_FULL), Point("reference", {"num_inference_steps": 50, **REFERENCE}, BARE), *_points(50, 25, 15, 10), *_points(25, 20, 15, 10, inner_steps=2),
             Point("25 steps, step_size=0.1", {"num_inference_steps": 25, "step_size": 0.1}),
             *(Point(f"{steps} steps, on the prediction", {"num_inference_steps": steps, "moves": "prediction", "step_size": step})
               for steps, step in ((25, 0.8), (20, 0.8), (12, 1.0), (10, 1.0))),
             Point("25 steps, every second one", {"num_inference_steps": 25, "step_size": 0.2}, schedule=every_second),
             Point("25 steps, until 0.5", {"num_inference_steps": 25, "step_size": 0.1}, {"stop": 0.5}),
             Point("25 steps, eta=0.0", {"num_inference_steps": 25, "step_size": 0.1}, {"eta": 0.0}),
             *(Point(f"{steps} steps, {name}", {"num_inference_steps": steps, "inner_steps": 2, "step_size": step}, {"eta": 0.0}, sampler)
               for steps, step, name, sampler in ((15, 0.05, "DPM-Solver++", DPMSolverMultistepScheduler),
                                                  (10, 0.07, "DPM-Solver++", DPMSolverMultistepScheduler),
                                                  (15, 0.05, "UniPC", UniPCMultistepScheduler)))]}

ANEW = tuple(point.name for point in POINTS["none"] if point.settings.get("eta"))           # unguided, with new noise at each step


def _tasks(value) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names or set(names) - set(POINTS):
        raise ValueError(f"choose from {', '.join(POINTS)}")
    return names


Tasks = Annotated[tuple, BeforeValidator(_tasks)]


class Passes:
    """Counts what goes through the denoiser, in pictures: forward, and once more where gradients are kept."""

    def __init__(self):
        self.count = 0

    def __call__(self, module, args):
        self.count += len(args[0]) * (2 if torch.is_grad_enabled() else 1)


@contextmanager
def counted(pipe):
    """`with counted(pipe) as passes:` pictures are made; `passes.count` pictures went through the denoiser meanwhile."""
    passes = Passes()
    hook = denoiser(pipe).network.register_forward_pre_hook(passes)
    with undone(hook.remove):
        yield passes


def _made(pipe, prompts, objectives=(), **settings):
    """Pictures and the denoiser's passes a picture."""
    with counted(pipe) as passes:
        pictures, _ = sample(pipe, prompts, objectives, **settings)
    return pictures, passes.count / len(pictures)


def _together(pipe, judge, head, task, point, seed, count):
    """Rows of one point and seed, made in one batch: (control, whole, attributes, passes) for each picture."""
    scenes, noise = world.sample_scenes(count, seed), torch.Generator().manual_seed(seed)
    frames, prompts, settings, words = world.render(scenes), [scene.caption for scene in scenes], point.settings, facts(scenes)
    if task == "identity":
        wanted = world.sample_scenes(count, seed + count)
        prompts = [world.caption(scene, ("action", "background", "prop")) for scene in wanted]
        words = [{name: scene.attributes[name] for name in ("action", "background", "prop")} for scene in wanted]
        source = Source.from_picture(pipe, frames.image, prompts, torch.Generator().manual_seed(seed))
        looks = identity(head, source, **point.objective)
        objectives, settings = looks.pop("objectives"), looks | settings
    else:
        make = {"pose": lambda: pose_objective(head, frames.joints, **point.objective),
                "depth": lambda: depth_objective(head, frames.depth, **point.objective),
                "edges": lambda: edge_objective(head, frames.edges, **point.objective)}
        objectives = [make[task]()] if task in make else []
    pictures, passes = _made(pipe, prompts, point.scheduled(objectives), generator=noise, guidance_scale=SCALE,
                             **point.scheduler(pipe), **settings)
    reading = judge(pictures)
    if task == "identity":
        control = agreement(reading.attributes, [{name: scene.attributes[name] for name in world.LOOKS} for scene in scenes])
    else:
        control = control_of(task, reading, frames).tolist()
    return [(*values, passes) for values in
            zip(control, judge.found(reading).float().tolist(), agreement(reading.attributes, words))]


def control_of(task: str, reading, frames) -> Tensor:
    """How near pictures, as the judge reads them, come to rendered frames, (B,): PCK@0.05, RMSE of depth, or F-score of edges."""
    return {"none": lambda: torch.zeros(len(frames)), "pose": lambda: pck(reading.joints, frames.joints, 0.05, frames.visible),
            "depth": lambda: depth_rmse(reading.depth, frames.depth),
            "edges": lambda: edge_f_score(reading.edges, frames.edges)}[task]()


def _drags(pipe, judge, head, pose, point, seed, count):
    """Rows of one point and seed of drags, as many of each kind of `cases.KINDS`, one after the other."""
    steps, sampler = point.settings["num_inference_steps"], point.scheduler(pipe)
    for kind in KINDS:
        for case in itertools.islice(drag_sources(pipe, judge, kind, False, steps, seed, SCALE, **sampler), count // len(KINDS)):
            settings = drag(head, case.source, case.case.handles, case.case.targets, fixed=case.case.fixed,
                            **{"anatomy": pose} | point.objective) | point.settings
            picture, passes = _made(pipe, case.scene.caption, point.scheduled(settings.pop("objectives")), guidance_scale=SCALE,
                                    **sampler, **settings)
            row = judge_drag(judge, case, picture)
            yield row["distance"], row["whole"], row["attribute_accuracy"], passes


def agreement(attributes, said) -> list[float]:
    """For each picture the share of the attributes `said` that the judge reads."""
    return [sum(read[name] == value for name, value in each.items()) / len(each) for read, each in zip(attributes, said)]


@declared
def measure_front(pipe, judge, heads: FileName = "data/heads", tasks: Tasks = tuple(POINTS), seeds: Count = 3, pictures: Count = 16,
                  table: FileName = FRONT, points: Texts = ()) -> Progress:
    """Measure what `table` lacks, a point and a seed at a time, and add it after each, also where other processes do; ends with all rows.

    The seeds are those of held-out scenes that no other measurement has. A drag costs more, so there are a third as many.
    `points` are the names of those that are measured, all where none is given. ValueError at the call, also where the table has rows of
    another model, head or judge, or of drags with other defaults, or batches of another size.
    """
    if Path(table).is_dir():
        raise ValueError(f"table is {str(table)!r}, which is a folder; pass a file in it, such as {Path(table) / 'front.csv'}")
    refuse_file(Path(table).absolute().parent)
    known = {point.name for task in tasks for point in POINTS[task]}
    if set(points) - known:
        raise ValueError(f"points is {points!r}; choose from {', '.join(sorted(known))}")
    loaded = {task: [load_head(Path(heads) / name, pipe) for name in HEADS.get(task, ())] for task in POINTS}
    versions = {task: "-".join([checksum_of(pipe, judge), *(checksum_of(None, None, head) for head in loaded[task]),
                                *([drag_defaults()] if task == "drag" else [])]) for task in POINTS}
    fitting = lambda rows: _fitting(rows, table, versions, {task: _size(task, pictures) for task in tasks})
    rows = fitting(rows_so_far(table, KINDS_OF, "the front"))
    done = {(row["task"], row["point"], row["seed"]) for row in rows}
    todo = [(task, point, FRONT_SEED + 1000 * number) for number in range(seeds) for task in tasks for point in POINTS[task]
            if (not points or point.name in points) and (task, point.name, FRONT_SEED + 1000 * number) not in done]
    return _measured(pipe, judge, loaded, versions, todo, pictures, table, fitting)


def _measured(pipe, judge, loaded, versions, todo, pictures, table, fitting) -> Progress:
    for number, (task, point, seed) in enumerate(todo, 1):
        if task == "drag":
            made = _drags(pipe, judge, *loaded[task], point, seed, _size(task, pictures))
        else:
            made = _together(pipe, judge, *(loaded[task] or [None]), task, point, seed, pictures)
        rows = [dict(zip(KINDS_OF, (task, point.name, seed, i, *row, versions[task]))) for i, row in enumerate(made)]
        add_rows(table, rows, KINDS_OF, list(KINDS_OF)[:4], "the front", kept=fitting)
        yield number, len(todo)
    return {"rows": read_front(table)}


def _size(task: str, pictures: int) -> int:
    """How many rows a point and a seed have: of drags as many of each kind."""
    return max(pictures // 3 // len(KINDS), 1) * len(KINDS) if task == "drag" else pictures


def _fitting(rows: list[dict], table, versions: dict[str, str], sizes: dict[str, int]) -> list[dict]:
    """The rows of a table. ValueError where one is not of this model, this judge, the task's heads and these defaults of a drag, or of a
    batch of another size than now: what is made in one batch depends on its size, and would be no pair of what is measured now."""
    for row in rows:
        if row["version"] != versions.get(row["task"]):
            others = "model, head, judge or default of a drag" if row["task"] == "drag" else "model, head or judge"
            raise ValueError(f"{table} has rows of {row['task']} by another {others} ({row['version']}): delete them, keep it elsewhere, or name "
                             "another table")
    for (task, point, seed), count in Counter((row["task"], row["point"], row["seed"]) for row in rows).items():
        if count != sizes.get(task, count):
            raise ValueError(f"{table} has {count} pictures of {task}, {point}, seed {seed}, where {sizes[task]} are asked for: pass the number "
                             "of pictures that it was measured with, delete these, or name another table")
    return rows


def read_front(table=FRONT) -> list[dict]:
    """The rows of a table, numbers as numbers. Raises ValueError where it is damaged."""
    return read_rows(find_folder(table), KINDS_OF, "the front")


def bootstrap(values: Tensor, resamples: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The ends, (k,) each, of the 95 % intervals of the means of n measurements (n, k), by drawing n of them again and again."""
    drawn = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = torch.quantile(values[drawn].mean(1), torch.tensor([0.025, 0.975]), dim=0)
    return low, high


@declared
def summarize(rows: list, resamples: Count = 1000, seed: Seed = 0) -> list[dict]:
    """A dict for each task and point: `pictures`, `seeds`, and of each number its mean and `NAME_low`, `NAME_high`, the 95 %
    interval of the bootstrap over pictures."""
    result = []
    for task, point in dict.fromkeys((row["task"], row["point"]) for row in rows):
        part = [row for row in rows if (row["task"], row["point"]) == (task, point)]
        summary = {"task": task, "point": point, "pictures": len(part), "seeds": len({row["seed"] for row in part})}
        values = torch.tensor([[row[name] for name in NUMBERS] for row in part])                          # (n, 4)
        low, high = bootstrap(values, resamples, seed)
        for i, name in enumerate(NUMBERS):
            summary |= {name: float(values[:, i].mean()), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
        result.append(summary)
    return result


@declared
def compare(rows: list, task: Tasks, one: Text, other: Text, resamples: Count = 10_000, seed: Seed = 0) -> dict:
    """How much more `one` point has than `other`, of each number, in pairs of pictures of the same caption and noise: the mean
    and `NAME_low`, `NAME_high`, its 95 % interval by the bootstrap over pairs, and `pairs`, how many there are."""
    if len(task) != 1:
        raise ValueError(f"task is {task!r}; compare the points of one task at a time")
    values = {point: {(row["seed"], row["picture"]): [row[name] for name in NUMBERS] for row in rows
                      if row["task"] == task[0] and row["point"] == point} for point in (one, other)}
    both = sorted(set(values[one]) & set(values[other]))
    if not both:
        raise ValueError(f"{task[0]} has no pairs of {one!r} and {other!r}: measure both with the same seeds")
    more = torch.tensor([values[one][key] for key in both]) - torch.tensor([values[other][key] for key in both])      # (n, 4)
    low, high = bootstrap(more, resamples, seed)
    found = {"pairs": len(both)}
    for i, name in enumerate(NUMBERS):
        found |= {name: float(more[:, i].mean()), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return found


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Measure control against cost; goes on where it stopped.")
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(POINTS)}; all by default")
    parser.add_argument("--seeds", type=option(Count), default=3)
    parser.add_argument("--pictures", type=option(Count), default=16, help="of each point and seed; a third of it in drags")
    parser.add_argument("--points", nargs="+", default=(), help="names of points; all by default")
    parser.add_argument("--table", default=find_folder(FRONT), help=f"goes on from here ({FRONT})")
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        tasks = tuple(options.tasks) or tuple(POINTS)
        run = measure_front(load_pipeline(), load_judge(), tasks=tasks, seeds=options.seeds, pictures=options.pictures, table=options.table,
                            points=tuple(options.points))
        finish(run, lambda done, of: print(f"{done} of {of}", flush=True))
    for row in summarize(read_front(options.table)):
        print(f"{row['task']:9} {row['point']:32} control {row['control']:.3f}  whole {row['whole']:.3f}  attributes "
              f"{row['attributes']:.3f}  passes {row['passes']:.1f}")


if __name__ == "__main__":
    main()
