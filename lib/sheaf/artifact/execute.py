"""The process in which papermill runs one notebook; started and watched by `run`, it only reports how the run ended.

Called as ``python -m sheaf.artifact.execute JOB.json``. Exit code 0 says that an outcome was written, not that it is good.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _papermill(job: dict[str, Any]) -> dict[str, Any]:
    # jsonschema compiles a grammar of addresses when this package is there: two seconds for a check notebooks do not need
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # IPC sockets in a folder of this job's own: TCP ports are lost to races when many kernels start at once, and a
    # kernel that lost one hangs without a word. The client treats `ip` as the path that the socket names start with.
    # Its connection file lies there too: in the folder for temporary files one would stay behind after every crash.
    own = {"transport": "ipc", "ip": job["sockets"] + "/k", "connection_file": job["sockets"] + "/kernel.json"}
    config = Config({"KernelManager": own})
    source, output = (job[name].replace("{", "{{").replace("}", "}}") for name in ("notebook", "output"))  # it formats paths
    try:
        papermill.execute_notebook(
            source, output, parameters=job["parameters"], kernel_name="python3", config=config,
            cwd=job["cwd"], progress_bar=False, log_output=True, start_timeout=120, autosave_cell_every=0,
        )  # fmt: skip
    except PapermillExecutionError as error:
        trace = error.traceback
        return {
            "status": "raised",
            "ename": error.ename,
            "evalue": error.evalue,
            "traceback": trace if isinstance(trace, str) else "\n".join(trace),
        }
    except (DeadKernelError, RuntimeError) as error:  # nbclient raises RuntimeError when the kernel never answers
        return {"status": "died", "why": f"{type(error).__name__}: {error}"}
    return {"status": "ran"}


def main(argv: list[str]) -> int:
    """Execute the notebook that the order in the file ``argv[0]`` names; 0 when every cell ran."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("traitlets", "asyncio", "papermill.translators", "blib2to3.pgen2.driver"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    outcome = _papermill(job)
    Path(job["outcome"]).write_text(json.dumps(outcome), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
