"""Ring buffers of past keys: the negatives of contrastive pretraining (MoCo, arXiv:1911.05722).

There is one queue for each level. It holds the keys of all processes in one order that is the same
everywhere: that of the words of the update. It is part of the run, not of the model, and is saved with the
run's state. Losses of an update see the queue as it was before the update; its keys enter at the end.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def queue_capacity(queue_size: int, keys_per_word: int, words_per_update: int) -> int:
    """Largest multiple of an update's keys within `queue_size`: updates fill the ring without a remainder.

    Returns:
        floor(queue_size / (n B)) n B for n keys per word and B words per update, of all processes together.

    Raises:
        ValueError: when not even one update fits.
    """
    keys = keys_per_word * words_per_update
    capacity = queue_size // keys * keys
    if not capacity:
        raise ValueError(
            f"`queue_size` must hold at least the keys of one update, {keys} = {keys_per_word} per word x "
            f"{words_per_update} words; got {queue_size}."
        )
    return capacity


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, equally many of each, in the order of their ranks; the same everywhere."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    parts = [
        torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class FeatureQueue:
    """First in, first out; starts with random directions.

    Args:
        capacity: number of keys, K.
        feature_size: D of a key.
        seed: of the first content.
        device: where the keys lie.

    Attributes:
        features: (K, D) float32 unit vectors.
        position: row that the next key goes to.
        filled: rows that hold keys; the others still hold random directions.
    """

    def __init__(
        self, capacity: int, feature_size: int, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        if capacity < 1 or feature_size < 1:
            raise ValueError(
                f"`capacity` and `feature_size` must be positive, got {capacity} and {feature_size}."
            )
        generator = torch.Generator().manual_seed(seed)
        self.features = F.normalize(torch.randn(capacity, feature_size, generator=generator), dim=1).to(
            device
        )
        self.position = 0
        self.filled = 0

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put (M, D) keys in, in order, over the oldest ones; of more than K keys the last K stay.

        Raises:
            ValueError: when D is another.
        """
        if keys.ndim != 2 or keys.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"`keys` must be (M, {self.features.shape[1]}) like the queue's, got {tuple(keys.shape)}."
            )
        capacity = len(self.features)
        skipped = max(0, len(keys) - capacity)
        rows = torch.arange(skipped, len(keys), device=self.features.device)
        rows = (rows + self.position) % capacity
        self.features[rows] = keys[skipped:].to(self.features)
        self.position = (self.position + len(keys)) % capacity
        self.filled = min(capacity, self.filled + len(keys))

    def without_newest(self, count: int) -> Tensor:
        """The (K - count, D) rows that the last `count` keys did not go to."""
        return self.features.roll(-self.position, 0)[: len(self.features) - count]


class FeatureQueues:
    """One queue for each level of the hierarchy.

    Args:
        keys: an example of the keys by level, each (B, n, D).
        queue_size: keys per level, at most.
        words_per_update: of all processes and accumulated batches together.
        seed: of the first content.
    """

    def __init__(
        self, keys: dict[str, Tensor], queue_size: int, words_per_update: int, seed: int = 0
    ) -> None:
        self.queues = {
            level: FeatureQueue(
                queue_capacity(queue_size, example.shape[1], words_per_update),
                example.shape[2],
                seed + number,
                example.device,
            )
            for number, (level, example) in enumerate(sorted(keys.items()))
        }

    def negatives(self) -> dict[str, Tensor]:
        """(K, D) unit vectors by level."""
        return {level: queue.features for level, queue in self.queues.items()}

    def enqueue(self, keys: dict[str, Tensor]) -> None:
        """Put in keys (B, n, D) by level, word by word."""
        for level, queue in self.queues.items():
            queue.enqueue(keys[level].flatten(0, 1))

    def after(self, updates: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `negatives` would be with these keys put in; the queues stay as they are."""
        features = {}
        for level, queue in self.queues.items():
            later = copy.deepcopy(queue)
            for keys in updates:
                later.enqueue(keys[level].flatten(0, 1))
            features[level] = later.features
        return features

    def state_dict(self) -> dict[str, Tensor]:
        """Content, position and fill of every queue, as tensors."""
        state = {}
        for level, queue in self.queues.items():
            state[f"{level}.features"] = queue.features
            state[f"{level}.position"] = torch.tensor([queue.position, queue.filled])
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: when levels or sizes differ, naming the settings that decide them.
        """
        for level, queue in self.queues.items():
            features = state.get(f"{level}.features")
            if features is None or features.shape != queue.features.shape:
                found = None if features is None else tuple(features.shape)
                raise ValueError(
                    f"the saved {level} queue is {found}, this run's {tuple(queue.features.shape)}; resume "
                    "with the same `queue_size`, number of words per update and model."
                )
            queue.features = features.to(queue.features)
            queue.position, queue.filled = state[f"{level}.position"].tolist()
