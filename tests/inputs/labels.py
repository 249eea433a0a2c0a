"""Labels, targets, masks, points, sources, intervals and batches that do not belong together: what would be broadcast,
clamped or left out without a word, and what only looks so."""
import functools
from functools import partial

import torch

import tiny
from rg_minimal import (AppearanceObjective, CorrespondenceObjective, Guidance, GuidanceCallback, Source, SpatialObjective,
                        appearance_loss, correspondence_loss, guided_sample, invert, spatial_loss, train_head)
from rg_minimal.guider import ReadoutGuidance
from rg_minimal.puppets.editing import carry, drag, identity, joined, region
from rg_minimal.puppets.heads import (Samples, depth_objective, draw_batches, draw_strokes, edge_objective, get_task, heatmaps,
                                      new_head, pose_objective, score_head, train_task)
from rg_minimal.puppets.judge import pck
from . import Case

PROMPT, NAN, INF = "a puppet", float("nan"), float("inf")
pipe, xl_pipe = functools.cache(tiny.tiny_pipe), functools.cache(tiny.tiny_xl_pipe)


@functools.cache
def other_pipe():
    """The same sizes, other weights."""
    made = tiny.tiny_pipe()
    torch.manual_seed(5)
    for weight in made.unet.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return made


@functools.cache
def head(channels=2, **settings):
    return tiny.make_head(pipe(), channels, **settings)


@functools.cache
def task_head(name):
    return new_head(pipe(), name)


@functools.cache
def states(prompts=1, steps=4, height=32, which=pipe):
    return list(guided_sample(which(), [PROMPT] * prompts, num_inference_steps=steps, generator=tiny.seed(), height=height, width=height))


@functools.cache
def source(prompts=1, steps=4, height=32, which=pipe):
    return Source.from_states(which(), states(prompts, steps, height, which), PROMPT)


@functools.cache
def still(pictures=1, side=32):
    return Source.from_picture(pipe(), torch.rand(pictures, 3, side, side, generator=tiny.seed()), generator=tiny.seed())


def run(*objectives, prompts=1, which=pipe, steps=4, **settings):
    return list(guided_sample(which(), [PROMPT] * prompts, list(objectives), num_inference_steps=steps, generator=tiny.seed(), **settings))


def guides(states):
    """Whether it was guided, to finite latents."""
    return any(loss is not None for state in states for loss in state.losses) and states[-1].latents.isfinite().all()


def ones(*shape):
    return torch.ones(*shape)


def spatial(**settings):
    return SpatialObjective(**{"head": head(), "target": torch.zeros(1, 2, 8, 8), "stop": 1.0, **settings})


def looks(**settings):
    return AppearanceObjective(**{"head": head(0), "source": source(), "stop": 1.0, **settings})


def pull(handles=((8, 8),), targets=((20, 20),), **settings):
    return CorrespondenceObjective(**{"head": head(0), "source": source(), "stop": 1.0, **settings}, source_points=handles, target_points=targets)


CASES = []


def refused(door, **cases):
    """Cases by their names (underscores for blanks): (call, word, word, ...)."""
    CASES.extend(Case(door, name.replace("_", " "), call, tuple(says)) for name, (call, *says) in cases.items())


def works(door, **cases):
    """Cases by their names: (call, right)."""
    CASES.extend(Case(door, name.replace("_", " "), call, right=right) for name, (call, right) in cases.items())


# ---- losses ------------------------------------------------------------------------------------------------------------

READOUT = torch.rand(2, 14, 8, 8, generator=tiny.seed())
refused("spatial_loss",
        one_channel_for_14=(lambda: spatial_loss(READOUT, ones(2, 1, 8, 8)), "target", "(2, 14, h, w)"),
        one_label_for_two_pictures=(lambda: spatial_loss(READOUT, ones(1, 14, 8, 8)), "target",
                                    "a row for each picture"),
        three_labels_for_two=(lambda: spatial_loss(READOUT, ones(3, 14, 8, 8)), "target", "a row for each picture"),
        without_channels=(lambda: spatial_loss(READOUT, ones(2, 8, 8)), "target", "(2, 14, h, w)"),
        one_map=(lambda: spatial_loss(READOUT, ones(8, 8)), "target", "pass a tensor"),
        without_batch_axis=(lambda: spatial_loss(READOUT, ones(14, 8, 8)), "target", "(2, 14, h, w)"),
        complex=(lambda: spatial_loss(READOUT, READOUT.to(torch.complex64)), "target", "pass a tensor"),
        NaN=(lambda: spatial_loss(READOUT, READOUT * NAN), "target", "NaN"),
        a_number=(lambda: spatial_loss(READOUT, 0.5), "target", "pass a tensor"),
        nothing=(lambda: spatial_loss(READOUT, None), "target", "pass a tensor"),
        channels_last=(lambda: spatial_loss(READOUT, ones(2, 8, 8, 14)), "target", "(2, 14, h, w)"))
works("spatial_loss",
      the_readout_itself=(lambda: spatial_loss(READOUT, READOUT), lambda loss: loss == 0),
      another_size=(lambda: spatial_loss(ones(2, 14, 8, 8), ones(2, 14, 32, 32)), lambda loss: loss == 0),
      whole_numbers=(lambda: spatial_loss(ones(2, 14, 8, 8), torch.zeros(2, 14, 8, 8, dtype=torch.long)),
                     lambda loss: loss == 1),
      truth_values=(lambda: spatial_loss(ones(2, 14, 8, 8), ones(2, 14, 8, 8) > 2), lambda loss: loss == 1),
      half_precision=(lambda: spatial_loss(READOUT.half(), READOUT), lambda loss: loss < 1e-6))

