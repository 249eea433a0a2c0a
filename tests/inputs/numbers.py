"""Numbers, truth values, texts and choices: wherever one is taken, each kind of what it is not, and what numpy and torch call one."""
import functools
import math
import tempfile
from dataclasses import fields

import numpy as np
import tiny
import torch

from inputs import Case
from rg_minimal import maps, pipelines, readout, reference, saving, sources
from rg_minimal.callback import GuidanceCallback
from rg_minimal.classroom import exercises, larger, plots, recipe as state_recipe, widgets
from rg_minimal.guider import ReadoutGuidance
from rg_minimal.pictures import as_pictures
from rg_minimal.puppets import basemodel, cases as drags, decoder, editing, grab, heads, judge, measure, previews, transformer, world

NAN, INF = math.nan, math.inf
NUMBER = [(True, "pass a number"), (NAN, "finite"), ("1", "pass a number")]
# For each kind of value: what is none, and a word of what is allowed.
BAD = {
    "count": [(True, "whole number"), (0, "greater than or equal to 1"), (-3, "greater than or equal to 1"), (2.5, "whole number"), ("3", "whole number")],
    "two": [(True, "whole number"), (1, "greater than or equal to 2"), ("3", "whole number")],
    "index": [(True, "whole number"), (-1, "greater than or equal to 0"), (0.5, "whole number")],
    "seed": [(True, "whole number"), (-1, "greater than or equal to 0"), (1.5, "whole number"), ("3", "whole number")],
    "number": [*NUMBER, (-INF, "finite")],
    "positive": [*NUMBER, (0, "greater than 0")],
    "not negative": [*NUMBER, (-0.1, "greater than or equal to 0")],
    "fraction": [*NUMBER, (1.5, "less than or equal to 1"), (-0.1, "greater than or equal to 0")],
    "truth": [(1, "True or False"), ("false", "True or False")],
    "text": [(3, "text"), (["a"], "text")],
    "file": [(3, "name of a file or folder"), (["a"], "name of a file or folder")],
    "name": [(3, "name of a file or folder"), ("", "not empty"), (" ", "not empty")],
    "counts": [("888", "whole numbers"), ([8, 0, 8], "at least 1"), ([8, True, 8], "whole number")],
    "device": [("tpu", "'cpu' or 'cuda'"), (0, "'cpu' or 'cuda'")],
    "points": [("12", "points (x, y)"), ([["1", "2"]], "points (x, y)"), ({0: 1}, "points (x, y)"), ([[True, False]], "points (x, y)"),
               ([[NAN, 1]], "points (x, y)"), ([[1, 2, 3]], "points (x, y)"), (5, "points (x, y)")],
}
CASES = []


def refuse(door, make, few=None, **kinds):
    """A case for each kind of value that a parameter of `make` is not; `few` tries only so many of them."""
    for name, kind in kinds.items():
        for value, word in BAD[kind][:few]:
            CASES.append(Case(door, f"{name}={value!r}", lambda name=name, value=value: make(**{name: value}), (f"{name} is", word)))


def refuse_these(door, make, name, values, *words):
    for value in values:
        CASES.append(Case(door, f"{name or 'value'}={plain(value)}", lambda value=value: make(**{name or "value": value}), (name, *words)))


def take(door, name, call, right):
    CASES.append(Case(door, name, call, right=right))


def plain(value):
    return f"{type(value).__name__}{tuple(value.shape)}" if torch.is_tensor(value) and value.ndim else repr(value)


pipe = functools.cache(tiny.tiny_pipe)


@functools.cache
def head(property=""):
    return tiny.make_head(pipe(), property=property)


@functools.cache
def relative():
    return tiny.make_head(pipe(), 0)


@functools.cache
def source(side=32):
    made = pipelines.guided_sample(pipe(), "a puppet", num_inference_steps=3, generator=tiny.seed(), height=side, width=side)
    return sources.Source.from_states(pipe(), made)


def of(made, **values):
    """Whether a dataclass holds these values, of Python's own types."""
    return all(getattr(made, name) == value and type(getattr(made, name)) is type(value) for name, value in values.items())


# ---- recipes -------------------------------------------------------------------------------------------------------------

