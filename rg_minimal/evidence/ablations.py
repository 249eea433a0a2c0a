"""Heads that lack a part of the paper's, or have it otherwise: trained as the others are, on the same labelled pictures.
Two of them are ideas to make heads cheaper: `several`, one head with the outputs of three, and `short3`, which reads the first
three decoder layers and lets the guided pass end behind them.

    python -m rg_minimal.evidence ablate pose --labels 100        # trains, scores (ablations.csv), lets each guide (contest.csv)

Most of them read the very same passes of the denoiser, so they learn together, as a `Chorus`: twenty heads take less than half of the time.
"""
from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterator

import torch
from torch import nn

from . import baselines as B, contest as C, learn, seeds
from .baselines import CHECKED, RUNS, folder_of, labelled, listening, recipe_of, train_readout
from .learn import CHECKPOINT, CLOCK, finished, leave
from ..denoisers import denoiser
from ..files import add_rows, read_json, read_tensors, remove_known, rows_so_far
from ..keypoints import heatmaps
from ..puppets.heads import TASKS, TIMESTEPS, Samples, Task, new_head, score_each
from ..puppets.training import TrainingState
from ..pipelines import load_head, load_pipeline
from ..readout import Head, Reading, spatial_loss
from ..saving import ReadoutHead
from ..undo import seeded

OFF = -30.0                             # a mixing weight with which a layer counts for nothing
KINDS_OF = {"ablation": str, "task": str, "labels": int, "seed": int, "timestep": int, "score": float,
            "parameters": int, "scores": str, "network": str, "version": str}


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
    with seeded(seed):
        return ReadoutHead(config).to(denoiser(pipe).device)


def _plain(task: Task) -> Task:
    """The task with a plain squared error, in which the many empty cells count as much as the few others."""
    losses = {"pose": lambda readout, joints, visible: spatial_loss(readout, heatmaps(joints, 32, 128, 1.5)),
              "edges": lambda readout, target: spatial_loss(readout, target)}
    return replace(task, loss=losses.get(task.name, task.loss))


# ---------------------------------------------------------------------------------------------- one head of several tasks

def _shares() -> dict[str, slice]:
    """Which channels of a head of several tasks are whose."""
    found, first = {}, 0
    for name in B.TASKS:
        found[name], first = slice(first, first + TASKS[name].out_channels), first + TASKS[name].out_channels
    return found


def _several_loss(readout, joints, visible, *maps):
    """The sum of the three tasks' own losses, each of its channels, which end as its own head does."""
    truth = {"pose": (joints, visible), **{name: (each,) for name, each in zip(B.TASKS[1:], maps)}}
    parts = {name: readout[:, share] for name, share in _shares().items()}
    return sum(TASKS[name].loss(part.tanh() if TASKS[name].activation == "tanh" else part, *truth[name])
               for name, part in parts.items())


SEVERAL = replace(TASKS["pose"], name="several", loss=_several_loss, extra={},
                  out_channels=sum(TASKS[name].out_channels for name in B.TASKS))


def part_of(head: ReadoutHead, task: str) -> ReadoutHead:
    """A task's share of a head of several, as a head of its own: the same aggregation, the last convolution's rows of this
    task."""
    own, share, weights = TASKS[task], _shares()[task], dict(head.state_dict())
    for name in ("output_head.4.weight", "output_head.4.bias"):
        weights[name] = weights[name][share].clone()
    config = replace(head.config, out_channels=own.out_channels, activation=own.activation, property=task, extra=head.config.extra | own.extra)
    return ReadoutHead.from_tensors(config, weights, "a head of several tasks")


def train_several(task: str, labels: int, seed: int, runs, pipe, **changes) -> Iterator[TrainingState]:
    """Train one head for all three tasks, once, and leave the share of this one in a folder of its own. Its seconds are those
    of the training for all."""
    whole, folder = (folder_of("several", name, labels, seed, runs) for name in ("several", task))
    yield from train_readout(SEVERAL, labels, seed, runs, pipe, name="several", **changes)
    if not (folder / "training.json").exists():
        told = read_json(whole / "training.json")
        leave(part_of(load_head(str(whole)), task), folder, told | {"recipe": told["recipe"] | {"task": task}})


@dataclass(frozen=True)
class Ablation:
    """What is otherwise: how the head is made, the task, the settings of `train_task`, how many layers are read (None: all), or
    the whole training."""
    head: Callable = new_head
    task: Callable[[Task], Task] = lambda task: task
    settings: dict = field(default_factory=dict)
    tasks: tuple[str, ...] = ("pose", "depth", "edges")
    layers: int | None = None
    train: Callable | None = None


