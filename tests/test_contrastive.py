"""InfoNCE and consistency against NumPy, closed forms, symmetries and plain autograd; levels of a word."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr import contrastive
from modeling_rcmstr.contrastive import contrast, pool_subwords, subword_windows

T, T_CON = 0.07, 0.04


def unit(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def info_nce_twin(query: np.ndarray, key: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    scores = np.array([query @ key, *(negatives @ query)]) / temperature
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[0])


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def consistency_twin(query: np.ndarray, key: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    ours, theirs = softmax(negatives @ query / temperature), softmax(negatives @ key / temperature)
    there = (theirs * (np.log(theirs) - np.log(ours))).sum()
    back = (ours * (np.log(ours) - np.log(theirs))).sum()
    return float(0.5 * there + 0.5 * back)


def plain_losses(query: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses by the library's functions; queries (M, R, D)."""
    similarity = query @ negatives.T
    positive = (query * key[:, None]).sum(-1, keepdim=True)
    logits = torch.cat([positive, similarity], -1) / T
    info_nce = logits.logsumexp(-1) - logits[..., 0]
    ours = (similarity / T_CON).log_softmax(-1)
    theirs = (key @ negatives.T / T_CON).log_softmax(-1)[:, None].expand_as(ours)
    there = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
    back = F.kl_div(theirs, ours, log_target=True, reduction="none").sum(-1)
    return info_nce, (there + back) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_losses_equal_the_hand_computation(dtype: torch.dtype) -> None:
    queries, keys, negatives = unit(3, 2, 8), unit(3, 8, seed=1), unit(11, 8, seed=2)
    output = contrast(queries.to(dtype), keys.to(dtype), negatives.to(dtype), T, T_CON)
    assert output.num_negatives == 11
    for m in range(3):
        for r in range(2):
            arguments = (queries[m, r].numpy(), keys[m].numpy(), negatives.numpy())
            tolerance = 1e-12 if dtype == torch.float64 else 2e-5
            assert float(output.contrastive[m, r]) == pytest.approx(
                info_nce_twin(*arguments, T), abs=tolerance
            )
            assert float(output.consistency[m, r]) == pytest.approx(
                consistency_twin(*arguments, T_CON), abs=tolerance
            )


def test_equal_vectors_lose_the_logarithm_of_the_choices() -> None:
    vector = unit(1, 16, dtype=torch.float32)
    for size in (1, 7, 500):
        output = contrast(vector[None], vector, vector.expand(size, -1), T, T_CON)
        assert float(output.contrastive) == pytest.approx(np.log(1 + size), rel=1e-6)
        assert float(output.consistency) == 0.0


def test_query_equal_to_key_is_consistent() -> None:
    keys = unit(5, 16, dtype=torch.float32)
    output = contrast(keys[:, None], keys, unit(300, 16, dtype=torch.float32, seed=3), T, T_CON)
    assert float(output.consistency.abs().max()) <= 1e-7


def test_consistency_is_symmetric_and_never_negative() -> None:
    first, second, negatives = unit(50, 16), unit(50, 16, seed=1), unit(40, 16, seed=2)
    there = contrast(first[:, None], second, negatives, T, T_CON).consistency
    back = contrast(second[:, None], first, negatives, T, T_CON).consistency
    torch.testing.assert_close(there, back)
    assert float(there.min()) > 0


def test_only_queries_get_a_gradient_and_it_is_the_right_one() -> None:
    queries, keys, negatives = unit(4, 3, 8), unit(4, 8, seed=1), unit(9, 8, seed=2)
    for tensor in (queries, keys, negatives):
        tensor.requires_grad_()
    weights = torch.rand(2, 4, 3, dtype=torch.float64)
    output = contrast(queries, keys, negatives, T, T_CON)
    (weights[0] * output.contrastive + weights[1] * output.consistency).sum().backward()
    assert keys.grad is None
    assert negatives.grad is None
    ours = queries.grad
    queries.grad = None
    info_nce, consistency = plain_losses(queries, keys.detach(), negatives.detach())
    (weights[0] * info_nce + weights[1] * consistency).sum().backward()
    torch.testing.assert_close(ours, queries.grad, rtol=1e-9, atol=1e-11)


def test_chosen_queries_alone_are_compared() -> None:
    queries, keys, negatives = unit(4, 5, 8).requires_grad_(), unit(4, 8, seed=1), unit(9, 8, seed=2)
    everything = contrast(queries, keys, negatives, T, T_CON)
    part = contrast(queries, keys, negatives, T, T_CON, slice(0, 2), slice(2, 5))
    torch.testing.assert_close(part.contrastive, everything.contrastive[:, :2])
    torch.testing.assert_close(part.consistency, everything.consistency[:, 2:])
    (gradient,) = torch.autograd.grad(part.consistency.sum(), queries)
    assert not gradient[:, :2].any()
    assert bool(gradient[:, 2:].any())
    nothing = contrast(queries, keys, negatives, T, T_CON, slice(0, 0), slice(0, 0))
    assert nothing.contrastive.shape == nothing.consistency.shape == (4, 0)


