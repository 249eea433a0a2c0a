"""What a guided step costs, part by part, for models of the true sizes; none of their weights is needed.

    python -m rg_minimal.cost sd15                      predict: every tensor of the step is counted, none is computed
    python -m rg_minimal.cost sd15 --run plain least    compute it as well, with random weights on the CPU, and compare

The prediction runs the very step on tensors that have a shape and no numbers (torch's `FakeTensorMode`) and counts the bytes
that live at a time: weights, what is kept for the backward pass, what comes and goes. A kernel's own workspace is not seen.
Savings are settings of the pipeline, of its network, or of the head; all but `resize_late` leave the gradient as it is.
"""
from __future__ import annotations

import argparse
import ctypes
import json
import re
import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from pydantic import InstanceOf
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from .checks import Count, Declared, Entries, Positive, Seed, Truth, Words, checked, declared, one_sentence, option, stoppable
from .conditioning import Conditioning
from .denoisers import Denoiser, denoiser
from .files import read_json, refuse_file, update_json
from .maps import resize
from .pipelines import find_folder
from .readout import HeadConfig, predict, sign_step, take_readings
from .saving import ReadoutHead
from .undo import frozen, seeded, undone

GB = 10 ** 9
RESERVED = 0.5 * GB                     # of a card, for its driver's context
MARGIN = 0.1                            # what is predicted may be less than what is needed by this share, see the README
TIMESTEP, SCALE = 500, 7.5

# ---- sizes -------------------------------------------------------------------------------------------------------------

NETWORKS = {network.__name__: network for network in (UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel)}
CROSS, PLAIN_DOWN, CROSS_UP, PLAIN_UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"


@dataclass
class Size(Declared):
    """An architecture without weights. `config` says where it differs from the class's own defaults."""
    network: Any                        # the class, one of NETWORKS
    config: Entries
    pixels: Count                       # sides of the pictures that it was made for
    tokens: Count = 77                  # of a prompt
    texts: tuple = ()                   # its text encoders, names of TEXTS
    factor: Count = 8                   # pixels of a picture for each cell of the latents, along one side
    decoder: Entries = field(default_factory=dict)      # of the autoencoder, where it differs from Stable Diffusion's

    @classmethod
    def of(cls, pipe) -> "Size":
        """That of a pipeline at hand."""
        model = denoiser(pipe)
        tokenizer = getattr(pipe, "tokenizer", None)
        return cls(type(model.network), dict(model.config), model.image_size()[0], min(getattr(tokenizer, "model_max_length", 77), 512),
                   factor=model.factor)


SIZES = {
    "sd15": Size(UNet2DConditionModel, dict(sample_size=64, cross_attention_dim=768), 512, texts=("CLIP L",)),
    "sd21": Size(UNet2DConditionModel, dict(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True), 768, texts=("CLIP H",)),
    "sdxl": Size(UNet2DConditionModel, dict(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        down_block_types=(PLAIN_DOWN, CROSS, CROSS), up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP), transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816), 1024, texts=("CLIP L", "CLIP G")),
    "sd3-medium": Size(SD3Transformer2DModel, dict(
        sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, joint_attention_dim=4096,
        pooled_projection_dim=2048, pos_embed_max_size=192), 1024, tokens=333, texts=("CLIP L", "CLIP G", "T5 XXL"),
        decoder=dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)),
    "flux-dev": Size(FluxTransformer2DModel, dict(guidance_embeds=True), 1024, tokens=512, texts=("CLIP L", "T5 XXL"),
                     decoder=dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False))}
TEXTS = {
    "CLIP L": (CLIPTextModel, CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)),
    "CLIP H": (CLIPTextModel, CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)),
    "CLIP G": (CLIPTextModelWithProjection, CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                                                           num_attention_heads=20, projection_dim=1280)),
    "T5 XXL": (T5EncoderModel, T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                                        feed_forward_proj="gated-gelu"))}
AUTOENCODER = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                   down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTypeName = Literal["float32", "bfloat16", "float16"]


