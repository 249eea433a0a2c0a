"""What surrounds the course: the glossary, the teacher's page, the site, and starts without installation trouble."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import nbformat
import pytest
import torch

import container
from rg_minimal import load_head, load_pipeline, sample
from rg_minimal.classroom import course, needs as running
from rg_minimal.puppets import JOINTS
from rg_minimal.puppets.heads import pose_objective
from rg_minimal.puppets.judge import load_judge, pck
from test_classroom import names_made, names_used
from test_house import MAKEFILE, PROJECT, heading_anchors, is_dead, links

ROOT = Path(__file__).resolve().parent.parent
COURSE = course.notebooks()
GLOSSARY, TEACHING, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("notebooks/GLOSSARY.md", "notebooks/TEACHING.md", "README.md"))
MEASURED = json.loads((ROOT / "data/results/notebooks.json").read_text(encoding="utf-8"))
each_notebook = pytest.mark.parametrize("name", COURSE)


def prose_of(name):
    """The words of a notebook, without code, formulas and addresses."""
    text = "\n\n".join(cell.source for cell in course.read(COURSE[name]).cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|https?://\S+|\$\$.*?\$\$", "", text, flags=re.S)


# ---- the glossary ------------------------------------------------------------------------------------------------------

TERMS = [term.strip() for heading in re.findall(r"^### (.+)$", GLOSSARY, re.M) for term in heading.split(",")]
NAMES = {"README", "CVPR", "MB"}            # with several capitals, but no terms
# Bold, but no terms: emphasis, and what is explained where it stands and needed nowhere else.
EMPHASIS = {"one layer alone", "each picture its own random timestep", "row", "column", "with respect to the latents", "go away", "appear", "added",
            "its own mean", "once", "sun", "horizon", "brightness", "raw", "normalised", "adaptive", "by channel", "confidence", "float32",
            "a head belongs to the model it was trained on"}


@each_notebook
def test_the_glossary_is_reached_from_every_notebook(name):
    last = [cell.source for cell in course.read(COURSE[name]).cells if cell.cell_type == "markdown"][-1]
    assert "(GLOSSARY.md)" in last


@each_notebook
def test_a_term_that_a_notebook_uses_is_explained(name):
    """Abbreviations are words of two capitals or more; terms are bold words that begin in lower case and are no sentence."""
    prose, words = prose_of(name), set(re.findall(r"[A-Za-z0-9]+", GLOSSARY))
    short = set(re.findall(r"\b[A-Z][A-Za-z]*[A-Z][A-Za-z0-9]*\b", prose)) - words - NAMES
    bold = {each for each in re.findall(r"\*\*([a-zA-Z@ ]+)\*\*", prose) if each[0].islower() or len(re.findall("[A-Z]", each)) > 1}
    known = {term.lower().rstrip("s") for term in TERMS} | {each.rstrip("s") for each in EMPHASIS} | {"pck@a"}
    lost = {each for each in bold if each.lower().rstrip("s") not in known}
    assert not short | lost, f"explain in notebooks/GLOSSARY.md, or add to NAMES or EMPHASIS here: {sorted(short | lost)}"


def test_branches_and_the_negative_prompt_are_explained_before_they_are_spoken_of():
    """Where cost is counted they are taken for known."""
    first = {word: next(name for name in COURSE if word in prose_of(name)) for word in ("branch", "negative prompt")}
    assert set(first.values()) == {"01_diffusion"} and {"branch", "negative prompt"} <= set(TERMS)


def test_the_gradient_is_explained_where_it_is_first_spoken_of():
    """Notebook 0 lives on it, needs nothing, and used to explain every other word."""
    first = next(name for name in COURSE if "gradient" in prose_of(name))
    prose = prose_of(first)
    assert prose.index("gradient") == prose.index("**gradient** of the difference: how it would change") + 2
    assert f"({first}.ipynb)" in re.search(r"^### gradient\n\n(.+)$", GLOSSARY, re.M)[1]


def test_a_word_that_is_code_in_one_notebook_and_a_term_in_another_has_both_meanings():
    """`objective.strength` of notebook 9 is not the strength of notebook A4's contest."""
    entry = re.search(r"^### strength\n\n(.+)$", GLOSSARY, re.M)[1]
    assert any("`strength`" in cell.source for cell in course.read(COURSE["09_combining"]).cells)
    assert re.findall(r"\]\((\w+)\.ipynb\)", entry) == ["09_combining", "A4_evidence"]


