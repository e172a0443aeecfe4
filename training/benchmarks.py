"""The protocol of every accuracy that this project states, and a hash of what was measured. Data only.

The names and sizes of the public test sets join this file with the evaluation of the papers' protocols.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

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


def normalise_alphanumeric(text: str) -> str:
    """Lower-case a text and keep 0-9 and a-z only: "It's" becomes "its"."""
    return _DROPPED.sub("", text.lower())


def fingerprint(names: Sequence[str], labels: Sequence[str]) -> str:
    """Identify a measurement: SHA-256 of the protocol's name, the file names in order and their labels.

    Returns:
        The first 16 hexadecimal digits.
    """
    digest = hashlib.sha256(PROTOCOL_NAME.encode())
    for name, label in zip(names, labels, strict=True):
        digest.update(b"\0" + name.encode() + b"\t" + label.encode())
    return digest.hexdigest()[:16]
