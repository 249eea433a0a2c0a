"""Widgets on a picture: points, arrows, a skeleton, a box, strokes; for the mouse, a finger or the keyboard.

Each widget has one synced trait, `value`: plain lists in pixels of the image, (x, y) with y down, the same in Python and in
the browser. What Python sets the browser shows; what is dragged in the browser is in `value` once the pointer is released.

    widget = PictureArrows(picture, value=[[[40, 60], [80, 60]]])
    widget                                      # the last line of a cell shows it
    CorrespondenceObjective(head, source, widget.handles, widget.targets)

Without a browser `value` is what was passed, and nothing waits for a click. A saved notebook shows `figure()`, the picture
with what lies on it; one that papermill or nbconvert ran holds nothing else (see `has_browser`). A new picture takes away
what was drawn on the old one (see `show`).

What is done in the browser can be undone there; where a widget began with something, "Start again" brings it back.

A notebook asks for `keep=True`: then what was drawn lives on when the cell that makes the widget is run again. The cell that
uses it asks for `widget.drawn()`, which stops with one sentence where everything was taken away.

Set `value` as a whole: Python does not notice `widget.value.append(...)`. The browser's side is widgets.js.
"""
from __future__ import annotations

import io
import math
import os
import weakref
from pathlib import Path
from typing import Sequence

import anywidget
import ipywidgets
import torch
import traitlets
from PIL import Image, ImageDraw
from torch import Tensor

from . import plots
from .plots import Figure
from ..pictures import as_pictures
from ..checks import Count, Fraction, Number, Positive, Text, Truth, as_number, declared
from ..puppets.world import JOINTS, LIMBS, SIZE

_last_drawn: dict[tuple[str, str], dict[str, list]] = {}         # (kind, label) -> what the last widget began with, and holds
COLOURS = {"left": plots.LEFT, "right": plots.RIGHT, "middle": plots.MIDDLE}

# The 14 joints of a puppet that stands with its arms a little out, as fractions of the picture's width and height.
STANDING = ((.50, .24), (.50, .34), (.57, .36), (.43, .36), (.63, .48), (.37, .48), (.67, .59), (.33, .59),
            (.54, .58), (.46, .58), (.56, .74), (.44, .74), (.57, .90), (.43, .90))


def has_browser() -> bool:
    """Whether a widget may be seen. papermill, nbconvert and nbval run cells in which nobody can be asked anything, and keep
    the static form only; Voila runs them so too, but shows widgets."""
    kernel = getattr(ipywidgets.get_ipython(), "kernel", None)
    if kernel is None or os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return True
    return kernel.get_parent().get("content", {}).get("allow_stdin", True)


def close_all(widget: ipywidgets.Widget) -> None:
    """Close a widget with all that it is made of: children, layouts, styles."""
    parts = [getattr(widget, name) for name in widget.trait_names() if widget.trait_has_value(name)]
    widget.close()
    for part in parts:
        for each in part if isinstance(part, (list, tuple)) else [part]:
            if isinstance(each, ipywidgets.Widget):
                close_all(each)


class NothingDrawn(ValueError):
    """Stops a cell; a notebook shows its one sentence, and no traceback."""

    def _render_traceback_(self):
        return [str(self)]


class Checked(traitlets.TraitType):
    """A trait that the widget's own `check` makes plain, or refuses with a ValueError, before anybody sees it."""

    def validate(self, widget, value):
        return widget.check(value)


