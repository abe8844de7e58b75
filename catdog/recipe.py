"""`Recipe`: every setting of a run, as frozen dataclasses read from TOML, each value checked where it is set."""

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tomli_w

from catdog import __version__
from catdog.errors import CallerError, did_you_mean, hint
from catdog.parsing import SMALL, NotParsed, brief, described, is_unicode, is_version, parse_toml

_MANY = 2**31 - 1
"""The most that a number of steps, or of what comes with them, may be."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise CallerError(f"{name} = {brief(value)}: must be {allowed}")


def _require_whole(name: str, value: int, least: int, most: int) -> None:
    _require(least <= value <= most, name, value, f"at least {least} and at most {most}")


def _meant(value: object, allowed: Iterable[str]) -> str:
    meant = did_you_mean(value, allowed, repr) if isinstance(value, str) else ""
    return f" ({meant})" if meant else ""


def added(default: Any, *, before: Any) -> Any:
    """The default of a field that came later, and the value that means what versions without the field did.

    It is needed only where the two differ. A run that was begun without the field goes on with `before`.
    """
    return field(default=default, metadata={"before": before})


@dataclass(frozen=True)
class Data:
    """What is trained on, and how it is cut into batches."""

    uri: str = ""
    """Place of a prepared data set (it holds manifest.json): a folder's path or gs://bucket/prefix."""
    side: int = 96
    """Side in pixels of the square images that the backbone sees."""
    global_batch: int = 64
    """Examples in one optimizer step, over all replicas."""
    streams: int = 16
    """Canonical streams; divides the batch and the number of train shards, and bounds the number of replicas."""

    def __post_init__(self) -> None:
        _require(32 <= self.side <= 1024, "data.side", self.side, "from 32 to 1024 pixels")
        _require_whole("data.streams", self.streams, 1, 99_999)  # the most shards that a data set may have
        _require_whole("data.global_batch", self.global_batch, 1, 1_000_000)
        _require(
            self.global_batch % self.streams == 0,
            "data.global_batch",
            self.global_batch,
            f"a multiple of data.streams ({self.streams}), for each stream gives the same number of rows",
        )


@dataclass(frozen=True)
class Augment:
    """How training pictures are varied."""

    min_area: float = 0.6
    """Smallest part of the image's area that a random crop keeps; 1 switches cropping off."""
    flip: bool = True
    """Mirror left and right with probability one half."""
    rotation: float = 8.0
    """Largest rotation, degrees either way."""
    brightness: float = 0.15
    """Largest change of brightness, as a part of the full range 0..255."""
    contrast: float = 0.15
    """Largest relative change of contrast."""
    saturation: float = 0.15
    """Largest relative change of saturation."""
    mixup: float = 0.0
    """Alpha of MixUp's Beta distribution (Zhang et al., 2018); 0 switches it off."""

    def __post_init__(self) -> None:
        _require(0 < self.min_area <= 1, "augment.min_area", self.min_area, "above 0 and at most 1")
        _require(0 <= self.rotation <= 180, "augment.rotation", self.rotation, "from 0 to 180 degrees")
        for name in ("brightness", "contrast", "saturation"):
            _require(0 <= getattr(self, name) < 1, f"augment.{name}", getattr(self, name), "at least 0 and below 1")
        _require(self.mixup >= 0, "augment.mixup", self.mixup, "at least 0")


BACKBONES = (
    *(f"EfficientNetB{n}" for n in range(8)),
    *(f"EfficientNetV2B{n}" for n in range(4)),
    *(f"EfficientNetV2{size}" for size in "SML"),
)


