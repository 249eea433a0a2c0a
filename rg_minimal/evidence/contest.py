"""The contest: everybody gets the same captions, poses, maps and noise, and one judge, whom nobody trained with, reads
the pictures.

    python -m rg_minimal.evidence contest pose --labels 100 1000 --seeds 0       # writes contest.csv, and goes on

One row is one picture. A *contestant* is a name, what it is trained with, and a function that makes pictures of a batch
of cases; a *strength* multiplies what says how much it may do (step size, conditioning scale), and 1 is the setting
that `tune` chose.
"""
from __future__ import annotations

import itertools
import json
import math
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Callable, Iterator

import torch
from torch import Tensor

from . import seeds
from .baselines import KINDS, RUNS, TASKS, control_picture, folder_of, listening, load_baseline, sample_baseline, steered
from .ideas import ClosedLoop, OBJECTIVES, PredictedDirection
from .learn import CHECKPOINT
from .rivals import load_rival
from .statistics import axes_of, looks
from ..checks import Count, declared
from ..denoisers import denoiser
from ..files import add_rows, read_json, read_tensors, rows_so_far, write_rows, write_tensors
from ..paces import FULL
from ..pipelines import find_folder, encode_prompts, load_head, sample
from ..puppets import world
from ..puppets.front import agreement, control_of, counted
from ..puppets.judge import round_trip
from ..puppets.measure import SCALE, checksum_of, facts
from ..saving import ReadoutHead

FOLDER = "data/results/evidence"
BATCH = 8                               # cases that are made together; a row is computed again with its whole batch
LOOKS, REAL = 16, 512                   # axes of the Frechet distance; renderings that they come from
TUNED_ON = 16                           # scenes that settings are tried on, where no other number is asked for
STEPS = FULL["num_inference_steps"]     # of everybody
KINDS_OF = {"contestant": str, "task": str, "labels": int, "seed": int, "picture": int, "strength": float,
            "control": float, "whole": float, "attributes": float, "passes": float, "seconds": float, "look": str,
            "settings": str, "version": str, "network": str}
REAL_KINDS = {"look": str, "version": str}
SETTING = ("contestant", "task", "labels", "seed", "strength", "settings")      # what the rows of one batch share


# ---------------------------------------------------------------------------------------------- cases

@dataclass
class Cases:
    """B cases: the same for every contestant."""
    first: int                          # seed of the first scene
    task: str
    frames: world.Frames
    latents: Tensor                     # (B, 4, 32, 32), the noise that all begin with

    @property
    def captions(self) -> list[str]:
        return [scene.caption for scene in self.frames.scenes]

    @property
    def target(self) -> Tensor:
        """Joints, or a map."""
        return self.frames.joints if self.task == "pose" else getattr(self.frames, self.task)

    @property
    def shown(self) -> Tensor:
        return control_picture(self.task, self.target)

    def objective(self, head, **settings):
        return OBJECTIVES[self.task](head, self.target, **settings)


@declared
def make_cases(pipe, task: str, first: Count, count: Count = BATCH) -> Cases:
    """Scenes with seeds from `first` on. The noise of a picture depends on its own seed alone, not on who asks or on
    the batch."""
    shape = denoiser(pipe).latent_shape()
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(first + i)) for i in range(count)])
    return Cases(first, task, world.render(world.sample_scenes(count, first)), noise)


# ---------------------------------------------------------------------------------------------- contestants

def _guided(pipe, cases, trained, strength, step_size=0.05, inner_steps=1, stop=0.5, conditioning=None, guidance_scale=SCALE):
    aims = [cases.objective(trained, stop=stop)] if strength else []
    return _sampled(pipe, cases, trained, aims, conditioning, guidance_scale, step_size=step_size * strength, inner_steps=inner_steps)


def _sampled(pipe, cases, head, aims, conditioning=None, guidance_scale=SCALE, **settings):
    """Pictures of the cases. A guided pass of a head ends behind the last layer that it reads, which changes no picture; a
    detector needs the pass to its end."""
    layers = len(head.config.layer_channels) if isinstance(head, ReadoutHead) else None
    with listening(pipe, layers, stop_early=layers is not None):
        return sample(pipe, conditioning or cases.captions, aims, latents=cases.latents, guidance_scale=guidance_scale,
                      num_inference_steps=STEPS, **settings)[0]


