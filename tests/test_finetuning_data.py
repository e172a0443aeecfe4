import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.word_files import write_parquet
from tests.word_folders import write_words
from training.arguments import FinetuningArguments, build_arguments
from training.evaluation import EvaluationSet
from training.finetuning_data import RENDERED_HELD_OUT_START, build_data, short_name, split_source
from training.recogniser import build_recogniser

Words = list[tuple[Image.Image, str]]
MODEL = {"model_type": "rcmstr", "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "head_hidden_size": 8}


@pytest.fixture
def words(tmp_path: Path, eight_words: Words) -> Path:
    (tmp_path / "model.json").write_text(json.dumps(MODEL), encoding="utf-8")
    return write_words(tmp_path / "words", eight_words * 2)


def settings(words: Path, **changes: Any) -> FinetuningArguments:
    base = {
        "output_dir": "unused",
        "model": str(words.parent / "model.json"),
        "charset": "alphanumeric-36",
        "train_sources": {f"folder:{words}": 1},
        "max_steps": 1,
        "batch_size": 4,
        "bucket_batches": 2,
        "data_workers": 0,
        "held_out_fraction": 0.3,
    }
    return build_arguments({**base, **changes})


def build(arguments: FinetuningArguments) -> Any:
    return build_data(arguments, *build_recogniser(arguments.run), torch.device("cpu"))


def test_held_out_words_are_evaluated_and_never_drawn(words: Path) -> None:
    batches, sets, record = build(settings(words))
    (part,) = batches.maker.mixture.parts
    drawn = {draw.row for draw in batches.maker.mixture.draws(0, 200)}
    assert drawn == set(part.rows.tolist())
    (source,) = record["sources"]
    assert source["trained_on"] == len(drawn)
    assert source["trained_on"] + source["held_out"] == source["rows"] == 16
    assert source["held_out"] > 0
    (held_out,) = sets
    assert len(held_out.texts) == source["held_out"]
    assert record["evaluated_words"] == {"words": source["held_out"]}


def test_a_photograph_is_never_on_both_sides(words: Path, tmp_path: Path, eight_words: Words) -> None:
    """The parquet column `group` decides, not the row."""
    encoded = [(words / f"{i % 16}.png").read_bytes() for i in range(60)]
    table = {"image": encoded, "text": ["up"] * 60, "group": [f"photograph {i // 6}" for i in range(60)]}
    pq.write_table(pa.table(table), tmp_path / "photographs.parquet")
    arguments = settings(words, train_sources={f"parquet:{tmp_path}/photographs.parquet": 1})
    batches, _, record = build(arguments)
    (part,) = batches.maker.mixture.parts
    trained = {row // 6 for row in part.rows}
    held_out = {row // 6 for row in set(range(60)) - set(part.rows.tolist())}
    assert trained
    assert held_out
    assert not trained & held_out
    assert record["sources"][0]["held_out"] == 6 * len(held_out)


def test_words_outside_the_charset_are_left_out_and_counted(words: Path) -> None:
    """Of the eight words "42nd" and "zigzag7" have digits; each is there twice."""
    letters = {"charset": "abcdefghijklmnopqrstuvwxyz", "held_out_fraction": 0.0}
    _, _, record = build(settings(words, **letters))
    assert record["sources"][0]["outside_the_charset"] == 4
    assert record["sources"][0]["trained_on"] == 12
    _, _, record = build(settings(words, **letters, out_of_charset="drop_characters"))
    assert record["sources"][0]["trained_on"] == 16
    with pytest.raises(ValueError, match=r"holds \['2', '4'\]"):
        build(settings(words, **letters, out_of_charset="error"))


def test_evaluation_keeps_words_that_training_cannot_use(words: Path) -> None:
    """A word that the charset cannot spell is a word read wrongly, not a word left out."""
    arguments = settings(words, charset="abcdefghijklmnopqrstuvwxyz", eval_sources={"own": f"folder:{words}"})
    _, sets, record = build(arguments)
    assert record["evaluated_words"]["own"] == 16
    assert "42nd" in sets[-1].texts


def test_evaluated_words_are_limited_and_drawn_by_the_seed(words: Path) -> None:
    def texts(seed: int) -> list[str]:
        arguments = settings(
            words, held_out_fraction=0.0, eval_sources={"own": f"folder:{words}"}, eval_words=5, seed=seed
        )
        chosen: list[str] = sorted(build(arguments)[1][0].texts)
        return chosen

    assert len(texts(0)) == 5
    assert texts(0) == texts(0)
    assert texts(0) != texts(1)


def rows_and_texts(arguments: FinetuningArguments) -> tuple[set[int], list[str]]:
    """Rows that are trained on, and texts that are evaluated."""
    batches, sets, _ = build(arguments)
    return set(batches.maker.mixture.parts[0].rows.tolist()), sorted(sets[0].texts)


def test_labelled_words_are_nested_and_the_held_out_words_stay_what_they_are(words: Path) -> None:
    everything, test = rows_and_texts(settings(words))
    half, test_of_half = rows_and_texts(settings(words, label_share=0.5))
    four, test_of_four = rows_and_texts(settings(words, label_count=4))
    assert test == test_of_half == test_of_four
    assert half < everything
    assert len(four) == 4
    assert four <= half or half <= four
    assert build(settings(words, label_count=4))[2]["sources"][0]["trained_on"] == 4


def test_with_a_seed_of_its_own_the_split_is_the_same_in_all_runs(words: Path) -> None:
    fixed = [rows_and_texts(settings(words, split_seed=3, label_count=5, seed=seed)) for seed in range(4)]
    assert len({tuple(test) for _, test in fixed}) == 1
    assert len({tuple(sorted(rows)) for rows, _ in fixed}) > 1, "labels are drawn by the run's seed"
    own = [rows_and_texts(settings(words, seed=seed))[1] for seed in range(4)]
    assert len({tuple(test) for test in own}) > 1
    assert rows_and_texts(settings(words, seed=3))[1] == fixed[0][1], "a split seed is the seed of a split"


def test_labels_that_cannot_be_drawn_are_refused(words: Path) -> None:
    with pytest.raises(ValueError, match=r"`label_count=17` asks for more words than the 16.*lower it"):
        build(settings(words, label_count=17, held_out_fraction=0.0))
    with pytest.raises(ValueError, match=r"`label_share=0.0001` leaves none of 16 words.*larger share"):
        build(settings(words, label_share=0.0001, held_out_fraction=0.0))


def test_words_without_an_end_have_no_share(words: Path, good_font: Path) -> None:
    rendered = {f"rendered:?fonts={good_font}": 1}
    with pytest.raises(ValueError, match=r"`train_sources` names none.*have no end"):
        build(settings(words, train_sources=rendered, label_share=0.5, eval_words=1))
    both = settings(
        words,
        train_sources={**rendered, f"folder:{words}": 1},
        label_count=3,
        held_out_fraction=0.0,
        eval_words=1,
    )
    assert [source["trained_on"] for source in build(both)[2]["sources"]] == [None, 3]


def test_rendered_words_are_evaluated_far_from_those_trained_on(words: Path) -> None:
    class Endless:
        name, size = "rendered:", None

    encoder: Any = None
    endless: Any = Endless()
    train_rows, held_out, dropped = split_source(endless, settings(words, eval_words=7), encoder)
    assert train_rows is None
    assert np.array_equal(held_out, RENDERED_HELD_OUT_START + np.arange(7))
    assert dropped == 0


def test_a_stream_is_trained_on_whole_and_its_words_are_not_held_out(
    words: Path, tmp_path: Path, eight_words: Words
) -> None:
    """It starts over when it ends, so every row of it is trained on."""
    (tmp_path / "hub").mkdir()
    write_parquet(tmp_path / "hub" / "train.parquet", eight_words)
    chosen = settings(words, train_sources={f"stream:{tmp_path}/hub": 1.0}, eval_words=7)
    batches, sets, record = build(chosen)
    assert [words.name for words in sets] == []
    assert record["sources"][0]["rows"] is None
    assert next(iter(batches))["labels"].shape[0] == chosen.optimisation.batch_size


def test_the_strength_of_augmentation_is_that_of_the_kind_of_source(words: Path) -> None:
    batches, _, record = build(
        settings(words, augmentation_strength=0.25, rendered_augmentation_strength=1.0)
    )
    assert batches.maker.mixture.parts[0].augmentation_strength == 0.25
    assert record["sources"][0]["augmentation_strength"] == 0.25


def test_names_of_held_out_sets_are_short_and_new() -> None:
    taken: list[EvaluationSet] = []
    for source, name in [
        ("parquet:a/words.parquet", "words"),
        ("folder:b/words", "words_2"),
        ("folder:c/words/", "words_3"),
        ("rendered:fonts.yaml?seed=1", "rendered"),
        ("rendered:", "rendered_2"),
    ]:
        assert short_name(source, taken) == name
        taken.append(EvaluationSet(name, None, [], []))


def test_batches_go_to_the_device_of_the_process(words: Path) -> None:
    arguments = settings(words)
    batches, _, _ = build_data(arguments, *build_recogniser(arguments.run), torch.device("meta"))
    assert next(iter(batches))["pixel_values"].device.type == "meta"
