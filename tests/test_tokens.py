"""Tokens of a transformer: what is heard of them, what is counted, and the table that notebook 11 draws."""
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import tiny
from rg_minimal.denoisers import denoiser
from rg_minimal.files import read_json
from rg_minimal.pipelines import read_picture
from rg_minimal.puppets import measure, tokens as T
from rg_minimal.puppets.transformer import TransformerRecipe, build_pipeline, build_transformer

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pipe():
    """SD3's class on the puppets' latents, its weights at random."""
    recipe = TransformerRecipe(start_from=str(ROOT / "data" / "puppet-diffusion"), width=16, heads=2, depth=2)
    torch.manual_seed(0)
    model = build_transformer(recipe)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return build_pipeline(recipe, model.state_dict())


def test_views_by_hand():
    raw = torch.randn(3, 5, 4, generator=tiny.seed()) * torch.tensor([1.0, 20.0, 1.0, 3.0]) + 2
    views = T.views(raw)
    token = raw[1, 2]
    torch.testing.assert_close(views["normalised"][1, 2], (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt())
    cells = views["by channel"].flatten(0, 1)
    torch.testing.assert_close(cells.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(cells.std(0), torch.ones(4))
    massive = T.make_massive(raw, torch.tensor([1, 3]))
    assert torch.equal(massive[..., [0, 2]], raw[..., [0, 2]]) and torch.equal(massive[..., [1, 3]], raw[..., [1, 3]] * T.TIMES)
    torch.testing.assert_close(T.views(massive)["by channel"], views["by channel"], atol=1e-4, rtol=1e-4)


def test_figures_by_hand():
    figures = T.describe_tokens(torch.tensor([[[3.0, 1, 1, -1, 0]], [[-3.0, 1, -1, 1, 0]]]))
    assert figures["share_of_largest"] == pytest.approx(9 / 12) and figures["share_of_four"] == pytest.approx(1)
    assert figures["size"] == pytest.approx((12 / 5) ** 0.5) and figures["token_size"] == [pytest.approx(1.5492)] * 2
    assert figures["channel_size"][0] == 0 and figures["channel_size"][-1] == 3 and figures["channel_size"][4] == 1
    normal = T.describe_tokens(torch.randn(4, 1000, 16, generator=tiny.seed()))
    assert normal["kurtosis"] == pytest.approx(3, abs=0.1) and normal["share_of_four"] == pytest.approx(4 / 16, abs=0.01)


def test_what_is_heard_is_what_the_blocks_return_and_read(pipe):
    network = denoiser(pipe).network
    latents = torch.randn(2, 4, 32, 32, generator=tiny.seed())
    with T.listening(network) as (returned, read):
        reading = read_picture(pipe, timestep=300, latents=latents, generator=tiny.seed(1))
    assert list(returned) == [0, 1] and sorted(read) == [0, 1] and returned[0].shape == (2, 256, 16)
    for index, feature in enumerate(reading.features):                      # what a head is given is the normalised view
        expected = F.layer_norm(returned[index], (16,)).mT.unflatten(2, (16, 16))
        torch.testing.assert_close(feature, expected, atol=1e-5, rtol=1e-4)
    for index in returned:              # scaled and shifted channel by channel, the same for all tokens of a picture
        plain = F.layer_norm(returned[index], (16,))
        scale = (read[index][:, :1] - read[index][:, 1:2]) / (plain[:, :1] - plain[:, 1:2])
        shift = read[index][:, :1] - scale * plain[:, :1]
        torch.testing.assert_close(read[index], scale * plain + shift, atol=2e-2, rtol=1e-2)
        assert (scale - 1).abs().max() > 0.05
    assert not [hook for module in network.modules() for hook in module._forward_hooks]


def test_the_measurement_in_miniature(pipe):
    result = measure.finish(measure.measurement("tokens", pipe, None, "data/heads", count=2))
    assert result["pairs"] == 2 and result["blocks"] == 2 and result["channels"] == 16 and list(result["timesteps"]) == ["100", "500"]
    for views in result["timesteps"].values():
        assert list(views)[:4] == list(T.VIEWS) and len(views) == 7
        assert all(len(values) == 2 for figures in views.values() for values in figures.values())
        assert views["normalised"]["size"] == pytest.approx([1, 1], abs=1e-2)
        assert all(large > small for large, small in zip(views["massive, raw"]["share_of_four"], views["raw"]["share_of_four"]))
        assert views["massive, by channel"]["pck@0.1"] == pytest.approx(views["by channel"]["pck@0.1"], abs=0.02)
    json.dumps(result, allow_nan=False)


def test_what_has_no_tokens_is_refused():
    for build, kind in ((tiny.tiny_pipe, "UNet2DConditionModel"), (tiny.tiny_pixart_pipe, "PixArt")):
        with pytest.raises(ValueError, match=f"{kind}.*pass --model"):
            next(T.measure_tokens(build()))
    with pytest.raises(ValueError, match="count is 0"):
        T.measure_tokens(None, count=0)


@pytest.mark.parametrize("option", ["--steps", "--heads"])
def test_options_without_effect_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        measure.main(["tokens", option, "3"])
    assert f"{option} has no effect on tokens" in capsys.readouterr().err


def test_the_stored_table_has_what_notebook_11_draws():
    stored = read_json(ROOT / "data" / "results" / "tokens.json")
    assert stored["training_steps"] > 1000 and len(stored["quantiles"]) == len(T.QUANTILES)
    for views in stored["timesteps"].values():
        assert all(len(views[name][figure]) == stored["blocks"] for name in T.VIEWS
                   for figure in ("channel_size", "size", "share_of_four", "pck@0.1"))
