"""Does an exported recogniser read as the model does? The same words through both, text for text.

Words are the caller's pictures and, to make up the number, words drawn here with Pillow's own font and
distorted. They go through in batches of mixed sizes and widths, padded as the processor pads them.

A word on which the two disagree counts as an error, with one exception, stated in the result: a near tie. At
the first place where they differ, the model itself then gives its two best classes scores that lie closer
together than twice the largest difference of scores that rounding may make (`TOLERANCE`), so that neither
reading is more right.
"""

import math
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from .onnx_graphs import has_fixed_width

# Largest difference of a score that counts as rounding, relative to the batch's largest score (at least 1).
TOLERANCE = 1e-4
BATCH_SIZES = (1, 3, 8, 32, 2, 16)
NAMED_WORDS = 10


@dataclass(frozen=True)
class PairOfReadings:
    """What the model and the graph read in one word.

    Args:
        word: which: a path, or the number of a drawn one.
        model: text of the model.
        graph: text of the graph.
    """

    word: str
    model: str
    graph: str


@dataclass
class OnnxComparison:
    """How a graph compares with its model.

    Args:
        words: words compared.
        equal: words with equal text.
        near_ties: words with unequal text at a near tie of the model's own scores.
        different: words with unequal text otherwise.
        largest_difference: largest difference of two scores (logits).
        largest_relative_difference: the same, relative to the largest score of the batch, at least 1.
    """

    words: int = 0
    equal: int = 0
    near_ties: list[PairOfReadings] = field(default_factory=list)
    different: list[PairOfReadings] = field(default_factory=list)
    largest_difference: float = 0.0
    largest_relative_difference: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether every word is equal or a near tie, and scores differ by rounding only."""
        return not self.different and self.largest_relative_difference <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Give the fields for a JSON file."""
        return {**asdict(self), "tolerance": TOLERANCE}

    def complaint(self) -> str:
        """Say what is wrong, naming words."""
        shown = "; ".join(
            f"{reading.word}: model {reading.model!r}, graph {reading.graph!r}"
            for reading in self.different[:NAMED_WORDS]
        )
        more = len(self.different) - NAMED_WORDS
        return (
            f"the graph does not read as the model does: {len(self.different)} of {self.words} words differ"
            + (f" ({shown}{f'; and {more} more' if more > 0 else ''})" if shown else "")
            + f"; the largest difference of a score is {self.largest_difference:.2g}, "
            f"{self.largest_relative_difference:.2g} of the largest score, and may be {TOLERANCE:.0e}."
        )


def draw_check_words(characters: Sequence[str], count: int, seed: int = 0) -> Iterator[Image.Image]:
    """Draw words to compare readers on: any size and colour, turned, blurred, noisy; some are noise alone.

    Args:
        characters: what to write; a character that Pillow's font lacks is drawn as its box.
        count: how many.
        seed: equal seeds give equal words.
    """
    random_numbers = random.Random(seed)
    noise = np.random.default_rng(seed)
    # The model's own characters, and now and then what it cannot know.
    alphabet = [*characters] or [*string.ascii_letters]
    for number in range(count):
        length = min(1 + int(random_numbers.expovariate(1 / 5)), 24)
        text = "".join(random_numbers.choice(alphabet) for _ in range(length))
        yield _draw(text, random_numbers, noise, is_blank=number % 50 == 49)


@torch.inference_mode()
def compare_readers(
    model: Any, graph: Any, processor: Any, words: Sequence[Any], names: Sequence[str]
) -> OnnxComparison:
    """Read words with a model and with its graph.

    Args:
        model: the recogniser, on the CPU in float32 and evaluation mode.
        graph: `OnnxTextRecognitionModel` of it.
        processor: theirs.
        words: pictures, as the processor takes them.
        names: what to call each.

    Returns:
        The comparison; nothing is raised for a difference.
    """
    comparison = OnnxComparison()
    start = 0
    for number, size in enumerate(cycle(BATCH_SIZES)):
        if start >= len(words):
            return comparison
        batch = slice(start, start + size)
        start += size
        inputs = processor(images=list(words[batch]), **_geometry(model.config, processor, number))
        compare = _compare_tokens if model.can_generate() else _compare_frames
        compare(model, graph, processor, inputs, names[batch], comparison)
    raise AssertionError("batch sizes never end")


def _geometry(config: Any, processor: Any, number: int) -> dict[str, Any]:
    """Prepare every other batch of stretched words by the aspect ratio instead: graphs read any width."""
    if processor.image_processor.keep_aspect_ratio or has_fixed_width(config) or number % 2 == 0:
        return {}
    unit = config.patch_size * 4
    return {
        "keep_aspect_ratio": True,
        "width_multiple": unit,
        "min_width": unit * math.ceil(32 / unit),
        "max_width": unit * math.ceil(384 / unit),
    }


