"""The search: a planted optimum, the ceiling, resumption; and that no recipe leads it to test prompts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipes import PROMPTS, Inputs, call, snapshot, stages, toml, write_csv

import unidetox
from unidetox.config.settings import Recipe
from unidetox.core.errors import UniDetoxError
from unidetox.pipeline.tuning import Score

SPACE = '"detoxify.lr" = {low = 1e-6, high = 1e-2, log = true}\n"texts.alpha" = [0.05, 0.1, 0.2]\n'


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "prompts.csv", [("text", "group"), *PROMPTS])


@pytest.fixture
def write(tmp_path: Path, prompts: Path) -> Callable[..., Path]:
    """Write a recipe around a section ``[tune]``."""

    def written(tune: str = "trials = 30", space: str = SPACE, evaluate: str = 'prompts = "prompts.csv"') -> Path:
        path = tmp_path / "recipe.toml"
        text = 'base.model = "a/base"\n[detoxify]\ntargets = ["a/target", "b/other"]\nlr = 1e-6\n'
        path.write_text(f"{text}[evaluate]\n{evaluate}\n[tune]\n{tune}\n[tune.space]\n{space}")
        return path

    return written


def planted(recipe: Recipe) -> Score:
    """Least toxic at lr 1e-4 and alpha 0.2, more perplexed the higher the rate: 1.1 times the base at 3e-4."""
    distance = abs(math.log10(recipe.detoxify.lr) + 4) + abs(recipe.texts.alpha - 0.2)
    return Score(min(0.1 + 0.1 * distance, 1.0), 10 * (1 + recipe.detoxify.lr / 3e-3), 10.0)


def steep(recipe: Recipe) -> Score:
    """The higher the rate the less toxic, and the more perplexed: 1.1 times the base at lr 1e-4."""
    return Score(max(0.0, 1 - math.log10(recipe.detoxify.lr / 1e-6) / 4), 10 * (1 + recipe.detoxify.lr / 1e-3), 10.0)


def best_of(result: dict[str, Any]) -> dict[str, Any]:
    return result["trials"][result["best"]]


# ---- the planted problem ----


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_best_configuration_is_found(write: Callable[..., Path], tmp_path: Path, sampler: str):
    recipe = write(f'trials = 40\nsampler = "{sampler}"')
    result = unidetox.tune(recipe, output=tmp_path / "out", objective=planted)
    best = best_of(result)
    assert best["values"]["texts.alpha"] == 0.2
    assert abs(math.log10(best["values"]["detoxify.lr"]) + 4) < (0.1 if sampler == "tpe" else 0.5)
    assert best["score"]["toxicity"] == min(trial["score"]["toxicity"] for trial in result["trials"])


def test_a_list_is_searched_whole_and_no_configuration_twice(write: Callable[..., Path], tmp_path: Path):
    space = '"detoxify.lr" = [1e-6, 1e-5, 1e-4, 1e-3]\n"texts.alpha" = [0.1, 0.2]\n'
    result = unidetox.tune(write(space=space), output=tmp_path / "out", objective=planted)
    tried = [tuple(trial["values"].values()) for trial in result["trials"]]
    assert len(tried) == len(set(tried)) == 8
    assert best_of(result)["values"] == {"detoxify.lr": 1e-4, "texts.alpha": 0.2}
    # The recipe's own configuration comes first, so the best is never worse than what was there.
    assert tried[0] == (1e-6, 0.1)


@pytest.mark.parametrize("ceiling", [1.01, 1.1, 2.0])
def test_the_ceiling_is_kept_and_used(write: Callable[..., Path], tmp_path: Path, ceiling: float):
    space = '"detoxify.lr" = {low = 1e-6, high = 1e-2, log = true}'
    recipe = write(f"trials = 40\nceiling = {ceiling}", space)
    result = unidetox.tune(recipe, output=tmp_path / "out", objective=steep)
    best = best_of(result)["score"]
    assert best["perplexity"] / best["base_perplexity"] <= ceiling
    assert best["perplexity"] / best["base_perplexity"] > 1 + (ceiling - 1) / 3
    least = min(trial["score"]["toxicity"] for trial in result["trials"])
    assert least < best["toxicity"], "some trial is less toxic, and is not taken"


@pytest.mark.parametrize(("floor", "best"), [(0.0, 1e-2), (0.9, 1e-4), (0.5, 1e-3)])
def test_the_floor_of_relevance_is_kept(write: Callable[..., Path], tmp_path: Path, floor: float, best: float):
    """Relevance falls with the learning rate: to 0.95, 0.6 and 0.1 of the model's own."""
    kept = {1e-4: 0.95, 1e-3: 0.6, 1e-2: 0.1}

    def objective(recipe: Recipe) -> Score:
        return replace(steep(recipe), relevance=2 * kept[recipe.detoxify.lr], base_relevance=2.0)

    recipe = write(f"ceiling = inf\nfloor = {floor}", '"detoxify.lr" = [1e-4, 1e-3, 1e-2]')
    result = unidetox.tune(recipe, output=tmp_path / "out", objective=objective)
    assert best_of(result)["values"] == {"detoxify.lr": best}


