"""Everything that the library does, in miniature, where tensors live on a GPU: a real one, or a CPU that plays it.

In float32, float16 and bfloat16, and with a pipeline that is offloaded. What is compared with the CPU is compared in float32,
where the virtual device computes the same bits.
"""
import asyncio
import functools

import pytest
import torch

import tiny
import virtual_device
from rg_minimal import Source, decode, encode, guided_sample, invert, load_head, load_pipeline, read_picture, sample
from rg_minimal.callback import GuidanceCallback
from rg_minimal.classroom.recipe import HEADS, check_state, load_kit, make
from rg_minimal.classroom.studio import Studio
from rg_minimal.denoisers import denoiser
from rg_minimal.evidence import ablations as A, baselines as B, contest as C, ideas as I, rivals as R, seeds as S
from rg_minimal.puppets import HELD_OUT, heads as heads_room, measure, render, sample_scene
from rg_minimal.puppets.editing import drag, drag_frames, identity
from rg_minimal.puppets.grab import source_joints
from rg_minimal.puppets.heads import (TASKS, collect, depth_objective, edge_objective, match_points, new_head, pose_objective,
                                      score_head, score_raw_layers, train_task)
from rg_minimal.puppets.judge import load_judge
from rg_minimal.saving import train_head

REAL = torch.cuda.is_available()
PROMPT = "a puppet in a green shirt is waving on a beach"
STEPS = dict(num_inference_steps=3)
EVERY = ("pose", "depth", "edges", "correspondence", "appearance")
WAYS = {"float32": {}, "float16": {"dtype": torch.float16}, "bfloat16": {"dtype": torch.bfloat16}, "offloaded": {"device": "cpu"}}


@pytest.fixture(scope="module", autouse=True)
def device():
    if not REAL:
        virtual_device.install()
    yield
    if not REAL:
        virtual_device.uninstall()


@pytest.fixture(scope="module", params=WAYS)
def pipe(request):
    """As the course loads it: nobody says a device, so it is on the GPU. Offloaded, its parts go there when they are used."""
    made = load_pipeline(**WAYS[request.param])
    if request.param == "offloaded":
        made.enable_model_cpu_offload(device="cuda")
    assert denoiser(made).device.type == "cuda" and denoiser(made).dtype == WAYS[request.param].get("dtype", torch.float32)
    return made


@pytest.fixture(scope="module")
def heads(pipe):
    return {name: load_head(f"data/heads/{name}", pipe) for name in EVERY}


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def frame():
    return render(sample_scene(HELD_OUT + 3))


def seed(value=0):
    return torch.Generator().manual_seed(value)


def there(states):
    """All states, whose latents are on the device and finite."""
    states = list(states)
    assert states and all(state.latents.is_cuda and state.latents.isfinite().all() for state in states)
    return states


def guided(states):
    """Each objective has guided at a step."""
    losses = [state.losses for state in there(states)]
    return all(any(loss is not None for loss in of_one) for of_one in zip(*losses))


def test_pictures_go_in_and_come_out(pipe, frame):
    latents = encode(pipe, frame.image)
    reading = read_picture(pipe, frame.image, 300, generator=seed())
    assert latents.is_cuda and all(each.is_cuda for each in reading.features)
    assert (decode(pipe, latents).cpu() - frame.image).abs().mean() < 0.05
    pictures, latents = sample(pipe, PROMPT, generator=seed(), **STEPS)
    assert pictures.is_cuda and pictures.dtype == torch.float32 and latents.is_cuda


def test_every_spatial_objective_guides_and_lowers_its_loss(pipe, heads, frame):
    goals = lambda: [pose_objective(heads["pose"], frame.joints), depth_objective(heads["depth"], frame.depth, weight=0.5),
                     edge_objective(heads["edges"], frame.edges, mask=(frame.edges > 0).float(), stop=1.0)]
    moved, plain = (there(guided_sample(pipe, PROMPT, goals(), generator=seed(), step_size=size, eta=0.5, **STEPS))[-1]
                    for size in (0.05, 0.0))
    assert moved.losses[2] < plain.losses[2]
    latents = pipe(PROMPT, generator=seed(), output_type="latent", callback_on_step_end=(guidance := GuidanceCallback(goals())),
                   num_inference_steps=4)
    assert latents.images.is_cuda and len(guidance.losses) == 3                 # no callback comes before the first step


