"""Edits and test cases: regions by hand, drags with known answers, and the shipped heads on the shipped model."""
import dataclasses
import inspect
import math
from pathlib import Path

import pytest
import torch

from rg_minimal import ReadoutHead, Source, guided_sample, puppets, sample
from rg_minimal.paces import DRAG_FULL
from rg_minimal.puppets import JOINTS, cases
from rg_minimal.puppets.cases import drag_case, find_patch, prop_points, whole
from rg_minimal.puppets.editing import arms_that_stay, carry, drag, drag_frames, gone_along, held_back, identity, joined, other_noise, region
from rg_minimal.puppets.grab import bare, grab, source_joints
from rg_minimal.puppets.heads import new_head
from rg_minimal.puppets.judge import Reading, load_judge
from rg_minimal.readout import CorrespondenceObjective
from tiny import tiny_pipe as make_tiny_pipe


@pytest.fixture(scope="module")
def tiny_pipe():
    """Pictures of 128 x 128 pixels, as puppets are edited in."""
    blocks = dict(block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    return make_tiny_pipe(unet={"sample_size": 32}, vae={**blocks, "sample_size": 128})


@pytest.fixture(scope="module")
def joints():
    return puppets.render(puppets.sample_scenes(40, puppets.HELD_OUT)).joints


def test_notebook_7_says_how_strongly_a_handle_is_left():
    """Bare arrows, as in the paper, push as strongly as they pull; those of `drag` less, which the formula does not show."""
    less, bare_arrow = (inspect.signature(each).parameters["anti_ghosting"].default for each in (drag, CorrespondenceObjective))
    said = (Path(__file__).parent.parent / "notebooks/07_drag.ipynb").read_text(encoding="utf-8")
    assert bare_arrow == 1.0 and f"`drag`, in section 4, takes {less:g} of the first half" in said and "mapped from [-1, 1] to [0, 1]" in said


# ---------------------------------------------------------------------------------------------- regions

def test_a_region_is_all_that_is_near_a_point():
    disc, two = region([(64, 64)], 10, soft=1), region([(30, 64), (90, 64)], 10, soft=1)[0, 0]
    assert float(disc.sum()) == pytest.approx(math.pi * 10.5 ** 2, rel=0.03) and float(two.sum()) == pytest.approx(2 * float(disc.sum()), rel=0.03)
    assert two.shape == (128, 128) and two[64, 60] == 0 and two[64, 31] == 1 and two[70, 90] == 1


def test_points_that_belong_together_are_joined():
    handles, targets = [(10, 10), (10, 30), (100, 100)], [(20, 10), (40, 10), (110, 100)]
    start, goal = joined(handles, targets, spacing=4)
    assert start[:3].tolist() == [list(map(float, p)) for p in handles] and len(start) == len(goal) == 3 + 5
    assert (start[3:, 0] == 10).all() and (start[3:, 1] > 10).all() and (start[3:, 1] < 30).all(), "the far one stays alone"
    along = (start[3:, 1] - 10) / 20
    assert torch.allclose(goal[3:, 0], 20 + 20 * along) and (goal[3:, 1] == 10).all()


def test_noise_is_carried_along_and_its_place_filled_anew():
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = carry(noise, torch.tensor([[30.0, 62.0]]), torch.tensor([[62.0, 62.0]]), 6.0, torch.Generator().manual_seed(1))
    assert torch.equal(moved[..., 15, 15], noise[..., 15, 7]) and torch.equal(moved[..., 14, 16], noise[..., 14, 8])
    changed = (moved != noise).any(1)[0]
    assert changed[15, 7] and not torch.isin(moved[0, 0, 15, 7], noise[0, 0]) and changed.sum() < 20
    assert torch.equal(carry(noise, torch.tensor([[30.0, 62.0]]), torch.tensor([[30.0, 62.0]]), 6.0, torch.Generator()), noise)


# ---------------------------------------------------------------------------------------------- cases

@pytest.mark.parametrize("kind", ["wrist", "ankle"])
def test_a_limb_turns_and_keeps_its_length(joints, kind):
    made = [case for i, each in enumerate(joints) if (case := drag_case(kind, each, i))]
    assert len(made) > 20
    for case in made:
        assert case.joints and len(case.handles) == len(case.targets) == 4
        root = case.fixed[0]
        bones = lambda points: torch.stack((points[0] - root, points[1] - points[0])).norm(dim=-1)      # upper and lower
        assert torch.allclose(bones(case.handles), bones(case.targets), atol=1e-3)
        assert case.targets.min() >= cases.MARGIN and case.targets.max() <= puppets.SIZE - cases.MARGIN
        assert case.moved()[0, 0, case.targets[1, 1].long(), case.targets[1, 0].long()] == 1
        assert case.distance > 2


def test_a_whole_puppet_moves_by_one_offset_and_a_case_is_repeatable(joints):
    case, again = (drag_case("puppet", joints[0], 5) for _ in range(2))
    offset = case.targets - case.handles
    assert torch.allclose(offset, offset[:1].expand(15, 2)) and 12 <= abs(float(offset[0, 0])) <= 30
    head, neck, top = case.handles[[0, 1, 14]]                                 # a hat goes along
    assert torch.allclose(top - head, head - neck)
    up = drag_case("puppet", joints[0] - torch.tensor([0.0, top[1] - 1]), 5)   # no room above the head
    assert len(up.handles) == 14
    assert torch.equal(case.targets, again.targets) and case.joints == list(range(14))


def test_targets_lie_on_free_background():
    frames = puppets.render(puppets.sample_scenes(40, puppets.HELD_OUT))
    for kind in ("wrist", "puppet"):
        made = [(i, drag_case(kind, frames.joints[i], i, frames.image[i])) for i in range(40)]
        shown = [frames.parts[i, each.targets[:, 1].long(), each.targets[:, 0].long()] for i, each in made if each]
        assert len(shown) > 15 and not (torch.cat(shown) == puppets.PART["prop"]).float().mean() > 0.03


def test_points_on_a_prop_lie_on_it():
    frames = puppets.render(puppets.sample_scenes(30, 100))
    found = [(i, prop_points(frames, i)) for i in range(30)]
    assert all(frames.scenes[i].prop != "none" for i, points in found if points is not None)
    on = [frames.parts[i, p[:, 1].long(), p[:, 0].long()] == puppets.PART["prop"] for i, p in found if p is not None]
    assert len(on) > 10 and torch.stack(on).float().mean() > 0.85
    made = [(i, points, case) for i, points in found if points is not None
            and (case := drag_case("prop", frames.joints[i], i, frames.image[i], points))]
    assert len(made) > 10
    for i, points, case in made:                                 # the outline where it is clear of puppet and border
        ends = torch.cat((case.handles[cases.INSIDE:], case.targets[cases.INSIDE:]))
        assert cases.INSIDE <= len(case.handles) <= 13 and torch.equal(case.handles[:5], points[:5])
        assert ends.numel() == 0 or torch.cdist(ends, frames.joints[i]).min() >= cases.CLEAR
        assert case.targets.min() >= cases.MARGIN and case.targets.max() <= puppets.SIZE - cases.MARGIN
    assert max(len(case.handles) for _, _, case in made) > 9
    balls = [(i, cases.ball_points(frames.image[i], frames.scenes[i])) for i in range(30)]
    assert sum(points is not None for _, points in balls) >= 2
    for i, points in balls:
        if points is not None:
            scene = frames.scenes[i]
            assert (points[0] - torch.tensor([scene.prop_x, scene.prop_y - 8 * scene.prop_size])).norm() < 4


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'hat'"):
        drag_case("hat", torch.zeros(14, 2), 0)


def test_a_patch_is_found_where_it_went():
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    moved = picture.roll((5, -9), (1, 2))
    assert find_patch(picture, torch.tensor([30.0, 40.0]), moved).tolist() == [21.5, 45.5]


def test_whole_asks_for_confidence_and_limb_lengths(joints):
    judge = load_judge()
    sure = torch.ones(1, 14)
    reading = lambda points, confidence=sure: Reading(points, confidence, torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128), [{}])
    before = reading(joints[:1])
    assert whole(judge, before, before)
    unsure = sure.clone()
    unsure[0, 6] = 0.0
    assert not whole(judge, reading(joints[:1], unsure), before)
    longer = joints[:1].clone()
    elbow, wrist = puppets.JOINTS.index("left_elbow"), puppets.JOINTS.index("left_wrist")
    longer[0, wrist] = longer[0, elbow] + 1.3 * (longer[0, wrist] - longer[0, elbow])
    assert not whole(judge, reading(longer), before)


