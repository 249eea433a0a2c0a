"""The widgets in a real browser: a plain page gives widgets.js a model as anywidget would, and mouse, finger and keys use it.

See conftest.py for where these tests are skipped, and for screenshots.
"""
import base64
import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rg_minimal.classroom import widgets
from rg_minimal.puppets import JOINTS, render, sample_scene, skeleton

PAGE = """<!doctype html><meta charset="utf-8"><title>widgets</title><body style="margin: 40px"><div id="here"></div>
<script type="module">
import widget from "./widgets.js";
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
window.start = (state) => {                            // a model like anywidget's: get, set, on, off, save_changes
  const heard = {}, waiting = {};
  const put = (changes) => {
    const changed = Object.keys(changes).filter((k) => JSON.stringify(changes[k]) !== JSON.stringify(state[k]) || k === "_png");
    Object.assign(state, changes);
    changed.forEach((k) => (heard["change:" + k] ?? []).forEach((action) => action()));
    return changed;
  };
  window.sent = [];
  window.fromPython = (changes) => put({ ...changes, ...(changes._png && { _png: bytes(changes._png) }) });
  state._png = bytes(state._png);
  const model = { get: (k) => state[k], set: (k, v) => put({ [k]: v }).forEach((k) => { waiting[k] = v; }),
    on: (name, action) => (heard[name] ??= []).push(action),
    off: (name, action) => { heard[name] = heard[name].filter((other) => other !== action); },
    save_changes: () => { window.sent.push(JSON.parse(JSON.stringify(waiting))); for (const k in waiting) delete waiting[k]; } };
  window.stop = widget.render({ model, el: document.querySelector("#here") });
  window.heard = heard;
};
window.ready = true;
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(Path(widgets.__file__).with_name("widgets.js"), folder)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()


@pytest.fixture(scope="module")
def tabs(chromium, address):
    """One tab without and one with a touch screen; nothing outside the page's own server may be asked for."""
    contexts = [chromium.new_context(viewport={"width": 700, "height": 640}, has_touch=touch) for touch in (False, True)]
    pages = []
    for context in contexts:
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error, page=page: page.problems.append(str(error)))
        page.on("request", lambda request, page=page: request.url.startswith((address[:18], "blob:", "data:"))
                or page.problems.append(request.url))
        page.goto(address)
        pages.append(page)
    yield pages
    for context in contexts:
        context.close()


class Shown:
    """A widget in the tab: its state comes from Python's widget, and its changes go through Python's `set_state`."""

    def __init__(self, page, widget, zoom=1.0):
        self.page, self.widget, self.seen = page, widget, 0
        page.wait_for_function("window.ready")
        page.evaluate("([state, zoom]) => { window.stop?.(); document.querySelector('#here').replaceChildren();"
                      " document.body.style.zoom = zoom; window.start(state) }", [self.state(), zoom])
        self.svg = page.locator("svg")

    def state(self, *names):
        state = {name: getattr(self.widget, name) for name in names or
                 ("_kind", "_look", "_size", "_picture_id", "_edited", "value", "label", "_png", "held", "grabs", "_can_grab", "_begun")
                 if hasattr(self.widget, name)}
        return json.loads(json.dumps(state, default=lambda png: base64.b64encode(png).decode()))

    def at(self, x, y):
        """A point of the picture in the page."""
        box, (width, height) = self.svg.bounding_box(), self.widget._size
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def drag(self, *points):
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=3)
        mouse.up()

    def touch(self, *points):
        client = self.page.context.new_cdp_session(self.page)
        for i, point in enumerate(points):
            x, y = self.at(*point)
            client.send("Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def handle(self, name):
        return self.page.locator(f'.rg-handle[aria-label^="{name},"]')

    def messages(self):
        """What was sent since the last look; each message has gone to Python."""
        new = self.page.evaluate("window.sent")[self.seen:]
        self.seen += len(new)
        for message in new:
            self.widget.set_state(message)
        assert not self.page.problems, self.page.problems
        return new

    def set(self, **changes):
        for name, value in changes.items():
            setattr(self.widget, name, value)
        self.page.evaluate("window.fromPython", self.state("_size", "_picture_id", "value", "grabs", "_begun", "_png"))

    def screenshot(self, name):
        if "RG_SCREENSHOTS" in os.environ:
            self.page.screenshot(path=Path(os.environ["RG_SCREENSHOTS"]) / f"{name}.png")


PICTURE = render(sample_scene(3)).image[0]


def near(value, wanted, within=0.6):
    return torch.allclose(torch.tensor(value).float(), torch.tensor(wanted).float(), atol=within)


def test_points_with_the_mouse_are_sent_once_on_release(tabs):
    shown = Shown(tabs[0], widgets.PicturePoints(PICTURE, [[30, 30]]))
    shown.drag((80, 90))
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[30, 30], [80, 90]])
    shown.drag((30, 30), (40, 35), (50, 44))
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[50, 44], [80, 90]])
    shown.drag((50, 44), (300, -50))
    assert shown.messages() and near(shown.widget.value, [[127.9, 0], [80, 90]]), "it stays inside the picture"
    shown.screenshot("points")
    shown.page.get_by_label("undo").click()
    assert shown.messages() and near(shown.widget.value, [[50, 44], [80, 90]])
    shown.page.get_by_label("redo").click()
    shown.page.get_by_label("remove every point").click()
    assert shown.messages() and shown.widget.value == []


