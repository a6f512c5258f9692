"""What results are known by: keys as they were before, and new settings that no key forgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field

from unidetox.config.fields import Count, InKeys, Key, Later
from unidetox.config.settings import Evaluate, Recipe
from unidetox.data import Prompt, PromptSet, QuestionSet
from unidetox.evaluation import evaluate, measure, parts, speed
from unidetox.evaluation.scorers import classifier, scorers_of
from unidetox.methods import distillation, finetuning
from unidetox.models import LoadOptions
from unidetox.pipeline.tuning import study

# Of commit af9e420, which made them from lists kept by hand.
BEFORE = json.loads(Path(__file__).with_name("keys_before.json").read_text("utf-8"))
PLAIN: dict[str, Any] = {"base": {"model": "m/base"}, "detoxify": {"targets": ["m/a"]}}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "paper": PLAIN | {"evaluate": {"protocol": "paper"}},
    # Every setting is another than its default.
    "other": {
        "name": "other", "seed": 7, "device": "cpu", "dtype": "float32", "trust_remote_code": True, "costs": True,
        "base": {"model": "m/base"},
        "toxic": {
            "model": "m/toxic", "corpus": "c.csv", "column": "words", "duplicates": True, "epochs": 2.5, "steps": 9,
            "lr": 3e-5, "batch_size": 3, "max_length": 99, "limit": 50, "non_toxic": "v.csv",
        },
        "texts": {
            "source": "t.csv", "num_texts": 11, "max_length": 33, "alpha": 0.2, "beta": 1.5, "temperature": 0.9,
            "top_p": 0.8, "top_k": 6, "starts": "s.csv", "best_of": 2, "batch_size": 4,
        },
        "detoxify": {
            "targets": ["m/a", "m/b"], "methods": ["unidetox", "samples"], "steps": 12, "lr": 2e-4, "batch_size": 5,
            "max_length": 77, "kl": 0.3, "lora": True, "merge": True,
        },
        "evaluate": {
            "prompts": "p.csv", "split": "train[:9]", "num_prompts": 8, "scorer": "j/one", "scorer_label": "bad",
            "other_scorers": {"j/two": "worse"}, "ppl_model": "m/ppl", "mmlu": "q", "mmlu_protocol": "standard",
            "mmlu_split": "val", "shots": 3, "samples": 4, "max_new_tokens": 6, "temperature": 0.7, "top_p": 0.6,
            "top_k": 5, "seeds": [1, 2], "perturbations": ["casing", "few_shot"], "few_shot": "f.csv",
            "neutral": "n.csv", "protocol": "paper", "batch_size": 2, "threshold": 0.4,
            "id_domains": ["race", "gender"],
        },
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and files are not there: their names stand for their content."""
    for module in (evaluate, parts, classifier, speed, distillation, finetuning):
        monkeypatch.setattr(module, "fingerprint", lambda name: f"fp of {name}")
    starts = SimpleNamespace(sha256="sha of starts")
    monkeypatch.setattr(distillation, "read_starts", lambda recipe: starts if recipe.texts.starts else None)


def prompts(name: str) -> PromptSet:
    return PromptSet((Prompt("0", "a", "women", "gender"),), name, f"sha of {name}")


def inputs_of(recipe: Recipe) -> measure.EvalInputs:
    """What an evaluation reads: everything there is where the recipe names it."""
    if recipe.evaluate.mmlu is None:
        return measure.EvalInputs(prompts("plain"), None, LoadOptions.of(recipe))
    questions = QuestionSet((), {}, "q", "sha of questions")
    forms: dict[str, Any] = {"perturbed": {"casing": prompts("casing")}, "neutral": prompts("neutral")}
    return measure.EvalInputs(prompts("plain"), questions, LoadOptions.of(recipe), bases={"m/a": "m/base"}, **forms)


def stages(recipe: Recipe) -> Iterator[Any]:
    folder, texts, read = Path("/nowhere"), SimpleNamespace(sha256="sha of texts"), inputs_of(recipe)
    yield distillation.toxic_stage(recipe, folder, texts)
    yield distillation.texts_stage(recipe, folder, "m/toxic")
    yield distillation.texts_stage(recipe, folder, None)
    yield finetuning.finetune_stage(recipe, "unidetox", "m/a", texts, folder)
    yield evaluate.target_stage("m/a", folder, read, recipe.evaluate)
    yield speed.speed_stage({"base": "m/a", "unidetox": "m/u"}, folder, read, recipe.evaluate)


def parts_before(stage: Any) -> list[str]:
    """The parts that there were before; relevance came later, and needs one more."""
    return [part for part in stage.parts if not part.startswith("likelihood-alone-")]