def test_a_drag_in_a_generated_and_in_an_inverted_picture(pipe, heads, frame):
    handles, targets = frame.joints[0, [6, 7]], frame.joints[0, [6, 7]] + 6               # on the CPU, as a reader has them
    for states in (guided_sample(pipe, PROMPT, generator=seed(), **STEPS), invert(pipe, frame.image, PROMPT, **STEPS)):
        source = Source.from_states(pipe, states, PROMPT)
        settings = drag(heads["correspondence"], source, handles, targets, fixed=[(64, 60)], anatomy=heads["pose"],
                        appearance=heads["appearance"])
        assert guided(guided_sample(pipe, PROMPT, **settings, **STEPS))
    frames = list(drag_frames(pipe, PROMPT, heads["correspondence"], source, handles, targets, [0.5, 1.0], **STEPS))
    assert len(frames) == 2 and source_joints(heads["pose"], source).shape == (14, 2)
    readings = [source(667)] * 2
    features = [reading(heads["correspondence"]) for reading in readings]
    assert match_points(*features, handles[None]).shape == (1, 2, 2)


def test_looks_of_a_reference(pipe, heads, frame):
    source = Source.from_picture(pipe, frame.image, PROMPT, generator=seed(1))
    settings = identity(heads["appearance"], source, boxes=((20, 20, 100, 120), (30, 20, 110, 120)))
    objectives = [*settings.pop("objectives"), pose_objective(heads["pose"], frame.joints)]
    assert guided(guided_sample(pipe, PROMPT, objectives, generator=seed(), **settings, **STEPS))


@pytest.mark.parametrize("task", TASKS)
def test_a_head_trains_and_resumes(pipe, task, tmp_path):
    """Stopped after two steps and taken up again, it ends with the bits of the run that was not stopped."""
    small = dict(count=4, batch=2, steps=4)                 # two after the stop: the second one needs the optimizer's state, too
    samples = collect(pipe, task, 4)
    whole = [state.loss for state in train_task(pipe, task, samples, **small)]
    run = lambda: train_task(pipe, task, samples, checkpoint=tmp_path / "head.safetensors", checkpoint_every=1, **small)
    states = run()
    first = [next(states).loss for _ in range(2)]
    states.close()
    last = list(run())
    assert [*first, *(state.loss for state in last)] == whole and all(loss == loss for loss in whole)
    head = last[-1].head
    assert all(weight.is_cuda for weight in head.parameters())
    assert set(score_head(pipe, task, head, (300,), samples)) == {300}
    if not TASKS[task].out_channels:
        assert len(score_raw_layers(pipe, task, (300,), samples)[300]) == len(head.config.layer_channels)


def test_a_head_is_made_with_its_card(pipe, tmp_path, monkeypatch):
    for name, few in (("FEW", 2), ("SCORED", 2)):
        monkeypatch.setattr(heads_room, name, few)
    monkeypatch.setattr(heads_room, "collect_held_out", functools.partial(heads_room.collect_held_out, count=2))
    made = heads_room.make_head("pose", tmp_path / "pose", pipe, tmp_path / "work", lambda line: None, count=2, batch=2, steps=2)
    assert made["scores"] and load_head(tmp_path / "pose", pipe).config.out_channels == 14


def test_pictures_that_are_no_latents_train_a_head_too(pipe, frame):
    head = new_head(pipe, "pose")
    losses = [state.loss for state in train_head(head, pipe, [(frame.image, torch.zeros(1, 14, 32, 32))] * 2, 2)]
    assert len(losses) == 2 and load_head("data/heads/pose", pipe).config.layer_channels == head.config.layer_channels


MEASURES = {
    "base": lambda pipe, judge, heads: measure.measure_base(pipe, judge, 2, 2, 2),
    "pose": lambda pipe, judge, heads: measure.measure_pose(pipe, judge, heads["pose"], 1, 2),
    "depth": lambda pipe, judge, heads: measure.measure_map(pipe, judge, heads["depth"], "depth", 1, 2),
    "edges": lambda pipe, judge, heads: measure.measure_map(pipe, judge, heads["edges"], "edges", 1, 2),
    "identity": lambda pipe, judge, heads: measure.measure_identity(pipe, judge, heads["appearance"], heads["pose"], 1, 2),
    "inversion": lambda pipe, judge, heads: measure.measure_inversion(pipe, 1, 2, iterations=(0, 1)),
    "combination": lambda pipe, judge, heads: measure.measure_combination(pipe, heads, 2, 1),
    "cost": lambda pipe, judge, heads: measure.measure_cost(pipe, heads["pose"], 2, 1)}


@pytest.mark.parametrize("what", MEASURES)
def test_a_measurement(pipe, judge, heads, what, monkeypatch):
    monkeypatch.setattr(measure, "autoencoder_psnr", lambda vae, count, of=measure.autoencoder_psnr: of(vae, 4))
    for pace in ("FULL", "DRAFT"):                          # where tensors meet is seen in two steps; 25 in half precision take minutes
        monkeypatch.setattr(measure, pace, getattr(measure, pace) | {"num_inference_steps": 2})
    assert measure.finish(MEASURES[what](pipe, judge, heads))


