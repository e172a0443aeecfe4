"""TextRecognitionProcessor: batches with labels; texts, scores and spans from CTC, generated and
teacher-forced outputs."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

import modeling_rcmstr
from modeling_rcmstr.image_processing_text_recognition import TextRecognitionImageProcessor
from modeling_rcmstr.processing_text_recognition import TextRecognitionProcessor
from modeling_rcmstr.tokenization_text_recognition import CharacterTokenizer


def make_processor(
    for_attention: bool = False, charset: str = "alphanumeric-36", **arguments: Any
) -> TextRecognitionProcessor:
    """A processor; `arguments` are the image processor's."""
    tokenizer = CharacterTokenizer(charset=charset, for_attention=for_attention)
    return TextRecognitionProcessor(TextRecognitionImageProcessor(**arguments), tokenizer)


def frame_scores(text: str, num_frames: int, places: list[int], probability: float = 0.9) -> Tensor:
    """CTC logits (1, T, 37) that read `text`, each character on one frame."""
    charset = make_processor().tokenizer.get_vocab()
    table = torch.full((1, num_frames, 37), (1 - probability) / 36)
    path = torch.zeros(num_frames, dtype=torch.long)
    path[torch.tensor(places)] = torch.tensor([charset[character] for character in text])
    table[0, torch.arange(num_frames), path] = probability
    return table.log()


