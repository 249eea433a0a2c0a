"""One course, three versions of it: `python -m rg_minimal.classroom.versions FOLDER`.

FOLDER/student has the notebooks with empty outputs, blanks, and no way to the solutions; FOLDER/teacher all of it with plans,
expected answers and the mistakes that the checks know; FOLDER/solved the answers in place of the blanks. All are made from
the cells tagged `exercise` in `notebooks/` and `notebooks/solutions/`, from `notebooks/TEACHING.md` and from exercises.py;
nothing is run. What FOLDER has of these three is replaced, if it holds nothing else.
"""
from __future__ import annotations

import argparse
import copy
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat

from ..checks import SomeName, declared, one_sentence, stoppable
from ..files import refuse_file, refuse_others, replace_folder
from . import course

VERSIONS = ("student", "teacher", "solved")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SENTENCE = re.compile(r"[ \t]*[^.!?\n]*\0[^.!?\n]*[.!?]?")
WORDS_A_MINUTE, MINUTES_A_FIGURE, MINUTES_AN_EXERCISE = 130, 1.0, 5.0          # how the teacher's plan reckons


# ---- text --------------------------------------------------------------------------------------------------------------

def without_solutions(text: str) -> str:
    """A text without the sentences that lead to the solutions."""
    marked = re.sub(r"\[[^\]]*\]\(solutions/[^)]*\)", "\0", text)
    return re.sub(r"\n{3,}", "\n\n", SENTENCE.sub("", marked)).strip("\n")


def relinked(text: str, here: Path, there: Path) -> str:
    """A text whose links were right in the folder `here`, for the folder `there`; the course's notebooks go along."""
    def moved(match):
        target, mark, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = (here / unquote(target)).resolve()
        along = place.parent == here.resolve() and place.suffix == ".ipynb"
        way = place.name if along else Path(os.path.relpath(place, there.resolve())).as_posix()
        return f"]({quote(way)}{mark}{anchor})"             # a link ends at a space, or a bracket
    return LINK.sub(moved, text)


def minutes(cells) -> int:
    """How long some cells take in class: reading at 130 words a minute, a minute a figure, five an exercise; at least one."""
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    figures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    blanks = sum("exercise" in cell.metadata.get("tags", []) for cell in cells)
    return max(1, round(words / WORDS_A_MINUTE + figures * MINUTES_A_FIGURE + blanks * MINUTES_AN_EXERCISE))


def sections(cells) -> list[int]:
    """Where a section begins: the cells that hold a heading `## ...`, and the first one."""
    return [place for place, cell in enumerate(cells)
            if place == 0 or cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.M)]


def advice(number: str, teaching: str) -> str:
    """What TEACHING.md says of one notebook: the text below its heading `### NUMBER · ...`."""
    found = re.search(rf"^### {re.escape(number)} · [^\n]*\n(.*?)(?=^##|\Z)", teaching, re.M | re.S)
    return found[1].strip() if found else ""


# ---- notebooks ---------------------------------------------------------------------------------------------------------

def _note(text: str, name: str, place: int):
    """A cell for the teacher, with an id that is the same each time."""
    return nbformat.v4.new_markdown_cell(text, id=f"teacher-{name[:2]}-{place}", metadata={"tags": ["teacher"]})


def student(notebook):
    """A notebook with blanks: no outputs, and no way to the solutions."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = without_solutions(cell.source)
    return made


def solved(notebook, solution):
    """A notebook with the solutions' answers in place of the blanks; checks show what they say of them."""
    made = copy.deepcopy(notebook)
    for exercise in course.exercises_of(notebook):
        answer, said = course.answers(exercise, solution)
        kept = [line for line in notebook.cells[exercise.blank].source.splitlines() if not re.match(r"\w+ *= *None\b", line)]
        made.cells[exercise.blank].source = "\n".join([*kept, answer])
        made.cells[exercise.check_cell].outputs = [nbformat.v4.new_output("stream", name="stdout", text=said + "\n")] if said else []
    return made


def teacher(name: str, notebook, solution, teaching: str = ""):
    """A notebook with outputs, a plan for each section, and below each check the answer and the mistakes that it knows."""
    notes, starts = {}, sections(notebook.cells)
    for first, last in zip(starts[1:], [*starts[2:], len(notebook.cells)]):
        notes[first] = [f"*Plan: about {minutes(notebook.cells[first:last])} min.*"]
    for exercise in course.exercises_of(notebook):
        answer, said = course.answers(exercise, solution)
        known = "\n".join(f"- {mistake}" for mistake in course.mistakes(exercise.check))
        notes.setdefault(exercise.check_cell + 1, []).insert(0, (
            f"**For the teacher: {exercise.title}**\n\nAn answer:\n\n```python\n{answer}\n```\n\nThe check says: {said}\n\n"
            f"Mistakes that it knows:\n\n{known}"))
    runs = course.seconds(name)
    whole = f"about {minutes(notebook.cells)} min in class" + (f", {runs} s to run on two cores" if runs else "")
    head = f"**For the teacher.** Plan: {whole}. Reckoned by {WORDS_A_MINUTE} words a minute, a minute a figure, five an exercise."
    notes[1] = ["\n\n".join(filter(None, (head, advice(name.split("_")[0].lstrip("0") or "0", teaching)))), *notes.get(1, [])]
    made, cells = copy.deepcopy(notebook), []
    for place in range(len(made.cells) + 1):
        cells += [_note(text, name, 10 * place + i) for i, text in enumerate(notes.get(place, []))]
        cells += made.cells[place:place + 1]
    made.cells = cells
    return made


@declared
def build(out: SomeName, report=None) -> Path:
    """Write the three versions of every notebook into the folder `out`; `report(name)` is called after each, if given.

    ValueError where the folder is a file, holds anything else, or is one of the course's own.
    """
    here, out = course.folder().resolve(), Path(out)
    if here == out.resolve() or here in out.resolve().parents or out.resolve() in here.parents:
        raise ValueError(f"{out} is where the course itself lies: choose a folder of its own, such as out/versions")
    refuse_file(out)
    teaching, found = (here / "TEACHING.md").read_text(encoding="utf-8"), course.notebooks()
    known = [f"{name}.ipynb" for name in found]
    for version in VERSIONS:
        refuse_others(out / version, known)
    for version in VERSIONS:
        def fill(folder, version=version):
            for name, path in found.items():
                notebook, solution = course.read(path), course.read(path.parent / "solutions" / path.name)
                made = {"student": lambda: student(notebook), "solved": lambda: solved(notebook, solution),
                        "teacher": lambda: teacher(name, notebook, solution, teaching)}[version]()
                for cell in made.cells:
                    if cell.cell_type == "markdown":
                        cell.source = relinked(cell.source, here, out / version)
                nbformat.write(made, folder / path.name)
        replace_folder(out / version, fill, known)
        if report:
            report(version)
    return out


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Make the student's, the teacher's and the solved version of the course.")
    parser.add_argument("folder", help="where to write them, as folders " + ", ".join(VERSIONS))
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        build(options.folder, lambda version: print(f"written: {Path(options.folder) / version}", flush=True))


if __name__ == "__main__":
    main()
