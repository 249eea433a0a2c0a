"""The authors' implementation as settings of ours: its files, its update rule, its sampling of points, its weighting.

    states = guided_sample(pipe, prompt, objectives, **SETTINGS)

`tests/test_parity.py` compares features, readouts, losses and whole sampling runs with recordings of it.
Source: the repository `readout_guidance` of Luo et al., arXiv 2312.02150.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import SomeName, declared
from .readout import HeadConfig, Objective, Reading
from .saving import ReadoutHead


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
    """A head that embeds the step index 999 - t instead of t, as the authors' training does (their guidance does not)."""

    @torch.no_grad()
    def embed(self, reading: Reading) -> Tensor:
        return reading.model.embed(999 - reading.timestep, reading.latents.device).to(self.mixing_weights)


@declared
def load_reference_head(path: SomeName, timestep_convention: Literal["timestep", "step_index"] = "timestep") -> ReadoutHead:
    """Load a `*.pt` file in the layout of the authors' released heads (nothing in the file is executed).

    The released heads were trained on the embedding of the *step index* 999 - t, but the authors' guidance gives them
    that of t. 'timestep' does as their guidance does, 'step_index' as their training did.
    Raises ValueError for another file, and for another convention.
    """
    kinds = {"timestep": ReadoutHead, "step_index": MirroredHead}
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
    return kinds[timestep_convention].from_tensors(config, tensors, path)
