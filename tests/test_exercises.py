"""The self-checks of the exercises: each knows the right answer, None, and the mistakes that are likely."""
import ast
import builtins
import math
import re

import numpy
import pytest
import torch

from rg_minimal import HeadConfig, Objective, ReadoutHead
from rg_minimal.classroom import course, exercises
from rg_minimal.evidence.statistics import crossing
from rg_minimal.puppets.heads import heatmaps
from rg_minimal.puppets.judge import MIRROR
from rg_minimal.puppets import render, sample_scene, sample_scenes
from rg_minimal.readout import Bottleneck, normalized_step
from rg_minimal.classroom.recipe import check_state, finished
from tiny import tiny_pipe


def test_every_check_answers_none_with_not_done_yet():
    """A fresh notebook passes None; what else a check is given must not be looked at before that."""
    checks = [check for name, check in vars(exercises).items()
              if callable(check) and getattr(check, "__module__", "") == exercises.__name__ and not name.startswith("_")]
    for check in checks:
        needed = check.__code__.co_argcount - len(check.__defaults__ or ())
        answer = check(*[None] * needed)
        assert isinstance(answer, str) and answer.startswith("Not done yet: "), (check.__name__, answer)


def noise_of(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def forms(value):
    """name -> a right answer in this form, for each form in which numbers come."""
    tensor = torch.as_tensor(value)
    made = {"Python's": tensor.tolist(), "tensor": tensor, "double": tensor.double(), "array": tensor.numpy(),
            "array of doubles": tensor.double().numpy()}
    if tensor.dim():
        return made | {"tuple": tuple(tensor.tolist()), "list of tensors": list(tensor), "list of arrays": list(tensor.numpy())}
    return made | {"one element": tensor[None], "numpy's number": tensor.numpy()[()], "array of one": tensor[None].numpy()}


def numbers_asked_for():
    """name -> (check, right answer): every exercise whose answer is a number, some numbers or a tensor
    (but 2.1: a list there is what the hook filled, and the tensor is to be taken out of it)."""
    x, e, a, b, maps = noise_of(0, 1, 4, 8, 8), noise_of(1, 1, 4, 8, 8), torch.tensor(0.4), torch.tensor(0.7), noise_of(2, 3, 1, 2, 4, 4)
    guess, raw = (x - (1 - a).sqrt() * e) / a.sqrt(), torch.tensor([1.0, -1.0, 0.5])
    joints, at = render(sample_scene(3)).joints[0], noise_of(3, 3, 2)
    ramp = torch.cat((torch.zeros(80), torch.linspace(0, 0.8, 48)))[None, None, :, None].repeat(1, 1, 1, 128)
    mask = torch.zeros(1, 1, 128, 128)
    mask[:, :, :32] = 1
    found, strokes = torch.ones(2, 1, 1, 8, 8, dtype=torch.bool)
    turn, before = torch.eye(2), check_state({})["pose"]["joints"]
    raised = [{5: [30, 40], 7: [26, 22]}.get(i, place) for i, place in enumerate(before)]
    mirrored = torch.stack((128 - joints[:, 0], joints[:, 1]), -1)[MIRROR]
    leg = torch.stack((at[1], (at[1] + at[2]) / 2, at[2]))
    truth, features, looks = 20 * noise_of(4, 4, 2), noise_of(5, 2, 1, 8, 4, 4).abs(), [{"shirt": "red"}, {"shirt": "blue"}]
    same = 1 - torch.cosine_similarity(*(each.pow(6).mean((2, 3)).pow(1 / 6).sub(each.pow(6).mean((2, 3)).pow(1 / 6).mean()) for each in features), dim=1)
    rows = torch.tensor([scene.horizon for scene in sample_scenes(3, 5)])
    return {
        "0.1": (lambda answer: exercises.left_hand(answer, joints), joints[6]), "0.2": (exercises.hands_up, [150, 170]),
        "1.1": (lambda answer: exercises.add_noise(answer, x, e, a), a.sqrt() * x + (1 - a).sqrt() * e),
        "1.2": (lambda answer: exercises.ddim_step(answer, x, e, a, b), b.sqrt() * guess + (1 - b).sqrt() * e),
        "1.3": (lambda answer: exercises.prompt_guidance(answer, x, e, 3.0), x + 3 * (e - x)),
        "2.2": (lambda answer: exercises.cosine_map(answer, maps[0, 0], maps[1, 0], 1, 2),
                torch.cosine_similarity(maps[0, 0, :, 1, 2][:, None, None], maps[1, 0], dim=0)),
        "3.1": (lambda answer: exercises.mixture(answer, list(maps), raw), sum(w * each for w, each in zip(raw.softmax(0), maps))),
        "3.2": (lambda answer: exercises.bottleneck_count(answer, 4, 8, 3), 4 * 2 + 9 * 4 + 2 * 8 + 4 * 8 + 4 * 2 + 4 * 8 + 3 * 2 + 2),
        "4.1": (lambda answer: exercises.cell_of_joint(answer, (90.0, 30.0)), [7, 22]),
        "5.2": (lambda answer: exercises.guided_steps(answer, 20, 0.2, 0.5), list(range(4, 10))),
        "5.3": (lambda answer: exercises.mirrored_pose(answer, joints), mirrored),
        "6.1": (exercises.depth_ramp, ramp), "6.2": (lambda answer: exercises.sketch_precision(answer, found, strokes), 1.0),
        "7.1": (lambda answer: exercises.share_of_matches(answer, truth, truth, torch.tensor(80.0)), 1),
        "7.2": (lambda answer: exercises.leg_drag(leg, answer, *at, turn), leg), "7.2, handles": (
            lambda answer: exercises.leg_drag(answer, leg, *at, turn), leg),
        "8.1": (lambda answer: exercises.distance_of_looks(answer, *features), same.squeeze()),
        "8.2": (lambda answer: exercises.agreement_of_looks(answer, looks, {"shirt": "red"}), 0.5),
        "9.1": (lambda answer: exercises.fading_schedule(lambda done: max(1 - 2 * done, 0) + 0 * answer), 0),
        "10.1": (lambda answer: exercises.horizon_samples(lambda count, seed: ((render(sample_scenes(count, seed)).image,), (answer,))), rows),
        "10.3": (exercises.sky_mask, mask), "11.1": (lambda answer: exercises.feature_memory(answer, [(10, 100, 100)], 5, 4), 2),
        "11.3": (lambda answer: exercises.door_costs(answer, 50, 25), [125, 100]),
        "A1.2": (lambda answer: exercises.running_average(
            lambda average, weights, decay: answer if decay == 0.9 else weights + decay * (average - weights)), [1.2, 1.6]),
        "A2.1": (lambda answer: exercises.pck_of_one(answer, truth, truth, 0.1), 1),
        "A2.2": (lambda answer: exercises.standard_error(answer, torch.tensor([0.0, 2.0])), 1.0),
        "A3.1": (lambda answer: exercises.shared_bytes(answer, [truth, truth[0]]), truth.nbytes),
        "A4.1": (lambda answer: exercises.paired_interval(answer, torch.tensor([0.0, 1.0] * 50), torch.zeros(100)), [0.402, 0.598]),
        "12.1": (lambda answer: exercises.raised_right_hand(answer, before), raised)}


@pytest.mark.parametrize("name", numbers_asked_for())
def test_a_right_answer_is_right_in_whatever_form_numbers_come(name):
    """One exercise accepts no tensor that its neighbour accepts, and no list or array either."""
    check, right = numbers_asked_for()[name]
    said = {form: check(value) for form, value in forms(right).items()}
    assert all(text.startswith("Right") for text in said.values()), said


# ---------------------------------------------------------------------------------------------- the words of all

def names_in(tree):
    """Every name in a piece of code: what it uses and sets, its functions with their arguments, what it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, (ast.Name, ast.arg, ast.FunctionDef, ast.ClassDef)):
            yield next(filter(None, (getattr(node, each, None) for each in ("id", "arg", "name"))))


def brought_in(tree):
    """The functions, classes and modules that a notebook defines or imports."""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return {next(names_in(alias)) for node in tree.body if isinstance(node, kept[:2]) for alias in node.names} | {
        node.name for node in tree.body if isinstance(node, kept[2:])}


def numbers_set(tree):
    """The names that are set to a bare number or text, as parameters are: these have no attributes."""
    return {target.id for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.UnaryOp))
            for target in node.targets if isinstance(target, ast.Name)}


def spans_of(prose):
    """The code in backticks of some prose, as trees; what is no Python, such as a shape with dots, is left out."""
    for span in re.findall(r"`([^`\n]+)`", prose):
        try:
            yield ast.parse(span)
        except SyntaxError:
            pass


def in_words(hint):
    """The names in a sentence that have an attribute, stand beside an operator, or are the first that a function is called with."""
    name = r"(?<![\w.])([A-Za-z_]\w*)"
    patterns = (rf"{name}\.[A-Za-z_]", rf"{name}\b[^\s-]* [-+*/@] ", rf" [-+*/@] \(?{name}", rf"\w\((?!s\)){name}(?=[,)\[])")
    return {found for pattern in patterns for found in re.findall(pattern, hint)}


def exercises_of_the_course():
    """(title, prose, hints, what may be named in hints, in prose, and in prose with an attribute) of every exercise."""
    for path in course.notebooks().values():
        notebook = course.read(path)
        code = ast.parse("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))
        for each in course.exercises_of(notebook):
            first = max(place for place in range(each.blank) if notebook.cells[place].cell_type == "markdown")
            prose, cells = notebook.cells[first].source, [cell.source for cell in notebook.cells[first + 1:each.check_cell + 1]]
            prose, hints = prose[prose.rindex("### "):], [*course._texts(course._functions()[each.check])]
            own = {name for given in re.findall(r"\b(?:my_\w+|function) ?\(([^()]*)\)|\blambda ([^:]*):", "\n".join((prose, *cells, *hints)))
                   for name in re.findall(r"\w+", " ".join(given))}
            own |= set(re.findall(r"\w+", " ".join(re.findall(r"\((?:[A-Z]|\d+), [\w, ]+\)", prose)))) | {"x", "y", *vars(builtins)}
            beside = own | brought_in(code) | set(names_in(ast.parse("\n".join(cells))))
            said = {name for tree in spans_of(prose) for node in tree.body for name in names_in(node)
                    if isinstance(node, ast.Assign) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Name)}
            everything = beside | said | set(names_in(code))
            yield each.title, prose, hints, beside, everything, everything - numbers_set(code)


def test_what_the_words_of_an_exercise_name_is_there():
    """A hint that says `turn.T`, where `turn` is a number and the matrix is turn_leg, leads a student astray. Hints may name what the
    exercise's own cells do, and what was imported; its prose, between backticks, all that the notebook has."""
    lost, seen = [], set()
    for title, prose, hints, beside, everything, with_attributes in exercises_of_the_course():
        lost += [(title, name, hint) for hint in hints for name in in_words(hint) - beside]
        seen |= {name for hint in hints for name in in_words(hint)}
        for tree in spans_of(prose):
            inner = {node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
            if any(isinstance(node, (ast.Attribute, ast.BinOp)) for node in ast.walk(tree)) and not ast.unparse(tree).endswith(".py"):
                lost += [(title, name, ast.unparse(tree)) for name in {*names_in(tree)} - everything | inner - with_attributes]
    assert not lost, lost
    assert {"conditional", "decay", "torch", "HeadConfig"} <= seen


@pytest.mark.parametrize("hint, named", [
    ("multiply by turn.T, not by turn.", {"turn"}), ("the error is (found - truth).norm(dim=-1).", {"found", "truth"}),
    ("the factor is (1 - alpha_s).sqrt() * predicted[3].", {"alpha_s", "predicted"}), ("it is 1 minus that. Take one", set()),
    ("a 1 + 20 * heatmaps(joints) of all", {"heatmaps", "joints"}), ("call remove() on what was registered", set())])
def test_names_are_found_in_a_sentence(hint, named):
    assert in_words(hint) == named


# ---------------------------------------------------------------------------------------------- 0  start here

def test_left_hand():
    target = noise_of(0, 14, 2).abs() * 50
    check = lambda answer: exercises.left_hand(answer, target)
    assert check(target[6]).startswith("Right: ") and "right wrist" in check(target[7]) and "head" in check(target[0])
    assert "exchanged" in check(target[6].flip(0)) and "no joint" in check(target[6] + 1) and "shape" in check(target)
    assert "6 is the number of a row, that of the left wrist" in check(6) and "of the right wrist; my_hand is to be a row" in check(7)
    assert "a float" in check(6.0) and "a bool" in check(True) and "an int, and a tensor" in check(14)


@pytest.mark.parametrize("answer, said", [
    ((150, 170), "Right: "), ([torch.tensor(150.0), 170], "Right: "), ((150, 15), "the right hand is"), ((0, 0), "y grows"),
    ((2.6, 3.0), "radians"), ((150, 200), "200 degrees"), (150, "two numbers"), ((150, "up"), "two numbers")])
def test_hands_up(answer, said):
    assert said in exercises.hands_up(answer)


# ---------------------------------------------------------------------------------------------- 1  diffusion

def test_add_noise():
    x, e, a = noise_of(0, 1, 4, 8, 8), noise_of(1, 1, 4, 8, 8), torch.tensor(0.4)
    check = lambda answer: exercises.add_noise(answer, x, e, a)
    assert check(a.sqrt() * x + (1 - a).sqrt() * e).startswith("Right: ")
    assert "square roots are missing" in check(a * x + (1 - a) * e)
    assert "latents itself" in check(x.mul_(2)) and "begin with noise.clone()" in check(e) and "differ" in check(x.clone())
    assert "exchanged" in check((1 - a).sqrt() * x + a.sqrt() * e)
    assert "each has a factor" in check(x + e)
    assert "differ" in check(torch.zeros_like(x)) and "shape" in check(x[0]) and "NaN" in check(x / 0 * 0)
    assert "float" in check(0.5)


def test_ddim_step():
    x, e, a, b = noise_of(0, 4, 8, 8), noise_of(1, 4, 8, 8), torch.tensor(0.4), torch.tensor(0.7)
    check = lambda answer: exercises.ddim_step(answer, x, e, a, b)
    guess = (x - (1 - a).sqrt() * e) / a.sqrt()
    assert check(b.sqrt() * guess + (1 - b).sqrt() * e).startswith("Right: ")
    assert "guess of the clean" in check(guess) and "at t again" in check(x)
    assert "noise is missing" in check(b.sqrt() * guess)
    assert "lacks its division" in check(b.sqrt() * a.sqrt() * guess + (1 - b).sqrt() * e)
    assert "missing in the guess" in check(b.sqrt() * (x - (1 - a) * e) / a + (1 - b).sqrt() * e)
    assert "predicted[3] itself" in check(e) and "differ" in check(e.clone())
    whole = torch.cat([x[None]] * 4)
    assert "begin with noisy[3].clone()" in exercises.ddim_step(whole[3].mul_(2), whole[3], e, a, b), "a view, and named as well"


def test_prompt_guidance():
    n, c = noise_of(0, 1, 4, 8, 8), noise_of(1, 1, 4, 8, 8)
    check = lambda answer: exercises.prompt_guidance(answer, n, c, 3.0)
    assert check(n + 3 * (c - n)).startswith("Right: ") and check(3 * c - 2 * n).startswith("Right: ")
    assert "start from negative" in check(c + 3 * (c - n))
    assert "away from the prompt" in check(n + 3 * (n - c))
    assert "scale of 1" in check(c) and "negative itself" in check(n) and "differ" in check(n.clone())


# ---------------------------------------------------------------------------------------------- 2  features

def test_hook():
    unet, features = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1)), [noise_of(0, 1, 3, 4, 4), noise_of(1, 1, 3, 4, 4)]
    check = lambda answer: exercises.hook(answer, features, 1, unet)
    assert check(features[1].clone()).startswith("Right: ")
    assert "list of 1" in check([features[1]]) and "layer 0" in check(features[0])
    assert "skip connection" in check(features[1] + 1) and "shape" in check(features[1][0])
    unet[0].register_forward_hook(print)
    assert "1 hook(s)" in check(features[1])


