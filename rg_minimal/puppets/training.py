"""What long trainings, of base models, of autoencoders beside them and of the judge, share: state, rates, checkpoints, the export.

A recipe is any object with `seed`, `device` and `save_every`. Step n of a run draws everything from `step_rng(recipe, n)`,
and a checkpoint is whole or absent, so a run that was killed goes on as if nothing had happened.
"""
from __future__ import annotations

import json
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Callable, Iterable

import torch
from torch import Tensor, nn

from ..checks import check_weights
from ..files import read_json, read_tensors, refuse_others, replace_folder, write_file, write_json, write_tensors

CARD = ("README.md", "samples.png", "samples.webp")     # what may have been put beside an exported pipeline, and is kept
BESIDE = ("config.json", "diffusion_pytorch_model.safetensors", "recipe.json", "README.md")      # of an autoencoder beside a pipeline


@dataclass
class TrainingState:
    """What the training generators yield."""
    stage: str            # "autoencoder", "encode" or "diffusion"
    step: int             # steps done
    steps: int            # steps in all
    loss: float           # of this step (nan where the stage has none)
    seconds: float        # since this process started the stage


def step_rng(recipe, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)


def autocast(recipe):
    """bfloat16 where the device computes in it; some CPUs emulate it slowly, and train in float32."""
    fast = recipe.device != "cpu" or torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(recipe.device, torch.bfloat16) if fast else nullcontext()


