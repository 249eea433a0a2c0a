"""Heads, measurements and figures: geometry by hand, training in miniature, what is shipped, files that are whole."""
import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot
import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import rg_minimal
from rg_minimal import paces, puppets
from rg_minimal.classroom import plots, sheets
from rg_minimal.puppets import basemodel, heads as H, measure as M
from rg_minimal.puppets.editing import HELD
from rg_minimal.puppets.judge import load_judge
from rg_minimal.puppets import JOINTS

ROOT = Path(__file__).resolve().parent.parent
MODEL, HEADS = ROOT / "data" / "puppet-diffusion", ROOT / "data" / "heads"
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
    return rg_minimal.ReadoutHead.from_pretrained(HEADS / "pose")


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
    head, joints = H.new_head(tiny_pipe, "pose"), torch.tensor(puppets.skeleton(puppets.sample_scene(1)))[:, :2]
    reading = rg_minimal.read_picture(tiny_pipe, None, 100, latents=torch.zeros(2, 4, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values, target = H.pose_objective(head, joints)(reading), H.heatmaps(joints[None])
        assert values.shape == (2,)
        assert torch.allclose(values, torch.stack([H.pose_loss(one[None], target) for one in reading(head)]), rtol=1e-5)
    with pytest.raises(ValueError, match="outside"):
        H.pose_objective(head, joints + 200)
    with pytest.raises(ValueError, match="target has shape|joints have shape|rows"):
        rg_minimal.guided_sample(tiny_pipe, "a puppet", [H.pose_objective(head, joints[None].repeat(3, 1, 1))])


# ---------------------------------------------------------------------------------------------- depth and edges

def test_depth_is_averaged_over_cells_and_read_back():
    depth = torch.zeros(1, 1, 128, 128)
    depth[0, 0, 8:12, 4:8], depth[0, 0, 0:2, 0:4] = 1, 0.5                     # cell (row 2, column 1); half of cell (0, 0)
    target = H.depth_target(depth)
    assert target.shape == (1, 1, 32, 32) and target[0, 0, 2, 1] == 1 and target[0, 0, 0, 0] == -0.5
    assert target.sum() == 1 - 0.5 - (32 * 32 - 2) and torch.equal(H.depth_target(depth[0]), target)
    assert H.read_depth(target)[0, 0, 0, 0] == 0.25 and H.read_depth(torch.tensor([-1.0, 1.0])).tolist() == [0, 1]
    assert H.depth_target(torch.ones(1, 1, 50, 70)).eq(1).all(), "a painted map may have any size"


def test_edges_are_folded_into_quarters_and_read_back():
    edges = torch.zeros(1, 1, 128, 128)
    edges[0, 0, 9, 5] = edges[0, 0, 11, 7] = 1               # both in cell (row 2, column 1), upper left and lower right
    target = H.edge_target(edges)
    assert target.shape == (1, 4, 32, 32) and target[0, :, 2, 1].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert target.eq(0.5).sum() == 2 and target.eq(-0.5).sum() == 4 * 32 * 32 - 2
    lines = H.read_edges(target)
    assert lines.shape == (1, 1, 64, 64) and lines.nonzero()[:, 2:].tolist() == [[4, 2], [5, 3]]
    assert H.edge_target(0.49 * edges).eq(-0.5).all()


def test_strokes_by_hand():
    drawn = H.draw_strokes([[(10.5, 20.5), (14.5, 20.5)], [(100.5, 50.5), (100.5, 50.5)]], thickness=1)[0, 0]
    assert drawn.shape == (128, 128) and drawn.nonzero().tolist() == [[20, x] for x in range(10, 15)] + [[50, 100]]
    wide = H.draw_strokes([[(64.0, 10.0), (64.0, 110.0), (20.0, 110.0)]], thickness=4)
    assert wide[0, 0, 60, 62:66].all() and not wide[0, 0, 60, [61, 66]].any() and wide[0, 0, 110, 30] == 1
    assert H.draw_strokes([]).sum() == 0


@pytest.mark.parametrize("stroke", [[(1.0, 2.0)], [(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)], [(1.0, math.nan), (2.0, 3.0)]])
def test_bad_strokes_are_named(stroke):
    with pytest.raises(ValueError, match=r"a stroke (has shape|is) .*\(N, 2\)"):
        H.draw_strokes([stroke])


@pytest.mark.parametrize("make, name", [(H.depth_target, "depth"), (H.edge_target, "edges")])
@pytest.mark.parametrize("value, message", [
    (torch.zeros(1, 3, 8, 8), "one channel"), (torch.zeros(8, 8), "pass a tensor"), (torch.full((1, 8, 8), 1.5), "in .0, 1."),
    (torch.full((1, 8, 8), math.nan), "NaN"), ([0.5], "pass a tensor")])
def test_bad_maps_are_named(make, name, value, message):
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        make(value)


@pytest.fixture(scope="module")
def fresh(tiny_pipe):
    """An untrained head for each task."""
    return {name: H.new_head(tiny_pipe, name) for name in H.TASKS}


@pytest.fixture(scope="module")
def reading(tiny_pipe):
    return rg_minimal.read_picture(tiny_pipe, None, 100, latents=torch.zeros(2, 4, 32, 32), generator=torch.Generator().manual_seed(0))


def test_a_depth_objective_is_the_mean_square_of_each_picture(fresh, reading, frames):
    with torch.no_grad():
        values, readout = H.depth_objective(fresh["depth"], frames.depth[:2])(reading), reading(fresh["depth"])
    cells = frames.depth[:2].unflatten(3, (32, 4)).unflatten(2, (32, 4)).mean((3, 5)) * 2 - 1
    assert torch.allclose(values, (readout - cells).square().mean((1, 2, 3)), rtol=1e-4)


def test_notebooks_5_and_6_say_what_counts_more(fresh, frames):
    """All three are squared errors, and not of all cells alike; the same error everywhere shows how much each of them counts."""
    counts = {}
    for name, goal in (("pose", H.pose_objective(fresh["pose"], frames.joints)), ("depth", H.depth_objective(fresh["depth"], frames.depth)),
                       ("edges", H.edge_objective(fresh["edges"], frames.edges))):
        target = goal.target
        counts[name] = goal.distance(target + 1, target) if goal.distance else torch.ones_like(target)
    pose, drawn = H.heatmaps(frames.joints), H.edge_target(frames.edges) > 0
    assert torch.allclose(counts["pose"], 1 + 20 * pose) and (counts["depth"] == 1).all()
    assert torch.allclose((counts["edges"] * drawn).sum((1, 2, 3)), (counts["edges"] * ~drawn).sum((1, 2, 3)), rtol=1e-3)
    five, six = ((Path(__file__).parent.parent / f"notebooks/{name}.ipynb").read_text(encoding="utf-8") for name in ("05_guided_sampling", "06_sketches"))
    assert "which counts more where a joint is wanted" in five
    assert "the places of the joints count most, in depth all places alike, in edges the lines as much as all the empty places together" in six


def test_an_edge_objective_balances_lines_and_background(fresh, reading, frames):
    head, edges = fresh["edges"], frames.edges[:2]
    with torch.no_grad():
        values, sketch = (H.edge_objective(head, edges, background=b)(reading) for b in (1.0, 0.0))
        readout, target = reading(head), H.edge_target(edges)
        for i in range(2):
            assert values[i].item() == pytest.approx(H.edge_loss(readout[i:i + 1], target[i:i + 1]).item(), rel=1e-4)
            on = target[i] > 0
            assert sketch[i].item() == pytest.approx((readout[i][on] - 0.5).square().mean().item(), rel=1e-4)
        assert H.edge_objective(head, torch.zeros(1, 8, 8))(reading).isfinite().all()
    for background in (-1.0, math.nan):
        with pytest.raises(ValueError, match="background is"):
            H.edge_objective(head, edges, background=background)
    with pytest.raises(ValueError, match="without any edge"):
        H.edge_objective(head, torch.zeros(1, 8, 8), background=0)


def test_an_objective_refuses_a_head_that_reads_something_else(fresh, frames):
    with pytest.raises(ValueError, match="reads edges, not depth"):
        H.depth_objective(fresh["edges"], frames.depth)
    with pytest.raises(ValueError, match="reads depth, not edges"):
        H.edge_objective(fresh["depth"], frames.edges)
    with pytest.raises(ValueError, match="reads depth, not pose"):
        H.pose_objective(fresh["depth"], frames.joints)
    with pytest.raises(ValueError, match="reads pose, not correspondence"):
        H.drag_objective(fresh["pose"], None, [(1, 2)], [(3, 4)])
    with pytest.raises(ValueError, match="reads pose, not appearance"):
        H.identity_objective(fresh["pose"], None)


def test_a_stroke_draws_something():
    with pytest.raises(ValueError, match="lies outside the picture of 128 x 128"):
        H.draw_strokes([[(10, 10), (20, 10)], [(500, 500), (600, 600)]])
    for y in (10.0, 10.3, 10.5):
        assert H.draw_strokes([[(10, y), (50, y)]], thickness=0.01).sum() >= 40
    assert H.draw_strokes([[(-20, 64.5), (20, 64.5)]]).any()                # what is inside of one that comes from outside


# ---------------------------------------------------------------------------------------------- points and looks

def test_shifted_features_are_matched_where_they_went():
    """Features rolled by 3 cells right and 2 down: every match is 12 pixels right and 8 down."""
    features = torch.randn(2, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = features.roll((2, 3), (2, 3))
    points = torch.tensor([[[42.0, 62.0], [10.0, 14.0]]]).repeat(2, 1, 1)                  # centres of cells
    found = H.match_points(features, moved, points)
    assert torch.equal(found, points + torch.tensor([12.0, 8.0]))
    truth = points + torch.tensor([[12.0, 8.0], [22.0, 8.0]])                              # the second is 10 pixels off
    assert H.match_score(features, moved, points, truth, torch.tensor([99.0, 100.0])).tolist() == [0.5, 1.0]


def test_a_triplet_counts_where_the_positive_is_nearer():
    right, up = (torch.eye(3)[i].reshape(1, 3, 1, 1) for i in (0, 1))
    scores = [H.triplet_score(right, 3 * right, up), H.triplet_score(right, up, right), H.triplet_score(right, up, up)]
    assert [score.tolist() for score in scores] == [[1], [0], [0]]
    half = torch.cat((right, up), 3)                                                       # (1, 3, 1, 2), their mean lies between
    assert H.triplet_score(half, half.flip(3), right.expand(1, 3, 1, 2)).tolist() == [1], "the place does not matter"


def test_the_loss_of_looks_is_zero_for_features_that_tell_the_puppets_apart_and_not_for_equal_ones():
    feature = lambda *values: torch.tensor(values).reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    first, second, common = feature(1.0, 0, 0), feature(0, 1.0, 0), feature(0, 0, 100.0)
    apart, loss = [first, first, second, second], H.TASKS["appearance"].loss
    assert loss(*apart) == pytest.approx(0, abs=1e-4) and loss(*[common] * 4) == pytest.approx(1, abs=1e-3)
    assert loss(*[apart[i] for i in (0, 2, 1, 3)]) > 1.5
    drowned = [each + common for each in apart]
    assert loss(*drowned) == pytest.approx(0.5, abs=1e-3), "the half of it without what they have in common"
    assert loss(*[drowned[i] for i in (0, 2, 1, 3)]) > 1.2


def test_drag_and_identity_objectives_are_the_cores(fresh, tiny_pipe, reading):
    source = rg_minimal.Source.from_picture(tiny_pipe, latents=torch.zeros(1, 4, 32, 32), generator=torch.Generator().manual_seed(1))
    drag = H.drag_objective(fresh["correspondence"], source, [(30, 40)], torch.tensor([[50.0, 60.0]]), weight=2.0)
    same = H.identity_objective(fresh["appearance"], source)
    assert drag.source_points.tolist() == [[30, 40]] and drag.target_points.tolist() == [[50, 60]] and drag.weight == 2
    assert same.pool and not H.identity_objective(fresh["appearance"], source, pool=False).pool
    with torch.no_grad():
        assert drag(reading).shape == same(reading).shape == (2,)


# ---------------------------------------------------------------------------------------------- samples

def test_samples_are_new_scenes_with_their_truth(tiny_pipe):
    """Against the renderer itself; pictures of chunks of 2, so the third sample comes from another chunk."""
    trusted = puppets.render(puppets.sample_scenes(3, H.TRAIN_SEED))
    pose, depth, edges = (H.collect(tiny_pipe, name, 3, chunk=2) for name in ("pose", "depth", "edges"))
    assert torch.equal(pose.truth[0], trusted.joints) and torch.equal(pose.truth[1], trusted.visible)
    assert torch.equal(depth.truth[0], H.depth_target(trusted.depth))
    assert torch.equal(edges.truth[0], H.edge_target(trusted.edges))
    for samples in (pose, depth, edges):
        assert len(samples) == 3 and len(samples.latents) == 1
        assert torch.allclose(samples.latents[0], rg_minimal.encode(tiny_pipe, trusted.image), atol=1e-5)
    assert torch.equal(pose[1:].truth[0], trusted.joints[1:]) and len(pose[torch.tensor([2, 2])]) == 2
    assert H.TRAIN_SEED + 10**6 < puppets.HELD_OUT <= H.SCORE_SEED


def test_pairs_and_triplets_are_those_of_the_puppet_world():
    (first, second), (points_a, points_b, side) = H.TASKS["correspondence"].samples(2, 7)
    one, two = puppets.sample_pair(8)
    assert torch.equal(first[1:], puppets.render(one).image) and torch.equal(second[1:], puppets.render(two).image)
    joints = puppets.render(two).joints[0]
    assert side[1] == max(joints[:, 0].max() - joints[:, 0].min(), joints[:, 1].max() - joints[:, 1].min())
    assert points_a.shape == points_b.shape == (2, H.POINTS, 2)
    frame_a, frame_b = puppets.render(one), puppets.render(two)
    part = lambda frame, points: frame.parts[0, points[:, 1].long(), points[:, 0].long()]
    assert torch.equal(part(frame_a, points_a[1]), part(frame_b, points_b[1])), "a match lies on another part"
    (anchor, positive, negative, again), truth = H.TASKS["appearance"].samples(2, 7)
    assert truth == () and all(torch.equal(pictures[1:], puppets.render(scene).image)
                               for pictures, scene in zip((anchor, positive, negative), puppets.sample_triplet(8)))
    (anchor, _, other, _), _ = H.TASKS["appearance"].held_out(1, 7)
    assert torch.equal(anchor, puppets.render(puppets.sample_triplet(7)[0]).image)
    assert torch.equal(other, puppets.render(puppets.sample_triplet(7, ("shirt", "trousers"))[2]).image)
    assert [*H.TASKS["appearance"].further] == [f"{look} alone differs" for look in puppets.LOOKS]
    scenes = H.sample_looks(8)
    assert scenes[3].puppet == replace(scenes[1].puppet, **{name: getattr(scenes[2].puppet, name)
                                                            for name in puppets.LOOKS})
    assert replace(scenes[3], puppet=scenes[1].puppet) == scenes[1], "the fourth picture is the second with other clothes"


def test_some_matches_lie_on_the_prop_where_both_pictures_show_it():
    first, second = (puppets.render(scenes) for scenes in zip(*(puppets.sample_pair(seed) for seed in range(12))))
    points = puppets.correspondences(first, second, 20, on_prop=5)
    plain = puppets.correspondences(first, second, 20)
    prop = puppets.PART["prop"]
    shown = [[frames.parts[i, at[:, 1].long(), at[:, 0].long()] == prop for frames, at in zip((first, second), (a, b))]
             for i, (a, b) in enumerate(zip(*points))]
    counts = [int(a.sum()) for a, _ in shown]
    assert set(counts) == {0, 5} and all(torch.equal(a, b) and (not a.any() or a[-5:].all()) for a, b in shown)
    same = [a.prop == b.prop != "none" for a, b in zip(first.scenes, second.scenes)]
    assert all(on or not count for on, count in zip(same, counts))
    assert [tuple(p.shape) for p in plain] == [(12, 20, 2)] * 2


def test_batches_depend_on_seed_and_step_alone():
    samples = H.Samples((torch.arange(100.0), -torch.arange(100.0)), (torch.arange(100.0) * 2,))
    draw, again, other = (H.draw_batches(samples, 8, seed) for seed in (3, 3, 4))
    later = again(7)
    assert all(torch.equal(a, b) for a, b in zip(draw(7)[0], later[0])), "batch 7 depends on what was drawn before"
    assert not torch.equal(draw(7)[1], draw(8)[1]) and not torch.equal(draw(7)[1], other(7)[1])
    (first, second), label = draw(7)
    assert torch.equal(label, first * 2) and torch.equal(second, -first), "a label lost its picture"


# ---------------------------------------------------------------------------------------------- training

CHANNELS = {"pose": (14, "none"), "depth": (1, "tanh"), "edges": (4, "tanh"), "correspondence": (0, "none"),
            "appearance": (0, "none")}


@pytest.mark.parametrize("name", CHANNELS)
def test_every_head_trains_repeatably_and_the_denoiser_stays_frozen(tiny_pipe, name):
    weights = tiny_pipe.unet.conv_in.weight.clone()
    samples, random_state = H.collect(tiny_pipe, name, 2), torch.get_rng_state()
    first, again = (list(H.train_task(tiny_pipe, name, samples, steps=2, batch=2)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random_state), "training drew from torch's global generator"
    assert [state.loss for state in first] == [state.loss for state in again] and len(first) == 2
    same, head = (states[-1].head.state_dict() for states in (again, first))
    assert all(torch.equal(head[key], same[key]) for key in head)
    untrained = H.new_head(tiny_pipe, name).state_dict()
    assert not torch.equal(head["mixing_weights"], untrained["mixing_weights"]), "no gradient reached the head"
    assert torch.equal(tiny_pipe.unet.conv_in.weight, weights), "the denoiser is frozen"
    config = first[-1].head.config
    assert (config.out_channels, config.activation) == CHANNELS[name] and config.property == name
    assert config.width == 128 and config.hidden_channels == (64, 32) and config.resize_late
    assert set(CHANNELS) == set(H.TASKS)


def test_training_a_pose_head_learns(tiny_pipe):
    losses = [state.loss for state in H.train_task(tiny_pipe, "pose", count=4, steps=9, batch=4)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_killed_training_ends_with_the_same_bits(tiny_pipe, tmp_path):
    samples = H.collect(tiny_pipe, "edges", 2)
    start = lambda **files: H.train_task(tiny_pipe, "edges", samples, steps=4, batch=2, checkpoint_every=2, **files)
    *_, whole = start()
    for state in start(checkpoint=tmp_path / "edges.safetensors"):
        if state.step == 3:
            break
    *rest, resumed = start(checkpoint=tmp_path / "edges.safetensors")
    assert [state.step for state in rest] == [3] and resumed.loss == whole.loss
    other = resumed.head.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.head.state_dict().items())


@pytest.mark.parametrize("settings, message", [
    ({"steps": 0}, "steps is 0"), ({"steps": -1}, "steps is -1"), ({"count": 0}, "count is 0"), ({"batch": 1.5}, "batch is 1.5"),
    ({"lr": 0.0}, "lr is 0"), ({"lr": math.nan}, "lr is nan")])
def test_bad_training_settings_are_named_at_once(tiny_pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        H.train_task(tiny_pipe, "pose", **{"count": 2, "steps": 2, "batch": 2, **settings})


@pytest.mark.parametrize("name, values", {
    "name": ["", 3], "reads": [None], "samples": [None, "f"], "loss": ["mse"], "score": [None], "out_channels": [-1, 1.5, True],
    "activation": ["relu"], "unit": [""], "learns": [3], "measure": [None], "measured": [3], "limits": [None], "extra": [[], "x"],
    "held_out": ["f"], "further": [[], {"x": 3}], "count": ["3", 0], "steps": [True], "batch": [None], "lr": [-1, "x", True]}.items())
def test_a_task_names_the_field_the_value_and_what_is_allowed(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} is .*: \w.{{10,}}"):
            replace(H.TASKS["pose"], **{name: value})


def test_an_unknown_task_is_named_with_those_there_are(tiny_pipe):
    for call in (H.get_task, lambda name: H.new_head(tiny_pipe, name), lambda name: H.train_task(tiny_pipe, name)):
        with pytest.raises(ValueError, match="no task 'poses'; choose one of pose, depth, edges, correspondence, appearance"):
            call("poses")


def test_a_property_of_your_own_is_one_more_task(tiny_pipe):
    """A map of parts, read as 20 logits and learned by cross-entropy, which then guides: the core knows nothing of it."""
    def samples(count, seed):
        frames = puppets.render(puppets.sample_scenes(count, seed))
        return (frames.image,), (frames.parts[:, 2::4, 2::4],)                             # (B, 32, 32)

    share = lambda readout, parts: (readout.argmax(1) == parts).float().mean((1, 2))
    parts = H.Task("parts", "logits of parts", samples, torch.nn.functional.cross_entropy, share,
                   out_channels=len(puppets.PARTS), count=2, batch=2, steps=12)
    data = H.collect(tiny_pipe, parts)
    states = list(H.train_task(tiny_pipe, parts, data))
    assert states[-1].loss < states[0].loss
    trained, = H.score_head(tiny_pipe, parts, states[-1].head, (100,), data).values()
    assert trained > 0.3, "sky and ground alone are more"
    distance = lambda readout, target: torch.nn.functional.cross_entropy(readout, target[:, 0].long(), reduction="none")[:, None]
    goal = rg_minimal.SpatialObjective(head=states[-1].head, target=data.truth[0][:1, None].float(), distance=distance)
    state = next(iter(rg_minimal.guided_sample(tiny_pipe, "a puppet", [goal], num_inference_steps=2)))
    assert state.latents.isfinite().all()


# ---------------------------------------------------------------------------------------------- scores

def test_the_score_is_one_for_a_head_that_knows_and_zero_for_one_that_does_not(tiny_pipe, monkeypatch):
    joints = puppets.render(puppets.sample_scenes(4, H.SCORE_SEED)).joints
    monkeypatch.setattr(H, "read_picture", lambda *args, **settings: lambda head: H.heatmaps(head(joints)))
    assert H.score_head(tiny_pipe, "pose", lambda joints: joints, (20, 700), count=4) == {20: 1.0, 700: 1.0}
    assert H.score_head(tiny_pipe, "pose", lambda joints: torch.full_like(joints, 2.0), (20,), count=4) == {20: 0.0}


def test_a_task_may_be_scored_on_samples_of_another_kind(tiny_pipe):
    made = {"train": [], "score": []}

    def samples(name):
        def make(count, seed):
            made[name].append((count, seed))
            return (torch.zeros(count, 3, 32, 32),), (torch.full((count,), float(name == "score")),)
        return make
    task = H.Task("own", "", samples("train"), None, lambda readout, truth: truth, out_channels=1, count=2, held_out=samples("score"))
    assert H.collect(tiny_pipe, task).truth[0].tolist() == [0, 0]
    assert H.score_head(tiny_pipe, task, H.new_head(tiny_pipe, task), (100,), count=3) == {100: 1.0}
    assert made == {"train": [(2, H.TRAIN_SEED)], "score": [(3, H.SCORE_SEED)]}


def test_maps_are_scored_by_the_judges_measures(frames):
    depth, edges = H.depth_target(frames.depth), H.edge_target(frames.edges)
    assert H.TASKS["depth"].score(depth, depth).max() < 1e-3 and H.TASKS["edges"].score(edges, edges).eq(1).all()
    flat = H.TASKS["depth"].score(torch.zeros_like(depth), depth)                          # the spread of the truth
    assert torch.allclose(flat, (depth / 2).flatten(1).std(1, correction=0), rtol=1e-4)
    thick = H.edge_target(torch.nn.functional.max_pool2d(H.read_edges(edges), 3, 1, 1))
    assert H.TASKS["edges"].score(torch.full_like(edges, -0.5), edges).eq(0).all()
    assert H.TASKS["edges"].score(thick, edges).max() < 0.7, "lines of three cells for one"


def test_raw_layers_are_scored_each_by_itself(tiny_pipe, monkeypatch):
    """Layers that know nothing but one, whose features are the same number for the same puppet."""
    layers = len(H.new_head(tiny_pipe, "appearance").config.layer_channels)
    calls = iter(range(100))

    def read(pipe, pictures, timestep, generator, latents):
        index = next(calls) % 3                                                            # anchor, positive, negative
        features = [torch.ones(len(latents), 3, 4, 4) for _ in range(layers)]
        features[1] = torch.eye(3)[1 if index == 2 else 0].reshape(1, 3, 1, 1).expand(len(latents), 3, 8, 8)
        return rg_minimal.readout.Reading(None, features, latents, timestep)
    monkeypatch.setattr(H, "read_picture", read)
    samples = H.Samples((torch.zeros(3, 4, 32, 32),) * 3, ())
    assert H.score_raw_layers(tiny_pipe, "appearance", (20, 100), samples) == {
        t: [0.0, 1.0] + [0.0] * (layers - 2) for t in (20, 100)}
    with pytest.raises(ValueError, match="depth is read by an output head"):
        H.score_raw_layers(tiny_pipe, "depth", (20,), samples)


# ---------------------------------------------------------------------------------------------- cards

@pytest.fixture
def small(monkeypatch):
    """Scores on 2 held-out samples, the second figure from 2 samples instead of 100."""
    monkeypatch.setattr(H, "SCORED", 2), monkeypatch.setattr(H, "FEW", 2)


def test_a_head_is_written_with_its_card(tiny_pipe, tmp_path, monkeypatch, small):
    monkeypatch.setattr(H, "score_head", lambda *args, **settings: {20: 0.9876, 100: 0.5, 500: 0.5, 750: 0.4321})
    lines = []
    result = H.make_head("pose", tmp_path / "pose", tiny_pipe, tmp_path / "work", lines.append, count=4, steps=2, batch=2)
    head = rg_minimal.ReadoutHead.from_pretrained(tmp_path / "pose")
    text = (tmp_path / "pose" / "README.md").read_text()
    assert "| timestep | t = 20 | t = 100 | t = 500 | t = 750 |" in text and ", ".join(JOINTS) in text
    assert "| 4 pictures | 0.988 | 0.500 | 0.500 | 0.432 |\n| 2 pictures | 0.988 |" in text and "heads pose`: 4 rendered" in text
    assert head.config.extra["training"]["pictures"] == 4 and head.config.extra["pck@0.05"]["20"] == 0.9876
    assert result["scores"]["4 pictures"][750] == 0.4321 and "pck@0.05 from 2 pictures" in head.config.extra
    stored = rg_minimal.files.read_tensors(tmp_path / "pose" / "head.safetensors")[0]
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert {value.dtype for value in head.parameters()} == {torch.float32}
    assert any("step 2 of 2, loss" in line for line in lines) and not list((tmp_path / "work").iterdir())


def test_a_relative_head_is_compared_with_the_best_raw_layer(tiny_pipe, tmp_path, monkeypatch, small):
    monkeypatch.setattr(H, "score_head", lambda *args, **settings: {100: 0.75, 500: 0.5})
    monkeypatch.setattr(H, "score_raw_layers", lambda *args, **settings: {100: [0.1, 0.3, 0.2], 500: [0.25, 0.0, 0.0]})
    H.make_head("correspondence", tmp_path / "head", tiny_pipe, tmp_path / "work", lambda line: None, count=2, steps=1, batch=2)
    text = (tmp_path / "head" / "README.md").read_text()
    assert "| 2 pairs | 0.750 | 0.500 |\n| raw features, best layer | 0.300 | 0.250 |" in text


def test_a_killed_run_goes_on_from_what_it_trained(tiny_pipe, tmp_path, monkeypatch, small):
    def make(lines):
        return H.make_head("depth", tmp_path / "depth", tiny_pipe, tmp_path / "work", lines.append, count=3, steps=1, batch=2)
    real, calls = H.score_head, []

    def killed_at_the_card(*args, samples=None, **settings):
        if samples is not None:
            raise KeyboardInterrupt
        return real(*args, **settings)
    monkeypatch.setattr(H, "TIMESTEPS", (100,))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(H, "score_head", killed_at_the_card)
        make(calls)
    assert any("3 pictures, step 1 of 1" in line for line in calls) and not (tmp_path / "depth").exists()
    lines = []
    result = make(lines)
    assert not any("3 pictures, step" in line for line in lines), "it trained again"
    assert any("2 pictures, step 1 of 1" in line for line in lines) and set(result["scores"]) == {"3 pictures", "2 pictures"}
    *_, whole = H.train_task(tiny_pipe, "depth", count=3, steps=1, batch=2)
    shipped = rg_minimal.ReadoutHead.from_pretrained(tmp_path / "depth").state_dict()
    assert all(torch.equal(shipped[name], value.half().float()) for name, value in whole.head.state_dict().items())


def test_the_command_makes_the_heads_that_it_is_told(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(H, "load_pipeline", lambda model: f"pipe of {model}")
    monkeypatch.setattr(H, "make_head", lambda name, folder, pipe, work, report, **changes: made.append(
        (name, str(folder), pipe, changes)) or {"seconds": 1})
    H.main(["depth", "edges", "depth", "--out", "somewhere", "--model", "m", "--steps", "3"])
    changes = {"count": None, "steps": 3}
    assert made == [(name, f"somewhere{os.sep}{name}", "pipe of m", changes) for name in ("depth", "edges")]
    made.clear()
    H.main(["all"])
    assert [name for name, *_ in made] == list(H.TASKS) and json.loads(capsys.readouterr().out.split("\n}\n")[-2] + "\n}")
    with pytest.raises(SystemExit):
        H.main(["poses"])


@pytest.mark.parametrize("main, options, said", [
    (H.main, "pose --pictures 0", "argument --pictures: it is 0: "), (H.main, "pose --steps -1", "argument --steps: it is -1: "),
    (H.main, "pose --steps many", "argument --steps: it is 'many': pass a whole number"),
    (M.main, "pose --count 0", "argument --count: it is 0: "), (M.main, "pose --steps 0", "argument --steps: it is 0: "),
    (M.main, "pose --steps 1001", "argument --steps: it is 1001: "), (M.main, "base --count 2.5", "argument --count: it is '2.5': "),
    (M.main, "drag --count 3", "--count is 3: .* 4, for drag"), (M.main, "pose drag-inverted --count 2", "--count is 2: .* 4, for drag-inverted"),
    (M.main, "cost --count 5", "--count has no effect on cost"), (M.main, "pose combination --count 5", "--count has no effect on combination"),
    (M.main, "pose-paces --steps 5", "--steps has no effect on pose-paces, whose paces say it"), (M.main, "drag-paces --count 3", "--count is 3: it has to be a multiple of 4"),
    (M.main, "base --heads elsewhere", "--heads has no effect on base"), (M.main, "inversion --heads data/heads", "--heads has no effect on inversion"),
    (sheets.main, "depth -o a.png --count 0", "argument --count: it is 0: "), (sheets.main, "drag -o a.png --count 3", "--count is 3: .* 4, for drag"),
    (sheets.main, "depth -o a.png --steps x", "argument --steps: it is 'x': "), (sheets.main, "depth -o a.jpg", "--out is 'a.jpg': .*png"),
    (sheets.main, "base -o a.png --heads data/heads", "--heads has no effect on base")])
def test_options_that_cannot_work_are_refused_in_one_sentence_before_a_model_is_loaded(main, options, said, monkeypatch, capsys):
    for module in (H, M, sheets):
        monkeypatch.setattr(module, "load_pipeline", lambda *names: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit) as stopped:
        main(options.split())
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and re.search(f"error: {said}", last), last


@pytest.mark.parametrize("call", [
    lambda: M.measure_drag(None, None, None, count=3), lambda: M.measure_base(None, None, count=0), lambda: M.measure_cost(None, None, repeats=0),
    lambda: M.measure_pose(None, None, None, batch=0), lambda: M.measure_map(None, None, None, "looks"),
    lambda: M.measure_identity(None, None, None, None, steps=0), lambda: M.measure_inversion(None, count=True),
    lambda: M.measure_combination(None, {}, seed=-1)])
def test_measurements_refuse_what_measures_nothing_at_the_call(call):
    with pytest.raises(ValueError, match="^(count|repeats|batch|what|steps|seed) is "):
        call()


# ---------------------------------------------------------------------------------------------- the heads that are shipped

@pytest.mark.parametrize("name", [name for name in H.TASKS if (HEADS / name).is_dir()] or ["pose"])
def test_the_shipped_heads_are_small_and_described(shipped, name):
    head = rg_minimal.load_head(HEADS / name, shipped)
    assert sum(path.stat().st_size for path in (HEADS / name).rglob("*") if path.is_file()) <= 4e6
    assert f"{H.FEW} {H.TASKS[name].unit} |" in (HEADS / name / "README.md").read_text()
    assert head.config.property == name and H.TASKS[name].extra.items() <= head.config.extra.items()


def test_the_shipped_head_reads_held_out_poses(shipped, pose_head):
    scores = H.score_head(shipped, "pose", pose_head, (100, 750), count=32)
    assert scores[100] >= 0.95 and scores[100] > scores[750] > 0.2


def test_ten_guided_steps_move_towards_the_target(shipped, pose_head):
    """By the head's own loss on the finished pictures, noised alike; the judge's word is in data/results."""
    scenes = puppets.sample_scenes(2, M.POSE_SEED)
    goal = H.pose_objective(pose_head, puppets.render(scenes).joints)

    def final_loss(objectives):
        rng = torch.Generator().manual_seed(0)
        _, latents = rg_minimal.sample(shipped, [scene.caption for scene in scenes], objectives, num_inference_steps=10,
                                       generator=rng)
        reading = rg_minimal.read_picture(shipped, None, 100, latents=latents, generator=torch.Generator().manual_seed(1))
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


@pytest.mark.parametrize("what, pace", [("base", {"num_inference_steps": 50, "eta": 0.0}), ("base-noise", paces.WHOLE)])
def test_the_base_is_measured_at_the_pace_that_is_named(tiny_pipe, monkeypatch, what, pace):
    drawn_instead(monkeypatch, lambda scene, guided: scene)
    drawn, asked = M.sample, []
    monkeypatch.setattr(M, "sample", lambda *given, **settings: asked.append(settings) or drawn(*given, **settings))
    result = M.finish(M.measurement(what, tiny_pipe, load_judge(), "data/heads", count=2))
    assert pace.items() <= asked[0].items() and (result["steps"], result["eta"]) == tuple(pace.values())


def test_the_pose_measurement_tells_the_right_pose_from_another(tiny_pipe, monkeypatch):
    """Guided: a rendering in the target pose. Unguided: the same puppet far off, so no joint is in place."""
    moved = lambda scene: replace(scene, x=64.0 + (34 if scene.x < 64 else -34), size=0.8 * scene.size)
    drawn_instead(monkeypatch, lambda scene, guided: scene if guided else moved(scene))
    head = H.new_head(tiny_pipe, "pose")
    result = M.finish(M.measure_pose(tiny_pipe, load_judge(), head, count=6, steps=2, batch=4, objective={"weight": 2.0}))
    assert result["guided"]["pck@0.05"] > 0.95 and result["guided"]["pck@0.1"] >= result["guided"]["pck@0.05"]
    assert result["unguided"]["pck@0.05"] < 0.3 and result["settings"] == {"weight": 2.0}
    assert min(result["guided"]["attribute_accuracy"], result["guided"]["all_joints_found"]) > 0.6
    assert json.loads(json.dumps(result)) == result


def test_poses_and_drags_are_measured_at_the_paces_that_are_named(tiny_pipe, monkeypatch):
    drawn_instead(monkeypatch, lambda scene, guided: scene)
    monkeypatch.setattr(M, "load_head", lambda path, pipe: H.new_head(pipe, path.name))
    drawn, asked = M.sample, []
    monkeypatch.setattr(M, "sample", lambda pipe, prompts, objectives, **settings: asked.append((bool(objectives), settings)) or drawn(
        pipe, prompts, objectives, **settings))
    found = M.finish(M.measurement("pose-paces", tiny_pipe, load_judge(), "data/heads", count=2))
    guided = [settings for objectives, settings in asked if objectives]
    assert list(found) == ["draft", "full", "50 steps"] and found["draft"]["pictures"] == 2
    assert all(pace.items() <= settings.items() for pace, settings in zip((paces.DRAFT, paces.FULL, {"num_inference_steps": 50}), guided, strict=True))

    def dragged(*heads, **settings):
        yield 1, 1
        return settings
    monkeypatch.setattr(M, "measure_drag", dragged)
    found = M.finish(M.measurement("drag-paces", tiny_pipe, load_judge(), "data/heads", count=4))
    told = [{("steps" if name == "num_inference_steps" else name): value for name, value in paces.DRAG_FULL.items()},
            {"steps": paces.FULL["num_inference_steps"], **HELD}]
    assert [{**each, "count": 4, "seed": M.DRAG_SEED} for each in told] == list(found.values())


def test_the_cost_of_guidance_is_measured(tiny_pipe):
    head = H.new_head(tiny_pipe, "pose")
    result = M.finish(M.measure_cost(tiny_pipe, head, steps=2, repeats=1))
    seconds = result["process_seconds"]
    assert result["process_time_ratio"] == pytest.approx({name: seconds[name] / seconds["unguided"] for name in ("guided", "full", "draft")})
    assert set(result["wall_seconds"]) == {"guided", "unguided", "full", "draft"} and 50 < result["peak_memory_mb"] < 64_000
    assert min(result["process_time_ratio"]["full"], result["process_time_ratio"]["draft"]) > 2, "of 25 and of 10 steps, against 2"


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
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["each step", "mean of the last 2"]
    alone, = plots.curve([1.0], "loss", smooth=5).axes
    assert len(alone.lines) == 1 and alone.get_legend() is None, "one line needs no name"


def test_a_switch_is_drawn_upright():
    switched, sloping = (plots.lines({"a": [1.0, 1.0, 0.0]}, range(3), "step", "strength", switches=each).axes[0].lines[0]
                         for each in (True, False))
    assert switched.get_drawstyle() == "steps-mid" and sloping.get_drawstyle() == "default"


@pytest.mark.parametrize("draw", [
    lambda label: plots.curve([1.0, 2.0], label), lambda label: plots.lines({"a": [1.0, 2.0]}, [1, 2], "step", label),
    lambda label: plots.bars({"a": 1.0}, label), lambda label: plots.marked_bars({"a": 1.0}, label, 0.5, "threshold"),
    lambda label: plots.line_panels({"title": dict(series={"a": [1.0, 2.0]}, x_values=[1, 2], x="step", y=label)}, columns=1),
    lambda label: plots.learning([1.0], {1: {100: 1.0}}, 1, label)], ids=["curve", "lines", "bars", "marked_bars", "line_panels", "learning"])
def test_a_long_label_of_the_upright_axis_is_not_cut_off(draw):
    figure = draw("loss of the diffusion model in all its timesteps")
    figure._repr_png_()                             # lays it out
    for axes in figure.axes:
        box = axes.yaxis.label.get_window_extent()
        assert 0 <= box.y0 and box.y1 <= figure.bbox.height and 0 <= box.x0


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


def test_a_figure_of_many_puppets_keeps_their_colours():
    """A notebook's figures have 256 colours, so that they are small: a yellow shirt is not to come out orange for that."""
    for seed in (50, 53):
        figure = plots.picture_grid(list(puppets.render(puppets.sample_scenes(12, seed)).image), columns=4)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=90)
        shown, true = (numpy.asarray(Image.open(file).convert("RGB")).astype(int) for file in (io.BytesIO(figure._repr_png_()), drawn))
        error = numpy.abs(shown - true).max(-1)                                        # (H, W), of 255
        assert numpy.percentile(error, 99) < 20 and numpy.percentile(error, 99.9) < 36


def test_figures_are_written_and_none_is_shown(frames, tmp_path):
    path = plots.save_figure(plots.picture_grid(frames.image[:2], size=1.0), tmp_path / "new" / "figure.png", dpi=50)
    with Image.open(path) as image:
        assert image.size == (100, 51)
    assert matplotlib.pyplot.get_fignums() == [], "a figure was left open in pyplot"


def test_a_pose_is_for_a_picture_of_its_size(tiny_pipe):
    """As a map it would be stretched, and its joints would lie elsewhere than was said."""
    goal = H.pose_objective(H.new_head(tiny_pipe, "pose"), torch.full((14, 2), 60.0))
    goal.check(tiny_pipe, 1, (128, 128))
    for size in ((256, 256), (128, 256)):
        with pytest.raises(ValueError, match=f"in pixels of a picture of 128 x 128, but one of {size[0]} x {size[1]} .height x width. is made"):
            goal.check(tiny_pipe, 1, size)


@pytest.mark.parametrize("name, told", [("config.json", '{"model_type": "bert"}'), ("README.md", "mine")])
def test_what_lies_where_a_head_goes_is_refused_before_the_training(name, told, tiny_pipe, tmp_path, monkeypatch):
    (tmp_path / name).write_text(told)
    monkeypatch.setattr(H, "collect", lambda *given, **settings: pytest.fail("slow work"))
    with pytest.raises(ValueError, match=f"{name} "):
        H.make_head("pose", tmp_path, tiny_pipe, tmp_path / "work")
    assert (tmp_path / name).read_text() == told


def test_a_checkpoint_is_of_the_labels(tiny_pipe):
    one, other = (H.Samples((torch.zeros(2, 4, 32, 32),), (torch.full((2, 1, 32, 32), value),)) for value in (0.0, 1.0))
    assert len({H._fingerprint(tiny_pipe, H.TASKS[name], samples) for samples in (one, other) for name in ("depth", "edges")}) == 4


def test_samples_of_another_task_are_no_score(tiny_pipe):
    samples = H.collect(tiny_pipe, "depth", 2)
    with pytest.raises(ValueError, match="samples hold 1 pictures and 1 labels each, which is not what pose is scored by"):
        H.score_head(tiny_pipe, "pose", H.new_head(tiny_pipe, "pose"), (100,), samples)


def test_a_config_inside_the_weights_that_is_none_is_named(tmp_path):
    for told in ("{", "[1]"):
        rg_minimal.files.write_tensors(tmp_path / "head.safetensors", {"a": torch.zeros(1)}, {"config": told})
        with pytest.raises(ValueError, match="head.safetensors holds no config that can be read"):
            rg_minimal.ReadoutHead.from_pretrained(tmp_path)


@pytest.mark.parametrize("height, width", [(256, 256), (128, 64)])
def test_edges_are_for_a_picture_of_their_own_size(height, width):
    """Their quarters of a cell are channels: resized they would be other edges."""
    pipe = rg_minimal.load_pipeline()
    head, frames = rg_minimal.load_head("data/heads/edges", pipe), puppets.render(puppets.sample_scenes(1, 3))
    goal = H.edge_objective(head, frames.edges)
    with pytest.raises(ValueError, match=f"edges are for a picture of 128 x 128 pixels, but one of {height} x {width} .* is made"):
        rg_minimal.guided_sample(pipe, "a puppet", [goal], num_inference_steps=4, height=height, width=width)
    rg_minimal.guided_sample(pipe, "a puppet", [goal], num_inference_steps=4)


def test_five_objectives_need_five_heads(tiny_pipe):
    with pytest.raises(ValueError, match="heads lack depth, .*pass one of each of pose"):
        next(M.measure_combination(tiny_pipe, {"pose": H.new_head(tiny_pipe, "pose")}, steps=2))
