"""The recurrent layers of the papers: their sizes, their equations, and words of unequal length."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeling_rcmstr.bidirectional_lstm import BidirectionalLSTM, stack_bilstm


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def numpy_direction(layer: nn.LSTM, sequence: np.ndarray, suffix: str) -> np.ndarray:
    """One direction of an LSTM, step by step (gates: input, forget, cell, output)."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_in, w_hidden, b_in, b_hidden = (getattr(layer, name + suffix).detach().numpy() for name in names)
    hidden = cell = np.zeros(layer.hidden_size)
    steps = range(len(sequence)) if not suffix else reversed(range(len(sequence)))
    outputs = np.zeros((len(sequence), layer.hidden_size))
    for step in steps:
        gates = w_in @ sequence[step] + b_in + w_hidden @ hidden + b_hidden
        enter, forget, candidate, leave = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
        hidden = sigmoid(leave) * np.tanh(cell)
        outputs[step] = hidden
    return outputs


def ragged(lengths: list[int], channels: int) -> tuple[Tensor, Tensor]:
    frame_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), max(lengths), channels), frame_mask


def test_projector_has_the_papers_parameters() -> None:
    assert count(stack_bilstm(512, 256, 256, 2)) == 2_892_288


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
def test_stack_goes_from_input_to_output_size(num_layers: int) -> None:
    sequence = torch.randn(2, 5, 7)
    stack = stack_bilstm(7, 4, 6, num_layers)
    assert len(stack) == num_layers
    for layer in stack:
        assert isinstance(layer, BidirectionalLSTM)
        assert layer.lstm.hidden_size == 4
        sequence = layer(sequence)
    assert sequence.shape == (2, 5, 6 if num_layers else 7)


def test_layer_equals_the_equations() -> None:
    layer = BidirectionalLSTM(3, 4, 5)
    sequence = torch.randn(1, 6, 3)
    both = np.concatenate(
        [numpy_direction(layer.lstm, sequence[0].numpy(), s) for s in ("", "_reverse")], axis=1
    )
    weight, bias = layer.projection.weight.detach().numpy(), layer.projection.bias.detach().numpy()
    np.testing.assert_allclose(layer(sequence)[0].detach().numpy(), both @ weight.T + bias, atol=1e-5)


def test_word_in_a_batch_is_the_word_alone() -> None:
    layer = BidirectionalLSTM(3, 4, 5)
    lengths = [2, 7, 5, 1]
    sequence, frame_mask = ragged(lengths, 3)
    output = layer(sequence, frame_mask)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            output[row, :length], layer(sequence[row : row + 1, :length])[0], rtol=0, atol=1e-6
        )
        assert torch.count_nonzero(output[row, length:]) == 0


def test_mask_of_real_frames_only_changes_nothing() -> None:
    layer = BidirectionalLSTM(3, 4, 5)
    sequence, frame_mask = ragged([6, 6], 3)
    torch.testing.assert_close(layer(sequence, frame_mask), layer(sequence), rtol=0, atol=1e-6)


def test_padding_has_no_influence_and_no_gradient() -> None:
    layer = BidirectionalLSTM(3, 4, 5)
    sequence, frame_mask = ragged([2, 6], 3)
    other = sequence.clone()
    other[0, 2:] = float("nan")
    assert torch.equal(layer(sequence, frame_mask), layer(other, frame_mask))
    sequence.requires_grad_()
    layer(sequence, frame_mask).square().sum().backward()
    assert sequence.grad is not None
    assert torch.count_nonzero(sequence.grad[0, 2:]) == 0
    assert sequence.grad[1].abs().min() > 0