KIND_OF = {"Counts": "counts", "AtLeastTwo": "two", "Three": "counts", "Count": "count", "Index": "index", "Seed": "seed", "Fraction": "fraction", "NonNegative": "not negative", "Positive": "positive",
           "Number": "number", "Truth": "truth", "FileName": "file", "SomeName": "name", "Text": "text"}
for made_of in (basemodel.Recipe, transformer.TransformerRecipe, judge.JudgeRecipe, previews.PreviewRecipe, decoder.DecoderRecipe):
    for field in fields(made_of):
        kind = next((kind for word, kind in KIND_OF.items() if word in field.type), "device")
        refuse(made_of.__name__, made_of, few=2 if kind in ("index", "seed", "file") else 3, **{field.name: kind})
take("Recipe", "numpy and torch", lambda: basemodel.Recipe(
    steps=np.int64(7), ema=np.float32(0.5), lr=torch.tensor(0.25), batch=torch.tensor(4), vae_channels=np.array([8, 8, 8])),
    lambda made: of(made, steps=7, ema=0.5, lr=0.25, batch=4, vae_channels=(8, 8, 8)))
take("TransformerRecipe", "numpy and torch", lambda: transformer.TransformerRecipe(compile=np.True_, depth=np.uint8(2), noise_mean=torch.tensor(-0.5)),
     lambda made: of(made, compile=True, depth=2, noise_mean=-0.5))
take("JudgeRecipe", "a whole number as a rate", lambda: judge.JudgeRecipe(lr=0, patched=1), lambda made: of(made, lr=0.0, patched=1.0))
refuse("Task", lambda **changed: heads.get_task("pose", **changed), few=3, count="count", steps="count", batch="count", lr="positive")
refuse_these("Task", lambda task: heads.get_task(task), "task", [3, ["pose"], "poses", True], "choose one of")


# ---- scenes --------------------------------------------------------------------------------------------------------------

def scene(**changed):
    limb = world.Limb(10)
    return world.Scene(world.Puppet(), world.Pose(limb, limb, limb, limb), **changed)


refuse("Scene", scene, few=2, horizon="number", sun_x="number", prop_x="number", prop_y="number", prop_size="positive", size="positive", x="number",
       y="number")
refuse_these("Scene", scene, "action", ["flying", 3, None], "standing")
refuse_these("Scene", scene, "prop", ["dog", ["ball"]], "tree")
refuse("Puppet", world.Puppet, few=2, torso="positive", arm="positive", leg="positive", shoulders="positive", hips="positive", head="positive",
       girth="positive")
refuse_these("Puppet", world.Puppet, "shirt", ["pink", None, 1], "red")
refuse("Pose", lambda **changed: world.Pose(*[world.Limb(10)] * 4, **changed), few=3, lean="number", tilt="number", lift="number")
refuse_these("Pose", lambda left_arm: world.Pose(left_arm, *[world.Limb(10)] * 3), "left_arm", [10, None, (1, 2, 3)], "Limb")
refuse("Limb", lambda swing=10, **changed: world.Limb(swing, **changed), few=3, swing="number", bend="number", towards="number")
take("Limb", "numpy and torch", lambda: world.Limb(np.float64(3.5), torch.tensor(2), np.int8(1)), lambda limb: of(limb, swing=3.5, bend=2.0, towards=1.0))
refuse("sample_scene", lambda **given: world.sample_scene(**given), seed="seed")
refuse_these("sample_scene", lambda action: world.sample_scene(3, action=action), "action", ["flying", 3], "standing")
take("sample_scene", "a numpy seed", lambda: world.sample_scene(np.int64(3)), lambda made: made == world.sample_scene(3))
take("sample_scene", "a generator", lambda: world.sample_scene(tiny.seed(3)), lambda made: made == world.sample_scene(3))
refuse("sample_scenes", lambda count=2, seed=0: world.sample_scenes(count, seed), count="count", seed="seed")
refuse("sample_pair", world.sample_pair, seed="seed")
refuse("sample_triplet", world.sample_triplet, seed="seed")
refuse("stream", lambda batch_size=2, seed=0: world.stream(batch_size, seed), few=3, batch_size="count", seed="seed")
refuse("render", lambda chunk: world.render(world.sample_scene(3), chunk), chunk="count")
take("render", "a torch chunk", lambda: world.render(world.sample_scenes(2), torch.tensor(1)), lambda frames: len(frames) == 2)


