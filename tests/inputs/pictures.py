"""Whatever somebody may take for a picture, at every door where a picture comes in."""
import base64
import functools
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import tiny
from rg_minimal import Source, decode, encode, guided_sample, invert, read_picture, train_head
from rg_minimal.classroom.recipe import embed, read_reference
from rg_minimal.classroom.widgets import PictureArrows, as_array
from rg_minimal.pictures import as_pictures
from rg_minimal.pipelines import controlled, encode_prompts
from rg_minimal.puppets.cases import find_patch
from rg_minimal.puppets.judge import Judge, JudgeNetwork, round_trip
from . import Case

pipe, control_pipe, sd3_pipe = (functools.cache(make) for make in (tiny.tiny_pipe, tiny.tiny_control_pipe, tiny.tiny_sd3_pipe))


@functools.cache
def judge():
    torch.manual_seed(0)
    return Judge(JudgeNetwork((8, 8, 8)))


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp())


@functools.cache
def array(side):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def tensor(side):
    return torch.from_numpy(array(side)).permute(2, 0, 1)[None].contiguous().float() / 255


def file(name, write):
    """A file that is written once."""
    path = folder() / name
    if not path.exists():
        write(path)
    return path


def png_header(width, height):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


# ---- the doors: a picture -> something that says what came in ----------------------------------------------------------

def trained(picture):
    batch = (picture, torch.zeros(1, 2, 8, 8))
    return [state.loss for state in train_head(tiny.make_head(pipe()), pipe(), [batch], 1, generator=tiny.seed())]


def shown_to_control(picture):
    told = controlled(control_pipe(), encode_prompts(control_pipe(), "a puppet"), picture)
    return next(guided_sample(control_pipe(), told, num_inference_steps=1, generator=tiny.seed())).latents


DOORS = {                                               # name -> (door, side of its pictures, what messages call them)
    "as_pictures": (as_pictures, 32, "pictures"),
    "encode": (lambda picture: encode(pipe(), picture), 32, "pictures"),
    "invert": (lambda picture: next(invert(pipe(), picture, num_inference_steps=2)).latents, 32, "pictures"),
    "read_picture": (lambda picture: read_picture(pipe(), picture, 300, generator=tiny.seed()).latents, 32, "pictures"),
    "Source.from_picture": (lambda picture: Source.from_picture(pipe(), picture, generator=tiny.seed()).latents_at(300), 32, "pictures"),
    "train_head, pictures": (trained, 32, "pictures"),
    "controlled": (shown_to_control, 32, "image"),
    "judge": (lambda picture: judge()(picture).confidence, 128, "images"),
    "round_trip": (lambda picture: round_trip(pipe().vae, picture), 32, "images"),
    "find_patch": (lambda picture: find_patch(picture, torch.tensor([9.0, 9.0]), picture), 32, "source"),
    "widgets.as_array": (as_array, 32, "picture"),
    "PictureArrows": (lambda picture: PictureArrows(picture).picture, 32, "picture")}
ENCODING = ("encode", "invert", "read_picture", "Source.from_picture", "train_head, pictures", "controlled", "round_trip")

