"""ResNet45: ABINet's layers, and a mask that arrives at the last map as it was laid on the word."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.encoder_resnet45 import ResNet45Encoder
from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d, SparseConv2d, downsample_active
from tests.recognisers import build, labels_for, liven, ragged_words

TINY: dict[str, Any] = {
    "cnn_type": "resnet45",
    "embedding_sizes": (8,),
    "hidden_sizes": (8, 12, 16, 24, 32),
    "depths": (1, 2, 1, 1, 1),
}
STRIDES = (1, 2, 2, 4, 4, 4)  # of the stem's map and those of the five stages

# ABINet's table at 32x128 (specification 2.3): blocks, channels, rows and columns of each stage.
ABINETS_STAGES = [(3, 32, 16, 64), (4, 64, 16, 64), (6, 128, 8, 32), (6, 256, 8, 32), (3, 512, 8, 32)]


@pytest.fixture
def encoder(tiny_config: Callable[..., Any]) -> ResNet45Encoder:
    """A small encoder whose batch norms have seen something."""
    encoder = ResNet45Encoder(tiny_config(**TINY)).eval()
    liven(encoder)
    return encoder


@pytest.fixture(scope="module")
def full_size() -> ResNet45Encoder:
    """ABINet's encoder, as shapes without memory."""
    with torch.device("meta"):
        return ResNet45Encoder(RCMSTRConfig(cnn_type="resnet45", image_size=(32, 128)))


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def pixels_of(units: Tensor, size: int = 4) -> Tensor:
    """Repeat a (B, 1, h, w) mask of units `size` times in both directions."""
    return units.repeat_interleave(size, 2).repeat_interleave(size, 3)


# ------------------------------------------------------------------ the layers


def test_parameter_count_is_abinets(full_size: ResNet45Encoder) -> None:
    assert sum(parameter.numel() for parameter in full_size.parameters()) == 12_994_784
    assert full_size.out_channels == 512
    assert full_size.stride == (4, 4)


def test_layer_table_is_abinets(full_size: ResNet45Encoder) -> None:
    shapes: list[tuple[int, ...]] = []
    convolutions = [module for module in full_size.modules() if isinstance(module, nn.Conv2d)]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
        for module in convolutions
    ]
    output = full_size(torch.zeros(1, 3, 32, 128, device="meta"))
    for hook in hooks:
        hook.remove()
    expected = [(32, 32, 128)]
    for before, (depth, channels, rows, columns) in zip(
        [(0, 32, 32, 128), *ABINETS_STAGES], ABINETS_STAGES, strict=False
    ):
        expected.append((channels, before[2], before[3]))  # the first 1x1 convolution, before the stride
        expected += [(channels, rows, columns)] * (2 * depth - 1)
        expected += [(channels, rows, columns)]  # a shortcut: the stride or the channels change in each stage
    assert sorted(shapes) == sorted(expected)
    assert len(convolutions) == 45 + 5
    assert all(module.bias is None for module in convolutions)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in full_size.modules()) == len(convolutions)
    maps = [(32, 32, 128), *(stage[1:] for stage in ABINETS_STAGES)]
    assert [tuple(states.shape[1:]) for states in output.hidden_states] == maps
    assert tuple(output.last_hidden_state.shape) == (1, 512, 8, 32)


def plain_resnet45(encoder: Any, images: Tensor) -> Tensor:
    """The layers written out with functions, for a network in evaluation mode."""

    def layer(maps: Tensor, module: Any, stride: int = 1, padding: int = 0) -> Tensor:
        norm = module.normalization
        maps = nn.functional.conv2d(maps, module.convolution.weight, stride=stride, padding=padding)
        return nn.functional.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    maps = layer(images, encoder.stem[0], padding=1).relu()
    for stage, stage_stride in zip(encoder.stages, (2, 1, 2, 1, 1), strict=True):
        for index, block in enumerate(stage.blocks):
            stride = stage_stride if index == 0 else 1
            residual = layer(layer(maps, block.first).relu(), block.second, stride, 1)
            if index == 0 and (stride == 2 or residual.shape[1] != maps.shape[1]):
                maps = layer(maps, block.shortcut, stride)
            maps = (residual + maps).relu()
    return maps


