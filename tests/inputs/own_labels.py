"""Labels of one's own: what is missing, unreadable, mismatched, doubled or outside is refused, each with its file's name, by the reader and
by the command, before anything is trained, and nothing is written."""
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy
from PIL import Image

from inputs import Case
from rg_minimal import detectors, hub, reference, train
from rg_minimal.labels import from_dataset, open_dataset, read_labels
from rg_minimal.puppets import export
from tiny import make_head, tiny_pipe

CASES = []
NAMES = ["a", "b"]


def picture(path, i=0, size=(32, 32), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=numpy.uint8)).convert(mode).save(path)


def grey(path, size=(32, 32), mode="L", value=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def coco(folder, count=3, change=lambda told: None):
    """Three pictures with two keypoints each."""
    for i in range(count):
        picture(folder / "pictures" / f"{i}.png", i)
    told = {"images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(count)],
            "annotations": [{"image_id": i, "category_id": 1, "keypoints": [4, 5, 2, 20, 21, 1]} for i in range(count)],
            "categories": [{"id": 1, "name": "x", "keypoints": NAMES}]}
    change(told)
    (folder / "labels").write_text(json.dumps(told))


def maps(folder, count=3):
    for i in range(count):
        picture(folder / "pictures" / f"{i}.png", i)
        grey(folder / "labels" / f"{i}.png", value=50 * i)


def table(folder, lines=("0.png,1.png,3,4,5,6", "1.png,2.png,3,4,5,6"), header="frame_a,frame_b,x_a,y_a,x_b,y_b"):
    for i in range(3):
        picture(folder / "pictures" / f"{i}.png", i)
    (folder / "labels").write_text("\n".join([header, *lines]))


def people(folder):
    for i in range(6):
        picture(folder / "pictures" / "xyz"[i // 2] / f"{i}.png", i)


MADE = {"keypoints": coco, "map": maps, "lines": maps, "points": table, "triplets": people}


def read(kind, *changes, **settings):
    """The labels of a folder that was changed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        MADE[kind](folder)
        for change in changes:
            change(folder)
        return read_labels(kind, tiny_pipe(), str(folder / "pictures"), None if kind == "triplets" else str(folder / "labels"), **settings)


def refuse(kind, name, change, *says, **settings):
    CASES.append(Case(f"labels: {kind}", name, lambda: read(kind, change, **settings), says))


def take(kind, name, change, right, **settings):
    CASES.append(Case(f"labels: {kind}", name, lambda: read(kind, change, **settings), right=right))


def told(change):
    """The COCO file changed."""
    def changed(folder):
        file = folder / "labels"
        what = json.loads(file.read_text())
        file.write_text(json.dumps(change(what) or what))
    return changed


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def gone(name):
    return lambda folder: (folder / name).unlink()


def points_of(i, *numbers):
    return told(lambda what: what["annotations"][i].update(keypoints=list(numbers)))


def image_of(i, **entries):
    return told(lambda what: what["images"][i].update(entries))


# ---- pictures ----------------------------------------------------------------------------------------------------------

for kind in ("keypoints", "map", "lines", "points"):
    refuse(kind, "a picture that is none", text("pictures/1.png", "a"), "1.png", "no picture", "--skip-bad")
    refuse(kind, "an empty picture", text("pictures/1.png", ""), "1.png", "no picture")
    refuse(kind, "half a picture", lambda folder: (folder / "pictures/1.png").write_bytes((folder / "pictures/1.png").read_bytes()[:900]), "1.png", "cannot be read")
    refuse(kind, "a picture that is missing", gone("pictures/1.png"), "1.png")
    refuse(kind, "no folder of pictures", lambda folder: (folder / "pictures").rename(folder / "gone"), "pictures", "not there")
def film(path):
    """Three pictures in a file, of which the first alone would be seen."""
    first, *more = (Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (32, 32), dtype=numpy.uint8)) for i in range(3))
    first.save(path, format="TIFF", save_all=True, append_images=more)


for kind in ("keypoints", "map"):
    refuse(kind, "a film", lambda folder: film(folder / "pictures/1.png"), "1.png", "it holds 3 pictures; pass one")
refuse("map", "a film of maps", lambda folder: film(folder / "labels/1.png"), "1.png", "it holds 3 pictures; pass one")
for kind in ("keypoints", "map"):
    refuse(kind, "the same picture twice", lambda folder: picture(folder / "pictures/1.png", 0), "1.png", "same picture as 0.png")
    take(kind, "a bad file that is left out", text("pictures/1.png", "a"), lambda data: len(data) == 2 and data.left_out[0].file == "1.png", skip_bad=True)
    take(kind, "grey, palette, opacity, another size", lambda folder: (picture(folder / "pictures/0.png", 0, mode="L"), picture(folder / "pictures/1.png", 1, mode="P"),
                                                                     picture(folder / "pictures/2.png", 2, mode="RGBA")), lambda data: len(data) == 3)
    refuse(kind, "a size of no cells", lambda folder: None, "33", "multiple of", size=33)
    refuse(kind, "a fit that is none", lambda folder: None, "fit", "'crop' or 'stretch'", fit="pad")
take("points", "identical frames are one", lambda folder: picture(folder / "pictures/2.png", 0), lambda data: len(data.shots) == 2 and len(set(data.groups)) == 1)

# ---- a COCO file -------------------------------------------------------------------------------------------------------

for name, content in {"text": "a", "empty": "", "half": '{"images": [', "binary": "\x00\x01"}.items():
    refuse("keypoints", f"{name} for JSON", text("labels", content), "labels", "JSON", "COCO")
for name, change, says in (
        ("a list", lambda what: [1], "no COCO file"), ("no images", lambda what: what.pop("images") and None, "images"),
        ("no annotations", lambda what: what.pop("annotations") and None, "annotations"), ("no categories", lambda what: what.pop("categories") and None, "categories"),
        ("an id of text", lambda what: what["images"][0].update(id="x"), "images.0.id"), ("keypoints of text", lambda what: what["annotations"][0].update(keypoints=["x"]), "annotations.0.keypoints"),
        ("nan", lambda what: what["annotations"][0].update(keypoints=[float("nan"), 1, 2, 1, 1, 2]), "annotations.0.keypoints")):
    refuse("keypoints", name, told(change), "labels", says)
refuse("keypoints", "no category with keypoints", told(lambda what: what["categories"][0].pop("keypoints") and None), "0 categories", "--category")
refuse("keypoints", "two categories", told(lambda what: what["categories"].append({"id": 2, "name": "y", "keypoints": NAMES})), "2 categories", "x, y")
take("keypoints", "two categories, one named", told(lambda what: what["categories"].append({"id": 2, "name": "y", "keypoints": NAMES})), lambda data: len(data) == 3, category="x")
refuse("keypoints", "a category that is not there", lambda folder: None, "'z'", "x", category="z")
refuse("keypoints", "too few numbers", points_of(1, 4, 5, 2), "1.png", "6 (x, y, visibility)")
refuse("keypoints", "outside", points_of(1, 4, 5, 2, 33, 5, 2), "1.png", "(33, 5)", "outside")
refuse("keypoints", "left of it", points_of(1, -0.5, 5, 2, 3, 5, 2), "1.png", "(-0.5, 5)", "outside")
refuse("keypoints", "fractions", points_of(1, 0.2, 0.5, 2, 0.9, 0.4, 2), "1.png", "fractions")
refuse("keypoints", "nothing labelled", points_of(1, 4, 5, 0, 3, 5, 0), "1.png", "no keypoint is labelled")
refuse("keypoints", "visibility 3", points_of(1, 4, 5, 3, 3, 5, 2), "1.png", "visibility")
take("keypoints", "unlabelled and outside", points_of(1, 400, 5, 0, 3, 5, 2), lambda data: data.truth[1][1].tolist() == [False, True] and data.notes[0].file == "1.png")
for name, number in (("NaN", float("nan")), ("null", None)):
    take("keypoints", f"unlabelled and {name}", points_of(1, number, number, 0, 3, 5, 2), lambda data: data.truth[1].tolist()[1] == [False, True])
    refuse("keypoints", f"labelled and {name}", points_of(1, number, number, 2, 3, 5, 2), "keypoints.0", "number")
take("keypoints", "a byte order mark", lambda folder: (folder / "labels").write_text("\ufeff" + (folder / "labels").read_text(), encoding="utf-8"),
     lambda data: len(data) == 3)
refuse("keypoints", "no annotation", told(lambda what: what["annotations"].pop(1) and None), "1.png", "no annotation")
refuse("keypoints", "an annotation of no picture", told(lambda what: what["annotations"][0].update(image_id=77)), "77", "not listed")
refuse("keypoints", "a file twice", image_of(1, file_name="0.png"), "0.png", "listed twice")
refuse("keypoints", "an id twice", image_of(1, id=0), "1.png", "another picture")
refuse("keypoints", "a file elsewhere", image_of(1, file_name="../labels"), "../labels", "out of the folder")
refuse("keypoints", "labels of another size", image_of(1, width=64), "1.png", "32 x 64")
refuse("keypoints", "labels are a folder", lambda folder: ((folder / "labels").unlink(), (folder / "labels").mkdir()), "labels", "a folder")
refuse("keypoints", "no file of labels", gone("labels"), "labels", "not there")
take("keypoints", "a picture without an entry", lambda folder: picture(folder / "pictures/more.png", 9), lambda data: data.notes[0].file == "more.png")
take("keypoints", "a crowd beside a person", told(lambda what: what["annotations"].append({"image_id": 0, "category_id": 1, "iscrowd": 1, "area": 1e9, "keypoints": [1] * 6})),
     lambda data: data.truth[0][0].tolist() == [[4, 5], [20, 21]])
refuse("keypoints", "all cut off", lambda folder: (picture(folder / "pictures/1.png", 1, (96, 32)), image_of(1, width=96)(folder)), "1.png", "crop cuts off")

# ---- maps --------------------------------------------------------------------------------------------------------------

refuse("map", "no map", gone("labels/1.png"), "1.png", "has no map")
refuse("map", "no picture", gone("pictures/1.png"), "1.png", "belongs to no picture")
refuse("map", "two pictures of one stem", lambda folder: picture(folder / "pictures/1.jpg", 8), "1.jpg", "2 pictures")
refuse("map", "two maps of one stem", lambda folder: numpy.save(folder / "labels/1.npy", numpy.zeros((32, 32))), "1.npy", "2 maps")
refuse("map", "a map of another shape", lambda folder: grey(folder / "labels/1.png", (64, 32)), "1.png", "another shape")
refuse("map", "a map of few cells", lambda folder: grey(folder / "labels/1.png", (8, 8)), "1.png", "16 x 16 cells")
refuse("map", "a palette", lambda folder: grey(folder / "labels/1.png", mode="P"), "1.png", "mode P", "classes")
refuse("map", "opacity", lambda folder: grey(folder / "labels/1.png", mode="RGBA", value=(1, 2, 3, 4)), "1.png", "mode RGBA")
refuse("map", "one in colours", lambda folder: grey(folder / "labels/1.png", mode="RGB", value=(1, 2, 3)), "1.png", "3 channels")
refuse("lines", "colours", lambda folder: [grey(folder / f"labels/{i}.png", mode="RGB", value=(1, 2, 3)) for i in range(3)], "0.png", "lines have 1")
refuse("map", "a map that is none", text("labels/1.png", "a"), "1.png", "no picture")


def array(value):
    def save(folder):
        (folder / "labels/1.png").unlink()
        numpy.save(folder / "labels/1.npy", value)
    return save


refuse("map", "an array of texts", array(numpy.array([["a"]])), "1.npy", "of numbers")
refuse("map", "an array of objects", array(numpy.array([[{}]])), "1.npy", "cannot be used")
refuse("map", "an array with NaN", array(numpy.full((32, 32), numpy.nan)), "1.npy", "NaN")
refuse("map", "an array of metres", array(numpy.full((32, 32), 7.5)), "1.npy", "7.5", "scale it")
refuse("map", "an array of four axes", array(numpy.zeros((1, 1, 32, 32))), "1.npy", "(H, W)")
refuse("map", "no folder of maps", lambda folder: (folder / "labels").rename(folder / "gone"), "labels", "not there")
take("map", "a smaller map of the same shape", lambda folder: grey(folder / "labels/1.png", (16, 16)), lambda data: len(data) == 3)
take("map", "a file beside them", text("pictures/notes.txt", "a"), lambda data: data.notes[0].file == "notes.txt")

# ---- tables of points --------------------------------------------------------------------------------------------------


def lines(*rows, header="frame_a,frame_b,x_a,y_a,x_b,y_b"):
    return text("labels", "\n".join([header, "0.png,1.png,3,4,5,6", *rows]))


refuse("points", "no header", text("labels", "0.png,1.png,3,4,5,6"), "labels", "frame_a", "first line")
refuse("points", "an empty table", text("labels", ""), "labels", "columns none")
refuse("points", "a header alone", text("labels", "frame_a,frame_b,x_a,y_a,x_b,y_b"), "no picture with a label")
refuse("points", "a word for a number", lines("1.png,2.png,x,4,5,6"), "line 3", "x_a", "'x'")
refuse("points", "nan", lines("1.png,2.png,nan,4,5,6"), "line 3", "x_a")
refuse("points", "a short line", lines("1.png,2.png,4,5"), "line 3", "x_b")
refuse("points", "no frame", lines(",2.png,4,5,6,7"), "line 3", "frame_a")
refuse("points", "a frame that is missing", lines("1.png,9.png,3,4,5,6"), "9.png", "is not in")
refuse("points", "a frame elsewhere", lines("1.png,../labels,3,4,5,6"), "../labels", "is not in")
refuse("points", "outside", lines("1.png,2.png,3,4,5,60"), "(5, 60)", "2.png", "outside")
refuse("points", "fractions", lines("1.png,2.png,.3,.4,.5,.6", "1.png,2.png,.1,.4,.5,.6"), "1.png", "fractions")
refuse("points", "two places", lines("0.png,1.png,3,4,9,9"), "line 3", "two places")
refuse("points", "a frame and itself", lines("1.png,1.png,3,4,9,9"), "1.png", "same picture")
take("points", "a line twice", lines("0.png,1.png,3,4,5,6"), lambda data: "twice" in data.notes[0].why)
take("points", "more columns", lines("1.png,2.png,3,4,5,6,x", header="frame_a,frame_b,x_a,y_a,x_b,y_b,who"), lambda data: len(data) == 2)

# ---- identities --------------------------------------------------------------------------------------------------------

refuse("triplets", "one picture of an identity", gone("pictures/y/3.png"), "y", "one usable picture")
refuse("triplets", "a picture of nobody", lambda folder: picture(folder / "pictures/7.png", 7), "7.png", "no identity")
refuse("triplets", "a folder without a picture", lambda folder: (folder / "pictures/w").mkdir(), "w", "without a picture")
refuse("triplets", "a picture that is none", text("pictures/y/3.png", "a"), "y/3.png", "no picture")
refuse("triplets", "one picture of two", lambda folder: picture(folder / "pictures/y/3.png", 0), "y/3.png", "same picture as x/0.png")
refuse("triplets", "one identity", lambda folder: [(folder / "pictures" / each).rename(folder / each) for each in "xy"], "at least two")
refuse("triplets", "a category", lambda folder: None, "category", "leave it out", category="x")
CASES.append(Case("labels", "triplets with labels", lambda: read_labels("triplets", tiny_pipe(), ".", "."), ("triplets have none",)))
CASES.append(Case("labels", "keypoints without", lambda: read_labels("keypoints", tiny_pipe(), "."), ("labels are missing",)))
CASES.append(Case("labels", "another kind", lambda: read_labels("boxes", tiny_pipe(), ".", "."), ("kind", "'keypoints'")))
for share, says in ((1.5, "less than or equal to 1"), ("half", "pass a number"), (1.0, "too few"), (float("nan"), "finite")):
    CASES.append(Case("labels: split", f"{share}", lambda share=share: read("keypoints").split(share), ("too few" if share == 1.0 else "share", says)))
for settings, says in ({"width": 100}, ("width 100", "multiple")), ({"steps": 0}, ("steps", "greater than or equal to 1")), ({"held_out": 0.9}, ("too few",)):
    CASES.append(Case("train_labels", str(settings), lambda settings=settings: train.train_labels(read("keypoints"), tiny_pipe(), "nowhere", **settings), says))
CASES.append(Case("labels: split", "two identities", lambda: read("triplets").split(0.5), ("too few", "hold out 0")))

# ---- data sets ---------------------------------------------------------------------------------------------------------

SPOT = {"picture": Image.new("RGB", (32, 32), "red"), "keypoints": [[4, 5], [6, 7]]}
OTHER = {"picture": Image.new("RGB", (32, 32), "blue"), "keypoints": [[4, 5], [6, 7]]}
for name, rows, columns, says in (
        ("no such column", [SPOT], {"picture": "image"}, ("image", "picture, keypoints")),
        ("no such name", [SPOT], {"pictures": "picture"}, ("pictures", "columns")),
        ("nothing", [], None, ("columns",)),
        ("no picture", [{**SPOT, "picture": 7}, OTHER], None, ("row 0", "no picture")),
        ("a keypoint of words", [{**SPOT, "keypoints": "x"}, OTHER], None, ("row 0",)),
        ("a keypoint of one number", [SPOT, {**OTHER, "keypoints": [[1], [2]]}], None, ("row 1", "N x (x, y)")),
        ("other keypoints", [SPOT, {**OTHER, "keypoints": [[4, 5]]}], None, ("row 1", "where the others have 2")),
        ("twice", [SPOT, SPOT], None, ("row 1", "same picture"))):
    CASES.append(Case("labels: data set", name, lambda rows=rows, columns=columns: from_dataset("keypoints", tiny_pipe(), rows, columns), says))
for name, call, says in (
        ("a number", lambda: from_dataset("keypoints", tiny_pipe(), 7), ("dataset is", "list of dicts")),
        ("a dict of splits", lambda: from_dataset("keypoints", tiny_pipe(), {"train": [SPOT]}), ("dataset is", "dataset['train']")),
        ("columns in a list", lambda: from_dataset("keypoints", tiny_pipe(), [SPOT], ["picture"]), ("columns is", "pass a dict")),
        ("too few names", lambda: from_dataset("keypoints", tiny_pipe(), [SPOT], names=["a"]), ("names are 1", "2 keypoints"))):
    CASES.append(Case("labels: data set", name, call, says))
CASES.append(Case("labels: data set", "no folder", lambda: open_dataset("nowhere"), ("nowhere", "save_to_disk", "--download")))
CASES.append(Case("labels: data set", "a folder of something else", lambda: open_dataset("."), ("cannot be read", "save_to_disk")))

# ---- the command -------------------------------------------------------------------------------------------------------


class Began(Exception):
    """The command was not refused, and began to train."""


def command(options, main=train.main, changes=(), kind="keypoints"):
    """Run it in a folder with three labelled pictures; ValueError with its last line where it refuses, and nothing may be written."""
    def begin(*args, **settings):
        raise Began
    said, before = io.StringIO(), os.getcwd()
    kept = train.load_pipeline, train.train_labels
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            os.chdir(place)
            MADE[kind](Path())
            Path("taken").write_text("")
            Path("full").mkdir()
            Path("full/thesis.txt").write_text("")
            for change in changes:
                change(Path())
            there = sorted(Path().rglob("*"))
            train.train_labels = begin
            if "--model" not in options:
                train.load_pipeline = lambda *args, **settings: tiny_pipe()
            main(options.split())
        except SystemExit as stopped:
            assert stopped.code == 2 and sorted(Path().rglob("*")) == there, f"exit status {stopped.code}"
            raise ValueError(said.getvalue().strip().splitlines()[-1]) from None
        except Began:
            return True
        finally:
            train.load_pipeline, train.train_labels = kept
            os.chdir(before)


BASE = "--kind keypoints --pictures pictures --labels labels --output out"
for options, says in {
        BASE.replace("keypoints", "boxes"): ("--kind", "boxes"), BASE.replace(" --output out", ""): ("--output",),
        BASE.replace("--pictures pictures ", ""): ("--pictures", "--dataset"), f"{BASE} --dataset x": ("--pictures", "--dataset"),
        BASE.replace("--labels labels ", ""): ("labels are missing",), BASE.replace("--labels labels", "--labels nowhere"): ("nowhere", "not there"),
        BASE.replace("--pictures pictures", "--pictures nowhere"): ("nowhere", "not there"), BASE.replace("--pictures pictures", "--pictures taken"): ("taken", "a file"),
        BASE.replace("--output out", "--output taken"): ("taken", "file"), BASE.replace("--output out", "--output full"): ("full", "thesis.txt", "lost"),
        f"{BASE} --steps 0": ("--steps", "greater than or equal to 1"), f"{BASE} --steps many": ("--steps", "whole number"), f"{BASE} --batch -1": ("--batch",),
        f"{BASE} --lr 0": ("--lr", "greater than 0"), f"{BASE} --lr nan": ("--lr", "finite"), f"{BASE} --lr fast": ("--lr", "fast"),
        f"{BASE} --held-out 2": ("--held-out", "less than or equal to 1"), f"{BASE} --seed -1": ("--seed",), f"{BASE} --width 2.5": ("--width", "whole number"),
        f"{BASE} --fit pad": ("--fit", "pad"), f"{BASE} --size 33": ("33", "multiple"), f"{BASE} --model nowhere": ("nowhere", "pass a folder"),
        f"{BASE} --push me": ("--push", "WHO/WHAT"), f"{BASE} --columns a=b": ("--columns", "--dataset"), f"{BASE} --columns ab": ("--columns", "NAME=COLUMN"),
        f"{BASE} --category z": ("'z'",), f"{BASE} --speed 3": ("unrecognized",), "--kind keypoints --dataset nowhere --output out": ("nowhere", "--download"),
        BASE.replace("keypoints", "triplets"): ("triplets have none",)}.items():
    CASES.append(Case("python -m train", options, lambda options=options: command(options), says))
CASES.append(Case("python -m train", "as it should be", lambda: command(BASE), right=bool))
CASES.append(Case("python -m train", "a bad file", lambda: command(BASE, changes=[text("pictures/1.png", "a")]), ("1.png", "--skip-bad")))
CASES.append(Case("python -m train", "a bad file left out", lambda: command(f"{BASE} --skip-bad", changes=[text("pictures/1.png", "a")]), right=bool))


def finished(folder):
    make_head(tiny_pipe()).save_pretrained(folder / "out")


CASES.append(Case("python -m train", "a finished head in its place", lambda: command(BASE, changes=[finished]), ("out", "finished head")))
for options, says in {"boxes out": ("boxes",), "map out --count 0": ("--count",), "map taken": ("taken", "file"), "map out --seed x": ("--seed",)}.items():
    CASES.append(Case("python -m export", options, lambda options=options: command(options, export.main), says))
for options, says in {"depth pictures out": ("--model",), "depth pictures out --model nowhere": ("nowhere", "--download"), "pose pictures out --model x": ("pose",),
                      "depth pictures taken --model x": ("taken",)}.items():
    CASES.append(Case("python -m detectors", options, lambda options=options: command(options + " " * ("--model" in options), detectors.main), says))

# ---- the hub -----------------------------------------------------------------------------------------------------------

for name, call, says in (
        ("released, no commit", lambda: reference.load_reference_head(reference.RELEASED[0], local_files_only=False), ("revision", "commit")),
        ("released, a branch", lambda: reference.load_reference_head(reference.RELEASED[0], local_files_only=False, revision="main"), ("main", "commit")),
        ("no released head", lambda: reference.load_reference_head("readout_sd3_pose", local_files_only=False, revision="a" * 40), ("readout_sd3_pose", "readout_sdxl_spatial_pose")),
        ("a name that is none", lambda: hub.fetch("me/po se", "config.json", None, False), ("me/po se", "could not be fetched"))):
    CASES.append(Case("the hub", name, call, says))
