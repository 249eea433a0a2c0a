"""The authors' implementation as settings of ours: its files, its update rule, its sampling of points, its weighting.

    states = guided_sample(pipe, prompt, objectives, **SETTINGS)

`tests/test_parity.py` compares features, readouts, losses and whole sampling runs with recordings of it.
Source: the repository `readout_guidance` of Luo et al., arXiv 2312.02150.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import hub
from .checks import Function, Seed, SomeName, Truth, Words, as_whole, declared
from .denoisers import denoiser
from .pipelines import read_picture
from .readout import HeadConfig, Objective, Reading, spatial_loss
from .saving import ReadoutHead, members


def adam_step(gradients, mask=None) -> Tensor:
    """Adam, started anew at each timestep: its first step is the sign of the gradient."""
    count = len(gradients)
    mean = sum(g * 0.1 * 0.9 ** (count - 1 - i) for i, g in enumerate(gradients)) / (1 - 0.9 ** count)
    square = sum(g ** 2 * 0.001 * 0.999 ** (count - 1 - i) for i, g in enumerate(gradients)) / (1 - 0.999 ** count)
    return mean / (square.sqrt() + 1e-8)


SETTINGS: dict[str, Any] = dict(step_rule=adam_step, step_size=2e-2, gradient_branch="both")


def nearest(points, cells, image_size) -> Tensor:
    """Points (..., N, 2) in pixels -> (..., N, h*w): 1 at the cell that a point lies in. Stands for `readout.bilinear`."""
    def along(coordinate, count, length):                                               # (..., N) -> (..., N, count)
        return F.one_hot((coordinate * count / length).floor().long().clamp(0, count - 1), count).to(points)
    across, down = along(points[..., 0], cells[1], image_size[1]), along(points[..., 1], cells[0], image_size[0])
    return (down[..., :, None] * across[..., None, :]).flatten(-2)                      # (..., N, h*w)


@dataclass(kw_only=True, eq=False)
class ScaledByLatents(Objective):
    """An objective times the squared range of the latents, the source's included: they compare both rescaled to that range."""
    objective: Objective
    head: Any = None

    def __post_init__(self):
        inner = self.objective
        self.head, self.weight, self.start, self.stop, self.schedule, self.use_timestep = (
            inner.head, inner.weight, inner.start, inner.stop, inner.schedule, inner.use_timestep)
        super().__post_init__()

    def check(self, pipe, batch, image_size):
        self.objective.check(pipe, batch, image_size)

    def __call__(self, reading: Reading) -> Tensor:
        latents = [reading.latents]
        if hasattr(self.objective, "source"):
            latents.append(self.objective.source.latents_at(reading.timestep).to(reading.latents))
        return self.objective(reading) * squared_range(*latents)


def squared_range(*latents) -> Tensor:
    """(max - min) squared of each picture's latents (B or 1, C, H, W), taken together: (B,)."""
    highest = torch.stack(torch.broadcast_tensors(*(each.detach().amax((1, 2, 3)) for each in latents))).amax(0)
    lowest = torch.stack(torch.broadcast_tensors(*(each.detach().amin((1, 2, 3)) for each in latents))).amin(0)
    return (highest - lowest) ** 2


class MirroredHead(ReadoutHead):
    """A head that embeds the step index 999 - t instead of t, as the authors' training does (their guidance does not). Its config's
    `extra` says so, and a head that was saved and loaded goes by that."""

    def __init__(self, config: HeadConfig):
        super().__init__(replace(config, extra={**config.extra, "timestep_convention": "step_index"}))


CONVENTIONS = {"timestep": ReadoutHead, "step_index": MirroredHead}
REPOSITORY = "g-luo/readout-guidance"                       # on the hub; the files lie in its folder `weights`
RELEASED = tuple(f"readout_{model}_{what}" for model in ("sdv15", "sdxl") for what in (
    "spatial_pose", "spatial_depth", "spatial_edge", "drag_correspondence", "drag_appearance"))


def released_file(name: str, repo_id: str | None, revision: str | None, local_files_only: bool) -> Path:
    """A released head by its name, or a file of another repository. ValueError where it is not there.

    What the hub is asked for is pinned: `revision` is a commit (40 digits), which the repository's history shows, so that another
    file never takes its place in silence.
    """
    file = name if repo_id else f"weights/{Path(name).stem}.pt"
    repo_id = repo_id or REPOSITORY
    if not local_files_only and not (revision and hub.COMMIT.fullmatch(revision)):
        raise ValueError(f"revision is {revision!r}; to fetch {file} of {repo_id} from the hub pass the commit that "
                         "you mean, 40 digits and letters from a to f, as "
                         f"https://huggingface.co/{repo_id}/commits/main lists them")
    found = hub.fetch(repo_id, file, revision, local_files_only)
    if found is None:
        raise ValueError(f"there is no file {name}, and the hub's cache has no {file} of "
                         f"{repo_id}{f' at {revision}' if revision else ''}; pass the path of the file, "
                         "or fetch it: local_files_only=False, revision=the commit")
    return found


