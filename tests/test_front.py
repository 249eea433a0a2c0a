"""The front of control against cost: what is counted, what is paired, and that a stopped measurement goes on."""
import shutil

import pytest
import torch

from rg_minimal import paces
from rg_minimal.classroom import plots
from rg_minimal.files import write_rows
from rg_minimal.pipelines import find_folder, load_head, load_pipeline, sample
from rg_minimal.puppets import front as F, measure, world
from rg_minimal.puppets.heads import pose_objective
from rg_minimal.puppets.judge import load_judge
from rg_minimal.puppets.measure import drag_sources, finish


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline()


def made(pipe, **settings):
    goal = [pose_objective(load_head("data/heads/pose", pipe), world.render(world.sample_scene(3)).joints)]
    with F.counted(pipe) as passes:
        sample(pipe, "a puppet", goal, generator=torch.Generator().manual_seed(0), num_inference_steps=4, **settings)
    return passes.count


def test_passes_are_counted_by_hand(pipe):
    plain, guided = 4 * 2, 2                                # both branches at four steps; two of them are guided
    assert made(pipe, step_size=0.0) == plain + guided * 2                  # and a pass with gradient counts twice
    assert made(pipe, inner_steps=3) == plain + guided * 3 * 2
    assert made(pipe, moves="prediction") == plain - guided + guided * 2
    assert made(pipe, gradient_branch="both") == plain + guided * 2 * 2
    hooks = len(pipe.unet._forward_pre_hooks)
    made(pipe)
    assert len(pipe.unet._forward_pre_hooks) == hooks


def row(task, point, seed, picture, control, whole=1.0):
    return dict(zip(F.KINDS_OF, (task, point, seed, picture, control, whole, 1.0, 40.0, "0a1b")))