def test_what_the_glossary_explains_is_used_and_stands_in_order():
    everything = "\n".join("\n".join(cell.source for cell in course.read(path).cells) for path in COURSE.values()).lower()
    unused = [term for term in TERMS if not re.search(rf"\b{re.escape(term.lower())}", everything)]
    assert not unused, f"no notebook has {unused}"
    headings = re.findall(r"^### (.+)$", GLOSSARY, re.M)
    assert headings == sorted(headings, key=str.lower) and len(set(map(str.lower, TERMS))) == len(TERMS)
    assert len(heading_anchors(GLOSSARY)) == len(headings) + 1, "two headings have one anchor"


def test_each_entry_leads_to_a_notebook_that_has_the_word():
    for entry in re.split(r"^### ", GLOSSARY, flags=re.M)[1:]:
        heading, text = entry.split("\n", 1)
        named = re.findall(r"\]\(([\w.]+)\.ipynb\)", text)
        assert named or "See " in text, f"{heading} names no notebook"
        for name in named:
            everything = "\n".join(cell.source for cell in course.read(COURSE[name]).cells).lower()
            terms = [term.strip().lower().rstrip("s").split() for term in heading.split(",")]
            assert any(all(word in everything for word in term) for term in terms), f"{name} has no {heading}"


# ---- the teacher's page ------------------------------------------------------------------------------------------------

@each_notebook
def test_the_teachers_page_has_every_notebook_and_every_exercise(name):
    number = name.split("_")[0].lstrip("0") or "0"
    part = re.search(rf"^### {number} · .*?(?=^##|\Z)", TEACHING, re.M | re.S)
    assert part and "**Ask.**" in part[0] and "**What goes wrong.**" in part[0]
    rows = re.findall(rf"^\| \[{number}\.(\d+)\]\({name}\.ipynb\) `(\w+)` \| (.+?) \| (.+) \|$", TEACHING, re.M)
    wanted = course.exercises_of(course.read(COURSE[name]))
    assert [(check, names) for _, check, names, _ in rows] == [(each.check, ", ".join(f"`{name}`" for name in each.names)) for each in wanted]


def test_plans_end_when_the_lesson_does():
    for whole in (45, 90):
        plan = TEACHING.split(f"## Plan for {whole} minutes")[1].split("\n## ")[0]
        spans = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+) to (\d+) \|", plan, re.M)]
        assert spans[0][0] == 0 and spans[-1][1] == whole and all(a[1] == b[0] for a, b in zip(spans, spans[1:]))


def needs(text):
    """Numbers of the notebooks that come first in a text: "[2](...) and 3 for ..." are 2 and 3, "5 to 8" four; none where it begins otherwise."""
    plain = re.sub(r"\[(\w+)\]\([^)]*\)", r"\1", text)
    first = re.match(r"(?:the ideas of )?(?:notebooks? )?(A?\d+(?:(?:, | and | to )A?\d+)*)\b", plain)
    if not first:
        return set()
    ranged = re.sub(r"(\d+) to (\d+)", lambda found: ", ".join(map(str, range(int(found[1]), int(found[2]) + 1))), first[1])
    return set(re.findall(r"A?\d+", ranged))


NUMBER = {name: name.split("_")[0].lstrip("0") or "0" for name in COURSE}
NEEDS = {NUMBER[name]: needs(course.read(path).cells[0].source.split("**You need** ")[1]) for name, path in COURSE.items()}


def test_the_teachers_page_and_the_notebooks_agree_on_what_each_needs():
    table = {number: needs(text) for number, text in re.findall(r"^\| \[(\w+)\]\(\w+\.ipynb\) \| [^|]+ \| ([^|]+) \|", TEACHING, re.M)}
    assert table == NEEDS and NEEDS["9"] == {"5", "6", "7", "8"} and NEEDS["A4"] == {"5", "A2"}
    assert all(list(NEEDS).index(each) < list(NEEDS).index(number) for number, wanted in NEEDS.items() for each in wanted)


SPANS = {"a quarter of a minute": 15, "half a minute": 30, "a minute": 60}


