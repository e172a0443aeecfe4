"""Hub folders of small random models for tests, written by a process of their own.

Registering a class for its auto class changes it for good, so no test does it in its own process.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import run_program

_PROGRAM = """
import json, sys
from pathlib import Path
import torch
from PIL import Image
from transformers import pipeline
import modeling_rcmstr as package
from tests.recognisers import KINDS, NAMES, build

SIZES = {
    "cnn": dict(embedding_sizes=(8, 16), hidden_sizes=(32, 64, 96, 128), depths=(1, 1, 1, 1)),
    "vit": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
}
for auto, cls in [
    ("AutoImageProcessor", package.TextRecognitionImageProcessor),
    ("AutoTokenizer", package.CharacterTokenizer),
    ("AutoProcessor", package.TextRecognitionProcessor),
    *[("AutoConfig", getattr(package, name + "Config")) for name in NAMES.values()],
    *[
        ("AutoModelForTextRecognition", getattr(package, name + kind))
        for name in NAMES.values()
        for kind in KINDS.values()
    ],
    *[("AutoModelForPreTraining", getattr(package, name + "ForPreTraining")) for name in NAMES.values()],
]:
    cls.register_for_auto_class(auto)

def weights_of(model):
    return float(sum(value.double().abs().sum() for value in model.state_dict().values()))

root, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
picture = Image.effect_noise((128, 32), 90).convert("RGB")
picture.save(root / "picture.png")
known = {}
for name, (family, encoder, decoder, seed) in wanted.items():
    config = getattr(package, NAMES[family] + "Config")(
        encoder_type=encoder,
        decoder_type=decoder or "ctc",
        image_size=(32, 128),
        encoder_bilstm_size=32,
        head_hidden_size=32,
        max_text_length=8,
        vocab_size=36 + (3 if decoder == "attention" else 1),
        **SIZES[encoder],
    )
    config.auto_map = {"AutoModel": f"modeling_{family}.{NAMES[family]}Model"}
    folder = root / name
    if decoder is None:
        torch.manual_seed(seed)
        model = getattr(package, NAMES[family] + "ForPreTraining")(config)
        model.save_pretrained(folder)
        known[name] = {"weights": weights_of(model)}
    else:
        model = build(config, seed)
        with torch.no_grad():
            model.head.classifier.weight.mul_(20)  # scores far enough apart to have a best
        processor = package.TextRecognitionProcessor(
            package.TextRecognitionImageProcessor(keep_aspect_ratio=True),
            package.CharacterTokenizer(for_attention=decoder == "attention"),
        )
        pipe = pipeline(
            "text-recognition",
            model=model,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
            processor=processor,
            device="cpu",
        )
        pipe.save_pretrained(folder)
        processor.save_pretrained(folder)
        known[name] = {"weights": weights_of(model), **pipe(picture)}
    (folder / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# A test\\n")
    for path in folder.iterdir():
        path.chmod(0o644)
print(json.dumps(known))
"""


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
    run = run_program([sys.executable, "-c", _PROGRAM, str(root), json.dumps(models)])
    assert run.returncode == 0, run.stderr
    return Published(root, root / "picture.png", json.loads(run.stdout.splitlines()[-1]))
