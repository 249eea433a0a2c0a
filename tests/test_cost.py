"""What a guided step costs: each saving leaves the gradient as it is, and what is predicted is what is counted when it runs."""
import json
from dataclasses import fields, replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import tiny
from rg_minimal import cost, guided_sample
from rg_minimal.cost import Clock, Savings, Size, Tally, guided_step, predict_needs, reference_step, set_up, tallied, unguided_step
from rg_minimal.denoisers import denoiser
from rg_minimal.readout import Guidance, SpatialObjective, take_readings

# As in Stable Diffusion 1 and 2, attention is what comes last.
CROSSED = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
PIPES = {"sd": tiny.tiny_pipe, "xl": tiny.tiny_xl_pipe, "sd3": tiny.tiny_sd3_pipe, "flux": tiny.tiny_flux_pipe, "sd15": lambda: tiny.tiny_pipe(unet=CROSSED), "deep": lambda: tiny.tiny_pipe(unet=tiny.DEEP)}
HEAD = {"width": 32, "num_groups": 4, "hidden_channels": (8, 8)}
STATED = 1e-3                           # what a prediction may be off from what is counted, as a share


def setup_of(kind, **savings):
    pipe = PIPES[kind]()
    model = denoiser(pipe)
    tokens = 9
    return set_up(replace(Size.of(pipe), tokens=tokens), savings=Savings(**savings), network=model.network, head_settings=HEAD)


def gradient_of(kind, **savings):
    return guided_step(setup_of(kind, **savings), Clock())


every_pipe = pytest.mark.parametrize("kind", PIPES)


@every_pipe
def test_the_step_is_the_one_that_guidance_takes(kind):
    setup = setup_of(kind)
    guide = Guidance([SpatialObjective(head=setup.head, target=setup.target, stop=1.0)])
    with setup.model.frozen():
        gradient, losses, _ = guide.gradient(lambda latents: take_readings(setup.model, latents, cost.TIMESTEP, setup.told), setup.latents, [1.0])
    assert torch.equal(gradient, guided_step(setup, Clock())) and gradient.abs().max() > 0


@every_pipe
@pytest.mark.parametrize("savings", [{"stop_early": True}, {"checkpointing": True}, {"one_branch_at_a_time": True}, {"small_head": True},
                                     {"stop_early": True, "checkpointing": True, "one_branch_at_a_time": True}, {"sliced_attention": True}],
                         ids=lambda savings: "+".join(savings))
