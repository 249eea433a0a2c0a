"""How `data/decoder` was made: the model's own autoencoder, with a decoder that has learned on what the model draws.

    finer = load_decoder(pipe)                  # an `AutoencoderKL`, or None where there is none for this autoencoder
    pictures = decode(pipe, latents, finer)     # the same latents, with fewer smeared limbs

An autoencoder learns on pictures; the latents that a diffusion model ends in are nearly, but not quite, such as it knows. So
Stability AI trained the decoder of Stable Diffusion on once more and left the encoder, so that old latents keep their meaning
(`sd-vae-ft-mse`). Here the decoder learns from two kinds of latents of each rendering: as the encoder makes them, and after the
model has drawn their last steps again. Denoiser, latents and heads stay what they are, and so does the way to them, bit for bit.

`python -m rg_minimal.puppets.decoder` trains and measures it. Every number of a run is a field of `DecoderRecipe`; as in
`basemodel`, step n draws all that is random from a CPU generator seeded with (seed, n), and a run that was killed goes on.
"""
from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Iterator, Sequence

import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from pydantic import Field
from torch import Tensor, nn

from . import world
from .basemodel import autoencoder_psnr, picture_loss, update_average
from .heads import pixel_grid
from .judge import load_judge
from .training import (BESIDE, TrainingState, add_options, autocast, load_beside, name_of, part_of, print_progress, resume, save_every,
                       set_rate, step_rng, write_beside)
from ..autoencoders import decode, encode
from ..checks import Count, Declared, FileName, Fraction, Index, NonNegative, Positive, Seed, SomeName, declared, one_sentence, stoppable
from ..files import read_tensors, refuse_file, refuse_others, write_tensors
from ..pipelines import find_folder, guided_sample, load_pipeline

DEFAULT = "data/decoder"
SCENES, TEST_SCENES = 830_000_000, world.HELD_OUT + 160_000
CHUNK = 16                                      # pictures at a time
REDRAWN = 15                                    # steps of which the last ones are drawn again


@dataclass
class DecoderRecipe(Declared):
    """All numbers of a training run. The defaults made `data/decoder`."""
    run: SomeName = "runs/decoder"              # folder of the checkpoint
    start_from: FileName = "data/puppet-diffusion"          # pipeline whose decoder learns on
    seed: Seed = 0
    save_every: Count = 200                     # steps between checkpoints
    pictures: Annotated[Count, Field(multiple_of=2)] = 6144                         # half as encoded, half drawn again
    last: Annotated[Count, Field(le=REDRAWN)] = 5           # at most so many of 15 steps are drawn again
    guidance_scale: NonNegative = 3.0           # with which they are
    steps: Count = 4000
    batch: Count = 4                            # whole pictures, which is what normalisation sees later
    lr: NonNegative = 1e-3
    warmup: Index = 50
    average: Fraction = 0.995                   # of the weights that are kept
    near: NonNegative = 3.0                     # how much more an error counts on a joint than far from all
    reach: Positive = 5.0                       # pixels in which that fades

    device = "cpu"                              # what the training of other networks is told, too


# ---------------------------------------------------------------------------------------------- training

