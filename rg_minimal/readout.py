"""Readout Guidance in one module: read a property off a diffusion model's features, then steer the picture with it.

The method is that of Luo, Darrell, Wang, Goldman and Holynski, "Readout Guidance: Learning Control from Diffusion
Features", CVPR 2024, arXiv 2312.02150. Read from top to bottom: features (we listen to the layers of a frozen denoiser), a
head (a small network that turns them into a readout: a pose, a depth map, a descriptor), losses, training, objectives (the
distance between a readout and what the user wants), guidance (the step that their gradient gives), sampling, inversion.

Axes are (B, C, H, W): B pictures, C channels, H rows, W columns. Points are (x, y) in pixels of the image, the centre of
the top-left pixel is (0.5, 0.5). Pictures lie in [0, 1]. A timestep t runs from 0 (clean) to 999 (noise).
`denoisers.py` has what differs between models, `checks.py` what may come in, `pipelines.py` the doors, which take
pipelines, prompts and pictures, `reference.py` the authors' own settings.
"""
import functools
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import (Aims, AnyHead, Area, Boxes, Count, Counts, Declared, Entries, Fraction, Function, Index, Map, Mask, NonNegative,
                     Number, Points, Positive, RelativeHead, Shares, Sides, SpatialHead, Text, Truth, Two, check_fit, check_pairs,
                     check_target, declared, factor, finite, label_like, like_gradient, matches, movable, of_each, same_shapes, weight_like)
from .denoisers import Conditioning, Denoiser, clean_and_noise, denoiser, draw, seen_by, takes_moves
from .maps import bilinear, crop, masked_mean, pool_features, resize
from .undo import undone

# ---- 1  Features: listening to a frozen denoiser ---------------------------------------------------------------------
@contextmanager
def collect_features(model: Denoiser, latents: Tensor):
    """Collect hidden states: `with collect_features(model, latents) as features:` run the denoiser on latents (B, C, h, w).
    `features` is a list with one (B, C_l, H_l, W_l) tensor for each layer, refilled by every forward pass (paper, section
    3.1). Forward hooks do the collecting, so nothing is patched; they hear this thread alone, and are always removed."""
    features, thread, hooks = [None] * len(model.layers), threading.get_ident(), []

    def listen(layer):
        def hook(module, inputs, output):
            if threading.get_ident() == thread:
                features[layer] = model.feature_map(output, latents)
        return hook
    with undone(lambda: [hook.remove() for hook in hooks]):
        for layer, module in enumerate(model.layers):
            hooks.append(module.register_forward_hook(listen(layer)))
        yield features

@dataclass(eq=False)
class Reading:
    """What one forward pass left behind, ready for any number of heads, each of which runs once: `reading(head)`."""
    model: Denoiser
    features: list[Tensor]          # one (B, C_l, H_l, W_l) a layer
    latents: Tensor                 # (B, C, h, w), what the denoiser saw
    timestep: Any                   # a number, or (B,) of them
    branch: str = "conditional"     # or 'negative': which prompt the denoiser read
    output: Tensor | None = None    # (B, C, h, w), what it predicted
    _readouts: dict = field(default_factory=dict, repr=False)

    def __call__(self, head: "Head", use_timestep: bool = True) -> Tensor:                      # (B, k, h, w)
        key = id(head), use_timestep, torch.is_grad_enabled()           # without gradient a readout is no use with it
        versions = [(each.dtype, 0 if each.is_inference() else each._version) for each in getattr(head, "parameters", tuple)()]
        known = self._readouts.get(key)
        if known is None or known[1:] != (versions, head):              # a head that has learned since reads anew
            known = self._readouts[key] = head.read(self, use_timestep), versions, head     # kept, or another could get its id
        return known[0]

def run(model, latents, timestep, conditioning: Conditioning, branches, guidance_scale=None) -> list[Tensor]:
    """One forward pass: a prediction (B, C, h, w) for each of `branches`, 'conditional' or 'negative'."""
    embeds, added = conditioning.rows(branches, len(latents))
    several = torch.cat([latents] * len(branches))                                      # (branches * B, C, h, w)
    if conditioning.control is not None:
        added = {**added, **conditioning.control(several, timestep, embeds, added)}
    return list(model(several, timestep, embeds, added, guidance_scale).chunk(len(branches)))

