r"""A $ in a prompt, a title or a name is a $: text, never mathematics, in figures and in widgets."""
import io
import warnings

import ipywidgets
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from rg_minimal.classroom import plots, widgets

PICTURE, JOINTS = torch.rand(3, 16, 16), torch.full((14, 2), 8.0)
LABELS = ["it costs $5 and not $6", r"$\frac$"]
DRAWN = {
    "picture_grid": lambda label: plots.picture_grid([PICTURE], [label]),
    "picture_rows": lambda label: plots.picture_rows({label: [PICTURE]}, [[label]]),
    "skeleton_figure": lambda label: plots.skeleton_figure(JOINTS, title=label),
    "readout_strip": lambda label: plots.readout_strip(PICTURE, [PICTURE[0]], [label]),
    "curve": lambda label: plots.curve([1, 2], label, label),
    "bars": lambda label: plots.bars({label: 1.0, "b": 2.0}, label),
    "lines": lambda label: plots.lines({label: [1, 2]}, [1, 2], label, label),
    "marked_bars": lambda label: plots.marked_bars({label: 1.0, "b": 2.0}, label, 1.5, label),
    "match_row": lambda label: plots.match_row(PICTURE, PICTURE, JOINTS[:1], {label: (JOINTS[:1], torch.tensor([True]))}),
    "heat_row": lambda label: plots.heat_row([PICTURE], [PICTURE[0]], [label]),
    "drag_row": lambda label: plots.drag_row([PICTURE], [label], JOINTS[:1], JOINTS[:1] + 2),
    "pck_row": lambda label: plots.pck_row([PICTURE], JOINTS[None], JOINTS[None], 0.1, [label]),
    "learning": lambda label: plots.learning([2, 1], {1: {20: 0.5}}, 2, label),
    **{kind.__name__: lambda label, kind=kind: kind(PICTURE, label=label).figure() for kind in (
        widgets.PicturePoints, widgets.PictureArrows, widgets.PictureBox, widgets.PictureStrokes)},
}


def pixels(figure):
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return np.array(Image.open(drawn))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_dollar_in_a_figure_is_a_dollar(name, label):
    figure = DRAWN[name](label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(figure)
    shown = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    assert shown and not any(text.get_parse_math() for text in shown)
    assert "".join(label.split()) in ["".join(text.get_text().split()).removeprefix("foundby").split(":")[0].removesuffix(",heldout") for text in shown]


def test_a_dollar_is_drawn():
    """With mathematics both would be the same, an x in italics."""
    assert not np.array_equal(pixels(plots.curve([1], "y", "$x$")), pixels(plots.curve([1], "y", r"$\mathit{x}$")))


def test_powers_of_ten_on_a_logarithmic_axis_are_written_as_such():
    figure = plots.lines({"a": [1, 1000]}, [1, 2], "x", "y", log=True)
    pixels(figure)
    powers = [label for label in figure.axes[0].yaxis.get_ticklabels() if "10^" in label.get_text()]
    assert powers and all(label.get_parse_math() for label in powers)


def test_a_title_on_axes_of_somebody_else():
    figure, axes = matplotlib.pyplot.subplots()
    plots.show_picture(axes, PICTURE, r"$\frac$")
    pixels(figure)
    matplotlib.pyplot.close(figure)


def test_the_studio_shows_no_text_in_a_widget_that_takes_it_for_mathematics():
    """ipywidgets typesets Label, HTMLMath and every description; HTML and what the browser's side writes it leaves alone."""
    from rg_minimal.classroom.recipe import Kit, START
    from rg_minimal.classroom.studio import Studio
    state = {**START, "prompt": "$x_1$", "model": "$m$", "appearance": {"prompt": "$y$", "picture": "$p$.png"}}
    desk = Studio(Kit(None, {}, {"drag": "$note$"}), state).desk
    todo, seen = [desk.view], []
    while todo:
        seen.append(todo.pop())
        todo += getattr(seen[-1], "children", ())
    assert len(seen) > 30 and not any(isinstance(each, (ipywidgets.Label, ipywidgets.HTMLMath)) for each in seen)
    assert not any("$" in getattr(each, "description", "") for each in seen)
    assert any("$note$" in getattr(each, "value", "") for each in seen if isinstance(each, ipywidgets.HTML))
