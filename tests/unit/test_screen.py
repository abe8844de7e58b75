import pytest

from catdog.training.screen import Screen, say


def test_a_line_without_a_speed_is_shown_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"step": 2, "phase": "frozen", "split": "train", "loss": 0.5, "accuracy": 0.5}
    screen = Screen(total=4, done=0)
    screen.show(line)
    screen.show(line | {"step": 4, "images_per_s": 250.0, "data_wait": 0.125})
    screen.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 2/4 frozen train loss 0.5000, accuracy 0.500, ") and "images/s" not in first
    assert "250 images/s, 12% waiting for data" in second


def test_names_are_shown_as_they_are_and_steer_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("[red]cat[/red] :dog: \x1b[31m")
    screen = Screen(total=4, done=0)
    screen.step(1, "[/] \x1b[31m")
    screen.say("[bold]x\x9b")
    screen.close()
    assert capsys.readouterr().err == "[red]cat[/red] :dog: \\x1b[31m\n[bold]x\\x9b\n"


def test_the_bar_on_a_terminal_shows_a_phase_as_it_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen(total=4, done=0)
    screen.step(1, "[red]\x07")
    screen.close()
    assert "[red]\\x07" in capsys.readouterr().err
