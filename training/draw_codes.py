"""Pictures of what PerSec's perceivers do: code maps over words, use of the codebooks, attention windows.

    python -m training.draw_codes runs/persec/final --words my_words/ --output pictures/
    python -m training.draw_codes runs/persec/final --words parquet:words.parquet --count 6 --usage-count 2000

`codes.png` colours the cells of each word by the entry that each codebook chose: like strokes, like colours.
`shared.png` has a row of patches for each of the stroke entries chosen most often. `usage.png` counts the
entries of every codebook over `--usage-count` words. `windows.png` draws the windows inside which the
perceivers look around, the masked positions, and how one of them attends. Codes are those of evaluation,
without noise; a model without a quantiser has windows only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from modeling_rcmstr import PerSecForPreTraining, TextRecognitionImageProcessor
from training.code_pictures import (
    PerceivedLevel,
    PerceivedWord,
    draw_code_maps,
    draw_shared_codes,
    draw_usage,
    draw_windows,
)
from training.draw_pretraining import to_pixels
from training.word_sources import name_source, open_source

BATCH = 32


def main(argv: Sequence[str]) -> int:
    """Read a checkpoint and some words, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder of a pretrained PerSec model")
    parser.add_argument(
        "--words", required=True, help="a folder of images, or a source such as parquet:words.parquet"
    )
    parser.add_argument("--output", default=".", help="folder for the pictures")
    parser.add_argument("--count", type=int, default=6, help="number of words that are drawn")
    parser.add_argument(
        "--usage-count", type=int, default=256, help="number of words that are counted, at most"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    options = parser.parse_args(argv)
    if not 1 <= options.count <= options.usage_count:
        raise ValueError(
            f"--count must be at least 1 and at most --usage-count, got {options.count} and "
            f"{options.usage_count}."
        )
    model, image_processor = load_perceivers(Path(options.checkpoint))
    source = open_source(name_source(options.words), labelled=False)
    size = options.usage_count if source.size is None else min(options.usage_count, source.size)
    if size < options.count:
        raise ValueError(f"{options.words} holds {size} words, --count asks for {options.count}.")
    images = [source.row(index)["image"] for index in range(size)]
    words = perceive(model, image_processor, images, options.seed)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"windows.png": draw_windows(words[: options.count])}
    if model.config.quantize_targets:
        pictures["codes.png"] = draw_code_maps(words[: options.count])
        pictures["shared.png"] = draw_shared_codes(words)
        pictures["usage.png"] = draw_usage(count_choices(words, model.config.codebook_size))
    for name, picture in pictures.items():
        picture.save(folder / name)
    print(f"written to {folder}: {', '.join(sorted(pictures))}")
    return 0


def load_perceivers(folder: Path) -> tuple[PerSecForPreTraining, TextRecognitionImageProcessor]:
    """A pretrained PerSec model in evaluation mode, and its image processor.

    Raises:
        ValueError: for a folder without one.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json and is no checkpoint.")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "persec":
        raise ValueError(f"{folder} is a {config.model_type} model; these pictures are PerSec's.")
    if "PerSecForPreTraining" not in (config.architectures or ()):
        raise ValueError(
            f"{folder} holds {', '.join(config.architectures or ('nothing',))}, which has no perceivers; "
            "give the folder that pretraining wrote."
        )
    model = PerSecForPreTraining.from_pretrained(folder, dtype="float32")
    return model.eval(), TextRecognitionImageProcessor.from_pretrained(folder)


@torch.no_grad()
def perceive(
    model: PerSecForPreTraining, image_processor: Any, images: Sequence[Any], seed: int = 0
) -> list[PerceivedWord]:
    """Run the model over words, batch by batch, and take each word out of its padding.

    Args:
        model: in evaluation mode.
        image_processor: of its checkpoint.
        images: whatever the image processor reads.
        seed: of the masks.
    """
    generator = torch.Generator().manual_seed(seed)
    words = []
    for start in range(0, len(images), BATCH):
        batch = image_processor(list(images[start : start + BATCH]), return_tensors="pt")
        outputs = model(**batch, generator=generator, output_attentions=True)
        pixels = to_pixels(batch["pixel_values"], image_processor)
        widths = [pixels.shape[2]] * len(pixels)
        if "pixel_mask" in batch:
            widths = batch["pixel_mask"][:, 0].sum(-1).tolist()
        for row, width in enumerate(widths):
            words.append(PerceivedWord(pixels[row][:, :width], *_levels(model, outputs, row)))
    return words


def count_choices(words: Sequence[PerceivedWord], codebook_size: int) -> dict[str, np.ndarray]:
    """How often each entry was chosen, (G, V) for each level."""
    counts = {}
    for name in ("stroke", "semantic"):
        codes = np.concatenate(
            [
                level.codes.reshape(-1, level.codes.shape[-1])
                for word in words
                if (level := word.levels[name]).codes is not None
            ]
        )
        counts[name] = np.stack([np.bincount(book, minlength=codebook_size) for book in codes.T])
    return counts


def _levels(model: PerSecForPreTraining, outputs: Any, row: int) -> tuple[PerceivedLevel, PerceivedLevel]:
    config = model.config
    # The frames of TRBA's CNN stand half a stride to the left of a ViT's patches (see the encoders).
    semantic_left = -config.patch_size / 2 if config.has_centered_frames else 0.0
    stroke_left = semantic_left if config.stroke_tap_index == 3 else 0.0
    return (
        _level(outputs, "stroke", row, model.stroke_perceiver, stroke_left, config.stroke_tap_stride),
        _level(outputs, "semantic", row, model.semantic_perceiver, semantic_left, config.patch_size),
    )


def _level(outputs: Any, name: str, row: int, perceiver: Any, left: float, stride: int) -> PerceivedLevel:
    valid: Tensor = outputs[f"{name}_valid"][row]
    columns = int(valid[0].sum())
    codes = outputs.get(f"{name}_codes")
    return PerceivedLevel(
        codes=None if codes is None else codes[row, :, :columns].numpy(),
        mask=outputs[f"{name}_mask"][row, :, :columns].numpy(),
        attention=outputs[f"{name}_attentions"][0][row].mean(1).numpy(),
        window=perceiver.layers[0].attention.window_for(valid.shape[1]),
        left=left,
        stride=stride,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