WRONG = {                                               # what it is -> (side -> value, a word of the remedy)
    "bytes": (lambda side: (tensor(side) * 255).byte(), "divide"),
    "floats to 255": (lambda side: tensor(side) * 255, "divide by 255"),
    "in -1 to 1": (lambda side: tensor(side) * 2 - 1, "(x + 1) / 2"),
    "NaN": (lambda side: tensor(side) / torch.zeros(1) * 0, "not finite"),
    "one infinite value": (lambda side: torch.where(torch.arange(side) == 3, torch.inf, tensor(side)), "not finite"),
    "four channels": (lambda side: torch.rand(1, 4, side, side), "latents="),
    "grey": (lambda side: torch.rand(1, 1, side, side), "expand"),
    "channels last": (lambda side: tensor(side).movedim(1, -1), "movedim"),
    "truth values": (lambda side: tensor(side) > 0.5, "floats in [0, 1]"),
    "complex": (lambda side: tensor(side).to(torch.complex64), "floats in [0, 1]"),
    "whole numbers": (lambda side: (tensor(side) * 255).long(), "divide"),
    "no picture in the batch": (lambda side: tensor(side)[:0], "pass"),
    "no pixel": (lambda side: torch.zeros(1, 3, side, 0), "pass"),
    "two axes": (lambda side: torch.rand(side, side), "(B, 3, H, W)"),
    "five axes": (lambda side: tensor(side)[None], "(B, 3, H, W)"),
    "a billion pixels": (lambda side: torch.zeros(1, 3, 1, 1).expand(1, 3, 40_000, 25_000), "smaller"),
    "an array to 255 of floats": (lambda side: array(side).astype(np.float64), "divide by 255"),
    "an array of int64": (lambda side: array(side).astype(np.int64), "uint8"),
    "an array, channels first": (lambda side: np.ascontiguousarray(array(side).transpose(2, 0, 1)), "moveaxis"),
    "an array of truth values": (lambda side: array(side) > 99, "uint8"),
    "an array of objects": (lambda side: array(side).astype(object), "uint8"),
    "an image without pixels": (lambda side: Image.new("RGB", (0, side)), "at least one"),
    "a file that is not there": (lambda side: "no/such/picture.png", "give the path"),
    "a file of text": (lambda side: file("text.png", lambda path: path.write_text("text")), "give the path"),
    "half a file": (lambda side: file("half.png", lambda path: path.write_bytes(png_header(side, side))), "save it anew"),
    "a file of a billion pixels": (lambda side: file("huge.png", lambda path: path.write_bytes(png_header(40_000, 25_000))), "smaller"),
    "two sizes": (lambda side: [tensor(side), tensor(side)[..., :-2]], "one size"),
    "an empty list": (lambda side: [], "pass"),
    "a list of numbers": (lambda side: [0.5, 0.5, 0.5], "no picture"),
    "a number": (lambda side: 5, "no picture"),
    "bytes of a file": (lambda side: b"\x89PNG", "no picture"),
    "nothing": (lambda side: None, "pass"),
    "a dict": (lambda side: {"image": tensor(side)}, "no picture")}
LEGITIMATE = {
    "a tensor without batch axis": lambda side: tensor(side)[0],
    "a tensor of float64": lambda side: tensor(side).double(),
    "an array of bytes": array,
    "a batch of arrays": lambda side: array(side)[None],
    "an array of floats": lambda side: array(side) / 255,
    "an image": lambda side: Image.fromarray(array(side)),
    "an opaque image with opacity": lambda side: Image.fromarray(array(side)).convert("RGBA"),
    "a file": lambda side: file(f"{side}.png", lambda path: Image.fromarray(array(side)).save(path)),
    "a file by its name": lambda side: str(file(f"{side}.png", lambda path: Image.fromarray(array(side)).save(path))),
    "a photo that lies": lambda side: file(f"turned{side}.png", lambda path: lying(path, side)),
    "a list of one": lambda side: [array(side)]}


def lying(path, side):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(array(side)))).save(path, exif=exif)


def as_by_tensor(door):
    """Whether a door makes of a picture what it makes of the same picture as a tensor."""
    call, side, _ = DOORS[door]

    def right(result):
        expected = call(tensor(side))
        if isinstance(result, list):
            return result == expected
        return (np.asarray(result) == np.asarray(expected)).all()
    return right


CASES = [Case(door, name, functools.partial(lambda call, make, side: call(make(side)), call, make, side), (what.removesuffix("s"), word))
         for door, (call, side, what) in DOORS.items() for name, (make, word) in WRONG.items()
         if not (door == "PictureArrows" and name == "nothing")]               # which is an empty ground there
CASES += [Case(door, name, functools.partial(lambda call, make, side: call(make(side)), call, make, side), right=as_by_tensor(door))
          for door, (call, side, _) in DOORS.items() for name, make in LEGITIMATE.items()]