@dataclass(frozen=True)
class Model:
    """Backbone and head."""

    backbone: str = "EfficientNetB0"
    """An EfficientNet of keras.applications."""
    weights: str = "bundled"
    """`imagenet`, `bundled` (EfficientNetB0 only), `none`, or the path of a .weights.h5 file."""
    units: int = 128
    """Width of the hidden layer of the head."""
    dropout: float = 0.2
    """Part of the hidden units that are dropped in training."""

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is known at the start, so that BatchNorm has to be trained too."""
        return self.weights == "none"

    def __post_init__(self) -> None:
        _require(
            self.backbone in BACKBONES,
            "model.backbone",
            self.backbone,
            f"one of {', '.join(BACKBONES)}{_meant(self.backbone, BACKBONES)}",
        )
        _require(
            self.weights != "bundled" or self.backbone == "EfficientNetB0",
            "model.weights",
            self.weights,
            f"'imagenet', 'none' or a path with {self.backbone}: only EfficientNetB0 is bundled",
        )
        _require(self.weights != "", "model.weights", self.weights, "'imagenet', 'bundled', 'none' or a file's path")
        _require_whole("model.units", self.units, 1, 65_536)
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class Optimizer:
    """How a gradient becomes a step."""

    name: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay per unit of learning rate; for adamw only."""
    clip_norm: float = 1.0
    """Largest global norm of the reduced gradient; 0 switches clipping off."""
    accumulate: int = 1
    """Micro-batches that a replica's share of the global batch is cut into; saves memory, changes no result."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is validated and kept; 0 switches it off."""

    def __post_init__(self) -> None:
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "at least 0")
        _require(
            self.name == "adamw" or self.weight_decay == 0,
            "optimizer.weight_decay",
            self.weight_decay,
            "0 with adam; choose optimizer.name = 'adamw'",
        )
        _require(self.clip_norm >= 0, "optimizer.clip_norm", self.clip_norm, "at least 0")
        _require_whole("optimizer.accumulate", self.accumulate, 1, 1_000_000)
        _require(0 <= self.ema < 1, "optimizer.ema", self.ema, "at least 0 and below 1")


