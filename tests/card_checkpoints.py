"""Checkpoints for the tests of model cards: recogniser and encoder that learned nothing, with records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_rcmstr import (
    PerSecForPreTraining,
    RCMSTRForPreTraining,
    TextRecognitionImageProcessor,
)
from tests.word_folders import save_untrained
from training.benchmark_measurement import checkpoint_hash

MACHINE = {"cpu": "A  processor", "cores": 2, "threads": 2, "gpu": None, "torch": "2.13.0"}
SCORES = {
    "words": 200,
    "empty_labels": 3,
    "correct": 161,
    "word_accuracy": 0.805,
    "interval": {"low": 0.7447, "high": 0.8541},
    "cased_accuracy": 0.75,
    "one_minus_ned": 0.9125,
    "character_error_rate": 0.0951,
}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as a person would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def make_results(sha256: str) -> dict[str, Any]:
    """What `run_benchmark --robustness` writes, with one set and one group."""
    measured = {
        "scores": SCORES,
        "unreadable": 0,
        "seconds": 2.0,
        "words_per_second": 101.5,
        "fingerprint": "0123456789abcdef",
    }
    points = [{"name": name, "accuracy": share} for name, share in (("none", 0.8), ("5", 0.7), ("10", 0.123))]
    return {
        "protocol": {"name": "rule-1", "text": "Lower case."},
        "checkpoint": {"name": "mine", "sha256": sha256},
        "sets": [{"name": "signs", "members": [], **measured}],
        "groups": [{"name": "both", "members": ["signs", "notes"], **measured}],
        "calibration": {
            "precision": 0.95,
            "bins": 15,
            "sets": [
                {
                    "name": "all words",
                    "words": 200,
                    "error": 0.0456,
                    "coverage": {"precision": 0.951, "coverage": 0.684, "threshold": 0.9123},
                },
                {"name": "signs", "words": 200, "error": 0.0567, "coverage": None},
            ],
        },
        "robustness": {
            "words": 250,
            "curves": [{"name": "rotation", "unit": "degrees", "grades": [5, 10], "points": points}],
        },
        "batch_size": 32,
        "limit": None,
        "machine": MACHINE,
    }


def make_recogniser(folder: Path, tiny_config: Callable[..., Any]) -> Path:
    """A recogniser with results and a training record."""
    save_untrained(folder, tiny_config)
    write_json(folder / "results.json", make_results(checkpoint_hash(folder)))
    record = {
        "settings": {"model": "configs/model.json", "train_sources": {"folder:/home/me/crops": 1.0}},
        "data": {
            "sources": [{"source": "folder:/home/me/crops", "held_out": 12}],
            "counts": {"read folder:/home/me/crops": 6400},
        },
        "steps": 1234,
        "images_seen": 6400,
        "minutes": 7.2,
        "machine": MACHINE,
    }
    write_json(folder / "training_record.json", record)
    return folder


def make_encoder(folder: Path, tiny_config: Callable[..., Any], family: str = "rcmstr") -> Path:
    """A pretrained encoder with a record; the card's numbers of it are those of the record."""
    models = {"rcmstr": RCMSTRForPreTraining, "persec": PerSecForPreTraining}
    models[family](tiny_config(family, "vit", "ctc")).save_pretrained(folder)
    TextRecognitionImageProcessor().save_pretrained(folder)
    record = {
        "settings": {
            "train_sources": {"datasets:somebody/crops?split=train": 1.0},
            "preset": None,
            "probe_head": "ctc",
            "probe_source": "folder:/home/me/labelled",
            "probe_eval_words": 50,
            "probe_train_words": 100,
            "probe_updates": 5,
        },
        "steps": 2500,
        "words_per_update": 64,
        "images_seen": 160000,
        "counts": {"read datasets:somebody/crops?split=train": 160000},
        "minutes": 30.04,
        "machine": {**MACHINE, "gpu": "A card"},
        "processes": 4,
        "zero_stage": 0,
        "last": {
            "step": 2499,
            "loss": 6.54321,
            "contrastive_loss": 5.4321,
            "gradient_norm": 1.0,
            "term/frame": 3.0,
        },
        "probes": [
            {
                "step": 2500,
                "probe/word_accuracy": 0.321,
                "probe/one_minus_ned": 0.654,
                "probe/effective_rank": 42.34,
            }
        ],
    }
    write_json(folder / "training_record.json", record)
    return folder
