"""What the core computes, by hand or by a second, plain formula; `mutants.py` tries whether this notices faults."""
import math
import threading
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import tiny
from rg_minimal import pipelines, readout as rg
from rg_minimal.conditioning import Conditioning
from rg_minimal.denoisers import denoiser
from rg_minimal.files import read_tensors, write_tensors
from rg_minimal.maps import pool_features
from rg_minimal.saving import train_head as rg_train
from rg_minimal.sources import Source
from tiny import make_head, seed, tiny_pipe

SIZE = (10, 12)  # pixels (H, W) of the pictures that the stubs below stand for


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


def rand(*shape, of=0):
    return torch.rand(*shape, generator=seed(of))


class Stub:
    """A head whose readout is given: one with the timestep, one without."""

    def __init__(self, out_channels, found, without=None, **settings):
        self.config = rg.HeadConfig((8,), 8, width=16, num_groups=4, out_channels=out_channels, activation="none",
                                    **settings)
        self.found, self.without = found, found * 0 if without is None else without

    def read(self, reading, use_timestep=True):
        found = self.found if use_timestep else self.without
        return found[reading.branch] if isinstance(found, dict) else found


def reading(branch="conditional", timestep=500):
    model = SimpleNamespace(image_size=lambda latents: (latents.shape[2] * 2, latents.shape[3] * 2))
    return rg.Reading(model, [], torch.zeros(2, 4, SIZE[0] // 2, SIZE[1] // 2), timestep, branch)


# ---- readings and configs --------------------------------------------------------------------------------------------

def test_a_reading_reads_each_head_once_with_and_once_without_the_timestep():
    calls, heads = [], [SimpleNamespace(read=lambda *given: calls.append(given) or len(calls)) for _ in range(2)]
    one, other = reading(), reading()
    found = [one(heads[0]), one(heads[0], use_timestep=False), one(heads[1]), other(heads[0]), one(heads[0])]
    assert found == [1, 2, 3, 4, 1]
    assert [given[1] for given in calls] == [True, False, True, True] and calls[0][0] is one and calls[3][0] is other
    plain = rg.Reading(one.model, [], one.latents, 3)
    assert (plain.branch, plain.output) == ("conditional", None) and "_readouts" not in repr(plain)
    assert len({one, other}) == 2 and one != other              # by identity, since tensors have no one truth


def test_a_config_has_the_papers_defaults():
    config = rg.HeadConfig((320, 640))
    assert config == rg.HeadConfig(
        layer_channels=(320, 640), embedding_channels=1280, width=384, out_channels=0, hidden_channels=(128, 32),
        activation="tanh", use_timestep=True, resize_late=False, num_groups=32, property="", base_model="", extra={})
    assert config.extra is not rg.HeadConfig((320,)).extra


@pytest.mark.parametrize("width, groups, right", [(36, 9, True), (40, 10, True), (32, 8, True), (6, 1, False),
                                                  (24, 4, False), (32, 6, False)])
def test_a_quarter_of_the_width_is_divided_into_groups(width, groups, right):
    if right:
        head = rg.Head(rg.HeadConfig((8,), 8, width, num_groups=groups))
        assert head.bottleneck_layers[0].conv1.out_channels == width // 4
    else:
        with pytest.raises(ValueError, match=f"width {width} / 4 must be a multiple of num_groups {groups}"):
            rg.HeadConfig((8,), 8, width, num_groups=groups)


def taken(pipe, timestep=100):
    return rg.take_readings(pipe, rand(1, 4, 16, 16), timestep, denoiser(pipe).encode_prompt(""))[0]


def test_no_head_gets_the_readout_of_one_that_is_gone(pipe):
    one = taken(pipe)
    with torch.no_grad():
        for channels in range(1, 41):                           # each is freed, and the next one may get its id
            assert one(make_head(pipe, channels)).shape[1] == channels


def test_a_head_that_has_learned_reads_anew(pipe):
    one, head = taken(pipe), make_head(pipe)
    with torch.no_grad():
        before = one(head)
        assert one(head) is before
        head.mixing_weights.add_(torch.arange(len(head.mixing_weights)))
        assert not torch.equal(one(head), before) and len(one._readouts) == 1


def test_a_readout_without_gradient_is_not_handed_to_who_needs_one(pipe):
    """Whoever logs a readout under no_grad before an objective asks for it would make guidance stand still."""
    latents = rand(1, 4, 16, 16).requires_grad_()
    one, head = rg.take_readings(pipe, latents, 100, denoiser(pipe).encode_prompt(""))[0], make_head(pipe)
    with torch.no_grad():
        seen = one(head)
    assert one(head).requires_grad and not seen.requires_grad and one(head) is one(head)
    assert one(head.half()).dtype == torch.float16, "nor to who changed its numbers"


def test_objectives_that_do_not_depend_on_the_latents_are_named(pipe):
    class Constant(rg.Objective):
        def __call__(self, reading):
            return reading.latents.new_ones(len(reading.latents))
    with pytest.raises(ValueError, match="the objectives do not depend on the latents"):
        rg.Guidance([Constant(head=make_head(pipe), stop=1.0)]).differentiate([taken(pipe)], rand(1, 4, 16, 16).requires_grad_(), [1.0])


def test_a_distance_of_ones_own_is_one_of_each_cell(pipe):
    objective = rg.SpatialObjective(head=make_head(pipe, 1), target=torch.zeros(1, 1, 8, 8), distance=lambda readout, target: (readout - target).mean())
    with pytest.raises(ValueError, match=r"the error has shape ..; a distance of your own returns one for each cell"):
        objective(taken(pipe))


@pytest.mark.parametrize("shape", [(8,), (2, 1, 4, 4), (3, 1, 8, 8), (2, 3, 8, 8)])
def test_a_weight_is_one_of_each_cell(shape):
    readout = torch.rand(2, 2, 8, 8)
    with pytest.raises(ValueError, match=r"weight has shape .* pass .2 or 1, 2 or 1, 8, 8."):
        rg.spatial_loss(readout, readout, weight=torch.ones(shape))
    assert rg.spatial_loss(readout, readout, weight=torch.ones(1, 2, 8, 8)) == 0


@pytest.mark.parametrize("settings, message", [({"hidden_channels": (8, 8, 8)}, "hidden_channels .*pass two whole numbers"),
                                               ({"hidden_channels": 8}, "hidden_channels")])
def test_an_output_head_has_two_hidden_layers(settings, message):
    with pytest.raises(ValueError, match=message):
        rg.HeadConfig((8,), **settings)


@pytest.mark.parametrize("told", [5, (1, -1), "ab", (0, float("nan"))])
def test_a_range_of_values_is_two_numbers(pipe, told):
    head = make_head(pipe, 1, activation="tanh", extra={"value_range": told})
    with pytest.raises(ValueError, match="value_range .*two numbers, the smaller one first"):
        rg.SpatialObjective(head=head, target=torch.zeros(1, 1, 8, 8))


def test_a_head_made_in_inference_mode_can_be_read(pipe):
    one = taken(pipe)
    with torch.inference_mode():
        head = make_head(pipe)
        assert one(head) is one(head)


# ---- the head by formula ---------------------------------------------------------------------------------------------

def conv(x, weights, name, groups):
    weight = weights[f"{name}.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return F.group_norm(x, groups, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])


def by_formula(weights, features, emb, size, groups, late, tanh):
    """The head of the paper's section 3.1 on plain tensors."""
    shares = torch.softmax(weights["mixing_weights"], 0)
    total = 0
    for layer, x in enumerate(features):
        name = f"bottleneck_layers.{layer}"
        x = x if late else F.interpolate(x, size, mode="bilinear")
        hidden = conv(x, weights, f"{name}.conv1", groups).clamp_min(0)
        if emb is not None:
            embedded = (emb @ weights[f"{name}.emb_layers.weight"].T + weights[f"{name}.emb_layers.bias"]).clamp_min(0)
            hidden = hidden + embedded[:, :, None, None]
        hidden = conv(conv(hidden, weights, f"{name}.conv2", groups).clamp_min(0), weights, f"{name}.conv3", groups)
        shortcut = conv(x, weights, f"{name}.shortcut", groups) if f"{name}.shortcut.weight" in weights else x
        total = total + shares[layer] * F.interpolate((hidden + shortcut).clamp_min(0), size, mode="bilinear")
    if "output_head.0.weight" in weights:
        for layer in (0, 2, 4):
            weight = weights[f"output_head.{layer}.weight"]
            total = F.conv2d(total, weight, weights[f"output_head.{layer}.bias"], padding=weight.shape[-1] // 2)
            total = total if layer == 4 else total * torch.sigmoid(total)
        total = torch.tanh(total) if tanh else total
    return total


@pytest.mark.parametrize("settings", [
    {}, {"resize_late": True}, {"activation": "tanh"}, {"out_channels": 0}, {"use_timestep": False}])
@torch.no_grad()
def test_a_head_is_the_papers_formula(settings):
    torch.manual_seed(0)
    settings = {"out_channels": 3, "hidden_channels": (8, 6), "activation": "none", **settings}
    head = rg.Head(rg.HeadConfig((4, 16, 8), 10, width=16, num_groups=2, **settings))
    assert torch.equal(head.mixing_weights, torch.ones(3))
    for weight in head.parameters():
        weight.add_(torch.randn(weight.shape) * 0.3)
    features = [torch.randn(2, 4, 2, 3), torch.randn(2, 16, 4, 3), torch.randn(2, 8, 3, 5)]
    weights, late, tanh = head.state_dict(), head.config.resize_late, head.config.activation == "tanh"
    assert "bottleneck_layers.1.shortcut.weight" not in weights
    assert head.config.use_timestep == ("bottleneck_layers.0.emb_layers.weight" in weights)
    for emb in (None, torch.randn(1, 10), torch.randn(2, 10)):
        used = emb if head.config.use_timestep else None
        for size in (None, (5, 4)):
            expected = by_formula(weights, features, used, size or (4, 3), 2, late, tanh)       # (4, 3) > (3, 5)
            torch.testing.assert_close(head(features, emb, size), expected, atol=1e-5, rtol=1e-5)
    places = []
    embed = lambda timestep, device: places.append(device) or torch.full((1, 10), timestep / 1000, dtype=torch.float64)
    model = SimpleNamespace(embed=embed)
    seen = rg.Reading(model, [feature.double() for feature in features], torch.zeros(2, 4, 6, 7), 300)
    embedding = torch.full((1, 10), 0.3) if head.config.use_timestep else None
    for wanted, emb in ((True, embedding), (False, None)):
        torch.testing.assert_close(head.read(seen, wanted), by_formula(weights, features, emb, (6, 7), 2, late, tanh),
                                   atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.read(seen), head.read(seen, True))
    assert set(places) <= {seen.latents.device}
    with torch.enable_grad():
        parts = SimpleNamespace(model=denoiser(tiny_pipe()), timestep=300, latents=seen.latents)
        assert not head.embed(parts).requires_grad              # the denoiser is frozen


def test_convolutions_begin_as_kaiming_says_for_the_way_back():
    torch.manual_seed(0)
    for channels, out, kernel in ((64, 256, 1), (64, 128, 3)):
        weight = rg.NormedConv(channels, out, kernel, 8).weight.detach()
        assert abs(float(weight.std()) / math.sqrt(2 / (out * kernel ** 2)) - 1) < 0.03


# ---- losses ----------------------------------------------------------------------------------------------------------

def test_a_spatial_loss_cell_by_cell():
    readout, target = rand(2, 3, 4, 6), (rand(2, 3, 2, 3, of=1) > 0.7).double() - 0.5
    weight = rand(1, 1, 4, 6, of=2).double()
    errors, drawn, empty = [], [], []
    for b in range(2):
        for k in range(3):
            for y in range(4):
                for x in range(6):
                    wanted = float(target[b, k, y // 2, x // 2])                                # nearest neighbour
                    error = (float(readout[b, k, y, x]) - wanted) ** 2
                    errors.append(error * float(weight[0, 0, y, x]))
                    (empty if wanted == -0.5 else drawn).append(error)
    mean = lambda numbers: pytest.approx(sum(numbers) / len(numbers), rel=1e-4)
    assert len(drawn) != len(empty) and float(rg.spatial_loss(readout, target)) == mean(drawn + empty)
    assert float(rg.spatial_loss(readout, target, weight=weight)) == mean(errors)
    both = float(rg.spatial_loss(readout, target, background=-0.5))
    assert both == pytest.approx((sum(drawn) / len(drawn) + sum(empty) / len(empty)) / 2, rel=1e-4)
    for background in (7.0, 0.0):                               # nothing is background, or everything
        flat = target * 0
        found = rg.spatial_loss(readout, flat, background=background)
        assert float(found) == pytest.approx(float(readout.square().mean()), rel=1e-4)
    assert rg.spatial_loss(readout, target, weight=weight).dtype == torch.float32


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_a_correspondence_loss_point_by_point():
    a, b = torch.randn(2, 5, 3, 4, generator=seed()), torch.randn(2, 5, 3, 4, generator=seed(1))
    cells = torch.tensor([[0, 7, 11], [5, 2, 9]]), torch.tensor([[3, 1, 6], [8, 4, 10]])
    points = [torch.stack((each % 4, each // 4), -1) * 10 + 5.0 for each in cells]  # pixels (x, y) of a picture 30 x 40

    def loss(temperature):
        total = 0
        for here, there, of, to in ((a, b, *cells), (b, a, *cells[::-1])):
            for row in range(2):
                for cell, partner in zip(of[row].tolist(), to[row].tolist()):
                    scores = torch.tensor([cosine(here[row].flatten(1)[:, cell], column) / temperature
                                           for column in there[row].flatten(1).T])
                    total += float(scores.logsumexp(0) - scores[partner]) / 6
        return pytest.approx(total / 2, rel=1e-4)
    assert float(rg.correspondence_loss(a, b, *points, (30, 40))) == loss(0.07)
    assert float(rg.correspondence_loss(a, b, *points, (30, 40), temperature=0.5)) == loss(0.5)
    same = [each[:1].expand(2, -1, -1) for each in points]
    # (N, 2) for every picture
    shared = rg.correspondence_loss(a, b, *(each[0] for each in points), image_size=(30, 40))
    torch.testing.assert_close(shared, rg.correspondence_loss(a, b, *same, image_size=(30, 40)))
    exact = rg.correspondence_loss(a, b, *(each.double() for each in points), (30, 40))  # in the features' own format
    torch.testing.assert_close(exact, rg.correspondence_loss(a, b, *points, (30, 40)))
    between = torch.zeros(2, 1, 12, dtype=torch.float64)
    between[..., 4], between[..., 7] = 0.25, 0.75
    found = rg.point_similarity(a, b, between)
    assert found.shape == (2, 1, 12)
    mixed = 0.25 * a[1].flatten(1)[:, 4] + 0.75 * a[1].flatten(1)[:, 7]
    assert float(found[1, 0, 5]) == pytest.approx(cosine(mixed, b[1].flatten(1)[:, 5]), abs=1e-5)


def test_an_appearance_loss_position_by_position():
    triplet = [torch.randn(3, 4, 2, 5, generator=seed(of)) for of in range(3)]
    triplet[2][2] = -triplet[0][2]                              # a pair that is far enough apart costs nothing

    def loss(margin):
        each = []
        for row in range(3):
            near, far = (sum(1 - cosine(triplet[0][row, :, y, x], other[row, :, y, x])
                             for y in range(2) for x in range(5)) / 10
                         for other in triplet[1:])
            each.append(max(0.0, margin + near - far))
        assert each[2] == 0 < min(each[:2])
        return pytest.approx(sum(each) / 3, rel=1e-4)
    assert float(rg.appearance_loss(*triplet)) == loss(0.5)
    assert float(rg.appearance_loss(*triplet, margin=0.9)) == loss(0.9)
    for wrong in range(3):
        with pytest.raises(ValueError, match="have to have one shape"):
            rg.appearance_loss(*(each[:1] if index == wrong else each for index, each in enumerate(triplet)))


# ---- objectives ------------------------------------------------------------------------------------------------------

def spatial(found=None, **settings):
    return rg.SpatialObjective(head=Stub(2, rand(2, 2, 5, 6) if found is None else found),
                               **{"target": torch.zeros(1, 2, 5, 6), **settings})


def test_an_objective_counts_from_start_to_stop():
    plain = spatial()
    assert (plain.weight, plain.start, plain.stop, plain.schedule, plain.use_timestep) == (1.0, 0.0, 0.5, None, True)
    assert (plain.mask, plain.distance) == (None, None)
    assert [plain.strength(step, 6) for step in range(6)] == [1, 1, 1, 0, 0, 0]
    asked = []
    middle = spatial(weight=3.0, start=0.25, stop=0.75, schedule=lambda done: asked.append(done) or done + 1)
    assert [middle.strength(step, 8) for step in range(8)] == [0, 0, 3 * 1.25, 3 * 1.375, 3 * 1.5, 3 * 1.625, 0, 0]
    assert asked == [0.25, 0.375, 0.5, 0.625]                   # outside the interval the schedule is not asked
    late = spatial(start=0.29, stop=0.57)  # 100 times these is 28.999999999999996 and 56.99999999999999
    assert [step for step in range(100) if late.strength(step, 100)] == list(range(29, 57))
    assert [step for step in range(7) if spatial(start=0.3, stop=0.6).strength(step, 7)] == [2, 3]
    assert spatial(weight=0.0).strength(0, 4) == 0
    for start, stop in ((0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(ValueError, match="0 <= start < stop <= 1"):
            spatial(start=start, stop=stop)
    with pytest.raises(NotImplementedError):
        rg.Objective(head=plain.head)(reading())
    head, points = Stub(0, torch.zeros(1)), {"source_points": [[1, 1]], "target_points": [[3, 3]]}
    for kind, settings in (
            (rg.Objective, {}), (rg.SpatialObjective, {"target": torch.zeros(1, 2, 5, 6)}),
            (rg.RelativeObjective, {"source": len}),
            (rg.CorrespondenceObjective, {"source": len, **points}), (rg.AppearanceObjective, {"source": len})):
        head = plain.head if "target" in settings else head
        one, other = (kind(head=head, **settings) for _ in range(2))
        assert len({one, other}) == 2 and one != other          # by identity, as readings
        with pytest.raises(TypeError, match="takes 1 positional argument"):
            kind(head, **settings)
        head = Stub(0, torch.zeros(1))


def test_a_spatial_objective_cell_by_cell():
    found, target = rand(2, 2, 4, 6), rand(2, 2, 2, 3, of=1)
    wanted = target.repeat_interleave(2, 2).repeat_interleave(2, 3)
    head = Stub(2, found, without=found + 1)
    make = lambda **settings: rg.SpatialObjective(head=head, **{"target": target, **settings})(reading())
    torch.testing.assert_close(make(), (found - wanted).square().mean((1, 2, 3)))
    torch.testing.assert_close(make(use_timestep=False), (found + 1 - wanted).square().mean((1, 2, 3)))
    mask = torch.zeros(2, 1, 4, 6)
    mask[0, 0, 1, 2], mask[0, 0, 3, 5], mask[1, 0, 0, :] = 1.0, 0.5, 1.0
    error = (found - wanted).square()
    first = (error[0, :, 1, 2] + 0.5 * error[0, :, 3, 5]).sum() / 3  # 1.5 cells of two channels
    torch.testing.assert_close(make(mask=mask), torch.stack((first, error[1, :, 0].mean())))
    channel = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    torch.testing.assert_close(make(mask=channel), error[:, 1].mean((1, 2)))
    own = make(target=torch.full((1, 1, 2, 3), 3), distance=lambda readout, goal: (readout - goal).abs())
    torch.testing.assert_close(own, (3 - found).mean((1, 2, 3)))
    assert make(target=target.double()).dtype == torch.float32
    away = rg.SpatialObjective(head=Stub(2, found.to("meta")), target=target,
                               distance=lambda readout, goal: goal - readout)
    assert away(reading()).device.type == "meta"                # a target is brought to where the readout is
    for fault in ({"target": rand(1, 3, 4, 6)}, {"mask": torch.ones(1, 3, 4, 6)}):
        with pytest.raises(ValueError, match=f"{list(fault)[0]} has shape .* this head reads"):
            make(**fault)


def sourced(kind, features, source, **settings):
    """An objective whose head finds `features` in the picture, `source` in the source; without timestep 1 / these."""
    asked = []

    def read_source(timestep, branch):
        asked.append((timestep, branch))
        assert not torch.is_grad_enabled()
        return reading("source")
    head = Stub(0, {"conditional": features, "negative": features, "source": source},
                without={"conditional": 1 / features, "source": 1 / source})
    objective = kind(head=head, source=read_source, **settings)
    objective.asked = asked
    return objective


def test_a_correspondence_objective_point_by_point():
    features, source = torch.randn(2, 3, 5, 6, generator=seed()), torch.randn(1, 3, 5, 6, generator=seed(1))
    # centres of cells of 2 x 2 pixels
    here, there = torch.tensor([[3.0, 5.0], [9.0, 1.0]]), torch.tensor([[7.0, 7.0], [1.0, 3.0]])

    def by_hand(shares, features=features, source=source):
        losses = []
        for row in range(2):
            terms = []
            for (x, y), (u, v), share in zip(here.long().tolist(), there.long().tolist(), shares):
                handle = source[0, :, y // 2, x // 2]
                stay, move = ((cosine(handle, features[row, :, q // 2, p // 2]) + 1) / 2 for p, q in ((x, y), (u, v)))
                terms.append(share * stay - move)
            losses.append(sum(terms) / len(terms) / 2)
        return torch.tensor(losses)
    make = lambda **settings: sourced(rg.CorrespondenceObjective, features, source, source_points=here,
                                      target_points=there, **settings)
    objective = make()
    torch.testing.assert_close(objective(reading(timestep=321)), by_hand((1, 1)))
    assert objective.asked == [(321, "conditional")] and objective(reading("negative", 8)).shape == (2,)
    assert objective.asked[1:] == [(8, "negative")]
    torch.testing.assert_close(make(anti_ghosting=0.25)(reading()), by_hand((0.25, 0.25)))
    torch.testing.assert_close(make(anti_ghosting=torch.tensor([0.5, 2.0], dtype=torch.float64))(reading()),
                               by_hand((0.5, 2)))
    torch.testing.assert_close(make(use_timestep=False)(reading()), by_hand((1, 1), 1 / features, 1 / source))
    cell = lambda points, cells, size: F.one_hot((points[:, 0] // 2 + 6 * (points[:, 1] // 2)).long(), 30).to(points)
    torch.testing.assert_close(make(locate=cell)(reading()), by_hand((1, 1)))
    exact = sourced(rg.CorrespondenceObjective, features.double(), source.double(), source_points=here,
                    target_points=there)(reading())
    torch.testing.assert_close(exact, by_hand((1, 1)).double(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="1 target points"):
        sourced(rg.CorrespondenceObjective, features, source, source_points=here, target_points=there[:1])
    with pytest.raises(ValueError, match="two places"):
        sourced(rg.CorrespondenceObjective, features, source, source_points=here[:1].expand(2, 2), target_points=there)
    with pytest.raises(ValueError, match="anti_ghosting"):
        make(anti_ghosting=torch.ones(3))


def test_an_appearance_objective_position_by_position():
    features, source = rand(2, 3, 5, 6), rand(1, 3, 5, 6, of=1)

    def by_hand(weight=torch.ones(5, 6), features=features, source=source):
        rows = []
        for row in features:
            each = torch.tensor([[1 - cosine(row[:, y, x], source[0, :, y, x]) for x in range(row.shape[2])]
                                 for y in range(row.shape[1])])
            rows.append((each * weight).sum() / weight.sum())
        return torch.stack(rows)
    make = lambda **settings: sourced(rg.AppearanceObjective, features, source, **settings)
    torch.testing.assert_close(make()(reading()), by_hand())
    torch.testing.assert_close(make(use_timestep=False)(reading()), by_hand(features=1 / features, source=1 / source))
    mask = torch.zeros(1, 1, 5, 6)
    mask[0, 0, 1, 2:4], mask[0, 0, 4, 5] = 1.0, 0.5
    torch.testing.assert_close(make(mask=mask)(reading()), by_hand(mask[0, 0]))
    boxes = ((0, 2, 4, 6), (6, 4, 12, 10))                      # cells 1-2 of columns 0-1, and cells 2-4 of columns 3-5
    cut = [F.interpolate(each, (5, 6), mode="bilinear") for each in (source[:, :, 1:3, 0:2], features[:, :, 2:5, 3:6])]
    torch.testing.assert_close(make(boxes=boxes)(reading()), by_hand(source=cut[0], features=cut[1]))
    for weight in (None, mask):
        pooled = pool_features(source, weight), pool_features(features, weight)
        expected = torch.tensor([1 - cosine(row.flatten(), pooled[0].flatten()) for row in pooled[1]])
        torch.testing.assert_close(make(pool=True, mask=weight)(reading()), expected)
    large = F.interpolate(mask, (10, 12), mode="nearest").double()
    small = pool_features(features, F.interpolate(large.float(), (5, 6), mode="bilinear"))
    torch.testing.assert_close(make(pool=True, mask=large)(reading())[0], torch.tensor(1 - cosine(
        small[0].flatten(), pool_features(source, F.interpolate(large.float(), (5, 6), mode="bilinear")).flatten())))
    plain = make()
    assert (plain.boxes, plain.mask, plain.pool) == (None, None, False)
    for fault, said in (({"mask": mask, "boxes": boxes}, "either boxes or a mask"), ({"mask": mask.expand(1, 3, 5, 6)}, "a mask of one channel")):
        with pytest.raises(ValueError, match=said):
            make(**fault)


# ---- steps and guidance ----------------------------------------------------------------------------------------------

def test_step_rules_by_hand():
    gradients = [torch.full((2, 4, 5, 6), 9.0), torch.randn(2, 4, 5, 6, generator=seed())]
    gradients[1][1] *= 1e-8
    gradients.insert(0, gradients[0] * 2)
    step = rg.normalized_step(gradients)
    torch.testing.assert_close(step, torch.stack([row / row.square().mean().sqrt() for row in gradients[-1]]))
    mask = rand(1, 1, 5, 6, of=3)
    moved = gradients[-1] * mask
    expected = torch.stack([row * (float(mask.sum()) * 4 / float(row.square().sum())) ** 0.5 for row in moved])
    torch.testing.assert_close(rg.normalized_step([gradients[0], moved], mask), expected)
    several = torch.cat((mask, mask / 2))                       # of each picture its own mask
    torch.testing.assert_close(rg.normalized_step([moved], several),
                               torch.stack((expected[0], expected[1] * 0.5 ** 0.5)))
    assert torch.equal(rg.normalized_step([torch.zeros(1, 4, 2, 2)]), torch.zeros(1, 4, 2, 2))
    assert torch.equal(rg.sign_step(gradients), (gradients[-1] > 0) * 2.0 - 1)
    assert torch.equal(rg.sign_step(gradients, mask), rg.sign_step(gradients))


class Pull(rg.Objective):
    """Half the squared distance of the latents from a number: the gradient is what lies between."""

    to: float = 0.0

    def __call__(self, reading):
        return (reading.latents - self.to).square().sum((1, 2, 3)) / 2


def pull(to=0.0, **settings):
    objective = Pull(head=Stub(2, torch.zeros(1)), **{"stop": 1.0, **settings})
    objective.to = to
    return objective


def read(latents, branches=("conditional",)):
    return [rg.Reading(None, [], latents, 7, branch, latents * number) for number, branch in enumerate(branches, 1)]


def plain(gradients, mask=None):
    return gradients[-1]


def test_guidance_has_its_defaults():
    guide = rg.Guidance()
    assert (list(guide.objectives), guide.step_size, guide.inner_steps) == ([], 0.05, 1)
    assert guide.step_rule is rg.normalized_step
    assert (guide.gradient_branch, guide.branches) == ("conditional", ("conditional",))
    assert (guide.mask, guide.moves) == (None, "latents")
    assert rg.Guidance(gradient_branch="both").branches == ("negative", "conditional")
    assert rg.Guidance(inner_steps=2).inner_steps == 2 and rg.Guidance(moves="prediction").moves == "prediction"
    with pytest.raises(ValueError, match="inner_steps is 2, but a prediction is moved once"):
        rg.Guidance(moves="prediction", inner_steps=2)


def test_a_gradient_is_that_of_the_weighted_sum():
    latents = torch.randn(2, 4, 5, 6, generator=seed())
    guide = rg.Guidance([pull(1.0), pull(9.0), pull(-2.0)])
    with torch.no_grad():
        gradient, losses, output = guide.gradient(lambda latents: read(latents, ("negative", "conditional")), latents,
                                                  [0.5, 0.0, 3.0])
    torch.testing.assert_close(gradient, 2 * (0.5 * (latents - 1) + 3 * (latents + 2)))         # of both branches
    torch.testing.assert_close(losses[0], (latents - 1).square().sum((1, 2, 3)))
    assert losses[1] is None and losses[2].shape == (2,) and not any(loss.requires_grad for loss in losses[::2])
    assert torch.equal(output, latents * 2) and not output.requires_grad and not latents.requires_grad
    with torch.inference_mode(), pytest.raises(ValueError, match="use torch.no_grad instead"):
        guide.gradient(read, latents, [1, 1, 1])
    with torch.inference_mode():
        held = latents + 0
    with pytest.raises(ValueError, match="use torch.no_grad instead"):
        guide.gradient(read, held, [1, 1, 1])
    with pytest.raises(ValueError, match="gradient at timestep 7"):
        rg.Guidance([pull(math.inf)]).gradient(read, latents, [1.0])


class Slope(rg.Objective):
    slope: float = 1.0

    def __call__(self, reading):
        return (reading.latents.float() * self.slope).sum((1, 2, 3))


@pytest.mark.parametrize("slope", [2e-8, 1.0, 60.0])
def test_small_gradients_do_not_vanish_in_half_precision(slope):
    """float16 knows nothing between 0 and 6e-8, and nothing above 65504."""
    objective = Slope(head=Stub(2, torch.zeros(1)))
    objective.slope = slope
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        gradient, _, _ = rg.Guidance([objective]).gradient(read, torch.zeros(1, 4, 2, 2, dtype=dtype), [1.0])
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, torch.full((1, 4, 2, 2), slope), rtol=1e-2, atol=0)
    objective.slope = 2e38  # leaves no room for a factor, which float32 does not need
    assert rg.Guidance([objective]).gradient(read, torch.zeros(1, 4, 2, 2), [1.0])[0].isfinite().all()


def test_a_step_is_step_size_times_what_the_schedules_leave_of_the_weights():
    gradient = torch.randn(1, 4, 4, 6, generator=seed())
    guide = rg.Guidance([pull(weight=2.0), pull(weight=3.0), pull(weight=7.0)], step_size=0.5, step_rule=plain)
    before = []
    step = guide.step(gradient, [1.0, 1.5, 0.0], before)        # half of the weights of those that are active
    torch.testing.assert_close(step, 0.5 * 0.5 * gradient)
    assert len(before) == 1 and torch.equal(before[0], gradient)
    mask, seen = torch.zeros(1, 1, 2, 3), []
    mask[..., 1:] = 1
    rule = lambda gradients, mask: seen.append((list(gradients), mask)) or gradients[-1]
    guide = rg.Guidance([pull()], step_size=0.5, mask=mask.double(), step_rule=rule)
    small = F.interpolate(mask, (4, 6), mode="bilinear")
    first = torch.ones(1, 4, 4, 6)
    torch.testing.assert_close(guide.step(gradient, [1.0], earlier := [first]), 0.5 * gradient * small)
    torch.testing.assert_close(seen[0][1], small)
    assert len(earlier) == 2 and seen[0][0][0] is first and torch.equal(seen[0][0][1], gradient * small)


def test_moves_go_down_the_gradient_as_often_as_asked():
    latents = torch.randn(2, 4, 5, 6, generator=seed())
    for times, share in ((1, 0.9), (3, 0.9 ** 3)):
        guide = rg.Guidance([pull(4.0)], step_size=0.1, step_rule=plain, inner_steps=times)
        moved, losses = guide.move(read, latents, [1.0])
        torch.testing.assert_close(moved - 4, (latents - 4) * share)
        # before the last move
        torch.testing.assert_close(losses[0], ((latents - 4) * share / 0.9).square().sum((1, 2, 3)) / 2)
    counts = []
    guide = rg.Guidance([pull()], step_rule=lambda gradients, mask: counts.append(len(gradients)) or gradients[-1],
                        inner_steps=3)
    guide.move(read, latents, [1.0])
    assert counts == [1, 2, 3]
    assert rg.Guidance([pull()], step_size=0).move(read, latents, [1.0])[0] is latents
    assert rg.Guidance([pull()]).move(read, latents.half(), [1.0])[0].dtype == torch.float16


def test_guidance_checks_itself_and_its_objectives():
    asked, pipe = [], tiny_pipe()

    class Asked(Pull):
        def check(self, *given):
            asked.append(given)
    guide = rg.Guidance([Asked(head=Stub(2, torch.zeros(1))) for _ in range(2)], mask=torch.ones(3, 1, 5, 6))
    guide.check(pipe, 3, (32, 32))
    assert asked == [(pipe, 3, (32, 32))] * 2
    with pytest.raises(ValueError, match="mask has 3 rows for 2 pictures"):
        guide.check(pipe, 2, (32, 32))
    speck = torch.zeros(1, 1, 256, 256)
    speck[..., 0, 0] = 1                                        # is nothing on 16 x 16 cells
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        rg.Guidance(mask=speck).check(pipe, 2, (32, 32))
    with pytest.raises(ValueError, match="mask is zero everywhere"):
        rg.SpatialObjective(head=make_head(pipe), target=torch.zeros(1, 2, 4, 4), mask=speck).check(pipe, 2, (32, 32))
    objective = rg.SpatialObjective(head=make_head(pipe), target=torch.zeros(3, 2, 4, 4))
    objective.check(pipe, 3, (32, 32))
    with pytest.raises(ValueError, match="target has 3 rows for 2 pictures"):
        objective.check(pipe, 2, (32, 32))
    with pytest.raises(ValueError, match="but the denoiser has"):
        other = rg.Head(spatial().head.config)
        rg.SpatialObjective(head=other, target=torch.zeros(1, 2, 4, 4)).check(pipe, 2, (32, 32))
    source = Source.from_picture(pipe, latents=torch.zeros(1, 4, 16, 16))
    dragged, free = (rg.CorrespondenceObjective(head=make_head(pipe, 0), source=each, source_points=[[30.0, 2.0]],
                                                target_points=[[2.0, 30.0]])
                     for each in (source, lambda timestep, branch: None))
    dragged.check(pipe, 1, (32, 32))
    with pytest.raises(ValueError, match=r"outside the picture of 16 x 32 pixels"):
        free.check(pipe, 1, (32, 16))
    with pytest.raises(ValueError, match="made with another model"):
        dragged.check(tiny_v_pipe(), 1, (32, 32))


def tiny_v_pipe():
    pipe = tiny_pipe("v_prediction")
    for weight in pipe.unet.parameters():
        weight.data.add_(1)
    return pipe


# ---- training --------------------------------------------------------------------------------------------------------

def test_training_is_the_plain_loop(pipe):
    """Two pictures a sample at one timestep, each with its own noise; labels of any kind; the prompt is empty."""
    pairs = [(rand(2, 4, 8, 8, of=i), rand(2, 4, 8, 8, of=i + 9)) for i in range(3)]
    model, data = denoiser(pipe), [(pair, rand(2, 2, 8, 8, of=i + 5), "name") for i, pair in enumerate(pairs)]
    modes, empty = [], pipelines.encode_prompts(pipe, "")
    rates = []

    def loss(a, b, label, name):
        modes.append(heads[0].training)
        assert name == "name" and a.shape == b.shape == (2, 2, 8, 8)
        return (a - label).square().mean() + (b + label).abs().mean()

    def rate(done):
        rates.append(done)
        return 0.1 + done
    heads = [make_head(pipe), make_head(pipe)]
    optimizer = torch.optim.SGD(heads[0].parameters(), lr=77.0)
    states = rg.training(heads[0], optimizer, model, iter(data), (4, 8), loss, rate, seed(5), (900, 903))
    generator, expected, drawn = seed(5), heads[1], []
    for index, (pair, label, _) in enumerate(data):
        state = next(states)
        timestep = torch.randint(900, 903, (2,), generator=generator)
        drawn += timestep.tolist()
        readouts = []
        for latents in pair:
            noise = torch.randn(2, 4, 8, 8, generator=generator)
            product = pipe.scheduler.alphas_cumprod[timestep].view(2, 1, 1, 1)
            with torch.no_grad():
                read, = rg.take_readings(pipe, product ** 0.5 * latents + (1 - product) ** 0.5 * noise, timestep, empty)
            readouts.append(expected(read.features, expected.embed(read), (8, 8)))
        value = (readouts[0] - label).square().mean() + (readouts[1] + label).abs().mean()
        for weight, gradient in zip(expected.parameters(), torch.autograd.grad(value, list(expected.parameters()))):
            weight.data -= (0.1 + (4 + index) / 8) * gradient
        assert (state.step, state.steps, state.head) == (5 + index, 8, heads[0])
        assert state.loss == pytest.approx(value.item(), rel=1e-5)
        assert not heads[0].training and type(state.loss) is float
        for mine, theirs in zip(heads[0].parameters(), expected.parameters()):
            torch.testing.assert_close(mine.detach(), theirs.detach(), atol=1e-5, rtol=1e-4)
    assert next(states, None) is None and modes == [True] * 3 and rates == [0.5, 0.625, 0.75] and len(set(drawn)) > 1
    broken = rg.training(heads[0], optimizer, model, iter(data), (0, 1), lambda *given: given[0].mean() * math.nan, 0.1,
                         seed(), (1, 2))
    with pytest.raises(ValueError, match="training loss: NaN"):
        next(broken)
    assert not heads[0].training
    constant = rg.training(heads[0], optimizer, model, iter(data), (0, 1), loss, 0.25, seed(), (1, 2))
    assert len(list(constant)) == 1 and optimizer.param_groups[0]["lr"] == 0.25 and modes == [True] * 4


def test_labels_and_timesteps_are_brought_to_where_the_pictures_are(bare):
    """On torch's device without numbers, the nearest to a GPU that is everywhere."""
    seen, head = [], SimpleNamespace(read=lambda reading, use_timestep: reading.latents)
    bare.add_noise = lambda latents, noise, timestep: seen.append((noise.device, timestep.device)) or latents + noise
    clean, label = torch.zeros(2, 4, 4, 4, device="meta"), torch.zeros(2, 1)
    prompt = Conditioning(torch.zeros(1, 1, 3, device="meta"))
    (readout,), labels = rg.read_batch(head, bare, ((clean,), label, "name"), prompt, seed(), (0, 1000))
    assert seen == [(clean.device,) * 2] and readout.device == labels[0].device == clean.device and labels[1] == "name"


def test_no_gradient_is_left_for_weights_that_a_loss_no_longer_reads(pipe):
    """What decays or goes on by momentum would move them: None, not zero."""
    head, uses = make_head(pipe), iter((True, False))
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.5)
    data = [((rand(1, 4, 8, 8),),)] * 2

    def loss(readout):
        return readout.mean() if next(uses) else head.mixing_weights.square().sum()
    states = rg.training(head, optimizer, denoiser(pipe), data, (0, 2), loss, 0.1, seed(), (0, 1000))
    next(states)
    before = head.output_head[0].weight.clone()
    next(states)
    assert torch.equal(before, head.output_head[0].weight)


def learn(pipe, head=None, steps=2, **settings):
    return list(rg_train(head or make_head(pipe, 1), pipe, lambda step: (rand(2, 3, 32, 32), torch.zeros(2, 1, 8, 8)), steps, **settings))


@pytest.mark.parametrize("rate", [-1.0, float("nan"), "fast", None])
def test_a_function_of_rates_returns_a_rate(pipe, tmp_path, rate):
    with pytest.raises(ValueError, match=r"the learning rate lr.0.5. is"):
        learn(pipe, lr=lambda done: rate if done else 1e-3, checkpoint=tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_a_training_that_blew_up_leaves_the_checkpoint_before(pipe, tmp_path):
    learn(pipe, checkpoint=tmp_path / "c.safetensors")
    before = (tmp_path / "c.safetensors").read_bytes()
    with pytest.raises(ValueError, match="NaN or infinity after step 3"):          # the loss is 0, its gradient is none
        learn(pipe, steps=3, loss=lambda readout, label: (readout * 0).sqrt().sum(), checkpoint=tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == before


def test_a_checkpoint_that_cannot_be_written_is_refused_at_the_call(pipe, tmp_path):
    (tmp_path / "file").write_text("x")
    for place, message in ((tmp_path / "file" / "c.safetensors", "cannot be a folder"), (tmp_path, "is a folder; pass a file in it")):
        with pytest.raises(ValueError, match=message):
            rg_train(make_head(pipe, 1), pipe, iter(()), 2, checkpoint=place)
    with pytest.raises(ValueError, match="the config of .* cannot be written"):
        rg_train(make_head(pipe, 1, extra={"joints": rand(3)}), pipe, iter(()), 2, checkpoint=tmp_path / "c.safetensors")


def test_a_head_that_cannot_learn_is_refused_at_the_call(pipe):
    with pytest.raises(ValueError, match="the head cannot learn"):
        rg_train(make_head(pipe, 1).requires_grad_(False), pipe, iter(()), 2)
    with torch.no_grad(), pytest.raises(ValueError, match="the head cannot learn"):
        rg_train(make_head(pipe, 1), pipe, iter(()), 2)


def test_labels_outside_the_range_are_refused_whatever_the_loss_is_told(pipe):
    batches = lambda step: (rand(2, 3, 32, 32), torch.full((2, 1, 8, 8), 255.0))
    for loss in (rg.spatial_loss, partial(rg.spatial_loss, background=-1.0)):
        with pytest.raises(ValueError, match="the batch of step 0: .*bring the target to that range"):
            next(rg_train(make_head(pipe, 1, activation="tanh"), pipe, batches, 2, loss))


def test_a_checkpoint_is_one_of_this_training(pipe, tmp_path):
    head, place = make_head(pipe, 1), tmp_path / "c.safetensors"
    with pytest.raises(ValueError, match="generator is 5"):
        rg_train(head, pipe, iter(()), 2, generator=5)
    learn(pipe, steps=3, checkpoint=place)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(ValueError, match="steps is 2, but the checkpoint .* has 3 steps done"):
        learn(pipe, head, 2, checkpoint=place)
    tensors, told = read_tensors(place)
    for wrong, said in (({"generator": None}, "is no checkpoint"), ({"step": "x"}, "is no checkpoint"), ({"head.mixing_weights": None}, "is no checkpoint"),
                        ({"head.mixing_weights": tensors["head.mixing_weights"] * float("nan")}, "damaged")):
        write_tensors(place, {name: value for name, value in {**tensors, **wrong}.items() if torch.is_tensor(value)},
                      {**told, **{name: value for name, value in wrong.items() if name == "step"}})
        with pytest.raises(ValueError, match=said):
            learn(pipe, head, 4, checkpoint=place)
    head.save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="is no checkpoint|another config"):
        learn(pipe, head, 4, checkpoint=tmp_path / "head" / "head.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


# ---- passes ----------------------------------------------------------------------------------------------------------

class Plain:
    """A denoiser whose two layers and prediction are formulas of what comes in; what came in is kept."""

    flow = False

    def __init__(self):
        self.layers, self.calls = [torch.nn.Identity(), torch.nn.Identity()], []

    def feature_map(self, output, latents):
        return output[:, :, : latents.shape[2]] * 1

    def __call__(self, latents, timestep, embeds, added, guidance_scale=None):
        self.calls.append((latents, timestep, embeds, added, guidance_scale))
        self.layers[0](torch.cat((latents, latents), 2))
        self.layers[1](latents * 3)
        timestep = timestep.view(-1, 1, 1, 1) if torch.is_tensor(timestep) else timestep
        return latents * embeds[:, :, :1, None] + 0.01 * timestep

    def passes(self, branches):
        return [branches][:len(branches)]

    def two_branches(self, scale):
        return scale > 1

    def frozen(self):
        return nullcontext()

    def decode(self, latents):
        return latents + 0.5


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setattr(rg, "denoiser", lambda pipe: pipe)
    return Plain()


class Told(Conditioning):
    def rows(self, branches, batch):
        assert set(branches) <= {"conditional", "negative"}
        return super().rows(branches, batch)


def told(**settings):
    return Told(torch.full((1, 1, 3), 0.5), torch.full((1, 1, 3), -0.25), {"hint": torch.ones(1, 2)}, **settings)


def test_features_are_those_of_the_last_pass_in_this_thread(bare):
    latents, own = rand(2, 4, 3, 5), torch.zeros(1, 4, 2, 2)
    with pytest.raises(KeyError), rg.collect_features(bare, latents) as features:
        assert features == [None, None]
        other = threading.Thread(target=lambda: bare(own, 1, told().prompt_embeds, {}))
        other.start()
        other.join()
        assert features == [None, None]
        for each in (own, latents):
            bare(each, 1, told().prompt_embeds, {})
        assert torch.equal(features[0], latents) and torch.equal(features[1], latents * 3)
        raise KeyError
    assert not any(layer._forward_hooks for layer in bare.layers)


def test_a_pass_of_two_branches(bare):
    latents, seen = rand(2, 4, 3, 5), []

    def control(*given):
        seen.append(given)
        return {"more": given[0].sum()}
    negative, conditional = rg.take_readings(bare, latents, 40, told(control=control), ("negative", "conditional"), 3.5)
    several, timestep, embeds, added, scale = bare.calls[0]
    assert torch.equal(several, torch.cat((latents, latents)))
    assert (timestep, scale) == (40, 3.5) and len(bare.calls) == 1
    assert torch.equal(embeds[:, 0, 0], torch.tensor([-0.25, -0.25, 0.5, 0.5]))
    assert set(added) == {"hint", "more"} and added["hint"].shape == (4, 2)
    assert seen[0][0] is several and seen[0][1] == 40 and seen[0][2] is embeds and set(seen[0][3]) == {"hint"}
    for each, branch, factor in ((negative, "negative", -0.25), (conditional, "conditional", 0.5)):
        assert each.model is bare and each.latents is latents and (each.timestep, each.branch) == (40, branch)
        assert torch.equal(each.features[0], latents)
        assert torch.equal(each.features[1], latents * 3) and type(each.features) is list
        torch.testing.assert_close(each.output, latents * factor + 0.4)
    alone, = rg.take_readings(bare, latents, 40, told())
    assert alone.branch == "conditional" and bare.calls[1][4] is None and set(bare.calls[1][3]) == {"hint"}
    torch.testing.assert_close(alone.output, latents * 0.5 + 0.4)


def test_classifier_free_guidance_by_formula(bare):
    latents = rand(2, 4, 3, 5)
    conditional, negative = latents * 0.5 + 0.4, latents * -0.25 + 0.4
    torch.testing.assert_close(rg.predict(bare, latents, 40, told(), 3.0), negative + 3 * (conditional - negative))
    assert len(bare.calls) == 1 and len(bare.calls[0][0]) == 4 and bare.calls[0][4] == 3.0
    torch.testing.assert_close(rg.predict(bare, latents, 40, told(), 1.0), conditional)
    known = rand(2, 4, 3, 5, of=1)
    torch.testing.assert_close(rg.predict(bare, latents, 40, told(), 3.0, known), negative + 3 * (known - negative))
    assert [len(call[0]) for call in bare.calls] == [4, 2, 2]   # what is known is not run again
    assert torch.equal(rg.predict(bare, latents, 40, told(), 1.0, known), known) and len(bare.calls) == 3
    assert torch.equal(bare.calls[2][2][:, 0, 0], torch.tensor([-0.25, -0.25])) and bare.calls[2][4] == 3.0


# ---- sampling and inversion ------------------------------------------------------------------------------------------

def ddim(prediction_type="epsilon", steps=5, **settings):
    scheduler = tiny.tiny_scheduler(prediction_type=prediction_type, **settings)
    scheduler.set_timesteps(steps)
    return scheduler


def ddim_by_formula(scheduler, latents, output, t, steps=5):
    """x_s from x_t: the clean picture and the noise that the prediction stands for, mixed anew."""
    a = float(scheduler.alphas_cumprod[t]) ** 0.5
    s = (1 - a * a) ** 0.5
    before = t - 1000 // steps
    b = float(scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod) ** 0.5
    kind = scheduler.config.prediction_type
    clean = {"epsilon": (latents - s * output) / a, "sample": output, "v_prediction": a * latents - s * output}[kind]
    return b * clean + (1 - b * b) ** 0.5 * (latents - a * clean) / s, clean


KINDS = ("epsilon", "sample", "v_prediction")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moves", ["latents", "prediction"])
def test_guided_sampling_is_the_papers_loop(bare, kind, moves):
    """At the first half of the steps the latents are moved, or the prediction is; then the ordinary step is taken."""
    scheduler, latents = ddim(kind, 6), torch.randn(2, 4, 4, 4, generator=seed())
    guide = rg.Guidance([pull(0.5, stop=0.5), pull(0.0, weight=0.0)], step_size=0.1, step_rule=plain, moves=moves)
    states = list(rg.sampling(bare, scheduler, rg.ddim_step, guide, told(), latents, 3.0, [{}] * 6))
    assert [state.step for state in states] == list(range(6))
    assert [state.timestep for state in states] == scheduler.timesteps.tolist()
    for index, state in enumerate(states):
        t, losses = state.timestep, None
        predict = lambda at: (at * -0.25 + 0.01 * t) + 3 * 0.75 * at
        away = 0
        if index < 3:
            losses = (latents - 0.5).square().sum((1, 2, 3)) / 2
            step = 0.1 * (latents - 0.5)
            if moves == "latents":
                latents = latents - step
            else:
                away = -step if kind == "sample" else step      # less of the picture, or more noise
        torch.testing.assert_close(state.noisy_latents, latents)
        latents, clean = ddim_by_formula(scheduler, latents, predict(latents) + away, t, 6)
        torch.testing.assert_close(state.latents, latents, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(state.clean_latents, clean, atol=1e-4, rtol=1e-4)
        assert state.losses[1] is None and (state.losses[0] is None) == (losses is None)
        if losses is not None:
            torch.testing.assert_close(state.losses[0], losses)
        assert state.model is bare and "model" not in repr(state) and not state.latents.requires_grad
        assert torch.equal(state.preview(), state.clean_latents + 0.5)
        latents = state.latents
    # 2 pictures: a pass that is read, then both branches, or the missing one
    rows = [len(call[0]) for call in bare.calls]
    assert rows == [2, 4 if moves == "latents" else 2] * 3 + [4] * 3 and {call[4] for call in bare.calls} == {3.0}
    assert list(rg.sampling(bare, scheduler, rg.ddim_step, rg.Guidance(), told(), latents, 1.0,
                            [{}] * 6))[0].losses == []


def test_what_is_kept_and_what_is_free(bare):
    scheduler, latents, mask = ddim(), torch.randn(2, 4, 4, 4, generator=seed()), torch.zeros(1, 1, 4, 4)
    mask[..., :2], mask[..., 2] = 1.0, 0.25
    asked = []
    at = lambda t: asked.append(t) or torch.full((1, 4, 4, 4), t / 100, dtype=torch.float64)
    keep = SimpleNamespace(latents_at=at)
    take = lambda scheduler, output, t, latents, clean, noise: scheduler.step(output, t, latents).prev_sample
    for objectives in ([], [pull(0.5)]):
        guide = rg.Guidance(objectives, step_size=0.1, step_rule=plain,
                            mask=F.interpolate(mask, (8, 8), mode="nearest").double())
        now = latents
        for state in rg.sampling(bare, scheduler, take, guide, told(), latents, 1.0, [{}] * 5, keep):
            now = now * mask + state.timestep / 100 * (1 - mask)
            step = 0.1 * (now - 0.5) * mask if objectives else 0
            torch.testing.assert_close(state.noisy_latents, now - step, atol=1e-4, rtol=1e-4)
            now, _ = ddim_by_formula(scheduler, now - step, 0.5 * (now - step) + 0.01 * state.timestep, state.timestep)
            torch.testing.assert_close(state.latents, now, atol=1e-4, rtol=1e-4)
    assert asked == scheduler.timesteps.tolist() * 2


def test_eulers_latents_are_larger_than_what_the_denoiser_sees(bare):
    scheduler = EulerDiscreteScheduler.from_config(ddim().config)
    scheduler.set_timesteps(5)
    noise = torch.randn(1, 4, 4, 4, generator=seed())
    now = noise * scheduler.init_noise_sigma
    take = lambda scheduler, output, t, latents, clean, noise: scheduler.step(output, t, latents).prev_sample
    guide = rg.Guidance([pull()], step_size=0.1, step_rule=plain)
    for index, state in enumerate(rg.sampling(bare, scheduler, take, guide, told(), noise, 1.0, [{}] * 5)):
        sigma, below = scheduler.sigmas[index:index + 2]
        seen = now / (1 + sigma ** 2) ** 0.5
        seen = seen - 0.1 * seen                                # Euler's x is x_0 + sigma * noise
        torch.testing.assert_close(state.noisy_latents, seen, atol=1e-4, rtol=1e-4)
        now = seen * (1 + sigma ** 2) ** 0.5 + (below - sigma) * (0.5 * seen + 0.01 * state.timestep)
        torch.testing.assert_close(state.latents, now, atol=1e-3, rtol=1e-3)
        now = state.latents
    with pytest.raises(ValueError, match=r"latents after t = \d+.*: NaN"):
        list(rg.sampling(bare, ddim(), lambda *given: given[3] * math.nan, rg.Guidance(), told(), noise, 1.0, [{}] * 5))


def test_steps_take_their_own_settings(bare):
    noise, given = torch.randn(1, 4, 4, 4, generator=seed()), []

    def take(scheduler, output, t, latents, clean, noise, **setting):
        given.append(setting)
        return latents
    list(rg.sampling(bare, ddim(), take, rg.Guidance(), told(), noise, 1.0,
                     [{"number": number} for number in range(5)]))
    assert given == [{"number": number} for number in range(5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [False, True])
def test_a_ddim_step_is_diffusers(kind, final):
    scheduler = DDIMScheduler.from_config(ddim(kind).config, set_alpha_to_one=final, steps_offset=int(not final))
    scheduler.set_timesteps(7)
    latents, output, new = (torch.randn(2, 4, 4, 4, generator=seed(of)) for of in range(3))
    for t in scheduler.timesteps:
        clean, noise = rg.clean_and_noise(scheduler, output, latents, int(t))
        parts = scheduler, output, t, latents, clean, noise
        for eta in (0.0, 0.4, 1.0):
            expected = scheduler.step(output, t, latents, eta=eta, variance_noise=new if eta else None).prev_sample
            torch.testing.assert_close(rg.ddim_step(*parts, eta=eta, variance_noise=new.double()), expected, atol=1e-5,
                                       rtol=1e-5)
        torch.testing.assert_close(rg.ddim_step(*parts), scheduler.step(output, t, latents).prev_sample, atol=1e-5,
                                   rtol=1e-5)
        drawn = scheduler.step(output, t, latents, eta=1.0, generator=seed(4)).prev_sample
        torch.testing.assert_close(rg.ddim_step(*parts, eta=1.0, generator=seed(4)), drawn, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_inverse_step_takes_a_ddim_step_back(kind):
    """With the same prediction the way up and the way down are each other's inverse, also at the ends."""
    scheduler = ddim(kind, 7)
    latents, output = (torch.randn(2, 4, 4, 4, generator=seed(of)) for of in range(2))
    for t in scheduler.timesteps.tolist():
        clean, noise = rg.clean_and_noise(scheduler, output, latents, t)
        below = rg.ddim_step(scheduler, output, t, latents, clean, noise)
        found = rg.inverse_ddim_step(scheduler, 0, t, below, output, noise)
        torch.testing.assert_close(found, latents, atol=1e-4, rtol=1e-3)


def test_a_velocity_and_the_latents_below_say_all(kind="v_prediction"):
    """Also where nothing of the picture is left in the noise; at which latents it was predicted does not matter."""
    scheduler = ddim(kind, 7, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    latents, output = (torch.randn(2, 4, 4, 4, generator=seed(of)) for of in range(2))
    assert scheduler.alphas_cumprod[scheduler.timesteps[0]] < 1e-6
    for t in scheduler.timesteps.tolist():
        below = rg.ddim_step(scheduler, output, t, latents, *rg.clean_and_noise(scheduler, output, latents, t))
        _, elsewhere = rg.clean_and_noise(scheduler, output, below, t)
        torch.testing.assert_close(rg.inverse_ddim_step(scheduler, 0, t, below, output, elsewhere), latents, atol=1e-4,
                                   rtol=1e-3)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("iterations", [0, 2, 40])
def test_inversion_goes_up_by_what_is_predicted(bare, flow, iterations):
    bare.flow, clean = flow, torch.randn(2, 4, 4, 4, generator=seed())
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else ddim()
    scheduler.set_timesteps(5)
    states = list(rg.inversion(bare, scheduler, told(), clean, 1.0, iterations))
    assert [state.step for state in states] == list(range(5))
    assert [state.timestep for state in states] == scheduler.timesteps.tolist()[::-1]
    assert len(bare.calls) == 5 * (1 + iterations)
    assert all(state.model is bare and state.losses == [] for state in states)
    before = clean
    for state, sigma, lower in zip(states, scheduler.timesteps.flip(0) / 1000,
                                   [0.0, *(scheduler.timesteps.flip(0) / 1000)]):
        t, guess = state.timestep, before
        for _ in range(1 + iterations):
            output, seen = 0.5 * guess + 0.01 * t, guess
            if flow:
                guess = before + (sigma - lower) * output
            else:
                a, s = float(scheduler.alphas_cumprod[t]) ** 0.5, float(1 - scheduler.alphas_cumprod[t]) ** 0.5
                below = float(scheduler.alphas_cumprod[t - 200] if t >= 200 else scheduler.final_alpha_cumprod)
                guess = a * (before - (1 - below) ** 0.5 * output) / below ** 0.5 + s * output
        torch.testing.assert_close(state.latents, guess, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(state.clean_latents, seen - sigma * output if flow else (seen - s * output) / a,
                                   atol=1e-2, rtol=1e-2)
        assert state.noisy_latents is state.latents and not state.latents.requires_grad
        if iterations == 40:                                    # what has settled is the inverse of the step down
            top, output = state.latents, 0.5 * state.latents + 0.01 * t
            down = top + (lower - sigma) * output if flow else ddim_by_formula(scheduler, top, output, t)[0]
            torch.testing.assert_close(down, before, atol=2e-2, rtol=2e-2)
        before = state.latents
    two = rg.inversion(bare, scheduler, told(), clean, 3.0, 0)
    bare.calls.clear()
    next(two)
    assert len(bare.calls[0][0]) == 4                           # both branches, where the guidance scale asks for them
    with pytest.raises(ValueError, match="inverted latents at timestep"):
        next(rg.inversion(bare, scheduler, told(), clean * math.inf, 1.0, 0))


def test_flow_matching_begins_with_the_noise_as_it_is(bare):
    bare.flow, scheduler = True, FlowMatchEulerDiscreteScheduler(shift=3.0)
    noise = torch.randn(1, 4, 4, 4, generator=seed())
    scheduler.set_timesteps(5)
    take = lambda scheduler, output, t, latents, clean, noise: scheduler.step(output, t, latents).prev_sample
    now = noise
    guide = rg.Guidance([pull()], step_size=0.1, step_rule=plain)
    for index, state in enumerate(rg.sampling(bare, scheduler, take, guide, told(), noise, 1.0, [{}] * 5)):
        torch.testing.assert_close(state.noisy_latents, now * 0.9, atol=1e-4, rtol=1e-4)
        velocity = 0.5 * 0.9 * now + 0.01 * state.timestep
        torch.testing.assert_close(state.clean_latents, now * 0.9 - scheduler.sigmas[index] * velocity, atol=1e-4,
                                   rtol=1e-4)
        now = now * 0.9 + (scheduler.sigmas[index + 1] - scheduler.sigmas[index]) * velocity
        torch.testing.assert_close(state.latents, now, atol=1e-4, rtol=1e-4)
        now = state.latents


def test_a_moved_prediction_keeps_its_number_format(bare):
    latents = torch.randn(1, 4, 4, 4, generator=seed()).half()
    prompt = Conditioning(torch.full((1, 1, 3), 0.5, dtype=torch.float16))
    guide = rg.Guidance([pull(1.0)], moves="prediction", step_size=0.1, step_rule=plain)
    found, output, _ = rg.guided_prediction(bare, ddim(), guide, prompt, latents, 0, 0, 1.0)
    assert found is latents and output.dtype == torch.float16
    torch.testing.assert_close(output, 0.5 * latents + 0.1 * (latents - 1), atol=1e-2, rtol=1e-2)


def test_an_evaluation_that_would_lose_a_move_is_not_guided(bare, monkeypatch):
    latents, scheduler = torch.randn(1, 4, 4, 4, generator=seed()), ddim()
    monkeypatch.setattr(rg, "takes_moves", lambda asked: asked is not scheduler)
    found, output, losses = rg.guided_prediction(bare, scheduler, rg.Guidance([pull(), pull()]), told(), latents, 40, 0,
                                                 1.0)
    assert found is latents
    assert losses == [None, None] and torch.equal(output, 0.5 * latents + 0.4) and len(bare.calls) == 1


@pytest.mark.parametrize("wrong, said", [
    (lambda at: at.square().mean((1, 2)), r"Wrong returned a? ?.*shape \(2, 4\).*one number for each of the 2"), (lambda at: at.square(), "one number"),
    (lambda at: at.square().mean(), "one number"), (lambda at: 0.5, "Wrong returned 0.5")])
def test_an_objective_of_ones_own_gives_one_number_for_each_picture(bare, wrong, said):
    class Wrong(rg.Objective):
        def __call__(self, reading):
            return wrong(reading.latents)
    guide = rg.Guidance([Wrong(head=Stub(2, torch.zeros(1)), stop=1.0)])
    with pytest.raises(ValueError, match=said):
        next(rg.sampling(bare, ddim("epsilon", 4), rg.ddim_step, guide, told(), torch.randn(2, 4, 4, 4, generator=seed()), 3.0, [{}] * 4))


def test_a_step_rule_of_ones_own_gives_a_direction(bare):
    guide = rg.Guidance([pull(0.5, stop=1.0)], step_rule=lambda gradients, mask: gradients[-1].mean(1))
    with pytest.raises(ValueError, match=r"step_rule returned .*; it returns a direction \(2, 4, 4, 4\), as the gradient is"):
        next(rg.sampling(bare, ddim("epsilon", 4), rg.ddim_step, guide, told(), torch.randn(2, 4, 4, 4, generator=seed()), 3.0, [{}] * 4))


def test_a_mask_has_the_channels_of_what_it_weighs():
    from rg_minimal.maps import masked_mean
    error = torch.rand(2, 3, 4, 4, generator=seed())
    assert masked_mean(error, torch.ones(1, 3, 1, 1)).shape == masked_mean(error, torch.ones(1, 1, 2, 2)).shape == (2,)
    with pytest.raises(ValueError, match="mask has 14 channels, but the distance returned 3"):
        masked_mean(error, torch.ones(1, 14, 1, 1))
