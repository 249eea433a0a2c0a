"""What the tokens of a transformer look like: raw, normalised as a head reads them, and as the next block reads them.

`python -m rg_minimal.puppets.measure tokens --model FOLDER` measures a folder that `puppets.transformer` has written. The
residual stream of such models has a few channels much larger than the rest. Three things are told apart here: how large
tokens are, how their energy (the mean square of their numbers) is spread over channels, and how well points of one
picture are found in another by the cosine similarity of their tokens.

Tokens are (B, T, C): B pictures, T places, C channels.
"""
from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import SCORE_SEED, collect_held_out, match_score
from ..checks import Count, declared
from ..denoisers import SD3, denoiser
from ..files import read_json
from ..maps import resize
from ..pipelines import read_picture

VIEWS = ("raw", "normalised", "adaptive", "by channel")
RAISED, TIMES = 2, 30                                   # channels made massive by hand, and how much
QUANTILES = tuple(i / 8 for i in range(9))              # of the channels' sizes: smallest, ..., median, ..., largest


def views(raw: Tensor) -> dict[str, Tensor]:
    """Tokens (B, T, C) as they are; normalised one by one (LayerNorm without weights); each channel by its own mean and size."""
    spread = raw.std((0, 1)).clamp_min(1e-6)
    return {"raw": raw, "normalised": F.layer_norm(raw, raw.shape[-1:]), "by channel": (raw - raw.mean((0, 1))) / spread}


def make_massive(raw: Tensor, largest: Tensor) -> Tensor:
    """The same tokens with the channels at the indices `largest` multiplied by `TIMES`."""
    factor = torch.ones(raw.shape[-1]).index_fill(0, largest, TIMES)
    return raw * factor.to(raw)


@contextmanager
def listening(network) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
    """What each block of an SD3 transformer returns for the picture's tokens, and what the next one makes of it before it reads
    it: normalised, then each channel scaled and shifted as the timestep and the text ask for. Refilled by every pass."""
    returned, read, hooks = {}, {}, []
    blocks = network.transformer_blocks

    def keep(place, index, pick):
        return lambda module, given, output: place.__setitem__(index, pick(output).detach().float())
    try:
        for index, block in enumerate(blocks):
            hooks.append(block.register_forward_hook(keep(returned, index, lambda output: output[-1])))
            if index:
                hooks.append(block.norm1.register_forward_hook(keep(read, index - 1, lambda output: output[0])))
        hooks.append(network.norm_out.register_forward_hook(keep(read, len(blocks) - 1, lambda output: output)))
        yield returned, read
    finally:
        for hook in hooks:
            hook.remove()


def describe_tokens(tokens: Tensor) -> dict[str, Any]:
    """Figures of tokens (B, T, C): sizes are root mean squares, shares are of the energy of all channels."""
    energy = tokens.square().mean((0, 1))                                               # (C,)
    largest, size = energy.sort(descending=True).values, tokens.square().mean(-1).sqrt().flatten()
    centred = tokens - tokens.mean()
    return {"size": energy.mean().sqrt().item(), "token_size": _quantiles(size, (0.01, 0.99)),
            "channel_size": _quantiles(energy.sqrt(), QUANTILES), "share_of_largest": (largest[0] / largest.sum()).item(),
            "share_of_four": (largest[:4].sum() / largest.sum()).item(),
            "kurtosis": (centred.pow(4).mean() / centred.square().mean() ** 2).item()}


def _quantiles(values: Tensor, at) -> list[float]:
    return [round(value, 4) for value in values.cpu().quantile(torch.tensor(at)).tolist()]


def look_at_tokens(pipe, samples, timestep: int) -> dict[str, dict[str, list]]:
    """For each of `VIEWS`, and of tokens made massive by hand, the figures of each block at a timestep.

    `samples` are pairs of the correspondence task; 'pck@0.1' is the share of points that are found within a tenth of the
    puppet's size."""
    network, rng, seen = denoiser(pipe).network, torch.Generator().manual_seed(SCORE_SEED + timestep), []
    for latents in samples.latents:
        with listening(network) as (returned, read):
            read_picture(pipe, timestep=timestep, latents=latents, generator=rng)
        seen.append((dict(returned), dict(read)))
    (first, first_read), (second, second_read) = seen
    side = int(first[0].shape[1] ** 0.5)

    def found(pair) -> float:
        maps = [resize(each.mT.unflatten(2, (side, side)), samples.latents[0].shape[-2:]).cpu() for each in pair]
        return match_score(*maps, *samples.truth).mean().item()
    result: dict[str, dict[str, list]] = {}
    for index in first:
        both = torch.cat([first[index], second[index]])                                 # (2 B, T, C)
        largest = both.square().mean((0, 1)).topk(RAISED).indices.cpu()
        kinds = views(both) | {"adaptive": torch.cat([first_read[index], second_read[index]])}
        kinds = {name: kinds[name] for name in VIEWS}
        kinds |= {f"massive, {name}": tokens for name, tokens in views(make_massive(both, largest)).items()}
        for name, tokens in kinds.items():
            figures = describe_tokens(tokens) | {"pck@0.1": found(tokens.chunk(2))}
            for figure, value in figures.items():
                result.setdefault(name, {}).setdefault(figure, []).append(round(value, 4) if isinstance(value, float) else value)
    return result


def check_transformer(pipe) -> None:
    """ValueError unless the pipeline's denoiser is a transformer of SD3's class."""
    model = denoiser(pipe)
    if not isinstance(model, SD3):
        raise ValueError(f"tokens are those of a transformer of SD3's class, but the denoiser is a {type(model.network).__name__}; pass "
                         "--model with a folder that `python -m rg_minimal.puppets.transformer` has written")


@declared
def measure_tokens(pipe, count: Count = 64, timesteps=(100, 500)) -> Iterator[tuple[int, int]]:
    """The tokens of `count` pairs of held-out pictures at each timestep, block by block; a generator as all measurements."""
    check_transformer(pipe)
    samples, config = collect_held_out(pipe, "correspondence", count), denoiser(pipe).config
    result = {}
    for done, timestep in enumerate(timesteps, 1):
        result[str(timestep)] = look_at_tokens(pipe, samples, timestep)
        yield done, len(timesteps)
    return {"pairs": count, "seed": SCORE_SEED, "training_steps": trained_steps(pipe), "blocks": config.num_layers,
            "channels": config.num_attention_heads * config.attention_head_dim, "quantiles": list(QUANTILES),
            "massive": {"channels": RAISED, "times": TIMES}, "timesteps": result}


def trained_steps(pipe) -> int | None:
    """How long the model was trained, where its folder has a recipe."""
    recipe = Path(pipe.config.get("_name_or_path") or ".") / "recipe.json"
    return read_json(recipe).get("steps") if recipe.is_file() else None