def spans(result: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Start and end of every character."""
    return [(character["start"], character["end"]) for character in result["characters"]]


def make_model(config: Any, seed: int = 0) -> Any:
    """A random recogniser of the configuration's kind, with scores far enough apart to have a best."""
    torch.manual_seed(seed)
    family = {"rcmstr": "RCMSTR", "persec": "PerSec"}[config.model_type]
    kind = {"ctc": "ForTextRecognition", "attention": "ForConditionalGeneration"}[config.decoder_type]
    model = getattr(modeling_rcmstr, family + kind)(config).eval()
    with torch.no_grad():
        model.head.classifier.weight.mul_(20)
    return model


def test_images_and_text_make_a_training_batch(eight_words: list[tuple[Image.Image, str]]) -> None:
    processor = make_processor()
    images, texts = zip(*eight_words, strict=True)
    batch = processor(images=images, text=texts)
    assert batch["pixel_values"].shape == (8, 3, 32, 128)
    assert batch["labels"].shape == (8, 7)
    assert batch["labels"].dtype == torch.int64
    assert processor.batch_decode(batch["labels"]) == list(texts)
    for row, text in zip(batch["labels"], texts, strict=True):
        assert (row[len(text) :] == -100).all()


def test_labels_of_an_attention_recogniser_end_in_the_end_token() -> None:
    assert make_processor(for_attention=True)(text=["12", "1"])["labels"].tolist() == [
        [4, 5, 2],
        [4, 2, -100],
    ]


def test_one_word_one_string_and_no_text(eight_words: list[tuple[Image.Image, str]]) -> None:
    processor = make_processor()
    image, text = eight_words[0]
    assert set(processor(image)) == {"pixel_values"}
    assert processor(image, text)["labels"].shape == (1, len(text))
    assert processor(text=[""])["labels"].shape == (1, 0)
    assert {type(value) for value in processor(image, text, return_tensors="np").values()} == {np.ndarray}


def test_widths_and_arguments_of_a_call_reach_the_image_processor() -> None:
    processor = make_processor(keep_aspect_ratio=True)
    images = [Image.new("RGB", (64, 32)), Image.new("RGB", (128, 32))]
    batch = processor(images, ["ab", "c"])
    assert batch["pixel_mask"].sum(-1)[:, 0].tolist() == [64, 128]
    assert processor(images, keep_aspect_ratio=False)["pixel_values"].shape == (2, 3, 32, 128)


def test_unusable_calls_are_refused() -> None:
    processor = make_processor()
    image = Image.new("RGB", (64, 32))
    with pytest.raises(ValueError, match="got neither"):
        processor()
    with pytest.raises(ValueError, match="one text per image, got 2 texts and 1 images"):
        processor(image, ["a", "b"])
    with pytest.raises(ValueError, match="at least one text"):
        processor(text=[])
    with pytest.raises(TypeError, match="max_width: arguments of the image processor need `images`"):
        processor(text="a", max_width=64)
    with pytest.raises(TypeError, match="max_widht"):
        processor(image, max_widht=64)
    with pytest.raises(ValueError, match="outside the charset"):
        processor(image, "naïve")


@pytest.mark.parametrize("for_attention", [False, True])
def test_a_saved_processor_comes_back(tmp_path: Path, for_attention: bool) -> None:
    processor = make_processor(for_attention, keep_aspect_ratio=True, max_width=256)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is TextRecognitionProcessor
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.model_input_names == ["pixel_values", "pixel_mask", "labels"]


def test_frames_become_text_score_and_characters() -> None:
    outputs = SimpleNamespace(logits=frame_scores("ab", 32, [8, 20]), frame_mask=None)
    (result,) = make_processor().post_process_text_recognition(outputs)
    assert result["text"] == "ab"
    assert result["score"] == pytest.approx(0.81)
    assert [character["character"] for character in result["characters"]] == ["a", "b"]
    assert [character["score"] for character in result["characters"]] == pytest.approx([0.9, 0.9])
    # The gap from frame 9 to 20 is divided in the middle, and the outer borders mirror it.
    assert spans(result) == [(2.5 / 32, 14.5 / 32), (14.5 / 32, 26.5 / 32)]


def test_frames_of_a_cnn_stand_on_the_strides() -> None:
    outputs = {"logits": frame_scores("ab", 33, [8, 20])}
    (result,) = make_processor().post_process_text_recognition(outputs)
    assert spans(result)[0] == pytest.approx((2 / 32, 14 / 32))


@pytest.mark.parametrize(("num_frames", "width"), [(25, 100), (26, 100), (32, 128), (33, 128)])
def test_the_middle_of_the_word_is_the_middle_of_its_frames(num_frames: int, width: int) -> None:
    """At any width and with both kinds of frames, two characters placed in mirror image meet at one half."""
    processor = make_processor(size={"height": 32, "width": width})
    places = [6, num_frames - 7]
    (result,) = processor.post_process_text_recognition({"logits": frame_scores("ab", num_frames, places)})
    assert spans(result)[0][1] == pytest.approx(0.5)
    assert spans(result)[0][0] == pytest.approx(1 - spans(result)[1][1])


@pytest.mark.parametrize("extra", [0, 1])
def test_spans_are_parts_of_the_words_own_width(extra: int) -> None:
    """A word of 64 pixels padded to 128 has the spans that it has alone."""
    processor = make_processor(keep_aspect_ratio=True)
    alone = frame_scores("ab", 16 + extra, [3, 11])
    padded = torch.cat([alone, torch.randn(1, 16, 37) * 9], dim=1)
    frame_mask = torch.arange(32 + extra)[None] < 16 + extra
    pixel_mask = (torch.arange(128) < 64).long().expand(1, 32, 128)
    expected = processor.post_process_text_recognition({"logits": alone})
    assert expected == processor.post_process_text_recognition(
        {"logits": padded, "frame_mask": frame_mask}, pixel_mask
    )
    assert expected == processor.post_process_text_recognition({"logits": padded, "frame_mask": frame_mask})


def test_original_sizes_give_boxes_in_pixels() -> None:
    outputs = {"logits": frame_scores("ab", 32, [8, 20])}
    (result,) = make_processor().post_process_text_recognition(outputs, original_sizes=[(50, 320)])
    assert [character["box"] for character in result["characters"]] == [(25, 0, 145, 50), (145, 0, 265, 50)]
    with pytest.raises(ValueError, match="got 2 sizes and 1 words"):
        make_processor().post_process_text_recognition(outputs, original_sizes=[(50, 320)] * 2)


def test_only_allowed_characters_are_read() -> None:
    logits = torch.zeros(1, 4, 37)
    logits[0, 1, 25] = 6  # "o"
    logits[0, 1, 1] = 5  # "0"
    processor = make_processor()
    assert processor.post_process_text_recognition({"logits": logits})[0]["text"] == "o"
    (result,) = processor.post_process_text_recognition({"logits": logits}, allowed_characters="0123456789")
    assert result["text"] == "0"
    assert result["score"] == pytest.approx(math.exp(5) / (math.exp(5) + 10))


def test_a_predicted_unknown_character_is_shown() -> None:
    tokenizer = CharacterTokenizer(charset="ab", unknown_characters="replace")
    processor = TextRecognitionProcessor(TextRecognitionImageProcessor(), tokenizer)
    logits = torch.eye(4)[[2, 1, 3]][None] * 9
    assert processor.post_process_text_recognition({"logits": logits})[0]["text"] == "a�b"


def test_outputs_without_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="must have `logits`"):
        make_processor().post_process_text_recognition({"loss": 1.0})
    attention = make_processor(for_attention=True)
    with pytest.raises(ValueError, match="must have `logits`, or `sequences` and `scores`"):
        attention.post_process_text_recognition({"loss": 1.0})
    with pytest.raises(ValueError, match="output_scores=True"):
        attention.post_process_text_recognition({"sequences": torch.tensor([[1, 3, 2]])})
    with pytest.raises(ValueError, match="too late for generated outputs"):
        attention.post_process_text_recognition(
            {"sequences": torch.tensor([[1, 3, 2]])}, allowed_characters="0"
        )
    with pytest.raises(ValueError, match="the tokenizer is for CTC"):
        make_processor().post_process_text_recognition({"sequences": torch.tensor([[1, 3, 2]])})


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generated_scores_are_the_librarys_transition_scores(
    tiny_config: Callable[..., Any], family: str, encoder: str, num_beams: int
) -> None:
    processor = make_processor(for_attention=True)
    model = make_model(tiny_config(family, encoder, "attention"))
    batch = processor([Image.effect_noise((128, 32), 90) for _ in range(4)])
    options: dict[str, Any] = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_attentions": True,
    }
    outputs = model.generate(**batch, num_beams=num_beams, **options)
    beams = outputs.get("beam_indices")
    scores = model.compute_transition_scores(
        outputs.sequences, outputs.scores, beams, normalize_logits=True
    ).exp()
    results = processor.post_process_text_recognition(outputs)
    assert [result["text"] for result in results] == processor.batch_decode(
        outputs.sequences, skip_special_tokens=True
    )
    for result, row, ids in zip(results, scores.tolist(), outputs.sequences[:, 1:].tolist(), strict=True):
        expected = [score for score, index in zip(row, ids, strict=True) if index > 2]
        assert [character["score"] for character in result["characters"]] == pytest.approx(expected, rel=1e-4)
        assert result["score"] == pytest.approx(math.prod(expected) if expected else row[0], rel=1e-4)
        borders = [border for span in spans(result) for border in span]
        assert borders == sorted(borders)
        assert all(0 <= border <= 1 for border in borders)


