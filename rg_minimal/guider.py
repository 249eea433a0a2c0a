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

from .denoisers import denoiser
from .readout import Guidance, Reading, collect_features


class ReadoutGuidance(ClassifierFreeGuidance):
    """Classifier-free guidance, and the gradient of objectives (see `readout.Guidance` for `guidance`).

    Args:
        objectives: what is to come about; their intervals are fractions of the steps.
        guidance_scale, guidance_rescale: as of `ClassifierFreeGuidance`.
        step_size: how far the prediction is moved, in units of its own size, which is about 1.
        vae_scale_factor: pixels for each cell of the latents, for objectives with points and boxes.
    """
    ignore_for_config = ["objectives", "guidance"]

    @register_to_config
    def __init__(self, objectives=(), guidance_scale: float = 7.5, guidance_rescale: float = 0.0, step_size: float = 0.5,
                 vae_scale_factor: int = 8, start: float = 0.0, stop: float = 1.0, enabled: bool = True, guidance: dict | None = None):
        super().__init__(guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, start=start, stop=stop, enabled=enabled)
        self.guide = Guidance(objectives, step_size=step_size, moves="prediction", **(guidance or {}))
        self.vae_scale_factor, self.losses, self._heard = vae_scale_factor, [], None

    def set_state(self, step, num_inference_steps, timestep) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self.losses, self._heard = ([] if step == 0 else self.losses), None

    def prepare_models(self, network) -> None:
        """Before each pass; the first is the conditional one, and is listened to where an objective is active."""
        super().prepare_models(network)
        self._strengths = [each.strength(self._step, self._num_inference_steps) for each in self.guide.objectives]
        if self._count_prepared == 1 and self._enabled and any(self._strengths):
            self._listen(network)

    def _listen(self, network) -> None:
        """Hooks for one pass: its input asks for a gradient, its layers are kept. All is undone when the pass ends, or fails."""
        model = denoiser(network)
        model.pipe.vae_scale_factor = self.vae_scale_factor
        undo = []

        def opened(module, args, kwargs):
            place = "sample" if "sample" in kwargs else "hidden_states"
            latents = (args[0] if args else kwargs[place]).detach().requires_grad_()
            self.guide.check(model, len(latents), model.image_size(latents))
            undo.append(torch.is_grad_enabled())
            torch.set_grad_enabled(True)
            collecting = collect_features(model, latents)
            self._heard = [latents, collecting.__enter__(), collecting, model]
            return ((latents, *args[1:]), kwargs) if args else (args, {**kwargs, place: latents})

        def closed(module, args, output):
            before.remove(), after.remove()
            if undo:
                torch.set_grad_enabled(undo.pop())
                self._heard[2].__exit__(None, None, None)
        before = network.register_forward_pre_hook(opened, with_kwargs=True)
        after = network.register_forward_hook(closed, always_call=True)

    def forward(self, pred_cond, pred_uncond=None):
        """The guided prediction, (B, C, h, w) each."""
        if self._heard is None:
            return super().forward(pred_cond, pred_uncond)
        latents, features, _, model = self._heard
        self._heard = None
        output = super().forward(pred_cond.detach(), pred_uncond)
        reading = Reading(model, features, latents, float(torch.as_tensor(self._timestep).flatten()[0]), output=pred_cond)
        with torch.enable_grad():
            gradient, losses = self.guide.differentiate([reading], latents, self._strengths)
        self.losses.append(losses)
        output.pred = output.pred + self.guide.step(gradient, self._strengths, []).to(output.pred)
        return output
