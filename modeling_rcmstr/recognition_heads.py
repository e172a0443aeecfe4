"""The two heads that turn a feature map into characters: CTC, and an LSTM with additive attention.

Both follow the decoder evaluation of RCLSTR (arXiv:2308.00508): two bidirectional LSTM layers first, then a
linear layer with CTC (Graves et al. 2006), or the attention decoder of TRBA (arXiv:1904.01906) on gated
features (SCATTER, arXiv:2003.11288). Decoding to text is in `text_decoding`; beam search and sampling come
from `generate()`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .bidirectional_lstm import stack_bilstm
from .charset_mapping import VocabularyMapping
from .configuration_text_recognition import TextRecognitionConfig


@dataclass
class TextRecognitionOutput(ModelOutput):
    """What a CTC recogniser gives.

    Args:
        loss: mean over words of the negative log-likelihood per character, in nats; with `labels` only.
        logits: (B, T, V) class scores of each frame; class 0 is the blank.
        frame_mask: (B, T) True for frames that belong to the word, False for padding, whose scores are those
            of a certain blank; None when no word is padded.
        hidden_states: feature maps of the encoder's stages, on request.
        attentions: attention weights of the encoder, on request.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    frame_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def feature_sequence(
    feature_map: Tensor, frame_mask: Tensor | None, tokens: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Flatten a (B, C, h, w) map to frames: the mean over rows of each column, or every cell with `tokens`.

    Returns:
        (B, T, C) and the frame mask (B, T) or None.
    """
    if not tokens:
        return feature_map.mean(2).transpose(1, 2), frame_mask
    rows = feature_map.shape[2]
    if frame_mask is not None:
        frame_mask = frame_mask[:, None].expand(-1, rows, -1).flatten(1)
    return feature_map.flatten(2).transpose(1, 2), frame_mask


def check_labels(labels: Tensor, batch_size: int, vocab_size: int, reserved: tuple[int | None, ...]) -> None:
    """Refuse labels of another shape and ids that no character has.

    Raises:
        ValueError: for labels that are not (batch_size, L), padding before a character, and ids outside the
            vocabulary or in `reserved`; padding is -100.
    """
    if labels.ndim != 2 or len(labels) != batch_size:
        raise ValueError(
            f"`labels` must be (batch, length) with a row for each of the {batch_size} words, "
            f"got {tuple(labels.shape)}."
        )
    present = labels != -100
    if bool((present[:, 1:] & ~present[:, :-1]).any()):
        raise ValueError("`labels` must hold a word's ids first and -100 only after them.")
    real = labels[present]
    if real.numel() and (int(real.min()) < 0 or int(real.max()) >= vocab_size):
        raise ValueError(
            f"`labels` must be character ids in 0..{vocab_size - 1} padded with -100, got "
            f"{int(real.min())}..{int(real.max())}; encode the text with the checkpoint's own tokenizer."
        )
    for token in reserved:
        if token is not None and bool((real == token).any()):
            raise ValueError(
                f"`labels` hold id {token}, which pads or starts a text and is no character; "
                "pad labels with -100."
            )


def ctc_loss(logits: Tensor, labels: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Connectionist temporal classification, mean over words of the loss per character, computed in float32.

    Args:
        logits: (B, T, V); class 0 is the blank.
        labels: (B, L) ids padded with -100.
        frame_mask: (B, T) or None.

    Raises:
        ValueError: for unusable labels, and when a label needs more frames than its word has (one per
            character, and one blank between equal ones).
    """
    batch, frames, vocab_size = logits.shape
    check_labels(labels, batch, vocab_size, reserved=(0,))
    present = labels != -100
    target_lengths = present.sum(1)
    input_lengths = frame_mask.sum(1) if frame_mask is not None else target_lengths.new_full((batch,), frames)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & present[:, 1:]).sum(1)
    missing = (target_lengths + repeats - input_lengths).tolist()
    for row, gap in enumerate(missing):
        if gap > 0:
            raise ValueError(
                f"label {row} needs {int(target_lengths[row] + repeats[row])} frames "
                f"({int(target_lengths[row])} characters and {int(repeats[row])} blanks between equal "
                f"neighbours), the word has {int(input_lengths[row])}; "
                "CTC cannot align it: resize the word wider or leave it out."
            )
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)  # (T, B, V)
    targets = labels.masked_fill(~present, 0)
    return F.ctc_loss(log_probabilities, targets, input_lengths, target_lengths, blank=0)


