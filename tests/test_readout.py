"""The core on tiny random pipelines: equality with diffusers, round trips, resumed trainings, and every bad input."""
import logging
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import rg_minimal.readout as rg
from rg_minimal import conditioning, maps, pipelines, reference, saving, sources
from rg_minimal.denoisers import UNet, denoiser
from rg_minimal.files import read_tensors, write_tensors
from rg_minimal.puppets.transformer import build_silent_t5
from tiny import tiny_pipe, tiny_tokenizer, tiny_xl_pipe

PROMPT = "a puppet is waving"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


@pytest.fixture(scope="module")
def xl_pipe():
    return tiny_xl_pipe()


def seed(value=0):
    return torch.Generator().manual_seed(value)


def make_head(pipe, out_channels=2, **settings):
    torch.manual_seed(1)
    settings = {"width": 32, "num_groups": 4, "hidden_channels": (8, 8), "activation": "none", **settings}
    return saving.ReadoutHead(rg.HeadConfig.for_model(pipe, out_channels=out_channels, **settings)).eval()


def spatial(pipe, **settings):
    target = torch.zeros(1, 2, 8, 8)
    target[:, :, 2:5, 3:6] = 1
    return rg.SpatialObjective(head=make_head(pipe), **{"target": target, **settings})


def run(pipe, objectives=(), prompt=PROMPT, **settings):
    return list(pipelines.guided_sample(pipe, prompt, objectives, generator=seed(), **{"num_inference_steps": 6, **settings}))


def source_of(pipe, **settings):
    return sources.Source.from_states(pipe, run(pipe, **settings), PROMPT)


# ---- features and heads --------------------------------------------------------------------------------------------

def test_hooks_are_removed_also_after_an_error(pipe):
    with pytest.raises(RuntimeError), rg.collect_features(denoiser(pipe), torch.zeros(1, 4, 16, 16)):
        raise RuntimeError
    assert not any(layer._forward_hooks for layer in denoiser(pipe).layers)


def test_features_are_refilled_by_every_forward(pipe):
    reading = [pipelines.read_picture(pipe, None, t, latents=torch.zeros(2, 4, 16, 16), generator=seed()) for t in (100, 900)]
    assert tuple(feature.shape[1] for feature in reading[0].features) == denoiser(pipe).channels
    assert not torch.equal(reading[0].features[0], reading[1].features[0])


def test_a_head_runs_once_for_each_reading(pipe):
    reading, head = pipelines.read_picture(pipe, torch.rand(2, 3, 32, 32), 300, generator=seed()), make_head(pipe)
    assert reading(head) is reading(head)
    assert reading(head).shape == (2, 2, 16, 16)


def test_a_reading_at_one_timestep_equals_a_batch_of_that_timestep(pipe):
    head, pictures = make_head(pipe), torch.rand(2, 3, 32, 32)
    one = pipelines.read_picture(pipe, pictures, 300, generator=seed())(head)
    many = pipelines.read_picture(pipe, pictures, torch.tensor([300, 300]), generator=seed())(head)
    torch.testing.assert_close(one, many)


def test_step_index_convention_mirrors_the_timestep(pipe):
    plain = make_head(pipe)
    mirrored = reference.MirroredHead.from_tensors(plain.config, plain.state_dict(), "here")
    reading = pipelines.read_picture(pipe, torch.rand(1, 3, 32, 32), 300, generator=seed())
    embedding = denoiser(pipe).embed(699)
    torch.testing.assert_close(reading(mirrored), plain(reading.features, embedding))


def test_a_head_of_the_other_convention_is_one_also_when_it_was_saved_and_loaded(pipe, tmp_path):
    plain = make_head(pipe)
    mirrored = reference.MirroredHead.from_tensors(plain.config, plain.state_dict(), "here")
    mirrored.save_pretrained(tmp_path / "head")
    reading = pipelines.read_picture(pipe, torch.rand(1, 3, 32, 32), 300, generator=seed())
    loaded = saving.ReadoutHead.from_pretrained(tmp_path / "head")
    assert torch.equal(reading(loaded), reading(mirrored)) and not torch.equal(reading(loaded), reading(plain))
    assert "timestep_convention" not in plain.config.extra, "the plain head's config is its own"


