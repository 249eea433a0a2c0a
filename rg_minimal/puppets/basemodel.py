"""How `data/puppet-diffusion` was trained: a small but true latent text-to-image model of the puppet world.

Four stages, each a generator that yields its state and can be killed and resumed at any moment:

1. `train_autoencoder`  AutoencoderKL on rendered pictures, factor 4, latents (B, 4, 32, 32);
2. `encode_pictures`    rendered scenes to latents and captions, kept on disk in shards;
3. `train_diffusion`    UNet2DConditionModel and CLIPTextModel together, epsilon prediction, min-SNR weighting, EMA;
4. `export_pipeline`    everything as a `StableDiffusionPipeline` folder that `from_pretrained` loads.

Every number of a run is a field of `Recipe`. All state lives in `Recipe.run`: a second call with the same recipe goes
on where the first one stopped. Step n draws its batch, timesteps and noise from a CPU generator seeded with (seed, n),
so a resumed run sees exactly what an uninterrupted one would have seen.
"""
from __future__ import annotations

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Callable, Iterator, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from . import world
from .judge import round_trip
from .training import TrainingState, autocast, part_of, resume, same_recipe, save_every, set_rate, step_rng, trained_weights, write_pipeline
from ..checks import Count, Counts, Declared, FileName, Fraction, Index, NonNegative, Positive, Seed, SomeName, Truth, declared
from ..files import read_json, remove_known, replace_folder, write_json, write_tensors
from ..undo import seeded

VAE_SEED, DATA_SEED, TEST_SEED = 300_000_000, 0, world.HELD_OUT       # disjoint ranges of scenes
WRITTEN = ("vae/config.json", "vae/*.safetensors", "vae.json", "vae.pt", "latents/*.safetensors", "diffusion.pt", "model.safetensors",
           "log.jsonl")                                                         # what a run's folder holds
PARTS = ("model_index.json", "recipe.json", "scheduler/*.json", "text_encoder/*.json", "text_encoder/*.safetensors",
         "tokenizer/*.json", "tokenizer/*.txt", "tokenizer/*.jinja", "unet/*.json", "unet/*.safetensors", "vae/*.json",
         "vae/*.safetensors")                                                   # of a pipeline


@dataclass
class Recipe(Declared):
    """All numbers of a training run. The defaults are a miniature of about a minute on two CPU cores."""
    run: SomeName = "runs/miniature"        # folder of checkpoints, latents and the log
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Seed = 0
    save_every: Count = 200                # steps between checkpoints
    start_from: FileName = ""              # folder of a trained pipeline whose weights to go on from, if any
    # autoencoder
    vae_channels: Annotated[Counts, Field(min_length=3, max_length=3)] = (32, 64, 64)      # three: latents of a quarter's side
    vae_pictures: Count = 64               # rendered pictures that crops are taken from
    vae_steps: Count = 30
    vae_batch: Count = 16
    vae_crop: Annotated[Count, Field(le=world.SIZE, multiple_of=4)] = 64    # side of the crops around the puppet, in pixels
    vae_whole: Fraction = 0.25             # last fraction of the steps on whole pictures (a quarter as many of them)
    vae_lr: NonNegative = 1.5e-3
    kl_weight: NonNegative = 2e-4
    # pictures as latents
    pictures: Count = 256
    shard: Count = 1024                    # pictures a file
    captions: Count = 4                    # captions a picture: one names everything, the others leave facts out
    # diffusion model
    unet_channels: Annotated[Counts, Field(min_length=3, max_length=3)] = (64, 96, 160)
    text_width: Annotated[Count, Field(multiple_of=4)] = 128                # of four heads of attention
    steps: Count = 40
    batch: Count = 32
    lr: NonNegative = 8e-4
    warmup: Index = 200                    # steps of linear warm-up
    decay: Fraction = 0.4                  # last fraction of the steps, over which the rate falls to zero
    ema: Fraction = 0.999                  # decay of the average that is shipped
    min_snr: Positive = 5.0                # cap of the loss weight, Hang et al. 2023
    snr_power: NonNegative = 1.0           # below 1 weights high noise more, where the layout is decided
    caption_dropout: Fraction = 0.1        # for classifier-free guidance
    compiled: Truth = False                # by torch.compile, which takes its time before the first step
    guidance_scale: NonNegative = 3.0      # what samples look best with; `load_pipeline` makes it the pipeline's default
    sampling_steps: Count = 25             # the same of the number of steps

    def __post_init__(self):
        super().__post_init__()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda' but no CUDA device is available: use device='cpu'")
        for part in ("vae", "unet", "text_encoder") if self.start_from else ():
            part_of(self, part)