class OnPicture(anywidget.AnyWidget):
    """What the widgets share: the picture, one value on it, and a static form. Subclasses say what a value is.

    Args:
        picture: (3, H, W) or (1, 3, H, W) in [0, 1], a PIL image, a numpy array or the path of a file (see `pictures.as_pictures`),
            or None for an empty ground of `size` pixels.
        value: see the subclass; None for its `start`.
        label: the widget's name for screen readers, and the title of its static form.
        size: side of the empty ground, in pixels.
        keep: go on with what was drawn on the last widget of this kind and label, if it began with the same value: then
            a cell may be run again without losing a drawing. Another `value` begins anew.
    """
    _esm = Path(__file__).with_name("widgets.js").read_text(encoding="utf-8")       # of a path anywidget keeps every widget
    _kind = traitlets.Unicode().tag(sync=True)
    _look = traitlets.Dict().tag(sync=True)                 # names, limbs, colours and tools, for the browser
    _png = traitlets.Bytes().tag(sync=True)
    _size = traitlets.List([SIZE, SIZE]).tag(sync=True)     # width and height in pixels
    _picture_id = traitlets.Int(0).tag(sync=True)           # a new one for each picture
    _edited = traitlets.List([0, 0, 0]).tag(sync=True)      # of the browser's last change: picture id, serial number, last movement
    _live = traitlets.Bool(False).tag(sync=True)            # whether the browser tells of a gesture that goes on, in ...
    _moving = traitlets.List([0, 0, []]).tag(sync=True)     # ... picture id, number of the movement, what the value would be
    _begun = traitlets.Dict().tag(sync=True)                # what the button "Start again" brings back, by the names of `keeps`
    label = traitlets.Unicode().tag(sync=True)
    value = Checked().tag(sync=True)

    @declared
    def __init__(self, picture: Tensor | Image.Image | None = None, value=None, label: Text = "", size: Count = SIZE,
                 keep: Truth = False):
        super().__init__(_look={"colours": COLOURS, **self.look()}, label=label or f"{self._kind} on the picture")
        if picture is None:
            picture = torch.full((3, size, size), 0.957)
        self.show(picture, value)
        if keep:
            self._live_on()

    def _live_on(self):
        begun, last = self.begun(), _last_drawn.get((self._kind, self.label), {})
        if last.get("begun") == begun:
            try:
                for name in self.keeps:
                    setattr(self, name, last[name])
            except ValueError:                              # it does not lie on this picture
                pass
        record = _last_drawn[self._kind, self.label] = {"begun": begun, **{name: getattr(self, name) for name in self.keeps}}
        self.observe(lambda change: record.update({change["name"]: change["new"]}), list(self.keeps))

    @traitlets.default("value")
    def _value_at_first(self):
        return self.start()

    def open(self):
        """Tell the browser about the widget, if there is one. Until it is shown it lives only as long as somebody has it."""
        if has_browser() and self.comm is None:
            super().open()
            heard = weakref.WeakMethod(self._handle_msg)
            self.comm.on_msg(lambda message: (hear := heard()) and hear(message))
            ipywidgets.widgets.widget._instances[self.model_id] = weakref.proxy(self)

    def close(self):
        """Take the widget away from the browser and out of the kernel; `value` and `picture` stay."""
        super().close()
        vars(self).pop("_repr_mimebundle_", None)           # ipywidgets puts None there, and the static form stays
        if self.trait_has_value("layout"):
            self.layout.close()

    def drawn(self) -> OnPicture:
        """The widget itself, where something is drawn on it; else NothingDrawn."""
        if not self.value:
            raise NothingDrawn(f"Nothing is drawn on “{self.label}”: draw on it, and run this cell again.")
        return self

    # -- what subclasses say

    keeps = ("value",)
    """The traits that live on with `keep`, and that "Start again" brings back."""

    def begun(self) -> list:
        """What a widget begins with; `keep` goes on only where that is the same."""
        return [self.value]

    def start(self) -> list:
        """The value on a new picture."""
        return []

    def look(self) -> dict:
        """What else the browser needs to know."""
        return {}

    def check(self, value) -> list:
        """The value as plain lists; ValueError, naming the value and the remedy, where it does not suit the picture."""
        raise NotImplementedError

    def draw(self, axes) -> None:
        """Draw the value on the axes of the static form."""
        raise NotImplementedError

    # -- the picture

    @property
    def picture(self) -> Tensor:
        """The picture (3, H, W) in [0, 1]; setting it is `show(picture)`."""
        return self._picture

    @picture.setter
    def picture(self, picture):
        self.show(picture)

    def show(self, picture: Tensor | Image.Image, value=None) -> None:
        """Show another picture with `value` on it, by default `start()`: nothing that was drawn on the old one is kept.

        Both reach the browser together; what it sends later for the old picture is dropped.
        """
        array = as_array(picture)                                                              # (H, W, 3) bytes
        old_size = self._size
        with self.hold_sync():
            self._size = [array.shape[1], array.shape[0]]
            try:
                made = self.check(self.start() if value is None else value)
            except ValueError:
                self._size = old_size                                           # the old picture stays, with its value
                raise
            self._picture = torch.from_numpy(array).permute(2, 0, 1).float() / 255             # (3, H, W)
            self._png, self._picture_id = png_bytes(array), self._picture_id + 1
            self._begin(made)

    def _begin(self, value):
        """A new picture begins with this value."""
        self.value = value
        self._begun = {name: getattr(self, name) for name in self.keeps}

    def set_state(self, sync_data):
        """A change that comes from the browser: dropped, and put right there, where it is for an old picture."""
        drawn_on = sync_data.get("_edited", [None])[0]
        if set(self.keeps) & set(sync_data):
            try:
                stale = drawn_on != self._picture_id or self.check(sync_data.get("value", self.value)) is None
            except ValueError:
                stale = True
            if stale:
                return self.send_state(list(self.keeps))
        super().set_state(sync_data)

    # -- the static form

    @declared
    def figure(self, inches: Positive = 2.6) -> Figure:
        """The picture with what lies on it, as a matplotlib figure."""
        width, height = self._size
        figure = Figure(figsize=(inches, inches * height / width + 0.25), layout="constrained")
        axes = figure.subplots()
        plots.show_picture(axes, self._picture, self.label)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        self.draw(axes)
        return figure

    def _repr_mimebundle_(self, **kwargs):
        """The widget, and beside it a PNG for where no widget can be shown: saved notebooks, print, no browser."""
        data, metadata = {}, {}
        if has_browser() and self.comm is not None:
            ipywidgets.widgets.widget._instances[self.model_id] = self              # what is seen lives until it is closed
            data, metadata = super()._repr_mimebundle_(**kwargs)
        file = io.BytesIO()
        self.figure().savefig(file, format="png", dpi=110, metadata={"Software": None})
        return {**data, "text/plain": repr(self), "image/png": file.getvalue()}, metadata

    def __repr__(self):
        return f"{type(self).__name__}({self._size[0]} x {self._size[1]} pixels, value={self.value})"


