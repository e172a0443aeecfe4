"""Collapse detectors against closed forms."""

import pytest
import torch
import torch.nn.functional as F

from training.collapse_detection import CodebookUsage, CodeUsage, effective_rank, queue_similarity, uniformity


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    line = torch.outer(torch.arange(1.0, 6), torch.tensor([1.0, 2, 3]))
    assert effective_rank(line) == pytest.approx(1)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(4 / 3**0.75)


def test_uniformity_of_known_sets() -> None:
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert uniformity(same) == pytest.approx(0.0)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(opposite) == pytest.approx(-8.0)  # one pair, squared distance 4, t = 2
    spread = F.normalize(torch.randn(400, 256), dim=1)
    assert uniformity(spread) == pytest.approx(-4.0, abs=0.1)


def test_queue_similarity_of_known_sets() -> None:
    queue = torch.eye(4)
    own = queue_similarity(torch.eye(4), queue, temperature=0.01)
    assert own["mean"] == pytest.approx(0.25)
    assert own["nearest"] == pytest.approx(1.0)
    assert own["spread"] == pytest.approx(0.0, abs=1e-6)
    even = queue_similarity(torch.full((3, 4), 0.5), queue, temperature=0.01)
    assert even["spread"] == pytest.approx(1.0)
    assert even["deviation"] == pytest.approx(0.0)


def test_only_some_rows_of_many_are_looked_at() -> None:
    features = F.normalize(torch.randn(5000, 8), dim=1)
    assert effective_rank(features) == pytest.approx(8, rel=0.05)


def test_code_usage_counts_until_it_is_read() -> None:
    usage = CodeUsage()
    assert usage.read() == []
    usage.add(torch.tensor([[3, 0, 0, 0], [1, 1, 1, 0]]))
    usage.add(torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]]))
    first, second = usage.read()
    assert first == CodebookUsage(used=1, perplexity=1.0, choices=4, codevectors=4)
    assert second.used == 4
    assert second.perplexity == pytest.approx(4.0)
    assert usage.read() == []
    usage.add(torch.zeros(2, 4, dtype=torch.long))
    assert usage.read() == [], "nothing was chosen"


def test_collapse_is_said_of_few_codes_only() -> None:
    assert CodebookUsage(1, 1.0, 500, 256).collapsed
    assert CodebookUsage(9, 4.9, 5000, 256).collapsed, "2 % of 256 are 5.1"
    assert not CodebookUsage(9, 5.5, 5000, 256).collapsed
    assert not CodebookUsage(3, 2.9, 3, 256).collapsed, "three choices cannot use more"
    assert not CodebookUsage(1, 1.0, 1, 256).collapsed
