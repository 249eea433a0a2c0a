"""What the tables say, as numbers, tables of text and sentences. Nothing of it is typed by hand, and what a table lacks
is said to be not measured.

    python -m rg_minimal.evidence report                # all of it, from data/results/evidence

Notebook A4 draws it, and the README's table is `markdown`. Here *larger* is better but of an error, and *nearer* is
better in both.
"""
from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from . import ablations as A, baselines as B, contest as C, many as M, recipes, statistics as T, trial
from .statistics import pick
from ..checks import Count, FileName, declared
from ..files import rows_so_far
from ..pipelines import find_folder
from ..puppets.measure import MEASURED

COSTS = {"contestant": str, "task": str, "labels": int, "seed": int, "parameters": int, "training_seconds": float,
         "device": str, "steps": int, "network": str}
NAMES = {"unguided": "unguided", "head": "our head", "linear": "best raw layer", "detector": "picture detector",
         "controlnet": "ControlNet", "adapter": "T2I-Adapter", "controlnet+head": "ControlNet + head",
         "adapter+head": "T2I-Adapter + head", **{f"layer{i}": f"layer {i} alone" for i in range(6)},
         "first3": "first three layers", "last3": "last three layers", "equal_mixing": "equal weights",
         "without_timestep": "not told t", "mirrored": "told 999 - t", "width256": "256 channels", "plain_loss": "plain loss",
         "below250": "t below 250", "below500": "t below 500", "above500": "t from 500",
         **{f"short{count}": f"first {count} layers, ended there" for count in (2, 3, 4)}, "several": "one head of three tasks",
         "loop": "closed loop", "predictor": "predicted direction"}
MEASURES = {"pose": "PCK@0.05", "depth": "depth RMSE", "edges": "edge F-score"}
NUMBERS = {"whole": "whole puppets", "attributes": "attributes right"}
SEEDS = 3                               # trainings that were planned of each
PARTS = {"which layers": ("layer0", "layer1", "layer2", "layer3", "layer4", "layer5", "first3", "last3"),
         "mixing weights": ("equal_mixing",), "timestep embedding": ("without_timestep", "mirrored"),
         "width": ("width256",), "balanced loss": ("plain_loss",),
         "timesteps learned from": ("below250", "below500", "above500"), "cheaper heads": ("short2", "short3", "short4", "several")}
IDEAS = {"guidance that sets its own step length and end": ("loop",), "one head of several tasks": ("head:several",),
         "a truncated decoder": ("head:short2", "head:short3", "head:short4"),
         "a learned one-step predictor of the gradient": ("predictor",)}
NOT = "not measured"


# ---------------------------------------------------------------------------------------------- the tables

@dataclass(frozen=True)
class Tables:
    """All that was measured; a table that is not there is empty. `partial` names what was not measured to its end, and is
    left out."""
    contest: list[dict] = field(default_factory=list)
    tune: list[dict] = field(default_factory=list)
    training: list[dict] = field(default_factory=list)
    recipes: list[dict] = field(default_factory=list)
    ablations: list[dict] = field(default_factory=list)
    real: list[dict] = field(default_factory=list)
    trial: list[dict] = field(default_factory=list)
    ghosting: list[dict] = field(default_factory=list)
    partial: tuple[str, ...] = ()


@declared
def read_tables(folder: FileName = C.FOLDER) -> Tables:
    """The tables in a folder. ValueError where one is damaged, or holds rows of several models."""
    place = Path(find_folder(folder))
    if not place.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that holds contest.csv and the other tables")
    tune = C.read_table(place / "tune.csv")
    rows, partial = whole_arms(C.read_table(place / "contest.csv"), tune)
    kinds = {"training": COSTS, "recipes": recipes.KINDS_OF, "ablations": A.KINDS_OF, "real": C.REAL_KINDS}
    others = {name: rows_so_far(place / f"{name}.csv", kind, name) for name, kind in kinds.items()}
    tables = Tables(rows, tune, **others, trial=trial.read_table(place / "trial.csv"),
                    ghosting=trial.read_table(place / "ghosting.csv"), partial=tuple(partial))
    for these in ((*tables.contest, *tables.tune, *tables.real, *tables.recipes, *tables.ablations), (*tables.trial, *tables.ghosting)):
        versions = {row["version"] for row in these}        # those of drags name the head that they are read with, too
        if len(versions) > 1:
            raise ValueError(f"{folder} has rows of several models ({', '.join(sorted(versions))}); measure all with one")
    return tables


def arm(row: dict) -> tuple:
    """What the pictures of one row's kind share."""
    return tuple(row[name] for name in ("task", "contestant", "labels", "seed", "strength"))


def whole_arms(rows: list[dict], tuned: list[dict] = ()) -> tuple[list[dict], list[str]]:
    """The rows of all arms (`arm`) that were measured to the end, on the same pictures, and names of the others.

    To the end is on the pictures that most arms of its kind have: of the task, at strength 1 or another, ablation or not. More pictures of
    an arm do not count until most have them. Where settings were `tuned` to the end those that were chosen count, else, where an arm was
    measured with several, the last ones.
    """
    every: dict[tuple, list[dict]] = {}
    for row in rows:
        every.setdefault(arm(row), []).append(row)
    found, kinds = {}, {}
    for key, part in every.items():
        task, name, *_ = key
        best = C.chosen(tuned, name, task, key[2]) if C.was_tuned(tuned, name, task) else json.loads(part[-1]["settings"])
        found[key] = [row for row in part if json.loads(row["settings"]) == best]
        kinds.setdefault(_kind(key), []).append(frozenset(row["picture"] for row in found[key]))
    usual, done, partial = {kind: _usual(pictures) for kind, pictures in kinds.items()}, [], []
    for key, part in found.items():
        task, name, labels, seed, strength = key
        here = [row for row in part if row["picture"] in usual[_kind(key)]]
        if here and len(here) == len(usual[_kind(key)]):
            done += here
        else:
            partial.append(f"{task}: {named(name)} with {labels:,} labels, seed {seed}, strength {strength:g}: {len(here)} of "
                           f"{len(usual[_kind(key)]) or len(every[key])} pictures"
                           + (" with the settings that were chosen" if len(part) < len(every[key]) else ""))
    return done, partial


def _kind(key: tuple) -> tuple:
    task, name, _, _, strength = key
    return task, name.startswith("head:"), strength == 1.0


def _usual(several: list[frozenset]) -> frozenset:
    """The pictures that most arms have, of those of each arm; where equally many have these and those, the ones that leave most rows."""
    some = [each for each in several if each]
    return max(some, key=lambda each: (some.count(each), len(each) * sum(each <= other for other in some)), default=frozenset())


def shared(rows: list[dict]) -> list[dict]:
    """The rows of those pictures that all arms have."""
    found: dict[tuple, set] = {}
    for row in rows:
        found.setdefault(arm(row), set()).add(row["picture"])
    pictures = set.intersection(*found.values()) if found else set()
    return [row for row in rows if row["picture"] in pictures]


