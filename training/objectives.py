"""What a family adds to the training loop: inputs of its model, what follows an update, what must be saved.

    outputs = model(**objective.inputs(batch, progress))
    backward(objective.loss(outputs, progress)); optimizer.step()
    objective.after_step(outputs, progress)  # momentum, queues, code counts: here, once per update

An update is made of *slots*: batch m of process r is slot m·N + r of N processes. Everything random is drawn
for (seed, update) or (seed, update, slot), never for a process, so two processes with one batch each do what
one does with two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from training.pretraining_arguments import ObjectiveArguments


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        update: number of the update, from 0.
        max_updates: updates of the whole run.
        batch: number of the accumulated batch within the update.
        batches: accumulated batches of an update.
        rank: this process.
        world_size: number of processes.
    """

    update: int
    max_updates: int
    batch: int = 0
    batches: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def slot(self) -> int:
        """Number of this batch among those of the update, over all processes."""
        return self.batch * self.world_size + self.rank

    @property
    def slots(self) -> int:
        """Batches of an update, over all processes."""
        return self.batches * self.world_size

    def at_batch(self, batch: int) -> Progress:
        """The same update at another of its batches."""
        return replace(self, batch=batch)


class Objective(ABC):
    """The family's part of the loop.

    Attributes:
        num_views: views of a word that `inputs` wants.
        loss_names: scalar outputs of the model that the log shows, unweighted.
    """

    num_views: int
    loss_names: tuple[str, ...]

    @abstractmethod
    def inputs(self, batch: dict[str, Tensor], progress: Progress) -> dict[str, Any]:
        """Keyword arguments of the model for one batch."""

    def loss(self, outputs: Any, progress: Progress) -> Tensor:  # noqa: ARG002
        """What to take the gradient of; its mean over the slots is the loss of the update."""
        return outputs.loss

    @abstractmethod
    def after_step(self, outputs: Any, progress: Progress) -> None:
        """Do what is done once per update, after the optimizer's step; `outputs` are the last batch's."""

    def losses(self, outputs: Any) -> dict[str, Tensor]:
        """Every scalar term of one batch, unweighted, without gradient."""
        values = {name: getattr(outputs, name, None) for name in self.loss_names}
        return {name: value.detach() for name, value in values.items() if value is not None}

    @abstractmethod
    def statistics(self, outputs: Any) -> dict[str, float]:
        """Numbers that say whether the representation is alive; every process calls it at log steps."""

    def warnings(self, statistics: dict[str, float]) -> list[str]:  # noqa: ARG002
        """What a person should be told about the statistics."""
        return []

    def state_dict(self) -> dict[str, Tensor]:
        """What must be saved besides the model, the same on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: ARG002
        """Take over what `state_dict` gave."""
        return


def derive_seed(*numbers: int) -> int:
    """One seed of several numbers; different numbers give unrelated seeds."""
    # Their count comes first: a sequence with zeros at its end would be the same as without them.
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_objective(
    model: Any,
    arguments: ObjectiveArguments,
    seed: int,
    words_per_slot: int,
    slots: int,
    shuffles: bool = False,
    precision: Callable[[], AbstractContextManager[None]] | None = None,
) -> Objective:
    """The objective of a model's family.

    Raises:
        ValueError: for an unknown family, or settings that do not fit the model.
    """
    family = model.config.model_type
    if family == "rcmstr":
        from training.rcmstr_objective import RCMSTRObjective

        return RCMSTRObjective(model, arguments, seed, words_per_slot, slots, shuffles, precision)
    if family == "persec":
        from training.persec_objective import PerSecObjective

        return PerSecObjective(model, arguments, seed, next(model.parameters()).device)
    raise ValueError(f"no pretraining objective for model type {family!r}; known: rcmstr, persec.")
