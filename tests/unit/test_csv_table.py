import csv
import io

import pytest

from catdog.data.csv_table import csv_table, plain

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    (_, (cell, _)) = csv.reader(io.StringIO(csv_table(["name", "number"], [(text, -1)]).decode(), newline=""))
    assert cell == "'" + text


@pytest.mark.parametrize(
    "text", [*FORMULAS, "'=1", "''=1", "cat.1.jpg", "'tis.jpg", "'", "", "a=1", 'quote".jpg', "a,b\nc"]
)
def test_the_text_is_got_back_from_its_cell(text: str) -> None:
    cell = plain(text)
    formula = cell.lstrip("'")[:1] in tuple(formula[0] for formula in FORMULAS) and cell.lstrip("'") != ""
    assert (cell[1:] if formula else cell) == text


def test_ordinary_texts_and_numbers_stand_as_they_are() -> None:
    assert csv_table(["path", "count"], [("cat/1.jpg", -3), ("größer 猫.jpg", 0.5)]).decode() == (
        "path,count\ncat/1.jpg,-3\ngrößer 猫.jpg,0.5\n"
    )
