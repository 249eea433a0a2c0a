"""The base model: its training in miniature, killed and resumed, and the one that is shipped."""
import json
import math
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

import rg_minimal
from rg_minimal import puppets
from rg_minimal.puppets import basemodel as B
from rg_minimal.puppets.basemodel import Recipe

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "data" / "puppet-diffusion"
TINY = Recipe(vae_channels=(8, 8, 8), vae_pictures=4, vae_steps=4, vae_batch=4, pictures=8, shard=3, unet_channels=(16, 16, 32),
              text_width=16, steps=4, batch=4, save_every=2)


def stages(recipe):
    """All three training stages, one after the other."""
    yield from B.train_autoencoder(recipe)
    yield from B.encode_pictures(recipe)
    yield from B.train_diffusion(recipe)


def contents(run):
    """Every tensor that a run ends with."""
    files = [run / "vae" / "diffusion_pytorch_model.safetensors", run / "model.safetensors", *sorted((run / "latents").iterdir())]
    return {f"{path.name}: {name}": value for path in files for name, value in load_file(path).items()}


def plain_pipeline(folder):
    """As any user of diffusers loads it; class names that transformers will drop are none of our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A finished miniature run: its recipe, its states, and the exported folder."""
    recipe = replace(TINY, run=str(tmp_path_factory.mktemp("whole") / "run"))
    states = list(stages(recipe))
    return recipe, states, B.export_pipeline(recipe, Path(recipe.run).parent / "model")


# ---------------------------------------------------------------------------------------------- a whole run

def test_the_stages_say_where_they_are(miniature):
    _, states, _ = miniature
    assert [(state.stage, state.step) for state in states] == (
        [("autoencoder", n) for n in (1, 2, 3, 4)] + [("encode", n) for n in (3, 6, 8)]
        + [("diffusion", n) for n in (1, 2, 3, 4)])
    assert all(math.isfinite(state.loss) and state.loss > 0 for state in states if state.stage != "encode")
    assert {state.steps for state in states if state.stage == "encode"} == {8}


def test_a_finished_run_leaves_nothing_half_written(miniature):
    recipe, _, folder = miniature
    left = [path.name for path in folder.parent.rglob("*") if path.name.endswith((".partial", ".old"))]
    assert not left
    assert list(B.train_autoencoder(recipe)) == [] and list(B.train_diffusion(recipe)) == [], "it trained again"


@pytest.mark.parametrize("name, value", [("vae_steps", 50), ("seed", 8), ("vae_channels", (16, 16, 16)), ("kl_weight", 0.5)])
def test_an_autoencoder_of_another_recipe_is_neither_kept_nor_gone_on_with(miniature, tmp_path, name, value):
    begun = replace(TINY, run=str(tmp_path))
    next(training := B.train_autoencoder(begun)), training.close()
    for recipe in (begun, miniature[0]):
        with pytest.raises(ValueError, match=rf"was trained with {name} .*, not .*: choose another run, or delete it"):
            list(B.train_autoencoder(replace(recipe, **{name: value})))
    assert [state.step for state in B.train_autoencoder(begun)][-1] == TINY.vae_steps
    B.start_over(begun.run)
    assert not tmp_path.exists()


def test_latents_with_another_number_of_captions_are_not_taken_for_those_asked_for(miniature):
    with pytest.raises(ValueError, match="0000000.safetensors was trained with captions"):
        list(B.encode_pictures(replace(miniature[0], captions=miniature[0].captions + 1)))


@pytest.mark.parametrize("stops", [
    [("autoencoder", 1), ("autoencoder", 3), ("diffusion", 3)],           # before and after a checkpoint
    [("autoencoder", 4), ("encode", 6), ("diffusion", 4)],                # between the last step and its harvest
])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(miniature, tmp_path, stops):
    recipe = replace(TINY, run=str(tmp_path))
    for stop in stops:
        generator = stages(recipe)
        for state in generator:
            if (state.stage, state.step) == stop:
                break
        generator.close()
    resumed = [(state.stage, state.step) for state in stages(recipe)]
    assert ("autoencoder", 1) not in resumed and ("diffusion", 1) not in resumed, "it started over"
    whole, again = contents(Path(miniature[0].run)), contents(tmp_path)
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


