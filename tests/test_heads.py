"""Heads, measurements and figures: geometry by hand, training in miniature, what is shipped, files that are whole."""
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot
import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import rg_minimal
from rg_minimal import basemodel, heads as H, measure as M, plots, puppets
from rg_minimal.judge import load_judge
from rg_minimal.puppets import JOINTS

ROOT = Path(__file__).resolve().parent.parent
MODEL, HEAD = ROOT / "data" / "puppet-diffusion", ROOT / "data" / "heads" / "pose"
TINY = basemodel.Recipe(vae_channels=(8, 8, 8), unet_channels=(16, 16, 32), text_width=16)


@pytest.fixture(scope="module")
def tiny_pipe():
    """Random weights in the shape of the shipped model: latents 4 x 32 x 32, pictures 128 x 128."""
    torch.manual_seed(0)
    both = basemodel.TextAndUNet(TINY)
    pipe = StableDiffusionPipeline(
        vae=basemodel.build_autoencoder(TINY), text_encoder=both.text_encoder, tokenizer=basemodel.build_tokenizer(),
        unet=both.unet, scheduler=basemodel.build_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    return rg_minimal.prepare_pipeline(pipe)


@pytest.fixture(scope="module")
def shipped():
    return rg_minimal.load_pipeline(MODEL, device="cpu")


@pytest.fixture(scope="module")
def pose_head():
    return rg_minimal.ReadoutHead.from_pretrained(HEAD)


@pytest.fixture(scope="module")
def frames():
    return puppets.render(puppets.sample_scenes(16, puppets.HELD_OUT))


# ---------------------------------------------------------------------------------------------- heatmaps

def test_joints_survive_the_way_through_heatmaps(frames):
    inner = 8 + 112 * torch.rand(20, 14, 2, generator=torch.Generator().manual_seed(0))
    for joints in (inner, frames.joints):
        found, peak = H.read_joints(H.heatmaps(joints))
        assert (found - joints).norm(dim=-1).max() < 0.6
        assert 0.89 < peak.min() and peak.max() <= 1      # exp(-1 / 9) half a cell off on both axes
    noisy = H.heatmaps(inner) + 0.02 * torch.randn(20, 14, 32, 32, generator=torch.Generator().manual_seed(1))
    assert (H.read_joints(noisy)[0] - inner).norm(dim=-1).mean() < 0.6
    coarse, _ = H.read_joints(H.heatmaps(inner, cells=64, sigma=1.2))
    assert (coarse - inner).norm(dim=-1).max() < 0.6


def test_a_heatmap_by_hand():
    """One cell is 4 pixels, so a sigma of 1.5 cells is 6 pixels; (10, 14) is the centre of column 2, row 3."""
    maps = H.heatmaps(torch.tensor([[[10.0, 14.0]]]))
    assert maps.shape == (1, 1, 32, 32) and maps[0, 0, 3, 2] == 1 and maps.argmax() == 3 * 32 + 2
    assert maps[0, 0, 3, 3].item() == pytest.approx(math.exp(-16 / 72))
    assert maps[0, 0, 4, 3].item() == pytest.approx(math.exp(-32 / 72))


def test_joints_at_the_rim_and_empty_maps_stay_in_the_picture():
    rim = torch.tensor([[[0.0, 0.0], [128.0, 128.0], [128.0, 0.0]]])
    found, _ = H.read_joints(H.heatmaps(rim))
    assert (found - rim).norm(dim=-1).max() < 10 and found.min() >= 0 and found.max() <= 128
    found, peak = H.read_joints(torch.full((1, 2, 32, 32), -0.5))
    assert found.isfinite().all() and peak.eq(-0.5).all()


def test_the_higher_of_two_peaks_is_read_and_not_their_middle():
    maps = H.heatmaps(torch.tensor([[[20.0, 30.0]]])) + 0.7 * H.heatmaps(torch.tensor([[[100.0, 90.0]]]))
    found, _ = H.read_joints(maps)
    assert (found - torch.tensor([20.0, 30.0])).norm() < 0.6


@pytest.mark.parametrize("joints, message", [
    (torch.zeros(14, 2), r"shape \(14, 2\)"), (torch.zeros(1, 14, 3), r"shape \(1, 14, 3\)"),
    (torch.full((1, 14, 2), math.nan), "finite"), (torch.full((1, 14, 2), math.inf), "finite"),
    (torch.full((1, 14, 2), -3.0), r"\(-3, -3\) lies outside"), (torch.full((1, 14, 2), 128.5), "outside.*move it inside")])
def test_bad_joints_are_named(joints, message):
    with pytest.raises(ValueError, match=message):
        H.heatmaps(joints)


def test_the_pose_loss_counts_more_where_a_joint_is():
    target = H.heatmaps(torch.tensor([[[10.0, 14.0]]]))
    on, off = target.clone(), target.clone()
    on[0, 0, 3, 2] -= 0.5
    off[0, 0, 20, 20] += 0.5
    assert H.pose_loss(target, target) == 0
    assert (H.pose_loss(on, target) / H.pose_loss(off, target)).item() == pytest.approx(21, rel=1e-3)


def test_a_pose_objective_measures_what_the_loss_does(tiny_pipe):
    torch.manual_seed(0)
    head, joints = H.new_pose_head(tiny_pipe), torch.tensor(puppets.skeleton(puppets.sample_scene(1)))[:, :2]
    reading = rg_minimal.read_picture(tiny_pipe, torch.zeros(2, 4, 32, 32), 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values, target = H.pose_objective(head, joints)(reading), H.heatmaps(joints[None])
        assert values.shape == (2,)
        assert torch.allclose(values, torch.stack([H.pose_loss(one[None], target) for one in reading(head)]), rtol=1e-5)
    with pytest.raises(ValueError, match="outside"):
        H.pose_objective(head, joints + 200)
    with pytest.raises(ValueError, match="target has shape|joints have shape|rows"):
        rg_minimal.guided_sample(tiny_pipe, "a puppet", [H.pose_objective(head, joints[None].repeat(3, 1, 1))])


# ---------------------------------------------------------------------------------------------- training

def test_batches_depend_on_seed_and_step_alone():
    pictures, labels = torch.arange(100.0), torch.arange(100.0) * 2
    draw, again, other = (H.draw_batches(pictures, labels, 8, seed) for seed in (3, 3, 4))
    later = again(7)
    assert all(torch.equal(a, b) for a, b in zip(draw(7), later)), "batch 7 depends on what was drawn before"
    assert not torch.equal(draw(7)[0], draw(8)[0]) and not torch.equal(draw(7)[0], other(7)[0])
    assert torch.equal(draw(7)[1], draw(7)[0] * 2), "a label lost its picture"


def test_labelled_pictures_are_new_scenes_with_their_joints():
    pictures, joints = H.labelled_pictures(2)
    trusted = puppets.render(puppets.sample_scenes(2, H.TRAIN_SEED))
    assert torch.equal(pictures, trusted.image) and torch.equal(joints, trusted.joints)
    assert H.TRAIN_SEED + 10**6 < puppets.HELD_OUT <= H.SCORE_SEED


def test_training_a_pose_head_is_repeatable_and_learns(tiny_pipe):
    weights = tiny_pipe.unet.conv_in.weight.clone()
    first, again = (list(H.train_pose_head(tiny_pipe, pictures=4, steps=9, batch=4)) for _ in range(2))
    losses = [state.loss for state in first]
    assert losses == [state.loss for state in again] and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    same, head = (states[-1].head.state_dict() for states in (again, first))
    assert all(torch.equal(head[name], same[name]) for name in head)
    assert torch.equal(tiny_pipe.unet.conv_in.weight, weights), "the denoiser is frozen"
    config = first[-1].head.config
    assert config.out_channels == 14 and config.extra["joints"] == list(JOINTS) and config.property == "pose"


def test_the_score_is_one_for_a_head_that_knows_and_zero_for_one_that_does_not(tiny_pipe, monkeypatch):
    seen = iter(puppets.render(puppets.sample_scenes(4, H.SCORE_SEED)).joints.repeat(2, 1, 1).split(4))
    monkeypatch.setattr(H, "read_picture", lambda *args, **settings: lambda head: H.heatmaps(head(next(seen))))
    assert H.score_pose_head(tiny_pipe, lambda joints: joints, (20, 700), count=4) == {20: 1.0, 700: 1.0}
    seen = iter([torch.full((4, 14, 2), 1.0)])
    assert H.score_pose_head(tiny_pipe, lambda joints: joints, (20,), count=4) == {20: 0.0}


def test_a_head_is_written_with_its_card(tiny_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(H, "load_pipeline", lambda model: tiny_pipe)
    monkeypatch.setattr(H, "score_pose_head", lambda pipe, head: {20: 0.9876, 750: 0.4321})
    result = H.make_pose_head(tmp_path / "pose", "ignored", pictures=4, steps=2, batch=2)
    head = rg_minimal.ReadoutHead.from_pretrained(tmp_path / "pose")
    card = (tmp_path / "pose" / "README.md").read_text()
    assert "| timestep | t = 20 | t = 750 |" in card and "0.988 | 0.432" in card and ", ".join(JOINTS) in card
    assert head.config.extra["training"]["pictures"] == 4 and result["scores"] == {20: 0.9876, 750: 0.4321}
    assert {value.dtype for value in rg_minimal.ReadoutHead.from_pretrained(tmp_path / "pose").parameters()} == {torch.float32}


@pytest.mark.parametrize("settings, message", [({"steps": 0}, "steps is 0"), ({"steps": -1}, "steps is -1"),
                                               ({"pictures": 0}, "count is 0")])
def test_bad_training_settings_are_named_at_once(tiny_pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        H.train_pose_head(tiny_pipe, **{"pictures": 2, "steps": 2, "batch": 2, **settings})


# ---------------------------------------------------------------------------------------------- the head that is shipped

def test_the_shipped_head_is_small_and_described(shipped, pose_head):
    assert sum(path.stat().st_size for path in HEAD.rglob("*") if path.is_file()) <= 4e6
    assert (HEAD / "README.md").is_file() and pose_head.config.extra["joints"] == list(JOINTS)
    pose_head.check(shipped.unet)


def test_the_shipped_head_reads_held_out_poses(shipped, pose_head):
    scores = H.score_pose_head(shipped, pose_head, (100, 750), count=32)
    assert scores[100] >= 0.95 and scores[100] > scores[750] > 0.2


def test_ten_guided_steps_move_towards_the_target(shipped, pose_head):
    """By the head's own loss on the finished pictures, noised alike; the judge's word is in data/results."""
    scenes = puppets.sample_scenes(2, M.POSE_SEED)
    goal = H.pose_objective(pose_head, puppets.render(scenes).joints)

    def final_loss(objectives):
        rng = torch.Generator().manual_seed(0)
        _, latents = rg_minimal.sample(shipped, [scene.caption for scene in scenes], objectives, num_inference_steps=10,
                                       generator=rng)
        reading = rg_minimal.read_picture(shipped, latents, 100, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return goal(reading)

    unguided, guided = final_loss([]), final_loss([goal])
    assert (guided < 0.8 * unguided).all(), (unguided, guided)


# ---------------------------------------------------------------------------------------------- measurements

def counting(n):
    for i in range(n):
        yield i + 1, n
    return {"result": n}


def test_finish_reports_progress_and_returns_the_result():
    seen = []
    assert M.finish(counting(3), lambda done, of: seen.append((done, of))) == {"result": 3}
    assert seen == [(1, 3), (2, 3), (3, 3)] and M.finish(counting(0)) == {"result": 0}


def test_a_result_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = M.write_result("pose", {"pck": 0.5}, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "pose.json" and json.loads(path.read_text()) == {"pck": 0.5}
    with pytest.raises(TypeError):
        M.write_result("pose", {"pck": object()}, path.parent)

    def killed(*paths):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        M.write_result("pose", {"pck": 0.9}, path.parent)
    assert json.loads(path.read_text()) == {"pck": 0.5}
    M.write_result("pose", {"pck": 0.9}, path.parent)
    assert [(file.name, json.loads(file.read_text())) for file in path.parent.iterdir()] == [("pose.json", {"pck": 0.9})]


def drawn_instead(monkeypatch, draw):
    """Let the measurements see `draw(scene, guided)` rendered, where they would sample a picture."""
    def sample(pipe, prompts, objectives=(), **settings):
        scenes = [known[prompt] for prompt in prompts]
        return puppets.render([draw(scene, bool(objectives)) for scene in scenes]).image, None
    known = {scene.caption: scene for seed in (M.BASE_SEED, M.POSE_SEED) for scene in puppets.sample_scenes(12, seed)}
    assert len(known) == 24
    monkeypatch.setattr(M, "sample", sample)
    monkeypatch.setattr(M, "autoencoder_psnr", lambda vae, count: 33.0)


def test_the_base_measurement_believes_renderings_and_no_others(tiny_pipe, monkeypatch):
    """Sampling replaced by rendering what the caption says, so the answer is known; then with every shirt changed."""
    drawn_instead(monkeypatch, lambda scene, guided: scene)
    seen = []
    result = M.finish(M.measure_base(tiny_pipe, load_judge(), count=12, steps=1, batch=5), lambda *state: seen.append(state))
    assert seen == [(5, 12), (10, 12), (12, 12)]
    accuracy = result["attribute_accuracy"]
    assert set(accuracy) == {*M.MEASURED, "mean"} and min(accuracy.values()) > 0.9 and result["all_joints_found"] > 0.7
    assert accuracy["mean"] == pytest.approx(sum(accuracy[name] for name in M.MEASURED) / len(M.MEASURED))
    assert json.loads(json.dumps(result)) == result and result["vae_psnr_db"] == 33.0

    other = {"black": "white", "white": "red"}
    drawn_instead(monkeypatch, lambda scene, guided: replace(scene, puppet=replace(
        scene.puppet, shirt=other.get(scene.puppet.shirt, "black"))))
    wrong = M.finish(M.measure_base(tiny_pipe, load_judge(), count=12, steps=1, batch=5))["attribute_accuracy"]
    assert wrong["shirt"] < 0.1 and wrong["background"] > 0.9


def test_the_pose_measurement_tells_the_right_pose_from_another(tiny_pipe, monkeypatch):
    """Guided: a rendering in the target pose. Unguided: the same puppet far off, so no joint is in place."""
    moved = lambda scene: replace(scene, x=64.0 + (34 if scene.x < 64 else -34), size=0.8 * scene.size)
    drawn_instead(monkeypatch, lambda scene, guided: scene if guided else moved(scene))
    head = H.new_pose_head(tiny_pipe)
    result = M.finish(M.measure_pose(tiny_pipe, load_judge(), head, count=6, steps=1, batch=4, objective={"weight": 2.0}))
    assert result["guided"]["pck@0.05"] > 0.95 and result["guided"]["pck@0.1"] >= result["guided"]["pck@0.05"]
    assert result["unguided"]["pck@0.05"] < 0.3 and result["settings"] == {"weight": 2.0}
    assert min(result["guided"]["attribute_accuracy"], result["guided"]["all_joints_found"]) > 0.6
    assert json.loads(json.dumps(result)) == result


def test_the_cost_of_guidance_is_measured(tiny_pipe):
    head = H.new_pose_head(tiny_pipe)
    result = M.finish(M.measure_cost(tiny_pipe, head, steps=2, repeats=1))
    assert result["process_time_ratio"] == pytest.approx(
        result["process_seconds"]["guided"] / result["process_seconds"]["unguided"])
    assert result["process_time_ratio"] > 0 and 50 < result["peak_memory_mb"] < 64_000
    assert set(result["wall_seconds"]) == {"guided", "unguided"}


def test_the_shipped_model_is_measured_from_end_to_end(shipped, monkeypatch):
    monkeypatch.setattr(M, "autoencoder_psnr", lambda vae, count: 33.0)           # tests/test_basemodel.py measures it
    result = M.finish(M.measure_base(shipped, load_judge(), count=4, steps=10, batch=3))
    assert result["attribute_accuracy"]["mean"] > 0.6, "ten steps are few, but not this few"


# ---------------------------------------------------------------------------------------------- figures

def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def markers(axes):
    return [line for line in axes.lines if line.get_marker() in ("o", "s")]


def test_a_grid_has_a_place_for_each_picture(frames):
    figure = plots.picture_grid(frames.image[:10], [f"no. {i}" for i in range(10)], columns=4,
                                skeletons=[frames.joints[0], None, frames.joints[2]])
    assert len(figure.axes) == 12 and titles(figure) == [f"no. {i}" for i in range(10)] + ["", ""]
    assert [len(axes.images) for axes in figure.axes] == [1] * 10 + [0, 0]
    assert [len(markers(axes)) for axes in figure.axes[:4]] == [14, 0, 14, 0]
    shown = figure.axes[3].images[0].get_array()
    assert numpy.allclose(shown, frames.image[3].permute(1, 2, 0).numpy())
    assert len(plots.picture_grid(frames.depth[:3]).axes) == 3


def test_a_skeleton_is_drawn_where_its_joints_are(frames):
    figure = plots.skeleton_figure(frames.joints[0], title="a target")
    axes, = figure.axes
    assert titles(figure) == ["a target"] and axes.get_ylim() == (128, 0)
    places = torch.tensor([[line.get_xdata()[0], line.get_ydata()[0]] for line in markers(axes)])
    assert torch.allclose(places.float(), frames.joints[0], atol=1e-4)
    colour = {name: (line.get_color(), line.get_marker()) for name, line in zip(JOINTS, markers(axes))}
    assert colour["left_knee"] == (plots.LEFT, "o") and colour["right_knee"] == (plots.RIGHT, "s")
    assert colour["neck"][0] == plots.MIDDLE and len(axes.lines) == 14 + 2 * len(puppets.LIMBS)


def test_a_comparison_has_three_rows_with_names_and_scores(frames):
    figure = plots.pose_comparison(frames.image[:4], frames.joints[:4], frames.image[4:8], [(0.25, 1.0)] * 4)
    assert len(figure.axes) == 12
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["unguided", "target pose", "guided"]
    assert "25%" in figure.axes[0].get_title() and "100%" in figure.axes[8].get_title()
    assert [len(markers(axes)) for axes in figure.axes[3::4]] == [0, 14, 14] or len(markers(figure.axes[4])) == 14
    assert len(plots.pose_comparison(frames.image[:1], frames.joints[:1], frames.image[:1]).axes) == 3


def test_a_strip_shows_the_picture_and_each_readout(frames):
    maps = H.heatmaps(frames.joints[:1])[0, :3]
    figure = plots.readout_strip(frames.image[0], maps, ["t = 20", "t = 300", "t = 700"], [frames.joints[0]])
    assert titles(figure) == ["the picture", "t = 20", "t = 300", "t = 700"]
    assert [len(axes.images) for axes in figure.axes] == [1, 2, 2, 2]
    assert [len(markers(axes)) for axes in figure.axes] == [0, 14, 0, 0]


def test_a_curve_and_its_running_mean():
    axes, = plots.curve([1.0, 2.0, 3.0, 6.0], "loss", smooth=2).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 2, 3, 6], [1.5, 2.5, 4.5]]
    assert list(axes.lines[1].get_xdata()) == [1, 2, 3] and axes.get_ylabel() == "loss" and axes.get_xlabel() == "step"
    assert len(plots.curve([1.0], "loss", smooth=5).axes[0].lines) == 1


def test_a_sheet_is_written_pixel_for_pixel(frames, tmp_path):
    path = plots.save_grid(frames.image[:5], tmp_path / "new" / "sheet.png", columns=3)
    with Image.open(path) as image:
        sheet = torch.from_numpy(numpy.array(image))
    assert sheet.shape == (256, 384, 3)
    trusted = (frames.image * 255).round().byte().permute(0, 2, 3, 1)
    for i in range(5):
        y, x = 128 * (i // 3), 128 * (i % 3)
        assert torch.equal(sheet[y:y + 128, x:x + 128], trusted[i])
    assert sheet[128:, 256:].eq(255).all()


def test_figures_are_written_and_none_is_shown(frames, tmp_path):
    path = plots.save_figure(plots.picture_grid(frames.image[:2], size=1.0), tmp_path / "new" / "figure.png", dpi=50)
    with Image.open(path) as image:
        assert image.size == (100, 51)
    assert matplotlib.pyplot.get_fignums() == [], "a figure was left open in pyplot"