def test_cosine_map():
    a, b = noise_of(0, 8, 4, 4), noise_of(1, 8, 4, 4)
    check = lambda answer: exercises.cosine_map(answer, a, b, 1, 2)
    right = torch.cosine_similarity(a[:, 1, 2][:, None, None], b, dim=0)
    assert check(right).startswith("Right: ") and check(right[None]).startswith("Right: ")
    assert "dot products" in check((a[:, 1, 2][:, None, None] * b).sum(0))
    assert "exchanged" in check(torch.cosine_similarity(a[:, 2, 1][:, None, None], b, dim=0))
    assert "with itself" in check(torch.cosine_similarity(a[:, 1, 2][:, None, None], a, dim=0))
    assert "shape" in check(right[:2]) and "differ" in check(right + 1)


# ---------------------------------------------------------------------------------------------- 3  aggregation

def test_mixture():
    maps, raw = [noise_of(i, 1, 2, 4, 4) for i in range(3)], torch.tensor([1.0, -1.0, 0.5])
    check = lambda answer: exercises.mixture(answer, maps, raw)
    add = lambda weights: sum(w * x for w, x in zip(weights, maps))
    assert check(add(raw.softmax(0))).startswith("Right: ")
    assert "softmax first" in check(add(raw)) and "the mean" in check(add(torch.ones(3) / 3))
    assert "divides by their sum" in check(add(raw.exp())) and "without any weights" in check(sum(maps))
    assert "differ" in check(maps[0].clone()) and "same_size[0] itself" in check(maps[0]) and "(3, 1, 2, 4, 4)" in check(maps)


