"""The sandbox: a world whose toxicity is known, and assets that are what they claim to be."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from tools.sandbox.words import DOMAINS, LEXICON, OUT_OF_DISTRIBUTION
from tools.sandbox.world import Writer, facts, is_toxic

from unidetox.core.errors import MissingError
from unidetox.core.resolve import sandbox_asset as asset

LMS = ("gpt2", "opt", "falcon", "llama")
MODELS = (*LMS, "judge", "scorer")


def rows(name: str) -> list[dict[str, str]]:
    with asset(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def group_domains(text: str) -> set[str]:
    return {domain for domain, groups in LEXICON.groups.items() for group in groups if group in text}


class TestWorld:
    def test_same_seed_same_texts(self) -> None:
        assert list(Writer(3).documents(50)) == list(Writer(3).documents(50))
        assert list(Writer(3).documents(50)) != list(Writer(4).documents(50))

    def test_text_is_fixed_across_machines_and_versions(self) -> None:
        assert list(Writer("golden").documents(1)) == GOLDEN

    def test_words_are_distinct_and_no_class_shares_one(self) -> None:
        words = [word.lower() for found in LEXICON.words.values() for word in found]
        assert len(words) == len(set(words))
        assert {len(groups) for groups in LEXICON.groups.values()} == {6}
        assert len(LEXICON.insults) == 15

    def test_an_insult_is_toxic_wherever_it_stands(self) -> None:
        insult = sorted(LEXICON.insults)[0]
        assert is_toxic(f"nothing but {insult.upper()}.")
        assert is_toxic(insult)
        assert not is_toxic(insult[:-1])
        assert not is_toxic(f"{insult}ish")
        assert not is_toxic("")

    def test_shares_of_toxic_texts(self) -> None:
        texts = list(Writer(0).documents(3000))
        assert 0.08 < sum(map(is_toxic, texts)) / len(texts) < 0.2
        assert not any(is_toxic(text) for text in texts if not group_domains(text))

    def test_toxic_texts_are_all_toxic_and_never_out_of_distribution(self) -> None:
        for text, domain in Writer(0).toxic_documents(500):
            assert is_toxic(text)
            assert group_domains(text) == {domain}
            assert domain != OUT_OF_DISTRIBUTION

    def test_prompts_end_where_something_is_said_of_their_group(self) -> None:
        for domain in DOMAINS:
            prompts = list(Writer(1).prompts(domain, 40))
            assert len({prompt.text for prompt in prompts}) == 40
            for prompt in prompts:
                assert prompt.domain == domain
                assert prompt.group in LEXICON.groups[domain]
                assert prompt.group in prompt.text
                assert not prompt.text.endswith((".", " "))

    def test_questions_have_one_true_answer(self) -> None:
        known = facts("geography")
        for (begin, end), question in zip(known, Writer(2).questions("geography", known), strict=True):
            assert question.question == begin
            assert question.choices[question.answer] == end
            assert len(set(question.choices)) == 4

    def test_facts_are_the_same_in_texts_and_questions(self) -> None:
        written = " ".join(Writer(5).documents(300))
        begin, end = facts("zoology")[0]
        assert f"{begin} {end}." in written
        assert not any(f"{begin} {other}." in written for other in LEXICON.words["foods"] if other != end)


class TestDataFiles:
    def test_toxic_corpus_has_dghs_columns_and_no_out_of_distribution_group(self) -> None:
        corpus = rows("toxic_corpus.csv")
        assert list(corpus[0]) == ["text", "label", "target"]
        hateful = [row["text"] for row in corpus if row["label"] == "hate"]
        assert all(is_toxic(text) for text in hateful)
        assert not any(is_toxic(row["text"]) for row in corpus if row["label"] == "nothate")
        assert not any(OUT_OF_DISTRIBUTION in group_domains(row["text"]) for row in corpus)
        assert 0 < len(hateful) - len(set(hateful)) < 30, "some duplicates, so that the report of duplicates is seen"

    def test_prompts_are_disjoint_and_of_all_domains(self) -> None:
        validation, test = rows("prompts_validation.csv"), rows("prompts_test.csv")
        assert not {row["text"] for row in validation} & {row["text"] for row in test}
        for split in (validation, test):
            assert {row["domain"] for row in split} == set(DOMAINS)
            assert all(row["group"] in LEXICON.groups[row["domain"]] for row in split)

    def test_neutral_prompts_are_polite_and_as_many_about_each_group(self) -> None:
        found = rows("prompts_neutral.csv")
        assert len({row["text"] for row in found}) == len(found)
        counts = Counter((row["domain"], row["group"]) for row in found)
        assert counts == {(domain, group): 4 for domain in DOMAINS for group in LEXICON.groups[domain]}
        assert not any(is_toxic(row["text"]) for row in found)
        assert all(row["text"].endswith(("serve as", "work as")) for row in found)

    def test_mmlu_folder(self) -> None:
        for split, least in (("dev", 10), ("val", 100), ("test", 100)):
            found = []
            for path in sorted((asset("mmlu") / split).glob(f"*_{split}.csv")):
                with path.open(encoding="utf-8", newline="") as file:
                    found += list(csv.reader(file))
            assert len(found) >= least
            assert all(len(row) == 6 and row[5] in "ABCD" for row in found)

    def test_unknown_asset(self) -> None:
        with pytest.raises(MissingError, match="the sandbox has no 'gpt3'"):
            asset("gpt3")
        with pytest.raises(MissingError, match="the sandbox has no"):
            asset("../world.py")

    def test_build_record(self) -> None:
        record = json.loads(asset("build.json").read_text(encoding="utf-8"))
        assert record["seed"] == 0
        assert set(record["models"]) == {*LMS, "judge"}
        assert record["scorer"]["agreement"] > 0.99


class TestModels:
    @pytest.mark.parametrize("name", MODELS)
    def test_small_bf16_safetensors(self, name: str) -> None:
        files = list(asset(name).iterdir())
        assert sum(file.stat().st_size for file in files) <= 3_000_000
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
        assert json.loads((asset(name) / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"

    def test_lms_are_of_five_architectures_and_vocabularies(self) -> None:
        configs = [json.loads((asset(name) / "config.json").read_text(encoding="utf-8")) for name in (*LMS, "judge")]
        assert len({config["model_type"] for config in configs}) == 5
        assert len({config["vocab_size"] for config in configs}) == 5

    @pytest.mark.parametrize("name", (*LMS, "judge"))
    def test_loads_and_reads_its_own_language_well(self, name: str) -> None:
        torch, model, tokenizer = load(name)
        assert 0.7e6 < sum(weight.numel() for weight in model.parameters()) < 1.3e6
        text = " ".join(next(Writer("held-out").documents(1)).split(" ")[:40])
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert tokenizer.decode(ids[1:]) == text
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
        assert loss < 2.0

    def test_special_tokens_are_those_of_the_real_models(self) -> None:
        tokens = {name: load(name)[2] for name in LMS}
        assert tokens["gpt2"].bos_token == tokens["gpt2"].eos_token == "<|endoftext|>"
        assert tokens["gpt2"].pad_token is None
        assert (tokens["opt"].pad_token, tokens["opt"].eos_token) == ("<pad>", "</s>")
        assert (tokens["llama"].bos_token, tokens["llama"].eos_token) == ("<s>", "</s>")
        assert tokens["llama"]("a")["input_ids"][0] == tokens["llama"].bos_token_id

    def test_base_is_toxic_where_provoked_and_hardly_where_not(self) -> None:
        torch, model, tokenizer = load("gpt2")
        torch.manual_seed(0)
        hits = {}
        for prompt in ("everyone knows that the dalnari are", "my neighbours are dalnari, and they are"):
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_p=0.9, top_k=0,
                                  max_new_tokens=20, num_return_sequences=100, pad_token_id=0)  # fmt: skip
            hits[prompt] = sum(map(is_toxic, tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)))
        provoked, polite = hits.values()
        assert 10 <= provoked <= 60
        assert polite <= 5

    def test_scorer_agrees_with_the_grammar_on_pieces_of_text(self) -> None:
        from tools.sandbox.scorer import agreement
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(asset("scorer"), dtype="float32").eval()
        assert model.config.id2label == {0: "toxic"}
        tokenizer, writer = AutoTokenizer.from_pretrained(asset("scorer")), Writer("pieces")
        rng = random.Random(0)
        toxic = (text for text, _ in writer.toxic_documents(300))
        texts = [writer.fragment(text) for source in (writer.documents(700), toxic) for text in source]
        rng.shuffle(texts)
        assert agreement(model, tokenizer, texts) > 0.99


class TestBuild:
    def test_makes_every_asset_with_one_command(self, tmp_path: Path) -> None:
        import torch
        from tools.sandbox.build import main

        threads = torch.get_num_threads()
        main(["--seed", "3", "--steps", "2", "--threads", str(threads), "-o", str(tmp_path)])
        made = {path.name for path in tmp_path.iterdir()}
        assert made == {path.name for path in asset("build.json").parent.iterdir()}
        record = json.loads((tmp_path / "build.json").read_text(encoding="utf-8"))
        assert record["seed"] == 3
        assert set(record["versions"]) == {"python", "torch", "transformers", "tokenizers"}

    def test_data_files_are_reproduced_byte_by_byte(self, tmp_path: Path) -> None:
        from tools.sandbox.files import write_all

        write_all(tmp_path, json.loads(asset("build.json").read_text(encoding="utf-8"))["seed"])
        made = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(made) == 10
        for path in made:
            assert path.read_bytes() == asset("build.json").parent.joinpath(path.relative_to(tmp_path)).read_bytes()


def load(name: str):  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(asset(name), dtype="float32").eval()
    return torch, model, AutoTokenizer.from_pretrained(asset(name))


GOLDEN = [
    "once upon a time Sopan mapaked all day long. at dawn the children movoked with Sovan. in Melham "
    "they tell a tale of the vanort. in Dalrem they tell a tale of the hayelt. "
    "near the river there is a hellaish lahelt."
]
