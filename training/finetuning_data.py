"""The data of a fine-tuning run: its sources opened, split into trained and held-out words, mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.arguments import FinetuningArguments
from training.collation import BatchNormaliser, LabelEncoder, WordResizer
from training.evaluation import EvaluationSet, choose_rows, prepare_evaluation_set
from training.label_subset import draw_labelled
from training.recogniser import frames_of
from training.rehearsal import (
    REHEARSAL_NAME,
    character_record,
    count_words_by_character,
    open_rehearsal,
    rehearsal_weight,
)
from training.source_interface import WordSource
from training.stream_source import StreamSource
from training.training_batches import ALONE, ChunkMaker, TrainingBatches
from training.word_mixture import MixturePart, Share, WordMixture
from training.word_sources import RenderedSource, open_source, split_by_group

# Rendered words that are evaluated come from this far into the sequence; no run trains on that many.
RENDERED_HELD_OUT_START = 1 << 40


def build_data(
    arguments: FinetuningArguments,
    model: Any,
    processor: Any,
    device: torch.device,
    added: str = "",
    share: Share = ALONE,
) -> tuple[TrainingBatches, list[EvaluationSet], dict[str, Any]]:
    """Open the sources, split off what is held out, and make the training batches and evaluation sets.

    Args:
        arguments: of the run.
        model: the recogniser.
        processor: its processor.
        device: where batches go.
        added: characters that are new to the model.
        share: which part of every batch is this process's.

    Returns:
        Batches, sets, and what the training record says about the data.
    """
    data, run, settings = arguments.data, arguments.run, arguments.optimisation
    resizer = WordResizer(processor.image_processor)
    attention = model.config.is_encoder_decoder
    encoder = LabelEncoder(
        processor.tokenizer,
        data.out_of_charset,
        max_length=model.config.max_text_length if attention else None,
        frames=None if attention else frames_of(model.config),
    )
    parts: list[MixturePart] = []
    sets: list[EvaluationSet] = []
    record: list[dict[str, Any]] = []
    split_seed = split_seed_of(arguments)
    opened = [(name, open_source(name), float(weight)) for name, weight in data.train_sources.items()]
    rehearsal = open_rehearsal(arguments.charset, processor.tokenizer, added)
    if rehearsal is not None:
        weight = rehearsal_weight(arguments.charset, data.train_sources.values())
        opened.append((REHEARSAL_NAME, rehearsal, weight))
    characters: Counter[str] = Counter()
    for name, source, weight in opened:
        train_rows, held_out, dropped = split_source(source, arguments, encoder)
        if train_rows is not None:
            train_rows = draw_labelled(
                source, train_rows, run.seed, float(data.label_share), data.label_count
            )
        if train_rows is not None and weight > 0:
            texts = (source.text(int(row)) for row in train_rows)
            characters += count_words_by_character(texts, processor.tokenizer)
        rendered = isinstance(source, RenderedSource)
        strength = data.rendered_augmentation_strength if rendered else data.augmentation_strength
        parts.append(MixturePart(source, weight, train_rows, float(strength)))
        chosen = choose_rows(held_out, data.eval_words, split_seed)
        if len(chosen):
            sets.append(prepare_evaluation_set(short_name(name, sets), source, chosen, resizer))
        record.append(
            {
                "source": name,
                "weight": weight,
                "augmentation_strength": strength,
                "rows": source.size,
                "trained_on": None if train_rows is None else len(train_rows),
                "held_out": None if train_rows is None else len(held_out),
                "outside_the_charset": dropped,
            }
        )
    for set_name, name in (data.eval_sources or {}).items():
        source = open_source(name)
        rows = np.arange(source.size if source.size is not None else data.eval_words)
        sets.append(
            prepare_evaluation_set(set_name, source, choose_rows(rows, data.eval_words, split_seed), resizer)
        )
    endless = any(part.rows is None and part.source is not rehearsal and part.weight > 0 for part in parts)
    charset = character_record(arguments.charset, processor.tokenizer, added, characters, endless)
    if all(part.rows is None for part in parts) and (data.label_share < 1 or data.label_count):
        raise ValueError(
            "`label_share` and `label_count` choose among words of files, and `train_sources` names none: "
            f"{list(data.train_sources)} have no end; add a source of files, or leave the setting out."
        )
    maker = ChunkMaker(
        WordMixture(parts, run.seed),
        resizer,
        encoder,
        settings.batch_size,
        data.bucket_batches,
        run.seed,
        share,
    )
    batches = TrainingBatches(
        maker,
        BatchNormaliser(processor.image_processor, settings.channels_last),
        device,
        workers=data.data_workers,
        niceness=run.worker_niceness,
    )
    counted = {words.name: len(words.texts) + len(words.unreadable) for words in sets}
    return (
        batches,
        sets,
        {"seed": run.seed, "sources": record, "charset": charset, "evaluated_words": counted},
    )


def split_source(
    source: WordSource, arguments: FinetuningArguments, encoder: LabelEncoder
) -> tuple[np.ndarray | None, np.ndarray, int]:
    """Choose rows to train on (None: all of an endless source) and rows held out; count unusable labels."""
    data = arguments.data
    if source.size is None:
        # A stream starts over, so it has no row that no run will train on.
        unseen = 0 if isinstance(source, StreamSource) else data.eval_words
        return None, RENDERED_HELD_OUT_START + np.arange(unseen), 0
    train_rows, held_out = split_by_group(source, float(data.held_out_fraction), split_seed_of(arguments))
    usable = np.array([encoder.clean(source.text(int(row))) is not None for row in train_rows], dtype=bool)
    return train_rows[usable], held_out, int((~usable).sum())


def split_seed_of(arguments: FinetuningArguments) -> int:
    """The seed that decides which words are held out and evaluated."""
    return arguments.run.seed if arguments.data.split_seed is None else arguments.data.split_seed


def short_name(name: str, sets: Sequence[EvaluationSet]) -> str:
    """A short, new name for a source's held-out words: the stem of its file or folder, or its kind."""
    kind, _, place = name.partition("?")[0].partition(":")
    stem = Path(place).stem if kind != "rendered" and place else kind
    taken = {words.name for words in sets}
    candidates = (stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)
