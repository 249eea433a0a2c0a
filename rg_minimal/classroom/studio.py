"""The studio: a prompt, five kinds of guidance, a button; pictures as they form, a history, and export for papermill.

    kit = load_kit()
    Studio(kit, result=make(kit, START))        # the last line of a cell shows it

The studio knows one plain dict, its state; what makes pictures of that is in recipe.py, and needs no browser. Here are

    Studio      the state, the runs and what they made
    Desk        the controls: each writes one entry of the state
    Stage       the pictures, the progress and the history; the browser's side is studio.js
"""
from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import html
import math
import re
import shlex
import time
import uuid
import weakref
from pathlib import Path

import anywidget
import ipywidgets as ui
import torch
import traitlets
from torch import Tensor

from . import plots
from ..checks import Index, SomeName, Truth, declared
from ..conditioning import ignored
from ..puppets.world import SIZE
from .drafts import AIMS, SAME, Draft, Trail, gap, same
from .recipe import (OBJECTIVES, PLAIN, SEEDS, START, Kit, Moment, Result, check_interval, check_state, embed, finished, ground, held, in_use, known_before,
                     load_kit, make, moments, plain_key, read_reference, read_yaml, without_guidance, write_yaml)
from .verdict import verdict
from .widgets import PictureArrows, PictureSkeleton, PictureStrokes, as_array, close_all, has_browser, png_bytes

__all__ = ["Studio", "START", "check_state", "load_kit", "make", "moments", "read_yaml", "write_yaml"]