ABLATIONS = {
    **{f"layer{i}": Ablation(_only(i)) for i in range(6)},
    "last3": Ablation(_only(3, 4, 5)), "first3": Ablation(_only(0, 1, 2)),
    "equal_mixing": Ablation(_equal_mixing), "without_timestep": Ablation(_without_timestep), "mirrored": Ablation(_mirrored),
    "width256": Ablation(lambda pipe, task, seed: new_head(pipe, task, seed, width=256)),
    "plain_loss": Ablation(task=_plain, tasks=("pose", "edges")),
    **{f"below{t}": Ablation(settings={"timesteps": (0, t)}) for t in (250, 500)},
    "above500": Ablation(settings={"timesteps": (500, 1000)}),
    **{f"short{count}": Ablation(layers=count) for count in (2, 3, 4)}, "several": Ablation(train=train_several)}


def known_ablation(name: str, task: str) -> Ablation:
    """ValueError where there is no such one, or it says nothing about this task."""
    found = ABLATIONS.get(name)
    if found is None or task not in found.tasks:
        known = ", ".join(each for each, other in ABLATIONS.items() if task in other.tasks)
        raise ValueError(f"there is no ablation {name!r} of {task}; choose from {known}")
    return found


def refuse_taken(names, task: str, labels: int, seed: int, runs=RUNS, **changes) -> None:
    """ValueError, before anything is trained, where one of `train_ablations` could not begin or go on."""
    for name in names:
        found = known_ablation(name, task)
        folder = folder_of(name, "several" if found.train else task, labels, seed, runs)
        learn.refuse_taken(folder, recipe_of(SEVERAL if found.train else task, labels, seed, **found.settings, **changes))
    for folder, together in _begun(names, task, labels, seed, runs).items():
        learn.refuse_taken(folder, recipe_of(task, labels, seed, **changes), (CHECKPOINT, CLOCK))


def train_ablation(name: str, task: str, labels: int, seed: int = 0, runs=RUNS, pipe=None,
                   **changes) -> Iterator[TrainingState]:
    """Train one; goes on where it stopped. ValueError where there is no such one, or it says nothing about this
    task."""
    found = known_ablation(name, task)
    pipe = load_pipeline() if pipe is None else pipe
    return _train(found, name, task, labels, seed, runs, pipe, **found.settings, **changes)


def _train(found: Ablation, name, task, labels, seed, runs, pipe, **changes) -> Iterator[TrainingState]:
    if found.train:
        yield from found.train(task, labels, seed, runs, pipe, **changes)
        return
    with listening(pipe, found.layers):
        yield from train_readout(found.task(TASKS[task]), labels, seed, runs, pipe, found.head(pipe, task, seed), name, **changes)


# ---------------------------------------------------------------------------------------------- several at once

class Chorus(Head):
    """Heads that learn together from the same passes of the denoiser, and share no weight: with the sum of their losses each learns what it
    would learn alone. Reads what they read, one after the other: (B, sum of k, h, w)."""

    def __init__(self, heads: dict[str, Head]):
        nn.Module.__init__(self)
        self.heads = nn.ModuleDict(heads)
        first = next(iter(heads.values())).config
        self.config = replace(first, out_channels=sum(each.config.out_channels for each in heads.values()), extra={"heads": list(heads)})

    def read(self, reading, use_timestep=True):
        return torch.cat([head.read(reading, use_timestep) for head in self.heads.values()], 1)      # of the first layers, where it has fewer

    def check(self, pipe):
        whole = denoiser(pipe).pipe
        for head in self.heads.values():
            with listening(whole, len(head.config.layer_channels)):
                head.check(whole)

    def loss(self, losses: dict[str, Callable]) -> Callable:
        """The sum of the heads' own losses, {name: loss}, each of what its head reads."""
        sizes = [head.config.out_channels for head in self.heads.values()]
        return lambda readout, *labels: sum(losses[name](part, *labels) for name, part in zip(self.heads, readout.split(sizes, 1)))


