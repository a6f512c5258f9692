import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unidetox.config.fields import subsections
from unidetox.config.messages import allowed_values
from unidetox.config.recipe import (
    Recipe,
    build_recipe,
    commented_recipe,
    load_recipe,
    preset,
    preset_names,
    resolve_source,
    write_recipe,
)
from unidetox.core.errors import MissingError, UsageError


def recipe_from(preset: str, **settings) -> Recipe:
    return build_recipe({"preset": preset, **settings})


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str, name: str = "my.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises((UsageError, MissingError)) as caught:
        load_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, unidetox.config.recipe, unidetox.pipeline.run_directory; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_paper_preset_is_the_paper():
    recipe = recipe_from("paper")
    assert recipe.base.model == "gpt2-xl"
    assert (recipe.toxic.epochs, recipe.toxic.lr, recipe.toxic.batch_size, recipe.toxic.max_length) == (3, 1e-5, 4, 512)
    assert (recipe.texts.num_texts, recipe.texts.max_length, recipe.texts.alpha) == (640, 256, 0.1)
    assert (recipe.texts.beta, recipe.texts.top_k, recipe.texts.top_p) == (math.inf, 50, 1.0)
    assert (recipe.detoxify.steps, recipe.detoxify.lr, recipe.detoxify.batch_size) == (3000, 5e-5, 8)
    assert recipe.evaluate.seeds == (42, 43, 44, 45, 46)
    assert (recipe.evaluate.samples, recipe.evaluate.max_new_tokens, recipe.evaluate.top_p) == (25, 20, 0.9)
    assert (recipe.evaluate.ppl_model, recipe.evaluate.mmlu) == ("meta-llama/Llama-2-7b-hf", "cais/mmlu")
    assert recipe.evaluate.protocol == "paper"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_survives_init(name, recipe_file):
    text = commented_recipe(name, "mine")
    assert tomllib.loads(text)["name"] == "mine"
    commented = Recipe.model_validate({**tomllib.loads(text), "name": "x"})
    assert commented == Recipe.model_validate({**preset(name), "name": "x"})
    settings = [line for line in text.splitlines() if re.match(r"(# )?\w+ =", line)]
    assert len(settings) == sum(len(type(part).model_fields) for _, part in subsections(commented)) + 6
    assert text.count("\n# ") >= len(settings)


def test_every_setting_says_what_it_is_and_what_it_takes():
    parts = [part for _, part in subsections(recipe_from("paper"))]
    for field in [field for part in parts for field in type(part).model_fields.values()]:
        assert field.description
        assert field.description[0].isupper() or field.description[0] == '"'
        assert allowed_values(field)


def test_own_keys_win_over_the_preset_and_overrides_over_both(recipe_file):
    path = recipe_file('preset = "paper"\n[texts]\nalpha = 0.3\nnum_texts = 10\n')
    recipe = load_recipe(path, ["texts.alpha=0.2", "seed = 7", "detoxify.targets=gpt2", "evaluate.mmlu=none"])
    assert (recipe.texts.alpha, recipe.texts.num_texts, recipe.texts.top_k) == (0.2, 10, 50)
    assert (recipe.seed, recipe.detoxify.targets, recipe.evaluate.mmlu) == (7, ("gpt2",), None)
    assert recipe.name == "my"


def test_an_override_may_choose_the_preset(recipe_file):
    path = recipe_file('preset = "paper"\n')
    assert load_recipe(path, ["preset=small"]).base.model == "gpt2"


@pytest.mark.parametrize(
    ("text", "value"),
    [("inf", math.inf), ("0.5", 0.5), ('"inf"', math.inf), ("2", 2.0)],
)
def test_override_values_are_toml(recipe_file, text, value):
    assert load_recipe(recipe_file('preset = "paper"\n'), [f"texts.beta={text}"]).texts.beta == value


