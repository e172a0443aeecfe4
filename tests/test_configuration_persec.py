"""PerSec's configuration: published defaults, presets, derived numbers, one worded error per rule, saving."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_rcmstr.configuration_persec import LOSS_PRESETS, PerSecConfig


def weights(config: PerSecConfig) -> tuple[float, ...]:
    """Contrast, diversity and penalty, the semantic level before the stroke level."""
    found = config.loss_weights
    return (
        found.semantic_contrastive,
        found.stroke_contrastive,
        found.semantic_diversity,
        found.stroke_diversity,
        found.semantic_penalty,
        found.stroke_penalty,
    )


def test_defaults_are_the_published_values() -> None:
    config = PerSecConfig()
    assert (config.stroke_grad_scale, config.stroke_mask_ratio, config.semantic_mask_ratio) == (
        0.2,
        0.2,
        0.15,
    )
    assert (config.stroke_mask_size, config.semantic_mask_size) == (1, 1)
    assert (config.perceiver_hidden_size, config.perceiver_attention_heads) == (128, 8)
    assert (config.num_codebooks, config.codebook_size) == (2, 256)
    assert config.stroke_level.window == (4, 4)
    assert config.semantic_level.window == (1, 10)
    assert config.encoder_bilstm_layers == 2
    assert PerSecConfig(encoder_type="vit").encoder_bilstm_layers == 0
    assert PerSecConfig(encoder_type="vit", encoder_bilstm_layers=1).encoder_bilstm_layers == 1


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("A", (1, 0.2, 0.1, 0.1, 0, 0)),
        ("A_prime", (1, 0.2, 0.1, 0.02, 0, 0)),
        ("B", (1, 1, 0.2, 0.2, 0.1, 0.1)),
        ("C", (1, 1, 0.1, 0.2, 0, 0)),
    ],
)
def test_presets_are_the_readings_of_the_papers_equation(preset: str, expected: tuple[float, ...]) -> None:
    assert set(LOSS_PRESETS) == {"A", "A_prime", "B", "C"}
    assert weights(PerSecConfig(loss_preset=preset)) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("A", (1, 0.2, 0.1, 0.1, 0, 0)),
        ("A_prime", (1, 0.2, 0.1, 0.02, 0, 0)),
        ("B", (1, 1, 0.2, 0.2, 0.1, 0.1)),
        ("C", (1, 1, 0.1, 0.2, 0, 0)),
        ("stroke_only", (0, 0.2, 0, 0.1, 0, 0)),
        ("semantic_only", (1, 0, 0.1, 0, 0, 0)),
        ("without_quantizer", (1, 0.2, 0.1, 0.1, 0, 0)),
    ],
)
def test_rows_of_a_study(row: str, expected: tuple[float, ...]) -> None:
    assert len(PerSecConfig.presets()) == 7
    config = PerSecConfig(**PerSecConfig.presets()[row])
    assert weights(config) == expected
    assert config.quantize_targets is (row != "without_quantizer")


def test_a_weight_of_its_own_stands_before_the_presets() -> None:
    config = PerSecConfig(
        loss_preset="B",
        semantic_contrastive_weight=0.5,
        stroke_contrastive_weight=0,
        semantic_diversity_weight=0.25,
        stroke_diversity_weight=0,
        semantic_penalty_weight=3,
        stroke_penalty_weight=0.0,
    )
    assert weights(config) == (0.5, 0, 0.25, 0, 3, 0)


def test_saving_keeps_presets_and_weights(tmp_path: Path) -> None:
    PerSecConfig(stroke_contrastive_weight=0, stroke_window=(2, 8), loss_preset="C").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["semantic_contrastive_weight"] is None
    loaded = PerSecConfig.from_pretrained(tmp_path)
    assert weights(loaded) == (1, 0, 0.1, 0.2, 0, 0)
    assert loaded.stroke_level.window == (2, 8)
    assert loaded.encoder_bilstm_layers == 2
    assert weights(PerSecConfig.from_pretrained(tmp_path, loss_preset="A")) == (1, 0, 0.1, 0.1, 0, 0)


@pytest.mark.parametrize(
    ("fields", "index", "rows", "stride"),
    [
        ({}, 2, 8, 4),
        ({"stroke_tap": 0}, 0, 32, 1),
        ({"stroke_tap": 1}, 1, 16, 2),
        ({"stroke_tap": 3}, 3, 4, 4),
        ({"cnn_type": "resnet45"}, 3, 8, 4),
        ({"cnn_type": "resnet45", "stroke_tap": 1}, 1, 16, 2),
        ({"cnn_type": "resnet45", "stroke_tap": 5, "image_size": (48, 96)}, 5, 12, 4),
        ({"encoder_type": "vit"}, 3, 8, 4),
        ({"encoder_type": "vit", "num_hidden_layers": 3}, 1, 8, 4),
        ({"encoder_type": "vit", "stroke_tap": 12}, 12, 8, 4),
        ({"encoder_type": "vit", "image_size": (48, 96), "patch_size": 8}, 3, 6, 8),
    ],
)
def test_stroke_tap_and_its_map(fields: dict[str, Any], index: int, rows: int, stride: int) -> None:
    config = PerSecConfig(**fields)
    assert (config.stroke_tap_index, config.stroke_tap_rows, config.stroke_tap_stride) == (
        index,
        rows,
        stride,
    )
    assert config.stroke_level.window == (rows // 2, rows // 2)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("half", (4, 4)),
        ("half_stripe", (4, None)),
        ("half_line", (1, 4)),
        (3, (3, 3)),
        ((2, 6), (2, 6)),
        ([8, 1], (8, 1)),
    ],
)
def test_stroke_window_readings(window: Any, expected: tuple[int, int | None]) -> None:
    assert PerSecConfig(stroke_window=window).stroke_level.window == expected


def test_levels_carry_their_own_numbers() -> None:
    config = PerSecConfig(
        semantic_window=(2, 5),
        stroke_mask_ratio=0.3,
        semantic_mask_ratio=0.4,
        stroke_mask_size=2,
        semantic_mask_size=3,
        stroke_grad_scale=0.5,
        semantic_grad_scale=0.7,
    )
    stroke, semantic = config.stroke_level, config.semantic_level
    assert (stroke.mask_ratio, stroke.mask_span, stroke.grad_scale) == (0.3, (2, 2), 0.5)
    assert (semantic.mask_ratio, semantic.mask_span, semantic.grad_scale) == (0.4, (1, 3), 0.7)
    assert semantic.window == (2, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_preset": "D"}, "`loss_preset` must be one of A, A_prime, B, C, got 'D'"),
        ({"semantic_tap": "stage"}, "`semantic_tap` must be one of output, before_bilstm"),
        ({"semantic_pool": "max"}, "`semantic_pool` must be one of mean, none"),
        ({"negatives_scope": "word"}, "`negatives_scope` must be one of image, masked, batch"),
        ({"diversity_scope": "none"}, "`diversity_scope` must be one of masked, all"),
        ({"aggregator_layers": 0}, "`aggregator_layers` must be positive, got 0"),
        ({"perceiver_hidden_size": 0}, "`perceiver_hidden_size` must be positive"),
        ({"perceiver_attention_heads": 0}, "`perceiver_attention_heads` must be positive"),
        ({"stroke_mask_size": 0}, "`stroke_mask_size` must be positive"),
        ({"semantic_mask_size": -1}, "`semantic_mask_size` must be positive"),
        ({"min_masked_positions": 0}, "`min_masked_positions` must be positive"),
        ({"num_codebooks": 0}, "`num_codebooks` must be positive"),
        ({"codebook_size": 0}, "`codebook_size` must be positive"),
        ({"codevector_size": 0}, "`codevector_size` must be positive"),
        ({"num_negatives": 0}, "`num_negatives` must be positive"),
        ({"contrastive_temperature": 0}, "`contrastive_temperature` must be positive"),
        ({"stroke_mask_ratio": 0.0}, "`stroke_mask_ratio` is a share"),
        ({"semantic_mask_ratio": 1.1}, "`semantic_mask_ratio` is a share"),
        ({"aggregator_dropout": 1.0}, "`aggregator_dropout` must be at least 0 and below 1"),
        ({"feature_dropout": -0.1}, "`feature_dropout` must be at least 0 and below 1"),
        ({"stroke_grad_scale": -1}, "`stroke_grad_scale` must be 0 or more"),
        ({"semantic_grad_scale": -0.5}, "`semantic_grad_scale` must be 0 or more"),
        ({"stroke_penalty_weight": -1}, "`stroke_penalty_weight` must be 0 or more, or None"),
        ({"semantic_contrastive_weight": -1}, "`semantic_contrastive_weight` must be 0 or more, or None"),
        ({"perceiver_hidden_size": 100}, "`perceiver_hidden_size` 100 must be divisible by"),
        ({"perceiver_attention_heads": 6}, "`perceiver_attention_heads` 6; the paper uses 128 and 8"),
        ({"num_codebooks": 3}, "`codevector_size` 128 must be divisible by `num_codebooks` 3"),
        ({"aggregator_shift": True}, "set `aggregator_layers` to 2 or more"),
        ({"stroke_tap": 4}, "`stroke_tap` must name a 2-D map of this cnn encoder, 0..3, got 4"),
        ({"cnn_type": "resnet45", "stroke_tap": 6}, "a 2-D map of this cnn encoder, 0..5, got 6"),
        ({"encoder_type": "vit", "stroke_tap": 13}, "vit encoder, 0..12, got 13"),
        ({"stroke_tap": -1}, "`stroke_tap` must name a 2-D map"),
        ({"semantic_tap": "before_bilstm", "encoder_bilstm_layers": 0}, "needs `encoder_bilstm_layers` of 1"),
        ({"semantic_pool": "none"}, "keeps a ViT's 2-D tokens"),
        ({"cnn_type": "resnet45", "semantic_pool": "none"}, "LSTM layers leave one row"),
        (
            {"encoder_type": "vit", "encoder_bilstm_layers": 1, "semantic_pool": "none"},
            "LSTM layers leave one row: set `encoder_bilstm_layers=0`",
        ),
        (
            {"stroke_window": "third"},
            "`stroke_window` must be a size, a pair or one of half, half_stripe, half_line",
        ),
        ({"stroke_window": 0}, "`stroke_window` must be a positive size or a pair"),
        ({"stroke_window": (4, 4, 4)}, "`stroke_window` must be a positive size or a pair"),
        ({"semantic_window": [10]}, "`semantic_window` must be a positive size or a pair"),
        ({"semantic_window": (1, 0)}, "`semantic_window` must be a positive size or a pair"),
        (
            {"encoder_type": "vit", "image_size": (28, 96)},
            "an even number of rows to halve, the tapped map has 7",
        ),
        (
            {"encoder_type": "vit", "image_size": (4, 96)},
            "an even number of rows to halve, the tapped map has 1",
        ),
    ],
)
def test_errors_name_field_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        PerSecConfig(**fields)
    assert isinstance(caught.value, ValueError) or isinstance(caught.value.__cause__, ValueError)


def test_odd_heights_take_a_window_that_is_spelt_out() -> None:
    config = PerSecConfig(encoder_type="vit", image_size=(28, 96), stroke_window=(4, 4))
    assert config.stroke_level.window == (4, 4)
