"""Which positions of a feature map are hidden: wav2vec 2.0's spans (arXiv:2006.11477, §3.1), in 2-D.

The number of spans per word is the mask ratio times its positions over the positions of a span, rounded at
random so that the mean is exact; starts are drawn without replacement, and a span is cut off at the border of
its word. Padding is never masked. Masks on the pixel grid of masked image modelling are in `masking`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# A lone position has nothing to be told apart from.
FEWEST_POSITIONS = 2


def sample_span_mask(
    valid: Tensor,
    mask_ratio: float,
    span: tuple[int, int] = (1, 1),
    min_masked: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the masked positions of every word of a batch.

    Args:
        valid: (B, H, W) True where a position belongs to the word; words lie at the top left.
        mask_ratio: share of positions to start spans for, 0..1; exact in the mean for spans of one position.
        span: (rows, columns) that each start masks, to its bottom and right.
        min_masked: fewest spans per word, as far as it has positions.
        generator: source of randomness; None for PyTorch's global one.

    Returns:
        (B, H, W) bool, True = masked. A word with fewer than 2 positions has none.

    Raises:
        ValueError: for a ratio outside 0..1 or an empty span.
    """
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"`mask_ratio` must lie in 0..1, got {mask_ratio}; the paper uses 0.2 and 0.15.")
    if min(span) < 1:
        raise ValueError(f"`span` must be at least 1x1 positions, got {span}.")
    batch, height, width = valid.shape
    device = valid.device if generator is None else generator.device
    positions = valid.flatten(1).sum(1)  # (B,)
    # One draw for the batch, so that full words of one size all have the same number of masked positions.
    rounding = torch.rand((), generator=generator, device=device, dtype=torch.float64).to(valid.device)
    count = (positions.double() * mask_ratio / (span[0] * span[1]) + rounding).floor().long()
    count = torch.minimum(count.clamp(min=min_masked), positions)
    count = count.masked_fill(positions < FEWEST_POSITIONS, 0)
    keys = torch.rand((batch, height * width), generator=generator, device=device).to(valid.device)
    order = keys.masked_fill(~valid.flatten(1), 2.0).argsort(1)  # padding comes last
    chosen = torch.arange(height * width, device=valid.device) < count[:, None]  # (B, N) in that order
    starts = torch.zeros_like(chosen).scatter(1, order, chosen).reshape(batch, 1, height, width)
    # A start reaches down and to the right, so a position is masked when a start lies in the span above and
    # left of it.
    padded = F.pad(starts.float(), (span[1] - 1, 0, span[0] - 1, 0))
    return F.max_pool2d(padded, span, stride=1)[:, 0].bool() & valid
