"""The judge: its measures against values derived by hand, its training in miniature, and the one that is shipped."""
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from rg_minimal import puppets
from rg_minimal.puppets import basemodel
from rg_minimal.puppets import judge as J
from rg_minimal.puppets.judge import (Judge, JudgeNetwork, JudgeRecipe, Reading, attribute_accuracy, augment, degrade,
                              depth_rmse, edge_f_score, evaluate, label, limb_lengths, load_judge, locate, pck, train_judge)

TINY = JudgeRecipe(channels=(8, 8, 8), pictures=6, steps=4, batch=2, save_every=2)


@pytest.fixture(scope="module")
def frames():
    return puppets.render(puppets.sample_scenes(64, puppets.HELD_OUT))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Judge(JudgeNetwork((8, 8, 8)), [0.25] * 14, {"rendered": {"pck@0.05": 0.5}}, {"steps": 1})


def reading(*attributes):
    n = len(attributes)
    return Reading(torch.zeros(n, 14, 2), torch.ones(n, 14), torch.zeros(n, 1, 128, 128), torch.zeros(n, 1, 128, 128),
                   list(attributes))


# ---------------------------------------------------------------------------------------------- measures by hand

def test_pck_counts_joints_within_a_share_of_the_larger_side():
    target = torch.tensor([[[10.0, 20.0], [110.0, 20.0], [10.0, 70.0]]])                  # a box of 100 x 50
    predicted = target + torch.tensor([[[3.0, 3.9], [5.1, 0.0], [0.0, 0.0]]])             # errors 4.92, 5.1, 0
    assert pck(predicted, target, 0.05).tolist() == pytest.approx([2 / 3])
    assert pck(predicted, target, 0.06).tolist() == [1]
    assert pck(predicted, target, 0.04).tolist() == pytest.approx([1 / 3])
    assert pck(predicted, target, 0.05, torch.tensor([[True, False, True]])).tolist() == [1]
    assert pck(predicted, target, 0.05, torch.tensor([[False, True, False]])).tolist() == [0]
    assert pck(predicted, target, 0.05, torch.zeros(1, 3, dtype=torch.bool)).isnan().all()


def test_depth_rmse_aligns_scale_and_shift_for_each_picture():
    row = lambda *values: torch.tensor(values)[None, None, None]
    assert depth_rmse(row(0.0, 1.0, 1.0), row(0.0, 0.0, 1.0)).item() == pytest.approx(math.sqrt(1 / 6))   # 0.5 p - 0
    target = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    both = torch.stack((target[0] * 3 - 1, target[1] / 7 + 5))
    assert depth_rmse(both, target).abs().max() < 1e-5
    spread = target.std((1, 2, 3), correction=0)
    assert torch.allclose(depth_rmse(torch.full_like(target, 0.3), target), spread)
    assert torch.allclose(depth_rmse(1 - target, target), spread)                         # inverted is not aligned away
    mask = torch.ones_like(target, dtype=torch.bool)
    mask[..., 0] = False
    spoiled = target.clone()
    spoiled[..., 0] = 9
    assert depth_rmse(spoiled, target, mask).abs().max() < 1e-5 < depth_rmse(spoiled, target).min()


def test_edge_f_score_with_and_without_tolerance():
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 4] = 1
    beside, with_extra = truth.roll(1, -1), truth + truth.roll(8, -1)
    assert edge_f_score(beside, truth, 0).item() == 0
    assert edge_f_score(beside, truth, 1).item() == 1
    assert edge_f_score(truth.roll(2, -1), truth, 1).item() == 0
    assert edge_f_score(with_extra, truth).item() == pytest.approx(2 / 3)                 # precision 1/2, recall 1
    assert edge_f_score(truth * 0.4, truth).item() == 0                                   # below one half is no edge
    assert edge_f_score(truth * 0, truth * 0).item() == 1


