"""A small transformer of the kind of Stable Diffusion 3 for the puppet world, trained from scratch by flow matching.

The denoiser is diffusers' `SD3Transformer2DModel`: patches of the latent and words of the caption are tokens of one joint
attention. It learns on the latents of a trained `StableDiffusionPipeline` folder (`start_from`), whose autoencoder and
text encoder are kept as they are. Three stages, each can be killed and resumed:

1. `basemodel.encode_pictures`   rendered scenes to latents and captions, kept on disk in shards;
2. `train_transformer`           the transformer, velocity prediction, logit-normal noise levels, EMA;
3. `export_transformer`          everything as a `StableDiffusion3Pipeline` folder that `from_pretrained` loads.

`python -m rg_minimal.puppets.transformer` does all three. Every number of a run is a field of `TransformerRecipe`; as in
`basemodel`, step n draws all that is random from a CPU generator seeded with (seed, n).

After 6 701 steps of 16 (three hours on one core) a pose head that was trained on its blocks for 100 steps guides it as it
guides the UNet: PCK@0.05 of 0.87 against 0.16 unguided, 12 held-out poses, 20 Euler steps (`data/results/transformer.json`).

Flow matching: x_s = (1 - s) x_0 + s n for a noise level s in [0, 1]; the target is the velocity n - x_0; the transformer
is told 1000 s. B pictures, L = 32 words, E = 256 numbers a word.
"""
from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Literal, Sequence

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from .basemodel import encode_pictures, load_latents, tokenize, train_autoencoder
from .training import (CARD, TrainingState, add_options, autocast, part_of, print_progress, resume, save_every, set_rate, step_rng,
                       trained_weights, write_pipeline)
from ..checks import Count, Declared, FileName, Fraction, Index, NonNegative, Number, Seed, SomeName, Truth, declared, one_sentence, stoppable
from ..files import refuse_file, refuse_others, write_json, write_tensors
from ..undo import seeded

LONGEST = 512                              # zero tokens that a `StableDiffusion3Pipeline` may be asked for
PARTS = ("model_index.json", "recipe.json", "scheduler/*.json", "transformer/*.json", "transformer/*.safetensors", "vae/*.json",
         "vae/*.safetensors", "text_encoder*/*.json", "text_encoder*/*.safetensors", "tokenizer*/*.json", "tokenizer*/*.txt",
         "tokenizer*/*.jinja")             # of a pipeline


@dataclass
class TransformerRecipe(Declared):
    """All numbers of a training run. The defaults are a miniature of about a minute on two CPU cores."""
    run: SomeName = "runs/transformer"      # folder of latents and checkpoints
    start_from: FileName = "data/puppet-diffusion"     # pipeline folder whose autoencoder, tokenizer and text encoder are used
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Seed = 0
    save_every: Count = 100                # steps between checkpoints
    compile: Truth = False                 # torch.compile the blocks: a minute's wait, then two thirds of the time a step
    # pictures as latents
    pictures: Count = 256
    shard: Count = 1024                    # pictures a file
    captions: Count = 4                    # captions a picture: one names everything, the others leave facts out
    # the transformer
    width: Count = 192
    heads: Count = 3
    depth: Count = 8                       # blocks
    # its training
    steps: Count = 40
    batch: Count = 16
    lr: NonNegative = 2e-3                 # of Muon, for the matrices of attention and feed-forward layers
    adam_lr: NonNegative = 1e-3            # of AdamW, for everything else
    warmup: Index = 100                    # steps of linear warm-up
    decay: Fraction = 0.4                  # last fraction of the steps, over which the rates fall to zero
    ema: Fraction = 0.999                  # decay of the average that is shipped
    noise_mean: Number = 0.3               # noise levels are sigmoid(mean + std * normal), Esser et al. 2024; above 0
    noise_std: NonNegative = 1.0           # means more noise, where the layout is decided
    caption_dropout: Fraction = 0.1        # for classifier-free guidance
    guidance_scale: NonNegative = 3.0      # what samples look best with; `load_pipeline` makes it the pipeline's default
    sampling_steps: Count = 25             # the same of the number of steps

    def __post_init__(self):
        super().__post_init__()
        if self.width % (4 * self.heads):
            raise ValueError(f"width is {self.width}: it must be a multiple of 4 times heads ({self.heads})")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda' but no CUDA device is available: use device='cpu'")


