"""Readout Guidance in one module: read a property off a diffusion model's features, then steer the picture with it.

The method is that of Luo, Darrell, Wang, Goldman and Holynski, "Readout Guidance: Learning Control from Diffusion
Features", CVPR 2024, arXiv 2312.02150. Read from top to bottom:

    1 features      a frozen UNet predicts noise; we listen to its decoder
    2 head          a small network turns these features into a readout: a pose, a depth map, a descriptor
    3 losses        what a head is trained with
    4 training      a generator that yields after every step
    5 objectives    the distance between a readout and what the user wants
    6 sampling      a generator that yields after every DDIM step, guided by the gradient of the objectives
    7 inversion     from a picture back to the noise it could have come from

Axes are (B, C, H, W) everywhere: B pictures, C channels, H rows, W columns. Points are (x, y) in pixels of the image,
the centre of the top-left pixel is (0.5, 0.5). Pictures lie in [0, 1]. A timestep t runs from 0 (clean) to 999 (noise).
`pipe` is a diffusers pipeline with a `unet`, a `scheduler` and, where pictures or prompts are involved, a `vae` and
text encoders: Stable Diffusion 1 and 2, Stable Diffusion XL, or a small model of the same classes.
Where this code departs from the authors' implementation ("the reference"), the docstring says how to get that back.
"""
import itertools
import json
import math
import os
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

# ---------------------------------------------------------------------------------------------------------------------
# 1  Features: listening to the decoder of a frozen denoiser
# ---------------------------------------------------------------------------------------------------------------------


def decoder_resnets(unet) -> list[nn.Module]:
    """The ResNet blocks of the UNet's decoder, in the order in which they run (SD 1.5 has 12, SDXL has 9)."""
    resnets = [resnet for block in getattr(unet, "up_blocks", []) for resnet in getattr(block, "resnets", [])]
    if not resnets:
        raise ValueError(f"{type(unet).__name__} has no up_blocks with resnets; features are read from a diffusers "
                         "UNet2DConditionModel, so pass a pipeline whose `unet` is one")
    return resnets


def feature_channels(unet) -> tuple[int, ...]:
    """Channels C_l of each feature map that `collect_features` collects."""
    return tuple(resnet.conv2.out_channels for resnet in decoder_resnets(unet))


@contextmanager
def collect_features(unet):
    """Collect the decoder's hidden states: `with collect_features(unet) as features: unet(...)`.

    `features` is a list with one (B, C_l, H_l, W_l) tensor for each decoder ResNet, refilled by every forward pass:
    the output of the block's `conv2`, before the skip connection is added (paper, section 3.1). Forward hooks do the
    collecting, so nothing is patched, and they are removed on leaving, also after an exception.
    """
    resnets = decoder_resnets(unet)
    features: list[Tensor | None] = [None] * len(resnets)

    def listen(layer):
        def hook(module, inputs, output):
            features[layer] = output
        return hook

    hooks = [resnet.conv2.register_forward_hook(listen(layer)) for layer, resnet in enumerate(resnets)]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def timestep_embedding(unet, timestep) -> Tensor:
    """The denoiser's own embedding of a timestep: an int gives (1, E), a tensor of B timesteps gives (B, E)."""
    weight = unet.time_embedding.linear_1.weight
    timestep = torch.as_tensor(timestep, device=weight.device).reshape(-1)
    return unet.time_embedding(unet.time_proj(timestep).to(weight.dtype))


@dataclass
class Conditioning:
    """Prompts in the form the denoiser takes: one row for each picture, or a single row for all of them."""
    prompt_embeds: Tensor                                           # (B, L, D)
    negative_prompt_embeds: Tensor | None = None                    # (B, L, D), needed for guidance_scale > 1
    added: dict[str, Tensor] = field(default_factory=dict)          # SDXL: text_embeds (B, P), time_ids (B, 6)
    negative_added: dict[str, Tensor] = field(default_factory=dict)

    def branch(self, name: str, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings and added conditions of the 'conditional' or the 'negative' branch, for `batch` pictures."""
        conditional = name == "conditional"
        embeds = self.prompt_embeds if conditional else self.negative_prompt_embeds
        if embeds is None:
            raise ValueError("this Conditioning has no negative_prompt_embeds, which guidance_scale > 1 and "
                             "gradient_branch='both' need")
        added = self.added if conditional else self.negative_added
        return _rows(embeds, batch, "prompt"), {k: _rows(v, batch, k) for k, v in added.items()}


def encode_prompt(pipe, prompt, negative_prompt=None, image_size=None) -> Conditioning:
    """Encode prompts with the pipeline's own text encoders (one in SD, two and a size in SDXL).

    Args:
        prompt: a string, a list of strings, or a `Conditioning`, which is returned as it is.
        negative_prompt: a string or one for each prompt; None is what diffusers takes it for ("" in SD).
        image_size: (H, W) in pixels, told to SDXL; the model's own size by default.
    Raises ValueError for an empty list and for anything that is not a string.
    """
    if isinstance(prompt, Conditioning):
        return prompt
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f"prompt is {prompt!r}; pass a string, a non-empty list of strings, or a Conditioning")
    if isinstance(negative_prompt, str):
        negative_prompt = [negative_prompt] * len(prompts)
    if negative_prompt is not None and len(negative_prompt) != len(prompts):
        raise ValueError(f"{len(negative_prompt)} negative prompts for {len(prompts)} prompts; pass one, or as many")
    warn_unknown_words(getattr(pipe, "tokenizer", None), [*prompts, *(negative_prompt or [])])
    with torch.no_grad():
        encoded = pipe.encode_prompt(prompt=list(prompts), device=pipe.unet.device, num_images_per_prompt=1,
                                     do_classifier_free_guidance=True, negative_prompt=negative_prompt)
    if len(encoded) == 2:                                           # Stable Diffusion
        return Conditioning(*encoded)
    embeds, negative_embeds, pooled, negative_pooled = encoded      # Stable Diffusion XL
    height, width = image_size or [side * vae_factor(pipe) for side in latent_shape(pipe)[1:]]
    time_ids = torch.tensor([[height, width, 0, 0, height, width]]).to(embeds).repeat(len(prompts), 1)      # (B, 6)
    return Conditioning(embeds, negative_embeds, {"text_embeds": pooled, "time_ids": time_ids},
                        {"text_embeds": negative_pooled, "time_ids": time_ids})


def warn_unknown_words(tokenizer, prompts: Iterable[str]) -> list[str]:
    """Warn about the words of the prompts that a word-level tokenizer does not know; returns them.

    CLIP's tokenizer spells any word out of pieces and has no unknown words (its unk token is its end token).
    """
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    if unknown_id is None or tokenizer.unk_token in (tokenizer.eos_token, tokenizer.pad_token):
        return []
    unknown = []
    for prompt in prompts:
        tokens = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        unknown += [prompt[a:b] for token, (a, b) in zip(tokens.input_ids, tokens.offset_mapping) if token == unknown_id]
    if unknown:
        known = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
        warnings.warn(f"the model does not know {', '.join(sorted(set(unknown)))} and will ignore it; it knows: "
                      f"{' '.join(known)}", stacklevel=3)
    return unknown


def denoise(unet, latents, timestep, embeds, added=None) -> Tensor:
    """One forward pass of the denoiser: (B, C, H, W) -> (B, C, H, W)."""
    return unet(latents, timestep, encoder_hidden_states=embeds, added_cond_kwargs=added or None, return_dict=False)[0]


@dataclass(eq=False)
class Reading:
    """What one forward pass left behind, ready for any number of heads: `reading(head)` -> (B, k, H, W).

    The features are computed once however many heads read them, and a head that two objectives share runs once.
    """
    unet: Any
    features: list[Tensor]          # one (B, C_l, H_l, W_l) a decoder layer
    latents: Tensor                 # (B, C, H, W), what the denoiser saw
    timestep: Any                   # int, or (B,) in training
    image_size: tuple[int, int]     # (H, W) of the picture in pixels
    branch: str = "conditional"     # or 'negative': which prompt the denoiser read
    _readouts: dict = field(default_factory=dict, repr=False)

    def __call__(self, head: "ReadoutHead", use_timestep: bool = True) -> Tensor:
        key = (id(head), use_timestep)
        if key not in self._readouts:
            self._readouts[key] = head.read(self, use_timestep)
        return self._readouts[key]


def take_readings(pipe, latents, timestep, conditioning, branches=("conditional",)) -> list[Reading]:
    """Run the denoiser once on noisy latents (B, C, H, W) and return a `Reading` for each branch."""
    batch, unet = latents.shape[0], pipe.unet
    embeds, added = zip(*(conditioning.branch(name, batch) for name in branches))
    added = {key: torch.cat([each[key] for each in added]) for key in added[0]}
    several = torch.cat([latents] * len(branches))                                      # (branches * B, C, H, W)
    with collect_features(unet) as features:
        denoise(unet, several, timestep, torch.cat(embeds), added)
    chunks = zip(*(feature.chunk(len(branches)) for feature in features))
    size = tuple(side * vae_factor(pipe) for side in latents.shape[-2:])
    return [Reading(unet, list(chunk), latents, timestep, size, name) for name, chunk in zip(branches, chunks)]


@torch.no_grad()
def read_picture(pipe, pictures, timestep, prompt="", generator=None) -> Reading:
    """Noise clean pictures to a timestep and read them: `read_picture(pipe, pictures, 300)(head)` -> (B, k, H, W).

    Args:
        pictures: (B, 3, H, W) in [0, 1], or clean latents (B, C, h, w).
        timestep: an int, or (B,) timesteps.
        prompt: what the denoiser is told; heads are trained with the empty prompt.
        generator: a CPU generator for the noise, so that every device draws the same.
    """
    latents = encode(pipe, pictures)
    noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
    timesteps = torch.as_tensor(timestep, device=latents.device).expand(latents.shape[0])
    noisy = ddim_scheduler(pipe).add_noise(latents, noise, timesteps)
    return take_readings(pipe, noisy, timestep, encode_prompt(pipe, prompt))[0]


@torch.no_grad()
def encode(pipe, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> latents (B, C, h, w), the mean of the VAE. Latents pass through unchanged."""
    if pictures.ndim != 4 or pictures.shape[1] not in (3, pipe.unet.config.in_channels):
        raise ValueError(f"pictures have shape {tuple(pictures.shape)}; pass (B, 3, H, W) in [0, 1] or latents "
                         f"(B, {pipe.unet.config.in_channels}, h, w)")
    if pictures.shape[1] == pipe.unet.config.in_channels:
        return pictures.to(pipe.unet.device, pipe.unet.dtype)
    latents = pipe.vae.encode(pictures.to(pipe.vae.device, pipe.vae.dtype) * 2 - 1).latent_dist.mean
    return _finite(latents, "encoded latents").to(pipe.unet.dtype) * pipe.vae.config.scaling_factor


@torch.no_grad()
def decode(pipe, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], float32."""
    pictures = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return (_finite(pictures, "decoded picture").float() / 2 + 0.5).clamp(0, 1)


def latent_shape(pipe) -> tuple[int, int, int]:
    """(C, h, w) of the latents that the pipeline's UNet was made for."""
    size = pipe.unet.config.sample_size
    return (pipe.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))


