"""Metrics on trial: drags with exact answers, bad answers that are bad in one way, and what metrics say of them."""
import csv
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from rg_minimal import load_head, load_pipeline
from rg_minimal.classroom import plots
from rg_minimal.evidence import drags as D, report, seeds, trial as T
from rg_minimal.evidence.__main__ import main
from rg_minimal.files import add_rows, write_rows
from rg_minimal.puppets import measure, world
from rg_minimal.puppets.judge import load_judge


@pytest.fixture(scope="module")
def cases():
    return list(D.trial_cases(12))


@pytest.fixture(scope="module")
def metrics():
    pipe = load_pipeline(device="cpu")
    return T.Metrics(pipe, load_head("data/heads/correspondence", pipe), load_judge(), layer=4)


def test_cases_are_the_same_each_time_and_their_own_scenes(cases):
    assert all(torch.equal(a.drag.targets, b.drag.targets) and a.scene == b.scene for a, b in zip(cases, D.trial_cases(12)))
    assert all(seeds.TRIAL.first <= case.drag.seed < seeds.TRIAL.end for case in cases)
    assert len({case.limb for case in cases}) == 4


def test_the_exact_answer_has_the_joints_at_the_targets_and_everything_else_in_its_place(cases):
    for case in cases:
        ends = case.drag.joints
        torch.testing.assert_close(case.after.joints[0, ends], case.drag.targets[:2], atol=1e-3, rtol=0)
        others = [i for i in range(14) if i not in ends]
        torch.testing.assert_close(case.after.joints[0, others], case.before.joints[0, others], atol=1e-3, rtol=0)


def test_each_bad_answer_is_bad_in_its_own_way(cases):
    for case in cases:
        made = D.answers(case)
        assert tuple(made) == ("exact", *D.BAD) and all(each.shape == (1, 3, 128, 128) for each in made.values())
        assert all(torch.equal((each * 255).round() / 255, each) for each in made.values())             # as files keep them
        assert torch.equal(made["nothing"], case.source) and all((made[name] != made["exact"]).any() for name in D.BAD)
        limb = D._shown(case.after, D.parts_of(case.limb)).expand(-1, 3, -1, -1)
        assert torch.equal(made["second"][limb], made["exact"][limb]) and torch.equal(made["second"][~limb], case.source[~limb])
        body = D._shown(case.after, list(range(3, len(world.PARTS)))).expand(-1, 3, -1, -1)
        assert torch.equal(made["torn"][body], made["exact"][body])


def test_a_search_finds_what_was_moved_and_stays_near_when_told_to():
    rng = torch.Generator().manual_seed(0)
    source = torch.randn(16, 32, 32, generator=rng)
    handle, target = torch.tensor([[8.5, 8.5]]), torch.tensor([[12.5, 8.5]])
    moved = source.roll((0, 4), (1, 2))                                 # rows, columns
    assert torch.equal(T.search(source, moved, handle, target), target)
    away = torch.randn(16, 32, 32, generator=rng)
    away[:, 30, 30] = source[:, 8, 8]
    assert T.search(source, away, handle, target).tolist() == [[30.5, 30.5]]
    near = T.search(source, away, handle, target, near=True)
    assert min((near - handle).norm(), (near - target).norm()) < T.NEAREST
    far = torch.tensor([[28.5, 8.5]])                                   # a way of 20 pixels: 14.1 around both are searched
    found = T.search(source, away, handle, far, near=True)
    assert min((found - handle).norm(), (found - far).norm()) < 20 / 2 ** 0.5


def test_likenesses_are_one_for_the_same_and_less_for_anything_else(metrics, cases):
    vae, (one, other) = metrics.pipe.vae, (cases[0].source, cases[1].source)
    for measure in (T.ssim, lambda a, b: T.likeness(vae, a, b)):
        assert measure(one, one).item() == pytest.approx(1, abs=1e-5) and measure(one, other).item() < 0.9
        assert measure(one, other).item() == pytest.approx(measure(other, one).item(), abs=1e-5)