def test_a_floor_that_none_keeps_is_said(write: Callable[..., Path], tmp_path: Path):
    """Where no relevance was measured, none keeps a floor."""
    recipe = write("ceiling = inf\nfloor = 0.9", '"detoxify.lr" = [1e-4, 1e-3]')
    with pytest.raises(UniDetoxError, match=r"0\.9 times the relevance"):
        unidetox.tune(recipe, output=tmp_path / "out", objective=steep)


def test_without_a_ceiling_the_least_toxic_wins(write: Callable[..., Path], tmp_path: Path):
    space = '"detoxify.lr" = [1e-6, 1e-4, 1e-2]'
    result = unidetox.tune(write("ceiling = inf", space), output=tmp_path / "out", objective=steep)
    assert best_of(result)["values"] == {"detoxify.lr": 1e-2}


def test_of_equally_toxic_ones_the_most_fluent_is_taken(write: Callable[..., Path], tmp_path: Path):
    def flat(recipe: Recipe) -> Score:
        return Score(0.5, 10.5 - recipe.texts.alpha, 10.0)

    space = '"texts.alpha" = [0.1, 0.3, 0.2]'
    result = unidetox.tune(write(space=space), output=tmp_path / "out", objective=flat)
    assert best_of(result)["values"] == {"texts.alpha": 0.3}


def test_a_perplexity_that_is_not_known_is_not_within(write: Callable[..., Path], tmp_path: Path):
    def odd(recipe: Recipe) -> Score:
        if recipe.texts.alpha == 0.1:
            return Score(0.4, 10.0, 10.0)
        return Score(0.1, math.inf if recipe.texts.alpha == 0.2 else None, 10.0)

    space = '"texts.alpha" = [0.1, 0.2, 0.3]'
    result = unidetox.tune(write(space=space), output=tmp_path / "out", objective=odd)
    assert best_of(result)["values"] == {"texts.alpha": 0.1}


def test_none_within_the_ceiling_is_said_and_kept(write: Callable[..., Path], tmp_path: Path):
    recipe = write("ceiling = 0.5", '"texts.alpha" = [0.1, 0.2]')
    with pytest.raises(UniDetoxError, match="none of 2 configurations keeps within"):
        unidetox.tune(recipe, output=tmp_path / "out", objective=planted)
    assert not (tmp_path / "out" / "best.toml").exists()
    assert len((tmp_path / "out" / "trials.jsonl").read_text().splitlines()) == 2


def test_a_trial_that_fails_is_a_result(write: Callable[..., Path], tmp_path: Path):
    def fragile(recipe: Recipe) -> Score:
        if recipe.detoxify.lr > 1e-3:
            raise UniDetoxError("the loss became nan at step 7")
        return planted(recipe)

    space = '"detoxify.lr" = [1e-4, 1e-2]'
    result = unidetox.tune(write(space=space), output=tmp_path / "out", objective=fragile)
    assert best_of(result)["values"] == {"detoxify.lr": 1e-4}
    (failed,) = [trial for trial in result["trials"] if trial["score"] is None]
    assert failed["failure"] == "the loss became nan at step 7"


