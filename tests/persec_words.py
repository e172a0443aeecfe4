"""What the tests of PerSec's pretraining share: words, their padding, generators, and gradients by name."""

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = ("stroke", "semantic")
PERCEIVERS = ("stroke_perceiver.", "semantic_perceiver.")


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def images(batch: int = 2, width: int = 64) -> Tensor:
    """Noise, always the same: (B, 3, 32, W)."""
    return torch.randn(batch, 3, 32, width, generator=generator(9))


def padding_mask(widths: list[int], width: int) -> Tensor:
    """(B, 32, W) with each word's own width."""
    return (torch.arange(width) < torch.tensor(widths)[:, None])[:, None].expand(-1, 32, -1).long()


def some_mask(batch: int = 3, positions: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks with another count per word, and valid positions that end earlier in each word."""
    random = np.random.default_rng(seed)
    mask, valid = np.zeros((2, batch, positions), dtype=bool)
    for word in range(batch):
        valid[word, : positions - 6 * word] = True
        mask[word, random.permutation(positions - 6 * word)[: 9 - 2 * word]] = True
    return torch.tensor(mask), torch.tensor(valid)


def gradients(model: nn.Module, loss: Tensor, prefix: str) -> dict[str, Tensor]:
    """Gradient of `loss` by each parameter under `prefix`, zeros where it does not reach."""
    named = {name: value for name, value in model.named_parameters() if name.startswith(prefix)}
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(named.items(), found, strict=True)
    }


def gradient_of(parameter: Tensor) -> Tensor:
    """What a backward pass left there; something, in any case."""
    assert parameter.grad is not None
    return parameter.grad


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference over that of `expected`, the largest over parameters with a gradient."""
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for value in expected.values())
    return max(
        float((found[name] - value).norm() / value.norm())
        for name, value in expected.items()
        if float(value.norm()) > 1e-9 * largest
    )
