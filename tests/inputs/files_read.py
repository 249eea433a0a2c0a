"""Files that are read: missing, damaged, of another kind, or holding what they may not hold. Each is named, and what to do."""
import functools
import json
import shutil
import tempfile
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file, save_file

from inputs import Case
from rg_minimal import pipelines, reference, saving
from rg_minimal.classroom import recipe as state_recipe
from rg_minimal.puppets import basemodel, judge, training, transformer

CASES = []
NO_JSON = {"{": "cannot be read", "[]": "list", "": "cannot be read", "3": "int", '"text"': "str", "null": "NoneType", '{"a": NaN}': "NaN",
           '{"a": -Infinity}': "Infinity", "\x00\x01": "cannot be read"}
pipe = functools.cache(tiny.tiny_pipe)


def with_folder(make, change, read):
    """`read(folder)` of a new folder that `make(folder)` filled and `change(folder)` spoilt."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made"
        make(folder)
        change(folder)
        return read(folder)


def refuse(door, name, make, change, read, *says):
    CASES.append(Case(door, name, lambda: with_folder(make, change, read), says))


def take(door, name, make, change, read, right=lambda made: made is not None):
    CASES.append(Case(door, name, lambda: with_folder(make, change, read), right=right))


def put(name, text):
    return lambda folder: (folder / name).write_text(text)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:60])


def edit(name, **changed):
    def change(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **changed}))
    return change


def weights(name, alter, config=None):
    """The tensors of a file altered; without the config inside, so that the one beside it counts."""
    def change(folder):
        tensors = {key: alter(value) for key, value in load_file(folder / name).items()}
        save_file({key: value for key, value in tensors.items() if value is not None}, folder / name)
    return change


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


as_it_is = weights("head.safetensors", lambda value: value)


# ---- heads ---------------------------------------------------------------------------------------------------------------

def save_head(folder):
    tiny.make_head(pipe()).save_pretrained(folder)


load = saving.ReadoutHead.from_pretrained
refuse("head", "no folder", save_head, shutil.rmtree, load, "made", "is not a head", "head.safetensors")
refuse("head", "no weights", save_head, lambda folder: (folder / "head.safetensors").unlink(), load, "made", "head.safetensors")
refuse("head", "no config", save_head, both(as_it_is, lambda folder: (folder / "config.json").unlink()), load, "config.json", "cannot be read")
refuse("head", "a file for a folder", save_head, lambda folder: (shutil.rmtree(folder), folder.write_text("")), load, "made", "is not a head")
refuse("head", "weights cut off", save_head, cut("head.safetensors"), load, "head.safetensors", "again")
refuse("head", "weights are text", save_head, put("head.safetensors", "weights"), load, "head.safetensors", "again")
refuse("head", "weights are empty", save_head, put("head.safetensors", ""), load, "head.safetensors", "again")
for number in ("nan", "inf", "-inf"):
    refuse("head", f"weights are {number}", save_head, weights("head.safetensors", lambda value, number=number: torch.full_like(value, float(number))),
           load, "NaN or infinity", "again")
for dtype in (torch.int64, torch.int8, torch.bool, torch.uint8, torch.complex64):
    refuse("head", f"weights are {dtype}", save_head, weights("head.safetensors", lambda value, dtype=dtype: value.to(dtype)), load, str(dtype), "again")
refuse("head", "one weight is missing", save_head, weights("head.safetensors", lambda value: None if value.ndim == 1 else value), load, "do not fit")
refuse("head", "weights of another shape", save_head, weights("head.safetensors", lambda value: value[:1].clone()), load, "do not fit")
take("head", "half precision", save_head, weights("head.safetensors", lambda value: value.half()), load)
take("head", "as it is", save_head, as_it_is, load)
for text, word in NO_JSON.items():
    refuse("head", f"config.json is {text!r}", save_head, both(as_it_is, put("config.json", text)), load, "config.json", word, "again")
    refuse("head", f"config.json is {text!r} beside the weights' own", save_head, put("config.json", text), load, "config.json", "again")
for key, value, word in (("use_timestep", "false", "True or False"), ("use_timestep", 1, "True or False"), ("width", 128.5, "whole number"),
                         ("width", "32", "whole number"), ("width", True, "whole number"), ("width", None, "whole number"), ("out_channels", -1, "greater"),
                         ("layer_channels", [], "whole numbers"), ("layer_channels", [16, "32"], "whole number"), ("layer_channels", 32, "whole numbers"),
                         ("num_groups", 0, "greater"), ("activation", "relu", "tanh"), ("hidden_channels", [8, 0], "at least 1"), ("property", 3, "text"),
                         ("base_model", None, "text"), ("extra", [1], "dict"), ("resize_late", "no", "True or False"), ("depth", 3, "depth")):
    refuse("head", f"config {key}={value!r}", save_head, both(as_it_is, edit("config.json", **{key: value})), load, "config.json", key, word, "save the head again")


# ---- pipelines and their recipe -------------------------------------------------------------------------------------------

def save_pipe(folder):
    pipe().save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps({"guidance_scale": 2.5}))


def load_pipe(folder):
    return pipelines.load_pipeline(folder, device="cpu")


take("pipeline", "as it is", save_pipe, lambda folder: None, load_pipe, lambda made: made.default_guidance_scale == 2.5)
take("pipeline", "a recipe without a scale", save_pipe, put("recipe.json", "{}"), load_pipe)
for text, word in NO_JSON.items():
    refuse("pipeline", f"recipe.json is {text!r}", save_pipe, put("recipe.json", text), load_pipe, "recipe.json", word, "again")
for value, word in (("3", "pass a number"), (-1, "greater than"), (True, "pass a number"), (None, "pass a number"), ([3], "pass a number")):
    refuse("pipeline", f"guidance_scale={value!r}", save_pipe, edit("recipe.json", guidance_scale=value), load_pipe, "guidance_scale", "recipe.json", word)
for text in ("{", "[]", "", "3"):
    refuse("pipeline", f"model_index.json is {text!r}", save_pipe, put("model_index.json", text), load_pipe, "could not load", "model_index.json")
refuse("pipeline", "no model_index.json", save_pipe, lambda folder: (folder / "model_index.json").unlink(), load_pipe, "could not load", "model_index.json")
refuse("pipeline", "no network", save_pipe, lambda folder: shutil.rmtree(folder / "unet"), load_pipe, "could not load", "pass a folder")
refuse("pipeline", "a network cut off", save_pipe, cut("unet/diffusion_pytorch_model.safetensors"), load_pipe, "could not load", "pass a folder")
refuse("pipeline", "no folder", save_pipe, shutil.rmtree, load_pipe, "could not load", "pass a folder")


# ---- the judge -----------------------------------------------------------------------------------------------------------

def save_judge(folder):
    judge.Judge(judge.JudgeNetwork((8, 8, 8))).save_pretrained(folder)


plain_judge = weights("model.safetensors", lambda value: value)
take("judge", "as it is", save_judge, plain_judge, judge.load_judge)
for text in NO_JSON:
    refuse("judge", f"config.json is {text!r}", save_judge, both(plain_judge, put("config.json", text)), judge.load_judge, "again")
for key, value in (("channels", [8]), ("channels", ["8", 8, 8]), ("channels", [8, 8, 0]), ("channels", None), ("channels", [8.5, 8, 8]), ("channels", [4, 8, 8]), ("thresholds", [0.5]),
                   ("thresholds", ["0"] * 14), ("thresholds", [2] * 14), ("thresholds", [True] * 14), ("thresholds", None)):
    refuse("judge", f"config {key}={value!r:.40}", save_judge, both(plain_judge, edit("config.json", **{key: value})), judge.load_judge, "damaged", key if value != [4, 8, 8] else "size", "again")
refuse("judge", "weights are NaN", save_judge, weights("model.safetensors", lambda value: value * torch.nan if value.is_floating_point() else value),
       judge.load_judge, "NaN or infinity", "again")
refuse("judge", "weights are whole numbers", save_judge, weights("model.safetensors", lambda value: value.to(torch.int64)), judge.load_judge, "int64", "again")
refuse("judge", "weights cut off", save_judge, cut("model.safetensors"), judge.load_judge, "model.safetensors", "again")
refuse("judge", "no folder", save_judge, shutil.rmtree, judge.load_judge, "is not a judge", "python -m rg_minimal.puppets.judge")


# ---- states of the studio, which are papermill's parameters -----------------------------------------------------------------

def save_state(folder):
    state_recipe.write_yaml(state_recipe.START, folder / "a.yaml")


def load_state(folder):
    return state_recipe.read_yaml(folder / "a.yaml")


take("a.yaml", "as it is", save_state, lambda folder: None, load_state, lambda made: made == state_recipe.check_state(state_recipe.START))
for text, word in {"{": "could not be read", "[]": "give a dict", "": "give a dict", "3": "give a dict", "seed: .nan": "seed is nan", "seed: 1\nseed: 2\n": "twice",
                   "pose: {use: true, use: false}": "twice", "pose: {weight: .inf}": "pose.weight", "steps: many": "steps", "colour: red": "choose from",
                   "pose: {leg: 3}": "choose from", "drag: {arrows: ['12']}": "arrows", "drag: {arrows: [[[1, 2], {3: 4}]]}": "give a point",
                   "drag: {arrows: [[[true, 2], [3, 4]]]}": "give a point", "depth: {strokes: [{points: '12', width: 3, shade: 1}]}": "give",
                   "prompt: 3": "text", "prompt: [a]": "text", "seed: 2026-01-01": "seed", "a: b: c": "could not be read", "use: !!python/name:os.system": "could not be read",
                   "heads: 3": "name of a file or folder", "pose: {interval: [0.5, .nan]}": "interval"}.items():
    refuse("a.yaml", text.strip(), lambda folder: folder.mkdir(), put("a.yaml", text), load_state, "a.yaml", word)
refuse("a.yaml", "no file", lambda folder: folder.mkdir(), lambda folder: None, load_state, "a.yaml", "could not be read")
refuse("a.yaml", "a folder", lambda folder: folder.mkdir(), lambda folder: (folder / "a.yaml").mkdir(), load_state, "a.yaml", "could not be read")


# ---- what trainings left, and heads of the authors --------------------------------------------------------------------------

def checkpoint(folder):
    folder.mkdir()
    head = tiny.make_head(pipe())
    saving.save_checkpoint(folder / "a.safetensors", head, torch.optim.AdamW(head.parameters()), tiny.seed(), 3)


def resume_head(folder):
    head = tiny.make_head(pipe())
    return saving.load_checkpoint(folder / "a.safetensors", head, torch.optim.AdamW(head.parameters()), tiny.seed(), 9)


take("checkpoint of a head", "as it is", checkpoint, lambda folder: None, resume_head, lambda step: step == 3)
for name, change in {"cut off": cut("a.safetensors"), "text": put("a.safetensors", "a"), "plain tensors": lambda folder: save_file(
        {"a": torch.zeros(2)}, folder / "a.safetensors")}.items():
    refuse("checkpoint of a head", name, checkpoint, change, resume_head, "a.safetensors", "delete it")
for name, text in {"text": "a", "empty": "", "zip": "PK\x03\x04"}.items():
    refuse("checkpoint of a training", name, lambda folder: folder.mkdir(), put("a.pt", text),
           lambda folder: training.resume(folder / "a.pt", basemodel.Recipe()), "a.pt", "delete it")
    refuse("weights of a training", name, lambda folder: folder.mkdir(), put("a.pt", text),
           lambda folder: training.trained_weights(folder / "a.safetensors", folder / "a.pt", "train"), "a.pt", "delete it")
refuse("weights of a training", "none", lambda folder: folder.mkdir(), lambda folder: None,
       lambda folder: training.trained_weights(folder / "a.safetensors", folder / "a.pt", "train_diffusion"), "made", "run train_diffusion first")
for name, text in {"text": "a", "empty": "", "{": "{"}.items():
    refuse("latents", name, lambda folder: (folder / "latents").mkdir(parents=True), put("latents/0.safetensors", text),
           lambda folder: basemodel.load_latents(basemodel.Recipe(run=str(folder))), "0.safetensors", "encode_pictures again")
    refuse("a head of the authors", name, lambda folder: folder.mkdir(), put("a.pt", text), lambda folder: reference.load_reference_head(folder / "a.pt"),
           "a.pt", "reference's layout")
for kind in (basemodel.Recipe, transformer.TransformerRecipe):
    refuse(f"start_from of {kind.__name__}", "no pipeline", lambda folder: folder.mkdir(), lambda folder: None,
           lambda folder, kind=kind: training.part_of(kind(start_from=str(folder)), "vae"), "start_from", "made", "pass a pipeline's folder")
refuse("a head of the authors", "no file", lambda folder: folder.mkdir(), lambda folder: None, lambda folder: reference.load_reference_head(folder / "a.pt"),
       "a.pt")
refuse("a head of the authors", "another torch file", lambda folder: folder.mkdir(), lambda folder: torch.save({"config": 3}, folder / "a.pt"),
       lambda folder: reference.load_reference_head(folder / "a.pt"), "a.pt", "reference's layout")
for config in ({"dims": 3}, [], {"dims": ["a"], "projection_dim": 32}, {"dims": [8, 8]}):
    refuse("a head of the authors", f"config is {config}", lambda folder: folder.mkdir(),
           lambda folder, config=config: torch.save({"config": config, "aggregation_network": {}}, folder / "a.pt"),
           lambda folder: reference.load_reference_head(folder / "a.pt"), "a.pt", "reference's layout")
