"""The ResNet: the papers' layers, one set of weights for dense and sparse passes, words of any width."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.encoder_cnn import CNNEncoder
from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d, SparseConv2d
from tests.recognisers import liven, ragged_words

# Specification 2.3: output (channels, height, width) of every convolution at 32x100, in order.
PAPERS_CONVOLUTIONS = [
    (32, 32, 100),
    (64, 32, 100),
    *[(128, 16, 50)] * 4,  # 1 block (two 3x3, one shortcut), conv1
    *[(256, 8, 25)] * 6,  # 2 blocks, conv2
    *[(512, 4, 26)] * 12,  # 5 blocks, conv3
    *[(512, 4, 26)] * 6,  # 3 blocks
    (512, 2, 27),
    (512, 1, 26),
]


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


@pytest.fixture
def encoder(tiny_config: Callable[..., Any]) -> CNNEncoder:
    """A small encoder whose batch norms have seen something."""
    encoder = CNNEncoder(tiny_config()).eval()
    liven(encoder)
    return encoder


@pytest.fixture(scope="module")
def full_size() -> CNNEncoder:
    """The papers' encoder, as shapes without memory."""
    with torch.device("meta"):
        return CNNEncoder(RCMSTRConfig())


def test_parameter_count_is_the_papers(full_size: CNNEncoder) -> None:
    assert sum(parameter.numel() for parameter in full_size.parameters()) == 44_264_480
    assert full_size.out_channels == 512
    assert full_size.stride == (32, 4)


def test_layer_table_is_the_papers(full_size: CNNEncoder) -> None:
    shapes: list[tuple[int, ...]] = []
    convolutions = [module for module in full_size.modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
        for module in convolutions
    ]
    full_size(torch.zeros(1, 3, 32, 100, device="meta"))
    for hook in hooks:
        hook.remove()
    assert sorted(shapes) == sorted(PAPERS_CONVOLUTIONS)
    assert all(module.bias is None for module in convolutions)
    norms = [module for module in full_size.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions)
    kernels = [(module.kernel_size[0], module.stride, module.padding) for module in convolutions]
    assert kernels.count((1, (1, 1), (0, 0))) == 3  # shortcuts where the channels change
    assert kernels[-2:] == [(2, (2, 1), (0, 1)), (2, (1, 1), (0, 0))]


@pytest.mark.parametrize(
    ("width", "tap", "frames"), [(384, (256, 8, 96), 97), (128, (256, 8, 32), 33), (100, (256, 8, 25), 26)]
)
def test_stroke_tap_and_frames_are_the_specifications(
    full_size: CNNEncoder, width: int, tap: tuple[int, ...], frames: int
) -> None:
    output = full_size(torch.zeros(1, 3, 32, width, device="meta"))
    assert [tuple(states.shape[1:3]) for states in output.hidden_states] == [
        (64, 32),
        (128, 16),
        (256, 8),
        (512, 4),
        (512, 1),
    ]
    assert tuple(output.hidden_states[2].shape[1:]) == tap
    assert tuple(output.last_hidden_state.shape) == (1, 512, 1, frames)


def plain_resnet(encoder: Any, images: Tensor) -> Tensor:
    """The table of layers written out with functions, for a network in evaluation mode."""

    def layer(maps: Tensor, module: Any, stride: Any = 1, padding: Any = 1, relu: bool = True) -> Tensor:
        norm = module.normalization
        maps = nn.functional.conv2d(maps, module.convolution.weight, stride=stride, padding=padding)
        maps = nn.functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return maps.relu() if relu else maps

    def stage(maps: Tensor, index: int) -> Tensor:
        for block in encoder.stages[index].blocks:
            residual = layer(layer(maps, block.first), block.second, relu=False)
            if block.shortcut is not None:
                maps = layer(maps, block.shortcut, padding=0, relu=False)
            maps = (residual + maps).relu()
        return maps

    maps = layer(layer(images, encoder.stem[0]), encoder.stem[1])
    for index, (stride, padding) in enumerate([((2, 2), (0, 0)), ((2, 2), (0, 0)), ((2, 1), (0, 1))]):
        maps = nn.functional.max_pool2d(maps, 2, stride, padding)
        maps = layer(stage(maps, index), encoder.stages[index].closing[0])
    first, second = encoder.stages[3].closing
    return layer(layer(stage(maps, 3), first, (2, 1), (0, 1)), second, 1, 0)


