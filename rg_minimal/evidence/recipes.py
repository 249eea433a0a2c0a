"""How long a baseline learns, and how fast: tried as settings are, on scenes that the contest does not ask for, and written down.

With few labels a long training learns these pictures by heart, their looks included, and a short one does not steer; the loss on other
pictures tells of looks alone. Chosen is by `contest.merit`, as everything else: `baselines.usual_steps` and the recipe's `lr` are what came of it.
"""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Iterator

from . import baselines as B, contest as C, seeds, statistics as T
from .learn import refuse_taken
from ..denoisers import denoiser
from ..files import add_rows, read_json, rows_so_far
from ..puppets.measure import checksum_of

KINDS_OF = {"contestant": str, "task": str, "labels": int, "seed": int, "steps": int, "lr": float, "settings": str, "loss": float, "control": float, "whole": float,
            "attributes": float, "merit": float, "pictures": int, "version": str}
KEY = ("contestant", "task", "labels", "seed", "steps", "lr", "settings")


def read_table(table) -> list[dict]:
    return rows_so_far(table, KINDS_OF, "recipes")


def tried(pipe, judge, jobs: list[B.BaselineRecipe], table, tuned: list[dict], runs, pictures: int = 32) -> Iterator:
    """Train by each recipe that `table` lacks, in folders of its own below `runs`, and write how near each comes in so many pictures of
    tuning scenes with the settings that were chosen for its kind. Yields the states of the trainings. ValueError, before the first of them,
    where the table's rows are of another model or judge, one could not be trained, or a kind was not tuned to its end."""
    version, rows = checksum_of(pipe, judge), C.of_one_model(read_table(table), table, pipe, judge)
    there = {tuple(row[name] for name in KEY) for row in rows if row["pictures"] >= pictures}
    todo = {}
    for job in jobs:
        recipe = replace(job, runs=str(Path(runs) / "recipes" / f"{job.steps}-{job.lr:g}"))
        settings = C.chosen(tuned, recipe.kind, recipe.task, recipe.labels)
        key = recipe.kind, recipe.task, recipe.labels, recipe.seed, recipe.steps, recipe.lr, json.dumps(settings)
        if key not in there:
            refuse_taken(recipe.folder, B.numbers(recipe), B.FILES)
            todo[key] = recipe, settings
    for key, (recipe, settings) in todo.items():
        yield from B.train_baseline(recipe, pipe)
        network, rows = B.load_baseline(recipe.folder).to(denoiser(pipe).device), []
        for start in range(0, pictures, C.BATCH):
            cases = C.make_cases(pipe, recipe.task, seeds.TUNE.first + start, min(C.BATCH, pictures - start))
            rows += [{"task": recipe.task, **row} for row in C.measure(pipe, judge, recipe.kind, network, cases, 1.0, settings)]
        mean = lambda name: sum(row[name] for row in rows) / len(rows)
        add_rows(table, [{**dict(zip(KEY, key)), "loss": read_json(recipe.folder / "training.json")["check_loss"],
                          **{name: mean(name) for name in T.NUMBERS}, "merit": sum(map(C.merit, rows)) / len(rows), "pictures": len(rows),
                          "version": version}], KINDS_OF, KEY, "recipes", ordered=True)