# -------------------------------------------------------------- values: checked, painted and drawn, with or without a widget
# `size` is (width, height) of the picture in pixels

def check_point(value, name: str, size) -> list[float]:
    """One point inside the picture as [x, y]."""
    at = () if isinstance(value, (str, bytes, dict, set)) or not hasattr(value, "__iter__") else tuple(value)
    try:
        x, y = map(as_number, at)
    except ValueError:
        raise ValueError(f"{name} is {value!r}: give a point (x, y), two finite numbers in pixels of the image") from None
    width, height = size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"{name} is ({x:g}, {y:g}), outside the picture of {width} x {height} pixels: "
                         f"give x from 0 to below {width} and y from 0 to below {height}")
    return [x, y]


def check_each(value, what: str) -> list:
    """A list or tensor as a list, to be checked item by item."""
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise ValueError(f"value is {value!r}: give a list of {what}")
    return value.tolist() if hasattr(value, "tolist") else list(value)


def check_arrows(value, size) -> list:
    """Arrows as [[[x, y], [target x, target y]], ...]."""
    made = []
    for i, pair in enumerate(check_each(value, "arrows ((x, y), (target x, target y)), [] for none")):
        pair = check_each(pair, "arrows ((x, y), (target x, target y)), [] for none")
        if len(pair) != 2:
            raise ValueError(f"arrow {i} is {pair!r}: give a handle and a target, ((x, y), (target x, target y))")
        made.append([check_point(pair[0], f"handle {i}", size), check_point(pair[1], f"target {i}", size)])
    return made


