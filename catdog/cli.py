"""The `catdog` command: parse, call, print."""

import sys
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from catdog import __version__
from catdog.command.arguments import parse_command
from catdog.command.locations import open_folder, require_data, require_uris
from catdog.command.printing import (
    as_json,
    print_evaluation,
    print_manifest,
    print_near_duplicates,
    print_own_splits,
    print_plans,
    print_profile,
    print_pulled,
    print_runs,
    print_warnings,
)
from catdog.command.program import DONE, FAILED, exit_code
from catdog.command.quiet_tensorflow import import_tensorflow
from catdog.data.options import PrepareOptions, parse_keep
from catdog.data.shards import NEAR_DUPLICATES, SKIPPED, load_manifest
from catdog.errors import CallerError, hint, tell
from catdog.planning.options import PlanOptions, parse_hosts
from catdog.recipe import Cache, load_recipe
from catdog.runs.folder import REPORT, evaluation_of, finished_recipe
from catdog.storage import open_bucket

DESCRIPTION = """Train a cat/dog classifier by transfer learning: the same run on a laptop or a cluster.

A URI names a place that holds a data set or a run: a folder's path, as in bucket/data/photos, or gs://bucket/prefix.

Exit codes: 0 done, 1 failed, 2 a mistake in what was asked for, 143 or 130 stopped by SIGTERM or Ctrl-C with the run's \
state saved. `catdog --version` tells which catdog this is."""


@dataclass
class Prepare:
    """Turn labelled pictures into a data set of TFRecord shards.

    Example: catdog prepare folder:photos bucket/data/photos --side 256
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """`drawn` (2,000 faces drawn on the spot), `folder:PATH` (class folders, flat names as cat.1.jpg, or a zip of
    either; folders named train, val and test are kept as splits) or `tfds:cats_vs_dogs`."""
    data_uri: Annotated[Positional[str], arg(metavar="DATA_URI")]
    """Where the data set is written."""
    side: int = PrepareOptions.side
    """Shorter side in pixels to which larger pictures are reduced."""
    shards: int = PrepareOptions.shards
    """Shards of the train split; a recipe's data.streams must divide it."""
    val: float = PrepareOptions.val
    """Part of each class for validation, where the source has no folder for it."""
    test: float = PrepareOptions.test
    """Part of each class for the test, where the source has no folder for it."""
    seed: int = PrepareOptions.seed
    """Decides what is drawn, the split and the order."""
    keep: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="CLASS=PART", help_behavior_hint="(repeatable)")] = ()
    """Keep only a part of a class in the train split, as in cat=0.3."""
    overwrite: bool = False
    """Replace the data set that is there."""
    reuse: bool = False
    """Leave the data set that is there if it has the same source and options; the pictures are not looked at again."""

    def execute(self) -> int:
        from catdog.data.prepare import prepare

        bucket = open_bucket(self.data_uri)
        options = PrepareOptions(
            side=self.side,
            shards=self.shards,
            val=self.val,
            test=self.test,
            seed=self.seed,
            keep=parse_keep(self.keep),
        )
        prepared = prepare(self.source, bucket, options, overwrite=self.overwrite, reuse=self.reuse)
        print_manifest(prepared.manifest)
        print_own_splits(prepared.manifest)
        if prepared.skipped:
            tell(f"{prepared.skipped} files left out, each with its reason in {bucket.uri}/{SKIPPED}")
        print_near_duplicates(prepared.near_duplicates, f"{bucket.uri}/{NEAR_DUPLICATES}")
        print_warnings(prepared.manifest.one_sided())
        before = (
            ""
            if prepared.written
            else " (was there already; the pictures were not looked at again: --overwrite does that)"
        )
        tell(f"data set {bucket.uri}{before}")
        return DONE


@dataclass
class Verify:
    """Read a data set again: every checksum, every record, every picture, and the counts.

    Example: catdog verify bucket/data/photos
    """

    data_uri: Annotated[Positional[str], arg(metavar="DATA_URI")]
    """Where the data set lies."""

    def execute(self) -> int:
        from catdog.data.verify import verify

        manifest, faults, warnings = verify(open_bucket(self.data_uri))
        if manifest is not None:
            print_manifest(manifest)
            print_own_splits(manifest)
        print_warnings(warnings)
        for fault in faults:
            tell(fault)
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        tell(count if faults else "no fault: all is as the manifest says")
        return FAILED if faults else DONE


