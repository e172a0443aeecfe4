"""Is the representation still alive? Numbers that fall before a loss says anything.

Contrastive features collapse to a point or a few directions: `uniformity` rises towards 0 and
`effective_rank` falls towards
1. A quantiser collapses to a few codes: `CodeUsage`. All are computed on what a run has anyway, at log
intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows that a statistic looks at, at most; enough for two digits, cheap on a CPU.
MOST_ROWS = 1024
# A codebook that uses less than this share of its entries (as its perplexity says) has collapsed.
COLLAPSED_SHARE = 0.02


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, EUSIPCO 2007).

    Args:
        features: (N, D).

    Returns:
        1 for features on one line through the origin, up to min(N, D) for features that fill the space
        evenly.
    """
    values = torch.linalg.svdvals(_some_rows(features).double())
    shares = values / values.sum().clamp(min=1e-300)
    return float(torch.exp(torch.special.entr(shares).sum()))


def uniformity(features: Tensor, sharpness: float = 2.0) -> float:
    """How evenly features spread over the sphere (Wang and Isola, arXiv:2005.10242, Eq. 2).

    The logarithm of the mean of exp(-sharpness · squared distance) over all pairs.

    Args:
        features: (N, D) unit vectors, N at least 2.
        sharpness: t of the paper.

    Returns:
        0 when all are equal; about -2 sharpness for directions spread over a high-dimensional sphere.
    """
    rows = _some_rows(features).double()
    squared = torch.pdist(rows).square()
    return float((-sharpness * squared).exp().mean().log())


def queue_similarity(keys: Tensor, queue: Tensor, temperature: float) -> dict[str, float]:
    """How like new keys are to the ones in a queue.

    Args:
        keys: (N, D) unit vectors.
        queue: (K, D) unit vectors.
        temperature: of the similarity distribution.

    Returns:
        `mean` and `deviation` of the cosines, `nearest` (mean over the keys of the largest one), and
        `spread`: the entropy of softmax(cosine / temperature) over the queue, as a share of log K.
    """
    cosines = _some_rows(keys).float() @ queue.float().T  # (N, K)
    probabilities = (cosines / temperature).softmax(1)
    entropy = torch.special.entr(probabilities).sum(1).mean()
    return {
        "mean": float(cosines.mean()),
        "deviation": float(cosines.std(correction=0)),
        "nearest": float(cosines.max(1).values.mean()),
        "spread": float(entropy / torch.tensor(float(max(2, queue.shape[0]))).log()),
    }


class CodeUsage:
    """Adds up which codes a product quantiser chooses, between two reads."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    @torch.no_grad()
    def add(self, counts: Tensor) -> None:
        """Add (G, V) counts: how often each entry of each codebook was chosen."""
        self.counts = counts.detach().clone() if self.counts is None else self.counts + counts

    def read(self) -> list[CodebookUsage]:
        """The usage of each codebook since the last read, and start anew; empty when nothing was counted."""
        counts, self.counts = self.counts, None
        if counts is None or not int(counts.sum()):
            return []
        shares = counts.double() / counts.sum(1, keepdim=True)
        perplexities = torch.special.entr(shares).sum(1).exp()
        chosen = counts.sum(1)
        return [
            CodebookUsage(int((row > 0).sum()), float(perplexity), int(total), len(row))
            for row, perplexity, total in zip(counts, perplexities, chosen, strict=True)
        ]


@dataclass(frozen=True)
class CodebookUsage:
    """How one codebook was used.

    Args:
        used: entries chosen at least once.
        perplexity: exp of the entropy of the choices, 1 to V.
        choices: positions counted.
        codevectors: V.
    """

    used: int
    perplexity: float
    choices: int
    codevectors: int

    @property
    def collapsed(self) -> bool:
        """Whether the choices say little: perplexity under 2, or under 2 % of what it could be."""
        possible = min(self.codevectors, self.choices)
        return self.choices > 1 and self.perplexity < max(2.0, COLLAPSED_SHARE * possible)


def _some_rows(features: Tensor) -> Tensor:
    """At most `MOST_ROWS` rows, evenly spread."""
    if len(features) <= MOST_ROWS:
        return features
    return features[torch.linspace(0, len(features) - 1, MOST_ROWS, device=features.device).long()]
