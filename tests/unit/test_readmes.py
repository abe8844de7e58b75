"""What the READMEs say is so: paths, links, commands, options, make targets, modules and fields exist as they are told."""

import ast
import dataclasses
import re
import shlex
import shutil
import subprocess
import textwrap
import typing
from pathlib import Path

import pytest

from catdog import cli, recipe
from catdog.command.arguments import parse_command
from catdog.recipe import MAY_DIFFER, Recipe
from job.command import Train
from job.submit.commands import Submit, parse

ROOT = Path(__file__).parents[2]
listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
FILES = [path for name in (listed.stdout.splitlines() if listed else ()) if (path := ROOT / name).is_file()]
if not FILES:
    pytest.skip("only git tells which files are the repository's", allow_module_level=True)
TOP = {path.relative_to(ROOT).parts[0] for path in FILES}
README = ROOT / "README.md"
PAGES = [path for path in FILES if path.name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
MADE_LATER = ("infra/gcp/.terraform.lock.hcl", "infra/gcp/backend.tf")
"""Files that infra/README.md tells its reader to make."""
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def fenced(page: Path, *kinds: str) -> list[str]:
    return [textwrap.dedent(code) for kind, code in FENCE.findall(page.read_text()) if kind in kinds]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """What stands between backticks, on one line or two."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def section(page: Path, heading: str) -> str:
    return re.split(r"^#+ ", page.read_text().partition(f" {heading}\n")[2], flags=re.MULTILINE)[0]


def commands(page: Path) -> list[tuple[list[str], str]]:
    """The words of each command that a page shows, up to a pipe or the like, and what it is shown to print."""
    found = []
    for block in fenced(page, "sh"):
        found += [(line, "") for line in block.replace("\\\n", " ").splitlines()]
    for block in fenced(page, "console"):
        found += [
            each.partition("\n")[::2] for each in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)
        ]
    return [(_first(shlex.split(line, comments=True)), printed) for line, printed in found]


def _first(words: list[str]) -> list[str]:
    end = next((number for number, word in enumerate(words) if word in ("|", "||", "&&", ";")), len(words))
    return words[:end]


def calls(page: Path) -> list[tuple[list[str], str]]:
    """The words after `catdog` of each such command; kubectl's namespace and the image have that name as well."""
    return [
        (words[number + 1 :], printed)
        for words, printed in commands(page)
        for number, word in enumerate(words[:-1])
        if word == "catdog" and re.match(r"(?!catdog$)\w", words[number + 1]) and words[number - 1 : number] != ["-n"]
    ]


def modules(page: Path) -> list[str]:
    """The files whose purpose is told in a page's table, in order, as paths from the page's folder."""
    return re.findall(r"^\| `([\w./]+\.py)` \|", page.read_text(), re.MULTILINE)


def test_the_first_page_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@EVERY_PAGE
def test_links_lead_to_what_there_is(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_paths_in_backticks_are_there(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", span) and not missing_is_fine(page, span):
            assert any(any(folder.glob(span)) for folder in (ROOT, page.parent)), span


def missing_is_fine(page: Path, span: str) -> bool:
    """Whether a text need not be a path of the repository: it is neither below a folder of it nor named like its files."""
    first = span.partition("/")[0]
    below = "/" in span and (first in TOP or (page.parent / first).is_dir())
    like_a_file = re.fullmatch(r"[\w-]+\.(py|lock|tf|toml\.example)", span)
    return span in MADE_LATER or not (below or like_a_file)


def test_the_tree_has_a_line_for_each_folder_of_the_top_and_each_package() -> None:
    (picture,) = fenced(README, "text")
    shown: list[Path] = []
    for indent, name in re.findall(r"^( *)([\w.-]+)/ ", picture, re.MULTILINE):
        depth = len(indent) // 2
        parent = (
            ROOT if depth == 0 else next(path for path in reversed(shown) if len(path.relative_to(ROOT).parts) == depth)
        )
        shown.append(parent / name)
    folders = {folder for path in FILES for folder in path.parents if folder.is_relative_to(ROOT) and folder != ROOT}
    told = {path for path in folders if len(path.relative_to(ROOT).parts) <= 2 or (path / "__init__.py").exists()}
    assert sorted(shown) == sorted(told)
    assert len(picture.splitlines()) == len(shown)


@pytest.mark.parametrize("package", ["catdog", "job"])
def test_a_package_s_page_tells_of_each_of_its_modules(package: str) -> None:
    files = [path for path in FILES if path.is_relative_to(ROOT / package) and path.suffix == ".py"]
    holding_code = [str(path.relative_to(ROOT / package)) for path in files if path.read_text().strip()]
    assert sorted(modules(ROOT / package / "README.md")) == sorted(holding_code)


@EVERY_PAGE
def test_commands_and_options_are_what_the_programs_take(page: Path) -> None:
    for words, printed in calls(page):
        command = cli.parse(words)
        if isinstance(command, cli.Train) and "error:" not in printed:
            recipe.override(Recipe(), command.settings)
    for words, _ in commands(page):
        if "-m" in words and not words[words.index("-m") + 1].startswith("pip"):
            taken_by_module(*words[words.index("-m") + 1 :])
    for span in spans(page):
        if match := re.match(r"catdog (\S+)", span):
            assert match[1] in (*cli.COMMANDS, "COMMAND", "--version"), span


def taken_by_module(module: str, *words: str) -> None:
    if module == "job.submit":
        command = parse(list(words))
        if isinstance(command, Submit):
            recipe.override(Recipe(), command.settings)
    elif module == "job.train":
        recipe.override(Recipe(), parse_command(Train, "train", module, list(words)).settings)
    elif module.partition(".")[0] in TOP:
        folder = ROOT / module.replace(".", "/")
        source = (folder / "__main__.py" if folder.is_dir() else folder.with_suffix(".py")).read_text()
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@EVERY_PAGE
def test_make_targets_and_variables_are_in_the_makefile(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for code in (*spans(page), *(" ".join(words) for words, _ in commands(page))):
        for target, variables in re.findall(r"(?<![\w-])make ([a-z][a-z-]*)((?: +[A-Z]+=\S*)*)", code):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
            for variable in re.findall(r"([A-Z]+)=", variables):
                assert f"$({variable})" in makefile, variable


@EVERY_PAGE
def test_mistakes_are_told_as_shown(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for words, printed in calls(page):
        if printed.startswith("catdog: error:"):
            assert cli.run(words) == 2
            assert capsys.readouterr().err == printed


def test_every_field_of_a_recipe_is_told_as_it_is() -> None:
    fields = (ROOT / "job/recipes/README.md").read_text().partition("\n## Every field\n")[2]
    told = re.findall(r"^\| `.*$", fields, re.MULTILINE)
    assert told == field_rows(), "the tables should read:\n" + "\n".join(field_rows())


def field_rows() -> list[str]:
    """A row for each field, out of the dataclasses of catdog/recipe.py and the texts below their fields."""
    texts = field_texts()
    rows = []
    for name, kind in typing.get_type_hints(Recipe).items():
        if name != "unset":
            table = kind if dataclasses.is_dataclass(kind) else typing.get_args(kind)[0]
            hints = typing.get_type_hints(table)
            for each in dataclasses.fields(table):
                text, default = texts[table.__name__, each.name], shown(each.default)
                rows.append(f"| `{name}.{each.name}` | `{default}` | {allowed(hints[each.name])} | {text} |")
    return rows


def field_texts() -> dict[tuple[str, str], str]:
    found = {}
    for table in ast.parse(Path(recipe.__file__).read_text()).body:
        if isinstance(table, ast.ClassDef):
            for before, after in zip(table.body, table.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    assert isinstance(before.target, ast.Name) and isinstance(after.value, ast.Constant)
                    found[table.name, before.target.id] = " ".join(str(after.value.value).split())
    return found


def shown(default: object) -> str:
    """A default as TOML."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f'"{default}"'
    return f"{default:_}" if isinstance(default, int) else str(default)


def allowed(kind: typing.Any) -> str:
    """The values that a type stands for, in words."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f'`"{value}"`' for value in typing.get_args(kind))
    words = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    return " or ".join(words[each] for each in typing.get_args(kind) or (kind,))


def test_what_may_differ_between_the_parts_of_a_run_is_told() -> None:
    named = re.findall(r"`([\w.]+)`", section(ROOT / "catdog/runs/README.md", "What may differ").partition("So may")[0])
    assert {name.removesuffix(".") for name in MAY_DIFFER} == {*named} - {"train"}