A, B = (torch.rand(2, 8, 8, 8, generator=tiny.seed(i)) for i in (1, 2))
POINTS = torch.rand(2, 5, 2, generator=tiny.seed()) * 32


def matched(a=POINTS, b=POINTS):
    return correspondence_loss(A, B, a, b, (32, 32))


refused("correspondence_loss",
        order_2_N=(lambda: matched(POINTS[0].T, POINTS[0].T), "points_a", "(x, y)"),
        order_B_2_N=(lambda: matched(POINTS.mT, POINTS.mT), "points_a", "(x, y)"),
        fractions=(lambda: matched(POINTS / 32, POINTS / 32), "points_a", "pixels"),
        fractions_in_one=(lambda: matched(POINTS, POINTS / 32), "points_b", "pixels"),
        another_number=(lambda: matched(POINTS, POINTS[:, :4]), "points_b", "as many"),
        outside=(lambda: matched(POINTS + 40, POINTS), "points_a", "inside"),
        negative=(lambda: matched(POINTS, POINTS - 20), "points_b", "inside"),
        NaN=(lambda: matched(POINTS * NAN), "points_a", "finite"),
        complex=(lambda: matched(POINTS.to(torch.complex64)), "points_a", "finite"),
        a_list=(lambda: matched([[3, 4]]), "points_a", "pass"),
        none=(lambda: matched(POINTS[:, :0], POINTS[:, :0]), "points_a", "pass"),
        three_rows_for_two=(lambda: matched(POINTS[[0, 0, 1]], POINTS), "points_a", "(2, N, 2)"),
        one_row_for_two=(lambda: matched(POINTS[:1], POINTS), "points_a", "(2, N, 2)"))
works("correspondence_loss",
      points_of_each_picture=(matched, lambda loss: loss.isfinite()),
      the_same_points_in_all=(lambda: matched(POINTS[0], POINTS[0]) - matched(POINTS[:1].expand(2, -1, -1),
                              POINTS[:1].expand(2, -1, -1)), lambda difference: difference.abs() < 1e-5))
refused("appearance_loss",
        one_positive_for_two=(lambda: appearance_loss(A, B[:1], B), "positive", "for each picture"),
        one_negative_for_two=(lambda: appearance_loss(A, B, B[:1]), "negative", "for each picture"),
        one_channel=(lambda: appearance_loss(A, B[:, :1], B), "positive", "one shape"),
        another_size=(lambda: appearance_loss(A, B, B[..., :4]), "negative", "one shape"))
works("appearance_loss",
      triplets=(lambda: appearance_loss(A, A, A), lambda loss: abs(loss - 0.5) < 1e-5))


# ---- training ----------------------------------------------------------------------------------------------------------

PICTURES = torch.rand(2, 3, 32, 32, generator=tiny.seed())


def train(*batches, which=None, steps=1, **settings):
    """Losses of a training; without batches of its own, of one that is right."""
    which = which or head()
    return [state.loss for state in train_head(which, pipe(), list(batches), steps, generator=tiny.seed(), lr=0.0, **settings)]


def label(*shape, value=0.0, **settings):
    return train((PICTURES, torch.full(shape, value)), **settings)


pixels = partial(correspondence_loss, image_size=(32, 32))
refused("train_head, labels",
        one_channel_for_two=(lambda: label(2, 1, 8, 8), "label 0", "(2, 2, h, w)"),
        one_label_for_two=(lambda: label(1, 2, 8, 8), "label 0", "one row for each"),
        three_for_two=(lambda: label(3, 2, 8, 8), "label 0", "one row for each"),
        without_channels=(lambda: label(2, 8, 8), "label 0", "(2, 2, h, w)"),
        complex=(lambda: train((PICTURES, torch.zeros(2, 2, 8, 8, dtype=torch.complex64))), "label 0", "real"),
        NaN=(lambda: label(2, 2, 8, 8, value=NAN), "label 0", "finite"),
        infinite=(lambda: label(2, 2, 8, 8, value=INF), "label 0", "finite"),
        to_255_for_tanh=(lambda: label(2, 2, 8, 8, value=255.0, which=head(activation="tanh")), "[255, 255]",
                         "bring the target"),
        beyond_what_the_head_says=(lambda: label(2, 2, 8, 8, value=0.9,
                                   which=tiny.make_head(pipe(), activation="tanh",
        extra={"value_range": [-0.5, 0.5]})), "[-0.5, 0.5]", "bring the target"),
        none=(lambda: train((PICTURES,)), "labels", "loss(*readouts, *labels)"),
        two=(lambda: train((PICTURES, ones(2, 2, 8, 8), ones(2), ones(2), ones(2))), "labels", "pass"),
        a_list_of_numbers=(lambda: train((PICTURES, [0.0, 1.0])), "label 0", "pass a tensor"),
        one_number_a_picture_too_few=(lambda: train((PICTURES, ones(2, 2, 8, 8), ones(3)), loss=lambda readout,
                                      target, side: readout.mean()), "label 1", "one row for each"),
        points_of_one_picture_for_two=(lambda: train(((PICTURES, PICTURES), POINTS[:1], POINTS[:1]), which=head(0),
                                       loss=pixels), "label 0", "one row"),
        points_2_N=(lambda: train(((PICTURES, PICTURES), POINTS.mT, POINTS.mT), which=head(0), loss=pixels),
                    "points_a", "(x, y)"),
        a_spatial_loss_for_a_relative_head=(lambda: label(2, 2, 8, 8, which=head(0)), "spatial_loss", "relative"),
        a_relative_loss_for_a_spatial_head=(lambda: train(((PICTURES,) * 3,), loss=appearance_loss),
                                            "appearance_loss", "spatial"),
        correspondence_for_a_spatial_head=(lambda: train(((PICTURES,) * 2, POINTS, POINTS), loss=pixels),
                                           "correspondence_loss", "spatial"),
        a_loss_that_is_none=(lambda: train((PICTURES, ones(2, 2, 8, 8)), loss="mse"), "loss", "function"))
