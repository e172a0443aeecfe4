"""What every model of the package shares: how weights start, and what a checkpoint must bring.

The library starts missing weights at random and only warns. Here a checkpoint that lacks weights is refused,
unless it is meant to lack them.
"""

import os
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .configuration_text_recognition import TextRecognitionConfig
from .encoder_vit import ViTEncoder
from .rectification import ControlPoints


class TextRecognitionPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what loading needs to know."""

    config: TextRecognitionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    # The losses are means of their own batch, so a Trainer divides them by its gradient accumulation steps.
    accepts_loss_kwargs = False
    _no_split_modules = ["ViTLayer", "ResidualBlock", "ResNet45Block"]
    _supports_sdpa = True
    _supports_attention_backend = True
    # A counter that nothing reads, and the token of masked image modelling.
    _keys_to_ignore_on_load_missing = [r"num_batches_tracked$", r"mask_token$"]
    # Names of weights that started anew when the model was loaded, until it trains; a pipeline refuses them.
    untrained_weights: frozenset[str] = frozenset()

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that takes pixels."""
        encoder: Any = self.base_model.encoder
        return encoder.stem[0].convolution if self.config.encoder_type == "cnn" else encoder.patch_embedding

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint as the library does, and refuse one that lacks weights, which would be random.

        The head may start anew when the checkpoint is of another class (a pretrained encoder, another head),
        and every part but the encoder with `ignore_mismatched_sizes=True`.

        Args:
            pretrained_model_name_or_path: folder, or name of a repository on the Hub.
            args: passed on.
            kwargs: the library's options, and fields of the configuration to change.

        Raises:
            ValueError: when the checkpoint lacks weights that may not start anew.
        """
        replaces = kwargs.get("ignore_mismatched_sizes", False)
        wants_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        is_own = cls.__name__ in (model.config.architectures or ())
        prefix = "" if model.base_model is model else f"{cls.base_model_prefix}."

        def may_start_anew(key: str) -> bool:
            if key.startswith(prefix):
                return replaces and key.removeprefix(prefix).startswith(("rectifier.", "recurrent."))
            return replaces or not is_own

        missing = sorted(key for key in info["missing_keys"] if not may_start_anew(key))
        if missing:
            shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise ValueError(
                f"the checkpoint {str(pretrained_model_name_or_path)!r} lacks {len(missing)} of the weights "
                f"that {cls.__name__} needs: {shown}. Use a complete checkpoint of this class; to train "
                "a new head, load a whole encoder or pass `ignore_mismatched_sizes=True`."
            )
        model.untrained_weights = frozenset(info["missing_keys"]).union(
            key for key, *_ in info["mismatched_keys"]
        )
        if model.can_generate():
            model.complete_generation_config()
        return (model, info) if wants_info else model

    def train(self, mode: bool = True) -> Any:
        """Set the mode; from the first training on, no weight counts as untrained."""
        if mode:
            self.untrained_weights = frozenset()
        return super().train(mode)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module with tensors of its own (others never come here); loaded tensors stay."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LSTM, nn.LSTMCell)):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, ControlPoints):
            init.zeros_(module.weight)
            init.copy_(module.bias, module.initial_bias())
        elif isinstance(module, nn.Linear):
            # The ViT's own layers start as ViTs do; so small, the LSTM layers of a head would start mute.
            in_vit = self.base_model is self and self.config.encoder_type == "vit"
            std = 0.02 if in_vit else module.in_features**-0.5
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ViTEncoder):
            if module.mask_token is not None:
                init.trunc_normal_(module.mask_token, std=0.02)
        else:
            super()._init_weights(module)