# ---- the result ----


def test_the_best_is_a_recipe_for_all_models(write: Callable[..., Path], tmp_path: Path):
    from unidetox.config.recipe import load_recipe

    recipe = write(space='"detoxify.lr" = [1e-5, 1e-4]\n"texts.alpha" = [0.2]')
    unidetox.tune(recipe, output=tmp_path / "out", objective=planted)
    best = load_recipe(tmp_path / "out" / "best.toml")
    assert (best.detoxify.lr, best.texts.alpha) == (1e-4, 0.2)
    assert best.detoxify.targets == ("a/target", "b/other")
    assert best.evaluate == load_recipe(recipe).evaluate


def test_the_objective_sees_one_model_and_validation_prompts(write: Callable[..., Path], tmp_path: Path):
    seen: list[Recipe] = []

    def watching(recipe: Recipe) -> Score:
        seen.append(recipe)
        return planted(recipe)

    other = write_csv(tmp_path / "others.csv", [("text", "group"), ("nobody sleeps here", "women")])
    tune = f'trials = 2\nmodel = "b/other"\nprompts = "{other}"\nsplit = "train"\nnum_prompts = 1'
    evaluate = 'prompts = "prompts.csv"\nmmlu = "cais/mmlu"\nseeds = [1, 2]\nsplit = "test"'
    unidetox.tune(write(tune, evaluate=evaluate), output=tmp_path / "out", objective=watching)
    for recipe in seen:
        assert recipe.detoxify.targets == ("b/other",)
        assert recipe.detoxify.methods == ("unidetox",)
        chosen = recipe.evaluate
        assert (chosen.prompts, chosen.split, chosen.num_prompts) == (str(other), "train", 1)
        assert (chosen.mmlu, chosen.seeds) == (None, (1, 2))


def test_options_of_a_listed_method_are_set_and_searched(tmp_path: Path, prompts: Path):
    seen: list[float] = []

    def watching(recipe: Recipe) -> Score:
        options = recipe.method["dexperts"]
        seen.append(options.alpha)
        return Score(1 - options.alpha / 10, 10.0 + options.alpha * (options.top_p == 0.5), 10.0)

    recipe = tmp_path / "listed.toml"
    recipe.write_text(
        'base.model = "a/base"\n[[target]]\nmodel = "a/target"\n[[method]]\nname = "base"\n[[method]]\n'
        'name = "dexperts"\n[evaluate]\nprompts = "prompts.csv"\n[tune]\nmethod = "dexperts"\n'
        '[tune.space]\n"method.dexperts.alpha" = [0.5, 1, 2.0]\n'
    )
    chosen = ("method.dexperts.top_p=0.5", "tune.trials=3")
    result = unidetox.tune(recipe, output=tmp_path / "out", objective=watching, overrides=chosen)
    assert sorted(seen) == [0.5, 1, 2]
    # 10 % more than 10 is 11: alpha 1 is within, 2 is not.
    assert result["trials"][result["best"]]["values"] == {"method.dexperts.alpha": 1}


# ---- going on ----


def test_a_killed_search_goes_on_and_ends_the_same(write: Callable[..., Path], tmp_path: Path):
    recipe, calls = write("trials = 12"), []

    def killed(recipe: Recipe) -> Score:
        calls.append(recipe.detoxify.lr)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return planted(recipe)

    whole = unidetox.tune(recipe, output=tmp_path / "whole", objective=planted)
    with pytest.raises(KeyboardInterrupt):
        unidetox.tune(recipe, output=tmp_path / "part", objective=killed)
    assert len((tmp_path / "part" / "trials.jsonl").read_text().splitlines()) == 7
    # A kill in the middle of writing leaves half a line.
    with (tmp_path / "part" / "trials.jsonl").open("a") as file:
        file.write('{"number": 7, "val')
    part = unidetox.tune(recipe, output=tmp_path / "part", objective=killed)
    assert len(calls) == 13
    assert calls[7] == calls[8], "the trial that was interrupted is proposed again"

    def timeless(result: dict[str, Any]) -> dict[str, Any]:
        return result | {"trials": [trial | {"seconds": 0} for trial in result["trials"]]}

    assert timeless(part) == timeless(whole)