def test_result_does_not_depend_on_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, negatives = unit(7, 2, 8).requires_grad_(), unit(7, 8, seed=1), unit(9, 8, seed=2)

    def run(bank: Tensor | None) -> list[Tensor]:
        output = contrast(queries, keys, bank, T, T_CON)
        gradient = torch.autograd.grad(output.contrastive.sum() + output.consistency.sum(), queries)[0]
        return [output.contrastive, output.consistency, gradient]

    whole = run(negatives) + run(None)
    monkeypatch.setattr(contrastive, "SLICE_SIZE_CPU", 60)  # two keys at a time
    torch.testing.assert_close(run(negatives) + run(None), whole)
    monkeypatch.setattr(contrastive, "SLICE_SIZE_CPU", 1)
    torch.testing.assert_close(run(negatives) + run(None), whole)


def test_without_a_bank_the_other_keys_are_the_negatives() -> None:
    queries, keys = unit(5, 2, 8).requires_grad_(), unit(5, 8, seed=1)
    output = contrast(queries, keys, None, T, T_CON)
    assert output.num_negatives == 4
    gradient = torch.autograd.grad(output.contrastive.sum() + output.consistency.sum(), queries)[0]
    for m in range(5):
        others = torch.cat([keys[:m], keys[m + 1 :]])
        info_nce, consistency = plain_losses(queries[m : m + 1], keys[m : m + 1], others)
        torch.testing.assert_close(output.contrastive[m : m + 1], info_nce)
        torch.testing.assert_close(output.consistency[m : m + 1], consistency)
        expected = torch.autograd.grad(info_nce.sum() + consistency.sum(), queries)[0]
        torch.testing.assert_close(gradient[m], expected[m])


def test_sharp_temperatures_neither_overflow_nor_vanish() -> None:
    queries, keys, negatives = unit(3, 2, 8), unit(3, 8, seed=1), unit(11, 8, seed=2)
    output = contrast(queries.float(), keys.float(), negatives.float(), 0.002, 0.01)
    for m in range(3):
        for r in range(2):
            arguments = (queries[m, r].numpy(), keys[m].numpy(), negatives.numpy())
            expected = info_nce_twin(*arguments, 0.002)
            assert float(output.contrastive[m, r]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
            expected = consistency_twin(*arguments, 0.01)
            assert float(output.consistency[m, r]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_half_precision_is_raised_also_under_autocast() -> None:
    queries = unit(3, 2, 8, dtype=torch.float32).bfloat16().requires_grad_()
    keys, negatives = unit(3, 8, dtype=torch.float32, seed=1), unit(11, 8, dtype=torch.float32, seed=2)
    expected = contrast(queries.detach().float(), keys, negatives, T, T_CON)
    with torch.autocast("cpu", torch.bfloat16):
        output = contrast(queries, keys, negatives, T, T_CON)
    assert torch.equal(output.contrastive, expected.contrastive)
    assert torch.equal(output.consistency, expected.consistency)
    output.contrastive.sum().backward()
    assert queries.grad is not None
    assert queries.grad.dtype == torch.bfloat16


def test_pooling_bins_are_the_released_codes() -> None:
    """26 frames: [0..6] [6..12] [13..19] [19..25]; 32 frames: eight each."""
    for frames, bins in (
        (26, [(0, 6), (6, 12), (13, 19), (19, 25)]),
        (32, [(0, 7), (8, 15), (16, 23), (24, 31)]),
    ):
        pooled = pool_subwords(torch.eye(frames)[None], 4)[0]  # row s holds each frame's weight
        expected = torch.zeros(4, frames)
        for row, (first, last) in enumerate(bins):
            expected[row, first : last + 1] = 1 / (last - first + 1)
        torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize(
    ("frames", "starts", "size"), [(26, [0, 6, 12, 18], 8), (32, [0, 8, 16, 24], 8), (9, [0, 2, 4, 6], 3)]
)
def test_windows_are_the_released_codes(frames: int, starts: list[int], size: int) -> None:
    sequence = torch.arange(2 * frames * 3).reshape(2, frames, 3)
    windows = subword_windows(sequence, 4)
    assert windows.shape == (2, 4, size, 3)
    for row, start in enumerate(starts):
        assert torch.equal(windows[:, row], sequence[:, start : start + size])
    assert starts[-1] + size == frames


def test_unusable_arguments_are_refused() -> None:
    queries, keys, negatives = unit(3, 2, 8), unit(3, 8), unit(5, 8)
    with pytest.raises(ValueError, match="`contrastive_temperature` must be positive, got 0"):
        contrast(queries, keys, negatives, 0, T_CON)
    with pytest.raises(ValueError, match="`consistency_temperature` must be positive, got -1"):
        contrast(queries, keys, negatives, T, -1)
    with pytest.raises(ValueError, match="must agree"):
        contrast(queries, keys[:2], negatives, T, T_CON)
    with pytest.raises(ValueError, match=r"`negatives` must be \(K, 8\)"):
        contrast(queries, keys, negatives[:, :4], T, T_CON)
    with pytest.raises(ValueError, match=r"`negatives` must be \(K, 8\) with K > 0"):
        contrast(queries, keys, negatives[:0], T, T_CON)
    with pytest.raises(ValueError, match="leaves no negatives"):
        contrast(queries[:1], keys[:1], None, T, T_CON)
    with pytest.raises(ValueError, match="3 frames cannot make 4 sub-words"):
        subword_windows(torch.zeros(2, 3, 5), 4)
