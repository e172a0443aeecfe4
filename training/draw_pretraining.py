"""Pictures of what pretraining does: masked words, their reconstruction, and relations within pairs of words.

    python -m training.draw_pretraining runs/rcmstr/final --words my_words/ --output pictures/

`reconstructions.png` shows each word masked, reconstructed and as it is; `relations.png` the cosines between
the frames and the sub-words of pairs of words: what the interaction between levels is trained on. The
training script puts the first kind into TensorBoard.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig

import modeling_rcmstr  # noqa: F401  (registers the families)
from modeling_rcmstr import TextRecognitionImageProcessor
from training.pretraining_model import pretraining_class
from training.word_sources import name_source, open_source

# Colours of the heat map at the ends and the middle of its range, dark blue to white to dark red (RGB).
COLD, NEUTRAL, WARM = (33, 62, 130), (255, 255, 255), (150, 30, 40)
GAP = 4
CELL = 12
HIDDEN_GREY = 128


def main(argv: Sequence[str]) -> int:
    """Read a checkpoint and some words, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder of a pretrained RCMSTR model")
    parser.add_argument(
        "--words", required=True, help="a folder of images, or a source such as parquet:words.parquet"
    )
    parser.add_argument("--output", default=".", help="folder for the pictures")
    parser.add_argument("--count", type=int, default=8, help="number of words, even")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    options = parser.parse_args(argv)
    if options.count < 2 or options.count % 2:
        raise ValueError(f"--count must be even and at least 2, got {options.count}.")
    model, image_processor = load_pretrained(Path(options.checkpoint))
    source = open_source(name_source(options.words), labelled=False)
    if source.size is not None and source.size < options.count:
        raise ValueError(f"{options.words} holds {source.size} words, --count asks for {options.count}.")
    images = [source.row(index)["image"] for index in range(options.count)]
    pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        if model.config.reconstruction_weight:
            outputs = model(pixel_values, generator=generator, return_loss=False)
            picture = draw_reconstructions(
                pixel_values, outputs.reconstruction, outputs.visible, image_processor
            )
            Image.fromarray(picture).save(folder / "reconstructions.png")
            written.append("reconstructions.png")
        keys = model.encode_keys(pixel_values)
        if {"frame", "subword"} <= keys.keys():
            Image.fromarray(draw_relations(keys["frame"], keys["subword"])).save(folder / "relations.png")
            written.append("relations.png")
    print(f"written to {folder}: {', '.join(written)}")
    return 0


def load_pretrained(folder: Path) -> tuple[Any, Any]:
    """A pretrained RCMSTR model in evaluation mode, and its image processor.

    Raises:
        ValueError: for a folder without one.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json and is no checkpoint.")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "rcmstr":
        raise ValueError(f"{folder} is a {config.model_type} model; these pictures are RCMSTR's.")
    model = pretraining_class(config).from_pretrained(folder, dtype="float32")
    return model.eval(), TextRecognitionImageProcessor.from_pretrained(folder)


def draw_reconstructions(
    pixel_values: Tensor, reconstruction: Tensor, visible: Tensor, image_processor: Any
) -> np.ndarray:
    """One row per word: what the model saw, what it drew there, and the word.

    Args:
        pixel_values: (B, 3, H, W) normalised words.
        reconstruction: (B, 3, H, W) in the same scale; shown where the word was hidden.
        visible: (B, 1, h, w) True where it was not.
        image_processor: undoes the normalisation.

    Returns:
        (B (H + gap), 3 (W + gap), 3) uint8.
    """
    factor = pixel_values.shape[-1] // visible.shape[-1]
    seen = (
        visible.repeat_interleave(factor, 2).repeat_interleave(factor, 3).to(pixel_values.device)
    )  # (B, 1, H, W)
    original = to_pixels(pixel_values, image_processor)
    filled = to_pixels(torch.where(seen, pixel_values, reconstruction.to(pixel_values)), image_processor)
    mask = seen.permute(0, 2, 3, 1).cpu().numpy()
    masked = np.where(mask, original, HIDDEN_GREY).astype(np.uint8)
    rows = [_beside(list(word)) for word in zip(masked, filled, original, strict=True)]
    return _below(rows)


def draw_relations(frames: Tensor, subwords: Tensor) -> np.ndarray:
    """Heat maps of the cosines between the frames (columns) and the sub-words (rows) of pairs of words.

    Args:
        frames: (B, T, D) unit vectors; B even.
        subwords: (B, S, D) unit vectors.

    Returns:
        uint8 picture; each pair is a map of 2 S rows and 2 T columns, the lines between its words left white.
    """
    maps = []
    for first in range(0, len(frames), 2):
        columns = frames[first : first + 2].flatten(0, 1)  # (2 T, D)
        rows = subwords[first : first + 2].flatten(0, 1)  # (2 S, D)
        cosines = (rows @ columns.T).float().cpu().numpy()
        picture = colour_map(cosines).repeat(CELL, 0).repeat(CELL, 1)
        picture[subwords.shape[1] * CELL - 1 : subwords.shape[1] * CELL + 1] = 255
        picture[:, frames.shape[1] * CELL - 1 : frames.shape[1] * CELL + 1] = 255
        maps.append(picture)
    return _below(maps)


def colour_map(values: np.ndarray) -> np.ndarray:
    """(…) values in -1..1 to (…, 3) uint8: blue below 0, white at 0, red above."""
    share = np.abs(values).clip(0, 1)[..., None]
    end = np.where(values[..., None] < 0, np.array(COLD), np.array(WARM))
    return (np.array(NEUTRAL) * (1 - share) + end * share).round().astype(np.uint8)


def to_pixels(pixel_values: Tensor, image_processor: Any) -> np.ndarray:
    """Undo the image processor's normalisation: (B, 3, H, W) to (B, H, W, 3) uint8."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    pixels = (pixel_values.detach().float().cpu() * std + mean) / image_processor.rescale_factor
    return pixels.round().clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)


def _beside(images: list[np.ndarray]) -> np.ndarray:
    """Images of one height side by side, white between them."""
    gap = np.full((images[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)


def _below(images: list[np.ndarray]) -> np.ndarray:
    """Images of one width below each other, white between them."""
    gap = np.full((GAP, images[0].shape[1], 3), 255, dtype=np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
