"""The ring of keys: order, wrap-around, sizes, state."""

import pytest
import torch

from training.feature_queue import FeatureQueue, FeatureQueues, gather_rows, queue_capacity


def numbered(start: int, stop: int, size: int = 2) -> torch.Tensor:
    """Keys that hold their own number."""
    return torch.arange(start, stop, dtype=torch.float32)[:, None].expand(-1, size).contiguous()


def test_capacities_of_the_papers_recipe() -> None:
    """65536 keys at 32 words: 26 frames, 4 sub-words, 1 word (specification of RCMSTR, test 22)."""
    assert [queue_capacity(65536, n, 32) for n in (26, 4, 1)] == [64896, 65536, 65536]


def test_a_queue_too_small_for_one_update_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ValueError, match="832 = 26 per word x 32 words; got 800"):
        queue_capacity(800, 26, 32)


def test_a_queue_starts_with_reproducible_unit_vectors() -> None:
    queue = FeatureQueue(50, 8, seed=3)
    assert torch.allclose(queue.features.norm(dim=1), torch.ones(50))
    assert torch.equal(queue.features, FeatureQueue(50, 8, seed=3).features)
    assert not torch.equal(queue.features, FeatureQueue(50, 8, seed=4).features)


@pytest.mark.parametrize(
    ("capacity", "sizes"), [(12, [4] * 7), (10, [4] * 7), (5, [3, 7, 1, 12, 5]), (1, [1, 3])]
)
def test_the_ring_holds_the_last_keys_like_a_list(capacity: int, sizes: list[int]) -> None:
    queue = FeatureQueue(capacity, 2)
    given: list[int] = []
    for size in sizes:
        queue.enqueue(numbered(len(given), len(given) + size))
        given += range(len(given), len(given) + size)
        assert queue.position == len(given) % capacity
        assert queue.filled == min(capacity, len(given))
        if len(given) >= capacity:
            ring = queue.features[:, 0].roll(-queue.position).tolist()
            assert ring == given[-capacity:], "oldest first, read from the position on"
    assert torch.equal(queue.features[:, 0], queue.features[:, 1])


def test_slots_fill_in_order_from_the_first() -> None:
    queue = FeatureQueue(12, 2)
    for step in range(2):
        queue.enqueue(numbered(4 * step, 4 * step + 4))
    assert torch.equal(queue.features[:8], numbered(0, 8))


def test_keys_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="must be \\(M, 2\\)"):
        FeatureQueue(4, 2).enqueue(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="must be positive"):
        FeatureQueue(0, 2)


def example_keys(words: int = 2) -> dict[str, torch.Tensor]:
    return {"frame": torch.rand(words, 3, 4), "word": torch.rand(words, 1, 6)}


def test_each_level_has_its_own_queue_word_by_word() -> None:
    queues = FeatureQueues(example_keys(), queue_size=14, words_per_update=2)
    assert {level: tuple(rows.shape) for level, rows in queues.negatives().items()} == {
        "frame": (12, 4),
        "word": (14, 6),
    }
    keys = example_keys()
    queues.enqueue(keys)
    assert torch.equal(queues.negatives()["frame"][:6], torch.cat([keys["frame"][0], keys["frame"][1]]))
    assert torch.equal(queues.negatives()["word"][:2], keys["word"][:, 0])


def test_levels_start_with_different_directions() -> None:
    queues = FeatureQueues({"a": torch.zeros(1, 1, 4), "b": torch.zeros(1, 1, 4)}, 8, 1)
    assert not torch.equal(queues.negatives()["a"], queues.negatives()["b"])


def test_after_shows_the_queue_with_more_keys_and_leaves_it() -> None:
    queues, other = (FeatureQueues(example_keys(), 14, 2, seed=0) for _ in range(2))
    before = {level: rows.clone() for level, rows in queues.negatives().items()}
    more = [example_keys(), example_keys()]
    shown = queues.after(more)
    for keys in more:
        other.enqueue(keys)
    for level in before:
        assert torch.equal(queues.negatives()[level], before[level])
        assert torch.equal(shown[level], other.negatives()[level])


def test_state_goes_round() -> None:
    queues, other = (FeatureQueues(example_keys(), 14, 2, seed=seed) for seed in (0, 9))
    for _ in range(3):
        queues.enqueue(example_keys())
    other.load_state_dict({name: tensor.clone() for name, tensor in queues.state_dict().items()})
    more = example_keys()
    for both in (queues, other):
        both.enqueue(more)
    assert all(torch.equal(rows, other.negatives()[level]) for level, rows in queues.negatives().items())
    assert [queue.filled for queue in queues.queues.values()] == [
        queue.filled for queue in other.queues.values()
    ]


def test_a_state_of_another_size_is_refused() -> None:
    state = FeatureQueues(example_keys(), 20, 2).state_dict()
    with pytest.raises(ValueError, match="resume with the same `queue_size`"):
        FeatureQueues(example_keys(), 14, 2).load_state_dict(state)


def test_alone_a_process_gathers_its_own_rows() -> None:
    rows = torch.rand(3, 2)
    assert gather_rows(rows) is rows
