"""Training from a store on S3 whose chunks are in the cache, against the same store in a folder.

    python benchmarks/remote.py

S3 is moto, a process on this machine. The first epoch fetches and checks every chunk and fills the cache; from then on
nothing comes from the server. A step is a batch [2048, 576] and a TopK update (E 4096, k 32). Epochs take turns.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from read import SITE, make_store

from benchmarks.toy import met, sized
from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.objective import Objective
from strata_sae.pipeline.objective.reconstruction import Reconstruction
from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.saes.topk import TopK
from strata_sae.pipeline.trainer.optimiser import Adam
from strata_sae.stores import ActivationStore, Batches
from strata_sae.stores.remote.push import push

N_ROWS, D_MODEL, BATCH, WINDOW = sized((2**16, 576, 2048, 2**15), (2**13, 64, 512, 2**12))
N_EPOCHS = sized(5, 1)
TARGET = 1.10
SETTINGS = TopK.Settings(d_sae=sized(4096, 512), k=32)


@contextmanager
def s3() -> Iterator[str]:
    """A bucket's URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        os.environ[f"AWS_{name}"] = value
    os.environ |= {"AWS_REGION": "us-east-1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
            yield "s3://bucket/acts"
        finally:
            server.kill()


class Trainer:
    """Trains one epoch after another."""

    def __init__(self, where: str | Path, *, learns: bool) -> None:
        self._batches = Batches(ActivationStore.open(where), SITE, batch_size=BATCH, window_rows=WINDOW)
        self._learns, self._step = learns, 0
        self._sae = TopK(SETTINGS, D_MODEL, initial_weights(SETTINGS, D_MODEL, torch.Generator().manual_seed(0)))
        self._objective = Objective({"reconstruction": Reconstruction.Settings()}, self._sae)
        self._adam = Adam.start(TrainingSettings(n_steps=1000, warmup_steps=0), self._sae.parameters())
        self._workspace = Workspace()

    def epoch(self) -> float:
        """Seconds of an epoch."""
        began = time.perf_counter()
        for _ in range(N_ROWS // BATCH):
            rows, _ = self._batches.batch(self._step)
            if self._learns:
                x_BM = to_tensor(rows, torch.device("cpu"))
                gradients = self._objective.forward_backward(x_BM, workspace=self._workspace).gradients
                self._adam.update(self._sae.parameters(), gradients, step=self._step, rate=1e-4, coefficient=1.0)
            self._step += 1
        return time.perf_counter() - began


def main() -> int:
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="strata-remote-") as name, s3() as url:
        folder = Path(name)
        os.environ["STRATA_CACHE"] = str(folder / "cache")
        local = make_store(folder / "local", N_ROWS, D_MODEL, "float32")[0]
        began = time.perf_counter()
        push(local.path, url)
        print(f"push: {time.perf_counter() - began:.1f} s")
        for what, learns in (("batches alone", False), ("with a TopK update", True)):
            sides = {"local": Trainer(local.path, learns=learns), "s3": Trainer(url, learns=learns)}
            first = {side: trainer.epoch() for side, trainer in sides.items()}
            ratios = []
            for number in range(N_EPOCHS):
                seconds = {side: sides[side].epoch() for side in sorted(sides, reverse=bool(number % 2))}
                ratios.append(seconds["s3"] / seconds["local"])
            print(
                f"{what}: first epoch {first['s3']:.2f} s against {first['local']:.2f} s; warm s3 / local median "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )
            worst = statistics.median(ratios)
    print(f"training: {worst:.3f}, at most {TARGET}")
    return int(not met(worst <= TARGET))


if __name__ == "__main__":
    sys.exit(main())