@pytest.mark.parametrize("out_channels, width", [(2, 2), (0, 32)])
def test_save_and_load_give_the_same_readout(pipe, tmp_path, out_channels, width):
    head = make_head(pipe, out_channels, property="pose", extra={"joints": ["head", "neck"]}, resize_late=True)
    head.save_pretrained(tmp_path / "pose")
    loaded = saving.ReadoutHead.from_pretrained(tmp_path / "pose")
    assert loaded.config == head.config
    reading = pipelines.read_picture(pipe, torch.rand(1, 3, 32, 32), 300, generator=seed())
    assert reading(head).shape[1] == width and torch.equal(reading(loaded), reading(head))
    files = sorted((tmp_path / "pose").iterdir())
    assert [path.name for path in files] == ["config.json", "head.safetensors"]
    assert len({path.stat().st_mode for path in files}) == 1                   # whoever may read one may read the other


def test_saving_again_keeps_other_files(pipe, tmp_path):
    (tmp_path / "README.md").write_text("card")
    for _ in range(2):
        make_head(pipe).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "card"


# ---- losses --------------------------------------------------------------------------------------------------------

def test_point_weights_by_hand():
    points = torch.tensor([[3.0, 1.0]])         # x: halfway between the centres of cells 0 and 1; y: the centre of cell 0
    weights = maps.bilinear(points, (2, 2), (4, 6)).reshape(2, 2)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    nearest = reference.nearest(torch.tensor([[2.9, 3.9]]), (2, 2), (4, 6)).reshape(2, 2)
    torch.testing.assert_close(nearest, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 5, 8, 8), (1, 4, 8, 8)])
def test_correspondence_is_between_features_of_one_shape(shape):
    with pytest.raises(ValueError, match=r"have to have one shape: features_a \(2, 4, 8, 8\), features_b"):
        rg.correspondence_loss(torch.rand(2, 4, 8, 8), torch.rand(shape), torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 6.0]]), (32, 32))


def test_correspondence_loss_is_least_for_true_pairs():
    features = torch.randn(1, 64, 8, 8, generator=seed())
    points = torch.tensor([[4.5, 4.5], [20.5, 12.5]])
    loss = partial(rg.correspondence_loss, features, features, image_size=(32, 32))
    assert loss(points, points) < loss(points, points.flip(0))


def test_appearance_loss_by_hand():
    a, b = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    assert rg.appearance_loss(a, a, b) == 0 and rg.appearance_loss(a, b, a) == 1.5


def test_weighted_spatial_loss_counts_what_the_weight_says():
    readout, weight = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    assert rg.spatial_loss(readout, torch.zeros_like(readout), weight=weight) == 2.0


# ---- training ------------------------------------------------------------------------------------------------------

def batches(step):
    generator = seed(step)
    return torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 2, 8, 8, generator=generator)


def train(pipe, head, steps=6, **settings):
    return list(saving.train_head(head, pipe, batches, steps, generator=seed(7), **settings))


def test_training_lowers_the_loss_and_leaves_the_denoiser_alone(pipe):
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    data = batches(0)
    states = list(saving.train_head(make_head(pipe), pipe, lambda step: data, 30, lr=3e-3))
    assert states[-1].step == states[-1].steps == 30
    assert sum(s.loss for s in states[-5:]) < 0.7 * sum(s.loss for s in states[:5])
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@pytest.mark.parametrize("as_iterable", [False, True])
def test_a_stopped_training_resumes_to_the_same_bits(pipe, tmp_path, as_iterable):
    whole = train(pipe, make_head(pipe))[-1].head
    source = [batches(step) for step in range(6)] if as_iterable else batches
    settings = dict(checkpoint=tmp_path / "c.safetensors", checkpoint_every=2)
    for state in saving.train_head(make_head(pipe), pipe, source, 6, generator=seed(7), **settings):
        if state.step == 5:
            break
    resumed = list(saving.train_head(make_head(pipe), pipe, source, 6, generator=seed(99), **settings))
    assert [state.step for state in resumed] == [5, 6]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed[-1].head.parameters()))


KILLED = """
import os, sys, torch
sys.path[:0] = {paths}
torch.set_num_threads(1)
import rg_minimal.saving as saving, test_readout as t
head = t.make_head(t.tiny_pipe())
for state in saving.train_head(head, t.tiny_pipe(), t.batches, 6, generator=t.seed(7), checkpoint={path!r}, checkpoint_every=1):
    if state.step == 4:
        os.kill(os.getpid(), 9)
"""


def test_a_killed_training_resumes_to_the_same_bits(pipe, tmp_path):
    path, here = str(tmp_path / "c.safetensors"), os.path.dirname(__file__)
    code = KILLED.format(paths=[here, os.path.dirname(here)], path=path)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == -9, result.stderr
    assert os.listdir(tmp_path) == ["c.safetensors"]
    resumed = train(pipe, make_head(pipe), checkpoint=path)
    assert [state.step for state in resumed] == [5, 6]
    whole = train(pipe, make_head(pipe))[-1].head
    for a, b in zip(whole.parameters(), resumed[-1].head.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)      # another number of threads may round differently


