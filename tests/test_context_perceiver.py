"""The context perceiver: what is masked, what reaches what, sizes, gradients, and its losses' positions."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_rcmstr.configuration_persec import PerSecConfig
from modeling_rcmstr.context_perceiver import (
    ContextPerceiver,
    PerceiverTerms,
    perceiver_terms,
    scale_gradient,
)
from tests.persec_words import gradient_of


def stroke_perceiver(channels: int = 24, **fields: Any) -> ContextPerceiver:
    """A perceiver of 8-row maps."""
    config = PerSecConfig(**fields)
    return ContextPerceiver(config, config.stroke_level, channels)


def semantic_perceiver(channels: int = 24, **fields: Any) -> ContextPerceiver:
    """A perceiver of sequences."""
    config = PerSecConfig(**fields)
    return ContextPerceiver(config, config.semantic_level, channels)


def inputs(
    perceiver: ContextPerceiver, batch: int, channels: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A random feature map, all of it valid, and a mask."""
    valid = torch.ones(batch, height, width, dtype=torch.bool)
    return torch.randn(batch, channels, height, width), valid, perceiver.sample_mask(valid)


def terms_of(perceiver: ContextPerceiver, feature_map: Tensor, valid: Tensor, mask: Tensor) -> PerceiverTerms:
    """Losses of one pass."""
    return perceiver_terms(perceiver.config, perceiver(feature_map, valid, mask), valid, mask)


@pytest.mark.parametrize(
    ("level", "channels", "expected"),
    [
        ("stroke", 256, 331_144),
        ("semantic", 256, 330_904),
        ("stroke", 384, 413_320),
        ("semantic", 384, 413_080),
    ],
)
def test_number_of_parameters(level: str, channels: int, expected: int) -> None:
    """The arithmetic of the specification: 331,144 on 256 channels with a 4x4 window, and so on."""
    make = stroke_perceiver if level == "stroke" else semantic_perceiver
    assert sum(parameter.numel() for parameter in make(channels).parameters()) == expected


