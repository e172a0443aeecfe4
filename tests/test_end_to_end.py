"""From eight words to a reader of them: the stock Trainer, a folder, the pipeline; for every combination."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForTextRecognition,
    AutoProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import COMBINATIONS, class_of

# Small enough to learn eight words by heart within seconds, with every kind of layer of the real ones.
SIZES: dict[str, dict[str, Any]] = {
    "cnn": {"hidden_sizes": (16, 24, 32, 64)},
    "vit": {"patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128},
    "rcmstr": {"head_bilstm_layers": 1, "head_hidden_size": 64},
    "persec": {"encoder_bilstm_size": 64, "head_hidden_size": 64},
}
FAST = {("rcmstr", "cnn", "ctc"), ("rcmstr", "vit", "attention"), ("persec", "vit", "ctc")}
Words = list[tuple[Image.Image, str]]


class StopWhenLearnt(TrainerCallback):
    """Ends training once the loss has stayed near zero: running statistics of batch norms lag behind it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        recent = [float(entry.get("loss", 1.0)) for entry in state.log_history[-4:]]
        control.should_training_stop = len(recent) == 4 and max(recent) < 0.05


def make(
    config_for: Callable[..., Any], family: str, encoder: str, decoder: str, **image: Any
) -> tuple[Any, Any]:
    """A new recogniser and its processor."""
    tokenizer = CharacterTokenizer(charset="alphanumeric-36", for_attention=decoder == "attention")
    processor = TextRecognitionProcessor(TextRecognitionImageProcessor(**image), tokenizer)
    layers = {"encoder_bilstm_layers": int(encoder == "cnn")} if family == "persec" else {}
    fields = {**SIZES[encoder], **SIZES[family], **layers, "vocab_size": len(tokenizer)}
    return class_of(family, decoder)(config_for(family, encoder, decoder, **fields)), processor


def learn_by_heart(model: Any, processor: Any, words: Words, folder: Path) -> None:
    """Train with the stock Trainer until the words are known, and save model and processor."""

    def collate(rows: Words) -> dict[str, Tensor]:
        return dict(processor(images=[image for image, _ in rows], text=[text for _, text in rows]))

    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=400,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        warmup_steps=20,
        lr_scheduler_type="constant_with_warmup",
        adam_beta2=0.98,
        max_grad_norm=5.0,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows: Any = words
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=rows, callbacks=[StopWhenLearnt()]
    )
    trainer.train()
    trainer.save_model(str(folder))
    processor.save_pretrained(folder)


def read(model: Any, processor: Any, images: list[Image.Image]) -> list[dict[str, Any]]:
    """Read as a script would: processor, model, processor."""
    inputs = processor(images=images)
    with torch.no_grad():
        if model.can_generate():
            options = {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True}
            outputs = model.generate(**inputs, **options)
        else:
            outputs = model(**inputs)
    return processor.post_process_text_recognition(outputs)


def assert_reads_the_same_everywhere(folder: Path, model: Any, processor: Any, words: Words) -> None:
    """Model in memory, model from its folder, pipeline from the folder: the texts, with the same scores."""
    images, texts = [image for image, _ in words], [text for _, text in words]
    mine = read(model.eval(), processor, images)
    assert [answer["text"] for answer in mine] == texts
    again = AutoModelForTextRecognition.from_pretrained(folder)
    assert type(again) is type(model)
    make_pipeline: Any = pipeline
    reader = make_pipeline("text-recognition", model=str(folder), device="cpu")
    for answers in (
        read(again, AutoProcessor.from_pretrained(folder), images),
        reader(images, batch_size=3),
        [reader(image) for image in images],
    ):
        assert [answer["text"] for answer in answers] == texts
        for answer, expected in zip(answers, mine, strict=True):
            assert answer["score"] == pytest.approx(expected["score"], abs=1e-3)
            assert answer["score"] > 0.5


@pytest.mark.parametrize(
    ("family", "encoder", "decoder"),
    [
        pytest.param(*combination, marks=[] if combination in FAST else [pytest.mark.slow])
        for combination in COMBINATIONS
    ],
)
def test_eight_words_are_learnt_saved_loaded_and_read(
    family: str,
    encoder: str,
    decoder: str,
    eight_words: Words,
    tiny_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model, processor = make(tiny_config, family, encoder, decoder)
    learn_by_heart(model, processor, eight_words, tmp_path)
    assert_reads_the_same_everywhere(tmp_path, model, processor, eight_words)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["ctc", "attention"])
@pytest.mark.parametrize("encoder", ["cnn", "vit"])
def test_words_of_their_own_width_are_learnt_in_padded_batches(
    encoder: str,
    decoder: str,
    word_drawer: Callable[..., Image.Image],
    eight_words: Words,
    tiny_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A word's text is the same among wider neighbours, as in training, and alone."""
    words = [(word_drawer(text, (32, 40 + 14 * len(text))), text) for _, text in eight_words]
    model, processor = make(tiny_config, "rcmstr", encoder, decoder, keep_aspect_ratio=True)
    assert "pixel_mask" in processor(images=[image for image, _ in words])
    learn_by_heart(model, processor, words, tmp_path)
    assert_reads_the_same_everywhere(tmp_path, model, processor, words)
