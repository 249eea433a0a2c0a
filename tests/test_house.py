"""The house itself: one list of dependencies, links that lead somewhere, files of decent size, notebooks as committed."""
import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
MB = 10**6


# ---------------------------------------------------------------------------------------------------- what is looked at

def tracked_files():
    """Every file that is, or is about to be, in git; in a folder without git, every file outside dot folders and out/."""
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0 and listing.stdout:
        names = listing.stdout.split("\0")
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [name for name in names if not re.search(r"(^|/)(\.(?!ci/)\w|out/|__pycache__/)", name)]
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


FILES = tracked_files()
NOTEBOOKS = [path for path in FILES if path.suffix == ".ipynb" and path.is_relative_to(ROOT / "notebooks")]
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(line) for line in
                PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), []) if not line.startswith(PROJECT["name"] + "[")]
DECLARED = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def short(path):
    return str(path.relative_to(ROOT))


def read_notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def joined(text):
    """Notebook files keep text as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and joined(cell["source"]).strip()]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def python_sources():
    """(where, source) of every Python file and every notebook's code, magics left out."""
    for path in PYTHON_FILES:
        yield path, path.read_text(encoding="utf-8")
    yield from ((path, notebook_source(path)) for path in NOTEBOOKS)


def notebook_source(path):
    """The code of a notebook's cells, magics left out."""
    lines = "\n".join(joined(cell["source"]) for cell in code_cells(read_notebook(path))).splitlines()
    return "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines)


def imported_modules(source):
    """Top-level names of all absolute imports, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def visible_text(path):
    """The text of a file, None for a binary one; of a notebook everything but pictures, whose base64 may spell anything."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    if path.suffix != ".ipynb":
        return text
    notebook = json.loads(text)
    for output in outputs(notebook):
        output["data"] = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return json.dumps(notebook)


# -------------------------------------------------------------------------------------------------------- dependencies

# Installed for what they do, not for an import of ours: by a command of the Makefile, or as an extra of another package.
COMMANDS = {"jupyterlab": "-m jupyterlab", "papermill": "-m papermill", "nbval": "--nbval-lax ", "pytest-xdist": "-n $(JOBS)",
            "sphinx": "-m sphinx"}
BROWSER = {Requirement(line).name for line in PROJECT["optional-dependencies"]["browser"]}      # may be missing
BOOK = {Requirement(line).name for line in PROJECT["optional-dependencies"]["book"]}            # the same
EXTRAS = {"bokeh": "dask", "accelerate": "diffusers", "ipywidgets": "tqdm"}


def distributions_imported():
    """Canonical distribution name -> one file that imports it, for everything that is neither ours nor Python's."""
    own = {path.stem for path in PYTHON_FILES} | {path.parent.name for path in PYTHON_FILES}
    known = importlib.metadata.packages_distributions()
    found = {}
    for path, source in python_sources():
        for module in imported_modules(source):
            if module not in sys.stdlib_module_names and module not in own:
                found.setdefault(canonicalize_name(known.get(module, [module])[0]), short(path))
    return found


def test_every_import_is_declared():
    undeclared = {name: where for name, where in distributions_imported().items() if name not in DECLARED}
    assert not undeclared, f"imported but not in pyproject.toml: {undeclared}"


def test_every_dependency_is_used():
    unused = DECLARED - set(distributions_imported())
    unused -= {name for name, command in COMMANDS.items() if command in MAKEFILE}
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "browser").glob("*.py"))
    unused -= {name for name in BROWSER if re.search(rf'"{name}[".]', tests)}
    settings = (ROOT / "book" / "conf.py").read_text(encoding="utf-8")
    unused -= {name for name in BOOK if f'"{name.replace("-", "_")}"' in settings}
    for name, package in EXTRAS.items():
        wanted = [Requirement(line).name for line in importlib.metadata.requires(package)]
        unused -= {name} & {canonicalize_name(want) for want in wanted}
    assert not unused, f"in pyproject.toml but used nowhere: {sorted(unused)}"


