"""Small faults, planted one at a time, each of which a test has to notice: `python tests/faults.py [NAME ...]`.

The package is copied into a temporary folder, never changed where it lies; there the fault takes the place of the
right text, and the tests that have to fail are run. One table comes out: fault, caught or not, by which test, seconds.
A name selects all faults whose name holds it. Before the faults, the same tests are run without one, and have to pass.
Exit status 1 where a fault is not caught, is broken (a test could not even be collected), or its text does not stand
exactly once in its file. All of them take five minutes of one core.

`tests/test_faults.py` looks after the table: each text stands there once, each test exists.
"""
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 300                           # seconds that the tests of one fault may take


@dataclass(frozen=True)
class Fault:
    name: str
    file: str                           # within rg_minimal/
    old: str                            # stands there exactly once
    new: str
    tests: tuple[str, ...]              # of which one has to fail: names in test_right.py, or FILE.py::NAME


def fault(name, file, old, new, *tests) -> Fault:
    return Fault(name, file, old, new, tuple(test if "::" in test else f"test_right.py::{test}" for test in tests))


READOUT, MAPS, DENOISERS, SAVING = "readout.py", "maps.py", "denoisers.py", "saving.py"
HEADS, MEASURE, EDITING, JUDGE = "puppets/heads.py", "puppets/measure.py", "puppets/editing.py", "puppets/judge.py"
CASES = "puppets/cases.py"
KEYPOINTS, LABELS, LABEL_FILES, TRAIN, HUB, REFERENCE_FILE = "keypoints.py", "labels.py", "label_files.py", "train.py", "hub.py", "reference.py"
COST, SWEEP, WORKERS, PROCESSES = "cost.py", "sweep.py", "workers.py", "processes.py"
BASE, FRONT = "puppets/basemodel.py", "puppets/front.py"
STUDIO = "classroom/studio.py"
TRIAL = "evidence/trial.py"
COMMANDS_OF = "evidence/__main__.py"
CONTEST, LEARN, STATISTICS, REPORT = "evidence/contest.py", "evidence/learn.py", "evidence/statistics.py", "evidence/report.py"
TRAINING = "puppets/training.py"
TRANSFORMER = "puppets/transformer.py"
WORLD = "puppets/world.py"

SPLIT = "test_a_prediction_is_split_and_a_step_goes_there_and_back"
MASKED_MEAN = "test_a_masked_mean_is_over_what_the_mask_shows"
TARGETS = "test_targets_go_to_the_nearest_cell_and_are_not_blurred"
MEMBERS = "test_members_of_a_sample_share_timesteps_of_the_asked_range_and_not_their_noise"
DIRECTION = "test_weights_and_schedules_decide_the_direction"
LENGTH = "test_the_step_is_as_long_for_each_element_in_whatever_part_may_move"
BRANCHES = "test_both_branches_add_up_and_inner_steps_follow_each_other"
MIXED = "test_a_head_is_the_softmax_sum_of_its_layers_and_hears_the_timestep"
CROP = "test_a_box_is_cut_out_with_x_along_the_columns"
POINT = "test_a_point_lies_between_the_centres_of_its_cells"
LOOKS = "test_an_appearance_objective_counts_what_its_mask_shows"
SPATIAL = "test_a_spatial_objective_counts_what_its_mask_shows"
DRAG_LOSS = "test_a_drag_is_less_likeness_here_and_more_there"
PAIRS = "test_a_correspondence_loss_is_the_cross_entropy_both_ways"
TRIPLET_LOSS = "test_a_triplet_costs_its_margin_where_both_are_as_near"
INTERVAL = "test_an_objective_is_active_in_its_interval_and_its_schedule_knows_the_steps_done"
FLOW = "test_a_flow_goes_straight_there_and_back"
LATENTS = "test_latents_are_scaled_on_the_way_in_and_back_on_the_way_out"
ADDED = "test_noise_is_added_as_the_model_was_trained"
SEEDS = "test_seeds_for_training_and_for_each_measurement_never_meet"
SCORES = "test_scores_are_means_of_all_samples_at_noise_that_the_timestep_decides"
TRIPLET = "test_a_triplet_has_a_negative_in_each_scene"
DRAG = "test_a_drag_weighs_its_heads_and_looks_where_it_may_change"
DRAGGED = "test_what_became_of_a_drag_is_measured_after_it_and_outside_of_what_had_to_change"
ARROWED = "test_an_arrow_is_judged_by_what_it_was_to_bring_where"
ARMS = "test_arms_that_stay_are_left_alone_beside_what_moves"
GHOSTS = "test_a_drag_leaves_handles_but_not_what_something_is_moved_to"
REFERENCE = "test_looks_are_those_of_the_reference_and_the_rest_is_of_another_scene"
POSES = "test_batches_of_any_size_count_by_their_pictures_in_the_pose"
PICTURES = "test_batches_of_any_size_count_by_their_pictures_in_maps"
BASES = "test_batches_of_any_size_count_by_their_pictures_in_the_base"
AVERAGE = "test_an_average_keeps_as_much_of_itself_as_its_decay"
AVERAGES = "test_the_average_follows_the_weights_more_and_more_slowly"
DROPPED = "test_a_batch_drops_captions_and_spreads_its_noise"
EULER = "test_callback.py::test_the_callback_equals_the_sampler_with_other_schedulers"
CALLBACK = "test_callback.py::test_the_callback_equals_the_sampler"
PLAIN = "test_readout.py::test_unguided_sampling_equals_diffusers"
GUIDER = "test_guider.py::test_the_sampler_follows_the_same_rule"
SMALL = "test_formats.py::test_small_gradients_do_not_vanish_in_float16_and_keep_their_size"

