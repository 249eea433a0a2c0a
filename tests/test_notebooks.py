"""The course as papermill sees it: other parameters run, where a CPU plays a GPU; wrong ones stop at once; and what every notebook has.

That the notebooks run as they are, and print what is committed, is nbval's part (`make test`); what the files look like
is in test_house.py. Runs with other parameters are miniatures: fewer steps, fewer pictures. They run on the virtual device (on a
real one where there is one), which is the CPU but for the question where a tensor lives.
"""
import re
from pathlib import Path

import nbformat
import pytest
import torch

from run_notebook import run
from rg_minimal.classroom.parameters import arm_angles, check_parameters, existing_folder, fits, interval, joint_points, list_of_texts
from rg_minimal.classroom.widgets import PicturePoints

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
COURSE = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
SOLUTIONS = {path.stem: path for path in sorted((FOLDER / "solutions").glob("*.ipynb"))}

PUPPET = "a puppet with pale skin in a green shirt and black trousers"
POSE = [[70, 34], [70, 48], [80, 52], [60, 52], [92, 62], [52, 66], [104, 50], [46, 84],
        [75, 76], [65, 76], [78, 96], [62, 96], [80, 116], [60, 116]]
STROKE = {"points": [[20, 90], [110, 90]], "width": 6, "shade": 0.5}
OTHER = {
    "00_start_here": dict(prompt=f"{PUPPET} is cheering in the snow", seed=3, count=1, steps=4, left_arm=20, right_arm=150.5),
    "01_diffusion": dict(prompt=f"{PUPPET} on a beach", seed=1, scene_seed=5, steps=5, guidance_scale=2),
    "02_features": dict(scene_seed=40, pictures=5, timestep=300, timesteps=[100, 500], layer=4, joint="head", seed=2),
    "03_aggregation": dict(head_folder="data/heads/depth", timestep=500, timesteps=[100, 700], pictures=4, layer=1, seed=2),
    "04_train_a_head": dict(task="edges", pictures=8, steps=4, batch=4, every=2, held_out=4, seed=5),
    "05_guided_sampling": dict(prompt=f"{PUPPET} at night", seed=2, steps=5, step_size=0.05, stop=0.8, pose=POSE),
    "06_sketches": dict(seed=4, count=1, steps=4, scene_seed=1_000_000_007, backgrounds=[0.5], depth_strokes=[STROKE],
                        edge_strokes=[STROKE], timesteps=[200]),
    "07_drag": dict(seed=2, steps=4, arrows=[[[60, 60], [80, 50]]], pinned=[[50, 50]], turn=-30, arm="right", points=5,
                    timestep=300, pair_seed=1_000_000_009, real_scale=1),
    "08_appearance": dict(reference_seed=1_000_000_031, prompts=["a puppet at night"], seed=2, steps=4, held_out=4, timestep=300,
                          factors=[0.5]),
    "09_combining": dict(prompt="a puppet is waving in the snow", seed=2, count=1, steps=4, pose_weight=0.5,
                         looks_interval=[0.0, 0.5], turns={"left": 40}),
    "10_your_own_head": dict(prompt=f"{PUPPET} in a desert", sun=30, pictures=8, train_steps=4, batch=4, steps=5, seed=2),
    "11_larger_models": dict(model="data/puppet-diffusion", prompt=PUPPET, seed=2, steps=4, pictures=4, training_steps=2),
    "12_studio": dict(prompt=f"{PUPPET} in a meadow", seed=4, steps=5, pose={"use": False},
                      drag={"use": True, "arrows": [[[60, 60], [80, 50]]]}),
    "A1_train_the_base_model": dict(seed=3, vae_pictures=8, vae_steps=2, vae_batch=4, pictures=8, steps=2, batch=4, samples=2,
                                    sample_steps=2),
    "A2_how_the_numbers_are_measured": dict(count=1, steps=4, a=0.05, covered="right_ankle"),
    "A3_cost": dict(size=64, repeats=1, true_pixels=256),
    "A4_evidence": dict(labels=4, train_steps=2, batch=2, cases=2, seed=1, shown=1),
}
WRONG = {
    "00_start_here": dict(left_arm=270, count="four", head_folder="data/heads/poses", prompt=" ", steps=1.5, step_size=float("nan"), picture=3),
    "01_diffusion": dict(guidance_scale=0, seed=-1, steps=251, model="data/none"),
    "02_features": dict(joint="elbow", timesteps=[20, 1000], layer=6, timestep=True),
    "03_aggregation": dict(head_folder="data/heads/appearance", pictures=1, timesteps=[]),
    "04_train_a_head": dict(task="appearance", lr=1.0, batch=0, folder=["out"]),
    "05_guided_sampling": dict(pose=POSE[:13], stop=0.0, step_size="0.1"),
    "06_sketches": dict(edge_strokes=[{"points": [[200, 0]], "width": 6, "shade": 1}], backgrounds=[-1], depth_strokes=None),
    "07_drag": dict(arm="both", arrows=[[[60, 60], [300, 50]]], pinned=[[1]], real_scale=-1),
    "08_appearance": dict(prompts=[], factors=0.5, held_out=0),
    "09_combining": dict(pose_interval=[0.5, 0.2], looks_weight=-1, turns={"leg": 20}),
    "10_your_own_head": dict(sun=2, train_steps=1, folder=7),
    "11_larger_models": dict(download="yes", steps=0, model=3, prompt=5, reference_head=["a.pt"]),
    "12_studio": dict(drag={"weight": -1}, steps=0, picture=3),
    "A1_train_the_base_model": dict(samples=0, vae_batch=0, device="tpu", lr=-1, ema=2.0, vae_whole=1.5, snr_power=float("nan"),
                                    start_from=3, export=["out"], save_every=0, seed=-1, pictures="8"),
    "A2_how_the_numbers_are_measured": dict(a=2, covered="nose"),
    "A3_cost": dict(size=16, repeats=0, true_size="sd16"),
    "A4_evidence": dict(labels=0, cases=1, seed=10, shown=7),
}
each_notebook = pytest.mark.parametrize("name", COURSE)


