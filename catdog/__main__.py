"""The `catdog` command and `python -m catdog`: its first instructions."""

from typing import NoReturn

from catdog.command.program import run_program


def main() -> NoReturn:
    """The console script."""
    run_program("catdog", _command)


def _command() -> int:
    from catdog import cli

    return cli.main()


if __name__ == "__main__":
    main()