def test_attribute_accuracy_counts_only_what_is_named():
    scene = puppets.Scene(puppets.Puppet(shirt="red", hat="blue"), pose=None)
    seen = reading(scene.attributes, scene.attributes | {"shirt": "green", "prop": "tree"})
    everything = dict.fromkeys(puppets.ATTRIBUTES, 1.0) | {"shirt": 0.5, "prop": 0.5, "mean": 6 / 7}
    assert attribute_accuracy(seen, [scene, scene.attributes]) == pytest.approx(everything)
    assert attribute_accuracy(seen, [{"shirt": "red"}, {"shirt": "blue", "prop": "tree"}]) == {
        "shirt": 0.5, "prop": 1.0, "mean": 0.75}


def test_limb_lengths_follow_the_limbs():
    joints = torch.zeros(1, 14, 2)
    joints[0, 0] = torch.tensor([3.0, 4.0])                                               # the head; all else at (0, 0)
    assert limb_lengths(joints).tolist() == [[5.0] + [0.0] * 12]
    assert limb_lengths(joints * 2).shape == (1, len(puppets.LIMBS))


@pytest.mark.parametrize("call, message", [
    (lambda: pck(torch.zeros(14, 2), torch.zeros(14, 2)), r"predicted is \(14, 2\)"),
    (lambda: pck(torch.zeros(1, 14, 2), torch.zeros(2, 14, 2)), "equal shapes"),
    (lambda: pck(torch.zeros(1, 14, 2), torch.full((1, 14, 2), math.nan)), "target holds NaN"),
    (lambda: pck(torch.zeros(1, 14, 2), torch.zeros(1, 14, 2), -1), "a is -1"),
    (lambda: pck(torch.zeros(1, 14, 2), torch.zeros(1, 14, 2), 0.1, torch.ones(14)), "visible is"),
    (lambda: depth_rmse(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)), "pass finite maps"),
    (lambda: depth_rmse(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)), "resize"),
    (lambda: depth_rmse(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(8, 8)), "mask is"),
    (lambda: edge_f_score(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), 1.5), "tolerance is 1.5"),
    (lambda: attribute_accuracy(reading({}), []), "0 entries for 1 pictures"),
    (lambda: attribute_accuracy(reading({}), [{"shirt": "pink"}]), "shirt='pink'"),
    (lambda: attribute_accuracy(reading({}), [{}]), "no attribute at all"),
    (lambda: limb_lengths(torch.zeros(1, 3, 2)), "3 points"),
    (lambda: JudgeRecipe(steps=0), "steps is 0"),
    (lambda: JudgeRecipe(batch=1), "batch is 1: .*2"),
    (lambda: Judge(JudgeNetwork((8, 8, 8)), [0.5]), "thresholds"),
    (lambda: evaluate(None, count=0), "count is 0"),
    (lambda: load_judge("nowhere"), "nowhere is not a judge"),
])
def test_bad_input_is_named_with_its_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("images", [
    torch.zeros(1, 4, 128, 128), torch.zeros(1, 3, 64, 64), torch.zeros(0, 3, 128, 128), torch.full((1, 3, 128, 128), -1.0),
    torch.full((1, 3, 128, 128), math.nan), torch.zeros(1, 3, 128, 128, dtype=torch.uint8), "a picture"])
def test_only_pictures_in_zero_to_one_are_judged(tiny, images):
    with pytest.raises(ValueError, match="images .*(pass|give)"):
        tiny(images)


# ---------------------------------------------------------------------------------------------- maps, thresholds, files

