"""Load and save language models, tokenizers, adapters and classifiers; pick a device and a number type."""

from unidetox.models.checking import Known, check_classifier, check_lm
from unidetox.models.devices import choose_device, choose_dtype, choose_training_dtype
from unidetox.models.directories import RULE_FILE, Rule, read_rule
from unidetox.models.loading import (
    LM,
    Classifier,
    load_classifier,
    load_lm,
    load_tokenizer,
    saved_dtype,
)
from unidetox.models.names import fingerprint
from unidetox.models.options import LoadOptions
from unidetox.models.saving import save_lm
from unidetox.models.tokens import (
    bos_id,
    check_same_tokens,
    check_same_vocabulary,
    eos_ids,
    pad_id,
    start_id,
    unreachable_ids,
)  # fmt: skip

__all__ = [
    "LM", "RULE_FILE", "Classifier", "Known", "LoadOptions", "Rule",
    "bos_id", "check_classifier", "check_lm", "check_same_tokens", "check_same_vocabulary", "choose_device",
    "choose_dtype", "choose_training_dtype", "eos_ids", "fingerprint", "load_classifier", "load_lm",
    "load_tokenizer", "pad_id", "read_rule", "save_lm", "saved_dtype", "start_id",
    "unreachable_ids",
]  # fmt: skip