def cells_of(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def prose_of(path):
    return "\n\n".join(cell.source for cell in cells_of(path, "markdown"))


def figures(cells):
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


# ---------------------------------------------------------------------------------------------- parameters

def test_every_notebook_is_tried_with_other_and_with_wrong_parameters():
    assert list(COURSE) == list(OTHER) == list(WRONG)


@each_notebook
def test_other_parameters_run(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    extra = {"run": str(tmp_path / "run"), "device": "cuda"} if name.startswith("A1") else {}       # the only one that has to be told
    out = tmp_path / "out.ipynb"
    run(COURSE[name], OTHER[name] | extra, out, plain=torch.cuda.is_available())
    ran = cells_of(out)
    injected = next(cell for cell in ran if "injected-parameters" in cell.metadata.tags)
    assert all(f"{key} = " in injected.source for key in OTHER[name])
    assert all(cell.execution_count for cell in ran if cell.source.strip())
    said = [output for cell in ran for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not said, said[0]["text"]
    assert figures(ran) >= figures(cells_of(COURSE[name])) - 1, "one that papermill's run does not show may be a widget's"


# Nothing to drag, a wish that never speaks: a notebook says so, and runs to its end.
SILENT = [("07_drag", dict(turn=0), "No arrow with a length is drawn"),
          ("07_drag", dict(arrows=[[[60, 60], [60, 60]]]), "No arrow with a length is drawn"),
          ("09_combining", dict(pose_weight=0.0), "Only where both wishes speak"), ("09_combining", dict(looks_weight=0.0), "Only where both wishes speak"),
          ("09_combining", dict(pose_weight=0.0, looks_weight=0.0), "Neither wish speaks")]


@pytest.mark.parametrize("name, parameters, words", SILENT, ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_where_nothing_is_asked_for_a_notebook_says_so(name, parameters, words, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = {key: value for key, value in OTHER[name].items() if key not in ("arrows", "pinned", "turn")}
    run(COURSE[name], kept | parameters, tmp_path / "out.ipynb", plain=True)
    said = [output.get("text", "") for cell in cells_of(tmp_path / "out.ipynb") for output in cell.get("outputs", [])]
    assert any(words in text for text in said)


@pytest.mark.parametrize("name, parameter", [(name, parameter) for name, wrong in WRONG.items() for parameter in wrong])
def test_a_wrong_parameter_stops_in_the_first_cell_by_its_name(name, parameter, tmp_path):
    """The parameters cell, what papermill would inject after it, and the next one: no further cell is needed to stop."""
    (first, *_), values = cells_of(COURSE[name]), {"run": str(tmp_path / "run")}
    assert "parameters" in first.metadata.tags
    exec(first.source, values)
    assert parameter in values, "there is no such parameter"
    values |= {parameter: WRONG[name][parameter], "display": lambda *figures: None}
    if "run" in values:
        values["run"] = str(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"^{parameter}\b.* (is|holds) ") as stopped:
        exec(cells_of(COURSE[name])[1].source, values)
    assert len(str(stopped.value)) > len(parameter) + 20, "and says what to choose"


@pytest.mark.parametrize("steps, stop", [(5, 0.1), (8, 0.12), (10, 0.1), (20, 0.5)])
def test_notebook_5_asks_for_a_guided_step(steps, stop):
    (first, second, *_), values = cells_of(COURSE["05_guided_sampling"]), {}
    exec(first.source, values)
    values |= dict(steps=steps, stop=stop)
    if steps * stop >= 1:
        return exec(second.source, values)
    with pytest.raises(ValueError, match=f"^stop is {stop}, so none of {steps} steps is guided; choose"):
        exec(second.source, values)


@pytest.mark.parametrize("steps, row", [(3, [2, 3, 6]), (5, [2, 5, 10]), (6, [2, 5, 6, 12]), (10, [2, 5, 10, 20]), (25, [2, 5, 10, 25, 50]), (250, [2, 5, 10, 250, 500])])
def test_notebook_1_takes_more_and_more_steps(steps, row):
    """Whatever `steps` is allowed to be: no number comes twice, and the last change is that of doubling."""
    line, = re.findall(r"^few = .+$", "\n".join(cell.source for cell in cells_of(COURSE["01_diffusion"])), re.M)
    values = {"steps": steps}
    exec(line, values)
    assert values["few"] == row == sorted(set(row)) and len(row) > 2, "the last change is compared with others"


@pytest.mark.parametrize("name", [name for name, path in COURSE.items() if re.search(r"^timesteps? *=", cells_of(path)[0].source, re.M)])
def test_what_is_printed_of_a_timestep_is_of_the_one_that_was_asked_for(name):
    """A check that says "at t = 100", or "at little noise", of the first of the timesteps that somebody else has chosen says what it did not look at."""
    printed = [line for cell in cells_of(COURSE[name])[1:] for line in re.findall(r"print\((?:[^()]|\([^()]*\))*", cell.source)]
    assert printed and not [line for line in printed if re.search(r"\bt = \d|(little|much) noise", line)]


def test_rules_accept_and_refuse():
    good = dict(count=3, size=0.5, whole=2, shades=[0, 0.5], word="head", use=True, prompt="a puppet", place="data", prompts=["a"], file="", folder=Path("a"),
                when=[0, 0.5], turns={"left": 3}, pose=POSE, dots=[[3, 4]])
    rules = dict(count=(1, 5), size=(0.0, 1.0), whole=(0.0, 3.0), shades=[0.0, 1.0], word={"head", "neck"}, use=bool, prompt=str,
                 place=existing_folder, prompts=list_of_texts, file=Path, folder=Path, when=interval, turns=arm_angles, pose=joint_points, dots=fits(PicturePoints))
    assert check_parameters(good, **rules) is None
    bad = dict(count=[True, 6, 1.0, None], size=["1", float("nan"), -0.1], shades=[[], 0.5, [2]], word=["nose", 3, ["head"]], use=[1, "no"],
               prompt=["", 3, None], file=[3, None, ["a"], True], folder=[3], place=["no/such", "", 3], prompts=["a", [], [1]], when=[[0.5, 0.5], [0], "ab", [0, 2]],
               turns=[{}, {"leg": 1}, {"left": "x"}, 3], pose=[POSE[1:], 3, [[200, 1]] * 14], dots=[[[1]], 5, None, ["12"], [[True, 1]]])
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} is "):
                check_parameters(good | {name: value}, **rules)


# ---------------------------------------------------------------------------------------------- what every notebook has

@each_notebook
def test_a_notebook_says_what_it_is_for_and_what_comes_next(name):
    prose = prose_of(COURSE[name])
    for part in ("**You will**", "**You will learn**", "**You need**", "**Time:**", "## Parameters", "## Exercises", "## What you learned",
                 "**Next:**"):
        assert part in prose, f"no {part}"
    assert re.search(r"\*\*Next:\*\*.*\]\([\w./#]+\)", prose), "Next has no link"


def test_the_first_notebook_says_of_which_parameters_the_course_speaks():
    assert "it says of the parameters as they stand" in prose_of(COURSE["00_start_here"])


@each_notebook
def test_a_notebook_has_exercises_that_check_themselves_and_solutions_that_are_right(name):
    checks = [cell.source for cell in cells_of(COURSE[name]) if "print(exercises." in cell.source]
    assert len(checks) >= 2
    asked = {check for source in checks for check in re.findall(r"exercises\.(\w+)\(", source)}
    assert f"(solutions/{name}.ipynb)" in prose_of(COURSE[name])
    solved = [cell for cell in cells_of(SOLUTIONS[name]) if re.search(r"\bexercises\.\w+\(", cell.source)]
    assert asked <= {check for cell in solved for check in re.findall(r"exercises\.(\w+)\(", cell.source)}
    for cell in solved:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert "Right" in said and "Not " not in said, f"{cell.source}: {said}"
    fresh = [output.get("text", "") for cell in cells_of(COURSE[name]) if "print(exercises." in cell.source for output in cell.outputs]
    assert all(text.startswith("Not done yet: ") for text in fresh), "an exercise is committed solved"


@each_notebook
def test_exercises_are_headed_in_one_way(name):
    """`### 5.1 · The normalised move`, numbered as they come; `## 5.1 · ...`, with the same words, in the solutions."""
    number = re.match(r"[A-Z]?\d+", name)[0].removeprefix("0") or "0"
    heads = [(cell.cell_type, re.findall(rf"^### {number}\.(\d+) · (.+)$", cell.source, re.M), "exercise" in cell.metadata.get("tags", []))
             for cell in nbformat.read(COURSE[name], as_version=4).cells]
    asked = [title for kind, titles, _ in heads if kind == "markdown" for title in titles]
    assert [int(i) for i, _ in asked] == list(range(1, 1 + sum(is_exercise for *_, is_exercise in heads))), asked
    solved = re.findall(rf"^## {number}\.(\d+) · (.+)$", prose_of(SOLUTIONS[name]), re.M)
    assert solved == asked


def test_each_notebook_leads_to_the_next():
    order = list(COURSE)
    for name, following in zip(order, order[1:]):
        after = prose_of(COURSE[name]).split("**Next:**")[1]
        first = re.search(r"\]\(([\w./#]+)\)", after).group(1)
        assert first == f"{following}.ipynb", f"{name} leads to {first}"
