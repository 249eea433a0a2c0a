"""Two rivals that need no network beside the model: a detector of pictures, and the raw features of one layer.

Both read what a head reads, in a head's own terms, so every objective takes them in a head's place:

    detector    training-free guidance (Universal Guidance, FreeDoM): the gradient goes from the predicted clean
                    picture, through the autoencoder, into a detector that was trained on pictures. It is not the judge:
                    other scenes, another architecture.
    linear      one 1 x 1 convolution of one decoder layer, standardised over the picture: what the raw features hold
                    without a head. All layers are trained at once, each with a readout of its own, and the one that
                    reads other pictures best is kept.
"""
from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import seeds
from .baselines import CHECKED, RUNS, folder_of, labelled, recipe_of, train_readout
from .learn import Pace, finished, learn, leave
from ..checks import SomeName, declared
from ..denoisers import clean_and_noise, denoiser
from ..files import read_weights, refuse_file, write_json, write_weights
from ..maps import resize
from ..pipelines import decode, load_pipeline, read_picture
from ..puppets.heads import TASKS, get_task, new_head
from ..puppets.judge import degrade
from ..puppets.training import TrainingState
from ..readout import HeadConfig
from ..undo import seeded

LINEAR, DETECTOR = {"lr": 4e-3}, {"steps": 1000, "batch": 16, "lr": 2e-3}          # of their recipes


class Rival(nn.Module):
    """What objectives need of a head, and how it is kept."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = config

    def check(self, pipe) -> None:
        denoiser(pipe).check_head(self.config)

    @declared
    def save_pretrained(self, folder: SomeName) -> None:
        write_weights(Path(folder) / "head.safetensors", {name: value.contiguous() for name,
                                                          value in self.state_dict().items()},
                      {"kind": type(self).__name__, **asdict(self.config)})


# ---------------------------------------------------------------------------------------------- raw features

class LinearHead(Rival):
    """Readouts (B, k, h, w) of `config.extra["layer"]`, or, before one is chosen, of all layers, (B, layers * k, h,
    w)."""

    def __init__(self, config: HeadConfig):
        super().__init__(config)
        self.linear = nn.ModuleList(nn.Conv2d(channels, config.out_channels, 1) for channels in config.layer_channels)

    def read(self, reading, use_timestep: bool = True) -> Tensor:
        layer = self.config.extra.get("layer")
        size = tuple(reading.latents.shape[-2:])
        return torch.cat([resize(linear(F.group_norm(reading.features[i].float(), 1)), size) for i,
                          linear in enumerate(self.linear)
                          if layer in (None, i)], 1)


def train_linear(task: str, labels: int, seed: int = 0, runs=RUNS, pipe=None, **changes) -> Iterator[TrainingState]:
    """As `train_readout`; which layer is best is decided on other labelled pictures, which nobody learned from."""
    pipe = load_pipeline() if pipe is None else pipe
    own = TASKS[task]
    config = replace(new_head(pipe, task).config, extra=dict(own.extra), activation="none")
    with seeded(seed):
        head = LinearHead(config).to(denoiser(pipe).device)
    layers = len(head.linear)
    loss = lambda readout, *truth: sum(own.loss(part, *truth) for part in readout.chunk(layers, 1))

    def keep(trained, folder, told):                    # the layer is a part of the training: without one it has not ended
        layer = best_layer(pipe, own, trained, labelled(pipe, seeds.CHECK.first, CHECKED, Path(runs) / "pictures"))
        trained.config.extra["layer"] = layer
        trained.save_pretrained(folder)
        used = sum(each.numel() for each in trained.linear[layer].parameters())
        write_json(folder / "training.json", told | {"parameters": used, "layer": layer})
    yield from train_readout(replace(own, loss=loss), labels, seed, runs, pipe, head, "linear", keep, **{**LINEAR, **changes})


@torch.no_grad()
def best_layer(pipe, task, head: LinearHead, others, timesteps=(100, 300, 500, 700)) -> int:
    """The layer whose readout has the smallest loss on these labelled pictures, over several timesteps."""
    truth, total = others.truth(task.name), torch.zeros(len(head.linear))
    for timestep in timesteps:
        reading = read_picture(pipe, None, timestep, generator=torch.Generator().manual_seed(timestep),
                               latents=others.latents)
        parts = reading(head).cpu().chunk(len(head.linear), 1)
        total += torch.stack([get_task(task.name).loss(part, *truth) for part in parts])
    return int(total.argmin())


# ---------------------------------------------------------------------------------------------- a detector of pictures

class Detector(Rival):
    """Pictures (B, 3, 128, 128) in [0, 1] to what a head of the task reads, (B, k, 32, 32): a plain U of GroupNorm and
    SiLU, no batch statistics, no attention, no heads of attributes."""

    def __init__(self, config: HeadConfig, width: int = 32):
        super().__init__(config)
        a, b, c = width, 2 * width, 3 * width
        self.stem = conv_block(12, a)                                                                   # 64 x 64
        self.down = nn.ModuleList([conv_block(a, b, 2), conv_block(b, c, 2), conv_block(c, c, 2)])              # 32, 16, 8
        self.up = nn.ModuleList([conv_block(c + c, c), conv_block(c + b, b)])                               # 16, 32
        self.last = nn.Conv2d(b, config.out_channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(pictures * 2 - 1, 2))
        fine = self.down[0](x)
        middle = self.down[1](fine)
        coarse = self.down[2](middle)
        middle = self.up[0](torch.cat((F.interpolate(coarse, scale_factor=2.0), middle), 1))
        fine = self.up[1](torch.cat((F.interpolate(middle, scale_factor=2.0), fine), 1))
        read = self.last(fine)
        return read.tanh() if self.config.activation == "tanh" else read

    def read(self, reading, use_timestep: bool = True) -> Tensor:
        """What the detector sees in the clean picture that this pass predicts, with gradient to the latents."""
        pipe = reading.model.pipe
        clean, _ = clean_and_noise(pipe.scheduler, reading.output, reading.latents, reading.timestep)
        pictures = pipe.vae.decode(clean / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        return self(pictures.clamp(0, 1))


def conv_block(old: int, new: int, stride: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions with GroupNorm and SiLU, the first of which takes every `stride`-th place."""
    layers = []
    for channels, step in ((old, stride), (new, 1)):
        layers += [nn.Conv2d(channels, new, 3, step, 1), nn.GroupNorm(8, new), nn.SiLU()]
    return nn.Sequential(*layers)


