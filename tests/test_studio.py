"""The studio without a browser: the state, its file, pictures that come again bit for bit, runs that can be stopped."""
import ast
import asyncio
import base64
import copy
import datetime
import gc
import html
import io
import json
import re
import shlex
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import nbformat
import pytest
import torch
from PIL import Image

from rg_minimal import guided_sample, load_pipeline, read_picture, sample
from rg_minimal.classroom import studio
from rg_minimal.denoisers import ddim_scheduler
from rg_minimal.puppets.front import counted
from rg_minimal.puppets.heads import new_head, pose_objective
from rg_minimal.classroom.recipe import (HEADS, OBJECTIVES, START, Kit, Result, check_state, embed, guidance, in_use, load_kit, make, moments, plain_key, plain_runs,
                               held as held_of, read_reference, read_yaml, to_yaml, without_guidance, write_yaml)
from rg_minimal.classroom.drafts import Draft, OneStep, Trail, spread
from rg_minimal.classroom.verdict import verdict
from rg_minimal.classroom.studio import Studio
from rg_minimal.classroom.widgets import as_array, png_bytes

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "12_studio.ipynb"
WHOLE = {"interval": [0.0, 1.0]}
STROKES = [{"points": [[20.0, 30.0], [90.5, 30.0]], "width": 12.0, "shade": 0.75}]
AIMS = {"pose": {}, "drag": {"arrows": [[[93, 31], [93, 60]], [[60, 100], [60, 100]]], "grab": False}, "depth": {"strokes": STROKES},
        "edges": {"strokes": STROKES}, "appearance": {}}


def using(*names, **settings):
    """A miniature that uses the named objectives."""
    return check_state({"steps": 2, "pose": {"use": False}, **{name: {"use": True, **WHOLE, **AIMS[name]} for name in names},
                        **settings})


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """The shipped model, with untrained heads of every kind."""
    folder, pipe = tmp_path_factory.mktemp("heads"), load_pipeline()
    for name in HEADS.values():
        new_head(pipe, name).save_pretrained(folder / name)
    return load_kit(heads=str(folder))


@pytest.fixture(scope="module")
def trained():
    return load_kit()


# ---------------------------------------------------------------------------------------------- state

def test_state_is_plain_complete_and_stays_what_it_is():
    state = check_state(START)
    assert check_state(state) == state == json.loads(json.dumps(state))
    assert check_state({}) == state, "what is left out is as in START"
    given = {"seed": 7, "pose": {"weight": 2}}
    made = check_state(given)
    assert made["seed"] == 7 and made["pose"]["weight"] == 2.0 and made["pose"]["joints"] == state["pose"]["joints"]
    made["pose"]["joints"][0][0] = 1.0
    assert given == {"seed": 7, "pose": {"weight": 2}} and check_state({}) == state, "nothing is shared"
    assert in_use(state) == ["pose"] and in_use(without_guidance(state)) == []


