"""No file imports from a room above its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From the ground up; what is in none of the others' rooms belongs to the first one that has its beginning.
ROOMS = (
    ("catdog", "catdog.errors"),
    ("catdog.recipe",),
    ("catdog.storage",),
    ("catdog.data",),
    ("catdog.model",),
    ("catdog.runs",),
    ("catdog.evaluation",),
    ("catdog.training",),
    ("catdog.command",),
    ("catdog.cli", "catdog.__main__"),
    ("job",),
    ("job.submit",),
    ("infra",),
)
ROW = {module: row for row, room in enumerate(ROOMS) for module in room}


def room(name: str) -> str | None:
    """The longest of the modules in ROOMS that a name lies in; None outside of this repository."""
    return max((module for module in ROW if f"{name}.".startswith(f"{module}.")), key=len, default=None)


def imported(path: Path) -> Iterator[str]:
    """Dotted names, whether they are imported at the top, in a function or for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports relative to its folder"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_file_imports_from_a_room_above_its_own_and_infra_stands_alone() -> None:
    faults = []
    for path in sorted(path for folder in ("catdog", "job", "infra") for path in (ROOT / folder).rglob("*.py")):
        own = room(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        for name in imported(path):
            other = room(name)
            if other is not None and (ROW[other] > ROW[own] or (own == "infra" and other != "infra")):
                faults.append(f"{path.relative_to(ROOT)} imports {name}")
    assert faults == []
