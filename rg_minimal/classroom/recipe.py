"""From a plain dict to pictures: all that the studio does, without a browser.

The *state* is a dict with the entries of `START`: prompt, seed, steps, and five objectives that can be switched on. It is
also the parameters of notebooks/12_studio.ipynb, so a file of them makes the same picture again, bit for bit. In this order:

    state       `START`, `check_state`: what there is to set, and what is wrong with it
    files       `write_yaml`, `read_yaml`: a state as papermill's parameters
    pictures    `load_kit`, `moments`, `make`: from a state to pictures

    result = make(load_kit(), {**START, "seed": 3})
    result.before, result.after                 # (3, H, W), without and with guidance

Points are (x, y) in pixels of the picture, which has 128 x 128.
"""
from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import re
import math
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BeforeValidator, Field
from torch import Tensor

from . import plots
from ..puppets.editing import HELD, LOOKS, drag, identity
from ..puppets.grab import Hold, bare, grab
from ..puppets.heads import CELLS, depth_objective, edge_objective, pose_objective
from ..puppets.previews import load_previews
from ..autoencoders import decode
from ..checks import Count, Declared, FileName, Fraction, Index, Number, SomeName, Text, Truth, check_pairs, checked, declared
from ..denoisers import denoiser
from ..files import write_file
from ..paces import FULL
from ..pictures import as_pictures, opened
from ..pipelines import find_folder, guided_sample, load_head, load_pipeline
from ..puppets.world import SIZE
from ..readout import SampleState
from ..saving import ReadoutHead
from ..sources import Source
from .parameters import interval
from .widgets import as_array, check_arrows, check_joints, check_strokes, draw_arrows, paint, paint_over, png_bytes

# ---------------------------------------------------------------------------------------------- state

HALF = {"weight": 1.0, "interval": [0.0, 0.5]}          # how strong, in which fractions of the steps

START = {
    "prompt": "a puppet with tan skin in a red shirt and blue trousers is waving its left hand in a meadow next to a tree",
    "seed": 0,                                          # of the noise that the picture starts from
    "steps": FULL["num_inference_steps"],               # DDIM steps
    "guidance_scale": 3.0,                              # how strictly the prompt is followed
    "step_size": 0.05,                                  # how far each guided step moves the latents
    "pose": {"use": True, **HALF, "joints": [           # the 14 joints in the order of `puppets.JOINTS`
        [54, 35], [54, 49], [64, 52], [44, 52], [80, 44], [40, 70], [93, 31], [38, 88], [59, 75], [49, 75], [62, 96],
        [46, 96], [65, 117], [43, 117]]},
    "drag": {"use": False, "weight": 1.0, "interval": [0.0, 0.8],
             "arrows": [],                              # [[handle, target], ...] on the picture without guidance; an arrow
             "grab": True,                              # without length holds its place. grab: the whole limb, puppet or
             "keep": True},                             # prop that an arrow starts on. keep: the rest stays as it is
    "depth": {"use": False, **HALF, "strokes": []},     # shade is nearness: 1 near, 0 far
    "edges": {"use": False, **HALF, "strokes": []},     # wherever there is a stroke, whatever its shade
    "appearance": {"use": False, "weight": 1.0, "interval": list(LOOKS),
                   "picture": "",                       # a file, or an embedded "data:image/png;base64,..."; ...
                   "prompt": "a puppet with dark skin in a yellow shirt and black trousers and a green hat is standing "
                             "on a beach", "seed": 1},          # ... if empty, the picture of this prompt and seed
    "model": "data/puppet-diffusion",
    "heads": "data/heads",
}
HEADS = {"pose": "pose", "drag": "correspondence", "depth": "depth", "edges": "edges", "appearance": "appearance"}
OBJECTIVES = tuple(HEADS)
SEEDS = 2**32 - 1                                       # the largest seed
PLAIN = ("prompt", "seed", "steps", "guidance_scale")   # what the picture without guidance depends on


Noise = Annotated[Index, Field(le=SEEDS)]
Weight = Annotated[Number, Field(ge=0, le=100)]
Interval = Annotated[list, BeforeValidator(lambda value: interval(value) or list(map(float, value)))]      # a rule returns None
Joints, Arrows, Strokes = (Annotated[list, BeforeValidator(lambda value, check=check: check(value, (SIZE, SIZE)))]
                           for check in (check_joints, check_arrows, check_strokes))


