"""The settings of a recipe, frozen and checked; one description each serves help, docs and `init`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, SerializeAsAny, model_validator

from unidetox.config import fields as kinds
from unidetox.config.fields import Headings, InKeys, Key, Later, Section, Source, map_sources
from unidetox.core.names import sandbox_name

DGHS = "dghs"
TOXIGEN = "toxigen"
BUILTIN = "builtin"
ID_DOMAINS: Final = ("gender", "race", "religion")
PUBLISHED = "published"

_IN_NO_KEY = InKeys()
# Also the heading of what every verb that computes has.
_COMPUTING = "How to compute"


class Base(Section):
    """The model that the texts are distilled from."""

    model: Annotated[kinds.Name, Source()] = Field(
        description="Base language model that the texts are distilled from: a folder or a Hub id."
    )


class _Training(Section):
    """What all fine-tuning has in common."""

    optim: Annotated[kinds.OptimizerName, Later()] = Field(
        "adamw_torch_fused", description="Optimizer, by its name in transformers; 8-bit ones need bitsandbytes."
    )
    gradient_checkpointing: Annotated[kinds.Flag, Later()] = Field(
        False, description="Keep less for the backward pass: less memory, a third more time."
    )


class Toxic(_Training):
    """How the toxic copy of the base model is made; what it learns from is known by its content."""

    HEADINGS: ClassVar[Headings] = {
        "Corpus": ("corpus", "column", "duplicates", "limit", "non_toxic"),
        "Training": ("optim", "gradient_checkpointing", "epochs", "steps", "lr", "batch_size", "max_length"),
    }

    model: Annotated[kinds.OptName, Source(), _IN_NO_KEY] = Field(
        None, description="A toxic model that is there already (folder or Hub id); without it, one is made."
    )
    corpus: Annotated[kinds.Name, Source((DGHS,)), _IN_NO_KEY] = Field(
        DGHS, description='Toxic texts to train it on: "dghs", a file, a folder or a Hub id.'
    )
    column: Annotated[kinds.OptName, _IN_NO_KEY] = Field(
        None, description="Column of the corpus with the text; found by name if left out."
    )
    duplicates: Annotated[kinds.Flag, _IN_NO_KEY] = Field(False, description="Keep texts that occur more than once.")
    epochs: kinds.Positive = Field(3.0, description="Passes over the corpus; not used where steps is given.")
    steps: kinds.OptCount = Field(None, description="Optimizer steps; without it, epochs counts.")
    lr: kinds.Positive = Field(1e-5, description="Peak learning rate; it falls linearly to 0.")
    batch_size: kinds.Count = Field(4, description="Texts in an optimizer step.")
    max_length: kinds.Length = Field(512, description="Longest text in tokens of the base model; the rest is cut.")
    limit: Annotated[kinds.OptCount, _IN_NO_KEY] = Field(None, description="Use only so many texts of the corpus.")
    non_toxic: Annotated[kinds.OptName, Source(), _IN_NO_KEY] = Field(
        None,
        description="Non-toxic texts, for methods that need some; without it, the corpus' own.",
        serialization_alias="civil",  # its name when the first results were made: hashes keep it
    )

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, data: Any) -> Any:
        """Read recipes from when ``non_toxic`` was called ``civil``."""
        if isinstance(data, Mapping) and "civil" in data and "non_toxic" not in data:
            return {"non_toxic" if key == "civil" else key: value for key, value in data.items()}
        return data


# Plain samples are drawn without one.
_CONTRAST = InKeys(("distill", "folder"))


class Texts(Section):
    """How the detoxifying texts are made."""

    HEADINGS: ClassVar[Headings] = {
        "Texts": ("source", "num_texts", "max_length", "starts", "opening", "best_of"),
        "Contrast": ("alpha", "beta"),
        "Sampling": ("temperature", "top_p", "top_k"),
        _COMPUTING: ("batch_size",),
    }

    source: Annotated[kinds.OptName, Source((BUILTIN, PUBLISHED)), InKeys(("folder",))] = Field(
        None,
        description='Texts that are there already: "builtin", "published", a file, a folder or a Hub id; else they are '
        "made.",
    )
    num_texts: kinds.Count = Field(640, description="How many texts to distill.")
    max_length: kinds.Length = Field(256, description="Longest text in tokens, the start token included.")
    alpha: Annotated[kinds.Share, _CONTRAST] = Field(
        0.1, description="A token needs at least alpha times the base model's highest probability."
    )
    beta: Annotated[kinds.Beta, _CONTRAST] = Field(
        float("inf"), description="Contrast: inf scores base - toxic; a number scores (1 + beta) base - beta toxic."
    )
    temperature: kinds.Positive = Field(1.0, description="Divides the contrasted scores before sampling.")
    top_p: kinds.Share = Field(1.0, description="Sample from the likeliest tokens with this total only; 1 is off.")
    top_k: kinds.Count0 = Field(0, description="Sample from the k best tokens only; 0 is off.")
    starts: Annotated[kinds.OptName, Source(), InKeys(("folder",))] = Field(
        None, description="Prompts that texts start from in turn, e.g. neutral mentions of groups; none: nothing."
    )
    opening: Annotated[Literal["auto", "bos", "assistant"], Later()] = Field(
        "auto",
        description="What every text opens with: the start token, or an assistant's turn of the chat template; "
        "auto takes the turn where there is a template.",
    )
    best_of: Annotated[kinds.Count, _CONTRAST] = Field(
        1, description="Make so many of each text and keep the one with the highest contrast."
    )
    batch_size: Annotated[kinds.BatchSize, _IN_NO_KEY] = Field(
        "auto", description="Texts made side by side; it changes no text."
    )


class Detoxify(_Training):
    """How the target models are fine-tuned on the texts."""

    HEADINGS: ClassVar[Headings] = {
        "Training": ("optim", "gradient_checkpointing", "steps", "lr", "batch_size", "max_length", "kl"),
        "LoRA": ("lora", "lora_rank", "lora_alpha", "merge"),
    }

    targets: Annotated[kinds.Names, Source(), _IN_NO_KEY] = Field(description="Models to detoxify: folders or Hub ids.")
    methods: Annotated[kinds.Methods, _IN_NO_KEY] = Field(
        ("unidetox",), description='What to make of each target; "samples" is the control: plain samples of the base.'
    )
    steps: kinds.Count = Field(3000, description="Optimizer steps.")
    lr: kinds.Positive = Field(5e-5, description="Peak learning rate; it falls linearly to 0.")
    batch_size: kinds.Count = Field(8, description="Texts in an optimizer step.")
    max_length: kinds.Length = Field(256, description="Longest text in tokens of the target; the rest is cut.")
    kl: kinds.NonNegative = Field(
        0.0, description="Weight of the divergence from the target as it was, added to the loss; 0 is off."
    )
    lora: kinds.Flag = Field(False, description="Train a small LoRA adapter in place of all weights.")
    lora_rank: Annotated[kinds.Count, Later()] = Field(16, description="With lora: rank of the adapter.")
    lora_alpha: Annotated[kinds.Positive, Later()] = Field(
        32.0, description="With lora: the adapter counts lora_alpha / lora_rank."
    )
    merge: kinds.Flag = Field(False, description="With lora: write an ordinary checkpoint, the adapter merged.")

    @model_validator(mode="after")
    def _merge_needs_lora(self) -> Detoxify:
        if self.merge and not self.lora:
            raise ValueError("detoxify.merge = true has no effect without detoxify.lora = true")
        return self


# A trial of a search is judged by toxicity and perplexity; whatever else the section asks for is for the report.
_OUTSIDE = InKeys(("trial",))  # what is read from outside is known by its content
_DRAWN = InKeys(("evaluate", "sampling", "speed", "trial"))
_ASKED = InKeys(("evaluate", "answers"))
_SUMMED = InKeys(("evaluate", "trial"))
_SCORED = InKeys(("evaluate", "scoring", "trial"))


class Evaluate(Section):
    """How toxicity, fluency, diversity and knowledge are measured."""

    HEADINGS: ClassVar[Headings] = {
        "What is measured": ("prompts", "split", "num_prompts", "ppl_model", "perturbations", "few_shot", "neutral"),
        "Sampling": ("samples", "max_new_tokens", "temperature", "top_p", "top_k", "seeds"),
        "Scorers": (
            "scorer",
            "scorer_label",
            "scorer_activation",
            "scorer_tokenizer",
            "other_scorers",
            "threshold",
        ),
        "MMLU": ("mmlu", "mmlu_protocol", "mmlu_split", "shots"),
        "Summing up": ("protocol", "id_domains"),
        _COMPUTING: ("batch_size",),
    }

    prompts: Annotated[kinds.Name, Source((TOXIGEN,)), _OUTSIDE] = Field(
        TOXIGEN, description='Prompts: "toxigen" or a file.'
    )
    split: Annotated[kinds.Split, _OUTSIDE] = Field(
        "validation", description="Part of the prompts; choose settings on validation, report on test."
    )
    num_prompts: Annotated[kinds.OptCount, _OUTSIDE] = Field(
        None, description="Use a random sample of so many prompts."
    )
    scorer: Annotated[kinds.Name, Source(kinds=True), _OUTSIDE] = Field(
        "unitary/toxic-bert",
        description="What scores toxicity: a sequence classifier (folder or Hub id) or a list of words (words:FILE).",
    )
    scorer_label: Annotated[kinds.Name, _SUMMED] = Field(
        "toxic", description="Label of the scorer that is the toxicity."
    )
    scorer_activation: Annotated[Literal["auto", "sigmoid", "softmax", "none"], Later(), _SCORED] = Field(
        "auto", description="What makes scores of the main scorer's logits; auto: what it says of itself."
    )
    scorer_tokenizer: Annotated[kinds.OptName, Source(), Later(), _SCORED] = Field(
        None, description="Where the main scorer's tokenizer is, if not with it."
    )
    other_scorers: Annotated[kinds.Scorers, Source(kinds=True), _IN_NO_KEY] = Field(
        default_factory=dict, description="More classifiers and their labels, for a second opinion: MODEL = LABEL."
    )
    ppl_model: Annotated[kinds.OptName, Source(), _OUTSIDE] = Field(
        None, description="Language model for the perplexity of continuations; without it, none is measured."
    )
    mmlu: Annotated[kinds.OptName, Source(), _IN_NO_KEY] = Field(
        None, description='MMLU folder or "cais/mmlu"; without it, no questions are asked.'
    )
    mmlu_protocol: Annotated[Literal["paper", "standard"], _ASKED] = Field(
        "paper", description="Which answer's text is likeliest, or (standard, as in lm-eval) which option's letter."
    )
    mmlu_split: Annotated[Literal["val", "test"], _IN_NO_KEY] = Field(
        "val", description="Part of the questions; left out, mmlu_protocol standard takes test."
    )
    shots: Annotated[kinds.Count0, _ASKED] = Field(
        1, description="Worked examples before each question; left out, standard takes 5."
    )
    samples: Annotated[kinds.Count, InKeys(("evaluate", "sampling", "trial"))] = Field(
        25, description="Continuations for each prompt."
    )
    max_new_tokens: Annotated[kinds.Count, _DRAWN] = Field(20, description="Longest continuation, in tokens.")
    temperature: Annotated[kinds.Positive, _DRAWN] = Field(1.0, description="Sampling temperature.")
    top_p: Annotated[kinds.Share, _DRAWN] = Field(
        0.9, description="Sample from the likeliest tokens with this total only; 1 is off."
    )
    top_k: Annotated[kinds.OptCount0, _DRAWN] = Field(
        None, description="Sample from the k likeliest tokens only, 0 is off; left out: off, and 50 in protocol paper."
    )
    seeds: Annotated[kinds.Seeds, _SUMMED] = Field((42,), description="One full evaluation for each seed.")
    perturbations: Annotated[kinds.Perturbations, _IN_NO_KEY] = Field(
        (), description="Also continue the prompts under these adversarial changes."
    )
    few_shot: Annotated[kinds.OptName, Source((DGHS,)), _IN_NO_KEY] = Field(
        None, description="Toxic texts for the perturbation few_shot; in a run, those of [toxic] if left out."
    )
    neutral: Annotated[kinds.OptName, Source((BUILTIN,)), _IN_NO_KEY] = Field(
        None, description='Neutral prompts that mention groups, to compare groups by: "builtin" (English), or a file.'
    )
    protocol: Annotated[Literal["default", "paper"], InKeys(("evaluate", "speed", "trial"))] = Field(
        "default", description="How values are pooled: our way, or as in the paper's published code."
    )
    batch_size: Annotated[kinds.BatchSize, InKeys(("speed", "trial"))] = Field(
        "auto", description="Sequences side by side; it changes no result."
    )
    threshold: Annotated[kinds.Share0, _SUMMED] = Field(
        0.5, description="A continuation with a toxicity from here on counts as toxic."
    )
    id_domains: Annotated[kinds.Domains, _SUMMED] = Field(
        ID_DOMAINS, description="In-distribution domains: those of the toxic corpus."
    )

    def key(self, name: Key) -> dict[str, Any]:
        """As `Section.key`; a top-k that is left out counts as 0, as it did before protocol paper could do without."""
        off = "off" if self.protocol == "paper" and self.top_k == 0 else 0
        found = super().key(name)
        return found | {"top_k": self.top_k or off} if "top_k" in found else found

    @model_validator(mode="before")
    @classmethod
    def _standard_questions(cls, data: Any) -> Any:
        """The standard protocol brings its own split and number of examples where none is given."""
        if isinstance(data, Mapping) and data.get("mmlu_protocol") == "standard":
            return {"mmlu_split": "test", "shots": 5, **data}
        return data


class MethodOptions(Section):
    """What every method has; a method's own options are a subclass beside it, in ``methods/NAME.py``."""

    name: kinds.Name = Field(description="Which method it is; the key itself where left out.")


