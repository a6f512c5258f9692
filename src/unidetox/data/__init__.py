"""Data: what users bring or the Hub holds -> typed rows, with an account of everything that was left out."""

from unidetox.data.corpora import DGHS_ID, DGHS_TARGETS, load_non_toxic_texts, load_toxic_corpus
from unidetox.data.prompts import DOMAINS, TOXIGEN_ID, Prompt, PromptSet, domain_of, load_prompts
from unidetox.data.questions import MMLU_ID, Question, QuestionSet, load_questions
from unidetox.data.texts import Text, TextSet, read_texts, texts_of_rows

__all__ = [
    "DGHS_ID", "DGHS_TARGETS", "DOMAINS", "MMLU_ID", "TOXIGEN_ID",
    "Prompt", "PromptSet", "Question", "QuestionSet", "Text", "TextSet",
    "domain_of", "load_non_toxic_texts", "load_prompts", "load_questions", "load_toxic_corpus", "read_texts",
    "texts_of_rows",
]  # fmt: skip
