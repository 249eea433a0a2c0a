"""Many runs over a grid of parameters, on this machine or on many, by Dask: nothing lost, nothing run twice.

    python -m rg_minimal.sweep notebooks/05_guided_sampling.ipynb --grid step_size=0.02,0.05 seed=0:8 --output runs/steps
    python -m rg_minimal.sweep measure:pose --grid steps=10,25,50 count=20 --output runs/pose

A target is a notebook, run by papermill, or `measure:NAME`, a measurement of `rg_minimal.puppets.measure` whose options
(count, steps, model, heads) are the grid's names. The folder holds `manifest.json` (what was asked for), `done/NUMBER.json` for each
run that ended, whole, the executed notebooks, `table.csv`, and `pictures.html`. The same command goes on where a killed one
stopped: runs that ended well are not run again, runs that failed are. The grid may have grown since; everything else has to be the same.
A notebook records a result with `scrapbook`-like outputs: a display of MIME type application/json that is an object of numbers.
"""
from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import html
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
import yaml

from .checks import Count, Entries, FileName, SomeName, declared, one_sentence, option, stoppable
from .files import read_json, refuse_file, refuse_others, write_file, write_json
from .workers import ONE_THREAD, draws_dashboard, joined

MOST = 10_000                                               # runs in a sweep
SHOWN, WIDE = 3, 360                                        # pictures of a run on the page, and pixels that they are wide
KNOWN = ("manifest.json", "done", "notebooks", "table.csv", "pictures.html")
MEASURES = "measure:"
COLUMNS = ("status", "seconds", "worker", "error")          # of the table, beside parameters and results
OPTIONS = ("count", "steps", "model", "heads")              # of `rg_minimal.puppets.measure`


# ---- the grid ----------------------------------------------------------------------------------------------------------

def read_grid(texts) -> dict[str, list]:
    """{name: values} of texts such as `step_size=0.02,0.05` (values as YAML reads them, as papermill does) and `seed=0:8` or
    `seed=0:8:2` (whole numbers, the end left out). ValueError says which text is wrong."""
    grid: dict[str, list] = {}
    for text in texts:
        name, equals, told = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--grid {text!r} is no NAME=VALUES: give for example seed=0:8 or step_size=0.02,0.05")
        if name in grid:
            raise ValueError(f"--grid names {name} twice: give all of its values at once, {name}=A,B,C")
        grid[name] = _span(name, told) if ":" in told and not set(told) - set("0123456789:+-") else _listed(name, told)
    size = 1
    for values in grid.values():
        size *= len(values)
    if size > MOST:
        raise ValueError(f"the grid has {size} runs, more than {MOST}: give fewer values, or several sweeps")
    return grid


def _span(name: str, told: str) -> list[int]:
    try:
        numbers = [int(each) for each in told.split(":")]
        span = range(*numbers) if len(numbers) in (2, 3) else None
    except ValueError:
        span = None
    if span is None:
        raise ValueError(f"--grid {name}={told} is no START:STOP or START:STOP:STEP of whole numbers with a step other than 0: give {name}=0:8")
    if not span:
        raise ValueError(f"--grid {name}={told} is empty, the end is left out: give an end behind the start, such as {name}=0:8")
    if span[MOST:]:
        raise ValueError(f"--grid {name}={told} has more than {MOST} values: give fewer")
    return list(span)


def _listed(name: str, told: str) -> list:
    try:
        values = yaml.safe_load(told) if told.lstrip().startswith("[[") else yaml.safe_load(f"[{told}]")
        values = [_number(each) for each in values]
        said = [json.dumps(each, allow_nan=False) for each in values]
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"--grid {name}={told} cannot be read ({str(error).splitlines()[0]}): give values that YAML reads, "
                         "with commas between them") from None
    if not values or None in values:
        raise ValueError(f"--grid {name}={told} holds an empty value: give {name}=A,B,C")
    twice = sorted({each for each in said if said.count(each) > 1})
    if twice:
        raise ValueError(f"--grid {name}={told} holds {twice[0]} twice: give each value once")
    return values


