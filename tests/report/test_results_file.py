"""Results of an earlier version are read as this one's, and those of a later one are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unidetox import api
from unidetox.core.errors import MissingError, UsageError
from unidetox.report.main_table import ResultIndex, column_of
from unidetox.report.page import render_report
from unidetox.report.results_file import read_results, upgraded


def row(metric: str, value: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"target": "m", "method": "base", "metric": metric, "domain": "all", "group": None, "seed": None,
            "value": value, "ci_low": 0.4, "ci_high": 0.6, "n": 9, "n_dropped": 0, "higher_is_better": False,
            **more}  # fmt: skip


OLD = {
    "schema_version": 1,
    "rows": [
        row("tp"), row("tp@leetspeak", 0.3), row("emt:org-scorer", 0.2), row("tp_std", higher_is_better=None),
        row("tp@few_shot_std", 0.01, higher_is_better=None), row("agreement:my_std", 0.7, higher_is_better=None),
        row("tp:a_std", 0.1), row("survival@casing", 0.9, higher_is_better=True),
    ],
    "counts": {"m / base": {"prompts": 9, "prompts_cut@leetspeak": 2, "scorer_texts_cut:org-scorer": 3}},
    "models": {"m / base": "org/m", "m / unidetox (a / b)": "x"},
    "directories": {"m / base": "evaluation/m"},
    "settings": {"id_domains": ["gender"], "seeds": [1]},
}  # fmt: skip


def test_form_and_scorer_leave_the_metric():
    new = upgraded(OLD)
    assert new["schema_version"] == 2
    assert [(r["metric"], r["form"], r["scorer"]) for r in new["rows"]] == [
        ("tp", None, None),
        ("tp", "leetspeak", None),
        ("emt", None, "org-scorer"),
        ("tp_std", None, None),
        ("tp_std", "few_shot", None),
        ("agreement", None, "my_std"),
        ("tp", None, "a_std"),
        ("survival", "casing", None),
    ]
    for before, after in zip(OLD["rows"], new["rows"], strict=True):
        same = set(before) - {"metric"}
        assert {key: before[key] for key in same} == {key: after[key] for key in same}
        assert set(after) == {*before, "form", "scorer"}


def test_what_went_by_target_and_method_is_nested():
    new = upgraded(OLD)
    assert new["counts"] == {
        "m": {"base": {
            "prompts": 9, "forms": {"leetspeak": {"prompts_cut": 2}}, "scorers": {"org-scorer": {"scorer_texts_cut": 3}}
        }}
    }  # fmt: skip
    assert new["models"] == {"m": {"base": "org/m", "unidetox (a / b)": "x"}}
    assert new["directories"] == {"m": {"base": "evaluation/m"}}
    assert upgraded({"schema_version": 1, "rows": [], "counts": {"prompts": 3, "prompts_cut@x": 1}})["counts"] == {
        "prompts": 3, "forms": {"x": {"prompts_cut": 1}},
    }  # fmt: skip


def test_upgrading_twice_changes_nothing_and_the_old_is_left_as_it_was():
    before = json.dumps(OLD)
    new = upgraded(OLD)
    assert upgraded(new) == new
    assert json.dumps(OLD) == before


def test_numbers_of_either_version_are_found_alike():
    for results in (OLD, upgraded(OLD)):
        index = ResultIndex(results)
        assert index.number("m", "base", column_of("tp", "all")).value == 0.5
        assert index.number("m", "base", column_of("tp", "all", "leetspeak")).value == 0.3
        assert index.number("m", "base", column_of("emt", "all", scorer="org-scorer")).value == 0.2
        assert (index.forms("tp"), index.scorers()) == (["leetspeak"], ["org-scorer", "my_std", "a_std"])


def test_the_page_of_either_version_is_the_same(tmp_path: Path):
    pages = [render_report(results, [], tmp_path / str(i)) for i, results in enumerate((OLD, upgraded(OLD)))]
    assert pages[0].read_text("utf-8") == pages[1].read_text("utf-8")
    assert "2 prompts cut on the left to fit the model&#39;s context (leetspeak)" in pages[0].read_text("utf-8")


@pytest.mark.parametrize("version", [3, 0, "2", None])
def test_other_versions_are_refused(tmp_path: Path, version: object):
    (tmp_path / "results.json").write_text(json.dumps({**OLD, "schema_version": version}))
    with pytest.raises(UsageError, match=rf"results\.json has schema version {version}, and this version") as refused:
        api.report(tmp_path)
    assert refused.value.hint == "Install a newer unidetox"
    with pytest.raises(UsageError, match="has schema version"):
        api.compare([tmp_path], output=tmp_path / "out")


def test_no_results_are_an_error(tmp_path: Path):
    with pytest.raises(MissingError, match=r"holds no results\.json"):
        read_results(tmp_path)
