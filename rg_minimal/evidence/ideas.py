"""Two ideas beyond the paper, which are kept only if they move the front of control against cost. (Two more, heads that cost
less, are among the `ablations`.)

    loop        closed-loop guidance: a picture's own error, as the head reads it, sets the length of each of its steps, and
                guidance ends when all are near enough
    predictor   a small network says the direction of the step from what an ordinary pass leaves behind, so that there is no
                way back through the denoiser; the step is added to the prediction, and a guided picture costs what any does
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import seeds
from .baselines import RUNS, folder_of, labelled, recipe_of
from .learn import Pace, finished, learn, leave
from .rivals import Rival, conv_block
from ..checks import Count, Fraction, Function, Index, Map, Positive, declared
from ..denoisers import denoiser
from ..files import refuse_file
from ..maps import resize
from ..pipelines import encode_prompts, load_head, load_pipeline
from ..puppets.heads import depth_objective, edge_objective, pose_objective
from ..puppets.training import TrainingState
from ..readout import Guidance, HeadConfig, Objective, normalized_step, take_readings
from ..undo import seeded

PREDICTOR = {"steps": 400, "batch": 8, "lr": 2e-3}          # of its recipe
OBJECTIVES = {"pose": pose_objective, "depth": depth_objective, "edges": edge_objective}


# ---------------------------------------------------------------------------------------------- closed loop

@dataclass(kw_only=True, eq=False)
class ClosedLoop(Objective):
    """Another objective, `inner`, whose error says how far each picture is moved: `rule` is the step rule that goes with it.

    The error is the root of the loss, as a part of the largest that this picture has had; at `goal` a picture is not moved any
    more, and when all are there, or below, no further step is guided. Use one for one sampling.
    """
    inner: Function                     # an `Objective`
    goal: Fraction = 0.2

    def __post_init__(self):
        super().__post_init__()
        if self.goal == 1:
            raise ValueError("goal is 1, at which nothing would be moved; pass a part of the first error below 1, such as 0.2")
        self.most = self.last = None

    def __call__(self, reading) -> Tensor:
        losses = self.inner(reading)
        self.last = losses.detach().sqrt()
        self.most = self.last if self.most is None else torch.maximum(self.most, self.last)
        return losses

    @property
    def factor(self) -> Tensor:
        """(B,) in [0, 1]: how much of the error between the largest one and the goal is left."""
        return ((self.last / self.most.clamp_min(1e-12) - self.goal) / (1 - self.goal)).clamp(0, 1)

    def strength(self, step: int, steps: int) -> float:
        done = self.last is not None and not (self.factor > 0).any()
        return 0.0 if done else super().strength(step, steps)

    def rule(self, gradients, mask=None) -> Tensor:
        """`readout.normalized_step`, times the factor of each picture."""
        return normalized_step(gradients, mask) * self.factor.to(gradients[-1])[:, None, None, None]

    def check(self, pipe, batch: int, image_size: tuple[int, int]) -> None:
        self.inner.check(pipe, batch, image_size)


# ---------------------------------------------------------------------------------------------- a predictor of directions

class Predictor(Rival):
    """Latents, the denoiser's prediction, a head's readout and the target, all as maps, to the direction (B, C, h, w) along
    which an objective's gradient points: a small U with GroupNorm, told the timestep."""

    def __init__(self, config: HeadConfig, width: int = 48, channels: int = 4):
        super().__init__(config)
        a, b = width, 2 * width
        self.stem = conv_block(2 * channels + 2 * config.out_channels, a)                           # 32 x 32
        self.down = nn.ModuleList([conv_block(a, b, 2), conv_block(b, b, 2)])                       # 16, 8
        self.told = nn.Linear(config.embedding_channels, b)
        self.up = nn.ModuleList([conv_block(b + b, b), conv_block(b + a, a)])                       # 16, 32
        self.last = nn.Conv2d(a, channels, 3, padding=1)

    def forward(self, latents, output, readout, target, emb) -> Tensor:
        fine = self.stem(torch.cat((latents, output, readout, readout - target), 1).float())
        middle = self.down[0](fine)
        coarse = self.down[1](middle) + self.told(emb.float())[:, :, None, None]
        larger = lambda each, like: F.interpolate(each, size=like.shape[-2:])
        middle = self.up[0](torch.cat((larger(coarse, middle), middle), 1))
        return self.last(self.up[1](torch.cat((larger(middle, fine), fine), 1)))