@each_notebook
def test_a_notebook_says_how_long_it_was_measured_to_run(name):
    """Within a factor of two: an upper bound may be farther off."""
    said = re.search(r"under a minute|a quarter of a minute|half a minute|a minute", course.read(COURSE[name]).cells[0].source.split("**Time:**")[1])[0]
    measured = MEASURED["notebooks"][name]["seconds"]
    assert measured < 60 if said == "under a minute" else measured / 2 < SPANS[said] < measured * 2, f"{said}, measured {measured} s"


def in_time(order):
    """Whether no notebook stands before one that it needs."""
    return all(order.index(need) < place for place, number in enumerate(order) for need in NEEDS[number] if need in order)


def test_plans_have_nothing_before_what_it_needs():
    shortest = re.search(r"^Shortest way to the method: ([\d, ]+)\.", TEACHING, re.M)[1].split(", ")
    assert in_time(shortest) and set().union(*(NEEDS[number] for number in shortest)) <= set(shortest)
    for plan in re.findall(r"^## Plan for .*?(?=^## )", TEACHING, re.M | re.S):
        order = [NUMBER[name] for name in dict.fromkeys(re.findall(r"\]\((\w+)\.ipynb\)", plan))]
        assert len(order) > 1 and in_time(order), order


def test_poses_that_no_puppet_can_take_end_as_the_teacher_is_told():
    """With the parameters of notebook 5 and both noises of its section 5: a raised arm twice as long has nearly all joints in place, crossed
    legs have their four out of place."""
    text = re.search(r"^### 5 · .*?(?=^##)", TEACHING, re.M | re.S)[0]
    assert "A raised arm twice as long is drawn, nearly all joints are in place" in text and "its four joints out of place" in text
    parameters, = (cell.source for cell in course.read(COURSE["05_guided_sampling"]).cells if "parameters" in cell.metadata.get("tags", []))
    exec(parameters, given := {})
    pipe, judge = load_pipeline(), load_judge()
    head, at = load_head("data/heads/pose", pipe), {name: place for place, name in enumerate(JOINTS)}
    pose = torch.tensor(given["pose"], dtype=torch.float32)                                             # (14, 2)
    arm, legs = pose.clone(), pose.clone()
    shoulder, elbow, wrist = (at[f"left_{name}"] for name in ("shoulder", "elbow", "wrist"))
    arm[[elbow, wrist]] = pose[shoulder] + 2 * (pose[[elbow, wrist]] - pose[shoulder])
    for name in ("knee", "ankle"):
        both = [at[f"left_{name}"], at[f"right_{name}"]]
        legs[both] = pose[both[::-1]]
    noises = torch.cat([torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(given["seed"] + i)) for i in range(2)])
    in_place = lambda target: pck(judge(sample(
        pipe, given["prompt"], [pose_objective(head, target, stop=given["stop"])], num_inference_steps=given["steps"], latents=noises,
        step_size=given["step_size"])[0]).joints, target.expand(2, -1, -1), 0.1)
    assert in_place(arm).min() > 12 / 14 and in_place(legs).max() < 10.5 / 14


def numbers(text):
    """Of "1, 2 and 4 to 6": these five."""
    spans = re.findall(r"(\d+)(?: to (\d+))?", text)
    return {number for a, b in spans for number in range(int(a), int(b or a) + 1)}


def parts_of_plans():
    """(notebook, its sections, its exercises) of each part of the plans that names sections and does not have all cells run."""
    lines = [line for plan in re.findall(r"^## Plan for .*?(?=^## )", TEACHING, re.M | re.S) for line in plan.splitlines()]
    for name in COURSE:
        lines += [f"]({name}.ipynb){part}" for part in re.findall(rf"^### {NUMBER[name]} · .*\n\n(\*\*In one lesson\.\*\* .*)", TEACHING, re.M)]
    for name, text in [found for line in lines for found in re.findall(r"\]\((\w+)\.ipynb\)(.*?)(?=\]\(\w+\.ipynb\)|$)", line)]:
        until = re.findall(r"to the end of section (\d)", text)
        named = [numbers(found) for found in re.findall(r"[Ss]ections? (\d(?:(?:, | and | to )\d)*)", text)]
        named += [set(range(1, int(end) + 1)) for end in until]
        if named and "all cells" not in text:
            yield name, set().union(*named), numbers(" ".join(re.findall(r"[Ee]xercise (?:A?\d+\.)?(\d)", text)))


