"""TextRecognitionImageProcessor: bit-exact pixels, sizes, padding and mask, saving, errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_backends import PilBackend

import modeling_rcmstr  # noqa: F401 (registers the Auto classes)
from modeling_rcmstr.image_processing_text_recognition import (
    TextRecognitionImageProcessor,
    TextRecognitionImageProcessorKwargs,
    WordGeometry,
    list_images,
)

SIZES = [(32, 128), (31, 100), (60, 220), (7, 9), (200, 64), (1, 1), (48, 700)]


@pytest.fixture
def words() -> list[Image.Image]:
    """Pictures of every size in `SIZES`, of random pixels."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def twin(image: Image.Image, size: tuple[int, int], mean: Any = 0.5, std: Any = 0.5) -> np.ndarray:
    """The pixels by the book, in float64: resize with PIL, then (x / 255 - mean) / std; (3, H, W)."""
    resized = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float64)
    return ((resized / 255 - np.asarray(mean)) / np.asarray(std)).transpose(2, 0, 1)


def test_pixels_are_resized_and_normalised_by_the_book(words: list[Image.Image]) -> None:
    pixel_values = TextRecognitionImageProcessor()(words, return_tensors="pt").pixel_values
    assert pixel_values.dtype == torch.float32
    assert pixel_values.shape == (len(words), 3, 32, 128)
    for row, word in zip(pixel_values.numpy(), words, strict=True):
        np.testing.assert_allclose(row, twin(word, (32, 128)), atol=2e-7)


@pytest.mark.parametrize(
    "statistics", [([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
)
def test_pixels_equal_the_librarys_bit_for_bit(
    words: list[Image.Image], statistics: tuple[list[float], ...]
) -> None:
    mean, std = statistics
    steps: dict[str, Any] = dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True)
    size = {"height": 32, "width": 128}
    library = PilBackend(**steps, size=size, resample=3, image_mean=mean, image_std=std)
    ours = TextRecognitionImageProcessor(image_mean=mean, image_std=std)
    for batch in (words, [np.asarray(word) for word in words[:4]]):  # the library guesses small layouts wrong
        expected = library(batch, return_tensors="pt").pixel_values
        assert torch.equal(ours(batch, return_tensors="pt").pixel_values, expected)


def test_steps_can_be_left_out(words: list[Image.Image]) -> None:
    word = words[0]
    processor = TextRecognitionImageProcessor()
    raw = processor(word, do_normalize=False, do_rescale=False).pixel_values[0]
    assert np.array_equal(raw, np.asarray(word).transpose(2, 0, 1))
    scaled = processor(word, do_normalize=False).pixel_values[0]
    np.testing.assert_allclose(scaled, raw / 255, atol=1e-7)
    unresized = processor(words[3], do_resize=False).pixel_values
    assert unresized.shape == (1, 3, 7, 9)
    one_number = processor(word, image_mean=0.5, image_std=0.25).pixel_values[0]
    np.testing.assert_allclose(one_number, (raw / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ((32, 100), 96),  # 100 / 16 = 6.25
        ((32, 104), 112),  # 6.5 is rounded up
        ((64, 200), 96),
        ((16, 50), 96),
        ((32, 10), 32),  # narrowest
        ((5000, 1), 32),
        ((1, 5000), 512),  # squeezed to the widest
        ((32, 5000), 512),
        ((1, 1), 32),
    ],
)
def test_aspect_is_kept_in_steps_between_the_limits(size: tuple[int, int], width: int) -> None:
    processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)
    assert processor.geometry().target_size(*size) == (32, width)
    image = Image.new("RGB", size[::-1], "gray")
    assert processor(image, return_tensors="pt").pixel_values.shape == (1, 3, 32, width)


def test_words_are_padded_on_the_right_with_zero_and_masked(words: list[Image.Image]) -> None:
    processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)
    batch = processor(words, return_tensors="pt")
    widths = [processor.geometry().target_size(*size)[1] for size in SIZES]
    assert batch.pixel_values.shape == (len(words), 3, 32, max(widths))
    assert batch.pixel_mask.shape == (len(words), 32, max(widths))
    assert batch.pixel_mask.dtype == torch.int64
    for row, (word, width) in enumerate(zip(words, widths, strict=True)):
        alone = processor(word, return_tensors="pt")
        assert torch.equal(batch.pixel_values[row, :, :, :width], alone.pixel_values[0])
        assert not batch.pixel_values[row, :, :, width:].any()
        assert torch.equal(batch.pixel_mask[row, 0], (torch.arange(max(widths)) < width).long())
        assert (batch.pixel_mask[row] == batch.pixel_mask[row, :1]).all()