# ---- the method ----------------------------------------------------------------------------------------------------------

def config(**changed):
    return readout.HeadConfig(**{"layer_channels": (8, 8), "width": 32, "num_groups": 4, **changed})


refuse("HeadConfig", config, few=3, layer_channels="counts", embedding_channels="count", width="count", out_channels="index", hidden_channels="counts",
       use_timestep="truth", resize_late="truth", num_groups="count", property="text", base_model="text")
refuse_these("HeadConfig", config, "extra", [None, [1], "a", {1: 2}], "pass a dict")
refuse_these("HeadConfig", config, "activation", ["relu", None, 3], "tanh")
take("HeadConfig", "numpy", lambda: config(width=np.int32(64), layer_channels=np.array([4, 4]), use_timestep=np.False_),
     lambda made: of(made, width=64, layer_channels=(4, 4), use_timestep=False))
refuse("Objective", lambda **changed: tiny.spatial(pipe(), **changed), weight="not negative", start="fraction", stop="fraction", use_timestep="truth")
take("Objective", "numpy and torch", lambda: tiny.spatial(pipe(), weight=torch.tensor(2), start=np.float32(0.25)),
     lambda made: of(made, weight=2.0, start=0.25))
refuse("Guidance", lambda **changed: readout.Guidance([tiny.spatial(pipe())], **changed), step_size="not negative", inner_steps="count")
refuse("GuidanceCallback", lambda **changed: GuidanceCallback([tiny.spatial(pipe())], **changed), few=3, step_size="not negative", inner_steps="count")
refuse("ReadoutGuidance", lambda **given: ReadoutGuidance([tiny.spatial(pipe())], **given), few=3, guidance_scale="number", guidance_rescale="fraction",
       step_size="not negative", vae_scale_factor="count", start="fraction", stop="fraction", enabled="truth")
take("ReadoutGuidance", "numpy and torch", lambda: ReadoutGuidance([tiny.spatial(pipe())], guidance_scale=torch.tensor(2), start=np.float32(0.25)),
     lambda made: of(made, guidance_scale=2.0))
refuse("CorrespondenceObjective", lambda source_points: readout.CorrespondenceObjective(
    head=relative(), source=source(), source_points=source_points, target_points=[[3, 4]]), source_points="points")
refuse("CorrespondenceObjective", lambda anti_ghosting: readout.CorrespondenceObjective(
    head=relative(), source=source(), source_points=[[3, 4]], target_points=[[3, 4]], anti_ghosting=anti_ghosting), anti_ghosting="not negative")
take("CorrespondenceObjective", "points of numpy", lambda: readout.CorrespondenceObjective(
    head=relative(), source=source(), source_points=np.array([[3, 4]]), target_points=torch.tensor([[5, 6]])),
    lambda made: made.source_points.tolist() == [[3.0, 4.0]] and made.target_points.dtype == torch.float32)


def sampled(**settings):
    return pipelines.guided_sample(pipe(), "a puppet", **{"num_inference_steps": 2, **settings})


refuse("guided_sample", sampled, num_inference_steps="count", guidance_scale="number", eta="fraction", height="count", width="count",
       num_images_per_prompt="count", step_size="not negative", inner_steps="count")
refuse_these("guided_sample", sampled, "generator", [0, "3", True], "torch.Generator")
take("guided_sample", "numpy and torch", lambda: list(sampled(num_inference_steps=np.int64(2), guidance_scale=torch.tensor(2.0), eta=np.float32(0))),
     lambda states: len(states) == 2)
refuse("sample", lambda **settings: pipelines.sample(pipe(), "a puppet", **settings), few=3, num_inference_steps="count", guidance_scale="number",
       eta="fraction")
refuse("invert", lambda **settings: pipelines.invert(pipe(), torch.rand(1, 3, 32, 32), **settings), num_inference_steps="count",
       guidance_scale="number", fixed_point_iterations="index")
take("invert", "numpy and torch", lambda: list(pipelines.invert(
    pipe(), torch.rand(1, 3, 32, 32), num_inference_steps=torch.tensor(2), fixed_point_iterations=np.int64(1))), lambda states: len(states) == 2)


