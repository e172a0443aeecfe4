import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_rcmstr import CharacterTokenizer
from training.arguments import RunArguments
from training.recogniser import build_recogniser, frames_of, recogniser_class

TINY = {
    "image_size": [32, 64],
    "embedding_sizes": [8, 8],
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "encoder_bilstm_size": 16,
    "head_hidden_size": 16,
    "max_text_length": 6,
}


@pytest.fixture
def model_json(tmp_path: Path) -> Callable[..., str]:
    """Write a model.json of a tiny model with some fields changed, and give its path."""

    def write(**fields: Any) -> str:
        path = tmp_path / "model.json"
        path.write_text(json.dumps({"model_type": "rcmstr", **TINY, **fields}), encoding="utf-8")
        return str(path)

    return write


def run(model: str, **settings: Any) -> RunArguments:
    return RunArguments(output_dir="unused", model=model, **settings)


def test_a_model_json_gives_every_combination_with_its_vocabulary(
    model_json: Callable[..., str], family: str, encoder: str, decoder: str
) -> None:
    path = model_json(model_type=family, encoder_type=encoder, decoder_type=decoder)
    model, processor = build_recogniser(run(path, charset="alphanumeric-36"))
    assert model.config.model_type == family
    assert model.can_generate() == (decoder == "attention")
    assert model.config.vocab_size == len(processor.tokenizer) == (39 if decoder == "attention" else 37)
    assert processor.image_processor.size["width"] == 64
    batch = processor(images=[torch.zeros(3, 32, 64, dtype=torch.uint8).numpy()], text=["abc"])
    assert torch.isfinite(model(**batch).loss)


def test_the_special_ids_are_the_tokenizers(model_json: Callable[..., str]) -> None:
    model, processor = build_recogniser(run(model_json(decoder_type="attention")))
    tokenizer = processor.tokenizer
    assert model.config.bos_token_id == model.config.decoder_start_token_id == tokenizer.bos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_image_settings_reach_the_processor(model_json: Callable[..., str]) -> None:
    _, processor = build_recogniser(
        run(model_json(), processor={"keep_aspect_ratio": True, "max_width": 256})
    )
    assert processor.image_processor.keep_aspect_ratio
    assert processor.image_processor.max_width == 256


@pytest.fixture
def checkpoint(model_json: Callable[..., str], tmp_path: Path) -> Path:
    """A saved tiny CTC recogniser of the charset alphanumeric-36."""
    model, processor = build_recogniser(run(model_json(), charset="alphanumeric-36"))
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def same_weights(first: Any, second: Any, prefix: str) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    names = [name for name in ours if name.startswith(prefix)]
    return bool(names) and all(torch.equal(ours[name], theirs[name]) for name in names)


def test_a_checkpoint_keeps_weights_and_processor(checkpoint: Path) -> None:
    first, processor = build_recogniser(run(str(checkpoint)))
    second, _ = build_recogniser(run(str(checkpoint)))
    assert same_weights(first, second, "")
    assert processor.tokenizer.charset == CharacterTokenizer(charset="alphanumeric-36").charset


def test_another_charset_gives_a_new_last_layer_and_keeps_the_encoder(checkpoint: Path) -> None:
    old, _ = build_recogniser(run(str(checkpoint)))
    new, processor = build_recogniser(run(str(checkpoint), charset="ascii-94"))
    assert same_weights(old, new, "model.")
    assert new.head.classifier.out_features == len(processor.tokenizer) == 95
    assert processor.tokenizer.charset != CharacterTokenizer(charset="alphanumeric-36").charset


def test_an_encoder_of_other_sizes_is_refused_instead_of_starting_at_random(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="weights of the encoder in .* have other sizes"):
        build_recogniser(run(str(checkpoint), model_settings={"embedding_sizes": [16, 8]}))


