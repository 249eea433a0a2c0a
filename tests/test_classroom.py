"""The course as files, and its three versions."""
import ast
import builtins
import re

import nbformat
import pytest

from rg_minimal.classroom import course, versions

COURSE = course.notebooks()
READ = {name: course.read(path) for name, path in COURSE.items()}
SOLVED = {name: course.read(path.parent / "solutions" / path.name) for name, path in COURSE.items()}
EXERCISES = [(name, each) for name, notebook in READ.items() for each in course.exercises_of(notebook)]
each_exercise = pytest.mark.parametrize("name, exercise", EXERCISES, ids=lambda value: getattr(value, "check", value))
each_notebook = pytest.mark.parametrize("name", COURSE)

code = nbformat.v4.new_code_cell


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[code(cell) if isinstance(cell, str) else cell for cell in cells])


# ---- the course as files -----------------------------------------------------------------------------------------------

def names_used(source):
    """What a cell takes from cells before it: names that it reads, but neither sets nor has from Python."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)} | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return read - own - set(vars(builtins))


def names_made(cells):
    """What the code cells of a notebook have set or imported."""
    made = set()
    for cell in cells:
        if cell.cell_type == "code":
            made |= course.assigned(cell.source)
            made |= {(alias.asname or alias.name).split(".")[0] for node in ast.walk(ast.parse(cell.source))
                     if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    return made


@each_exercise
def test_an_answer_of_the_solutions_may_stand_in_the_notebooks_blank(name, exercise):
    """It takes what the notebook has by then, and takes nothing else away from it than what no later cell needs."""
    cells, (answer, said) = READ[name].cells, course.answers(exercise, SOLVED[name])
    before = names_made(cells[:exercise.blank])
    assert names_used(answer) <= before, f"the notebook has no {names_used(answer) - before} here"
    later = set().union(*(names_used(cell.source) for cell in cells[exercise.blank + 1:] if cell.cell_type == "code"))
    lost = course.assigned(answer) & before & later
    assert not lost, f"the answer overwrites {lost}, which later cells read"
    assert said and all(line.startswith("Right") for line in said.splitlines()), "and what the solution prints of its own run is left out"


@each_exercise
def test_a_check_knows_some_mistakes_by_name(name, exercise):
    known = course.mistakes(exercise.check)
    assert len(known) >= 2 and not any(each.startswith(("Right", "Not ")) for each in known)


def test_mistakes_are_sentences_and_no_parts_of_them(monkeypatch):
    source = """def check(answer):
        'What is checked.'
        part, end = f"with {answer} labels, and the values of them", " (in brackets, at the end of a sentence)" if answer else ""
        return f"Not yet: {part} it says something else{end}." """
    assert all(any("no gradient flows" in each for each in course.mistakes(check)) for check in ("visible_loss", "horizon_loss"))
    assert not [each for _, exercise in EXERCISES for each in course.mistakes(exercise.check) if each[0] in ";(" and "are not the scores" not in each]
    monkeypatch.setattr(course, "_functions", lambda: {"check": ast.parse(source).body[0]})
    assert course.mistakes("check") == ["… it says something else…."]


def test_no_two_notebooks_share_a_check():
    """By its checks a student's notebook is known, whatever it is called."""
    assert len({exercise.check for _, exercise in EXERCISES}) == len(EXERCISES)


def test_titles_are_read_however_an_exercise_is_headed():
    assert course.title_of("## Exercises\n\nReplace.\n\n### 0.1 · Whose left?\n\nThe rows") == "0.1 · Whose left?"
    assert course.title_of("## Exercises\n\n**1 · A hook.** Catch **all**.") == "1 · A hook" and course.title_of("no heading") == "Exercise"


def test_a_blank_without_a_check_is_said():
    lost = code("my_answer = None", metadata={"tags": ["exercise"]})
    for cells in ((lost,), (code("x = 1", metadata={"tags": ["exercise"]}), "print(exercises.hook(1))")):
        with pytest.raises(ValueError, match="is tagged `exercise`"):
            course.exercises_of(notebook_of(*cells))
    with pytest.raises(ValueError, match="do not set my_x before exercises.hook"):
        course.answers(course.Exercise("", ("my_x",), "hook", 0, 1), notebook_of("my_y = 1", "exercises.hook(my_y)"))


# ---- three versions ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return versions.build(str(tmp_path_factory.mktemp("versions") / "course"))


def read_built(built, version, name):
    notebook = nbformat.read(built / version / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


@each_notebook
def test_a_students_notebook_has_blanks_and_nothing_of_the_solutions(built, name):
    notebook = read_built(built, "student", name)
    exercises = course.exercises_of(notebook)
    assert [each.names for each in exercises] == [each.names for each in course.exercises_of(READ[name])]
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"\b[Ss]olutions\b|\0", prose)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"] == [
        cell.source for cell in READ[name].cells if cell.cell_type == "code"]


