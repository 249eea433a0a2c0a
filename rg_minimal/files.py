"""Files and folders that are whole or absent: written aside, then moved in place; what a killed run left is swept away.

What is being written lies beside its place under a name such as `head.safetensors.0a1b2c3d4e5f.partial`, locked by the
process that writes it. The next call that writes into the same folder deletes those that nobody holds, and nothing else
(where there are no locks, on Windows and some disks of a network, those that have not been touched for a day). So it does with
`.lock` files, which make those wait who add to the same table.
"""
from __future__ import annotations

import csv
import ctypes
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Callable, Iterable

try:
    import fcntl
except ImportError:                         # Windows
    fcntl = None
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

ASIDE, OLD, LOCK = "partial", "old", "lock"         # what is not yet, and no longer, in its place; and what makes others wait
DAY = 86_400                                # seconds
_MARKED = re.compile(rf"(.+)\.[0-9a-f]{{12}}\.({ASIDE}|{OLD}|{LOCK})")


# ---- files -------------------------------------------------------------------------------------------------------------

def write_file(path, content: str | bytes | Callable[[Path], object]) -> Path:
    """Write a text, bytes, or what `content(path)` writes to the path it is given; the folder is made where missing.

    A run that is killed, or fails, leaves the old file as it was. A link is followed. ValueError where no file can be written.
    """
    path = Path(path)
    _is_there(path)                             # or has a name that cannot be
    place = path.resolve() if path.is_symlink() else path
    if place.exists() and not place.is_file():
        raise ValueError(f"{path} is {'a folder' if place.is_dir() else 'a device'}, not a file: choose another name")
    if place.exists() and not os.access(place, os.W_OK):
        raise ValueError(f"{path} is write-protected: allow it, or choose another name")
    _make_folder(place.parent)
    with _aside(place) as aside:
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(aside, place)
    return path


