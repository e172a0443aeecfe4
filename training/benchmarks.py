"""The protocols of every accuracy that this project states: test sets, sizes, labels, averages. Data only.

Two things are fixed here. The comparison (`PROTOCOL_NAME`, `PROTOCOL`): how texts are normalised and what
counts as right. And the benchmarks (`BENCHMARKS`): which test sets, how many words each has and which of its
labels are kept. The field uses ICDAR 2003, 2013 and 2015 in two or three sizes each, so the size is part of a
set's name (Baek et al., arXiv:1904.01906, section 3). Two means are stated over the sets of a benchmark:
unweighted, which is the one in most papers' tables, and over all words. Finding the sets in a folder is
`training/benchmark_sets.py`'s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

PROTOCOL_NAME = "alphanumeric-36-v1"
PROTOCOL = (
    "Word accuracy compares prediction and label after lower-casing both and dropping every character "
    "outside 0-9 a-z; words whose label is empty then are left out and counted. Cased accuracy compares "
    "the texts as they are, all words included. 1-NED is the mean of 1 - edit distance / longer length on "
    "the lower-cased, filtered texts. CER is the sum of edit distances over the sum of label lengths on "
    "the texts as they are. The interval is Wilson's at 95 %. Unreadable images count as read wrongly "
    "(empty prediction)."
)

_DROPPED = re.compile(r"[^0-9a-z]")
_ALPHANUMERIC = re.compile(r"[0-9A-Za-z]*")


@dataclass(frozen=True)
class LabelRule:
    """Which words of a set are measured, by their label.

    Args:
        text: the rule for people.
        alphanumeric: keep labels of 0-9 A-Z a-z only.
        shortest: keep labels of at least so many characters.
    """

    text: str
    alphanumeric: bool = False
    shortest: int = 0

    def keeps(self, label: str) -> bool:
        """Say whether a word with this label is measured."""
        if self.alphanumeric and not _ALPHANUMERIC.fullmatch(label):
            return False
        return len(label) >= self.shortest


ALL_LABELS = LabelRule("all labels")
ALPHANUMERIC_LABELS = LabelRule("labels of letters and digits only", alphanumeric=True)
LONGER_ALPHANUMERIC_LABELS = LabelRule(
    "labels of letters and digits only, three or more", alphanumeric=True, shortest=3
)


@dataclass(frozen=True)
class SetProtocol:
    """One test set in one size.

    Args:
        name: with the size where the field uses several.
        words: how many words it has after `rule`.
        source: what it is a part of; sets of one source differ in size.
        found_as: names of its folder or file, compared without case, spaces and punctuation.
        rule: which labels are kept.
    """

    name: str
    words: int
    source: str
    found_as: tuple[str, ...]
    rule: LabelRule = ALL_LABELS


@dataclass(frozen=True)
class Benchmark:
    """Test sets that are reported together.

    Args:
        name: for the command line and beside the numbers.
        sets: names of `TEST_SETS`, in the order of the table.
        text: what it is and who reports it.
        averaged: whether means over the sets say something; not when one set is a part of another.
    """

    name: str
    sets: tuple[str, ...]
    text: str
    averaged: bool = True


# What a folder is called when its name leaves the size open.
SOURCE_NAMES: dict[str, tuple[str, ...]] = {
    "IC03": ("ic03", "icdar03", "icdar2003"),
    "IC13": ("ic13", "icdar13", "icdar2013"),
    "IC15": ("ic15", "icdar15", "icdar2015"),
}

TEST_SETS: dict[str, SetProtocol] = {
    test_set.name: test_set
    for test_set in (
        SetProtocol("IIIT5K", 3000, "IIIT5K", ("iiit5k", "iiit5k3000", "iiit5ktest", "iiit")),
        SetProtocol("SVT", 647, "SVT", ("svt", "svt647", "svttest")),
        SetProtocol("IC13_857", 857, "IC13", ("ic13857", "icdar2013857"), LONGER_ALPHANUMERIC_LABELS),
        SetProtocol("IC13_1015", 1015, "IC13", ("ic131015", "icdar20131015"), ALPHANUMERIC_LABELS),
        SetProtocol("IC13_1095", 1095, "IC13", ("ic131095", "icdar20131095")),
        SetProtocol("IC15_1811", 1811, "IC15", ("ic151811", "icdar20151811")),
        SetProtocol("IC15_2077", 2077, "IC15", ("ic152077", "icdar20152077")),
        SetProtocol("SVTP", 645, "SVTP", ("svtp", "svtp645", "svtperspective", "svtptest")),
        SetProtocol("CUTE80", 288, "CUTE80", ("cute80", "cute80288", "cute", "ct80", "cute288")),
        SetProtocol("IC03_860", 860, "IC03", ("ic03860", "icdar2003860")),
        SetProtocol("IC03_867", 867, "IC03", ("ic03867", "icdar2003867")),
        SetProtocol("Union14M_curve", 2426, "Union14M", ("curve", "union14mcurve")),
        SetProtocol(
            "Union14M_multi_oriented",
            1369,
            "Union14M",
            ("multioriented", "union14mmultioriented"),
        ),
        SetProtocol("Union14M_artistic", 900, "Union14M", ("artistic", "union14martistic")),
        SetProtocol("Union14M_contextless", 779, "Union14M", ("contextless", "union14mcontextless")),
        SetProtocol("Union14M_salient", 1585, "Union14M", ("salient", "union14msalient")),
        SetProtocol("Union14M_multi_words", 829, "Union14M", ("multiwords", "union14mmultiwords")),
        SetProtocol("Union14M_general", 400_000, "Union14M", ("general", "union14mgeneral")),
        SetProtocol("IAM_words", 13_752, "IAM", ("iam", "iamwords", "iamtest", "iamwordstest")),
        SetProtocol("CVL_words", 12_012, "CVL", ("cvl", "cvlwords", "cvltest", "cvlwordstest")),
    )
}

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "common-benchmarks",
            ("IIIT5K", "SVT", "IC13_1015", "IC15_2077", "SVTP", "CUTE80"),
            "the six common benchmarks in their larger sizes, as Union14M (arXiv:2307.08723) reports them",
        ),
        Benchmark(
            "common-benchmarks-small",
            ("IIIT5K", "SVT", "IC13_857", "IC15_1811", "SVTP", "CUTE80"),
            "the six common benchmarks in their smaller sizes, as ABINet (arXiv:2103.06495) reports them",
        ),
        Benchmark(
            "decoder-evaluation",
            ("IIIT5K", "IC03_867", "IC13_1015", "SVT", "IC15_2077", "SVTP", "CUTE80"),
            "the seven sets that RCLSTR (arXiv:2308.00508) and RCMSTR (arXiv:2411.11219) read with a frozen "
            "encoder",
        ),
        Benchmark(
            "all-sizes",
            (
                "IIIT5K",
                "SVT",
                "IC03_860",
                "IC03_867",
                "IC13_857",
                "IC13_1015",
                "IC13_1095",
                "IC15_1811",
                "IC15_2077",
                "SVTP",
                "CUTE80",
            ),
            "every common set in every size that papers use (arXiv:1904.01906, section 3)",
            averaged=False,
        ),
        Benchmark(
            "union14m-benchmark",
            tuple(name for name in TEST_SETS if name.startswith("Union14M_")),
            "the seven subsets of Union14M-Benchmark whose mean its authors report (arXiv:2307.08723)",
        ),
        Benchmark(
            "handwriting",
            ("IAM_words", "CVL_words"),
            "word crops of IAM and CVL in the sizes that DiG (arXiv:2207.00193) and its successors report",
        ),
    )
}


def normalise_alphanumeric(text: str) -> str:
    """Lower-case a text and keep 0-9 and a-z only: "It's" becomes "its"."""
    return _DROPPED.sub("", text.lower())


def fingerprint(names: Sequence[str], labels: Sequence[str]) -> str:
    """Identify a measurement: SHA-256 of the protocol's name, the file names in order and their labels.

    The protocol's name stands for the normalisation, so the same words have the same fingerprint in every
    benchmark that holds them.

    Returns:
        The first 16 hexadecimal digits.
    """
    digest = hashlib.sha256(PROTOCOL_NAME.encode())
    for name, label in zip(names, labels, strict=True):
        digest.update(b"\0" + name.encode() + b"\t" + label.encode())
    return digest.hexdigest()[:16]


def choose_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark is called {name!r}; known: {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