def test_encoder_equals_the_table_written_out(tiny_config: Callable[..., Any]) -> None:
    encoder = CNNEncoder(tiny_config(depths=(1, 2, 2, 1))).eval()
    liven(encoder)
    images = torch.randn(2, 3, 32, 100)
    expected = plain_resnet(encoder, images)
    torch.testing.assert_close(encoder(images).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def test_output_is_not_negative_and_uses_every_block(encoder: CNNEncoder) -> None:
    images = torch.randn(2, 3, 32, 64, requires_grad=True)
    output = encoder.train()(images)
    assert output.last_hidden_state.min() == 0
    output.last_hidden_state.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("width", [4, 8, 36, 100, 4000])
def test_any_multiple_of_four_is_a_width(encoder: CNNEncoder, width: int) -> None:
    with torch.no_grad():
        output = encoder(torch.randn(1, 3, 32, width))
    assert output.last_hidden_state.shape == (1, 32, 1, width // 4 + 1)
    assert output.last_hidden_state.isfinite().all()
    assert output.frame_mask is None


def test_frame_lies_over_its_pixels(encoder: CNNEncoder) -> None:
    """Frame t answers about pixels 4t-2 to 4t+1: around their middle lies what it looks at."""
    images = torch.randn(4, 3, 32, 64, requires_grad=True)
    frames = encoder(images).last_hidden_state
    for frame in range(5, 12):
        (gradient,) = torch.autograd.grad(frames[..., frame].sum(), images, retain_graph=True)
        columns = gradient.abs().sum((0, 1, 2))
        place = float((columns * torch.arange(64)).sum() / columns.sum())
        assert abs(place - (4 * frame - 0.5)) < 2


# ------------------------------------------------------------------ dense and sparse


@pytest.mark.parametrize("training", [False, True])
def test_everything_visible_is_the_dense_pass(encoder: CNNEncoder, training: bool) -> None:
    encoder.train(training)
    images = torch.randn(4, 3, 32, 64)
    results, gradients = [], []
    for visible in (None, torch.ones(4, 1, 8, 16, dtype=torch.bool)):
        encoder.zero_grad()
        output = encoder(images, visible, update_statistics=False).last_hidden_state
        output.square().mean().backward()
        results.append(output.detach())
        gradients.append(gradients_of(encoder))
    tolerance = 1e-3 if training else 1e-5
    scale = float(results[0].abs().max())
    assert (results[0] - results[1]).abs().max() <= tolerance * max(scale, 1.0)
    for dense, sparse in zip(*gradients, strict=True):
        assert (dense - sparse).norm() <= 1e-3 * dense.norm() + 1e-6


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("inf"), float("nan")])
def test_hidden_pixels_never_reach_a_feature(encoder: CNNEncoder, training: bool, filling: float) -> None:
    encoder.train(training)
    images = torch.randn(3, 3, 32, 64)
    visible = torch.rand(3, 1, 8, 16) < 0.3
    hidden = ~visible.repeat_interleave(4, 2).repeat_interleave(4, 3)
    first = encoder(images, visible, update_statistics=False)
    second = encoder(images.masked_fill(hidden, filling), visible, update_statistics=False)
    for one, other in zip(first.hidden_states, second.hidden_states, strict=True):
        assert torch.equal(one, other)


