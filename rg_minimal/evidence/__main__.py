"""The commands, `python -m rg_minimal.evidence ...`. Each may be killed at any moment and goes on.

    train pose --labels 100 1000 --seeds 0       heads, baselines and rivals, into runs/evidence
    recipes pose --labels 30 --lengths 200 400 --rates 1e-3 2e-3     baselines by other recipes, and what they steer, into .../recipes.csv
    tune pose                                    the same number of settings for everybody, into data/results/evidence/tune.csv
    contest pose --labels 100 1000 --seeds 0     one row a picture, into data/results/evidence/contest.csv
    contest pose --check                         a batch of rows, drawn at random, computed again
    ablate pose --labels 100                     heads without one of the paper's parts
    all --labels 100 1000                        everything, in that order; --workers 2 shares it between processes
    again                                        every command behind the tables that are shipped, into out/evidence: days
    trial --drags 16                             metrics of drags on answers of known quality, into .../trial.csv
    ghosting                                     our drags with and without the anti-ghosting term, into .../ghosting.csv
    cases out/drags                              the drags and their exact answers as files
    score out/mine --name mine                   anybody's answers to them, 000.png, 001.png, ..., into out/scores.csv
    report                                       what the tables say
"""
from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from . import ablations as A, baselines as B, contest as C, drags as D, many as M, recipes as R, report, seeds, trial as T
from ..checks import Count, Index, NonNegative, Positive, checked, one_sentence, option, stoppable
from ..files import add_rows, refuse_file, rows_so_far
from ..pipelines import find_folder, load_head

TRAINED = ("head", *B.KINDS, "linear", "detector", "predictor")          # the last one learns from the first


def follow(states) -> None:
    for state in states:
        if state.step % 50 == 0 or state.step == state.steps:
            print(f"{state.stage}, step {state.step} of {state.steps}, loss {state.loss:.5f}, {state.seconds:.0f} s",
                  flush=True)


def count(progress) -> int:
    """Say how far it is; returns what was done."""
    done = 0
    for done, of in progress:
        print(f"{done} of {of}", flush=True)
    return done


def train(options) -> None:
    """Train what is asked for and is not there, and note what it cost."""
    jobs = jobs_of(options)
    refuse_file(options.runs), refuse_file(options.folder)
    rows_so_far(table(options, "training"), report.COSTS, "training")
    if several(options):
        count(M.train_all(jobs, options.runs, options.workers, options.scheduler))
        note_costs(options)
        return
    pipe = M.loaded()[0]
    for kind, task, labels, seed, changes in jobs:
        follow(M.training(kind, task, labels, seed, options.runs, pipe, **changes))
        note_costs(options)


def try_recipes(options) -> None:
    """Train baselines with several numbers of steps and learning rates, and measure what each steers on tuning scenes."""
    refuse_file(options.runs), refuse_file(options.folder)
    seeds.TUNE.part(0, options.pictures)
    jobs = [B.BaselineRecipe(kind, task, labels, seed, steps, lr=rate) for task in options.tasks for kind in options.kinds for labels in options.labels
            for seed in options.seeds for rate in options.rates for steps in options.lengths]
    for each in jobs:
        seeds.training_scenes(each.seed, each.labels)
    follow(R.tried(*M.loaded(), jobs, table(options, "recipes"), tuned_rows(options), options.runs, options.pictures))


def jobs_of(options) -> list[tuple]:
    """What is to be trained, (kind, task, labels, seed, changes) each, those first that others learn from. ValueError, before the first
    training, where one of them could not begin or go on."""
    kinds = sorted(options.kinds, key=lambda kind: kind in M.LEARNS_FROM)
    jobs = [(kind, task, labels, seed, changes_of(options)) for seed in options.seeds for labels in options.labels for task in options.tasks
            for kind in kinds]
    filled = folders(options, jobs)
    for kind, task, labels, seed, changes in jobs:
        M.refuse_taken(kind, task, labels, seed, options.runs, **changes)
        first = B.folder_of(M.LEARNS_FROM.get(kind, kind), task, labels, seed, options.runs)
        if kind in M.LEARNS_FROM and first not in filled and not any((each / "training.json").exists() for each in (
                first, B.folder_of(kind, task, labels, seed, options.runs))):
            raise ValueError(f"{kind} learns from {first}, which holds no finished training: add {M.LEARNS_FROM[kind]} to --kinds")
    return jobs


def folders(options, jobs: list[tuple]) -> set[Path]:
    """What trainings fill."""
    return {B.folder_of(*job[:4], options.runs) for job in jobs}