def test_a_write_that_fails_leaves_no_file(miniature, tmp_path, monkeypatch):
    """A full disk, or a kill, in the middle of a shard."""
    recipe = replace(TINY, run=str(tmp_path))
    shutil.copytree(Path(miniature[0].run) / "vae", tmp_path / "vae")

    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[:10])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(Path, "write_bytes", half)
        list(B.encode_pictures(recipe))
    assert not list((tmp_path / "latents").glob("*.safetensors"))
    list(B.encode_pictures(recipe))
    assert torch.equal(B.load_latents(recipe)[0], B.load_latents(miniature[0])[0])
    assert not list((tmp_path / "latents").glob("*.partial"))


def test_more_pictures_fill_up_the_last_shard(miniature, tmp_path):
    recipe = replace(TINY, run=str(tmp_path), pictures=2)
    shutil.copytree(Path(miniature[0].run) / "vae", tmp_path / "vae")
    list(B.encode_pictures(recipe))
    assert len(B.load_latents(recipe)[0]) == 2
    more, at_once = replace(recipe, pictures=4), replace(recipe, run=str(tmp_path / "at_once"), pictures=4)
    shutil.copytree(tmp_path / "vae", tmp_path / "at_once" / "vae")
    list(B.encode_pictures(more)), list(B.encode_pictures(at_once))
    assert torch.equal(B.load_latents(more)[0], B.load_latents(at_once)[0])


def test_latents_belong_to_their_captions(miniature):
    recipe, _, folder = miniature
    latents, texts = B.load_latents(recipe)
    scenes = puppets.sample_scenes(8, B.DATA_SEED)
    assert latents.shape == (8, 4, 32, 32) and latents.dtype == torch.float32
    assert [choices[0] for choices in texts] == [scene.caption for scene in scenes]
    assert {len(choices) for choices in texts} == {recipe.captions}
    with torch.no_grad():
        trusted = B._trained_autoencoder(Path(recipe.run)).encode(puppets.render(scenes).image * 2 - 1).latent_dist.mean
    assert (latents - trusted).abs().mean() < 0.03 * trusted.abs().mean()                 # half precision, bfloat16


def test_a_run_goes_on_from_a_trained_pipeline(miniature, tmp_path):
    _, _, folder = miniature
    recipe = replace(TINY, run=str(tmp_path), start_from=str(folder), steps=1, lr=0.0)
    list(stages(recipe))
    trained, again = plain_pipeline(folder), B.build_pipeline(recipe)
    for name in ("vae", "unet", "text_encoder"):
        expected, found = getattr(trained, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.allclose(found[key].float(), expected[key].float(), atol=1e-6) for key in expected), name


# ---------------------------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("settings, message", [
    ({"steps": 0}, "steps is 0"), ({"steps": -5}, "steps is -5"), ({"vae_steps": 0}, "vae_steps is 0"),
    ({"pictures": 0}, "pictures is 0"), ({"batch": -1}, "batch is -1"), ({"shard": 0}, "shard is 0"),
    ({"save_every": 0}, "save_every is 0"), ({"vae_batch": 0}, "vae_batch is 0"), ({"vae_pictures": 0}, "vae_pictures is 0")])
