"""How heads and trainings are kept on disk: whole files or none, safetensors, nothing executed when read.

`ReadoutHead` is the head of `readout.py` with `save_pretrained` and `from_pretrained`; `train_head` is its training, with
checkpoints from which a killed run resumes to the same bits. Files are written aside and moved whole (see `files.py`).
"""
from __future__ import annotations

import functools
import inspect
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Iterable, Iterator

import torch
from torch import Tensor

from . import hub
from .checks import AnyHead, Count, FileName, Function, NonNegative, Random, RateOrFunction, SomeName, Truth, Words, as_whole, check_target, check_weights, checked, declared, describe, label_like
from .denoisers import denoiser
from .files import check_file, read_tensors, read_weights, write_tensors, write_weights
from .processes import is_main, shared, wait
from .readout import Head, HeadConfig, Reading, TrainState, appearance_loss, correspondence_loss, spatial_loss, training


class ReadoutHead(Head):
    """A head that can be saved: head.safetensors and config.json in a folder."""

    def embed(self, reading: Reading) -> Tensor:
        """See `Head.embed`; of 999 - t where the config's `extra` says so (`reference.MirroredHead`)."""
        mirrored = self.config.extra.get("timestep_convention") == "step_index"
        return super().embed(replace(reading, timestep=999 - reading.timestep) if mirrored else reading)

    @declared
    def save_pretrained(self, folder: SomeName, push_to_hub: Truth = False, repo_id: Words | None = None, private: Truth | None = None,
                        revision: Words | None = None, token: str | None = None) -> str | None:
        """Write both files. The weights hold the config too, so whenever this is killed, the head that is read is a whole one.

        With `push_to_hub` they are then shared on the hub as `repo_id` ("who/what"), with a card that is made from the config where the
        folder has none; the commit's address is returned. ValueError where that fails, and before anything is written where
        `repo_id` is missing.
        """
        if push_to_hub and not (repo_id and hub.may_be_shared_as(repo_id)) or repo_id and not push_to_hub:
            raise ValueError(f"repo_id is {repo_id!r} and push_to_hub {push_to_hub}; to share a head pass push_to_hub=True and the repository's name, "
                             "repo_id='who/what'")
        if push_to_hub:
            hub.check_card(folder, asdict(self.config))
        write_weights(Path(folder) / "head.safetensors", self.state_dict(), asdict(self.config))
        return hub.push(folder, repo_id, asdict(self.config), private, revision, token) if push_to_hub else None

    @classmethod
    @declared
    def from_pretrained(cls, folder: SomeName, revision: Words | None = None, local_files_only: Truth = True) -> "ReadoutHead":
        """Load a head saved by `save_pretrained`: a folder, or a name on the hub ("who/what"), which is looked for in the hub's cache
        alone, unless local_files_only=False. ValueError names what is missing, corrupt or does not fit."""
        if revision and Path(folder).exists():
            raise ValueError(f"revision is {revision!r}, but {folder} is a folder here, which has none; leave revision out")
        folder = hub.head_folder(folder, revision, local_files_only) or Path(folder)
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
def train_head(head: AnyHead, pipe, batches, steps: Count, loss: Function = spatial_loss, lr: RateOrFunction = 1e-3, generator: Random | None = None,
               timesteps=(0, 1000), checkpoint: FileName | None = None, checkpoint_every: Count = 50,
               latents: Truth = False) -> Iterator[TrainState]:
    """Train a head on the features of a frozen denoiser (paper, section 4); a generator, so nothing runs until you
    iterate, and you may stop at any step. The training itself is `readout.training`.

    Args:
        head: a `ReadoutHead`, trained in place.
        batches: an iterable of (pictures, *labels), or a function step -> such a tuple (0 is the first step).
            `pictures` are (B, 3, H, W) in [0, 1], or whatever else `pictures.as_pictures` takes; for a relative head a tuple of
            them, whose members share a timestep. Labels that are tensors have a row for each picture. After a kill a function
            resumes at once; an iterable is run forward.
        loss: called as loss(*readouts, *labels), one readout (B, k, h, w) for each member of `pictures`.
        lr: the learning rate of AdamW (no weight decay), or a function from the fraction of steps done to it.
        generator: a CPU generator for timesteps and noise, by default seeded with 0.
        timesteps: each picture's timestep is drawn from [timesteps[0], timesteps[1]).
        checkpoint: a file; every `checkpoint_every` steps head, optimiser, generator and step are saved there, and a
            later call on the same model resumes and ends with the same bits as a run that was never stopped.
        latents: True where the batches hold clean latents (B, C, h, w), as `encode` makes them, in place of pictures.
    Raises ValueError, before anything runs, for bad steps, a head of another model, or a checkpoint that does not fit, and at a step
    whose batch cannot be used, or is missing.
    """
    model = denoiser(pipe)
    head.check(model)
    limit = model.train_timesteps
    try:
        low, high = map(as_whole, timesteps)
    except (TypeError, ValueError):
        low = high = -1
    if not 0 <= low < high <= limit:
        raise ValueError(f"timesteps is {timesteps!r}; pass two whole numbers (low, high) with 0 <= low < high <= {limit}")
    generator = generator or torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0)
    if not torch.is_grad_enabled() or not any(each.requires_grad for each in head.parameters()):
        raise ValueError("the head cannot learn: its weights are frozen, or gradients are off; call head.requires_grad_(), outside torch.no_grad "
                         "and inference mode")
    if checkpoint:
        check_file(checkpoint, asdict(head.config))
    told = {"model": model.mark(), "timesteps": f"{low} to {high}"} if checkpoint else {}
    start = load_checkpoint(checkpoint, head, optimizer, generator, steps, **told) if checkpoint else 0
    check_loss(head, loss)
    lr = functools.partial(rate_at, lr) if callable(lr) else lr
    prepared = prepare(batches_from(batches, start), (start, steps), head, model, loss, latents)
    states = training(head, optimizer, shared(model, head, optimizer), prepared, (start, steps), loss, lr, generator, (low, high))
    return save_on_the_way(states, Path(checkpoint), optimizer, generator, checkpoint_every, **told) if checkpoint else states


