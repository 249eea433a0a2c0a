"""Files of labels, read and looked at: COCO keypoints, maps, tables of points, folders of identities, columns of `datasets`.

Each reader gives rows, one for each labelled picture or pair, and the names of what is labelled; what is wrong with a file is a
`Problem` among the `Finds`. What samples a head learns from these rows is the matter of `labels.py`.
"""
from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy
import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from torch import Tensor

from .checks import describe
from .pictures import as_pictures, opened

SHOWN = 12                  # files that a message names


# ---- what is found -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Shot:
    """A picture that is looked at when it is needed: what messages call it, and what `as_pictures` takes, or a function that gives it."""
    name: str
    held: Any
    mark: str = ""                      # a checksum of its pixels, once they were looked at

    def picture(self) -> Tensor:                                                        # (1, 3, H, W)
        held = self.held() if callable(self.held) else self.held
        if isinstance(held, Path):
            with opened(str(held), "the picture") as image:
                refuse_several(image)
                return as_pictures(image, "the picture")
        refuse_several(held)
        return as_pictures(held, "the picture")


def refuse_several(image) -> None:
    """ValueError for an image file of several pictures, such as a film or a stack, of which the first alone would be seen. Phones put
    further pictures behind a JPEG (MPO), which are none of its own."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":
        raise ValueError(f"it holds {count} pictures; pass one")


@dataclass(frozen=True)
class Problem:
    """A file, and why it cannot be used."""
    file: str
    why: str

    def __str__(self):
        return f"{self.file}: {self.why}"


class Finds:
    """What is found while labels are read: problems and notes."""

    def __init__(self):
        self.problems, self.notes = [], []

    def bad(self, file, why) -> None:
        self.problems.append(Problem(str(file), " ".join(str(why).split())))

    def note(self, file, what) -> None:
        self.notes.append(Problem(str(file), what))


def shown(each: list, what: str = "") -> str:
    """Some of a list, for a message or a card."""
    more = [f"and {len(each) - SHOWN} more"] if len(each) > SHOWN else []
    return "; ".join([*map(str, each[:SHOWN]), *more]) or what


# ---- files -------------------------------------------------------------------------------------------------------------

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _zeros_where_unlabelled(numbers):
    """(x, y, visibility, ...) with x and y 0 where the visibility is: many tools write NaN, or null, there."""
    if not isinstance(numbers, list) or len(numbers) % 3:
        return numbers
    return [0.0 if i % 3 < 2 and numbers[i - i % 3 + 2] == 0 else number for i, number in enumerate(numbers)]


class CocoPicture(BaseModel):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class CocoAnnotation(BaseModel):
    image_id: int
    category_id: int
    keypoints: Annotated[list[Finite] | None, BeforeValidator(_zeros_where_unlabelled)] = None
    area: Finite | None = None
    bbox: list[Finite] | None = None
    iscrowd: int = 0

    def size(self) -> float:
        """Its area, or that of its box, or of the box around its labelled keypoints."""
        if self.area is not None:
            return self.area
        if self.bbox and len(self.bbox) == 4:
            return self.bbox[2] * self.bbox[3]
        seen = [point[:2] for point in torch.tensor(self.keypoints).view(-1, 3).tolist() if point[2]]
        across, down = zip(*seen) if seen else ((0,), (0,))
        return (max(across) - min(across)) * (max(down) - min(down))


class CocoCategory(BaseModel):
    id: int
    name: str = ""
    keypoints: list[str] | None = None


class Coco(BaseModel):
    images: list[CocoPicture]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_coco(folder: Path, file: Path, category: str | None, finds: Finds):
    """(rows (shot, (H, W) or None, points (N, 2), labelled (N,)), the names of the keypoints) of a COCO file."""
    if file.is_dir() or not file.exists():
        raise ValueError(f"labels is {str(file)!r}, which is {'a folder' if file.is_dir() else 'not there'}; pass a "
                         "COCO file of keypoints (JSON)")
    try:
        coco = Coco.model_validate(json.loads(file.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{file} is no COCO file of keypoints: {place}: {first['msg']} ({error.error_count()} such "
                         "faults); it needs images, annotations and "
                         "categories") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); pass a COCO file of keypoints") from None
    twice = [each.id for i, each in enumerate(coco.categories) if each.id in [other.id for other in coco.categories[:i]]]
    if twice:
        raise ValueError(f"{file} has two categories with the id {twice[0]}; give each an id of its own")
    kinds = {each.id: each for each in coco.categories if each.keypoints}
    asked = [each for each in kinds.values() if category in (None, each.name)]
    if len(asked) != 1:
        raise ValueError(f"{file} has {len(asked)} categories with "
                         f"keypoints{f' called {category!r}' if category else ''}, of {len(coco.categories)}"
                         f" ({', '.join(each.name for each in coco.categories) or 'none'}); name one with category "
                         "(--category)")
    kind, by_picture, ids = asked[0], {}, {each.id for each in coco.images}
    for place, each in enumerate(coco.annotations):
        if each.image_id not in ids:
            finds.bad(f"{file.name}, annotation {place}", f"it belongs to image {each.image_id}, which is not listed")
        elif each.category_id == kind.id and not each.iscrowd:
            by_picture.setdefault(each.image_id, []).append((place, each))
    rows, files, seen = [], {}, set()
    for each in coco.images:
        path = PurePosixPath(each.file_name.replace("\\", "/"))
        if each.id in seen or each.file_name in files:
            finds.bad(each.file_name, "is listed twice" if each.file_name in files else f"its id {each.id} belongs to "
                "another picture, too")
            continue
        seen.add(each.id)
        files[each.file_name] = True
        found = by_picture.get(each.id, [])
        wrong = [(place, len(one.keypoints or ())) for place, one in found if len(one.keypoints or ()) != 3 * len(kind.keypoints)]
        if path.is_absolute() or ".." in path.parts:
            finds.bad(each.file_name, "leads out of the folder of pictures")
        elif not (folder / path).is_file():
            finds.bad(each.file_name, f"is not in {folder}")
        elif not found:
            finds.bad(each.file_name, f"has no annotation of {kind.name or 'this category'}")
        elif wrong:
            finds.bad(each.file_name, f"annotation {wrong[0][0]} has {wrong[0][1]} numbers, and "
                                      f"{len(kind.keypoints)} keypoints need "
                                      f"{3 * len(kind.keypoints)} (x, y, visibility)")
        else:
            if len(found) > 1:
                finds.note(each.file_name, f"{len(found)} are annotated, and the largest counts")
            largest = max((one for _, one in found), key=CocoAnnotation.size)
            numbers = torch.tensor(largest.keypoints, dtype=torch.float64).view(-1, 3)
            if not set(numbers[:, 2].tolist()) <= {0.0, 1.0, 2.0}:
                finds.bad(each.file_name, "visibility is 0 (unlabelled), 1 (hidden) or 2 (seen), and there are others")
                continue
            told = (each.height, each.width) if each.height and each.width else None
            rows.append((Shot(each.file_name, folder / path), told, numbers[:, :2], numbers[:, 2] > 0))
    for path in pictures_in(folder, finds):
        if path.name not in files and path.relative_to(folder).as_posix() not in files:
            finds.note(path.name, f"is not in {file.name}, and is left alone")
    return rows, tuple(kind.keypoints)


def read_maps(folder: Path, maps: Path, finds: Finds):
    """Rows (shot, shot of its map), paired by stem."""
    if not maps.is_dir():
        raise ValueError(f"labels is {str(maps)!r}, which is {'a file' if maps.exists() else 'not there'}; pass a "
                         "folder of maps with the pictures' stems")
    sides = []
    for place, more in ((folder, ()), (maps, (".npy",))):
        found = {}
        for path in pictures_in(place, finds, more):
            found.setdefault(path.stem, []).append(path)
        sides.append(found)
    rows = []
    for stem in sorted({*sides[0], *sides[1]}):
        pictures, labels = (side.get(stem, []) for side in sides)
        if len(pictures) > 1 or len(labels) > 1:
            finds.bad(stem, f"has {len(pictures)} pictures and {len(labels)} maps "
                            f"({', '.join(path.name for path in pictures + labels)}); keep one of each")
        elif not labels:
            finds.bad(pictures[0].name, f"has no map {stem}.png or {stem}.npy in {maps}")
        elif not pictures:
            finds.bad(labels[0].name, f"belongs to no picture in {folder}")
        else:
            rows.append((Shot(pictures[0].name, pictures[0]), Shot(labels[0].name, partial(open_map, labels[0]))))
    return rows


def open_map(path: Path):
    """A file of a map as an image or an array, for `as_label_map`. ValueError where it cannot be read."""
    if path.suffix.lower() == ".npy":
        try:
            return numpy.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"cannot be used ({error})") from None
    with opened(path, "the map") as image:
        try:
            image.load()
        except Exception as error:              # PIL's readers raise many kinds where a file is damaged
            raise ValueError(f"cannot be read ({error})") from None
        refuse_several(image)
        return image


def as_label_map(value) -> Tensor:
    """An image, an array (H, W) or (H, W, k), or a tensor (H, W) or (k, H, W) as a map (1, k, H, W) in [0, 1]: grey or colours (three
    channels, also where they are grey), never a palette, which stands for classes."""
    if isinstance(value, Image.Image):
        if value.mode in ("P", "PA") or value.mode not in ("1", "L", "RGB", "I", "F") and not value.mode.startswith("I;16"):
            raise ValueError(f"is in mode {value.mode}; a map is grey (8 or 16 bits) or RGB, classes are one grey mask "
                             "each")
        if value.has_transparency_data:
            raise ValueError("has a colour that is transparent, of which a map knows nothing; save it without")
        if is_unscaled(value):
            return as_label_map(numpy.asarray(value))
        refuse_zeros_and_ones(numpy.asarray(value))
        picture = as_pictures(value, "the map")
        return picture if value.mode == "RGB" else picture[:, :1]
    if torch.is_tensor(value):
        value = value.detach().cpu().float() if value.is_floating_point() else value.detach().cpu()
        value = value[0] if value.ndim == 4 and len(value) == 1 else value
        value = value.movedim(0, -1) if value.ndim == 3 else value
    array = numpy.asarray(value)
    if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "fiub" or array.ndim == 3 and array.shape[-1] > 64:
        raise ValueError(f"is {describe(array)}; an array of a map is (H, W) or (H, W, k), of numbers")
    refuse_zeros_and_ones(array)
    if array.dtype.kind == "u":
        array = array / numpy.iinfo(array.dtype).max
    found = torch.from_numpy(numpy.array(array, dtype=numpy.float32))
    found = found[None, None] if found.ndim == 2 else found.permute(2, 0, 1)[None]
    if not found.isfinite().all() or found.min() < 0 or found.max() > 1:
        raise ValueError(f"has values in [{float(found.min()):g}, {float(found.max()):g}]; a map of floats lies in [0, "
                         "1], without NaN: scale it")
    return found


def is_unscaled(image) -> bool:
    """Whether nobody knows the largest number that an image of a map may hold: floats, and integers of no PNG."""
    return image.mode == "F" or image.mode == "I" and image.format != "PNG"


def is_counted(value) -> bool:
    """Whether `as_label_map` takes a map's numbers for shares of the largest that their format knows, 255 of bytes."""
    if isinstance(value, Image.Image):
        return value.mode != "1" and not is_unscaled(value)
    return numpy.asarray(value.detach().cpu() if torch.is_tensor(value) else value).dtype.kind == "u"


