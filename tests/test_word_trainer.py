"""The trainer's own parts; whole runs are in test_run_finetuning."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Trainer

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import class_of
from training.arguments import FinetuningArguments, build_arguments
from training.collation import TextRecognitionCollator
from training.optimization import schedule_factor
from training.run_state import MetricsLog, RunClock
from training.trainer_arguments import library_arguments
from training.word_trainer import WordTrainer, freeze_encoder, trainable_count

Words = list[tuple[Image.Image, str]]


class ListedBatches:
    """Batches from a list, again and again; stands in for `TrainingBatches`."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches
        self.start = 0
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.batches

    def take_wait(self) -> float:
        return 0.0


def settings(folder: Path, **changes: Any) -> FinetuningArguments:
    base = {
        "output_dir": str(folder),
        "model": "unused",
        "train_sources": {"unused:": 1},
        "max_steps": 1,
        "batch_size": 8,
        "save_minutes": None,
        "log_steps": 1,
        "tensorboard": False,
        "warmup": 0.0,
        "schedule": "constant",
        "max_grad_norm": 0.0,
    }
    return build_arguments({**base, **changes})


@pytest.fixture
def processor() -> TextRecognitionProcessor:
    return TextRecognitionProcessor(
        image_processor=TextRecognitionImageProcessor(),
        tokenizer=CharacterTokenizer(charset="alphanumeric-36"),
    )


@pytest.fixture
def batch(processor: TextRecognitionProcessor, eight_words: Words) -> dict[str, Tensor]:
    return TextRecognitionCollator(processor)([{"image": image, "text": text} for image, text in eight_words])


@pytest.fixture
def train(tmp_path: Path, processor: TextRecognitionProcessor) -> Callable[..., WordTrainer]:
    """Train a model on given batches."""

    def run(model: Any, batches: list[dict[str, Tensor]], **changes: Any) -> WordTrainer:
        fed: Any = ListedBatches(batches)
        log = MetricsLog(tmp_path, tensorboard=False)
        arguments = settings(tmp_path, **changes)
        trainer = WordTrainer(
            model, arguments, library_arguments(arguments), processor, fed, [], log, RunClock()
        )
        trainer.train()
        return trainer

    return run


def vit(tiny_config: Callable[..., Any]) -> Any:
    """A recogniser without batch statistics, so that batches can be cut up."""
    torch.manual_seed(0)
    return class_of("rcmstr", "ctc")(tiny_config("rcmstr", "vit", "ctc"))


def weights(model: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_accumulated_batches_move_the_weights_as_one_batch_does(
    tiny_config: Callable[..., Any], train: Callable[..., WordTrainer], batch: dict[str, Tensor]
) -> None:
    whole, parts = vit(tiny_config), vit(tiny_config)
    before = weights(whole)
    train(whole, [batch])
    halves = [{name: tensor[i : i + 4] for name, tensor in batch.items()} for i in (0, 4)]
    train(parts, halves, batch_size=4, gradient_accumulation_steps=2)
    assert (weights(whole) - before).abs().max() > 5e-4
    # AdamW's first update is the sign of the gradient: only gradients at the level of rounding may differ.
    differing = (weights(whole) - weights(parts)).abs() > 1e-4
    assert differing.float().mean() < 0.01


def test_one_update_equals_plain_pytorch(
    tiny_config: Callable[..., Any], train: Callable[..., WordTrainer], batch: dict[str, Tensor]
) -> None:
    ours, plain = vit(tiny_config), vit(tiny_config)
    train(ours, [batch], weight_decay=0.0, learning_rate=0.01)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    plain.train()
    plain(**batch).loss.backward()
    optimizer.step()
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_two_updates_of_sgd_equal_plain_pytorch(
    tiny_config: Callable[..., Any], train: Callable[..., WordTrainer], batch: dict[str, Tensor]
) -> None:
    ours, plain = vit(tiny_config), vit(tiny_config)
    sgd = {"optimizer": "sgd", "sgd_momentum": 0.7, "weight_decay": 0.0, "learning_rate": 0.01}
    train(ours, [batch], max_steps=2, **sgd)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.7)
    plain.train()
    for _ in range(2):
        optimizer.zero_grad()
        plain(**batch).loss.backward()
        optimizer.step()
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_layers_learn_at_their_share_of_the_scheduled_rate(
    tiny_config: Callable[..., Any], train: Callable[..., WordTrainer], batch: dict[str, Tensor]
) -> None:
    """Two layers: the stem lies three below the head."""
    trainer = train(
        vit(tiny_config), [batch], max_steps=2, learning_rate=0.01, layer_decay=0.5, schedule="linear"
    )
    assert trainer.optimizer is not None
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.00125, 0.0025, 0.005, 0.01])
    trainer.lr_scheduler.last_epoch = 0  # type: ignore[union-attr]
    trainer.lr_scheduler.step()  # type: ignore[union-attr]
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.5 * group["initial_lr"])


