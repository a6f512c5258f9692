"""The files of a model, looked at before any library opens them: what is missing, cut off or empty is named."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unidetox.core.errors import MissingError, UsageError
from unidetox.core.files import require_json

_READ = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model",
    "spiece.model", "chat_template.jinja",
)  # fmt: skip
# Of several kinds the first that is there is loaded, as transformers and PEFT do.
_WEIGHTS = (
    "adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_POINTER = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000
_WHOLE = "Fetch or copy it again, whole"


def check_files(folder: Path) -> None:
    """See that every file that loading will read is there and whole; of weights only the beginnings are read.

    Args:
        folder: A model directory, or that of an adapter.

    Raises:
        MissingError: A file is not there (a shard, what a link leads to), or is empty, cut off or a Git LFS pointer.
        UsageError: A configuration is no JSON object.
    """
    for file in (folder / name for name in _READ):
        if _is_there(file):
            _check_beginning(file)
            if file.suffix == ".json" and "config" in file.stem:
                require_json(file)
    for file in weight_files(folder):
        _check_beginning(file)
        _check_length(file)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, as an index names them where there are several.

    Raises:
        MissingError: An index names a file that is not there.
        UsageError: An index cannot be read.
    """
    first = next((folder / name for name in _WEIGHTS if _is_there(folder / name)), None)
    if first is None or first.suffix != ".json":
        return [first] if first else []
    _check_beginning(first)
    shards = require_json(first).get("weight_map")
    if not isinstance(shards, Mapping) or not all(isinstance(name, str) for name in shards.values()):
        raise UsageError(f"{first} does not say which file holds which weight", hint=_WHOLE)
    files = [folder / name for name in dict.fromkeys(shards.values())]
    if missing := [file.name for file in files if not _is_there(file)]:
        what = f"{folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise MissingError(f"{what}, which {first.name} names", hint="Fetch or copy the missing files")
    return files


def tensor_headers(file: Path) -> dict[str, dict[str, Any]]:
    """Return name -> ``{"dtype", "shape", "data_offsets"}`` of the tensors of a safetensors file.

    Raises:
        MissingError: The file is cut off, or is none.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > size or length > _LONGEST_HEADER:
            raise MissingError(f"{file} is cut off, or no safetensors file: {size:,} bytes", hint=_WHOLE)
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise MissingError(f"{file} is no safetensors file: its header is no JSON", hint=_WHOLE) from None
    header.pop("__metadata__", None)
    end = 8 + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    if end > size:
        raise MissingError(f"{file} is cut off: {size:,} of {end:,} bytes", hint=_WHOLE)
    return dict(header)


def stored_dtype_name(folder: Path) -> str | None:
    """Return the dtype of most of the stored numbers, by torch's name; None where no file says so."""
    counts: dict[str, int] = {}
    for name, numbers in _stored(folder):
        counts[name] = counts.get(name, 0) + numbers
    return max(counts, key=lambda name: counts[name]) if counts else None


_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _stored(folder: Path) -> Iterator[tuple[str, int]]:
    import torch

    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            for entry in tensor_headers(file).values():
                if (name := _SAFETENSORS_DTYPES.get(entry["dtype"])) is not None:
                    yield name, math.prod(entry["shape"])
        else:
            for tensor in torch.load(file, map_location="meta", weights_only=True).values():
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    yield str(tensor.dtype).removeprefix("torch."), tensor.numel()


def _is_there(file: Path) -> bool:
    """Whether a directory lists the file, be it a link that leads nowhere."""
    return file.is_symlink() or file.is_file()


def _check_beginning(file: Path) -> None:
    if not file.exists():
        raise MissingError(f"{file} is a link to {file.readlink()}, which is not there", hint=_WHOLE)
    if file.stat().st_size == 0:
        raise MissingError(f"{file} is empty", hint=_WHOLE)
    with file.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise MissingError(f"{file} is a pointer of Git LFS, not the file itself", hint="Fetch it: git lfs pull")


def _check_length(file: Path) -> None:
    if file.suffix == ".safetensors":
        tensor_headers(file)
    elif file.suffix == ".bin":
        with file.open("rb") as stream:
            is_archive = stream.read(2) == b"PK"
        if is_archive and not zipfile.is_zipfile(file):  # the table of contents is at its end
            raise MissingError(f"{file} is cut off: {file.stat().st_size:,} bytes", hint=_WHOLE)
