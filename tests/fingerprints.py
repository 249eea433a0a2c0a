"""Pictures and a head as they came out before the redesign of the core: `python tests/fingerprints.py` records them anew.

Each edit in eight steps on the shipped model, and eight training steps of a head, on one thread. On the machine on which
they were recorded the results are the same bit for bit; on others they differ by rounding, which guidance amplifies.
"""
import hashlib
import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from rg_minimal import Source, decode, guided_sample, invert, load_head, load_pipeline
from rg_minimal.puppets import HELD_OUT, render, sample_scene
from rg_minimal.puppets.editing import drag, identity
from rg_minimal.puppets.heads import depth_objective, edge_objective, get_task, new_head, pose_objective, train_task

FILE = Path(__file__).parent / "fingerprints.safetensors"
STEPS = dict(num_inference_steps=8)
PROMPT = "a puppet with dark skin in a yellow shirt and blue trousers is walking on a beach"


def machine() -> str:
    """What decides the last bits: processor, torch, threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    about = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    flags = hashlib.sha256(" ".join(sorted(about.get("flags", "").split())).encode()).hexdigest()[:12]
    model = " ".join(about.get(name, "") for name in ("model name", "model", "stepping", "cache size")) or platform.processor()
    return f"{model}, flags {flags}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def final(pipe, prompt, objectives=(), **settings) -> torch.Tensor:
    return [state for state in guided_sample(pipe, prompt, objectives, **STEPS, **settings)][-1].latents


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def fingerprints() -> dict[str, torch.Tensor]:
    """Final latents (1, 4, 32, 32) of each edit, the preview of one, and the readout weights of a trained miniature."""
    pipe = load_pipeline(device="cpu")
    heads = {name: load_head(f"data/heads/{name}") for name in ("pose", "depth", "edges", "correspondence", "appearance")}
    frame = render(sample_scene(HELD_OUT + 3))
    pose, depth = pose_objective(heads["pose"], frame.joints), depth_objective(heads["depth"], frame.depth)
    out = {"unguided": final(pipe, PROMPT, generator=seed()),
           "pose": final(pipe, PROMPT, [pose], generator=seed()),
           "depth": final(pipe, PROMPT, [depth], generator=seed()),
           "edges": final(pipe, PROMPT, [edge_objective(heads["edges"], frame.edges)], generator=seed(), eta=0.5)}

    def dragged(states):
        source = Source.from_states(pipe, states, PROMPT)
        settings = drag(heads["correspondence"], source, [(40, 60), (48, 66)], [(30, 40), (40, 52)], fixed=[(56, 50)], anatomy_weight=4.0, spare=0.0,
                        anatomy=heads["pose"], appearance=heads["appearance"])
        return final(pipe, PROMPT, **settings)
    states = list(guided_sample(pipe, PROMPT, generator=seed(), **STEPS))
    out |= {"drag": dragged(states), "preview": decode(pipe, states[3].clean_latents),
            "inverted": (inverted := list(invert(pipe, frame.image, PROMPT, **STEPS)))[-1].latents,
            "inverted_drag": dragged(inverted)}
    reference = Source.from_picture(pipe, frame.image, PROMPT, generator=seed(1))
    looks = identity(heads["appearance"], reference)
    out["identity"] = final(pipe, PROMPT, **looks, generator=seed())
    out["combination"] = final(pipe, PROMPT, [*looks.pop("objectives"), pose, depth], **looks, generator=seed())
    task = get_task("pose", count=16, batch=4, steps=8)
    head = new_head(pipe, task)
    out["loss"] = torch.tensor([state.loss for state in train_task(pipe, task, head=head)])
    out |= {f"head.{name}": value for name, value in head.state_dict().items() if name in ("mixing_weights", "output_head.4.weight")}
    return {name: value.detach().contiguous() for name, value in out.items()}


def load() -> tuple[dict, dict]:
    return load_file(FILE), json.loads(FILE.with_suffix(".json").read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_bytes(save(fingerprints()))
    FILE.with_suffix(".json").write_text(json.dumps({"machine": machine()}, indent=1) + "\n")
