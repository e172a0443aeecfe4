"""One picture is found whatever was done to its file, and two words are never one picture."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from training.near_duplicates import (
    MAX_DIFFERENCE,
    MAX_HASH_DISTANCE,
    SAME_HASH_COMPARISONS,
    DuplicatePair,
    PictureIndex,
    candidate_pairs,
    picture_difference,
)

Words = list[tuple[Image.Image, str]]


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((128, 32), Image.Resampling.BILINEAR))


def stored_again(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def shrunk(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.BICUBIC)


def test_candidates_are_all_pairs_of_near_hashes_and_no_others() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 1 << 63, 300, dtype=np.uint64)
    for number in range(100, 300):  # neighbours of the first hundred, 0 to 9 bits away
        bits = generator.choice(64, number % 10, replace=False)
        flipped = np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
        hashes[number] = hashes[number % 100] ^ np.uint64(flipped)
    slow = {
        (i, j)
        for i, j in itertools.combinations(range(300), 2)
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= MAX_HASH_DISTANCE
    }
    found = list(candidate_pairs(hashes, chunk=64))
    assert len(found) == len(set(found))
    assert set(found) == slow
    assert len(slow) > 100


def test_images_that_share_a_hash_are_not_all_compared_with_all() -> None:
    found = list(candidate_pairs(np.zeros(1000, np.uint64)))
    assert len(found) <= 1000 * SAME_HASH_COMPARISONS
    assert {j for _, j in found} == set(range(1, 1000))
    assert list(candidate_pairs(np.zeros(0, np.uint64))) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: stored_again(image, 50),
        shrunk,
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: stored_again(shrunk(image), 80),
    ],
    ids=["jpeg", "shrunk", "darker", "both"],
)
def test_one_picture_is_found_after_a_change(
    eight_words: Words, change: Callable[[Image.Image], Image.Image]
) -> None:
    index = PictureIndex()
    for image, text in eight_words:
        index.add(image, text)
    for image, text in eight_words:
        index.add(change(image), text)
    assert set(index.duplicates()) == {DuplicatePair(i, i + 8, exact=False) for i in range(8)}


def test_equal_pixels_are_exact_whatever_the_label_and_the_file(eight_words: Words) -> None:
    index = PictureIndex()
    for image, text in [*eight_words, (eight_words[2][0].copy(), "other"), eight_words[2]]:
        index.add(image, text)
    assert list(index.duplicates()) == [DuplicatePair(2, 8, True), DuplicatePair(2, 9, True)]


def test_pixels_of_another_shape_are_not_equal() -> None:
    index = PictureIndex()
    for size in ((64, 32), (32, 64)):
        index.add(Image.new("RGB", size, "white"), "")
    assert list(index.duplicates()) == []


def test_words_that_differ_in_one_letter_are_two_pictures(
    word_drawer: Callable[..., Image.Image],
) -> None:
    """Same font, same length, one letter; even where the hashes are near, the pictures are not."""
    words = ["book", "boot", "cook", "look", "hello", "hallo", "hells", "42nd", "43nd", "exit", "exlt"]
    width = 16 + 12 * 5
    index = PictureIndex()
    for word in words:
        image = word_drawer(word, (32, width))
        index.add(Image.eval(image.convert("L"), lambda v: 255 if v > 128 else 0).convert("RGB"), "same")
    assert list(index.duplicates()) == []
    pictures = index.pictures()
    for one, other in itertools.combinations(range(len(words)), 2):
        assert picture_difference(pictures[one], pictures[other]) > MAX_DIFFERENCE


def test_the_difference_of_a_picture_to_itself_is_nothing_moved_or_brightened(eight_words: Words) -> None:
    picture = grey(eight_words[0][0])
    assert picture_difference(picture, picture) == 0
    moved = np.roll(picture, (1, 2), (0, 1))
    assert picture_difference(picture, moved) < 0.05
    assert picture_difference(picture // 2, picture) < 0.05
    assert picture_difference(picture, 255 - picture) > 1
    assert picture_difference(np.full((32, 128), 10, np.uint8), np.full((32, 128), 200, np.uint8)) == 0