WRONG = [
    ({"posse": {}}, "there is no posse: choose from prompt, seed"),
    ({"pose": {"on": True}}, "there is no pose.on: choose from pose.use, pose.weight"),
    ({"pose": 3}, "pose is 3: give a dict with use, weight"),
    ({"prompt": 3}, "prompt is 3: pass a text"),
    ({"seed": -1}, "seed is -1: .* greater than or equal to 0"),
    ({"seed": 1.5}, "seed is 1.5: pass a whole number"),
    ({"steps": 0}, "steps is 0: .* greater than or equal to 1"),
    ({"steps": True}, "steps is True"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan: pass a finite number"),
    ({"step_size": 2}, "step_size is 2: .* less than or equal to 1"),
    ({"pose": {"use": "yes"}}, "pose.use is 'yes': pass True or False"),
    ({"drag": {"keep": 1}}, "drag.keep is 1: pass True or False"), ({"drag": {"grab": "yes"}}, "drag.grab is 'yes': pass True or False"),
    ({"depth": {"weight": -1}}, "depth.weight is -1: .* greater than or equal to 0"),
    ({"edges": {"interval": [0.5]}}, r"edges.interval is \[0.5\]: give two fractions"),
    ({"edges": {"interval": [0.5, 0.2]}}, r"edges.interval is \[0.5, 0.2\]: .* start < stop"),
    ({"edges": {"interval": [0, "1"]}}, r"edges.interval is \[0, '1'\]: give two fractions"),
    ({"pose": {"joints": [[5, 5]]}}, r"pose.joints is \[\[5, 5\]\]: value holds 1 joints: give 14"),
    ({"drag": {"arrows": [[[5, 5], [5, 500]]]}}, r"drag.arrows is .*: target 0 is \(5, 500\), outside the picture"),
    ({"depth": {"strokes": [{"points": []}]}}, r"depth.strokes is .*: stroke 0 is .*: give a dict"),
    ({"appearance": {"seed": "1"}}, "appearance.seed is '1': pass a whole number"),
    ({"appearance": {"picture": None}}, "appearance.picture is None: pass the name of a file"),
    ({"seed": 2**32}, "seed is 4294967296: .* less than or equal to 4294967295"),
    ({"steps": 1001}, "steps is 1001: .* less than or equal to 1000"),
    ({"model": 3}, "model is 3: pass the name of a file or folder"),
    ({"heads": ["data"]}, r"heads is \['data'\]: pass the name of a file or folder"),
    ({"pose": {"joints": ["12"] * 14}}, "pose.joints is .*: head is '12': give a point"),
    ({"pose": {"joints": [{1: 0, 2: 0}] * 14}}, "pose.joints is .*: head is {1: 0, 2: 0}: give a point"),
    ({"pose": {"joints": [[True, False]] * 14}}, r"pose.joints is .*: head is \[True, False\]: give a point"),
    ({"pose": {"joints": [["1", "2"]] * 14}}, r"pose.joints is .*: head is \['1', '2'\]: give a point"),
    ({"drag": {"arrows": [["12", [3, 4]]]}}, "drag.arrows is .*: handle 0 is '12': give a point"),
    ({"edges": {"strokes": [{"points": ["12"], "width": 3, "shade": 1}]}}, "edges.strokes is .*: point 0 of stroke 0 is '12': give a point"),
    ({"edges": {"strokes": [{"points": "12", "width": 3, "shade": 1}]}}, "edges.strokes is .*: value is '12': give a list of points"),
    ({"depth": {"strokes": [{"points": [[1, 2]], "width": "3", "shade": 1}]}}, "depth.strokes is .*: give a dict with numbers"),
    ({"depth": {"strokes": [{"points": [[1, 2]], "width": 3, "shade": True}]}}, "depth.strokes is .*: give a dict with numbers"),
    ({"depth": {"strokes": [{"points": [[1, 2]], "width": 3, "shade": 1, "erase": True}]}}, "depth.strokes is .*: stroke 0 has 'erase': give points"),
    ([], r"state is \[\]: give a dict"),
]


@pytest.mark.parametrize("state, message", WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_states_are_named_with_a_remedy(state, message):
    with pytest.raises(ValueError, match=message):
        check_state(state)


NOT_READY = [
    ({"drag": {"use": True}}, r"drag is in use, but there is no arrow \(drag.arrows is empty\): draw at least one, or switch drag off"),
    ({"drag": {"use": True, "arrows": [[[5, 5], [5, 5]]]}}, "drag.arrows holds only points that stay"),
    ({"drag": {"use": True, "arrows": [[[60, 60], [70, 60]], [[60, 60], [60, 80]]]}}, r"drag.arrows: the point \(60, 60\) is to go to two places"),
    ({"drag": {"use": True, "grab": False, "arrows": [[[60, 60], [70, 60]], [[60, 60], [60, 60]]]}}, r"drag.arrows: the point \(60, 60\) is to go"),
    ({"drag": {"use": True, "arrows": [[[0.1, 0.1], [0.9, 0.9]], [[0.5, 0.5], [0.1, 0.1]]]}}, "drag.arrows"),
    *(({name: {"use": True, "strokes": [{"points": [[0, 0]], "width": 0.01, "shade": 1}]}}, f"{name}.strokes are so thin") for name in ("depth", "edges")),
    ({"depth": {"use": True}}, r"there is no stroke \(depth.strokes is empty\): draw at least one"),
    ({"steps": 2, "pose": {"interval": [0.0, 0.4]}}, r"pose.interval is \[0, 0.4\], which holds none of the 2 steps"),
    ({"appearance": {"use": True, "picture": "no/such.png"}}, "appearance.picture is 'no/such.png', which is no picture"),
    ({"appearance": {"use": True, "picture": "data:image/png;base64,AAAA"}}, "appearance.picture is 'data:image"),
]


@pytest.mark.parametrize("state, message", NOT_READY, ids=[message[:30] for _, message in NOT_READY])
def test_states_that_cannot_run_are_refused_before_anything_is_sampled(kit, state, message):
    check_state(state)
    with pytest.raises(ValueError, match=message):
        moments(kit, state)                                                     # at the call, not at the first step


def test_missing_and_damaged_heads_are_named_with_how_to_make_them(kit, tmp_path):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "config.json").write_text("{")
    bare = load_kit(heads=str(tmp_path))
    assert list(bare.notes) == list(OBJECTIVES) and not bare.heads
    with pytest.raises(ValueError, match="drag is in use, but there is no correspondence head .* rg_minimal.puppets.heads correspondence"):
        moments(bare, using("drag"))
    with pytest.raises(ValueError, match="depth is in use, but the depth head cannot be used"):
        moments(bare, using("depth"))
    assert load_kit(heads=str(tmp_path / "my heads")).notes["depth"].count(f"--out '{tmp_path / 'my heads'}'`") == 1, "a shell reads it"
    with pytest.raises(ValueError, match="could not load a diffusion pipeline from 'no/model'"):
        load_kit("no/model")


# ---------------------------------------------------------------------------------------------- files

def test_yaml_brings_every_state_back(tmp_path):
    odd = 'a "puppet"\\ with: é, 😀, {tabs}\t# no comment\u2028\x85 yes'
    state = using("drag", "depth", prompt=odd, step_size=1e-5, guidance_scale=1e2, pose={"weight": 1 / 3, "use": False})
    state["pose"]["joints"][3] = [0.1 + 0.2, 1e-7]
    assert read_yaml(write_yaml(state, tmp_path / "new" / "a.yaml", "a note")) == check_state(state)
    assert read_yaml(write_yaml(START, tmp_path / "b.yml")) == check_state(START)
    assert to_yaml(START).splitlines()[:2] == [f'prompt: "{START["prompt"]}"', "seed: 0"]
    with pytest.raises(ValueError, match="is called .*: give a name that ends in .yaml"):
        write_yaml(START, tmp_path / "c.txt")
    (tmp_path / "d.yaml").write_text("seed: -3\n")
    with pytest.raises(ValueError, match="seed is -3"):
        read_yaml(tmp_path / "d.yaml")
    with pytest.raises(ValueError, match="no.yaml could not be read"):
        read_yaml(tmp_path / "no.yaml")


@pytest.mark.parametrize("text, message", [
    ("{", "could not be read"), ("[]", r": state is \[\]: give a dict"), ("", ": state is None: give a dict"), ("seed: .nan", ": seed is nan"),
    ("seed: 1\nsteps: 3\nseed: 2", "could not be read: it gives seed twice"), ("pose: {use: true, use: false}", "it gives use twice"),
    ("edges: {strokes: [{points: [[1, 2]], width: 1, width: 2, shade: 1}]}", "it gives width twice"), ("- 1", r": state is \[1\]"),
    ("seed: 1\n---\nseed: 2", "could not be read"), ("step_size: 1e-05", ": step_size is '1e-05': pass a number")])
def test_a_file_that_is_no_state_is_named(text, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml.*{message}"):
        read_yaml(tmp_path / "mine.yaml")


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_yaml(START, tmp_path / "a.yaml")

    def killed(*paths):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        write_yaml({"seed": 3}, path)
    assert read_yaml(path)["seed"] == 0 and write_yaml({"seed": 3}, path) and read_yaml(path)["seed"] == 3
    assert [each.name for each in tmp_path.iterdir()] == ["a.yaml"]


def test_reference_pictures_are_cut_square_and_can_be_embedded(tmp_path):
    picture = Image.new("RGB", (300, 200), "white")
    picture.paste("red", (0, 0, 50, 200)), picture.paste("red", (250, 0, 300, 200))
    picture.save(tmp_path / "wide.png")
    found = read_reference(str(tmp_path / "wide.png"))
    assert found.shape == (1, 3, 128, 128) and (found == 1).all(), "the square in the middle, which is white"
    text = embed((tmp_path / "wide.png").read_bytes())
    assert text.startswith("data:image/png;base64,") and torch.equal(read_reference(text), found)
    with pytest.raises(ValueError, match="no picture that can be read"):
        embed(b"text")


# ---------------------------------------------------------------------------------------------- pictures

def test_moments_count_and_remember_the_picture_without_guidance(kit):
    kit.known.clear()
    state = using("pose", seed=5)
    first, again = ([(each.name, each.done, each.total, each.last) for each in moments(kit, state)] for _ in range(2))
    assert first == [("before", 1, 4, False), ("before", 2, 4, True), ("after", 3, 4, False), ("after", 4, 4, True)]
    assert again == [("before", 0, 2, True), ("after", 1, 2, False), ("after", 2, 2, True)]
    names = [each.name for each in moments(kit, using("appearance", "pose", seed=6))]
    assert names == ["reference"] * 2 + ["before"] * 2 + ["after"] * 2


def test_pictures_are_those_of_the_core_and_come_again_bit_for_bit(kit):
    state = using("pose", "drag", seed=2)
    result = make(kit, state)
    plain, _ = sample(kit.pipe, state["prompt"], num_inference_steps=2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(result.before, plain[0])
    kit.known.clear()
    again = make(kit, state)
    assert torch.equal(again.after, result.after) and again.fingerprint == result.fingerprint
    assert make(kit, {**state, "seed": 3}).fingerprint != result.fingerprint
    unguided = make(kit, without_guidance(state))
    assert torch.equal(unguided.after, result.before) and torch.equal(unguided.before, result.before)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_guides(kit, name):
    result = make(kit, using(name))
    assert (result.after - result.before).abs().max() > 0.02
    assert (result.reference is not None) == (name == "appearance")
    assert Image.open(io.BytesIO(result.figure()._repr_png_())).width > 300


def test_new_noise_at_each_step_for_looks_and_for_drags_that_keep_the_rest(kit):
    states = list(guided_sample(kit.pipe, "a puppet", num_inference_steps=2, generator=torch.Generator().manual_seed(0)))
    known = {"before": states, "reference": states}
    settings = lambda *names, **more: guidance(kit, using(*names, **more), known)
    assert settings("pose").keys() == {"objectives", "step_size"}
    assert settings("pose", "appearance").keys() == {"objectives", "step_size", "eta"} and settings("appearance")["eta"] == 1
    shorter = settings("appearance")["step_size"] / settings("pose")["step_size"]
    assert shorter == settings("pose", "appearance", step_size=0.1)["step_size"] / 0.1 < 1          # as `editing.identity` has it
    kept = settings("drag", "appearance")
    assert kept["step_size"] == settings("drag")["step_size"]
    assert kept["eta"] == 0.5 and len(kept["variance_noise"]) == 2 and {"mask", "keep", "latents"} < kept.keys()
    assert settings("drag", drag={"use": True, **WHOLE, **AIMS["drag"], "keep": False}).keys() == {"objectives", "step_size", "latents"}


def test_drag_keeps_the_rest_of_the_picture(kit):
    kept, free = (make(kit, using("drag", drag={"use": True, **WHOLE, "arrows": [[[20, 20], [30, 20]]], "grab": False, "keep": keep}))
                  for keep in (True, False))
    far = (slice(None), slice(90, 128), slice(90, 128))
    kept_far, free_far = ((each.after - each.before)[far].abs().mean() for each in (kept, free))
    assert kept_far < 0.3 * free_far


def test_an_arrow_takes_hold_of_a_limb_unless_it_is_told_not_to(trained):
    plain = make(trained, without_guidance(using("drag")))
    known = {"before": trained.known[plain_key(plain.state)]}
    wrist = plain.state["pose"]["joints"][6]
    drag = {"use": True, **WHOLE, "arrows": [[wrist, [wrist[0] - 12, wrist[1] + 30]]]}
    bare, held = (guidance(trained, using("drag", drag=drag | {"grab": grab}), known) for grab in (False, True))
    points = [len(each["objectives"][0].source_points) for each in (bare, held)]
    assert points[0] == 1 and points[1] > 6, "an arm is many points"
    assert held["step_size"] == pytest.approx(2 * bare["step_size"]) == pytest.approx(2 * START["step_size"])
    pinned = using("drag", drag=drag | {"arrows": [[[20, 110], [20.5, 110]], *drag["arrows"]]})
    hold = held_of(trained, pinned)
    assert hold.what == ("pin", "prop") and "arrow 1 has no length" in hold.words and "arrow 2 takes the whole" in hold.words, "as they are numbered on the picture"
    assert held_of(trained, pinned | {"drag": pinned["drag"] | {"grab": False}}).what == ("pin", "point")
    with pytest.raises(ValueError, match="drag.grab takes hold of limbs, but there is no pose head"):
        check_state(using("drag", drag=drag), Kit(trained.pipe, {"drag": trained.heads["drag"]}, {"pose": "there is no pose head"}))


def test_what_came_of_it_is_read_off_the_picture(trained):
    result = make(trained, {**START, "steps": 10})
    good = verdict(trained, result)
    assert re.match(r"Pose: the joints are [0-3] px from where you asked for them, \d at most \(\w+( \w+)?\); every joint is found;", good)
    far = copy.deepcopy(result)
    far.state["pose"]["joints"][7] = [10, 20]
    assert "(right wrist)" in verdict(trained, far) and "Try: pull right wrist less far" in verdict(trained, far)
    wrist = START["pose"]["joints"][6]
    dragged = using("drag", steps=10, pose={"use": False}, drag={"use": True, **WHOLE, "arrows": [[wrist, [70, 70]]]})
    still = verdict(trained, Result(dragged, result.before, result.before))
    assert re.match(r"Drag: arrow 1: what it holds is \d\d pixels off its target", still) and "Try: go a shorter way" in still
    assert "stop" not in still and "seed" not in still, "what the studio has no control for"
    single = verdict(trained, Result({**dragged, "drag": dragged["drag"] | {"grab": False}}, result.before, result.before))
    assert single.endswith("Try: take hold of the whole limb, puppet or prop.")
    both = {**dragged, "pose": {**dragged["pose"], "use": True, "joints": [[10.0, 20.0]] * 14}}
    pose, _ = verdict(trained, Result(both, result.before, result.before)).split(" Drag: ")
    assert pose.endswith("Try: untick “keep the rest of the picture”, which leaves alone all that no arrow moves; pose and drag ask for two "
                         "places of left wrist: move the joint or the arrow.")
    free = {**both, "drag": both["drag"] | {"keep": False}, "pose": {**both["pose"], "joints": held_of(trained, both).goal.tolist()}}
    agreed = verdict(trained, Result(free, result.before, result.before))
    assert "keep the rest" not in agreed and "two places" not in agreed
    drawn = using("edges", steps=10)
    same = verdict(trained, Result(drawn, result.before, result.before))
    assert same.startswith("Edges: the error where you drew went from") and "Try" in same
    looks = using("appearance", steps=10)
    assert verdict(trained, Result(looks, result.before, result.before)) == "", "looks have no reading of their own"
    for given in (far.state, dragged, drawn, looks):
        name, = in_use(given)
        for idle, nothing in (("step size", {**given, "step_size": 0.0}), ("weight", {**given, name: {**given[name], "weight": 0.0}})):
            said = verdict(trained, Result(nothing, result.before, result.before))
            assert said.startswith(f"{name.capitalize()}: ") and said.endswith(f" Try: a {idle} above 0, at which {name} guides nothing.")


def test_a_reference_picture_of_ones_own(kit):
    text = embed(png_bytes(as_array(torch.rand(3, 40, 60))))
    result = make(kit, using("appearance", appearance={"use": True, **WHOLE, "picture": text}))
    assert torch.equal(result.reference, read_reference(text)[0]) and (result.after - result.before).abs().max() > 0.02


# ---------------------------------------------------------------------------------------------- the studio

@pytest.fixture
def desk(kit):
    """Of a studio that knows no picture yet."""
    with Studio(replace(kit, known={}, grounds={}), using("pose")) as shown:
        yield shown.desk


def alive() -> int:
    gc.collect()
    return len(ipywidgets.widgets.widget._instances)


def test_a_studio_that_is_closed_or_dropped_leaves_no_widget(kit):
    before = alive()
    shown = Studio(kit, using("pose"))
    assert alive() > before + 100
    shown.close(), shown.close()
    assert alive() == before
    assert shown.start() is not None and shown.state["pose"]["use"] and len(shown.history) == 1, "it still runs, from Python"
    assert "application/vnd.jupyter.widget-view+json" not in shown._repr_mimebundle_()
    with Studio(kit, using("drag"), shown.result) as shown:
        shown.start(), shown._repr_mimebundle_()
    assert alive() == before
    dropped = weakref.ref(Studio(kit, START))
    assert alive() == before and dropped() is None


def test_a_studio_that_is_seen_lives_until_its_cell_shows_another(kit, monkeypatch):
    """In a kernel: each cell has an id, and each execution one."""
    told = {"header": {"msg_id": "first"}, "metadata": {"cellId": "a"}, "content": {}}
    monkeypatch.setattr(studio.ui, "get_ipython", lambda: SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: told)))
    before = alive()
    Studio(kit, START)._repr_mimebundle_()                                      # the last line of a cell
    each = alive() - before
    assert each > 100, "it is seen, so it lives"
    kept = Studio(kit, START)
    kept._repr_mimebundle_()
    assert alive() == before + 2 * each, "two in one cell"
    told["header"] = {"msg_id": "second"}
    kept._repr_mimebundle_()
    assert alive() == before + each and isinstance(kept.desk, studio.Desk), "the cell shows one of them again"
    told["metadata"] = {"cellId": "b"}
    other = Studio(kit, START)
    other._repr_mimebundle_()
    assert alive() == before + 2 * each
    told |= {"header": {"msg_id": "third"}, "metadata": {"cellId": "a"}}
    Studio(kit, START)._repr_mimebundle_()
    assert not isinstance(kept.desk, studio.Desk) and isinstance(other.desk, studio.Desk)
    other.close()
    assert alive() == before + each
    studio._SHOWN.clear()
    assert alive() == before


def test_what_was_made_lives_on_when_the_cell_is_run_again(kit):
    result = Result(using("pose"), *torch.rand(2, 3, 128, 128))
    make_one = lambda state=using("pose"), result=result, **more: Studio(kit, state, result, **{"keep": True, **more})
    first = make_one()
    again = make_one()
    assert again.state == first.state and again.history == [result] == first.history
    again.desk.controls["seed",].value = 3
    again.desk.editors["edges"].value = STROKES
    again.desk.editors["drag"].value = ARROWS
    again.desk.controls["seed",].value = 5
    again._keep(Result(again.state, *torch.rand(2, 3, 128, 128)))
    again.live = False
    again.go_back(0)
    again.desk.controls["steps",].value = 9
    later = make_one(result=copy.deepcopy(result), state=using("pose"))         # as where every cell is run again
    assert later.state == again.state != first.state and later.history == again.history and later.result is later.history[0]
    assert later.desk.controls["steps",].value == 9 and len(later.desk.stage.history) == 2 and not later.desk.live.value
    assert later.message == "Here is what you made before this cell was run again."
    later.state = {**later.state, "seed": 3, "steps": 2}
    assert later.state["drag"]["arrows"] == ARROWS and again.state["drag"]["arrows"] == [], "what was put away lives on; nothing is shared"
    for other in (make_one(using("pose", seed=1)), make_one(result=Result(using("pose"), *torch.rand(2, 3, 128, 128))), make_one(keep=False)):
        assert other.state == other._begun and len(other.history) == 1, "other parameters, another picture, or not asked for"
    for each in (first, again, later, other):
        each.close()
    with pytest.raises(ValueError, match="keep is 1"):
        make_one(keep=1)
    before, first = alive(), make_one(result=None)
    first.desk.controls["seed",].value = 3
    del first
    assert alive() <= before, "what nobody has is not kept for that"
    with make_one(result=None) as anew:
        assert anew.state == using("pose")


def test_controls_show_the_state_and_write_it(kit, desk):
    shown = desk.studio
    shown.state = using("depth", seed=9, guidance_scale=3.5)
    assert desk.controls["seed",].value == 9 and desk.controls["guidance_scale",].value == 3.5
    assert desk.controls["depth", "use"].value and not desk.controls["pose", "use"].value
    assert desk.editors["depth"].value == STROKES and "depth" in desk.used.value
    desk.controls["edges", "interval", 1].value = 0.75
    desk.controls["pose", "use"].value = True
    wrist = [list(joint) for joint in desk.editors["pose"].value]
    wrist[6] = [100.0, 20.0]
    desk.editors["pose"].value = wrist
    state = shown.state
    assert state["edges"]["interval"] == [0.0, 0.75] and state["pose"]["joints"][6] == [100.0, 20.0]
    assert in_use(state) == ["pose", "depth"] and "pose, depth" in desk.used.value
    state["seed"] = 1
    assert shown.state["seed"] == 9, "a copy"
    with pytest.raises(ValueError, match="steps is -2"):
        shown.state = {"steps": -2}
    assert shown.state["seed"] == 9


def test_run_keeps_pictures_in_a_history_that_brings_them_back(desk):
    shown = desk.studio
    desk.run_button.click()
    first = shown.result
    assert "Done" in shown.message and first.fingerprint in shown.message and not shown.running
    assert torch.equal(desk.editors["drag"].picture, torch.from_numpy(as_array(first.before)).permute(2, 0, 1) / 255)
    assert desk.stage.captions == ["without guidance", "with guidance"] and len(desk.stage.history) == 1
    desk.controls["seed",].value = 4
    desk.controls["pose", "use"].value = False
    desk.run_button.click()
    assert len(shown.history) == 2 and shown.result is not first and desk.stage.captions == ["without guidance"]
    desk.stage._handle_custom_msg({"go_back": 0}, [])
    assert shown.result is first and shown.state == first.state and desk.controls["seed",].value == 0
    assert desk.stage.chosen == 0 and len(shown.history) == 2


def test_stop_button_ends_a_run_between_two_steps(desk):
    shown = desk.studio
    shown.state = using("pose", steps=20)
    beats = []

    async def heart():
        while True:
            beats.append(shown.running)
            await asyncio.sleep(0.001)

    async def scene():
        heartbeat, job = asyncio.ensure_future(heart()), asyncio.ensure_future(shown.run())
        while desk.stage.done < 2:
            await asyncio.sleep(0.001)
        assert desk.run_button.disabled and not desk.stop_button.disabled and desk.stage.total == 40
        assert desk.stage.captions[0] == "without guidance, forming", "a preview: the one count is that of the progress"
        desk.stop_button.click()
        result = await job
        heartbeat.cancel()
        return result

    assert asyncio.run(scene()) is None
    assert beats.count(True) >= 3, "the loop was free between the steps"
    assert re.match(r"Stopped after step \d of 40", shown.message) and not shown.history and desk.stage.pictures == []
    assert not desk.run_button.disabled and desk.stop_button.disabled and desk.stage.total == 0
    shown.state = using("pose")
    desk.run_button.click()
    assert len(shown.history) == 1, "it runs again"


def test_wrong_states_are_told_and_nothing_runs(desk):
    """In the words of the controls; the library has names for them that no control has."""
    desk.controls["drag", "use"].value = True
    desk.run_button.click()
    assert desk.stage.problem and not desk.studio.history and desk.stage.message == (
        f"drag is in use, but there is no arrow (“{studio.HINT['drag']}” of drag is empty): draw at least one, or switch drag off (“use drag”)")
    assert not desk.run_button.disabled
    desk.controls["drag", "use"].value = False
    desk.run_button.click()
    assert not desk.stage.problem and desk.studio.history
    start, stop = (desk.controls["pose", "interval", i] for i in (0, 1))
    start.value, stop.value = 0.6, 0.5
    assert desk.stage.problem and desk.stage.message.startswith(
        f"pose: “{start.description}” is 0.6 and “{stop.description}” is 0.5: give two fractions"), "as soon as it is typed"
    desk.run_button.click()
    assert desk.stage.problem and desk.stage.message.startswith(f"pose: “{start.description}” is 0.6 and")
    stop.value = 0.7
    assert desk.stage.problem and "is 0.7, which holds none of the 2 steps: widen it" in desk.stage.message
    desk.controls["pose", "use"].value = False
    assert not desk.stage.problem
    desk.controls["appearance", "use"].value, desk.file.value = True, "no/such.png"
    desk.run_button.click()
    assert all(said.startswith(("“picture file” of appearance is", "<p>“picture file” of")) for said in (desk.stage.message, desk.reference.value))


@pytest.mark.parametrize("name", AIMS)
def test_what_is_drawn_for_an_objective_that_is_not_in_use_is_said_to_be(desk, name):
    shown, said = desk.studio, f"{name} is not in use: tick “use {name}”."
    desk.controls["pose", "use"].value = False
    desk.run_button.click()
    assert "not in use" not in shown.message, "nothing was drawn"
    if name == "appearance":
        desk.file.value = str(ROOT / "data" / "examples" / "fronts.png")
    else:
        editor = desk.editors[name]
        editor.value = {"pose": [[5.0, 5.0]] * 14, "drag": ARROWS}.get(name, STROKES)
    assert shown.message == said
    desk.run_button.click()
    assert shown.message.startswith("Done.") and said in shown.message and in_use(shown.state) == []
    desk.controls[name, "use"].value = True
    desk.controls[name, "use"].value = False
    desk.run_button.click()
    assert "not in use" not in shown.message, "switched off by hand"
    desk.controls[name, "weight"].value = 2
    assert shown.message == said
    desk.run_button.click()
    assert "not in use" not in shown.message, "nothing was drawn"


def test_arrows_do_not_outlive_the_picture_they_were_drawn_on(desk):
    shown, arrows = desk.studio, [[[20.0, 20.0], [40.0, 20.0]]]
    desk.before_button.click()
    assert not shown.history and "draw on it" in shown.message and desk._ground is not None
    desk.editors["drag"].value = arrows
    strokes = desk.editors["depth"].value = STROKES
    desk.controls["seed",].value = 3
    assert shown.state["drag"]["arrows"] == [] == desk.editors["drag"].value and "arrows are put away" in shown.message
    assert desk._ground is None and desk.editors["drag"].picture.std() < 1e-5, "a blank ground"
    assert shown.state["depth"]["strokes"] == strokes == desk.editors["depth"].value
    desk.controls["seed",].value = 0
    assert shown.state["drag"]["arrows"] == arrows == desk.editors["drag"].value, "the settings of before bring them back"
    desk.controls["seed",].value = 3
    shown.state = using("drag", seed=1)
    assert desk.editors["drag"].value == shown.state["drag"]["arrows"] != [], "a state brings its own arrows"
    desk.run_button.click()
    assert shown.state["drag"]["arrows"] and desk._ground is not None


ARROWS = [[[20.0, 20.0], [40.0, 20.0]], [[60.0, 60.0], [70.0, 60.0]]]


def nothing_made(shown):
    """Pictures that cost nothing, for tests of what is shown where: as if they had been run."""
    for seed in (0, 1):
        shown._keep(Result(using("pose", seed=seed), *torch.rand(2, 3, 128, 128).round()))


@pytest.mark.parametrize("way", ["history", "file", "python", "python, all of it"])
def test_arrows_come_back_however_their_picture_was_left(desk, tmp_path, way):
    shown, seed, editor = desk.studio, desk.controls["seed",], desk.editors["drag"]
    nothing_made(shown)
    seed.value = 0
    editor.value = ARROWS
    if way == "history":
        shown.go_back(1)
    elif way == "file":
        desk.path.value = str(write_yaml(using("pose", seed=1), tmp_path / "one.yaml"))
        desk._load()
    else:
        shown.state = using("pose", seed=1) if way != "python" else {**shown.state, "seed": 1}
        assert "arrows are put away" in shown.message
    assert shown.state["seed"] == seed.value == 1 and shown.state["drag"]["arrows"] == editor.value == []
    seed.value = 0
    assert shown.state["drag"]["arrows"] == editor.value == ARROWS
    shown.state = {**shown.state, "seed": 1}
    shown.state = {**shown.state, "seed": 0}
    assert shown.state["drag"]["arrows"] == editor.value == ARROWS, "and where Python changes back"
    editor.value = []
    seed.value = 1
    seed.value = 0
    assert editor.value == [], "what was taken away by hand stays away"


def test_arrows_of_a_file_or_of_the_history_are_its_own(desk, tmp_path):
    """Also where they are those that are shown."""
    shown, own = desk.studio, using("drag", seed=1, drag={"use": True, **WHOLE, "arrows": ARROWS})
    shown._keep(Result(own, *torch.rand(2, 3, 128, 128)))
    for back in (lambda: shown.go_back(0), desk._load):
        desk.path.value = str(write_yaml(own, tmp_path / "own.yaml"))
        shown.state = using("drag", drag={"use": True, **WHOLE, "arrows": ARROWS})
        back()
        assert shown.state["seed"] == 1 and shown.state["drag"]["arrows"] == desk.editors["drag"].value == ARROWS


def test_arrows_that_were_taken_apart_leave_with_their_picture_and_come_back_bare(desk):
    """What Take apart says, that arrows grab nothing, is said of those arrows alone."""
    shown, seed, editor = desk.studio, desk.controls["seed",], desk.editors["drag"]
    shown.state = using("drag", drag={"use": True, **WHOLE, "arrows": [], "grab": True})
    made = lambda: [(editor.value, editor.grabs), (shown.state["drag"]["arrows"], shown.state["drag"]["grab"])]
    for k, order in enumerate([("grabs", "value", "_edited"), ("value", "grabs", "_edited")]):
        told = {"value": ARROWS[:k + 1], "grabs": False, "_edited": [editor._picture_id, 1, 0]}        # one message of the browser
        editor.set_state({name: told[name] for name in order})
        assert made() == [(ARROWS[:k + 1], False)] * 2
        editor.grabs = True
    editor.grabs = False
    sent = []
    editor.send_state = lambda key=None: sent.append(set(key))
    seed.value = 3
    assert made() == [([], shown._begun["drag"]["grab"])] * 2 == [([], True)] * 2
    assert len(sent) == 1, "nothing that could be undone on the new picture"
    seed.value = 0
    assert made() == [(ARROWS, False)] * 2
    editor.value = []
    seed.value = 3
    assert made() == [([], False)] * 2, "no arrow was put away, and so nothing else"
    shown.state = {**shown.state, "seed": 0, "drag": {**shown.state["drag"], "arrows": ARROWS, "grab": False}}
    shown.state = {**shown.state, "seed": 4}
    assert made() == [([], True)] * 2, "by Python, too"


def test_editors_can_start_again_with_what_the_studio_began_with(kit):
    begun = using("pose", "depth", drag={"use": False, "arrows": ARROWS, "grab": True})
    with Studio(kit, begun) as shown:
        editors, of = shown.desk.editors, lambda name: shown.desk.editors[name]._begun["value"]
        editors["pose"].value = [[5.0, 5.0]] * 14
        editors["depth"].value = []
        nothing_made(shown)
        shown.go_back(1)
        assert of("drag") == [], "they lay on another picture"
        shown.go_back(0)
        assert (of("pose"), of("depth"), of("edges"), of("drag")) == (begun["pose"]["joints"], STROKES, [], ARROWS)
        assert editors["drag"]._begun["grabs"] is True


def test_no_undo_brings_arrows_to_another_picture(desk):
    """A new picture empties the browser's list of what to undo, also where both are a blank ground."""
    editor, before = desk.editors["drag"], desk.editors["drag"]._picture_id
    editor.value = ARROWS
    assert editor._picture_id == before
    desk.controls["seed",].value = 3
    assert editor._picture_id > before and editor.value == []
    pose = desk.editors["pose"]._picture_id
    desk.controls["seed",].value = 4
    assert desk.editors["pose"]._picture_id == pose, "a gesture there goes on"


def test_a_state_of_another_model_is_refused(desk, tmp_path):
    """Its pictures would be made with the model that is loaded, and exported under the other one's name."""
    shown = desk.studio
    for name in ("model", "heads"):
        with pytest.raises(ValueError, match=f"{name} is 'my/own', but the pictures here are made with 'data/"):
            shown.state = {**shown.state, name: "my/own"}
        desk.path.value = str(write_yaml({name: "my/own"}, tmp_path / "own.yaml"))
        desk._load()
        assert shown.problem and "show another studio" in shown.message and shown.state[name] == START[name]
    shown.state = {**shown.state, "heads": "data/heads/"}


def test_python_takes_the_studio_off_live_and_the_browser_hears_of_it(desk):
    desk.studio.live = False
    assert not desk.live.value and not desk.editors["pose"]._live and not desk.editors["drag"]._live
    desk.live.value = True
    assert desk.studio.live and desk.editors["pose"]._live


def test_arrows_show_what_they_hold_once_the_picture_is_known(trained):
    trained.known.clear(), trained.grounds.clear()
    with Studio(trained, using("drag", steps=8, drag={"use": True, **WHOLE, "arrows": []})) as shown:
        desk, editor = shown.desk, shown.desk.editors["drag"]
        assert editor.hold is None, "nobody knows yet what is there"
        desk.before_button.click()
        wrist = START["pose"]["joints"][6]
        editor.value = [[wrist, [wrist[0] - 12, wrist[1] + 30]]]
        assert "left arm" in editor.held["words"] and len(editor.held["points"]) > 3
        assert shown.state["drag"]["arrows"] == editor.value and shown.state["drag"]["grab"]
        desk.controls["drag", "grab"].value = False
        assert not editor.grabs and editor.held == {} and not shown.state["drag"]["grab"]
        editor.grabs = True
        assert desk.controls["drag", "grab"].value and shown.state["drag"]["grab"] and "left arm" in editor.held["words"]
        editor.take_apart()
        assert len(shown.state["drag"]["arrows"]) > 3 and not shown.state["drag"]["grab"]
        desk.run_button.click()
        assert re.match(r"Done. Drag: arrow 1: what it holds is \d+ pixels off", shown.message)
        trained.known.clear(), trained.grounds.clear()
        shown.go_back(0)
        desk.controls["drag", "grab"].value = True
        assert "not known any more: press Picture to draw on" in editor.held["words"], "forgotten since then"
        desk.before_button.click()
        assert "arrow 1 holds" in editor.held["words"]
        shown.state = {**shown.state, "seed": 5}
        assert editor.hold is None, "another picture"


def test_a_hand_that_does_not_rest_sees_drafts_of_a_drag(trained):
    """Arrows cannot be told to a draft that runs; at most one in a row is dropped for them."""
    async def scene():
        with Studio(trained, using("drag", steps=8)) as shown:
            shown.follow(shown.state)
            while shown.desk.stage.captions[-1:] != ["draft"]:
                await asyncio.sleep(0.01)
            seen = []
            shown.desk.stage.observe(lambda change: seen.append(change.new), "answers")
            editor, number = shown.desk.editors["drag"], 0
            while len(seen) < 2 and number < 2000:
                number += 1
                far = [[[93, 31], [93, 40 + number * 7 % 40]]]
                editor._moving = [editor._picture_id, number, far]
                await asyncio.sleep(0.02)
            return number
    assert asyncio.run(scene()) < 2000


def test_drafts_follow_the_latest_wish_and_the_release_is_refined(kit):
    """In a running loop, as in a kernel: wishes come faster than drafts; the last one is answered, then Run's picture comes."""
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk, told = shown.desk, []
            desk.stage.observe(lambda change: told.append(tuple(change.new)), "answers")
            editor = desk.editors["pose"]
            joints = copy.deepcopy(editor.value)
            for number in range(1, 7):
                joints[6] = [joints[6][0], joints[6][1] + 2]
                editor._moving = [editor._picture_id, number, copy.deepcopy(joints)]
                await asyncio.sleep(0.05)
            while (6, True) not in told:
                await asyncio.sleep(0.01)
            assert shown.result is None and not shown.history, "a draft is kept nowhere"
            assert [number for number, _ in told] == sorted(number for number, _ in told), "never back to an older wish"
            assert len([whole for _, whole in told if whole]) < 6, "wishes that are outdated are left out"
            assert desk.stage.captions[-1] == "draft" and shown.state["pose"]["joints"][6] != joints[6]
            draft = desk.stage.pictures[-1]
            editor._moving = [editor._picture_id, 7, copy.deepcopy(joints)]
            await asyncio.sleep(0.2)
            assert desk.stage.pictures[-1] == draft and desk.stage.answers == [7, True], "so near that nothing is drawn again"
            editor.value = joints                                               # released
            while not shown.history:
                await asyncio.sleep(0.01)
            return shown.state, shown.result
    state, result = asyncio.run(scene())
    assert result.fingerprint == make(kit, state).fingerprint and state["steps"] == 8, "exactly what Run gives"


@pytest.mark.parametrize("together", [False, True])
def test_what_is_released_has_a_first_look_and_keeps_it_until_the_run_shows_more(kit, together):
    """Also where movements and release come in one message, so that no draft has begun yet."""
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk, editor, told, seen = shown.desk, shown.desk.editors["pose"], [], []
            desk.stage.observe(lambda change: told.append(tuple(change.new)), "answers")
            desk.stage.observe(lambda change: seen.append((desk.stage.done, change.new[-1])), "captions")
            joints = copy.deepcopy(editor.value)
            joints[6] = [joints[6][0], joints[6][1] + 9]
            if not together:
                editor._moving = [editor._picture_id, 3, joints]
                await asyncio.sleep(0.01)
            editor.set_state({"value": joints, "_moving": [editor._picture_id, 4, joints], "_edited": [editor._picture_id, 1, 4]})
            await until(lambda: shown.history)
            await until(lambda: told[-1] == (4, True))
            assert (4, False) in told and told == sorted(told), told
            draft = seen.index(next(each for each in seen if each[1] == "draft"))
            assert not [done for done, caption in seen[draft:] if caption.endswith("forming") and done < 4], "less clear than the draft"
            assert shown.result.fingerprint == make(kit, shown.state).fingerprint
            editor.set_state({"value": START["pose"]["joints"], "_edited": [editor._picture_id, 2, 5]})
            await until(lambda: shown.running and desk.shows_draft() and desk.stage.done)
            shown.stop()
            await until(lambda: not shown.running)
            assert desk.stage.captions[-1] == "with guidance" and len(shown.history) == 1, "no draft stays of what was stopped"
    asyncio.run(scene())


async def until(true, seconds=60):
    """Wait until this is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never was"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("order", [("value", "_moving", "_edited"), ("_moving", "_edited", "value")])
def test_a_release_that_comes_in_one_message_with_movements_is_refined(kit, order):
    """Where the kernel is busy the browser sends all that has changed at once: two quick gestures in one message, in which the
    first one's value comes before the movement of the second."""
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            editor = shown.desk.editors["pose"]
            joints = copy.deepcopy(editor.value)
            joints[6] = [joints[6][0], joints[6][1] + 9]
            told = {"value": joints, "_moving": [editor._picture_id, 7, joints], "_edited": [editor._picture_id, 1, 7]}
            editor.set_state({name: told[name] for name in order})
            await until(lambda: shown.history)
            assert shown.result.state["pose"]["joints"] == joints and shown.message.startswith("Done.")
            editor._moving = [editor._picture_id, 8, START["pose"]["joints"]]
            await until(lambda: shown.desk.stage.answers == [8, True])
            editor._moving = [editor._picture_id, 3, joints]
            await asyncio.sleep(0.05)
            assert shown.desk._wished == 8, "an older one, which came late"
    asyncio.run(scene())


def test_who_goes_off_live_while_dragging_is_left_with_no_draft(kit):
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk, editor = shown.desk, shown.desk.editors["pose"]
            await shown.run()
            pictures, joints = list(desk.stage.pictures), copy.deepcopy(editor.value)
            joints[6] = [joints[6][0], joints[6][1] + 9]
            editor._moving = [editor._picture_id, 1, joints]
            await until(lambda: desk.stage.captions[-1:] == ["draft"])
            desk.live.value = False
            await until(lambda: not shown._following)
            editor.set_state({"value": joints, "_edited": [editor._picture_id, 1, 1]})
            assert desk.stage.pictures == pictures and desk.stage.captions[-1] == "with guidance" and len(shown.history) == 1
    asyncio.run(scene())


@pytest.mark.parametrize("order", [("value", "grabs"), ("grabs", "value")])
def test_what_is_taken_apart_has_its_first_look_without_the_old_hold(kit, order):
    async def scene():
        with Studio(kit, using("drag", steps=8, drag={"use": True, **WHOLE, "arrows": ARROWS, "grab": True})) as shown:
            editor, drawn = shown.desk.editors["drag"], []
            shown._draw = lambda state, wish, released=False: drawn.append(state["drag"])
            told = {"value": [[[20.0, 20.0], [40.0, 20.0]], [[30.0, 20.0], [50.0, 20.0]]], "grabs": False}
            editor.set_state({**{name: told[name] for name in order}, "_edited": [editor._picture_id, 1, 7]})
            shown.stop()
            assert drawn and all((each["arrows"], each["grab"]) == (told["value"], False) for each in drawn)
            assert shown.desk.controls["drag", "grab"].value is False and shown.state["drag"]["arrows"] == told["value"]
    asyncio.run(scene())


def test_a_gesture_that_is_called_off_leads_back_to_the_refined_picture(kit):
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk, editor = shown.desk, shown.desk.editors["pose"]
            await shown.run()
            before, said, pictures = copy.deepcopy(editor.value), desk.stage.message, list(desk.stage.pictures)
            joints = copy.deepcopy(before)
            joints[6] = [joints[6][0], joints[6][1] + 9]
            editor._moving = [editor._picture_id, 1, joints]
            await until(lambda: desk.stage.captions[-1:] == ["draft"] and not shown._following)
            assert desk.stage.pictures != pictures
            editor._moving = [editor._picture_id, 2, before]                  # as the browser tells it where a gesture is called off
            await until(lambda: desk.stage.answers == [2, True])
            assert desk.stage.pictures == pictures and desk.stage.captions[-1] == "with guidance" and desk.stage.message == said
            assert editor.value == before and len(shown.history) == 1, "nothing was run for it"
            editor._moving = [editor._picture_id, 3, joints]
            await until(lambda: desk.stage.captions[-1:] == ["draft"] and not shown._following)
            assert desk.stage.pictures != pictures, "what is shown is no draft of before, so it is drawn again"
    asyncio.run(scene())


def released(shown):
    """As the browser tells it that a joint was let go."""
    joints = copy.deepcopy(shown.desk.editors["pose"].value)
    joints[6] = [joints[6][0], joints[6][1] + 9]
    shown.desk.editors["pose"].value = joints


def dragged(shown, number=1):
    """As the browser tells it that a joint is on its way."""
    editor = shown.desk.editors["pose"]
    joints = copy.deepcopy(editor.value)
    joints[6] = [joints[6][0], joints[6][1] + 9 * number]
    editor._moving = [editor._picture_id, number, joints]


async def rested(shown):
    """Nothing goes on, and nothing begins."""
    await asyncio.sleep(0.05)
    await until(lambda: not shown.running and not shown._following)
    await asyncio.sleep(0.05)
    assert not shown.running and not shown._following


@pytest.mark.parametrize("end", ["close", "stop", "go_back"])
@pytest.mark.parametrize("before", ["released", "dragged", "started"])
def test_what_is_due_is_called_off(kit, end, before):
    async def scene():
        with Studio(kit, using("pose")) as shown:
            nothing_made(shown)
            first, desk = shown.history[0], shown.desk
            {"released": released, "dragged": dragged, "started": lambda shown: shown.start()}[before](shown)
            if before == "dragged":
                await asyncio.sleep(0.02)                   # the draft has begun
            shown.go_back(0) if end == "go_back" else getattr(shown, end)()
            said = shown.message
            with counted(kit.pipe) as passes:
                await rested(shown)
            assert passes.count == 0 and len(shown.history) == 2 and shown.message == said
            if end == "go_back":
                assert shown.result is first and shown.state == first.state and said.startswith("Picture 1")
                assert desk.stage.captions == ["without guidance", "with guidance"] and desk.stage.chosen == 0
            elif before != "dragged":
                assert said == "Stopped before the first step."
    asyncio.run(scene())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("what", ["history", "file"])
def test_who_goes_back_during_a_run_is_not_brought_forward_by_it(kit, tmp_path, what, last):
    """Also where its last step is done already."""
    async def scene():
        with Studio(kit, using("pose")) as shown:
            nothing_made(shown)
            desk, pictures = shown.desk, []
            desk.path.value = str(write_yaml(shown.history[0].state, tmp_path / "first.yaml"))
            shown.go_back(0 if what == "history" else 1)
            pictures = list(desk.stage.pictures)
            shown.state = using("pose", seed=7)
            shown.start()
            await until(lambda: desk.stage.total and desk.stage.done == (desk.stage.total if last else 1))
            shown.go_back(0) if what == "history" else desk._load()
            said = shown.message
            await rested(shown)
            assert shown.state == shown.history[0].state and len(shown.history) == 2 and shown.message == said
            assert shown.result is shown.history[0 if what == "history" else 1] and desk.stage.pictures == pictures
            assert not desk.run_button.disabled
    asyncio.run(scene())


def test_a_run_that_is_started_while_one_stops_follows_it(kit):
    kit.known.clear()
    async def scene():
        with Studio(kit, using("pose")) as shown:
            shown.start()
            await until(lambda: shown.desk.stage.done)
            shown.stop()
            shown.start()
            await rested(shown)
            assert shown.message.startswith("Done.") and len(shown.history) == 1
    asyncio.run(scene())


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("before", ["released", "started"])
def test_a_run_that_is_started_while_another_goes_on_takes_its_place(kit, before, guided):
    """A release that the browser tells late begins a run; a click comes before the browser has heard of it."""
    async def scene():
        with Studio(kit, using("pose", steps=4)) as shown:
            desk, first = shown.desk, shown._state["pose"]["joints"]
            released(shown) if before == "released" else shown.start()
            await until(lambda: shown.running and desk.stage.done)
            desk.controls["steps",].value = 6
            (desk.run_button if guided else desk.before_button).click()
            await rested(shown)
            if guided:
                assert shown.message.startswith("Done.") and [each.state["steps"] for each in shown.history] == [6]
            else:
                assert shown.message.startswith("This is the picture without guidance: draw on it") and not shown.history
            assert (shown._state["pose"]["joints"] == first) is (before == "started")
            shown.start()
            await until(lambda: shown.running)
            shown.start()
            await rested(shown)
            assert len(shown.history) == 1 + guided, "the same once more is no other run"
    kit.known.clear()
    asyncio.run(scene())


def test_a_draft_is_no_answer_to_a_wish_with_other_settings(kit):
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk = shown.desk
            dragged(shown)
            await until(lambda: desk.stage.answers == [1, True])
            await rested(shown)
            draft = desk.stage.pictures[-1]
            desk.controls["seed",].value = 3
            editor = desk.editors["pose"]
            editor._moving = [editor._picture_id, 2, editor._moving[2]]
            await until(lambda: desk.stage.answers == [2, True])
            assert desk.stage.pictures[-1] != draft
            shown.state = {**shown.state, "seed": 4}
            assert "draft" not in desk.stage.captions, "it is not of this state"
    asyncio.run(scene())


@pytest.mark.parametrize("end", ["error", "cancelled"])
def test_an_error_leaves_no_picture_that_is_still_forming(kit, monkeypatch, end):
    kit.known.clear()
    async def scene():
        with Studio(kit, using("pose", steps=4)) as shown:
            nothing_made(shown)
            desk, pictures = shown.desk, list(shown.desk.stage.pictures)
            job = asyncio.ensure_future(shown.run())
            await until(lambda: desk.stage.done == 1)
            assert desk.stage.captions == ["without guidance, forming"]
            if end == "cancelled":
                job.cancel()
            monkeypatch.setattr(desk, "show_progress", lambda moment: 1 / 0)
            await asyncio.wait([job])
            assert desk.stage.pictures == pictures and desk.stage.captions[-1] == "with guidance"
            assert shown.message.startswith("ZeroDivisionError" if end == "error" else "Interrupted.") and not desk.run_button.disabled
    asyncio.run(scene())


@pytest.mark.parametrize("guided", [True, False])
def test_what_is_changed_during_a_run_is_told_apart_from_its_picture(kit, guided):
    kit.known.clear()
    async def scene():
        with Studio(kit, using("pose")) as shown:
            desk = shown.desk
            desk.editors["drag"].value = ARROWS
            shown.start(guided)
            await until(lambda: desk.stage.done)
            desk.controls["seed",].value = 5
            assert shown.message.startswith("Running. The arrows are put away: ")
            desk.controls["seed",].value = 0
            assert shown.message == "Running.", "they are here again"
            desk.controls["seed",].value = 5
            await rested(shown)
            assert ("Done. What was changed since it began is not in it: press Run." if guided else
                    "settings that were changed since: press Picture to draw on again.") in shown.message
    asyncio.run(scene())


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("before", ["dragged", "released"])
def test_a_button_is_not_stopped_by_what_was_dragged_before(kit, guided, before):
    async def scene():
        with Studio(kit, using("pose", steps=8)) as shown:
            desk, editor = shown.desk, shown.desk.editors["pose"]
            joints = copy.deepcopy(editor.value)
            for number in range(1, 4):
                joints[6] = [joints[6][0], joints[6][1] + 9]
                editor._moving = [editor._picture_id, number, copy.deepcopy(joints)]
            await until(lambda: desk.stage.captions[-1:] == ["draft"])
            joints[6] = [joints[6][0] - 40, joints[6][1]]
            editor._moving = [editor._picture_id, 4, copy.deepcopy(joints)]
            if before == "released":
                editor.value = joints
            said = []
            desk.stage.observe(lambda change: said.append(change.new), "message")
            (desk.run_button if guided else desk.before_button).click()
            await until(lambda: said and not shown.running and not shown._following and said[-1])
            await asyncio.sleep(0.1)
            assert not any(each.startswith("Stopped") for each in said) and not shown.running
            assert shown.message.startswith("Done." if guided else "This is the picture without guidance"), said
    asyncio.run(scene())


def test_a_draft_starts_from_the_runs_noise_and_a_far_wish_drops_it(kit):
    kit.known.clear()
    state = using("pose", steps=8)
    draft = Draft(kit, state)
    steps = draft.steps()
    seen = [moment for moment in (next(steps) for _ in range(9)) if moment.name == "after"]
    first = kit.known[plain_key(state)][0]
    assert seen[0].state.timestep == first.timestep
    near, far = (copy.deepcopy(state) for _ in range(2))
    near["pose"]["joints"][6][1] += 5
    far["pose"]["joints"][6][1] += 60
    assert draft.take(near) == "taken" and draft.state["pose"]["joints"] == near["pose"]["joints"]
    assert draft.take(far) == "dropped" and draft.take({**near, "seed": 9}) == "dropped"
    seen = [moment.done for moment in steps if draft.worth_a_look(moment)]
    assert seen == [2, 3, 4] and draft.take(state) == "later", "what guides is done, the picture all but made"
    assert [spread(25), spread(3), spread(50)] == [[0, 6, 12, 18], [0, 1, 2], [0, 12, 25, 37]]


def test_drafts_of_a_drag_keep_to_the_trajectory_of_the_picture(kit):
    state = using("drag", steps=8, drag={"use": True, **WHOLE, "arrows": [[[20, 20], [30, 20]]], "grab": False, "keep": True})
    trail = Trail()
    last = [list(Draft(kit, state, trail).steps())[-1].picture()]
    source, = trail.sources.values()
    last += [list(Draft(kit, state, trail).steps())[-1].picture()]
    assert list(trail.sources.values()) == [source], "and read the source once"
    plain = make(kit, without_guidance(state)).before
    far = (slice(None), slice(90, 128), slice(90, 128))
    assert (last[0] - plain)[far].abs().mean() < 0.05


def test_steps_along_a_course_are_ddims_own_where_it_is_the_same(kit):
    """Along all timesteps of a run they are that run."""
    noise = torch.Generator().manual_seed(3)
    *_, own = guided_sample(kit.pipe, "a puppet", num_inference_steps=4, generator=noise)
    scheduler, latents = OneStep.from_config(ddim_scheduler(kit.pipe).config), torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    course = (751, 501, 251, 1)
    for step in range(4):
        scheduler.course = course[step:]
        few, = guided_sample(kit.pipe, "a puppet", num_inference_steps=1, latents=latents, scheduler=scheduler)
        latents = few.latents
    assert own.timestep == few.timestep and torch.allclose(own.latents, few.latents, atol=1e-4)


def test_a_draft_goes_on_from_what_the_one_before_had_moved():
    """Three moves a guided step at first, one later, and yet the joint comes nearer with each draft of the same wish."""
    kit, state, passes, trail = load_kit(), using("pose", steps=8), [], Trail()
    state["pose"] |= {"interval": [0.0, 0.5]}
    state["pose"]["joints"][6][1] -= 12
    reached = []
    for _ in range(3):
        with counted(kit.pipe) as done:
            *_, last = Draft(kit, state, trail).steps()
        passes.append(done.count)
        loss = pose_objective(kit.heads["pose"], torch.tensor(state["pose"]["joints"]))
        reached.append(loss(read_picture(kit.pipe, latents=last.state.latents, timestep=100)).item())
    assert passes[1:] == [10, 10], "two guided steps of a move and both branches, two of one branch"
    assert reached[2] < reached[0] < 2 * reached[2], reached
    assert set(trail.moves) == {kit.known[plain_key(state)][i].timestep for i in (0, 2)}
    Draft(kit, {**state, "seed": 5}, trail)._follows((1,))
    assert not trail.moves, "another picture's moves are void"


def test_messages_go_with_what_they_spoke_of_and_name_unknown_words(desk):
    shown = desk.studio
    desk.controls["drag", "use"].value = True
    desk.run_button.click()
    assert "switch drag off" in shown.message and "false" not in shown.message
    desk.controls["drag", "use"].value = False
    assert shown.message == "" and not desk.stage.problem, "it spoke of what is no more"
    desk.controls["prompt",].value = "a robot with a red shirt is dancing"
    assert "does not know" in shown.message and "'robot'" in shown.message
    desk.run_button.click()
    assert "'robot'" in shown.message and "Done" in shown.message
    desk.controls["prompt",].value = START["prompt"] + " and a house and a ball and a red hat at night"
    assert shown.message == "The prompt is too long for the model, which ignores its end: 'and a red hat at night'."
    desk.run_button.click()
    assert "Done" in shown.message and "ignores its end: 'and a red hat at night'" in shown.message
    desk.controls["prompt",].value = "a robot with a red shirt is dancing"
    shown.state = {**shown.state, "steps": 1}
    assert "'robot'" in shown.message and "Done" not in shown.message, "set by Python"
    desk.note.value = "papermill makes the picture again"
    desk.run_button.click()
    assert desk.note.value == "", "another picture than the one exported"


def test_a_saved_notebook_shows_the_picture_on_the_screen(kit, monkeypatch):
    """Beside the widget lies the figure of its result, which is written again with every result."""
    published = []
    told = {"header": {"msg_id": "first"}, "metadata": {"cellId": "saved"}, "content": {}}
    publisher = SimpleNamespace(publish=lambda data, transient, update: published.append((data["text/html"], transient, update)))
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: told), display_pub=publisher)
    monkeypatch.setattr(studio.ui, "get_ipython", lambda: shell)
    with Studio(kit, using("pose"), make(kit, using("pose"))) as shown:
        assert "image/png" not in shown._repr_mimebundle_()
        shown.state = using("pose", seed=5)
        shown.start()
        assert [update for *_, update in published] == [False, True] and published[0][1] == published[1][1]
        assert published[0][0] != published[1][0]
        assert base64.b64encode(shown.figure()._repr_png_()).decode() in published[1][0]
    studio._SHOWN.clear()


