"""What the way notebooks are run costs: CPU per notebook over running its cells directly, and a run with nothing to do.

Measured on a small project made for it: two notebooks of one paper with empty work. Both sides use the same cells in
the same session, so the ratio of machines cancels; CPU seconds of all processes are counted, wall time is shown beside.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Overhead", "main", "measure"]

CPU_TARGET, NOOP_TARGET = 6.0, 10.0  # seconds
NAMES = ("01_one", "02_two")
PAPER = """[paper]
id = "overhead"
title = "Nothing"
authors = ["nobody"]
venue = "none"
year = 2024
summary = "Nothing."
{notebooks}
[profiles.smoke]
[profiles.laptop]
"""
CELLS = (
    'profile = "smoke"\nseed = 0\nresults_dir = None',
    "import pandas as pd\nfrom sheaf import Study\n"
    'study = Study("overhead", notebook="{name}", profile=profile, seed=seed, results_dir=results_dir)',
    'study.table("T{name}", pd.DataFrame({{"x": [1.0]}}))',
    "study.verdicts()",
)
BARE = "import pandas as pd\nframe = pd.DataFrame({'x': [1.0]})\nframe.to_csv()\nprint(frame)"


@dataclass(frozen=True)
class Overhead:
    """Seconds. ``cells``: CPU of a Python process that runs the cells' own work without Study; ``notebook``: CPU per
    notebook through the whole way; ``start``: CPU of a run's own start and end, shared by its notebooks."""

    cells: float
    notebook: float
    fixed: float
    noop_cpu: float
    noop_wall: float

    @property
    def added(self) -> float:
        """CPU added per notebook when a run has two: its own and half of the run's fixed part."""
        return self.notebook + self.fixed / len(NAMES) - self.cells


def _project(root: Path, checkout: Path) -> None:
    for name in ("lib", "kernels"):
        if (checkout / name).is_dir():
            (root / name).symlink_to(checkout / name)
    shutil.copy(checkout / "Snakefile", root)
    (root / "pyproject.toml").write_text("[project]\n")
    folder = root / "notebooks" / "overhead"
    folder.mkdir(parents=True)
    toml = ""
    for name in NAMES:
        cells: list[dict[str, object]] = [
            {"cell_type": "code", "id": f"c{k}", "metadata": {"tags": ["parameters"]} if k == 0 else {}, "outputs": [],
             "execution_count": None, "source": source.format(name=name) if k else source}
            for k, source in enumerate(CELLS)
        ]  # fmt: skip
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        body = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(body))
        toml += f'[[notebook]]\nname = "{name}"\ntitle = "{name}"\n'
    for name in NAMES:
        toml += f'[[table]]\nid = "T{name}"\ntitle = "{name}"\nwhere = "added"\nnotebook = "{name}"\n'
    (folder / "paper.toml").write_text(PAPER.format(notebooks=toml))


def _timed(command: Sequence[str], root: Path) -> tuple[float, float]:
    """CPU seconds (with children) and wall seconds of a command.

    Raises:
        RuntimeError: it failed.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SHEAF_")}
    paths = os.pathsep.join([str(root / "lib"), str(root / "kernels")])
    env = kept | {"PYTHONPATH": paths, "SHEAF_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"measuring the overhead failed: {(done.stdout + done.stderr)[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def measure(root: Path, repeats: int = 3) -> Overhead:
    """Median over ``repeats`` of every part, interleaved."""
    sheaf = [sys.executable, "-m", "sheaf"]
    samples: dict[str, list[float]] = {key: [] for key in ("cells", "two", "one", "noop", "noop_wall")}
    with tempfile.TemporaryDirectory(prefix="sheaf-overhead-") as folder:
        place = Path(folder) / "project"
        place.mkdir()
        _project(place, root)
        reproduce = [*sheaf, "reproduce", "--profile", "smoke", "--jobs", "1"]
        _timed([*reproduce, "--force"], place)  # compiles bytecode, fills caches
        for _ in range(repeats):
            samples["cells"].append(_timed([sys.executable, "-c", BARE], place)[0])
            samples["two"].append(_timed([*reproduce, "--force"], place)[0])
            (place / ".sheaf" / "done" / "smoke" / "overhead" / f"{NAMES[1]}.json").unlink()
            samples["one"].append(_timed(reproduce, place)[0])
            cpu, wall = _timed(reproduce, place)
            samples["noop"].append(cpu)
            samples["noop_wall"].append(wall)
    middle = {key: statistics.median(values) for key, values in samples.items()}
    each = middle["two"] - middle["one"]
    return Overhead(middle["cells"], each, middle["one"] - each, middle["noop"], middle["noop_wall"])


def main(root: Path) -> int:
    """Measure and print; exit code 1 when a target is missed."""
    found = measure(root)
    print("runner overhead, medians in seconds")
    print(f"  CPU per notebook, whole way      {found.notebook:6.2f}")
    print(f"  CPU of the same cells in Python  {found.cells:6.2f}")
    print(f"  CPU of a run, whatever its size  {found.fixed:6.2f}   (plan, Snakemake, report)")
    print(f"  added per notebook, run of two   {found.added:6.2f}   target <= {CPU_TARGET:g}")
    print(f"  nothing to do: wall              {found.noop_wall:6.2f}   target <= {NOOP_TARGET:g} (CPU {found.noop_cpu:.2f})")
    return 0 if found.added <= CPU_TARGET and found.noop_wall <= NOOP_TARGET else 1