@declared
def load_reference_head(path: SomeName, timestep_convention: Literal["timestep", "step_index"] = "timestep", *,
                        revision: Words | None = None, repo_id: Words | None = None,
                        local_files_only: Truth = True) -> ReadoutHead:
    """Load a `*.pt` file in the layout of the authors' released heads (nothing in the file is executed).

    `path` is a file, or one of `RELEASED`, such as "readout_sdv15_spatial_pose", which lies in the hub's cache, or is fetched
    (`local_files_only=False`, and `revision` the commit). With `repo_id` it is a file's name in that repository.

    The released heads were trained on the embedding of the *step index* 999 - t, but the authors' guidance gives them
    that of t. 'timestep' does as their guidance does, 'step_index' as their training did.
    `best_convention` says which one a head reads best with. Raises ValueError for another file, and for
    another convention.
    """
    asked = repo_id or not Path(path).exists() and Path(path).name.removesuffix(".pt") in RELEASED
    if asked:
        path = released_file(str(path), repo_id, revision, local_files_only)
    elif revision or not local_files_only:
        raise ValueError(f"{path} is {'a file' if Path(path).exists() else 'none of the released heads'}, so neither "
                         "revision nor the hub is asked; leave them "
                         f"out, or pass one of {', '.join(RELEASED)}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        old, tensors = saved["config"], saved["aggregation_network"]
        options = old.get("aggregation_kwargs", {})
        sequential = options.get("bottleneck_sequential", True)
        if sequential:                          # bottleneck_layers.N.0.conv1.weight; such a head ignores the embedding
            tensors = {name.replace(".0.", ".", 1) if name.startswith("bottleneck") else name: tensor
                       for name, tensor in tensors.items() if ".emb_layers." not in name}
        config = HeadConfig(
            layer_channels=old["dims"], width=old["projection_dim"], use_timestep=not sequential,
            embedding_channels=1280 if sequential else tensors["bottleneck_layers.0.emb_layers.weight"].shape[1],
            out_channels=options.get("output_head_channels", 3) if options.get("use_output_head", False) else 0,
            activation="tanh" if options.get("output_head_act", True) else "none", base_model=old.get("model_id", ""))
    except Exception as error:                  # pickle, zip, torch, and what else the file makes of it
        raise ValueError(f"{path} is not a head in the reference's layout ({error})") from error
    return CONVENTIONS[timestep_convention].from_tensors(config, tensors, path)


@dataclass
class Convention:
    """What `best_convention` found: the better one, and each one's mean loss."""
    best: str
    losses: dict[str, float]


@declared
@torch.no_grad()
def best_convention(head: ReadoutHead, pipe, pictures, *labels, loss: Function = spatial_loss,
                    timesteps=(20, 100, 250, 750, 900, 980), seed: Seed = 0) -> Convention:
    """Which convention a head reads best with, 'timestep' or 'step_index', by its own loss on a few labelled pictures.

    Args:
        pictures: whatever `as_pictures` takes; a tuple of them for a head that compares pictures.
        labels, loss: as a batch of `train_head` has them, loss(*readouts, *labels).
        timesteps: at which the pictures are read, with the same noise for both; near 500 the two are alike.
    ValueError for a head that ignores the timestep, which reads alike with both.
    """
    if not head.config.use_timestep:
        raise ValueError("this head ignores the timestep (use_timestep is False), so it reads alike with both "
                         "conventions; load it with either")
    head.check(pipe)
    timesteps = [as_whole(each) for each in timesteps]
    if not timesteps:
        raise ValueError("timesteps are none; pass whole numbers at which the pictures are read, such as (20, 250, 750)")
    plain, losses = replace(head.config, extra={name: told for name, told in head.config.extra.items() if name != "timestep_convention"}), {}
    for name, kind in CONVENTIONS.items():
        reader = kind.from_tensors(plain, head.state_dict(), "this head").to(denoiser(pipe).device)
        values = []
        for timestep in timesteps:
            rng = torch.Generator().manual_seed(seed + timestep)
            readouts = [read_picture(pipe, each, timestep, generator=rng)(reader) for each in members(pictures)]
            there = [each.to(readouts[0].device) if torch.is_tensor(each) else each for each in labels]
            values.append(float(loss(*readouts, *there)))
        losses[name] = sum(values) / len(values)
    return Convention(min(losses, key=losses.get), losses)
