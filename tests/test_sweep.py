"""Sweeps: a killed worker loses nothing, a killed sweep goes on where it was, nothing is run twice, wrong grids are refused in words."""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from rg_minimal import sweep

pytest.importorskip("distributed", reason="pip install -e .[sweep]")
ROOT = Path(__file__).resolve().parent.parent
CODE = """import os, time
from pathlib import Path
from IPython.display import display
if n == broken:
    raise ValueError("three is <b>too many</b>")
time.sleep(seconds)
with open(ledger, "a") as file:
    file.write(f"{n}\\n")
display({"application/json": {"square": n * n}}, raw=True)"""


@pytest.fixture
def tiny(tmp_path):
    """A notebook that writes its number into a ledger when it ends."""
    first = nbformat.v4.new_code_cell(f"n = 0\nbroken = -1\nseconds = 0.5\nledger = {str(tmp_path / 'ledger')!r}", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(CODE)],
                                        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    path = tmp_path / "tiny.ipynb"
    nbformat.write(notebook, path)
    return path


def start(notebook, *grid):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "rg_minimal.sweep", str(notebook), "--grid", *grid, "--output", str(notebook.parent / "out")],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def records(notebook):
    return [json.loads(path.read_text()) for path in (notebook.parent / "out" / "done").glob("*.json")]


def wait_for_some(notebook, count=2):
    for _ in range(1800):
        if len(records(notebook)) >= count:
            return records(notebook)
        time.sleep(0.05)
    raise AssertionError("nothing ended in 90 s")


def ledger(notebook):
    return (notebook.parent / "ledger").read_text().split()


def test_a_killed_worker_loses_nothing_and_what_had_ended_is_not_run_again(tiny):
    run = start(tiny, "n=0:6")
    first = wait_for_some(tiny)
    os.kill(int(first[0]["worker"].rpartition(":")[2]), signal.SIGKILL)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    rows = list(csv.DictReader((tiny.parent / "out" / "table.csv").open()))
    assert [(row["n"], row["status"], row["result.square"]) for row in rows] == [(str(n), "done", str(n * n)) for n in range(6)]
    assert set(ledger(tiny)) == set("012345")
    assert all(ledger(tiny).count(str(each["parameters"]["n"])) == 1 for each in first)


def test_a_killed_sweep_goes_on_and_runs_nothing_twice_that_had_ended(tiny):
    run = start(tiny, "n=0:5")
    wait_for_some(tiny)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    before = {each["parameters"]["n"] for each in records(tiny)}
    time.sleep(1)
    again = start(tiny, "n=0:6")                                            # and the grid has grown
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and f"{len(before)} of 6 runs are done" in said, said
    assert all(ledger(tiny).count(str(n)) == 1 for n in before) and set(ledger(tiny)) == set("012345")


def test_a_notebook_that_raises_is_recorded_and_the_rest_goes_on(tiny):
    run = start(tiny, "n=2,3", "broken=3", "seconds=0")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and "ValueError: three is <b>too many</b>" in said
    assert ledger(tiny) == ["2"]
    assert "three is &lt;b&gt;too many" in (tiny.parent / "out" / "pictures.html").read_text()


def test_grids():
    assert sweep.read_grid(["a=0.1,1e-1x,true", "b=0:8:4", "c=[1, 2],[3, 4]", "d=tcp:x"]) == {
        "a": [0.1, "1e-1x", True], "b": [0, 4], "c": [[1, 2], [3, 4]], "d": ["tcp:x"]}
    assert sweep.points({"a": [1, 2], "b": [3, 4]})[1] == {"a": 1, "b": 4}
