"""Tables in CSV, with nothing in them that a spreadsheet would take for a formula, or a terminal for an order."""

import re
from collections.abc import Iterable, Sequence

from catdog.errors import printable

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula, by OWASP's list, of what can be shown; the last four are the full-width forms of the first."""


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> bytes:
    """A line of the columns' names and one of each row, in UTF-8; numbers stand as they are, texts as they are shown
    everywhere, and as `plain` has them."""
    return "".join(",".join(map(_cell, row)) + "\n" for row in (columns, *rows)).encode()


def _cell(value: str | int | float) -> str:
    text = plain(printable(value)) if isinstance(value, str) else str(value)
    # In some countries spreadsheets split at semicolons.
    return '"' + text.replace('"', '""') + '"' if re.search('[,;"]', text) else text


def plain(cell: str) -> str:
    """The text, after one more `'` where a formula would begin it, or apostrophes and then a formula.

    So the text is got back by taking one `'` from each cell in which a formula stands behind apostrophes.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell
