"""Time PerSec's contrastive loss, and its memory, against a version that gathers distractors, in one run.

    python -m training.measure_perceiver_loss                       # the paper's 32x384, batch 64, on the CPU
    python -m training.measure_perceiver_loss --batch-size 8        # a try
    python -m training.measure_perceiver_loss --device cuda --rounds 50

A step is both levels: draw the distractors of all masked positions, the loss, and its gradient by context and
targets. The straightforward version holds a (B, M, 1 + K, C) tensor of positives and distractors, as wav2vec
2.0's released code does. Both draw the same distractors from the same seed and must give the same loss. They
take turns, round by round, so that whatever else the machine does meets both. Memory is what a step needs
above its inputs: on a CPU the growth of the resident set of a process of its own, on a GPU what the allocator
counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.configuration_persec import PerSecConfig
from modeling_rcmstr.feature_masking import sample_span_mask
from modeling_rcmstr.perceiver_losses import (
    Distractors,
    MaskedQueries,
    masked_queries,
    perceiver_contrastive_loss,
    sample_distractors,
)
from training.run_state import machine_kind, write_json_file

MEGABYTE = 2**20
# Where Linux keeps account of a process's memory, and forgets its peak when told to.
STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Rows and columns of the two levels at 32x384: CNN or ViT stroke map, CNN frames.
LEVEL_SIZES = {"stroke": (8, 96), "semantic": (1, 97)}


@dataclass
class LevelInputs:
    """What a level's loss is computed from: (B, N, C) context and targets, codes, positions, queries."""

    context: Tensor
    targets: Tensor
    codes: Tensor
    valid: Tensor
    queries: MaskedQueries


@dataclass(frozen=True)
class Measurement:
    """One version: median seconds of a step, and peak bytes above the inputs."""

    seconds: float
    peak_bytes: int


Step = Callable[[Sequence[LevelInputs], int], float]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both versions and print their figures and ratios."""
    options = _parse(argv)
    torch.set_num_threads(options.threads)
    levels = make_levels(options.batch_size, options.device)
    losses = {name: step(levels, 0) for name, step in VERSIONS.items()}
    if abs(losses["gathered"] - losses["matrix"]) > 1e-4 * abs(losses["gathered"]):
        raise RuntimeError(f"the two versions do not compute the same loss: {losses}.")
    seconds = time_in_turns(levels, options.rounds)
    peaks = {
        name: measure_peak(name, options.batch_size, options.device, options.threads) for name in VERSIONS
    }
    print(report(options.batch_size, seconds, peaks, next(iter(losses.values()))))
    if options.output is not None:
        figures = {"batch_size": options.batch_size, "seconds": seconds, "peak_bytes": peaks}
        speedup, memory_ratio = ratios(seconds, peaks)
        found = {"speedup": speedup, "memory_ratio": memory_ratio, "machine": machine_kind()}
        write_json_file(options.output, {**figures, **found})


def make_levels(batch_size: int, device: str) -> list[LevelInputs]:
    """Random inputs of both levels at 32x384, masked as in pretraining."""
    config = PerSecConfig()
    generator = torch.Generator().manual_seed(0)
    levels = []
    for name, level in (("stroke", config.stroke_level), ("semantic", config.semantic_level)):
        rows, columns = LEVEL_SIZES[name]
        valid = torch.ones(batch_size, rows, columns, dtype=torch.bool)
        mask = (
            sample_span_mask(valid, level.mask_ratio, level.mask_span, generator=generator)
            .flatten(1)
            .to(device)
        )
        size = (batch_size, rows * columns, config.perceiver_hidden_size)
        context, targets = (
            torch.randn(size, generator=generator).to(device).requires_grad_() for _ in range(2)
        )
        codes = torch.randint(0, config.codebook_size, (*size[:2], config.num_codebooks), generator=generator)
        levels.append(
            LevelInputs(context, targets, codes.to(device), valid.flatten(1).to(device), masked_queries(mask))
        )
    return levels


def step_by_matrix(levels: Sequence[LevelInputs], seed: int) -> float:
    """One step of the package's loss; returns the sum over levels."""
    return _step(levels, seed, perceiver_contrastive_loss_of)


def step_by_gathering(levels: Sequence[LevelInputs], seed: int) -> float:
    """One step of the straightforward loss; returns the sum over levels."""
    return _step(levels, seed, gathered_contrastive_loss)


def perceiver_contrastive_loss_of(level: LevelInputs, distractors: Distractors, temperature: float) -> Tensor:
    """The package's loss of a level."""
    terms = perceiver_contrastive_loss(
        level.context, level.targets, level.codes, level.queries, distractors, temperature
    )
    return terms.loss