# ---------------------------------------------------------------------------------------------- edits

def test_an_edit_is_settings_for_the_sampler(tiny_pipe):
    head, looks = new_head(tiny_pipe, "correspondence"), new_head(tiny_pipe, "appearance")
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source = Source.from_states(tiny_pipe, states, "a puppet")
    pose = new_head(tiny_pipe, "pose")
    settings = drag(head, source, [(10, 10)], [(20, 10)], fixed=[(10, 25)], appearance=looks, anatomy=pose)
    assert [type(each).__name__ for each in settings["objectives"]] == ["CorrespondenceObjective", "KeypointObjective", "AppearanceObjective"]
    assert settings["keep"] is source and drag(head, source, [(10, 10)], [(20, 10)], radius=0)["latents"] is source.start
    assert settings["variance_noise"].shape == (4, *source.start.shape) and settings["eta"] == 0.5
    assert torch.equal(settings["variance_noise"], drag(head, source, [(10, 10)], [(20, 10)], fixed=[(10, 25)])["variance_noise"])
    assert "variance_noise" not in drag(head, source, [(10, 10)], [(20, 10)], eta=0)
    assert settings["objectives"][0].anti_ghosting[-1] == 0 and settings["objectives"][0].anti_ghosting[0] > 0
    new, _ = sample(tiny_pipe, "a puppet", num_inference_steps=4, **settings)
    assert new.shape[1:] == (3, 128, 128) and new.isfinite().all()
    with pytest.raises(ValueError, match="4 steps of noise, not 5; .* with which its source was sampled"):
        sample(tiny_pipe, "a puppet", num_inference_steps=5, **settings)
    dressed = identity(looks, source, boxes=((0, 0, 10, 10), (5, 5, 20, 20)))
    assert dressed["objectives"][0].boxes is not None and dressed["eta"] == 1
    picture, _ = sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0), **dressed)
    assert picture.isfinite().all()


