"""The door for pictures: the right values out of whatever holds them, and everywhere the same door."""
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from rg_minimal import encode, read_picture
from rg_minimal.classroom.recipe import embed, read_reference
from rg_minimal.classroom.widgets import as_array
from rg_minimal.pictures import MOST, as_pictures, opened
from tiny import seed, tiny_pipe, tiny_sd3_pipe

BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(BYTES).permute(2, 0, 1)[None].contiguous().float() / 255
IMAGE = Image.fromarray(BYTES)
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def grey(array, largest):
    return torch.from_numpy(array.astype(np.float32) / largest)[None, None].expand(1, 3, -1, -1)


@pytest.mark.parametrize("value, expected", [
    (IMAGE, EXPECTED), (BYTES, EXPECTED), (BYTES[None], EXPECTED), (EXPECTED, EXPECTED), (EXPECTED[0], EXPECTED),
    (EXPECTED.double(), EXPECTED), (BYTES / 255, EXPECTED), (BYTES.astype(np.float32) / 255, EXPECTED),
    ([IMAGE, BYTES, EXPECTED[0]], EXPECTED.expand(3, -1, -1, -1)), ((IMAGE,), EXPECTED), (BYTES[:, ::-1], EXPECTED.flip(-1)),
    (BYTES.astype(np.uint16) * 257, EXPECTED), ((BYTES.astype(np.uint16) * 257).astype(">u2"), EXPECTED),
    (GREY, grey(GREY, 255)), (GREY[..., None], grey(GREY, 255)), (Image.fromarray(GREY), grey(GREY, 255))])
def test_what_holds_a_picture_says_how_it_is_read(value, expected):
    found = as_pictures(value)
    assert found.dtype == torch.float32 and found.is_contiguous() and torch.equal(found, expected)


def test_a_tensor_that_is_right_is_the_very_same():
    assert as_pictures(EXPECTED) is EXPECTED
    assert torch.equal(as_pictures(EXPECTED * 1.00005), (EXPECTED * 1.00005).clamp(0, 1)), "rounding is brought back"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "LA", "PA", "La", "RGBa", "I;16"])