def test_every_dependency_is_named_once_with_bounds_that_hold_here():
    assert len(DECLARED) == len(REQUIREMENTS), "a dependency is named twice in pyproject.toml"
    for requirement in REQUIREMENTS:
        operators = {bound.operator for bound in requirement.specifier}
        assert ">=" in operators, f"{requirement} has no lower bound"
        assert "<" in operators or requirement.name in ("packaging", "furo", "dask", "distributed"), f"{requirement} has no upper bound"
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            assert requirement.name in BROWSER | BOOK, f"{requirement.name} is not installed"
            continue
        assert requirement.specifier.contains(installed, prereleases=True), f"{requirement}, but {installed} is installed"


def test_makefile_installs_a_torch_within_the_bounds():
    pinned = re.search(r"^TORCH\s*\?=\s*torch==(\S+)$", MAKEFILE, re.M).group(1)
    bounds = next(requirement.specifier for requirement in REQUIREMENTS if requirement.name == "torch")
    assert bounds.contains(pinned), f"the Makefile installs torch {pinned}, pyproject.toml wants {bounds}"


def test_environment_yml_names_only_python_and_installs_from_pyproject():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").split("dependencies:")[1].splitlines()
    entries = [line.strip()[2:] for line in lines if line.strip().startswith("- ")]
    python = next(entry for entry in entries if entry.startswith("python="))
    assert sorted(set(entries) - {python}) == sorted(["pip", "pip:", "-e .[test]"])
    wanted = Requirement("python" + PROJECT["requires-python"]).specifier
    assert wanted.contains(python.removeprefix("python=")), f"environment.yml has {python}, pyproject.toml {wanted}"


def test_binder_gets_what_environment_yml_names_without_cuda_and_without_tests():
    """It takes `.binder` first; pip runs in the folder of the file. The index is the one that environment.yml offers in a comment."""
    conda, binder = ((ROOT / name).read_text(encoding="utf-8") for name in ("environment.yml", ".binder/environment.yml"))
    offered = re.search(r"# - (--extra-index-url \S+/whl/cpu)$", conda, re.M)[1]
    wanted, found = yaml.safe_load(conda), yaml.safe_load(binder)
    *rest, pip = wanted["dependencies"]
    assert pip == {"pip": ["-e .[test]"]} and found == wanted | {"dependencies": [*rest, {"pip": [offered, "-e .."]}]}


# ----------------------------------------------------------------------------------------------------- links and paths

def heading_anchors(markdown):
    """Anchors as code-hosting sites make them: lower case, punctuation dropped, spaces to hyphens."""
    markdown = re.sub(r"```.*?```", "", markdown, flags=re.S)
    headings = re.findall(r"^#{1,6}\s+(.*?)\s*$", markdown, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(markdown):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S)
    return (re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
            + re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", prose, re.M))


def markdown_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(joined(cell["source"]) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "markdown")


def is_dead(link, path):
    if re.match(r"(https?|mailto|data|attachment):", link):
        return False
    target, _, anchor = link.partition("#")
    there = (path.parent / target).resolve() if target else path
    if there not in FILES and not any(file.is_relative_to(there) for file in FILES):
        return True
    return bool(anchor) and there.suffix in {".md", ".ipynb"} and anchor.lower() not in heading_anchors(markdown_of(there))


def test_links_lead_to_files_of_the_repository():
    pages = [path for path in FILES if path.suffix == ".md"] + NOTEBOOKS
    dead = [f"{short(path)}: {link}" for path in pages for link in links(markdown_of(path)) if is_dead(link, path)]
    assert not dead, "\n".join(dead)


def test_what_a_text_says_to_be_in_a_module_is_defined_there():
    """`name` in [`module.py`](...), in notebooks and pages."""
    pages = [path for path in FILES if path.suffix == ".md"] + NOTEBOOKS
    said = {found for path in pages for found in re.findall(r"`(\w+)` (?:in|of|from) \[?`(?:[\w/]+/)?(\w+\.py)`", markdown_of(path))}
    sources = {path.name: path.read_text(encoding="utf-8") for path in FILES if path.suffix == ".py" and path.is_relative_to(ROOT / "rg_minimal")}
    missing = [pair for pair in said if not re.search(rf"^ *(?:def |class )?{pair[0]}\b", sources[pair[1]], re.M)]
    assert len(said) >= 4 and not missing, missing


def readme_code():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.S))