@dataclass(frozen=True)
class Loss:
    """Binary cross-entropy, and what is changed of it."""

    balance: Literal["none", "class_weight", "oversample", "focal"] = "none"
    """How a rarer class is helped: weights in the loss, repeated examples, or the focal loss (Lin et al., 2017), which
    takes the class weights as its alpha."""
    focal_gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    label_smoothing: float = 0.0
    """Part of the target that is spread evenly over both classes."""

    def __post_init__(self) -> None:
        _require(self.focal_gamma >= 0, "loss.focal_gamma", self.focal_gamma, "at least 0")
        _require(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, "at least 0 and below 1")


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with its own optimizer, rate and trained part."""

    name: str = "frozen"
    """What logs and plots call the phase."""
    epochs: int = 1
    """Passes over the train split."""
    learning_rate: float = 1e-3
    """Peak rate: reached after the warm-up, brought to 0 by a cosine."""
    warmup: float = 0.1
    """Part of the phase's steps in which the rate rises linearly."""
    unfreeze: str | int = "none"
    """Part of the backbone that is trained: `none`, `all`, or the number of its last blocks."""
    views: int = added(1, before=0)
    """Augmented views of each picture, of which epoch e sees the one numbered e mod views, so that what the frozen part of
    the backbone makes of it is computed once and stored; 0 augments anew in each epoch, as `all` and MixUp always do."""

    def __post_init__(self) -> None:
        _require(self.name != "", "phases.name", self.name, "a name")
        phase = f"phases {brief(self.name)}:"
        _require_whole(f"{phase} epochs", self.epochs, 1, 1_000_000)
        _require(self.learning_rate > 0, f"{phase} learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.warmup < 1, f"{phase} warmup", self.warmup, "at least 0 and below 1")
        whole = isinstance(self.unfreeze, int) and 1 <= self.unfreeze <= 1000
        _require(
            whole or self.unfreeze in ("none", "all"),
            f"{phase} unfreeze",
            self.unfreeze,
            "'none', 'all' or a number of blocks of at least 1 and at most 1000",
        )
        _require_whole(f"{phase} views", self.views, 0, 1_000_000)


@dataclass(frozen=True)
class Checkpoint:
    """When the state is saved, and how much of it is kept."""

    every_steps: int = 0
    """Save each time this many steps are done; 0 leaves it to the clock and the ends of epochs."""
    every_seconds: float = 300.0
    """Save when this long has passed since the last save; 0 leaves it to the steps and the ends of epochs."""
    keep: int = 2
    """Newest checkpoints kept; the best by validation loss is kept as well."""

    def __post_init__(self) -> None:
        _require_whole("checkpoint.every_steps", self.every_steps, 0, _MANY)
        _require(self.every_seconds >= 0, "checkpoint.every_seconds", self.every_seconds, "at least 0")
        _require_whole("checkpoint.keep", self.keep, 1, _MANY)


@dataclass(frozen=True)
class Storage:
    """How a bucket in object storage is used; a folder needs none of it."""

    patience: float = 600.0
    """Seconds that the store may be away before the run stops; it goes on with the data that it has."""

    def __post_init__(self) -> None:
        # The clocks of threads take no more than some hundred years.
        _require(0 < self.patience <= 1e9, "storage.patience", self.patience, "above 0 seconds and at most 1e9")


@dataclass(frozen=True)
class Cache:
    """The local copy of the shards of a data set in object storage; a folder's are read where they lie."""

    folder: str = ""
    """Where the copies lie; empty stands for the folder `catdog` in the user's cache directory."""
    max_bytes: int = 20_000_000_000
    """Most bytes that they take, those in use and on their way counted."""
    ahead: int = 16
    """Shards that are fetched before they are needed."""
    fetchers: int = 8
    """Shards that are fetched at a time."""

    def __post_init__(self) -> None:
        on_this_machine = "://" not in self.folder and "\0" not in self.folder
        _require(on_this_machine, "cache.folder", self.folder, "a folder on this machine")
        _require(0 < self.max_bytes < 2**63, "cache.max_bytes", self.max_bytes, f"above 0 and at most {2**63 - 1}")
        _require_whole("cache.ahead", self.ahead, 0, 1_000_000)
        _require(1 <= self.fetchers <= 64, "cache.fetchers", self.fetchers, "from 1 to 64")


@dataclass(frozen=True)
class Cluster:
    """How `python -m job.train` uses a Ray cluster; `catdog train` needs none of it."""

    workers: int | str = 1
    """Workers that train together, as a rule one a host: their number, or "MIN-MAX" for as many as there is room for."""
    gpus: int = -1
    """GPUs of each worker; -1 stands for as many as each host has that has any when the job begins."""
    cpus: int = 1
    """CPUs that are reserved for each worker."""
    placement: Literal["SPREAD", "STRICT_SPREAD", "PACK", "STRICT_PACK"] = "SPREAD"
    """Ray's placement strategy: workers on different hosts, or together."""
    max_failures: int = 3
    """Times that the workers are started again after one has failed; those that are asked to leave do not count."""
    start_timeout: float = 600.0
    """Seconds to wait until the cluster has room for the workers."""
    resize_every: float = 60.0
    """Seconds between two looks at whether there is room for more workers, from the first steps on."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most workers."""
        fewest, _, most = str(self.workers).partition("-")
        return int(fewest), int(most or fewest)

    def __post_init__(self) -> None:
        text = self.workers if isinstance(self.workers, str) else brief(self.workers)
        written = re.fullmatch("[0-9]{1,6}(-[0-9]{1,6})?", text)
        _require(
            written is not None and 1 <= self.bounds[0] <= self.bounds[1],
            "cluster.workers",
            self.workers,
            "a number of at least 1, or 'MIN-MAX', as in '1-4'",
        )
        _require(
            -1 <= self.gpus <= 1024, "cluster.gpus", self.gpus, "at least 0 and at most 1024, or -1 for all of a host"
        )
        _require_whole("cluster.cpus", self.cpus, 1, 4096)
        _require_whole("cluster.max_failures", self.max_failures, 0, _MANY)
        _require(self.start_timeout > 0, "cluster.start_timeout", self.start_timeout, "above 0 seconds")
        _require(self.resize_every > 0, "cluster.resize_every", self.resize_every, "above 0 seconds")


@dataclass(frozen=True)
class Run:
    """Where and how the run is done."""

    uri: str = ""
    """Place of the run, with its checkpoints, metrics, model and report: a folder's path or gs://bucket/prefix."""
    seed: int = 0
    """Decides the order of the data, the augmentation, the dropout and the head's first weights."""
    strategy: str = "auto"
    """`auto` (one device, or all GPUs mirrored), or `cpu:N` for N logical CPU devices."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """`auto` is float32 on a CPU, and on a GPU what measures fastest when the run begins."""
    xla: Literal["auto", "on", "off"] = added("auto", before="off")
    """Whether XLA compiles a step; `auto` does so for one GPU a process, but not with `model.weights = "none"`."""
    deterministic: bool = False
    """Ask TensorFlow for the same bits on every run on a GPU, at some cost in speed; a CPU gives them anyway."""
    log_every: int = 10
    """Steps between two lines of metrics."""

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "run.seed", self.seed, "from 0 to 2147483647")
        kind, _, count = self.strategy.partition(":")
        _require(
            self.strategy == "auto" or (kind == "cpu" and re.fullmatch("[1-9][0-9]{0,3}", count) is not None),
            "run.strategy",
            self.strategy,
            "'auto' or 'cpu:N'",
        )
        _require_whole("run.log_every", self.log_every, 1, _MANY)


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Read one with `load_recipe`, change one with `override`, write one with `to_toml`."""

    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    phases: tuple[Phase, ...] = (Phase("frozen"), Phase("finetune", learning_rate=1e-5, unfreeze="all"))
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    storage: Storage = field(default_factory=Storage)
    cache: Cache = field(default_factory=Cache)
    cluster: Cluster = field(default_factory=Cluster)
    run: Run = field(default_factory=Run)
    unset: frozenset[str] = frozenset()
    """No setting: dotted names of the fields with a `before` that nobody has set. A run has them as it was begun."""

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        _require(len(names) >= 1, "phases", names, "at least one [[phases]] table")
        _require(len(set(names)) == len(names), "phases", names, "phases of different names")
        rows = self.data.global_batch // self.data.streams
        _require(
            self.augment.mixup == 0 or rows >= 2,
            "augment.mixup",
            self.augment.mixup,
            "0 when each stream gives one row: partners come from one stream; raise data.global_batch",
        )
        _require(
            self.augment.mixup == 0 or self.loss.balance != "oversample",
            "augment.mixup",
            self.augment.mixup,
            "0 with loss.balance = 'oversample': classes then take turns, so partners, which are neighbours, differ in theirs;"
            " choose 'class_weight'",
        )
        scratch = self.model.from_scratch
        _require(
            not (scratch and self.run.precision == "mixed_float16"),
            "run.precision",
            self.run.precision,
            "float32 or mixed_bfloat16 when model.weights = 'none': an overflow would stay in BatchNorm's statistics",
        )
        _require(
            not (scratch and self.run.xla == "on"),
            "run.xla",
            self.run.xla,
            "'auto' or 'off' when model.weights = 'none': XLA cannot synchronise BatchNorm among replicas",
        )
        _require(
            not scratch or self.optimizer.accumulate == 1,
            "optimizer.accumulate",
            self.optimizer.accumulate,
            "1 when model.weights = 'none': BatchNorm would see the micro-batches",
        )
        for phase in self.phases:
            _require(
                self.augment.mixup == 0 or phase.views <= 1,
                f"phases {brief(phase.name)}: views",
                phase.views,
                "0 with augment.mixup, which mixes pictures anew in each epoch",
            )
            _require(
                not scratch or phase.unfreeze == "all",
                f"phases {brief(phase.name)}: unfreeze",
                phase.unfreeze,
                "'all' when model.weights = 'none': an untrained backbone has nothing worth freezing",
            )


VERSION_KEY = "catdog"
"""The key of a recipe's file under which the version of catdog that wrote it stands."""

# What may differ between the parts of one run, for it changes where and how the run is done, not what it computes.
MAY_DIFFER = (
    *("data.uri", "run.uri", "run.strategy", "run.xla", "run.log_every"),
    *("checkpoint.", "storage.", "cache.", "cluster."),
)


def trains_most(recipe: Recipe) -> Phase:
    """The phase that trains most of the backbone."""
    sizes = {"none": 0.0, "all": math.inf}
    return max(recipe.phases, key=lambda phase: sizes.get(str(phase.unfreeze), phase.unfreeze))


def stores(recipe: Recipe, phase: Phase) -> bool:
    """Whether a phase takes stored outputs of what it has frozen, in place of pictures."""
    return phase.views > 0 and phase.unfreeze != "all" and recipe.augment.mixup == 0


def load_recipe(path: str | Path, settings: Sequence[tuple[str, str | None]] = ()) -> Recipe:
    """A recipe from its TOML file, with those settings put in place that are not None, each a dotted name and a text.

    Raises CallerError that names the file, and the field.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(SMALL + 1)
        if len(content) > SMALL:
            raise CallerError(f"{path}: is no recipe: it has more than {SMALL:,} bytes")
        recipe = parse_recipe(content, str(path))
    except FileNotFoundError:
        raise CallerError(f"{path}: there is no such recipe") from None
    except OSError as error:
        raise CallerError(f"{path}: cannot be read: {error.strerror}") from None
    return override(recipe, [(name, text) for name, text in settings if text is not None])


def parse_recipe(content: bytes, name: str, *, of_run: bool = False) -> Recipe:
    """A recipe from what its file, of this name, holds; raises CallerError that names the file and the field.

    The recipe of a run has every field that there was when the run was begun; with `of_run` those that it lacks take the
    value that means what was done then.
    """
    try:
        table = parse_toml(content)
    except ValueError as error:
        raise CallerError(f"{name}: is not a recipe in TOML: {error}") from None
    return from_table(table, name, of_run=of_run)


def from_table(table: Mapping[str, Any], name: str, *, of_run: bool = False) -> Recipe:
    """As `parse_recipe`, from the nested tables of the file."""
    version = table.get(VERSION_KEY, __version__)
    table = {key: value for key, value in table.items() if key != VERSION_KEY}
    try:
        _require(is_version(version), VERSION_KEY, version, f"the version that wrote the file, as in {__version__!r}")
        if of_run:
            return _build(Recipe, _as_before(Recipe, table), "")
        recipe = _build(Recipe, table, "")
        return replace(recipe, unset=frozenset(_unset(recipe, table)))
    except UnknownField as error:
        if version == __version__:
            raise CallerError(f"{name}: {error}") from None
        raise CallerError(
            f"{name}: {brief(error.field)} is not a field of a recipe of catdog {__version__}: the file is of catdog {version};"
            " go on with that one"
        ) from None
    except CallerError as error:
        raise CallerError(f"{name}: {error}") from None


def override(recipe: Recipe, settings: list[tuple[str, str]]) -> Recipe:
    """The recipe with each (dotted name, text) put in place, as `("phases.0.epochs", "3")`.

    All are put in place before anything is checked, so that fields that depend on each other may change together.
    """
    table = _table(recipe)
    for name, text in settings:
        here, last = _place(table, name)
        try:
            here[last] = _read(text, last, here[last])
        except ValueError as error:
            raise CallerError(f"{name}: {error}") from None
    return replace(_build(Recipe, table, ""), unset=recipe.unset.difference(name for name, _ in settings))


def as_begun(recipe: Recipe, begun: Recipe | None) -> Recipe:
    """The recipe with nothing left unset: as the run has it that was begun with `begun`, or by default where there is none."""
    table, values = _table(recipe), _values(begun) if begun is not None else {}
    for name in recipe.unset & values.keys() & _values(recipe).keys():
        here, last = _place(table, name)
        here[last] = values[name]
    return _build(Recipe, table, "")


def to_toml(recipe: Recipe) -> str:
    """The recipe with every field but those unset, the defaults too, as TOML that `load_recipe` reads back to an equal one."""
    return tomli_w.dumps(to_table(recipe))


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested tables of plain values, fit for TOML and JSON, with the version of catdog that wrote it."""
    table = _table(recipe)
    for name in recipe.unset & _values(recipe).keys():
        here, last = _place(table, name)
        del here[last]
    return {VERSION_KEY: __version__} | table


def differences(run: Recipe, now: Recipe) -> list[str]:
    """The fields, as 'name: old → new', in which two recipes would compute different runs."""
    old, new = _values(run), _values(now)
    return [
        f"{name}: {brief(old.get(name))} → {brief(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.startswith(MAY_DIFFER)
    ]


def digest_of_0_1_0(content: bytes) -> str | None:
    """The digest that catdog 0.1.0 put into commits, of the file of a recipe that it wrote; None for a file of a later one."""
    table = parse_toml(content)
    fields = sorted((name, value) for name, value in _flatten(table).items() if not name.startswith(MAY_DIFFER))
    return None if VERSION_KEY in table else hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def check_strategy(strategy: str, workers: int) -> None:
    """Raises CallerError for a run.strategy that so many workers can't train with."""
    if workers > 1 and strategy != "auto":
        raise CallerError(f"run.strategy = {strategy!r}: must be 'auto' among several workers")


def rows_of_a_replica(recipe: Recipe, replicas: int) -> int:
    """Rows of a global batch that each of so many replicas computes; where streams are left over, some are padding."""
    return math.ceil(recipe.data.streams / replicas) * (recipe.data.global_batch // recipe.data.streams)


def check_replicas(recipe: Recipe, replicas: int) -> None:
    """Raises CallerError for a number of replicas that the recipe can't be trained on."""
    streams, accumulate = recipe.data.streams, recipe.optimizer.accumulate
    if replicas > streams:
        raise CallerError(f"data.streams = {streams}: must be at least the number of replicas, {replicas}")
    own = rows_of_a_replica(recipe, replicas)
    if own % accumulate:
        raise CallerError(
            f"optimizer.accumulate = {accumulate}: must divide the {own} rows that each of {replicas} replicas has"
        )
    if recipe.model.from_scratch and streams % replicas:
        raise CallerError(
            f"data.streams = {streams}: must be a multiple of the {replicas} replicas when model.weights = 'none',"
            " for padding would enter BatchNorm's statistics"
        )


def _table(recipe: Recipe) -> dict[str, Any]:
    """Every field but `unset`, in dicts and lists."""
    table = dataclasses.asdict(recipe)
    del table["unset"]
    return table | {"phases": list(table["phases"])}


def _values(recipe: Recipe) -> dict[str, Any]:
    """Every field but `unset`, by its dotted name."""
    return _flatten(_table(recipe))


def _as_before(kind: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table for a dataclass with the `before` of each field that has one and that it lacks, put in at any depth."""
    result, hints = dict(table), typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        inner, given = hints[each.name], table.get(each.name)
        if "before" in each.metadata:
            result.setdefault(each.name, each.metadata["before"])
        elif dataclasses.is_dataclass(inner) and isinstance(given, dict | None):
            result[each.name] = _as_before(inner, given or {})
        elif isinstance(given, list) and dataclasses.is_dataclass(row := (*typing.get_args(inner), None)[0]):
            result[each.name] = [_as_before(row, one) if isinstance(one, dict) else one for one in given]
    return result


def _unset(built: Any, table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields with a `before` that the table from which this was built does not set."""
    for each in dataclasses.fields(built):
        name, value, given = f"{prefix}{each.name}", getattr(built, each.name), table.get(each.name)
        if "before" in each.metadata and each.name not in table:
            yield name
        elif dataclasses.is_dataclass(value):
            yield from _unset(value, given or {}, f"{name}.")
        elif isinstance(value, tuple):
            for index, inner in enumerate(value):
                yield from _unset(inner, given[index] if given else {}, f"{name}.{index}.")


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flatten(inner, f"{name}.{key}" if name else str(key))
    return flat


class UnknownField(CallerError):
    """A field that no recipe of this version has."""

    def __init__(self, field: str, known: list[str]) -> None:
        super().__init__(f"{brief(field)} is not a field of a recipe: {hint(field[:200], known, repr, cutoff=0.5)}")
        self.field = field


def _place(table: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The table that holds the field of a dotted name, and the field's own name; raises CallerError where there is none."""
    *parents, last = name.split(".")
    here: Any = table
    for part in parents:
        if isinstance(here, list) and part not in map(str, range(len(here))):
            known = ", ".join(f"phases.{index}" for index in range(len(here)))
            raise CallerError(f"{brief(name)}: there is no such phase: the recipe has {known}")
        if isinstance(here, list):
            here = here[int(part)]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        else:
            raise UnknownField(name, list(_flatten(table)))
    if not isinstance(here, dict) or last not in here or isinstance(here[last], dict | list):
        raise UnknownField(name, list(_flatten(table)))
    return here, last


def _read(text: str, name: str, before: Any) -> Any:
    """The value of a field of this name, now `before`, that is written as in TOML or as bare text.

    Raises ValueError for what is TOML, but within no bounds.
    """
    if isinstance(before, bool):
        text = text.lower()
    # A folder may be called 2024; only phases.unfreeze and cluster.workers take text as well as a number.
    is_text = isinstance(before, str) and name not in ("unfreeze", "workers")
    try:
        table = parse_toml(f"v = {text}".encode(errors="surrogatepass"))
    except ValueError as error:
        if not is_text and not isinstance(error, NotParsed):
            raise
        return text
    value = table["v"] if len(table) == 1 else text
    return text if is_text and not isinstance(value, str) else value


def _build(kind: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type `kind`; `name` is the dotted name for errors."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise CallerError(f"{name} = {brief(value)}: must be a table")
        hints = typing.get_type_hints(kind)
        hints.pop("unset", None)
        prefix = f"{name}." if name else ""
        for key in value:
            if key not in hints:
                raise UnknownField(f"{prefix}{key}", [f"{prefix}{hint}" for hint in hints])
        return kind(**{key: _build(hints[key], inner, f"{prefix}{key}") for key, inner in value.items()})  # type: ignore[operator]
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise CallerError(f"{name} = {brief(value)}: must be a list of tables, [[{name}]]")
        inner_kind = typing.get_args(kind)[0]
        return tuple(_build(inner_kind, inner, f"{name}.{index}") for index, inner in enumerate(value))
    if origin is Literal:
        allowed = typing.get_args(kind)
        _require(value in allowed, name, value, f"one of {', '.join(map(repr, allowed))}{_meant(value, allowed)}")
        return value
    if kind is float and type(value) is int and abs(value) < 10**300:
        return float(value)
    kinds = typing.get_args(kind) if origin is types.UnionType else (kind,)
    _require(type(value) in kinds, name, value, described(kind))
    _require(type(value) is not float or math.isfinite(value), name, value, "a finite number")
    _require(type(value) is not str or is_unicode(value), name, value, "text in UTF-8")
    return value
