"""Networks that are trained for control, on the frozen puppet model: diffusers' own `ControlNetModel` and `T2IAdapter`.

    for state in train_baseline(BaselineRecipe("controlnet", "pose", labels=100)):      # goes on where it stopped
        print(state.step, state.loss)
    network = load_baseline(recipe.folder)                                              # as diffusers loads it
    pictures = sample_baseline(pipe, network, captions, shown, ...)                     # through diffusers' own pipeline

They get what a head of this repository gets, the first `labels` rendered pictures of a seed, and captions. Their last state is kept: the
loss on `CHECKED` other labelled pictures is noted, and chooses nothing. `train_readout` trains heads on the very same pictures.
"""
from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Iterator, Literal

import torch
from diffusers import ControlNetModel, StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, T2IAdapter
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from . import seeds
from .learn import CHECKPOINT, CLOCK, Pace, finished, learn, leave, refuse_another
from ..checks import Count, Declared, FileName, Fraction, Index, NonNegative, Positive, SomeName, declared
from ..conditioning import Conditioning
from ..denoisers import denoiser
from ..files import read_json, read_tensors, refuse_file, refuse_others, replace_folder, write_json, write_tensors
from ..pipelines import decode, encode, load_pipeline
from ..puppets import world
from ..puppets.basemodel import min_snr_loss, tokenize
from ..puppets.heads import Samples, Task, depth_target, edge_target, get_task, new_head, pixel_grid, train_task
from ..puppets.measure import finish
from ..puppets.training import TrainingState, autocast
from ..undo import seeded, undone

TASKS = ("pose", "depth", "edges")
KINDS = ("controlnet", "adapter")
RUNS = "runs/evidence"
LABELS = (10, 30, 100, 300, 1000, 10_000)
CHECKED = 64                            # labelled pictures more, on which the loss is noted
SHARD = 500                             # labelled pictures a file
LENGTHS = (200, 400, 1000)              # numbers of steps that are tried of each, see `recipes.py`
FEW = {"controlnet": {30: 400}, "adapter": {10: 100, 30: 200, 100: 400}}    # labels up to which a baseline is trained for so many steps
FILES = ("config.json", "diffusion_pytorch_model.safetensors", "training.json", "training.pt")      # of a baseline's folder
EPOCHS = 3                              # how often a baseline sees each picture at least, however many there are, see `usual_steps`


# ---------------------------------------------------------------------------------------------- labelled pictures

@dataclass
class Labelled:
    """N labelled pictures, encoded. Depth and edges are bytes, 255 for 1."""
    first: int                          # seed of the first scene
    latents: Tensor                     # (N, 4, 32, 32)
    joints: Tensor                      # (N, 14, 2) pixels
    visible: Tensor                     # (N, 14) bool
    depth: Tensor                       # (N, 1, 128, 128) uint8
    edges: Tensor                       # (N, 1, 128, 128) uint8

    def __len__(self) -> int:
        return len(self.latents)

    def truth(self, task: str) -> tuple[Tensor, ...]:
        """What a head of `puppets.heads.TASKS` learns from, or one of "several" at once."""
        if task == "several":
            return sum((self.truth(each) for each in TASKS), ())
        if task == "pose":
            return self.joints, self.visible
        make = {"depth": depth_target, "edges": edge_target}[task]
        return torch.cat([make(part.float() / 255) for part in getattr(self, task).split(256)]),

    def shown(self, task: str, index: Tensor) -> Tensor:
        """What a ControlNet is shown of these pictures: (B, 3, 128, 128) in [0, 1]."""
        return control_picture(task, self.joints[index] if task == "pose" else getattr(self, task)[index].float() / 255)

    def captions(self) -> list[str]:
        return [world.sample_scene(self.first + number).caption for number in range(len(self))]


