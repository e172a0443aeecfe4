"""PerSec's pretraining model: taps, codes, masks, padding, losses; more of it in the files beside."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils.generic import can_return_loss

from modeling_rcmstr.configuration_persec import LOSS_PRESETS, PerSecConfig
from modeling_rcmstr.modeling_persec import PerSecModel
from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.persec_words import LEVELS, generator, gradient_of, gradients, images, padding_mask, relative_error

Config = Callable[..., PerSecConfig]


# Shapes


@pytest.mark.parametrize(("width", "columns"), [(384, 96), (128, 32)])
def test_taps_have_the_published_shapes(width: int, columns: int) -> None:
    thin: dict[str, Any] = {"embedding_sizes": (4, 8), "depths": (1, 1, 1, 1)}
    cnn = PerSecForPreTraining(PerSecConfig(hidden_sizes=(8, 256, 8, 8), **thin))
    vit = PerSecForPreTraining(PerSecConfig(encoder_type="vit", num_hidden_layers=4, intermediate_size=8))
    with torch.no_grad():
        of_cnn, of_vit = cnn.tap_features(images(1, width)), vit.tap_features(images(1, width))
    assert of_cnn.stroke.shape == (1, 256, 8, columns)
    assert of_cnn.semantic.shape == (1, 256, 1, columns + 1)
    assert of_vit.stroke.shape == (1, 384, 8, columns)
    assert of_vit.semantic.shape == (1, 384, 1, columns)


def test_taps_are_the_maps_that_the_configuration_names(tiny_config: Config) -> None:
    cnn = PerSecForPreTraining(tiny_config("persec", "cnn")).eval()
    inner = cnn.model(images(), output_hidden_states=True)
    taps = cnn.tap_features(images())
    assert torch.equal(taps.stroke, inner.hidden_states[2])
    assert torch.equal(taps.semantic, inner.last_hidden_state)
    before = PerSecForPreTraining(tiny_config("persec", "cnn", semantic_tap="before_bilstm")).eval()
    inner = before.model(images(), output_hidden_states=True)
    assert torch.equal(before.tap_features(images()).semantic, inner.hidden_states[-1])
    vit = PerSecForPreTraining(tiny_config("persec", "vit", stroke_tap=2, semantic_pool="none")).eval()
    inner = vit.model(images(), output_hidden_states=True)
    taps = vit.tap_features(images())
    assert torch.equal(taps.stroke, inner.hidden_states[2])
    assert torch.equal(taps.semantic, inner.last_hidden_state)
    pooled = PerSecForPreTraining(tiny_config("persec", "vit")).eval()
    expected = pooled.model(images()).last_hidden_state.mean(2, keepdim=True)
    assert torch.equal(pooled.tap_features(images()).semantic, expected)


@pytest.mark.parametrize("stroke_tap", [0, 1, 2, 3])
def test_every_tap_knows_its_padding(tiny_config: Config, stroke_tap: int) -> None:
    """A padded word has as many valid positions as it has alone."""
    model = PerSecForPreTraining(tiny_config("persec", "cnn", stroke_tap=stroke_tap)).eval()
    taps = model.tap_features(images(2, 64), padding_mask([64, 20], 64))
    alone = model.tap_features(images(1, 20))
    assert int(taps.stroke_valid[1].sum()) == alone.stroke_valid.numel()
    assert int(taps.semantic_valid[1].sum()) == alone.semantic_valid.numel()
    assert taps.stroke_valid[0].all()
    assert taps.semantic_valid[0].all()


def test_perceivers_are_plugged_in_beside_the_encoder(tiny_config: Config, encoder: str) -> None:
    """What the encoder gives does not depend on masks, on the perceivers' mode, or on there being any."""
    model = PerSecForPreTraining(tiny_config("persec", encoder)).eval()
    alone = PerSecModel(model.config).eval()
    alone.load_state_dict(model.model.state_dict())
    expected = alone(images()).last_hidden_state
    seen: list[Tensor] = []
    model.model.register_forward_hook(lambda module, arguments, output: seen.append(output.last_hidden_state))
    model(images(), generator=generator(1))
    model(images(), generator=generator(2))
    model.stroke_perceiver.train()
    model.semantic_perceiver.train()
    model(images(), generator=generator(3))
    assert len(seen) == 3
    assert all(torch.equal(output, expected) for output in seen)


