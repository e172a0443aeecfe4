"""ONNX Runtime behind the same calls as PyTorch: equal answers and errors, and what is missing is named."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch
from transformers import AutoModelForTextRecognition, AutoProcessor, pipeline

import modeling_rcmstr
from modeling_rcmstr import (
    OnnxForConditionalGeneration,
    OnnxForTextRecognition,
    OnnxTextRecognitionModel,
    cli,
)
from tests.exported_recognisers import EACH, exported, processor_for, recogniser
from tests.recognisers import ragged_words

EXAMPLES = sorted(str(path) for path in (Path(__file__).parents[1] / "examples").glob("*.jpg"))
CTC, ATTENTION = ("rcmstr", "cnn", "ctc"), ("persec", "vit", "attention")


def open_pipeline(model: Any, **options: Any) -> Any:
    make: Any = pipeline
    return make("text-recognition", model=model, device="cpu", **options)


def assert_alike(found: Any, expected: Any) -> None:
    """Equal texts; scores and places within 1e-4."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_alike(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(("family", "encoder", "decoder"), EACH)
def test_the_pipeline_answers_alike(family: str, encoder: str, decoder: str) -> None:
    names = (family, encoder, decoder)
    graph = open_pipeline(str(exported(*names)))
    model = open_pipeline(recogniser(*names), processor=processor_for(decoder))
    kind = OnnxForTextRecognition if decoder == "ctc" else OnnxForConditionalGeneration
    assert isinstance(graph.model, kind)
    expected = model(EXAMPLES, return_characters=True)
    assert len({answer["text"] for answer in expected}) > 3, "the words must differ for this to mean anything"
    for batch_size in (1, 5, 32):
        assert_alike(graph(EXAMPLES, batch_size=batch_size, return_characters=True), expected)
    assert_alike(graph(EXAMPLES[0]), model(EXAMPLES[0]))
    assert_alike(graph(EXAMPLES, allowed_characters="0123"), model(EXAMPLES, allowed_characters="0123"))
    broken = [EXAMPLES[0], b"no picture"]
    assert_alike(graph(broken, on_error="return"), model(broken, on_error="return"))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 0.5, "early_stopping": True},
        {"do_sample": True, "top_k": 5},
        {"repetition_penalty": 1.5},
    ],
)
def test_generation_is_the_librarys(options: dict[str, Any]) -> None:
    model, graph = recogniser(*ATTENTION), OnnxTextRecognitionModel.from_pretrained(exported(*ATTENTION))
    _, pixel_values, pixel_mask = ragged_words([64, 32, 96])
    sequences = []
    for reader in (model, graph):
        torch.manual_seed(3)
        sequences.append(reader.generate(pixel_values, pixel_mask=pixel_mask, **options))
    assert torch.equal(*sequences)


@torch.no_grad()
def test_scores_of_given_tokens_are_the_models() -> None:
    model, graph = recogniser(*ATTENTION), OnnxTextRecognitionModel.from_pretrained(exported(*ATTENTION))
    _, pixel_values, pixel_mask = ragged_words([64, 32])
    ids = torch.tensor([[1, 5, 9, 4], [1, 8, 3, 3]])
    inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "decoder_input_ids": ids}
    expected, found = model(**inputs, output_attentions=True), graph(**inputs, output_attentions=True)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.cross_attentions[0], expected.cross_attentions[0], rtol=1e-3, atol=1e-5)
    encoded = graph.get_encoder()(pixel_values, pixel_mask)
    assert torch.equal(graph(decoder_input_ids=ids, encoder_outputs=encoded).logits, found.logits)


def test_auto_classes_open_the_folder() -> None:
    for names, kind in ((CTC, OnnxForTextRecognition), (ATTENTION, OnnxForConditionalGeneration)):
        model = AutoModelForTextRecognition.from_pretrained(str(exported(*names)))
        assert type(model) is kind
        assert model.dtype == torch.float32
        assert model.providers == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match="use OnnxForConditionalGeneration"):
        OnnxForTextRecognition.from_pretrained(exported(*ATTENTION))


def test_the_command_reads_with_a_graph(capsys: pytest.CaptureFixture[str], restored_process: None) -> None:
    folder = str(exported(*CTC))
    assert cli.main(["read", *EXAMPLES, "--checkpoint", folder, "--json", "--threads", "1"]) == cli.EXIT_READ
    answers = json.loads(capsys.readouterr().out)
    expected = open_pipeline(recogniser(*CTC), processor=processor_for("ctc"))(EXAMPLES)
    assert_alike([{k: v for k, v in answer.items() if k != "path"} for answer in answers], expected)


