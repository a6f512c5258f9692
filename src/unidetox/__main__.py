"""``python -m unidetox``, where the command is not on the path."""

from unidetox.cli import main

if __name__ == "__main__":
    main()
