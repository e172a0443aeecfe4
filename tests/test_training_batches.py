import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor
from training.collation import BatchNormaliser, LabelEncoder, WordResizer
from training.training_batches import ChunkMaker, TrainingBatches
from training.word_mixture import MixturePart, Share, WordMixture

IMAGE_PROCESSOR = TextRecognitionImageProcessor(keep_aspect_ratio=True, width_multiple=16, min_width=32)


class ListedSource:
    """Rows from a list; `None` stands for an image that cannot be read."""

    def __init__(self, rows: list[tuple[Any, str]], name: str = "listed") -> None:
        self.rows, self.name, self.size = rows, name, len(rows)

    def row(self, index: int) -> dict[str, Any]:
        image, text = self.rows[index]
        return {"image": b"broken" if image is None else image, "text": text}

    def text(self, index: int) -> str:
        return self.rows[index][1]


@pytest.fixture
def words(word_drawer: Callable[..., Image.Image]) -> list[tuple[Any, str]]:
    """Twenty words of five widths."""
    return [(word_drawer(f"w{i}", (32, 64 + 16 * (i % 5))), f"w{i}") for i in range(20)]


def make(rows: list[tuple[Any, str]], strength: float = 0.5, seed: int = 0, **settings: Any) -> ChunkMaker:
    source: Any = ListedSource(rows)
    encoder = LabelEncoder(
        CharacterTokenizer(charset="ascii-94"),
        "drop_word",
        None,
        settings.pop("frames", lambda width: width // 4),
    )
    mixture = WordMixture([MixturePart(source, 1.0, np.arange(len(rows)), strength)], seed)
    return ChunkMaker(mixture, WordResizer(IMAGE_PROCESSOR), encoder, 4, 3, seed, **settings)


def take(maker: ChunkMaker, count: int, **settings: Any) -> list[dict[str, torch.Tensor]]:
    batches = TrainingBatches(maker, BatchNormaliser(IMAGE_PROCESSOR, True), torch.device("cpu"), **settings)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def assert_equal(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_started_at_any_batch_goes_on_as_the_whole_run(words: list[tuple[Any, str]]) -> None:
    whole = take(make(words), 10)
    for start in (0, 2, 3, 7):
        assert_equal(take(make(words), 10 - start, start=start), whole[start:])


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(words: list[tuple[Any, str]], workers: int) -> None:
    assert_equal(take(make(words), 8, workers=workers), take(make(words), 8))


def test_processes_share_each_batch_of_the_mixture(words: list[tuple[Any, str]]) -> None:
    """Two of them with 4 words each read what one with 8 reads, update by update."""
    tokenizer = CharacterTokenizer(charset="ascii-94")
    text_of = {tuple(tokenizer.text_to_ids(text)): text for _, text in words}

    def texts(batches: list[dict[str, torch.Tensor]]) -> list[str]:
        return sorted(
            text_of[tuple(row[row != -100].tolist())] for batch in batches for row in batch["labels"]
        )

    mixture = make(words).mixture
    expected = sorted(words[draw.row][1] for draw in mixture.draws(0, 3 * 8))
    shares = [take(make(words, share=Share(rank, 2)), 6) for rank in (0, 1)]
    assert texts([batch for batches in shares for batch in batches[:3]]) == expected
    later = sorted(words[draw.row][1] for draw in mixture.draws(3 * 8, 6 * 8))
    assert texts([batch for batches in shares for batch in batches[3:]]) == later
    assert texts(shares[0]) != texts(shares[1])


def test_another_seed_gives_other_batches(words: list[tuple[Any, str]]) -> None:
    first, second = take(make(words), 1)[0], take(make(words, seed=1), 1)[0]
    assert first["pixel_values"].shape != second["pixel_values"].shape or not torch.equal(
        first["pixel_values"], second["pixel_values"]
    )


def test_the_global_random_state_is_not_touched(words: list[tuple[Any, str]]) -> None:
    before = torch.random.get_rng_state()
    take(make(words), 5)
    take(make(words), 5, workers=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_augmentation_a_batch_holds_the_words_themselves(words: list[tuple[Any, str]]) -> None:
    by_label = {
        tuple(CharacterTokenizer(charset="ascii-94").text_to_ids(text)): image for image, text in words
    }
    for batch in take(make(words, strength=0.0), 5):
        for row, label in enumerate(batch["labels"]):
            image = by_label[tuple(label[label != -100].tolist())]
            width = round(image.width / 16) * 16
            expected = IMAGE_PROCESSOR(image, return_tensors="pt")["pixel_values"][0]
            assert torch.equal(batch["pixel_values"][row, :, :, :width], expected)
            assert not batch["pixel_values"][row, :, :, width:].any()


def test_every_batch_has_the_same_number_of_words_whatever_is_dropped(words: list[tuple[Any, str]]) -> None:
    rows = [(None, "broken"), (words[0][0], "two words"), (words[1][0], "x" * 40), *words[:5]]
    maker = make(rows)
    assert all(len(batch["labels"]) == 4 for batch in take(maker, 6))
    counts = maker[0].counts + maker[1].counts
    assert counts["read listed"] == 24
    for reason in ("unreadable", "outside the charset", "too long for its image"):
        assert counts[f"{reason} listed"] == 3


def test_a_row_that_its_source_cannot_give_is_counted_and_made_up_for(words: list[tuple[Any, str]]) -> None:
    class Gap(ListedSource):
        def row(self, index: int) -> dict[str, Any]:
            if index == 3:
                raise ValueError("row 3: no label")
            return super().row(index)

    maker = make(words)
    source: Any = Gap(words)
    maker.mixture = WordMixture([MixturePart(source, 1.0, np.arange(len(words)))], 0)
    chunks = [maker[0], maker[1]]
    assert sum(chunk.counts["unreadable listed"] for chunk in chunks) == 1
    assert all(sum(size for size, _ in chunk.sizes) == 12 for chunk in chunks)


def test_nothing_usable_is_an_error_that_counts_the_reasons(words: list[tuple[Any, str]]) -> None:
    with pytest.raises(ValueError, match="none of 12 words can be used: .*'unreadable listed': 12"):
        make([(None, "a"), (None, "b")])[0]


def test_counts_are_of_the_chunks_that_this_session_began(words: list[tuple[Any, str]]) -> None:
    batches = TrainingBatches(
        make(words), BatchNormaliser(IMAGE_PROCESSOR, True), torch.device("cpu"), start=4
    )
    list(itertools.islice(batches, 3))
    # Batches 4 and 5 end chunk 1, which an earlier session began; batch 6 begins chunk 2.
    assert batches.counts["read listed"] == 12


def test_waiting_is_measured_and_forgotten(words: list[tuple[Any, str]]) -> None:
    batches = TrainingBatches(make(words), BatchNormaliser(IMAGE_PROCESSOR, True), torch.device("cpu"))
    list(itertools.islice(batches, 4))
    assert batches.take_wait() > 0
    assert batches.take_wait() == 0


def test_a_worker_outlives_one_signal_to_everything_called_training(words: list[tuple[Any, str]]) -> None:
    """`pkill -f` reaches workers too; the batches must go on until the training has saved."""
    batches = TrainingBatches(
        make(words), BatchNormaliser(IMAGE_PROCESSOR, True), torch.device("cpu"), workers=1
    )
    iterator = iter(batches)
    taken = [next(iterator)]
    workers: Any = batches._source
    for worker in workers._workers:
        assert os.getpgid(worker.pid) != os.getpgid(0)
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    taken += list(itertools.islice(iterator, 9))
    assert_equal(taken, take(make(words), 10))
    del iterator, workers
    closing = threading.Thread(target=batches.close, daemon=True)
    closing.start()
    closing.join(timeout=20)
    assert not closing.is_alive()
