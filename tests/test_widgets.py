"""The widgets without a browser: what `value` accepts, that nothing stale stays, and what a saved notebook shows."""
import gc
import io
import re
import shutil
import subprocess
import weakref
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import nbformat
import papermill
import pytest
import torch
from PIL import Image

from rg_minimal.classroom import widgets
from rg_minimal.puppets import JOINTS, sample_scene, skeleton
from rg_minimal.classroom.widgets import PictureArrows, PictureBox, PicturePoints, PictureSkeleton, PictureStrokes

SCRIPT = Path(widgets.__file__).with_name("widgets.js")
PICTURE = torch.linspace(0, 1, 3 * 96 * 128).view(3, 96, 128)                                   # 128 wide, 96 high
STROKE = {"points": [[10.0, 50.0], [90.0, 50.0]], "width": 8.0, "shade": 0.5}
VALUES = {PicturePoints: [[10.0, 20.0], [30.5, 40.0]], PictureArrows: [[[10.0, 20.0], [60.0, 20.0]]],
          PictureSkeleton: [[20.0 + i, 30.0] for i in range(14)], PictureBox: [10.0, 20.0, 50.0, 60.0],
          PictureStrokes: [STROKE]}
every_widget = pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)


def pixels(widget):
    return widget._repr_mimebundle_()[0]["image/png"]


def from_browser(widget, value, picture_id=None, serial=1):
    """What ipywidgets does with a change that the browser sends."""
    drawn_on = widget._picture_id if picture_id is None else picture_id
    widget.set_state({"value": value, "_edited": [drawn_on, serial]})


@every_widget
def test_value_is_kept_as_plain_lists_and_heard_of(kind):
    widget, heard = kind(PICTURE), []
    widget.observe(lambda change: heard.append(change.new), "value")
    widget.value = VALUES[kind]
    assert widget.value == heard[0] == VALUES[kind]
    assert kind(PICTURE, VALUES[kind]).value == VALUES[kind], "a run without a browser uses what it was given"
    if kind is not PictureStrokes:
        widget.value = torch.tensor(VALUES[kind])
        assert widget.value == VALUES[kind] and type(widget.value) is list


@every_widget
def test_a_widget_that_is_closed_or_dropped_leaves_nothing(kind):
    def alive():
        gc.collect()
        return len(ipywidgets.widgets.widget._instances)
    before, hidden = alive(), kind(PICTURE, VALUES[kind])
    assert alive() > before
    hidden.close(), hidden.close()
    assert alive() == before and hidden.value == VALUES[kind] and "image/png" in hidden._repr_mimebundle_()[0]
    for name in ("dropped", "shown", "refused"):
        widget = kind(PICTURE, VALUES[kind])
        gone = weakref.ref(widget)
        if name == "shown":
            widget._repr_mimebundle_()
        if name == "refused":
            with pytest.raises(ValueError):
                widget.value = [["nothing"]]
        del widget
        gc.collect()
        assert (gone() is None) == (name != "shown"), "what is seen lives until it is closed"
        if gone():
            gone().comm.handle_msg({"content": {"data": {"method": "update", "state": {"label": "heard"}, "buffer_paths": []}}, "buffers": []})
            assert gone().label == "heard"
            gone().close()
        assert alive() == before
    widget = kind(PICTURE)                                                      # held by a name alone, it still hears
    widget.comm.handle_msg({"content": {"data": {"method": "update", "state": {"label": "heard"}, "buffer_paths": []}}, "buffers": []})
    assert widget.label == "heard"


@every_widget
def test_browser_changes_the_value_once_and_only_on_the_picture_that_is_shown(kind):
    widget, heard = kind(PICTURE), []
    old = widget._picture_id
    from_browser(widget, VALUES[kind])
    assert widget.value == VALUES[kind]
    widget.picture = torch.rand(3, 64, 64)
    assert widget.value == widget.start() and widget._picture_id != old, "a new picture takes the old value away"
    widget.observe(lambda change: heard.append(change.new), "value")
    sent = []
    widget.send_state = sent.append
    from_browser(widget, VALUES[kind], picture_id=old, serial=2)
    widget.set_state({"value": VALUES[kind]})                               # says not at all what it was drawn on
    assert widget.value == widget.start() and not heard
    assert sent == [list(widget.keeps)] * 2, "the browser is told what holds"