def test_a_measured_drag(pipe, judge, heads, frame):
    """One case whose source is a whole puppet is found in an inverted rendering even after few steps."""
    case = next(measure.drag_sources(pipe, judge, "wrist", real=True, steps=3))
    settings = drag(heads["correspondence"], case.source, case.case.handles, case.case.targets, fixed=case.case.fixed, anatomy=heads["pose"])
    picture, _ = sample(pipe, case.scene.caption, num_inference_steps=3, **settings)
    assert measure.judge_drag(judge, case, picture)["distance"] >= 0


STATE = {"steps": 3, "prompt": PROMPT, "pose": {"use": True}, "depth": {"use": True, "strokes": [
    {"points": [[20, 90], [110, 90]], "width": 6, "shade": 0.5}]}, "appearance": {"use": True},
    "drag": {"use": True, "arrows": [[[60, 60], [80, 50]]]}}


def test_the_studio(pipe):
    kit = load_kit()
    kit.pipe, kit.heads = pipe, {name: load_head(f"data/heads/{folder}", pipe) for name, folder in HEADS.items()}
    state = check_state(STATE)
    result = make(kit, state)
    shown = Studio(kit, state)
    again = asyncio.run(shown.run())
    assert not shown.problem, shown.message
    assert again.fingerprint == result.fingerprint and shown.figure()._repr_png_()


def test_a_pipeline_of_another_kind(device):
    """A transformer with flow matching."""
    pipe = tiny.tiny_sd3_pipe().to("cuda")
    objective = tiny.spatial(pipe)
    moved, plain = (there(guided_sample(pipe, "a puppet", [objective], generator=seed(), step_size=size, **STEPS))[-1]
                    for size in (0.1, 0.0))
    assert moved.losses[0] < plain.losses[0]
    assert len(there(invert(pipe, torch.rand(1, 3, 32, 32), "a puppet", **STEPS))) == 3


def test_a_head_reads_a_pass_whose_weights_have_gone_back_since(pipe, heads):
    """With offloading: the timestep is embedded when a head is first asked, which may be long after the pass."""
    reading = read_picture(pipe, torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)), 300)
    before = reading(heads["pose"])
    pipe.maybe_free_model_hooks()
    reading._readouts.clear()
    after, emb = reading(heads["pose"]), denoiser(pipe).embed(torch.tensor([1, 2]))
    assert after.is_cuda and emb.is_cuda and len(emb) == 2 and torch.equal(after, before)


def test_the_play_was_on(pipe):
    assert REAL or virtual_device.tensors_there


EVIDENCE = ("head", "linear", "detector", "controlnet", "adapter", "predictor", "mirrored", "without_timestep", "layer2", "short3", "several")


def test_everybody_of_the_evidence_trains_and_is_measured(tmp_path, monkeypatch):
    """On a pipeline of its own, whose attention the trainings change."""
    monkeypatch.setattr(B, "CHECKED", 4), monkeypatch.setattr(R, "CHECKED", 4), monkeypatch.setattr(A, "CHECKED", 4)
    monkeypatch.setattr(C, "REAL", 32), monkeypatch.setattr(C, "STEPS", 2)
    pipe, judge = load_pipeline(), load_judge()
    runs, few = str(tmp_path), {"steps": 2}
    for kind in B.KINDS:
        list(B.train_baseline(B.BaselineRecipe(kind, "pose", 4, batch=2, warmup=0, runs=runs, **few), pipe))
    list(B.train_readout("pose", 4, 0, runs, pipe, **few))
    list(R.train_linear("pose", 4, 0, runs, pipe, **few)), list(R.train_detector("pose", 4, 0, runs, pipe, batch=2, **few))
    list(I.train_predictor("pose", 4, 0, runs, pipe, batch=2, **few))
    list(A.train_ablations(EVIDENCE[6:], "pose", 4, 0, runs, pipe, **few))
    told = {row["contestant"]: row["device"] for row in C.trainings(runs)}
    assert told == dict.fromkeys(EVIDENCE, "cuda")
    assert list(A.score_ablations(pipe, load_judge(), ["head", "mirrored", "short3", "several"], ["pose"], [4], [0], tmp_path / "ablations.csv", runs, timesteps=(300,)))
    todo = C.entries(["pose"], [*C.CONTESTANTS, "head:short3", "head:several"], [4], [0], [1.0])
    list(C.run(pipe, judge, todo, tmp_path / "contest.csv", S.TUNE, 1, runs=runs))
    assert {row["contestant"] for row in C.read_table(tmp_path / "contest.csv")} == {*C.CONTESTANTS, "head:short3", "head:several"}
