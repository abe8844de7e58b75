"""The `catdog` command: parse, call, print."""

import contextlib
import difflib
import io
import json
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg, subcommand

from catdog import recipe as recipes
from catdog.data.shards import load_manifest
from catdog.errors import CallerError, RunError
from catdog.recipe import Recipe
from catdog.storage import Bucket

DONE, FAILED, MISTAKE = 0, 1, 2


@dataclass
class Prepare:
    """Turn labelled pictures into a data set of TFRecord shards.

    SOURCE is `drawn` (a sample that is drawn on the spot), `folder:PATH` (class folders, Kaggle's flat names, or a zip of
    either) or `tfds:cats_vs_dogs`.

    Example: catdog prepare folder:photos bucket/data/photos --side 256
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """drawn, folder:PATH or tfds:cats_vs_dogs."""
    data_uri: Annotated[Positional[str], arg(metavar="DATA_URI")]
    """Folder to write the data set to."""
    side: int = 256
    """Largest shorter side in pixels; nothing is enlarged."""
    shards: int = 16
    """Shards of the train split; a recipe's data.streams must divide it."""
    val: float = 0.1
    """Part of each class for validation."""
    test: float = 0.1
    """Part of each class for the test."""
    seed: int = 0
    """Decides the split and the order, and what is drawn."""
    keep: Annotated[tuple[str, ...], arg(metavar="CLASS=PART ...")] = ()
    """Thin a class of the train split, as in cat=0.3."""
    overwrite: bool = False
    """Replace the data set that is there."""
    reuse: bool = False
    """Do nothing where a data set from the same source and with the same options is there."""

    def run(self) -> int:
        from catdog.data.prepare import SKIPPED, prepare

        bucket = Bucket(self.data_uri)
        prepared = prepare(
            self.source,
            bucket,
            side=self.side,
            shards=self.shards,
            val=self.val,
            test=self.test,
            seed=self.seed,
            keep=dict(_class_part(text) for text in self.keep),
            overwrite=self.overwrite,
            reuse=self.reuse,
        )
        _print_manifest(bucket, prepared.manifest, "" if prepared.written else " (was there already)")
        if prepared.skipped:
            print(f"{prepared.skipped} files left out, each with its reason in {bucket.path(SKIPPED)}")
        return DONE


@dataclass
class Verify:
    """Read a data set again: every checksum, record and picture, and the counts.

    Example: catdog verify bucket/data/photos
    """

    data_uri: Annotated[Positional[str], arg(metavar="DATA_URI")]
    """Folder of a prepared data set."""

    def run(self) -> int:
        from catdog.data.verify import verify

        manifest, faults = verify(Bucket(self.data_uri))
        _print_manifest(Bucket(self.data_uri), manifest, "")
        for fault in faults:
            print(fault)
        print(f"{len(faults)} faults" if faults else "all shards, records and pictures are as the manifest says")
        return FAILED if faults else DONE


@dataclass
class Train:
    """Train by a recipe, evaluate, and write the report; run again, it goes on where it stopped.

    Every field of the recipe may be set by its dotted name, as in --data.uri URI or --phases.0.epochs 3.

    Example: catdog train job/recipes/photos.toml --data.uri bucket/data/photos --run bucket/runs/photos
    """

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """A recipe in TOML."""
    run_uri: Annotated[str | None, arg(name="run", metavar="RUN_URI")] = None
    """Folder of the run; the recipe's run.uri if not given."""
    settings: tyro.conf.Suppress[tuple[tuple[str, str], ...]] = ()

    def run(self) -> int:
        settings = [*self.settings, *([("run.uri", json.dumps(self.run_uri))] if self.run_uri else [])]
        recipe: Recipe = recipes.override(recipes.load(self.recipe), settings)
        load_manifest(Bucket(recipe.data.uri))  # told at once where it is missing, before TensorFlow's slow import
        _import_tensorflow()
        from catdog.training.signals import Stopped
        from catdog.training.trainer import train

        try:
            result = train(recipe)
        except Stopped as stopped:
            print(f"catdog: {stopped}; run the same command to go on", file=sys.stderr)
            return 128 + stopped.number
        _print_evaluation(result.metrics)
        print(f"report {result.report}")
        return DONE


@dataclass
class Evaluate:
    """Evaluate a run's best model on a split.

    Example: catdog evaluate bucket/runs/photos --split val
    """

    run_uri: Annotated[Positional[str], arg(metavar="RUN_URI")]
    """Folder of a run that has finished training."""
    data: str | None = None
    """Folder of a data set; the one that the run was trained on if not given."""
    split: str = "test"
    """train, val or test."""

    def run(self) -> int:
        _import_tensorflow()
        from catdog.evaluation.evaluate import evaluate

        run = Bucket(self.run_uri)
        if not run.exists("recipe.toml"):
            raise CallerError(f"{self.run_uri}: is no run: it holds no recipe.toml")
        data = Bucket(self.data or recipes.load(run.path("recipe.toml")).data.uri)
        _print_evaluation(evaluate(run, data, self.split))
        print(f"written to {run.path(f'evaluation/{self.split}')}")
        return DONE