def test_a_saving_leaves_the_gradient(kind, savings):
    if kind in ("sd3", "flux") and "sliced_attention" in savings:
        with pytest.raises(ValueError, match="sliced_attention is True, but .*Transformer2DModel has no slices"):
            setup_of(kind, **savings)
        return
    plain = gradient_of(kind)
    torch.testing.assert_close(gradient_of(kind, **savings), plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    if savings == {"stop_early": True}:
        assert torch.equal(gradient_of(kind, **savings), plain)


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_savings_that_are_taken_back_leave_nothing(kind):
    pipe = PIPES[kind]()
    network, size = denoiser(pipe).network, replace(Size.of(pipe), tokens=9)

    def kept(**savings):
        return tallied(guided_step, set_up(size, savings=Savings(**savings), network=network, head_settings=HEAD)).kept
    plain = kept()
    for name in ("stop_early", "checkpointing", "sliced_attention"):
        assert kept(**{name: True}) != plain and kept() == plain, name


@every_pipe
def test_a_prediction_branch_by_branch_is_the_same(kind):
    setup, passes = setup_of(kind, one_branch_at_a_time=True), []
    setup.model.network.register_forward_hook(lambda *_: passes.append(1))
    unguided_step(setup, Clock())
    assert len(passes) == (1 if kind == "flux" else 2)          # the guidance scale of FLUX is an input
    torch.testing.assert_close(unguided_step(setup_of(kind, one_branch_at_a_time=True), Clock()), unguided_step(setup_of(kind), Clock()),
                               rtol=1e-3, atol=1e-4)


@every_pipe
@pytest.mark.parametrize("step", ["unguided", "plain", "lean", "least", "reference"])
def test_what_is_predicted_is_what_is_counted(kind, step):
    pipe = PIPES[kind]()
    size, (run, savings) = replace(Size.of(pipe), tokens=9), cost.step_of(step)
    counted = tallied(run, set_up(size, savings=savings, network=denoiser(pipe).network, head_settings=HEAD))
    foreseen = predict_needs(size, step, dtype="float32", head_settings=HEAD)
    setup = set_up(size, savings=savings, network=denoiser(pipe).network, head_settings=HEAD)
    assert foreseen.weights == counted.weights == sum(weight.nbytes for weight in setup.weights) < counted.peak and list(foreseen.parts) == list(counted.parts)
    assert foreseen.peak == pytest.approx(counted.peak, rel=STATED) and foreseen.kept == pytest.approx(counted.kept, rel=STATED)


@every_pipe
def test_what_is_kept_is_what_autograd_saves(kind):
    """By torch's own hooks, storages counted once; beside it the readings and the loss themselves are kept."""
    setup, saved = setup_of(kind), {}

    def pack(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor
    weights = {each.untyped_storage()._cdata for each in setup.weights}
    with saved_tensors_hooks(pack, lambda tensor: tensor), setup.model.frozen():
        readings = take_readings(setup.model, setup.latents.requires_grad_(), cost.TIMESTEP, setup.told)
        setup.loss(readings[0](setup.head)).sum()
    setup.latents.requires_grad_(False)
    by_hooks = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)
    assert 0.8 * by_hooks < tallied(guided_step, setup).kept < 1.25 * by_hooks


def test_savings_are_smaller_where_they_ought_to_be():
    needs = {step: predict_needs("data/puppet-diffusion", step) for step in ("unguided", "plain", "lean", "least", "sliced", "reference")}
    peaks = [needs[step].peak for step in ("unguided", "least", "lean", "plain", "sliced", "reference")]
    assert peaks == sorted(peaks) and needs["unguided"].kept == 0
    late = predict_needs("data/puppet-diffusion", savings=Savings(resize_late=True), head_settings={"resize_late": False})
    assert late.kept < needs["plain"].kept


@every_pipe
def test_the_reference_step_has_the_gradient_of_both_branches(kind):
    """In float64: in float32 a unit of a head may lie so near its kink that two orders of the same sum fall on both sides of it."""
    setup = setup_of(kind)
    setup.model.network.double(), setup.head.double()
    told = replace(setup.told, **{each.name: in_double(getattr(setup.told, each.name)) for each in fields(setup.told)})
    setup = replace(setup, latents=setup.latents.double(), target=setup.target.double(), told=told)
    ours = guided_step(setup, Clock(), ("negative", "conditional"))
    torch.testing.assert_close(reference_step(setup, Clock()), ours, rtol=1e-9, atol=1e-11 * ours.abs().max().item())


def in_double(value):
    """Tensors of floats, also those of a dictionary, in float64."""
    if isinstance(value, dict):
        return {name: in_double(each) for name, each in value.items()}
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


def test_a_tally_counts_shared_memory_once_and_forgets_what_is_gone():
    with Tally() as tally:
        with tally.part("first"):
            made = torch.zeros(100)
            same = made.view(10, 10)
            assert tally.live == 400
            more = made + 1
            del more
        assert tally.live == 400 and tally.parts["first"].peak == 800 and tally.parts["first"].kept == 400
        del made
        assert tally.live == 400
        del same
        assert tally.live == 0 and max(tally.course) == 800


# ---- the settings in a pipeline ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_a_guided_run_with_all_savings_ends_where_it_does_without(kind):
    def run(**settings):
        pipe = PIPES[kind]()
        for name, value in settings.items():
            setattr(pipe, name, value)
        if settings:
            denoiser(pipe).network.enable_gradient_checkpointing()
        return list(guided_sample(pipe, "a puppet", [tiny.spatial(pipe)], num_inference_steps=3, generator=tiny.seed()))[-1].latents
    torch.testing.assert_close(run(stop_early=True, one_branch_at_a_time=True), run(), rtol=1e-3, atol=1e-3)


@every_pipe
def test_a_pass_that_stops_early_predicts_nan_and_leaves_no_hook(kind):
    setup = setup_of(kind, stop_early=True)
    reading, = take_readings(setup.model, setup.latents.requires_grad_(), cost.TIMESTEP, setup.told)
    assert reading.output.isnan().all() and reading.output.shape == setup.latents.shape
    assert not setup.model.behind._forward_pre_hooks
    with torch.no_grad():
        assert take_readings(setup.model, setup.latents, cost.TIMESTEP, setup.told)[0].output.isfinite().all()


def test_a_step_that_is_added_to_the_prediction_cannot_stop_early():
    pipe = tiny.tiny_pipe()
    pipe.stop_early = True
    with pytest.raises(ValueError, match="moves is 'prediction', .* stop_early is True .* set pipe.stop_early = False"):
        list(guided_sample(pipe, "a puppet", [tiny.spatial(pipe)], num_inference_steps=2, moves="prediction"))


def test_a_process_that_holds_freed_memory_measures_time_alone(monkeypatch):
    """As in the middle of a test suite: nothing comes on top of what is there."""
    monkeypatch.setattr(cost, "resident", lambda what: 5 * cost.GB)
    pipe = tiny.tiny_pipe()
    found = cost.measured(replace(Size.of(pipe), tokens=9), ["unguided", "plain"], dtype="float32", report=lambda line: None)
    assert found["of_unguided"]["plain"]["memory"] is None and found["prediction_below_resident"] is None
    assert found["of_unguided"]["plain"]["time"] > 0 and found["steps"]["plain"]["tallied_gb"] > 0


# ---- sizes and the command ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, millions", [("sd15", 859.5), ("sd21", 865.9), ("sdxl", 2567.5), ("sd3-medium", 2085.0), ("flux-dev", 11901.4)])
def test_the_sizes_are_the_true_ones(name, millions):
    """Numbers of weights as the models' own cards and files have them."""
    size = cost.size_of(name)
    assert cost.parameters(lambda: size.network.from_config(size.config)) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("text, millions", [("CLIP L", 123.1), ("CLIP H", 340.4), ("CLIP G", 694.7), ("T5 XXL", 4762.3)])
def test_the_text_encoders_are_the_true_ones(text, millions):
    assert cost.parameters(lambda: cost.TEXTS[text][0](cost.TEXTS[text][1])) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_command_predicts_measures_and_keeps_what_is_there(tmp_path, capsys):
    out, folder = tmp_path / "sizes.json", tmp_path / "mine"
    for part in ("unet", "vae"):
        getattr(tiny.tiny_pipe(), part).save_config(folder / part)
    cost.main([str(folder), "--out", str(out), "--size", "16"])
    mine = json.loads(out.read_text())["mine 16"]
    cost.main(["data/puppet-diffusion", "--out", str(out), "--size", "64", "--dtype", "float32", "--memory", "0.1", "6",
               "--run", "unguided", "plain", "reference"])
    assert set(json.loads(out.read_text())) == {"mine 16", "puppet-diffusion 64 float32"}
    found = json.loads(out.read_text())["puppet-diffusion 64 float32"]
    assert found["pixels"] == 64 and found["fits"] == {"0.1": "no", "6": "plain"}
    steps = found["measured"]["steps"]
    assert steps["plain"]["tallied_gb"] == found["predicted_gb"]["plain"]
    assert 0 < found["measured"]["of_reference"]["plain"]["time"] < 1 < found["measured"]["of_unguided"]["plain"]["time"]
    assert json.loads(out.read_text())["mine 16"] == mine and mine["pixels"] == 16 and "written to" in capsys.readouterr().out


def test_another_number_format_or_card_takes_nothing_from_what_is_known(tmp_path, monkeypatch):
    """Else `cost sd15 --dtype float32` puts its figures beside what was measured in half precision, `--memory 12` in the place of four cards."""
    out, known = tmp_path / "sizes.json", {"dtype": "bfloat16", "fits": {"6": "no", "8": "least"}, "measured": 3}
    out.write_text(json.dumps({"sd15": known, "here": {}}))
    monkeypatch.setattr(cost, "predicted", lambda name, pixels, dtype, memory: {"dtype": dtype, "fits": {f"{each:g}": "plain" for each in memory}})
    cost.main(["sd15", "--out", str(out), "--dtype", "float32"])
    written = json.loads(out.read_text())
    assert written["sd15"] == known and written["sd15 float32"] == {"dtype": "float32", "fits": dict.fromkeys(("6", "8", "16", "24"), "plain")}
    cost.main(["sd15", "--out", str(out), "--memory", "12"])
    assert json.loads(out.read_text())["sd15"] == {"dtype": "bfloat16", "fits": dict.fromkeys(("6", "8", "12"), "plain"), "measured": 3}


def test_two_commands_on_one_file_keep_what_both_found(tmp_path, monkeypatch):
    out, found = tmp_path / "sizes.json", {"pixels": 64}
    out.write_text('{"sd15": {"measured": 3}}')

    def slow(*asked):
        out.write_text('{"sd15": {"measured": 3, "pixels": 1}, "sdxl": {"pixels": 1024}}')     # the other one ends meanwhile
        return found
    monkeypatch.setattr(cost, "predicted", slow)
    cost.main(["sd15", "--out", str(out)])
    assert json.loads(out.read_text()) == {"sd15": {"measured": 3, "pixels": 64}, "sdxl": {"pixels": 1024}}
    assert [each.name for each in tmp_path.iterdir()] == ["sizes.json"]


@pytest.mark.parametrize("arguments, said", [
    (["sd16"], "size is 'sd16'; choose one of sd15, sd21, sdxl, sd3-medium, flux-dev, or a folder"), ([""], "size is ''"),
    (["data/judge"], "size is 'data/judge'"), (["sd15", "--size", "500"], "height is 500; pass a multiple of 8 pixels"),
    (["sd3-medium", "--size", "1000"], "height is 1000; pass a multiple of 16 pixels"), (["sd15", "--size", "0"], "--size"),
    (["sd15", "--size", "half"], "--size"), (["sd15", "--memory", "-6"], "it is '-6'; pass gigabytes, a number above 0"),
    (["sd15", "--memory", "six"], "pass gigabytes"), (["sd15", "--memory", "nan"], "pass gigabytes"),
    (["sd15", "--dtype", "int8"], "dtype is 'int8'"), (["sd15", "--run", "guided"], "step is 'guided'; choose one of unguided, reference, plain"),
    (["sd15", "--repeats", "0"], "--repeats"), (["sd15", "--out", "README.md/sizes.json"], "README.md")])
def test_what_the_command_cannot_do_is_refused_in_a_sentence(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        cost.main(arguments)
    assert stopped.value.code == 2 and said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("call, said", [
    (lambda: predict_needs(3), "size is 3"), (lambda: predict_needs(None), "size is None"), (lambda: predict_needs("sd15", "fast"), "step is 'fast'"),
    (lambda: predict_needs("sd15", width=20), "width is 20; pass a multiple of 8"), (lambda: predict_needs("sd15", height=-8), "height is -8"),
    (lambda: predict_needs("sd15", dtype="half"), "dtype is 'half'"), (lambda: Savings(checkpointing=1), "checkpointing is 1"),
    (lambda: set_up(Size.of(tiny.tiny_lcm_pipe()), savings="lean"), "savings is 'lean'"), (lambda: Size.of("sd15"), "str is not supported"),
    (lambda: set_up(Size.of(tiny.tiny_pix2pix_pipe()), network=tiny.tiny_pix2pix_pipe().unet), "UNet2DConditionModel with image_latents .* cost is known here")])
def test_what_cannot_be_predicted_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_savings_are_set_whole_or_not_at_all():
    pipe, sd3 = tiny.tiny_pipe(), tiny.tiny_sd3_pipe()
    pipe.unet.to(torch.bfloat16)
    head = tiny.make_head(pipe)
    Savings(small_head=True).apply(pipe, head)
    assert head.mixing_weights.dtype == torch.bfloat16
    Savings().apply(pipe, head)
    assert head.mixing_weights.dtype == torch.float32
    with pytest.raises(ValueError, match="sliced_attention is True, but SD3Transformer2DModel has no slices"):
        Savings(stop_early=True, checkpointing=True, sliced_attention=True).apply(sd3, tiny.make_head(sd3))
    assert not getattr(sd3, "stop_early", False) and not sd3.transformer.is_gradient_checkpointing
    with pytest.raises(ValueError, match="resize_late is True, but this head was trained without it"):
        Savings(resize_late=True).apply(pipe, head)
    Savings(resize_late=True).apply(pipe, tiny.make_head(pipe, resize_late=True))