def read(timestep):
    return pipelines.read_picture(pipe(), torch.rand(2, 3, 32, 32), timestep)


refuse_these("read_picture", read, "timestep", [True, -1, 1000, 300.5, NAN, "300", None, [100, 200, 300], torch.tensor([True, False])], "whole number", "999")
take("read_picture", "numpy", lambda: read(np.int64(300)), lambda made: len(made.latents) == 2)
take("read_picture", "one for each", lambda: read([300, 500]), lambda made: len(made.latents) == 2)
refuse("Source.from_states", lambda **given: sources.Source.from_states(pipe(), [], **given), keep_all="truth", read_ahead="count")
refuse("Source.from_picture", lambda **given: sources.Source.from_picture(pipe(), torch.rand(1, 3, 32, 32), **given), keep_all="truth")
refuse_these("load_pipeline", lambda device: pipelines.load_pipeline(device=device), "device", ["gpu", 3.5, True, "cuda:99", [1]], "cpu")
refuse_these("load_pipeline", lambda dtype: pipelines.load_pipeline(dtype=dtype), "dtype", ["half", 16, True, "int8", torch.int64], "float32")
refuse("load_pipeline", pipelines.load_pipeline, path="file", local_files_only="truth")
refuse("load_head", pipelines.load_head, folder="file")


@functools.cache
def folder():
    made = tempfile.TemporaryDirectory()
    pipe().save_pretrained(made.name)
    return made


def loaded(dtype):
    return pipelines.load_pipeline(folder().name, device="cpu", dtype=dtype)


for name in ("float16", "torch.bfloat16"):
    take("load_pipeline", f"dtype={name!r}", lambda name=name: loaded(name),
         lambda made, name=name: str(made.unet.dtype) == f"torch.{name.removeprefix('torch.')}")


def trained(**given):
    batch = lambda step: (torch.rand(2, 3, 32, 32), torch.zeros(2, 2, 16, 16))
    return saving.train_head(tiny.make_head(pipe()), pipe(), batch, **{"steps": 1, **given})


refuse("train_head", trained, steps="count", checkpoint_every="count", lr="not negative")
refuse_these("train_head", trained, "timesteps", [(0, 2000), (5, 5), (True, 9), (0.5, 9), "09", 5, (1,), None], "whole numbers")
take("train_head", "numpy and torch", lambda: [state.step for state in trained(steps=np.int64(1), lr=torch.tensor(1e-3), timesteps=np.array([0, 9]))],
     lambda steps: steps == [1])


LOOKED, SPOTS = torch.rand(2, 8, 8, 8, generator=tiny.seed(1)), torch.full((3, 2), 9.0) + torch.arange(3)[:, None]


def matched(image_size=(32, 32), **given):
    return readout.correspondence_loss(LOOKED, LOOKED, SPOTS, SPOTS, image_size, **given)


refuse("correspondence_loss", matched, temperature="positive")
refuse_these("correspondence_loss", matched, "image_size", [32, (32,), (32, 0), (True, 32), (NAN, 32), "32", None, (3, 32, 32)], "height, width")
refuse_these("correspondence_loss", matched, "locate", ["bilinear", None], "pass a function")
refuse("appearance_loss", lambda margin: readout.appearance_loss(*[LOOKED] * 3, margin), margin="not negative")
refuse("spatial_loss", lambda background: readout.spatial_loss(LOOKED, LOOKED, background), background="number")
refuse("pool_features", lambda power: maps.pool_features(LOOKED, power=power), power="positive")
take("correspondence_loss", "numpy and torch", lambda: matched(torch.Size((32, 32)), temperature=np.float32(0.5)) - matched([32, np.int64(32)], temperature=0.5),
     lambda difference: difference == 0)
take("appearance_loss", "numpy and torch", lambda: readout.appearance_loss(*[LOOKED] * 3, torch.tensor(2)), lambda loss: abs(loss - 2) < 1e-5)
take("spatial_loss", "a background of numpy", lambda: readout.spatial_loss(torch.ones(1, 1, 1, 4), torch.tensor([[[[0.0, 0, 0, 1]]]]), np.int64(0)),
     lambda loss: loss == 0.5)
take("pool_features", "a whole power", lambda: maps.pool_features(LOOKED, power=6), lambda made: torch.equal(made, maps.pool_features(LOOKED)))


