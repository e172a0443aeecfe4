"""The contrastive branch of RCMSTR: what it reads, what it shares, and keys that leave no trace."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d
from tests.pretraining_models import collage_of, make, queues, seeded, views


def buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers()}


def test_unchanged_order_makes_the_rearranged_pass_the_plain_one(encoder: str) -> None:
    arguments: dict[str, Any] = {"order": torch.arange(4), "generator": seeded()}
    losses = []
    for query_views in ("plain", "rearranged", "both"):
        torch.manual_seed(0)
        model = make(encoder, "rclstr", query_views=query_views).eval()
        losses.append(model(*views(encoder), **arguments).loss)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_rearranged_pass_reads_the_collage_and_restores_after_the_projector() -> None:
    """By hand: collage, encoder, LSTM layers, halves back, predictors."""
    model = make("cnn", "reg", query_views="rearranged").eval()
    first, second = views()
    outputs = model(first, second, order=torch.tensor([2, 0, 3, 1]))
    with torch.no_grad():
        states = model.model(collage_of(first)).last_hidden_state[:, :, 0].transpose(1, 2)
        for layer in model.projector:
            states = layer(states)
        restored = torch.stack(
            [
                word
                for i in (0, 2)
                for word in (
                    torch.cat([states[i, 13:], states[i + 1, 13:]]),
                    torch.cat([states[i, :13], states[i + 1, :13]]),
                )
            ]
        )
        pooled = F.adaptive_avg_pool1d(restored.transpose(1, 2), 4).transpose(1, 2)
        expected = F.normalize(model.predictors["subword"](pooled), dim=-1)
    torch.testing.assert_close(outputs.query_embeds["subword"], expected)


def test_joint_passes_equal_separate_ones_where_no_statistics_are_shared(encoder: str) -> None:
    """In evaluation mode for a CNN, always for a ViT."""
    first, second = views(encoder)
    losses, gradients = [], []
    for joint in (True, False):
        torch.manual_seed(0)
        model = make(encoder, joint_views=joint).train(encoder == "vit")
        outputs = model(first, second, generator=seeded())
        outputs.loss.backward()
        losses.append(outputs.loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.model.parameters()]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_joint_pass_takes_common_statistics_and_moves_the_running_ones_once() -> None:
    first, second = views()
    order = torch.tensor([2, 0, 3, 1])
    models = {}
    for joint in (True, False):
        torch.manual_seed(0)
        models[joint] = make("cnn", "rclstr", joint_views=joint)
        models[joint](first, second, order=order)
    layers = {joint: model.model.encoder.stem[0].normalization for joint, model in models.items()}
    assert int(layers[True].num_batches_tracked) == 1
    assert int(layers[False].num_batches_tracked) == 2
    # The first layer by hand: its maps of the plain words and of the collage.
    convolution = models[True].model.encoder.stem[0].convolution
    with torch.no_grad():
        means = [convolution(images).mean((0, 2, 3)) for images in (first, collage_of(first))]
    torch.testing.assert_close(layers[True].running_mean, 0.1 * (means[0] + means[1]) / 2)
    torch.testing.assert_close(layers[False].running_mean, 0.9 * 0.1 * means[0] + 0.1 * means[1])


def test_a_coin_chooses_the_view_of_each_level() -> None:
    model = make("cnn", "rclstr", query_views="either").eval()
    first, second = views()
    order = torch.tensor([2, 0, 3, 1])
    sides = []
    for seed in range(40):
        outputs = model(first, second, order=order, generator=seeded(seed))
        sides.append(
            tuple(outputs.terms[f"{level}_contrastive"].item() for level in ("frame", "subword", "word"))
        )
    expected = {}
    for query_views in ("plain", "rearranged"):
        model.config.query_views = query_views
        terms = model(first, second, order=order).terms
        expected[query_views] = [
            terms[f"{level}_contrastive"].item() for level in ("frame", "subword", "word")
        ]
    for index in range(3):
        seen = {round(side[index], 4) for side in sides}
        assert seen == {round(expected[name][index], 4) for name in expected}
    assert (
        len({tuple(round(value, 4) for value in side) for side in sides}) > 2
    )  # each level has its own coin


def test_queries_without_a_plain_view_still_interact_by_the_plain_one() -> None:
    names: list[int] = []
    model = make("cnn", "rclstr", query_views="rearranged", joint_views=False)
    model.model.encoder.register_forward_hook(lambda *_: names.append(1))
    outputs = model(*views())
    assert len(names) == 3  # plain, rearranged, keys
    assert outputs.inter_hierarchical_loss is not None
    names.clear()
    make_only = make("cnn", "reg", query_views="rearranged", joint_views=False)
    make_only.model.encoder.register_forward_hook(lambda *_: names.append(1))
    make_only(*views())
    assert len(names) == 2


def test_keys_have_no_gradient_and_leave_the_model_as_it_was(encoder: str) -> None:
    model = make(encoder, masked_batch_norm="separate_buffers")
    before = buffers(model)
    keys = model.encode_keys(views(encoder)[1])
    assert all(not vectors.requires_grad for vectors in keys.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_buffers())
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_keys_take_the_statistics_of_their_batch() -> None:
    """In training mode running statistics do not matter, so a momentum copy needs none."""
    model = make()
    expected = model.encode_keys(views()[1])
    for module in model.modules():
        if isinstance(module, SparseBatchNorm2d):
            for name, buffer in module.named_buffers():
                if "running" in name:
                    buffer.uniform_(1, 5)
    keys = model.encode_keys(views()[1])
    assert all(torch.equal(keys[level], expected[level]) for level in keys)


def test_frozen_copy_serves_as_momentum_encoder(encoder: str) -> None:
    model = make(encoder)
    momentum = copy.deepcopy(model).requires_grad_(False).train()
    first, second = views(encoder)
    outputs = model(first, keys=momentum.encode_keys(second), negatives=queues(model), generator=seeded())
    outputs.loss.backward()
    assert all(parameter.grad is None for parameter in momentum.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), momentum.parameters(), strict=True))