def test_the_judge_knows_the_exact_answer_from_one_where_nothing_moved(metrics, cases):
    rows = [metrics(case, torch.cat([D.answers(case)[name] for name in ("exact", "nothing", "gone")])) for case in cases[:4]]
    exact, nothing, gone = (torch.tensor([row[i]["judge"] for row in rows]) for i in range(3))
    assert exact.mean() < 3 and nothing.mean() > 5
    assert all(row[0]["error"] == 0 and row[1]["error"] > 0 for row in rows)
    assert [row[2]["whole"] for row in rows] == [0] * 4
    assert all(row[1]["ssim"] == pytest.approx(1, abs=1e-5) for row in rows)


@pytest.mark.slow
def test_a_trial_goes_on_and_comes_to_a_verdict(metrics, tmp_path):
    table = tmp_path / "trial.csv"
    assert list(T.run(metrics, table, 2)) == [(1, 2), (2, 2)]
    first = T.read_table(table)
    assert len(first) == 2 * len(D.ANSWERS)
    list(T.run(metrics, table, 3))
    rows = T.read_table(table)
    assert rows[:len(first)] == first and len(rows) == 3 * len(D.ANSWERS)
    found = T.summarize(rows, draws=50)
    assert {(each["metric"], each["answer"]) for each in found} == {(m, a) for m in T.METRICS for a in D.ANSWERS}
    assert all(each["low"] <= each["value"] <= each["high"] and each["n"] == 3 for each in found)
    value = {(each["metric"], each["answer"]): each for each in found}
    assert value["ssim", "nothing"]["good"] == 1                         # what looks like the source is best where nothing is done
    assert value["whole", "gone"]["good"] == 0 and value["whole", "gone"]["more"] < 0
    assert set(T.firsts(rows, draws=50)) == set(T.METRICS) and T.firsts(rows, draws=50)["ssim"]["value"] == 0
    assert T.ranked(rows, "judge")["value"] == 1 and 0.5 <= T.ranked(rows, "whole", "second")["value"] <= 1, "a tie counts half"
    shown = T.verdict(rows)
    assert [list(each) for each in shown.values()] == [["exact first", *D.BAD]] * len(T.METRICS)
    axes, = plots.shares(shown, "called good", 1).axes
    assert {text.get_text() for text in axes.get_xticklabels()} == {f"{name}\nn = 3" for name in ("exact first", *D.BAD)}
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == 2 * len(T.METRICS) * (1 + len(D.BAD)) and "100%" in texts
    list(T.run(metrics, table, 2, seed=1))                                 # another noise, of two of three cases
    T.summarize(T.read_table(table), draws=50), T.said(T.read_table(table))
    two = T.read_table(table) + [{**row, "answer": T.DRAG} for row in rows if row["answer"] == "second"]
    drag = [each for each in T.summarize(two, draws=50) if each["answer"] == T.DRAG]
    assert {each["n"] for each in drag} == {3}, "our own recipe answers with one noise, and is compared in that"
    with open(table, newline="") as file:
        changed = [{**row, "version": "another"} for row in csv.DictReader(file)]
    write_rows(table, changed, T.KINDS_OF)
    with pytest.raises(ValueError, match="another model"):
        next(T.run(metrics, table, 3))


def test_drags_with_each_anti_ghosting_term_go_on_and_are_compared_in_pairs(metrics, cases, tmp_path, monkeypatch):
    asked, table = [], tmp_path / "ghosting.csv"

    def drag(pipe, correspondence, pose, case, steps, anti_ghosting):
        asked.append((case.drag.seed, anti_ghosting))
        return D.answers(case)["exact" if anti_ghosting == T.USUAL else "nothing"]
    monkeypatch.setattr(T, "real_drag", drag)
    run = T.run_ghosting(metrics, table, None, 2, (0.0, 0.3))
    assert next(run) == (1, 2)
    run.close()
    assert list(T.run_ghosting(metrics, table, None, 2, (0.0, 0.3))) == [(1, 2), (2, 2)]
    assert asked == [(case.drag.seed, term) for case in cases[:2] for term in (0.0, 0.3)]
    rows = T.read_table(table)
    assert [row["answer"] for row in rows] == ["anti-ghosting 0", "anti-ghosting 0.3"] * 2
    assert json.loads(rows[0]["settings"])["anti_ghosting"] == 0
    found = report.ghosting(report.Tables(ghosting=rows))
    more = [a["judge"] - b["judge"] for a, b in zip(rows[::2], rows[1::2])]
    assert list(found) == ["anti-ghosting 0"] and found["anti-ghosting 0"]["judge"]["value"] == pytest.approx(sum(more) / 2, rel=1e-4)
    assert found["anti-ghosting 0"]["judge"]["value"] > 5 and "anti-ghosting 0 " in report.ghost_table(found)
    for terms in ((), (-1.0,)):
        with pytest.raises(ValueError, match="terms"):
            T.run_ghosting(metrics, table, None, 2, terms)