def _looped(pipe, cases, head, strength, step_size=0.1, goal=0.2):
    if not strength:
        return _guided(pipe, cases, head, 0.0)
    aim = ClosedLoop(head=head, inner=cases.objective(head), goal=goal, stop=1.0)
    return _sampled(pipe, cases, head, [aim], step_size=step_size * strength, step_rule=aim.rule)


def _predicted(pipe, cases, pair, strength, step_size=0.4, stop=0.5):
    predictor, head = pair
    target = cases.objective(head).target if strength else None
    aims = [PredictedDirection(head=head, predictor=predictor, target=target, stop=stop)] if strength else []
    return _sampled(pipe, cases, None, aims, step_size=step_size * strength, moves="prediction")


def _baseline(pipe, cases, network, strength, scale=1.0, guidance_scale=SCALE):
    return sample_baseline(pipe, network, cases.captions, cases.shown, scale=scale * strength,
                           guidance_scale=guidance_scale, steps=STEPS,
                           latents=cases.latents)


def _together(pipe, cases, pair, strength, scale=1.0, guidance_scale=SCALE, **settings):
    """The network and the head, each at its own setting (see `chosen`); the strength is that of the guidance."""
    network, head = pair
    conditioning = steered(encode_prompts(pipe, cases.captions), network, cases.shown, scale)
    return _guided(pipe, cases, head, strength, conditioning=conditioning, guidance_scale=guidance_scale, **settings)


def _grid(**choices) -> tuple[dict, ...]:
    return tuple(dict(zip(choices, each)) for each in itertools.product(*choices.values()))


_BUDGET = {"guided": _grid(step_size=(0.03, 0.05, 0.08, 0.12), inner_steps=(1, 2)),
           "detector": _grid(step_size=(0.05, 0.1, 0.2, 0.4), stop=(0.5, 0.8)),
           "baseline": _grid(scale=(0.75, 1.0, 1.25, 1.5), guidance_scale=(1.5, SCALE)),
           "farther": _grid(scale=(0.75, 1.0, 1.5, 2.0, 2.5), guidance_scale=(1.5, SCALE)),
           "finer": _grid(step_size=(0.02, 0.03, 0.05, 0.08), inner_steps=(1, 2)),
           "loop": _grid(step_size=(0.05, 0.08, 0.12, 0.18), goal=(0.2, 0.4)),
           "predictor": _grid(step_size=(0.1, 0.2, 0.4, 0.8), stop=(0.5, 0.8))}


@dataclass(frozen=True)
class Contestant:
    """`make(pipe, cases, trained, strength, **settings)` makes pictures (B, 3, 128, 128); `grid` is what `tune` tries, eight
    settings for everybody who is trained and works alone; `moved` has the grids of tasks where the best of them lay at the edge, for
    the networks two settings more."""
    parts: tuple[str, ...]              # what was trained, by names of folders
    make: Callable
    grid: tuple[dict, ...] = ({},)
    moved: dict[str, tuple[dict, ...]] = field(default_factory=dict)


CONTESTANTS = {
    "unguided": Contestant((), lambda pipe, cases, trained, strength: _guided(pipe, cases, None, 0.0)),
    "head": Contestant(("head",), _guided, _BUDGET["guided"], {"edges": _BUDGET["finer"]}),
    "linear": Contestant(("linear",), _guided, _BUDGET["guided"]),
    "detector": Contestant(("detector",), _guided, _BUDGET["detector"]),
    "controlnet": Contestant(("controlnet",), _baseline, _BUDGET["baseline"], dict.fromkeys(("depth", "edges"), _BUDGET["farther"])),
    "adapter": Contestant(("adapter",), _baseline, _BUDGET["farther"]),
    **{f"{kind}+head": Contestant((kind, "head"), _together) for kind in KINDS},         # at what was chosen for each alone
    "loop": Contestant(("head",), _looped, _BUDGET["loop"]),
    "predictor": Contestant(("predictor", "head"), _predicted, _BUDGET["predictor"])}


def load_parts(name: str, task: str, labels: int, seed: int, pipe, runs=RUNS):
    """What a contestant was trained to, frozen: None, a head or network, or a tuple of them."""
    require(name, task, labels, seed, runs)
    there = denoiser(pipe).device

    def load(part):
        folder = folder_of(part, task, labels, seed, runs)
        if part in KINDS:
            return load_baseline(folder).to(there)
        return load_rival(folder).to(there) if part in ("linear", "detector", "predictor") else load_head(str(folder)).to(there)
    found = tuple(load(part) for part in _known(name).parts)
    return found if len(found) > 1 else found[0] if found else None


