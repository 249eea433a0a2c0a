"""Puppets as files, in the formats that `rg_minimal.train` reads: to try it, to teach it, and to test that nothing is lost.

    python -m rg_minimal.puppets.export keypoints out/puppets --count 200
    python -m rg_minimal.train --kind keypoints --pictures out/puppets/pictures --labels out/puppets/labels.json --output out/pose
"""
from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Literal, get_args

import numpy
import torch
from PIL import Image
from torch import Tensor

from . import world
from .heads import ON_PROP, POINTS, TRAIN_SEED, sample_looks
from ..checks import Count, Seed, SomeName, declared, one_sentence, option, stoppable
from ..files import refuse_file, refuse_others, write_file, write_json

Kind = Literal["keypoints", "map", "lines", "points", "triplets"]


@declared
def export_puppets(kind: Kind, folder: SomeName, count: Count = 100, seed: Seed = TRAIN_SEED) -> tuple[Path, Path | None]:
    """Render `count` labelled samples and write them: (the folder of pictures, its labels), as `labels.read_labels` takes them.

    keypoints: a COCO file with 14 joints, of which those behind something have visibility 1. map: depth, 16 bits. lines: edges.
    points: pairs of frames of one puppet with 64 exact matches each. triplets: two folders of two pictures for each sample, puppets
    that differ in a few looks alone. Pictures have 8 bits a channel. ValueError where the folder holds anything, which would be
    lost, or be read as a sample of these.
    """
    folder = Path(folder)
    refuse_file(folder), refuse_others(folder, ())
    pictures = folder / "pictures"
    if kind == "points":
        return pictures, _points(folder, pictures, count, seed)
    if kind == "triplets":
        for i in range(count):
            for j, scene in enumerate(sample_looks(seed + i)):
                write_picture(pictures / f"{i:05}{'ab'[j // 2]}" / f"{j % 2}.png", world.render([scene]).image)
        return pictures, None
    frames = world.render(world.sample_scenes(count, seed))
    for i in range(count):
        write_picture(pictures / f"{i:05}.png", frames.image[i:i + 1])
    if kind == "keypoints":
        return pictures, write_json(folder / "labels.json", coco(frames))
    labels = folder / "labels"
    for i in range(count):
        shown = frames.depth[i, 0] if kind == "map" else frames.edges[i, 0].float()
        most, number = (65535, numpy.uint16) if kind == "map" else (255, numpy.uint8)
        write_png(labels / f"{i:05}.png", (shown * most).round().numpy().astype(number))
    return pictures, labels


def coco(frames) -> dict:
    """COCO's JSON for rendered frames."""
    images, annotations = [], []
    for i, (joints, visible) in enumerate(zip(frames.joints.tolist(), frames.visible.tolist()), 1):
        across, down = zip(*joints)
        box = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
        images.append({"id": i, "file_name": f"{i - 1:05}.png", "width": world.SIZE, "height": world.SIZE})
        annotations.append({"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box, "area": box[2] * box[3],
                            "num_keypoints": len(joints),
                            "keypoints": [number for (x, y), seen in zip(joints, visible) for number in (x, y, 2 if seen else 1)]})
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "puppet", "keypoints": list(world.JOINTS), "skeleton": []}]}


def _points(folder: Path, pictures: Path, count: int, seed: int) -> Path:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("frame_a", "frame_b", "x_a", "y_a", "x_b", "y_b"))
    first, second = (world.render(scenes) for scenes in zip(*(world.sample_pair(seed + i) for i in range(count))))
    matches = world.correspondences(first, second, POINTS, torch.Generator().manual_seed(seed), ON_PROP)
    for i in range(count):
        names = [f"{i:05}{letter}.png" for letter in "ab"]
        for name, frames in zip(names, (first, second)):
            write_picture(pictures / name, frames.image[i:i + 1])
        for a, b in zip(matches[0][i].tolist(), matches[1][i].tolist()):
            writer.writerow((*names, *a, *b))
    return write_file(folder / "labels.csv", table.getvalue())


def write_picture(path: Path, picture: Tensor) -> None:
    """A picture (1, 3, H, W) in [0, 1] as PNG of 8 bits."""
    write_png(path, (picture[0] * 255).round().permute(1, 2, 0).numpy().astype(numpy.uint8))


def write_png(path: Path, array) -> None:
    held = io.BytesIO()
    Image.fromarray(array).save(held, "PNG")
    write_file(path, held.getvalue())


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description="Write rendered puppets and their labels as files.")
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("folder")
    parser.add_argument("--count", type=option(Count), default=100)
    parser.add_argument("--seed", type=option(Seed), default=TRAIN_SEED)
    asked = parser.parse_args(arguments)
    with one_sentence(parser):
        print(*(each for each in export_puppets(asked.kind, asked.folder, asked.count, asked.seed) if each), sep="\n")


if __name__ == "__main__":
    main()