@every_widget
def test_nonsense_from_the_browser_changes_nothing(kind):
    widget = kind(PICTURE, VALUES[kind])
    from_browser(widget, [[1e9, 5]])
    assert widget.value == VALUES[kind]


WRONG = [
    (PicturePoints, [[128, 5]], r"point 0 is \(128, 5\), outside the picture of 128 x 96 pixels: give x from 0 to below 128"),
    (PicturePoints, [[5, 5], [float("nan"), 5]], r"point 1 is \[nan, 5\]: give a point \(x, y\), two finite numbers"),
    (PicturePoints, [[5, 5], "ab"], r"point 1 is 'ab': give a point \(x, y\)"),
    (PicturePoints, 7, r"value is 7: give a list of points"),
    (PicturePoints, [5, 6], r"point 0 is 5: give a point"),
    (PictureArrows, [[[5, 5]]], r"arrow 0 is \[\[5, 5\]\]: give a handle and a target"),
    (PictureArrows, [[[5, 5], [5, 500]]], r"target 0 is \(5, 500\), outside the picture"),
    (PictureSkeleton, [[5, 5]], r"value holds 1 joints: give 14, in the order head, neck"),
    (PictureSkeleton, [[5, 5]] * 13 + [[5, -1]], r"right_ankle is \(5, -1\), outside"),
    (PictureBox, [50, 20, 10, 60], r"box is \(50.0, 20.0, 10.0, 60.0\): give left < right from 0 to 128 and top < bottom"),
    (PictureBox, [1, 2, 3], r"box is \[1, 2, 3\]: give four numbers"),
    (PictureStrokes, [{"points": [], "width": 3, "shade": 1}], r"stroke 0 is .*: give a dict with points \(at least one\)"),
    (PictureStrokes, [{"points": [[5, 5]], "width": 3, "shade": 2}], r"stroke 0 has width 3 and shade 2: give a width above 0"),
    (PictureStrokes, [{"points": [[5, 5]]}], r"stroke 0 is .*: give a dict with numbers for width and shade"),
]


@pytest.mark.parametrize("kind, value, message", WRONG)
def test_wrong_values_are_named_with_a_remedy_and_leave_the_old_one(kind, value, message):
    widget = kind(PICTURE, VALUES[kind])
    with pytest.raises(ValueError, match=message):
        widget.value = value
    with pytest.raises(ValueError, match=message):
        with widget.hold_trait_notifications():                             # where traitlets checks late
            widget.value = value
    picture, number = widget.picture, widget._picture_id
    with pytest.raises(ValueError, match=message):
        widget.show(PICTURE / 2, value)
    assert widget.value == VALUES[kind] and widget.picture is picture and widget._picture_id == number
    with pytest.raises(ValueError, match=message):
        kind(PICTURE, value)


@pytest.mark.parametrize("picture, message", [
    (torch.rand(2, 3, 8, 8), r"picture has shape \(2, 3, 8, 8\): give one picture"),
    (torch.full((3, 8, 8), float("nan")), "not finite"), (torch.full((3, 8, 8), 128.0), r"128\]; .*divide by 255"),
    (torch.zeros(1, 8, 8), "grey"), (8, "picture is 8, which is no picture"),
    ("cat.png", "picture is 'cat.png', .*give the path")])
def test_wrong_pictures_are_named(picture, message):
    with pytest.raises(ValueError, match=message):
        PicturePoints(picture)


def test_pictures_of_every_sort_reach_the_browser_as_png():
    for picture in (PICTURE, PICTURE[None], Image.fromarray((PICTURE * 255).round().byte().permute(1, 2, 0).numpy())):
        widget = PicturePoints(picture)
        shown = Image.open(io.BytesIO(widget._png))
        assert shown.size == (128, 96) and widget._size == [128, 96]
        assert shown.getpixel((127, 95)) == tuple((PICTURE[:, -1, -1] * 255).round().int().tolist())
        assert torch.allclose(widget.picture, PICTURE, atol=0.002)
    assert PictureSkeleton(size=64)._size == [64, 64], "an empty ground where there is no picture"


