"""What an arrow takes hold of: geometry by hand, pictures of the renderer, and what came of a drag, read from doctored ones."""
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rg_minimal import Source, load_head, load_pipeline, puppets
from rg_minimal.puppets import cases, grab as grabbing, world
from rg_minimal.puppets.editing import drag
from rg_minimal.puppets.grab import CHAINS, INDEX, bare, bend, grab, outcome, outline, part_at, strangeness, turn

SCENE = world.HELD_OUT + 2_000


@pytest.fixture(scope="module")
def kit():
    pipe = load_pipeline("data/puppet-diffusion")
    return pipe, load_head("data/heads/correspondence", pipe), load_head("data/heads/pose", pipe)


@pytest.fixture(scope="module")
def frames():
    scene = next(scene for scene in world.sample_scenes(60, SCENE) if scene.action == "cheering" and scene.prop == "house")
    return puppets.render(scene)


@pytest.fixture(scope="module")
def source(kit, frames):
    return Source.from_picture(kit[0], frames.image, generator=torch.Generator().manual_seed(0), keep_all=True)


def joint(frames, name):
    return frames.joints[0, INDEX[name]]


def bones(points):
    return (points[1:] - points[:-1]).norm(dim=-1)


# ---------------------------------------------------------------------------------------------- geometry

LIMB = torch.tensor([[60.0, 40.0], [60.0, 58.0], [60.0, 76.0]])


@pytest.mark.parametrize("end", [(80, 50), (70, 20), (50, 65), (60, 45)])
def test_both_bones_keep_their_lengths_and_the_root_stays(end):
    made = bend("left arm", LIMB, torch.tensor(end, dtype=torch.float32))
    assert torch.equal(made[0], LIMB[0]) and torch.allclose(bones(made), bones(LIMB), atol=0.02)
    assert torch.allclose(made[2], torch.tensor(end, dtype=torch.float32), atol=0.02)


def test_what_is_out_of_reach_is_clipped_to_the_stretched_limb():
    made = bend("left arm", LIMB, torch.tensor([200.0, 40.0]))
    assert torch.allclose(made[2], torch.tensor([96.0, 40.0]), atol=0.05) and torch.allclose(bones(made), bones(LIMB), atol=0.02)


def test_of_two_ways_to_bend_the_usual_one_is_taken():
    """A raised left arm bends inwards, up over the head, as the world's waving puppets do."""
    made = bend("left arm", LIMB, LIMB[0] + torch.tensor([24.0, -14.0]))
    other = bend("left arm", LIMB, LIMB[0] + torch.tensor([24.0, -14.0]))[1]
    along = (made[2] - made[0]) / (made[2] - made[0]).norm()
    mirrored = 2 * (made[0] + along * ((other - made[0]) @ along)) - other
    assert strangeness("left arm", made[0], made[1], made[2]) < strangeness("left arm", made[0], mirrored, made[2])


def test_a_turn_is_clockwise_on_the_picture():
    assert torch.allclose(turn(torch.tensor([[10.0, 0.0]]), torch.zeros(2), math.pi / 2), torch.tensor([[0.0, 10.0]]), atol=1e-5)


def test_each_part_is_found_where_it_is_drawn(frames):
    joints = frames.joints[0]
    for name, (root, middle, end) in CHAINS.items():
        assert part_at(joints[end], joints) == (name, end) and part_at(joints[middle], joints) == (name, middle)
        assert part_at(torch.lerp(joints[root], joints[middle], 0.15), joints)[0] == "body"
    hips = joints[[INDEX["left_hip"], INDEX["right_hip"]]].mean(0)
    assert part_at(joints[0], joints) == ("head", 0) and part_at(torch.lerp(joints[1], hips, 0.5), joints)[0] == "body"
    assert part_at(torch.tensor([2.0, 2.0]), joints) == ("", -1)


# ---------------------------------------------------------------------------------------------- what is held

