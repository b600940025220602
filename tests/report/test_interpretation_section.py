"""The section about explanations: every number of the records, honest notes, hostile words inert, nothing unmatched."""

import csv
import io
import shutil
from pathlib import Path
from statistics import median

import pytest

from strata_sae.pipeline.report.comparison import read_comparison, unequal_definitions
from strata_sae.pipeline.report.comparison_page import write_comparison
from strata_sae.pipeline.report.interpretation_section import SHOWN_LATENTS, interpretation_section
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.results import result_tables, results_csv
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.sections import Section
from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.interpretation_records import ExplainedLatent
from support import made_up_run
from support.made_up_run import HOSTILE, SITES, write_run
from support.made_up_words import EXPLAINER, SCORER, SCORES, latents, metrics, write_published, write_words
from support.page_parser import Page
from support.sealing import edit

SITE, OTHER_SITE = SITES
TOPK, BATCH = f"topk@{SITE}", f"batch-topk@{SITE}"
NUMBERS = list(range(3, 4000, 100))
TEXTS = ["names of methods", "the end of a sentence", "=1+1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up_run, "VARIANTS", {name: made_up_run.VARIANTS[name] for name in ("topk", "batch-topk")})
        return write_run(tmp_path_factory.mktemp("made") / "demo")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "demo")
    return tmp_path / "demo"


def explain(run: Path, name: str = TOPK, **changed: object) -> list[ExplainedLatent]:
    explained = latents(NUMBERS, TEXTS, seed=len(name))
    write_words(run / "variants" / name, explained, **changed)
    return explained


def section_of(run: Path) -> Section:
    section = interpretation_section(read_run(run))
    assert section is not None
    return section


def shape(path: Path) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attrs)) for tag, attrs in Page(path).elements]


def test_a_run_without_words_has_no_section_and_no_columns(run: Path) -> None:
    found = read_run(run)
    assert interpretation_section(found) is None
    assert "detection" not in results_csv(found)
    assert "words, lift" not in [column.label for column in result_tables(found)[SITE].columns]
    assert not [line for line in found.missing if "interpretation" in line or "published" in line]


def test_every_score_has_a_row_of_the_records_numbers(run: Path) -> None:
    of = {"topk": explain(run), "batch-topk": explain(run, BATCH)}
    section = section_of(run)
    table = section.tables[0]
    assert [(row[0], row[1], row[2]) for row in table.rows] == [(v, SITE, s) for v in of for s in sorted(SCORES)]
    for row in table.rows:
        scored = [one.scores[str(row[2])] for one in of[str(row[0])] if one.scores]
        known = metrics(of[str(row[0])])
        accuracy, lift = (known[f"{row[2]}_{name}"].value for name in ("balanced_accuracy", "lift"))
        assert row[3:5] == [len(NUMBERS) - 1, median(one.balanced_accuracy or 0 for one in scored)]
        assert row[4] == accuracy
        assert row[8] == pytest.approx(lift)
        ends = [f"{row[2]}_{name}_{end}" for name in ("balanced_accuracy", "lift") for end in ("low", "high")]
        assert [*row[5:7], *row[9:11]] == [known[name].value for name in ends]
        assert row[7] == 0.6
        assert row[12] == median(one.population_precision or 0 for one in scored)
        assert row[14] is None, "no correlation was measured"
        n_failed = sum(one.n_failed for one in scored)
        assert 0 < n_failed < len(scored)
        assert row[15:] == [n_failed, 100 * len(scored) + n_failed]
    assert all(len(row) == len(one.heads) for one in section.tables for row in one.rows)


def test_who_was_asked_and_what_failed(run: Path) -> None:
    explained = explain(run)
    (row,) = section_of(run).tables[1].rows
    ratings = [one.rating for one in explained if one.rating]
    n = len(NUMBERS)
    high = sum(rating >= 4 for rating in ratings) / len(ratings)
    assert row == ["topk", SITE, n, n - 1, n - 1, median(ratings), high, 1, EXPLAINER, SCORER]
    assert any("without an explanation: unreadable (1)" in note for note in section_of(run).notes)