def test_sections_that_a_plan_names_run_without_those_that_it_leaves_out():
    """Cells before the first section always run; names are followed through those of the sections and exercises named."""
    parts = list(parts_of_plans())
    assert ("05_guided_sampling", {1, 2, 3}, {2}) in parts and ("07_drag", {1, 2, 3, 4}, set()) in parts
    for name, sections, exercises in parts:
        made, runs, lost = {"display"}, True, set()
        for cell in course.read(COURSE[name]).cells:
            if cell.cell_type == "markdown":
                for section, exercise in re.findall(r"^(?:## (\d+) · |### A?\d+\.(\d+) · |## (?=What it costs|Exercises))", cell.source, re.M):
                    runs = section and int(section) in sections or exercise and int(exercise) in exercises
            elif runs:
                made |= names_made([cell])
                lost |= names_used(cell.source) - made
        assert not lost, f"{name}: sections {sections} need {lost}, so let all cells be run"


def test_no_blank_is_left_in_the_teachers_page():
    assert not re.search(r"@\w+@", TEACHING)


# ---- time and memory ---------------------------------------------------------------------------------------------------

def test_every_notebook_was_measured_whole_on_two_cores_in_a_minute_at_most():
    seconds = {name: each["seconds"] for name, each in MEASURED["notebooks"].items()}
    assert list(seconds) == list(COURSE) and MEASURED["cores"] == 2 and MEASURED["threads"] == "all"
    assert MEASURED["side_by_side"]["at_a_time"] == 2 and MEASURED["side_by_side"]["seconds"] < MEASURED["seconds"]
    assert max(seconds.values()) <= 60 and MEASURED["seconds"] == pytest.approx(sum(seconds.values()), abs=0.1)


def test_a_notebook_is_run_whole_and_one_that_fails_is_named(tmp_path):
    def run(source):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "lesson.ipynb")
        return running.run_notebook(tmp_path / "lesson.ipynb")
    found = run("import time, pathlib\nassert pathlib.Path('lesson.ipynb').exists()\nheld = bytes([1]) * 300_000_000\ndel held\ntime.sleep(2)")
    assert 2 < found["seconds"] < 60 and 300 < found["peak_mb"] < 600 and found["end_mb"] < found["peak_mb"] - 250
    with pytest.raises(RuntimeError, match="lesson.ipynb did not run to its end: ZeroDivisionError"):
        run("1 / 0")


def test_notebooks_side_by_side_have_a_thread_each_and_one_that_fails_is_named(tmp_path):
    """Each waits until the other has begun: one after the other they would wait in vain."""
    def lesson(name, other, last=""):
        source = (f"import os, pathlib, time\npathlib.Path('{name}.began').touch()\nassert os.environ['OMP_NUM_THREADS'] == '1'\nend = time.monotonic() + 60\n"
                  f"while not pathlib.Path('{other}.began').exists():\n    assert time.monotonic() < end, 'alone'\n    time.sleep(0.1)\n{last}")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / f"{name}.ipynb")
        return tmp_path / f"{name}.ipynb"
    assert 1 < running.side_by_side([lesson("a", "b"), lesson("b", "a")], at_a_time=2) < 60
    with pytest.raises(RuntimeError, match="b.ipynb did not run to its end: ZeroDivisionError"):
        running.side_by_side([lesson("a", "b"), lesson("b", "a", "1 / 0")], at_a_time=2)


def test_the_memory_of_people_follows_from_what_was_measured():
    found = MEASURED
    largest = max(each["peak_mb"] for each in found["notebooks"].values())
    assert found["largest_peak_mb"] == largest == found["notebooks"]["A1_train_the_base_model"]["peak_mb"], "which the teacher is told holds the most"
    assert found["people_at_the_largest"] == running.people(largest, found["server_mb"])
    assert found["people_at_the_largest"] * (largest + found["server_mb"]) <= 15_000 < (found["people_at_the_largest"] + 1) * (largest + found["server_mb"])


