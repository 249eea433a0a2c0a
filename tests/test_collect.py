"""A class's notebooks, collected: every one is a row of the table, whatever is in it.

Students' notebooks are miniatures here: they hold the course's checks, but set what these ask for in a line instead of
running a model.
"""
import csv
import re

import nbformat
import pytest

from rg_minimal.classroom import collect as collecting
from rg_minimal.classroom import course
from rg_minimal.classroom.collect import Row, as_cell, belongs_to, checks, collect, found_in, prepared, read_table, write_table

COURSE = course.notebooks()
code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[code(cell) if isinstance(cell, str) else cell for cell in cells])


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook_of(*cells), path)
    return path


IMPORT = "from rg_minimal.classroom import exercises"
CHECKS = list(checks()["09_combining"].values())        # fading_schedule, two_objectives: the second needs heads
HALF = ("head = {'pose': 1, 'appearance': 2}", "my_objectives = None", CHECKS[1])


def student_of(answer):
    return (text("# mine"), IMPORT, answer, CHECKS[0], *HALF)


def test_a_notebook_is_known_by_its_checks_whatever_it_is_called():
    known = checks()
    assert set(known) == set(COURSE) and belongs_to(notebook_of(*student_of("")), known) == "09_combining"
    assert belongs_to(notebook_of("print(1)"), known) == ""


def test_changed_checks_are_put_back_and_lost_ones_are_missed():
    own = checks()["09_combining"]
    notebook = notebook_of(IMPORT, "print('Right: exercises.fading_schedule()')")
    places = prepared(notebook, own)
    assert places == {"fading_schedule": 2} and notebook.cells[2].source == own["fading_schedule"]
    both = notebook_of("print(exercises.two_objectives(1), exercises.fading_schedule(2))")
    assert set(prepared(both, own).values()) == {1} and both.cells[1].source == "\n".join(own.values())