def test_objective_without_a_head_is_disabled_and_says_why(tmp_path):
    shown = Studio(load_kit(heads=str(tmp_path)), using("pose"))
    use = shown.desk.controls["depth", "use"]
    assert use.disabled and ("depth", "weight") not in shown.desk.controls
    assert not shown.desk.controls["pose", "use"].disabled, "what should not be on can be switched off"
    shown.desk.controls["pose", "use"].value = False
    assert shown.desk.controls["pose", "use"].disabled
    notes = [child.value for panel in shown.desk.panels.children for child in panel.children[1:]]
    assert len(notes) == 5 and all("Not available" in note and "python -m rg_minimal.puppets.heads" in note for note in notes)


def test_upload_goes_into_the_state_and_out_again(desk):
    png = png_bytes(as_array(torch.rand(3, 128, 128)))
    desk.upload.value = ({"name": "me.png", "type": "image/png", "size": len(png), "content": memoryview(png),
                          "last_modified": datetime.datetime.now()},)
    state = desk.studio.state
    assert state["appearance"]["picture"] == "data:image/png;base64," + base64.b64encode(png).decode()
    assert desk.file.value == "" and "<img alt" in desk.reference.value
    desk._forget_picture()
    assert desk.studio.state["appearance"]["picture"] == "" and "made from the prompt" in desk.reference.value
    desk.file.value = "no/such.png"
    assert "no picture that can be read" in desk.reference.value
    when = datetime.datetime(2026, 1, 1)
    for _ in range(2):                                      # the same file once more
        desk._forget_picture()
        desk.upload.value = ({"name": "me.png", "type": "image/png", "size": len(png), "content": memoryview(png), "last_modified": when},)
        assert desk.studio.state["appearance"]["picture"].startswith("data:image/png") and desk.upload.value == ()
    desk.upload.value = ({"name": "me.png", "type": "image/png", "size": 1, "content": memoryview(b"x"),
                          "last_modified": datetime.datetime.now()},)
    assert desk.stage.problem