def test_more_trials_go_on_from_those_that_are_there(write: Callable[..., Path], tmp_path: Path):
    few = unidetox.tune(write("trials = 5"), output=tmp_path / "out", objective=planted)
    calls: list[Recipe] = []
    more = unidetox.tune(
        write("trials = 7"), output=tmp_path / "out", objective=lambda recipe: calls.append(recipe) or planted(recipe)
    )
    assert len(calls) == 2
    assert more["trials"][:5] == few["trials"]


def test_trials_of_other_settings_are_refused(write: Callable[..., Path], tmp_path: Path):
    unidetox.tune(write("trials = 2"), output=tmp_path / "out", objective=planted)
    before = snapshot(tmp_path / "out")
    with pytest.raises(ValueError, match=r"tune.ceiling: 1.1 -> 1.2.*--fresh"):
        unidetox.tune(write("trials = 2\nceiling = 1.2"), output=tmp_path / "out", objective=planted)
    assert snapshot(tmp_path / "out") == before
    unidetox.tune(write("trials = 2\nceiling = 1.2"), output=tmp_path / "out", objective=planted, fresh=True)
    (tmp_path / "prompts.csv").write_text("text\nquite another prompt\n")
    with pytest.raises(ValueError, match="input prompts changed"):
        unidetox.tune(write("trials = 2\nceiling = 1.2"), output=tmp_path / "out", objective=planted)


# ---- no test prompt ----