def test_without_padding_there_is_no_mask(words: list[Image.Image]) -> None:
    assert set(TextRecognitionImageProcessor()(words)) == {"pixel_values"}
    keeping = TextRecognitionImageProcessor(keep_aspect_ratio=True)
    assert set(keeping([words[0], words[0]])) == {"pixel_values"}
    assert set(keeping(words[0])) == {"pixel_values"}


def test_a_batch_can_be_padded_to_a_fixed_size(words: list[Image.Image]) -> None:
    processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)
    batch = processor(words[:3], pad_size={"height": 32, "width": 256}, return_tensors="np")
    assert batch.pixel_values.shape == (3, 3, 32, 256)
    assert batch.pixel_mask.sum(-1)[:, 0].tolist() == [128, 96, 112]


def test_every_kind_of_input_is_taken(words: list[Image.Image], tmp_path: Path) -> None:
    processor = TextRecognitionImageProcessor()
    words[0].save(tmp_path / "word.png")
    expected = processor(words[0]).pixel_values
    array = np.asarray(words[0])
    for images in (
        tmp_path / "word.png",
        str(tmp_path / "word.png"),
        (tmp_path / "word.png").read_bytes(),
        array,
        array[None],
        torch.from_numpy(array.copy()).permute(2, 0, 1)[None],
        [words[0]],
        ([array],),
        (image for image in [words[0]]),
    ):
        assert np.array_equal(processor(images).pixel_values, expected)
    chosen = processor(array.transpose(2, 0, 1), input_data_format="channels_first").pixel_values
    assert np.array_equal(chosen, expected)


def test_nested_lists_are_flattened_in_order() -> None:
    assert list_images([["a", b"b"], ("c",)]) == ["a", b"b", "c"]
    assert len(list_images(np.zeros((4, 2, 2, 3)))) == 4
    with pytest.raises(TypeError, match="got int"):
        list_images([3])


