"""Whether an answer fits the schema that was asked for, and what is wrong when it does not."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

__all__ = ["fit"]

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)


def fit(schema: type[BaseModel] | None, text: str) -> tuple[Any, str | None]:
    """The parsed answer and None, or None and what is wrong; JSON inside one code fence is accepted.

    Without a schema every answer fits, and nothing is parsed.
    """
    if schema is None:
        return None, None
    text = text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        return schema.model_validate_json(text), None
    except ValidationError as error:
        # The places and the rules only: the values are the model's, and it has them already.
        found = [f"{'.'.join(map(str, e['loc'])) or 'reply'}: {e['msg']}" for e in error.errors(include_input=False)[:5]]
        return None, "; ".join(found)[:500]