@pytest.mark.parametrize("name, limb", [("left_wrist", "left arm"), ("right_elbow", "right arm"), ("left_ankle", "left leg"), ("right_knee", "right leg")])
def test_an_arrow_on_a_limb_holds_it_and_pins_its_root(kit, source, frames, name, limb):
    start = joint(frames, name)
    hold = grab(*kit[1:], source, start[None], start[None] + torch.tensor([[4.0, 6.0]]))
    chain = list(CHAINS[limb])
    assert hold.what == (limb,) and len(hold.handles) == 4 and limb in hold.words and name.split("_")[1] in hold.words
    assert torch.allclose(hold.fixed, hold.joints[chain[:1]]), "the shoulder or the hip stays"
    assert torch.allclose(bones(hold.goal[chain]), bones(hold.joints[chain]), atol=0.05), "and the lengths do"
    assert not torch.equal(hold.goal[chain[1:]], hold.joints[chain[1:]])
    others = [i for i in range(14) if i not in chain]
    assert torch.equal(hold.goal[others], hold.joints[others])
    assert torch.allclose(hold.joints, frames.joints[0], atol=6)


def test_a_hand_out_of_reach_ends_on_the_way_and_the_words_say_so(kit, source, frames):
    start = joint(frames, "left_wrist")
    near = grab(*kit[1:], source, start[None], start[None] + 3)
    far = grab(*kit[1:], source, start[None], torch.tensor([[120.0, 120.0]]))
    chain = list(CHAINS["left arm"])
    assert "short of the arrow" in far.words and "short of" not in near.words
    assert torch.allclose(bones(far.goal[chain]), bones(far.joints[chain]), atol=0.05)
    assert far.targets.min() >= 0 and far.targets.max() <= 128


def test_the_head_turns_about_the_neck_no_further_than_heads_do(kit, source, frames):
    start = joint(frames, "head")
    hold = grab(*kit[1:], source, start[None], start[None] + torch.tensor([[30.0, 10.0]]))
    neck, before, after = hold.joints[1], hold.joints[0], hold.goal[0]
    cosine = torch.nn.functional.cosine_similarity(before - neck, after - neck, dim=0)
    assert hold.what == ("head",) and torch.allclose(hold.fixed, neck[None])
    assert math.degrees(math.acos(float(cosine))) == pytest.approx(grabbing.NOD, abs=0.1) and "short of" in hold.words


def test_the_body_takes_everything_along_and_nothing_is_pinned(kit, source, frames):
    hips = joint(frames, "left_hip").lerp(joint(frames, "neck"), 0.4)
    hold = grab(*kit[1:], source, hips[None], hips[None] + torch.tensor([[5.0, 1.0]]))
    assert hold.what == ("body",) and len(hold.fixed) == 0 and len(hold.handles) >= 14
    way = hold.targets - hold.handles
    assert torch.allclose(way, way[:1].expand_as(way), atol=1e-4) and torch.allclose(hold.goal - hold.joints, way[:14], atol=1e-4)


def test_a_prop_is_held_out_to_its_outline_and_without_the_puppet(kit, source, frames):
    spots = (frames.parts[0] == world.PART["prop"]).nonzero().flip(-1).float() + 0.5
    middle = spots[(spots - spots.mean(0)).norm(dim=-1).argmin()]
    hold = grab(*kit[1:], source, middle[None], middle[None] + torch.tensor([[-6.0, 0.0]]))
    assert hold.what == ("prop",) and len(hold.handles) > 8
    assert torch.cdist(hold.handles, spots).amin(1).max() < 4, "all of it is on the prop"
    assert (torch.cdist(spots, hold.handles).amin(1) < 12).float().mean() > 0.95, "and all of the prop is near"
    assert outline(kit[1], source, torch.tensor([64.0, 3.0]), frames.joints[0]) is None, "the sky is no thing"


