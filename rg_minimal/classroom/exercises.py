"""The self-checks of the notebooks' exercises: each takes a student's answer and returns one sentence about it.

A notebook prints what a check returns: "Not done yet: ..." while the answer is None, "Right: ..." where it is right, and
otherwise what is wrong, with the numbers and the likely mistake. A check never raises because of an answer, so that
"Run all" gets through a notebook whose exercises are not solved. Numbers are taken as they come: Python's own, a tensor,
a numpy array or lists of any of these (`_number`, `_numbers`, `_tensor`). Nothing else in the package imports this module.
The sections follow the notebooks; worked solutions are in notebooks/solutions.
"""
from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..evidence.statistics import crossing
from ..puppets.heads import heatmaps, score_head
from ..puppets.judge import MIRROR
from ..puppets.world import JOINTS, Limb, Pose, Puppet, Scene, render, sample_scenes, skeleton
from ..denoisers import denoiser
from ..maps import pool_features
from ..readout import HeadConfig

# ---------------------------------------------------------------------------------------------- for all checks


ROUNDED = 5.1e-3            # a share of so few points or looks that no other one is as near: it may be given with two digits


def _kind(answer) -> str:
    """What an answer is, for messages: "an int", "a list", or a tensor with its shape."""
    if answer is None:                                  # of a function, for what is not done yet is said before
        return "nothing (a function ends with return)"
    plain = _plain(answer)
    if isinstance(plain, float) and not math.isfinite(plain):
        return "NaN" if math.isnan(plain) else "infinity"
    if torch.is_tensor(answer):
        return f"a tensor of shape {tuple(answer.shape)}"
    name = type(answer).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _as_tensor(answer) -> Tensor | None:
    """Numbers however they come, as a tensor: a number, a tensor, an array, lists of any of these; None for anything else."""
    try:
        if isinstance(answer, (list, tuple)) and not all(isinstance(each, (int, float)) for each in answer):
            return torch.stack([_as_tensor(each).detach().double().cpu() for each in answer])
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError):
        return None


def _tensor(answer, like: Tensor, name: str = "your tensor") -> Tensor | str:
    """The answer as a tensor of the shape, the device and the kind of numbers of `like`; or the sentence that says why not."""
    made = _as_tensor(answer)
    if made is None or made.dim() == 0 < like.dim() and not torch.is_tensor(answer):
        return f"Not yet: {name} is {_kind(answer)}, and a tensor is asked for."
    if made.shape != like.shape:
        return f"Not yet: {name} has shape {tuple(made.shape)}, and {tuple(like.shape)} is asked for."
    if not made.isfinite().all():
        return f"Not yet: {name} holds NaN or infinity."
    return made.detach().to(like)


