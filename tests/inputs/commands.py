"""Commands: what makes no sense is refused in one sentence with exit status 2, before anything slow, and nothing is written."""
import contextlib
import io
import os
import tempfile
from pathlib import Path

from inputs import Case
from rg_minimal.classroom import collect, needs, sheets, versions
from rg_minimal.puppets import decoder, heads, judge, measure, previews, transformer

MAINS = {"measure": measure.main, "heads": heads.main, "judge": judge.main, "transformer": transformer.main, "previews": previews.main, "decoder": decoder.main,
         "sheets": sheets.main, "collect": collect.main, "versions": versions.main, "needs": needs.main}
REPOSITORY = Path(__file__).resolve().parents[2]
CASES = []


class Slow(Exception):
    """A command that was not refused went on to its slow work."""


def run(command, arguments, slow=()):
    """Run a command in an empty folder with a file `taken` in it; ValueError with its last line where it refuses what it was told,
    and Slow where it begins with one of `slow`, (module, name) each."""
    def begin(*args, **kwargs):
        raise Slow(f"{command} {' '.join(arguments)} began")
    said, kept = io.StringIO(), [(module, name, getattr(module, name)) for module, name in slow]
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            os.chdir(folder)
            Path("taken").write_text("")
            for module, name, _ in kept:
                setattr(module, name, begin)
            MAINS[command](arguments)
        except SystemExit as stopped:
            if stopped.code == 2 and sorted(os.listdir()) == ["taken"]:
                lines = said.getvalue().strip().splitlines()
                raise ValueError(lines[-1]) from None
            raise AssertionError(f"exit status {stopped.code}, files {os.listdir()}") from None
        finally:
            for module, name, value in kept:
                setattr(module, name, value)
            os.chdir(before)


def began(command, arguments, slow):
    """Whether the command takes these options, and begins."""
    try:
        run(command, arguments, slow)
    except Slow:
        return True


SLOW = {"measure": [(measure, "finish")], "heads": [(heads, "make_head")], "judge": [(judge, "train_judge")],
        "transformer": [(transformer, "train_autoencoder")], "previews": [(previews, "train_previews")], "decoder": [(decoder, "train_decoder")],
        "sheets": [(sheets, "make_sheet")], "collect": [(collect, "found_in")], "versions": [(versions, "replace_folder")], "needs": [(needs, "run_notebook")]}
MODEL, HEADS = str(REPOSITORY / "data/puppet-diffusion"), str(REPOSITORY / "data/heads")


def refuse(command, options, *says):
    CASES.append(Case(f"python -m {command}", options, lambda: run(command, options.split(), SLOW[command]), says))


def take(command, options):
    CASES.append(Case(f"python -m {command}", options, lambda: began(command, options.split(), SLOW[command]), right=bool))


for command, first in (("measure", "pose"), ("sheets", "depth -o a.png")):
    for option, rest in (("--count", "whole number"), ("--steps", "whole number")):
        for value in ("2.5", "many", "1e3", "nan", "True"):
            refuse(command, f"{first} {option} {value}", option, rest)
        for value in ("0", "-1"):
            refuse(command, f"{first} {option}={value}", option, "greater than or equal to 1")
    refuse(command, f"{first} --steps 1001", "--steps", "less than or equal to 1000")
    refuse(command, f"{first} --model nothing", "nothing", "pass a folder")
    refuse(command, f"{first} --model taken", "taken", "pass a folder")
    refuse(command, f"{first} --heads nothing", "nothing", "head.safetensors")
    refuse(command, f"{first} --heads taken", "taken", "head.safetensors")
    refuse(command, f"{first} --seed 3", "unrecognized", "--seed")
for what in ("drag", "drag-inverted"):
    for count in (1, 3, 5, 6, 10, 99):
        refuse("measure", f"{what} --count {count}", "--count", "multiple of 4", what)
    refuse("sheets", f"{what} -o a.png --count 3", "--count", "multiple of 4", what)
for what in ("cost", "combination"):
    refuse("measure", f"{what} --count 3", "--count", "leave it out", what)
    refuse("measure", f"pose {what} --count 8", "--count", "leave it out", what)
for what in ("base", "inversion"):
    refuse("measure", f"{what} --heads {HEADS}", "--heads", "leave it out", what)
for what in ("pose", "cost", "depth", "edges", "drag", "drag-inverted", "identity", "combination"):
    refuse("measure", f"{what} --steps 1", "--steps", "at least 2", what)
refuse("measure", "", "what", "required")
refuse("measure", "all", "all", "choose from")
refuse("measure", "base --out taken", "taken", "choose another folder")
refuse("measure", "base --out taken/results", "taken", "choose another folder")
refuse("sheets", "cost -o a.png", "cost", "choose from")
refuse("sheets", "depth edges -o a.png", "edges")
refuse("sheets", "depth", "--out", "required")
for out in ("a.jpg", "a", "."):
    refuse("sheets", f"depth -o {out}", "--out", ".png")
refuse("sheets", "depth -o taken/a.png", "taken", "choose another folder")
refuse("sheets", "depth -o a.png --steps 1", "--steps", "at least 2")
take("measure", "base --steps 1 --count 1")
take("measure", "base inversion --steps 2")
take("measure", "drag --count 4 --steps 2")
take("measure", "pose pose --count 1")
take("sheets", "base -o a.png --steps 1 --count 1")
take("sheets", "drag -o new/a.png --count 8")

for option in ("--pictures", "--steps"):
    for value in ("0", "-1"):
        refuse("heads", f"pose {option}={value}", option, "greater than or equal to 1")
    for value in ("2.5", "many", "nan"):
        refuse("heads", f"pose {option} {value}", option, "whole number")
