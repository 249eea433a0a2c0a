"""A class's notebooks, collected: every one is a row of the table, whatever is in it.

Students' notebooks are miniatures here: they hold the course's checks, but set what these ask for in a line instead of
running a model.
"""
import csv
import os
import re
import subprocess
import sys

import nbformat
import pytest

from rg_minimal.classroom import collect as collecting
from rg_minimal.classroom import course, versions
from rg_minimal.classroom.collect import LEFT_OUT, Row, as_cell, at_home, belongs_to, checks, collect, found_in, prepared, read_table, with_checks, write_table

from test_teaching import first_cell

COURSE = course.notebooks()
code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[code(cell) if isinstance(cell, str) else cell for cell in cells])


def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook_of(*cells), path)
    return path


# What stands for the real checks in miniatures, for those import PyTorch: some seconds each.
IMPORT = """from types import SimpleNamespace
def fading_schedule(answer):
    if answer is None:
        return "Not done yet: put a function there"
    return "Right: it fades" if answer(0.5) == 0 else "Not yet: yours reaches 0 at the last step"
exercises = SimpleNamespace(fading_schedule=fading_schedule, two_objectives=lambda *given: "Not done yet: put a list there")"""
CHECKS = list(checks()["09_combining"].values())        # fading_schedule, two_objectives: the second needs heads, a pose and a source
MARKED = [source.replace("print(", f'_check("{check}", ') for check, source in checks()["09_combining"].items()]
HALF = ("from types import SimpleNamespace\nhead, stance, source = {'pose': 1, 'appearance': 2}, SimpleNamespace(joints=3), 4", "my_objectives = None", CHECKS[1])


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
    assert places == {"fading_schedule": 2} and notebook.cells[2].source == MARKED[0]
    both = notebook_of("print(exercises.two_objectives(1), exercises.fading_schedule(2))")
    assert set(prepared(both, own).values()) == {1} and both.cells[1].source == "\n".join(MARKED)


@pytest.mark.parametrize("source, kept", [
    (f"my_schedule = 3  # mine\n{CHECKS[0]}", f"my_schedule = 3\n{MARKED[0]}"),
    (f"a = 1; {CHECKS[0].splitlines()[1]}; b = 2", f"a = 1\n{MARKED[0]}\nb = 2"),
    (f"{CHECKS[0]}\na = 1\n{CHECKS[0]}", f"a = 1\n{MARKED[0]}"), (f"%%time\na = 1\n{CHECKS[0]}", f"a = 1\n{MARKED[0]}"),
    ("said = exercises.fading_schedule(3)\nprint(said)", f"said = exercises.fading_schedule(3)\n{MARKED[0]}\nprint(said)"),
    ("# exercises.fading_schedule(3)\na = 1", f"a = 1\n{MARKED[0]}"), ("not ( exercises.fading_schedule(", MARKED[0]),
    (f"a = 1\n{CHECKS[0]}\nb = 2\n{CHECKS[1]}", f"a = 1\n{MARKED[0]}\nb = 2\n{MARKED[1]}")])
def test_what_else_stands_in_the_cell_of_a_check_stays(source, kept):
    own = {check: text for check, text in checks()["09_combining"].items() if check in course.called(source)}
    assert with_checks(source, own) == kept


def test_what_a_check_needs_is_not_run_twice():
    """The course's cell of 12.2 makes pictures before it asks."""
    own = {"unchanged_pictures": checks()["12_studio"]["unchanged_pictures"]}
    made, call = own["unchanged_pictures"].split("print(")
    assert "(" in made and with_checks(own["unchanged_pictures"], own) == f'{made}_check("unchanged_pictures", {call}'


def test_every_check_of_the_course_says_its_sentence_to_the_table():
    for own in checks().values():
        for check, source in own.items():
            assert with_checks(source, {check: source}).count(f'_check("{check}", exercises.{check}(') == 1


OLD_FIRST_CELL = """import os, sys
if not os.path.isdir("rg_minimal_course"):
    !git clone --depth 1 https://github.com/OWNER/REPOSITORY.git rg_minimal_course
%pip install --quiet --editable rg_minimal_course
sys.path.insert(0, os.path.abspath("rg_minimal_course"))
%cd rg_minimal_course/notebooks"""