@pytest.mark.parametrize("anatomy", [False, True])
def test_a_drag_needs_a_source_with_a_trajectory(tiny_pipe, anatomy):
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    source = Source.from_picture(tiny_pipe, picture, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="invert the picture"):
        drag(new_head(tiny_pipe, "correspondence"), source, [(10, 10)], [(20, 10)],
             anatomy=new_head(tiny_pipe, "pose") if anatomy else None)


def test_joints_on_what_moves_go_along(tiny_pipe):
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "pose")
    before = source_joints(head, source)
    first = before[:1]
    assert torch.equal(gone_along(before, torch.tensor([[-99.0, -99]]), torch.tensor([[0.0, 0]])), before)
    after = gone_along(before, first, first + torch.tensor([5.0, 3.0]))
    near = (before - first).norm(dim=-1) <= 6
    assert torch.equal(after[~near], before[~near]) and near[0]
    assert torch.allclose(after[near], (before[near] + torch.tensor([5.0, 3.0])).clamp(0, 128))


def test_new_noise_is_new_also_where_source_and_drag_have_one_seed(tiny_pipe):
    """Or the place that was left keeps its noise, and draws again what was there."""
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence")
    same = lambda one, other: float((one == other).all(1).float().mean())
    for seed in (0, 1):
        made = drag(head, source, [(40, 40)], [(90, 90)], seed=seed)
        near = region([(40, 40)], 3.0, soft=1e-3)[..., 2::4, 2::4] > 0.5                       # well inside of what is carried
        assert same(made["latents"][..., near[0, 0]], source.start[..., near[0, 0]]) == 0, seed
        assert all(same(noise[None] if noise.ndim == 3 else noise, source.start) == 0 for noise in made["variance_noise"]), seed
        assert torch.equal(drag(head, source, [(40, 40)], [(90, 90)], seed=seed)["variance_noise"], made["variance_noise"])
    first = lambda latents: torch.randn(latents.shape, generator=other_noise(latents, 0))
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for start in (noise, 14.6 * noise, noise.half()):                                          # as Euler's begin, and in half precision
        assert not torch.equal(first(start), noise)
    assert torch.equal(first(torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))), noise), "others get what the seed says"


def test_noise_beyond_the_border_is_not_taken_for_that_of_its_edge():
    latents, generator = torch.arange(32.0).expand(1, 1, 32, 32).contiguous(), lambda: torch.Generator().manual_seed(0)
    left = carry(latents, [(1.0, 64.0)], [(64.0, 64.0)], 8.0, generator())[0, 0, 16]
    right = carry(latents, [(127.0, 64.0)], [(64.0, 64.0)], 8.0, generator())[0, 0, 16]
    assert left[14:18].tolist() == [14, 15, 0, 1] and right[14:18].tolist() == [30, 31, 16, 17], "63 pixels are 15 cells and three quarters"
    for shape in ((1, 4, 32, 16), (2, 4, 32, 32)):
        with pytest.raises(ValueError, match="pass those of one square picture"):
            carry(torch.zeros(shape), [(1, 64)], [(64, 64)], 8.0, generator())
    with pytest.raises(ValueError, match="pass a torch.Generator"):
        carry(latents, [(1, 64)], [(64, 64)], 8.0, None)


