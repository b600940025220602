"""What a user can get wrong with `strata analyze` is told in a line, and nothing is written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.stores import write_store
from support import coded_run
from support.coded_run import SITE

TOPK = f"topk@{SITE}"


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert "Traceback" not in result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["topk", "matchs"], "WHAT: 'matchs' is no question; did you mean matches?"),
        (["topk", "matches"], "--other: matches needs one"),
        (["topk", "examples"], "--latent: examples needs one"),
        (["topk", "examples", "--latent", "48"], "latent 48: topk@blocks.1.hook_resid_post has latents 0 to 47"),
        (["topk", "matches", "--other", "wide", "--latent", "3"], "--latent: matches takes none"),
        (["topk", "labels", "--rows", "all"], "--rows: labels takes none"),
        (["topk", "pairs", "--rows", "some"], "--rows: 'some' is not known; allowed: as_trained, all_but_special, all"),
        (["topk", "pairs", "--least", "2"], "least cosine: 2.0, but a cosine lies between -1 and 1"),
        (["topk", "matches", "--other", "wild"], "--other: 'wild' is no SAE of"),
        (["", "pairs"], "pairs: is asked of one SAE; name it: strata analyze"),
        (["topkk", "pairs"], "RUN/VARIANT: 'topkk' is no SAE of"),
        (["", "search"], "--text: search needs one"),
        (["", "search", "--text", ""], "--text: is empty"),
        (
            ["topk", "ablate", "--text", "x"],
            "--text: ablate takes none; it takes --other, --latent, --rows, --least, --n",
        ),
        (["topk", "ablate_tuples"], "--other: ablate_tuples needs one"),
        (["topk", "ablate", "--latent", "48"], "latent 48: topk@blocks.1.hook_resid_post has latents 0 to 47"),
        (["topk", "ablate", "--other", "wide"], "the store's plan names no language model and no corpus"),
    ],
)
def test_one_line(asked_run: Path, arguments: list[str], said: str) -> None:
    before = sorted(asked_run.rglob("*"))
    assert said in refused(asked_run / arguments[0], *arguments[1:])
    assert sorted(asked_run.rglob("*")) == before


@pytest.mark.parametrize("option", ["--latent=-1", "--n=0", "--n=1000001", "--most=-1"])
def test_a_number_beyond_its_bounds(asked_run: Path, option: str) -> None:
    result = CliRunner().invoke(app, ["analyze", f"{asked_run}/topk", "pairs", option])
    assert result.exit_code == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in result.output


def test_no_run(tmp_path: Path) -> None:
    assert "is no run and no SAE of one" in refused(tmp_path / "nothing", "pairs")


def test_an_sae_without_codes(asked_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/run"
    shutil.copytree(asked_run, run)
    shutil.rmtree(run / "variants" / TOPK / "codes")
    assert f"{TOPK} has no codes yet; make them with: strata codes {run}" in refused(run / "topk", "pairs")
    shutil.rmtree(run / "variants" / f"wide@{SITE}" / "codes")
    assert "no SAE has codes yet; make them with: strata codes" in refused(run / "topk", "pairs")


def test_the_other_sae_of_another_store(asked_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded_run, "rows", lambda real=coded_run.rows: 2 * real())
    other = coded_run.make(tmp_path)
    line = refused(asked_run / "topk", "matches", "--other", other / "wide")
    assert "store" in line


def test_nothing_is_written_into_a_store(asked_run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", {"site": np.zeros((8, 2), np.float32)})
    assert "--out" in refused(asked_run / "topk", "pairs", "--out", store.path / "in")
    assert not (store.path / "in").exists()