def take_readings(pipe, latents, timestep, conditioning, branches=("conditional",), guidance_scale=None) -> list[Reading]:
    """Run the denoiser once on noisy latents (B, C, h, w) and return a `Reading` for each branch."""
    model = denoiser(pipe)
    with collect_features(model, latents) as features:
        outputs = run(model, latents, timestep, conditioning, branches, guidance_scale)
    chunks = zip(*(feature.chunk(len(branches)) for feature in features))
    return [Reading(model, list(chunk), latents, timestep, *each) for chunk, *each in zip(chunks, branches, outputs)]

# ---- 2  Head: from features to a readout -----------------------------------------------------------------------------
@dataclass
class HeadConfig(Declared):
    """Everything needed to rebuild a head. `HeadConfig.for_model(pipe, out_channels=14)` fills in the model's part."""
    layer_channels: Counts                      # C_l of each layer, in order
    embedding_channels: Count = 1280            # E of the denoiser's timestep embedding
    width: Count = 384                          # channels all layers are projected to (384 in the paper)
    out_channels: Index = 0                     # k of a spatial head; 0 is a relative head: its `width` features
    hidden_channels: Two = (128, 32)            # of the output head
    activation: Literal["tanh", "none"] = "tanh"    # 'tanh' for maps in a bounded range, 'none' for heatmaps and logits
    use_timestep: Truth = True                  # False ignores t
    resize_late: Truth = False                  # True runs each bottleneck at its layer's own size and resizes after:
                                                # cheaper, other numbers, so train with the setting that you use
    num_groups: Count = 32                      # of every GroupNorm
    property: Text = ""                         # what is read: 'pose', 'depth', ...
    base_model: Text = ""                       # the model it was trained on
    extra: Entries = field(default_factory=dict)   # anything else worth keeping: joint names, value range, training

    def __post_init__(self):
        super().__post_init__()
        if self.width % 4 or self.width // 4 % self.num_groups:
            raise ValueError(f"width {self.width} / 4 must be a multiple of num_groups {self.num_groups}")

    @classmethod
    def for_model(cls, pipe, *, extra=None, **settings) -> "HeadConfig":
        return cls(**denoiser(pipe).head_settings({} if extra is None else extra), **settings)

class NormedConv(nn.Conv2d):
    """A convolution without bias, then GroupNorm."""

    def __init__(self, channels_in, channels_out, kernel, num_groups):
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(num_groups, channels_out)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.norm(super().forward(x))

class Bottleneck(nn.Module):
    """Project one layer to the common width: 1x1, 3x3, 1x1 convolutions at a quarter of the width, and a shortcut."""

    def __init__(self, channels, config: HeadConfig):
        super().__init__()
        width, narrow, groups = config.width, config.width // 4, config.num_groups
        self.shortcut = NormedConv(channels, width, 1, groups) if channels != width else nn.Identity()
        self.conv1 = NormedConv(channels, narrow, 1, groups)
        self.conv2 = NormedConv(narrow, narrow, 3, groups)
        self.conv3 = NormedConv(narrow, width, 1, groups)
        self.emb_layers = nn.Linear(config.embedding_channels, narrow) if config.use_timestep else None

    def forward(self, x, emb=None):                                                     # (B, C_l, H, W), (B or 1, E)
        hidden = F.relu(self.conv1(x))                                                  # (B, width / 4, H, W)
        if emb is not None and self.emb_layers is not None:
            hidden = hidden + F.relu(self.emb_layers(emb))[:, :, None, None]
        hidden = self.conv3(F.relu(self.conv2(hidden)))                                 # (B, width, H, W)
        return F.relu(hidden + self.shortcut(x))

