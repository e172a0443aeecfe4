"""From rows to batches of tensors: resized images, character ids, and words of one width together.

Training batches are exactly what the processor gives at inference for the same pixels (a test says so), but
cheaper: each word is resized in uint8, a batch is normalised at once, and words of one width share batches,
so that hardly a batch needs padding. In which order words come is in `training_batches`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_rcmstr.image_reading import read_image

# What reading an image raises when the image is at fault.
UNREADABLE = (ValueError, OSError, TypeError)


class TextRecognitionCollator:
    """Rows `{"image", "text"}` → the processor's batch with `labels`, for a stock `Trainer`."""

    def __init__(self, processor: Any) -> None:
        """Keep the processor of the checkpoint that is trained."""
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make pixel_values (B, 3, H, W), labels (B, L) padded with -100, pixel_mask if widths differ."""
        images = [row["image"] for row in rows]
        return dict(self.processor(images=images, text=[row["text"] for row in rows], return_tensors="pt"))


@dataclass
class PreparedWord:
    """A word ready to be batched: (H, W, 3) uint8 as the processor resized it, and its ids."""

    pixels: np.ndarray
    label: list[int]


@dataclass
class Chunk:
    """Batches in one block of memory for pixels and one for labels, cheap to hand between processes.

    Args:
        pixels: flat uint8; batch after batch, each (B, H, W, 3).
        labels: (N, L) ids padded with -100.
        widths: (N,) real width of each word in pixels.
        sizes: words and width of each batch, in order.
        height: rows of every image.
        counts: what was dropped, by reason, and words read, by source.
    """

    pixels: Tensor
    labels: Tensor
    widths: Tensor
    sizes: list[tuple[int, int]]
    height: int
    counts: Counter[str] = field(default_factory=Counter)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Views of the batches: pixel_values (B, H, W, 3) uint8, labels, and widths where they differ."""
        word = byte = 0
        for count, width in self.sizes:
            length = count * self.height * width * 3
            labels = self.labels[word : word + count]
            longest = int((labels != -100).sum(1).max())
            batch = {
                "pixel_values": self.pixels[byte : byte + length].view(count, self.height, width, 3),
                "labels": labels[:, : max(1, longest)],
            }
            widths = self.widths[word : word + count]
            if int(widths.min()) != width:
                batch["widths"] = widths
            yield batch
            word, byte = word + count, byte + length


class WordResizer:
    """The image processor's reading and resizing, without its normalisation.

    Args:
        image_processor: of the checkpoint that is trained.
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self.geometry = image_processor.geometry()

    def __call__(self, image: Any) -> np.ndarray:
        """Give (H, W, 3) uint8, H and W as the processor chooses them.

        Raises:
            ValueError, FileNotFoundError, TypeError: for what cannot be read.
        """
        return np.asarray(self.image_processor.read_word(image, self.geometry))

    def to_rgb(self, image: Any) -> np.ndarray:
        """Give (H, W, 3) uint8 at the image's own size, converted as the processor converts it."""
        if (
            isinstance(image, np.ndarray)
            and image.ndim == 3
            and image.shape[2] == 3
            and image.dtype == np.uint8
        ):
            return image
        return np.asarray(read_image(image, max_image_pixels=self.image_processor.max_image_pixels))


class BatchNormaliser:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) as the image processor does, with a mask if needed.

    Args:
        image_processor: gives `rescale_factor`, `image_mean` and `image_std`.
        channels_last: keep the channels last in memory.
    """

    def __init__(self, image_processor: Any, channels_last: bool) -> None:
        self.scale = float(image_processor.rescale_factor)
        # The processor multiplies in float64 and rounds. A division in float32 mostly gives the same, faster.
        values = torch.arange(256, dtype=torch.float64)
        self.divisor = torch.tensor(1 / self.scale, dtype=torch.float32)
        self.divides = torch.equal(values.float() / self.divisor, (values * self.scale).float())
        self.mean = torch.tensor(image_processor.image_mean, dtype=torch.float32)
        self.std = torch.tensor(image_processor.image_std, dtype=torch.float32)
        self.channels_last = channels_last

    def __call__(self, batch: dict[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Normalise one batch of `Chunk.batches` on a device; padding becomes 0."""
        stored = batch["pixel_values"].to(device, non_blocking=True)
        if self.divides:
            pixels = stored.to(torch.float32).div_(self.divisor.to(stored.device))
        else:
            pixels = stored.to(torch.float64).mul_(self.scale).to(torch.float32)
        pixels.sub_(self.mean.to(stored.device)).div_(self.std.to(stored.device))
        result = {"labels": batch["labels"].to(device, non_blocking=True)}
        if "widths" in batch:
            columns = torch.arange(pixels.shape[2], device=pixels.device)
            real = columns < batch["widths"].to(pixels.device)[:, None]  # (B, W)
            pixels.masked_fill_(~real[:, None, :, None], 0.0)
            result["pixel_mask"] = real[:, None, :].expand(-1, pixels.shape[1], -1).long()
        pixels = pixels.permute(0, 3, 1, 2)  # (B, 3, H, W), channels last in memory
        result["pixel_values"] = pixels if self.channels_last else pixels.contiguous()
        return result