def window_any(active: Tensor, kernel: int, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The rule for active sets as a sum over windows, not as a pooling."""
    ones = torch.ones(1, 1, kernel, kernel)
    return (nn.functional.conv2d(active, ones, stride=stride, padding=padding) > 0).float()


@pytest.mark.parametrize("training", [False, True])
def test_inactive_positions_are_zero_after_every_layer(encoder: CNNEncoder, training: bool) -> None:
    encoder.train(training)
    visible = torch.rand(4, 1, 8, 25) < 0.1
    visible[..., 10:14] = False
    pixels = visible.float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    half, quarter = window_any(pixels, 2, (2, 2), (0, 0)), visible.float()
    low = window_any(quarter, 2, (2, 1), (0, 1))
    lower = window_any(low, 2, (2, 1), (0, 1))
    row = window_any(lower, 2, (1, 1), (0, 0))
    maps = {tuple(active.shape[2:]): active for active in (pixels, half, quarter, low, lower, row)}
    seen = []

    def check(module: nn.Module, inputs: Any, output: Tensor) -> None:
        active = maps[tuple(output.shape[2:])]
        assert torch.count_nonzero(output * (1 - active)) == 0
        seen.append(type(module).__name__)

    kinds = (SparseConv2d, SparseBatchNorm2d)
    for name, module in encoder.named_modules():
        if isinstance(module, kinds) or "blocks." in name or "closing." in name:
            module.register_forward_hook(check)
    output = encoder(torch.randn(4, 3, 32, 100), visible, update_statistics=False)
    assert {"SparseConv2d", "SparseBatchNorm2d", "ConvLayer", "ResidualBlock"} <= set(seen)
    for states in output.hidden_states:
        assert torch.count_nonzero(states * (1 - maps[tuple(states.shape[2:])])) == 0
    # And what is active is not switched off: somewhere in its channels it holds something.
    assert torch.equal(output.hidden_states[0].abs().sum(1, keepdim=True) > 0, pixels > 0)


@pytest.mark.parametrize(
    ("start", "dead"), [*((start, [start + 2]) for start in range(1, 21)), (0, [0, 1, 2]), (21, [23, 24, 25])]
)
def test_block_of_four_columns_kills_exactly_one_frame(
    encoder: CNNEncoder, start: int, dead: list[int]
) -> None:
    """A block at column b of 25 leaves frame b + 2 of 26 without anything to see.

    At a border two more frames have only the block and the layers' own zeros before them.
    """
    visible = torch.ones(1, 1, 8, 25, dtype=torch.bool)
    visible[..., start : start + 4] = False
    frames = encoder(torch.randn(1, 3, 32, 100), visible).last_hidden_state.abs().sum((0, 1, 2))
    assert (frames == 0).nonzero().flatten().tolist() == dead


def test_both_passes_share_parameters_and_add_up_their_gradients(encoder: CNNEncoder) -> None:
    images, visible = torch.randn(2, 3, 32, 32), torch.rand(2, 1, 8, 8) < 0.5
    encoder(images, visible).last_hidden_state.sum().backward()
    sparse = gradients_of(encoder)
    encoder.zero_grad()
    encoder(images).last_hidden_state.sum().backward()
    dense = gradients_of(encoder)
    encoder.zero_grad()
    total = encoder(images).last_hidden_state.sum() + encoder(images, visible).last_hidden_state.sum()
    total.backward()
    for parameter, one, other in zip(encoder.parameters(), sparse, dense, strict=True):
        torch.testing.assert_close(parameter.grad, one + other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_statistics_move_only_when_asked(encoder: CNNEncoder, masked: bool) -> None:
    encoder.train()
    images, visible = torch.randn(2, 3, 32, 32), (torch.rand(2, 1, 8, 8) < 0.5 if masked else None)
    before = [buffer.clone() for buffer in encoder.buffers()]
    encoder(images, visible, update_statistics=False)
    assert all(torch.equal(*pair) for pair in zip(before, encoder.buffers(), strict=True))
    encoder(images, visible)
    assert not any(torch.equal(*pair) for pair in zip(before, encoder.buffers(), strict=True))


# ------------------------------------------------------------------ words of unequal width


@pytest.mark.parametrize("hide", [False, True])
def test_word_in_a_batch_is_the_word_alone(encoder: CNNEncoder, hide: bool) -> None:
    widths = [4, 64, 20, 100]
    words, pixel_values, pixel_mask = ragged_words(widths)
    visible = (torch.rand(4, 1, 8, 25) < 0.5) if hide else None
    output = encoder(pixel_values, visible, pixel_mask)
    assert output.frame_mask.sum(1).tolist() == [width // 4 + 1 for width in widths]
    for row, (word, width) in enumerate(zip(words, widths, strict=True)):
        own = visible[row : row + 1, ..., : width // 4] if visible is not None else None
        alone = encoder(word[None], own)
        for together, single in zip(output.hidden_states, alone.hidden_states, strict=True):
            columns = single.shape[-1]
            torch.testing.assert_close(together[row, ..., :columns], single[0], rtol=0, atol=2e-5)
            assert torch.count_nonzero(together[row, ..., columns:]) == 0


def test_training_statistics_ignore_the_padding(encoder: CNNEncoder) -> None:
    encoder.train()
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    other = pixel_values.masked_fill(pixel_mask[:, None] == 0, 99.0)
    first = encoder(pixel_values, None, pixel_mask, update_statistics=False)
    wider = nn.functional.pad(other, (0, 32))
    second = encoder(wider, None, nn.functional.pad(pixel_mask, (0, 32)), update_statistics=False)
    torch.testing.assert_close(
        first.last_hidden_state, second.last_hidden_state[..., :17], rtol=1e-4, atol=1e-4
    )


def mask_of(*widths: int, total: int = 32, height: int = 32) -> Tensor:
    columns = torch.arange(total) < torch.tensor(widths)[:, None]
    return columns[:, None].expand(-1, height, -1).long()


@pytest.mark.parametrize(
    ("shape", "masks", "message"),
    [
        ((1, 3, 31, 32), {}, "32 pixels high, got 31"),
        ((1, 3, 32, 30), {}, "positive multiple of 4, got 30"),
        ((1, 3, 32, 0), {}, "positive multiple of 4, got 0"),
        ((2, 3, 32, 32), {"pixel_mask": mask_of(32)}, r"must be \(2, 32, 32\)"),
        ((1, 3, 32, 32), {"pixel_mask": mask_of(32, height=8)}, r"must be \(1, 32, 32\)"),
        ((2, 3, 32, 32), {"pixel_mask": mask_of(32, 6)}, r"words \[1\] are not \(columns: \[32, 6\]\)"),
        ((2, 3, 32, 32), {"pixel_mask": mask_of(0, 8)}, r"words \[0\]"),
        ((1, 3, 32, 32), {"pixel_mask": mask_of(8).flip(-1)}, "from the left"),
        ((1, 3, 32, 32), {"visible": torch.ones(1, 1, 8, 7)}, r"`visible` must be \(1, 1, 8, 8\)"),
        ((2, 3, 32, 32), {"visible": torch.ones(1, 1, 8, 8)}, r"`visible` must be \(2, 1, 8, 8\)"),
    ],
)
def test_unusable_input_is_refused_with_the_rule(
    encoder: CNNEncoder, shape: tuple[int, ...], masks: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape), **masks)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_masks_of_any_number_type_are_read_alike(encoder: CNNEncoder, kind: torch.dtype) -> None:
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    expected = encoder(pixel_values, None, pixel_mask)
    result = encoder(pixel_values, None, (pixel_mask * (255 if kind == torch.uint8 else 1)).to(kind))
    assert torch.equal(result.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(result.frame_mask, expected.frame_mask)