class Head(nn.Module):
    """Aggregate a denoiser's features and read a property off them (paper, sections 3.1 and 3.2).
    The bottlenecks' outputs are summed with softmax mixing weights, one a layer. A spatial head (`out_channels` > 0) adds
    an output head; a relative head returns the sum, to be compared between pictures by cosine similarity. Parameters are
    named as in the authors' released heads. `saving.ReadoutHead` is this and can be saved."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config, (wide, narrow) = config, config.hidden_channels
        self.mixing_weights = nn.Parameter(torch.ones(len(config.layer_channels)))
        self.bottleneck_layers = nn.ModuleList(Bottleneck(c, config) for c in config.layer_channels)
        self.output_head = nn.Sequential(
            nn.Conv2d(config.width, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, narrow, 3, padding=1), nn.SiLU(),
            nn.Conv2d(narrow, config.out_channels, 1), *([nn.Tanh()] if config.activation == "tanh" else []),
        ) if config.out_channels else nn.Identity()

    def forward(self, features, emb=None, size=None) -> Tensor:
        """Features, a list of (B, C_l, H_l, W_l), and an embedding (B or 1, E) or None -> (B, k or width, H, W), where the
        `size` (H, W) is by default that of the largest feature map."""
        size = size or max(tuple(feature.shape[-2:]) for feature in features)
        mixed = 0
        for weight, bottleneck, feature in zip(self.mixing_weights.softmax(0), self.bottleneck_layers, features):
            feature = feature if self.config.resize_late else resize(feature, size)
            mixed = mixed + weight * resize(bottleneck(feature, emb), size)             # (B, width, H, W)
        return self.output_head(mixed)

    def read(self, reading: Reading, use_timestep: bool = True) -> Tensor:
        """The readout of one `Reading`: (B, k or width, h, w) at the latent's size, in the head's own dtype."""
        emb = self.embed(reading) if use_timestep and self.config.use_timestep else None
        features = [feature.to(self.mixing_weights) for feature in reading.features]
        return self(features, emb, tuple(reading.latents.shape[-2:]))

    @torch.no_grad()
    def embed(self, reading: Reading) -> Tensor:
        """The denoiser's embedding of the reading's timestep, (1 or B, E)."""
        return reading.model.embed(reading.timestep, reading.latents.device).to(self.mixing_weights)

    def check(self, pipe) -> None:
        """Raise ValueError where this head was made for another denoiser."""
        denoiser(pipe).check_head(self.config)

# ---- 3  Losses: what a head is trained with --------------------------------------------------------------------------
@declared
def spatial_loss(readout, target, background: Number | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of a map, one number.
    `readout` is (B, k, H, W), `target` (B, k, H', W'), `weight` (B or 1, k or 1, H, W). With `background`, the target's value
    where nothing is drawn, it is the mean of the background's error and the foreground's, so that thin lines count."""
    target = resize(label_like(readout, target).to(readout), readout.shape[-2:], "nearest")
    error = (readout - target) ** 2
    if weight is not None:
        error = error * weight_like(error, weight)
    if background is None or not (empty := target == background).any() or empty.all():
        return error.mean()
    return (error[empty].mean() + error[~empty].mean()) / 2

def point_similarity(features_a, features_b, in_a) -> Tensor:
    """Cosine similarity of points in a to all cells of b: (B, C, h, w) twice, (B, N, h*w) -> (B, N, h*w)."""
    points = F.normalize(in_a.to(features_a) @ features_a.flatten(2).mT, dim=-1)                       # (B, N, C)
    return points @ F.normalize(features_b.flatten(2), dim=1)                           # (B, N, h*w)

@declared
def correspondence_loss(features_a, features_b, points_a, points_b, image_size: Sides, temperature: Positive = 0.07,
                        locate: Function = bilinear) -> Tensor:
    """Symmetric cross-entropy over cosine similarities: each point has to find its partner among all cells.
    Features are (B, C, h, w), points (B, N, 2) or (N, 2), (x, y) in pixels of a picture of `image_size` (H, W); row n of both
    shows the same spot. `locate` turns points into weights of cells."""
    cells = features_a.shape[-2:]
    in_a, in_b = (locate(points.to(features_a), cells, image_size)                      # (B or 1, N, h*w)
                  for points in matches(points_a, points_b, (features_a, features_b), image_size))

    def match(here, there, in_here, in_there):
        logits = point_similarity(here, there, in_here) / temperature                   # (B, N, h*w)
        return F.cross_entropy(logits.flatten(0, 1), in_there.expand(logits.shape).flatten(0, 1))
    return (match(features_a, features_b, in_a, in_b) + match(features_b, features_a, in_b, in_a)) / 2

