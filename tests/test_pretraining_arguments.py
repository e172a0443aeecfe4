"""Settings of pretraining: groups, refusals, and every shipped file."""

from pathlib import Path
from typing import Any

import pytest

from training.arguments import build_grouped_arguments, parse_grouped_arguments, read_settings
from training.pretraining_arguments import PretrainingArguments

CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"
SHIPPED = sorted(CONFIGS.glob("*/pretrain.yaml"))
MINIMAL: dict[str, Any] = {"train_sources": {"folder:words": 1}, "output_dir": "run", "model": "model.json"}


def build(**settings: Any) -> PretrainingArguments:
    return build_grouped_arguments(MINIMAL | settings, PretrainingArguments)


def test_settings_are_flat_and_sorted_into_groups() -> None:
    arguments = build(batch_size=8, queue_size=100, probe_updates=3, preset="reg", views=False)
    assert arguments.optimisation.batch_size == 8
    assert arguments.objective.queue_size == 100
    assert arguments.probe.probe_updates == 3
    assert arguments.run.preset == "reg"
    assert not arguments.data.views
    assert build_grouped_arguments(arguments.flat(), PretrainingArguments).flat() == arguments.flat()


def test_a_file_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.yaml"
    path.write_text('train_sources: {"folder:words": 1}\noutput_dir: run\nmodel: model.json\nmax_steps: 7\n')
    arguments = parse_grouped_arguments([str(path), "max_steps=9", "bf16=true"], PretrainingArguments)
    assert arguments.optimisation.max_steps == 9
    assert arguments.optimisation.bf16


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"train_sources": {}}, "`train_sources` must map at least one source"),
        ({"train_sources": {"folder:x": -1}}, "`train_sources` must map"),
        ({"bucket_batches": 0}, "`bucket_batches` must be at least 1"),
        ({"optimizer": "adam"}, "`optimizer` must be one of adamw, sgd"),
        ({"schedule": "one_cycle"}, "`schedule` must be one of cosine, linear, constant"),
        ({"batchnorm": "sync"}, "`batchnorm` must be one of synchronized, local, shuffled"),
        ({"learning_rate": 0}, "`learning_rate` must be positive"),
        ({"learning_rate": "1e-4"}, "write it as 0.0001"),
        ({"sgd_momentum": 1.0}, "`sgd_momentum` must lie in 0 to below 1"),
        ({"weight_decay": -1}, "`weight_decay` must be 0 or more"),
        ({"layer_decay": 0}, "`layer_decay` must lie above 0"),
        ({"warmup_steps": 11, "max_steps": 10}, "must not exceed `max_steps` 10"),
        ({"learning_rate_words": 0}, "`learning_rate_words` must be at least 1"),
        ({"key_momentum": 1}, "`key_momentum` must lie in 0 to below 1"),
        ({"gumbel_end": 3.0}, "at most `gumbel_start`"),
        ({"gumbel_share": 0}, "`gumbel_share` must lie above 0"),
        ({"gumbel_factor": 1.5}, "`gumbel_factor` must lie above 0"),
        ({"probe_train_words": 1}, "`probe_train_words` must be at least 2"),
        ({"probe_steps": 0}, "`probe_steps` must be at least 1"),
        ({"save_minutes": 0}, "`save_minutes` must be positive"),
        ({"worker_niceness": 20}, "`worker_niceness` must lie in 0 to 19"),
        ({"queue": 3}, "did you mean 'queue_size'"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(**settings)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_every_shipped_run_is_complete_and_its_model_exists(path: Path) -> None:
    settings = read_settings(path)
    arguments = build_grouped_arguments(settings, PretrainingArguments)
    assert set(settings) == set(arguments.flat()), "a file is complete in itself"
    assert (path.parents[3] / arguments.run.model).is_file()


def test_there_are_runs_of_both_families_with_both_encoders() -> None:
    named = {path.parent.name for path in SHIPPED}
    assert named >= {"rcmstr_trba", "rcmstr_vit_small", "persec_trba", "persec_vit_small"}