def test_tensors_come_in_the_asked_kind(words: list[Image.Image]) -> None:
    processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)
    for kind, expected in (("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)):
        batch = processor(words, return_tensors=kind)
        assert {type(value) for value in batch.values()} == {expected}


def test_a_much_larger_picture_is_nearly_the_same(word_drawer: Callable[..., Image.Image]) -> None:
    processor = TextRecognitionImageProcessor()
    large = word_drawer("large", (1600, 6400))
    fast = processor.read_word(large).astype(int)
    exact = np.asarray(large.resize((128, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(fast - exact).mean() < 1.5
    limit = word_drawer("limit", (32 * 15, 128 * 15))
    exact = np.asarray(limit.resize((128, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(processor.read_word(limit), exact)


def test_arguments_are_saved_and_loaded(tmp_path: Path, words: list[Image.Image]) -> None:
    arguments: dict[str, Any] = {
        "size": {"height": 48, "width": 160},
        "keep_aspect_ratio": True,
        "width_multiple": 8,
        "min_width": 16,
        "max_width": 400,
        "max_image_pixels": 10**6,
        "image_mean": [0.1, 0.2, 0.3],
        "resample": 2,
    }
    processor = TextRecognitionImageProcessor(**arguments)
    processor.save_pretrained(tmp_path)
    for loaded in (
        AutoImageProcessor.from_pretrained(tmp_path),
        TextRecognitionImageProcessor.from_pretrained(tmp_path),
    ):
        assert type(loaded) is TextRecognitionImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(
            loaded(words, return_tensors="pt").pixel_values,
            processor(words, return_tensors="pt").pixel_values,
        )
    changed = TextRecognitionImageProcessor.from_pretrained(tmp_path, max_width=480)
    assert changed.geometry().max_width == 480


def test_arguments_of_a_call_beat_the_attributes_and_are_forgotten(words: list[Image.Image]) -> None:
    processor = TextRecognitionImageProcessor()
    assert processor(words[0], size={"height": 16, "width": 64}).pixel_values.shape == (1, 3, 16, 64)
    assert processor(words[-1], keep_aspect_ratio=True, max_width=256).pixel_values.shape == (1, 3, 32, 256)
    assert processor(words[0]).pixel_values.shape == (1, 3, 32, 128)


def test_own_arguments_are_declared() -> None:
    assert TextRecognitionImageProcessor.valid_kwargs is TextRecognitionImageProcessorKwargs
    for name in TextRecognitionImageProcessorKwargs.__annotations__:
        assert hasattr(TextRecognitionImageProcessor(), name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width_multiple": 0}, "must be positive"),
        ({"min_width": 0}, "must be positive"),
        ({"max_width": 16, "min_width": 32}, "at least `min_width`, got 16 < 32"),
        ({"keep_aspect_ratio": True, "min_width": 30}, "must be multiples of `width_multiple` 16"),
        ({"size": {"shortest_edge": 32}}, "must be {'height'"),
        ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, "uncropped"),
        ({"do_convert_rgb": False}, "words are RGB"),
        ({"data_format": "channels_last"}, "must be channels_first"),
        ({"image_std": [0.5, 0.0, 0.5]}, "`image_std` must be positive"),
        ({"image_mean": [0.5, 0.5]}, "one number or one per channel"),
    ],
)
def test_unusable_arguments_are_refused(
    arguments: dict[str, Any], message: str, words: list[Image.Image]
) -> None:
    with pytest.raises(ValueError, match=message):
        TextRecognitionImageProcessor(**arguments)(words)
    with pytest.raises(ValueError, match=message):
        TextRecognitionImageProcessor()(words, **arguments)


def test_an_unknown_argument_of_a_call_is_refused(words: list[Image.Image]) -> None:
    with pytest.raises(TypeError, match="keep_aspect"):
        TextRecognitionImageProcessor()(words, keep_aspect=True)


def test_words_that_do_not_fit_together_are_refused(words: list[Image.Image]) -> None:
    processor = TextRecognitionImageProcessor()
    with pytest.raises(ValueError, match="at least one image"):
        processor([])
    with pytest.raises(ValueError, match=r"got heights \[7, 32\].*do_resize=True"):
        processor([words[0], words[3]], do_resize=False)
    with pytest.raises(ValueError, match=r"at most 64 wide.*`pad_size` that fits"):
        processor(words, pad_size={"height": 32, "width": 64})
    with pytest.raises(ValueError, match="`do_pad=True`"):
        processor(words, keep_aspect_ratio=True, do_pad=False)


def test_the_pixel_limit_is_the_processors() -> None:
    image = Image.new("RGB", (300, 200))
    with pytest.raises(ValueError, match="more than `max_image_pixels` = 59999"):
        TextRecognitionImageProcessor(max_image_pixels=59_999)(image)
    with pytest.raises(ValueError, match="more than `max_image_pixels` = 100"):
        TextRecognitionImageProcessor()(image, max_image_pixels=100)


def test_geometry_gives_sizes_that_it_keeps() -> None:
    """A word of the target's size is not resized again, whatever the picture was."""
    generator = np.random.default_rng(0)
    geometry = WordGeometry(32, 128, True, 16, 32, 512)
    for height, width in generator.integers(1, 2000, (200, 2)).tolist():
        target = geometry.target_size(height, width)
        assert geometry.target_size(*target) == target
        assert target[1] % 16 == 0
        assert 32 <= target[1] <= 512
