"""Labels of your own: pictures and what is known about them, read from files, checked one by one before anything is trained.

    data = read_labels("keypoints", pipe, "pictures", "labels.json")
    learn, held_out = data.split(0.1)
    for state in train_head(data.new_head(pipe), pipe, learn.batches(pipe, 16), 400, data.loss, latents=True): ...

| kind | pictures | labels |
|---|---|---|
| keypoints | a folder | a COCO file of keypoints (JSON); visibility 0 is unlabelled and does not count, 1 and 2 do |
| map | a folder | a folder of maps with the same stems: grey PNG of 8 or 16 bits (0 to 255, or to 65535), colours (3 channels), or .npy in [0, 1] |
| lines | a folder | the same, of thin lines (edges): at least 0.5 on a line |
| points | a folder of frames | a table (CSV) with the columns frame_a, frame_b, x_a, y_a, x_b, y_b |
| triplets | a folder of folders, each of which shows one identity in several pictures | none |

or a `datasets.Dataset` with columns of the same content (`from_dataset`).

A picture is brought to a square of the model's own size: its middle is cut out (`fit="crop"`, the default) or it is stretched
(`fit="stretch"`), and points and maps go along. What a crop leaves outside is unlabelled. Coordinates are distances in pixels from
the upper left corner of the upright picture. Of several people in one picture the one with the largest area counts (the first of
equals). Nothing is left out in silence: what cannot be used is raised with its file's name, all at once, or, with `skip_bad`,
left out and listed in `left_out`; what is merely worth knowing is in `notes`.
"""
from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .checks import Count, Fraction, Function, Index, Seed, SomeName, Texts, Truth, checked, declared, describe, is_other_shape
from .denoisers import denoiser
from .keypoints import heatmaps, keypoint_loss, keypoint_score, match_points
from .label_files import Finds, Problem, Shot, as_label_map, dataset_rows, is_counted, read_coco, read_identities, read_maps, read_points, shown
from .maps import pool_features
from .pipelines import encode
from .readout import HeadConfig, appearance_loss, correspondence_loss, spatial_loss
from .saving import ReadoutHead
from .undo import seeded

Kind = Literal["keypoints", "map", "lines", "points", "triplets"]
Fit = Literal["crop", "stretch"]
POINTS = 64                 # matches of a pair of frames that a step learns from
TRIPLETS = 128              # of held-out identities, that a head is scored on
DARKEST = 0.2               # of what bytes can hold: maps none of which reaches it are of something else
COLUMNS = {"keypoints": ("picture", "keypoints"), "map": ("picture", "map"), "lines": ("picture", "map"),
           "points": ("picture_a", "picture_b", "points_a", "points_b"), "triplets": ("picture", "identity")}

