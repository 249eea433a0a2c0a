"""The small autoencoder that forming pictures are shown by: near the model's own, quicker, and never in the way of what is kept."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from rg_minimal.autoencoders import decode, encode
from rg_minimal.classroom.drafts import Draft
from rg_minimal.classroom.recipe import START, load_kit, moments, plain_runs, plain_states
from rg_minimal.pipelines import guided_sample, load_pipeline
from rg_minimal.puppets import previews, world
from rg_minimal.puppets.previews import PreviewRecipe, build, export_previews, load_previews, name_of, train_previews

DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = DATA / "previews"


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(DATA / "puppet-diffusion", device="cpu")


def tiny(run, **settings) -> PreviewRecipe:
    return PreviewRecipe(**{"run": str(run), "start_from": str(DATA / "puppet-diffusion"), "width": 4, "blocks": (1, 1, 1), "pictures": 4,
                            "steps": 4, "batch": 4, "save_every": 2, "seed": 3} | settings)


def finished(recipe) -> list:
    return list(train_previews(recipe))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = tiny(tmp_path_factory.mktemp("previews") / "run")
    return recipe, finished(recipe)


def test_what_is_shipped_shows_what_the_models_own_decoder_shows(pipe):
    small, seed = load_previews(pipe), previews.TEST_SCENES + 1000
    assert sum(value.numel() for value in small.parameters()) < 300_000
    captions = [scene.caption for scene in world.sample_scenes(4, seed)]
    *_, state = guided_sample(pipe, captions, num_inference_steps=6, generator=torch.Generator().manual_seed(seed))
    quick, full = (decode(pipe, state.latents, vae) for vae in (small, None))
    psnr = -10 * (quick - full).square().mean((1, 2, 3)).log10()
    assert psnr.min() > 28, psnr
    again = small.encode(full * 2 - 1).latents
    assert (again - state.latents).square().mean() < 0.1 * state.latents.square().mean()
    assert quick.dtype == torch.float32 and 0 <= quick.min() and quick.max() <= 1


def test_its_card_and_recipe_say_what_it_is(pipe):
    told, card = json.loads((SHIPPED / "recipe.json").read_text()), (SHIPPED / "README.md").read_text()
    for name, value in told["figures"].items():
        assert name == "n" or f"| {name} | {value} |" in card
    own, small = (told["figures"][f"ms of the processor a picture, {name}"] for name in ("own decoder", "small decoder"))
    assert small < own / 2.5, "the module's first lines say a third"
    assert told["autoencoder"] == name_of(pipe.vae)
    public = AutoencoderTiny.from_pretrained(SHIPPED, local_files_only=True)
    assert all(torch.equal(a, b) for a, b in zip(public.parameters(), load_previews(pipe).parameters()))


def test_neither_we_nor_diffusers_warn_of_the_folder(pipe, capfd, caplog):
    load_previews(pipe), AutoencoderTiny.from_pretrained(SHIPPED, local_files_only=True)
    assert not caplog.records and not capfd.readouterr().err


def test_of_another_autoencoder_or_without_a_folder_there_is_none(pipe, tmp_path):
    other = load_pipeline(DATA / "puppet-diffusion", device="cpu")
    other.vae.decoder.conv_out.weight.data *= 1.01
    assert load_previews(other) is None and load_previews(pipe, tmp_path / "nothing") is None
    other.vae = None
    assert load_previews(other) is None


@pytest.mark.parametrize("name, content", [("recipe.json", "{}"), ("config.json", "[]"), ("diffusion_pytorch_model.safetensors", "cut"),
                                           ("config.json", None), ("config.json", '{"_class_name": "AutoencoderTiny"}')])
def test_a_damaged_folder_is_named(pipe, tmp_path, name, content):
    folder = shutil.copytree(SHIPPED, tmp_path / "previews")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match="previews is damaged .*make it again"):
        load_previews(pipe, folder)


def test_loading_leaves_the_random_numbers_alone(pipe):
    before = torch.get_rng_state()
    load_previews(pipe), build(PreviewRecipe())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_that_was_ended_goes_on_as_if_it_had_not_been(trained, tmp_path):
    recipe, states = trained
    assert [(state.stage, state.step) for state in states] == [("latents", 4), *(("previews", step) for step in (1, 2, 3, 4))]
    for state in train_previews(tiny(tmp_path)):
        if state.stage == "previews" and state.step == 2:
            break
    rest = finished(tiny(tmp_path))
    assert [state.step for state in rest] == [3, 4] and [state.loss for state in rest] == [state.loss for state in states[-2:]]
    with pytest.raises(ValueError, match="cannot go on from the checkpoint .*Delete it"):
        finished(tiny(tmp_path, width=8))


def test_what_it_learns_from_is_half_rendered_and_half_the_models_guesses(trained, pipe):
    pool = load_file(Path(trained[0].run) / "pool.safetensors")["latents"]
    assert pool.shape == (4, 4, 32, 32) and pool.isfinite().all()
    scenes = world.sample_scenes(2, previews.SCENES)
    torch.testing.assert_close(pool[:2], encode(pipe, world.render(scenes).image))
    states = list(guided_sample(pipe, [scenes[0].caption], num_inference_steps=25, generator=torch.Generator().manual_seed(previews.SCENES)))
    torch.testing.assert_close(pool[2:], torch.cat([states[4].clean_latents, states[9].clean_latents]))


def test_a_folder_is_written_whole_and_takes_the_place_of_nothing_else(trained, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("rg_minimal.puppets.previews.measure_previews", lambda *_: {"n": 1, "PSNR on the way, dB": 12.5})
    folder = export_previews(trained[0], tmp_path / "out")
    assert set(json.loads((folder / "config.json").read_text())) == set(json.loads((SHIPPED / "config.json").read_text()))
    assert "| PSNR on the way, dB | 12.5 |" in (folder / "README.md").read_text()
    assert sum(value.numel() for value in load_previews(pipe, folder).decoder.parameters()) > 0
    export_previews(trained[0], folder)
    (folder / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="mine.txt"):
        export_previews(trained[0], folder)
    with pytest.raises(ValueError, match="run train_previews first"):
        export_previews(tiny(tmp_path / "empty"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_studio_shows_forming_pictures_by_it_and_keeps_what_the_own_decoder_makes():
    kit, state = load_kit(), {**START, "steps": 4}
    seen = list(moments(kit, {**state, "pose": {**state["pose"], "use": False}}))
    forming, kept = seen[0], seen[-1]
    small = lambda moment: decode(kit.pipe, moment.state.clean_latents, kit.previews)[0]
    assert torch.equal(forming.picture(), small(forming)) and not torch.equal(forming.picture(), forming.state.preview()[0])
    assert torch.equal(kept.picture(), decode(kit.pipe, kept.state.latents)[0])
    *_, draft = Draft(kit, state).steps()
    assert torch.equal(draft.picture(), decode(kit.pipe, draft.state.latents, kit.previews)[0])
    kit.previews = None                                     # a model that none was made for
    assert torch.equal(next(iter(Draft(kit, {**state, "seed": 1}).steps())).picture(),
                       next(iter(plain_states(load_kit(), plain_runs({**state, "seed": 1})["before"]))).preview()[0])