class Studio:
    """The controls of a state, run and stop, progress, before and after, a history, export: for the last line of a cell.

    `state` is what the controls show; Python may read and set it. `result` is the pictures that are shown, `history` all of
    them. Without a browser, and in a saved notebook, the studio is the figure of its result.

    While it is `live`, drafts are drawn of what is dragged, a joint or an arrow, see drafts.py, and once it is released the picture
    is run.

    A run goes step by step in the kernel's own event loop: between two steps the kernel answers to clicks and runs cells.

    `close()` takes the controls away, from the browser and out of the kernel; so does the end of a `with`, and the next studio
    that the same cell shows. A studio that nobody has, and nobody sees, goes by itself.

    Args:
        kit: see `load_kit`.
        state: the state to begin with, by default `START`.
        result: pictures to begin with, from `make`.
        keep: go on with state and history of the last studio that was to be kept, if it began with the same state (which names the
            folders of model and heads) and the same picture: then its cell may be run again, and nothing is lost.
    """

    @declared
    def __init__(self, kit: Kit, state: dict | None = None, result: Result | None = None, keep: Truth = False):
        self.kit, self.history, self.result = kit, [], None
        self.running = self._stopping = self._following = False
        self._live, self._wish, self._let_go, self._fulfilled, self._trail = True, None, False, None, Trail()
        self._released = False                  # the latest wish is a release's
        self._order = None                      # of the run that is due; what was ordered before is called off
        self._making = None                     # state, and whether guided, of the run that goes on
        self._unwanted = False                  # of what runs nothing is to be kept, shown or told: other pictures were asked for
        self._starved = False                   # a draft was dropped, and none was seen since: the next one is not
        self.message, self.problem, self._static = "", False, None
        self._begun = check_state(START if state is None else state)
        self._begun_picture = None if result is None else result.fingerprint
        self._state = copy.deepcopy(self._begun)
        self._arrows = {}                       # arrows, and whether they grab, drawn on pictures without guidance, by `plain_key`
        self._idle = set()                      # objectives that were not in use when something was drawn for them
        goes_on = keep and self._live_on()
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.desk, self._ends = NoDesk(), lambda: None
        if has_browser():
            self.desk = Desk(self)
            self._ends = weakref.finalize(self, close_all, self.desk.view)
        if goes_on:
            self.desk.show_result()
            self._tell("Here is what you made before this cell was run again.")
        elif result is not None:
            self._keep(result)

    def _live_on(self) -> bool:
        """Take over what the last studio that was to be kept holds, and say whether there is anything."""
        last, _last_kept["studio"] = _last_kept.get("studio"), self
        if last is None or (last._begun, last._begun_picture) != (self._begun, self._begun_picture):
            return False
        self._state, self._arrows, self._idle = copy.deepcopy((last._state, last._arrows, last._idle))
        self.history, self.result, self._live = last.history, last.result, last.live
        return bool(self.history) or self._state != self._begun

    def close(self) -> None:
        """Stop, and take the controls away, of which a kernel would else keep some two hundred; state and pictures stay."""
        self.stop()
        self.desk = NoDesk()
        self._ends()

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def state(self) -> dict:
        """A copy of what the controls show; set it as a whole. Where that makes the picture without guidance another one, arrows
        that stay the same are put away, as by hand."""
        return copy.deepcopy(self._state)

    @state.setter
    def state(self, state: dict):
        state, drawn = self._checked(state), self._state["drag"]["arrows"]
        self._put_away()
        if plain_key(state) != plain_key(self._state):
            if state["drag"]["arrows"] == drawn:
                self._bring(state)
        elif not state["drag"]["arrows"]:
            self._arrows.pop(plain_key(state), None)
        self._take(state)
        self._tell_of_change(True, drawn)

    def _checked(self, state) -> dict:
        """A complete copy of a state of which this studio can make the picture."""
        state = check_state(state)
        for name in ("model", "heads"):
            if Path(state[name]) != Path(self._state[name]):
                raise ValueError(f"{name} is {state[name]!r}, but the pictures here are made with {self._state[name]!r}: show another "
                                 "studio for it, Studio(load_kit(model, heads), state)")
        return state

    def _put_away(self):
        """Remember what is drawn on the picture without guidance, before that becomes another one."""
        if self._state["drag"]["arrows"]:
            self._arrows[plain_key(self._state)] = {name: self._state["drag"][name] for name in ("arrows", "grab")}

    def _bring(self, state):
        """Put into a state the arrows that were put away with its picture, as they grab; else none, and the next ones grab as at first."""
        drag = state["drag"]
        none = {"arrows": [], "grab": self._begun["drag"]["grab"] if drag["arrows"] else drag["grab"]}
        drag |= copy.deepcopy(self._arrows.get(plain_key(state), none))

    def _take(self, state):
        """Show another state as a whole, and no draft of the one before."""
        self._state, self._idle = state, set()
        self.desk.show_state()
        self._drop_drafts()

    def _exchange(self, state):
        """Another state with arrows of its own, which was asked for by a click: what is due or running is called off."""
        self._order, self._stopping, self._unwanted = None, self.running, self.running
        self._put_away()
        self._take(state)

    def _tell_of_change(self, prompt: bool, drawn: list, idle: str = ""):
        """What was said spoke of settings that are no more. Of the new ones: what is ignored of the prompt, arrows that were drawn
        before, an objective that is not in use, and an interval that cannot be."""
        said = ["Running." if self.running and not self._stopping else unheard(self.kit, self._state) if prompt else ""]
        if drawn and not self._state["drag"]["arrows"]:
            said.append("The arrows are put away: with these settings the picture without guidance is another one. Press Picture to "
                        "draw on; with the settings of before they are here again.")
        said, amiss = [*said, idle], ""
        try:
            for name in OBJECTIVES:
                check_interval(name, self._state[name], self._state["steps"])
        except ValueError as error:
            amiss = self._told(error)
        self._tell(" ".join(filter(None, [*said, amiss])), problem=bool(amiss))

    def _told(self, error: Exception) -> str:
        """What an error says, of the controls where there are any."""
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return self.desk.in_labels(text) or text

    @property
    def live(self) -> bool:
        """Whether the picture follows what is dragged."""
        return self._live

    @live.setter
    def live(self, live: bool):
        self._live = bool(live)
        if not live and self._order is None:                # a draft of what no run is due for
            self._drop_drafts()
        self.desk.show_live()

    # -- while something is dragged

    def follow(self, state: dict, wish: int = 0) -> None:
        """Draw drafts of this state, the latest wish, until it is fulfilled; `wish` is its number. Needs a running loop.

        A run that is going on gives way after its present step, and so does an older wish's draft (see `Draft.take`), but never
        two in a row: a hand that does not rest sees pictures, too.
        """
        if self.live and self._loop is not None and self._loop.is_running() and in_use(state):
            self._order = None
            self._draw(state, wish)

    def _draw(self, state: dict, wish: int, released: bool = False) -> None:
        """Drafts of this wish, in place of an older one; of what is released a first look is enough."""
        self._wish, self._let_go, self._released = (state, wish), False, released
        if not self._following:
            self._following = True
            asyncio.run_coroutine_threadsafe(self._follow(), self._loop)

    async def _follow(self):
        try:
            while self._wish is not None:
                if self.running:                                # it gives way
                    self._stopping = True
                    await asyncio.sleep(0.005)
                    continue
                (state, number), self._wish = self._wish, None
                if self.result is not None and same(state, self.result.state):      # a gesture was called off, or led back
                    self._fulfilled = None
                    self.desk.show_again(number)
                    continue
                if self._fulfilled is not None and nearly_same(state, self._fulfilled):
                    self.desk.show_answer(number, True)
                    continue
                await self._draft(state, number)
        except Exception as error:
            self._tell(self._told(error), problem=True)
        finally:
            self._following = False

    async def _draft(self, state, number):
        self._fulfilled = None
        try:
            draft, seen = Draft(self.kit, state, self._trail), False
        except ValueError:                                                      # an arrow that has no length yet
            return
        with contextlib.closing(draft.steps()) as steps:
            for moment in steps:
                if draft.worth_a_look(moment):
                    self.desk.show_draft(moment, number)
                    seen, self._starved = True, False
                await asyncio.sleep(0.001)                                      # here the kernel hears of wishes
                if self._let_go or self._released and seen and self._wish is None:
                    return
                if self._wish is None:
                    continue
                fate = draft.take(self._wish[0])
                if fate == "taken":
                    number, self._wish = self._wish[1], None
                elif seen and not moment.last:                                  # what is left would only refine it
                    return
                elif fate == "dropped" and not self._starved:
                    self._starved = True
                    return
        self._fulfilled = draft.state

    def let_go(self, wish: int = 0) -> None:
        """What was dragged is released, with the movement of number `wish`: after a first look at it, if that was not shown yet, the
        picture of the present state is run, as by the button Run."""
        if self.live and self._loop is not None and self._loop.is_running():
            order = self._ordered()
            if in_use(self._state):
                self._draw(self.state, wish, released=True)
            asyncio.run_coroutine_threadsafe(self._refine(order), self._loop)
        else:
            self._wish, self._let_go = None, True

    async def _refine(self, order):
        while self._order is order and (self._following or self.running):
            self._stopping = self._stopping or self.running
            await asyncio.sleep(0.005)
        if await self._run(order) is not None:
            self.desk.show_refined()

    def _drop_drafts(self):
        """No draft goes on, and none stays on the stage."""
        drafted = self._following or self._fulfilled is not None
        self._wish, self._let_go, self._fulfilled = None, True, None
        if drafted:
            self.desk.show_result()
            self.desk.show_running()

    # -- runs

    @declared
    def start(self, guided: Truth = True):
        """Make the pictures of the present state, or only the one without guidance, in place of drafts and of a run of other
        settings; returns at once if a loop runs."""
        job = self._run(self._ordered(), guided)
        if self._loop is None or not self._loop.is_running():
            return asyncio.run(job)
        return asyncio.run_coroutine_threadsafe(job, self._loop)        # a click may come in on another thread

    def stop(self):
        """End the run after the present step, or call off the one that is due; the pictures before it stay."""
        due, self._order, self._stopping = self._order is not None, None, True
        self._drop_drafts()
        if due and not self.running:
            self._tell("Stopped before the first step.")

    async def run(self, guided: bool = True) -> Result | None:
        """Make the pictures of the present state; None if that was stopped, or the state was wrong."""
        return await self._run(self._ordered(), guided)

    def _ordered(self):
        """A run is due. What was dragged or ordered before is not any more."""
        self._wish, self._let_go, self._order = None, True, object()
        return self._order

    async def _run(self, order, guided: bool = True) -> Result | None:
        if self.running and self._making != (self._state, guided):      # a click that came before the browser heard of that run
            self._stopping = True
        while self._order is order and (self._following or self.running and self._stopping):
            await asyncio.sleep(0.005)
        if self._order is not order:            # since then something was taken hold of, ordered or called off
            return None
        self._order = None
        if self.running:
            return None
        self.running, self._stopping, self._unwanted, self._fulfilled = True, False, False, None
        self._making = self.state, guided
        self._tell("Running.")
        try:
            return await self._run_now(*self._making)
        except Exception as error:          # nobody else would hear of it
            self._tell(self._told(error), problem=True)
            return None
        except BaseException:
            self._tell("Interrupted.")
            raise
        finally:
            self.running = False
            self.desk.show_running()

    async def _run_now(self, state, guided) -> Result | None:
        unknown = unheard(self.kit, state)
        result = await self._make(state if guided else without_guidance(state))
        if result is not None and guided:
            self._keep(result)
            idle = [not_used(name) for name in OBJECTIVES if name in self._idle and not state[name]["use"] and state[name][DRAWN[name]]]
            since = "" if self._state == state else "What was changed since it began is not in it: press Run."
            self._tell(" ".join(filter(None, ["Done.", since, verdict(self.kit, result), unknown, *idle,
                                              f"Fingerprint of the picture: {result.fingerprint}."])))
        elif result is not None:
            self.desk.show_ground(result)
            here = plain_key(self._state) == plain_key(state)
            self._tell(" ".join(filter(None, [unknown, "This is the picture without guidance: draw on it, then run." if here else
                                              "This is the picture without guidance of settings that were changed since: press Picture "
                                              "to draw on again."])))
        return result

    async def _make(self, state) -> Result | None:
        made, shown, result = {}, -math.inf, None
        try:
            with contextlib.closing(moments(self.kit, state)) as steps:
                for moment in steps:
                    # a draft stays on the stage until what forms is the clearer picture
                    unclear = self.desk.shows_draft() and (moment.name != "after" or 2 * moment.state.step < state["steps"])
                    due = moment.state.step == 0 or time.monotonic() - shown > (0.6 if self.kit.previews is None else 0.2)
                    if moment.last or due and not unclear:
                        made[moment.name], shown = moment.picture(), time.monotonic()
                        if not unclear:
                            self.desk.show_pictures(made, moment)
                    self.desk.show_progress(moment)
                    await asyncio.sleep(0.005)                                  # here the kernel hears of clicks
                    if self._unwanted:
                        return None
                    if self._stopping and not (moment.last and moment.done == moment.total):
                        self._tell(f"Stopped after step {moment.done} of {moment.total}. Nothing was kept of it.")
                        return None
            result = finished(state, made)
            return result
        finally:
            # stopped, or ended by an error: what was forming goes, and a draft, but for one that is dragged on
            if result is None and (self._wish is None if self.desk.shows_draft() else made):
                self.desk.show_result()

    # -- what is kept

    def _keep(self, result: Result):
        self.history, self.result = [*self.history, result][-24:], result
        self.desk.show_result()
        if self._static is not None:
            _show_static(self)

    @declared
    def go_back(self, index: Index):
        """Show the pictures and the state of `history[index]` again; what is running, or due, is called off."""
        if index >= len(self.history):
            raise ValueError(f"index is {index}: the history holds {len(self.history)} pictures, give one from 0 on")
        self.result = self.history[index]
        self._exchange(check_state(self.result.state))
        self.desk.show_result()
        if self._static is not None:
            _show_static(self)
        self._tell(f"Picture {index + 1} of the history, and its settings. Fingerprint: {self.result.fingerprint}.")

    @declared
    def export(self, path: SomeName = "studio.yaml") -> Path:
        """Write the parameters of the pictures that are shown (before the first run, of the controls)."""
        if self.result is None:
            return write_yaml(self._state, path)
        return write_yaml(self.result.state, path, f"fingerprint of the picture: {self.result.fingerprint}")

    # -- what is shown

    def _tell(self, message: str, problem: bool = False):
        self.message, self.problem = message, problem
        self.desk.show_running()

    def figure(self) -> plots.Figure:
        """The pictures that are shown."""
        if self.result is None:
            raise ValueError("there is no picture yet: pass result=make(kit, state), or run the studio first")
        return self.result.figure()

    def __repr__(self):
        return f"Studio({', '.join(in_use(self._state)) or 'no guidance'}; {len(self.history)} pictures)"

    def _repr_mimebundle_(self, **kwargs):
        data = {}
        if has_browser() and isinstance(self.desk, Desk):
            _keep_shown(self)
            data = dict(self.desk.view._repr_mimebundle_(**kwargs))
            _show_static(self)
        data["text/plain"] = repr(self)
        if self.result is not None and self._static is None:
            data["image/png"] = base64.b64encode(self.figure()._repr_png_()).decode()
        return data