def named(contestant: str) -> str:
    name = contestant.removeprefix("head:")
    return NAMES.get(name, name.replace("_", " "))


def measured_with(tables: Tables, task: str, contestant: str = "head") -> list[int]:
    """With how many labels a contestant was measured in a task."""
    return _labels(pick(tables.contest, task=task, strength=1.0), contestant)


def tasks_of(rows: list[dict]) -> list[str]:
    """The tasks that were measured, in their order."""
    return [task for task in B.TASKS if pick(rows, task=task)]


# ---------------------------------------------------------------------------------------------- how many labels?

@declared
def answer(tables: Tables, task: str, rival: str = "controlnet", at: Count = 100) -> dict:
    """How many labels a rival needs to come as near as our head with `at`: {"task", "rival", "at", "needed", "gap",
    "verdict"}.

    `needed` is what `statistics.labels_needed` says, `gap` how much nearer the head is where both have `at` labels, in pairs
    ({"value", "low", "high", "n", "head", "rival"}); each is None where it was not measured. `verdict` is "holds",
    "fails" or "open" for the claim that the rival needs more, or "not measured".
    """
    if task not in MEASURES:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(MEASURES)}")
    rows = pick(tables.contest, task=task, strength=1.0, contestant={"head", rival})
    head, theirs = pick(rows, contestant="head", labels=at), pick(rows, contestant=rival)
    found = {"task": task, "rival": rival, "at": at, "needed": None, "gap": None, "verdict": NOT}
    if not head or not theirs:
        return found
    found["needed"] = T.labels_needed(rows, task, rival, "head", at)
    both = _of_both(rows, "head", rival, at)
    if both:
        ours, others = (T.grid(both, contestant=name, labels=at) for name in ("head", rival))
        found["gap"] = T.paired(*((others, ours) if task == "depth" else (ours, others))) | {"head": float(ours.mean()), "rival": float(others.mean())}
    found["verdict"] = _verdict(found["needed"], found["gap"], at)
    return found


def _verdict(needed: dict, gap: dict | None, at: int) -> str:
    """Decided where the whole interval is on one side, and, where both were measured with as many labels, that of the gap, too."""
    fewest, most = needed["measured"][0], needed["measured"][-1]
    if needed["low"] > at and (needed["low"] < math.inf or most >= at) and (gap is None or gap["low"] > 0):
        return "holds"
    if needed["high"] < at and (needed["high"] > 0 or fewest <= at) and (gap is None or gap["high"] < 0):
        return "fails"
    return "open"


def amount(value: float, measured: list[int]) -> str:
    """A number of labels in words: two digits, and no more than was measured."""
    if value == 0:
        return f"{measured[0]:,} or fewer"
    if value == math.inf:
        return f"more than {measured[-1]:,}"
    return f"{float(f'{value:.2g}'):,.0f}"


def needs(found: dict) -> str:
    """`answer`'s number of labels with its interval."""
    if found["needed"] is None:
        return NOT
    middle, low, high = (amount(found["needed"][name], found["needed"]["measured"]) for name in ("value", "low", "high"))
    return middle if low == middle == high else f"{middle} ({low} to {high})"


def sentence(found: dict) -> str:
    """`answer` in a sentence or three."""
    task, rival, at = found["task"], named(found["rival"]), found["at"]
    if found["needed"] is None:
        return f"{task}: how many labels {rival} needs to match our head at {at:,} is {NOT}."
    verdicts = {"holds": "So the claim that it needs more holds here.",
                "fails": "So the claim that it needs more does not hold here.",
                "open": "Whether it needs more is not decided by this."}
    said = f"{task}: to match our head at {at:,} labels, {rival} needs {needs(found)}. {verdicts[found['verdict']]}"
    gap, needed = found["gap"], found["needed"]
    if gap:
        more = "nearer" if gap["value"] >= 0 else "farther off"
        said += (f" With {at:,} labels each, {MEASURES[task]} is {gap['head']:.3f} for the head and {gap['rival']:.3f} "
                 f"for {rival}: the head is {more} by {abs(gap['value']):.3f} ({_ends(gap, abs(gap['value']))}).")
    return f"{said} {_counted(needed)}" if not gap or gap["seeds"] == needed["seeds"] else (
        f"{said} n = {needed['n']} pictures, {_trainings(gap['seeds'])} of each with {at:,} labels, at least {needed['seeds']} with other numbers.")


def _ends(found: dict, turned: float | None = None) -> str:
    ends = found["low"], found["high"]
    if turned is not None and found["value"] < 0:
        ends = -found["high"], -found["low"]
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _counted(found: dict) -> str:
    return f"n = {found['n']} pictures, at least {_trainings(found['seeds'])} of each."


def _trainings(count: int) -> str:
    return f"{count} training{'s' if count != 1 else ''}"


# ---------------------------------------------------------------------------------------------- what was tuned

def tuning(tables: Tables, task: str) -> dict[str, list[dict]]:
    """What was tried of each contestant's settings, {contestant: [{"settings", "merit", "control", "whole", "attributes", "chosen", "n",
    "labels"}, ...]}, in order of the table; "merit" is what tuning looks for (`contest.merit`), and the setting with most of it is chosen, in each tuning that was
    made to its end."""
    rows, found = pick(tables.tune, task=task), {}
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = pick(rows, contestant=name)
        chosen = {labels: max(merits, key=merits.get) for labels, merits in C.tunings(rows, name, task).items()}
        for labels, settings in dict.fromkeys((row["labels"], row["settings"]) for row in mine):
            here = pick(mine, labels=labels, settings=settings)
            found.setdefault(name, []).append({
                "settings": json.loads(settings), "merit": sum(map(C.merit, here)) / len(here), "control": _mean(here, "control"),
                "whole": _mean(here, "whole"), "attributes": _mean(here, "attributes"), "chosen": settings == chosen.get(labels), "n": len(here), "labels": labels})
    return found


def kept_early(tables: Tables, task: str) -> list[str]:
    """The baselines whose trainings, by a recipe of before, did not keep the last of today's steps: "ControlNet with 100 labels (1 of 3)", ..."""
    found = []
    for name in B.KINDS:
        mine = pick(tables.training, task=task, contestant=name)
        for labels in sorted({row["labels"] for row in mine}):
            here = pick(mine, labels=labels)
            early = [row for row in here if row["steps"] != B.usual_steps(labels, B.BaselineRecipe(name, task))]
            found += [f"{named(name)} with {labels:,} labels ({len(early)} of {len(here)})"] if early else []
    return found


def trained_since(tables: Tables, task: str) -> list[str]:
    """What was measured with other networks than those that `training.csv` tells of."""
    which = lambda row: (row["contestant"].removeprefix("head:"), row["labels"], row["seed"])
    now = {which(row): row["network"] for row in pick(tables.training, task=task)}
    old = {which(row) for row in pick(tables.contest, task=task) if row["network"] and now.get(which(row), "") not in ("", row["network"])}
    return [f"{named(name)} with {labels:,} labels, seed {seed}" for name, labels, seed in sorted(old)]


