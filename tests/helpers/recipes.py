"""Helpers of the command-line tests: small inputs made on the spot, and the command line, called here or outside."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parents[2] / "src"

_SUBJECTS = ("the fox", "a dog", "the cat", "nobody", "the river", "she", "he")
_VERBS = ("jumps over", "sleeps by", "walks home with", "reads about", "talks to", "is late for")
_OBJECTS = ("the lazy dog", "a small town", "the market", "a book", "the sea", "dinner")

PROMPTS = [
    ("the quick fox and the women", "women"),
    ("a small town by the sea", "asian"),
    ("people meet on sunday morning", "muslim"),
    ("she reads a book", "physical_dis"),
]


def sentences(number: int) -> list[str]:
    """Different short texts in the words that the tiny tokenizers know."""
    made = [f"{s} {v} {o}" for s in _SUBJECTS for v in _VERBS for o in _OBJECTS]
    step = 37  # shares no factor with their number, so that neighbours differ
    return [made[i * step % len(made)] for i in range(number)]


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_corpus(path: Path, number: int = 24) -> Path:
    """A toxic corpus with the columns of DGHS: some rows are not hate, some name other targets, one comes twice."""
    texts = sentences(number + 3)
    rows = [(text, "hate", "wom" if i % 2 else "jew") for i, text in enumerate(texts[:number])]
    rows += [(texts[0], "hate", "wom"), (texts[-1], "nothate", "wom"), (texts[-2], "hate", "dis")]
    return write_csv(path, [("text", "label", "target"), *rows])


def write_prompts(path: Path) -> Path:
    return write_csv(path, [("text", "group"), *PROMPTS])


def write_texts(path: Path, number: int = 16) -> Path:
    """Detoxifying texts as the authors published theirs: a CSV with the one column ``Text``."""
    return write_csv(path, [("Text",), *([text] for text in sentences(number))])


def write_mmlu(folder: Path) -> Path:
    for split, question in (("dev", "who sleeps"), ("val", "who jumps")):
        rows = [[f"{question} {i}", "the fox", "a dog", "the cat", "nobody", "ABCD"[i]] for i in range(3)]
        write_csv(folder / split / f"animals_{split}.csv", rows)
    return folder


def toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: the plain values first, then a table for each section."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, Mapping)]
    for name, section in settings.items():
        if isinstance(section, Mapping):
            plain += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(plain) + "\n"


@dataclass(frozen=True)
class Inputs:
    """What a run reads: models and data in one folder's reach.

    Attributes:
        folder: Holds the data files.
        models: Tiny language models by name.
        scorer: A tiny classifier.
    """

    folder: Path
    models: Mapping[str, Path]
    scorer: Path

    @classmethod
    def make(cls, folder: Path, models: Mapping[str, Path], scorer: Path) -> Inputs:
        write_corpus(folder / "corpus.csv")
        write_prompts(folder / "prompts.csv")
        write_texts(folder / "texts.csv")
        write_mmlu(folder / "mmlu")
        return cls(folder, models, scorer)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def settings(self) -> dict[str, Any]:
        """A whole recipe that takes seconds."""
        return {
            "name": "tiny",
            "seed": 7,
            "device": "cpu",
            "dtype": "float32",
            "base": {"model": str(self.models["gpt2"])},
            "toxic": {
                "corpus": self.file("corpus.csv"), "steps": 4, "lr": 1e-3, "batch_size": 4, "max_length": 32,
            },
            "texts": {"num_texts": 12, "max_length": 20},
            "detoxify": {
                "targets": [str(self.models["gpt2"]), str(self.models["opt"])], "methods": ["unidetox", "samples"],
                "steps": 4, "lr": 1e-3, "batch_size": 4, "max_length": 32,
            },
            "evaluate": {
                "prompts": self.file("prompts.csv"), "scorer": str(self.scorer), "ppl_model": str(self.models["llama"]),
                "mmlu": self.file("mmlu"), "samples": 3, "max_new_tokens": 6, "seeds": [42, 43],
            },
        }  # fmt: skip

    def small(self) -> dict[str, Any]:
        """The least that goes through every stage: one target, one method, one seed, nothing that is optional."""
        settings = self.settings()
        settings["detoxify"] |= {"targets": [str(self.models["gpt2"])], "methods": ["unidetox"]}
        settings["evaluate"] |= {"seeds": [42], "samples": 2}
        for key in ("ppl_model", "mmlu"):
            del settings["evaluate"][key]
        return settings

    def recipe(self, path: Path, settings: Mapping[str, Any] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(toml(self.settings() if settings is None else settings), encoding="utf-8")
        return path


@dataclass(frozen=True)
class Said:
    """What a command answered: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Said:
        assert self.code == 0, self
        return self


def call(*arguments: object) -> Said:
    """Run a command line in this process."""
    from unidetox.cli import _run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    """The environment of a command in a process of its own: this source tree."""
    path = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path} | more


def start(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a command line in a process of its own, as at a prompt: what a shell runs in the background ignores ^C."""
    command = [sys.executable, "-m", "unidetox", *map(str, arguments)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=env or environment(), cwd=cwd, preexec_fn=heard, **streams)


def spawn(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Said:
    """Run a command line in a process of its own, to its end."""
    process = start(*arguments, env=env, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return Said(process.returncode, out, err)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their bytes; folders as keys that end with a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found |= {f"{name}/": b""} if path.is_dir() else {name: path.read_bytes()}
    return found


def stages(run: Path) -> dict[str, bytes]:
    """The commit mark of every stage of a run; folders may come and go while it works."""
    found = {}
    for folder, _, files in sorted(os.walk(run)):  # unlike `rglob`, it passes over what is gone
        if "stage.json" in files:
            with contextlib.suppress(FileNotFoundError):
                found[Path(folder).relative_to(run).as_posix()] = Path(folder, "stage.json").read_bytes()
    return found


def redone(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    """Names of the stages that were made again."""
    return {name for name in after if after[name] != before.get(name)}
