"""Loading diffusers pipelines for Readout Guidance, and what differs between them.

The method itself is in `readout.py` and asks little of a pipeline: a `unet`, a `scheduler`, a `vae`, `encode_prompt`.
This module gets one from disk (or, if asked, from the hub) ready for use.
"""
import json
import warnings
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from .readout import Conditioning, ReadoutHead, ddim_scheduler, encode_prompt, warn_unknown_words

DEFAULT = "data/puppet-diffusion"       # the small model that the repository ships


def load_pipeline(path=DEFAULT, device=None, dtype=None, local_files_only: bool = True):
    """Load a pipeline with a UNet (Stable Diffusion 1, 2, XL, or the shipped model): DDIM, eval mode, frozen, silent.

    Args:
        path: a folder in diffusers' layout, or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
            The default is found from any folder inside the repository.
        device: by default a GPU if there is one.
        dtype: float32 by default, whatever the files hold. On a GPU float16 halves the memory of large models.
        local_files_only: False allows a download from the hub.
    A `guidance_scale` in the folder's recipe.json becomes `pipe.default_guidance_scale`, which sampling then starts from.
    Raises ValueError where nothing is found, a file is damaged, or the pipeline has no UNet.
    """
    folder = find_folder(path)
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _quiet_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)      # diffusers calls it torch_dtype in old, dtype in new versions
            pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype or torch.float32,
                                                     local_files_only=local_files_only)
    except Exception as error:          # diffusers, transformers, safetensors and the hub each raise their own
        raise ValueError(f"could not load a diffusion pipeline from {path!r}: {error}. Pass a folder that holds a "
                         "model_index.json, or a hub id with local_files_only=False to download it.") from error
    finally:
        logging.set_verbosity(level)
    recipe = Path(folder) / "recipe.json"
    if recipe.is_file():
        pipe.default_guidance_scale = float(json.loads(recipe.read_text()).get("guidance_scale", 7.5))
    return prepare_pipeline(pipe).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def prepare_pipeline(pipe):
    """Make a pipeline that you loaded yourself ready: DDIM scheduler, eval mode, frozen weights, no progress bars."""
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no `unet`; Readout Guidance reads the decoder of a UNet, so load "
                         "a Stable Diffusion or SDXL pipeline (transformers such as SD 3 and Flux have none)")
    pipe.scheduler = ddim_scheduler(pipe)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_head(folder, pipe=None) -> ReadoutHead:
    """Load a head, on the pipeline's device if one is given, which it then has to fit.

    A relative folder such as "data/heads/pose" is found from any folder inside the repository. Raises ValueError where
    it is missing, damaged, or made for another UNet.
    """
    head = ReadoutHead.from_pretrained(find_folder(folder))
    if pipe is not None:
        head.check(pipe.unet)
        head.to(pipe.unet.device)
    return head


def encode_prompts(pipe, prompt, negative_prompt=None) -> Conditioning:
    """Encode prompts once and reuse them: the result can stand wherever a `prompt` is asked for."""
    return encode_prompt(pipe, prompt, negative_prompt)


def check_prompt(pipe, prompt) -> list[str]:
    """The words of a prompt that the model does not know, also said in a warning. CLIP tokenizers know every word."""
    return warn_unknown_words(pipe.tokenizer, [prompt] if isinstance(prompt, str) else prompt)


def find_folder(path) -> str:
    """A relative path is also looked for beside the package, so that notebooks run from any folder. Returned as it is
    where nothing is found."""
    beside = Path(__file__).resolve().parent.parent / path
    return str(beside) if not Path(path).exists() and beside.exists() else str(path)


class _quiet_bars:
    """Switch the loading bars of diffusers and transformers off, and back to what they were."""

    def __enter__(self):
        from transformers.utils import logging as transformers_logging
        self.loggers = (logging, transformers_logging)
        self.were_on = [logger.is_progress_bar_enabled() for logger in self.loggers]
        for logger in self.loggers:
            logger.disable_progress_bar()

    def __exit__(self, *error):
        for logger, was_on in zip(self.loggers, self.were_on):
            if was_on:
                logger.enable_progress_bar()