def test_what_a_process_held_is_read_and_a_system_that_does_not_say_is_named():
    assert running.held("VmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n") == (2_048_000, 1_024_000)
    with pytest.raises(ValueError, match="measure on Linux"):
        running.held("")
    for names in (["99_none"], []):
        with pytest.raises(ValueError, match="is no notebook of the course; choose from 00_start_here"):
            running.measure(names)


# ---- a start without installation trouble ------------------------------------------------------------------------------

CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")


def test_the_container_installs_what_the_makefile_installs_without_cuda():
    torch, rest = container.pip_lines(CONTAINERFILE)
    pinned = re.search(r"^TORCH\s*\?=\s*(\S+)$", MAKEFILE, re.M)[1]
    assert pinned in torch and torch[torch.index("--index-url") + 1].endswith("/whl/cpu")
    assert rest[-2:] == ["--editable", ".[test]"] and "test" in PROJECT["optional-dependencies"]
    base = dict(container.instructions(CONTAINERFILE))["FROM"]
    minor, least = (int(re.search(r"3\.(\d+)", text)[1]) for text in (base, PROJECT["requires-python"]))
    assert minor >= least
    command = json.loads(dict(container.instructions(CONTAINERFILE))["CMD"])
    assert command[:3] == ["python", "-m", "jupyterlab"] and (ROOT / command[-1]).is_file()
    users = [rest for word, rest in container.instructions(CONTAINERFILE) if word == "USER"]
    assert users == ["student"], "nobody's notebook runs as root"


def test_the_container_has_what_the_two_commands_and_source_control_need():
    assert container.packages(CONTAINERFILE) == {"git", "make"}, "python:slim has neither"
    line = next(rest for word, rest in container.instructions(CONTAINERFILE) if word == "RUN")
    assert line.startswith("apt-get update && ") and line.endswith(" && rm -rf /var/lib/apt/lists/*")
    programs = re.search(r"^## Two commands\n+```\n(.*?)```", README, re.M | re.S)[1]
    assert {command.split()[0] for command in programs.splitlines()} <= container.packages(CONTAINERFILE)


def test_the_containers_user_may_write_in_all_of_the_course():
    """Docker makes the folder of WORKDIR as root, whoever the files are given to, and so are those that RUN makes: chown comes after them."""
    steps = container.instructions(CONTAINERFILE)
    folder, user = dict(steps)["WORKDIR"], dict(steps)["USER"]
    until = steps.index(("USER", user))
    assert steps[until - 1] == ("RUN", f"chown --recursive --from=root {user} {folder}") and folder == "/course"
    assert not {word for word, _ in steps[until:]} & {"RUN", "COPY", "WORKDIR", "ADD"}, "what follows writes as somebody else"


def test_what_is_saved_in_the_container_outlives_it():
    """The README and the Containerfile say the same command; the whole course lies in a volume with a name."""
    command, = set(re.findall(r"docker run [^`\n]*?rg-minimal(?=`|  )", README + CONTAINERFILE))
    volume = re.search(r"-v ([\w-]+):(\S+)", command)
    assert volume and volume[2] == dict(container.instructions(CONTAINERFILE))["WORKDIR"]
    assert f"the volume `{volume[1]}`" in README and f"docker volume rm {volume[1]}" in README
    port = re.search(r"-p (\d+):(\d+)", command)
    assert dict(container.instructions(CONTAINERFILE))["EXPOSE"] == port[2]


def test_the_container_keeps_nobody_from_the_hub():
    """Who sets `download = True` in notebook 11 means it; nothing else asks a hub for anything."""
    assert not [name for name in container.settings(CONTAINERFILE) if "OFFLINE" in name]