class LabelEncoder:
    """Text → ids by the tokenizer, with the run's rules for unknown characters and for labels too long.

    Args:
        tokenizer: of the checkpoint that is trained.
        rule: "drop_word", "drop_characters" or "error".
        max_length: characters that the head can give, or None for CTC, where the frames decide.
        frames: width in pixels → frames; None for attention.
    """

    def __init__(
        self, tokenizer: Any, rule: str, max_length: int | None, frames: Callable[[int], int] | None
    ) -> None:
        self.tokenizer = tokenizer
        self.rule = rule
        self.max_length = max_length
        self.frames = frames
        self.characters = frozenset(tokenizer.charset)

    def clean(self, text: str) -> str | None:
        """The text to be trained on, or None when the word is to be left out.

        Raises:
            ValueError: under the rule "error", naming the characters.
        """
        text = self.tokenizer.normalize(text)
        outside = set(text) - self.characters
        if outside and self.rule == "error":
            raise ValueError(
                f"label {text!r} holds {sorted(outside)}, which the charset lacks; choose another charset, "
                "or set `out_of_charset` to drop_word or drop_characters."
            )
        if outside and self.rule == "drop_word":
            return None
        text = "".join(c for c in text if c in self.characters) if outside else text
        return text or None

    def encode(self, text: str) -> list[int]:
        """Ids of a cleaned text; ends with the end token for an attention head."""
        return list(self.tokenizer.text_to_ids(text))

    def fits(self, label: Sequence[int], width: int) -> bool:
        """Whether the head can give the label (CTC: a frame per id, and one between equal ids)."""
        if self.max_length is not None and len(label) > self.max_length + 1:
            return False
        if self.frames is None:
            return True
        repeats = sum(first == second for first, second in itertools.pairwise(label))
        return len(label) + repeats <= self.frames(width)


def deal_by_width(widths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Deal word numbers into batches of one width; what is left over is dealt together, by width.

    Returns:
        ceil(N / batch_size) lists of word numbers; every list but the last has `batch_size`.
    """
    by_width: dict[int, list[int]] = {}
    for number, width in enumerate(widths):
        by_width.setdefault(width, []).append(number)
    batches, left_over = [], []
    for width in sorted(by_width):
        numbers = by_width[width]
        full = len(numbers) - len(numbers) % batch_size
        batches += [numbers[i : i + batch_size] for i in range(0, full, batch_size)]
        left_over += numbers[full:]
    return batches + [left_over[i : i + batch_size] for i in range(0, len(left_over), batch_size)]


def pack_chunk(batches: list[list[PreparedWord]], counts: Counter[str] | None = None) -> Chunk:
    """Copy batches of words into one block; within a batch, narrower words are padded on the right."""
    height = batches[0][0].pixels.shape[0]
    sizes = [(len(batch), max(word.pixels.shape[1] for word in batch)) for batch in batches]
    pixels = np.zeros(sum(count * height * width * 3 for count, width in sizes), dtype=np.uint8)
    longest = max(len(word.label) for batch in batches for word in batch)
    words = [word for batch in batches for word in batch]
    labels = np.full((len(words), longest), -100, dtype=np.int64)
    position = 0
    for (count, width), batch in zip(sizes, batches, strict=True):
        block = pixels[position : position + count * height * width * 3].reshape(count, height, width, 3)
        for row, word in zip(block, batch, strict=True):
            row[:, : word.pixels.shape[1]] = word.pixels
        position += block.size
    for row, word in zip(labels, words, strict=True):
        row[: len(word.label)] = word.label
    widths = np.array([word.pixels.shape[1] for word in words], dtype=np.int64)
    return Chunk(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        widths=torch.from_numpy(widths),
        sizes=sizes,
        height=height,
        counts=counts or Counter(),
    )
