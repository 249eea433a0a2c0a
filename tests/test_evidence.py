"""The evidence: who may see what, that trainings go on, that all contestants are asked the same, and the statistics."""
import itertools

import pytest
import torch

from rg_minimal.evidence import baselines as B, seeds as S
from rg_minimal.puppets import world

from tiny import tiny_pipe


def ranges():
    return [(name, scenes.first, scenes.end) for name, scenes in {**S.OURS, **S.OTHERS}.items()]


def test_scenes_of_trainings_choices_and_tests_are_disjoint():
    named = ranges()
    assert len(named) == len(S.OURS) + len(S.OTHERS)
    met = [(a[0], b[0]) for a, b in itertools.combinations(named, 2) if a[1] < b[2] and b[1] < a[2]]
    assert not met
    assert all(first >= world.HELD_OUT for name, first, _ in named if name in ("tune", "test", "real"))
    assert all(end <= world.HELD_OUT for name, _, end in named if name in ("train", "check", "detector", "eye"))


def test_trainings_of_two_seeds_share_no_scene_and_fewer_labels_are_a_part_of_more():
    firsts = [S.training_scenes(seed, S.MOST_LABELS) for seed in range(S.MOST_SEEDS)]
    assert min(b - a for a, b in itertools.pairwise(firsts)) >= S.MOST_LABELS
    assert S.training_scenes(3, 10) == firsts[3] and firsts[-1] + S.MOST_LABELS <= S.TRAIN.end
    for seed, labels in ((S.MOST_SEEDS, 10), (0, S.MOST_LABELS + 1), (-1, 10), (0, 0)):
        with pytest.raises(ValueError):
            S.training_scenes(seed, labels)


def test_a_skeleton_is_drawn_where_the_joints_are():
    frames = world.render(world.sample_scenes(2, 5))
    drawn = B.draw_skeleton(frames.joints)
    assert drawn.shape == (2, 3, 128, 128) and drawn.min() == 0 and drawn.max() <= 1
    x, y = frames.joints[0].long().unbind(-1)
    assert (drawn[0].amax(0)[y, x] > 0.5).all() and (drawn.amax(1) > 0.5).float().mean() < 0.1
    mirrored = frames.joints[:, [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12]]
    assert (B.draw_skeleton(mirrored) - drawn).abs().max() > 0.3                # left and right differ
    with pytest.raises(ValueError, match="choose one of"):
        B.control_picture("colour", frames.depth)


@pytest.fixture
def tiny(monkeypatch):
    """A tiny pipeline, and labelled pictures of its size without any rendering."""
    pipe = tiny_pipe()

    def label(pipe, first, count, chunk=8):
        rng = torch.Generator().manual_seed(first)
        maps = (torch.rand(count, 1, 32, 32, generator=rng) * 255).to(torch.uint8)
        return {"latents": torch.randn(count, 4, 16, 16, generator=rng), "joints": torch.rand(count, 14, 2, generator=rng) * 128,
                "visible": torch.ones(count, 14, dtype=torch.bool), "depth": maps, "edges": maps.clone()}
    monkeypatch.setattr(B, "_label", label)
    monkeypatch.setattr(B, "new_network", lambda kind, unet, seed=0: small(kind, unet))
    monkeypatch.setattr(B, "CHECKED", 16)
    return pipe


def small(kind, unet):
    torch.manual_seed(0)
    if kind == "controlnet":
        return B.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    return B.T2IAdapter(3, (16, 32, 32, 32), 1, 4, "full_adapter_xl")


def recipe(tmp_path, kind="controlnet", **changes):
    return B.BaselineRecipe(kind, "depth", **{"labels": 4, "steps": 6, "every": 2, "batch": 4, "warmup": 0, "runs": str(tmp_path), **changes})


@pytest.mark.parametrize("kind", B.KINDS)
def test_a_killed_training_goes_on_with_the_same_bits(tiny, tmp_path, kind):
    for _ in B.train_baseline(recipe(tmp_path / "whole", kind), tiny):
        pass
    run = B.train_baseline(recipe(tmp_path / "killed", kind), tiny)
    assert [next(run).step for _ in range(3)] == [1, 2, 3]
    run.close()
    assert [state.step for state in B.train_baseline(recipe(tmp_path / "killed", kind), tiny)] == [3, 4, 5, 6]
    whole, killed = (B.load_baseline(recipe(tmp_path / name, kind).folder).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not list(B.train_baseline(recipe(tmp_path / "killed", kind), tiny))
    with pytest.raises(ValueError, match="another recipe"):
        list(B.train_baseline(recipe(tmp_path / "killed", kind, steps=7), tiny))


def test_a_controlnet_lowers_its_loss_on_what_it_learns_and_leaves_the_model_alone(tiny, tmp_path):
    before = {name: value.clone() for name, value in tiny.unet.state_dict().items()}
    losses = [state.loss for state in B.train_baseline(recipe(tmp_path, steps=60, every=60, lr=5e-3, dropout=0.0, decay=0.0), tiny)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(torch.equal(value, before[name]) for name, value in tiny.unet.state_dict().items())


def test_bad_recipes_are_refused(tmp_path):
    for changes in ({"kind": "lora"}, {"labels": 0}, {"lr": -1.0}, {"seed": -1}):
        with pytest.raises(ValueError):
            recipe(tmp_path, **changes)
    with pytest.raises(ValueError, match="no finished baseline"):
        B.load_baseline(tmp_path)