def test_a_recipe_refuses_numbers_that_make_no_run(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize("name, values", {
    "run": ["", 3, None, ["runs"]], "start_from": [3, None], "device": ["tpu", None], "seed": [-1, 1.5, "0", True],
    "save_every": [True, "2"], "vae_channels": [(8, 8), (8, 8, 0), "888", 8], "unet_channels": [(16, 16), [16, 16, 2.5]],
    "vae_crop": [129, 63, 0], "vae_whole": [-0.1, 1.1, math.nan], "vae_lr": [-1e-3, "1e-3"], "kl_weight": [math.inf],
    "captions": [0, 2.0, None], "text_width": [0, 18], "steps": [True, "10", 2.5], "lr": [math.nan, -1, None, True],
    "warmup": [-5, 1.5], "decay": [1.5, -0.1], "ema": [2.0, -0.5, "0.9"], "min_snr": [0, -5.0], "snr_power": [math.nan, -1],
    "caption_dropout": [1.5, [0.1]], "compiled": [1, "yes", None], "guidance_scale": [-1, "3"]}.items())
def test_a_recipe_names_the_field_the_value_and_what_is_allowed(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} is .*: \w.{{10,}}"):
            Recipe(**{name: value})


def test_every_field_of_a_recipe_is_constrained():
    from rg_minimal.checks import adapters
    from rg_minimal.puppets.judge import JudgeRecipe
    from rg_minimal.puppets.transformer import TransformerRecipe
    for kind in (Recipe, JudgeRecipe, TransformerRecipe):
        assert set(adapters(kind)) == set(kind.__dataclass_fields__)


def test_a_recipe_takes_numbers_of_numpy_and_torch_and_what_json_brought():
    recipe = Recipe(run=Path("runs"), steps=torch.tensor(3), ema=torch.tensor(0.5).numpy()[()], batch=torch.tensor([4]).numpy()[0],
                    lr=0, vae_channels=[8, 8, 8])
    assert (recipe.run, recipe.steps, recipe.ema, recipe.batch, recipe.lr, recipe.vae_channels) == ("runs", 3, 0.5, 4, 0.0, (8, 8, 8))
    assert type(recipe.steps) is type(recipe.batch) is int and type(recipe.ema) is type(recipe.lr) is float


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_recipe_refuses_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="device='cpu'"):
        Recipe(device="cuda")


@pytest.mark.parametrize("stage, message", [(B.encode_pictures, "train_autoencoder first"),
                                            (B.train_diffusion, "encode_pictures first")])
def test_a_stage_names_the_one_that_is_missing(tmp_path, stage, message):
    with pytest.raises(ValueError, match=message):
        list(stage(replace(TINY, run=str(tmp_path))))