refuse("heads", "", "heads", "required")
refuse("heads", "nose", "nose", "choose from")
refuse("heads", "pose --model nothing", "nothing", "pass a folder")
refuse("heads", "pose --out taken", "taken", "choose another folder")
refuse("heads", "pose --work taken/deeper", "taken", "choose another folder")
refuse("heads", "pose --count 3", "unrecognized", "--count")
take("heads", "all --pictures 1 --steps 1")

for option in ("--pictures", "--steps", "--count"):
    for value, word in (("0", "greater than or equal to 1"), ("2.5", "whole number"), ("many", "whole number")):
        refuse("judge", f"{option}={value}", option, word)
refuse("judge", "--batch 1", "--batch", "greater than or equal to 2")
refuse("judge", "--seed=-1", "--seed", "greater than or equal to 0")
refuse("judge", "--device tpu", "--device", "choose from")
refuse("judge", "--vae nothing", "--vae", "no such folder")
refuse("judge", "--folder taken", "taken", "choose another folder")
refuse("judge", "--run taken", "taken", "choose another folder")
CASES.append(Case("python -m judge", "--run ''", lambda: run("judge", ["--run", ""], SLOW["judge"]), ("run is ''", "not empty")))
take("judge", "--pictures 4 --steps 1 --batch 2 --count 1")

START = f"--start-from {MODEL}"
for option in ("pictures", "shard", "captions", "width", "heads", "depth", "steps", "batch", "save-every"):
    refuse("transformer", f"--{option} 0 {START}", option.replace("-", "_"), "greater than or equal to 1")
    refuse("transformer", f"--{option} 2.5 {START}", f"--{option}", "int")
for option in ("lr", "adam-lr", "noise-mean", "decay", "ema", "caption-dropout", "guidance-scale"):
    refuse("transformer", f"--{option} nan {START}", option.replace("-", "_"), "finite")
for option in ("decay", "ema", "caption-dropout"):
    refuse("transformer", f"--{option} 1.5 {START}", option.replace("-", "_"), "less than or equal to 1")
refuse("transformer", f"--warmup -5 {START}", "warmup", "greater than or equal to 0")
refuse("transformer", f"--width 100 {START}", "width", "multiple")
refuse("transformer", f"--device tpu {START}", "device", "'cpu' or 'cuda'")
refuse("transformer", "--start-from nothing", "nothing", "pipeline's folder")
refuse("transformer", f"--folder taken {START}", "taken", "folder")
refuse("transformer", f"--run taken {START}", "taken", "choose another folder")
refuse("transformer", f"--compile yes {START}", "unrecognized", "yes")
take("transformer", f"--steps 1 --noise-mean -0.5 --compile {START}")

for option in ("pictures", "width", "steps", "batch", "crop", "save-every"):
    refuse("previews", f"--{option} 0 {START}", option.replace("-", "_"), "greater than or equal to 1")
    refuse("previews", f"--{option} 2.5 {START}", f"--{option}", "int")
refuse("previews", f"--pictures 3 {START}", "pictures", "multiple of 2")
refuse("previews", f"--crop 33 {START}", "crop", "less than or equal to 32")
refuse("previews", f"--lr nan {START}", "lr", "finite")
refuse("previews", f"--seed=-1 {START}", "seed", "greater than or equal to 0")
refuse("previews", "--start-from nothing", "nothing", "pipeline's folder")
refuse("previews", f"--folder taken {START}", "taken", "folder")
refuse("previews", f"--run taken {START}", "taken", "choose another folder")
take("previews", f"--steps 1 --pictures 2 {START}")
for option in ("steps", "batch", "save-every", "last"):
    refuse("decoder", f"--{option} 0 {START}", option.replace("-", "_"), "greater than or equal to 1")
refuse("decoder", f"--pictures 3 {START}", "pictures", "multiple of 2")
refuse("decoder", f"--last 16 {START}", "last", "less than or equal to 15")
refuse("decoder", f"--average 1.5 {START}", "average", "less than or equal to 1")
refuse("decoder", f"--reach 0 {START}", "reach", "greater than 0")
refuse("decoder", "--start-from nothing", "nothing", "pipeline's folder")
refuse("decoder", f"--folder taken {START}", "taken", "folder")
refuse("decoder", f"--run taken {START}", "taken", "choose another folder")
take("decoder", f"--steps 1 --pictures 2 {START}")

NOTEBOOKS = str(REPOSITORY / "notebooks")
for value, word in (("0", "greater than or equal to 1"), ("-3", "greater than or equal to 1"), ("2.5", "whole number"), ("soon", "whole number")):
    refuse("collect", f". --limit={value}", "--limit", word)
refuse("collect", "", "folder", "required")
refuse("collect", "nothing", "nothing", "no folder")
refuse("collect", "taken", "taken", "no folder")
refuse("collect", ". -o .", "among the students' files", "choose another folder")
refuse("collect", ". -o ..", "among the students' files", "choose another folder")
refuse("collect", ". -o taken", "taken", "choose another folder")
refuse("collect", ". -o taken/deeper", "taken", "choose another folder")
take("collect", ". --limit 5 --again")
refuse("versions", "", "folder", "required")
refuse("versions", "taken", "taken", "choose another folder")
refuse("versions", NOTEBOOKS, "where the course itself lies", "out/versions")
refuse("versions", f"{NOTEBOOKS}/solutions", "where the course itself lies", "out/versions")
take("versions", "new")
refuse("needs", "13_none", "13_none", "choose from 00_start_here")
refuse("needs", "00_start_here -o taken/m.json", "taken", "choose another folder")
refuse("needs", "-o taken/m.json", "taken", "choose another folder")
take("needs", "")
take("needs", "00_start_here 07_drag")
take("needs", "00_start_here 07_drag -o new/m.json")