def test_export_writes_the_picture_that_is_shown(desk, tmp_path):
    shown = desk.studio
    desk.path.value = str(tmp_path / "mine.yaml")
    desk._export()
    assert shown.message == "Exported the settings that the controls show." and read_yaml(desk.path.value) == shown.state, "no picture yet"
    desk.run_button.click()
    desk.controls["seed",].value = 77
    desk.export_button.click()
    assert shown.message == "Exported the settings of picture 1 of the history; what was changed since then is not among them."
    assert "papermill 12_studio.ipynb" in desk.note.value and "download=" in desk.note.value
    assert read_yaml(tmp_path / "mine.yaml") == shown.result.state and shown.state["seed"] == 77
    assert shown.result.fingerprint in (tmp_path / "mine.yaml").read_text().splitlines()[0]
    desk.load_button.click()
    assert shown.state["seed"] == 0 and "Loaded" in shown.message
    desk.path.value = str(tmp_path / "my studio's.yaml")
    desk._export()
    command = html.unescape(re.search("<code>(.*?)</code>", desk.note.value).group(1))
    assert shlex.split(command) == ["papermill", "12_studio.ipynb", "out.ipynb", "-f", (tmp_path / "my studio's.yaml").as_posix()]
    desk.path.value = "mine.txt"
    desk.export_button.click()
    assert desk.stage.problem and desk.note.value == "", "nothing was written"