def at_the_edge(tables: Tables, task: str, name: str) -> list[str]:
    """The settings that were chosen as the smallest or the largest of three or more that were tried: "scale 1.5", ..."""
    found: list[str] = []
    for merits in C.tunings(tables.tune, name, task).values():
        best, tried = json.loads(max(merits, key=merits.get)), [json.loads(each) for each in merits]
        values = {what: sorted({each[what] for each in tried}) for what in best}
        found += [f"{what.replace('_', ' ')} {best[what]:g}" for what, several in values.items() if len(several) > 2 and best[what] in (several[0], several[-1])]
    return list(dict.fromkeys(found))


def tuning_table(found: dict[str, list[dict]], task: str) -> str:
    """`tuning` as text."""
    rows = [(f"{named(name)}: " + ", ".join(f"{what.replace('_', ' ')} {value:g}" for what, value in each["settings"].items()),
             f"{each['control']:.3f}", f"{each['whole']:.2f}", f"{each['attributes']:.2f}", f"{each['merit']:.3f}", "chosen" if each["chosen"] else "", str(each["n"]),
             f"{each['labels']:,}") for name, part in found.items() for each in part]
    return text_table((f"{task}, settings that were tried", "control", "whole", "attributes", "merit", "", "pictures", "labels"), rows)


def recipe_table(tables: Tables, task: str) -> str:
    """What became of baselines with each number of steps and learning rate that was tried, as text: what they steer on tuning scenes, the
    merit by which a recipe is chosen, and the loss on pictures that none learned from."""
    rows, alike = pick(tables.recipes, task=task), {}
    for row in rows:
        alike.setdefault(_whose(row), []).append(row["merit"])
    most = lambda row, merits: "most" if len(merits) > 1 and row["merit"] == max(merits) else ""
    return text_table((f"{task}, recipes that were tried: steps, rate", "loss on others", "control", "whole", "attributes", "merit", "", "pictures"), [
        (f"{named(row['contestant'])}, {row['labels']:,} labels: {row['steps']:,}, {row['lr']:g}", f"{row['loss']:.4f}", f"{row['control']:.3f}",
         f"{row['whole']:.2f}", f"{row['attributes']:.2f}", f"{row['merit']:.3f}", most(row, alike[_whose(row)]),
         str(row["pictures"])) for row in rows])


def steps_at_the_edge(tables: Tables, task: str) -> list[str]:
    """With how many labels a baseline's number of steps is the smallest or largest of those that were tried."""
    several = _steps_tried(tables, task)
    said = lambda steps, best: f"{best:,} of {', '.join(f'{each:,}' for each in steps)}" if len(steps) > 1 else f"{best:,} alone"
    return [f"{_trained(whose)} ({said(sorted(merits), best)})" for whose, merits in several.items()
            if (best := max(merits, key=merits.get)) in (min(merits), max(merits))]


def _steps_tried(tables: Tables, task: str) -> dict[tuple, dict[int, float]]:
    """The merit of each number of steps that was tried, all else alike: {`_whose`: {steps: merit}}."""
    found: dict[tuple, dict[int, float]] = {}
    for row in pick(tables.recipes, task=task, lr=B.BaselineRecipe.lr):
        found.setdefault(_whose(row), {})[row["steps"]] = row["merit"]
    return found


def not_the_best(tables: Tables, task: str) -> list[str]:
    """What was trained with another number of steps, or another rate, than that which had most merit of those that were tried."""
    best: dict[tuple, dict] = {}
    for row in sorted(pick(tables.recipes, task=task), key=lambda row: row["merit"]):
        best[_whose(row)] = row
    used = {(row["contestant"], row["labels"]): (row["steps"], B.BaselineRecipe.lr) for row in pick(tables.training, task=task)}
    said = lambda steps, rate: f"{steps:,} steps at {rate:g}"
    return [f"{_trained(whose)} ({said(*own)}; {said(row['steps'], row['lr'])} had more)" for whose, row in best.items()
            if (own := used.get((row["contestant"], row["labels"]))) and own != (row["steps"], row["lr"])]


def rates(tables: Tables, task: str, name: str) -> set[float]:
    """The learning rates of a baseline that were tried, all else alike."""
    return max(map(set, _rates_tried(tables, task, name).values()), key=len, default=set())


def rates_at_the_edge(tables: Tables, task: str) -> list[str]:
    """With how many labels and steps a baseline's learning rate is the smallest or largest of several that were tried."""
    found = []
    for name in B.KINDS:
        for (*whose, steps), merits in _rates_tried(tables, task, name).items():
            best = max(merits, key=merits.get)
            if len(merits) > 1 and best in (min(merits), max(merits)):
                found.append(f"{_trained(whose)}, {steps:,} steps ({best:g} of {', '.join(f'{each:g}' for each in sorted(merits))})")
    return found


def _rates_tried(tables: Tables, task: str, name: str) -> dict[tuple, dict[float, float]]:
    """The merit of each learning rate of a baseline that was tried, all else alike: {(*`_whose`, steps): {rate: merit}}."""
    alike: dict[tuple, dict] = {}
    for row in pick(tables.recipes, task=task, contestant=name):
        alike.setdefault((*_whose(row), row["steps"]), {})[row["lr"]] = row["merit"]
    return alike


def _whose(row: dict) -> tuple:
    """Which trainings a recipe is compared with: by the same labelled pictures, steered by the same settings."""
    return tuple(row[each] for each in ("task", "contestant", "labels", "seed", "settings"))


def _trained(whose) -> str:
    """`_whose` in words, where it is not the first training its seed as well."""
    _, name, labels, seed, _ = whose
    return f"{named(name)} with {labels:,} labels" + (f", training {seed}" if seed else "")


# ---------------------------------------------------------------------------------------------- labels, and what it costs

def efficiency(tables: Tables, task: str) -> dict[str, list[dict]]:
    """`statistics.curves` of all who work alone, by the names of figures, our head and the baselines first; empty where nothing was
    measured."""
    curves = T.curves(behind(tables, task, "labels"), task)
    order = [name for name in ("unguided", "head", *B.KINDS) if name in curves]
    return {named(name): curves[name] for name in dict.fromkeys((*order, *curves))}


@declared
def costs(tables: Tables, task: str, at: Count = 100) -> list[dict]:
    """For each contestant {"contestant", "parameters", "training_seconds", "trainings", "seconds", "passes", "n"}: what is added,
    what its training with `at` labels took, in seconds of a processor, and what a picture of it takes; None where that was not
    measured. Seconds are medians: rows were measured on several machines, some of which had other work; passes do not depend on that."""
    found = []
    for name, contestant in C.CONTESTANTS.items():
        trained = [pick(tables.training, contestant=part, task=task, labels=at) for part in contestant.parts]
        made = pick(tables.contest, contestant=name, task=task, strength=1.0, labels={at, 0})
        complete = all(trained) and bool(trained)
        found.append({"contestant": name, "parameters": sum(part[0]["parameters"] for part in trained) if all(trained) else None,
                      "training_seconds": sum(_median(part, "training_seconds") for part in trained) if complete else None,
                      "trainings": min(map(len, trained)) if complete else 0, "seconds": _median(made, "seconds"),
                      "passes": _mean(made, "passes"), "n": len(made)})
    return found