def vae_factor(pipe) -> int:
    """Pixels of the picture for each cell of the latents, along one side (8 in Stable Diffusion)."""
    return getattr(pipe, "vae_scale_factor", 8)


# ---------------------------------------------------------------------------------------------------------------------
# 2  Head: from features to a readout
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class HeadConfig:
    """Everything needed to rebuild a head. `HeadConfig.for_unet(unet, out_channels=14)` fills in the first two."""
    layer_channels: tuple[int, ...]             # C_l of each decoder layer, in order
    embedding_channels: int = 1280              # E of the denoiser's timestep embedding
    width: int = 384                            # channels all layers are projected to (384 in the paper)
    out_channels: int = 0                       # k of a spatial head; 0 is a relative head: its `width` features
    hidden_channels: tuple[int, int] = (128, 32)    # of the output head
    activation: str = "tanh"                    # 'tanh' for maps in a bounded range, 'none' for heatmaps and logits
    use_timestep: bool = True                   # False ignores t, as the reference's `bottleneck_sequential` heads do
    timestep_convention: str = "timestep"       # 'step_index' embeds 999 - t, as the reference does while it trains
    resize_late: bool = False                   # True runs each bottleneck at its layer's own size and resizes after:
                                                # cheaper, other numbers, so train with the setting that you use
    num_groups: int = 32                        # of every GroupNorm
    property: str = ""                          # what is read: 'pose', 'depth', ...
    base_model: str = ""                        # the model it was trained on
    extra: dict = field(default_factory=dict)   # anything else worth keeping: joint names, value range, training

    def __post_init__(self):
        self.layer_channels, self.hidden_channels = tuple(self.layer_channels), tuple(self.hidden_channels)
        if not self.layer_channels or self.width % 4 or self.width // 4 % self.num_groups:
            raise ValueError(f"width {self.width} / 4 must be a multiple of num_groups {self.num_groups}, and "
                             f"layer_channels {self.layer_channels} not empty")
        _choice("activation", self.activation, ("tanh", "none"))
        _choice("timestep_convention", self.timestep_convention, ("timestep", "step_index"))

    @classmethod
    def for_unet(cls, unet, **settings) -> "HeadConfig":
        return cls(feature_channels(unet), unet.time_embedding.linear_2.out_features, **settings)


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


