"""Four business applications behind a real server, workflows people do in them, and the procedures they write down.

``serve()`` starts the applications, ``WORKFLOWS`` says what can be done in them, a ``Driver`` does it, and each
workflow's ``check`` asks the database whether the goal was reached.
"""

from sheaf.common.apps.catalogue import SITES, WORKFLOWS, task_id
from sheaf.common.apps.driver import Driver, PageDriver
from sheaf.common.apps.server import AppServer, ServerError, serve
from sheaf.common.apps.sops import DEFECTS, gold_sop, original_sop, ranked_sops
from sheaf.common.apps.workflow import POLICIES, Workflow

__all__ = [
    "DEFECTS", "POLICIES", "SITES", "WORKFLOWS", "AppServer", "Driver", "PageDriver", "ServerError", "Workflow",
    "gold_sop", "original_sop", "ranked_sops", "serve", "task_id",
]  # fmt: skip