def bump(x, y, height=12.0):
    """Logits of a Gaussian of one cell around (x, y) pixels."""
    grid = (torch.arange(64) + 0.5) * 2
    return height - ((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / 8


def test_locate_finds_places_between_cells_and_doubts_what_is_missing_or_double():
    maps = torch.stack((bump(40.7, 81.3), bump(127.0, 1.0), bump(20, 20).maximum(bump(90, 70)), torch.full((64, 64), -20.0)))
    joints, confidence = locate(maps[None])
    assert (joints[0, 0] - torch.tensor([40.7, 81.3])).abs().max() < 0.15
    assert (joints[0, 1] - torch.tensor([127.0, 1.0])).abs().max() < 2
    assert confidence[0, 0] > 0.95 and confidence[0, 3] < 0.01
    assert confidence[0, 2] == pytest.approx(confidence[0, 0].item() / 2, abs=0.01)
    spike = torch.full((1, 1, 64, 64), -30.0)
    spike[0, 0, 5, 9] = 0.0                                                               # as likely there as nowhere
    joints, confidence = locate(spike)
    assert joints.tolist() == [[[19.0, 11.0]]] and confidence.item() == pytest.approx(0.5, abs=1e-3)


def test_found_asks_all_joints(tiny):
    seen = reading({}, {}, {})
    seen.confidence[1, 3], seen.confidence[2] = 0.24, 0.25
    assert tiny.found(seen).tolist() == [True, False, True]


def test_thresholds_let_the_asked_share_of_whole_puppets_pass():
    confidence = torch.rand(5000, 14, generator=torch.Generator().manual_seed(0)) ** torch.linspace(0.1, 3, 14)
    thresholds = confidence.new_tensor(J.thresholds_of(confidence, 0.9))
    assert 0.9 <= (confidence >= thresholds).all(1).float().mean() < 0.905
    alone = (confidence >= thresholds).float().mean(0)                                    # 0.9 ** (1 / 14) = 0.9925
    assert torch.allclose(alone, torch.full((14,), 0.9925), atol=1e-3)


def test_save_and_load_keep_everything(tiny, tmp_path, frames):
    tiny.save_pretrained(tmp_path)
    again = Judge.from_pretrained(tmp_path)
    assert (again.thresholds, again.figures, again.recipe) == (tiny.thresholds, tiny.figures, tiny.recipe)
    before, after = tiny(frames.image[:2]), again(frames.image[:2])
    assert torch.allclose(before.depth, after.depth, atol=5e-3)                           # fp16 on disk
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    files = sorted(tmp_path.glob("*.*"))
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in files}) == 1                              # readable by the same people


def test_a_damaged_folder_is_named(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        Judge.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in ("{", "[]", json.dumps(config | {"channels": [8, 8, 16]}), json.dumps({}), json.dumps(config | {"figures": math.nan})):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match="is damaged"):
            Judge.from_pretrained(tmp_path)


def test_a_reading_depends_on_its_own_picture_alone(tiny, frames):
    together, alone = tiny(frames.image[:3], batch=2), tiny(frames.image[2:3])
    for name in ("joints", "confidence", "depth", "edges"):
        assert torch.allclose(getattr(together, name)[2:], getattr(alone, name), atol=1e-4)
    assert together.joints.shape == (3, 14, 2) and together.edges.shape == together.depth.shape == (3, 1, 128, 128)
    assert len(together) == 3 and all(list(facts) == list(puppets.ATTRIBUTES) for facts in together.attributes)
    assert not any(parameter.requires_grad for parameter in tiny.network.parameters())


# ---------------------------------------------------------------------------------------------- training

def test_it_trains_on_scenes_that_nothing_else_uses():
    last = J.TRAIN_SEED + JudgeRecipe().pictures
    assert basemodel.VAE_SEED + 100_000_000 < J.TRAIN_SEED < last < puppets.HELD_OUT <= J.TEST_SEED < J.CALIBRATION_SEED


