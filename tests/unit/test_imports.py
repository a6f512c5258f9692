"""The rooms of the house: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
PACKAGE = SRC / "unidetox"

# Leftward only: a room imports from those above it and from its own. `__init__` (the public names) counts for the
# version number alone; it loads everything else lazily.
ROOMS = [
    {"errors"},
    {
        "console",
        "costs",
        "directories",
        "files",
        "hub",
        "peaks",
        "provenance",
        "published",
        "registry",
        "sources",
        "stats",
    },
    {"decoding", "settings"},
    {"config", "data", "explanations", "models", "stages", "targets"},
    {"machine", "runs", "metrics", "training"},
    {
        "cards",
        "charts",
        "comparisons",
        "curves",
        "doctor",
        "grids",
        "headline",
        "report",
        "sandbox",
        "sections",
        "standings",
        "tables",
    },
    {
        "analysis",
        "candidates",
        "distillation",
        "evaluation",
        "gathering",
        "lm_eval_tasks",
        "model_stage",
        "results",
        "speed",
    },
    {"methods"},
    {"estimates", "preflight", "pipeline"},
    {"api"},
    {"tuning"},
    {"cli"},
]
LEVEL = {name: level for level, room in enumerate(ROOMS) for name in room}
# Within a room without an order of its own, modules that others may not know.
LIGHT = ["cards", "charts", "config", "errors", "files", "headline", "report", "runs", "settings", "sources", "stages"]
LIGHT += [
    "registry",
    "explanations",
    "peaks",
    "standings",
    "stats",
    "tables",
    "console",
    "directories",
    "provenance",
    "data",
    "sandbox",
    "analysis",
]
HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its dotted name below it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())


def room(name: str) -> str:
    return "cli" if name == "__main__" else name.split(".")[0]


def imported(tree: ast.AST, *, only_at_run_time: bool = False) -> Iterator[str]:
    """Dotted names below the package that a module imports, anywhere in it."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if only_at_run_time and id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_package(name: str) -> str | None:
    """The module below the package that an imported name is or lies in; None for another package."""
    if not name.startswith("unidetox."):
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or None


def test_every_module_has_a_room():
    assert {room(name) for name in MODULES if name} <= set(LEVEL)
    assert all((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() for name in LEVEL)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_rooms_import_leftward_only(name: str):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    # What is imported for types alone ties no code together.
    used = {module for found in imported(tree, only_at_run_time=True) if (module := of_package(found))}
    wrong = {module for module in used if room(module) != room(name) and LEVEL[room(module)] > LEVEL[room(name)]}
    assert wrong == set()
    assert room(name) == "cli" or not any(room(module) == "cli" for module in used)


def test_the_engine_needs_nothing_but_errors():
    used = set()
    for name, path in MODULES.items():
        if room(name) == "decoding":
            found = imported(ast.parse(path.read_text(encoding="utf-8")))
            used |= {room(module) for import_ in found if (module := of_package(import_))}
    assert used <= {"decoding", "errors"}


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {
            module
            for found in imported(ast.parse(path.read_text(encoding="utf-8")), only_at_run_time=True)
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
    assert printing <= {"console"}


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
    statements = ["import unidetox", *(f"import unidetox.{name}" for name in sorted(LIGHT)), "import unidetox.cli"]
    assert loaded_after(*statements) == {statement: [] for statement in statements}


def test_public_names_are_there_and_nothing_else():
    import unidetox

    assert sorted(unidetox.__all__) == sorted([*unidetox._PUBLIC, "__version__"])
    for name in unidetox.__all__:
        assert getattr(unidetox, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unidetox.nothing  # noqa: B018