def write_json(path, value) -> Path:
    """Write what JSON can hold, readable, one entry a line. ValueError, and nothing is written, for NaN and infinity, which `read_json` refuses."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} is not written, a number in it is NaN or infinite ({error}): what was measured or trained so is of no use") from error
    return write_file(path, text + "\n")


def update_json(path, entry: Callable[[dict], dict]) -> Path:
    """Add to a JSON file, as it is now or empty, what `entry` makes of its entries: who would do so at the same time waits, and what
    others have added meanwhile stays."""
    with _alone(Path(path)):
        known = read_json(path) if Path(path).is_file() else {}
        return write_json(path, {**known, **entry(known)})


def write_tensors(path, tensors: dict, metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file. As bytes: `save_file` of safetensors 0.8 writes files that only their owner can read."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    return write_file(path, to_safetensors(plain, metadata))


def read_json(path) -> dict:
    """The entries of a JSON file. ValueError, which names the file, where it is not an object of finite numbers."""
    def refuse(word):
        raise ValueError(f"it holds {word}")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again, or make it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, where a dict of entries should be: fetch it again, or make it "
                         "again")
    return found


def read_tensors(path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. ValueError where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); delete it and make or fetch it "
                         "again") from error


# ---- tables ------------------------------------------------------------------------------------------------------------

def write_rows(table, rows: Iterable[dict], columns: Iterable[str]) -> Path:
    """Rows, a dict each, as CSV, whole or not at all; fractions with four digits. ValueError for one that `read_rows` refuses, NaN or infinity."""
    rows, text = list(rows), io.StringIO()
    for row in rows:
        _refuse_no_number(row, f"{table} is not written: ")
    out = csv.DictWriter(text, columns, lineterminator="\n")
    out.writeheader()
    out.writerows({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)
    return write_file(table, text.getvalue())


def read_rows(table, kinds: dict[str, Callable], what: str) -> list[dict]:
    """The rows of a table whose columns are these and no others, each read by its kind (str, int, float). ValueError where it is no such
    table, a row is cut short or too long, or a number is not finite."""
    try:
        with open(table, newline="", encoding="utf-8") as file:
            found = csv.DictReader(file)
            rows = [_read_row(row, kinds) for row in found]
        if found.fieldnames is not None and list(found.fieldnames) != list(kinds):
            raise ValueError(f"its columns are {', '.join(found.fieldnames)}")
        return rows
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{table} is no table of {what} ({error}); delete it and measure again") from error


def _read_row(row: dict, kinds: dict[str, Callable]) -> dict:
    if None in row or None in row.values():
        raise ValueError(f"a row has {'more' if None in row else 'fewer'} than {len(kinds)} entries")
    read = {name: kind(row[name]) for name, kind in kinds.items()}
    _refuse_no_number(read)
    return read


def _refuse_no_number(row: dict, before: str = "") -> None:
    wrong = [f"{name} {value}" for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        raise ValueError(f"{before}a row has {wrong[0]}")


def rows_so_far(table, kinds: dict[str, Callable], what: str) -> list[dict]:
    """`read_rows`, or none where there is no such file yet."""
    return read_rows(table, kinds, what) if Path(table).exists() else []


def add_rows(table, new: list[dict], kinds: dict[str, Callable], key: Iterable[str], what: str, ordered: bool = False,
             kept: Callable[[list[dict]], list[dict]] = list) -> None:
    """Add rows to a table as it is now, in the place of those with the same `key`: what another process has added meanwhile stays, and
    who would add at the same time waits. `ordered` puts all in the order of their keys; `kept(rows)` says which of those that are there
    now stay, or raises."""
    with _alone(Path(table)):
        rows = {tuple(row[name] for name in key): row for row in (*kept(rows_so_far(table, kinds, what)), *new)}
        write_rows(table, [rows[each] for each in sorted(rows)] if ordered else rows.values(), kinds)


# ---- weights and what belongs to them ----------------------------------------------------------------------------------

def write_weights(path, tensors: dict, config: dict) -> None:
    """Write weights with their config: as one, in the safetensors file; and once more, for people, as config.json beside it.

    A kill between the two leaves the new weights beside the old config.json, whose checksum the new file keeps to know it by.
    ValueError, and nothing is written, for weights that are not finite, and where config.json belongs to something else.
    """
    path = Path(path)
    beside, inside = path.with_name("config.json"), {"config": _plain_json(config, path)}
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise ValueError(f"{wrong[0]} holds NaN or infinity, so {path} is not written; train again with a lower learning rate")
    if beside.is_file():
        _refuse_foreign(beside, config)
        inside["config_before"] = _checksum(beside)
    write_tensors(path, tensors, inside)
    write_json(beside, config)


def check_file(path, config: dict) -> None:
    """ValueError where a file with this config could not be written later: to be asked before slow work."""
    refuse_file(Path(path).parent)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; pass a file in it, such as {Path(path) / 'training.safetensors'}")
    _plain_json(config, path)


def check_place(folder, config: dict) -> None:
    """ValueError where `write_weights`, or a card beside it, would put a head with this config in the place of what is not ours."""
    folder = Path(folder)
    check_file(folder / "head.safetensors", config)
    if (folder / "config.json").is_file():
        _refuse_foreign(folder / "config.json", config)
    refuse_card(folder, "head.safetensors")


def refuse_card(folder, weights: str) -> None:
    """ValueError where a README.md that belongs to no such weights would be lost to their card."""
    if (Path(folder) / "README.md").exists() and not (Path(folder) / weights).exists():
        raise ValueError(f"{folder} holds a README.md and no {weights}, and a card would take its place: move it away, or choose another folder")


def read_weights(path) -> tuple[dict[str, Tensor], dict]:
    """Weights and their config, as `write_weights` left them; of files without a config inside, config.json has it.

    ValueError where the two differ, unless config.json is what a killed run had no time to replace, and where neither is there.
    """
    path = Path(path)
    beside, (tensors, inside) = path.with_name("config.json"), read_tensors(path)
    told = read_json(beside) if beside.exists() or "config" not in inside else None
    if "config" not in inside:
        return tensors, told
    try:
        config = json.loads(inside["config"])
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no config that can be read, though it has an entry of that name; save the weights again")
    if told in (None, config) or inside.get("config_before") == _checksum(beside):
        return tensors, config
    names = sorted(name for name in {*told, *config} if told.get(name) != config.get(name))
    raise ValueError(f"the weights in {path} do not fit their config: config.json beside them says "
                     + ", ".join(f"{name}: {told.get(name)!r}, not {config.get(name)!r}" for name in names[:3])
                     + ". One of them was changed by hand, or comes from elsewhere: save both again, or delete config.json to "
                     "go by what the weights say")


def _plain_json(config: dict, path) -> str:
    try:
        return json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config of {path} cannot be written ({error}): it may hold texts, truth values, finite numbers, "
                         "lists and dicts of them") from error


def _refuse_foreign(path: Path, config: dict) -> None:
    """ValueError where a config.json is another library's, or has no entry in common with what is to take its place."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return                                              # damaged, so nothing is lost
    if not isinstance(told, dict) or {"_class_name", "model_type", "architectures"} & set(told) or told and not set(told) & set(config):
        raise ValueError(f"{path} belongs to something else ({', '.join(list(told)[:3])}, ...) and would be lost; choose a folder of its own")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- folders -----------------------------------------------------------------------------------------------------------

