"""The loop that trains all but the heads: ControlNet, T2I-Adapter, the detector, the predictor of directions.

A training that was killed goes on with the same bits; where there is a check on other pictures, it may choose which state is kept.
"""
from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..files import read_json, refuse_file, refuse_others, write_json
from ..puppets.training import TrainingState, resume, save_every, set_rate, step_rng

CHECKPOINT, CLOCK = "training.safetensors", "clock.json"            # of a head whose training has not ended


@dataclass(frozen=True)
class Pace:
    """Numbers of a training with AdamW; the rate is warmed up, and falls over the last part `decay`."""
    seed: int
    steps: int
    lr: float
    warmup: int
    decay: float
    save_every: int                     # steps between two checkpoints, and between two checks
    device: str
    clip: float | None = None           # of the gradient's norm
    recipe: dict = field(default_factory=dict)      # all numbers, of which a checkpoint tells


def finished(folder: Path, recipe: dict) -> bool:
    """Whether a folder holds a finished training of this recipe, all its numbers. ValueError where it is one of another recipe."""
    there = (folder / "training.json").exists()
    if there:
        refuse_another(folder, read_json(folder / "training.json").get("recipe", {}), recipe)
    return there


def refuse_taken(folder: Path, recipe: dict, known: Iterable[str] = ()) -> None:
    """ValueError, to be asked before many trainings, where one of this recipe could neither begin nor go on in a folder: what is there is of
    another recipe, or, where `known` names all that may lie there, something else."""
    refuse_file(folder)
    if not finished(folder, recipe):
        begun = {"recipe": recipe}
        resume(folder / "training.pt", SimpleNamespace(device="cpu"), best=begun)
        begun |= read_json(folder / CLOCK) if (folder / CLOCK).exists() else {}
        refuse_another(folder, begun["recipe"], recipe)
        if known:
            refuse_others(folder, known)


def refuse_another(folder: Path, told: dict, recipe: dict) -> None:
    """ValueError where what a folder holds was trained, or begun, with another recipe."""
    told, recipe = (json.loads(json.dumps(each)) for each in (told, recipe))
    wrong = [f"{name} {told.get(name)}, not {recipe.get(name)}" for name in {**told, **recipe} if told.get(name) != recipe.get(name)]
    if wrong:
        raise ValueError(f"{folder} was trained with another recipe ({'; '.join(wrong)}); delete it, or choose another folder of runs")


def leave(network: nn.Module, folder: Path, told: dict) -> None:
    """Save what was trained, and what is told of its training: that it is there says that it ended."""
    network.save_pretrained(folder)
    write_json(folder / "training.json", told | {"parameters": sum(each.numel() for each in network.parameters())})


def learn(stage: str, folder: Path, pace: Pace, network: nn.Module, loss_of: Callable[[torch.Generator], Tensor],
          check: Callable[[nn.Module], float] | None = None, since: int = 0) -> Iterator[TrainingState]:
    """Train `network` with the losses of `loss_of(rng)`, from the checkpoint in `folder` on where there is one; yields states and
    ends with {"step", "loss", "losses", "seconds"}: of the state with the least `check(network)`, whose weights the network has then,
    or of the last one. All steps are made: most of what a network learns it learns when its rate falls, and what its checks say
    before step `since` is noted, and does not count. ValueError where a loss, or a check, is no number any more, or the checkpoint is of another
    recipe."""
    optimizer = torch.optim.AdamW(network.parameters(), pace.lr, weight_decay=1e-2)
    best: dict = {"step": 0, "loss": float("inf"), "seconds": 0.0, "losses": [], "weights": {}, "recipe": pace.recipe}
    path = folder / "training.pt"
    first, start = resume(path, pace, network=network, optimizer=optimizer, best=best), time.process_time()
    refuse_another(folder, best["recipe"], pace.recipe)
    before = best["seconds"]

    def refuse_no_number(what: str, value: float, at: int) -> None:
        if not math.isfinite(value):
            raise ValueError(f"{stage}: the {what} is {value} at step {at}; with a learning rate below {pace.lr:g} it may stay finite "
                             f"(delete {folder}, and train again)")
    for step in range(first, pace.steps):
        set_rate(optimizer, pace.lr, step, pace.steps, pace.warmup, pace.decay)
        loss = loss_of(step_rng(pace, step))
        refuse_no_number("loss", loss.item(), step + 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if pace.clip:
            nn.utils.clip_grad_norm_(network.parameters(), pace.clip)
        optimizer.step()
        done = step + 1
        if check and (done % pace.save_every == 0 or done == pace.steps):
            now = check(network)
            refuse_no_number("loss on other pictures", now, done)
            best["losses"] = [*best["losses"], (done, now)]
            if now < best["loss"] and done >= since:
                best |= {"step": done, "loss": now, "weights": {name: value.clone() for name, value in network.state_dict().items()}}
        best["seconds"] = before + time.process_time() - start
        save_every(path, pace, done, pace.steps, network=network, optimizer=optimizer, best=best)
        yield TrainingState(stage, done, pace.steps, loss.item(), best["seconds"])
    if check:
        network.load_state_dict(best["weights"])
    network.eval()
    return {name: best[name] for name in ("step", "loss", "losses", "seconds")}
