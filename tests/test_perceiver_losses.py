"""Losses of a perceiver: closed forms, a NumPy twin in loops, what a distractor may be, and memory."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.perceiver_losses import (
    DISTRACTOR_SCOPES,
    Distractors,
    MaskedQueries,
    codebook_diversity_loss,
    feature_penalty,
    masked_queries,
    perceiver_contrastive_loss,
    sample_distractors,
)
from modeling_rcmstr.quantizer import code_perplexity, code_probabilities
from tests.persec_words import some_mask


def all_others(mask: Tensor) -> tuple[MaskedQueries, Distractors]:
    """Queries with every other position as distractor, made by hand."""
    queries = masked_queries(mask)
    positions = mask.shape[1]
    index = torch.stack(
        [
            torch.stack([torch.tensor([p for p in range(positions) if p != int(q)]) for q in row])
            for row in queries.index
        ]
    )
    return queries, Distractors(index, queries.present[..., None].expand_as(index))


def loss_twin(
    context: Tensor,
    targets: Tensor,
    codes: Tensor | None,
    queries: MaskedQueries,
    distractors: Distractors,
    temperature: float,
) -> tuple[float, float]:
    """Mean loss and accuracy in loops over words, queries and distractors."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    c, q = context.detach().numpy(), targets.detach().numpy()
    size = q.shape[1]
    terms, right = [], []
    for word in range(len(c)):
        for slot in range(queries.index.shape[1]):
            if not queries.present[word, slot]:
                continue
            here = int(queries.index[word, slot])
            scores = [cosine(c[word, here], q[word, here]) / temperature]
            for k in range(distractors.index.shape[2]):
                if not distractors.present[word, slot, k]:
                    continue
                place = int(distractors.index[word, slot, k])
                home, other = word, place
                if distractors.bank is not None:
                    home, other = divmod(int(distractors.bank[place]), size)
                if codes is not None and codes[home, other].tolist() == codes[word, here].tolist():
                    continue
                scores.append(cosine(c[word, here], q[home, other]) / temperature)
            terms.append(np.log(np.exp(scores).sum()) - scores[0])
            right.append(all(scores[0] > score for score in scores[1:]))
    return float(np.mean(terms)), float(np.mean(right))


# Contrastive loss


@pytest.mark.parametrize("scope", DISTRACTOR_SCOPES)
@pytest.mark.parametrize("coded", [True, False])
def test_loss_and_accuracy_equal_the_twin(scope: str, coded: bool) -> None:
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64)
    context = context + targets  # some right answers
    codes = torch.randint(0, 3, (3, 40, 2)) if coded else None  # 9 pairs: many distractors share the target's
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 15, scope)
    terms = perceiver_contrastive_loss(context, targets, codes, queries, drawn, 0.3)
    loss, accuracy = loss_twin(context, targets, codes, queries, drawn, 0.3)
    assert float(terms.loss) == pytest.approx(loss, rel=1e-12)
    assert float(terms.accuracy) == pytest.approx(accuracy, rel=1e-6)
    assert 0 < accuracy < 1


@pytest.mark.parametrize(("positions", "expected"), [(101, math.log(101)), (97, math.log(97))])
def test_loss_is_the_logarithm_of_the_candidates_when_all_are_alike(positions: int, expected: float) -> None:
    queries, drawn = all_others(torch.arange(positions)[None] < 7)
    direction = torch.randn(8, dtype=torch.float64)
    targets = direction * torch.rand(1, positions, 1, dtype=torch.float64).add(0.1)
    terms = perceiver_contrastive_loss(
        torch.randn(1, positions, 8).double(), targets, None, queries, drawn, 0.1
    )
    assert float(terms.loss) == pytest.approx(expected, rel=1e-12)


