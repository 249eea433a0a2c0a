"""The course on a machine with a GPU: on a real one, or where a CPU plays it (`virtual_device`).

Notebooks run in miniature, with the other parameters of test_notebooks.py; solutions as they are.
"""
import pytest
import torch

from run_notebook import run
from test_notebooks import COURSE, OTHER, SOLUTIONS

ON_DEVICE = {"A1_train_the_base_model": {"device": "cuda"}}       # the only one that has to be told
NO_MODEL = {"00_start_here", "11_larger_models", "A1_train_the_base_model", "A2_how_the_numbers_are_measured"}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", COURSE)
def test_a_notebook_runs_on_the_device(name, tmp_path):
    extra = {"run": str(tmp_path / "run")} if name.startswith("A1") else {}
    run(COURSE[name], OTHER[name] | ON_DEVICE.get(name, {}) | extra, plain=torch.cuda.is_available())


@pytest.mark.parametrize("name", [name for name in SOLUTIONS if name not in NO_MODEL])
def test_a_solution_is_right_on_the_device(name):
    ran = run(SOLUTIONS[name], {}, plain=torch.cuda.is_available())
    printed = "".join(output.get("text", "") for cell in ran.cells for output in cell.get("outputs", []))
    assert "Right" in printed and "Not " not in printed, printed
