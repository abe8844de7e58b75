"""Every parser of bytes that anybody may have written, on mutated inputs: only CallerError and RunError may come of them.

Usage: python -m tests.fuzz [NAME ...] --seconds N [--seed N] | NAME --replay FILE
A parser takes bytes. Its seeds are whole inputs, of which the mutators change a few bytes, or a value in the tree of
JSON or TOML. An input whose outcome has not been seen before becomes a seed. A failing input is written to a file.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import re
import signal
import string
import struct
import sys
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

from catdog.data import images, verify
from catdog.data.example import encode_example
from catdog.data.options import PrepareOptions, parse_keep
from catdog.data.order import Order
from catdog.data.shards import CLASSES, SPLITS, Manifest, Shard, load_manifest
from catdog.data.sources import open_source
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError, RunError, printable
from catdog.recipe import Recipe, as_begun, differences, from_table, override, parse_recipe, to_table, to_toml
from catdog.runs.folder import Commit, Position, checkpoint_files, evaluation_of, read_commit
from catdog.runs.listing import by_run
from catdog.runs.metrics_file import best_epoch, epochs, kept_lines, parse_metrics, phases
from catdog.storage import Folder, Stat, open_bucket
from catdog.storage.lease import held
from infra.backbone import lite0
from infra.folder_lock import Refused
from tests.unit.lite0_file import file_of

LONGEST = 10.0
"""Seconds of the processor that an input may take; a seed more, for what its parser imports."""
_CORPUS = 2000

Mutate = Callable[[Random, bytes], bytes]


@dataclass
class Parser:
    """A function of bytes, with whole inputs of it and how they are changed."""

    parse: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    outcomes: set[str] = field(default_factory=set)


class Late(BaseException):
    """No Exception, which those who decode pictures take for a fault of the picture."""


class Failed(Exception):
    """An input that ends in something else than one line of ours."""

    def __init__(self, content: bytes, error: BaseException) -> None:
        super().__init__(printable(f"{type(error).__name__}: {error}"))
        self.content = content
        self.error = error


def fuzz(parser: Parser, random: Random, seconds: float = 1e9, count: int = sys.maxsize) -> int:
    """Try inputs until the seconds of the processor or the count are over; how many it were. Raises Failed."""
    corpus = parser.seeds()
    for seed in corpus:
        attempt(parser, seed, 30 * LONGEST)
    end, tried = time.process_time() + seconds, 0
    while tried < count and time.process_time() < end:
        content = parser.mutate(random, random.choice(corpus))
        tried += 1
        if attempt(parser, content) and len(corpus) < _CORPUS and len(content) < 1 << 20:
            corpus.append(content)
    return tried


def attempt(parser: Parser, content: bytes, longest: float = LONGEST) -> bool:
    """Whether an input has an outcome that has not been seen before. Raises Failed."""
    outcome = "taken"
    try:
        with _within(longest):
            parser.parse(content)
    except (CallerError, RunError) as error:
        outcome = printable(f"{type(error).__name__} {error}")
        if len(outcome) > 10_000:
            raise Failed(content, error) from error
    except (Exception, Late) as error:
        raise Failed(content, error) from error
    seen = re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+", "", outcome)[:200]
    new = seen not in parser.outcomes
    parser.outcomes.add(seen)
    return new


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise Late(f"took more than {seconds:.0f} s of the processor")

    before = signal.signal(signal.SIGPROF, late)  # not of the clock, for others may use the machine
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# Mutators

_NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.0, -0.5, 1e308, 5e-324),
    *("", "x", "\0", "\x1b[2J", "\n", "²", "٣", "é" * 9, "a" * 3000, "../../x", "NaN", "1e999", "gs://", "cpu:²"),
    *([], {}, [[]], {"": {}}, [1, "a", None], {"a": {"b": []}}),
)
_TEXTS = (
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\r\n",
        b"\n",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b"=",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000, b'{"a":' * 3000, b"a." * 300),
    *(b"\\ud800", b"\\u0000", b'"step"', b"null", b"-", b"1979-05-27T07:32:00Z", b"'''", b"[[", b"]]", b"#"),
)


def change_bytes(random: Random, content: bytes) -> bytes:
    """A few of: flipped bits, bytes cut, doubled, moved, put in, and numbers of several widths."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        at, length = random.randrange(len(changed) + 1), random.choice((1, 1, 2, 4, 16, 300))
        kind = random.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = random.randrange(256)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * random.choice((1, 2, 50))
        elif kind == 4:
            changed[at:at] = random.choice(_TEXTS)
        elif kind == 5:
            form = random.choice(["<B", ">H", "<H", ">I", "<I", ">Q", "<Q"])
            wrapped = random.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(form))
            changed[at : at + struct.calcsize(form)] = struct.pack(form, wrapped)
        elif kind == 6 and random.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def change_tree(random: Random, tree: Any) -> Any:
    """A copy of a tree of dicts and lists with one place changed: its value, its name, or that it is there."""
    tree = copy.deepcopy(tree)
    inner = [each for each in _inner(tree) if each]
    if not inner:
        return random.choice(_VALUES)
    here = random.choice(inner)
    key = random.choice(list(here) if isinstance(here, dict) else range(len(here)))
    kind = random.randrange(6)
    if kind == 0:
        del here[key]
    elif kind == 1 and isinstance(here, dict):
        here[random.choice((*here, "x", "", "é", "a\nb", "\x1b[2J", "q" * 300))] = here.pop(key)
    elif kind == 2:
        here[key] = copy.deepcopy(random.choice([each for each in _inner(tree) if each is not here] or [1]))
    elif kind == 3 and isinstance(here[key], str):
        here[key] = _change_text(random, here[key])
    elif kind == 4 and isinstance(here, list):
        here.insert(key, copy.deepcopy(here[key]))
    else:
        here[key] = copy.deepcopy(random.choice(_VALUES))
    return tree


