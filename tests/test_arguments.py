import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.arguments import (
    DataArguments,
    FinetuningArguments,
    OptimisationArguments,
    RunArguments,
    build_arguments,
    parse_arguments,
)
from training.charset_arguments import CharsetArguments
from training.recogniser import make_processor, read_model_json

MINIMAL: dict[str, Any] = {
    "output_dir": "run",
    "model": "model.json",
    "train_sources": {"folder:words": 1},
    "max_steps": 10,
}


@pytest.fixture
def settings_file(tmp_path: Path) -> Callable[[str], str]:
    """Write YAML text to a file and give its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


MINIMAL_YAML = 'output_dir: run\nmodel: model.json\ntrain_sources: {"folder:words": 1}\nmax_steps: 10\n'


def test_overrides_replace_the_files_values_and_are_read_as_yaml(settings_file: Callable[[str], str]) -> None:
    path = settings_file(MINIMAL_YAML + "batch_size: 64\n")
    arguments = parse_arguments(
        [
            path,
            "batch_size=8",
            "bf16=true",
            "max_minutes=1.5",
            "--learning-rate=0.01",
            'train_sources={"a:b": 2}',
        ]
    )
    assert arguments.optimisation.batch_size == 8
    assert arguments.optimisation.bf16 is True
    assert arguments.optimisation.max_minutes == 1.5
    assert arguments.optimisation.learning_rate == 0.01
    assert arguments.data.train_sources == {"a:b": 2}


def test_unknown_keys_are_all_named_each_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="unknown settings") as caught:
        build_arguments({**MINIMAL, "learning_rat": 0.1, "batchsize": 3, "qqqq": 1})
    message = str(caught.value)
    assert "'learning_rat' (did you mean 'learning_rate'?)" in message
    assert "'batchsize' (did you mean 'batch_size'?)" in message
    assert "'qqqq'," in message or "'qqqq'." in message


def test_a_number_that_yaml_reads_as_text_is_refused_with_the_way_to_write_it(
    settings_file: Callable[[str], str],
) -> None:
    with pytest.raises(ValueError, match=r"`learning_rate`.*write it as 0\.001\."):
        parse_arguments([settings_file(MINIMAL_YAML + "learning_rate: 1e-3\n")])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_steps", 1.5, "expected int"),
        ("bf16", "yes", "expected bool"),
        ("train_sources", ["rendered:"], "expected a dict"),
        ("train_sources", {}, "at least one source"),
        ("train_sources", {"rendered:": -1}, "positive weight"),
        ("schedule", "cosin", "one of cosine, one_cycle, linear, constant"),
        ("schedule_by", "time", "needs `max_minutes`"),
        ("warmup", 1.0, "`warmup` must lie in 0 to below 1"),
        ("learning_rate", 0.0, "`learning_rate` must be positive"),
        ("held_out_fraction", 1, "`held_out_fraction`"),
        ("label_share", 0, "`label_share` must lie above 0 and up to 1, got 0"),
        ("label_share", 1.5, "above 0 and up to 1, got 1.5"),
        ("label_count", 0, "`label_count` must be at least 1, got 0; leave it out"),
        ("optimizer", "lion", "`optimizer` must be one of adamw, sgd"),
        ("layer_decay", 0.0, "`layer_decay` must lie above 0 and up to 1"),
        ("sgd_momentum", 1.0, "`sgd_momentum` must lie in 0 to below 1"),
        ("out_of_charset", "skip", "one of drop_word, drop_characters, error"),
        ("augmentation_strength", 2, "0 to 1"),
        ("batch_size", 0, "`batch_size` must be at least 1"),
        ("max_minutes", 0, "`max_minutes` must be positive"),
        ("max_grad_norm", -1, "0 or more"),
        ("save_minutes", 0, "positive or null"),
        ("worker_niceness", 20, "0 to 19"),
        ("max_steps", None, "needs `max_steps`"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_arguments({**MINIMAL, key: value})


def test_missing_settings_are_all_named() -> None:
    with pytest.raises(ValueError, match="train_sources, output_dir, model"):
        build_arguments({"max_steps": 1})


def test_a_share_and_a_count_of_labels_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        build_arguments({**MINIMAL, "label_share": 0.1, "label_count": 5})


def test_a_run_by_the_clock_needs_no_number_of_updates() -> None:
    settings = {**MINIMAL, "max_steps": None, "schedule_by": "time", "max_minutes": 5}
    assert build_arguments(settings).optimisation.max_steps is None


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "one flat mapping"), ("a: [1\n", "not valid YAML")],
)
def test_a_file_that_is_no_mapping_is_refused(
    settings_file: Callable[[str], str], content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments([settings_file(content)])


@pytest.mark.parametrize("argv", [[], ["batch_size=3"], ["no_such_file.yaml"]])
def test_the_first_argument_is_a_settings_file(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="settings"):
        parse_arguments(argv)


def test_an_override_without_a_value_is_refused(settings_file: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="key=value"):
        parse_arguments([settings_file(MINIMAL_YAML), "resume"])


def test_flat_settings_build_the_same_arguments_again() -> None:
    arguments = build_arguments(MINIMAL)
    assert build_arguments(arguments.flat()) == arguments


def test_no_setting_lies_in_two_groups() -> None:
    names = [
        set(group.__dataclass_fields__)
        for group in (DataArguments, OptimisationArguments, RunArguments, CharsetArguments)
    ]
    assert len(set.union(*names)) == sum(map(len, names))
    assert list(FinetuningArguments.groups.values()) == [
        DataArguments,
        OptimisationArguments,
        RunArguments,
        CharsetArguments,
    ]


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.parent.glob("training/configs/**/finetune*.yaml")), ids=str
)
def test_every_published_settings_file_is_valid(path: Path) -> None:
    arguments = parse_arguments([str(path)])
    root = path.parents[len(path.relative_to(Path(__file__).parent.parent).parts) - 1]
    assert (
        arguments.run.model == "modeling_rcmstr/checkpoints/default" or (root / arguments.run.model).exists()
    )


PROTOCOLS = sorted((Path(__file__).parent.parent / "training/configs/protocols").glob("*.yaml"))


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_protocol_is_valid_and_its_head_fits_the_models_that_it_names(path: Path) -> None:
    """The pretrained folders are the reader's; the control from scratch has the same settings."""
    arguments = parse_arguments([str(path)])
    named = re.findall(r"model=(training/\S+\.json)", path.read_text(encoding="utf-8"))
    assert named
    config = read_model_json(path.parents[3] / named[0], arguments.run.model_settings or {})
    processor = make_processor(config, arguments.run.charset or "ascii-94", arguments.run.processor)
    assert processor.tokenizer.for_attention == (config.decoder_type == "attention")


