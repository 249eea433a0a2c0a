"""How the project's numbers are measured: the base model, pose guidance, and what guidance costs.

`python -m rg_minimal.measure base` (or `pose`, `cost`) measures and writes `data/results/NAME.json`. Each measurement is a
generator that yields (pictures done, pictures in all) and ends with the result as its return value; `finish` runs one.
"""
from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Generator

import torch

from . import puppets
from .basemodel import autoencoder_psnr
from .heads import pose_objective
from .judge import Judge, attribute_accuracy, load_judge, pck
from .pipelines import load_head, load_pipeline
from .plots import save_grid
from .readout import ReadoutHead, decode, guided_sample, sample

BASE_SEED, POSE_SEED = puppets.HELD_OUT + 10_000, puppets.HELD_OUT + 20_000
MEASURED = ("shirt", "trousers", "hat", "background", "prop", "action")      # what every caption decides

Progress = Generator[tuple[int, int], None, dict]


def finish(measurement: Progress, report=None) -> dict:
    """Run a measurement to its end; `report(done, all)` is called after each batch where given."""
    while True:
        try:
            state = next(measurement)
        except StopIteration as stop:
            return stop.value
        if report:
            report(*state)


def facts(scenes) -> list[dict[str, str]]:
    """The attributes that count in `attribute_accuracy`: those in `MEASURED`."""
    return [{name: scene.attributes[name] for name in MEASURED} for scene in scenes]


def measure_base(pipe, judge: Judge, count: int = 500, steps: int = 50, batch: int = 20, seed: int = BASE_SEED,
                 guidance_scale: float = 7.5, sheet: str | Path | None = None) -> Progress:
    """Attribute accuracy, share of whole puppets and PSNR of the autoencoder, from `count` held-out captions.

    `sheet` is a file for the first 32 pictures, whatever they look like.
    """
    scenes, rng = puppets.sample_scenes(count, seed), torch.Generator().manual_seed(seed)
    hits, found, first = [], [], []
    for start in range(0, count, batch):
        part = scenes[start:start + batch]
        pictures, _ = sample(pipe, [scene.caption for scene in part], num_inference_steps=steps, generator=rng,
                             guidance_scale=guidance_scale)
        first = [*first, *pictures][:32]
        if sheet and (len(first) == 32 or start + len(part) == count):
            save_grid(torch.stack(first), sheet)
            sheet = None
        reading = judge(pictures)
        hits.append((attribute_accuracy(reading, facts(part)), len(part)))
        found.append(judge.found(reading))
        yield start + len(part), count
    accuracy = {name: sum(each[name] * n for each, n in hits) / count for name in hits[0][0]}
    return {"captions": count, "steps": steps, "guidance_scale": guidance_scale, "seed": seed, "attribute_accuracy": accuracy,
            "all_joints_found": float(torch.cat(found).float().mean()), "vae_psnr_db": autoencoder_psnr(pipe.vae, 128)}


def measure_pose(pipe, judge: Judge, head: ReadoutHead, count: int = 100, steps: int = 50, batch: int = 10,
                 seed: int = POSE_SEED, guidance_scale: float = 7.5, objective: dict | None = None, **guidance) -> Progress:
    """PCK of guided and unguided pictures against held-out poses, with the same captions and initial noise.

    `objective` are settings of the objective (weight, start, stop, schedule), `guidance` those of `guided_sample`.
    """
    scenes = puppets.sample_scenes(count, seed)
    totals: dict[str, dict] = {"unguided": {}, "guided": {}}
    for start in range(0, count, batch):
        part = scenes[start:start + batch]
        frames = puppets.render(part)
        goal = [pose_objective(head, frames.joints, **(objective or {}))]
        for name, objectives, extra in (("unguided", [], {}), ("guided", goal, guidance)):
            pictures, _ = sample(pipe, [scene.caption for scene in part], objectives, num_inference_steps=steps,
                                 generator=torch.Generator().manual_seed(seed + start), guidance_scale=guidance_scale, **extra)
            reading = judge(pictures)
            values = {"pck@0.05": pck(reading.joints, frames.joints, 0.05, frames.visible).mean(),
                      "pck@0.1": pck(reading.joints, frames.joints, 0.1, frames.visible).mean(),
                      "all_joints_found": judge.found(reading).float().mean(),
                      "attribute_accuracy": attribute_accuracy(reading, facts(part))["mean"]}
            for key, value in values.items():
                totals[name][key] = totals[name].get(key, 0.0) + float(value) * len(part) / count
        yield start + len(part), count
    return {"pictures": count, "steps": steps, "seed": seed, "guidance_scale": guidance_scale, **totals,
            "settings": {**(objective or {}), **guidance}}


def measure_cost(pipe, head: ReadoutHead, steps: int = 50, repeats: int = 3, seed: int = POSE_SEED) -> Progress:
    """Process time of one guided picture (half of the steps guided) against an unguided one, in turn; medians."""
    scene = puppets.sample_scene(seed)
    goal = [pose_objective(head, puppets.render(scene).joints)]
    times: dict[str, list] = {"unguided": [], "guided": []}
    for repeat in range(repeats + 1):                                  # the first one warms up and does not count
        for name, objectives in (("unguided", []), ("guided", goal)):
            process, wall = time.process_time(), time.perf_counter()
            for state in guided_sample(pipe, scene.caption, objectives, num_inference_steps=steps,
                                       generator=torch.Generator().manual_seed(seed)):
                pass
            decode(pipe, state.latents)
            if repeat:
                times[name].append((time.process_time() - process, time.perf_counter() - wall))
        yield repeat, repeats
    ratios = sorted(g[0] / u[0] for g, u in zip(times["guided"], times["unguided"]))
    middle = lambda name, i: sorted(t[i] for t in times[name])[repeats // 2]
    return {"steps": steps, "repeats": repeats, "threads": torch.get_num_threads(),
            "process_seconds": {name: middle(name, 0) for name in times},
            "wall_seconds": {name: middle(name, 1) for name in times}, "process_time_ratio": ratios[repeats // 2],
            "peak_memory_mb": peak_memory_mb()}


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def write_result(name: str, result: dict, folder: str | Path = "data/results") -> Path:
    """Write a measurement as `folder`/`name`.json, whole or not at all."""
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure and write data/results/NAME.json.")
    parser.add_argument("what", choices=["base", "pose", "cost"])
    parser.add_argument("--model", default="data/puppet-diffusion")
    parser.add_argument("--head", default="data/heads/pose")
    parser.add_argument("--count", type=int, default=None, help="pictures (500 for base, 100 for pose)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sheet", default=None, help="with base: a file for the first 32 pictures")
    parser.add_argument("--out", default="data/results")
    options = parser.parse_args()
    pipe = load_pipeline(options.model)
    if options.what == "base":
        measurement = measure_base(pipe, load_judge(), options.count or 500, options.steps, sheet=options.sheet)
    elif options.what == "pose":
        measurement = measure_pose(pipe, load_judge(), load_head(options.head, pipe), options.count or 100,
                                   options.steps)
    else:
        measurement = measure_cost(pipe, load_head(options.head, pipe), options.steps)
    result = finish(measurement, lambda done, of: print(f"{done} of {of}", flush=True))
    print(json.dumps(result, indent=1))
    print("written to", write_result(options.what, result, options.out))


if __name__ == "__main__":
    main()
