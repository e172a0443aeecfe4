"""Both heads against their definitions: every alignment of CTC summed, the attention decoder step by step."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.recognition_heads import (
    AttentionHead,
    CTCHead,
    LSTMDecoderState,
    attention_loss,
    check_labels,
    ctc_loss,
    feature_sequence,
    shift_right,
)


def pad(rows: Sequence[Sequence[int]], extra: int = 0) -> Tensor:
    length = max(map(len, rows)) + extra
    return torch.tensor([[*row, *[-100] * (length - len(row))] for row in rows])


def collapse(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def negative_log_likelihood(logits: Tensor, label: Sequence[int]) -> float:
    """Minus the logarithm of the probability of every path that reads as `label`, all V**T paths tried."""
    probabilities = logits.double().softmax(-1).numpy()
    paths = itertools.product(range(logits.shape[1]), repeat=logits.shape[0])
    total = sum(
        math.prod(probabilities[frame, symbol] for frame, symbol in enumerate(path))
        for path in paths
        if collapse(path) == tuple(label)
    )
    return -math.log(total)


# ------------------------------------------------------------------ features


def test_columns_are_means_over_rows_and_tokens_are_cells() -> None:
    feature_map = torch.randn(2, 3, 4, 5)
    frame_mask = torch.arange(5) < torch.tensor([[2], [5]])
    columns, mask = feature_sequence(feature_map, frame_mask)
    assert torch.equal(columns, feature_map.mean(2).transpose(1, 2))
    assert mask is frame_mask
    tokens, mask = feature_sequence(feature_map, frame_mask, tokens=True)
    assert mask is not None
    for row, column in np.ndindex(4, 5):
        assert torch.equal(tokens[:, row * 5 + column], feature_map[:, :, row, column])
        assert torch.equal(mask[:, row * 5 + column], frame_mask[:, column])


# ------------------------------------------------------------------ CTC


@pytest.mark.parametrize("label", [[], [1], [2, 1], [1, 1], [1, 2, 1], [2, 2, 1], [1, 2, 1, 2]])
def test_ctc_loss_sums_every_alignment(label: list[int]) -> None:
    logits = torch.randn(1, 5, 3) * 2
    expected = negative_log_likelihood(logits[0], label) / max(len(label), 1)
    assert ctc_loss(logits, pad([label], extra=1), None).item() == pytest.approx(expected, rel=1e-5)


def test_ctc_loss_is_the_mean_over_words_of_the_loss_per_character() -> None:
    logits = torch.randn(3, 5, 3)
    labels, frames = [[1], [2, 2], [1, 2, 1]], [2, 4, 5]
    frame_mask = torch.arange(5) < torch.tensor(frames)[:, None]
    each = [
        negative_log_likelihood(logits[row, : frames[row]], label) / len(label)
        for row, label in enumerate(labels)
    ]
    assert ctc_loss(logits, pad(labels), frame_mask).item() == pytest.approx(sum(each) / 3, rel=1e-5)


def test_ctc_loss_ignores_padding_of_labels_and_frames() -> None:
    logits = torch.randn(2, 6, 4)
    frame_mask = torch.arange(6) < torch.tensor([[3], [6]])
    expected = ctc_loss(logits, pad([[1], [3, 2]]), frame_mask)
    assert ctc_loss(logits, pad([[1], [3, 2]], extra=3), frame_mask) == expected
    logits[0, 3:] = 50.0
    assert ctc_loss(logits, pad([[1], [3, 2]]), frame_mask) == expected


def test_ctc_loss_of_half_precision_scores_is_taken_in_float32() -> None:
    logits = torch.randn(1, 5, 3).half()
    assert ctc_loss(logits, pad([[1, 2]]), None).dtype == torch.float32
    assert ctc_loss(logits, pad([[1, 2]]), None) == ctc_loss(logits.float(), pad([[1, 2]]), None)


@pytest.mark.parametrize(
    ("label", "frames", "message"),
    [
        ([1, 2, 3], 2, r"label 1 needs 3 frames \(3 characters and 0 blanks.*the word has 2; .*resize"),
        ([1, 1], 2, r"label 1 needs 3 frames \(2 characters and 1 blanks"),
        ([2, 2, 2], 4, r"needs 5 frames \(3 characters and 2 blanks"),
    ],
)
def test_label_that_no_alignment_fits_is_refused(label: list[int], frames: int, message: str) -> None:
    logits = torch.randn(2, 8, 4)
    frame_mask = torch.arange(8) < torch.tensor([[8], [frames]])
    with pytest.raises(ValueError, match=message):
        ctc_loss(logits, pad([[3], label]), frame_mask)
    needed = len(label) + sum(a == b for a, b in itertools.pairwise(label))
    just = torch.arange(8) < torch.tensor([[8], [needed]])
    assert ctc_loss(logits, pad([[3], label]), just).isfinite()


def test_ctc_head_without_lstm_is_a_linear_map_of_column_means(tiny_config: Callable[..., Any]) -> None:
    head = CTCHead(tiny_config(head_bilstm_layers=0), 6)
    feature_map = torch.randn(2, 6, 3, 5)
    expected = feature_map.mean(2).transpose(1, 2) @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(feature_map).logits, expected)


@pytest.mark.parametrize("layers", [0, 2])
def test_ctc_reads_a_padded_word_as_the_word_alone(tiny_config: Callable[..., Any], layers: int) -> None:
    head = CTCHead(tiny_config(head_bilstm_layers=layers), 6)
    feature_map = torch.randn(2, 6, 1, 9)
    frame_mask = torch.arange(9) < torch.tensor([[4], [9]])
    output = head(feature_map, frame_mask, pad([[5, 6], [7, 7]]))
    alone = [head(feature_map[:1, ..., :4], None, pad([[5, 6]])), head(feature_map[1:], None, pad([[7, 7]]))]
    torch.testing.assert_close(output.logits[0, :4], alone[0].logits[0])
    torch.testing.assert_close(output.logits[1], alone[1].logits[0])
    assert output.loss.item() == pytest.approx(sum(one.loss.item() for one in alone) / 2, rel=1e-5)
    # Padded frames are blank for certain, so decoding that forgets the mask adds no character.
    assert torch.equal(output.logits[0, 4:].softmax(-1), torch.eye(37)[0].expand(5, -1))


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[3, 9]]), r"ids in 0..8 padded with -100, got 3..9; encode the text"),
        (torch.tensor([[3, -1]]), "got -1..3"),
        (torch.tensor([[3, 0]]), "hold id 0, which pads or starts"),
        (torch.tensor([[1, 3]]), "hold id 1, which pads or starts"),
        (torch.tensor([[3, -100, 4]]), "first and -100 only after"),
        (torch.tensor([3, 4]), r"must be \(batch, length\)"),
        (torch.tensor([[3], [4]]), r"each of the 1 words, got \(2, 1\)"),
    ],
)
def test_unusable_labels_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 1, 9, reserved=(0, 1, None))


def test_usable_labels_pass() -> None:
    check_labels(torch.tensor([[2, 8, -100]]), 1, 9, reserved=(0, 1))
    check_labels(torch.full((1, 3), -100), 1, 9, reserved=(0, 1))
    check_labels(torch.zeros(2, 0, dtype=torch.long), 2, 9, reserved=(0, 1))


def test_decoder_reads_the_start_token_and_then_the_labels() -> None:
    labels = torch.tensor([[5, 6, 2, -100], [7, 2, -100, -100]])
    assert shift_right(labels, 1, 0).tolist() == [[1, 5, 6, 2], [1, 7, 2, 0]]
    assert labels[0, 3] == -100  # not changed in place


def test_attention_loss_is_the_mean_over_characters() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[4, 2, -100], [3, -100, -100]])
    picked = [(0, 0, 4), (0, 1, 2), (1, 0, 3)]
    expected = -sum(float(logits[row, step].log_softmax(-1)[label]) for row, step, label in picked) / 3
    assert attention_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="still has its end token"):
        attention_loss(logits, torch.full((2, 3), -100))


# ------------------------------------------------------------------ attention decoder


def attention_head(config: Any, input_size: int = 6) -> AttentionHead:
    head = AttentionHead(config, input_size)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return head


def numpy_decoder(
    head: AttentionHead, memory: np.ndarray, ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """TRBA's decoder for one word (T, C): additive attention, then an LSTM step on context and character."""
    tensors = {name: value.detach().double().numpy() for name, value in head.named_parameters()}
    hidden = cell = np.zeros(head.cell.hidden_size)
    scores, weights = [], []
    for character in ids:
        state = tensors["state_projection.weight"] @ hidden + tensors["state_projection.bias"]
        energy = np.tanh(memory @ tensors["memory_projection.weight"].T + state)
        attention = np.exp(energy @ tensors["attention_score.weight"][0])
        attention /= attention.sum()
        one_hot = np.eye(head.vocab_size)[character]
        inputs = np.concatenate([attention @ memory, one_hot])
        gates = tensors["cell.weight_ih"] @ inputs + tensors["cell.bias_ih"]
        gates += tensors["cell.weight_hh"] @ hidden + tensors["cell.bias_hh"]
        enter, forget, candidate, leave = np.split(gates, 4)
        cell = cell / (1 + np.exp(-forget)) + np.tanh(candidate) / (1 + np.exp(-enter))
        hidden = np.tanh(cell) / (1 + np.exp(-leave))
        scores.append(tensors["classifier.weight"] @ hidden + tensors["classifier.bias"])
        weights.append(attention)
    return np.array(scores), np.array(weights)


