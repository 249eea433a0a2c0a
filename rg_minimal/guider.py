"""Readout Guidance as a guider of diffusers' modular pipelines. Experimental, as that interface is.

    pipe.update_components(guider=ReadoutGuidance([pose_objective(head, joints)], guidance_scale=7.0))

A guider sees each forward pass of the loop. This one opens the gradient in the conditional pass, which is run anyway, and
adds the step to the prediction: no pass more than classifier-free guidance, and at `step_size` 0 its very numbers.
`guided_sample(..., moves="prediction")` follows the same rule.
"""
from __future__ import annotations

import inspect
import threading
import weakref
from typing import Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from torch import Tensor

from .checks import Count, Entries, Fraction, NonNegative, Number, Truth, check_interval, declared, describe
from .denoisers import denoiser
from .readout import Guidance, Reading, collect_features

_HEARING: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()      # network -> {thread: what hears its next pass}
_LOCK = threading.Lock()


class ReadoutGuidance(ClassifierFreeGuidance):
    """Classifier-free guidance, and the gradient of objectives (see `readout.Guidance` for `guidance`).

    Args:
        objectives: what is to come about; their intervals are fractions of the steps.
        guidance_scale, guidance_rescale: as of `ClassifierFreeGuidance`.
        step_size: how far the prediction is moved, in units of its own size, which is about 1.
        vae_scale_factor: pixels for each cell of the latents, for objectives with points and boxes.
        prediction_type: as in the scheduler's config, which a guider does not see: of "sample" the move goes the other way.
    `losses` has an entry for each guided step of the latest run. A guider knows one run: a second thread that uses it at the
    same time gets a ValueError, and so does the first.
    """
    ignore_for_config = ["objectives", "guidance"]

    @register_to_config
    @declared
    def __init__(self, objectives=(), guidance_scale: Number = 7.5, guidance_rescale: Fraction = 0.0, step_size: NonNegative = 0.5,
                 vae_scale_factor: Count = 8, start: Fraction = 0.0, stop: Fraction = 1.0, enabled: Truth = True,
                 guidance: Entries | None = None,
                 prediction_type: Literal["epsilon", "v_prediction", "flow_prediction", "sample"] = "epsilon"):
        super().__init__(guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, start=start, stop=stop, enabled=enabled)
        own = {"objectives", "step_size", "moves"} & set(guidance or {})
        if own:
            raise ValueError(f"guidance holds {', '.join(sorted(own))}; pass objectives and step_size as arguments of their own, and leave moves "
                             "out: a guider moves the prediction")
        self.guide, self._settings = Guidance(objectives, step_size=step_size, moves="prediction", **(guidance or {})), guidance
        if self.guide.gradient_branch != "conditional":
            raise ValueError(f"gradient_branch is {self.guide.gradient_branch!r}, but a guider reads the conditional pass only; leave "
                             "it out, or use guided_sample")
        self.vae_scale_factor, self.losses, self._heard, self._listening = vae_scale_factor, [], None, None
        self._batch = self._thread = None
        self._disturbed = False

    def new(self, **changes) -> ReadoutGuidance:
        """The same guider with other settings. Objectives are no part of a config, and go along."""
        told = {name: self.config[name] for name in inspect.signature(ReadoutGuidance).parameters if name in self.config}
        return type(self)(**{**told, "objectives": self.guide.objectives, "guidance": self._settings, **changes})

    def _check_alone(self) -> None:
        if self._disturbed or self._thread not in (None, threading.get_ident()):
            self._disturbed = True
            raise ValueError("two threads use this guider at once, which knows one run at a time: give each of them a pipeline with a "
                             "guider and a scheduler of its own")

    def set_state(self, step, num_inference_steps, timestep) -> None:
        if step == 0:
            self._thread, self._disturbed = threading.get_ident(), False
        self._check_alone()
        if self.guide.objectives and step >= num_inference_steps:
            raise ValueError(f"the loop goes on after its {num_inference_steps} steps, as with a scheduler that evaluates twice a step (Heun, KDPM2), and "
                             "a guider is not told how far it goes, which intervals are fractions of; use one that evaluates once, or guided_sample")
        super().set_state(step, num_inference_steps, timestep)
        if step == 0:
            for objective in self.guide.objectives:
                check_interval(objective, num_inference_steps)
        self.losses, self._heard = ([] if step == 0 else self.losses), None

    def prepare_inputs(self, *data):
        return self._remember(super().prepare_inputs(*data))

    def prepare_inputs_from_block_state(self, *data):
        return self._remember(super().prepare_inputs_from_block_state(*data))

    def _remember(self, batches: list) -> list:
        """The conditional pass's inputs live as long as its step: a loop that was interrupted takes what listens along."""
        self._batch = weakref.ref(batches[0])
        return batches

    def prepare_models(self, network) -> None:
        """Before each pass; the first is the conditional one, and is listened to where an objective is active."""
        self._check_alone()
        super().prepare_models(network)
        self.cleanup_models(network)
        self._strengths = [each.strength(self._step, self._num_inference_steps) for each in self.guide.objectives]
        if self._count_prepared == 1 and self._enabled and any(self._strengths):
            self._listening = _Ear(network, self._hear)
            batch = self._batch and self._batch()
            if batch is not None:
                weakref.finalize(batch, self._listening.close)
            self._listening.open()

    def cleanup_models(self, network) -> None:
        """After each pass: nothing is left on the network, also where the pass was never run."""
        if self._listening:
            self._listening.close()
        self._listening = None

    def _hear(self, network, forward, args, kwargs):
        """The conditional pass, with gradient for its latents, and its layers kept in `_heard`."""
        model = denoiser(network)
        model.pipe.vae_scale_factor = self.vae_scale_factor
        place = "sample" if "sample" in kwargs else "hidden_states"
        given = args[0] if args else kwargs[place]
        if given.ndim != 4 or torch.is_inference_mode_enabled():
            raise ValueError(f"the network is given {describe(given)} (inference mode: {torch.is_inference_mode_enabled()}), but this "
                             "guider needs latents (B, C, h, w), and gradients: use torch.no_grad, and guided_sample for FLUX")
        latents = given[:, :model.latent_channels].detach().requires_grad_()
        self.guide.check(model, len(latents), model.image_size(latents))
        with torch.enable_grad(), model.frozen(), collect_features(model, latents) as features:
            given = torch.cat([latents, given[:, latents.shape[1]:]], dim=1)
            output = forward(given, *args[1:], **kwargs) if args else forward(**{**kwargs, place: given})
        self._heard = model, latents, features
        return output

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None):
        """The guided prediction, (B, C, h, w) each."""
        self._check_alone()
        if self._heard is None:
            return super().forward(pred_cond, pred_uncond)
        (model, latents, features), self._heard = self._heard, None
        output = super().forward(pred_cond.detach(), pred_uncond)
        reading = Reading(model, features, latents, torch.as_tensor(self._timestep).flatten()[0].item(), output=pred_cond)
        with torch.enable_grad():
            gradient, losses = self.guide.differentiate([reading], latents, self._strengths)
        self.losses.append(losses)
        sign = -1 if self.config.prediction_type == "sample" else 1                 # more noise, or less of the picture
        output.pred = output.pred + sign * self.guide.step(gradient, self._strengths, []).to(output.pred)
        return output


