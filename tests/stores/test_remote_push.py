"""Pushing to a folder, to S3 (moto) and to a hub (a fake one), and pulling the very store back."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.remote.fetching import Fetcher
from strata_sae.stores.remote.pull import open_head, pull
from strata_sae.stores.remote.push import dataset_card, push
from strata_sae.stores.remote.push import push as push_
from strata_sae.stores.remote.transports import TRANSPORTS, RetryPolicy, Unchanged, is_url, open_source, open_target
from support.fake_hub import FakeHub
from support.sharing_places import Watched
from support.small_store import build_store

SITE = "blocks.1.hook_resid_post"
COMMIT = "commits/000/000000.json"
SHARD = f"activations.zarr/sites/{SITE}/values/c/0/0"
HASTY = RetryPolicy(stall_seconds=600, attempts=3, pause_seconds=0.01, grace_seconds=600)
# huggingface_hub's own: how it hands httpx the bytes of an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PLACES = ["folder", "s3", "hub"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    provenance = {"model": {"model": "org/small", "revision": "abc"}, "corpus": {"license": "MIT"}}
    return build_store(tmp_path_factory.mktemp("push") / "honest", 1000, {SITE: 16}, provenance=provenance)


every_place = pytest.mark.parametrize("place", PLACES, indirect=True)


def watch(monkeypatch: pytest.MonkeyPatch, die_after: int = -1) -> list[Watched]:
    made: list[Watched] = []

    def opened(url: str, policy: RetryPolicy) -> Watched:
        made.append(Watched(open_target(url, policy), die_after))
        return made[-1]

    monkeypatch.setattr(sys.modules["strata_sae.stores.remote.push"], "open_target", opened)
    return made


@every_place
def test_what_is_pushed_is_pulled_and_read(
    place: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, moved, announced = watch(monkeypatch), [], []
    store_id = push(honest, place, policy=HASTY, announce=announced.append, advance=moved.append)
    assert store_id == ActivationStore.open(honest).id
    assert made[0].sent[0] == "plan.json"
    assert made[0].sent[-1] == "MANIFEST.json"
    assert [sum(moved)] == announced
    assert pull(place, tmp_path / "out", expected_id=store_id, policy=HASTY) == store_id
    assert verify(tmp_path / "out", deep=True) == []
    head = open_head(place, tmp_path / "cache", policy=HASTY)
    data = (honest / SHARD).read_bytes()
    assert head.place.open(SHARD).read(100, 1000).tobytes() == data[100:1100]
    assert head.place.open(SHARD).read(0, len(data)).tobytes() == data
    assert push(honest, place, policy=HASTY) == store_id
    assert made[1].sent == [], "what is there is not sent again, and nothing is written into a finished store"


@every_place
def test_a_push_goes_on_where_it_died(
    place: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watch(monkeypatch, die_after=20)
    with pytest.raises(KeyboardInterrupt):
        push(honest, place, policy=HASTY)
    with pytest.raises(StoreError, match="no finished store"):
        pull(place, tmp_path / "out", policy=HASTY)
    made = watch(monkeypatch)
    push(honest, place, policy=HASTY)
    n_files = sum(path.is_file() for path in honest.rglob("*"))
    assert len(made[0].sent) == n_files - 20
    pull(place, tmp_path / "out", policy=HASTY)


@every_place
def test_a_place_that_holds_something_else_is_refused(
    place: str, honest: Path, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    push(honest, place, policy=HASTY)
    for other in (make_store("other", n_rows=200), twin(honest, tmp_path / "twin")):
        with pytest.raises(StoreError, match="another store"):
            push(other, place, policy=HASTY)
    pull(place, tmp_path / "out", expected_id=ActivationStore.open(honest).id, policy=HASTY)
    target = open_target(place + "-mine", HASTY)
    target.entries()
    target.send([("diary.txt", honest / "plan.json")], lambda n_bytes: None)
    target.close()
    with pytest.raises(StoreError, match=r"other files \(diary.txt\)"):
        push(honest, place + "-mine", policy=HASTY)


def twin(honest: Path, path: Path) -> Path:
    """A store of the same plan, made on a machine that rounds otherwise: same sizes, other bytes."""
    build_store(path, 1000, {SITE: 16}, provenance=json.loads((honest / "plan.json").read_bytes())["provenance"])
    rewritten = json.loads((path / COMMIT).read_bytes())
    rewritten.pop("sha256")
    shard = bytearray((path / SHARD).read_bytes())
    shard[5] ^= 1
    rewritten["files"][SHARD]["sha256"] = hashlib.sha256(shard).hexdigest()
    rewritten["sha256"] = hashlib.sha256(canonical(rewritten)).hexdigest()
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    manifest["files"][COMMIT] = hashlib.sha256(canonical(rewritten)).hexdigest()
    for name, data in {SHARD: bytes(shard), COMMIT: canonical(rewritten), "MANIFEST.json": canonical(manifest)}.items():
        (path / name).chmod(0o644)
        (path / name).write_bytes(data)
    assert (path / "plan.json").read_bytes() == (honest / "plan.json").read_bytes()
    return path


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_an_unfinished_or_damaged_store_is_not_pushed(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store = make_store("damaged")
    (store / SHARD).chmod(0o644)
    data = bytearray((store / SHARD).read_bytes())
    data[100] ^= 1
    (store / SHARD).write_bytes(data)
    with pytest.raises(StoreError, match="values/c/0/0: its sha256"):
        push(store, tmp_path / "there")
    assert not (tmp_path / "there/MANIFEST.json").exists()
    (store / "MANIFEST.json").unlink()
    with pytest.raises(StoreError, match="unfinished"):
        push(store, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["s3", "folder"], indirect=True)
def test_the_first_manifest_stays(place: str) -> None:
    target = open_target(place, HASTY)
    assert target.send_new("MANIFEST.json", b"first")
    assert not target.send_new("MANIFEST.json", b"second")
    assert b"".join(target.stream("MANIFEST.json", 0)) == b"first"
    target.close()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_bucket_that_is_not_there_is_named(place: str, honest: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such bucket"):
        push(honest, "s3://nobody/here", policy=HASTY)
    with pytest.raises(StoreError, match="no finished store"):
        pull("s3://nobody/here", tmp_path / "out", policy=HASTY)


def test_a_profile_without_boto3_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(StoreError, match="export-credentials --profile work"):
        open_source("s3://bucket/x", HASTY)


AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "account"}


@pytest.mark.parametrize(
    ("url", "environment", "kind", "prefix"),
    [
        ("s3://bucket/some/pre%20fix", {}, "S3Store", "some/pre%20fix"),
        ("gs://bucket/some/pre%20fix", {}, "GCSStore", "some/pre%20fix"),
        ("az://container/some/prefix", AZURE, "AzureStore", "some/prefix"),
    ],
)
def test_a_bucket_of_any_cloud(
    url: str, environment: dict[str, str], kind: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_url(url)
    target = open_target(url, HASTY)
    assert (type(target._store).__name__, target._store.prefix) == (kind, prefix)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "environment", "words"),
    [
        ("gs://bucket/x", {}, "set GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container/x", AZURE, "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
        ("az://container/x", {}, "Account must be specified; set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_who_has_no_key_is_told_which_variables_hold_it(
    url: str, environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def no_token(*_: Any, **__: Any) -> None:
        raise obstore.exceptions.GenericError("Generic error: Error performing token request: no route to host")

    obstore = pytest.importorskip("obstore")
    monkeypatch.setattr(obstore, "get", no_token)
    with pytest.raises(StoreError, match=words):
        Fetcher(open_source(url, HASTY), HASTY).get("MANIFEST.json")


def replace_shard(place: str, tmp_path: Path, honest: Path) -> bytes:
    """Put other bytes of the same size where a shard lies. Returns: the old ones."""
    old = (honest / SHARD).read_bytes()
    (tmp_path / "other").write_bytes(bytes(255 - byte for byte in old))
    target = open_target(place, HASTY)
    try:
        target.send([(SHARD, tmp_path / "other")], lambda n_bytes: None)
    finally:
        target.close()
    return old


WHEN_REPLACED = {"file": "refused", "s3": "refused", "hf": "served: an address names a commit"}
WHEN_REPLACED |= {"http": "refused: test_remote_place.py", "https": "as http", "gs": "as s3", "az": "as s3"}


def test_what_each_transport_does_with_a_replaced_object_is_known() -> None:
    assert set(WHEN_REPLACED) == set(TRANSPORTS)


@every_place
def test_an_object_replaced_while_it_is_read_is_never_mixed_in(place: str, honest: Path, tmp_path: Path) -> None:
    push(honest, place, policy=HASTY)
    file = open_head(place, tmp_path / "cache", policy=HASTY).place.open(SHARD)
    assert file.read(0, 100).tobytes() == (honest / SHARD).read_bytes()[:100]
    old = replace_shard(place, tmp_path, honest)
    if place.startswith("hf://"):
        assert file.read(100, 900).tobytes() == old[100:1000]
    else:
        with pytest.raises(StoreError, match=rf"{SHARD}: was replaced while it is read \(.* before, .* now\)"):
            file.read(100, 900)
    again = open_head(place, tmp_path / "cache", policy=HASTY).place.open(SHARD)
    assert again.read(0, 100).tobytes() != old[:100], "opened anew: what is there now, for the hashes to refuse"


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
def test_control_without_the_comparison_the_new_bytes_come(
    place: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unchanged, "check", lambda self, path, identity, where: None)
    push(honest, place, policy=HASTY)
    file = open_head(place, tmp_path / "cache", policy=HASTY).place.open(SHARD)
    file.read(0, 100)
    old = replace_shard(place, tmp_path, honest)
    assert file.read(100, 900).tobytes() == bytes(255 - byte for byte in old[100:1000])


def test_hub_commits_card_and_privacy(hub: FakeHub, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(sys.modules["strata_sae.stores.remote.push"], "_BATCH_FILES", 7)
    store_id = push(honest, "hf://datasets/me/acts", policy=HASTY)
    assert hub.private == {"me/acts": True}
    assert max(len(paths) for _, paths in hub.messages) == 7
    assert hub.messages[-1] == ("Add MANIFEST.json", ["MANIFEST.json"])
    card = hub.commits["me/acts"][-1]["README.md"].decode()
    for part in (store_id, 'base_model: ["org/small"]', 'license: "mit"', "float32", "1,000", SITE):
        assert part in card
    hub.commits["me/acts"].append(hub.commits["me/acts"][-1] | {"README.md": b"my own words"})
    push(honest, "hf://datasets/me/acts", policy=HASTY)
    assert hub.commits["me/acts"][-1]["README.md"] == b"my own words"


def test_a_hub_that_drops_files_gets_no_manifest(hub: FakeHub, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    hub.forget = {SHARD}
    with pytest.raises(StoreError, match="did not keep"):
        push(honest, "hf://datasets/me/acts", policy=HASTY)
    assert "MANIFEST.json" not in hub.commits["me/acts"][-1]


ANSWERS = {
    "no commit": {"id": "me/acts"},
    "a commit of another form": {"id": "me/acts", "sha": "../../x"},
    "a number": {"id": "me/acts", "sha": 7},
    "a list": [1, 2],
    "text": "acts",
    "null": None,
    "deep": {"id": "me/acts", "sha": "0" * 40, "siblings": [[[]]], "cardData": 5, "tags": {}},
    "times": {"id": "me/acts", "sha": "0" * 40, "lastModified": "\xb2", "createdAt": 10**400},
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_hub_that_answers_nonsense_is_one_line(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr("support.fake_hub._Handler._api", lambda self, path, body: (ANSWERS[answer],))
    with pytest.raises(StoreError) as caught:
        pull("hf://datasets/me/acts", tmp_path / "out", policy=HASTY)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_hub_errors_say_what_to_do(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with pytest.raises(StoreError, match="no such repository"):
        pull("hf://datasets/me/nothing", tmp_path / "out", policy=HASTY)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="no finished store"):
        pull("hf://datasets/me/nothing", tmp_path / "out", policy=HASTY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StoreError, match="HF_HUB_OFFLINE"):
        pull("hf://datasets/me/acts", tmp_path / "out", policy=HASTY)
    for url in ("hf://me/acts", "hf://datasets/acts", "hf://models/me/acts"):
        with pytest.raises(StoreError, match="hf://datasets/<user>"):
            pull(url, tmp_path / "out", policy=HASTY)


def test_a_card_cannot_be_broken_out_of(honest: Path) -> None:
    plan = ActivationStore.open(honest).plan
    object.__setattr__(plan, "provenance", {"model": {"model": "x\n---\n<script>`|"}, "corpus": "```\n<b>"})
    card = dataset_card(plan, "0" * 64, "hf://datasets/me/acts", 1)
    assert card.count("\n---\n") == 1
    assert "<script>" not in card
    assert card.count("```") == 4


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/x", "user names and passwords"),
        ("https://me:secret@host/x", "user names and passwords"),
        ("https://host/x?token=secret", "no '\\?'"),
        ("s3:///x", "no bucket"),
        ("gs:///x", "no bucket; write gs://bucket/prefix"),
        ("ftp://host/x", "unknown"),
        ("file://host/x", "another machine"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        open_source(url, HASTY)
    assert "secret" not in str(caught.value)


def test_a_web_server_is_not_pushed_to(honest: Path) -> None:
    with pytest.raises(StoreError, match="only be read from"):
        push(honest, "https://host/x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, honest: Path) -> None:
    for package, url in (("obstore", "s3://bucket/x"), ("huggingface_hub", "hf://datasets/me/acts")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(StoreError, match=rf"needs {package}.*strata-sae\[remote\]"):
            push_(honest, url)