@pytest.mark.parametrize(("layers", "gated"), [(0, False), (0, True), (1, False), (1, True)])
def test_attention_decoder_equals_the_equations(
    tiny_config: Callable[..., Any], layers: int, gated: bool
) -> None:
    config = tiny_config(decoder="attention", head_bilstm_layers=layers, head_feature_gate=gated)
    head = attention_head(config)
    feature_map, ids = torch.randn(2, 6, 2, 7), torch.tensor([[1, 5, 9, 4], [1, 8, 8, 0]])
    output = head(ids, head.start(feature_map))
    memory = feature_map.mean(2).transpose(1, 2)
    if layers:
        recurrent = head.recurrent[0](memory)
        memory = torch.cat([memory, recurrent], dim=-1) if gated else recurrent
    if head.gate is not None:  # SCATTER: encoder and LSTM features side by side, times a linear map of both
        memory = memory * (memory @ head.gate.weight.T + head.gate.bias)
    for word in range(2):
        scores, weights = numpy_decoder(head, memory[word].detach().double().numpy(), ids[word].tolist())
        np.testing.assert_allclose(output.logits[word].detach(), scores, atol=1e-4)
        np.testing.assert_allclose(output.attention[word].detach(), weights, atol=1e-5)


def test_papers_head_has_the_papers_shapes() -> None:
    """Specification 6.1: features of 512, LSTMs to 256 and 512, memory of 1024, cell of 256, 99 classes."""
    config = RCMSTRConfig(decoder_type="attention", vocab_size=99)
    with torch.device("meta"):
        head, ctc = AttentionHead(config, 512), CTCHead(RCMSTRConfig(vocab_size=98), 512)
    shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes["recurrent.0.projection.weight"] == (256, 512)
    assert shapes["recurrent.1.projection.weight"] == (512, 512)
    assert shapes["gate.weight"] == (1024, 1024)
    assert shapes["cell.weight_ih"] == (4 * 256, 1024 + 99)
    assert shapes["classifier.weight"] == (99, 256)
    assert "memory_projection.bias" not in shapes
    assert sum(parameter.numel() for parameter in ctc.parameters()) == 2_892_288 + 98 * 257


