"""Files that are whole or absent: written aside in the same folder, then moved in place; what a killed run left is swept away."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Callable, Iterable

from safetensors.torch import save as to_safetensors

ASIDE, OLD = ".partial", ".old"             # ends of the names of what is not yet, and no longer, in its place


def write_file(path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Write a text, bytes, or what `content(path)` writes to the path it is given; the folder is made where missing.

    A run that is killed, or fails, leaves the old file as it was; what it left aside goes at the next call.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file: choose another name")
    _make_folder(path.parent)
    aside = path.with_name(path.name + ASIDE)
    _sweep(aside)
    try:
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(aside, path)
    except Exception:
        _sweep(aside)
        raise
    return path


def write_json(path, value) -> Path:
    """Write what JSON can hold, readable, one entry a line."""
    return write_file(path, json.dumps(value, indent=1) + "\n")


def write_tensors(path, tensors: dict, metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file. As bytes: `save_file` of safetensors 0.8 writes files that only their owner can read."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    return write_file(path, to_safetensors(plain, metadata))


def read_json(path) -> dict:
    """The entries of a JSON file. ValueError, which names the file, where it is not an object of finite numbers."""
    def refuse(word):
        raise ValueError(f"it holds {word}")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again, or make it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, where a dict of entries should be: fetch it again, or make it again")
    return found


def replace_folder(folder, fill: Callable[[Path], object], known: Iterable[str], keep: Iterable[str] = ()) -> Path:
    """Put what `fill(path)` writes in the place of a folder; the files in `keep` survive in it.

    ValueError, before anything is written, where the folder is a file or holds anything whose name is not in `known` or `keep`.
    """
    folder = Path(folder)
    aside, old = (folder.with_name(folder.name + end) for end in (ASIDE, OLD))
    if old.exists() and not folder.exists():                        # killed between the last two moves
        os.replace(old, folder)
    refuse_others(folder, {*known, *keep})
    _sweep(aside, old)
    _make_folder(aside)
    try:
        fill(aside)
        for name in keep:
            if (folder / name).exists():
                shutil.copy2(folder / name, aside / name)
        if folder.exists():
            os.replace(folder, old)
        os.replace(aside, folder)
    except Exception:
        _sweep(aside)
        raise
    _sweep(old)
    return folder


def remove_known(folder, known: Iterable[str]) -> None:
    """Delete a folder of which all names are known. ValueError, and nothing is deleted, where it is a file or holds others."""
    refuse_others(folder, known)
    _sweep(Path(folder))


def refuse_others(folder, known: Iterable[str]) -> None:
    """ValueError where `folder` is a file, or a folder that holds anything whose name is not in `known`."""
    folder, known = Path(folder), {*known}
    if folder.is_symlink() or folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder: move it away, or choose another name")
    ours = known | {name + end for name in known for end in (ASIDE, OLD)}
    others = sorted(each.name for each in folder.iterdir() if each.name not in ours) if folder.exists() else []
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(f"{folder} holds {', '.join(others[:3])}{more}, which would be lost: move that away, or choose another folder")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be made, a file is in its way: choose another folder") from None


def _sweep(*paths: Path) -> None:
    """Delete files and folders, where they are there."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
