"""PerSec's part of the training loop (AAAI 2022): Gumbel temperature, draws and code counts."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.collapse_detection import CodeUsage
from training.gumbel_schedule import gumbel_temperature
from training.objectives import Objective, Progress, derive_seed
from training.pretraining_arguments import ObjectiveArguments

# First number of the generators' seeds.
NOISE_STREAM = 14


class PerSecObjective(Objective):
    """Gumbel temperature, draws and code counts of PerSec (AAAI 2022, doi:10.1609/aaai.v36i2.20062).

    Args:
        model: the unwrapped `PerSecForPreTraining`.
        arguments: the temperature's schedule.
        seed: of the run.
        device: of the model; noise is drawn there.
    """

    num_views = 1
    loss_names = (
        "loss",
        *(
            f"{level}_{name}"
            for level in ("stroke", "semantic")
            for name in (
                "contrastive_loss",
                "diversity_loss",
                "feature_penalty",
                "perplexity",
                "contrastive_accuracy",
            )
        ),
    )

    def __init__(
        self, model: Any, arguments: ObjectiveArguments, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.config = model.config
        self.arguments = arguments
        self.seed = seed
        self.device = torch.device(device)
        self.usage = {level: CodeUsage() for level in ("stroke", "semantic")}
        self.temperature = float(arguments.gumbel_start)

    def inputs(self, batch: dict[str, Tensor], progress: Progress) -> dict[str, Any]:
        """Add the temperature of this update and the generator of this slot."""
        self.temperature = gumbel_temperature(
            progress.update,
            progress.max_updates,
            start=float(self.arguments.gumbel_start),
            floor=float(self.arguments.gumbel_end),
            floor_at=float(self.arguments.gumbel_share),
            decay=None if self.arguments.gumbel_factor is None else float(self.arguments.gumbel_factor),
        )
        seed = derive_seed(self.seed, NOISE_STREAM, progress.update, progress.slot)
        generator = torch.Generator(self.device).manual_seed(seed)
        return {**batch, "gumbel_temperature": self.temperature, "generator": generator}

    def after_step(self, outputs: Any, progress: Progress) -> None:  # noqa: ARG002
        """Count the codes of the last batch."""
        for level, usage in self.usage.items():
            codes = getattr(outputs, f"{level}_codes")
            if codes is not None:
                usage.add(count_codes(codes[getattr(outputs, f"{level}_valid")], self.config.codebook_size))

    def statistics(self, outputs: Any) -> dict[str, float]:  # noqa: ARG002
        """Temperature, and use of each codebook since the last log step, over all processes."""
        numbers = {"gumbel_temperature": self.temperature}
        for level, usage in self.usage.items():
            if usage.counts is not None and dist.is_initialized():
                dist.all_reduce(usage.counts)
            for number, book in enumerate(usage.read()):
                numbers[f"{level}_codebook_{number}/used"] = float(book.used)
                numbers[f"{level}_codebook_{number}/perplexity"] = book.perplexity
                numbers[f"{level}_codebook_{number}/collapsed"] = float(book.collapsed)
        return numbers

    def warnings(self, statistics: dict[str, float]) -> list[str]:
        """Codebooks that use hardly any of their entries."""
        return [
            f"{book.replace('_', ' ')} has collapsed ({statistics[f'{book}/used']:.0f} of "
            f"{self.config.codebook_size} entries used, perplexity {statistics[f'{book}/perplexity']:.1f}); "
            "raise the diversity weight or `gumbel_end`."
            for book, _, kind in (name.partition("/") for name in statistics)
            if kind == "collapsed" and statistics[f"{book}/collapsed"]
        ]


def count_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """(G, V) how often each entry was chosen, of (P, G) codes."""
    groups = codes.shape[1]
    offsets = torch.arange(groups, device=codes.device) * codebook_size
    return torch.bincount((codes + offsets).flatten(), minlength=groups * codebook_size).view(groups, -1)