def test_the_dev_container_builds_the_same():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    build = settings["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Containerfile"
    assert (ROOT / ".devcontainer" / build["context"]).resolve() == ROOT


def test_what_is_left_out_of_the_container_is_left_out_of_git_too():
    ignored = set((ROOT / ".dockerignore").read_text().split()) - {".git"}
    git = (ROOT / ".gitignore").read_text()
    assert all(name.removeprefix("**/") in git for name in ignored)


def first_cell():
    return re.search(r"```ipython\n(# a first cell.*?)```", README, re.S)[1]


ADDRESS = re.search(r"git clone --depth 1 (\S+)", first_cell())[1]


def test_the_cell_for_hosted_notebooks_clones_from_where_binder_does():
    binder = re.search(r"https://mybinder.org/\S+?(?=`)", README)[0]
    owner = urlparse(ADDRESS).path.removesuffix(".git")
    assert urlparse(binder).path == f"/v2/gh{owner}/HEAD" and (ROOT / binder.split("lab/tree/")[1]).is_file()


RUN_CELLS = """import os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for _ in range(int(sys.argv[2])):
    shell.run_cell(sys.argv[1]).raise_error()
print(os.getcwd(), sys.path[0], sys.path.count(sys.path[0]))"""


def test_the_cell_for_hosted_notebooks_takes_one_clone_however_often_it_is_run(tmp_path):
    """In a folder with a space, twice in one kernel, then in one that starts in the clone; of a small repository, without pip."""
    source, host = tmp_path / "source.git", tmp_path / "my drive"
    clone = host / "rg_minimal_course"
    for path, text in ((source / "notebooks" / "a.ipynb", "{}"), (tmp_path / "modules" / "pip" / "__init__.py", ""),
                       (tmp_path / "modules" / "pip" / "__main__.py", "import os, sys; print('pip', sys.argv[1:], os.getcwd())")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    host.mkdir()
    for words in (["init", "--quiet"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "--quiet", "--message", "a"]):
        subprocess.run(["git", *words], cwd=source, check=True)
    cell, environment = first_cell().replace(ADDRESS, source.as_uri()), os.environ | {
        "PYTHONPATH": str(tmp_path / "modules"), "IPYTHONDIR": str(tmp_path / "ipython")}
    for folder, times in ((host, 2), (clone / "notebooks", 1)):
        said = subprocess.run([sys.executable, "-c", RUN_CELLS, cell, str(times)], cwd=folder, env=environment, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        installed = f"pip ['install', '--quiet', '--editable', '..'] {clone / 'notebooks'}"
        assert said.stdout.count(installed) == times and said.stdout.splitlines()[-1].startswith(f"{clone / 'notebooks'} {clone} "), said.stdout
        assert [path.parent for path in tmp_path.rglob(".git")] in ([source, clone], [clone, source])
        (clone / "notebooks" / "mine.txt").write_text("saved")
    assert (clone / "notebooks" / "mine.txt").is_file()


# ---- the site ----------------------------------------------------------------------------------------------------------

INDEX, PAPER = ((ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in ("index", "paper"))


def site():
    values = {"__file__": str(ROOT / "book" / "conf.py")}
    exec(compile((ROOT / "book" / "conf.py").read_text(encoding="utf-8"), "conf.py", "exec"), values)
    return values


def test_the_table_of_contents_holds_every_notebook_in_order():
    listed = re.findall(r"^\.\./notebooks/(\w+)$", INDEX, re.M)
    assert [name for name in listed if name in COURSE] == list(COURSE)
    assert {"GLOSSARY", "TEACHING"} <= set(listed) and "../notebooks/solutions/*" in INDEX and "../README" in INDEX
    assert site()["nb_execution_mode"] == "off"


def test_every_figure_of_the_site_is_shown_by_some_cell():
    values = site()
    for name, (notebook, words) in values["FIGURES"].items():
        assert values["first_picture"](notebook, words).startswith(b"\x89PNG"), name
    shown = set(re.findall(r"/out/book/figures/(\w+)\.png", INDEX + PAPER))
    assert shown == set(values["FIGURES"])
    with pytest.raises(LookupError, match="change FIGURES in book/conf.py"):
        values["first_picture"]("00_start_here", "no such words")


def test_links_of_the_sites_own_pages_lead_somewhere():
    for name, text in (("index", INDEX), ("paper", PAPER)):
        bare = re.sub(r"^```\S*.*$", "", text, flags=re.M)
        found = [link for link in links(bare) if not link.startswith("/out/book/figures/")]
        assert found and not [link for link in found if is_dead(link, ROOT / "book" / f"{name}.md")]


def test_links_to_folders_become_cards_or_words():
    class App:
        class env:
            doc2path = staticmethod(lambda document: str(ROOT / f"{document}.md"))
    source = ["a [card](data/results), [tests](tests/), [a page](README.md), [out](https://example.org/data)"]
    site()["to_pages"](App, "README", source)
    assert source == ["a [card](data/results/README.md), tests, [a page](README.md), [out](https://example.org/data)"]