works("train_head, labels",
      right_ones=(lambda: label(2, 2, 8, 8), lambda losses: len(losses) == 1 and losses[0] > 0),
      whole_numbers=(lambda: train((PICTURES, torch.zeros(2, 2, 8, 8, dtype=torch.long))),
                     lambda losses: losses == label(2, 2, 8, 8)),
      in_the_range_of_tanh=(lambda: label(2, 2, 8, 8, value=-1.0, which=head(activation="tanh")),
                            lambda losses: losses[0] > 0),
      any_range_without_tanh=(lambda: label(2, 2, 8, 8, value=255.0), lambda losses: losses[0] > 1000),
      a_name_beside_them=(lambda: train((PICTURES, ones(2, 2, 8, 8), "a name"), loss=lambda readout, target,
                          name: spatial_loss(readout, target)), lambda losses: losses[0] > 0),
      a_number_for_all=(lambda: train((PICTURES, torch.tensor(0.5)), loss=lambda readout,
                        value: (readout - value).square().mean()), lambda losses: losses[0] > 0),
      pairs=(lambda: train(((PICTURES, PICTURES), POINTS, POINTS), which=head(0), loss=pixels),
             lambda losses: losses[0] > 0),
      triplets=(lambda: train(((PICTURES, PICTURES, PICTURES),), which=head(0), loss=appearance_loss),
                lambda losses: losses[0] > 0))
refused("train_head, batches",
        none=(lambda: train(), "batches ended", "pass as many"),
        one_too_few=(lambda: label(2, 2, 8, 8, steps=2), "after 1 of 2", "pass as many"),
        an_exhausted_generator=(lambda: list(train_head(head(), pipe(), iter(()), 2)), "batches ended", "function"),
        nothing=(lambda: list(train_head(head(), pipe(), None, 1)), "batches", "pass an iterable"),
        a_number=(lambda: list(train_head(head(), pipe(), 3, 1)), "batches", "pass an iterable"),
        a_name=(lambda: list(train_head(head(), pipe(), "data", 1)), "batches", "pass an iterable"),
        a_tensor=(lambda: list(train_head(head(), pipe(), PICTURES, 1)), "batches", "pass an iterable"),
        pictures_alone=(lambda: train(PICTURES), "batch of step 0", "pass a tuple"),
        an_empty_tuple=(lambda: train(()), "batch of step 0", "pass a tuple"),
        a_dict=(lambda: train({"pictures": PICTURES}), "batch of step 0", "pass a tuple"),
        a_function_that_returns_nothing=(lambda: list(train_head(head(), pipe(), lambda step: None, 1)),
                                         "batch of step 0", "pass a tuple"),
        members_of_other_numbers=(lambda: train(((PICTURES, PICTURES[:1]), POINTS, POINTS), which=head(0),
                                  loss=pixels), "different shapes", "as many"),
        members_of_other_sizes=(lambda: train(((PICTURES, PICTURES[..., :16]), POINTS, POINTS), which=head(0),
                                loss=pixels), "different shapes", "one size"),
        two_members_for_triplets=(lambda: train(((PICTURES, PICTURES),), which=head(0), loss=appearance_loss),
                                  "2 members", "loss(*readouts, *labels)"),
        latents_as_pictures=(lambda: train((torch.randn(2, 4, 16, 16), ones(2, 2, 8, 8))), "pictures", "latents="),
        pictures_as_latents=(lambda: train((PICTURES, ones(2, 2, 8, 8)), latents=True), "latents", "(B, 4, h, w)"),
        latents_that_are_no_truth_value=(lambda: train((PICTURES, ones(2, 2, 8, 8)), latents=PICTURES), "latents",
                                         "True or False"),
        empty_samples=(lambda: list(train_task(pipe(), get_task("depth", steps=1, batch=2),
                       Samples((ones(0, 4, 16, 16),), (ones(0, 1, 32, 32),)), task_head("depth"))), "samples",
        "at least one"),
        empty_samples_to_score=(lambda: score_head(pipe(), "depth", task_head("depth"), (100,),
                                Samples((ones(0, 4, 16, 16),), (ones(0, 1, 32, 32),))), "samples", "at least one"))