def test_points_with_keys(tabs):
    shown = Shown(tabs[0], widgets.PicturePoints(PICTURE))
    shown.svg.focus()
    shown.press("ArrowRight", "Shift+ArrowDown", "Enter")
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[65, 74]])
    shown.press("Shift+ArrowLeft", "ArrowUp")                          # the focus has gone to the new point
    assert len(shown.messages()) == 2 and near(shown.widget.value, [[55, 73]])
    for _ in range(3):
        shown.page.keyboard.down("ArrowUp")                            # a held key
    assert not shown.messages()
    shown.page.keyboard.up("ArrowUp")
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[55, 70]])
    shown.screenshot("points_focus")
    shown.press("Control+z")
    assert shown.messages() and near(shown.widget.value, [[55, 73]])
    shown.press("Control+Shift+Z")
    assert shown.messages() and near(shown.widget.value, [[55, 70]])
    shown.press("Delete")
    assert shown.messages() and shown.widget.value == []
    assert "removed" in shown.page.get_by_role("status").inner_text()
    shown.press("Control+z")
    assert shown.messages() and near(shown.widget.value, [[55, 70]])
    shown.page.get_by_label("remove every point").focus()
    shown.press("Enter")
    assert shown.messages() and shown.widget.value == []
    shown.press("Control+z")                                           # the button is disabled, and keys are heard all the same
    assert shown.messages() and near(shown.widget.value, [[55, 70]])
    shown.page.get_by_label("undo").focus()
    shown.press("Enter", "Enter", "Enter", "Enter", "Control+y")
    assert shown.messages() and near(shown.widget.value, [[65, 74]])


def test_points_with_a_finger_that_is_a_little_off(tabs):
    shown = Shown(tabs[1], widgets.PicturePoints(PICTURE, [[30, 30]]))
    shown.touch((35, 34), (60, 60), (85, 94))
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[80, 90]])
    shown.touch((20, 20))
    assert shown.messages() and near(shown.widget.value, [[80, 90], [20, 20]])