def test_a_handle_that_anatomy_holds_is_warned_of(monkeypatch, joints):
    """In the middle of a forearm, by no joint: neither goes along, and the pose head holds both."""
    arm = [JOINTS.index(f"left_{name}") for name in ("shoulder", "elbow", "wrist")]
    pose = next(each for each in joints if (each[arm[1]] - each[arm[2]]).norm() > 15 and torch.cdist(each[arm[1:]].mean(0)[None], each).min() > 7)
    (elbow, wrist), way = pose[arm[1:]], torch.tensor([9.0, -7.0])
    middle = (elbow + wrist) / 2
    back = lambda *handles, way=way: held_back(pose, gone_along(pose, torch.stack(handles), torch.stack(handles) + way), torch.stack(handles),
                                               torch.stack(handles) + way)
    said, = back(middle)
    assert "left arm" in said and "grab=True" in said and f"({middle[0]:.0f}, {middle[1]:.0f})" in said
    assert back(wrist) == back(elbow, middle, wrist) == back(middle, way=torch.zeros(2)) == [], "it goes along, or is to stay where it is"
    assert back(torch.tensor([2.0, 2.0])) == [], "beside the puppet"


def test_what_a_drag_cannot_take_is_refused_before_anything_runs(tiny_pipe):
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head, pose = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence"), new_head(tiny_pipe, "pose")
    again = lambda **changes: ReadoutHead(dataclasses.replace(pose.config, **changes))
    alien = again(layer_channels=tuple(2 * each for each in pose.config.layer_channels), base_model="another")
    for edit in (lambda each: drag(head, source, [(60, 60)], [(70, 60)], anatomy=each), lambda each: bare(each, source, [(60, 60)], [(70, 60)]),
                 lambda each: grab(head, each, source, [(60, 60)], [(70, 60)])):
        with pytest.raises(ValueError, match="load a head trained on this model"):
            edit(alien)
        with pytest.raises(ValueError, match="reads 5 channels, and not the 14 joints"):
            edit(again(out_channels=5))
    for handles, told, settings in (((200, 60), r"\(200, 60\) of a handle lies outside the picture", {}), ((60, 60), "spare is 50 pixels", {"spare": 50})):
        with pytest.raises(ValueError, match=told):
            drag(head, source, [handles], [(70, 60)], anatomy=pose, **settings)
    fractions = [(0.1, 0.2), (0.9, 0.9)]
    for edit in (lambda: region(fractions, 4.0), lambda: joined(fractions, fractions), lambda: bare(pose, source, fractions, fractions[::-1]),
                 lambda: identity(new_head(tiny_pipe, "appearance"), source, boxes=((0.1, 0.1, 0.5, 0.9), (1, 1, 50, 90)))):
        with pytest.raises(ValueError, match="fractions of the picture"):
            edit()
    with pytest.raises(ValueError, match="is to go to two places"):
        bare(pose, source, [(60, 60), (60, 60)], [(70, 60), (80, 60)])
    with pytest.raises(ValueError, match="14 handles and 13 targets"):
        arms_that_stay(torch.zeros(14, 2) + 50, torch.zeros(13, 2) + 50)


def test_an_animation_takes_what_sampling_takes_and_is_looked_at_as_a_whole(tiny_pipe):
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence")
    pace = DRAG_FULL | {"num_inference_steps": 4}
    frames = lambda amounts, **settings: drag_frames(tiny_pipe, "a puppet", head, source, [(10, 10)], [(20, 10)], amounts, **settings)
    at_pace = sample(tiny_pipe, "a puppet", **drag(head, source, [(10, 10)], [(20, 10)], seed=3) | pace)[0]
    assert torch.equal(next(frames([1.0], seed=3, **pace)), at_pace)
    for amounts in (torch.tensor(0.5), 0.5):
        with pytest.raises(ValueError, match="pass several fractions of the way"):
            frames(amounts)
    with pytest.raises(ValueError, match="amounts is empty"):
        frames([])
    for wrong, told in ({"marign": 3.0}, "marign"), ({"num_inference_steps": 3}, "num_inference_steps"), ({"step_size": -1.0}, "step_size"):
        with pytest.raises((ValueError, TypeError), match=told):
            frames([0.5, 1.0], **{"num_inference_steps": 4} | wrong)
    with pytest.raises(ValueError, match="pass a Source"):
        drag_frames(tiny_pipe, "a puppet", head, None, [(10, 10)], [(20, 10)], [1.0])