def test_an_override_cannot_smuggle_in_another_key(recipe_file):
    message = refusal(recipe_file('preset = "paper"\n'), "texts.alpha=0.2\nseed = 3")
    assert "texts.alpha" in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("texts.alpha=0", "a number above 0 and at most 1"),
        ("texts.alpha=1.5", "a number above 0 and at most 1"),
        ("texts.alpha=nan", "a number above 0 and at most 1"),
        ("texts.alpha=true", "a number above 0 and at most 1"),
        ("texts.beta=0", "a number above 0, or inf"),
        ("texts.beta=nan", "a number above 0, or inf"),
        ("texts.temperature=0", "a number above 0"),
        ("texts.temperature=inf", "a number above 0"),
        ("texts.top_p=0", "a number above 0 and at most 1"),
        ("texts.top_k=-1", "a whole number of at least 0"),
        ("texts.batch_size=0", 'or "auto"'),
        ("texts.batch_size=true", 'or "auto"'),
        ("texts.num_texts=1.5", "a whole number of at least 1"),
        ("texts.num_texts='640'", "a whole number of at least 1"),
        ("texts.max_length=1", "a whole number of at least 2"),
        ("toxic.epochs=0", "a number above 0"),
        ("detoxify.lr=-1e-5", "a number above 0"),
        ("detoxify.targets=[]", "a list of distinct texts"),
        ("detoxify.targets=['a', 'a']", "a list of distinct texts"),
        ("detoxify.targets=['']", "a list of distinct texts"),
        ("detoxify.methods=['dexperts2']", 'out of "base", "unidetox", "dexperts"'),
        ("detoxify.lora=yes", "true or false"),
        ("evaluate.seeds=[1, 1]", "a list of distinct whole numbers"),
        ("evaluate.seeds=[]", "a list of distinct whole numbers"),
        ("evaluate.seeds=[-1]", "a list of distinct whole numbers"),
        ("evaluate.protocol=fast", '"default" or "paper"'),
        ("evaluate.id_domains=['age']", '"gender", "race", "religion", "disability"'),
        ("evaluate.threshold=2", "a number from 0 to 1"),
        ("device=GPU!", '"cuda:0"'),
        ("dtype=int8", '"bfloat16"'),
        ("base.model=''", "a text that is not empty"),
        ("seed=-1", "a whole number from 0"),
    ],
)
def test_a_bad_value_names_key_value_and_what_is_allowed(recipe_file, setting, words):
    message = refusal(recipe_file('preset = "paper"\n'), setting)
    key, _, value = setting.partition("=")
    assert message.startswith((f"--set: {key} = ", f"--set: {key} holds "))
    assert value.strip("'[]").removesuffix("e-5") in message.replace('"', "'")
    assert words in message


def test_a_bad_value_in_the_file_names_the_file(recipe_file):
    assert refusal(recipe_file('preset = "paper"\n[texts]\nalpha = 0\n')).startswith(
        "my.toml: texts.alpha = 0, which is not"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[texts]\nalpah = 0.2\n", "unknown key texts.alpah. Did you mean texts.alpha?"),
        ("[text]\nalpha = 0.2\n", "unknown key text. Did you mean texts?"),
        ("alpha = 0.2\n", "unknown key alpha. Did you mean texts.alpha?"),
        ("[texts]\nsamples = 3\n", "unknown key texts.samples. Did you mean evaluate.samples?"),
        ("[texts]\nqqq = 3\n", "unknown key texts.qqq. Known in [texts]: source, num_texts"),
        ("texts = 3\n", "texts must be a section: [texts]"),
        ("[detoxify]\nmerge = true\n", "has no effect without detoxify.lora"),
        ("[base\n", "is not valid TOML"),
        ("[base]\n[base]\n", "is not valid TOML"),
        ("seed = -1\n[texts]\nalpha = 0\n[toxic]\nlr = 0\n[evaluate]\nshots = -1\n", "(and 1 more)"),
    ],
)
def test_mistakes_in_a_file_are_one_clear_line(recipe_file, text, words):
    assert words in refusal(recipe_file('preset = "paper"\n' + text))


def test_what_is_needed_is_asked_for(recipe_file):
    assert "the section [detoxify] is missing" in refusal(recipe_file('[base]\nmodel = "a"\n'))
    assert "base.model is missing" in refusal(recipe_file('[base]\n[detoxify]\ntargets = ["a"]\n'))


@pytest.mark.parametrize("bad", ["papr", "", "3", "../x"])
def test_an_unknown_preset_lists_what_there_is(recipe_file, bad):
    message = refusal(recipe_file(f'preset = "{bad}"\n'))
    assert "there is no preset" in message
    assert "paper" in message


@pytest.mark.parametrize("bad", ["texts.alpha", "=3", "texts.=3", "seed.x=3"])
def test_a_malformed_override_says_the_form(recipe_file, bad):
    assert f"--set {bad}" in refusal(recipe_file('preset = "paper"\nseed = 1\n'), bad)


def test_recipes_that_cannot_be_read(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.toml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in refusal(tmp_path / "binary.toml")


def test_a_recipe_is_frozen():
    recipe = recipe_from("paper")
    with pytest.raises(ValueError, match="frozen"):
        recipe.texts.alpha = 0.5


def test_recipe_from_sections_and_its_errors():
    assert recipe_from("small", seed=3, texts={"alpha": 0.2}).texts.alpha == 0.2
    with pytest.raises(UsageError, match=r"unknown key texts\.alpah"):
        recipe_from("small", texts={"alpah": 0.2})


# --- files that a recipe names


def test_paths_are_found_beside_the_recipe_then_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "model").mkdir(parents=True)
    (tmp_path / "cwd" / "other").mkdir(parents=True)
    (tmp_path / "cwd" / "model").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    path = tmp_path / "recipes" / "r.toml"
    path.write_text('preset = "small"\n[base]\nmodel = "model"\n[detoxify]\ntargets = ["other", "gpt2-large", "a/b"]\n')
    recipe = load_recipe(path)
    assert recipe.base.model == str(tmp_path / "recipes" / "model")
    assert recipe.detoxify.targets == (str(tmp_path / "cwd" / "other"), "gpt2-large", "a/b")