class ReadoutHead(nn.Module):
    """Aggregate the decoder's features and read a property off them (paper, sections 3.1 and 3.2).

    The bottlenecks' outputs are summed with softmax mixing weights, one a layer. A spatial head (`out_channels` > 0)
    adds an output head; a relative head returns the sum, to be compared between two pictures by cosine similarity.
    Parameter names are those of the authors' released heads.
    """

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = config
        self.mixing_weights = nn.Parameter(torch.ones(len(config.layer_channels)))
        self.bottleneck_layers = nn.ModuleList(Bottleneck(c, config) for c in config.layer_channels)
        self.output_head = self._build_output_head(config) if config.out_channels else nn.Identity()

    @staticmethod
    def _build_output_head(config) -> nn.Sequential:
        wide, narrow = config.hidden_channels
        layers = [nn.Conv2d(config.width, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, narrow, 3, padding=1),
                  nn.SiLU(), nn.Conv2d(narrow, config.out_channels, 1)]
        return nn.Sequential(*layers, *([nn.Tanh()] if config.activation == "tanh" else []))

    def forward(self, features, emb=None, size=None) -> Tensor:
        """Features, a list of (B, C_l, H_l, W_l), and an embedding (B or 1, E) or None -> (B, k or width, H, W).

        `size` (H, W) of the readout is by default that of the largest feature map, which is the latent's.
        """
        size = size or max(tuple(feature.shape[-2:]) for feature in features)
        mixed = 0
        for weight, bottleneck, feature in zip(self.mixing_weights.softmax(0), self.bottleneck_layers, features):
            if self.config.resize_late:
                mixed = mixed + weight * _resize(bottleneck(feature, emb), size)        # (B, width, H, W)
            else:
                mixed = mixed + weight * bottleneck(_resize(feature, size), emb)        # (B, width, H, W)
        return self.output_head(mixed)

    def read(self, reading: Reading, use_timestep: bool = True) -> Tensor:
        """The readout of one `Reading`: (B, k or width, H, W) at the latent's size, in the head's own dtype."""
        emb = None
        if use_timestep and self.config.use_timestep:
            mirrored = self.config.timestep_convention == "step_index"
            with torch.no_grad():
                emb = timestep_embedding(reading.unet, 999 - reading.timestep if mirrored else reading.timestep)
            emb = emb.to(self.mixing_weights)
        features = [feature.to(self.mixing_weights) for feature in reading.features]
        return self(features, emb, tuple(reading.latents.shape[-2:]))

    def check(self, unet) -> None:
        """Raise ValueError where this head was made for another UNet."""
        found = (feature_channels(unet), unet.time_embedding.linear_2.out_features)
        if found != (self.config.layer_channels, self.config.embedding_channels):
            raise ValueError(f"this {self.config.property or 'readout'} head reads layers {self.config.layer_channels} "
                             f"and an embedding of {self.config.embedding_channels}, but the UNet has {found[0]} and "
                             f"{found[1]}; load a head trained on this model (the head's: {self.config.base_model!r})")

    def save_pretrained(self, folder) -> None:
        """Write head.safetensors and config.json. Both are written aside and then moved, so neither is ever half."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.json.tmp"
        config.write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        _save_tensors(self.state_dict(), folder / "head.safetensors")
        os.replace(config, folder / "config.json")

    @classmethod
    def from_pretrained(cls, folder) -> "ReadoutHead":
        """Load a head saved by `save_pretrained`. ValueError names what is missing, corrupt or does not fit."""
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not (folder / "head.safetensors").is_file():
            heads = sorted(path.parent.name for path in folder.parent.glob("*/head.safetensors"))
            raise ValueError(f"{folder} is not a head (it needs config.json and head.safetensors); "
                             f"heads in {folder.parent}: {', '.join(heads) or 'none'}")
        try:
            config = HeadConfig(**json.loads((folder / "config.json").read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{folder / 'config.json'} is not a HeadConfig ({error}); save the head again") from error
        return _load_head(config, _load_tensors(folder / "head.safetensors")[0], folder)


def load_reference_head(path, timestep_convention: str = "timestep") -> ReadoutHead:
    """Load a `*.pt` file in the layout of the authors' released heads (nothing in the file is executed).

    The released heads were trained on the embedding of the *step index* 999 - t, but the authors' guidance gives them
    that of t. 'timestep' does as their guidance does, 'step_index' as their training did.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        old, tensors = saved["config"], saved["aggregation_network"]
        options = old.get("aggregation_kwargs", {})
    except Exception as error:
        raise ValueError(f"{path} is not a head in the reference's layout ({error})") from error
    sequential = options.get("bottleneck_sequential", True)
    if sequential:                              # bottleneck_layers.N.0.conv1.weight; such a head ignores the embedding
        tensors = {name.replace(".0.", ".", 1) if name.startswith("bottleneck") else name: tensor
                   for name, tensor in tensors.items() if ".emb_layers." not in name}
    config = HeadConfig(
        layer_channels=old["dims"], width=old["projection_dim"], use_timestep=not sequential,
        embedding_channels=1280 if sequential else tensors["bottleneck_layers.0.emb_layers.weight"].shape[1],
        out_channels=options.get("output_head_channels", 3) if options.get("use_output_head", False) else 0,
        activation="tanh" if options.get("output_head_act", True) else "none",
        timestep_convention=timestep_convention, base_model=old.get("model_id", ""))
    return _load_head(config, tensors, path)


def _load_head(config, tensors, source) -> ReadoutHead:
    head = ReadoutHead(config)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights in {source} do not fit their config: {error}") from error
    return head.eval()


# ---------------------------------------------------------------------------------------------------------------------
# 3  Losses: what a head is trained with
# ---------------------------------------------------------------------------------------------------------------------