def test_joints_follow_shifts_and_mirrors(frames):
    """Pictures whose colour *is* the place, so that each pixel says where it came from."""
    pool = label(frames)
    pool.packed[:, 0], pool.packed[:, 1] = torch.arange(128)[None, None, :], torch.arange(128)[None, :, None]
    index = torch.arange(64)
    batch = augment(pool, index, replace(TINY, patched=0.0), torch.Generator().manual_seed(0))
    mirrored = batch.packed[:, 0, 60, 20] > batch.packed[:, 0, 60, 100]
    assert 10 < mirrored.sum() < 54 and batch.whole.all()
    came_from = torch.where(mirrored[:, None, None], pool.joints[:, J.MIRROR], pool.joints)
    spot = batch.joints.floor().long().clamp(0, 127)
    place = batch.packed[index[:, None], :2, spot[..., 1], spot[..., 0]].float() + 0.5    # (B, J, 2)
    inside = batch.present
    assert inside.float().mean() > 0.95 and (place - came_from)[inside].abs().max() <= 1.01
    assert [puppets.JOINTS[i] for i in J.MIRROR[:4]] == ["head", "neck", "right_shoulder", "left_shoulder"]


def test_patched_joints_are_absent_and_only_those(frames):
    pool = label(frames)
    pool.packed[:] = torch.arange(64)[:, None, None, None]                                # each pixel says whose it is
    batch = augment(pool, torch.arange(64), replace(TINY, patched=0.5, shift=0), torch.Generator().manual_seed(0))
    spot, owner = batch.joints.long().clamp(0, 127), torch.arange(64)[:, None]
    own = batch.packed[owner, 0, spot[..., 1], spot[..., 0]] == owner
    edge = (own != batch.present).float().mean()                                          # rounding at a patch's border
    assert edge < 0.02 and 0.02 < (~batch.present).float().mean() < 0.3
    assert torch.equal(batch.whole, (batch.packed == owner[..., None, None]).all((1, 2, 3)))


