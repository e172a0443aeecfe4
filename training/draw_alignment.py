"""Where a recogniser looks: probabilities of a CTC head, or attention of an attention head, along the word.

    python -m training.draw_alignment default examples/word_06.jpg --output alignment.png
    python -m training.draw_alignment runs/own_words/final crop.png --output alignment.png

Over a map of the frames stands the word, cut where the pipeline cuts it into characters. Of a CTC head, the
map shows what each frame says: the characters that were read, the likeliest others, and the blank, which
stands for "nothing new here". Of an attention head it shows for each character which frames were looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from transformers import pipeline

import modeling_rcmstr  # noqa: F401  (registers the task)
from modeling_rcmstr import default_checkpoint
from modeling_rcmstr.image_reading import ImageSource, read_image
from modeling_rcmstr.text_decoding import frames_to_fractions

# Characters that were not read have a row when a frame gives them this probability, the likeliest of them.
NOTABLE, OTHERS = 0.05, 4
BLANK, END = "blank", "end"
INCH_PER_ROW, WIDTH_INCH, WORD_INCH = 0.22, 6.5, 0.8


@dataclass(frozen=True)
class Alignment:
    """How a word was read, along its width.

    Args:
        picture: the word as it came.
        text: that was read.
        score: of the text, 0 to 1.
        characters: of the pipeline: "character", "score", "start" and "end" (parts of the width).
        rows: what each row of `weights` stands for.
        weights: (rows, frames); of a CTC head probabilities, columns of all classes sum to 1; of an attention
            head attention, rows sum to 1.
        edges: (frames + 1) borders of the frames as parts of the width.
        is_attention: whether `weights` is attention.
    """

    picture: Image.Image
    text: str
    score: float
    characters: list[dict[str, Any]]
    rows: list[str]
    weights: np.ndarray
    edges: np.ndarray
    is_attention: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Read a word and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help='folder or Hub name of a recogniser; "default" is the bundled one')
    parser.add_argument("image", help="of one word")
    parser.add_argument("--output", default="alignment.png", help="picture to write")
    options = parser.parse_args(argv)
    model = str(default_checkpoint()) if options.checkpoint == "default" else options.checkpoint
    if not Path(options.image).is_file():
        raise ValueError(f"there is no image {options.image!r}; give the path of one word's picture.")
    reader = pipeline("text-recognition", model=model)  # type: ignore[call-overload]
    alignment = read_alignment(reader, options.image)
    draw_alignment(alignment).savefig(options.output, dpi=120)
    print(f"{alignment.text} ({alignment.score:.1%}), written to {options.output}")
    return 0


@torch.no_grad()
def read_alignment(reader: Any, image: ImageSource) -> Alignment:
    """Read one word with a text-recognition pipeline, and keep what its model said of every frame.

    Args:
        reader: of either family, with either head.
        image: whatever the pipeline reads.
    """
    model, processor = reader.model, reader.processor
    answer = reader(image, return_characters=True)
    is_attention = bool(model.config.is_encoder_decoder)
    # The decoder is shown the text that it read, so that its steps are those of the reading.
    text = {"text": [answer["text"]]} if is_attention else {}
    inputs = processor(images=[image], **text).to(model.device)  # one word is never padded
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    outputs = model(**inputs, **({"output_attentions": True} if is_attention else {}))
    if is_attention:
        attention = outputs.cross_attentions[-1].mean(1)[0].float()  # (L, cells)
        weights = _columns_of(attention, inputs["pixel_values"].shape[-1], model.config)
        rows = [character["character"] for character in answer["characters"]] + [END]
    else:
        probabilities = outputs.logits[0].float().softmax(-1)  # (T, V)
        ids, rows = _classes_shown(probabilities, processor.tokenizer)
        weights = probabilities[:, ids].T  # (rows, T)
    frames = weights.shape[1]
    spans = frames_to_fractions(
        [(t, t + 1) for t in range(frames)], frames, bool(model.config.has_centered_frames)
    )
    edges = np.array([left for left, _ in spans] + [spans[-1][1]])
    return Alignment(
        picture=read_image(image),
        text=answer["text"],
        score=float(answer["score"]),
        characters=answer["characters"],
        rows=rows,
        weights=weights.cpu().numpy(),
        edges=edges,
        is_attention=is_attention,
    )


def draw_alignment(alignment: Alignment) -> Figure:
    """The word with its characters' borders, and below it the map of its frames."""
    height = INCH_PER_ROW * max(3, len(alignment.rows))
    figure = Figure(figsize=(WIDTH_INCH, height + WORD_INCH + 1.0), layout="constrained")
    word, frames = figure.subplots(2, 1, sharex=True, height_ratios=[WORD_INCH, height])
    word.imshow(np.asarray(alignment.picture), extent=(0, 1, 0, 1), aspect="auto")
    word.set_axis_off()
    word.set_title(f"“{alignment.text}”, score {alignment.score:.1%}", loc="left", fontsize=10, pad=24)
    for character in alignment.characters:
        if character["start"] is None:
            continue
        middle = (character["start"] + character["end"]) / 2
        label = f"{character['character']}\n{character['score']:.0%}"
        word.text(middle, 1.03, label, ha="center", va="bottom", fontsize=7, linespacing=1.0)
        for axes in (word, frames):
            for place in (character["start"], character["end"]):
                axes.axvline(place, color="#D55E00", linewidth=0.8)
    rows = np.arange(len(alignment.rows) + 1)
    mesh = frames.pcolormesh(
        alignment.edges, rows, alignment.weights, cmap="Blues", vmin=0, vmax=1, edgecolors="#e8e8e8", lw=0.2
    )
    frames.set_yticks(rows[:-1] + 0.5, alignment.rows, fontsize=8)
    frames.set_ylim(len(alignment.rows), 0)
    frames.set_xlim(0, 1)
    frames.set_xlabel("part of the word's width", fontsize=8)
    frames.tick_params(labelsize=8)
    bar = figure.colorbar(mesh, ax=frames, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attention" if alignment.is_attention else "probability", fontsize=8)
    return figure


def _classes_shown(probabilities: Tensor, tokenizer: Any) -> tuple[list[int], list[str]]:
    """Classes worth a row: those read, in their order; the likeliest others; the blank last."""
    blank = tokenizer.pad_token_id
    best = probabilities.argmax(-1).tolist()
    read = list(dict.fromkeys(token for token in best if token != blank))
    peaks = probabilities.amax(0).tolist()
    others = [t for t in range(len(peaks)) if t not in read and t != blank and peaks[t] >= NOTABLE]
    others.sort(key=lambda token: -peaks[token])
    ids = read + others[:OTHERS]
    names = [tokenizer.convert_tokens_to_string([t]) for t in tokenizer.convert_ids_to_tokens(ids)]
    return [*ids, blank], [*("space" if name == " " else name for name in names), BLANK]


def _columns_of(attention: Tensor, width: int, config: Any) -> Tensor:
    """(L, cells) to (L, columns): rows of a grid are summed."""
    columns = width // config.patch_size + int(bool(config.has_centered_frames))
    if attention.shape[-1] > columns:
        attention = attention.unflatten(-1, (-1, columns)).sum(-2)
    return attention


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