def test_new_picture_and_its_value_arrive_in_one_message():
    widget = PicturePoints(PICTURE, [[100, 90]])
    messages = []
    widget.send_state = lambda key=None: messages.append(set(key) if not isinstance(key, str) else {key})
    widget.show(torch.rand(3, 64, 64), [[5, 6]])
    assert widget.value == [[5, 6]]
    assert messages == [{"_size", "_png", "_picture_id", "value", "_begun"}]


@every_widget
def test_static_form_shows_what_lies_on_the_picture(kind):
    empty, full = kind(PICTURE), kind(PICTURE, VALUES[kind])
    data, _ = full._repr_mimebundle_()
    assert {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"} <= set(data)
    assert "0x" not in data["text/plain"], "an address would be different in each run"
    pictures = [Image.open(io.BytesIO(widget._repr_mimebundle_()[0]["image/png"])).convert("RGB") for widget in (empty, full)]
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert len(data["image/png"]) < 80_000


def test_skeleton_knows_joints_and_sides():
    joints = [joint[:2] for joint in skeleton(sample_scene(3))]
    widget = PictureSkeleton(torch.rand(3, 128, 128), joints)
    assert widget.value == [list(joint) for joint in joints]
    assert tuple(widget._look["joints"]) == JOINTS
    standing = dict(zip(JOINTS, PictureSkeleton().value))
    assert standing["left_wrist"][0] > standing["right_wrist"][0], "it faces the viewer: its left is on our right"


def test_arrows_give_handles_and_targets():
    widget = PictureArrows(PICTURE, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert widget.handles == [[1, 2], [5, 6]] and widget.targets == [[3, 4], [7, 8]]


@every_widget
def test_what_was_drawn_lives_on_when_the_cell_is_run_again(kind):
    make = lambda value=None, picture=PICTURE: kind(picture, value, label="drawn on twice", keep=True)
    first = make()
    assert first.value == make().value == kind(PICTURE).value, "nothing was drawn yet"
    widget = make()
    widget.value = VALUES[kind]
    assert make().value == widget.value, "drawn, and run again"
    assert make().value == widget.value, "and again"
    assert kind(PICTURE, label="drawn on twice").value == kind(PICTURE).value, "only where asked for"
    assert make(picture=torch.rand(3, 8, 8)).value == kind(torch.rand(3, 8, 8)).value, "what lies outside of the picture is left out"
    widget = make(VALUES[kind])
    widget.value = kind(PICTURE).value
    assert make(VALUES[kind]).value == kind(PICTURE).value and make().value == kind(PICTURE).value, "another value begins anew"


def test_where_nothing_is_drawn_a_cell_stops_with_one_sentence(tmp_path):
    cell = nbformat.v4.new_code_cell("from rg_minimal.classroom.widgets import PictureArrows\n"
                                     "PictureArrows(None, [], 'pull here').drawn().handles")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    with pytest.raises(papermill.PapermillExecutionError):
        papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False)
    said = [output for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for output in cell.get("outputs", [])
            if output.output_type == "error"]
    assert said[0].traceback == ["Nothing is drawn on “pull here”: draw on it, and run this cell again."]
    full = PictureArrows(PICTURE, VALUES[PictureArrows])
    assert full.drawn() is full


def an_arm(handles, targets):
    """What a hold says: two points beside each handle that move along, one that stays."""
    if len(handles) > 2:
        raise ValueError("too many hands")
    points = [[[x, y + 2 * k], [u, v + 2 * k]] for (x, y), (u, v) in zip(handles, targets) for k in (0, 1)]
    return SimpleNamespace(points=points + [[[50.0, 50.0], [50.0, 50.0]]], words=f"{len(handles)} arms")


def test_arrows_show_what_they_hold_before_anything_runs():
    widget = PictureArrows(PICTURE, [[[10, 20], [60, 20]]], hold=an_arm)
    assert widget.held == {"points": [[[10, 20], [60, 20]], [[10, 22], [60, 22]], [[50, 50], [50, 50]]], "words": "1 arms"}
    plain = PictureArrows(PICTURE, [[[10, 20], [60, 20]]])
    assert plain.held == {} and pixels(plain) != pixels(widget), "the static form shows it, too"
    widget.value = [[[12, 20], [60, 20]]]
    assert widget.held["points"][1] == [[12, 22], [60, 22]], "a new arrow is held anew"
    widget.value = [[[12, 20], [60, 20]]] * 3
    assert widget.held == {"points": [], "words": "too many hands"}, "a ValueError is said, not raised"
    widget.value = []
    assert widget.held == {}
    with pytest.raises(ValueError, match="hold is 3"):
        PictureArrows(PICTURE, hold=3)


def test_what_is_held_can_be_taken_apart():
    widget = PictureArrows(PICTURE, [[[10, 20], [60, 20]]], hold=an_arm)
    points = widget.held["points"]
    widget.take_apart()
    assert widget.value == points and not widget.grabs and widget.held == {}
    assert widget.pins == [[50, 50]]
    widget.grabs = True
    assert "too many" in widget.held["words"], "asked again, it holds again"
    PictureArrows(PICTURE, hold=an_arm).take_apart()
    widget = PictureArrows(PICTURE, [[[10, 20], [60, 20]]], hold=an_arm)
    sent = []
    widget.send_state = lambda key=None: sent.append(set(key))
    widget.take_apart()
    assert len(sent) == 1 and {"value", "grabs"} < sent[0], "one change, which the browser undoes as one"
    widget.show(1 - PICTURE, [[[10, 20], [60, 20]]])
    assert widget.grabs and widget.held["words"] == "1 arms", "what was taken apart lay on another picture"
    widget.set_state({"grabs": False, "_edited": [widget._picture_id - 1, 9]})
    assert widget.grabs and sent[-1] == {"grabs", "value"}, "a click on the picture before"


@every_widget
def test_a_widget_says_what_it_began_with(kind):
    """The browser has a button that brings it back, whatever lives on from the last widget."""
    for _ in range(2):
        widget = kind(PICTURE, VALUES[kind], "begun", keep=True)
        assert widget._begun["value"] == VALUES[kind] and widget._begun.get("grabs", True)
        widget.value = kind(PICTURE).value
    widget.show(PICTURE)
    assert widget._begun["value"] == kind(PICTURE).value == widget.start()


def test_arrows_live_on_with_what_they_hold_on_the_same_picture():
    make = lambda value=(((1, 2), (30, 4)),), picture=PICTURE: PictureArrows(picture, value, "kept", keep=True, hold=an_arm)
    old = make()
    old.value, old.grabs = [[[5, 6], [7, 8]]], False
    again = make()
    assert again is not old and again.value == old.value and not again.grabs and again.held == {}
    again.grabs = True
    assert make().held == again.held != {}
    assert make(picture=1 - PICTURE).value == [[[1, 2], [30, 4]]], "an arrow says nothing about another picture"
    assert make(value=(((1, 2), (31, 4)),)).value == [[[1, 2], [31, 4]]], "nor where other arrows are asked for"


def test_box_as_a_mask():
    mask = PictureBox(PICTURE, [10, 20, 50, 60]).mask()
    assert mask.shape == (1, 1, 96, 128) and mask.sum() == 40 * 40 and mask[0, 0, 20:60, 10:50].all()
    assert PictureBox(PICTURE).mask().all(), "no box leaves everything in"


def test_strokes_as_a_map_and_a_mask():
    widget = PictureStrokes(PICTURE, [STROKE])
    painted, mask = widget.map(background=0.25), widget.mask()
    assert painted.shape == mask.shape == (1, 1, 96, 128)
    assert painted[0, 0, 50, 50] == 0.5 and mask[0, 0, 50, 50] == 1
    assert painted[0, 0, 5, 5] == 0.25 and mask[0, 0, 5, 5] == 0
    assert mask.sum() == pytest.approx(8 * 80 + 3.14 * 16, rel=0.05), "as wide as it says, with round ends"
    assert not PictureStrokes(PICTURE).mask().any()


def test_script_fetches_nothing_and_parses(tmp_path):
    source = SCRIPT.read_text(encoding="utf-8")
    assert not re.search(r"https?:|[\"'`(]//\w|^\s*import\b|\bimport\(|\bfetch\(|XMLHttpRequest|@import|\beval\(", source, re.M)
    assert PicturePoints()._esm == source
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the syntax of widgets.js was not checked")
    module = tmp_path / "widgets.mjs"
    module.write_text(source, encoding="utf-8")
    check = subprocess.run(["node", "--check", str(module)], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
