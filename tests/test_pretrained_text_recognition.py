"""Checkpoints: what was saved comes back bit by bit, and nothing is random unless someone asked for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForTextRecognition, pipeline

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import COMBINATIONS, NAMES, build, class_of, labels_for

combinations = pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
families = pytest.mark.parametrize("family", ["rcmstr", "persec"])


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the library hands out without filling it holds NaN, as it may."""
    empty_like = torch.empty_like

    def spoilt(*args: Any, **kwargs: Any) -> Tensor:
        tensor = empty_like(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and not tensor.is_meta else tensor

    monkeypatch.setattr(torch, "empty_like", spoilt)


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Callable[..., Any]) -> Callable[..., tuple[Any, Path]]:
    """Save a small model: `saved(family, encoder, decoder, **fields)` → the model and its folder."""

    def save(
        family: str = "rcmstr", encoder: str = "cnn", decoder: str = "ctc", **fields: Any
    ) -> tuple[Any, Path]:
        model = build(tiny_config(family, encoder, decoder, **fields))
        folder = tmp_path / "checkpoint"
        model.save_pretrained(folder)
        return model, folder

    return save


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def drop(folder: Path, *parts: str) -> None:
    """Remove the weights whose name contains one of `parts`."""
    edit_weights(
        folder,
        lambda weights: {
            name: value for name, value in weights.items() if not any(part in name for part in parts)
        },
    )


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def assert_same(one: Any, other: Any, prefix: str = "") -> None:
    """Every tensor of `one` is bit-equal to that of the same name in `other`."""
    theirs = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, theirs[prefix + name]), name


def encoder_only(model: Any, folder: Path) -> Path:
    model.model.save_pretrained(folder)
    return folder


# ------------------------------------------------------------------ round trips


@combinations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_model_comes_back_bit_by_bit(
    saved: Callable[..., tuple[Any, Path]], family: str, encoder: str, decoder: str, dtype: torch.dtype
) -> None:
    model, folder = saved(family, encoder, decoder)
    model.to(dtype).save_pretrained(folder)
    images = torch.randn(2, 3, 32, 64)
    ids = {} if decoder == "ctc" else {"decoder_input_ids": torch.tensor([[1, 5], [1, 7]])}
    for loader in (class_of(family, decoder), AutoModelForTextRecognition):
        again = loader.from_pretrained(folder)
        assert type(again) is class_of(family, decoder)
        assert again.dtype == dtype
        assert not again.training
        assert all(parameter.requires_grad for parameter in again.parameters())
        assert_same(again, model)
        assert torch.equal(again(images, **ids).logits, model(images, **ids).logits)
        kept, found = ({**one.config.to_dict(), "_name_or_path": ""} for one in (model, again))
        assert kept == found
    assert (folder / "generation_config.json").exists() == (decoder == "attention")
    assert again.can_generate() == (decoder == "attention")


@combinations
@pytest.mark.parametrize(
    "fields",
    [{"rectifier_type": "tps"}, {"position_embedding_type": "learned"}, {"encoder_bilstm_layers": 1}],
)
def test_every_part_comes_back(
    saved: Callable[..., tuple[Any, Path]], family: str, encoder: str, decoder: str, fields: dict[str, Any]
) -> None:
    model, folder = saved(family, encoder, decoder, **fields)
    assert_same(AutoModelForTextRecognition.from_pretrained(folder), model)


def test_shards_come_back(saved: Callable[..., tuple[Any, Path]]) -> None:
    model, folder = saved()
    model.save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert_same(AutoModelForTextRecognition.from_pretrained(folder), model)


@families
def test_auto_classes_choose_by_the_checkpoint(saved: Callable[..., tuple[Any, Path]], family: str) -> None:
    _, folder = saved(family, "cnn", "ctc")
    assert type(AutoModelForCTC.from_pretrained(folder)) is class_of(family, "ctc")
    assert type(AutoModel.from_pretrained(folder)) is class_of(family)
    _, folder = saved(family, "cnn", "attention")
    assert type(AutoModel.from_pretrained(folder)) is class_of(family)
    with pytest.raises(ValueError, match="reads with CTC"):
        AutoModelForCTC.from_pretrained(folder)


# ------------------------------------------------------------------ from one class to another


