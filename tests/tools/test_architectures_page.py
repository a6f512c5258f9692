"""The page of architectures says what a trial says."""

import random

import pytest
from tools.architectures import NAMES, PAGE, Family, family

CELLS = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
ROWS = {row.name: row for row in (Family(*map(str.strip, cells)) for cells in CELLS)}
SAMPLE = sorted(random.Random(25).sample(sorted(NAMES), 25))


def test_every_family_is_on_it() -> None:
    assert {*NAMES} == {*ROWS} - {"Family"}


def test_most_take_the_fast_ways() -> None:
    assert sum(row.decoding == "right" for row in ROWS.values()) >= 115
    assert sum(row.packed == "right" for row in ROWS.values()) >= 104


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_it_is_what_a_trial_says(name: str) -> None:
    assert family(name)[:-1] == ROWS[name][:-1]
