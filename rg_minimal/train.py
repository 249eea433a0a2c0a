"""One command from labels to a head: `python -m rg_minimal.train --kind keypoints --pictures DIR --labels FILE --output FOLDER`.

What it can read, and how pictures are cut, is told in `labels.py`; `--help` has the options. All files are looked at first, and what
cannot be used is named. A run that was killed goes on when the same command is given again, and ends with the same bits.

    data = read_labels("keypoints", pipe, "pictures", "labels.json")
    for progress in train_labels(data, pipe, "heads/mine", steps=400):      # the same from Python
        print(progress.step, progress.loss, progress.scores)
"""
from __future__ import annotations

import argparse
import hashlib
import math
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, get_args

import torch
from torch import Tensor

from . import hub
from .checks import Count, Fraction, Positive, Seed, SomeName, Text, checked, declared, describe, one_sentence, option, stoppable
from .denoisers import denoiser
from .files import check_file, refuse_file, refuse_others, write_file
from .label_files import SHOWN
from .labels import TRIPLETS, Fit, Kind, Labelled, from_dataset, open_dataset, read_labels
from .pipelines import DEFAULT, load_pipeline, read_picture
from .processes import check_batch, is_main, share, wait
from .saving import ReadoutHead, train_head

TIMESTEPS = (100, 500)                  # at which a head is scored
LISTED = 100                            # files that a card names


@dataclass
class Progress:
    """What training yields after each step."""
    step: int
    steps: int
    loss: float
    scores: dict[int, float] | None     # held-out score by timestep, every so many steps, where anything is held out
    head: ReadoutHead


def check_output(folder) -> Path:
    """ValueError where a head cannot be written into this folder: it is a file, or holds something else, such as a finished head."""
    folder = Path(folder)
    refuse_file(folder)
    if folder.exists():
        head, begun = folder / "head.safetensors", checkpoints(folder)
        refuse_others(folder, (*(each.name for each in begun), *(hub.FILES if head.exists() else (head.name,))))
        if head.exists() and not begun:
            raise ValueError(f"{folder} holds a finished head; delete it, or choose another folder")
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """Of trainings that were begun in this folder, and not finished."""
    return sorted(each for each in folder.glob("training-*.safetensors") if re.fullmatch(r"training-[0-9a-f]{12}\.safetensors", each.name))


@declared
def train_labels(data: Labelled, pipe, folder: SomeName, *, steps: Count = 400, batch: Count = 16, lr: Positive = 1e-3,
                 width: Count = 128, seed: Seed = 0, held_out: Fraction = 0.1, every: Count = 50, name: Text = "",
                 model: Text = "", told: dict | None = None) -> Iterator[Progress]:
    """Train a head on labelled pictures and write it with its card into a folder; a generator that yields after every step.

    Args:
        data: what `read_labels` or `from_dataset` found; a share `held_out` of it, drawn by the seed, is never learned from.
        steps, batch, lr: of AdamW, with a rate that falls to 2 % along a cosine.
        every: steps between two checkpoints, each of which is scored, too.
        name: of the property, `model` of the base model, `told` what else a card is to say of the data.
    All pictures are encoded before the first step. A killed run, called again, goes on from the folder's checkpoint if data, model
    and recipe are the same. Raises ValueError, at the call, where the folder is taken or too little is left to learn from.
    """
    if not isinstance(data, Labelled):
        raise ValueError(f"data is {describe(data)}; pass what read_labels or from_dataset found")
    folder = check_output(folder)
    check_file(folder / "head.safetensors", {"told": told or {}})      # what the card is to say can be written
    check_batch(batch)
    data.check_cells(pipe)
    learn, unseen = data.split(held_out, seed)
    head = data.new_head(pipe, seed, width, name)
    head.config.base_model = model
    latents = learn.encode(pipe)
    draw, scored = learn.batches(pipe, batch, seed, latents), scorer(unseen, pipe, seed) if len(unseen) else None
    recipe = {"steps": steps, "batch": batch, "lr": lr, "width": width, "seed": seed, "held out": held_out}
    of_data = {"pictures": [shot.mark for shot in learn.shots]}
    checkpoint = folder / f"training-{fingerprint(pipe, head, recipe | of_data, learn.shows, *learn.truth)}.safetensors"
    if others := [each.name for each in checkpoints(folder) if each != checkpoint]:
        raise ValueError(f"{folder} holds {others[0]}, of a training with other data, another model or another recipe, which was not finished; "
                         "give that again to go on with it, delete it, or choose another folder")
    cosine = lambda done: lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
    states = train_head(head, pipe, draw, steps, data.loss, cosine, torch.Generator().manual_seed(seed), checkpoint=checkpoint,
                        checkpoint_every=every, latents=True)
    facts = {"kind": data.kind, "pictures": f"{len(data.shots)}, of which {len(unseen.shots)} held out, "
                                            f"{data.frame.size} x {data.frame.size} pixels, "
             f"{'middle cut out' if data.frame.fit == 'crop' else 'stretched'}", "samples": f"{len(learn)} to learn "
                 f"from, {len(unseen)} held out", **(told or {})}

    score = lambda: share(lambda some: scored(head, some), TIMESTEPS)

    def run() -> Iterator[Progress]:
        now = None
        for state in states:
            now = score() if scored and (state.step % every == 0 or state.step == steps) else None
            yield Progress(state.step, steps, state.loss, now, head)
        scores = {} if scored is None else score() if now is None else now     # the last step is scored already
        table = {data.measure: {f"t = {t}": value for t, value in scores.items()}} if scores else {}
        head.config.extra |= {"scores": table, "data": facts, "recipe": recipe,
                              "left_out": listed(data.left_out), "notes": listed(data.notes)}
        head.eval()
        if is_main():
            head.save_pretrained(folder)
            write_file(folder / "README.md", hub.card(asdict(head.config), folder))
            checkpoint.unlink(missing_ok=True)
        wait()                                              # nobody ends, or goes on, before the head is there
    return run()