# ---- heads, judge, measurements ------------------------------------------------------------------------------------------

JOINTS, MAPS = torch.full((1, 14, 2), 60.0), torch.rand(1, 1, 8, 8)
refuse("heatmaps", lambda **given: heads.heatmaps(JOINTS, **given), few=3, cells="count", image_size="count", sigma="positive")
refuse("edge_objective", lambda background: heads.edge_objective(tiny.make_head(pipe(), out_channels=4), torch.ones(1, 1, 64, 64), background=background),
       background="not negative")
refuse("draw_strokes", lambda **given: heads.draw_strokes([[[1, 2], [3, 4]]], **given), few=3, thickness="positive", image_size="count")
refuse_these("draw_strokes", lambda stroke: heads.draw_strokes([stroke]), "stroke", ["12", [[1, 2]], [[True, False], [1, 2]], [[NAN, 1], [1, 2]], 5], "points")
refuse("pixel_grid", heads.pixel_grid, cells="count")
refuse("collect", lambda **given: heads.collect(pipe(), "pose", **given), few=3, count="count", seed="seed", chunk="count")
refuse("collect_held_out", lambda count: heads.collect_held_out(pipe(), "pose", count), few=3, count="count")
refuse("new_head", lambda **given: heads.new_head(pipe(), "pose", **given), few=3, seed="seed", width="count")
refuse("train_task", lambda **given: heads.train_task(pipe(), "pose", **given), few=3, seed="seed", checkpoint_every="count", steps="count", lr="positive")
refuse("score_head", lambda count: heads.score_head(pipe(), "pose", head(), count=count), few=3, count="count")
refuse_these("score_head", lambda timesteps: heads.score_head(pipe(), "pose", head(), timesteps), "timesteps", [5, (), (True,), (1000,), (0.5,), "12"], "999")
refuse("pck", lambda a: judge.pck(JOINTS, JOINTS, a), a="positive")
refuse("edge_f_score", lambda tolerance: judge.edge_f_score(MAPS, MAPS, tolerance), tolerance="index")
take("edge_f_score", "numpy", lambda: judge.edge_f_score(MAPS, MAPS, np.int64(1)), lambda score: score.item() == 1)
refuse("thresholds_of", lambda share: judge.thresholds_of(torch.rand(3, 14), share), share="fraction")
refuse("calibrate", lambda **given: judge.calibrate(None, **given), few=3, count="count", seed="seed", share="fraction")
refuse("evaluate", lambda **given: judge.evaluate(None, **given), few=3, count="count", seed="seed")
refuse_these("Judge", lambda thresholds: judge.Judge(judge.JudgeNetwork((8, 8, 8)), thresholds), "thresholds",
             [[0.5] * 13, [2] * 14, [NAN] * 14, [True] * 14, "0" * 14, 0.5, None], "[0, 1]")
MEASURES = {"measure_base": (lambda **given: measure.measure_base(None, None, **given), {"batch": "count", "guidance_scale": "not negative", "eta": "fraction"}),
            "measure_pose": (lambda **given: measure.measure_pose(None, None, None, **given), {"batch": "count", "guidance_scale": "not negative"}),
            "measure_map": (lambda **given: measure.measure_map(None, None, None, "depth", **given), {"guidance_scale": "not negative"}),
            "measure_drag": (lambda **given: measure.measure_drag(None, None, None, **given), {"real": "truth"}),
            "measure_identity": (lambda **given: measure.measure_identity(None, None, None, None, **given), {"batch": "count"}),
            "measure_inversion": (lambda **given: measure.measure_inversion(None, **given), {}),
            "measure_arrows": (lambda **given: measure.measure_arrows(None, None, None, None, **given), {"guidance_scale": "not negative"})}
for name, (make, more) in MEASURES.items():
    refuse(name, make, few=3, steps="count", seed="seed", **more)
    refuse_these(name, make, "count", [True, 2.5], "whole number")
    refuse_these(name, make, "count", [0] if name != "measure_drag" else [], "greater than or equal to 1")
for name in ("measure_pose", "measure_map", "measure_drag", "measure_identity", "measure_arrows"):
    refuse_these(name, MEASURES[name][0], "steps", [1], "greater than or equal to 2")
