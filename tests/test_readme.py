"""The README's example runs as it stands, and its table names every notebook."""
import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_and_are_ten(monkeypatch):
    monkeypatch.chdir(ROOT)
    example = re.search(r"## Ten lines\n+```python\n(.*?)```", TEXT, re.S).group(1)
    assert len(example.strip().splitlines()) <= 12
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["pictures"].shape == (1, 3, 128, 128)
    assert torch.isfinite(names["pictures"]).all() and names["pictures"].std() > 0.05      # a picture, not a flat field


def test_the_table_names_every_notebook():
    named = set(re.findall(r"\(notebooks/([\w./]+\.ipynb)\)", TEXT))
    assert named == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_no_placeholder_is_left():
    for path in [ROOT / "README.md", *(ROOT / "data").rglob("README.md")]:
        assert not re.search(r"@[A-Z0-9]+@|TODO|TBD", path.read_text()), path