class CTCHead(nn.Module):
    """Bidirectional LSTM layers and a linear layer on every frame."""

    def __init__(self, config: TextRecognitionConfig, input_size: int) -> None:
        """Build from `head_bilstm_layers`, `head_hidden_size` and `vocab_size`."""
        super().__init__()
        hidden = config.head_hidden_size
        self.recurrent = stack_bilstm(input_size, hidden, hidden, config.head_bilstm_layers)
        self.classifier = nn.Linear(hidden if config.head_bilstm_layers else input_size, config.vocab_size)

    def forward(
        self, feature_map: Tensor, frame_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> TextRecognitionOutput:
        """Score the (B, C, h, w) feature map; `labels` (B, L) padded with -100 give the loss."""
        sequence, frame_mask = feature_sequence(feature_map, frame_mask)
        for layer in self.recurrent:
            sequence = layer(sequence, frame_mask)
        logits = self.classifier(sequence)  # (B, T, V)
        if frame_mask is not None:
            # Padded frames are blank for certain: decoding that ignores the mask gives the same text.
            blank = torch.full_like(logits[:1, :1], torch.finfo(logits.dtype).min)
            blank[..., 0] = 0.0
            logits = torch.where(frame_mask[..., None], logits, blank)
        loss = ctc_loss(logits, labels, frame_mask) if labels is not None else None
        return TextRecognitionOutput(loss=loss, logits=logits, frame_mask=frame_mask)

    def resize_vocabulary(self, mapping: VocabularyMapping) -> None:
        """Take over another vocabulary; every weight that is not of a character stays."""
        resize_classifier(self.classifier, mapping)


def resize_classifier(classifier: nn.Linear, mapping: VocabularyMapping) -> None:
    """Give a layer (V, C) the rows and biases of another vocabulary, in place."""
    replace_parameter(classifier, "weight", mapping.rows(classifier.weight.detach()))
    replace_parameter(classifier, "bias", mapping.biases(classifier.bias.detach()))
    classifier.out_features = len(mapping.sources)


def replace_parameter(module: nn.Module, name: str, values: Tensor) -> None:
    """Put other values, of any shape, in the place of a parameter; whether it is trained stays."""
    trained = getattr(module, name).requires_grad
    setattr(module, name, nn.Parameter(values.contiguous(), requires_grad=trained))


class LSTMDecoderState:
    """What the attention decoder keeps between steps of `generate()`: LSTM state and what it attends to."""

    is_compileable = False

    def __init__(
        self, hidden: Tensor, cell: Tensor, memory: Tensor, keys: Tensor, bias: Tensor | None
    ) -> None:
        """Start a text.

        Args:
            hidden: (B, hidden size) hidden state.
            cell: (B, hidden size) cell state.
            memory: (B, T, memory size) frames.
            keys: (B, T, hidden size) projected frames.
            bias: (B, T) 0 for real frames and the lowest number for padded ones, or None.
        """
        self.tensors = {"hidden": hidden, "cell": cell, "memory": memory, "keys": keys}
        if bias is not None:
            self.tensors["bias"] = bias
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return how many characters were read."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the beams `beam_idx`, in that order."""
        for name, tensor in self.tensors.items():
            self.tensors[name] = tensor.index_select(0, beam_idx.to(tensor.device))


@dataclass
class AttentionHeadOutput(ModelOutput):
    """Scores (B, L, V) and attention over the frames (B, L, T)."""

    logits: Tensor | None = None
    attention: Tensor | None = None


class AttentionHead(nn.Module):
    """One-layer LSTM that attends additively over the frames and reads its previous character as one-hot."""

    def __init__(self, config: TextRecognitionConfig, input_size: int) -> None:
        """Build from the head fields of the configuration."""
        super().__init__()
        hidden = config.head_hidden_size
        self.vocab_size = config.vocab_size
        self.uses_tokens = config.decoder_input == "tokens"
        # SCATTER's gate concatenates the encoder's features with LSTM features of the same size.
        recurrent_size = input_size if config.head_feature_gate else hidden
        self.recurrent = stack_bilstm(input_size, hidden, recurrent_size, config.head_bilstm_layers)
        memory_size = input_size
        if config.head_bilstm_layers:
            memory_size = recurrent_size + input_size if config.head_feature_gate else recurrent_size
        self.gate = nn.Linear(memory_size, memory_size) if config.head_feature_gate else None
        self.memory_projection = nn.Linear(memory_size, hidden, bias=False)
        self.state_projection = nn.Linear(hidden, hidden)
        self.attention_score = nn.Linear(hidden, 1, bias=False)
        self.cell = nn.LSTMCell(memory_size + config.vocab_size, hidden)
        self.classifier = nn.Linear(hidden, config.vocab_size)

    def start(self, feature_map: Tensor, frame_mask: Tensor | None = None) -> LSTMDecoderState:
        """Prepare what the decoder attends to, from a (B, C, h, w) map and its (B, w) mask."""
        features, frame_mask = feature_sequence(feature_map, frame_mask, self.uses_tokens)
        memory = features
        for layer in self.recurrent:
            memory = layer(memory, frame_mask)
        if self.gate is not None:
            if len(self.recurrent):
                memory = torch.cat([features, memory], dim=-1)
            memory = memory * self.gate(memory)
        bias = None
        if frame_mask is not None:
            bias = torch.zeros(frame_mask.shape, dtype=memory.dtype, device=memory.device)
            bias = bias.masked_fill(~frame_mask, torch.finfo(memory.dtype).min)
        zeros = memory.new_zeros(memory.shape[0], self.cell.hidden_size)
        return LSTMDecoderState(zeros, zeros, memory, self.memory_projection(memory), bias)

    def forward(self, decoder_input_ids: Tensor, state: LSTMDecoderState) -> AttentionHeadOutput:
        """Read `decoder_input_ids` (B, L) one after the other from `state`, and move it on.

        Returns:
            Scores of the character that follows each input, and the attention of each step.
        """
        kept = state.tensors
        characters = F.one_hot(decoder_input_ids, self.vocab_size).to(kept["memory"].dtype)  # (B, L, V)
        hiddens, attentions = [], []
        for step in range(decoder_input_ids.shape[1]):
            energy = torch.tanh(kept["keys"] + self.state_projection(kept["hidden"])[:, None])
            scores = self.attention_score(energy)[..., 0]  # (B, T)
            attention = (scores + kept["bias"] if "bias" in kept else scores).softmax(-1)
            context = (attention[:, None] @ kept["memory"])[:, 0]  # (B, memory size)
            inputs = torch.cat([context, characters[:, step]], dim=1)
            kept["hidden"], kept["cell"] = self.cell(inputs, (kept["hidden"], kept["cell"]))
            hiddens.append(kept["hidden"])
            attentions.append(attention)
        state.length += decoder_input_ids.shape[1]
        logits = self.classifier(torch.stack(hiddens, dim=1))  # (B, L, V)
        return AttentionHeadOutput(logits=logits, attention=torch.stack(attentions, dim=1))

    def resize_vocabulary(self, mapping: VocabularyMapping) -> None:
        """Take over another vocabulary, in what is read and in what is given."""
        resize_classifier(self.classifier, mapping)
        # The cell reads frames and, after them, its previous character as one-hot: one column a character.
        frames, characters = self.cell.weight_ih.detach().split(
            [self.cell.input_size - self.vocab_size, self.vocab_size], dim=1
        )
        columns = mapping.rows(characters.T).T
        replace_parameter(self.cell, "weight_ih", torch.cat([frames, columns], dim=1))
        self.vocab_size = len(mapping.sources)
        self.cell.input_size = frames.shape[1] + self.vocab_size


def attention_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy per character of (B, L, V) scores against (B, L) labels padded with -100.

    Raises:
        ValueError: when there is no label at all.
    """
    if bool((labels == -100).all()):
        raise ValueError("`labels` hold nothing; a word without characters still has its end token.")
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def shift_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """Make decoder inputs of labels: the start token first, every label one place later, -100 as padding.

    Returns:
        (B, L) ids.
    """
    shifted = torch.cat([labels.new_full((len(labels), 1), start_id), labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad_id)