CASES += [Case(door, "127 x 127", functools.partial(DOORS[door][0], torch.rand(1, 3, 127, 127)), ("127 x 127", "crop or resize to 126 x 126"))
          for door in ENCODING]

# ---- what belongs to one door ------------------------------------------------------------------------------------------
CASES += [
    Case("encode", "30 x 32 for patches of two cells", lambda: encode(sd3_pipe(), torch.rand(1, 3, 30, 32)), ("30 x 32", "multiples of 4")),
    Case("encode", "30 x 32 for cells", lambda: encode(pipe(), torch.rand(1, 3, 30, 32)), right=lambda z: z.shape == (1, 4, 15, 16)),
    Case("encode", "a bare network", lambda: encode(pipe().unet, tensor(32)), ("no autoencoder", "whole pipeline")),
    Case("encode", "two pictures", lambda: encode(pipe(), [array(32), Image.fromarray(array(32))]),
         right=lambda z: torch.equal(z, encode(pipe(), tensor(32).expand(2, -1, -1, -1)))),
    Case("judge", "64 x 64", lambda: judge()(torch.rand(1, 3, 64, 64)), ("64 x 64", "128 x 128")),
    Case("judge", "no batch", lambda: judge()(tensor(128), batch=0), ("batch", "greater")),
    Case("controlled", "another size", lambda: shown_to_control(torch.rand(1, 3, 64, 64)), ("image", "of that size")),
    Case("controlled", "three for one", lambda: shown_to_control(torch.rand(3, 3, 32, 32)), ("image", "as many")),
    Case("PictureArrows", "two pictures", lambda: PictureArrows(torch.rand(2, 3, 8, 8)), ("picture", "one picture")),
    Case("find_patch", "two pictures", lambda: find_patch(tensor(32)[0], torch.tensor([9.0, 9.0]), torch.rand(2, 3, 32, 32)), ("picture", "pass one"))]

# ---- latents, which have a name ----------------------------------------------------------------------------------------
BY_NAME = {
    "invert": lambda **given: next(invert(pipe(), num_inference_steps=2, **given)).latents,
    "read_picture": lambda **given: read_picture(pipe(), timestep=300, generator=tiny.seed(), **given).latents,
    "Source.from_picture": lambda **given: Source.from_picture(pipe(), generator=tiny.seed(), **given).latents_at(300)}
CASES += [Case(f"{door}, latents", name, functools.partial(call, **given), says) for door, call in BY_NAME.items() for name, given, says in (
    ("neither", {}, ("pictures", "latents=")),
    ("both", {"pictures": tensor(32), "latents": torch.zeros(1, 4, 16, 16)}, ("latents", "not both")),
    ("pictures", {"latents": tensor(32)}, ("latents", "(B, 4, h, w)")),
    ("without batch axis", {"latents": torch.zeros(4, 16, 16)}, ("latents", "(B, 4, h, w)")),
    ("NaN", {"latents": torch.full((1, 4, 16, 16), torch.nan)}, ("latents", "NaN")),
    ("bytes", {"latents": torch.zeros(1, 4, 16, 16, dtype=torch.uint8)}, ("latents", "floats")),
    ("complex", {"latents": torch.zeros(1, 4, 16, 16, dtype=torch.complex64)}, ("latents", "floats")),
    ("an image with opacity", {"latents": Image.new("RGBA", (16, 16))}, ("latents", "tensor")))]
CASES += [Case(f"{door}, latents", "those of a picture", functools.partial(lambda call: call(latents=encode(pipe(), tensor(32))), call),
               right=functools.partial(lambda call, result: torch.equal(result, call(pictures=tensor(32))), call))
          for door, call in BY_NAME.items()]