def test_latents_are_the_first_by_number(run: Path) -> None:
    explained = explain(run)
    write_words(run / "variants" / BATCH, latents([5, 9, 2, 1], TEXTS))
    table = next(table for table in section_of(run).tables if table.name == "interpretation_latents_1")
    assert [row[1] for row in table.rows] == [*NUMBERS[:SHOWN_LATENTS], 1, 2, 5, 9]
    for row, one in zip(table.rows, explained[:SHOWN_LATENTS], strict=False):
        detection = one.scores["detection"]
        assert detection.interval is not None
        assert row[2:4] == [one.explanation, detection.balanced_accuracy]
        assert row[4:] == [
            *(detection.interval.low, detection.interval.high),
            *(detection.lift, one.rating, one.n_active_rows),
        ]
    assert table.rows[SHOWN_LATENTS][2] == "(failed: unreadable)"


def test_a_point_for_each_latent_with_a_lift(run: Path) -> None:
    explained = explain(run)
    (figure,) = section_of(run).figures
    points, diagonal = figure.traces
    wanted = [one.scores["detection"] for one in explained if one.scores]
    assert points["x"] == [one.token_label for one in wanted]
    assert points["y"] == pytest.approx([one.balanced_accuracy for one in wanted])
    assert diagonal["x"] == diagonal["y"]
    edit(run / "variants" / TOPK / "interpretation.json", without_labels)
    assert section_of(run).figures == []


def without_labels(data: dict) -> None:  # type: ignore[type-arg]
    for latent in data["latents"]:
        for scored in latent["scores"].values():
            scored.update(token_label=None, lift=None)


def test_chance_is_called_chance(run: Path) -> None:
    explained = explain(run)
    assert not [note for note in section_of(run).notes if "chance" in note or "better" in note]
    at_chance = {"low": 0.49, "high": 0.53}
    known = metrics(explained) | {
        f"detection_balanced_accuracy_{end}": Measured(value=value, unit="", definition="")
        for end, value in at_chance.items()
    }
    known["fuzzing_lift_low"] = Measured(value=-0.01, unit="", definition="")
    explain(run, metrics=known, scorer=EXPLAINER)
    notes = section_of(run).notes
    name = f"topk at {SITE}"
    assert f"{name}: detection is at chance: the interval of its balanced accuracy holds 0.5." in notes
    assert f"{name}: by fuzzing the explanations are not shown to be better than the token labels." in notes
    assert f"{name}: one model explained and scored, so the scores say how far it agrees with itself." in notes
    assert len([note for note in notes if "chance" in note]) == 1


def test_the_columns_of_results(run: Path) -> None:
    explained = explain(run)
    known = metrics(explained)
    rows = {f"{row['variant']}@{row['site']}": row for row in csv.DictReader(io.StringIO(results_csv(read_run(run))))}
    for name, measured in known.items():
        column = f"{name} [{measured.unit}]"
        assert float(rows[TOPK][column]) == measured.value
        assert rows[BATCH][column] == rows[f"topk@{OTHER_SITE}"][column] == ""
    table = result_tables(read_run(run))[SITE]
    place = [column.label for column in table.columns].index("words, bal. acc.")
    cells = {row.key: row.cells[place].key for row in table.rows}
    assert cells["topk"] == known["detection_balanced_accuracy"].value
    (other_way,) = [key for key in cells if key.startswith("topk/")]
    assert [cells[key] for key in (other_way, "batch-topk")] == [None, None], "of its own codes alone"


@pytest.mark.parametrize("key", ["sae", "weights_sha256", "store_id"])
def test_words_of_another_sae_are_told_and_not_shown(run: Path, key: str) -> None:
    explain(run)
    explain(run, BATCH)
    edit(run / "variants" / TOPK / "interpretation.json", {key: "0" * 64})
    assert {row[0] for row in section_of(run).tables[0].rows} == {"batch-topk"}
    found = read_run(run)
    assert any(f"{TOPK}/interpretation.json: {key}" in line for line in found.missing)
    (row,) = [r for r in csv.DictReader(io.StringIO(results_csv(found))) if (r["variant"], r["site"]) == ("topk", SITE)]
    assert row["detection_lift [balanced accuracy]"] == ""


