"""The small SD3-class transformer: its target, its text, its training that resumes, its folder that diffusers loads."""
import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from rg_minimal.puppets import transformer
from rg_minimal.puppets.basemodel import encode_pictures, load_latents, tokenize, train_autoencoder
from rg_minimal.puppets.training import step_rng
from rg_minimal.puppets.transformer import (TransformerRecipe, WrittenOutAttention, build_pipeline, build_text_encoders,
                                            build_transformer, encode_tokens, export_transformer, flow_batch,
                                            load_tokenizer, train_transformer)

SHIPPED = str(Path(__file__).resolve().parent.parent / "data" / "puppet-diffusion")
PROMPTS = ["a puppet in a red shirt is waving with its left hand", "a puppet"]


def tiny(run, **settings) -> TransformerRecipe:
    return TransformerRecipe(**{"run": str(run), "start_from": SHIPPED, "pictures": 8, "width": 16, "heads": 2, "depth": 2,
                                "steps": 4, "batch": 4, "save_every": 2, "seed": 5} | settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with the autoencoder and 8 latents."""
    folder = tmp_path_factory.mktemp("transformer")
    for stage in (train_autoencoder, encode_pictures):
        for _ in stage(tiny(folder)):
            pass
    return folder


@pytest.fixture(scope="module")
def trained(run):
    recipe = tiny(run)
    return recipe, list(train_transformer(recipe))


def scrambled(recipe):
    """The network with weights at random everywhere: a fresh one would answer 0 whatever it is asked."""
    torch.manual_seed(0)
    model = build_transformer(recipe)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model.eval()


def test_the_target_is_the_velocity_from_the_picture_to_the_noise(run):
    recipe = tiny(run)
    latents, texts = load_latents(recipe)
    tokenizer = load_tokenizer(recipe)
    tokens = torch.stack([tokenize(tokenizer, choices) for choices in texts])
    noisy, level, velocity, words, copies = flow_batch(latents, tokens, tokens[0, 0], recipe, step_rng(recipe, 0))
    s = level[:, None, None, None]
    clean, noise = noisy - s * velocity, noisy + (1 - s) * velocity
    nearest = (clean[:, None] - latents).abs().amax((2, 3, 4)).min(1)
    assert nearest.values.max() < 1e-4                                # x_s - s v is a latent of the training set
    torch.testing.assert_close((1 - s) * clean + s * noise, noisy)
    torch.testing.assert_close(noise - clean, velocity)
    assert noise.std().sub(1).abs() < 0.05 and ((0 <= level) & (level <= 1)).all()
    assert all((tokens[i] == row).all(-1).any() or (row == tokens[0, 0]).all() for i, row in zip(nearest.indices, words))
    assert ((1 <= copies) & (copies <= transformer.LONGEST)).all()


def test_half_of_the_noise_levels_lie_above_that_of_the_recipe(run):
    recipe = tiny(run, batch=1000, noise_mean=0.5, caption_dropout=1.0)
    latents, _ = load_latents(recipe)
    nothing = torch.arange(32)
    _, level, _, words, _ = flow_batch(latents, torch.zeros(8, 4, 32, dtype=torch.long), nothing, recipe, step_rng(recipe, 3))
    assert abs(float(level.median()) - float(torch.tensor(0.5).sigmoid())) < 0.01
    assert (words == nothing).all()                                   # every caption was dropped


def test_the_text_is_what_the_pipeline_encodes_and_the_trained_encoder_says(run):
    recipe = tiny(run)
    pipe = build_pipeline(recipe, build_transformer(recipe).state_dict())
    words, captions = encode_tokens(build_text_encoders(recipe), tokenize(load_tokenizer(recipe), PROMPTS))
    expected, _, pooled, _ = pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=1)
    assert torch.equal(words, expected) and torch.equal(captions, pooled)
    assert words.shape == (2, 33, 256) and not words[:, -1].any()
    from transformers import CLIPTextModel
    trained = CLIPTextModel.from_pretrained(f"{recipe.start_from}/text_encoder")(
        tokenize(load_tokenizer(recipe), PROMPTS), output_hidden_states=True)
    torch.testing.assert_close(words[:, :32], torch.cat(trained.hidden_states[-2:], -1))
    torch.testing.assert_close(captions, trained.pooler_output.repeat(1, 2))


def test_one_zero_token_stands_for_as_many_as_the_pipeline_has(run):
    recipe = tiny(run)
    model = scrambled(recipe)
    pipe = build_pipeline(recipe, model.state_dict())
    latents, times = torch.randn(2, 4, 32, 32), torch.tensor([30.0, 900.0])
    many, _, captions, _ = pipe.encode_prompt(PROMPTS, None, None)
    few, _, _, _ = pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=1)
    with torch.no_grad():
        expected = model(latents, many, captions, times).sample
        model.set_attn_processor(WrittenOutAttention())
        plain = model(latents, many, captions, times).sample
        counted = model(latents, few, captions, times, joint_attention_kwargs={"copies": torch.full((2,), 256.0)}).sample
        one = model(latents, few, captions, times).sample
    torch.testing.assert_close(plain, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(counted, expected, rtol=1e-3, atol=1e-3)
    assert (one - expected).abs().max() > 1e-2                        # the number matters to a network that is not trained


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, trained, tmp_path):
    recipe, states = trained
    assert [state.step for state in states] == [1, 2, 3, 4] and all(state.loss > 0 for state in states)
    (tmp_path / "latents").symlink_to(run / "latents")
    again = tiny(tmp_path)
    for state in train_transformer(again):
        if state.step == 3:                                           # killed after the checkpoint of step 2
            break
    assert [state.step for state in train_transformer(again)] == [3, 4]
    name = "transformer.safetensors"
    assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


def test_the_end_of_the_training_can_be_moved_on_the_way(run, tmp_path):
    (tmp_path / "latents").symlink_to(run / "latents")
    recipe = tiny(tmp_path, steps=100)
    for state in train_transformer(recipe):
        recipe.steps = 3
    assert state.step == 3 and (tmp_path / "transformer.safetensors").exists()


def test_the_exported_folder_loads_and_samples(trained, tmp_path):
    recipe, _ = trained
    folder = export_transformer(recipe, tmp_path / "model")
    (folder / "README.md").write_text("card")
    assert export_transformer(recipe, folder) == folder and (folder / "README.md").read_text() == "card"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert json.loads((folder / "recipe.json").read_text())["run"] == "transformer0"
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    made = [pipe(PROMPTS, num_inference_steps=2, guidance_scale=2.0, output_type="pt", max_sequence_length=n,
                 generator=torch.Generator().manual_seed(1)).images for n in (1, 256)]
    assert made[0].shape == (2, 3, 128, 128) and torch.isfinite(made[0]).all()
    without = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    for n in (1, 256):                                                # the third encoder is as good as none
        for said, wanted in zip(pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=n),
                                without.encode_prompt(PROMPTS, None, None, max_sequence_length=n)):
            assert torch.equal(said, wanted)
    here = build_pipeline(recipe)
    wanted = here(PROMPTS, num_inference_steps=2, guidance_scale=2.0, output_type="pt", max_sequence_length=1,
                  generator=torch.Generator().manual_seed(1)).images
    assert (made[0] - wanted).abs().max() < 0.02                      # 16 bits a weight


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="no latents"):
        next(train_transformer(tiny(tmp_path)))
    with pytest.raises(ValueError, match="no trained weights"):
        build_pipeline(tiny(tmp_path))
    with pytest.raises(ValueError, match="multiple of 4 times heads"):
        tiny(tmp_path, width=18)
    with pytest.raises(ValueError, match="steps is 0"):
        tiny(tmp_path, steps=0)


def test_the_command_goes_from_pictures_to_a_folder(tmp_path, capsys):
    transformer.main(["--run", str(tmp_path / "run"), "--start-from", SHIPPED, "--pictures", "4", "--width", "16",
                      "--heads", "2", "--depth", "1", "--steps", "1", "--batch", "2", "--folder", str(tmp_path / "model")])
    assert "transformer 1/1" in capsys.readouterr().out and (tmp_path / "model" / "model_index.json").exists()
