"""Files and folders are whole or absent, whatever happens while they are written, and nothing of anybody else's is deleted."""
import os

import pytest
import torch
from safetensors.torch import load_file

from rg_minimal.files import read_json, refuse_others, remove_known, replace_folder, write_file, write_json, write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk(path):
    path.write_text("hal")
    raise OSError("no space left on device")


def test_text_bytes_tensors_and_what_a_function_writes(tmp_path):
    assert write_file(tmp_path / "new" / "a.txt", "é\n") == tmp_path / "new" / "a.txt"
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n".encode()
    write_file(tmp_path / "b", b"\x00"), write_file(tmp_path / "c", lambda path: path.write_text("c"))
    write_json(tmp_path / "d.json", {"a": [1]}), write_tensors(tmp_path / "e.safetensors", {"x": torch.ones(2, 3).T}, {"about": "it"})
    assert (tmp_path / "b").read_bytes() == b"\x00" and (tmp_path / "c").read_text() == "c"
    assert read_json(tmp_path / "d.json") == {"a": [1]} and load_file(tmp_path / "e.safetensors")["x"].shape == (3, 2)
    assert names(tmp_path) == ["b", "c", "d.json", "e.safetensors", "new"]
    assert len({(tmp_path / name).stat().st_mode for name in ("b", "c", "d.json", "e.safetensors")}) == 1


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_file(tmp_path / "a", "old")
    with pytest.raises(OSError, match="no space"):
        write_file(path, full_disk)
    assert path.read_text() == "old" and names(tmp_path) == ["a"]

    def killed(*paths):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        write_file(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a", "a.partial"], "as after a kill"
    assert write_file(path, "new").read_text() == "new" and names(tmp_path) == ["a"]


def test_a_name_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(ValueError, match="a file is in its way"):
            write_file(path, "text")
    with pytest.raises(ValueError, match="is a folder"):
        write_file(tmp_path, "text")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"scale": NaN}', '{"scale": -Infinity}', "", "\xff"])
def test_a_json_file_that_holds_something_else_is_named(content, tmp_path):
    (tmp_path / "recipe.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"recipe\.json (cannot be read|holds)"):
        read_json(tmp_path / "recipe.json")
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")


def fill(*files):
    return lambda folder: [write_file(folder / name, "new") for name in files]


def test_a_folder_is_replaced_whole_and_what_is_to_be_kept_survives(tmp_path):
    folder = replace_folder(tmp_path / "to" / "it", fill("a", "b/c"), {"a", "b"}, {"card"})
    (folder / "card").write_text("mine")
    replace_folder(folder, fill("a"), {"a", "b"}, {"card"})
    assert names(folder) == ["a", "card"] and (folder / "card").read_text() == "mine" and names(folder.parent) == ["it"]


def test_a_folder_survives_every_kill_and_failure(tmp_path, monkeypatch):
    folder = replace_folder(tmp_path / "it", fill("a", "b"), {"a", "b"})
    with pytest.raises(OSError):
        replace_folder(folder, lambda aside: full_disk(aside / "a"), {"a", "b"})
    assert names(tmp_path) == ["it"] and names(folder) == ["a", "b"]
    replace, moves = os.replace, []

    def killed_at_the_second(*paths):
        moves.append(paths)
        if len(moves) == 2:
            raise KeyboardInterrupt
        replace(*paths)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed_at_the_second)
        replace_folder(folder, lambda aside: (aside / "a").mkdir(), {"a", "b"})
    assert names(tmp_path) == ["it.old", "it.partial"]
    replace_folder(folder, fill("a"), {"a", "b"})
    assert names(tmp_path) == ["it"] and names(folder) == ["a"]


def test_what_is_not_known_stands_in_the_way_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "it"
    folder.mkdir()
    for name in ("a", "a.partial", "thesis.txt"):
        (folder / name).write_text("old")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(folder)
    for act in (lambda path: replace_folder(path, fill("a"), {"a"}), lambda path: remove_known(path, {"a"}),
                lambda path: refuse_others(path, {"a"})):
        with pytest.raises(ValueError, match=r"it holds thesis\.txt, which would be lost"):
            act(folder)
        for name in ("file", "link"):
            with pytest.raises(ValueError, match=f"{name} is no folder"):
                act(tmp_path / name)
    assert names(folder) == ["a", "a.partial", "thesis.txt"] and (tmp_path / "file").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    remove_known(folder, {"a"})
    remove_known(folder, {"a"})
    assert names(tmp_path) == ["file", "link"]
