"""How many steps a baseline learns for: tried as settings are, on scenes that the contest does not ask for, and written down.

With few labels a long training learns these pictures by heart, their looks included, and a short one does not steer; the loss on other
pictures tells of looks alone. Chosen is by `contest.merit`, as everything else: `baselines.usual_steps` is what came of it.
"""
from __future__ import annotations

from pathlib import Path
from typing import Iterator

from . import baselines as B, contest as C, many as M, seeds, statistics as T
from ..files import add_rows, read_json, rows_so_far

KINDS_OF = {"contestant": str, "task": str, "labels": int, "seed": int, "steps": int, "loss": float, "control": float, "whole": float,
            "attributes": float, "merit": float, "pictures": int, "version": str}
KEY = ("contestant", "task", "labels", "seed", "steps")


def read_table(table) -> list[dict]:
    return rows_so_far(table, KINDS_OF, "numbers of steps")


def tried(pipe, judge, jobs: list[tuple], table, tuned: list[dict], runs, pictures: int = 32) -> Iterator:
    """Train each of (kind, task, labels, seed, steps) that `table` lacks, in a folder of its own below `runs`, and write how near it comes in
    so many pictures of tuning scenes with the settings that were chosen for its kind. Yields the states of the trainings."""
    version = C.version_of(pipe)
    there = {tuple(row[name] for name in KEY) for row in read_table(table) if row["pictures"] >= pictures and row["version"] == version}
    for kind, task, labels, seed, steps in jobs:
        if (kind, task, labels, seed, steps) in there:
            continue
        place = Path(runs) / "lengths" / str(steps)
        yield from M.training(kind, task, labels, seed, str(place), pipe, steps=steps)
        told, rows = read_json(B.folder_of(kind, task, labels, seed, place) / "training.json"), []
        network, settings = C.load_parts(kind, task, labels, seed, pipe, place), C.chosen(tuned, kind, task)
        for start in range(0, pictures, C.BATCH):
            cases = C.make_cases(pipe, task, seeds.TUNE.first + start, min(C.BATCH, pictures - start))
            rows += C.measure(pipe, judge, kind, network, cases, 1.0, settings)
        mean = lambda name: sum(row[name] for row in rows) / len(rows)
        add_rows(table, [{"contestant": kind, "task": task, "labels": labels, "seed": seed, "steps": steps,
                          "loss": told["check_loss"], **{name: mean(name) for name in T.NUMBERS}, "merit": sum(map(C.merit, rows)) / len(rows),
                          "pictures": len(rows), "version": version}], KINDS_OF, KEY, "numbers of steps", ordered=True)
