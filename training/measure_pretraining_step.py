"""Time one training step of RCMSTR against the straightforward way to write it, on the same weights.

    python -m training.measure_pretraining_step                                  # a small CNN, a minute
    python -m training.measure_pretraining_step encoder=vit size=paper           # the paper's sizes
    python -m training.measure_pretraining_step size=paper batch_size=256 device=cuda precision=bf16

A step is: keys by the momentum copy, all terms, gradients, one SGD update. The straightforward way follows
the papers line by line: one encoder pass for each of plain, rearranged and masked words, masks multiplied
into dense maps after every layer, a loop over levels, and for every loss its own product with the queue. Both
ways take turns, so that what else the machine does burdens both; on a CPU the time is that of the process,
not of the clock. Before timing, losses and gradients of both are compared in float64, each view in a pass of
its own (`joint_views=False`).
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.encoder_cnn import EncoderOutput
from modeling_rcmstr.pretraining_rcmstr import RCMSTRForPreTraining
from training.run_state import machine_kind, write_json_file

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "embedding_sizes": (16, 32),
        "hidden_sizes": (32, 64, 128, 128),
        "depths": (1, 1, 2, 1),
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 384,
        "projector_size": 128,
    },
    "paper": {},
}


@dataclass
class Settings:
    """What is measured.

    Args:
        encoder: "cnn" (32x100) or "vit" (32x128).
        size: "small" or "paper".
        batch_size: words of a step.
        queue_size: keys of each level's queue; the papers' 65536.
        rounds: timed steps of each way.
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16" (autocast).
        output: JSON file for the figures; none if empty.
    """

    encoder: str = "cnn"
    size: str = "small"
    batch_size: int = 32
    queue_size: int = 65536
    rounds: int = 5
    device: str = "cpu"
    precision: str = "fp32"
    output: str = ""


@dataclass
class Step:
    """Everything that one step is a function of."""

    model: Any  # RCMSTRForPreTraining, with all of its parts
    momentum_model: Any
    pixel_values: Tensor
    second_pixel_values: Tensor
    negatives: dict[str, Tensor]
    order: Tensor
    visible: Tensor


def main(argv: list[str]) -> float:
    """Compare, time, print, keep; returns how many times faster the package's way is."""
    settings = measurement_settings(argv)
    step = prepare_step(settings)
    difference = compare_ways(step)
    print(f"largest relative difference of losses and gradients in float64: {difference:.1e}")
    times: dict[str, list[float]] = {"straightforward": [], "package": []}
    optimizer = torch.optim.SGD(step.model.parameters(), lr=1e-6, momentum=0.9)
    for index in range(settings.rounds + 1):
        for name, way in (("straightforward", straightforward_loss), ("package", package_loss)):
            seconds = time_step(way, step, optimizer, settings)
            if index:  # the first round warms up
                times[name].append(seconds)
    for name, values in times.items():
        seconds = statistics.median(values)
        print(
            f"{name:15s} {seconds:8.3f} s per step, {settings.batch_size / seconds:8.1f} words/s "
            f"(median of {settings.rounds}; {min(values):.3f} to {max(values):.3f} s)"
        )
    pairs = zip(times["straightforward"], times["package"], strict=True)
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    print(f"{settings} → {ratio:.2f} times as fast")
    if settings.output:
        figures = {"settings": asdict(settings), "largest_difference": difference, "seconds": times}
        write_json_file(Path(settings.output), {**figures, "speedup": ratio, "machine": machine_kind()})
    return ratio


def measurement_settings(argv: list[str]) -> Settings:
    """Read `name=value` arguments.

    Raises:
        ValueError: for an unknown name or value.
    """
    kinds = {field.name: type(getattr(Settings(), field.name)) for field in fields(Settings)}
    given: dict[str, Any] = {}
    for argument in argv:
        name, _, value = argument.partition("=")
        if name not in kinds:
            raise ValueError(f"unknown setting {name!r}; known: {', '.join(kinds)}.")
        given[name] = kinds[name](value)
    settings = Settings(**given)
    known = {"encoder": ("cnn", "vit"), "size": tuple(SIZES), "precision": ("fp32", "bf16")}
    for name, values in known.items():
        if getattr(settings, name) not in values:
            raise ValueError(f"`{name}` must be one of {', '.join(values)}, got {getattr(settings, name)!r}.")
    return settings


