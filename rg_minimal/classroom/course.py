"""The course as files: its notebooks, the exercises in them, what the solutions answer, and what the checks have to say.

A cell tagged `exercise` is a blank: it sets names to None. The next cell that calls `exercises.NAME(...)` is its check.
The cell in the solutions that sets the same names, before the same check, is the answer; it sets nothing else that the
notebook has, so that it may stand in the blank's place.
"""
from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from ..files import read_json
from ..pipelines import find_folder

CALL = re.compile(r"\bexercises\.(\w+)\(")
MISTAKE = re.compile(r"(?:Not yet: )?(?=.{25})(?!Right|Not )(?!.*\bis asked for)(.*)", re.S)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook; `blank` and `check_cell` are places in its list of cells."""
    title: str                          # "0.1 · Whose left?"
    names: tuple[str, ...]              # ("my_hand",), which the blank sets to None
    check: str                          # "left_hand", a function of exercises.py
    blank: int
    check_cell: int


def folder() -> Path:
    """The folder of the course's notebooks. ValueError where it is not there."""
    found = Path(find_folder("notebooks"))
    if not (found / "00_start_here.ipynb").is_file():
        found = Path(__file__).resolve().parent.parent.parent / "notebooks"
    if not (found / "00_start_here.ipynb").is_file():
        raise ValueError(f"{found} holds no course: run this in a copy of the whole repository")
    return found


def notebooks() -> dict[str, Path]:
    """Name -> file of every notebook of the course, in its order."""
    return {path.stem: path for path in sorted(folder().glob("*.ipynb"))}


def read(path: Path):
    """A notebook of format 4. ValueError where it cannot be read, or is none."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:          # nbformat raises whatever its parts do
        raise ValueError(f"{path.name} is no notebook ({type(error).__name__}: {error})") from error


def seconds(name: str) -> int | None:
    """How long a notebook runs on two cores, as measured; None where nobody did."""
    found = read_json(find_folder("data/results/notebooks.json"))["notebooks"].get(name)
    return round(found["seconds"]) if found else None


# ---- exercises ---------------------------------------------------------------------------------------------------------

def assigned(source: str) -> set[str]:
    """The names that the top level of a cell sets; none where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    found = {node.id for each in tree.body if not isinstance(each, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(each)
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found | {each.name for each in tree.body if isinstance(each, (ast.FunctionDef, ast.ClassDef))}


def called(source: str) -> list[str]:
    """The checks that a cell calls."""
    return CALL.findall(source)


def title_of(text: str) -> str:
    """The last heading of a text: a line with # or, where there is none, one that begins in bold."""
    headings = re.findall(r"^#{2,4} +(.+?) *$", text, re.M)
    bold = re.findall(r"^\*\*(.+?)\*\*", text, re.M)
    if headings and headings[-1] != "Exercises":
        return headings[-1]
    return (bold or headings or ["Exercise"])[-1].rstrip(".")


def exercises_of(notebook) -> list[Exercise]:
    """The exercises of a notebook of the course. ValueError where a blank has no check, or sets nothing to None."""
    found, cells, text = [], notebook.cells, ""
    for place, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            text = cell.source
        elif "exercise" in cell.metadata.get("tags", []):
            check = next((i for i in range(place + 1, len(cells)) if cells[i].cell_type == "code" and called(cells[i].source)), None)
            names = tuple(re.findall(r"^(\w+) *= *None\b", cell.source, re.M))
            if check is None or not names:
                raise ValueError(f"cell {place} is tagged `exercise`, but sets nothing to None or has no check after it")
            found.append(Exercise(title_of(text), names, called(cells[check].source)[0], place, check))
    return found


def answers(exercise: Exercise, solution) -> tuple[str, str]:
    """The source of the solution's answer, and the lines that its check has printed, without what the solution says beside
    them: that is of its own run. ValueError where the solution has no such answer."""
    code = [cell for cell in solution.cells if cell.cell_type == "code"]
    check = next((i for i, cell in enumerate(code) if exercise.check in called(cell.source)), None)
    before = code[:check] if check is not None else []
    for cell in reversed(before):
        if set(exercise.names) <= assigned(cell.source):
            said = "".join(output.get("text", "") for output in code[check].outputs if output.output_type == "stream")
            return cell.source, "\n".join(line for line in said.splitlines() if line.startswith(("Right", "Not ")))
    raise ValueError(f"the solutions do not set {' and '.join(exercise.names)} before exercises.{exercise.check}")


# ---- what the checks know ----------------------------------------------------------------------------------------------

@cache
def _functions() -> dict[str, ast.FunctionDef]:
    source = Path(__file__).with_name("exercises.py").read_text(encoding="utf-8")
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def _texts(node):
    """Every text in a piece of code but what is said of a right answer; what an f-string fills in is shown as three dots."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.Assign):                  # a text that has a name is a part of others
        for value in node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]:
            yield from () if isinstance(value, ast.Constant | ast.JoinedStr | ast.IfExp) else _texts(value)
    else:
        praise = node.args[3:4] if isinstance(node, ast.Call) and ast.unparse(node.func) == "_compare" else []
        for child in ast.iter_child_nodes(node):
            if child not in praise:
                yield from _texts(child)


def mistakes(check: str) -> list[str]:
    """The mistakes that a check knows by name, in its own words."""
    body = _functions()[check].body[1:]                                         # without the docstring
    texts = [match[1].strip() for each in body for text in _texts(each) if (match := MISTAKE.fullmatch(text))]
    return list(dict.fromkeys(texts))