def test_relative_heads_train_on_pairs_and_triplets(pipe):
    pictures = [torch.rand(2, 3, 32, 32, generator=seed(i)) for i in range(3)]
    points = torch.rand(2, 5, 2, generator=seed()) * 32
    loss = partial(rg.correspondence_loss, image_size=(32, 32))
    pairs = [(pictures[:2], points, points)] * 2
    assert len(list(saving.train_head(make_head(pipe, 0), pipe, pairs, 2, loss))) == 2
    triplets = [(pictures,)] * 2
    assert len(list(saving.train_head(make_head(pipe, 0), pipe, triplets, 2, rg.appearance_loss))) == 2


def test_training_takes_latents_and_a_learning_rate_schedule(pipe):
    rates = []
    states = saving.train_head(make_head(pipe), pipe, [(torch.randn(1, 4, 16, 16), torch.zeros(1, 2, 16, 16))] * 2, 2,
                           lr=lambda done: rates.append(done) or 1e-3, latents=True)
    assert len(list(states)) == 2 and rates == [0.0, 0.5]


# ---- sampling ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", [{}, {"eta": 1.0}, {"guidance_scale": 1.0}, {"negative_prompt": "a red shirt"}])
@pytest.mark.parametrize("kind", ["pipe", "xl_pipe"])
def test_unguided_sampling_equals_diffusers(kind, settings, request):
    pipe = request.getfixturevalue(kind)
    settings = {"num_inference_steps": 5, "guidance_scale": 7.5, **settings}
    expected = pipe(PROMPT, output_type="pt", generator=seed(), **settings).images
    pictures, latents = pipelines.sample(pipe, PROMPT, generator=seed(), **settings)
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=1e-5)


def test_v_prediction_equals_diffusers():
    pipe = tiny_pipe("v_prediction")
    expected = pipe(PROMPT, output_type="latent", generator=seed(), num_inference_steps=5).images
    torch.testing.assert_close(run(pipe, num_inference_steps=5)[-1].latents, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule, size", [
    (rg.normalized_step, 5e-2), (rg.sign_step, 5e-2), (reference.adam_step, 5e-2), (lambda gradients, mask: gradients[-1], 5.0)])
def test_every_step_rule_lowers_the_objective(pipe, rule, size):
    objective = spatial(pipe, stop=1.0)
    before = run(pipe, [objective], step_size=0.0)
    after = run(pipe, [objective], step_size=size, step_rule=rule)
    assert after[-1].losses[0] < before[-1].losses[0]


@pytest.mark.parametrize("kind", ["pipe", "xl_pipe"])
def test_guidance_is_the_same_lines_for_every_pipeline(kind, request):
    pipe = request.getfixturevalue(kind)
    source, relative = source_of(pipe), make_head(pipe, 0)
    objectives = [
        spatial(pipe, weight=2.0), spatial(pipe, start=0.5, stop=1.0, schedule=lambda done: 1 - done),
        rg.CorrespondenceObjective(head=relative, source=source, source_points=[[8, 8]], target_points=[[20.5, 9]]),
        rg.AppearanceObjective(head=relative, source=source, boxes=((0, 0, 16, 16), (8, 8, 32, 32))),
        rg.AppearanceObjective(head=relative, source=source, pool=True, mask=torch.ones(1, 1, 32, 32))]
    states = run(pipe, objectives, prompt=[PROMPT, "a red shirt"], gradient_branch="both", inner_steps=2)
    active = [[loss is not None for loss in state.losses] for state in states]
    assert active == [[True, False, True, True, True]] * 3 + [[False, True, False, False, False]] * 3
    assert states[0].losses[0].shape == (2,) and states[0].preview().shape == (2, 3, 32, 32)
    assert states[-1].latents.isfinite().all()


def test_points_are_left_or_not_one_by_one(pipe):
    source, head = source_of(pipe), make_head(pipe, 0)
    make = lambda points, to, **extra: rg.CorrespondenceObjective(head=head, source=source, source_points=points, target_points=to, **extra)
    timestep = sorted(source.timesteps)[0]
    latents = torch.randn(1, 4, 16, 16, generator=seed())
    with torch.no_grad():
        reading, = rg.take_readings(pipe, latents, timestep, pipelines.encode_prompts(pipe, PROMPT))
        points, to = [[8, 8], [20, 9]], [[20, 20], [9, 24]]
        one_by_one = [make([p], [q], anti_ghosting=w)(reading) for p, q, w in zip(points, to, (1.0, 0.0))]
        assert torch.allclose(make(points, to, anti_ghosting=torch.tensor([1.0, 0.0]))(reading), sum(one_by_one) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="anti_ghosting may be one number"):
        make(points, to, anti_ghosting=torch.ones(3))