def spatial_loss(readout, target, background: float | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of a map, one number.

    Args:
        readout: (B, k, H, W).
        target: (B, k, H', W'), resized to the readout by nearest neighbour.
        background: the target's value where nothing is drawn; then the loss is the mean of the background's MSE and
            the foreground's, so that thin lines count (the reference's `sparse_loss`, for edges and poses).
        weight: (B or 1, k or 1, H, W), multiplies the squared error.
    """
    target = _resize(target.to(readout), readout.shape[-2:], "nearest")
    error = (readout - target) ** 2
    if weight is not None:
        error = error * weight.to(error)
    empty = target == background
    if background is None or not empty.any() or empty.all():
        return error.mean()
    return (error[empty].mean() + error[~empty].mean()) / 2


def correspondence_loss(features_a, features_b, points_a, points_b, image_size, temperature: float = 0.07,
                        sampling: str = "bilinear") -> Tensor:
    """Symmetric cross-entropy over cosine similarities: each point has to find its partner among all cells.

    Args:
        features_a, features_b: (B, C, h, w).
        points_a, points_b: (B, N, 2) or (N, 2), (x, y) in pixels; row n of both shows the same spot.
        image_size: (H, W) in pixels.
        sampling: 'nearest' cell as in the reference, or 'bilinear' between the four nearest.
    """
    cells = features_a.shape[-2:]
    in_a = point_weights(points_a.to(features_a), cells, image_size, sampling)          # (B, N, h*w)
    in_b = point_weights(points_b.to(features_b), cells, image_size, sampling)
    return (_match_loss(features_a, features_b, in_a, in_b, temperature)
            + _match_loss(features_b, features_a, in_b, in_a, temperature)) / 2


def _match_loss(features_a, features_b, in_a, in_b, temperature):
    logits = point_similarity(features_a, features_b, in_a) / temperature               # (B, N, h*w)
    return F.cross_entropy(logits.flatten(0, 1), in_b.expand(logits.shape).flatten(0, 1))


def point_weights(points, cells, image_size, sampling: str = "bilinear") -> Tensor:
    """Points (..., N, 2) in pixels -> (..., N, h*w): how much each cell of an (h, w) map counts for each point."""
    _choice("sampling", sampling, ("nearest", "bilinear"))

    def along(coordinate, count, length):                                               # (..., N) -> (..., N, count)
        place = coordinate * count / length
        if sampling == "nearest":
            return F.one_hot(place.floor().long().clamp(0, count - 1), count).to(points)
        place = (place - 0.5).clamp(0, count - 1)                                       # cell i has its centre at i
        return (1 - (place[..., None] - torch.arange(count).to(points)).abs()).relu()

    across = along(points[..., 0], cells[1], image_size[1])                             # (..., N, w)
    down = along(points[..., 1], cells[0], image_size[0])                               # (..., N, h)
    return (down[..., :, None] * across[..., None, :]).flatten(-2)                      # (..., N, h*w)


def point_similarity(features_a, features_b, in_a) -> Tensor:
    """Cosine similarity of points in a to all cells of b: (B, C, h, w) twice, (B, N, h*w) -> (B, N, h*w)."""
    points = F.normalize(in_a @ features_a.flatten(2).mT, dim=-1)                       # (B, N, C)
    return points @ F.normalize(features_b.flatten(2), dim=1)                           # (B, N, h*w)


def pool_features(features, weight=None, power: float = 6.0) -> Tensor:
    """Features (B, C, h, w), not negative, to one vector a picture (B, C, 1, 1): what there is, not where.

    A generalised mean (Radenovic et al., arXiv 1711.02512), between the mean (power 1) and the maximum: the mean drowns
    what is small in its background, all the more since the head's GroupNorm fixes the mean over positions. Then the
    vector's own mean is taken away: what is positive everywhere is nearly parallel, and cosine similarities of pictures
    that have nothing in common would be 0.99. `weight` (B or 1, 1, h, w) says which positions count.
    """
    raised = features.float().clamp_min(1e-3) ** power                  # half precision would overflow
    weight = torch.ones_like(raised[:, :1]) if weight is None else weight
    pooled = ((raised * weight).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True)) ** (1 / power)
    return pooled - pooled.mean(1, keepdim=True)


def appearance_loss(anchor, positive, negative, margin: float = 0.5) -> Tensor:
    """Hinge loss on triplets (B, C, h, w): the positive is to be nearer than the negative by the margin.

    The distance is the mean over positions of 1 - cosine similarity.
    """
    def distance(other):
        return 1 - F.cosine_similarity(anchor, other, dim=1).mean((-2, -1))             # (B,)
    return (margin + distance(positive) - distance(negative)).relu().mean()


# ---------------------------------------------------------------------------------------------------------------------
# 4  Training
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class TrainState:
    """What `train_head` yields after each step."""
    step: int               # steps done, 1 after the first
    steps: int              # steps in all
    loss: float
    head: ReadoutHead       # the head in training; call its save_pretrained when you are content


def train_head(head, pipe, batches, steps: int, loss: Callable = spatial_loss, lr: float | Callable = 1e-3,
               generator=None, timesteps=(0, 1000), checkpoint=None, checkpoint_every: int = 50) -> Iterator[TrainState]:
    """Train a head on the features of a frozen denoiser (paper, section 4); a generator, so nothing runs until you
    iterate, and you may stop at any step.

    Args:
        head: a `ReadoutHead`, trained in place.
        batches: an iterable of (pictures, *labels), or a function step -> such a tuple (0 is the first step).
            `pictures` are (B, 3, H, W) in [0, 1] or clean latents (B, C, h, w); for a relative head a tuple of them,
            whose members share a timestep. After a kill a function resumes at once; an iterable is run forward.
        loss: called as loss(*readouts, *labels), one readout (B, k, H, W) for each member of `pictures`.
        lr: the learning rate of AdamW (no weight decay), or a function from the fraction of steps done to it.
        generator: a CPU generator for timesteps and noise, by default seeded with 0.
        timesteps: each picture's timestep is drawn from [timesteps[0], timesteps[1]).
        checkpoint: a file; every `checkpoint_every` steps head, optimiser, generator and step are saved there, and a
            later call resumes and ends with the same bits as a run that was never stopped.
    Raises ValueError, before anything runs, for bad steps, a head of another UNet, or a checkpoint that does not fit.
    """
    if not isinstance(steps, int) or steps < 1 or checkpoint_every < 1:
        raise ValueError(f"steps is {steps!r} and checkpoint_every {checkpoint_every!r}; both must be at least 1")
    head.check(_unet(pipe))
    if not 0 <= timesteps[0] < timesteps[1] <= pipe.scheduler.config.num_train_timesteps:
        raise ValueError(f"timesteps is {timesteps}; pass (low, high) with 0 <= low < high <= "
                         f"{pipe.scheduler.config.num_train_timesteps}")
    generator = generator or torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0)
    start = _load_checkpoint(checkpoint, head, optimizer, generator) if checkpoint else 0
    return _train(head, pipe, _batches_from(batches, start), (start, steps), loss, lr, optimizer, generator, timesteps,
                  checkpoint and Path(checkpoint), checkpoint_every)


def _train(head, pipe, batches, span, loss, lr, optimizer, generator, timesteps, checkpoint, checkpoint_every):
    conditioning = encode_prompt(pipe, "")
    start, steps = span
    for step, batch in zip(range(start, steps), batches):
        head.train()
        readouts, labels = _read_batch(head, pipe, batch, conditioning, generator, timesteps)
        value = loss(*readouts, *labels)
        _finite(value, "training loss")
        for group in optimizer.param_groups:
            group["lr"] = lr(step / steps) if callable(lr) else lr
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if checkpoint and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
            _save_checkpoint(checkpoint, head, optimizer, generator, step + 1)
        yield TrainState(step + 1, steps, value.item(), head.eval())


def _read_batch(head, pipe, batch, conditioning, generator, timesteps):
    """Noise the pictures of a batch to random timesteps and read them: [(B, k, H, W), ...], [label, ...]."""
    pictures, *labels = batch
    pictures = [pictures] if torch.is_tensor(pictures) else list(pictures)
    latents = [encode(pipe, each) for each in pictures]
    count = latents[0].shape[0]
    timestep = torch.randint(*timesteps, (count,), generator=generator).to(latents[0].device)       # (B,)
    scheduler, readouts = ddim_scheduler(pipe), []
    for clean in latents:
        noise = randn_tensor(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        with torch.no_grad():
            noisy = scheduler.add_noise(clean, noise, timestep)
            reading, = take_readings(pipe, noisy, timestep, conditioning)
        readouts.append(reading(head))
    return readouts, [each.to(readouts[0].device) if torch.is_tensor(each) else each for each in labels]


def _batches_from(batches, start):
    """An iterator over the batches of steps `start`, `start` + 1, ..."""
    if callable(batches):
        return (batches(step) for step in itertools.count(start))
    return itertools.islice(batches, start, None)


def _save_checkpoint(path, head, optimizer, generator, step):
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    for index, parameter in enumerate(head.parameters()):
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in optimizer.state[parameter].items()}
    tensors["generator"] = generator.get_state()
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_tensors(tensors, path, {"step": str(step), "config": json.dumps(asdict(head.config))})


def _load_checkpoint(path, head, optimizer, generator) -> int:
    """Restore a training from its checkpoint, if there is one; returns the number of steps already done."""
    if not Path(path).exists():
        return 0
    tensors, metadata = _load_tensors(path)
    if metadata.get("config") != json.dumps(asdict(head.config)):
        raise ValueError(f"the checkpoint {path} belongs to a head with another config; delete it to start anew")
    head.load_state_dict({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("head.")})
    for index, parameter in enumerate(head.parameters()):
        prefix = f"optimizer.{index}."
        state = {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
    generator.set_state(tensors["generator"])
    return int(metadata["step"])


# ---------------------------------------------------------------------------------------------------------------------
# 5  Objectives: how far a readout is from what the user wants
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class Objective:
    """Something to bring about. `objective(reading)` returns one number for each picture, smaller is nearer.

    Write your own as a subclass with `__call__`; `reading(self.head)` is the readout (B, k, H, W).
    """
    head: ReadoutHead
    weight: float = 1.0                 # its share in the sum of objectives; 0 turns it off
    start: float = 0.0                  # fraction of the steps at which it begins ...
    stop: float = 0.5                   # ... and ends: by default the noisier half is guided
    schedule: Callable | None = None    # fraction of the steps done -> factor; with one objective it scales the step
    use_timestep: bool = True           # False withholds the timestep embedding from the head

    def __post_init__(self):
        if not isinstance(self.head, ReadoutHead):
            raise ValueError(f"head is {self.head!r}; pass a ReadoutHead, e.g. ReadoutHead.from_pretrained(folder)")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight is {self.weight}; pass a finite number of at least 0")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"start {self.start} and stop {self.stop} are fractions of the steps: 0 <= start < stop <= 1")

    def __call__(self, reading: Reading) -> Tensor:
        raise NotImplementedError

    def strength(self, step: int, steps: int) -> float:
        """Weight times schedule at this step, 0 outside the interval."""
        inside = int(self.start * steps + 1e-9) <= step < int(self.stop * steps + 1e-9)
        return inside * self.weight * (self.schedule(step / steps) if inside and self.schedule else 1.0)

    def check(self, pipe, batch: int, image_size: tuple[int, int]) -> None:
        """Raise ValueError where the objective does not fit the model, the batch or the picture (H, W in pixels)."""
        self.head.check(_unet(pipe))


@dataclass(kw_only=True, eq=False)
class SpatialObjective(Objective):
    """The readout is to equal a target map: mean squared error over channels and positions (paper, section 3.3)."""
    target: Tensor                      # (B or 1, k, h, w) or (k, h, w), resized to the readout by nearest neighbour
    mask: Tensor | None = None          # (B or 1, 1 or k, h, w) in [0, 1]: where, or in which channels, it matters
    distance: Callable | None = None    # (readout, target) -> (B, any, H, W); squared error by default
    scale_by_latents: bool = False      # True multiplies by the squared range of the latents, as the reference does

    def __post_init__(self):
        super().__post_init__()
        self.target = _map("target", self.target)
        self.mask = None if self.mask is None else _map("mask", self.mask, unit=True)
        k = self.head.config.out_channels
        if self.distance is None and self.target.shape[1] != k:
            raise ValueError(f"target has shape {tuple(self.target.shape)}, but this head reads (B, {k}, h, w)")
        if self.mask is not None and self.mask.shape[1] not in (1, k):
            raise ValueError(f"mask has shape {tuple(self.mask.shape)}; pass (B, 1, h, w) or (B, {k}, h, w)")

    def check(self, pipe, batch, image_size):
        super().check(pipe, batch, image_size)
        for name, value in (("target", self.target), ("mask", self.mask)):
            if value is not None:
                _rows(value, batch, name)

    def __call__(self, reading):
        readout = reading(self.head, self.use_timestep)                                 # (B, k, H, W)
        target = _resize(self.target.to(readout.device), readout.shape[-2:], "nearest")
        error = self.distance(readout, target) if self.distance else (readout - target.to(readout)) ** 2
        value = _masked_mean(error, self.mask)                                          # (B,)
        return value * _squared_range(reading.latents) if self.scale_by_latents else value


class Source:
    """The picture that a relative objective compares with: its features at any timestep, computed once, no gradient.

    `source(timestep, branch)` -> `Reading` of 1 or B pictures. Make one from a trajectory or from a clean picture.
    """

    def __init__(self, pipe, latents_at: Callable[[int], Tensor], prompt="", keep_all: bool = False,
                 timesteps: Iterable[int] = (), read_ahead: int = 4):
        """`latents_at(timestep)` -> noisy latents (1 or B, C, H, W). `keep_all` trades memory for later runs' time.

        `timesteps` are those of its trajectory, if it has one. Sampling asks for one after the other, so of a single
        picture `read_ahead` of them go through the denoiser as one batch, in less time than one by one.
        """
        if not isinstance(read_ahead, int) or read_ahead < 1:
            raise ValueError(f"read_ahead is {read_ahead!r}; pass a whole number of at least 1 (1 reads nothing ahead)")
        self.pipe, self.latents_at, self.keep_all, self.read_ahead = pipe, latents_at, keep_all, read_ahead
        self.conditioning, self._readings, self._timesteps = encode_prompt(pipe, prompt), {}, sorted(timesteps)

    @classmethod
    def from_states(cls, pipe, states: "Iterable[SampleState]", prompt="", keep_all=False, read_ahead=4) -> "Source":
        """From the states of `guided_sample` (a generated picture) or of `invert` (a real one)."""
        trajectory = {state.timestep: state.noisy_latents for state in states}

        def latents_at(timestep):
            if timestep not in trajectory:
                raise ValueError(f"the source has no latents at timestep {timestep}, only at {sorted(trajectory)}; "
                                 "sample or invert it with the same num_inference_steps")
            return trajectory[timestep]
        return cls(pipe, latents_at, prompt, keep_all, trajectory, read_ahead)

    @classmethod
    def from_picture(cls, pipe, pictures, prompt="", generator=None, keep_all=False) -> "Source":
        """From clean pictures (B, 3, H, W) or latents, noised with one fixed noise; needs no trajectory."""
        clean, scheduler = encode(pipe, pictures), ddim_scheduler(pipe)
        noise = randn_tensor(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
        return cls(pipe, lambda t: scheduler.add_noise(clean, noise, torch.tensor([t])), prompt, keep_all)

    @property
    def timesteps(self) -> list[int]:
        """The timesteps of its trajectory, ascending. Raises ValueError where it has none, as `from_picture`'s."""
        if not self._timesteps:
            raise ValueError("this source is a picture without a trajectory, so there is no noise to edit it from; invert "
                             "the picture and make it by Source.from_states(pipe, invert(pipe, picture, prompt), prompt)")
        return self._timesteps

    @property
    def start(self) -> Tensor:
        """The noise of its trajectory, (1 or B, C, h, w): pass it as `latents` to edit this very picture."""
        return self.latents_at(self.timesteps[-1])

    @torch.no_grad()
    def __call__(self, timestep, branch: str = "conditional") -> Reading:
        timestep = int(timestep)
        together = self._together(timestep)
        if not self.keep_all:
            self._readings = {key: reading for key, reading in self._readings.items() if key[0] in together}
        if (timestep, branch) not in self._readings:
            latents = torch.cat([self.latents_at(each) for each in together])
            latents = latents.to(self.pipe.unet.device, self.pipe.unet.dtype)           # (timesteps or B, C, H, W)
            asked = timestep if len(together) == 1 else torch.tensor(together, device=latents.device)
            several, = take_readings(self.pipe, latents, asked, self.conditioning, (branch,))
            for each, noisy, *features in zip(together, *(every.chunk(len(together)) for every in (latents, *several.features))):
                self._readings[each, branch] = Reading(several.unet, features, noisy, each, several.image_size, branch)
        return self._readings[timestep, branch]

    def _together(self, timestep) -> list[int]:
        """The timesteps that are read in one batch with this one: always the same, whatever was asked for before."""
        if timestep not in self._timesteps or {len(self.latents_at(timestep)), len(self.conditioning.prompt_embeds)} != {1}:
            return [timestep]                       # a clean picture, or several of them
        first = self._timesteps.index(timestep) // self.read_ahead * self.read_ahead
        return self._timesteps[first:first + self.read_ahead]


