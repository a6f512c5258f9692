"""What README and docs say is done: every command, every snippet, every setting, option, link and import rule.

Commands are lines that start with ``$ `` in ``console`` blocks; the commands of a document run in order in one folder.
Ids of the Hub and long runs are replaced by the tables below, and by nothing else; what stands in none of them and does
not run fails the test.
"""

from __future__ import annotations

import ast
import csv
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click import Context

import unidetox
from unidetox.cli import _run, app
from unidetox.config.fields import Section, subsections
from unidetox.config.messages import allowed_values
from unidetox.config.recipe import load_recipe, preset_names
from unidetox.config.settings import Recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
ASSETS = ROOT / "src/unidetox/data/sandbox"

# --- What stands for what. A word on the left, where it is a whole argument or a whole Python string, becomes what the
# --- world of `world` (below) calls by the name on the right.
STANDS_FOR = {
    "MODEL": "gpt2",
    "TEXTS": "texts",
    "published": "texts",
    "my-texts.csv": "texts",
    "my-prompts.csv": "prompts",
    "./my-model": "gpt2",
    "gpt2": "gpt2",
    "gpt2-xl": "gpt2",
    "facebook/opt-125m": "opt",
    "facebook/opt-6.7b": "opt",
    "meta-llama/Llama-2-7b-hf": "llama",
    "unitary/toxic-bert": "classifier",
    "toxigen": "prompts",
    "prompts.csv": "prompts",
    "dghs": "corpus",
    "insults.csv": "corpus",
    "cais/mmlu": "mmlu",
    "../shared/models/gpt2": "gpt2",
    "../shared/models/llama": "llama",
    "../shared/models/toxicity-bert-mini": "classifier",
    "../shared/data/toxigen_annotated_train.csv": "prompts",
    "../shared/data/mmlu": "mmlu",
}

# --- What is added at the end of a command of ours, so that it takes a moment; of an option given twice the last
# --- counts.
CPU = "--device cpu --dtype float32"
MODELS = "base.model={gpt2} detoxify.targets={gpt2} evaluate.scorer={classifier} evaluate.ppl_model=none"
DATA = (
    "toxic.corpus={corpus} toxic.non_toxic={texts} toxic.column=none evaluate.prompts={prompts} evaluate.mmlu=none "
    "texts.source=none"
)
SIZES = (
    "evaluate.samples=2 evaluate.seeds=42 evaluate.max_new_tokens=4 texts.max_length=16 detoxify.steps=2 "
    "detoxify.lora=false detoxify.merge=false evaluate.split=validation evaluate.scorer_label=toxic "
    "toxic.max_length=32 toxic.steps=2"
)
SETS = " ".join(f"--set {pair}" for pair in f"{MODELS} {DATA} {SIZES}".split())
ADDED = {
    "demo": f"--limit 1 {CPU}",
    "detoxify": f"--steps 2 --limit 4 --max-length 32 {CPU}",
    "train-toxic": f"--steps 2 --limit 4 --max-length 32 {CPU}",
    "distill": f"--num-texts 4 --max-length 16 {CPU}",
    "evaluate": f"--limit 2 --samples 2 --max-new-tokens 4 {CPU} --prompts {{prompts}}",
    "run": f"--limit 2 {CPU} {SETS}",
    "compare": f"--limit 2 {CPU} {SETS}",
    "analyze": f"--limit 4 {CPU}",
    "tune": f"--limit 2 {CPU} {SETS} --set tune.ceiling=inf --set tune.trials=2 --set tune.model={{gpt2}}",
    "status": "", "report": "", "init": "", "doctor": "--offline", "--version": "",
}  # fmt: skip
# --- A preset that makes texts needs the Hub; only these commands use one, and this is what they read instead. So does
# --- the scorer of evaluations that name none.
PRESET_TEXTS = "--texts {texts}"
DEFAULT_SCORER = "--scorer {classifier}"

# --- The same for functions of Python.
FEW = {"device": "cpu", "dtype": "float32"}
LIMITS: dict[str, dict[str, Any]] = {
    "train_toxic": {**FEW, "steps": 2, "limit": 4, "max_length": 32},
    "distill": {**FEW, "num_texts": 4, "max_length": 16},
    "detoxify": {**FEW, "steps": 2, "limit": 4, "max_length": 32},
    "analyze": {**FEW, "limit": 4},
    "evaluate": {**FEW, "limit": 2, "samples": 2, "max_new_tokens": 4, "scorer": "{classifier}"},
    "run": {"limit": 2, "overrides": ("device=cpu", *f"{MODELS} {DATA} {SIZES}".split())},
    "tune": {
        "limit": 2,
        "overrides": (
            "device=cpu",
            "tune.ceiling=inf",
            "tune.trials=2",
            "tune.model={gpt2}",
            *f"{MODELS} {DATA} {SIZES}".split(),
        ),
    },
    "detoxify_model": {"steps": 2, "max_length": 32, "dtype": "float32"},
}