@combinations
def test_encoder_of_a_recogniser_loads_alone(
    saved: Callable[..., tuple[Any, Path]], family: str, encoder: str, decoder: str
) -> None:
    model, folder = saved(family, encoder, decoder)
    alone = class_of(family).from_pretrained(folder)
    assert_same(alone, model, prefix="model.")
    images = torch.randn(2, 3, 32, 64)
    assert torch.equal(alone(images).last_hidden_state, model.model(images).last_hidden_state)


@combinations
def test_recogniser_starts_from_an_encoder(
    saved: Callable[..., tuple[Any, Path]], tmp_path: Path, family: str, encoder: str, decoder: str
) -> None:
    model, _ = saved(family, encoder, decoder)
    folder = encoder_only(model, tmp_path / "encoder")
    again, info = class_of(family, decoder).from_pretrained(folder, output_loading_info=True)
    assert_same(again.model, model.model)
    assert info["missing_keys"] == {name for name in model.state_dict() if name.startswith("head.")}
    for name, value in again.head.state_dict().items():
        assert value.isfinite().all(), name
        assert value.std() < 1, name
    loss = again(torch.randn(2, 3, 32, 64), labels=labels_for(again.config, [[5], [6, 7]])).loss
    assert loss.isfinite()
    # Saved from there, it is a whole checkpoint of its class.
    again.save_pretrained(folder)
    assert_same(AutoModelForTextRecognition.from_pretrained(folder), again)


@pytest.mark.parametrize("length", [8, 40])
def test_attention_recogniser_starts_from_a_ctc_checkpoint(
    saved: Callable[..., tuple[Any, Path]], length: int
) -> None:
    """The checkpoint has no generation_config.json and no start, end or longest text for `generate()`."""
    model, folder = saved()
    again = class_of("rcmstr", "attention").from_pretrained(
        folder, decoder_type="attention", vocab_size=39, max_text_length=length, ignore_mismatched_sizes=True
    )
    assert_same(again.model, model.model)
    options = again.generation_config
    assert (options.decoder_start_token_id, options.eos_token_id, options.pad_token_id) == (1, 2, 0)
    ids = again.generate(torch.randn(2, 3, 32, 64), suppress_tokens=[2])
    assert ids.shape == (2, length + 2)
    assert ids[:, 0].tolist() == [1, 1]


def test_own_generation_settings_are_kept(saved: Callable[..., tuple[Any, Path]]) -> None:
    model, folder = saved(decoder="attention")
    model.generation_config.num_beams = 3
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder)
    again = AutoModelForTextRecognition.from_pretrained(folder)
    assert (again.generation_config.num_beams, again.generation_config.max_new_tokens) == (3, 4)
    (folder / "generation_config.json").unlink()
    again = AutoModelForTextRecognition.from_pretrained(folder)
    assert again.generation_config.max_new_tokens == model.config.max_text_length + 1


def test_new_vocabulary_starts_a_new_classifier_when_asked(saved: Callable[..., tuple[Any, Path]]) -> None:
    model, folder = saved()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        class_of("rcmstr", "ctc").from_pretrained(folder, vocab_size=50)
    again = class_of("rcmstr", "ctc").from_pretrained(folder, vocab_size=50, ignore_mismatched_sizes=True)
    assert_same(again.model, model.model)
    assert_same(again.head.recurrent, model.head.recurrent)
    assert again.head.classifier.weight.isfinite().all()
    assert again(torch.randn(1, 3, 32, 64)).logits.shape == (1, 17, 50)


# ------------------------------------------------------------------ incomplete checkpoints


@combinations
@pytest.mark.parametrize("part", ["first", "head.classifier", "running_mean"])
def test_checkpoint_that_lacks_weights_is_refused(
    saved: Callable[..., tuple[Any, Path]], family: str, encoder: str, decoder: str, part: str
) -> None:
    if part == "running_mean" and encoder == "vit":
        part = "layernorm"
    model, folder = saved(family, encoder, decoder)
    part = next(name for name in model.state_dict() if name.startswith("model.")) if part == "first" else part
    drop(folder, part)
    message = f"lacks [0-9]+ of the weights that {NAMES[family]}For.*{part}.*Use a complete checkpoint"
    for loader in (class_of(family, decoder), AutoModelForTextRecognition):
        with pytest.raises(ValueError, match=message):
            loader.from_pretrained(folder)
    if not part.startswith("head"):
        with pytest.raises(ValueError, match="lacks"):
            class_of(family).from_pretrained(folder)


