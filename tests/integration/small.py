"""Pictures and a recipe that the whole job runs on in seconds."""

from pathlib import Path

from catdog.data import drawn_pictures

RECIPE = """
[data]
side = 32
global_batch = 16
streams = 4
[model]
units = 16
[run]
precision = "float32"
log_every = 2
[checkpoint]
every_steps = 3
[[phases]]
name = "frozen"
epochs = 2
learning_rate = 1e-2
views = 0
[[phases]]
name = "finetune"
epochs = 2
learning_rate = 1e-3
unfreeze = 2
views = 0
"""
"""Four epochs of ten steps."""


def draw_pictures(folder: Path) -> None:
    """200 drawn pictures in class folders."""
    for index in range(200):
        content, label = drawn_pictures.draw(0, index)
        place = folder / ("dog" if label else "cat")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.jpg").write_bytes(content)
