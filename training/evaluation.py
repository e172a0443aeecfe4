"""Reading held-out words during training: what is evaluated, how, and a small table of what the model reads.

Words are resized once, kept as uint8 in memory, and read by the model and the processor's own
post-processing, as the pipeline would. Unreadable images count as read wrongly. The numbers are those of
`metrics.score_words`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.collation import (
    UNREADABLE,
    BatchNormaliser,
    Chunk,
    PreparedWord,
    WordResizer,
    deal_by_width,
    pack_chunk,
)
from training.metrics import score_words
from training.source_interface import WordSource


@dataclass(frozen=True)
class EvaluationSet:
    """Words ready to be read.

    Args:
        name: stands in front of its numbers.
        chunk: the readable words, in batches.
        texts: labels in the order of the chunk.
        unreadable: labels of the words whose image cannot be read.
    """

    name: str
    chunk: Chunk | None
    texts: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class Example:
    """One word as it was read: label, prediction, confidence in 0..1."""

    label: str
    prediction: str
    score: float


def prepare_evaluation_set(
    name: str, source: WordSource, rows: Iterable[int], resizer: WordResizer, batch_size: int = 64
) -> EvaluationSet:
    """Read and resize the words of some rows, without augmentation."""
    words, texts, unreadable = [], [], []
    for index in rows:
        row = source.row(int(index))
        try:
            pixels = resizer(row["image"])
        except UNREADABLE:
            unreadable.append(row["text"])
            continue
        words.append(PreparedWord(pixels, []))
        texts.append(row["text"])
    if not words:
        return EvaluationSet(name, None, [], unreadable)
    batches = deal_by_width([word.pixels.shape[1] for word in words], batch_size)
    chunk = pack_chunk([[words[i] for i in batch] for batch in batches])
    return EvaluationSet(name, chunk, [texts[i] for batch in batches for i in batch], unreadable)


def choose_rows(rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """At most `limit` of some rows, drawn by a seed, rising."""
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng([seed, 5]).choice(rows, limit, replace=False))


@torch.no_grad()
def read_batch(model: Any, processor: Any, batch: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Text and score of each word of a normalised batch, for either head."""
    pixel_mask = batch.get("pixel_mask")
    inputs = {"pixel_values": batch["pixel_values"]}
    if pixel_mask is not None:
        inputs["pixel_mask"] = pixel_mask
    if model.config.is_encoder_decoder:
        outputs = model.generate(
            **inputs, do_sample=False, num_beams=1, return_dict_in_generate=True, output_scores=True
        )
    else:
        outputs = model(**inputs)
    return list(processor.post_process_text_recognition(outputs, pixel_mask=pixel_mask))


def evaluate_sets(
    model: Any,
    processor: Any,
    sets: Sequence[EvaluationSet],
    normalise: BatchNormaliser,
    device: torch.device,
) -> tuple[dict[str, float], list[Example]]:
    """Read every set.

    Returns:
        Per set `NAME_word_accuracy`, `NAME_cased_accuracy`, `NAME_cer`, `NAME_words`; over the sets the
        unweighted means `word_accuracy`, `cased_accuracy` and `cer`; and what was read, word by word.
    """
    was_training = model.training
    model.eval()
    scores: dict[str, float] = {}
    examples: list[Example] = []
    try:
        for words in sets:
            read = []
            for batch in words.chunk.batches() if words.chunk is not None else ():
                read += read_batch(model, processor, normalise(batch, device))
            predictions = [item["text"] for item in read] + [""] * len(words.unreadable)
            result = score_words(predictions, words.texts + words.unreadable)
            scores[f"{words.name}_word_accuracy"] = result.word_accuracy
            scores[f"{words.name}_cased_accuracy"] = result.cased_accuracy
            scores[f"{words.name}_cer"] = result.character_error_rate
            scores[f"{words.name}_words"] = float(result.words)
            examples += [
                Example(text, item["text"], float(item["score"]))
                for text, item in zip(words.texts, read, strict=True)
            ]
    finally:
        model.train(was_training)
    for measure in ("word_accuracy", "cased_accuracy", "cer"):
        values = [scores[f"{words.name}_{measure}"] for words in sets]
        values = [value for value in values if not math.isnan(value)]
        if values:
            scores[measure] = sum(values) / len(values)
    return scores, examples


def prediction_table(examples: Sequence[Example], rows: int) -> str:
    """Show a few words, spread over all that were read: label, prediction, confidence, a mark at errors."""
    if not examples or rows < 1:
        return ""
    chosen = [examples[i] for i in np.linspace(0, len(examples) - 1, min(rows, len(examples))).astype(int)]
    width = max(len("label"), *(len(example.label) for example in chosen))
    other = max(len("prediction"), *(len(example.prediction) for example in chosen))
    lines = [f"  {'label':<{width}}  {'prediction':<{other}}  confidence"]
    for example in chosen:
        mark = "" if example.label == example.prediction else "  x"
        lines.append(
            f"  {example.label:<{width}}  {example.prediction:<{other}}  {example.score:10.3f}{mark}"
        )
    return "\n".join(lines)