@dataclass(kw_only=True, eq=False)
class RelativeObjective(Objective):
    """An objective that compares the picture with a source."""
    source: Source

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.source):
            raise ValueError(f"source is {self.source!r}; pass a Source, e.g. Source.from_states(pipe, states, prompt)")

    def features(self, reading) -> tuple[Tensor, Tensor]:
        """Features of the picture (B, C, h, w) and, without gradient, of the source (1 or B, C, h, w)."""
        with torch.no_grad():
            source = self.source(reading.timestep, reading.branch)(self.head, self.use_timestep)
        return reading(self.head, self.use_timestep), source


@dataclass(kw_only=True, eq=False)
class CorrespondenceObjective(RelativeObjective):
    """What the source shows at each source point is to appear at the target point (drag; paper, section 3.3).

    The loss is -s(source point, target point) + `anti_ghosting` * s(source point, source point), averaged over the
    points and halved, with cosine similarities s mapped to [0, 1]: the second term discourages staying in place.
    A tensor (N,) says it for each point: what another point is moved to must not be pushed away.
    """
    source_points: Tensor               # (N, 2), (x, y) in pixels of the image
    target_points: Tensor               # (N, 2)
    anti_ghosting: float | Tensor = 1.0
    sampling: str = "bilinear"          # 'nearest' cell is the reference's

    def __post_init__(self):
        super().__post_init__()
        for name in ("source_points", "target_points"):
            points = torch.as_tensor(getattr(self, name), dtype=torch.float32)
            if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not points.isfinite().all():
                raise ValueError(f"{name} is {points.tolist()}; pass N >= 1 finite points (x, y)")
            setattr(self, name, points)
        if len(self.source_points) != len(self.target_points):
            raise ValueError(f"{len(self.source_points)} source points, but {len(self.target_points)} target points")
        if torch.as_tensor(self.anti_ghosting).shape not in ((), (len(self.source_points),)):
            raise ValueError(f"anti_ghosting has shape {tuple(self.anti_ghosting.shape)}; pass a number, or one for each "
                             f"of the {len(self.source_points)} points")
        _choice("sampling", self.sampling, ("nearest", "bilinear"))

    def check(self, pipe, batch, image_size):
        super().check(pipe, batch, image_size)
        for name in ("source_points", "target_points"):
            for x, y in getattr(self, name).tolist():
                if not (0 <= x < image_size[1] and 0 <= y < image_size[0]):
                    raise ValueError(f"{name} holds ({x:g}, {y:g}), outside the picture of {image_size[1]} x "
                                     f"{image_size[0]} pixels; points are (x, y) in pixels of the image")

    def __call__(self, reading):
        features, source = self.features(reading)
        cells = features.shape[-2:]
        here = point_weights(self.source_points.to(features), cells, reading.image_size, self.sampling)    # (N, h*w)
        there = point_weights(self.target_points.to(features), cells, reading.image_size, self.sampling)
        handle = F.normalize(here @ source.flatten(2).mT, dim=-1)                       # (1 or B, N, C)

        def similarity(where):                                                          # (N, h*w) -> (B, N)
            found = F.normalize(where @ features.flatten(2).mT, dim=-1)                 # (B, N, C)
            return ((handle * found).sum(-1) + 1) / 2
        staying = torch.as_tensor(self.anti_ghosting).to(features) * similarity(here)
        return (staying - similarity(there)).mean(-1) / 2                               # (B,)


