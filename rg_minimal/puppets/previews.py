"""How `data/previews` was made: a small autoencoder for pictures that are still forming, as TAESD is for Stable Diffusion.

    small = load_previews(pipe)                 # an `AutoencoderTiny`, or None where there is none for this autoencoder
    picture = decode(pipe, latents, small)      # nearly what the pipeline's own decoder makes, in a third of its time

It imitates the autoencoder of a pipeline on latents of renderings, and of what the model takes a picture to be on its way: its
decoder learns the pictures that the other decoder makes of them, its encoder the latents. What is finished is decoded by the
pipeline's own.

`python -m rg_minimal.puppets.previews` trains and measures it. Every number of a run is a field of `PreviewRecipe`; as in
`basemodel`, step n draws all that is random from a CPU generator seeded with (seed, n), and a run that was killed goes on.
"""
from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Iterator, Sequence

import torch
from diffusers import AutoencoderTiny
from pydantic import Field
from torch import Tensor, nn

from . import world
from .basemodel import picture_loss
from .judge import load_judge, pck
from .training import (BESIDE, TrainingState, add_options, load_beside, name_of, part_of, print_progress, resume, save_every, set_rate,
                       step_rng, write_beside)
from ..autoencoders import decode, encode
from ..checks import Count, Counts, Declared, FileName, Index, NonNegative, Seed, SomeName, declared, one_sentence, stoppable
from ..files import read_tensors, refuse_file, refuse_others, write_tensors
from ..pipelines import find_folder, guided_sample, load_pipeline
from ..undo import seeded

DEFAULT = "data/previews"
SCENES, TEST_SCENES = 800_000_000, world.HELD_OUT + 150_000
CHUNK = 16                                      # pictures at a time


@dataclass
class PreviewRecipe(Declared):
    """All numbers of a training run. The defaults made `data/previews`."""
    run: SomeName = "runs/previews"             # folder of the checkpoint
    start_from: FileName = "data/puppet-diffusion"          # pipeline whose autoencoder is imitated
    seed: Seed = 0
    save_every: Count = 200                     # steps between checkpoints
    width: Count = 24                           # channels of each layer
    blocks: Annotated[Counts, Field(min_length=3, max_length=3)] = (3, 2, 1)        # of the decoder, from latents to pixels
    pictures: Annotated[Count, Field(multiple_of=2)] = 1280                         # half rendered, half of the model on its way
    steps: Count = 4000
    batch: Count = 8
    crop: Annotated[Count, Field(le=32)] = 16   # side of the latents that three of four steps see
    lr: NonNegative = 2e-3
    warmup: Index = 50

    device = "cpu"                              # what the training of other networks is told, too


def build(recipe: PreviewRecipe) -> AutoencoderTiny:
    """With random weights: a quarter of the picture's side, four channels, as the latents that it imitates have."""
    channels = (recipe.width,) * 3
    with seeded(recipe.seed):
        return AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels,
                               num_encoder_blocks=recipe.blocks[::-1], num_decoder_blocks=recipe.blocks)


# ---------------------------------------------------------------------------------------------- training

