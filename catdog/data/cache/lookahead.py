"""What a pass over shards needs at its step, and what it needs next."""

import itertools
from collections import deque
from collections.abc import Iterator

from catdog.data.order import Need


class Lookahead:
    """A window on the needs of a pass, which come by their first step and are taken in no faster than they are reached."""

    def __init__(self, needs: Iterator[Need], ahead: int) -> None:
        self._needs = needs
        self._ahead = ahead
        self._current: list[Need] = []
        self._coming: deque[Need] = deque()
        self._take_in()

    @property
    def now(self) -> list[int]:
        """The shards that are needed at the step; none before one is reached."""
        return [need.shard for need in self._current]

    @property
    def later(self) -> list[int]:
        """The shards of the next `ahead` needs, by first step."""
        return [need.shard for need in itertools.islice(self._coming, self._ahead)]

    def reach(self, step: int) -> bool:
        """Go on to a step; tells whether a need begins or ends by that."""
        begins = bool(self._coming) and self._coming[0].first <= step
        if not begins and all(need.last >= step for need in self._current):
            return False
        while self._coming and self._coming[0].first <= step:
            self._current.append(self._coming.popleft())
            self._take_in()
        self._current = [need for need in self._current if need.last >= step]
        return True

    def _take_in(self) -> None:
        # One need is known even if nothing is fetched ahead, or no step would be seen to begin it.
        missing = max(self._ahead, 1) - len(self._coming)
        self._coming.extend(itertools.islice(self._needs, missing))