def test_rows_of_other_settings_are_not_gone_on_with(metrics, tmp_path, monkeypatch):
    asked, ghosts, trial = [], tmp_path / "ghosting.csv", tmp_path / "trial.csv"
    monkeypatch.setattr(T, "real_drag", lambda pipe, head, pose, case, *_, **settings: asked.append(case) or case.source)
    monkeypatch.setattr(T, "answers", lambda case: {"exact": case.source})
    monkeypatch.setattr(T.Metrics, "__call__", lambda self, case, pictures, seed=0: [dict.fromkeys((*T.METRICS, "error"), 0.0)] * len(pictures))
    list(T.run_ghosting(metrics, ghosts, None, 1, steps=50)), list(T.run(metrics, trial, 1, pose=object(), drags=1, steps=50))
    before, other = ghosts.read_text() + trial.read_text(), T.Metrics(metrics.pipe, metrics.head, metrics.judge, layer=3)
    for run in (lambda: T.run_ghosting(metrics, ghosts, None, 2, steps=5), lambda: T.run(metrics, trial, 2, pose=object(), drags=2, steps=5)):
        with pytest.raises(ValueError, match=r"\.csv has rows of other settings \(steps 50, not 5\): go on with those, keep it elsewhere"):
            next(run())
    with monkeypatch.context() as changed:
        changed.setattr(measure, "HELD", {"step_size": 0.7})
        for run in (lambda: T.run_ghosting(metrics, ghosts, None, 2, steps=50), lambda: T.run(metrics, trial, 2, pose=object(), drags=2, steps=50)):
            with pytest.raises(ValueError, match=r"other settings \(defaults .*, not .*\)"):
                next(run())
    for run in (lambda: T.run(other, trial, 2), lambda: T.score_answers(other, tmp_path, "mine", trial, 2)):
        with pytest.raises(ValueError, match=r"other settings \(layer 4, not 3\)"):
            next(run())
    assert ghosts.read_text() + trial.read_text() == before and len(asked) == len(T.TERMS) + 1
    list(T.run(metrics, trial, 2, steps=5)), list(T.run_ghosting(metrics, ghosts, None, 1, (1.0, 3.0), steps=50))
    assert len(asked) == len(T.TERMS) + 2, "no steps are made where no drags are asked for, and other terms are no other settings"


def test_answers_take_the_place_of_older_ones_and_of_nothing_else(tmp_path, monkeypatch):
    """Older ones of the same name go, also of other pictures and seeds; what another command adds meanwhile stays."""
    def row(answer, picture, seed=0):
        return {column: kind() for column, kind in T.KINDS_OF.items()} | {"answer": answer, "picture": picture, "seed": seed, "settings": "{}"}
    table, metrics = tmp_path / "trial.csv", SimpleNamespace(version="", settings={}, rows=lambda number, case, made, seed: [row(*made, number, seed)])
    monkeypatch.setattr(T, "read_answers", lambda folder, count: torch.zeros(count, 3, 8, 8))
    monkeypatch.setattr(T, "trial_cases", lambda count: [None] * count)
    write_rows(table, [row("mine", 2), row("theirs", 0), row("mine", 0, 7)], T.KINDS_OF)
    scored = T.score_answers(metrics, tmp_path, "mine", table, 2)
    assert next(scored) == (1, 2)
    add_rows(table, [row("theirs", 1)], T.KINDS_OF, ["answer", "picture"], "the trial")
    assert list(scored) == [(2, 2)]
    assert [(each["answer"], each["picture"]) for each in T.read_table(table)] == [("theirs", 0), ("theirs", 1), ("mine", 0), ("mine", 1)]