def _mean(rows: list[dict], name: str) -> float | None:
    return sum(row[name] for row in rows) / len(rows) if rows else None


def _median(rows: list[dict], name: str) -> float | None:
    return median(row[name] for row in rows) if rows else None


def cost_table(tables: Tables, task: str, at: int = 100) -> str:
    """`costs` as text."""
    rows = [(named(each["contestant"]), _or(each["parameters"], ",.0f"),
             "none" if each["contestant"] == "unguided" else _or(each["training_seconds"], ",.0f"), str(each["trainings"] or ""),
             _or(each["seconds"], ".1f"), _or(each["passes"], ".1f"), str(each["n"] or "")) for each in costs(tables, task, at)]
    return text_table((f"{task}, {at:,} labels", "added parameters", "training s", "trainings", "s a picture",
                       "passes a picture", "pictures"), rows)


def _or(value, form: str) -> str:
    return NOT if value is None else format(value, form)


def text_table(head: tuple, rows: list[tuple]) -> str:
    """Columns of text, the first to the left and the others to the right; where there are no rows, that it was not measured."""
    if not rows:
        return f"{head[0]}: {NOT}."
    wide = [max(len(str(each)) for each in column) for column in zip(head, *rows)]
    lines = [[str(each) for each in row] for row in (head, *rows)]
    return "\n".join("  ".join(each.ljust(wide[i]) if i == 0 else each.rjust(wide[i])
                               for i, each in enumerate(line)).rstrip() for line in lines)


# ---------------------------------------------------------------------------------------------- quality against strength

def trade(tables: Tables, task: str) -> dict[str, list[dict]]:
    """For each contestant that was measured at several strengths, and for nobody's guidance, what control costs:
    {contestant: [{"strength", "labels", "control", "whole", "attributes", "frechet", "farther"}, ...]}, each number {"value", "low",
    "high", "n", "seeds"}, of the same trainings at all strengths of one contestant. "frechet" is of the first of these trainings, so that it
    is of equally many pictures for everybody, and None where there are too few or no renderings to compare with; "farther" is how much more it
    is than at strength 1, in pairs, and None at strength 1."""
    chosen = _several_strengths(pick(tables.contest, task=task))
    kept = shared([row for part in chosen.values() for row in part])
    found = {}
    for name, part in chosen.items():
        by_strength = {strength: pick(kept, contestant=name, labels=part[0]["labels"], strength=strength)
                       for strength in sorted({row["strength"] for row in part})}
        found[name] = [_quality(tables, rows) | {"farther": _farther(rows, by_strength.get(1.0, []), tables.real)} for rows in by_strength.values()]
    return found


def _several_strengths(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each contestant with that number of labels that has most strengths, of the trainings that all of them have, and those of
    nobody's guidance; none where nobody has several."""
    found: dict[str, list[dict]] = {}
    for name in C.CONTESTANTS:
        by_labels = {labels: _of_all_strengths(pick(rows, contestant=name, labels=labels)) for labels in _labels(rows, name)}
        spread = {labels: len({row["strength"] for row in part}) for labels, part in by_labels.items()}
        if spread and (name == "unguided" or max(spread.values()) > 1):
            found[name] = by_labels[max(spread, key=lambda labels: (spread[labels], labels))]
    return {} if set(found) <= {"unguided"} else found


def _of_all_strengths(rows: list[dict]) -> list[dict]:
    """The rows of those trainings that were measured at all strengths."""
    have: dict[float, set] = {}
    for row in rows:
        have.setdefault(row["strength"], set()).add(row["seed"])
    return pick(rows, seed=set.intersection(*have.values()))


def _quality(tables: Tables, rows: list[dict]) -> dict:
    found = {"strength": rows[0]["strength"], "labels": rows[0]["labels"]}
    for number in T.NUMBERS:
        mine = T.grid(rows, number)
        found[number] = T.mean_of(mine) if number == "control" else T.shared_by(mine, len(MEASURED) if number == "attributes" else 1)
    first = pick(rows, seed=min(row["seed"] for row in rows))           # equally many pictures of everybody
    return found | {"frechet": distance(first, tables.real)}


def distance(rows: list[dict], real: list[dict], least: int = 32) -> dict | None:
    """The Frechet distance of these pictures to the renderings, with its interval; None where one has fewer than `least`."""
    return T.frechet_interval(C.looks_of(rows), C.looks_of(real)) if _comparable(rows, real, least) else None


def _comparable(rows: list[dict], real: list[dict], least: int = 32) -> bool:
    return min(len(rows), len(real)) >= least and all(row["look"] for row in rows)


def _farther(rows: list[dict], usual: list[dict], real: list[dict]) -> dict | None:
    """`statistics.frechet_paired` of the first training's pictures at a strength and at 1; None at 1, and where there is nothing to compare."""
    rows, usual = (sorted(pick(each, seed=min((row["seed"] for row in each), default=0)), key=lambda row: row["picture"]) for each in (rows, usual))
    if rows == usual or not _comparable(rows, real) or not _comparable(usual, real):
        return None
    return T.frechet_paired(*(C.looks_of(each) for each in (rows, usual, real)))


def floor(real: list[dict], count: int, splits: int = 40) -> dict | None:
    """The Frechet distance of `count` of the renderings to the others, in several random splits: the mean, and where 95 % of them lie. So far
    are pictures that nobody could tell from renderings."""
    if not 32 <= count <= len(real) - 32:
        return None
    looks, rng = C.looks_of(real), torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(real), generator=rng) for _ in range(splits)]
    found = torch.tensor([T.frechet(looks[each[:count]], looks[each[count:]]) for each in orders])
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975]))
    return {"value": float(found.mean()), "low": float(low), "high": float(high), "n": count}


def floor_said(tables: Tables, found: dict[str, list[dict]]) -> str:
    """`floor` for as many renderings as `trade` found pictures, in a sentence."""
    count = min((each["frechet"]["n"] for part in found.values() for each in part if each["frechet"]), default=0)
    least = floor(tables.real, count)
    return f"Frechet distance of renderings to others: {NOT}." if least is None else (
        f"Frechet distance of {count} renderings to {len(tables.real) - count} others, in random splits: {least['value']:.2f} on average, "
        f"{least['low']:.2f} to {least['high']:.2f} in 95 % of them. What lies in there is as good as renderings, as far as so few pictures tell.")


def trade_table(found: dict[str, list[dict]]) -> str:
    """`trade` as text."""
    show = lambda each: NOT if each is None else f"{each['value']:.3f} ({_ends(each)})"
    rows = [(named(name), f"{each['labels']:,}", f"{each['strength']:g}", *(show(each[number]) for number in
                                                                          ("control", "whole", "attributes", "frechet")),
             "" if each["farther"] is None else _plus(each["farther"]), str(each["control"]["n"]), str(each["control"]["seeds"]) if each["labels"] else "none")
            for name, part in found.items() for each in part]
    return text_table(("control strength", "labels", "strength", "control", *NUMBERS.values(), "Frechet, one training", "more than at 1", "n", "trainings"), rows)


