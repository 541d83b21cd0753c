"""All workflows by name, and the number of each task (one filling of a workflow's slots)."""

from sheaf.common.apps.hospital.workflows import WORKFLOWS as HOSPITAL
from sheaf.common.apps.payables.workflows import WORKFLOWS as PAYABLES
from sheaf.common.apps.server import SITES
from sheaf.common.apps.store.workflows import WORKFLOWS as STORE
from sheaf.common.apps.support.workflows import WORKFLOWS as SUPPORT
from sheaf.common.apps.workflow import Workflow

__all__ = ["SITES", "WORKFLOWS", "task_id"]

WORKFLOWS: dict[str, Workflow] = {w.id: w for w in (*HOSPITAL, *PAYABLES, *SUPPORT, *STORE)}


def task_id(workflow: Workflow, filling: int) -> int:
    """The number of a task: 1000 for each site, 10 for each of its workflows, then the filling; stable over versions.

    Raises:
        ValueError: the workflow has no such filling, or is none of ``WORKFLOWS``.
    """
    if workflow.id not in WORKFLOWS:
        raise ValueError(f"no workflow {workflow.id!r}; workflows: {', '.join(WORKFLOWS)}")
    if not 0 <= filling < len(workflow.fillings):
        raise ValueError(f"{workflow.id} has fillings 0 to {len(workflow.fillings) - 1}; got {filling}")
    own = [w for w in WORKFLOWS if w.startswith(f"{workflow.site}/")]
    return 1000 * (SITES.index(workflow.site) + 1) + 10 * own.index(workflow.id) + filling