def lacking(name: str, task: str, labels: int, seed: int, runs=RUNS) -> dict[str, Path]:
    """Which parts of a contestant were not trained to their end, and the folders that should hold them."""
    folders = {part: folder_of(part, task, labels, seed, runs) for part in _known(name).parts}
    return {part: folder for part, folder in folders.items() if not (folder / "training.json").exists()}


def require(name: str, task: str, labels: int, seed: int, runs=RUNS) -> None:
    """ValueError, before anything slow, where a contestant was not trained."""
    for part, folder in lacking(name, task, labels, seed, runs).items():
        raise ValueError(f"{folder} holds no finished training; train it with python -m rg_minimal.evidence "
                         f"{f'ablate {task} --ablations' if ':' in part else f'train {task} --kinds'} {part} --labels {labels} --seeds {seed}"
                         f"{'' if str(runs) == RUNS else f' --runs {runs}'}")


def network_of(name: str, task: str, labels: int, seed: int, runs=RUNS) -> str:
    """A checksum of all that a contestant was trained to; empty where there is nothing, or not on this machine. A checkpoint that is
    left of a training which has ended is none of it."""
    if lacking(name, task, labels, seed, runs):
        return ""
    files = [file for part in _known(name).parts for file in sorted(folder_of(part, task, labels, seed, runs).glob("*.safetensors"))
             if file.name != CHECKPOINT]
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}" if files else ""


def of_these(rows: list[dict], runs=RUNS) -> list[dict]:
    """The rows but those of networks that were trained anew since: what is in `runs` now is another. Rows of networks that are not there
    stay."""
    now: dict[tuple, str] = {}
    for row in rows:
        which = tuple(row[name] for name in SETTING[:4])
        if which not in now:
            now[which] = network_of(*which, runs)
    return [row for row in rows if now[tuple(row[name] for name in SETTING[:4])] in ("", row["network"]) or not row["network"]]


def contestant_of(name: str) -> str:
    """Who guides with what a training of this name left: an ablation is a head."""
    return name if name in CONTESTANTS else f"head:{name}"


def is_tuned(name: str) -> bool:
    """Whether there is anything to choose for a contestant itself."""
    return len(_known(name).grid) > 1


def _known(name: str) -> Contestant:
    if name in CONTESTANTS:
        return CONTESTANTS[name]
    if name.startswith("head:"):                            # an ablation: another head, guided as ours
        return Contestant((name.removeprefix("head:"),), _guided, _BUDGET["guided"])
    raise ValueError(f"there is no contestant {name!r}; choose from {', '.join(CONTESTANTS)}, or "
                     "head:NAME of an ablation")


# ---------------------------------------------------------------------------------------------- one batch

def measure(pipe, judge, name: str, trained, cases: Cases, strength: float, settings: dict, axes=None) -> list[dict]:
    """The numbers of each picture of a batch; "look" is empty where there are no `axes` of the Frechet distance."""
    start = time.process_time()
    with counted(pipe) as passes:
        pictures = _known(name).make(pipe, cases, trained, strength, **settings)
    seconds = (time.process_time() - start) / len(pictures)
    pictures = pictures.cpu()                               # the judge stays where it is
    reading = judge(pictures)
    columns = {"control": control_of(cases.task, reading, cases.frames).nan_to_num(0.0).tolist(),
               "whole": judge.found(reading).float().tolist(), 
               "attributes": agreement(reading.attributes, facts(cases.frames.scenes)),
               "look": _written((looks(judge, pictures) - axes[0]) @ axes[1]) if axes else [""] * len(pictures)}
    return [{**dict(zip(columns, row)), "passes": passes.count / len(pictures), "seconds": seconds}
            for row in zip(*columns.values())]


def _written(looks: Tensor) -> list[str]:
    return [" ".join(f"{value:.3f}" for value in row) for row in looks.tolist()]


def write_real(pipe, judge, table, runs=RUNS) -> None:
    """The renderings that the Frechet distance compares with, as a table, rows as `REAL_KINDS`, and their axes beside it (`stored_axes`); one
    of this model is left as it is."""
    if not real_rows(table, pipe, judge) or not Path(table).with_suffix(".safetensors").exists():
        (mean, main), found = real_looks(pipe, judge, runs)
        write_tensors(Path(table).with_suffix(".safetensors"), {"mean": mean, "axes": main.contiguous()})
        write_rows(table, [{"look": each, "version": checksum_of(pipe, judge)} for each in _written(found)], REAL_KINDS)


