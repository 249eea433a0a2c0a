"""Settings of the site that `make book` makes: the executed notebooks as they are committed, nothing is run again.

The source folder is the repository, so that links in the notebooks lead where they lead there; what is no page of the site
(code, weights, results) is offered as a file.
"""
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "book"

project = "Readout Guidance, small enough to read"
author = "rg_minimal"
root_doc = "book/index"
extensions = ["myst_nb"]
include_patterns = ["book/*.md", "README.md", "notebooks/*.md", "notebooks/*.ipynb", "notebooks/solutions/*.ipynb", "data/**/README.md"]
exclude_patterns = ["out", ".venv", "runs", "tests", "build", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = "Readout Guidance"
html_copy_source = False
html_show_sourcelink = False

nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]       # widgets: their picture
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

# Figures of book/paper.md: name -> notebook, and words that are in the code of the cell whose first picture is taken.
FIGURES = {
    "teaser": ("00_start_here", "pose_comparison(unguided, goal, guided"),
    "features": ("02_features", "pca_pictures(each)[0] for each in r.features"),
    "readouts": ("00_start_here", "readout_strip(unguided[0]"),
    "aggregation": ("03_aggregation", "after the\\nbottleneck"),
    "guidance": ("05_guided_sampling", "size of the gradient"),
    "spatial": ("06_sketches", "by_depth = draw("),
    "sketch": ("06_sketches", "f\"background = {value:g}\""),
    "correspondence": ("07_drag", "match_row(first.image[0]"),
    "drag": ("07_drag", "careful[0]"),
    "inverted": ("07_drag", "the renderer's answer"),
    "identity": ("08_appearance", "looks that agree with the reference"),
    "combined": ("09_combining", 'rows = {"no wish"'),
    "few": ("04_train_a_head", "yours: {pictures} pictures"),
    "own": ("10_your_own_head", "day, _ = sample("),
}


def first_picture(notebook: str, words: str) -> bytes:
    """The first PNG that the cell with these words shows. LookupError where there is none."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code" and words in "".join(cell["source"]):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode("".join(output["data"]["image/png"]))
    raise LookupError(f"no cell of {notebook} with {words!r} shows a picture: change FIGURES in book/conf.py")


def draw_figures(app) -> None:
    """Write the figures of book/paper.md."""
    folder = OUT / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (notebook, words) in FIGURES.items():
        (folder / f"{name}.png").write_bytes(first_picture(notebook, words))


def to_pages(app, document: str, source: list) -> None:
    """Links to folders lead to the card in them, where there is one, else nowhere: a site has no listing of files."""
    here = Path(app.env.doc2path(document)).parent

    def page(match):
        words, target = match[1], match[2].partition("#")[0]
        if not target or re.match(r"[a-z]+:", target) or not (here / target).is_dir():
            return match[0]
        return f"[{words}]({target.rstrip('/')}/README.md)" if (here / target / "README.md").is_file() else words
    source[0] = re.sub(r"\[([^\]\n]*)\]\(([^)\s]+)\)", page, source[0])


def leave_an_index(app, error) -> None:
    """The folder's own index.html leads to the first page."""
    if not error and app.builder.name == "html":
        (Path(app.outdir) / "index.html").write_text('<!doctype html><meta charset="utf-8"><title>Readout Guidance</title>'
                                                     '<meta http-equiv="refresh" content="0; url=book/index.html">\n', encoding="utf-8")


def setup(app) -> None:
    app.connect("builder-inited", draw_figures)
    app.connect("source-read", to_pages)
    app.connect("build-finished", leave_an_index)
