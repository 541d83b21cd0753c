"""What can go wrong between a request and its reply; every message is safe to print and says what to do."""

__all__ = [
    "BudgetError",
    "CassetteError",
    "EndpointError",
    "FMError",
    "NotConfigured",
    "RequestError",
    "SchemaError",
    "UnansweredError",
]


class FMError(RuntimeError):
    """A request to a foundation model that has no reply; the subclass says why."""


class NotConfigured(FMError):
    """No endpoint or no model is named, and the reply is not in the cache either."""


class RequestError(FMError, ValueError):
    """The request itself is wrong: a missing or unreadable image, a parameter out of range; nothing was sent."""


class BudgetError(FMError):
    """The request could exceed a limit; nothing was sent. The message names the limit and what is spent."""


class EndpointError(FMError):
    """The endpoint refuses the request for good (401, 404, …), so it was not repeated; ``status`` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnansweredError(FMError):
    """No usable answer after every allowed attempt: 429, 5xx, timeouts, resets or damaged bodies to the end."""

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts


class SchemaError(FMError):
    """The model answered, again after being told, with something that does not fit the schema; ``text`` is the last."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class CassetteError(FMError):
    """A replayed cassette does not hold the reply to a request, or cannot be read; the network is not touched."""