def test_masked_positions_are_the_mask_vector_and_the_others_the_projection() -> None:
    perceiver = stroke_perceiver()
    feature_map, valid, mask = inputs(perceiver, 2, 24, 8, 12)
    projected = perceiver(feature_map, valid, mask).projected
    channels_last = feature_map.permute(0, 2, 3, 1)
    mean = channels_last.mean(-1, keepdim=True)
    deviation = (channels_last.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = perceiver.input_projection((channels_last - mean) / deviation)
    assert (projected[mask] == perceiver.mask_vector).all()
    torch.testing.assert_close(projected[~mask], expected[~mask], atol=1e-5, rtol=1e-5)
    exact = perceiver.input_projection(perceiver.layernorm(channels_last))
    assert torch.equal(projected[~mask], exact[~mask])


def test_targets_do_not_see_the_mask_and_context_does_not_see_masked_features() -> None:
    perceiver = stroke_perceiver().eval()
    feature_map, valid, mask = inputs(perceiver, 2, 24, 8, 12)
    output = perceiver(feature_map, valid, mask)
    unmasked = perceiver(feature_map, valid, torch.zeros_like(mask))
    assert torch.equal(output.targets, unmasked.targets)
    assert output.codes is not None
    assert unmasked.codes is not None
    assert torch.equal(output.codes, unmasked.codes)
    other = torch.where(mask[:, None], torch.randn_like(feature_map), feature_map)
    changed = perceiver(other, valid, mask)
    assert torch.equal(changed.context, output.context)
    assert not torch.equal(changed.targets, output.targets)


def test_targets_are_a_linear_map_of_the_chosen_entries() -> None:
    perceiver = stroke_perceiver().eval()
    feature_map, valid, mask = inputs(perceiver, 1, 24, 8, 4)
    output = perceiver(feature_map, valid, mask)
    assert output.codes is not None
    assert perceiver.quantizer is not None
    books = perceiver.quantizer.codebooks
    entries = torch.cat([books[0, output.codes[..., 0]], books[1, output.codes[..., 1]]], dim=-1)
    torch.testing.assert_close(output.targets, perceiver.target_projection(entries), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_feature_reaches_the_context_of_its_own_window_only(depth: int) -> None:
    stroke = stroke_perceiver(aggregator_layers=depth)
    feature_map, valid, mask = inputs(stroke, 1, 24, 8, 32)
    mask[0, 5, 18] = False
    other = feature_map.clone()
    other[0, :5, 5, 18] += 1
    moved = (stroke(feature_map, valid, mask).context != stroke(other, valid, mask).context).any(-1)[0]
    assert moved.nonzero().tolist() == [[row, column] for row in range(4, 8) for column in range(16, 20)]
    semantic = semantic_perceiver(aggregator_layers=depth)
    feature_map, valid, mask = inputs(semantic, 1, 24, 1, 97)
    mask[0, 0, 95] = False
    other = feature_map.clone()
    other[0, :5, 0, 95] += 1
    moved = (semantic(feature_map, valid, mask).context != semantic(other, valid, mask).context).any(-1)[0, 0]
    assert moved.nonzero()[:, 0].tolist() == list(range(90, 97))


def test_attentions_are_one_per_window_and_head() -> None:
    stroke, semantic = stroke_perceiver(), semantic_perceiver()
    for width, windows in ((96, 48), (32, 16)):
        assert stroke(*inputs(stroke, 1, 24, 8, width)).attentions[0].shape == (1, windows, 8, 16, 16)
    for width, windows in ((97, 10), (33, 4)):
        assert semantic(*inputs(semantic, 1, 24, 1, width)).attentions[0].shape == (1, windows, 8, 10, 10)


def test_shift_moves_the_windows_of_every_second_layer() -> None:
    perceiver = semantic_perceiver(aggregator_layers=3, aggregator_shift=True)
    shapes = [weights.shape[1] for weights in perceiver(*inputs(perceiver, 1, 24, 1, 40)).attentions]
    assert shapes == [4, 5, 4]


def test_stripe_windows_span_the_map() -> None:
    perceiver = stroke_perceiver(stroke_window="half_stripe")
    assert perceiver(*inputs(perceiver, 1, 24, 8, 20)).attentions[0].shape == (1, 2, 8, 80, 80)


def test_position_bias_can_be_left_out() -> None:
    names = {name for name, _ in stroke_perceiver(relative_position_bias=False).named_parameters()}
    assert not [name for name in names if "bias" in name.split(".")[-1] and "relative" in name]
    with_bias = {name for name, _ in stroke_perceiver().named_parameters()}
    assert with_bias - names == {"layers.0.attention.relative_position_bias"}


def test_without_a_quantiser_targets_are_a_linear_map_of_the_feature() -> None:
    perceiver = stroke_perceiver(quantize_targets=False)
    feature_map, valid, mask = inputs(perceiver, 2, 24, 8, 12)
    output = perceiver(feature_map, valid, mask)
    normalized = perceiver.layernorm(feature_map.permute(0, 2, 3, 1))
    assert torch.equal(output.targets, perceiver.target_projection(normalized))
    assert output.codes is None
    terms = perceiver_terms(perceiver.config, output, valid, mask)
    assert float(terms.diversity_loss) == 0
    assert terms.perplexity is None
    assert float(terms.contrastive_loss.detach()) > 0


def test_dropouts_act_in_training_only() -> None:
    perceiver = stroke_perceiver(feature_dropout=0.5, aggregator_dropout=0.5)
    feature_map, valid, mask = inputs(perceiver, 1, 24, 8, 8)
    first, second = perceiver.eval()(feature_map, valid, mask), perceiver(feature_map, valid, mask)
    assert torch.equal(first.context, second.context)
    perceiver.train()
    first, second = perceiver(feature_map, valid, mask), perceiver(feature_map, valid, mask)
    assert not torch.equal(first.projected, second.projected)
    only_aggregator = stroke_perceiver(aggregator_dropout=0.5)
    first, second = only_aggregator(feature_map, valid, mask), only_aggregator(feature_map, valid, mask)
    assert torch.equal(first.projected, second.projected)
    assert not torch.equal(first.context, second.context)


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0])
def test_scaled_gradient_is_the_identity_forward(factor: float) -> None:
    values = torch.randn(5, requires_grad=True)
    scaled = scale_gradient(values, factor)
    assert torch.equal(scaled, values)
    (scaled * torch.arange(5.0)).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, factor * torch.arange(5.0))