def test_loss_of_a_perfect_prediction_among_orthogonal_distractors() -> None:
    queries, drawn = all_others(torch.arange(101)[None] < 1)
    vectors = torch.eye(101, dtype=torch.float64)[None]
    terms = perceiver_contrastive_loss(3 * vectors, vectors, None, queries, drawn, 0.1)
    assert float(terms.loss) == pytest.approx(math.log(1 + 100 * math.exp(-10)), rel=1e-9)
    assert float(terms.loss) == pytest.approx(0.00453, abs=5e-6)
    assert float(terms.accuracy) == 1


def test_loss_ignores_lengths_and_the_order_of_distractors() -> None:
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64)
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 15)
    loss = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss
    scales = torch.rand(2, 3, 40, 1, dtype=torch.float64) + 0.1
    scaled = perceiver_contrastive_loss(
        context * scales[0], targets * scales[1], None, queries, drawn, 0.1
    ).loss
    torch.testing.assert_close(scaled, loss, rtol=1e-12, atol=0)
    order = torch.randperm(15)
    permuted = Distractors(drawn.index[..., order], drawn.present[..., order])
    torch.testing.assert_close(
        perceiver_contrastive_loss(context, targets, None, queries, permuted, 0.1).loss,
        loss,
        rtol=1e-12,
        atol=0,
    )


def test_only_queries_and_their_distractors_count() -> None:
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64)
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 4)
    loss = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss
    used = mask.clone()
    for word in range(3):
        used[word, drawn.index[word][drawn.present[word]]] = True
    assert not used.all()
    assert not used[~valid].any()
    other_context = torch.where(mask[..., None], context, 99.0)
    other_targets = torch.where(used[..., None], targets, -99.0)
    assert torch.equal(
        perceiver_contrastive_loss(other_context, other_targets, None, queries, drawn, 0.1).loss, loss
    )


def test_distractors_with_the_targets_codes_are_left_out() -> None:
    """All of them: nothing to lose, and no NaN in value or gradient. None of them: as without codes."""
    mask, _ = some_mask()
    queries, drawn = all_others(mask)
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64).requires_grad_().unbind()
    context.retain_grad()
    same = perceiver_contrastive_loss(context, targets, torch.zeros(3, 40, 2).long(), queries, drawn, 0.1)
    assert float(same.loss.detach()) == 0
    assert float(same.accuracy) == 1
    same.loss.backward(retain_graph=True)
    assert context.grad is not None
    assert not context.grad.any()
    # One equal code of two is not enough.
    codes = torch.stack([torch.arange(40).expand(3, 40), torch.zeros(3, 40).long()], dim=-1)
    apart = perceiver_contrastive_loss(context, targets, codes, queries, drawn, 0.1)
    plain = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1)
    assert torch.equal(apart.loss, plain.loss)


def test_without_queries_the_loss_is_zero_with_gradient() -> None:
    context, targets = torch.randn(2, 2, 5, 4).requires_grad_().unbind()
    queries = masked_queries(torch.zeros(2, 5, dtype=torch.bool))
    for scope in DISTRACTOR_SCOPES:
        drawn = sample_distractors(queries, torch.ones(2, 5, dtype=torch.bool), 3, scope)
        terms = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1)
        assert float(terms.loss.detach()) == 0
        terms.loss.backward(retain_graph=True)


def test_words_without_queries_change_nothing() -> None:
    """A word of fewer than two positions is in the batch and out of the loss."""
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64)
    queries, drawn = all_others(mask[:2])
    alone = perceiver_contrastive_loss(context[:2], targets[:2], None, queries, drawn, 0.1).loss
    mask[2] = False
    queries, drawn = all_others(mask)
    assert torch.equal(perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss, alone)