@dataclass(kw_only=True, eq=False)
class AppearanceObjective(RelativeObjective):
    """The picture is to look like the source: 1 - cosine similarity, position by position (paper, section 3.3)."""
    boxes: tuple | None = None          # (box in the source, box in the picture), each (x0, y0, x1, y1) in pixels
    mask: Tensor | None = None          # (B or 1, 1, h, w) in [0, 1]: which positions count (without boxes)
    pool: bool = False                  # True compares `pool_features`: the same looks in another place or pose
    scale_by_latents: bool = False      # True multiplies by the squared range of the latents, as the reference does

    def __post_init__(self):
        super().__post_init__()
        self.mask = None if self.mask is None else _map("mask", self.mask, unit=True)
        if self.mask is not None and (self.boxes is not None or self.mask.shape[1] != 1):
            raise ValueError("pass either boxes or a mask (B, 1, h, w), not both")
        if self.boxes is not None and [len(box) for box in self.boxes] != [4, 4]:
            raise ValueError(f"boxes is {self.boxes}; pass (source box, picture box), each (x0, y0, x1, y1)")

    def check(self, pipe, batch, image_size):
        super().check(pipe, batch, image_size)
        for x0, y0, x1, y1 in self.boxes or ():
            if not (0 <= x0 < x1 <= image_size[1] and 0 <= y0 < y1 <= image_size[0]):
                raise ValueError(f"box ({x0}, {y0}, {x1}, {y1}) is not (x0, y0, x1, y1) with x0 < x1, y0 < y1 inside "
                                 f"the picture of {image_size[1]} x {image_size[0]} pixels")
        if self.mask is not None:
            _rows(self.mask, batch, "mask")

    def __call__(self, reading):
        features, source = self.features(reading)
        if self.boxes:
            size = features.shape[-2:]
            source, features = (_resize(_crop(each, box, reading.image_size), size)
                                for each, box in zip((source, features), self.boxes))
        if self.pool:
            weight = None if self.mask is None else _resize(self.mask.to(features), features.shape[-2:])
            source, features = pool_features(source, weight), pool_features(features, weight)
        distance = 1 - F.cosine_similarity(features, source, dim=1)[:, None]            # (B, 1, H, W)
        value = _masked_mean(distance, None if self.pool else self.mask)                # (B,)
        if self.scale_by_latents:
            value = value * _squared_range(reading.latents, self.source.latents_at(int(reading.timestep)))
        return value


# ---------------------------------------------------------------------------------------------------------------------
# 6  Guided sampling
# ---------------------------------------------------------------------------------------------------------------------


def normalized_step(gradients, mask=None) -> Tensor:
    """Along the gradient, with a root-mean-square length of 1 per latent element in each picture (our default)."""
    gradient = gradients[-1]
    cells = gradient[0].numel() if mask is None else mask.sum((1, 2, 3), keepdim=True) * gradient.shape[1]
    return gradient * (cells ** 0.5 / gradient.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20))


def sign_step(gradients, mask=None) -> Tensor:
    """Every element moves by 1, whatever the size of its gradient."""
    return gradients[-1].sign()


def adam_step(gradients, mask=None) -> Tensor:
    """Adam, started anew at each timestep, as in the reference: its first step is the sign of the gradient."""
    count = len(gradients)
    mean = sum(g * 0.1 * 0.9 ** (count - 1 - i) for i, g in enumerate(gradients)) / (1 - 0.9 ** count)
    square = sum(g ** 2 * 0.001 * 0.999 ** (count - 1 - i) for i, g in enumerate(gradients)) / (1 - 0.999 ** count)
    return mean / (square.sqrt() + 1e-8)


def gradient_step(gradients, mask=None) -> Tensor:
    """The bare gradient: the further from the goal, the longer; the step size depends on the loss."""
    return gradients[-1]


STEP_RULES = {"normalized": normalized_step, "sign": sign_step, "adam": adam_step, "gradient": gradient_step}


@dataclass
class Guidance:
    """How objectives move the latents. The reference is step_rule='adam', step_size=2e-2, gradient_branch='both'."""
    objectives: Iterable[Objective] = ()
    step_size: float = 5e-2                     # per latent element, see the step rules
    step_rule: str = "normalized"               # 'normalized', 'sign', 'adam' or 'gradient'
    gradient_branch: str = "conditional"        # 'both' also asks the negative prompt's branch, at twice the cost
    inner_steps: int = 1                        # moves at each timestep
    mask: Tensor | None = None                  # (B or 1, 1, h, w) in [0, 1]: which part of the picture may be moved

    def __post_init__(self):
        self.objectives = list(self.objectives)
        _choice("step_rule", self.step_rule, STEP_RULES)
        _choice("gradient_branch", self.gradient_branch, ("conditional", "both"))
        if not isinstance(self.inner_steps, int) or self.inner_steps < 1:
            raise ValueError(f"inner_steps is {self.inner_steps!r}; pass a whole number of at least 1")
        if not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise ValueError(f"step_size is {self.step_size}; pass a finite number of at least 0")
        self.mask = None if self.mask is None else _map("mask", self.mask, unit=True)
        self.branches = ("negative", "conditional") if self.gradient_branch == "both" else ("conditional",)

    def check(self, pipe, batch, image_size):
        for objective in self.objectives:
            objective.check(pipe, batch, image_size)

    def move(self, pipe, latents, timestep, step, steps, conditioning) -> tuple[Tensor, list]:
        """Move latents (B, C, H, W) towards the objectives; returns them and each one's loss (B,), None if inactive."""
        strengths = [objective.strength(step, steps) for objective in self.objectives]
        losses, gradients = [None] * len(strengths), []
        if not any(strengths):
            return latents, losses
        mask = None if self.mask is None else _resize(self.mask.to(latents.device, torch.float32), latents.shape[-2:])
        active = sum(objective.weight for objective, strength in zip(self.objectives, strengths) if strength)
        length = self.step_size * (1.0 if self.step_rule == "gradient" else sum(strengths) / active)
        for _ in range(self.inner_steps):
            gradient, losses = self.gradient(pipe, latents, timestep, strengths, conditioning)
            gradients.append(gradient if mask is None else gradient * mask)
            direction = STEP_RULES[self.step_rule](gradients, mask)
            latents = latents - (length * direction).to(latents)
        return latents, losses

    def gradient(self, pipe, latents, timestep, strengths, conditioning) -> tuple[Tensor, list]:
        """Gradient of the weighted sum of the objectives with respect to the latents: (B, C, H, W), float32."""
        scale = 2.0 ** 10 if latents.dtype == torch.float16 else 1.0        # small gradients vanish in half precision
        with torch.enable_grad(), _frozen(pipe.unet):
            latents = latents.detach().requires_grad_()
            readings = take_readings(pipe, latents, timestep, conditioning, self.branches)
            losses = [sum(objective(reading) for reading in readings) if strength else None
                      for objective, strength in zip(self.objectives, strengths)]
            total = sum(strength * loss.sum() for strength, loss in zip(strengths, losses) if strength)
            gradient, = torch.autograd.grad(total * scale, latents)
        return _finite(gradient, f"gradient at timestep {timestep}").float() / scale, [
            None if loss is None else loss.detach() for loss in losses]


@dataclass
class SampleState:
    """What `guided_sample` and `invert` yield after each step."""
    step: int                       # 0 for the first
    timestep: int
    noisy_latents: Tensor           # (B, C, H, W) at this timestep, after guidance: what the denoiser saw
    latents: Tensor                 # (B, C, H, W) after the step; in the last state the result
    clean_latents: Tensor           # (B, C, H, W), the denoiser's present guess of the result
    losses: list                    # one (B,) for each objective, or None where it is not active
    pipe: Any = field(repr=False)

    def preview(self) -> Tensor:
        """The present guess as pictures (B, 3, H, W) in [0, 1]; costs one run of the VAE's decoder, only on demand."""
        return decode(self.pipe, self.clean_latents)