def test_arrows_from_handle_to_target(tabs):
    shown = Shown(tabs[0], widgets.PictureArrows(PICTURE))
    shown.drag((30, 40), (60, 50), (90, 40))
    assert len(shown.messages()) == 1 and near(shown.widget.value, [[[30, 40], [90, 40]]])
    shown.drag((90, 40), (90, 80))
    shown.drag((30, 40), (20, 20))
    assert len(shown.messages()) == 2 and near(shown.widget.handles, [[20, 20]]) and near(shown.widget.targets, [[90, 80]])
    shown.drag((60, 110), (100, 110))
    shown.screenshot("arrows")
    shown.page.get_by_label("delete the selected arrow").click()
    assert shown.messages() and near(shown.widget.value, [[[20, 20], [90, 80]]])
    shown.svg.focus()
    shown.press(*["Shift+ArrowRight"] * 8, "Enter")
    assert shown.messages() and near(shown.widget.value[1], [[127.9, 64], [111.9, 64]]), "into the picture, where there is no room"
    shown.page.mouse.move(*shown.at(40, 110))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.at(60, 110))
    shown.press("Escape", "Control+z")
    shown.page.mouse.up()
    assert shown.messages() and near(shown.widget.value, [[[20, 20], [90, 80]]]), "called off, and keys are heard all the same"


def test_what_is_held_is_drawn_and_can_be_taken_apart(tabs):
    points = [[[30, 40], [80, 40]], [[36, 52], [86, 52]], [[50, 90], [50, 90]]]
    hold = lambda handles, targets: SimpleNamespace(points=points, words="the left arm, by its hand")
    shown = Shown(tabs[0], widgets.PictureArrows(PICTURE, [[[30, 40], [80, 40]]], hold=hold))
    count = lambda name: shown.page.locator(f"svg .{name}").count()
    assert (count("holds"), count("ghost"), count("stays")) == (2, 2, 2) and shown.page.locator(".held").inner_text() == "the left arm, by its hand"
    shown.screenshot("held")
    shown.page.get_by_label("make an arrow of every point that is held").click()
    assert shown.messages() and near(shown.widget.value, points) and shown.widget.grabs is False
    shown.page.evaluate("fromPython({held: {}})")
    assert count("ghost") == 0 and shown.page.locator(".rg-handle").count() == 6, "each point is an arrow of its own now"
    taken, press = (shown.widget.value, False), lambda name: (shown.page.get_by_label(name).click(), shown.messages())
    made = lambda: (shown.widget.value, shown.widget.grabs)
    first = ([[[30, 40], [80, 40]]], True)
    press("undo")
    assert made() == first, "undone as one"
    shown.widget.take_apart()
    shown.set()
    press("undo")
    assert made() == first, "as one, too, where Python took it apart"
    press("redo")
    assert made() == taken
    press("remove every arrow")
    assert made() == ([], True), "nothing is left that was taken apart"
    press("undo")
    assert made() == taken
    press("bring back what was there at first")
    assert made() == first and shown.page.get_by_label("bring back").is_disabled()
    press("arrows take hold of whole limbs")
    assert made() == (first[0], False) and "Grabs points only" in shown.page.locator(".rg-tools").inner_text()
    press("undo")
    assert made() == first
    plain = Shown(tabs[0], widgets.PictureArrows(PICTURE, [[[30, 40], [80, 40]]]))
    assert not plain.page.get_by_label("make an arrow of every point that is held").is_visible()


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_skeleton_with_mouse_and_keys_at_two_zooms(tabs, zoom):
    joints = [list(joint[:2]) for joint in skeleton(sample_scene(3))]
    shown = Shown(tabs[0], widgets.PictureSkeleton(PICTURE, joints), zoom)
    wrist = JOINTS.index("left_wrist")
    x, y = joints[wrist]
    shown.handle("left wrist").scroll_into_view_if_needed()
    shown.drag((x, y), (x - 6, y - 10), (x - 12, y - 20))
    assert len(shown.messages()) == 1 and near(shown.widget.value[wrist], [x - 12, y - 20])
    assert near(shown.widget.value[:wrist] + shown.widget.value[wrist + 1:], joints[:wrist] + joints[wrist + 1:], 1e-4)
    shown.handle("right ankle").focus()
    shown.press("ArrowLeft", "Delete")
    ankle = JOINTS.index("right_ankle")
    assert shown.messages() and near(shown.widget.value[ankle], [joints[ankle][0] - 1, joints[ankle][1]], 0.1)
    shown.page.get_by_label("bring back what was there at first").click()
    assert shown.messages() and near(shown.widget.value, joints, 1e-4)
    shown.page.get_by_label("undo").click()
    assert shown.messages() and near(shown.widget.value[wrist], [x - 12, y - 20])
    hit = shown.handle("head").locator(".hit").bounding_box()
    assert min(hit["width"], hit["height"]) >= 23.9, "24 CSS pixels to hit"
    shown.screenshot(f"skeleton_{zoom:g}")


