"""The Hugging Face Hub as users meet it: is it needed, can it be reached, and what to type when it fails."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from unidetox.core.errors import MissingError
from unidetox.core.names import hide_secrets

Kind = Literal["model", "dataset"]

# The Hub client retries for half a minute before it gives up; one short question first keeps bad news quick.
PROBE_SECONDS = 5.0

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_SUFFIXES = (
    ".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".toml", ".arrow", ".gz", ".zip",
    ".safetensors", ".bin", ".pt", ".pth", ".gguf",
)  # fmt: skip

_GATED = ("GatedRepoError", "gated repo", "is a gated", "is gated", "restricted and you are not")
_ABSENT = (
    "RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError", "is not a valid model identifier",
    "is not a local folder", "doesn't exist on the hub",
)  # fmt: skip
_REFUSED = (
    "401 client error",
    "403 client error",
    "invalid user token",
    "invalid username or password",
    "unauthorized",
)
_UNREACHABLE = (
    "ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "TimeoutError",
    "OfflineModeIsEnabled", "LocalEntryNotFoundError",
    "couldn't connect", "couldn't reach", "connection error", "internet connection",
)  # fmt: skip


def is_local(name: str) -> bool:
    """Whether a name means something on this disk rather than a Hub id.

    True for what exists, and for what can only be a path: absolute, starting with ``.`` or ``~``, more than
    one slash, or the ending of a file. ``gpt2`` and ``org/name`` are Hub ids unless such a path exists.

    Args:
        name: A path or a Hub id, as the user typed it.

    Returns:
        True where the name should be looked for on disk only.
    """
    try:
        if Path(name).expanduser().exists():
            return True
    except (OSError, ValueError, RuntimeError):  # name too long, a NUL in it, no home directory
        return True
    looks_like_id = _HUB_ID.fullmatch(name) is not None and len(name) <= 128 and ".." not in name
    return not looks_like_id or name.lower().endswith(_FILE_SUFFIXES)


def is_offline() -> bool:
    """Whether the Hub may not be asked (``--offline`` or ``HF_HUB_OFFLINE=1``)."""
    from huggingface_hub import is_offline_mode

    return bool(is_offline_mode())


def require_reachable(name: str, kind: Kind) -> None:
    """Return at once where the Hub answers, and fail within seconds where it does not.

    Args:
        name: The Hub id that is wanted, for the message.
        kind: ``"model"`` or ``"dataset"``.

    Raises:
        MissingError: Offline, or no answer within ``PROBE_SECONDS``.
    """
    if is_offline():
        raise explain_hub_error(ConnectionError("offline"), name, kind)
    failure: list[Exception] = [TimeoutError("no answer")]

    def ask() -> None:
        from huggingface_hub import constants, get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
            failure.clear()
        except Exception as exc:
            failure[:] = [exc]

    # In a thread because looking up a host name takes no time-out.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if failure:
        raise explain_hub_error(ConnectionError(str(failure[0])), name, kind)


def cached_snapshot(name: str, kind: Kind) -> Path | None:
    """The folder of a Hub id in the local Hugging Face cache, without asking the Hub.

    Args:
        name: A Hub id.
        kind: ``"model"`` or ``"dataset"``.

    Returns:
        The snapshot folder (which may hold only some of the files), or None where there is none.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type=kind, local_files_only=True))
    except Exception:  # the client raises many kinds, all of which mean "not here"
        return None


def explain_hub_error(exc: BaseException, name: str, kind: Kind) -> MissingError:
    """Turn whatever the Hub client or a loader raised into one clear line; never shows a token.

    Args:
        exc: What was raised; its causes are looked at too.
        name: The Hub id that was asked for.
        kind: ``"model"`` or ``"dataset"``.

    Returns:
        The error to raise: gated, not cached, absent, refused, unreachable, or else what was said.
    """
    said = " ".join(f"{type(link).__name__} {link}" for link in _chain(exc))
    what = "data set" if kind == "dataset" else "model"
    url = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    get = f"hf download {name}{' --repo-type dataset' if kind == 'dataset' else ''}"
    if _mentions(said, _GATED):
        return MissingError(f"{what} {name} is gated", hint=f"accept its terms at {url}, then run `hf auth login`")
    if is_offline():
        hint = f"fetch it once with `{get}`, or leave out --offline (HF_HUB_OFFLINE)"
        return MissingError(f"{what} {name} is neither on this disk nor in the Hugging Face cache (offline)", hint=hint)
    if _mentions(said, _ABSENT):
        hint = "check the spelling or the path; for a private one run `hf auth login`"
        return MissingError(f"no {what} {name} on this disk or on the Hugging Face Hub", hint=hint)
    if _mentions(said, _REFUSED):
        return MissingError(f"the Hub refused access to {what} {name}", hint="run `hf auth login`, then try again")
    if _mentions(said, _UNREACHABLE):
        hint = f"check the network, or fetch it with `{get}` where there is one and use --offline here"
        return MissingError(f"{what} {name} is not on this disk and the Hugging Face Hub cannot be reached", hint=hint)
    return MissingError(f"{what} {name} cannot be loaded ({_first_line(exc)})", hint=f"see {url}")


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _mentions(said: str, signs: tuple[str, ...]) -> bool:
    lowered = said.lower()
    return any(sign.lower() in lowered for sign in signs)


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return hide_secrets(lines[0] if lines else type(exc).__name__)[:200].rstrip(".")