refuse_these("measure_drag", MEASURES["measure_drag"][0], "count", [3, 6, 101], "multiple of 4")
refuse_these("measure_inversion", MEASURES["measure_inversion"][0], "iterations", [3, (), (-1,), (True,), (0.5,)], "whole numbers")
refuse_these("measurement", lambda what: measure.measurement(what, None, None, "data/heads"), "what", ["all", 3], "'base'")


# ---- edits ---------------------------------------------------------------------------------------------------------------

def dragged(**changed):
    return editing.drag(relative(), source(128), **{"handles": [[20, 20]], "targets": [[30, 20]], **changed})


refuse("drag", dragged, few=4, amount="fraction", stop="fraction", anatomy_weight="not negative", looks_weight="not negative",
       anti_ghosting="not negative", margin="not negative", spare="not negative", radius="not negative", step_size="not negative", eta="fraction", seed="seed")
refuse("gone_along", lambda reach: editing.gone_along(torch.ones(14, 2), [[2.0, 2.0]], [[3.0, 3.0]], reach), reach="not negative")
refuse("arms_that_stay", lambda spacing: editing.arms_that_stay(torch.full((14, 2), 9.0), torch.full((14, 2), 9.0), spacing), spacing="positive")
refuse("drag", dragged, handles="points", targets="points", fixed="points")
take("drag", "numpy and torch", lambda: dragged(amount=np.float32(0.5), seed=torch.tensor(3), handles=np.array([[20, 20]]), fixed=[]),
     lambda made: set(made) >= {"objectives", "latents"})
refuse("region", lambda points=((1, 2),), margin=3: editing.region(points, margin), points="points", margin="not negative")
refuse("joined", lambda **given: editing.joined([[1, 2], [9, 9]], [[1, 2], [9, 9]], **given), few=4, reach="not negative", spacing="positive")
refuse("carry", lambda radius: editing.carry(torch.rand(1, 4, 16, 16), [[1, 2]], [[3, 4]], radius, tiny.seed()), radius="not negative")
refuse("identity", lambda **given: editing.identity(head(), source(), **given), few=4, start="fraction", stop="fraction", step_size="not negative",
       eta="fraction")
refuse("grab", lambda **given: grab.grab(relative(), head(), source(128), **{"handles": [[20, 20]], "targets": [[30, 20]], **given}),
       handles="points", targets="points", amount="fraction")
refuse("drag", dragged, few=4, grab="truth")
refuse("drag_case", lambda seed: drags.drag_case("puppet", JOINTS[0], seed), seed="seed")
refuse_these("drag_case", lambda kind: drags.drag_case(kind, JOINTS[0], 0), "kind", ["hand", 3, None], "wrist")
refuse_these("arrow_case", lambda kind: drags.arrow_case(kind, None, 0), "kind", ["hand", 3, None], "wrist")
refuse("find_patch", lambda side: drags.find_patch(torch.rand(3, 32, 32), torch.tensor([9.0, 9.0]), torch.rand(3, 32, 32), side), side="count")
refuse_these("find_patch", lambda side: drags.find_patch(torch.rand(3, 32, 32), torch.tensor([9.0, 9.0]), torch.rand(3, 32, 32), side), "side", [12], "odd")


# ---- classroom -----------------------------------------------------------------------------------------------------------

PICTURE = torch.rand(3, 16, 16)
refuse("picture_grid", lambda **given: plots.picture_grid([PICTURE], **given), few=3, columns="count", size="positive")
refuse("skeleton_figure", lambda **given: plots.skeleton_figure(JOINTS[0], **given), few=3, size="count", inches="positive")
refuse("curve", lambda smooth: plots.curve([1, 2, 3], "loss", smooth=smooth), smooth="index")
refuse_these("curve", lambda inches: plots.curve([1, 2], "loss", inches=inches), "inches", [3, (1,), (0, 2), (True, 1), "12", (NAN, 1)], "two numbers")
refuse("save_grid", lambda path="a.png", columns=2: plots.save_grid(PICTURE[None], path, columns), few=3, path="file", columns="count")
refuse_these("save_grid", lambda path: plots.save_grid(PICTURE[None], path), "path", ["a", "a.txt"], ".png")
refuse_these("save_figure", lambda path: plots.save_figure(plots.curve([1], "loss"), path), "path", ["a", "a.xyz"], ".png")
refuse("PicturePoints", widgets.PicturePoints, few=3, size="count", label="text")
refuse_these("PicturePoints", lambda value: widgets.PicturePoints(value=value), "value", [5, "12", {0: 1}], "give a list")
refuse_these("PicturePoints", lambda point: widgets.PicturePoints(value=[point]), "point",
             ["12", [True, 1], [NAN, 1], [1, 2, 3], {1: 2}, ["1", "2"], [200, 1], [-1, 1], [np.True_, 3]], "give")
