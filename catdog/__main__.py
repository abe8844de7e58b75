"""`python -m catdog`, the same as the `catdog` command."""

from catdog.cli import main

main()
