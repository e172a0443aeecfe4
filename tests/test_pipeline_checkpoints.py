"""The pipeline on saved recognisers of every kind: batches, generation, precision, the default checkpoint,
saving."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import modeling_rcmstr
from modeling_rcmstr.image_processing_text_recognition import TextRecognitionImageProcessor
from modeling_rcmstr.pipeline_text_recognition import TextRecognitionPipeline, default_checkpoint
from modeling_rcmstr.processing_text_recognition import TextRecognitionProcessor
from modeling_rcmstr.tokenization_text_recognition import CharacterTokenizer

TASK: Any = "text-recognition"


def noise() -> Image.Image:
    """A picture that a random recogniser reads something in."""
    return Image.effect_noise((128, 32), 90)


@pytest.fixture
def checkpoint(tiny_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Save a random recogniser with its processor: `checkpoint(family, encoder, decoder)` gives the
    folder."""

    def save(
        family: str = "rcmstr", encoder: str = "cnn", decoder: str = "ctc", dtype: Any = torch.float32
    ) -> Path:
        family_name = {"rcmstr": "RCMSTR", "persec": "PerSec"}[family]
        kind = {"ctc": "ForTextRecognition", "attention": "ForConditionalGeneration"}[decoder]
        torch.manual_seed(0)
        model = getattr(modeling_rcmstr, family_name + kind)(tiny_config(family, encoder, decoder)).eval()
        with torch.no_grad():
            model.head.classifier.weight.mul_(20)  # scores far enough apart to have a best
        folder = tmp_path / f"{family}-{encoder}-{decoder}"
        model.to(dtype).save_pretrained(folder)
        image_processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)
        tokenizer = CharacterTokenizer(for_attention=decoder == "attention")
        TextRecognitionProcessor(image_processor, tokenizer).save_pretrained(folder)
        return folder

    return save


def test_a_saved_recogniser_reads_alike_in_any_batch(
    checkpoint: Callable[..., Path],
    eight_words: list[tuple[Image.Image, str]],
    word_drawer: Callable[..., Image.Image],
    family: str,
    encoder: str,
    decoder: str,
) -> None:
    pipe = pipeline(TASK, model=str(checkpoint(family, encoder, decoder)), device="cpu")
    assert type(pipe) is TextRecognitionPipeline
    images = [word_drawer(text, (40, 24 * len(text))) for _, text in eight_words]
    alone = [pipe(image, return_characters=True) for image in images]
    for answer, expected in zip(pipe(images, return_characters=True, batch_size=3), alone, strict=True):
        assert answer["text"] == expected["text"]
        assert answer["score"] == pytest.approx(expected["score"], rel=1e-3, abs=1e-6)
        for character, other in zip(answer["characters"], expected["characters"], strict=True):
            assert (character["start"], character["end"]) == pytest.approx(
                (other["start"], other["end"]), abs=1e-3
            )


def test_the_pipeline_adds_nothing_to_processor_and_model(
    checkpoint: Callable[..., Path], eight_words: list[tuple[Image.Image, str]]
) -> None:
    pipe = pipeline(TASK, model=str(checkpoint()), device="cpu")
    images = [image for image, _ in eight_words]
    with torch.inference_mode():
        outputs = pipe.model(**pipe.processor(images))
    expected = pipe.processor.post_process_text_recognition(outputs)
    for answer, other in zip(pipe(images, return_characters=True), expected, strict=True):
        assert answer["text"] == other["text"]
        assert answer["score"] == pytest.approx(other["score"], rel=1e-4)


def test_an_attention_recogniser_takes_generation_arguments(checkpoint: Callable[..., Path]) -> None:
    pipe = pipeline(TASK, model=str(checkpoint(decoder="attention")), device="cpu")
    images = [noise() for _ in range(4)]
    greedy = pipe(images)
    beams = pipe(images, generate_kwargs={"num_beams": 4}, return_characters=True)
    assert all(beam["score"] >= answer["score"] * 0.999 for beam, answer in zip(beams, greedy, strict=True))
    digits = pipe(images, allowed_characters="0123456789", generate_kwargs={"num_beams": 2})
    assert set("".join(answer["text"] for answer in digits)) <= set("0123456789")
    assert all(len(answer["text"]) <= 2 for answer in pipe(images, generate_kwargs={"max_new_tokens": 2}))
    without = pipe(images, allowed_characters="01", generate_kwargs={"suppress_tokens": [3]})
    assert set("".join(answer["text"] for answer in without)) <= {"1"}
    with pytest.raises(ValueError, match="`num_return_sequences` must be 1"):
        pipe(images, generate_kwargs={"num_return_sequences": 2, "num_beams": 2})


def test_half_precision_is_computed_in_float32_on_a_cpu_unless_asked_for(
    checkpoint: Callable[..., Path],
) -> None:
    folder = str(checkpoint(dtype=torch.float16))
    pipe = pipeline(TASK, model=folder, device="cpu")
    assert pipe.model.dtype == torch.float32
    assert pipe(noise())["score"] > 0
    asked = pipeline(TASK, model=folder, device="cpu", dtype=torch.bfloat16)
    assert asked.model.dtype == torch.bfloat16
    assert asked(noise())["score"] > 0


def test_without_a_model_the_default_checkpoint_reads(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = PIPELINE_REGISTRY.supported_tasks["text-recognition"]
    assert registered["default"]["model"] == (str(default_checkpoint()), "main")
    assert default_checkpoint().parts[-3:] == ("modeling_rcmstr", "checkpoints", "default")
    monkeypatch.setitem(registered, "default", {"model": (str(checkpoint()), "main")})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on a terminal"))
    assert 0 < pipeline(TASK, device="cpu")(noise())["score"] <= 1


def test_saving_a_pipeline_saves_the_processor_and_no_path_of_this_machine(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    pipe = pipeline(TASK, model=str(checkpoint()), device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert set(config["custom_pipelines"]["text-recognition"]) == {"impl", "pt", "type"}
    for file in (tmp_path / "saved").glob("*.json"):
        assert str(tmp_path) not in file.read_text().replace(os.sep, "/"), file
        assert "checkpoints" not in file.read_text(), file
    image = noise()
    assert pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")(image) == pipe(image)