def check_joints(value, size) -> list:
    """The 14 joints as [[x, y], ...]."""
    joints = check_each(value, f"{len(JOINTS)} joints (x, y)")
    if len(joints) != len(JOINTS):
        raise ValueError(f"value holds {len(joints)} joints: give {len(JOINTS)}, in the order {', '.join(JOINTS)}")
    return [check_point(at, name, size) for name, at in zip(JOINTS, joints)]


def check_pen(pen, name: str) -> dict:
    """A dict that has width and shade as {"width": above 0, "shade": 0 to 1}."""
    try:
        width, shade = as_number(pen["width"]), as_number(pen["shade"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name} is {pen!r}: give a dict with numbers for width and shade") from None
    if not (width > 0 and 0 <= shade <= 1):
        raise ValueError(f"{name} has width {width:g} and shade {shade:g}: give a width above 0 and a shade from 0 to 1")
    return {"width": width, "shade": shade}


def check_strokes(value, size) -> list:
    """Strokes as [{"points": [[x, y], ...], "width": ..., "shade": ...}, ...]."""
    made = []
    for i, stroke in enumerate(check_each(value, "strokes, each a dict with points, width and shade; [] for none")):
        if not isinstance(stroke, dict) or not stroke.get("points"):
            raise ValueError(f"stroke {i} is {stroke!r}: give a dict with points (at least one), width and shade")
        if unknown := set(stroke) - {"points", "width", "shade"}:
            raise ValueError(f"stroke {i} has {', '.join(map(repr, unknown))}: give points, width and shade alone")
        points = [check_point(at, f"point {k} of stroke {i}", size) for k, at in enumerate(check_each(stroke["points"], "points (x, y)"))]
        made.append({"points": points, **check_pen(stroke, f"stroke {i}")})
    return made


@declared
def paint(strokes, size, background: Number = 0.0, shade: Fraction | None = None, fine: Count = 4) -> Tensor:
    """Strokes on a ground of `background`, each in its own shade or all in `shade`: (1, 1, H, W).

    They are painted on a ground that is `fine` times finer, with round ends and joints, and averaged.
    """
    width, height = size
    ground = Image.new("F", (width * fine, height * fine), background)
    pen = ImageDraw.Draw(ground)
    for stroke in strokes:
        points, r = [(x * fine, y * fine) for x, y in stroke["points"]], stroke["width"] * fine / 2
        fill = stroke["shade"] if shade is None else shade
        pen.line(points, fill=fill, width=max(round(2 * r), 1))
        for x, y in points:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    small = ground.reduce(fine)                                                                # a mean over the squares
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.float32).view(1, 1, height, width)


def paint_over(picture: Tensor, strokes) -> Tensor:
    """A picture (3, H, W) in [0, 1] with strokes on it."""
    picture = as_pictures(picture, "picture")[0]
    size = (picture.shape[-1], picture.shape[-2])
    where, shades = (paint(strokes, size, shade=shade)[0].to(picture) for shade in (1.0, None))        # (1, H, W) each
    return picture * (1 - where) + shades.clamp(0, 1)                       # on a ground of 0 shades are weighted already


def draw_arrows(axes, arrows) -> None:
    """Arrows from numbered circles to numbered squares."""
    for i, (handle, target) in enumerate(arrows):
        for colour, width in (("white", 3.6), (plots.RIGHT, 2)):
            axes.annotate("", target, handle, arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=width, shrinkB=4))
        mark(axes, target, i + 1, square=True), mark(axes, handle, i + 1)