def nearly_same(one: dict, other: dict) -> bool:
    """Whether two states ask for pictures that nobody tells apart: they differ in what is dragged alone, and hardly."""
    moved = {**one, **{name: {**one[name], key: other[name][key]} for name, key in AIMS.items()}}
    return same(moved, other) and gap(one, other) <= SAME


def unheard(kit: Kit, state: dict) -> str:
    """Sentences about what the model ignores of the prompts in use, words that it does not know and the end of one that is too long, or ""."""
    prompts = [state["prompt"]]
    if state["appearance"]["use"] and not state["appearance"]["picture"]:
        prompts.append(state["appearance"]["prompt"])
    found = [ignored(kit.pipe, prompt) for prompt in prompts]
    words, ends = sorted({repr(word) for unknown, _ in found for word in unknown}), [repr(end) for _, end in found if end]
    return " ".join([*([f"The model does not know {', '.join(words)}, and ignores it."] if words else []),
                     *(f"The prompt is too long for the model, which ignores its end: {end}." for end in ends)])


def not_used(name: str) -> str:
    return f"{name} is not in use: tick “use {name}”."


def _show_static(studio: Studio) -> None:
    """Put the pictures that are shown beside the widget, for where no widget can be shown: a saved notebook. They change as
    the result does; where the studio itself is seen, its style sheet hides them."""
    shell = ui.get_ipython()
    if getattr(shell, "kernel", None) is None or studio.result is None:
        return
    png = base64.b64encode(studio.figure()._repr_png_()).decode()
    picture = f'<img class="rg-static" alt="{html.escape(repr(studio))}" src="data:image/png;base64,{png}">'
    data = {"text/plain": "", "text/html": picture}
    again, studio._static = studio._static is not None, studio._static or uuid.uuid4().hex
    shell.display_pub.publish(data, transient={"display_id": studio._static}, update=again)