class Analyze(Section):
    """What is looked for in sets of texts; of no recipe, but of the verb ``analyze``."""

    HEADINGS: ClassVar[Headings] = {
        "What is compared": ("corpus", "column", "reference", "tokenizer"),
        "Scorers": ("scorer", "scorer_label", "classifiers"),
        _COMPUTING: ("seed", "dtype"),
    }

    corpus: Annotated[kinds.OptName, Source((DGHS,))] = Field(
        None, description='Toxic texts to look for: "dghs", a file, a folder or a Hub id.'
    )
    column: kinds.OptName = Field(None, description="Column of the corpus with the text; found by name if left out.")
    reference: Annotated[kinds.OptName, Source()] = Field(
        None, description="Texts that key terms are taken against, e.g. plain samples of the base model."
    )
    tokenizer: Annotated[kinds.OptName, Source()] = Field(
        None, description="Model or tokenizer whose tokens lengths are counted in, too."
    )
    scorer: Annotated[kinds.OptName, Source(kinds=True)] = Field(
        None, description="Sequence classifier, or words:FILE, that scores toxicity; without it, none is scored."
    )
    scorer_label: kinds.Name = Field("toxic", description="Label of the scorer that is the toxicity.")
    classifiers: Annotated[kinds.OptNames, Source(kinds=True)] = Field(
        (), description="Further classifiers, of which the share of each label is reported."
    )
    seed: kinds.Seed = Field(42, description="Seed of the bootstrap.")
    dtype: kinds.DType = Field("float32", description="Dtype of the classifiers.")


