"""Pictures and a recipe that the whole job runs on in seconds."""

from pathlib import Path

from catdog.data import drawn_pictures
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.storage import open_bucket

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


def small_recipe(folder: Path) -> Path:
    """The recipe, with a data set of these pictures, in a folder."""
    draw_pictures(folder / "pictures")
    data = open_bucket(str(folder / "data"))
    prepare(f"folder:{folder / 'pictures'}", data, PrepareOptions(side=64, shards=4))
    path = folder / "small.toml"
    path.write_text(RECIPE.replace("[data]", f'[data]\nuri = "{data.uri}"'))
    return path
