"""The trainings and the contest by several processes, on Dask (`rg_minimal.workers`): `--workers 2`, or `--scheduler ADDRESS`.

A job is one training, or one contestant with one setting on all pictures. Workers return rows, and one process writes the
table, so a run that is ended keeps every job that was done. All have to see the folder of `runs` under the same path. The numbers
are those of one process.
"""
from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Iterator

from . import baselines as B, contest as C, ideas as I, learn, rivals as R, seeds
from ..pipelines import load_pipeline
from ..puppets.judge import load_judge
from ..workers import joined

RETRIES = 3                                                 # workers that a job may outlive
LEARNS_FROM = {"predictor": "head"}                         # is trained when the other one is there


def training(kind: str, task: str, labels: int, seed: int, runs, pipe, **changes):
    """The generator that trains one contestant; `changes` are of its recipe (`steps`, `lr`). Without `steps` a baseline gets
    `B.usual_steps`."""
    if kind in B.KINDS:
        return B.train_baseline(baseline(kind, task, labels, seed, runs, **changes), pipe)
    make = {"head": B.train_readout, "linear": R.train_linear, "detector": R.train_detector, "predictor": I.train_predictor}[kind]
    return make(task, labels, seed, runs, pipe, **changes)


def baseline(kind: str, task: str, labels: int, seed: int, runs=B.RUNS, **changes) -> B.BaselineRecipe:
    recipe = B.BaselineRecipe(kind, task, labels, seed, runs=str(runs), **changes)
    return recipe if "steps" in changes else replace(recipe, steps=B.usual_steps(labels, recipe))


def recipe_of(kind: str, task: str, labels: int, seed: int, **changes) -> dict:
    """What a training.json will say of how a contestant of `training` was trained."""
    if kind in B.KINDS:
        return B.numbers(baseline(kind, task, labels, seed, **changes))
    own = {"head": {}, "linear": R.LINEAR, "detector": R.DETECTOR, "predictor": I.PREDICTOR}[kind]
    return B.recipe_of(task, labels, seed, **{**own, **changes})


def refuse_taken(kind: str, task: str, labels: int, seed: int, runs, **changes) -> None:
    """ValueError, before anything is trained, where `training` would raise one when it begins."""
    seeds.training_scenes(seed, labels)
    learn.refuse_taken(B.folder_of(kind, task, labels, seed, runs), recipe_of(kind, task, labels, seed, **changes), B.FILES if kind in B.KINDS else ())


def train_all(jobs: list[tuple], runs, workers: int = 2, scheduler: str | None = None) -> Iterator[tuple[int, int]]:
    """Train (kind, task, labels, seed, changes) each, as `training`, those first that others learn from; yields (done, of). Jobs
    that are done end at once."""
    runs, done = str(Path(runs).resolve()), 0
    jobs = [each for i, each in enumerate(jobs) if each not in jobs[:i]]            # two would train in one folder
    with joined(scheduler, min(workers, len(jobs)), RETRIES) as client:
        for later in (False, True):
            wave = [each for each in jobs if (each[0] in LEARNS_FROM) is later]
            for _ in _results(client, train_one, [(*each, runs) for each in wave]):
                done += 1
                yield done, len(jobs)


def train_one(kind, task, labels, seed, changes, runs) -> None:
    """In a worker: one training to its end."""
    for _ in training(kind, task, labels, seed, runs, loaded()[0], **changes):
        pass


def measure_all(todo: list[tuple], table, scenes: seeds.Scenes, pictures: int, settings, runs, workers: int = 2,
                scheduler: str | None = None) -> Iterator[tuple[int, int]]:
    """`contest.run` by several processes; yields (jobs done, of)."""
    pipe, judge = loaded()
    runs = str(Path(runs).resolve())
    jobs: dict[tuple, list[int]] = {}
    for key, start in C.missing(C.of_these(C.rows_of(table, pipe, judge), runs), todo, scenes, pictures, settings):
        jobs.setdefault(key, []).append(start)
    if not jobs:
        return
    for key in jobs:
        C.require(*key[:4], runs)
    C.real_looks(pipe, judge, runs)                         # once, before all ask for it
    with joined(scheduler, min(workers, len(jobs)), RETRIES) as client:
        for number, made in enumerate(_results(client, measure_one, [(key, starts, scenes, pictures, runs) for key, starts in jobs.items()]), 1):
            C.add_to(table, made)
            yield number, len(jobs)


def measure_one(key, starts, scenes, pictures, runs) -> list[dict]:
    """In a worker: the rows of one contestant with one setting."""
    pipe, judge = loaded()
    return [row for rows in C.measured(pipe, judge, [(key, start) for start in starts], scenes, pictures, runs) for row in rows]


@cache
def loaded() -> tuple:
    """Model and judge, once in each process."""
    return load_pipeline(), load_judge()


def _results(client, job, asked: list[tuple]) -> Iterator:
    """What the jobs return, as they end. One that fails ends all, with its error."""
    from distributed import as_completed
    futures = [client.submit(job, *each, pure=False, retries=RETRIES) for each in asked]
    for future in as_completed(futures):
        yield future.result()
