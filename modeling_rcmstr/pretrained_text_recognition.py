"""What every model of the package shares: how weights start, what a checkpoint must bring, other charsets.

The library starts missing weights at random and only warns. Here a checkpoint that lacks weights is refused,
unless it is meant to lack them.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file

from .charset_mapping import CharsetChange, map_vocabulary
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
    # Token → id of the head, where it is known: after `resize_charset`.
    vocabulary: Mapping[str, int] | None = None
    # Whether the folder or repository that the model was loaded from holds the tokenizer of its head.
    has_head_of_checkpoint: bool = False
    # What the last `resize_charset` did.
    charset_change: CharsetChange | None = None

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
        model.has_head_of_checkpoint = not any(key.startswith("head.") for key in model.untrained_weights)
        if model.can_generate():
            model.complete_generation_config()
        return (model, info) if wants_info else model

    def train(self, mode: bool = True) -> Any:
        """Set the mode; from the first training on, no weight counts as untrained."""
        if mode:
            self.untrained_weights = frozenset()
        return super().train(mode)

    @torch.no_grad()
    def resize_charset(
        self, tokenizer: Any, previous: Any = None, allow_dropping: bool = False
    ) -> CharsetChange:
        """Give a recogniser the charset of another tokenizer, before it is trained on it.

        Every character keeps its weights bit for bit, wherever the new tokenizer has it; special tokens
        likewise. How new characters begin, and why every word is read as before until they are trained, says
        `charset_mapping`. The configuration's and the generation's ids follow. No weights of a recogniser are
        tied. An optimiser that was made before holds weights that are none of the model's any more; make it
        afterwards.

        Args:
            tokenizer: of the new charset, for example `processor.tokenizer.extended("äöü")`; save it beside
                the model.
            previous: the tokenizer of the charset as it is; None reads the one beside the checkpoint that the
                model was loaded from, or takes that of the last change.
            allow_dropping: whether characters that the new tokenizer lacks are forgotten.

        Returns:
            The characters kept, added and dropped.

        Raises:
            TypeError: for a model without a head.
            ValueError: for a tokenizer of another kind of head, one whose ids are not 0, 1, 2 …, a charset
                that is not the model's, none to be found, or one that would drop characters unasked.
        """
        head: Any = getattr(self, "head", None)
        if head is None or not hasattr(head, "resize_vocabulary"):
            raise TypeError(
                f"{type(self).__name__} has no head and so no charset; `resize_charset` is for "
                "the ForTextRecognition and ForConditionalGeneration classes."
            )
        new = self._checked_vocabulary("tokenizer", tokenizer.get_vocab())
        if previous is not None:
            old = self._checked_vocabulary("previous", previous.get_vocab())
        else:
            old = self._checked_vocabulary("previous", self.vocabulary or self._vocabulary_of_checkpoint())
        if len(old) != self.config.vocab_size:
            raise ValueError(
                f"the model has {self.config.vocab_size} classes, the tokenizer of its charset {len(old)}: "
                "they are not of one recogniser; give the model's own as `previous`."
            )
        mapping = map_vocabulary(old, new)
        if mapping.change.dropped and not allow_dropping:
            raise ValueError(
                f"the tokenizer lacks {', '.join(map(repr, mapping.change.dropped))}, which the model reads; "
                "extend its own with `tokenizer.extended(…)`, or pass `allow_dropping=True` to forget them."
            )
        head.resize_vocabulary(mapping)
        self.vocabulary, self.charset_change = new, mapping.change
        self.config.vocab_size = len(new)
        if self.can_generate():
            names = {"pad_token_id": "<pad>", "bos_token_id": "<s>", "eos_token_id": "</s>"}
            for name, token in {**names, "decoder_start_token_id": "<s>"}.items():
                setattr(self.config, name, new[token])
                setattr(self.generation_config, name, new[token])
        return mapping.change

    def _checked_vocabulary(self, name: str, vocabulary: Mapping[str, int]) -> dict[str, int]:
        """A vocabulary in the order of its ids, refused where it is none of this model's kind of head."""
        ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
        special = [token for token in ordered if len(token) != 1 and token != "<unk>"]
        wanted = ["<pad>", "<s>", "</s>"] if self.config.decoder_type == "attention" else ["<pad>"]
        if special != wanted or list(ordered)[: len(wanted)] != wanted:
            raise ValueError(
                f"`{name}` must begin with {', '.join(wanted)} and hold single characters otherwise (and "
                f"perhaps <unk>) for a head of decoder_type {self.config.decoder_type!r}, its longer tokens "
                f"are {', '.join(special) or 'none'}; make it with "
                f"`CharacterTokenizer(for_attention={self.config.decoder_type == 'attention'})`."
            )
        if list(ordered.values()) != list(range(len(ordered))):
            raise ValueError(
                f"the ids of `{name}` must be 0, 1, 2 … without gaps, got {len(ordered)} others."
            )
        return ordered

    def _vocabulary_of_checkpoint(self) -> dict[str, int]:
        """Read the vocabulary beside the checkpoint that the model was loaded from."""
        place, path = self.config.name_or_path, None
        if place and self.has_head_of_checkpoint:
            path = cached_file(
                place,
                "vocab.json",
                revision=getattr(self.config, "_commit_hash", None),
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        if path is None:
            raise ValueError(
                "the model does not know its characters: "
                + (f"there is no vocab.json of its head beside {place!r}" if place else "it was not loaded")
                + "; give the tokenizer of its charset as `previous`."
            )
        with open(path, encoding="utf-8") as file:
            vocabulary: dict[str, int] = json.load(file)
        return vocabulary

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
