"""RCMSTR's pretraining model: one call, every published row, errors, precision, learning."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.pretraining_rcmstr import RCMSTRForPreTraining, RCMSTRForPreTrainingOutput
from tests.pretraining_models import FRAMES, WIDTHS, make, queues, seeded, views


@pytest.mark.parametrize(
    "preset", ["seqmoco_without_kl", "seqmoco", "reg", "hier", "rclstr", "rcmstr", "mim"]
)
def test_two_views_alone_give_a_loss_and_every_parameter_a_gradient(encoder: str, preset: str) -> None:
    model = make(encoder, preset)
    outputs = model(*views(encoder))
    outputs.loss.backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())
    ] == []
    parts = [
        outputs.contrastive_loss,
        outputs.consistency_loss,
        outputs.inter_hierarchical_loss,
        outputs.reconstruction_loss,
    ]
    present = {
        "seqmoco_without_kl": (True, False, False, False),
        "hier": (True, True, False, False),
        "rclstr": (True, True, True, False),
        "rcmstr": (True, True, True, True),
        "mim": (False, False, False, True),
    }.get(preset, (True, True, False, False))
    assert tuple(part is not None for part in parts) == present
    weights = (1.0, 0.3, 0.3, 1.0)
    expected = sum(w * float(p.detach()) for w, p in zip(weights, parts, strict=True) if p is not None)
    assert float(outputs.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert set(outputs.terms) == set(model.config.loss_weights)


def test_levels_have_their_shapes_and_unit_norm(encoder: str) -> None:
    model = make(encoder, projection_dim=128)
    outputs = model(*views(encoder))
    for embeds in (outputs.key_embeds, outputs.query_embeds):
        assert {level: tuple(vectors.shape) for level, vectors in embeds.items()} == {
            "frame": (4, FRAMES[encoder], 128),
            "subword": (4, 4, 128),
            "word": (4, 1, 128),
        }
        for vectors in embeds.values():
            assert not vectors.requires_grad
            torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert outputs.reconstruction.shape == (4, 3, 32, WIDTHS[encoder])
    assert not outputs.reconstruction.requires_grad
    assert outputs.visible.shape == (4, 1, 8, WIDTHS[encoder] // 4)
    assert outputs.visible.dtype == torch.bool


def test_levels_are_pooled_before_their_predictor(encoder: str) -> None:
    """Frame: each; sub-word: adaptive bins; word: the mean. One linear layer each, then unit norm."""
    model = make(encoder).eval()
    first, _ = views(encoder)
    with torch.no_grad():
        states = model.model(first).last_hidden_state.mean(2).transpose(1, 2)
        for layer in model.projector:
            hidden, _ = layer.lstm(states)
            states = layer.projection(hidden)
        frames = FRAMES[encoder]
        bins = [(s * frames // 4, -((s + 1) * frames // -4)) for s in range(4)]
        pooled = {
            "frame": states,
            "subword": torch.stack([states[:, start:stop].mean(1) for start, stop in bins], dim=1),
            "word": states.sum(1, keepdim=True) / frames,
        }
        keys = model.encode_keys(first)
        for level, values in pooled.items():
            linear = model.predictors[level]
            vectors = values @ linear.weight.T + linear.bias
            torch.testing.assert_close(keys[level], vectors / vectors.norm(dim=-1, keepdim=True))


def test_sizes_are_the_papers() -> None:
    """TPS 1,693,544 + ResNet 44,264,480 + LSTMs 2,892,288 + three predictors of 32,896 = 48,949,000."""
    with torch.device("meta"):
        model: Any = RCMSTRForPreTraining(RCMSTRConfig.preset("rclstr", rectifier_type="tps"))

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert [count(m) for m in (model.model.rectifier, model.model.encoder, model.projector)] == [
        1_693_544,
        44_264_480,
        2_892_288,
    ]
    assert [count(predictor) for predictor in model.predictors.values()] == [32_896] * 3
    assert count(model) == 48_949_000


def test_published_rows_have_their_levels_and_predictors() -> None:
    assert list(make(preset="seqmoco").predictors) == ["subword"]
    assert list(make(preset="rclstr").predictors) == ["frame", "subword", "word"]
    assert make(preset="rclstr").reconstruction_head is None
    assert make(preset="mim").predictors is None
    assert set(make(preset="seqmoco").encode_keys(views()[0])) == {"subword"}
    assert make(preset="mim").encode_keys(views()[0]) == {}


def test_a_seed_is_a_loss_and_what_is_given_is_not_drawn(encoder: str) -> None:
    model = make(encoder).eval()
    first, second = views(encoder)
    outputs = model(first, second, generator=seeded(3))
    assert torch.equal(outputs.loss, model(first, second, generator=seeded(3)).loss)
    assert not torch.equal(outputs.loss, model(first, second, generator=seeded(4)).loss)
    generator = seeded(3)
    order = model.sample_order(generator)
    visible = model.sample_visible(4, WIDTHS[encoder], generator)
    assert torch.equal(visible, outputs.visible)
    state = torch.get_rng_state()
    given = model(first, second, order=order, visible=visible)
    assert torch.equal(given.loss, outputs.loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_of_the_loop_replace_the_second_view(encoder: str) -> None:
    model = make(encoder).eval()
    first, second = views(encoder)
    alone = model(first, second, generator=seeded())
    keys = model.encode_keys(second)
    given = model(first, keys=keys, generator=seeded())
    assert torch.equal(alone.loss, given.loss)
    banked = model(first, keys=keys, negatives=queues(model), generator=seeded())
    assert not torch.isclose(banked.contrastive_loss, alone.contrastive_loss, rtol=1e-3)
    assert torch.equal(banked.reconstruction_loss, alone.reconstruction_loss)


def test_without_loss_no_second_view_is_needed(encoder: str) -> None:
    outputs = make(encoder)(views(encoder)[0], return_loss=False)
    assert outputs.loss is None
    assert outputs.terms is None
    assert outputs.key_embeds is None
    assert outputs.query_embeds is not None
    assert outputs.reconstruction is not None


def test_outputs_are_a_dictionary_and_a_tuple() -> None:
    model = make()
    outputs = model(*views(), generator=seeded())
    assert dict(outputs)["loss"] is outputs.loss
    assert outputs.to_tuple()[0] is outputs.loss
    assert isinstance(outputs, RCMSTRForPreTrainingOutput)
    assert isinstance(model(*views(), return_dict=False), tuple)


def test_forward_moves_nothing_but_running_statistics(encoder: str) -> None:
    model = make(encoder)
    before = copy.deepcopy(model.state_dict())
    model(*views(encoder))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all("running" in name or "num_batches" in name for name in moved)


def test_unusable_calls_are_refused() -> None:
    model = make()
    first, second = views()
    with pytest.raises(ValueError, match="contrast needs `second_pixel_values`, or `keys`"):
        model(first)
    with pytest.raises(ValueError, match="both views of a batch must have one shape"):
        model(first, second[:2])
    with pytest.raises(ValueError, match=r"`pixel_values` must be \(batch, 3, height, width\)"):
        model(first[:, :1], second)
    with pytest.raises(ValueError, match="a batch of 3 words cannot be grouped by 2"):
        model(first[:3], second[:3])
    with pytest.raises(ValueError, match="33 frames cannot be cut into 2 equal pieces"):
        model(torch.zeros(2, 3, 32, 128), torch.zeros(2, 3, 32, 128))
    with pytest.raises(ValueError, match="words of one width without padding"):
        model(first, second, pixel_mask=torch.ones(4, 32, 100))
    with pytest.raises(ValueError, match="`visible` must be"):
        model(first, second, visible=torch.ones(4, 1, 8, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="masks in units of 8 pixels"):
        make(mask_unit=8)(first, second)


def test_models_with_nothing_to_learn_are_refused() -> None:
    with pytest.raises(ValueError, match="there is nothing to learn"):
        make(preset="seqmoco_without_kl", contrastive_weights=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="does not train the encoder's LSTM layers"):
        make(preset="mim", encoder_bilstm_layers=1)


def test_other_widths_and_divisions_work() -> None:
    outputs = make()(torch.randn(2, 3, 32, 132), torch.randn(2, 3, 32, 132))
    assert outputs.key_embeds["frame"].shape[1] == 34
    model = make("vit", blocks_per_image=4, images_per_group=3, num_subwords=5, encoder_bilstm_layers=1)
    outputs = model(*(view.repeat(2, 1, 1, 1)[:6] for view in views("vit")))
    assert outputs.key_embeds["subword"].shape[1] == 5
    outputs.loss.backward()
    make(projector_layers=0)(*views()).loss.backward()


def test_autocast_step_is_finite_and_its_losses_are_float32(encoder: str) -> None:
    model = make(encoder)
    reference = model(*views(encoder), negatives=queues(model), generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*views(encoder), negatives=queues(model), generator=seeded())
    assert {term.dtype for term in outputs.terms.values()} == {torch.float32}
    assert float(outputs.loss.detach()) == pytest.approx(float(reference.loss.detach()), rel=0.15)
    outputs.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_half_precision_model_runs(encoder: str) -> None:
    """As an engine that casts the weights hands it over; pixels stay float32."""
    model = make(encoder).bfloat16()
    outputs = model(*(view.bfloat16() for view in views(encoder)), generator=seeded())
    outputs.loss.backward()
    assert bool(outputs.loss.isfinite())


@pytest.mark.parametrize("encoder_type", ["cnn", "vit"])
def test_both_branches_learn(
    encoder_type: str, eight_words: list[Any], word_drawer: Callable[..., Any]
) -> None:
    """On eight drawn words, contrast and reconstruction both fall well below their start."""
    width = WIDTHS[encoder_type]
    pictures = [np.asarray(word_drawer(text, (32, width)), np.float32) / 127.5 - 1 for _, text in eight_words]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    model = make(encoder_type, projection_dim=16, projector_size=32, normalize_targets=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = seeded()
    history = []
    for _ in range(30):
        noise = 0.05 * torch.randn(2, *images.shape, generator=generator)
        outputs = model(images + noise[0], images + noise[1], generator=generator)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        history.append(
            (float(outputs.contrastive_loss.detach()), float(outputs.reconstruction_loss.detach()))
        )
    values = torch.tensor(history)
    start, end = values[:5].mean(0), values[-5:].mean(0)
    assert bool((end < 0.85 * start).all()), (start, end)


def test_every_field_of_the_configuration_is_read() -> None:
    """By attribute, in the package, outside the configuration's own validators."""
    package = Path(__file__).resolve().parent.parent / "modeling_rcmstr"
    files = ("pretraining_rcmstr", "relational_losses", "reconstruction")
    source = "\n".join((package / f"{name}.py").read_text(encoding="utf-8") for name in files)
    base = set(RCMSTRConfig.__mro__[1].__dataclass_fields__)  # type: ignore[attr-defined]
    own = set(RCMSTRConfig.__dataclass_fields__) - base
    derived = {
        "contrastive_weights": "loss_weights",
        "consistency_weights": "loss_weights",
        "inter_contrastive_weight": "loss_weights",
        "inter_consistency_weight": "loss_weights",
        "inter_hierarchical_pairs": "inter_pairs",
    }
    assert len(own) > 20
    assert [field for field in own if f"config.{derived.get(field, field)}" not in source] == []


def test_model_is_traced_to_no_global_state() -> None:
    """Two models in turn, masked and not, do not touch each other."""
    torch.manual_seed(0)
    one, other = make().eval(), make("cnn", "rclstr").eval()
    first, second = views()
    alone = one(first, second, generator=seeded()).loss
    results = []
    for model in itertools.islice(itertools.cycle((one, other)), 4):
        results.append(model(first, second, generator=seeded()).loss)
    assert torch.equal(results[0], alone)
    assert torch.equal(results[2], alone)
    assert torch.equal(results[1], results[3])
