"""Tables in CSV, with nothing in them that a spreadsheet would take for a formula."""

import re
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula, by OWASP's list; the last four are the full-width forms of the first."""


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> bytes:
    """A line of the columns' names and one of each row, in UTF-8; numbers stand as they are, texts as `plain` has them."""
    return "".join(",".join(map(_cell, row)) + "\n" for row in (columns, *rows)).encode()


def _cell(value: str | int | float) -> str:
    text = plain(value) if isinstance(value, str) else str(value)
    # Python's csv writes a carriage return without quotes, and then reads the end of a row in it.
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text


def plain(cell: str) -> str:
    """The text, after one more `'` where a formula would begin it, or apostrophes and then a formula.

    So the text is got back by taking one `'` from each cell in which a formula stands behind apostrophes.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell
