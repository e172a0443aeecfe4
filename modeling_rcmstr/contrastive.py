"""Contrast at one level of a word, and how frames make sub-words (RCLSTR, arXiv:2308.00508).

Two losses share one bank of negatives: InfoNCE (MoCo, arXiv:1911.05722, Eq. 1), and the consistency of the
two similarity distributions that a query and its key have over the bank (CO2, arXiv:2010.02217). `contrast`
gives both from one product with the bank, slice by slice, together with their gradients, so that nothing of
the size queries x bank is ever kept. Which levels there are and how terms are weighted is the model's matter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Similarities that are held at once, in numbers: 16 MB stay close to a CPU core, an accelerator wants larger
# products.
SLICE_SIZE_CPU = 1 << 22
SLICE_SIZE_ACCELERATOR = 1 << 26
# Stands for the similarity of a query with its own key in a bank made of keys; its probability is exactly 0
# in float32.
_EXCLUDED = -1e4


@dataclass
class ContrastOutput:
    """Losses in nats, one for each query.

    Args:
        contrastive: (M, R') InfoNCE of the queries that were asked for.
        consistency: (M, R'') symmetric Kullback-Leibler divergence of the queries that were asked for.
        num_negatives: bank entries that each query was compared with.
    """

    contrastive: Tensor
    consistency: Tensor
    num_negatives: int


@torch.compiler.disable  # a loop over slices of a product, which is all that there is to gain
def contrast(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor | None,
    contrastive_temperature: float,
    consistency_temperature: float,
    contrastive_queries: slice = slice(None),
    consistency_queries: slice = slice(None),
) -> ContrastOutput:
    """Compare queries with their keys and a bank of negatives.

    With s = q·n and t = k·n over the bank's entries n, the losses of a query q with key k are

        InfoNCE      = -log( exp(q·k / T) / (exp(q·k / T) + Σ exp(s / T)) )
        consistency  = ½ KL(p_k ‖ p_q) + ½ KL(p_q ‖ p_k),  p_q = softmax(s / T'), p_k = softmax(t / T').

    The positive takes no part in the distributions. Gradients go to the queries alone. Everything is computed
    in float32 at least, also under autocast: at these temperatures the rounding of half precision would be as
    large as the differences.

    Args:
        queries: (M, R, D) unit vectors; R queries share a key.
        keys: (M, D) unit vectors.
        negatives: (K, D) unit vectors, or None: the bank is then `keys`, without a query's own.
        contrastive_temperature: T.
        consistency_temperature: T'.
        contrastive_queries: which of the R queries take InfoNCE.
        consistency_queries: which of the R queries take the consistency.

    Returns:
        Both losses per query; log(1 + K) is the InfoNCE when all vectors are equal.

    Raises:
        ValueError: for temperatures that are not positive, shapes that do not fit, or no negatives at all.
    """
    for name, value in (("contrastive", contrastive_temperature), ("consistency", consistency_temperature)):
        if value <= 0:
            raise ValueError(
                f"`{name}_temperature` must be positive, got {value}; the papers use 0.07 and 0.04."
            )
    if queries.ndim != 3 or keys.shape != (queries.shape[0], queries.shape[2]):
        raise ValueError(
            f"`queries` (M, R, D) and `keys` (M, D) must agree, got {tuple(queries.shape)} and "
            f"{tuple(keys.shape)}."
        )
    if negatives is None and len(keys) < 2:
        raise ValueError("a single key leaves no negatives in the batch; give `negatives` or more words.")
    if negatives is not None and (
        negatives.ndim != 2 or negatives.shape[1] != keys.shape[1] or not len(negatives)
    ):
        raise ValueError(
            f"`negatives` must be (K, {keys.shape[1]}) with K > 0, got {tuple(negatives.shape)}."
        )
    contrastive, consistency = _Contrast.apply(
        queries,
        keys.detach(),
        None if negatives is None else negatives.detach(),
        (contrastive_temperature, consistency_temperature),
        (contrastive_queries, consistency_queries),
    )
    return ContrastOutput(contrastive, consistency, len(keys) - 1 if negatives is None else len(negatives))


class _Contrast(torch.autograd.Function):
    """Both losses and, on the way, what each query's gradient will be: backward only scales it."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor | None,
        temperatures: tuple[float, float],
        chosen: tuple[slice, slice],
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(queries.device.type, enabled=False):
            return _Contrast._forward(ctx, queries, keys, negatives, temperatures, chosen)

    @staticmethod
    def _forward(
        ctx: torch.autograd.function.FunctionCtx,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor | None,
        temperatures: tuple[float, float],
        chosen: tuple[slice, slice],
    ) -> tuple[Tensor, Tensor]:
        precise = torch.promote_types(queries.dtype, torch.float32)
        keys = keys.to(precise)
        bank = keys if negatives is None else negatives.to(precise)
        with_gradient = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        losses: list[list[Tensor]] = [[], []]
        gradients: list[list[Tensor]] = [[], []]
        budget = SLICE_SIZE_CPU if queries.device.type == "cpu" else SLICE_SIZE_ACCELERATOR
        step = max(1, budget // ((queries.shape[1] + 1) * len(bank)))
        for start in range(0, len(keys), step):
            key = keys[start : start + step]
            query = queries[start : start + step].to(precise)
            # The key rides along with its queries: one product gives s and t.
            rows = torch.cat([query, key[:, None]], dim=1)  # (m, R + 1, D)
            similarity = (rows.flatten(0, 1) @ bank.T).unflatten(0, rows.shape[:2])  # (m, R + 1, K)
            if negatives is None:
                own = torch.arange(len(key), device=key.device)
                similarity[own, :, start + own] = _EXCLUDED
            parts = (
                _info_nce(
                    similarity[:, :-1][:, chosen[0]],
                    query[:, chosen[0]],
                    key,
                    bank,
                    temperatures[0],
                    with_gradient,
                ),
                _consistency(
                    similarity[:, :-1][:, chosen[1]], similarity[:, -1:], bank, temperatures[1], with_gradient
                ),
            )
            for index, (loss, gradient) in enumerate(parts):
                losses[index].append(loss)
                gradients[index].append(gradient)
        if with_gradient:
            ctx.chosen, ctx.shape, ctx.dtype = chosen, queries.shape, queries.dtype  # type: ignore[attr-defined]
            ctx.save_for_backward(torch.cat(gradients[0]), torch.cat(gradients[1]))
        return torch.cat(losses[0]), torch.cat(losses[1])

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *outer: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        gradient = outer[0].new_zeros(ctx.shape)  # type: ignore[attr-defined]
        for chosen, weight, part in zip(ctx.chosen, outer, ctx.saved_tensors, strict=True):  # type: ignore[attr-defined]
            gradient[:, chosen] += weight[..., None] * part
        return gradient.to(ctx.dtype), None, None, None, None  # type: ignore[attr-defined]


def _info_nce(
    similarity: Tensor, query: Tensor, key: Tensor, bank: Tensor, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """InfoNCE (m, n) of queries (m, n, D) with similarities (m, n, K), and its gradient (m, n, D)."""
    if not similarity.shape[1]:
        return similarity.new_zeros(similarity.shape[:2]), query
    scaled = similarity / temperature
    probability = scaled.softmax(-1)  # among the negatives
    peak, where = scaled.max(-1, keepdim=True)
    log_sum = (peak - probability.gather(-1, where).log()).squeeze(-1)
    margin = log_sum - (query * key[:, None]).sum(-1) / temperature
    loss = F.softplus(margin)  # log(1 + Σ exp(s / T) / exp(q·k / T))
    if not with_gradient:
        return loss, query
    share = margin.sigmoid()[..., None]  # probability of the negatives together
    return loss, (share / temperature) * (probability @ bank - key[:, None])


def _consistency(
    similarity: Tensor, key_similarity: Tensor, bank: Tensor, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Symmetric divergence (m, n) of softmax(s / T') and softmax(t / T'), and its gradient (m, n, D).

    The log-partition functions cancel in the sum of both directions, which leaves Σ (p_q - p_k)(s - t) / 2T'.
    """
    if not similarity.shape[1]:
        nothing = similarity.new_zeros(similarity.shape[:2])
        return nothing, nothing[..., None].expand(-1, -1, bank.shape[1])
    difference = (similarity - key_similarity).div_(temperature)
    probability = (similarity / temperature).softmax(-1)
    weight = probability - (key_similarity / temperature).softmax(-1)
    loss = torch.linalg.vecdot(weight, difference) / 2
    if not with_gradient:
        return loss, loss
    mean = torch.linalg.vecdot(probability, difference)[..., None]
    weight.addcmul_(probability, difference.sub_(mean))
    return loss, (weight @ bank) / (2 * temperature)


def pool_subwords(frames: Tensor, num_subwords: int) -> Tensor:
    """Average (B, T, C) frames into (B, S, C) sub-words by adaptive pooling; neighbours may share a frame."""
    return F.adaptive_avg_pool1d(frames.transpose(1, 2), num_subwords).transpose(1, 2)


def subword_windows(frames: Tensor, num_subwords: int) -> Tensor:
    """Assign frames to sub-words for the interaction between the two levels.

    Windows have stride T // S and as many frames as the last one needs to end at T, so they overlap when S
    does not divide T (26 frames: [0, 8) [6, 14) [12, 20) [18, 26)). These are not the bins of
    `pool_subwords`; both are the released code's.

    Args:
        frames: (B, T, D).
        num_subwords: S.

    Returns:
        (B, S, n, D) with n = T - (S - 1) * (T // S).

    Raises:
        ValueError: when there are fewer frames than sub-words.
    """
    num_frames = frames.shape[1]
    if num_frames < num_subwords:
        raise ValueError(
            f"{num_frames} frames cannot make {num_subwords} sub-words; lower `num_subwords` or use wider "
            "images."
        )
    stride = num_frames // num_subwords
    size = num_frames - (num_subwords - 1) * stride
    return frames.unfold(1, size, stride).transpose(2, 3)  # (B, S, n, D)