def replace_folder(folder, fill: Callable[[Path], object], known: Iterable[str], keep: Iterable[str] = ()) -> Path:
    """Put what `fill(path)` writes in the place of a folder; the files in `keep` survive in it.

    ValueError, before anything is written, where the folder is a file or holds anything that `known` and `keep` do not name
    (see `refuse_others`).
    """
    place = Path(os.path.abspath(folder))
    _restore(place)
    refuse_others(folder, {*known, *keep})
    _make_folder(place.parent)
    with _aside(place, a_folder=True) as aside:
        fill(aside)
        for name in keep:
            if (place / name).exists():
                shutil.copy2(place / name, aside / name)
        _swap(aside, place)
    return Path(folder)


def refuse_file(folder) -> None:
    """ValueError where a file stands in the way of a folder: to be asked before slow work whose results go there."""
    there = next((each for each in (Path(folder), *Path(folder).absolute().parents) if _is_there(each)), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"{folder} cannot be a folder, the file {there} is in its way: choose another folder")
    if there is not None and not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written, {there} is write-protected: allow it, or choose another folder")


def remove_known(folder, known: Iterable[str]) -> None:
    """Delete a folder of which all is known. ValueError, and nothing is deleted, where it is a file or holds anything else."""
    refuse_others(folder, known)
    place = Path(os.path.abspath(folder))
    _sweep(place.parent)
    if place.exists():
        aside = _beside(place, ASIDE)
        try:
            os.replace(place, aside)                            # gone at once: a half of a training is none
        except OSError:                                         # a disk of its own
            aside = place
        _delete(aside)


def refuse_others(folder, known: Iterable[str]) -> None:
    """ValueError where `folder` is a file, or a folder that holds anything that is not in `known`.

    `known` are names of files, and of folders with all that is in them; "latents/*.safetensors" are files of one kind.
    """
    folder, known = Path(folder), [PurePath(name) for name in known]
    if folder.is_symlink() or folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder: move it away, or choose another name")
    others = sorted(each.as_posix() for each in _inside(folder) if not _is_known(each, known))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(f"{folder} holds {', '.join(others[:3])}{more}, which would be lost: move that away, or choose "
                         "another folder")


def _inside(folder: Path) -> Iterable[PurePath]:
    """Every file and link below a folder, seen from there."""
    for where, folders, files in os.walk(folder):
        for name in (*files, *(each for each in folders if Path(where, each).is_symlink())):
            yield Path(where, name).relative_to(folder)


def _is_known(path: PurePath, known: Iterable[PurePath]) -> bool:
    plain = PurePath(*(_MARKED.sub(r"\1", part) for part in path.parts))        # what a killed run left counts as what it wrote
    above = [plain, *plain.parents]
    return any(len(each.parts) == len(pattern.parts) and each.match(str(pattern)) for each in above for pattern in known)