def test_skeleton_with_a_finger(tabs):
    shown = Shown(tabs[1], widgets.PictureSkeleton(PICTURE))
    wrist = JOINTS.index("right_wrist")
    x, y = shown.widget.value[wrist]
    shown.touch((x, y), (x - 5, y - 20), (x - 10, y - 40))
    assert len(shown.messages()) == 1 and near(shown.widget.value[wrist], [x - 10, y - 40])
    shown.screenshot("skeleton_touch")


def test_left_and_right_differ_in_colour_and_shape(tabs):
    shown = Shown(tabs[0], widgets.PictureSkeleton(PICTURE))
    for name, shape, colour in (("left wrist", "circle", "#0072B2"), ("right wrist", "rect", "#E69F00")):
        assert shown.handle(name).locator(f'{shape}[fill="{colour}"]').count() == 1


def test_box_with_the_mouse_and_keys(tabs):
    shown = Shown(tabs[0], widgets.PictureBox(PICTURE))
    shown.drag((90, 80), (40, 30))
    assert len(shown.messages()) == 1 and near(shown.widget.value, [40, 30, 90, 80])
    shown.drag((65, 55), (75, 65))
    assert shown.messages() and near(shown.widget.value, [50, 40, 100, 90])
    shown.drag((10, 10))
    assert not shown.messages() and near(shown.widget.value, [50, 40, 100, 90]), "a mere click is no box"
    shown.handle("bottom right of the box").focus()
    shown.press("Shift+ArrowDown")
    assert shown.messages() and near(shown.widget.value, [50, 40, 100, 100])
    shown.screenshot("box")
    assert not shown.page.get_by_label("bring back").is_visible(), "nothing was there at first"
    shown.press("Delete")
    assert shown.messages() and shown.widget.value == []
    shown.svg.focus()
    shown.press("Enter")
    assert shown.messages() and near(shown.widget.value, [64, 64, 80, 80])
    shown.press("Delete")
    shown.press(*["Shift+ArrowRight", "Shift+ArrowDown"] * 7, "Enter")
    assert shown.messages() and near(shown.widget.value, [112, 112, 128, 128])


def test_strokes_with_mouse_finger_and_keys(tabs):
    shown = Shown(tabs[0], widgets.PictureStrokes(PICTURE, width=4))
    shown.drag((20, 20), (60, 40), (100, 20))
    assert len(shown.messages()) == 1
    stroke = shown.widget.value[0]
    assert near([stroke["points"][0], stroke["points"][-1]], [[20, 20], [100, 20]]) and stroke["width"] == 4
    shown.page.get_by_label("shade").fill("0.25")
    shown.page.get_by_label("width").fill("16")
    shown.drag((30, 80), (100, 80))
    assert shown.messages() and shown.widget.value[1]["shade"] == 0.25 and shown.widget.value[1]["width"] == 16
    shown.svg.focus()
    shown.press("Enter", "ArrowRight", "Shift+ArrowDown")
    assert not shown.messages()
    shown.press("Enter")
    assert len(shown.messages()) == 1 and near(shown.widget.value[2]["points"], [[64, 64], [65, 64], [65, 74]])
    shown.screenshot("strokes")
    shown.press("Delete", "Control+z", "Control+z")
    assert shown.messages() and len(shown.widget.value) == 2
    said = shown.page.locator("p.status")
    for key, text in (("Control+z", "undone"), ("Delete", "stroke removed"), ("Escape", "called off")):
        shown.press("Enter", "ArrowRight", key)
        assert not shown.messages() and said.inner_text() == text, "the stroke that the pen was drawing goes, and no other"
    finger = Shown(tabs[1], widgets.PictureStrokes(PICTURE))
    finger.touch((20, 20), (60, 40), (100, 20))
    assert len(finger.messages()) == 1 and near(finger.widget.value[0]["points"][-1], [100, 20])