@declared
def appearance_loss(anchor, positive, negative, margin: NonNegative = 0.5) -> Tensor:
    """Hinge loss on triplets (B, C, h, w): the positive is to be nearer than the negative by the margin, where the
    distance is the mean over positions of 1 - cosine similarity."""
    same_shapes(anchor=anchor, positive=positive, negative=negative)
    def distance(other):
        return 1 - F.cosine_similarity(anchor, other, dim=1).mean((-2, -1))             # (B,)
    return (margin + distance(positive) - distance(negative)).relu().mean()

# ---- 4  Training -----------------------------------------------------------------------------------------------------
@dataclass
class TrainState:
    """What training yields after each step."""
    step: int               # steps done, 1 after the first
    steps: int              # steps in all
    loss: float
    head: "Head"            # the head in training; call its save_pretrained when you are content

def training(head, optimizer, model, batches, span, loss, lr, generator, timesteps) -> Iterator[TrainState]:
    """Train a head on the features of a frozen denoiser (paper, section 4). `saving.train_head` is the door to it, and says
    what the arguments are; `batches` iterates over ((latents, ...), *labels), `span` is (first step, steps in all)."""
    told = functools.cache(lambda size: model.encode_prompt("", image_size=size))
    for step, batch in zip(range(*span), batches):
        with undone(head.eval):
            readouts, labels = read_batch(head.train(), model, batch, told(model.image_size(batch[0][0])), generator, timesteps)
            value = finite(loss(*readouts, *labels), "training loss")
            for group in optimizer.param_groups:
                group["lr"] = lr(step / span[1]) if callable(lr) else lr
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
        torch.clear_autocast_cache()        # under torch.autocast the next step would else read with this step's weights
        yield TrainState(step + 1, span[1], value.item(), head)

def read_batch(head, model, batch, conditioning, generator, timesteps) -> tuple[list, list]:
    """Noise the latents of a batch to random timesteps and read them: [(B, k, h, w), ...], [label, ...]. Pictures that are
    compared with each other share their timesteps; every picture has its own noise."""
    clean, *labels = batch
    timestep = torch.randint(*timesteps, (len(clean[0]),), generator=generator).to(clean[0].device)     # (B,)
    readouts = []
    for latents in clean:
        with torch.no_grad():
            noisy = model.add_noise(latents, draw(latents, generator), timestep)
            reading, = take_readings(model, noisy, timestep, conditioning)
        readouts.append(reading(head))
    return readouts, [each.to(readouts[0].device) if torch.is_tensor(each) else each for each in labels]

# ---- 5  Objectives: how far a readout is from what the user wants ----------------------------------------------------
@dataclass(kw_only=True, eq=False)
class Objective(Declared):
    """Something to bring about: `objective(reading)` is one number for each picture, smaller is nearer. Write your own as a
    subclass with `__call__`; `reading(self.head)` is the readout (B, k, h, w)."""
    head: AnyHead                       # a `Head`
    weight: NonNegative = 1.0           # its share in the sum of objectives; 0 turns it off
    start: Fraction = 0.0               # fraction of the steps at which it begins ...
    stop: Fraction = 0.5                # ... and ends: by default the noisier half is guided
    schedule: Function | None = None    # fraction of the steps done -> factor; with one objective it scales the step
    use_timestep: Truth = True          # False withholds the timestep embedding from the head

    def __post_init__(self):
        super().__post_init__()
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} and stop {self.stop} are fractions of the steps: 0 <= start < stop <= 1")

    def __call__(self, reading: Reading) -> Tensor:
        raise NotImplementedError

    def strength(self, step: int, steps: int) -> float:
        """Weight times schedule at this step, 0 outside the interval."""
        inside = int(self.start * steps + 1e-9) <= step < int(self.stop * steps + 1e-9)
        return inside * self.weight * (factor(self.schedule(step / steps)) if inside and self.schedule else 1.0)

    def check(self, pipe, batch: int, image_size: tuple[int, int]) -> None:
        """Raise ValueError where the objective does not fit the model, the batch or the picture (H, W in pixels)."""
        self.head.check(pipe)
        check_fit(self, batch, image_size, denoiser(pipe))