# ---------------------------------------------------------------------------------------------- the parts

def build_text_encoders(recipe: TransformerRecipe) -> list[CLIPTextModelWithProjection]:
    """The trained text encoder twice, in the form that `StableDiffusion3Pipeline` asks for, frozen.

    The pipeline takes the states before an encoder's last layer. The second encoder has one more layer, which changes
    nothing, so these are the trained encoder's states before its last layer, and after it. The projections are identities.
    """
    folder = part_of(recipe, "text_encoder")
    weights = {"text_model." + name.removeprefix("text_model."): value.float()
               for name, value in load_file(folder / "model.safetensors").items()}
    settings, encoders = json.loads((folder / "config.json").read_text()), []
    for more in (0, 1):
        layers = settings["num_hidden_layers"] + more
        config = CLIPTextConfig(**settings | {"num_hidden_layers": layers, "projection_dim": settings["hidden_size"],
                                              "architectures": ["CLIPTextModelWithProjection"]})
        encoder = CLIPTextModelWithProjection(config)
        missing, _ = encoder.load_state_dict(weights, strict=False)
        nn.init.eye_(encoder.text_projection.weight)
        for name, value in encoder.named_parameters():
            if name in missing and name != "text_projection.weight" and ("out_proj" in name or "fc2" in name):
                nn.init.zeros_(value)
        encoders.append(encoder.eval().requires_grad_(False))
    return encoders


def load_tokenizer(recipe: TransformerRecipe) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(part_of(recipe, "tokenizer"))


@declared
def build_silent_t5(embedding: Count = 256) -> tuple[T5EncoderModel, PreTrainedTokenizerFast]:
    """A third text encoder that says nothing, and its tokenizer, which hears nothing: `max_sequence_length` tokens of zeros.

    The pipeline makes the same zeros where it has no third encoder, but `from_pretrained` wants one or to be told that
    there is none.
    """
    encoder = T5EncoderModel(T5Config(vocab_size=2, d_model=embedding, d_kv=4, d_ff=4, num_layers=1, num_heads=1))
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]+"), "")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return encoder.eval(), PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, pad_token="<pad>",
                                                   unk_token="<pad>", eos_token="</s>")


