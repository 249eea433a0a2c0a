"""What is right in itself: formulas written out a second time, and answers known beforehand. `tests/faults.py` plants faults.

Nothing here is a recorded number. Core first, in the order of the modules, then the puppets.
"""
import inspect
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import tiny
from rg_minimal import maps, pipelines, readout as rg, saving
from rg_minimal.denoisers import UNet, clean_and_noise, denoiser, noise_levels, seen_by
from rg_minimal.files import write_json, write_tensors
from rg_minimal.puppets import (basemodel as B, cases, editing, heads as H, judge as J, measure as M, training, transformer as T,
                                world)
from rg_minimal.sources import Source
from tiny import make_head, seed

PROMPT = "a puppet is waving"
SHIPPED = pipelines.find_folder("data/puppet-diffusion")


@pytest.fixture(scope="module")
def pipe():
    return tiny.tiny_pipe()


@pytest.fixture(scope="module")
def heads(pipe):
    return {name: H.new_head(pipe, name) for name in H.TASKS}


class Read:
    """A reading whose readout is known."""
    timestep, branch, latents = 500, "conditional", None

    def __init__(self, readout, image_size=(16, 32)):
        self.readout, self.model = readout, SimpleNamespace(image_size=lambda latents: image_size)

    def __call__(self, head, use_timestep=True):
        return self.readout


class Pull(rg.Objective):
    """Its gradient is the same everywhere: `direction` (1, C, h, w)."""

    def __call__(self, reading):
        return (reading.latents * self.direction).sum((1, 2, 3))


def pull(pipe, number=0, **settings):
    objective = Pull(head=make_head(pipe), **{"stop": 1.0, **settings})
    objective.direction = torch.randn(1, 4, 16, 16, generator=seed(100 + number))
    return objective


def draws(*shape, number=0):
    return torch.randn(*shape, generator=seed(number))


# ---- maps --------------------------------------------------------------------------------------------------------------

def test_a_masked_mean_is_over_what_the_mask_shows():
    error = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])
    assert maps.masked_mean(error, mask).tolist() == pytest.approx([2.5 / 1.5, 8.5 / 1.5])
    assert maps.masked_mean(error).tolist() == [2.5, 6.5]


def test_a_box_is_cut_out_with_x_along_the_columns():
    features = torch.arange(4 * 8).view(1, 1, 4, 8)                    # of a picture of 32 rows and 128 columns
    assert torch.equal(maps.crop(features, (32, 8, 80, 24), (32, 128)), features[:, :, 1:3, 2:5])
    assert torch.equal(maps.crop(features, (33, 9, 34, 10), (32, 128)), features[:, :, 1:2, 2:3])


def test_a_point_lies_between_the_centres_of_its_cells():
    weights = maps.bilinear(torch.tensor([[14.0, 9.0]]), (4, 8), (32, 128)).view(4, 8)     # cells of 16 x 8 pixels
    expected = torch.zeros(4, 8)
    expected[0, 0], expected[0, 1], expected[1, 0], expected[1, 1] = 0.625 * 0.375, 0.375 * 0.375, 0.625 * 0.625, 0.375 * 0.625
    torch.testing.assert_close(weights, expected)


# ---- features and heads ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("late", [False, True])
def test_a_head_is_the_softmax_sum_of_its_layers_and_hears_the_timestep(pipe, late):
    head = make_head(pipe, 0, resize_late=late)
    with torch.no_grad():
        head.mixing_weights.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        features, emb = [draws(1, c, s, s, number=s) for c, s in zip(head.config.layer_channels, (2, 4, 4, 8))], draws(1, 64)
        share = [math.e ** i / sum(math.e ** j for j in range(4)) for i in range(4)]
        found, expected = head(features, emb, (8, 8)), 0
        for weight, layer, feature in zip(share, head.bottleneck_layers, features):
            larger = lambda x: x if x.shape[-1] == 8 else F.interpolate(x, (8, 8), mode="bilinear")
            feature = feature if late else larger(feature)
            hidden = F.relu(layer.conv1(feature)) + F.relu(layer.emb_layers(emb))[:, :, None, None]
            out = F.relu(layer.conv3(F.relu(layer.conv2(hidden))) + layer.shortcut(feature))
            expected = expected + weight * larger(out)
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(head(features, None, (8, 8)), expected, atol=1e-3)


def test_a_reading_tells_a_head_with_the_timestep_from_one_without(pipe):
    reading = pipelines.read_picture(pipe, None, 300, latents=draws(1, 4, 16, 16), generator=seed())
    head = make_head(pipe)
    with torch.no_grad():
        told, silent = reading(head), reading(head, use_timestep=False)
        torch.testing.assert_close(told, head(reading.features, denoiser(pipe).embed(300), (16, 16)))
        torch.testing.assert_close(silent, head(reading.features, None, (16, 16)))
    assert not torch.equal(told, silent)


def test_a_reading_is_of_the_noised_picture_and_of_what_is_said(pipe):
    clean, noise = draws(2, 4, 16, 16), draws(2, 4, 16, 16, number=5)
    reading = pipelines.read_picture(pipe, None, [100, 600], PROMPT, seed(5), latents=clean)
    a, s = levels(torch.tensor([100, 600]))
    torch.testing.assert_close(reading.latents, a.view(2, 1, 1, 1) * clean + s.view(2, 1, 1, 1) * noise)
    with torch.no_grad():
        words = pipelines.encode_prompts(pipe, PROMPT).prompt_embeds.expand(2, -1, -1)
        torch.testing.assert_close(reading.output, pipe.unet(reading.latents, torch.tensor([100, 600]), words).sample)
    assert reading.timestep.tolist() == [100, 600]


# ---- losses ------------------------------------------------------------------------------------------------------------

CHECKER = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])


def test_targets_go_to_the_nearest_cell_and_are_not_blurred(pipe):
    """Of a checkerboard every cell is 0 or 1, so the error of a readout of zeros is a half."""
    assert rg.spatial_loss(torch.zeros(1, 1, 8, 8), CHECKER) == 0.5
    objective = rg.SpatialObjective(head=make_head(pipe), target=CHECKER.expand(1, 2, 2, 2))
    assert objective(Read(torch.zeros(3, 2, 8, 8))).tolist() == [0.5] * 3


def test_a_spatial_loss_gives_lines_and_background_one_half_each():
    target, readout = torch.full((1, 1, 4, 4), -0.5), torch.zeros(1, 1, 4, 4)
    target[..., 0, 0] = 1.5
    assert rg.spatial_loss(readout, target, background=-0.5) == (1.5 ** 2 + 0.25) / 2
    assert rg.spatial_loss(readout, target) == pytest.approx((1.5 ** 2 + 15 * 0.25) / 16)
    assert rg.spatial_loss(readout, target, -0.5, torch.full((1, 1, 4, 4), 2.0)) == 1.5 ** 2 + 0.25


def centres(cells, side=4.0):
    return torch.tensor([[side * column + side / 2, side * row + side / 2] for row, column in cells])


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_a_correspondence_loss_is_the_cross_entropy_both_ways():
    a, b = draws(1, 5, 4, 8), draws(1, 5, 4, 8, number=1)
    here, there = [(0, 3), (2, 6)], [(1, 1), (3, 7)]

    def one_way(first, second, from_, to):
        total = 0.0
        for (row, column), (r, c) in zip(from_, to):
            scores = {(i, j): cosine(first[0, :, row, column], second[0, :, i, j]) / 0.07 for i in range(4) for j in range(8)}
            total += math.log(sum(math.exp(each) for each in scores.values())) - scores[r, c]
        return total / 2
    expected = (one_way(a, b, here, there) + one_way(b, a, there, here)) / 2
    assert rg.correspondence_loss(a, b, centres(here), centres(there), (16, 32)).item() == pytest.approx(expected, rel=1e-4)


def test_a_triplet_costs_its_margin_where_both_are_as_near():
    right, up = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert rg.appearance_loss(right, right, right) == 0.5 and rg.appearance_loss(right, up, up, margin=0.25) == 0.25
    assert rg.appearance_loss(right, right, up) == 0 and rg.appearance_loss(right, up, right) == 1.5


# ---- training ----------------------------------------------------------------------------------------------------------

