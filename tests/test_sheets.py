"""Sheets show what was measured: the first pictures of the measurement itself, which is then left."""
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.text
import nbformat
import pytest
import torch
from PIL import Image

from rg_minimal import load_pipeline
from rg_minimal.classroom import sheets
from rg_minimal.evidence import contest, report, seeds
from rg_minimal.evidence.__main__ import commands
from rg_minimal.puppets import measure
from rg_minimal.puppets.front import read_front, summarize
from rg_minimal.puppets.judge import load_judge

ROOT = Path(__file__).resolve().parent.parent


def test_the_measurement_is_left_when_the_sheet_is_drawn(tmp_path, monkeypatch):
    """Drawn are the pictures of the whole measurement: with fewer cases, captions and noise would be others."""
    monkeypatch.chdir(ROOT)
    shown, states = [], []
    draw = sheets.draw_sheet
    monkeypatch.setattr(sheets, "draw_sheet", lambda path, *rows: shown.append(rows) or draw(path, *rows))
    pipe, judge = load_pipeline("data/puppet-diffusion"), load_judge()
    path = sheets.make_sheet("identity", pipe, judge, "data/heads", tmp_path / "new" / "sheet.png", steps=2,
                             report=lambda *state: states.append(state))
    assert states == [(10, 100)] and Image.open(path).width > Image.open(path).height
    (rows,), = shown
    measured = []
    next(measure.measurement("identity", pipe, judge, "data/heads", steps=2, sheet=measured.append))
    assert list(rows) == list(measured[0]) == ["reference", "unguided", "guided", "posed", "posed and guided"]
    assert all(len(rows[name]) == 7 and torch.equal(rows[name], measured[0][name]) for name in rows)


@pytest.mark.parametrize("what, count", [("base", None), ("drag", 8)])
def test_a_sheet_that_comes_at_the_end_is_drawn_as_well(what, count, tmp_path, monkeypatch):
    def measurement(which, pipe, judge, heads, cases, steps, sheet):
        assert (which, cases, steps) == (what, count, 3)
        yield 1, 2
        yield 2, 2
        sheet(torch.rand(5, 3, 16, 16)) if what == "base" else sheet({"before": torch.rand(2, 3, 16, 16)}, [[[[1, 2], [9, 9]]], []])
    monkeypatch.setattr(sheets, "measurement", measurement)
    states = []
    path = sheets.make_sheet(what, None, None, "heads", tmp_path / "sheet.png", steps=3, report=lambda *state: states.append(state))
    assert path == tmp_path / "sheet.png" and path.is_file() and states == [(1, 2), (2, 2)]


def test_arrows_belong_to_the_first_row(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheets, "draw_arrows", lambda axes, arrows: drawn.append((axes.get_subplotspec().num1, arrows)))
    rows = {"before": torch.rand(2, 3, 16, 16), "after": torch.rand(2, 3, 16, 16)}
    sheets.draw_sheet(tmp_path / "sheet.png", rows, [[[[1, 2], [9, 9]]], [[[3, 4], [5, 6]]]])
    assert drawn == [(0, [[[1, 2], [9, 9]]]), (1, [[[3, 4], [5, 6]]])]


def test_the_card_of_the_examples_names_commands_that_exist():
    card = (ROOT / "data" / "examples" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"-m rg_minimal\.classroom\.sheets (\S+) -o (data/examples/\S+\.png)", card)
    assert {what for what, _ in named} == {"drag", "drag-inverted", "identity", "depth", "base-decoder", *sheets.FIGURES} <= {*sheets.COUNTS, *sheets.FIGURES}
    assert all((ROOT / path).is_file() for _, path in named) and "measure" not in re.sub(r"measure(d|ments)", "", card)
    for what in set(sheets.COUNTS) - {"base", "base-decoder"}:
        result = json.loads((ROOT / "data" / "results" / f"{what}.json").read_text(encoding="utf-8"))
        assert result.get("pictures", result.get("cases")) == 100


