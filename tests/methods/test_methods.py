"""Methods: at strength zero each is the base model, folded equals unfolded, and a rule is read as it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_zoo import plain_logits, prompts, zoo

from unidetox.config.methods import METHODS, load_method
from unidetox.config.settings import MethodOptions, Recipe
from unidetox.core.errors import MissingError, UsageError
from unidetox.data import Text, TextSet
from unidetox.decoding import loglikelihood
from unidetox.decoding.decoders import backbone
from unidetox.evaluation.prompt_encoding import beginning, encode_pairs, encode_prompt
from unidetox.methods import lm_steer, task_arithmetic
from unidetox.methods.interface import Method, RunContext, Step, TargetMethod
from unidetox.methods.targets import check_target, load_target
from unidetox.models import LM, LoadOptions, fingerprint, load_lm, save_lm

FAMILIES = ("gpt2", "opt", "falcon", "llama")
CONTEXTS = prompts(6, longest=9, seed=3)
TARGETS = prompts(6, longest=5, seed=4)


def scored(lm: LM) -> torch.Tensor:
    """Log-probabilities of all targets under what a directory is, one after the other."""
    found = dict(loglikelihood(lm.source, CONTEXTS, TARGETS))
    return torch.cat([found[i] for i in range(len(CONTEXTS))])


def load(folder: Path) -> LM:
    return load_target(folder, LoadOptions("cpu", "float32"))


def context_of(target: Path, toxic: Path, folder: Path, method: dict[str, Any]) -> RunContext:
    """The context of one target and method, whose toxic copy is there already."""
    recipe = Recipe.model_validate({
        "device": "cpu", "dtype": "float32", "base": {"model": str(target)}, "toxic": {"model": str(toxic)},
        "detoxify": {"targets": [str(target)], "methods": ["m"]},
    })  # fmt: skip
    options = load_method(method["name"]).options.model_validate(method)
    return RunContext(recipe.model_copy(update={"method": {"m": options}}), folder)


def make(context: RunContext) -> Path:
    """Do the one pair of a context."""
    (pair,) = context.pairs
    for step in load_method(pair.method).steps(context, pair):
        step.check()
        step.make(False)
        assert step.stage().status().state == "fresh"
    return pair.folder


@pytest.fixture(scope="session")
def pairs(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Each tiny model, and a copy of it with other weights: what a toxic copy is to arithmetic."""
    root, found = tmp_path_factory.mktemp("toxic"), {}
    for family in FAMILIES:
        lm = load_lm(tiny_models[family], LoadOptions("cpu", "float32"))
        torch.manual_seed(5)
        with torch.no_grad():
            for weight in lm.model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        save_lm(lm.model, lm.tokenizer, root / family)
        found[family] = (tiny_models[family], root / family)
    return found


# ---- strength zero


ZERO = {
    "dexperts": {"name": "dexperts", "alpha": 0.0, "expert": "none"},
    "task_arithmetic": {"name": "task_arithmetic", "scale": 0.0},
    "safety_prompt": {"name": "safety_prompt", "prompt": ""},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ZERO)