def refuse_zeros_and_ones(array) -> None:
    """ValueError for a map of bytes none of which is above 1: 1 of 255 would be as good as 0."""
    if array.dtype.kind == "u" and array.max() == 1:
        raise ValueError(f"holds 0 and 1 as {array.dtype}, of which the largest is {numpy.iinfo(array.dtype).max}; pass truth values or floats, or "
                         "multiply by that")


TABLE = ("frame_a", "frame_b", "x_a", "y_a", "x_b", "y_b")


class Match(BaseModel):
    frame_a: Annotated[str, Field(min_length=1)]
    frame_b: Annotated[str, Field(min_length=1)]
    x_a: Finite
    y_a: Finite
    x_b: Finite
    y_b: Finite


def read_points(folder: Path, file: Path, finds: Finds):
    """Rows (shot of frame a, shot of frame b, points (N, 4)) of a table of tracked points."""
    if file.is_dir() or not file.exists():
        raise ValueError(f"labels is {str(file)!r}, which is {'a folder' if file.is_dir() else 'not there'}; pass a "
                         f"table (CSV) of {', '.join(TABLE)}")
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened_file:
            table = csv.DictReader(opened_file)
            header, lines = tuple(table.fieldnames or ()), [(table.line_num, line) for line in table]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as a table ({error}); pass a CSV file of {', '.join(TABLE)}") from None
    if not set(TABLE) <= set(header):
        raise ValueError(f"{file} has the columns {', '.join(header) or 'none'}; a table of points needs "
                         f"{', '.join(TABLE)}, in its first line")
    doubled = next((name for name in header if header.count(name) > 1), None)
    if doubled:
        raise ValueError(f"{file} has several columns {doubled}; name each column once, in its first line")
    pairs, partners = {}, {}
    for number, line in lines:
        if None in line:
            finds.bad(f"{file.name}, line {number}", f"has {len(header) + len(line[None])} fields for {len(header)} columns (a comma in a number?)")
            continue
        try:
            match = Match.model_validate({name: (line[name] or "").strip() for name in TABLE})
        except ValidationError as error:
            first = error.errors()[0]
            finds.bad(f"{file.name}, line {number}", f"{first['loc'][0]} is {first['input']!r}: {first['msg']}")
            continue
        found, start, end = pairs.setdefault((match.frame_a, match.frame_b), []), (match.x_a, match.y_a), (match.x_b, match.y_b)
        before = partners.setdefault((match.frame_a, match.frame_b, start), end)
        if before != end:
            finds.bad(f"{file.name}, line {number}", f"the point {start} of {match.frame_a} goes to two places of "
                                                     f"{match.frame_b}, {before} and {end}")
            continue
        if (*start, *end) in found:
            finds.note(f"{file.name}, line {number}", f"stands there twice, and counts twice: {start} of "
                                                      f"{match.frame_a}")
        found.append((*start, *end))
    missing = {name for pair in pairs for name in pair if not inside_folder(folder, name)}
    for name in sorted(missing):
        finds.bad(name, f"is not in {folder}")
    return [(Shot(a, folder / a), Shot(b, folder / b), torch.tensor(found, dtype=torch.float64))
            for (a, b), found in pairs.items() if not {a, b} & missing]