def test_two_arrows_work_together(kit, source, frames):
    arms = torch.stack((joint(frames, "left_wrist"), joint(frames, "right_wrist")))
    hold = grab(*kit[1:], source, arms, arms + torch.tensor([[6.0, 9.0], [-6.0, 9.0]]))
    assert hold.what == ("left arm", "right arm") and len(hold.handles) == 8 and len(hold.fixed) == 2 and len(hold.arrows) == 4
    elbow_and_wrist = torch.stack((joint(frames, "left_wrist"), joint(frames, "left_elbow")))
    hold = grab(*kit[1:], source, elbow_and_wrist, elbow_and_wrist + torch.tensor([[8.0, 12.0], [2.0, 6.0]]))
    alone = grab(*kit[1:], source, elbow_and_wrist[1:], elbow_and_wrist[1:] + torch.tensor([[2.0, 6.0]]))
    chain = list(CHAINS["left arm"])
    assert torch.allclose(bones(hold.goal[chain]), bones(hold.joints[chain]), atol=0.05) and len(hold.handles) == 4
    assert torch.allclose(hold.goal[chain[1]], alone.goal[chain[1]]), "the elbow goes where its own arrow says"


@pytest.mark.parametrize("what", ["left arm", "body", "head", "prop"])
def test_of_two_arrows_on_one_thing_the_later_decides_and_the_words_say_so(kit, source, frames, what):
    spots = (frames.parts[0] == world.PART["prop"]).nonzero().flip(-1).float() + 0.5
    place = {"left arm": joint(frames, "left_wrist"), "body": joint(frames, "left_hip").lerp(joint(frames, "neck"), 0.4),
             "head": joint(frames, "head"), "prop": spots[(spots - spots.mean(0)).norm(dim=-1).argmin()]}[what]
    hand = joint(frames, "right_wrist")
    handles, ways = torch.stack((place, hand, place + 1)), torch.tensor([[-6.0, 2.0], [0.0, 0.0], [5.0, 3.0]])
    hold, alone = grab(*kit[1:], source, handles, handles + ways), grab(*kit[1:], source, handles[1:], (handles + ways)[1:])
    assert hold.what == (what, "pin", what) and hold.points == alone.points, "two ways neither add up nor tear"
    assert "arrow 1 holds what arrow 3 holds, too, and that decides where it goes" in hold.words
    start, end, *later = hold.arrows
    assert torch.allclose(end - start, later[1] - later[0], atol=1e-4), "what came of it is read against where it was to go"
    ways[0] = ways[2]
    ways[0, 1] += 1                                                         # so nearly the same way that nothing need be said
    agree = grab(*kit[1:], source, handles, handles + ways)
    assert "decides" not in agree.words and torch.allclose(agree.goal, alone.goal, atol=0.5)
    assert len(agree.handles.unique(dim=0)) == len(agree.handles) == len(alone.handles), "no point is to go to two places"
    ways[0] = torch.tensor([-6.0, 2.0])
    little = grab(*kit[1:], source, handles, handles + ways, 0.1)
    assert "arrow 1 holds what arrow 3 holds, too" in little.words and len(little.handles.unique(dim=0)) == len(little.handles), "as of the whole way"


def test_a_pin_lets_go_of_what_it_is_on_and_stays(kit, source, frames):
    body, hand = joint(frames, "neck") + torch.tensor([0.0, 14.0]), joint(frames, "left_wrist")
    hold = grab(*kit[1:], source, torch.stack((body, hand)), torch.stack((body + 4, hand)))
    assert hold.what == ("body", "pin") and torch.equal(hold.fixed, hand[None])
    assert torch.cdist(hold.handles, hand[None]).min() > grabbing.NEAR
    assert [hand.tolist(), hand.tolist()] in hold.points and len(hold.points) == len(hold.handles) + 1


@pytest.mark.parametrize("handles, targets, words", [
    ([[60.0, 60.0]], [[60.0, 60.0]], "nothing to move"), ([[60.0, 60.0]], [[160.0, 60.0]], "outside the picture"),
    ([[60.0, 60.0]], [[60.0, 60.0], [1.0, 1.0]], "as many"), ([], [], "handles"), ([[math.nan, 60.0]], [[60.0, 60.0]], "handles")])