def as_array(picture):
    """One picture, see `pictures.as_pictures`, as an array (H, W, 3) of bytes. ValueError for anything else."""
    found = as_pictures(picture, "picture")
    if len(found) != 1:
        raise ValueError(f"picture has shape {tuple(found.shape)}: give one picture, (3, H, W), such as pictures[0]")
    return (found[0].detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def png_bytes(array) -> bytes:
    """An array (H, W, 3) of bytes as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def _short(start, end) -> bool:
    return math.dist(start, end) < 0.5


def mark(axes, at: Sequence[float], text, square: bool = False) -> None:
    """A numbered mark: a blue circle, or an orange square."""
    axes.plot(*at, "s" if square else "o", color=plots.RIGHT if square else plots.LEFT, markersize=9, markeredgecolor="white",
              zorder=4)
    axes.text(*at, str(text), color="black" if square else "white", fontsize=6, weight="bold", ha="center",
              va="center_baseline", zorder=5)


# ------------------------------------------------------------------------------------------------------- the widgets

class PicturePoints(OnPicture):
    """Points: click to add, drag to move. `value` is [[x, y], ...]."""
    _kind = traitlets.Unicode("points").tag(sync=True)

    def check(self, value):
        return [check_point(at, f"point {i}", self._size) for i, at in enumerate(check_each(value, "points (x, y), [] for none"))]

    def draw(self, axes):
        for i, at in enumerate(self.value):
            mark(axes, at, i + 1)


class PictureArrows(OnPicture):
    """Arrows from a handle to its target: `value` is [[[x, y], [target x, target y]], ...].

    `held` shows below them what they take hold of, before anything runs; `hold` makes it anew after each change of the arrows:

        PictureArrows(picture, arrows, hold=lambda handles, targets: grab(correspondence, pose, source, handles, targets))

    `take_apart` (a button, too) makes an arrow of every point that is held, without a length where it stays, to be moved, freed
    or held by hand; from then on nothing is held but what the arrows say (`grabs` is False) until `grabs` is True again, as it is
    once the browser has cleared or undone that, and on another picture.

    Args:
        hold: given handles and targets (N, 2), what they hold, such as a `puppets.grab.Hold`: its `points` are arrows like those of
            `value`, those without a length stay; its `words` are shown beside them.
    """
    _kind = traitlets.Unicode("arrows").tag(sync=True)
    held = traitlets.Dict().tag(sync=True)                  # {"points": arrows, "words": text}; {} for nothing
    grabs = traitlets.Bool(True).tag(sync=True)             # whether arrows take hold of more than their own points
    _can_grab = traitlets.Bool(False).tag(sync=True)

    keeps = ("grabs", "value")

    def __init__(self, picture=None, value=None, label: str = "", size: int = SIZE, keep: bool = False, hold=None):
        self._hold = None
        super().__init__(picture, value, label, size, keep)
        self.hold = hold

    def begun(self):
        return [self.value, self._png]                      # an arrow says nothing about another picture

    @property
    def hold(self):
        """The function that says what arrows hold, or None; setting it holds what is drawn."""
        return self._hold

    @hold.setter
    def hold(self, function):
        if function is not None and not callable(function):
            raise ValueError(f"hold is {function!r}: give a function of handles and targets, such as one that calls grab, or None")
        self._hold, self._can_grab = function, function is not None
        self._hold_again()

    @traitlets.observe("value", "grabs")
    def _hold_again(self, change=None):
        """Hold what the arrows say now. What cannot be held is said in words; a widget has nowhere to raise."""
        if self._hold is None or not self.value or not self.grabs:
            self.held = {}
            return
        try:
            found = self._hold(self.handles, self.targets)
            self.held = {"points": [[list(map(float, at)) for at in pair] for pair in found.points], "words": str(found.words)}
        except ValueError as error:
            self.held = {"points": [], "words": str(error)}

    def take_apart(self) -> None:
        """Make an arrow of every point that is held."""
        width, height = self._size
        inside = lambda at: [min(max(at[0], 0.0), width - 0.1), min(max(at[1], 0.0), height - 0.1)]
        points = [[inside(start), inside(end)] for start, end in self.held.get("points", [])]
        if points:
            with self.hold_sync():                          # one change, to be undone as one
                self.grabs, self.value = False, points

    def _begin(self, value):
        self.value, self.grabs = value, True
        super()._begin(value)

    @property
    def pins(self) -> list:
        """The points that stay, [[x, y], ...]: arrows that are shorter than half a pixel."""
        return [handle for handle, target in self.value if _short(handle, target)]

    @property
    def handles(self) -> list:
        """Where the arrows start, [[x, y], ...]."""
        return [handle for handle, _ in self.value]

    @property
    def targets(self) -> list:
        """Where the arrows end, [[x, y], ...]."""
        return [target for _, target in self.value]

    def check(self, value):
        return check_arrows(value, self._size)

    def draw(self, axes):
        for start, end in self.held.get("points", []):
            if _short(start, end):
                axes.plot(*start, "x", color="black", markersize=5, zorder=3)
                continue
            axes.plot(*zip(start, end), ":", color="white", linewidth=1)
            axes.plot(*start, "o", color=plots.LEFT, markersize=3, markeredgecolor="white", markeredgewidth=0.5, zorder=3)
            axes.plot(*end, "s", color="none", markersize=3.5, markeredgecolor=plots.RIGHT, zorder=3)
        draw_arrows(axes, self.value)


class PictureSkeleton(OnPicture):
    """A puppet's skeleton: `value` is the 14 joints [[x, y], ...] in the order of `JOINTS`, at first a standing puppet.

    Blue circles are the puppet's left, orange squares its right."""
    _kind = traitlets.Unicode("skeleton").tag(sync=True)

    def start(self):
        return [[round(x * self._size[0], 1), round(y * self._size[1], 1)] for x, y in STANDING]

    def look(self):
        return {"joints": JOINTS, "limbs": LIMBS}

    def check(self, value):
        return check_joints(value, self._size)

    def draw(self, axes):
        plots.draw_skeleton(axes, torch.tensor(self.value))


class PictureBox(OnPicture):
    """One box: `value` is [left, top, right, bottom], or [] for none."""
    _kind = traitlets.Unicode("box").tag(sync=True)

    def check(self, value):
        box = check_each(value, "four numbers (left, top, right, bottom), [] for no box")
        try:
            box = [as_number(v) for v in box]
            x0, y0, x1, y1 = box or (0, 0, 1, 1)
        except (TypeError, ValueError):
            raise ValueError(f"box is {value!r}: give four numbers (left, top, right, bottom), or [] for no box") from None
        width, height = self._size
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box is {tuple(box)}: give left < right from 0 to {width} and top < bottom from 0 to {height}")
        return box

    def mask(self) -> Tensor:
        """(1, 1, H, W): 1 for pixels whose centre is in the box, else 0; 1 everywhere where there is no box."""
        width, height = self._size
        x0, y0, x1, y1 = self.value or (0, 0, width, height)
        x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
        return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).float()[None, None]               # (1, 1, H, W)

    def draw(self, axes):
        if self.value:
            x0, y0, x1, y1 = self.value
            for colour, width in (("white", 3.6), (plots.RIGHT, 2)):
                axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=colour, linewidth=width)


