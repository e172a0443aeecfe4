"""Layers over an active set: the dense layers when all is active, blind to the rest otherwise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeling_rcmstr.sparse_convolution import (
    SparseBatchNorm2d,
    SparseConv2d,
    downsample_active,
    subsample_active,
)

GEOMETRIES = [
    ((2, 2), (2, 2), (0, 0)),  # first two poolings
    ((2, 2), (2, 1), (0, 1)),  # third pooling, first closing convolution
    ((2, 2), (1, 1), (0, 0)),  # second closing convolution
    ((3, 3), (2, 2), (1, 1)),
]


def random_active(shape: tuple[int, ...], share: float = 0.5) -> Tensor:
    return (torch.rand(shape[0], 1, *shape[2:]) < share).float()


def batch_norm(channels: int = 5) -> Any:
    layer = SparseBatchNorm2d(channels)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.normal_(layer.bias)
    return layer


def dense_twin(layer: SparseBatchNorm2d) -> nn.BatchNorm2d:
    twin = nn.BatchNorm2d(layer.num_features)
    twin.load_state_dict(layer.state_dict())
    return twin.train(layer.training)


def dense_twin_of(layer: Any, mean: str, variance: str) -> nn.BatchNorm2d:
    twin = nn.BatchNorm2d(layer.num_features).eval()
    twin.weight.data, twin.bias.data = layer.weight.data, layer.bias.data
    twin.running_mean, twin.running_var = layer.get_buffer(mean), layer.get_buffer(variance)
    return twin


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_window_is_active_when_any_of_its_positions_is(geometry: tuple[tuple[int, int], ...]) -> None:
    kernel, stride, padding = geometry
    active = random_active((3, 1, 8, 12), 0.2)
    result, widths = downsample_active(active, None, kernel, stride, padding)
    assert widths is None
    padded = np.pad(active.numpy()[:, 0], [(0, 0), (padding[0],) * 2, (padding[1],) * 2])
    rows = (padded.shape[1] - kernel[0]) // stride[0] + 1
    columns = (padded.shape[2] - kernel[1]) // stride[1] + 1
    expected = np.zeros((3, 1, rows, columns))
    for image, row, column in np.ndindex(3, rows, columns):
        top, left = row * stride[0], column * stride[1]
        expected[image, 0, row, column] = padded[image, top : top + kernel[0], left : left + kernel[1]].max()
    assert np.array_equal(result.numpy(), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_padded_word_keeps_the_columns_that_it_has_alone(geometry: tuple[tuple[int, int], ...]) -> None:
    kernel, stride, padding = geometry
    own = torch.tensor([4, 8, 12, 16])
    active = (torch.arange(16) < own[:, None])[:, None, None].expand(-1, -1, 8, -1).float()
    result, widths = downsample_active(active, own, kernel, stride, padding)
    layer = nn.Conv2d(1, 1, kernel, stride, padding)
    alone = [layer(torch.zeros(1, 1, 8, width)).shape[-1] for width in own.tolist()]
    assert widths is not None
    assert widths.tolist() == alone
    assert result.sum(-1).unique(dim=2).squeeze().tolist() == alone


def test_subsampled_active_set_is_the_mask_of_the_units_at_that_resolution() -> None:
    units = random_active((3, 1, 8, 12))
    maps = {size: units.repeat_interleave(size, 2).repeat_interleave(size, 3) for size in (1, 2, 4)}
    assert torch.equal(subsample_active(maps[4], 2), maps[2])
    assert torch.equal(subsample_active(maps[4], 4), units)
    assert torch.equal(subsample_active(maps[4], 1), maps[4])


def test_convolution_without_an_active_set_is_the_ordinary_one() -> None:
    layer = SparseConv2d(3, 4, 3, padding=1)
    twin = nn.Conv2d(3, 4, 3, padding=1)
    twin.load_state_dict(layer.state_dict())
    images = torch.randn(2, 3, 6, 7)
    assert torch.equal(layer(images), twin(images))
    assert torch.equal(layer(images, torch.ones(2, 1, 6, 7)), twin(images))


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strided_1x1_convolution_and_its_gradients_are_those_of_a_matrix(
    channels: int, memory_format: torch.memory_format
) -> None:
    """Eight channels in channels-last order end the process in oneDNN's own strided kernel."""
    convolution = SparseConv2d(channels, 8, 1, stride=2)
    features = torch.randn(4, channels, 32, 128).to(memory_format=memory_format).requires_grad_()
    weight, bias = convolution.weight[:, :, 0, 0], convolution.bias
    assert bias is not None
    expected = torch.einsum("oc,bchw->bohw", weight, features[..., ::2, ::2]) + bias[:, None, None]
    found = convolution(features)
    torch.testing.assert_close(found, expected)
    change = torch.randn_like(expected)
    inputs = (features, convolution.weight, bias)
    for one, other in zip(
        torch.autograd.grad(found, inputs, change),
        torch.autograd.grad(expected, inputs, change),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_convolution_is_zero_outside_the_active_set_and_dense_inside() -> None:
    layer = SparseConv2d(3, 4, 3, padding=1)
    images, active = torch.randn(2, 3, 6, 7), random_active((2, 3, 6, 7))
    inside = active.bool().expand(-1, 4, -1, -1)
    result = layer(images, active)
    assert torch.equal(result[inside], layer(images)[inside])
    assert torch.count_nonzero(result[~inside]) == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("update", [True, False])
def test_batch_norm_with_everything_active_is_the_dense_one(training: bool, update: bool) -> None:
    layer = batch_norm().train(training)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    twin = dense_twin(layer)
    maps = torch.randn(3, 5, 4, 6) * 2 + 1
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    result, expected = layer(ours, torch.ones(3, 1, 4, 6), update), twin(theirs)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(maps)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in [(ours, theirs), (layer.weight, twin.weight), (layer.bias, twin.bias)]:
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    if update:
        for name, buffer in twin.named_buffers():
            torch.testing.assert_close(layer.get_buffer(name), buffer, rtol=1e-5, atol=1e-5)


def test_batch_norm_takes_mean_and_variance_over_active_positions() -> None:
    layer = batch_norm().train()
    maps = torch.randn(3, 5, 4, 6) * 3 + 2
    active = random_active((3, 1, 4, 6), 0.4)
    result = layer(maps * active, active)
    inside = active[:, 0].bool().numpy()
    values = maps.numpy().transpose(0, 2, 3, 1)[inside]  # (positions, C)
    mean, variance = values.mean(0), values.var(0)
    expected = (values - mean) / np.sqrt(variance + layer.eps) * layer.weight.detach().numpy()
    expected += layer.bias.detach().numpy()
    found = result.detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found[inside], expected, rtol=1e-4, atol=1e-4)
    assert np.count_nonzero(found[~inside]) == 0
    # Momentum 0.1 from (0, 1), unbiased variance: what the dense layer does.
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-4)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("share", [0.5, None])
def test_batch_norm_leaves_its_buffers_alone_when_told(share: float | None) -> None:
    layer = batch_norm().train()
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    maps = torch.randn(3, 5, 4, 6)
    active = None if share is None else random_active((3, 1, 4, 6), share)
    result = layer(maps if active is None else maps * active, active, update_statistics=False)
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())
    if active is None:  # and still normalises with the batch
        torch.testing.assert_close(result, dense_twin(layer)(maps), rtol=1e-5, atol=1e-5)


