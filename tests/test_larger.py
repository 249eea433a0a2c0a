"""Larger models: their shapes without weights, what is missing here, and notebook 11 on tiny models of their classes."""
from pathlib import Path

import huggingface_hub
import nbformat
import pytest
import torch

from rg_minimal import pipelines, sample
from rg_minimal.classroom import larger
from rg_minimal.denoisers import denoiser
from test_readout import seed, spatial
from tiny import tiny_pipe, tiny_xl_pipe

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "11_larger_models.ipynb"


@pytest.fixture(scope="module", params=[tiny_pipe, tiny_xl_pipe], ids=["sd", "sdxl"])
def folder(request, tmp_path_factory):
    """A folder that holds a tiny model of the class."""
    where = tmp_path_factory.mktemp(request.param.__name__)
    request.param().save_pretrained(where)
    return where


@pytest.mark.parametrize("name, weights, layers", [("Stable Diffusion 1.5", 859_520_964, 12), ("Stable Diffusion XL", 2_567_463_684, 9)])
def test_weightless_unets_have_the_size_of_the_real_ones(name, weights, layers):
    unet = larger.weightless_unet(larger.ARCHITECTURES[name])
    assert sum(parameter.numel() for parameter in unet.parameters()) == weights
    assert len(denoiser(unet).layers) == layers and unet.time_embedding.linear_2.out_features == 1280
    assert all(parameter.is_meta for parameter in unet.parameters())


@pytest.mark.parametrize("make", [tiny_pipe, tiny_xl_pipe])
def test_shapes_without_weights_are_those_with_weights(make):
    pipe = make()
    from_config = larger.weightless_unet(pipe.unet.config)
    assert denoiser(from_config).channels == denoiser(pipe).channels
    shapes = larger.feature_shapes(from_config)
    assert shapes[-1] == (pipe.unet.config.block_out_channels[0], 16, 16) and len(shapes) == len(denoiser(pipe).layers)
    assert all(parameter.is_meta for parameter in larger.weightless_head(from_config, width=128, out_channels=1).parameters())


@pytest.mark.parametrize("model", ["", None, "nonsense", "data/no-such-model", "a/b/c", "data/heads/no-such-model"])
def test_what_can_be_no_model_is_refused_by_name(model):
    with pytest.raises(ValueError, match="model is"):
        larger.what_is_missing(model)


def test_missing_weights_are_told_and_the_stand_in_is_loaded(folder):
    pipe, missing = larger.load_or_stand_in("nobody/no-such-model", stand_in=str(folder))
    assert "weights of nobody/no-such-model are not on this machine" in missing and "download = True" in missing
    said = larger.what_is_missing("nobody/no-such-model", download=True)        # offline in tests
    assert said.startswith("nobody/no-such-model could not be downloaded; HF_HUB_OFFLINE is set in the environment"), said
    assert len(denoiser(pipe).layers) == 4


def test_a_download_that_fails_says_why(monkeypatch):
    def fail(*given, **settings):
        raise OSError("the cable is out\nand more")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(larger.UNet2DConditionModel, "load_config", fail)
    assert larger.what_is_missing("nobody/no-such-model", download=True) == "nobody/no-such-model could not be downloaded: the cable is out"


def test_a_large_model_without_a_gpu_is_told(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert larger.what_is_missing(str(folder)) == ""
    monkeypatch.setattr(larger, "ON_CPU", 1000)
    assert "no GPU" in larger.what_is_missing(str(folder)) and "on_cpu = True" in larger.what_is_missing(str(folder))
    assert larger.what_is_missing(str(folder), on_cpu=True) == ""


def test_gradient_checkpointing_changes_no_number():
    """It forgets the features' history and computes it again: hooks must still hear what the gradient flows through."""
    pictures = []
    for checkpointing in (False, True):
        pipe = tiny_pipe()
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        pictures.append(sample(pipe, "a puppet is waving", [spatial(pipe)], num_inference_steps=4, generator=seed())[1])
    torch.testing.assert_close(*pictures)


@pytest.mark.parametrize("make", [tiny_pipe, tiny_xl_pipe])
def test_the_modular_loop_follows_the_samplers_rule(make, capfd):
    """Also with the UNet of Stable Diffusion, which does not ask for what SDXL's loop tells it; and in silence."""
    pipe, noise = make(), torch.randn(2, 4, 16, 16, generator=seed())
    settings = dict(guidance_scale=3.0, step_size=0.3)
    with larger.counted(pipe) as cost:
        latents = larger.modular_loop(pipe, ["a puppet"] * 2, noise, 4, objectives=[spatial(pipe)], **settings)
    *_, last = pipelines.guided_sample(pipe, ["a puppet"] * 2, [spatial(pipe)], latents=noise, num_inference_steps=4,
                                       moves="prediction", **settings)
    torch.testing.assert_close(latents, last.latents)
    assert (cost.passes, cost.pictures, cost.with_gradient) == (8, 16, 4) and cost.seconds > 0
    assert capfd.readouterr() == ("", "")
    assert not denoiser(pipe).network._forward_hooks


@pytest.mark.filterwarnings("ignore:the model does not know")
def test_notebook_runs_on_tiny_models_of_both_classes(folder):
    """Its cells, one after the other, as they are, with other parameters."""
    shown, names = [], {"display": lambda figure: shown.append(figure._repr_png_())}
    parameters = {"model": str(folder), "prompt": "a puppet is waving", "steps": 4, "pictures": 6, "training_steps": 3}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "notebook", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names.update(parameters)
    assert names["missing"] == "" and names["pipe"].unet.config.block_out_channels == [16, 32]
    assert len(shown) == 6 and len(names["readings"][100].features) == 4 and names["results"]["guided: dark"].shape == (2, 3, 32, 32)
    assert names["difference"]("1 guided_sample", "2 callback") < 1e-3 and names["difference"]("1 by rule of 3", "3 guider") < 1e-3
    assert [names["costs"][name].with_gradient for name in names["costs"]] == [0, 1, 1, 2, 2]
