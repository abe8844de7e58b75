"""What a person sees of a run that is trained."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from catdog.errors import printable
from catdog.runs.metrics_file import Line


def say(text: str) -> None:
    """Tell the person who waits."""
    _print(Console(stderr=True, highlight=False), text)


class Screen:
    """What a person sees of the run: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, done: int, *, shown: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=not shown)
        self._live = self._console.is_terminal
        self._started, self._start_step, self._total = time.monotonic(), done, total
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=total, completed=done, numbers="")
        self._progress.start()

    def step(self, done: int, phase: str) -> None:
        self._progress.update(self._task, completed=done, description=printable(phase))

    def show(self, line: Line) -> None:
        """Show a line of metrics."""
        if self._live and line["split"] == "train":
            self._progress.update(self._task, numbers=_numbers(line))
        else:
            self.say(
                f"step {line['step']}/{self._total} {line['phase']} {line['split']} {_numbers(line)}{self._left(line)}"
            )

    def say(self, text: str) -> None:
        _print(self._console, text)

    def close(self) -> None:
        self._progress.stop()

    def _left(self, line: Line) -> str:
        done = line["step"] - self._start_step
        if line["split"] != "train" or done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._total - line["step"])
        return f", {int(seconds) // 60}:{int(seconds) % 60:02d} left"


def _print(console: Console, text: str) -> None:
    """A line, in which neither `[red]` nor `:dog:` means anything."""
    console.print(printable(text), soft_wrap=True, markup=False, emoji=False)


def _numbers(line: Line) -> str:
    text = f"loss {line['loss']:.4f}, accuracy {line['accuracy']:.3f}"
    if "images_per_s" in line:
        text += f", {line['images_per_s']:.0f} images/s, {line['data_wait']:.0%} waiting for data"
    return text