@dataclass(kw_only=True, eq=False)
class PredictedDirection(Objective):
    """Its gradient is what `predictor` says; its value means nothing. `target` (B or 1, k, h, w) is what the readout of `head` is to
    be."""
    predictor: Function
    target: Map

    def __call__(self, reading) -> Tensor:
        with torch.no_grad():
            away = direction(self.predictor, reading, self.head, self.target)
        return (reading.latents * away.to(reading.latents)).flatten(1).sum(1)                       # (B,)


def direction(predictor: Predictor, reading, head, target: Tensor) -> Tensor:
    """What the predictor says of a reading, (B, C, h, w)."""
    readout = reading(head)
    emb = reading.model.embed(reading.timestep, reading.latents.device)
    wanted = resize(target.to(readout), readout.shape[-2:], "nearest").expand_as(readout)
    return predictor(reading.latents, reading.output, readout, wanted, emb.expand(len(readout), -1))


@declared
def train_predictor(task: Literal[tuple(OBJECTIVES)], labels: Count, seed: Index = 0, runs=RUNS, pipe=None,
                    steps: Count = PREDICTOR["steps"], batch: Count = PREDICTOR["batch"], lr: Positive = PREDICTOR["lr"]) -> Iterator[TrainingState]:
    """Teach a predictor the gradients of the head that was trained on these labels (it has to be there); goes on where it
    stopped.

    A labelled picture is noised to a timestep of the noisier half, the target is another picture's, and the loss is 1 - the
    cosine of the predicted direction and the true gradient.
    """
    folder, learned = (folder_of(name, task, labels, seed, runs) for name in ("predictor", "head"))
    recipe = recipe_of(task, labels, seed, steps=steps, batch=batch, lr=lr)
    if finished(folder, recipe):
        return
    if not (learned / "training.json").exists():
        raise ValueError(f"{learned} holds no finished head to learn from; train it first: python -m rg_minimal.evidence train {task} "
                         f"--kinds head --labels {labels} --seeds {seed}")
    refuse_file(folder)
    pipe = load_pipeline() if pipe is None else pipe
    model = denoiser(pipe)
    head = load_head(str(learned), pipe).requires_grad_(False)
    known = labelled(pipe, seeds.training_scenes(seed, labels), labels, Path(runs) / "pictures")
    truth, captions = known.truth(task)[0] if task == "pose" else getattr(known, task).float() / 255, known.captions()
    with seeded(2000 + seed):
        network = Predictor(head.config, channels=model.latent_channels).to(model.device)

    def loss_of(rng):
        here, there = torch.randint(len(known), (2, batch), generator=rng)
        timestep = int(torch.randint(400, 1000, (), generator=rng))
        noise = torch.randn(known.latents[here].shape, generator=rng)
        reading, gradient, target = _true_gradient(pipe, head, task, known.latents[here], noise, timestep, truth[there],
                                                   [captions[i] for i in here.tolist()])
        return 1 - F.cosine_similarity(direction(network, reading, head, target).flatten(1), gradient.flatten(1), dim=1).mean()
    pace = Pace(seed + 177, steps, lr, 20, 0.5, 50, model.device.type, recipe=recipe)
    spent = yield from learn(f"predictor {task} {labels}", folder, pace, network, loss_of)
    leave(network, folder, {"recipe": recipe, "device": model.device.type, "training_seconds": round(spent["seconds"], 1)})
    (folder / "training.pt").unlink(missing_ok=True)


def _true_gradient(pipe, head, task, clean, noise, timestep, truth, captions):
    """The reading of noisy latents, the gradient of the objective there (B, C, h, w), and the objective's target; nothing keeps a
    gradient."""
    model, objective = denoiser(pipe), OBJECTIVES[task](head, truth)
    there = [each.to(model.device) for each in (clean, noise)]
    noisy, found = model.add_noise(*there, torch.full((len(clean),), timestep, device=model.device)), []
    conditioning = encode_prompts(pipe, captions)

    def read(latents):
        found.extend(take_readings(model, latents, timestep, conditioning))
        return found
    with model.frozen():
        gradient, _, _ = Guidance([objective]).gradient(read, noisy, [1.0])
    reading = found[0]
    plain = replace(reading, features=[each.detach() for each in reading.features], latents=reading.latents.detach(),
                    output=reading.output.detach(), _readouts={})
    return plain, gradient, objective.target