def real_rows(table, pipe, judge) -> list[dict]:
    """The renderings that are written down, as `rows_of`."""
    return of_one_model(rows_so_far(table, REAL_KINDS, "renderings"), table, pipe, judge)


def stored_axes(folder=FOLDER) -> tuple[Tensor, Tensor]:
    """The axes of the Frechet distance, as `measure` wants them, from beside the table of renderings."""
    found = read_tensors(Path(find_folder(folder)) / "real.safetensors")[0]
    return found["mean"], found["axes"]


def real_looks(pipe, judge, folder=RUNS) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The axes of the Frechet distance, and where `REAL` held-out renderings lie on them, (REAL, LOOKS), after the
    autoencoder, so that what it loses counts against nobody. Made once, and kept in `folder`."""
    path = Path(folder) / f"real-{checksum_of(pipe, judge)}.safetensors"
    if not path.exists():
        parts = [looks(judge, round_trip(pipe.vae,
                                         world.render(world.sample_scenes(32, seeds.REAL.first + start)).image))
                 for start in range(0, REAL, 32)]
        mean, main = axes_of(torch.cat(parts), LOOKS)
        write_tensors(path, {"mean": mean, "axes": main.contiguous(),
                             "looks": ((torch.cat(parts) - mean) @ main).contiguous()})
    found = read_tensors(path)[0]
    return (found["mean"], found["axes"]), found["looks"]


# ---------------------------------------------------------------------------------------------- tables

def read_table(table) -> list[dict]:
    """The rows of a table; none where there is no such file."""
    return rows_so_far(table, KINDS_OF, "the contest")


def looks_of(rows: list[dict]) -> Tensor:
    return torch.tensor([[float(each) for each in row["look"].split()] for row in rows])


def entries(tasks, contestants, labels, trainings, strengths) -> list[tuple]:
    """Who is asked what, in which order: one pass of everything before the next training. Who is not trained is asked
    once."""
    found = [(name, task, count, seed, float(strength)) for seed in trainings for count in labels for task in tasks
             for name in contestants
             for strength in strengths]
    return list(dict.fromkeys((name, task, 0, 0, 1.0) if not _known(name).parts else (name, task, count, seed, strength)
                              for name, task, count, seed, strength in found))


def run(pipe, judge, todo: list[tuple], table, scenes: seeds.Scenes, pictures: int = 64,
        settings: Callable | None = None,
        runs=RUNS) -> Iterator[tuple[int, int]]:
    """Measure what `table` lacks, or has of networks that were trained anew since (`network_of`), a batch at a time, and write it after
    each; yields (batches done, of). `todo` is a list of (contestant, task, labels, seed, strength), and `settings(contestant, task, labels)` a list of the settings
    to measure."""
    work = missing(of_these(rows_of(table, pipe, judge), runs), todo, scenes, pictures, settings)
    for number, made in enumerate(measured(pipe, judge, work, scenes, pictures, runs), 1):
        add_to(table, made)
        yield number, len(work)


def add_to(table, made: list[dict]) -> None:
    """Add rows to a table of the contest, which other processes may write, too."""
    add_rows(table, made, KINDS_OF, (*SETTING, "picture"), "the contest")


def rows_of(table, pipe, judge) -> list[dict]:
    """The rows of a table, all of this model and this judge. ValueError where they are of another."""
    return of_one_model(read_table(table), table, pipe, judge)


def of_one_model(rows: list[dict], table, pipe, judge) -> list[dict]:
    """These rows of a table, if all are of this model and this judge, else ValueError."""
    alien = {row["version"] for row in rows} - {checksum_of(pipe, judge)}
    if alien:
        raise ValueError(f"{table} has rows of another model or judge ({', '.join(sorted(alien))}); keep it elsewhere, or name "
                         "another folder")
    return rows


def missing(rows: list[dict], todo: list[tuple], scenes: seeds.Scenes, pictures: int, settings: Callable | None = None) -> list[tuple]:
    """What `run` has to measure: (values of `SETTING`, first picture of a batch), in order."""
    scenes.part(0, pictures)
    done = {(*(row[name] for name in SETTING), row["picture"]) for row in rows}
    keys = [(*entry, json.dumps(each)) for entry in todo for each in (settings(*entry[:3]) if settings else [{}])]
    return [(key, start) for key in keys for start in range(0, pictures, BATCH)
            if not all((*key, picture) in done for picture in range(start, min(start + BATCH, pictures)))]


def measured(pipe, judge, work: list[tuple], scenes: seeds.Scenes, pictures: int, runs=RUNS) -> Iterator[list[dict]]:
    """The rows of each batch of `missing`."""
    for name, task, labels, seed in dict.fromkeys(key[:4] for key, _ in work):
        require(name, task, labels, seed, runs)
    axes, version = real_looks(pipe, judge, runs)[0] if work else None, checksum_of(pipe, judge)
    loaded, cases, network = (None, None), {}, ""
    for key, start in work:
        name, task, labels, seed, strength, said = key
        if loaded[0] != key[:4]:
            loaded, network = (key[:4], load_parts(name, task, labels, seed, pipe, runs)), network_of(name, task, labels, seed, runs)
        if (task, start) not in cases:
            cases[task, start] = make_cases(pipe, task, scenes.first + start, min(BATCH, pictures - start))
        made = measure(pipe, judge, name, loaded[1], cases[task, start], strength, json.loads(said), axes)
        yield [{**dict(zip(SETTING, key)), "picture": start + i, **row, "version": version, "network": network} for i, row in enumerate(made)]


# ---------------------------------------------------------------------------------------------- tuning

def merit(row: dict) -> float:
    """What tuning looks for, the same for everybody: control, in a whole puppet, with the attributes of the caption. In
    depth 1 - RMSE."""
    return (1 - row["control"] if row["task"] == "depth" else row["control"]) * row["whole"] * row["attributes"]


def chosen(rows: list[dict], name: str, task: str, labels: int) -> dict:
    """The setting of this contestant with the largest mean merit of its tuning, when it has learned from so many `labels`; its defaults where
    nothing was tuned. A pair has what was chosen for each of the two alone, an ablation what the head has.

    A tuning counts when it was made to its end (`tunings`), and of several the nearest one (`nearest`). ValueError where none was made to its
    end.
    """
    if "+" in name:
        return {what: value for part in name.split("+") for what, value in chosen(rows, part, task, labels).items()}
    begun, ended = _tuned(rows, name, task), tunings(rows, name, task)
    if not begun:
        return {}
    if not ended:
        most = max(row["labels"] for row in begun)
        scenes = max(TUNED_ON, *(row["picture"] + 1 for row in begun if row["labels"] == most))
        raise ValueError(f"not all {len(budget(name, task))} settings of {_alone(name)} in {task} were tried on the same pictures: tune it to its end "
                         f"with python -m rg_minimal.evidence tune {task} --contestants {_alone(name)} --tuned-with {most} --tuned-on {scenes}")
    merits = ended[nearest(list(ended), labels)]
    return json.loads(max(merits, key=merits.get))


def nearest(several: list[int], labels: int) -> int:
    """Which of several numbers of labels is nearest, as a ratio; of two as near the larger one."""
    return min(several, key=lambda each: (round(abs(math.log(each / max(labels, 1))), 6), -each))


def tunings(rows: list[dict], name: str, task: str) -> dict[int, dict[str, float]]:
    """The mean merits of settings in each tuning of a contestant that was made to its end, {labels: {settings: merit}}: all settings of
    `budget` were tried, on the same pictures. One that was killed has fewer, or some on fewer pictures, and is left out."""
    found: dict[int, dict[str, dict[int, float]]] = {}
    for row in _tuned(rows, name, task):
        found.setdefault(row["labels"], {}).setdefault(row["settings"], {})[row["picture"]] = merit(row)
    known, ended = [json.dumps(each) for each in budget(name, task)] if found else [], {}
    for labels, tried in found.items():
        if all(each in tried and tried[each].keys() == tried[known[0]].keys() for each in known):
            ended[labels] = {each: math.fsum(tried[each].values()) / len(tried[each]) for each in known}
    return ended


def was_tuned(rows: list[dict], name: str, task: str) -> bool:
    """Whether a tuning of this contestant, or of both of a pair, was made to its end."""
    return all(tunings(rows, part, task) for part in name.split("+"))


def _tuned(rows: list[dict], name: str, task: str) -> list[dict]:
    return [row for row in rows if (row["contestant"], row["task"]) == (_alone(name), task)]


def _alone(name: str) -> str:
    """Whose settings a contestant has: an ablation the head's."""
    return "head" if name.startswith("head:") else name


