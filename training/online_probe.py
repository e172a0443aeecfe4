"""The online probe: what a small head can read from the frozen encoder, now and then during pretraining.

The encoder's features of a few labelled words are computed once, a fresh head of the recogniser's own kind
learns from some of them and reads the others. The probe draws from generators of its own and puts every
module back into its mode, so a run with it and one without are the same run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from modeling_rcmstr import CharacterTokenizer
from modeling_rcmstr.recognition_heads import (
    AttentionHead,
    CTCHead,
    attention_loss,
    feature_sequence,
    shift_right,
)
from modeling_rcmstr.text_decoding import decode_ctc
from training.collapse_detection import effective_rank
from training.collation import (
    UNREADABLE,
    BatchNormaliser,
    LabelEncoder,
    PreparedWord,
    WordResizer,
    pack_chunk,
)
from training.metrics import score_words
from training.optimization import schedule_factor, set_learning_rate
from training.pretraining_arguments import ProbeArguments
from training.recogniser import frames_of
from training.word_sources import open_source

BATCH_SIZE = 64
LEARNING_RATE = 0.005
WARMUP = 0.1


@dataclass(frozen=True)
class ProbeWord:
    """A labelled word: (H, W, 3) uint8, its text in the probe's charset, and its ids."""

    pixels: Any
    text: str
    label: list[int]


class OnlineProbe:
    """Labelled words, and how well a head reads them.

    Args:
        settings: source, numbers of words and updates, charset.
        config: of the model; says which head its recogniser has.
        image_processor: of the model.
        seed: of the head and of the order of its words.

    Raises:
        ValueError: when the source has too few usable words.
    """

    def __init__(self, settings: ProbeArguments, config: Any, image_processor: Any, seed: int) -> None:
        assert settings.probe_source is not None
        self.settings = settings
        self.seed = seed
        attention = settings.probe_head == "attention"
        self.tokenizer = CharacterTokenizer(charset=settings.probe_charset, for_attention=attention)
        self.config = copy.deepcopy(config)
        self.config.vocab_size = len(self.tokenizer)
        self.make_head = AttentionProbeHead if attention else CTCProbeHead
        self.normalise = BatchNormaliser(image_processor, channels_last=True)
        # Whatever the head, words that CTC cannot align are left out, so that all heads have the same words.
        encoder = LabelEncoder(
            CharacterTokenizer(charset=settings.probe_charset), "drop_characters", None, frames_of(config)
        )
        words = read_words(settings, WordResizer(image_processor), encoder, self.tokenizer)
        self.train_words = words[: settings.probe_train_words]
        self.eval_words = words[settings.probe_train_words :]

    def __call__(self, encoder: Any, device: torch.device, is_main: bool = True) -> dict[str, float]:
        """Probe an encoder.

        Args:
            encoder: the model's `TextRecognitionModel`; every process of a run must call, since under ZeRO-3
                its weights are spread over them.
            device: where it is.
            is_main: whether to train the head and answer; otherwise nothing is returned.

        Returns:
            `probe/word_accuracy`, `probe/one_minus_ned`, `probe/cer`, `probe/loss` (of the head's last
            updates) and `probe/effective_rank` of the words' mean features.
        """
        features = self._features(encoder, device)
        if not is_main:
            return {}
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(self.seed)
            return self._fit_and_read(features, device)

    @torch.no_grad()
    def _features(self, encoder: Any, device: torch.device) -> list[Tensor]:
        """(T, C) frames of every word, those of training first, in float32."""
        modes = {module: module.training for module in encoder.modules()}
        encoder.eval()
        frames: list[Tensor] = []
        try:
            words = self.train_words + self.eval_words
            for start in range(0, len(words), BATCH_SIZE):
                chosen = words[start : start + BATCH_SIZE]
                chunk = pack_chunk([[PreparedWord(word.pixels, word.label) for word in chosen]])
                batch = self.normalise(next(chunk.batches()), device)
                output = encoder(batch["pixel_values"], pixel_mask=batch.get("pixel_mask"), return_dict=True)
                sequence, mask = feature_sequence(output.last_hidden_state, output.frame_mask)
                lengths = [sequence.shape[1]] * len(sequence) if mask is None else mask.sum(1).tolist()
                frames += [row[:length].float() for row, length in zip(sequence, lengths, strict=True)]
        finally:
            for module, mode in modes.items():
                module.training = mode
        return frames

    def _fit_and_read(self, features: list[Tensor], device: torch.device) -> dict[str, float]:
        count = len(self.train_words)
        seen = torch.cat(features[:count])
        # So that the scale of the features does not matter.
        mean, deviation = seen.mean(0), seen.std(0) + 1e-6
        features = [(frames - mean) / deviation for frames in features]
        head = self.make_head(self.config, features[0].shape[1], self.tokenizer).to(device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
        losses = []
        for update in range(self.settings.probe_updates):
            progress = update / self.settings.probe_updates
            set_learning_rate(optimizer, LEARNING_RATE * schedule_factor("cosine", progress, WARMUP, 0.0))
            chosen = torch.randint(count, (min(BATCH_SIZE, count),)).tolist()
            labels = [torch.tensor(self.train_words[i].label) for i in chosen]
            padded = pad_sequence(labels, batch_first=True, padding_value=-100).to(device)
            loss = head.loss(*pad_features([features[i] for i in chosen]), padded)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.detach())
        scores = score_words(self._read(head, features[count:]), [word.text for word in self.eval_words])
        return {
            "probe/word_accuracy": scores.word_accuracy,
            "probe/one_minus_ned": scores.one_minus_ned,
            "probe/cer": scores.character_error_rate,
            "probe/loss": float(torch.stack(losses[-20:]).mean()),
            "probe/effective_rank": effective_rank(torch.stack([frames.mean(0) for frames in features])),
        }

    @torch.no_grad()
    def _read(self, head: CTCProbeHead | AttentionProbeHead, features: list[Tensor]) -> list[str]:
        head.eval()
        texts = []
        for start in range(0, len(features), BATCH_SIZE):
            for ids in head.read(*pad_features(features[start : start + BATCH_SIZE])):
                texts.append("".join(self.tokenizer.decoder[i] for i in ids))
        return texts