def test_encoder_equals_the_table_written_out(encoder: ResNet45Encoder) -> None:
    images = torch.randn(2, 3, 32, 100)
    expected = plain_resnet45(encoder, images)
    torch.testing.assert_close(encoder(images).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def test_every_layer_takes_part(encoder: ResNet45Encoder) -> None:
    output = encoder.train()(torch.randn(2, 3, 32, 64)).last_hidden_state
    assert output.min() == 0
    output.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize("width", [4, 8, 36, 100, 2000])
def test_any_multiple_of_four_is_a_width(encoder: ResNet45Encoder, width: int) -> None:
    with torch.no_grad():
        output = encoder(torch.randn(1, 3, 32, width))
    assert output.last_hidden_state.shape == (1, 32, 8, width // 4)
    assert output.last_hidden_state.isfinite().all()
    assert output.frame_mask is None


def test_height_is_the_configurations(tiny_config: Callable[..., Any]) -> None:
    encoder = ResNet45Encoder(tiny_config(**TINY, image_size=(48, 64))).eval()
    assert encoder(torch.randn(1, 3, 48, 64)).last_hidden_state.shape == (1, 32, 12, 16)
    with pytest.raises(ValueError, match="reads words 48 pixels high, got 32"):
        encoder(torch.randn(1, 3, 32, 64))


@pytest.mark.parametrize(
    ("shape", "masks", "message"),
    [
        ((1, 3, 32, 30), {}, "positive multiple of 4, got 30"),
        ((2, 3, 32, 32), {"pixel_mask": torch.ones(2, 8, 32)}, r"must be \(2, 32, 32\)"),
        ((1, 3, 32, 32), {"pixel_mask": (torch.arange(32) < 6).expand(1, 32, -1)}, r"words \[0\] are not"),
        ((1, 3, 32, 32), {"visible": torch.ones(1, 1, 8, 7)}, r"`visible` must be \(1, 1, 8, 8\)"),
    ],
)
def test_unusable_input_is_refused_with_the_rule(
    encoder: ResNet45Encoder, shape: tuple[int, ...], masks: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape), **masks)


# ------------------------------------------------------------------ dense and sparse


@pytest.mark.parametrize("training", [False, True])
def test_everything_visible_is_the_dense_pass(encoder: ResNet45Encoder, training: bool) -> None:
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


def test_both_passes_share_parameters_and_add_up_their_gradients(encoder: ResNet45Encoder) -> None:
    images, visible = torch.randn(2, 3, 32, 32), torch.rand(2, 1, 8, 8) < 0.5
    parameters = list(encoder.parameters())
    dense, sparse = (encoder(images, seen).last_hidden_state.sum() for seen in (None, visible))
    parts = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (dense, sparse)]
    for total, one, other in zip(torch.autograd.grad(dense + sparse, parameters), *parts, strict=True):
        torch.testing.assert_close(total, one + other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("inf"), float("nan")])