@torch.no_grad()
def encode_tokens(encoders: Sequence[CLIPTextModelWithProjection], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) token ids to words (B, L + 1, E), the last of which is the zero token, and to whole captions (B, E).

    This is `StableDiffusion3Pipeline.encode_prompt` with max_sequence_length=1: one zero token stands where Stable
    Diffusion 3 has its T5 encoder's tokens.
    """
    outputs = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    words = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    return nn.functional.pad(words, (0, 0, 0, 1)), torch.cat([output.text_embeds for output in outputs], -1)


@declared
def build_transformer(recipe: TransformerRecipe, embedding: Count = 256) -> SD3Transformer2DModel:
    """The untrained network; each block starts as the identity and the output as zero (Peebles and Xie 2023)."""
    model = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, out_channels=4, num_layers=recipe.depth, pos_embed_max_size=16,
        num_attention_heads=recipe.heads, attention_head_dim=recipe.width // recipe.heads, joint_attention_dim=embedding,
        caption_projection_dim=recipe.width, pooled_projection_dim=embedding)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if ".norm1" in name or "norm_out" in name or name == "proj_out":
                nn.init.zeros_(module.weight)
    return model


@torch.no_grad()
def standardise(model: SD3Transformer2DModel, words: Tensor, captions: Tensor) -> None:
    """Give both layers that take the text in a start as if words (B, L, E) and captions (B, E) had mean 0 and deviation 1."""
    for layer, values in ((model.context_embedder, words), (model.time_text_embed.text_embedder.linear_1, captions)):
        values = values.flatten(0, -2)
        layer.weight /= values.std(0) + 1e-3
        layer.bias -= layer.weight @ values.mean(0)


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


class WrittenOutAttention:
    """SD3's joint attention as plain matrix products, whose backward pass is faster on CPUs than the fused one.

    `copies` (B,) says how many zero tokens the last token stands for. Tokens that are alike stay alike through all blocks,
    so n of them are one whose attention weight counts n times: a trained network works for any `max_sequence_length`.
    """

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None,
                 copies: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count, image = hidden_states.shape[:2]
        layers = ((attn.to_q, attn.add_q_proj), (attn.to_k, attn.add_k_proj), (attn.to_v, attn.add_v_proj))
        query, key, value = (
            torch.cat((image_layer(hidden_states), text_layer(encoder_hidden_states)), 1).unflatten(-1, (attn.heads, -1))
            .transpose(1, 2) for image_layer, text_layer in layers)                        # (B, heads, tokens, width / heads)
        scores = query @ (key * key.shape[-1] ** -0.5).transpose(-1, -2)                   # (B, heads, tokens, tokens)
        if copies is not None:
            weight = nn.functional.pad(copies.log()[:, None], (scores.shape[-1] - 1, 0))   # (B, tokens)
            scores = scores + weight[:, None, None].to(scores.dtype)
        mixed = (scores.softmax(-1, torch.float32).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        of_image, of_text = mixed[:, :image], mixed[:, image:]
        return attn.to_out[0](of_image), of_text if attn.context_pre_only else attn.to_add_out(of_text)


# ---------------------------------------------------------------------------------------------- training

def train_transformer(recipe: TransformerRecipe) -> Iterator[TrainingState]:
    """Train on the latents under `run`; the averaged weights end in `run/transformer.safetensors`."""
    run = Path(recipe.run)
    latents, texts = load_latents(recipe)
    tokenizer, encoders = load_tokenizer(recipe), [encoder.to(recipe.device) for encoder in build_text_encoders(recipe)]
    tokens = torch.stack([tokenize(tokenizer, choices) for choices in texts])              # (N, captions, L)
    nothing = tokenize(tokenizer, [""])[0]
    with seeded(recipe.seed):
        model = build_transformer(recipe)
    model = model.to(recipe.device)
    standardise(model, *encode_tokens(encoders, tokens[:64].flatten(0, 1).to(recipe.device)))
    model.set_attn_processor(WrittenOutAttention())
    if recipe.compile:
        for block in model.transformer_blocks:
            block.compile(dynamic=False)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    muon, adam = build_optimizers(model, recipe)
    parts = {"model": model, "average": average, "muon": muon, "adam": adam}
    step, start = resume(run / "transformer.pt", recipe, **parts), time.time()
    while step < recipe.steps:                             # `recipe.steps` may be changed on the way
        set_rate(muon, recipe.lr, step, recipe.steps, recipe.warmup, recipe.decay)
        set_rate(adam, recipe.adam_lr, step, recipe.steps, recipe.warmup, recipe.decay)
        batch = flow_batch(latents, tokens, nothing, recipe, step_rng(recipe, step))
        noisy, level, velocity, words, copies = (value.to(recipe.device) for value in batch)
        with autocast(recipe):
            predicted = model(noisy, *encode_tokens(encoders, words), 1000 * level,
                              joint_attention_kwargs={"copies": copies}).sample
        loss = (predicted.float() - velocity).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - min(recipe.ema, (1 + step) / (10 + step)))
        step += 1
        save_every(run / "transformer.pt", recipe, step, recipe.steps, **parts)
        yield TrainingState("transformer", step, recipe.steps, loss.item(), time.time() - start)
    write_tensors(run / "transformer.safetensors", {name: value.cpu().contiguous() for name, value in average.items()})


def build_optimizers(model: SD3Transformer2DModel, recipe: TransformerRecipe) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon for the blocks' matrices, AdamW for the rest (modulation, embeddings, biases, input and output)."""
    ours = lambda name, value: name.startswith("transformer_blocks") and value.ndim == 2 and ".norm1" not in name
    matrices = [value for name, value in model.named_parameters() if ours(name, value)]
    rest = [value for name, value in model.named_parameters() if not ours(name, value)]
    return (torch.optim.Muon(matrices, recipe.lr, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, recipe.adam_lr, betas=(0.9, 0.99), weight_decay=1e-2))