def test_words_with_a_meaning_are_not_paths(tmp_path, monkeypatch):
    (tmp_path / "dghs").mkdir()
    (tmp_path / "toxigen").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = recipe_from("small")
    assert (recipe.toxic.corpus, recipe.evaluate.prompts) == ("dghs", "toxigen")


@pytest.mark.parametrize("name", ["./x", "../x", "/nowhere/x", "~/no-such-thing-x", "x.csv", "x.PARQUET", "a/b/c"])
def test_what_can_only_be_a_path_must_exist(recipe_file, name):
    message = refusal(recipe_file(f'preset = "small"\n[toxic]\ncorpus = "{name}"\n'))
    assert message.startswith(f"my.toml: {name} does not exist")
    assert load_recipe(recipe_file(f'preset = "small"\n[toxic]\ncorpus = "{name}"\n'), missing_ok=True)


@pytest.mark.parametrize("name", ["gpt2", "facebook/opt-125m", "cais/mmlu"])
def test_hub_ids_stay_as_they_are(name, tmp_path):
    assert resolve_source(name, tmp_path) == name


def test_a_link_keeps_its_own_name(tmp_path):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "my-model").symlink_to(tmp_path / "snapshot")
    assert resolve_source("my-model", tmp_path) == str(tmp_path / "my-model")


def test_two_dots_lead_to_the_folder_that_a_link_is_in(tmp_path: Path):
    """What a `detox.json` names beside it is found through a link to its directory."""
    (tmp_path / "run" / "toxic_model").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "target").symlink_to(tmp_path / "elsewhere" / "deep")
    found = resolve_source("../toxic_model", tmp_path / "run" / "target")
    assert found == str(tmp_path / "run" / "toxic_model")


def test_sandbox_names(monkeypatch, tmp_path):
    for module in ("names", "resolve"):
        monkeypatch.setattr(f"unidetox.core.{module}.sandbox_assets", lambda: tmp_path / "assets")
    (tmp_path / "assets" / "gpt2").mkdir(parents=True)
    assert resolve_source("sandbox:gpt2", None) == str(tmp_path / "assets" / "gpt2")
    with pytest.raises(MissingError, match=r"has no 'bert'\. It has: gpt2"):
        resolve_source("sandbox:bert", None)
    here = recipe_from("small", base={"model": "sandbox:gpt2"})
    path = tmp_path / "run" / "recipe.toml"
    write_recipe(here, path)
    assert 'model = "sandbox:gpt2"' in path.read_text()
    digest = here.digest()
    (tmp_path / "assets").rename(tmp_path / "elsewhere")
    for module in ("names", "resolve"):
        monkeypatch.setattr(f"unidetox.core.{module}.sandbox_assets", lambda: tmp_path / "elsewhere")
    assert load_recipe(path).digest() == digest


def test_written_recipes_read_back_equal_and_move_with_their_files(tmp_path):
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "a" / "data" / "corpus.csv").write_text("text\nx\n")
    recipe = recipe_from(
        "paper",
        name='quote " back\\slash \t \x7f é \U0001f600',
        toxic={"corpus": str(tmp_path / "a" / "data" / "corpus.csv"), "lr": 1e-7, "steps": 10**6},
    )
    path = tmp_path / "a" / "run" / "recipe.toml"
    write_recipe(recipe, path)
    assert load_recipe(path) == recipe
    assert load_recipe(path).digest() == recipe.digest()
    assert 'corpus = "../data/corpus.csv"' in path.read_text("utf-8")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_recipe(tmp_path / "b" / "run" / "recipe.toml")
    assert moved.toxic.corpus == str(tmp_path / "b" / "data" / "corpus.csv")


def test_the_earlier_name_of_a_setting_is_still_read(recipe_file):
    """`toxic.non_toxic` was called `civil`: recipes and the resolved ones of old runs say so."""
    old = 'preset = "small"\n[toxic]\ncivil = "some/texts"'
    new = old.replace("civil", "non_toxic")
    assert load_recipe(recipe_file(old)) == load_recipe(recipe_file(new))
    assert load_recipe(recipe_file(old), ["toxic.civil=none"]).toxic.non_toxic is None
    assert load_recipe(recipe_file(old)).toxic.non_toxic == "some/texts"
    resolved = recipe_from("small").model_dump()
    resolved["toxic"]["civil"] = resolved["toxic"].pop("non_toxic")
    assert Recipe.model_validate(resolved) == recipe_from("small")
    with pytest.raises(UsageError, match=r"toxic\.civil"):
        load_recipe(recipe_file(f"{new}\ncivil = 'a'"))


