"""Readout Guidance as a guider of diffusers' modular pipelines. Experimental, as that interface is.

    pipe.update_components(guider=ReadoutGuidance([pose_objective(head, joints)], guidance_scale=7.0))

A guider sees each forward pass of the loop. This one opens the gradient in the conditional pass, which is run anyway, and
adds the step to the prediction: no pass more than classifier-free guidance, and at `step_size` 0 its very numbers.
`guided_sample(..., moves="prediction")` follows the same rule.
"""
from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import ClassifierFreeGuidance
from torch import Tensor

from .checks import Count, Entries, Fraction, NonNegative, Number, Truth, declared, describe
from .denoisers import denoiser
from .readout import Guidance, Reading, collect_features


class ReadoutGuidance(ClassifierFreeGuidance):
    """Classifier-free guidance, and the gradient of objectives (see `readout.Guidance` for `guidance`).

    Args:
        objectives: what is to come about; their intervals are fractions of the steps.
        guidance_scale, guidance_rescale: as of `ClassifierFreeGuidance`.
        step_size: how far the prediction is moved, in units of its own size, which is about 1.
        vae_scale_factor: pixels for each cell of the latents, for objectives with points and boxes.
    `losses` has an entry for each guided step of the latest run.
    """
    ignore_for_config = ["objectives", "guidance"]

    @register_to_config
    @declared
    def __init__(self, objectives=(), guidance_scale: Number = 7.5, guidance_rescale: Fraction = 0.0, step_size: NonNegative = 0.5,
                 vae_scale_factor: Count = 8, start: Fraction = 0.0, stop: Fraction = 1.0, enabled: Truth = True,
                 guidance: Entries | None = None):
        super().__init__(guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, start=start, stop=stop, enabled=enabled)
        self.guide = Guidance(objectives, step_size=step_size, moves="prediction", **(guidance or {}))
        if self.guide.gradient_branch != "conditional":
            raise ValueError(f"gradient_branch is {self.guide.gradient_branch!r}, but a guider reads the conditional pass only; leave "
                             "it out, or use guided_sample")
        self.vae_scale_factor, self.losses, self._heard, self._listening = vae_scale_factor, [], None, None

    def set_state(self, step, num_inference_steps, timestep) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self.losses, self._heard = ([] if step == 0 else self.losses), None

    def prepare_models(self, network) -> None:
        """Before each pass; the first is the conditional one, and is listened to where an objective is active."""
        super().prepare_models(network)
        self.cleanup_models(network)
        self._strengths = [each.strength(self._step, self._num_inference_steps) for each in self.guide.objectives]
        if self._count_prepared == 1 and self._enabled and any(self._strengths):
            self._listening = _listen_once(network, self._hear)

    def cleanup_models(self, network) -> None:
        """After each pass: nothing is left on the network, also where the pass was never run."""
        if self._listening:
            self._listening()
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
        if self._heard is None:
            return super().forward(pred_cond, pred_uncond)
        (model, latents, features), self._heard = self._heard, None
        output = super().forward(pred_cond.detach(), pred_uncond)
        reading = Reading(model, features, latents, torch.as_tensor(self._timestep).flatten()[0].item(), output=pred_cond)
        with torch.enable_grad():
            gradient, losses = self.guide.differentiate([reading], latents, self._strengths)
        self.losses.append(losses)
        output.pred = output.pred + self.guide.step(gradient, self._strengths, []).to(output.pred)
        return output


def _listen_once(network, hear):
    """Let `hear(network, forward, args, kwargs)` stand in for the network's next pass; returns what takes it back.

    A forward hook could not close the gradient again after a keyboard interrupt; this function is gone before the pass begins.
    """
    own, forward = network.__dict__.get("forward"), network.forward

    def undo():
        if network.__dict__.get("forward") is heard:
            del network.forward
            if own is not None:
                network.forward = own

    def heard(*args, **kwargs):
        undo()
        return hear(network, forward, args, kwargs)
    network.forward = heard
    return undo
