"""Decoding: best paths against a slow twin, probabilities and places in closed form, bad input."""

import math
from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.text_decoding import (
    decode_ctc,
    decode_tokens,
    divide_gaps,
    frames_to_fractions,
    restrict_classes,
)


def scores(path: list[int], vocab_size: int = 5, probability: float = 0.9) -> Tensor:
    """Logits of one word, (1, T, V), whose frames give `probability` to the ids of `path` and share the "
    "rest."""
    rest = (1 - probability) / (vocab_size - 1)
    table = torch.full((1, len(path), vocab_size), rest)
    table[0, torch.arange(len(path)), torch.tensor(path)] = probability
    return table.log()


def twin(logits: np.ndarray) -> tuple[list[int], list[float]]:
    """CTC's best path and the best probability of each run, in NumPy with groupby."""
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    ids, peaks = [], []
    for token, run in groupby(range(len(logits)), key=lambda frame: int(logits[frame].argmax())):
        if token:
            ids.append(token)
            peaks.append(max(float(probabilities[frame, token]) for frame in run))
    return ids, peaks


def test_repeats_merge_and_blanks_drop() -> None:
    (word,) = decode_ctc(scores([0, 1, 1, 0, 1, 2, 2, 0]))
    assert word.ids == [1, 1, 2]


def test_best_path_equals_its_slow_twin() -> None:
    logits = torch.randn(20, 15, 6) * 3
    for word, rows in zip(decode_ctc(logits), logits.numpy(), strict=True):
        ids, peaks = twin(rows.astype(np.float64))
        assert word.ids == ids
        assert word.probabilities == pytest.approx(peaks, rel=1e-5)
        assert word.score == pytest.approx(math.prod(peaks), rel=1e-5) or not ids


def test_probabilities_and_score_in_closed_form() -> None:
    (word,) = decode_ctc(scores([1, 0, 2], probability=0.8))
    assert word.probabilities == pytest.approx([0.8, 0.8])
    assert word.score == pytest.approx(0.64)


def test_an_empty_word_is_as_certain_as_its_least_certain_blank() -> None:
    logits = torch.cat([scores([0, 0], probability=0.9), scores([0], probability=0.6)], dim=1)
    (word,) = decode_ctc(logits)
    assert (word.ids, word.spans) == ([], [])
    assert word.score == pytest.approx(0.6)


def test_padded_frames_change_nothing() -> None:
    logits = torch.randn(3, 10, 6)
    padded = torch.cat([logits, torch.randn(3, 7, 6) * 100], dim=1)
    mask = torch.arange(17).expand(3, 17) < 10
    assert decode_ctc(padded, mask) == decode_ctc(logits)


def test_words_do_not_depend_on_their_neighbours() -> None:
    logits = torch.randn(5, 12, 7)
    assert decode_ctc(logits) == [decode_ctc(row[None])[0] for row in logits]


def test_half_precision_is_decoded_in_float32() -> None:
    logits = (torch.randn(4, 12, 7) * 4).half()
    assert decode_ctc(logits) == decode_ctc(logits.float())


def test_only_allowed_characters_are_read_and_they_share_all_probability() -> None:
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])  # blank, then three characters
    (word,) = decode_ctc(logits, allowed_ids=[2, 3])
    assert word.ids == [3]
    assert word.probabilities == pytest.approx([math.exp(2) / (1 + math.e + math.exp(2))])


def test_allowing_every_character_changes_nothing() -> None:
    logits = torch.randn(3, 12, 7)
    assert decode_ctc(logits, allowed_ids=range(1, 7)) == decode_ctc(logits)


def test_characters_touch_in_the_middle_of_the_gap_and_reach_out_as_far() -> None:
    (word,) = decode_ctc(scores([0, 0, 1, 0, 0, 2, 2, 0, 0, 0]))
    assert word.spans == [(1.0, 4.0), (4.0, 8.0)]


def test_spans_follow_each_other_inside_the_word_and_hold_their_frames() -> None:
    for word, rows in zip(decode_ctc(torch.randn(30, 20, 4) * 3), range(30), strict=True):
        assert word.spans is not None, rows
        borders = [border for span in word.spans for border in span]
        assert borders == sorted(borders)
        assert not borders or (borders[0] >= 0 and borders[-1] <= 20)
        assert all(right - left >= 1 for left, right in word.spans)


def test_mirrored_scores_give_mirrored_spans() -> None:
    logits = torch.randn(10, 16, 5) * 3
    for forward, backward in zip(decode_ctc(logits), decode_ctc(logits.flip(1)), strict=True):
        assert forward.ids == backward.ids[::-1]
        assert forward.spans == [(16 - right, 16 - left) for left, right in (backward.spans or [])[::-1]]


