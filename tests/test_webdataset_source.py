"""Words in tar shards, read at their places in the files."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.word_files import encoded, tar_members, write_tar
from training.webdataset_source import OPEN_FILES, expand_braces
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("place", ["/w-*.tar", "", "/w-{00..01}.tar"])
def test_shards_give_their_words_in_order(
    tmp_path: Path, eight_words: Words, as_json: bool, place: str
) -> None:
    write_tar(tmp_path / "w-01.tar", tar_members(eight_words[5:], as_json))
    write_tar(tmp_path / "w-00.tar", tar_members(eight_words[:5], as_json))
    source = open_source(f"webdataset:{tmp_path}{place}")
    assert source.size == 8
    for index in (7, 0, 4, 5):
        image, text = eight_words[index]
        assert source.row(index) == {"image": {"bytes": encoded(image), "path": None}, "text": text}
        assert source.text(index) == text
    assert open_source(f"webdataset:{tmp_path}", labelled=False).row(3)["text"] == ""


def test_known_layouts_are_read(tmp_path: Path) -> None:
    """Folders, several dots, capital letters, other members, long names, a field of another name."""
    long = "folder/" * 30
    members = [
        ("./a/1.JPG", b"1"),
        ("./a/1.txt", b"\xef\xbb\xbfone\r\n"),
        ("a/2.image.png", b"2"),
        ("a/2.cls", b"0"),
        ("a/2.json", json.dumps({"caption": "two", "text": "other"}).encode()),
        ("a/._2.png", b"a Mac's"),
        (f"{long}3.x.webp", b"3"),
        (f"{long}3.json", json.dumps({"label": "three", "caption": "drei"}).encode()),
    ]
    path = write_tar(tmp_path / "words.tar", members)
    source = open_source(f"webdataset:{path}")
    assert [source.row(i)["image"]["bytes"] for i in range(3)] == [b"1", b"2", b"3"]
    assert [source.text(i) for i in range(3)] == ["one", "other", "three"]
    named = open_source(f"webdataset:{path}?text=caption")
    assert [named.text(i) for i in (1, 2)] == ["two", "drei"]


def test_a_word_without_label_or_image_is_named_and_stops_no_other(tmp_path: Path) -> None:
    members = [("1.png", b"1"), ("2.png", b"2"), ("2.txt", b"two"), ("3.txt", b"three")]
    source = open_source(f"webdataset:{write_tar(tmp_path / 'words.tar', members)}")
    assert source.row(1)["text"] == "two"
    with pytest.raises(ValueError, match="row 0: no label"):
        source.row(0)
    with pytest.raises(ValueError, match="row 2: no image"):
        source.row(2)
    assert open_source(f"webdataset:{tmp_path}", labelled=False).row(0)["image"]["bytes"] == b"1"


@pytest.mark.parametrize(
    "members",
    [
        [("1.png", b"1"), ("1.txt", b"a"), ("2.png", b"2"), ("1.png", b"3")],
        [("1.png", b"1"), ("1.jpg", b"2")],
        [("1.png", b"1"), ("1.png", b"2")],
    ],
)
def test_a_key_that_comes_twice_is_named(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    write_tar(tmp_path / "words.tar", members)
    with pytest.raises(
        ValueError, match=r"words\.tar: the key '1' .*twice; give every word a key of its own"
    ):
        open_source(f"webdataset:{tmp_path}")


def test_the_same_keys_in_other_shards_are_usual(tmp_path: Path, eight_words: Words) -> None:
    for shard in "ab":
        write_tar(tmp_path / f"{shard}.tar", tar_members(eight_words))
    assert open_source(f"webdataset:{tmp_path}").size == 16


def test_a_shard_that_is_cut_off_anywhere_is_refused(tmp_path: Path, eight_words: Words) -> None:
    path = write_tar(tmp_path / "words.tar", tar_members(eight_words))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    in_data, at_header = members[-2].offset_data + 10, members[-2].offset
    for length in (in_data, at_header, at_header + 100, 100, members[-1].offset_data + 512):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"words\.tar is cut off or no plain tar file .*copy it again"):
            open_source(f"webdataset:{path}")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is cut off or no plain tar"):
        open_source(f"webdataset:{path}")


def test_a_compressed_shard_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "words.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"unpack a compressed one to `\.tar`"):
        open_source(f"webdataset:{tmp_path}")


def test_many_shards_keep_few_files_open_and_travel(tmp_path: Path, eight_words: Words) -> None:
    for number in range(OPEN_FILES + 8):
        write_tar(tmp_path / f"{number:03d}.tar", tar_members(eight_words[number % 8 :][:1]))
    source = open_source(f"webdataset:{tmp_path}")
    for index in range(OPEN_FILES + 8):
        assert source.text(index) == eight_words[index % 8][1]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.text(1) == "exit"
    if hasattr(os, "fork"):
        source.text(1)
        child = os.fork()
        if not child:
            os._exit(0 if source.text(1) == "exit" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert source.text(1) == "exit"


def test_braces_count() -> None:
    assert expand_braces("w-{08..11}.tar") == ["w-08.tar", "w-09.tar", "w-10.tar", "w-11.tar"]
    assert expand_braces("{0..1}/{1..2}") == ["0/1", "0/2", "1/1", "1/2"]
    assert expand_braces("w-*.tar") == ["w-*.tar"]