def test_pooled_features_are_a_centred_generalised_mean():
    features = torch.rand(2, 3, 4, 4, generator=seed())
    for power, options in ((1, {"power": 1.0}), (6, {})):
        by_hand = (features ** power).mean((2, 3)) ** (1 / power)
        assert torch.allclose(maps.pool_features(features, **options)[..., 0, 0], by_hand - by_hand.mean(1, keepdim=True), atol=1e-5)
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 1
    assert torch.allclose(maps.pool_features(features, left), maps.pool_features(features[..., :2]), atol=1e-5)
    assert maps.pool_features(torch.zeros(1, 3, 4, 4, requires_grad=True)).sum().requires_grad
    large = torch.full((1, 2, 4, 4), 30.0, dtype=torch.float16) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).half()
    assert torch.allclose(maps.pool_features(large).flatten(), torch.tensor([-15.0, 15.0]), atol=1e-3), "30 ** 6 is no float16"


def test_pictures_of_a_batch_do_not_influence_each_other(pipe):
    noise, objective = torch.randn(2, 4, 16, 16, generator=seed()), spatial(pipe)
    both = run(pipe, [objective], prompt=[PROMPT, "a red shirt"], latents=noise)[-1].latents
    one = run(pipe, [objective], prompt="a red shirt", latents=noise[1:])[-1].latents
    torch.testing.assert_close(both[1:], one, atol=1e-4, rtol=1e-4)


def reader(pipe, timestep):
    prompt = pipelines.encode_prompts(pipe, PROMPT)
    return lambda latents: rg.take_readings(pipe, latents, timestep, prompt)


def strengths(guide, step=0, steps=10):
    return [objective.strength(step, steps) for objective in guide.objectives]


def test_the_normalized_step_has_its_length(pipe):
    guide = rg.Guidance([spatial(pipe)], step_size=0.03)
    latents = torch.randn(2, 4, 16, 16, generator=seed())
    moved, _ = guide.move(reader(pipe, 500), latents, strengths(guide))
    torch.testing.assert_close((moved - latents).square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.03))
    guide = rg.Guidance([spatial(pipe, schedule=lambda done: 0.5)], step_size=0.03)
    moved, _ = guide.move(reader(pipe, 500), latents, strengths(guide))
    torch.testing.assert_close((moved - latents).square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.015))


def test_the_mask_bounds_the_move_and_keep_holds_the_rest(pipe):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    latents = torch.randn(1, 4, 16, 16, generator=seed())
    guide = rg.Guidance([spatial(pipe)], mask=mask)
    moved, _ = guide.move(reader(pipe, 500), latents, strengths(guide))
    assert torch.equal(moved[..., 8:], latents[..., 8:]) and not torch.equal(moved[..., :8], latents[..., :8])
    source_states = run(pipe)
    source = sources.Source.from_states(pipe, source_states, PROMPT)
    states = run(pipe, [spatial(pipe)], mask=mask, keep=source, latents=source.start, prompt="a red shirt")
    for state, original in zip(states, source_states):
        assert torch.equal(state.noisy_latents[..., 8:], original.noisy_latents[..., 8:])


def test_sampling_is_reproducible_bit_for_bit_and_leaves_no_trace(pipe):
    objective, config = spatial(pipe), dict(pipe.scheduler.config)
    wanted = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    first, second = (run(pipe, [objective], eta=1.0)[-1].latents for _ in range(2))
    assert torch.equal(first, second)
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == wanted
    assert all(parameter.grad is None for module in (pipe.unet, objective.head) for parameter in module.parameters())
    assert dict(pipe.scheduler.config) == config and torch.is_grad_enabled()
    assert not any(layer._forward_hooks for layer in denoiser(pipe).layers)


@pytest.mark.parametrize("read_ahead, calls", [
    (1, [1, 1, 2] * 3 + [2] * 3),                   # edited with gradient, source without, then the CFG pair
    (4, [1, 2, 2, 1, 2, 1, 4, 2] + [2] * 3)])       # the source's six timesteps in batches of four and two
