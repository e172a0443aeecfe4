"""Pretraining with ResNet45: every parameter learns, hidden pixels stay hidden, PerSec taps its maps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.pretraining_models import make, queues, seeded, views
from tests.recognisers import ragged_words
from tests.test_encoder_resnet45 import TINY, pixels_of


def pretraining_model(preset: str = "rcmstr", **fields: Any) -> Any:
    return make("cnn", preset, **TINY, image_size=(32, 128), **fields)


@pytest.mark.parametrize(("preset", "joint"), [("rcmstr", True), ("rcmstr", False), ("mim", True)])
def test_rcmstr_pretrains_every_parameter(preset: str, joint: bool) -> None:
    model = pretraining_model(preset, joint_views=joint)
    outputs = model(*views("vit"), negatives=queues(model), generator=seeded())
    outputs.loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())] == []
    assert outputs.reconstruction.shape == (4, 3, 32, 128)
    assert outputs.visible.shape == (4, 1, 8, 32)
    if preset == "rcmstr":
        assert outputs.key_embeds["frame"].shape == (4, 32, 8)
        assert set(outputs.terms) == set(model.config.loss_weights)


@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_never_reach_the_prediction(training: bool) -> None:
    model = pretraining_model("mim", normalize_targets=False).train(training)
    first, _ = views("vit")
    visible = model.sample_visible(4, 128, seeded())
    edited = torch.where(pixels_of(visible), first, 1e4 * torch.randn_like(first))
    one, other = (model(images, visible=visible).reconstruction for images in (first, edited))
    assert torch.equal(one, other)


def test_separate_statistics_are_the_encoders_alone() -> None:
    model = pretraining_model(masked_batch_norm="separate_buffers")
    names = [name for name, _ in model.named_buffers() if "masked_running" in name]
    assert names
    assert all(name.startswith("model.encoder.") for name in names)


def test_persec_taps_the_first_map_of_stride_four(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("persec", "cnn", **TINY, hidden_size=128)
    model = PerSecForPreTraining(config)
    _, pixel_values, pixel_mask = ragged_words([128, 64])
    taps = model.tap_features(pixel_values, pixel_mask)
    assert taps.stroke.shape == (2, 16, 8, 32)
    assert taps.stroke_valid.sum((1, 2)).tolist() == [256, 128]
    assert taps.semantic_valid.sum((1, 2)).tolist() == [32, 16]
    outputs = model(pixel_values, pixel_mask, generator=seeded())
    outputs.loss.backward()
    assert bool(outputs.loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    plane = PerSecForPreTraining(
        tiny_config("persec", "cnn", **TINY, semantic_pool="none", encoder_bilstm_layers=0)
    )
    assert plane.tap_features(pixel_values).semantic.shape == (2, 32, 8, 32)
