"""The report is one page that loads nothing, tells the figures, and shows users' file names as text."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from catdog.data.images import Unreadable
from catdog.evaluation.metrics import summarize
from catdog.evaluation.plots import Mistake
from catdog.evaluation.report import render
from catdog.recipe import Data, Recipe
from catdog.runs.metrics_file import Line, parse_metrics

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's tags with their attributes and its text; fails on tags that don't close in turn."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 300), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 300), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def page(
    labels=(0, 0, 1, 1), probabilities=(0.1, 0.7, 0.8, 0.9), lines=(), mistakes=(), name="photos", **changes
) -> str:
    metrics = {
        "split": "test",
        **summarize(np.array(labels), np.array(probabilities)),
        "data": {
            "uri": "bucket/data/photos",
            "source": "folder:photos",
            "options": {"side": 256},
            "digest": "abc123",
            "splits": {"train": {"cat": 1040, "dog": 1039}, "test": {"cat": 2, "dog": 2}},
        },
        "environment": {"TensorFlow": "2.21.0"},
    }
    images = dict.fromkeys(("confusion", "reliability", "roc", "precision_recall", "loss", "accuracy"), png())
    return render(name, metrics | changes, Recipe(data=Data(side=160)), lines, images, mistakes)


def lines(epochs: int) -> list[Line]:
    text = ""
    for epoch in range(1, epochs + 1):
        row = {
            "step": epoch * 10,
            "phase": "frozen",
            "epoch": epoch,
            "loss": 1 / epoch,
            "accuracy": 0.75,
            "time": epoch,
        }
        text += (
            json.dumps(row | {"split": "train", "images_per_s": 123.4})
            + "\n"
            + json.dumps(row | {"split": "val"})
            + "\n"
        )
    return parse_metrics(text.encode())


def test_page_loads_nothing_and_runs_nothing():
    source = page(lines=lines(3), mistakes=[Mistake("a.jpg", "cat", "dog", 0.7, jpeg())])
    told = Page(source)
    assert all(image["src"].startswith("data:image/") for image in told.all("img"))
    assert len(told.all("img")) == 7
    assert {tag for tag, _ in told.tags} & {"script", "link", "iframe", "object", "embed"} == set()
    assert not re.search(r"https?://|url\(|@import", source)


def test_page_fits_a_phone_and_follows_the_dark_setting():
    source = page()
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in Page(source).all("meta")
    assert "prefers-color-scheme: dark" in source


def test_every_picture_has_a_text_in_its_place():
    told = Page(page(mistakes=[Mistake("a.jpg", "cat", "dog", 0.7, jpeg())]))
    assert all(image["alt"] for image in told.all("img"))


def test_page_tells_figures_data_recipe_and_environment():
    text = Page(page()).text
    for wanted in (
        "75.0%",
        "3 of 4 right",
        "30.1% to 95.4%",
        "folder:photos",
        "1,039",
        "abc123",
        "2.21.0",
        "side = 160",
    ):
        assert wanted in text, wanted


def test_epochs_are_a_table_with_the_kept_one_marked():
    source = page(lines=lines(3))
    (kept,) = re.findall(r'<tr class="kept">(.*?)</tr>', source)
    assert kept.startswith("<td>3</td>")
    assert "123" in kept
    assert "the model of epoch 3 was kept" in Page(source).text


def test_an_epoch_without_a_speed_has_a_dash_in_its_place():
    untimed = [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines(1)]
    (row,) = re.findall(r'<tr class="kept">(.*?)</tr>', page(lines=untimed))
    assert row.count("<td>\N{EN DASH}</td>") == 3  # rate and wait for data are not in these lines either


def test_a_long_table_starts_folded():
    assert {"class": "card", "open": None} in Page(page(lines=lines(5))).all("details")
    assert {"class": "card", "open": None} not in Page(page(lines=lines(60))).all("details")


def test_a_run_without_metrics_still_has_a_report():
    assert "no metrics.jsonl" in Page(page()).text


def test_no_mistakes_is_told_in_words():
    assert "every example was classified right" in Page(page(probabilities=(0.1, 0.2, 0.8, 0.9))).text


@pytest.mark.parametrize(
    "name", ['<script>alert("x")</script>.jpg', '"><img src=x onerror=y>', "a & b's $name ${x}.jpg"]
)
def test_users_text_is_shown_and_not_obeyed(name):
    plain, told = Page(page()), Page(page(name=name, mistakes=[Mistake(name, "cat", "dog", 0.7, jpeg())]))
    assert told.text.count(name) == 3  # title, heading, mistake
    assert len(told.all("img")) == len(plain.all("img")) + 1
    assert told.all("script") == []
    assert all("onerror" not in attributes for _, attributes in told.tags)


def test_what_steers_the_order_of_characters_or_is_none_is_shown_as_an_escape():
    text = Page(page(name="\u202efdp.jpg \x1b \udce9")).text
    assert "\\u202efdp.jpg \\x1b \\xe9" in text
    assert text.encode()


def test_no_picture_but_a_jpeg_is_opened():
    with pytest.raises(Unreadable, match="PNG where only JPEG is read"):
        page(mistakes=[Mistake("a.jpg", "cat", "dog", 0.7, png())])


def test_a_metric_without_value_is_a_dash_with_its_reason():
    text = Page(page(labels=(1, 1), probabilities=(0.8, 0.9))).text
    assert "every example is a dog: both classes are needed" in text
    assert "None" not in text
    assert "nan" not in text


def test_one_class_alone_gives_no_verdict():
    whole = Page(page(labels=(1, 1), probabilities=(0.8, 0.9))).text
    assert ": no verdict" in whole and "% right" not in whole
    assert "No verdict: every example is a dog" in whole
    assert "no verdict" not in Page(page()).text.lower()


def test_pictures_of_mistakes_are_made_small():
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)).save(large, "JPEG")
    assert len(page(mistakes=[Mistake("a.jpg", "cat", "dog", 0.7, large.getvalue())])) < len(page()) + 200_000