take("PicturePoints", "numpy and torch", lambda: widgets.PicturePoints(value=[np.array([3, 4]), (torch.tensor(5), np.float32(6))]).value,
     lambda value: value == [[3.0, 4.0], [5.0, 6.0]])
for name, pen in (("width", dict(width=0)), ("width", dict(width=NAN)), ("width", dict(width="3")), ("width", dict(width=True)), ("shade", dict(shade=2)),
                  ("shade", dict(shade=NAN)), ("shade", dict(shade=None))):
    CASES.append(Case("PictureStrokes", f"{pen}", lambda pen=pen: widgets.PictureStrokes(**pen), (name, "give")))
refuse_these("PictureBox", lambda box: widgets.PictureBox(value=box), "box", [[1, 2, 3], [1, 2, NAN, 4], ["1", "2", "3", "4"], [True, 2, 3, 4], [5, 5, 4, 9]], "give")
refuse_these("PictureArrows", lambda value: widgets.PictureArrows(value=[value]), "", ["12", [[1, 2]], [[1, 2], [300, 1]], {1: 2}, 3], "give")
refuse("figure", lambda inches: widgets.PicturePoints().figure(inches), inches="positive")
refuse("load_or_stand_in", lambda **given: larger.load_or_stand_in("data/puppet-diffusion", **given), download="truth", on_cpu="truth")
STATE = {"seed": ["3", True, -1, 1.5, 2**40], "steps": [0, True, "5", 2000, 1.5], "guidance_scale": [NAN, "3", True, -1], "step_size": [2, NAN, None, True],
         "prompt": [3, None, ["a"]], "model": [3, ["a"]], "heads": [None, 0]}
for name, values in STATE.items():
    refuse_these("state", lambda name=name, **given: state_recipe.check_state(given), name, values, " is ")
for entry, name, values in (("pose", "weight", [NAN, "1", True, -1]), ("pose", "interval", [[0.5, 0.5], 3, ["0", "1"], [True, 1], [0, NAN]]),
                            ("drag", "keep", [1, "no"]), ("drag", "arrows", ["12", [[1]], 5]), ("depth", "strokes", [None, "a", [{}]]),
                            ("pose", "joints", [None, [[1, 2]], "12"]), ("edges", "use", [1, "true", None]), ("appearance", "picture", [3, ["a"]])):
    for value in values:
        CASES.append(Case("state", f"{entry}.{name}={value!r}", lambda e=entry, n=name, v=value: state_recipe.check_state({e: {n: v}}), (f"{entry}.", "give" if name
                          in ("arrows", "strokes", "joints", "interval") else " is ")))

# ---- names, labels and folders --------------------------------------------------------------------------------------------

SCENE, PANEL = world.sample_scene(3), {"title": dict(series={"a": [1, 2]}, x_values=[1, 2], x="a", y="b")}
for door, make in (("caption.named", lambda given: world.caption(SCENE, given)), ("sample_triplet.differs", lambda given: world.sample_triplet(3, given))):
    refuse_these(door, lambda make=make, **given: make(*given.values()), door.split(".")[1], ["shirt", 3, ["shirts"], [["shirt"]], None], "list of some of")
