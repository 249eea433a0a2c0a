"""Labels by detectors that others keep: depth and human keypoints of pictures that nobody has labelled, as files for `labels.py`.

    python -m rg_minimal.detectors depth pictures depth --model FOLDER
    python -m rg_minimal.detectors keypoints pictures labels.json --model FOLDER

The models are those of `transformers`, which is imported only when one is used, and are looked for in folders and in the hub's cache alone,
unless a download is asked for. What they say is a guess: look at some of it before a head learns it.
"""
from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from PIL import Image

from . import hub
from .checks import Fraction, SomeName, Truth, declared, one_sentence, stoppable
from .files import refuse_file, write_file, write_json
from .label_files import Finds, pictures_in
from .pictures import as_pictures

EXTRA = 'pip install "rg-minimal[labels]"'


def load(kind: str, model: str, local_files_only: bool):
    """(processor, model) of transformers, by the name of its automatic class. ValueError where they are not there."""
    import transformers
    try:
        with hub.asked(local_files_only):
            made = getattr(transformers, kind).from_pretrained(model, local_files_only=local_files_only)
            return transformers.AutoImageProcessor.from_pretrained(model, local_files_only=local_files_only), made.eval().requires_grad_(False)
    except Exception as error:                  # transformers, safetensors and the hub each raise their own
        raise ValueError(f"no detector could be loaded from {model} ({' '.join(str(error).split())[:300]}); pass a "
                         "folder of transformers' layout that "
                         f"{kind} takes, or local_files_only=False (--download) for a name on the hub{hub.forbidden(local_files_only)}") from error


def shots(folder: str) -> list[tuple[Path, Image.Image]]:
    """The upright pictures of a folder. ValueError where one cannot be read, or there are none."""
    if not Path(folder).is_dir():
        raise ValueError(f"pictures is {folder!r}, which is no folder; pass a folder of pictures")
    found = []
    for path in pictures_in(Path(folder), Finds()):
        picture = as_pictures(path, f"{path.name}")[0]
        found.append((path, Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())))
    if not found:
        raise ValueError(f"there is no picture in {folder}")
    return found


def refuse_there(path) -> None:
    """ValueError for what is there already: it may be a picture, or labels made by hand."""
    if Path(path).exists():
        raise ValueError(f"{path} is there already, and would be lost: choose another output, or move it away")


@declared
@torch.no_grad()
def depth_maps(pictures: SomeName, output: SomeName, model: SomeName, local_files_only: Truth = True) -> Path:
    """Depth of every picture in a folder, each a PNG of 16 bits with the picture's stem in the folder `output`: 0 far, 65535 near, scaled to
    the range of each picture, as relative depth is known up to scale and shift. `model` is one for transformers' depth estimation.
    ValueError, before it is loaded, where two pictures share a stem, and where a file would be replaced."""
    refuse_file(output)
    seen = shots(pictures)
    stems = [path.stem for path, _ in seen]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise ValueError(f"{pictures} holds several pictures of the stem {twice}, whose maps would have one name: rename all but one")
    for stem in stems:
        refuse_there(Path(output) / f"{stem}.png")
    processor, network = load("AutoModelForDepthEstimation", model, local_files_only)
    from transformers import pipeline
    estimate = pipeline("depth-estimation", model=network, image_processor=processor, device="cpu")
    for path, picture in seen:
        depth = estimate(picture)["predicted_depth"].float()                            # (H, W), larger is nearer
        span = (depth.max() - depth.min()).clamp_min(1e-8)
        held = io.BytesIO()
        Image.fromarray(((depth - depth.min()) / span * 65535).round().to(torch.int32).numpy().astype("uint16")).save(held, "PNG")
        write_file(Path(output) / f"{path.stem}.png", held.getvalue())
    return Path(output)


@declared
@torch.no_grad()
def pose_keypoints(pictures: SomeName, output: SomeName, model: SomeName, least: Fraction = 0.3, local_files_only: Truth = True) -> Path:
    """Keypoints of one person in every picture of a folder, as a COCO file `output`; those less sure than `least` are unlabelled.

    `model` is a ViTPose of transformers. The person is taken to fill the picture: cut pictures out before, where there are several.
    ValueError, before it is loaded, where `output` is there already.
    """
    refuse_file(Path(output).parent)
    refuse_there(output)
    seen = shots(pictures)
    try:
        import scipy as _                       # transformers needs it to read ViTPose's heatmaps
    except ImportError:
        raise ValueError(f"keypoints need a package more: {EXTRA}") from None
    processor, network = load("VitPoseForPoseEstimation", model, local_files_only)
    names = [network.config.id2label[i] for i in range(len(network.config.id2label))]
    images, annotations = [], []
    for number, (path, picture) in enumerate(seen, 1):
        box = [[[0.0, 0.0, float(picture.width), float(picture.height)]]]
        found, = processor.post_process_pose_estimation(network(**processor(picture, boxes=box, return_tensors="pt")), boxes=box)
        scores = dict(zip(found[0]["labels"].tolist(), found[0]["scores"].tolist()))
        places = dict(zip(found[0]["labels"].tolist(), found[0]["keypoints"].tolist()))
        flat = []
        for i in range(len(names)):
            x, y = places.get(i, (0.0, 0.0))
            seen = scores.get(i, 0.0) >= least and 0 <= x <= picture.width and 0 <= y <= picture.height
            flat += [x, y, 2] if seen else [0, 0, 0]
        images.append({"id": number, "file_name": path.name, "width": picture.width, "height": picture.height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
                            "area": picture.width * picture.height, "keypoints": flat})
    return write_json(output, {"images": images, "annotations": annotations,
                               "categories": [{"id": 1, "name": "person", "keypoints": names}]})


@stoppable
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rg_minimal.detectors", description="Label pictures by a detector "
        "of transformers.")
    parser.add_argument("what", choices=("depth", "keypoints"))
    parser.add_argument("pictures", help="folder of pictures")
    parser.add_argument("output", help="folder of maps, or a COCO file")
    parser.add_argument("--model", required=True, help="folder or hub name of the detector")
    parser.add_argument("--download", action="store_true", help="ask the hub for it")
    asked = parser.parse_args(arguments)
    with one_sentence(parser):
        label = depth_maps if asked.what == "depth" else pose_keypoints
        print(label(asked.pictures, asked.output, asked.model, local_files_only=not asked.download))


if __name__ == "__main__":
    main()
