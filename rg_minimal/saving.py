"""How heads and trainings are kept on disk: whole files or none, safetensors, nothing executed when read.

`ReadoutHead` is the head of `readout.py` with `save_pretrained` and `from_pretrained`; `train_head` is its training, with
checkpoints from which a killed run resumes to the same bits. Files are written aside and moved whole (see `files.py`).
"""
from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Iterator

import torch
from torch import Tensor

from .checks import Count, FileName, Function, RateOrFunction, as_whole, check_weights, declared
from .denoisers import denoiser
from .files import read_tensors, read_weights, write_tensors, write_weights
from .readout import Head, HeadConfig, TrainState, spatial_loss, training


class ReadoutHead(Head):
    """A head that can be saved: head.safetensors and config.json in a folder."""

    def save_pretrained(self, folder) -> None:
        """Write both files. The weights hold the config too, so whenever this is killed, the head that is read is a whole one."""
        write_weights(Path(folder) / "head.safetensors", self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(cls, folder) -> "ReadoutHead":
        """Load a head saved by `save_pretrained`. ValueError names what is missing, corrupt or does not fit."""
        folder = Path(folder)
        if not (folder / "head.safetensors").is_file():
            heads = sorted(path.parent.name for path in folder.parent.glob("*/head.safetensors"))
            raise ValueError(f"{folder} is not a head (it needs head.safetensors and config.json); "
                             f"heads in {folder.parent}: {', '.join(heads) or 'none'}")
        tensors, told = read_weights(folder / "head.safetensors")
        try:
            config = HeadConfig(**told)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'config.json'} is not a HeadConfig ({error}); save the head again") from error
        return cls.from_tensors(config, tensors, folder)

    @classmethod
    def from_tensors(cls, config: HeadConfig, tensors: dict[str, Tensor], source) -> "ReadoutHead":
        """A head with these weights; ValueError, which names their source, where they do not fit, or are no finite fractions.
        Draws no random numbers."""
        with torch.device("meta"):
            head = cls(config)
        check_weights(tensors, head.state_dict(), source)
        head.to_empty(device="cpu")
        try:
            head.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the weights in {source} do not fit their config: {error}") from error
        return head.eval()


@declared
def train_head(head: Head, pipe, batches, steps: Count, loss: Function = spatial_loss, lr: RateOrFunction = 1e-3, generator=None,
               timesteps=(0, 1000), checkpoint: FileName | None = None, checkpoint_every: Count = 50) -> Iterator[TrainState]:
    """Train a head on the features of a frozen denoiser (paper, section 4); a generator, so nothing runs until you
    iterate, and you may stop at any step. The training itself is `readout.training`.

    Args:
        head: a `ReadoutHead`, trained in place.
        batches: an iterable of (pictures, *labels), or a function step -> such a tuple (0 is the first step).
            `pictures` are (B, 3, H, W) in [0, 1] or clean latents (B, C, h, w); for a relative head a tuple of them,
            whose members share a timestep. After a kill a function resumes at once; an iterable is run forward.
        loss: called as loss(*readouts, *labels), one readout (B, k, h, w) for each member of `pictures`.
        lr: the learning rate of AdamW (no weight decay), or a function from the fraction of steps done to it.
        generator: a CPU generator for timesteps and noise, by default seeded with 0.
        timesteps: each picture's timestep is drawn from [timesteps[0], timesteps[1]).
        checkpoint: a file; every `checkpoint_every` steps head, optimiser, generator and step are saved there, and a
            later call resumes and ends with the same bits as a run that was never stopped.
    Raises ValueError, before anything runs, for bad steps, a head of another model, or a checkpoint that does not fit.
    """
    model = denoiser(pipe)
    head.check(model)
    limit = model.pipe.scheduler.config.num_train_timesteps
    try:
        low, high = map(as_whole, timesteps)
    except (TypeError, ValueError):
        low = high = -1
    if not 0 <= low < high <= limit:
        raise ValueError(f"timesteps is {timesteps!r}; pass two whole numbers (low, high) with 0 <= low < high <= {limit}")
    generator = generator or torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0)
    start = load_checkpoint(checkpoint, head, optimizer, generator) if checkpoint else 0
    states = training(head, optimizer, model, batches_from(batches, start), (start, steps), loss, lr, generator, (low, high))
    return save_on_the_way(states, Path(checkpoint), optimizer, generator, checkpoint_every) if checkpoint else states


def save_on_the_way(states, path: Path, optimizer, generator, every: int) -> Iterator[TrainState]:
    """Pass a training's states on, and save a checkpoint at every so many steps and at the last."""
    for state in states:
        if state.step % every == 0 or state.step == state.steps:
            save_checkpoint(path, state.head, optimizer, generator, state.step)
        yield state


def batches_from(batches, start: int) -> Iterator:
    """An iterator over the batches of steps `start`, `start` + 1, ..."""
    if callable(batches):
        return (batches(step) for step in itertools.count(start))
    return itertools.islice(batches, start, None)


def save_checkpoint(path: Path, head: Head, optimizer, generator, step: int) -> None:
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    for index, parameter in enumerate(head.parameters()):
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in optimizer.state[parameter].items()}
    tensors["generator"] = generator.get_state()
    write_tensors(path, tensors, {"step": str(step), "config": json.dumps(asdict(head.config))})


def load_checkpoint(path, head: Head, optimizer, generator) -> int:
    """Restore a training from its checkpoint, if there is one; returns the number of steps already done."""
    if not Path(path).exists():
        return 0
    tensors, metadata = read_tensors(path)
    if metadata.get("config") != json.dumps(asdict(head.config)):
        raise ValueError(f"the checkpoint {path} belongs to a head with another config; delete it to start anew")
    head.load_state_dict({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("head.")})
    for index, parameter in enumerate(head.parameters()):
        prefix = f"optimizer.{index}."
        state = {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
    generator.set_state(tensors["generator"])
    return int(metadata["step"])