@pytest.mark.parametrize("source, kept", [
    (first_cell(), "import os, sys\ncourse = os.getcwd().partition('/rg_minimal_course')[0] + '/rg_minimal_course'"),
    (OLD_FIRST_CELL, "import os, sys"), ("!pip install x\nmy_answer = 1", "my_answer = 1"), ("names = !ls", ""), ("!!ls", ""), ("%%bash\nls", ""),
    ("import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip'])", "import subprocess, sys"), ("os.system('ls')", ""),
    ("import os; os.chdir('..'); n = 2", "import os\nn = 2"), ("for _ in 'ab':\n    %cd ..", ""), ("%conda install x", ""), ("@cache\ndef f():\n    return 1\n!ls", "@cache\ndef f():\n    return 1")])
def test_what_is_for_another_machine_is_left_out(source, kept):
    assert at_home(source) == LEFT_OUT + kept
    assert at_home(f"%%capture\n{source}") == f"%%capture\n{LEFT_OUT}{kept}"


@pytest.mark.parametrize("source", ["%matplotlib inline\nn = 1  # mine", "%%time\n1 + 1", "%%html\n<b>!ls</b>", "not ( Python\n!ls",
                                    "os.path.join('a')", "\0", ""])
def test_other_cells_are_run_as_they_are(source):
    assert at_home(source) == source


def test_a_first_cell_for_hosted_notebooks_changes_nothing_where_a_class_is_collected(tmp_path, monkeypatch):
    """pip and git would write down that they were called; the last call, under another name, reaches pip itself, which refuses."""
    calls, programs = tmp_path / "calls", tmp_path / "programs"
    for name in ("git", "pip"):
        (programs / name).parent.mkdir(exist_ok=True)
        (programs / name).write_text(f"#!/bin/sh\necho {name} $@ >> '{calls}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    modules = tmp_path / "modules" / "pip"
    modules.mkdir(parents=True)
    (modules / "__init__.py").write_text("")
    (modules / "__main__.py").write_text(f"import os, sys\nopen({str(calls)!r}, 'a').write(os.environ.get('PIP_PYTHON', 'pip is free') + '\\n')")
    monkeypatch.setenv("PYTHONPATH", str(modules.parent), prepend=":")
    write(tmp_path / "class" / "a.ipynb", first_cell(), OLD_FIRST_CELL, "!pip install x\n%pip install x", *student_of("my_schedule = lambda done: 0"),
          "import os, sys\nassert os.path.basename(os.getcwd()) == 'work' and not any('rg_minimal_course' in path for path in sys.path)",
          f"from subprocess import run\nrun([{sys.executable!r}, '-m', 'pip', 'install', 'x'])")
    row, = collect(tmp_path / "class")
    assert (row.outcome, row.verdicts) == ("ran", "right, not done")
    assert calls.read_text() == "none: pip may change nothing on the machine that collects\n"


def test_pip_refuses_where_it_is_told_of_no_python(tmp_path):
    """What `collect` relies on; a command that changes nothing, if it were run."""
    said = subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", "no-such-package"], env=os.environ | {"PIP_PYTHON": "none: x"},
                          capture_output=True, text=True)
    assert said.returncode and "none: x" in said.stderr


def test_found_are_notebooks_that_are_no_links_and_not_hidden_and_the_rest_is_named(tmp_path):
    for name in ("b/2.ipynb", "a/1.ipynb", ".ipynb_checkpoints/x.ipynb", "a/.hidden.ipynb", "a/notes.txt", "a/1.ipynb.bak", "class.checked/3.ipynb",
                 "b/3.ipynb.txt", "b/4.IPYNB", "b/5.ipynb.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "z.ipynb").symlink_to(tmp_path / "a" / "1.ipynb")
    (tmp_path / "dir.ipynb").mkdir()
    notebooks, others = ([path.relative_to(tmp_path).as_posix() for path in each] for each in found_in(tmp_path, tmp_path / "class.checked"))
    assert notebooks == ["a/1.ipynb", "b/2.ipynb", "b/3.ipynb.txt", "b/4.IPYNB", "b/5.ipynb.json"], "as browsers and other systems save them"
    assert others == ["z.ipynb", "a/1.ipynb.bak", "a/notes.txt"]


def test_a_folder_that_cannot_be_read_is_said_and_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "class" / "ada" / "1.ipynb", "1")
    real = os.scandir

    def closed(path):
        if os.path.basename(path) == "ada":
            raise PermissionError(13, "Permission denied", path)
        return real(path)
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match="ada cannot be read .Permission denied.: allow it"):
        collect(tmp_path / "class")


