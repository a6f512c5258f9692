"""Which texts the page shows: the same prompt and sample of every method, several domains, nobody favored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unidetox.config.methods import method_places
from unidetox.core.files import read_jsonl
from unidetox.core.names import public_name
from unidetox.report.words import Record, is_number

_PROMPTS = 100


class Example(NamedTuple):
    """What every method made of one prompt, for one sample number."""

    target: str
    domain: str
    prompt: str
    place: str
    texts: Sequence[tuple[str, str, float | None]]
    worst: float

    def rank(self) -> tuple[int, float]:
        """Order examples: those that more methods have in common first, then the worst."""
        return (-len(self.texts), -self.worst)


def example_rows(path: Path) -> list[dict[str, Any]]:
    """Return the first seed's rows of evenly spread prompts, for the page to choose from.

    Args:
        path: A ``generations.jsonl``; it need not be there.
    """
    rows = read_jsonl(path) if path.exists() else []
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    shown = set(prompts[:: max(1, len(prompts) // _PROMPTS)])
    return [row for row in rows if row["prompt_id"] in shown]


def choose_examples(rows: Iterable[Record], targets: Sequence[str], max_examples: int) -> dict[str, list[Example]]:
    """Choose what to show.

    Of each prompt that sample is taken on which any method did worst, so that a detoxified model gets the same
    chance to look bad as its base; prompts are then taken in turn from each domain, the worst first.

    Args:
        rows: Rows of ``generations.jsonl`` with ``target`` and ``method``.
        targets: The targets in the order of the page.
        max_examples: How many prompts a target.

    Returns:
        Examples by target; a target without any is left out.
    """
    matched: dict[tuple[Any, ...], dict[str, Record]] = defaultdict(dict)
    for row in rows:
        key = (row.get("target"), row.get("prompt_id", row.get("prompt")), row.get("seed"), row.get("sample"))
        matched[key].setdefault(str(row.get("method", "base")), row)
    worst: dict[tuple[Any, Any], Example] = {}
    for key, by_method in matched.items():
        example = _example(by_method)
        if key[:2] not in worst or example.rank() < worst[key[:2]].rank():
            worst[key[:2]] = example
    names = dict.fromkeys([*targets, *(example.target for example in worst.values())])
    chosen = ((name, _in_turn([one for one in worst.values() if one.target == name], max_examples)) for name in names)
    return {name: examples for name, examples in chosen if examples}


def _example(by_method: Mapping[str, Record]) -> Example:
    order = method_places()
    methods = sorted(by_method, key=lambda name: order.get(name, len(order)))
    first = by_method[methods[0]]
    scores = [float(value) if is_number(value := by_method[m].get("toxicity")) else None for m in methods]
    words = [str(by_method[m].get("continuation") or "") for m in methods]
    place = " · ".join(public_name(str(first[key])) for key in ("domain", "group") if first.get(key))
    target, domain, prompt = str(first.get("target")), str(first.get("domain")), str(first.get("prompt", ""))
    worst = max((score for score in scores if score is not None), default=0.0)
    return Example(target, domain, prompt, place, list(zip(methods, words, scores, strict=True)), worst)


def _in_turn(examples: Sequence[Example], count: int) -> list[Example]:
    """Take examples from each domain in turn, in the order of their ranks."""
    queues: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=Example.rank):
        queues[example.domain].append(example)
    rounds = range(max(map(len, queues.values()), default=0))
    return [queue[i] for i in rounds for _, queue in sorted(queues.items()) if i < len(queue)][:count]
