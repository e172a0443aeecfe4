"""`generate()` of the attention recognisers: the library's searches over our decoder, against plain loops."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, Seq2SeqTrainer, Seq2SeqTrainingArguments

from tests.recognisers import build, collate, labels_for, ragged_words

PAD, START, END = 0, 1, 2
each_encoder = pytest.mark.parametrize(("family", "encoder"), [("rcmstr", "cnn"), ("persec", "vit")])


@pytest.fixture
def make(tiny_config: Callable[..., Any]) -> Callable[..., Any]:
    """Make an attention recogniser whose random head has opinions: `make(family, encoder, **fields)`.

    What it reads next depends on the image and on every character before.
    """

    def recogniser(family: str = "rcmstr", encoder: str = "cnn", **fields: Any) -> Any:
        model = build(tiny_config(family, encoder, "attention", **fields))
        for parameter in model.head.parameters():
            parameter.data.normal_(std=1.0)
        features = model.head.start(model.model(torch.randn(8, 3, 32, 64)).last_hidden_state).tensors[
            "memory"
        ]
        scale = torch.ones(model.head.cell.weight_ih.shape[1])
        scale[: features.shape[-1]] = 2 / features.norm(dim=-1).mean()
        scale[features.shape[-1] :] = 2.0
        model.head.cell.weight_ih.data *= scale
        return model

    return recogniser


def read_step_by_step(model: Any, pixel_values: Tensor, steps: int, **inputs: Any) -> list[list[int]]:
    """The best character after all characters so far, every time from the beginning, up to the end token."""
    texts = []
    for row in range(len(pixel_values)):
        own = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        ids = [model.config.decoder_start_token_id]
        while len(ids) <= steps and ids[-1] != END:
            with torch.no_grad():
                logits = model(
                    pixel_values[row : row + 1], decoder_input_ids=torch.tensor([ids]), **own
                ).logits
            ids.append(int(logits[0, -1].argmax()))
        texts.append(ids)
    return texts


def unpadded(sequences: Tensor) -> list[list[int]]:
    """Generated ids up to the end token; padding follows (the library's beams pad with the end token)."""
    texts = []
    for ids in sequences.tolist():
        stop = ids.index(END) + 1 if END in ids else len(ids)
        assert set(ids[stop:]) in (set(), {PAD}, {END})
        texts.append(ids[:stop])
    return texts


@each_encoder
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_search_is_teacher_forcing_with_its_own_best(
    make: Callable[..., Any], family: str, encoder: str, use_cache: bool
) -> None:
    model = make(family, encoder)
    images = torch.randn(6, 3, 32, 64)
    expected = read_step_by_step(model, images, 9)
    assert unpadded(model.generate(images, use_cache=use_cache)) == expected
    assert len({tuple(text) for text in expected}) > 1  # the words differ


@each_encoder
@pytest.mark.parametrize("num_beams", [1, 3])
def test_word_does_not_depend_on_its_neighbours(
    make: Callable[..., Any], family: str, encoder: str, num_beams: int
) -> None:
    model = make(family, encoder)
    words, pixel_values, pixel_mask = ragged_words([64, 16, 128, 36])
    together = unpadded(model.generate(pixel_values, pixel_mask=pixel_mask, num_beams=num_beams))
    assert together == [unpadded(model.generate(word[None], num_beams=num_beams))[0] for word in words]
    if num_beams == 1:
        assert together == read_step_by_step(model, pixel_values, 9, pixel_mask=pixel_mask)


def test_wide_beam_finds_the_best_of_all_texts(make: Callable[..., Any]) -> None:
    model = make(vocab_size=6)
    images = torch.randn(2, 3, 32, 32)
    options = {"num_beams": 40, "max_new_tokens": 3, "length_penalty": 0.0, "early_stopping": False}
    output = model.generate(
        images, **options, output_scores=True, return_dict_in_generate=True, num_return_sequences=2
    )
    texts = [
        text
        for text in itertools.product(range(6), repeat=3)
        if END not in text or set(text[text.index(END) + 1 :]) <= {PAD}
    ]
    for word in range(2):
        scores = {}
        ids = torch.tensor([[START, *text[:2]] for text in texts])
        with torch.no_grad():
            logits = model(
                images[word : word + 1].expand(len(texts), -1, -1, -1), decoder_input_ids=ids
            ).logits
        steps = logits.log_softmax(-1).gather(2, torch.tensor(texts)[..., None])[..., 0]
        for text, step in zip(texts, steps.tolist(), strict=True):
            length = text.index(END) + 1 if END in text else 3
            scores[text[:length]] = sum(step[:length])
        best = sorted(scores, key=lambda text: -scores[text])[:2]
        found = unpadded(output.sequences[2 * word : 2 * word + 2])
        assert found == [[START, *text] for text in best]
        expected = torch.tensor([scores[text] for text in best])
        torch.testing.assert_close(output.sequences_scores[2 * word : 2 * word + 2], expected)


@each_encoder
def test_one_beam_is_greedy(make: Callable[..., Any], family: str, encoder: str) -> None:
    model = make(family, encoder)
    images = torch.randn(4, 3, 32, 64)
    assert torch.equal(model.generate(images, num_beams=1), model.generate(images))
    wide = model.generate(images, num_beams=4, num_return_sequences=2)
    assert len(wide) == 8


@each_encoder
def test_beams_carry_their_states_along(make: Callable[..., Any], family: str, encoder: str) -> None:
    """Without a cache every step reads each beam from its beginning, so no state can go astray."""
    model = make(family, encoder)
    images = torch.randn(6, 3, 32, 64)
    options = {"num_beams": 4, "return_dict_in_generate": True, "output_scores": True}
    cached, plain = (model.generate(images, **options, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores, rtol=1e-3, atol=1e-4)
    assert unpadded(cached.sequences) != unpadded(model.generate(images))


def test_sampling_follows_the_seed_and_the_best_when_told(make: Callable[..., Any]) -> None:
    model = make()
    images = torch.randn(4, 3, 32, 64)

    def sample(seed: int, **options: Any) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(images, do_sample=True, **options)

    assert torch.equal(sample(1), sample(1))
    assert unpadded(sample(1)) != unpadded(sample(2))
    assert torch.equal(sample(1, top_k=1), model.generate(images))
    assert len(sample(1, num_return_sequences=3)) == 12


def test_suppressed_characters_are_never_read(make: Callable[..., Any]) -> None:
    model = make()
    images = torch.randn(4, 3, 32, 64)
    read = sorted(set(itertools.chain(*unpadded(model.generate(images)))) - {START, END})
    assert read
    for num_beams in (1, 3):
        ids = set(model.generate(images, suppress_tokens=read, num_beams=num_beams).flatten().tolist())
        assert not ids & set(read)


def test_logits_processors_see_ids_and_scores(make: Callable[..., Any]) -> None:
    class Spell(LogitsProcessor):
        """Reads 5, 6, 7, ... whatever the image shows."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            forced = torch.full_like(scores, float("-inf"))
            forced[:, 4 + input_ids.shape[1]] = 0.0
            return forced

    model = make()
    ids = model.generate(
        torch.randn(2, 3, 32, 32), logits_processor=LogitsProcessorList([Spell()]), max_new_tokens=4
    )
    assert ids.tolist() == [[START, 5, 6, 7, 8]] * 2


def test_length_is_bounded_by_the_longest_text(make: Callable[..., Any]) -> None:
    model = make(max_text_length=5)
    images = torch.randn(3, 3, 32, 64)
    assert model.generate(images, suppress_tokens=[END]).shape == (3, 1 + 5 + 1)
    assert model.generate(images, suppress_tokens=[END], max_new_tokens=40).shape == (3, 41)
    shortest = model.generate(images, min_new_tokens=3)
    assert all(END not in ids[:3] for ids in shortest.tolist())


@pytest.mark.parametrize("start", [None, 7])
def test_decoder_starts_from_its_token_in_training_and_at_test(
    make: Callable[..., Any], start: int | None
) -> None:
    """RCLSTR's released code trains from one token and tests from another; here both start alike."""
    model = make() if start is None else make(decoder_start_token_id=start)
    start = START if start is None else start
    images, labels = torch.randn(2, 3, 32, 64), labels_for(model.config, [[5, 6], [9]])
    inputs = torch.tensor([[start, 5, 6], [start, 9, END]])
    explicit = model(images, decoder_input_ids=inputs, labels=labels)
    torch.testing.assert_close(model(images, labels=labels).loss, explicit.loss)
    assert model.generate(images)[:, 0].tolist() == [start, start]
    assert unpadded(model.generate(images)) == read_step_by_step(model, images, 9)


@each_encoder
def test_scores_and_attention_come_with_the_text(make: Callable[..., Any], family: str, encoder: str) -> None:
    model = make(family, encoder)
    images = torch.randn(2, 3, 32, 64)
    output = model.generate(
        images, return_dict_in_generate=True, output_scores=True, output_logits=True, output_attentions=True
    )
    steps = output.sequences.shape[1] - 1
    assert len(output.scores) == len(output.cross_attentions) == steps
    teacher = model(images, decoder_input_ids=output.sequences[:, :-1], output_attentions=True)
    for step in range(steps):
        weights = output.cross_attentions[step][0]
        assert weights.shape == (2, 1, 1, 17 if encoder == "cnn" else 16)
        expected = teacher.cross_attentions[0][:, 0, step]
        torch.testing.assert_close(weights[:, 0, 0], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(output.logits[step], teacher.logits[:, step], rtol=0, atol=1e-3)


def test_encoder_runs_once_and_may_have_run_before(make: Callable[..., Any]) -> None:
    model = make()
    calls = []
    model.model.register_forward_hook(lambda *arguments: calls.append(1))
    images = torch.randn(3, 3, 32, 64)
    ids = model.generate(images, num_beams=2)
    assert len(calls) == 1
    encoded = model.get_encoder()(images)
    assert torch.equal(model.generate(encoder_outputs=encoded, num_beams=2), ids)
    assert len(calls) == 2


def test_decoding_nothing_is_refused(make: Callable[..., Any]) -> None:
    model = make()
    with pytest.raises(ValueError, match="`labels` for a loss or `decoder_input_ids`"):
        model(torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match="give `pixel_values`, or `encoder_outputs`"):
        model(decoder_input_ids=torch.tensor([[1]]))


def test_state_continues_where_it_stopped(make: Callable[..., Any]) -> None:
    model = make()
    images, ids = torch.randn(2, 3, 32, 64), torch.tensor([[1, 5, 6, 7], [1, 9, 9, 4]])
    whole = model(images, decoder_input_ids=ids)
    assert whole.past_key_values is None
    first = model(images, decoder_input_ids=ids[:, :2], use_cache=True)
    encoded = model.get_encoder()(images)
    rest = model(
        decoder_input_ids=ids[:, 2:],
        encoder_outputs=encoded,
        past_key_values=first.past_key_values,
        use_cache=True,
    )
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole.logits)


def test_stock_seq2seq_trainer_predicts_with_generate(make: Callable[..., Any], tmp_path: Path) -> None:
    """Words of unequal width and labels of unequal length over several batches."""
    model = make(max_text_length=6)
    rows: Any = []
    for index, width in enumerate([32, 64, 64, 16]):
        words, _, _ = ragged_words([width], seed=index)
        rows.append({"pixel_values": words[0], "labels": [5 + index] * (1 + index) + [END]})

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        predict_with_generate=True,
        per_device_eval_batch_size=2,
        per_device_train_batch_size=2,
        max_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Seq2SeqTrainer(model, arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    output: Any = trainer.predict(rows)
    expected = [unpadded(model.generate(row["pixel_values"][None]))[0] for row in rows]
    read = [[token for token in ids if token > PAD] for ids in output.predictions.tolist()]
    assert read == expected
    assert output.metrics["test_loss"] > 0