def test_degraded_pictures_stay_close(frames):
    one, two = (degrade(frames.image, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.min() >= 0 and one.max() <= 1
    error = (one - frames.image).square().mean((1, 2, 3)).sqrt()
    assert 0.005 < error.min() and error.max() < 0.12


def weights(run):
    """The bytes of all tensors; the file's header names the run."""
    tensors = load_file(run / "judge" / "model.safetensors")
    return {name: tensors[name].numpy().tobytes() for name in sorted(tensors)}


def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path):
    states = list(train_judge(replace(TINY, run=str(tmp_path / "whole"))))
    assert [(state.stage, state.step) for state in states] == [("render", 6)] + [("judge", i) for i in range(1, 5)]
    assert all(math.isfinite(state.loss) for state in states[1:])
    recipe = replace(TINY, run=str(tmp_path / "killed"))
    for state in train_judge(recipe):
        if (state.stage, state.step) == ("judge", 3):                                     # one step after the checkpoint
            break
    assert not (tmp_path / "killed" / "judge").exists()
    assert [state.step for state in train_judge(recipe)][1:] == [3, 4]
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert list(train_judge(recipe)) == []                                                # done is done


@pytest.mark.parametrize("name, values", {
    "run": ["", 3], "device": ["tpu"], "seed": [-1], "save_every": [0], "channels": [(8, 8), (8, 8, 0)], "pictures": [0, "6"],
    "steps": [True, 2.5], "batch": [1], "lr": [math.nan, "x"], "warmup": [-5], "decay": [2.0], "patched": [1.5, -0.1],
    "shift": [-1, 128]}.items())
def test_a_recipe_names_the_field_the_value_and_what_is_allowed(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} is .*: \w.{{10,}}"):
            JudgeRecipe(**{name: value})


@pytest.mark.parametrize("options", ["--batch 1", "--steps 0", "--pictures x", "--count -2", "--seed -1", "--device tpu"])
def test_the_command_refuses_what_makes_no_training(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        J.main(options.split())
    assert stopped.value.code == 2 and f"argument {options.split()[0]}: " in capsys.readouterr().err


def test_a_corrupt_checkpoint_is_named(tmp_path):
    (tmp_path / "judge.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="Delete it to start over"):
        list(train_judge(replace(TINY, run=str(tmp_path))))


def test_the_loss_falls(tmp_path):
    losses = [state.loss for state in train_judge(replace(TINY, run=str(tmp_path), steps=40, batch=3)) if state.stage == "judge"]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_the_whole_command_writes_a_judge_with_its_card(tmp_path, monkeypatch, capsys):
    from tiny import tiny_vae
    tiny_vae().save_pretrained(tmp_path / "vae")
    exported = J.export_judge.__wrapped__
    monkeypatch.setattr(exported, "__defaults__", (*exported.__defaults__[:-1], 30))      # calibrate on few
    J.main(["--run", str(tmp_path / "run"), "--folder", str(tmp_path / "judge"), "--vae", str(tmp_path / "vae"),
            "--pictures", "4", "--steps", "2", "--batch", "2", "--count", "4"])
    made = load_judge(tmp_path / "judge")
    assert set(made.figures) == {"rendered", "autoencoded"} and "judge 2/2" in capsys.readouterr().out
    text = (tmp_path / "judge" / "README.md").read_text()
    assert "autoencoded" in text and str(made.figures["rendered"]["pck@0.05"]) in text
    assert str(tmp_path) not in (tmp_path / "judge" / "config.json").read_text()


# ---------------------------------------------------------------------------------------------- the shipped judge

@pytest.fixture(scope="module")
def shipped():
    return load_judge()


def test_shipped_judge_meets_its_bars_on_held_out_renderings(shipped, frames):
    seen = shipped(frames.image)
    assert pck(seen.joints, frames.joints, 0.05, frames.visible).mean() >= 0.97
    accuracy = attribute_accuracy(seen, frames.scenes)
    assert accuracy["mean"] >= 0.97 and min(accuracy.values()) >= 0.93                    # 64 pictures are few
    assert depth_rmse(seen.depth, frames.depth).mean() <= 1.05 * shipped.figures["rendered"]["depth rmse"]    # the card's
    assert edge_f_score(seen.edges, frames.edges).mean() > 0.8
    assert shipped.found(seen)[frames.visible.all(1)].float().mean() >= 0.95


def test_shipped_figures_meet_the_bars_through_the_autoencoder_too(shipped):
    for name in ("rendered", "autoencoded"):
        figures = shipped.figures[name]
        assert figures["pictures"] >= 500 and figures["pck@0.05"] >= 0.97
        assert min(figures["attributes"].values()) >= 0.97, figures["attributes"]


def test_shipped_judge_misses_what_is_not_there(shipped, frames):
    """A puppet without its lower half, and a picture of noise, are no whole puppets."""
    half = frames.image.clone()
    half[:, :, 80:] = half[:, :, 80:].mean((2, 3), keepdim=True)
    assert shipped.found(shipped(half)).float().mean() <= 0.05
    noise = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert not shipped.found(shipped(noise)).any()


def test_a_card_of_others_and_a_run_of_another_recipe_stay(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    recipe = JudgeRecipe(run=str(tmp_path / "run"), pictures=8, steps=2, batch=2, channels=(8, 8, 8))
    with pytest.raises(ValueError, match="holds a README.md and no model.safetensors, and a card would take its place"):
        J.export_judge(recipe, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "run").exists()
    assert list(J.train_judge(recipe)) and not list(J.train_judge(recipe)), "the second time all is done"
    with pytest.raises(ValueError, match="was trained with seed 0, not 7: choose another run"):
        list(J.train_judge(replace(recipe, seed=7)))


def test_depth_of_whole_numbers_and_truth_values_is_scored_as_that_of_fractions():
    predicted, target = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(8).expand(2, 1, 8, 8)
    scores = [J.depth_rmse(predicted, target.to(kind)) for kind in (torch.float32, torch.long, torch.bool)]
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2]) and scores[0].min() > 0.1
    with pytest.raises(ValueError, match="pass points"):
        J.pck(torch.zeros(0, 14, 2), torch.zeros(0, 14, 2))