def rate_at(lr, done: float) -> float:
    """What the function of learning rates returns, as a finite number of at least 0; ValueError for anything else."""
    return checked(f"the learning rate lr({done:g})", lr(done), NonNegative)


def save_on_the_way(states, path: Path, optimizer, generator, every: int, **told: str) -> Iterator[TrainState]:
    """Pass a training's states on, and save a checkpoint at every so many steps and at the last."""
    for state in states:
        if state.step % every == 0 or state.step == state.steps:
            if is_main():
                save_checkpoint(path, state.head, optimizer, generator, state.step, **told)
            wait()
        yield state


def batches_from(batches, start: int) -> Iterator:
    """An iterator over the batches of steps `start`, `start` + 1, ..."""
    if callable(batches):
        return (batches(step) for step in itertools.count(start))
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, dict)) or torch.is_tensor(batches):
        raise ValueError(f"batches is {describe(batches)}; pass an iterable of (pictures, *labels), or a function from the step to such a tuple")
    return itertools.islice(batches, start, None)


def prepare(batches: Iterator, span: tuple[int, int], head: Head, model, loss, latents: bool) -> Iterator[tuple]:
    """Batches as `readout.training` wants them, ((latents, ...), *labels). ValueError, which says of which step, where one cannot be
    used, and where there are fewer than steps."""
    step = span[0]
    for step, batch in enumerate(batches, span[0]):
        try:
            if not isinstance(batch, (tuple, list)) or not batch:
                raise ValueError(f"it is {describe(batch)}; pass a tuple (pictures, *labels)")
            clean = tuple(model.clean(**{"latents" if latents else "pictures": each}) for each in members(batch[0]))
            check_labels(head, clean, batch[1:], loss)
        except ValueError as error:
            raise ValueError(f"the batch of step {step}: {error}") from None
        yield (clean, *batch[1:])
        step += 1
    raise ValueError(f"batches ended after {step} of {span[1]} steps; pass as many, or a function from the step to a batch "
                     "(itertools.cycle(batches) goes through a list again and again)")


def members(pictures) -> tuple:
    """The members of a sample that are compared: those of a tuple, or of a list of batches; else the pictures are the only one."""
    several = isinstance(pictures, tuple) or isinstance(pictures, list) and pictures and all(getattr(each, "ndim", 0) == 4 for each in pictures)
    return tuple(pictures) if several else (pictures,)