class _Ear:
    """Lets `hear(network, forward, args, kwargs)` stand in for the network's next pass in this thread.

    A forward hook could not close the gradient again after a keyboard interrupt; this is gone before the pass begins.
    """

    def __init__(self, network, hear):
        self.network, self.hear, self.thread = network, hear, threading.get_ident()
        self.hearing = _HEARING.setdefault(network, {})

    def open(self) -> None:
        with _LOCK:
            self.hearing[self.thread] = self
            if self._laid() is None:
                self.network.forward = self._heard()

    def close(self) -> None:
        """Take it back; any number of times, also where it was never opened."""
        with _LOCK:
            if self.hearing.get(self.thread) is self:
                del self.hearing[self.thread]
            laid = self._laid()
            if not self.hearing and laid is not None:
                if laid.own is None:
                    del self.network.forward
                else:
                    self.network.forward = laid.own

    def _laid(self):
        """What stands in for the network's passes now, if it is ours."""
        forward = self.network.__dict__.get("forward")
        return forward if getattr(forward, "hearing", None) is self.hearing else None

    def _heard(self):
        network, hearing, forward = self.network, self.hearing, self.network.forward

        def heard(*args, **kwargs):
            ear = hearing.get(threading.get_ident())
            if ear is None:
                return forward(*args, **kwargs)                     # another thread's pass
            ear.close()
            return ear.hear(network, forward, args, kwargs)
        heard.hearing, heard.own = hearing, network.__dict__.get("forward")
        return heard