# ---------------------------------------------------------------------------------------------- together

def together(tables: Tables, task: str) -> list[dict]:
    """For each network with a head beside it, what it has more than each of the two alone, in pairs of pictures: [{"pair",
    "against", "labels", "control", "whole", "attributes", "merit"}, ...]; "merit" is all three in one, `contest.merit`."""
    rows = pick(tables.contest, task=task, strength=1.0)
    return [found for pair in C.CONTESTANTS if "+" in pair for labels in _labels(rows, pair) for alone in pair.split("+")
            for found in _against(rows, pair, alone, labels)]


def rivals(tables: Tables, task: str) -> list[dict]:
    """What each who works alone has more than our head with as many labels, as `together`."""
    rows = behind(tables, task, "labels")
    return [found for name in C.CONTESTANTS if name != "head" for labels in _labels(rows, name)
            for found in _against(rows, name, "head", labels)]


def _labels(rows: list[dict], contestant: str) -> list[int]:
    return sorted({row["labels"] for row in pick(rows, contestant=contestant)})


def _against(rows: list[dict], one: str, other: str, labels: int) -> list[dict]:
    """What one contestant has more than another with as many labels, in pairs of pictures and of trainings that both have: one
    dict, as `together` has them, or none where one of them was not measured."""
    here = [{**row, "merit": C.merit(row)} for row in _of_both(rows, one, other, labels)]
    return [] if not here else [{"pair": one, "against": other, "labels": labels, **{
        number: T.paired(*(T.grid(here, number, contestant=name) for name in (one, other))) for number in (*T.NUMBERS, "merit")}}]


def _of_both(rows: list[dict], one: str, other: str, labels: int) -> list[dict]:
    """The rows of two contestants with as many labels, of the trainings and pictures that both have."""
    seeds = set.intersection(*({row["seed"] for row in pick(rows, contestant=name, labels=labels)} for name in (one, other)))
    return shared(pick(rows, contestant={one, other}, labels=labels, seed=seeds))


def together_table(found: list[dict], head: str = "together") -> str:
    """`together` or `rivals` as text."""
    error = head.startswith("depth")
    head, names = _paired(found, head)
    rows = [(name, f"{each['labels']:,}", *(_plus(each[number]) for number in (*T.NUMBERS, "merit")), str(each["control"]["n"]),
             str(each["control"]["seeds"])) for name, each in zip(names, found)]
    return text_table((head, "labels", "error (less is nearer)" if error else "control", *NUMBERS.values(), "merit: all three", "n", "trainings"), rows)


def _paired(found: list[dict], head: str) -> tuple[str, list[str]]:
    """The heading of a table of pairs and the names of its rows: what all are compared with is said in the heading."""
    against = {each["against"] for each in found}
    if len(against) == 1:
        return f"{head}, less {named(*against)}", [named(each["pair"]) for each in found]
    return head, [f"{named(each['pair'])} less {named(each['against'])}" for each in found]


# ---------------------------------------------------------------------------------------------- ideas beyond the paper

def ideas(tables: Tables, task: str) -> list[dict]:
    """What each idea has more than our head guided as usual, as `together`, and how its cost compares: "time" and "passes" are
    parts of the head's, from medians (seconds are of the machine that measured; rows say no more of it)."""
    rows, found = pick(tables.contest, task=task, strength=1.0), []
    several = [(name, labels) for names in IDEAS.values() for name in names for labels in _labels(rows, name)]
    for name, labels in several:
        for each in _against(rows, name, "head", labels):
            both = _of_both(rows, name, "head", labels)
            cost = {told: _median(pick(both, contestant=name), column) / _median(pick(both, contestant="head"), column)
                    for told, column in (("time", "seconds"), ("passes", "passes"))}
            found.append({**each, **cost})
    return found


def idea_table(found: list[dict]) -> str:
    """`ideas` as text."""
    head, names = _paired(found, "ideas")
    rows = [(name, f"{each['labels']:,}", _plus(each["control"]), _plus(each["whole"]), f"{each['time']:.2f}", f"{each['passes']:.2f}",
             str(each["control"]["n"]), str(each["control"]["seeds"])) for name, each in zip(names, found)]
    return text_table((head, "labels", "control", NUMBERS["whole"], "of its time", "passes", "n", "trainings"), rows)


def _plus(found: dict) -> str:
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def ghosting(tables: Tables) -> dict[str, dict]:
    """What drags gain or lose by the anti-ghosting term, in pairs of cases against its default: {"anti-ghosting 0": {"judge", "whole"}, ...}, each
    number as `statistics.few_pairs` says it; the judge's distance in pixels, and the share of whole puppets."""
    rows, usual = tables.ghosting, trial.ghost_name(trial.USUAL)
    if not pick(rows, answer=usual):
        return {}
    found = {}
    for name in dict.fromkeys(row["answer"] for row in rows if row["answer"] != usual):
        pictures = set.intersection(*({row["picture"] for row in pick(rows, answer=each)} for each in (name, usual)))
        here = pick(rows, answer={name, usual}, picture=pictures)
        if here:
            found[name] = {number: T.few_pairs(*(T.grid(here, number, answer=each) for each in (name, usual))) for number in ("judge", "whole")}
    return found


def ghost_table(found: dict[str, dict]) -> str:
    """`ghosting` as text."""
    return text_table((f"drags, less those with {trial.ghost_name(trial.USUAL)}", "judge's distance, px", "median", "nearer in", NUMBERS["whole"], "n"), [
        (name, _plus(each["judge"]), f"{each['judge']['median']:+.2f}", str(each["judge"]["less"]), _plus(each["whole"]), str(each["judge"]["n"]))
        for name, each in found.items()])


# ---------------------------------------------------------------------------------------------- ablations

def ablation_scores(tables: Tables, task: str) -> dict[str, dict[str, list[dict]]]:
    """For each part of the paper's, the task's own score by timestep of the head and of the heads without it:
    {part: {name: [{"timestep", "value", "low", "high", "seeds", "n"}, ...]}}; the ends are of 95 % intervals, or, with n = 0, where scores were
    kept of no picture by itself, the least and the most of the trainings. Only labels that most were trained with."""
    rows, found = _usual_labels(pick(tables.ablations, task=task)), {}
    for part, names in PARTS.items():
        there = [name for name in names if pick(rows, ablation=name)]
        if there:
            found[part] = {named(name): _scores(pick(rows, ablation=name)) for name in ("head", *there)
                           if pick(rows, ablation=name)}
    return found


def _usual_labels(rows: list[dict]) -> list[dict]:
    """Those with the number of labels that most ablations were trained with."""
    counts = {row["labels"] for row in rows}
    most = max(counts, key=lambda each: len({row["ablation"] for row in pick(rows, labels=each)}), default=None)
    return pick(rows, labels=most)


