"""Small RCMSTR pretraining models and two views of words, for the tests of its parts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.pretraining_rcmstr import RCMSTRForPreTraining

WIDTHS = {"cnn": 100, "vit": 128}
FRAMES = {"cnn": 26, "vit": 32}
SMALL: dict[str, Any] = {
    "embedding_sizes": (8, 16),
    "hidden_sizes": (16, 24, 32, 32),
    "depths": (1, 1, 1, 1),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "projector_size": 16,
    "projection_dim": 8,
    "reconstruction_size": 16,
}


def make(encoder: str = "cnn", preset: str = "rcmstr", **fields: Any) -> Any:
    """A small model of a published row, in training mode."""
    nominal = {"encoder_type": encoder, "image_size": (32, WIDTHS[encoder])}
    return RCMSTRForPreTraining(RCMSTRConfig.preset(preset, **{**SMALL, **nominal, **fields})).train()


def views(encoder: str = "cnn", batch: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views of words, related like two augmentations."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(batch, 3, 32, WIDTHS[encoder], generator=generator)
    return first, first + 0.1 * torch.randn(first.shape, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator in a known state."""
    return torch.Generator().manual_seed(seed)


def queues(model: Any, size: int = 12) -> dict[str, Tensor]:
    """Banks of negatives for the levels of a model."""
    generator, dim = seeded(7), model.config.projection_dim
    shape = (size, dim)
    return {
        level: F.normalize(torch.randn(shape, generator=generator), dim=1)
        for level in model.config.key_levels
    }


def collage_of(images: Tensor) -> Tensor:
    """The collage of order (2, 0, 3, 1) from halves by hand; works on frames along the last axis too."""
    half = images.shape[-1] // 2
    left, right = images[..., :half], images[..., half:]
    words = []
    for i in range(0, len(images), 2):
        words.append(torch.cat([left[i + 1], left[i]], dim=-1))
        words.append(torch.cat([right[i + 1], right[i]], dim=-1))
    return torch.stack(words)