def train_ablations(names, task: str, labels: int, seed: int = 0, runs=RUNS, pipe=None, **changes) -> Iterator[TrainingState]:
    """`train_ablation` of several: those that read the same passes learn together, the others one after the other. Of the seconds of a
    training together each is told its share. ValueError, before anything is trained, where one says nothing about this task."""
    for name in names:
        known_ablation(name, task)
    pipe = load_pipeline() if pipe is None else pipe
    places = {name: folder_of(name, task, labels, seed, runs) for name in names}
    lacking = lambda some: [name for name in some if not finished(places[name], recipe_of(task, labels, seed, **changes))]
    for folder, together in _begun(names, task, labels, seed, runs).items():
        if lacking(together):                           # what was killed goes on with the heads that it was begun with
            yield from _train_together(together, places, task, labels, seed, runs, pipe, **changes)
        remove_known(folder, (CHECKPOINT, CLOCK))
    together = lacking(name for name in names if not ABLATIONS[name].train and not ABLATIONS[name].settings)
    if len(together) > 1:
        yield from _train_together(together, places, task, labels, seed, runs, pipe, **changes)
    for name in names:
        yield from train_ablation(name, task, labels, seed, runs, pipe, **changes)


def _begun(names, task: str, labels: int, seed: int, runs) -> dict[Path, list[str]]:
    """The folders of trainings together of some of these ablations that were killed, and whom each trains: nobody, where it had no checkpoint
    yet, or none any more."""
    found = {}
    for folder in sorted(Path(runs).glob(f"together*-{task}-{labels}-{seed}")):
        checkpoint = folder / CHECKPOINT
        found[folder] = json.loads(read_tensors(checkpoint)[1]["config"])["extra"]["heads"] if checkpoint.exists() else []
    return {folder: heads for folder, heads in found.items() if set(heads) <= set(names)}


def _train_together(names: list[str], places: dict[str, Path], task, labels, seed, runs, pipe, **changes) -> Iterator[TrainingState]:
    heads = {}
    for name in names:
        with listening(pipe, ABLATIONS[name].layers):
            heads[name] = ABLATIONS[name].head(pipe, task, seed)
    chorus = Chorus(heads)

    def keep(trained, folder, told):
        for name, head in trained.heads.items():
            if not finished(places[name], told["recipe"]):
                leave(head, places[name], told | {"training_seconds": round(told["training_seconds"] / len(heads), 1)})
    whole = replace(TASKS[task], loss=chorus.loss({name: ABLATIONS[name].task(TASKS[task]).loss for name in names}))
    name = f"together{zlib.crc32(' '.join(names).encode()):08x}"
    yield from train_readout(whole, labels, seed, runs, pipe, chorus, name, keep, **changes)
    remove_known(folder_of(name, task, labels, seed, runs), (CHECKPOINT, CLOCK))


def rows_of(table, pipe, judge) -> list[dict]:
    """The rows so far, if all are of this model and this judge, else ValueError."""
    return C.of_one_model(rows_so_far(table, KINDS_OF, "ablations"), table, pipe, judge)


def score_ablations(pipe, judge, names, tasks, labels, trainings, table, runs=RUNS,
                    timesteps=TIMESTEPS) -> Iterator[tuple[int, int]]:
    """The task's own score of each trained head at several timesteps, on labelled pictures that none learned from, and of each of them by
    itself; rows as `KINDS_OF`. Heads that were trained anew since are scored anew. (The judge reads nothing here, and is named with the model, as
    in the other tables.)"""
    known = [{**row, "contestant": C.contestant_of(row["ablation"])} for row in rows_of(table, pipe, judge) if row["scores"]]
    done = {(row["ablation"], row["task"], row["labels"], row["seed"]) for row in C.of_these(known, runs)}
    todo = [(name, task, count, seed) for seed in trainings for count in labels for task in tasks for name in names
            if (name, task, count, seed) not in done and (name == "head" or task in ABLATIONS[name].tasks)]
    others = labelled(pipe, seeds.CHECK.first, CHECKED, Path(runs) / "pictures") if todo else None
    for number, (name, task, count, seed) in enumerate(todo, 1):
        head = load_head(str(folder_of(name, task, count, seed, runs))).to(denoiser(pipe).device)
        with listening(pipe, ABLATIONS[name].layers if name in ABLATIONS else None):
            scores = score_each(pipe, task, head, timesteps, Samples((others.latents,), others.truth(task)))
        size = sum(each.numel() for each in head.parameters())
        whose = C.network_of(C.contestant_of(name), task, count, seed, runs), C.checksum_of(pipe, judge)
        made = [dict(zip(KINDS_OF, (name, task, count, seed, timestep, float(each.mean()), size, " ".join(f"{score:.4f}" for score in each.tolist()), *whose)))
                for timestep, each in scores.items()]
        add_rows(table, made, KINDS_OF, list(KINDS_OF)[:5], "ablations")
        yield number, len(todo)
