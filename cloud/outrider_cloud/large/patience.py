"""How long a server that fails is waited for, and when it is left alone. Pure: time and chance are arguments.

::

    closed ── LIMIT exchanges in a row fail ──> open ── pause_s ──> half open ── one succeeds ──> closed
                                                  ^                     │ it fails
                                                  └─────────────────────┘
"""

FIRST_S = 0.5
LONGEST_S = 30.0
LIMIT = 3
PAUSE_S = 10.0


def backoff_s(attempt: int, chance: float, asked_s: float | None = None) -> float:
    """Seconds before attempt number ``attempt`` (from 1) is repeated.

    Args:
        attempt: how many have failed.
        chance: uniform in [0, 1): spreads clients that failed together over half to one and a half times the pause.
        asked_s: what the server's Retry-After says: then at least that.
    """
    own: float = min(LONGEST_S, FIRST_S * 2 ** (attempt - 1)) * (0.5 + chance)
    return own if asked_s is None else max(0.0, asked_s) + own * 0.1


def retry_after_s(header: str | None) -> float | None:
    """The seconds in a Retry-After header (RFC 9110, section 10.2.3); None where it holds no plain number."""
    try:
        seconds = float(header) if header else None
    except ValueError:
        return None  # a date: our clock need not be the server's
    return seconds if seconds is not None and 0 <= seconds <= 86_400 else None


class Breaker:
    """Keeps a server that is down from being asked again and again."""

    def __init__(self, *, limit: int = LIMIT, pause_s: float = PAUSE_S) -> None:
        self._limit = limit
        self._pause_s = pause_s
        self._failures = 0
        self._until: float | None = None

    @property
    def closed(self) -> bool:
        """Whether the server is trusted."""
        return self._until is None

    def left_s(self, now: float) -> float:
        """Seconds until it may be asked; 0: now. When the pause is over one exchange is let through, and the next pause begins."""
        if self._until is None:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self._pause_s
        return 0.0

    def failed(self, now: float) -> None:
        """An exchange came to nothing."""
        self._failures += 1
        if self._failures >= self._limit:
            self._until = now + self._pause_s

    def succeeded(self) -> None:
        """The server answered."""
        self._failures, self._until = 0, None