@pytest.mark.slow
def test_the_command_exports_what_reads_like_the_bundled_recogniser(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_process: None,
) -> None:
    from modeling_rcmstr import onnx_export

    monkeypatch.setattr(onnx_export, "CHECKED_WORDS", 20)
    out = tmp_path / "out"
    examples = str(Path(EXAMPLES[0]).parent)
    assert cli.main(["export", "--onnx", str(out), "--words", examples]) == cli.EXIT_READ
    assert f"{out}: 20 of 20 words equal, 0 near ties" in capsys.readouterr().out
    assert cli.main(["read", EXAMPLES[0], "--checkpoint", str(out)]) == cli.EXIT_READ
    assert "OPEN" in capsys.readouterr().out
    original = open_pipeline(str(modeling_rcmstr.default_checkpoint()))
    reader = OnnxTextRecognitionModel.from_pretrained(out, num_threads=1)
    graph = open_pipeline(reader, processor=AutoProcessor.from_pretrained(out))
    assert_alike(graph(EXAMPLES, return_characters=True), original(EXAMPLES, return_characters=True))
    assert cli.main(["export", str(out), "--onnx", str(tmp_path / "again")]) == cli.EXIT_NOT_TRIED
    assert "only recognisers can be exported" in capsys.readouterr().err
    assert cli.main(["export", "--onnx", str(out)]) == cli.EXIT_NOT_TRIED
    assert "is not an empty folder" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.main(["export", "--onnx", str(tmp_path / "new"), "--words", str(empty)]) == cli.EXIT_NOT_TRIED
    assert "no image files" in capsys.readouterr().err


def test_without_onnxruntime_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restored_process: None
) -> None:
    folder = str(exported(*CTC))
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "onnxruntime", missing)
    with pytest.raises(ImportError, match=r"pip install 'modeling-rcmstr\[export\]'"):
        open_pipeline(folder)
    assert cli.main(["read", EXAMPLES[0], "--checkpoint", folder]) == cli.EXIT_NOT_TRIED
    assert "pip install 'modeling-rcmstr[export]'" in capsys.readouterr().err


def test_a_graph_of_another_charset_or_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(exported(*CTC), folder)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(ValueError, match="its charset_fingerprint is"):
        OnnxTextRecognitionModel.from_pretrained(folder)
    (folder / "vocab.json").unlink()
    OnnxTextRecognitionModel.from_pretrained(folder)
    graph = onnx.load(folder / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, folder / "model.onnx")
    with pytest.raises(ValueError, match="its model_type is None, theirs 'rcmstr'"):
        OnnxTextRecognitionModel.from_pretrained(folder)
    (folder / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ValueError, match="ONNX Runtime cannot open"):
        OnnxTextRecognitionModel.from_pretrained(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(OSError, match=r"model\.onnx"):
        OnnxTextRecognitionModel.from_pretrained(folder)


@torch.no_grad()
def test_unusable_input_is_refused_as_by_the_model() -> None:
    reader, model = OnnxTextRecognitionModel.from_pretrained(exported(*CTC)), recogniser(*CTC)
    mask = torch.ones(1, 32, 64, dtype=torch.long)
    mask[:, :, 10:20] = 0
    for inputs in (
        {"pixel_values": torch.zeros(1, 1, 32, 64)},
        {"pixel_values": torch.zeros(1, 3, 32, 63)},
        {"pixel_values": torch.zeros(1, 3, 32, 64), "pixel_mask": mask},
    ):
        messages = []
        for recognise in (model, reader):
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                recognise(**inputs)
            messages.append(str(caught.value)[:20])
        assert messages[0] == messages[1]
    with pytest.raises(ValueError, match="has no `labels`"):
        reader(torch.zeros(1, 3, 32, 64), labels=torch.ones(1, 2))
    with pytest.raises(ValueError, match="`decoder_input_ids` for scores"):
        OnnxTextRecognitionModel.from_pretrained(exported(*ATTENTION))(torch.zeros(1, 3, 32, 64))


@pytest.mark.slow
def test_a_rectified_reader_keeps_to_its_width() -> None:
    folder = exported("rcmstr", "cnn", "ctc", keeps=False, rectifier_type="tps")
    graph = open_pipeline(str(folder))
    model = open_pipeline(
        recogniser("rcmstr", "cnn", "ctc", rectifier_type="tps"), processor=processor_for("ctc", False)
    )
    assert_alike(graph(EXAMPLES, batch_size=5), model(EXAMPLES, batch_size=5))
    with pytest.raises(ValueError, match="reads words 128 pixels wide"):
        graph.model(torch.zeros(1, 3, 32, 64))


def test_a_pipeline_on_a_graph_can_be_saved(tmp_path: Path) -> None:
    for names in (CTC, ATTENTION):
        graph, folder = open_pipeline(str(exported(*names))), tmp_path / names[2]
        graph.save_pretrained(folder)
        assert_alike(open_pipeline(str(folder))(EXAMPLES), graph(EXAMPLES))
