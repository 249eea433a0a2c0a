"""The solutions on a machine with a GPU: on a real one, or where a CPU plays it (`virtual_device`). `make device` runs them.

The notebooks themselves run there in test_notebooks.py, with other parameters.
"""
import pytest
import torch

from run_notebook import run
from test_notebooks import SOLUTIONS

NO_MODEL = {"00_start_here", "11_larger_models", "A1_train_the_base_model", "A2_how_the_numbers_are_measured", "A3_cost", "A4_evidence"}


@pytest.mark.parametrize("name", [name for name in SOLUTIONS if name not in NO_MODEL])
def test_a_solution_is_right_on_the_device(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = run(SOLUTIONS[name], {}, plain=torch.cuda.is_available())
    printed = "".join(output.get("text", "") for cell in ran.cells for output in cell.get("outputs", []))
    assert "Right" in printed and "Not " not in printed, printed
