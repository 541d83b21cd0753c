"""The one way to a foundation model: typed requests, cached replies, bounded retries and spending, no key on disk.

    client = Client.from_environment()
    if client.available():
        reply = client.ask(Request("You automate workflows.", ["What does this show?", Path("frame.png")]))

Everything answered is stored before it is returned, so a run that was killed continues where it ended.
"""

from sheaf.common.fm.backoff import Backoff, Counters
from sheaf.common.fm.budget import Budget, Ledger, Spent
from sheaf.common.fm.cache import Cache
from sheaf.common.fm.cassette import Cassette
from sheaf.common.fm.client import Client, available
from sheaf.common.fm.errors import (
    BudgetError,
    CassetteError,
    EndpointError,
    FMError,
    NotConfigured,
    RequestError,
    SchemaError,
    UnansweredError,
)
from sheaf.common.fm.request import Answer, Reply, Request, Usage

__all__ = [
    "Answer",
    "Backoff",
    "Budget",
    "BudgetError",
    "Cache",
    "Cassette",
    "CassetteError",
    "Client",
    "Counters",
    "EndpointError",
    "FMError",
    "Ledger",
    "NotConfigured",
    "Reply",
    "Request",
    "RequestError",
    "SchemaError",
    "Spent",
    "UnansweredError",
    "Usage",
    "available",
]
