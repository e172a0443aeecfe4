"""The endless run of training batches: chunks of words, made by number, here or in other processes.

Batch j of a run is a pure function of (sources, seed, j, share), whatever process makes it: a *chunk* of
`bucket_batches` batches takes as many words as fit into it, deals them into batches of one width
(`collation.deal_by_width`) and shuffles the batches. So a run goes on after a stop at the exact batch.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.augmentation import augment
from training.collation import (
    UNREADABLE,
    BatchNormaliser,
    Chunk,
    LabelEncoder,
    PreparedWord,
    WordResizer,
    deal_by_width,
    pack_chunk,
)
from training.word_mixture import Draw, Share, WordMixture

ALONE = Share()


class ChunkMaker(Dataset):
    """Chunk c of the endless training data, by its number.

    Args:
        mixture: the sequence of draws.
        resizer: the processor's resizing.
        encoder: text to ids.
        batch_size: words per batch.
        bucket_batches: batches per chunk.
        seed: of augmentation and of the order of batches.
        share: which part of every batch is this process's. Every process orders its batches alike, so that
            those of one update are about as wide.
    """

    def __init__(
        self,
        mixture: WordMixture,
        resizer: WordResizer,
        encoder: LabelEncoder,
        batch_size: int,
        bucket_batches: int,
        seed: int,
        share: Share = ALONE,
    ) -> None:
        self.mixture = mixture
        self.resizer = resizer
        self.encoder = encoder
        self.batch_size = batch_size
        self.bucket_batches = bucket_batches
        self.seed = seed
        self.share = share

    def __getitem__(self, index: int) -> Chunk:
        """Make chunk `index`; the same whenever and wherever it is made.

        Raises:
            ValueError: when none of its words can be used, with the reasons counted.
        """
        wanted = self.batch_size * self.bucket_batches
        counts: Counter[str] = Counter()
        words = []
        for batch in range(index * self.bucket_batches, (index + 1) * self.bucket_batches):
            for draw in self.share.draws(self.mixture, batch, self.batch_size):
                word = self.prepare(draw, counts)
                if word is not None:
                    words.append(word)
        if not words:
            raise ValueError(f"chunk {index}: none of {wanted} words can be used: {dict(counts)}.")
        # Words that were dropped are made up for by repeating others of the chunk, so every chunk has the
        # same batches.
        words = list(itertools.islice(itertools.cycle(words), wanted))
        batches = deal_by_width([word.pixels.shape[1] for word in words], self.batch_size)
        order = np.random.default_rng([self.seed, 3, index]).permutation(len(batches))
        return pack_chunk([[words[i] for i in batches[b]] for b in order], counts)

    def prepare(self, draw: Draw, counts: Counter[str]) -> PreparedWord | None:
        """Read, augment, resize and encode one word; None, and a count of the reason, if it is unusable."""
        part = self.mixture.parts[draw.part]
        name = part.source.name
        counts[f"read {name}"] += 1
        try:
            row = part.source.row(draw.row)
        except UNREADABLE:
            counts[f"unreadable {name}"] += 1
            return None
        text = self.encoder.clean(row["text"])
        if text is None:
            counts[f"outside the charset {name}"] += 1
            return None
        try:
            image = row["image"]
            if part.augmentation_strength > 0:
                generator = np.random.default_rng([self.seed, 4, draw.part, draw.count])
                image = augment(self.resizer.to_rgb(image), generator, part.augmentation_strength)
            pixels = self.resizer(image)
        except UNREADABLE:
            counts[f"unreadable {name}"] += 1
            return None
        label = self.encoder.encode(text)
        if not self.encoder.fits(label, pixels.shape[1]):
            counts[f"too long for its image {name}"] += 1
            return None
        return PreparedWord(pixels, label)


class TrainingBatches:
    """The endless run of batches from batch `start` on; a `Trainer` takes it for a data loader.

    Args:
        maker: makes chunks by number.
        normalise: finishes a batch.
        device: where batches go.
        start: number of batches that were consumed before.
        workers: processes that make chunks; 0 makes them here.
        niceness: scheduling priority that the workers give up.

    Attributes:
        counts: words read and dropped in the chunks consumed so far.
        wait_seconds: time spent waiting for batches since the last `take_wait`.
    """

    def __init__(
        self,
        maker: ChunkMaker,
        normalise: BatchNormaliser,
        device: torch.device,
        start: int = 0,
        workers: int = 0,
        niceness: int = 0,
    ) -> None:
        self.maker = maker
        self.normalise = normalise
        self.device = device
        self.start = start
        self.workers = workers
        self.niceness = niceness
        self.counts: Counter[str] = Counter()
        self.wait_seconds = 0.0
        self._source: Iterator[Chunk] | None = None

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield normalised batches without end."""
        first, skip = divmod(self.start, self.maker.bucket_batches)
        loader = DataLoader(
            self.maker,
            batch_size=None,
            sampler=_CountFrom(first),
            num_workers=self.workers,
            prefetch_factor=1 if self.workers else None,
            worker_init_fn=_WorkerSetup(self.niceness) if self.workers else None,
            # A generator of its own: the run's random state must not depend on when a loader is opened.
            generator=torch.Generator(),
        )
        self._source = iter(loader)
        while self._source is not None:
            begin = time.perf_counter()
            chunk = next(self._source)
            if not skip:
                # The session that began this chunk has counted its words.
                self.counts.update(chunk.counts)
            for batch in itertools.islice(chunk.batches(), skip, None):
                ready = self.normalise(batch, self.device)
                self.wait_seconds += time.perf_counter() - begin
                yield ready
                begin = time.perf_counter()
            skip = 0

    def close(self) -> None:
        """End the worker processes; without this an error of the training would wait for them."""
        self._source = None

    def take_wait(self) -> float:
        """Seconds waited since the last call."""
        seconds, self.wait_seconds = self.wait_seconds, 0.0
        return seconds


class _CountFrom(Sampler[int]):
    """The numbers from `first` on, without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


@dataclass(frozen=True)
class _WorkerSetup:
    """What a worker process does first: one thread, low priority."""

    niceness: int

    def __call__(self, worker: int) -> None:  # noqa: ARG002
        # A process group of its own: a signal to the training's group must not break its batches before it
        # has saved.
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Somebody who stops the training by its name means this process too; the library's own clean-up asks
        # twice.
        signal.signal(signal.SIGTERM, _ignore_once)
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        os.nice(self.niceness)


def _ignore_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Let the first signal of its kind pass; the next one ends the process."""
    signal.signal(number, signal.SIG_DFL)
