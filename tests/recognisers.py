"""What the tests of models share: a model for any configuration, words of unequal width in one batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import modeling_rcmstr

NAMES = {"rcmstr": "RCMSTR", "persec": "PerSec"}
KINDS = {"ctc": "ForTextRecognition", "attention": "ForConditionalGeneration"}
COMBINATIONS = [
    (family, encoder, decoder)
    for family in ("rcmstr", "persec")
    for encoder in ("cnn", "vit")
    for decoder in ("ctc", "attention")
]


def class_of(family: str, decoder: str | None = None) -> Any:
    """The recogniser class of a family and decoder, or the family's encoder class."""
    return getattr(modeling_rcmstr, NAMES[family] + ("Model" if decoder is None else KINDS[decoder]))


def build(config: Any, seed: int = 0) -> Any:
    """A recogniser with known random weights, in evaluation mode; batch norms have seen something."""
    torch.manual_seed(seed)
    model = class_of(config.model_type, config.decoder_type)(config).eval()
    liven(model)
    return model


def liven(model: torch.nn.Module) -> None:
    """Move every batch norm away from the identity that it starts as."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)


def ragged_words(widths: Sequence[int], seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random words alone (3, 32, width), and as one batch padded on the right, with its mask.

    The padding holds noise, not zeros: a model must not look at it.
    """
    generator = torch.Generator().manual_seed(seed)
    words = [torch.randn(3, 32, width, generator=generator) for width in widths]
    pixel_values = torch.randn(len(widths), 3, 32, max(widths), generator=generator) * 5
    pixel_mask = torch.zeros(len(widths), 32, max(widths), dtype=torch.long)
    for row, (word, width) in enumerate(zip(words, widths, strict=True)):
        pixel_values[row, :, :, :width] = word
        pixel_mask[row, :, :width] = 1
    return words, pixel_values, pixel_mask


def labels_for(config: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Labels from character ids, padded with -100; the attention decoder's get their end token."""
    ends = [] if config.decoder_type == "ctc" else [config.eos_token_id]
    full = [[*row, *ends] for row in rows]
    length = max(map(len, full))
    return torch.tensor([row + [-100] * (length - len(row)) for row in full])


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Words {"pixel_values": (3, 32, width), "labels": ids} as a batch padded on the right, with its mask."""
    width = max(row["pixel_values"].shape[-1] for row in rows)
    length = max(len(row["labels"]) for row in rows)
    batch = {
        "pixel_values": torch.zeros(len(rows), 3, 32, width),
        "pixel_mask": torch.zeros(len(rows), 32, width),
        "labels": torch.full((len(rows), length), -100),
    }
    for place, row in enumerate(rows):
        columns = row["pixel_values"].shape[-1]
        batch["pixel_values"][place, ..., :columns] = row["pixel_values"]
        batch["pixel_mask"][place, :, :columns] = 1
        batch["labels"][place, : len(row["labels"])] = torch.tensor(row["labels"])
    return batch