def _scores(rows: list[dict]) -> list[dict]:
    found = []
    for timestep in sorted({row["timestep"] for row in rows}):
        here = pick(rows, timestep=timestep)
        values = [row["score"] for row in here]
        told = {"value": sum(values) / len(values), "low": min(values), "high": max(values), "seeds": len(values), "n": 0}
        if all(row["scores"] for row in here):
            told = T.mean_of(_by_picture(here))
        found.append({"timestep": timestep, **told})
    return found


def _by_picture(rows: list[dict]) -> Tensor:
    """Scores of heads' readouts, (trainings, pictures)."""
    return torch.tensor([[float(score) for score in row["scores"].split()] for row in sorted(rows, key=lambda row: row["seed"])])


def more_than_ours(tables: Tables, task: str, at: int | None = None) -> dict[str, dict]:
    """What each changed head reads more than ours, the mean of all timesteps, or `at` one of them, in pairs of pictures and trainings; those
    that have them."""
    rows = [row for row in _usual_labels(pick(tables.ablations, task=task)) if row["scores"] and at in (None, row["timestep"])]
    times = sorted({row["timestep"] for row in rows})
    mean = lambda name, seeds: torch.stack([_by_picture(pick(rows, ablation=name, timestep=time, seed=seeds)) for time in times]).mean(0)
    have = {name: {row["seed"] for row in pick(rows, ablation=name)} for name in dict.fromkeys(row["ablation"] for row in rows)}
    return {name: T.paired(mean(name, both), mean("head", both)) for name, seeds in have.items() if name != "head" and (both := seeds & have.get("head", set()))}


def ablations_said(tables: Tables, task: str) -> str:
    """`ablation_scores` as text, with what each head reads more than ours over all timesteps and at the noisiest one."""
    found, more = ablation_scores(tables, task), more_than_ours(tables, task)
    last = max((each["timestep"] for part in found.values() for rows in part.values() for each in rows), default=0)
    noisy = more_than_ours(tables, task, last)
    apart = {named(name): (_plus(each), _plus(noisy[name]), str(each["n"])) for name, each in more.items()}
    times = sorted({each["timestep"] for part in found.values() for rows in part.values() for each in rows})
    rows = []
    for part, heads in found.items():
        for name, scores in heads.items():
            by_time = {each["timestep"]: each["value"] for each in scores}
            rows.append((part, name, *(_or(by_time.get(time), ".3f") for time in times), *apart.get(name, ("",) * 3), str(min(each["seeds"] for each in scores))))
    return text_table(("part of the head", "head", *(f"t = {time}" for time in times), "all, less our head", f"t = {last}, less our head", "n", "trainings"), rows)


def ablation_differences(tables: Tables, task: str) -> dict[str, dict]:
    """How much nearer guidance comes with each changed head than with ours, in pairs of pictures, {name: {"value", "low",
    "high", "n", "seeds"}}; an error counts the other way round."""
    rows, found, sign = pick(tables.contest, task=task, strength=1.0), {}, -1 if task == "depth" else 1
    for name in [f"head:{each}" for names in PARTS.values() for each in names]:
        for labels in _labels(rows, name):
            here = _of_both(rows, name, "head", labels)
            if here:
                grids = [T.grid(here, contestant=each) for each in (name, "head")]
                found[f"{named(name)}, {labels:,} labels"] = T.paired(*grids[::sign])
    return found


def difference_table(found: dict[str, dict], head: str) -> str:
    """Differences by name as text."""
    return text_table((head, "difference", "n", "trainings"), [
        (name, _plus(each), str(each["n"]), str(each["seeds"]))
        for name, each in found.items()])


# ---------------------------------------------------------------------------------------------- what there is, and what not

def coverage(tables: Tables) -> str:
    """A table of text: for each task and contestant how many trainings were measured with how many labels, at strength 1,
    the pictures of each, and the strengths."""
    rows, columns = [], sorted({*B.LABELS, *(row["labels"] for row in tables.contest)} - {0})
    for task in tasks_of(tables.contest):
        for name in C.CONTESTANTS:
            mine = pick(tables.contest, task=task, contestant=name)
            counts = {labels: len({row["seed"] for row in pick(mine, labels=labels, strength=1.0)}) for labels in columns}
            if name == "unguided":
                cells = ["" for _ in columns]
            else:
                cells = [str(counts[labels] or "-") for labels in columns]
            strengths = sorted({row["strength"] for row in mine})
            rows.append((f"{task}, {named(name)}", *cells, str(len({row["picture"] for row in mine}) or "-"),
                         " ".join(f"{each:g}" for each in strengths) or "-"))
    return text_table(("trainings by labels", *(f"{labels:,}" for labels in columns), "pictures", "strengths"), rows)


