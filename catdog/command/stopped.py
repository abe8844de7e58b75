"""How a command ends whose run was asked to stop."""

import sys

from catdog.errors import signalled
from catdog.training.signals import Stopped


def end_stopped(program: str, stopped: Stopped) -> int:
    """Tell on stderr what is committed and how to go on; the exit code of the signal that asked."""
    print(f"{program}: {stopped}; the same command goes on from there", file=sys.stderr)
    return signalled(stopped.number)