def collect_labelled(pipe, first: int, count: int, folder="") -> Iterator[tuple[int, int]]:
    """Render and encode `count` scenes from seed `first` on; yields (done, of) and ends with a `Labelled`. Files in
    `folder`, where one is given, spare what was done before."""
    parts = []
    for start in range(0, count, SHARD):
        path, here = Path(folder) / f"{first + start}.safetensors", min(SHARD, count - start)
        part = read_tensors(path)[0] if folder and path.exists() else {"latents": []}
        if len(part["latents"]) < here:
            part = _label(pipe, first + start, here)
            if folder:
                write_tensors(path, part)
        parts.append({name: value[:here] for name, value in part.items()})
        yield start + here, count
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Labelled(first, joined["latents"], joined["joints"], joined["visible"], joined["depth"], joined["edges"])


def _label(pipe, first: int, count: int, chunk: int = 8) -> dict[str, Tensor]:
    rows = []
    for start in range(0, count, chunk):
        frames = world.render(world.sample_scenes(min(chunk, count - start), first + start))
        rows.append((encode(pipe, frames.image).cpu(), frames.joints, frames.visible, _bytes(frames.depth),
                     _bytes(frames.edges)))
    return dict(zip(("latents", "joints", "visible", "depth", "edges"),
                    (torch.cat(each).contiguous() for each in zip(*rows))))


def _bytes(maps: Tensor) -> Tensor:
    return (maps * 255).round().to(torch.uint8)


def labelled(pipe, first: int, count: int, folder="") -> Labelled:
    """`collect_labelled` to its end."""
    return finish(collect_labelled(pipe, first, count, folder))


# ---------------------------------------------------------------------------------------------- what they are shown

def control_picture(task: str, truth: Tensor) -> Tensor:
    """Joints (B, 14, 2) as a drawn skeleton, or a map (B, 1, H, W) in [0, 1] as grey: (B, 3, H, W) in [0, 1]."""
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(TASKS)}")
    return draw_skeleton(truth) if task == "pose" else truth.float().expand(-1, 3, -1, -1)


@declared
def draw_skeleton(joints: Tensor, thickness: Positive = 3.0, image_size: Count = world.SIZE) -> Tensor:
    """Joints (B, 14, 2) in pixels as limbs on black, (B, 3, H, W) in [0, 1]. Each limb has a colour of its own, as
    OpenPose's have, so that left and right differ."""
    start, end = (joints[:, [pair[k] for pair in world.LIMBS], None, None] for k in (0, 1))        # (B, L, 1, 1, 2)
    pixels, step = pixel_grid(image_size), end - start                                              # (H, W, 2)
    along = ((pixels - start) * step).sum(-1) / step.square().sum(-1).clamp_min(1e-9)               # (B, L, H, W)
    far = (pixels - start - along.clamp(0, 1)[..., None] * step).norm(dim=-1)
    drawn = (thickness / 2 + 0.5 - far).clamp(0, 1)                                                 # anti-aliased
    turn = torch.arange(len(world.LIMBS)) / len(world.LIMBS)
    colours = (((turn[:, None] + torch.tensor([0.0, 2 / 3,
                                               1 / 3])) % 1 * 6 - 3).abs() - 1).clamp(0, 1)     # (L, 3), hues
    return (drawn[:, :, None] * colours[:, :, None, None]).amax(1)


# ---------------------------------------------------------------------------------------------- the networks

