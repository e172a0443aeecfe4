"""`resize_charset` of every recogniser: old weights by character, readings as before, files as promised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTextRecognition, AutoProcessor, pipeline

from modeling_rcmstr import (
    CharacterTokenizer,
    TextRecognitionImageProcessor,
    TextRecognitionProcessor,
    default_checkpoint,
)
from tests.recognisers import COMBINATIONS, build, class_of

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.jpg"))


def tokenizer_of(config: Any, characters: str = CHARACTERS, **options: Any) -> CharacterTokenizer:
    attention = config.decoder_type == "attention"
    return CharacterTokenizer(charset=characters, for_attention=attention, do_lower_case=False, **options)


def character_tensors(model: Any) -> dict[str, torch.Tensor]:
    """What has a row per character: weights and biases of the classifier, columns of the decoder's input."""
    head = model.head
    found = {"weight": head.classifier.weight.detach(), "bias": head.classifier.bias.detach()}
    if model.can_generate():
        found["input"] = head.cell.weight_ih.detach()[:, -head.vocab_size :].T
    return found


@pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
def test_old_rows_are_kept_bit_for_bit_by_character_in_any_order(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str
) -> None:
    model = build(tiny_config(family, encoder, decoder))
    old = tokenizer_of(model.config)
    new = tokenizer_of(model.config, "é" + CHARACTERS[::-1] + "€ä")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = {name: tensor.clone() for name, tensor in character_tensors(model).items()}
    change = model.resize_charset(new, old)
    assert (change.kept, change.added, change.dropped) == (CHARACTERS[::-1], "é€ä", "")
    resized = character_tensors(model)
    for token, index in old.get_vocab().items():
        for name in rows:
            assert torch.equal(rows[name][index], resized[name][new.get_vocab()[token]]), (token, name)
    touched = {"head.classifier.weight", "head.classifier.bias", "head.cell.weight_ih"}
    for name, tensor in model.state_dict().items():
        assert name in touched or torch.equal(tensor, before[name]), name
    assert model.config.vocab_size == len(new)
    if decoder == "attention":
        width = model.head.cell.weight_ih.shape[1]
        assert model.head.cell.input_size == width == before["head.cell.weight_ih"].shape[1] + 3
        frames = before["head.cell.weight_ih"][:, : -len(old)]
        assert torch.equal(model.head.cell.weight_ih[:, : -len(new)], frames)


@pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
def test_old_characters_score_as_before_and_the_same_text_is_read(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str
) -> None:
    model = build(tiny_config(family, encoder, decoder))
    old = tokenizer_of(model.config)
    new = tokenizer_of(model.config, "ß" + CHARACTERS[::-1] + "äж")
    pixels = torch.randn(4, 3, 32, 128)
    moved = [new.get_vocab()[token] for token in old.get_vocab()]

    def read(tokenizer: CharacterTokenizer) -> tuple[torch.Tensor, list[str]]:
        if decoder == "ctc":
            logits = model(pixels).logits
            return logits, [str(tokenizer.decode(ids, group_tokens=True)) for ids in logits.argmax(-1)]
        ids = model.generate(pixels, do_sample=False)
        start = torch.full((4, 1), model.config.decoder_start_token_id)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return model(pixels, decoder_input_ids=start).logits, texts

    with torch.inference_mode():
        logits, texts = read(old)
    model.resize_charset(new, old)
    with torch.inference_mode():
        changed, again = read(new)
    torch.testing.assert_close(changed[..., moved], logits, rtol=1e-5, atol=1e-5)
    assert again == texts


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_saved_and_loaded_it_is_the_same_recogniser_and_knows_its_characters(
    tiny_config: Callable[..., Any], tmp_path: Path, decoder: str, word_drawer: Callable[..., Any]
) -> None:
    model = build(tiny_config("rcmstr", "cnn", decoder))
    processor = TextRecognitionProcessor(TextRecognitionImageProcessor(), tokenizer_of(model.config))
    model.save_pretrained(tmp_path / "old")
    processor.save_pretrained(tmp_path / "old")
    model = class_of("rcmstr", decoder).from_pretrained(tmp_path / "old")
    processor.tokenizer = processor.tokenizer.extended("äé")
    model.resize_charset(processor.tokenizer)
    model.save_pretrained(tmp_path / "new")
    processor.save_pretrained(tmp_path / "new")
    again = AutoModelForTextRecognition.from_pretrained(tmp_path / "new")
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert again.config.vocab_size == len(processor.tokenizer)
    reader: Any = pipeline
    picture = word_drawer("book")
    first = reader("text-recognition", model=str(tmp_path / "old"))(picture)
    second = reader("text-recognition", model=str(tmp_path / "new"))(picture)
    assert first["text"] == second["text"]
    # A further change needs no `previous`: the folder holds its tokenizer.
    assert again.resize_charset(processor.tokenizer.extended("ß")).added == "ß"
    assert again.resize_charset(processor.tokenizer.extended("ßø")).added == "ø"
    if decoder == "attention":
        assert (again.generation_config.pad_token_id, again.generation_config.eos_token_id) == (0, 2)
        assert again.generation_config.decoder_start_token_id == again.config.decoder_start_token_id == 1


