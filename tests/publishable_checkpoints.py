"""Small checkpoints of every kind, as runs and `save_pretrained` write them, for the tests of publishing."""

from pathlib import Path
from typing import Any

import torch

import modeling_rcmstr
from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import NAMES, build, liven

# Encoders by name, with fields for a tiny one.
ENCODERS: dict[str, dict[str, Any]] = {
    "trba": {"encoder_type": "cnn"},
    "resnet45": {
        "encoder_type": "cnn",
        "cnn_type": "resnet45",
        "embedding_sizes": (8,),
        "hidden_sizes": (8, 8, 16, 16, 16),
        "depths": (1, 1, 1, 1, 1),
    },
    "vit": {"encoder_type": "vit"},
}
PRETRAINING_SIZES: dict[str, dict[str, Any]] = {
    "rcmstr": {"projector_size": 16, "projection_dim": 8, "reconstruction_size": 16},
    "persec": {"perceiver_hidden_size": 16, "codebook_size": 8, "codevector_size": 16, "num_negatives": 8},
}


def save_recogniser_folder(folder: Path, config: Any, keep_aspect_ratio: bool = True, **options: Any) -> Path:
    """Save a random recogniser whose readings vary, with its processor; `options` of `save_pretrained`."""
    model = build(config)
    with torch.no_grad():
        model.head.classifier.weight.mul_(20)  # scores far enough apart to have a best
    model.save_pretrained(folder, **options)
    height, width = config.image_size
    image_processor = TextRecognitionImageProcessor(
        size={"height": height, "width": width}, keep_aspect_ratio=keep_aspect_ratio
    )
    tokenizer = CharacterTokenizer(for_attention=config.decoder_type == "attention")
    TextRecognitionProcessor(image_processor, tokenizer).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def save_encoder_folder(folder: Path, config: Any, kind: str = "ForPreTraining") -> Path:
    """Save a random pretraining model, or with kind "Model" the encoder alone, without anything else."""
    torch.manual_seed(0)
    model = getattr(modeling_rcmstr, NAMES[config.model_type] + kind)(config).eval()
    liven(model)
    model.save_pretrained(folder)
    return folder
