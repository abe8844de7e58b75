"""Whatever bytes come from outside end in what they say or in one line: some hundred inputs of each parser.

`make fuzz` tries more of them, and others each time.
"""

from random import Random

import pytest

from tests.fuzz.__main__ import PARSERS, fuzz

COUNTS = {"curves": 3, "records": 20, "model": 10, "weights": 20}
"""Of those that take long."""


@pytest.mark.parametrize("name", PARSERS)
def test_changed_inputs_end_in_what_they_say_or_in_one_line(name: str) -> None:
    assert fuzz(PARSERS[name], Random(name), count=COUNTS.get(name, 300)) > 0