def new_network(kind: str, unet, seed: int = 0) -> nn.Module:
    """An untrained ControlNet, which starts as a copy of the UNet's encoder, or T2I-Adapter, both without effect or
    nearly so.

    The adapter is of the kind made for SDXL, whose UNet also begins with a block without attention.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    pixels = 4                                                          # of the picture in a cell of the latents
    with seeded(seed):
        if kind == "controlnet":
            return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))
        channels = list(unet.config.block_out_channels)
        return T2IAdapter(in_channels=3, channels=(channels + channels[-1:] * 4)[:4], num_res_blocks=2,
                          downscale_factor=2 * pixels,
                          adapter_type="full_adapter_xl")


def residuals(network, latents: Tensor, timestep, embeds: Tensor, shown: Tensor, scale: float = 1.0) -> dict:
    """What the network adds to the UNet's pass over latents (B, C, h, w), by the names of its arguments."""
    if isinstance(network, ControlNetModel):
        down, middle = network(latents, timestep, encoder_hidden_states=embeds, controlnet_cond=shown,
                               conditioning_scale=scale,
                               return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return {"down_intrablock_additional_residuals": [scale * each for each in network(shown)]}


def steered(conditioning: Conditioning, network, shown: Tensor, scale: float = 1.0) -> Conditioning:
    """A conditioning under which `guided_sample` also asks the network, so that guidance and network work together."""
    def control(latents, timestep, embeds, added):
        repeated = shown.to(latents).repeat(len(latents) // len(shown), 1, 1, 1)
        return residuals(network, latents, timestep, embeds, repeated, scale)
    return Conditioning(conditioning.prompt_embeds, conditioning.negative_prompt_embeds, conditioning.added,
                        conditioning.negative_added, control)


@torch.no_grad()
def sample_baseline(pipe, network, prompts: list[str], shown: Tensor, *, scale: float = 1.0,
                    guidance_scale: float = 3.0, steps: int = 25,
                    generator=None, latents: Tensor | None = None) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] by diffusers' own pipeline, with the parts of `pipe`."""
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if isinstance(network, ControlNetModel):
        run, told = StableDiffusionControlNetPipeline(**parts, **extra,
                                                      controlnet=network), {"controlnet_conditioning_scale": scale}
    else:
        run, told = StableDiffusionAdapterPipeline(**parts, **extra,
                                                   adapter=network), {"adapter_conditioning_scale": scale}
    run.set_progress_bar_config(disable=True)
    made = run(prompts, image=shown, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generator,
               latents=latents, output_type="latent", **told).images
    return decode(pipe, made)


# ---------------------------------------------------------------------------------------------- training

@dataclass(frozen=True)
class BaselineRecipe(Declared):
    """All numbers of a training. Kind, task, labels and seed name its folder; another recipe in there is refused."""
    kind: Literal[KINDS]
    task: Literal[TASKS]
    labels: Count = 1000
    seed: Index = 0                     # of the labelled pictures and of the training
    steps: Count = 1000                 # all are made, and the last state is kept; see `usual_steps`
    batch: Count = 16
    lr: Positive = 2e-3                 # of AdamW, falling over `decay`; others were tried, see `recipes.py`
    warmup: Index = 50
    decay: Fraction = 0.4
    dropout: Fraction = 0.2             # of captions, for classifier-free guidance
    cubic: NonNegative = 0.0            # 1 draws noisy timesteps more often, as T2I-Adapter's authors do
    min_snr: Positive = 5.0             # the loss's weights are those that the base model was trained with
    snr_power: NonNegative = 0.5
    every: Count = 100                  # steps between two checks on other pictures, and between two checkpoints
    model: SomeName = "data/puppet-diffusion"
    runs: FileName = RUNS
    device: Literal["cpu", "cuda"] = "cpu"      # where it is trained; that of a pipeline that is passed goes first

    @property
    def folder(self) -> Path:
        return folder_of(self.kind, self.task, self.labels, self.seed, self.runs)


def usual_steps(labels: int, recipe) -> int:
    """How many steps a baseline is trained: its recipe's number, fewer where there are few labels, as `recipes` has found, and as many as
    see each picture `EPOCHS` times where there are many."""
    few = [steps for most, steps in sorted(FEW[recipe.kind].items()) if labels <= most]
    return few[0] if few else max(recipe.steps, math.ceil(EPOCHS * labels / recipe.batch))


def train_baseline(recipe: BaselineRecipe, pipe=None) -> Iterator[TrainingState]:
    """Train a baseline and leave its last state in `recipe.folder`, in diffusers' layout; goes on where it stopped.

    Its loss on pictures that it did not learn from is noted every so many steps, and chooses nothing: a network that knows its thirty
    pictures by heart predicts the noise of others worse, and steers far better: the table of `recipes.py` has both.
    """
    if finished(recipe.folder, numbers(recipe)):
        return
    refuse_file(recipe.folder), refuse_others(recipe.folder, FILES)
    pipe = load_pipeline(recipe.model, device=recipe.device) if pipe is None else pipe
    recipe = replace(recipe, device=denoiser(pipe).device.type)
    before = pipe.unet.attn_processors
    with undone(lambda: pipe.unet.set_attn_processor(dict(before))):
        if recipe.device == "cpu":
            pipe.unet.set_attn_processor(AttnProcessor())   # its backward pass is the faster one there
        yield from _train(recipe, pipe)


def _train(recipe: BaselineRecipe, pipe) -> Iterator[TrainingState]:
    folder = recipe.folder
    data = Path(recipe.runs) / "pictures"
    known = labelled(pipe, seeds.training_scenes(recipe.seed, recipe.labels), recipe.labels, data)
    others = labelled(pipe, seeds.CHECK.first, CHECKED, data)
    words, nothing = _embed(pipe, known.captions()), _embed(pipe, [""])[0]
    network = new_network(recipe.kind, pipe.unet, recipe.seed).to(recipe.device).train()

    def loss_of(rng):
        index = torch.randint(len(known), (recipe.batch,), generator=rng)
        told = torch.where(torch.rand(recipe.batch, 1, 1, generator=rng) < recipe.dropout, nothing, words[index])
        return _loss(pipe, network, known, recipe, index, told, rng)
    pace = Pace(recipe.seed, recipe.steps, recipe.lr, recipe.warmup, recipe.decay, recipe.every, recipe.device, 1.0, numbers(recipe))
    best = yield from learn(f"{recipe.kind} {recipe.task} {recipe.labels}", folder, pace, network, loss_of, _checker(pipe, recipe, others),
                       since=recipe.steps)
    facts = {"recipe": numbers(recipe), "parameters": sum(each.numel() for each in network.parameters()),
             "device": recipe.device, "best_step": best["step"],
             "check_loss": best["loss"], "losses": best["losses"], "training_seconds": round(best["seconds"], 1)}

    def fill(aside: Path) -> None:
        network.save_pretrained(aside)
        write_json(aside / "training.json", facts)
    replace_folder(folder, fill, FILES)


@declared
def load_baseline(folder: SomeName) -> nn.Module:
    """The network that `train_baseline` left in a folder, frozen. ValueError where there is none."""
    folder = Path(folder)
    if not (folder / "training.json").exists():
        raise ValueError(f"{folder} holds no finished baseline; train it with python -m rg_minimal.evidence train")
    kind = read_json(folder / "training.json").get("recipe", {}).get("kind")
    if kind not in KINDS:
        raise ValueError(f"{folder} holds no baseline, but what something else was trained to: pass the folder of one of {', '.join(KINDS)}")
    network = {"controlnet": ControlNetModel, "adapter": T2IAdapter}[kind].from_pretrained(folder)
    return network.eval().requires_grad_(False)


def numbers(recipe: BaselineRecipe) -> dict:
    """What a training.json says of how a baseline was trained."""
    return {name: value for name, value in asdict(recipe).items() if name not in ("runs", "device")}


@torch.no_grad()
def _embed(pipe, texts: list[str]) -> Tensor:
    where = pipe.text_encoder.device
    return torch.cat([pipe.text_encoder(tokenize(pipe.tokenizer, texts[i:i + 128]).to(where)).last_hidden_state.cpu()
                      for i in range(0, len(texts), 128)])


def _loss(pipe, network, known: Labelled, recipe, index: Tensor, told: Tensor, rng) -> Tensor:
    """The base model's own loss of its prediction, given what the network adds."""
    count, scheduler = len(index), pipe.scheduler
    spread = (torch.arange(count) + torch.rand(count, generator=rng)) / count               # stratified
    spread = spread if not recipe.cubic else 1 - (1 - spread) ** (1 + 2 * recipe.cubic)
    last = scheduler.config.num_train_timesteps
    timestep = (spread * last).long().clamp_max(last - 1)
    clean = known.latents[index]
    noise = torch.randn(clean.shape, generator=rng)
    noisy, shown = scheduler.add_noise(clean, noise, timestep), known.shown(recipe.task, index)
    noisy, timestep, told, shown, noise = (each.to(recipe.device) for each in (noisy, timestep, told, shown, noise))
    with autocast(recipe):
        predicted = pipe.unet(noisy, timestep, told, **residuals(network, noisy, timestep, told, shown)).sample.float()
    return min_snr_loss(predicted, noise, timestep, scheduler, recipe)


def _checker(pipe, recipe, others: Labelled):
    """A function that gives a network's loss on pictures it did not learn from, with the same noise each time."""
    words = _embed(pipe, others.captions())

    @torch.no_grad()
    def check(network) -> float:
        network.eval()
        losses = [_loss(pipe, network, others, recipe, index, words[index],
                        torch.Generator().manual_seed(int(index[0])))
                  for index in torch.arange(len(others)).split(16)]
        network.train()
        return float(torch.stack(losses).mean())
    return check


# ---------------------------------------------------------------------------------------------- heads

@contextmanager
def listening(pipe, layers: int | None = None, stop_early: bool = False):
    """Inside, only the first `layers` of the decoder are read (None: all), and with `stop_early` a pass with gradient ends
    behind them."""
    before = {name: getattr(pipe, name, None) for name in ("read_layers", "stop_early")}

    def again():
        for name, value in before.items():
            setattr(pipe, name, value)
    with undone(again):
        pipe.read_layers, pipe.stop_early = layers, stop_early
        yield


def folder_of(name: str, task: str, labels: int, seed: int, runs=RUNS) -> Path:
    """Where what was trained is kept."""
    return Path(runs) / f"{name}-{task}-{labels}-{seed}"


def recipe_of(task: str | Task, labels: int, seed: int, **changes) -> dict:
    """What a training.json says of how a head was trained."""
    return {"task": get_task(task).name, "labels": labels, "seed": seed, "steps": get_task(task).steps, **changes}


def train_readout(task: str | Task, labels: int, seed: int = 0, runs=RUNS, pipe=None, head=None, name: str = "head", keep=leave,
                  **changes) -> Iterator[TrainingState]:
    """Train a head on the very pictures that the baselines of this seed learn from, as the shipped ones are trained,
    and leave it in a folder of `runs`; goes on where it stopped. `head` and `name` are of another one than the shipped
    kind, and so is `keep`, which is called as `leave` is."""
    what = get_task(task).name
    folder, recipe = folder_of(name, what, labels, seed, runs), recipe_of(task, labels, seed, **changes)
    if finished(folder, recipe):
        return
    refuse_file(folder)
    pipe = load_pipeline() if pipe is None else pipe
    known = labelled(pipe, seeds.training_scenes(seed, labels), labels, Path(runs) / "pictures")
    samples, clock, checkpoint = Samples((known.latents,), known.truth(what)), folder / CLOCK, folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(clock) if clock.exists() and checkpoint.exists() else {"seconds": 0.0}
    refuse_another(folder, before.get("recipe", recipe), recipe)
    head = new_head(pipe, task, seed) if head is None else head
    start, seconds = time.process_time(), before["seconds"]
    for state in train_task(pipe, task, samples, head, seed, checkpoint=str(checkpoint), checkpoint_every=50,
                            **changes):
        seconds = before["seconds"] + time.process_time() - start
        if state.step % 50 == 0 or state.step == state.steps:
            write_json(clock, {"seconds": seconds, "recipe": recipe})
        yield TrainingState(f"{name} {what} {labels}", state.step, state.steps, state.loss, seconds)
    keep(head.eval(), folder, {"recipe": recipe, "device": denoiser(pipe).device.type, "training_seconds": round(seconds, 1)})
    checkpoint.unlink(missing_ok=True), clock.unlink(missing_ok=True)
