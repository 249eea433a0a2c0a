"""`python -m rg_minimal.evidence train ...`: every command goes on where it stopped, and may be killed at any moment."""
from __future__ import annotations

import argparse

from . import baselines as B
from ..checks import Count, Index, one_sentence, option
from ..pipelines import load_pipeline

TRAINED = ("head", *B.KINDS)


def train(options) -> None:
    """Train what is asked for and is not there: small numbers of labels first, so that there is a figure early."""
    pipe = load_pipeline()
    for seed in options.seeds:
        for labels in options.labels:
            for task in options.tasks:
                for kind in options.kinds:
                    for state in training(kind, task, labels, seed, options.runs, pipe, options.steps):
                        if state.step % 50 == 0 or state.step == state.steps:
                            print(f"{state.stage}, step {state.step} of {state.steps}, loss {state.loss:.5f}, {state.seconds:.0f} s",
                                  flush=True)


def training(kind, task, labels, seed, runs, pipe, steps=None):
    """The generator that trains one contestant."""
    changes = {} if steps is None else {"steps": steps}
    if kind == "head":
        return B.train_readout(task, labels, seed, runs, pipe, **changes)
    return B.train_baseline(B.BaselineRecipe(kind, task, labels, seed, runs=runs, **changes), pipe)


def commands() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rg_minimal.evidence", description="Readout Guidance against its rivals.")
    parts = made.add_subparsers(dest="command", required=True)
    part = parts.add_parser("train", help="train heads and baselines on the same labelled pictures")
    _of(part)
    part.add_argument("--kinds", nargs="+", choices=TRAINED, default=TRAINED)
    part.add_argument("--steps", type=option(Count), help="of each training, at most; each kind's own by default")
    part.set_defaults(run=train)
    return made


def _of(part) -> None:
    part.add_argument("tasks", nargs="+", choices=B.TASKS)
    part.add_argument("--labels", nargs="+", type=option(Count), default=B.LABELS)
    part.add_argument("--seeds", nargs="+", type=option(Index), default=(0,))
    part.add_argument("--runs", default=B.RUNS, help="folder of trained networks and their checkpoints")


def main(arguments=None) -> None:
    parser = commands()
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        options.run(options)


if __name__ == "__main__":
    main()