def test_controls_have_names(desk):
    for path, widget in desk.controls.items():
        assert getattr(widget, "description", "") or widget.label, path
    assert all(button.description for button in (desk.run_button, desk.stop_button, desk.before_button, desk.upload))


def test_static_form_is_a_picture_and_nothing_else_where_there_is_no_browser(kit, monkeypatch):
    result = make(kit, using("pose"))
    data = Studio(kit, result=result)._repr_mimebundle_()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= set(data)
    assert "0x" not in data["text/plain"] and len(data["image/png"]) < 120_000
    monkeypatch.setattr(studio, "has_browser", lambda: False)
    monkeypatch.setattr(studio.ui.Widget, "__init__", lambda *arguments, **settings: pytest.fail("a widget was made"))
    shown = Studio(kit, using("pose"), result)
    assert set(shown._repr_mimebundle_()) == {"image/png", "text/plain"}
    assert shown.start() is not None and len(shown.history) == 2, "it still runs, from Python"


def test_script_fetches_nothing():
    source = (ROOT / "rg_minimal" / "classroom" / "studio.js").read_text(encoding="utf-8")
    assert not re.search(r"https?:|[\"'`(]//\w|^\s*import\b|\bimport\(|\bfetch\(|XMLHttpRequest|@import|\beval\(", source, re.M)


