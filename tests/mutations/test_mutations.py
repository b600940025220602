"""Thousands of damaged inputs: each is refused in a few words, or changes nothing, or is recorded as what it is."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from mutation_families import FAMILIES, SHARES, Verdict
from mutation_world import World, make_world

CASES = int(os.environ.get("STRATA_MUTATIONS", "2000"))
LOTS = 4
"""Parts of a family that processes can share."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One for each process: cases damage it and bring it back."""
    before = Path.cwd()
    try:
        yield make_world(tmp_path_factory.mktemp("world"))
    finally:
        os.chdir(before)


@pytest.mark.parametrize("lot", range(LOTS))
@pytest.mark.parametrize("family", FAMILIES)
def test_damage_is_refused_or_recorded_or_changes_nothing(world: World, family: str, lot: int) -> None:
    n_cases = max(1, CASES * SHARES[family] // 100 // LOTS)
    verdicts: list[Verdict] = []
    for number in range(n_cases):
        verdict = FAMILIES[family](world, random.Random(f"{family} {lot} {number}"))
        verdicts.append(verdict._replace(case=f"[{family} {lot} {number}] {verdict.case}"))
    wrong = [verdict.case for verdict in verdicts if verdict.kind == "wrong"]
    assert not wrong, f"{len(wrong)} of {n_cases}:\n" + "\n".join(wrong[:20])
    kinds = Counter(verdict.kind for verdict in verdicts)
    assert n_cases < 40 or kinds["refused"] > 0, f"nothing is refused: {kinds}"


def test_every_family_has_its_share() -> None:
    assert set(SHARES) == set(FAMILIES)
    assert sum(SHARES.values()) == 100