# ---------------------------------------------------------------------------------------------- the parts

@declared
def build_tokenizer(length: Count = 32) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `world.vocabulary()`; case and punctuation do not matter."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *world.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("-", " "),
                                                 *(normalizers.Replace(mark, "") for mark in ",.!?;:'\"")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, pad_token="<pad>",
                                   unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def build_text_encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    width = recipe.text_width
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, projection_dim=width,
        pad_token_id=0, bos_token_id=2, eos_token_id=3))


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=recipe.unet_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=recipe.text_width, attention_head_dim=4, norm_num_groups=16)


def build_autoencoder(recipe: Recipe) -> AutoencoderKL:
    n = len(recipe.vae_channels)
    return AutoencoderKL(
        block_out_channels=recipe.vae_channels, down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n, layers_per_block=1, latent_channels=4, norm_num_groups=8,
        mid_block_add_attention=False, sample_size=world.SIZE, scaling_factor=1.0)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
                         clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon")


# ---------------------------------------------------------------------------------------------- stage 1: autoencoder

def train_autoencoder(recipe: Recipe) -> Iterator[TrainingState]:
    """Train the autoencoder and leave it in `run/vae` with latents of mean 0 and standard deviation 1 a channel.

    ValueError where the run has begun, or ended, one by another recipe, which would go on, or be kept, as it is.
    """
    run = Path(recipe.run)
    if not recipe.start_from:
        told, names = run / "vae.json", ("seed", *(name for name in asdict(recipe) if name.startswith("vae_")), "kl_weight")
        if told.is_file():
            same_recipe(read_json(told), recipe, names, f"the autoencoder of {run}")
        elif not (run / "vae").exists() and not (run / "vae.pt").exists():
            write_json(told, {name: getattr(recipe, name) for name in names})
    if (run / "vae" / "config.json").exists():
        return
    if recipe.start_from:                  # latents have to stay what the UNet knows: the autoencoder is kept as it is
        save_model(AutoencoderKL.from_pretrained(part_of(recipe, "vae")), run / "vae")
        return
    with seeded(recipe.seed):
        vae = build_autoencoder(recipe)
    vae = vae.to(recipe.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), recipe.vae_lr, betas=(0.9, 0.99), weight_decay=1e-4)
    images, joints = _pool(recipe)
    first, start = resume(run / "vae.pt", recipe, vae=vae, optimizer=optimizer), time.time()
    for step in range(first, recipe.vae_steps):
        rng = step_rng(recipe, step)
        pictures = _crops(images, joints, recipe, step, rng).to(recipe.device)            # (B, 3, h, h)
        set_rate(optimizer, recipe.vae_lr, step, recipe.vae_steps, 100, 0.7)
        with autocast(recipe):
            posterior = vae.encode(pictures * 2 - 1).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=rng).to(recipe.device)
            again = vae.decode(posterior.mean + posterior.std * noise).sample.float() / 2 + 0.5
        loss = picture_loss(again, pictures) + recipe.kl_weight * posterior.kl().sum() / posterior.mean.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        save_every(run / "vae.pt", recipe, step + 1, recipe.vae_steps, vae=vae, optimizer=optimizer)
        yield TrainingState("autoencoder", step + 1, recipe.vae_steps, loss.item(), time.time() - start)
    vae.eval()
    normalise_latents(vae, images[:512].to(recipe.device))
    save_model(vae.to("cpu", memory_format=torch.contiguous_format), run / "vae")


