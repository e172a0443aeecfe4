"""Losses of a context perceiver: tell the target from distractors, and keep the codebooks in use.

Contrast as in wav2vec 2.0 (arXiv:2006.11477, Eq. 3), with distractors of three origins (`DISTRACTOR_SCOPES`):

- "image": any other position of the same word, each at most once;
- "masked": other masked positions of the same word, with replacement, as in wav2vec 2.0;
- "batch": any position of any word of the batch, each at most once; all queries share one draw.

Cosines come from one matrix product per word and are then picked by index, so no distractor vector is ever
copied: (B, M, N) numbers instead of (B, M, K, C). Everything is computed in float32 or better, also under
autocast.

Legend: B words, N positions of a word, M masked positions of the word that has most, K distractors, C
channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DISTRACTOR_SCOPES = ("image", "masked", "batch")


@dataclass(frozen=True)
class MaskedQueries:
    """Masked positions: `index` (B, M) in row order, `present` (B, M) False where a word has fewer."""

    index: Tensor
    present: Tensor


@dataclass(frozen=True)
class Distractors:
    """What each query is held against.

    Args:
        index: (B, M, K) positions of the query's own word, or places in `bank`.
        present: (B, M, K) False where there is no such distractor.
        bank: (P,) positions counted through the batch, word after word, that all queries share; None for the
            own word.
    """

    index: Tensor
    present: Tensor
    bank: Tensor | None = None


@dataclass(frozen=True)
class ContrastiveTerms:
    """Mean `loss` in nats, and `accuracy`: the share of queries whose target beats every distractor."""

    loss: Tensor
    accuracy: Tensor


def masked_queries(mask: Tensor) -> MaskedQueries:
    """List the True positions of each row of `mask` (B, N)."""
    counts = mask.sum(1)
    most = int(counts.max()) if mask.numel() else 0
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return MaskedQueries(order[:, :most], torch.arange(most, device=mask.device) < counts[:, None])


def sample_distractors(
    queries: MaskedQueries,
    valid: Tensor,
    num_negatives: int,
    scope: str = "image",
    generator: torch.Generator | None = None,
) -> Distractors:
    """Draw the distractors of each query; never the query's own position, never padding.

    Args:
        queries: masked positions of each word.
        valid: (B, N) True where a position belongs to the word.
        num_negatives: K; fewer where there are not as many ("image", "batch").
        scope: one of `DISTRACTOR_SCOPES`; see the module's docstring.
        generator: source of randomness; None for PyTorch's global one.

    Raises:
        ValueError: for an unknown scope.
    """
    if scope == "image":
        return _from_own_word(queries, valid, num_negatives, generator)
    if scope == "masked":
        return _from_masked_positions(queries, num_negatives, generator)
    if scope == "batch":
        return _from_batch(queries, valid, num_negatives, generator)
    raise ValueError(f"unknown scope {scope!r}; known: {', '.join(DISTRACTOR_SCOPES)}.")


def perceiver_contrastive_loss(
    context: Tensor,
    targets: Tensor,
    codes: Tensor | None,
    queries: MaskedQueries,
    distractors: Distractors,
    temperature: float,
) -> ContrastiveTerms:
    """Cross-entropy of finding each query's own target among its distractors by cosine.

    A distractor with the codes of the target is left out: it would be the right answer too. Gradient flows
    into context and targets alike.

    Args:
        context: (B, N, C) predictions.
        targets: (B, N, C) quantised features.
        codes: (B, N, G) codes of the targets; None for targets that are not quantised.
        queries: masked positions of each word.
        distractors: what each query is held against.
        temperature: divides the cosines; wav2vec 2.0 uses 0.1.

    Returns:
        The mean over all queries of the batch; log(1 + K) when nothing can be told apart, 0 without queries.

    Raises:
        ValueError: when `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(
            f"the contrastive temperature must be positive, got {temperature}; the lineage uses 0.1."
        )
    with torch.autocast(context.device.type, enabled=False):
        query = F.normalize(_take(_full_precision(context), queries.index), dim=-1)  # (B, M, C)
        target = F.normalize(_full_precision(targets), dim=-1)  # (B, N, C)
        positive = (query * _take(target, queries.index)).sum(-1, keepdim=True)  # (B, M, 1)
        candidates = (
            target if distractors.bank is None else target.flatten(0, 1)[distractors.bank]
        )  # (…, P, C)
        negative = (query @ candidates.transpose(-1, -2)).gather(2, distractors.index)  # (B, M, K)
        kept = distractors.present
        if codes is not None:
            kept = kept & ~_same_codes(codes, queries, distractors)
        negative = negative.masked_fill(~kept, -torch.inf)
        logits = torch.cat([positive, negative], dim=2) / temperature  # (B, M, 1 + K)
        terms = logits.logsumexp(2) - logits[..., 0]  # (B, M)
        count = queries.present.sum().clamp(min=1)
        best = F.pad(negative.detach(), (0, 1), value=-torch.inf).amax(
            2
        )  # a query without distractors is right
        right = (positive.detach()[..., 0] > best) & queries.present
        return ContrastiveTerms((terms * queries.present).sum() / count, right.sum() / count)


def codebook_diversity_loss(perplexity: Tensor, codebook_size: int) -> Tensor:
    """Share of the codes that are not in use (wav2vec 2.0, Eq. 4, in the form of its released code).

    Args:
        perplexity: (G,) codes effectively in use, of each codebook.
        codebook_size: V, entries of a codebook.

    Returns:
        (GV - sum of perplexities) / GV, from 0 (all codes alike) to 1 - 1/V (one code per codebook).
    """
    size = len(perplexity) * codebook_size
    return (size - perplexity.sum()) / size


def feature_penalty(features: Tensor, valid: Tensor) -> Tensor:
    """Mean square of features (…, C) over `valid` (…) positions and their channels, in float32 or better."""
    squares = _full_precision(features).square().mean(-1)
    return (squares * valid).sum() / valid.sum().clamp(min=1)


def _from_own_word(
    queries: MaskedQueries, valid: Tensor, num_negatives: int, generator: torch.Generator | None
) -> Distractors:
    count = min(num_negatives, max(int(valid.sum(1).max()) - 1, 0))
    keys = _uniform((*queries.index.shape, valid.shape[1]), generator, valid.device)  # (B, M, N)
    keys.masked_fill_(~valid[:, None], -1.0)
    keys.scatter_(2, queries.index[..., None], -1.0)
    # The largest of independent numbers: every set of K positions is equally likely.
    drawn = keys.topk(count, sorted=False)
    return Distractors(drawn.indices, (drawn.values >= 0) & queries.present[..., None])


def _from_masked_positions(
    queries: MaskedQueries, num_negatives: int, generator: torch.Generator | None
) -> Distractors:
    batch, most = queries.index.shape
    others = (queries.present.sum(1) - 1).clamp(min=0)[:, None, None]  # (B, 1, 1)
    slots = _uniform((batch, most, num_negatives), generator, queries.index.device) * others
    slots = slots.long().clamp(max=(others - 1).clamp(min=0))  # a product may round up to the bound
    slots = slots + (slots >= torch.arange(most, device=slots.device)[:, None])  # step over the query itself
    index = queries.index.gather(1, slots.clamp(max=max(most - 1, 0)).flatten(1)).view_as(slots)
    return Distractors(index, (queries.present[..., None] & (others > 0)).expand_as(index))


def _from_batch(
    queries: MaskedQueries, valid: Tensor, num_negatives: int, generator: torch.Generator | None
) -> Distractors:
    positions = valid.flatten().nonzero()[:, 0]
    order = _uniform(positions.shape, generator, valid.device).argsort()
    # One more than wanted: each query drops its own position, or the last one, and keeps a uniform draw of
    # the others.
    bank = positions[order[: num_negatives + 1]]
    words = torch.arange(len(valid), device=valid.device)[:, None] * valid.shape[1]
    own = bank == (queries.index + words)[..., None]  # (B, M, P)
    last = max(len(bank) - 1, 0)
    dropped = torch.where(own.any(-1), own.to(torch.uint8).argmax(-1), last)  # (B, M)
    index = torch.arange(last, device=valid.device).expand(*dropped.shape, -1)
    index = index + (index >= dropped[..., None])
    return Distractors(index, queries.present[..., None].expand_as(index), bank)


def _same_codes(codes: Tensor, queries: MaskedQueries, distractors: Distractors) -> Tensor:
    own = _take(codes, queries.index)  # (B, M, G)
    candidates = codes if distractors.bank is None else codes.flatten(0, 1)[distractors.bank][None]
    same = torch.ones_like(distractors.present)
    for codebook in range(codes.shape[-1]):
        column = candidates[:, None, :, codebook].expand(*own.shape[:2], -1)  # (B, M, P) without a copy
        same &= column.gather(2, distractors.index) == own[..., codebook, None]
    return same


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Pick positions `index` (B, M) of (B, N, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _full_precision(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _uniform(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    drawn_on = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=drawn_on).to(device)
