"""Parameters of notebooks: the parameters cell, what papermill would put after it, and the next cell, which stops at what is wrong."""
import functools
import math
import tempfile
from pathlib import Path

import nbformat

from inputs import Case

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CASES = []
# By the type of the parameter's default: what it may never be.
BAD = {bool: (1, "no", None), int: (True, "12", [1], None, 1.5, -10**9), float: (True, "0.1", math.nan, [1], None, -10**9), list: (None, 3, "ab", {}),
       str: (0, ["a"], None, True), dict: (None, 3, [1], "a")}
LISTS = (["a"], [None], [math.nan])                                 # for lists of numbers, of points, of strokes
FEW = {"seed", "scene_seed", "model", "steps"}                      # of parameters that many notebooks have, two are tried
NAN, STROKE = math.nan, {"points": [[20, 90]], "width": 6, "shade": 0.5}
WRONG = {                                                           # what looks right, and is not
    "00_start_here": dict(picture=["a.xyz", "a", f"{__file__}/a.png"], left_arm=[181, -31, NAN], step_size=[1.5], model=["data/none"]),
    "02_features": dict(layer=[6], timesteps=[[1000], [-1], [0.5], []], joint=["elbow"], pictures=[4, 65]),
    "03_aggregation": dict(head_folder=["data/heads/appearance"]),
    "04_train_a_head": dict(folder=[__file__, f"{__file__}/a"], task=["appearance", "Pose"], lr=[1.0]),
    "05_guided_sampling": dict(pose=[[[3, 4]] * 13, [[3, 400]] * 14, [[3, NAN]] * 14, ["12"] * 14, [[True, 3]] * 14, [[3]] * 14], stop=[0.0, 1.1]),
    "06_sketches": dict(depth_strokes=[[{}], [{**STROKE, "shade": 2}], [{**STROKE, "width": 0}], [{**STROKE, "points": []}], [{**STROKE, "width": NAN}],
                                       [{**STROKE, "points": [[300, 1]]}], [{**STROKE, "points": "12"}]], backgrounds=[[], [101.0]], heads=["data/none"]),
    "07_drag": dict(arrows=[[[[1, 2]]], [[[1, 2], [300, 1]]], [[[1, 2], [NAN, 1]]], ["12"], [[["1", "2"], [3, 4]]]], pinned=[[[1]], [[NAN, 1]], ["12"]],
                    arm=["both"], turn=[181], points=[0, 65]),
    "08_appearance": dict(prompts=[[], [""], [3], "a puppet", None], factors=[[], [21.0]]),
    "09_combining": dict(turns=[{}, {"leg": 3}, {"left": NAN}, {"left": "3"}, {"left": True}], pose_interval=[[0.5, 0.5], [0, NAN], [0.2], [True, 1], "01"]),
    "10_your_own_head": dict(folder=[__file__], sun=[11, 117, NAN]),
    "11_larger_models": dict(reference_head=["no.pt", "data"], model=["data/none", ""]),
    "12_studio": dict(picture=["a", "a.xyz"], pose=[{"joints": [[1, 2]]}, {"weight": NAN}, {"leg": 1}], depth=[{"use": True}, {"strokes": [3]}],
                      drag=[{"interval": [0.5, 0.5]}, {"arrows": ["12"]}, {"keep": 1}], appearance=[{"picture": 3}, {"seed": -1}]),
    "A1_train_the_base_model": dict(export=[__file__, str(FOLDER)], run=["", __file__], start_from=["no/such"], ema=[2.0, NAN], vae_whole=[1.5], lr=[-1, NAN],
                                    snr_power=[NAN, -1], device=["gpu"], samples=[0], sample_steps=[1]),
    "A2_how_the_numbers_are_measured": dict(a=[0, 2, NAN], covered=["nose"], count=[0, 101]),
    "A3_cost": dict(true_size=["sd16", None], size=[16, 1024, 128.5], true_pixels=[0]),
    "A4_evidence": dict(labels=[0, 101], train_steps=[1, 2.5], batch=[0], cases=[1], seed=[-1, 10], shown=[0, 7]),
}
RIGHT = {"00_start_here": dict(left_arm=90, right_arm=12.5, count=1), "01_diffusion": dict(guidance_scale=2, steps=3),
         "02_features": dict(timesteps=[0, 999], pictures=5), "04_train_a_head": dict(lr=1e-2, folder="out"), "05_guided_sampling": dict(stop=1),
         "07_drag": dict(arrows=[[[60, 60], [80, 50.5]]], pinned=[], turn=-30), "08_appearance": dict(prompts=["a"], factors=[1]),
         "09_combining": dict(turns={"left": 40}, pose_weight=0), "10_your_own_head": dict(sun=12), "A2_how_the_numbers_are_measured": dict(a=0.05)}


@functools.cache
def cells(name):
    found = [cell.source for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    return compile(found[0], name, "exec"), compile(found[1], name, "exec")


def defaults(name):
    values = {}
    exec(cells(name)[0], values)
    return {key: value for key, value in values.items() if not key.startswith("__")}


def run(name, **parameters):
    with tempfile.TemporaryDirectory() as folder:
        values = {"__name__": "__main__"}
        exec(cells(name)[0], values)
        if "run" in values and "run" not in parameters:
            values["run"] = f"{folder}/run"
        exec(cells(name)[1], values | parameters)


def rough(default):
    return next(kind for kind in (bool, int, float, str, list, dict) if isinstance(default, kind))


ELSEWHERE = {"model": ("data", "data/heads", "data/heads/pose"), "head_folder": ("data", "data/heads", "data/puppet-diffusion"),
             "heads": ("data", "data/puppet-diffusion", "data/heads/pose")}                 # folders that are there, and hold something else
for path in sorted(FOLDER.glob("*.ipynb")):
    if path.stem not in ("11_larger_models", "12_studio"):             # there a model may be a name of the hub's, or is looked for later
        WRONG[path.stem] = {**WRONG.get(path.stem, {}), **{key: [*WRONG.get(path.stem, {}).get(key, ()), *values] for key, values in ELSEWHERE.items()}}
    for key, default in defaults(path.stem).items():
        values = BAD[rough(default)]
        values = values[:2] if key in FEW else values
        if isinstance(default, list) and key != "prompts":
            values = (*values, *LISTS[:2])
        if key in ("left_arm", "right_arm", "turn"):                # degrees, which may be fractions
            values = [value for value in values if value != 1.5]
        for value in {repr(value): value for value in (*values, *WRONG.get(path.stem, {}).get(key, ()))}.values():
            CASES.append(Case(f"notebook {path.stem}", f"{key}={value!r}", lambda name=path.stem, key=key, value=value: run(name, **{key: value}), (key,)))
for name, parameters in RIGHT.items():
    CASES.append(Case(f"notebook {name}", f"{parameters}", lambda name=name, parameters=parameters: run(name, **parameters), right=lambda _: True))