def listed(problems: list) -> list[str]:
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return [*map(str, problems[:LISTED]), *more]


def scorer(data: Labelled, pipe, seed: int = 0, timesteps=TIMESTEPS, chunk: int = 16) -> Callable[[ReadoutHead], dict[int, float]]:
    """A function that scores a head on these samples: {timestep: mean score}. Noise and triplets are the same at each call."""
    latents, rows, truth = data.encode(pipe), data.shows, data.truth
    if data.kind == "triplets":
        drawn = data.draw_triplets(TRIPLETS, torch.Generator().manual_seed(seed))
        rows, truth = torch.stack([data.shows[each, 0] for each in drawn], 1), ()

    @torch.no_grad()
    def score(head: ReadoutHead, timesteps=timesteps) -> dict[int, float]:
        scores = {}
        for timestep in timesteps:
            rng = torch.Generator().manual_seed(seed + timestep)
            readings = (read_picture(pipe, None, timestep, generator=rng, latents=part) for part in latents.split(chunk))
            readouts = torch.cat([reading(head).float().cpu() for reading in readings])
            parts = (slice(first, first + chunk) for first in range(0, len(rows), chunk))
            values = [data.score(*(readouts[place] for place in rows[part].T), *(each[part] for each in truth)) for part in parts]
            scores[timestep] = torch.cat(values).mean().item()
        return scores
    return score


def fingerprint(pipe, head: ReadoutHead, recipe: dict, *data: Tensor) -> str:
    """Names data, model and recipe, so that no other training goes on from a checkpoint."""
    mark = hashlib.blake2b(repr((sorted(recipe.items()), asdict(head.config))).encode(), digest_size=6)
    for tensor in (*data, list(denoiser(pipe).network.parameters())[-1].detach().float().cpu()):
        mark.update(tensor.numpy().tobytes())
    return mark.hexdigest()


# ---- the command -------------------------------------------------------------------------------------------------------

def number(kind) -> Callable[[str], float]:
    """For argparse, as `option` is for whole numbers."""
    def read(text: str) -> float:
        try:
            return checked("it", float(text), kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no such number ({error})") from None
    return read


def column(text: str) -> tuple[str, str]:
    name, sign, of = text.partition("=")
    if not (name and sign and of):
        raise argparse.ArgumentTypeError(f"{text!r} says no column; write NAME=COLUMN, such as picture=image")
    return name, of


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rg_minimal.train", description="Train a readout head on pictures "
        "and labels of your own.",
                                   epilog="A run that was killed goes on when the same command is given again.")
    made.add_argument("--kind", required=True, choices=get_args(Kind), help="what the labels are; see "
        "rg_minimal/labels.py")
    made.add_argument("--pictures", help="folder of pictures")
    made.add_argument("--labels", help="COCO file, folder of maps, or table of points; triplets have none")
    made.add_argument("--dataset", help="instead of both: a folder that datasets' save_to_disk wrote, or with "
                                        "--download a name on the hub")
    made.add_argument("--split", help="of the data set, where it has several")
    made.add_argument("--columns", nargs="+", type=column, default=[], metavar="NAME=COLUMN", help="which column of "
        "the data set is what")
    made.add_argument("--names", nargs="+", default=[], help="of the data set's keypoints; a COCO file has them")
    made.add_argument("--download", action="store_true", help="ask the hub for model and data set")
    made.add_argument("--model", default=DEFAULT, help="folder or hub name of the diffusion model")
    made.add_argument("--output", required=True, help="folder for head and card")
    made.add_argument("--name", default="", help="of the property")
    made.add_argument("--category", help="of the COCO file, where several have keypoints")
    made.add_argument("--fit", default="crop", choices=get_args(Fit), help="cut the middle out of pictures that are "
        "not square, or stretch them")
    made.add_argument("--size", type=option(Count), help="side of the square in pixels, by default the model's")
    made.add_argument("--skip-bad", action="store_true", help="leave out what cannot be used, and list it")
    made.add_argument("--held-out", type=number(Fraction), default=0.1, help="share of samples to score on; 0 for none")
    made.add_argument("--steps", type=option(Count), default=400)
    made.add_argument("--batch", type=option(Count), default=16)
    made.add_argument("--lr", type=number(Positive), default=1e-3)
    made.add_argument("--width", type=option(Count), default=128, help="channels of the head; 384 in the paper")
    made.add_argument("--every", type=option(Count), default=50, help="steps between two checkpoints and scores")
    made.add_argument("--seed", type=option(Seed), default=0)
    made.add_argument("--push", metavar="WHO/WHAT", help="share the finished head on the hub")
    return made