def size_of(name) -> Size:
    """A name of `SIZES`, or a folder in diffusers' layout, whose config is read. ValueError for anything else."""
    if isinstance(name, Size) or isinstance(name, str) and name in SIZES:
        return name if isinstance(name, Size) else SIZES[name]
    folder = Path(find_folder(name)) if isinstance(name, str) and name.strip() else None
    for part in ("unet", "transformer"):
        config = read_json(folder / part / "config.json") if folder is not None and (folder / part / "config.json").is_file() else {}
        if config.get("_class_name") in NETWORKS:
            autoencoder, tokenizer = (read_json(each) if each.is_file() else {} for each in (
                folder / "vae" / "config.json", folder / "tokenizer" / "tokenizer_config.json"))
            factor = 2 ** (len(autoencoder.get("block_out_channels", [1] * 4)) - 1)
            return Size(NETWORKS[config["_class_name"]], {key: value for key, value in config.items() if not key.startswith("_")},
                        config.get("sample_size", 128) * factor, min(tokenizer.get("model_max_length", 77), 512), factor=factor)
    raise ValueError(f"size is {name!r}; choose one of {', '.join(SIZES)}, or a folder of a model with one of {', '.join(NETWORKS)}")


# ---- savings -----------------------------------------------------------------------------------------------------------

@dataclass
class Savings(Declared):
    """What makes a guided step smaller. Each is one line: see `apply`."""
    stop_early: Truth = False           # the pass with gradient ends behind the last layer that is read
    one_branch_at_a_time: Truth = False # the prediction runs the branches one after the other
    small_head: Truth = False           # the head computes in the network's number format; otherwise in float32, as it is loaded
    checkpointing: Truth = False        # the pass is computed again, part by part, instead of being kept
    sliced_attention: Truth = False     # diffusers' older remedy, which keeps all slices where there is a gradient
    resize_late: Truth = False          # of the head, see `HeadConfig`: other numbers

    def apply(self, pipe, head: nn.Module) -> None:
        """Set them on a pipeline (or what stands for one) and a head."""
        network = denoiser(pipe).network
        if self.sliced_attention and not hasattr(network, "set_attention_slice"):
            raise ValueError(f"sliced_attention is True, but {type(network).__name__} has no slices; leave it out")
        if self.resize_late and not head.config.resize_late:
            raise ValueError("resize_late is True, but this head was trained without it, and would read other numbers; train one whose HeadConfig has it")
        pipe.stop_early, pipe.one_branch_at_a_time = self.stop_early, self.one_branch_at_a_time
        number = network.dtype if self.small_head else torch.float32
        if head.mixing_weights.dtype != number:
            head.to(number)
        network.enable_gradient_checkpointing() if self.checkpointing else network.disable_gradient_checkpointing()
        sliced = any(type(each).__name__.startswith("Sliced") for each in getattr(network, "attn_processors", {}).values())
        if self.sliced_attention != sliced:                 # where it is as it should be, other processors stay
            network.set_attention_slice(1 if self.sliced_attention else None)


LEAN = Savings(stop_early=True, one_branch_at_a_time=True, small_head=True)
PRESETS = {"plain": Savings(), "lean": LEAN, "least": replace(LEAN, checkpointing=True),
           "sliced": Savings(sliced_attention=True)}
LADDER = ("plain", "lean", "least")     # from the fastest to the smallest


# ---- counting ----------------------------------------------------------------------------------------------------------

@dataclass
class Part:
    """What one part of a step took."""
    seconds: float = 0.0                # of the processor
    peak: int = 0                       # bytes that lived at most
    kept: int = 0                       # bytes that live longer than the part, less what it freed
    span: tuple[int, int] = (0, 0)      # its first operation, and the one behind its last


class Tally(TorchDispatchMode):
    """Counts the bytes of the tensors that live at a time: `with Tally() as tally:`; `tally.part(name)` around each part.

    What was there before is counted by `add`. Tensors that share memory are counted once. Works for real and for fake ones.
    """

    def __init__(self):
        super().__init__()
        self.parts: dict[str, Part] = {}
        self.live = self.most = 0
        self.course: list[int] = []     # what lived after each operation
        self.seen: dict[int, weakref.finalize] = {}

    def add(self, *things) -> None:
        for tensor in tree_leaves(things):
            if isinstance(tensor, Tensor):
                self.count(tensor)

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.seen:
            size = storage.nbytes()
            self.seen[key] = weakref.finalize(storage, self.gone, key, size)
            self.live += size
            self.most = max(self.most, self.live)

    def gone(self, key: int, size: int) -> None:
        del self.seen[key]
        self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.add(made)
        self.course.append(self.live)
        return made

    @contextmanager
    def part(self, name: str):
        before, self.most, first, began = self.live, self.live, len(self.course), time.process_time()
        yield
        self.parts[name] = Part(time.process_time() - began, self.most, self.live - before, (first, len(self.course)))


