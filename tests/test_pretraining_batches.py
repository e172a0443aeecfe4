"""Batches of views: whose words they are, that they repeat, and that they match the image processor."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from modeling_rcmstr.image_processing_text_recognition import TextRecognitionImageProcessor
from training.collation import WordResizer
from training.pretraining_batches import ViewChunkMaker, ViewNormaliser, pack_views, stream_batches
from training.source_interface import WordSource
from training.view_augmentation import make_view
from training.word_mixture import MixturePart, Share, WordMixture


class NumberedWords(WordSource):
    """Word i is a picture of noise made by i; every `broken`-th one cannot be read."""

    def __init__(self, size: int | None = 40, widths: tuple[int, ...] = (100,), broken: int = 0) -> None:
        self.name = f"numbered:{size}"
        self.size = size
        self.widths = widths
        self.broken = broken

    def row(self, index: int) -> dict[str, Any]:
        if self.broken and index % self.broken == 0:
            return {"image": {"bytes": b"no image", "path": None}, "text": ""}
        width = self.widths[index % len(self.widths)]
        pixels = np.random.default_rng(index).integers(0, 256, (32, width, 3), dtype=np.uint8)
        return {"image": pixels, "text": ""}

    def text(self, index: int) -> str:
        return ""


def processor(**settings: Any) -> TextRecognitionImageProcessor:
    return TextRecognitionImageProcessor(**{"size": {"height": 32, "width": 100}, **settings})


def maker(source: WordSource | None = None, **settings: Any) -> ViewChunkMaker:
    source = source or NumberedWords()
    rows = None if source.size is None else np.arange(source.size)
    image_settings = settings.pop("processor", {})
    values: dict[str, Any] = {"batch_size": 4, "num_views": 2, "distorts": True, "seed": 0, "share": Share()}
    mixture = WordMixture([MixturePart(source, 1.0, rows)], seed=3)
    return ViewChunkMaker(mixture, WordResizer(processor(**image_settings)), **(values | settings))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_read_together_what_one_reads() -> None:
    whole = maker(batch_size=6)
    parts = [maker(batch_size=3, share=Share(rank, 2)) for rank in (0, 1)]
    for index in (0, 1, 9):
        expected = whole[index].parts[0]
        found = [part[index].parts[0] for part in parts]
        for name in ("pixel_values", "second_pixel_values"):
            assert torch.equal(torch.cat([batch[name] for batch in found]), expected[name])


def test_two_accumulated_batches_are_one_of_twice_the_size() -> None:
    small, large = maker(batch_size=3), maker(batch_size=6)
    for name in ("pixel_values", "second_pixel_values"):
        both = torch.cat([small[8].parts[0][name], small[9].parts[0][name]])
        assert torch.equal(both, large[4].parts[0][name])


def test_a_chunk_depends_on_its_number_only() -> None:
    late, early = maker(), maker()
    for index in (5, 0, 2):
        late[index]
    assert same(late[3].parts[0], early[3].parts[0])
    assert not same(early[3].parts[0], early[4].parts[0])


def test_views_are_those_of_seed_pass_word_and_number() -> None:
    source = NumberedWords(size=5)
    batches = maker(source, batch_size=5, seed=7)
    draws = batches.own_draws(2)
    assert sorted(draw.row for draw in draws) == list(range(5))
    batch = batches[2].parts[0]
    for position, draw in enumerate(draws):
        word = source.row(draw.row)["image"]
        for view, name in enumerate(("pixel_values", "second_pixel_values")):
            expected = make_view(word, seed=7, epoch=2, index=draw.row, view=view)
            assert np.array_equal(batch[name][position].numpy(), expected)


def test_without_distortion_both_views_are_the_word() -> None:
    batch = maker(distorts=False)[0].parts[0]
    assert torch.equal(batch["pixel_values"], batch["second_pixel_values"])
    assert "second_pixel_values" not in maker(distorts=False, num_views=1)[0].parts[0]


def test_unreadable_words_are_counted_and_replaced_by_the_next() -> None:
    source = NumberedWords(size=8, broken=2)
    batches = maker(source, batch_size=8, distorts=False, num_views=1)
    draws = batches.own_draws(0)
    chunk = batches[0]
    assert chunk.counts == Counter({"read numbered:8": 8, "unreadable numbered:8": 4})
    readable = [draw.row for draw in draws if draw.row % 2]
    for position, draw in enumerate(draws):
        later = [other.row for other in draws[position:] if other.row % 2] or readable
        row = draw.row if draw.row % 2 else later[0]
        assert np.array_equal(chunk.parts[0]["pixel_values"][position].numpy(), source.row(row)["image"])
    with pytest.raises(ValueError, match="chunk 0: none of 4 words can be read"):
        maker(NumberedWords(size=8, broken=1))[0]


def test_words_of_other_widths_are_padded_and_masked() -> None:
    settings = {"keep_aspect_ratio": True, "width_multiple": 4, "min_width": 32, "max_width": 384}
    source = NumberedWords(size=6, widths=(64, 128, 96))
    batch = maker(source, batch_size=6, num_views=1, distorts=False, processor=settings)[0].parts[0]
    assert sorted(batch["widths"].tolist()) == [64, 64, 96, 96, 128, 128]
    ready = ViewNormaliser(processor(**settings), channels_last=True)(batch)
    assert ready["pixel_mask"].shape == (6, 32, 128)
    assert torch.equal(ready["pixel_mask"][:, 0].sum(1), batch["widths"])
    hidden = (ready["pixel_mask"] == 0)[:, None].expand(-1, 3, -1, -1)
    assert not ready["pixel_values"][hidden].any()


def test_sorting_by_width_keeps_the_words_and_needs_less_padding() -> None:
    settings = {"keep_aspect_ratio": True, "width_multiple": 4, "min_width": 32, "max_width": 384}
    source = NumberedWords(size=12, widths=(64, 128, 96))
    common = {"batch_size": 4, "num_views": 1, "distorts": False, "processor": settings}
    plain = [maker(source, **common)[index].parts[0] for index in range(3)]
    sorted_ = maker(source, bucket_batches=3, **common)[0].parts

    def real_pixels(batches: list[dict[str, torch.Tensor]]) -> list[int]:
        return sorted(int(word.long().sum()) for batch in batches for word in batch["pixel_values"])

    assert real_pixels(plain) == real_pixels(sorted_)
    assert all("widths" not in batch for batch in sorted_), "four words of each width"
    assert any("widths" in batch for batch in plain)


def test_normalised_views_are_what_the_processor_gives() -> None:
    source = NumberedWords(size=4)
    batches = maker(source, distorts=False, num_views=1)
    words = [source.row(draw.row)["image"] for draw in batches.own_draws(0)]
    expected = processor()(words, return_tensors="pt")["pixel_values"]
    ready = ViewNormaliser(processor(), channels_last=False)(batches[0].parts[0])
    assert torch.allclose(ready["pixel_values"], expected, atol=1e-6)
    assert set(ready) == {"pixel_values"}


@pytest.mark.parametrize("bucket", [1, 3])
def test_a_stream_starts_at_any_batch(bucket: int) -> None:
    def take(start: int, count: int) -> list[dict[str, torch.Tensor]]:
        stream = stream_batches(
            maker(bucket_batches=bucket), ViewNormaliser(processor(), True), torch.device("cpu"), 0, 0
        )
        stream.start = start
        return [batch for batch, _ in zip(stream, range(count), strict=False)]

    whole = take(0, 8)
    assert all(same(first, second) for first, second in zip(whole[4:], take(4, 4), strict=True))


def test_pack_views_of_two_views() -> None:
    words = [[np.full((2, width, 3), width, dtype=np.uint8)] * 2 for width in (4, 8)]
    batch = pack_views(words)
    assert batch["widths"].tolist() == [4, 8]
    assert batch["second_pixel_values"][0, :, 4:].sum() == 0
    assert batch["pixel_values"][1].unique().tolist() == [8]


def test_three_views_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 2 views"):
        maker(num_views=3)
