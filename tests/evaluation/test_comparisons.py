"""comparisons.json: who is ranked, who is not, and why; what is refused; that it is a function of files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.evaluation.comparing.comparisons import compare_saes
from strata_sae.pipeline.evaluation.comparing.scored import recipe_of
from strata_sae.pipeline.runs.comparison_records import Comparisons, ComparisonTable, PairedDifference
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record
from support.compared_run import D_MODEL, SITE, Documents, compared_config, write_scored
from support.made_up_records import RECONSTRUCTION, sae_record

RUN = Path("runs/run")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def compared(**evaluation: float) -> Comparisons:
    compare_saes(compared_config(**evaluation))
    return read_record(RunFolder(RUN).comparisons, Comparisons).record


def table(found: Comparisons, metric: str = "r2_pooled", population: str = "as_trained") -> ComparisonTable:
    (one,) = [t for t in found.tables if (t.metric, t.population) == (metric, population)]
    return one


def pair(found: Comparisons, first: str, second: str) -> PairedDifference:
    (one,) = [p for p in table(found).pairs if (p.first, p.second) == (first, second)]
    return one


def test_a_difference_that_every_document_shows_is_ranked_and_one_within_noise_is_not() -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.20, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.21, 32.0, own=0.03, seed=1), k=2)
    write_scored(RUN, "c", documents.sums(0.2101, 32.0, own=0.03, seed=2), k=3)
    found = compared()
    better, within = pair(found, "a", "b"), pair(found, "b", "c")
    assert better.verdict == "first"
    assert better.difference.interval is not None
    assert better.difference.interval.low > 0
    assert better.p_holm is not None
    assert better.p_documents is not None
    assert better.p_documents <= better.p_holm < 0.05
    assert better.n_seeds == 1  # the mark of one seed
    assert within.verdict == "not_shown"
    # Unpaired, no two of them differ: documents are far more unlike than SAEs are.
    one, other = (sae.value.interval for sae in table(found).saes[:2])
    assert one is not None
    assert other is not None
    assert one.low < other.high


def test_the_adjustment_is_over_all_ranked_comparisons_of_the_table() -> None:
    documents = Documents(13)
    for number in range(6):
        write_scored(RUN, f"v{number}", documents.sums(0.20, 32.0, own=0.03, seed=number), k=number + 1)
    write_scored(RUN, "w", documents.sums(0.10, 60.0), k=9)
    pairs = table(compared()).pairs
    ranked = [p for p in pairs if p.p_holm is not None]
    assert len(pairs) == 21
    assert len(ranked) == 15
    least = min(ranked, key=lambda p: p.p_documents or 0.0)
    assert least.p_documents is not None
    assert least.p_holm == pytest.approx(min(1.0, 15 * least.p_documents))


def test_two_equal_saes_are_never_ranked() -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.2, 32.0), k=2)
    write_scored(RUN, "c", documents.sums(0.2 * (1 + 1e-7), 32.0), k=3)  # as another order of sums may give
    found = compared()
    assert [p.verdict for p in table(found).pairs] == ["equal"] * 3
    assert [p.p_holm for p in table(found).pairs] == [None] * 3


def test_seeds_of_one_recipe_are_not_compared_with_each_other() -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.20, 32.0), seed=0)
    write_scored(RUN, "a-again", documents.sums(0.22, 32.0), seed=1)
    found = table(compared())
    assert found.pairs == []
    assert [(r.name, r.variants, r.seeds) for r in found.recipes] == [("a", ["a", "a-again"], [0, 1])]
    spread = found.recipes[0].value_over_seeds
    assert spread.n_seeds == 2
    assert spread.standard_deviation is not None
    assert spread.standard_deviation > 0.01


def test_what_seeds_differ_by_decides_too_where_there_are_three() -> None:
    documents = Documents(13)
    for seed, (one, other) in enumerate([(0.200, 0.203), (0.205, 0.202), (0.203, 0.204)]):
        write_scored(RUN, f"a{seed}", documents.sums(one, 32.0), k=1, seed=seed)
        write_scored(RUN, f"b{seed}", documents.sums(other, 32.0), k=2, seed=seed)
    noisy = pair(compared(), "a0", "b0")
    assert noisy.n_seeds == 3
    assert noisy.p_documents is not None
    assert noisy.p_documents < 0.05  # over documents alone it would be ranked
    assert noisy.p_seeds is not None
    assert noisy.p_seeds > 0.05
    assert noisy.verdict == "not_shown"
    for seed in range(3):
        write_scored(RUN, f"b{seed}", documents.sums(0.23 + 0.001 * seed, 32.0), k=2, seed=seed)
    assert pair(compared(), "a0", "b0").verdict == "first"


@pytest.mark.parametrize(
    ("first", "second", "target", "ranked"),
    [
        (32.0, 32.5, None, True),
        (32.0, 33.0, None, False),
        (31.5, 32.6, 32.0, True),
        (31.5, 32.6, None, False),
        (31.5, 33.0, 32.0, False),
        (45.0, 45.1, 32.0, True),
    ],
)
def test_only_matched_l0_is_ranked(first: float, second: float, target: float | None, ranked: bool) -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.20, first), k=1)
    write_scored(RUN, "b", documents.sums(0.30, second), k=2)
    found = compared() if target is None else compared(target_l0=target)
    assert pair(found, "a", "b").verdict == ("first" if ranked else "not_matched")
    assert pair(found, "a", "b").difference.interval is not None


def test_the_knob_that_match_found_is_no_part_of_a_recipe_but_its_target_is() -> None:
    relu = {"architecture": "relu", "d_sae": 8}
    settings = {"sae": relu, "objective": {"reconstruction": {}, "l1": {"weight": 0.1}}}
    found = {seed: {**RECONSTRUCTION, "l1": {"term": "l1", "weight": 0.1 + 0.01 * seed}} for seed in (0, 1)}
    records = [sae_record(f"v{seed}", SITE, relu, d_out=D_MODEL, objective=terms) for seed, terms in found.items()]

    def recipes(*targets: float | None) -> list[str]:
        wanted = [settings | ({} if l0 is None else {"match": {"l0": l0}}) for l0 in targets]
        config = compared_config().model_copy(
            update={"variants": {f"v{n}": Variant.model_validate(said) for n, said in enumerate(wanted)}}
        )
        return [recipe_of(config, record) for record in records]

    assert len(set(recipes(4.0, 4.0))) == 1
    assert len(set(recipes(4.0, 3.0))) == 2
    assert len(set(recipes(None, None))) == 2  # another weight is another recipe where nothing was searched
    assert len(set(recipes(4.0, None))) == 2


def test_l0_itself_differs_but_is_never_better() -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.2, 40.0), k=2)
    assert table(compared(), "l0").pairs[0].verdict == "differ"


@pytest.mark.parametrize(("n_documents", "says"), [(1, "1 held-out document:"), (7, "7 held-out documents:")])
def test_few_documents_have_no_interval_and_one_line_says_so(n_documents: int, says: str) -> None:
    documents = Documents(n_documents)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    found = table(compared())
    assert found.saes[0].value.value is not None
    assert found.saes[0].value.interval is None
    assert found.pairs[0].verdict == "no_interval"
    assert len(found.notes) == 1
    assert found.notes[0].startswith(says)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-20]) and None,
    "edited": lambda path: path.write_text(path.read_text(encoding="utf-8").replace("0,", "1,", 1)) and None,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_leaves_one_sae_out_and_the_others_compared(
    damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    damaged = write_scored(RUN, "c", documents.sums(0.4, 32.0), k=3)
    damage(damaged.per_document)
    found = compared()
    assert [sae.name for sae in table(found).saes] == [f"a@{SITE}", f"b@{SITE}"]
    assert len(found.refused) == 1
    assert found.refused[0].startswith(f"c@{SITE}: ")
    assert "run evaluate" in found.refused[0]
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_sums_of_other_scores_are_refused() -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    other = write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2).per_document.read_bytes()
    mixed = write_scored(RUN, "c", documents.sums(0.4, 32.0), k=3)
    mixed.per_document.write_bytes(other)
    found = compared()
    assert "fingerprint: is not that of the scores" in found.refused[0]
    assert len(table(found).saes) == 2


@pytest.mark.parametrize("differ_in", ["documents", "contents"])
def test_saes_scored_on_other_rows_are_refused(differ_in: str) -> None:
    documents = Documents(13)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    other = Documents(12).sums(0.2, 32.0) if differ_in == "documents" else documents.sums(0.2, 32.0)
    if differ_in == "contents":
        other = other.model_copy(update={"centred_square": [1.001 * value for value in other.centred_square]})
    write_scored(RUN, "c", other, k=3)
    found = compared()
    assert [sae.name for sae in table(found).saes] == [f"a@{SITE}", f"b@{SITE}"]
    assert len(found.refused) == 2  # one for each population
    assert all("scored on other rows than a@" in line for line in found.refused)


def test_nothing_scored_writes_nothing() -> None:
    compare_saes(compared_config())
    assert not RunFolder(RUN).comparisons.exists()


def test_it_is_a_function_of_files_and_written_anew_only_when_they_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    documents, path = Documents(13), RunFolder(RUN).comparisons
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    compared()
    before = path.read_bytes()
    compared()
    assert "compared already" in caplog.text
    path.write_bytes(before[:100])  # damaged: written anew
    compared()
    assert path.read_bytes() == before
    write_scored(RUN, "b", documents.sums(0.31, 32.0), k=2)
    compared()
    assert path.read_bytes() != before
    path.unlink()
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    compared()
    assert path.read_bytes() == before