# ---- what pictures are brought to --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Frame:
    """What pictures are brought to: a square of `size` pixels, which the model sees as `cells` x `cells`."""
    size: int
    cells: int
    fit: str = "crop"

    @classmethod
    def of(cls, pipe, size: int | None, fit: str) -> "Frame":
        model = denoiser(pipe)
        height, width = model.image_size(height=size, width=size)
        if height != width:
            raise ValueError(f"this model makes pictures of {height} x {width} pixels, and labels are read for "
                             f"squares; pass size={min(height, width)}")
        return cls(height, height // model.factor, fit)

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """What is kept of (H, W) pixels: (top, left, height, width)."""
        if self.fit == "stretch":
            return 0, 0, height, width
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side

    def cut(self, picture: Tensor) -> Tensor:
        """(1, C, H, W), cut as the fit says."""
        top, left, height, width = self.box(*picture.shape[-2:])
        return picture[..., top:top + height, left:left + width]

    def picture(self, picture: Tensor) -> Tensor:
        """(1, 3, H, W) to (1, 3, size, size)."""
        picture = self.cut(picture)
        if picture.shape[-2:] == (self.size, self.size):
            return picture
        return F.interpolate(picture, (self.size, self.size), mode="bilinear", antialias=True).clamp(0, 1)

    def points(self, points: Tensor, height: int, width: int) -> Tensor:
        """(N, 2) in pixels of the picture to (N, 2) in pixels of the square, float64; those outside were cut off."""
        top, left, height, width = self.box(height, width)
        return (points - points.new_tensor((left, top))) * points.new_tensor((self.size / width, self.size / height))

    def inside(self, points: Tensor) -> Tensor:                                         # (N,) bool
        return ((points >= 0) & (points <= self.size)).all(-1)


# ---- labelled pictures -------------------------------------------------------------------------------------------------

@dataclass
class Labelled:
    """S samples: which of P pictures each shows, and what is known about it.

    `shows` is (S, M): of keypoints, maps and triplets M is 1, of points 2. `truth` is, of keypoints, points (S, N, 2) and which of
    them are labelled (S, N); of maps and lines what is to be read (S, k, cells, cells); of points (S, POINTS, 2) twice; of triplets
    the number of the identity (S,). Points are in pixels of the square. Samples of one group are never parted (`split`).
    """
    kind: str
    frame: Frame
    shots: list[Shot]
    shows: Tensor
    truth: tuple[Tensor, ...]
    groups: list[int]
    names: tuple[str, ...] = ()             # of keypoints, or of identities
    left_out: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.shows)

    def __getitem__(self, index) -> "Labelled":
        """The samples of these numbers, and the pictures that they show. ValueError for anything but numbers of samples."""
        if not isinstance(index, Iterable) or isinstance(index, str):
            raise ValueError(f"index is {describe(index)}; pass a list of numbers of samples, such as [0, 1]")
        index = torch.tensor([checked("index", each, Index) for each in index], dtype=torch.long)
        if (index >= len(self)).any():
            raise ValueError(f"index holds {int(index.max())}, but there are {len(self)} samples; pass numbers below that")
        used, places = self.shows[index].unique(return_inverse=True)
        return replace(self, shots=[self.shots[i] for i in used.tolist()], shows=places.view(len(index), self.shows.shape[1]),
                       truth=tuple(each[index] for each in self.truth), groups=[self.groups[i] for i in index.tolist()])

    def split(self, share: float = 0.1, seed: int = 0) -> tuple["Labelled", "Labelled"]:
        """(those to learn from, those held out), which have no picture in common, nor a frame or an identity.

        Whole groups are drawn by the seed until `share` of the samples is reached. Where all samples hang together, as the pairs of
        one film do, the last frames by name are held out, and pairs that would join the two are left out. ValueError where too few
        are left on one side.
        """
        share, seed = checked("share", share, Fraction), checked("seed", seed, Seed)
        if not share:
            return self, self[[]]
        rng, wanted, held = torch.Generator().manual_seed(seed), share * len(self), set()
        groups, least = sorted(set(self.groups)), 2 if self.kind == "triplets" else 1
        if len(groups) == 1 and self.kind == "points":
            return self._split_film(share)
        sizes = [self.groups.count(group) for group in groups]
        most = max(2 * wanted, sorted(sizes)[len(sizes) // 2])      # a group that is larger is held out only where the others do not do
        for place in sorted(torch.randperm(len(groups), generator=rng).tolist(), key=lambda place: sizes[place] > most):
            if len(held) >= least and sum(group in held for group in self.groups) >= wanted:
                break
            held.add(groups[place])
        if len(groups) - len(held) < least:
            what = "identities" if self.kind == "triplets" else "samples that share no picture"
            raise ValueError(f"there are {len(groups)} {what}, too few to hold {share:g} of them out (at least {least} "
                             "on either side); bring more, "
                             "or hold out 0 and do without a score")
        parts = [[i for i, group in enumerate(self.groups) if (group in held) == side] for side in (False, True)]
        return self[parts[0]], self[parts[1]]

    def _split_film(self, share: float) -> tuple["Labelled", "Labelled"]:
        frames = sorted(range(len(self.shots)), key=lambda i: self.shots[i].name)
        last = set(frames[-max(2, round(share * len(frames))):])
        sides = [[(place in last) for place in pair] for pair in self.shows.tolist()]
        learn, held = ([i for i, side in enumerate(sides) if all(each == late for each in side)] for late in (False, True))
        if not learn or not held:
            raise ValueError(f"all {len(self)} pairs hang together, and the last {len(last)} frames share a pair with "
                             "the others or with none; "
                             "bring pairs of neighbouring frames, or hold out 0 and do without a score")
        return self[learn], self[held]

    # ---- training --------------------------------------------------------------------------------------------------------

    @declared
    def encode(self, pipe, chunk: Count = 8) -> Tensor:
        """The latents of all pictures (P, C, h, w), float32 on the CPU; `chunk` pictures at a time. ValueError for a model of other cells
        than the labels were read for."""
        self.check_cells(pipe)
        parts = []
        for first in range(0, len(self.shots), chunk):
            pictures = [self.frame.picture(shot.picture()) for shot in self.shots[first:first + chunk]]
            parts.append(encode(pipe, torch.cat(pictures)).cpu().float())
        return torch.cat(parts)

    def check_cells(self, pipe) -> None:
        """ValueError where the labels were read for a model whose latents are of another size."""
        cells = self.frame.size // denoiser(pipe).factor
        if cells != self.frame.cells:
            raise ValueError(f"these labels were read for {self.frame.cells} x {self.frame.cells} cells, but this model has {cells} x {cells} for "
                             f"{self.frame.size} pixels; read them with the pipeline that is to learn from them")

    @declared
    def batches(self, pipe, batch: Count, seed: Seed = 0, latents: Tensor | None = None) -> Callable[[int], tuple]:
        """What `train_head(..., latents=True)` takes: a function from the step to (latents, *labels). All pictures are encoded now,
        once, if their latents are not given, as `encode` of these very samples makes them. Batch n depends on (seed, n) alone, so that
        a training can resume."""
        if not len(self):
            raise ValueError("there is no sample to learn from; bring at least one")
        latents = self.encode(pipe) if latents is None else denoiser(pipe).as_latents(latents)
        if len(latents) != len(self.shots):
            raise ValueError(f"latents are those of {len(latents)} pictures, but these samples show {len(self.shots)}; encode what is learned from, "
                             "after the split: learn.encode(pipe)")

        def draw(step: int) -> tuple:
            rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
            if self.kind == "triplets":
                return tuple(latents[self.shows[index, 0]] for index in self.draw_triplets(batch, rng)),
            index = torch.randint(len(self), (batch,), generator=rng)
            return tuple(latents[place] for place in self.shows[index].T), *(each[index] for each in self.truth)
        return draw

    def draw_triplets(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(anchor, positive, negative), each (count,) numbers of samples: an identity, two different pictures of it, another identity,
        a picture of that, all with equal chances. ValueError where there are fewer than two identities."""
        members = [(self.truth[0] == each).nonzero()[:, 0] for each in self.truth[0].unique()]
        if len(members) < 2:
            raise ValueError(f"there is {len(members)} identity; triplets need at least two, each with two pictures or "
                             "more")
        alone = [each for each, rows in zip(self.truth[0].unique().tolist(), members) if len(rows) < 2]
        if alone:
            raise ValueError(f"of the identity {alone[0]} there is one picture among these samples; a triplet needs two of each")
        pick = lambda end: int(torch.randint(end, (), generator=rng))
        rows = []
        for _ in range(count):
            same = pick(len(members))
            other = (same + 1 + pick(len(members) - 1)) % len(members)
            first = pick(len(members[same]))
            second = (first + 1 + pick(len(members[same]) - 1)) % len(members[same])
            rows.append((members[same][first], members[same][second], members[other][pick(len(members[other]))]))
        return tuple(torch.tensor(each) for each in zip(*rows))

    @property
    def loss(self) -> Callable:
        """For `train_head`: loss(*readouts, *labels)."""
        size, cells = self.frame.size, self.frame.cells
        if self.kind == "keypoints":
            return lambda readout, points, labelled: keypoint_loss(readout, heatmaps(points, cells, size), labelled)
        if self.kind == "points":
            return lambda a, b, points_a, points_b: correspondence_loss(a, b, points_a, points_b, (size, size))
        return {"map": spatial_loss, "lines": partial(spatial_loss, background=-1.0), "triplets": triplet_loss}[self.kind]

    def score(self, *readouts_and_truth) -> Tensor:
        """For each sample (B,) how well it was read; see `measure`."""
        size = self.frame.size
        if self.kind == "keypoints":
            return keypoint_score(*readouts_and_truth, size)
        if self.kind == "points":
            a, b, points_a, points_b = readouts_and_truth
            return ((match_points(a, b, points_a, size) - points_b).norm(dim=-1) <= 0.05 * size).float().mean(-1)
        if self.kind == "triplets":
            anchor, positive, negative = readouts_and_truth
            return (nearness(anchor, positive) > nearness(anchor, negative)).float()
        readout, target = readouts_and_truth
        return (readout - target).square().mean((1, 2, 3)).sqrt() / 2

    @property
    def measure(self) -> str:
        return {"keypoints": "PCK@0.05 (share of labelled keypoints within 5 % of the box around them)",
                "points": "share of points found within 5 % of the picture's side", "triplets": "share of triplets "
                    "with the positive nearer"
                }.get(self.kind, "RMSE of the map in [0, 1] (smaller is better)")

    @declared
    def new_head(self, pipe, seed: Seed = 0, width: Count = 128, name: str = "") -> ReadoutHead:
        """An untrained head for this property and model; the seed decides its weights."""
        channels = {"keypoints": lambda: len(self.names), "map": lambda: self.truth[0].shape[1], "lines": lambda: 1}
        spatial = channels.get(self.kind, lambda: 0)()
        extra = {"kind": self.kind, "image_size": self.frame.size, "cells": self.frame.cells}
        extra |= {"keypoints": {"keypoints": list(self.names), "heatmap_sigma_cells": 1.5}, "map": {"value_range": [-1, 1]},
                  "lines": {"value_range": [-1, 1]}}.get(self.kind, {})
        with seeded(seed):
            head = ReadoutHead(HeadConfig.for_model(
                pipe, width=width, out_channels=spatial, hidden_channels=(64, 32), resize_late=True, property=name or self.kind,
                activation="tanh" if self.kind in ("map", "lines") else "none", extra=extra))
        return head.to(denoiser(pipe).device)


def nearness(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of `pool_features` of two pictures' features (B, C, h, w): (B,)."""
    return F.cosine_similarity(pool_features(a), pool_features(b), dim=1).mean((-2, -1))


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """`appearance_loss` of `pool_features`: what there is, wherever it is."""
    return appearance_loss(*(pool_features(each) for each in (anchor, positive, negative)))


# ---- the doors ---------------------------------------------------------------------------------------------------------

@declared
def read_labels(kind: Kind, pipe, pictures: SomeName, labels: SomeName | None = None, *, fit: Fit = "crop",
                size: Count | None = None, category: str | None = None, skip_bad: Truth = False,
                look: Function | None = None) -> Labelled:
    """Pictures in a folder with their labels, see above.

    Args:
        kind: 'keypoints', 'map', 'lines', 'points' or 'triplets'.
        pipe: the model that is to read them: it says how large pictures are.
        size: another side of the square in pixels.
        category: which of a COCO file's categories, where several have keypoints.
        skip_bad: leave out what cannot be used, and list it in `left_out`.
        look: called with (pictures looked at, pictures in all) after each of them.
    Raises ValueError, which names every file that cannot be used, and why.
    """
    frame, folder, finds = Frame.of(pipe, size, fit), Path(pictures), Finds()
    if not folder.is_dir():
        raise ValueError(f"pictures is {pictures!r}, which is {'a file' if folder.exists() else 'not there'}; pass a "
                         "folder of pictures")
    if (labels is None) != (kind == "triplets"):
        raise ValueError("labels are given, but triplets have none: the folder that a picture lies in says what it "
                         "shows" if labels is not None else
                         f"labels are missing: {kind} need "
                         f"{'a folder of maps' if kind in ('map', 'lines') else 'a file'}")
    if labels is not None and Path(labels).is_dir() and folder.samefile(labels):
        raise ValueError(f"pictures and labels are the same folder, {labels}; pass a folder of maps of their own")
    if category is not None and kind != "keypoints":
        raise ValueError(f"category is {category!r}, but only keypoints have categories; leave it out")
    if kind == "keypoints":
        rows, names = read_coco(folder, Path(labels), category, finds)
    elif kind == "points":
        rows, names = read_points(folder, Path(labels), finds), ()
    elif kind == "triplets":
        rows, names = read_identities(folder, finds), ()
    else:
        rows, names = read_maps(folder, Path(labels), finds), ()
    return gather(kind, frame, rows, names, finds, skip_bad, look)


@declared
def from_dataset(kind: Kind, pipe, dataset, columns: dict | None = None, *, names: Iterable = (), fit: Fit = "crop",
                 size: Count | None = None, skip_bad: Truth = False, look: Function | None = None) -> Labelled:
    """The same from a `datasets.Dataset`, or any sequence of dicts. `columns` says which of its columns is what, by default
    {name: name}: picture and keypoints (N x (x, y) or (x, y, visibility), or one flat list of 3 N numbers); picture and map; picture_a,
    picture_b, points_a and points_b (N x (x, y)); picture and identity. `names` are those of the keypoints."""
    wanted, finds, frame = COLUMNS[kind], Finds(), Frame.of(pipe, size, fit)
    names = tuple(names) if isinstance(names, Iterable) and not isinstance(names, str) else names
    if isinstance(names, str) or kind != "keypoints" and names:
        raise ValueError(f"names is {names!r}; pass a list of the keypoints' names, and none for other kinds")
    checked("names", names, Texts)
    if len(set(names)) < len(names):
        raise ValueError(f"names is {describe(names)}, which has one name twice; name each keypoint otherwise")
    there = getattr(dataset, "column_names", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(there, dict) or isinstance(dataset, (str, dict)):
        raise ValueError(f"dataset is {describe(type(dataset))}; pass a datasets.Dataset (of several, one: "
                         "dataset['train']), or a list of dicts")
    if not isinstance(columns, dict | None):
        raise ValueError(f"columns is {describe(columns)}; pass a dict, {{name: column of the data set}}")
    if not there and len(dataset) and not isinstance(dataset[0], Mapping):
        raise ValueError(f"row 0 of the data set is a {type(dataset[0]).__name__}; pass a dict for each, such as {{'picture': ..., {wanted[-1]!r}: ...}}")
    there = there or (list(dataset[0]) if len(dataset) else [])
    given = {name: name for name in wanted} | (columns or {})
    if not set(given) <= set(wanted) or not set(given.values()) <= set(there):
        told = ", ".join(f"{name}={column}" for name, column in given.items())
        raise ValueError(f"columns say {told}, but {kind} are {', '.join(wanted)}, and the data set has the columns "
                         f"{', '.join(map(str, there)) or 'none'}; pass columns={{name: column of the data set}}")
    if len(set(given.values())) < len(given):
        raise ValueError(f"columns say {', '.join(f'{name}={column}' for name, column in given.items())}, one column twice; name one for each")
    rows = list(dataset_rows(kind, dataset, given, finds))
    if kind == "keypoints" and rows:
        count = usual_count(rows)
        names = names or tuple(str(i) for i in range(count))
        if len(names) != count:
            raise ValueError(f"names are {len(names)}, and the rows have {count} keypoints; name each of them")
    return gather(kind, frame, rows, names, finds, skip_bad, look)


@declared
def open_dataset(name: SomeName, split: str | None = None, local_files_only: Truth = True):
    """A `datasets.Dataset`: a folder that `save_to_disk` wrote, or, with local_files_only=False, a name on the hub."""
    try:
        import datasets
    except ImportError:
        raise ValueError('data sets need a package more: pip install "rg-minimal[labels]"') from None
    local = Path(name).exists()
    if not local and local_files_only:
        raise ValueError(f"there is no folder {name}; pass one that `save_to_disk` wrote, or local_files_only=False "
                         "(--download) to ask the hub")
    try:
        found = datasets.load_from_disk(name) if local else datasets.load_dataset(name, split=split)
    except Exception as error:                  # arrow, the hub and the readers each raise their own
        raise ValueError(f"the data set {name} cannot be read ({' '.join(str(error).split())[:300]}); pass a folder "
                         "that `save_to_disk` wrote") from error
    if isinstance(found, datasets.Dataset):
        if local and split is not None:
            raise ValueError(f"split is {split!r}, but {name} is a single data set without splits; leave split out, or save the part that "
                             "you mean")
        return found
    if split not in found:
        raise ValueError(f"split is {split!r}, but {name} has {', '.join(found)}; name one of them")
    return found[split]


# ---- from rows to samples ----------------------------------------------------------------------------------------------

def gather(kind, frame, rows, names, finds: Finds, skip_bad: bool, look) -> Labelled:
    """Look at every picture, bring its labels to the square, and raise what cannot be used, or leave it out."""
    shown_in = [[shot.name for shot in row[:2 if kind == "points" else 1]] for row in rows]
    album = Album(frame, finds, look, len(set(itertools.chain(*shown_in))) if kind == "points" else len(rows))
    take = {"keypoints": keypoint_samples, "points": point_samples, "triplets": identity_samples}.get(kind, map_samples)
    shows, truth, groups, found = take(kind, frame, rows, album, finds)
    names = found or names
    if finds.problems and not skip_bad:
        raise ValueError(f"{len(finds.problems)} of the files cannot be used: {shown(finds.problems)}. Mend them, or "
                         "leave them out and have them listed "
                         "(skip_bad=True, --skip-bad)")
    if not shows:
        raise ValueError(f"no picture with a label is left. {shown(finds.problems, 'There is none.')}")
    truth = tuple(torch.stack(each) for each in zip(*truth))
    found = Labelled(kind, frame, album.shots, torch.tensor(shows), truth, groups, tuple(names), finds.problems, finds.notes)
    return found[range(len(found))]                                 # without pictures whose labels were left out


class Album:
    """The pictures that samples show, each looked at once."""

    def __init__(self, frame: Frame, finds: Finds, look, count: int):
        self.frame, self.finds, self.look, self.count = frame, finds, look, count
        self.shots, self.sizes, self.known, self.seen = [], [], {}, {}

    def add(self, shot: Shot, again: bool = False) -> int | None:
        """The picture's number, None where it cannot be used; `again` where a picture may come more than once, as frames do."""
        if again and shot.name in self.known:
            return self.known[shot.name]
        number = None
        try:
            picture = shot.picture()
            if len(picture) != 1:
                raise ValueError(f"it holds {len(picture)} pictures; pass one")
            fitted = self.frame.picture(picture)
            mark = hashlib.blake2b(fitted.numpy().tobytes(), digest_size=16).digest()
            twin = self.seen.get(mark)
            if twin is not None and not again:
                raise ValueError(f"is the same picture as {self.shots[twin].name}; keep one of them")
            number = twin
            if number is None:
                number = self.seen[mark] = len(self.shots)
                self.shots.append(replace(shot, mark=mark.hex())), self.sizes.append(tuple(picture.shape[-2:]))
        except (ValueError, OSError) as error:
            place = shot.held if isinstance(shot.held, Path) else Path(shot.name)
            self.finds.bad(shot.name, str(error).replace(str(place), place.name))       # the file's name, not where it lies
        self.known[shot.name] = number
        if self.look:
            self.look(min(len(self.known), self.count), self.count)
        return number


def usual_count(rows) -> int:
    """How many keypoints most of the rows have, of those with a labelled one where there are any."""
    counts = Counter(len(points) for _, _, points, labelled in rows if labelled.any()) or Counter(len(row[2]) for row in rows)
    return counts.most_common(1)[0][0]


def keypoint_samples(kind, frame, rows, album, finds):
    shows, truth, groups, count = [], [], [], usual_count(rows) if rows else 0
    for shot, told, points, labelled in rows:
        number = album.add(shot)
        if number is None:
            continue
        height, width = album.sizes[number]
        outside = labelled & ~((points >= 0) & (points <= points.new_tensor((width, height)))).all(-1)
        if told and tuple(told) != (height, width):
            turned = ": it is turned by its EXIF data, and was labelled lying down" if tuple(told) == (width, height) else ""
            finds.bad(shot.name, f"is {height} x {width} pixels large (height x width), and its labels are for "
                                 f"{told[0]} x {told[1]}{turned}")
        elif len(points) != count:
            finds.bad(shot.name, f"has {len(points)} keypoints where the others have {count}")
        elif outside.any():
            x, y = points[outside][0].tolist()
            finds.bad(shot.name, f"the keypoint ({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels "
                                 "(width x height)")
        elif not labelled.any():
            finds.bad(shot.name, "no keypoint is labelled (all have visibility 0)")
        elif int(labelled.sum()) > 1 and points[labelled].max() <= 1:
            finds.bad(shot.name, "its keypoints all lie in [0, 1], which are fractions of the picture; pass pixels")
        else:
            placed = frame.points(points, height, width)
            kept = labelled & frame.inside(placed)
            if not kept.any():
                finds.bad(shot.name, "every labelled keypoint lies in what the crop cuts off (fit='stretch' keeps it)")
                continue
            if not labelled.all() or not kept.all():
                finds.note(shot.name, f"{int((~labelled).sum())} keypoints unlabelled, {int((labelled & ~kept).sum())} "
                                      "cut off by the crop")
            placed = torch.where(kept[:, None], placed, torch.full_like(placed, frame.size / 2))
            shows.append([number]), groups.append(number), truth.append((placed.float(), kept))
    return shows, truth, groups, ()


def map_samples(kind, frame, rows, album, finds):
    """Maps of one number of channels: where a picture of a map is coloured, that is three for all; grey ones count as one else."""
    taken, tops = [], []                                            # (number, the map's name, its cells (k, cells, cells), is it a grey RGB?)
    for shot, label in rows:
        number = album.add(shot)
        if number is None:
            continue
        try:
            held = label.held() if callable(label.held) else label.held
            found = as_label_map(held)                                                      # (1, k, H, W) in [0, 1]
            grey = isinstance(held, Image.Image) and found.shape[1] == 3 and bool((found == found[:, :1]).all())
            found = found[:, :1] if grey and kind == "lines" else found
            height, width = album.sizes[number]
            rows_, columns = found.shape[-2:]
            if is_other_shape((rows_, columns), (height, width)):
                raise ValueError(f"is {rows_} x {columns} pixels large (height x width), and its picture {height} x "
                                 f"{width}: another shape")
            if kind == "lines" and found.shape[1] != 1:
                raise ValueError(f"has {found.shape[1]} channels where lines have 1")
            cut = frame.cut(found)
            if min(cut.shape[-2:]) < frame.cells:
                raise ValueError(f"is {rows_} x {columns} pixels large, and this model reads {frame.cells} x "
                                 f"{frame.cells} cells; make it larger")
        except (ValueError, OSError) as error:
            finds.bad(label.name, error)
            continue
        if kind == "lines":
            pooled = (F.adaptive_max_pool2d(cut, frame.cells) >= 0.5).float()
            if not pooled.any():
                finds.note(label.name, "shows no line")
        else:
            pooled = F.adaptive_avg_pool2d(cut, frame.cells)
        taken.append((number, label.name, (pooled * 2 - 1)[0], grey))
        tops.append(float(found.max()) if is_counted(held) else 1.0)
    if tops and max(tops) < DARKEST:
        finds.bad("maps", f"none of the {len(tops)} reaches more than {max(tops):.2g} of what its format can hold (255, or 65535 with 16 bits), so "
                          "these are numbers of classes, or in a unit of their own (millimetres); bring them to that range, or pass floats in "
                          "[0, 1] (.npy), which are taken as they are")
        return [], [], [], ()
    if kind == "lines" and taken and all((cells < 0).all() for _, _, cells, _ in taken):
        finds.bad("maps", f"none of the {len(taken)} shows a line, which has at least half of the largest value; make the lines white")
        return [], [], [], ()
    if all(grey or len(cells) == 1 for _, _, cells, grey in taken):
        taken = [(number, name, cells[:1], False) for number, name, cells, _ in taken]
    usual = Counter(len(cells) for _, _, cells, _ in taken).most_common(1)
    good = [(number, cells) for number, _, cells, _ in taken if len(cells) == usual[0][0]]
    for _, name, cells, _ in taken:
        if len(cells) != usual[0][0]:
            finds.bad(name, f"has {len(cells)} channels where the others have {usual[0][0]}")
    return [[number] for number, _ in good], [(cells,) for _, cells in good], [number for number, _ in good], ()


def point_samples(kind, frame, rows, album, finds):
    shows, truth, pairs = [], [], []
    for shot_a, shot_b, points in rows:                                                 # points (N, 4), float64
        a, b = album.add(shot_a, again=True), album.add(shot_b, again=True)
        name = f"{shot_a.name} and {shot_b.name}"
        if a is None or b is None:
            continue
        placed, wrong = [], None
        for number, part, shot in ((a, points[:, :2], shot_a), (b, points[:, 2:], shot_b)):
            height, width = album.sizes[number]
            outside = ~((part >= 0) & (part <= part.new_tensor((width, height)))).all(-1)
            if outside.any():
                x, y = part[outside][0].tolist()
                wrong = f"the point ({x:g}, {y:g}) lies outside {shot.name} of {width} x {height} pixels (width x height)"
            placed.append(frame.points(part, height, width))
        inside = frame.inside(placed[0]) & frame.inside(placed[1])
        if a == b:
            wrong = "both frames are the same picture"
        elif len(points) > 1 and points.max() <= 1:
            wrong = "its points all lie in [0, 1], which are fractions of the picture; pass pixels"
        elif not inside.any():
            wrong = wrong or "every point lies in what the crop cuts off (fit='stretch' keeps it)"
        if wrong:
            finds.bad(name, wrong)
            continue
        if not inside.all():
            finds.note(name, f"{int((~inside).sum())} of {len(inside)} points cut off by the crop")
        kept = inside.nonzero()[:, 0]
        rng = torch.Generator().manual_seed(len(shows))
        some = torch.randperm(len(kept), generator=rng)[:POINTS].sort().values
        kept = kept[some if len(kept) > POINTS else torch.arange(POINTS) % len(kept)]
        shows.append([a, b]), pairs.append((a, b)), truth.append(tuple(each[kept].float() for each in placed))
    return shows, truth, components(pairs), ()


def components(pairs) -> list[int]:
    """For each pair the number of what it hangs together with by common members."""
    root = {}

    def find(each):
        while root.setdefault(each, each) != each:
            each = root[each]
        return each
    for a, b in pairs:
        root[find(b)] = find(a)
    return [find(a) for a, _ in pairs]


def identity_samples(kind, frame, rows, album, finds):
    members = {}
    for shot, identity in rows:
        number = album.add(shot)
        if number is not None:
            members.setdefault(identity, []).append(number)
    for identity in [each for each, numbers in members.items() if len(numbers) < 2]:
        finds.bad(identity, "has one usable picture, and triplets need two or more of each identity")
        del members[identity]
    names = tuple(str(each) for each in members)
    if len(names) < 2:
        finds.bad("identities", f"there {'is one' if names else 'is none'} with two usable pictures; triplets need at "
                                "least two")
        return [], [], [], names
    flat = [(number, place) for place, numbers in enumerate(members.values()) for number in numbers]
    return [[number] for number, _ in flat], [(torch.tensor(place),) for _, place in flat], [place for _, place in flat], names