def test_exporting_nothing_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="train_diffusion first"):
        B.export_pipeline(replace(TINY, run=str(tmp_path / "run")), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, train", [("vae.pt", B.train_autoencoder), ("diffusion.pt", B.train_diffusion)])
@pytest.mark.parametrize("harm", ["garbage", "truncated", "other sizes"])
def test_a_bad_checkpoint_is_named(miniature, tmp_path, name, train, harm):
    run = Path(miniature[0].run)
    shutil.copytree(run / "latents", tmp_path / "latents")
    whole = (run / name).read_bytes()
    (tmp_path / name).write_bytes({"garbage": b"not a checkpoint", "truncated": whole[:len(whole) // 2]}.get(harm, whole))
    sizes = {"vae_channels": (16, 8, 8), "unet_channels": (16, 32, 32)} if harm == "other sizes" else {}
    with pytest.raises(ValueError, match=rf"(?s){name}.*Delete it to start over"):
        list(train(replace(TINY, run=str(tmp_path), **sizes)))


def test_a_bad_shard_is_named(miniature, tmp_path):
    shutil.copytree(Path(miniature[0].run) / "latents", tmp_path / "latents")
    shard = sorted((tmp_path / "latents").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"(?s){shard.name}.*Delete"):
        list(B.train_diffusion(replace(TINY, run=str(tmp_path))))


# ---------------------------------------------------------------------------------------------- the parts

@torch.no_grad()
def test_normalise_latents_changes_the_latents_and_not_the_pictures():
    torch.manual_seed(0)
    vae = B.build_autoencoder(TINY).eval()
    vae.quant_conv.bias.add_(torch.linspace(-2, 3, 8))                    # channels that are off centre and of all sizes
    vae.quant_conv.weight.mul_(torch.logspace(-1, 1, 8)[:, None, None, None])
    vae.post_quant_conv.bias.add_(0.3)
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    pictures = images.float() / 127.5 - 1
    noise = torch.randn(6, 4, 16, 16)
    before = vae.encode(pictures).latent_dist
    decoded = vae.decode(before.mean + before.std * noise).sample
    B.normalise_latents(vae, images)
    after = vae.encode(pictures).latent_dist
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(vae.decode(after.mean + after.std * noise).sample, decoded, atol=1e-4)


def test_the_loss_weighs_noise_levels_by_min_snr():
    """Signal-to-noise at the weights' two ends, by hand: SNR >> 5 at t = 0, far below 5 at t = 999, as notebook A1 says."""
    scheduler, noise = B.build_scheduler(), torch.zeros(1, 4, 2, 2)
    loss = lambda t, power: B.min_snr_loss(noise + 2.0, noise, torch.tensor([t]), scheduler,
                                            B.Recipe(min_snr=5.0, snr_power=power)).item()
    assert loss(999, 1.0) == pytest.approx(4.0)
    snr = (1 - 0.00085) / 0.00085
    assert loss(0, 1.0) == pytest.approx(4.0 * 5 / snr, rel=1e-3)
    assert loss(0, 0.5) == pytest.approx(4.0 * 5 ** 0.5 / snr, rel=1e-3)
    said = (Path(__file__).parent.parent / "notebooks/A1_train_the_base_model.ipynb").read_text(encoding="utf-8")
    assert "where it is above 5, an error counts 5 / SNR, elsewhere in full" in said


def test_psnr_by_hand():
    """An autoencoder that adds 0.2 in [-1, 1], 0.1 in [0, 1], to mid grey: 20 dB; clamping only helps."""
    vae = SimpleNamespace(encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mean=x)),
                          decode=lambda x: SimpleNamespace(sample=x * 0.0 + 0.2 + x),
                          config=SimpleNamespace(block_out_channels=(1,)), parameters=lambda: iter([torch.zeros(1)]))
    assert 20 <= B.autoencoder_psnr(vae, 2) < 22


def test_the_tokenizer_knows_its_words_and_no_other():
    tokenizer = B.build_tokenizer()
    known, unknown = tokenizer("a Puppet, in a RED shirt!"), tokenizer("a zebra in a red tuxedo")
    assert tokenizer.convert_ids_to_tokens(known.input_ids) == ["<s>", *"a puppet in a red shirt".split(), "</s>"]
    assert tokenizer.convert_ids_to_tokens(unknown.input_ids) == ["<s>", *"a <unk> in a red <unk>".split(), "</s>"]
    rows = B.tokenize(tokenizer, ["a puppet", "red " * 50])
    assert rows.shape == (2, 32) and rows[0, 4:].eq(tokenizer.pad_token_id).all() and rows[1, -1] == tokenizer.eos_token_id


@pytest.mark.parametrize("prompt, unknown", [("a Zebra in a red tuxedo", ["Zebra", "tuxedo"]), ("a puppet in the snow.", [])])
def test_unknown_words_are_named_with_what_is_known(prompt, unknown):
    pipe = SimpleNamespace(tokenizer=B.build_tokenizer())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert rg_minimal.check_prompt(pipe, prompt) == unknown
    said = " ".join(str(warning.message) for warning in caught)
    assert all(word in said for word in unknown) and bool(said) == bool(unknown)
    assert not unknown or all(word in said.split() for word in puppets.vocabulary())


def stable_diffusion_betas():
    """The noise schedule of Stable Diffusion 1.5, as published: linear in the square root from 0.00085 to 0.012."""
    return torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2


def check_layout(folder):
    """What every folder that we export has to be."""
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    assert index["safety_checker"] == [None, None] and index["requires_safety_checker"] is False
    assert not [path for path in folder.glob("*/config.json") if "_name_or_path" in path.read_text()]
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds = {file.get_tensor(name).dtype for name in file.keys() if "position_ids" not in name}
        assert kinds == {torch.float16}, path.name
    with safe_open(folder / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys()), "transformers 4 draws other names at random"
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".partial")]