@dataclass(kw_only=True, eq=False)
class SpatialObjective(Objective):
    """The readout is to equal a target map: mean squared error over channels and positions (paper, section 3.3)."""
    head: SpatialHead
    target: Map                         # (B or 1, k, h, w) or (k, h, w), resized to the readout by nearest neighbour
    mask: Mask | None = None            # (B or 1, 1 or k, h, w) in [0, 1]: where, or in which channels, it matters
    distance: Function | None = None    # (readout, target) -> (B, any, H, W); squared error by default

    def __post_init__(self):
        super().__post_init__()
        check_target(self.head.config, self.target, self.mask, free=self.distance is not None)

    def __call__(self, reading):
        readout = reading(self.head, self.use_timestep)                                 # (B, k, h, w)
        target = resize(self.target.to(readout.device), readout.shape[-2:], "nearest")
        error = self.distance(readout, target) if self.distance else (readout - target.to(readout)) ** 2
        return masked_mean(error, self.mask)                                            # (B,)

@dataclass(kw_only=True, eq=False)
class RelativeObjective(Objective):
    """An objective that compares the picture with another, the source (see `sources.py`)."""
    source: Function                    # (timestep, branch) -> the Reading of the source there, 1 or B pictures

    def features(self, reading) -> tuple[Tensor, Tensor]:
        """Features of the picture (B, C, h, w) and, without gradient, of the source (1 or B, C, h, w)."""
        with torch.no_grad():
            source = self.source(reading.timestep, reading.branch)(self.head, self.use_timestep)
        return reading(self.head, self.use_timestep), source

@dataclass(kw_only=True, eq=False)
class CorrespondenceObjective(RelativeObjective):
    """What the source shows at each source point is to appear at the target point (drag; paper, section 3.3).
    The loss is -s(source point, target point) + `anti_ghosting` * s(source point, source point), averaged over the points
    and halved, with cosine similarities s mapped to [0, 1]: the second term discourages staying in place. A tensor (N,) says
    it for each point: what another point is moved to must not be pushed away."""
    head: RelativeHead
    source_points: Points               # (N, 2), (x, y) in pixels of the image
    target_points: Points               # (N, 2)
    anti_ghosting: Shares = 1.0
    locate: Function = bilinear         # from points to weights of cells

    def __post_init__(self):
        super().__post_init__()
        check_pairs(self.source_points, self.target_points, self.anti_ghosting)

    def __call__(self, reading):
        features, source = self.features(reading)
        size = reading.model.image_size(reading.latents)
        here, there = (self.locate(points.to(features), features.shape[-2:], size)      # (N, h*w)
                       for points in (self.source_points, self.target_points))
        handle = F.normalize(here @ source.flatten(2).mT, dim=-1)                       # (1 or B, N, C)

        def similarity(where):                                                          # (N, h*w) -> (B, N)
            found = F.normalize(where @ features.flatten(2).mT, dim=-1)                 # (B, N, C)
            return ((handle * found).sum(-1) + 1) / 2
        staying = torch.as_tensor(self.anti_ghosting).to(features) * similarity(here)
        return (staying - similarity(there)).mean(-1) / 2                               # (B,)