@dataclass
class Plain(Declared):
    """What a state may hold beside its objectives."""
    prompt: Text
    seed: Noise
    steps: Annotated[Count, Field(le=1000)]
    guidance_scale: Weight
    step_size: Fraction
    model: FileName
    heads: FileName


@dataclass
class Aim(Declared):
    """What the entry of any objective may hold; what each of them holds besides follows."""
    use: Truth
    weight: Weight
    interval: Interval


@dataclass
class Posed(Aim):
    joints: Joints


@dataclass
class Dragged(Aim):
    arrows: Arrows
    grab: Truth
    keep: Truth


@dataclass
class Painted(Aim):
    strokes: Strokes


@dataclass
class Alike(Aim):
    picture: FileName
    prompt: Text
    seed: Noise


ENTRIES = {"pose": Posed, "drag": Dragged, "depth": Painted, "edges": Painted, "appearance": Alike}


def check_state(state: dict, kit: Kit | None = None) -> dict:
    """A complete copy of a state in plain numbers and lists; what is left out is as in `START`.

    ValueError, naming the entry, its value and the remedy, where something is wrong. With a kit the state has to be ready
    to run as well: a head for every objective in use, and something for it to aim at.
    """
    made = _filled(state, START, "")
    made |= asdict(Plain(**{name: value for name, value in made.items() if name not in OBJECTIVES}))
    for name in OBJECTIVES:
        try:
            made[name] = asdict(ENTRIES[name](**made[name]))
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
        if kit is not None and made[name]["use"]:
            _check_ready(name, made[name], made["steps"], kit)
    return made


def in_use(state: dict) -> list[str]:
    """The names of the objectives that are switched on."""
    return [name for name in OBJECTIVES if state[name]["use"]]


def without_guidance(state: dict) -> dict:
    """The same state with every objective switched off."""
    return {**state, **{name: {**state[name], "use": False} for name in OBJECTIVES}}


def _filled(given, start: dict, path: str) -> dict:
    """A deep copy of `start` with what is given put in."""
    if not isinstance(given, dict):
        raise ValueError(f"{path.rstrip('.') or 'state'} is {given!r}: give a dict with {', '.join(start)}")
    for name in given:
        if name not in start:
            raise ValueError(f"there is no {path}{name}: choose from {', '.join(path + each for each in start)}")
    return {name: _filled(given.get(name, {}), old, f"{path}{name}.") if isinstance(old, dict)
            else copy.deepcopy(given.get(name, old)) for name, old in start.items()}