take("caption.named", "a set", lambda: world.caption(SCENE, {"shirt"}), lambda said: said == world.caption(SCENE, ["shirt"]))
refuse_these("sample_puppet", lambda rng: world.sample_puppet(rng), "rng", [3, None, "seed"], "torch.Generator")
refuse_these("training_caption", lambda rng: world.training_caption(SCENE, rng), "rng", [3, None, "seed"], "torch.Generator")
refuse("as_pictures", lambda name="pictures", unit=8: as_pictures(torch.zeros(1, 3, 16, 16), name, unit), name="text", unit="count")
refuse("bars", lambda label: plots.bars({"a": 1.0}, label), label="text")
refuse("curve", lambda label="loss", x="step": plots.curve([1, 2], label, x), label="text", x="text")
refuse("lines", lambda x="a", y="b": plots.lines({"a": [1, 2]}, [1, 2], x, y), x="text", y="text")
refuse("marked_bars", lambda label="a", mark="b": plots.marked_bars({"a": 1.0}, label, 0.5, mark), label="text", mark="text")
refuse("learning", lambda measure: plots.learning([1.0], {1: {100: 1.0}}, 1, measure), measure="text")
refuse("skeleton_figure", lambda title: plots.skeleton_figure(JOINTS[0], title=title), title="text")
refuse("line_panels", lambda columns: plots.line_panels(PANEL, columns), columns="count")
refuse_these("line_panels", lambda inches: plots.line_panels(PANEL, inches=inches), "inches", [3, (0, 2), (NAN, 1)], "two numbers")
refuse_these("picture_grid", lambda titles: plots.picture_grid([PICTURE] * 3, titles), "titles", ["abc", 3, [1, 2, 3]], "list of texts")
refuse_these("bars", lambda highlight: plots.bars({"a": 1.0}, "b", highlight), "highlight", ["a", 3, [3]], "list of texts")
take("bars", "keys as names", lambda: plots.bars({"a": 1.0}, "b", {"a": 1}.keys()), lambda figure: len(figure.axes) == 1)
refuse("ReadoutHead.save_pretrained", lambda folder: head().save_pretrained(folder), folder="name")
refuse("ReadoutHead.from_pretrained", saving.ReadoutHead.from_pretrained, folder="name")
refuse("Judge.save_pretrained", lambda folder: judge.Judge(judge.JudgeNetwork((8, 8, 8))).save_pretrained(folder), folder="name")
refuse("Judge.from_pretrained", judge.Judge.from_pretrained, folder="name")
refuse("make_head", lambda folder="a", work="b": heads.make_head("pose", folder, pipe(), work), folder="name", work="name")
refuse("write_result", lambda folder: measure.write_result("a", {}, folder), folder="name")
refuse("write_result", lambda name: measure.write_result(name, {}, tempfile.gettempdir()), name="text")
refuse("load_reference_head", reference.load_reference_head, path="name")
refuse_these("load_reference_head", lambda timestep_convention: reference.load_reference_head("a.pt", timestep_convention), "timestep_convention",
             ["steps", ["timestep"], 3, None], "step_index")
refuse("build_silent_t5", transformer.build_silent_t5, embedding="count")
refuse("build_transformer", lambda embedding: transformer.build_transformer(transformer.TransformerRecipe(), embedding), embedding="count")


# ---- exercises: a check never raises because of an answer, and says what is asked for --------------------------------------

ODD = [True, NAN, INF, -1, "3", [1], (), {}, object(), torch.tensor([1.0, 2.0]), torch.tensor(NAN), np.float64("nan"), np.array(["a"]), lambda: 3, 10**400]
ASKED = {"hands_up": exercises.hands_up, "left_hand": lambda answer: exercises.left_hand(answer, JOINTS[0]),
         "bottleneck_count": lambda answer: exercises.bottleneck_count(answer, 64, 128, 256),
         "cell_of_joint": lambda answer: exercises.cell_of_joint(answer, (54.0, 35.0)),
         "guided_steps": lambda answer: exercises.guided_steps(answer, 20, 0.0, 0.5),
         "normalised_move": exercises.normalised_move, "fading_schedule": exercises.fading_schedule,
         "mirrored_pose": lambda answer: exercises.mirrored_pose(answer, JOINTS[0]),
         "raised_right_hand": lambda answer: exercises.raised_right_hand(answer, JOINTS[0].tolist()),
         "two_objectives": lambda answer: exercises.two_objectives(answer, head(), head(), JOINTS[:1], lambda *_: None), "depth_ramp": exercises.depth_ramp}
for name, check in ASKED.items():
    for number, value in enumerate(ODD):
        take(f"exercises.{name}", f"{number}: {type(value).__name__}", lambda check=check, value=value: check(value), lambda said: said.startswith("Not "))