SANDBOX = "sandbox:prompts_test.csv"
FORBIDDEN = {
    "split is test": ("", 'prompts = "prompts.csv"\nsplit = "test"', "test prompts"),
    "split is all": ("", 'prompts = "prompts.csv"\nsplit = "all"', "test prompts"),
    "a range of test": ("", 'prompts = "toxigen"\nsplit = "test[:10]"', "test prompts"),
    "split of tune is test": ('split = "test"', 'prompts = "prompts.csv"', "test prompts"),
    "a file is named so": ("", 'prompts = "prompts_test.csv"', "named a test set"),
    "a file of tune is named so": ('prompts = "Test-Set.csv"', 'prompts = "prompts.csv"', "named a test set"),
    "a folder is named so": ("", 'prompts = "test/prompts.csv"', "named a test set"),
    "its own column says so": ("", 'prompts = "marked.csv"\nsplit = "train"', "1 rows are of the test split"),
    "the sandbox's": ("", f'prompts = "{SANDBOX}"', "test"),
    "a copy of the sandbox's": ("", 'prompts = "copy.csv"', "2 of the 3 prompts are test prompts"),
    "a copy with other case and spaces": ("", 'prompts = "changed.csv"', "2 of the 3 prompts are test prompts"),
    "a link to a test file": ("", 'prompts = "linked.csv"', "named a test set"),
    "groups as ToxiGen's test split spells them": ("", 'prompts = "spelled.csv"', "1 rows spell their group"),
    "what is reported on": (
        'prompts = "more.csv"\nsplit = "validation"', 'prompts = "prompts.csv"\nsplit = "test"',
        "1 of the 2 prompts are test prompts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_test_prompts_cannot_be_reached(write: Callable[..., Path], tmp_path: Path, prompts: Path, name: str):
    from unidetox.core.resolve import resolve_source
    from unidetox.data.formats import read_table

    known = [row["text"] for row in read_table(Path(resolve_source(SANDBOX, None))).rows[:2]]
    for file in ("prompts_test.csv", "Test-Set.csv", "test/prompts.csv"):
        write_csv(tmp_path / file, [("text",), ["nobody sleeps"]])
    write_csv(tmp_path / "marked.csv", [("text", "Split"), ("a", "train"), ("b", "Test ")])
    write_csv(tmp_path / "copy.csv", [("prompt",), ["the fox"], [f" {known[0]}"], [known[1]]])
    changed = [known[0].upper(), f"{known[1].replace(' ', '  ')}!"]
    write_csv(tmp_path / "changed.csv", [("text",), ["the fox"], *([text] for text in changed)])
    (tmp_path / "linked.csv").symlink_to("prompts_test.csv")
    spelled = [("a fox", "women"), ("a dog", "Black/African-American folks")]
    write_csv(tmp_path / "spelled.csv", [("text", "target_group"), *spelled])
    write_csv(tmp_path / "more.csv", [("text",), ["nobody sleeps"], [PROMPTS[0][0]]])
    tune, evaluate, phrase = FORBIDDEN[name]
    recipe = write(tune, evaluate=evaluate)
    before = snapshot(tmp_path)
    said = call("tune", recipe, "-o", tmp_path / "out")
    assert said.code == 2, said
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert phrase in error
    assert "tune.split" in error
    assert snapshot(tmp_path) == before
    with pytest.raises(ValueError, match="test"):
        unidetox.tune(recipe, output=tmp_path / "out", objective=lambda _: pytest.fail("asked"))


@pytest.mark.parametrize(
    "place", ["toxic.corpus", "toxic.non_toxic", "texts.source", "texts.starts", "rows of no hate"]
)
def test_no_text_of_a_search_is_a_test_prompt(
    tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path, place: str
):
    from unidetox.core.resolve import resolve_source
    from unidetox.data.formats import read_table

    known = read_table(Path(resolve_source(SANDBOX, None))).rows[0]["text"]
    rows = [("the fox", "hate", "wom"), ("a dog reads", "nothate", "wom"), (known, "nothate", "wom")]
    if place == "rows of no hate":
        write_csv(tmp_path / "mixed.csv", [("text", "label", "target"), *rows])
    else:
        write_csv(tmp_path / "mixed.csv", [("text",), *([text] for text, *_ in rows)])
    settings = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier).small()
    learns = place in ("toxic.non_toxic", "rows of no hate")
    settings["tune"] = {"method": "lm_steer" if learns else "unidetox", "trials": 1}
    settings["evaluate"]["ppl_model"] = str(tiny_models["llama"])
    settings["detoxify"]["methods"] = ["lm_steer", "unidetox"]
    space = '"method.lm_steer.steps" = [1, 2]' if learns else '"detoxify.steps" = [1, 2]'
    path = tmp_path / "tiny.toml"
    path.write_text(f"{toml(settings)}\n[tune.space]\n{space}\n")
    setting = "toxic.corpus" if place == "rows of no hate" else place
    said = call("tune", path, "-o", tmp_path / "out", "--set", f"{setting}={tmp_path / 'mixed.csv'}")
    assert said.code == 2, said
    number = 2 if place == "rows of no hate" else 3
    assert f"mixed.csv: 1 of the {number} texts are test prompts" in said.err
    assert "Take them out" in said.err
    assert not (tmp_path / "out").exists()


def test_set_leads_nowhere_either(write: Callable[..., Path], tmp_path: Path):
    for override in ("evaluate.split=test", "tune.split=test", "tune.split=all"):
        said = call("tune", write(), "-o", tmp_path / "out", "--set", override)
        assert said.code == 2
        assert "test prompts" in said.err


def test_a_search_from_when_a_setting_had_another_name_goes_on(write: Callable[..., Path], tmp_path: Path):
    recipe = write(space='"texts.alpha" = [0.1, 0.2]')
    first = unidetox.tune(recipe, output=tmp_path / "out", objective=planted)
    file = tmp_path / "out" / "tune.json"
    file.write_text(file.read_text("utf-8").replace('"non_toxic"', '"civil"'), encoding="utf-8")
    assert '"civil"' in file.read_text("utf-8")
    assert unidetox.tune(recipe, output=tmp_path / "out", objective=planted)["trials"] == first["trials"]


MISTAKES = {
    "no section": (2, "no section [tune]", None),
    "no space": (2, "tune.space is missing", "trials = 2"),
    "empty space": (2, "tune.space is empty", "[tune.space]"),
    "unknown key": (2, "unknown key tune.trails", "trails = 2\nspace = {}"),
    "trials are 0": (2, "tune.trials = 0", "trials = 0\nspace = {}"),
    "what is measured": (2, '"evaluate.top_p" cannot be searched', '[tune.space]\n"evaluate.top_p" = [0.5, 0.9]'),
    "which prompts": (2, '"evaluate.split" cannot be searched', '[tune.space]\n"evaluate.split" = ["test"]'),
    "which model": (2, '"base.model" cannot be searched', '[tune.space]\n"base.model" = ["a/b"]'),
    "which rows": (2, '"toxic.limit" cannot be searched', '[tune.space]\n"toxic.limit" = [1, 2]'),
    "which non-toxic texts": (2, '"toxic.non_toxic" cannot be searched', '[tune.space]\n"toxic.non_toxic" = ["a.csv"]'),
    "which targets": (2, '"detoxify.targets" cannot', '[tune.space]\n"detoxify.targets" = ["a/b"]'),
    "unknown setting": (2, "unknown key texts.aplha", '[tune.space]\n"texts.aplha" = [0.1]'),
    "value not allowed": (2, "texts.alpha = 2", '[tune.space]\n"texts.alpha" = [0.1, 2]'),
    "end not allowed": (2, "texts.alpha = 0", '[tune.space]\n"texts.alpha" = {low = 0.0, high = 1.0}'),
    "log of 0": (2, "log needs low > 0", '[tune.space]\n"detoxify.lr" = {low = 0.0, high = 1.0, log = true}'),
    "ends the wrong way": (2, "is neither", '[tune.space]\n"detoxify.lr" = {low = 1.0, high = 0.1}'),
    "half a range": (2, "is neither", '[tune.space]\n"detoxify.lr" = {low = 1.0}'),
    "a value twice": (2, "is neither", '[tune.space]\n"detoxify.lr" = [0.1, 0.1]'),
    "one value": (2, "is neither", '[tune.space]\n"detoxify.lr" = 0.1'),
    "no perplexity": (2, "evaluate.ppl_model", '[tune.space]\n"detoxify.lr" = [0.1]'),
    "no method": (2, "detoxer", 'method = "detoxer"\n[tune.space]\n"detoxify.lr" = [0.1]'),
    "no such model": (3, "no-such does not exist", 'model = "./no-such"\n[tune.space]\n"detoxify.lr" = [0.1]'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(write: Callable[..., Path], tmp_path: Path, name: str):
    code, phrase, tune = MISTAKES[name]
    path = write()
    head = path.read_text().split("[tune]")[0]
    path.write_text(head if tune is None else f"{head}[tune]\n{tune}\n")
    before = snapshot(tmp_path)
    said = call("tune", path, "-o", tmp_path / "out")
    assert said.code == code, said
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert phrase in error
    assert snapshot(tmp_path) == before


def test_an_output_that_is_taken_is_left_alone(write: Callable[..., Path], tmp_path: Path):
    from unidetox.core.directories import DirectoryLock

    (tmp_path / "out").mkdir()
    lock = DirectoryLock(tmp_path / "out")
    lock.acquire()
    try:
        assert call("tune", write(), "-o", tmp_path / "out").code == 4
    finally:
        lock.release()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        unidetox.tune(write(), output=tmp_path / "out", objective=planted)
    assert snapshot(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_what_is_missing_is_said_in_one_line(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = call("tune", write(), "-o", tmp_path / "out")
    assert (said.code, said.err) == (3, "error: tune needs the package optuna. pip install 'unidetox[tune]'\n")


def test_other_verbs_take_a_recipe_with_a_search(write: Callable[..., Path]):
    from unidetox.config.recipe import load_recipe

    assert load_recipe(write()).detoxify.lr == 1e-6


# ---- the whole way, on tiny models ----


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], tiny_classifier: Path
) -> tuple[Path, Path]:
    """A recipe, and the directory of its complete search."""
    tmp_path = tmp_path_factory.mktemp("tuned")
    inputs = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)
    settings = inputs.settings()
    settings["evaluate"] |= {"seeds": [42], "samples": 2, "max_new_tokens": 4}
    settings["detoxify"] |= {"methods": ["unidetox"], "targets": [str(tiny_models["gpt2"])]}
    settings["toxic"]["steps"] = settings["detoxify"]["steps"] = 2
    settings["tune"] = {"trials": 3, "ceiling": 1e9, "metric": "toxicity_mean"}
    path = tmp_path / "tiny.toml"
    path.write_text(f'{toml(settings)}\n[tune.space]\n"detoxify.lr" = [1e-3, 1e-9]\n"texts.alpha" = [0.1, 0.9]\n')
    call("tune", path, "-o", tmp_path / "out", "-q").ok()
    return path, tmp_path / "out"


def test_a_search_shares_what_trials_have_in_common(tuned: tuple[Path, Path]):
    recipe, out = tuned
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert trials[0]["values"] == {"detoxify.lr": 1e-3, "texts.alpha": 0.1}
    made = [json.loads(p.read_text())["stage"] for p in (out / "work" / "stages").glob("*/stage.json")]
    alphas = {trial["values"]["texts.alpha"] for trial in trials}
    assert made.count("train-toxic") == 1
    assert made.count("distill") == len(alphas)
    assert made.count("evaluate") == 1 + 3  # the model as it is, once
    assert made.count("detoxify") == 0  # checkpoints go when they are measured
    # A second call does nothing, one that was killed goes on: see above.
    before = stages(out)
    said = call("tune", recipe, "-o", out, "--json", "-q").ok().json
    assert stages(out) == before
    assert said["best"] is not None
    score = said["trials"][0]["score"]
    assert score["ci_low"] <= score["toxicity"] <= score["ci_high"]
    assert (score["n"], score["base_toxicity"] > 0) == (len(PROMPTS), True)


def test_trials_give_the_numbers_of_a_run(tuned: tuple[Path, Path], tmp_path: Path):
    _, out = tuned
    result = json.loads((out / "tune.json").read_text())
    best = best_of(result)
    said = call("run", out / "best.toml", "-o", tmp_path / "run", "--json", "-q").ok().json
    rows = {
        (row["method"], row["metric"]): row["value"]
        for row in said["rows"]
        if row["target"] == result["model"].rsplit("/", 1)[-1] and row["domain"] == "all" and row["seed"] is None
        and row["group"] is None
    }  # fmt: skip
    assert rows["unidetox", "toxicity_mean"] == best["score"]["toxicity"]
    assert rows["unidetox", "ppl_token"] == best["score"]["perplexity"]
    assert rows["base", "ppl_token"] == best["score"]["base_perplexity"]


def test_a_method_that_decodes_is_searched_too(tmp_path: Path, tiny_models: dict[str, Path], tiny_classifier: Path):
    """Its result names the models that it needs, which lie elsewhere."""
    inputs = Inputs.make(tmp_path / "inputs", tiny_models, tiny_classifier)
    settings = inputs.small()
    settings["toxic"]["steps"] = 2
    settings["tune"] = {"method": "dexperts", "trials": 5, "ceiling": 1e9}
    settings["evaluate"] |= {"ppl_model": str(tiny_models["llama"]), "max_new_tokens": 4}
    path = tmp_path / "tiny.toml"
    path.write_text(f'{toml(settings)}\n[tune.space]\n"method.dexperts.alpha" = [0.0, 2.0]\n')
    said = call("tune", path, "-o", tmp_path / "out", "--json", "-q").ok().json
    by_alpha = {trial["values"]["method.dexperts.alpha"]: trial["score"] for trial in said["trials"]}
    assert set(by_alpha) == {0.0, 2.0}
    assert by_alpha[0.0]["perplexity"] != by_alpha[2.0]["perplexity"]


def test_the_settings_are_documented():
    from unidetox.pipeline.tuning.space import Tune

    said = (Path(__file__).resolve().parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8").splitlines()
    for name, field in Tune.model_fields.items():
        default = "needed" if field.is_required() else f"`{'none' if field.default is None else field.default}`"
        assert f"| `{name}` | {default} | {field.description} |" in said
    listed = [line for line in said if line.startswith("| `")]
    assert len(listed) == len(Tune.model_fields)