def test_protocols_have_the_papers_values() -> None:
    """Those that RCLSTR's released code and PerSec's paper give."""
    settings = {path.stem: parse_arguments([str(path)]) for path in PROTOCOLS}
    kinds = ("decoder_evaluation", "semi_supervised", "full_finetuning")
    assert settings.keys() == {f"{kind}_{of}" for kind in kinds for of in ("rcmstr", "persec", "small")}
    for of in ("rcmstr", "persec"):
        frozen = settings[f"decoder_evaluation_{of}"]
        optimisation = frozen.optimisation
        assert optimisation.freeze_encoder
        assert (optimisation.batch_size, optimisation.max_steps) == (256, 200_000)
        assert (optimisation.schedule, optimisation.learning_rate, optimisation.max_grad_norm) == (
            "one_cycle",
            0.0005,
            5,
        )
        assert frozen.run.eval_steps == 20_000
        assert len(frozen.data.eval_sources or {}) == 7
        assert settings[f"semi_supervised_{of}"].data.label_share < 1
        assert not settings[f"semi_supervised_{of}"].optimisation.freeze_encoder
    persec = settings["full_finetuning_persec"].optimisation
    assert (persec.optimizer, persec.learning_rate) == ("sgd", 0.005)
    assert persec.batch_size * persec.gradient_accumulation_steps == 2048
    dig = settings["full_finetuning_rcmstr"].optimisation
    words = dig.batch_size * dig.gradient_accumulation_steps
    assert dig.learning_rate == pytest.approx(0.0001 * words / 256)
    assert (dig.layer_decay, dig.weight_decay) == (0.75, 0.05)