@dataclass
class Predict:
    """Tell cat from dog: one line a picture, with its class and the probability of it.

    Example: catdog predict bucket/runs/photos holiday.jpg more/
    """

    run_uri: Annotated[Positional[str], arg(metavar="RUN_URI")]
    """Folder of a run that has finished training."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...")]
    """Pictures, or folders of them."""
    as_json: Annotated[bool, arg(name="json")] = False
    """One JSON object a line."""

    def run(self) -> int:
        if not self.images:
            raise CallerError("predict: give at least one picture or folder")
        _import_tensorflow()
        from catdog.evaluation.predict import predict

        failed = 0
        for prediction in predict(Bucket(self.run_uri), list(self.images)):
            failed += prediction.error is not None
            if self.as_json:
                print(json.dumps({"path": str(prediction.path), **_outcome(prediction)}), flush=True)
            elif prediction.error is not None:
                print(f"catdog: {prediction.path}: {prediction.error}", file=sys.stderr)
            else:
                print(f"{prediction.path}\t{prediction.predicted}\t{prediction.probability:.4f}", flush=True)
        return FAILED if failed else DONE


Command = (
    Annotated[Prepare, subcommand("prepare")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
)


def main() -> None:
    """The console script: exits with 0 for done, 1 for failed, 2 for the caller's mistake, 128 + N for signal N."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and give its exit code; a mistake or failure is told in one line on stderr."""
    try:
        return parse(arguments).run()
    except CallerError as error:
        print(f"catdog: error: {error}", file=sys.stderr)
        return MISTAKE
    except RunError as error:
        print(f"catdog: failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("catdog: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def parse(arguments: list[str]) -> Any:
    """The command that the arguments tell; raises CallerError in one line, or SystemExit(0) after printing help."""
    names = [option.__metadata__[0].name for option in Command.__args__]  # type: ignore[attr-defined]
    if arguments and arguments[0] not in (*names, "-h", "--help"):
        raise CallerError(f"there is no command {arguments[0]!r}: {_nearest(arguments[0], names)}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command, rest = tyro.cli(
                Command,  # type: ignore[call-overload]
                prog="catdog",
                description="Train a cat/dog classifier, the same run on a laptop or a cluster. A URI is a folder's path.",
                args=arguments or ["--help"],
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise CallerError(_one_line(complaint.getvalue())) from None
    if isinstance(command, Train):
        return replace(command, settings=tuple(_settings(rest)))
    if rest:
        options = [f"--{f.name}" for f in fields(command)]
        raise CallerError(f"{arguments[0]} does not take {rest[0]!r}: {_nearest(rest[0], options)}")
    return command


def _settings(rest: list[str]) -> list[tuple[str, str]]:
    """Recipe fields from `--name value` and `--name=value`."""
    settings: list[tuple[str, str]] = []
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise CallerError(f"train does not take {word!r}: settings are written --section.field value")
        name, equals, value = word[2:].partition("=")
        text = value if equals else next(words, None)
        if text is None:
            raise CallerError(f"{word} lacks its value")
        settings.append((name, text))
    return settings


def _one_line(box: str) -> str:
    """The message out of the framed text that the parser prints."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.partition("│ ───")[0].splitlines()]
    return " ".join(line for line in lines if line) or "the arguments are not understood; see catdog --help"


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _class_part(text: str) -> tuple[str, float]:
    name, _, part = text.partition("=")
    try:
        return name, float(part)
    except ValueError:
        raise CallerError(f"--keep {text}: must be CLASS=PART, as in cat=0.3") from None


def _print_manifest(bucket: Bucket, manifest: Any, note: str) -> None:
    for split in ("train", "val", "test"):
        counts = manifest.per_class(split)
        classes = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"{split:<5} {sum(counts.values()):>7} examples ({classes}) in {len(manifest.split(split))} shards")
    print(f"data set {bucket.uri}{note}")


def _print_evaluation(metrics: dict[str, Any]) -> None:
    low, high = metrics["accuracy_interval"]
    count, split = metrics["examples"], metrics["split"]
    print(f"{split} accuracy {metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {count} examples)")
    print(f"log loss {metrics['log_loss']:.4f}")


def _outcome(prediction: Any) -> dict[str, Any]:
    if prediction.error is not None:
        return {"error": prediction.error}
    return {"class": prediction.predicted, "probability": round(prediction.probability, 6)}


def _import_tensorflow() -> None:
    """Import it without what its libraries print on stderr before they can be told to be quiet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)