def test_the_source_is_computed_once_a_timestep(pipe, monkeypatch, read_ahead, calls):
    source, head, found = source_of(pipe), make_head(pipe, 0), []
    source.read_ahead = read_ahead
    objectives = [rg.AppearanceObjective(head=head, source=source) for _ in range(3)]
    forward = UNet.__call__
    monkeypatch.setattr(UNet, "__call__", lambda self, latents, *args: found.append(len(latents)) or forward(self, latents, *args))
    run(pipe, objectives)
    assert found == calls


@pytest.mark.parametrize("keep_all", [False, True])
def test_a_source_reads_ahead_and_finds_the_same(pipe, keep_all):
    states = run(pipe, num_inference_steps=6)
    one, four, other = (sources.Source.from_states(pipe, states, PROMPT, keep_all, ahead) for ahead in (1, 4, 4))
    other(four.timesteps[1])                        # whatever was asked for before, the bits are the same
    for timestep in reversed(four.timesteps):
        for branch in ("conditional", "negative"):
            expected, found, again = (source(timestep, branch) for source in (one, four, other))
            assert found.timestep == timestep and found.branch == branch
            assert torch.equal(found.latents, expected.latents)
            for a, b, c in zip(expected.features, found.features, again.features):
                torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
                assert torch.equal(b, c)
        assert len(four._readings) == (2 * sum(t >= min(four._together(timestep)) for t in four.timesteps) if keep_all
                                       else 2 * len(four._together(timestep)))


def test_of_several_pictures_a_source_reads_one_timestep(pipe):
    source = sources.Source.from_states(pipe, run(pipe, prompt=[PROMPT, "a blue shirt"]), [PROMPT, "a blue shirt"])
    assert [each.shape[0] for each in source(source.timesteps[0]).features] == [2] * len(denoiser(pipe).layers)
    assert len(source._readings) == 1


def test_a_picture_is_a_source_at_any_timestep(pipe):
    source = sources.Source.from_picture(pipe, torch.rand(1, 3, 32, 32), generator=seed())
    objective = rg.AppearanceObjective(head=make_head(pipe, 0), source=source)
    assert len(run(pipe, [objective], num_inference_steps=7)) == 7


def test_half_precision_is_named_when_it_overflows(pipe):
    with pytest.raises(ValueError, match="half precision"):
        pipelines.decode(pipe, torch.full((1, 4, 16, 16), float("nan")))


def test_unknown_words_are_named(pipe):
    with pytest.warns(UserWarning, match="does not know dragon.*knows: .*puppet"):
        pipelines.encode_prompts(pipe, "a red dragon")
    clip = tiny_tokenizer()
    clip.unk_token = clip.eos_token                     # as CLIP's is, which spells any word
    assert conditioning.warn_ignored(SimpleNamespace(tokenizer=clip), ["anything"]) == []
    assert conditioning.warn_ignored(SimpleNamespace(), ["anything"]) == [], "a pipeline without a text encoder"


def test_the_end_of_a_prompt_that_the_model_never_reads_is_named():
    """Of the 16 tokens two are the sentence's own ends. What transformers says of such a prompt is false, and not said."""
    read, end, said = "a  puppet " + "red " * 12, "blue shirt  waving", logging.Handler()
    said.emit = lambda record: pytest.fail(record.getMessage())
    logging.getLogger("transformers").addHandler(said)
    try:
        with pytest.warns(UserWarning, match="longer than the model reads, which will ignore its end: 'blue shirt  waving'; say it with"):
            long = pipelines.encode_prompts(tiny_pipe(), read + end)
        with pytest.warns(UserWarning, match="does not know dragon"):
            assert pipelines.check_prompt(SimpleNamespace(tokenizer=tiny_tokenizer()), [read, read + end, "a dragon"]) == ["dragon", end]
    finally:
        logging.getLogger("transformers").removeHandler(said)
    assert torch.equal(long.prompt_embeds, pipelines.encode_prompts(tiny_pipe(), read).prompt_embeds)
    longer, deaf = tiny_tokenizer(), build_silent_t5()[1]
    longer.model_max_length = 18
    several = SimpleNamespace(tokenizer=tiny_tokenizer(), tokenizer_2=longer, tokenizer_3=deaf)
    assert conditioning.ignored(several, read + end) == ([], "waving"), "what none of them reads; one that hears nothing does not count"


# ---- inversion -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_inversion_round_trip(prediction_type):
    pipe = tiny_pipe(prediction_type)
    clean = torch.randn(1, 4, 16, 16, generator=seed())
    errors = []
    for iterations in (0, 20):
        states = list(pipelines.invert(pipe, None, PROMPT, latents=clean, num_inference_steps=20, fixed_point_iterations=iterations))
        assert [state.timestep for state in states] == sorted(state.timestep for state in states)
        again = run(pipe, latents=states[-1].latents, guidance_scale=1.0, num_inference_steps=20)[-1].latents
        errors.append(float((again - clean).norm() / clean.norm()))
    assert errors[1] < 1e-4 < errors[0]      # a random network is far from smooth, so plain inversion is poor here