@pytest.mark.parametrize("name", RECIPES)
def test_keys_and_parts_are_those_of_before(name: str):
    recipe = Recipe.model_validate(RECIPES[name])
    for stage in stages(recipe):
        found = {"settings": stage.settings, "inputs": stage.inputs, "parts": parts_before(stage), "key": stage.key}
        assert found == BEFORE[name][stage.name], stage.name
    changed = recipe.model_copy(update={"texts": recipe.texts.model_copy(update={"alpha": 0.05})})
    assert finetuning.texts_name("texts", SimpleNamespace(recipe=recipe), changed) == BEFORE[name]["texts_name"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_trial_measures_what_it_measured(name: str):
    tune = SimpleNamespace(prompts=None, split="validation", num_prompts=5)
    trial = study._evaluation(tune, Recipe.model_validate(RECIPES[name]).evaluate)
    assert trial.known(mode="json") | {"top_k": trial.key("trial")["top_k"]} == BEFORE[name]["trial"]


def test_the_recipe_of_other_settings_holds_every_setting():
    for section, given in RECIPES["other"].items():
        if isinstance(given, dict):
            fields = Recipe.model_fields[section].annotation.model_fields
            fields = {name: info for name, info in fields.items() if Later() not in info.metadata}
            assert set(given) == set(fields), section
            plain = {name: info.get_default(call_default_factory=True) for name, info in fields.items()}
            assert not [key for key, value in given.items() if value == plain[key] and key != "mmlu_split"]


def test_settings_that_came_later_are_in_hashes_once_they_are_another():
    recipe = Recipe.model_validate(PLAIN)
    # Folders of texts that a preset made are called by these; of commit af9e420.
    assert recipe.toxic.section_hash() == "6d1d859317fe27ad859fc875364c26f6c88086bbd31a10088ee309814260a98e"
    assert recipe.detoxify.section_hash() == "609035405a9c35c35ac705952fae43683a4c456ea65b2919dd4c2953d58ac2e5"
    known = recipe.known()
    for section, name, value in (("toxic", "optim", "adafactor"), ("detoxify", "lora_rank", 8)):
        assert name not in known[section]
        part = getattr(recipe, section).model_copy(update={name: value})
        other = recipe.model_copy(update={section: part})
        assert other.known() == known | {section: known[section] | {name: value}}
        assert other.digest() != recipe.digest()


class Newer(Evaluate):
    """The section after somebody added settings."""

    tone: Count = Field(1, description="Has no mark.")
    sound: Annotated[Count, Later()] = Field(1, description="Came later.")
    shown: Annotated[Count, InKeys(("evaluate",))] = Field(1, description="Is in one key.")


def names_of(settings: Evaluate) -> list[str]:
    """What each kind of part would be called."""
    (scorer,) = scorers_of(settings, LoadOptions())
    texts, names = prompts("plain"), parts.PartNames("m/a", settings, [scorer], "float32")
    return [
        names.continuations(texts, 42, 25),
        names.toxicity("continuations-1", scorer),
        names.likelihood("continuations-1"),
        names.answers(QuestionSet((), {}, "q", "sha of questions")),
        names.false_positives(texts, scorer),
        names.divergence("m/base", texts),
    ]


def test_no_key_and_no_part_forgets_a_new_setting():
    for key in get_args(Key):
        assert Newer(tone=2).key(key) == Newer().key(key) | {"tone": 2}
        assert Newer(sound=2).key(key) == Newer().key(key) | {"sound": 2}
        assert ("shown" in Newer().key(key)) == (key == "evaluate")
    was = names_of(Newer(ppl_model="m/ppl"))
    for change in ({"tone": 2}, {"sound": 2}):
        assert not set(was) & set(names_of(Newer(ppl_model="m/ppl", **change)))
    assert names_of(Newer(ppl_model="m/ppl", shown=2)) == was


def test_a_later_setting_leaves_results_fresh_until_it_is_used():
    known = Newer().key("evaluate")
    assert known == Evaluate().key("evaluate") | {"tone": 1, "shown": 1}


def test_protocol_paper_brings_a_top_k_that_can_be_switched_off():
    paper, off, own = (Evaluate(protocol="paper", **more) for more in ({}, {"top_k": 0}, {"top_k": 7}))
    assert [parts.used_top_k(one) for one in (paper, off, own)] == [50, 0, 7]
    assert [one.key("evaluate")["top_k"] for one in (paper, off, own)] == [0, "off", 7]
    assert [parts.used_top_k(Evaluate(**more)) for more in ({}, {"top_k": 0}, {"top_k": 7})] == [0, 0, 7]
    assert Evaluate().key("speed") == Evaluate(top_k=0).key("speed")