def test_digests_tell_recipes_apart():
    one, same, other = recipe_from("paper"), recipe_from("paper"), recipe_from("paper", texts={"alpha": 0.2})
    assert one.digest() == same.digest() != other.digest()
    assert one.toxic.section_hash() == other.toxic.section_hash()
    assert one.texts.section_hash() != other.texts.section_hash()
    bigger = recipe_from("paper", texts={"batch_size": 3}).texts
    assert bigger.section_hash("folder") == one.texts.section_hash("folder")


# --- methods and their options


LISTED = """
preset = "paper"
[[target]]
model = "a/b"
[[target]]
model = "c/d"
[[method]]
name = "unidetox"
lr = 1e-4
[[method]]
name = "dexperts"
[[method]]
name = "dexperts"
label = "dexperts-4"
alpha = 4.0
expert = "none"
"""


def test_lists_of_targets_and_methods_are_another_spelling_of_keys(recipe_file):
    recipe = load_recipe(recipe_file(LISTED))
    assert recipe.detoxify.targets == ("a/b", "c/d")
    assert recipe.detoxify.methods == ("unidetox", "dexperts", "dexperts-4")
    assert recipe.method["unidetox"].lr == 1e-4
    assert (recipe.method["dexperts"].alpha, recipe.method["dexperts-4"].alpha) == (2.0, 4.0)
    tables = """
preset = "paper"
[detoxify]
targets = ["a/b", "c/d"]
methods = ["unidetox", "dexperts", "dexperts-4"]
[method.unidetox]
lr = 1e-4
[method.dexperts]
[method.dexperts-4]
name = "dexperts"
alpha = 4.0
expert = "none"
"""
    other = load_recipe(recipe_file(tables))
    assert other == recipe
    assert other.digest() == recipe.digest()


def test_options_of_methods_survive_writing_and_can_be_overridden(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file(LISTED), ["method.dexperts-4.alpha=5.5"])
    assert recipe.method["dexperts-4"].alpha == 5.5
    write_recipe(recipe, tmp_path / "again.toml")
    assert load_recipe(tmp_path / "again.toml") == recipe
    assert recipe.digest() != load_recipe(recipe_file(LISTED)).digest()


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ('[[method]]\nname = "dexpert"', "method.dexpert names no method: dexpert", "[method.KEY]"),
        ('[[method]]\nname = "dexperts"\nalfa = 1', "unknown key method.dexperts.alfa", "method.dexperts.alpha"),
        ('[[method]]\nname = "dexperts"\nalpha = -1', "method.dexperts.alpha = -1", "Strength"),
        ("[[method]]\nalpha = 1", "method.name is missing", "[[method]]"),
        ('[[target]]\nname = "a/b"', "target.model is missing", "[[target]]"),
        ('[[target]]\nmodel = "a/b"\nlr = 1', "unknown key target.lr", "model"),
        ('[[target]]\nmodel = "a/b"\n[detoxify]\ntargets = ["c/d"]', "both [[target]] and detoxify.targets", "one"),
        ("[method.dexperts]\nalpha = 1.0", "method.dexperts has no effect", "detoxify.methods"),
        ("method = 3", "method must hold sections", "method = 3"),
        ('[[method]]\nname = "dexperts"\nlabel = "base"', '"base" is the model as it is', "label"),
        ('[[method]]\nname = "base"\n[[method]]\nname = "base"', "detoxify.methods", ""),
        (
            '[[method]]\nname = "dexperts"\nlabel = "4"\n[[method]]\nname = "dexperts"\nlabel = "dexperts-4"',
            'both "4" and "dexperts-4" dexperts (4)',
            "label",
        ),
    ],
)
def test_a_mistake_in_methods_is_named(recipe_file, text, words, hint):
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe_file(f'preset = "paper"\n{text}\n'))
    assert words in caught.value.message
    assert hint in str(caught.value.hint)


def test_options_of_a_preset_do_not_count_where_its_methods_are_replaced(recipe_file, monkeypatch):

    paper = preset("paper")
    monkeypatch.setattr("unidetox.config.recipe.preset", lambda _: {**paper, "method": {"dexperts": {"alpha": 3.0}}})
    assert load_recipe(recipe_file('preset = "paper"\n')).method == {}
    asked = '[detoxify]\nmethods = ["dexperts"]'
    assert load_recipe(recipe_file(f'preset = "paper"\n{asked}\n')).method["dexperts"].alpha == 3.0