FAULTS = (
    # ---- the core: the fifteen that tests once let pass, and their kin -----------------------------------------------
    fault("front: a drag's source by the pipeline's own sampler", FRONT, "False, steps, seed, SCALE, **sampler)", "False, steps, seed, SCALE)",
          "test_front.py::test_a_point_says_sampler_and_schedule_of_drags_and_looks"),
    fault("front: a schedule that no objective has", FRONT, "replace(each, schedule=self.schedule)", "each",
          "test_front.py::test_a_point_says_sampler_and_schedule_of_drags_and_looks"),
    fault("sample: a root of less than nothing", READOUT, "(1 - before - std ** 2).clamp_min(0)", "(1 - before - std ** 2)",
          "test_denoisers.py::test_new_noise_is_finite_with_zero_terminal_snr"),
    fault("guidance: a loss of any shape", READOUT, "of_each(objective, objective(reading), latents)", "objective(reading)",
          "test_core.py::test_an_objective_of_ones_own_gives_one_number_for_each_picture"),
    fault("guidance: a direction of any shape", READOUT, "like_gradient(self.step_rule(gradients, mask), gradient)", "self.step_rule(gradients, mask)",
          "test_core.py::test_a_step_rule_of_ones_own_gives_a_direction"),
    fault("guider: towards more noise where the sample is predicted", "guider.py", "pred + sign * self.guide", "pred + self.guide",
          "test_guider.py::test_where_the_sample_is_predicted_the_move_goes_the_other_way"),
    fault("callback: a source that is asked for too late", "callback.py", "check_course(self.guide.objectives, course[begin:begin + steps], will_take_moves(pipe.scheduler, steps), first=1)", "pass",
          "test_callback.py::test_a_source_of_other_steps_is_refused_before_the_second_pass"),
    fault("base model: another autoencoder's recipe", BASE, "if told.is_file():", "if not told:",
          "test_basemodel.py::test_an_autoencoder_of_another_recipe_is_neither_kept_nor_gone_on_with"),
    fault("labels: another model's cells", LABELS, "if cells != self.frame.cells:", "if not cells:",
          "test_own_labels.py::test_labels_that_were_read_for_another_model_are_refused"),
    fault("sample: the noise of a prediction without the level", DENOISERS, "return output, (latents - a * output) / s",
          "return output, (latents - output) / s", SPLIT),
    fault("sample: inverted as v-prediction", READOUT, 'if scheduler.config.prediction_type == "v_prediction":',
          'if scheduler.config.prediction_type != "epsilon":', SPLIT, "test_a_picture_is_inverted_and_comes_back"),
    fault("sample: split as epsilon", DENOISERS, 'if kind == "epsilon":', 'if kind in ("epsilon", "sample"):', SPLIT),
    fault("v-prediction: the sign of the noise", DENOISERS, "a * output + s * latents", "a * output - s * latents",
          SPLIT),
    fault("v-prediction: inverted with the wrong sign", READOUT, "(rest * a - below * s) * output",
          "(rest * a + below * s) * output", SPLIT),
    fault("flow: split with the level of the other end", DENOISERS, "return latents - s * output, latents + a * output",
          "return latents - a * output, latents + s * output", FLOW),
    fault("flow: inverted from above to below", READOUT, "return latents + (above - below) * output",
          "return latents + (below - above) * output", FLOW),
    fault("epsilon: inverted with the level below", READOUT,
          "return a * ((latents - rest * noise) / below) + s * noise",
          "return a * ((latents - rest * noise) / below) + rest * noise", SPLIT),
    fault("DDIM: new noise beside all of the old", READOUT, "(1 - before - std ** 2).clamp_min(0) ** 0.5 * noise",
          "(1 - before) ** 0.5 * noise", "test_new_noise_takes_the_place_of_old"),
    fault("DDIM: the step before one too far", READOUT,
          "before = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps",
          "before = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps - 1", SPLIT),
    fault("sampling: the spacing of timesteps forgotten", DENOISERS, "scheduler = scheduler.from_config(scheduler.config, timestep_spacing=timestep_spacing)",
          "scheduler = scheduler.from_config(scheduler.config)", "test_denoisers.py::test_timesteps_are_spaced_as_diffusers_spaces_them"),
    fault("inversion: one iteration too few", READOUT, "for _ in range(1 + fixed_point_iterations):",
          "for _ in range(max(1, fixed_point_iterations)):",
          "test_denoisers.py::test_inversion_of_flow_models_is_the_euler_steps_backwards",
          "test_inversion_iterates_as_often_as_asked"),
    fault("inversion: each prediction at the picture below", READOUT, "output = predict(model, guess, timestep",
          "output = predict(model, latents, timestep", "test_inversion_iterates_as_often_as_asked"),

    fault("masked mean: divided by all cells", MAPS, "/ mask.sum((1, 2, 3)).clamp_min(1e-8)", "/ error[0].numel()",
          MASKED_MEAN),
    fault("masked mean: the mask not spread over channels", MAPS, "error.shape[-2:]).expand(error.shape)",
          "error.shape[-2:])", SPATIAL),
    fault("mean over the batch, too", MAPS, "return error.mean((1, 2, 3))", "return error.mean().expand(len(error))",
          MASKED_MEAN),

    fault("half precision: no loss scale", READOUT, "scale = 2.0 ** 10 if latents.dtype == torch.float16 else 1.0",
          "scale = 1.0", SMALL),
    fault("half precision: the loss scale not divided out", READOUT, ".float() / scale", ".float()", SMALL),

    fault("training: members of a sample at different timesteps", READOUT, "            noisy = model.add_noise(latents, draw(",
          "            timestep = torch.randint(*timesteps, (len(latents),), generator=generator)\n"
          "            noisy = model.add_noise(latents, draw(", MEMBERS),
    fault("training: one timestep for all pictures", READOUT,
          "timestep = torch.randint(*timesteps, (len(clean[0]),), generator=generator)",
          "timestep = torch.randint(*timesteps, (1,), generator=generator).expand(len(clean[0]))", MEMBERS),
    fault("training: one noise for all members", READOUT, "    readouts = []\n    for latents in clean:",
          "    readouts, state = [], generator.get_state()\n    for latents in clean:\n        generator.set_state(state)",
          MEMBERS),
    fault("training: timesteps below the asked range", READOUT, "torch.randint(*timesteps, (len(clean[0]),)",
          "torch.randint(0, timesteps[1], (len(clean[0]),)", MEMBERS),
    fault("training: timesteps above the asked range", READOUT, "torch.randint(*timesteps, (len(clean[0]),)",
          "torch.randint(timesteps[0], 1000, (len(clean[0]),)", MEMBERS),
    fault("training: the last timestep never drawn", READOUT, "torch.randint(*timesteps, (len(clean[0]),)",
          "torch.randint(timesteps[0], timesteps[1] - 1, (len(clean[0]),)", MEMBERS),
    fault("training: the rate of the step after", READOUT, "lr(step / span[1])", "lr((step + 1) / span[1])",
          "test_training_moves_nothing_that_has_no_gradient_and_asks_the_rate_of_each_step"),
    fault("training: weights decay", SAVING, "torch.optim.AdamW(head.parameters(), weight_decay=0.0)",
          "torch.optim.AdamW(head.parameters())",
          "test_training_moves_nothing_that_has_no_gradient_and_asks_the_rate_of_each_step"),
    fault("training: gradients of earlier steps kept", READOUT,
          "            optimizer.zero_grad(set_to_none=True)\n            value.backward()",
          "            value.backward()", "test_each_step_has_the_gradient_of_its_own_batch"),
    fault("resumed: batches from the first", SAVING, "for step in itertools.count(start))",
          "for step in itertools.count(0))", "test_batches_that_are_resumed_are_those_that_were_missing"),
    fault("resumed: an iterable from the first", SAVING, "return itertools.islice(batches, start, None)",
          "return iter(batches)", "test_batches_that_are_resumed_are_those_that_were_missing"),
    fault("resumed: the generator from the first", SAVING, '    generator.set_state(tensors["generator"])\n', "",
          "test_readout.py::test_a_stopped_training_resumes_to_the_same_bits"),

    fault("target resized bilinearly in an objective", READOUT,
          'target = resize(self.target.to(readout.device), readout.shape[-2:], "nearest")',
          "target = resize(self.target.to(readout.device), readout.shape[-2:])", TARGETS),
    fault("target resized bilinearly in the loss", READOUT,
          'target = resize(label_like(readout, target).to(readout), readout.shape[-2:], "nearest")',
          "target = resize(label_like(readout, target).to(readout), readout.shape[-2:])", TARGETS),
    fault("loss: lines and background weighed by their area", READOUT,
          "return (error[empty].mean() + error[~empty].mean()) / 2", "return error.mean()",
          "test_a_spatial_loss_gives_lines_and_background_one_half_each"),
    fault("loss: the weight ignored", READOUT, "error = error * weight_like(error, weight)", "pass",
          "test_a_spatial_loss_gives_lines_and_background_one_half_each"),
    fault("loss: correspondence one way only", READOUT, "match(features_b, features_a, in_b, in_a)) / 2",
          "match(features_a, features_b, in_a, in_b)) / 2", PAIRS),
    fault("loss: correspondence without temperature", READOUT, "point_similarity(here, there, in_here) / temperature",
          "point_similarity(here, there, in_here)", PAIRS),
    fault("loss: triplet without margin", READOUT, "return (margin + distance(positive)", "return (distance(positive)",
          TRIPLET_LOSS),
    fault("loss: triplet with positive and negative exchanged", READOUT,
          "margin + distance(positive) - distance(negative)", "margin + distance(negative) - distance(positive)",
          TRIPLET_LOSS),
    fault("loss: triplet without hinge", READOUT, "distance(negative)).relu().mean()", "distance(negative)).mean()",
          TRIPLET_LOSS),

    fault("weights of objectives ignored in the direction", READOUT, "total = sum(strength * loss.sum() for",
          "total = sum(loss.sum() for", DIRECTION),
    fault("weights of objectives count in the length of the step", READOUT,
          "self.step_size * (sum(strengths) / active)", "self.step_size * sum(strengths)", DIRECTION),
    fault("schedule ignored in the length of the step", READOUT, "self.step_size * (sum(strengths) / active)",
          "self.step_size", DIRECTION),
    fault("a weight of an objective ignored", READOUT, "return inside * self.weight * (", "return inside * (",
          INTERVAL),
    fault("schedule: one step too late", READOUT, "factor(self.schedule(step / steps))",
          "factor(self.schedule((step + 1) / steps))", INTERVAL),
    fault("schedule reversed", READOUT, "factor(self.schedule(step / steps))",
          "factor(self.schedule(1 - step / steps))", INTERVAL),
    fault("interval: its last step counts, too", READOUT, "<= step < int(self.stop * steps + 1e-9)",
          "<= step <= int(self.stop * steps + 1e-9)", INTERVAL),
    fault("interval: begins a step late", READOUT, "int(self.start * steps + 1e-9) <= step",
          "int(self.start * steps + 1e-9) < step", INTERVAL),
    fault("moved towards the worse", READOUT, "latents = latents - step if self.step_size",
          "latents = latents + step if self.step_size", DIRECTION),
    fault("inner steps all from the same place", READOUT,
          "gradient, losses, _ = self.gradient(read, latents, strengths)",
          "gradient, losses, _ = self.gradient(read, latents + step if gradients else latents, strengths)", BRANCHES),
    fault("gradient of one branch only", READOUT, "sum(of_each(objective, objective(reading), latents) for reading in readings) if strength",
          "objective(readings[-1]) if strength", BRANCHES),
    fault("mask not counted in the normalised step", READOUT,
          "gradient[0].numel() if mask is None else mask.sum((1, 2, 3), keepdim=True) * gradient.shape[1]",
          "gradient[0].numel()", LENGTH),
    fault("mask counted without the channels", READOUT, "mask.sum((1, 2, 3), keepdim=True) * gradient.shape[1]",
          "mask.sum((1, 2, 3), keepdim=True)", LENGTH),
    fault("mask does not bound the move", READOUT, "gradients.append(gradient if mask is None else gradient * mask)",
          "gradients.append(gradient)", LENGTH),
    fault("step normalised over the batch", READOUT, "gradient.square().sum((1, 2, 3), keepdim=True).sqrt()",
          "gradient.square().sum().sqrt()", "test_readout.py::test_the_normalized_step_has_its_length"),
    fault("moved prediction: sign for sample", READOUT,
          'sign = -1 if scheduler.config.get("prediction_type") == "sample" else 1', "sign = 1",
          "test_a_moved_prediction_leads_away_from_the_objectives"),
    fault("moved prediction: towards the worse", READOUT,
          'sign = -1 if scheduler.config.get("prediction_type") == "sample" else 1',
          'sign = 1 if scheduler.config.get("prediction_type") == "sample" else -1',
          "test_a_moved_prediction_leads_away_from_the_objectives"),
    fault("keep: what may change and what not exchanged", READOUT,
          "seen * free + keep.latents_at(timestep).to(seen) * (1 - free)",
          "seen * (1 - free) + keep.latents_at(timestep).to(seen) * free",
          "test_readout.py::test_the_mask_bounds_the_move_and_keep_holds_the_rest"),
    fault("classifier-free guidance: branches exchanged", READOUT,
          "outputs[0] + guidance_scale * (outputs[1] - outputs[0])",
          "outputs[1] + guidance_scale * (outputs[0] - outputs[1])", PLAIN),
    fault("classifier-free guidance: from the wrong end", READOUT,
          "outputs[0] + guidance_scale * (outputs[1] - outputs[0])",
          "outputs[1] + guidance_scale * (outputs[1] - outputs[0])", PLAIN),

    fault("spatial mask ignored", READOUT, "return masked_mean(error, self.mask)", "return masked_mean(error)",
          SPATIAL),
    fault("spatial mask ignored for a distance of one's own", READOUT, "return masked_mean(error, self.mask)",
          "return masked_mean(error, None if self.distance else self.mask)", SPATIAL),
    fault("appearance mask ignored", READOUT, "masked_mean(distance, None if self.pool else self.mask)",
          "masked_mean(distance)", LOOKS),
    fault("appearance mask ignored where features are pooled", READOUT,
          "each, None if self.mask is None else resize", "each, None if True else resize", LOOKS),
    fault("appearance mask for the picture, not for the source", READOUT,
          "(pool_features(each, None if self.mask is None else", "(pool_features(each, None if self.mask is None or each is source else", LOOKS),
    fault("boxes of source and picture exchanged", READOUT, "for each, box in zip((source, features), self.boxes))",
          "for each, box in zip((source, features), self.boxes[::-1]))",
          "test_boxes_say_which_part_of_the_source_and_which_of_the_picture"),
    fault("drag: similarities not brought to [0, 1]", READOUT, "return ((handle * found).sum(-1) + 1) / 2",
          "return (handle * found).sum(-1)", DRAG_LOSS),
    fault("drag: not halved", READOUT, "return (staying - similarity(there)).mean(-1) / 2",
          "return (staying - similarity(there)).mean(-1)", DRAG_LOSS),
    fault("drag: here and there exchanged", READOUT, "for points in (self.source_points, self.target_points))",
          "for points in (self.target_points, self.source_points))", DRAG_LOSS),
    fault("drag: anti-ghosting ignored", READOUT,
          "staying = torch.as_tensor(self.anti_ghosting).to(features) * similarity(here)", "staying = similarity(here)",
          DRAG_LOSS),
    fault("drag: one anti-ghosting for all points", READOUT, "torch.as_tensor(self.anti_ghosting).to(features)",
          "torch.as_tensor(self.anti_ghosting).to(features).mean()", DRAG_LOSS),

    fault("crop: height for x", MAPS, "int(x * w / image_size[1])", "int(x * w / image_size[0])", CROP),
    fault("crop: width for y", MAPS, "int(y * h / image_size[0])", "int(y * h / image_size[1])", CROP),
    fault("crop: rows and columns exchanged", MAPS, "for x in box[0::2])", "for x in box[1::2])", CROP),
    fault("crop: nothing where a box is smaller than a cell", MAPS, "y0:max(y1, y0 + 1), x0:max(x1, x0 + 1)",
          "y0:y1, x0:x1", CROP),
    fault("points: height for x", MAPS, "across = along(points[..., 0], cells[1], image_size[1])",
          "across = along(points[..., 0], cells[1], image_size[0])", POINT),
    fault("points: half a cell off", MAPS, "(coordinate * count / length - 0.5)", "(coordinate * count / length)",
          POINT),
    fault("points: rows and columns exchanged", MAPS, "along(points[..., 1], cells[0], image_size[0])",
          "along(points[..., 0], cells[0], image_size[0])", POINT),
    fault("pooled: not centred", MAPS, "return pooled - pooled.mean(1, keepdim=True)", "return pooled",
          "test_readout.py::test_pooled_features_are_a_centred_generalised_mean"),
    fault("pooled: divided by all cells", MAPS, "/ weight.sum((-2, -1), keepdim=True))", "/ raised[0, 0].numel())",
          "test_readout.py::test_pooled_features_are_a_centred_generalised_mean"),

    fault("late resizing forgets the embedding", READOUT, "bottleneck(feature, emb)",
          "bottleneck(feature, None if self.config.resize_late else emb)", MIXED),
    fault("early resizing forgets the embedding", READOUT, "bottleneck(feature, emb)",
          "bottleneck(feature, emb if self.config.resize_late else None)", MIXED),
    fault("late and early exchanged", READOUT, "feature if self.config.resize_late else resize(feature, size)",
          "resize(feature, size) if self.config.resize_late else feature", MIXED),
    fault("mixing weights not a softmax", READOUT, "zip(self.mixing_weights.softmax(0),", "zip(self.mixing_weights,",
          MIXED),
    fault("shortcut forgotten", READOUT, "return F.relu(hidden + self.shortcut(x))", "return F.relu(hidden)", MIXED),
    fault("a readout remembered without gradient", READOUT, "use_timestep, torch.is_grad_enabled()", "use_timestep",
          "test_core.py::test_a_readout_without_gradient_is_not_handed_to_who_needs_one"),
    fault("a box of the source in pixels of the picture", READOUT, "reading.model.image_size(each)), features", "reading.model.image_size(features)), features",
          "test_a_source_of_another_size_is_cut_and_masked_in_its_own_pixels"),
    fault("a readout remembered without its timestep", READOUT, "key = id(head), use_timestep,", "key = id(head),",
          "test_a_reading_tells_a_head_with_the_timestep_from_one_without"),

    # ---- models, pipelines, callback, guider, sources ----------------------------------------------------------------
    fault("SDXL's size as (width, height)", DENOISERS, "([height, width, 0, 0, height, width],) * 2",
          "([width, height, 0, 0, width, height],) * 2", "test_sdxl_is_told_the_height_first"),
    fault("SDXL's original size as (width, height)", DENOISERS, "([height, width, 0, 0, height, width],) * 2",
          "([width, height, 0, 0, height, width],) * 2", "test_sdxl_is_told_the_height_first"),
    fault("size of a picture as (width, height)", DENOISERS, "return shape[-2] * self.factor, shape[-1] * self.factor",
          "return shape[-1] * self.factor, shape[-2] * self.factor", "test_rows_are_the_height_and_columns_the_width"),
    fault("noise of a flow with its levels exchanged", DENOISERS, "return (1 - sigma) * clean + sigma * noise",
          "return sigma * clean + (1 - sigma) * noise", ADDED),
    fault("a fraction of a timestep ignored", DENOISERS, "float(timestep) - low)", "0.0)",
          "test_a_timestep_between_two_has_a_level_between_theirs"),
    fault("Euler's latents not brought to what is seen", DENOISERS, "1 / scheduler.scale_model_input(torch.ones(",
          "scheduler.scale_model_input(torch.ones(", "test_eulers_latents_are_larger_than_what_is_seen"),
    fault("tokens packed with rows and columns exchanged", DENOISERS, ".permute(0, 2, 4, 1, 3, 5).reshape(",
          ".permute(0, 2, 4, 1, 5, 3).reshape(", "test_denoisers.py::test_packing"),
    fault("the text's tokens read as the picture's", DENOISERS, "tokens = tokens[:, -height * width:]",
          "tokens = tokens[:, :height * width]", "test_denoisers.py::test_a_block_becomes_a_map"),
    fault("encoded without the scaling factor", "autoencoders.py", "(latents - shift - mean) * scale / std)",
          "(latents - shift - mean) / std)", LATENTS),
    fault("encoded without the shift", "autoencoders.py", "(latents - shift - mean) * scale / std)",
          "(latents - mean) * scale / std)", LATENTS),
    fault("encoded from [0, 1]", "autoencoders.py", "pictures.to(_device(pipe), dtype) * 2 - 1)",
          "pictures.to(_device(pipe), dtype))", LATENTS),
    fault("decoded without the scaling factor", "autoencoders.py", "* std / scale + shift + mean)",
          "* std + shift + mean)", LATENTS),
    fault("decoded with the shift before the scale", "autoencoders.py",
          "(latents.to(_device(pipe)) * std / scale + shift + mean)",
          "((latents.to(_device(pipe)) * std + shift) / scale + mean)", LATENTS),
    fault("decoded to [-1, 1]", "autoencoders.py", '"decoded picture").float() / 2 + 0.5)',
          '"decoded picture").float())', LATENTS),
    fault("ControlNet's scale ignored", "pipelines.py", "conditioning_scale=scale,", "conditioning_scale=1.0,",
          "test_a_controlnet_is_as_strong_as_asked"),
    fault("a picture read at other noise than its generator's", "pipelines.py",
          "noisy = model.add_noise(clean, draw(clean, generator), timesteps)",
          "noisy = model.add_noise(clean, draw(clean), timesteps)",
          "test_a_reading_is_of_the_noised_picture_and_of_what_is_said"),
    fault("a picture read without its prompt", "pipelines.py",
          "conditioning = model.encode_prompt(prompt, image_size=model.image_size(clean))",
          'conditioning = model.encode_prompt("", image_size=model.image_size(clean))',
          "test_a_reading_is_of_the_noised_picture_and_of_what_is_said"),
    fault("the folder's guidance scale ignored", DENOISERS, "return own if own is not None else call", "return call",
          "test_readout.py::test_a_folder_may_recommend_a_guidance_scale"),
    fault("the folder's number of steps ignored", "pipelines.py", "num_inference_steps = num_inference_steps or model.default_num_inference_steps",
          "num_inference_steps = num_inference_steps or 50", "test_readout.py::test_a_folder_may_recommend_a_number_of_steps"),
    fault("source: new noise at each timestep", "sources.py", "lambda t: model.add_noise(clean, noise, torch.tensor(",
          "lambda t: model.add_noise(clean, draw(clean), torch.tensor(",
          "test_a_picture_has_one_noise_at_all_timesteps"),
    fault("source: told nothing", "sources.py", "self.model.encode_prompt(prompt, image_size",
          'self.model.encode_prompt("", image_size', "test_a_picture_has_one_noise_at_all_timesteps"),
    fault("source: begins where it ends", "sources.py", "return self.latents_at(self.timesteps[-1])",
          "return self.latents_at(self.timesteps[0])", "test_a_trajectory_begins_at_its_largest_timestep"),
    fault("source: features of the timestep beside", "sources.py",
          "for each, (noisy, *features) in zip(together, parts):",
          "for each, (noisy, *features) in zip(together[::-1], parts):",
          "test_readout.py::test_a_source_reads_ahead_and_finds_the_same"),
    fault("callback without Euler's rescaling", "callback.py", "held.copy_(moved * size)", "held.copy_(moved)", EULER),
    fault("callback: the interval one step late", "callback.py", "[objective.strength(step + 1, steps) for",
          "[objective.strength(step, steps) for", CALLBACK),
    fault("callback: the negative branch for the conditional", "callback.py",
          'places = {"negative": 0, "conditional": 1}', 'places = {"negative": 1, "conditional": 0}',
          "test_callback.py::test_the_reading_is_that_of_the_pipelines_own_pass"),
    fault("callback: another branch's rows", "callback.py", "value[block * batch:(block + 1) * batch]",
          "value[block:block + batch]", "test_callback.py::test_of_several_pictures_each_is_guided_by_itself"),
    fault("callback: FLUX's timestep in thousandths", "callback.py",
          "return value * 1000 if isinstance(self.model, Flux) else value", "return value",
          "test_callback.py::test_the_reading_is_that_of_the_pipelines_own_pass"),
    fault("guider: towards the worse", "guider.py", "output.pred = output.pred + sign * self.guide.step(",
          "output.pred = output.pred - self.guide.step(", GUIDER),
    fault("guider: moves the conditional branch before the scale", "guider.py",
          "output = super().forward(pred_cond.detach(), pred_uncond)",
          "output = super().forward(pred_cond.detach() * 1.01, pred_uncond)", GUIDER),
    fault("guider: the strengths of the step before", "guider.py",
          "[each.strength(self._step, self._num_inference_steps) for",
          "[each.strength(self._step - 1, self._num_inference_steps) for",
          "test_guider.py::test_it_is_classifier_free_guidance_and_lowers_the_loss"),
    fault("two branches told the same", "conditioning.py", "{**self.added, **self.negative_added}", "self.added",
          "test_readout.py::test_unguided_sampling_equals_diffusers"),

    # ---- around it: the twelve that tests once let pass, and their kin -----------------------------------------------
    fault("drag's anatomy weight ignored", EDITING, "wanted, weight=anatomy_weight, stop=stop)",
          "wanted, stop=stop)", DRAG),
    fault("drag's weight of looks ignored", EDITING, "mask=free, weight=looks_weight, stop=stop)",
          "mask=free, stop=stop)", DRAG),
    fault("looks compared everywhere", EDITING, "mask=free, weight=looks_weight, stop=stop)",
          "weight=looks_weight, stop=stop)", DRAG),
    fault("drag: looks guided to the default stop", EDITING, "mask=free, weight=looks_weight, stop=stop)",
          "mask=free, weight=looks_weight)", DRAG),
    fault("drag: anatomy guided to the default stop", EDITING, "weight=anatomy_weight, stop=stop)",
          "weight=anatomy_weight)", DRAG),
    fault("drag: anti-ghosting where something is moved to", EDITING, "anti_ghosting=anti_ghosting * left",
          "anti_ghosting=anti_ghosting", GHOSTS),
    fault("drag: all the way at once", EDITING, "targets = torch.lerp(handles, targets, amount)", "pass", GHOSTS),
    fault("drag: backwards", EDITING, "targets = torch.lerp(handles, targets, amount)",
          "targets = torch.lerp(targets, handles, amount)", GHOSTS),
    fault("drag: what is asked to stay free is not", EDITING, "    if free is None:\n        free = region(",
          "    if True:\n        free = region(", DRAG),
    fault("drag: a hand beside the leg is free", EDITING, "if spare and len(arms):", "if False:", ARMS),
    fault("drag: arms spared in an area that was given", EDITING, "        if spare and len(arms):\n            free", "    if spare and len(arms):\n        free", ARMS),
    fault("a figure of 256 colours shows wrong ones", "classroom/plots.py", "quantize(256, kmeans=64)", "quantize(256)",
          "test_heads.py::test_a_figure_of_many_puppets_keeps_their_colours"),
    fault("drag: the source's own noise for new", EDITING, "latents.detach().float().cpu().flatten(), 0) < 0.5:", "latents.detach().float().cpu().flatten(), 0) < 5:",
          "test_editing.py::test_new_noise_is_new_also_where_source_and_drag_have_one_seed"),
    fault("drag: noise beyond the border for that of its edge", EDITING, "(cells / image_size)).floor().long()", "(cells / image_size)).long()",
          "test_editing.py::test_noise_beyond_the_border_is_not_taken_for_that_of_its_edge"),
    fault("drag: nobody says that a handle is held back", EDITING, "        if (target - handle).norm() < 0.5 or", "        if True or",
          "test_editing.py::test_a_handle_that_anatomy_holds_is_warned_of"),
    fault("drag: a pose head of another model is read", "puppets/grab.py", "    pose.check(source.model)\n", "",
          "test_editing.py::test_what_a_drag_cannot_take_is_refused_before_anything_runs"),
    fault("drag: which arrow decides depends on the amount", "puppets/grab.py", "float((way[one] - way[other]).norm()) > TOLD", "float(amount * (way[one] - way[other]).norm()) > TOLD",
          "test_grab.py::test_of_two_arrows_on_one_thing_the_later_decides_and_the_words_say_so"),
    fault("drag: a prop that two arrows hold is to go to two places", "puppets/grab.py", 'kinds[other] == "prop" and _overlap(start', 'kinds[other] == "prop" and differ(i, other) and _overlap(start',
          "test_grab.py::test_of_two_arrows_on_one_thing_the_later_decides_and_the_words_say_so"),
    fault("drag: arrows of one point are found wrong after sampling", "classroom/recipe.py", "        except ValueError as error:\n            raise ValueError(f\"drag.arrows: {error}\") from None\n",
          "        except ValueError as error:\n            pass\n", "test_studio.py::test_states_that_cannot_run_are_refused_before_anything_is_sampled"),
    fault("drag: arms that move are spared, too", EDITING, "if stays[start] and stays[stop]:", "if True:", ARMS),
    fault("drag: hands end at the wrist", EDITING, "(middle, end, TIP)", "(middle, end, 0.8)", ARMS),
    fault("noise carried from target to handle", EDITING, "origin = ((grid + (handles - targets)[nearest])",
          "origin = ((grid + (targets - handles)[nearest])", "test_noise_is_carried_from_handle_to_target"),
    fault("noise carried with rows and columns exchanged", EDITING, "latents[..., y, x].view_as(latents)",
          "latents[..., x, y].view_as(latents)", "test_noise_is_carried_from_handle_to_target"),
    fault("the place that was left keeps its noise", EDITING, "torch.where(left, new, latents))", "latents)",
          "test_noise_is_carried_from_handle_to_target"),
    fault("joints go along however far they are", "puppets/grab.py", "way = (goal - start)[nearest] * (gap <= reach)[:, None]",
          "way = (goal - start)[nearest]", "test_editing.py::test_joints_on_what_moves_go_along"),
    fault("identity: its interval ignored", EDITING,
          "identity_objective(head, source, boxes=boxes, start=start, stop=stop)",
          "identity_objective(head, source, boxes=boxes)", "test_identity_is_given_where_and_when_it_is_asked"),
    fault("identity: its boxes ignored", EDITING,
          "identity_objective(head, source, boxes=boxes, start=start, stop=stop)",
          "identity_objective(head, source, start=start, stop=stop)",
          "test_identity_is_given_where_and_when_it_is_asked"),

    fault("scores at other noise each time", HEADS,
          "rng, values = torch.Generator().manual_seed(SCORE_SEED + timestep), []", "rng, values = None, []", SCORES),
    fault("scores at the noise of another timestep", HEADS, "torch.Generator().manual_seed(SCORE_SEED + timestep), []",
          "torch.Generator().manual_seed(SCORE_SEED), []", SCORES),
    fault("scores: batches not weighted in the mean", HEADS, "scores[timestep] = torch.cat(values, 1)",
          "scores[timestep] = torch.stack([each.mean(1) for each in values], 1)", SCORES),
    fault("scores: all at the first timestep", HEADS, "read_picture(pipe, None, timestep, generator=rng",
          "read_picture(pipe, None, timesteps[0], generator=rng", SCORES),
    fault("held-out seeds equal to training seeds", HEADS, "SCORE_SEED = world.HELD_OUT + 50_000",
          "SCORE_SEED = TRAIN_SEED", SEEDS),
    fault("scored on samples that were learned", HEADS, "samples=get_task(task).held_out), count, SCORE_SEED)",
          "samples=get_task(task).held_out), count)", "test_heads_are_scored_on_held_out_samples"),
    fault("each chunk the same scenes", HEADS, "task.samples(min(chunk, task.count - first), seed + first)",
          "task.samples(min(chunk, task.count - first), seed)", "test_heads_are_scored_on_held_out_samples"),
    fault("scores and poses measured on the same scenes", HEADS, "SCORE_SEED = world.HELD_OUT + 50_000",
          "SCORE_SEED = world.HELD_OUT + 20_050", SEEDS),
    fault("maps and poses measured on the same scenes", MEASURE,
          "MAP_SEED, DRAG_SEED, IDENTITY_SEED = world.HELD_OUT + 30_000",
          "MAP_SEED, DRAG_SEED, IDENTITY_SEED = world.HELD_OUT + 20_000", SEEDS),
    fault("judge calibrated on what it is measured on", JUDGE, "CALIBRATION_SEED = world.HELD_OUT + 500_000_000",
          "CALIBRATION_SEED = TEST_SEED", SEEDS),
    fault("judge taught on the heads' scenes", JUDGE, "TRAIN_SEED = 600_000_000", "TRAIN_SEED = 400_000_000", SEEDS),
    fault("autoencoder measured on training scenes", BASE,
          "VAE_SEED, DATA_SEED, TEST_SEED = 300_000_000, 0, world.HELD_OUT",
          "VAE_SEED, DATA_SEED, TEST_SEED = 300_000_000, 0, 0", SEEDS),
    fault("identity measured against its own references", MEASURE,
          "world.sample_scenes(count, seed), world.sample_scenes(count, seed + count)",
          "world.sample_scenes(count, seed), world.sample_scenes(count, seed)", REFERENCE),
    fault("identity: the looks of the new scene", MEASURE, "for name in world.LOOKS} for scene in old]",
          "for name in world.LOOKS} for scene in new]", REFERENCE),
    fault("identity: the words of the reference", MEASURE,
          'for name in ("action", "background", "prop")} for scene in new]',
          'for name in ("action", "background", "prop")} for scene in old]', REFERENCE),
    fault("identity: batches not weighted in the mean", MEASURE, "_add(totals[how], len(old) / count, {",
          "_add(totals[how], 1 / -(-count // batch), {", REFERENCE),
    fault("identity: unguided guided", MEASURE,
          'zip(totals, ([], looks["objectives"], [goal], [goal, *looks["objectives"]]))',
          'zip(totals, (looks["objectives"], looks["objectives"], [goal], [goal, *looks["objectives"]]))', REFERENCE),
    fault("pose: batches not weighted in the mean", MEASURE, "_add(totals[name], len(part) / count, values)",
          "_add(totals[name], 1 / -(-count // batch), values)", POSES),
    fault("maps: batches not weighted in the mean", MEASURE,
          "_add(totals[how], len(part) / count, {\n                name",
          "_add(totals[how], 1 / -(-count // batch), {\n                name", PICTURES),
    fault("base: batches not weighted in the mean", MEASURE, "sum(each[name] * n for each, n in hits) / count",
          "sum(each[name] for each, n in hits) / len(hits)", BASES),
    fault("pose: hidden joints count, too", MEASURE,
          '"pck@0.1": pck(reading.joints, frames.joints, 0.1, frames.visible).mean(),\n                      "all',
          '"pck@0.1": pck(reading.joints, frames.joints, 0.1).mean(),\n                      "all',
          "test_a_joint_that_something_hides_does_not_count_in_the_pose"),
    fault("pose: every batch from the same noise", MEASURE,
          '        for name, objectives, extra in (("unguided", [], {}), ("guided", goal, guidance)):',
          '        start = 0\n        for name, objectives, extra in (("unguided", [], {}), ("guided", goal, guidance)):',
          POSES),
    fault("pose: guided and unguided exchanged", MEASURE, '(("unguided", [], {}), ("guided", goal, guidance))',
          '(("guided", [], {}), ("unguided", goal, guidance))', POSES),
    fault("maps: guided and unguided exchanged", MEASURE, '(("unguided", []), ("guided", [objective(head, target)]))',
          '(("guided", []), ("unguided", [objective(head, target)]))', PICTURES),
    fault("inversion measured without the square", MEASURE, "error = (back - there).square().mean((1, 2, 3))",
          "error = (back - there).abs().mean((1, 2, 3))",
          "test_an_inversion_is_measured_in_decibels_against_the_round_trip"),
    fault("inversion: the best for the worst", MEASURE, "(-10 * error.log10()).min())", "(-10 * error.log10()).max())",
          "test_an_inversion_is_measured_in_decibels_against_the_round_trip"),
    fault("drag's fidelity over the whole picture", MEASURE, "kept = 1 - case.moved()",
          "kept = torch.ones_like(case.moved())", DRAGGED),
    fault("drag's fidelity where it had to change", MEASURE, "kept = 1 - case.moved()", "kept = case.moved()", DRAGGED),
    fault("arrows of other defaults are gone on with", MEASURE, ', "defaults": drag_defaults()}', "}",
          "test_arrows_go_on_where_they_broke_off"),
    fault("drag's distance taken before the drag", MEASURE, '"distance": distance(ended)',
          '"distance": distance(case.handles[:count])', DRAGGED),
    fault("drag judged by the picture before", MEASURE, "case, after = made.case, judge(picture)\n    if case.joints:",
          "case, after = made.case, made.reading\n    if case.joints:", DRAGGED),
    fault("arrow judged by the picture before", MEASURE, "case, after = made.case, judge(picture)\n    way",
          "case, after = made.case, made.reading\n    way", ARROWED),
    fault("an arrow's joints not against where they were", MEASURE, "(after.joints[0, case.joints] - made.reading.joints[0, case.joints] - way)",
          "(after.joints[0, case.joints] - case.handle - way)", ARROWED),
    fault("drag's distance from the handles", MEASURE, "float((points - case.targets[:count]).norm(dim=-1).mean())",
          "float((points - case.handles[:count]).norm(dim=-1).mean())", DRAGGED),
    fault("arrows of another model go on", MEASURE, "\"weights\": checksum_of(pipe, judge, head, pose)", "\"weights\": checksum_of()",
          "test_right.py::test_arrows_go_on_where_they_broke_off"),
    fault("a batch of any size counts", FRONT, "if count != sizes.get(task, count):", "if False:",
          "test_front.py::test_a_batch_of_another_size_is_not_taken_for_this_one"),
    fault("the front goes on with drags of other defaults", FRONT, '*([drag_defaults()] if task == "drag" else [])', "",
          "test_front.py::test_rows_of_another_model_head_or_judge_are_not_continued"),
    fault("the trial goes on with drags of other defaults", "evidence/trial.py", '**(told if drags else {})', '**({"steps": steps} if drags else {})',
          "test_trial.py::test_rows_of_other_settings_are_not_gone_on_with"),
    fault("the front goes on with another model", FRONT, 'if row["version"] != versions.get(row["task"]):', "if False:",
          "test_front.py::test_rows_of_another_model_head_or_judge_are_not_continued"),
    fault("the front is written as this process knows it", FRONT, '"the front", kept=fitting)', '"the front", kept=lambda there: [])',
          "test_front.py::test_two_that_write_one_table_keep_what_the_other_has_measured"),
    fault("drag: attributes before and after exchanged", MEASURE,
          '"attribute_accuracy": attribute_accuracy(after, [looks])["mean"]',
          '"attribute_accuracy": attribute_accuracy(made.reading, [looks])["mean"]', DRAGGED),
    fault("limbs of any length are whole", CASES, "return found & (change <= tolerance).all(-1)", "return found",
          "test_limbs_may_be_as_much_longer_as_is_tolerated"),
    fault("one limb of the right length is enough", CASES, "(change <= tolerance).all(-1)",
          "(change <= tolerance).any(-1)", "test_limbs_may_be_as_much_longer_as_is_tolerated"),
    fault("shorter limbs are whole", CASES, ".clamp_min(1e-6) - 1).abs()", ".clamp_min(1e-6) - 1)",
          "test_limbs_may_be_as_much_longer_as_is_tolerated"),
    fault("a patch found with rows and columns exchanged", CASES,
          "return torch.tensor([best % width + 0.5, best // width + 0.5])",
          "return torch.tensor([best // width + 0.5, best % width + 0.5])",
          "test_editing.py::test_a_patch_is_found_where_it_went"),

    fault("triplets with one scene only: the negatives", HEADS, "for negative in (second_1, second_2)",
          "for negative in (second_1, second_1)", TRIPLET),
    fault("triplets with one scene only: the pictures", HEADS,
          "return anchor, positive, negative, replace(positive, puppet=",
          "return anchor, positive, negative, replace(anchor, puppet=", TRIPLET),
    fault("triplets with one anchor", HEADS, "for anchor, positive in ((first_1, first_2), (first_2, first_1))) / 4",
          "for anchor, positive in ((first_1, first_2),) * 2) / 4", TRIPLET),
    fault("triplets: what they have in common stays", HEADS, "hinge(*(members - members.mean(0)))", "hinge(*members)",
          TRIPLET),
    fault("triplets: the farther counts", HEADS, "return (near > far).float()", "return (near < far).float()",
          "test_heads.py::test_a_triplet_counts_where_the_positive_is_nearer"),
    fault("triplets: the positive in the anchor's pose", WORLD, "positive = sample_scene(rng, anchor.puppet)",
          "positive = anchor", "test_puppets.py::test_triplets_keep_and_change_what_they_say"),
    fault("a cosine schedule that rises", HEADS, "(1 + math.cos(math.pi * done))", "(1 - math.cos(math.pi * done))",
          "test_the_rate_falls_along_a_cosine_to_a_fiftieth"),
    fault("a cosine that falls in half the time", HEADS, "(1 + math.cos(math.pi * done))",
          "(1 + math.cos(2 * math.pi * done))", "test_the_rate_falls_along_a_cosine_to_a_fiftieth"),
    fault("a cosine that falls to nothing", HEADS, "task.lr * (0.02 + 0.98 * 0.5 *", "task.lr * (0.5 *",
          "test_the_rate_falls_along_a_cosine_to_a_fiftieth"),
    fault("the batches of all runs the same", HEADS, "rng = torch.Generator().manual_seed(seed * 1_000_003 + step)",
          "rng = torch.Generator().manual_seed(step)", "test_heads.py::test_batches_depend_on_seed_and_step_alone"),
    fault("pose: hidden joints are scored", HEADS, "pck(read_joints(readout)[0], joints, 0.05, visible)",
          "pck(read_joints(readout)[0], joints, 0.05)",
          "test_scores_of_poses_count_what_is_visible_and_scores_of_triplets_the_nearer"),
    fault("pose: as much weight where no joint is", KEYPOINTS, "(1 + 20 * target)", "1",
          "test_heads.py::test_the_pose_loss_counts_more_where_a_joint_is"),
    fault("heatmaps with rows and columns exchanged", KEYPOINTS, "return down[..., :, None] * across[..., None, :]",
          "return across[..., :, None] * down[..., None, :]", "test_heads.py::test_a_heatmap_by_hand"),
    fault("heatmaps as wide as their variance", KEYPOINTS, "spread = 2 * (sigma * image_size / cells) ** 2",
          "spread = (sigma * image_size / cells) ** 2", "test_heads.py::test_a_heatmap_by_hand"),
    fault("depth: nearer is smaller", HEADS, "CELLS) * 2 - 1", "CELLS) * -2 + 1",
          "test_heads.py::test_depth_is_averaged_over_cells_and_read_back"),
    fault("depth: the nearest of a cell", HEADS, 'F.adaptive_avg_pool2d(_one_channel("depth", depth)',
          'F.adaptive_max_pool2d(_one_channel("depth", depth)',
          "test_heads.py::test_depth_is_averaged_over_cells_and_read_back"),
    fault("edges: background asked for as much whatever is said", HEADS, "+ background * (1 - drawn)", "+ (1 - drawn)",
          "test_heads.py::test_an_edge_objective_balances_lines_and_background"),
    fault("matches with rows and columns exchanged", KEYPOINTS,
          "(cell % width + 0.5) * image_size / width, (cell // width + 0.5)",
          "(cell // width + 0.5) * image_size / width, (cell % width + 0.5)",
          "test_heads.py::test_shifted_features_are_matched_where_they_went"),
    fault("matches: as near whatever the puppet's size", HEADS, "(error <= a * side[:, None])", "(error <= a * 128)",
          "test_heads.py::test_shifted_features_are_matched_where_they_went"),

    fault("trial: near searches everything", TRIAL, "alike = alike.masked_fill(gap >= reach, -torch.inf)", "alike = alike + 0 * gap",
          "test_trial.py::test_a_search_finds_what_was_moved_and_stays_near_when_told_to"),
    fault("trial: a likeness that counts as a distance", TRIAL, "return 1 - torch.stack(apart).mean(0).cpu()", "return torch.stack(apart).mean(0).cpu()",
          "test_trial.py::test_likenesses_are_one_for_the_same_and_less_for_anything_else"),
    fault("drags: the body falls when a foot lifts", "evidence/drags.py", "lift=new.pose.lift + sunk", "lift=new.pose.lift",
          "test_trial.py::test_the_exact_answer_has_the_joints_at_the_targets_and_everything_else_in_its_place"),
    fault("drags: answers finer than files keep", "evidence/drags.py", "return {name: in_256_steps(make(case)) for", "return {name: make(case) for",
          "test_trial.py::test_each_bad_answer_is_bad_in_its_own_way"),
    fault("report: an interval that is not asked", "evidence/report.py", 'if needed["high"] < at and', 'if needed["value"] >= 0 and',
          "test_report.py::test_the_claim_is_judged_by_the_interval"),
    fault("report: an error counts as a gain", "evidence/report.py", "(others, ours) if task == \"depth\" else (ours, others)", "(ours, others)", "test_report.py::test_the_gap_is_of_equally_many_labels_and_says_who_is_nearer"),
    fault("report: unfinished arms count", "evidence/report.py", "if here and len(here) == len(usual[_kind(key)]):", "if here:",
          "test_report.py::test_an_arm_that_was_not_measured_to_its_end_is_left_out_and_named"),
    fault("report: more pictures of one arm drop all others", "evidence/report.py", "key=lambda each: (some.count(each), len(each)", "key=lambda each: (len(each), len(each)",
          "test_report.py::test_more_pictures_of_one_arm_leave_the_others_what_they_are"),
    fault("evidence: words stay on the CPU", "evidence/baselines.py", ".to(where)).last_hidden_state.cpu()", ").last_hidden_state",
          "device/test_on_device.py::test_everybody_of_the_evidence_trains_and_is_measured"),
    fault("ideas: a loss taken for an error", "evidence/ideas.py", "self.last = losses.detach().sqrt()", "self.last = losses.detach()",
          "test_evidence.py::test_a_closed_loop_moves_a_picture_by_its_own_error_and_ends"),
    fault("ideas: a loop without an end", "evidence/ideas.py", "done = self.last is not None and not (self.factor > 0).any()", "done = False",
          "test_evidence.py::test_a_closed_loop_moves_a_picture_by_its_own_error_and_ends"),
    fault("ablations: everybody gets the first channels", "evidence/ablations.py", "weights[name][share].clone()",
          "weights[name][:own.out_channels].clone()", "test_evidence.py::test_a_share_of_a_head_of_several_tasks_reads_what_the_head_says_of_it"),
    fault("ablations: together all learn by the loss of the first", "evidence/ablations.py", "losses[name](part, *labels)",
          "losses[list(losses)[0]](part, *labels)", "test_evidence.py::test_heads_that_learn_together_learn_what_each_learns_alone"),
    fault("ablations: each is told the seconds of all", "evidence/ablations.py", 'told["training_seconds"] / len(heads), 1)', 'told["training_seconds"], 1)',
          "test_evidence.py::test_heads_that_learn_together_learn_what_each_learns_alone"),
    fault("rows of a fine-tuned model are added", CONTEST, 'for row in rows} - {checksum_of(pipe, judge)}', 'for row in rows} - {checksum_of(pipe)}',
          "test_evidence.py::test_rows_know_their_model_and_their_judge_by_all_weights"),
    fault("layers that are not read run all the same", DENOISERS, "if self.unread else self.behind", "if False else self.behind",
          "test_denoisers.py::test_with_read_layers_the_rest_of_the_network_is_neither_read_nor_run_with_gradient"),
    fault("report: ideas against heads of other trainings", "evidence/report.py", "labels=labels, seed=seeds))", "labels=labels))",
          "test_report.py::test_ideas_are_compared_with_the_head_in_pairs_and_by_what_they_cost"),
    fault("batches ahead in another order", BASE, "yield coming.pop(0).result()", "yield coming.pop().result()",
          "test_basemodel.py::test_batches_drawn_ahead_are_those_drawn_in_turn"),
    fault("a decoder learns what other latents show", "puppets/decoder.py", "SCENES + each % (len(pool) // 2)", "SCENES + each // 2",
          "test_decoder.py::test_a_training_that_was_ended_goes_on_as_if_it_had_not_been"),
    fault("a decoder learns on renderings alone", "puppets/decoder.py", "torch.cat(encoded + drawn)", "torch.cat(encoded + encoded)",
          "test_decoder.py::test_it_learns_from_renderings_and_from_what_the_model_makes_of_them"),
    fault("whole by the finer decoder alone: by the own one", MEASURE, '"only_by_the_finer": int((fine & ~own).sum())', '"only_by_the_finer": int((own & ~fine).sum())',
          "test_decoder.py::test_both_decoders_are_measured_on_the_same_latents"),
    fault("EMA swapped", BASE, "zip(*pairs)), 1 - decay)", "zip(*pairs)), decay)", AVERAGE),
    fault("EMA swapped where it is called", BASE,
          "update_average(average, model, min(recipe.ema, (1 + step) / (10 + step)))",
          "update_average(average, model, 1 - min(recipe.ema, (1 + step) / (10 + step)))", AVERAGES),
    fault("EMA swapped in the transformer", TRANSFORMER,
          "average[name].lerp_(value, 1 - min(recipe.ema, (1 + step) / (10 + step)))",
          "average[name].lerp_(value, min(recipe.ema, (1 + step) / (10 + step)))", AVERAGES),
    fault("EMA without its slow start", BASE, "min(recipe.ema, (1 + step) / (10 + step)))", "recipe.ema)", AVERAGES),
    fault("EMA without its slow start in the transformer", TRANSFORMER,
          "1 - min(recipe.ema, (1 + step) / (10 + step)))", "1 - recipe.ema)", AVERAGES),
    fault("caption dropout off", BASE, "dropped = torch.rand(n, generator=rng) < recipe.caption_dropout",
          "dropped = torch.rand(n, generator=rng) < 0", DROPPED),
    fault("caption dropout reversed", BASE, "torch.where(dropped[:, None], nothing, words)",
          "torch.where(dropped[:, None], words, nothing)", DROPPED),
    fault("caption dropout off in the transformer", TRANSFORMER,
          "dropped = torch.rand(n, generator=rng) < recipe.caption_dropout",
          "dropped = torch.rand(n, generator=rng) < 0", DROPPED),
    fault("captions of other pictures", BASE, "words = tokens[index, torch.randint(",
          "words = tokens[index.roll(1), torch.randint(", DROPPED),
    fault("noise levels not stratified", BASE, "spread = (torch.arange(n) + torch.rand(n, generator=rng)) / n",
          "spread = torch.rand(n, generator=rng)", DROPPED),
    fault("the transformer's noise levels not stratified", TRANSFORMER,
          "spread = (torch.arange(n) + torch.rand(n, generator=rng)) / n", "spread = torch.rand(n, generator=rng)",
          DROPPED),
    fault("the transformer's velocity reversed", TRANSFORMER, "level, noise - clean, words, copies",
          "level, clean - noise, words, copies", DROPPED),
    fault("the transformer's noise levels reversed", TRANSFORMER, "return (1 - s) * clean + s * noise, level",
          "return s * clean + (1 - s) * noise, level", DROPPED),
    fault("min-SNR: weighed by the signal alone", BASE, "** recipe.snr_power / snr).mean()",
          "** recipe.snr_power).mean()", "test_basemodel.py::test_the_loss_weighs_noise_levels_by_min_snr"),
    fault("the rate never warms up", TRAINING, "factor = min(1.0, (step + 1) / max(min(warmup, steps // 4), 1),",
          "factor = min(1.0,", "test_the_rate_rises_stays_and_falls_to_zero"),
    fault("the rate never falls", TRAINING, ", (steps - step) / max(decay * steps, 1))", ")",
          "test_the_rate_rises_stays_and_falls_to_zero"),
    fault("the rate falls over all but that fraction", TRAINING, "max(decay * steps, 1))",
          "max((1 - decay) * steps, 1))", "test_the_rate_rises_stays_and_falls_to_zero"),
    fault("the seeds of runs meet", TRAINING, "manual_seed(recipe.seed * 1_000_003 + step)",
          "manual_seed(recipe.seed + step)", "test_each_step_of_each_run_draws_its_own_numbers"),

    # ---- the judge ---------------------------------------------------------------------------------------------------
    fault("PCK by the smaller side", JUDGE, "(target.amax(1) - target.amin(1)).amax(-1, keepdim=True)",
          "(target.amax(1) - target.amin(1)).amin(-1, keepdim=True)",
          "test_judge.py::test_pck_counts_joints_within_a_share_of_the_larger_side"),
    fault("PCK: hidden joints count, too", JUDGE, "return (near & counts).sum(-1) / counts.sum(-1)",
          "return near.float().mean(-1)", "test_judge.py::test_pck_counts_joints_within_a_share_of_the_larger_side"),
    fault("PCK: hidden joints count as wrong", JUDGE, "return (near & counts).sum(-1) / counts.sum(-1)",
          "return (near & counts).float().mean(-1)",
          "test_judge.py::test_pck_counts_joints_within_a_share_of_the_larger_side"),
    fault("depth: an inverted map is as good", JUDGE, ".clamp_min(1e-12)).clamp_min(0)", ".clamp_min(1e-12))",
          "test_judge.py::test_depth_rmse_aligns_scale_and_shift_for_each_picture"),
    fault("depth: not aligned", JUDGE, "return mean((scale * p - t) ** 2).sqrt()", "return mean((p - t) ** 2).sqrt()",
          "test_judge.py::test_depth_rmse_aligns_scale_and_shift_for_each_picture"),
    fault("depth: the mask ignored", JUDGE, "weight = torch.ones(target.shape, device=target.device) if mask is None else mask.to(target.device, torch.float32)",
          "weight = torch.ones(target.shape, device=target.device)", "test_judge.py::test_depth_rmse_aligns_scale_and_shift_for_each_picture"),
    fault("edges: precision without tolerance", JUDGE, "count(ours * wide(truth))", "count(ours * truth)",
          "test_judge.py::test_edge_f_score_with_and_without_tolerance"),
    fault("edges: precision alone", JUDGE, "score = 2 * precision * recall / (precision + recall).clamp_min(1e-9)",
          "score = precision", "test_judge.py::test_edge_f_score_with_and_without_tolerance"),
    fault("attributes that were not asked for count", JUDGE, "sum(result.values()) / len(result)}",
          "sum(result.values()) / len(world.ATTRIBUTES)}",
          "test_judge.py::test_attribute_accuracy_counts_only_what_is_named"),
    fault("a puppet is found by one joint", JUDGE, "reading.confidence.new_tensor(self.thresholds)).all(-1)",
          "reading.confidence.new_tensor(self.thresholds)).any(-1)", "test_judge.py::test_found_asks_all_joints"),
    fault("thresholds from puppets that hide joints, too", JUDGE, "torch.cat(confidence)[torch.cat(visible).all(-1)]",
          "torch.cat(confidence)", "test_thresholds_come_from_puppets_that_show_all_their_joints"),
    fault("a mirror keeps left and right", JUDGE, '_SWAP = {"left": "right", "right": "left"}',
          '_SWAP = {"left": "left", "right": "right"}', "test_judge.py::test_joints_follow_shifts_and_mirrors"),
    fault("joints shifted the other way", JUDGE, "flipped, joints) - shift[:, None]",
          "flipped, joints) + shift[:, None]", "test_judge.py::test_joints_follow_shifts_and_mirrors"),
    fault("attributes under a patch are learned", JUDGE, "facts = (facts * whole).sum() / whole.sum().clamp_min(1)",
          "facts = facts.mean()", "test_a_judge_is_not_blamed_for_attributes_under_a_patch"),
    fault("a joint under a patch is still there", JUDGE, "batch.present & ~under, ~chosen)", "batch.present, ~chosen)",
          "test_judge.py::test_patched_joints_are_absent_and_only_those"),
    fault("a joint that is absent is nowhere at all", JUDGE, "torch.cat((spot, (~present)[..., None].float()), -1)",
          "torch.cat((spot, torch.zeros_like(present)[..., None].float()), -1)",
          "test_a_joint_outside_or_under_a_patch_is_nowhere"),

    # ---- what a step costs -------------------------------------------------------------------------------------------
    fault("a pass that may end early runs on", DENOISERS, "                raise _AllRead", "                return",
          "test_callback.py::test_a_pass_that_may_end_early_ends_early_and_gives_the_same"),
    fault("a pass ends before its last layer is read", DENOISERS, "return attentions[-1] if attentions else", "return attentions[0] if attentions else",
          "test_cost.py::test_a_saving_leaves_the_gradient"),
    fault("branches run together all the same", DENOISERS, 'getattr(self.pipe, "one_branch_at_a_time", False)', "False",
          "test_cost.py::test_a_prediction_branch_by_branch_is_the_same"),
    fault("views count again", COST, "if key not in self.seen:", "if id(tensor) not in self.seen:",
          "test_cost.py::test_a_tally_counts_shared_memory_once_and_forgets_what_is_gone"),
    fault("what is gone still counts", COST, "        self.live -= size", "        self.live -= 0",
          "test_cost.py::test_a_tally_counts_shared_memory_once_and_forgets_what_is_gone"),
    fault("slices stay when they are taken back", COST, "if self.sliced_attention != sliced:", "if self.sliced_attention:",
          "test_cost.py::test_savings_that_are_taken_back_leave_nothing"),
    fault("the weights are forgotten", COST, "tally.add(setup.weights)", "tally.add([])",
          "test_cost.py::test_what_is_predicted_is_what_is_counted"),

    fault("a movement from before a release calls the refined picture off", STUDIO, "number > released and ", "",
          "test_studio.py::test_a_release_that_comes_in_one_message_with_movements_is_refined"),
    fault("what was called off is run all the same", STUDIO, "if self._order is not order:", "if False:",
          "test_studio.py::test_what_is_due_is_called_off"),
    fault("what is released has to wait for its run", STUDIO, "                self._draw(self.state, wish, released=True)", "                pass",
          "test_studio.py::test_what_is_released_has_a_first_look_and_keeps_it_until_the_run_shows_more"),
    fault("a draft gives way to what is less clear", STUDIO, "                        if not unclear:\n", "                        if True:\n",
          "test_studio.py::test_what_is_released_has_a_first_look_and_keeps_it_until_the_run_shows_more"),
    fault("what is in use is forgotten first", "classroom/recipe.py", "        kit.known[key] = kit.known.pop(key)", "        pass",
          "test_studio.py::test_a_picture_that_is_in_use_is_not_forgotten_for_a_new_one"),
    fault("arrows come back to a blank picture", STUDIO, "if before is not None or self._ground is not None:", "if self._ground is not None:",
          "test_studio.py::test_arrows_that_come_back_lie_on_their_picture"),
    fault("a draft outlives the run that was stopped", STUDIO, "(self._wish is None if self.desk.shows_draft() else made)", "made and not self.desk.shows_draft()",
          "test_studio.py::test_what_is_released_has_a_first_look_and_keeps_it_until_the_run_shows_more"),
    fault("a click on the history is undone by the run", STUDIO, "                    if self._unwanted:", "                    if False:",
          "test_studio.py::test_who_goes_back_during_a_run_is_not_brought_forward_by_it"),

    fault("a pair forgets the network's guidance scale", CONTEST, "conditioning=conditioning, guidance_scale=guidance_scale, **settings)",
          "conditioning=conditioning, **settings)", "test_evidence.py::test_a_pair_takes_what_was_chosen_for_each_alone"),
    fault("a batch is done with its first picture", CONTEST, "if not all((*key, picture) in done", "if not any((*key, picture) in done",
          "test_evidence.py::test_a_batch_is_done_when_all_its_pictures_are"),
    fault("settings are compared on different pictures", CONTEST, " and tried[each].keys() == tried[known[0]].keys() for", " for",
          "test_evidence.py::test_a_tuning_that_was_killed_chooses_nothing"),
    fault("rows are the same whatever they look like", CONTEST, "and median(map(look_apart, rows, again)) <= look)", ")",
          "test_evidence.py::test_no_batch_of_another_training_agrees"),
    fault("a batch is the same where one picture is", CONTEST, "and median(map(look_apart, rows, again)) <= look)", "and min(map(look_apart, rows, again)) <= look)",
          "test_evidence.py::test_a_batch_agrees_with_what_another_processor_rounds_otherwise_and_with_nothing_else"),
    fault("a checkpoint that is left is part of a network", CONTEST, "if file.name != CHECKPOINT", "if file.name",
          "test_evidence.py::test_what_was_trained_anew_is_measured_anew"),
    fault("a killed tuning chooses", CONTEST, "if all(each in tried and", "if all(each not in tried or",
          "test_evidence.py::test_a_tuning_that_was_killed_chooses_nothing"),
    fault("the tuning that was measured last counts", CONTEST, "ended[nearest(list(ended), labels)]", "ended[list(ended)[-1]]",
          "test_evidence.py::test_of_several_tunings_the_one_with_the_nearest_number_of_labels_counts"),
    fault("what pictures do otherwise in each training counts twice", STATISTICS, "_own(each) * (pictures - 1)", "(pictures - 1)",
          "test_evidence.py::test_what_pictures_do_otherwise_in_each_training_is_counted_once"),
    fault("equal pairs do not know how many they are", STATISTICS, "return _alike(found, one, other)", "return found",
          "test_evidence.py::test_pairs_that_are_all_alike_may_still_differ"),
    fault("few pictures are drawn again", STATISTICS, "if len(grid) > 1 or grid.shape[1] >= FEW:", "if True:",
          "test_evidence.py::test_the_mean_of_few_pictures_is_moved_by_students_t"),
    fault("new noise is measured without noise", MEASURE, "guidance_scale=guidance_scale, eta=eta)", "guidance_scale=guidance_scale)",
          "test_heads.py::test_the_base_is_measured_at_the_pace_that_is_named"),
    fault("a curve keeps what falls back", STATISTICS, "for first in several[:i + 1]]).amax(0)", "for first in several[i:i + 1]]).amax(0)",
          "test_evidence.py::test_a_rising_curve_is_the_mean_of_what_pulls_against_each_other"),
    fault("pictures of one caption are not drawn together", STATISTICS, "_frechet(other[here], real[there])", "_frechet(other[here.flip(0)], real[there])",
          "test_evidence.py::test_frechet_distances_are_compared_in_pairs"),
    fault("few pairs are drawn again", STATISTICS, "if len(one) == len(other) == 1 and one.shape[1] < FEW:", "if False:",
          "test_evidence.py::test_the_mean_of_few_pictures_is_moved_by_students_t"),
    fault("parts of a picture count as if each were asked alone", STATISTICS, "if len(grid) > 1 or parts > 1:", "if len(grid) > 1:",
          "test_evidence.py::test_a_share_of_parts_knows_how_many_and_that_they_go_wrong_together"),
    fault("what is made again goes into the shipped tables", "evidence/__main__.py", 'for each in {"folder", "runs",', 'for each in {"runs",',
          "test_evidence.py::test_again_gives_every_command_behind_the_tables_into_another_folder"),
    fault("heads that were trained anew keep their old scores", "evidence/ablations.py", "for row in C.of_these(known, runs)}", "for row in known}",
          "test_evidence.py::test_a_cheaper_head_is_trained_scored_and_guides"),
    fault("what was trained anew is not measured anew", CONTEST, 'in ("", row["network"]) or not row["network"]]', "is not None]",
          "test_evidence.py::test_what_was_trained_anew_is_measured_anew"),
    fault("a recipe's merit asks for a task that no row tells", "evidence/recipes.py", '{"task": recipe.task, **row}', "row",
          "test_evidence.py::test_recipes_are_tried_on_tuning_scenes_and_written_down"),
    fault("answers of another noise are compared", "evidence/trial.py", 'if (row["picture"], row["seed"]) in here', 'if row["picture"] in {each[0] for each in here}',
          "test_trial.py::test_a_trial_goes_on_and_comes_to_a_verdict"),
    fault("what most merit had is not asked for", REPORT, 'and own != (row["steps"], row["lr"])]', "and False]",
          "test_report.py::test_numbers_of_steps_at_the_edge_of_what_was_tried_are_said"),
    fault("`all` finds out after its trainings what it lacks", COMMANDS_OF, "def everything(options) -> None:\n    refuse_all(options)\n", "def everything(options) -> None:\n",
          "test_evidence.py::test_all_refuses_before_it_trains_what_it_would_refuse_after"),
    fault("`all` wants networks for what is measured already", COMMANDS_OF, "anew = [each for each in todo if any((part, each[1]) in open_ for part in each[0].split(\"+\"))]",
          "anew = todo", "test_evidence.py::test_what_is_tuned_and_measured_needs_no_network_again"),
    fault("ablations are trained that cannot be measured", COMMANDS_OF, 'C.chosen(known, "head", task, options.labels[0])', "pass",
          "test_evidence.py::test_ablations_are_not_trained_where_they_could_not_be_measured"),
    fault("learners are trained before their teachers", COMMANDS_OF, "sorted(options.kinds, key=lambda kind: kind in M.LEARNS_FROM)", "options.kinds",
          "test_evidence.py::test_who_learns_from_another_may_be_named_first"),
    fault("who was not trained is found out when asked", CONTEST, "        require(name, task, labels, seed, runs)\n    axes", "        pass\n    axes",
          "test_evidence.py::test_who_was_not_trained_is_named_before_anything_is_made"),
    fault("a table loses what another process added", "files.py", "(*kept(rows_so_far(table, kinds, what)), *new)", "(*new,)",
          "test_files.py::test_rows_are_added_to_what_is_there_now"),
    fault("two processes add to a table at once", "files.py", "lock = _hold(beside, wait=True)", 'lock = ""',
          "test_files.py::test_what_two_processes_add_at_once_is_all_kept"),
    fault("numbers that are none are read", "files.py", "not math.isfinite(value)]", "False]", "test_files.py::test_what_is_no_such_table_is_not_read"),
    fault("a training of another recipe counts", LEARN, "    if wrong:", "    if False:",
          "test_evidence.py::test_a_training_of_another_recipe_is_not_taken_for_this_one"),
    fault("a training goes on without a loss", LEARN, "if not math.isfinite(value):", "if False:",
          "test_evidence.py::test_a_loss_that_is_no_number_ends_a_training"),
    fault("few trainings spread too little", STATISTICS, "* scale * math.sqrt(count / max(count - 1, 1))", "",
          "test_evidence.py::test_intervals_against_known_answers"),
    fault("rates of recipes that differ in steps count as tried", REPORT, '(*_whose(row), row["steps"])', '_whose(row)',
          "test_report.py::test_recipes_that_were_tried_are_told_and_what_was_not_tried_as_well"),
    fault("points of one training look like those of several", "classroom/plots.py", 'single = [each for each in rows if each["seeds"] == 1]', "single = []",
          "test_evidence.py::test_a_figure_says_what_its_whiskers_are_and_which_points_are_of_one_training"),
    fault("strengths of other trainings are compared", REPORT, "return pick(rows, seed=set.intersection(*have.values()))", "return rows",
          "test_report.py::test_strengths_are_compared_in_the_trainings_that_all_have"),
    fault("settings that were not chosen count", REPORT, "if C.was_tuned(tuned, name, task) else", "if False else",
          "test_report.py::test_rows_of_settings_that_were_not_chosen_do_not_count"),

    fault("heads that learned together learn again after a kill", "evidence/ablations.py", "if set(heads) <= set(names)}", "if not heads}",
          "test_evidence.py::test_heads_that_learned_together_are_all_left_after_a_kill"),
    fault("raw layers are left before one is chosen", "evidence/rivals.py", 'head, "linear", keep, **', 'head, "linear", **',
          "test_evidence.py::test_a_training_that_was_killed_before_all_was_left_is_not_finished_and_goes_on"),
    fault("drags with other numbers of steps are compared", TRIAL, "for name, value in now.items() if told.get(name, value) != value]", "for name, value in now.items() if False]",
          "test_trial.py::test_rows_of_other_settings_are_not_gone_on_with"),
    fault("another recipe is found when its turn comes", COMMANDS_OF, "        M.refuse_taken(kind, task, labels, seed, options.runs, **changes)\n        first", "        first",
          "test_evidence.py::test_what_lies_in_the_way_of_the_last_training_is_found_before_the_first"),
    fault("a check that is no number chooses nothing", LEARN, 'refuse_no_number("loss on other pictures", now, done)', "pass",
          "test_evidence.py::test_a_check_that_is_no_number_ends_a_training"),

    # ---- any size, any form -------------------------------------------------------------------------------------------
    fault("inversion takes the timesteps of the model's own size", "pipelines.py", "model.scheduler(steps, latents=latents)", "model.scheduler(steps)",
          "test_denoisers.py::test_a_picture_of_another_size_is_inverted_along_the_timesteps_that_it_is_sampled_with"),
    fault("a training tells the model's own size", READOUT, "told(model.image_size(batch[0][0]))", "told(model.image_size())",
          "test_denoisers.py::test_a_source_and_a_training_tell_the_model_the_size_of_their_picture"),
    fault("noise of the steps stays in its own format", DENOISERS, '"variance_noise": noise.to(latents)}', '"variance_noise": noise}',
          "test_denoisers.py::test_noise_of_the_steps_and_generators_come_in_any_form_with_any_scheduler"),
    fault("a detector writes over what is there", "detectors.py", "if Path(path).exists():", "if False:",
          "test_detectors.py::test_what_is_there_is_not_lost_to_a_detector"),
    fault("a number that is none is written", "files.py", "json.dumps(value, indent=1, allow_nan=False)", "json.dumps(value, indent=1)",
          "test_files.py::test_no_file_is_written_that_would_then_be_refused"),
    fault("fields too many are dropped", LABEL_FILES, "        if None in line:\n", "        if False:\n",
          "test_own_labels.py::test_a_table_of_points_with_decimal_commas_or_a_column_twice_is_not_misread"),

    # ---- many runs, many processes -----------------------------------------------------------------------------------
    fault("a sweep runs everything again", SWEEP, '.get("status") != "done"]', '.get("status") != "never"]',
          "test_sweep.py::test_a_killed_sweep_goes_on_and_runs_nothing_twice_that_had_ended"),
    fault("Dask's workers fetch memory anew for every tensor", WORKERS, '"distributed.nanny.pre-spawn-environ": ONE_THREAD', '"some.other": ONE_THREAD',
          "test_sweep.py::test_a_killed_sweep_goes_on_and_runs_nothing_twice_that_had_ended"),
    fault("a grid may lose values", SWEEP, "if set(grid) != set(before[\"grid\"]) or lost:", "if set(grid) != set(before[\"grid\"]):",
          "test_sweep.py::test_a_killed_sweep_goes_on_and_runs_nothing_twice_that_had_ended"),
    fault("the page shows what is the same in all runs", SWEEP, "(differing or list(places))", "list(places)",
          "test_sweep.py::test_the_page_shows_what_differs_between_runs"),
    fault("gradients are not added up", PROCESSES, "dist.all_reduce(parameter.grad)", "pass",
          "test_processes.py::test_two_processes_train_and_score_as_one_go_on_after_a_kill_and_one_writes"),
    fault("every process writes", SAVING, "            if is_main():\n                save_checkpoint", "            if True:\n                save_checkpoint",
          "test_processes.py::test_two_processes_train_and_score_as_one_go_on_after_a_kill_and_one_writes"),
    fault("each process learns from the first rows", PROCESSES, "return slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)", "return slice(0, share)",
          "test_processes.py::test_two_processes_train_and_score_as_one_go_on_after_a_kill_and_one_writes"),

    # ---- labels of one's own, and the hub ----------------------------------------------------------------------------
    fault("unlabelled keypoints are learned", KEYPOINTS, "else error[labelled].mean()", "else error.mean()",
          "test_own_labels.py::test_unlabelled_keypoints_do_not_count"),
    fault("unlabelled keypoints are scored", KEYPOINTS, "<= a * side[:, None]) & labelled", "<= a * side[:, None])",
          "test_own_labels.py::test_a_score_of_keypoints_by_hand"),
    fault("a crop begins at the corner", LABELS, "return (height - side) // 2, (width - side) // 2, side, side",
          "return 0, 0, side, side", "test_own_labels.py::test_points_go_along_when_a_picture_is_cut_or_stretched"),
    fault("points stay where they were when a picture is cut", LABELS, "(points - points.new_tensor((left, top)))", "points",
          "test_own_labels.py::test_a_bright_spot_stays_under_its_keypoint"),
    fault("points are scaled by the other side", LABELS, "self.size / width, self.size / height", "self.size / height, self.size / width",
          "test_own_labels.py::test_points_go_along_when_a_picture_is_cut_or_stretched"),
    fault("cut off keypoints count", LABELS, "kept = labelled & frame.inside(placed)", "kept = labelled",
          "test_own_labels.py::test_points_go_along_when_a_picture_is_cut_or_stretched"),
    fault("the smallest person counts", LABEL_FILES, "largest = max(", "largest = min(",
          "test_own_labels.py::test_the_largest_of_several_people_counts"),
    fault("hidden joints are unlabelled", LABEL_FILES, "numbers[:, 2] > 0)", "numbers[:, 2] > 1)",
          "test_own_labels.py::test_hidden_joints_are_labelled"),
    fault("frames of one film on both sides", LABELS, "root[find(b)] = find(a)", "find(a), find(b)",
          "test_own_labels.py::test_of_one_film_the_last_frames_are_held_out_and_pairs_across_left_out"),
    fault("a negative of the same identity", LABELS, "other = (same + 1 + pick(len(members) - 1)) % len(members)", "other = pick(len(members))",
          "test_own_labels.py::test_triplets_are_of_two_identities_and_different_pictures"),
    fault("lines are averaged", LABELS, "(F.adaptive_max_pool2d(cut, frame.cells) >= 0.5)", "(F.adaptive_avg_pool2d(cut, frame.cells) >= 0.5)",
          "test_own_labels.py::test_lines_from_files_train_as_in_memory"),
    fault("bad files pass in silence", LABELS, "if finds.problems and not skip_bad:", "if False:",
          "test_own_labels.py::test_bad_files_are_named_and_can_be_left_out"),
    fault("what was left out is not in the card", TRAIN, '"left_out": listed(data.left_out)', '"left_out": []',
          "test_own_labels.py::test_bad_files_are_named_and_can_be_left_out"),
    fault("any training goes on from a checkpoint", TRAIN, "    return mark.hexdigest()", '    return "0" * 12',
          "test_own_labels.py::test_another_recipe_does_not_go_on_from_a_checkpoint"),
    fault("the hub is asked unpinned", REFERENCE_FILE, "and not (revision and hub.COMMIT.fullmatch(revision))", "and not revision",
          "test_hub.py::test_a_fetched_head_is_pinned"),
    fault("a card that is there is lost", HUB, 'if not (folder / "README.md").exists():', "if True:",
          "test_hub.py::test_a_card_that_is_there_is_kept"),
    fault("the worse convention is the best", REFERENCE_FILE, "return Convention(min(losses", "return Convention(max(losses",
          "test_hub.py::test_a_head_reads_best_with_the_convention_that_it_was_trained_with"),

    # ---- what is guided, held and collected in silence
    fault("nothing is guided and nobody is told", "checks.py", "elif takes is not None and not any(takes[max(begin, first):end]):", "elif False:",
          "test_callback.py::test_an_interval_in_which_no_move_is_taken_is_refused"),
    fault("single-step solvers: every step takes a move", DENOISERS, "return [order == 1 for order in scheduler.order_list[-steps:]]", "return [True] * steps",
          "test_callback.py::test_which_steps_take_a_move_is_known_before_the_first"),
    fault("two arrows on one part add up", "puppets/grab.py", "elif name and differ(i, last[name, joint]):", "elif name and differ(i, i):",
          "test_grab.py::test_of_two_arrows_on_one_thing_the_later_decides_and_the_words_say_so"),
    fault("a command hides what is shipped", MEASURE, 'default=find_folder("data/results")', 'default="data/results"',
          "test_files.py::test_what_a_command_writes_by_default_goes_where_it_is_read_from"),
    fault("costs in two number formats in one table", COST, '(f" {asked.dtype}" if asked.dtype != "bfloat16" else "")', '""',
          "test_cost.py::test_another_number_format_or_card_takes_nothing_from_what_is_known"),
)