def _near(answer: Tensor, expected: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two tensors agree to `tolerance` of the expected one's largest value."""
    answer, expected = answer.detach().double().cpu(), expected.detach().double().cpu()
    return bool((answer - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-12))


def _close(answer: Tensor, expected: Tensor, by: float) -> bool:
    """Whether two tensors of one shape differ nowhere by more than `by`."""
    return bool((answer - expected).abs().max() <= by)


def _plain(answer):
    """What a tensor, an array or numpy's own number holds as Python has it, where that is one thing; anything else as it is."""
    try:
        return answer.item() if hasattr(answer, "item") else answer
    except (TypeError, ValueError, RuntimeError):
        return answer


def _number(answer) -> float | None:
    """A finite number as a float, be it Python's, numpy's or a tensor with one element; None for anything else."""
    try:
        plain = _plain(answer)
        value = None if isinstance(plain, (bool, str)) else float(plain)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return None if value is None or value != value or abs(value) == float("inf") else value


def _numbers(answer, count: int | None = None) -> list[float] | None:
    """Numbers (`count` of them, if given) out of a list, a tuple, a tensor or an array; None for anything else."""
    try:
        values = [_number(each) for each in answer]
    except TypeError:
        return None
    return None if None in values or count not in (None, len(values)) else values


def _itself(answer, given: dict[str, Tensor]) -> str | None:
    """The name of that given tensor whose memory a tensor lies in, if any: it may have been changed in place."""
    place = answer.untyped_storage().data_ptr() if torch.is_tensor(answer) else None
    return next((name for name, each in given.items() if each.untyped_storage().data_ptr() == place), None)


def _in_both(said: str, again, expected: Tensor, told: str) -> str:
    """`said` of a function's answer, unless it was right and the answer `again`, to other arguments, is not: then `told`."""
    again = _tensor(again, expected) if said.startswith("Right") else expected
    return f"Not yet: {told}" if isinstance(again, str) or not _near(again, expected) else said


def _is_one(value) -> bool:
    """Whether a value is one number, NaN and infinity among them, if it is a tensor's."""
    return value.numel() == 1 if torch.is_tensor(value) else _number(value) is not None


def _compare(answer, expected: Tensor, mistakes: dict[str, Tensor], right: str, tolerance: float = 1e-3, given: dict[str, Tensor] = {}) -> str:
    """The sentence for a tensor that is either `expected`, one of the named mistakes, one of the tensors `given`, or something else."""
    itself, answer = _itself(answer, given), _tensor(answer, expected)
    spoiled = (f" If you changed {itself} in place (*= or +=), it is no longer what it was: run the cells above again, and begin with "
               f"{itself}.clone().") if itself else ""
    if isinstance(answer, str):
        return answer
    if _near(answer, expected, tolerance):
        return f"Right: {right}"
    for mistake, value in mistakes.items():
        if value.shape == answer.shape and _near(answer, value, tolerance):
            return f"Not yet: {mistake}{spoiled}"
    if itself:
        return f"Not yet: this is {itself} itself.{spoiled}"
    off = (answer.detach().double().cpu() - expected.detach().double().cpu()).abs()
    return (f"Not yet: your numbers differ from the right ones by {off.max():.3g} at most and {off.mean():.3g} on average "
            f"(the right ones lie between {expected.min():.3g} and {expected.max():.3g}).")


# ---------------------------------------------------------------------------------------------- 0  start here


def left_hand(answer, target: Tensor) -> str:
    """0.1: the point (x, y) of the puppet's own left hand, from a pose (14, 2)."""
    if answer is None:
        return "Not done yet: set my_hand to the point of the puppet's left hand, a row of target."
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(JOINTS):
        return (f"Not yet: {answer} is the number of a row, that of the {JOINTS[answer].replace('_', ' ')}; my_hand is to be a row itself, "
                "target[number].")
    answer = _tensor(answer, target[0], "my_hand")
    if isinstance(answer, str):
        return answer
    if _near(answer, target[JOINTS.index("left_wrist")]):
        return f"Right: ({float(answer[0]):.0f}, {float(answer[1]):.0f}), on the right of the picture, for the puppet looks at us."
    for index, name in enumerate(JOINTS):
        if _near(answer, target[index]):
            return f"Not yet: this is the {name.replace('_', ' ')}; the joints' names stand in JOINTS, in the order of the rows."
    if _near(answer.flip(0), target[JOINTS.index("left_wrist")]):
        return "Not yet: x and y are exchanged; points are (x, y)."
    return "Not yet: no joint of the target is there; take a row of it, target[number]."


def hands_up(answer) -> str:
    """0.2: two angles, left and right, as the notebook's parameters have them, that bring both hands above the head."""
    if answer is None:
        return "Not done yet: set my_arms to two angles, (left, right), in degrees."
    angles = _numbers(answer, 2)
    if angles is None:
        return "Not yet: my_arms is to be two numbers, (left, right)."
    for name, value in zip(("left", "right"), angles):
        if not -30 <= value <= 180:
            return f"Not yet: {value:g} degrees for the {name} arm; choose from -30 to 180."
    pose = Pose(left_arm=Limb(angles[0], 20), right_arm=Limb(angles[1], -8), left_leg=Limb(6), right_leg=Limb(6))
    height = {name: point[1] for name, point in zip(JOINTS, skeleton(Scene(Puppet(), pose, x=40, y=117, size=92)))}
    low = [name for name in ("left", "right") if height[f"{name}_wrist"] >= height["head"]]
    if not low:
        return "Right: both hands are above the head. Put these angles into the parameters cell, and see the picture follow."
    if 0 < max(angles) <= 3.2:
        return f"Not yet: {angles} look like radians; 180 degrees is straight up."
    return "Not yet: " + " and ".join(f"the {name} hand is {height[name + '_wrist'] - height['head']:.1f} pixels below the middle "
                                      "of the head" for name in low) + "; y grows downwards."


# ---------------------------------------------------------------------------------------------- 1  diffusion


def add_noise(answer, latents: Tensor, noise: Tensor, alpha: Tensor) -> str:
    """Noisy latents (1, C, h, w), mixed from clean ones and noise by `alpha`, which is alphas_cumprod at one timestep."""
    if answer is None:
        return "Not done yet: set my_noisy to a mixture of latents and noise."
    mistakes = {
        "the square roots are missing; the factors are alphas[400].sqrt() and (1 - alphas[400]).sqrt().": alpha * latents + (1 - alpha) * noise,
        "the two factors are exchanged: alphas[400] belongs to the picture, 1 - alphas[400] to the noise.":
            (1 - alpha).sqrt() * latents + alpha.sqrt() * noise,
        "the noise's factor is the square root of 1 - alphas[400], not 1 minus the square root.":
            alpha.sqrt() * latents + (1 - alpha.sqrt()) * noise,
        "the noise is added, but the picture is not made weaker: its factor is alphas[400].sqrt().":
            latents + (1 - alpha).sqrt() * noise,
        "these are latents + noise; each has a factor of its own.": latents + noise}
    return _compare(answer, alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, mistakes,
                    f"{alpha.sqrt():.2f} parts of picture and {(1 - alpha).sqrt():.2f} parts of noise.", given={"latents": latents, "noise": noise})


def ddim_step(answer, noisy: Tensor, predicted: Tensor, alpha: Tensor, alpha_next: Tensor) -> str:
    """Latents after one DDIM step from the timestep of `alpha` to that of `alpha_next`."""
    if answer is None:
        return "Not done yet: set my_step to the latents at s = 300; first work out the guess of the clean latents."
    guess = (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
    mistakes = {
        "this is the guess of the clean latents; mix it with the predicted noise again, for s.": guess,
        "these are the latents at t again: the second mixture takes alpha at s.": noisy,
        "this removes noise, but does not mix again: my_step needs the guess times alphas[300].sqrt().":
            noisy - (1 - alpha).sqrt() * predicted,
        "the square roots are missing in the second mixture.": alpha_next * guess + (1 - alpha_next) * predicted,
        "the guess lacks its division by alphas[500].sqrt().":
            alpha_next.sqrt() * (noisy - (1 - alpha).sqrt() * predicted) + (1 - alpha_next).sqrt() * predicted,
        "the square roots are missing in the guess.":
            alpha_next.sqrt() * (noisy - (1 - alpha) * predicted) / alpha + (1 - alpha_next).sqrt() * predicted,
        "the guess is weighted for s, but the noise is missing: add (1 - alphas[300]).sqrt() * predicted[3].": alpha_next.sqrt() * guess,
        "the alphas of t and s are exchanged.": alpha.sqrt() * ((noisy - (1 - alpha_next).sqrt() * predicted)
                                                                / alpha_next.sqrt()) + (1 - alpha).sqrt() * predicted}
    return _compare(answer, alpha_next.sqrt() * guess + (1 - alpha_next).sqrt() * predicted, mistakes,
                    "the same guess, mixed again with less of the same noise.", given={"noisy[3]": noisy, "predicted[3]": predicted})


def prompt_guidance(answer, negative: Tensor, conditional: Tensor, scale: float) -> str:
    """The network's two answers, combined by classifier-free guidance."""
    if answer is None:
        return "Not done yet: set my_output to a combination of negative and conditional."
    mistakes = {
        f"you start from conditional; start from negative, else a scale of {scale:g} works like one of {scale + 1:g}.":
            conditional + scale * (conditional - negative),
        "negative and conditional are exchanged: this pushes away from the prompt.": conditional + scale * (negative - conditional),
        "the difference points away from the prompt: it is conditional - negative.": negative + scale * (negative - conditional),
        "this is the difference alone; add it to negative.": scale * (conditional - negative),
        f"this makes the answer {scale:g} times as large; the scale belongs to the difference.": scale * conditional,
        "this is the prompt's answer alone, a scale of 1.": conditional}
    return _compare(answer, negative + scale * (conditional - negative), mistakes,
                    f"the difference that the prompt makes, {scale:g} times.", given={"negative": negative, "conditional": conditional})


# ---------------------------------------------------------------------------------------------- 2  features


def hook(answer, features: list[Tensor], layer: int, unet) -> str:
    """The feature map of one layer, caught by a hook; `features` are those of all layers for the same input."""
    if answer is None:
        return "Not done yet: set my_feature to the tensor that your hook caught."
    if isinstance(answer, (list, tuple)):
        return f"Not yet: my_feature is a list of {len(answer)}; take the tensor out of it."
    for other, feature in enumerate(features):
        found = _tensor(answer, feature)
        if other != layer and not isinstance(found, str) and _near(found, feature):
            return f"Not yet: this is layer {other}, counted from 0; layer {layer} is asked for."
    answer = _tensor(answer, features[layer], "my_feature")
    if isinstance(answer, str):
        return answer
    if not _near(answer, features[layer]):
        return ("Not yet: the shape is right, the numbers are not. Is the hook on the block's conv2 (the block itself adds the "
                "skip connection to it), and is the input the same: noisy, timestep, empty?")
    left = sum(len(module._forward_hooks) for module in unet.modules())
    if left:
        return f"Not yet: the feature is right, but {left} hook(s) are still in the model; call remove() on what was registered."
    return f"Right: {tuple(answer.shape)}, and no hook is left behind."


def cosine_map(answer, a: Tensor, b: Tensor, row: int, column: int) -> str:
    """Cosine similarity (h, w) of the feature of a (C, h, w) at one cell with all features of b (C, h, w)."""
    if answer is None:
        return "Not done yet: set my_similarity to a map of cosine similarities."
    unit = lambda x: x / x.norm(dim=0).clamp_min(1e-12)
    compare = lambda x, y, at: torch.einsum("c,chw->hw", x[:, at[0], at[1]], y)
    made = _as_tensor(answer)
    if made is not None and made.numel() == b[0].numel():
        answer = made.reshape(b.shape[1:])                              # (1, h, w) or (h * w,) is as good
    mistakes = {
        "these are dot products; divide by the lengths of both features.": compare(a, b, (row, column)),
        "row and column are exchanged: a feature map is indexed [:, row, column].":
            compare(unit(a), unit(b), (min(column, a.shape[1] - 1), min(row, a.shape[2] - 1))),
        "a is compared with itself; the map is to be of b.": compare(unit(a), unit(a), (row, column)),
        "only the one feature has length 1; divide by the lengths of those of b, too.": compare(unit(a), b, (row, column)),
        "only the features of b have length 1; divide by the length of the one feature, too.": compare(a, unit(b), (row, column))}
    expected = compare(unit(a), unit(b), (row, column))
    return _compare(answer, expected, mistakes, f"{b.shape[1]} x {b.shape[2]} cosines, all from -1 to 1.")


# ---------------------------------------------------------------------------------------------- 3  aggregation


def mixture(answer, maps: list[Tensor], raw_weights: Tensor) -> str:
    """The sum of maps (B, C, h, w), weighted by the softmax of `raw_weights`."""
    if answer is None:
        return "Not done yet: set my_mixture to the weighted sum of same_size."
    add = lambda weights: sum(weight * each for weight, each in zip(weights, maps))
    positive = raw_weights.clamp_min(0)
    mistakes = {
        "these are the raw weights; take their softmax first.": add(raw_weights),
        "these weights are exp(raw_weights); a softmax also divides by their sum.": add(raw_weights.exp()),
        "the raw weights are divided by their sum; a softmax takes exp(raw_weights) first, so that none is negative.":
            add(raw_weights / raw_weights.sum()),
        "negative weights became 0; take the softmax instead.": add(positive / positive.sum()),
        "this is the mean: all layers count the same.": add(torch.full_like(raw_weights, 1 / len(maps))),
        "this is the sum without any weights.": add(torch.ones_like(raw_weights)),
        "this is the mean of the weighted maps; a softmax sums to 1 already.": add(raw_weights.softmax(0)) / len(maps)}
    most = int(raw_weights.argmax())
    return _compare(answer, add(raw_weights.softmax(0)), mistakes,
                    f"layer {most} has {raw_weights.softmax(0)[most]:.0%} of the weight.",
                    given={f"same_size[{layer}]": each for layer, each in enumerate(maps)})


def bottleneck_count(answer, channels: int, width: int, embedding: int) -> str:
    """The parameters of a head's bottleneck, a whole number."""
    if answer is None:
        return "Not done yet: set my_count to a whole number."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_count is {_kind(answer)}, and a whole number is asked for."
    answer = int(value) if value.is_integer() else value
    narrow = width // 4
    parts = {"conv1": channels * narrow, "conv2": 9 * narrow * narrow, "conv3": narrow * width, "the shortcut": channels * width,
             "the norms": 4 * narrow + 4 * width, "the embedding's weights": embedding * narrow, "the embedding's bias": narrow}
    total = sum(parts.values())
    if answer == total:
        return f"Right: {total:,}, of which the shortcut has {parts['the shortcut'] / total:.0%}."
    for size in range(1, len(parts)):
        for missing in itertools.combinations(parts, size):
            if total - answer == sum(parts[part] for part in missing):
                return f"Not yet: {total - answer:,.0f} are missing, and that is what {' and '.join(missing)} would have."
    if answer - total == 2 * narrow + 2 * width:
        return "Not yet: these are too many by one bias a channel; the convolutions have none, a GroupNorm follows them."
    if total - answer == 8 * narrow * narrow:
        return "Not yet: conv2 is 3 x 3, so it has 9 weights for each pair of channels."
    few = "too few" if answer < total else "too many"
    return f"Not yet: {answer:,} is {few}, by {abs(total - answer):,.0f}. Add up the five rows of the table."


# ---------------------------------------------------------------------------------------------- 4  train a head

def cell_of_joint(answer, joint) -> str:
    """Notebook 4: the (row, column) of the cell of a 32 x 32 map that holds a joint (x, y) of a 128 x 128 picture."""
    if answer is None:
        return "Not done yet: set my_cell to (row, column), two whole numbers."
    found = _numbers(answer, 2)
    if found is None:
        return f"Not yet: my_cell is {answer!r}, and a pair (row, column) is asked for."
    (row, column), (x, y), cell = found, joint, 128 // 32
    expected, said = (y // cell, x // cell), f"Not yet: ({row:g}, {column:g})"
    if (row, column) == expected:
        return f"Right: a cell is {cell} pixels wide, and rows go with y, columns with x."
    if (row, column) == expected[::-1]:
        return f"{said} has row and column the wrong way round: rows are counted along y, columns along x."
    if (row, column) in ((y, x), (x, y)):
        return f"{said} are pixels: 128 pixels share 32 cells, so divide by {cell} and round down."
    if abs(row - y / cell) <= 1 and abs(column - x / cell) <= 1:
        return f"{said} is close: cells are counted from 0, and a pixel belongs to the cell found by rounding *down*."
    return f"{said} is not the cell: divide x = {x:g} and y = {y:g} by the pixels a cell ({cell}), round down, row first."


def visible_loss(answer) -> str:
    """Notebook 4: (readout, joints, visible) -> mean of the visible joints' squared errors, weighted by 1 + 20 x label."""
    if answer is None:
        return "Not done yet: write a function my_loss(readout, joints, visible) that returns one number."
    if not callable(answer):
        return f"Not yet: my_loss is {_kind(answer)}, and a function (readout, joints, visible) is asked for."
    rng = torch.Generator().manual_seed(0)
    joints = 20 + 88 * torch.rand(2, 14, 2, generator=rng)
    visible = torch.rand(2, 14, generator=rng) < torch.tensor([[0.9], [0.4]])           # not as many in each picture
    readout = torch.rand(2, 14, 32, 32, generator=rng) * torch.linspace(0.5, 1.5, 14)[:, None, None]      # so that it shows which count
    label = heatmaps(joints)
    plain = (readout - label).square()                                                  # (B, 14, h, w)
    error = plain * (1 + 20 * label)
    expected, everything = error[visible].mean(), error.mean()
    try:
        value = answer(readout.clone().requires_grad_(), joints, visible)
    except Exception as problem:
        return f"Not yet: my_loss stopped with {type(problem).__name__}: {problem}"
    if not _is_one(value):
        return f"Not yet: my_loss returns {_kind(value)}, and one number is asked for: end with .mean()."
    if not getattr(value, "requires_grad", False):
        return (f"Not yet: my_loss returns {_kind(value)}, and no gradient flows from it to the readout, so nothing can be learned: leave out "
                "detach and item.")
    if _near(value, expected):
        return "Right: hidden joints no longer count."
    mistakes = {"counts all joints, hidden ones too: use `visible`": everything,
                "counts the hidden joints and leaves out the visible ones": error[~visible].mean(),
                "leaves the weights out: multiply each squared error by 1 + 20 * heatmaps(joints)": plain[visible].mean(),
                "has no weights, and counts hidden joints too": plain.mean(),
                "multiplies before it squares: square the error first, then weight it":
                    ((readout - label) * (1 + 20 * label)).square()[visible].mean(),
                "divides by the number of all cells; the mean is to be over the visible joints only":
                    (error * visible[..., None, None]).mean(),
                "takes the mean of each picture first, and that of the pictures then: all visible joints are to count alike":
                    torch.stack([each[seen].mean() for each, seen in zip(error, visible)]).mean(),
                "is a sum and not a mean: then it depends on how many joints are visible": error[visible].sum()}
    for mistake, wrong in mistakes.items():
        if _near(value, wrong):
            return f"Not yet: your loss {mistake}."
    return f"Not yet: on a test batch your loss is {value.item():.4g}, and {expected.item():.4g} would be right."


def learned_or_memorised(answer, pipe, task, head, trained, unseen, timestep: int = 100) -> str:
    """Notebook 4: (score on samples that the head was trained on, score on held-out ones), both at one timestep."""
    if answer is None:
        return "Not done yet: set my_scores to the pair (score on training pictures, score on held-out pictures)."
    mine = _numbers(answer, 2)
    if mine is None:
        return f"Not yet: my_scores is {answer!r}, and two numbers are asked for; score_head returns a dict, take [{timestep}] of it."
    right = [score_head(pipe, task, head, (timestep,), samples)[timestep] for samples in (trained, unseen)]
    close = lambda pair: all(abs(a - b) < 2e-3 for a, b in zip(mine, pair))
    if close(right):
        if abs(right[0] - right[1]) >= 0.05:
            return f"Right: the two differ ({right[0]:.2f} and {right[1]:.2f}): it treats its own pictures differently."
        return "Right: the two hardly differ: what it knows of its own pictures, it knows of others too."
    if close(right[::-1]):
        return "Not yet: the two scores are the wrong way round, training pictures come first."
    return (f"Not yet: ({mine[0]:.3f}, {mine[1]:.3f}) are not the scores of the trained head at t = {timestep} on "
            "samples[:held_out] and on unseen: score_head(pipe, recipe, head, (100,), samples[:held_out])[100] is the first.")


# ---------------------------------------------------------------------------------------------- 5  guided sampling

def normalised_move(answer) -> str:
    """Notebook 5: a function (gradient (B, C, h, w), step_size) -> what is added to the latents."""
    if answer is None:
        return "Not done yet: write a function my_move(gradient, step_size) that returns what is added to the latents."
    if not callable(answer):
        return f"Not yet: my_move is {_kind(answer)}, and a function (gradient, step_size) is asked for."
    gradient = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1.0, 20.0]).view(3, 1, 1, 1)
    lengths = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()                    # root mean square, one a picture
    norms = gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = -0.05 * gradient / lengths
    try:
        move, longer = (answer(gradient.clone(), size) for size in (0.05, 0.2))
    except Exception as problem:
        return f"Not yet: my_move stopped with {type(problem).__name__}: {problem}"
    whole = gradient.square().mean().sqrt()
    said = _compare(move, expected, {
        "your move climbs: the gradient points to where the loss grows, so go against it.": -expected,
        "one length for the whole batch: the second and third picture swallow the first. Take the mean over dims (1, 2, 3), "
        "with keepdim=True.": -0.05 * gradient / whole,
        "this has length 1 in all, whatever the number of cells; divide by the root of the *mean* square, not of the sum.":
            -0.05 * gradient / norms,
        "every number moves by the same amount: that is the sign rule, which forgets where the gradient is large.":
            -0.05 * gradient.sign(),
        "this is the plain rule: its length still depends on the gradient's.": -0.05 * gradient,
        "the length does not follow step_size: multiply by it.": expected / 0.05},
        "each picture moves by step_size on average per number, along its own gradient.")
    return _in_both(said, longer, 4 * expected, "for a step_size of 0.05 this is right, for one of 0.2 it is not: take the length from step_size.")


def guided_steps(answer, steps: int, start: float, stop: float) -> str:
    """Notebook 5: which steps (numbered from 0) an objective guides."""
    if answer is None:
        return "Not done yet: set my_steps to a list of step numbers, counted from 0."
    found = _numbers(answer)
    if found is None or any(step % 1 for step in found):
        return f"Not yet: my_steps is {answer!r}, and a list of step numbers is asked for, such as [0, 1, 2]."
    mine = sorted({int(step) for step in found})
    first, after = int(start * steps + 1e-9), int(stop * steps + 1e-9)
    expected = list(range(first, after))
    if mine == expected:
        return f"Right: {after - first} of {steps} steps, and the first is the noisiest of them."
    if mine == list(range(first, after + 1)):
        return f"Not yet: step {after} is one too many: at stop = {stop} of {steps} steps the guidance has ended."
    if mine == [step + 1 for step in expected]:
        return "Not yet: one too late, steps are counted from 0."
    if mine and mine[-1] >= steps:
        return f"Not yet: there is no step {mine[-1]} among {steps} steps; are these timesteps? They run from 999 down to 0."
    if mine == [steps - 1 - step for step in reversed(expected)]:
        return "Not yet: counted from the wrong end. Step 0 is the noisiest."
    return f"Not yet: {mine} holds {len(mine)} steps; the interval is from {start} to {stop} of {steps} steps, and {after - first} are in it."


def mirrored_pose(answer, joints, width: int = 128) -> str:
    """Notebook 5: a pose, 14 points, seen in a mirror: x reflected, and left and right joints exchanged."""
    if answer is None:
        return "Not done yet: set my_pose to a tensor (14, 2)."
    joints = torch.as_tensor(joints, dtype=torch.float32)
    flipped = torch.stack((width - joints[:, 0], joints[:, 1]), -1)
    return _compare(answer, flipped[MIRROR], {
        "the points are reflected, but the left wrist is still called left: in a mirror the puppet turns around, so exchange "
        "the rows of left and right joints too.": flipped,
        "left and right joints are exchanged, but no point has moved: x becomes 128 - x.": joints[MIRROR],
        "this is the pose as it was.": joints,
        "you reflected y, which puts the puppet on its head: reflect x.": torch.stack((joints[:, 0], width - joints[:, 1]), -1)[MIRROR],
        "x became 127 - x; points lie between 0 and 128, they are not numbers of pixels: x becomes 128 - x.":
            torch.stack((width - 1 - joints[:, 0], joints[:, 1]), -1)[MIRROR],
        "x became -x, which lies outside the picture: x becomes 128 - x.": torch.stack((-joints[:, 0], joints[:, 1]), -1)[MIRROR]},
        "a mirror image, and left is left again.")


# ---------------------------------------------------------------------------------------------- 6  sketches

def depth_ramp(answer) -> str:
    """6.1: sky 0 down to row 79, then from 0 at row 80 evenly to 0.8 at row 127, (1, 1, 128, 128)."""
    if answer is None:
        return "Not done yet: put a depth map (1, 1, 128, 128) into my_ground."
    wanted = torch.cat((torch.zeros(80), torch.linspace(0, 0.8, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    answer = _tensor(answer, wanted, "my_ground")
    if isinstance(answer, str):
        return answer
    if _close(answer, wanted, 0.005):                  # a row more or less is 0.017
        return "Right: the sky is farthest, and the ground comes nearer with every row."
    if _close(answer, wanted.mT, 0.02):
        return "Not yet: your ramp runs across the columns; depth changes from row to row, and rows are the third axis."
    if _close(answer[..., 80:, :], wanted[..., 80:, :].flip(-2), 0.02):
        return "Not yet: your ground is nearest at the horizon; larger is nearer, so it has to rise towards row 127."
    sky = answer[..., :80, :].flatten()
    farthest = sky[sky.abs().argmax()]
    if farthest.abs() > 0.02:
        return f"Not yet: in the sky (rows 0 to 79) you have values as far from 0 as {farthest:.2f}, and 0 is asked for."
    return (f"Not yet: row 80 has {answer[0, 0, 80].mean():.2f}, row 104 {answer[0, 0, 104].mean():.2f} and row 127 "
            f"{answer[0, 0, 127].mean():.2f}; asked for are 0.00, {wanted[0, 0, 104, 0]:.2f} and 0.80.")


def sketch_precision(answer, found, strokes, near: int = 2) -> str:
    """6.2: the share of the edge pixels `found` that lie within `near` pixels of `strokes`, both bool (1, 1, H, W)."""
    if answer is None:
        return "Not done yet: put the precision, a number from 0 to 1, into my_precision."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_precision is {_kind(answer)}, and a single number is asked for."
    wide = lambda x: torch.nn.functional.max_pool2d(x.float(), 2 * near + 1, 1, near) > 0
    share = lambda of, inside: float((of & inside).sum() / of.sum().clamp_min(1))
    right, recall, exact = share(found, wide(strokes)), share(strokes, wide(found)), share(found, strokes)
    if abs(value - right) <= 5e-3:
        return "Right: that is the share of the picture's edges that your strokes asked for."
    if abs(value - recall) <= 5e-3:
        return f"Not yet: {value:.3f} is the recall, the share of the strokes that became edges; exchange the two maps."
    if abs(value - exact) <= 5e-3:
        return f"Not yet: {value:.3f} counts exact hits only; widen the strokes by {near} pixels first."
    if abs(value - 100 * right) <= 0.5:
        return f"Not yet: {value:.1f} is in percent, and a number from 0 to 1 is asked for."
    if abs(value - share(torch.ones_like(found), found & wide(strokes))) <= 1e-3:
        return f"Not yet: {value:.3f} divides by all pixels; divide by the number of pixels where found is True."
    return f"Not yet: you have {value:.3f}. Of the {int(found.sum())} pixels of found, count those on the widened strokes, and divide."


# ---------------------------------------------------------------------------------------------- 7  drag

def share_of_matches(answer, found, truth, side, a: float = 0.1) -> str:
    """7.1: PCK@a, the share of points (N, 2) found within `a` times `side` pixels of the truth."""
    if answer is None:
        return "Not done yet: put the share of right matches, a number from 0 to 1, into my_pck."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_pck is {_kind(answer)}, and a single number is asked for."
    error = (found - truth).norm(dim=-1)
    right = float((error <= a * side).float().mean())
    if abs(value - right) <= ROUNDED:
        return f"Right: {round(right * len(error))} of {len(error)} points are matched."
    if abs(value - 100 * right) <= 100 * ROUNDED:
        return f"Not yet: {value:.1f} is in percent, and a number from 0 to 1 is asked for."
    if abs(value - float((error <= a).float().mean())) <= 1e-3:
        return f"Not yet: you asked for errors below {a} pixels; the limit is {a} times the puppet's side, {a * float(side):.1f} pixels."
    if abs(value - float(error.mean())) <= 0.05:
        return f"Not yet: {value:.2f} is the mean error in pixels; count the errors below {a} times the side instead."
    if abs(value - float((error <= a * side).sum())) <= 1e-3:
        return f"Not yet: {value:g} is a number of points; divide by all {len(error)}."
    each = ((found - truth).abs() <= a * side).float().mean()
    if abs(value - float(each)) <= 1e-3:
        return "Not yet: you compared x and y one by one; the error is the distance, (found_points - truth).norm(dim=-1)."
    return f"Not yet: you have {value:.3f}, and {int((error > a * side).sum())} of the {len(error)} points are too far off."


def leg_drag(handles, targets, hip, knee, ankle, turn) -> str:
    """7.2: knee, the middle of the shin and ankle as handles (3, 2), and all three turned about the hip as targets."""
    if handles is None or targets is None:
        return "Not done yet: put three points (3, 2) into my_handles, and where they are to be into my_targets."
    wanted = torch.stack((knee, (knee + ankle) / 2, ankle))
    there = (wanted - hip) @ turn.T + hip
    handles, targets = _tensor(handles, wanted, "my_handles"), _tensor(targets, wanted, "my_targets")
    for problem in (handles, targets):
        if isinstance(problem, str):
            return problem
    if not _close(handles, wanted, 0.5):
        return ("Not yet: my_handles are not the knee, the middle between knee and ankle, and the ankle, in this order; "
                f"the largest difference is {(handles - wanted).abs().max():.1f} pixels.")
    if _close(targets, there, 0.5):
        return f"Right: the ankle moves most, by {(there[2] - wanted[2]).norm():.0f} pixels, and the leg keeps its length."
    if _close(targets, (wanted - hip) @ turn + hip, 0.5):
        return "Not yet: your leg turns inwards; multiply by turn_leg.T, not by turn_leg."
    if _close(targets, wanted @ turn.T, 0.5):
        return "Not yet: you turned about the corner of the picture; subtract the hip first, and add it again afterwards."
    if _close(targets, there - hip, 0.5):
        return "Not yet: you subtracted the hip, and did not add it again after the turn."
    if _close(targets, wanted + (there[2] - wanted[2]), 0.5):
        return "Not yet: all your points move alike, so the knee would leave the hip; turn each of them about the hip."
    length = (targets - hip).norm(dim=-1) / (wanted - hip).norm(dim=-1)
    if (length - 1).abs().max() > 0.05:
        return f"Not yet: turning keeps the distance from the hip, but yours become {length.min():.2f} to {length.max():.2f} times as far."
    return "Not yet: the distances from the hip are right, the directions are not; is the angle the one of turn_leg?"


# ---------------------------------------------------------------------------------------------- 8  appearance

def distance_of_looks(answer, features_a, features_b) -> str:
    """8.1: 1 minus the cosine similarity of the centred generalised means of power 6, for features (1, C, h, w)."""
    if answer is None:
        return "Not done yet: put the distance, one number, into my_distance."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_distance is {_kind(answer)}, and a single number is asked for."
    features = [each.detach().float() for each in (features_a, features_b)]
    centred = lambda vectors: [each - each.mean(1, keepdim=True) for each in vectors]
    distance = lambda vectors: 1 - float(torch.nn.functional.cosine_similarity(*vectors, dim=1).mean())
    means = [(each ** 6).mean((2, 3)) ** (1 / 6) for each in features]
    right = distance([pool_features(each) for each in features])
    if abs(value - right) <= 2e-3 * max(right, 0.05):
        return "Right: the means forget where things are, and the cosine forgets how many there are."
    slips = ((1 - right, 1e-4, "is the similarity; the distance is 1 minus that."),
             (distance(means), 1e-4, "is the distance of the means as they are; take from each vector its own mean over the channels."),
             (distance(centred(each.mean((2, 3)) for each in features)), 1e-4,
              "compares plain means; raise each feature to the power 6 before the mean, and take the sixth root after it."),
             (distance(centred(each ** 6 for each in means)), 1e-4, "lacks the sixth root of the means."),
             (distance(features), 1e-3, "compares cell by cell and then takes the mean; take the means over rows and columns first."))
    for slip, tolerance, words in slips:
        if abs(value - slip) <= tolerance:
            return f"Not yet: {value:.3f} {words}"
    return (f"Not yet: you have {value:.3f}. Means over the last two axes leave (1, {features_a.shape[1]}); the cosine is taken "
            "over the channels, dim=1.")


def agreement_of_looks(answer, seen, wanted) -> str:
    """8.2: the share of the looks in the dict `wanted` that agree with each of the dicts `seen`, over all of them."""
    if answer is None:
        return "Not done yet: put the share, a number from 0 to 1, into my_agreement."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_agreement is {_kind(answer)}, and a single number is asked for."
    hits = [[each[name] == look for name, look in wanted.items()] for each in seen]
    count, total = sum(map(sum, hits)), len(seen) * len(wanted)
    if abs(value - count / total) <= ROUNDED:
        return f"Right: {count} of {total} looks agree."
    if abs(value - 100 * count / total) <= 0.1:
        return f"Not yet: {value:g} is in percent, and a number from 0 to 1 is asked for."
    if abs(value - sum(all(each) for each in hits) / len(seen)) <= 1e-3:
        return "Not yet: you counted the pictures in which everything agrees; count each look by itself."
    if abs(value - sum(hits[0]) / len(wanted)) <= 1e-3:
        return f"Not yet: {value:g} is the share in the first picture alone; there are {len(seen)}."
    if abs(value - count / len(seen)) <= 1e-3:
        return f"Not yet: {value:g} is the number of looks that agree in a picture, on average; divide by {len(wanted)} as well."
    if abs(value - count / (len(seen) * len(seen[0]))) <= 1e-3:
        return f"Not yet: you divided by all {len(seen[0])} attributes of a picture; only the {len(wanted)} in wanted count."
    return f"Not yet: you have {value:.3f}, and {total - count} of the {total} looks differ from wanted."


# ---------------------------------------------------------------------------------------------- 9  combining

def fading_schedule(answer) -> str:
    """9.1: a function that falls evenly from 1 at the first step to 0 at half of the steps, and stays 0."""
    if answer is None:
        return "Not done yet: put a function from the fraction of the steps done to a factor into my_schedule."
    if not callable(answer):
        return f"Not yet: my_schedule is {_kind(answer)}, and a function of one number is asked for."
    places, values = (0.0, 0.1, 0.25, 0.4, 0.5, 0.75, 0.98), []
    try:
        for place in places:
            values.append(_number(answer(place)))
    except Exception as error:                          # whatever a student's function raises
        return f"Not yet: my_schedule({place}) raises {type(error).__name__}: {error}"
    if None in values:
        return f"Not yet: my_schedule({places[values.index(None)]}) returns no number; does every branch return something?"
    near = lambda wanted: all(abs(a - b) <= 1e-3 for a, b in zip(values, wanted))
    if near([max(1 - 2 * place, 0) for place in places]):
        return "Right: full strength at first, half of it at a quarter, nothing after half of the steps."
    if near([1 - 2 * place for place in places]):
        return f"Not yet: after half of the steps yours is negative ({values[-1]:.2f}) and pushes away; let it stop at 0."
    if near([1 - place for place in places]):
        return "Not yet: yours reaches 0 at the last step; it should be there at half of them."
    if near([min(2 * place, 1) for place in places]):
        return "Not yet: yours rises; it should be 1 at first."
    said = ", ".join(f"my_schedule({a}) is {b:.2f}" for a, b in zip(places[::2], values[::2]))
    return f"Not yet: yours is no such line: {said}; asked for are 1, 0.5, 0, 0."


def _same_source(one, other) -> bool:
    """Whether two sources show one picture, whatever noise they add to it: hardly any at timestep 0."""
    try:
        a, b = (each.latents_at(0).detach().double().cpu() for each in (one, other))
        return one is other or a.shape == b.shape and bool((a - b).square().mean() < 0.05 * b.square().mean())
    except (AttributeError, TypeError, ValueError):                         # no source, or one of a trajectory without this timestep
        return one is other


def two_objectives(answer, pose, appearance, joints, source) -> str:
    """9.2: pose, weight 1, the first 40 % of the steps; pooled appearance, weight 0.5, from 20 to 80 %; `pose` and
    `appearance` are the heads, `joints` (1, 14, 2) the pose wanted, `source` has the looks."""
    if answer is None:
        return "Not done yet: put a list of two objectives into my_objectives."
    if not isinstance(answer, (list, tuple)) or len(answer) != 2 or not all(hasattr(each, "head") for each in answer):
        return "Not yet: my_objectives is to be a list of two objectives, [pose_objective(...), identity_objective(...)]."
    for name, head, wanted in (("pose", pose, (1.0, 0.0, 0.4)), ("appearance", appearance, (0.5, 0.2, 0.8))):
        own = [each for each in answer if each.head is head]
        if len(own) != 1:
            return f"Not yet: {len(own)} of your objectives read the {name} head, and one is asked for."
        found = (own[0].weight, own[0].start, own[0].stop)
        for setting, value, right in zip(("weight", "start", "stop"), found, wanted):
            if abs(value - right) > 1e-6:
                percent = " (start and stop are fractions of the steps, 0.4 is 40 %)" if setting != "weight" else ""
                return f"Not yet: {setting} of the {name} objective is {value:g}, and {right:g} is asked for{percent}."
        if name == "appearance" and not own[0].pool:
            return "Not yet: the appearance objective compares position by position and would keep the pose; use pool=True."
    own, looks = (next(each for each in answer if each.head is head) for head in (pose, appearance))
    wanted, target = heatmaps(joints.cpu()), getattr(own, "target", None)
    stands = torch.is_tensor(target) and target.shape[-3:] == wanted.shape[-3:] and all(
        _near(each, wanted[0], 0.02) for each in target.reshape(-1, *wanted.shape[1:]))
    worn = _same_source(getattr(looks, "source", None), source)
    if not stands and not worn:
        return ("Not yet: the two pictures are exchanged: the pose is that of stance.joints, the looks are those of source, which is the "
                "reference's.")
    if not stands:
        return "Not yet: the pose objective asks for another pose than stance.joints."
    if not worn:
        return "Not yet: the appearance objective takes the looks of another picture than that of source."
    return "Right: the pose has the first word, the looks the last, and from 20 to 40 % of the steps both speak."


# ---------------------------------------------------------------------------------------------- 10  your own head

def horizon_samples(answer) -> str:
    """Notebook 10: samples(count, seed) -> ((pictures,), (rows of the horizon (count,),))."""
    if answer is None:
        return "Not done yet: write a function my_samples(count, seed)."
    if not callable(answer):
        return f"Not yet: my_samples is {_kind(answer)}, and a function (count, seed) is asked for."
    try:
        made, again = answer(3, 5), answer(3, 5)
    except Exception as problem:
        return f"Not yet: my_samples stopped with {type(problem).__name__}: {problem}"
    frames = render(sample_scenes(3, 5))
    expected = torch.tensor([scene.horizon for scene in frames.scenes])
    if not isinstance(made, tuple) or len(made) != 2 or not all(isinstance(part, tuple) and len(part) == 1 for part in made):
        return ("Not yet: return two tuples, ((pictures,), (horizon,)). The commas matter: (pictures,) is a tuple of one tensor, "
                "(pictures) is not.")
    (pictures,), (rows,) = made
    pictures, rows = _tensor(pictures, frames.image, "the tensor of pictures"), _tensor(rows, expected, "the tensor of rows")
    for problem in (pictures, rows):
        if isinstance(problem, str):
            return problem
    if not all(torch.equal(part, _as_tensor(other[0]).to(part)) for part, other in zip((pictures, rows), again)):
        return "Not yet: two calls with the same count and seed give different samples; pass the seed to sample_scenes."
    if not torch.equal(pictures, frames.image):
        return "Not yet: these are not the pictures of sample_scenes(count, seed): is the seed passed on?"
    return _compare(rows, expected, {"these are the columns of the sun; the row of the horizon is a scene's `horizon`.":
                                     torch.tensor([scene.sun_x for scene in frames.scenes])},
                    "pictures, and the row of the horizon in each.")


def horizon_loss(answer) -> str:
    """Notebook 10: a loss (readout (B, 1, h, w), rows (B,)) -> one number, smallest where the sky ends at these rows."""
    if answer is None:
        return "Not done yet: write a function my_loss(readout, rows) that returns one number."
    if not callable(answer):
        return f"Not yet: my_loss is {_kind(answer)}, and a function (readout, rows) is asked for."
    rows, centres = torch.tensor([40.0, 90.0]), (torch.arange(32) + 0.5) * 4
    sky = lambda at: (8 * torch.tanh((at[:, None] - centres) / 4))[:, None, :, None].repeat(1, 1, 1, 32)    # logits
    try:
        near, *others = (answer(each.clone().requires_grad_(), rows) for each in (
            sky(rows), -sky(rows), sky(rows).mT, sky(rows + 16), sky(rows - 16), sky(rows.flip(0)), *map(sky, rows + 24 * torch.eye(2))))
    except Exception as problem:
        return f"Not yet: my_loss stopped with {type(problem).__name__}: {problem}"
    if not _is_one(near):
        return f"Not yet: my_loss returns {_kind(near)}, and one number is asked for: a mean over pictures and cells."
    if not getattr(near, "requires_grad", False):
        return (f"Not yet: my_loss returns {_kind(near)}, and no gradient flows from it to the readout: leave out detach, item, and rounding or "
                "comparison of the readout.")
    near, upside, columns, low, high, swapped, first, second = values = [float(value.detach()) for value in (near, *others)]
    if not all(map(math.isfinite, values)):
        return "Not yet: my_loss returns NaN or infinity for some readouts: is there a logarithm, or a division, of 0?"
    margin = 0.01 * (upside - near)                     # less is rounding: what a loss cannot tell apart differs by a digit
    if margin < 0:
        return f"Not yet: sky below and ground above costs less ({upside:.3g}) than the right way round ({near:.3g}): y grows downwards."
    if columns < near - margin:
        return (f"Not yet: sky on the left and ground on the right costs less ({columns:.3g}) than sky above and ground below ({near:.3g}): "
                "your horizon stands upright. The axes of the readout are (B, 1, rows, columns).")
    if margin and not columns - near > margin:
        return (f"Not yet: sky on the left and ground on the right costs {columns:.3g}, no more than sky above and ground below ({near:.3g}): "
                "your loss sees how much sky there is, not where. Compare row by row, in pixels: rows of cells have their centres at "
                "(torch.arange(h) + 0.5) * 128 / h.")
    if margin and not swapped - near > margin:
        return "Not yet: it makes no difference which picture has which horizon: compare picture by picture."
    for where, off in (("low", low), ("high", high)):
        if not off - near > margin:
            return f"Not yet: a horizon 16 pixels too {where} costs {off:.3g}, no more than the right one ({near:.3g})."
    for which, wrong in (("first", first), ("second", second)):
        if not wrong - near > margin:
            return (f"Not yet: of two pictures the {which} may have a wrong horizon, and it costs {wrong:.3g}, no more than the right one "
                    f"({near:.3g}): take the mean over all pictures.")
    return f"Right: {near:.3g} for the right horizon, {low:.3g} for one 16 pixels lower."


def sky_mask(answer, rows: int = 32) -> str:
    """Notebook 10: a mask (1, 1, 128, 128) that is 1 in the upper `rows` rows of pixels and 0 below."""
    if answer is None:
        return "Not done yet: set my_mask to a tensor (1, 1, 128, 128) of zeros and ones."
    expected = torch.zeros(1, 1, 128, 128)
    expected[:, :, :rows] = 1
    return _compare(answer, expected, {
        "upside down: 1 is where the picture *may* change.": 1 - expected,
        f"these are the left {rows} columns: the axes are (B, C, rows, columns).": expected.mT},
        f"only the upper {rows} rows may change.")


# ---------------------------------------------------------------------------------------------- 11  larger models


def feature_memory(answer, shapes: list[tuple[int, int, int]], batch: int, bytes_each: int) -> str:
    """Megabytes (10 ** 6 bytes) of features of the given shapes (C, h, w) for a batch."""
    if answer is None:
        return "Not done yet: set my_megabytes to a number of megabytes."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_megabytes is {_kind(answer)}, and one number is asked for."
    numbers = sum(channels * height * width for channels, height, width in shapes)
    right = numbers * batch * bytes_each / 1e6
    near = lambda wrong: abs(value - wrong) <= 0.01 * wrong
    if near(right):
        return f"Right: {right:,.0f} MB, kept in memory while the gradient is computed."
    if batch == bytes_each and near(right / batch):
        return f"Not yet: a factor of {batch} is missing; multiply by the batch, and by the bytes that a number takes."
    mistakes = {
        "this is one picture; multiply by the batch.": right / batch,
        f"this counts one byte a number; each takes {bytes_each}.": right / bytes_each,
        "this counts two bytes a number, half precision; float32 takes four.": right / 2,
        "these are bytes; a megabyte is 10 ** 6 of them.": right * 1e6,
        "these are megabytes of 2 ** 20 bytes; 10 ** 6 are asked for.": right * 1e6 / 2 ** 20,
        "this is the first layer alone; add up all of them.": right * shapes[0][0] * shapes[0][1] * shapes[0][2] / numbers,
        "this is the last layer alone; add up all of them.": right * shapes[-1][0] * shapes[-1][1] * shapes[-1][2] / numbers,
        "these are the channels alone; each has rows x columns cells.": sum(c for c, _, _ in shapes) * batch * bytes_each / 1e6}
    for mistake, wrong in mistakes.items():
        if near(wrong):
            return f"Not yet: {mistake}"
    return f"Not yet: {value:,.4g} is not the sum of channels x rows x columns, times {batch} pictures, times {bytes_each} bytes, in 10 ** 6."


def head_config(answer, unet, width: int, out_channels: int) -> str:
    """A HeadConfig for a UNet."""
    if answer is None:
        return "Not done yet: set my_config to a HeadConfig."
    if not isinstance(answer, HeadConfig):
        return f"Not yet: my_config is {_kind(answer)}; HeadConfig.for_model(...) makes a HeadConfig."
    channels, embedding = denoiser(unet).channels, denoiser(unet).embedding_channels
    if answer.layer_channels != channels:
        return (f"Not yet: this head reads layers of {answer.layer_channels} channels, the UNet has {channels}. Is it for another "
                "model? HeadConfig.for_model(unets[\"Stable Diffusion XL\"], ...) fills them in.")
    if answer.embedding_channels != embedding:
        return f"Not yet: this head expects an embedding of {answer.embedding_channels} numbers, and the UNet's has {embedding}."
    for name, value in (("width", width), ("out_channels", out_channels)):
        if getattr(answer, name) != value:
            return f"Not yet: {name} is {getattr(answer, name)}, and {value} is asked for."
    return f"Right: {len(channels)} layers, {width} channels wide, {out_channels} channel(s) out."


def door_costs(answer, steps: int, guided: int) -> str:
    """Pictures that go through the denoiser for one picture under classifier-free guidance: (callback, guider)."""
    if answer is None:
        return "Not done yet: set my_costs to two numbers: through the callback, through the guider."
    values = _numbers(answer, 2)
    if values is None:
        return f"Not yet: my_costs is {answer!r}, and two numbers are asked for, (callback, guider)."
    right = (2 * steps + guided, 2 * steps)
    if tuple(values) == right:
        return f"Right: {right[0]} and {right[1]}; the guider opens the gradient in a pass that is run anyway."
    mistakes = {
        "the two are exchanged.": right[::-1], "this counts passes of both branches in one batch; each branch is a picture.": (
            steps + guided, steps),
        "a guided step costs the callback one more picture, not one more of each branch.": (2 * steps + 2 * guided, 2 * steps),
        "the guider needs no pass of its own.": (right[0], right[0])}
    for mistake, wrong in mistakes.items():
        if tuple(values) == wrong:
            return f"Not yet: {mistake}"
    return (f"Not yet: {values[0]:g} and {values[1]:g}. Each of the {steps} steps runs two branches; what do {guided} guided steps add "
            "through either door?")


def share_of_largest(answer) -> str:
    """A function of tokens (T, C) and a count: the share of the energy that the `count` largest channels hold."""
    if answer is None:
        return "Not done yet: write my_share(tokens, count)."
    if not callable(answer):
        return f"Not yet: my_share is {_kind(answer)}, and a function of tokens and count is asked for."
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9, 1, 2, 1, 5, 1, 1])
    energy = tokens.square().mean(0)
    share = lambda sizes, count: float(sizes.sort(descending=True).values[:count].sum() / sizes.sum())
    try:
        found = [answer(tokens.clone(), count) for count in (1, 2)]
    except Exception as error:          # whatever a student's function raises
        return f"Not yet: my_share raised {type(error).__name__}: {error}"
    values = [_number(each) for each in found]
    if None in values:
        return f"Not yet: my_share returns {_kind(found[values.index(None)])}, and one number is asked for."
    near = lambda *expected: all(abs(value - other) <= 1e-3 for value, other in zip(values, expected))
    if near(share(energy, 1), share(energy, 2)):
        return f"Right: of 8 channels, two of which are large, the largest holds {values[0]:.0%}, two hold {values[1]:.0%}."
    mistakes = {
        "energy is the mean of squares; this adds up sizes without squaring them.": tokens.abs().mean(0),
        "energy is the mean of squares; this adds up their roots.": energy.sqrt()}
    for mistake, sizes in mistakes.items():
        if near(share(sizes, 1), share(sizes, 2)):
            return f"Not yet: {mistake}"
    if near(100 * share(energy, 1), 100 * share(energy, 2)):
        return "Not yet: these are percent; a share is a number from 0 to 1."
    if near(float(energy[0] / energy.sum()), float(energy[:2].sum() / energy.sum())):
        return "Not yet: these are the first channels; sort them by their energy."
    if near(share(-energy, 1), share(-energy, 2)):
        return "Not yet: these are the smallest channels; sort them the other way round."
    return f"Not yet: for 1 and 2 channels {share(energy, 1):.3f} and {share(energy, 2):.3f} were expected, not {values[0]:.3f} and {values[1]:.3f}."


# ---------------------------------------------------------------------------------------------- A1  the base model


def repeatable_draws(answer) -> str:
    """A1.1: a function of seed and step that returns a torch.Generator, so that each step's random numbers can be repeated."""
    if answer is None:
        return "Not done yet: set my_generator to a function of seed and step that returns a torch.Generator."
    if not callable(answer):
        return f"Not yet: my_generator is {_kind(answer)}, and a function of seed and step is asked for."
    # Of any two numbers up to 10^5, one in a row and one in even steps differ by any third: a factor up to there is seen to be too small.
    row, wide = range(317), range(0, 100_317, 317)
    asked = [*itertools.product(range(4), row), *((0, step) for step in wide), *((seed, 1) for seed in row), *((seed, 0) for seed in wide),
             *itertools.product((10, 1000), (0, 1, 10, 100, 1000, 10_000, 100_000))]
    drawn, key = {}, (0, 1)

    def draw(seed, step):
        return tuple(torch.rand(4, generator=answer(seed, step)).tolist())
    try:
        before = torch.get_rng_state()
        if not isinstance(answer(0, 1), torch.Generator):
            return f"Not yet: it returns {_kind(answer(0, 1))}; make a torch.Generator() and seed it."
        for key in dict.fromkeys(asked):
            drawn[key] = draw(*key)
        again = draw(*(key := (3, 7)))
    except Exception as error:                          # whatever a student's function raises
        return f"Not yet: my_generator{key} raises {type(error).__name__}: {error}"
    if again != drawn[3, 7]:
        return "Not yet: asked twice for seed 3 and step 7, it gives two different answers; after a kill the draws would be others."
    if not torch.equal(before, torch.get_rng_state()):
        return "Not yet: it changes PyTorch's global generator as well; whoever else draws from that one is disturbed."
    for ignored, (a, b) in {"step": ((0, 1), (0, 2)), "seed": ((0, 1), (1, 1))}.items():
        if drawn[a] == drawn[b]:
            return f"Not yet: the {ignored} makes no difference."
    seen = {}
    for key, value in drawn.items():
        if value in seen:
            return (f"Not yet: seed {key[0]} at step {key[1]} draws what seed {seen[value][0]} draws at step {seen[value][1]}: two runs "
                    "would see the same data, shifted. Multiply one of the two by a number larger than the other ever gets (odd, for "
                    "PyTorch's generator looks at the last 32 bits of its seed alone).")
        seen[value] = key
    return "Right: every step's draw can be made again, and no two of them are alike, with seeds and steps up to 100 000."


def running_average(answer) -> str:
    """A1.2: a function of average, weights and decay that returns the new exponential moving average."""
    if answer is None:
        return "Not done yet: set my_average to a function of average, weights and decay."
    if not callable(answer):
        return f"Not yet: my_average is {_kind(answer)}, and a function of three arguments is asked for."
    average, weights = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    try:
        found, again = (answer(average.clone(), weights.clone(), decay) for decay in (0.9, 0.6))
    except Exception as error:                          # whatever a student's function raises
        return f"Not yet: my_average(average, weights, 0.9) raises {type(error).__name__}: {error}"
    mistakes = {"average and weights are exchanged: with a decay near 1 the average is to change slowly.": 0.1 * average + 0.9 * weights,
                "the two factors are to add up to 1: decay and 1 - decay.": 0.9 * average + weights,
                "this is the average alone; a share of 1 - decay of the weights belongs to it.": 0.9 * average,
                "this is the plain mean; decay says how much of the average stays.": (average + weights) / 2}
    said = _compare(found, 0.9 * average + 0.1 * weights, mistakes, "nine parts of what was, one part of what is.")
    return _in_both(said, again, 0.6 * average + 0.4 * weights,
                    "with a decay of 0.9 this is right, with one of 0.6 it is not: take both factors from decay.")


# ---------------------------------------------------------------------------------------------- A2  measuring


def pck_of_one(answer, predicted: Tensor, target: Tensor, a: float) -> str:
    """PCK@a of one picture, as a fraction; predicted and target are (J, 2) in pixels."""
    if answer is None:
        return "Not done yet: set my_pck to the fraction of joints that are near enough."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_pck is {_kind(answer)}, and one number is asked for; take the mean over the joints."
    distance, box = (predicted - target).norm(dim=-1), target.amax(0) - target.amin(0)
    share = lambda distances, limit: (distances <= limit).float().mean().item()
    right = share(distance, a * box.max())
    if abs(value - right) <= ROUNDED:
        return f"Right: {round(right * len(target))} of {len(target)} joints, PCK@{a:g} = {right:.3f}."
    mistakes = {
        f"this is a percentage; PCK is a fraction here, {right * 100:.0f} % is {right:.3f}.": 100 * right,
        "this is a count; divide by the number of joints.": right * len(target),
        "this is the share of joints that are too far away.": 1 - right,
        "the size is the smaller side of the box here; it is to be the larger one.": share(distance, a * box.min()),
        "the size is the diagonal of the box here; it is to be its larger side.": share(distance, a * box.norm()),
        "the box is that of the joints that the judge sees; it is to be the target's.":
            share(distance, a * (predicted.amax(0) - predicted.amin(0)).max()),
        "x and y are counted one by one; the distance of a joint is the length of its (x, y).":
            share((predicted - target).abs(), a * box.max()),
        "this is the mean distance in pixels; count how many distances are small enough.": distance.mean().item()}
    for mistake, wrong in mistakes.items():
        if abs(value - wrong) < 1e-4:
            return f"Not yet: {mistake}"
    return (f"Not yet: {value:.3f} is not the share of distances of at most {a:g} x {box.max():.1f} pixels, the larger side of the "
            f"target's box.")


def standard_error(answer, values: Tensor) -> str:
    """The standard error of the mean of values (N,)."""
    if answer is None:
        return "Not done yet: set my_error to the standard error of the mean."
    value, count = _number(answer), values.numel()
    if value is None:
        return f"Not yet: my_error is {_kind(answer)}, and one number is asked for."
    spread = values.float().std().item()
    if abs(value - spread / count ** 0.5) < 0.02 * spread / count ** 0.5:          # with or without Bessel's correction
        return f"Right: the mean is {values.float().mean():.2f}, give or take {value:.2f}."
    mistakes = {
        f"this is the standard deviation, how much single values spread; divide by the root of {count}.": spread,
        "you divide by the number of values; divide by its square root.": spread / count,
        "this is the variance divided by the number; take the square root.": spread ** 2 / count,
        "this is the variance; the standard deviation is its root.": spread ** 2}
    for mistake, wrong in mistakes.items():
        if abs(value - wrong) < 0.02 * abs(wrong):
            return f"Not yet: {mistake}"
    return f"Not yet: {value:.4g} is not the standard deviation, {spread:.4g}, divided by the square root of {count}."


# ---------------------------------------------------------------------------------------------- 12  studio


def raised_right_hand(answer, before) -> str:
    """14 joints [x, y] like `before`, but with the right hand above the head: elbow and wrist moved, the arm as long."""
    if answer is None:
        return "Not done yet: set my_joints to 14 points, with the right wrist above the head."
    before = torch.as_tensor(before, dtype=torch.float32)                                               # (14, 2)
    if _as_tensor(answer) is None:
        return "Not yet: my_joints is no list of 14 points [x, y]."
    joints = _tensor(answer, before, "my_joints")
    if isinstance(joints, str):
        return joints
    if joints.min() < 0 or joints.max() >= 128:
        return "Not yet: a joint lies outside the picture of 128 x 128 pixels."
    head, shoulder, elbow, wrist, left_wrist = (JOINTS.index(name) for name in (
        "head", "right_shoulder", "right_elbow", "right_wrist", "left_wrist"))
    moved = ((joints - before).norm(dim=-1) > 1).tolist()
    if moved[left_wrist] and not moved[wrist]:
        return "Not yet: that is the puppet's left hand; its right one is on the left of the picture, orange squares."
    if joints[wrist, 1] >= joints[head, 1]:
        return (f"Not yet: the right wrist is at y = {joints[wrist, 1]:.0f}, the head at y = {joints[head, 1]:.0f}; y points down, so "
                "above is smaller.")
    others = [name for i, name in enumerate(JOINTS) if moved[i] and i not in (elbow, wrist)]
    if others:
        return f"Not yet: only the right elbow and wrist shall move, but {', '.join(others)} moved too."
    for name, a, b in (("upper arm", shoulder, elbow), ("forearm", elbow, wrist)):
        ratio = ((joints[a] - joints[b]).norm() / (before[a] - before[b]).norm()).item()
        if not 0.85 <= ratio <= 1.15:                                                                   # as a drag's `whole` has it
            return f"Not yet: the {name} is {ratio:.2f} times as long as it was; move the elbow too, and keep both as long to within 15 %."
    return "Right: the right hand is above the head, and the arm has kept its length."


def unchanged_pictures(answer, fingerprints: dict[str, str], original: str) -> str:
    """The names of those changes whose picture has the fingerprint `original`."""
    if answer is None:
        return "Not done yet: set my_unchanged to a list of names from `changes`."
    answer = answer.tolist() if hasattr(answer, "tolist") and not isinstance(answer, type) else answer
    names = [answer] if isinstance(answer, str) else answer
    if not isinstance(names, (list, tuple, set)) or not all(isinstance(name, str) for name in names):
        return "Not yet: my_unchanged is no list of names from `changes`."
    unknown = [name for name in names if name not in fingerprints]
    if unknown:
        return f"Not yet: {unknown[0]!r} is not a name in `changes`."
    for name, fingerprint in fingerprints.items():
        if fingerprint != original and name in names:
            return f"Not yet: {name!r} does change the picture: its fingerprint is {fingerprint[:6]}..., not {original[:6]}...."
    for name, fingerprint in fingerprints.items():
        if fingerprint == original and name not in names:
            return f"Not yet: there is one more that leaves the picture as it is. Does {name!r} reach the latents?"
    return "Right: what is not in use does nothing, and a step has a fixed length: weights only divide it between objectives."


# ---------------------------------------------------------------------------------------------- A3  cost


def shared_bytes(answer, saved: list[Tensor]) -> str:
    """Bytes that tensors hold, some of which are views of others."""
    if answer is None:
        return "Not done yet: set my_bytes to a number of bytes."
    value = _number(answer)
    if value is None:
        return f"Not yet: my_bytes is {_kind(answer)}, and one number is asked for."
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in saved}
    right = sum(storages.values())
    if value == right:
        return f"Right: {right:,} bytes in {len(storages)} storages, which {len(saved)} tensors look at."
    each_alone, numbers = sum(each.nbytes for each in saved), sum(each.numel() for each in saved)
    mistakes = {
        "this adds up the tensors, and views are counted again; count each storage once.": each_alone,
        "this is how many numbers the tensors hold; ask for bytes, and count each storage once.": numbers,
        "this is the largest storage alone; add up the different ones.": max(storages.values()),
        "this is a number of storages; add up their bytes.": len(storages),
        "this adds up the storage of every tensor; count each storage once.": sum(each.untyped_storage().nbytes() for each in saved)}
    for mistake, wrong in mistakes.items():
        if value == wrong:
            return f"Not yet: {mistake}"
    return f"Not yet: {value:,.10g} is not the sum of the bytes of the different storages."


def fastest_that_fits(answer, needed: dict[str, float]) -> str:
    """A function (needed, card) -> name: the first of `needed`, gigabytes by name from the fastest on, that is at most `card`."""
    if answer is None:
        return "Not done yet: set my_choice to a function of what is needed, and of a card's gigabytes."
    if not callable(answer):
        return f"Not yet: my_choice is {_kind(answer)}, and a function is asked for."
    names, cards = list(needed), sorted({each + more for each in needed.values() for more in (-0.05, 0.0, 0.05)} | {0.1, 1000.0})
    for card in cards:
        right = next((name for name, each in needed.items() if each <= card), "no")
        try:
            said = _plain(answer(dict(needed), card))
        except Exception as error:
            return f"Not yet: with a card of {card:g} GB it raises {type(error).__name__}: {error}"
        if isinstance(said, str) and said == right:
            continue
        if said is None:
            return f"Not yet: with a card of {card:g} GB it returns nothing; is there a `return` on every way, and \"no\" where none fits?"
        if right == "no":
            return f"Not yet: on a card of {card:g} GB nothing fits, and it says {said!r}."
        if not isinstance(said, str):
            return f"Not yet: on a card of {card:g} GB it says {said!r}; a name is asked for, as {right!r} is."
        if said == "no":
            return f"Not yet: on a card of {card:g} GB {right!r} fits, and it says 'no'; what needs exactly {card:g} GB fits."
        if said in names and names.index(said) > names.index(right):
            return f"Not yet: on a card of {card:g} GB {said!r} fits, but {right!r} does, too, and is faster."
        return f"Not yet: on a card of {card:g} GB it says {said!r}; {right!r} is the fastest that fits."
    return f"Right: {', '.join(f'{name} from {each:g} GB on' for name, each in needed.items())}."


# ---------------------------------------------------------------------------------------------- A4  evidence


def paired_interval(answer, ours: Tensor, theirs: Tensor) -> str:
    """The 95 % interval of the mean of `ours` - `theirs`, (N,) each, of the same pictures: (low, high), from drawing pictures again."""
    if answer is None:
        return "Not done yet: set my_interval to (low, high)."
    ends = _as_tensor(answer)
    if ends is None or ends.numel() != 2:
        return f"Not yet: my_interval is {_kind(answer)}, and two numbers, (low, high), are asked for."
    low, high = (float(each) for each in ends.flatten())
    if low > high:
        return f"Not yet: the lower end, {low:.3f}, is above the upper one, {high:.3f}."
    gap = (ours - theirs).double()
    error = gap.std(correction=0).item() / len(gap) ** 0.5
    near = lambda middle, half: abs((low + high) / 2 - middle) < 0.3 * half and 0.92 < (high - low) / 2 / half < 1.09   # 90 %: 0.84, 98 %: 1.19
    mean, half = gap.mean().item(), 1.96 * error
    if near(mean, half):
        return f"Right: {mean:.3f} ({low:.3f} to {high:.3f}), n = {len(gap)}; {'0 lies outside' if low * high > 0 else '0 lies within'}."
    apart = 1.96 * (ours.double().var(correction=0) + theirs.double().var(correction=0)).sqrt().item() / len(gap) ** 0.5
    mistakes = {
        "the two are drawn one without the other; draw pictures once, and take both numbers of each.": (mean, apart),
        "this is how far single pictures spread; take the mean of each draw first.": (mean, 1.96 * gap.std(correction=0).item()),
        "this is one standard error to each side; 95 % are nearly two.": (mean, error),
        "this holds about 90 %; leave out 2.5 % at each end, and draw at least a thousand times.": (mean, 1.645 * error),
        "this holds about 98 %; leave out 2.5 % at each end, and draw at least a thousand times.": (mean, 2.326 * error),
        "you have theirs - ours; ours - theirs is asked for.": (-mean, half)}
    for mistake, (middle, width) in mistakes.items():
        if near(middle, width):
            return f"Not yet: {mistake}"
    return f"Not yet: {low:.3f} to {high:.3f} is not where 95 % of the means of drawn pictures lie, about {mean:.3f}."


def labels_to_match(answer) -> str:
    """A function (labels, values, goal) -> the number of labels from which values, the larger the better, are at `goal`: on a line over
    the logarithm of labels, infinity where none is, 0 where the first is; a curve that falls back counts from its last way up."""
    if answer is None:
        return "Not done yet: set my_labels to a function of labels, values and the goal."
    if not callable(answer):
        return f"Not yet: my_labels is {_kind(answer)}, and a function is asked for."
    cases = [([10, 100, 1000], [0.2, 0.4, 0.8], 0.6), ([10, 100], [0.1, 0.2], 0.5), ([10, 100], [0.6, 0.7], 0.5),
             ([10, 100, 1000], [0.6, 0.2, 0.6], 0.4), ([30, 300], [0.0, 1.0], 1.0)]
    for labels, values, goal in cases:
        right, told = crossing(labels, values, goal), f"with {labels} labels, values {values} and the goal {goal:g}"
        try:
            given = _plain(answer(list(labels), list(values), goal))
            said = given if isinstance(given, float) and given == float("inf") else _number(given)
        except Exception as error:
            return f"Not yet: {told} it raises {type(error).__name__}: {error}"
        if said is None:
            return f"Not yet: {told} it returns no number."
        if said == right or abs(said - right) < 0.01 * right < float("inf"):
            continue
        if right == float("inf"):
            return f"Not yet: {told} it says {said:g}, but no number of labels that was measured is enough: return float('inf')."
        if right == 0:
            return f"Not yet: {told} it says {said:g}, but the fewest are enough already: return 0."
        last = max(i for i, each in enumerate(values) if each < goal)
        share = (goal - values[last]) / (values[last + 1] - values[last])
        if abs(said - (labels[last] + share * (labels[last + 1] - labels[last]))) < 0.01 * right:
            return f"Not yet: {told} it says {said:g}: that is on a line over labels; take one over their logarithm."
        if said in labels:
            return f"Not yet: {told} it says {said:g}, a number that was measured; the goal is reached between two of them."
        falls = ": where a curve falls back, its last way up counts" if values != sorted(values) else ""
        return f"Not yet: {told} it says {said:g}, not {right:.4g}{falls}."
    return "Right: between the two numbers of labels on a line over their logarithm, and open where nothing that was measured is enough."