def changes_of(options) -> dict:
    """What a recipe is to have that is not its own."""
    return {"steps": options.steps} if options.steps else {}


def several(options) -> bool:
    """Whether work is for several processes."""
    return options.workers > 1 or options.scheduler is not None


def measure(options, todo, name, scenes, pictures, settings) -> None:
    """Measure what a table lacks, here or in several processes."""
    if several(options):
        count(M.measure_all(todo, table(options, name), scenes, pictures, settings, options.runs, options.workers, options.scheduler))
    else:
        made = count(C.run(*M.loaded(), todo, table(options, name), scenes, pictures, settings, options.runs))
        if not made:
            print(f"{table(options, name)} has all of these rows: to measure them again, add --folder with another folder")


def note_costs(options) -> None:
    """Add what trainings cost to the table; rows of trainings that are not on this machine stay."""
    add_rows(table(options, "training"), C.trainings(options.runs), report.COSTS, list(report.COSTS)[:4], "training", ordered=True)


def table(options, name: str) -> Path:
    return Path(options.folder) / f"{name}.csv"


def tune(options) -> None:
    if options.command == "tune" and given(options, ("--contestants",)) and (fixed := [name for name in options.contestants if not C.is_tuned(name)]):
        raise ValueError(f"{', '.join(fixed)}: of these nothing is tuned, a pair has what was chosen for each of the two; leave them out of --contestants")
    if todo := to_tune(options):
        measure(options, todo, "tune", seeds.TUNE, options.tuned_on, C.budget)


def to_tune(options) -> list[tuple]:
    return C.entries(options.tasks, [name for name in options.contestants if C.is_tuned(name)], [options.tuned_with], [0], [1.0])


def contest(options) -> None:
    if options.check is not None:
        if others := given(options, PLAYS[1:]):
            raise ValueError(f"--check draws from all rows of the tasks: leave out {', '.join(others)}")
        pipe, judge = M.loaded()
        rows, again = C.recompute(pipe, judge, table(options, "contest"), options.tasks, seeds.TEST, options.check, options.runs)
        print(*(f"{name} {rows[0][name]}" for name in C.SETTING), sep=", ")
        for row, new in zip(rows, again):
            print(f"picture {row['picture']}:", *(f"{name} {row[name]:g}, again {new[name]:g};" for name in ("control", "whole", "attributes", "passes")),
                  f"look off by at most {C.look_apart(row, new):.3f}")
        if not C.agree(rows, again):
            raise ValueError(f"the rows {[rows[0][name] for name in C.SETTING]}, from picture {rows[0]['picture']} on, come out otherwise: draw others "
                             f"(--check {options.check + 1}); where those do as well, {options.runs} holds other networks than those that were measured")
        return
    play(options, options.contestants)


def given(options, names: tuple[str, ...]) -> list[str]:
    """Those of the options that are not what they are by default."""
    known = options_of_all()
    return [each for each in names if getattr(options, each[2:]) != known[each]["default"]]


def tuned_rows(options) -> list[dict]:
    """What was tuned, by the folder's own table, or, where it has none, by the one that is shipped."""
    own = table(options, "tune")
    if own.exists() or Path(options.folder) == Path(find_folder(C.FOLDER)):
        return C.read_table(own)
    print(f"{own} is not there: settings are those that were chosen in {C.FOLDER}")
    return C.read_table(Path(find_folder(C.FOLDER)) / "tune.csv")


def play(options, contestants) -> None:
    tuned = tuned_rows(options)
    refuse_tables(options)
    todo = C.entries(options.tasks, contestants, options.labels, options.seeds, options.strengths)
    measure(options, todo, "contest", seeds.TEST, options.pictures, lambda *asked: [C.chosen(tuned, *asked)])
    C.write_real(*M.loaded(), table(options, "real"), options.runs)


def refuse_tables(options) -> None:
    """ValueError now, not when all is measured, where the tables could not be written, or are of another model or judge."""
    refuse_file(options.runs), refuse_file(options.folder)
    C.real_rows(table(options, "real"), *M.loaded()), C.rows_of(table(options, "contest"), *M.loaded())


