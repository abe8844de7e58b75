"""`python -m job.submit`: its first instructions."""

from catdog.command.program import run_program


def _command() -> int:
    from job.submit import commands

    return commands.main()


if __name__ == "__main__":
    run_program("job.submit", _command)