works("train_head, batches",
      a_list=(lambda: label(2, 2, 8, 8), lambda losses: len(losses) == 1),
      a_function=(lambda: [state.step for state in train_head(head(), pipe(),
                  lambda step: (PICTURES, ones(2, 2, 8, 8)), 2, lr=0.0)], lambda steps: steps == [1, 2]),
      more_than_steps=(lambda: train(*[(PICTURES, ones(2, 2, 8, 8))] * 3), lambda losses: len(losses) == 1),
      latents=(lambda: train((torch.randn(2, 4, 16, 16), ones(2, 2, 8, 8)), latents=True),
               lambda losses: losses[0] > 0),
      members_in_a_list=(lambda: train(([PICTURES, PICTURES], POINTS, POINTS), which=head(0), loss=pixels),
                         lambda losses: losses[0] > 0),
      a_list_of_single_pictures=(lambda: train((list(PICTURES), torch.zeros(2, 2, 8, 8))),
                                 lambda losses: losses == label(2, 2, 8, 8)),
      samples_of_a_task=(lambda: draw_batches(Samples((ones(3, 4, 16, 16),), (ones(3, 1, 32, 32),)),
                         2)(0)[0][0].shape, lambda shape: shape[0] == 2))


# ---- objectives --------------------------------------------------------------------------------------------------------

refused("SpatialObjective",
        one_channel_for_two=(lambda: spatial(target=ones(1, 1, 8, 8)), "target", "(B, 2, h, w)"),
        B_h_w=(lambda: spatial(target=ones(3, 8, 8)), "target", "(B, 2, h, w)"),
        complex=(lambda: spatial(target=torch.zeros(1, 2, 8, 8, dtype=torch.complex64)), "target", "pass a tensor"),
        a_number=(lambda: spatial(target=1.0), "target", "pass a tensor"),
        a_list=(lambda: spatial(target=[[0.0]]), "target", "pass a tensor"),
        to_255_for_tanh=(lambda: spatial(head=head(activation="tanh"), target=ones(1, 2, 8, 8) * 255), "target",
                         "[-1, 1]"),
        to_1_for_a_head_to_a_half=(lambda: spatial(head=task_head("edges"), target=ones(1, 4, 8, 8)), "target",
                                   "[-0.5, 0.5]"),
        three_targets_for_two_pictures=(lambda: run(spatial(target=ones(3, 2, 8, 8)), prompts=2), "target", "1 or 2"),
        three_masks_for_two_pictures=(lambda: run(spatial(mask=ones(3, 1, 8, 8)), prompts=2), "mask", "1 or 2"),
        mask_of_zeros=(lambda: spatial(mask=torch.zeros(1, 1, 8, 8)), "mask", "zero everywhere"),
        mask_of_a_single_pixel=(lambda: run(spatial(mask=torch.nn.functional.pad(ones(1, 1, 1, 1),
                                (0, 127, 0, 127)))), "mask", "a few cells"),
        mask_to_255=(lambda: spatial(mask=ones(1, 1, 8, 8) * 255), "mask", "[0, 1]"),
        negative_mask=(lambda: spatial(mask=-ones(1, 1, 8, 8)), "mask", "[0, 1]"),
        mask_of_three_channels=(lambda: spatial(mask=ones(1, 3, 8, 8)), "mask", "(B, 2, h, w)"),
        flat_mask=(lambda: spatial(mask=ones(8, 8)), "mask", "pass a tensor"),
        a_relative_head=(lambda: spatial(head=head(0)), "head", "pass a spatial head"),
        a_name_for_a_head=(lambda: spatial(head="pose"), "head", "from_pretrained"),
        a_unet_for_a_head=(lambda: spatial(head=pipe().unet), "head", "from_pretrained"),
        a_distance_that_is_none=(lambda: spatial(distance=2), "distance", "function"))
works("SpatialObjective",
      a_target=(lambda: run(spatial()), guides),
      a_target_without_batch_axis=(lambda: spatial(target=ones(2, 8, 8)),
                                   lambda made: made.target.shape == (1, 2, 8, 8)),
      one_target_for_two=(lambda: run(spatial(), prompts=2), guides),
      two_for_two=(lambda: run(spatial(target=torch.zeros(2, 2, 8, 8)), prompts=2), guides),
      whole_numbers=(lambda: spatial(target=ones(1, 2, 8, 8).long()), lambda made: made.target.is_floating_point()),
      the_range_of_tanh=(lambda: spatial(head=head(activation="tanh"), target=-ones(1, 2, 8, 8)),
                         lambda made: made.target.min() == -1),
      any_target_for_a_distance_of_ones_own=(lambda: run(spatial(target=ones(1, 5, 8, 8) * 9, distance=lambda readout,
                                             target: (readout - 1) ** 2)), guides),
      a_mask_of_truth_values=(lambda: run(spatial(mask=ones(1, 1, 8, 8) > 0)), guides),
      a_mask_for_each_channel=(lambda: run(spatial(mask=ones(1, 2, 8, 8))), guides),
      a_mask_for_one_picture_of_two=(lambda: run(spatial(mask=torch.tensor([0.0, 1]).view(2, 1, 1, 1).expand(2, 1, 8,
                                     8)), prompts=2), guides))

