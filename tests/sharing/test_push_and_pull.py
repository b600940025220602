"""A run and an SAE go to a folder, to S3 (moto) and to a hub (a fake one), and come back as what they were."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

import strata_sae as strata
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.commands.push import folder_at
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.export.fetching import pull
from strata_sae.pipeline.export.sending import Pushed, push
from strata_sae.pipeline.export.shared import FORMS, MANIFEST, OF_FORMS, refuse_unknown_names
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import StoreError
from strata_sae.stores.remote.fetching import PullFolder
from strata_sae.stores.remote.transports import open_target
from support.fake_hub import TOKEN, FakeHub
from support.lying_server import LyingServer, serving
from support.sharing_places import Watched
from support.small_run import SITE

# huggingface_hub's own: how it hands httpx the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOPK = f"topk@{SITE}"
every_place = pytest.mark.parametrize("place", ["folder", "s3", "models"], indirect=True)
a_folder = pytest.mark.parametrize("place", ["folder"], indirect=True)
hub_alone = pytest.mark.parametrize("place", ["models"], indirect=True)


def watch(monkeypatch: pytest.MonkeyPatch, die_after: int = -1) -> list[Watched]:
    opened: list[Watched] = []

    def watched(*arguments: Any) -> Watched:
        opened.append(Watched(open_target(*arguments), die_after))
        return opened[-1]

    monkeypatch.setattr(sys.modules["strata_sae.stores.remote.push_bundle"], "open_target", watched)
    return opened


def sent(path: Path, place: str) -> Pushed:
    return push(folder_at(path), place)


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("staging/")}


@every_place
def test_an_sae_that_is_pushed_is_pulled_and_loaded(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = watch(monkeypatch)
    pushed = sent(run / "topk", place)
    assert opened[0].sent[-1] == MANIFEST, "the manifest is sent last"
    assert {"README.md", "README.svg", *OF_FORMS} <= set(opened[0].sent)
    found = pull(place, tmp_path / "out", expected_id=pushed.id)
    assert (found.kind, found.id, found.path) == ("variant", pushed.id, tmp_path / "out/variants" / TOPK)
    ours, theirs = strata.load(run / TOPK), strata.load(tmp_path / "out" / TOPK)
    x_BM = torch.randn(64, 16)
    assert torch.equal(ours.encode(x_BM).to_dense(), theirs.encode(x_BM).to_dense())
    again = sent(run / "topk", place)
    assert (again.id, opened[1].sent) == (pushed.id, []), "what is there is not sent again"
    assert pull(place, tmp_path / "out", expected_id=pushed.id) == found
    for name, data in files(found.path).items():
        assert name == MANIFEST or name in OF_FORMS or (run / "variants" / TOPK / name).read_bytes() == data


@every_place
def test_a_run_that_is_pushed_is_a_run_again(place: str, run: Path, made: Path, tmp_path: Path) -> None:
    assert strata_("report", str(run)).exit_code == 0
    pushed = sent(run, place)
    assert [line.partition(": its training ")[2] for line in pushed.left_out] == [
        "diverged, so this is no trained SAE to share"
    ]
    assert pushed.notes == ["config.yaml is sent as it is, with the paths of this machine that it names"]
    shutil.move(run, tmp_path / "before")
    assert pull(place, run, expected_id=pushed.id).kind == "run"
    names = set(files(run))
    assert {"report.html", "results.csv", "config.yaml", "environment.json", "store.json", "comparisons.json"} <= names
    assert {f"variants/{name}@{SITE}/metrics.json" for name in ("topk", "relu", "batch")} <= names
    assert any(name.startswith("tables/") for name in names)
    assert not any("wild" in name or "checkpoints" in name or "loader" in name for name in names)
    for name in names - {MANIFEST}:
        assert Path(name).parent.name in FORMS or files(run)[name] == (tmp_path / "before" / name).read_bytes()
    assert strata_("report", str(run)).exit_code == 0
    assert "scored already" in strata_("evaluate", "runs/run/config.yaml").output
    assert strata_("runs", "delete", "runs/run", "--yes").exit_code == 0
    assert not run.exists()


def strata_(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def n_sent(run: Path) -> int:
    return len(files(run / "variants" / TOPK)) + len(OF_FORMS) + len(("README.md", "README.svg"))


@pytest.mark.parametrize(
    ("place", "stops"), [("folder", range(14)), ("s3", [0, 13]), ("models", [9, 13])], indirect=["place"]
)
def test_a_push_killed_after_each_file_shows_nothing_and_goes_on(
    place: str, stops: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = n_sent(run)
    for number, stop in enumerate(stop for stop in stops if stop < total):
        here = f"{place}-{number}"
        opened = watch(monkeypatch, die_after=stop)
        with pytest.raises(KeyboardInterrupt):
            sent(run / "topk", here)
        with pytest.raises(StoreError, match=r"no pushed SAE or run can be read there|no such folder"):
            pull(here, tmp_path / f"out-{number}")
        assert not (tmp_path / f"out-{number}").exists()
        opened = watch(monkeypatch)
        sent(run / "topk", here)
        assert len(opened[0].sent) == total - stop + 1, "what was sent is not sent again, and the manifest comes last"
        assert pull(here, tmp_path / f"out-{number}").kind == "variant"


@a_folder
def test_a_half_push_of_what_changed_since_is_replaced(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a place tells no hash, equal sizes say nothing: what lies there is read."""
    watch(monkeypatch, die_after=5)
    with pytest.raises(KeyboardInterrupt):
        sent(run / "topk", place)
    half = Path(place, "weights.safetensors")
    half.write_bytes(bytes(255 - byte for byte in half.read_bytes()))
    watch(monkeypatch)
    sent(run / "topk", place)
    pull(place, tmp_path / "out")
    assert strata.load(tmp_path / "out" / TOPK).training.status == "finished"


