"""Whole runs that extend a charset: `run_finetuning` with `charset.add`, on words drawn in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import class_of
from tests.word_folders import write_words
from training.run_finetuning import main
from training.word_trainer import WordTrainer

pytestmark = pytest.mark.usefixtures("restored_process")

NEW = "€äöüßé"
# Pillow's font has no such letters: signs that the charset lacks stand for them in the pictures.
SIGNS = str.maketrans(NEW, "$@%&#+")
WORDS = ("bär", "7€", "öl", "für", "süß", "café", "maß", "hello")


@pytest.fixture
def drawn_words(word_drawer: Callable[..., Image.Image]) -> list[tuple[Image.Image, str]]:
    return [(word_drawer(text.translate(SIGNS)), text) for text in WORDS]


@pytest.fixture
def start(
    tmp_path: Path,
    tiny_config: Callable[..., Any],
    drawn_words: list[tuple[Image.Image, str]],
    accented_font: Path,
) -> Callable[..., int]:
    """Extend an untrained recogniser: `start("name", decoder="ctc", key=value, …)`."""
    words = write_words(tmp_path / "words", drawn_words)
    texts = {"languages": [["en", 1.0]], "max_length": 8, "emphasis": 0.5}
    rendering = {"fonts": [str(accented_font)], "seed": 1, "texts": texts}
    (tmp_path / "rehearsal.yaml").write_text(yaml.safe_dump(rendering), encoding="utf-8")
    settings = {
        "train_sources": {f"folder:{words}": 1},
        "charset.add": NEW,
        "held_out_fraction": 0.0,
        "eval_words": 4,
        "batch_size": 4,
        "bucket_batches": 2,
        "data_workers": 0,
        "max_steps": 6,
        "save_steps": 2,
        "save_minutes": None,
        "log_steps": 1,
        "tensorboard": False,
        "threads": 1,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")

    def run(name: str, decoder: str = "ctc", **changes: Any) -> int:
        if not (tmp_path / decoder).exists():
            torch.manual_seed(0)
            class_of("rcmstr", decoder)(tiny_config("rcmstr", "cnn", decoder)).save_pretrained(
                tmp_path / decoder
            )
            tokenizer = CharacterTokenizer(charset="alphanumeric-36", for_attention=decoder == "attention")
            images = TextRecognitionImageProcessor(size={"height": 32, "width": 64})
            TextRecognitionProcessor(images, tokenizer).save_pretrained(tmp_path / decoder)
        overrides = [
            f"{key.replace('charset_add', 'charset.add')}={json.dumps(v)}" for key, v in changes.items()
        ]
        given = [
            str(tmp_path / "settings.yaml"),
            f"output_dir={tmp_path / name}",
            f"model={tmp_path / decoder}",
        ]
        return main([*given, *overrides])

    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def test_a_run_extends_the_charset_rehearses_and_says_so(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rehearsal = {"rehearsal_share": 0.5, "rehearsal_rendering": str(tmp_path / "rehearsal.yaml")}
    assert start("run", charset_add=NEW + "az", **rehearsal) == 0
    out = capsys.readouterr().out
    assert "in the charset already: 'az'" in out
    assert "new characters: € in 1 words  ä in 1 words" in out
    assert "rehearsal share 0.5" in out
    folder = tmp_path / "run" / "final"
    record = json.loads((folder / "training_record.json").read_text(encoding="utf-8"))
    assert record["settings"]["charset.add"] == NEW + "az"
    assert record["data"]["charset"]["added"] == NEW
    counts = record["data"]["counts"]
    assert counts["read rehearsal"] == pytest.approx(record["images_seen"] / 2, abs=2)
    assert record["data"]["evaluated_words"] == {"rehearsal": 4}
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 37 + len(NEW)
    reader: Any = pipeline("text-recognition", model=str(folder))  # type: ignore[call-overload]
    assert reader.tokenizer.charset.endswith(NEW)
    assert set(reader(Image.open(tmp_path / "words" / "0.png"))) == {"text", "score"}


def test_without_rehearsal_a_run_warns_of_forgetting(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("run", max_steps=1, save_steps=None) == 0
    assert (
        "warning: no rehearsal, and fewer than 20 training words hold each of the 36 old"
        in capsys.readouterr().out
    )


def test_characters_that_are_there_change_nothing(
    start: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, changes in (("one", {"charset_add": "abc"}), ("other", {"charset_add": None})):
        assert start(name, max_steps=1, save_steps=None, out_of_charset="drop_characters", **changes) == 0
    assert "in the charset already: 'abc'" in capsys.readouterr().out
    one, other = tensors(tmp_path / "one" / "final"), tensors(tmp_path / "other" / "final")
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_a_resumed_extension_equals_one_that_was_not_interrupted(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    changes = {
        "rehearsal_share": 0.5,
        "rehearsal_rendering": str(tmp_path / "rehearsal.yaml"),
        "ema_decay": 0.9,
    }
    assert start("whole", decoder, **changes) == 0
    step = WordTrainer.training_step

    def crash(self: WordTrainer, *arguments: Any, **settings: Any) -> Any:
        if self.state.global_step == 5:
            raise OSError("power cut")
        return step(self, *arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(WordTrainer, "training_step", crash)
        with pytest.raises(OSError, match="power cut"):
            start("broken", decoder, **changes)
    assert start("broken", decoder, resume=True, **changes) == 0
    one, other = tensors(tmp_path / "whole" / "final"), tensors(tmp_path / "broken" / "final")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charset": "ascii-94"}, "`charset` replaces them; give one of the two"),
        ({"model_settings": {"decoder_type": "attention"}}, "holds no such head"),
        ({"charset_add": "Ä" + NEW}, "`charset.add`: no text can hold 'Ä' .*do_lower_case=True"),
        ({"charset_add": NEW + "ñ"}, "no training word holds 'ñ' of `charset.add`"),
        ({"model": "training/configs/rcmstr_trba/model.json"}, "`model` names a new one"),
    ],
)
def test_what_cannot_be_extended_is_refused(
    start: Callable[..., int], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        start("run", **changes)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_eight_words_with_new_characters_are_learned_by_heart(
    start: Callable[..., int], tmp_path: Path, drawn_words: list[tuple[Image.Image, str]], decoder: str
) -> None:
    settings = {"batch_size": 8, "max_steps": 300, "learning_rate": 0.01, "augmentation_strength": 0.0}
    assert start("run", decoder, save_steps=None, log_steps=50, **settings) == 0
    reader: Any = pipeline
    answers = reader("text-recognition", model=str(tmp_path / "run" / "final"))(
        [image for image, _ in drawn_words]
    )
    assert [answer["text"] for answer in answers] == list(WORDS)
