"""What ranks write together: checkpoints that any number of them reads, and final weights as of one process."""

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer.checkpoint import Checkpoint, newest, prefix_of, save, save_shard
from strata_sae.pipeline.trainer.finish import calibrate
from strata_sae.pipeline.trainer.shards import write_together
from support.made_up_records import sae_record
from support.side_by_side import E, M, batches, held, trainee_of
from support.thread_ranks import on_ranks

RECORD = sae_record("topk", "site", {"architecture": "topk", "d_sae": E}, d_out=M)
CURVES = Path("no curves")


def state(step: int) -> dict[str, Tensor]:
    """What a trainee remembers after some updates, of the whole SAE."""
    trainee = trainee_of("jump_relu", ONE, seed=step)
    for x_BM in batches()[:2]:
        trainee.update(x_BM)
    return {name: tensor.clone() for name, tensor in trainee.state().items()}


def part(tensors: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    return {name: held(tensor, name, ranks).contiguous() for name, tensor in tensors.items()}


def saved_by(n: int, folder: Path, step: int) -> dict[str, Tensor]:
    """The state that so many ranks have saved."""
    tensors = state(step)

    def work(ranks: Ranks) -> None:
        checkpoint = Checkpoint(step=step, tensors=part(tensors, ranks), curves=prefix_of(CURVES, 0))
        if ranks.n == 1:
            save(folder, checkpoint, RECORD)
        else:
            save_shard(folder, checkpoint, RECORD, ranks)

    on_ranks(n, work)
    return tensors


def assert_read(n: int, folder: Path, step: int, expected: dict[str, Tensor]) -> None:
    def work(ranks: Ranks) -> None:
        found = newest(folder, RECORD, CURVES, ranks)
        assert found is not None
        assert found.step == step
        wanted = part(expected, ranks)
        assert found.tensors.keys() == wanted.keys()
        assert all(torch.equal(found.tensors[name], wanted[name]) for name in wanted)
        assert {name: tensor.dtype for name, tensor in found.tensors.items()} == {n: t.dtype for n, t in wanted.items()}

    on_ranks(n, work)


@pytest.mark.parametrize("written_by", [1, 3, 4])
def test_any_number_of_ranks_reads_a_checkpoint(written_by: int, tmp_path: Path) -> None:
    tensors = saved_by(written_by, tmp_path, 5)
    for n in (1, 2, 3, 4, 7):
        assert_read(n, tmp_path, 5, tensors)


@pytest.mark.parametrize("damage", ["a shard is cut", "a shard is missing", "shards.json", "state.json", "other bytes"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_damaged_checkpoint_gives_way_to_an_older_one(
    n: int, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, _ = saved_by(4, tmp_path, 5), saved_by(4, tmp_path, 6)
    path = tmp_path / "step_00000006"
    shard = path / "state-00002-of-00004.safetensors"
    if damage == "a shard is missing":
        shard.unlink()
    elif damage.endswith("json"):
        (path / damage).write_bytes((path / damage).read_bytes().replace(b"0", b"1"))
    else:
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data[:-8] if damage == "a shard is cut" else data)
    with caplog.at_level(logging.WARNING, "strata_sae"):
        assert_read(n, tmp_path, 5, older)
    assert "falling back" in caplog.text


def test_where_every_checkpoint_is_damaged_all_ranks_say_so(tmp_path: Path) -> None:
    saved_by(2, tmp_path, 5)
    (tmp_path / "step_00000005" / "state-00001-of-00002.safetensors").unlink()

    def work(ranks: Ranks) -> None:
        with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
            newest(tmp_path, RECORD, CURVES, ranks)

    on_ranks(2, work)


def test_a_checkpoint_that_is_there_stays_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 6, 7, 7):
        saved_by(3, tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000006", "step_00000007"]


@pytest.mark.parametrize("n", [2, 4])
def test_the_file_of_final_weights_has_the_bytes_of_one_process(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strata_sae.pipeline.trainer.shards.PIECE_BYTES", 4096)  # several pieces of each part
    weights = {**trainee_of("topk", ONE).sae.weights(), "threshold": torch.tensor(0.5, dtype=torch.float64)}

    def work(ranks: Ranks) -> str:
        own = {name: t if t.ndim == 0 else held(t, name, ranks) for name, t in weights.items()}
        return write_together(tmp_path / "weights.safetensors", own, ranks, tmp_path / "checkpoints")

    (sha256,) = set(on_ranks(n, work))
    assert (tmp_path / "weights.safetensors").read_bytes() == safetensors.torch.save(weights)
    assert len(sha256) == 64
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("k", [4.0, 30.0, 200.0])
def test_the_calibrated_threshold_is_that_of_one_process(k: float) -> None:
    def work(ranks: Ranks) -> float:
        return calibrate(trainee_of("topk", ranks).sae, lambda: batches()[:4], k, ranks)

    expected = work(ONE)
    assert on_ranks(3, work) == pytest.approx([expected] * 3, rel=1e-6)


def test_the_first_weights_are_those_of_one_process() -> None:
    whole = trainee_of("topk", ONE).state()
    for ranks in (Ranks(rank, 4) for rank in range(4)):
        own = trainee_of("topk", ranks).state()
        assert all(torch.equal(own[name], held(tensor, name, ranks)) for name, tensor in whole.items())
