"""What a class has solved: `python -m rg_minimal.classroom.collect FOLDER` runs every notebook below FOLDER by papermill.

Each is run as a copy, in an empty folder, with the course's own checks put back in the place of checks that were changed,
and without what is for another machine: statements that install, call a shell, or change the folder or where modules are
found, as the first cell for hosted notebooks does. A cell that fails does not keep the next ones from running. The table,
one row a notebook, is printed and written to FOLDER.checked/table.csv, the executed notebooks beside it. Called again, it
runs what is new or has changed.

A notebook is a program: it runs with your rights, so take a machine or a container on which that does no harm. The checks
are there to help students see where they are; somebody who wants to fool them can.
"""
from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager

from ..checks import Count, SomeName, Truth, declared, one_sentence, option, stoppable
from ..files import refuse_file, write_file
from . import course

MOST_BYTES = 20 * 10**6                         # of a notebook that is read
MOST_PRINTED, AT_LEAST = 10**6, 10**4           # characters that a student's notebook may print, above which a cell fails; and each cell, whatever others did
NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)
HERE = re.compile(r"could not be run here|stopped \(\w+\)$")         # what this machine failed at, and not the student: tried again
MARKS = {"right": "+", "not yet": "-", "not done": ".", "missing": "?"}
SAYS = {"Right": "right", "Not yet": "not yet", "Not done yet": "not done"}
SHELLS = r"(?:pip|uv|conda|mamba|micromamba|cd|pushd|popd|bash|sh|script|system|sx|!!?)"
ELSEWHERE = re.compile(rf"""get_ipython\(\)\.(?:system|getoutput)\(|get_ipython\(\)\.run_(?:line|cell)_magic\('{SHELLS}'
                       |\bos\.(?:chdir|system|popen)\b|\bsubprocess\.|\bsys\.path\b""", re.VERBOSE)
LEFT_OUT = "# left out here: what installs, calls a shell, or changes the folder or sys.path\n"
ALONE = [f"--IPKernelApp.{each}" for each in ("no_stdout=True", "no_stderr=True", "log_level=ERROR")]       # what is printed outside of cells
FIRST = f'''import os
os.environ["PIP_PYTHON"] = "none: pip may change nothing on the machine that collects"      # whatever way it is called
for number in (1, 2):                           # what threads and programs write goes nowhere, and not into the table
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
del os, number

def _limit_printing(left=[{MOST_PRINTED}]):
    import sys

    def begin(*info):                           # IPython takes the streams' own `write` back after each cell
        left[0] = max(left[0], {AT_LEAST})
        for stream in (sys.stdout, sys.stderr):
            def write(text, write=stream.write):
                left[0] -= len(text)
                if left[0] < 0:
                    raise RuntimeError("more than {MOST_PRINTED:,} characters were printed")
                return write(text)
            stream.write = write
    get_ipython().events.register("pre_run_cell", begin)

_limit_printing()
del _limit_printing

def _check(name, said):                         # a message of its own: what threads print goes in between what is printed
    get_ipython().display_pub.publish({{"text/plain": str(said)}}, {{"check": name}})'''


@dataclass
class Row:
    """One notebook of the table. Texts are a student's: they are kept from being formulas, see `as_cell`."""
    file: str                                   # below the folder
    notebook: str = ""                          # of the course: "05_guided_sampling"
    outcome: str = "ran"                        # or what went wrong first
    right: int = 0
    of: int = 0
    seconds: int = 0
    verdicts: str = ""                          # "right, not yet, not done", in the order of the exercises
    said: str = ""                              # what each check said, a line each
    key: str = ""                               # of the file, the time limit and the course's checks: what is not run again


# ---- which notebook, which exercises -----------------------------------------------------------------------------------