def prepare_step(settings: Settings, **config_fields: Any) -> Step:
    """Build the model and random inputs from one seed."""
    torch.manual_seed(0)
    width = 100 if settings.encoder == "cnn" else 128
    sizes = {
        "encoder_type": settings.encoder,
        "image_size": (32, width),
        **SIZES[settings.size],
        **config_fields,
    }
    config = RCMSTRConfig(**sizes)
    model: Any = RCMSTRForPreTraining(config)
    model = model.to(settings.device).train()
    momentum_model = copy.deepcopy(model).requires_grad_(False).train()
    shape = (settings.batch_size, 3, 32, width)
    first, second = (torch.randn(shape, device=settings.device) for _ in range(2))
    bank = (settings.queue_size, config.projection_dim)
    negatives = {
        level: F.normalize(torch.randn(bank, device=settings.device), dim=1) for level in config.key_levels
    }
    visible = model.sample_visible(settings.batch_size, width).to(settings.device)
    return Step(model, momentum_model, first, second, negatives, torch.tensor([2, 0, 3, 1]), visible)


def package_loss(step: Step) -> Tensor:
    """One step as the package computes it."""
    keys = step.momentum_model.encode_keys(step.second_pixel_values)
    outputs = step.model(
        step.pixel_values, keys=keys, negatives=step.negatives, order=step.order, visible=step.visible
    )
    return outputs.loss


def time_step(way: Any, step: Step, optimizer: torch.optim.Optimizer, settings: Settings) -> float:
    """Run one step and return its seconds: of the process on a CPU, of the clock on an accelerator."""
    on_cpu = settings.device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    half = settings.precision == "bf16"
    optimizer.zero_grad(set_to_none=True)
    if not on_cpu:
        torch.cuda.synchronize()
    start = clock()
    with torch.autocast(settings.device, torch.bfloat16) if half else nullcontext():
        loss = way(step)
    loss.backward()
    optimizer.step()
    if not on_cpu:
        torch.cuda.synchronize()
    return clock() - start


def compare_ways(step: Step) -> float:
    """Return the largest difference of loss and gradients between both ways, relative to each tensor.

    In float64 on the first four words, with each view in a pass of its own.
    """
    model, momentum_model = (copy.deepcopy(each).double() for each in (step.model, step.momentum_model))
    model.config.joint_views = False
    negatives = {level: bank[:256].double() for level, bank in step.negatives.items()}
    views = (step.pixel_values[:4].double(), step.second_pixel_values[:4].double())
    small = Step(model, momentum_model, *views, negatives, step.order, step.visible[:4])
    results = []
    for way in (straightforward_loss, package_loss):
        model.zero_grad(set_to_none=True)
        loss = way(small)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    largest = max(float(value.abs().max()) for value in results[0][1:])
    return max(
        float((ours - theirs).abs().max() / max(float(theirs.abs().max()), 1e-3 * largest))
        for theirs, ours in zip(*results, strict=True)
    )


def straightforward_loss(step: Step) -> Tensor:
    """One step written line by line from the papers."""
    model, config = step.model, step.model.config
    with torch.no_grad():
        keys = _levels(
            step.momentum_model,
            _project(step.momentum_model, _encode(step.momentum_model, step.second_pixel_values)),
        )
    plain = _levels(model, _project(model, _encode(model, step.pixel_values)))
    group, blocks = config.images_per_group, config.blocks_per_image
    collage = _exchange(step.pixel_values, 3, step.order, group, blocks)
    frames = _project(model, _encode(model, collage))
    rearranged = _levels(model, _exchange(frames, 1, step.order.argsort(), group, blocks))
    loss = _masked_branch(step)
    for index, level in enumerate(config.key_levels):
        query = torch.cat([plain[level], rearranged[level]]).flatten(0, 1)
        key = torch.cat([keys[level], keys[level]]).flatten(0, 1)
        loss = loss + config.contrastive_weights[index] * _info_nce(query, key, step.negatives[level], config)
        loss = loss + config.consistency_weights[index] * _consistency(
            query, key, step.negatives[level], config
        )
    for fine, coarse in config.inter_pairs:
        query, key = plain[fine], keys[coarse]
        if coarse == "subword":
            stride = query.shape[1] // config.num_subwords
            size = query.shape[1] - (config.num_subwords - 1) * stride
            windows = [query[:, i * stride : i * stride + size] for i in range(config.num_subwords)]
            query = torch.cat(windows, dim=1)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        value = _consistency(query.flatten(0, 1), key.flatten(0, 1), step.negatives[coarse], config)
        loss = loss + config.inter_consistency_weight * value
    return loss


def _exchange(tensor: Tensor, axis: int, order: Tensor, group: int, blocks: int) -> Tensor:
    collages: list[Tensor] = []
    for start in range(0, len(tensor), group):
        strip = torch.cat(list(tensor[start : start + group]), dim=axis - 1)
        pieces = strip.chunk(group * blocks, dim=axis - 1)
        strip = torch.cat([pieces[i] for i in order.tolist()], dim=axis - 1)
        collages += strip.chunk(group, dim=axis - 1)
    return torch.stack(collages)


