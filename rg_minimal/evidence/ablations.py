"""Heads that lack a part of the paper's, or have it otherwise: trained as the others are, on the same labelled pictures.

    python -m rg_minimal.evidence ablate pose --labels 100        # trains, scores (ablations.csv), lets each guide (contest.csv)
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterator

import torch

from . import seeds
from .baselines import CHECKED, RUNS, folder_of, labelled, train_readout
from ..denoisers import denoiser
from ..keypoints import heatmaps
from ..puppets.front import read_rows, write_rows
from ..puppets.heads import TASKS, TIMESTEPS, Samples, Task, new_head, score_head
from ..puppets.training import TrainingState
from ..pipelines import load_head, load_pipeline
from ..readout import Reading, spatial_loss
from ..saving import ReadoutHead

OFF = -30.0                             # a mixing weight with which a layer counts for nothing
KINDS_OF = {"ablation": str, "task": str, "labels": int, "seed": int, "timestep": int, "score": float,
            "parameters": int}


class MirroredHead(ReadoutHead):
    """Is told 999 - t, as the authors' training tells it; once saved and loaded it is an ordinary head, which is told
    t."""

    def embed(self, reading):
        return super().embed(Reading(reading.model, reading.features, reading.latents, 999 - reading.timestep))


def _mirrored(pipe, task, seed):
    head = new_head(pipe, task, seed)
    return MirroredHead.from_tensors(head.config, head.state_dict(), "a new head").to(denoiser(pipe).device)


def _only(*layers):
    def make(pipe, task, seed):
        head = new_head(pipe, task, seed)
        with torch.no_grad():
            head.mixing_weights[[i for i in range(len(head.mixing_weights)) if i not in layers]] = OFF
        return head
    return make


def _equal_mixing(pipe, task, seed):
    head = new_head(pipe, task, seed)
    head.mixing_weights.requires_grad_(False)
    return head


def _without_timestep(pipe, task, seed):
    config = replace(new_head(pipe, task, seed).config, use_timestep=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReadoutHead(config).to(denoiser(pipe).device)


def _plain(task: Task) -> Task:
    """The task with a plain squared error, in which the many empty cells count as much as the few others."""
    losses = {"pose": lambda readout, joints, visible: spatial_loss(readout, heatmaps(joints, 32, 128, 1.5)),
              "edges": lambda readout, target: spatial_loss(readout, target)}
    return replace(task, loss=losses.get(task.name, task.loss))


@dataclass(frozen=True)
class Ablation:
    """What is otherwise: how the head is made, the task, the settings of `train_task`."""
    head: Callable = new_head
    task: Callable[[Task], Task] = lambda task: task
    settings: dict = field(default_factory=dict)
    tasks: tuple[str, ...] = ("pose", "depth", "edges")


ABLATIONS = {
    **{f"layer{i}": Ablation(_only(i)) for i in range(6)},
    "last3": Ablation(_only(3, 4, 5)), "first3": Ablation(_only(0, 1, 2)),
    "equal_mixing": Ablation(_equal_mixing), "without_timestep": Ablation(_without_timestep), "mirrored": Ablation(_mirrored),
    "width256": Ablation(lambda pipe, task, seed: new_head(pipe, task, seed, width=256)),
    "plain_loss": Ablation(task=_plain, tasks=("pose", "edges")),
    **{f"below{t}": Ablation(settings={"timesteps": (0, t)}) for t in (250, 500)},
    "above500": Ablation(settings={"timesteps": (500, 1000)})}


def train_ablation(name: str, task: str, labels: int, seed: int = 0, runs=RUNS, pipe=None,
                   **changes) -> Iterator[TrainingState]:
    """Train one; goes on where it stopped. ValueError where there is no such one, or it says nothing about this
    task."""
    found = ABLATIONS.get(name)
    if found is None or task not in found.tasks:
        known = ", ".join(each for each, other in ABLATIONS.items() if task in other.tasks)
        raise ValueError(f"there is no ablation {name!r} of {task}; choose from {known}")
    pipe = load_pipeline() if pipe is None else pipe
    return train_readout(found.task(TASKS[task]), labels, seed, runs, pipe, found.head(pipe, task, seed), name,
                         **found.settings, **changes)


def score_ablations(pipe, names, tasks, labels, trainings, table, runs=RUNS,
                    timesteps=TIMESTEPS) -> Iterator[tuple[int, int]]:
    """The task's own score of each trained head at several timesteps, on labelled pictures that none learned from; rows
    as `KINDS_OF`."""
    rows = read_rows(table, KINDS_OF, "ablations") if Path(table).exists() else []
    done = {(row["ablation"], row["task"], row["labels"], row["seed"]) for row in rows}
    todo = [(name, task, count, seed) for seed in trainings for count in labels for task in tasks for name in names
            if (name, task, count, seed) not in done and (name == "head" or task in ABLATIONS[name].tasks)]
    others = labelled(pipe, seeds.CHECK.first, CHECKED, Path(runs) / "pictures") if todo else None
    for number, (name, task, count, seed) in enumerate(todo, 1):
        head = load_head(str(folder_of(name, task, count, seed, runs)), pipe)
        scores = score_head(pipe, task, head, timesteps, Samples((others.latents,), others.truth(task)))
        size = sum(each.numel() for each in head.parameters())
        rows += [dict(zip(KINDS_OF, (name, task, count, seed, timestep, score, size))) for timestep,
                 score in scores.items()]
        write_rows(table, rows, KINDS_OF)
        yield number, len(todo)