def found_in(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The notebooks below a folder, and what else lies there, both sorted: nothing hidden, nothing of the results.

    A browser may have saved a notebook as `5.ipynb.txt`, another system as `5.IPYNB`. Links are no notebooks. ValueError for a
    folder that cannot be read, whose students would be missed.
    """
    def refuse(error):
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}): allow it, or move it away")
    found = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        here = Path(where)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).resolve() != out.resolve())
        found += [here / name for name in sorted(files) if not name.startswith(".")]
    notebooks = [path for path in found if NOTEBOOK.search(path.name) and path.is_file() and not path.is_symlink()]
    return notebooks, [path for path in found if path not in notebooks]


def checks() -> dict[str, dict[str, str]]:
    """Notebook of the course -> check -> the source of the cell that calls it."""
    found = {}
    for name, path in course.notebooks().items():
        notebook = course.read(path)
        found[name] = {each.check: notebook.cells[each.check_cell].source for each in course.exercises_of(notebook)}
    return found


def belongs_to(notebook, known: dict) -> str:
    """The notebook of the course that a student's one was made from, by the checks that it calls; "" for none."""
    calls = {check for cell in notebook.cells if cell.cell_type == "code" for check in course.called(cell.source)}
    shared = {name: len(calls & set(own)) for name, own in known.items()}
    best = max(shared, key=shared.get)
    return best if shared[best] else ""


def at_home(source: str) -> str:
    """A cell without its statements that install, call a shell, or change the folder or where modules are found.

    On the machine that collects they would point its own installation to a clone in a folder that is deleted, or put that
    clone before the course. A cell without any, and one that Python cannot read, is as it was.
    """
    head, _, body = source.lstrip().partition("\n")
    if head.startswith("%%"):                   # a magic for a whole cell: %%bash, or %%capture around anything
        return LEFT_OUT if re.match(rf"%%{SHELLS}(?!\w)", head) else source if at_home(body) == body else f"{head}\n{at_home(body)}"
    try:
        statements = ast.parse(TransformerManager().transform_cell(source)).body
    except (SyntaxError, ValueError):
        return source
    kept = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom) or not ELSEWHERE.search(ast.unparse(each))]
    return source if len(kept) == len(statements) else LEFT_OUT + ast.unparse(ast.Module(kept, []))


def with_checks(source: str, own: dict[str, str]) -> str:
    """A cell with the course's checks in the place of its own calls of them; what else stands in it, such as an answer, stays.

    What stays may print what it likes: a check's sentence is not printed but shown by `_check` of FIRST, for `verdict`.
    """
    head, _, body = source.lstrip().partition("\n")
    try:
        statements = ast.parse(TransformerManager().transform_cell(body if head.startswith("%%") else source)).body
    except (SyntaxError, ValueError):
        statements = []
    known = {ast.unparse(each) for text in own.values() for each in ast.parse(text).body}
    own = {check: text.replace(f"print(exercises.{check}(", f'_check("{check}", exercises.{check}(') for check, text in own.items()}
    texts = [ast.unparse(each) for each in statements]
    last = {check: place for place, text in enumerate(texts) for check in course.called(text) if check in own}
    lines = []
    for place, (each, text) in enumerate(zip(statements, texts)):
        if text not in known and not (isinstance(each, ast.Expr) and own.keys() & course.called(text)):
            lines.append(text)
        lines += [own[check] for check in own if last.get(check) == place]
    return "\n".join([*lines, *(own[check] for check in own if check not in last)])