def flow_batch(latents: Tensor, tokens: Tensor, nothing: Tensor, recipe: TransformerRecipe,
               rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents (B, 4, 32, 32), noise levels (B,), velocities (B, 4, 32, 32), words (B, L), zero tokens (B,)."""
    n = recipe.batch
    index = torch.randint(len(latents), (n,), generator=rng)
    words = tokens[index, torch.randint(tokens.shape[1], (n,), generator=rng)]
    dropped = torch.rand(n, generator=rng) < recipe.caption_dropout
    words = torch.where(dropped[:, None], nothing, words)
    spread = (torch.arange(n) + torch.rand(n, generator=rng)) / n                          # stratified, (B,)
    level = torch.sigmoid(recipe.noise_mean + recipe.noise_std * torch.special.ndtri(spread))
    copies = (torch.rand(n, generator=rng) * math.log(LONGEST)).exp().round()
    clean, s = latents[index], level[:, None, None, None]
    noise = torch.randn(clean.shape, generator=rng)
    return (1 - s) * clean + s * noise, level, noise - clean, words, copies


# ---------------------------------------------------------------------------------------------- the folder

def build_pipeline(recipe: TransformerRecipe, weights: dict[str, Tensor] | None = None) -> StableDiffusion3Pipeline:
    """The pipeline of a run, float32 on the CPU; `weights` default to the averaged ones that the training left."""
    with torch.random.fork_rng(devices=[]):
        return _build_pipeline(recipe, weights)


def _build_pipeline(recipe, weights) -> StableDiffusion3Pipeline:
    if weights is None:
        run = Path(recipe.run)
        weights = trained_weights(run / "transformer.safetensors", run / "transformer.pt", "train_transformer")
    model = build_transformer(recipe)
    model.load_state_dict(weights)
    vae = AutoencoderKL.from_pretrained(part_of(recipe, "vae"))
    vae.register_to_config(shift_factor=0.0)               # Stable Diffusion 3 adds one to latents
    first, second = build_text_encoders(recipe)
    tokenizer, (third, silent) = load_tokenizer(recipe), build_silent_t5()
    pipe = StableDiffusion3Pipeline(
        transformer=model.eval(), scheduler=build_scheduler(), vae=vae, text_encoder=first, tokenizer=tokenizer,
        text_encoder_2=second, tokenizer_2=tokenizer, text_encoder_3=third, tokenizer_3=silent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@declared
def export_transformer(recipe: TransformerRecipe, folder: FileName) -> Path:
    """Write the run as a diffusers folder with fp16 safetensors; complete or not at all.

    In a folder of such a pipeline its card survives. ValueError, and nothing is written, where anything else is in the way.
    """
    return write_pipeline(recipe, folder, build_pipeline, _portable, PARTS)


def _portable(folder: Path) -> None:
    """Say what transformers 4 and 5 both read, as `basemodel` does: the tokenizers' class, float32 for text encoders."""
    fast, numbers = "PreTrainedTokenizerFast", ("", "_2", "_3")
    changes = {"model_index.json": {f"tokenizer{n}": ["transformers", fast] for n in numbers}}
    changes |= {f"tokenizer{n}/tokenizer_config.json": {"tokenizer_class": fast} for n in numbers}
    changes |= {f"text_encoder{n}/config.json": {"dtype": "float32"} for n in numbers}
    for path in (folder / "model_index.json", *folder.glob("*/*config.json")):
        config = json.loads(path.read_text()) | changes.get(path.relative_to(folder).as_posix(), {})
        write_json(path, {k: v for k, v in config.items() if k != "_name_or_path"})
    for path in folder.glob("*/*.safetensors"):                              # of diffusers: see `write_tensors`
        shutil.copymode(folder / "model_index.json", path)


@stoppable
def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m rg_minimal.puppets.transformer`: encode the pictures, train (or go on), write the folder."""
    parser = argparse.ArgumentParser(description="Train a small transformer of the kind of Stable Diffusion 3 on puppets.")
    add_options(parser, TransformerRecipe)
    parser.add_argument("--folder", default="data/puppet-transformer", help="where the pipeline goes")
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with one_sentence(parser):
        recipe = TransformerRecipe(**options)
        refuse_others(folder, (*PARTS, *CARD)), refuse_file(folder), refuse_file(recipe.run)
        for part in ("vae", "tokenizer", "text_encoder"):
            part_of(recipe, part)
    for stage in (train_autoencoder, encode_pictures, train_transformer):    # the first one copies the autoencoder
        print_progress(stage(recipe), every="encode")
    print("written to", export_transformer(recipe, folder))


if __name__ == "__main__":
    main()
