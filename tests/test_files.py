"""Files and folders are whole or absent, whatever happens while they are written, and nothing of anybody else's is deleted."""
import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rg_minimal import files
from rg_minimal.files import (read_json, read_weights, refuse_others, remove_known, replace_folder, write_file, write_json,
                              write_tensors, write_weights)


LEFT = "a.0123456789ab.partial"             # as a killed run leaves it


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

    def interrupted(*paths):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        write_file(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a"]


def in_a_child(act):
    """Run `act` in a forked process, which then dies on the spot, as by kill -9: nothing is tidied up, all locks end."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            act()
        os._exit(0)
    os.waitpid(child, 0)


def test_what_a_killed_run_left_goes_at_the_next_call_and_nothing_else_does(tmp_path):
    path = write_file(tmp_path / "a", "old")
    for name in ("a.partial", "b.tmp", "a.0123456789ab.partial.txt", "a.0123456789AB.partial"):
        (tmp_path / name).write_text("mine")
    mine = names(tmp_path)
    in_a_child(lambda: write_file(path, lambda aside: (aside.write_text("ne"), os._exit(0))))
    in_a_child(lambda: replace_folder(tmp_path / "it", lambda aside: (full_disk(aside / "x"), os._exit(0)), {"x"}))
    in_a_child(lambda: replace_folder(tmp_path / "it", lambda aside: ((aside / "x").touch(), os._exit(0)), {"x"}))
    assert path.read_text() == "old" and len(names(tmp_path)) == len(mine) + 1, "each call tidied up what lay there"
    assert write_file(tmp_path / "c", "new").read_text() == "new" and names(tmp_path) == sorted([*mine, "c"])


def test_what_another_is_writing_is_left_alone(tmp_path):
    """Two at once, in one process and in two: both end whole, the later one stays."""
    def meanwhile(aside):
        aside.write_text("first")
        write_file(tmp_path / "a", "second")
        replace_folder(tmp_path / "it", lambda folder: (folder / "x").write_text("second"), {"x"})
        in_a_child(lambda: write_file(tmp_path / "a", "third"))
        assert aside.read_text() == "first" and (tmp_path / "a").read_text() == "third"
    write_file(tmp_path / "a", meanwhile)
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a", "it"]
    replace_folder(tmp_path / "it", lambda aside: (meanwhile(aside / "x"), names(tmp_path)), {"x"})
    assert (tmp_path / "it" / "x").read_text() == "first" and names(tmp_path) == ["a", "it"]


def test_a_link_is_followed_and_what_is_no_file_or_protected_is_refused(tmp_path, monkeypatch):
    write_file(tmp_path / "there" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "a").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a device, not a file"):
        write_file(tmp_path / "pipe", "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)               # root may write everything
    with pytest.raises(ValueError, match="is write-protected"):
        write_file(tmp_path / "there" / "a", "newer")
    assert (tmp_path / "there" / "a").read_text() == "new"


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


def ends_at(number, act, end):
    """`act`, but its call with this number is `end`."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return end() if len(calls) == number else act(*arguments)
    return counted


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("at_once", [True, False], ids=["exchange", "two steps"])
def test_a_folder_survives_every_kill_and_failure(tmp_path, monkeypatch, at_once):
    if not at_once:                                                             # as where the system cannot exchange folders
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    folder = replace_folder(tmp_path / "it", fill("a", "b"), {"a", "b"})
    with pytest.raises(OSError):
        replace_folder(folder, lambda aside: full_disk(aside / "a"), {"a", "b"})
    assert names(tmp_path) == ["it"] and names(folder) == ["a", "b"]
    if not at_once:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", ends_at(2, os.replace, interrupt))
            replace_folder(folder, lambda aside: (aside / "a").mkdir(), {"a", "b"})
        assert names(tmp_path) == ["it"] and names(folder) == ["a", "b"]
        in_a_child(lambda: (setattr(os, "replace", ends_at(2, os.replace, lambda: os._exit(0))),
                            replace_folder(folder, lambda aside: (aside / "a").mkdir(), {"a", "b"})))
        assert not folder.exists() and len(names(tmp_path)) == 2
    with pytest.raises(ValueError, match="holds b"):                            # it is back, with what stands in the way
        replace_folder(folder, fill("a"), {"a"})
    replace_folder(folder, fill("a"), {"a", "b"})
    assert names(tmp_path) == ["it"] and names(folder) == ["a"]


def test_what_is_not_known_stands_in_the_way_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "it"
    folder.mkdir()
    for name in ("a", LEFT, "thesis.txt"):
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
    assert names(folder) == ["a", LEFT, "thesis.txt"] and (tmp_path / "file").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    remove_known(folder, {"a"})
    remove_known(folder, {"a"})
    assert names(tmp_path) == ["file", "link"]


def test_what_lies_deeper_is_not_deleted_either(tmp_path):
    folder, known = tmp_path / "run", ("vae/config.json", "latents/*.safetensors", "whole")
    for name in ("vae/config.json", "latents/0.safetensors", f"latents/0.safetensors.{LEFT[2:]}", "whole/a/b"):
        write_file(folder / name, "ours")
    for name in ("vae/thesis.txt", "latents/deeper/0.safetensors", "latents/0.safetensors.partial", "other/whole"):
        write_file(folder / name, "mine")
        with pytest.raises(ValueError, match=f"holds {name}, which would be lost"):
            remove_known(folder, known)
        (folder / name).unlink()
    (folder / "latents" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds latents/link"):
        remove_known(folder, known)
    (folder / "latents" / "link").unlink()
    remove_known(folder, known)
    assert names(tmp_path) == []


def test_a_deletion_that_is_killed_leaves_no_half_of_a_folder(tmp_path):
    write_file(tmp_path / "run" / "a", "ours")
    in_a_child(lambda: (setattr(files.shutil, "rmtree", lambda *paths, **settings: os._exit(0)), remove_known(tmp_path / "run", {"a"})))
    assert len(names(tmp_path)) == 1 and not (tmp_path / "run").exists()
    remove_known(tmp_path / "run", {"a"})
    assert names(tmp_path) == []


# ---- weights and their config ------------------------------------------------------------------------------------------

def killed_between(path, tensors, config):
    """As `write_weights` leaves it when it is killed after the first of its two files."""
    in_a_child(lambda: (setattr(files, "write_json", lambda *what: os._exit(0)), write_weights(path, tensors, config)))


def test_weights_and_config_are_one_whenever_saving_is_killed(tmp_path):
    path, ones, zeros = tmp_path / "head.safetensors", {"x": torch.ones(2)}, {"x": torch.zeros(2)}
    killed_between(path, zeros, {"about": "it", "size": [1, 2]})
    assert read_weights(path)[1] == {"about": "it", "size": [1, 2]} and names(tmp_path) == ["head.safetensors"]
    write_weights(path, zeros, {"about": "it"})
    for number in range(2):
        killed_between(path, ones, {"about": "another", "number": number})
        tensors, config = read_weights(path)
        assert config == {"about": "another", "number": number} and torch.equal(tensors["x"], ones["x"])
        assert read_json(tmp_path / "config.json") == {"about": "it"}
    write_weights(path, ones, {"about": "another"})
    assert read_json(tmp_path / "config.json") == {"about": "another"}


def test_a_config_that_is_not_that_of_the_weights_is_named(tmp_path):
    path, told = tmp_path / "head.safetensors", tmp_path / "config.json"
    write_weights(path, {"x": torch.ones(2)}, {"about": "it", "width": 3})
    write_json(told, {"about": "it", "width": 4, "more": None})
    with pytest.raises(ValueError, match="do not fit their config: .* width: 4, not 3.*delete config.json"):
        read_weights(path)
    told.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        read_weights(path)
    told.unlink()
    assert read_weights(path)[1] == {"about": "it", "width": 3}
    write_tensors(path, {"x": torch.ones(2)})                                   # as older versions wrote it
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        read_weights(path)
    write_json(told, {"about": "old"})
    assert read_weights(path)[1] == {"about": "old"}
    with pytest.raises(ValueError, match="cannot be written .*finite numbers"):
        write_weights(path, {"x": torch.ones(2)}, {"score": float("nan")})
    assert read_weights(path)[1] == {"about": "old"}


KINDS = {"name": str, "count": int, "share": float}


@pytest.mark.parametrize("text, problem", [
    ("name,count,share\na,1,nan\n", "share nan"), ("name,count,share\na,1,inf\n", "share inf"), ("name,count,share\na,1\n", "fewer than 3 entries"),
    ("name,count,share\na,1,0.5,more\n", "more than 3 entries"), ("name,count,share,look\na,1,0.5,x\n", "more than 3|its columns are"),
    ("my notes\n", "its columns are my notes"), ("name,count,share\na,one,0.5\n", "invalid literal"), ("share,name,count\n", "its columns are"),
    ("name,count,share\n" + "a" * 200_000 + ",1,0.5\n", "field larger")])
def test_what_is_no_such_table_is_not_read(tmp_path, text, problem):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=f"rows.csv is no table of fruit .*({problem}).*measure again"):
        files.rows_so_far(tmp_path / "rows.csv", KINDS, "fruit")


def test_rows_are_added_to_what_is_there_now(tmp_path):
    table, rows = tmp_path / "rows.csv", [{"name": name, "count": i, "share": 0.25} for i, name in enumerate("abc")]
    assert files.rows_so_far(table, KINDS, "fruit") == []
    files.add_rows(table, rows[:2], KINDS, ["name"], "fruit"), files.add_rows(table, [rows[2], {**rows[0], "share": 0.5}], KINDS, ["name"], "fruit")
    assert files.read_rows(table, KINDS, "fruit") == [{**rows[0], "share": 0.5}, *rows[1:]]
    files.add_rows(table, [rows[1]], KINDS, ["name"], "fruit", kept=lambda there: [row for row in there if row["share"] < 0.5])
    assert files.read_rows(table, KINDS, "fruit") == rows[1:], "what is left out goes, the others keep their places"


ADDS = """
import sys, time
from rg_minimal import files
name, table, write = sys.argv[1], sys.argv[2], files.write_rows
files.write_rows = lambda *what: (time.sleep(0.005), write(*what))          # another would read in between
print("ready", flush=True), sys.stdin.readline()
for i in range(20):
    files.add_rows(table, [{"name": name, "count": i, "share": 0.5}], {"name": str, "count": int, "share": float}, ("name", "count"), "fruit")
"""


def test_what_two_processes_add_at_once_is_all_kept(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "rows.csv")               # the same table by another name
    both = [subprocess.Popen([sys.executable, "-c", ADDS, name, tmp_path / table], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=Path(files.__file__).parents[1]) for name, table in (("a", "rows.csv"), ("b", "link.csv"))]
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for each in both:
        each.stdin.write("go\n"), each.stdin.flush()
    assert [each.wait(120) for each in both] == [0, 0]
    rows = files.read_rows(tmp_path / "rows.csv", KINDS, "fruit")
    assert sorted((row["name"], row["count"]) for row in rows) == [(name, i) for name in "ab" for i in range(20)]
    assert names(tmp_path) == ["link.csv", "rows.csv"]


def test_who_is_killed_or_fails_while_adding_makes_nobody_wait(tmp_path):
    table, row = tmp_path / "rows.csv", {"name": "a", "count": 1, "share": 0.5}
    add = lambda **more: files.add_rows(table, [row], KINDS, ["name"], "fruit", **more)
    in_a_child(lambda: add(kept=lambda there: os._exit(0)))
    assert len(names(tmp_path)) == 1 and not table.exists()
    write_file(tmp_path / "else", "swept by whatever is written there")
    assert names(tmp_path) == ["else"]
    in_a_child(lambda: add(kept=lambda there: os._exit(0)))
    add()
    assert names(tmp_path) == ["else", "rows.csv"]
    with pytest.raises(OSError, match="no space"):
        add(kept=lambda there: full_disk(tmp_path / "else"))
    assert names(tmp_path) == ["else", "rows.csv"] and len(files.read_rows(table, KINDS, "fruit")) == 1
    with pytest.raises(ValueError, match="a file is in its way"):
        files.add_rows(tmp_path / "else" / "rows.csv", [], KINDS, ["name"], "fruit")


def no_locks(*what):
    raise OSError("no locks available")


@pytest.mark.parametrize("known", [None, SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=no_locks)], ids=["Windows", "disk"])
def test_where_there_are_no_locks_rows_are_added_all_the_same(tmp_path, monkeypatch, known):
    monkeypatch.setattr(files, "fcntl", known)
    for name in "ab":
        files.add_rows(tmp_path / "rows.csv", [{"name": name, "count": 1, "share": 0.5}], KINDS, ["name"], "fruit")
    assert [row["name"] for row in files.read_rows(tmp_path / "rows.csv", KINDS, "fruit")] == ["a", "b"] and names(tmp_path) == ["rows.csv"]