def test_bottleneck_count_is_that_of_the_class():
    config = HeadConfig((640,), embedding_channels=1280, width=384)
    total = sum(parameter.numel() for parameter in Bottleneck(640, config).parameters())
    check = lambda answer: exercises.bottleneck_count(answer, 640, 384, 1280)
    assert check(total).startswith("Right: ") and check(float(total)).startswith("Right: ")
    assert "that is what the norms would" in check(total - 4 * 96 - 4 * 384)
    assert "what the shortcut and the embedding's weights" in check(total - 640 * 384 - 1280 * 96)
    assert "convolutions have none" in check(total + 2 * 96 + 2 * 384)
    assert "9 weights" in check(total - 8 * 96 * 96) and "too many" in check(total + 1) and "str" in check("1000")


# ---------------------------------------------------------------------------------------------- 4  train a head

@pytest.mark.parametrize("answer, said", [
    ((7, 22), "Right: a cell is 4 pixels wide"), (torch.tensor([7, 22]), "Right"), ((22, 7), "row and column the wrong way"),
    ((30, 90), "are pixels"), ((90, 30), "are pixels"), ((8, 23), "counted from 0"), ((7.5, 22.5), "rounding"),
    ((0, 0), "is not the cell"), (7, "a pair"), ("ab", "a pair"), ((1, 2, 3), "a pair")])
def test_the_cell_of_a_joint(answer, said):
    assert said in exercises.cell_of_joint(answer, (90.0, 30.0))


def test_a_loss_that_leaves_hidden_joints_out():
    plain = lambda readout, joints: (readout - heatmaps(joints)).square()
    error = lambda readout, joints: plain(readout, joints) * (1 + 20 * heatmaps(joints))
    right = {"index": lambda r, j, v: error(r, j)[v].mean(),
             "weight": lambda r, j, v: (error(r, j).mean((2, 3)) * v).sum() / v.sum()}
    wrong = {"leaves the weights out": lambda r, j, v: plain(r, j)[v].mean(), "has no weights": lambda r, j, v: plain(r, j).mean(),
             "before it squares": lambda r, j, v: ((r - heatmaps(j)) * (1 + 20 * heatmaps(j))).square()[v].mean(),
             "all joints": lambda r, j, v: error(r, j).mean(), "leaves out the visible": lambda r, j, v: error(r, j)[~v].mean(),
             "each picture first": lambda r, j, v: torch.stack([each[seen].mean() for each, seen in zip(error(r, j), v)]).mean(),
             "returns nothing": lambda r, j, v: None,
             "number of all cells": lambda r, j, v: (error(r, j) * v[..., None, None]).mean(),
             "is a sum": lambda r, j, v: error(r, j)[v].sum(), "one number is asked for": lambda r, j, v: error(r, j)[v],
             "returns a float": lambda r, j, v: error(r, j)[v].mean().item(), "no gradient": lambda r, j, v: error(r.detach(), j)[v].mean(),
             "stopped with TypeError": lambda r: r, "stopped with RuntimeError": lambda r, j, v: (r - j).mean(),
             "would be right": lambda r, j, v: 3 * error(r, j)[v].mean()}
    assert all(exercises.visible_loss(answer).startswith("Right") for answer in right.values())
    assert all(said in exercises.visible_loss(answer) for said, answer in wrong.items())
    assert "is an int" in exercises.visible_loss(3)


def test_the_scores_of_what_was_trained_on_and_of_what_was_not(monkeypatch):
    monkeypatch.setattr(exercises, "score_head", lambda pipe, task, head, timesteps, samples: {100: samples})
    check = lambda answer, trained=0.97: exercises.learned_or_memorised(answer, None, "pose", None, trained, 0.95)
    assert "Right: the two hardly differ" in check((0.97, 0.95)) and "differ (1.00 and 0.95)" in check((1.0, 0.95), 1.0)
    assert "wrong way round" in check((0.95, 0.97)) and "(0.500, 0.950)" in check((0.5, 0.95))
    assert all("two numbers" in check(answer) for answer in (0.97, (0.97,), ({100: 0.97}, {100: 0.95})))


# ---------------------------------------------------------------------------------------------- 5  guided sampling

def test_a_normalised_move():
    rms = lambda g, dims: g.square().mean(dims, keepdim=True).sqrt()
    check = exercises.normalised_move
    assert check(lambda g, s: -s * g / rms(g, (1, 2, 3))).startswith("Right")
    assert check(lambda g, s: -s * normalized_step([g])).startswith("Right"), "as the core does it"
    for said, answer in {"climbs": lambda g, s: s * g / rms(g, (1, 2, 3)), "whole batch": lambda g, s: -s * g / rms(g, (0, 1, 2, 3)),
                         "*mean* square": lambda g, s: -s * g / g.square().sum((1, 2, 3), keepdim=True).sqrt(),
                         "sign rule": lambda g, s: -s * g.sign(), "plain rule": lambda g, s: -s * g,
                         "follow step_size": lambda g, s: -g / rms(g, (1, 2, 3)), "stopped with": lambda g: g,
                         "has shape": lambda g, s: g[0], "one of 0.2 it is not": lambda g, s: -0.05 * g / rms(g, (1, 2, 3)),
                         "is nothing": lambda g, s: None, "differ from": lambda g, s: -2 * s * g / rms(g, (1, 2, 3))}.items():
        assert said in check(answer), said
    assert "a function" in check(0.05)


@pytest.mark.parametrize("answer, said", [
    ([4, 5, 6, 7, 8, 9], "Right: 6 of 20"), (range(4, 10), "Right"), (torch.arange(4, 10), "Right"), (range(4, 11), "one too many"),
    (range(5, 11), "one too late"), ([800, 750, 700], "are these timesteps"), (range(10, 16), "wrong end"),
    ([4.5, 5], "a list"), ([1], "6 are in it"), ([], "6 are in it"), (5, "a list"), ("abc", "a list")])
def test_the_steps_of_an_interval(answer, said):
    assert said in exercises.guided_steps(answer, 20, 0.2, 0.5)
    if said.startswith("Right"):
        objective = Objective(head=ReadoutHead(HeadConfig((8,))), start=0.2, stop=0.5)
        assert [step for step in range(20) if objective.strength(step, 20)] == [int(step) for step in answer], "as the core does it"


def test_a_pose_in_the_mirror():
    joints = render(sample_scene(3)).joints[0]
    flip, negate = (torch.tensor([[sign * 1.0, 1.0]]) for sign in (-1, -1))
    reflected = joints * flip + torch.tensor([[128.0, 0.0]])
    check = lambda answer: exercises.mirrored_pose(answer, joints)
    assert check(reflected[MIRROR]).startswith("Right") and check(reflected[MIRROR].tolist()).startswith("Right")
    assert "still called left" in check(reflected) and "no point has moved" in check(joints[MIRROR])
    assert "as it was" in check(joints) and "outside" in check((joints * negate)[MIRROR])
    assert "they are not numbers of pixels" in check(torch.stack((127 - joints[:, 0], joints[:, 1]), -1)[MIRROR])
    assert "on its head" in check(torch.stack((joints[:, 0], 128 - joints[:, 1]), -1)[MIRROR])
    assert "has shape" in check(joints[:3]) and "a tensor is asked for" in check("left")


