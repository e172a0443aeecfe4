"""The shared configuration: what follows from what, what is refused and how, what survives a file."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from modeling_rcmstr.configuration_persec import PerSecConfig
from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.configuration_text_recognition import TextRecognitionConfig
from tests.recognisers import COMBINATIONS

PACKAGE = Path(__file__).resolve().parent.parent / "modeling_rcmstr"
OWN_FIELDS = sorted(
    {f.name for f in fields(TextRecognitionConfig)} - {f.name for f in fields(PreTrainedConfig)}
)
combinations = pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
both = pytest.mark.parametrize("config_class", [RCMSTRConfig, PerSecConfig])


# ------------------------------------------------------------------ what follows from what


@both
def test_decoder_type_decides_whether_there_is_a_decoder(config_class: Any) -> None:
    ctc, attention = config_class(), config_class(decoder_type="attention")
    assert not ctc.is_encoder_decoder
    assert attention.is_encoder_decoder
    assert (ctc.bos_token_id, ctc.eos_token_id, ctc.decoder_start_token_id) == (None, None, None)
    assert (attention.pad_token_id, attention.bos_token_id, attention.eos_token_id) == (0, 1, 2)
    assert attention.decoder_start_token_id == 1
    assert config_class(decoder_type="attention", bos_token_id=4).decoder_start_token_id == 4
    assert config_class(decoder_type="attention", decoder_start_token_id=2).decoder_start_token_id == 2


@both
def test_a_file_cannot_contradict_the_decoder_type(config_class: Any) -> None:
    assert not config_class(is_encoder_decoder=True).is_encoder_decoder
    assert config_class(is_encoder_decoder=False, decoder_type="attention").is_encoder_decoder


@both
@pytest.mark.parametrize("auto", [False, True])
def test_loading_with_changes_is_constructing_with_them(
    config_class: Any, auto: bool, tmp_path: Path
) -> None:
    """`decoder_type` in particular has consequences, and a bad change is refused like a bad field."""
    config_class(max_text_length=9).save_pretrained(tmp_path)
    load = AutoConfig.from_pretrained if auto else config_class.from_pretrained
    changes = {"decoder_type": "attention", "vocab_size": 40, "depths": [1, 1, 1, 1]}
    loaded, expected = load(tmp_path, **changes), config_class(max_text_length=9, **changes)
    assert loaded.is_encoder_decoder
    assert loaded.eos_token_id == 2
    without_name = [{**one.to_dict(), "_name_or_path": ""} for one in (loaded, expected)]
    assert without_name[0] == without_name[1]
    with pytest.raises(
        StrictDataclassError, match="`decoder_type` must be one of ctc, attention, got 'lstm'"
    ):
        load(tmp_path, decoder_type="lstm")
    config, unused = load(tmp_path, decoder_type="attention", foo=3, return_unused_kwargs=True)
    assert config.is_encoder_decoder
    assert unused == {"foo": 3}


# ------------------------------------------------------------------ files


@combinations
def test_configuration_survives_a_file(
    family: str, encoder: str, decoder: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_config(family, encoder, decoder)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == family
    assert set(OWN_FIELDS) <= set(saved)  # defaults of today are written out for tomorrow
    for copy in (type(config).from_dict(config.to_dict()), type(config)(**config.to_diff_dict())):
        assert {**copy.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == saved


@both
def test_pipeline_entry_of_a_published_folder_is_for_readers_without_the_package(config_class: Any) -> None:
    entry = {"text-recognition": {"impl": "pipeline_text_recognition.TextRecognitionPipeline"}}
    assert not hasattr(config_class(custom_pipelines=entry), "custom_pipelines")
    remote = type("Remote", (config_class,), {"__module__": "transformers_modules.folder.configuration"})
    assert remote(custom_pipelines=entry).custom_pipelines == entry


def test_trainer_is_told_which_outputs_differ_in_shape_from_batch_to_batch(tmp_path: Path) -> None:
    ignored = RCMSTRConfig().keys_to_ignore_at_inference
    assert {"past_key_values", "frame_mask", "encoder_last_hidden_state"} <= set(ignored)
    assert not {"loss", "logits"} & set(ignored)
    RCMSTRConfig().save_pretrained(tmp_path)
    assert "keys_to_ignore_at_inference" not in (tmp_path / "config.json").read_text()


# ------------------------------------------------------------------ unknown fields


@both
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("hiden_size", "hidden_size"),
        ("decoder", "decoder_type"),
        ("headHiddenSize", None),
        ("image_sizes", "image_size"),
        ("learning_rate", None),
    ],
)
def test_unknown_field_is_refused_with_its_neighbours(config_class: Any, name: str, near: str | None) -> None:
    hint = rf" \(did you mean .*`{near}`" if near else ""
    with pytest.raises(
        ValueError, match=f"{config_class.__name__} has no field `{name}`{hint}.*Its fields: "
    ):
        config_class(**{name: 3})
    with pytest.raises(ValueError, match="correct the name or remove it"):
        config_class.from_dict({"model_type": config_class.model_type, name: 3})


def test_all_unknown_fields_are_named_at_once() -> None:
    unknown: dict[str, Any] = {"one": 1, "hiden_size": 2, "three": 3}
    with pytest.raises(ValueError, match="no field `one`, `hiden_size` .*, `three`;"):
        RCMSTRConfig(**unknown)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transformers_version", "5.0.0"),
        ("architectures", ["RCMSTRModel"]),
        ("auto_map", {"AutoModel": "modeling_rcmstr.RCMSTRModel"}),
        ("dtype", "float16"),
        ("torch_dtype", "float16"),
        ("_name_or_path", "somewhere"),
        ("name_or_path", "somewhere"),
        ("_commit_hash", "abc"),
        ("custom_pipelines", {}),
        ("attn_implementation", "eager"),
        ("_attn_implementation", "eager"),
        ("_attn_implementation_internal", "eager"),
        ("output_attentions", False),
        ("output_hidden_states", True),
        ("return_dict", True),
        ("id2label", {"0": "a"}),
        ("label2id", {"a": 0}),
        ("num_labels", 3),
        ("problem_type", None),
        ("use_cache", False),
        ("quantization_config", {"quant_method": "torchao"}),
        ("tokenizer_class", "CharacterTokenizer"),
        ("processor_class", "TextRecognitionProcessor"),
        ("transformers.js_config", {}),
        ("max_length", 30),
        ("num_beams", 3),
        ("model_type", "rcmstr"),
    ],
)
def test_what_the_library_writes_is_let_through(
    config_class: Any, name: str, value: Any, tmp_path: Path
) -> None:
    config_class().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    value = config_class.model_type if name == "model_type" else value
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert config_class.from_pretrained(tmp_path).hidden_size == 384


def test_what_a_trainer_sets_can_be_saved_and_loaded(tmp_path: Path) -> None:
    config = RCMSTRConfig()
    config.use_cache = False
    config.dtype = "bfloat16"
    config.architectures = ["RCMSTRForTextRecognition"]
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["RCMSTRForTextRecognition"]


# ------------------------------------------------------------------ values


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_type": "resnet"}, "`encoder_type` must be one of cnn, vit, got 'resnet'"),
        ({"cnn_type": "resnet50"}, "`cnn_type` must be one of trba, resnet45, got 'resnet50'"),
        ({"decoder_type": "rnn"}, "must be one of ctc, attention"),
        ({"rectifier_type": "stn"}, "must be one of none, tps"),
        ({"rectifier_initialization": "random"}, "must be one of identity, curved"),
        ({"position_embedding_type": "rope"}, "must be one of sincos, learned"),
        ({"decoder_input": "rows"}, "must be one of columns, tokens"),
        ({"hidden_act": "gelou"}, "`hidden_act` must be one of .*gelu.*, got 'gelou'"),
        ({"image_size": (32,)}, r"must be \(height, width\)"),
        ({"image_size": (48, 100)}, "height of 32 to one row, got height 48; use 32"),
        ({"image_size": (32, 98)}, "must be a multiple of `patch_size` 4"),
        ({"encoder_type": "vit", "image_size": (30, 100)}, "must be a multiple of `patch_size` 4"),
        ({"encoder_type": "vit", "patch_size": 0}, "`patch_size` 0"),
        ({"patch_size": 8}, "stride 4, got `patch_size` 8; use 4"),
        ({"embedding_sizes": (32,)}, "`embedding_sizes` must be 2 positive numbers"),
        ({"hidden_sizes": (1, 2, 3)}, "`hidden_sizes` must be 4 positive numbers"),
        ({"depths": (1, 2, 0, 3)}, "`depths` must be 4 positive numbers"),
        (
            {"cnn_type": "resnet45", "embedding_sizes": (32, 64)},
            "`embedding_sizes` must be 1 positive number ",
        ),
        (
            {"cnn_type": "resnet45", "hidden_sizes": (128, 256, 512, 512)},
            "`hidden_sizes` must be 5 positive numbers with `cnn_type='resnet45'`",
        ),
        ({"cnn_type": "resnet45", "depths": (1, 2, 5, 3)}, "`depths` must be 5 .* published .3, 4, 6, 6, 3."),
        ({"cnn_type": "resnet45", "image_size": (30, 100)}, "must be a multiple of `patch_size` 4"),
        ({"num_channels": 0}, "`num_channels` must be positive"),
        ({"max_text_length": 0}, "`max_text_length` must be positive"),
        ({"head_bilstm_layers": -1}, "`head_bilstm_layers` must be 0 or more, got -1"),
        ({"hidden_dropout_prob": 1.0}, "`hidden_dropout_prob` must be at least 0 and below 1, got 1.0"),
        ({"attention_probs_dropout_prob": -0.1}, "at least 0 and below 1"),
        ({"num_fiducial_points": 7}, "even and at least 4, got 7"),
        (
            {"encoder_type": "vit", "num_attention_heads": 5},
            "384 must be divisible by `num_attention_heads` 5",
        ),
        (
            {"encoder_type": "vit", "hidden_size": 30, "position_embedding_type": "sincos"},
            "divisible by 4, got 30",
        ),
        ({"vocab_size": 1}, "`vocab_size` must be at least 2"),
        (
            {"pad_token_id": 3},
            "`pad_token_id` must be 0 .the CTC blank., got 3|must be 0 .it is the CTC blank",
        ),
        ({"decoder_type": "attention", "eos_token_id": 1}, "must differ and lie in 0..94"),
        ({"decoder_type": "attention", "eos_token_id": 95}, "must differ and lie in 0..94"),
        ({"decoder_type": "attention", "decoder_start_token_id": 95}, "0..94, got 95; use `bos_token_id`, 1"),
        ({"decoder_input": "tokens"}, "for the attention head without LSTM layers"),
        (
            {"decoder_type": "attention", "decoder_input": "tokens", "head_bilstm_layers": 2},
            "set `decoder_type='attention'` and `head_bilstm_layers=0`",
        ),
        (
            {
                "decoder_type": "attention",
                "decoder_input": "tokens",
                "head_bilstm_layers": 0,
                "encoder_bilstm_layers": 1,
            },
            "needs `encoder_bilstm_layers=0`",
        ),
    ],
)
def test_unusable_value_is_refused_with_the_rule(
    config_class: Any, changes: dict[str, Any], message: str
) -> None:
    changes = {"num_attention_heads": 6, **changes}
    if changes.get("hidden_size"):
        changes["num_attention_heads"] = 2
    with pytest.raises(StrictDataclassError, match=message):
        config_class(**changes)


@both
@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "384"}, {"depths": 5}, {"qkv_bias": 3}, {"encoder_type": 1}, {"vocab_size": 9.5}],
)
def test_value_of_another_type_is_refused(config_class: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassError, match=next(iter(changes))):
        config_class(**changes)


@both
def test_settings_of_the_other_encoder_are_not_judged(config_class: Any) -> None:
    assert config_class(encoder_type="cnn", num_attention_heads=5).num_attention_heads == 5
    assert config_class(encoder_type="vit", image_size=(48, 96), patch_size=8).patch_size == 8


# ------------------------------------------------------------------ the fields themselves


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_every_field_is_described_and_read(name: str) -> None:
    assert re.search(rf"^ +{name}: ", TextRecognitionConfig.__doc__ or "", flags=re.MULTILINE)
    readers = [
        path.stem
        for path in PACKAGE.glob("*.py")
        if not path.stem.startswith("configuration_") and re.search(rf"\b{name}\b", path.read_text())
    ]
    assert readers, "a field that nothing reads is a promise that nobody keeps"


def test_defaults_are_the_papers_recogniser() -> None:
    """Specification 2.3: TRBA's ResNet at 32x100, two LSTM layers of 256."""
    config = RCMSTRConfig()
    assert tuple(config.image_size) == (32, 100)
    assert config.embedding_sizes == (32, 64)
    assert config.hidden_sizes == (128, 256, 512, 512)
    assert config.depths == (1, 2, 5, 3)
    assert (config.head_bilstm_layers, config.head_hidden_size) == (2, 256)
    assert (config.num_fiducial_points, config.max_text_length) == (20, 25)
    # Specification 2.4 and DiG: ViT-Small on 4x4 patches.
    assert (config.patch_size, config.hidden_size, config.num_hidden_layers) == (4, 384, 12)
    assert (config.num_attention_heads, config.intermediate_size, config.layer_norm_eps) == (6, 1536, 1e-6)