def train_previews(recipe: PreviewRecipe) -> Iterator[TrainingState]:
    """Make the pool of latents (stage "latents"), train the autoencoder (stage "previews") and leave both in `recipe.run`."""
    run, small = Path(recipe.run), build(recipe).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(small.parameters(), recipe.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    first = resume(run / "previews.pt", recipe, small=small, optimizer=optimizer)
    if first >= recipe.steps:
        return
    pipe = load_pipeline(recipe.start_from, device="cpu")
    yield from _fill_pool(pipe, recipe)
    latents, start = _read_pool(run), time.time()
    pictures = torch.cat([(decode(pipe, part) * 255).round().to(torch.uint8) for part in latents.split(CHUNK)])
    for step in range(first, recipe.steps):
        rng = step_rng(recipe, step)
        part, wanted = _batch(latents, pictures, recipe, rng, whole=step % 4 == 3)
        set_rate(optimizer, recipe.lr, step, recipe.steps, recipe.warmup, 0.6)
        loss = picture_loss(small.decode(part).sample / 2 + 0.5, wanted)
        again = small.encode(wanted * 2 - 1).latents
        (loss + (again - part).square().mean()).backward()
        nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        save_every(run / "previews.pt", recipe, step + 1, recipe.steps, small=small, optimizer=optimizer)
        yield TrainingState("previews", step + 1, recipe.steps, loss.item(), time.time() - start)


@torch.no_grad()
def _fill_pool(pipe, recipe: PreviewRecipe) -> Iterator[TrainingState]:
    """Latents of renderings, and as many guesses of the model: of each caption one at every fifth step."""
    path, start, half = Path(recipe.run) / "pool.safetensors", time.time(), recipe.pictures // 2
    if path.exists() and len(_read_pool(path.parent)) == recipe.pictures:
        return
    pool = []
    for first in range(0, half, CHUNK):
        scenes = world.sample_scenes(min(CHUNK, half - first), SCENES + first)
        pool.append(encode(pipe, world.render(scenes).image))
        noise = torch.Generator().manual_seed(SCENES + first)
        few = [scene.caption for scene in scenes[:math.ceil(len(scenes) / 5)]]
        guesses = torch.cat([state.clean_latents for state in guided_sample(pipe, few, num_inference_steps=25, generator=noise)
                             if state.step % 5 == 4])
        pool.append(guesses[:len(scenes)])
        yield TrainingState("latents", 2 * (first + len(scenes)), recipe.pictures, math.nan, time.time() - start)
    write_tensors(path, {"latents": torch.cat(pool)})


def _read_pool(run: Path) -> Tensor:
    """Latents (N, 4, 32, 32)."""
    return read_tensors(run / "pool.safetensors")[0]["latents"]


def _batch(latents, pictures, recipe: PreviewRecipe, rng, whole: bool) -> tuple[Tensor, Tensor]:
    """Latents (B, 4, h, h) and their pictures (B, 3, 4 h, 4 h) in [0, 1]: crops, or a quarter as many whole ones."""
    count, side = (max(recipe.batch // 4, 1), latents.shape[-1]) if whole else (recipe.batch, recipe.crop)
    index = torch.randint(len(latents), (count,), generator=rng).tolist()
    corners = torch.randint(latents.shape[-1] - side + 1, (count, 2), generator=rng).tolist()
    cut = lambda values, by: torch.stack([values[i, :, y * by:(y + side) * by, x * by:(x + side) * by]
                                          for i, (y, x) in zip(index, corners)]).contiguous(memory_format=torch.channels_last)
    return cut(latents, 1), cut(pictures, 4).float() / 255


# ---------------------------------------------------------------------------------------------- the folder

@declared
def load_previews(pipe, folder: FileName = DEFAULT) -> AutoencoderTiny | None:
    """The small autoencoder of a folder, float32, on the pipeline's device; None where there is no such folder, or it was distilled
    from another autoencoder than this pipeline's. ValueError where it is damaged."""
    return load_beside(AutoencoderTiny, pipe, find_folder(folder), "python -m rg_minimal.puppets.previews")


@torch.no_grad()
@declared
def measure_previews(pipe, small: AutoencoderTiny, count: Count = 64) -> dict:
    """Against the pipeline's own decoder, on latents that `count` held-out captions lead to: PSNR in dB of the finished
    pictures and of guesses on the way, joints by the judge, and milliseconds of the processor a picture."""
    judge, latents = load_judge(), {"finished": [], "on the way": []}
    for first in range(0, count, CHUNK):
        captions = [scene.caption for scene in world.sample_scenes(min(CHUNK, count - first), TEST_SCENES + first)]
        noise = torch.Generator().manual_seed(TEST_SCENES + first)
        states = list(guided_sample(pipe, captions, num_inference_steps=25, generator=noise))
        for name, state in (("finished", states[-1]), ("on the way", states[len(states) // 3])):
            latents[name].append(state.clean_latents)
    psnr = lambda one, other: float((-10 * (one - other).square().mean((1, 2, 3)).log10()).mean())
    finished, on_the_way = (torch.cat(parts) for parts in latents.values())
    full, quick, begun, quickly = (torch.cat([decode(pipe, part, vae) for part in which.split(CHUNK)])
                                   for which in (finished, on_the_way) for vae in (None, small))
    figures = {"n": count, "PSNR of finished pictures, dB": psnr(quick, full), "PSNR on the way, dB": psnr(quickly, begun)}
    figures["joints that the judge reads at the same place"] = pck(judge(quick).joints, judge(full).joints).mean().item()
    again = torch.cat([small.encode(part * 2 - 1).latents for part in full.split(CHUNK)])
    figures["squared error of encoded latents"] = (again - encode(pipe, full)).square().mean().item()
    for name, vae in (("own decoder", None), ("small decoder", small)):
        decode(pipe, finished[:1], vae)
        start = time.process_time()
        for one in finished[:16].split(1):
            decode(pipe, one, vae)
        figures[f"ms of the processor a picture, {name}"] = (time.process_time() - start) / min(count, 16) * 1000
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}


@declared
def export_previews(recipe: PreviewRecipe, folder: FileName = DEFAULT) -> Path:
    """Write what a run has trained so far as a folder of an `AutoencoderTiny`, with its recipe, figures and card; complete or not
    at all. ValueError, and nothing is written, where the run has no checkpoint, or anything else is in the folder's way."""
    checkpoint, pipe, small = Path(recipe.run) / "previews.pt", load_pipeline(recipe.start_from, device="cpu"), build(recipe)
    if not checkpoint.exists():
        raise ValueError(f"no checkpoint under {recipe.run}: run train_previews first")
    steps = resume(checkpoint, recipe, small=small)
    small = small.half().eval()
    figures = measure_previews(pipe, small.float().to(memory_format=torch.channels_last))       # as it is read again
    small.half()
    told = asdict(recipe) | {"run": Path(recipe.run).name, "start_from": Path(recipe.start_from).name, "steps": steps,
                             "autoencoder": name_of(pipe.vae), "figures": figures}
    idle = ("block_out_channels",)                                  # diffusers writes it, and warns of it where it reads it
    return write_beside(small, folder, told, card(small, told), idle)


def card(small: AutoencoderTiny, told: dict) -> str:
    count = lambda part: sum(value.numel() for value in part.parameters()) / 1000
    rows = "\n".join(f"| {name} | {value} |" for name, value in told["figures"].items() if name != "n")
    return f"""# Previews

A small autoencoder that pictures which are still forming are shown by, in place of that of `data/{told["start_from"]}`: the same \
latents, {count(small.decoder):.0f} k weights in the decoder and {count(small.encoder):.0f} k in the encoder, fp16. It is diffusers' \
`AutoencoderTiny`, as [TAESD](https://github.com/madebyollin/taesd) is for Stable Diffusion; what is finished, measured or \
exported is decoded by the model's own.

```python
from rg_minimal.autoencoders import decode
from rg_minimal.puppets.previews import load_previews

small = load_previews(pipe)                     # None for a pipeline with another autoencoder
picture = decode(pipe, state.clean_latents, small)
```

Made by `python -m rg_minimal.puppets.previews`: {told["steps"]} steps of {told["batch"]} crops or \
{max(told["batch"] // 4, 1)} whole pictures, from {told["pictures"]} latents, half of them of renderings, half of them guesses of the \
model on its way to a picture.

| {told["figures"]["n"]} pictures of held-out captions, against the model's own decoder | |
|---|---|
{rows}

"On the way" is a third of 25 steps in. Licence: Apache-2.0.
"""


@stoppable
def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m rg_minimal.puppets.previews`: train (or go on), measure, write the folder."""
    parser = argparse.ArgumentParser(description="Distil a small autoencoder for pictures that are still forming.")
    add_options(parser, PreviewRecipe, without=("blocks",))
    parser.add_argument("--folder", default=find_folder(DEFAULT), help=f"where the autoencoder goes ({DEFAULT})")
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with one_sentence(parser):
        recipe = PreviewRecipe(**options)
        refuse_others(folder, BESIDE), refuse_file(folder), refuse_file(recipe.run), part_of(recipe, "vae")
    print_progress(train_previews(recipe), every="latents")
    print("written to", export_previews(recipe, folder))


if __name__ == "__main__":
    main()
