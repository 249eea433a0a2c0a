"""Prompts in the form a denoiser takes, whichever text encoders they came from."""
from __future__ import annotations

import inspect
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

import torch
from torch import Tensor

from .checks import Count, can_be_read, declared, describe, rows


TOKENIZING = threading.RLock()                      # a fast tokenizer that two threads use at once says "Already borrowed"
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")         # what diffusers calls those of a pipeline
POOLED = ("text_embeds", "pooled_projections")      # what each branch must have of its own


@dataclass
class Conditioning:
    """What the denoiser is told: one row for each picture, or a single row for all of them.

    `added` holds whatever else the model's forward pass takes, by diffusers' names: `text_embeds` and `time_ids` (SDXL),
    `pooled_projections` (SD3, FLUX), `encoder_attention_mask` (PixArt), `image_embeds` (IP-Adapter, a list of tensors),
    `class_labels`, ControlNet or T2I-Adapter residuals, and `image_latents`, which are put behind the latents' channels
    (mask and masked picture of an inpainting model, the picture of InstructPix2Pix). What `negative_added` does not name
    is the same in both branches. `control` computes more of it for each pass, from (latents, timestep, embeds, added):
    the residuals of a ControlNet, see `pipelines.controlled`; where it has a `check`, that is asked with the latents first.
    """
    prompt_embeds: Tensor                                           # (B, L, D)
    negative_prompt_embeds: Tensor | None = None                    # (B, L, D), needed for guidance_scale > 1
    added: dict[str, Any] = field(default_factory=dict)
    negative_added: dict[str, Any] = field(default_factory=dict)
    control: Callable | None = None

    def rows(self, branches: Iterable[str], batch: int) -> tuple[Tensor, dict[str, Any]]:
        """Embeddings and additions of 'conditional' and 'negative' branches, one after the other, for `batch` pictures."""
        parts = [self._branch(name, batch) for name in branches]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([embeds for embeds, _ in parts]), {
            name: _join([added[name] for _, added in parts]) for name in parts[0][1]}

    def _branch(self, name, batch):
        conditional = name == "conditional"
        embeds = self.prompt_embeds if conditional else self.negative_prompt_embeds
        if embeds is None:
            raise ValueError("this Conditioning has no negative_prompt_embeds, which guidance_scale > 1 and a gradient of both "
                             "branches need; pass them, or guidance_scale=1")
        added = self.added if conditional else {**self.added, **self.negative_added}
        return rows(embeds, batch, "prompt_embeds"), {key: _spread(value, batch, key) for key, value in added.items()}

    def check(self, model, latents: Tensor, negative: bool) -> None:
        """ValueError where a part is missing, or has another shape than the model or the latents (B, C, h, w) need."""
        if hasattr(self.control, "check"):
            self.control.check(latents)
        for name in ("conditional", "negative") if negative else ("conditional",):
            embeds, added = self._branch(name, len(latents))
            if embeds.ndim != 3 or model.width not in (None, embeds.shape[2]):
                raise ValueError(f"the {name} prompt_embeds have shape {tuple(embeds.shape)}, but this model takes (B, L, {model.width}); "
                                 "encode the prompt with this very pipeline")
            own = self.added if name == "conditional" else self.negative_added
            missing = [key for key in model.needs if added.get(key) is None or (key in POOLED and own.get(key) is None)]
            if missing:
                raise ValueError(lacking(name, missing))
            ids = added.get("time_ids")
            if ids is not None and ids.shape[-1] == 6 and tuple(ids[0, 4:].tolist()) != model.image_size(latents):
                raise ValueError(f"the time_ids say that the picture has {tuple(ids[0, 4:].tolist())} pixels (height, width), but the latents "
                                 f"stand for {model.image_size(latents)}; encode the prompt for that size")
        if negative and self.prompt_embeds.shape[1:] != self.negative_prompt_embeds.shape[1:]:
            raise ValueError(f"prompt_embeds {tuple(self.prompt_embeds.shape)} and negative_prompt_embeds "
                             f"{tuple(self.negative_prompt_embeds.shape)} differ in length or width; encode both padded to one "
                             "length, as encode_prompts(pipe, prompt, negative_prompt) does")

    def to(self, device, dtype) -> "Conditioning":
        """The same on another device and in another number format."""
        def moved(value):
            return _each(value, lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device))
        return Conditioning(*(moved(part) for part in (self.prompt_embeds, self.negative_prompt_embeds, self.added,
                                                       self.negative_added)), self.control)