@dataclass(kw_only=True, eq=False)
class AppearanceObjective(RelativeObjective):
    """The picture is to look like the source: 1 - cosine similarity, position by position (paper, section 3.3)."""
    head: RelativeHead
    boxes: Boxes | None = None          # (box in the source, box in the picture), each (x0, y0, x1, y1) in pixels
    mask: Area | None = None            # (B or 1, 1, h, w) in [0, 1]: which positions count (without boxes)
    pool: Truth = False                 # True compares `pool_features`: the same looks in another place or pose

    def __post_init__(self):
        super().__post_init__()
        if self.mask is not None and self.boxes is not None:
            raise ValueError("pass either boxes or a mask (B, 1, h, w), not both")

    def __call__(self, reading):
        features, source = self.features(reading)
        if self.boxes:
            source, features = (resize(crop(each, box, reading.model.image_size(each)), features.shape[-2:])
                                for each, box in zip((source, features), self.boxes))       # each in its own pixels
        if self.pool:
            source, features = (pool_features(each, None if self.mask is None else resize(self.mask.to(each), each.shape[-2:]))
                                for each in (source, features))
        distance = 1 - F.cosine_similarity(features, source, dim=1)[:, None]            # (B, 1, h, w)
        return masked_mean(distance, None if self.pool else self.mask)                  # (B,)

# ---- 6  Guidance: the gradient of the objectives, and the step it gives ----------------------------------------------
def normalized_step(gradients, mask=None) -> Tensor:
    """Along the gradient, with a root-mean-square length of 1 per latent element in each picture (our default)."""
    gradient = gradients[-1]
    cells = gradient[0].numel() if mask is None else mask.sum((1, 2, 3), keepdim=True) * gradient.shape[1]
    return gradient * (cells ** 0.5 / gradient.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20))

def sign_step(gradients, mask=None) -> Tensor:
    """Every element moves by 1, whatever the size of its gradient."""
    return gradients[-1].sign()

@dataclass
class Guidance(Declared):
    """How objectives move the latents."""
    objectives: Aims = ()                       # an iterable of `Objective`
    step_size: NonNegative = 5e-2               # per latent element, see the step rules
    step_rule: Function = normalized_step       # (gradients at this timestep, mask) -> direction (B, C, h, w)
    gradient_branch: Literal["conditional", "both"] = "conditional"     # 'both' also asks the negative prompt's branch
    inner_steps: Count = 1                      # moves at each timestep
    mask: Area | None = None                    # (B or 1, 1, h, w) in [0, 1]: which part of the picture may be moved
    moves: Literal["latents", "prediction"] = "latents"     # 'prediction': the step is added to it, and saves a pass

    def __post_init__(self):
        super().__post_init__()
        self.branches = ("negative", "conditional") if self.gradient_branch == "both" else ("conditional",)
        if self.moves == "prediction" and self.inner_steps > 1:
            raise ValueError(f"inner_steps is {self.inner_steps}, but a prediction is moved once; leave it out, or move latents")

    def check(self, pipe, batch, image_size) -> None:
        check_fit(self, batch, image_size, denoiser(pipe))
        for objective in self.objectives:
            objective.check(pipe, batch, image_size)

    def move(self, read: Callable, latents, strengths) -> tuple[Tensor, list]:
        """Move latents (B, C, h, w) towards the objectives, `inner_steps` times, and return them and each objective's loss
        (B,) or None. `read(latents)` gives a `Reading` for each branch."""
        gradients = []
        for _ in range(self.inner_steps):
            gradient, losses, _ = self.gradient(read, latents, strengths)
            step = self.step(gradient, strengths, gradients).to(latents)
            latents = latents - step if self.step_size else latents     # at 0 the very same latents
        return latents, losses

    def step(self, gradient, strengths, gradients: list) -> Tensor:
        """The step away from the objectives (B, C, h, w); the gradient joins the earlier ones at this timestep."""
        mask = None if self.mask is None else resize(self.mask.to(gradient), gradient.shape[-2:])
        gradients.append(gradient if mask is None else gradient * mask)
        active = sum(objective.weight for objective, strength in zip(self.objectives, strengths) if strength)
        return self.step_size * (sum(strengths) / active) * like_gradient(self.step_rule(gradients, mask), gradient)

    def gradient(self, read: Callable, latents, strengths) -> tuple[Tensor, list, Tensor]:
        """Gradient of the objectives at these latents, the losses, and the prediction, from a pass of their own."""
        if torch.is_inference_mode_enabled() or latents.is_inference():
            raise ValueError("guidance needs gradients, which torch.inference_mode forbids; use torch.no_grad instead")
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            readings = read(latents)
            return *self.differentiate(readings, latents, strengths), readings[-1].output.detach()

    def differentiate(self, readings, latents, strengths) -> tuple[Tensor, list]:
        """Gradient of the weighted sum of the objectives with respect to the latents: (B, C, h, w), float32."""
        scale = 2.0 ** 10 if latents.dtype == torch.float16 else 1.0        # small gradients vanish in half precision
        losses = [sum(of_each(objective, objective(reading), latents) for reading in readings) if strength else None
                  for objective, strength in zip(self.objectives, strengths)]
        total = sum(strength * loss.sum() for strength, loss in zip(strengths, losses) if strength)
        gradient, = torch.autograd.grad(movable(total) * scale, latents)
        gradient = finite(gradient, f"gradient at timestep {readings[-1].timestep}").float() / scale
        return gradient, [None if loss is None else loss.detach() for loss in losses]

