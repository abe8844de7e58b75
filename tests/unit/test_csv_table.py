import csv
import io

import pytest

from catdog.data.csv_table import csv_table, plain

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    (_, (cell, _)) = csv.reader(io.StringIO(csv_table(["name", "number"], [(text, -1)]).decode(), newline=""))
    assert cell == "'" + text


@pytest.mark.parametrize(
    "text", [*FORMULAS, "'=1", "''=1", "cat.1.jpg", "'tis.jpg", "'", "", "a=1", 'quote".jpg', "a,b;c"]
)
def test_the_text_is_got_back_from_its_cell(text: str) -> None:
    cell = plain(text)
    formula = cell.lstrip("'")[:1] in tuple(formula[0] for formula in FORMULAS) and cell.lstrip("'") != ""
    assert (cell[1:] if formula else cell) == text


def test_ordinary_texts_and_numbers_stand_as_they_are() -> None:
    assert csv_table(["path", "count"], [("cat/1.jpg", -3), ("größer 猫.jpg", 0.5)]).decode() == (
        "path,count\ncat/1.jpg,-3\ngrößer 猫.jpg,0.5\n"
    )


@pytest.mark.parametrize("text", ["a;=1+1;.jpg", "a,=1+1", "a;b"])
def test_a_text_with_a_separator_of_any_country_is_one_cell(text: str) -> None:
    assert csv_table([], [(text,)]).decode().splitlines()[-1] == f'"{text}"'


@pytest.mark.parametrize(
    ("text", "shown"),
    [("t\x1b]0;x\x07", '"t\\x1b]0;x\\x07"'), ("\t=1", "\\t=1"), ("a\r\nb", "a\\r\\nb"), ("\u202egpj", "\\u202egpj")],
)
def test_what_steers_a_terminal_or_a_spreadsheet_stands_as_an_escape(text: str, shown: str) -> None:
    assert csv_table([], [(text,)]).decode() == f"\n{shown}\n"