def check_parts(pipe):
    assert pipe.unet.config.in_channels == 4 and pipe.unet.config.sample_size == 32 and pipe.vae_scale_factor == 4
    assert pipe.scheduler.config.prediction_type == "epsilon" and not pipe.scheduler.config.clip_sample
    assert torch.allclose(pipe.scheduler.betas, stable_diffusion_betas(), rtol=1e-5)
    assert pipe.safety_checker is None and pipe.tokenizer.model_max_length == 32
    assert set(puppets.vocabulary()) <= set(pipe.tokenizer.get_vocab())


def test_an_exported_folder_is_plain_diffusers(miniature):
    recipe, _, folder = miniature
    check_layout(folder)
    pipe = plain_pipeline(folder)
    check_parts(pipe)
    made = pipe("a puppet in a red shirt", num_inference_steps=2, output_type="pt", generator=torch.manual_seed(0)).images
    assert made.shape == (1, 3, 128, 128) and made.isfinite().all()
    average = load_file(Path(recipe.run) / "model.safetensors")
    for part in ("unet", "text_encoder"):
        for name, value in getattr(pipe, part).state_dict().items():
            if f"{part}.{name}" in average:
                assert torch.allclose(value.float(), average[f"{part}.{name}"], atol=1e-3), f"{part}.{name} was not loaded"
    assert sum(f"text_encoder.{name}" in average for name in pipe.text_encoder.state_dict()) > 10
    assert json.loads((folder / "recipe.json").read_text())["steps"] == recipe.steps
    assert str(Path(recipe.run).parent) not in (folder / "recipe.json").read_text(), "the recipe names this machine"


def test_exporting_again_keeps_the_card_and_survives_a_kill(miniature, tmp_path):
    recipe, _, first = miniature
    folder = tmp_path / "model"
    shutil.copytree(first, folder)
    (folder / "README.md").write_text("the card")
    for left_behind in ("model.0123456789ab.partial", "model.0123456789ab.old"):
        (tmp_path / left_behind).mkdir()
        (tmp_path / left_behind / "junk").write_text("of a run that was killed")
    B.export_pipeline(recipe, folder)
    assert (folder / "README.md").read_text() == "the card" and [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not list(folder.rglob("junk"))
    os.replace(folder, tmp_path / "model.0123456789ab.old")                    # killed between the last two renames
    B.export_pipeline(recipe, folder)
    assert (folder / "README.md").read_text() == "the card" and [path.name for path in tmp_path.iterdir()] == ["model"]
    check_layout(folder)
    assert len({path.stat().st_mode for path in folder.rglob("*.*")}) == 1                 # readable by the same people
    same = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, same[name])
               for name, value in load_file(first / "unet" / "diffusion_pytorch_model.safetensors").items())


