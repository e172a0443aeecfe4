"""Recognisers of RCMSTR (arXiv:2411.11219); pretraining: `pretraining_rcmstr`."""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_rcmstr import RCMSTRConfig
from .modeling_text_recognition import (
    ForConditionalGeneration,
    ForTextRecognition,
    TextRecognitionModel,
    TextRecognitionPreTrainedModel,
)
from .sparse_convolution import SparseBatchNorm2d


class RCMSTRPreTrainedModel(TextRecognitionPreTrainedModel):
    """What every RCMSTR model shares."""

    config: RCMSTRConfig
    # A recogniser that starts from a pretraining checkpoint leaves everything but the encoder behind.
    _keys_to_ignore_on_load_unexpected: set[str] | list[str] | None = [
        r"^(projector|predictors|reconstruction_head)\.",
        r"encoder\.mask_token$",
        r"\.masked_running_(mean|var)$",
    ]
    # Running statistics of masked passes start anew when a configuration asks for them later.
    _keys_to_ignore_on_load_missing = [
        *TextRecognitionPreTrainedModel._keys_to_ignore_on_load_missing,
        r"\.masked_running_(mean|var)$",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; tensors that were loaded are left alone."""
        super()._init_weights(module)
        if isinstance(module, SparseBatchNorm2d) and module.masked_running_mean is not None:
            assert module.masked_running_var is not None
            init.zeros_(module.masked_running_mean)
            init.ones_(module.masked_running_var)


class RCMSTRModel(RCMSTRPreTrainedModel, TextRecognitionModel):
    """The RCMSTR encoder: words in, feature map out."""


class RCMSTRForTextRecognition(RCMSTRPreTrainedModel, ForTextRecognition):
    """RCMSTR encoder with a CTC head."""

    model_class = RCMSTRModel


class RCMSTRForConditionalGeneration(RCMSTRPreTrainedModel, ForConditionalGeneration):
    """RCMSTR encoder with an attention head and `generate()`."""

    model_class = RCMSTRModel
