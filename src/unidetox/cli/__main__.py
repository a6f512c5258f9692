"""``python -m unidetox.cli``: the command line without its script."""

from unidetox.cli import main

main()
