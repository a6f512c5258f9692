"""Best, second best, the frontier, and costs: by hand on made-up results."""

from __future__ import annotations

from typing import Any

from unidetox.report.main_table import ResultIndex
from unidetox.report.ranking import cost_table, frontier, ranking, terminal_rankings

METHODS = ("base", "unidetox", "dexperts", "safety_prompt")


def row(method: str, metric: str, domain: str, value: float, higher: bool) -> dict[str, Any]:
    return {
        "target": "m", "method": method, "metric": metric, "domain": domain, "group": None, "seed": None,
        "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 9, "n_dropped": 0,
        "higher_is_better": higher,
    }  # fmt: skip


def results(**numbers: tuple[float, float, float, float]) -> dict[str, Any]:
    """Results of four methods: TP (all and ID), perplexity, Dist-2, accuracy."""
    rows = []
    for method, (tp, ppl, dist, accuracy) in numbers.items():
        rows += [row(method, "tp", domain, tp, False) for domain in ("id", "all")]
        rows += [row(method, "ppl_token", "all", ppl, False), row(method, "dist_2", "all", dist, True)]
        rows += [row(method, "accuracy", "all", accuracy, True)]
    return {"schema_version": 2, "rows": rows}


FOUR = results(
    base=(0.6, 10.0, 0.8, 0.5), unidetox=(0.2, 11.0, 0.7, 0.5), dexperts=(0.2, 14.0, 0.9, 0.5),
    safety_prompt=(0.5, 12.0, 0.6, 0.5),
)  # fmt: skip


def test_the_best_and_second_best_are_marked_and_equals_share_a_mark():
    ((title, columns, rows),) = terminal_rankings(FOUR)
    assert (title, columns) == ("m", ["method", "TP ID", "PPL", "Dist-2", "Acc"])
    assert rows == [
        ["base", "0.60", "10.00*", "0.80+", "0.50"],
        ["UniDetox", "0.20*", "11.00+", "0.70", "0.50"],
        ["DExperts", "0.20*", "14.00", "0.90*", "0.50"],
        ["safety prompt", "0.50+", "12.00", "0.60", "0.50"],
    ]


def test_the_page_has_intervals_and_says_who_is_on_the_frontier():
    table = ranking(ResultIndex(FOUR))
    assert table is not None
    assert table.columns[-1] == "Frontier"
    found = {line[1].text: (line[2].interval, line[-1].text) for line in table.rows}
    assert found["base"] == (("0.500", "0.700"), "yes")
    assert {name: on for name, (_, on) in found.items()} == {
        "base": "yes", "UniDetox": "yes", "DExperts": "", "safety prompt": "",
    }  # fmt: skip


def test_a_few_methods_need_no_table_of_their_own():
    few = results(base=(0.6, 10.0, 0.8, 0.5), unidetox=(0.2, 11.0, 0.7, 0.5), samples=(0.6, 9.0, 0.8, 0.5))
    assert ranking(ResultIndex(few)) is None


def test_the_frontier_by_hand():
    assert frontier({"a": (1, 5), "b": (2, 4), "c": (2, 5), "d": (0, 9), "e": None}) == {"a", "b", "d"}
    assert frontier({"a": (1, 1), "b": (1, 1)}) == {"a", "b"}


def test_costs_that_are_not_known_are_dashes():
    records = [
        {"target": "m", "method": "unidetox", "seconds": 12.34, "seconds_own": 2.0, "peak_bytes": 3 * 2**30,
         "sessions": 2, "slow_down": 1.04},
        {"target": "m", "method": "dexperts (4)", "seconds": 0.0, "seconds_own": None, "peak_bytes": None},
    ]  # fmt: skip
    _, rows = cost_table(FOUR | {"costs": records})
    assert rows == [
        ["m", "UniDetox", "12.3 (interrupted)", "2.0", "3.00 GiB", "1.04 x"],
        ["m", "DExperts (4)", "0.0", "–", "–", "–"],
    ]
    assert cost_table(FOUR)[1] == []


def test_the_peak_of_memory_is_that_since_it_was_forgotten():
    import numpy as np

    from unidetox.core.peak_memory import forget_peak, peak_bytes

    forget_peak()
    before = peak_bytes()
    if before is None:  # a system that does not tell
        return
    block = np.ones(1 << 24)  # 128 MiB
    high = peak_bytes()
    assert high is not None
    assert high >= before + 0.9 * block.nbytes
    del block
    forget_peak()
    after = peak_bytes()
    assert after is not None
    assert after < high - 2**26 or after == high  # some systems refuse to forget