def test_readme_names_both_commands_and_only_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", readme_code()))
    assert named <= targets, f"README.md names make targets that do not exist: {sorted(named - targets)}"
    assert "test" in named and re.search(r"(^|`)make( start)?\s*(#.*)?($|`)", readme_code(), re.M)
    documented = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
    assert targets == documented, f"`make help` is silent on {sorted(targets - documented)}"


def test_files_that_the_readme_names_exist():
    named = re.findall(r"(?<![\w./-])((?:notebooks|data|tests|rg_minimal)/[\w./-]*\w/?)", readme_code())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"README.md names {missing}"


def test_no_file_knows_the_machine_it_was_written_on():
    places = re.compile(r"(?<![\w.])/(?:work|root|home|Users|tmp)/\w|\b[A-Z]:\\\\?Users|\.\./" + "shared")
    texts = {short(path): visible_text(path) for path in FILES}
    found = {name: match.group() for name, text in texts.items() if text and (match := places.search(text))}
    assert not found, f"paths that other machines do not have: {found}"


# ---------------------------------------------------------------------------------------------------------- the package

def test_torch_load_never_runs_code_from_a_file():
    loads = [(path, call) for path, source in python_sources() for call in ast.walk(ast.parse(source))
             if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load"]
    unsafe = [f"{short(path)}:{call.lineno}" for path, call in loads
              if "weights_only=True" not in [f"{word.arg}={ast.unparse(word.value)}" for word in call.keywords]]
    assert not unsafe, f"torch.load without weights_only=True: {unsafe}"


# Who may know whom: a module those that stand before it, a room the rooms before it. The judge knows the world alone.
METHOD = ["paces", "files", "checks", "maps", "undo", "pictures", "autoencoders", "conditioning", "denoisers", "readout", "processes", "keypoints", "hub", "saving", "sources",
          "pipelines", "callback", "guider", "reference", "cost", "label_files", "labels", "detectors", "train", "workers", "sweep"]
PUPPETS = ["puppets.world", "puppets", "puppets.training", "puppets.judge", "puppets.basemodel", "puppets.previews", "puppets.transformer", "puppets.heads", "puppets.decoder", "puppets.export", "puppets.grab", "puppets.editing",
           "puppets.cases", "puppets.tokens", "puppets.measure", "puppets.front"]
EVIDENCE = ["evidence", "evidence.seeds", "evidence.learn", "evidence.baselines", "evidence.rivals", "evidence.ideas", "evidence.statistics", "evidence.contest", "evidence.ablations",
            "evidence.many", "evidence.recipes", "evidence.drags", "evidence.trial", "evidence.report", "evidence.__main__"]
ALONE = {"readout": {"maps", "checks", "undo", "denoisers"}, "puppets.world": {"checks"}, "puppets.training": {"checks", "files"},
         "puppets.judge": {"checks", "files", "pictures", "puppets.world", "puppets.training"}, "files": set(), "checks": set(),
         "undo": set(), "processes": set(), "workers": set(), "pictures": {"checks"}}


@cache
def package_modules():
    """Name within the package -> file; the package itself is called ''."""
    parts = {path: path.relative_to(ROOT / "rg_minimal").with_suffix("").parts
             for path in PYTHON_FILES if path.is_relative_to(ROOT / "rg_minimal")}
    return {".".join(each[:-1] if each[-1] == "__init__" else each): path for path, each in parts.items()}


def arrows(module, path, source=None):
    """(module of the package, names) for each import in a module of ours, also inside functions and under `if`."""
    inside = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source or path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name[11:], alias.name.split(".")) for alias in node.names if alias.name.split(".")[0] == "rg_minimal")
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "rg_minimal"):
            base = inside[:len(inside) - node.level + 1] if node.level else []
            named = [part for part in (node.module or "").removeprefix("rg_minimal").split(".") if part] if not node.level else (
                node.module or "").split(".")
            target = ".".join(part for part in [*base, *named] if part)
            names = [alias.name for alias in node.names]
            modules = [f"{target}.{name}".strip(".") for name in names if f"{target}.{name}".strip(".") in package_modules()]
            yield from ((each, [each.split(".")[-1]]) for each in modules)
            if len(modules) < len(names):
                yield target, names