refused("AppearanceObjective",
        a_spatial_head=(lambda: looks(head=head()), "head", "pass a relative head"),
        mask_of_zeros=(lambda: looks(mask=torch.zeros(1, 1, 8, 8)), "mask", "zero everywhere"),
        three_channels=(lambda: looks(mask=ones(1, 3, 8, 8)), "mask", "(B, 1, h, w)"),
        mask_beside_boxes=(lambda: looks(mask=ones(1, 1, 8, 8), boxes=((0, 0, 9, 9),) * 2), "mask", "not both"),
        zeros_for_one_picture_pooled=(lambda: run(looks(mask=torch.tensor([0.0, 1]).view(2, 1, 1, 1).expand(2, 1, 8,
                                      8), pool=True), prompts=2), "mask", "zero everywhere"),
        one_box=(lambda: looks(boxes=((0, 0, 9, 9),)), "boxes", "source box, picture box"),
        box_outside=(lambda: run(looks(boxes=((0, 0, 9, 9), (0, 0, 64, 9)))), "boxes", "outside"),
        fractions_as_box=(lambda: looks(boxes=((0.5, 0.5, 0.2, 0.2),) * 2), "boxes", "x0 < x1"),
        no_source=(lambda: looks(source=None), "source", "function"),
        a_picture_as_source=(lambda: looks(source=PICTURES), "source", "function"))
works("AppearanceObjective",
      a_source=(lambda: run(looks()), guides), boxes=(lambda: run(looks(boxes=((0, 0, 9, 9), (8, 8, 32, 32)))), guides),
      pooled=(lambda: run(looks(pool=True, mask=ones(1, 1, 8, 8))), guides),
      one_source_for_two=(lambda: run(looks(), prompts=2), guides),
      two_for_two=(lambda: run(looks(source=source(2)), prompts=2), guides))

refused("CorrespondenceObjective",
        a_spatial_head=(lambda: pull(head=head()), "head", "pass a relative head"),
        one_handle_two_targets=(lambda: pull([(8, 8)], [(20, 20), (9, 9)]), "1 source points", "as many"),
        the_same_handle_twice=(lambda: pull([(8, 8), (8, 8)], [(20, 20), (9, 9)]), "(8, 8)", "one target"),
        order_2_N=(lambda: pull(ones(2, 5) * 9, ones(2, 5) * 9), "source_points", "(N, 2)"),
        fractions=(lambda: pull([(0.2, 0.3)], [(0.5, 0.5)]), "fractions", "pixels"),
        outside=(lambda: run(pull([(40, 8)])), "source_points", "outside"),
        beyond_the_border=(lambda: run(pull(targets=[(32.5, 8)])), "target_points", "outside"),
        NaN=(lambda: pull([(NAN, 8)]), "source_points", "finite"), text=(lambda: pull("ab"), "source_points", "pass"),
        none=(lambda: pull([], []), "source_points", "N >= 1"),
        a_point_alone=(lambda: pull([8, 8]), "source_points", "(N, 2)"),
        three_numbers=(lambda: pull([(8, 8, 8)]), "source_points", "(N, 2)"),
        anti_ghosting_for_three=(lambda: pull(anti_ghosting=ones(3)), "anti_ghosting", "as many"))
works("CorrespondenceObjective",
      a_pull=(lambda: run(pull()), guides),
      a_point_that_stays=(lambda: run(pull([(8, 8), (3, 3)], [(20, 20), (3, 3)])), guides),
      whole_numbers=(lambda: run(pull(torch.tensor([[8, 8]]))), guides),
      the_same_twice=(lambda: run(pull([(8, 8), (8, 8)], [(20, 20), (20, 20)])), guides),
      the_first_pixel=(lambda: run(pull([(0.5, 0.5)], [(20, 20)])), guides))

MADE = {"looks": looks, "pull": pull}
for name, make in MADE.items():
    refused(f"source of {name}",
            three_pictures_for_one=(partial(lambda make: run(make(source=source(3))), make), "source", "1 or 1"),
            three_pictures_for_two=(partial(lambda make: run(make(source=source(3)), prompts=2), make), "source",
                                    "1 or 2"),
            three_still_pictures_for_one=(partial(lambda make: run(make(source=still(3))), make), "source", "1 or 1"),
            another_size=(partial(lambda make: run(make(source=source(height=48))), make), "source", "at that size"),
            a_still_picture_of_another_size=(partial(lambda make: run(make(source=still(side=64))), make), "source",
                                             "at that size"),
            another_number_of_steps=(partial(lambda make: run(make(source=source(steps=5))), make), "source",
                                     "same num_inference_steps"),
            another_model=(partial(lambda make: run(make(source=source(which=xl_pipe))), make), "source",
                           "another model"),
            the_same_model_with_other_weights=(partial(lambda make: run(make(source=source(which=other_pipe))), make),
                                               "source", "another model"))
    works(f"source of {name}",
          a_still_picture=(partial(lambda make: run(make(source=still())), make), guides),
          an_inverted_picture=(partial(lambda make: run(make(source=Source.from_states(pipe(),
                               invert(pipe(), PICTURES[:1], num_inference_steps=4)))), make), guides),
          a_function=(partial(lambda make: run(make(source=lambda timestep, branch: source()(timestep, branch))),
                      make), guides))
works("source of looks",
      another_size_pooled=(lambda: run(looks(source=still(side=64), pool=True)), guides))
