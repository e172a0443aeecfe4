"""Configuration of PerSec (AAAI 2022, doi:10.1609/aaai.v36i2.20062)."""

from huggingface_hub.dataclasses import strict

from .configuration_text_recognition import TextRecognitionConfig


@strict
class PerSecConfig(TextRecognitionConfig):
    """Configuration of a PerSec model. The defaults are TRBA's ResNet with two LSTM layers inside the encoder, at 32x128.

    All fields are those of `TextRecognitionConfig`. Unlike RCMSTR, the recurrent layers are pretrained and therefore part of
    the encoder, and the heads read its frames directly.
    """

    model_type = "persec"

    image_size: list[int] | tuple[int, ...] = (32, 128)
    position_embedding_type: str = "learned"
    encoder_bilstm_layers: int = 2
    head_bilstm_layers: int = 0
    head_feature_gate: bool = False
