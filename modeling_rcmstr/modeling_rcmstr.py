"""The models of RCMSTR (arXiv:2411.11219): relational contrastive learning and masked image modelling for scene text recognition."""

from .configuration_rcmstr import RCMSTRConfig
from .modeling_text_recognition import (
    ForConditionalGeneration,
    ForTextRecognition,
    TextRecognitionModel,
    TextRecognitionPreTrainedModel,
)


class RCMSTRPreTrainedModel(TextRecognitionPreTrainedModel):
    """What every RCMSTR model shares."""

    config: RCMSTRConfig


class RCMSTRModel(RCMSTRPreTrainedModel, TextRecognitionModel):
    """The RCMSTR encoder: words in, feature map out."""


class RCMSTRForTextRecognition(RCMSTRPreTrainedModel, ForTextRecognition):
    """RCMSTR encoder with a CTC head."""

    model_class = RCMSTRModel


class RCMSTRForConditionalGeneration(RCMSTRPreTrainedModel, ForConditionalGeneration):
    """RCMSTR encoder with an attention head and `generate()`."""

    model_class = RCMSTRModel