class Recipe(Section):
    """Everything that a run does; equal recipes give equal results."""

    HEADINGS: ClassVar[Headings] = {_COMPUTING: ("seed", "device", "dtype", "trust_remote_code")}

    name: kinds.Name = Field("run", description="Name of the run.")
    seed: kinds.Seed = Field(42, description="Root of all randomness; an evaluation has seeds of its own.")
    device: kinds.Device = Field("auto", description="Where to compute.")
    dtype: kinds.DType = Field("auto", description="Dtype of the models; auto takes bfloat16 where it is fast.")
    trust_remote_code: kinds.Flag = Field(False, description="Run code that a model's repository brings along.")
    base: Base = Field(description="The model that the texts are distilled from.")
    toxic: Toxic = Field(default_factory=Toxic, description="The toxic copy of the base model.")
    texts: Texts = Field(default_factory=Texts, description="The detoxifying texts.")
    detoxify: Detoxify = Field(description="Fine-tuning of the target models.")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="The measurements.")
    method: dict[kinds.MethodKey, SerializeAsAny[MethodOptions]] = Field(
        default_factory=dict, description="Options of methods, by key: [method.dexperts]."
    )
    costs: kinds.Flag = Field(False, description="Time how much slower than its base each model writes.")

    def digest(self) -> str:
        """Return a hash of all settings; equal for equal recipes, wherever the sandbox is installed."""
        return map_sources(self, sandbox_name).section_hash()