# ---- planting and running --------------------------------------------------------------------------------------------

def count_of(each: Fault) -> int:
    """How often its old text stands in its file."""
    return (ROOT / "rg_minimal" / each.file).read_text(encoding="utf-8").count(each.old)


def copied(place: Path, each: Fault | None = None) -> Path:
    """The package in `place`, with a fault in it or without, and a link to the data beside it."""
    shutil.copytree(ROOT / "rg_minimal", place / "rg_minimal")
    (place / "data").symlink_to(ROOT / "data")
    if each is not None:
        path = place / "rg_minimal" / each.file
        path.write_text(path.read_text(encoding="utf-8").replace(each.old, each.new), encoding="utf-8")
        os.utime(path, (1, 1))          # so that nothing compiled from the right text passes for it
    return place


class Watch:
    """A plugin for pytest: what failed, and whether it was a test or what leads to one."""

    def __init__(self):
        self.failed, self.broken, self.passed = [], [], 0

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed
        if report.failed:
            place = self.broken if report.when == "teardown" else self.failed
            place.append(report.nodeid.removeprefix("tests/"))

    def pytest_collectreport(self, report):
        if report.failed:
            self.broken.append(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")


def nothing(why: str) -> dict:
    return {"failed": [], "broken": [why], "passed": 0}


def tests_in(place: Path, tests, first: bool) -> dict:
    """Run tests with the package in `place`, in a child with the libraries loaded already: {failed, broken, passed}."""
    told, said = place / "told.json", place / "said.txt"
    child = os.fork()
    if not child:
        signal.alarm(LONGEST)
        with open(said, "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        os.environ |= {"PYTHONPATH": str(place), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.path.insert(0, str(place))
        os.chdir(place)
        import pytest
        import rg_minimal
        watch = Watch()
        if Path(rg_minimal.__file__).is_relative_to(place):
            options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
            pytest.main([*options, *["-x"] * first, *(str(ROOT / "tests" / test) for test in tests)], plugins=[watch])
        else:
            watch.broken.append(f"rg_minimal is that of {rg_minimal.__file__}")
        told.write_text(json.dumps({"failed": watch.failed, "broken": watch.broken, "passed": watch.passed}))
        os._exit(0)
    os.waitpid(child, 0)
    found = json.loads(told.read_text()) if told.exists() else nothing("the tests did not end")
    return found | {"said": said.read_text(errors="replace") if said.exists() else ""}


def tried(each: Fault | None, tests, first: bool = True) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        return tests_in(copied(Path(folder).resolve(), each), tests, first)


PIPELINES = ("AutoencoderKL", "ControlNetModel", "FluxPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline",
             "StableDiffusionPipeline", "StableDiffusionXLPipeline", "T2IAdapter", "VQModel")
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "PreTrainedTokenizerFast", "T5EncoderModel")


def load_libraries() -> None:
    """What every child needs, once; none of it is ours."""
    sys.path.insert(0, str(ROOT / "tests"))
    import diffusers
    import pydantic                                             # noqa: F401
    import pytest                                               # noqa: F401
    import torch
    import transformers
    for library, names in ((diffusers, PIPELINES), (transformers, ENCODERS)):
        for name in names:
            getattr(library, name)          # loaded when it is asked for
    torch.set_num_threads(1)


def main(names) -> int:
    chosen = [each for each in FAULTS if not names or any(name in each.name for name in names)]
    if not chosen:
        print(f"no fault is called {', '.join(names)}; there are:", *(each.name for each in FAULTS), sep="\n  ")
        return 1
    load_libraries()
    start, wrong = time.time(), 0
    sound = tried(None, sorted({test for each in chosen for test in each.tests}), first=False)
    if sound["failed"] or sound["broken"] or not sound["passed"]:
        print(sound["said"][-3000:], "Without any fault these fail:", *sound["failed"], *sound["broken"], sep="\n  ")
        return 1
    print(f"without a fault {sound['passed']} tests pass, {time.time() - start:.0f} s\n", flush=True)
    width = max(len(each.name) for each in chosen)
    for each in chosen:
        start, count = time.time(), count_of(each)
        found = tried(each, each.tests) if count == 1 else nothing(f"its text stands {count} times in {each.file}")
        verdict = "BROKEN" if found["broken"] else "caught" if found["failed"] else "NOT caught"
        wrong += verdict != "caught"
        by = (found["broken"] or found["failed"] or [""])[0]
        print(f"{each.name:{width}}  {verdict:10}  {by}  {time.time() - start:.1f} s", flush=True)
    print(f"\n{len(chosen)} faults, {len(chosen) - wrong} caught, {wrong} not")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
