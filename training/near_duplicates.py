"""Images of words that are the same picture: equal pixels, or alike after storing, shrinking or brightening.

A perceptual hash (`imagehash.phash`, 64 bits) finds candidates, and small grey pictures decide, window by
window, so that words which differ in one letter stay apart. Candidates are found by the four quarters of the
hash: two hashes that differ in at most seven bits have a quarter that differs in at most one (multi-index
hashing, Norouzi et al., arXiv:1307.2982), so each image is compared with a few others only.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import imagehash
import numpy as np
from PIL import Image

# (height, width) of the grey pictures that are compared.
THUMBNAIL_SIZE = (32, 128)
# Bits in which the hashes of candidates may differ; measured on photographs that were stored again as JPEG of
# quality 50, 97 in 100 stay within 6.
MAX_HASH_DISTANCE = 6
# Largest mean difference in a window, in standard deviations of the picture: again JPEG of quality 50 stays
# below 0.35 for 99 in 100, other letters lie above it.
MAX_DIFFERENCE = 0.35
# Pictures with different labels must be closer to count as one.
MAX_DIFFERENCE_OF_LABELS = 0.15
WINDOW = 8
# Widths relative to heights may differ by this factor.
MAX_STRETCH = 1.1
# Images that share one hash are each compared with at most this many others.
SAME_HASH_COMPARISONS = 16
QUARTERS = 4
PROBES = np.array([0, *(1 << bit for bit in range(16))], dtype=np.uint16)
BITS_SET = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are one picture, by their numbers in the order in which they were added."""

    first: int
    second: int
    exact: bool


class PictureIndex:
    """Fingerprints of images; 24 bytes each in memory, the grey pictures in a temporary file.

    Attributes:
        labels: of the images, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.labels: list[str] = []
        self._digests: list[int] = []
        self._hashes: list[int] = []
        self._ratios: list[float] = []
        self._file = tempfile.TemporaryFile(prefix="word-pictures-")  # noqa: SIM115

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, image: Image.Image, label: str) -> None:
        """Add an RGB image."""
        pixels = image.tobytes()
        digest = hashlib.blake2b(pixels, digest_size=8, key=f"{image.size}".encode()).digest()
        height, width = THUMBNAIL_SIZE
        grey = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
        self._file.write(grey.tobytes())
        self.labels.append(label)
        self._digests.append(int.from_bytes(digest, "big"))
        self._hashes.append(int(str(imagehash.phash(image)), 16))
        self._ratios.append(image.width / image.height)

    def pictures(self) -> np.ndarray:
        """The grey pictures, (N, 32, 128) uint8, mapped from the file."""
        if not self.labels:
            return np.zeros((0, *THUMBNAIL_SIZE), np.uint8)
        self._file.flush()
        return np.memmap(self._file, np.uint8, mode="r", shape=(len(self), *THUMBNAIL_SIZE))

    def duplicates(self) -> Iterator[DuplicatePair]:
        """Pairs of one picture: every later image with equal pixels, then those that are alike."""
        first_of: dict[int, int] = {}
        for number, digest in enumerate(self._digests):
            first = first_of.setdefault(digest, number)
            if first != number:
                yield DuplicatePair(first, number, exact=True)
        rows = np.fromiter(first_of.values(), np.int64, len(first_of))
        hashes = np.array(self._hashes, dtype=np.uint64)[rows]
        pictures = self.pictures()
        for i, j in candidate_pairs(hashes):
            first, second = int(rows[i]), int(rows[j])
            ratio = self._ratios[first] / self._ratios[second]
            if not 1 / MAX_STRETCH <= ratio <= MAX_STRETCH:
                continue
            same_label = self.labels[first].casefold() == self.labels[second].casefold()
            limit = MAX_DIFFERENCE if same_label else MAX_DIFFERENCE_OF_LABELS
            if picture_difference(pictures[first], pictures[second]) <= limit:
                yield DuplicatePair(first, second, exact=False)


def candidate_pairs(hashes: np.ndarray, chunk: int = 4096) -> Iterator[tuple[int, int]]:
    """Pairs i < j of 64-bit hashes that differ in at most `MAX_HASH_DISTANCE` bits, each once.

    Of hashes that many images share, each image is paired with the `SAME_HASH_COMPARISONS` before it.

    Args:
        hashes: (N,) uint64.
        chunk: hashes that are looked up at once.
    """
    unique, inverse = np.unique(hashes, return_inverse=True)
    members = _members(inverse, len(unique))
    for group in members:
        for place, number in enumerate(group):
            for other in group[max(0, place - SAME_HASH_COMPARISONS) : place]:
                yield int(other), int(number)
    quarters = unique.view(np.uint16).reshape(-1, QUARTERS)
    orders = [np.argsort(quarters[:, q], kind="stable") for q in range(QUARTERS)]
    starts = [np.searchsorted(quarters[order, q], np.arange((1 << 16) + 1)) for q, order in enumerate(orders)]
    for begin in range(0, len(unique), chunk):
        numbers = np.arange(begin, min(begin + chunk, len(unique)))
        found = [
            _near(quarters, numbers, orders[q], starts[q], q, probe)
            for q in range(QUARTERS)
            for probe in PROBES
        ]
        for i, j in np.unique(np.concatenate(found), axis=0):
            for first in members[i][:SAME_HASH_COMPARISONS]:
                for second in members[j][:SAME_HASH_COMPARISONS]:
                    yield int(min(first, second)), int(max(first, second))


def picture_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Largest mean difference of two grey pictures in a window, in standard deviations, at the best offset.

    Args:
        first: (32, 128) uint8.
        second: (32, 128) uint8.
    """
    height, width = first.shape
    one, other = _standardise(first), _standardise(second)
    best = np.inf
    for down in (-1, 0, 1):
        for right in (-2, -1, 0, 1, 2):
            inner = one[1 : height - 1, 2 : width - 2]
            moved = other[1 + down : height - 1 + down, 2 + right : width - 2 + right]
            best = min(best, float(cv2.blur(np.abs(inner - moved), (WINDOW, WINDOW)).max()))
    return best


def _standardise(picture: np.ndarray) -> np.ndarray:
    """Blur a little, mean 0, standard deviation 1; a picture of nothing keeps its noise small."""
    smooth = cv2.blur(picture.astype(np.float32), (3, 3))
    return (smooth - smooth.mean()) / max(float(smooth.std()), 4.0)


def _members(inverse: np.ndarray, count: int) -> Sequence[np.ndarray]:
    """Numbers of the images of each unique hash, rising."""
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.searchsorted(inverse[order], np.arange(1, count)))


def _near(
    quarters: np.ndarray, numbers: np.ndarray, order: np.ndarray, starts: np.ndarray, q: int, probe: np.uint16
) -> np.ndarray:
    """(M, 2) pairs of some hashes and later ones, whose quarter `q` is theirs with `probe` flipped."""
    wanted = (quarters[numbers, q] ^ probe).astype(np.int64)
    counts = starts[wanted + 1] - starts[wanted]
    left = np.repeat(numbers, counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    right = order[np.repeat(starts[wanted], counts) + offsets]
    later = right > left
    left, right = left[later], right[later]
    distance = BITS_SET[quarters[left] ^ quarters[right]].sum(axis=1)
    close = distance <= MAX_HASH_DISTANCE
    return np.stack([left[close], right[close]], axis=1)
