"""Small runs of pretraining for the tests: tiny models, and words drawn in Pillow's own font."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import TINY_SIZES, draw_word

TINY_PRETRAINING: dict[str, dict[str, Any]] = {
    "rcmstr": {"projector_size": 16, "projection_dim": 8, "reconstruction_size": 16, "num_subwords": 4},
    "persec": {
        "perceiver_hidden_size": 16,
        "perceiver_attention_heads": 2,
        "codebook_size": 8,
        "codevector_size": 16,
        "num_negatives": 20,
    },
}
HEAD_FIELDS = {"max_text_length"}


def write_words(folder: Path, count: int = 24) -> Path:
    """Words of two to five letters or digits as PNG files of several widths, with `labels.tsv`.

    They are grainy: on flat backgrounds a deep batch-normalised network, still untrained, makes much of
    rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters, grain = random.Random(0), np.random.default_rng(0)
    lines = []
    for number in range(count):
        text = "".join(
            letters.choice("abcdefghijkmnopqrstuvwxyz0123456789") for _ in range(letters.randint(2, 5))
        )
        pixels = np.asarray(draw_word(text, (32, letters.choice([64, 96, 128])))).astype(int)
        pixels = (pixels + grain.normal(0, 40, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        lines.append(f"{number:03d}.png\t{text}\n")
    (folder / "labels.tsv").write_text("".join(lines))
    return folder


def write_run(
    folder: Path,
    words: Path,
    family: str = "rcmstr",
    encoder: str = "cnn",
    fields: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write `model.json` and `pretrain.yaml` of a tiny run into a folder; returns the YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "model_type": family,
        "encoder_type": encoder,
        **{name: value for name, value in TINY_SIZES.items() if name not in HEAD_FIELDS},
        **TINY_PRETRAINING[family],
        "image_size": [32, 100 if (family, encoder) == ("rcmstr", "cnn") else 128],
        **(fields or {}),
    }
    (folder / "model.json").write_text(json.dumps(model))
    run: dict[str, Any] = {
        "train_sources": {f"folder:{words}": 1},
        "output_dir": str(folder / "run"),
        "model": str(folder / "model.json"),
        "data_workers": 0,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 0.001,
        "queue_size": 256,
        "threads": 1,
        "log_steps": 1,
        "save_minutes": None,
        "tensorboard": False,
    }
    if family == "persec":
        run |= {
            "views": False,
            "processor": {"keep_aspect_ratio": True, "width_multiple": 4, "max_width": 128},
        }
    run |= settings
    path = folder / "pretrain.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses_of(folder: Path) -> list[float]:
    """The loss of each logged update."""
    return [entry["loss"] for entry in read_log(folder) if "loss" in entry]


def checkpoint_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by file and name, random generators included."""
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(str(path)).items()
    }
