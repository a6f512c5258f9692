"""The rooms of the house: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = SRC / "unidetox"

ARCHITECTURE = Path(__file__).resolve().parents[1] / "ARCHITECTURE.md"
# The one list: rows of the table of rooms, from the ground up. A room imports from itself and from rows above its own.
ROOMS = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", ARCHITECTURE.read_text("utf-8"), flags=re.MULTILINE)
FLOOR = {room: number for number, room in enumerate(ROOMS)}
# Who may import less than all that is above: `report` shows results and computes none, metrics are pure functions.
NARROW = {
    "decoding": {"core"},
    "report": {"core", "config"},
    "evaluation.metrics": {"core", "config", "data"},
}
# Who may not even name a heavy package, inside a function either.
PURE = ("report", "evaluation.metrics")
# The one way up: `config/methods.py` loads methods as plug-ins, entry points of the group of that name.
PLUGINS = {("config.methods", "methods")}
HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its dotted name below it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())


def room(name: str) -> str:
    return "cli" if name == "__main__" else name.split(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports: anywhere in it, for types alone, or by a string."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if re.fullmatch(r"unidetox(\.\w+)*[.:]?\w*", node.value):
                yield node.value.replace(":", ".")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            assert isinstance(node.args[0], ast.Constant | ast.JoinedStr), (
                "what is imported by a string must be readable"
            )


def of_package(name: str) -> str | None:
    """The module below the package that an imported name is or lies in; None for another package."""
    if not name.startswith("unidetox."):
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or None


def wrong_imports(name: str, source: str) -> set[str]:
    """The modules that a module imports and may not."""
    named = set(imported(ast.parse(source)))
    used = {module for found in named if (module := of_package(found))}
    wrong = {m for m in used if FLOOR[room(m)] > FLOOR[room(name)] and (name, m) not in PLUGINS}
    for place, allowed in NARROW.items():
        if is_in(name, place):
            wrong |= {module for module in used if not any(is_in(module, other) for other in (place, *allowed))}
    if any(is_in(name, place) for place in PURE):
        wrong |= {found for found in named if any(is_in(found, package) for package in HEAVY)}
    return wrong


def is_in(name: str, place: str) -> bool:
    """Whether a dotted name is another or lies in it."""
    return f"{name}.".startswith(f"{place}.")


def test_the_architecture_lists_every_room_once():
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix != ".typed"}
    assert entries - {"__init__", "__main__", "__pycache__"} == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS)) <= 12


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_room_imports_from_rooms_above_it_in_the_list(name: str):
    assert wrong_imports(name, MODULES[name].read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("core.files", "from unidetox.config.settings import Recipe", "config.settings"),
        ("core.files", "def f():\n    import unidetox.models", "models"),
        ("report.page", "from unidetox.evaluation import results", "evaluation.results"),
        ("report.page", "from unidetox.models import load_lm", "models"),
        ("config.recipe", "import_module('unidetox.methods.base')", "methods.base"),
        ("config.recipe", "import_module(f'unidetox.methods.{name}')", "methods"),
        ("config.recipe", "WHERE = {'a': 'unidetox.methods.base:METHOD'}", "methods.base"),
        ("decoding.cache", "from unidetox.models import LM", "models"),
        ("evaluation.metrics.toxicity", "from unidetox.models import Classifier", "models"),
        ("evaluation.metrics.mmlu", "from unidetox.evaluation.prompt_encoding import encode_pairs",
         "evaluation.prompt_encoding"),
        ("evaluation.metrics.perplexity", "def f():\n    import torch", "torch"),
    ],
)  # fmt: skip
def test_an_import_that_runs_upward_is_found(name: str, source: str, wrong: str):
    assert wrong in wrong_imports(name, source)


def test_an_import_by_a_computed_name_is_found():
    with pytest.raises(AssertionError, match="readable"):
        wrong_imports("config.recipe", "import_module(name)")


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {
            module
            for found in imported(ast.parse(path.read_text(encoding="utf-8")))
            if (module := of_package(found)) and module != name
        }
        for name, path in MODULES.items()
        if name
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for inner in graph.get(name, ()):
                # A package's own __init__ collects its modules, and its modules may name the package.
                if not (inner.startswith(f"{name}.") or name.startswith(f"{inner}.")):
                    visit(inner, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_the_console_prints():
    printing = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            getattr(node.func, "id", "") == "print"
            or ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
        )
    }
    assert printing <= {"core.console"}


def test_only_the_command_line_exits():
    leaving = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "quit", "os._exit")
    }
    assert leaving <= {"cli"}


def loaded_after(*statements: str) -> dict[str, list[str]]:
    """What heavy packages are in memory after each of some imports, all in one new process."""
    lines = [f"import sys; heavy = {HEAVY!r}"]
    for statement in statements:
        lines += [statement, f"print({statement!r}, *[name for name in heavy if name in sys.modules], sep='|')"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SRC), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}


def test_light_rooms_load_no_torch():
    light = [name for name in MODULES if f"{name}.".startswith(("core.", "config.", "report.", "evaluation.metrics."))]
    statements = ["import unidetox", *(f"import unidetox.{name}" for name in light), "import unidetox.cli"]
    assert loaded_after(*statements) == {statement: [] for statement in statements}


def test_public_names_are_there_and_nothing_else():
    import unidetox

    assert set(unidetox._ELSEWHERE) < set(unidetox.__all__)
    for name in unidetox.__all__:
        assert getattr(unidetox, name)
    for name in ("nothing", "recipe_of"):  # the latter is in `api` without being public
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(unidetox, name)