# ---------------------------------------------------------------------------------------------- the notebook

def test_parameters_of_the_notebook_are_the_state():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    tagged = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    values = {}
    exec(tagged.source, values)
    assert check_state({name: values[name] for name in START}) == check_state(START)
    first = next(cell for cell in cells[cells.index(tagged) + 1:] if cell.cell_type == "code")
    assert "check_state" in first.source and ast.parse(first.source)


def papermill(folder, *arguments):
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(folder / "out.ipynb"), "--cwd", str(folder), "-k", "python3",
               "--no-progress-bar", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_exported_file_makes_the_picture_again_bit_for_bit_through_papermill(tmp_path):
    code = """if True:
        from PIL import Image
        from rg_minimal.classroom.studio import Studio, check_state, load_kit
        from rg_minimal.classroom.widgets import as_array
        shown = Studio(load_kit(), check_state({"steps": 4, "seed": 11, "pose": {"interval": [0.0, 1.0], "weight": 1.5}}))
        result = shown.start()
        shown.export("studio.yaml")
        Image.fromarray(as_array(result.after)).save("first.png")
        print(result.fingerprint)
    """         # in a process of its own, as in a kernel: another test may have changed the number of threads, and so the last bits
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    run = papermill(tmp_path, "-f", "studio.yaml", "-r", "picture", "again.png")
    assert run.returncode == 0, run.stderr[-3000:]
    with Image.open(tmp_path / "first.png") as first, Image.open(tmp_path / "again.png") as again:
        assert again.tobytes() == first.tobytes()
    out = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    kinds = {kind for cell in out.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert "widgets" not in out.metadata and "image/png" in kinds
    assert "application/vnd.jupyter.widget-view+json" not in kinds
    assert made.stdout.strip() in (tmp_path / "out.ipynb").read_text()


def test_wrong_parameters_stop_in_the_first_cell(tmp_path):
    run = papermill(tmp_path, "-y", "depth: {weight: -1}")
    assert run.returncode != 0 and "depth.weight is -1: it has to be" in run.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    ran = [cell for cell in cells if cell.cell_type == "code" and cell.execution_count]
    assert len(ran) <= 4, "parameters, injected parameters, the cell that stopped (and papermill's own note)"


# ---- what is remembered ------------------------------------------------------------------------------------------------

def test_a_picture_that_is_in_use_is_not_forgotten_for_a_new_one(kit):
    """Eight are remembered: the reference, which every run asks for, is not the one asked for longest ago."""
    state = using("appearance", steps=2)
    kit = replace(kit, known={}, grounds={})
    for seed in range(10):
        make(kit, {**state, "seed": seed})
        list(Draft(kit, {**state, "seed": seed}).steps())
    assert len(kit.known) == 8 and plain_key(plain_runs(state)["reference"]) in kit.known


def test_arrows_that_come_back_lie_on_their_picture(kit):
    state = using("drag", steps=4)
    state["drag"] |= {"arrows": [[[80, 44], [100, 60]]], "grab": True}
    shown = Studio(kit, state, make(kit, state))
    editor = shown.desk.editors["drag"]
    before, held = editor.picture.clone(), copy.deepcopy(editor.held)
    shown.desk.controls["seed",].value = 1
    assert not editor.value and editor.picture.std() < 1e-3, "blank, until it is made"
    shown.desk.controls["seed",].value = 0
    assert editor.value and torch.equal(editor.picture, before) and editor.held == held and held["words"]


def test_an_upload_and_a_file_that_cannot_be_say_so(kit, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="^the upload is 7 bytes, which is no picture that can be read: upload a PNG or JPEG file$"):
        embed(b"garbage")
    with pytest.raises(ValueError, match="path is ''"):
        read_yaml("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Studio(kit, START).export("~/mine.yaml") == tmp_path / "mine.yaml" and read_yaml("~/mine.yaml") == START
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