def test_codes_and_masks_come_with_the_losses(tiny_config: Config, encoder: str) -> None:
    output = PerSecForPreTraining(tiny_config("persec", encoder))(images(), padding_mask([64, 32], 64))
    frames = 17 if encoder == "cnn" else 16
    assert output.stroke_codes.shape == (2, 8, 16, 2)
    assert output.semantic_codes.shape == (2, 1, frames, 2)
    for level in LEVELS:
        valid, mask, codes = (output[f"{level}_{name}"] for name in ("valid", "mask", "codes"))
        assert not (mask & ~valid).any()
        assert (codes[~valid] == -1).all()
        assert (codes[valid] >= 0).all()
        assert int(mask.sum()) > 0
    assert output.stroke_attentions is None


def test_without_losses_there_are_codes_only(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "cnn")).eval()
    state = torch.get_rng_state()
    output = model(images(), return_loss=False, output_attentions=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert output.loss is None
    assert output.stroke_contrastive_loss is None
    assert not output.stroke_mask.any()
    assert output.stroke_codes.shape == (2, 8, 16, 2)
    assert output.stroke_attentions[0].shape == (2, 8, 8, 16, 16)
    assert output.semantic_attentions[0].shape == (2, 2, 8, 10, 10)


def test_output_is_a_tuple_on_request(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "cnn")).eval()
    assert torch.equal(
        model(images(), return_dict=False, generator=generator())[0],
        model(images(), generator=generator()).loss,
    )
    assert can_return_loss(PerSecForPreTraining)


# Masks and randomness


def test_one_seed_gives_one_loss(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "vit"))
    state = torch.get_rng_state()
    first, again, other = (model(images(), generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.stroke_mask, again.stroke_mask)
    assert not torch.equal(first.stroke_mask, other.stroke_mask)
    assert not torch.equal(first.loss, other.loss)


def test_given_masks_are_used_without_their_padding(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "vit"))
    stroke, semantic = torch.ones(2, 8, 16).bool(), torch.zeros(2, 1, 16).bool()
    semantic[:, :, 3:5] = True
    output = model(images(), padding_mask([64, 32], 64), stroke_mask=stroke, semantic_mask=semantic)
    assert torch.equal(output.stroke_mask, output.stroke_valid)
    assert torch.equal(output.semantic_mask, semantic)


def test_masks_of_another_size_are_refused(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "vit"))
    with pytest.raises(
        ValueError, match=r"`semantic_mask` must be \(2, 1, 16\) for these images, got \(2, 1, 17\)"
    ):
        model(images(), semantic_mask=torch.zeros(2, 1, 17).bool())
    with pytest.raises(ValueError, match=r"`stroke_mask` must be \(2, 8, 16\)"):
        model(images(), stroke_mask=torch.zeros(2, 4, 16).bool())


def test_temperature_acts_in_training_only(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "vit")).eval()
    hot, cold = (model(images(), gumbel_temperature=t, generator=generator()).loss for t in (5.0, 0.5))
    assert torch.equal(hot, cold)
    model.train()
    by_temperature = [
        gradients(
            model,
            model(images(), gumbel_temperature=t, generator=generator()).loss,
            "stroke_perceiver.quantizer",
        )
        for t in (5.0, 0.5)
    ]
    assert relative_error(*by_temperature) > 0.01


# Padding


