"""What differs between models, behind one small interface; everything else is written once, on it.

`denoiser(pipe)` gives a `Denoiser`: which layers are listened to and how large their maps are (also for weights on the meta
device), the embedding of a timestep, one forward pass, and how a prediction splits into a clean picture and noise.

    UNet                 Stable Diffusion 1 and 2, SDXL, and what is built on them: inpainting, InstructPix2Pix, LCM
    SD3, Flux, PixArt    transformers: their tokens are folded back to maps (B, C, H, W)

Read for diffusers 0.35 to 0.42. Anything else is refused in a sentence.
"""
from __future__ import annotations

import copy
import hashlib
import inspect
import threading
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Annotated

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from diffusers import DDIMScheduler, FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from . import autoencoders
from .checks import Count, can_be_read, checked, describe, finite, rows
from .conditioning import Conditioning, encode_prompt, lacking
from .undo import frozen, undone


class _AllRead(Exception):
    """Raised inside a pass, and caught around it, when there is nothing left to read."""


class Denoiser:
    """A diffusers pipeline as the method sees it. Made by `denoiser(pipe)` for each call; it keeps nothing of its own.

    `layers` are the modules whose outputs are read, `channels` their C_l. Latents are (B, C, h, w) everywhere.
    `pipe.read_layers = 3` has the first three of them read only: for heads that were made with it, which read less and, with
    `stop_early`, have the pass with gradient end behind the third.
    """
    needs: tuple[str, ...] = ()         # what `Conditioning.added` must hold
    in_model_guidance = False           # True where the guidance scale is an input of the network: one branch only

    def __init__(self, pipe, network):
        self.pipe, self.network, self.config = pipe, network, network.config
        found = self.find_layers()
        asked = getattr(pipe, "read_layers", None)
        count = len(found) if asked is None else checked("pipe.read_layers", asked, Annotated[Count, Field(le=len(found))])
        self.names, self._all = zip(*found)
        self.layers, self.names, self.unread = self._all[:count], self.names[:count], self.names[count:]

    # ---- what is read --------------------------------------------------------------------------------------------------

    def find_layers(self) -> list[tuple[str, nn.Module]]:
        raise NotImplementedError

    @property
    def channels(self) -> tuple[int, ...]:
        raise NotImplementedError

    def sizes(self, height: int | None = None, width: int | None = None) -> list[tuple[int, int]]:
        """(H_l, W_l) of each layer's map, for latents of (height, width), the model's own by default."""
        raise NotImplementedError

    def feature_map(self, output, latents: Tensor) -> Tensor:
        """What a layer returned, as a map (B, C_l, H_l, W_l), for latents of this size."""
        raise NotImplementedError

    @property
    def embedding_channels(self) -> int:
        """E of the timestep embedding."""
        return _bare(self.embedder[1].linear_2).out_features

    def embed(self, timestep, device=None) -> Tensor:
        """The denoiser's own embedding of a timestep: a number gives (1, E), a tensor of B timesteps (B, E)."""
        project, embedder = self.embedder
        asked, weights = device or self.device, next(embedder.parameters()).device
        here = asked if weights.type == "meta" else weights         # offloaded weights may have gone back since the pass
        timestep = torch.as_tensor(timestep, device=here).reshape(-1)
        return embedder(project(timestep).to(self.dtype)).to(asked)

    def head_settings(self, extra: dict) -> dict:
        """What a head's config says of the model that it is made for, and `extra`, which it says besides. SD 1.5 and 2.1 have layers of
        the same sizes, and are told by the width of their prompts' embeddings."""
        told = {**extra, "text_width": self.width} if isinstance(extra, dict) and self.width else extra
        return {"layer_channels": self.channels, "embedding_channels": self.embedding_channels, "extra": told}

    def check_head(self, config) -> None:
        """ValueError where a head's config names other layers, another embedding, or another width of prompts than this denoiser has."""
        if (config.layer_channels, config.embedding_channels) != (self.channels, self.embedding_channels):
            self._check_read_layers(config)
            raise ValueError(
                f"this {config.property or 'readout'} head reads layers {config.layer_channels} and an embedding of "
                f"{config.embedding_channels}, but the denoiser has {self.channels} and {self.embedding_channels}; load a head "
                f"trained on this model (the head's: {config.base_model!r})")
        width = config.extra.get("text_width", self.width)          # heads that were made earlier, or elsewhere, do not say it
        if self.width and width != self.width:
            raise ValueError(f"this {config.property or 'readout'} head was made for a model whose prompts' embeddings are {width} wide, and those of "
                             f"this one are {self.width}, so its layers say other things, of the same sizes; load a head trained on this model (the "
                             f"head's: {config.base_model!r})")

    def _check_read_layers(self, config) -> None:
        """ValueError where the head fits this denoiser, but for the number of layers that are read."""
        whole, count = copy.copy(self), len(config.layer_channels)
        whole.layers = self._all
        if count != len(self.layers) and (config.layer_channels, config.embedding_channels) == (whole.channels[:count], self.embedding_channels):
            raise ValueError(f"this {config.property or 'readout'} head reads the first {count} layers, but {len(self.layers)} of "
                             f"{len(self._all)} are read; set pipe.read_layers = {count if count < len(self._all) else None}, or load a head "
                             "that was made with as many")

    @contextmanager
    def frozen(self):
        """No gradient is kept for the network's weights inside; what required one before does so again afterwards.

        Weights stored in a smaller format (layerwise casting) go back to it after each layer; the gradient needs them as they
        were computed with, which what is saved through hooks keeps.
        """
        dtype = self.dtype                              # asked once: diffusers looks through all modules for it
        stored_smaller = any(weight.is_floating_point() and weight.dtype != dtype for weight in self.network.parameters())
        kept = saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved) if stored_smaller else nullcontext()
        with frozen(self.network), kept:
            yield

    # ---- where it lives ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes: with offloading this is not where its weights lie."""
        return getattr(self.pipe, "_execution_device", None) or self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in, also where weights are stored in a smaller one."""
        return self.network.dtype

    @property
    def factor(self) -> int:
        """Pixels of the picture for each cell of the latents, along one side (8 in Stable Diffusion)."""
        return getattr(self.pipe, "vae_scale_factor", 8)

    @property
    def latent_channels(self) -> int:
        return self.config.in_channels

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of latents for a picture of (height, width) pixels, by default of the model's own size."""
        own = self.own_size
        own = (own, own) if isinstance(own, int) else tuple(own)
        for name, value in (("height", height), ("width", width)):
            if value is not None and (value < self.unit or value % self.unit):
                raise ValueError(f"{name} is {value}; pass a multiple of {self.unit} pixels")
        return (self.latent_channels, *(side if pixels is None else pixels // self.factor for pixels, side in zip((height, width), own)))

    @property
    def own_size(self) -> int | tuple[int, int]:
        """(h, w) of the latents that the model was made for, or one number for both."""
        return self.config.sample_size

    @property
    def unit(self) -> int:
        """Pixels that the sides of a picture must be multiples of."""
        return self.factor

    def image_size(self, latents: Tensor | None = None, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(H, W) in pixels of the picture that latents (B, C, h, w) stand for, or of the size asked for, or of the model's own."""
        shape = self.latent_shape(height, width) if latents is None else latents.shape
        return shape[-2] * self.factor, shape[-1] * self.factor

    def initial_latents(self, conditioning: Conditioning, latents, generator, height=None, width=None) -> Tensor:
        """Given or fresh noise, (B, C, h, w), one row for each prompt. Raises ValueError where shapes do not match."""
        prompts = len(conditioning.prompt_embeds)
        if latents is None:
            return draw_noise((prompts, *self.latent_shape(height, width)), generator, self.device, self.dtype)
        latents = self.as_latents(latents, "initial latents")
        for name, asked, side in (("height", height, latents.shape[2]), ("width", width, latents.shape[3])):
            if asked is not None and asked != side * self.factor:
                raise ValueError(f"{name} is {asked}, but the latents stand for {side * self.factor} pixels; leave {name} out")
        batch = len(latents) if prompts == 1 else prompts
        as_generators(generator, batch)                             # of the noise of the steps
        return rows(latents, batch, "latents").to(self.device, self.dtype)

    def as_latents(self, latents, name: str = "latents") -> Tensor:
        """Finite latents (B, C, h, w) as they are. ValueError for anything else, such as pictures."""
        channels, patch = self.latent_channels, self.unit // self.factor
        if not torch.is_tensor(latents) or latents.ndim != 4 or latents.shape[1] != channels or not latents.numel() \
                or not latents.is_floating_point() or not can_be_read(latents):
            raise ValueError(f"{name} are {describe(latents)}; pass a tensor of floats (B, {channels}, h, w), as `encode` makes it of pictures")
        if latents.shape[2] % patch or latents.shape[3] % patch:
            raise ValueError(f"{name} are {describe(latents)}; this model takes a height and width that are multiples of {patch}")
        return finite(latents, name)

    # ---- prompts and pictures ------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt, negative_prompt=None, image_size=None, num_images_per_prompt: int = 1, **embeds) -> Conditioning:
        """See `conditioning.encode_prompt`. ValueError also for a pipeline whose weights have a shape and no numbers."""
        for name, part in getattr(self.pipe, "components", {}).items():
            modules = list(part.modules()) if isinstance(part, nn.Module) else []
            if any(hasattr(each, "_hf_hook") for each in modules):                      # offloaded one by one: they come when they are needed
                continue
            if any(weight.is_meta for each in modules for weight in each.parameters(recurse=False)):
                raise ValueError(f"weights of the {name} of this {type(self.pipe).__name__} are on the meta device, so they hold no numbers; load it "
                                 "again, with all of its weights, and not under torch.device('meta')")
        return encode_prompt(self.pipe, self, prompt, negative_prompt, image_size or self.image_size(), num_images_per_prompt, **embeds)

    def name_encoded(self, encoded, image_size) -> Conditioning:
        """What the pipeline's `encode_prompt` returned, as a `Conditioning`."""
        raise NotImplementedError

    def encode(self, pictures) -> Tensor:
        """Pictures, see `pictures.as_pictures` -> latents (B, C, h, w)."""
        return autoencoders.encode(self.pipe, pictures, self.unit)

    def clean(self, pictures=None, latents=None) -> Tensor:
        """Clean latents (B, C, h, w): those of pictures, or `latents` themselves. ValueError where not one of them is given."""
        if (pictures is None) == (latents is None):
            raise ValueError(f"pictures is {describe(pictures)} and latents is {describe(latents)}; pass pictures, or their latents by name, "
                             "latents=encode(pipe, pictures), and not both")
        return self.encode(pictures) if latents is None else self.as_latents(latents).to(self.device, self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return autoencoders.decode(self.pipe, self.as_latents(latents))

    def same_model(self, other: "Denoiser") -> bool:
        """Whether another denoiser is this one, or a copy of it, maybe in half precision: its settings are the same, its weights have
        the same sizes, and the first and the last of them the same values, as far as they can be looked at."""
        if self.network is other.network:
            return True
        ours, theirs = (list(each.network.parameters()) for each in (self, other))
        settings = [{name: value for name, value in each.config.items() if not name.startswith("_")} for each in (self, other)]
        if settings[0] != settings[1] or [weight.shape for weight in ours] != [weight.shape for weight in theirs]:
            return False
        seen = [pair for pair in ((ours[0], theirs[0]), (ours[-1], theirs[-1]))
                if not any(weight.is_meta or weight.element_size() < 2 for weight in pair)]
        return all(torch.allclose(*(weight.detach().float().cpu() for weight in pair), atol=1e-4, rtol=1e-2) for pair in seen)

    def mark(self) -> str:
        """By this a model is known again: a checksum of the largest number in each of its weights, of those that can be looked at."""
        seen = [weight.detach().amax().float() for weight in self.network.parameters() if not weight.is_meta and weight.element_size() > 1]
        return hashlib.blake2b(torch.stack([each.cpu() for each in seen]).numpy().tobytes() if seen else b"", digest_size=6).hexdigest()

    @property
    def width(self) -> int | None:
        """D of prompt_embeds (B, L, D)."""
        raise NotImplementedError

    # ---- a pass --------------------------------------------------------------------------------------------------------

    def __call__(self, latents: Tensor, timestep, embeds: Tensor, added: dict | None = None, guidance_scale: float | None = None) -> Tensor:
        """One forward pass: noisy latents (B, C, h, w), a timestep or (B,) of them -> the prediction (B, C, h, w).

        Where the pipeline's `stop_early` is True, a pass with gradient ends behind the last layer that is read, since no readout
        depends on what follows; its prediction is then NaN.
        """
        return self.until_read(lambda: self.forward(latents, timestep, embeds, added, guidance_scale), latents)

    def until_read(self, run, latents: Tensor) -> Tensor:
        """What `run()` gives, a pass of the network in this thread; NaN of the latents' shape where it may end early, and does."""
        if not (self.stop_early and torch.is_grad_enabled()):
            return run()
        thread = threading.get_ident()

        def stop(module, inputs):
            if threading.get_ident() == thread and torch.is_grad_enabled():
                raise _AllRead
        hooks = []
        with undone(lambda: [hook.remove() for hook in hooks]):
            first = self.network.get_submodule(self.unread[0]) if self.unread else self.behind
            hooks.append(first.register_forward_pre_hook(stop))
            try:
                return run()
            except _AllRead:
                return torch.full((), float("nan"), device=latents.device, dtype=latents.dtype).expand(latents.shape)

    def forward(self, latents, timestep, embeds, added=None, guidance_scale=None) -> Tensor:
        """The same, always to its end."""
        raise NotImplementedError

    @property
    def behind(self) -> nn.Module:
        """The first module that runs after the last layer."""
        return self.network.norm_out

    @property
    def stop_early(self) -> bool:
        """The pipeline's setting: `pipe.stop_early = True` saves time and memory and leaves every gradient as it is."""
        return getattr(self.pipe, "stop_early", False)

    def passes(self, branches: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Which branches run together in a prediction: all, or with `pipe.one_branch_at_a_time = True` one after the other."""
        return [(branch,) for branch in branches] if getattr(self.pipe, "one_branch_at_a_time", False) else [branches][:len(branches)]

    @property
    def default_guidance_scale(self) -> float:
        """What the model's folder recommends (see `load_pipeline`), else the default of the pipeline's own call."""
        return float(self._default("guidance_scale", 7.5))

    @property
    def default_num_inference_steps(self) -> int:
        """The same of the number of steps."""
        return int(self._default("num_inference_steps", 50))

    def _default(self, name: str, otherwise: float) -> float:
        own = getattr(self.pipe, f"default_{name}", None)
        call = inspect.signature(type(self.pipe).__call__).parameters if callable(self.pipe) else {}
        return own if own is not None else call[name].default if name in call else otherwise

    def two_branches(self, guidance_scale: float) -> bool:
        """True where classifier-free guidance runs a negative branch beside the conditional one."""
        return guidance_scale > 1 and not self.in_model_guidance

    # ---- noise ---------------------------------------------------------------------------------------------------------

    @property
    def flow(self) -> bool:
        """True where the model was trained with flow matching: x_t = (1 - s) x_0 + s noise, and it predicts noise - x_0."""
        return is_flow(self.pipe.scheduler)

    def scheduler(self, num_inference_steps: int, scheduler=None, latents: Tensor | None = None, timestep_spacing: str | None = None):
        """A scheduler of its own with its timesteps set, spaced as asked for; the pipeline's, or the one given, is left alone.

        By default DDIM with the noise schedule and prediction type of the pipeline's own, and the pipeline's own for a model
        trained with flow matching. Raises ValueError where one does not suit the model, and for a wrong number of steps.
        """
        limit = self.train_timesteps
        scheduler = self.default_scheduler() if scheduler is None else copy.deepcopy(scheduler)
        _suits(self, scheduler)
        if timestep_spacing is not None:
            if "timestep_spacing" not in scheduler.config:
                raise ValueError(f"timestep_spacing is {timestep_spacing!r}, but {type(scheduler).__name__} has no such setting; leave it out")
            scheduler = scheduler.from_config(scheduler.config, timestep_spacing=timestep_spacing)
        if not 1 <= num_inference_steps <= limit:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; pass a whole number from 1 to {limit}")
        try:
            self.set_timesteps(scheduler, num_inference_steps, latents)
        except Exception as error:              # each scheduler has numbers of its own that it cannot do
            raise ValueError(f"num_inference_steps is {num_inference_steps}, which {type(scheduler).__name__} cannot do ({error}); pass another number, "
                             "or leave scheduler out") from error
        if scheduler.timesteps[0] < scheduler.timesteps[-1]:
            raise ValueError(f"{type(scheduler).__name__} goes from the picture to noise, its timesteps rise; to sample pass one whose timesteps fall, "
                             "such as DDIM, and to find the noise of a picture use invert(pipe, picture)")
        if not self.flow and scheduler.timesteps.max() > limit - 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}, with which {type(scheduler).__name__} begins at timestep "
                             f"{scheduler.timesteps.max().item():g} of at most {limit - 1}; pass fewer, or timestep_spacing='trailing'")
        return scheduler

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the model was trained with. ValueError for a bare network, of which nobody knows it."""
        if self.pipe.scheduler is None:
            raise ValueError(f"a bare {type(self.network).__name__} has no scheduler, which says how pictures are noised: pass its pipeline")
        return self.pipe.scheduler.config.num_train_timesteps

    def default_scheduler(self):
        return copy.deepcopy(self.pipe.scheduler) if self.flow else ddim_scheduler(self.pipe)

    @property
    def plain_ddim(self) -> bool:
        """True where the default scheduler is a DDIM that does nothing but what its paper says, so that `readout.ddim_step` is it."""
        scheduler = self.default_scheduler()
        return isinstance(scheduler, DDIMScheduler) and not (scheduler.config.clip_sample or scheduler.config.thresholding)

    def set_timesteps(self, scheduler, num_inference_steps, latents) -> None:
        scheduler.set_timesteps(num_inference_steps, device=self.device)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents as the denoiser sees them at timesteps (B,)."""
        if self.flow:
            sigma = (timesteps.to(clean) / self.pipe.scheduler.config.num_train_timesteps).view(-1, 1, 1, 1)
            return (1 - sigma) * clean + sigma * noise
        scheduler = ddim_scheduler(self.pipe)
        if timesteps.is_floating_point():                           # those of Euler's schedulers and their kin
            a, s = (torch.stack(each).to(clean).view(-1, 1, 1, 1) for each in zip(*(noise_levels(scheduler, t) for t in timesteps.tolist())))
            return a * clean + s * noise
        return scheduler.add_noise(clean, noise, timesteps)


class UNet(Denoiser):
    """A UNet2DConditionModel: the `conv2` of its decoder's ResNets, before the skip connection is added (paper, section 3.1)."""

    def find_layers(self):
        return [(f"up_blocks.{i}.resnets.{j}", resnet.conv2) for i, block in enumerate(self.network.up_blocks)
                for j, resnet in enumerate(block.resnets)]

    @property
    def channels(self):
        return tuple(_bare(conv).out_channels for conv in self.layers)

    def sizes(self, height=None, width=None):
        height, width = (each or own for each, own in zip((height, width), self.latent_shape()[1:]))
        last = len(self.network.up_blocks) - 1
        return [(-(-height // 2 ** (last - i)), -(-width // 2 ** (last - i)))
                for i, block in enumerate(self.network.up_blocks) for _ in block.resnets][:len(self.layers)]

    def feature_map(self, output, latents):
        return output

    @property
    def embedder(self):
        return self.network.time_proj, self.network.time_embedding

    @property
    def needs(self):
        added = ("text_embeds", "time_ids") if self.config.addition_embed_type == "text_time" else ()
        pictures = {"image_embeds": getattr(self.network, "encoder_hid_proj", None) is not None and  # an IP-Adapter
                    self.config.encoder_hid_dim_type == "ip_image_proj",
                    "image_latents": self.config.in_channels > self.latent_channels}
        return (*added, *(name for name, needed in pictures.items() if needed))

    @property
    def latent_channels(self):
        return self.config.out_channels

    @property
    def width(self):
        width = self.config.cross_attention_dim
        return width if isinstance(width, int) and not self.config.encoder_hid_dim else None

    @property
    def behind(self):
        attentions = getattr(self.network.up_blocks[-1], "attentions", None)
        return attentions[-1] if attentions else self.network.conv_norm_out or self.network.conv_out

    @property
    def in_model_guidance(self):
        return self.config.time_cond_proj_dim is not None           # LCM

    def name_encoded(self, encoded, image_size):
        if len(encoded) == 2:                                       # Stable Diffusion
            return Conditioning(*encoded)
        embeds, negative_embeds, pooled, negative_pooled = encoded  # Stable Diffusion XL
        ids, negative_ids = (torch.tensor([sizes]).to(embeds).repeat(len(embeds), 1)                # (B, 6 or 5)
                             for sizes in self.time_ids(pooled, *image_size))
        return Conditioning(embeds, negative_embeds, {"text_embeds": pooled, "time_ids": ids},
                            {"text_embeds": negative_pooled, "time_ids": negative_ids})

    def time_ids(self, pooled, height, width) -> tuple[list, list]:
        """What SDXL is told beside the text, for both branches: sizes and crop, and its refiner a beauty score instead."""
        known = (self.config.projection_class_embeddings_input_dim - pooled.shape[-1]) // self.config.addition_time_embed_dim
        if known == 5:
            return [height, width, 0, 0, 6.0], [height, width, 0, 0, 2.5]
        return ([height, width, 0, 0, height, width],) * 2

    def forward(self, latents, timestep, embeds, added=None, guidance_scale=None):
        added = dict(added or {})
        missing = [name for name in self.needs if added.get(name) is None]
        if missing:
            raise ValueError(lacking("conditional", missing))
        if "image_latents" in added:                                # inpainting, InstructPix2Pix
            latents = torch.cat([latents, added.pop("image_latents").to(latents)], dim=1)
        if self.in_model_guidance and "timestep_cond" not in added:
            scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
            added["timestep_cond"] = self.pipe.get_guidance_scale_embedding(
                torch.full((len(latents),), scale - 1.0), self.config.time_cond_proj_dim).to(latents)
        direct = {key: added.pop(key) for key in list(added) if key in _UNET_INPUTS}
        return self.network(latents, timestep, encoder_hidden_states=embeds, added_cond_kwargs=added or None, return_dict=False,
                            **direct)[0]


_UNET_INPUTS = set(inspect.signature(UNet2DConditionModel.forward).parameters) - {"added_cond_kwargs"}


class Transformer(Denoiser):
    """A diffusion transformer: what each block returns for the picture's tokens, folded back to a map.

    Hidden states of such models grow from block to block and carry a few channels of enormous size ("massive activations").
    Tokens are brought to one size (LayerNorm without weights) before a head reads them, unless `normalize` is False; channels
    that are larger than the others stay so.
    """
    normalize = True

    def find_layers(self):
        return [(f"{name}.{i}", block) for name in ("transformer_blocks", "single_transformer_blocks")
                for i, block in enumerate(getattr(self.network, name, ()))]

    @property
    def channels(self):
        return (self.config.num_attention_heads * self.config.attention_head_dim,) * len(self.layers)

    @property
    def patch(self) -> int:
        """Cells of the latents for each token, along one side."""
        return self.config.patch_size

    @property
    def unit(self):
        return self.factor * self.patch

    def sizes(self, height=None, width=None):
        height, width = (each or own for each, own in zip((height, width), self.latent_shape()[1:]))
        return [(height // self.patch, width // self.patch)] * len(self.layers)

    def feature_map(self, output, latents):
        tokens = output[-1] if isinstance(output, tuple) else output                    # (text, picture) or picture
        height, width = latents.shape[-2] // self.patch, latents.shape[-1] // self.patch
        tokens = tokens[:, -height * width:]                                            # text comes first, if at all
        if self.normalize:
            with saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved):         # gradient checkpointing, which counts what a
                tokens = F.layer_norm(tokens.float(), tokens.shape[-1:]).to(tokens)     # block saves, does not see this
        return tokens.mT.unflatten(2, (height, width))                                  # (B, C_l, H_l, W_l)

    @property
    def embedder(self):
        return self.network.time_text_embed.time_proj, self.network.time_text_embed.timestep_embedder

    @property
    def width(self):
        return getattr(self.config, "joint_attention_dim", None) or getattr(self.config, "caption_channels", None)

    def set_timesteps(self, scheduler, num_inference_steps, latents):
        """As the model's own pipeline: with dynamic shifting the schedule depends on the number of tokens."""
        settings = self.timesteps(scheduler, num_inference_steps)
        if scheduler.config.get("use_dynamic_shifting"):
            height, width = self.latent_shape()[1:] if latents is None else latents.shape[-2:]
            settings["mu"] = _shift((height // self.patch) * (width // self.patch), scheduler.config)
        scheduler.set_timesteps(device=self.device, **settings)

    def timesteps(self, scheduler, num_inference_steps) -> dict:
        return {"num_inference_steps": num_inference_steps}

    def several(self, timestep, latents) -> Tensor:
        """A timestep as (B,): transformers take no single one."""
        return torch.as_tensor(timestep, device=latents.device).reshape(-1).expand(len(latents))


class SD3(Transformer):
    """Stable Diffusion 3 and 3.5."""
    needs = ("pooled_projections",)

    def name_encoded(self, encoded, image_size):
        embeds, negative_embeds, pooled, negative_pooled = encoded
        return Conditioning(embeds, negative_embeds, {"pooled_projections": pooled}, {"pooled_projections": negative_pooled})

    def forward(self, latents, timestep, embeds, added=None, guidance_scale=None):
        return self.network(hidden_states=latents, timestep=self.several(timestep, latents), encoder_hidden_states=embeds,
                            return_dict=False, **(added or {}))[0]


class Flux(Transformer):
    """FLUX.1: latents packed two by two into tokens, and (in its distilled versions) the guidance scale as an input."""
    needs = ("pooled_projections",)
    in_model_guidance = True
    patch = 2

    @property
    def latent_channels(self):
        return (self.config.out_channels or self.config.in_channels) // 4

    @property
    def own_size(self):
        return getattr(self.pipe, "default_sample_size", 128)

    def name_encoded(self, encoded, image_size):
        embeds, pooled, _ = encoded
        return Conditioning(embeds, added={"pooled_projections": pooled})

    def timesteps(self, scheduler, num_inference_steps):
        if scheduler.config.get("use_flow_sigmas"):
            return {"num_inference_steps": num_inference_steps}
        if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ValueError(f"{type(scheduler).__name__} cannot be told its sigmas, which FLUX needs (as in its own pipeline); "
                             "use FlowMatchEulerDiscreteScheduler, or leave scheduler out")
        sigmas = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64).numpy()
        return {"sigmas": sigmas}

    def forward(self, latents, timestep, embeds, added=None, guidance_scale=None):
        guidance = None
        if self.config.guidance_embeds:
            scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
            guidance = torch.full((len(latents),), scale, device=latents.device, dtype=torch.float32)
        height, width = latents.shape[-2:]
        ids = torch.zeros(height // 2, width // 2, 3)
        ids[..., 1] = torch.arange(height // 2)[:, None]
        ids[..., 2] = torch.arange(width // 2)[None]
        places = {"img_ids": ids.flatten(0, 1).to(latents), "txt_ids": torch.zeros(embeds.shape[1], 3).to(latents)}
        packed = self.network(hidden_states=pack(latents), encoder_hidden_states=embeds, return_dict=False, guidance=guidance,
                              timestep=self.several(timestep, latents).to(latents.dtype) / 1000, **{**places, **(added or {})})[0]
        return unpack(packed, height, width)


class PixArt(Transformer):
    """PixArt-alpha and PixArt-Sigma: noise is predicted, with a variance beside it that is not used."""

    @property
    def embedder(self):
        return self.network.adaln_single.emb.time_proj, self.network.adaln_single.emb.timestep_embedder

    def name_encoded(self, encoded, image_size):
        embeds, mask, negative_embeds, negative_mask = encoded
        return Conditioning(embeds, negative_embeds, {"encoder_attention_mask": mask}, {"encoder_attention_mask": negative_mask})

    def forward(self, latents, timestep, embeds, added=None, guidance_scale=None):
        extra = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, **(added or {})}
        output = self.network(latents, encoder_hidden_states=embeds, timestep=self.several(timestep, latents), return_dict=False,
                              **extra)[0]
        return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * latents.shape[1] else output


KINDS = {UNet2DConditionModel: UNet, SD3Transformer2DModel: SD3, FluxTransformer2DModel: Flux, PixArtTransformer2DModel: PixArt}


def denoiser(pipe) -> Denoiser:
    """The `Denoiser` of a diffusers pipeline, or of a bare network. ValueError for what is not supported, in a sentence."""
    if isinstance(pipe, Denoiser):
        return pipe
    network = getattr(pipe, "unet", None)
    network = getattr(pipe, "transformer", None) if network is None else network
    if network is None and isinstance(pipe, nn.Module):
        network, pipe = pipe, SimpleNamespace(scheduler=None)
    plain = getattr(network, "_orig_mod", network)                  # compiled by torch
    kind = kind_of(plain)
    reason = _unsupported(pipe, plain) if kind is not None else f"its denoiser is a {type(plain).__name__}"
    if reason:
        raise ValueError(f"{type(pipe).__name__} is not supported: {reason}; use a pipeline of Stable Diffusion 1, 2 or XL (a "
                         "UNet2DConditionModel as `unet`), or of SD3, FLUX or PixArt (a `transformer`)")
    return kind(pipe, plain)


def kind_of(network) -> type[Denoiser] | None:
    return next((kind for known, kind in KINDS.items() if isinstance(network, known)), None)


def _unsupported(pipe, network) -> str | None:
    """Why a network of a known class is none of ours after all, or None."""
    if isinstance(network, FluxTransformer2DModel) and network.config.out_channels not in (
            None, network.config.in_channels):
        return "its transformer takes more than the latents (FLUX Fill, Control and the like)"
    if "Kontext" in type(pipe).__name__:
        return "its transformer takes the tokens of a second picture (FLUX Kontext)"
    if not isinstance(network, UNet2DConditionModel):
        return None
    if network.config.encoder_hid_dim_type in ("image_proj", "text_image_proj"):
        return "its UNet is told a picture's embedding instead of a text (Kandinsky)"
    if hasattr(pipe, "register_modules") and getattr(pipe, "vae", None) is None:
        return "it has no autoencoder, so it denoises pixels (DeepFloyd IF) or something else"
    if not all(hasattr(resnet, "conv2") for block in network.up_blocks for resnet in getattr(block, "resnets", [None])):
        return "its decoder is not built of ResNets"
    return None


# ---- schedules ---------------------------------------------------------------------------------------------------------

def is_flow(scheduler) -> bool:
    config = getattr(scheduler, "config", {})
    return "FlowMatch" in type(scheduler).__name__ or config.get("prediction_type") == "flow_prediction"


def ddim_scheduler(pipe) -> DDIMScheduler:
    """A DDIM scheduler with the pipeline's noise schedule and prediction type; the pipeline's own is left alone."""
    config = dict(getattr(getattr(pipe, "scheduler", None), "config", {}))
    if "beta_schedule" not in config or is_flow(pipe.scheduler):
        raise ValueError(f"the scheduler {type(getattr(pipe, 'scheduler', None)).__name__} has no beta schedule; DDIM needs a "
                         "diffusion model such as Stable Diffusion, not one trained with flow matching")
    return DDIMScheduler.from_config({"clip_sample": False, **config})


def _suits(model: Denoiser, scheduler) -> None:
    own = model.pipe.scheduler
    missing = [name for name in ("set_timesteps", "step", "timesteps", "config") if not hasattr(scheduler, name)]
    if missing:
        raise ValueError(f"scheduler is {scheduler!r}, which has no {missing[0]}; pass one of diffusers' schedulers, made by "
                         "from_config(pipe.scheduler.config)")
    kinds = [("flow matching" if is_flow(each) else each.config.get("prediction_type", "epsilon")) for each in (own, scheduler)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{type(scheduler).__name__} is set for {kinds[1]}, but the model predicts by {kinds[0]}; make the scheduler by "
                         f"{type(scheduler).__name__}.from_config(pipe.scheduler.config), or leave it out")
    takes = inspect.signature(scheduler.step).parameters.values()
    more = [each.name for each in list(takes)[3:] if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    if more:
        raise ValueError(f"{type(scheduler).__name__} has to be told {', '.join(more)} at each step, which is no sampling from noise; use DDIM, or another")
    if not model.flow:
        products, learned = getattr(scheduler, "alphas_cumprod", None), ddim_scheduler(model.pipe).alphas_cumprod
        if products is None:
            raise ValueError(f"{type(scheduler).__name__} has no noise schedule by betas (alphas_cumprod), which this method reads; use DDIM, "
                             "or another that has")
        if products.shape != learned.shape or not torch.allclose(products.cpu().to(learned), learned, atol=1e-3):
            raise ValueError(f"{type(scheduler).__name__} has another noise schedule (betas) than the model learned; make the scheduler by "
                             f"{type(scheduler).__name__}.from_config(pipe.scheduler.config), or leave it out")


def scheduler_step(scheduler, output, t, latents, clean, noise, **settings) -> Tensor:
    """The step of any scheduler of diffusers', in the form of `readout.ddim_step`."""
    if latents is not getattr(scheduler, "handed_out", latents):
        forget_last_sample(scheduler)
    scheduler.handed_out = scheduler.step(output, t, latents, return_dict=False, **settings)[0]
    return scheduler.handed_out


def forget_last_sample(scheduler) -> None:
    """After latents were moved: UniPC and SA-Solver correct them from those before, which would undo the move."""
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None


def takes_moves(scheduler) -> bool:
    """False at an evaluation after which the scheduler goes on from latents that it kept (Heun's second look, PNDM's second,
    the higher orders of DPM-Solver in single steps): a move of latents would be lost there. One of the prediction never is."""
    if hasattr(scheduler, "order_list"):
        return scheduler.order_list[scheduler.step_index or 0] == 1
    if hasattr(scheduler, "prk_timesteps"):
        return scheduler.counter % 4 == 0 if scheduler.counter < len(scheduler.prk_timesteps) else scheduler.counter != 1
    return getattr(scheduler, "state_in_first_order", True)


def will_take_moves(scheduler, steps: int) -> list[bool]:
    """`takes_moves` at each of the `steps` that a run will end with, before it begins."""
    if hasattr(scheduler, "order_list"):
        return [order == 1 for order in scheduler.order_list[-steps:]]
    if hasattr(scheduler, "prk_timesteps"):
        first = len(scheduler.prk_timesteps)
        return [step % 4 == 0 if step < first else step != 1 for step in range(steps)]
    return [step % 2 == 0 or not hasattr(scheduler, "state_in_first_order") for step in range(steps)]


def seen_by(scheduler, latents: Tensor, t) -> tuple[Tensor, Tensor | float]:
    """What the denoiser sees of the scheduler's latents, and how much larger these are (Euler's are, DDIM's are not)."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents, 1.0
    seen = scheduler.scale_model_input(latents, t)
    return seen, 1.0 if seen is latents else 1 / scheduler.scale_model_input(torch.ones((), device=latents.device), t)


def step_settings(scheduler, eta: float, variance_noise, generator, latents: Tensor) -> list[dict]:
    """What the scheduler's `step` is given beside prediction, timestep and latents (B, C, h, w), one dict for each step."""
    takes, steps, generator = inspect.signature(scheduler.step).parameters, len(scheduler.timesteps), as_generators(generator, len(latents))
    for name, value in (("eta", eta), ("variance_noise", variance_noise)):
        if value is not None and not (torch.is_tensor(value) is False and value == 0) and name not in takes:
            raise ValueError(f"{name} is {describe(value)}, but {type(scheduler).__name__} has no such setting; use DDIM, or leave it out")
    if variance_noise is not None:
        check_variance_noise(variance_noise, steps, latents)
        if not eta:
            raise ValueError("variance_noise is given, but eta is 0, which adds no noise; pass eta above 0, or leave variance_noise out")
    common = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in takes}
    if variance_noise is None:
        return [common] * steps
    return [{**common, "generator": None, "variance_noise": noise.to(latents)} for noise in variance_noise]


def check_variance_noise(noise, steps: int, latents: Tensor) -> None:
    """ValueError for anything but finite noise (steps, B or 1, C, h, w) for latents (B, C, h, w)."""
    wanted = f"({steps}, {len(latents)} or 1, {', '.join(map(str, latents.shape[1:]))})"
    if not torch.is_tensor(noise) or noise.ndim != 5 or noise.shape[2:] != latents.shape[1:] or noise.shape[1] not in (1, len(latents)) \
            or not noise.is_floating_point():
        raise ValueError(f"variance_noise is {describe(noise)}; pass a tensor of floats {wanted}")
    if len(noise) != steps:
        raise ValueError(f"variance_noise holds {len(noise)} steps of noise, not {steps}; pass as many as "
                         "num_inference_steps (for a drag: with which its source was sampled)")
    if not noise.isfinite().all():
        raise ValueError("variance_noise holds NaN or infinity; pass finite numbers")


def as_generators(generator, pictures: int):
    """A generator, or a list of one for each picture, or None. ValueError for anything else."""
    if isinstance(generator, (list, tuple)):
        generator = list(generator)
        if len(generator) != pictures:
            raise ValueError(f"{len(generator)} generators for {pictures} pictures; pass one, or as many")
    if any(not isinstance(each, torch.Generator) for each in (generator if isinstance(generator, list) else [generator]) if each is not None):
        raise ValueError(f"generator is {generator!r}; pass torch.Generator().manual_seed(0), or a list of one for each picture")
    return generator


def draw_noise(shape, generator, device, dtype) -> Tensor:
    """Gaussian noise from a CPU generator, or a list of one for each picture, wherever it is to live."""
    return randn_tensor(tuple(shape), generator=as_generators(generator, shape[0]), device=device, dtype=dtype)


def draw(like: Tensor, generator=None) -> Tensor:
    """Noise of another tensor's shape, place and number format."""
    return draw_noise(like.shape, generator, like.device, like.dtype)


def noise_levels(scheduler, timestep) -> tuple[Tensor, Tensor]:
    """(a, s) of what the denoiser sees at a timestep, x_t = a x_0 + s noise: two numbers as tensors."""
    if is_flow(scheduler):
        sigma = torch.as_tensor(float(timestep) / scheduler.config.num_train_timesteps)
        return 1 - sigma, sigma
    products, low = scheduler.alphas_cumprod, int(timestep)                             # timesteps between two are interpolated
    product = products[low] if low == timestep else torch.lerp(products[low], products[min(low + 1, len(products) - 1)], float(timestep) - low)
    return product ** 0.5, (1 - product) ** 0.5


def clean_and_noise(scheduler, output: Tensor, latents: Tensor, timestep) -> tuple[Tensor, Tensor]:
    """Split a prediction (B, C, h, w) at noisy latents: the clean latents and the noise that it stands for."""
    a, s = noise_levels(scheduler, timestep)
    kind = "flow" if is_flow(scheduler) else scheduler.config.prediction_type
    if kind == "epsilon":
        return (latents - s * output) / a, output
    if kind == "v_prediction":
        return a * latents - s * output, a * output + s * latents
    if kind == "flow":
        return latents - s * output, latents + a * output
    return output, (latents - a * output) / s                                           # 'sample'


# ---- tokens ------------------------------------------------------------------------------------------------------------

def pack(latents: Tensor) -> Tensor:
    """FLUX's tokens: (B, C, h, w) -> (B, h/2 * w/2, 4 C)."""
    batch, channels, height, width = latents.shape
    return latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(
        batch, height // 2 * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Back to latents: (B, h/2 * w/2, 4 C) -> (B, C, h, w)."""
    batch, _, channels = tokens.shape
    return tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(
        batch, channels // 4, height, width)


def _shift(tokens: int, config) -> float:
    """The shift of a flow schedule by the number of tokens, as the pipelines of SD3 and FLUX compute it."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    return tokens * slope + config.get("base_shift", 0.5) - slope * low


def _bare(layer):
    """A layer without the LoRA wrapped around it."""
    return getattr(layer, "base_layer", layer)