@families
def test_damaged_encoder_is_refused_as_a_start_too(
    saved: Callable[..., tuple[Any, Path]], tmp_path: Path, family: str
) -> None:
    model, _ = saved(family)
    folder = encoder_only(model, tmp_path / "encoder")
    drop(folder, "encoder.stages.1.")
    for decoder in ("ctc", "attention"):
        for options in ({}, {"ignore_mismatched_sizes": True}):
            changes = {"decoder_type": decoder, "vocab_size": 40}
            with pytest.raises(ValueError, match=r"model\.encoder\.stages\.1\..*, …"):
                class_of(family, decoder).from_pretrained(folder, **changes, **options)


def test_new_parts_around_a_whole_encoder_start_when_asked(saved: Callable[..., tuple[Any, Path]]) -> None:
    model, folder = saved()
    changes = {"rectifier_type": "tps", "encoder_bilstm_layers": 1}
    with pytest.raises(ValueError, match="model.rectifier.*ignore_mismatched_sizes=True"):
        class_of("rcmstr", "ctc").from_pretrained(folder, rectifier_type="tps")
    again = class_of("rcmstr", "ctc").from_pretrained(folder, **changes, ignore_mismatched_sizes=True)
    assert_same(again.model.encoder, model.model.encoder)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 32, 64)
    assert (again.model.rectifier(ramp) - ramp).abs().max() <= 1 / 63 + 1e-5  # half a pixel, at the border
    assert again(ramp).logits.isfinite().all()


def test_counter_of_batch_norm_may_be_missing(saved: Callable[..., tuple[Any, Path]]) -> None:
    """Weights converted from elsewhere come without it, and nothing reads it."""
    model, folder = saved()
    drop(folder, "num_batches_tracked")
    again = AutoModelForTextRecognition.from_pretrained(folder)
    images = torch.randn(1, 3, 32, 64)
    assert torch.equal(again(images).logits, model(images).logits)


@families
def test_pipeline_never_reads_with_a_random_head(
    saved: Callable[..., tuple[Any, Path]], tmp_path: Path, family: str
) -> None:
    model, folder = saved(family)
    pretrained = encoder_only(model, tmp_path / "encoder")
    processor = TextRecognitionProcessor(
        image_processor=TextRecognitionImageProcessor(),
        tokenizer=CharacterTokenizer(charset="alphanumeric-36"),
    )
    for place in (folder, pretrained):
        processor.save_pretrained(place)
    make_pipeline: Any = pipeline
    assert_same(make_pipeline("text-recognition", model=str(folder), device="cpu").model, model)
    with pytest.raises(ValueError, match=r"lacks [0-9]+ of the weights.*head\."):
        make_pipeline("text-recognition", model=str(pretrained), device="cpu")


# ------------------------------------------------------------------ configurations in folders


@families
def test_unknown_field_in_a_folder_is_refused(saved: Callable[..., tuple[Any, Path]], family: str) -> None:
    _, folder = saved(family)
    edit_config(folder, hiden_sizes=[1, 2, 3, 4])
    message = f"{NAMES[family]}Config has no field `hiden_sizes` .did you mean `hidden_sizes`"
    for loader in (AutoConfig, AutoModel, AutoModelForTextRecognition, class_of(family, "ctc")):
        with pytest.raises(ValueError, match=message):
            loader.from_pretrained(folder)


def test_unknown_argument_is_refused(saved: Callable[..., tuple[Any, Path]]) -> None:
    _, folder = saved()
    for loader in (AutoModelForTextRecognition, class_of("rcmstr", "ctc")):
        with pytest.raises(TypeError, match="vocabsize"):
            loader.from_pretrained(folder, vocabsize=50)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementation_is_the_loaders_choice(
    saved: Callable[..., tuple[Any, Path]], implementation: str
) -> None:
    model, folder = saved(encoder="vit")
    again = AutoModelForTextRecognition.from_pretrained(folder, attn_implementation=implementation)
    assert again.model.encoder.layers[0].attention.config._attn_implementation == implementation
    images = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(again(images).logits, model(images).logits, rtol=0, atol=1e-5)


def test_a_pretraining_folder_leaves_its_extra_weights_behind(
    saved: Callable[..., tuple[Any, Path]],
) -> None:
    model, folder = saved("rcmstr", "vit")
    edit_weights(folder, lambda weights: {**weights, "predictor.weight": torch.zeros(3)})
    edit_config(folder, architectures=["RCMSTRForPreTraining"])
    again = AutoModelForTextRecognition.from_pretrained(folder)
    assert_same(again.model, model.model)