def forbidden(module, path, source=None):
    known = METHOD + PUPPETS + EVIDENCE
    for target, names in arrows(module, path, source):
        private = [name for name in names if name.startswith("_")]
        if private:
            yield f"{module} imports {private} of {target}"
        if module in ALONE and target not in ALONE[module]:
            yield f"{module} imports {target}"
        if module in known and target not in known[:known.index(module)]:
            yield f"{module} imports {target}, which stands behind it"


def test_arrows_between_rooms_run_one_way():
    modules = package_modules()
    placed = {"", *METHOD, *PUPPETS, *EVIDENCE}
    assert all(name in placed or name.startswith("classroom") for name in modules), "a module without a place"
    found = [fault for name, path in modules.items() for fault in forbidden(name, path)]
    assert not found, found
    known = [target for target, _ in arrows("", modules[""])]
    assert set(known) <= set(METHOD), f"rg_minimal/__init__.py knows {known}"


@pytest.mark.parametrize("module, line", [
    ("readout", "from .puppets import render"), ("readout", "from .pipelines import sample"), ("readout", "import rg_minimal.saving"),
    ("denoisers", "def f():\n    from .readout import Head"), ("puppets.heads", "from ..classroom import plots"),
    ("puppets.judge", "from ..readout import Head"), ("puppets.heads", "from rg_minimal.checks import _whole"),
    ("puppets.judge", "from . import heads"), ("pipelines", "from . import reference"), ("maps", "from .classroom.plots import lines"),
    ("saving", "import rg_minimal"), ("puppets", "from .. import sample"), ("puppets.measure", "import rg_minimal.classroom.plots"),
    ("puppets.front", "from ..evidence import seeds"), ("evidence.seeds", "from ..classroom import plots"),
    ("evidence.baselines", "from . import contest"), ("classroom.plots", "from .widgets import _known"), ("", "from .checks import _whole")])
def test_an_arrow_upwards_is_found(module, line):
    assert list(forbidden(module, package_modules()[module], line))


@cache
def at_the_top(module):
    """The imports that run when this module of ours is imported: those outside functions."""
    body = ast.parse(package_modules()[module].read_text(encoding="utf-8")).body
    inner = [each for node in body if isinstance(node, (ast.Try, ast.If, ast.With)) for each in ast.walk(node)]
    return "\n".join(ast.unparse(node) for node in [*body, *inner] if isinstance(node, (ast.Import, ast.ImportFrom)))


def reached(source):
    """What importing this brings along: names of our modules, and of libraries."""
    ours, libraries, todo = set(), set(imported_modules(source)), [("", ROOT / "a_notebook.py", source)]
    while todo:
        for target, _ in arrows(*todo.pop()):
            for each in {target, target.rpartition(".")[0], ""} - ours:
                ours.add(each)
                libraries |= set(imported_modules(at_the_top(each)))
                todo.append((each, package_modules()[each], at_the_top(each)))
    return ours, libraries


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_waits_for_the_tools_that_run_notebooks(path):
    """nbformat compiles a grammar when it is imported, which takes two seconds."""
    ours, libraries = reached(notebook_source(path))
    assert "pipelines" in ours or not ours, "nothing is found at all"
    assert not libraries & {"nbformat", "papermill", "nbclient"}


def functions_of(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]