def test_generated_attention_follows_the_beams(tiny_config: Callable[..., Any]) -> None:
    """The spans of the best of three beams are those that the decoder has when it is fed the same
    characters."""
    processor = make_processor(for_attention=True)
    model = make_model(tiny_config("rcmstr", "cnn", "attention"))
    batch = processor([Image.effect_noise((128, 32), 90) for _ in range(4)])
    options: dict[str, Any] = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_attentions": True,
    }
    outputs = model.generate(**batch, num_beams=3, **options)
    for row, result in enumerate(processor.post_process_text_recognition(outputs)):
        ids = outputs.sequences[row : row + 1]
        with torch.no_grad():
            forced = model(
                pixel_values=batch["pixel_values"][row : row + 1],
                decoder_input_ids=ids[:, :-1],
                output_attentions=True,
            )
        forced.logits = torch.nn.functional.one_hot(ids[:, 1:], 39).float() * 99
        (expected,) = processor.post_process_text_recognition(forced)
        assert result["text"] == expected["text"]
        assert np.array(spans(result)) == pytest.approx(np.array(spans(expected)), abs=1e-5)


def test_without_attention_there_are_no_spans(tiny_config: Callable[..., Any]) -> None:
    processor = make_processor(for_attention=True)
    model = make_model(tiny_config(decoder="attention"))
    batch = processor(Image.effect_noise((128, 32), 90))
    outputs = model.generate(**batch, return_dict_in_generate=True, output_scores=True)
    (result,) = processor.post_process_text_recognition(outputs, original_sizes=[(32, 128)])
    assert spans(result) == [(None, None)] * len(result["text"])
    assert "box" not in result["characters"][0]


