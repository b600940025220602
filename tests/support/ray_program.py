"""A command with workers on a Ray cluster that save when it is asked to end. Usage: ray_program.py ADDRESS FOLDER."""

import sys
from functools import partial
from pathlib import Path

from strata_sae.pipeline import stopping
from strata_sae.pipeline.engines.ray_cluster import RayCluster, Resources
from strata_sae.pipeline.errors import StoppedError
from support.cheap_workers import save_when_asked

if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    stopping.listen()
    try:
        RayCluster(address, 2, Resources(1, 0), folder / "engine").run(partial(save_when_asked, folder), lambda: 0)
    except StoppedError:
        sys.exit(143)