def test_the_gradient_is_clipped_to_the_norm(
    tiny_config: Callable[..., Any], train: Callable[..., WordTrainer], batch: dict[str, Tensor]
) -> None:
    trainer = train(vit(tiny_config), [batch], max_grad_norm=1e-3)
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["grad_norm"] > 1e-3  # the norm before clipping
    second_moments = [state["exp_avg_sq"].sum() for state in trainer.optimizer.state.values()]  # type: ignore[union-attr]
    norm = (torch.stack(second_moments).sum() / 0.01).sqrt()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "linear", "constant"])
def test_the_rate_follows_the_schedule(
    tiny_config: Callable[..., Any],
    train: Callable[..., WordTrainer],
    batch: dict[str, Tensor],
    schedule: str,
) -> None:
    shape = {"schedule": schedule, "warmup": 0.25, "final_learning_rate": 0.1}
    trainer = train(vit(tiny_config), [batch], max_steps=8, learning_rate=0.002, **shape)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([0.002 * schedule_factor(schedule, n / 8, 0.25, 0.1) for n in range(8)])


def test_a_stock_trainer_trains_the_same_model(
    tiny_config: Callable[..., Any],
    train: Callable[..., WordTrainer],
    processor: TextRecognitionProcessor,
    eight_words: Words,
    batch: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    """The same words in the same order, two ways: the weights after three updates are the same."""
    ours, stock = vit(tiny_config), vit(tiny_config)
    train(ours, [batch], max_steps=3, weight_decay=0.0)
    arguments = library_arguments(settings(tmp_path, max_steps=3))
    arguments.adam_beta2, arguments.learning_rate = 0.99, 0.001
    arguments.lr_scheduler_type, arguments.train_sampling_strategy = "constant", "sequential"
    rows: Any = [{"image": image, "text": text} for image, text in eight_words]
    collator: Any = TextRecognitionCollator(processor)
    Trainer(model=stock, args=arguments, train_dataset=rows, data_collator=collator).train()
    assert torch.allclose(weights(ours), weights(stock), atol=1e-5)


def test_a_frozen_encoder_stays_in_evaluation_mode_through_training_mode(
    tiny_config: Callable[..., Any], batch: dict[str, Tensor]
) -> None:
    model = class_of("rcmstr", "ctc")(tiny_config("rcmstr", "cnn", "ctc"))
    everything = trainable_count(model.parameters())
    freeze_encoder(model, freeze_batchnorm=True)
    assert trainable_count(model.parameters()) == trainable_count(model.head.parameters()) < everything
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    model.train()
    model(**batch).loss.backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.model.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_the_librarys_own_saving_logging_and_reports_are_off(tmp_path: Path) -> None:
    arguments = library_arguments(settings(tmp_path, schedule_by="time", max_steps=None, max_minutes=1))
    assert arguments.save_strategy == arguments.eval_strategy == "no"
    assert arguments.report_to == []
    assert arguments.max_steps >= 10**9