def ablate(options) -> None:
    if options.command == "ablate" and options.scores_only and (others := given(options, ("--strengths", "--pictures"))):
        raise ValueError(f"--scores-only guides with nothing: leave out {', '.join(others)}")
    asked = ablations_of(options)
    refuse_ablations(options, options.labels)
    if not options.scores_only:                                             # what `play` would refuse when all is trained
        known = tuned_rows(options)
        for task in asked:
            C.chosen(known, "head", task, options.labels[0])
        refuse_tables(options)
    pipe, judge = M.loaded()
    A.rows_of(table(options, "ablations"), pipe, judge)
    for seed in options.seeds:
        for labels in options.labels:
            for task, names in asked.items():
                follow(M.training("head", task, labels, seed, options.runs, pipe, **changes_of(options)))
                follow(A.train_ablations(names, task, labels, seed, options.runs, pipe, **changes_of(options)))
                note_costs(options)
                count(A.score_ablations(pipe, judge, ["head", *names], [task], [labels], [seed], table(options, "ablations"),
                                        options.runs))
    if not options.scores_only:
        for task, names in asked.items():
            options.tasks = [task]
            play(options, [f"head:{name}" for name in names])


def ablations_of(options) -> dict[str, list[str]]:
    """Which ablations are asked of each task, {task: names}, but of those that have none of them. ValueError where one was asked for that says
    nothing about any of the tasks."""
    found = {task: [name for name in options.ablations if task in A.ABLATIONS[name].tasks] for task in options.tasks}
    lost = [name for name in options.ablations if not any(name in names for names in found.values())]
    if lost and given(options, ("--ablations",)):
        raise ValueError(f"{lost[0]} says nothing about {', '.join(options.tasks)}, but about {', '.join(A.ABLATIONS[lost[0]].tasks)}: leave it out of "
                         "--ablations, or ask for one of these tasks")
    return {task: names for task, names in found.items() if names}


def refuse_ablations(options, several_labels: list[int]) -> None:
    """ValueError, before the first training, where one of those of `ablate` could not begin or go on, or their scores not be written."""
    refuse_file(options.runs), refuse_file(options.folder)
    rows_so_far(table(options, "ablations"), A.KINDS_OF, "ablations")
    for seed, labels, (task, names) in itertools.product(options.seeds, several_labels, ablations_of(options).items()):
        M.refuse_taken("head", task, labels, seed, options.runs, **changes_of(options))
        A.refuse_taken(names, task, labels, seed, options.runs, **changes_of(options))


def everything(options) -> None:
    refuse_all(options)
    for each in (train, tune, contest):
        each(options)
    options.labels = [options.tuned_with]
    ablate(options)


def refuse_all(options) -> None:
    """ValueError, before hours of training, where tuning or the contest would then lack what nobody has trained, or could not go by what is
    tuned."""
    filled = folders(options, jobs_of(options))
    refuse_ablations(options, [options.tuned_with]), refuse_tables(options)
    A.rows_of(table(options, "ablations"), *M.loaded())
    tuned, rows = (C.rows_of(table(options, name), *M.loaded()) for name in ("tune", "contest"))
    tuned, rows = (C.of_these(each, options.runs) for each in (tuned, rows))
    todo = [key[:4] for key, _ in C.missing(tuned, to_tune(options), seeds.TUNE, options.tuned_on, C.budget)]
    for name, task, labels, seed in dict.fromkeys(todo):
        for part, lost in C.lacking(name, task, labels, seed, options.runs).items():
            if lost not in filled:
                raise ValueError(f"{name} is to be tuned with {lost}, which holds no finished training, and this command would not train it: --tuned-with "
                                 f"{labels} has to be among --labels, 0 among --seeds, and {part} among --kinds")
    for name, task, labels, seed in dict.fromkeys(to_measure(options, tuned, rows, {each[:2] for each in todo})):
        for part, lost in C.lacking(name, task, labels, seed, options.runs).items():
            if lost not in filled:
                raise ValueError(f"{name} is to be measured with {lost}, which holds no finished training, and this command would not train it: add {part} to "
                                 f"--kinds, or leave {name} out of --contestants")


def to_measure(options, tuned: list[dict], rows: list[dict], open_: set) -> list[tuple]:
    """(contestant, task, labels, seed) of what the contest lacks. Whose settings are `open_`, (contestant, task), will be measured anew."""
    todo = C.entries(options.tasks, options.contestants, options.labels, options.seeds, options.strengths)
    anew = [each for each in todo if any((part, each[1]) in open_ for part in each[0].split("+"))]
    for task in ablations_of(options):                                      # the ablations have what the head has
        if ("head", task) not in open_ and not options.scores_only:
            C.chosen(tuned, "head", task, options.tuned_with)
    others = C.missing(rows, [each for each in todo if each not in anew], seeds.TEST, options.pictures,
                       lambda *asked: [C.chosen(tuned, *asked)])
    return [each[:4] for each in anew] + [key[:4] for key, _ in others]


def tell(options) -> None:
    print(report.report(report.read_tables(options.folder)))


