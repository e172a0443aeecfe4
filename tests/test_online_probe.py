"""The probe reads what is in the features, disturbs nothing, and says what its source lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from modeling_rcmstr import RCMSTRModel, TextRecognitionImageProcessor
from modeling_rcmstr.encoder_cnn import EncoderOutput
from training.online_probe import OnlineProbe, pad_features
from training.pretraining_arguments import ProbeArguments

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (255, 255, 0)}


def write_coloured_words(folder: Path, count: int) -> str:
    """Words whose characters are blocks of one colour each, eight pixels wide, with black between them."""
    folder.mkdir(exist_ok=True)
    generator, lines = np.random.default_rng(0), []
    for number in range(count):
        text = "".join(generator.choice(list(COLOURS), size=generator.integers(2, 6)))
        pixels = np.zeros((32, 100, 3), dtype=np.uint8)
        for place, character in enumerate(text):
            pixels[:, 4 + 16 * place : 12 + 16 * place] = COLOURS[character]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{text}\n")
    (folder / "labels.tsv").write_text("".join(lines))
    return f"folder:{folder}"


class ColumnColours(nn.Module):
    """An encoder whose frames are the mean colours of four columns, or nothing but noise."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **kwargs: Any) -> EncoderOutput:
        frames = F.avg_pool2d(pixel_values, (32, 4))  # (B, 3, 1, 25)
        if self.blind:
            frames = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        return EncoderOutput(frames, None, (frames,))


def probe_of(
    tmp_path: Path, config: Any, train: int = 64, evaluate: int = 32, updates: int = 200, head: str = "ctc"
) -> OnlineProbe:
    settings = ProbeArguments(
        probe_source=write_coloured_words(tmp_path / "words", train + evaluate),
        probe_head=head,
        probe_train_words=train,
        probe_eval_words=evaluate,
        probe_updates=updates,
        probe_charset="abcd",
    )
    return OnlineProbe(
        settings, config, TextRecognitionImageProcessor(size={"height": 32, "width": 100}), seed=0
    )


@pytest.fixture
def config(tiny_config: Callable[..., Any]) -> Any:
    return tiny_config("rcmstr", "cnn", image_size=(32, 100), head_bilstm_layers=1)


@pytest.mark.parametrize(("head", "updates"), [("ctc", 250), ("attention", 600)])
def test_it_reads_what_the_features_hold_and_nothing_else(
    tmp_path: Path, config: Any, head: str, updates: int
) -> None:
    """An attention head needs longer, since it has to learn where to look."""
    probe = probe_of(tmp_path, config, train=256, updates=updates, head=head)
    seeing = probe(ColumnColours(), torch.device("cpu"))
    blind = probe(ColumnColours(blind=True), torch.device("cpu"))
    assert seeing["probe/word_accuracy"] > 0.9
    assert seeing["probe/cer"] < 0.05
    assert blind["probe/word_accuracy"] < 0.1
    assert seeing["probe/loss"] < blind["probe/loss"]
    assert 1 <= seeing["probe/effective_rank"] <= 3


def test_it_disturbs_neither_modes_nor_weights_nor_random_numbers(tmp_path: Path, config: Any) -> None:
    probe = probe_of(tmp_path, config, train=8, evaluate=4, updates=2)
    encoder = RCMSTRModel(config).train()
    encoder.encoder.stem[0].eval()
    modes = [module.training for module in encoder.modules()]
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    first = probe(encoder, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.grad is not None for parameter in encoder.parameters())
    assert probe(encoder, torch.device("cpu")) == first, "the same again"
    assert probe(encoder, torch.device("cpu"), is_main=False) == {}


def test_words_of_other_widths_are_read_padded_or_not(
    tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    from modeling_rcmstr import PerSecModel

    folder = tmp_path / "words"
    folder.mkdir()
    lines = []
    for number, width in enumerate([64, 96, 128, 64, 96, 128]):
        Image.new("RGB", (width, 32), (9 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png\tab\n")
    (folder / "labels.tsv").write_text("".join(lines))
    settings = ProbeArguments(
        probe_source=f"folder:{folder}", probe_train_words=4, probe_eval_words=2, probe_updates=2
    )
    processor = TextRecognitionImageProcessor(
        size={"height": 32, "width": 128}, keep_aspect_ratio=True, width_multiple=4, max_width=128
    )
    probe = OnlineProbe(settings, tiny_config("persec", "cnn"), processor, seed=0)
    encoder = PerSecModel(tiny_config("persec", "cnn")).eval()
    frames = probe._features(encoder, torch.device("cpu"))
    assert [len(rows) for rows in frames] == [17, 25, 33, 17, 25, 33]
    assert np.isfinite(probe(encoder, torch.device("cpu"))["probe/loss"])


def test_a_source_with_too_few_words_is_refused_with_the_arithmetic(tmp_path: Path, config: Any) -> None:
    source = write_coloured_words(tmp_path / "words", 5)
    (tmp_path / "words/0.png").write_bytes(b"no image")
    settings = ProbeArguments(
        probe_source=source, probe_train_words=4, probe_eval_words=1, probe_charset="abcd"
    )
    with pytest.raises(
        ValueError, match="has 4 usable words, the probe wants 5 = 4 to learn from \\+ 1 to read"
    ):
        OnlineProbe(
            settings, config, TextRecognitionImageProcessor(size={"height": 32, "width": 100}), seed=0
        )


def test_the_attention_head_reads_one_character_after_the_other(tmp_path: Path, config: Any) -> None:
    """Greedy reading equals the likeliest character of each step, the ones before it given all at once."""
    probe = probe_of(tmp_path, config, train=32, evaluate=8, updates=40, head="attention")
    features = probe._features(ColumnColours(), torch.device("cpu"))
    torch.manual_seed(0)
    head: Any = probe.make_head(probe.config, 3, probe.tokenizer)
    padded, mask = pad_features(features[:6])
    assert mask is None
    bos, eos = probe.tokenizer.bos_token_id, probe.tokenizer.eos_token_id
    for row, ids in enumerate(head.read(padded, mask)):
        assert len(ids) <= config.max_text_length + 1
        inputs = torch.tensor([[bos, *ids]])
        likeliest = head.head(inputs, head.head.start(padded[row : row + 1])).logits.argmax(-1)[0].tolist()
        special = {probe.tokenizer.pad_token_id, bos}
        if not special & set(likeliest):
            assert likeliest[: len(ids)] == ids
            assert len(ids) == config.max_text_length + 1 or likeliest[len(ids)] == eos


def test_both_heads_have_the_same_words(tmp_path: Path, config: Any) -> None:
    probes = [probe_of(tmp_path, config, head=head) for head in ("ctc", "attention")]
    texts = [[word.text for word in probe.train_words + probe.eval_words] for probe in probes]
    assert texts[0] == texts[1]
    assert all(len(word.label) == len(word.text) for word in probes[0].train_words)
    assert all(len(word.label) == len(word.text) + 1 for word in probes[1].train_words), (
        "the end token counts"
    )
