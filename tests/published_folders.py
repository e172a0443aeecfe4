"""Hub folders of small random models for tests, written as `publish_checkpoint` writes them, unchecked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import modeling_rcmstr as package
from modeling_rcmstr import TextRecognitionPipeline
from tests.recognisers import NAMES, build
from training.hub_folder import fill_hub_folder
from training.hub_source import open_checkpoint

SIZES: dict[str, dict[str, Any]] = {
    "cnn": {"embedding_sizes": (8, 16), "hidden_sizes": (32, 64, 96, 128), "depths": (1, 1, 1, 1)},
    "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}


@dataclass(frozen=True)
class Published:
    """Folders ready for the Hub, and what their models are and read.

    Args:
        root: a folder's name is below it.
        picture: a picture of noise, which every model reads something in.
        known: name → "weights" (the sum of all absolute values) and, for a recogniser, what its pipeline
            answers to the picture ("text", "score").
    """

    root: Path
    picture: Path
    known: dict[str, Any]

    def folder(self, name: str) -> Path:
        """Where a model lies."""
        return self.root / name


def write_published_folders(root: Path, models: dict[str, tuple[str, str, str | None, int]]) -> Published:
    """Write a folder for each model: weights, code, processor, pipeline, card.

    Args:
        root: an existing folder.
        models: name → (family, encoder, decoder, seed); a decoder of None means a pretraining checkpoint.
    """
    picture = Image.effect_noise((128, 32), 90).convert("RGB")
    picture.save(root / "picture.png")
    known: dict[str, Any] = {}
    for name, (family, encoder, decoder, seed) in models.items():
        processor = package.TextRecognitionProcessor(
            package.TextRecognitionImageProcessor(keep_aspect_ratio=True),
            package.CharacterTokenizer(for_attention=decoder == "attention"),
        )
        config = getattr(package, f"{NAMES[family]}Config")(
            encoder_type=encoder,
            decoder_type=decoder or "ctc",
            image_size=(32, 128),
            encoder_bilstm_size=32,
            head_hidden_size=32,
            max_text_length=8,
            vocab_size=len(processor.tokenizer),
            **SIZES[encoder],
        )
        source = root / "sources" / name
        known[name] = {}
        if decoder is None:
            torch.manual_seed(seed)
            model = getattr(package, f"{NAMES[family]}ForPreTraining")(config)
            processor.image_processor.save_pretrained(source)
        else:
            model = build(config, seed)
            with torch.no_grad():
                model.head.classifier.weight.mul_(20)  # scores far enough apart to have a best
            processor.save_pretrained(source)
            pipe = TextRecognitionPipeline(
                model=model,
                tokenizer=processor.tokenizer,
                image_processor=processor.image_processor,
                processor=processor,
                device="cpu",
            )
            known[name] = pipe(picture)
        model.save_pretrained(source)
        known[name]["weights"] = float(
            sum(value.double().abs().sum() for value in model.state_dict().values())
        )
        (root / name).mkdir()
        fill_hub_folder(open_checkpoint(source), root / name, f"words/{name}")
    return Published(root, root / "picture.png", known)