@dataclass
class Train:
    """Train by a recipe, evaluate on the test split and write the report; run again, it goes on where it stopped.

    Every field of a recipe may be set by its dotted name, as in --data.uri URI or --phases.0.epochs 3.

    Example: catdog train job/recipes/photos.toml --data.uri bucket/data/photos --run bucket/runs/photos
    """

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """File in TOML with the settings of the run."""
    run: Annotated[str | None, arg(metavar="RUN_URI", help_behavior_hint="(default: the recipe's run.uri)")] = None
    """Where the run is written, or goes on."""
    profile: bool = False
    """Tell where the time of each phase goes, and trace some of its steps for TensorBoard; costs some speed."""
    settings: list[tuple[str, str]] = field(default_factory=list, init=False)
    """Fields of the recipe and their new values, filled in by `parse_command`."""

    def execute(self) -> int:
        began = time.monotonic()
        recipe = load_recipe(self.recipe, [*self.settings, ("run.uri", self.run)])
        require_uris(recipe)
        require_data(recipe)
        import_tensorflow()
        from catdog.training.trainer import train

        metrics = train(recipe, began=began, profiled=print_profile if self.profile else None)
        if metrics is not None:
            print_evaluation(metrics)
            tell(f"report {recipe.run.uri}/{REPORT}")
        return DONE


@dataclass
class Plan:
    """Tell what a recipe would take on other hosts, by its data set and what is measured on this machine, in a minute or so.

    Example: catdog plan job/recipes/cats_vs_dogs.toml --hosts 1,2 --gpus 8 --images-per-s 3000 --price 98.32
    """

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """File in TOML with the settings of the run."""
    hosts: Annotated[str, arg(metavar="N[,N...]")] = "1"
    """Numbers of hosts to compare."""
    gpus: int = PlanOptions.gpus
    """GPUs of each host; -1 stands for those of this machine."""
    cpus: float = PlanOptions.cpus
    """Cores of each host; 0 stands for those of this machine."""
    images_per_s: float = PlanOptions.images_per_s
    """Pictures that one GPU takes a second, without stored outputs, in the phase that trains most; 0: as here."""
    link: float = PlanOptions.link
    """Gbit/s between a host and the others, and the bucket."""
    price: float = PlanOptions.price
    """Of a host for an hour, in any currency."""
    settings: list[tuple[str, str]] = field(default_factory=list, init=False)
    """Fields of the recipe and their new values, filled in by `parse_command`."""

    def execute(self) -> int:
        hosts = parse_hosts(self.hosts)
        options = PlanOptions(hosts, self.gpus, self.cpus, self.images_per_s, self.link, self.price)
        recipe = load_recipe(self.recipe, self.settings)
        require_data(recipe)
        import_tensorflow()
        from catdog.planning.compare import compare

        plans, refused = compare(recipe, options, lambda line: tell(line, file=sys.stderr))
        print_plans(plans, self.price)
        for line in refused:
            tell(line, file=sys.stderr)
        return DONE


@dataclass
class Evaluate:
    """Evaluate a run's best model on one split of a data set, and write plots and figures into the run.

    Example: catdog evaluate bucket/runs/photos --split val
    """

    run: Annotated[Positional[str], arg(metavar="RUN_URI")]
    """Where a run lies that has finished training."""
    data: Annotated[str | None, arg(metavar="DATA_URI", help_behavior_hint="(default: the run's own)")] = None
    """Where a data set lies; what is found on another one than the run's own is written to a folder named after its digest."""
    split: Literal["train", "val", "test"] = "test"
    """Part of the data set."""

    def execute(self) -> int:
        run = open_bucket(self.run)
        recipe = finished_recipe(run)
        data = open_bucket(self.data if self.data is not None else recipe.data.uri)
        manifest = load_manifest(data)
        folder = evaluation_of(run, self.split, manifest.digest, named=self.data is not None)
        import_tensorflow()
        from catdog.evaluation.evaluate import evaluate

        print_evaluation(evaluate(run, data, manifest, Cache(), self.split, folder))
        tell(f"written to {run.uri}/{folder}")
        return DONE