def guided_sample(pipe, prompt, objectives: Iterable[Objective] = (), *, num_inference_steps: int = 50,
                  guidance_scale: float | None = None, negative_prompt=None, generator=None, latents: Tensor | None = None,
                  eta: float = 0.0, variance_noise=None, keep: Source | None = None, **guidance) -> Iterator[SampleState]:
    """Sample pictures with DDIM, guided by any number of objectives; a generator that yields after every step.

    At a guided step the denoiser runs once with gradient, the objectives read its features, and the gradient of their
    weighted sum moves the latents; then the scheduler takes its ordinary step from there (paper, section 3.3).
    Without objectives this is diffusers' own pipeline, number for number.

    Args:
        prompt: a string, a list of strings (B pictures), or a `Conditioning`.
        guidance_scale: how strictly the prompt is followed; 1 is the plain model. By default what the model's folder
            recommends (see `load_pipeline`), else 7.5 as in diffusers.
        generator: a CPU generator, or a list of one for each picture; CPU noise is the same for every device.
        latents: initial noise (B or 1, C, h, w), instead of drawing it.
        eta: 0 is deterministic, 1 adds DDPM's noise, which is `variance_noise` (steps, B or 1, C, h, w) if given.
        keep: a `Source`; outside `mask` the picture follows its trajectory.
        guidance: the settings of `Guidance`: step_size, step_rule, gradient_branch, inner_steps, mask.
    Raises ValueError at the call, before anything is sampled.
    """
    _unet(pipe)
    scheduler = ddim_scheduler(pipe, num_inference_steps)
    guidance_scale = getattr(pipe, "default_guidance_scale", 7.5) if guidance_scale is None else guidance_scale
    _check_numbers(guidance_scale, eta)
    guide = Guidance(objectives, **guidance)
    conditioning = encode_prompt(pipe, prompt, negative_prompt, _image_size(pipe, latents))
    latents = _initial_latents(pipe, conditioning, latents, generator)
    guide.check(pipe, latents.shape[0], _image_size(pipe, latents))
    if variance_noise is not None and len(variance_noise) != num_inference_steps:
        raise ValueError(f"variance_noise holds {len(variance_noise)} steps of noise, not {num_inference_steps}; pass as many "
                         "as num_inference_steps (for a drag: with which its source was sampled)")
    if keep is not None and guide.mask is None:
        raise ValueError("keep needs a mask (B, 1, h, w): 1 where the picture may change, 0 where it is kept")
    noises = [None] * num_inference_steps if variance_noise is None else variance_noise
    return _sample(pipe, scheduler, guide, conditioning, latents, guidance_scale, eta, noises, generator, keep)


@torch.no_grad()
def _sample(pipe, scheduler, guide, conditioning, latents, guidance_scale, eta, noises, generator, keep):
    steps = len(scheduler.timesteps)
    for step, (timestep, noise) in enumerate(zip(scheduler.timesteps.tolist(), noises)):
        if keep is not None:
            free = _resize(guide.mask.to(latents), latents.shape[-2:])
            latents = latents * free + keep.latents_at(timestep).to(latents) * (1 - free)
        latents, losses = guide.move(pipe, latents, timestep, step, steps, conditioning)
        output = predict(pipe.unet, latents, timestep, conditioning, guidance_scale)
        moved, clean = scheduler.step(output, timestep, latents, eta=eta, generator=generator if noise is None else None,
                                      variance_noise=None if noise is None else noise.to(latents), return_dict=False)
        noisy, latents = latents, _finite(moved, f"latents after timestep {timestep}")
        yield SampleState(step, timestep, noisy, latents, clean, losses, pipe)


def predict(unet, latents, timestep, conditioning, guidance_scale) -> Tensor:
    """The denoiser's output under classifier-free guidance: (B, C, H, W). A scale of 1 or less runs one branch only."""
    batch = latents.shape[0]
    embeds, added = conditioning.branch("conditional", batch)
    if guidance_scale <= 1:
        return denoise(unet, latents, timestep, embeds, added)
    negative_embeds, negative_added = conditioning.branch("negative", batch)
    added = {key: torch.cat([negative_added[key], added[key]]) for key in added}
    output = denoise(unet, torch.cat([latents] * 2), timestep, torch.cat([negative_embeds, embeds]), added)
    negative, conditional = output.chunk(2)                                             # 2 x (B, C, H, W)
    return negative + guidance_scale * (conditional - negative)


def sample(pipe, prompt, objectives=(), **settings) -> tuple[Tensor, Tensor]:
    """Run `guided_sample` to its end: pictures (B, 3, H, W) in [0, 1] and latents (B, C, h, w)."""
    for state in guided_sample(pipe, prompt, objectives, **settings):
        pass
    return decode(pipe, state.latents), state.latents


def ddim_scheduler(pipe, num_inference_steps: int | None = None) -> DDIMScheduler:
    """A DDIM scheduler with the pipeline's noise schedule and prediction type; the pipeline's own is left alone."""
    config = dict(getattr(getattr(pipe, "scheduler", None), "config", {}))
    if "beta_schedule" not in config:
        raise ValueError(f"the scheduler {type(getattr(pipe, 'scheduler', None)).__name__} has no beta schedule; DDIM "
                         "needs a diffusion model such as Stable Diffusion, not one trained with flow matching")
    scheduler = DDIMScheduler.from_config({"clip_sample": False, **config})
    if num_inference_steps is not None:
        limit = scheduler.config.num_train_timesteps
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= limit:
            raise ValueError(f"num_inference_steps is {num_inference_steps!r}; pass a whole number from 1 to {limit}")
        scheduler.set_timesteps(num_inference_steps)
    return scheduler


class GuidanceCallback:
    """Guide any diffusers pipeline that has a `unet`: img2img, ControlNet, inpainting, another scheduler.

    `callback = GuidanceCallback(objectives)`, then
    `pipe(prompt, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=callback.inputs(pipe))`.
    After each step the latents are moved for the next timestep, so the first step is not guided. A pipeline does not
    tell its callback about ControlNet's residuals, so the readout is taken without them.
    """

    def __init__(self, objectives, **guidance):
        self.guide, self.losses = Guidance(objectives, **guidance), []

    @staticmethod
    def inputs(pipe) -> list[str]:
        wanted = ("latents", "prompt_embeds", "add_text_embeds", "add_time_ids")
        return [name for name in wanted if name in pipe._callback_tensor_inputs]

    def __call__(self, pipe, step, timestep, tensors) -> dict:
        timesteps = pipe.scheduler.timesteps.tolist()
        if step == 0:
            self.losses = []
            self.guide.check(pipe, len(tensors["latents"]), _image_size(pipe, tensors["latents"]))
        if step + 1 < len(timesteps):
            tensors["latents"] = self._move(pipe, step + 1, timesteps, tensors)
        return tensors

    def _move(self, pipe, step, timesteps, tensors) -> Tensor:
        latents, timestep = tensors["latents"], timesteps[step]
        count = latents.shape[0]
        rows = [value[-count:] for value in (tensors[name] for name in self.inputs(pipe)[1:])]     # conditional rows
        negative = tensors["prompt_embeds"][:-count] if len(tensors["prompt_embeds"]) > count else None
        added = dict(zip(("text_embeds", "time_ids"), rows[1:]))
        negative_added = dict(zip(("text_embeds", "time_ids"), (tensors[name][:count] for name in self.inputs(pipe)[2:])))
        conditioning = Conditioning(rows[0], negative, added, negative_added)
        scaled = pipe.scheduler.scale_model_input(latents, torch.tensor(timestep))      # Euler's latents are larger
        moved, losses = self.guide.move(pipe, scaled, timestep, step, len(timesteps), conditioning)
        self.losses.append(losses)
        return latents + (moved - scaled) * (latents.norm() / scaled.norm())