def test_every_mode_of_pil(mode):
    """Compared with what PIL itself makes of a smooth picture, but for what it cannot convert, or would clip."""
    across, down = np.meshgrid(np.arange(16) * 16, np.arange(16) * 16)
    smooth = Image.fromarray(np.stack((across, down, (across + down) // 2), -1).astype(np.uint8))
    before = smooth.convert({"L": "L", "LA": "L", "La": "L", "I": "L", "F": "L", "I;16": "L", "1": "1", "PA": "P"}.get(mode, "RGB"))
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(smooth, transform)
    elif mode in ("La", "RGBa"):
        image = before.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(before).astype(np.uint16) * 257)
    else:
        image = before.convert(mode)
    assert image.mode == mode
    error = (as_pictures(image) - as_pictures(before.convert("RGB"))).abs()
    assert error.mean() <= {"LAB": 0.01, "HSV": 0.02, "YCbCr": 0.01, "P": 0.06}.get(mode, 0.0005)


def test_a_phones_photo_is_turned_as_it_says(tmp_path):
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[:3, :4] = (255, 0, 0)                               # red in the upper left quarter
    expected = as_pictures(upright)
    for orientation, stored in {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
                                6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
        with Image.open(tmp_path / "photo.png") as image:
            assert torch.equal(as_pictures(image), expected), orientation
        assert torch.equal(as_pictures(tmp_path / "photo.png"), expected) and torch.equal(as_pictures(str(tmp_path / "photo.png")), expected)


def test_transparency_lies_on_white(tmp_path):
    array = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 255, 51]]], np.uint8)                  # solid, nothing, a fifth
    expected = torch.tensor([[1, 0, 0], [1, 1, 1], [0.8, 0.8, 1]]).T[None, :, None]
    for value in (array, Image.fromarray(array), array / 255):
        assert torch.allclose(as_pictures(value), expected, atol=1e-6)
    pair = np.array([[[0, 255], [0, 0], [0, 51]]], np.uint8)
    for value in (pair, Image.fromarray(pair)):
        assert torch.allclose(as_pictures(value), torch.tensor([0, 1, 0.8]).expand(1, 3, 1, 3), atol=1e-6)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0]), palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0), palette.save(tmp_path / "p.gif", transparency=0)
    for name in ("p.png", "p.gif"):
        assert as_pictures(tmp_path / name)[0, :, 0].T.tolist() == [[1, 1, 1], [0, 1, 0]]
    Image.fromarray(np.array([[[9, 9, 9], [0, 255, 0]]], np.uint8)).save(tmp_path / "rgb.png", transparency=(9, 9, 9))
    assert as_pictures(tmp_path / "rgb.png")[0, :, 0].T.tolist() == [[1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    deep = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    found = as_pictures(tmp_path / f"deep.{suffix}")
    assert torch.equal(found, grey(deep, 65535)) and found.unique().numel() == 48
    assert torch.equal(as_pictures(Image.fromarray(deep.astype(np.int32))), grey(deep, 65535)), "mode I, as PIL reads some PNG files"


def test_cmyk_is_read_as_colours(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)
    assert (as_pictures(tmp_path / "ink.jpg") - torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).abs().max() < 0.02


def png_header(width, height):
    """The beginning of a PNG file of this size, without any pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("width, height", [(40_000, 25_000), (12_000, 10_000)])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, width, height, recwarn):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    assert width * height > MOST
    for call in (lambda: as_pictures(path), lambda: read_reference(str(path)), lambda: embed(path.read_bytes()),
                 lambda: as_pictures(Image.open(path)) if width < 30_000 else as_pictures(path),
                 lambda: as_pictures(torch.zeros(1, 3, 1, 1).expand(1, 3, height, width)),
                 lambda: as_pictures(np.broadcast_to(np.uint8(0), (height, width, 3)))):
        with pytest.raises(ValueError, match=f"more than {MOST}.*smaller"):
            call()
    path.write_bytes(png_header(40, 25))
    with opened(path) as image:
        assert image.size == (40, 25)
    with pytest.raises(ValueError, match="25 x 40 .*cannot be read.*save it anew"):
        as_pictures(path)


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("text")
    Image.fromarray(BYTES).save(tmp_path / "b.jpg")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[:len(whole) - 30])
    for path, message in ((tmp_path / "a.png", "no picture that can be read.*give the path"), (tmp_path / "none.png", "no picture that can be read"),
                          (tmp_path, "no picture that can be read"), (tmp_path / "b.jpg", "cannot be read")):
        with pytest.raises(ValueError, match=message):
            as_pictures(path)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


def test_sides_are_multiples_of_what_the_model_takes(pipe):
    assert encode(pipe, torch.rand(1, 3, 30, 34)).shape == (1, 4, 15, 17)
    with pytest.raises(ValueError, match="127 x 126 .*multiples of 2; crop or resize to 126 x 126"):
        encode(pipe, torch.rand(1, 3, 127, 126))
    with pytest.raises(ValueError, match="multiples of 4"):                     # patches of two cells
        encode(tiny_sd3_pipe(), torch.rand(1, 3, 30, 32))


def test_all_that_holds_one_picture_is_encoded_alike(pipe, tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "p.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    expected = encode(pipe, tensor)
    for value in (array, array[None], Image.fromarray(array), tmp_path / "p.png", tensor[0], [array]):
        assert torch.equal(encode(pipe, value), expected)
        assert torch.equal(read_picture(pipe, value, 300, generator=seed()).latents, read_picture(pipe, None, 300, latents=expected, generator=seed()).latents)
        assert (as_array(value) == array).all()


def test_latents_are_asked_for_by_name(pipe):
    """Four channels are no latents: a picture with opacity has as many."""
    four = torch.rand(1, 4, 16, 16)
    for call in (lambda: encode(pipe, four), lambda: read_picture(pipe, four, 300)):
        with pytest.raises(ValueError, match="three channels .*latents=..."):
            call()
    with pytest.raises(ValueError, match="and not both"):
        read_picture(pipe, torch.rand(1, 3, 32, 32), 300, latents=four)
    with pytest.raises(ValueError, match=r"latents are Tensor of shape \(1, 3, 32, 32\).*\(B, 4, h, w\)"):
        read_picture(pipe, None, 300, latents=torch.rand(1, 3, 32, 32))


def test_the_studios_reference_is_turned_and_laid_on_white(tmp_path):
    photo = Image.new("RGB", (100, 100), "blue")
    photo.paste("red", (0, 0, 100, 50))                                         # stored with red above, taken lying on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    for found in (read_reference(str(tmp_path / "photo.jpg")), read_reference(embed((tmp_path / "photo.jpg").read_bytes()))):
        assert found[0, 0, 64, 100] > 0.9 and found[0, 2, 64, 30] > 0.9, "red is on the right once it stands"
    Image.new("RGBA", (60, 60), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    assert (read_reference(str(tmp_path / "empty.png")) == 1).all()
    Image.fromarray(np.full((60, 60), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert (read_reference(str(tmp_path / "deep.png")) - 0.5).abs().max() < 0.01