def gaps(tables: Tables) -> list[str]:
    """What was planned and is not in the tables, a sentence each."""
    found = []
    for task in B.TASKS:
        rows, scored = pick(tables.contest, task=task), pick(tables.ablations, task=task)
        if not rows and not scored:
            found.append(f"{task}: nothing was measured.")
            continue
        missing = [named(name) for name in C.CONTESTANTS if not pick(rows, contestant=name)]
        if missing:
            found.append(f"{task}: {', '.join(missing)}: {NOT}.")
        for name in ("head", *B.KINDS):
            mine = pick(rows, contestant=name, strength=1.0)
            labels = [f"{each:,}" for each in B.LABELS if mine and not pick(mine, labels=each)]
            if labels:
                found.append(f"{task}: {named(name)} with {', '.join(labels)} labels: {NOT}.")
            few = [f"{each:,}" for each in _labels(mine, name) if len({row["seed"] for row in pick(mine, labels=each)}) < SEEDS]
            if few:
                found.append(f"{task}: {named(name)} with {', '.join(few)} labels: fewer than {SEEDS} trainings.")
        several = _several_strengths(rows)
        other = [named(name) for name in C.CONTESTANTS if name != "unguided" and pick(rows, contestant=name) and name not in several]
        if rows and other:
            found.append(f"{task}: other strengths than what was tuned: {', '.join(other)}: {NOT}.")
        single = [named(name) for name in C.CONTESTANTS if name not in ("unguided", "head", *B.KINDS)
                  and 0 < len({row["seed"] for row in pick(rows, contestant=name)}) < SEEDS]
        single += ["heads that lack a part"] if any(":" in row["contestant"] for row in rows) or scored else []
        if single:
            found.append(f"{task}: fewer than {SEEDS} trainings: {', '.join(single)}.")
        edge = [f"{named(name)} ({', '.join(where)})" for name in dict.fromkeys(row["contestant"] for row in pick(tables.tune, task=task))
                if (where := at_the_edge(tables, task, name))]
        if edge:
            found.append(f"{task}: chosen at the edge of what was tried, so that what lies beyond may be better still: {'; '.join(edge)}.")
        steps = steps_at_the_edge(tables, task)
        if steps:
            found.append(f"{task}: numbers of steps at the edge of what was tried, so that more or fewer may be better still: {'; '.join(steps)}.")
        untried = {named(name): [f"{each:,}" for each in _labels(pick(rows, strength=1.0), name) if not pick(tables.recipes, task=task, contestant=name, labels=each)]
                   for name in B.KINDS}
        if any(untried.values()):
            found.append(f"{task}: the number of steps is the recipe's, and no other was tried: "
                         + "; ".join(f"{name} with {', '.join(labels)} labels" for name, labels in untried.items() if labels) + ".")
        edge = rates_at_the_edge(tables, task)
        if edge:
            found.append(f"{task}: learning rates at the edge of what was tried: {'; '.join(edge)}.")
        other = not_the_best(tables, task)
        if other:
            found.append(f"{task}: measured with another recipe than had most merit: {'; '.join(other)}.")
        done = {row["ablation"] for row in scored}
        heads = {row["contestant"].removeprefix("head:") for row in rows if ":" in row["contestant"]}
        known = [name for name, each in A.ABLATIONS.items() if task in each.tasks]
        for what, there in (("scored", done), ("tried in guidance", heads)):
            lost = [named(name) for name in known if name not in there]
            if lost:
                found.append(f"{task}: no head is {what} that lacks a part." if len(lost) == len(known) else
                             f"{task}: not {what}: heads with {', '.join(lost)}.")
    if not tables.tune:
        found.append("Settings were not tuned, everybody has defaults.")
    else:
        untuned = [(task, name) for task in tasks_of(tables.contest) for name in C.CONTESTANTS if C.is_tuned(name)
                   and pick(tables.contest, task=task, contestant=name) and not C.was_tuned(tables.tune, name, task)]
        for begun, said in ((False, "not tuned, and are defaults"), (True, "not tuned to the end, and those that were measured last count")):
            these = [f"{task}, {named(name)}" for task, name in untuned if bool(pick(tables.tune, task=task, contestant=name)) is begun]
            found += [f"Settings were {said}: {'; '.join(these)}."] if these else []
    lost = [f"{task}, {named(name)}" for task in tasks_of(tables.contest) for name in B.KINDS if len(rates(tables, task, name)) < 2]
    if lost:
        found.append(f"Other learning rates than the recipe's: {'; '.join(lost)}: {NOT}.")
    found += [f"{task}: trained by a recipe of before, which kept the state of least loss and may starve: {', '.join(each)}." for task in B.TASKS
              if (each := kept_early(tables, task))]
    found += [f"{task}: measured before they were trained anew: {'; '.join(each)}." for task in B.TASKS if (each := trained_since(tables, task))]
    trained = [row for row in tables.contest if row["labels"]]
    if nameless := pick(trained, network=""):
        found.append(f"{len(nameless) / len(trained):.0%} of the rows of trained networks do not name the very "
                     "network, since they are older than that column: a training made again would leave them as they are.")
    if not tables.trial:
        found.append(f"The metrics themselves on trial: {NOT}.")
    there = {row["contestant"] for row in tables.contest}
    untried = [what for what, names in IDEAS.items() if not there & set(names)]
    untried += [] if ghosting(tables) else ["drags without the anti-ghosting term"]
    return [*found, *(f"not measured to its end, and left out: {each}." for each in tables.partial),
            *([f"Not tried at all: {', '.join(untried)}."] if untried else [])]


# ---------------------------------------------------------------------------------------------- how to have it again

@declared
def behind(tables: Tables, task: str, what: Literal["labels", "strength", "together", "parts", "ideas"]) -> list[dict]:
    """The rows of the contest that a figure or table is made of: of who works alone at strength 1, of several strengths, of pairs, of
    changed heads, of ideas."""
    rows, new = pick(tables.contest, task=task), {name for names in IDEAS.values() for name in names}
    if what == "strength":
        return [row for part in _several_strengths(rows).values() for row in part]
    parts = {f"head:{name}" for names in PARTS.values() for name in names}
    kinds = {"together": lambda name: "+" in name, "parts": lambda name: name in parts, "ideas": lambda name: name in new,
             "labels": lambda name: "+" not in name and ":" not in name and name not in new}
    return [row for row in rows if kinds[what](row["contestant"]) and row["strength"] == 1.0]


def again(tables: Tables, task: str, what: str) -> str:
    """The commands that measure the rows `behind` a figure, as text."""
    return "\n".join(f"again: {line}" for line in commands_of(behind(tables, task, what)))


def commands_of(rows: list[dict]) -> list[str]:
    """The commands that measure these rows and no others, once everybody is trained and tuned."""
    found, several = [], {}
    counts: dict[tuple, int] = {}
    for row in rows:
        counts[arm(row)] = max(counts.get(arm(row), 0), row["picture"] + 1)
    for (task, name, *rest), pictures in counts.items():
        several.setdefault((task, name, pictures), set()).add(tuple(rest))
    alike: dict[tuple, list[str]] = {}
    for (task, name, pictures), triples in several.items():
        alike.setdefault((task, ":" in name, pictures, frozenset(triples)), []).append(name)
    for (task, ablation, pictures, triples), names in alike.items():
        who = f"ablate {task} --ablations" if ablation else f"contest {task} --contestants"
        for labels, seeds, strengths in _products(triples):
            asked = {"labels": [each for each in labels if each] or [100], "seeds": seeds,
                     "strengths": [f"{each:g}" for each in strengths], "pictures": [pictures]}
            found.append(" ".join(["python -m rg_minimal.evidence", who, *(name.removeprefix("head:") for name in names),
                                   *(f"--{option} {' '.join(map(str, values))}" for option, values in asked.items())]))
    return found


def scored_by(rows: list[dict], task: str) -> list[str]:
    """The commands that train and score the heads of these rows of `ablations.csv`."""
    several: dict[tuple, list[str]] = {}
    for row in pick(rows, task=task):
        if row["ablation"] in A.ABLATIONS:
            several.setdefault((row["labels"], row["seed"]), []).append(row["ablation"])
    return [f"python -m rg_minimal.evidence ablate {task} --labels {labels} --seeds {seed} --scores-only --ablations "
            f"{' '.join(dict.fromkeys(names))}" for (labels, seed), names in several.items()]


def tuned_by(rows: list[dict]) -> list[str]:
    """The commands that try the settings of these rows of `tune.csv`."""
    several: dict[tuple, list[str]] = {}
    for task, name, labels in dict.fromkeys((row["task"], row["contestant"], row["labels"]) for row in rows):
        several.setdefault((task, labels, _count(pick(rows, task=task, contestant=name, labels=labels))), []).append(name)
    return [f"python -m rg_minimal.evidence tune {task} --contestants {' '.join(names)} --tuned-with {labels} --tuned-on {count}"
            for (task, labels, count), names in several.items()]


def _count(rows: list[dict]) -> int:
    """How many pictures are numbered in these rows, the first one by 0."""
    return max((row["picture"] + 1 for row in rows), default=0)