def test_an_export_deletes_nothing_that_it_did_not_write(miniature, tmp_path):
    recipe, _, first = miniature
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is no folder"):
        B.export_pipeline(recipe, tmp_path / "file")
    folder = shutil.copytree(first, tmp_path / "model")
    (folder / "unet" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"model holds unet/notes\.txt, which would be lost"):
        B.export_pipeline(recipe, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"model holds notes\.txt, unet/notes\.txt, which would be lost"):
        B.export_pipeline(recipe, folder)
    assert (tmp_path / "file").read_text() == (folder / "notes.txt").read_text() == (folder / "unet" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_starting_over_deletes_a_run_and_nothing_else(miniature, tmp_path):
    run = shutil.copytree(miniature[0].run, tmp_path / "run")
    (run / "log.jsonl").write_text("{}\n"), (run / "vae.pt.0123456789ab.partial").write_text("of a run that was killed")
    for mine in ("thesis.txt", "vae/thesis.txt", "latents/photo.png"):
        (run / mine).write_text("mine")
        with pytest.raises(ValueError, match=f"run holds {mine}, which would be lost"):
            B.start_over(run)
        assert (run / "vae" / "config.json").is_file(), "nothing was deleted"
        (run / mine).unlink()
    B.start_over(run), B.start_over(run)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- the model that is shipped

@pytest.fixture(scope="module")
def shipped():
    return rg_minimal.load_pipeline(SHIPPED, device="cpu")


def test_the_shipped_model_is_small_and_plain_diffusers():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 40e6
    assert (SHIPPED / "README.md").is_file()
    check_layout(SHIPPED)
    check_parts(plain_pipeline(SHIPPED))


def test_the_shipped_autoencoder_keeps_held_out_pictures(shipped):
    assert B.autoencoder_psnr(shipped.vae, 32) >= 32.0
    with torch.no_grad():
        pictures = puppets.render(puppets.sample_scenes(32, puppets.HELD_OUT)).image
        latents = shipped.vae.encode(pictures * 2 - 1).latent_dist.mean
    assert latents.mean((0, 2, 3)).abs().max() < 0.2
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.2, "the noise schedule treats channels unlike"


def test_the_shipped_model_draws_the_same_picture_from_the_same_seed(shipped):
    prompt = puppets.sample_scene(puppets.HELD_OUT).caption
    draw = lambda seed: rg_minimal.sample(shipped, prompt, num_inference_steps=4, generator=torch.Generator().manual_seed(seed))[0]
    first = draw(0)
    assert first.shape == (1, 3, 128, 128) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(draw(0), first) and (draw(1) - first).abs().mean() > 0.01


def test_the_shipped_model_says_which_words_it_does_not_know(shipped):
    with pytest.warns(UserWarning, match="zebra.*puppet"):
        states = rg_minimal.guided_sample(shipped, "a zebra on a beach", num_inference_steps=1)
    states.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rg_minimal.check_prompt(shipped, puppets.sample_scene(0).caption) == []


@torch.no_grad()
def test_the_shipped_model_predicts_noise_and_heeds_its_caption(shipped):
    """At a middle timestep the right caption predicts the noise better than none, and none better than a wrong one."""
    scenes = puppets.sample_scenes(16, puppets.HELD_OUT)
    latents = rg_minimal.encode(shipped, puppets.render(scenes).image)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    time = torch.full((16,), 700)
    noisy = shipped.scheduler.add_noise(latents, noise, time)
    captions = [scene.caption for scene in scenes]

    def error(texts):
        words = shipped.text_encoder(B.tokenize(shipped.tokenizer, texts)).last_hidden_state
        return (shipped.unet(noisy, time, words).sample - noise).square().mean().item()

    right = error(captions)
    assert right < 0.25 and right < error([""] * 16) and right < error(captions[1:] + captions[:1])


def test_batches_drawn_ahead_are_those_drawn_in_turn():
    draw = lambda step: float(torch.rand((), generator=torch.Generator().manual_seed(step)))
    expected = [draw(step) for step in range(3, 20)]
    for threads in (0, 1, 4, 40):
        assert list(B._ahead(draw, range(3, 20), threads)) == expected
    assert list(B._ahead(draw, range(5, 5), 4)) == []


def test_tokens_in_the_shards_are_those_of_the_captions(miniature):
    recipe = miniature[0]
    latents, tokens = B.load_tokens(recipe)
    again, texts = B.load_latents(recipe)
    assert torch.equal(latents.float(), again)
    assert all(torch.equal(mine.long(), B.tokenize(B.build_tokenizer(), choices)) for mine, choices in zip(tokens, texts))


def test_a_compiled_training_takes_the_same_steps(miniature, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    recipe = replace(miniature[0], run=str(tmp_path), compiled=True)
    for part in ("vae", "latents"):
        shutil.copytree(Path(miniature[0].run) / part, tmp_path / part)
    assert [state.step for state in B.train_diffusion(recipe)] == list(range(1, recipe.steps + 1)) and len(asked) == 1