@pytest.mark.parametrize("error, said", [(RuntimeError("Kernel died before replying"), "stopped (RuntimeError)"),
                                         (OSError(28, "No space left on device"), "could not be run here: [Errno 28] No space left on device")])
def test_what_this_machine_failed_at_is_tried_again(error, said, tmp_path, monkeypatch):
    """It was no student's fault, and is no answer of theirs."""
    write(tmp_path / "class" / "ada.ipynb", *student_of("my_schedule = 3"))

    def fails(*given, **settings):
        raise error
    place = (collecting.papermill, "execute_notebook") if isinstance(error, RuntimeError) else (collecting.tempfile, "TemporaryDirectory")
    with monkeypatch.context() as broken:
        broken.setattr(*place, fails)
        assert collect(tmp_path / "class")[0].outcome == said
    ran = []
    monkeypatch.setattr(collecting, "check_one", lambda path, row, known, limit: ran.append(path.name))
    collect(tmp_path / "class")
    assert ran == ["ada.ipynb"]
    collect(tmp_path / "class")
    assert ran == ["ada.ipynb"]


def test_names_of_any_letters_fit_on_a_disk(tmp_path, monkeypatch):
    """255 bytes are 83 of these letters; a name in the letters of another system is none at all in ours."""
    for name in ("\u5b57" * 83, os.fsdecode(b"M\xfcller")):
        write(tmp_path / "class" / f"{name}.ipynb", *student_of("my_schedule = 3"))
    monkeypatch.setattr(collecting, "check_one", lambda path, row, known, limit: course.read(path))
    rows = collect(tmp_path / "class")
    assert [row.outcome for row in rows] == ["ran", "ran"] and len(list((tmp_path / "class.checked").rglob("*.ipynb"))) == 2


@pytest.fixture(scope="module")
def a_class(tmp_path_factory):
    """Thirteen students and a file that is none of theirs, and what a collection made of their notebooks."""
    folder = tmp_path_factory.mktemp("school") / "class"
    right = student_of("my_schedule = lambda done: max(1 - 2 * done, 0)")
    write(folder / "anna" / "9.ipynb", right[0], "from rg_minimal.classroom import exercises", *right[2:])
    write(folder / "ben" / "9.ipynb", *student_of("my_schedule = lambda done: 1 - done"))
    write(folder / "cleo.ipynb", *student_of("my_schedule = None"))
    write(folder / "dan" / "crashed.ipynb", IMPORT, "1 / 0", *right[2:])
    write(folder / "finn.ipynb", IMPORT, "import os; os._exit(1)", *right[2:])
    write(folder / "gil.ipynb", IMPORT, right[2], "print('Right: exercises.fading_schedule()')", "while True: print('x' * 1000)")
    write(folder / "=2+5 {seed} a\nb.ipynb", *right)
    write(folder / "hal.ipynb", "print('Right: of another course')")
    (folder / "ivy.ipynb").write_text("{ this is no notebook")
    (folder / "jo.ipynb").write_text('{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}')
    (folder / "notes.txt").write_text("left alone")
    write(folder / "kim.ipynb", IMPORT, "open('9.txt', 'w').write('x'); open('anna', 'w')", *right[2:])
    write(folder / "lea.ipynb", IMPORT, f"{right[2]}\nprint('Not yet: I think aloud')\n{CHECKS[0]}", *HALF)           # Shift+M
    write(folder / "max.ipynb", *student_of("my_schedule = None"), f"{right[2]}\n{CHECKS[0]}")                     # both once more at the end
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = []
    rows = {row.file: row for row in collect(folder, limit=300, report=said.append)}
    assert list(rows.values()) == said
    return folder, before, rows