def budget(name: str, task: str, labels: int | None = None) -> list[dict]:
    """All settings that `tune` tries, with however many labels."""
    known = _known(_alone(name))
    return list(known.moved.get(task, known.grid))


# ---------------------------------------------------------------------------------------------- does a row come back?

def recompute(pipe, judge, table, tasks, scenes: seeds.Scenes, seed: int = 0, runs=RUNS) -> tuple[list[dict], list[dict]]:
    """The rows of a batch of these tasks, that of a row drawn at random from the table, and the same computed again. What they were
    trained with has to be there."""
    rows = [row for row in rows_of(table, pipe, judge) if row["task"] in tasks]
    if not rows:
        raise ValueError(f"{table} has no rows of {', '.join(tasks)}; run the contest first")
    row = rows[int(torch.randint(len(rows), (), generator=torch.Generator().manual_seed(seed)))]
    start = row["picture"] // BATCH * BATCH
    here = sorted((each for each in rows if all(each[name] == row[name] for name in SETTING)
                   and start <= each["picture"] < start + BATCH), key=lambda each: each["picture"])
    trained = load_parts(row["contestant"], row["task"], row["labels"], row["seed"], pipe, runs)
    axes, _ = real_looks(pipe, judge, runs)
    cases = make_cases(pipe, row["task"], scenes.first + start, len(here))
    again = measure(pipe, judge, row["contestant"], trained, cases, row["strength"], json.loads(row["settings"]), axes)
    return here, [{**one, **other} for one, other in zip(here, again)]


