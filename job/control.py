"""What the driver and the workers tell each other: who has begun, and whether to stop."""

import asyncio


class Control:
    """An actor on the driver's host, which the driver and all workers call."""

    def __init__(self) -> None:
        self._begun = 0
        self._asked: asyncio.Future[int] = asyncio.Future()

    async def begin(self) -> None:
        """A worker has begun."""
        self._begun += 1

    async def begun(self) -> int:
        """Workers that have begun."""
        return self._begun

    async def ask_to_stop(self, number: int) -> None:
        if not self._asked.done():
            self._asked.set_result(number)

    async def asked_to_stop(self) -> int:
        """The number of the signal that asked, once one has."""
        return await asyncio.shield(self._asked)
