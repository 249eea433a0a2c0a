"""What loads, saves, reads or samples leaves the global random states of torch, numpy and Python as they were."""
import random

import numpy
import pytest
import torch

from rg_minimal import Source, encode, invert, load_head, load_pipeline, load_reference_head, read_picture, sample
from rg_minimal.classroom.larger import ARCHITECTURES, weightless_head, weightless_unet
from rg_minimal.classroom.recipe import load_kit
from rg_minimal.puppets import render, sample_scene
from rg_minimal.puppets.heads import new_head
from rg_minimal.puppets.judge import load_judge


def states():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("data/puppet-diffusion")


@pytest.fixture(scope="module")
def picture():
    return render(sample_scene(3)).image


def seeded():
    return torch.Generator().manual_seed(0)


WORK = {"a pipeline": lambda pipe, picture, folder: load_pipeline("data/puppet-diffusion"),
        "a head": lambda pipe, picture, folder: load_head("data/heads/pose", pipe),
        "a head, saved and loaded": lambda pipe, picture, folder: load_head(load_head("data/heads/pose").save_pretrained(folder) or folder),
        "a head of the authors": lambda pipe, picture, folder: load_reference_head("tests/parity/official_layout_head.pt"),
        "a head without weights": lambda pipe, picture, folder: weightless_head(weightless_unet(ARCHITECTURES["Stable Diffusion XL"]), width=128),
        "a judge": lambda pipe, picture, folder: load_judge(),
        "the studio's kit": lambda pipe, picture, folder: load_kit(),
        "a rendering": lambda pipe, picture, folder: render(sample_scene(3)),
        "sampling": lambda pipe, picture, folder: sample(pipe, "a puppet", generator=seeded(), num_inference_steps=2),
        "encoding": lambda pipe, picture, folder: encode(pipe, picture),
        "inversion": lambda pipe, picture, folder: list(invert(pipe, picture, num_inference_steps=2)),
        "a reading": lambda pipe, picture, folder: read_picture(pipe, picture, 300, generator=seeded()),
        "a source": lambda pipe, picture, folder: Source.from_picture(pipe, picture, generator=seeded())}


@pytest.mark.parametrize("what", WORK)
def test_global_random_states_stay(pipe, picture, tmp_path, what):
    before = states()
    WORK[what](pipe, picture, tmp_path)
    assert states() == before


def test_a_head_of_ones_own_leaves_an_accelerators_numbers_alone(pipe, monkeypatch):
    """`torch.manual_seed` would begin them anew, and no `fork_rng` of the CPU brings them back."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the accelerator's random numbers begin anew"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: pytest.fail("the accelerator's random numbers begin anew"))
    before = states()
    one, other = (new_head(pipe, "pose", seed).state_dict() for seed in (7, 7))
    assert states() == before and all(torch.equal(one[name], other[name]) for name in one)


def test_new_weights_are_drawn_from_torch_as_its_own_modules_do(pipe):
    """A new head is drawn from the global generator, so that `torch.manual_seed` decides: it is the one thing that moves it."""
    torch.manual_seed(0)
    first, before = new_head(pipe, "pose").state_dict(), states()
    torch.manual_seed(0)
    again = new_head(pipe, "pose").state_dict()
    assert states() == before and all(torch.equal(first[name], again[name]) for name in first)
