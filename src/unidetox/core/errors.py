"""Every error a user can cause, each with what to do next and an exit code."""

from __future__ import annotations


class UniDetoxError(Exception):
    """Something a user can understand and act on; the command line prints it as one line and exits.

    Args:
        message: What is wrong and where, in one line without a final full stop.
        hint: What to do next, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(UniDetoxError, ValueError):
    """An option, a recipe or an input file that cannot be used as it is (exit code 2)."""

    exit_code = 2


class MissingError(UniDetoxError, FileNotFoundError):
    """A file, model, data set, package or permission that is needed and absent (exit code 3)."""

    exit_code = 3


class LockedError(UniDetoxError):
    """Another process is working in the same directory (exit code 4)."""

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """A signal came that asks for the end; everything ends as by Ctrl-C, with an exit code of its own.

    Args:
        number: The signal's; the exit code is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def interruption(exc: BaseException) -> KeyboardInterrupt | None:
    """Return the Ctrl-C that an error comes from; None where it does not.

    It may fall into the middle of a library's clearing up, which then fails in its own way: torch, say, finds a stack
    of modes empty that it has already emptied.

    Args:
        exc: What was raised; all that it was raised in the handling of is looked at too.
    """
    link: BaseException | None = exc
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__context__
    return link
