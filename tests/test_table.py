"""What works with what: each cell of the README's table is run here on a tiny pipeline, and the table is compared with it.

`python tests/test_table.py --write` writes the table into the README.
"""
import functools
import re
import sys
from pathlib import Path

import diffusers
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny                                                         # noqa: E402
from rg_minimal import pipelines                                    # noqa: E402
from rg_minimal.denoisers import denoiser                           # noqa: E402
from rg_minimal.callback import GuidanceCallback                    # noqa: E402
from rg_minimal.saving import train_head                            # noqa: E402
from tiny import as_, make_head, seed, spatial                      # noqa: E402

START, END = "<!-- table: pipelines -->\n", "<!-- end -->"
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
MASKED = {"image": IMAGE, "mask_image": torch.ones(1, 1, 32, 32), "height": 32, "width": 32}
EMBEDS = [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(4))]


def with_scheduler(name):
    def build():
        pipe = tiny.tiny_pipe()
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **{"skip_prk_steps": True} if "PNDM" in name else {})
        return pipe
    return build


def edited(build, name, **more):
    return lambda: as_(build(), name, **more)


# what a row is called, how its pipeline is made, and what its call takes beside the prompt
ROWS = {
    "Stable Diffusion 1.5": (tiny.tiny_pipe, {}),
    "Stable Diffusion 2.1 (v-prediction, zero SNR)": (
        lambda: tiny.tiny_pipe("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), {}),
    "SDXL": (tiny.tiny_xl_pipe, {}),
    "Stable Diffusion 3, 3.5": (tiny.tiny_sd3_pipe, {}),
    "FLUX.1": (tiny.tiny_flux_pipe, {}),
    "PixArt-Sigma": (tiny.tiny_pixart_pipe, {"use_resolution_binning": False}),
    "LCM": (tiny.tiny_lcm_pipe, {}),
    "ControlNet": (tiny.tiny_control_pipe, {"image": IMAGE}),
    "SDXL ControlNet": (tiny.tiny_xl_control_pipe, {"image": IMAGE}),
    "T2I-Adapter": (tiny.tiny_adapter_pipe, {"image": IMAGE, "height": 32, "width": 32}),
    "IP-Adapter": (tiny.tiny_ip_pipe, {"ip_adapter_image_embeds": EMBEDS}),
    "img2img": (edited(tiny.tiny_pipe, "StableDiffusionImg2ImgPipeline"), {"image": IMAGE}),
    "SDXL img2img": (edited(tiny.tiny_xl_pipe, "StableDiffusionXLImg2ImgPipeline"), {"image": IMAGE, "strength": 0.9}),
    "SDXL refiner": (tiny.tiny_refiner_pipe, {"image": IMAGE, "strength": 0.9}),
    "Inpainting, 4 channels": (tiny.tiny_inpaint_pipe, MASKED),
    "Inpainting, 9 channels": (lambda: tiny.tiny_inpaint_pipe(9), MASKED),
    "InstructPix2Pix": (tiny.tiny_pix2pix_pipe, {"image": IMAGE}),
    "Perturbed-attention guidance": (tiny.tiny_pag_pipe, {"pag_scale": 3.0}),
    **{f"Stable Diffusion, {name}": (with_scheduler(name), {}) for name in (
        "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler", "LCMScheduler", "PNDMScheduler")},
    "DeepFloyd IF": (tiny.tiny_if_pipe, {}), "Kandinsky 2.2": (tiny.tiny_kandinsky_pipe, {}),
    "AnimateDiff": (tiny.tiny_animate_pipe, {}), "Stable Video Diffusion": (tiny.tiny_video_pipe, {}),
    "DDPM": (tiny.tiny_ddpm_pipe, {})}


def cell_guided_sample(pipe, settings):
    """The pipeline's own scheduler, two sizes of step, and the loss is lower with the larger."""
    losses = []
    for size in (0.0, 0.1):
        denoiser(pipe)
        states = list(pipelines.guided_sample(pipe, "a puppet", [spatial(pipe)], num_inference_steps=3, generator=seed(), step_size=size,
                                              scheduler=pipe.scheduler))
        losses.append([state.losses[0] for state in states if state.losses[0] is not None][-1])
    assert losses[1] < losses[0]


def cell_callback(pipe, settings):
    denoiser(pipe)
    losses = []
    for size in (0.0, 0.1):
        guidance = GuidanceCallback([spatial(pipe)], step_size=size)
        old = not hasattr(type(pipe), "_callback_tensor_inputs")
        form = {"callback": guidance.in_place(pipe)} if old else {"callback_on_step_end": guidance}
        pipe("a puppet", num_inference_steps=4, generator=seed(), output_type="latent", **form, **settings)
        losses.append(guidance.losses[-1][0])
    assert losses[1] < losses[0]
    return "works (`in_place`)" if old else "works"


def cell_inversion(pipe, settings):
    """The noise gives the picture back."""
    clean = torch.randn(1, 4, 16, 16, generator=seed())
    states = list(pipelines.invert(pipe, None, "a puppet", latents=clean, num_inference_steps=6, fixed_point_iterations=40))
    again = list(pipelines.guided_sample(pipe, "a puppet", latents=states[-1].latents, guidance_scale=1.0, num_inference_steps=6))
    assert (again[-1].latents - clean).norm() < 2e-2 * clean.norm()


def cell_training(pipe, settings):
    denoiser(pipe)
    states = list(train_head(make_head(pipe), pipe, lambda step: (IMAGE, torch.zeros(1, 2, 8, 8)), 8, lr=3e-3))
    assert states[-1].loss < states[0].loss


COLUMNS = {"`guided_sample`": cell_guided_sample, "callback": cell_callback, "inversion": cell_inversion, "training": cell_training}


@functools.cache
def row(name) -> str:
    build, settings = ROWS[name]
    if "Scheduler" in name:             # inversion and training take DDIM's noise schedule from it: as in the first row
        pipe, columns, known = build(), list(COLUMNS.values())[:2], row("Stable Diffusion 1.5").split(" | ")[3:5]
    else:
        pipe, columns, known = build(), COLUMNS.values(), []
    cells, sentences = [], []
    for cell in columns:
        try:
            cells.append(cell(pipe, settings) or "works")
        except ValueError as error:
            cells.append("no")
            sentences.append(" ".join(str(error).split()).replace("|", "/"))
    return f"| {name} | {' | '.join(cells + known)} | {' '.join(dict.fromkeys(sentences))} |\n"


def head() -> str:
    return f"| | {' | '.join(COLUMNS)} | the refusal |\n|{'---|' * (2 + len(COLUMNS))}\n"


def readme() -> str:
    path = ROOT / "README.md"
    text = path.read_text() if path.exists() else ""
    if START not in text:
        pytest.skip("the README has no table")
    return text[text.index(START) + len(START):text.index(END, text.index(START))]


@pytest.mark.parametrize("name", ROWS)
def test_each_row_is_as_the_readme_says(name):
    assert row(name) in readme()


def test_the_table_has_no_other_rows():
    table = readme()
    assert table.startswith(head()) and re.findall(r"^\| ([^|]+?) \|", table, re.M) == list(ROWS)


if __name__ == "__main__" and "--write" in sys.argv:
    text = (ROOT / "README.md").read_text()
    before, after = text.split(START, 1)
    new = head() + "".join(map(row, ROWS))
    (ROOT / "README.md").write_text(before + START + new + after[after.index(END):])
elif __name__ == "__main__":
    print(head() + "".join(map(row, ROWS)))