def prepared(notebook, own: dict[str, str]) -> dict[str, int]:
    """Put the course's checks in place, leave out what is for another machine, and let cells after a failed one run.

    Returns check -> its cell, for those that are there.
    """
    places = {}
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata = nbformat.from_dict({"tags": ["raises-exception"]})
            places |= {check: place for check in course.called(cell.source) if check in own}
            cell.source = at_home(cell.source)
    for place in set(places.values()):
        here = {check: source for check, source in own.items() if places.get(check) == place}
        notebook.cells[place].source = with_checks(notebook.cells[place].source, here)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST, metadata={"tags": ["raises-exception"]}))
    notebook.metadata = nbformat.from_dict({"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                                            "language_info": {"name": "python"}})
    return {check: place + 1 for check, place in places.items()}


# ---- running -----------------------------------------------------------------------------------------------------------

def run(notebook, limit: float):
    """The executed notebook, and why it was stopped, with the code cell it was in, or "". At most `limit` seconds."""
    end, running = time.monotonic() + limit, []

    def left(cell):
        running.append(cell.get("id"))
        return max(1, round(end - time.monotonic()))

    with tempfile.TemporaryDirectory(prefix="class-") as folder:
        source, executed, work = Path(folder) / "in.ipynb", Path(folder) / "out.ipynb", Path(folder) / "work"
        work.mkdir()
        nbformat.write(notebook, source)
        stopped = ""
        try:
            papermill.execute_notebook(str(source), str(executed), kernel_name="python3", cwd=str(work), progress_bar=False,
                                       timeout_func=left, extra_arguments=ALONE)
        except papermill.PapermillExecutionError:
            pass                                # an error of a cell, which its outputs show
        except Exception as error:              # the time is over, the kernel died, or was never there
            why = f"stopped after {limit:g} s" if type(error).__name__ == "CellTimeoutError" else f"stopped ({type(error).__name__})"
            ids = [cell.get("id") for cell in notebook.cells if cell.cell_type == "code"]
            stopped = f"{why} in code cell {ids.index(running[-1])}" if running else why      # the first one is FIRST
        done = nbformat.read(executed, as_version=4) if executed.is_file() else notebook
    done.cells = [cell for cell in done.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]      # its remarks
    return done, stopped


def first_error(notebook) -> str:
    """The first error of a notebook, with the number of its code cell as a student counts; "" where there is none."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][1:]        # without FIRST
    for number, cell in enumerate(code, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                return f"code cell {number}: {output.ename}: {output.evalue}"
    return ""


def verdict(cell, check: str) -> tuple[str, str]:
    """right, not yet or not done, and the sentence, from what `_check` showed in its cell; one that failed to run is not yet."""
    for output in cell.outputs:
        if output.get("metadata", {}).get("check") == check:
            said = output.data["text/plain"]
            return next((name for start, name in SAYS.items() if said.startswith(start)), "not yet"), said
    error = next((f"{output.ename}: {output.evalue}" for output in cell.outputs if output.output_type == "error"), "it said nothing")
    return "not yet", f"the check did not run: {error}"


def check_one(path: Path, row: Row, known: dict, limit: float):
    """Fill in the row of one student's notebook; returns the executed notebook, None where there is none."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 10**6} MB")
    notebook = course.read(path)
    row.notebook = belongs_to(notebook, known)
    if not row.notebook:
        row.outcome = "no exercise of this course is in it"
        return None
    own = known[row.notebook]
    places, row.of, began = prepared(notebook, own), len(own), time.monotonic()
    done, stopped = run(notebook, limit)
    row.seconds, found = round(time.monotonic() - began), {}
    for check in own:
        found[check] = verdict(done.cells[places[check]], check) if check in places else ("missing", "its check is not there")
    row.right = sum(name == "right" for name, _ in found.values())
    row.verdicts = ", ".join(name for name, _ in found.values())
    row.said = "\n".join(f"{check}: {words}" for check, (_, words) in found.items())
    row.outcome = stopped or first_error(done) or row.outcome
    return done


# ---- the table ---------------------------------------------------------------------------------------------------------

def as_cell(value) -> str:
    """A value for a table that a spreadsheet opens: on few lines, without control characters, and never a formula."""
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in str(value))[:2000]
    return "'" + text if text[:1] in tuple("=+-@") else text


def read_table(path: Path) -> dict[str, Row]:
    """Key -> row of an earlier table; empty where there is none, or another one."""
    names = [each.name for each in fields(Row)]
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    if not rows or list(rows[0]) != names:
        return {}
    numbers = [each.name for each in fields(Row) if each.type == "int"]
    try:
        return {row["key"]: Row(**(row | {name: int(row[name]) for name in numbers})) for row in rows}
    except (TypeError, ValueError):
        return {}


def write_table(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, [each.name for each in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows({name: as_cell(value) for name, value in asdict(row).items()} for row in rows)
    write_file(path, text.getvalue())


def line_of(row: Row) -> str:
    """A row as it is printed: + right, - not yet, . not done, ? missing."""
    marks = "".join(MARKS.get(name, " ") for name in row.verdicts.split(", "))
    return f"{as_cell(row.file)[:40]:40} {row.notebook[:24]:24} {marks:5} {row.right} of {row.of}  {as_cell(row.outcome).splitlines()[0][:60]}"


@declared
def collect(folder: SomeName, out: SomeName | None = None, limit: Count = 600, again: Truth = False, report=None) -> list[Row]:
    """Run every notebook below `folder`, `limit` seconds each at most, and write the table and the executed notebooks to `out`.

    `report(row)` is called after each, if given. `again` also runs what the table in `out` has already. The files in
    `folder` are only read. ValueError where there is no such folder, or `out` is it or above it.
    """
    folder = Path(folder)
    out = Path(out) if out else folder.resolve().with_name(folder.resolve().name + ".checked")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name the one that holds the students' notebooks")
    if out.resolve() == folder.resolve() or out.resolve() in folder.resolve().parents:
        raise ValueError(f"{out} would hold the results among the students' files: choose another folder")
    refuse_file(out)
    known = checks()
    course_key = repr(sorted(known.items())) + Path(course.__file__).with_name("exercises.py").read_text(encoding="utf-8")
    before, rows = {} if again else read_table(out / "table.csv"), []
    for path in found_in(folder, out)[0]:
        row = Row(path.relative_to(folder).as_posix())
        try:
            content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else str(path.stat().st_size).encode()
        except OSError as error:
            content = str(error).encode()
        row.key = hashlib.sha256(b"\0".join([os.fsencode(row.file), content, course_key.encode(), str(limit).encode()])).hexdigest()[:16]
        if row.key in before and not HERE.match(before[row.key].outcome):
            row = before[row.key]
        else:
            try:
                if done := check_one(path, row, known, limit):
                    place = out / "executed" / re.sub(r"[^\w.\-/]", "_", row.file.removesuffix(".ipynb"))
                    short = place.name.encode()[:100].decode(errors="ignore")       # disks count bytes
                    write_file(place.with_name(f"{short}.{row.key[:6]}.ipynb"), nbformat.writes(done) + "\n")
            except OSError as error:            # a full disk, say
                row.outcome = f"could not be run here: {error}"
            except Exception as error:          # a student's file may hold anything
                row.outcome = f"cannot be run: {error}"
        rows.append(row)
        write_table(out / "table.csv", rows)
        if report:
            report(row)
    return rows


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Run the notebooks of a class, and make a table of their self-checks.")
    parser.add_argument("folder", help="where the students' notebooks lie, in any folders below")
    parser.add_argument("-o", "--out", default=None, help="where the table and the executed notebooks go (FOLDER.checked)")
    parser.add_argument("--limit", type=option(Count), default=600, help="seconds that a notebook may take (600)")
    parser.add_argument("--again", action="store_true", help="also run what the table has already")
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        print("+ right   - not yet   . not done   ? its check is missing", flush=True)
        rows = collect(options.folder, options.out, options.limit, options.again, lambda row: print(line_of(row), flush=True))
    print(f"{len(rows)} notebooks, {sum(row.right for row in rows)} of {sum(row.of for row in rows)} exercises right")
    if others := found_in(Path(options.folder), Path(options.out or options.folder))[1]:
        named = ", ".join(as_cell(path.relative_to(options.folder).as_posix()) for path in others[:5])
        print(f"left alone, as no notebooks: {named}" + (f" and {len(others) - 5} more" if others[5:] else ""))


if __name__ == "__main__":
    main()
