"""The momentum copy: the exact average, what stays, and that it is float32 whatever the model is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.momentum_encoder import MomentumEncoder


class KeyModel(nn.Module):
    """A rectifier, a layer with batch norm and one level of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.rectifier = nn.Linear(4, 4)
        self.layer = nn.Linear(4, 3)
        self.normalization = nn.BatchNorm1d(3)

    def encode_keys(self, pixel_values: Tensor) -> dict[str, Tensor]:
        features = self.normalization(self.layer(self.rectifier(pixel_values.flatten(1))))
        return {"word": F.normalize(features, dim=1)[:, None]}


def moved_model(model: KeyModel) -> KeyModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


def test_one_update_is_the_average_and_leaves_rectifier_and_buffers() -> None:
    model = KeyModel()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder = MomentumEncoder(model, 0.9)
    moved_model(model)
    encoder.update(model)
    state = encoder.model.state_dict()
    for name, parameter in model.named_parameters():
        expected = start[name] if name.startswith("rectifier") else 0.9 * start[name] + 0.1 * parameter
        assert torch.allclose(state[name], expected, rtol=0, atol=1e-6), name
    assert all(torch.equal(state[name], start[name]) for name, _ in model.named_buffers())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_the_average_does_not_stall_in_bfloat16() -> None:
    """A bfloat16 copy would round steps of 0.001 away; this one comes closer by the closed form."""
    model = KeyModel().to(torch.bfloat16)
    encoder = MomentumEncoder(model, 0.999)
    start = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    moved_model(model)
    for _ in range(1000):
        encoder.update(model)
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
    target = model.layer.weight.float()
    left = (encoder.state_dict()["layer.weight"] - target) / (start["layer.weight"] - target)
    assert torch.allclose(left, torch.full_like(left, 0.999**1000), atol=1e-3)


def test_keys_have_no_gradient_and_use_the_batchs_statistics() -> None:
    encoder = MomentumEncoder(KeyModel().eval(), 0.9)
    assert encoder.model.training, "also when the model is being evaluated"
    words = torch.randn(5, 1, 2, 2, requires_grad=True)
    keys = encoder.encode(words)
    assert not keys["word"].requires_grad
    shifted = encoder.encode(3 * words + 1)
    assert torch.allclose(keys["word"], shifted["word"], atol=1e-3), (
        "batch norm undoes a common scale and shift"
    )


def test_alone_shuffling_changes_nothing() -> None:
    encoder = MomentumEncoder(KeyModel(), 0.9)
    words = torch.randn(4, 1, 2, 2)
    shuffled = encoder.encode(words, shuffle=torch.Generator().manual_seed(0))
    assert torch.equal(shuffled["word"], encoder.encode(words)["word"])


def test_encoding_under_a_precision_gives_float32_keys() -> None:
    encoder = MomentumEncoder(KeyModel(), 0.9)
    keys = encoder.encode(torch.randn(4, 1, 2, 2), precision=torch.autocast("cpu", torch.bfloat16))
    assert keys["word"].dtype == torch.float32


def test_state_goes_round_and_another_models_is_refused() -> None:
    encoder, other = MomentumEncoder(KeyModel(), 0.9), MomentumEncoder(KeyModel(), 0.9)
    other.load_state_dict({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
    words = torch.randn(4, 1, 2, 2)
    assert torch.equal(encoder.encode(words)["word"], other.encode(words)["word"])
    with pytest.raises(ValueError, match="another model's"):
        other.load_state_dict({"layer.weight": torch.zeros(3, 4)})


def test_a_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="`key_momentum` must lie in 0 to below 1"):
        MomentumEncoder(KeyModel(), 1.0)
