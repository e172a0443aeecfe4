"""Parameter groups, layer-wise decay, schedules and the average of the weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from training.optimization import (
    WeightAverage,
    layer_scales,
    make_optimizer,
    parameter_groups,
    schedule_factor,
    set_learning_rate,
)


class SmallModel(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 1)
        self.normalization = nn.BatchNorm2d(3)
        self.embedding = nn.Embedding(4, 3)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 3))
        self.relative_position_bias = nn.Parameter(torch.zeros(5, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    return {
        name for name, parameter in model.named_parameters() if any(parameter is p for p in group["params"])
    }


def test_matrices_decay_and_nothing_else() -> None:
    model = SmallModel()
    decayed, free = parameter_groups(model, 0.1)
    assert names_of(model, decayed) == {"convolution.weight"}
    assert names_of(model, free) == {
        "convolution.bias",
        "normalization.weight",
        "normalization.bias",
        "embedding.weight",
        "mask_token",
        "relative_position_bias",
    }
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert "lr_scale" not in decayed


def test_everything_decays_when_asked_for_as_in_plain_sgd() -> None:
    (group,) = parameter_groups(SmallModel(), 0.1, decay_everything=True)
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == 7


@pytest.mark.parametrize(("encoder", "layers"), [("vit", 2), ("cnn", 4)])
def test_each_layer_of_the_encoder_learns_at_a_share_of_the_one_above(
    tiny_config: Callable[..., Any], encoder: str, layers: int
) -> None:
    from modeling_rcmstr import RCMSTRForTextRecognition

    model = RCMSTRForTextRecognition(tiny_config("rcmstr", encoder))
    scales = layer_scales(model, 0.5)
    assert scales.keys() == dict(model.named_parameters()).keys()
    first = "patch_embedding.weight" if encoder == "vit" else "stem.0.convolution.weight"
    assert scales[f"model.encoder.{first}"] == 0.5 ** (layers + 1)
    part = "layers" if encoder == "vit" else "stages"
    for number in range(layers):
        found = {
            scale for name, scale in scales.items() if name.startswith(f"model.encoder.{part}.{number}.")
        }
        assert found == {0.5 ** (layers - number)}
    assert {scale for name, scale in scales.items() if name.startswith("head.")} == {1.0}
    if encoder == "vit":
        assert scales["model.encoder.layernorm.weight"] == 1.0


def test_every_parameter_is_in_one_group_and_gets_its_rate(tiny_config: Callable[..., Any]) -> None:
    from modeling_rcmstr import RCMSTRForTextRecognition

    model = RCMSTRForTextRecognition(tiny_config("rcmstr", "vit"))
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    members = [parameter for group in groups for parameter in group["params"]]
    assert len(members) == len({id(parameter) for parameter in members}) == len(list(model.parameters()))
    optimizer = make_optimizer("adamw", groups, 0.08, betas=(0.9, 0.98))
    scales = layer_scales(model, 0.5)
    for group in optimizer.param_groups:
        assert {scales[name] for name in names_of(model, group)} == {group["lr_scale"]}
        assert group["lr"] == pytest.approx(0.08 * group["lr_scale"])
    set_learning_rate(optimizer, 0.4)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.05, 0.1, 0.2, 0.4])


def test_without_layer_decay_there_is_one_rate() -> None:
    optimizer = make_optimizer("sgd", parameter_groups(SmallModel(), 0.1), 0.3, momentum=0.9)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_wrong_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="known: adamw, sgd"):
        make_optimizer("lion", parameter_groups(SmallModel(), 0.1), 0.3)
    with pytest.raises(ValueError, match="`layer_decay` must lie above 0"):
        parameter_groups(SmallModel(), 0.1, layer_decay=0.0)
    with pytest.raises(ValueError, match="unknown schedule"):
        schedule_factor("staircase", 0.5, 0.1, 0.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "one_cycle"])
def test_a_schedule_rises_to_its_peak_and_ends_where_it_should(schedule: str) -> None:
    values = [schedule_factor(schedule, step / 1000, 0.1, 0.05) for step in range(1001)]
    assert values[100] == pytest.approx(1.0)
    assert max(values) == pytest.approx(1.0)
    assert all(later > earlier for earlier, later in zip(values[:100], values[1:101], strict=True))
    assert values[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05)
    assert schedule_factor(schedule, 7.0, 0.1, 0.05) == values[-1]
    assert values[0] > 0, "the first update moves something"


def test_cosine_and_linear_are_their_formulas() -> None:
    for progress in (0.3, 0.55, 0.8):
        left = 1 - (progress - 0.1) / 0.9
        assert schedule_factor("linear", progress, 0.1, 0.0) == pytest.approx(left)
        expected = (1 + math.cos(math.pi * (1 - left))) / 2
        assert schedule_factor("cosine", progress, 0.1, 0.0) == pytest.approx(expected)


def test_one_cycle_is_pytorchs_with_the_divisor_of_the_released_rclstr_code() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=101,
        pct_start=0.31,
        div_factor=20,
        final_div_factor=1000,
        cycle_momentum=False,
    )
    # Its peak lies at update 0.31 * 101 - 1, its end at update 100.
    peak = 0.31 * 101 - 1
    for step in range(101):
        ours = schedule_factor("one_cycle", step / 100, peak / 100, 1 / 20_000)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        if step < 100:
            optimizer.step()
            theirs.step()


def test_the_average_follows_its_closed_form_and_gives_the_weights_back() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.9)
    expected, values = model.weight.detach().clone(), []
    for update in range(5):
        with torch.no_grad():
            model.weight.add_(1.0)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        average.update(model)
        values.append(model.weight.detach().clone())
    own = model.weight.detach().clone()
    with average.applied(model):
        assert torch.allclose(model.weight, expected)
    assert torch.equal(model.weight, own)


def test_an_averages_state_goes_round_and_another_models_is_refused() -> None:
    model = nn.Linear(2, 1)
    average, other = WeightAverage(model, 0.9), WeightAverage(nn.Linear(2, 1), 0.9)
    average.update(model)
    other.load_state_dict({name: tensor.clone() for name, tensor in average.state_dict().items()})
    assert other.updates == 1
    assert all(torch.equal(average.tensors[name], other.tensors[name]) for name in average.tensors)
    with pytest.raises(ValueError, match="another model"):
        WeightAverage(nn.Linear(2, 1, bias=False), 0.9).load_state_dict(average.state_dict())
    with pytest.raises(ValueError, match="`decay` must lie between"):
        WeightAverage(model, 1.0)