def test_the_front_is_drawn_from_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    near, whole = sheets.draw_front().axes
    shown = {text.get_text(): text.xy for text in near.texts}
    points = {row["point"]: row for row in summarize(read_front()) if row["task"] == "pose"}
    best = {name for name, row in points.items() if not any(
        (other["passes"], -other["control"]) != (row["passes"], -row["control"]) and other["passes"] <= row["passes"]
        and other["control"] >= row["control"] for other in points.values())}
    assert set(shown) == best | {"draft", "full", "whole", "reference", "50 steps", "10 steps"} and len(near.containers) == len(points) > len(shown)
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in near.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), "no name lies on another"
    assert all(near.get_window_extent().containsx(box.x0) and near.get_window_extent().containsx(box.x1) for box in boxes)
    for name, (cost, error) in shown.items():
        assert cost == points[name]["passes"] / 100 and error == max(1 - points[name]["control"], 1e-3)
    sheets.main(["front", "-o", str(tmp_path / "front.png")])
    assert Image.open(tmp_path / "front.png").width > 800 and str(tmp_path) in capsys.readouterr().out
    for axes, (task, (error, most)) in zip(sheets.draw_fronts().axes, list(sheets.ERRORS.items())[1:], strict=True):
        assert axes.get_ylabel() == error
        found = {row["point"]: row for row in summarize(read_front()) if row["task"] == task}
        error = {name: row["control"] if most is None else most - row["control"] for name, row in found.items()}
        best = {name for name in found if not any((error[other], found[other]["passes"]) != (error[name], found[name]["passes"]) and error[other] <= error[name]
                                                  and found[other]["passes"] <= found[name]["passes"] for other in found)}
        shown = best | {"draft", "full", "reference", "50 steps", "25 steps, step_size=0.1"} & set(found)
        assert {text.get_text(): text.xy[1] for text in axes.texts} == {name: error[name] for name in shown} and len(axes.containers) == len(found)
    with pytest.raises(SystemExit):
        sheets.main(["front", "-o", str(tmp_path / "front.png"), "--count", "3"])
    assert "--count has no effect on front" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sheets.main(["contest", "-o", str(tmp_path / "contest.png"), "--model", "elsewhere"])
    assert "--model has no effect on contest" in capsys.readouterr().err


def test_the_evidence_is_drawn_from_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    axes, = sheets.draw_evidence().axes
    curves = report.efficiency(report.read_tables(), "pose")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == sorted(curves, key=lambda name: name != "unguided")
    assert "95 % intervals of n = " in axes.get_title("left") and ("hollow" in axes.get_title("left")) is any(
        each["seeds"] == 1 and each["labels"] for rows in curves.values() for each in rows)
    sheets.main(["evidence", "-o", str(tmp_path / "evidence.png")])
    assert Image.open(tmp_path / "evidence.png").width > 600 and str(tmp_path) in capsys.readouterr().out
    with pytest.raises(ValueError, match="has no rows of pose; measure them"):
        sheets.draw_evidence(folder=str(tmp_path))


def test_the_pictures_of_the_contest_are_its_first_ones_with_tuned_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="head-pose-10-0 holds no finished training; train it with python -m rg_minimal.evidence train") as refused:
        sheets.draw_contest(runs=str(tmp_path))
    told = commands().parse_args(str(refused.value).split("rg_minimal.evidence ")[1].split())
    assert (told.tasks, told.kinds, told.labels, told.seeds, told.runs) == (["pose"], ["head"], [10], [0], str(tmp_path))
    words = "\n".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / "A4_evidence.ipynb", as_version=4).cells)
    assert "`python -m rg_minimal.classroom.sheets contest -o contest.png`" in words
    told = commands().parse_args(re.search(r"`python -m rg_minimal.evidence (train pose --kinds [^`]*)`", words)[1].split())
    assert set(told.kinds) == {"head", *sheets.baselines.KINDS} and (told.labels, told.seeds) == ([10], [0]), "all that the sheet needs"
    asked = []
    monkeypatch.setattr(sheets.contest, "load_parts", lambda name, *rest: asked.append((name, *rest[:3])) or name)
    monkeypatch.setattr(sheets.contest, "CONTESTANTS", {name: replace(each, make=lambda pipe, cases, trained, strength, **settings: asked.append(
        (trained, cases.first, settings)) or cases.frames.image) for name, each in contest.CONTESTANTS.items()})
    figure, names = sheets.draw_contest(count=2), ("unguided", "head", *sheets.baselines.KINDS)
    tuned = report.read_tables().tune
    assert asked == [*((name, "pose", 10, 0) for name in names), *((name, seeds.TEST.first, contest.chosen(tuned, name, "pose", 10)) for name in names)]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["asked for", "unguided", "our head", "ControlNet", "T2I-Adapter"]
