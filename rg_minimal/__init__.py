"""Readout Guidance, small enough to read: start with `readout.py`, or with notebooks/00_start_here.ipynb."""
import gc as _gc

_collects = _gc.isenabled()
_gc.disable()                                           # among thousands of new modules it takes a sixth of an import's time
try:
    from transformers.utils import logging as _logging

    _level = _logging.get_verbosity()
    _logging.set_verbosity_error()                      # transformers warns that torchvision is missing; nothing here needs it
    from diffusers import StableDiffusionPipeline as _  # noqa: F401
    _logging.set_verbosity(_level)
finally:
    if _collects:
        _gc.enable()

from .callback import GuidanceCallback
from .conditioning import Conditioning
from .maps import pool_features
from .pictures import as_pictures
from .pipelines import (check_prompt, decode, encode, encode_prompts, guided_sample, invert, load_head, load_pipeline, prepare_pipeline,
                        read_picture, sample)
from .readout import (AppearanceObjective, CorrespondenceObjective, Guidance, HeadConfig, Objective, SampleState, SpatialObjective,
                      TrainState, appearance_loss, collect_features, correspondence_loss, spatial_loss)
from .reference import load_reference_head
from .saving import ReadoutHead, train_head
from .sources import Source