class Clock:
    """The same interface, and nothing but time: counting costs a little itself. Of the processor, or by the clock on the wall where
    the work is a GPU's, which is waited for."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.parts: dict[str, Part] = {}
        self.device = torch.device(device)

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str):
        began = self.now()
        yield
        self.parts[name] = Part(self.now() - began)


# ---- the steps ---------------------------------------------------------------------------------------------------------

@dataclass
class Setup:
    """Everything that a step needs, with random numbers in it."""
    model: Denoiser
    head: ReadoutHead
    target: Tensor                      # (1, k, h, w)
    told: Conditioning
    latents: Tensor                     # (1, C, h, w)

    def loss(self, readout: Tensor) -> Tensor:
        """That of a `SpatialObjective`, whose checks of the numbers need numbers: one for each picture, (B,)."""
        return (readout - self.target.to(readout)).square().mean((1, 2, 3))

    @property
    def weights(self) -> list[Tensor]:
        return [*self.model.network.parameters(), *self.model.network.buffers(), *self.head.parameters()]


@declared
def set_up(size, height: Count | None = None, width: Count | None = None, savings: InstanceOf[Savings] | None = None, dtype: DTypeName = "float32",
           network=None, head_settings: Entries | None = None, seed: Seed = 0) -> Setup:
    """A model of this size with random weights (or `network`, which is left as it is but for the savings), and a random head.

    Inside a `FakeTensorMode` nothing is computed or allocated. ValueError for an unknown size, and for sides that do not suit.
    """
    size, savings, number = size_of(size), savings or Savings(), DTYPES[dtype]
    made = build(size, number, seed) if network is None else network
    rng = torch.Generator().manual_seed(seed)
    stands_for = SimpleNamespace(**{"unet" if isinstance(made, UNet2DConditionModel) else "transformer": made}, scheduler=None,
                                 vae_scale_factor=size.factor)
    model, config, device = denoiser(stands_for), made.config, made.device

    def noise(*shape):
        return torch.randn(shape, generator=rng).to(device, number)
    shape = model.latent_shape(height or size.pixels, width or height or size.pixels)
    added = {"text_embeds": lambda: noise(1, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim),
             "time_ids": lambda: torch.full((1, 6), float(size.pixels)).to(device, number),
             "pooled_projections": lambda: noise(1, config.pooled_projection_dim)}
    strange = [need for need in model.needs if need not in added]
    if strange or model.width is None:
        raise ValueError(f"{type(made).__name__} with {', '.join(strange) or 'such a text'} is not one whose cost is known here; take one of "
                         f"{', '.join(SIZES)}, or a folder of such a model")
    extras = [{need: added[need]() for need in model.needs} for _ in range(2)]
    told = Conditioning(noise(1, size.tokens, model.width), noise(1, size.tokens, model.width), *extras)
    late = {"resize_late": True} if savings.resize_late else {}
    with seeded(seed), numbers_of(number if savings.small_head else torch.float32):
        head = ReadoutHead(HeadConfig.for_model(model, **{"out_channels": 3, **(head_settings or {})} | late)).eval()
    head = head if detect_fake_mode() else head.to(device)              # what is faked lies where it was made
    savings.apply(stands_for, head)
    return Setup(model, head, torch.zeros(1, head.config.out_channels, *shape[1:], device=device), told, noise(1, *shape))


def build(size: Size, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The network with random weights that keep numbers of a decent size; made without a copy in another number format."""
    fake = detect_fake_mode() is not None
    with torch.device("cpu" if fake else "meta"), numbers_of(dtype):
        network = size.network.from_config(size.config).eval().requires_grad_(False)
    if fake:
        return network
    network.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*network.named_parameters(), *network.named_buffers()]:
            if weight.ndim > 1:
                weight.uniform_(-1, 1, generator=rng).mul_((3 / weight[0].numel()) ** 0.5)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return network


def settings_of(head) -> dict[str, Any]:
    """What a head's config has beside the model's channels: `head_settings` of `set_up`, for a head like this one."""
    return {name: value for name, value in vars(head.config).items() if name not in ("layer_channels", "embedding_channels")}


@contextmanager
def numbers_of(dtype: torch.dtype):
    """Weights that are made inside have this number format."""
    before = torch.get_default_dtype()
    with undone(lambda: torch.set_default_dtype(before)):
        torch.set_default_dtype(dtype)
        yield


