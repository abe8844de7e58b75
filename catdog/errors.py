"""The one exception that the command line turns into a single line and exit code 2."""


class CallerError(Exception):
    """A mistake that the caller can mend: its message is one line that says what, where and what would be right."""


class RunError(Exception):
    """A run that cannot go on through no fault of the command line: its message is one line; exit code 1."""