def check_loss(head: Head, loss) -> None:
    """ValueError where one of our losses is not for this kind of head."""
    kind = loss.func if isinstance(loss, functools.partial) else loss
    if kind is spatial_loss and not head.config.out_channels:
        raise ValueError("loss is spatial_loss, but this head is relative (out_channels=0) and reads no map; pass correspondence_loss or "
                         "appearance_loss, or train a spatial head")
    if kind in (correspondence_loss, appearance_loss) and head.config.out_channels:
        raise ValueError(f"loss is {kind.__name__}, which compares features, but this head is spatial (out_channels="
                         f"{head.config.out_channels}); pass spatial_loss, or train a relative head")


def check_labels(head: Head, clean: tuple, labels: tuple, loss) -> None:
    """ValueError where members or labels have other numbers of rows, or where the loss cannot take them."""
    shapes = [tuple(each.shape) for each in clean]
    if len(set(shapes)) != 1:
        raise ValueError(f"the pictures that are compared have latents of different shapes, {shapes}; pass as many of each, of one size")
    for i, label in enumerate(labels):
        if torch.is_tensor(label):
            if label.is_complex() or label.is_floating_point() and not label.isfinite().all():
                raise ValueError(f"label {i} is {describe(label)}, complex or not finite (NaN or infinity); pass finite real numbers")
            if label.ndim and len(label) != len(clean[0]):
                raise ValueError(f"label {i} has {len(label)} rows for {len(clean[0])} pictures; pass one row for each picture")
    try:
        inspect.signature(loss).bind(*clean, *labels)
    except TypeError as error:
        raise ValueError(f"it has {len(clean)} members and {len(labels)} labels, which the loss cannot take ({error}); pass "
                         "(pictures, *labels) as loss(*readouts, *labels) wants them") from None
    except ValueError:                          # a loss that does not say what it takes
        pass
    if (loss.func if isinstance(loss, functools.partial) else loss) is spatial_loss:
        expected = clean[0].new_empty(len(clean[0]), head.config.out_channels, *clean[0].shape[-2:])
        check_target(head.config, label_like(expected, labels[0], "label 0"))


def save_checkpoint(path: Path, head: Head, optimizer, generator, step: int, **told: str) -> None:
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    for index, parameter in enumerate(head.parameters()):
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in optimizer.state[parameter].items()}
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"{wrong[0]} holds NaN or infinity after step {step}, so {path} is not written; train with a lower lr from what it held before")
    tensors["generator"] = generator.get_state()
    write_tensors(path, tensors, {"step": str(step), "config": json.dumps(asdict(head.config)), **told})


def load_checkpoint(path, head: Head, optimizer, generator, steps: int, **told: str) -> int:
    """Restore a training of `steps` from its checkpoint, if there is one; returns the number of steps already done. ValueError, and
    nothing is changed, where it is none, or does not fit."""
    if not Path(path).exists():
        return 0
    tensors, metadata = read_tensors(path)
    if metadata.get("config") != json.dumps(asdict(head.config)):
        raise ValueError(f"the checkpoint {path} belongs to a head with another config; delete it to start anew")
    other = next((name for name, value in told.items() if metadata.get(name, value) != value), None)       # older files do not say
    if other:
        whose = {"model": "on another model, or on this one in another number format",
                 "timesteps": f"at timesteps {metadata.get('timesteps')}, not {told.get('timesteps')}"}
        raise ValueError(f"the checkpoint {path} belongs to a training {whose[other]}; pass another file, or delete it to start anew")
    weights = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    if "generator" not in tensors or not metadata.get("step", "").isdecimal() or {name: each.shape for name, each in weights.items()} != {
            name: each.shape for name, each in head.state_dict().items()}:
        raise ValueError(f"{path} is no checkpoint of this training (it lacks a head's weights, the generator or the step); pass another file, or "
                         "delete it to start anew")
    check_weights(weights, head.state_dict(), path)
    done = int(metadata["step"])
    if done > steps:
        raise ValueError(f"steps is {steps}, but the checkpoint {path} has {done} steps done; pass as many or more, or delete it to start anew")
    head.load_state_dict(weights)
    for index, parameter in enumerate(head.parameters()):
        prefix = f"optimizer.{index}."
        state = {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
    generator.set_state(tensors["generator"])
    return done