def inside_folder(folder: Path, name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and (folder / path).is_file()


def read_identities(folder: Path, finds: Finds):
    """Rows (shot, identity): each folder in `folder` is one."""
    rows, folders = [], sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in pictures_in(folder, finds):
        finds.bad(path.name, "lies in no identity's folder")
    for place in folders:
        found = pictures_in(place, finds)
        if not found:
            finds.bad(place.name, "is a folder without a picture")
        rows += [(Shot(f"{place.name}/{path.name}", path), place.name) for path in found]
    return rows


def pictures_in(folder: Path, finds: Finds, more: tuple[str, ...] = ()) -> list[Path]:
    """The files of a folder that are pictures by their names, in order; others are noted, hidden ones are not."""
    known, found = {*Image.registered_extensions(), *more}, []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            if path.suffix.lower() in known:
                found.append(path)
            else:
                finds.note(path.name, "is no picture by its name, and is left alone")
    return found


def cell(dataset, row: int, columns: dict[str, str], which: str):
    """An entry of a data set. ValueError where the row has none."""
    try:
        return dataset[row][columns[which]]
    except KeyError:
        raise ValueError(f"has no {columns[which]!r}; give each row one") from None


def dataset_rows(kind, dataset, columns, finds: Finds):
    """Rows as the readers of files make them, of a data set whose columns were checked."""
    for i in range(len(dataset)):
        name, part = f"row {i}", partial(cell, dataset, i, columns)
        shot = lambda which, name=name, part=part: Shot(name if which == "picture" else f"{name}, {which}", partial(part, which))
        try:
            if kind == "keypoints":
                points = torch.as_tensor(numpy.asarray(part("keypoints"), dtype=numpy.float64))
                points = points.view(-1, 3) if points.ndim == 1 and len(points) % 3 == 0 else points
                if points.ndim == 2 and points.shape[1] == 3:
                    points[points[:, 2] == 0, :2] = 0.0                     # not labelled: many tools write NaN there
                if points.ndim != 2 or points.shape[1] not in (2, 3) or not points.isfinite().all():
                    raise ValueError(f"keypoints are {describe(points)}; pass N x (x, y), or N x (x, y, visibility)")
                if points.shape[1] == 3 and not torch.isin(points[:, 2], points.new_tensor((0, 1, 2))).all():
                    raise ValueError(f"the visibilities are {points[:, 2].tolist()}; pass 0 (not labelled), 1 (hidden) or 2 (seen)")
                labelled = points[:, 2] > 0 if points.shape[1] == 3 else torch.ones(len(points), dtype=torch.bool)
                yield shot("picture"), None, points[:, :2], labelled
            elif kind == "points":
                both = [torch.as_tensor(numpy.asarray(part(which), dtype=numpy.float64)) for which in ("points_a", "points_b")]
                good = both[0].shape == both[1].shape and both[0].ndim == 2 and both[0].shape[1] == 2 and len(both[0])
                if not good or not torch.cat(both).isfinite().all():
                    raise ValueError(f"points_a is {describe(both[0])} and points_b {describe(both[1])}; pass N x (x, "
                                     "y) each")
                yield shot("picture_a"), shot("picture_b"), torch.cat(both, 1)
            elif kind == "triplets":
                identity = part("identity")
                if not isinstance(identity, (str, int, numpy.integer)):
                    raise ValueError(f"identity is {describe(identity)}; pass a text or a whole number")
                yield shot("picture"), identity
            else:
                yield shot("picture"), Shot(f"{name}, map", partial(part, "map"))
        except (ValueError, TypeError, OSError) as error:
            finds.bad(name, error)