# ---- aside and in place ------------------------------------------------------------------------------------------------

@contextmanager
def _aside(place: Path, a_folder: bool = False):
    """A new file or folder beside `place`, held by this process; whatever is still there in the end is deleted."""
    _sweep(place.parent)
    lock = None
    try:
        while lock is None:                                     # another process may sweep it away before it is held
            aside = _beside(place, ASIDE)
            aside.mkdir() if a_folder else aside.touch(exist_ok=False)
            lock = _hold(aside)
        yield aside
    finally:
        try:
            _delete(aside)
        finally:
            del lock                                            # closing the file lets go


@contextmanager
def _alone(path: Path):
    """Others who ask for the same file wait until this ends, or its process does. Where there are no locks nobody waits."""
    place = path.resolve() if path.is_symlink() else path
    _make_folder(place.parent)
    beside, lock = place.with_name(f"{place.name}.{'0' * 12}.{LOCK}"), None if fcntl else ""
    try:
        while lock is None:                                     # who held it before has deleted it
            beside.touch()
            lock = _hold(beside, wait=True)
        yield
    finally:
        try:
            if lock is not None:                                # only while it is held: else it may be another's
                _delete(beside)
        finally:
            del lock


def _beside(place: Path, end: str) -> Path:
    return place.with_name(f"{place.name}.{secrets.token_hex(6)}.{end}")


class _Lock:
    """A lock on an open file or folder, which ends with this object, and with its process."""

    def __init__(self, path: Path, wait: bool = False):
        self.number = None
        self.number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        fcntl.flock(self.number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __del__(self):
        if self.number is not None:
            os.close(self.number)


def _hold(path: Path, wait: bool = False):
    """What holds `path`: a lock, or "" on a disk that knows none. None where it is gone, or somebody else holds it and nobody waits."""
    try:
        lock = _Lock(path, wait)
        return lock if os.path.samestat(os.fstat(lock.number), os.stat(path)) else None
    except (FileNotFoundError, BlockingIOError):
        return None
    except (OSError, AttributeError):
        return ""


def _sweep(folder: Path) -> None:
    """Delete what killed runs left aside in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        marked = _MARKED.fullmatch(path.name)
        if not marked or marked[2] == OLD or path.is_symlink():
            continue
        lock = _hold(path)
        if lock or lock == "" and time.time() - path.stat().st_mtime > DAY:
            _delete(path)
        del lock


def _swap(aside: Path, folder: Path) -> None:
    """Put a folder in the place of another, which then lies aside or is gone."""
    if not folder.exists():
        return os.replace(aside, folder)
    if _exchange(aside, folder):
        return None
    old = _beside(folder, OLD)                                  # in two steps; `_restore` takes the first one back
    try:
        os.replace(folder, old)
        os.replace(aside, folder)
    finally:
        _restore(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot."""
    system, names = ctypes.CDLL(None) if os.name == "posix" else None, (os.fsencode(one), os.fsencode(other))
    if hasattr(system, "renameat2"):                            # Linux
        return system.renameat2(-100, names[0], -100, names[1], 2) == 0
    return hasattr(system, "renamex_np") and system.renamex_np(*names, 2) == 0      # macOS


def _restore(folder: Path) -> None:
    """Bring back a folder that was killed between the two steps of a swap, and delete the old ones of finished swaps."""
    for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
        marked = _MARKED.fullmatch(path.name)
        if marked and marked[2] == OLD and marked[1] == folder.name:
            if folder.exists():
                _delete(path)
            else:
                os.replace(path, folder)


def _is_there(path: Path) -> bool:
    """ValueError for a name that the disk cannot have."""
    try:
        return path.exists()
    except OSError as error:
        raise ValueError(f"{path} cannot be made ({error.strerror}): choose another name") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be made, a file is in its way: choose another folder") from None
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error.strerror}): choose another folder") from error


def _delete(path: Path) -> None:
    """Delete a file or folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