def test_every_notebook_is_a_row_whatever_becomes_of_it(a_class):
    folder, before, rows = a_class
    assert len(rows) == 13
    assert [(rows[name].outcome, rows[name].verdicts) for name in ("lea.ipynb", "max.ipynb")] == [("ran", "right, not done")] * 2, "in one cell"
    assert rows["anna/9.ipynb"].right == 1 and rows["anna/9.ipynb"].verdicts == "right, not done" and rows["anna/9.ipynb"].outcome == "ran"
    assert rows["ben/9.ipynb"].verdicts == "not yet, not done" and "yours reaches 0 at the last step" in rows["ben/9.ipynb"].said
    assert rows["cleo.ipynb"].verdicts == "not done, not done" and rows["cleo.ipynb"].right == 0
    assert rows["dan/crashed.ipynb"].outcome == "code cell 2: ZeroDivisionError: division by zero"
    assert rows["dan/crashed.ipynb"].right == 1, "later cells are run all the same"
    assert rows["finn.ipynb"].outcome == "stopped (DeadKernelError) in code cell 2" and rows["finn.ipynb"].right == 0
    assert "more than 1,000,000 characters were printed" in rows["gil.ipynb"].outcome
    assert rows["gil.ipynb"].verdicts == "right, missing", "the check is the course's, not what the student printed"
    assert rows["hal.ipynb"].outcome == "no exercise of this course is in it"
    assert rows["ivy.ipynb"].outcome.startswith("cannot be run: ivy.ipynb is no notebook")
    assert rows["jo.ipynb"].outcome.startswith("cannot be run: ")
    assert rows["=2+5 {seed} a\nb.ipynb"].right == 1 and rows["kim.ipynb"].right == 1


def test_a_notebook_that_hangs_is_stopped_whatever_it_does_about_it(tmp_path):
    """It catches the interrupt; what it had done before counts."""
    write(tmp_path / "class" / "eve.ipynb", IMPORT, "my_schedule = lambda done: 0", CHECKS[0],
          "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass", *HALF)
    row, = collect(tmp_path / "class", limit=15)
    assert row.outcome == "stopped after 15 s in code cell 4" and 10 < row.seconds < 60
    assert row.verdicts.startswith("right, ") and row.right == 1


def test_who_prints_too_much_is_checked_all_the_same_and_prints_nothing_into_the_table(tmp_path, capfd):
    """A thread prints on, without ends of lines, when its cells have ended; a program that a cell calls writes where the kernel does."""
    answer = "my_schedule = lambda done: max(1 - 2 * done, 0)"
    write(tmp_path / "class" / "ida.ipynb", IMPORT, "print('I train' * 10**6)", answer, CHECKS[0], *HALF)
    write(tmp_path / "class" / "jon.ipynb", IMPORT, "import os, threading\nn = os.write(1, b'I shout')\ndef shout():\n    while True: print('I shout', end='')",
          "threading.Thread(target=shout, daemon=True).start()", answer, CHECKS[0], *HALF)
    ida, jon = collect(tmp_path / "class", limit=100)
    assert ida.verdicts == jon.verdicts == "right, not done" and "more than 1,000,000 characters" in ida.outcome
    assert capfd.readouterr() == ("", "")


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
    assert len(executed) == 10 and executed[0].startswith("_2_5__seed__a_b."), sorted(rows)
    for path in out.rglob("*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))


def test_a_second_collection_runs_what_is_new_or_changed(a_class, monkeypatch, tmp_path):
    folder, _, rows = a_class
    ran = []
    monkeypatch.setattr(collecting, "check_one", lambda path, row, known, limit: ran.append(path.name))
    again = {row.file: row for row in collect(folder, limit=300)}
    assert not ran and [row.right for row in again.values()] == [row.right for row in rows.values()]
    assert again["anna/9.ipynb"] == rows["anna/9.ipynb"]
    collect(folder, tmp_path / "other", limit=300)
    assert len(ran) == len(rows)
    write(folder / "anna" / "9.ipynb", *student_of("my_schedule = 3"))
    ran.clear()
    collect(folder, limit=300)
    assert ran == ["9.ipynb"]
    collect(folder, limit=300, again=True)
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
    (tmp_path / "class" / "a.zip").touch()
    collecting.main([str(tmp_path / "class")])
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("x.ipynb ") and said[-2:] == ["1 notebooks, 0 of 0 exercises right", "left alone, as no notebooks: a.zip"]


def test_the_solved_version_of_a_notebook_passes_and_the_students_is_not_done(tmp_path):
    """A whole notebook, as `versions` writes it and as a class hands it in; the others are run as solutions by nbval."""
    path = COURSE["02_features"]
    notebook, solution = course.read(path), course.read(path.parent / "solutions" / path.name)
    for name, made in {"solved": versions.solved(notebook, solution), "student": versions.student(notebook)}.items():
        (tmp_path / "class").mkdir(exist_ok=True)
        nbformat.write(made, tmp_path / "class" / f"{name}.ipynb")
    solved, blank = collect(tmp_path / "class")
    assert (solved.file, solved.outcome, solved.verdicts) == ("solved.ipynb", "ran", "right, right"), solved.said
    assert (blank.outcome, blank.verdicts) == ("ran", "not done, not done"), blank.said
