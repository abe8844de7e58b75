"""`python -m job.submit`."""

from job.submit.commands import main

main()