def test_means_and_intervals():
    rows = [row("pose", "draft", seed, i, float(i % 2)) for seed in (1, 2) for i in range(50)] + [row("pose", "full", 1, 0, 0.5)]
    draft, full = F.summarize(rows)
    assert (draft["pictures"], draft["seeds"], draft["control"]) == (100, 2, 0.5)
    assert draft["control_low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015) and draft["control_high"] == pytest.approx(0.598, abs=0.015)
    assert draft["whole_low"] == draft["whole_high"] == 1.0
    assert full["control"] == full["control_low"] == full["control_high"] == 0.5


def test_a_table_comes_back_and_a_damaged_one_is_refused(tmp_path):
    rows = [row("drag", "full", 7, 0, 1.25), row("none", "10 steps, trailing DDIM", 7, 1, 0.0)]
    assert F.read_front(write_rows(tmp_path / "front.csv", rows, F.KINDS_OF)) == rows
    (tmp_path / "front.csv").write_text("task,point\npose,draft\n")
    with pytest.raises(ValueError, match="no table of the front"):
        F.read_front(tmp_path / "front.csv")


def test_a_stopped_measurement_goes_on(pipe, tmp_path, monkeypatch):
    points = [F.Point("one", {"num_inference_steps": 2}), F.Point("two", {"num_inference_steps": 3})]
    monkeypatch.setattr(F, "POINTS", {"pose": points, "identity": points[:1]})
    judge, table = load_judge(), tmp_path / "front.csv"
    run = lambda: F.measure_front(pipe, judge, tasks=("pose", "identity"), seeds=2, pictures=2, table=table)
    whole = finish(run())["rows"]
    assert [(row["task"], row["point"], row["seed"] - F.FRONT_SEED) for row in whole[::2]] == [
        (task, point, seed) for seed in (0, 1000) for task, point in (("pose", "one"), ("pose", "two"), ("identity", "one"))]
    complete = table.read_bytes()
    table.unlink()
    stopped = run()
    next(stopped), next(stopped)
    stopped.close()
    assert 0 < len(F.read_front(table)) < len(whole)
    finish(run())
    assert table.read_bytes() == complete
    assert list(run()) == []                                # nothing is left to do
    table.unlink()
    alone = finish(F.measure_front(pipe, judge, tasks=("pose",), seeds=1, pictures=2, table=table, points=("two",)))["rows"]
    assert {row["point"] for row in alone} == {"two"} and alone == [row for row in whole if row in alone]


@pytest.fixture
def quick(monkeypatch):
    """A front of which nothing is sampled; what each call of it asked for, (task, pictures)."""
    asked = []
    point = F.Point("one", {"num_inference_steps": 2})
    monkeypatch.setattr(F, "POINTS", {task: [point] for task in ("none", "pose", "drag")})
    monkeypatch.setattr(F, "_together", lambda pipe, judge, head, task, point, seed, count: asked.append((task, count)) or [(0.5, 1.0, 1.0, 40.0)] * count)
    monkeypatch.setattr(F, "_drags", lambda pipe, judge, head, pose, point, seed, count: asked.append(("drag", count)) or [(2.0, 1.0, 1.0, 40.0)] * count)
    return asked


def test_two_that_write_one_table_keep_what_the_other_has_measured(pipe, quick, tmp_path):
    judge, table = load_judge(), tmp_path / "front.csv"
    one, two = (F.measure_front(pipe, judge, tasks=(task,), seeds=2, pictures=2, table=table) for task in ("none", "pose"))
    for each in (one, two, two, one):
        next(each)
    assert [(row["task"], row["seed"] - F.FRONT_SEED) for row in F.read_front(table)[::2]] == [("none", 0), ("pose", 0), ("pose", 1000), ("none", 1000)]
    assert finish(one)["rows"] == finish(two)["rows"] == F.read_front(table), "both end with all rows"
    assert list(F.measure_front(pipe, judge, tasks=("none", "pose"), seeds=2, pictures=2, table=table)) == []


@pytest.mark.parametrize("task", ["none", "drag"])
def test_a_batch_of_another_size_is_not_taken_for_this_one(pipe, quick, tmp_path, task):
    judge, table = load_judge(), tmp_path / "front.csv"
    run = lambda pictures, seeds=1: F.measure_front(pipe, judge, tasks=(task,), seeds=seeds, pictures=pictures, table=table)
    late = run(24)                                          # began before there was a table
    finish(run(48))
    size, before = {"none": 48, "drag": 16}[task], table.read_bytes()
    assert quick == [(task, size)] and len(F.read_front(table)) == size
    for pictures in (24, 12, 96):
        with pytest.raises(ValueError, match=f"front.csv has {size} pictures of {task}, one, seed {F.FRONT_SEED}, where .* are asked for: pass the number"):
            run(pictures, 2)
    with pytest.raises(ValueError, match=f"front.csv has {size} pictures"):
        next(late)
    assert table.read_bytes() == before and len(quick) == 2
    finish(run(48, 2))
    assert quick[2:] == [(task, size)] and len(F.read_front(table)) == 2 * size, "as many are gone on with"
    other = F.measure_front(pipe, judge, tasks=("pose",), seeds=1, pictures=4, table=table)
    assert len(finish(other)["rows"]) == 2 * size + 4, "another task is another batch"


def test_rows_of_another_model_head_or_judge_are_not_continued(pipe, quick, tmp_path, monkeypatch):
    judge, table = load_judge(), tmp_path / "front.csv"
    run = lambda pipe=pipe, judge=judge, tasks=("none",): F.measure_front(pipe, judge, tasks=tasks, seeds=2, pictures=2, table=table)
    begun = run(tasks=("none", "pose", "drag"))
    for _ in range(3):
        next(begun)
    assert [row["version"].count("-") for row in F.read_front(table)] == [0] * 2 + [1] * 2 + [3] * 4, "model and judge, each head, and a drag's defaults"
    before, other = table.read_bytes(), load_pipeline()
    with torch.no_grad():
        list(other.unet.parameters())[7].add_(1e-3)
    with pytest.raises(ValueError, match="front.csv has rows of none by another model, head or judge .*delete them.*name another table"):
        run(other)
    with pytest.raises(ValueError, match="rows of none by another model"):
        run(judge=load_judge().__class__(judge.network, (0.5,) * 14))
    with monkeypatch.context() as patch:
        patch.setattr(F, "load_head", lambda folder, pipe: load_head("data/heads/depth", pipe))
        with pytest.raises(ValueError, match="rows of pose by another model"):
            run()
    with monkeypatch.context() as patch:
        patch.setattr(measure, "HELD", {"step_size": 0.7})
        with pytest.raises(ValueError, match="rows of drag by another model, head, judge or default of a drag"):
            run()
    assert table.read_bytes() == before
    finish(begun)
    assert list(run(tasks=("none", "pose", "drag"))) == []


def test_what_is_shipped_was_measured_with_the_model_heads_and_judge_that_are_shipped(pipe, tmp_path):
    """And all of it: the plain command finds nothing to measure. Asked of a copy, which it may add to where something is missing."""
    table = shutil.copy(find_folder(F.FRONT), tmp_path)
    assert next(F.measure_front(pipe, load_judge(), table=table), None) is None


def test_two_points_are_compared_in_pairs():
    """One picture in four is whole at the second point alone, and what only one of them has is no pair."""
    rows = [row("none", point, seed, i, 0.0) | {"whole": float(point == "b" and i == 0 or i > 1)} for point in "ab" for seed in range(50)
            for i in range(4)] + [row("none", "a", 99, 0, 0.0), row("pose", "b", 99, 0, 0.0)]
    found = F.compare(rows, "none", "b", "a")
    assert found["pairs"] == 200 and found["whole"] == 0.25 and found["attributes"] == 0.0
    assert 0.18 < found["whole_low"] < 0.22 < 0.28 < found["whole_high"] < 0.32
    assert F.compare(rows, "none", "a", "b")["whole"] == -0.25
    with pytest.raises(ValueError, match="no pairs of 'a' and 'c'"):
        F.compare(rows, "none", "a", "c")


def test_points_have_names_of_their_own_and_the_paces_are_among_them():
    for task, points in F.POINTS.items():
        assert len({point.name for point in points}) == len(points)
    pose = {point.name: point.settings for point in F.POINTS["pose"]}
    assert pose["draft"] == paces.DRAFT and pose["full"] == paces.FULL and pose["whole"] == paces.WHOLE
    assert {point.name: point.settings for point in F.POINTS["none"]}["whole"] == paces.WHOLE
    assert {point.name: point.settings for point in F.POINTS["drag"]}["full"] == paces.DRAG_FULL


def test_wrong_tasks_and_points_are_refused(pipe):
    with pytest.raises(ValueError, match="tasks"):
        F.measure_front(pipe, load_judge(), tasks=("poses",))
    with pytest.raises(ValueError, match="points is .*'5 steps'.*choose from 10 steps, "):
        F.measure_front(pipe, load_judge(), tasks=("none",), points=("5 steps",))
    with pytest.raises(SystemExit):
        F.main(["poses"])


def test_the_figure_has_every_point_and_the_names_of_those_that_count():
    rows = F.summarize([row("pose", point, 1, i, 0.5 + i / 4) for point in ("draft", "full", "8 steps") for i in range(2)])
    figure = plots.front(rows, "joints missed", most=1.0, whole={"unguided": rows}, named=("draft", "full"))
    near = figure.axes[0]
    assert {text.get_text() for text in near.texts} == {"draft", "full", "8 steps"}, "as near and as cheap: all are on the front"
    dear = [each | {"passes": 2 * each["passes"]} if each["point"] == "8 steps" else each for each in rows]
    for told, names in ((), {"draft", "full"}), (("8 steps",), {"draft", "full", "8 steps"}):
        axes = plots.front(dear, "joints missed", most=1.0, whole={"unguided": rows}, named=("draft",), told=told).axes[0]
        assert {text.get_text() for text in axes.texts} == names and len(axes.containers) == 3, "every point is drawn"
    assert near.get_yscale() == near.get_xscale() == "log" and near.get_ylabel() == "joints missed"
    missed = {text.get_text(): text.xy[1] for text in near.texts}
    assert missed["full"] == pytest.approx(1 - (0.5 + 0.75) / 2)            # what is missing to the best
    as_it_is = plots.front(rows, "pixels", named=("draft",)).axes[0]
    assert {text.xy[1] for text in as_it_is.texts} == {(0.5 + 0.75) / 2}
    with pytest.raises(ValueError, match="no points"):
        plots.front([], "joints missed")


def test_the_figure_of_several_tasks_has_a_panel_for_each():
    rows = {task: F.summarize([row(task, point, 1, i, 0.5 + i / 4) for point in ("full", "15 steps") for i in range(2)]) for task in ("depth", "edges")}
    dear = rows["depth"] + F.summarize([row("depth", "dear", 1, 0, 0.9) | {"passes": 1000.0}])
    figure = plots.fronts({"RMSE": (rows["depth"], None), "edges missed": (rows["edges"], 1.0), "again": (dear, None)}, named=("full",))
    depth, edges, again, empty = figure.axes
    assert [axes.get_ylabel() for axes in (depth, edges, again)] == ["RMSE", "edges missed", "again"] and not empty.axison
    assert {text.xy[1] for text in depth.texts} == {(0.5 + 0.75) / 2} and {text.xy[1] for text in edges.texts} == {1 - (0.5 + 0.75) / 2}
    assert depth.get_ylim()[0] == 0 and depth.get_yscale() == "linear" and {text.get_text() for text in depth.texts} == {"full", "15 steps"}
    assert len(again.containers) == 3 and {text.get_text() for text in again.texts} == {"full", "15 steps"}, "not on the front: drawn without a name"
    wide = plots.fronts({"pixels": (F.summarize([row("drag", point, 1, 0, far) for point, far in (("full", 2.0), ("15 steps", 9.0))]), None)}).axes[0]
    assert wide.get_yscale() == "log" and wide.get_ylim()[0] > 0, "or what is near would lie in one line"
    assert "dear" in {text.get_text() for text in plots.fronts({"RMSE": (dear, None)}, told=("dear",)).axes[0].texts}
    with pytest.raises(ValueError, match="no points"):
        plots.fronts({"RMSE": ([], None)})


def test_where_a_table_cannot_be_written_nothing_is_measured(pipe, tmp_path):
    (tmp_path / "file").write_text("")
    for table, said in ((tmp_path, "which is a folder; pass a file in it"), (tmp_path / "file" / "x.csv", "the file .* is in its way")):
        with pytest.raises(ValueError, match=said):
            F.measure_front(pipe, load_judge(), tasks=("none",), seeds=1, pictures=1, table=table)
    with pytest.raises(ValueError, match="compare the points of one task at a time"):
        F.compare([row("pose", "a", 0, 0, 1.0)], ("pose", "depth"), "a", "a")


def test_what_is_tried_of_one_property_is_tried_of_all():
    """Every kind of setting that issue after issue names, for pose, depth, edges, looks and drags."""
    kinds = {"a sampler": lambda each: each.sampler, "an interval": lambda each: "stop" in each.objective and each.name != "reference", "moved predictions": lambda each: each.settings.get("moves"),
             "every second step": lambda each: each.schedule, "two moves": lambda each: each.settings.get("inner_steps", 1) > 1,
             "longer moves": lambda each: each.settings.get("step_size") == 0.1, "the authors' settings": lambda each: each.name == "reference",
             "new noise, or none": lambda each: each.name != "reference" and "eta" in each.settings | each.objective}
    for task in set(F.POINTS) - {"none"}:
        assert all(any(map(tried, F.POINTS[task])) for tried in kinds.values()), task
        assert {50, 15, 10} <= {each.settings["num_inference_steps"] for each in F.POINTS[task]}


def test_a_point_says_sampler_and_schedule_of_drags_and_looks(pipe, tmp_path, monkeypatch):
    """What it says reaches the sampling of source and drag."""
    asked = []
    monkeypatch.setattr(F, "drag_sources", lambda *told, **more: asked.append(("source", told[4], more)) or drag_sources(*told, **more))
    monkeypatch.setattr(F, "_made", lambda pipe, prompts, objectives=(), **told: asked.append(("made", objectives, told)) or (
        torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)), 1.0))
    points = [F.Point("a", {"num_inference_steps": 8}, {"eta": 0.0}, F.UniPCMultistepScheduler), F.Point("b", {"num_inference_steps": 8}, schedule=F.every_second)]
    monkeypatch.setitem(F.POINTS, "drag", points)
    monkeypatch.setattr(F, "KINDS", ("puppet",))
    finish(F.measure_front(pipe, load_judge(), tasks=("drag",), seeds=1, pictures=3, table=tmp_path / "front.csv"))
    (_, steps, more), (_, goals, told), (_, _, none), (_, halved, plain) = asked
    assert steps == 8 and type(more["scheduler"]) is type(told["scheduler"]) is F.UniPCMultistepScheduler and told["eta"] == 0.0 and none == {}
    assert "scheduler" not in plain and plain["eta"] == 0.5 and all(each.schedule is F.every_second for each in halved)
    assert not any(each.schedule is F.every_second for each in goals)