def test_members_of_a_sample_share_timesteps_of_the_asked_range_and_not_their_noise(pipe, monkeypatch):
    seen, add_noise = [], UNet.add_noise

    def watched(self, clean, noise, times):
        seen.append((times, noise))
        return add_noise(self, clean, noise, times)
    monkeypatch.setattr(UNet, "add_noise", watched)
    batch = ((draws(6, 4, 16, 16), draws(6, 4, 16, 16), draws(6, 4, 16, 16)),)
    list(saving.train_head(make_head(pipe, 0), pipe, [batch] * 6, 6, rg.appearance_loss, timesteps=(700, 704), latents=True))
    members = [seen[i:i + 3] for i in range(0, 18, 3)]
    for (one, first), (two, second), (three, third) in members:
        assert torch.equal(one, two) and torch.equal(one, three), "one sample, several timesteps"
        assert not torch.equal(first, second) and not torch.equal(second, third), "one noise for all members"
    assert set(torch.cat([times for times, _ in seen]).tolist()) == {700, 701, 702, 703}
    assert any(len(set(times.tolist())) > 1 for times, _ in seen), "every picture has its own timestep"


def test_training_moves_nothing_that_has_no_gradient_and_asks_the_rate_of_each_step(pipe):
    head, done = make_head(pipe), []
    before = [weight.clone() for weight in head.parameters()]
    batches = [(draws(1, 4, 16, 16), torch.zeros(1, 2, 16, 16))] * 4
    flat, rate = lambda readout, label: readout.sum() * 0.0, lambda share: done.append(share) or 0.5
    list(saving.train_head(head, pipe, batches, 4, flat, rate, latents=True))
    assert all(torch.equal(old, new) for old, new in zip(before, head.parameters())), "weights decay"
    assert done == [0.0, 0.25, 0.5, 0.75]


def test_each_step_has_the_gradient_of_its_own_batch(pipe):
    head, batches = make_head(pipe), [((draws(1, 4, 16, 16),), torch.tensor([float(label)])) for label in (1, 2, 4)]
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    loss = lambda readout, label: readout.sum() * 0 + (head.mixing_weights * label).sum()
    states = rg.training(head, optimizer, denoiser(pipe), iter(batches), (0, 3), loss, 1.0, seed(), (0, 1000))
    assert [state.head.mixing_weights.tolist() for state in states] == [[0.0] * 4, [-2.0] * 4, [-6.0] * 4]


def test_batches_that_are_resumed_are_those_that_were_missing():
    assert next(saving.batches_from(lambda step: step, 3)) == 3 and next(saving.batches_from(range(10), 3)) == 3


# ---- objectives --------------------------------------------------------------------------------------------------------

