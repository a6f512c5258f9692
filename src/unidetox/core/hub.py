"""The Hugging Face Hub as users meet it: is it needed, can it be reached, and what to type when it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from unidetox.core.errors import MissingError
from unidetox.core.names import hide_secrets
from unidetox.core.resolve import is_local, split_revision

Kind = Literal["model", "dataset"]

# The Hub client retries for half a minute before it gives up; one short question first keeps bad news quick.
PROBE_SECONDS = 5.0

# What transformers says in words of its own, wherever it drops the error that it rests on.
_GATED, _ABSENT = "gated repo", ("is not a valid model identifier", "is not a local folder")
_NO_REVISION = "is not a valid git identifier"
_UNREACHABLE = ("couldn't connect", "couldn't reach", "connection error")


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
        name: A Hub id, ``ID`` or ``ID@REVISION``.
        kind: ``"model"`` or ``"dataset"``.

    Returns:
        The snapshot folder (which may hold only some of the files), or None where there is none.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, local_files_only=True))
    except Exception:  # the client raises many kinds, all of which mean "not here"
        return None


def license_of(name: str) -> dict[str, str]:
    """Return the license that a model's own card names, as far as the card is on this disk.

    Args:
        name: A directory or a Hub id.

    Returns:
        ``license`` and, for one that is none of the Hub's, ``license_name`` and ``license_link``; empty where unknown.
    """
    from huggingface_hub import ModelCard

    folder = Path(name).expanduser() if is_local(name) else cached_snapshot(name, "model")
    try:
        metadata = ModelCard.load(str((folder or Path()) / "README.md")).data.to_dict() if folder else {}
    except Exception:  # no card, or one that is no YAML, holds no mapping, ...: nothing is known then
        return {}
    told = ("license", "license_name", "license_link") if isinstance(metadata.get("license"), str) else ()
    return {key: str(metadata[key]) for key in told if metadata.get(key)}


def commit_of(name: str, kind: Kind) -> str | None:
    """The commit that a Hub id stands for in the local cache; None for a path, and for what is not in the cache."""
    folder = None if is_local(name) else cached_snapshot(name, kind)
    return folder.name if folder else None


def download_command(name: str, kind: Kind) -> str:
    """What to type to fetch a model or data set into the cache."""
    repository, revision = split_revision(name)
    options = (" --repo-type dataset" if kind == "dataset" else "") + (f" --revision {revision}" if revision else "")
    return f"hf download {repository}{options}"


def explain_hub_error(exc: BaseException, name: str, kind: Kind) -> MissingError:
    """Turn whatever the Hub client or a loader raised into one clear line; never shows a token.

    Args:
        exc: What was raised; its causes are looked at too.
        name: The Hub id that was asked for, perhaps with a revision.
        kind: ``"model"`` or ``"dataset"``.

    Returns:
        The error to raise: gated, no such revision, not cached, absent, refused, unreachable, or else what was said.
    """
    from huggingface_hub import errors

    links = list(_chain(exc))
    text = " ".join(str(link) for link in links).lower()
    status = {link.response.status_code for link in links if isinstance(link, errors.HfHubHTTPError)}

    def is_a(*types: type[BaseException]) -> bool:
        return any(isinstance(link, types) for link in links)

    what = "data set" if kind == "dataset" else "model"
    repository, revision = split_revision(name)
    url = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    get = download_command(name, kind)
    if is_a(errors.GatedRepoError) or _GATED in text:
        return MissingError(f"{what} {name} is gated", hint=f"accept its terms at {url}, then run `hf auth login`")
    if is_offline():
        hint = f"fetch it once with `{get}`, or leave out --offline (HF_HUB_OFFLINE)"
        return MissingError(f"{what} {name} is neither on this disk nor in the Hugging Face cache (offline)", hint=hint)
    if revision and (is_a(errors.RevisionNotFoundError) or _NO_REVISION in text):
        return MissingError(f"{what} {repository} has no revision {revision}", hint=f"see {url}/refs")
    if is_a(errors.RepositoryNotFoundError, errors.HFValidationError) or any(sign in text for sign in _ABSENT):
        hint = "check the spelling or the path; for a private one run `hf auth login`"
        return MissingError(f"no {what} {name} on this disk or on the Hugging Face Hub", hint=hint)
    if status & {401, 403}:
        return MissingError(f"the Hub refused access to {what} {name}", hint="run `hf auth login`, then try again")
    if any(map(_is_transport, links)) or is_a(errors.LocalEntryNotFoundError) or any(s in text for s in _UNREACHABLE):
        hint = f"check the network, or fetch it with `{get}` where there is one and use --offline here"
        return MissingError(f"{what} {name} is not on this disk and the Hugging Face Hub cannot be reached", hint=hint)
    said = hide_secrets((str(exc).strip() or type(exc).__name__).splitlines()[0].strip())[:200].rstrip(".")
    return MissingError(f"{what} {name} cannot be loaded ({said})", hint=f"see {url}")


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _is_transport(exc: BaseException) -> bool:
    """Whether no answer came at all; the Hub's client has been built on httpx and on its successor."""
    of_http = type(exc).__module__.startswith("httpx") and not hasattr(exc, "response")
    return of_http or isinstance(exc, ConnectionError | TimeoutError)
