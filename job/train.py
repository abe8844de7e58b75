"""`python -m job.train`: its first instructions."""

import sys
from typing import NoReturn

from catdog.command.program import run_program


def main() -> NoReturn:
    """Train by the words of this process's command line."""
    run_program("job.train", _command)


def _command() -> int:
    from job import command

    return command.run(sys.argv[1:])


if __name__ == "__main__":
    main()