def test_dividing_gaps() -> None:
    assert divide_gaps([], [], 9) == []
    assert divide_gaps([3], [4], 9) == [(0.0, 9.0)]
    assert divide_gaps([0, 4], [2, 6], 9) == [(0.0, 3.0), (3.0, 7.0)]
    assert divide_gaps([0, 8], [1, 9], 9) == [(0.0, 4.5), (4.5, 9.0)]


def test_tiled_frames_are_equal_parts_of_the_width() -> None:
    assert frames_to_fractions([(0, 1), (1, 4)], 4, centered=False) == [(0.0, 0.25), (0.25, 1.0)]


def test_centered_frames_stand_on_the_strides() -> None:
    """33 frames on 128 pixels at stride 4: frame t reaches from pixel 4t - 2 to 4t + 2."""
    spans = [(float(frame), frame + 1.0) for frame in range(33)]
    for frame, (left, right) in enumerate(frames_to_fractions(spans, 33, centered=True)):
        assert left * 128 == pytest.approx(max(4 * frame - 2, 0))
        assert right * 128 == pytest.approx(min(4 * frame + 2, 128))


@pytest.mark.parametrize("centered", [False, True])
def test_a_word_of_one_frame_has_a_span(centered: bool) -> None:
    ((left, right),) = frames_to_fractions([(0.0, 1.0)], 1, centered)
    assert 0 <= left < right <= 1


def test_tokens_end_at_the_end_token() -> None:
    ids = torch.tensor([[5, 6, 2, 7], [5, 5, 5, 5], [2, 0, 0, 0]])
    probabilities = torch.tensor([[0.5, 0.5, 0.9, 0.1], [0.9, 0.9, 0.9, 0.9], [0.3, 1.0, 1.0, 1.0]])
    ended, open_, empty = decode_tokens(ids, probabilities, end_id=2)
    assert [word.ids for word in (ended, open_, empty)] == [[5, 6], [5, 5, 5, 5], []]
    assert [word.score for word in (ended, open_, empty)] == pytest.approx([0.25, 0.9**4, 0.3])
    assert ended.spans is None


def test_tokens_that_are_no_characters_are_skipped() -> None:
    (word,) = decode_tokens(torch.tensor([[1, 5, 0, 6, 2]]), torch.full((1, 5), 0.5), 2, skipped_ids=(0, 1))
    assert (word.ids, word.probabilities) == ([5, 6], [0.5, 0.5])


def test_characters_stand_at_the_centre_of_their_attention() -> None:
    attention = torch.zeros(1, 3, 10)
    attention[0, 0, 1] = attention[0, 1, 4] = attention[0, 2, 7] = 1
    (word,) = decode_tokens(torch.tensor([[5, 6, 7]]), torch.ones(1, 3), 2, attention=attention)
    assert word.spans == [(0.0, 3.0), (3.0, 6.0), (6.0, 9.0)]


def test_attention_that_jumps_back_gives_places_in_reading_order() -> None:
    attention = torch.rand(4, 6, 10).softmax(-1)
    attention[:, 2] = torch.eye(10)[9]
    for word in decode_tokens(torch.full((4, 6), 5), torch.ones(4, 6), 2, attention=attention):
        borders = [border for span in word.spans or [] for border in span]
        assert borders == sorted(borders)
        assert borders[0] >= 0
        assert borders[-1] <= 10


def test_padding_without_attention_does_not_move_characters() -> None:
    attention = torch.rand(1, 3, 8).softmax(-1)
    padded = torch.cat([attention, torch.zeros(1, 3, 4)], dim=-1)
    arguments = (torch.tensor([[5, 6, 7]]), torch.ones(1, 3), 2)
    plain = decode_tokens(*arguments, attention=attention)
    assert decode_tokens(*arguments, attention=padded, num_frames=[8]) == plain


def test_restricting_keeps_the_scores_of_what_is_kept() -> None:
    logits = torch.randn(2, 3, 4)
    kept = restrict_classes(logits, [1, 3])
    assert torch.equal(kept[..., [1, 3]], logits[..., [1, 3]])
    assert bool((kept[..., [0, 2]] == -math.inf).all())


@pytest.mark.parametrize("ids", [[], [-1], [4]])
def test_classes_that_are_not_there_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"at least one id in 0\.\.3"):
        restrict_classes(torch.zeros(1, 4), ids)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="got NaN.*float32"):
        decode_ctc(torch.full((1, 2, 3), float("nan")))
    with pytest.raises(ValueError, match="got NaN"):
        decode_tokens(torch.tensor([[5]]), torch.tensor([[float("nan")]]), 2)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`logits` must be \(B, T, V\).*got \(2, 3\)"):
        decode_ctc(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"`frame_mask` \(B, T\)"):
        decode_ctc(torch.zeros(1, 2, 3), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`attention` \(B, L, T\)"):
        decode_tokens(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2), 2, attention=torch.ones(1, 3, 4))
