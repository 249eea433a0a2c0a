"""What the Containerfile says, done without a container: `make container-check`, by hand, since it downloads PyTorch.

    python tests/container.py [--torch-from INDEX]

Takes the files that a build would copy, makes a fresh virtual environment, runs the Containerfile's pip lines there in their
order, and then notebook 0 by papermill with the Containerfile's settings. Needs nothing but Python itself; the lines for
root (apt-get, useradd, chown) are left out, tests/test_teaching.py reads them.
"""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of every instruction of a Containerfile."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in lines]


def pip_lines(text: str) -> list[list[str]]:
    """The arguments after `python -m pip` of every RUN that installs."""
    return [shlex.split(rest)[3:] for word, rest in instructions(text) if word == "RUN" and rest.startswith("python -m pip ")]


def packages(text: str) -> set[str]:
    """What apt-get installs."""
    lines = [shlex.split(each) for word, rest in instructions(text) if word == "RUN" for each in rest.split("&&")]
    return {each for line in lines if line[:2] == ["apt-get", "install"] for each in line[2:] if not each.startswith("-")}


def settings(text: str) -> dict[str, str]:
    return dict(each.split("=", 1) for word, rest in instructions(text) if word == "ENV" for each in shlex.split(rest))


def copied() -> list[str]:
    """The files that a build copies: those of git, which .dockerignore does not name."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True,
                           text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Do what the Containerfile says in a fresh environment.")
    parser.add_argument("--torch-from", default=None, help="another index for PyTorch than the Containerfile's")
    options = parser.parse_args(arguments)
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="container-") as folder:
        course, env = Path(folder) / "course", Path(folder) / "env"
        for name in copied():
            (course / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, course / name)
        subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
        python, others = str(env / "bin" / "python"), ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "HF_HUB_OFFLINE")
        environment = {name: value for name, value in os.environ.items() if name not in others} | settings(text)
        for line in pip_lines(text):
            if options.torch_from and "--index-url" in line:
                line[line.index("--index-url") + 1] = options.torch_from
            print("pip", *line, flush=True)
            subprocess.run([python, "-m", "pip", *line], cwd=course, env=environment, check=True)
        cuda = subprocess.run([python, "-c", "import torch; print(torch.__version__, torch.version.cuda)"], cwd=course, env=environment,
                              capture_output=True, text=True, check=True).stdout.split()
        if cuda[1] != "None":
            sys.exit(f"torch {cuda[0]} came with CUDA {cuda[1]}: gigabytes that nobody in this container can use")
        subprocess.run([python, "-m", "jupyterlab", "--version"], cwd=course, env=environment, check=True)
        subprocess.run([python, "-m", "papermill", "notebooks/00_start_here.ipynb", "out.ipynb", "--cwd", "notebooks", "--kernel", "python3",
                        "--no-log-output", "--no-progress-bar", "-r", "picture", str(course / "picture.png")], cwd=course,
                       env=environment, check=True)
        if not (course / "picture.png").is_file():
            sys.exit("notebook 0 ran, but wrote no picture")
        size = sum(path.stat().st_size for path in env.rglob("*") if path.is_file() and not path.is_symlink()) / 1e9
    print(f"The Containerfile's environment runs notebook 0: torch {cuda[0]}, {size:.1f} GB installed.")


if __name__ == "__main__":
    main()