_last_kept = weakref.WeakValueDictionary()      # "studio": the last one that was to be kept, if it is still there
_SHOWN: dict = {}           # cell -> (its execution, the studios that it shows)


def _keep_shown(studio: Studio) -> None:
    """What is seen lives on, also where no name is left for it, until its cell is run again and shows another one."""
    kernel = getattr(ui.get_ipython(), "kernel", None)
    if kernel is None:
        return
    parent = kernel.get_parent()
    execution = parent.get("header", {}).get("msg_id")
    cell = parent.get("metadata", {}).get("cellId", execution)
    before, studios = _SHOWN.get(cell, (execution, []))
    if before != execution:
        for old in studios:
            if old is not studio:
                old.close()
        studios = []
    _SHOWN[cell] = execution, [*(each for each in studios if each is not studio), studio]


class Stage(anywidget.AnyWidget):
    """The pictures, the progress and the history of a studio. The browser's side is studio.js."""
    _esm = Path(__file__).with_name("studio.js").read_text(encoding="utf-8")        # of a path anywidget keeps every widget
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)         # PNG files
    captions = traitlets.List(traitlets.Unicode()).tag(sync=True)
    history = traitlets.List(traitlets.Bytes()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)                           # which of the history is shown
    done = traitlets.Int(0).tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)                             # 0: nothing runs
    message = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Bool(False).tag(sync=True)
    answers = traitlets.List([0, False]).tag(sync=True)                 # number of the wish that the pictures answer; wholly?


