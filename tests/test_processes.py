"""Two real processes against one: the same losses and weights, and one that writes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
WORK = """
import json, os, sys
import torch
from rg_minimal import saving, processes
from tiny import tiny_pipe, make_head
out, batch, stop, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
pipe = tiny_pipe()
torch.manual_seed(1)
head = make_head(pipe)
def batches(step):
    rng = torch.Generator().manual_seed(step)
    target = torch.rand(batch, head.config.out_channels, 8, 8, generator=rng)
    return torch.rand(batch, 3, 64, 64, generator=rng), target, (target > 0.3 + 0.5 * torch.arange(batch).view(-1, 1, 1, 1) / batch).float()
def loss(readout, target, mask):                # a mean over what a mask shows: not the mean of the processes' own means
    target, mask = (torch.nn.functional.interpolate(each, readout.shape[-2:]) for each in (target, mask))
    return ((readout - target) ** 2 * mask).sum() / mask.sum()
saved = saving.save_checkpoint
def save(path, *rest):
    with open(out + "/writers", "a") as file:
        file.write(os.environ.get("RANK", "0") + "\\n")
    saved(path, *rest)
saving.save_checkpoint = save
losses = []
assert os.environ.get("WORLD_SIZE", "1") == "1" or processes.several()
for state in saving.train_head(head, pipe, batches, 4, loss, checkpoint=f"{out}/{name}.safetensors", checkpoint_every=2):
    losses.append(state.loss)
    if state.step == stop:
        os._exit(0)
if processes.is_main():
    open(f"{out}/{name}.json", "w").write(json.dumps(losses))
"""


def train(folder, name, count, batch=4, stop=0):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    (folder / "work.py").write_text(WORK)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if count == 2 else []
    return subprocess.run([sys.executable, *launch, str(folder / "work.py"), str(folder), str(batch), str(stop), name], env=environment,
                          capture_output=True, text=True, timeout=120)


def test_two_processes_train_as_one_and_go_on_after_a_stop_and_one_writes(tmp_path):
    for name, count, stop in (("one", 1, 0), ("two", 2, 3), ("two", 2, 0)):
        run = train(tmp_path, name, count, stop=stop)
        assert run.returncode == 0, run.stderr[-2000:]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert len(two) == 2, "the second run begins at the checkpoint of step 2"
    assert two == pytest.approx(one[2:], rel=1e-4)
    weights = [load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    for name in (name for name in weights[0] if name.startswith("head.")):
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5)
    assert set((tmp_path / "writers").read_text().split()) == {"0"}


def test_a_batch_that_cannot_be_shared_is_refused_in_words(tmp_path):
    run = train(tmp_path, "two", 2, batch=3)
    assert run.returncode and "a batch of 3 cannot be shared by 2 processes: make it a multiple of 2" in run.stderr
