"""A sheet shows every word with its label."""

import numpy as np
from PIL import Image

from training.contact_sheet import CELL_WIDTH, COLUMNS, draw_contact_sheet
from training.word_checks import ShownWord


def test_every_word_has_its_cell_and_sections_without_words_are_left_out() -> None:
    red, blue = Image.new("RGB", (60, 20), "red"), Image.new("RGB", (20, 60), "blue")
    words = [ShownWord(0, red, "one"), *[ShownWord(i, None, "gone") for i in range(1, COLUMNS)]]
    words.append(ShownWord(COLUMNS, blue, "naïve\nтри " + "x" * 200, "too long"))
    sheet = draw_contact_sheet([("words", words), ("nothing", [])])
    assert sheet.width == COLUMNS * CELL_WIDTH
    pixels = np.asarray(sheet).astype(int)
    for colour in ((255, 0, 0), (0, 0, 255)):
        rows, columns = np.where((pixels == colour).all(-1))
        assert rows.size > 500
        assert columns.max() < CELL_WIDTH, "both stand in the first column"
    assert draw_contact_sheet([("words", words)] * 2).height == 2 * sheet.height
    assert draw_contact_sheet([]).width == sheet.width


def test_a_longer_label_stays_in_its_cell() -> None:
    one = draw_contact_sheet([("words", [ShownWord(0, None, "x" * 300)])])
    assert (np.asarray(one)[40:, CELL_WIDTH:] == 255).all()
