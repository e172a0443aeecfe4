"""From unlabelled words to batches of one or two views, the same ones whatever made or interrupted them.

Batch g of a run, over all processes, holds the words that draws g·B to (g + 1)·B of the mixture name, B words
of all processes together; process r of N takes the r-th part of it. So N processes read together what one
process with N times the words reads, and a run goes on at any batch. Both views of a word are functions of
(seed, pass, word, view). How batches get from worker processes to the training is in `training_batches`;
masks and orders are drawn by `objectives`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.collation import UNREADABLE, BatchNormaliser, WordResizer, deal_by_width
from training.training_batches import ChunkMaker, TrainingBatches
from training.view_augmentation import make_view
from training.word_mixture import Draw, Share, WordMixture

VIEW_NAMES = ("pixel_values", "second_pixel_values")


@dataclass
class ViewChunk:
    """Batches on their way from a worker, as `pack_views` makes them, and what was read and could not be."""

    parts: list[dict[str, Tensor]]
    counts: Counter[str]

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Batch after batch."""
        return iter(self.parts)


class ViewChunkMaker(Dataset):
    """Chunk c of a process's endless batches, by its number.

    Args:
        mixture: the sequence of draws.
        resizer: the image processor's resizing.
        batch_size: words of this process per batch.
        num_views: 1 or 2.
        distorts: whether views are distorted; otherwise all views of a word are the word.
        seed: of the views and of the order of batches in a chunk.
        share: which part of every batch is this process's.
        bucket_batches: batches per chunk, whose words are sorted by width together; 1 keeps the order of the
            draws.
    """

    def __init__(
        self,
        mixture: WordMixture,
        resizer: WordResizer,
        batch_size: int,
        num_views: int,
        distorts: bool,
        seed: int,
        share: Share,
        bucket_batches: int = 1,
    ) -> None:
        if num_views not in (1, 2):
            raise ValueError(f"a word has 1 or 2 views, got {num_views}.")
        self.mixture = mixture
        self.resizer = resizer
        self.batch_size = batch_size
        self.num_views = num_views
        self.distorts = distorts
        self.seed = seed
        self.share = share
        self.bucket_batches = bucket_batches

    def __getitem__(self, index: int) -> ViewChunk:
        """Make chunk `index`; the same whenever and wherever it is made.

        Raises:
            ValueError: when none of its words can be read, with the reasons counted.
        """
        counts: Counter[str] = Counter()
        first = index * self.bucket_batches
        draws = itertools.chain.from_iterable(
            self.own_draws(batch) for batch in range(first, first + self.bucket_batches)
        )
        read = [self.read(draw, counts) for draw in draws]
        words = self._without_gaps(read, index, counts)
        if self.bucket_batches == 1:
            return ViewChunk([pack_views(words)], counts)
        batches = deal_by_width([views[0].shape[1] for views in words], self.batch_size)
        order = np.random.default_rng([self.seed, 3, index, self.share.rank]).permutation(len(batches))
        return ViewChunk([pack_views([words[i] for i in batches[b]]) for b in order], counts)

    def own_draws(self, batch: int) -> list[Draw]:
        """What this process reads for one batch."""
        return self.share.draws(self.mixture, batch, self.batch_size)

    def read(self, draw: Draw, counts: Counter[str]) -> list[np.ndarray] | None:
        """The views of one word, or None, and a count of it, when its image cannot be read."""
        part = self.mixture.parts[draw.part]
        counts[f"read {part.source.name}"] += 1
        try:
            pixels = self.resizer(part.source.row(draw.row)["image"])
        except UNREADABLE:
            counts[f"unreadable {part.source.name}"] += 1
            return None
        if not self.distorts:
            return [pixels] * self.num_views
        turn = 0 if part.rows is None else draw.count // len(part.rows)
        number = draw.row * len(self.mixture.parts) + draw.part
        return [make_view(pixels, self.seed, turn, number, view) for view in range(self.num_views)]

    def _without_gaps(
        self, read: Sequence[list[np.ndarray] | None], index: int, counts: Counter[str]
    ) -> list[list[np.ndarray]]:
        """Put the next readable word of the chunk in the place of an unreadable one."""
        readable = [number for number, views in enumerate(read) if views is not None]
        if not readable:
            raise ValueError(f"chunk {index}: none of {len(read)} words can be read: {dict(counts)}.")
        words = []
        for number, views in enumerate(read):
            if views is None:
                views = read[next((later for later in readable if later > number), readable[0])]
            assert views is not None
            words.append(views)
        return words


class ViewNormaliser:
    """Views in uint8 → model inputs, with `pixel_mask` where words differ in width.

    Args:
        image_processor: of the model.
        channels_last: keep the channels last in memory.
    """

    def __init__(self, image_processor: Any, channels_last: bool) -> None:
        self.normalise = BatchNormaliser(image_processor, channels_last)

    def __call__(self, batch: dict[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Normalise the views of one batch on a device; padding becomes 0."""
        rest = {"labels": torch.empty(0)} | ({"widths": batch["widths"]} if "widths" in batch else {})
        result: dict[str, Tensor] = {}
        for name in VIEW_NAMES:
            if name in batch:
                ready = self.normalise({"pixel_values": batch[name], **rest}, device)
                result[name] = ready["pixel_values"]
                if "pixel_mask" in ready:
                    result["pixel_mask"] = ready["pixel_mask"]
        return result


def pack_views(words: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
    """Stack the views of words, each (H, W, 3) uint8, and pad narrower words on the right with 0.

    Returns:
        For each view (B, H, W, 3) uint8; `widths` (B,) when words differ in width.
    """
    widths = [views[0].shape[1] for views in words]
    height, width = words[0][0].shape[0], max(widths)
    batch = {}
    for number, name in enumerate(VIEW_NAMES[: len(words[0])]):
        pixels = np.zeros((len(words), height, width, 3), dtype=np.uint8)
        for row, views in zip(pixels, words, strict=True):
            row[:, : views[number].shape[1]] = views[number]
        batch[name] = torch.from_numpy(pixels)
    if min(widths) != width:
        batch["widths"] = torch.tensor(widths)
    return batch


def stream_batches(
    maker: ViewChunkMaker, normalise: ViewNormaliser, device: torch.device, workers: int, niceness: int
) -> TrainingBatches:
    """The endless batches of one process, from the number that their `start` says."""
    # Any maker of chunks by number will do there; this one knows its process's share itself.
    return TrainingBatches(
        cast(ChunkMaker, maker), cast(BatchNormaliser, normalise), device, workers=workers, niceness=niceness
    )
