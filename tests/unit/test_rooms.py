"""No file imports from a room above its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From the ground up. A module is in the room with the longest beginning of its name.
ROOMS = (
    ("catdog", "catdog.errors"),
    ("catdog.parsing",),
    ("catdog.recipe",),
    ("catdog.storage",),
    ("catdog.data",),
    ("catdog.model",),
    ("catdog.runs",),
    ("catdog.evaluation",),
    ("catdog.training",),
    ("catdog.planning",),
    ("catdog.command",),
    ("catdog.cli", "catdog.__main__"),
    ("job",),
    ("job.submit",),
    ("infra",),
)
ROW = {beginning: row for row, room in enumerate(ROOMS) for beginning in room}


def row(module: str) -> int:
    """Which of ROOMS a module, or a name in it, is in; -1 for what is not of this repository."""
    rooms = [beginning for beginning in ROW if f"{module}.".startswith(f"{beginning}.")]
    return ROW[max(rooms, key=len)] if rooms else -1


def imported(path: Path) -> Iterator[str]:
    """Dotted names, those that are imported in a function or for types only too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_file_imports_from_a_room_above_its_own_nor_the_command_line_and_infra_stands_alone() -> None:
    faults = []
    for path in sorted(path for top in ("catdog", "job", "infra") for path in (ROOT / top).rglob("*.py")):
        own = row(".".join(path.relative_to(ROOT).with_suffix("").parts))
        allowed = (-1, own) if own == ROW["infra"] else {*range(-1, own + 1)} - ({ROW["catdog.cli"]} - {own})
        faults += [f"{path.relative_to(ROOT)}: {name}" for name in imported(path) if row(name) not in allowed]
    assert faults == []


def test_the_page_of_the_package_has_the_rooms_in_this_order() -> None:
    told = re.findall(r"^\| \*\*(\w+)/?\*\* \|", (ROOT / "catdog/README.md").read_text(), re.MULTILINE)
    assert [f"catdog.{room}" for room in told] == [
        room[-1 if room[0] == "catdog" else 0] for room in ROOMS[: len(told)]
    ]
    assert len(told) == ROW["job"]
