"""A table, as it is printed for people."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from rich.table import Column


def print_table(columns: Sequence[Union[str, "Column"]], rows: Iterable[Sequence[str]]) -> None:
    """Rows of cells under the columns' titles; where stdout is no terminal each row keeps to one line, however long."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)