def _compare_frames(
    model: Any, graph: Any, processor: Any, inputs: Any, names: Sequence[str], comparison: OnnxComparison
) -> None:
    """Compare CTC readers on a batch."""
    expected, found = model(**inputs), graph(**inputs)
    mask = inputs.get("pixel_mask")
    texts = [
        [answer["text"] for answer in processor.post_process_text_recognition(output, mask)]
        for output in (expected, found)
    ]
    logits = expected.logits
    real = torch.ones(logits.shape[:2], dtype=torch.bool)
    if expected.frame_mask is not None:
        real = expected.frame_mask
        if not torch.equal(found.frame_mask, real):
            raise ValueError("the graph counts the frames of a padded word differently; export it again.")
    scale = _count(comparison, (logits - found.logits).abs()[real], logits[real])
    unequal = (logits.argmax(-1) != found.logits.argmax(-1)) & real  # (B, T)
    margins = _margins(logits) / scale
    ties = [bool((margins[row][unequal[row]] <= 2 * TOLERANCE).all()) for row in range(len(names))]
    _sort(comparison, names, texts, ties)


def _compare_tokens(
    model: Any, graph: Any, processor: Any, inputs: Any, names: Sequence[str], comparison: OnnxComparison
) -> None:
    """Compare attention readers on a batch, by greedy search."""
    options = {"num_beams": 1, "do_sample": False, "return_dict_in_generate": True}
    outputs = [
        reader.generate(**inputs, **options, output_scores=True, output_logits=True)
        for reader in (model, graph)
    ]
    mask = inputs.get("pixel_mask")
    texts = [
        [answer["text"] for answer in processor.post_process_text_recognition(output, mask)]
        for output in outputs
    ]
    steps = min(len(output.logits) for output in outputs)
    expected, found = (torch.stack(output.logits[:steps], dim=1) for output in outputs)  # (B, L, V)
    ids, other_ids = (output.sequences[:, 1 : steps + 1] for output in outputs)
    # Scores are comparable up to the end of a text, and as long as both have read the same before.
    ended = (ids == model.config.eos_token_id).cumsum(1) - (ids == model.config.eos_token_id).long() > 0
    unequal = ids != other_ids
    diverged = unequal.cumsum(1) - unequal.long() > 0
    real = ~ended & ~diverged
    scale = _count(comparison, (expected - found).abs()[real], expected[real])
    margins = _margins(expected) / scale
    first = unequal & real
    ties = [bool((margins[row][first[row]] <= 2 * TOLERANCE).all()) for row in range(len(names))]
    _sort(comparison, names, texts, ties)


def _margins(logits: Tensor) -> Tensor:
    """Say by how much the best class leads, (B, L)."""
    best = logits.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def _count(comparison: OnnxComparison, differences: Tensor, scores: Tensor) -> float:
    """Note the largest difference of a batch; return the scale that it is measured against."""
    largest = float(differences.max()) if bool(differences.isfinite().all()) else math.inf
    scale = max(1.0, float(scores.abs().max()))
    comparison.largest_difference = max(comparison.largest_difference, largest)
    comparison.largest_relative_difference = max(comparison.largest_relative_difference, largest / scale)
    return scale


def _sort(
    comparison: OnnxComparison, names: Sequence[str], texts: Sequence[Sequence[str]], ties: Sequence[bool]
) -> None:
    """Put each word of a batch where it belongs."""
    for name, expected, found, is_tie in zip(names, texts[0], texts[1], ties, strict=True):
        comparison.words += 1
        if expected == found:
            comparison.equal += 1
        else:
            target = comparison.near_ties if is_tie else comparison.different
            target.append(PairOfReadings(name, expected, found))


def _draw(
    text: str, random_numbers: random.Random, noise: np.random.Generator, is_blank: bool
) -> Image.Image:
    """Draw one word in a picture of its own size."""
    height = random_numbers.randint(14, 90)
    font = ImageFont.load_default(size=max(8, round(height * random_numbers.uniform(0.5, 0.85))))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font)
    border = random_numbers.randint(1, 6)
    width = max(8, math.ceil(right - left) + 2 * border)
    colours = [tuple(random_numbers.randint(0, 255) for _ in range(3)) for _ in range(2)]
    image = Image.new("RGB", (width, height), colours[0])
    if not is_blank:
        corner = (border - left, (height - (bottom - top)) / 2 - top)
        ImageDraw.Draw(image).text(corner, text, font=font, fill=colours[1])
    image = image.rotate(random_numbers.gauss(0, 2.5), Image.Resampling.BILINEAR, fillcolor=colours[0])
    image = image.filter(ImageFilter.GaussianBlur(abs(random_numbers.gauss(0, height / 60))))
    strength = 90 if is_blank else abs(random_numbers.gauss(0, 12))
    pixels = np.asarray(image, dtype=np.float32) + noise.normal(0, strength, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
