"""What every family, encoder and head owes: shapes, losses, independence of neighbours, gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from tests.recognisers import COMBINATIONS, build, class_of, collate, labels_for, ragged_words

combinations = pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
# Where the family makes no difference beyond what `combinations` shows.
transformers = pytest.mark.parametrize(
    ("family", "encoder", "decoder"), [("rcmstr", "vit", "ctc"), ("persec", "vit", "attention")]
)
LABELS = [[5, 6], [7], [8, 9, 10]]


@pytest.fixture
def model(family: str, encoder: str, decoder: str, tiny_config: Callable[..., Any]) -> Any:
    """A small recogniser of the combination at hand."""
    return build(tiny_config(family, encoder, decoder))


def score(model: Any, pixel_values: Tensor, **inputs: Any) -> Any:
    if model.config.decoder_type == "attention" and "labels" not in inputs:
        ids = torch.tensor([[1, 5, 6, 7]]).expand(len(pixel_values), -1)
        inputs["decoder_input_ids"] = ids
    return model(pixel_values, **inputs)


# ------------------------------------------------------------------ outputs


@combinations
@pytest.mark.parametrize("width", [4, 64, 100])
def test_logits_have_the_documented_shape(model: Any, encoder: str, decoder: str, width: int) -> None:
    output = score(model, torch.randn(2, 3, 32, width))
    frames = width // 4 + (encoder == "cnn")
    assert output.logits.shape == (2, frames if decoder == "ctc" else 4, model.config.vocab_size)
    assert output.loss is None
    if decoder == "ctc":
        assert output.frame_mask is None


@combinations
def test_word_does_not_depend_on_its_neighbours(model: Any, decoder: str) -> None:
    widths = [64, 16, 128, 36]
    words, pixel_values, pixel_mask = ragged_words(widths)
    labels = labels_for(model.config, [[5, 6], [7], [8, 9, 10], [11, 12]])
    with torch.no_grad():
        together = score(model, pixel_values, pixel_mask=pixel_mask)
        losses = []
        for row, word in enumerate(words):
            alone = score(model, word[None])
            own = together.logits[row, : alone.logits.shape[1]]
            torch.testing.assert_close(own, alone.logits[0], rtol=0, atol=1e-4)
            losses.append(
                score(model, word[None], labels=labels[row : row + 1, : 3 + (decoder != "ctc")]).loss
            )
        loss = score(model, pixel_values, pixel_mask=pixel_mask, labels=labels).loss
    lengths = (labels != -100).sum(1)
    weights = torch.ones(4) if decoder == "ctc" else lengths  # attention: mean over all characters
    expected = (torch.stack(losses) * weights).sum() / weights.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


@combinations
def test_loss_is_the_one_of_its_logits(model: Any, decoder: str) -> None:
    labels = labels_for(model.config, LABELS)
    output = model(torch.randn(3, 3, 32, 64), labels=labels)
    if decoder == "ctc":
        probabilities = output.logits.log_softmax(-1).transpose(0, 1)
        frames, lengths = torch.full((3,), output.logits.shape[1]), (labels != -100).sum(1)
        expected = F.ctc_loss(probabilities, labels.clamp(min=0), frames, lengths)
    else:
        expected = F.cross_entropy(output.logits.transpose(1, 2), labels)
    torch.testing.assert_close(output.loss, expected)


@combinations
def test_labels_may_be_padded_further(model: Any) -> None:
    images, labels = torch.randn(3, 3, 32, 64), labels_for(model.config, LABELS)
    longer = F.pad(labels, (0, 4), value=-100)
    torch.testing.assert_close(model(images, labels=labels).loss, model(images, labels=longer).loss)


@combinations
def test_forward_is_a_function(model: Any) -> None:
    """Twice the same, in training too, and nothing changes in evaluation."""
    images, labels = torch.randn(3, 3, 32, 64), labels_for(model.config, LABELS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (model(images, labels=labels) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()
    trained = model(images, labels=labels)
    assert list(trained.keys()) == list(first.keys())
    assert torch.equal(trained.logits, model(images, labels=labels).logits)


@combinations
def test_hidden_states_and_tuples_come_on_request(model: Any, encoder: str, decoder: str) -> None:
    images = torch.randn(1, 3, 32, 64)
    plain = score(model, images)
    asked = score(model, images, output_hidden_states=True)
    name = "hidden_states" if decoder == "ctc" else "encoder_hidden_states"
    assert plain[name] is None if name in plain else True
    assert len(asked[name]) == (5 if encoder == "cnn" else 3)
    as_tuple = score(model, images, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], plain.logits)
    model.config.output_hidden_states = True
    assert name in score(model, images)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_attention_maps_come_on_request(decoder: str, tiny_config: Callable[..., Any]) -> None:
    model = build(tiny_config("rcmstr", "vit", decoder))
    images = torch.randn(2, 3, 32, 64)
    model.set_attn_implementation("eager")
    name = "attentions" if decoder == "ctc" else "encoder_attentions"
    assert name not in score(model, images)
    for output in (score(model, images, output_attentions=True), None):
        if output is None:  # the configuration asks too
            model.config.output_attentions = True
            output = score(model, images)
        assert [tuple(weights.shape) for weights in output[name]] == [(2, 2, 128, 128)] * 2
        if decoder == "attention":
            assert output.cross_attentions[0].shape == (2, 1, 4, 16)


@transformers
def test_eager_and_sdpa_attention_agree(model: Any) -> None:
    images = torch.randn(2, 3, 32, 64)
    outputs = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.model.encoder.config._attn_implementation == implementation
        outputs.append(score(model, images).logits)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_rectified_words_are_of_one_width(decoder: str, tiny_config: Callable[..., Any]) -> None:
    model = build(tiny_config("rcmstr", "cnn", decoder, rectifier_type="tps"))
    assert score(model, torch.randn(2, 3, 32, 64)).logits.isfinite().all()
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    with pytest.raises(ValueError, match="one width.*keep_aspect_ratio=False.*rectifier_type='none'"):
        score(model, pixel_values, pixel_mask=pixel_mask)


# ------------------------------------------------------------------ bad input


@combinations
@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.zeros(3, 32, 64), r"floats \(batch, 3, height, width\)"),
        (torch.zeros(1, 1, 32, 64), r"got torch.float32 \(1, 1, 32, 64\)"),
        (torch.zeros(1, 3, 32, 64, dtype=torch.uint8), "got torch.uint8 .*image processor"),
        (torch.zeros(1, 3, 48, 64), "32 pixels high, got 48"),
        (torch.zeros(1, 3, 32, 62), "multiple of 4, got 62"),
    ],
)
def test_unusable_images_are_refused(model: Any, pixel_values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(model, pixel_values)


@combinations
@pytest.mark.parametrize(
    ("labels", "message"),
    [([[99, 5]], "got 5..99; encode the text"), ([[5, 0]], "hold id 0"), ([[5, 6], [7, 8]], "1 words")],
)
def test_unusable_labels_are_refused(model: Any, labels: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, 32, 64), labels=torch.tensor(labels))


@pytest.mark.parametrize(("encoder", "frames"), [("cnn", 5), ("vit", 4)])
def test_label_longer_than_the_frames_is_refused(
    encoder: str, frames: int, tiny_config: Callable[..., Any]
) -> None:
    model = build(tiny_config("rcmstr", encoder, "ctc"))
    _, pixel_values, pixel_mask = ragged_words([64, 16])
    fitting = torch.tensor([[9] + [-100] * frames, [*range(1, frames + 1), -100]])
    assert model(pixel_values, pixel_mask=pixel_mask, labels=fitting).loss.isfinite()
    with pytest.raises(ValueError, match=f"label 1 needs {frames + 1} frames.*the word has {frames}"):
        model(pixel_values, pixel_mask=pixel_mask, labels=fitting.masked_fill(fitting == -100, 20))


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_class_refuses_the_other_decoder(family: str, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="reads with CTC.*'attention'.*ForConditionalGeneration"):
        class_of(family, "ctc")(tiny_config(family, "cnn", "attention"))
    with pytest.raises(ValueError, match="reads with attention.*'ctc'.*ForTextRecognition"):
        class_of(family, "attention")(tiny_config(family, "cnn", "ctc"))


# ------------------------------------------------------------------ weights and gradients


@combinations
@pytest.mark.parametrize("fields", [{}, {"rectifier_type": "tps"}, {"position_embedding_type": "learned"}])
def test_initialisation_leaves_no_tensor_to_chance(
    family: str, encoder: str, decoder: str, fields: dict[str, str], tiny_config: Callable[..., Any]
) -> None:
    """Tensors that hold nonsense before `_init_weights` hold sense after it, as after the constructor."""
    made = class_of(family, decoder)(tiny_config(family, encoder, decoder, **fields))
    spoilt = class_of(family, decoder)(tiny_config(family, encoder, decoder, **fields))
    for tensor in spoilt.state_dict().values():
        tensor.fill_(12345 if tensor.dtype == torch.long else float("nan"))
    for module in spoilt.modules():
        module._is_hf_initialized = False
    spoilt.initialize_weights()
    for name, tensor in spoilt.state_dict().items():
        expected = made.state_dict()[name].float()
        assert tensor.isfinite().all(), name
        assert bool((tensor == tensor.flatten()[0]).all()) == bool(
            (expected == expected.flatten()[0]).all()
        ), name
        if tensor.numel() > 200 and expected.std() > 0:
            assert 0.8 < tensor.float().std() / expected.std() < 1.25, name


def test_models_can_be_built_without_memory(tiny_config: Callable[..., Any]) -> None:
    for family, encoder, decoder in COMBINATIONS:
        with torch.device("meta"):
            model = class_of(family, decoder)(tiny_config(family, encoder, decoder, rectifier_type="tps"))
        assert all(tensor.is_meta for tensor in model.state_dict().values())


@combinations
def test_every_parameter_gets_a_gradient(model: Any) -> None:
    model.train()
    _, pixel_values, pixel_mask = ragged_words([64, 32, 48])
    model(pixel_values, pixel_mask=pixel_mask, labels=labels_for(model.config, LABELS)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(
    decoder: str, reentrant: bool, tiny_config: Callable[..., Any]
) -> None:
    model = build(tiny_config("persec", "vit", decoder)).train()
    images, labels = torch.randn(3, 3, 32, 64), labels_for(model.config, LABELS)
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert all(layer.gradient_checkpointing for layer in model.model.encoder.layers)
        model.zero_grad()
        loss = model(images, labels=labels).loss
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for plain, checkpoint in zip(*results, strict=True):
        torch.testing.assert_close(plain, checkpoint)


def test_cnn_refuses_gradient_checkpointing(tiny_config: Callable[..., Any]) -> None:
    """Its batch norms would count every word twice."""
    with pytest.raises(ValueError, match="not compatible with gradient checkpointing"):
        build(tiny_config("rcmstr", "cnn", "ctc")).gradient_checkpointing_enable()


@combinations
def test_input_layer_is_the_one_that_takes_pixels(model: Any) -> None:
    layer = model.get_input_embeddings()
    assert isinstance(layer, nn.Conv2d)
    assert layer.in_channels == 3
    assert model.model.get_input_embeddings() is layer
    model.enable_input_require_grads()  # what adapters on a frozen model ask for
    assert model(torch.randn(3, 3, 32, 64), labels=labels_for(model.config, LABELS)).loss.requires_grad


# ------------------------------------------------------------------ precision


@combinations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_half_precision_model_reads_float32_images(model: Any, dtype: torch.dtype, training: bool) -> None:
    _, pixel_values, pixel_mask = ragged_words([64, 16, 32])
    labels = labels_for(model.config, LABELS)
    model.train(training)
    expected = model(pixel_values, pixel_mask=pixel_mask, labels=labels).loss
    output = model.to(dtype)(pixel_values, pixel_mask=pixel_mask, labels=labels)
    assert output.logits.dtype == dtype
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected, rtol=0.1, atol=0.1)
    if training:
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@combinations
def test_bfloat16_autocast_is_close_and_trains(model: Any) -> None:
    model.train()
    _, pixel_values, pixel_mask = ragged_words([64, 16, 32])
    labels = labels_for(model.config, LABELS)
    expected = model(pixel_values, pixel_mask=pixel_mask, labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(pixel_values, pixel_mask=pixel_mask, labels=labels).loss
    torch.testing.assert_close(loss, expected, rtol=0.1, atol=0.1)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ------------------------------------------------------------------ the stock Trainer


class Words(torch.utils.data.Dataset):
    """Rows for a Trainer: words of one width and their labels."""

    def __init__(self, config: Any, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randn(count, 3, 32, 32, generator=generator)
        self.labels = labels_for(config, [[4 + index % 5, 10] for index in range(count)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def train(model: Any, folder: Path, **arguments: Any) -> Trainer:
    options = {
        "output_dir": str(folder),
        "max_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
    }
    options.update(
        {"learning_rate": 0.1, "optim": "sgd", "disable_tqdm": True, "lr_scheduler_type": "constant"}
    )
    trainer = Trainer(model, TrainingArguments(**{**options, **arguments}), train_dataset=Words(model.config))
    trainer.train()
    return trainer


@transformers
def test_accumulated_gradients_are_those_of_one_batch(
    model: Any, family: str, encoder: str, decoder: str, tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    """A Trainer that takes the loss for a sum would make steps as many times too long."""
    other = build(tiny_config(family, encoder, decoder))
    train(model, tmp_path, per_device_train_batch_size=8, max_grad_norm=0)
    train(other, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_grad_norm=0)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)


@combinations
def test_frozen_encoder_stays_as_it_was(model: Any, tmp_path: Path) -> None:
    """Frozen parameters and an encoder in evaluation mode: no weight and no running statistic moves."""
    model.model.requires_grad_(False)
    model.model.train = lambda mode=True: model.model  # the protocol's way to keep its statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, tmp_path, per_device_train_batch_size=4, max_steps=3)
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value) == name.startswith("model."), name


@pytest.mark.parametrize(("encoder", "decoder"), [("cnn", "ctc"), ("vit", "attention")])
def test_stock_trainer_evaluates_batches_of_other_widths(
    encoder: str, decoder: str, tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    """One batch is padded and one is not; what differs in shape is not gathered, padded frames are blank."""
    model = build(tiny_config("rcmstr", encoder, decoder))
    words = [ragged_words([width], seed=width)[0][0] for width in (16, 32, 64, 64)]
    ids = labels_for(model.config, [[5], [6]]).tolist()[0]
    rows: Any = [{"pixel_values": word, "labels": ids} for word in words]
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to=[])
    output: Any = Trainer(model, arguments, data_collator=collate).predict(rows)
    assert output.metrics["test_loss"] > 0
    for word, found in zip(words, torch.from_numpy(output.predictions), strict=True):
        labels = None if decoder == "ctc" else torch.tensor([ids])
        expected = model(word[None], labels=labels).logits[0]
        torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=1e-4)
        assert torch.count_nonzero(found[len(expected) :].argmax(-1)) == 0
