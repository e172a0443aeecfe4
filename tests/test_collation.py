from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from training.collation import (
    BatchNormaliser,
    LabelEncoder,
    PreparedWord,
    TextRecognitionCollator,
    WordResizer,
    deal_by_width,
    pack_chunk,
)

Words = list[tuple[Image.Image, str]]
KEEP = {"keep_aspect_ratio": True, "width_multiple": 16, "min_width": 32, "max_width": 256}


def processor(attention: bool = False, **settings: Any) -> TextRecognitionProcessor:
    return TextRecognitionProcessor(
        image_processor=TextRecognitionImageProcessor(**settings),
        tokenizer=CharacterTokenizer(charset="ascii-94", for_attention=attention),
    )


def varied_pictures(word_drawer: Callable[..., Image.Image]) -> list[Image.Image]:
    """Pictures of every size and of several modes."""
    sizes = [(32, 128), (20, 31), (64, 90), (48, 300), (100, 640), (33, 33), (17, 200)]
    pictures = [word_drawer(f"w{number}", size) for number, size in enumerate(sizes)]
    return [*pictures, pictures[0].convert("L"), pictures[3].convert("RGBA"), pictures[2].convert("P")]


@pytest.mark.parametrize(
    "settings", [{}, KEEP, {**KEEP, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}]
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_training_batches_are_what_the_processor_gives_at_inference(
    word_drawer: Callable[..., Image.Image], settings: dict[str, Any], channels_last: bool
) -> None:
    pictures = varied_pictures(word_drawer)
    image_processor = TextRecognitionImageProcessor(**settings)
    resizer = WordResizer(image_processor)
    chunk = pack_chunk([[PreparedWord(resizer(picture), [1]) for picture in pictures]])
    (batch,) = chunk.batches()
    ours = BatchNormaliser(image_processor, channels_last)(batch)
    theirs = image_processor(pictures, return_tensors="pt")
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
    assert ("pixel_mask" in ours) == ("pixel_mask" in theirs)
    if "pixel_mask" in theirs:
        assert torch.equal(ours["pixel_mask"], theirs["pixel_mask"])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert ours["pixel_values"].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("rescale_factor", [1 / 255, 1 / 256, 0.0123])
def test_every_byte_is_normalised_as_the_processor_does(rescale_factor: float) -> None:
    image_processor = TextRecognitionImageProcessor(
        rescale_factor=rescale_factor, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # (1, 256, 3)
    (batch,) = pack_chunk([[PreparedWord(pixels, [])]]).batches()
    expected = image_processor.batch_words([pixels], return_tensors="pt")["pixel_values"]
    assert torch.equal(BatchNormaliser(image_processor, False)(batch)["pixel_values"], expected)


def test_rgb_conversion_is_the_processors_own(word_drawer: Callable[..., Image.Image]) -> None:
    """Augmentation sees the same colours as the model: transparency on white, grey and palettes as RGB."""
    resizer = WordResizer(TextRecognitionImageProcessor(do_resize=False))
    for picture in varied_pictures(word_drawer):
        rgb = resizer.to_rgb(picture)
        assert rgb.dtype == np.uint8
        assert np.array_equal(rgb, resizer(picture))


@pytest.mark.parametrize("attention", [False, True])
def test_the_collator_for_a_stock_trainer_pads_labels(eight_words: Words, attention: bool) -> None:
    own = processor(attention)
    batch = TextRecognitionCollator(own)([{"image": image, "text": text} for image, text in eight_words])
    assert batch["pixel_values"].shape == (8, 3, 32, 128)
    for row, (_, text) in zip(batch["labels"], eight_words, strict=True):
        ids = row[row != -100].tolist()
        assert own.tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (ids[-1] == own.tokenizer.eos_token_id) == attention
    assert int((batch["labels"] != -100).sum(1).max()) == batch["labels"].shape[1]


def slow_deal(widths: list[int], batch_size: int) -> int:
    """How many batches need no padding, counted the plain way."""
    return sum(count // batch_size for count in Counter(widths).values())


@pytest.mark.parametrize(("count", "batch_size"), [(640, 64), (100, 7), (5, 8), (1, 1)])
def test_words_are_dealt_once_each_and_nearly_all_batches_have_one_width(count: int, batch_size: int) -> None:
    widths = (np.random.default_rng(0).integers(2, 12, count) * 16).tolist()
    batches = deal_by_width(widths, batch_size)
    assert sorted(number for batch in batches for number in batch) == list(range(count))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-count // batch_size)
    pure = sum(len(batch) == batch_size and len({widths[i] for i in batch}) == 1 for batch in batches)
    assert pure >= slow_deal(widths, batch_size)


def test_mixed_batches_hold_neighbouring_widths() -> None:
    widths = [16, 16, 16, 48, 48, 32, 160, 144]
    assert deal_by_width(widths, 2)[2:] == [[2, 5], [7, 6]]


def test_a_chunk_unpacks_to_the_words_that_were_packed() -> None:
    random = np.random.default_rng(0)
    words = [
        PreparedWord(random.integers(0, 256, (8, width, 3), dtype=np.uint8), list(range(1, length + 1)))
        for width, length in [(16, 1), (16, 4), (32, 2), (48, 0), (48, 3)]
    ]
    batches = list(pack_chunk([words[:2], words[2:]]).batches())
    assert [tuple(batch["pixel_values"].shape) for batch in batches] == [(2, 8, 16, 3), (3, 8, 48, 3)]
    assert [batch["labels"].shape[1] for batch in batches] == [4, 3]
    assert "widths" not in batches[0]
    assert batches[1]["widths"].tolist() == [32, 48, 48]
    unpacked = [
        (pixels.numpy(), label[label != -100].tolist())
        for batch in batches
        for pixels, label in zip(batch["pixel_values"], batch["labels"], strict=True)
    ]
    for word, (pixels, label) in zip(words, unpacked, strict=True):
        width = word.pixels.shape[1]
        assert np.array_equal(pixels[:, :width], word.pixels)
        assert not pixels[:, width:].any()
        assert label == word.label


def encoder(rule: str = "drop_word", charset: str = "ascii-94", **settings: Any) -> LabelEncoder:
    tokenizer = CharacterTokenizer(charset=charset, for_attention=settings.pop("attention", False))
    return LabelEncoder(tokenizer, rule, settings.get("max_length"), settings.get("frames"))


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("drop_word", "plain", "plain"),
        ("drop_word", "two words", None),
        ("drop_characters", "two words", "twowords"),
        ("drop_characters", "\u00e9\u00e9", None),
        ("drop_word", "", None),
        ("error", "plain", "plain"),
    ],
)
def test_unknown_characters_follow_the_rule(rule: str, text: str, expected: str | None) -> None:
    assert encoder(rule).clean(text) == expected


def test_under_the_rule_error_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"'two words' holds \[' '\]"):
        encoder("error").clean("two words")


def test_a_lower_casing_tokenizer_reads_capitals() -> None:
    lower = encoder(charset="alphanumeric-36")
    assert lower.clean("ABC9") == "abc9"
    assert lower.encode("abc9") == lower.tokenizer.text_to_ids("ABC9")


def test_ctc_labels_need_a_frame_per_character_and_one_between_equal_ones() -> None:
    ctc = encoder(frames=lambda width: width // 4)
    assert ctc.fits([1, 2, 3, 4], 16)
    assert not ctc.fits([1, 2, 2, 4], 16)
    assert ctc.fits([1, 2, 2, 4], 20)
    assert not ctc.fits([1, 2, 3, 4, 5], 16)


def test_attention_labels_may_be_as_long_as_the_head_is_meant_for() -> None:
    attention = encoder(attention=True, max_length=3)
    assert attention.fits(attention.encode("abc"), 16)
    assert not attention.fits(attention.encode("abcd"), 1000)
