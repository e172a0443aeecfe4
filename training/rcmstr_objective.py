"""RCMSTR's part of the training loop (arXiv:2411.11219): momentum encoder, queues, masks and orders."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from training.collapse_detection import effective_rank, queue_similarity, uniformity
from training.feature_queue import FeatureQueues, gather_rows
from training.momentum_encoder import MomentumEncoder
from training.objectives import Objective, Progress, derive_seed
from training.pretraining_arguments import ObjectiveArguments

# First numbers of the generators' seeds, so that no two kinds of draws share a stream.
MASK_STREAM, ORDER_STREAM, SHUFFLE_STREAM = 11, 12, 13


class RCMSTRObjective(Objective):
    """Momentum encoder, queues, masks and orders of RCMSTR (arXiv:2411.11219).

    Args:
        model: the unwrapped `RCMSTRForPreTraining`, on its device.
        arguments: queue size, momentum, order of enqueueing.
        seed: of the run.
        words_per_slot: words of one batch of one process.
        slots: batches of an update, over all processes.
        shuffles: encode keys among other words than their queries.
        precision: makes the autocast context that keys are encoded under.
    """

    num_views = 2
    loss_names = (
        "loss",
        "contrastive_loss",
        "consistency_loss",
        "inter_hierarchical_loss",
        "reconstruction_loss",
    )

    def __init__(
        self,
        model: Any,
        arguments: ObjectiveArguments,
        seed: int,
        words_per_slot: int,
        slots: int,
        shuffles: bool = False,
        precision: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        group = model.config.images_per_group
        if words_per_slot % group:
            raise ValueError(
                f"`batch_size` must be a multiple of `images_per_group` {group}, got {words_per_slot}."
            )
        self.model = model
        self.legacy_enqueue = arguments.legacy_enqueue
        self.seed = seed
        self.words_per_slot = words_per_slot
        self.slots = slots
        self.shuffles = shuffles
        self.precision = precision
        self.momentum: MomentumEncoder | None = None
        self.queues: FeatureQueues | None = None
        self._pending: list[dict[str, Tensor]] = []
        self._hidden_share = 1.0
        if model.config.key_levels:
            self.momentum = MomentumEncoder(model, float(arguments.key_momentum))
            height, width = model.config.image_size
            blank = next(model.parameters()).new_zeros(2, model.config.num_channels, height, width)
            example = self.momentum.encode(blank)
            self.queues = FeatureQueues(example, arguments.queue_size, words_per_slot * slots, seed)

    def inputs(self, batch: dict[str, Tensor], progress: Progress) -> dict[str, Any]:
        """Encode the keys; add the queues, this slot's part of the update's masks, and the update's order.

        Raises:
            ValueError: for words of unequal width.
        """
        if "pixel_mask" in batch:
            raise ValueError(
                "RCMSTR pretrains on words of one width: leave `keep_aspect_ratio` off in `processor`."
            )
        generator = self._generator(ORDER_STREAM, progress)
        inputs: dict[str, Any] = {"pixel_values": batch["pixel_values"], "generator": generator}
        if self.model.config.reconstruction_weight:
            inputs["visible"] = self._visible(batch["pixel_values"], progress)
        if self.momentum is not None and self.queues is not None:
            inputs["order"] = self.model.sample_order(generator)
            inputs["keys"] = self.momentum.encode(
                batch["second_pixel_values"],
                self._generator(SHUFFLE_STREAM, progress, progress.batch) if self.shuffles else None,
                self.precision() if self.precision is not None else None,
            )
            inputs["negatives"] = self.queues.negatives()
            if progress.batch == 0:
                self._pending = []
            self._pending.append({level: gather_rows(keys) for level, keys in inputs["keys"].items()})
            if self.legacy_enqueue:
                inputs["inter_negatives"] = self.queues.after(self._pending)
        return inputs

    def loss(self, outputs: Any, progress: Progress) -> Tensor:  # noqa: ARG002
        """The model's loss, its masked term weighted by this slot's share of the update's hidden patches.

        The term is a mean over hidden patches, and words have different numbers of them; with the weight, the
        mean over the slots is the mean over all hidden patches of the update, as one process with all words
        has it.
        """
        if self._hidden_share == 1.0 or outputs.reconstruction_loss is None:
            return outputs.loss
        weight = self.model.config.reconstruction_weight * (self._hidden_share - 1.0)
        return outputs.loss + weight * outputs.reconstruction_loss

    def after_step(self, outputs: Any, progress: Progress) -> None:  # noqa: ARG002
        """Move the momentum encoder, and put the update's keys into the queues in the order of the words."""
        if self.momentum is not None and self.queues is not None:
            self.momentum.update(self.model)
            for keys in self._pending:
                self.queues.enqueue(keys)
        self._pending = []

    def losses(self, outputs: Any) -> dict[str, Tensor]:
        """The sums over levels, and their parts as `term/NAME`; the masked term is weighted as in `loss`."""
        parts = {f"term/{name}": value.detach() for name, value in (outputs.terms or {}).items()}
        values = super().losses(outputs) | parts
        for name in ("reconstruction_loss", "term/reconstruction"):
            if name in values:
                values[name] = values[name] * self._hidden_share
        return values | {"loss": self.loss(outputs, Progress(0, 1)).detach()}

    @torch.no_grad()
    def statistics(self, outputs: Any) -> dict[str, float]:
        """Per level: cosine of query and key, keys against the queue, and spread of the queries."""
        numbers: dict[str, float] = {}
        if self.queues is None or outputs.query_embeds is None:
            return numbers
        temperature = self.model.config.contrastive_temperature
        for level, queue in self.queues.queues.items():
            queries = outputs.query_embeds[level].flatten(0, 1).float()
            keys = outputs.key_embeds[level].flatten(0, 1).float()
            numbers[f"{level}/positive"] = float((queries * keys).sum(-1).mean())
            # This update's keys are in the queue already; they would be their own nearest neighbours.
            earlier = queue.without_newest(
                self.words_per_slot * self.slots * outputs.key_embeds[level].shape[1]
            )
            similarity = queue_similarity(keys, earlier, temperature) if len(earlier) else {}
            numbers |= {f"{level}/queue_{name}": value for name, value in similarity.items()}
            if len(queries) > 1:
                numbers[f"{level}/uniformity"] = uniformity(queries)
                numbers[f"{level}/effective_rank"] = effective_rank(queries)
        return numbers

    def warnings(self, statistics: dict[str, float]) -> list[str]:
        """Levels whose queries have become one direction."""
        return [
            f"the {name.partition('/')[0]} features have collapsed to one direction ({name} {value:.4f})."
            for name, value in statistics.items()
            if name.endswith("/uniformity") and value > -0.01
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """Momentum encoder and queues."""
        if self.momentum is None or self.queues is None:
            return {}
        state = {f"momentum.{name}": tensor for name, tensor in self.momentum.state_dict().items()}
        return state | {f"queue.{name}": tensor for name, tensor in self.queues.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over momentum encoder and queues."""
        if self.momentum is not None and self.queues is not None:
            self.momentum.load_state_dict(_part(state, "momentum."))
            self.queues.load_state_dict(_part(state, "queue."))

    def _visible(self, pixel_values: Tensor, progress: Progress) -> Tensor:
        """This slot's rows of the update's masks, which every process draws for all words."""
        generator = self._generator(MASK_STREAM, progress)
        words = self.words_per_slot * self.slots
        visible = self.model.sample_visible(words, pixel_values.shape[-1], generator)
        first = progress.slot * self.words_per_slot
        own = visible[first : first + self.words_per_slot]
        self._hidden_share = self.slots * int((~own).sum()) / int((~visible).sum())
        return own.to(pixel_values.device)

    def _generator(self, stream: int, progress: Progress, *more: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, stream, progress.update, *more))


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
