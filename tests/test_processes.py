"""Two real processes against one: the same losses and weights, and one that writes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rg_minimal
from tiny import tiny_pipe

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(rg_minimal.__file__).resolve().parent.parent         # not always ROOT: tests/faults.py tests a copy
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
def save(path, *rest, **told):
    with open(out + "/writers", "a") as file:
        file.write(os.environ.get("RANK", "0") + "\\n")
    saved(path, *rest, **told)
saving.save_checkpoint = save
losses = []
assert os.environ.get("WORLD_SIZE", "1") == "1" or processes.several()
for state in saving.train_head(head, pipe, batches, 4, loss, checkpoint=f"{out}/{name}.safetensors", checkpoint_every=2):
    losses.append(state.loss)
    if state.step == stop:
        os.kill(os.getpid(), 9)
from rg_minimal.puppets import heads
heads.FEW, held_out = 2, heads.collect_held_out
heads.collect_held_out = lambda pipe, task: held_out(pipe, task, 2)
blocks = lambda name: (f"{name}coderBlock2D",) * 3
deep = dict(block_out_channels=(8, 8, 16), down_block_types=blocks("DownEn"), up_block_types=blocks("UpDe"))     # latents of 32 x 32
heads.TIMESTEPS = (100, 500, 750)
made = heads.make_head("depth", f"{out}/{name}", tiny_pipe(vae=deep), f"{out}/work-{name}", lambda line: None, count=2, steps=2, batch=2)
from rg_minimal import train
train.main(["--kind", "map", "--pictures", f"{out}/pictures", "--labels", f"{out}/maps", "--model", f"{out}/model", "--output", f"{out}/labels-{name}",
            "--steps", "2", "--batch", "4", "--held-out", "0.5"])
refused = ""
try:
    heads.make_head("depth", f"{out}/none", None, out, batch=3)
except ValueError as error:
    refused = str(error)
open(f"{out}/{name}-{os.environ.get('RANK', 0)}.json", "w").write(json.dumps([losses, made["scores"], refused]))
"""


@pytest.fixture
def folder(tmp_path):
    """A tiny model, and labelled pictures: a map for each of eight."""
    tiny_pipe().save_pretrained(tmp_path / "model")
    rng = numpy.random.default_rng(0)
    for place, shape in (("pictures", (32, 32, 3)), ("maps", (32, 32))):
        (tmp_path / place).mkdir()
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, shape, dtype=numpy.uint8)).save(tmp_path / place / f"{number}.png")
    return tmp_path


def train(folder, name, count, batch=4, stop=0):
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    (folder / "work.py").write_text(WORK)
    launch = {1: [], 2: ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]}[count]
    return subprocess.run([sys.executable, *launch, str(folder / "work.py"), str(folder), str(batch), str(stop), name], env=environment,
                          capture_output=True, text=True, timeout=120)


def test_two_processes_train_and_score_as_one_go_on_after_a_kill_and_one_writes(folder):
    tmp_path, said = folder, {}
    for name, count, stop in (("one", 1, 0), ("two", 2, 3), ("two", 2, 0)):
        run = train(tmp_path, name, count, stop=stop)
        assert (run.returncode == 0) is not bool(stop), run.stderr[-2000:]
        said[name] = run.stdout
    (one, scores, began), (two, shared, refused), (_, second, _) = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1"))
    assert len(two) == 2, "the second run begins at the checkpoint of step 2"
    assert two == pytest.approx(one[2:], rel=1e-4)
    weights = [load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    for name in (name for name in weights[0] if name.startswith("head.")):
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5)
    assert set((tmp_path / "writers").read_text().split()) == {"0"}
    assert list(shared) == list(scores) and shared == second
    for name in scores:
        assert list(shared[name]) == ["100", "500", "750"] and shared[name] == pytest.approx(scores[name], abs=1e-3)
    assert (tmp_path / "two" / "README.md").is_file() and not list((tmp_path / "work-two").iterdir())
    from_files = [load_file(tmp_path / f"labels-{name}" / "head.safetensors") for name in ("one", "two")]
    for name in from_files[0]:
        torch.testing.assert_close(from_files[0][name], from_files[1][name], rtol=1e-3, atol=1e-4)
    assert [text.count("head and card are in") for text in said.values()] == [1, 1]
    assert "a batch of 3 cannot be shared by 2 processes: make it a multiple of 2" in refused and "shared" not in began