def _number(value):
    """Numbers that YAML takes for texts, such as 1e-3, as papermill reads them."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_grid(grid: dict) -> dict[str, list]:
    """The grid with a list of values for each name. ValueError where one has none, or values that a file cannot hold."""
    for name, values in grid.items():
        if name in COLUMNS:
            raise ValueError(f"the grid names {name}, and so does table.csv say of each run what became of it: give the parameter another name")
        try:
            if not isinstance(values, (list, tuple, range)) or not values:
                raise ValueError("that is no list of values")
            json.dumps(list(values), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the grid says {name}: {values!r} ({error}); pass {{name: [value, ...]}}, with texts, truth values and finite "
                             "numbers") from None
    return {name: list(values) for name, values in grid.items()}


def points(grid: dict[str, list]) -> list[dict]:
    """A dict of parameters for each run, the last name changing fastest."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def key(parameters: dict) -> str:
    """What a run's files are called; it depends on its parameters alone, so that a grid may grow."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]


# ---- the target --------------------------------------------------------------------------------------------------------

def check_target(target: str, grid: dict) -> str:
    """A checksum of what is to be run; ValueError where it cannot be run, or does not know a name of the grid."""
    if target.startswith(MEASURES):
        return _check_measure(target.removeprefix(MEASURES), grid)
    path = Path(target)
    if not path.is_file():
        raise ValueError(f"{target} is not there: give a notebook, or measure:NAME such as measure:pose")
    try:
        kernel = nbformat.read(path, as_version=4).metadata.get("kernelspec")
        known = papermill.inspect_notebook(path) if kernel else {}
    except Exception as error:                              # of nbformat, of JSON, of papermill: whatever is wrong in a file
        raise ValueError(f"{target} is no notebook ({str(error).splitlines()[0][:80] if str(error) else type(error).__name__}): give an .ipynb file") from None
    if not kernel:
        raise ValueError(f"{target} does not say which kernel runs it: open it in Jupyter, choose one, and save it")
    if not known and grid:
        raise ValueError(f"{target} has no cell tagged `parameters`: tag the cell that holds {', '.join(grid)}")
    _refuse_unknown(target, grid, known)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_measure(name: str, grid: dict) -> str:
    command = [sys.executable, "-c", "from rg_minimal.puppets.measure import WHAT; print(*WHAT)"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if name not in known:
        raise ValueError(f"measure:{name} is no measurement: choose from {', '.join(known)}")
    _refuse_unknown(f"measure:{name}", grid, OPTIONS)
    return name


def _refuse_unknown(target: str, grid: dict, known) -> None:
    unknown = [name for name in grid if name not in known]
    if unknown:
        raise ValueError(f"{target} has no parameter {', '.join(unknown)}: choose from {', '.join(known)}")


# ---- the folder --------------------------------------------------------------------------------------------------------

def check_folder(folder: Path, target: str, checksum: str, grid: dict) -> None:
    """ValueError where a sweep cannot be written there, or its manifest is of another one: the target has to be the same file, and
    the grid to have the same names and at least the values that it had."""
    refuse_file(folder)
    place = folder / "manifest.json"
    refuse_others(folder, KNOWN if place.is_file() else ())
    if place.is_file():
        before = read_json(place)
        if not isinstance(before.get("grid"), dict) or not all(isinstance(each, list) for each in before["grid"].values()):
            raise ValueError(f"{place} is no manifest of a sweep: choose another folder")
        if (before.get("target"), before.get("checksum")) != (target, checksum):
            changed = "another target" if before.get("target") != target else "the target as it was before it changed"
            raise ValueError(f"{folder} holds a sweep of {changed} ({before.get('target')}): choose another folder, or delete this one")
        lost = [name for name, values in before["grid"].items() if [each for each in values if each not in grid.get(name, [])]]
        if set(grid) != set(before["grid"]) or lost:
            raise ValueError(f"{folder} holds a sweep of another grid ({before['grid']}): a grid may get further values, not lose any or "
                             "have other names; choose another folder, or give all of its values")


def ended(folder: Path, parameters: dict) -> dict | None:
    """The record of a run that has ended, or None."""
    path = folder / "done" / f"{key(parameters)}.json"
    return read_json(path) if path.is_file() else None


# ---- one run, on whatever machine --------------------------------------------------------------------------------------

def run_one(target: str, folder: str, parameters: dict) -> dict:
    """Run one point and write its record, last and whole. An error of the run is recorded, not raised: only what kills the
    process is worth another try. A run that ended well meanwhile, in a process that could no longer say so, is not run again."""
    place = Path(folder)
    before = ended(place, parameters)
    if before and before["status"] == "done":
        return before
    start, worker = time.time(), f"{os.uname().nodename}:{os.getpid()}"
    record = {"parameters": parameters, "status": "done", "error": "", "worker": worker, "results": {}}
    try:
        record["results"] = _measured(target, parameters) if target.startswith(MEASURES) else _notebook(target, place, parameters)
    except Exception as error:
        record |= {"status": "failed", "error": _last_line(error)}
    record["seconds"] = round(time.time() - start, 3)
    write_json(place / "done" / f"{key(parameters)}.json", record)
    return record


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return getattr(error, "ename", "") and f"{error.ename}: {error.evalue}" or (lines[-1] if lines else type(error).__name__)


def _notebook(target: str, folder: Path, parameters: dict) -> dict:
    notebook = papermill.execute_notebook(target, None, parameters, cwd=Path(target).parent, progress_bar=False, kernel_name="python3",
                                          extra_arguments=["--IPKernelApp.log_level=ERROR"])                  # no warnings among the progress
    write_file(folder / "notebooks" / f"{key(parameters)}.ipynb", nbformat.writes(notebook))
    return _numbers(notebook)


def _numbers(notebook) -> dict:
    found = {}
    for output in itertools.chain.from_iterable(cell.get("outputs", []) for cell in notebook.cells):
        told = output.get("data", {}).get("application/json")
        if isinstance(told, dict):
            found |= {name: value for name, value in told.items() if isinstance(value, (bool, int, float, str))}
    return found


def _measured(target: str, parameters: dict) -> dict:
    """A process of its own, as by hand; the numbers of its result, `guided.pck@0.05` and so on."""
    with tempfile.TemporaryDirectory() as out:
        name = target.removeprefix(MEASURES)
        told = [part for option, value in parameters.items() for part in (f"--{option}", str(value))]
        run = subprocess.run([sys.executable, "-m", "rg_minimal.puppets.measure", name, *told, "--out", out], capture_output=True,
                             text=True, env=os.environ | ONE_THREAD)
        if run.returncode:
            raise RuntimeError(run.stderr.strip() or f"exit status {run.returncode}")
        return _flat(read_json(Path(out) / f"{name}.json"))


def _flat(value: dict, before: str = "") -> dict:
    found = {}
    for name, each in value.items():
        if isinstance(each, dict):
            found |= _flat(each, f"{before}{name}.")
        elif isinstance(each, (bool, int, float, str)):
            found[before + name] = each
    return found


# ---- all of them -------------------------------------------------------------------------------------------------------

@declared
def sweep(target: SomeName, grid: Entries, folder: FileName, workers: Count = 2, scheduler: str | None = None, retries: int = 3,
          report=print) -> list[dict]:
    """Run what has not yet ended well, and write table and pictures; returns a record for each point of the grid, in its order.

    Without `scheduler`, an address, `workers` processes of one thread each are started here. A run whose worker dies is given to
    another one, up to `retries` times. All workers have to see `folder` and the target under the same path.
    """
    folder, grid = Path(folder).resolve(), check_grid(grid)
    target = target if target.startswith(MEASURES) else str(Path(target).resolve())
    checksum = check_target(target, grid)
    check_folder(folder, target, checksum, grid)
    todo = [each for each in points(grid) if (ended(folder, each) or {}).get("status") != "done"]
    report(f"{len(points(grid)) - len(todo)} of {len(points(grid))} runs are done, {len(todo)} to do")
    if todo:
        with joined(scheduler, min(workers, len(todo)), retries) as client:
            write_json(folder / "manifest.json", {"target": target, "checksum": checksum, "grid": grid})
            report(f"dashboard: {client.dashboard_link}" if draws_dashboard() else "no dashboard: bokeh is missing, which the extra sweep brings")
            _run(client, target, folder, todo, retries)
    records = [ended(folder, each) for each in points(grid)]
    write_table(folder / "table.csv", records)
    write_file(folder / "pictures.html", page(target, folder, records))
    return records


def _run(client, target: str, folder: Path, todo: list[dict], retries: int) -> None:
    """Until each of these has a record."""
    from distributed import as_completed
    from tqdm.auto import tqdm
    futures = {client.submit(run_one, target, str(folder), each, key=f"run-{key(each)}", pure=False, retries=retries): each for each in todo}
    for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
        if future.status == "error":
            each, error = futures[future], future.exception()
            if isinstance(error, RuntimeError) and "deserializ" in str(error):
                raise ValueError("the scheduler or its workers cannot import rg_minimal.sweep: install this version, with its extra sweep, "
                                 "wherever they run, and start them again")
            write_json(folder / "done" / f"{key(each)}.json", {"parameters": each, "status": "failed", "worker": "", "seconds": 0.0,
                       "error": f"{type(error).__name__}: {error}".splitlines()[0], "results": {}})


def write_table(path: Path, records: list[dict]) -> Path:
    """A row for each run: its parameters, status, seconds, worker, error, and what it recorded."""
    results = dict.fromkeys(f"result.{name}" for each in records for name in each["results"])
    columns = [*records[0]["parameters"], *COLUMNS, *results]
    text = io.StringIO()
    out = csv.DictWriter(text, columns, lineterminator="\n")
    out.writeheader()
    for each in records:
        row = {name: each[name] for name in COLUMNS}
        out.writerow(row | each["parameters"] | {f"result.{name}": value for name, value in each["results"].items()})
    return write_file(path, text.getvalue())


def page(target: str, folder: Path, records: list[dict]) -> str:
    """One HTML page that needs no other file: of each run the last pictures that are not the same in all runs, small, and its parameters."""
    pictures = {key(each["parameters"]): _pictures(folder / "notebooks" / f"{key(each['parameters'])}.ipynb") for each in records
                if each["status"] == "done"}
    places = dict.fromkeys(place for found in pictures.values() for place in found)
    differing = [place for place in places if len({found.get(place) for found in pictures.values()}) > 1]
    shown, figures = (differing or list(places))[-SHOWN:], []
    for each in records:
        found = pictures.get(key(each["parameters"]), {})
        said = html.escape(", ".join(f"{name}={value}" for name, value in each["parameters"].items()))
        error = f"<br><b>{html.escape(each['error'])}</b>" if each["error"] else ""
        small = [f'<img alt="{said}" src="data:image/jpeg;base64,{_thumbnail(found[place])}">' for place in shown if place in found]
        figures.append(f"<figure>{''.join(small) or '<p>no picture</p>'}<figcaption>{said}{error}</figcaption></figure>")
    style = ("body{font-family:sans-serif} figure{display:inline-block;margin:8px;padding:8px;vertical-align:top;border:1px solid #ccc} "
             f"img{{display:block;max-width:{WIDE}px;margin-bottom:6px}}")
    name = html.escape(Path(target).name)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{style}</style><h1>{name}</h1>' + "\n".join(figures) + "</html>\n"


def _pictures(path: Path) -> dict[tuple[int, int], str]:
    """The pictures of an executed notebook, PNG in base64, by cell and output."""
    if not path.is_file():
        return {}
    cells = nbformat.read(path, as_version=4).cells
    return {(cell, number): output["data"]["image/png"] for cell, each in enumerate(cells) for number, output in enumerate(each.get("outputs", []))
            if "image/png" in output.get("data", {})}


def _thumbnail(picture: str) -> str:
    """A PNG in base64 as base64 of a small JPEG."""
    from PIL import Image
    small = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    small.thumbnail((WIDE, WIDE))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return base64.b64encode(written.getvalue()).decode()


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rg_minimal.sweep", description="Run a notebook or a measurement over a grid of parameters.")
    parser.add_argument("target", help="a notebook, or measure:NAME")
    parser.add_argument("--grid", nargs="+", required=True, metavar="NAME=VALUES", help="NAME=A,B,C or NAME=START:STOP[:STEP]")
    parser.add_argument("--output", help="a folder, new, empty, or of this sweep; by default runs/sweeps/NAME, of the target's name")
    parser.add_argument("--workers", type=option(Count), default=2, help="processes of a local cluster")
    parser.add_argument("--scheduler", help="the address of a Dask scheduler, such as tcp://10.0.0.1:8786")
    parser.add_argument("--retries", type=option(Count), default=3, help="for runs whose worker died")
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        if options.scheduler is not None and "://" not in options.scheduler:
            raise ValueError(f"--scheduler {options.scheduler} is no address: give one such as tcp://10.0.0.1:8786")
        try:
            name = options.target.removeprefix(MEASURES) if options.target.startswith(MEASURES) else Path(options.target).stem
            options.output = options.output if options.output is not None else Path("runs", "sweeps", name)
            records = sweep(options.target, read_grid(options.grid), options.output, options.workers, options.scheduler, options.retries)
        except KeyboardInterrupt:
            print(f"stopped; the same command goes on from {options.output}")
            sys.exit(130)
    failed = [each for each in records if each["status"] != "done"]
    print(f"{len(records) - len(failed)} of {len(records)} runs done; {options.output}/table.csv and {options.output}/pictures.html")
    for each in failed:
        print(f"failed: {each['parameters']}: {each['error']}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    import importlib
    importlib.import_module("rg_minimal.sweep").main()      # by this name the workers know what they are to run
