"""The commands of `python -m job.submit`, which sends a recipe to a Ray cluster as a job, and follows it."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from tyro.conf import Positional, UseAppendAction, arg

from catdog.command.arguments import parse_command
from catdog.command.locations import absolute, require_uris
from catdog.command.program import DONE, exit_code
from catdog.errors import CallerError, did_you_mean, tell
from catdog.recipe import load_recipe
from job.submit.working_dir import RECIPE, named, working_dir

if TYPE_CHECKING:
    from job.submit.jobs import Jobs

PROGRAM = "python -m job.submit"
ENTRYPOINT = f"python -m job.train {RECIPE}"

Address = Annotated[
    str | None,
    arg(metavar="URL", help_behavior_hint="(default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)"),
]


@dataclass
class Submit:
    """Send a recipe to a Ray cluster and follow its log; the exit code is that of the training there.

    `python -m job.submit status [ID]`, `logs ID` and `stop ID` look after jobs that were sent; each has its --help.

    Only the recipe, the packages catdog and job, and the variables that --env names go to the cluster. Whoever may use
    the cluster can read them there. Where it wants a token, Ray's own variables name it: RAY_AUTH_MODE=token, and
    RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN.

    Example: python -m job.submit job/recipes/photos.toml --data.uri gs://b/data/photos --run gs://b/runs/photos
    """

    recipe: Annotated[Positional[Path], arg(metavar="RECIPE")]
    """File in TOML with the settings of the run; a folder that it names is one that the cluster sees under this path."""
    address: Address = None
    """Address of the cluster's dashboard, as in http://HEAD:8265."""
    workers: Annotated[str | None, arg(metavar="N|MIN-MAX", help_behavior_hint="(default: cluster.workers)")] = None
    """Workers that train together, as a rule one a host."""
    run: Annotated[str | None, arg(metavar="RUN_URI", help_behavior_hint="(default: the recipe's run.uri)")] = None
    """Where the run is written, or goes on."""
    env: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME[=VALUE]", help_behavior_hint="(repeatable)")
    ] = ()
    """Environment variable for the job, with the value that it has here or with this one."""
    no_wait: bool = False
    """Print the job's id and end, without following it."""
    image: bool = False
    """The cluster has catdog installed: send the recipe alone."""
    settings: list[tuple[str, str]] = field(default_factory=list, init=False)
    """Fields of the recipe and their new values, filled in by `parse_command`."""

    def execute(self) -> int:
        recipe = load_recipe(self.recipe, [*self.settings, ("cluster.workers", self.workers), ("run.uri", self.run)])
        require_uris(recipe)
        recipe = absolute(recipe)
        env = named(self.env, os.environ)
        jobs = _jobs(self.address)
        with working_dir(recipe, code=not self.image) as folder:
            job_id = jobs.submit(ENTRYPOINT, folder, env, recipe.run.uri)
        if self.no_wait:
            tell(job_id)
            return DONE
        tell(f"job {job_id}")
        return _followed(jobs, job_id)


@dataclass
class Status:
    """What has become of a job, or of all that were sent to the cluster, the newest first."""

    job_id: Annotated[Positional[str], arg(metavar="[ID]", help_behavior_hint="(default: all)")] = ""
    """Id of a job."""
    address: Address = None
    """Address of the cluster's dashboard, as in http://HEAD:8265."""

    def execute(self) -> int:
        from job.submit.status import print_job, print_jobs

        jobs = _jobs(self.address)
        if self.job_id:
            print_job(jobs.job(self.job_id))
        elif found := jobs.all():
            print_jobs(found)
        else:
            tell(f"{jobs.address}: no job has been sent to this cluster")
        return DONE


@dataclass
class Logs:
    """Print what a job has printed."""

    job_id: Annotated[Positional[str], arg(metavar="ID")]
    """Id of the job."""
    follow: bool = False
    """Follow the log until the job has ended; the exit code is then that of the job."""
    address: Address = None
    """Address of the cluster's dashboard, as in http://HEAD:8265."""

    def execute(self) -> int:
        jobs = _jobs(self.address)
        if self.follow:
            return _followed(jobs, self.job_id)
        print(jobs.log(self.job_id), end="")
        return DONE


@dataclass
class Stop:
    """Stop a job: it commits its state, and the same run goes on from there when it is submitted again."""

    job_id: Annotated[Positional[str], arg(metavar="ID")]
    """Id of the job."""
    address: Address = None
    """Address of the cluster's dashboard, as in http://HEAD:8265."""

    def execute(self) -> int:
        from job.submit.status import ending

        jobs = _jobs(self.address)
        before = jobs.job(self.job_id)
        after = jobs.stopped(self.job_id)
        tell(f"{self.job_id} {'had' if before.status.is_terminal() else 'has'} {ending(after)}")
        return DONE


COMMANDS: Mapping[str, type[Status] | type[Logs] | type[Stop]] = {"status": Status, "logs": Logs, "stop": Stop}


def main() -> NoReturn:
    logging.disable()  # Ray's client tells of every step, and of faults that are told here in one line
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and give its exit code; a mistake or a failure is told in one line on stderr."""
    return exit_code("job.submit", lambda: parse(arguments).execute())


def parse(arguments: list[str]) -> Submit | Status | Logs | Stop:
    """The command that is asked for; raises CallerError, or SystemExit(0) once help has been printed."""
    name = arguments[0] if arguments else "--help"
    if name in COMMANDS:
        return parse_command(COMMANDS[name], name, f"{PROGRAM} {name}", arguments[1:])
    if (near := did_you_mean(name, COMMANDS)) and not Path(name).exists():
        raise CallerError(f"{name!r} is neither a command nor a recipe: {near}")
    return parse_command(Submit, "job.submit", PROGRAM, arguments or ["--help"])


def _jobs(address: str | None) -> "Jobs":
    # Here, for Ray takes a second to import.
    from job.ray_private.pieces import CLIENT, check
    from job.submit.jobs import Jobs, dashboard

    check(CLIENT)
    return Jobs(dashboard(address, os.environ))


def _followed(jobs: "Jobs", job_id: str) -> int:
    from job.submit.follow import follow

    return follow(jobs, job_id)
