"""Sweeps: a killed worker loses nothing, a killed sweep goes on where it was, nothing is run twice, wrong grids are refused in words."""
import base64
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from rg_minimal import sweep

CODE = """import os, time
from pathlib import Path
from IPython.display import display
if n == broken:
    raise ValueError("three is <b>too many</b>")
time.sleep(seconds)
with open(ledger, "a") as file:
    file.write(f"{n}\\n")
memory = os.environ.get("MALLOC_TRIM_THRESHOLD_", "kept")
display({"application/json": {"square": n * n, "memory": memory}}, raw=True)"""


@pytest.fixture
def tiny(tmp_path):
    """A notebook that writes its number into a ledger when it ends."""
    first = nbformat.v4.new_code_cell(f"n = 0\nbroken = -1\nseconds = 0.3\nledger = {str(tmp_path / 'ledger')!r}", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(CODE)],
                                        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    path = tmp_path / "tiny.ipynb"
    nbformat.write(notebook, path)
    return path


def start(notebook, *grid):
    environment = os.environ | {"PYTHONPATH": str(Path(sweep.__file__).resolve().parent.parent)}
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


def swept(notebook, *grid, **settings):
    """A sweep in this process, and what it reported."""
    said = []
    return sweep.sweep(str(notebook), sweep.read_grid(grid), notebook.parent / "out", report=said.append, **settings), said


def table(notebook):
    return list(csv.DictReader((notebook.parent / "out" / "table.csv").open()))


def test_a_killed_worker_loses_nothing_and_a_notebook_that_raises_stops_no_other(tiny):
    with ThreadPoolExecutor() as pool:
        run = pool.submit(swept, tiny, "n=0:6", "broken=4")
        first = wait_for_some(tiny)
        os.kill(int(first[0]["worker"].rpartition(":")[2]), signal.SIGKILL)
        told, _ = run.result(120)
    assert [each["status"] for each in told] == ["done"] * 4 + ["failed", "done"]
    assert [(row["n"], row["result.square"]) for row in table(tiny) if row["status"] == "done"] == [(str(n), str(n * n)) for n in (0, 1, 2, 3, 5)]
    assert table(tiny)[4]["error"] == "ValueError: three is <b>too many</b>" and len({each["worker"] for each in told}) > 2
    assert "three is &lt;b&gt;too many" in (tiny.parent / "out" / "pictures.html").read_text()
    assert set(ledger(tiny)) == set("01235")
    assert all(ledger(tiny).count(str(each["parameters"]["n"])) == 1 for each in first if each["status"] == "done")


def test_a_killed_sweep_goes_on_and_runs_nothing_twice_that_had_ended(tiny):
    run = start(tiny, "n=0:5")
    wait_for_some(tiny)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    before = {each["parameters"]["n"] for each in records(tiny)}
    told, said = swept(tiny, "n=0:6")                                       # and the grid has grown
    assert said[0] == f"{len(before)} of 6 runs are done, {6 - len(before)} to do" and len(before) < 5
    assert all(ledger(tiny).count(str(n)) == 1 for n in before) and set(ledger(tiny)) == set("012345")
    assert [each["results"] for each in told] == [{"square": n * n, "memory": "kept"} for n in range(6)], "nothing of Dask's slows it"
    with pytest.raises(ValueError, match="holds a sweep of another grid"):
        swept(tiny, "n=0:4")


def test_grids():
    assert sweep.read_grid(["a=0.1,1e-1x,true", "b=0:8:4", "c=[1, 2],[3, 4]", "d=tcp:x"]) == {
        "a": [0.1, "1e-1x", True], "b": [0, 4], "c": [[1, 2], [3, 4]], "d": ["tcp:x"]}
    assert sweep.read_grid(["lr=1e-3,5e-4,2"]) == {"lr": [1e-3, 5e-4, 2]}, "as papermill reads them"
    assert sweep.points({"a": [1, 2], "b": [3, 4]})[1] == {"a": 1, "b": 4}
    with pytest.raises(ValueError, match="the grid names seconds, and so does table.csv"):
        sweep.check_grid({"seconds": [1, 2]})