# ---------------------------------------------------------------------------------------------- 6  sketches

def test_depth_ramp():
    ramp = torch.cat((torch.zeros(80), torch.linspace(0, 0.8, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    steep = torch.cat((torch.zeros(80), torch.linspace(0, 1.0, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    upside_down = torch.cat((torch.zeros(80), torch.linspace(0.8, 0, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    assert exercises.depth_ramp(ramp).startswith("Right: ")
    assert "shape (128, 128)" in exercises.depth_ramp(ramp[0, 0])
    assert "across the columns" in exercises.depth_ramp(ramp.mT)
    assert "nearest at the horizon" in exercises.depth_ramp(upside_down)
    assert "In the sky" not in exercises.depth_ramp(ramp + 0.3) and "in the sky" in exercises.depth_ramp(ramp + 0.3)
    assert "row 127 1.00" in exercises.depth_ramp(steep)
    for late in (torch.arange(48) / 48 * 0.8, torch.linspace(0, 0.8, 49)[1:]):                  # a row too few, a row too early
        assert "Not yet: row 80 has" in exercises.depth_ramp(torch.cat((torch.zeros(80), late))[None, None, :, None].expand(1, 1, 128, 128))
    assert "as far from 0 as -0.50" in exercises.depth_ramp(torch.where(ramp > 0, ramp, torch.tensor([-0.5] + [0.1] * 127)[:, None]))
    assert "shape (1,)" in exercises.depth_ramp([0.0]) and "a dict" in exercises.depth_ramp({})


def test_sketch_precision():
    found, strokes = torch.zeros(2, 1, 1, 128, 128, dtype=torch.bool)
    strokes[..., 60, 20:60] = True
    found[..., 61, 20:40], found[..., 100, 20:80], found[..., 60, 40:45] = True, True, True
    wide = torch.nn.functional.max_pool2d(strokes.float(), 5, 1, 2)
    right = wide[found].mean()
    assert exercises.sketch_precision(right, found, strokes).startswith("Right: ")
    assert exercises.sketch_precision(float(right), found, strokes).startswith("Right: ")
    recall = torch.nn.functional.max_pool2d(found.float(), 5, 1, 2)[strokes].mean()
    assert "recall" in exercises.sketch_precision(recall, found, strokes)
    assert "exact hits" in exercises.sketch_precision(strokes.float()[found].mean(), found, strokes)
    assert "percent" in exercises.sketch_precision(100 * right, found, strokes)
    assert "all pixels" in exercises.sketch_precision((wide * found).mean(), found, strokes)
    assert "single number" in exercises.sketch_precision(wide, found, strokes)
    assert exercises.sketch_precision(0.9, found, strokes).startswith("Not yet: you have 0.900")


# ---------------------------------------------------------------------------------------------- 7  drag

def test_share_of_matches():
    truth = torch.tensor([[20.0, 20], [50, 50], [80, 80], [100, 40]])
    found = truth + torch.tensor([[1.0, 1], [7, 7], [30, 0], [5, 0]])              # errors 1.4, 9.9, 30 and 5
    check = lambda answer: exercises.share_of_matches(answer, found, truth, torch.tensor(80.0))
    assert check(torch.tensor(0.5)).startswith("Right: 2 of 4") and check(0.5).startswith("Right: ")
    assert "errors below 0.1 pixels" in check(0.0)
    assert "mean error" in check((found - truth).norm(dim=-1).mean())
    assert "divide by all 4" in check(2) and "in percent" in check(50)
    assert exercises.share_of_matches(0.67, found[[0, 3, 2]], truth[[0, 3, 2]], torch.tensor(80.0)).startswith("Right: 2 of 3"), "two digits"
    assert "one by one" in check(((found - truth).abs() <= 8).float().mean())
    assert "single number" in check(found) and check(0.4).startswith("Not yet: you have 0.400")


def values_of(name, words):
    """What a notebook's cell that holds `words` sets: the data of an exercise."""
    cell, = [cell for cell in course.read(course.notebooks()[name]).cells if cell.cell_type == "code" and words in cell.source]
    values = {"torch": torch}
    exec(cell.source, values)
    return values


def test_mistakes_show_in_the_points_of_exercise_7_1():
    found, truth, side = (values_of("07_drag", "found_points =")[name] for name in ("found_points", "truth", "side"))
    check = lambda near: exercises.share_of_matches(near.float().mean(), found, truth, side)
    off = found - truth
    assert check(off.norm(dim=-1) <= 0.1 * side).startswith("Right") and "one by one" in check(off.abs() <= 0.1 * side)
    wrong = {"x and y, each near": (off.abs() <= 0.1 * side).all(-1), "10 pixels": off.norm(dim=-1) < 10,
             "|x| + |y|": off.abs().sum(-1) <= 0.1 * side,
             "the first puppet's side": off.norm(dim=-1) <= 0.1 * 86.25, "a tenth of a pixel": off.norm(dim=-1) <= 0.1, "all": off[:, 0] < 99,
             "the smaller side": off.norm(dim=-1) <= 0.1 * (truth.amax(0) - truth.amin(0)).amin(), "the others": off.norm(dim=-1) > 0.1 * side}
    assert all(check(near).startswith("Not yet") for near in wrong.values()), {name: check(near) for name, near in wrong.items()}


def test_leg_drag():
    hip, knee, ankle = torch.tensor([70.0, 70]), torch.tensor([74.0, 90]), torch.tensor([76.0, 112])
    turn = torch.tensor([[0.94, 0.342], [-0.342, 0.94]])
    handles = torch.stack((knee, (knee + ankle) / 2, ankle))
    targets = (handles - hip) @ turn.T + hip
    check = lambda there, here=handles: exercises.leg_drag(here, there, hip, knee, ankle, turn)
    assert check(targets).startswith("Right: ") and check(None).startswith("Not done yet: ")
    assert "turn_leg.T" in check((handles - hip) @ turn + hip)
    assert "corner of the picture" in check(handles @ turn.T) and "did not add it again" in check((handles - hip) @ turn.T)
    assert "move alike" in check(handles + targets[2] - handles[2])
    assert "in this order" in check(targets.flip(0), handles.flip(0))
    assert "shape (2, 2)" in check(targets[:2]) and "a str" in check("up")
    assert "times as far" in check((handles - hip) * 1.5 + hip)


# ---------------------------------------------------------------------------------------------- 8  appearance

def test_distance_of_looks():
    a, b = torch.rand(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9.0).view(8, 1, 1)
    check = lambda answer: exercises.distance_of_looks(answer, a, b)
    centred = lambda *vectors: [each - each.mean(1, keepdim=True) for each in vectors]
    powers = [(each ** 6).mean((2, 3)) for each in (a, b)]
    means = [each ** (1 / 6) for each in powers]
    similarity = torch.cosine_similarity(*centred(*means), dim=1)
    assert check(1 - similarity).startswith("Right: ") and check(float(1 - similarity)).startswith("Right: ")
    assert "is the similarity" in check(similarity)
    assert "its own mean over the channels" in check(1 - torch.cosine_similarity(*means, dim=1))
    assert "plain means" in check(1 - torch.cosine_similarity(*centred(a.mean((2, 3)), b.mean((2, 3))), dim=1))
    assert "sixth root" in check(1 - torch.cosine_similarity(*centred(*powers), dim=1))
    assert "cell by cell" in check(1 - torch.cosine_similarity(a, b, dim=1).mean())
    assert "single number" in check(a) and "dim=1" in check(7.0)


def test_agreement_of_looks():
    wanted = {"skin": "tan", "shirt": "red", "trousers": "blue", "hat": "none"}
    seen = [{**wanted, "prop": "none", "background": "snow"}, {**wanted, "shirt": "green", "prop": "none", "background": "snow"},
            {**wanted, "shirt": "green", "hat": "red", "prop": "none", "background": "snow"}]
    check = lambda answer: exercises.agreement_of_looks(answer, seen, wanted)
    assert check(9 / 12).startswith("Right: 9 of 12") and check(torch.tensor(0.75)).startswith("Right: ")
    assert "percent" in check(75) and "everything agrees" in check(1 / 3)
    assert exercises.agreement_of_looks(0.67, seen, {"skin": "tan", "hat": "none", "shirt": "red"}).startswith("Right: 6 of 9"), "two digits"
    assert "first picture alone" in check(1.0) and "divide by 4" in check(3) and "all 6" in check(9 / 18)
    assert "single number" in check("0.75") or check("0.75").startswith("Right: ")
    assert "3 of the 12 looks differ" in check(0.6)


def test_mistakes_show_in_the_looks_of_exercise_8_2():
    seen, wanted = (values_of("08_appearance", "seen = [")[name] for name in ("seen", "wanted"))
    check = lambda answer: exercises.agreement_of_looks(answer, seen, wanted)
    hits = [[each[name] == wanted[name] for name in wanted] for each in seen]
    total = sum(map(sum, hits))
    assert check(total / (len(seen) * len(wanted))).startswith("Right")
    wrong = {"everything agrees": sum(map(all, hits)) / len(seen), "first picture alone": sum(hits[0]) / len(wanted),
             "divide by 4": total / len(seen),
             "attributes of a picture": total / (len(seen) * len(seen[0])), "you have 1.000": 1, "you have 0.5": sum(hits[-1]) / len(wanted),
             "looks differ from wanted": 1 - total / (len(seen) * len(wanted)), "you have 0.000": sum(map(all, zip(*hits))) / len(wanted)}
    assert all(said in check(answer) for said, answer in wrong.items()), {said: check(answer) for said, answer in wrong.items()}


# ---------------------------------------------------------------------------------------------- 9  combining

def test_fading_schedule():
    check = exercises.fading_schedule
    assert check(lambda done: max(1 - 2 * done, 0)).startswith("Right: ")
    assert "negative" in check(lambda done: 1 - 2 * done)
    assert "last step" in check(lambda done: 1 - done) and "rises" in check(lambda done: min(2 * done, 1))
    assert "a float" in check(0.5) and "every branch" in check(lambda done: 1 - 2 * done if done < 0.5 else None)
    assert "my_schedule(0.0) raises ZeroDivisionError" in check(lambda done: 1 / done) and "asked for are" in check(lambda done: 1.0)
    assert "my_schedule(0.5) raises IndexError" in check(lambda done: [1][done >= 0.5])


def test_two_objectives():
    class Worn:
        def __init__(self, seed, noise=0.0):
            self.latents_at = lambda timestep: noise_of(seed, 1, 4, 8, 8) + noise

    joints, others, source = render(sample_scene(3)).joints, render(sample_scene(4)).joints, Worn(0)

    class Wish:
        def __init__(self, head, weight, start, stop, pool=True, joints=joints, source=source):
            self.head, self.weight, self.start, self.stop, self.pool = head, weight, start, stop, pool
            self.target, self.source = heatmaps(joints), source
    check = lambda *wishes: exercises.two_objectives(list(wishes), "pose", "looks", joints, source)
    pose, looks = Wish("pose", 1.0, 0.0, 0.4), Wish("looks", 0.5, 0.2, 0.8)
    assert check(pose, looks).startswith("Right: ") and check(looks, pose).startswith("Right: ")
    assert "list of two" in check(pose) and "0 of your objectives read the appearance" in check(pose, Wish("depth", 1.0, 0, 1))
    assert "stop of the pose objective is 0.5" in check(Wish("pose", 1.0, 0.0, 0.5), looks)
    assert "weight of the appearance objective is 1" in check(pose, Wish("looks", 1.0, 0.2, 0.8))
    assert "pool=True" in check(pose, Wish("looks", 0.5, 0.2, 0.8, pool=False))
    worn = lambda source: Wish("looks", 0.5, 0.2, 0.8, source=source)
    assert check(pose, worn(Worn(0, 0.03))).startswith("Right: "), "the same picture with other noise"
    posed = Wish("pose", 1.0, 0.0, 0.4, joints=others)
    assert "exchanged" in check(posed, worn(Worn(1))) and "another pose" in check(posed, looks)
    assert all("another picture" in check(pose, worn(other)) for other in (Worn(1), None, "ab"))


# ---------------------------------------------------------------------------------------------- 10  your own head

def horizon_samples(count, seed):
    frames = render(sample_scenes(count, seed))
    return (frames.image,), (torch.tensor([scene.horizon for scene in frames.scenes]),)


def test_samples_of_a_property_of_ones_own():
    check = exercises.horizon_samples
    assert check(horizon_samples).startswith("Right")
    parts = lambda count, seed: (horizon_samples(count, seed)[0][0], horizon_samples(count, seed)[1][0])
    calls = iter(range(100))
    for said, answer in {"The commas matter": lambda c, s: parts(c, s), "is the seed": lambda c, s: horizon_samples(c, 0),
                         "different samples": lambda c, s: horizon_samples(c, s + next(calls)),
                         "columns of the sun": lambda c, s: (horizon_samples(c, s)[0], (torch.tensor(
                             [scene.sun_x for scene in sample_scenes(c, s)]),)),
                         "the tensor of rows has shape": lambda c, s: (horizon_samples(c, s)[0], (horizon_samples(c, s)[1][0][:, None],)),
                         "the tensor of rows is a str": lambda c, s: (horizon_samples(c, s)[0], ("high",)),
                         "stopped with": lambda: 1}.items():
        assert said in check(answer), said
    assert "a function" in check((1, 2))


def test_a_loss_of_ones_own():
    def sky(rows, readout):
        centres = (torch.arange(readout.shape[-2]) + 0.5) * 128 / readout.shape[-2]
        return (centres < rows[:, None]).float()[:, None, :, None].expand_as(readout)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    check = exercises.horizon_loss
    assert check(lambda r, rows: loss(r, sky(rows, r))).startswith("Right")
    edges = lambda r: (r[..., :4] + r[..., -4:]).sigmoid().mean((1, 3)).sum(-1) * 128 / r.shape[-2]
    assert check(lambda r, rows: (edges(r) - rows).square().mean()).startswith("Right"), "another way"
    assert check(lambda r, rows: (r.sigmoid() - sky(rows, r)).square().mean()).startswith("Right")
    assert check(lambda r, rows: loss(r.mean((1, 3)), sky(rows, r)[:, 0, :, 0])).startswith("Right"), "columns first averaged"
    part = lambda r, rows, there: (loss(r, sky(rows, r), reduction="none") * there).sum() / there.sum()
    for said, answer in {"y grows downwards": lambda r, rows: loss(r, 1 - sky(rows, r)),
                         "one number": lambda r, rows: loss(r, sky(rows, r), reduction="none"),
                         "16 pixels": lambda r, rows: 0 * r.sum() + 1,
                         "16 pixels too low": lambda r, rows: part(r, rows, sky(rows, r)), "stands upright": lambda r, rows: loss(r, sky(rows, r).mT),
                         "16 pixels too high": lambda r, rows: part(r, rows, 1 - sky(rows, r)),
                         "how much sky there is, not where": lambda r, rows: (r.sigmoid().mean((1, 2, 3)) * 128 - rows).square().mean(),
                         "which picture has which": lambda r, rows: loss(r.mean(0, keepdim=True), sky(rows.mean()[None], r[:1])),
                         "no gradient": lambda r, rows: ((r > 0).float() - sky(rows, r)).square().mean(),
                         "a float, and no gradient": lambda r, rows: loss(r, sky(rows, r)).item(), "returns nothing": lambda r, rows: None,
                         "in pixels": lambda r, rows: loss(r, (torch.arange(32) < rows[:, None]).float()[:, None, :, None].expand_as(r)),
                         "the first may have": lambda r, rows: loss(r[1:], sky(rows[1:], r[1:])),
                         "the second may have": lambda r, rows: loss(r, sky(rows, r), reduction="none")[0].mean(),
                         "NaN or infinity": lambda r, rows: loss(r, sky(rows, r)) / 0,
                         "stopped with": lambda r, rows: loss(r, rows)}.items():
        assert said in check(answer), (said, check(answer))


def test_a_mask_of_the_sky():
    mask = torch.zeros(1, 1, 128, 128)
    mask[:, :, :32] = 1
    assert exercises.sky_mask(mask).startswith("Right") and exercises.sky_mask(mask.bool()).startswith("Right")
    assert "upside down" in exercises.sky_mask(1 - mask) and "columns" in exercises.sky_mask(mask.mT)
    assert "has shape" in exercises.sky_mask(mask[0]) and "a tensor is asked" in exercises.sky_mask(32)
    assert "differ" in exercises.sky_mask(mask / 2)


# ---------------------------------------------------------------------------------------------- 11  larger models

def test_feature_memory():
    shapes = [(1280, 32, 32), (640, 64, 64), (320, 128, 128)]
    check = lambda answer: exercises.feature_memory(answer, shapes, 4, 4)
    right = sum(c * h * w for c, h, w in shapes) * 16 / 1e6
    assert check(right).startswith("Right: ") and check(round(right)).startswith("Right: ")
    assert "a factor of 4 is missing" in check(right / 4) and "is not the sum" in check(right / 8)
    three = lambda answer: exercises.feature_memory(answer, shapes, 3, 4)
    assert "multiply by the batch" in three(right * 3 / 4 / 3) and "one byte a number" in three(right * 3 / 4 / 4)
    assert "half precision" in check(right / 2) and "these are bytes" in check(right * 1e6) and "2 ** 20" in check(right * 1e6 / 2 ** 20)
    assert "last layer" in check(320 * 128 * 128 * 16 / 1e6) and "is not the sum" in check(1.0) and "str" in check("1")


def test_head_config():
    unet = tiny_pipe().unet
    check = lambda answer: exercises.head_config(answer, unet, 384, 1)
    assert check(HeadConfig.for_model(unet, width=384, out_channels=1)).startswith("Right: ")
    assert "another" in check(HeadConfig((1, 2), width=384, out_channels=1)) and "int" in check(3)
    assert "width is 128" in check(HeadConfig.for_model(unet, width=128, out_channels=1))
    assert "out_channels is 0" in check(HeadConfig.for_model(unet, width=384))


@pytest.mark.parametrize("answer, said", [
    ((125, 100), "Right: "), ([torch.tensor(125), 100.0], "Right: "), ((100, 125), "exchanged"), ((75, 50), "each branch is a picture"),
    ((150, 100), "not one more of each branch"), ((125, 125), "needs no pass"), ((1, 2), "two branches"), (125, "two numbers"),
    ((125, "x"), "two numbers")])
def test_door_costs(answer, said):
    assert said in exercises.door_costs(answer, 50, 25)


def test_share_of_largest():
    def by(sizes, descending=True):
        return lambda tokens, count: (lambda e: e[:count].sum() / e.sum())(sizes(tokens).sort(descending=descending).values)
    energy = lambda tokens: tokens.square().mean(0)
    check = exercises.share_of_largest
    assert check(by(energy)).startswith("Right: ") and check(lambda *given: float(by(energy)(*given))).startswith("Right: ")
    assert "without squaring" in check(by(lambda tokens: tokens.abs().mean(0))) and "roots" in check(by(lambda tokens: energy(tokens).sqrt()))
    assert "smallest" in check(by(energy, descending=False)) and "first channels" in check(
        lambda tokens, count: energy(tokens)[:count].sum() / energy(tokens).sum())
    assert "raised ZeroDivisionError" in check(lambda tokens, count: 1 / 0) and "one number" in check(lambda tokens, count: tokens)
    assert "percent" in check(lambda tokens, count: 100 * energy(tokens).topk(count).values.sum() / energy(tokens).sum())
    assert "returns nothing" in check(lambda tokens, count: None) and "were expected" in check(lambda tokens, count: 0.5) and "int" in check(3)


# ---------------------------------------------------------------------------------------------- A1  the base model

def test_repeatable_draws():
    def global_one(seed, step):
        torch.manual_seed(seed * 1000 + step)
        return torch.Generator().manual_seed(seed * 1000 + step)
    seeded = lambda rule: exercises.repeatable_draws(lambda seed, step: torch.Generator().manual_seed(rule(seed, step)))
    right = (lambda seed, step: seed * 1_000_003 + step, lambda seed, step: step * 1_000_003 + seed, lambda seed, step: hash((seed, step)),
             lambda seed, step: seed * 10 ** 6 + step, lambda seed, step: seed * 10 ** 9 + step)
    assert all(seeded(rule).startswith("Right: ") for rule in right)
    small = [lambda seed, step, factor=factor: seed * factor + step for factor in (2, 200, 317, 1000, 54_321, 100_000)]
    small += [lambda seed, step, factor=factor: step * factor + seed for factor in (2, 10, 317, 1000, 54_321, 100_000)]
    small += [lambda seed, step: int(f"{seed}{step}"), lambda seed, step: seed << 32 | step + seed, lambda seed, step: seed ^ step]
    assert all("shifted" in seeded(rule) for rule in small)
    assert "my_generator(0, 317) raises" in seeded(lambda seed, step: [0][step // 317])
    assert "shifted" in seeded(lambda seed, step: seed + step) and "the step makes" in seeded(lambda seed, step: seed)
    assert "the seed makes" in seeded(lambda seed, step: step) and "raises" in exercises.repeatable_draws(lambda seed: 1)
    one = torch.Generator().manual_seed(0)
    assert "two different" in exercises.repeatable_draws(lambda seed, step: one)
    assert "global" in exercises.repeatable_draws(global_one)
    assert "an int" in exercises.repeatable_draws(lambda seed, step: seed) and "an int" in exercises.repeatable_draws(3)


def test_running_average():
    check = exercises.running_average
    assert check(lambda a, w, d: d * a + (1 - d) * w).startswith("Right: ") and check(lambda a, w, d: a.lerp(w, 1 - d)).startswith("Right: ")
    assert "change slowly" in check(lambda a, w, d: (1 - d) * a + d * w) and "add up" in check(lambda a, w, d: d * a + w)
    assert "float" in check(lambda a, w, d: d) and "raises" in check(lambda a, w: a) and "function" in check(0.9)
    assert "one of 0.6 it is not" in check(lambda a, w, d: 0.9 * a + 0.1 * w) and "is nothing" in check(lambda a, w, d: None)


# ---------------------------------------------------------------------------------------------- A2  measuring

def test_pck_of_one():
    target = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 100.0], [40.0, 100.0]])
    seen = target + torch.tensor([[1.0, 0.0], [4.0, 4.0], [9.0, 0.0], [0.0, 30.0]])        # 5 pixels are near enough
    check = lambda answer: exercises.pck_of_one(answer, seen, target, 0.05)
    third = exercises.pck_of_one(0.333, torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 109.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 100.0]]), 0.05)
    assert third.startswith("Right: 1 of 3"), "it is not told that 0.333 is wrong, and 0.333 right"
    assert exercises.pck_of_one(0.33, *(torch.tensor([[0.0, 0.0], [y, 0.0], [0.0, 100 + y]]) for y in (9.0, 0.0)), 0.05).startswith("Right: 1 of 3")
    assert "my_pck is NaN" in check(float("nan")) and "my_pck is infinity" in check(torch.tensor(-math.inf))
    assert check(0.25).startswith("Right: 1 of 4") and check(torch.tensor(0.25)).startswith("Right: ")
    assert "percentage" in check(25.0) and "count" in check(1) and "too far" in check(0.75)
    assert "larger side" in check(0.4) and "take the mean" in check(torch.tensor([True, False, False, False]))


def test_standard_error():
    values = torch.rand(32, generator=torch.Generator().manual_seed(0))
    check = lambda answer: exercises.standard_error(answer, values)
    assert check(values.std() / 32 ** 0.5).startswith("Right: ") and check((values.std(correction=0) / 32 ** 0.5).item()).startswith("Right: ")
    assert "divide by the root of 32" in check(values.std()) and "its square root" in check(values.std() / 32)
    assert "take the square root" in check(values.var() / 32) and "not the standard" in check(7.0) and "one number" in check(values)


# ---------------------------------------------------------------------------------------------- A3  cost

def test_shared_bytes():
    base = torch.zeros(4, 8)
    check = lambda answer: exercises.shared_bytes(answer, [base, base.mT, base[0], base.half()])
    assert check(192).startswith("Right: 192 bytes in 2 storages") and check(torch.tensor(192)).startswith("Right: ")
    assert "views are counted again" in check(352) and "how many numbers" in check(104) and "largest storage" in check(128)
    assert "a number of storages" in check(2) and "storage of every tensor" in check(448) and "not the sum" in check(7)
    assert "one number" in check([1, 2]) and "Not done" in check(None)


def test_fastest_that_fits():
    needed = {"plain": 14.0, "lean": 13.0, "least": 7.7}
    check = lambda answer: exercises.fastest_that_fits(answer, needed)
    fits = lambda needed, card: [name for name, each in needed.items() if each <= card]
    assert check(lambda needed, card: (fits(needed, card) or ["no"])[0]).startswith("Right: plain from 14 GB on, lean from 13")
    assert "is faster" in check(lambda needed, card: (fits(needed, card) or ["no"])[-1])
    assert "exactly 7.7 GB fits" in check(lambda needed, card: next((name for name, each in needed.items() if each < card), "no"))
    assert "returns nothing" in check(lambda needed, card: next(iter(fits(needed, card)), None)) and "raises IndexError" in check(
        lambda needed, card: fits(needed, card)[0])
    assert "nothing fits" in check(lambda needed, card: "least") and "it says 3" in check(lambda needed, card: 3 if card > 1 else "no")
    assert "a function is asked for" in check("least") and "Not done" in check(None)
    assert "a name is asked for, as 'lean' is" in check(lambda needed, card: numpy.array(fits(needed, card)) if fits(needed, card) else "no")
    assert check(lambda needed, card: numpy.array((fits(needed, card) or ["no"])[0])).startswith("Right")


# ---------------------------------------------------------------------------------------------- A4  evidence

def test_paired_interval():
    rng = torch.Generator().manual_seed(0)
    theirs = torch.rand(200, generator=rng)
    ours = theirs + 0.1 + 0.05 * torch.randn(200, generator=rng)
    check = lambda answer: exercises.paired_interval(answer, ours, theirs)
    gap, error = ours - theirs, (ours - theirs).std() / 200 ** 0.5
    drawn = torch.stack([gap[torch.randint(200, (200,), generator=rng)].mean() for _ in range(1000)])
    ends = torch.quantile(drawn, torch.tensor([0.025, 0.975]))
    assert check(ends).startswith("Right: 0.") and check(tuple(ends.tolist())).startswith("Right") and "0 lies outside" in check(ends)
    assert check((gap.mean() - 1.96 * error, gap.mean() + 1.96 * error)).startswith("Right")
    alone = lambda values: values[torch.randint(200, (200,), generator=rng)].mean()
    apart = torch.stack([alone(ours) - alone(theirs) for _ in range(1000)])
    assert "draw pictures once" in check(torch.quantile(apart, torch.tensor([0.025, 0.975])))
    assert "single pictures" in check(torch.quantile(gap, torch.tensor([0.025, 0.975])))
    for share, told in ((0.90, "about 90 %"), (0.98, "about 98 %")):
        rest = (1 - share) / 2
        for seed in range(20):
            draws = torch.randint(200, (4000, 200), generator=torch.Generator().manual_seed(seed))
            assert told in check(torch.quantile(gap[draws].mean(1), torch.tensor([rest, 1 - rest]))), (share, seed)
            assert check(torch.quantile(gap[draws].mean(1), torch.tensor([0.025, 0.975]))).startswith("Right"), seed
    assert "one standard error" in check((gap.mean() - error, gap.mean() + error)) and "ours - theirs is asked" in check(-ends.flip(0))
    assert "above the upper" in check((1, 0)) and "two numbers" in check(0.1) and "not where 95 %" in check((3, 4)) and "Not done" in check(None)


def test_labels_to_match():
    check = exercises.labels_to_match

    def linear(labels, values, goal):
        logs = crossing(labels, values, goal)
        if logs in (0, float("inf")):
            return logs
        last = max(i for i, each in enumerate(values) if each < goal)
        return labels[last] + (goal - values[last]) / (values[last + 1] - values[last]) * (labels[last + 1] - labels[last])
    assert check(crossing).startswith("Right: ") and "over their logarithm" in check(linear)
    assert "reached between two" in check(lambda labels, values, goal: next((n for n, value in zip(labels, values) if value >= goal), float("inf")))
    for form in (torch.tensor, numpy.float32, numpy.array, lambda value: torch.tensor([value])):
        assert check(lambda *told: form(crossing(*told))).startswith("Right: "), "infinity in each form"
    assert "no number" in check(lambda *told: None) and "raises ZeroDivisionError" in check(lambda *told: 1 / 0)
    assert "float('inf')" in check(lambda labels, values, goal: min(crossing(labels, values, goal), 1e9))
    assert "return 0" in check(lambda labels, values, goal: crossing(labels, values, goal) or labels[0])
    first_way = lambda labels, values, goal: 0 if values[0] >= goal else crossing(labels, values, goal)
    assert "[0.6, 0.2, 0.6]" in check(first_way) and "its last way up counts" in check(first_way) and "a function is asked" in check(3) and "Not done" in check(None)


# ---------------------------------------------------------------------------------------------- 12  studio

def test_raised_right_hand():
    before = check_state({})["pose"]["joints"]

    def check(changes):
        return exercises.raised_right_hand([changes.get(i, at) for i, at in enumerate(before)], before)
    assert check({5: [30, 40], 7: [26, 22]}).startswith("Right: ")
    assert "left hand" in check({6: [90, 20]}) and "above is smaller" in check({5: [30, 40]})
    assert "forearm is 3" in check({7: [38, 10]}) and "head moved too" in check({0: [54, 60], 5: [30, 40], 7: [26, 22]})
    assert "outside" in check({5: [30, 40], 7: [26, -5]})
    for longer, said in ((1.14, "Right: "), (1.32, "upper arm is 1.32"), (0.86, "Right: "), (0.8, "upper arm is 0.80")):
        at = [before[3][0] - 14 * longer, before[3][1] - 12 * longer]
        assert said in check({5: at, 7: [at[0] - 4, at[1] - 18]}) and ("within 15 %" in check({5: at, 7: [at[0] - 4, at[1] - 18]})) is ("arm is" in said)
    assert "shape" in exercises.raised_right_hand([[1, 2]], before) and "no list" in exercises.raised_right_hand("up", before)


def test_unchanged_pictures():
    check = lambda answer: exercises.unchanged_pictures(answer, {"a": "1" * 16, "b": "2" * 16, "c": "1" * 16}, "1" * 16)
    assert all(check(answer).startswith("Right: ") for answer in (["a", "c"], {"c", "a"}, numpy.array(["a", "c"])))
    assert "'b' does change" in check(["a", "b", "c"]) and "one more" in check(["a"]) and "one more" in check([])
    assert "not a name" in check("d") and "no list" in check(3)


# ---------------------------------------------------------------------------------------------- all: what changes what it is made of

@pytest.mark.parametrize("name, check, answer, said", [
    ("05_guided_sampling", "mirrored_pose", "my_pose = target; my_pose[:, 0] = 128 - my_pose[:, 0]; my_pose[:] = my_pose[MIRROR].clone()", "Right: "),
    ("12_studio", "raised_right_hand", "my_joints = state['pose']['joints']; my_joints[5:8:2] = [30, 40], [26, 22]", "Right: "),
    ("12_studio", "raised_right_hand", "my_joints = state['pose']['joints']; my_joints[7] = [26, 2]", "Not yet: the forearm is")])
def test_what_an_answer_changed_in_place_is_not_what_it_is_compared_with(name, check, answer, said, capsys):
    """Compared with itself, a right answer is wrong, and an arm of any length as long as it was."""
    notebook = course.read(course.notebooks()[name])
    cell = next(each.check_cell for each in course.exercises_of(notebook) if each.check == check)
    state, pose = check_state({}), render(sample_scene(3)).joints[0].tolist()
    given = {"exercises": exercises, "MIRROR": MIRROR, "pose": pose, "target": torch.tensor(pose), "state": state, "result": finished(state, {"before": None})}
    exec(f"{answer}\n{notebook.cells[cell].source}", given)
    assert capsys.readouterr().out.startswith(said)


# ---------------------------------------------------------------------------------------------- all: what cannot be right

def contexts():
    """Name of a check -> (what it is given beside the answer, a right answer), small."""
    x, e, n, a, b = *(noise_of(seed, 1, 4, 8, 8) for seed in range(3)), torch.tensor(0.4), torch.tensor(0.7)
    unet, pose, hip, turn = tiny_pipe().unet, noise_of(0, 14, 2).abs() * 50, torch.tensor([70.0, 70]), torch.tensor([[0.94, 0.342], [-0.342, 0.94]])
    leg = torch.tensor([[74.0, 90], [75.0, 101], [76.0, 112]])
    guess, unit = (x - (1 - a).sqrt() * e) / a.sqrt(), lambda each: each / each.norm(dim=0)
    maps, raw = [noise_of(seed, 1, 2, 4, 4) for seed in range(3)], torch.tensor([1.0, -1.0, 0.5])
    found, strokes = torch.zeros(2, 1, 1, 128, 128, dtype=torch.bool)
    found[..., 10, :30], strokes[..., 10, :50] = True, True
    ramp = torch.cat((torch.zeros(80), torch.linspace(0, 0.8, 48)))[None, None, :, None].expand(1, 1, 128, 128)
    sky, shapes, wish = torch.zeros(1, 1, 128, 128), [(8, 4, 4), (4, 8, 8)], type("Wish", (), {})
    sky[:, :, :32] = 1
    first, second = wish(), wish()
    first.__dict__.update(head=1, weight=1.0, start=0.0, stop=0.4, target=heatmaps(pose[None]))
    second.__dict__.update(head=2, weight=0.5, start=0.2, stop=0.8, pool=True, source=unet)
    looks, seen = {"skin": "tan", "hat": "none"}, [{"skin": "tan", "hat": "red"}] * 2
    features = [noise_of(seed, 1, 8, 4, 4).abs() for seed in range(2)]
    pooled = [exercises.pool_features(each) for each in features]
    before = check_state({})["pose"]["joints"]
    raised = [{5: [30, 40], 7: [26, 22]}.get(i, joint) for i, joint in enumerate(before)]
    values = torch.arange(1, 9.0)
    return {
        "left_hand": ((pose,), pose[6]), "hands_up": ((), (150, 170)), "add_noise": ((x, e, a), a.sqrt() * x + (1 - a).sqrt() * e),
        "ddim_step": ((x, e, a, b), b.sqrt() * guess + (1 - b).sqrt() * e), "prompt_guidance": ((x, n, 3.0), x + 3 * (n - x)),
        "hook": (([x, e], 1, torch.nn.Identity()), e), "cosine_map": ((x[0], e[0], 1, 2), torch.einsum("c,chw->hw", unit(x[0])[:, 1, 2], unit(e[0]))),
        "mixture": ((maps, raw), sum(w * each for w, each in zip(raw.softmax(0), maps))), "bottleneck_count": ((640, 384, 1280), 551_904),
        "cell_of_joint": (((90.0, 30.0),), (7, 22)),
        "visible_loss": ((), lambda r, j, v: ((r - heatmaps(j)).square() * (1 + 20 * heatmaps(j)))[v].mean()),
        "learned_or_memorised": ((None, "pose", None, 0.97, 0.95), (0.97, 0.95)),
        "normalised_move": ((), lambda g, s: -s * g / g.square().mean((1, 2, 3), keepdim=True).sqrt()),
        "guided_steps": ((20, 0.2, 0.5), range(4, 10)),
        "mirrored_pose": ((pose,), torch.stack((128 - pose[:, 0], pose[:, 1]), -1)[MIRROR]), "depth_ramp": ((), ramp),
        "sketch_precision": ((found, strokes), 1.0), "share_of_matches": ((leg, leg + torch.tensor([[0.0, 1], [9, 9], [0, 30]]), torch.tensor(50.0)), 1 / 3),
        "leg_drag": ((hip, leg[0], leg[2], turn), (leg, (leg - hip) @ turn.T + hip)),
        "distance_of_looks": (features, 1 - torch.cosine_similarity(*pooled, dim=1).mean()), "agreement_of_looks": ((seen, looks), 0.5),
        "fading_schedule": ((), lambda done: max(1 - 2 * done, 0)), "two_objectives": ((1, 2, pose[None], unet), [first, second]),
        "horizon_samples": ((), horizon_samples),
        "horizon_loss": ((), lambda r, rows: (r * (torch.arange(2, 128, 4) - rows[:, None])[:, None, :, None]).mean()), "sky_mask": ((), sky),
        "feature_memory": ((shapes, 4, 4), 384 * 16 / 1e6), "head_config": ((unet, 384, 1), HeadConfig.for_model(unet, width=384, out_channels=1)),
        "door_costs": ((50, 25), (125, 100)), "share_of_largest": ((), lambda t, c: (lambda e: e[:c].sum() / e.sum())(t.square().mean(0).sort(descending=True).values)),
        "repeatable_draws": ((), lambda seed, step: torch.Generator().manual_seed(seed * 1_000_003 + step)),
        "running_average": ((), lambda average, weights, decay: decay * average + (1 - decay) * weights),
        "pck_of_one": ((leg + torch.tensor([[0.0, 1], [9, 9], [0, 30]]), leg, 0.1), 1 / 3),
        "shared_bytes": (([torch.zeros(8), torch.zeros(8)[:2]],), 64),
        "fastest_that_fits": (({"plain": 2.0, "least": 1.0},), lambda needed, card: next((name for name, each in needed.items() if each <= card), "no")),
        "paired_interval": ((torch.tensor([0.0, 1.0] * 50), torch.zeros(100)), (0.402, 0.598)), "labels_to_match": ((), crossing),
        "standard_error": ((values,), values.std() / 8 ** 0.5), "raised_right_hand": ((before,), raised),
        "unchanged_pictures": (({"a": "1", "b": "2"}, "1"), ["a"])}


def stops(*given):
    raise KeyError("a student's mistake")


# Answers that no exercise asks for: what a slip of the keyboard leaves, what a cell returns that was not finished.
WRONG = {"an empty text": "", "a text": "left", "true": True, "minus one": -1, "a large number": 1e9, "not a number": float("nan"), "infinity": float("inf"),
         "an empty list": [], "an empty dict": {}, "a dict": {"a": 1}, "a set": {3.5}, "a list of None": [None, None], "a list of texts": ["x"] * 14,
         "a ragged list": [[1, 2], [3]], "an object": object(), "a type": torch.Tensor, "no numbers": torch.zeros(0), "a scalar tensor": torch.tensor(-7.0),
         "NaNs": torch.full((1, 1, 128, 128), float("nan")), "whole numbers": torch.arange(28).view(14, 2), "complex numbers": torch.zeros(1, 4, 8, 8) * 1j,
         "truths": torch.zeros(1, 1, 128, 128, dtype=torch.bool), "a function that stops": stops, "a function of nothing": lambda: 1,
         "a function that returns None": lambda *given: None, "a function that returns a text": lambda *given: "x",
         "a function that returns NaN": lambda *given: torch.tensor(float("nan"), requires_grad=True)}


def test_contexts_hold_every_check():
    public = {name for name, check in vars(exercises).items() if getattr(check, "__module__", "") == exercises.__name__ and not name.startswith("_")}
    assert set(contexts()) == public


@pytest.mark.parametrize("name", contexts())
def test_the_right_answer_passes_and_what_cannot_be_right_is_said(name, monkeypatch):
    """No answer makes a check raise, and nothing but a right one is called right."""
    monkeypatch.setattr(exercises, "score_head", lambda pipe, task, head, timesteps, samples: {100: samples})
    given, right = contexts()[name]
    check = getattr(exercises, name)
    ask = (lambda answer: check(*answer, *given)) if name == "leg_drag" else (lambda answer: check(answer, *given))
    assert ask(right).startswith("Right"), ask(right)
    wrong = {what: (answer, answer) if name == "leg_drag" else answer for what, answer in WRONG.items()}
    for what, answer in wrong.items():
        said = ask(answer)
        assert isinstance(said, str) and said.startswith("Not yet: ") and len(said) > 20, (what, said)
