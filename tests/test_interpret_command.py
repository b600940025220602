"""`strata interpret` as people and clusters run it: without an endpoint, dry, to the end, killed and run again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.commands.asking import would_ask
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.runs.claims import claim_in, interpretation_of
from strata_sae.pipeline.runs.folders import RunFolder
from support import coded_run, interpreting
from support.asking import requests, verdicts
from support.fake_endpoint import SECRET, Chat, FakeEndpoint, Table, always, serving
from support.waiting import wait_until

ROOT = Path(__file__).parents[1]
RUN = "runs/run"
SAE = f"{RUN}/topk"
KEY = "A_KEY_FOR_TESTS"
ASKED = interpreting.settings()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    """A run with codes and labels, and the truth about whatever is asked of its first SAE."""
    folder = tmp_path_factory.mktemp("made")
    with contextlib.chdir(folder):
        run = interpreting.make(folder)
        return folder, interpreting.truth_about(run, run.saes[f"topk@{coded_run.SITE}"], ASKED)


@pytest.fixture
def world(made: tuple[Path, Table], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    """The run is in the working folder, the server answers from the truth; what a test wrote is removed."""
    folder, table = made
    monkeypatch.chdir(folder)
    monkeypatch.setenv(KEY, SECRET)
    before = set(folder.rglob("*"))
    with serving(FakeEndpoint(table)) as fake:
        yield fake
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def arguments(fake: FakeEndpoint, *more: str) -> list[str]:
    of_the_run = {"explainer": interpreting.EXPLAINER, "scorer": interpreting.SCORER, "latents": ASKED.latents}
    settings = {"base_url": fake.url, "key_env": KEY, **of_the_run}
    return ["interpret", SAE, *more, *(f"--set=interpretation.{name}={value}" for name, value in settings.items())]


def strata(*given: str) -> Result:
    return CliRunner().invoke(app, list(given))


def files(at: Path = Path()) -> set[str]:
    return {str(path) for path in at.rglob("*") if path.is_file()}


def test_without_an_endpoint_it_is_one_line_and_no_failure(world: FakeEndpoint) -> None:
    before = files()
    result = strata("interpret", RUN)
    assert result.exit_code == 0
    assert result.output == (
        "interpretation: skipped, since no endpoint is named (interpretation.base_url); the token labels of strata "
        "codes need none\n"
    )
    assert files() == before


def test_a_dry_run_needs_no_server_sends_nothing_and_writes_nothing(world: FakeEndpoint) -> None:
    before = files()
    result = strata("interpret", SAE, "--dry-run", "--set=interpretation.latents=6")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    assert lines["explain"][1:4] == ["(explainer)", "6", "0"]
    assert lines["monosemanticity"][1:4] == ["(scorer)", "6", "0"]
    assert int(lines["all"][1].replace(",", "")) > 100
    assert world.chats == []
    assert files() == before


def test_who_scores_need_not_be_named_where_nothing_is_scored(world: FakeEndpoint) -> None:
    given = [word for word in arguments(world) if "scorer" not in word]
    refused = strata(*given)
    assert (refused.exit_code, refused.output.startswith("interpretation.scorer: missing")) == (2, True)
    result = strata(*given, "--set=interpretation.scores=[]")
    assert result.exit_code == 0, result.output
    record = json.loads(next(Path(RUN).glob("variants/topk@*/interpretation.json")).read_text())
    assert (record["scorer"], len(world.chats)) == ("", len(record["latents"]))
    assert record["population"] == "as_trained"
    assert record["filters"]["drop_bos"] is True


def test_it_explains_scores_and_keeps_what_was_answered(world: FakeEndpoint) -> None:
    before = files()
    result = strata(*arguments(world))
    assert result.exit_code == 0, result.output
    folder = next(Path(RUN).glob("variants/topk@*"))
    record = json.loads((folder / "interpretation.json").read_text())
    assert {latent["explanation"] for latent in record["latents"]} == {
        interpreting.words_of(latent["latent"]) for latent in record["latents"]
    }
    for name in ("detection", "fidelity"):
        assert {latent["scores"][name]["balanced_accuracy"] for latent in record["latents"]} == {1.0}
    new = files() - before
    (kept,) = (name for name in new if name.endswith(".jsonl"))
    assert new == {kept, str(folder / "interpretation.json"), str(folder / "interpretations.csv")}
    assert kept.startswith(f"{RUN}/answers/")
    assert len(Path(kept).read_text().splitlines()) == len(world.chats)
    # The key is in the header alone; what was sent, in none of the files: an answer is found by the hash of it.
    assert all(chat.headers["authorization"] == f"Bearer {SECRET}" for chat in world.chats)
    asked = [line for chat in world.chats for line in chat.text.splitlines() if len(line) > 40]
    texts = {name: Path(name).read_text(errors="replace") for name in files()}
    assert not any(SECRET in text for text in texts.values())
    assert not any(line in texts[kept] for line in asked)
    # By dry run, nothing is left to ask; run again, nothing is sent.
    n_chats = len(world.chats)
    dry = strata(*arguments(world, "--dry-run"))
    total = dry.output.splitlines()[-2].split()
    assert total == ["all", f"{n_chats:,}", f"{n_chats:,}", "0", "0"]
    first = {name: Path(name).read_bytes() for name in new}
    assert strata(*arguments(world)).exit_code == 0
    assert len(world.chats) == n_chats
    assert {name: Path(name).read_bytes() for name in new} == first


def test_killed_and_run_again_it_asks_nothing_twice(world: FakeEndpoint) -> None:
    """The server keeps the requests after the fortieth; the process is killed while it waits."""
    answered = 40
    world.holds = lambda chat: len(world.chats) > answered
    program = [sys.executable, str(ROOT / "run_pipeline.py"), *arguments(world)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL)
    # Eight are under way at once, so when eight are held all others are answered.
    wait_until(lambda: world.under_way == 8 and len(world.chats) > answered)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    n_killed = len(world.chats)
    assert not list(Path(RUN).glob("variants/*/interpretation.json"))
    n_kept = sum(len(path.read_bytes().splitlines()) for path in Path(RUN, "answers").iterdir())
    assert n_kept == n_killed - 8 == sum(world.answered.values())
    world.holds = lambda chat: False
    result = strata(*arguments(world))
    assert result.exit_code == 0, result.output
    assert world.repeated == 0
    assert f"{n_kept:,} answered from before" in result.output or n_kept > 0
    assert list(Path(RUN).glob("variants/*/interpretation.json"))


def test_control_without_kept_answers_all_is_asked_again(world: FakeEndpoint) -> None:
    for _ in range(2):
        assert (
            strata(*arguments(world, "--set=interpretation.latents=1", "--set=interpretation.scores=[]")).exit_code == 0
        )
        for path in Path(RUN, "answers").iterdir():
            path.unlink()
    assert world.repeated > 0


def test_a_wrong_key_is_one_line_and_one_request(world: FakeEndpoint) -> None:
    world.fault = always("401")
    result = strata("--quiet", *arguments(world))
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert (
        "HTTP 401: (its words hold a part of the key, and are left out); interpretation.key_env names" in result.output
    )
    assert SECRET not in result.output
    assert len(world.chats) == 1
    assert not Path(RUN, "claims").exists()


def test_models_must_be_named(world: FakeEndpoint) -> None:
    result = strata("interpret", SAE, f"--set=interpretation.base_url={world.url}")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.output.splitlines()] == [
        "interpretation.explainer",
        "interpretation.scorer",
    ]


def test_a_model_that_scores_its_own_words_is_told_of(world: FakeEndpoint) -> None:
    result = strata(
        *arguments(world), f"--set=interpretation.scorer={interpreting.EXPLAINER}", "--set=interpretation.scores=[]"
    )
    assert "agrees with itself" in result.output


def test_two_processes_do_not_pay_twice(world: FakeEndpoint) -> None:
    hold = claim_in(RunFolder(Path(RUN)), interpretation_of(f"topk@{coded_run.SITE}"))
    assert hold is not None
    with hold:
        result = strata(*arguments(world))
    assert result.exit_code == 1
    assert "another process is writing this run" in result.output
    assert world.chats == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--select=lasso"], "--select: says how hypotheses"),
        (["--targets=a.csv"], "--targets: says how hypotheses"),
        (["--n=3"], "--n: says how hypotheses"),
        (["--published=x", "--dry-run"], "--published: takes files"),
        (["--published=x", "--target=a"], "--published: takes files"),
    ],
)
def test_options_that_do_not_go_together_are_refused(world: FakeEndpoint, given: list[str], said: str) -> None:
    result = strata("interpret", SAE, *given)
    assert (result.exit_code, result.output.startswith(said)) == (2, True), result.output


def test_published_files_are_of_one_sae(world: FakeEndpoint) -> None:
    result = strata("interpret", RUN, "--published", "x")
    assert (result.exit_code, "name it too: runs/run/VARIANT" in result.output) == (2, True), result.output


def test_published_explanations_need_no_endpoint(world: FakeEndpoint) -> None:
    Path("published.jsonl").write_text(
        '{"index": "3", "description": "threes", "explanationModelName": "a", "typeName": "b"}\n'
    )
    result = strata("interpret", SAE, "--published", "published.jsonl")
    assert result.exit_code == 0, result.output
    record = json.loads(next(Path(RUN).glob("variants/topk@*/published.json")).read_text())
    assert [(one["latent"], one["text"]) for one in record["explanations"]] == [(3, "threes")]
    assert world.chats == []


def test_an_sae_without_codes_is_named(world: FakeEndpoint) -> None:
    result = strata("interpret", f"{RUN}/none", "--dry-run")
    assert (result.exit_code, "neither a run nor an SAE of one" in result.output) == (2, True), result.output


def test_what_a_dry_run_counted_is_a_table() -> None:
    dry = DryRun()
    assert would_ask(dry).splitlines()[1].split() == ["all", "0", "0", "0", "0"]
    dry.ask(requests(1000), verdicts, [])
    row, total = would_ask(dry).splitlines()[1:3]
    assert row.split() == ["detection", "a-model", "1,000", "0", "6,000", "100,000"]
    assert total.split() == ["all", "1,000", "0", "6,000", "100,000"]


def test_the_fake_knows_a_repair_by_what_it_repairs(world: FakeEndpoint) -> None:
    """Of the tests' own server."""
    chats: list[Chat] = []
    world.fault = lambda chat: chats.append(chat) or (None if chat.is_repair else "garbage")  # type: ignore[func-returns-value]
    result = strata(*arguments(world, "--set=interpretation.scores=[detection]"))
    assert result.exit_code == 0, result.output
    record = json.loads(next(Path(RUN).glob("variants/topk@*/interpretation.json")).read_text())
    assert {latent["scores"]["detection"]["balanced_accuracy"] for latent in record["latents"]} == {1.0}
    assert sum(chat.is_repair for chat in chats) * 2 == len(chats)