def test_an_objective_is_active_in_its_interval_and_its_schedule_knows_the_steps_done(pipe):
    make = lambda **settings: [pull(pipe, **settings).strength(step, 10) for step in range(10)]
    assert make(start=0.2, stop=0.6, weight=3.0) == [0, 0, 3, 3, 3, 3, 0, 0, 0, 0]
    assert make(start=0.3, stop=1.0, schedule=lambda done: done) == pytest.approx([0, 0, 0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert make(weight=0.0) == [0] * 10


def test_a_spatial_objective_counts_what_its_mask_shows(pipe):
    readout, mask = torch.zeros(2, 2, 4, 4), torch.zeros(1, 1, 4, 4)
    readout[..., :2], readout[1, :, :, 2:], mask[..., 2:] = 7.0, 3.0, 1
    make = lambda **settings: rg.SpatialObjective(head=make_head(pipe), target=torch.zeros(1, 2, 4, 4), **settings)
    assert make(mask=mask)(Read(readout)).tolist() == [0, 9] and make()(Read(readout)).tolist() == [24.5, 29]
    assert make(mask=mask, distance=lambda found, target: (found - target).abs())(Read(readout)).tolist() == [0, 3]


def appearance(pipe, source, **settings):
    return rg.AppearanceObjective(head=make_head(pipe, 0), source=lambda timestep, branch: Read(source), **settings)


def test_an_appearance_objective_counts_what_its_mask_shows(pipe):
    source, features, mask = draws(1, 3, 4, 8).abs(), draws(2, 3, 4, 8, number=1).abs(), torch.zeros(1, 1, 4, 8)
    features[..., 4:], mask[..., 4:] = source[..., 4:], 1
    features[1, :, 0, 4] = torch.tensor([1.0, 0.0, 0.0])
    differs = (1 - cosine(features[1, :, 0, 4], source[0, :, 0, 4])) / 16
    assert appearance(pipe, source, mask=mask)(Read(features)).tolist() == pytest.approx([0, differs], abs=1e-6)
    assert appearance(pipe, source)(Read(features)).min() > 0.01
    assert appearance(pipe, source, mask=mask, pool=True)(Read(features[:1])).item() == pytest.approx(0, abs=1e-6)
    assert appearance(pipe, source, pool=True)(Read(features[:1])).item() > 1e-3


def test_boxes_say_which_part_of_the_source_and_which_of_the_picture(pipe):
    source, features = draws(1, 3, 4, 8), draws(1, 3, 4, 8, number=1)
    features[..., 1:3, 4:8] = source[..., 0:2, 0:4]
    boxes = ((0, 0, 16, 8), (16, 4, 32, 12))                               # cells of 4 pixels
    assert appearance(pipe, source, boxes=boxes)(Read(features)).item() == pytest.approx(0, abs=1e-5)
    assert appearance(pipe, source, boxes=boxes[::-1])(Read(features)).item() > 0.1


def test_a_source_of_another_size_is_cut_and_masked_in_its_own_pixels(pipe):
    """Looks are compared pooled, so the source may be larger: its box is in its own pixels."""
    source, features = draws(1, 3, 8, 16).abs(), draws(1, 3, 4, 8, number=1).abs()
    features[..., :, 4:] = source[..., 4:8, 8:12]
    boxes = ((32, 16, 48, 32), (16, 0, 32, 16))
    reading, mask = Read(features), torch.zeros(1, 1, 4, 8)
    reading.model.image_size = lambda each: (4 * each.shape[-2], 4 * each.shape[-1])
    assert appearance(pipe, source, boxes=boxes, pool=True)(reading).item() == pytest.approx(0, abs=1e-5)
    mask[..., 4:] = 1
    assert appearance(pipe, source, mask=mask, pool=True)(reading).shape == (1,)


def test_a_box_in_the_source_lies_in_the_source(pipe):
    larger = SimpleNamespace(image_size=(64, 64), count=1)
    source = type("Larger", (), {"__call__": lambda self, *given: None, **vars(larger)})()
    check = lambda first, second: rg.AppearanceObjective(head=make_head(pipe, 0), source=source, boxes=(first, second), pool=True).check(pipe, 1, (32, 32))
    check((32, 32, 64, 64), (0, 0, 16, 16))
    with pytest.raises(ValueError, match="outside the picture of 64 x 64 pixels"):
        check((48, 0, 80, 32), (0, 0, 16, 16))
    with pytest.raises(ValueError, match="outside the picture of 32 x 32 pixels"):
        check((0, 0, 16, 16), (32, 32, 64, 64))


@pytest.mark.parametrize("ghosts", [1.0, torch.tensor([0.25, 0.0])])
def test_a_drag_is_less_likeness_here_and_more_there(pipe, ghosts):
    source, features = draws(1, 3, 4, 8), draws(2, 3, 4, 8, number=1)
    here, there = [(0, 3), (2, 6)], [(1, 1), (3, 7)]
    objective = rg.CorrespondenceObjective(head=make_head(pipe, 0), source=lambda timestep, branch: Read(source),
                                           source_points=centres(here), target_points=centres(there), anti_ghosting=ghosts)
    likeness = lambda i, start, end: (cosine(source[0, :, start[0], start[1]], features[i, :, end[0], end[1]]) + 1) / 2
    shares = torch.as_tensor(ghosts).expand(2).tolist()
    expected = [sum(share * likeness(i, a, a) - likeness(i, a, b) for share, a, b in zip(shares, here, there)) / 2 / 2
                for i in range(2)]
    assert objective(Read(features)).tolist() == pytest.approx(expected, abs=1e-5)


# ---- guidance ----------------------------------------------------------------------------------------------------------

def seen_in(latents, branches=1):
    return [SimpleNamespace(latents=latents, timestep=500, output=latents) for _ in range(branches)]


def test_weights_and_schedules_decide_the_direction(pipe):
    one, two = pull(pipe, 0, weight=3.0), pull(pipe, 1, weight=0.5, schedule=lambda done: 1 - done)
    guide, latents = rg.Guidance([one, two], step_size=1.0, step_rule=lambda gradients, mask: gradients[-1]), draws(2, 4, 16, 16)
    strengths = [objective.strength(5, 10) for objective in guide.objectives]
    gradient, losses, _ = guide.gradient(seen_in, latents, strengths)
    expected = (3 * one.direction + 0.25 * two.direction).expand(2, -1, -1, -1)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(losses[1], (latents * two.direction).sum((1, 2, 3)))
    moved, _ = guide.move(seen_in, latents, strengths)
    torch.testing.assert_close(moved, latents - (3.25 / 3.5) * expected)               # the schedules' mean, by weight
    gradient, losses, _ = guide.gradient(seen_in, latents, [3.0, 0.0])
    torch.testing.assert_close(gradient, 3 * one.direction.expand(2, -1, -1, -1))
    assert losses[1] is None


def test_both_branches_add_up_and_inner_steps_follow_each_other(pipe):
    one, latents = pull(pipe), draws(1, 4, 16, 16)
    guide = rg.Guidance([one], step_size=0.1, inner_steps=3, step_rule=lambda gradients, mask: gradients[-1])
    moved, losses = guide.move(lambda latents: seen_in(latents, 2), latents, [1.0])
    torch.testing.assert_close(moved, latents - 3 * 0.1 * 2 * one.direction)
    torch.testing.assert_close(losses[0], 2 * ((latents - 2 * 0.2 * one.direction) * one.direction).sum((1, 2, 3)))


def test_the_step_is_as_long_for_each_element_in_whatever_part_may_move(pipe):
    mask, one, latents = torch.zeros(1, 1, 16, 16), pull(pipe), draws(2, 4, 16, 16)
    mask[..., :4] = 1
    moved, _ = rg.Guidance([one], step_size=0.3, mask=mask).move(seen_in, latents, [1.0])
    step = (moved - latents)
    assert not step[..., 4:].any()
    torch.testing.assert_close(step[..., :4].square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.3))
    assert cosine(step[0, ..., :4].flatten(), one.direction[0, ..., :4].flatten()) == pytest.approx(-1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_moved_prediction_leads_away_from_the_objectives(kind):
    pipe = tiny.tiny_pipe(kind)
    model, one = denoiser(pipe), pull(pipe)
    scheduler, told = model.scheduler(10), pipelines.encode_prompts(pipe, PROMPT)
    guess = []
    for size in (0.0, 0.5):
        guide = rg.Guidance([one], moves="prediction", step_size=size)
        seen, output, _ = rg.guided_prediction(model, scheduler, guide, told, draws(1, 4, 16, 16), 501, 5, 3.0)
        guess.append((clean_and_noise(scheduler, output, seen, 501)[0].detach() * one.direction).sum())
    assert guess[1] < guess[0]


# ---- steps there and back ----------------------------------------------------------------------------------------------

def levels(timestep):
    """(a, s) of Stable Diffusion's schedule, as published: betas linear in the square root from 0.00085 to 0.012."""
    product = (1 - torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[timestep].float()
    return product ** 0.5, (1 - product) ** 0.5


def noised(kind, timestep):
    """Clean latents, noise, what lies between them at the timestep, and what a perfect model of this kind says of that."""
    clean, noise, (a, s) = draws(1, 4, 8, 8), draws(1, 4, 8, 8, number=1), levels(timestep)
    return clean, noise, a * clean + s * noise, {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[kind]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_prediction_is_split_and_a_step_goes_there_and_back(kind):
    scheduler = tiny.tiny_scheduler(prediction_type=kind)
    scheduler.set_timesteps(10)
    clean, noise, between, said = noised(kind, 501)
    found = clean_and_noise(scheduler, said, between, 501)
    for each, expected in zip(found, (clean, noise)):
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-4)
    below = noised(kind, 401)[2]
    torch.testing.assert_close(rg.ddim_step(scheduler, said, torch.tensor(501), between, *found), below, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rg.inverse_ddim_step(scheduler, 0, 501, below, said, found[1]), between, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_new_noise_takes_the_place_of_old(kind):
    """Whatever eta is, the noise that is left has the level of its timestep: what is old and what is new are independent."""
    scheduler = tiny.tiny_scheduler(prediction_type=kind)
    scheduler.set_timesteps(10)
    clean, noise, between, said = noised(kind, 501)
    found, new = clean_and_noise(scheduler, said, between, 501), draws(1, 4, 8, 8, number=2)
    (a, s), (above_a, above_s), eta = levels(401), levels(501), 0.7
    part = eta * s / above_s * (1 - above_a ** 2 / a ** 2) ** 0.5                        # DDIM, equation 16
    expected = a * clean + (s ** 2 - part ** 2) ** 0.5 * noise + part * new
    made = rg.ddim_step(scheduler, said, torch.tensor(501), between, *found, eta=eta, variance_noise=new)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


def test_a_flow_goes_straight_there_and_back():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    clean, noise, sigmas = draws(1, 4, 8, 8), draws(1, 4, 8, 8, number=1), scheduler.sigmas.tolist()
    at = lambda sigma: (1 - sigma) * clean + sigma * noise
    for step, t in enumerate(scheduler.timesteps.flip(0)):
        below, above = sigmas[-1 - step], sigmas[-2 - step]
        found = clean_and_noise(scheduler, noise - clean, at(above), t.item())
        for each, expected in zip(found, (clean, noise)):
            torch.testing.assert_close(each, expected, atol=1e-4, rtol=1e-4)
        back = rg.inverse_euler_step(scheduler, step, t.item(), at(below), noise - clean, noise)
        torch.testing.assert_close(back, at(above), atol=1e-5, rtol=1e-4)


def test_eulers_latents_are_larger_than_what_is_seen():
    scheduler = EulerDiscreteScheduler.from_config(tiny.tiny_scheduler().config)
    scheduler.set_timesteps(5)
    (a, s), latents = levels(int(scheduler.timesteps[1])), draws(1, 4, 8, 8)            # sigma is s / a, Karras et al. 2022
    scheduler.set_begin_index(1)
    seen, size = seen_by(scheduler, latents, scheduler.timesteps[1])
    torch.testing.assert_close(seen, latents / (1 + (s / a) ** 2) ** 0.5, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(seen * size, latents)


def test_a_timestep_between_two_has_a_level_between_theirs():
    scheduler, product = tiny.tiny_scheduler(), lambda t: float(levels(t)[0] ** 2)
    a, s = noise_levels(scheduler, 400.25)
    assert float(a ** 2) == pytest.approx(0.75 * product(400) + 0.25 * product(401), rel=1e-4)
    assert float(a ** 2 + s ** 2) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
def test_a_picture_is_inverted_and_comes_back(kind):
    """A denoiser that knows the picture and the noise: inversion must find that very noise."""
    scheduler = denoiser(tiny.tiny_pipe(kind)).scheduler(10)
    clean, noise = draws(1, 4, 16, 16), draws(1, 4, 16, 16, number=1)

    class Knows:
        flow, two_branches = False, staticmethod(lambda scale: False)
        passes = staticmethod(lambda branches: [branches][:len(branches)])

        def __call__(self, latents, timestep, *rest):
            return {"sample": clean, "epsilon": noise}[kind]
    told, (a, s) = SimpleNamespace(rows=lambda branches, batch: (None, {}), control=None), levels(0)
    states = list(rg.inversion(Knows(), scheduler, told, a * clean + s * noise, 1.0, 150))
    assert [state.timestep for state in states] == list(range(1, 1000, 100))
    for state in states:
        a, s = levels(state.timestep)
        torch.testing.assert_close(state.latents, a * clean + s * noise, atol=1e-3, rtol=0)


def test_inversion_iterates_as_often_as_asked():
    scheduler, seen = denoiser(tiny.tiny_pipe()).scheduler(10), []

    class Half:
        flow, two_branches = False, staticmethod(lambda scale: False)
        passes = staticmethod(lambda branches: [branches][:len(branches)])

        def __call__(self, latents, timestep, *rest):
            seen.append((timestep, latents))
            return latents / 2
    told, clean = SimpleNamespace(rows=lambda branches, batch: (None, {}), control=None), draws(1, 4, 16, 16)
    states = list(rg.inversion(Half(), scheduler, told, clean, 1.0, 2))
    assert [timestep for timestep, _ in seen] == [timestep for timestep in range(1, 1000, 100) for _ in range(3)]
    below = clean
    for step, state in enumerate(states):
        (a, s), (b, rest) = levels(state.timestep), levels(max(state.timestep - 100, 0))
        guess = below
        for _, latents in seen[3 * step:3 * step + 3]:
            torch.testing.assert_close(latents, guess, atol=1e-4, rtol=1e-4)
            guess = a * (below - rest * latents / 2) / b + s * latents / 2
        torch.testing.assert_close(state.latents, guess, atol=1e-4, rtol=1e-4)
        below = state.latents


# ---- sources -----------------------------------------------------------------------------------------------------------

def test_a_picture_has_one_noise_at_all_timesteps(pipe):
    clean, noise = draws(1, 4, 16, 16), draws(1, 4, 16, 16, number=5)
    source = Source.from_picture(pipe, prompt=PROMPT, generator=seed(5), latents=clean)
    for timestep in (100, 700, 100):
        a, s = levels(timestep)
        torch.testing.assert_close(source.latents_at(timestep), a * clean + s * noise)
        reading = source(timestep)
        expected, = rg.take_readings(pipe, a * clean + s * noise, timestep, pipelines.encode_prompts(pipe, PROMPT))
        torch.testing.assert_close(reading.features[0], expected.features[0], atol=1e-4, rtol=1e-4)


def test_a_trajectory_begins_at_its_largest_timestep(pipe):
    states = list(pipelines.guided_sample(pipe, PROMPT, num_inference_steps=4, generator=seed()))
    source = Source.from_states(pipe, states, PROMPT)
    assert torch.equal(source.start, draws(1, 4, 16, 16)) and source.timesteps == sorted(state.timestep for state in states)


# ---- models ------------------------------------------------------------------------------------------------------------

def test_rows_are_the_height_and_columns_the_width(pipe):
    model = denoiser(pipe)
    assert model.image_size(torch.zeros(1, 4, 12, 16)) == (24, 32) and model.latent_shape(24, 32) == (4, 12, 16)
    assert model.image_size(height=24) == (24, 32) and denoiser(tiny.tiny_sd3_pipe()).sizes(12, 16)[0] == (6, 8)


def test_sdxl_is_told_the_height_first():
    told = pipelines.encode_prompts(tiny.tiny_xl_pipe(), PROMPT, image_size=(24, 32))
    assert told.added["time_ids"].tolist() == told.negative_added["time_ids"].tolist() == [[24, 32, 0, 0, 24, 32]]


@pytest.mark.parametrize("build", [tiny.tiny_pipe, tiny.tiny_sd3_pipe])
def test_noise_is_added_as_the_model_was_trained(build):
    clean, noise, times = draws(2, 4, 16, 16), draws(2, 4, 16, 16, number=1), torch.tensor([100, 700])
    a, s = levels(times) if build is tiny.tiny_pipe else (1 - times / 1000, times / 1000)
    expected = a.view(2, 1, 1, 1) * clean + s.view(2, 1, 1, 1) * noise
    torch.testing.assert_close(denoiser(build()).add_noise(clean, noise, times), expected)


def test_latents_are_scaled_on_the_way_in_and_back_on_the_way_out():
    pipe = tiny.tiny_pipe(vae=dict(scaling_factor=0.25, shift_factor=0.5))
    picture = torch.rand(1, 3, 32, 32, generator=seed())
    with torch.no_grad():
        mean = pipe.vae.encode(picture * 2 - 1).latent_dist.mean
        torch.testing.assert_close(pipelines.encode(pipe, picture), (mean - 0.5) * 0.25)
        drawn = pipe.vae.decode(mean).sample / 2 + 0.5
        torch.testing.assert_close(pipelines.decode(pipe, (mean - 0.5) * 0.25), drawn.clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_a_controlnet_is_as_strong_as_asked():
    pipe, image, latents = tiny.tiny_control_pipe(), torch.rand(1, 3, 32, 32, generator=seed()), draws(1, 4, 16, 16)
    told = pipelines.encode_prompts(pipe, PROMPT)
    with torch.no_grad():
        one, half = (pipelines.controlled(pipe, told, image, scale).control(latents, 500, told.prompt_embeds, {})
                     for scale in (1.0, 0.5))
    torch.testing.assert_close(half["mid_block_additional_residual"], one["mid_block_additional_residual"] / 2)
    torch.testing.assert_close(half["down_block_additional_residuals"][0], one["down_block_additional_residuals"][0] / 2)


# ---- puppets: seeds ----------------------------------------------------------------------------------------------------

def default(function, name="seed"):
    return inspect.signature(function).parameters[name].default


def test_seeds_for_training_and_for_each_measurement_never_meet():
    """First seed and how many scenes: at most a hundred million for each training, and what is measured by default."""
    trained = {"base model": B.DATA_SEED, "autoencoder": B.VAE_SEED, "heads": default(H.collect), "judge": J.TRAIN_SEED}
    starts = sorted(trained.values())
    assert len(set(starts)) == 4 and all(b - a >= 10 ** 8 for a, b in zip(starts, [*starts[1:], world.HELD_OUT]))
    drags = 20 * default(M.measure_drag, "count")                  # many seeds have no room for a drag
    measured = (J.evaluate, J.calibrate, M.measure_base, M.measure_pose, M.measure_map)
    ranges = sorted([*((default(each), default(each, "count")) for each in measured), (H.SCORE_SEED, H.SCORED),
                     (default(M.measure_drag), drags), (default(M.measure_identity), 2 * default(M.measure_identity, "count"))])
    assert ranges[0][0] >= world.HELD_OUT
    assert all(first + count <= following for (first, count), (following, _) in zip(ranges, ranges[1:])), ranges
    assert default(B.autoencoder_psnr) >= world.HELD_OUT and default(M.measure_cost) >= world.HELD_OUT


def test_heads_are_scored_on_held_out_samples(pipe):
    asked = []

    def samples(count, first):
        asked.append((first, count))
        return (torch.zeros(count, 3, 32, 32),), (torch.zeros(count),)
    task = H.Task("own", "", samples, None, lambda readout, truth: truth, out_channels=1, count=9)
    H.collect(pipe, task), H.collect_held_out(pipe, task, 9)
    (first, _), (_, last), (score, _), _ = asked
    assert first + 9 < world.HELD_OUT <= score and last == 1 and asked[3] == (score + 8, 1)


# ---- puppets: heads ----------------------------------------------------------------------------------------------------

def test_scores_are_means_of_all_samples_at_noise_that_the_timestep_decides(pipe, monkeypatch):
    seen = []

    def read(pipe, pictures, timestep, generator, latents):
        seen.append((timestep, torch.randn(len(latents), generator=generator)))
        return Read(latents)
    monkeypatch.setattr(H, "read_picture", read)
    values = torch.arange(40.0) ** 2                                    # a batch of 32 and one of 8
    samples = H.Samples((torch.zeros(40, 1, 1, 1),), (values,))
    task = H.Task("own", "", lambda count, seed: None, None, lambda readout, truth: truth, out_channels=1)
    scores = H.score_head(pipe, task, None, (100, 300), samples)
    assert scores == {100: pytest.approx(float(values.mean())), 300: pytest.approx(float(values.mean()))}
    assert H.score_head(pipe, task, None, (300,), samples).keys() == {300}
    for timestep, noise in ((100, seen[:2]), (300, seen[2:4]), (300, seen[4:])):
        expected = seed(H.SCORE_SEED + timestep)
        assert [t for t, _ in noise] == [timestep] * 2
        assert all(torch.equal(found, torch.randn(len(found), generator=expected)) for _, found in noise)


def test_the_rate_falls_along_a_cosine_to_a_fiftieth(pipe, monkeypatch):
    told = {}
    monkeypatch.setattr(H, "train_head", lambda *args, **settings: told.update(settings))
    H.train_task(pipe, "pose", H.Samples((torch.zeros(1, 4, 16, 16),), ()), lr=0.5)
    rates = [told["lr"](done / 8) for done in range(9)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.5 and rates[8] == pytest.approx(0.01) and rates[4] == pytest.approx(0.255)
    assert rates[2] == pytest.approx(0.5 * (0.02 + 0.98 * (2 + 2 ** 0.5) / 4))


def test_a_triplet_has_a_negative_in_each_scene():
    """Four pictures: two puppets, each in two scenes. The loss has to tell both pictures of the second from the first puppet."""
    axes = torch.eye(4).view(4, 1, 4, 1, 1) * 5
    first, second = axes[0], axes[1]
    loss = lambda *members: float(H.TASKS["appearance"].loss(*members))
    apart = loss(first, first, second, second)
    assert apart == pytest.approx(0, abs=1e-3)
    assert loss(first, first, first, second) > 0.2 and loss(first, first, second, first) > 0.2
    assert loss(first, second, axes[2], axes[3]) > 0.2
    members = [draws(2, 6, 3, 3, number=i).abs() for i in range(4)]
    pooled = torch.stack([maps.pool_features(each)[..., 0, 0] for each in members])             # (4, B, C)

    def hinge(a, b, c, d):
        far = lambda one, two: 1 - F.cosine_similarity(one, two, dim=-1)
        terms = [(1 + far(a, b) - far(anchor, other)).clamp_min(0) for anchor in (a, b) for other in (c, d)]
        return torch.stack(terms).mean()
    expected = (hinge(*pooled) + hinge(*(pooled - pooled.mean(0)))) / 2
    assert loss(*members) == pytest.approx(float(expected), rel=1e-4)
    anchor, positive, negative, again = H.sample_looks(3)
    same = lambda a, b: replace(a, puppet=b.puppet) == b
    assert same(negative, anchor) and same(again, positive) and not same(positive, anchor)
    assert [getattr(negative.puppet, name) for name in world.LOOKS] == [getattr(again.puppet, name) for name in world.LOOKS]


def test_scores_of_poses_count_what_is_visible_and_scores_of_triplets_the_nearer():
    joints, visible = 20 + 80 * torch.rand(1, 14, 2, generator=seed()), torch.ones(1, 14, dtype=torch.bool)
    shown = joints.clone()
    shown[0, 3] = torch.tensor([120.0, 120.0])
    maps_ = H.heatmaps(shown)
    assert H.TASKS["pose"].score(maps_, joints, visible).item() == pytest.approx(13 / 14)
    visible[0, 3] = False
    assert H.TASKS["pose"].score(maps_, joints, visible).item() == 1


# ---- puppets: edits ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def source(pipe):
    states = list(pipelines.guided_sample(pipe, "a puppet", num_inference_steps=4, generator=seed(), height=128, width=128))
    return Source.from_states(pipe, states, "a puppet")


def test_a_drag_weighs_its_heads_and_looks_where_it_may_change(heads, source):
    make = lambda **settings: editing.drag(heads["correspondence"], source, [(10, 10)], [(20, 10)], anatomy=heads["pose"],
                                           appearance=heads["appearance"], **settings)
    made = make(anatomy_weight=2.5, looks_weight=0.125, stop=0.7, step_size=0.02, eta=0.25)
    move, anatomy, looks = made["objectives"]
    assert (move.weight, anatomy.weight, looks.weight) == (1, 2.5, 0.125)
    assert {each.stop for each in (move, anatomy, looks)} == {0.7} and {each.start for each in (move, anatomy, looks)} == {0.0}
    assert torch.equal(looks.mask, made["mask"]) and 0 < looks.mask.mean() < 0.5 and looks.pool
    assert (made["step_size"], made["eta"]) == (0.02, 0.25)
    plain = make()["objectives"]
    assert plain[1].weight == default(editing.drag, "anatomy_weight") and plain[2].weight == default(editing.drag, "looks_weight")
    free = torch.zeros(1, 1, 64, 64)
    free[..., 16:] = 1
    own = make(free=free)
    assert torch.equal(own["mask"], free) and torch.equal(own["objectives"][2].mask, free)


def test_arms_that_stay_are_left_alone_beside_what_moves(heads, source, monkeypatch):
    joints = torch.tensor([[64.0, 20], [64, 34], [74, 36], [54, 36], [78, 52], [50, 52], [78, 68], [50, 68],
                           [69, 66], [59, 66], [70, 90], [58, 90], [70, 112], [58, 112]])
    monkeypatch.setattr(editing, "source_joints", lambda head, source: joints)
    name = world.JOINTS.index
    hip, knee, ankle, elbow, wrist = (joints[name(f"left_{each}")] for each in ("hip", "knee", "ankle", "elbow", "wrist"))
    leg, turned = torch.stack((knee, ankle)), torch.stack((knee, ankle)) + torch.tensor([[12.0, -2], [20, -6]])

    def mask(handles=leg, targets=turned, anatomy=heads["pose"], **settings):
        return editing.drag(heads["correspondence"], source, handles, targets, fixed=hip[None], anatomy=anatomy, **settings)["mask"][0, 0]
    at = lambda area, point: float(area[int(point[1]), int(point[0])])
    free, spared = mask(spare=0), mask()
    hand, beyond = wrist + 0.1 * (wrist - elbow), wrist + 1.6 * (wrist - elbow)
    for point in (torch.lerp(elbow, wrist, 0.8), wrist, hand):
        assert at(free, point) == 1 and at(spared, point) < 0.3
    for point in (beyond, turned[0], turned[1], wrist + torch.tensor([6.0, 4.0])):          # beside the hand, and where the leg goes
        assert at(spared, point) == at(free, point) == 1
    assert (spared <= free).all() and at(mask(spare=8.0), wrist + torch.tensor([5.0, 0])) < 1 == at(spared, wrist + torch.tensor([5.0, 0]))
    assert torch.equal(mask(anatomy=None), free) and torch.equal(mask(free=free[None, None]), free)
    arm = torch.stack((elbow, wrist))                                                       # the arm that moves is free
    assert at(mask(arm, arm + torch.tensor([10.0, 0])), wrist) == 1
    goal = joints.clone()
    goal[name("left_wrist")] += torch.tensor([9.0, 0])
    points = editing.arms_that_stay(joints, goal)                                           # the bones of both arms but one forearm
    near = lambda point: float((points - point).norm(dim=-1).min())
    assert near(torch.lerp(joints[2], elbow, 0.5)) < 1.1 and near(joints[name("right_wrist")]) < 1.1 and near(wrist) > 10
    assert len(editing.arms_that_stay(joints, joints + 5)) == 0


def test_a_drag_leaves_handles_but_not_what_something_is_moved_to(heads, source):
    handles, targets = [(10, 10), (20, 10)], [(20, 10), (30, 10)]
    move, = editing.drag(heads["correspondence"], source, handles, targets, anti_ghosting=0.5, radius=3.0)["objectives"]
    taken = torch.cdist(move.source_points, move.target_points).amin(1) <= 3
    assert taken.any() and not taken.all()
    assert move.anti_ghosting.tolist() == [0.0 if each else 0.5 for each in taken.tolist()]
    half, = editing.drag(heads["correspondence"], source, [(10, 10)], [(20, 14)], amount=0.25)["objectives"]
    assert half.target_points.tolist() == [[12.5, 11.0]] and half.source_points.tolist() == [[10, 10]]


def test_noise_is_carried_from_handle_to_target():
    noise = draws(1, 4, 32, 32)                                         # cells of 4 pixels
    made = editing.carry(noise, torch.tensor([[22.0, 50.0]]), torch.tensor([[62.0, 90.0]]), 3.0, seed(1))
    assert torch.equal(made[..., 22, 15], noise[..., 12, 5]) and not torch.equal(made[..., 12, 5], noise[..., 12, 5])
    assert torch.equal(made[..., 5, 12], noise[..., 5, 12])


def test_identity_is_given_where_and_when_it_is_asked(heads, source):
    boxes = ((0, 0, 10, 10), (5, 5, 20, 20))
    made = editing.identity(heads["appearance"], source, boxes=boxes, start=0.25, stop=0.75, step_size=0.5, eta=0.5)
    looks, = made["objectives"]
    assert (looks.start, looks.stop, looks.pool) == (0.25, 0.75, True) and looks.boxes == boxes
    assert (made["step_size"], made["eta"]) == (0.5, 0.5)


# ---- puppets: measurements ---------------------------------------------------------------------------------------------

class Oracle(J.Judge):
    """A judge that was told what each picture shows."""

    def __init__(self):
        super().__init__(J.JudgeNetwork((8, 8, 8)))
        self.known = []

    def show(self, scenes):
        frames = world.render(scenes)
        for i, scene in enumerate(scenes):
            self.tell(frames.image[i], frames.joints[i], scene.attributes, frames.depth[i], frames.edges[i])
        return frames.image

    def tell(self, picture, joints, attributes, depth=torch.zeros(1, 128, 128), edges=torch.zeros(1, 128, 128)):
        self.known.append((picture, joints, attributes, depth, edges))

    def __call__(self, images, batch=32):
        found = [next(each for each in self.known if torch.equal(each[0], image)) for image in images]
        _, joints, attributes, depth, edges = zip(*found)
        return J.Reading(torch.stack(joints), torch.ones(len(images), 14), torch.stack(depth), torch.stack(edges), list(attributes))


def far(scene):
    """The same puppet elsewhere, and in another shirt."""
    puppet = replace(scene.puppet, shirt="black" if scene.puppet.shirt != "black" else "white")
    return replace(scene, puppet=puppet, x=64.0 + (30 if scene.x < 64 else -30), size=0.7 * scene.size)


@pytest.fixture
def drawn(monkeypatch):
    """Three scenes from `first` on; where a picture is sampled, the third is drawn wrong, and so is all that is not guided."""
    def prepare(first):
        judge, scenes, asked = Oracle(), world.sample_scenes(3, first), []
        names = [scene.caption for scene in scenes]

        def sample(pipe, prompts, objectives=(), **settings):
            places = [names.index(prompt) for prompt in prompts]
            asked.append((bool(objectives), settings["generator"].initial_seed(), settings["num_inference_steps"]))
            return judge.show([scenes[i] if objectives and i < 2 else far(scenes[i]) for i in places]), None
        monkeypatch.setattr(M, "sample", sample)
        monkeypatch.setattr(M, "autoencoder_psnr", lambda vae, count: 33.0)
        assert len(set(names)) == 3
        return judge, scenes, asked
    return prepare


def test_batches_of_any_size_count_by_their_pictures_in_the_pose(pipe, heads, drawn):
    """Two of three are right, in batches of two and one."""
    judge, scenes, asked = drawn(M.POSE_SEED)
    result = M.finish(M.measure_pose(pipe, judge, heads["pose"], count=3, steps=2, batch=2))
    frames, other = world.render(scenes), world.render([far(scene) for scene in scenes])
    right = J.pck(other.joints, frames.joints, 0.1, frames.visible)                      # of what is drawn elsewhere
    assert result["guided"]["pck@0.1"] == pytest.approx((2 + float(right[2])) / 3) and right[2] < 0.5
    assert result["unguided"]["pck@0.1"] == pytest.approx(float(right.mean()))
    assert result["guided"]["attribute_accuracy"] == pytest.approx(1 - 1 / 3 / len(M.MEASURED))
    seeds = [M.POSE_SEED, M.POSE_SEED, M.POSE_SEED + 2, M.POSE_SEED + 2]                 # the same noise with guidance and without
    assert asked == [(guided, each, 2) for guided, each in zip((False, True) * 2, seeds)]


def test_a_joint_that_something_hides_does_not_count_in_the_pose(pipe, heads, monkeypatch):
    first = next(number for number in range(M.POSE_SEED, M.POSE_SEED + 100)
                 if not world.render(world.sample_scene(number)).visible.all())
    judge, frames = Oracle(), world.render(world.sample_scene(first))
    joints = torch.where(frames.visible[..., None], frames.joints, 64 - (frames.joints - 64).sign() * 50)[0]
    judge.tell(frames.image[0], joints, frames.scenes[0].attributes)
    monkeypatch.setattr(M, "sample", lambda *args, **settings: (frames.image, None))
    guided = M.finish(M.measure_pose(pipe, judge, heads["pose"], count=1, steps=2, seed=first))["guided"]
    assert guided["pck@0.05"] == guided["pck@0.1"] == 1 > J.pck(joints[None], frames.joints, 0.1).item()


@pytest.mark.parametrize("what, name", [("depth", "depth_rmse"), ("edges", "edge_f_score")])
def test_batches_of_any_size_count_by_their_pictures_in_maps(pipe, heads, drawn, what, name):
    judge, scenes, asked = drawn(M.MAP_SEED)
    result = M.finish(M.measure_map(pipe, judge, heads[what], what, count=3, steps=2, batch=2))
    frames, other = world.render(scenes), world.render([far(scene) for scene in scenes])
    score = {"depth": J.depth_rmse, "edges": J.edge_f_score}[what]
    wrong, right = score(getattr(other, what), getattr(frames, what)), score(getattr(frames, what), getattr(frames, what))
    assert result["unguided"][name] == pytest.approx(float(wrong.mean()), rel=1e-4)
    assert result["guided"][name] == pytest.approx(float(right[0] + right[1] + wrong[2]) / 3, rel=1e-4, abs=1e-6)
    assert [each for _, each, _ in asked] == [M.MAP_SEED] * 2 + [M.MAP_SEED + 2] * 2


def test_batches_of_any_size_count_by_their_pictures_in_the_base(pipe, monkeypatch):
    judge, scenes = Oracle(), world.sample_scenes(3, M.BASE_SEED)
    monkeypatch.setattr(M, "sample", lambda pipe, prompts, **settings: (judge.show([
        scene if i < 2 else far(scene) for i, scene in enumerate(scenes) if scene.caption in prompts]), None))
    monkeypatch.setattr(M, "autoencoder_psnr", lambda vae, count: 33.0)
    accuracy = M.finish(M.measure_base(pipe, judge, count=3, steps=2, batch=2))["attribute_accuracy"]
    assert accuracy["shirt"] == pytest.approx(2 / 3) and accuracy["trousers"] == 1


def test_looks_are_those_of_the_reference_and_the_rest_is_of_another_scene(pipe, heads, monkeypatch):
    """Three references, three other scenes. Unguided the other puppet is drawn, guided the reference's in the new scene."""
    judge, first = Oracle(), M.IDENTITY_SEED
    old, new = world.sample_scenes(3, first), world.sample_scenes(3, first + 3)
    dressed = [replace(scene, puppet=replace(scene.puppet, **{name: getattr(each.puppet, name) for name in world.LOOKS}))
               for scene, each in zip(new, old)]

    def sample(pipe, prompts, objectives=(), generator=None, **settings):
        part = slice(generator.initial_seed() - first, generator.initial_seed() - first + len(prompts))
        assert prompts == [world.caption(scene, ("action", "background", "prop")) for scene in new[part]]
        looks = any(isinstance(each, rg.AppearanceObjective) for each in objectives)
        return judge.show((dressed if looks else new)[part]), None
    monkeypatch.setattr(M, "sample", sample)
    result = M.finish(M.measure_identity(pipe, judge, heads["appearance"], heads["pose"], count=3, steps=2, batch=2))
    alike = [sum(a.attributes[name] == b.attributes[name] for name in world.LOOKS) / 4 for a, b in zip(old, new)]
    assert max(alike) < 1 and sum(alike[:2]) / 2 != alike[2]
    for how in ("guided", "posed and guided"):
        assert result[how]["agreement"] == pytest.approx(1) and result[how]["words"] == pytest.approx(1)
    assert result["unguided"]["agreement"] == result["posed"]["agreement"] == pytest.approx(sum(alike) / 3)
    assert result["unguided"]["pck@0.1"] == pytest.approx(1) and result["unguided"]["words"] == pytest.approx(1)


def test_what_became_of_a_drag_is_measured_after_it_and_outside_of_what_had_to_change():
    judge, scene = Oracle(), world.sample_scene(M.DRAG_SEED)
    picture = judge.show([scene])
    before = judge(picture)
    wrist = world.JOINTS.index("left_wrist")
    handle = before.joints[0, wrist]
    case = cases.DragCase("wrist", 0, handle[None], handle[None] + torch.tensor([[12.0, 5.0]]), [wrist], torch.zeros(0, 2))
    made = M.DragSource(scene, picture, before, None, case)
    moved, joints = case.moved(), before.joints[0].clone()
    joints[wrist] = handle + torch.tensor([9.0, 1.0])                                    # 5 pixels are left to go
    inside = picture + (moved == 1) * torch.where(picture > 0.5, -0.4, 0.4)              # only where it had to change
    outside = picture + (moved == 0) * torch.where(picture > 0.5, -0.2, 0.2)
    judge.tell(inside[0], joints, scene.attributes)
    judge.tell(outside[0], joints, {**scene.attributes, "shirt": "black", "hat": "none"})
    found = M.judge_drag(judge, made, inside)
    assert found["initial_distance"] == pytest.approx(13, abs=1e-4) and found["distance"] == pytest.approx(5, abs=1e-4)
    assert found["fidelity"] == pytest.approx(1) and found["attribute_accuracy"] == found["attribute_accuracy_before"] == 1
    rest = (1 - moved).sum()
    spoiled = M.judge_drag(judge, made, outside)
    assert spoiled["fidelity"] == pytest.approx(float(1 - 0.2 * (moved == 0).sum() / rest), abs=1e-4)
    wrong = (scene.puppet.shirt != "black") + (scene.puppet.hat is not None)
    assert wrong and spoiled["attribute_accuracy"] == pytest.approx(1 - wrong / (len(M.MEASURED) - 1))
    assert spoiled["attribute_accuracy_before"] == 1
    assert M.summary([{"kind": "wrist", "distance": 2.0}, {"kind": "prop", "distance": 5.0}]) == {"distance": 3.5}


def test_an_arrow_is_judged_by_what_it_was_to_bring_where():
    scene = world.sample_scene(world.HELD_OUT + 7)
    frames = world.render(scene)
    before, joints = frames.image, frames.joints[0]
    judge, row = Oracle(), world.JOINTS.index("left_wrist")
    moved = joints.clone()
    moved[row] += torch.tensor([9.0, 0.0])
    judge.tell(before[0], joints, scene.attributes)
    after = before.clone()
    after[..., 0, 0] = 0.5
    judge.tell(after[0], moved, scene.attributes)
    case = cases.ArrowCase("wrist", 0, joints[row] + 1, joints[row] + 1 + torch.tensor([12.0, 0.0]), [row])
    made = M.ArrowSource(scene, before, judge(before), None, case)
    found, still = M.judge_arrow(judge, made, after), M.judge_arrow(judge, made, before)
    assert found["way"] == pytest.approx(12) and found["distance"] == pytest.approx(3, abs=1e-4)
    assert still["distance"] == pytest.approx(12, abs=1e-4) and still["whole"] == 1
    prop = cases.ArrowCase("prop", 0, torch.tensor([64.5, 60.5]), torch.tensor([70.5, 60.5]), [])
    shifted = before.roll(6, -1)
    judge.tell(shifted[0], joints, scene.attributes)
    made = M.ArrowSource(scene, before, judge(before), None, prop)
    assert M.judge_arrow(judge, made, shifted)["distance"] < 1.5 and M.judge_arrow(judge, made, before)["distance"] == pytest.approx(6, abs=1.5)
    both = M._both([{"kind": "wrist", "seed": 1, "grabbed": found, "bare": still}, {"kind": "wrist", "seed": 2, "grabbed": still, "bare": still}])
    assert both["n"] == 2 and both["grabbed"]["left"] == pytest.approx(15 / 24, abs=1e-4) and both["bare"]["left"] == pytest.approx(1, abs=1e-4)


def test_arrows_go_on_where_they_broke_off(monkeypatch, tmp_path):
    """Each seed is measured once, also where the measurement was ended in between; other settings, weights and thresholds begin anew,
    and leave alone what these have measured."""
    asked = []

    def sources(pipe, judge, steps, seed, scale, first):
        for number in range(seed, seed + 100):
            asked.append(number)
            kind = cases.ARROWS[(first + number - seed) % len(cases.ARROWS)]
            case = cases.ArrowCase(kind, number, torch.zeros(2), torch.ones(2), [])
            yield SimpleNamespace(scene=world.sample_scene(number), picture=torch.zeros(1, 3, 8, 8), source=None, case=case)
    monkeypatch.setattr(M, "arrow_sources", sources)
    monkeypatch.setattr(M, "drag", lambda *args, grab, **settings: {"how": grab})
    monkeypatch.setattr(M, "sample", lambda pipe, prompt, how, **settings: (torch.zeros(1, 3, 8, 8), None))
    monkeypatch.setattr(M, "judge_arrow", lambda judge, made, picture: {"way": 10.0, "distance": 2.0, "whole": 1.0, "all_joints_found": 1.0})
    head, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    made_with = [SimpleNamespace(components={"unet": head, "tokenizer": None}), SimpleNamespace(network=head, thresholds=(0.5,)), head, head]
    measure = lambda made_with=made_with, **more: M.measure_arrows(*made_with, work=tmp_path / "work", **{"count": 8, "seed": 100, **more})
    broken = measure()
    next(broken), next(broken), next(broken)
    broken.close()
    result = M.finish(measure())
    assert asked == list(range(100, 108)) and [row["seed"] for row in result["rows"]] == asked
    assert [row["kind"] for row in result["rows"]] == [cases.ARROWS[i % 6] for i in range(8)] and result["kinds"]["wrist"]["n"] == 2
    assert result["grabbed"]["left"] == pytest.approx(0.2) and result["n"] == 8
    M.finish(measure(steps=10))
    assert asked[8:] == list(range(100, 108))
    others = [SimpleNamespace(components={"unet": other}), SimpleNamespace(network=other, thresholds=(0.5,)), other, other]
    changed = [[*made_with[:i], others[i], *made_with[i + 1:]] for i in range(4)]
    for each in (*changed, [made_with[0], SimpleNamespace(network=head, thresholds=(0.6,)), head, head]):
        asked.clear()
        assert M.finish(measure(each))["rows"] != [] and asked == list(range(100, 108))
    asked.clear()
    assert M.finish(measure())["rows"] == result["rows"] and M.finish(measure(steps=10))["n"] == 8 and asked == []
    for name, default in (("drag", lambda *args, grab, eta=0.25, **settings: {"how": grab}), ("HELD", {"step_size": 0.7})):
        with monkeypatch.context() as changed_now:                      # rows of drags with other defaults
            changed_now.setattr(M, name, default)
            asked.clear()
            assert M.finish(measure())["n"] == 8 and asked == list(range(100, 108))
    with pytest.raises(ValueError, match="work.json cannot be a folder"):
        next(M.measure_arrows(None, None, None, None, work=write_json(tmp_path / "work.json", {})))


def test_what_numbers_were_measured_with_has_a_name_of_its_own():
    """Each weight counts; neither the order in which they are listed, nor their type, nor what has none."""
    one, two, judge = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3), Oracle()
    pipe = lambda *networks: SimpleNamespace(components=dict(enumerate(networks)))
    name = M.checksum_of(pipe(one, two), judge, two)
    assert name == M.checksum_of(pipe(two, None, "tokenizer", one.double()), judge, two) and len(name) == 8
    others = {name, M.checksum_of(pipe(two), judge, two), M.checksum_of(pipe(one, two), judge), M.checksum_of(pipe(one, two), None, two)}
    with torch.no_grad():
        one.weight[1, 1] += 1e-3
    assert len(others | {M.checksum_of(pipe(one, two), judge, two), M.checksum_of(None, None, one, two), M.checksum_of(None, None, two, one)}) == 7


def test_an_inversion_is_measured_in_decibels_against_the_round_trip(monkeypatch):
    there = torch.full((2, 3, 8, 8), 0.5)
    monkeypatch.setattr(M, "encode", lambda pipe, pictures: pictures)
    monkeypatch.setattr(M, "decode", lambda pipe, latents: there)
    monkeypatch.setattr(M, "invert", lambda pipe, pictures, prompts, fixed_point_iterations, **settings: [
        SimpleNamespace(latents=torch.tensor([fixed_point_iterations]))])
    off = {0: (0.1, 0.1), 2: (0.01, 0.1)}
    monkeypatch.setattr(M, "sample", lambda pipe, prompts, latents, guidance_scale, **settings: (
        there + torch.tensor(off[int(latents)]).view(2, 1, 1, 1), guidance_scale))
    result = M.finish(M.measure_inversion(None, count=2, steps=2, iterations=(0, 2)))
    assert result["0 iterations"]["psnr_db"] == pytest.approx(20, abs=1e-3)
    assert result["2 iterations"]["psnr_db"] == pytest.approx(30, abs=1e-3)
    assert result["2 iterations"]["worst_db"] == pytest.approx(20, abs=1e-3)


def test_limbs_may_be_as_much_longer_as_is_tolerated():
    joints = world.render(world.sample_scene(3)).joints
    elbow, wrist = world.JOINTS.index("left_elbow"), world.JOINTS.index("left_wrist")

    def longer(share):
        moved = joints.clone()
        moved[0, wrist] = moved[0, elbow] + share * (moved[0, wrist] - moved[0, elbow])
        return bool(cases.whole(judge, reading(moved), reading(joints)))
    judge = Oracle()
    reading = lambda points: J.Reading(points, torch.ones(1, 14), None, None, [{}])
    assert [longer(share) for share in (0.8, 0.9, 1.0, 1.1, 1.2)] == [False, True, True, True, False]


def test_thresholds_come_from_puppets_that_show_all_their_joints():
    judge, visible = J.Judge(J.JudgeNetwork((8, 8, 8))), world.render(world.sample_scenes(40, J.CALIBRATION_SEED)).visible.all(-1)
    assert 0 < visible.float().mean() < 1

    class Sure(J.Judge):
        def __call__(self, images, batch=32):
            return SimpleNamespace(confidence=torch.where(visible, 0.9, 0.1)[:, None].expand(-1, 14))
    assert J.calibrate(Sure(judge.network), 40, share=0.99) == pytest.approx((0.9,) * 14)


# ---- puppets: trainings ------------------------------------------------------------------------------------------------

def test_the_rate_rises_stays_and_falls_to_zero():
    optimizer = SimpleNamespace(param_groups=[{}])

    def rate(step):
        training.set_rate(optimizer, 2.0, step, 100, 10, 0.4)
        return optimizer.param_groups[0]["lr"]
    assert [rate(step) for step in (0, 4, 9, 30, 60, 80, 100)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.0, 0.0])


def test_each_step_of_each_run_draws_its_own_numbers():
    draw = lambda run, step: float(torch.rand((), generator=training.step_rng(SimpleNamespace(seed=run), step)))
    assert len({draw(run, step) for run in range(4) for step in range(50)}) == 200 and draw(1, 3) == draw(1, 3)


def test_an_average_keeps_as_much_of_itself_as_its_decay():
    network, average = torch.nn.Linear(1, 1), {"weight": torch.tensor([[1.0]]), "bias": torch.tensor([2.0])}
    torch.nn.init.constant_(network.weight, 3.0), torch.nn.init.constant_(network.bias, 2.0)
    B.update_average(average, network, 0.75)
    assert average["weight"].item() == 1.5 and average["bias"].item() == 2


def latents_of(run, count=8):
    """A folder of latents and captions, as `encode_pictures` leaves it."""
    texts = [[scene.caption, "a puppet"] for scene in world.sample_scenes(count)]
    (run / "latents").mkdir(parents=True)
    tokens = B.tokenize(B.build_tokenizer(), sum(texts, [])).view(count, 2, -1).to(torch.int16)
    latents = {"latents": draws(count, 4, 32, 32).half(), "tokens": tokens}
    write_tensors(run / "latents" / "0000000.safetensors", latents, {"captions": json.dumps(texts)})


def averages(run, name, states):
    """After each step the weights and their average, as a checkpoint at each step has them."""
    for state in states:
        saved = torch.load(run / name, weights_only=True)
        yield saved["model"], saved["average"]


@pytest.mark.parametrize("kind", ["diffusion", "transformer"])
def test_the_average_follows_the_weights_more_and_more_slowly(tmp_path, kind):
    latents_of(tmp_path)
    common = dict(run=str(tmp_path), steps=3, batch=2, save_every=1, ema=0.2, pictures=8, captions=2, lr=0.05, warmup=0)
    if kind == "diffusion":
        recipe = B.Recipe(**common, unet_channels=(16, 16, 32), text_width=16)
        made = list(averages(tmp_path, "diffusion.pt", B.train_diffusion(recipe)))
    else:
        recipe = T.TransformerRecipe(**common, start_from=SHIPPED, width=16, heads=2, depth=1)
        made = list(averages(tmp_path, "transformer.pt", T.train_transformer(recipe)))
    for step in (1, 2):
        decay = min(0.2, (1 + step) / (10 + step))      # 2 / 11, then 0.2
        for name, value in made[step][0].items():
            if value.is_floating_point():
                expected = decay * made[step - 1][1][name] + (1 - decay) * value
                torch.testing.assert_close(made[step][1][name], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["diffusion", "transformer"])
def test_a_batch_drops_captions_and_spreads_its_noise(kind):
    """What is told is a caption of that very picture, or nothing as often as asked; noise levels are one of each share."""
    clean, nothing = draws(40, 4, 32, 32), torch.full((32,), 99)
    tokens = torch.arange(40)[:, None, None].expand(40, 3, 32)

    def batch(dropout):
        if kind == "diffusion":
            recipe = B.Recipe(batch=250, caption_dropout=dropout)
            noisy, times, words, noise = B._diffusion_batch(clean, tokens, nothing, B.build_scheduler(), recipe, seed())
            a, s = (each.view(-1, 1, 1, 1) for each in levels(times))
            return (noisy - s * noise) / a, times / 1000, words, times
        recipe = T.TransformerRecipe(batch=250, caption_dropout=dropout, start_from=SHIPPED)
        noisy, level, velocity, words, _ = T.flow_batch(clean, tokens, nothing, recipe, seed())
        return noisy - level.view(-1, 1, 1, 1) * velocity, torch.special.ndtr(torch.logit(level.double()) - 0.3), words, None
    for dropout, low, high in ((0.0, 0, 0), (0.25, 0.15, 0.35), (1.0, 1, 1)):
        pictures, spread, words, times = batch(dropout)
        dropped = (words == 99).all(1)
        assert low <= dropped.float().mean() <= high
        kept = ~dropped & ((times < 900) if times is not None else True)                # near noise little is left to compare
        assert all(torch.allclose(picture, clean[int(word[0])], atol=1e-2) for picture, word in zip(pictures[kept], words[kept]))
        above = spread.sort().values * 250 - torch.arange(250)
        assert -1e-2 < above.min() and above.max() < 1.01


def test_a_judge_is_not_blamed_for_attributes_under_a_patch():
    raw = (torch.zeros(2, 14, 64, 64), torch.zeros(2, 1, 128, 128), torch.zeros(2, 1, 128, 128), draws(2, sum(J.SIZES)))
    batch = lambda whole: J.Batch(torch.zeros(2, 5, 128, 128, dtype=torch.uint8), torch.full((2, 14, 2), 64.0),
                                  torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 14, dtype=torch.bool), torch.tensor(whole))
    entropy = lambda i: -sum(float(part[i].log_softmax(0)[0]) for part in raw[3].split(J.SIZES, -1))
    none, first, both = (float(J.judge_loss(raw, batch(whole))) for whole in ([False, False], [True, False], [True, True]))
    assert first - none == pytest.approx(0.5 * entropy(0), rel=1e-3)
    assert both - none == pytest.approx(0.25 * (entropy(0) + entropy(1)), rel=1e-3)


def test_a_joint_outside_or_under_a_patch_is_nowhere():
    joints, present = torch.tensor([[[21.0, 61.0], [90.0, 30.0]]]), torch.tensor([[True, False]])
    spots = J._spots(joints, present)
    assert torch.allclose(spots.sum(-1), torch.ones(1, 2)) and spots[0, 1, -1] == 1 and spots[0, 0, -1] == 0
    assert spots[0, 0].argmax() == 30 * 64 + 10
