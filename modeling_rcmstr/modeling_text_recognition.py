"""The recognisers that both families share; each family binds them to its configuration.

    pixel_values → rectifier? → encoder (CNN or ViT) → LSTM layers? → feature map → CTC head | attention head

`ForTextRecognition` reads with CTC, `ForConditionalGeneration` with attention and the library's `generate()`.
They are two classes, because a class either generates or does not.
"""

from typing import Any

from torch import Tensor, nn
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .bidirectional_lstm import stack_bilstm
from .configuration_text_recognition import TextRecognitionConfig
from .encoder_cnn import CNNEncoder, EncoderOutput
from .encoder_resnet45 import ResNet45Encoder
from .encoder_vit import ViTEncoder
from .pretrained_text_recognition import TextRecognitionPreTrainedModel
from .recognition_heads import (
    AttentionHead,
    CTCHead,
    LSTMDecoderState,
    TextRecognitionOutput,
    attention_loss,
    check_labels,
    feature_sequence,
    shift_right,
)
from .rectification import ThinPlateSplineRectifier


class TextRecognitionModel(TextRecognitionPreTrainedModel):
    """The encoder with its rectifier: words in, feature map out, no head."""

    def __init__(self, config: TextRecognitionConfig, use_mask_token: bool = False) -> None:
        """Build from the configuration; `use_mask_token` is for masked image modelling with a ViT."""
        super().__init__(config)
        self.rectifier = None
        if config.rectifier_type == "tps":
            self.rectifier = ThinPlateSplineRectifier(
                config.num_channels, config.num_fiducial_points, config.rectifier_initialization
            )
        self.encoder: CNNEncoder | ResNet45Encoder | ViTEncoder
        if config.encoder_type == "vit":
            self.encoder = ViTEncoder(config, use_mask_token)
        elif config.cnn_type == "resnet45":
            self.encoder = ResNet45Encoder(config)
        else:
            self.encoder = CNNEncoder(config)
        size = config.encoder_bilstm_size
        self.recurrent = stack_bilstm(self.encoder.out_channels, size, size, config.encoder_bilstm_layers)
        self.out_channels = size if config.encoder_bilstm_layers else self.encoder.out_channels
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        visible: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        update_statistics: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> EncoderOutput:
        """Encode words.

        Args:
            pixel_values: (B, C, H, W) normalised images.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            visible: (B, 1, H/4, W/4) True where a 4x4 unit may be seen; None for all.
            output_hidden_states: return the feature maps of the encoder's stages.
            output_attentions: return the ViT's attention weights (attention implementation "eager").
            update_statistics: whether batch norm moves its running statistics in training mode.
            kwargs: options of the library's loops that do not concern this model.

        Returns:
            `last_hidden_state` (B, C', h', w'), `frame_mask` (B, w') or None, and what was asked for.

        Raises:
            ValueError: for image sizes or masks that do not fit, naming the rule.
        """
        channels = self.config.num_channels
        if (
            pixel_values.ndim != 4
            or pixel_values.shape[1] != channels
            or not pixel_values.is_floating_point()
        ):
            raise ValueError(
                f"`pixel_values` must be floats (batch, {channels}, height, width), got {pixel_values.dtype} "
                f"{tuple(pixel_values.shape)}; prepare images with the checkpoint's image processor."
            )
        pixel_values = pixel_values.to(self.dtype)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if self.rectifier is not None:
            if pixel_mask is not None:
                raise ValueError(
                    "the tps rectifier reads words of one width: resize to a fixed size "
                    "(`keep_aspect_ratio=False`) or build the model with `rectifier_type='none'`."
                )
            pixel_values = self.rectifier(pixel_values)
        output = self.encoder(pixel_values, visible, pixel_mask, bool(output_attentions), update_statistics)
        if len(self.recurrent):
            sequence, frame_mask = feature_sequence(output.last_hidden_state, output.frame_mask)
            for layer in self.recurrent:
                sequence = layer(sequence, frame_mask)
            output.last_hidden_state = sequence.transpose(1, 2)[:, :, None]  # (B, C', 1, T)
        if not output_hidden_states:
            output.hidden_states = output.active = None
        return output