# ---------------------------------------------------------------------------------------------------------------------
# 7  Inversion: from a picture back to noise
# ---------------------------------------------------------------------------------------------------------------------


def invert(pipe, pictures: Tensor, prompt="", *, num_inference_steps: int = 50, guidance_scale: float = 1.0,
           negative_prompt=None, fixed_point_iterations: int = 0) -> Iterator[SampleState]:
    """Run DDIM backwards; a generator of states at rising timesteps, the last of which holds the noise.

    A DDIM step from t down to s uses the noise predicted at (x_t, t). Its inverse knows x_s only, so plain inversion
    predicts at (x_s, t); each fixed-point iteration predicts again at the x_t just found, and converges to the inverse.
    Sample from the last state's latents with the same prompt, steps and scale to get the pictures back;
    `Source.from_states(pipe, states, prompt)` makes them a source. Raises ValueError at the call.

    Args:
        pictures: (B, 3, H, W) in [0, 1], or clean latents (B, C, h, w).
    """
    _unet(pipe)
    scheduler = ddim_scheduler(pipe, num_inference_steps)
    _check_numbers(guidance_scale)
    if not isinstance(fixed_point_iterations, int) or fixed_point_iterations < 0:
        raise ValueError(f"fixed_point_iterations is {fixed_point_iterations!r}; pass a whole number of at least 0")
    conditioning = encode_prompt(pipe, prompt, negative_prompt)
    latents = _finite(encode(pipe, pictures), "latents to invert")
    return _invert(pipe, scheduler, conditioning, latents, guidance_scale, fixed_point_iterations)


@torch.no_grad()
def _invert(pipe, scheduler, conditioning, latents, guidance_scale, fixed_point_iterations):
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    for step, timestep in enumerate(reversed(scheduler.timesteps.tolist())):
        alpha, before = scheduler.alphas_cumprod[timestep], scheduler.final_alpha_cumprod
        before = scheduler.alphas_cumprod[timestep - stride] if timestep >= stride else before
        guess = latents
        for _ in range(1 + fixed_point_iterations):
            output = predict(pipe.unet, guess, timestep, conditioning, guidance_scale)
            noise = predicted_noise(scheduler, output, guess, alpha)
            clean = (latents - (1 - before).sqrt() * noise) / before.sqrt()
            guess = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        latents = _finite(guess, f"inverted latents at timestep {timestep}")
        yield SampleState(step, timestep, latents, latents, clean, [], pipe)


def predicted_noise(scheduler, output, latents, alpha) -> Tensor:
    """The noise in latents (B, C, H, W), whichever of noise, velocity and clean sample the model predicts."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha.sqrt() * output + (1 - alpha).sqrt() * latents
    return (latents - alpha.sqrt() * output) / (1 - alpha).sqrt()


# ---------------------------------------------------------------------------------------------------------------------
# Small helpers: shapes, checks, files
# ---------------------------------------------------------------------------------------------------------------------


def _resize(x, size, mode="bilinear") -> Tensor:
    """(B, C, H, W) -> (B, C, *size)."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, tuple(size), mode=mode)


def _crop(features, box, image_size) -> Tensor:
    """Cut a box (x0, y0, x1, y1) in pixels out of features (B, C, h, w), at least one cell large."""
    h, w = features.shape[-2:]
    x0, x1 = (int(x * w / image_size[1]) for x in box[0::2])
    y0, y1 = (int(y * h / image_size[0]) for y in box[1::2])
    return features[:, :, y0:max(y1, y0 + 1), x0:max(x1, x0 + 1)]


def _masked_mean(error, mask=None) -> Tensor:
    """Mean of (B, C, H, W) over all but B, weighted by a mask (B or 1, C or 1, h, w): (B,)."""
    if mask is None:
        return error.mean((1, 2, 3))
    mask = _resize(mask.to(error), error.shape[-2:]).expand(error.shape)
    return (error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1e-8)


def _squared_range(*latents) -> Tensor:
    """(max - min) squared of each picture's latents (B or 1, C, H, W), taken together: (B,)."""
    highest = torch.stack(torch.broadcast_tensors(*(each.detach().amax((1, 2, 3)) for each in latents))).amax(0)
    lowest = torch.stack(torch.broadcast_tensors(*(each.detach().amin((1, 2, 3)) for each in latents))).amin(0)
    return (highest - lowest) ** 2


def _rows(tensor, batch, name) -> Tensor:
    """Repeat a single row for the whole batch; any other number of rows than 1 or `batch` is an error."""
    if tensor.shape[0] not in (1, batch):
        raise ValueError(f"{name} has {tensor.shape[0]} rows for {batch} pictures; pass 1 or {batch}")
    return tensor.expand(batch, *tensor.shape[1:])


def _map(name, value, unit=False) -> Tensor:
    """A finite (B, C, H, W) tensor, in [0, 1] if `unit`; (C, H, W) gets its batch axis."""
    if not torch.is_tensor(value) or value.ndim not in (3, 4) or not value.numel():
        raise ValueError(f"{name} must be a tensor (B, C, H, W) or (C, H, W), not {tuple(getattr(value, 'shape', ()))} "
                         f"{type(value).__name__}")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity at {int((~value.isfinite()).sum())} places")
    if unit and (value.min() < 0 or value.max() > 1):
        raise ValueError(f"{name} lies in [{float(value.min()):g}, {float(value.max()):g}]; pass values in [0, 1]")
    return value if value.ndim == 4 else value[None]


def _finite(tensor, what) -> Tensor:
    if not tensor.isfinite().all():
        raise ValueError(f"{what}: NaN or infinite values. In half precision (now {tensor.dtype}) this is an overflow: "
                         "use float32, or bfloat16; otherwise lower step_size or lr")
    return tensor


def _choice(name, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_numbers(guidance_scale, eta=0.0) -> None:
    if not math.isfinite(guidance_scale) or not 0 <= eta <= 1:
        raise ValueError(f"guidance_scale {guidance_scale} must be finite and eta {eta} in [0, 1]")


def _unet(pipe):
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no `unet`; Readout Guidance reads the decoder of a UNet, so pass a "
                         "Stable Diffusion or SDXL pipeline (transformers such as SD 3 and Flux have none)")
    return pipe.unet


def _image_size(pipe, latents=None) -> tuple[int, int]:
    """(H, W) of the picture in pixels, for latents (B, C, h, w) or for the model's own size."""
    shape = latent_shape(pipe) if latents is None else latents.shape
    return shape[-2] * vae_factor(pipe), shape[-1] * vae_factor(pipe)


def _initial_latents(pipe, conditioning, latents, generator) -> Tensor:
    """Given or fresh noise, (B, C, h, w), one row for each prompt."""
    prompts, unet = conditioning.prompt_embeds.shape[0], pipe.unet
    if latents is None:
        return randn_tensor((prompts, *latent_shape(pipe)), generator=generator, device=unet.device, dtype=unet.dtype)
    if latents.ndim != 4 or latents.shape[1] != unet.config.in_channels:
        raise ValueError(f"latents have shape {tuple(latents.shape)}, not (B, {unet.config.in_channels}, h, w)")
    batch = latents.shape[0] if prompts == 1 else prompts
    return _rows(_finite(latents, "initial latents"), batch, "latents").to(unet.device, unet.dtype)


@contextmanager
def _frozen(module):
    """No gradient is kept for the module's parameters inside; what required one before does so again afterwards."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _save_tensors(tensors, path, metadata=None) -> None:
    """Write a safetensors file aside, then move it in place: a killed run leaves the old file or the new one."""
    aside = Path(f"{path}.tmp")     # as bytes: `save_file` of safetensors 0.8 writes files that only their owner can read
    aside.write_bytes(to_safetensors({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, metadata))
    os.replace(aside, path)


def _load_tensors(path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); delete it and make or fetch it "
                         "again") from error