def test_a_sample_of_kills():
    """A few of those of tests/kills.py, in a process of its own: a fork wants one without threads."""
    writers = ["head over another", "state of a training", "recipe of the studio", "export of a pipeline"]
    run = subprocess.run([sys.executable, str(Path(__file__).with_name("kills.py")), "4", *writers], capture_output=True, text=True,
                         cwd=Path(__file__).parent.parent, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == "16 kills, 0 wrong, 0 left", run.stdout + run.stderr[-3000:]


@pytest.mark.parametrize("config", [{"_class_name": "UNet2DConditionModel", "width": 1}, {"model_type": "clip"}, {"vocabulary": 3}, ["a list"]])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_config_of_something_else_stays(tmp_path, config, encoding):
    """Also where an editor has put a byte order mark before it, with which it was taken for damaged."""
    (tmp_path / "config.json").write_text(json.dumps(config), encoding=encoding)
    with pytest.raises(ValueError, match="config.json belongs to something else"):
        write_weights(tmp_path / "head.safetensors", {"x": torch.ones(2)}, {"width": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text(encoding=encoding)) == config


def test_a_byte_order_mark_is_no_damage(tmp_path):
    write_weights(tmp_path / "head.safetensors", {"x": torch.ones(2)}, {"width": 3})
    beside = tmp_path / "config.json"
    beside.write_text(beside.read_text(), encoding="utf-8-sig")
    assert read_json(beside) == read_weights(tmp_path / "head.safetensors")[1] == {"width": 3}


def test_weights_that_are_no_numbers_do_not_replace_good_ones(tmp_path):
    write_weights(tmp_path / "head.safetensors", {"x": torch.ones(2)}, {"width": 3})
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        write_weights(tmp_path / "head.safetensors", {"x": torch.tensor([1.0, float("nan")])}, {"width": 4})
    tensors, config = read_weights(tmp_path / "head.safetensors")
    assert config == {"width": 3} and tensors["x"].isfinite().all()


def test_no_file_is_written_that_would_then_be_refused(tmp_path):
    """One NaN would make all that was in the file before unreadable."""
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="a.json is not written, a number in it is NaN or infinite"):
        files.update_json(tmp_path / "a.json", lambda known: {"b": float("inf")})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    kinds = {"k": str, "a": float}
    files.add_rows(tmp_path / "r.csv", [{"k": "1", "a": 1.0}], kinds, ["k"], "x")
    with pytest.raises(ValueError, match="r.csv is not written: a row has a nan"):
        files.add_rows(tmp_path / "r.csv", [{"k": "2", "a": float("nan")}], kinds, ["k"], "x")
    assert files.read_rows(tmp_path / "r.csv", kinds, "x") == [{"k": "1", "a": 1.0}]


def test_a_place_that_cannot_be_written_is_told_before_slow_work(tmp_path, monkeypatch):
    own = os.access                                         # root may write anywhere, so the answer is played
    monkeypatch.setattr(os, "access", lambda path, mode: own(path, mode) and not Path(path).name.startswith("locked"))
    (tmp_path / "locked").mkdir()
    for place in (tmp_path / "locked", tmp_path / "locked" / "new" / "folder"):
        with pytest.raises(ValueError, match="cannot be written, .*locked is write-protected"):
            files.refuse_file(place)
        with pytest.raises(ValueError, match="write-protected"):
            files.check_file(place / "head.safetensors", {})
    with pytest.raises(ValueError, match="cannot be made .*: choose another name"):
        write_file(tmp_path / ("n" * 300) / "x.json", "x")


@pytest.mark.parametrize("module, words, option, place", [
    ("puppets.measure", ["pose"], "out", "data/results"), ("puppets.heads", ["pose"], "out", "data/heads"), ("puppets.judge", [], "folder", "data/judge"),
    ("puppets.previews", [], "folder", "data/previews"), ("puppets.decoder", [], "folder", "data/decoder"), ("puppets.front", [], "table", "data/results/front.csv"),
    ("evidence.__main__", ["trial"], "folder", "data/results/evidence"),
    ("evidence.__main__", ["contest"], "folder", "data/results/evidence"), ("evidence.__main__", ["report"], "folder", "data/results/evidence")])
def test_what_a_command_writes_by_default_goes_where_it_is_read_from(module, words, option, place, tmp_path, monkeypatch):
    """From another folder, such as notebooks/, too: a data/results/evidence that it made there, with a table of its own, would be found first
    from then on, by notebook A4 as well, and a data/heads in the place of the heads that are shipped."""
    told = {}

    def parse(parser, arguments):
        told.update(vars(argparse.ArgumentParser.parse_known_args(parser, arguments)[0]))
        raise KeyboardInterrupt
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        importlib.import_module(f"rg_minimal.{module}").main(words)
    assert Path(told[option]).resolve() == Path(__file__).resolve().parents[1] / place