def set_rate(optimizer, rate: float, step: int, steps: int, warmup: int, decay: float) -> None:
    """Linear warm-up, constant, linear fall to zero over the last fraction `decay` of the steps."""
    factor = min(1.0, (step + 1) / max(min(warmup, steps // 4), 1), (steps - step) / max(decay * steps, 1))
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def save_every(path: Path, recipe, step: int, steps: int, **parts) -> None:
    if step % recipe.save_every and step != steps:
        return
    state = {name: part if isinstance(part, dict) else part.state_dict() for name, part in parts.items()}
    write_file(path, lambda aside: torch.save({"step": step, **state}, aside))


def resume(path: Path, recipe, **parts) -> int:
    """Load a checkpoint into `parts` and return the number of steps done; 0 where there is none."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=recipe.device, weights_only=True)
        for name, part in parts.items():
            if isinstance(part, dict):
                part.update(state[name])
            else:
                part.load_state_dict(state[name])
        return state["step"]
    except Exception as error:                  # damaged, or of networks of another size
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"cannot go on from the checkpoint {path}: {reason}. Delete it to start over.") from error


def same_recipe(told: dict, recipe, names: Iterable[str], what) -> None:
    """ValueError where `what` was trained by another recipe than this one, as far as `told` has these of its settings."""
    for name in names:
        asked = json.loads(json.dumps(getattr(recipe, name)))
        if name in told and told[name] != asked:
            raise ValueError(f"{what} was trained with {name} {told[name]}, not {asked}: choose another run, or delete it")


def part_of(recipe, part: str) -> Path:
    """The folder of a part of the pipeline that a training starts from. ValueError where it is not there."""
    folder = Path(recipe.start_from) / part
    if not folder.is_dir():
        raise ValueError(f"start_from is {recipe.start_from!r}, which has no {part}: pass a pipeline's folder in diffusers' layout, such "
                         "as data/puppet-diffusion")
    return folder


def trained_weights(done: Path, unfinished: Path, training: str) -> dict[str, Tensor]:
    """The averaged weights that a finished training left, or those of an unfinished one's checkpoint. ValueError where there
    are none, or none that can be read."""
    if done.exists():
        return read_tensors(done)[0]
    if not unfinished.exists():
        raise ValueError(f"no trained weights under {done.parent}: run {training} first")
    try:
        return torch.load(unfinished, weights_only=True, map_location="cpu")["average"]
    except Exception as error:                  # pickle, zip and torch each raise their own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"cannot read the checkpoint {unfinished}: {reason}. Delete it and run {training} again.") from error


def write_pipeline(recipe, folder, build: Callable, portable: Callable[[Path], None], parts: Iterable[str]) -> Path:
    """Write the pipeline that `build(recipe)` makes as a diffusers folder with fp16 safetensors and its recipe; whole or not at
    all. `portable` is called with the new folder before it takes its place, `parts` are the names that may be replaced.

    In a folder of such a pipeline its card survives. ValueError, and nothing is written, where anything else is in the way.
    """
    refuse_others(folder, (*parts, *CARD))
    pipe = build(recipe)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            nn.Module.half(part)                # the libraries' own `to` warns about parts that are not there

    def fill(aside: Path) -> None:
        pipe.save_pretrained(aside, safe_serialization=True)
        portable(aside)
        write_json(aside / "recipe.json", asdict(recipe) | {
            "run": Path(recipe.run).name, "start_from": Path(recipe.start_from).name})
    return replace_folder(folder, fill, parts, CARD)


# ---- an autoencoder beside that of a pipeline --------------------------------------------------------------------------

def name_of(vae) -> str:
    """A name for the weights of an autoencoder: a checksum of its decoder's last weights, as half-precision files hold them."""
    *_, weight, bias = (value.detach().half().cpu().numpy().tobytes() for value in vae.decoder.parameters())
    return f"{zlib.crc32(weight + bias):08x}"


def load_beside(kind: type, pipe, folder: str | Path, command: str):
    """The autoencoder, of this class of diffusers, of a folder, float32, on the pipeline's device; None where there is no such folder,
    or its recipe names another autoencoder than this pipeline's. ValueError where it is damaged: `command` makes it."""
    place = Path(folder)
    if not place.is_dir() or getattr(pipe, "vae", None) is None:
        return None
    try:
        if read_json(place / "recipe.json")["autoencoder"] != name_of(pipe.vae):
            return None
        weights, _ = read_tensors(place / "diffusion_pytorch_model.safetensors")
        with torch.device("meta"):                      # draws no random numbers
            vae = kind.from_config(read_json(place / "config.json"))
        check_weights(weights, vae.state_dict(), place)
        vae.to_empty(device="cpu").load_state_dict(weights)
    except Exception as error:                          # diffusers, json and torch each raise their own
        raise ValueError(f"{place} is damaged ({error!r}): fetch it again, make it again with `{command}`, or delete it to do without") from error
    return vae.eval().requires_grad_(False).to(pipe.vae.device, memory_format=torch.channels_last)


def write_beside(vae, folder, told: dict, card: str, idle: Iterable[str] = ()) -> Path:
    """Write an autoencoder with its recipe and card, whole or not at all, without the entries `idle` of its config."""
    def fill(aside: Path) -> None:
        vae.save_pretrained(aside)
        config, weights = read_json(aside / "config.json"), aside / "diffusion_pytorch_model.safetensors"
        write_json(aside / "config.json", {name: value for name, value in config.items() if name not in ("_name_or_path", *idle)})
        write_tensors(weights, read_tensors(weights)[0], {"format": "pt"})
        write_json(aside / "recipe.json", told)
        write_file(aside / "README.md", card)
    return replace_folder(folder, fill, BESIDE)


# ---- commands ----------------------------------------------------------------------------------------------------------

def add_options(parser, recipe: type, without: Iterable[str] = ()) -> None:
    """An option for each number of a recipe, but for those `without`; a truth value is a switch."""
    for field in fields(recipe):
        if field.name not in without:
            kind = {"action": "store_true"} if field.type == "Truth" else {"type": type(field.default), "default": field.default}
            parser.add_argument("--" + field.name.replace("_", "-"), **kind)


def print_progress(states: Iterable[TrainingState], every: str = "") -> None:
    """Run a training to its end: a line for each fiftieth step and the last one, and for every step of the stage `every`."""
    for state in states:
        if state.step % 50 == 0 or state.step == state.steps or state.stage == every:
            print(f"{state.stage} {state.step}/{state.steps}  loss {state.loss:.3f}  {state.seconds:.0f} s", flush=True)
