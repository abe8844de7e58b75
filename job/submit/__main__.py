"""`python -m job.submit`."""

from job.submit.commands import main

if __name__ == "__main__":
    main()