class PictureStrokes(OnPicture):
    """Strokes of a pen: `value` is [{"points": [[x, y], ...], "width": pixels, "shade": 0 to 1}, ...], later ones on top.

    For edges draw with shade 1; for depth shade is nearness, 1 near and 0 far. `width` and `shade` are the pen's at first.
    """
    _kind = traitlets.Unicode("strokes").tag(sync=True)

    def __init__(self, picture=None, value=None, label: str = "", size: int = SIZE, width: float = 3, shade: float = 1.0,
                 keep: bool = False):
        self._pen = check_pen({"width": width, "shade": shade}, "the pen")
        super().__init__(picture, value, label, size, keep)

    def look(self):
        return {"tool": self._pen}

    def check(self, value):
        return check_strokes(value, self._size)

    def map(self, background: float = 0.0) -> Tensor:
        """(1, 1, H, W): the shade of the strokes where there are any, `background` elsewhere; a `SpatialObjective`'s target."""
        return paint(self.value, self._size, background)

    def mask(self) -> Tensor:
        """(1, 1, H, W): how much of each pixel the strokes cover, in [0, 1]; a `SpatialObjective`'s mask."""
        return paint(self.value, self._size, shade=1.0)

    def draw(self, axes):
        plots.show_picture(axes, paint_over(self._picture, self.value), self.label)
