"""The hub, through `huggingface_hub`: heads that are fetched from there and shared there, and the card that goes with one.

Nothing is asked of the network unless the caller says so. `ModelHubMixin` is not inherited: it deletes config.json before it writes, and
puts a card into every folder, while a head here is written whole or not at all (`files.py`), and a folder is left as it was.
"""
from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import ModelCard, ModelCardData, constants
from huggingface_hub.errors import LocalEntryNotFoundError

from .files import read_json, write_file
from .undo import undone

FILES = ("head.safetensors", "config.json", "README.md")
COMMIT = re.compile(r"[0-9a-f]{40}")
_LOCK = threading.RLock()               # what is switched off, and back on, is the same for all threads


def is_hub_name(name) -> bool:
    """Whether this may be the name of a repository, "who/what"; a folder that is there, or beside the package, never is."""
    if Path(name).exists() or (Path(__file__).resolve().parent.parent / name).exists():
        return False
    return may_be_shared_as(name)


def may_be_shared_as(name) -> bool:
    """Whether this has the form of a repository's name, "who/what", whatever lies in a folder of that name here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name)))


@contextmanager
def asked(local_files_only: bool):
    """Around whatever reads the hub's cache: where that alone is allowed, nothing inside asks the network. huggingface_hub would, to
    find out what kind of program calls it, even if its cache has the file."""
    if not local_files_only:
        yield
        return
    with _LOCK:
        was = constants.HF_HUB_DISABLE_TELEMETRY
        with undone(lambda: setattr(constants, "HF_HUB_DISABLE_TELEMETRY", was)):
            constants.HF_HUB_DISABLE_TELEMETRY = True
            yield


def forbidden(local_files_only: bool) -> str:
    """What the environment says against a download that the caller allows, with the remedy; "" where it says nothing."""
    if local_files_only or not constants.HF_HUB_OFFLINE:
        return ""
    return "; HF_HUB_OFFLINE is set in the environment, which forbids downloads: take it out, and start Python (or the kernel) anew"


def fetch(repo_id: str, filename: str, revision: str | None = None, local_files_only: bool = True) -> Path | None:
    """A file of a repository, from the hub's cache, or, where that is allowed, from the hub; None where the cache has none.
    ValueError where the hub has none, or cannot be reached."""
    try:
        with asked(local_files_only):
            return Path(huggingface_hub.hf_hub_download(repo_id, filename, revision=revision, local_files_only=local_files_only))
    except LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise ValueError(_said(repo_id, filename, revision, error)) from error
    except Exception as error:                  # names that are none, repositories that are not there, the network's own
        raise ValueError(_said(repo_id, filename, revision, error)) from error


def _said(repo_id, filename, revision, error) -> str:
    reason = " ".join(str(error).split())[:300]
    pinned = f" at {revision}" if revision else ""
    return (f"{filename} of {repo_id}{pinned} could not be fetched from the hub ({reason}); pass a file or folder, or "
            f"try again where the hub can be reached{forbidden(False)}")


def head_folder(name, revision: str | None, local_files_only: bool) -> Path | None:
    """The folder of the hub's cache that a head by this name lies in; None where it is not there, or the name is none."""
    if not is_hub_name(name):
        return None
    config = fetch(str(name), "config.json", revision, local_files_only)
    weights = fetch(str(name), "head.safetensors", revision, local_files_only)
    return weights.parent if config and weights else None


def check_card(folder, config: dict) -> None:
    """ValueError where a folder holds the card of a head of another property, which would be shared with this one."""
    told = Path(folder) / "config.json"
    there = read_json(told).get("property") if (Path(folder) / "README.md").exists() and told.is_file() else config.get("property")
    if there != config.get("property"):
        raise ValueError(f"{folder} holds the card (README.md) of a head of {there or 'something else'}, which would be shared "
                         "with this one: delete it, or choose another folder")


def push(folder, repo_id: str, config: dict, private: bool | None = None, revision: str | None = None,
         token: str | None = None) -> str:
    """Share a head's folder as a repository, which is made where it is not there: both files and its card, which is written where there
    is none. Returns the address of the commit. ValueError where the hub refuses, or cannot be reached."""
    folder = Path(folder)
    if not (folder / "README.md").exists():
        write_file(folder / "README.md", card(config, repo_id))
    try:
        api = huggingface_hub.HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES), revision=revision,
                                   commit_message="A readout head of rg_minimal")
    except Exception as error:                  # of the network, of tokens, of names
        raise ValueError(f"the head is saved in {folder}, but could not be shared as {repo_id} "
                         f"({' '.join(str(error).split())[:300]}); log in (hf auth login), "
                         "and call it again where the hub can be reached") from error
    return str(commit)


def card(config: dict, place: str, words: str = "") -> str:
    """A head's README.md, from its config alone: what it reads, its scores, data and recipe as `extra` has them, how to load it."""
    extra, base = config.get("extra", {}), config.get("base_model", "")
    data = ModelCardData(library_name="rg_minimal", tags=["readout-guidance", config.get("property") or "readout"],
                         **({"base_model": base} if base and is_hub_name(base) else {}))
    spatial = config.get("out_channels", 0)
    parts = [f"# {(config.get('property') or 'readout').capitalize()} head",
             words or "A readout head (arXiv 2312.02150): it reads a property off the features of a frozen diffusion "
                      "model.",
             f"- Model: `{base or 'not said'}`; it fits no other.\n- Reads: "
             + (f"a map of {spatial} channels" if spatial else f"{config.get('width')} features a cell, to be compared "
                                                               "between pictures"
                ) + ("." if not extra.get("keypoints") else ", one for each keypoint: "
                                                            f"{', '.join(extra['keypoints'])}.")]
    for name, scores in extra.get("scores", {}).items():
        parts.append(f"## Held-out score\n\n{name}:\n\n| timestep | {' | '.join(scores)} "
                     f"|\n|---|{'---|' * len(scores)}\n| score | "
                     + " | ".join(f"{value:.4f}" for value in scores.values()) + " |")
    for title in ("data", "recipe"):
        if extra.get(title):
            parts.append(f"## {title.capitalize()}\n\n" + "\n".join(f"- {name}: {value}" for name, value in extra[title].items()))
    for title, said in (("left_out", "Left out"), ("notes", "Notes")):
        if extra.get(title):
            parts.append(f"## {said}\n\n" + "\n".join(f"- {each}" for each in extra[title]))
    shown = {name: value for name, value in config.items() if name != "extra"}
    parts.append("## Config\n\n" + "\n".join(f"- {name}: {value}" for name, value in shown.items()))
    parts.append("## Loading\n\n```python\nfrom rg_minimal import load_head, load_pipeline, read_picture\n\npipe = "
                 f"load_pipeline({base!r})\n"
                 f"head = load_head({str(place)!r}, pipe)\nreadout = read_picture(pipe, \"photo.jpg\", 100)(head)\n```")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n").content