CASES += [
    Case("decode", "a picture", lambda: decode(pipe(), tensor(32)), ("latents", "(B, 4, h, w)")),
    Case("decode", "without batch axis", lambda: decode(pipe(), torch.zeros(4, 16, 16)), ("latents", "(B, 4, h, w)")),
    Case("decode", "nothing", lambda: decode(pipe(), None), ("latents", "tensor")),
    Case("decode", "latents", lambda: decode(pipe(), torch.zeros(1, 4, 16, 16)), right=lambda made: made.shape == (1, 3, 32, 32)),
    Case("guided_sample, latents", "a picture", lambda: guided_sample(pipe(), "a puppet", latents=tensor(32)), ("latents", "(B, 4, h, w)")),
    Case("guided_sample, latents", "complex", lambda: guided_sample(pipe(), "a puppet", latents=torch.zeros(1, 4, 16, 16, dtype=torch.complex64)),
         ("latents", "floats")),
    Case("guided_sample, latents", "odd for patches", lambda: guided_sample(sd3_pipe(), "a puppet", latents=torch.zeros(1, 4, 15, 16)),
         ("latents", "multiples of 2")),
    Case("read_picture", "no timestep", lambda: read_picture(pipe(), tensor(32)), ("timestep", "pass a number")),
    Case("read_picture", "a timestep beyond the noise", lambda: read_picture(pipe(), tensor(32), 1000), ("timestep", "below 1000")),
    Case("read_picture", "a negative timestep", lambda: read_picture(pipe(), tensor(32), -1), ("timestep", "from 0")),
    Case("read_picture", "NaN as a timestep", lambda: read_picture(pipe(), tensor(32), float("nan")), ("timestep", "pass a number")),
    Case("read_picture", "three timesteps for one picture", lambda: read_picture(pipe(), tensor(32), torch.tensor([1, 2, 3])), ("timestep", "pass 1"))]

# ---- the studio's reference --------------------------------------------------------------------------------------------


def data(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def written(image, suffix="PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, suffix)
    return content.getvalue()


FILES = {
    "no/such.png": (lambda: "no/such.png", "give the path"), "a folder": (lambda: str(folder()), "give the path"),
    "text": (lambda: str(file("text.png", lambda path: path.write_text("text"))), "give the path"),
    "half a file": (lambda: str(file("half.png", lambda path: path.write_bytes(png_header(32, 32)))), "save it anew"),
    "a billion pixels": (lambda: str(file("huge.png", lambda path: path.write_bytes(png_header(40_000, 25_000)))), "smaller"),
    "data without base64": (lambda: "data:image/png", "give the path"), "data of text": (lambda: data(b"text"), "give the path"),
    "data of a billion pixels": (lambda: data(png_header(40_000, 25_000)), "smaller")}
CASES += [Case("read_reference", name, functools.partial(lambda make: read_reference(make()), make), ("appearance.picture", word))
          for name, (make, word) in FILES.items()]
CASES += [Case("embed", name, functools.partial(embed, content), ("upload", word)) for name, content, word in (
    ("text", b"text", "upload a PNG"), ("nothing", b"", "upload a PNG"), ("half a file", png_header(32, 32), "save it anew"),
    ("a billion pixels", png_header(40_000, 25_000), "smaller"))]
CASES += [Case(door, name, functools.partial(call, written(image, suffix)), right=functools.partial(
              lambda expected, found: ((found if torch.is_tensor(found) else read_reference(found)) - expected).abs().max() < 0.01, expected))
          for door, call in (("read_reference", lambda content: read_reference(data(content))), ("embed", embed)) for name, image, suffix, expected in (
              ("PNG", Image.fromarray(array(128)), "PNG", tensor(128)), ("transparent", Image.new("RGBA", (40, 60)), "PNG", 1.0),
              ("16 bits", Image.fromarray(np.full((50, 50), 32768, np.uint16)), "PNG", 0.5), ("GIF", Image.new("P", (50, 50)), "GIF", 0.0),
              ("grey JPEG", Image.new("L", (64, 64), 128), "JPEG", 0.5), ("CMYK", Image.new("CMYK", (64, 64), (0, 0, 0, 255)), "TIFF", 0.0))]