@pytest.mark.parametrize("scope", ["image", "masked"])
def test_words_count_the_same_alone_and_padded(tiny_config: Config, encoder: str, scope: str) -> None:
    """Two words of 32x40 and 32x64, alone and in one batch with noise in the padding, at the same masks."""
    # As many distractors as there are positions leave nothing to draw in scope "image".
    fields = {
        "num_negatives": 999 if scope == "image" else 1,
        "negatives_scope": scope,
        "quantize_targets": False,
    }
    model = PerSecForPreTraining(tiny_config("persec", encoder, **fields)).eval().double()
    widths = [64, 40]
    batch = images(2, 64).double()
    extra = 1 if encoder == "cnn" else 0
    stroke, semantic = torch.zeros(2, 8, 16).bool(), torch.zeros(2, 1, 16 + extra).bool()
    # Two masked positions a word leave one distractor each in scope "masked".
    stroke[0, 2, 7] = stroke[0, 5, 15] = stroke[1, 0, 0] = stroke[1, 7, 9] = True
    semantic[:, 0, 2] = semantic[:, 0, 9] = True
    both = model(batch, padding_mask(widths, 64), stroke_mask=stroke, semantic_mask=semantic)
    alone = [
        model(
            batch[word : word + 1, ..., :width],
            stroke_mask=stroke[word : word + 1, ..., : width // 4],
            semantic_mask=semantic[word : word + 1, ..., : width // 4 + extra],
        )
        for word, width in enumerate(widths)
    ]
    for level in LEVELS:
        mean = sum(output[f"{level}_contrastive_loss"] for output in alone) / 2
        torch.testing.assert_close(both[f"{level}_contrastive_loss"], mean, rtol=1e-9, atol=0)
        counts = [int(output[f"{level}_valid"].sum()) for output in alone]
        penalties = [output[f"{level}_feature_penalty"] for output in alone]
        penalty = sum(c * p for c, p in zip(counts, penalties, strict=True)) / sum(counts)
        torch.testing.assert_close(both[f"{level}_feature_penalty"], penalty, rtol=1e-6, atol=0)


def test_codes_are_the_same_alone_and_padded(tiny_config: Config, encoder: str) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder)).eval().double()
    batch = images(2, 64).double()
    both = model(batch, padding_mask([64, 40], 64), return_loss=False)
    alone = model(batch[1:, ..., :40], return_loss=False)
    for level in LEVELS:
        codes, valid = both[f"{level}_codes"][1], both[f"{level}_valid"][1]
        assert torch.equal(codes[valid], alone[f"{level}_codes"].flatten(0, 2))


@pytest.mark.parametrize("scope", ["image", "masked", "batch"])
def test_a_word_of_one_frame_is_harmless(tiny_config: Config, scope: str) -> None:
    """4 pixels wide, a ViT has one column: nothing to contrast, no NaN; the other word counts as ever."""
    model = PerSecForPreTraining(tiny_config("persec", "vit", negatives_scope=scope))
    output = model(images(), padding_mask([64, 4], 64))
    assert not output.semantic_mask[1].any()
    assert output.semantic_mask[0].any()
    output.loss.backward()
    assert all(torch.isfinite(gradient_of(parameter)).all() for parameter in model.parameters())
    lone = model(images(2, 4), generator=generator())
    assert float(lone.semantic_contrastive_loss.detach()) == 0
    assert torch.isfinite(lone.loss)


# Losses


@pytest.mark.parametrize("preset", sorted(LOSS_PRESETS))
def test_total_is_the_six_coefficient_sum(tiny_config: Config, preset: str) -> None:
    coefficients = {
        "A": (1, 0.2, 0.1, 0.1, 0, 0),
        "A_prime": (1, 0.2, 0.1, 0.02, 0, 0),
        "B": (1, 1, 0.2, 0.2, 0.1, 0.1),
        "C": (1, 1, 0.1, 0.2, 0, 0),
    }[preset]
    output = PerSecForPreTraining(tiny_config("persec", "vit", loss_preset=preset))(images())
    terms = (
        output.semantic_contrastive_loss,
        output.stroke_contrastive_loss,
        output.semantic_diversity_loss,
        output.stroke_diversity_loss,
        output.semantic_feature_penalty,
        output.stroke_feature_penalty,
    )
    expected = sum(weight * float(term.detach()) for weight, term in zip(coefficients, terms, strict=True))
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-6)