NAMES = {"reference": "reference", "before": "without guidance", "after": "with guidance"}
HINT = {"pose": "The pose that is wanted", "drag": "What is to move where, on the picture without guidance",
        "depth": "What is near (shade 1) and what is far (shade 0)", "edges": "Where edges are wanted",
        "appearance": "Whose looks are wanted: the puppet of this prompt and seed, or that of a picture of yours"}
EDITORS = {"pose": ("joints", PictureSkeleton, {}), "drag": ("arrows", PictureArrows, {}),
           "depth": ("strokes", PictureStrokes, {"width": 12}), "edges": ("strokes", PictureStrokes, {"width": 3})}
DRAWN = {**{name: key for name, (key, *_) in EDITORS.items()}, "appearance": "picture"}        # what is given by hand for an objective
LABEL, WIDE, BUTTON = {"description_width": "9em"}, {"width": "auto"}, {"width": "auto"}
ROW = {"flex_flow": "row wrap", "grid_gap": "8px"}
DARK, LIGHT = {"button_color": "#00527a", "text_color": "#ffffff"}, {}           # LIGHT as the page's theme has it, see studio.js


class NoDesk:
    """Where there is no browser: takes whatever is to be shown, and shows nothing."""

    def __getattr__(self, name):
        return lambda *arguments: None