def test_the_page_shows_what_differs_between_runs(tmp_path):
    def png(value):
        written = io.BytesIO()
        Image.new("RGB", (500, 400), (value, 0, 0)).save(written, "PNG")
        return base64.b64encode(written.getvalue()).decode()
    records = [{"parameters": {"n": n}, "status": status, "error": "", "results": {}} for n, status in ((1, "done"), (2, "done"), (3, "failed"))]
    for each in records[:2]:
        pictures = [10, *(each["parameters"]["n"] * 40 + more for more in range(4)), 20]        # the first and the last are the same
        cells = [nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", {"image/png": png(value)})]) for value in pictures]
        path = tmp_path / "notebooks" / f"{sweep.key(each['parameters'])}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    figures = sweep.page("a.ipynb", tmp_path, records).split("<figure>")[1:]
    shown = [[Image.open(io.BytesIO(base64.b64decode(told))) for told in re.findall("base64,([^\"]+)", each)] for each in figures]
    assert [len(each) for each in shown] == [sweep.SHOWN, sweep.SHOWN, 0] and all(max(each.size) == sweep.WIDE for each in shown[0])
    for n, pictures in ((1, shown[0]), (2, shown[1])):
        assert [each.getpixel((9, 9))[0] for each in pictures] == pytest.approx([n * 40 + more for more in (1, 2, 3)], abs=3)
    alone = sweep.page("a.ipynb", tmp_path, records[:1])
    assert alone.count("<img") == sweep.SHOWN, "of one run, the last"


@pytest.mark.parametrize("values", [[], 3, "ab", [float("nan")], [object()], {"x": 1}])
def test_a_grid_from_python_is_of_lists(values, tiny, tmp_path):
    with pytest.raises(ValueError, match="the grid says n: .*pass {name: .value, ....}"):
        sweep.sweep(str(tiny), {"n": values}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_without_a_kernel_is_told_so(tiny, tmp_path):
    told = nbformat.read(tiny, as_version=4)
    del told.metadata["kernelspec"]
    nbformat.write(told, tmp_path / "bare.ipynb")
    with pytest.raises(ValueError, match="does not say which kernel runs it: open it in Jupyter, choose one, and save it"):
        sweep.check_target(str(tmp_path / "bare.ipynb"), {"n": [1]})


BAD = [["none.ipynb", "--grid", "n=1"], ["README.md", "--grid", "n=1"], ["measure:nothing", "--grid", "n=1"], ["measure:pose", "--grid", "seed=1"],
       ["measure:pose"], ["--grid", "n=1"], ["{tiny}", "--grid", "m=1"], ["{tiny}", "--grid", "n"], ["{tiny}", "--grid", "n=0:0"],
       ["{tiny}", "--grid", "n=1,1"], ["{tiny}", "--grid", "n=1", "n=2"], ["{tiny}", "--grid", "n=.nan"], ["{tiny}", "--grid", "n=0:20000"],
       ["{tiny}", "--grid", "n=1", "--workers", "0"], ["{tiny}", "--grid", "n=1", "--workers", "two"], ["{tiny}", "--grid", "n=1", "--retries", "-1"],
       ["{tiny}", "--grid", "n=1", "--scheduler", "here"], ["{tiny}", "--grid", "n=1", "--output", "{tiny}"],
       ["{tiny}", "--grid", "n=1", "--output", "{full}"], ["{tiny}", "--grid", "n=1", "--output", ""]]


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_what_cannot_be_swept_is_refused_in_a_sentence_before_anything_is_written(arguments, tiny, tmp_path, monkeypatch, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# no notebook")
    with pytest.raises(SystemExit) as stopped:
        sweep.main([each.format(tiny=tiny, full=full) for each in arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "python -m rg_minimal.sweep: error: " in said and "Traceback" not in said
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "README.md"}) == before


def test_a_sweep_has_a_worker_and_a_grid_that_fits(tmp_path):
    with pytest.raises(ValueError, match="workers is 0"):
        sweep.sweep("measure:pose", {"count": [1]}, tmp_path / "out", workers=0)
    with pytest.raises(ValueError, match="has more than 10000 values"):
        sweep.read_grid(["a=0:99999999999999999999"])