def test_penalties_are_of_the_tapped_maps(tiny_config: Config) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "vit")).eval()
    with torch.no_grad():
        taps, output = model.tap_features(images()), model(images())
    assert float(output.stroke_feature_penalty) == pytest.approx(float(taps.stroke.square().mean()), rel=1e-5)
    assert float(output.semantic_feature_penalty) == pytest.approx(
        float(taps.semantic.square().mean()), rel=1e-5
    )


def test_a_doubled_batch_has_the_same_losses(tiny_config: Config) -> None:
    """With masks copied and every other position a distractor, nothing is drawn in evaluation."""
    model = PerSecForPreTraining(tiny_config("persec", "vit", num_negatives=999)).eval().double()
    once = model(images().double(), generator=generator())
    twice = model(
        images().double().repeat(2, 1, 1, 1),
        stroke_mask=once.stroke_mask.repeat(2, 1, 1),
        semantic_mask=once.semantic_mask.repeat(2, 1, 1),
    )
    for level in LEVELS:
        for term in ("contrastive_loss", "diversity_loss"):
            torch.testing.assert_close(twice[f"{level}_{term}"], once[f"{level}_{term}"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("scope", ["image", "masked", "batch"])
def test_a_fresh_model_knows_nothing(tiny_config: Config, encoder: str, scope: str) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder, negatives_scope=scope))
    output = model(images(4, 384))
    assert math.log(101) - 0.2 < float(output.stroke_contrastive_loss.detach()) < math.log(101) + 0.4
    assert 0 < float(output.semantic_contrastive_loss.detach()) < math.log(101) + 0.6
    assert float(output.stroke_contrastive_accuracy) < 0.1


@pytest.mark.parametrize("quantize", [True, False])
def test_autocast_stays_within_two_percent(tiny_config: Config, encoder: str, quantize: bool) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder, quantize_targets=quantize))
    full = model(images(4, 128), generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images(4, 128), generator=generator())
    for level in LEVELS:
        expected = float(full[f"{level}_contrastive_loss"].detach())
        assert half[f"{level}_contrastive_loss"].dtype == torch.float32
        assert float(half[f"{level}_contrastive_loss"].detach()) == pytest.approx(expected, rel=0.02)
    assert float(half.loss.detach()) == pytest.approx(float(full.loss.detach()), rel=0.02)
    half.loss.backward()
    assert all(torch.isfinite(gradient_of(parameter)).all() for parameter in model.parameters())


def test_weights_in_half_precision_train(tiny_config: Config) -> None:
    """As DeepSpeed keeps them."""
    model = PerSecForPreTraining(tiny_config("persec", "vit")).bfloat16()
    output = model(images().bfloat16())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(torch.isfinite(gradient_of(parameter)).all() for parameter in model.parameters())


# Configuration


class _Recorded(PerSecConfig):
    """Remembers which fields were read once `reads` is a set."""

    reads: Any = None

    def __getattribute__(self, name: str) -> Any:
        reads = object.__getattribute__(self, "__dict__").get("_reads")
        if reads is not None:
            reads.add(name)
        return super().__getattribute__(name)


def test_every_field_of_pretraining_is_read(tiny_config: Config) -> None:
    reads: set[str] = set()
    for encoder in ("cnn", "vit"):
        config = _Recorded(**{**tiny_config("persec", encoder).to_dict(), "loss_preset": "B"})
        object.__setattr__(config, "_reads", reads)
        PerSecForPreTraining(config)(images())
    own = set(PerSecConfig.__annotations__) - {"model_type"}
    assert own >= {"loss_preset", "negatives_scope", "semantic_pool"}
    heads = {"image_size", "head_bilstm_layers", "head_feature_gate", "reads"}
    assert own - heads - reads == set()