def gathered_contrastive_loss(level: LevelInputs, distractors: Distractors, temperature: float) -> Tensor:
    """The same loss with every distractor's vector copied out of the targets, then cosine by cosine."""
    starts = torch.arange(len(level.context), device=level.context.device)[:, None] * level.context.shape[1]
    own, others = level.queries.index + starts, distractors.index + starts[..., None]  # through the batch
    query, target = _rows(level.context, own), _rows(level.targets, own)  # (B, M, C)
    candidates = torch.cat([target[:, :, None], _rows(level.targets, others)], dim=2)  # (B, M, 1 + K, C)
    logits = F.cosine_similarity(query[:, :, None], candidates, dim=-1) / temperature
    same = (_rows(level.codes, others) == _rows(level.codes, own)[:, :, None]).all(-1)
    left_out = same | ~distractors.present
    logits = logits.masked_fill(F.pad(left_out, (1, 0)), -torch.inf)
    return F.cross_entropy(
        logits[level.queries.present], logits.new_zeros(int(level.queries.present.sum())).long()
    )


VERSIONS: dict[str, Step] = {"gathered": step_by_gathering, "matrix": step_by_matrix}


def time_in_turns(levels: Sequence[LevelInputs], rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` steps of each version, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in VERSIONS}
    for number in range(rounds):
        for name, step in VERSIONS.items():
            _wait(levels[0].context.device)
            start = time.perf_counter()
            step(levels, number)
            _wait(levels[0].context.device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_peak(name: str, batch_size: int, device: str, threads: int) -> int:
    """Peak bytes of one step above its inputs, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(sender, name, batch_size, device, threads))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"the process that measures {name!r} ended without a figure.") from None
    finally:
        process.join()


def report(batch_size: int, seconds: dict[str, list[float]], peaks: dict[str, int], loss: float) -> str:
    """The figures of both versions in lines, and how they compare."""
    lines = [f"contrastive loss of both levels, 32x384, batch {batch_size}; same loss {loss:.4f}"]
    found = {name: Measurement(statistics.median(values), peaks[name]) for name, values in seconds.items()}
    for name, figures in found.items():
        lines.append(
            f"{name:9} {1000 * figures.seconds:9.1f} ms a step  {1 / figures.seconds:8.2f} steps/s  "
            f"{figures.peak_bytes / MEGABYTE:8.1f} MB peak"
        )
    speed, memory = ratios(seconds, peaks)
    lines.append(f"matrix is {speed:.2f} times as fast and needs {memory:.2f} times less memory")
    return "\n".join(lines)


def ratios(seconds: dict[str, list[float]], peaks: dict[str, int]) -> tuple[float, float]:
    """How many times as fast the matrix version is (median of the rounds), how much less memory it needs."""
    pairs = zip(seconds["gathered"], seconds["matrix"], strict=True)
    speed = statistics.median(gathered / matrix for gathered, matrix in pairs)
    return speed, peaks["gathered"] / max(1, peaks["matrix"])


def _step(
    levels: Sequence[LevelInputs], seed: int, loss_of: Callable[[LevelInputs, Distractors, float], Tensor]
) -> float:
    config = PerSecConfig()
    generator = torch.Generator(levels[0].context.device).manual_seed(seed)
    total = 0.0
    for level in levels:
        distractors = sample_distractors(
            level.queries, level.valid, config.num_negatives, config.negatives_scope, generator
        )
        loss = loss_of(level, distractors, config.contrastive_temperature)
        level.context.grad = level.targets.grad = None
        loss.backward()
        total += float(loss.detach())
    return total


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Copy rows `index` (…) of (B, N, C) values laid end to end: (…, C). The fastest way to gather them."""
    return values.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


def _report_peak(sender: Connection, name: str, batch_size: int, device: str, threads: int) -> None:
    """Runs in a process of its own and sends the peak."""
    torch.set_num_threads(threads)
    VERSIONS[name](make_levels(1, device), 0)  # what libraries set up once is not the step's
    levels = make_levels(batch_size, device)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        VERSIONS[name](levels, 0)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        PEAK_RESET.write_text("5")  # the high-water mark starts again from here
        before = _resident_bytes("VmRSS")
        VERSIONS[name](levels, 0)
        peak = _resident_bytes("VmHWM") - before
    sender.send(peak)
    sender.close()


def _resident_bytes(field: str) -> int:
    """A line of the kernel's account of this process, which says kB."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return 1024 * int(lines[field].split()[0])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64, help="words of a step")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each version")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch on a CPU")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(argv)
    for name in ("batch_size", "rounds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.device == "cpu" and not PEAK_RESET.exists():
        parser.error("the memory of a CPU step is read from /proc, which Linux has; use --device cuda")
    return options


if __name__ == "__main__":
    main()