def lacking(branch: str, names: list[str]) -> str:
    """The message for parts that a model needs and a conditioning has not."""
    remedy = "encode_prompts(pipe, prompt) gives them"
    if "image_latents" in names or "image_embeds" in names:
        remedy = ("put the picture's embedding (a list of tensors), or the mask and masked picture, or the picture to edit, as latents "
                  "(B, C, h, w), there, or use GuidanceCallback in the model's own pipeline")
    return (f"the {branch} branch of this Conditioning lacks {', '.join(names)} (in `added` and `negative_added`), which this model "
            f"needs; {remedy}")


@declared
def encode_prompt(pipe, model, prompt, negative_prompt=None, image_size=None, num_images_per_prompt: Count = 1,
                  **embeds) -> Conditioning:
    """Encode prompts with the pipeline's own text encoders, whatever they are.

    Args:
        model: the `Denoiser` of the pipeline, which knows what its text encoders' outputs are called.
        prompt: a string, a list of strings, or a `Conditioning`, which is returned as it is.
        negative_prompt: a string or one for each prompt; None is what diffusers takes it for ("" in SD).
        image_size: (H, W) in pixels, told to SDXL.
        num_images_per_prompt: how many rows each prompt gets, as in diffusers.
        embeds: `prompt_embeds` and the like, instead of a prompt, as the pipeline's own `encode_prompt` takes them.
    Raises ValueError for an empty list, for what is not a string, and for a negative prompt that would be ignored.
    """
    if isinstance(prompt, Conditioning):
        if negative_prompt is not None or num_images_per_prompt != 1 or any(each is not None for each in embeds.values()):
            raise ValueError(f"negative_prompt is {negative_prompt!r} and num_images_per_prompt {num_images_per_prompt} beside a "
                             "Conditioning, which has its own rows: encode with encode_prompts(pipe, prompt, negative_prompt)")
        return prompt.to(model.device, model.dtype)
    embeds = {name: value for name, value in embeds.items() if value is not None}
    for name, value in embeds.items():
        if name.endswith("_embeds"):
            _check_embeds(name, value)
    given_embeds = prompt is None and embeds.get("prompt_embeds") is not None
    if prompt is not None and "prompt_embeds" in embeds:
        raise ValueError(f"prompt is {prompt!r} beside prompt_embeds; pass one of them")
    prompts = [""] * len(embeds["prompt_embeds"]) if given_embeds else [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not prompts or not all(isinstance(each, str) for each in prompts):
        raise ValueError(f"prompt is {prompt!r}; pass a string, a non-empty list of strings, or a Conditioning")
    negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
    if negatives is not None and (not isinstance(negatives, (list, tuple)) or not all(isinstance(each, str) for each in negatives)):
        raise ValueError(f"negative_prompt is {negative_prompt!r}; pass a string, a list of strings, or None")
    if negatives is not None and "negative_prompt_embeds" in embeds:
        raise ValueError(f"negative_prompt is {negative_prompt!r} beside negative_prompt_embeds; pass one of them")
    if negatives is not None and len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts; pass one, or as many")
    warn_ignored(pipe, [*prompts, *(negatives or [])])
    if not hasattr(pipe, "encode_prompt"):
        raise ValueError(f"{type(pipe).__name__} cannot encode a prompt by itself; encode it with the pipeline of the model that it "
                         "was made from and pass the Conditioning, or use GuidanceCallback in this pipeline")
    takes = inspect.signature(pipe.encode_prompt).parameters
    if negatives is not None and "negative_prompt" not in takes:
        raise ValueError(f"negative_prompt is {negative_prompt!r}, but {type(pipe).__name__} has no negative branch: its guidance "
                         "scale is an input of the model; leave negative_prompt out")
    encoders = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if hasattr(pipe, name)]
    both = all(name in embeds or name not in takes for name in ("prompt_embeds", "negative_prompt_embeds"))
    if encoders and not both and all(getattr(pipe, name) is None for name in encoders):
        raise ValueError(f"{type(pipe).__name__} has no text encoder; pass prompt_embeds and negative_prompt_embeds as its encode_prompt gave them, or "
                         "as a prompt what encode_prompts(pipe, prompt) gave, before it was taken away")
    unknown = sorted(set(embeds) - set(takes))
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no {', '.join(unknown)}; its encode_prompt takes {', '.join(takes)}")
    given = {"prompt": None if given_embeds else list(prompts), "prompt_2": None, "prompt_3": None, "device": model.device, "do_classifier_free_guidance": True,
             "num_images_per_prompt": num_images_per_prompt, "negative_prompt": negatives if negatives is None else list(negatives), **embeds}
    if negatives is None and takes.get("negative_prompt") is not None and takes["negative_prompt"].default == "":
        given.pop("negative_prompt")                                # PixArt says "" itself
    for each in _tokenizers(pipe):          # what it says, once, of a long prompt is false here: diffusers cuts it, and nothing ends in an error
        getattr(each, "deprecation_warnings", {})["sequence-length-is-longer-than-the-specified-maximum"] = True
    with torch.no_grad(), TOKENIZING:
        encoded = pipe.encode_prompt(**{name: value for name, value in given.items() if name in takes})
    return model.name_encoded(encoded, image_size)