def test_published_words_are_counted_and_their_makers_named(run: Path) -> None:
    write_published(run / "variants" / TOPK, {1: "a", 5: "b"}, by="gpt-4o-mini")
    section = section_of(run)
    assert (section.tables, section.figures) == ([], [])
    assert section.notes == [
        f"topk at {SITE}: others published explanations of 2 of 4,096 latents, by gpt-4o-mini; nothing here has scored "
        "them."
    ]
    edit(run / "variants" / TOPK / "published.json", {"sae": "0" * 64})
    assert interpretation_section(read_run(run)) is None
    assert any("published.json: sae" in line for line in read_run(run).missing)


def test_hostile_words_leave_the_page_as_it_is(run: Path) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE if text.strip()]
    plain = latents(list(range(len(texts))), TEXTS)
    folder = run / "variants" / TOPK
    write_words(folder, plain)
    write_published(folder, dict.fromkeys(range(4), "plain"))
    before = shape(write_report(run))
    hostile = [one.model_copy(update={"explanation": text}) for one, text in zip(plain, texts, strict=True)]
    hostile[-1] = hostile[-1].model_copy(update={"explanation": None, "failure": texts[0]})
    write_words(folder, hostile, explainer=texts[3], scorer=texts[0])
    write_published(folder, dict.fromkeys(range(4), "plain"), by=texts[0])
    page = write_report(run)
    assert shape(page) == before
    assert "<script>alert(1)</script>" in Page(page).text
    tables = (run / "tables" / "interpretation_latents_1.csv").read_text(encoding="utf-8")
    assert not {"\x00", "\x1b", "\u202e"} & {*tables}
    write_words(folder, [plain[0].model_copy(update={"explanation": "=HYPERLINK(1)"})])
    write_report(run)
    (row,) = csv.reader((run / "tables" / "interpretation_latents_1.csv").read_text().splitlines()[1:])
    assert row[2] == "'=HYPERLINK(1)"


def test_a_model_that_is_a_path_is_masked_and_words_that_look_like_one_are_not(run: Path) -> None:
    path = "/home/zaphod/models/heart.gguf"
    (one,) = latents([1], ["/etc/passwd and other paths"])
    write_words(run / "variants" / TOPK, [one], explainer=path, settings={"explainer": path})
    page = write_report(run)
    source = page.read_text(encoding="utf-8")
    assert "zaphod" not in source
    assert "heart.gguf#" in source
    assert not [path for path in (run / "tables").iterdir() if "zaphod" in path.read_text(encoding="utf-8")]
    assert "/etc/passwd and other paths" in Page(page).text
    assert "interpretation.metrics.detection_lift</th>" in source
    assert "interpretation.codes_id</th>" in source
    assert "interpretation.latents" not in source, "they stand in the section"


def test_runs_side_by_side_have_the_columns_and_say_where_models_differ(run: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(run, second)
    known = {folder: metrics(explain(folder)) for folder in (run, second)}
    assert unequal_definitions(read_comparison([run, second]).runs) == []
    page = write_comparison([run, second])
    assert "words, bal. acc." in Page(page).text
    lines = csv.DictReader(io.StringIO(page.with_suffix(".csv").read_text(encoding="utf-8")))
    values = [row["detection_lift [balanced accuracy]"] for row in lines if row["variant"] == "topk"]
    assert [float(value) for value in values if value] == [known[run]["detection_lift"].value] * 2
    other = {name: one.model_copy(update={"definition": "by another model"}) for name, one in known[run].items()}
    explain(second, metrics=other)
    assert "detection_lift" in unequal_definitions(read_comparison([run, second]).runs)