def read(asked, pipe) -> Labelled:
    """What the command's options say is to be read."""
    settings = dict(fit=asked.fit, size=asked.size, skip_bad=asked.skip_bad, look=looked)
    if asked.dataset is None:
        return read_labels(asked.kind, pipe, asked.pictures, asked.labels, category=asked.category, **settings)
    dataset = open_dataset(asked.dataset, asked.split, local_files_only=not asked.download)
    return from_dataset(asked.kind, pipe, dataset, dict(asked.columns), names=asked.names, **settings)


def looked(done: int, of: int) -> None:
    if done % 200 == 0 or done == of:
        print(f"{done} of {of} pictures looked at", flush=True)


def check_asked(asked) -> None:
    """ValueError where the command's options do not go together."""
    if (asked.dataset is None) == (asked.pictures is None) or asked.dataset is not None and asked.labels is not None:
        raise ValueError("pass either --pictures (and, but for triplets, --labels), or --dataset")
    if asked.dataset is None and (asked.columns or asked.split or asked.names):
        raise ValueError("--columns, --names and --split are of a --dataset, which is not given")
    if asked.dataset is not None and asked.category is not None:
        raise ValueError("--category is of a COCO file, and a --dataset has none; leave it out")
    if asked.names and asked.kind != "keypoints":
        raise ValueError(f"--names are of keypoints, and --kind is {asked.kind}; leave them out")
    if len(dict(asked.columns)) < len(asked.columns):
        raise ValueError(f"--columns says {', '.join('='.join(each) for each in asked.columns)}, one name twice; say each once")
    if asked.push is not None and not hub.may_be_shared_as(asked.push):
        raise ValueError(f"--push is {asked.push!r}; pass the repository's name, WHO/WHAT")
    check_output(asked.output)


@stoppable
def main(arguments=None) -> None:
    commands = parser()
    asked = commands.parse_args(arguments)
    say = partial(print, flush=True) if is_main() else lambda *_: None          # of several processes one speaks
    with one_sentence(commands):
        check_asked(asked)
        pipe = load_pipeline(asked.model, local_files_only=not asked.download)
        data = read(asked, pipe)
        for each in data.notes[:SHOWN]:
            say("note:", each)
        say(f"{len(data)} samples of {len(data.shots)} pictures; {len(data.left_out)} left out, {len(data.notes)} notes")
        told = {"from": asked.dataset or ", ".join(Path(each).name for each in (asked.pictures, asked.labels) if each)}
        training = train_labels(data, pipe, asked.output, steps=asked.steps, batch=asked.batch, lr=asked.lr,
                                width=asked.width, seed=asked.seed, held_out=asked.held_out, every=asked.every,
                                name=asked.name, model=str(asked.model), told=told)
    state = None
    for state in training:
        if state.scores is not None or state.step % asked.every == 0 or state.step in (1, state.steps):
            said = ", ".join(f"{value:.3f} at t = {t}" for t, value in (state.scores or {}).items())
            say(f"step {state.step} of {state.steps}, loss {state.loss:.5f}{'; held out: ' * bool(said)}{said}")
    for each in data.left_out:
        say("left out:", each)
    say(f"head and card are in {asked.output}; score: {data.measure}")
    if asked.push and is_main():
        from .pipelines import load_head
        with one_sentence(commands):
            print("shared:", load_head(asked.output).save_pretrained(asked.output, push_to_hub=True, repo_id=asked.push))


if __name__ == "__main__":
    main()