def test_an_inverted_picture_is_a_source(pipe):
    states = list(pipelines.invert(pipe, torch.rand(1, 3, 32, 32), PROMPT, num_inference_steps=6))
    source = sources.Source.from_states(pipe, states, PROMPT)
    assert torch.equal(source.start, states[-1].latents)
    objective = rg.AppearanceObjective(head=make_head(pipe, 0), source=source)
    assert run(pipe, [objective], latents=source.start)[0].losses[0] < 1e-5          # it begins as the source itself
    with pytest.raises(ValueError, match="same num_inference_steps"):
        run(pipe, [objective], num_inference_steps=7)


# ---- bad input: a clear error at the call --------------------------------------------------------------------------

def test_unknown_head_folder_names_the_heads_beside_it(pipe, tmp_path):
    make_head(pipe).save_pretrained(tmp_path / "pose")
    with pytest.raises(ValueError, match="heads in .*: pose"):
        saving.ReadoutHead.from_pretrained(tmp_path / "poes")


def test_damaged_heads(pipe, tmp_path):
    head = make_head(pipe)
    head.save_pretrained(tmp_path)
    weights, config = tmp_path / "head.safetensors", tmp_path / "config.json"
    content = weights.read_bytes()
    weights.write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    weights.write_bytes(content)
    config.write_text(config.read_text().replace('"out_channels": 2', '"out_channels": 3'))
    with pytest.raises(ValueError, match="do not fit their config"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    config.unlink()
    assert saving.ReadoutHead.from_pretrained(tmp_path).config == head.config      # the weights know it
    save_file(head.state_dict(), weights)                                           # as older versions wrote them
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    config.write_text('{"layer_channels": [4], "size": 3}')
    with pytest.raises(ValueError, match="not a HeadConfig"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="not a head"):
        saving.ReadoutHead.from_pretrained(tmp_path)
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="not a head in the reference's layout"):
        reference.load_reference_head(weights)


def test_damaged_or_foreign_checkpoint(pipe, tmp_path):
    path = tmp_path / "c.safetensors"
    train(pipe, make_head(pipe), steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="another config"):
        train(pipe, make_head(pipe, 3), checkpoint=path)
    other = tiny_pipe()
    torch.nn.init.normal_(other.unet.conv_in.weight)
    for model, settings, said in ((other, {}, "on another model"), (pipe, {"timesteps": (0, 9)}, "at timesteps 0 to 1000, not 0 to 9")):
        with pytest.raises(ValueError, match=f"belongs to a training {said}.* pass another file, or delete it"):
            saving.train_head(make_head(model), model, batches, 6, checkpoint=path, **settings)
    tensors, told = read_tensors(path)
    write_tensors(path, tensors, {name: told[name] for name in ("step", "config")})      # as they were before they said more
    assert len(list(saving.train_head(make_head(other), other, batches, 6, checkpoint=path))) == 5
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        train(pipe, make_head(pipe), checkpoint=path)


def test_head_of_another_model(pipe):
    head = saving.ReadoutHead(rg.HeadConfig((8, 8), 16, 32, 2, num_groups=4))
    objective = rg.SpatialObjective(head=head, target=torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="load a head trained on this model"):
        pipelines.guided_sample(pipe, PROMPT, [objective])
    with pytest.raises(ValueError, match="load a head trained on this model"):
        saving.train_head(head, pipe, batches, 1)


def test_a_head_of_a_model_whose_layers_have_the_same_sizes_by_chance(pipe, tmp_path):
    """SD 1.5 and 2.1 are so: what a head of the one reads in the other means nothing."""
    make_head(tiny_pipe(unet=dict(cross_attention_dim=64))).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="prompts' embeddings are 64 wide, and those of this one are 32.* load a head trained on this model"):
        pipelines.load_head(tmp_path / "head", pipe)
    plain = rg.HeadConfig(denoiser(pipe).channels, denoiser(pipe).embedding_channels, 32, num_groups=4)
    saving.ReadoutHead(plain).check(pipe)                       # of a head that does not say it nothing is known