def test_a_method_of_no_strength_is_the_base_model(pairs: Any, family: str, name: str, tmp_path: Path) -> None:
    base, toxic = pairs[family]
    made = make(context_of(base, toxic, tmp_path, ZERO[name]))
    torch.testing.assert_close(scored(load(made)), scored(load(base)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_with_strength_is_not(pairs: Any, family: str, tmp_path: Path) -> None:
    base, toxic = pairs[family]
    for number, method in enumerate([ZERO["dexperts"] | {"alpha": 1.0}, ZERO["task_arithmetic"] | {"scale": 1.0}]):
        made = make(context_of(base, toxic, tmp_path / str(number), method))
        assert (scored(load(made)) - scored(load(base))).abs().max() > 0.01


# ---- DExperts


def test_dexperts_of_a_directory_is_the_formula(pairs: Any, tmp_path: Path) -> None:
    base, toxic = pairs["gpt2"]
    other = shutil.copytree(pairs["gpt2"][1], tmp_path / "expert")
    method = {"name": "dexperts", "alpha": 1.5, "expert": str(other), "anti_expert": str(toxic)}
    made = make(context_of(base, toxic, tmp_path / "run", method))
    # Expert and anti-expert are the same: their difference is nothing.
    torch.testing.assert_close(scored(load(made)), scored(load(base)), atol=1e-5, rtol=0)
    assert load(made).source.filters


# ---- LM-Steer


def steer_of(model: Any, epsilon: float = 0.3) -> lm_steer.Steer:
    width = model.get_output_embeddings().weight.shape[1]
    return lm_steer.Steer(width, 7, epsilon, 0.2, seed=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_a_folded_steer_is_an_ordinary_checkpoint_that_equals_the_rule(
    tiny_models: dict[str, Path], family: str, epsilon: float, tmp_path: Path
) -> None:
    lm = load_lm(tiny_models[family], LoadOptions("cpu", "float32"))
    steer, row = steer_of(lm.model, epsilon), [3, 7, 11, 5, 19]
    before = plain_logits(lm.model, row)
    with torch.no_grad(), steer.acting(lm.model, torch.tensor([[5.0, 1.0]])):
        unfolded = plain_logits(lm.model, row)
    lm_steer.fold(lm.model, steer, (5.0, 1.0))
    save_lm(lm.model, lm.tokenizer, tmp_path / "folded")
    again = load_lm(tmp_path / "folded", LoadOptions("cpu", "float32"))
    torch.testing.assert_close(plain_logits(again.model, row), unfolded, atol=1e-5, rtol=1e-5)
    if epsilon == 0:
        torch.testing.assert_close(unfolded, before, atol=0, rtol=0)
    else:
        assert (unfolded - before).abs().max() > 0.1
        # What the model reads is as it was.
        plain = load_lm(tiny_models[family], LoadOptions("cpu", "float32"))
        ours, theirs = (x.model.get_input_embeddings().weight for x in (again, plain))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "family", ["opt_projected", "falcon_new", "bloom", "mpt", "gpt_neox", "gptj", "gemma2", "phi", "cohere", "qwen3"]
)
def test_folding_is_right_for_other_families_with_their_biases_scales_and_caps(family: str) -> None:
    import copy

    model = copy.deepcopy(zoo(family))
    steer, row = steer_of(model), [3, 7, 11, 5, 19]
    assert lm_steer._width(LM(model, None, family, torch.device("cpu"), torch.float32)) == steer.first.shape[1]
    with torch.no_grad(), steer.acting(model, torch.tensor([[2.0, 1.0]])):
        unfolded = plain_logits(model, row)
        # Training asks the backbone by itself, and must find it steered too.
        hidden = model.base_model(input_ids=torch.tensor([row]), use_cache=False)[0]
        steered = backbone(model).logits(hidden[0])
    torch.testing.assert_close(steered, unfolded, atol=2e-5, rtol=1e-4)
    lm_steer.fold(model, steer, (2.0, 1.0))
    torch.testing.assert_close(plain_logits(model, row), unfolded, atol=2e-5, rtol=1e-4)


def texts_of(*texts: str) -> TextSet:
    return TextSet(tuple(Text(text, "eos") for text in texts), "here", "0")


NON_TOXIC = texts_of("she reads a book about the history of the river", "a small town by the sea has a market")
TOXIC = texts_of("they walked home nobody was late", "the quick brown fox jumps over the lazy dog")


def options(**given: Any) -> lm_steer.Options:
    few = {"name": "lm_steer", "steps": 30, "batch_size": 4, "max_length": 32, "rank": 16, "lr": 0.05, "init": 0.1}
    return lm_steer.Options.model_validate(few | {"epsilon": 0.1} | given)


def trained(lm: LM, work: Path, **given: Any) -> lm_steer.Steer:
    chosen = options(**given)
    steer = lm_steer.Steer(32, chosen.rank, chosen.epsilon, chosen.init, 3)
    lm_steer.train(lm, steer, TOXIC, NON_TOXIC, chosen, 3, "float32", work)
    return steer


def test_steering_in_float16_is_refused(pairs: Any, tmp_path: Path) -> None:
    lm = load_lm(pairs["gpt2"][0], LoadOptions("cpu", "float32"))
    steer = lm_steer.Steer(32, 4, 1e-3, 1e-2, 3)
    with pytest.raises(UsageError, match="float16 is too narrow"):
        lm_steer.train(lm, steer, TOXIC, NON_TOXIC, options(), 3, "float16", tmp_path)


def likelihood(model: Any, lm: LM, texts: TextSet) -> float:
    rows = [lm.tokenizer(text.text)["input_ids"] for text in texts.texts]
    found = loglikelihood(model, [[0]] * len(rows), rows)
    return float(sum(values.sum() for _, values in found))


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon"])
def test_steering_makes_one_kind_of_text_likelier_and_the_other_less(
    tiny_models: dict[str, Path], family: str, tmp_path: Path
) -> None:
    lm = load_lm(tiny_models[family], LoadOptions("cpu", "float32"))
    steer = trained(lm, tmp_path, steps=60)
    gap = {}
    for strength in (-1.0, 1.0):
        fresh = load_lm(tiny_models[family], LoadOptions("cpu", "float32"))
        lm_steer.fold(fresh.model, steer, (strength, 1.0))
        gap[strength] = likelihood(fresh.model, lm, NON_TOXIC) - likelihood(fresh.model, lm, TOXIC)
    assert gap[1.0] > gap[-1.0] + 1


def test_steering_goes_on_after_a_kill_as_if_there_had_been_none(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_steer, "SAVE_EVERY", 4)
    lm = load_lm(tiny_gpt2, LoadOptions("cpu", "float32"))
    whole = trained(lm, tmp_path / "whole", steps=10)
    original, calls = lm_steer._batch, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(lm_steer, "_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(lm, tmp_path / "killed", steps=10)
    monkeypatch.setattr(lm_steer, "_batch", lambda *a: (calls.append(a[-1]), original(*a))[1])
    again = trained(lm, tmp_path / "killed", steps=10)
    assert calls[7:] == [4, 5, 6, 7, 8, 9]
    assert torch.equal(again.first, whole.first)
    assert torch.equal(again.second, whole.second)


def test_a_projection_is_never_wider_than_the_model() -> None:
    assert lm_steer.Steer(32, 1000, 1e-3, 1e-2, 0).first.shape == (2, 32, 32)


def test_a_model_without_a_linear_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from unidetox.decoding import decoders

    monkeypatch.setattr(decoders.Backbone, "has_head", property(lambda _: False))
    with pytest.raises(UsageError, match="not a linear map"):
        lm_steer._width(LM(zoo("gpt2"), None, "odd", torch.device("cpu"), torch.float32))


# ---- task arithmetic


def test_negation_by_hand() -> None:
    theta, toxic = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert task_arithmetic.negated(theta, toxic, 0.5).tolist() == [0.0, 2.5]
    low = task_arithmetic.negated(theta.bfloat16(), toxic.bfloat16(), 0.001)
    assert low.dtype == torch.float32  # the difference of two rounded numbers is not rounded again


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vector_of_a_negated_model_negated_gives_the_toxic_model_back(
    pairs: Any, family: str, tmp_path: Path
) -> None:
    base, toxic = pairs[family]
    negative = make(context_of(base, toxic, tmp_path / "once", {"name": "task_arithmetic", "scale": 1.0}))
    back = make(context_of(base, negative, tmp_path / "twice", {"name": "task_arithmetic", "scale": 1.0}))
    ours, theirs = (load_lm(f, LoadOptions("cpu", "float32")).model.state_dict() for f in (back, toxic))
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_subtracting_the_toxicity_vector_from_the_toxic_model_gives_the_model(pairs: Any, family: str) -> None:
    base, toxic = (load_lm(folder, LoadOptions("cpu", "float32")).model for folder in pairs[family])
    start, spoilt = dict(base.named_parameters()), dict(toxic.named_parameters())
    # theta_toxic - 1 (theta_toxic - theta), where the "toxic" side of the formula is 2 theta_toxic - theta.
    task_arithmetic.subtract(toxic, lambda name: (2 * spoilt[name] - start[name]).clone(), 1.0)
    for name, weight in toxic.named_parameters():
        torch.testing.assert_close(weight, start[name], atol=1e-6, rtol=1e-5)


def test_tied_weights_are_moved_once_and_counted_once(pairs: Any) -> None:
    base, toxic = (load_lm(folder, LoadOptions("cpu", "float32")).model for folder in pairs["gpt2"])
    assert base.lm_head.weight is base.transformer.wte.weight
    before, other = base.lm_head.weight.clone(), toxic.lm_head.weight
    counters = {name: value.clone() for name, value in base.named_buffers()}
    count = task_arithmetic.subtract(base, dict(toxic.named_parameters()).__getitem__, 2.0)
    assert count == len(list(base.parameters()))
    torch.testing.assert_close(base.lm_head.weight, before - 2 * (other - before), atol=1e-6, rtol=1e-6)
    assert base.lm_head.weight is base.transformer.wte.weight
    for name, value in base.named_buffers():
        assert torch.equal(value, counters[name])


def test_tensors_are_read_from_shards_one_at_a_time(pairs: Any, tmp_path: Path) -> None:
    base, toxic = pairs["llama"]
    lm = load_lm(toxic, LoadOptions("cpu", "float32"))
    lm.model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    lm.tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    method = {"name": "task_arithmetic", "scale": 0.7}
    made = [make(context_of(base, t, tmp_path / str(i), method)) for i, t in enumerate((toxic, tmp_path / "sharded"))]
    assert (made[0] / "model.safetensors").read_bytes() == (made[1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_toxic_model_whose_file_names_its_tensors_in_another_way_is_read_whole(
    pairs: Any, family: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base, toxic = pairs[family]
    other = shutil.copytree(toxic, tmp_path / "other")
    # As the Hub's own GPT-2: the names of the backbone alone.
    tensors = load_file(other / "model.safetensors")
    prefix = "transformer." if family == "gpt2" else "model."
    renamed = {name.removeprefix(prefix): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    method = {"name": "task_arithmetic", "scale": 0.7}
    made = [make(context_of(base, t, tmp_path / str(i), method)) for i, t in enumerate((toxic, other))]
    assert (made[0] / "model.safetensors").read_bytes() == (made[1] / "model.safetensors").read_bytes()


def test_a_toxic_model_of_another_architecture_is_refused_in_one_line(pairs: Any, tmp_path: Path) -> None:
    context = context_of(pairs["gpt2"][0], pairs["llama"][1], tmp_path, {"name": "task_arithmetic"})
    with pytest.raises(UsageError):
        make(context)


def test_another_models_weights_are_refused(pairs: Any) -> None:
    base = load_lm(pairs["gpt2"][0], LoadOptions("cpu", "float32")).model
    with pytest.raises(UsageError, match="other shapes"):
        task_arithmetic.subtract(base, lambda name: torch.zeros(3, 3), 1.0)


# ---- safety prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_a_safety_prompt_is_read_before_every_prompt_and_is_no_part_of_it(
    pairs: Any, family: str, tmp_path: Path
) -> None:
    base, toxic = pairs[family]
    lm = load(make(context_of(base, toxic, tmp_path, {"name": "safety_prompt", "prompt": "a small town "})))
    plain = load(base)
    prefix = plain.tokenizer("a small town ", add_special_tokens=False)["input_ids"]
    assert beginning(lm) == [*beginning(plain), *prefix]
    ids, cut = encode_prompt(lm, "the fox", 4)
    rest = plain.tokenizer("the fox", add_special_tokens=False)["input_ids"]
    assert (ids, cut) == ([*beginning(plain), *prefix, *rest], False)
    (pair,) = encode_pairs(lm, ["the fox"], [" jumps"])
    (bare,) = encode_pairs(plain, ["the fox"], [" jumps"])
    assert pair.context == [*beginning(plain), *prefix, *bare.context[len(beginning(plain)) :]]
    assert pair.continuation == bare.continuation


def test_a_long_prompt_is_cut_behind_the_safety_prompt(pairs: Any, tmp_path: Path) -> None:
    base, toxic = pairs["gpt2"]
    lm = load(make(context_of(base, toxic, tmp_path, {"name": "safety_prompt", "prompt": "a small town"})))
    long = "the quick brown fox jumps over the lazy dog " * 30
    ids, cut = encode_prompt(lm, long, 20)
    assert cut
    assert len(ids) == 108
    assert ids[: len(beginning(lm))] == beginning(lm)
    assert ids[-5:] == lm.tokenizer(long)["input_ids"][-5:]


# ---- what is written and read again


def test_a_rule_names_its_models_so_that_a_run_may_move(pairs: Any, tmp_path: Path) -> None:
    base, toxic = pairs["gpt2"]
    run = tmp_path / "run"
    shutil.copytree(toxic, run / "toxic_model")
    method = {"name": "dexperts", "expert": "none", "anti_expert": str(run / "toxic_model")}
    made = make(context_of(base, toxic, run, method))
    content = json.loads((made / "detox.json").read_text("utf-8"))
    assert content["models"] == [str(base), "../../toxic_model"]
    assert content["options"] == {"alpha": 2.0, "top_p": 0.9}
    before = scored(load(made))
    shutil.move(run, tmp_path / "moved")
    torch.testing.assert_close(scored(load(tmp_path / "moved" / "targets" / made.name)), before, atol=0, rtol=0)


def test_the_fingerprint_of_a_rule_covers_the_models_that_it_names(pairs: Any, tmp_path: Path) -> None:
    base, toxic = pairs["gpt2"]
    anti = shutil.copytree(toxic, tmp_path / "anti")
    made = make(
        context_of(base, toxic, tmp_path / "run", {"name": "dexperts", "expert": "none", "anti_expert": str(anti)})
    )
    before = fingerprint(made)
    shutil.copy(base / "model.safetensors", anti / "model.safetensors")
    assert fingerprint(made) != before


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"method": "dexperts"}, UsageError, "does not name its method, models"),
        ({"method": "nothing", "models": ["BASE"]}, UsageError, "no method that acts"),
        ({"method": "unidetox", "models": ["BASE"]}, UsageError, "no method that acts"),
        ({"method": "dexperts", "models": ["BASE"], "options": {"alpha": "much"}}, UsageError, "options.alpha"),
        ({"method": "dexperts", "models": ["./gone"]}, MissingError, "gone does not exist"),
        ({"method": "dexperts", "models": ["BASE", "OTHER"]}, UsageError, "different vocabularies"),
    ],
)
def test_a_broken_rule_says_what_is_wrong(
    pairs: Any, tmp_path: Path, content: dict[str, Any], error: Any, words: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = pairs["gpt2"][0]
    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(other)
    names = {"BASE": str(base), "OTHER": str(other)}
    models = [names.get(name, name) for name in content.get("models", [])]
    (tmp_path / "detox.json").write_text(json.dumps(content | ({"models": models} if models else {})), "utf-8")
    for read in (check_target, load):
        with pytest.raises(error, match=words):
            read(tmp_path)


# ---- the registry


def test_every_method_is_complete_and_says_where_it_comes_from() -> None:
    import importlib

    for name in METHODS:
        method = load_method(name)
        assert isinstance(method, Method)
        assert issubclass(method.options, MethodOptions)
        assert method.options(name=name).name == name
        document = importlib.import_module(f"unidetox.methods.{name}").__doc__ or ""
        assert name == "base" or ("Reference:" in document and "20" in document)
    with pytest.raises(KeyError):
        load_method("nothing")


def test_a_key_is_told_from_its_method(tmp_path: Path) -> None:
    kind = load_method("dexperts").options
    titles = {
        key: TargetMethod(key, kind(name="dexperts"), "m", tmp_path).title for key in ("dexperts", "dexperts-4", "mine")
    }
    assert titles == {"dexperts": "dexperts", "dexperts-4": "dexperts (4)", "mine": "dexperts (mine)"}


def test_methods_share_what_they_need(pairs: Any, tmp_path: Path) -> None:
    base, other = (str(pairs[family][0]) for family in ("gpt2", "opt"))
    methods = ["unidetox", "samples", "dexperts", "task_arithmetic", "lm_steer", "safety_prompt"]
    recipe = Recipe.model_validate(
        {"base": {"model": base}, "detoxify": {"targets": [base, other], "methods": methods}}
    )
    context = RunContext(recipe, tmp_path)
    steps: list[Step] = [s for pair in context.pairs for s in load_method(pair.method).steps(context, pair)]
    shared = {step.name for step in steps if not step.name.startswith("targets/")}
    assert shared == {"toxic_model", "toxic_model-opt", "expert_model", "expert_model-opt", "texts", "texts-samples"}
    needs = {step.name: step.needs for step in steps}
    assert needs["targets/opt-unidetox"] == ("texts",)
    assert needs["targets/opt-task_arithmetic"] == ("toxic_model-opt",)
    assert needs["targets/gpt2-dexperts"] == ("toxic_model", "expert_model")
    assert needs["targets/gpt2-safety_prompt"] == ()