def again(options) -> None:
    """Give all commands behind the tables of one folder, with another folder and other trainings, in an order in which each finds what it
    needs; what is there already is not made again."""
    lines, here = report.everything(report.read_tables(options.tables)), Path(options.folder)
    if here.resolve() == Path(find_folder(options.tables)).resolve():
        raise ValueError(f"--folder is {options.folder}, where the tables themselves lie, which have all of these rows: name another one")
    refuse_file(options.runs), refuse_file(here)
    for number, line in enumerate(lines, 1):
        print(f"{number} of {len(lines)}: {line}", flush=True)
        part = commands().parse_args(line.split()[3:])
        for each in {"folder", "runs", "workers", "scheduler"} & set(vars(part)):
            setattr(part, each, getattr(options, each))
        part.run(part)


def all_metrics() -> T.Metrics:
    """The metrics of drags, with the shipped head."""
    pipe, judge = M.loaded()
    return T.Metrics(pipe, load_head("data/heads/correspondence", pipe), judge)


def try_metrics(options) -> None:
    """Score answers of known quality with every metric and say what each makes of them."""
    if options.drags > options.pictures:
        raise ValueError(f"--drags is {options.drags}, more than the {options.pictures} cases: give at most as many")
    metrics = all_metrics()
    path = table(options, "trial")
    count(T.run(metrics, path, options.pictures, options.seed, load_head("data/heads/pose", metrics.pipe), options.drags))
    print(T.said(T.read_table(path)))


def ghosting(options) -> None:
    """Drag with each anti-ghosting term, and say what it changes."""
    metrics = all_metrics()
    path = table(options, "ghosting")
    count(T.run_ghosting(metrics, path, load_head("data/heads/pose", metrics.pipe), options.pictures))
    print(report.ghost_table(report.ghosting(report.Tables(ghosting=T.read_table(path)))))


def write_cases(options) -> None:
    print(f"{D.write_cases(options.folder_of_cases, options.pictures)}: {options.pictures} drags")


def score(options) -> None:
    D.read_answers(options.answers, options.pictures)                       # before anything slow is loaded
    T.check_name(options.name, options.table)
    metrics = all_metrics()
    count(T.score_answers(metrics, options.answers, options.name, options.table, options.pictures))
    rows = [row for row in T.read_table(options.table) if row["answer"] == options.name]
    for name, told in T.METRICS.items():
        scores = T.grid(rows, name, answer=options.name)
        found = T.mean_score(scores, name)
        print(f"{told.says}: {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}), n = {found['n']}")


def options_of_all() -> dict[str, dict]:
    """Every option of the commands that train and measure, for `add_argument`."""
    return {"tasks": dict(nargs="*", default=list(B.TASKS), help=f"of {', '.join(B.TASKS)}; all by default"),
            "--labels": dict(nargs="+", type=option(Count), default=list(B.LABELS)),
            "--seeds": dict(nargs="+", type=option(Index), default=[0], help="of the trainings, each with pictures of its own"),
            "--kinds": dict(nargs="+", choices=TRAINED, default=list(TRAINED), help="what is trained"),
            "--steps": dict(type=option(Count), help="of each training; each kind's own by default"),
            "--contestants": dict(nargs="+", choices=list(C.CONTESTANTS), default=list(C.CONTESTANTS)),
            "--strengths": dict(nargs="+", type=number(NonNegative), default=[1.0], help="factors of what was tuned"),
            "--pictures": dict(type=option(Count), default=64, help="held-out scenes, the same for everybody"),
            "--tuned-with": dict(type=option(Count), default=1000, help="labels of those whose settings are tuned; of several tunings the one with the nearest number counts"),
            "--tuned-on": dict(type=option(Count), default=C.TUNED_ON, help="scenes that settings are tried on"),
            "--ablations": dict(nargs="+", choices=list(A.ABLATIONS), default=list(A.ABLATIONS)),
            "--scores-only": dict(action="store_true", help="of ablations: score the readouts, do not guide with them"),
            "--check": dict(type=option(Index), nargs="?", const=1, help="compute a batch of rows of these tasks again, drawn by this seed"),
            "--workers": dict(type=option(Count), default=1, help="processes that share the work, by Dask (`many.py`)"),
            "--scheduler": dict(help="address of a Dask scheduler whose workers do it"),
            "--runs": dict(default=B.RUNS, help="folder of trained networks and their checkpoints"),
            "--folder": dict(default=find_folder(C.FOLDER), help="folder of the tables")}