@pytest.mark.parametrize("settings, message", [
    ({"target": torch.zeros(1, 3, 8, 8)}, "this head reads"),
    ({"target": torch.zeros(8, 8)}, "target is .*pass a tensor"),
    ({"target": torch.full((1, 2, 8, 8), float("nan"))}, "NaN"),
    ({"mask": torch.full((1, 1, 8, 8), 2.0)}, r"in \[0, 1\]"),
    ({"weight": -1.0}, "weight"), ({"weight": float("nan")}, "weight"),
    ({"start": 0.5, "stop": 0.5}, "start"), ({"stop": 1.5}, "stop"),
])
def test_bad_spatial_objectives(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        spatial(pipe, **settings)


def test_bad_head_of_an_objective():
    with pytest.raises(ValueError, match="pass a ReadoutHead"):
        rg.SpatialObjective(head="data/heads/pose", target=torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("points, message", [
    ([[40, 3]], "outside the picture"), ([[3, -1]], "outside the picture"), ([[1, 2, 3]], "points"), ([], "points"),
    ([[1, float("nan")]], "finite"), ([[1, 2], [3, 4]], "2 source points")])
def test_bad_points(pipe, points, message):
    with pytest.raises(ValueError, match=message):
        objective = rg.CorrespondenceObjective(head=make_head(pipe, 0), source=source_of(pipe), source_points=points,
                                               target_points=[[1, 1]])
        pipelines.guided_sample(pipe, PROMPT, [objective])


@pytest.mark.parametrize("settings, message", [
    ({"boxes": ((0, 0, 8, 8), (0, 0, 33, 8))}, "outside the picture"), ({"boxes": ((8, 0, 8, 8),) * 2}, "x0 < x1"),
    ({"boxes": ((0, 0, 8, 8),)}, "boxes"), ({"mask": torch.ones(3, 1, 8, 8)}, "mask has 3 rows for 1"),
    ({"source": None}, "source is None")])
def test_bad_appearance_objectives(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        objective = rg.AppearanceObjective(**{"head": make_head(pipe, 0), "source": source_of(pipe), **settings})
        pipelines.guided_sample(pipe, PROMPT, [objective])


@pytest.mark.parametrize("settings, message", [
    ({"prompt": []}, "non-empty list"), ({"prompt": None}, "prompt is None"), ({"prompt": [3]}, "strings"),
    ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1"),
    ({"num_inference_steps": -3}, "num_inference_steps is -3"), ({"num_inference_steps": 0}, "greater than or equal to 1"),
    ({"num_inference_steps": 2000}, "from 1 to 1000"), ({"num_inference_steps": 2.5}, "whole number"),
    ({"guidance_scale": float("nan")}, "guidance_scale"), ({"eta": 2.0}, "eta"),
    ({"latents": torch.zeros(1, 3, 16, 16)}, "latents are"),
    ({"latents": torch.full((1, 4, 16, 16), float("inf"))}, "initial latents"),
    ({"latents": torch.zeros(3, 4, 16, 16), "prompt": ["a", "a"]}, "latents has 3 rows for 2"),
    ({"variance_noise": torch.zeros(2, 1, 4, 16, 16)}, "2 steps of noise"),
    ({"step_rule": "newton"}, "step_rule"), ({"gradient_branch": "none"}, "gradient_branch"),
    ({"inner_steps": 0}, "inner_steps"), ({"step_size": -1.0}, "step_size"), ({"keep": 1}, "keep needs a mask"),
])
def test_bad_sampling_arguments_fail_at_the_call(pipe, settings, message):
    settings = {"prompt": PROMPT, **settings}
    with pytest.raises(ValueError, match=message):
        pipelines.guided_sample(pipe, settings.pop("prompt"), **settings)


def test_a_map_of_another_shape_than_the_picture_is_not_stretched(pipe):
    run = lambda objective=None, **settings: pipelines.guided_sample(pipe, PROMPT, [objective or spatial(pipe)], num_inference_steps=2, **settings)
    square, wide, mask = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 16), torch.ones(1, 1, 8, 8)
    for call, said in ((lambda: run(spatial(pipe, target=square), width=64), "target has 8 x 8 cells .*on a picture of 32 x 64 pixels"),
                       (lambda: run(spatial(pipe, target=wide)), "target has 8 x 16 cells .*on a picture of 32 x 32"),
                       (lambda: run(spatial(pipe, target=wide, mask=mask), width=64), "mask has 8 x 8 cells"),
                       (lambda: run(spatial(pipe, target=wide), width=64, mask=mask), "mask has 8 x 8 cells")):
        with pytest.raises(ValueError, match=f"{said}.*cutting or padding"):
            call()
    for good in (wide, wide[..., :1, :1], torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 15, 31)):      # also one value for all, one for a column, rounded
        run(spatial(pipe, target=good), width=64)
    run(spatial(pipe, target=square, distance=lambda readout, target: readout - target.mean()), width=64)    # it knows what it does


def test_a_label_of_another_shape_than_the_picture_is_not_stretched(pipe):
    with pytest.raises(ValueError, match="the batch of step 0: label 0 has 8 x 32 cells, .*readout of 16 x 16 .* cut it as its picture was cut"):
        next(saving.train_head(make_head(pipe), pipe, lambda step: (torch.rand(1, 3, 32, 32), torch.zeros(1, 2, 8, 32)), 1))
    with pytest.raises(ValueError, match="target has 8 x 32 cells"):
        rg.spatial_loss(torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 8, 32))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_weight_of_a_loss_is_no_reward(value):
    with pytest.raises(ValueError, match="weight holds NaN, infinity or numbers below 0"):
        rg.spatial_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), weight=torch.full((1, 1, 4, 4), value))


