"""The files of labels beside the codes: whole or made again, of these codes alone, every flipped byte found."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.labels import Labels, kept_labels, make_counts, make_labels
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, open_coded
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.record_files import read_record, write_record
from support.coded_run import RUN, SITE, make

FILES = ("token_labels.json", "token_labels.safetensors", "token_counts.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coded")
    make(folder)
    run = open_coded(folder / RUN)
    for sae in run.saes.values():
        kept_labels(sae, run.text)
    return folder / RUN


@pytest.fixture
def run(made: Path, tmp_path: Path) -> CodedRun:
    shutil.copytree(made, tmp_path / "run")
    return open_coded(tmp_path / "run")


@pytest.fixture
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"topk@{SITE}"]


def again(sae: CodedSAE) -> CodedSAE:
    return CodedSAE(sae.folder, sae.stores, sae.filters, sae.codes)


def contents(sae: CodedSAE) -> dict[str, bytes]:
    return {name: (sae.folder.path / name).read_bytes() for name in FILES}


def same(one: Labels, other: Labels) -> bool:
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True))


def test_what_is_read_is_what_was_made(run: CodedRun, sae: CodedSAE) -> None:
    assert sae.labels is not None
    assert same(sae.labels, make_labels(sae, run.text))
    assert [array.dtype for array in sae.labels] == [np.float32] * 2 + [np.int32] * 3
    assert sae.token_counts is not None
    for read, computed in zip(sae.token_counts, make_counts(sae, run.text), strict=True):
        assert read.tolist() == computed.tolist()


def test_labels_are_made_once(run: CodedRun, sae: CodedSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(sae)
    with monkeypatch.context() as patch:
        patch.setattr("strata_sae.pipeline.queries.labels.make_labels", lambda *_: pytest.fail("made again"))
        assert same(kept_labels(sae, run.text), sae.labels)
    for name in FILES:  # a kill before the record, or what somebody deleted: made again, byte for byte
        (sae.folder.path / name).unlink()
        new = again(sae)
        kept_labels(new, run.text)
        assert new.labels is not None
        assert contents(sae) == before


def test_without_files_there_are_none(sae: CodedSAE) -> None:
    sae.folder.token_labels.unlink()
    assert again(sae).labels is None
    assert again(sae).token_counts is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_flipped_byte_is_found_and_mended(run: CodedRun, sae: CodedSAE, name: str, share: float) -> None:
    before, path = contents(sae), sae.folder.path / name
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"token_.*(run strata codes|read as JSON)"):
        assert (again(sae).labels, again(sae).token_counts) is None
    kept_labels(again(sae), run.text)
    assert contents(sae) == before


def test_labels_of_other_codes_are_refused(run: CodedRun, sae: CodedSAE, caplog: pytest.LogCaptureFixture) -> None:
    other = run.saes[f"wide@{SITE}"]
    for name in FILES:
        shutil.copy(other.folder.path / name, sae.folder.path / name)
    with pytest.raises(CheckpointError, match=r"token_labels.json: sae: is .* but this SAE's is"):
        _ = again(sae).labels
    assert same(kept_labels(again(sae), run.text), make_labels(sae, run.text))
    assert "made again" in caplog.text


def test_labels_of_codes_that_were_made_anew_are_refused(run: CodedRun, sae: CodedSAE) -> None:
    record = read_record(sae.folder.token_labels, TokenLabelRecord).record
    for change in ({"codes_id": "0" * 64}, {"least_rows": 3}, {"definition": "as it was"}):
        write_record(sae.folder.token_labels, record.model_copy(update=change))
        with pytest.raises(CheckpointError, match=f"{next(iter(change))}: is .*, but here it is"):
            _ = again(sae).labels


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("token_labels.safetensors", {"f1": np.zeros(3, np.float32)}),
        ("token_labels.safetensors", {"f1": np.zeros(48, np.float64)}),
        ("token_labels.safetensors", {"more": np.zeros(48, np.float32)}),
        ("token_counts.safetensors", {"latent": np.zeros(2, np.uint32)}),
        ("token_counts.safetensors", {"offset": np.zeros(40, np.int64)}),
        ("token_counts.safetensors", {"active": np.zeros(49, np.int64)}),
    ],
)
def test_hostile_arrays_are_refused(sae: CodedSAE, name: str, change: dict[str, np.ndarray]) -> None:
    """With every hash as it should be: somebody else's run."""
    key = "labels" if name == FILES[1] else "counts"
    path = sae.folder.path / name
    seal(sae, key, safetensors.numpy.save(safetensors.numpy.load(path.read_bytes()) | change))
    with pytest.raises(CheckpointError, match=rf"{name}: .*run strata codes"):
        _ = again(sae).labels, again(sae).token_counts


def test_a_latent_beyond_the_last_is_refused(sae: CodedSAE) -> None:
    arrays = safetensors.numpy.load(sae.folder.token_counts.read_bytes())
    arrays["latent"][-1] = 2**32 - 1  # a sum by latent would take 32 GB
    seal(sae, "counts", safetensors.numpy.save(arrays))
    with pytest.raises(CheckpointError, match="its arrays do not fit each other"):
        _ = again(sae).token_counts


@pytest.mark.parametrize(
    "header", [b"{}", b"[1]", b"\xff", b'{"f1":{"dtype":"F32","shape":[48],"data_offsets":[0,9e9]}}']
)
def test_a_hostile_header_is_refused(sae: CodedSAE, header: bytes) -> None:
    for n_header in (len(header), 2**40, 2**63):
        seal(sae, "labels", n_header.to_bytes(8, "little") + header + bytes(100))
        with pytest.raises(CheckpointError, match=r"token_labels.safetensors: .*run strata codes"):
            _ = again(sae).labels
    seal(sae, "labels", b"")
    with pytest.raises(CheckpointError, match=r"token_labels.safetensors: .*run strata codes"):
        _ = again(sae).labels


def seal(sae: CodedSAE, key: str, data: bytes) -> None:
    """Write one of the files of arrays, with its hash in the record."""
    from strata_sae.stores.files.hashing import sha256

    path = sae.folder.label_arrays if key == "labels" else sae.folder.token_counts
    path.write_bytes(data)
    record = read_record(sae.folder.token_labels, TokenLabelRecord).record
    write_record(
        sae.folder.token_labels,
        record.model_copy(update={"sha256": record.sha256.model_copy(update={key: sha256(data)})}),
    )


def test_the_record_says_what_the_labels_are(run: CodedRun, sae: CodedSAE) -> None:
    data = json.loads(sae.folder.token_labels.read_text(encoding="utf-8"))
    f1 = make_labels(sae, run.text).f1
    labelled = f1[np.isfinite(f1)].astype(np.float64)
    assert data["metrics"]["token_f1"]["value"] == np.median(labelled)
    assert data["metrics"]["token_f1_above_half"]["value"] == (labelled > 0.5).mean()
    assert data["metrics"]["token_f1_unlabelled"]["value"] == pytest.approx(1 - len(labelled) / 48)
    assert (data["n_latents"], data["n_labelled"]) == (48, len(labelled))
    assert data["filters"]["drop_bos"] is True


def test_no_weights_are_read_for_labels(run: CodedRun, sae: CodedSAE) -> None:
    sae.folder.weights.unlink()
    opened = open_coded(run.folder.path).saes[sae.name]
    assert opened.labels is not None
    with pytest.raises(CheckpointError, match="weights"):
        _ = opened.W_dec