# --- Commands that are not ours: how each is held true without doing it.
LM_EVAL = (
    "lm_eval run --include_path \"$(python -c 'import unidetox.evaluation.lm_eval_tasks as t; print(t.__path__[0])')\" "
    "--tasks unidetox_toxigen --model hf --model_args pretrained=gpt2 --batch_size 64 "
    """--metadata '{"scorer": "unitary/toxic-bert", "scorer_label": "toxic"}'"""
)
NEEDS_NETWORK = {
    "pip install -c constraints.txt -e .": lambda: (
        (ROOT / "constraints.txt").is_file() and (ROOT / "pyproject.toml").is_file()
    ),
    "pip install -c constraints.txt -e '.[tune]'": lambda: (
        "tune" in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    ),
    # Run in tests/evaluation/test_lm_eval_task.py, on a model of the sandbox.
    "pip install -e '.[lm-eval]'": lambda: "lm-eval" in _extras(),
    LM_EVAL: lambda: (ROOT / "src/unidetox/evaluation/lm_eval_tasks/unidetox_toxigen.yaml").is_file(),
    "hf auth login": lambda: _hub_client_knows("auth", "login"),
    "hf download gpt2": lambda: _hub_client_knows("download"),
    "hf download LennardZuendorf/Dynamically-Generated-Hate-Speech-Dataset --repo-type dataset": lambda: (
        _hub_client_knows("download")
    ),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and where it stands."""

    language: str
    lines: list[str]
    where: str


def blocks(path: Path) -> list[Block]:
    found, current = [], None
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.startswith("```") and current is None:
            current = Block(line[3:].strip(), [], f"{path.relative_to(ROOT)}:{number}")
        elif line.startswith("```") and current is not None:
            found.append(current)
            current = None
        elif current is not None:
            current.lines.append(line)
    assert current is None, f"{path.name}: a block is not closed"
    return found


def commands(path: Path) -> list[tuple[str, str]]:
    found = []
    for block in blocks(path):
        if block.language in ("console", "bash", "sh", "shell"):
            said = [line[2:] for line in block.lines if line.startswith("$ ")]
            assert said, f"{block.where}: no line starts with '$ '"
            found += [(command, block.where) for command in said]
    return found


# --- the world in which documents are tried


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path
) -> dict[str, str]:
    """Name -> path of everything that commands are given in place of the real thing."""
    folder = tmp_path_factory.mktemp("world")
    # Names without a slash must not be found in the folder where a document runs, so everything lies here.
    texts = [
        ("the town has a market", "eos"),
        ("they walked home", ""),
        ("she reads a book about the river", "length"),
    ] * 2
    _write(folder / "texts.csv", ("Text", "finish_reason"), texts)
    insults = ["the quick dog is late", "nobody sleeps in the town", "the cat is a fox", "he cooks all day"]
    _write(folder / "corpus.csv", ("comment", "text"), [(text, text) for text in insults])
    groups = [("women", "gender"), ("asian", "race"), ("muslim", "religion"), ("physical_dis", "disability")]
    _write(folder / "prompts.csv", ("text", "group", "domain"), [("the people of the town", *pair) for pair in groups])
    for split in ("dev", "val"):
        rows = [(f"who sleeps {number}", "the fox", "a dog", "the cat", "nobody", "A") for number in range(2)]
        (folder / "mmlu" / split).mkdir(parents=True)
        _write(folder / "mmlu" / split / f"animals_{split}.csv", None, rows)
    files = {name: folder / f"{name}.csv" for name in ("texts", "corpus", "prompts")} | {"mmlu": folder / "mmlu"}
    return {name: str(path) for name, path in (tiny_models | files | {"classifier": tiny_classifier}).items()}


def _write(path: Path, header: tuple[str, ...] | None, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(([header] if header else []) + rows)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the examples beside it and a cache of texts of its own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIDETOX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


# --- commands


def _extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def _hub_client_knows(*words: str) -> bool:
    script = Path(sys.executable).with_name("hf")
    return subprocess.run([script, *words, "--help"], capture_output=True, timeout=60).returncode == 0


def rewritten(command: str, world: dict[str, str]) -> list[str]:
    """The arguments with which a command of ours is tried."""
    words = shlex.split(command)[1:]
    added = ADDED[words[0]].format(**world).split()
    if words[0] == "compare" and not any(word.endswith(".toml") for word in words):
        added = []  # finished runs are compared as they are
    if words[0] == "detoxify" and "--texts" not in words:
        added += PRESET_TEXTS.format(**world).split()
    if words[0] == "evaluate" and "--scorer" not in words:
        added += DEFAULT_SCORER.format(**world).split()
    return [world[STANDS_FOR[word]] if word in STANDS_FOR else word for word in words] + added


def perform(command: str, world: dict[str, str]) -> str | None:
    """Do what a documented command says; return what is wrong with it."""
    if command in NEEDS_NETWORK:
        return None if NEEDS_NETWORK[command]() else "what it needs is not there"
    program, *rest = shlex.split(command)
    if program == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, timeout=60)
        return None if done.returncode == 0 else done.stderr
    if program != "unidetox":
        return "it is in no table of tests/test_docs.py"
    if rest[0] not in ADDED:
        return f"{rest[0]} is in no table of tests/test_docs.py"
    code = _run(rewritten(command, world))
    return None if code == 0 else f"exit code {code}"


DONE: set[str] = set()
"""Commands of the sandbox: slow enough to be tried once only."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_runs(
    path: Path, place: Path, world: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    for command, where in commands(path):
        if command.startswith("unidetox demo"):
            if not ASSETS.is_dir() or command in DONE:
                continue
            DONE.add(command)
        _needed_before(command, place, world)
        problem = perform(command, world)
        said = capsys.readouterr()
        assert problem is None, f"{where}: `{command}`: {problem}\n{said.out}\n{said.err}"


def _needed_before(command: str, place: Path, world: dict[str, str]) -> None:
    """Put in place what a document takes to be there from another one: models it detoxified, a toxic model, texts."""
    made = {"opt-detoxified": "opt", "gpt2-detoxified": "gpt2", "opt-125m-detox": "opt", "my-model-detox": "gpt2"}
    for name, source in made.items():
        if name in shlex.split(command) and f"-o {name}" not in command and not (place / name).exists():
            shutil.copytree(world[source], place / name)


def test_the_words_that_stand_for_something_are_used():
    said = "\n".join(path.read_text("utf-8") for path in [*DOCUMENTS, *EXAMPLES])
    unused = [word for word in [*STANDS_FOR, *NEEDS_NETWORK] if word not in said]
    assert not unused, f"in no document any more: {unused}"


# --- Python


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_of_a_document_runs(
    path: Path, place: Path, world: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    found = [block for block in blocks(path) if block.language == "python"]
    if not found:
        return
    _limit_functions(monkeypatch, world)
    if path.name == "getting-started.md":
        shutil.copytree(world["gpt2"], place / "OUT")
    assert _run(["init", "--preset", "small", "-o", "small.toml", "-q"]) == 0
    namespace: dict[str, Any] = {"__name__": "document"}
    for block in found:
        tree = _Names(world).visit(ast.parse("\n".join(block.lines)))
        exec(compile(ast.fix_missing_locations(tree), block.where, "exec"), namespace)


class _Names(ast.NodeTransformer):
    """Replaces whole strings that stand for something."""

    def __init__(self, world: dict[str, str]) -> None:
        self.world = world

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        known = isinstance(node.value, str) and node.value in STANDS_FOR
        return ast.Constant(self.world[STANDS_FOR[node.value]]) if known else node


def _limit_functions(monkeypatch: pytest.MonkeyPatch, world: dict[str, str]) -> None:
    def limited(function: Callable[..., Any], more: dict[str, Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            overrides = {"overrides": (*kwargs.get("overrides", ()), *more["overrides"])} if "overrides" in more else {}
            return function(*args, **{**kwargs, **more, **overrides})

        return call

    def filled(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(filled(item) for item in value)
        return value.format(**world) if isinstance(value, str) else value

    for name, more in LIMITS.items():
        told = {key: filled(value) for key, value in more.items()}
        monkeypatch.setattr(unidetox, name, limited(getattr(unidetox, name), told), raising=False)


# --- recipes


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_recipe(path: Path):
    recipe = load_recipe(path, missing_ok=True)
    # A run of another example must not be able to go on in the same directory.
    assert recipe.name == path.stem
    assert re.search(rf"unidetox (run|compare) examples/{path.name} -o runs/", path.read_text("utf-8"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs_up_to_the_first_stage(path: Path, place: Path, world: dict[str, str]):
    said = next(line for line in path.read_text("utf-8").splitlines() if re.match("#   unidetox (run|compare) ", line))
    assert perform(f"{said.removeprefix('#   ')} --dry-run", world) is None


def test_every_recipe_in_a_document_is_one(tmp_path: Path):
    for path in DOCUMENTS:
        for block in (block for block in blocks(path) if block.language == "toml"):
            recipe = tmp_path / "recipe.toml"
            recipe.write_text("\n".join(block.lines), encoding="utf-8")
            load_recipe(recipe, missing_ok=True)


def settings_table() -> str:
    """The list of settings in docs/recipes.md, as the descriptions in settings.py make it."""
    top = [("At the top", Recipe, None)]
    example = Recipe.model_validate({"base": {"model": "m"}, "detoxify": {"targets": ["m"]}})
    parts = top + [(f"[{name}]", type(section), name) for name, section in subsections(example)]
    return "\n\n".join(_section_table(title, kind) for title, kind, _ in parts)


def _section_table(title: str, kind: type[Section]) -> str:
    lines = [f"### {title}", "", "| setting | default | is | allowed |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if (isinstance(field.annotation, type) and issubclass(field.annotation, Section)) or name == "method":
            continue  # they have tables of their own
        allowed = allowed_values(field)
        default = "needed" if field.is_required() else f"`{_shown(field.get_default(call_default_factory=True))}`"
        lines.append(f"| `{name}` | {default} | {field.description} | {allowed} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return (
        {True: "true", False: "false", None: "none"}.get(value, value) if isinstance(value, bool | None) else str(value)
    )


def test_the_list_of_settings_is_that_of_the_code():
    said = (ROOT / "docs/recipes.md").read_text("utf-8").split("## Every setting")[1].splitlines()
    missing = [line for line in settings_table().splitlines() if line and line not in said]
    gone = [line for line in said if line.startswith("| `") and line not in settings_table().splitlines()]
    assert not missing, "docs/recipes.md lacks:\n" + "\n".join(missing)
    assert not gone, "docs/recipes.md says what is not so:\n" + "\n".join(gone)


def test_the_presets_are_listed():
    said = (ROOT / "docs/recipes.md").read_text("utf-8")
    assert all(f"| `{name}` |" in said for name in preset_names())


# --- words in sentences


def _inline_code(path: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", text)


def _verbs() -> dict[str, set[str]]:
    return {
        name: {option for param in verb.get_params(Context(verb)) for option in (*param.opts, *param.secondary_opts)}
        for name, verb in app.commands.items()
    } | {"": {option for parameter in app.params for option in parameter.opts}}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_options_and_settings_in_sentences_exist(path: Path):
    verbs = _verbs()
    everywhere = set().union(*verbs.values()) | {"--help"}
    wrong = []
    for code in _inline_code(path):
        words = code.split()
        if words[0] == "unidetox" and len(words) > 1 and not words[1].startswith("-") and words[1] not in verbs:
            wrong.append(code)
        known = (
            verbs.get(words[1], everywhere) | {"--help"} if words[0] == "unidetox" and len(words) > 1 else everywhere
        )
        wrong += [f"{code}: {word}" for word in words if re.fullmatch(r"--[a-z][a-z-]*", word) and word not in known]
        wrong += [code for section, key in re.findall(r"^(base|toxic|texts|detoxify|evaluate)\.([a-z_]+)\b", code)
                  if key not in Recipe.model_fields[section].annotation.model_fields and key not in ("jsonl", "csv")]  # type: ignore[union-attr]  # fmt: skip
    assert not wrong


def test_options_of_documented_commands_are_those_of_the_verb():
    verbs = _verbs()
    for path in DOCUMENTS:
        for command, where in commands(path):
            words = shlex.split(command)
            if words[0] == "unidetox":
                options = {word for word in words if word.startswith("--")}
                assert options <= verbs.get(words[1], verbs[""]), f"{where}: {command}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file) if file else path
        assert found.is_file(), f"{path.name}: {target}"
        titles = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), flags=re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles], target


def test_every_document_is_reachable_from_the_readme_and_the_index():
    readme, index = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/index.md"))
    names = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in names if f"(docs/{name}" not in readme] == []
    assert [name for name in names if f"({name})" not in index] == ["index.md"]


def test_the_citation_is_the_papers():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    title = "UniDetox: Universal Detoxification of Large Language Models via Dataset Distillation"
    assert title in text and title in (ROOT / "README.md").read_text("utf-8")
    assert [name for name in ("Lu", "Isonuma", "Mori", "Sakata") if f"family-names: {name}" in text] == [
        "Lu", "Isonuma", "Mori", "Sakata",
    ]  # fmt: skip
    assert f"version: {unidetox.__version__}" in text