def unguided_step(setup: Setup, watch) -> Tensor:
    """The prediction under classifier-free guidance, (1, C, h, w)."""
    with torch.no_grad(), watch.part("prediction"):
        return predict(setup.model, setup.latents, TIMESTEP, setup.told, SCALE)


def guided_step(setup: Setup, watch, branches=("conditional",)) -> Tensor:
    """A guided step as `readout.guided_prediction` takes it, part by part. Returns the gradient (1, C, h, w)."""
    with setup.model.frozen(), torch.enable_grad():
        latents = setup.latents.detach().requires_grad_()
        with watch.part("pass with gradient"):
            readings = take_readings(setup.model, latents, TIMESTEP, setup.told, branches, SCALE)
        with watch.part("head"):
            loss = sum(setup.loss(reading(setup.head)) for reading in readings).sum()
        with watch.part("backward"):
            gradient, = torch.autograd.grad(loss, latents)
        del readings, loss
    with torch.no_grad(), watch.part("prediction"):
        predict(setup.model, latents.detach() - 2e-2 * sign_step([gradient]), TIMESTEP, setup.told, SCALE)
    return gradient


def reference_step(setup: Setup, watch) -> Tensor:
    """A guided step of one edited picture as the authors' code takes it. Returns the gradient of the edited picture (1, C, h, w).

    From the description of it, since it is not part of this repository: source and edited picture, both branches, are one batch
    of four in each of three passes, one of them with gradient; all features are brought to the latents' size and put side by
    side before the bottlenecks, for all four rows; the loss is that of both branches of the edited picture; Adam, begun anew,
    moves by the sign. Taken for granted, in its favour: a frozen network and head, the fused attention of today's torch, the
    head in the network's number format, and that the two passes without gradient keep nothing.
    """
    model, both = setup.model, ("negative", "conditional")
    pictures = torch.cat([setup.latents.flip(-1), setup.latents])                       # source, edited
    with torch.no_grad(), watch.part("first pass"):
        predict(model, pictures, TIMESTEP, setup.told, SCALE)
    with model.frozen(), frozen(setup.head), torch.enable_grad():
        latents = pictures.detach().requires_grad_()
        with watch.part("pass with gradient"):
            readings = take_readings(model, latents, TIMESTEP, setup.told, both, SCALE)
        with watch.part("head"):
            size = latents.shape[-2:]
            rows = [torch.cat(parts) for parts in zip(*(reading.features for reading in readings))]
            side_by_side = torch.cat([resize(each, size) for each in rows], dim=1)      # (4, sum of C_l, h, w)
            split = side_by_side.to(setup.head.mixing_weights).split([each.shape[1] for each in rows], dim=1)
            readout = setup.head(split, setup.head.embed(readings[0]), size)            # (4, k, h, w)
            loss = setup.loss(readout[1::2]).sum()
        with watch.part("backward"):
            gradient, = torch.autograd.grad(loss, latents)
        del readings, rows, side_by_side, split, readout, loss
    with torch.no_grad(), watch.part("prediction"):
        predict(model, latents.detach() - 2e-2 * sign_step([gradient]), TIMESTEP, setup.told, SCALE)
    return gradient[1:]


def step_of(name: str):
    """The function and the savings that a name stands for: 'unguided', 'reference', or one of `PRESETS` for a guided step."""
    steps = {"unguided": (unguided_step, Savings()), "reference": (reference_step, Savings(small_head=True)),
             **{preset: (guided_step, savings) for preset, savings in PRESETS.items()}}
    if name not in steps:
        raise ValueError(f"step is {name!r}; choose one of {', '.join(steps)}")
    return steps[name]


# ---- prediction --------------------------------------------------------------------------------------------------------

@dataclass
class Needs:
    """Bytes that a step needs: its weights, and each of its parts."""
    weights: int
    parts: dict[str, Part]
    course: list[int]                   # what lived after each operation

    @property
    def peak(self) -> int:
        return max(part.peak for part in self.parts.values())

    @property
    def kept(self) -> int:
        """What lives when the backward pass begins, beside the weights."""
        return sum(self.parts[name].kept for name in ("pass with gradient", "head") if name in self.parts)


def tallied(step, setup: Setup) -> Needs:
    """Run a step, with real or fake tensors, and count."""
    with Tally() as tally:
        tally.add(setup.weights)
        weights = tally.live
        tally.add(setup.told.prompt_embeds, setup.told.negative_prompt_embeds, setup.latents, setup.target)
        step(setup, tally)
    return Needs(weights, tally.parts, tally.course)