def _inner(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _inner(value)


def _change_text(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    put = random.choice((*string.printable, "²", "٣", "\ud800", "\u2028", "..", "://", "\0"))
    return text[:at] + put + text[at + random.randrange(2) :]


def json_or_bytes(random: Random, content: bytes) -> bytes:
    """Lines of JSON with one tree changed, or its bytes, or both."""
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    if random.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            tree = json.loads(lines[number])
            lines[number] = json.dumps(change_tree(random, tree), ensure_ascii=random.random() < 0.9).encode(
                errors="surrogatepass"
            )
            content = b"\n".join(lines)
            if random.random() < 0.8:
                return content
    return change_bytes(random, content)


def toml_or_bytes(random: Random, content: bytes) -> bytes:
    """TOML with its tree changed, or its bytes, or both."""
    if random.random() < 0.6:
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            content = tomli_w.dumps(change_tree(random, tomllib.loads(content.decode()))).encode()
            if random.random() < 0.8:
                return content
    return change_bytes(random, content)


# Inputs


class _Given(Folder):
    """A bucket whose every object has the bytes that are tried."""

    def __init__(self, content: bytes) -> None:
        super().__init__("run")
        object.__setattr__(self, "content", content)

    def read(self, name: str, limit: int | None = None) -> bytes:
        content: bytes = vars(self)["content"]
        return content


_SCRATCH = tempfile.TemporaryDirectory(prefix="catdog-fuzz-")


def _file(name: str, content: bytes) -> Path:
    path = Path(_SCRATCH.name, name)
    path.write_bytes(content)
    return path


def _compact(content: bytes) -> bytes:
    """JSON on one line, which the mutator takes for a tree."""
    return json.dumps(json.loads(content)).encode()


def _recipes() -> list[bytes]:
    named = sorted((Path(__file__).parents[2] / "job/recipes").glob("*.toml"))
    return [to_toml(Recipe()).encode(), *(path.read_bytes() for path in named)]


def _recipe(content: bytes) -> None:
    recipe = parse_recipe(content, "recipe.toml")
    again = parse_recipe(to_toml(recipe).encode(), "recipe.toml")
    assert again == recipe
    json.dumps(to_table(recipe), allow_nan=False)


def _run_recipe(content: bytes) -> None:
    run = parse_recipe(content, "run/recipe.toml", of_run=True)
    differences(run, as_begun(Recipe(), run))


def _setting(content: bytes) -> None:
    name, _, text = os.fsdecode(content).partition("=")
    to_toml(override(Recipe(), [(name, text)])).encode()


_COMMIT = Commit(Position(3, 3, 0.5, 3, {"loss": 1.0}, "d" * 64, to_table(Recipe())), Stat(10, "00c0ffee"))


def _commit(content: bytes) -> None:
    commit = read_commit(_Given(content), 3)
    from_table(commit.position.recipe, "run", of_run=True)
    commit.to_json()


def _commits() -> list[bytes]:
    old = json.loads(_COMMIT.to_json())
    old["position"]["recipe"] = "d" * 64
    del old["position"]["digest"], old["catdog"]
    return [_compact(_COMMIT.to_json()), json.dumps(old).encode()]


def _lease(content: bytes) -> None:
    held(_Given(content), 0.0)


def _leases() -> list[bytes]:
    from catdog.storage import lease

    me = {"owner": "a" * 32, "host": "here", "machine": lease._machine()} | lease._process(os.getpid())
    return [json.dumps(holder).encode() for holder in (me, me | {"renewals": 7}, me | {"released": True}, {})]


def _metrics(content: bytes) -> None:
    lines = parse_metrics(content)
    phases(lines)
    best_epoch(epochs(lines))
    kept_lines(content, step=10, validated=5)


def _metric_lines() -> list[bytes]:
    line = {"step": 10, "phase": "frozen", "epoch": 0.5, "loss": 0.4, "accuracy": 0.8, "time": 5.0}
    train = line | {"split": "train", "learning_rate": 1e-3, "images_per_s": 90.0, "data_wait": 0.1}
    val = line | {"split": "val", "epoch": 1}
    return [
        b"\n".join(json.dumps(each | {"step": step}).encode() for step in (10, 20) for each in (train, val)) + b"\n"
    ]


def _curves(content: bytes) -> None:
    """What is drawn and written of a run's metrics when it goes on or is evaluated."""
    from catdog.evaluation import plots
    from catdog.training.log import MetricsLog

    lines = parse_metrics(content)
    plots.loss(lines)
    plots.accuracy(lines)
    log = MetricsLog(None, lines)
    log.objects()
    log.close()


def _evaluation(content: bytes) -> None:
    evaluation_of(_Given(content), "val", "d" * 64, named=False)


def _manifests() -> list[bytes]:
    shards = [Shard(f"{split}-00000-of-00001.tfrecord", split, 90, "00c0ffee", "0101") for split in SPLITS]
    return [_compact(Manifest("drawn", vars(PrepareOptions()), tuple(shards)).to_json())]


def _manifest(content: bytes) -> None:
    manifest = load_manifest(_Given(content))
    list(verify._manifest_faults(content, manifest))
    json.dumps([manifest.digest, manifest.options, manifest.source], allow_nan=False)
    sizes = tuple(shard.examples for shard in manifest.split("train"))
    Order(sizes, 1, 2, 0).batch(0)


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 32), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def _example(label: int) -> bytes:
    return encode_example(
        {
            "image/encoded": _jpeg(),
            "image/format": b"jpeg",
            "image/height": 32,
            "image/width": 40,
            "image/class/label": label,
            "image/class/text": CLASSES[label].encode(),
            "image/filename": b"a/cat.jpg",
        }
    )


def _shards() -> list[bytes]:
    path = _file("seed.tfrecord", b"")
    write_records(path, [_example(0), _example(1)])
    return [path.read_bytes()]


def _shard(content: bytes) -> None:
    shard = Shard(_file("train.tfrecord", content).name, "train", len(content), "00c0ffee", "01")
    verify.read_shard(open_bucket(_SCRATCH.name), shard)


def _reframed(mutate: Mutate) -> Mutate:
    """The records of a shard changed, and their checksums made to match."""

    def changed(random: Random, content: bytes) -> bytes:
        payloads = [_example(0), _example(1)]
        which = random.randrange(2)
        payloads[which] = mutate(random, payloads[which])
        path = _file("changed.tfrecord", b"")
        write_records(path, payloads)
        return path.read_bytes()

    return changed


def _trained_on(content: bytes) -> None:
    """The records of a shard as evaluation reads them."""
    from catdog.data.cache import open_cache
    from catdog.data.pipeline import evaluation_dataset, surfaced
    from catdog.data.records import Records
    from catdog.evaluation import evaluate
    from catdog.recipe import Cache

    shard = Shard(_file("read.tfrecord", content).name, "train", len(content), "00c0ffee", "01")
    with open_cache(open_bucket(_SCRATCH.name), {}, Cache()) as cache:
        records = Records([shard], cache)
        for _ in surfaced(evaluation_dataset(records, 32, 2), records):
            pass
        evaluate._features(records, range(2), "image/filename")


def _picture(content: bytes) -> None:
    for side in (None, 32):
        with contextlib.suppress(images.Unreadable):
            images.encode(images.decode(content, side), 32)


def _pictures() -> list[bytes]:
    found = []
    for mode, kind in (("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("L", "BMP"), ("RGB", "WEBP"), ("I;16", "TIFF")):
        buffer = io.BytesIO()
        image = Image.effect_noise((40, 32), 50)
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def _zip(content: bytes) -> None:
    opened = open_source(f"folder:{_file('photos.zip', content)}", 0)
    for item in opened.items:
        if item.content is not None:
            # What cannot be read of one member is a reason in skipped.csv, whatever it raises.
            with contextlib.suppress(Exception):
                images.decode(item.content.read(), 32)


def _zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name in ("cat/1.jpg", "dog/2.jpg", "é/cat.3.jpg"):
                archive.writestr(name, _jpeg())
        found.append(buffer.getvalue())
    return found


def _lite0(content: bytes) -> None:
    try:
        lite0.read(_file("some.pth", content))
    except Refused as error:
        raise CallerError(str(error)) from None


def _lite0_files() -> list[bytes]:
    content, buffer = file_of({"a": np.zeros((2, 3), np.float32), "b": np.array(7)}), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some.pth", content)
    return [content, buffer.getvalue()]


def _state(content: bytes) -> None:
    from catdog.training.checkpoint import _arrays

    _arrays(_file("state.npz", content), "state.npz")


def _states() -> list[bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, **{"model/0000": np.ones((3, 2), np.float32), "good_steps": np.int64(3)})
    return [buffer.getvalue()]


def _model(content: bytes) -> None:
    from catdog.evaluation.trained_model import load_trained

    root = Path(_SCRATCH.name, "run")
    root.mkdir(exist_ok=True)
    (root / "model.keras").write_bytes(content)
    (root / "recipe.toml").write_text(to_toml(Recipe()))
    load_trained(open_bucket(str(root))).probabilities(np.zeros((1, 96, 96, 3), np.uint8))


def _models() -> list[bytes]:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((96, 96, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, "sigmoid")]
    path = Path(_SCRATCH.name, "seed.keras")
    keras.Sequential(layers).save(path)
    return [path.read_bytes()]


def json_in_zip(random: Random, content: bytes) -> bytes:
    """A zip with one member changed, as JSON where it is that; or the bytes of the whole."""
    if random.random() < 0.2:
        return change_bytes(random, content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        which = random.choice(list(members))
        inner = (json_or_bytes if which.endswith(".json") else change_bytes)(random, members[which])
        # Keras makes a layer of whatever size it is told of, until memory ends; SECURITY.md tells what to do about that.
        if not (which.endswith(".json") and re.search(rb"[0-9]{5}", inner)):
            members[which] = inner
    except Exception:
        return change_bytes(random, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, inner in members.items():
            archive.writestr(name, inner)
    return buffer.getvalue()


def _weights(content: bytes) -> None:
    import keras

    from catdog import model, recipe

    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    model._load(backbone, recipe.Model(weights=str(_file("some.weights.h5", content))))


def _weight_files() -> list[bytes]:
    import keras

    path = Path(_SCRATCH.name, "seed.weights.h5")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")]).save_weights(path)
    return [path.read_bytes()]


def _tf_config(content: bytes) -> None:
    from catdog.training.worker_group import worker_of

    with contextlib.suppress(ValueError):  # which is told as a CallerError
        worker_of(content)


def _job_config(content: bytes) -> None:
    from job.driver import _brought

    _brought(content)


def _jobs(content: bytes) -> None:
    """The list of jobs as a dashboard answers."""
    import requests

    from job.submit import status
    from job.submit.jobs import Client, Jobs

    answer = requests.Response()
    answer.status_code, answer._content = 200, content
    client, jobs = Client.__new__(Client), Jobs.__new__(Jobs)
    vars(client)["_do_request"] = lambda *_, **__: answer
    jobs.address, jobs._client = "http://head:8265", client
    with contextlib.redirect_stdout(io.StringIO()):
        found = jobs.all()
        status.print_jobs(found)
        for job in found:
            status.print_job(job)


def _job_lists() -> list[bytes]:
    job = {"type": "SUBMISSION", "submission_id": "raysubmit_1", "entrypoint": "python", "status": "FAILED"}
    more = {"start_time": 1_700_000_000_000, "end_time": 1_700_000_100_000, "metadata": {"run": "gs://b/r"}}
    return [json.dumps([job | more | {"driver_exit_code": 1, "message": "it ended", "runtime_env": {}}]).encode()]


def _uri(content: bytes) -> None:
    bucket = open_bucket(os.fsdecode(content))
    if isinstance(bucket, Folder):
        with contextlib.suppress(OSError):  # told by the system's own words
            bucket.find("no/such/object", 1)


def _keep(content: bytes) -> None:
    PrepareOptions(keep=parse_keep(os.fsdecode(content).split("\n")))


def _names(content: bytes) -> None:
    names = os.fsdecode(content).split("\n")
    for step, files in checkpoint_files(names).items():
        assert all(f"checkpoints/step-{step:08d}/{file}" in names for file in files)
    by_run(dict.fromkeys(names, 0.0))


def _seeds(*contents: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(contents)


_TF_CONFIG = b'{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}'
_EVALUATED = b'{"accuracy": 0.9, "data": {"digest": "d"}}'
_NAMES = b"recipe.toml\ncheckpoints/step-00000003/state.npz\ncheckpoints/step-00000003/COMMITTED.json\na/recipe.toml"
_SETTINGS = (b"data.side=96", b"phases.0.epochs=3", b"run.strategy=cpu:2", b"cluster.workers=1-4", b"run.uri=gs://b/r")

PARSERS = {
    "recipe": Parser(_recipe, _recipes, toml_or_bytes),
    "run-recipe": Parser(_run_recipe, _recipes, toml_or_bytes),
    "setting": Parser(_setting, _seeds(*_SETTINGS), change_bytes),
    "commit": Parser(_commit, _commits, json_or_bytes),
    "lease": Parser(_lease, _leases, json_or_bytes),
    "metrics": Parser(_metrics, _metric_lines, json_or_bytes),
    "evaluation": Parser(_evaluation, _seeds(_EVALUATED), json_or_bytes),
    "manifest": Parser(_manifest, _manifests, json_or_bytes),
    "shard": Parser(_shard, _shards, change_bytes),
    "example": Parser(_shard, _shards, _reframed(change_bytes)),
    "picture": Parser(_picture, _pictures, change_bytes),
    "zip": Parser(_zip, _zips, change_bytes),
    "lite0": Parser(_lite0, _lite0_files, change_bytes),
    "uri": Parser(_uri, _seeds(b"bucket/runs", b"gs://bucket/a", b"/x/y"), change_bytes),
    "keep": Parser(_keep, _seeds(b"cat=0.3", b"cat=0.3\ndog=1"), change_bytes),
    "names": Parser(_names, _seeds(_NAMES), change_bytes),
    "state": Parser(_state, _states, change_bytes),
    # From here on with TensorFlow, Matplotlib or Ray, so fewer a second.
    "tf-config": Parser(_tf_config, _seeds(_TF_CONFIG), json_or_bytes),
    "curves": Parser(_curves, _metric_lines, json_or_bytes),
    "records": Parser(_trained_on, _shards, _reframed(change_bytes)),
    "model": Parser(_model, _models, json_in_zip),
    "weights": Parser(_weights, _weight_files, change_bytes),
    "job-config": Parser(_job_config, _seeds(b'{"runtime_env": {"env_vars": {"A": "1"}}}'), json_or_bytes),
    "jobs": Parser(_jobs, _job_lists, json_or_bytes),
}


def main() -> int:
    arguments = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARSERS)}; all by default")
    arguments.add_argument(
        "--seconds", type=float, default=60.0, help="of the processor, for each parser (%(default)s)"
    )
    arguments.add_argument("--seed", type=int, default=None, help="the same inputs again")
    arguments.add_argument("--replay", type=Path, help="try the input in this file alone")
    options = arguments.parse_args()
    if unknown := [name for name in options.names if name not in PARSERS]:
        arguments.error(f"{unknown[0]} is none of {', '.join(PARSERS)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or it shows the bytes of each record that it refuses
    failed = False
    for name in options.names or PARSERS:
        seed = options.seed if options.seed is not None else time.time_ns() % 2**32
        began = time.process_time()
        try:
            if options.replay:
                print(
                    f"{name:<12} {'new' if attempt(PARSERS[name], options.replay.read_bytes(), 30 * LONGEST) else 'known'}"
                )
                continue
            tried = fuzz(PARSERS[name], Random(seed), options.seconds)
            outcomes = len(PARSERS[name].outcomes)
            took = time.process_time() - began
            print(f"{name:<12} {tried:>9,} inputs in {took:.0f} s, {outcomes} outcomes, seed {seed}", flush=True)
        except Failed as failure:
            failed = True
            path = Path(f"fuzz-{name}-{seed}.bin")
            path.write_bytes(failure.content)
            traceback.print_exception(failure.error)
            print(f"{name:<12} failed: {failure}; python -m tests.fuzz {name} --replay {path}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
