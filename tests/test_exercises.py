"""The self-checks of the exercises: each knows the right answer, None, and the mistakes that are likely."""
import pytest
import torch

from rg_minimal import exercises


def test_every_check_answers_none_with_not_done_yet():
    """A fresh notebook passes None; what else a check is given must not be looked at before that."""
    checks = [check for name, check in vars(exercises).items()
              if callable(check) and getattr(check, "__module__", "") == exercises.__name__ and not name.startswith("_")]
    for check in checks:
        needed = check.__code__.co_argcount - len(check.__defaults__ or ())
        answer = check(*[None] * needed)
        assert isinstance(answer, str) and answer.startswith("Not done yet: "), (check.__name__, answer)


# ---------------------------------------------------------------------------------------------- 1  diffusion


# ---------------------------------------------------------------------------------------------- 2  features


# ---------------------------------------------------------------------------------------------- 3  aggregation


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
    assert "a list" in exercises.depth_ramp([0.0])


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


# ---------------------------------------------------------------------------------------------- 11  larger models


# ---------------------------------------------------------------------------------------------- A2  measuring