def test_an_animation_goes_the_way_in_parts(tiny_pipe):
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence")
    frames = list(drag_frames(tiny_pipe, "a puppet", head, source, [(10, 10)], [(20, 10)], (0.5, 1.0), num_inference_steps=4))
    whole_way = sample(tiny_pipe, "a puppet", num_inference_steps=4, **drag(head, source, [(10, 10)], [(20, 10)]))[0]
    assert len(frames) == 2 and torch.equal(frames[1], whole_way) and not torch.equal(frames[0], frames[1])
    half = drag(head, source, [(10, 10)], [(20, 10)], amount=0.5)["objectives"][0]
    assert half.target_points.tolist() == [[15, 10]]
    with pytest.raises(ValueError, match="amount is 2"):
        drag(head, source, [(10, 10)], [(20, 10)], amount=2)
    with pytest.raises(ValueError, match="1 handles and 2 targets"):
        drag(head, source, [(10, 10)], [(20, 10), (3, 3)])


def test_what_may_not_change_stays_the_sources(tiny_pipe):
    head = new_head(tiny_pipe, "correspondence")
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source = Source.from_states(tiny_pipe, states, "a puppet")
    free = torch.zeros(1, 1, 32, 32)
    free[..., 16:] = 1
    settings = drag(head, source, [(20, 10)], [(26, 10)], free=free)
    _, latents = sample(tiny_pipe, "a puppet", num_inference_steps=4, **settings)
    difference = (latents - states[-1].latents).abs().amax((0, 1))                          # (h, w)
    assert difference[:, 8:].max() > 1e-3 and difference[:, :8].max() < difference[:, 8:].max()


def test_the_way_of_an_animation_is_looked_at_before_anything_runs(tiny_pipe):
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence")
    with pytest.raises(ValueError, match="amount 2 is 1.5"):
        drag_frames(tiny_pipe, "a puppet", head, source, [(8, 8)], [(14, 14)], [0, 0.5, 1.5], num_inference_steps=4)


def test_an_edit_is_of_one_picture(tiny_pipe):
    states = list(guided_sample(tiny_pipe, ["a puppet"] * 2, num_inference_steps=4, generator=torch.Generator().manual_seed(0)))
    source, head, pose = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence"), new_head(tiny_pipe, "pose")
    for edit in (lambda: drag(head, source, [(8, 8)], [(14, 14)]), lambda: drag(head, source, [(8, 8)], [(14, 14)], anatomy=pose, grab=True),
                 lambda: source_joints(pose, source)):
        with pytest.raises(ValueError, match="source has 2 pictures; edit one at a time"):
            edit()


def test_puppets_are_edited_in_pictures_of_their_size(tiny_pipe):
    """All that is read of them is in pixels of such a picture, and would lie elsewhere in another."""
    states = list(guided_sample(tiny_pipe, "a puppet", num_inference_steps=2, generator=torch.Generator().manual_seed(0), height=256, width=128))
    source, head, pose = Source.from_states(tiny_pipe, states, "a puppet"), new_head(tiny_pipe, "correspondence"), new_head(tiny_pipe, "pose")
    for edit in (lambda: drag(head, source, [(60, 60)], [(100, 60)]), lambda: source_joints(pose, source),
                 lambda: bare(pose, source, [(8, 8)], [(14, 14)])):
        with pytest.raises(ValueError, match=r"source is a picture of \(256, 128\) pixels .* sample or invert it at that size"):
            edit()


def test_as_many_handles_as_targets_whoever_takes_them(tiny_pipe):
    source, pose = Source.from_picture(tiny_pipe, torch.rand(1, 3, 128, 128), generator=torch.Generator().manual_seed(0)), new_head(tiny_pipe, "pose")
    for edit in (drag, bare):
        with pytest.raises(ValueError, match="2 handles and 1 targets; pass as many of each"):
            edit(pose, source, [(8, 8), (9, 9)], [(14, 14)])
    with pytest.raises(ValueError, match="amounts is 0.5; pass several fractions"):
        drag_frames(tiny_pipe, "a puppet", new_head(tiny_pipe, "correspondence"), source, [(8, 8)], [(14, 14)], 0.5)