@pytest.mark.slow
def test_anybodys_answers_are_scored(tmp_path, capsys):
    """The commands, as they are typed: the cases as files, the exact answers handed in, their scores."""
    main(["cases", str(tmp_path / "drags"), "--pictures", "2"])
    told = json.loads((tmp_path / "drags" / "cases.json").read_text())["cases"]
    assert len(told) == 2 and all(len(each["handles"]) == len(each["targets"]) == 4 and each["caption"] for each in told)
    mine, table = tmp_path / "drags" / "exact", str(tmp_path / "scores.csv")
    main(["score", str(mine), "--pictures", "2", "--table", table])
    rows = T.read_table(table)
    assert [row["answer"] for row in rows] == ["mine"] * 2 and all(row["error"] == 0 for row in rows)
    assert "judge's distance" in capsys.readouterr().out
    main(["score", str(mine), "--pictures", "2", "--table", table])
    assert T.read_table(table) == rows                                  # in place of what was there
    for name, spoil, says in (("missing", lambda path: path.unlink(), "001.png is missing"),
                              ("another size", lambda path: Image.new("RGB", (64, 64)).save(path), "64 x 64"),
                              ("no picture", lambda path: path.write_text("a"), "001.png")):
        before = (mine / "001.png").read_bytes()
        spoil(mine / "001.png")
        with pytest.raises(SystemExit):
            main(["score", str(mine), "--pictures", "2", "--table", table])
        assert says in capsys.readouterr().err, name
        (mine / "001.png").write_bytes(before)
    for name, says in (("001.png", "make it, or score fewer with --pictures 1\n"), ("000.png", "is asked for; make it\n")):
        (mine / name).unlink()
        with pytest.raises(SystemExit):
            main(["score", str(mine), "--pictures", "2", "--table", table])
        assert capsys.readouterr().err.endswith(says), "no fewer than none"


@pytest.mark.parametrize("call, says", [
    (lambda: D.read_answers("nowhere", 2), "nowhere is no folder"),
    (lambda: next(D.trial_cases(10 ** 6)), "pass a smaller one"),
    (lambda: next(D.trial_cases(0)), "count"),
    (lambda: D.make_case(-1), "seed"),
    (lambda: T.search(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), None, None), "handles"),
    (lambda: next(T.run(None, "t.csv", 2, drags=1)), "a pose head"),
    (lambda: next(T.run(None, "t.csv", 2, pose=object(), drags=3)), "at most 2"),
    (lambda: next(T.score_answers(None, "a", "exact", "t.csv")), "choose one of your own"),
    (lambda: T.summarize([]), "rows"), (lambda: plots.shares({}, "good"), "at least one row"),
    (lambda: plots.shares({"a": {}}, "good"), "at least one row")])
def test_what_cannot_be_scored_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_cases_go_into_a_folder_of_their_own_and_names_are_checked_first(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "000.png").write_text("an answer")
    with pytest.raises(ValueError, match="holds something else than cases"):
        D.write_cases(str(mine), 1)
    assert (mine / "000.png").read_text() == "an answer"
    (tmp_path / "notes.csv").write_text("my notes\n")
    for name, table, problem in (("exact", "t.csv", "trial itself uses"), (" ", "t.csv", "name is"), ("a", "notes.csv", "its columns are my notes"),
                                 ("a", "notes.csv/t.csv", "cannot be a folder")):
        with pytest.raises(ValueError, match=problem):
            T.check_name(name, str(tmp_path / table))
    D.write_cases(str(tmp_path / "cases"), 2)
    with pytest.raises(ValueError, match="holds more than 1 cases"):
        D.write_cases(str(tmp_path / "cases"), 1)
    (tmp_path / "cases" / "002.png").write_text("an answer"), (mine / D.CASES).write_text("{}")
    for folder, says in ((tmp_path / "cases", "holds 002.png, which would be lost"), (mine, "holds something else than cases")):
        with pytest.raises(ValueError, match=says):
            D.write_cases(str(folder), 2)


def test_cases_that_were_killed_are_written_when_they_are_asked_for_again(tmp_path, monkeypatch):
    write, folder = D.write_picture, tmp_path / "cases"

    def killed(path, picture):
        if path.name == "001.png":
            raise KeyboardInterrupt
        return write(path, picture)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(D, "write_picture", killed)
        D.write_cases(str(folder), 2)
    for count in (2, 2, 3):
        assert D.write_cases(str(folder), count) == folder / D.CASES
        names = {f"{number:03d}.png" for number in range(count)}
        assert {each.relative_to(folder).as_posix() for each in folder.rglob("*.*")} == {D.CASES, *names, *(f"exact/{name}" for name in names)}
    assert [each.name for each in tmp_path.iterdir()] == ["cases"]