def test_a_doubled_batch_has_the_same_loss() -> None:
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8, dtype=torch.float64)
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 10)
    loss = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss
    twice = perceiver_contrastive_loss(
        context.repeat(2, 1, 1),
        targets.repeat(2, 1, 1),
        None,
        MaskedQueries(queries.index.repeat(2, 1), queries.present.repeat(2, 1)),
        Distractors(drawn.index.repeat(2, 1, 1), drawn.present.repeat(2, 1, 1)),
        0.1,
    ).loss
    torch.testing.assert_close(twice, loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scope", DISTRACTOR_SCOPES)
def test_gradients_are_those_of_finite_differences(scope: str) -> None:
    mask = torch.tensor([[True, False, True, False, False], [False, True, True, False, False]])
    valid = torch.tensor([[True] * 5, [True] * 4 + [False]])
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 3, scope)
    codes = torch.randint(0, 2, (2, 5, 2))
    values = tuple(torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda context, targets: (
            perceiver_contrastive_loss(context, targets, codes, queries, drawn, 0.2).loss
        ),
        values,
    )


def test_half_precision_is_computed_in_float32() -> None:
    mask, valid = some_mask()
    context, targets = torch.randn(2, 3, 40, 8).bfloat16()
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 10)
    expected = perceiver_contrastive_loss(context.float(), targets.float(), None, queries, drawn, 0.1).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_no_tensor_holds_a_vector_per_distractor() -> None:
    """What autograd keeps stays far below the (B, M, K, C) numbers of gathered distractors."""
    batch, positions, masked, count, channels = 2, 400, 80, 100, 64
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    queries = masked_queries(torch.arange(positions).expand(batch, positions) < masked)
    drawn = sample_distractors(queries, torch.ones(batch, positions, dtype=torch.bool), count)
    context, targets = (torch.randn(batch, positions, channels, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        perceiver_contrastive_loss(context, targets, None, queries, drawn, 0.1).loss.backward()
    assert sum(kept.values()) < 4 * batch * masked * count * channels / 3


# Diversity and penalty


def test_diversity_of_even_and_of_single_codes() -> None:
    even = code_perplexity(code_probabilities(torch.zeros(30, 2, 256)))
    single = torch.zeros(30, 2, 256)
    single[..., 9] = 1e4
    one = code_perplexity(code_probabilities(single))
    assert float(even.sum()) == pytest.approx(512, rel=1e-5)
    assert float(codebook_diversity_loss(even, 256)) == pytest.approx(0, abs=1e-5)
    assert float(one.sum()) == pytest.approx(2)
    assert float(codebook_diversity_loss(one, 256)) == pytest.approx(0.99609375)


def test_diversity_equals_the_twin_and_its_gradient_evens_codes_out() -> None:
    logits = torch.randn(11, 2, 6, dtype=torch.float64, requires_grad=True)
    loss = codebook_diversity_loss(code_perplexity(code_probabilities(logits)), 6)
    values = logits.detach().numpy()
    shares = (np.exp(values) / np.exp(values).sum(-1, keepdims=True)).mean(0)
    perplexity = np.exp(-(shares * np.log(shares)).sum(-1)).sum()
    assert float(loss.detach()) == pytest.approx((12 - perplexity) / 12, rel=1e-12)
    loss.backward()
    assert logits.grad is not None
    most = int(shares[0].argmax())
    assert logits.grad[:, 0, most].sum() > 0


def test_penalty_is_the_mean_square_of_valid_positions() -> None:
    features = torch.randn(2, 1, 5, 3, dtype=torch.float64)
    valid = torch.tensor([[[True] * 5], [[True, True, False, False, False]]])
    expected = np.concatenate([features[0, 0].numpy(), features[1, 0, :2].numpy()])
    assert float(feature_penalty(features, valid)) == pytest.approx((expected**2).mean(), rel=1e-12)
    assert float(feature_penalty(features, torch.zeros_like(valid))) == 0


def test_errors_name_rule_and_value() -> None:
    mask, valid = some_mask()
    queries = masked_queries(mask)
    with pytest.raises(ValueError, match="unknown scope 'word'; known: image, masked, batch"):
        sample_distractors(queries, valid, 3, "word")
    drawn = sample_distractors(queries, valid, 3)
    with pytest.raises(ValueError, match="contrastive temperature must be positive, got 0"):
        perceiver_contrastive_loss(torch.randn(3, 40, 4), torch.randn(3, 40, 4), None, queries, drawn, 0)
