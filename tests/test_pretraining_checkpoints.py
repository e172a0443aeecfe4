"""Pretraining checkpoints of RCMSTR: saved, continued, and opened as an encoder or a recogniser."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.modeling_rcmstr import RCMSTRForTextRecognition, RCMSTRModel
from modeling_rcmstr.pretraining_rcmstr import RCMSTRForPreTraining
from tests.pretraining_models import make, seeded, views
from tests.programs import run_program


def test_saved_and_loaded_model_is_the_same(encoder: str, tmp_path: Path) -> None:
    fields = {"rectifier_type": "tps"} if encoder == "cnn" else {}
    model = make(encoder, masked_batch_norm="separate_buffers", **fields)
    model(*views(encoder), generator=seeded())
    model.save_pretrained(tmp_path)
    loaded, info = RCMSTRForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected, found = model.state_dict(), loaded.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    first, second = views(encoder)
    assert torch.equal(
        model.eval()(first, second, generator=seeded()).loss, loaded(first, second, generator=seeded()).loss
    )
    # Loading thaws what was frozen; the rectifier stays frozen, and pretraining goes on.
    thawed = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert thawed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    loaded.train()(first, second).loss.backward()


@pytest.mark.parametrize("policy", ["batch_no_update", "separate_buffers"])
def test_recogniser_keeps_the_encoder_and_misses_its_head_only(
    encoder: str, policy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(encoder, masked_batch_norm=policy)
    model(*views(encoder))
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        recogniser, info = RCMSTRForTextRecognition.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    assert all(name.startswith("head.") for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not any(
        name in caplog.text for name in ("projector", "predictors", "reconstruction", "mask_token")
    )
    encoder_state = recogniser.model.state_dict()
    assert encoder_state
    assert all(torch.equal(tensor, model.model.state_dict()[name]) for name, tensor in encoder_state.items())


def test_auto_classes_open_the_folder(encoder: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoModelForPreTraining

    import modeling_rcmstr  # noqa: F401  (registers)

    model = make(encoder)
    model.save_pretrained(tmp_path)
    base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(base, RCMSTRModel)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert isinstance(again, RCMSTRForPreTraining)
    first, _ = views(encoder)
    torch.testing.assert_close(
        base(first).last_hidden_state, again.model(first).last_hidden_state, rtol=0, atol=0
    )


def test_pretraining_continues_with_other_branches_and_says_what_is_new(tmp_path: Path) -> None:
    make(preset="rclstr").save_pretrained(tmp_path)
    config = RCMSTRConfig.from_pretrained(tmp_path, reconstruction_weight=1.0)
    with pytest.raises(ValueError, match="lacks .* reconstruction_head"):
        RCMSTRForPreTraining.from_pretrained(tmp_path, config=config)
    model, info = RCMSTRForPreTraining.from_pretrained(
        tmp_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"reconstruction_head"}
    model.save_pretrained(tmp_path)
    config = RCMSTRConfig.from_pretrained(tmp_path, reconstruction_weight=0.0)
    _, info = RCMSTRForPreTraining.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"reconstruction_head"}


def test_model_is_built_without_memory_and_initialised_whole(encoder: str, tmp_path: Path) -> None:
    """Loading builds on the meta device: what a checkpoint lacks must be initialised, buffers included."""
    make(encoder, "seqmoco").save_pretrained(tmp_path)
    changes: dict[str, Any] = {"masked_batch_norm": "separate_buffers", "reconstruction_weight": 1.0}
    config = RCMSTRConfig.from_pretrained(tmp_path, **changes)
    model = RCMSTRForPreTraining.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    fresh = make(encoder, "seqmoco", **changes)
    assert set(model.state_dict()) == set(fresh.state_dict())
    for name, tensor in model.state_dict().items():
        assert bool(tensor.isfinite().all()), name
        if "masked_running" in name:
            assert torch.equal(tensor, fresh.state_dict()[name]), name
        elif tensor.is_floating_point() and "reconstruction" in name and tensor.numel() > 200:
            assert float(tensor.std()) == pytest.approx(float(fresh.state_dict()[name].std()), rel=0.5), name


@pytest.mark.slow
def test_published_folder_trains_without_the_package(encoder: str, tmp_path: Path) -> None:
    """In a process that does not know the package, from the files that were saved with the weights."""
    model = make(encoder)
    try:
        RCMSTRConfig.register_for_auto_class()
        RCMSTRForPreTraining.register_for_auto_class("AutoModelForPreTraining")
        model.save_pretrained(tmp_path / "folder")
    finally:
        RCMSTRConfig._auto_class = RCMSTRForPreTraining._auto_class = None
    first, second = views(encoder)
    torch.save((first, second), tmp_path / "views.pt")
    program = """
import sys, torch
from transformers import AutoModelForPreTraining
folder, views = sys.argv[1:]
model = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
loss = model(*torch.load(views), generator=torch.Generator().manual_seed(0)).loss
model.train()(*torch.load(views)).loss.backward()
print(repr(float(loss.detach())))
"""
    run = run_program(
        [sys.executable, "-c", program, str(tmp_path / "folder"), str(tmp_path / "views.pt")], tmp_path
    )
    assert run.returncode == 0, run.stderr
    expected = float(model.eval()(first, second, generator=seeded()).loss.detach())
    assert float(run.stdout.split()[-1]) == pytest.approx(expected, rel=1e-6)