@both
def test_resnet45_has_sizes_of_its_own(config_class: Any, tmp_path: Path) -> None:
    """Specification 2.3: ABINet's; what is given stands, and a file keeps what it says."""
    config = config_class(cnn_type="resnet45", image_size=(48, 128), depths=[1, 1, 1, 1, 1])
    assert config.embedding_sizes == (32,)
    assert config.hidden_sizes == (32, 64, 128, 256, 512)
    assert config.depths == [1, 1, 1, 1, 1]
    assert config_class(cnn_type="resnet45").depths == (3, 4, 6, 6, 3)
    config.save_pretrained(tmp_path)
    loaded = config_class.from_pretrained(tmp_path)
    assert loaded.cnn_type == "resnet45"
    assert (loaded.hidden_sizes, loaded.depths) == ([32, 64, 128, 256, 512], [1, 1, 1, 1, 1])
    assert [
        config_class(**fields).has_centered_frames
        for fields in ({}, {"cnn_type": "resnet45"}, {"encoder_type": "vit"})
    ] == [True, False, False]


def test_a_file_from_before_there_was_a_choice_means_trba() -> None:
    folder = PACKAGE / "checkpoints" / "default"
    assert "cnn_type" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = RCMSTRConfig.from_pretrained(folder)
    assert config.cnn_type == "trba"
    assert config.hidden_sizes == [32, 64, 128, 160]


def test_persec_counts_its_lstm_layers_to_the_encoder() -> None:
    """Specification 2.2 and 2.3: two layers after the CNN, learned rows and columns for the ViT, 32x128."""
    config = PerSecConfig()
    assert tuple(config.image_size) == (32, 128)
    assert (config.encoder_bilstm_layers, config.encoder_bilstm_size) == (2, 256)
    assert (config.head_bilstm_layers, config.head_feature_gate) == (0, False)
    assert config.position_embedding_type == "learned"
    assert PerSecConfig(encoder_type="vit").encoder_bilstm_layers == 0