@declared
def predict_needs(size, step: Words = "plain", height: Count | None = None, width: Count | None = None, dtype: DTypeName = "bfloat16",
                  savings: InstanceOf[Savings] | None = None, head_settings: Entries | None = None) -> Needs:
    """What a step of a model of this size needs, without running it. `step`: see `step_of`; `savings` stand for the step's own.

    Predicted from the operations that torch's CPU runs; a GPU's fused attention keeps as much. ValueError as of `set_up`.
    """
    run, own = step_of(step)
    with FakeTensorMode():
        return tallied(run, set_up(size, height, width, savings or own, dtype, head_settings=head_settings))


def parameters(make) -> int:
    with torch.device("meta"):
        made = make()
        return sum(weight.numel() for weight in [*made.parameters(), *made.buffers()])


def predict_decoding(size: Size, pixels: int, dtype: str, tiled: bool) -> int:
    """Bytes that the autoencoder needs to decode one picture, its weights included."""
    with FakeTensorMode(), numbers_of(DTYPES[dtype]):
        autoencoder = AutoencoderKL(**{**AUTOENCODER, **size.decoder}).eval()
        latents = torch.zeros(1, autoencoder.config.latent_channels, pixels // size.factor, pixels // size.factor)
        if tiled:
            autoencoder.enable_tiling()
        with Tally() as tally, torch.no_grad():
            tally.add(list(autoencoder.parameters()))
            autoencoder.decode(latents)
    return tally.most


def predicted(name: str, pixels: int | None = None, dtype: str = "bfloat16", memory=(6, 8, 16, 24)) -> dict:
    """The row of a named size in the table of what fits where: gigabytes, and for each memory the first of `LADDER` that fits."""
    size = size_of(name)
    pixels = pixels or size.pixels
    needs = {step: predict_needs(size, step, pixels, dtype=dtype) for step in ("unguided", *LADDER)}
    if size.network is UNet2DConditionModel:
        needs["sliced"] = predict_needs(size, "sliced", pixels, dtype=dtype)
    needs["reference"] = predict_needs(size, "reference", pixels, dtype=dtype)
    bytes_each = DTYPES[dtype].itemsize
    autoencoder = bytes_each * parameters(lambda: AutoencoderKL(**{**AUTOENCODER, **size.decoder}))
    decoding = {tiled: predict_decoding(size, pixels, dtype, tiled == "tiled") for tiled in ("whole", "tiled")}

    def card(step):
        """The larger of sampling, with the autoencoder beside it, and of decoding, with the network beside it."""
        decoder = decoding["tiled" if step == "least" else "whole"]
        return max(needs[step].peak + autoencoder, needs[step].weights + decoder) * (1 + MARGIN) + RESERVED
    return {"pixels": pixels, "dtype": dtype, "million_weights": round(parameters(lambda: size.network.from_config(size.config)) / 1e6, 1),
            "predicted_gb": {step: round(each.peak / GB, 3) for step, each in needs.items()},
            "kept_gb": {step: round(each.kept / GB, 2) for step, each in needs.items() if each.kept},
            "text_encoders_gb": round(sum(bytes_each * parameters(lambda: TEXTS[text][0](TEXTS[text][1])) for text in size.texts) / GB, 2),
            "decoding_gb": {how: round(each / GB, 2) for how, each in decoding.items()},
            "card_gb": {step: round(card(step) / GB, 1) for step in LADDER},
            "fits": {f"{limit:g}": next((step for step in LADDER if card(step) <= limit * GB), "no") for limit in memory}}


# ---- measurement -------------------------------------------------------------------------------------------------------

def resident(what: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes that this process holds (VmRSS), or held at most since `forget_peak` (VmHWM). ValueError but on Linux."""
    try:
        return 1024 * int(re.search(rf"^{what}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])
    except (OSError, TypeError):
        raise ValueError("this system does not say how much memory a process holds: measure on Linux") from None


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def give_back_at_once() -> None:
    """Have freed blocks of more than 64 KB go back to the system, so that the resident memory is what is in use."""
    try:
        ctypes.CDLL(None).mallopt(-3, 1 << 16)                  # M_MMAP_THRESHOLD of the GNU library
    except (AttributeError, OSError):
        pass


@declared
def measured(name, steps, pixels: Count | None = None, dtype: DTypeName = "bfloat16", repeats: Count = 1, report=print) -> dict:
    """Run steps (see `step_of`) with random weights on this CPU, in turn, `repeats` times: for each the seconds of the processor, by
    parts and in all (the least), the peak of the resident memory above what the process held without the model, and of the
    tensors that were counted in a run of their own. In a process that has done other things before, which holds memory that
    it has freed, little or nothing may come on top; then the shares of memory are None."""
    chosen = {step: step_of(step) for step in steps}
    give_back_at_once()
    before, size = resident("VmRSS"), size_of(name)
    network = build(size, DTYPES[dtype])
    found: dict[str, dict] = {step: {"seconds": []} for step in chosen}
    for _ in range(repeats):
        for step, (run, savings) in chosen.items():
            setup, clock = set_up(size, pixels, pixels, savings, dtype, network=network), Clock()
            forget_peak()
            run(setup, clock)
            parts = {part: round(each.seconds, 3) for part, each in clock.parts.items()}
            found[step]["seconds"].append(round(sum(parts.values()), 3))
            if found[step]["seconds"][-1] == min(found[step]["seconds"]):
                found[step]["parts"] = parts
            peak = round((resident("VmHWM") - before) / GB, 3)
            found[step]["resident_gb"] = max(peak, found[step].get("resident_gb", 0))
            report(f"{step}: {parts}, resident {peak} GB")
    for step, (run, savings) in chosen.items():
        found[step]["tallied_gb"] = round(tallied(run, set_up(size, pixels, pixels, savings, dtype, network=network)).peak / GB, 3)
        report(f"{step}: tallied {found[step]['tallied_gb']} GB")

    def share(step, whole):
        memory = found[step]["resident_gb"], found[whole]["resident_gb"]
        return {"time": round(min(found[step]["seconds"]) / min(found[whole]["seconds"]), 3),
                "memory": round(memory[0] / memory[1], 3) if min(memory) > 0 else None}
    shares = {f"of_{whole}": {step: share(step, whole) for step in found if step != whole} for whole in ("reference", "unguided") if whole in found}
    below = [1 - each["tallied_gb"] / each["resident_gb"] for each in found.values() if each["resident_gb"] > 0]
    return {"threads": torch.get_num_threads(), "repeats": repeats, "steps": found, **shares,
            "prediction_below_resident": round(max(below), 3) if below else None}



# ---- the command -------------------------------------------------------------------------------------------------------

@stoppable
def main(arguments=None) -> None:
    commands = argparse.ArgumentParser(prog="python -m rg_minimal.cost", description="Predict, and measure, what a guided step costs.")
    commands.add_argument("name", help=f"{', '.join(SIZES)}, or a folder of a model, whose config alone is read")
    commands.add_argument("--size", type=option(Count), help="sides of the picture in pixels, by default the model's")
    commands.add_argument("--dtype", default="bfloat16", help=f"{', '.join(DTYPES)} (of the two in half precision the sizes are the same)")
    commands.add_argument("--memory", nargs="+", type=gigabytes, default=[6, 8, 16, 24], help="gigabytes of the cards that are asked about")
    commands.add_argument("--run", nargs="+", metavar="STEP", help="compute these as well: unguided, plain, lean, least, sliced, reference")
    commands.add_argument("--repeats", type=option(Count), default=1)
    commands.add_argument("--out", default=None, help="the file that the figures are put into (data/results/true-sizes.json)")
    asked = commands.parse_args(arguments)
    with one_sentence(commands):
        checked("dtype", asked.dtype, DTypeName)
        for step in asked.run or ():
            step_of(step)
        out = Path(asked.out or Path(find_folder("data/results")) / "true-sizes.json")
        refuse_file(out.parent)
        of_size = f" {asked.size}" if asked.size not in (None, size_of(asked.name).pixels) else ""
        key = Path(asked.name).absolute().name + of_size + (f" {asked.dtype}" if asked.dtype != "bfloat16" else "")
        known = read_json(out).get(key, {}).get("fits", {}) if out.is_file() else {}
        found = predicted(asked.name, asked.size, asked.dtype, sorted({*asked.memory, *map(float, known)}))     # what is known stays
    print(json.dumps(found, indent=1), flush=True)
    if asked.run:
        found["measured"] = measured(asked.name, asked.run, asked.size, asked.dtype, asked.repeats)
    update_json(out, lambda known: {key: {**known.get(key, {}), **found}})
    print(f"written to {out}")


def gigabytes(text: str) -> float:
    """An option's text as a positive number."""
    try:
        return checked("it", float(text), Positive)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {text!r}; pass gigabytes, a number above 0") from None


if __name__ == "__main__":
    main()
