"""What a running notebook needs, in time and in memory: `python -m rg_minimal.classroom.needs`.

Runs each notebook of the course once, one after the other, with papermill in a process of its own, and writes how long that took
from its start to its end, the largest memory that the kernel held at a time (its resident set, as the system counts it), that of
a JupyterLab server with nothing open, and how many people fit into 16 GB by these to data/results/notebooks.json. Of a part of
the notebooks, which are named, it prints the same, and writes it to another file (`--out`). Then it runs all of them once more, as
many at a time as there are cores, each with one thread, and tells how long that takes. On Linux, with nothing beside it.
"""
from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import nbformat

from ..checks import FileName, declared, one_sentence, stoppable
from ..files import refuse_file, write_json
from ..pipelines import find_folder
from . import course

GB, MB = 10**9, 10**6
MACHINE, SYSTEM = 16 * GB, 1 * GB               # bytes of the machine, and what its system and the hub keep for themselves
ASK = "print(open('/proc/self/status').read())"


def held(status: str) -> tuple[float, float]:
    """(the most, now): the resident memory in bytes in a text like /proc/self/status. ValueError where it says nothing."""
    found = dict(re.findall(r"^(VmHWM|VmRSS):\s*(\d+) kB", status, re.M))
    if len(found) < 2:
        raise ValueError("this system does not say how much memory a process held: measure on Linux")
    return 1024.0 * int(found["VmHWM"]), 1024.0 * int(found["VmRSS"])


def run_notebook(path: Path, threads: int | None = None) -> dict[str, float]:
    """Run a notebook: seconds of the whole process, and megabytes that its kernel held at most, and in the end. `threads`: as many
    as the environment says by default. RuntimeError with what it says last where the notebook does not run to its end."""
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    notebook = copy.deepcopy(course.read(path))
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.ipynb", Path(folder) / "out.ipynb"
        nbformat.write(notebook, source)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "papermill", str(source), str(out), "--kernel", "python3", "--cwd", str(path.parent),
                               "--no-progress-bar"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"{path.name} did not run to its end: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
        outputs = nbformat.read(out, as_version=4).cells[-1].outputs
    most, end = held("".join(output.text for output in outputs if output.output_type == "stream"))
    return {"seconds": round(seconds, 1), "peak_mb": round(most / MB), "end_mb": round(end / MB)}


def side_by_side(paths, at_a_time: int) -> float:
    """Seconds that notebooks take together, so many at a time with one thread each; `paths` in the order in which they begin."""
    start = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as several:              # each waits for a process of its own
        for _ in several.map(lambda path: run_notebook(path, threads=1), paths):
            pass
    return round(time.monotonic() - start, 1)


def server_memory(patience: float = 60) -> float:
    """Megabytes that a JupyterLab server with nothing open held at most."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"JUPYTER_RUNTIME_DIR": folder, "JUPYTER_CONFIG_DIR": folder, "JUPYTER_DATA_DIR": folder}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=",
                   "--allow-root", f"--notebook-dir={folder}"]
        server = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + patience
            while time.monotonic() < end:
                time.sleep(0.5)
                for said in Path(folder).glob("jpserver-*.json"):
                    try:
                        urllib.request.urlopen(json.loads(said.read_text())["url"] + "lab", timeout=10).read()
                        return round(held(Path(f"/proc/{server.pid}/status").read_text())[0] / MB)
                    except (OSError, ValueError):
                        continue                # not yet listening
        finally:
            server.terminate()
            server.wait()
    raise ValueError(f"no JupyterLab answered within {patience:g} s")


def processor() -> str:
    """The processor's name, as Linux tells it."""
    told = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return " ".join(told[1].split()) if told else platform.machine()


def people(peak_mb: float, server_mb: float) -> int:
    """How many people fit into the machine, each with a server and one notebook at its peak."""
    return int((MACHINE - SYSTEM) // ((peak_mb + server_mb) * MB))


@declared
def measure(names, out: FileName = "", report=None) -> dict:
    """Measure some notebooks of the course by name; `report(name, figures)` is called after each, if given. Written to `out`."""
    known = course.notebooks()
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ValueError(f"{', '.join(map(str, wrong)) or 'nothing'} is no notebook of the course; choose from {', '.join(known)}")
    found = {}
    for name in names:
        found[name] = run_notebook(known[name])
        if report:
            report(name, found[name])
    cores = len(os.sched_getaffinity(0))
    together = side_by_side([known[name] for name in sorted(found, key=lambda name: -found[name]["seconds"])], cores)    # the longest first
    server = server_memory()
    largest = max(each["peak_mb"] for each in found.values())
    result = {"date": f"{date.today()}", "processor": processor(), "cores": cores, "threads": os.environ.get("OMP_NUM_THREADS", "all"),
              "notebooks": found, "seconds": round(sum(each["seconds"] for each in found.values()), 1),
              "side_by_side": {"at_a_time": cores, "threads": 1, "seconds": together}, "server_mb": server, "largest_peak_mb": largest, "machine_gb": MACHINE / GB, "kept_for_the_system_gb": SYSTEM / GB,
              "people": {name: people(each["peak_mb"], server) for name, each in found.items()}, "people_at_the_largest": people(largest, server),
              "gb_for_thirty": round((30 * (largest + server) * MB + SYSTEM) / GB, 1)}
    if out:
        write_json(out, result)
    return result


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Measure the time and the memory of running notebooks.")
    parser.add_argument("notebooks", nargs="*", help="names, such as 05_guided_sampling; all by default")
    parser.add_argument("-o", "--out", default=None, help="the file to write; of all notebooks data/results/notebooks.json, of some of them none by default")
    options = parser.parse_args(arguments)
    with one_sentence(parser):
        out = options.out or ("" if options.notebooks else str(Path(find_folder("data/results")) / "notebooks.json"))
        if out:
            refuse_file(Path(out).parent)
        result = measure(options.notebooks or list(course.notebooks()), out, lambda name, figures: print(f"{name}: {figures}", flush=True))
    beside = result["side_by_side"]
    print(f"one after the other: {result['seconds']:.0f} s; {beside['at_a_time']} at a time: {beside['seconds']:.0f} s; server: {result['server_mb']} MB; people in {result['machine_gb']:g} GB: "
          f"{result['people_at_the_largest']}" + (f"\nwritten to {out}" if out else ""))


if __name__ == "__main__":
    main()