def _check_embeds(name: str, value) -> None:
    axes = "(B, D)" if "pooled" in name else "(B, L, D)"
    if not torch.is_tensor(value) or not can_be_read(value) or not value.is_floating_point() or value.ndim != axes.count(",") + 1 or not value.numel():
        raise ValueError(f"{name} is {describe(value)}; pass a tensor of floats {axes}, as the pipeline's own encode_prompt gives it")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; encode the prompt again")


def ignored(pipe, prompt: str) -> tuple[list[str], str]:
    """What a prompt says and a pipeline's text encoders never hear: words that they do not know, and the end that is cut off, or "".

    CLIP's tokenizer spells any word out of pieces and has no unknown words (its unk token is its end token). Of several tokenizers
    the one that reads on counts. Python's own, slow tokenizers do not say where a token stands: of them nothing is known.
    """
    tokenizers = _tokenizers(pipe)
    if not tokenizers or not all(getattr(each, "is_fast", False) for each in tokenizers):
        return [], ""
    with TOKENIZING:
        told = [each(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False) for each in tokenizers]
    first, unknown = tokenizers[0], []
    if first.unk_token not in (first.eos_token, first.pad_token):
        unknown = [prompt[a:b] for token, (a, b) in zip(told[0].input_ids, told[0].offset_mapping) if token == first.unk_token_id]
    room = [each.model_max_length - each.num_special_tokens_to_add() for each in tokenizers]
    ends = [prompt[tokens.offset_mapping[fit][0]:] if len(tokens.input_ids) > fit else "" for tokens, fit in zip(told, room)
            if tokens.input_ids]                                    # one that hears nothing at all reads no end
    return unknown, min(ends, key=len, default="")


def warn_ignored(pipe, prompts: Iterable[str]) -> list[str]:
    """Warn about what is `ignored` of the prompts; returns it, unknown words first."""
    found = [ignored(pipe, prompt) for prompt in prompts]
    unknown, ends = [word for words, _ in found for word in words], [end for _, end in found if end]
    if unknown:
        known = sorted(set(pipe.tokenizer.get_vocab()) - set(pipe.tokenizer.all_special_tokens))
        warnings.warn(f"the model does not know {', '.join(sorted(set(unknown)))} and will ignore it; it knows: "
                      f"{' '.join(known)}", stacklevel=3)
    if ends:
        warnings.warn(f"the prompt is longer than the model reads, which will ignore its end: {', '.join(map(repr, ends))}; say it with "
                      "fewer words", stacklevel=3)
    return unknown + ends


def _tokenizers(pipe) -> list:
    return [each for name in TOKENIZERS if (each := getattr(pipe, name, None)) is not None]


def _each(value, change):
    """`change` every tensor in nested lists, tuples and dicts."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(each, change) for key, each in value.items()}
    return type(value)(_each(each, change) for each in value) if isinstance(value, (list, tuple)) else value


def _spread(value, batch, name):
    return _each(value, lambda tensor: rows(tensor, batch, name))


def _join(values):
    """Concatenate tensors, or nested lists of tensors, over their rows."""
    first = values[0]
    if torch.is_tensor(first):
        return torch.cat(values)
    return type(first)(map(_join, zip(*values))) if isinstance(first, (list, tuple)) else first