def train_decoder(recipe: DecoderRecipe) -> Iterator[TrainingState]:
    """Make the pool of latents (stage "latents"), train the decoder (stage "decoder") and leave both in `recipe.run`.

    ValueError where `start_from` is no folder of a Stable Diffusion pipeline."""
    part_of(recipe, "vae"), part_of(recipe, "unet")             # diffusers draws the last steps again, as of Stable Diffusion
    run, pipe = Path(recipe.run), load_pipeline(recipe.start_from, device="cpu")
    vae = copy.deepcopy(pipe.vae).to(memory_format=torch.channels_last)
    learning = [value.requires_grad_() for part in (vae.decoder, vae.post_quant_conv) if part is not None for value in part.parameters()]
    optimizer = torch.optim.AdamW(learning, recipe.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    average = {name: value.clone() for name, value in vae.state_dict().items()}
    first = resume(run / "decoder.pt", recipe, vae=vae, optimizer=optimizer, average=average)
    if first >= recipe.steps:
        return
    yield from _fill_pool(pipe, recipe)
    pool, start = read_tensors(run / "pool.safetensors")[0]["latents"], time.time()
    for step in range(first, recipe.steps):
        index = torch.randint(len(pool), (recipe.batch,), generator=step_rng(recipe, step)).tolist()
        frames = world.render([world.sample_scene(SCENES + each % (len(pool) // 2)) for each in index])
        set_rate(optimizer, recipe.lr, step, recipe.steps, recipe.warmup, 0.7)
        with autocast(recipe):
            again = decode_with_gradient(vae, pool[index])
        loss = weighed_loss(again, frames, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_average(average, vae, min(recipe.average, (step + 1) / (step + 10)))
        save_every(run / "decoder.pt", recipe, step + 1, recipe.steps, vae=vae, optimizer=optimizer, average=average)
        yield TrainingState("decoder", step + 1, recipe.steps, loss.item(), time.time() - start)


def decode_with_gradient(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w), as `encode` makes them, to pictures (B, 3, H, W), float32, in about [0, 1], neither clamped nor checked."""
    return vae.decode((latents / vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)).sample.float() / 2 + 0.5


def weighed_loss(again: Tensor, frames: world.Frames, recipe: DecoderRecipe) -> Tensor:
    """`basemodel.picture_loss`, in which errors count more near the joints, where limbs are thin."""
    gap = torch.cdist(pixel_grid(world.SIZE).flatten(0, 1), frames.joints).amin(-1).view(-1, 1, world.SIZE, world.SIZE)
    return picture_loss(again, frames.image, 1 + recipe.near * (-gap.square() / (2 * recipe.reach ** 2)).exp())


@torch.no_grad()
def _fill_pool(pipe, recipe: DecoderRecipe) -> Iterator[TrainingState]:
    """Latents of renderings, then those of the same ones after the model has drawn some last steps again, every second time with
    new noise at each."""
    path, start, half = Path(recipe.run) / "pool.safetensors", time.time(), recipe.pictures // 2
    made_with = {name: str(getattr(recipe, name)) for name in ("pictures", "last", "guidance_scale")}
    if path.exists() and made_with.items() <= read_tensors(path)[1].items():
        return
    draw_again = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    draw_again.set_progress_bar_config(disable=True)
    encoded, drawn = [], []
    for number, first in enumerate(range(0, half, CHUNK)):
        scenes = [world.sample_scene(SCENES + each) for each in range(first, min(first + CHUNK, half))]
        encoded.append(encode(pipe, world.render(scenes).image))
        rng = torch.Generator().manual_seed(SCENES + first)
        last = 1 + int(torch.randint(recipe.last, (1,), generator=rng))
        drawn.append(draw_again([scene.caption for scene in scenes], image=encoded[-1], strength=(last + 0.01) / REDRAWN,
                                num_inference_steps=REDRAWN, guidance_scale=recipe.guidance_scale, eta=float(number % 2), generator=rng,
                                output_type="latent").images)
        yield TrainingState("latents", 2 * (first + len(scenes)), recipe.pictures, math.nan, time.time() - start)
    write_tensors(path, {"latents": torch.cat(encoded + drawn)}, made_with)


# ---------------------------------------------------------------------------------------------- the folder

@declared
def load_decoder(pipe, folder: FileName = DEFAULT) -> AutoencoderKL | None:
    """The pipeline's autoencoder with the finer decoder of a folder, float32, on the pipeline's device; None where there is no such
    folder, or it was trained from another autoencoder than this pipeline's. ValueError where it is damaged."""
    return load_beside(AutoencoderKL, pipe, find_folder(folder), "python -m rg_minimal.puppets.decoder")


@torch.no_grad()
@declared
def measure_decoder(pipe, finer: AutoencoderKL, count: Count = 256) -> dict:
    """Beside the pipeline's own decoder, on `count` held-out captions: whole puppets by the judge in pictures of 25 steps from the same
    latents, and in renderings that went through the autoencoder; PSNR of those in dB."""
    judge, ways = load_judge(), {"own decoder": None, "this one": finer}
    found = {(what, name): [] for what in ("drawn", "encoded") for name in ways}
    for first in range(0, count, CHUNK):
        scenes = world.sample_scenes(min(CHUNK, count - first), TEST_SCENES + first)
        noise = torch.Generator().manual_seed(TEST_SCENES + first)
        *_, state = guided_sample(pipe, [scene.caption for scene in scenes], generator=noise)
        latents = {"drawn": state.latents, "encoded": encode(pipe, world.render(scenes).image)}
        for what, name in found:
            found[what, name].append(judge.found(judge(decode(pipe, latents[what], ways[name]))))
    share = {key: float(torch.cat(each).float().mean()) for key, each in found.items()}
    figures = {"n": count}
    for name, vae in ways.items():
        figures |= {f"whole puppets that the model draws, {name}": share["drawn", name],
                    f"whole puppets of renderings, encoded and decoded, {name}": share["encoded", name],
                    f"PSNR of renderings, dB, {name}": autoencoder_psnr(vae or pipe.vae, 128)}
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}


@declared
def export_decoder(recipe: DecoderRecipe, folder: FileName = DEFAULT) -> Path:
    """Write what a run has trained so far as a folder of an `AutoencoderKL`, with its recipe, figures and card; complete or not at all.
    ValueError, and nothing is written, where the run has no checkpoint, or anything else is in the folder's way."""
    checkpoint, pipe = Path(recipe.run) / "decoder.pt", load_pipeline(recipe.start_from, device="cpu")
    if not checkpoint.exists():
        raise ValueError(f"no checkpoint under {recipe.run}: run train_decoder first")
    finer, average = copy.deepcopy(pipe.vae), {}
    steps = resume(checkpoint, recipe, average=average)
    finer.load_state_dict(average)
    finer.half()
    figures = measure_decoder(pipe, finer.float().to(memory_format=torch.channels_last))        # as it is read again
    told = asdict(recipe) | {"run": Path(recipe.run).name, "start_from": Path(recipe.start_from).name, "steps": steps,
                             "autoencoder": name_of(pipe.vae), "figures": figures}
    return write_beside(finer.half(), folder, told, card(told))


def card(told: dict) -> str:
    figures = told["figures"]
    rows = "\n".join(f"| {what} | {figures[f'{what}, own decoder']} | {figures[f'{what}, this one']} |"
                     for what in (name.removesuffix(", own decoder") for name in figures if name.endswith(", own decoder")))
    return f"""---
license: apache-2.0
library_name: diffusers
---
# A finer decoder

The autoencoder of `data/{told["start_from"]}` with a decoder that has learned on what the model draws, as `sd-vae-ft-mse` is for Stable \
Diffusion: the same classes and sizes, the same encoder, the same latents, fp16. It costs what the other costs, and no latent, readout \
or guided step is another.

```python
from rg_minimal.autoencoders import decode
from rg_minimal.puppets.decoder import load_decoder

finer = load_decoder(pipe)                      # None for a pipeline with another autoencoder
pictures = decode(pipe, latents, finer)
```

Or for good, in the ordinary way of diffusers: `pipe.vae = AutoencoderKL.from_pretrained("data/decoder")`.

Made by `python -m rg_minimal.puppets.decoder`: {told["steps"]} steps of {told["batch"]} whole pictures, from {told["pictures"]} latents, \
half of them as the encoder makes them of renderings, half of them the same after the model has drawn the last 1 to {told["last"]} of \
{REDRAWN} steps again; errors near a joint count up to {1 + told["near"]:g} times.

| {figures["n"]} held-out captions, 25 steps | own decoder | this one |
|---|---|---|
{rows}

All other figures of this repository are of pictures that the pipeline's own decoder has made. Licence: Apache-2.0.
"""


@stoppable
def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m rg_minimal.puppets.decoder`: train (or go on), measure, write the folder."""
    parser = argparse.ArgumentParser(description="Let the decoder of a pipeline learn on what the model draws.")
    add_options(parser, DecoderRecipe)
    parser.add_argument("--folder", default=find_folder(DEFAULT), help=f"where the autoencoder goes ({DEFAULT})")
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with one_sentence(parser):
        recipe = DecoderRecipe(**options)
        refuse_others(folder, BESIDE), refuse_file(folder), refuse_file(recipe.run), part_of(recipe, "vae"), part_of(recipe, "unet")
    print_progress(train_decoder(recipe), every="latents")
    print("written to", export_decoder(recipe, folder))


if __name__ == "__main__":
    main()
