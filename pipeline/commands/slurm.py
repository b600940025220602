"""`strata slurm`: the script of an array job, every task of which runs the plain command."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, config_of
from strata_sae.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from strata_sae.pipeline.config import RunConfig
    from strata_sae.pipeline.config.engine import SlurmSettings

GRACE_SECONDS = 120
"""Before the time limit, when a task is asked to end: enough for a step, and for a checkpoint of a few GB."""
_SHARE = """\
# All tasks run the same command. Each takes what no other one holds: units of the store, SAEs of the run. When
# everything is trained, one of them scores and reports. So tasks may start late, die, or be submitted again alone.
: "${SLURM_ARRAY_TASK_ID:?is not set: this script is for sbatch}"
export STRATA_SHARE=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) % SLURM_ARRAY_TASK_COUNT))/$SLURM_ARRAY_TASK_COUNT
export STRATA_ENGINE_RUN=$SLURM_ARRAY_JOB_ID
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}  # equal results need equal numbers of threads
"""
_LISTEN = """\
# SLURM signals this shell alone, so the shell hands signals on. The command ends between two steps, with exit code 143.
#   TERM: the job is preempted or cancelled. SLURM decides whether it runs again, by --requeue and how it preempts.
#   USR1: the time limit is near (--signal). SLURM would not run the task again, so it is put into the queue below.
asked=0 is_near_limit='' command=''
hand_on() {
  asked=$((asked + 1))
  [ -z "$command" ] || kill -TERM "$command" 2>/dev/null
}
trap hand_on TERM
trap 'is_near_limit=yes; hand_on' USR1
"""
_WAIT = """\
command=$!
[ "$asked" -eq 0 ] || kill -TERM "$command" 2>/dev/null
while true; do # a signal ends `wait` before the command has ended
  asked_before=$asked
  wait "$command"
  code=$?
  [ "$asked" -ne "$asked_before" ] || break
done
if [ "$code" -eq 143 ] && [ -n "$is_near_limit" ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""


def slurm(config: ConfigFile, overrides: Overrides) -> None:
    """Print the script of a SLURM array job that runs this config: strata slurm CONFIG | sbatch."""
    settings = config_of(config, overrides)
    if settings.engine.kind != "slurm":
        raise ConfigError(
            f"{config}: engine.kind: is {settings.engine.kind}, and the script is of a config with engine: slurm; "
            "write that there, or add --set engine=slurm"
        )
    arguments = [_stage_of(settings, config), os.path.abspath(config)]
    arguments += [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, os.path.abspath(sys.argv[0]), *arguments]
    # As bytes: a path need not be UTF-8.
    typer.echo(os.fsencode(script(settings.name, settings.engine, command, Path.cwd())), nl=False)


def _stage_of(settings: "RunConfig", config: Path) -> str:
    """`run`, or `extract` where nothing is to be trained. Raises: ConfigError where the config is of neither."""
    from strata_sae.pipeline.config.run import ExtractConfig, TrainConfig

    if settings.training is None and not settings.variants and settings.toy is None:
        ExtractConfig.of(settings, config)
        return "extract"
    TrainConfig.of(settings, config)
    return "run"


def script(name: str, engine: "SlurmSettings", command: Sequence[str], folder: Path) -> str:
    """The text for sbatch, for bash.

    Args:
        name: of the run.
        command: what every task runs, word by word.
        folder: where it runs.

    """
    options = [f"#SBATCH {option}" for option in _options(name, engine)]
    place = f"cd -- {shlex.quote(str(folder))} || exit 1\n"
    return "\n".join(["#!/bin/bash", *options, "", _SHARE + place, _LISTEN, f"{shlex.join(command)} &\n{_WAIT}"])


def _options(name: str, engine: "SlurmSettings") -> list[str]:
    """Ours, and those of engine.sbatch, which come in the place of ours of the same name."""
    ours = [
        f"--job-name=strata-{name}",
        f"--array=0-{engine.workers - 1}",
        "--ntasks=1",
        f"--cpus-per-task={engine.cpus}",
        *([f"--gpus={engine.gpus}"] if engine.gpus else []),
        "--requeue",
        f"--signal=B:USR1@{GRACE_SECONDS}",
        "--open-mode=append",
        "--output=%x-%A_%a.out",
    ]
    return list({option.partition("=")[0]: option for option in [*ours, *engine.sbatch]}.values())
