"""Recognisers of PerSec (AAAI 2022, doi:10.1609/aaai.v36i2.20062); pretraining: `pretraining_persec`."""

from .configuration_persec import PerSecConfig
from .modeling_text_recognition import (
    ForConditionalGeneration,
    ForTextRecognition,
    TextRecognitionModel,
    TextRecognitionPreTrainedModel,
)


class PerSecPreTrainedModel(TextRecognitionPreTrainedModel):
    """What every PerSec model shares."""

    config: PerSecConfig
    # A recogniser that starts from a pretraining checkpoint leaves the perceivers behind.
    _keys_to_ignore_on_load_unexpected = [r"^(stroke|semantic)_perceiver\."]


class PerSecModel(PerSecPreTrainedModel, TextRecognitionModel):
    """The PerSec encoder: words in, feature map out."""


class PerSecForTextRecognition(PerSecPreTrainedModel, ForTextRecognition):
    """PerSec encoder with a CTC head."""

    model_class = PerSecModel


class PerSecForConditionalGeneration(PerSecPreTrainedModel, ForConditionalGeneration):
    """PerSec encoder with an attention head and `generate()`."""

    model_class = PerSecModel