def test_teacher_forced_outputs_are_read_too() -> None:
    processor = make_processor(for_attention=True)
    logits = torch.full((1, 4, 39), -9.0)
    for step, index in enumerate([*processor.tokenizer.text_to_ids("ab"), 5]):
        logits[0, step, index] = 9.0
    logits[0, 0, 3] = 0.0
    assert processor.post_process_text_recognition({"logits": logits})[0]["text"] == "ab"
    (digits,) = processor.post_process_text_recognition({"logits": logits}, allowed_characters="0123456789")
    assert digits["text"] == "0"


def test_attention_over_cells_is_summed_over_their_rows() -> None:
    processor = make_processor(for_attention=True)
    attention = torch.zeros(1, 1, 2, 8, 32)  # (B, heads, L, rows, columns) of 32x128 pixels at patch 4
    attention[0, 0, 0, :, 8] = attention[0, 0, 1, :, 20] = 1 / 8
    logits = torch.nn.functional.one_hot(torch.tensor([[13, 14]]), 39).float() * 9
    columns = {"logits": logits, "cross_attentions": (attention.sum(3),)}
    cells = {"logits": logits, "cross_attentions": (attention.flatten(3),)}
    expected = processor.post_process_text_recognition(columns)
    assert processor.post_process_text_recognition(cells) == expected
    assert spans(expected[0]) == [(2.5 / 32, 14.5 / 32), (14.5 / 32, 26.5 / 32)]


def test_padding_moves_no_generated_character(tiny_config: Callable[..., Any], encoder: str) -> None:
    """A narrow word beside a wide one has the text, score and spans that it has alone."""
    processor = make_processor(for_attention=True, keep_aspect_ratio=True)
    model = make_model(tiny_config("rcmstr", encoder, "attention"))
    images = [Image.effect_noise((width, 32), 90) for width in (64, 160)]
    options: dict[str, Any] = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_attentions": True,
    }

    def read(pictures: list[Image.Image]) -> list[dict[str, Any]]:
        batch = processor(pictures)
        return processor.post_process_text_recognition(
            model.generate(**batch, **options), batch.get("pixel_mask")
        )

    together = read(images)
    for image, result in zip(images, together, strict=True):
        (alone,) = read([image])
        assert alone["text"] == result["text"]
        assert alone["score"] == pytest.approx(result["score"], rel=1e-3)
        assert np.array(spans(alone)) == pytest.approx(np.array(spans(result)), abs=1e-3)


def test_masks_for_another_number_of_words_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry per word, got 2 for 1 words"):
        make_processor().post_process_text_recognition(
            {"logits": frame_scores("a", 32, [3])}, torch.ones(2, 32, 128, dtype=torch.long)
        )