class Desk:
    """The controls of a studio in the browser, and what they do. `view` is what a cell shows.

    Every control belongs to one entry of the state, named by its path, such as ("pose", "weight"): what is changed in the
    browser is written there, and `show_state` shows what is there.
    """

    def __init__(self, studio: Studio):
        self.studio, self.controls, self.editors = weakref.proxy(studio), {}, {}        # widgets must not keep it
        self._wished = 0                                    # of the last movement that the browser told of
        self._quiet = True                                  # controls are being set from the state, not by hand
        self._ground = None                                 # what the picture that the editors show was made of
        self._plain = plain_key(studio._state)              # which picture without guidance the arrows that are shown lie on
        self.stage = Stage()
        self.stage.on_msg(lambda stage, message, buffers: self.studio.go_back(int(message["go_back"])))
        # what is drawn on and the picture that follows lie side by side, above all numbers: whoever drags sees both
        columns = ui.Box([ui.VBox([*self._objectives(), self._general()], layout={"flex": "1 1 380px", "max_width": "430px"}),
                          ui.VBox([self._buttons(), self.stage, self._files()], layout={"flex": "1 1 380px", "max_width": "560px"})],
                         layout={"flex_flow": "row wrap-reverse", "align_items": "flex-end", "grid_gap": "24px"})
        self.view = ui.VBox([self._prompt("prompt", rows=2, style={"description_width": "4em"}, layout={"max_width": "1014px", **WIDE}), columns])
        self.view.add_class("rg-studio")
        self.show_live()
        self.show_state()

    # -- building

    def _control(self, *path, kind, **settings):
        """A widget whose value is the entry of the state under `path`."""
        widget = self.controls[path] = kind(**settings)
        widget.observe(lambda change: self._changed(path, change.new), "value")
        return widget

    def _number(self, *path, low=0, high=1, step=0.05, text=None, whole=False):
        return self._control(*path, kind=ui.BoundedIntText if whole else ui.BoundedFloatText, min=low, max=high, step=step,
                             description=text or path[-1], style=LABEL, layout=WIDE)

    def _check(self, name, key, text):
        return self._control(name, key, kind=ui.Checkbox, description=text, indent=False)

    def _prompt(self, *path, **settings):
        return self._control(*path, **{"kind": ui.Textarea, "rows": 4, "continuous_update": False, "description": "prompt", "style": LABEL,
                                       "layout": WIDE} | settings)

    def _general(self):
        return ui.VBox([self._number("seed", high=SEEDS, step=1, whole=True),
                        self._number("steps", low=1, high=1000, step=1, whole=True),
                        self._number("guidance_scale", high=100, step=0.5, text="guidance scale"),
                        self._number("step_size", step=0.01, text="step size")])

    def _objectives(self):
        """Buttons that choose an objective, and its panel."""
        self.tabs = ui.ToggleButtons(options=list(OBJECTIVES), style={"button_width": "auto"})
        self.panels = ui.Stack([self._panel(name) for name in OBJECTIVES], selected_index=0)
        self.tabs.observe(lambda change: setattr(self.panels, "selected_index", change.new), "index")
        self.used = ui.HTML()
        return self.tabs, self.used, self.panels

    def _panel(self, name):
        """On or off, weight, interval, and what the objective aims at; a note where there is no head for it."""
        note = self.studio.kit.notes.get(name)
        use = self._check(name, "use", f"use {name}")
        if note:
            return ui.VBox([use, ui.HTML(f"<p>Not available: {html.escape(note)}.</p>")])
        return ui.VBox([use, ui.HTML(HINT[name]), *self._aim(name), self._number(name, "weight", high=100, step=0.1),
                        self._number(name, "interval", 0, text="from (of steps)"),
                        self._number(name, "interval", 1, text="until (of steps)"),
                        ui.HTML("<small style='line-height: 1.4; display: block'>It guides from this fraction of the steps until "
                                "that: 0 is the first step, 1 the last, 0.5 half-way.</small>")])

    def _aim(self, name) -> list:
        if name in EDITORS:
            key, kind, pen = EDITORS[name]
            editor = self.editors[name] = self._control(name, key, kind=kind, label=HINT[name], **pen)
            editor.observe(lambda change: self._moving(name, key, change.new), "_moving")
            self._put_under(name, editor.picture)
            if name != "drag":
                return [editor]
            editor.observe(lambda change: self._grabs(editor.value, change.new), "grabs")
            return [editor, self._check(name, "grab", "take hold of the whole limb, puppet or prop"),
                    self._check(name, "keep", "keep the rest of the picture")]
        self.file = ui.Text(description="picture file", placeholder="none: the prompt is used", continuous_update=False,
                            style=LABEL, layout=WIDE)
        self.file.observe(lambda change: self._changed(("appearance", "picture"), change.new), "value")
        self.upload = ui.FileUpload(accept="image/*", description="Upload a picture", style=LIGHT, layout=BUTTON)
        self.upload.observe(self._uploaded, "value")
        self.reference = ui.HTML()
        return [self._prompt(name, "prompt"), self._number(name, "seed", high=SEEDS, step=1, whole=True), self.file,
                ui.Box([self.upload, self._button("Take the prompt instead", self._forget_picture)], layout=ROW), self.reference]

    def _button(self, text, action, style=None, **settings):
        button = ui.Button(description=text, style=LIGHT if style is None else style, layout=BUTTON, **settings)
        button.on_click(lambda button: action())
        return button

    def _buttons(self):
        self.run_button = self._button("Run", lambda: self.studio.start(), DARK, tooltip="make the picture")
        self.stop_button = self._button("Stop", lambda: self.studio.stop(), disabled=True, tooltip="end the run")
        self.before_button = self._button("Picture to draw on", lambda: self.studio.start(guided=False),
                                          tooltip="make the picture without guidance, to draw on it")
        self.live = ui.Checkbox(value=True, description="live: the picture follows what I drag", indent=False, layout=BUTTON)
        self.live.observe(lambda change: setattr(self.studio, "live", change.new), "value")
        return ui.Box([self.run_button, self.stop_button, self.before_button, self.live], layout=ROW)

    def _files(self):
        self.path = ui.Text(value="studio.yaml", description="file", continuous_update=False, style={"description_width": "3em"},
                            layout=WIDE)
        self.note = ui.HTML()
        self.export_button, self.load_button = self._button("Export as papermill parameters", self._export), self._button("Load", self._load)
        return ui.VBox([ui.Box([self.export_button, self.load_button], layout=ROW), self.path, self.note])

    # -- what is done by hand

    def _changed(self, path, value):
        if self._quiet:
            return
        state, drawn = self.studio._state, self.studio._state["drag"]["arrows"]
        if path[0] in PLAIN:
            self.studio._put_away()
        functools.reduce(lambda entry, key: entry[key], path[:-1], state)[path[-1]] = copy.deepcopy(value)
        if path == ("drag", "arrows"):
            state["drag"]["grab"] = self.editors["drag"].grabs                  # what is drawn of them is drawn as they grab
        if path[0] in PLAIN:
            self.studio._bring(state)
        elif path == ("drag", "arrows") and not value:
            self.studio._arrows.pop(plain_key(state), None)                     # taken away by hand
        name, key = path[0], path[-1]
        idle = name in OBJECTIVES and key != "use" and not state[name]["use"]
        if key == "use":
            self.studio._idle.discard(name)
        elif idle and key == DRAWN[name]:
            self.studio._idle.add(name)
        self.studio._tell_of_change("prompt" in path, drawn if path[0] in PLAIN else [], not_used(name) if idle else "")
        if path[0] in PLAIN or path[-1] in ("use", "picture", "grab"):
            self.show_state()
        if path in (("pose", "joints"), ("drag", "arrows")) and self.studio._state[path[0]]["use"]:
            if path[0] == "pose" or any(math.dist(*arrow) >= 1 for arrow in value):
                self._wished = max([self._wished, *self.editors[path[0]]._edited[2:]])
                self.studio.let_go(self._wished)

    def _grabs(self, arrows, grabs):
        """Arrows that were taken apart, or brought back, come in one message with whether they grab."""
        if arrows != self.studio._state["drag"]["arrows"]:
            self._changed(("drag", "arrows"), arrows)
        self._changed(("drag", "grab"), grabs)

    def _moving(self, name, key, moving):
        """Something is being dragged, and not released yet. Both may come in one message, where the kernel was busy, and then in
        either order: what was released counts."""
        picture, number, value = moving
        state = self.studio._state
        released = max(self.editors[name]._edited[2:], default=0)
        if picture == self.editors[name]._picture_id and number > released and state[name]["use"]:
            try:
                value = self.editors[name].check(value)
            except ValueError:
                return
            self._wished = number
            self.studio.follow({**state, name: {**state[name], key: value}}, number)

    def _uploaded(self, change):
        for file in change.new:
            try:
                self._changed(("appearance", "picture"), embed(bytes(file["content"])))
            except ValueError as error:
                self.studio._tell(str(error), problem=True)
        self.upload.value = ()                              # else the same file, uploaded again, were no change

    def _forget_picture(self):
        self._changed(("appearance", "picture"), "")

    def _export(self):
        self.note.value = ""
        try:
            path = self.studio.export(self.path.value)
        except (ValueError, OSError) as error:
            return self.studio._tell(self.studio._told(error), problem=True)
        content = base64.b64encode(path.read_bytes()).decode()
        command = f"papermill 12_studio.ipynb out.ipynb -f {shlex.quote(path.as_posix())}"
        self.note.value = (f'<p>Written. In this folder, <code>{html.escape(command)}</code> makes the picture again. '
                           f'<a download="{html.escape(path.name)}" href="data:application/yaml;base64,{content}">Download '
                           f'{html.escape(path.name)}</a></p>')
        result = self.studio.result
        if result is None:
            return self.studio._tell("Exported the settings that the controls show.")
        number = next(i for i, each in enumerate(self.studio.history, 1) if each is result)
        self.studio._tell(f"Exported the settings of picture {number} of the history"
                          + ("; what was changed since then is not among them." if self.studio._state != result.state else "."))

    def _load(self):
        try:
            self.studio._exchange(self.studio._checked(read_yaml(self.path.value)))
        except ValueError as error:
            return self.studio._tell(str(error), problem=True)
        self.studio._tell(f"Loaded {self.path.value}: press Run.")

    # -- what is shown

    def show_state(self):
        """Every control as the state says; the editors on the picture without guidance, if that is known."""
        state = self.studio._state
        other, self._plain = self._plain != plain_key(state), plain_key(state)
        self._quiet = True
        drag = self.editors.get("drag")
        try:
            with drag.hold_sync() if drag else contextlib.nullcontext():        # what is undone there is undone as one
                for path, widget in self.controls.items():
                    widget.value = copy.deepcopy(functools.reduce(lambda entry, key: entry[key], path, state))
                if drag:
                    drag.grabs = state["drag"]["grab"]
                    if other:                               # a picture of its own: no Undo brings arrows of the one before
                        self._put_under("drag", drag.picture)
            self._mark()
        finally:
            self._quiet = False
        if self._ground != plain_key(state):
            before = known_before(self.studio.kit, state)       # of settings that are here again
            if before is not None or self._ground is not None:
                self.show_ground(None if before is None else Result(copy.deepcopy(state), before, before))

    def show_live(self):
        self.live.value = self.studio.live
        for name in ("pose", "drag"):
            if name in self.editors:
                self.editors[name]._live = self.studio.live

    def _mark(self):
        """Say what is in use and can be used, and whose looks the reference has."""
        state = self.studio._state
        for name in self.studio.kit.notes:
            self.controls[name, "use"].disabled = not state[name]["use"]        # what should not be on can be switched off
        self.used.value = f"In use: <b>{', '.join(in_use(state)) or 'nothing'}</b>"
        if hasattr(self, "file"):
            picture = state["appearance"]["picture"]
            self.file.value = "" if picture.startswith("data:") else picture
            self.reference.value = self.in_labels(_reference_note(picture))

    def show_ground(self, result: Result | None):
        """Put the picture without guidance under what is drawn, if it is that of the present settings; else a blank one."""
        if result is not None and plain_key(result.state) != plain_key(self.studio._state):
            return
        self._ground = None if result is None else plain_key(result.state)
        picture = torch.full((3, SIZE, SIZE), 0.957) if result is None else result.before
        self._quiet = True
        try:
            for name, editor in self.editors.items():
                if torch.equal(editor.picture, as_shown(picture)) and editor.value == self.studio._state[name][DRAWN[name]]:
                    continue                                # else a gesture that goes on there would be lost
                self._put_under(name, picture)
            self._hold()
        finally:
            self._quiet = False

    def _put_under(self, name, picture):
        """Put a picture under what the state has for an editor, whose "Start again" brings back what the studio began with."""
        editor, key, state, begun = self.editors[name], DRAWN[name], self.studio._state, self.studio._begun
        with editor.hold_sync():
            editor.show(picture, state[name][key])
            editor._begun = {"value": begun[name][key]}
            if name == "drag":                              # arrows lie on one picture
                editor.grabs = state[name]["grab"]
                editor._begun = {"value": begun[name][key] if plain_key(state) == plain_key(begun) else [], "grabs": begun[name]["grab"]}

    def in_labels(self, text: str) -> str:
        """A message with the labels of the controls in place of the names of entries, such as drag.use."""
        for name in OBJECTIVES:
            ends = [self.controls[path].description for i in (0, 1) if (path := (name, "interval", i)) in self.controls]
            if ends:
                text = re.sub(rf"\b{name}\.interval is \[(.+?), (.+?)\]", rf"{name}: “{ends[0]}” is \1 and “{ends[1]}” is \2", text)
        named = {path: getattr(widget, "description", "") or widget.label for path, widget in self.controls.items() if len(path) == 2}
        if hasattr(self, "file"):
            named["appearance", "picture"] = self.file.description
        for (name, key), label in named.items():
            text = re.sub(rf"\b{name}\.{key}\b", f"“{label}”" if name in label else f"“{label}” of {name}", text)
        return text

    def _hold(self):
        """Arrows say what they take hold of, where there is a picture that they are drawn on."""
        if "drag" in self.editors:
            able = self._ground is not None and {"drag", "pose"} <= set(self.studio.kit.heads)
            self.editors["drag"].hold = self._held if able else None

    def _held(self, handles, targets):
        state = self.studio._state
        drag = {**state["drag"], "arrows": list(zip(handles, targets)), "grab": True}
        if ground(self.studio.kit, state) is None:
            raise ValueError("the picture that the arrows are drawn on is not known any more: press Picture to draw on")
        return held(self.studio.kit, {**state, "drag": drag})

    def show_running(self):
        running = self.studio.running
        self.run_button.disabled = self.before_button.disabled = running
        self.stop_button.disabled = not running
        with self.stage.hold_sync():
            self.stage.message, self.stage.problem = self.studio.message, self.studio.problem
            if not running:
                self.stage.done = self.stage.total = 0

    def show_draft(self, moment: Moment, number: int):
        """A draft, and which wish it answers."""
        pictures, result = {"after": moment.picture()}, self.studio.result
        if result is not None and plain_key(result.state) == plain_key(self.studio._state):
            pictures["before"] = result.before
        with self.stage.hold_sync():
            self.show_pictures(pictures)
            self.stage.captions = [*self.stage.captions[:-1], "draft"]
            self.stage.message, self.stage.problem = "", False
            self.stage.answers = [number, moment.last]

    def shows_draft(self) -> bool:
        return self.stage.captions[-1:] == ["draft"]

    def show_again(self, number: int):
        """The studio's result in place of drafts, and what was said of it: it answers this wish."""
        self.show_result()
        self.show_running()
        self.show_answer(number, True)

    def show_refined(self):
        """The picture of a run answers all that was dragged before it."""
        self.show_answer(self._wished, True)

    def show_answer(self, number: int, last: bool):
        """What is shown answers this wish, too."""
        self.stage.answers = [number, last]

    def show_progress(self, moment: Moment):
        with self.stage.hold_sync():
            self.stage.done, self.stage.total = moment.done, moment.total

    def show_pictures(self, pictures: dict[str, Tensor], moment: Moment | None = None):
        """Pictures by their names; that of an unfinished moment is called a preview."""
        forming = moment.name if moment is not None and not moment.last else None
        shown = [name for name in NAMES if name in pictures]
        with self.stage.hold_sync():
            self.stage.captions = [f"{NAMES[name]}, forming" if name == forming else NAMES[name] for name in shown]
            self.stage.pictures = [png_bytes(as_array(pictures[name])) for name in shown]

    def show_result(self):
        """The pictures of the studio's result, its place in the history, and the picture to draw on."""
        result, history = self.studio.result, self.studio.history
        pictures = {} if result is None else {"reference": result.reference, "before": result.before, "after": result.after}
        if result is not None and not in_use(result.state):
            del pictures["after"]
        self.show_pictures({name: picture for name, picture in pictures.items() if picture is not None})
        with self.stage.hold_sync():
            self.stage.history = [png_bytes(as_array(each.after)) for each in history]
            self.stage.labels = [f"{i + 1}: seed {each.state['seed']}, {', '.join(in_use(each.state)) or 'no guidance'}"
                                 for i, each in enumerate(history)]
            self.stage.chosen = next((i for i, each in enumerate(history) if each is result), -1)
        self.note.value = ""                                # it spoke of the picture of before
        if result is not None:
            self.show_ground(result)


def as_shown(picture: Tensor) -> Tensor:
    """(3, H, W) as a widget holds it: of 256 shades."""
    return torch.from_numpy(as_array(picture)).permute(2, 0, 1).float() / 255


def _reference_note(where: str) -> str:
    """What the panel of appearance says about its picture."""
    if not where:
        return "<p>The reference is made from the prompt.</p>"
    try:
        png = base64.b64encode(png_bytes(as_array(read_reference(where)))).decode()
    except ValueError as error:
        return f"<p>{html.escape(str(error))}</p>"
    return f'<p>The reference:</p><img alt="the reference" width="128" height="128" src="data:image/png;base64,{png}">'
