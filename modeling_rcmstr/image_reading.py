"""Any picture of a word becomes an upright 8-bit RGB image, or an error that says why not.

Sources: a path, a URL, a data URI or base64 text, the bytes of a file, a PIL image, a NumPy array or a torch
tensor, and the rows of an undecoded `datasets` image column. Size limits are checked before pixels are
decoded. Resizing and normalisation are in `image_processing_text_recognition`.
"""

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_session
from PIL import Image

# A path, URL, data URI or base64 text; a file's bytes; a PIL image; an array; {"bytes": …, "path": …}.
ImageSource = Any

# What turns a picture upright, by the value of its EXIF orientation tag; 1 and unknown values are upright.
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A JPEG is decoded at a half, a quarter or an eighth of its size while it stays this many times larger than
# what is needed.
DRAFT_FACTOR = 8
BIT_DEPTHS = (8, 10, 12, 14, 16)
BASE64_TEXT = re.compile(r"[A-Za-z0-9+/\s]{32,}={0,2}\s*")


class InvalidImageError(ValueError):
    """A picture that cannot be read; the message gives the rule, what was found, and what to do."""


def is_image_source(value: object) -> bool:
    """Say whether a value stands for one picture, rather than for several."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim < 4
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Mapping))


def read_image(
    source: ImageSource,
    max_image_pixels: int | None = None,
    channels_last: bool | None = None,
    wanted_size: Callable[[int, int], tuple[int, int]] | None = None,
    timeout: float | None = None,
) -> Image.Image:
    """Read one picture.

    The first frame of an animation is taken, EXIF orientation is applied, transparency is laid on white, CMYK
    and other colour spaces become RGB. Grey pictures of more than 8 bits are scaled from the smallest of 8,
    10, 12, 14 and 16 bits that holds their brightest pixel.

    Args:
        source: see the module.
        max_image_pixels: refuse larger pictures before decoding them; None for no limit but Pillow's own.
        channels_last: whether a 3-D array is (H, W, C) or (C, H, W); None to find out, and when both are
            possible the first for NumPy, the second for torch.
        wanted_size: maps the upright (height, width) to the size that it will be shrunk to; JPEG files at
            least 16 times larger are then decoded at a part of their size.
        timeout: seconds to wait for a URL.

    Returns:
        An upright RGB image.

    Raises:
        InvalidImageError: a ValueError, for what cannot be decoded or is too large.
        FileNotFoundError: for a path where nothing is.
        TypeError: for something that is not a picture.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _array_to_rgb(source, max_image_pixels, channels_last)
    if isinstance(source, Image.Image):
        return _decode(source, getattr(source, "filename", "") or "the image", max_image_pixels, None)
    content, name = _locate(source, timeout)
    with _open(content, name) as image:
        return _decode(image, name, max_image_pixels, wanted_size)


def _locate(source: ImageSource, timeout: float | None) -> tuple[bytes | str, str]:
    """Find the bytes of a picture or the path of its file, and what to call it in an error."""
    if isinstance(source, Mapping):
        source = _row_content(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), f"the image of {len(source)} bytes"
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return _download(source, timeout), source
        content = _base64_content(source)
        if content is not None:
            return content, "the base64 image"
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "an image must be a path, URL or base64 text, the bytes of a file, a PIL image, a NumPy array or "
            f"a torch tensor, got {type(source).__name__}."
        )
    path = os.fspath(source)
    if os.path.isdir(path):
        raise InvalidImageError(f"{path} is a folder; give the images in it.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path[:200]!r}; check the path.")
    if os.path.getsize(path) == 0:
        raise InvalidImageError(f"{path} is an empty file; copy or download it again.")
    return path, path


def _open(content: bytes | str, name: str) -> Image.Image:
    """Let Pillow find out the format; pixels are not decoded yet."""
    if not content:
        raise InvalidImageError(f"{name} is empty; give the content of an image file.")
    try:
        return Image.open(BytesIO(content) if isinstance(content, bytes) else content)
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"{name} is too large: {error} Crop or shrink it.") from error
    except Image.UnidentifiedImageError as error:
        raise InvalidImageError(
            f"{name} is not an image that Pillow can read; convert it to PNG or JPEG."
        ) from error
    except PermissionError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever a damaged header makes them stumble on.
        raise InvalidImageError(f"{name} cannot be opened: {error}; write it anew as PNG or JPEG.") from error