@every_place
def test_a_place_that_holds_something_else_is_refused(place: str, run: Path, tmp_path: Path) -> None:
    first = sent(run / "topk", place)
    for other in (run / "relu", run):
        with pytest.raises(StoreError, match="holds another SAE or run"):
            sent(other, place)
    assert pull(place, tmp_path / "out").id == first.id
    with pytest.raises(StoreError, match="not the expected"):
        pull(place, tmp_path / "elsewhere", expected_id="0" * 64)
    with pytest.raises(StoreError, match="an id is 64 hex digits"):
        pull(place, tmp_path / "elsewhere", expected_id=first.id[:12])
    with pytest.raises(StoreError, match="is there, is no empty folder"):
        pull(place, run)
    (tmp_path / "out/variants" / TOPK / "metrics.json").unlink()
    with pytest.raises(StoreError, match=r"metrics.json is not what it was then"):
        pull(place, tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


@a_folder
def test_a_place_with_files_of_others_is_refused(place: str, run: Path) -> None:
    Path(place).mkdir()
    Path(place, "diary.txt").touch()
    with pytest.raises(StoreError, match=r"other files \(diary.txt\)"):
        sent(run / "topk", place)


@hub_alone
def test_another_revision_holds_another_content(place: str, hub: FakeHub, run: Path, tmp_path: Path) -> None:
    repository = "hf://me/saes"
    first, second = sent(run / "topk", repository), sent(run / "relu", f"{repository}@v2")
    assert pull(repository, tmp_path / "out").id == first.id
    assert pull(f"{repository}@v2", tmp_path / "out").id == second.id, "two SAEs in one run folder"
    assert hub.kinds == {"me/saes": "model"}
    assert hub.private == {"me/saes": True}
    assert {path.name for path in (tmp_path / "out/variants").iterdir()} == {TOPK, f"relu@{SITE}"}


@hub_alone
def test_a_card_that_its_owner_wrote_stays_and_disturbs_no_pull(
    place: str, hub: FakeHub, run: Path, tmp_path: Path
) -> None:
    pushed = sent(run / "topk", place)
    front = hub.commits["me/saes"][-1]["README.md"].decode()
    assert "](one/README.svg)" in front
    assert pushed.id in front
    words = {"README.md": b"my own words", "one/README.md": b"mine, too"}
    hub.commits["me/saes"].append(hub.commits["me/saes"][-1] | words)
    assert sent(run / "topk", place).id == pushed.id
    assert hub.commits["me/saes"][-1] | words == hub.commits["me/saes"][-1]
    assert pull(place, tmp_path / "out").id == pushed.id
    assert "README.md" not in files(tmp_path / "out/variants" / TOPK)


def test_what_is_unfinished_diverged_or_damaged_is_not_sent(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="diverged, so this is no trained SAE"):
        sent(run / "wild", str(tmp_path / "there"))
    (run / "variants" / f"batch@{SITE}" / "training.json").unlink()
    with pytest.raises(CheckpointError, match="has not ended; run train"):
        sent(run / "batch", str(tmp_path / "there"))
    weights = run / "variants" / f"relu@{SITE}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"weights.safetensors: sha256"):
        sent(run / "relu", str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()
    pushed = sent(run, str(tmp_path / "there"))
    told = " ".join(pushed.left_out)
    for words in (
        f"batch@{SITE}: its training has not",
        f"relu@{SITE}/weights",
        f"wild@{SITE}: its",
        "compared by other",
    ):
        assert words in told
    pull(str(tmp_path / "there"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/variants").iterdir()] == [TOPK]
    shutil.rmtree(run / "variants" / TOPK)
    with pytest.raises(CheckpointError, match="holds no finished SAE"):
        sent(run, str(tmp_path / "nowhere"))


def test_scores_that_belong_to_other_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    topk, relu = (RunFolder(run).variant(f"{name}@{SITE}") for name in ("topk", "relu"))
    shutil.copy(relu.metrics, topk.metrics)
    shutil.rmtree(run / "tables", ignore_errors=True)
    RunFolder(run).comparisons.unlink()
    pushed = sent(run / "topk", str(tmp_path / "there"))
    assert "metrics.json: sae: is" in pushed.left_out[0]
    assert "not as saelens" in pushed.left_out[1], "an export names scores, too"
    found = pull(str(tmp_path / "there"), tmp_path / "out")
    assert set(files(found.path)) == {MANIFEST, "config.json", "training.json", "weights.safetensors", "curves.jsonl"}
    assert b"Not scored yet." in (tmp_path / "there/README.md").read_bytes()


@a_folder
def test_an_interrupted_pull_goes_on(place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(run, place)
    fetched: list[str] = []
    fetch = PullFolder.fetch

    def dying(self: PullFolder, fetcher: Any, file: Any, advance: Callable[[int], None]) -> None:
        if len(fetched) == 10:  # threads may have one more each
            raise KeyboardInterrupt
        fetch(self, fetcher, file, advance)
        fetched.append(file.path)

    with monkeypatch.context() as patch:
        patch.setattr("strata_sae.stores.remote.transports.N_THREADS", 1)
        patch.setattr(PullFolder, "fetch", dying)
        with pytest.raises(KeyboardInterrupt):
            pull(place, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    begun, n_files = len(fetched), len(json.loads(Path(place, MANIFEST).read_bytes())["files"])
    fetched.clear()

    def counted(self: PullFolder, fetcher: Any, file: Any, advance: Callable[[int], None]) -> None:
        fetched.append(file.path)
        fetch(self, fetcher, file, advance)

    monkeypatch.setattr(PullFolder, "fetch", counted)
    pull(place, tmp_path / "out")
    assert len(fetched) == n_files - begun
    assert [path.name for path in tmp_path.iterdir() if "pulling" in path.name] == []


@a_folder
def test_a_web_server_is_pulled_from_and_not_pushed_to(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    pushed = sent(run / "topk", place)
    with serving(LyingServer(Path(place))) as server:
        server.lie("weights.safetensors", "flip")
        assert pull(server.url, tmp_path / "out").id == pushed.id
        with pytest.raises(StoreError, match="can only be read from"):
            sent(run / "topk", server.url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf://datasets/me/acts", "write hf://<user>/<repository>"),
        ("hf://models/me/acts", "write hf://<user>/<repository>"),
        ("hf://me", "write hf://<user>/<repository>"),
        ("ftp://host/x", "unknown; known are"),
        ("s3://key:secret@bucket/x", "user names and passwords"),
    ],
)
def test_urls_that_are_no_place_for_an_sae(url: str, said: str, run: Path, tmp_path: Path) -> None:
    for attempt in (lambda: sent(run / "topk", url), lambda: pull(url, tmp_path / "out")):
        with pytest.raises(StoreError, match=said) as refused:
            attempt()
        assert "secret" not in str(refused.value)


def test_what_a_path_names(run: Path, made: Path, tmp_path: Path) -> None:
    for text in ("topk", TOPK, f"variants/{TOPK}"):
        assert folder_at(run / text).path.name == TOPK
    assert folder_at(run) == RunFolder(run)
    with pytest.raises(ConfigError, match="did you mean"):
        folder_at(run / "topkk")
    with pytest.raises(ConfigError, match="neither a run nor an SAE"):
        folder_at(tmp_path)
    shutil.copytree(run / "variants" / TOPK, run / "variants" / "topk@elsewhere")
    with pytest.raises(ConfigError, match="at several sites"):
        folder_at(run / "topk")
    for inside in (made / "store/inside", run / "inside", run):
        with pytest.raises(ConfigError, match="lies in"):
            sent(run, str(inside))
    with pytest.raises(ConfigError, match="lies inside the store"):
        pull(str(tmp_path), made / "store/inside")


def test_no_run_is_pulled_into_the_root_of_a_disk(run: Path, tmp_path: Path) -> None:
    sent(run, str(tmp_path / "there"))
    with pytest.raises(ConfigError, match="OUT: / is no folder of a run"):
        pull(str(tmp_path / "there"), Path("/"))


def test_the_name_of_an_extension_is_one_of_a_run() -> None:
    own = ("config.json", "training.json", "weights.safetensors", "curves.jsonl")
    refuse_unknown_names("run", [f"variants/topk+20@{SITE}/{name}" for name in own], "here")
    with pytest.raises(CheckpointError, match="which no run has"):
        refuse_unknown_names("run", [f"variants/topk 20@{SITE}/{name}" for name in own], "here")


@hub_alone
def test_the_token_is_in_no_file_line_or_error(
    place: str, hub: FakeHub, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = [strata_("--log-level", "debug", "push", str(run), place), strata_("pull", place, "out")]
    told += [strata_("push", str(run / "topk"), place), strata_("pull", "hf://me/nothing", "nowhere")]
    assert [result.exit_code for result in told] == [0, 0, 1, 1]
    text = "".join(result.output + result.stderr for result in told) + caplog.text + "".join(hub.asked)
    assert TOKEN not in text
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    for tree in hub.commits["me/saes"]:
        assert not any(TOKEN.encode() in data for data in tree.values())
    (tmp_path / "planted").write_text(TOKEN)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == [
        "planted"
    ], "control: the search finds one"


def test_no_tensor_is_sent_that_holds_a_nan(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(run).variant(TOPK)
    weights = safetensors.torch.load_file(folder.weights)
    weights["b_enc"][3] = float("nan")
    safetensors.torch.save_file(weights, folder.weights)
    monkeypatch.setattr("strata_sae.pipeline.runs.trained.check_weights", lambda *all_: None)
    with pytest.raises(CheckpointError, match="b_enc: holds a NaN"):
        sent(run / "topk", str(tmp_path / "there"))
