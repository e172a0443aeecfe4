"""The masked branch of RCMSTR: decoupled from contrast, one encoder, its own statistics; the rectifier."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d
from tests.pretraining_models import WIDTHS, collage_of, make, queues, seeded, views


def buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers()}


def test_contrast_is_the_same_with_the_masked_branch_on_or_off(encoder: str) -> None:
    first, second = views(encoder)
    results = []
    for preset in ("rcmstr", "rclstr"):
        torch.manual_seed(0)
        with_branch = make(encoder, "rcmstr")
        model = with_branch if preset == "rcmstr" else make(encoder, preset)
        state = with_branch.state_dict()
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        results.append(model(first, second, negatives=queues(model), generator=seeded()))
    masked, plain = results
    for level in plain.key_embeds:
        torch.testing.assert_close(masked.key_embeds[level], plain.key_embeds[level])
        torch.testing.assert_close(masked.query_embeds[level], plain.query_embeds[level])
    for name, value in plain.terms.items():
        torch.testing.assert_close(masked.terms[name], value)


def test_mask_never_enters_keys_or_contrast(encoder: str) -> None:
    """The masked pass is the one pass that gets a mask; keys come from a pass without."""
    model = make(encoder, joint_views=False)
    seen: list[tuple[bool, bool]] = []

    def watch(_module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        visible = arguments[1] if len(arguments) > 1 else keywords.get("visible")
        seen.append((torch.is_grad_enabled(), visible is not None))

    model.model.encoder.register_forward_pre_hook(watch, with_kwargs=True)
    model(*views(encoder))
    assert seen == [(True, False), (True, False), (True, True), (False, False)]
    order = torch.tensor([1, 0, 2, 3])
    hidden = torch.zeros(4, 1, 8, WIDTHS[encoder] // 4, dtype=torch.bool)
    everything, some = (model(*views(encoder), order=order, visible=visible) for visible in (hidden, None))
    torch.testing.assert_close(everything.contrastive_loss, some.contrastive_loss)
    torch.testing.assert_close(everything.consistency_loss, some.consistency_loss)


@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_never_reach_the_prediction(encoder: str, training: bool) -> None:
    model = make(encoder, "rcmstr", normalize_targets=False).train(training)
    first, second = views(encoder)
    visible = model.sample_visible(4, WIDTHS[encoder], seeded())
    pixels = F.interpolate(visible.float(), scale_factor=4).bool()
    edited = torch.where(pixels, first, 1e4 * torch.randn_like(first))
    predictions = [
        model(images, second, visible=visible, order=torch.arange(4), return_loss=False).reconstruction
        for images in (first, edited)
    ]
    if encoder == "vit":
        torch.testing.assert_close(*predictions, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(*predictions)


def test_both_branches_train_one_encoder(encoder: str) -> None:
    """The gradient of the sum is the sum of the gradients of both branches on the same tensors."""
    first, second = views(encoder)
    torch.manual_seed(0)
    model = make(encoder).eval()
    encoder_parameters = [p for n, p in model.model.named_parameters() if "mask_token" not in n]
    outputs = model(first, second, generator=seeded())
    whole = torch.autograd.grad(outputs.loss, encoder_parameters, retain_graph=True)
    contrast = outputs.loss - outputs.reconstruction_loss
    parts = [
        torch.autograd.grad(loss, encoder_parameters, retain_graph=True)
        for loss in (contrast, outputs.reconstruction_loss)
    ]
    for total, one, other in zip(whole, *parts, strict=True):
        torch.testing.assert_close(total, one + other, rtol=1e-3, atol=1e-5)
    assert all(bool(gradient.any()) for gradient in parts[1])


def test_loss_and_picture_come_from_the_same_prediction(encoder: str) -> None:
    for normalize in (True, False):
        model = make(encoder, "mim", normalize_targets=normalize)
        first, _ = views(encoder)
        outputs = model(first, generator=seeded())
        hidden = ~outputs.visible[:, 0]
        target = F.pixel_unshuffle(first, 4)
        picture = F.pixel_unshuffle(outputs.reconstruction, 4)
        error = (picture - target).square().mean(1)
        if normalize:
            error = error / (target.var(1) + 1e-6)
        torch.testing.assert_close(outputs.loss.detach(), error[hidden].mean(), rtol=1e-4, atol=1e-5)


def statistics(model: Any) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.model.named_buffers() if "running" in n or "tracked" in n}


def test_masked_pass_leaves_running_statistics_alone_by_default() -> None:
    torch.manual_seed(0)
    model = make()
    plain = copy.deepcopy(model)
    plain.reconstruction_head, plain.config.reconstruction_weight = None, 0.0
    for each in (model, plain):
        each(*views(), order=torch.tensor([2, 0, 3, 1]))
    expected = statistics(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in statistics(model).items())


def test_masked_pass_moves_the_statistics_that_its_policy_says() -> None:
    first, second = views()
    results: dict[str, Any] = {}
    for policy in ("batch_no_update", "separate_buffers", "shared_buffers"):
        torch.manual_seed(0)
        model = make(masked_batch_norm=policy)
        outputs = model(first, second, generator=seeded())
        results[policy] = (statistics(model), outputs.loss.detach(), model)
    default, separate, shared = (results[name][0] for name in results)
    # All normalise with the statistics of the visible positions: the loss is one and the same.
    assert float(results["separate_buffers"][1]) == float(results["batch_no_update"][1])
    assert float(results["shared_buffers"][1]) == float(results["batch_no_update"][1])
    dense = set(default)
    assert all(torch.equal(separate[name], default[name]) for name in dense)
    own = {name for name in separate if "masked_running" in name}
    assert own
    assert not any("masked_running" in name for name in (*default, *shared))
    assert all(not torch.equal(shared[name], default[name]) for name in dense)
    # What the shared policy adds is what the separate one keeps: r ← 0.9 r + 0.1 s, with s from 0.1 s = own.
    for name in own:
        start = 0.0 if name.endswith("mean") else 0.9
        shared_name = name.replace("masked_", "")
        torch.testing.assert_close(shared[shared_name], 0.9 * default[shared_name] + separate[name] - start)


def test_separate_statistics_serve_masked_passes_in_evaluation() -> None:
    torch.manual_seed(0)
    model = make(masked_batch_norm="separate_buffers")
    for _ in range(2):
        model(*views(), generator=seeded())
    model.eval()
    first, _ = views()
    visible = model.sample_visible(4, 100, seeded())
    dense, masked = (
        model.model(first).last_hidden_state,
        model.model(first, visible=visible).last_hidden_state,
    )
    for module in model.modules():
        if isinstance(module, SparseBatchNorm2d):
            assert module.masked_running_mean is not None
            module.masked_running_mean.add_(1.0)
    assert torch.equal(model.model(first).last_hidden_state, dense)
    assert not torch.equal(model.model(first, visible=visible).last_hidden_state, masked)


def test_coupled_contrast_sees_what_is_visible_only(encoder: str) -> None:
    fields: dict[str, Any] = {"decouple": False, "masked_batch_norm": "shared_buffers"}
    model = make(encoder, **fields).eval()
    first, second = views(encoder)
    visible = model.sample_visible(4, WIDTHS[encoder], seeded())
    pixels = F.interpolate(visible.float(), scale_factor=4).bool()
    edited = torch.where(pixels, first, torch.randn_like(first))
    order = torch.arange(4)
    one, other = (model(images, second, visible=visible, order=order) for images in (first, edited))
    for name in one.terms:
        if name != "reconstruction":
            torch.testing.assert_close(one.terms[name], other.terms[name], rtol=1e-5, atol=1e-5)
    decoupled = make(encoder).eval()
    decoupled.load_state_dict(model.state_dict())
    whole = decoupled(first, second, visible=visible, order=order)
    assert not torch.isclose(whole.contrastive_loss, one.contrastive_loss, rtol=1e-4)
    torch.testing.assert_close(whole.reconstruction_loss, one.reconstruction_loss)


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({}, 179, 211),
        ({"mask_num_blocks": 0}, 179, 179),
        ({"mask_ratio": 0.0}, 32, 32),
        ({"mask_ratio": 0.0, "mask_block_width": 8}, 64, 64),
        ({"mask_unit": 8, "mask_num_blocks": 0}, 4 * 44, 4 * 44),  # int(0.7 · 64) units of 4 patches
    ],
)
def test_masks_are_those_of_the_configuration(fields: dict[str, Any], low: int, high: int) -> None:
    visible = make("vit", **fields).sample_visible(50, 128, seeded())
    hidden = (~visible).sum((1, 2, 3))
    assert low <= int(hidden.min()) <= int(hidden.max()) <= high
    unit = fields.get("mask_unit", 4) // 4
    coarse = visible[:, :, ::unit, ::unit]
    assert torch.equal(coarse.repeat_interleave(unit, 2).repeat_interleave(unit, 3), visible)


def test_rectifier_is_frozen_fixed_and_needs_no_labels() -> None:
    model = make("cnn", rectifier_type="tps")
    assert not any(parameter.requires_grad for parameter in model.model.rectifier.parameters())
    assert not model.model.rectifier.training
    before = buffers(model.model.rectifier)
    model(*views()).loss.backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.rectifier.named_buffers())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_words_are_rectified_before_they_are_masked() -> None:
    """The target and the mask lie on the rectified word: a hidden unit of it has no influence."""
    model = make("cnn", "mim", rectifier_type="tps", rectifier_initialization="curved").eval()
    first, _ = views()
    seen: list[Tensor] = []
    model.model.encoder.register_forward_pre_hook(lambda _m, arguments: seen.append(arguments[0]))
    outputs = model(first, generator=seeded())
    rectified = model.model.rectifier(first)
    assert not torch.allclose(rectified, first, atol=0.1)
    assert torch.equal(seen[0], rectified)
    target = F.pixel_unshuffle(rectified, 4)
    error = (F.pixel_unshuffle(outputs.reconstruction, 4) - target).square().mean(1) / (target.var(1) + 1e-6)
    torch.testing.assert_close(outputs.loss, error[~outputs.visible[:, 0]].mean(), rtol=1e-3, atol=1e-4)


def test_collage_is_rectified_or_made_of_rectified_words() -> None:
    first, second = views()
    order = torch.tensor([2, 0, 3, 1])
    for after in (False, True):
        torch.manual_seed(0)
        model = make(
            "cnn",
            "reg",
            query_views="rearranged",
            rectifier_type="tps",
            rectifier_initialization="curved",
            rearrange_after_rectifier=after,
        ).eval()
        seen: list[Tensor] = []
        model.model.encoder.register_forward_pre_hook(
            lambda _m, arguments, seen=seen: seen.append(arguments[0])
        )
        model(first, second, order=order)
        source = model.rectify(first) if after else first
        collage = collage_of(source)
        torch.testing.assert_close(seen[0], collage if after else model.rectify(collage))