# ---- 7  Sampling -----------------------------------------------------------------------------------------------------
@dataclass
class SampleState:
    """What sampling and inversion yield after each step."""
    step: int                       # 0 for the first
    timestep: Any                   # a whole number, or a fraction with schedulers that have such
    noisy_latents: Tensor           # (B, C, h, w) at this timestep, after guidance: what the denoiser saw
    latents: Tensor                 # (B, C, h, w) after the step; in the last state the result
    clean_latents: Tensor           # (B, C, h, w), the denoiser's present guess of the result
    losses: list                    # one (B,) for each objective, or None where it is not active
    model: Denoiser = field(repr=False)

    def preview(self) -> Tensor:
        """The present guess as pictures (B, 3, H, W) in [0, 1]; costs one run of the autoencoder, only on demand."""
        return self.model.decode(self.clean_latents)

@torch.no_grad()
def sampling(model, scheduler, take_step, guide: Guidance, conditioning, latents, guidance_scale, settings,
             keep=None) -> Iterator[SampleState]:
    """Denoise noise (B, C, h, w) along the scheduler's timesteps, guided. `pipelines.guided_sample` is the door to it.
    At a guided step the denoiser runs once with gradient, the objectives read its features, and the gradient of their
    weighted sum moves the latents; then the scheduler takes its ordinary step from there (paper, section 3.3). Outside the
    guide's mask the picture follows the trajectory of `keep`. `settings` holds what `take_step` is given at each step."""
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for step, (t, setting) in enumerate(zip(scheduler.timesteps, settings)):
        timestep = t.item()
        seen, size = seen_by(scheduler, latents, t)         # Euler's latents are larger than what the denoiser sees
        if keep is not None:
            free = resize(guide.mask.to(seen), seen.shape[-2:])
            seen = seen * free + keep.latents_at(timestep).to(seen) * (1 - free)
        before, (seen, output, losses) = seen, guided_prediction(
            model, scheduler, guide, conditioning, seen, timestep, step, guidance_scale)
        if keep is not None or seen is not before:
            latents = seen * size
        clean, noise = clean_and_noise(scheduler, output, seen, timestep)
        latents = finite(take_step(scheduler, output, t, latents, clean, noise, **setting), f"latents after t = {timestep}")
        yield SampleState(step, timestep, seen, latents, clean, losses, model)

def guided_prediction(model, scheduler, guide, conditioning, latents, timestep, step, scale) -> tuple[Tensor, Tensor, list]:
    """The latents after guidance, the prediction at them, and the losses; without active objectives nothing is moved."""
    strengths = [objective.strength(step, len(scheduler.timesteps)) for objective in guide.objectives]
    if not any(strengths) or guide.moves == "latents" and not takes_moves(scheduler):       # Heun's second look stays
        return latents, predict(model, latents, timestep, conditioning, scale), [None] * len(strengths)

    def read(latents):
        return take_readings(model, latents, timestep, conditioning, guide.branches, scale)
    conditional, away = None, 0
    with model.frozen():
        if guide.moves == "latents":
            latents, losses = guide.move(read, latents, strengths)
        else:
            gradient, losses, conditional = guide.gradient(read, latents, strengths)
            sign = -1 if scheduler.config.get("prediction_type") == "sample" else 1     # more noise, or less of the picture
            away = sign * guide.step(gradient, strengths, []).to(latents)
    return latents, predict(model, latents, timestep, conditioning, scale, conditional) + away, losses