def test_a_ctc_checkpoint_becomes_an_attention_recogniser_with_its_encoder(checkpoint: Path) -> None:
    old, _ = build_recogniser(run(str(checkpoint)))
    new, processor = build_recogniser(run(str(checkpoint), model_settings={"decoder_type": "attention"}))
    assert new.can_generate()
    assert new.config.is_encoder_decoder
    assert processor.tokenizer.for_attention
    assert processor.tokenizer.charset == CharacterTokenizer(charset="alphanumeric-36").charset
    assert same_weights(old, new, "model.")


def test_a_checkpoint_in_half_precision_is_trained_in_single(checkpoint: Path) -> None:
    model, processor = build_recogniser(run(str(checkpoint)))
    model.half().save_pretrained(checkpoint)
    again, _ = build_recogniser(run(str(checkpoint)))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder_type": "cnn"},
        {
            "cnn_type": "resnet45",
            "embedding_sizes": [8],
            "hidden_sizes": [8, 8, 8, 16, 16],
            "depths": [1, 1, 1, 1, 1],
        },
        {"encoder_type": "vit"},
    ],
    ids=["trba", "resnet45", "vit"],
)
def test_frames_are_those_of_the_model(model_json: Callable[..., str], fields: dict[str, Any]) -> None:
    model, _ = build_recogniser(run(model_json(**fields)))
    model.eval()
    frames = frames_of(model.config)
    widths = (32, 64, 160)
    pixel_mask = torch.zeros(3, 32, 160, dtype=torch.long)
    with torch.no_grad():
        for row, width in enumerate(widths):
            assert frames(width) == model(pixel_values=torch.zeros(1, 3, 32, width)).logits.shape[1]
            pixel_mask[row, :, :width] = 1
        padded = model(pixel_values=torch.zeros(3, 3, 32, 160), pixel_mask=pixel_mask)
    # A word that is padded in its batch has as many frames as alone.
    assert padded.frame_mask.sum(1).tolist() == [frames(width) for width in widths]


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ({"hiden_size": 3}, {}, "has no field `hiden_size`.*did you mean `hidden_size`"),
        ({"model_type": "crnn"}, {}, "unknown `model_type` 'crnn'"),
        ({}, {"model_settings": {"colour": 1}}, "has no field .*colour"),
        ({}, {"processor": {"keep_aspect": True}}, r"has no settings \['keep_aspect'\]"),
        ({"decoder_type": "transducer"}, {}, "`decoder_type` must be one of"),
    ],
)
def test_an_unusable_model_json_is_refused(
    model_json: Callable[..., str], fields: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_recogniser(run(model_json(**fields), **settings))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        build_recogniser(run(str(tmp_path / "model.json")))
    with pytest.raises(ValueError, match=r"no config\.json"):
        build_recogniser(run(str(tmp_path)))
    (tmp_path / "model.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not valid JSON"):
        build_recogniser(run(str(tmp_path / "model.json")))


def test_unknown_fields_for_a_checkpoint_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="has no field .*colour"):
        build_recogniser(run(str(checkpoint), model_settings={"colour": 1}))


def test_the_class_follows_family_and_head(
    tiny_config: Callable[..., Any], family: str, decoder: str
) -> None:
    config = tiny_config(family, "cnn", decoder)
    chosen = recogniser_class(config)
    assert chosen.config_class is type(config)
    assert chosen.can_generate() == (decoder == "attention")


def test_characters_are_added_to_a_checkpoints_own(checkpoint: Path) -> None:
    old, processor = build_recogniser(run(str(checkpoint)))
    new, extended = build_recogniser(run(str(checkpoint)), "äa€")
    assert extended.tokenizer.charset == processor.tokenizer.charset + "ä€"
    assert new.charset_change.added == "ä€"
    count = len(processor.tokenizer)
    assert torch.equal(new.head.classifier.weight[:count], old.head.classifier.weight)
    assert new.config.vocab_size == count + 2


def test_characters_are_not_added_to_a_head_that_is_new(model_json: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="`charset.add` extends the recogniser of a checkpoint folder"):
        build_recogniser(run(model_json()), "ä")