def _masked_branch(step: Step) -> Tensor:
    model, config = step.model, step.model.config
    encoded = model.model.encoder(step.pixel_values, step.visible) if config.encoder_type == "vit" else None
    if encoded is None:
        encoded = _cnn_pass(model.model.encoder, step.pixel_values, step.visible)
    assert model.reconstruction_head is not None
    prediction = model.reconstruction_head(encoded)
    target = F.pixel_unshuffle(step.pixel_values, config.patch_size)
    target = (target - target.mean(1, keepdim=True)) / (target.var(1, keepdim=True) + 1e-6).sqrt()
    error = (prediction - target).square().mean(1)
    hidden = ~step.visible[:, 0]
    return config.reconstruction_weight * (error * hidden).sum() / hidden.sum()


def _encode(model: Any, pixel_values: Tensor) -> Tensor:
    if model.config.encoder_type == "vit":
        return model.model.encoder(pixel_values).last_hidden_state
    return _cnn_pass(model.model.encoder, pixel_values, None).last_hidden_state


def _project(model: Any, feature_map: Tensor) -> Tensor:
    frames = feature_map.mean(2).transpose(1, 2)
    for layer in model.projector:
        frames = layer(frames)
    return frames


def _levels(model: Any, frames: Tensor) -> dict[str, Tensor]:
    pooled = {
        "frame": frames,
        "subword": F.adaptive_avg_pool1d(frames.transpose(1, 2), model.config.num_subwords).transpose(1, 2),
        "word": frames.mean(1, keepdim=True),
    }
    return {level: F.normalize(model.predictors[level](values), dim=-1) for level, values in pooled.items()}


def _info_nce(query: Tensor, key: Tensor, queue: Tensor, config: RCMSTRConfig) -> Tensor:
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ queue.T], dim=1) / config.contrastive_temperature
    return F.cross_entropy(logits, logits.new_zeros(len(query), dtype=torch.long))


def _consistency(query: Tensor, key: Tensor, queue: Tensor, config: RCMSTRConfig) -> Tensor:
    ours = F.log_softmax(query @ queue.T / config.consistency_temperature, dim=1)
    theirs = F.log_softmax(key @ queue.T / config.consistency_temperature, dim=1)
    there = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    back = F.kl_div(theirs, ours, log_target=True, reduction="batchmean")
    return (there + back) / 2


def _cnn_pass(encoder: Any, pixel_values: Tensor, visible: Tensor | None) -> Any:
    """The CNN with masks multiplied into dense maps."""
    active = None
    if visible is not None:
        active = visible.to(pixel_values.dtype).repeat_interleave(4, 2).repeat_interleave(4, 3)
        pixel_values = pixel_values * active
    feature_map = pixel_values
    for layer in encoder.stem:
        feature_map = _conv_layer(layer, feature_map, active)
    maps, activities = [feature_map], [active]
    for stage in encoder.stages:
        if stage.pooling is not None:
            feature_map = F.max_pool2d(feature_map, 2, *stage.pooling)
            active = None if active is None else F.max_pool2d(active, 2, *stage.pooling)
            feature_map = feature_map if active is None else feature_map * active
        for block in stage.blocks:
            residual = _conv_layer(block.second, _conv_layer(block.first, feature_map, active), active)
            shortcut = (
                feature_map if block.shortcut is None else _conv_layer(block.shortcut, feature_map, active)
            )
            feature_map = F.relu(residual + shortcut)
        for layer, (kernel, stride, padding) in zip(stage.closing, stage.closing_geometry, strict=True):
            if active is not None and kernel != 3:
                active = F.max_pool2d(active, kernel, stride, padding)
            feature_map = _conv_layer(layer, feature_map, active)
        maps.append(feature_map)
        activities.append(active)
    known = tuple(each for each in activities if each is not None) or None
    return EncoderOutput(feature_map, hidden_states=tuple(maps), active=known)


def _conv_layer(layer: Any, feature_map: Tensor, active: Tensor | None) -> Tensor:
    feature_map = layer.convolution(feature_map)
    norm = layer.normalization
    if active is None:
        feature_map = F.batch_norm(feature_map, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
    else:
        feature_map = feature_map * active
        count = active.sum()
        mean = feature_map.sum((0, 2, 3), keepdim=True) / count
        variance = ((feature_map - mean) * active).square().sum((0, 2, 3), keepdim=True) / count
        feature_map = (feature_map - mean) / (variance + norm.eps).sqrt()
        feature_map = (feature_map * norm.weight[:, None, None] + norm.bias[:, None, None]) * active
    return F.relu(feature_map) if layer.activation else feature_map


if __name__ == "__main__":
    main(sys.argv[1:])