@pytest.mark.parametrize("source", ["columns", "tokens"])
def test_stepping_equals_reading_at_once(tiny_config: Callable[..., Any], source: str) -> None:
    config = tiny_config(
        decoder="attention", decoder_input=source, head_bilstm_layers=0, head_feature_gate=False
    )
    head = attention_head(config)
    feature_map, ids = torch.randn(2, 6, 3, 5), torch.randint(1, 30, (2, 6))
    whole = head(ids, head.start(feature_map))
    state = head.start(feature_map)
    steps = [head(ids[:, step : step + 1], state) for step in range(6)]
    assert state.get_seq_length() == 6
    torch.testing.assert_close(torch.cat([step.logits for step in steps], 1), whole.logits)
    assert whole.attention.shape == (2, 6, 15 if source == "tokens" else 5)


@pytest.mark.parametrize(("source", "layers"), [("columns", 0), ("columns", 2), ("tokens", 0)])
def test_attention_never_looks_at_padding(tiny_config: Callable[..., Any], source: str, layers: int) -> None:
    config = tiny_config(decoder="attention", decoder_input=source, head_bilstm_layers=layers)
    head = attention_head(config)
    feature_map, ids = torch.randn(2, 6, 2, 7), torch.randint(1, 30, (2, 4))
    frame_mask = torch.arange(7) < torch.tensor([[3], [7]])
    output = head(ids, head.start(feature_map, frame_mask))
    alone = head(ids[:1], head.start(feature_map[:1, ..., :3]))
    torch.testing.assert_close(output.logits[0], alone.logits[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(output.attention.sum(-1), torch.ones(2, 4))
    by_column = output.attention[0].reshape(4, -1, 7)
    assert torch.count_nonzero(by_column[..., 3:]) == 0


def test_state_follows_the_beams() -> None:
    rows = torch.arange(3.0)[:, None]
    state = LSTMDecoderState(rows, rows + 10, rows[:, None] + 20, rows[:, None] + 30, rows + 40)
    state.reorder_cache(torch.tensor([2, 0, 0]))
    for name, offset in {"hidden": 0, "cell": 10, "memory": 20, "keys": 30, "bias": 40}.items():
        assert state.tensors[name].flatten().tolist() == [offset + 2, offset, offset]
