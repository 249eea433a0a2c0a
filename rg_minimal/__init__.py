"""Readout Guidance, small enough to read: start with `readout.py`, or with notebooks/00_start_here.ipynb."""
from transformers.utils import logging as _logging

_level = _logging.get_verbosity()
_logging.set_verbosity_error()                          # transformers warns that torchvision is missing; nothing here needs it
from diffusers import StableDiffusionPipeline as _      # noqa: E402, F401
_logging.set_verbosity(_level)

from .pipelines import check_prompt, encode_prompts, load_head, load_pipeline, prepare_pipeline
from .readout import (AppearanceObjective, Conditioning, CorrespondenceObjective, Guidance, GuidanceCallback, HeadConfig,
                      Objective, ReadoutHead, SampleState, Source, SpatialObjective, TrainState, appearance_loss,
                      collect_features, correspondence_loss, decode, encode, guided_sample, invert, load_reference_head,
                      read_picture, sample, spatial_loss, train_head)
