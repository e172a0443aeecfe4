"""From scores to character ids, with a probability and a place for every character.

CTC (Graves et al. 2006, section 3.2): the best class of each frame, repeats merged, blanks dropped.
Attention: the tokens up to the end token. Nothing here knows a character by name: ids to text is in
`tokenization_text_recognition`.

Places are measured in frames: frame t reaches from t to t + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DecodedSequence:
    """The characters of one word.

    Args:
        ids: id of each character.
        probabilities: probability of each character, 0 to 1.
        spans: left and right border of each character, in frames; neighbours touch. None when the places are
            not known.
        score: product of the probabilities; for a word without characters the probability that there is none
            (CTC: of the least certain blank; attention: of the end token).
    """

    ids: list[int]
    probabilities: list[float]
    spans: list[tuple[float, float]] | None
    score: float


def restrict_classes(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Give every class but `ids` the score minus infinity, so that `ids` share all probability.

    Args:
        logits: (..., V) scores.
        ids: the classes to keep.

    Returns:
        (..., V) scores.

    Raises:
        ValueError: when there is no id, or one is outside the vocabulary.
    """
    size = logits.shape[-1]
    if not ids or min(ids) < 0 or max(ids) >= size:
        raise ValueError(f"the classes to keep must be at least one id in 0..{size - 1}, got {list(ids)}.")
    hidden = torch.ones(size, dtype=torch.bool, device=logits.device)
    hidden[list(ids)] = False
    return logits.masked_fill(hidden, float("-inf"))


def decode_ctc(
    logits: Tensor,
    frame_mask: Tensor | None = None,
    blank_id: int = 0,
    allowed_ids: Sequence[int] | None = None,
) -> list[DecodedSequence]:
    """Read the best path of each word: the best class of each frame, repeats merged, blanks dropped.

    A character's probability is the highest that its frames give it.

    Args:
        logits: (B, T, V) scores of each frame.
        frame_mask: (B, T) True for the first frames of each word, which belong to it; None when all do.
        blank_id: class that stands for no character.
        allowed_ids: the only characters that may be read; the others' probability is shared among these and
            the blank.

    Returns:
        B sequences.

    Raises:
        ValueError: for logits of another shape or that are not numbers, a mask of another shape, or unusable
            `allowed_ids`.
    """
    if logits.ndim != 3 or (frame_mask is not None and frame_mask.shape != logits.shape[:2]):
        raise ValueError(
            f"`logits` must be (B, T, V) and `frame_mask` (B, T) or None, got {tuple(logits.shape)} and "
            f"{None if frame_mask is None else tuple(frame_mask.shape)}."
        )
    logits = logits.float()
    if allowed_ids is not None:
        logits = restrict_classes(logits, [blank_id, *allowed_ids])
    best, ids = logits.max(-1)  # (B, T)
    _refuse_nan(best)
    probabilities = (best - logits.logsumexp(-1)).exp().tolist()
    lengths = [logits.shape[1]] * len(logits) if frame_mask is None else frame_mask.sum(1).tolist()
    return [
        _merge_frames(row[:length], row_probabilities[:length], blank_id)
        for row, row_probabilities, length in zip(ids.tolist(), probabilities, lengths, strict=True)
    ]