def test_target_for_another_batch(pipe):
    with pytest.raises(ValueError, match="target has 3 rows for 2 pictures"):
        pipelines.guided_sample(pipe, [PROMPT] * 2, [spatial(pipe, target=torch.zeros(3, 2, 8, 8))])


@pytest.mark.parametrize("steps", [0, -3, 2.5])
def test_bad_training_steps(pipe, steps):
    with pytest.raises(ValueError, match="steps is"):
        saving.train_head(make_head(pipe), pipe, batches, steps)


def test_bad_inversion_arguments(pipe):
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipelines.invert(pipe, torch.zeros(1, 3, 32, 32), num_inference_steps=-1)
    with pytest.raises(ValueError, match="pictures are .*latents=\\.\\.\\."):
        pipelines.invert(pipe, torch.zeros(1, 4, 16, 16))


def test_a_pipeline_without_a_unet(pipe):
    other = SimpleNamespace(scheduler=pipe.scheduler, transformer=torch.nn.Linear(1, 1))
    for call in (lambda: pipelines.guided_sample(other, PROMPT), lambda: saving.train_head(make_head(pipe), other, batches, 1),
                 lambda: pipelines.invert(other, torch.zeros(1, 3, 32, 32)), lambda: pipelines.prepare_pipeline(other)):
        with pytest.raises(ValueError, match="is not supported"):
            call()


# ---- loading -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["pipe", "xl_pipe"])
def test_load_pipeline(kind, request, tmp_path):
    pipe = request.getfixturevalue(kind)
    pipe.save_pretrained(tmp_path)
    loaded = pipelines.load_pipeline(tmp_path, device="cpu")
    assert not any(parameter.requires_grad for parameter in loaded.unet.parameters()) and not loaded.unet.training
    torch.testing.assert_close(run(loaded)[-1].latents, run(pipe)[-1].latents, atol=1e-4, rtol=1e-4)
    embeds = pipelines.encode_prompts(loaded, PROMPT)
    assert torch.equal(run(loaded, prompt=embeds)[-1].latents, run(loaded)[-1].latents)


def test_load_pipeline_says_what_is_wrong(pipe, tmp_path):
    with pytest.raises(ValueError, match="could not load a diffusion pipeline from .*nowhere"):
        pipelines.load_pipeline("nowhere/at/all")
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="could not load"):
        pipelines.load_pipeline(tmp_path)


def test_a_folder_may_recommend_a_number_of_steps():
    pipe = pipelines.load_pipeline()
    assert len(list(pipelines.guided_sample(pipe, PROMPT, generator=seed()))) == pipe.default_num_inference_steps == 25
    noise = torch.randn(1, 4, 32, 32, generator=seed())
    assert len(list(pipelines.invert(pipe, latents=noise, prompt=PROMPT))) == 25


def test_a_folder_may_recommend_a_guidance_scale():
    pipe = pipelines.load_pipeline()
    assert pipe.default_guidance_scale == 3.0
    last = lambda **settings: list(pipelines.guided_sample(pipe, PROMPT, num_inference_steps=2, generator=seed(), **settings))[-1].latents
    assert torch.equal(last(), last(guidance_scale=3.0)) and not torch.equal(last(), last(guidance_scale=7.5))


@pytest.mark.parametrize("text, message", [
    ("{", "recipe.json"), ("[]", "recipe.json"), ('{"guidance_scale": NaN}', "recipe.json"), ('{"guidance_scale": "3"}', "guidance_scale"),
    ('{"guidance_scale": -1}', "guidance_scale")])
def test_a_recipe_that_is_none_is_named(pipe, tmp_path, text, message):
    pipe.save_pretrained(tmp_path)
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        pipelines.load_pipeline(tmp_path, device="cpu")
