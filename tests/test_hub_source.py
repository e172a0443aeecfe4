"""What may be published is judged before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, default_checkpoint
from tests.publishable_checkpoints import PRETRAINING_SIZES, save_encoder_folder, save_recogniser_folder
from training.benchmark_measurement import checkpoint_hash
from training.hub_source import find_checkpoint_folder, open_checkpoint, read_weights

Config = Callable[..., Any]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """A recogniser that nobody changes."""
    return save_recogniser_folder(tmp_path_factory.mktemp("source") / "saved", tiny_config())


@pytest.fixture
def recogniser(saved: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "recogniser"))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_bundled_recogniser_is_a_source() -> None:
    source = open_checkpoint("default")
    assert (source.kind, source.family, source.folder) == ("recogniser", "RCMSTR", default_checkpoint())
    records = {path.name for path in source.records}
    assert {"results.json", "speed.json", "training_record.json"} <= records
    assert source.weights == checkpoint_hash(default_checkpoint())
    # As stored, not as computed with.
    assert source.tensors["head.classifier.weight"].dtype == torch.float16
    assert source.model.dtype == torch.float32
    assert not source.model.training


def test_a_run_means_its_final_folder(recogniser: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(recogniser, run / "final")
    (run / "log.jsonl").touch()
    assert find_checkpoint_folder(run) == run / "final"
    assert find_checkpoint_folder(run / "final") == run / "final"
    assert open_checkpoint(run).processor.tokenizer.vocab_size == 37


def test_an_unfinished_run_is_not_guessed_at(recogniser: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(recogniser, run / "best")
    shutil.copytree(recogniser, run / "checkpoints" / "checkpoint-20")
    with pytest.raises(ValueError, match=r"no `final/` yet.*run/checkpoints/checkpoint-20, .*run/best\."):
        open_checkpoint(run)
    assert open_checkpoint(run / "best").kind == "recogniser"


def test_what_holds_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder; give a run's folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no checkpoint: neither it nor its `final/` has"):
        open_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_pretraining_and_encoders_are_sources(family: str, tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config(family, "vit", "ctc", **PRETRAINING_SIZES[family])
    pretraining = open_checkpoint(save_encoder_folder(tmp_path / "pretraining", config))
    assert (pretraining.kind, pretraining.processor) == ("pretraining", None)
    # Saved without one: the nominal size.
    assert pretraining.image_processor.size == {"height": 32, "width": 128}
    TextRecognitionImageProcessor(size={"height": 32, "width": 64}).save_pretrained(tmp_path / "pretraining")
    assert open_checkpoint(tmp_path / "pretraining").image_processor.size["width"] == 64
    assert "AutoModelForPreTraining" in pretraining.model_classes
    encoder = open_checkpoint(save_encoder_folder(tmp_path / "encoder", config, "Model"))
    assert encoder.kind == "encoder"
    assert sorted(encoder.model_classes) == ["AutoModel", "AutoModelForCTC", "AutoModelForTextRecognition"]


def test_an_attention_recogniser_is_not_named_for_ctc(tmp_path: Path, tiny_config: Config) -> None:
    source = open_checkpoint(save_recogniser_folder(tmp_path, tiny_config("persec", "vit", "attention")))
    assert {auto: own.__name__ for auto, own in source.model_classes.items()} == {
        "AutoModel": "PerSecModel",
        "AutoModelForTextRecognition": "PerSecForConditionalGeneration",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(recogniser: Path, value: float) -> None:
    edit_weights(recogniser, lambda weights: weights["head.classifier.bias"].fill_(value))
    with pytest.raises(ValueError, match=r"not-a-number or infinity \(head.classifier.bias\); publish"):
        open_checkpoint(recogniser)


def test_missing_and_foreign_weights_are_refused(recogniser: Path) -> None:
    edit_weights(recogniser, lambda weights: weights.update(adapter=torch.ones(2)))
    with pytest.raises(ValueError, match=r"1 weights that \w+ does not have \(adapter\)"):
        open_checkpoint(recogniser)
    edit_weights(
        recogniser, lambda weights: [weights.pop(n) for n in ("adapter", "head.classifier.bias")] and None
    )
    with pytest.raises(ValueError, match=r"lacks 1 of the weights .* head.classifier.bias"):
        open_checkpoint(recogniser)
    edit_weights(recogniser, lambda weights: weights.update({"head.classifier.bias": torch.ones(9)}))
    with pytest.raises(ValueError, match=r"does not fit its config.json"):
        open_checkpoint(recogniser)


def test_pickled_weights_are_refused(recogniser: Path) -> None:
    torch.save(load_file(recogniser / "model.safetensors"), recogniser / "pytorch_model.bin")
    (recogniser / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model.safetensors; weights are published in safetensors only"):
        open_checkpoint(recogniser)


def test_shards_are_read_as_one_file_is(saved: Path, tmp_path: Path, tiny_config: Config) -> None:
    save_recogniser_folder(tmp_path, tiny_config(), max_shard_size="100KB")
    whole, shards = read_weights(saved), read_weights(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert whole.keys() == shards.keys()
    assert all(torch.equal(whole[name], shards[name]) for name in whole)
    lost = next(iter(sorted(tmp_path.glob("model-*.safetensors"))))
    lost.unlink()
    with pytest.raises(ValueError, match=f"holds no {lost.name}"):
        read_weights(tmp_path)


def test_classes_of_others_are_refused(recogniser: Path) -> None:
    for architectures in (["BertModel"], [], None):
        edit_config(recogniser, architectures=architectures)
        with pytest.raises(ValueError, match="publishable are .*PerSecForPreTraining.*RCMSTRModel"):
            open_checkpoint(recogniser)
    (recogniser / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        open_checkpoint(recogniser)


def test_a_recogniser_without_its_processor_is_refused(recogniser: Path) -> None:
    (recogniser / "vocab.json").unlink()
    with pytest.raises(ValueError, match=r"lacks its processor \(vocab.json, processor_config.json\)"):
        open_checkpoint(recogniser)


@pytest.mark.parametrize("options", [{"charset": "abc"}, {"for_attention": True}])
def test_a_tokenizer_of_another_head_is_refused(recogniser: Path, options: dict[str, Any]) -> None:
    CharacterTokenizer(**options).save_pretrained(recogniser)
    with pytest.raises(ValueError, match=r"the tokenizer of .* ids for .*, the model 37 for ctc"):
        open_checkpoint(recogniser)


@pytest.mark.parametrize(
    ("name", "content"),
    [("results.json", {"checkpoint": {"sha256": "0" * 64}}), ("speed.json", {"checkpoint_sha256": "0" * 64})],
)
def test_measurements_of_other_weights_are_refused(recogniser: Path, name: str, content: Any) -> None:
    (recogniser / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{name} was measured on other weights .0000000000000000, these"):
        open_checkpoint(recogniser)
    own = json.dumps(content).replace("0" * 64, checkpoint_hash(recogniser))
    (recogniser / name).write_text(own)
    assert [path.name for path in open_checkpoint(recogniser).records] == [name]
