"""The script of `strata slurm` under the stand-in for SLURM, with small commands in the place of Strata's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strata_sae.pipeline.commands.slurm import script
from strata_sae.pipeline.config.engine import SlurmSettings
from support.slurm import JOB, Cluster, array_of, options_of
from support.waiting import wait_until

pytestmark = pytest.mark.engines

HOLDS = """\
import os, signal, sys
name = os.environ["SLURM_ARRAY_TASK_ID"]
def end(*_):
    open("asked-" + name, "a").write("asked\\n")
    os._exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, end)
open("holds-" + name, "a").write("holds\\n")
while True:
    signal.pause()
"""
"""Ends with its first argument as exit code when it is asked to."""


@pytest.fixture
def clusters() -> Iterator[list[Cluster]]:
    made: list[Cluster] = []
    yield made
    for cluster in made:
        cluster.close()


def settings(*sbatch: str, gpus: int = 0) -> SlurmSettings:
    return SlurmSettings(kind="slurm", workers=2, cpus=3, gpus=gpus, sbatch=list(sbatch))


Change = tuple[str, str]
NONE: Change = ("#!", "#!")


def cluster_of(clusters: list[Cluster], folder: Path, program: list[str], change: Change = NONE) -> Cluster:
    """Of tasks that run a Python program; change: what in the script's text is to be other text."""
    text = script("run", settings(), [sys.executable, "-c", *program], folder)
    assert change[0] in text
    clusters.append(Cluster(text.replace(*change), folder))
    return clusters[-1]


def held(clusters: list[Cluster], folder: Path, code: int, change: Change = NONE) -> Cluster:
    """Of which one task runs, and ends with an exit code when it is asked to."""
    cluster = cluster_of(clusters, folder, [HOLDS, str(code)], change)
    task = cluster.start(0)
    wait_until((folder / "holds-0").exists, task.shell)
    return cluster


# ---- Options


def test_options_of_the_config_come_in_the_place_of_ours() -> None:
    options = ("--partition=long", "--time=04:00:00", "--array=4-6%2", "--signal=B:USR1@300")
    assert options_of(script("run", settings(*options), [], Path())) == {
        "job-name": "strata-run",
        "array": "4-6%2",
        "ntasks": "1",
        "cpus-per-task": "3",
        "requeue": "",
        "signal": "B:USR1@300",
        "open-mode": "append",
        "output": "%x-%A_%a.out",
        "partition": "long",
        "time": "04:00:00",
    }
    assert array_of("4-6%2") == [4, 5, 6]


def test_a_gpu_is_asked_for_where_the_config_does() -> None:
    assert options_of(script("run", settings(gpus=1), [], Path()))["gpus"] == "1"
    assert "gpus" not in options_of(script("run", settings(), [], Path()))


@pytest.mark.parametrize("line", ["--arrray=0-2", "--requeue=yes", "-p gpu", "--array"])
def test_control_the_stand_in_knows_what_sbatch_does_not_take(line: str) -> None:
    with pytest.raises(ValueError, match="unrecognized"):
        options_of(f"#!/bin/bash\n#SBATCH {line}\n")


# ---- What a task is given


SHOWS = """\
import os, sys
names = ("STRATA_SHARE", "STRATA_ENGINE_RUN", "OMP_NUM_THREADS")
print(*(os.environ[name] for name in names), os.getcwd(), sys.argv[1:])
"""


@pytest.mark.parametrize(("array", "shares"), [("0-1", ["0/2", "1/2"]), ("7-8", ["0/2", "1/2"]), ("5", ["0/1"])])
def test_a_task_knows_its_share_whatever_the_numbers_of_the_array(
    tmp_path: Path, clusters: list[Cluster], array: str, shares: list[str]
) -> None:
    cluster = cluster_of(clusters, tmp_path, [SHOWS], ("--array=0-1", f"--array={array}"))
    for number in cluster.tasks:
        cluster.start(number)
    assert cluster.run_to_the_end() == [0] * len(shares)
    shown = [cluster.output(number).read_text(encoding="utf-8") for number in cluster.tasks]
    assert shown == [f"{share} {JOB} 3 {tmp_path} []\n" for share in shares]


HOSTILE = ["a b", "'", '"', "$(touch hacked)", "`touch hacked`", "; touch hacked #", "-c", "ü*", "~", ""]
HOSTILE += ["new\nline\n#SBATCH --time=1"]


def test_words_and_folders_are_never_shell(tmp_path: Path, clusters: list[Cluster]) -> None:
    folder = tmp_path / "a 'b' $(touch hacked)\n#SBATCH --time=1"
    folder.mkdir()
    program = "import sys, os; print([os.getcwd(), *sys.argv[1:]])"
    cluster = cluster_of(clusters, folder, [program, *HOSTILE])
    for number in cluster.tasks:
        cluster.start(number)
    assert cluster.run_to_the_end() == [0, 0]
    assert cluster.output(0).read_text(encoding="utf-8") == f"{[str(folder), *HOSTILE]}\n"
    assert not list(tmp_path.rglob("hacked"))
    assert "time" not in cluster.options


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = cluster_of(clusters, tmp_path, [SHOWS], (f"cd -- {tmp_path}", f"cd -- {tmp_path}/gone"))
    cluster.start(0)
    assert cluster.ended(0) == 1
    assert "gone" in cluster.output(0).read_text(encoding="utf-8")


def test_without_sbatch_it_says_so(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = cluster_of(clusters, tmp_path, [SHOWS])
    cluster.start(0, SLURM_ARRAY_TASK_ID="")
    assert cluster.ended(0) != 0
    assert "this script is for sbatch" in cluster.output(0).read_text(encoding="utf-8")


# ---- Signals


def test_a_preempted_task_hands_the_signal_on_and_ends_as_its_command(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = held(clusters, tmp_path, 143)
    assert cluster.preempt(0) == 143
    assert (tmp_path / "asked-0").read_text() == "asked\n"
    assert cluster.requeued() == [], "SLURM does that; a job that was cancelled stays so"


def test_a_task_whose_time_is_over_is_put_into_the_queue_again(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = held(clusters, tmp_path, 143)
    assert cluster.near_limit(0) == 143
    assert cluster.requeued() == [f"{JOB}_0"]
    task = cluster.start(0)
    wait_until(lambda: (tmp_path / "holds-0").read_text().count("holds") == 2, task.shell)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_one_that_has_ended_otherwise_by_then_is_not(tmp_path: Path, clusters: list[Cluster], code: int) -> None:
    cluster = held(clusters, tmp_path, code)
    with pytest.raises(AssertionError, match="would not run again"):
        cluster.near_limit(0)
    assert cluster.tasks[0].codes == [code]


def test_a_signal_before_the_command_has_begun_is_not_lost(tmp_path: Path, clusters: list[Cluster]) -> None:
    early = ("trap 'is_near_limit", "kill -TERM $$\ntrap 'is_near_limit")
    cluster = cluster_of(clusters, tmp_path, [HOLDS, "143"], early)
    cluster.start(0)
    assert cluster.ended(0) == 143, "nobody asks it a second time"


def test_control_without_the_trap_the_command_outlives_its_script(tmp_path: Path, clusters: list[Cluster]) -> None:
    cluster = held(clusters, tmp_path, 143, ("trap hand_on TERM\n", ""))
    with pytest.raises(AssertionError, match="outlive"):
        cluster.preempt(0)
    assert not (tmp_path / "asked-0").exists()
