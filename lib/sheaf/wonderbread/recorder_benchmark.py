"""How long recording an action takes, against the goal of half a second."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BENCHMARKS", "recording"]

GOAL = 0.5  # seconds an action


def recording(templates: int = 4) -> str:
    """Records one demonstration of each of ``templates`` workflows; starting the browser and the server is apart."""
    from sheaf.common.apps import serve
    from sheaf.common.browser import BrowserMissing, launch
    from sheaf.wonderbread.campaign import LAPTOP, plan, record_job
    from sheaf.wonderbread.recorder import write_recording

    jobs = plan(templates, 1, ["direct"], seed=0)
    begun = time.perf_counter()
    try:
        with serve() as server, launch() as browser, tempfile.TemporaryDirectory(prefix="sheaf-bench-") as scratch:
            ready = time.perf_counter()
            actions = 0
            for job in jobs:
                made = record_job(browser, server, job, LAPTOP)
                folder = Path(scratch) / job.name
                folder.mkdir()
                write_recording(made, folder, job.name, LAPTOP)
                actions += len(made.screenshots) - 1
            took = time.perf_counter() - ready
    except BrowserMissing as error:
        return f"recording: not measured ({error})"
    each = took / actions
    return (
        f"recording: {each:.2f} s an action (goal {GOAL} s: {'met' if each <= GOAL else 'missed'}); {len(jobs)} "
        f"demonstrations, {actions} actions with state and screenshot, {took:.1f} s, after {ready - begun:.1f} s of starting"
    )


BENCHMARKS: dict[str, Callable[[], str]] = {"wonderbread/recording": recording}
