import pytest

from catdog.training.screen import Screen


def test_a_line_without_a_speed_is_shown_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"step": 2, "phase": "frozen", "split": "train", "loss": 0.5, "accuracy": 0.5}
    screen = Screen(total=4, done=0)
    screen.show(line)
    screen.show(line | {"step": 4, "images_per_s": 250.0, "data_wait": 0.125})
    screen.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 2/4 frozen train loss 0.5000, accuracy 0.500, ") and "images/s" not in first
    assert "250 images/s, 12% waiting for data" in second
