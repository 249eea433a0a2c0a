"""A property that nobody foresaw, in one page: the cell of notebook 10 that is tagged `property`, run as it stands there.

It defines labels, loss, score and objective for the place of the sun, and touches no line of the core. Here its head is
trained on random tiny models and on the shipped one, and the shipped one is guided with it; where the sun is in a finished
picture is told by its colour, which shares nothing with the head.
"""
import ast
import re
from pathlib import Path

import nbformat
import pytest
import torch

import rg_minimal
from rg_minimal.puppets import heads as H
from tiny import tiny_pipe, tiny_xl_pipe

ROOT = Path(__file__).resolve().parent.parent
LEFT, RIGHT = torch.tensor([[28.0, 15.0]]), torch.tensor([[100.0, 15.0]])


def source():
    notebook = nbformat.read(ROOT / "notebooks" / "10_your_own_head.ipynb", as_version=4)
    cell, = (cell for cell in notebook.cells if "property" in cell.metadata.get("tags", []))
    return cell.source


@pytest.fixture(scope="module")
def page():
    """What the page defines, by name."""
    names = {"__name__": "page"}
    exec(compile(source(), "10_your_own_head.ipynb", "exec"), names)
    return names


def place_by_colour(pictures):
    """Column of the sun (B,): the mean of the pixels of its colour in the upper quarter."""
    yellow = (pictures[:, :, :32] - torch.tensor([1.0, 0.95, 0.62])[:, None, None]).norm(dim=1) < 0.25
    return (yellow.sum(1) * (torch.arange(128) + 0.5)).sum(-1) / yellow.sum((1, 2))


def test_it_is_one_page_that_imports_the_core_and_changes_nothing_in_it():
    assert len(source().splitlines()) <= 60
    tree = ast.parse(source())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"rg_minimal", "rg_minimal.puppets.heads"} <= imported and not any("._" in name for name in imported)
    stored = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    assert not any(isinstance(target, ast.Attribute) for target in stored), "it assigns to something that it did not make"
    for module in ("readout", "puppets/heads"):
        assert not re.search(r"\bsun", (ROOT / "rg_minimal" / f"{module}.py").read_text(encoding="utf-8"), re.I)


def test_loss_score_and_reading_agree_about_where_the_sun_is(page):
    (pictures,), (place,) = page["sun_samples"](6, 3)
    assert pictures.shape == (6, 3, 128, 128) and place.shape == (6, 2)
    assert (place_by_colour(pictures) - place[:, 0]).abs().median() < 2, "labels are where the sun is seen"
    centres = torch.arange(32) * 4 + 2.0                                                # of the cells, in pixels
    across, down = ((centres - each[:, None]) ** 2 for each in place.T)                 # (6, 32) each
    logits = -(down[:, None, :, None] + across[:, None, None, :]) / 16                  # a bump at each sun
    assert page["SUN"].score(logits, place).max() < 1.5
    assert page["SUN"].loss(logits, place) < page["SUN"].loss(logits, place.flip(0)) - 1
    assert torch.allclose(page["sun_errors"](logits, place).mean(), page["SUN"].loss(logits, place))


@pytest.mark.parametrize("make", [tiny_pipe, tiny_xl_pipe])
def test_a_head_for_it_trains_saves_and_guides_on_any_pipeline(make, page, tmp_path):
    pipe, task = make(), page["SUN"]
    samples = H.collect(pipe, task, 6, seed=1)
    head = H.new_head(pipe, task)
    before = head.mixing_weights.detach().clone()
    losses = [state.loss for state in H.train_task(pipe, task, samples, head, steps=3, batch=2)]
    assert len(losses) == 3 and all(loss > 0 for loss in losses) and not torch.equal(head.mixing_weights, before)
    assert 0 < H.score_head(pipe, task, head, (100,), samples)[100] < 182              # a distance within the picture
    head.save_pretrained(tmp_path / "sun")
    head = rg_minimal.load_head(tmp_path / "sun", pipe)
    objective = page["SunObjective"](head=head, place=torch.cat((LEFT, RIGHT)))
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    states = list(rg_minimal.guided_sample(pipe, ["a puppet"] * 2, [objective], num_inference_steps=4, latents=noise))
    assert states[0].losses[0].shape == (2,) and states[-1].losses == [None] and states[-1].latents.isfinite().all()
    assert not torch.equal(*states[-1].latents), "two places, two pictures"


@pytest.fixture(scope="module")
def shipped(page):
    """The shipped model, and a head for the sun that was trained on it for a moment."""
    pipe = rg_minimal.load_pipeline(ROOT / "data" / "puppet-diffusion", device="cpu")
    head = H.new_head(pipe, page["SUN"])
    for _ in H.train_task(pipe, page["SUN"], head=head, count=48, steps=30, batch=8):
        pass
    return pipe, head


def test_forty_eight_pictures_teach_it(shipped, page):
    pipe, head = shipped
    error = H.score_head(pipe, page["SUN"], head, (100, 500), count=16)
    assert error[100] < 4 and error[500] < 6, f"pixels off, by timestep: {error}"


def test_guidance_moves_the_sun_of_the_shipped_model(shipped, page):
    """By the objective's own loss, and by the sun's colour in the finished picture."""
    pipe, head = shipped
    prompt = "a puppet with tan skin in a red shirt and blue trousers is standing in a meadow"
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = dict(num_inference_steps=12, latents=noise)
    wanted = torch.cat((LEFT, RIGHT))
    plain, _ = rg_minimal.sample(pipe, prompt, **settings)
    guided, _ = rg_minimal.sample(pipe, [prompt] * 2, [page["SunObjective"](head=head, place=wanted)], **settings)
    with torch.no_grad():
        reading = rg_minimal.read_picture(pipe, torch.cat((plain, plain, guided)), 100, generator=torch.Generator().manual_seed(0))
        errors = page["sun_errors"](reading(head), wanted.repeat(2, 1))
    assert (errors[2:] < errors[:2]).all(), f"unguided {errors[:2].tolist()}, guided {errors[2:].tolist()}"
    left, right = place_by_colour(guided).tolist()
    assert abs(left - 28) < 12 and abs(right - 100) < 12, f"the sun came out in columns {left:.0f} and {right:.0f}"