@each_notebook
def test_a_solved_notebook_has_every_answer_and_no_blank(built, name):
    notebook = read_built(built, "solved", name)
    for exercise in course.exercises_of(READ[name]):
        source = notebook.cells[exercise.blank].source
        assert set(exercise.names) <= course.assigned(source) and not re.search(rf"{exercise.names[0]} *= *None", source)
        assert source.endswith(course.answers(exercise, SOLVED[name])[0])
        said = "".join(output.text for output in notebook.cells[exercise.check_cell].outputs)
        assert "Right" in said and "Not " not in said


@each_notebook
def test_a_teachers_notebook_has_plans_answers_and_mistakes(built, name):
    notebook = read_built(built, "teacher", name)
    notes = [cell.source for cell in notebook.cells if "teacher" in cell.metadata.get("tags", [])]
    rest = [cell for cell in notebook.cells if "teacher" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in rest if cell.cell_type == "code"] == [cell.source for cell in READ[name].cells if cell.cell_type == "code"]
    assert len(notes) == len({cell.id for cell in notebook.cells if "teacher" in cell.metadata.get("tags", [])})
    assert f"{course.seconds(name)} s to run" in notes[0], "the time that was measured"
    assert "**What goes wrong.**" in notes[0], "what TEACHING.md says of this notebook"
    for exercise in course.exercises_of(READ[name]):
        note, = [each for each in notes if f"**For the teacher: {exercise.title}**" in each]
        assert course.answers(exercise, SOLVED[name])[0] in note and all(each in note for each in course.mistakes(exercise.check))


@each_notebook
@pytest.mark.parametrize("version", versions.VERSIONS)
def test_links_of_a_version_lead_somewhere(built, version, name):
    for cell in read_built(built, version, name).cells:
        for link in versions.LINK.findall(cell.source if cell.cell_type == "markdown" else ""):
            assert re.match(r"https?:", link) or (built / version / link.partition("#")[0]).exists(), link


def test_links_lead_out_of_folders_with_spaces_and_brackets(tmp_path):
    """Markdown ends a link at the first of them: the teacher's course may lie in `My course (2)`."""
    here, there = tmp_path / "My course (2)" / "notebooks", tmp_path / "class" / "student"
    moved = versions.relinked("[a](../data/my%20card.md#use), [b](01.ipynb), [c](https://x.org/a%20b)", here, there)
    assert moved == "[a](../../My%20course%20%282%29/data/my%20card.md#use), [b](01.ipynb), [c](https://x.org/a%20b)"


def test_building_again_gives_the_same_and_leaves_other_files_alone(tmp_path):
    first = versions.build(tmp_path / "out")
    before = {path: path.read_bytes() for path in first.rglob("*.ipynb")}
    versions.build(tmp_path / "out")
    assert before == {path: path.read_bytes() for path in first.rglob("*.ipynb")} and len(before) == 3 * len(COURSE)
    (tmp_path / "out" / "teacher" / "mine.txt").write_text("notes")
    with pytest.raises(ValueError, match="mine.txt, which would be lost"):
        versions.build(tmp_path / "out")
    with pytest.raises(ValueError, match="where the course itself lies"):
        versions.build(course.folder())


@pytest.mark.parametrize("before, after", [
    ("Run it. [Solutions](solutions/a.ipynb)", "Run it."), ("Run it. Solutions are in [`solutions/a.ipynb`](solutions/a.ipynb). None needs more.", "Run it. None needs more."),
    ("Put it there. The [solutions](solutions/a.ipynb) do.\n\n### Next", "Put it there.\n\n### Next"), ("A [link](b.ipynb) stays.", "A [link](b.ipynb) stays.")])
def test_sentences_that_lead_to_solutions_go(before, after):
    assert versions.without_solutions(before) == after


@each_notebook
def test_a_students_notebook_keeps_every_sentence_that_leads_to_no_solution(built, name):
    """A sentence begins with a capital, after a full stop or, where that was forgotten, after the link itself."""
    kept = []
    for cell in READ[name].cells:
        marked = re.sub(r"\[[^\]]*\]\(solutions/[^)]*\)", "\0", cell.source if cell.cell_type == "markdown" else "")
        kept += [sentence for line in marked.splitlines() for sentence in re.split(r"(?<=[.!?\0]) +(?=[A-Z`\[\0])", line) if "\0" not in sentence]
    prose = "\n".join(cell.source for cell in read_built(built, "student", name).cells if cell.cell_type == "markdown")
    found, wanted = (re.sub(r"\]\([^)\s]+\)", "]", text).split() for text in (prose, " ".join(kept)))       # addresses change
    assert found == wanted
