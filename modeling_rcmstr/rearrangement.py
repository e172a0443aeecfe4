"""Relational rearrangement: pieces of words change places, and their features go back.

RCLSTR (arXiv:2308.00508) makes new relations between textual elements this way: the encoder reads a collage
of neighbouring words, and its frames are then put where they belong, each in the company of frames that saw a
foreign context. `restore` undoes `rearrange` for any map whose columns follow the pixels' order.
"""

import torch
from torch import Tensor


def sample_order(
    blocks_per_image: int, images_per_group: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one of the (blocks_per_image * images_per_group)! orders evenly, the unchanged one included.

    Returns:
        (P,) long; piece m of the collage is piece `order[m]` of the words side by side. On the generator's
        device.
    """
    device = torch.device("cpu") if generator is None else generator.device
    return torch.randperm(blocks_per_image * images_per_group, generator=generator, device=device)


def rearrange(pixel_values: Tensor, order: Tensor, blocks_per_image: int, images_per_group: int) -> Tensor:
    """Let the pieces of neighbouring words change places.

    Words i·g .. i·g + g - 1 stand side by side, are cut into g·b vertical strips of equal width, get the new
    order, and are cut back into g words.

    Args:
        pixel_values: (B, C, H, W); B a multiple of `images_per_group`, W of `blocks_per_image`.
        order: (P,) a permutation of 0 .. P - 1, P = b·g; strip m of the result is strip `order[m]` of the
            input.
        blocks_per_image: b, strips of a word.
        images_per_group: g, words that exchange strips.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: when words or columns do not come out even, or `order` is no permutation of P pieces.
    """
    return _permute(pixel_values, 3, order, blocks_per_image, images_per_group, "pixel columns")


def restore(features: Tensor, order: Tensor, blocks_per_image: int, images_per_group: int) -> Tensor:
    """Put the frames of a collage back where they belong.

    `restore(encode(rearrange(x)))` equals `encode(x)` for an encoder whose frames see their own pixels only.

    Args:
        features: (B, T, C) frames of the rearranged words; T a multiple of `blocks_per_image`.
        order: the (P,) order that `rearrange` was given.
        blocks_per_image: b, strips of a word.
        images_per_group: g, words that exchanged strips.

    Returns:
        (B, T, C); frame t of word i stands at [i, t] again.

    Raises:
        ValueError: when words or frames do not come out even, or `order` is no permutation of P pieces.
    """
    return _permute(features, 1, order, blocks_per_image, images_per_group, "frames", inverse=True)


def _permute(
    tensor: Tensor,
    axis: int,
    order: Tensor,
    blocks: int,
    group: int,
    columns_name: str,
    inverse: bool = False,
) -> Tensor:
    """Permute the pieces along `axis` within groups along axis 0."""
    words, columns = tensor.shape[0], tensor.shape[axis]
    if words % group:
        raise ValueError(
            f"a batch of {words} words cannot be grouped by {group}; use a batch size that is a multiple of "
            f"`images_per_group` and drop the last batch when it is smaller."
        )
    if columns % blocks:
        raise ValueError(
            f"{columns} {columns_name} cannot be cut into {blocks} equal pieces; choose an image width whose "
            "pixels and frames are multiples of `blocks_per_image` (the trba cnn makes width / 4 + 1 frames, "
            "so a width of 100 and 2 blocks go together)."
        )
    if order.shape != (blocks * group,) or sorted(order.tolist()) != list(range(blocks * group)):
        raise ValueError(
            f"`order` must be a permutation of 0..{blocks * group - 1} ({group} words of {blocks} pieces), "
            f"got {order.tolist()}; draw it with `sample_order`."
        )
    order = order.to(tensor.device)
    if inverse:
        order = order.argsort()
    pieces = tensor.unflatten(axis, (blocks, columns // blocks)).movedim(axis, 1)  # (B, b, …)
    pieces = pieces.unflatten(0, (words // group, group)).flatten(1, 2)  # (B / g, P, …)
    pieces = pieces.index_select(1, order)
    pieces = pieces.unflatten(1, (group, blocks)).flatten(0, 1)  # (B, b, …)
    return pieces.movedim(1, axis).flatten(axis, axis + 1)