def test_a_token_for_unknown_characters_moves_the_others_and_nothing_else(
    tiny_config: Callable[..., Any],
) -> None:
    model = build(tiny_config("persec", "cnn", "attention"))
    old = tokenizer_of(model.config)
    new = tokenizer_of(model.config, unknown_characters="replace")
    rows = {name: tensor.clone() for name, tensor in character_tensors(model).items()}
    assert model.resize_charset(new, old).added == ""
    for name, tensor in character_tensors(model).items():
        assert torch.equal(tensor[4:], rows[name][3:])
        assert torch.equal(tensor[:3], rows[name][:3])
    assert model.resize_charset(old, new).dropped == ""
    assert all(torch.equal(tensor, rows[name]) for name, tensor in character_tensors(model).items())


def test_characters_are_dropped_only_when_asked_and_come_back_as_new(
    tiny_config: Callable[..., Any],
) -> None:
    model = build(tiny_config())
    old, new = tokenizer_of(model.config), tokenizer_of(model.config, CHARACTERS[2:])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="lacks '0', '1', which the model reads; .*allow_dropping=True"):
        model.resize_charset(new, old)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.resize_charset(new, old, allow_dropping=True).dropped == "01"
    assert model.config.vocab_size == 35
    assert torch.equal(model.head.classifier.weight[1:], before["head.classifier.weight"][3:])
    assert model.resize_charset(old).added == "01"


def test_whether_and_where_weights_are_trained_stays(tiny_config: Callable[..., Any]) -> None:
    model = build(tiny_config(decoder="attention")).to(torch.bfloat16)
    model.head.requires_grad_(False)
    model.resize_charset(tokenizer_of(model.config, CHARACTERS + "ä"), tokenizer_of(model.config))
    for name in ("classifier.weight", "classifier.bias", "cell.weight_ih"):
        parameter = model.head.get_parameter(name)
        assert parameter.dtype == torch.bfloat16
        assert not parameter.requires_grad


def test_pairs_that_do_not_fit_are_refused(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    ctc, attention = build(tiny_config()), build(tiny_config(decoder="attention"))
    with pytest.raises(ValueError, match=r"`tokenizer` must begin with <pad> and .*for_attention=False"):
        ctc.resize_charset(tokenizer_of(attention.config), tokenizer_of(ctc.config))
    with pytest.raises(ValueError, match=r"`tokenizer` must begin with <pad>, <s>, </s> .*longer tokens are"):
        attention.resize_charset(tokenizer_of(ctc.config), tokenizer_of(attention.config))
    with pytest.raises(ValueError, match="the model has 37 classes, the tokenizer of its charset 4"):
        ctc.resize_charset(tokenizer_of(ctc.config, "abcd"), tokenizer_of(ctc.config, "abc"))
    with pytest.raises(
        ValueError, match="does not know its characters: it was not loaded; give .*`previous`"
    ):
        ctc.resize_charset(tokenizer_of(ctc.config))
    ctc.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"there is no vocab\.json of its head beside"):
        class_of("rcmstr", "ctc").from_pretrained(tmp_path).resize_charset(tokenizer_of(ctc.config))
    with pytest.raises(TypeError, match="RCMSTRModel has no head"):
        class_of("rcmstr").from_pretrained(tmp_path).resize_charset(tokenizer_of(ctc.config))
    odd = tokenizer_of(ctc.config)
    odd.add_tokens(["ab"])
    with pytest.raises(ValueError, match="its longer tokens are <pad>, ab"):
        ctc.resize_charset(odd, tokenizer_of(ctc.config))


def test_a_head_that_started_anew_does_not_take_the_checkpoints_characters(
    tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    """Its size may equal that of the tokenizer beside the encoder by chance."""
    model = build(tiny_config())
    model.save_pretrained(tmp_path)
    tokenizer_of(model.config, CHARACTERS + "!?").save_pretrained(tmp_path)
    config = tiny_config(decoder="attention")
    other = class_of("rcmstr", "attention").from_pretrained(
        tmp_path, config=config, ignore_mismatched_sizes=True
    )
    with pytest.raises(ValueError, match="does not know its characters"):
        other.resize_charset(tokenizer_of(config))


def test_the_bundled_recogniser_reads_the_examples_as_before() -> None:
    reader: Any = pipeline("text-recognition", model=str(default_checkpoint()))  # type: ignore[call-overload]
    before = reader([str(path) for path in EXAMPLES])
    processor = AutoProcessor.from_pretrained(default_checkpoint())
    extended = processor.tokenizer.extended("€äöüßéÄÖÜ½ж")
    reader.model.resize_charset(extended)
    reader.tokenizer = reader.processor.tokenizer = extended
    after = reader([str(path) for path in EXAMPLES])
    assert [word["text"] for word in after] == [word["text"] for word in before]
    for one, other in zip(before, after, strict=True):
        # A probability falls by 1 % in each frame at most; a word has a dozen that hold a character.
        assert 0.85 * one["score"] <= other["score"] <= one["score"] * 1.0001
