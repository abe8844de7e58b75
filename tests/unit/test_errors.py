"""What is shown of an error, and of what others have named."""

import pytest

from catdog.errors import did_you_mean, one_line, printable, tell


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\n  b\tc"), "a b c"),
        (ValueError(), "ValueError"),
        (OSError(" "), "OSError"),
        (ValueError("\x1b[2J"), "\\x1b[2J"),
    ],
)
def test_an_error_of_any_kind_becomes_one_line(error: Exception, told: str) -> None:
    assert one_line(error) == told


def test_the_most_like_of_the_known_names_is_meant_if_any_is_like_it() -> None:
    known = ("train", "trainer", "predict")
    assert did_you_mean("trian", known) == "did you mean train?"
    assert did_you_mean("pedict", known, repr) == "did you mean 'predict'?"
    assert did_you_mean("qqq", known) == did_you_mean("x", ()) == ""
    assert did_you_mean("tra", known, cutoff=0.9) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("größer 猫 👩‍👧\u3000\u202fPM.jpg", "größer 猫 👩‍👧\u3000\u202fPM.jpg"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m\x85\x7f\0", "\\x9b31m\\x85\\x7f\\x00"),
        ("a\r\n\tb\u2028c", "a\\r\\n\\tb\\u2028c"),
        ("cat\u202egpj.exe\u2066\u200f", "cat\\u202egpj.exe\\u2066\\u200f"),
        ("latin-\udce9.jpg \ud800", "latin-\\xe9.jpg \\ud800"),
        ("\U000e0041\ufeff\ufff9", "\\U000e0041\\ufeff\\ufff9"),
        ("[red]cat[/red] :dog:", "[red]cat[/red] :dog:"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_an_escape_and_all_else_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == printable(shown) == shown


def test_a_line_keeps_its_cells_apart_and_is_one_line_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\tb", "c\nd\x1b]0;title\x07")
    assert capsys.readouterr() == ("a\\tb\tc\\nd\\x1b]0;title\\x07\n", "")