def _decode(
    image: Image.Image,
    name: str,
    max_image_pixels: int | None,
    wanted_size: Callable[[int, int], tuple[int, int]] | None,
) -> Image.Image:
    """Check the size, decode, turn upright, make RGB."""
    _check_size(name, image.height, image.width, max_image_pixels)
    # An image made in memory has neither a format nor EXIF data; looking costs as much as resizing a small
    # word.
    has_tags = image.format is not None or "exif" in image.info
    try:
        if wanted_size is not None and image.format == "JPEG":
            turned = _orientation(image) in (5, 6, 7, 8)
            height, width = image.size if turned else image.size[::-1]
            wanted = wanted_size(height, width)
            scaled = [DRAFT_FACTOR * side for side in (wanted if turned else wanted[::-1])]
            image.draft(None, (scaled[0], scaled[1]))
        image.load()
        # Read after decoding: Pillow turns TIFF files by itself and then drops the tag.
        method = UPRIGHT.get(_orientation(image)) if has_tags else None
        return _to_rgb(image if method is None else image.transpose(method), name)
    except InvalidImageError:
        raise
    except Exception as error:
        raise InvalidImageError(
            f"{name} cannot be decoded: {error}; it may be cut off, copy it again."
        ) from error


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; damaged EXIF data must not cost the picture."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image), name)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _array_to_rgb(
    source: np.ndarray | torch.Tensor, max_image_pixels: int | None, channels_last: bool | None
) -> Image.Image:
    """Make an image of an (H, W), (H, W, C) or (C, H, W) array with 1, 3 or 4 channels."""
    prefers_last = isinstance(source, np.ndarray)
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        array = (source.float() if source.is_floating_point() else source).numpy()
    else:
        array = source
    if array.ndim == 3:
        last, first = array.shape[2] in (1, 3, 4), array.shape[0] in (1, 3, 4)
        if channels_last is not None:
            last, first = last and channels_last, first and not channels_last
        if first and not (last and prefers_last):
            array = np.moveaxis(array, 0, -1)
        elif not last:
            array = array[..., None]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidImageError(
            "an array must be (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got shape "
            f"{tuple(source.shape)}; put the channels first or last, or pass a list of images."
        )
    _check_size("the array", array.shape[0], array.shape[1], max_image_pixels)
    array = _array_to_8_bits(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "the array")


def _array_to_8_bits(array: np.ndarray) -> np.ndarray:
    """Bring the values of an array to 0..255; floats must lie in 0..1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InvalidImageError("a float image must be free of NaN and infinity; repair or drop it.")
        # Resampling in floats overshoots by a little.
        if low < -1e-3 or high > 1 + 1e-3:
            raise InvalidImageError(
                f"a float image must lie between 0 and 1, got {low:g} to {high:g}; divide by 255, undo the "
                "normalisation, or pass uint8."
            )
        return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        return _to_8_bits(array, "the array")
    raise InvalidImageError(
        f"an array must be of numbers, got dtype {array.dtype}; pass uint8, or floats between 0 and 1."
    )


def _to_8_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Scale grey values or integers from the smallest bit depth that holds them; floats up to 1 from 0..1."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidImageError(f"{name} must be free of NaN and infinity; repair or drop it.")
    if low < 0 or high > 2 ** BIT_DEPTHS[-1] - 1:
        raise InvalidImageError(
            f"the pixels of {name} must lie between 0 and 65535, got {low:g} to {high:g}; rescale them."
        )
    white = next(2**bits - 1 for bits in BIT_DEPTHS if high <= 2**bits - 1)
    if np.issubdtype(values.dtype, np.floating) and high <= 1:
        white = 1
    return np.rint(values * (255.0 / white)).astype(np.uint8)


def _check_size(name: str, height: int, width: int, max_image_pixels: int | None) -> None:
    if height < 1 or width < 1:
        raise InvalidImageError(f"{name} has no pixels: {width} x {height}; drop it.")
    if max_image_pixels is not None and height * width > max_image_pixels:
        raise InvalidImageError(
            f"{name} has {width} x {height} = {width * height} pixels, more than `max_image_pixels` = "
            f"{max_image_pixels}; crop the word, or raise the limit in the image processor."
        )


def _row_content(row: Mapping[str, Any]) -> bytes | str:
    """Take the content of an undecoded `datasets` image: {"bytes": …, "path": …}."""
    content = row.get("bytes") if row.get("bytes") is not None else row.get("path")
    if content is None:
        raise InvalidImageError(
            f"an image row must have `bytes` or `path`, got the keys {', '.join(map(str, row))}."
        )
    return content


def _base64_content(text: str) -> bytes | None:
    """Decode a data URI or base64 text; None for what reads like a path."""
    is_uri = text.startswith("data:")
    if is_uri:
        text = text.partition(",")[2]
    elif not BASE64_TEXT.fullmatch(text) or os.path.exists(text[:4096]):
        return None
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        if not is_uri:
            Image.open(BytesIO(content)).close()
    except (binascii.Error, OSError) as error:
        if is_uri:
            raise InvalidImageError(f"the data URI is not base64: {error}; encode the file again.") from error
        return None
    return content


def _download(url: str, timeout: float | None) -> bytes:
    """Fetch a URL with the Hub's HTTP client."""
    try:
        response = get_session().get(url, timeout=timeout, follow_redirects=True)
        response.raise_for_status()
    except Exception as error:
        raise InvalidImageError(
            f"{url} cannot be fetched: {error}; download it yourself and give the path."
        ) from error
    return response.content