def test_bad_arrows_are_refused(kit, source, handles, targets, words):
    with pytest.raises(ValueError, match=words):
        grab(*kit[1:], source, handles, targets)


def test_a_drag_holds_by_one_argument(kit, frames):
    pipe, head, pose = kit
    from rg_minimal import guided_sample
    states = list(guided_sample(pipe, "a puppet is cheering", num_inference_steps=3, generator=torch.Generator().manual_seed(0)))
    made = Source.from_states(pipe, states, "a puppet is cheering", keep_all=True)
    start = grabbing.source_joints(pose, made)[[INDEX["left_wrist"]]]
    hold = grab(head, pose, made, start, start + torch.tensor([[-4.0, 5.0]]))
    by_hand = drag(head, made, hold.handles, hold.targets, fixed=hold.fixed, anatomy=pose, step_size=0.1)
    by_itself = drag(head, made, start, start + torch.tensor([[-4.0, 5.0]]), anatomy=pose, grab=True)
    for one, other in zip(by_hand["objectives"], by_itself["objectives"]):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("source_points", "target_points", "target") if hasattr(one, name))
    assert by_hand["step_size"] == by_itself["step_size"] and torch.equal(by_hand["latents"], by_itself["latents"])
    assert drag(head, made, start, start + 5, anatomy=pose)["step_size"] == 5e-2
    with pytest.raises(ValueError, match="grab needs anatomy"):
        drag(head, made, start, start + 5, grab=True)


def test_heads_that_are_exchanged_are_refused(kit, source, frames):
    _, head, pose = kit
    arrow = joint(frames, "left_wrist")[None], joint(frames, "left_wrist")[None] + 9
    hold = grab(head, pose, source, *arrow)
    for wrong, reads in ((lambda: grab(pose, head, source, *arrow), "reads pose, not correspondence"),
                         (lambda: grab(head, head, source, *arrow), "reads correspondence, not pose"),
                         (lambda: bare(head, source, *arrow), "reads correspondence, not pose"),
                         (lambda: outcome(pose, head, source, frames.image, hold), "reads pose, not correspondence"),
                         (lambda: outcome(head, head, source, frames.image, hold), "reads correspondence, not pose")):
        with pytest.raises(ValueError, match=reads):
            wrong()


# ---------------------------------------------------------------------------------------------- what came of it

def test_an_outcome_is_read_from_the_picture(kit, source, frames):
    """The renderer plays the drag: once as asked for, once not at all, once with an arm gone."""
    from dataclasses import replace
    scene = frames.scenes[0]
    pose = replace(scene.pose, left_arm=replace(scene.pose.left_arm, swing=scene.pose.left_arm.swing - 40))
    asked = puppets.render(replace(scene, pose=pose))
    start, end = joint(frames, "left_wrist")[None], joint(asked, "left_wrist")[None]
    hold = grab(*kit[1:], source, start, end)
    good, still = (outcome(*kit[1:], source, image, hold) for image in (asked.image, frames.image))
    assert good.good and good.off[0] < 4 and good.remedy == "" and not good.missing and "every joint is found" in good.words
    assert not still.good and still.off[0] == pytest.approx(still.way[0], abs=4) and "shorter way" in still.remedy
    gone = asked.image.clone()
    x, y = (int(v) for v in joint(asked, "left_elbow"))
    gone[..., max(y - 26, 0):y + 26, max(x - 10, 0):x + 26] = gone[..., :1, :1]
    torn = outcome(*kit[1:], source, gone, hold)
    assert not torn.good and torn.remedy and (torn.missing or any(abs(value - 1) > grabbing.STRETCH for value in torn.lengths.values()))
    alone = outcome(*kit[1:], source, asked.image, bare(kit[2], source, start, end))
    assert alone.off[0] < 4
    pin = torch.tensor([[20.0, 110.0]])
    arrows = torch.cat((pin, start)), torch.cat((pin, end))
    for taken in (grab(*kit[1:], source, *arrows), bare(kit[2], source, *arrows, fixed=start - 3)):
        told = outcome(*kit[1:], source, asked.image, taken)
        assert told.words.startswith("arrow 2: what it holds") and taken.what[0] == "pin" and len(told.off) == 1, "as they are numbered on the picture"
        assert pin[0].tolist() in taken.fixed.tolist()
    with pytest.raises(ValueError, match="nothing to move"):
        bare(kit[2], source, start, start)
    with pytest.raises(ValueError, match="the one picture"):
        outcome(*kit[1:], source, asked.image[..., :64, :64], hold)


