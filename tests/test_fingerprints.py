"""What was right stays bit for bit: every edit, an inversion, a trained miniature, as recorded before the core was redesigned."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fingerprints

HERE = Path(__file__).parent
MADE = """
import sys, torch
sys.path[:0] = {paths}
torch.set_num_threads(1)
import fingerprints
from safetensors.torch import save_file
save_file(fingerprints.fingerprints(), {path!r})
print(fingerprints.machine())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """In a process of its own with one thread: the number of threads decides the last bits."""
    path = tmp_path_factory.mktemp("fingerprints") / "made.safetensors"
    code = MADE.format(paths=[str(HERE), str(HERE.parent)], path=str(path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parent)
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(path), run.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", sorted(fingerprints.load()[0]))
def test_fingerprint(made, name):
    """On the kind of machine that recorded them the same bits; elsewhere up to rounding, which the steps of guidance amplify."""
    (recorded, about), (found, machine) = fingerprints.load(), made
    if machine == about["machine"]:
        assert torch.equal(found[name], recorded[name])
    error = (found[name] - recorded[name]).norm() / recorded[name].norm()
    assert error < 0.05, f"relative error {float(error):.2g}"