def train_detector(task: str, labels: int, seed: int = 0, runs=RUNS, pipe=None, steps: int = DETECTOR["steps"],
                   batch: int = DETECTOR["batch"], lr: float = DETECTOR["lr"], every: int = 100) -> Iterator[TrainingState]:
    """Train a detector on the very pictures that the others of this seed learn from, as the autoencoder gives them
    back, with slight changes of colour and sharpness; goes on where it stopped. The best of its checks on other
    pictures is kept."""
    own, folder = TASKS[task], folder_of("detector", task, labels, seed, runs)
    recipe = recipe_of(task, labels, seed, steps=steps, batch=batch, lr=lr)
    if finished(folder, recipe):
        return
    refuse_file(folder)
    pipe = load_pipeline() if pipe is None else pipe
    known, others = (labelled(pipe, first, count, Path(runs) / "pictures") for first, count in
                     ((seeds.training_scenes(seed, labels), labels), (seeds.CHECK.first, CHECKED)))
    pictures, unseen = (_bytes(pipe, each.latents) for each in (known, others))
    truth, told = known.truth(task), others.truth(task)
    with seeded(1000 + seed):
        detector = Detector(replace(new_head(pipe, task).config, extra=dict(own.extra))).to(denoiser(pipe).device)
    device = denoiser(pipe).device

    def loss_of(rng):
        index = torch.randint(len(known), (batch,), generator=rng)
        shown = degrade(pictures[index].float() / 255, rng).to(device)
        return own.loss(detector(shown), *(each[index].to(device) for each in truth))

    @torch.no_grad()
    def check(network) -> float:
        seen = torch.cat([network(part.to(device).float() / 255).cpu() for part in unseen.split(16)])
        return float(own.loss(seen, *told))
    pace = Pace(seed + 77, steps, lr, 50, 0.5, every, device.type, recipe=recipe)
    best = yield from learn(f"detector {task} {labels}", folder, pace, detector, loss_of, check)
    leave(detector, folder, {"recipe": recipe, "device": device.type, "best_step": best["step"], "check_loss": best["loss"],
                             "training_seconds": round(best["seconds"], 1)})
    (folder / "training.pt").unlink(missing_ok=True)


def _bytes(pipe, latents: Tensor) -> Tensor:
    return torch.cat([(decode(pipe, part) * 255).round().to(torch.uint8).cpu() for part in latents.split(8)])


@declared
def load_rival(folder: SomeName) -> Rival:
    """The linear readout, detector or other `Rival` in a folder, frozen. ValueError where there is none."""
    file = Path(folder) / "head.safetensors"
    if not file.exists():
        raise ValueError(f"{folder} holds no trained readout; train it with python -m rg_minimal.evidence train")
    (weights, config), known = read_weights(file), {kind.__name__: kind for kind in Rival.__subclasses__()}
    if config.get("kind") not in known:
        raise ValueError(f"{folder} holds none of {', '.join(known)}: pass the folder of such a one; a head is loaded by rg_minimal.load_head")
    made = known[config.pop("kind")](HeadConfig(**config))
    if isinstance(made, LinearHead) and "layer" not in made.config.extra:
        raise ValueError(f"{folder} holds raw layers of which none was chosen: delete it, and train again with python -m rg_minimal.evidence train")
    made.load_state_dict(weights)
    return made.eval().requires_grad_(False)
