"""Configuration of RCMSTR (arXiv:2411.11219)."""

from huggingface_hub.dataclasses import strict

from .configuration_text_recognition import TextRecognitionConfig


@strict
class RCMSTRConfig(TextRecognitionConfig):
    """Configuration of an RCMSTR model. The defaults are the papers' recogniser: TRBA's ResNet at 32x100 and CTC.

    All fields are those of `TextRecognitionConfig`; here the two LSTM layers belong to the head, as in the evaluation
    protocol of the papers (arXiv:2308.00508, Table 1).
    """

    model_type = "rcmstr"