@dataclass
class Predict:
    """Tell cat from dog: one line a picture, with its class and the probability of that class.

    Example: catdog predict bucket/runs/photos holiday.jpg more-photos
    """

    run: Annotated[Positional[str], arg(metavar="RUN_URI")]
    """Where a run lies that has finished training."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")]
    """Pictures, or folders of them."""
    json: bool = False
    """Print one JSON object a line."""

    def execute(self) -> int:
        if not self.images:
            raise CallerError("predict lacks IMAGE: give at least one picture or folder")
        if not all(self.images):
            raise CallerError("an IMAGE is empty, as of a variable that is not set: give a picture or a folder")
        run = open_bucket(self.run)
        finished_recipe(run)
        import_tensorflow()
        from catdog.evaluation.predict import predict

        failed = False
        for prediction in predict(run, [Path(image) for image in self.images]):
            failed |= prediction.error is not None
            if self.json:
                print(as_json(prediction), flush=True)
            elif prediction.error is not None:
                tell(f"catdog: {prediction.path}: {prediction.error}", file=sys.stderr)
            else:
                tell(str(prediction.path), str(prediction.predicted), f"{prediction.probability:.4f}")
        return FAILED if failed else DONE


@dataclass
class Runs:
    """List the runs that lie below a URI, the one that changed last first: what each has come to, and how long ago.

    Example: catdog runs bucket
    """

    bucket_uri: Annotated[Positional[str], arg(metavar="BUCKET_URI")]
    """Folder, or gs://bucket/prefix, to search at any depth."""

    def execute(self) -> int:
        from catdog.runs.listing import find_runs

        bucket = open_bucket(self.bucket_uri)
        runs = find_runs(bucket)
        if runs:
            print_runs(runs, bucket.now())
        else:
            tell(f"{bucket.uri}: there is no run here")
        for run in runs:
            if run.fault:
                tell(f"catdog: {run.name}: {run.fault}", file=sys.stderr)
        return DONE


@dataclass
class Pull:
    """Bring a run with one of its checkpoints to a folder, which is then a run itself; again, it brings what is missing.

    The best checkpoint at the time of the one that is asked for comes with it, for training could not go on without.

    Example: catdog pull gs://bucket/runs/photos photos --which last
    """

    run: Annotated[Positional[str], arg(metavar="RUN_URI")]
    """Where the run lies."""
    folder: Annotated[Positional[str], arg(metavar="FOLDER")]
    """Folder on this machine; it may hold an earlier pull of the run."""
    which: Annotated[str, arg(metavar="best|last|STEP")] = "best"
    """Checkpoint to bring: the best by validation loss, the newest, or that of a step."""

    def execute(self) -> int:
        from catdog.runs.pull import pull

        run, folder = open_bucket(self.run), open_folder(self.folder)
        print_pulled(pull(run, folder, self.which))
        tell(f"run {folder.uri}")
        return DONE


# For a union that is written with bars tyro imports typeguard, which takes as long as itself.
Command = typing.Union[Prepare, Verify, Plan, Train, Evaluate, Predict, Runs, Pull]  # noqa: UP007
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in typing.get_args(Command)}


def main() -> typing.NoReturn:
    """The words of this process's command line, done."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and give its exit code; a mistake or a failure is told in one line on stderr."""
    return exit_code("catdog", lambda: parse(arguments).execute())


def parse(arguments: list[str]) -> Command:
    """The command that is asked for; raises CallerError, or SystemExit(0) once help or the version has been printed."""
    name = arguments[0] if arguments else "--help"
    if name == "--version":
        tell(f"catdog {__version__}")
        raise SystemExit(0)
    if name not in (*COMMANDS, "-h", "--help"):
        raise CallerError(f"{name!r} is not a command: {hint(name, list(COMMANDS))}")
    if name in COMMANDS:
        return parse_command(COMMANDS[name], name, f"catdog {name}", arguments[1:])
    tyro.cli(Command, prog="catdog", description=DESCRIPTION, args=["--help"])
    raise AssertionError("help ends the program")
