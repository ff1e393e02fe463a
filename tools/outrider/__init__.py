"""Outrider for applications: ``outrider.Client`` asks the agent on this machine. Importing it loads nothing else.

::

    import outrider

    with outrider.Client() as client:
        report = client.ask("easy-vqa", {"image": Path("photo.jpg"), "question": "what shape is it?"})
        print(report.label, report.answered_by, report.certified)

Every error is an `outrider.OutriderError`; the tree is drawn in `outrider_wire.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.client import AsyncClient, Client
    from outrider.exchange import Ended
    from outrider_wire.errors import (
        CallerInputError,
        CallerUnknownError,
        OutriderError,
        PeerError,
        RuleRefusalError,
        UndecidedError,
        UnreachableError,
    )
    from outrider_wire.report import Account, AnswerReport

__version__ = "0.1.0"

__all__ = [
    "Account",
    "AnswerReport",
    "AsyncClient",
    "CallerInputError",
    "CallerUnknownError",
    "Client",
    "Ended",
    "OutriderError",
    "PeerError",
    "RuleRefusalError",
    "UndecidedError",
    "UnreachableError",
]

_HOME = {
    "AsyncClient": "outrider.client",
    "Client": "outrider.client",
    "Ended": "outrider.exchange",
    "Account": "outrider_wire.report",
    "AnswerReport": "outrider_wire.report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "outrider_wire.errors")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
