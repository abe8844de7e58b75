"""The exceptions that the command line turns into a single line and an exit code."""


class CallerError(Exception):
    """A mistake that the caller can mend: its message is one line that says what, where and what would be right."""


class RunError(Exception):
    """A run that cannot go on through no fault of the command line: its message is one line; exit code 1."""


def one_line(error: Exception) -> str:
    """An error's message with its line breaks taken out, or its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