@pytest.mark.parametrize("kind", cases.ARROWS)
def test_a_students_arrow_starts_on_what_it_means(kind):
    from rg_minimal.puppets.judge import load_judge
    judge, found = load_judge(), 0
    for i, scene in enumerate(world.sample_scenes(12, SCENE)):
        reading = judge(puppets.render(scene).image)
        case, again = (cases.arrow_case(kind, reading, i) for _ in range(2))
        if case is None:
            continue
        found += 1
        assert torch.equal(case.handle, again.handle) and torch.equal(case.target, again.target)
        assert (case.target - case.handle).norm() > 1 and case.handle.min() >= 0 and case.target.max() < 128
        if kind in ("wrist", "elbow", "ankle", "head"):
            assert (reading.joints[0, case.joints] - case.handle).norm() <= cases.AIM + 0.1
    assert found >= 3


def test_the_notebooks_drag_judges_no_picture_of_another_arrow():
    """Its cell run alone after another arrow was drawn: each of the three pictures is of the arrow on screen."""
    cells = ["".join(cell["source"]) for cell in json.loads((Path(__file__).parents[1] / "notebooks" / "07_drag.ipynb").read_text(encoding="utf-8"))["cells"]]
    first, second = (source for source in cells if "long_arrows()" in source and "display" in source)
    judged, picture, mask = [], torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    made = lambda handles, targets: {"objectives": [float(targets[0, 0])], "mask": mask}
    shown = SimpleNamespace(value=[[[5.0, 5.0], [20.0, 5.0]]], pins=[], grabs=True, held={})
    values = {"widget": shown, "math": math, "torch": torch, "picture": picture, "source": SimpleNamespace(start=0), "steps": 4, "pipe": None, "prompt": "", "head": None,
              "pose": None, "HELD": {}, "drawn_alone": {}, "display": lambda figure: None, "drag_row": lambda *given: None, "arm_only": mask,
              "drag_objective": lambda head, source, handles, targets, stop: float(targets[0, 0]), "drag": lambda head, source, handles, targets, **_: made(handles, targets),
              "held": lambda handles, targets: SimpleNamespace(handles=handles, targets=targets, fixed=None),
              "sample": lambda pipe, prompt, objectives, **_: [torch.full((1, 3, 4, 4), objectives[0])],
              "outcome": lambda *given: SimpleNamespace(words="", good=True), "verdict": lambda name, before, after, *_: judged.append((name, float(after.mean())))}
    exec(first, values)
    shown.value = [[[5.0, 5.0], [30.0, 5.0]]]
    exec(second, values)
    assert len(judged) == 3 and {value for _, value in judged} == {30.0}


def test_the_notebooks_drag_reads_what_is_drawn_and_says_in_a_sentence_where_nothing_is(capsys):
    """The cells that use the arrows, run alone after everything was cleared in the widget: a sentence and no traceback."""
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "07_drag.ipynb").read_text(encoding="utf-8"))["cells"]
    using = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and "long_arrows()" in "".join(cell["source"])]
    assert len(using) == 2
    for drawn in ([], [[[50.0, 50.0], [50.0, 50.0]]]):
        values = {"widget": SimpleNamespace(value=drawn, pins=[], grabs=True, held={}), "math": math, "torch": torch}
        for source in using:
            exec(source, values)
            assert capsys.readouterr().out.count("No arrow with a length is drawn") == 1
