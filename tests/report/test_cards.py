"""Cards say what was done, parse as the Hub parses them, and neither break on nor leak what they are given."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

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
        "less toxic, not safe",
        "Bias",
        "Evasion",
        "License",
        "Lu, Huimin and Isonuma, Masaru and Mori, Junichiro and Sakata, Ichiro",
        "full weights",
    ]
    for words in expected:
        assert words in rest
    assert settings(rest) == INFO["settings"]


def settings(rest):
    """Read the block of settings as what it is, TOML."""
    return tomllib.loads(re.search(r"```toml\n(.*?)```", rest, re.S)[1])


def test_the_way_to_load_it_is_three_lines_of_python():
    code = re.search(r"```python\n(.*?)```", model_card(INFO), re.S)[1]
    assert len(code.strip().splitlines()) == 3
    ast.parse(code)
    assert code.count('from_pretrained("PATH-OR-HUB-ID")') == 2


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
    card = model_card(INFO | {"results": {"schema_version": 1, "settings": {"prompts": "toxigen"}, "rows": rows}})
    assert "| opt-125m | UniDetox | 0.250 [0.230, 0.270] (−50\u00a0%, better) |" in card
    assert "## What was measured" not in model_card(INFO)
    data = ModelCard(card).data
    assert data.model_name == "opt-125m-unidetox"
    (number,) = data.eval_results
    assert (number.metric_type, number.metric_name, number.metric_value) == ("tp", "TP ID", 0.25)
    assert (number.task_type, number.dataset_name, number.dataset_config) == ("text-generation", "toxigen", "id")


def test_texts_from_the_hub_and_a_known_licence_are_linked():
    more = {"texts": TEXTS | {"source": "me/detox-texts"}, "datasets": ["you/more"], "license": "apache-2.0"}
    front, rest = split(model_card(INFO | more))
    assert front["datasets"] == ["you/more", "me/detox-texts"]
    assert front["license"] == "apache-2.0" and "license_name" not in front
    assert "(apache-2.0)" in rest
    front, _ = split(texts_card({"base_model": "llama", "license": "other", "license_name": "llama3"}))
    assert (front["license"], front["license_name"]) == ("other", "llama3")


def test_a_rule_has_no_weights():
    front, rest = split(
        model_card({"base_model": "gpt2", "method": "dexperts", "rule": True, "settings": {"alpha": 2.0}})
    )
    assert front["base_model"] == "gpt2" and front["tags"][-1] == "dexperts"
    assert not {"library_name", "base_model_relation"} & set(front)
    assert "no weights" in rest and "from_pretrained" not in rest and "unidetox evaluate" in rest


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (model_card(INFO | {"license": "mit", "texts": TEXTS | {"source": "me/texts"}}), ModelCard),
        (texts_card({"base_model": "gpt2", "license": "mit", "summary": SUMMARY}), DatasetCard),
    ],
)
def test_the_hub_reads_and_writes_the_metadata_as_they_are(text, kind, tmp_path):
    card = kind(text)
    assert card.data.to_dict() == split(text)[0]
    card.save(tmp_path / "README.md")
    assert kind.load(tmp_path / "README.md").data.to_dict() == card.data.to_dict()
    assert str(card) == text


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
        "`finish_reason`",
        "not read or filtered by a human",
    ]
    for words in expected:
        assert words in rest
    assert settings(rest) == {"alpha": 0.1, "beta": float("inf")}


def test_plain_samples_are_called_so():
    front, rest = split(texts_card({"base_model": "gpt2", "method": "samples", "summary": SUMMARY | {"texts": 20_000}}))
    assert "Plain samples of `gpt2`: the control" in rest
    assert front["size_categories"] == ["10K<n<100K"]


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_untrusted_text_breaks_nothing(card):
    info = {"base_model": EVIL, "method": EVIL, "texts": {"source": EVIL, "sha256": EVIL, "number": EVIL},
            "toxic_model": EVIL, "corpus": EVIL, "summary": {"texts": EVIL}, "settings": {EVIL: EVIL},
            "datasets": [EVIL], "license": EVIL, "license_name": EVIL, "versions": {EVIL: EVIL}}  # fmt: skip
    front, rest = split(card(info))
    assert isinstance(front["license"], str) and front["license"] != "mit"
    assert all("\n" not in str(value) for value in front.values())
    assert "<script>" not in re.sub(r"`[^`]*`", "", rest)
    assert not [line for line in rest.splitlines() if line.startswith("license:")]


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_no_home_directory_is_published(card):
    home = "/home/jane/models/x"
    info = {"base_model": home, "method": home, "texts": {"source": home}, "toxic_model": home, "corpus": home,
            "settings": {"source": home, "note": f"from {home}", "many": [home]}}  # fmt: skip
    assert "jane" not in card(info)


@pytest.mark.parametrize("card", [model_card, texts_card])
def test_the_base_model_is_all_that_is_needed(card):
    front, _ = split(card({"base_model": "gpt2"}))
    assert "unidetox" in front["tags"]
    with pytest.raises(KeyError):
        card({})