def test_what_python_sets_the_browser_shows_and_undo_knows(tabs):
    shown = Shown(tabs[0], widgets.PicturePoints(PICTURE, [[30, 30]]))
    shown.set(value=[[70, 20], [90, 100]])
    assert shown.handle("point 1").get_attribute("aria-label") == "point 1, x 70, y 20"
    assert shown.handle("point 2").count() == 1 and not shown.messages()
    shown.svg.focus()
    shown.press("Control+z")
    assert shown.messages() and near(shown.widget.value, [[30, 30]])


def test_nothing_of_an_old_picture_survives(tabs):
    shown = Shown(tabs[0], widgets.PicturePoints(PICTURE, [[30, 30]]))
    shown.page.mouse.move(*shown.at(30, 30))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.at(60, 60))
    shown.set(picture=torch.rand(3, 96, 160))                          # while a point is being dragged
    shown.page.mouse.up()
    assert not shown.messages() and shown.page.locator(".rg-handle").count() == 0
    assert shown.svg.get_attribute("viewBox") == "0 0 160 96"
    shown.press("Control+z")
    assert not shown.messages() and shown.widget.value == []
    shown.drag((150, 90))
    late = shown.page.evaluate("window.sent")[-1]
    shown.widget.picture = PICTURE                                     # before the browser's message arrives
    shown.widget.set_state(late)
    assert shown.widget.value == []


def test_page_is_labelled_and_cleans_up(tabs):
    shown = Shown(tabs[0], widgets.PicturePoints(PICTURE, [[30, 30]], label="what to move"))
    assert shown.svg.get_attribute("aria-label") == "what to move" and shown.svg.get_attribute("aria-description")
    assert shown.handle("point 1").get_attribute("tabindex") == "0"
    assert shown.page.evaluate("getComputedStyle(document.querySelector('svg')).touchAction") == "none"
    shown.svg.focus()
    shown.press("Tab")
    assert shown.page.evaluate("document.activeElement.getAttribute('aria-label')") == "point 1, x 30, y 30", "no stop without a name"
    buttons = shown.page.locator(".rg-tools button")
    for i in range(buttons.count()):
        box = buttons.nth(i).bounding_box()
        assert box["width"] >= 24 and box["height"] >= 24 and buttons.nth(i).get_attribute("aria-label")
    shown.page.evaluate("""() => { window.theirs = []; document.addEventListener("keydown", ({ target, key }) =>
      target.closest("[data-lm-suppress-shortcuts]") || theirs.push(key), true) }""")                # as JupyterLab listens
    shown.page.evaluate("""(state) => { const { stop, heard } = window; window.start(state); window.stop();
      document.querySelector("#here").lastElementChild.remove(); Object.assign(window, { stop, heard }) }""", shown.state())      # another view comes and goes
    for place in (shown.svg, shown.handle("point 1"), buttons.last):
        place.focus()
        shown.press("ArrowLeft", "Control+s", "b", "Meta+s", "d")
    assert shown.page.evaluate("theirs.filter((key) => !/Control|Meta/.test(key)).join('')") == "ssssss", "what saves the notebook, and no other key"
    shown.page.evaluate("window.stop(); window.stop = null")
    assert shown.page.evaluate("Object.values(window.heard).flat().length") == 0