refused("Source.from_states",
        none=(lambda: Source.from_states(pipe(), []), "states", "nothing"),
        an_exhausted_generator=(lambda: Source.from_states(pipe(), iter(())), "states", "a generator runs once"),
        pictures=(lambda: Source.from_states(pipe(), PICTURES), "states", "guided_sample or invert"),
        nothing=(lambda: Source.from_states(pipe(), None), "states", "guided_sample or invert"),
        latents=(lambda: Source.from_states(pipe(), [state.latents for state in states()]), "states",
                 "guided_sample or invert"))
works("Source.from_states",
      a_generator=(lambda: Source.from_states(pipe(), iter(states())),
                   lambda made: made.count == 1 and made.image_size == (32, 32) and len(made.timesteps) == 4))

MASK = torch.zeros(1, 1, 16, 16)
MASK[..., 8:] = 1
refused("keep",
        without_mask=(lambda: run(keep=source()), "keep", "needs a mask"),
        no_source=(lambda: run(keep=1, mask=MASK), "keep", "pass a Source"),
        states=(lambda: run(keep=states(), mask=MASK), "keep", "pass a Source"),
        three_pictures_for_one=(lambda: run(keep=source(3), mask=MASK), "keep", "1 or 1"),
        another_size=(lambda: run(keep=source(height=48), mask=MASK), "source", "at that size"),
        another_number_of_steps=(lambda: run(keep=source(steps=5), mask=MASK), "source", "same num_inference_steps"),
        another_model=(lambda: run(keep=source(which=xl_pipe), mask=MASK), "keep", "another model"),
        mask_of_zeros=(lambda: run(keep=source(), mask=MASK * 0), "mask", "zero everywhere"),
        mask_to_255=(lambda: run(keep=source(), mask=MASK * 255), "mask", "[0, 1]"),
        three_masks=(lambda: run(keep=source(), mask=MASK.expand(3, -1, -1, -1)), "mask", "1 or 1"))
works("keep",
      a_source=(lambda: run(keep=source(), mask=MASK)[-1].latents,
                lambda latents: (latents - states()[-1].latents)[..., :8].abs().max() < 1),
      one_for_two=(lambda: run(keep=source(), mask=MASK, prompts=2), lambda made: len(made[-1].latents) == 2))

# ---- intervals and schedules -------------------------------------------------------------------------------------------


def callback(*objectives, steps=4, **settings):
    made = GuidanceCallback(list(objectives), **settings)
    pipe()(PROMPT, num_inference_steps=steps, generator=tiny.seed(), output_type="latent", callback_on_step_end=made)
    return made.losses


def guider(*objectives, steps=4):
    made = ReadoutGuidance(list(objectives))
    for step in range(steps):
        made.set_state(step, steps, torch.tensor(999 - step))
        made.prepare_models(pipe().unet), made.cleanup_models(pipe().unet)
    return made


DOORS = {"guided_sample": run, "GuidanceCallback": callback, "ReadoutGuidance": guider}
SCHEDULES = {"NaN": lambda done: NAN, "nothing": lambda done: None, "a negative number": lambda done: -1.0,
             "infinity": lambda done: INF, "text": lambda done: "1", "a truth value": lambda done: True,
             "several numbers": lambda done: torch.ones(2), "NaN later": lambda done: NAN if done > 0.4 else 1.0}
INTERVALS = {"between two steps": (0.3, 0.4, 4), "half of one step": (0.0, 0.5, 1)}
CASES += [Case(f"schedule, {door}", name, partial(lambda call, schedule: call(spatial(schedule=schedule)), call, schedule),
               ("schedule returned", "at least 0")) for door, call in DOORS.items() for name, schedule in SCHEDULES.items()]
CASES += [Case(f"interval, {door}", name, partial(lambda call, start, stop, steps: call(spatial(start=start, stop=stop), steps=steps),
                                                  call, *interval), ("SpatialObjective", "widen the interval"))
          for door, call in DOORS.items() for name, interval in INTERVALS.items()]
refused("interval, GuidanceCallback",
        the_first_step_alone=(lambda: callback(spatial(stop=0.25)), "SpatialObjective", "first step"))
refused("schedule",
        no_function=(lambda: spatial(schedule=0.5), "schedule", "function"),
        one_that_needs_two=(lambda: Guidance([spatial(schedule=[1.0])]), "schedule", "function"))
refused("interval",
        backwards=(lambda: spatial(start=0.6, stop=0.2), "start", "start < stop"),
        steps_for_fractions=(lambda: spatial(start=5, stop=10), "start", "less than or equal to 1"),
        NaN=(lambda: spatial(start=NAN), "start", "finite"),
        a_percentage=(lambda: spatial(stop=50), "stop", "less than or equal to 1"))
works("schedule",
      a_falling_one=(lambda: run(spatial(schedule=lambda done: 1 - done)), guides),
      zeros_at_times=(lambda: run(spatial(schedule=lambda done: float(done < 0.3))), guides),
      a_tensor=(lambda: run(spatial(schedule=lambda done: torch.tensor(0.5)))[-1].latents,
                lambda made: torch.equal(made, run(spatial(schedule=lambda done: 0.5))[-1].latents)))