def picture_loss(again: Tensor, pictures: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """L1, squared and gradient error of a reconstruction, both (B, 3, H, W) in [0, 1]; `weight`, (B, 1, H, W), is of the first two."""
    error = again - pictures
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return (weight * error.abs()).mean() + 5 * (weight * error.square()).mean() + 0.5 * gradient


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold mean and scale of each latent channel into the 1 x 1 convolutions around the latent.

    Afterwards latents of `images` (B, 3, H, W, uint8) have mean 0 and standard deviation 1 in every channel, so that
    the noise schedule treats all channels alike and `scaling_factor` is 1.
    """
    latents = torch.cat([vae.encode(part.float() / 127.5 - 1).latent_dist.mean for part in images.split(32)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))                            # (4,)
    n = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - mean) / std
    quant.bias[n:] -= 2 * std.log()                                                       # the log variance
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]


@torch.no_grad()
@declared
def autoencoder_psnr(vae: AutoencoderKL, count: Count = 64, seed: Seed = TEST_SEED) -> float:
    """Mean PSNR in dB of the round trip of `count` held-out renderings."""
    images = world.render(world.sample_scenes(count, seed)).image
    mse = (round_trip(vae, images) - images).square().mean((1, 2, 3))
    return float((-10 * mse.log10()).mean())


def _pool(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Rendered pictures (N, 3, H, W) uint8 and the joints (N, 14, 2) that crops are centred on."""
    images, joints = [], []
    for start in range(0, recipe.vae_pictures, 64):
        scenes = world.sample_scenes(min(64, recipe.vae_pictures - start), VAE_SEED + start)
        frames = world.render(scenes)
        images.append((frames.image * 255).round().to(torch.uint8))
        joints.append(frames.joints)
    return torch.cat(images), torch.cat(joints)


def _crops(images: Tensor, joints: Tensor, recipe: Recipe, step: int, rng: torch.Generator) -> Tensor:
    """A batch of crops near random joints, some of them mirrored; whole pictures towards the end of the training."""
    whole = step >= (1 - recipe.vae_whole) * recipe.vae_steps
    count = max(recipe.vae_batch // 4, 1) if whole else recipe.vae_batch
    index = torch.randint(len(images), (count,), generator=rng)
    if not whole:
        side = recipe.vae_crop
        centre = joints[index, torch.randint(joints.shape[1], (count,), generator=rng)]
        corner = centre + (torch.rand(count, 2, generator=rng) - 0.5) * side * 0.9 - side / 2
        corner = corner.round().long().clamp(0, images.shape[-1] - side)
        batch = torch.stack([images[i, :, y:y + side, x:x + side] for i, (x, y) in zip(index.tolist(), corner.tolist())])
    else:
        batch = images[index]
    flip = torch.rand(count, generator=rng) < 0.5
    batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
    return (batch.float() / 255).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------- stage 2: latents

@torch.no_grad()
def encode_pictures(recipe: Recipe) -> Iterator[TrainingState]:
    """Render `recipe.pictures` scenes and keep their latents (fp16) and captions in shards under `run/latents`."""
    run, start = Path(recipe.run), time.time()
    (run / "latents").mkdir(parents=True, exist_ok=True)
    vae = _trained_autoencoder(run).to(recipe.device, memory_format=torch.channels_last).eval()
    for first in range(0, recipe.pictures, recipe.shard):
        encode_shard(recipe, vae, first)
        yield TrainingState("encode", min(first + recipe.shard, recipe.pictures), recipe.pictures, math.nan, time.time() - start)


@torch.no_grad()
def encode_shard(recipe: Recipe, vae: AutoencoderKL, first: int) -> None:
    """The shard that begins with picture `first`, unless it is there: several processes may share the work. Pictures are drawn
    where the autoencoder is, 32 at a time, on a GPU 256."""
    path, count = Path(recipe.run) / "latents" / f"{first:07d}.safetensors", min(recipe.shard, recipe.pictures - first)
    if path.exists() and len((shard := _read_shard(path))[0]) >= count:
        same_recipe({"captions": shard[2].shape[1]}, recipe, ["captions"], path)
        return
    scenes, latents = world.sample_scenes(count, DATA_SEED + first), []
    chunk = 32 if recipe.device == "cpu" else 256
    for i in range(0, count, chunk):
        with torch.device(recipe.device):
            images = world.render(scenes[i:i + chunk], 8 if recipe.device == "cpu" else chunk).image
        with autocast(recipe):
            latents.append(vae.encode(images * 2 - 1).latent_dist.mean.half().cpu())
    rng = torch.Generator().manual_seed(DATA_SEED + first)
    texts = [[scene.caption] + [world.training_caption(scene, rng) for _ in range(recipe.captions - 1)] for scene in scenes]
    tokens = tokenize(build_tokenizer(), sum(texts, [])).view(count, recipe.captions, -1).to(torch.int16)
    write_tensors(path, {"latents": torch.cat(latents).contiguous(), "tokens": tokens}, {"captions": json.dumps(texts)})


def load_latents(recipe: Recipe) -> tuple[Tensor, list[list[str]]]:
    """Latents (N, 4, 32, 32) float32 and N lists of captions, as `encode_pictures` left them."""
    latents, texts, _ = zip(*_shards(recipe))
    return torch.cat(latents)[:recipe.pictures].float(), sum(texts, [])[:recipe.pictures]


def load_tokens(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Latents (N, 4, 32, 32) float16 and the tokens (N, captions, 32) of their captions."""
    latents, _, tokens = zip(*_shards(recipe))
    return torch.cat(latents)[:recipe.pictures], torch.cat(tokens)[:recipe.pictures]


def _shards(recipe: Recipe) -> list[tuple[Tensor, list[list[str]], Tensor]]:
    shards = [_read_shard(path) for path in sorted((Path(recipe.run) / "latents").glob("*.safetensors"))]
    if not shards:
        raise ValueError(f"no latents under {recipe.run}: run encode_pictures first")
    return shards


def _read_shard(path: Path) -> tuple[Tensor, list[list[str]], Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("latents"), json.loads(file.metadata()["captions"]), file.get_tensor("tokens")
    except Exception as error:
        raise ValueError(f"cannot read the latents {path}: {error}. Delete the file and run encode_pictures again.") from error


def _trained_autoencoder(run: Path) -> AutoencoderKL:
    if not (run / "vae" / "config.json").exists():
        raise ValueError(f"no autoencoder under {run}: run train_autoencoder first")
    return AutoencoderKL.from_pretrained(run / "vae")


# ---------------------------------------------------------------------------------------------- stage 3: diffusion

class TextAndUNet(nn.Module):
    """The two networks that stage 3 trains, as one module."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.text_encoder = build_text_encoder(recipe, build_tokenizer())
        self.unet = build_unet(recipe)

    def forward(self, noisy: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """(B, 4, 32, 32), (B,), (B, 32) to the predicted noise (B, 4, 32, 32)."""
        return self.unet(noisy, timestep, self.text_encoder(tokens).last_hidden_state).sample


def train_diffusion(recipe: Recipe) -> Iterator[TrainingState]:
    """Train UNet and text encoder on the latents of stage 2; the averaged weights end in `run/model.safetensors`."""
    run = Path(recipe.run)
    latents, tokens = load_tokens(recipe)
    nothing = tokenize(build_tokenizer(), [""])[0]
    with seeded(recipe.seed):
        model = TextAndUNet(recipe)
    if recipe.start_from:
        model.unet.load_state_dict(UNet2DConditionModel.from_pretrained(part_of(recipe, "unet")).state_dict())
        model.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(part_of(recipe, "text_encoder")).state_dict())
    if recipe.device == "cpu":             # there the fused attention's backward pass is slower than the plain one
        model.unet.set_attn_processor(AttnProcessor())
    model.to(recipe.device)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=recipe.device == "cuda")
    first, start = resume(run / "diffusion.pt", recipe, model=model, average=average, optimizer=optimizer), time.time()
    scheduler, predict = build_scheduler(), torch.compile(model) if recipe.compiled else model
    draw = lambda step: _diffusion_batch(latents, tokens, nothing, scheduler, recipe, step_rng(recipe, step))
    for step, batch in enumerate(_ahead(draw, range(first, recipe.steps), 0 if recipe.device == "cpu" else 4), first):
        set_rate(optimizer, recipe.lr, step, recipe.steps, recipe.warmup, recipe.decay)
        noisy, timestep, words, noise = (value.to(recipe.device) for value in batch)
        with autocast(recipe):
            predicted = predict(noisy, timestep, words).float()
        loss = min_snr_loss(predicted, noise, timestep, scheduler, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_average(average, model, min(recipe.ema, (1 + step) / (10 + step)))
        save_every(run / "diffusion.pt", recipe, step + 1, recipe.steps, model=model, average=average, optimizer=optimizer)
        yield TrainingState("diffusion", step + 1, recipe.steps, loss.item(), time.time() - start)
    write_tensors(run / "model.safetensors", {name: value.cpu().contiguous() for name, value in average.items()})


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """(B,) strings to (B, 32) token ids, padded as StableDiffusionPipeline pads them."""
    return tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                     return_tensors="pt").input_ids


def _diffusion_batch(latents, tokens, nothing, scheduler, recipe: Recipe, rng: torch.Generator):
    n = recipe.batch
    index = torch.randint(len(latents), (n,), generator=rng)
    words = tokens[index, torch.randint(tokens.shape[1], (n,), generator=rng)].long()
    dropped = torch.rand(n, generator=rng) < recipe.caption_dropout
    words = torch.where(dropped[:, None], nothing, words)
    spread = (torch.arange(n) + torch.rand(n, generator=rng)) / n                          # stratified timesteps
    timestep = (spread * scheduler.config.num_train_timesteps).long()
    clean = latents[index].float()
    noise = torch.randn(clean.shape, generator=rng)
    return scheduler.add_noise(clean, noise, timestep), timestep, words, noise


def _ahead(draw: Callable[[int], tuple], steps: range, threads: int) -> Iterator[tuple]:
    """`draw(step)` for each of the steps, with threads made by as many before they are asked for."""
    if not threads:
        yield from map(draw, steps)
        return
    with ThreadPoolExecutor(threads) as pool:
        coming = [pool.submit(draw, step) for step in steps[:threads]]
        for step in steps:
            if step + threads in steps:
                coming.append(pool.submit(draw, step + threads))
            yield coming.pop(0).result()


def min_snr_loss(predicted: Tensor, noise: Tensor, timestep: Tensor, scheduler, recipe: Recipe) -> Tensor:
    """Squared error of the noise, each sample weighted by min(SNR, cap) ^ power / SNR.

    A power of 1 is min-SNR weighting (Hang et al. 2023).
    """
    alpha = scheduler.alphas_cumprod.to(timestep.device)[timestep]
    snr = alpha / (1 - alpha)
    return ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp_max(recipe.min_snr) ** recipe.snr_power / snr).mean()


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    pairs = [(average[name], value) for name, value in model.state_dict().items() if value.is_floating_point()]
    torch._foreach_lerp_(*map(list, zip(*pairs)), 1 - decay)


# ---------------------------------------------------------------------------------------------- stage 4: the folder

def build_pipeline(recipe: Recipe, weights: dict[str, Tensor] | None = None) -> StableDiffusionPipeline:
    """The pipeline of a run, float32 on the CPU; `weights` default to the averaged ones that the training left."""
    run = Path(recipe.run)
    with torch.random.fork_rng(devices=[]):
        model = TextAndUNet(recipe)
    if weights is None:
        weights = trained_weights(run / "model.safetensors", run / "diffusion.pt", "train_diffusion")
    model.load_state_dict(weights)
    pipe = StableDiffusionPipeline(
        vae=_trained_autoencoder(run), text_encoder=model.text_encoder.eval(),
        tokenizer=build_tokenizer(), unet=model.unet.eval(), scheduler=build_scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@declared
def export_pipeline(recipe: Recipe, folder: FileName) -> Path:
    """Write the run as a diffusers folder with fp16 safetensors; complete or not at all.

    In a folder of such a pipeline its card survives. ValueError, and nothing is written, where anything else is in the way.
    """
    return write_pipeline(recipe, folder, build_pipeline, _portable, PARTS)


@declared
def start_over(run: FileName) -> None:
    """Delete a run's folder. ValueError, and nothing is deleted, where it holds anything that no training wrote."""
    remove_known(run, WRITTEN)


def _portable(folder: Path) -> None:
    """Say what transformers 4 and 5 both read: the tokenizer's class, the text encoder's names of weights, and float32.

    transformers 5 loads in the `dtype` of the config, so with float16 there a text encoder would not fit the UNet, which
    diffusers loads as float32 unless it is told otherwise.
    """
    path = folder / "text_encoder" / "model.safetensors"
    weights = {"text_model." + name.removeprefix("text_model."): value for name, value in load_file(path).items()}
    write_tensors(path, weights, {"format": "pt"})
    for path, change in ((folder / "model_index.json", {"tokenizer": ["transformers", "PreTrainedTokenizerFast"]}),
                         (folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
                         (folder / "text_encoder" / "config.json", {"dtype": "float32"})):
        write_json(path, json.loads(path.read_text()) | change)
    for path in folder.glob("*/config.json"):                                              # where a part was loaded from
        config = json.loads(path.read_text())
        write_json(path, {k: v for k, v in config.items() if k != "_name_or_path"})
    for path in folder.glob("*/*.safetensors"):                              # of diffusers: see `write_tensors`
        shutil.copymode(folder / "model_index.json", path)


# ---------------------------------------------------------------------------------------------- small helpers

def save_model(model, folder: Path) -> None:
    replace_folder(folder, model.save_pretrained, ("config.json", "diffusion_pytorch_model.safetensors"))