def predict(model, latents, timestep, conditioning, guidance_scale, conditional=None) -> Tensor:
    """The denoiser's output under classifier-free guidance: (B, C, h, w); `conditional`, where it is known already, spares
    that branch. A scale of 1 or less, and a model that embeds the scale, runs one branch only."""
    branches = ("negative", "conditional") if model.two_branches(guidance_scale) else ("conditional",)
    known = [] if conditional is None else [conditional]
    passes = model.passes(branches[:len(branches) - len(known)])
    outputs = sum((run(model, latents, timestep, conditioning, each, guidance_scale) for each in passes), []) + known
    return outputs[0] if len(outputs) == 1 else outputs[0] + guidance_scale * (outputs[1] - outputs[0])

def ddim_step(scheduler, output, t, latents, clean, noise, eta=0.0, generator=None, variance_noise=None) -> Tensor:
    """One step of DDIM (arXiv 2010.02502, equation 12): the clean picture and the noise that the prediction stands for are
    mixed anew, with less noise, a part of which `eta` replaces by new. The numbers are those of diffusers' DDIMScheduler."""
    product, before = alpha_products(scheduler, int(t))
    std = eta * ((1 - before) / (1 - product) * (1 - product / before)) ** 0.5
    moved = before ** 0.5 * clean + (1 - before - std ** 2).clamp_min(0) ** 0.5 * noise      # 0 with zero-terminal SNR
    if not eta:
        return moved
    return moved + std * (draw(output, generator) if variance_noise is None else variance_noise.to(latents))

def alpha_products(scheduler, timestep: int) -> tuple[Tensor, Tensor]:
    """The product of alphas at a DDIM timestep, and at the one that a step from there leads to."""
    before = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    products = scheduler.alphas_cumprod
    return products[timestep], products[before] if before >= 0 else scheduler.final_alpha_cumprod

# ---- 8  Inversion: from a picture back to noise ----------------------------------------------------------------------
@torch.no_grad()
def inversion(model, scheduler, conditioning, latents, guidance_scale, fixed_point_iterations) -> Iterator[SampleState]:
    """Run DDIM, or a flow model's Euler steps, backwards from clean latents (B, C, h, w). `pipelines.invert` is the door.
    A step from t down to s uses what is predicted at (x_t, t). Its inverse knows x_s only, so plain inversion predicts at
    (x_s, t); each fixed-point iteration predicts again at the x_t just found, and converges to the inverse."""
    back = inverse_euler_step if model.flow else inverse_ddim_step
    for step, t in enumerate(scheduler.timesteps.flip(0)):
        timestep, guess = t.item(), latents
        for _ in range(1 + fixed_point_iterations):
            output = predict(model, guess, timestep, conditioning, guidance_scale)
            clean, noise = clean_and_noise(scheduler, output, guess, timestep)
            guess = back(scheduler, step, timestep, latents, output, noise)
        latents = finite(guess, f"inverted latents at timestep {timestep}")
        yield SampleState(step, timestep, latents, latents, clean, [], model)

def inverse_ddim_step(scheduler, step, timestep, latents, output, noise) -> Tensor:
    """From latents one DDIM step below t up to t, with what is predicted there."""
    (a, s), (below, rest) = ((product ** 0.5, (1 - product) ** 0.5) for product in alpha_products(scheduler, timestep))
    if scheduler.config.prediction_type == "v_prediction":      # also where a is 0: with zero-terminal SNR
        return (latents - (rest * a - below * s) * output) / (below * a + rest * s)
    return a * ((latents - rest * noise) / below) + s * noise

def inverse_euler_step(scheduler, step, timestep, latents, output, noise) -> Tensor:
    """The Euler step of a flow model backwards: x_s + (t - s) * velocity."""
    below, above = scheduler.sigmas.flip(0)[step:step + 2]
    return latents + (above - below) * output