works("interval",
      all_steps=(lambda: run(spatial(stop=1.0)), lambda made: all(state.losses[0] is not None for state in made)),
      one_step=(lambda: run(spatial(start=0.5, stop=0.75)),
                lambda made: [state.losses[0] is not None for state in made] == [False, False, True, False]),
      weight_zero_off=(lambda: run(spatial(weight=0, start=0.3, stop=0.4)), lambda made: not guides(made)),
      callback=(lambda: callback(spatial()), lambda losses: len(losses) == 3),
      guider=(lambda: guider(spatial()), lambda made: made.guide.objectives))
refused("objectives",
        one_without_a_list=(lambda: guided_sample(pipe(), PROMPT, spatial()), "objectives", "[objective]"),
        a_number=(lambda: Guidance(3), "objectives", "list of objectives"),
        text=(lambda: Guidance("pose"), "objectives", "list of objectives"),
        heads=(lambda: Guidance([head()]), "objectives", "list of objectives"),
        classes=(lambda: Guidance([None]), "objectives", "list of objectives"),
        for_a_callback=(lambda: GuidanceCallback(spatial()), "objectives", "[objective]"),
        for_a_guider=(lambda: ReadoutGuidance(spatial()), "objectives", "[objective]"))
works("objectives",
      a_generator=(lambda: Guidance(each for each in [spatial()]), lambda made: len(made.objectives) == 1),
      none=(lambda: Guidance(()), lambda made: made.objectives == []))
refused("Guidance.mask",
        zeros=(lambda: Guidance((), mask=torch.zeros(1, 1, 8, 8)), "mask", "zero everywhere"),
        to_255=(lambda: Guidance((), mask=ones(1, 1, 8, 8) * 255), "mask", "[0, 1]"),
        NaN=(lambda: Guidance((), mask=ones(1, 1, 8, 8) * NAN), "mask", "NaN"),
        flat=(lambda: Guidance((), mask=ones(8, 8)), "mask", "pass a tensor"),
        three_for_two=(lambda: run(spatial(), prompts=2, mask=ones(3, 1, 8, 8)), "mask", "1 or 2"))

# ---- puppets -----------------------------------------------------------------------------------------------------------

JOINTS = torch.rand(1, 14, 2, generator=tiny.seed()) * 100 + 10
refused("pose_objective",
        one_joint_for_14=(lambda: pose_objective(task_head("pose"), JOINTS[:, :1]), "joints", "14"),
        one_joint_flat=(lambda: pose_objective(task_head("pose"), JOINTS[0, :1]), "joints", "14"),
        fractions=(lambda: pose_objective(task_head("pose"), JOINTS / 128), "joints", "pixels"),
        order_2_N=(lambda: pose_objective(task_head("pose"), JOINTS[0].T), "joints", "14"),
        outside=(lambda: pose_objective(task_head("pose"), JOINTS + 100), "joint", "inside"),
        NaN=(lambda: pose_objective(task_head("pose"), JOINTS * NAN), "joints", "finite"),
        complex=(lambda: pose_objective(task_head("pose"), JOINTS.to(torch.complex64)), "joints", "pass a tensor"),
        three_dimensions=(lambda: pose_objective(task_head("pose"), torch.rand(1, 14, 3)), "joints", "(x, y)"),
        text=(lambda: pose_objective(task_head("pose"), "standing"), "joints", "pass"),
        a_depth_head=(lambda: pose_objective(task_head("depth"), JOINTS), "depth", "data/heads/pose"),
        three_poses_for_two=(lambda: run(pose_objective(task_head("pose"), JOINTS.expand(3, -1, -1)), prompts=2, height=128, width=128),
                             "target", "1 or 2"),
        a_picture_of_another_size=(lambda: run(pose_objective(task_head("pose"), JOINTS)), "128 x 128", "32 x 32", "its own pixels"))
works("pose_objective",
      one_pose=(lambda: run(pose_objective(task_head("pose"), JOINTS), height=128, width=128), guides),
      without_batch_axis=(lambda: pose_objective(task_head("pose"), JOINTS[0]).target,
                          lambda made: made.shape == (1, 14, 32, 32)),
      a_list_of_points=(lambda: pose_objective(task_head("pose"), JOINTS[0].tolist()).target,
                        lambda made: torch.allclose(made, heatmaps(JOINTS), atol=1e-5)))
refused("heatmaps",
        fractions=(lambda: heatmaps(JOINTS / 128), "joints", "pixels"),
        order_2_N=(lambda: heatmaps(JOINTS.mT), "joints", "(x, y)"),
        flat=(lambda: heatmaps(JOINTS[0]), "joints", "(B, N, 2)"),
        a_list=(lambda: heatmaps([[1, 2]]), "joints", "pass a tensor"))
works("heatmaps",
      the_corner=(lambda: heatmaps(torch.tensor([[[0.5, 0.5]]])), lambda made: made[0, 0].argmax() == 0))