class ForTextRecognition(TextRecognitionPreTrainedModel):
    """Encoder and CTC head."""

    model_class: type[TextRecognitionModel] = TextRecognitionModel

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build; the configuration must name the CTC decoder."""
        super().__init__(config)
        if config.decoder_type != "ctc":
            raise ValueError(
                f"{type(self).__name__} reads with CTC, the configuration has "
                f"decoder_type={config.decoder_type!r}; "
                "use the ForConditionalGeneration class, or set decoder_type='ctc'."
            )
        self.model = self.model_class(config)
        self.head = CTCHead(config, self.model.out_channels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> TextRecognitionOutput:
        """Score the characters of each frame.

        Args:
            pixel_values: (B, C, H, W) normalised images, W a multiple of 4.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            labels: (B, L) character ids padded with -100; give the loss.
            output_hidden_states: return the feature maps of the encoder's stages.
            output_attentions: return the ViT's attention weights.
            kwargs: options of the library's loops that do not concern this model.

        Returns:
            `loss`, `logits` (B, T, V), `frame_mask` (B, T) or None, and what was asked for.

        Raises:
            ValueError: for unusable images, label ids outside the vocabulary, or labels longer than the
                frames.
        """
        encoded = self.model(
            pixel_values,
            pixel_mask=pixel_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        output = self.head(encoded.last_hidden_state, encoded.frame_mask, labels)
        output.hidden_states = encoded.hidden_states
        output.attentions = encoded.attentions
        return output


class ForConditionalGeneration(TextRecognitionPreTrainedModel, GenerationMixin):
    """Encoder and attention head; `generate()` gives greedy search, beams and sampling."""

    model_class: type[TextRecognitionModel] = TextRecognitionModel
    _is_stateful = True

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build; the configuration must name the attention decoder."""
        super().__init__(config)
        if config.decoder_type != "attention":
            raise ValueError(
                f"{type(self).__name__} reads with attention, the configuration has "
                f"decoder_type={config.decoder_type!r}; "
                "use the ForTextRecognition class, or set decoder_type='attention'."
            )
        self.model = self.model_class(config)
        self.head = AttentionHead(config, self.model.out_channels)
        self.post_init()
        self.complete_generation_config()

    def complete_generation_config(self) -> None:
        """Fill in what `generate()` needs and a checkpoint of another class lacks: special ids, a length."""
        options = self.generation_config
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(options, name) is None:
                setattr(options, name, getattr(self.config, name))
        if options.max_new_tokens is None and options.max_length is None:
            options.max_new_tokens = self.config.max_text_length + 1  # the end token counts

    def get_encoder(self, modality: str | None = None) -> nn.Module:  # noqa: ARG002
        """Return the part that `generate()` runs once."""
        return self.model

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Say that the state between steps is the LSTM's, not a key-value cache."""
        return False

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: EncoderOutput | None = None,
        past_key_values: LSTMDecoderState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Seq2SeqLMOutput:
        """Score the character that follows each decoder input.

        Args:
            pixel_values: (B, C, H, W) normalised images; not needed with `encoder_outputs`.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right.
            decoder_input_ids: (B, L) ids read so far, the start token first; made from `labels` when absent.
            encoder_outputs: what `get_encoder()` gave for these images.
            past_key_values: the decoder's state after the ids before `decoder_input_ids`.
            labels: (B, L) character ids and the end token, padded with -100; give the loss.
            use_cache: return the state in `past_key_values`.
            output_hidden_states: return the feature maps of the encoder's stages.
            output_attentions: return the attention over frames, one (B, 1, L, T) tensor in
                `cross_attentions`, and the ViT's attention weights (attention implementation "eager").
            kwargs: options of the library's loops that do not concern this model.

        Returns:
            `loss` (mean cross-entropy per character, nats), `logits` (B, L, V), and what was asked for.

        Raises:
            ValueError: for unusable images or label ids, or when there is nothing to decode.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if encoder_outputs is None:
            if pixel_values is None:
                raise ValueError("give `pixel_values`, or `encoder_outputs` of `get_encoder()`.")
            encoder_outputs = self.model(
                pixel_values,
                pixel_mask=pixel_mask,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
            )
        feature_map, start = encoder_outputs.last_hidden_state, self.config.decoder_start_token_id
        assert feature_map is not None
        assert start is not None
        if labels is not None:
            reserved = (self.config.pad_token_id, self.config.bos_token_id)
            check_labels(labels, len(feature_map), self.config.vocab_size, reserved)
            if decoder_input_ids is None:
                decoder_input_ids = shift_right(labels, start, self.config.pad_token_id)
        if decoder_input_ids is None:
            raise ValueError(
                "give `labels` for a loss or `decoder_input_ids` for scores, or call `generate()`."
            )
        state = past_key_values
        if state is None:
            state = self.head.start(feature_map, encoder_outputs.frame_mask)
        decoded = self.head(decoder_input_ids, state)
        return Seq2SeqLMOutput(
            loss=None if labels is None else attention_loss(decoded.logits, labels),
            logits=decoded.logits,
            past_key_values=state if use_cache else None,  # type: ignore[arg-type]
            cross_attentions=(decoded.attention[:, None],) if output_attentions else None,
            encoder_last_hidden_state=feature_map,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        decoder_input_ids: Tensor,
        past_key_values: LSTMDecoderState | None = None,
        encoder_outputs: EncoderOutput | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Choose what one step of `generate()` reads: the ids that the state has not seen."""
        if past_key_values is not None:
            decoder_input_ids = decoder_input_ids[:, past_key_values.get_seq_length() :]
        return {
            "decoder_input_ids": decoder_input_ids,
            "past_key_values": past_key_values,
            "encoder_outputs": encoder_outputs,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
        }