def _check_ready(name: str, entry: dict, steps: int, kit: Kit) -> None:
    if name in kit.notes:
        raise ValueError(f"{name} is in use, but {kit.notes[name]}. Or switch {name} off ({name}.use)")
    check_interval(name, entry, steps)
    for key, what in (("arrows", "arrow"), ("strokes", "stroke")):
        if key in entry and not entry[key]:
            raise ValueError(f"{name} is in use, but there is no {what} ({name}.{key} is empty): draw at least one, or switch {name} "
                             f"off ({name}.use)")
    if name == "drag":
        handles, targets = zip(*map(_as_told, entry["arrows"]))
        try:
            check_pairs(torch.tensor(handles, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 1.0)
        except ValueError as error:
            raise ValueError(f"drag.arrows: {error}") from None
        if handles == targets:
            raise ValueError("drag.arrows holds only points that stay in their place: draw at least one arrow")
    if name in ("depth", "edges") and not paint(entry["strokes"], (SIZE, SIZE), shade=1.0).any():
        raise ValueError(f"{name}.strokes are so thin that nothing of the picture is covered: draw at least one with a wider pen")
    if name == "drag" and entry["grab"] and "pose" in kit.notes:
        raise ValueError(f"drag.grab takes hold of limbs, but {kit.notes['pose']}. Or let arrows move their own points alone (drag.grab)")
    if entry.get("picture"):
        read_reference(entry["picture"])


def check_interval(name: str, entry: dict, steps: int) -> None:
    """ValueError where an objective's interval is none or, of one that is in use, holds no step."""
    start, stop = checked(f"{name}.interval", entry["interval"], Interval)
    if entry["use"] and int(stop * steps + 1e-9) <= int(start * steps + 1e-9):
        raise ValueError(f"{name}.interval is [{start:g}, {stop:g}], which holds none of the {steps} steps: widen it")


def _as_told(arrow) -> tuple:
    """Handle and target of an arrow; of one without a length the handle twice."""
    return tuple(map(tuple, arrow if _length(arrow) else (arrow[0], arrow[0])))


def _length(arrow) -> int:
    """In whole pixels: 0 is a point that is to stay."""
    return int(math.dist(*arrow))


# ---------------------------------------------------------------------------------------------- files

def to_yaml(state: dict) -> str:
    """A state as papermill's parameters. Each value is in the way JSON and YAML have in common, so nothing is lost."""
    lines = []
    for name, value in check_state(state).items():
        nested = isinstance(value, dict)
        lines.append(f"{name}:" if nested else f"{name}: {_yaml(value)}")
        lines += [f"  {key}: {_yaml(each)}" for key, each in value.items()] if nested else []
    return "\n".join(lines) + "\n"


def _yaml(value) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, str):              # YAML knows more line breaks than JSON: what does not print is spelt out
        return '"' + "".join("\\" + c if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in value) + '"'
    text = json.dumps(value)                # YAML takes 1e-05 for a text, and 1.0e-05 for a number
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


@declared
def write_yaml(state: dict, path: SomeName, note: Text = "") -> Path:
    """Write a state for `papermill ... -f`; `note` becomes the comment in the first line. A path may begin with `~`."""
    path = os.path.expanduser(path)
    if Path(path).suffix not in (".yaml", ".yml"):
        raise ValueError(f"the file is called {str(path)!r}: give a name that ends in .yaml, else papermill does not read it")
    return write_file(path, (f"# {note}\n" if note else "") + to_yaml(state))