def test_the_core_can_be_read_in_an_hour():
    """At most 550 lines; functions of at most 12 lines in the median, none that needs scrolling; no other library than torch."""
    path = ROOT / "rg_minimal" / "readout.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 550
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions_of(path))
    assert lengths[len(lengths) // 2] <= 12 and lengths[-1] <= 40
    libraries = set(imported_modules(path.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names)
    assert libraries == {"torch"}


WATCHED = """
import gc, importlib, json, pkgutil, sys
calls = []
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
            event == "socket.connect" and isinstance(arguments[1], tuple)):
        calls.append(f"{event} {arguments[-1]!r} {arguments[0]!r}")
        raise OSError("no network in this test")
sys.addaudithook(watch)
import rg_minimal
assert gc.isenabled(), "garbage is collected as before"
for module in pkgutil.walk_packages(rg_minimal.__path__, "rg_minimal."):
    importlib.import_module(module.name)
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained("data/puppet-diffusion")
print(json.dumps(calls))
"""


def test_importing_everything_and_loading_the_model_asks_no_network(tmp_path):
    """Seen from outside: an audit hook notes every look-up and connection, even one whose failure is swallowed."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment["HF_HOME"] = str(tmp_path)                                     # an empty cache, as on a new machine
    run = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == []


# ----------------------------------------------------------------------------------------------------------------- data

def size_of(folder):
    return sum(path.stat().st_size for path in FILES if path.is_relative_to(folder))


def test_data_is_small_safe_and_described():
    data = ROOT / "data"
    assert 0 < size_of(data / "puppet-diffusion") <= 40 * MB
    heads = [path for path in (data / "heads").iterdir() if path.is_dir()]
    assert heads, "no head is shipped in data/heads"
    for head in heads:
        assert 0 < size_of(head) <= 4 * MB, f"{short(head)} has {size_of(head) / MB:.1f} MB"
    pickles = [short(path) for path in FILES
               if path.is_relative_to(data) and path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl"}]
    assert not pickles, f"weights belong into safetensors: {pickles}"
    silent = [short(path) for path in data.iterdir() if path.is_dir() and not (path / "README.md").is_file()]
    assert not silent, f"no card (README.md) in {silent}"


def test_model_folder_suits_every_transformers_within_the_bounds():
    """transformers 5 saves what 4 misreads: unknown names of weights, which are then drawn at random, and a new class."""
    folder = ROOT / "data" / "puppet-diffusion"
    with safe_open(folder / "text_encoder" / "model.safetensors", framework="pt") as weights:
        misnamed = [name for name in weights.keys() if not name.startswith("text_model.")]
    assert not misnamed, f"prefix these with `text_model.`, every version reads that: {misnamed[:3]} ..."
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


# ------------------------------------------------------------------------------------------------------------ notebooks

def test_notebook_to_start_with_is_there():
    assert ROOT / "notebooks" / "00_start_here.ipynb" in NOTEBOOKS


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=short)


@every_notebook
def test_notebook_is_valid_and_small(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < 600_000, f"{path.stat().st_size / 1000:.0f} KB"
    assert read_notebook(path)["metadata"]["kernelspec"]["name"] == "python3", "other machines have no such kernel"


@every_notebook
def test_notebook_is_executed_in_order_without_error_or_stderr(path):
    notebook = read_notebook(path)
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"run it again from a fresh kernel: {counts}"
    assert not [output["ename"] for output in outputs(notebook) if output["output_type"] == "error"]
    assert not [joined(output["text"]) for output in outputs(notebook) if output.get("name") == "stderr"]


@every_notebook
def test_notebook_has_parameters_and_a_picture(path):
    notebook = read_notebook(path)
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{len(tagged)} cells are tagged `parameters`"
    ast.parse(joined(tagged[0]["source"]))
    assert any(kind.startswith("image/") for output in outputs(notebook) for kind in output.get("data", {})), "no picture"
    if path.parts[-2:] == ("notebooks", "00_start_here.ipynb"):
        assert re.search(r"^picture\s*=\s*(''|\"\")", joined(tagged[0]["source"]), re.M), "`make start` sets `picture`"


@every_notebook
def test_code_of_a_notebook_fits_into_jupyterlab(path):
    """88 columns: on a screen of 1280 pixels JupyterLab cuts longer lines off."""
    long = [f"{len(line)} columns: {line}" for cell in code_cells(read_notebook(path)) for line in joined(cell["source"]).splitlines()
            if len(line) > 88]
    assert not long, "\n".join(long)


@every_notebook
def test_notebook_keeps_no_half_of_a_widget(path):
    """Widget views need their models in the metadata, and widget metadata without `state` is an invalid notebook."""
    notebook = read_notebook(path)
    stored = notebook["metadata"].get("widgets", {})
    states = stored.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    assert bool(stored) == bool(states), "metadata.widgets holds no state"
    views = [output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] for output in outputs(notebook)
             if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert set(views) <= set(states), "a widget is shown whose state was not saved"