def test_batch_norm_gradient_sees_the_statistics_of_active_positions() -> None:
    layer = batch_norm(2).double().train()
    active = torch.tensor([[1.0, 1, 0], [0, 1, 1]], dtype=torch.float64).reshape(1, 1, 2, 3)
    maps = torch.randn(1, 2, 2, 3, dtype=torch.float64)

    def normalize(values: Tensor) -> Tensor:
        return layer(values * active, active, update_statistics=False)

    assert torch.autograd.gradcheck(normalize, maps.requires_grad_())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("positions", [0, 1, 2])
def test_batch_norm_of_almost_nothing_is_finite(training: bool, positions: int) -> None:
    layer = batch_norm().train(training)
    active = torch.zeros(2, 1, 3, 3)
    active.flatten()[:positions] = 1
    maps = (torch.randn(2, 5, 3, 3) * active).requires_grad_()
    result = layer(maps, active)
    result.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert torch.count_nonzero(result * (1 - active)) == 0
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_stays_half_and_close(dtype: torch.dtype, training: bool) -> None:
    layer = batch_norm().train(training)
    maps, active = torch.randn(3, 5, 4, 6), random_active((3, 1, 4, 6))
    expected = layer(maps * active, active, update_statistics=False)
    half = layer.to(dtype)
    result = half((maps * active).to(dtype), active.to(dtype), update_statistics=False)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=0.03, atol=0.03)


def test_autocast_gives_what_the_dense_layers_give() -> None:
    convolution, normalization = SparseConv2d(3, 5, 3, padding=1), batch_norm()
    images, active = torch.randn(2, 3, 6, 8), torch.ones(2, 1, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        dense = normalization(convolution(images), update_statistics=False)
        sparse = normalization(convolution(images, active), active, update_statistics=False)
    assert sparse.dtype == dense.dtype == torch.bfloat16
    torch.testing.assert_close(sparse.float(), dense.float(), rtol=0.02, atol=0.02)


def test_computation_for_accelerators_agrees_with_the_one_for_processors() -> None:
    layer, other = batch_norm().train(), batch_norm().train()
    other.load_state_dict(layer.state_dict())
    active = random_active((3, 1, 4, 6))
    maps = torch.randn(3, 5, 4, 6) * active * 2
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    result = layer(ours, active)
    mean, variance = other._active_statistics(theirs, active, True)
    expected = other._affine(theirs, active, mean, variance)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name), rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(maps) * active
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_masked_passes_may_keep_statistics_of_their_own() -> None:
    layer, active = batch_norm().train(), random_active((3, 1, 4, 6))
    layer.keep_masked_statistics()
    maps = torch.randn(3, 5, 4, 6) + 3
    dense, masked = ("running_mean", "running_var"), ("masked_running_mean", "masked_running_var")
    for moving, still, mask in ((masked, dense, active), (dense, masked, None)):
        before = {name: layer.get_buffer(name).clone() for name in (*dense, *masked)}
        layer(maps if mask is None else maps * mask, mask)
        assert not any(torch.equal(before[name], layer.get_buffer(name)) for name in moving)
        assert all(torch.equal(before[name], layer.get_buffer(name)) for name in still)
    layer.eval()
    expected = dense_twin_of(layer, *masked)(maps) * active
    torch.testing.assert_close(layer(maps * active, active), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(maps), dense_twin_of(layer, *dense)(maps))