for name, make in {"depth_objective": lambda value, **more: depth_objective(task_head("depth"), value, **more),
                   "edge_objective": lambda value, **more: edge_objective(task_head("edges"), value, **more)}.items():
    what = name.split("_")[0]
    refused(name,
            to_255=(partial(make, ones(1, 1, 32, 32) * 255), what, "[0, 1]"),
            signed=(partial(make, -ones(1, 1, 32, 32)), what, "[0, 1]"),
            a_picture=(partial(make, torch.rand(1, 3, 32, 32)), what, "one channel"),
            flat=(partial(make, ones(32, 32)), what, "pass a tensor"),
            NaN=(partial(make, ones(1, 1, 32, 32) * NAN), what, "NaN"),
            complex=(partial(make, torch.zeros(1, 1, 32, 32, dtype=torch.complex64)), what, "pass a tensor"),
            mask_of_zeros=(partial(make, ones(1, 1, 32, 32), mask=torch.zeros(1, 1, 8, 8)), "mask", "zero everywhere"),
            three_for_two=(partial(lambda make: run(make(ones(3, 1, 32, 32)), prompts=2, height=64, width=64), make), "target", "1 or 2"))
    works(name,
          one_map=(partial(lambda make: run(make(torch.eye(32)[None, None]), height=64, width=64), make), guides))
refused("edge_objective", a_picture_of_another_size=(lambda: run(edge_objective(task_head("edges"), torch.eye(32)[None, None])), "64 x 64", "32 x 32"))


def dragged(handles=((8, 8),), targets=((20, 20),), **settings):
    return drag(task_head("correspondence"), settings.pop("source", source(height=128)), handles, targets, **settings)


refused("drag",
        one_handle_two_targets=(lambda: dragged([(8, 8)], [(20, 20), (9, 9)]), "1 handles", "as many"),
        the_same_handle_twice=(lambda: dragged([(8, 8)] * 2, [(20, 20), (9, 9)]), "(8, 8)", "one target"),
        a_handle_that_is_fixed=(lambda: dragged(fixed=[(8, 8)]), "(8, 8)", "one target"),
        order_2_N=(lambda: dragged(ones(2, 5) * 9, ones(2, 5) * 9), "handles", "(N, 2)"),
        targets_2_N=(lambda: dragged(ones(4, 2) * 9, ones(2, 4) * 9), "targets", "(N, 2)"),
        a_flat_list=(lambda: dragged([8, 8, 9, 9], [8, 8, 9, 9]), "handles", "(N, 2)"),
        fractions=(lambda: dragged([(0.2, 0.3)], [(0.5, 0.5)]), "fractions", "pixels"),
        NaN=(lambda: dragged([(NAN, 3)]), "handles", "finite"),
        none=(lambda: dragged([], []), "handles", "at least one"),
        free_of_zeros=(lambda: dragged(free=torch.zeros(1, 1, 32, 32)), "free", "zero everywhere"),
        free_to_255=(lambda: dragged(free=ones(1, 1, 32, 32) * 255), "free", "[0, 1]"),
        a_still_picture=(lambda: dragged(source=still()), "source", "invert"),
        a_picture=(lambda: dragged(source=PICTURES), "source", "pass a Source"),
        nothing=(lambda: dragged(source=None), "source", "pass a Source"),
        fixed_as_2_N=(lambda: dragged(fixed=ones(2, 5)), "fixed", "(N, 2)"),
        another_number_of_steps=(lambda: list(guided_sample(pipe(), PROMPT, num_inference_steps=5, **dragged())),
                                 "4 steps",
                                 "source"))
works("drag",
      a_drag=(lambda: dragged(margin=4), lambda made: len(made["objectives"]) == 1 and 0 < made["mask"].mean() < 1),
      nothing_fixed=(lambda: dragged(fixed=[])["objectives"], lambda made: len(made[0].source_points) == 1))
refused("identity",
        a_picture=(lambda: identity(task_head("appearance"), PICTURES), "source", "pass a Source"),
        a_spatial_head=(lambda: identity(head(), source()), "head", "relative"))
refused("region",
        order_2_N=(lambda: region(ones(2, 5), 4.0), "points", "(N, 2)"),
        none=(lambda: region([], 4.0), "points", "at least one"))
refused("joined",
        order_2_N=(lambda: joined(ones(2, 5), ones(2, 5)), "handles", "(N, 2)"))
refused("carry",
        order_2_N=(lambda: carry(torch.randn(1, 4, 16, 16), ones(2, 5), ones(2, 5), 6.0, tiny.seed()), "handles",
                   "(N, 2)"))
refused("draw_strokes",
        order_2_N=(lambda: draw_strokes([ones(2, 5)]), "stroke", "(N, 2)"),
        one_point=(lambda: draw_strokes([[(3, 4)]]), "stroke", "at least 2"),
        text=(lambda: draw_strokes(["ab"]), "stroke", "pass"))
works("draw_strokes",
      a_line=(lambda: draw_strokes([[(10, 10), (50, 10)]]),
              lambda made: made[0, 0, 10, 30] == 1 and made[0, 0, 60, 60] == 0),
      none=(lambda: draw_strokes([]), lambda made: not made.any()))
refused("pck",
        order_2_N=(lambda: pck(JOINTS.mT, JOINTS.mT), "predicted", "(B, J, 2)"),
        one_for_two=(lambda: pck(JOINTS, JOINTS.expand(2, -1, -1)), "predicted", "equal shapes"),
        flat=(lambda: pck(JOINTS[0], JOINTS[0]), "predicted", "(B, J, 2)"),
        complex=(lambda: pck(JOINTS.to(torch.complex64), JOINTS), "predicted", "pixels"),
        fractions_against_pixels=(lambda: pck(JOINTS, JOINTS / 128), "fractions", "pixels"))
works("pck",
      itself=(lambda: pck(JOINTS, JOINTS), lambda made: made == 1))
