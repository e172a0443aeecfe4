import pytest

from training.benchmarks import (
    BENCHMARKS,
    PROTOCOL,
    SOURCE_NAMES,
    TEST_SETS,
    choose_benchmark,
    fingerprint,
    normalise_alphanumeric,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's", "its"),
        ("$5.99", "599"),
        ("...", ""),
        ("A B", "ab"),
        ("Caf\u00e9", "caf"),
        ("abc123", "abc123"),
    ],
)
def test_normalisation_keeps_lower_case_letters_and_digits(text: str, expected: str) -> None:
    assert normalise_alphanumeric(text) == expected


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalise_alphanumeric("Mixed-CASE 42!")
    assert normalise_alphanumeric(once) == once


def test_fingerprint_changes_with_every_name_label_and_order() -> None:
    base = fingerprint(["a.png", "b.png"], ["one", "two"])
    assert base == fingerprint(["a.png", "b.png"], ["one", "two"])
    others = [
        fingerprint(["a.png", "c.png"], ["one", "two"]),
        fingerprint(["a.png", "b.png"], ["one", "Two"]),
        fingerprint(["b.png", "a.png"], ["two", "one"]),
        fingerprint(["a.png"], ["one"]),
    ]
    assert len({base, *others}) == 5
    assert len(base) == 16


def test_fingerprint_refuses_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        fingerprint(["a.png"], [])


def test_protocol_says_every_rule_that_the_scores_follow() -> None:
    for word in ("lower-casing", "0-9 a-z", "left out and counted", "1-NED", "CER", "Wilson", "Unreadable"):
        assert word in PROTOCOL


def test_the_field_s_sizes() -> None:
    """Counts of arXiv:1904.01906, of Union14M-Benchmark (409,383 with its incomplete words), and of DiG."""
    sizes = {name: test_set.words for name, test_set in TEST_SETS.items()}
    assert sum(sizes[name] for name in BENCHMARKS["common-benchmarks"].sets) == 7672
    assert sum(sizes[name] for name in BENCHMARKS["common-benchmarks-small"].sets) == 7248
    assert sum(sizes[name] for name in BENCHMARKS["decoder-evaluation"].sets) == 8539
    assert sum(sizes[name] for name in BENCHMARKS["union14m-benchmark"].sets) == 409_383 - 1495
    assert sum(sizes[name] for name in BENCHMARKS["handwriting"].sets) == 13_752 + 12_012


def test_every_benchmark_names_sets_that_exist_and_every_set_is_in_one() -> None:
    named = [name for benchmark in BENCHMARKS.values() for name in benchmark.sets]
    assert set(named) == set(TEST_SETS)
    assert all(len(set(benchmark.sets)) == len(benchmark.sets) for benchmark in BENCHMARKS.values())
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())


def test_one_folder_s_name_means_one_set() -> None:
    names = [name for test_set in TEST_SETS.values() for name in test_set.found_as]
    names += [name for found in SOURCE_NAMES.values() for name in found]
    assert len(set(names)) == len(names)
    assert all(name == normalise_alphanumeric(name) for name in names)


def test_a_benchmark_of_overlapping_sets_has_no_mean() -> None:
    for benchmark in BENCHMARKS.values():
        sources = [
            TEST_SETS[name].source for name in benchmark.sets if TEST_SETS[name].source in SOURCE_NAMES
        ]
        assert benchmark.averaged == (len(set(sources)) == len(sources))


@pytest.mark.parametrize(
    ("label", "all_sizes"),
    [("stop", (True, True)), ("it", (True, False)), ("a-b", (False, False)), ("caf\u00e9", (False, False))],
)
def test_the_smaller_sizes_of_icdar_2013_keep_letters_and_digits(
    label: str, all_sizes: tuple[bool, bool]
) -> None:
    """Section 3 of arXiv:1904.01906: 1015 without other characters, 857 without words of one or two."""
    kept = tuple(TEST_SETS[name].rule.keeps(label) for name in ("IC13_1015", "IC13_857"))
    assert kept == all_sizes
    assert TEST_SETS["IC13_1095"].rule.keeps(label)


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    assert choose_benchmark("handwriting").sets == ("IAM_words", "CVL_words")
    with pytest.raises(ValueError, match="known: common-benchmarks, "):
        choose_benchmark("common")
