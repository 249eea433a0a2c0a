"""Every number format: half precision and its loss scale, a LoRA, weights stored smaller, autocast, inference mode."""
import pytest
import torch
from torch import nn

import tiny
from rg_minimal import pipelines, readout as rg
from rg_minimal.callback import GuidanceCallback
from rg_minimal.denoisers import denoiser
from rg_minimal.saving import train_head
from tiny import make_head, seed, spatial

PROMPT = "a puppet is waving"
BUILD = {"SD": tiny.tiny_pipe, "SD3": tiny.tiny_sd3_pipe}


@pytest.fixture(scope="module")
def pipe():
    return tiny.tiny_pipe()


def sampled(pipe, objectives, **settings):
    settings = {"num_inference_steps": 4, "step_size": 0.1, **settings}
    return list(pipelines.guided_sample(pipe, PROMPT, objectives, generator=seed(), **settings))


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_guided_sampling_in_half_precision(kind, dtype):
    """The head is in float32; the result is near that of float32."""
    exact = sampled(BUILD[kind](), [spatial(BUILD[kind]())])
    pipe = BUILD[kind]().to(dtype)
    states, plain = sampled(pipe, [spatial(pipe)]), sampled(pipe, [spatial(pipe)], step_size=0.0)
    assert states[-1].latents.dtype == dtype and states[-1].latents.isfinite().all()
    assert states[-1].losses[0] < plain[-1].losses[0]
    torch.testing.assert_close(states[0].losses[0].float(), exact[0].losses[0], atol=0, rtol=0.02)
    expected = pipe(PROMPT, num_inference_steps=4, generator=seed(), output_type="latent").images
    assert torch.equal(sampled(pipe, [])[-1].latents, expected)
    guidance = GuidanceCallback([spatial(pipe)], step_size=0.1)
    pipe(PROMPT, num_inference_steps=4, generator=seed(), callback_on_step_end=guidance)
    assert len(guidance.losses) == 3


class Weak(rg.SpatialObjective):
    """Its gradient is too small for float16."""
    factor = 1e-6

    def __call__(self, reading):
        return super().__call__(reading) * self.factor


def gradient(dtype, factor):
    pipe = tiny.tiny_pipe()
    plain = spatial(pipe)
    pipe = pipe.to(dtype)
    objective = Weak(head=plain.head, target=plain.target, stop=1.0)
    objective.factor = factor
    told, latents = pipelines.encode_prompts(pipe, PROMPT), torch.randn(1, 4, 16, 16, generator=seed()).to(dtype)
    guide = rg.Guidance([objective])
    return guide.gradient(lambda noisy: rg.take_readings(pipe, noisy, 500, told), latents, [1.0])[0]


def test_small_gradients_do_not_vanish_in_float16_and_keep_their_size():
    """Without the loss scale they are zeros; if it were not divided out they would be a thousand times larger."""
    factor = 5e-4
    exact, found = gradient(torch.float32, factor), gradient(torch.float16, factor)
    assert exact.abs().median() < 6e-8                                  # below the smallest number of float16
    assert found.norm() / exact.norm() == pytest.approx(1, rel=0.1)
    assert nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.99


class LoRA(nn.Module):
    """As peft wraps a layer: the layer itself is `base_layer`."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.down = layer, nn.Conv2d(layer.in_channels, 1, 1)
        self.up = nn.Conv2d(1, layer.out_channels, 1)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def test_a_lora_on_the_layers_that_are_read():
    pipe = tiny.tiny_pipe()
    head, channels = make_head(pipe), denoiser(pipe).channels
    for block in pipe.unet.up_blocks:
        for resnet in block.resnets:
            resnet.conv2 = LoRA(resnet.conv2)
    pipe.unet.time_embedding.linear_2 = type("Linear", (nn.Module,), {"forward": lambda self, x: self.base_layer(x)})()
    pipe.unet.time_embedding.linear_2.base_layer = nn.Linear(64, 64)
    assert denoiser(pipe).channels == channels and denoiser(pipe).embedding_channels == 64
    states, plain = (sampled(pipe, [rg.SpatialObjective(head=head, target=torch.zeros(1, 2, 8, 8), stop=1.0)], step_size=size)
                     for size in (0.1, 0.0))
    assert states[-1].losses[0] < plain[-1].losses[0]
    trainable = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    assert trainable and all(weight.grad is None for weight in trainable)


def small(network):
    return sum(weight.dtype == torch.float16 for weight in network.parameters()) > 20


@pytest.mark.parametrize("kind", BUILD)
def test_weights_stored_in_a_smaller_format(kind):
    pipe = BUILD[kind]()
    head = spatial(pipe)
    network = denoiser(pipe).network
    network.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert denoiser(pipe).dtype == torch.float32 and small(network)
    states, plain = (sampled(pipe, [head], step_size=size) for size in (0.1, 0.0))
    assert states[-1].losses[0] < plain[-1].losses[0] and states[-1].latents.dtype == torch.float32
    assert small(network)
    states = list(train_head(head.head, pipe, [(torch.rand(1, 3, 32, 32), torch.zeros(1, 2, 8, 8))], 1))
    assert states[0].loss == states[0].loss


def test_inside_autocast(pipe):
    """Sampling works, and training does not go on with weights of the first step that autocast keeps."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states, plain = (sampled(pipe, [spatial(pipe)], step_size=size) for size in (0.2, 0.0))
        assert states[-1].losses[0] < plain[-1].losses[0]
        pictures, labels = torch.rand(2, 3, 32, 32, generator=seed()), torch.rand(2, 2, 8, 8, generator=seed())
        losses = [state.loss for state in train_head(make_head(pipe), pipe, lambda step: (pictures, labels), 30, lr=3e-3)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_inside_inference_mode(pipe):
    expected = sampled(pipe, [])[-1].latents
    with torch.inference_mode():
        assert torch.equal(sampled(pipe, [])[-1].latents, expected)
        with pytest.raises(ValueError, match="use torch.no_grad instead"):
            sampled(pipe, [spatial(pipe)])
        with pytest.raises(ValueError, match="use torch.no_grad instead"):
            pipe(PROMPT, num_inference_steps=3, callback_on_step_end=GuidanceCallback([spatial(pipe)]))
    with torch.no_grad():
        assert len(sampled(pipe, [spatial(pipe)])) == 4