class CTCProbeHead(nn.Module):
    """The CTC recogniser's head.

    Args:
        config: says its sizes.
        input_size: channels of the features.
        tokenizer: of the probe; unused, CTC's blank is always 0.
    """

    def __init__(self, config: Any, input_size: int, tokenizer: Any) -> None:  # noqa: ARG002
        super().__init__()
        self.head = CTCHead(config, input_size)

    def loss(self, features: Tensor, mask: Tensor | None, labels: Tensor) -> Tensor:
        """Loss of labels (B, L) padded with -100, for a feature map (B, C, 1, T) and its (B, T) mask."""
        loss = self.head(features, mask, labels).loss
        assert loss is not None
        return loss

    def read(self, features: Tensor, mask: Tensor | None) -> list[list[int]]:
        """Ids of each word's characters, by best path."""
        output = self.head(features, mask)
        assert output.logits is not None
        return [list(word.ids) for word in decode_ctc(output.logits, output.frame_mask)]


class AttentionProbeHead(nn.Module):
    """The attention recogniser's head, read greedily.

    Args:
        config: says its sizes, and with `max_text_length` how long it reads.
        input_size: channels of the features.
        tokenizer: of the probe; says the ids that start and end a text.
    """

    def __init__(self, config: Any, input_size: int, tokenizer: Any) -> None:
        super().__init__()
        self.head = AttentionHead(config, input_size)
        self.tokenizer = tokenizer
        self.max_length = config.max_text_length

    def loss(self, features: Tensor, mask: Tensor | None, labels: Tensor) -> Tensor:
        """Loss of labels (B, L), the end token included, for a feature map (B, C, 1, T) and its mask."""
        inputs = shift_right(labels, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        return attention_loss(self.head(inputs, self.head.start(features, mask)).logits, labels)

    def read(self, features: Tensor, mask: Tensor | None) -> list[list[int]]:
        """Ids of each word's characters, each the likeliest one after those before it."""
        state = self.head.start(features, mask)
        ids = features.new_full((len(features), 1), self.tokenizer.bos_token_id, dtype=torch.long)
        steps = []
        for _ in range(self.max_length + 1):
            ids = self.head(ids, state).logits.argmax(-1)
            steps.append(ids[:, 0])
        words = []
        special = (self.tokenizer.pad_token_id, self.tokenizer.bos_token_id)
        for row in torch.stack(steps, dim=1).tolist():
            end = row.index(self.tokenizer.eos_token_id) if self.tokenizer.eos_token_id in row else len(row)
            words.append([i for i in row[:end] if i not in special])
        return words


def read_words(
    settings: ProbeArguments, resizer: WordResizer, encoder: LabelEncoder, tokenizer: Any
) -> list[ProbeWord]:
    """The first usable words of the probe's source, as many as it wants.

    Args:
        settings: source and numbers of words.
        resizer: the image processor's resizing.
        encoder: says which texts fit the frames.
        tokenizer: of the head; gives the ids.

    Raises:
        ValueError: when there are too few.
    """
    source = open_source(str(settings.probe_source))
    wanted = settings.probe_train_words + settings.probe_eval_words
    words: list[ProbeWord] = []
    # An endless source is asked for a few more, since some may not fit.
    for index in range(source.size if source.size is not None else 2 * wanted):
        if len(words) == wanted:
            return words
        row = source.row(index)
        text = encoder.clean(row["text"])
        try:
            pixels = resizer(row["image"]) if text else None
        except UNREADABLE:
            continue
        if text and pixels is not None and encoder.fits(encoder.encode(text), pixels.shape[1]):
            words.append(ProbeWord(pixels, text, list(tokenizer.text_to_ids(text))))
    if len(words) < wanted:
        raise ValueError(
            f"`probe_source` {source.name!r} has {len(words)} usable words, the probe wants {wanted} = "
            f"{settings.probe_train_words} to learn from + {settings.probe_eval_words} to read."
        )
    return words


def pad_features(features: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Frames of words (T, C) → a feature map (B, C, 1, T), and its mask (B, T) if lengths differ."""
    lengths = torch.tensor([len(frames) for frames in features], device=features[0].device)
    padded = pad_sequence(features, batch_first=True).transpose(1, 2)[:, :, None]
    if int(lengths.min()) == padded.shape[-1]:
        return padded, None
    return padded, torch.arange(padded.shape[-1], device=padded.device) < lengths[:, None]
