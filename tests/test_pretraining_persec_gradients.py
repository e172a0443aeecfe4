"""Gradients of PerSec's pretraining into the encoder and the perceivers, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_rcmstr.configuration_persec import PerSecConfig
from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.persec_words import LEVELS, generator, gradients, images, padding_mask, relative_error

Config = Callable[..., PerSecConfig]


def exact_model(tiny_config: Config, encoder: str, **fields: Any) -> PerSecForPreTraining:
    """The same weights whatever the fields."""
    torch.manual_seed(7)
    return PerSecForPreTraining(tiny_config("persec", encoder, num_hidden_layers=4, **fields)).double()


def run(model: PerSecForPreTraining) -> Any:
    """One pass with the same draws each time."""
    return model(images().double(), padding_mask([64, 40], 64), generator=generator(3))


def stroke_losses(output: Any) -> Tensor:
    return output.stroke_contrastive_loss + output.stroke_diversity_loss + output.stroke_feature_penalty


def semantic_losses(output: Any) -> Tensor:
    return output.semantic_contrastive_loss + output.semantic_diversity_loss + output.semantic_feature_penalty


def test_stroke_scale_multiplies_the_encoders_gradient_exactly(tiny_config: Config, encoder: str) -> None:
    models = [exact_model(tiny_config, encoder, stroke_grad_scale=scale) for scale in (1.0, 0.2, 0.0)]
    plain, scaled, none = (run(model) for model in models)
    for name in plain:
        assert torch.equal(plain[name], scaled[name]), name  # forward is the same, bit for bit
    losses = [stroke_losses(output) for output in (plain, scaled, none)]
    of_encoder = [gradients(model, loss, "model.") for model, loss in zip(models, losses, strict=True)]
    expected = {name: 0.2 * value for name, value in of_encoder[0].items()}
    assert relative_error(of_encoder[1], expected) < 1e-12
    assert not any(value.any() for value in of_encoder[2].values())
    own = [
        gradients(model, loss, "stroke_perceiver.")
        for model, loss in zip(models[:2], losses[:2], strict=True)
    ]
    assert all(torch.equal(own[0][name], own[1][name]) for name in own[0])
    semantic = [
        gradients(model, semantic_losses(output), "model.")
        for model, output in zip(models, (plain, scaled, none), strict=True)
    ]
    for name in semantic[0]:
        assert torch.equal(semantic[0][name], semantic[1][name])
        assert torch.equal(semantic[0][name], semantic[2][name])


def test_stroke_losses_end_at_their_tap(tiny_config: Config, encoder: str) -> None:
    model = exact_model(tiny_config, encoder)
    found = gradients(model, stroke_losses(run(model)), "model.")
    # CNN: stem and stages 0 and 1 make hidden state 2; ViT of four layers: layer 0 makes hidden state 1.
    below = {
        "cnn": ("model.encoder.stem.", "model.encoder.stages.0.", "model.encoder.stages.1."),
        "vit": (
            "model.encoder.patch_embedding.",
            "model.encoder.row_embedding.",
            "model.encoder.column_embedding.",
            "model.encoder.layers.0.",
        ),
    }[encoder]
    for name, value in found.items():
        assert bool(value.any()) == name.startswith(below), name


def test_total_gradient_is_the_weighted_sum(tiny_config: Config, encoder: str) -> None:
    weights = {
        "semantic_contrastive_weight": 0.9,
        "stroke_contrastive_weight": 0.3,
        "semantic_diversity_weight": 0.7,
        "stroke_diversity_weight": 0.4,
        "semantic_penalty_weight": 0.2,
        "stroke_penalty_weight": 0.6,
    }
    model = exact_model(tiny_config, encoder, **weights)
    plain = exact_model(tiny_config, encoder, stroke_grad_scale=1.0)
    total = gradients(model, run(model).loss, "model.")
    output = run(plain)
    parts = [
        (0.9, output.semantic_contrastive_loss),
        (0.2 * 0.3, output.stroke_contrastive_loss),
        (0.7, output.semantic_diversity_loss),
        (0.2 * 0.4, output.stroke_diversity_loss),
        (0.2, output.semantic_feature_penalty),
        (0.2 * 0.6, output.stroke_feature_penalty),
    ]
    separate = [(weight, gradients(plain, loss, "model.")) for weight, loss in parts]
    expected = {name: sum(weight * found[name] for weight, found in separate) for name in total}
    assert relative_error(total, expected) < 1e-6  # type: ignore[arg-type]


def test_each_level_teaches_its_own_perceiver(tiny_config: Config) -> None:
    model = exact_model(tiny_config, "cnn")
    output = run(model)
    assert model.stroke_perceiver.mask_vector is not model.semantic_perceiver.mask_vector
    for on, off, loss in (
        ("stroke", "semantic", output.stroke_contrastive_loss),
        ("semantic", "stroke", output.semantic_contrastive_loss),
    ):
        assert gradients(model, loss, f"{on}_perceiver.mask_vector")[f"{on}_perceiver.mask_vector"].any()
        assert not any(value.any() for value in gradients(model, loss, f"{off}_perceiver.").values())


@pytest.mark.parametrize("level", LEVELS)
def test_one_level_alone(tiny_config: Config, level: str) -> None:
    """Weights of 0 switch the other level off, and every parameter still takes part (DDP asks for that)."""
    other = next(name for name in LEVELS if name != level)
    off = {f"{other}_contrastive_weight": 0, f"{other}_diversity_weight": 0}
    model = PerSecForPreTraining(tiny_config("persec", "cnn", **off))
    model(images()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith(f"{other}_perceiver."):
            assert not parameter.grad.any(), name
    assert model.get_parameter(f"{level}_perceiver.mask_vector").grad.any()  # type: ignore[union-attr]
