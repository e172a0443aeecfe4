"""RCMSTR's configuration: published rows, levels from weights, one worded error per rule, saving."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig

# Row of RCLSTR's Table 1: views, InfoNCE and consistency weights (frame, sub-word, word), interaction.
ROWS = {
    "seqmoco_without_kl": ("plain", (0, 1, 0), (0, 0, 0), 0),
    "seqmoco": ("plain", (0, 1, 0), (0, 0.3, 0), 0),
    "reg": ("both", (0, 1, 0), (0, 0.3, 0), 0),
    "hier": ("both", (1, 1, 1), (0.3, 0.3, 0.3), 0),
    "rclstr": ("both", (1, 1, 1), (0.3, 0.3, 0.3), 0.3),
}


@pytest.mark.parametrize("name", list(ROWS))
def test_presets_are_the_published_rows(name: str) -> None:
    config = RCMSTRConfig.preset(name)
    found = (
        config.query_views,
        tuple(config.contrastive_weights),
        tuple(config.consistency_weights),
        config.inter_consistency_weight,
    )
    assert found == ROWS[name]
    assert config.inter_contrastive_weight == 0
    assert config.reconstruction_weight == 0
    assert (config.num_subwords, config.blocks_per_image, config.images_per_group) == (4, 2, 2)
    assert (config.contrastive_temperature, config.consistency_temperature) == (0.07, 0.04)
    assert (config.projector_layers, config.projector_size, config.projection_dim) == (2, 256, 128)


def test_rcmstr_is_the_default_and_rclstr_with_the_masked_branch() -> None:
    assert RCMSTRConfig.preset("rcmstr").to_dict() == RCMSTRConfig().to_dict()
    with_branch = RCMSTRConfig.preset("rclstr", reconstruction_weight=1.0)
    assert with_branch.to_dict() == RCMSTRConfig().to_dict()
    assert set(RCMSTRConfig.presets()) == {*ROWS, "rcmstr", "mim"}


def test_masked_branch_has_the_figures_defaults() -> None:
    config = RCMSTRConfig()
    assert (config.mask_unit, config.mask_ratio, config.mask_num_blocks, config.mask_block_width) == (
        4,
        0.7,
        1,
        4,
    )
    assert (config.normalize_targets, config.decouple, config.masked_batch_norm) == (
        True,
        True,
        "batch_no_update",
    )
    assert config.kl_reduction == "batchmean"
    assert config.reconstruction_size == 256
    assert RCMSTRConfig(encoder_type="vit", image_size=(32, 128)).reconstruction_size == 192
    assert RCMSTRConfig(encoder_type="vit", image_size=(32, 128), patch_size=8).mask_unit == 8


def test_presets_take_further_fields_and_leave_the_table_alone() -> None:
    config = RCMSTRConfig.preset("seqmoco", num_subwords=5, query_views="both")
    assert (config.num_subwords, config.query_views) == (5, "both")
    RCMSTRConfig.presets()["seqmoco"]["query_views"] = "rearranged"
    assert RCMSTRConfig.preset("seqmoco").query_views == "plain"
    with pytest.raises(ValueError, match="unknown preset 'moco'; known: seqmoco_without_kl, seqmoco, reg"):
        RCMSTRConfig.preset("moco")


def test_levels_follow_from_the_weights() -> None:
    config = RCMSTRConfig()
    assert config.key_levels == config.query_levels == ("frame", "subword", "word")
    assert config.inter_pairs == (("frame", "subword"), ("subword", "word"))
    assert RCMSTRConfig.preset("seqmoco").key_levels == ("subword",)
    assert RCMSTRConfig.preset("mim").key_levels == RCMSTRConfig.preset("mim").query_levels == ()
    # Frames are queries of the sub-words' terms, without keys of their own.
    only = RCMSTRConfig(
        contrastive_weights=(0, 1, 0),
        consistency_weights=(0, 0, 0),
        inter_hierarchical_pairs=("frame_to_subword",),
    )
    assert only.key_levels == ("subword",)
    assert only.query_levels == ("frame", "subword")
    assert set(only.loss_weights) == {"subword_contrastive", "frame_to_subword_consistency", "reconstruction"}


def test_saved_configuration_is_the_same(tmp_path: Path) -> None:
    config = RCMSTRConfig.preset("reg", mask_ratio=0.5, contrastive_weights=[0, 2, 0])
    config.save_pretrained(tmp_path)
    again = RCMSTRConfig.from_pretrained(tmp_path)
    assert again.loss_weights == config.loss_weights
    differing = {
        k for k, v in config.to_dict().items() if again.to_dict()[k] != v and not isinstance(v, tuple)
    }
    assert differing == set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_views": "all"}, "`query_views` must be one of plain, rearranged, both, either, got 'all'"),
        ({"kl_reduction": "sum"}, "`kl_reduction` must be one of batchmean, mean"),
        ({"masked_batch_norm": "none"}, "`masked_batch_norm` must be one of batch_no_update"),
        ({"inter_hierarchical_pairs": ("word_to_frame",)}, "`inter_hierarchical_pairs` must name"),
        (
            {"inter_hierarchical_pairs": ("frame_to_word",) * 2},
            "`inter_hierarchical_pairs` must name different",
        ),
        ({"projection_dim": 0}, "`projection_dim` must be positive, got 0"),
        ({"projector_size": -1}, "`projector_size` must be positive"),
        ({"num_subwords": 0}, "`num_subwords` must be positive"),
        ({"blocks_per_image": 0}, "`blocks_per_image` must be positive"),
        ({"images_per_group": 0}, "`images_per_group` must be positive"),
        ({"mask_block_width": 0}, "`mask_block_width` must be positive"),
        ({"reconstruction_size": 0}, "`reconstruction_size` must be positive"),
        ({"projector_layers": -1}, "`projector_layers` must be 0 or more"),
        ({"mask_num_blocks": -1}, "`mask_num_blocks` must be 0 or more"),
        ({"contrastive_temperature": 0}, "`contrastive_temperature` must be positive"),
        ({"consistency_temperature": -0.1}, "`consistency_temperature` must be positive"),
        ({"contrastive_weights": (1.0, 1.0)}, "`contrastive_weights` must be 3 numbers of 0 or more"),
        ({"consistency_weights": (1.0, -1.0, 0.0)}, "`consistency_weights` must be 3 numbers of 0 or more"),
        ({"inter_contrastive_weight": -1}, "`inter_contrastive_weight` must be 0 or more"),
        ({"inter_consistency_weight": -1}, "`inter_consistency_weight` must be 0 or more"),
        ({"reconstruction_weight": -1}, "`reconstruction_weight` must be 0 or more"),
        (
            {"mask_unit": 6},
            "`mask_unit` must be a multiple of `patch_size` 4 that",
        ),
        (
            {"mask_unit": 12},
            "`mask_unit` must be a multiple of `patch_size` 4 that",
        ),
        ({"mask_ratio": 1.0}, r"`mask_ratio` must lie in 0\.\.1"),
        ({"mask_ratio": 0, "mask_num_blocks": 0}, "nothing is hidden"),
        (
            {"contrastive_weights": (1, 1, 0), "consistency_weights": (0, 0, 0)},
            "the interaction subword_to_word needs keys of the word level",
        ),
        ({"decouple": False, "reconstruction_weight": 0}, "both branches must be on"),
        ({"decouple": False}, "only `masked_batch_norm='shared_buffers'` fills the running statistics"),
        (
            {
                "contrastive_weights": (0, 0, 0),
                "consistency_weights": (0, 0, 0),
                "inter_consistency_weight": 0,
                "masked_batch_norm": "separate_buffers",
            },
            "only `masked_batch_norm='shared_buffers'` fills the running statistics",
        ),
    ],
)
def test_each_rule_has_its_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        RCMSTRConfig(**fields)


def test_a_vit_has_no_statistics_to_fill() -> None:
    assert not RCMSTRConfig(encoder_type="vit", image_size=(32, 128), decouple=False).decouple


def test_text_in_place_of_a_number_is_refused() -> None:
    with pytest.raises(StrictDataclassError, match="contrastive_temperature"):
        RCMSTRConfig(**{"contrastive_temperature": "0.07"})  # type: ignore[arg-type]
