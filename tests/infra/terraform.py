"""What a folder of Terraform declares and refers to, without Terraform's providers."""

import json
import re
from pathlib import Path
from typing import Any

from tests.infra.tools import run

Block = dict[str, Any]
_REFERENCE = re.compile(r"(?<![\w.\"/])(?:(?:var|local)\.\w+|data\.\w+\.\w+|google_\w+\.\w+)")


class Terraform:
    """The blocks of all files of a folder, by their kind."""

    def __init__(self, folder: Path) -> None:
        self.blocks: dict[str, list[Block]] = {}
        for file in sorted(folder.glob("*.tf")):
            for kind, blocks in parsed(file).items():
                self.blocks.setdefault(kind, []).extend(blocks)

    def labelled(self, kind: str) -> dict[str, Block]:
        """Variables or outputs, by their name."""
        return {name: body for block in self.blocks.get(kind, []) for name, body in block.items()}

    def typed(self, kind: str) -> dict[str, Block]:
        """Resources or data, by TYPE.NAME."""
        pairs = [pair for block in self.blocks.get(kind, []) for pair in block.items()]
        return {f"{type_}.{name}": body for type_, bodies in pairs for name, body in bodies.items()}

    def required(self) -> set[str]:
        """The variables that have no default."""
        return {name for name, body in self.labelled("variable").items() if "default" not in body}

    def faults(self) -> list[str]:
        """References to what is not there, and variables and locals that nothing refers to."""
        settable = {f"var.{name}" for name in self.labelled("variable")}
        settable |= {f"local.{name}" for block in self.blocks.get("locals", []) for name in block}
        there = settable | {f"data.{name}" for name in self.typed("data")} | self.typed("resource").keys()
        referred = references(self.blocks)
        # A variable's own validation refers to it, too.
        used = references({kind: blocks for kind, blocks in self.blocks.items() if kind != "variable"})
        missing, idle = referred - there, settable - used
        return sorted([f"{name} is not declared" for name in missing] + [f"{name} is not used" for name in idle])


def references(value: object) -> set[str]:
    """What the expressions somewhere in a parsed file refer to."""
    if isinstance(value, dict):
        return references([*value.keys(), *value.values()])
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    return set(_REFERENCE.findall(value)) if isinstance(value, str) else set()


def parsed(file: Path) -> Block:
    """One file, whatever its name ends with, as checkov's parser reads it; raises AssertionError where it cannot."""
    done = run("hcl2tojson", file)
    assert done.returncode == 0, f"{file.name}: {done.stdout}{done.stderr}"
    return _plain(json.loads(done.stdout))


def _plain(body: Block) -> Block:
    """Without the list that the parser puts around each attribute, and without its own marks."""
    return {name: _value(value) for name, value in body.items() if not name.startswith("__")}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list):
        blocks = [_plain(item) if isinstance(item, dict) else item for item in value]
        return blocks[0] if len(blocks) == 1 and not isinstance(blocks[0], dict) else blocks
    return value
