"""The updates of the device on this machine, through its agent. Prints nothing."""

import json
from contextlib import closing
from typing import Any

from outrider.exchange import AGENT, START, decoded
from outrider.transport import Transport

TIMEOUT_S = 120.0
"""A folder on a slow stick is read, and its metadata verified, before the reply."""


def ask(address: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the local API.

    Raises:
        OutriderError: as the agent tells it, or that there is none.
    """
    data = None if body is None else json.dumps(body).encode()
    with closing(Transport(address, what=AGENT, start=START, timeout_s=TIMEOUT_S)) as http:
        reply = http.request(method, path, body=data, headers={"Content-Type": "application/json"} if data else None)
    return decoded(reply.status, reply.body, dict[str, Any])