def test_scale_acts_on_the_feature_and_not_on_the_perceiver() -> None:
    gradients = []
    for scale in (1.0, 0.2):
        torch.manual_seed(4)
        perceiver = stroke_perceiver(stroke_grad_scale=scale).double()
        feature_map, valid, mask = inputs(perceiver, 2, 24, 8, 12)
        feature_map = feature_map.double().requires_grad_()
        terms = terms_of(perceiver, feature_map, valid, mask)
        (terms.contrastive_loss + terms.diversity_loss + terms.feature_penalty).backward()
        own = [gradient_of(parameter) for parameter in perceiver.parameters()]
        gradients.append((gradient_of(feature_map), own))
    (plain, own_plain), (scaled, own_scaled) = gradients
    torch.testing.assert_close(scaled, 0.2 * plain, rtol=1e-12, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(own_plain, own_scaled, strict=True))


def test_contrast_alone_teaches_codebooks_targets_and_features() -> None:
    perceiver = stroke_perceiver()
    feature_map, valid, mask = inputs(perceiver, 2, 24, 8, 12)
    feature_map.requires_grad_()
    terms_of(perceiver, feature_map, valid, mask).contrastive_loss.backward()
    assert feature_map.grad is not None
    assert feature_map.grad.permute(0, 2, 3, 1)[mask].abs().sum() > 0  # through the targets only
    for name, parameter in perceiver.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_fresh_perceiver_stands_slightly_above_knowing_nothing() -> None:
    """On white features, 4 words at 32x384; ranges of the specification, a little wider."""
    for seed in range(3):
        torch.manual_seed(seed)
        stroke, semantic = stroke_perceiver(256), semantic_perceiver(256)
        low = terms_of(stroke, *inputs(stroke, 4, 256, 8, 96))
        high = terms_of(semantic, *inputs(semantic, 4, 256, 1, 97))
        assert math.log(101) < float(low.contrastive_loss.detach()) < 4.80
        assert math.log(97) - 0.05 < float(high.contrastive_loss.detach()) < 4.85
        assert 0.17 < float(low.diversity_loss.detach()) < 0.24
        assert 0.70 < float(high.diversity_loss.detach()) < 0.80


def test_diversity_counts_masked_or_all_positions_and_never_padding() -> None:
    results = {}
    for scope in ("masked", "all"):
        torch.manual_seed(1)
        perceiver = semantic_perceiver(diversity_scope=scope)
        feature_map = torch.randn(2, 24, 1, 40)
        valid = torch.ones(2, 1, 40, dtype=torch.bool)
        valid[1, :, 25:] = False
        mask = perceiver.sample_mask(valid)
        output = perceiver(feature_map, valid, mask)
        terms = perceiver_terms(perceiver.config, output, valid, mask)
        assert output.code_logits is not None
        counted = mask if scope == "masked" else valid
        shares = output.code_logits.detach().softmax(-1).double()[counted].mean(0)
        perplexity = torch.special.entr(shares).sum(-1).exp().sum()
        assert terms.perplexity is not None
        assert float(terms.perplexity) == pytest.approx(float(perplexity), rel=1e-5)
        assert float(terms.diversity_loss.detach()) == pytest.approx(1 - float(perplexity) / 512, rel=1e-4)
        results[scope] = float(perplexity)
    assert results["all"] > results["masked"]


def test_mask_is_drawn_with_the_levels_numbers() -> None:
    valid = torch.ones(1, 8, 96, dtype=torch.bool)
    assert int(stroke_perceiver().sample_mask(valid).sum()) in (153, 154)
    blocks = stroke_perceiver(stroke_mask_size=2, stroke_mask_ratio=0.01).sample_mask(valid)[0]
    assert int(blocks.sum()) <= 2 * 4
    sequence = torch.ones(1, 1, 97, dtype=torch.bool)
    assert int(semantic_perceiver().sample_mask(sequence).sum()) in (14, 15)
    few = semantic_perceiver(semantic_mask_ratio=0.01, min_masked_positions=6)
    assert int(few.sample_mask(sequence).sum()) == 6