# How far the median picture of a batch may come out otherwise, in control and in the number of its look that is farthest off, by task, where the
# network is the same. On the machine that made a row looks are off by less than 0.001. With another processor's instructions (AVX2 in place of
# AVX512, 40 pictures) the same holds where no gradient has a part; a gradient, and most of all the two moves a step of depth and edges, makes more of what
# is rounded otherwise: of 32, 16 and 24 pictures guided by heads single ones were off by 0.023, 0.218 and 0.221, as another training's may be,
# but the medians of their batches by at most 0.002 in pose, 0.072 in depth and 0.004 in edges. Of batches of two trainings of one kind in the
# stored table the least is 0.062 in pose, 0.164 in depth and 0.105 in edges. Control alone would not tell: many networks come equally near.
SAME = {"pose": (0.1, 0.03), "depth": (0.002, 0.15), "edges": (0.02, 0.05)}


def agree(rows: list[dict], again: list[dict]) -> bool:
    """Whether two computations of a batch say the same, but for what other processors round otherwise: its median picture."""
    control, look = SAME[rows[0]["task"]]
    off = lambda name: median(abs(one[name] - other[name]) for one, other in zip(rows, again))
    return (all(one["passes"] == other["passes"] for one, other in zip(rows, again)) and off("whole") < 0.5 and off("attributes") < 0.02
            and off("control") <= control and median(map(look_apart, rows, again)) <= look)


def look_apart(row: dict, again: dict) -> float:
    """The largest difference of two looks, infinite where one of them has none."""
    one, other = ([float(each) for each in part["look"].split()] for part in (row, again))
    return max((abs(a - b) for a, b in zip(one, other)), default=0.0) if len(one) == len(other) else math.inf


def trainings(runs=RUNS) -> list[dict]:
    """What the trainings in `runs` cost: contestant, task, labels, seed, parameters, training seconds, and which networks they left."""
    found = []
    for which, told in _finished(runs):
        name, *rest = which.values()
        found.append({**which, "parameters": told["parameters"], "training_seconds": told["training_seconds"], "device": told.get("device", "cpu"),
                      "steps": told.get("best_step", told["recipe"]["steps"]),
                      "network": network_of(contestant_of(name), *rest, runs)})
    return found


def _finished(runs) -> Iterator[tuple[dict, dict]]:
    """What each finished training is of, and what it left in its training.json. Folders that are not ours have none of these, or say other
    things."""
    for path in sorted(Path(runs).glob("*/training.json")):
        parts = path.parent.name.rsplit("-", 3)
        if len(parts) == 4 and parts[1] in (*TASKS, "several") and parts[2].isdecimal() and parts[3].isdecimal():
            (name, task, labels, seed), told = parts, read_json(path)
            if {"recipe", "parameters", "training_seconds"} <= set(told):
                yield {"contestant": name, "task": task, "labels": int(labels), "seed": int(seed)}, told
