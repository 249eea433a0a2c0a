"""Run a notebook where a CPU plays a CUDA device, with other parameters as by papermill.

    python tests/run_notebook.py notebooks/06_sketches.ipynb -p steps 4 -p timesteps "[200]"

The notebook runs in a kernel of its own and in its own folder; its first cell, put before the others, installs
`virtual_device`, its last one asks whether anything was on the device at all. An error is printed with the cell that it comes
from, and the exit status is 1. `--plain` runs without the device, to see whether an error is the device's.
"""
import argparse
import ast
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill

TESTS = Path(__file__).resolve().parent
FIRST = f"""import sys
sys.path.append({str(TESTS)!r})
import virtual_device
virtual_device.install()"""
LAST = """assert virtual_device.tensors_there, "nothing was on the device\""""


def run(path, parameters: dict, out=None, plain: bool = False):
    """Execute the notebook and return it; `plain` without the virtual device, `out` keeps it in a file.

    Raises papermill's PapermillExecutionError at the first cell that fails.
    """
    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    if not plain:
        first, last = (nbformat.v4.new_code_cell(source) for source in (FIRST, LAST))
        notebook.cells = [first, *notebook.cells, last]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        nbformat.write(notebook, copy)
        return papermill.execute_notebook(copy, out or Path(folder) / "out.ipynb", parameters, kernel_name="python3",
                                          cwd=path.resolve().parent, progress_bar=False)


def value(text: str):
    """A parameter as Python would read it, or the text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    parser.add_argument("--out", type=Path, help="keep the executed notebook here")
    parser.add_argument("--plain", action="store_true", help="without the device")
    asked = parser.parse_args()
    try:
        run(asked.notebook, {name: value(text) for name, text in asked.parameters}, asked.out, asked.plain)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.source}\n\n{error}")
    print(f"{asked.notebook.name} runs {'without' if asked.plain else 'on'} the device")


if __name__ == "__main__":
    main()
