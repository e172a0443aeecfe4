"""TextRecognitionProcessor: words in, a batch for the model; outputs in, text with confidences and places.

It joins a `TextRecognitionImageProcessor` and a `CharacterTokenizer`; which ids and which frames make a
character is decided in `text_decoding`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .text_decoding import DecodedSequence, decode_ctc, decode_tokens, frames_to_fractions, restrict_classes

IGNORED_LABEL = -100


@dataclass(frozen=True)
class _ChosenTokens:
    """What an attention decoder chose.

    Args:
        ids: (B, L) tokens, without the start token.
        probabilities: (B, L) probability of each token when it was chosen.
        attention: (B, L, T) weights over the frames, or over the cells of a grid; None when not asked for.
    """

    ids: Tensor
    probabilities: Tensor
    attention: Tensor | None


class TextRecognitionProcessor(ProcessorMixin):
    """Prepare words for a recogniser and read its outputs.

    Args:
        image_processor: a `TextRecognitionImageProcessor`.
        tokenizer: the `CharacterTokenizer` of the recogniser's vocabulary.
        kwargs: further arguments of `ProcessorMixin`.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: one picture or several; what a picture may be is said in `image_reading`.
            text: what the pictures say, one string or as many as pictures; for training.
            return_tensors: "pt", or "np" for NumPy.
            kwargs: arguments of the image processor for this call.

        Returns:
            `pixel_values` (B, 3, H, W); `pixel_mask` (B, H, W) when a word is padded; with `text`, `labels`
            (B, L) padded with -100, ending in the end token for an attention recogniser.

        Raises:
            ValueError: when there is nothing to prepare, the counts differ, or a picture or a text cannot be
                used.
            TypeError: for an argument that the image processor does not have.
        """
        if images is None and text is None:
            raise ValueError("give `images`, `text` or both, got neither.")
        data: dict[str, Any] = {}
        if images is not None:
            data.update(self.image_processor(images, return_tensors=return_tensors, **kwargs))
        elif kwargs:
            raise TypeError(f"{', '.join(kwargs)}: arguments of the image processor need `images`.")
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            count = len(data["pixel_values"]) if images is not None else len(texts)
            if len(texts) != count:
                raise ValueError(
                    f"there must be one text per image, got {len(texts)} texts and {count} images."
                )
            data["labels"] = self._labels(texts)
        return BatchFeature(data, tensor_type=return_tensors or "np")

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model takes."""
        return [*self.image_processor.model_input_names, "labels"]

    def post_process_text_recognition(
        self,
        outputs: Any,
        pixel_mask: Tensor | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
        allowed_characters: str | None = None,
    ) -> list[dict[str, Any]]:
        """Read model outputs.

        Takes the output of a CTC recogniser, that of `generate(..., return_dict_in_generate=True,
        output_scores=True)` (greedy, sampled or beam search; with `output_attentions=True` the characters
        have places), and that of an attention recogniser called with `labels`.

        Args:
            outputs: see above.
            pixel_mask: (B, H, W) that the model was given, 1 for the word and 0 for padding, or None when no
                word was padded. It also tells the width of the batch; without it that is the image
                processor's, or with `keep_aspect_ratio` a multiple of 8, which the number of frames is enough
                for.
            original_sizes: (height, width) of each picture in pixels; characters then have a "box".
            allowed_characters: the only characters that may be read. Not for generated outputs: give
                `generate` its `suppress_tokens` instead.

        Returns:
            One dictionary per word: "text"; "score", 0 to 1, the product of the characters' scores or, of an
            empty text, the probability that it is empty; "characters", a list of {"character", "score",
            "start", "end"}. A character's score is its probability among the allowed ones (of generated ones:
            after the logits processors). "start" and "end" are its borders as parts of the word's width, None
            when not known; with `original_sizes` there is also "box", (left, top, right, bottom) in pixels of
            the picture.

        Raises:
            ValueError: when `outputs` hold no scores, or there are not as many masks or sizes as words.
        """
        allowed_ids = None if allowed_characters is None else self.tokenizer.character_ids(allowed_characters)
        if _field(outputs, "sequences") is None and not self.tokenizer.for_attention:
            words = self._read_frames(outputs, pixel_mask, allowed_ids)
        else:
            words = self._read_tokens(outputs, pixel_mask, allowed_ids)
        if original_sizes is not None and len(original_sizes) != len(words):
            raise ValueError(
                f"there must be one size per word, got {len(original_sizes)} sizes and {len(words)} words."
            )
        sizes = [None] * len(words) if original_sizes is None else original_sizes
        return [self._describe(word, size) for word, size in zip(words, sizes, strict=True)]

    def _read_frames(
        self, outputs: Any, pixel_mask: Tensor | None, allowed_ids: Sequence[int] | None
    ) -> list[DecodedSequence]:
        """Decode the frames of a CTC recogniser; spans in parts of the word's width."""
        logits, frame_mask = _field(outputs, "logits"), _field(outputs, "frame_mask")
        if logits is None:
            raise ValueError(
                "`outputs` must have `logits`, the scores of each frame; pass what the model gave."
            )
        words = decode_ctc(logits, frame_mask, self.tokenizer.pad_token_id, allowed_ids)
        frames = self._frames_of_words(logits.shape[1], pixel_mask, len(words))
        if frame_mask is not None:
            frames = frame_mask.sum(1).tolist()
        return self._measure(words, frames, self._is_centered(logits.shape[1], pixel_mask))

    def _read_tokens(
        self, outputs: Any, pixel_mask: Tensor | None, allowed_ids: Sequence[int] | None
    ) -> list[DecodedSequence]:
        """Decode the tokens of an attention recogniser; spans in parts of the word's width."""
        if not self.tokenizer.for_attention:
            raise ValueError(
                "`outputs` are generated, and the tokenizer is for CTC; load the processor of the model's "
                "own checkpoint."
            )
        tokens = self._chosen_tokens(outputs, allowed_ids)
        attention, frames, centered = tokens.attention, None, False
        if attention is not None:
            attention = self._fold_rows(attention, pixel_mask)
            frames = self._frames_of_words(attention.shape[-1], pixel_mask, len(tokens.ids))
            centered = self._is_centered(attention.shape[-1], pixel_mask)
        skipped = (self.tokenizer.pad_token_id, self.tokenizer.bos_token_id)
        end = self.tokenizer.eos_token_id
        words = decode_tokens(tokens.ids, tokens.probabilities, end, skipped, attention, frames)
        return words if frames is None else self._measure(words, frames, centered)

    def _measure(
        self, words: Sequence[DecodedSequence], frames: Sequence[int], centered: bool
    ) -> list[DecodedSequence]:
        """Measure spans in parts of the word's width instead of frames."""
        return [
            replace(word, spans=frames_to_fractions(word.spans or [], num_frames, centered))
            for word, num_frames in zip(words, frames, strict=True)
        ]

    def _labels(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as (B, L) int64 ids padded with -100."""
        if not texts:
            raise ValueError("there must be at least one text, got none.")
        rows = [torch.tensor(self.tokenizer.text_to_ids(text), dtype=torch.long) for text in texts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)

    def _chosen_tokens(self, outputs: Any, allowed_ids: Sequence[int] | None) -> _ChosenTokens:
        """Collect what an attention recogniser chose, from `generate()` or from a call with `labels`."""
        if _field(outputs, "sequences") is not None:
            if allowed_ids is not None:
                raise ValueError(
                    "`allowed_characters` come too late for generated outputs; give `generate` "
                    "`suppress_tokens`, or use the text-recognition pipeline."
                )
            return _generated_tokens(outputs)
        logits = _field(outputs, "logits")
        if logits is None:
            raise ValueError(
                "`outputs` must have `logits`, or `sequences` and `scores` from `generate(..., "
                "return_dict_in_generate=True, output_scores=True)`."
            )
        logits = logits.float()
        if allowed_ids is not None:
            logits = restrict_classes(logits, [self.tokenizer.eos_token_id, *allowed_ids])
        probabilities, ids = logits.softmax(-1).max(-1)
        layers = _field(outputs, "cross_attentions")
        return _ChosenTokens(ids, probabilities, layers[-1].mean(1) if layers else None)

    def _batch_size(self, pixel_mask: Tensor | None) -> tuple[int, int | None]:
        """Return the (height, width) of the batch in pixels; None for a width that is not known."""
        if pixel_mask is not None:
            return pixel_mask.shape[1], pixel_mask.shape[2]
        size = self.image_processor.size
        return size["height"], None if self.image_processor.keep_aspect_ratio else size["width"]

    def _is_centered(self, num_frames: int, pixel_mask: Tensor | None) -> bool:
        """Say whether frames stand on pixels 0, s, … to the width (W/s + 1 of them) or tile it (W/s)."""
        width = self._batch_size(pixel_mask)[1]
        return num_frames % 2 == 1 if width is None else width % num_frames != 0

    def _frames_of_words(self, num_frames: int, pixel_mask: Tensor | None, count: int) -> list[int]:
        """Count the frames of each word, the padding's left out."""
        if pixel_mask is None:
            return [num_frames] * count
        if count % len(pixel_mask):
            raise ValueError(
                f"`pixel_mask` must have one entry per word, got {len(pixel_mask)} for {count} words."
            )
        extra = int(self._is_centered(num_frames, pixel_mask))
        valid = pixel_mask[:, 0].sum(-1) * (num_frames - extra) // pixel_mask.shape[-1] + extra
        return valid.repeat_interleave(count // len(pixel_mask)).tolist()

    def _fold_rows(self, attention: Tensor, pixel_mask: Tensor | None) -> Tensor:
        """Sum over rows the attention of a decoder that looked at every cell of the grid, not at columns."""
        height, width = self._batch_size(pixel_mask)
        cells = attention.shape[-1]
        if width is None or cells <= width:
            return attention
        columns = isqrt(cells * width // height)  # cells = (height / patch) * (width / patch)
        return attention.unflatten(-1, (-1, columns)).sum(-2)  # (B, L, columns)

    def _describe(self, word: DecodedSequence, size: tuple[int, int] | None) -> dict[str, Any]:
        """Spell one word; `size` is (height, width) of its picture."""
        tokens = self.tokenizer.convert_ids_to_tokens(word.ids)
        texts = [self.tokenizer.convert_tokens_to_string([token]) for token in tokens]
        characters: list[dict[str, Any]] = [
            {"character": text, "score": score, "start": None, "end": None}
            for text, score in zip(texts, word.probabilities, strict=True)
        ]
        for character, (start, end) in zip(characters, word.spans or (), strict=False):
            character.update(start=start, end=end)
            if size is not None:
                height, width = size
                character["box"] = (start * width, 0.0, end * width, float(height))
        return {"text": "".join(texts), "score": word.score, "characters": characters}


def _generated_tokens(outputs: Any) -> _ChosenTokens:
    """Trace what `generate()` chose back to the scores and attention of its steps, through any beams."""
    sequences, scores = _field(outputs, "sequences"), _field(outputs, "scores")
    if not scores:
        raise ValueError(
            "`outputs` must have `scores`: call `generate(..., return_dict_in_generate=True, "
            "output_scores=True)`."
        )
    beams = _field(outputs, "beam_indices")
    if beams is None:
        length = len(scores)
        rows = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, length)
    else:
        # Beams that ended early are filled with -1.
        length = int((beams >= 0).sum(1).max())
        rows = beams[:, :length]
    finished = rows < 0
    rows, steps = rows.clamp_min(0), torch.arange(length, device=sequences.device)
    ids = sequences[:, sequences.shape[1] - length :]  # (B, L), without the start token
    log_probabilities = torch.stack(tuple(scores[:length])).float().log_softmax(-1)  # (L, rows, V)
    probabilities = log_probabilities[steps, rows, ids].exp().masked_fill(finished, 1.0)
    attention = None
    if _field(outputs, "cross_attentions"):
        layers = [
            step[-1] for step in _field(outputs, "cross_attentions")[:length]
        ]  # (rows, heads, 1, T) each
        attention = torch.stack([layer.mean(1)[:, -1] for layer in layers])[steps, rows]  # (B, L, T)
    return _ChosenTokens(ids, probabilities, attention)


def _field(outputs: Any, name: str) -> Any:
    """Look up a field of a model output or of a dictionary; None when it is absent."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
