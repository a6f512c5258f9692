"""Cards say what was done, parse as the Hub parses them, and neither break on nor leak what they are given."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from unidetox.config.methods import load_method
from unidetox.report.cards import model_card, texts_card

TEXTS = {"source": "/home/jane/runs/demo/texts", "sha256": "ab12" * 16, "number": 640, "dropped": {}}
INFO = {
    "method": "unidetox",
    "base_model": "facebook/opt-125m",
    "texts": TEXTS,
    "settings": {"steps": 3000, "lr": 5e-5, "nested": {"alpha": 0.1}, "seeds": [1, 2]},
}
SUMMARY = {"texts": 640, "ended": 140, "cut": 500, "empty": 0, "distinct": 640, "tokens_mean": 234.71}
EVIL = 'x"\n---\nlicense: mit\n# <script>alert(1)</script> `a|b` \x07 \u2028 {: - [&* 😀'


def split(card):
    """Parse the front matter; give it and the rest."""
    assert card.startswith("---\n")
    front, _, rest = card[4:].partition("\n---\n")
    return yaml.safe_load(front), rest


def test_a_model_card_says_what_was_done():
    front, rest = split(model_card(INFO))
    assert front == {
        "license": "other",
        "license_name": "same-as-base-model",
        "base_model": "facebook/opt-125m",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unidetox", "detoxification"],
    }
    expected = [
        "# opt-125m-unidetox",
        "`facebook/opt-125m`",
        "`texts`, 640 texts",
        "ab12" * 16,
        "| `steps` | 3000 |",
        "| `nested.alpha` | 0.1 |",
        "| `seeds` | 1, 2 |",
        "less toxic, not safe",
        "Bias",
        "Evasion",
        "Licence",
        "Lu, Huimin and Isonuma, Masaru and Mori, Junichiro and Sakata, Ichiro",
        "full weights",
    ]
    for words in expected:
        assert words in rest


def test_the_way_to_load_it_is_three_lines_of_python():
    code = re.search(r"```python\n(.*?)```", model_card(INFO | {"name": "me/opt-detoxified"}), re.S)[1]
    assert len(code.strip().splitlines()) == 3
    ast.parse(code)
    assert 'from_pretrained("me/opt-detoxified")' in code


def test_an_adapter_is_an_adapter():
    front, rest = split(model_card(INFO | {"settings": {"lora": True, "merge": False}}))
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    assert "`peft` must be installed" in rest
    front, rest = split(model_card(INFO | {"settings": {"lora": True, "merge": True}}))
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert "must be installed" not in rest


def test_a_local_base_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    for base in ("/home/jane/models/gpt2", "gpt2", "./gpt2"):
        front, rest = split(model_card(INFO | {"base_model": base}))
        assert "base_model" not in front and "`gpt2`" in rest
    front, _ = split(model_card(INFO | {"base_model": "opt", "base_is_local": True}))
    assert "base_model" not in front


def test_results_are_shown_where_given():
    rows = [
        {"target": "opt-125m", "method": m, "metric": "tp", "domain": "id", "group": None, "seed": None, "value": v,
         "ci_low": v - 0.02, "ci_high": v + 0.02, "n": 896, "n_dropped": 0, "higher_is_better": False}
        for m, v in (("base", 0.5), ("unidetox", 0.25))
    ]  # fmt: skip
    card = model_card(INFO | {"results": {"schema_version": 1, "rows": rows}})
    assert "| opt-125m | UniDetox | 0.250 [0.230, 0.270] (−50\u00a0%, better) |" in card
    assert "## What was measured" not in model_card(INFO)


def test_texts_from_the_hub_and_a_known_licence_are_linked():
    front, rest = split(model_card(INFO | {"texts": TEXTS | {"source": "me/detox-texts"}, "license": "apache-2.0"}))
    assert front["datasets"] == ["me/detox-texts"]
    assert front["license"] == "apache-2.0" and "license_name" not in front
    assert "(apache-2.0)" in rest


def test_a_toxic_model_warns_and_a_control_does_not_boast():
    front, rest = split(model_card(INFO | {"method": "toxic"}))
    assert "not-for-all-audiences" in front["tags"]
    assert "writes hateful text" in rest and "not safe" not in rest
    _, rest = split(model_card(INFO | {"method": "samples"}))
    assert "about as toxic as its" in rest and "not safe" not in rest


def test_a_method_that_has_no_words_of_its_own():
    front, rest = split(model_card({"base_model": "gpt2", "method": "of_tomorrow"}))
    assert "`gpt2`, changed by of tomorrow." in rest and front["tags"][-1] == "of_tomorrow"


def test_a_card_says_what_the_method_says_of_itself():
    for name in ("unidetox", "samples", "lm_steer", "task_arithmetic"):
        _, rest = split(model_card({"base_model": "gpt2", "method": name}, load_method(name).done))
        assert f"`gpt2`, {load_method(name).done}" in rest and load_method(name).done.endswith(".")


def test_a_texts_card_says_how_they_were_made():
    info = {"method": "unidetox", "base_model": "gpt2-xl", "toxic_model": "/home/jane/runs/toxic/model",
            "corpus": "dghs", "sha256": "ab12" * 16,
            "summary": SUMMARY, "settings": {"alpha": 0.1, "beta": float("inf")}}  # fmt: skip
    front, rest = split(texts_card(info))
    assert front["configs"] == [{"config_name": "default", "data_files": "texts.jsonl"}]
    assert front["size_categories"] == ["n<1K"] and front["task_categories"] == ["text-generation"]
    expected = [
        "gpt2-xl-detoxifying-texts",
        "| Texts | 640 |",
        "| Ended by the model (`eos`) | 140 |",
        "| Cut at the longest length (`length`) | 500 |",
        "| Tokens a text, on average | 234.7 |",
        "`toxic`",
        "| `alpha` | 0.1 |",
        "| `beta` | inf |",
        "`finish_reason`",
        "not read or filtered by a human",
    ]
    for words in expected:
        assert words in rest


def test_plain_samples_are_called_so():
    front, rest = split(texts_card({"base_model": "gpt2", "method": "samples", "summary": SUMMARY | {"texts": 20_000}}))
    assert "Plain samples of `gpt2`: the control" in rest
    assert front["size_categories"] == ["10K<n<100K"]


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_untrusted_text_breaks_nothing(card):
    info = {"base_model": EVIL, "name": EVIL, "method": EVIL, "texts": {"source": EVIL, "sha256": EVIL, "number": EVIL},
            "toxic_model": EVIL, "corpus": EVIL, "summary": {"texts": EVIL}, "settings": {EVIL: EVIL}, "created": EVIL,
            "license": EVIL, "versions": {EVIL: EVIL}}  # fmt: skip
    front, rest = split(card(info))
    assert isinstance(front["license"], str) and front["license"] != "mit"
    assert all("\n" not in str(value) for value in front.values())
    assert "<script>" not in re.sub(r"`[^`]*`", "", rest)
    assert not [line for line in rest.splitlines() if line.startswith("license:")]


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_no_home_directory_is_published(card):
    home = "/home/jane/models/x"
    info = {"base_model": home, "name": home, "texts": {"source": home}, "toxic_model": home, "corpus": home,
            "settings": {"source": home, "note": f"from {home}", "many": [home]}}  # fmt: skip
    assert "jane" not in card(info)


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_the_base_model_is_all_that_is_needed(card):
    front, _ = split(card({"base_model": "gpt2"}))
    assert "unidetox" in front["tags"]
    with pytest.raises(KeyError):
        card({})
