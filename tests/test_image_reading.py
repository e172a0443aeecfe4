"""Any picture becomes upright RGB: sources, modes, orientation, arrays, limits, damage."""

import base64
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr.image_reading import InvalidImageError, is_image_source, read_image


@pytest.fixture
def picture() -> Image.Image:
    """A 12 x 7 picture in which every pixel differs."""
    return Image.fromarray(np.arange(7 * 12 * 3, dtype=np.uint8).reshape(7, 12, 3))


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(source: Any, **arguments: Any) -> np.ndarray:
    """The pixels that `read_image` gives; always RGB."""
    image = read_image(source, **arguments)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_kind_of_source_gives_the_same_pixels(picture: Image.Image, tmp_path: Path) -> None:
    content = encode(picture)
    path = tmp_path / "word.png"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    array = np.asarray(picture)
    for source in (
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        text,
        base64.encodebytes(content).decode(),
        f"data:image/png;base64,{text}",
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        picture,
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        array.astype(np.float32) / 255,
        torch.from_numpy(array / 255).half().float(),
        array.astype(np.int64),
        torch.from_numpy(array.copy()).int(),
    ):
        assert is_image_source(source)
        assert np.array_equal(pixels(source), array), type(source)


def test_a_url_is_fetched(
    picture: Image.Image, web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = web
    with pytest.raises(InvalidImageError, match="cannot be fetched.*offline"):
        read_image(f"{address}/word.png")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (folder / "word.png").write_bytes(encode(picture))
    assert np.array_equal(pixels(f"{address}/word.png", timeout=10), np.asarray(picture))
    with pytest.raises(InvalidImageError, match="cannot be fetched.*404"):
        read_image(f"{address}/missing.png", timeout=10)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path
    server.shutdown()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_converted_as_pillow_does(picture: Image.Image, mode: str) -> None:
    converted = picture.convert(mode)
    assert np.array_equal(pixels(converted), np.asarray(converted.convert("RGB")))


def test_transparency_is_laid_on_white() -> None:
    colour = np.zeros((1, 3, 4), np.uint8)
    colour[0, :, 0] = 200
    colour[0, :, 3] = 0, 128, 255
    image = Image.fromarray(colour)
    blended = round((200 * 128 + 255 * 127) / 255)
    expected = np.array([[255, 255, 255], [blended, 127, 127], [200, 0, 0]], np.uint8)
    assert np.abs(pixels(image)[0].astype(int) - expected).max() <= 1
    assert np.array_equal(pixels(encode(image)), pixels(image))
    assert np.array_equal(pixels(colour), pixels(image))
    grey = image.convert("LA")
    assert np.array_equal(pixels(grey)[0, 0], [255, 255, 255])
    assert np.array_equal(pixels(grey)[0, 2], np.repeat(np.asarray(grey)[0, 2, 0], 3))


def test_palette_and_colour_key_transparency_is_laid_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(encode(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 9, 9))
    assert pixels(encode(keyed, transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [9, 9, 9]]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_grey_pictures_keep_their_shades(bits: int) -> None:
    """A picture scaled up to any bit depth is the 8-bit picture again."""
    shades = np.linspace(0, 255, 60).astype(np.uint8).reshape(6, 10)
    deep = np.round(shades * ((2**bits - 1) / 255)).astype(np.uint16)
    expected = np.repeat(shades[..., None], 3, axis=2)
    image = Image.fromarray(deep)
    assert image.mode == "I;16"
    for source in (
        image,
        encode(image),
        encode(image, "TIFF"),
        image.convert("I"),
        deep,
        deep.astype(np.int64),
    ):
        assert np.array_equal(pixels(source), expected)


def test_float_pictures_of_pillow_may_be_0_to_1_or_0_to_255() -> None:
    shades = np.linspace(0, 255, 60).astype(np.uint8).reshape(6, 10)
    expected = np.repeat(shades[..., None], 3, axis=2)
    assert np.array_equal(pixels(Image.fromarray(shades.astype(np.float32))), expected)
    assert np.array_equal(pixels(Image.fromarray((shades / 255).astype(np.float32))), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(
    word_drawer: Callable[..., Image.Image], orientation: int, format: str
) -> None:
    """Whatever way a camera was held, the stored and marked picture reads upright."""
    upright = word_drawer("exit", (32, 96))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(
        stored, format, exif=exif, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {})
    )
    for source in (content, Image.open(BytesIO(content))):
        read = pixels(source)
        assert read.shape == (32, 96, 3)
        assert np.abs(read.astype(int) - np.asarray(upright)).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_does_not_cost_the_picture(picture: Image.Image) -> None:
    assert np.array_equal(
        pixels(encode(picture, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")), np.asarray(picture)
    )


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_read(format: str) -> None:
    frames = [Image.new("RGB", (6, 4), shade) for shade in ("red", "blue", "green")]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    content = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(BytesIO(content)).n_frames == 3  # type: ignore[attr-defined]
    assert (pixels(content) == [255, 0, 0]).all()


def test_an_inverted_cmyk_jpeg_is_read(picture: Image.Image) -> None:
    content = encode(picture.resize((64, 32)).convert("CMYK"), "JPEG", quality=95)
    difference = pixels(content).astype(int) - np.asarray(picture.resize((64, 32)))
    assert np.abs(difference).mean() < 8


def test_a_picture_of_one_pixel_is_read() -> None:
    assert pixels(np.array([[7]], np.uint8)).tolist() == [[[7, 7, 7]]]
    assert pixels(np.zeros((1, 5000, 3), np.uint8)).shape == (1, 5000, 3)
    assert pixels(np.zeros((5000, 1), bool)).shape == (5000, 1, 3)


def test_a_layout_that_is_given_beats_the_guess() -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert pixels(array).shape == (3, 5, 3)
    assert pixels(array, channels_last=False).shape == (5, 3, 3)
    assert pixels(torch.from_numpy(array)).shape == (5, 3, 3)
    assert pixels(torch.from_numpy(array), channels_last=True).shape == (3, 5, 3)


def test_grey_arrays_with_a_channel_axis_are_grey() -> None:
    array = np.arange(30, dtype=np.uint8).reshape(5, 6)
    for source in (array, array[..., None], array[None], torch.from_numpy(array)[None]):
        assert np.array_equal(pixels(source), np.repeat(array[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 5), np.nan, np.float32), "free of NaN"),
        (np.full((4, 5, 3), np.inf), "free of NaN"),
        (np.full((4, 5, 3), 255.0), r"between 0 and 1, got 255 to 255; divide by 255"),
        (np.full((4, 5, 3), -0.5), "between 0 and 1, got -0.5"),
        (torch.randn(3, 8, 8) * 3, "undo the normalisation"),
        (np.zeros((6, 5, 2), np.uint8), r"1, 3 or 4 channels, got shape \(6, 5, 2\)"),
        (np.zeros((7, 5, 5), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(5, np.uint8), r"got shape \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels: 5 x 0"),
        (np.zeros((5, 0), np.float32), "no pixels: 0 x 5"),
        (np.full((4, 5), -3), "between 0 and 65535, got -3"),
        (np.full((4, 5), 70000), "between 0 and 65535"),
        (np.full((4, 5), "x"), "must be of numbers"),
        (np.zeros((4, 5), complex), "must be of numbers"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.fromarray(np.full((4, 5), np.nan, np.float32)), "free of NaN"),
    ],
)
def test_unusable_arrays_say_why(array: Any, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        read_image(array)


def test_missing_empty_and_foreign_files_say_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file '.*absent\.png'; check the path"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(FileNotFoundError):
        read_image("an/ordinary/looking/path/that/is/long/enough/to/be/base64")
    with pytest.raises(InvalidImageError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidImageError, match=r"empty\.png is an empty file"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(InvalidImageError, match=r"notes\.png is not an image that Pillow can read"):
        read_image(str(tmp_path / "notes.png"))
    with pytest.raises(InvalidImageError, match="image of 4 bytes is not an image"):
        read_image(b"junk")
    with pytest.raises(InvalidImageError, match="is empty"):
        read_image(b"")
    with pytest.raises(InvalidImageError, match="not base64"):
        read_image("data:image/png;base64,@@@")
    with pytest.raises(InvalidImageError, match="must have `bytes` or `path`, got the keys text"):
        read_image({"text": "hello"})
    with pytest.raises(TypeError, match="got int"):
        read_image(3)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="only a user without all rights can be refused"
)
def test_a_file_without_permission_says_so(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "word.png"
    path.write_bytes(encode(picture))
    path.chmod(0)
    with pytest.raises(PermissionError):
        read_image(path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_refused_at_any_length(
    word_drawer: Callable[..., Image.Image], format: str
) -> None:
    content = encode(word_drawer("cut", (32, 96)), format)
    for length in range(1, len(content) * 2 // 3, max(1, len(content) // 40)):
        with pytest.raises(InvalidImageError, match="not an image|cannot be"):
            read_image(content[:length])


def test_a_lazily_opened_truncated_picture_is_refused(word_drawer: Callable[..., Image.Image]) -> None:
    content = encode(word_drawer("cut", (32, 96)))
    image = Image.open(BytesIO(content[: len(content) // 2]))
    with pytest.raises(InvalidImageError, match="may be cut off"):
        read_image(image)


def test_a_too_large_picture_is_refused_before_it_is_decoded() -> None:
    content = encode(Image.new("1", (20000, 20000)))
    cut = content[:100]  # the header alone: decoding would fail in another way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InvalidImageError, match="is too large|more than `max_image_pixels`"):
            read_image(cut, max_image_pixels=89_478_485)
    small = encode(Image.new("RGB", (300, 200)))
    with pytest.raises(
        InvalidImageError, match="300 x 200 = 60000 pixels, more than `max_image_pixels` = 59999"
    ):
        read_image(small[:100], max_image_pixels=59_999)
    assert read_image(small, max_image_pixels=60_000).size == (300, 200)
    for source in (Image.new("RGB", (300, 200)), np.zeros((200, 300, 3), np.uint8)):
        with pytest.raises(InvalidImageError, match="crop the word, or raise the limit"):
            read_image(source, max_image_pixels=59_999)


def test_a_huge_jpeg_is_decoded_at_a_part_of_its_size(word_drawer: Callable[..., Image.Image]) -> None:
    large = word_drawer("large", (1600, 4800))
    content = encode(large, "JPEG", quality=95)
    part = read_image(content, wanted_size=lambda height, width: (32, 96))
    assert part.size == (1200, 400)  # a quarter: still more than 8 times 96 x 32
    exact = np.asarray(large.resize((96, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(part.resize((96, 32), Image.Resampling.BICUBIC)) - exact).mean() < 1.5
    small = encode(large.resize((96 * 15, 32 * 15)), "JPEG")
    assert read_image(small, wanted_size=lambda height, width: (32, 96)).size == (96 * 15, 32 * 15)


def test_a_turned_huge_jpeg_is_measured_upright(word_drawer: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = word_drawer("large", (1600, 4800)).transpose(Image.Transpose.ROTATE_90)
    seen: list[tuple[int, int]] = []

    def wanted(height: int, width: int) -> tuple[int, int]:
        seen.append((height, width))
        return 32, 96

    assert read_image(encode(stored, "JPEG", exif=exif), wanted_size=wanted).size == (1200, 400)
    assert seen == [(1600, 4800)]


def test_reading_leaves_the_callers_picture_alone(picture: Image.Image) -> None:
    image = Image.open(BytesIO(encode(picture.resize((2000, 1000)), "JPEG")))
    read_image(image, wanted_size=lambda height, width: (4, 4))
    assert image.size == (2000, 1000)


def test_files_are_closed_after_reading(tmp_path: Path, picture: Image.Image) -> None:
    for name in ("word.png", "word.gif", "word.tiff"):
        options: dict[str, Any] = {}
        if name != "word.png":
            options.update(save_all=True, append_images=[picture.rotate(90)])
        picture.save(tmp_path / name, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read_image(tmp_path / name)
            gc.collect()
        assert not [warning for warning in caught if warning.category is ResourceWarning], name


def test_several_pictures_are_not_one() -> None:
    several: list[Any] = [[], (), np.zeros((2, 4, 5, 3)), torch.zeros(2, 3, 4, 5), iter(""), None, 3]
    assert not any(map(is_image_source, several))
