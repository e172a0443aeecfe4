"""Which units of a word are hidden: scattered ones, a block as high as the word, or both.

RCMSTR (arXiv:2411.11219) takes both. A unit is a square of pixels on a rectangular (h, w) grid; `mask` is
True where it is hidden, and `visible = ~mask` is what encoders take. The same generator state gives the same
masks. What is done with a mask is the encoders' matter and that of `reconstruction`.
"""

import torch
from torch import Tensor


def sample_random_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide units that are scattered evenly, without replacement (DiG, arXiv:2207.00193).

    Args:
        batch_size: B.
        grid_size: (h, w) units of a word.
        mask_ratio: share of the units to hide, in 0 .. 1.
        generator: source of randomness; its device is the mask's. None takes the global one of the CPU.

    Returns:
        (B, 1, h, w) True in exactly `int(mask_ratio * h * w)` units of each word.

    Raises:
        ValueError: for a ratio outside 0 .. 1 or a grid without units.
    """
    rows, columns = _checked_grid(grid_size)
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"`mask_ratio` must lie in 0..1, got {mask_ratio}; the papers' figure shows 0.7.")
    device = _device_of(generator)
    num_hidden = int(mask_ratio * rows * columns)
    scores = torch.rand(batch_size, rows * columns, generator=generator, device=device)
    mask = torch.zeros(batch_size, rows * columns, dtype=torch.bool, device=device)
    mask.scatter_(1, scores.topk(num_hidden, dim=1).indices, True)
    return mask.reshape(batch_size, 1, rows, columns)


def sample_block_mask(
    batch_size: int,
    grid_size: tuple[int, int],
    num_blocks: int,
    block_width: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hide blocks as high as the word, so that about one character is gone whole.

    Args:
        batch_size: B.
        grid_size: (h, w) units of a word.
        num_blocks: blocks of each word; each starts anywhere in 0 .. w - block_width, so they may overlap.
        block_width: columns of a block, in units.
        generator: source of randomness; its device is the mask's. None takes the global one of the CPU.

    Returns:
        (B, 1, h, w) True in the blocks.

    Raises:
        ValueError: for negative numbers or a block that is wider than the grid.
    """
    rows, columns = _checked_grid(grid_size)
    if num_blocks < 0:
        raise ValueError(f"`num_blocks` must be 0 or more, got {num_blocks}.")
    if not 1 <= block_width <= columns:
        raise ValueError(
            f"`block_width` must lie in 1..{columns} on a grid of {columns} columns, got {block_width}; "
            "take narrower blocks or wider words."
        )
    device = _device_of(generator)
    starts = torch.randint(
        columns - block_width + 1, (batch_size, num_blocks, 1), generator=generator, device=device
    )
    position = torch.arange(columns, device=device)
    inside = ((position >= starts) & (position < starts + block_width)).any(1)  # (B, w)
    return inside[:, None, None].expand(-1, 1, rows, -1).contiguous()


def upsample_mask(mask: Tensor, factor: int) -> Tensor:
    """Carry a (B, 1, h, w) mask to a grid `factor` times as fine, (B, 1, h * factor, w * factor)."""
    return mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _checked_grid(grid_size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = grid_size
    if rows < 1 or columns < 1:
        raise ValueError(f"`grid_size` must be (rows, columns) with at least one unit each, got {grid_size}.")
    return rows, columns


def _device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