@declared
def read_yaml(path: SomeName) -> dict:
    """Read a state as papermill does; ValueError, which names the file, where it is none, or gives an entry twice."""
    path = os.path.expanduser(path)
    from papermill.iorw import NoDatesSafeLoader

    class Loader(NoDatesSafeLoader):
        def construct_mapping(self, node, deep=False):
            names = [str(key.value) for key, _ in node.value]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"it gives {twice[0]} twice, of which papermill takes the last: delete one of them")
            return super().construct_mapping(node, deep)
    try:
        found = Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except Exception as error:              # files and YAML readers raise many kinds
        raise ValueError(f"{path} could not be read: {error}") from error
    try:
        return check_state(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_reference(where: str) -> Tensor:
    """A picture from a file or from a text "data:image/...;base64,...": the square in its middle, (1, 3, 128, 128)."""
    shown = where if len(where) < 80 else f"{where[:60]}..."
    try:
        file = io.BytesIO(base64.b64decode(where.split(",", 1)[1])) if where.startswith("data:") else find_folder(where)
    except (ValueError, IndexError) as error:
        raise ValueError(f"appearance.picture is {shown!r}, which is no picture that can be read ({error}): give the path "
                         "of a PNG or JPEG file") from None
    return _square(file, "appearance.picture", repr(shown))


def _square(file, name: str, shown: str) -> Tensor:
    """The square in the middle of a picture file, (1, 3, 128, 128)."""
    with opened(file, name, shown) as picture:
        picture = Image.fromarray(as_array(as_pictures(picture, name)))
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    small = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(as_array(small).copy()).permute(2, 0, 1)[None].float() / 255


def embed(content: bytes) -> str:
    """The bytes of a picture file as a text that the state can hold: 128 x 128, PNG. ValueError where they are none."""
    try:
        png = png_bytes(as_array(_square(io.BytesIO(content), "the upload", f"{len(content)} bytes")))
    except ValueError as error:             # of a file that has no name here, and no path
        told = re.sub(r" \(cannot identify image file .*?\)", "", str(error)).replace("give the path of a PNG", "upload a PNG")
        raise ValueError(told) from None
    return "data:image/png;base64," + base64.b64encode(png).decode()


# ---------------------------------------------------------------------------------------------- pictures

@dataclass
class Kit:
    """What pictures are made with: the model and the heads. `notes` says of an objective why there is no head for it."""
    pipe: object
    heads: dict[str, ReadoutHead]
    notes: dict[str, str]
    known: dict = field(default_factory=dict)       # (prompt, seed, ...) -> states of the sampling without guidance
    grounds: dict = field(default_factory=dict)     # the same -> a Source of them, see `ground`
    previews: Any = None                            # an `AutoencoderTiny` for pictures that are still forming


@declared
def load_kit(model: FileName = START["model"], heads: FileName = START["heads"]) -> Kit:
    """Load the model and those heads that are there. ValueError where the model cannot be used."""
    pipe = load_pipeline(model)
    side = denoiser(pipe).image_size()[1]
    if side != SIZE:
        raise ValueError(f"model is {model!r}, which makes pictures of {side} x {side} pixels; the studio's controls are made "
                         f"for {SIZE} x {SIZE}: use data/puppet-diffusion")
    kit = Kit(pipe, {}, {}, previews=load_previews(pipe))
    for name, folder in HEADS.items():
        path = Path(heads) / folder
        if not Path(find_folder(path)).exists():
            out = "" if heads == START["heads"] else f" --out {shlex.quote(heads)}"
            kit.notes[name] = (f"there is no {folder} head in {path.as_posix()}. Make it with `python -m rg_minimal.puppets.heads "
                               f"{folder}{out}`, then start again")
            continue
        try:
            kit.heads[name] = load_head(path, pipe)
        except ValueError as error:
            kit.notes[name] = f"the {folder} head cannot be used: {error}"
    return kit


@dataclass
class Moment:
    """One step on the way from a state to its pictures."""
    name: str                   # 'reference', 'before' (without guidance) or 'after'
    done: int                   # steps so far, of `total` in all
    total: int
    state: SampleState
    last: bool                  # the last step of this picture
    previews: Any = None        # a small autoencoder to show it by; what is kept is decoded by the pipeline's own

    def picture(self) -> Tensor:
        """(3, H, W): the finished picture, or as it looks so far. Costs a run of the decoder."""
        model, latents = self.state.model, self.state.latents if self.last else self.state.clean_latents
        return decode(model.pipe, model.as_latents(latents), self.previews)[0]


@dataclass
class Result:
    """A state and its pictures (3, H, W), without and with guidance."""
    state: dict
    before: Tensor
    after: Tensor
    reference: Tensor | None = None

    @property
    def fingerprint(self) -> str:
        """Two pictures with the same fingerprint are the same, bit for bit."""
        return hashlib.sha256(as_array(self.after).tobytes()).hexdigest()[:16]

    def figure(self) -> plots.Figure:
        """The picture without guidance, what was asked, and the picture with guidance."""
        return asked_and_got(self)


def moments(kit: Kit, state: dict) -> Iterator[Moment]:
    """From a state to its pictures: yields after every step. Raises ValueError at the call, before anything is sampled.

    First comes the picture without guidance (and, for appearance, the reference), unless the kit knows it from before:
    then only its last step. Then, if any objective is in use, the guided picture, from the same noise.
    """
    state = check_state(state, kit)
    return _moments(kit, state)


def make(kit: Kit, state: dict) -> Result:
    """Run `moments` to the end."""
    made = {moment.name: moment.picture() for moment in moments(kit, state) if moment.last}
    return finished(state, made)


def finished(state: dict, made: dict[str, Tensor]) -> Result:
    """The result of finished pictures, by the names of their moments."""
    state = check_state(state)
    if state["appearance"]["use"] and state["appearance"]["picture"]:
        made = {**made, "reference": read_reference(state["appearance"]["picture"])[0]}
    return Result(state, made["before"], made.get("after", made["before"]), made.get("reference"))


def _moments(kit, state):
    steps, guided, runs = state["steps"], bool(in_use(state)), plain_runs(state)
    fresh = {name for name, run in runs.items() if not recall(kit, run)}                        # the others cost nothing
    total, done = (len({plain_key(runs[name]) for name in fresh}) + guided) * steps, 0
    for name, run in runs.items():
        new = plain_key(run) not in kit.known
        for each in plain_states(kit, run):
            done += new
            yield _moment(kit, name, done, total, each, each.step == steps - 1)
    if guided:
        known = {name: kit.known[plain_key(run)] for name, run in runs.items()}
        for each in guided_sample(kit.pipe, **plain_settings(state), **guidance(kit, state, known)):
            done += 1
            yield _moment(kit, "after", done, total, each, each.step == steps - 1)


def _moment(kit, name, done, total, state, last) -> Moment:
    return Moment(name, done, total, state, last, None if last else kit.previews)


def plain_runs(state: dict) -> dict[str, dict]:
    """The pictures without guidance that a state needs: "before", and after "reference" where looks are asked for by a prompt."""
    plain = {name: state[name] for name in PLAIN}
    if state["appearance"]["use"] and not state["appearance"]["picture"]:
        return {"reference": {**plain, **{name: state["appearance"][name] for name in ("prompt", "seed")}}, "before": plain}
    return {"before": plain}


def plain_key(run: dict) -> tuple:
    """What the picture without guidance depends on."""
    return tuple(run[name] for name in PLAIN)


def plain_settings(run: dict) -> dict:
    """What `guided_sample` is told of a picture, but for its guidance."""
    return {"prompt": run["prompt"], "num_inference_steps": run["steps"], "guidance_scale": run["guidance_scale"],
            "generator": torch.Generator().manual_seed(run["seed"])}


def plain_states(kit: Kit, run: dict) -> Iterator[SampleState]:
    """The states of a sampling without guidance, or the last one alone where the kit knows them. Of those that it knows the one that was
    asked for longest ago is forgotten first."""
    if not recall(kit, run):
        states = []
        for each in guided_sample(kit.pipe, **plain_settings(run)):
            states.append(each)
            if len(states) < run["steps"]:
                yield each
        while len(kit.known) >= 8:
            oldest = next(iter(kit.known))
            del kit.known[oldest]
            kit.grounds.pop(oldest, None)
        kit.known[plain_key(run)] = states
    yield kit.known[plain_key(run)][-1]


def recall(kit: Kit, run: dict) -> bool:
    """Whether the kit knows the picture without guidance of a run; if so, it counts as the one asked for last."""
    key = plain_key(run)
    if key in kit.known:
        kit.known[key] = kit.known.pop(key)
    return key in kit.known


def known_before(kit: Kit, state: dict) -> Tensor | None:
    """The picture without guidance (3, H, W), where the kit knows it."""
    return decode(kit.pipe, next(plain_states(kit, state)).latents)[0] if recall(kit, state) else None


def guidance(kit: Kit, state: dict, known: dict[str, list[SampleState] | Source]) -> dict:
    """What `guided_sample` is told of the objectives in use: they, the step size, noise and, for a drag, what may change.

    The state's step size is that of a pose; with looks or a drag it is as much shorter or longer as theirs is by default. New
    noise at each step is what `editing.identity` asks for, or else `editing.drag`, which gets it only where it is to keep the
    rest: of a picture that is free everywhere, noise would make another one.
    `known` has the states of the picture "before", and of the "reference" if it was sampled, or a `Source` of either.
    """
    made, edits = {"objectives": [], "step_size": state["step_size"]}, {}
    for name in in_use(state):
        weight, (start, stop) = state[name]["weight"], state[name]["interval"]
        if name in EDITS:
            edits[name] = EDITS[name](kit, state, known)
            made["objectives"] += [replace(each, weight=each.weight * weight, start=start, stop=stop)
                                   for each in edits[name]["objectives"]]
        else:
            made["objectives"].append(BUILDERS[name](kit, state, weight=weight, start=start, stop=stop))
    first = edits.get("drag", edits.get("appearance"))
    if first:
        made["step_size"] *= first["step_size"] / START["step_size"]        # points that agree bear longer steps, looks want shorter ones
    if "drag" in edits:
        kept = ("latents", "mask", "keep", "eta", "variance_noise") if state["drag"]["keep"] else ("latents",)
        made |= {name: value for name, value in edits["drag"].items() if name in kept}
    elif "appearance" in edits:
        made["eta"] = edits["appearance"]["eta"]
    return made


def _pose(kit, state, **settings):
    return pose_objective(kit.heads["pose"], torch.tensor(state["pose"]["joints"]), **settings)


def _depth(kit, state, **settings):
    strokes = state["depth"]["strokes"]
    shades, cover = (F.adaptive_avg_pool2d(paint(strokes, (SIZE, SIZE), shade=shade), CELLS) for shade in (None, 1.0))
    return depth_objective(kit.heads["depth"], (shades / cover.clamp_min(1e-6)).clamp(0, 1), mask=cover, **settings)


def _edges(kit, state, **settings):
    lines = paint(state["edges"]["strokes"], (SIZE, SIZE), shade=1.0)
    return edge_objective(kit.heads["edges"], lines, background=0.0, **settings)


def ground(kit: Kit, state: dict) -> Source | None:
    """The picture without guidance, which arrows are drawn on, where the kit knows it."""
    key = plain_key(state)
    if key in kit.known and key not in kit.grounds:
        kit.grounds[key] = Source.from_states(kit.pipe, kit.known[key], state["prompt"])
    return kit.grounds.get(key)


def held(kit: Kit, state: dict) -> Hold:
    """What the arrows take hold of, on a picture without guidance that the kit knows."""
    handles, targets = zip(*map(_as_told, state["drag"]["arrows"]))                         # as they are numbered
    if state["drag"]["grab"]:
        return grab(kit.heads["drag"], kit.heads["pose"], ground(kit, state), handles, targets)
    return bare(kit.heads["pose"], ground(kit, state), handles, targets)


def _moving_and_fixed(state) -> tuple[list, list]:
    """Arrows, and points that stay."""
    arrows = state["drag"]["arrows"]
    return [arrow for arrow in arrows if _length(arrow)], [arrow[0] for arrow in arrows if not _length(arrow)]


def _drag(kit, state, known) -> dict:
    source = _source(kit, known["before"], state["prompt"])
    anatomy = None if state["pose"]["use"] else kit.heads.get("pose")           # a pose that is asked for goes first
    if state["drag"]["grab"]:
        hold = held(kit, state)
        return drag(kit.heads["drag"], source, hold.handles, hold.targets, fixed=hold.fixed, anatomy=anatomy, **HELD)
    moving, fixed = _moving_and_fixed(state)
    return drag(kit.heads["drag"], source, *zip(*moving), fixed=fixed, anatomy=anatomy)


def _source(kit, known, prompt) -> Source:
    return known if isinstance(known, Source) else Source.from_states(kit.pipe, known, prompt)


def _appearance(kit, state, known) -> dict:
    picture = state["appearance"]["picture"]
    if picture:
        noise = torch.Generator().manual_seed(state["seed"])
        source = Source.from_picture(kit.pipe, read_reference(picture), state["prompt"], generator=noise)
    else:
        source = _source(kit, known["reference"], state["prompt"])
    return identity(kit.heads["appearance"], source)


BUILDERS = {"pose": _pose, "depth": _depth, "edges": _edges}        # state -> objective
EDITS = {"drag": _drag, "appearance": _appearance}                  # state, states of the sampling -> see editing.py


def asked_and_got(result: Result) -> plots.Figure:
    """The picture without guidance, what was asked, and the picture with guidance; the reference first, if there is one."""
    state, used = result.state, in_use(result.state)
    asked = result.before * 0.4 + 0.6
    for name in {"depth", "edges"} & set(used):
        asked = paint_over(asked, state[name]["strokes"])
    pictures, titles = [result.before, asked, result.after], ["without guidance", "asked: " + ", ".join(used), "with guidance"]
    if result.reference is not None:
        pictures, titles = [result.reference, *pictures], ["reference", *titles]
    if not used:
        return plots.picture_grid([result.before], titles[:1], size=2.4)
    figure = plots.picture_grid(pictures, titles, size=2.4)
    axes = figure.axes[-2]
    if "pose" in used:
        plots.draw_skeleton(axes, torch.tensor(state["pose"]["joints"]))
    if "drag" in used:
        draw_arrows(axes, state["drag"]["arrows"])
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0))
    return figure
