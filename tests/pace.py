"""How long tests wait: as long as on an idle machine, times how much slower than one this machine is."""

import functools
import time

_IDLE = 0.12
"""Seconds that one core of a common machine of 2024, with nothing else to do, takes for the work that is timed."""


def within(seconds: float) -> float:
    """A bound that an idle machine keeps with ease, in the seconds of this one."""
    return seconds * _slowness()


@functools.cache
def _slowness() -> float:
    """At least 1; what other processes take of the cores counts, so the clock on the wall is looked at."""
    began = time.perf_counter()
    sum(number * number for number in range(2_500_000))
    return max(1.0, (time.perf_counter() - began) / _IDLE)