def trained_by(rows: list[dict]) -> list[str]:
    """The commands that train what rows of `training.csv` name, each kind with its own steps; changed heads by `ablate`."""
    several: dict[tuple, set] = {}
    for row in rows:
        if row["contestant"] not in A.ABLATIONS:
            several.setdefault((row["task"], row["contestant"]), set()).add((row["labels"], row["seed"], 1.0))
    alike: dict[tuple, list[str]] = {}
    for (task, name), triples in several.items():
        alike.setdefault((task, frozenset(triples)), []).append(name)
    lines = [(any(name in M.LEARNS_FROM for name in names), f"python -m rg_minimal.evidence train {task} --kinds {' '.join(names)} --labels "
              f"{' '.join(map(str, labels))} --seeds {' '.join(map(str, seeds))}") for (task, triples), names in alike.items()
             for labels, seeds, _ in _products(triples)]
    return [line for _, line in sorted(lines, key=lambda each: each[0])]                # those last that learn from others


def everything(tables: Tables) -> list[str]:
    """The commands that make all tables anew in an empty folder, in an order in which each finds what it needs."""
    ablated = [line for task in B.TASKS for line in scored_by(tables.ablations, task)]
    return [*trained_by(tables.training), *tuned_by(tables.tune), *tried_by(tables.recipes), *commands_of(tables.contest), *ablated,
            *dragged_by(tables.trial, "trial"), *dragged_by(tables.ghosting, "ghosting")]


def dragged_by(rows: list[dict], command: Literal["trial", "ghosting"]) -> list[str]:
    """The commands that make these rows of `trial.csv` or of `ghosting.csv`."""
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        mine, own = pick(rows, seed=seed), pick(rows, seed=seed, answer=trial.DRAG)
        found.append(f"python -m rg_minimal.evidence {command} --pictures {_count(mine)}"
                     + (f" --drags {_count(own)} --seed {seed}" if command == "trial" else ""))
    return found


def tried_by(rows: list[dict]) -> list[str]:
    """The commands that try the recipes in these rows of `recipes.csv`."""
    several: dict[tuple, list] = {}
    for row in rows:
        several.setdefault((*_whose(row)[:-1], row["pictures"], row["lr"]), []).append(row["steps"])
    alike: dict[tuple, list] = {}
    for (*which, lr), steps in several.items():
        alike.setdefault((*which, *sorted(set(steps))), []).append(lr)
    return [f"python -m rg_minimal.evidence recipes {task} --kinds {name} --labels {labels} --seeds {seed} --lengths {' '.join(map(str, steps))} "
            f"--rates {' '.join(f'{each:g}' for each in sorted(tried))} --pictures {pictures}"
            for (task, name, labels, seed, pictures, *steps), tried in sorted(alike.items(), key=lambda each: B.TASKS.index(each[0][0]))]


def _products(triples) -> list[tuple[list, list, list]]:
    """Sets of triples (labels, seed, strength) as products of three lists, few of them."""
    by_pair: dict[tuple, set] = {}
    for labels, seed, strength in triples:
        by_pair.setdefault((labels, strength), set()).add(seed)
    by_labels: dict[tuple, set] = {}
    for (labels, strength), seeds in by_pair.items():
        by_labels.setdefault((labels, tuple(sorted(seeds))), set()).add(strength)
    joined: dict[tuple, list] = {}
    for (labels, seeds), strengths in sorted(by_labels.items()):
        joined.setdefault((seeds, tuple(sorted(strengths))), []).append(labels)
    return [(labels, list(seeds), list(strengths)) for (seeds, strengths), labels in joined.items()]


# ---------------------------------------------------------------------------------------------- all of it

def markdown(tables: Tables) -> str:
    """The README's table: a row for each task and number of labels that our head was measured with: how near everybody comes, and how
    many labels the baselines need to come as near as our head."""
    alone = ("head", *B.KINDS)
    lines = ["| task, labelled pictures | " + " | ".join(map(named, alone)) + " | pictures; trainings of each | " + " | ".join(
        f"labels that {named(name)} needs to match our head" for name in B.KINDS) + " | does ControlNet need more? |", "|---" * 8 + "|"]
    for task in B.TASKS:
        for at in measured_with(tables, task):
            answers = [answer(tables, task, rival, at) for rival in B.KINDS]
            cells = [*(_control(tables, task, name, at) for name in alone), _counts(tables, task, alone, at), *map(needs, answers),
                     _decided(answers[0])]
            lines.append(f"| {task}, {at:,}: {MEASURES[task]} | " + " | ".join(cells) + " |")
        if not pick(tables.contest, task=task, contestant="head"):
            lines.append(f"| {task} " + f"| {NOT} " * 7 + "|")
        added = {row["contestant"]: row["parameters"] for row in pick(tables.training, task=task)}
        if any(name in added for name in alone):
            lines.append(f"| {task}, added weights | " + " | ".join(f"{added[name] / 1e6:.2f} M" if name in added else NOT for name in alone) + " |" * 5)
    return "\n".join(lines) + "\n"


def _counts(tables: Tables, task: str, names: tuple, labels: int) -> str:
    """How many pictures each training of these was measured on, and how many trainings there are of each."""
    rows = [pick(tables.contest, task=task, contestant=name, labels=labels, strength=1.0) for name in names]
    pictures = sorted({len(pick(part, seed=seed)) for part in rows for seed in {row["seed"] for row in part}})
    return f"{' to '.join(map(str, dict.fromkeys((pictures[0], pictures[-1]))))}; {', '.join(str(len({row['seed'] for row in part}) or '-') for part in rows)}"


def _decided(found: dict) -> str:
    said = {"holds": "yes", "fails": "no", "open": "not decided"}.get(found["verdict"], NOT)
    trainings = min((each["seeds"] for each in (found["gap"], found["needed"]) if each), default=0)
    return f"{said} (one training)" if trainings == 1 and said in ("yes", "no") else said


def _control(tables: Tables, task: str, name: str, labels: int) -> str:
    rows = pick(tables.contest, task=task, contestant=name, labels=labels, strength=1.0)
    if not rows:
        return NOT
    found = T.mean_of(T.grid(rows))
    return f"{found['value']:.3f} ({_ends(found)})"


def report(tables: Tables, at: int = 100) -> str:
    """Everything as text."""
    parts = ["\n".join(sentence(answer(tables, task, rival, at)) for task in B.TASKS for rival in B.KINDS)]
    for task in tasks_of(tables.contest):
        parts += [tuning_table(tuning(tables, task), task), recipe_table(tables, task), cost_table(tables, task, at),
                  together_table(rivals(tables, task), f"{task}, each alone"), trade_table(trade(tables, task)),
                  together_table(together(tables, task)), idea_table(ideas(tables, task)),
                  difference_table(ablation_differences(tables, task), f"{task}, guided by a changed head")]
    parts += [ablations_said(tables, task) for task in B.TASKS if ablation_scores(tables, task)]
    parts += [ghost_table(ghosting(tables))] + ([trial.said(tables.trial)] if tables.trial else [])
    return "\n\n".join([*parts, coverage(tables), "\n".join(gaps(tables)), "\n".join(everything(tables))])