def test_hidden_pixels_never_reach_a_feature(
    encoder: ResNet45Encoder, training: bool, filling: float
) -> None:
    encoder.train(training)
    images = torch.randn(3, 3, 32, 64)
    visible = torch.rand(3, 1, 8, 16) < 0.3
    first = encoder(images, visible, update_statistics=False)
    edited = images.masked_fill(~pixels_of(visible), filling)
    second = encoder(edited, visible, update_statistics=False)
    for one, other in zip(first.hidden_states, second.hidden_states, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("training", [False, True])
def test_active_set_of_every_map_is_the_mask_of_the_units(encoder: ResNet45Encoder, training: bool) -> None:
    """SparK's rule, exact: a position is active when its own unit is visible, and zero otherwise."""
    encoder.train(training)
    visible = torch.rand(4, 1, 8, 25) < 0.3
    visible[..., 10:14] = False
    maps = {32 // stride: pixels_of(visible, 4 // stride).float() for stride in STRIDES}
    seen = []

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        feature_map = output[0] if isinstance(output, tuple) else output
        assert torch.count_nonzero(feature_map * (1 - maps[feature_map.shape[2]])) == 0
        seen.append(type(module).__name__)

    for name, module in encoder.named_modules():
        if isinstance(module, (SparseConv2d, SparseBatchNorm2d)) or "." in name:
            module.register_forward_hook(check)
    output = encoder(torch.randn(4, 3, 32, 100), visible, update_statistics=False)
    kinds = {"SparseConv2d", "SparseBatchNorm2d", "ConvLayer", "ResNet45Block", "ResNet45Stage"}
    assert kinds <= set(seen)
    for states, active, stride in zip(output.hidden_states, output.active, STRIDES, strict=True):
        assert torch.equal(active, maps[32 // stride])
        assert torch.count_nonzero(states * (1 - active)) == 0
    assert torch.equal(output.active[-1].bool(), visible)
    # And what is active is not switched off: somewhere in its channels it holds something.
    assert torch.equal(output.last_hidden_state.abs().sum(1, keepdim=True) > 0, visible)


def test_a_visible_unit_alone_is_seen_where_it_stands(encoder: ResNet45Encoder) -> None:
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    for row, column in ((0, 0), (3, 5), (7, 7)):
        visible = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        visible[..., row, column] = True
        states = encoder(images, visible).last_hidden_state
        assert (states.abs().sum((0, 1)) > 0).nonzero().tolist() == [[row, column]]
        (gradient,) = torch.autograd.grad(states.sum(), images)
        assert bool(gradient.any())
        assert not bool(gradient.masked_select(~pixels_of(visible)).any())


def test_rule_of_windows_would_blur_the_mask() -> None:
    """Why ResNet45 does not take it: the unit above, on the left and between them would count as well."""
    visible = torch.rand(50, 1, 8, 32) < 0.3
    active = pixels_of(visible).float()
    for _ in range(2):
        active, _ = downsample_active(active, None, (3, 3), (2, 2), (1, 1))
    padded = nn.functional.pad(visible, (1, 0, 1, 0))
    spread = padded[..., 1:, 1:] | padded[..., :-1, 1:] | padded[..., 1:, :-1] | padded[..., :-1, :-1]
    assert torch.equal(active.bool(), spread)
    assert float((~spread)[..., 1:, 1:].float().mean()) == pytest.approx(0.7**4, abs=0.02)


@pytest.mark.parametrize("masked", [False, True])
def test_statistics_move_only_when_asked(encoder: ResNet45Encoder, masked: bool) -> None:
    encoder.train()
    images, visible = torch.randn(2, 3, 32, 32), (torch.rand(2, 1, 8, 8) < 0.5 if masked else None)
    before = [buffer.clone() for buffer in encoder.buffers()]
    encoder(images, visible, update_statistics=False)
    assert all(torch.equal(*pair) for pair in zip(before, encoder.buffers(), strict=True))
    encoder(images, visible)
    assert not any(torch.equal(*pair) for pair in zip(before, encoder.buffers(), strict=True))


# ------------------------------------------------------------------ words of unequal width


@pytest.mark.parametrize("hide", [False, True])
def test_word_in_a_batch_is_the_word_alone(encoder: ResNet45Encoder, hide: bool) -> None:
    widths = [4, 64, 20, 100]
    words, pixel_values, pixel_mask = ragged_words(widths)
    visible = (torch.rand(4, 1, 8, 25) < 0.5) if hide else None
    output = encoder(pixel_values, visible, pixel_mask)
    assert output.frame_mask.sum(1).tolist() == [width // 4 for width in widths]
    for row, (word, width) in enumerate(zip(words, widths, strict=True)):
        own = visible[row : row + 1, ..., : width // 4] if visible is not None else None
        alone = encoder(word[None], own)
        for together, single in zip(output.hidden_states, alone.hidden_states, strict=True):
            columns = single.shape[-1]
            torch.testing.assert_close(together[row, ..., :columns], single[0], rtol=0, atol=2e-5)
            assert torch.count_nonzero(together[row, ..., columns:]) == 0


def test_training_statistics_ignore_the_padding(encoder: ResNet45Encoder) -> None:
    encoder.train()
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    other = nn.functional.pad(pixel_values.masked_fill(pixel_mask[:, None] == 0, 99.0), (0, 32))
    first = encoder(pixel_values, None, pixel_mask, update_statistics=False)
    second = encoder(other, None, nn.functional.pad(pixel_mask, (0, 32)), update_statistics=False)
    torch.testing.assert_close(
        first.last_hidden_state, second.last_hidden_state[..., :16], rtol=1e-4, atol=1e-4
    )


# ------------------------------------------------------------------ in a recogniser and in pretraining


def test_recognisers_read_a_frame_for_each_column_and_come_back_from_a_folder(
    tiny_config: Callable[..., Any], family: str, decoder: str, tmp_path: Path
) -> None:
    model = build(tiny_config(family, "cnn", decoder, **TINY))
    assert isinstance(model.model.encoder, ResNet45Encoder)
    assert model.get_input_embeddings() is model.model.encoder.stem[0].convolution
    _, pixel_values, pixel_mask = ragged_words([32, 64])
    labels = labels_for(model.config, [[5, 6], [7, 8, 9]])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.cnn_type == "resnet45"
    with torch.no_grad():
        outputs, others = (
            each(pixel_values, pixel_mask=pixel_mask, labels=labels) for each in (model, again)
        )
        states = model.model(pixel_values, pixel_mask=pixel_mask)
    assert states.frame_mask.sum(1).tolist() == [8, 16]
    if decoder == "ctc":
        assert outputs.logits.shape[1] == 16
    assert bool(outputs.loss.isfinite())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    # Not bit by bit: matrix products round by where in memory a file's weights come to lie.
    torch.testing.assert_close(outputs.logits, others.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.loss, others.loss, rtol=1e-5, atol=1e-5)


def test_attention_head_may_look_at_every_cell(tiny_config: Callable[..., Any]) -> None:
    model = build(
        tiny_config("rcmstr", "cnn", "attention", **TINY, decoder_input="tokens", head_bilstm_layers=0)
    )
    labels = labels_for(model.config, [[5, 6]])
    outputs = model(torch.randn(1, 3, 32, 64), labels=labels, output_attentions=True)
    assert outputs.cross_attentions[0].shape[-1] == 8 * 16


def test_four_words_are_learned_with_ctc(tiny_config: Callable[..., Any], word_drawer: Any) -> None:
    texts = ("book", "exit", "up", "wow")
    pictures = [np.asarray(word_drawer(text, (32, 64)), np.float32) / 127.5 - 1 for text in texts]
    pixel_values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    config = tiny_config("rcmstr", "cnn", **TINY, head_bilstm_layers=1)
    rows = [[ord(character) - 96 for character in text] for text in texts]
    labels = labels_for(config, rows)
    model = build(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(160):
        loss = model(pixel_values, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < 1 < losses[0]
    paths = model(pixel_values).logits.argmax(-1).tolist()
    read = [[one for before, one in pairwise([0, *path]) if one not in (0, before)] for path in paths]
    assert read == rows