def test_found_are_notebooks_that_are_no_links_and_not_hidden(tmp_path):
    for name in ("b/2.ipynb", "a/1.ipynb", ".ipynb_checkpoints/x.ipynb", "a/.hidden.ipynb", "a/notes.txt", "a/1.ipynb.bak", "class.checked/3.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "z.ipynb").symlink_to(tmp_path / "a" / "1.ipynb")
    (tmp_path / "dir.ipynb").mkdir()
    assert found_in(tmp_path, tmp_path / "class.checked") == [tmp_path / "a" / "1.ipynb", tmp_path / "b" / "2.ipynb"]


@pytest.fixture(scope="module")
def a_class(tmp_path_factory):
    """Eleven students, and what a collection made of their notebooks."""
    folder = tmp_path_factory.mktemp("school") / "class"
    right = student_of("my_schedule = lambda done: max(1 - 2 * done, 0)")
    write(folder / "anna" / "9.ipynb", *right)
    write(folder / "ben" / "9.ipynb", *student_of("my_schedule = lambda done: 1 - done"))
    write(folder / "cleo.ipynb", *student_of("my_schedule = None"))
    write(folder / "dan" / "crashed.ipynb", IMPORT, "1 / 0", *right[2:])
    write(folder / "eve.ipynb", IMPORT, right[2], CHECKS[0], "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass", *HALF)
    write(folder / "finn.ipynb", IMPORT, "import os; os._exit(1)", *right[2:])
    write(folder / "gil.ipynb", IMPORT, right[2], "print('Right: exercises.fading_schedule()')", "while True: print('x' * 1000)")
    write(folder / "=2+5 {seed} a\nb.ipynb", *right)
    write(folder / "hal.ipynb", "print('Right: of another course')")
    (folder / "ivy.ipynb").write_text("{ this is no notebook")
    (folder / "jo.ipynb").write_text('{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}')
    (folder / "notes.txt").write_text("left alone")
    write(folder / "kim.ipynb", IMPORT, "open('9.txt', 'w').write('x'); open('anna', 'w')", *right[2:])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = []
    rows = {row.file: row for row in collect(folder, limit=20, report=said.append)}
    assert list(rows.values()) == said
    return folder, before, rows


def test_every_notebook_is_a_row_whatever_becomes_of_it(a_class):
    folder, before, rows = a_class
    assert len(rows) == 12
    assert rows["anna/9.ipynb"].right == 1 and rows["anna/9.ipynb"].verdicts == "right, not done" and rows["anna/9.ipynb"].outcome == "ran"
    assert rows["ben/9.ipynb"].verdicts == "not yet, not done" and "reaches 0 at the last step" in rows["ben/9.ipynb"].said
    assert rows["cleo.ipynb"].verdicts == "not done, not done" and rows["cleo.ipynb"].right == 0
    assert rows["dan/crashed.ipynb"].outcome == "code cell 2: ZeroDivisionError: division by zero"
    assert rows["dan/crashed.ipynb"].right == 1, "later cells are run all the same"
    assert rows["eve.ipynb"].outcome == "stopped after 20 s in code cell 4" and rows["eve.ipynb"].seconds < 40
    assert rows["eve.ipynb"].verdicts.startswith("right, ") and rows["eve.ipynb"].right == 1, "what was done before counts"
    assert rows["finn.ipynb"].outcome == "stopped (DeadKernelError) in code cell 2" and rows["finn.ipynb"].right == 0
    assert "more than 1,000,000 characters were printed" in rows["gil.ipynb"].outcome and rows["gil.ipynb"].seconds < 20
    assert rows["gil.ipynb"].verdicts == "right, missing", "the check is the course's, not what the student printed"
    assert rows["hal.ipynb"].outcome == "no exercise of this course is in it"
    assert rows["ivy.ipynb"].outcome.startswith("cannot be run: ivy.ipynb is no notebook")
    assert rows["jo.ipynb"].outcome.startswith("cannot be run: ")
    assert rows["=2+5 {seed} a\nb.ipynb"].right == 1 and rows["kim.ipynb"].right == 1


def test_students_files_are_only_read(a_class):
    folder, before, _ = a_class
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_is_safe_in_a_spreadsheet_and_beside_it_lies_what_was_run(a_class):
    folder, _, rows = a_class
    out = folder.with_name("class.checked")
    with open(out / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) and not [row for row in table for value in row.values() if value[:1] in tuple("=+-@")]
    executed = sorted(path.relative_to(out / "executed").as_posix() for path in out.rglob("*.ipynb"))
    assert len(executed) == 9 and executed[0].startswith("_2_5__seed__a_b."), sorted(rows)
    for path in out.rglob("*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))


def test_a_second_collection_runs_what_is_new_or_changed(a_class, monkeypatch, tmp_path):
    folder, _, rows = a_class
    ran = []
    monkeypatch.setattr(collecting, "check_one", lambda path, row, known, limit: ran.append(path.name))
    again = {row.file: row for row in collect(folder, limit=20)}
    assert not ran and [row.right for row in again.values()] == [row.right for row in rows.values()]
    assert again["anna/9.ipynb"] == rows["anna/9.ipynb"]
    collect(folder, tmp_path / "other", limit=20)
    assert len(ran) == len(rows)
    write(folder / "anna" / "9.ipynb", *student_of("my_schedule = 3"))
    ran.clear()
    collect(folder, limit=20)
    assert ran == ["9.ipynb"]
    collect(folder, limit=20, again=True)
    assert len(ran) == 1 + len(rows)


def test_rows_survive_a_table_and_other_tables_are_left_out(tmp_path):
    rows = [Row("a.ipynb", "09_combining", "ran", 1, 2, 30, "right, not done", "a: Right\nb: Not done yet", "k1"), Row("=1", key="k2")]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == {"k1": rows[0], "k2": Row("'=1", key="k2")}
    for words in ("", "a,b\n1,2\n", "\0", (tmp_path / "t.csv").read_text().replace(",30,", ",soon,")):
        (tmp_path / "t.csv").write_text(words)
        assert read_table(tmp_path / "t.csv") == {}
    assert read_table(tmp_path / "none.csv") == {} and as_cell("\x1b[31m@") == "?[31m@" and as_cell("@x") == "'@x"


@pytest.mark.parametrize("words, said", [
    (["missing"], "missing is no folder"), (["class", "-o", "class"], "among the students' files"), (["class", "-o", "."], "among the students' files"),
    (["class", "-o", "file/x"], "is in its way"), (["class", "--limit", "0"], "at least 1|greater")])
def test_the_command_refuses_in_a_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit):
        collecting.main(words)
    assert re.search(said, capsys.readouterr().err)


def test_the_command_prints_a_table(tmp_path, capsys):
    (tmp_path / "class").mkdir()
    write(tmp_path / "class" / "x.ipynb", "print(1)")
    collecting.main([str(tmp_path / "class")])
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("x.ipynb ") and said[-1] == "1 notebooks, 0 of 0 exercises right"