SHARED = ("--workers", "--scheduler", "--runs", "--folder")
TRAINS = ("tasks", "--labels", "--seeds", "--kinds", "--steps")
TUNES = ("tasks", "--contestants", "--tuned-with", "--tuned-on")
PLAYS = ("tasks", "--labels", "--seeds", "--contestants", "--strengths", "--pictures")
COMMANDS = {                                                # what each runs, and which options it has: no more than it uses
    "train": (train, "heads, baselines and rivals on the same labelled pictures", (*TRAINS, *SHARED)),
    "tune": (tune, "choose everybody's settings, from equally many, on scenes of their own", (*TUNES, *SHARED)),
    "contest": (contest, "measure everybody on the same held-out scenes", (*PLAYS, "--check", *SHARED)),
    "ablate": (ablate, "heads that lack one of the paper's parts",
               ("tasks", "--labels", "--seeds", "--steps", "--ablations", "--scores-only", "--strengths", "--pictures", *SHARED)),
    "all": (everything, "all of these, in this order", (*TRAINS, *TUNES, *PLAYS, "--ablations", "--scores-only", *SHARED)),
    "again": (again, "every command behind the tables, into another folder, with trainings of its own", SHARED),
    "report": (tell, "what the tables say, in words and numbers", ("--folder",))}


def commands() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rg_minimal.evidence",
                                   description="Readout Guidance against its rivals.",
                                   epilog="A command that was killed goes on when it is given again.")
    parts, known = made.add_subparsers(dest="command", required=True), options_of_all()
    for name, (run, said, used) in COMMANDS.items():
        part = parts.add_parser(name, help=said, description=said)
        for each in dict.fromkeys(used):
            part.add_argument(each, **known[each])
        part.set_defaults(run=run)
    parts.choices["ablate"].set_defaults(labels=[100])
    parts.choices["all"].set_defaults(check=None)
    parts.choices["report"].set_defaults(tasks=())
    parts.choices["again"].set_defaults(tasks=(), folder="out/evidence", runs="out/runs")
    parts.choices["again"].add_argument("--tables", default=C.FOLDER, help="folder of the tables that are to be made again")
    said = "numbers of steps and learning rates of the baselines, tried on tuning scenes"
    part = parts.add_parser("recipes", help=said, description=said)
    for each in ("tasks", "--labels", "--seeds", "--runs", "--folder"):
        part.add_argument(each, **known[each])
    part.add_argument("--kinds", nargs="+", choices=B.KINDS, default=list(B.KINDS), help="what is trained")
    part.add_argument("--lengths", nargs="+", type=option(Count), default=list(B.LENGTHS), help="numbers of steps")
    part.add_argument("--rates", nargs="+", type=number(Positive), default=[B.BaselineRecipe.lr], help="learning rates")
    part.add_argument("--pictures", type=option(Count), default=32, help="tuning scenes that each is measured on")
    part.set_defaults(run=try_recipes)
    own = {"trial": (try_metrics, "metrics of drags on answers of known quality"),
           "ghosting": (ghosting, "our drags with and without the anti-ghosting term"),
           "cases": (write_cases, "the drags and their exact answers as files"),
           "score": (score, "score anybody's answers to these drags")}
    for name, (run, said) in own.items():
        part = parts.add_parser(name, help=said, description=said)
        part.add_argument("--pictures", type=option(Count), default=16 if name == "ghosting" else 64, help="cases, the first ones")
        part.set_defaults(run=run, tasks=())
        if name == "trial":
            part.add_argument("--drags", type=option(Index), default=0, help="cases that our own recipe answers, too")
            part.add_argument("--seed", type=option(Index), default=0, help="of the noise that features are read with")
        if name in ("trial", "ghosting"):
            part.add_argument("--folder", default=find_folder(C.FOLDER), help="folder of the table")
        elif name == "cases":
            part.add_argument("folder_of_cases", metavar="folder", help="a folder that gets pictures and cases.json")
        else:
            part.add_argument("answers", help="folder of 000.png, 001.png, ...")
            part.add_argument("--name", default="mine", help="of these answers, in the table")
            part.add_argument("--table", default="out/scores.csv", help="table that gets the scores")
    return made


def number(kind):
    """For argparse: a number of a kind of `checks`, with the four digits that tables have."""
    def read(text: str) -> float:
        try:
            return float(f"{checked('it', float(text), kind):.4g}")
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used ({error})") from None
    return read


@stoppable
def main(arguments=None) -> None:
    parser = commands()
    options = parser.parse_args(arguments)
    unknown = set(options.tasks) - set(B.TASKS)
    if unknown:
        parser.error(f"there is no task {', '.join(sorted(unknown))}; choose from {', '.join(B.TASKS)}")
    with one_sentence(parser):
        options.run(options)


if __name__ == "__main__":
    main()