def decode_tokens(
    ids: Tensor,
    probabilities: Tensor,
    end_id: int,
    skipped_ids: Sequence[int] = (),
    attention: Tensor | None = None,
    num_frames: Sequence[int] | None = None,
) -> list[DecodedSequence]:
    """Read the tokens of an attention decoder up to the end token.

    A character stands where the attention of its step has its centre of mass; the places are made to follow
    reading order.

    Args:
        ids: (B, L) tokens, without the start token.
        probabilities: (B, L) probability of each token when it was chosen.
        end_id: token that ends the text.
        skipped_ids: tokens that are not characters (padding, start).
        attention: (B, L, T) weights over the frames of each step, 0 on padding; None when not known.
        num_frames: frames of each word; None when every word has T.

    Returns:
        B sequences.

    Raises:
        ValueError: when the shapes do not fit or a probability is not a number.
    """
    if (
        ids.ndim != 2
        or probabilities.shape != ids.shape
        or (attention is not None and attention.shape[:2] != ids.shape)
    ):
        raise ValueError(
            "`ids` and `probabilities` must be (B, L) and `attention` (B, L, T) or None, got "
            f"{tuple(ids.shape)}, {tuple(probabilities.shape)} and "
            f"{None if attention is None else tuple(attention.shape)}."
        )
    _refuse_nan(probabilities)
    centers: list[list[float]] | None = None
    if attention is not None:
        middles = torch.arange(attention.shape[-1], device=attention.device) + 0.5
        mass = attention.float()
        centers = ((mass * middles).sum(-1) / mass.sum(-1).clamp_min(1e-12)).tolist()  # (B, L)
        num_frames = [attention.shape[-1]] * len(ids) if num_frames is None else num_frames
    sequences = []
    for row, (tokens, token_probabilities) in enumerate(
        zip(ids.tolist(), probabilities.tolist(), strict=True)
    ):
        stop = tokens.index(end_id) if end_id in tokens else len(tokens)
        kept = [step for step in range(stop) if tokens[step] not in skipped_ids]
        spans = None
        if centers is not None and num_frames is not None:
            places = (
                torch.tensor([centers[row][step] for step in kept]).cummax(0).values.tolist() if kept else []
            )
            spans = divide_gaps(places, places, num_frames[row])
        absence = token_probabilities[stop] if stop < len(tokens) else 1.0
        chosen = [token_probabilities[step] for step in kept]
        sequences.append(
            DecodedSequence([tokens[step] for step in kept], chosen, spans, _product(chosen, absence))
        )
    return sequences


def divide_gaps(starts: Sequence[float], ends: Sequence[float], length: float) -> list[tuple[float, float]]:
    """Widen characters until they touch.

    The gap between two neighbours is divided in the middle. The first and the last character reach outwards
    as far as inwards, a single one takes all.

    Args:
        starts: left end of each character, ascending.
        ends: right end of each character, not beyond the next one's left end.
        length: where the word ends; it starts at 0.

    Returns:
        Left and right border of each character.
    """
    if not starts:
        return []
    if len(starts) == 1:
        return [(0.0, float(length))]
    middles = [(end + start) / 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    first = max(0.0, starts[0] - (middles[0] - ends[0]))
    last = min(float(length), ends[-1] + (starts[-1] - middles[-1]))
    borders = [first, *middles, last]
    return list(zip(borders[:-1], borders[1:], strict=True))


def frames_to_fractions(
    spans: Sequence[tuple[float, float]], num_frames: int, centered: bool
) -> list[tuple[float, float]]:
    """Measure places in parts of the word's width, 0 to 1, instead of frames.

    Args:
        spans: borders in frames.
        num_frames: frames of the word.
        centered: frames stand on the pixels 0, s, 2s … up to the width, one more than strides fit in (the
            TRBA CNN); otherwise they tile the width.

    Returns:
        Borders as fractions, cut to 0..1.
    """
    offset, count = (0.5, max(num_frames - 1, 1)) if centered else (0.0, max(num_frames, 1))

    def fraction(place: float) -> float:
        return min(max((place - offset) / count, 0.0), 1.0)

    return [(fraction(left), fraction(right)) for left, right in spans]


def _merge_frames(ids: list[int], probabilities: list[float], blank_id: int) -> DecodedSequence:
    """Merge the frames of one word into runs and keep those of characters."""
    characters: list[int] = []
    peaks: list[float] = []
    starts: list[int] = []
    ends: list[int] = []
    least_blank = 1.0
    previous = blank_id
    for frame, (token, probability) in enumerate(zip(ids, probabilities, strict=True)):
        if token == blank_id:
            least_blank = min(least_blank, probability)
        elif token == previous:
            ends[-1] = frame + 1
            peaks[-1] = max(peaks[-1], probability)
        else:
            characters.append(token)
            peaks.append(probability)
            starts.append(frame)
            ends.append(frame + 1)
        previous = token
    return DecodedSequence(
        characters, peaks, divide_gaps(starts, ends, len(ids)), _product(peaks, least_blank)
    )


def _product(probabilities: list[float], absence: float) -> float:
    if not probabilities:
        return absence
    score = 1.0
    for probability in probabilities:
        score *= probability
    return score


def _refuse_nan(values: Tensor) -> None:
    if bool(torch.isnan(values).any()):
        raise ValueError(
            "the model's scores must be numbers, got NaN; check the image, or load the model in float32 "
            "(`dtype=torch.float32`)."
        )
