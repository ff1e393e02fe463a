"""On which execution providers models run here, and what is said of those that are not there. Knows no model's inside."""

import logging
from collections.abc import Sequence

from outrider_edge.config import RuntimeSettings
from outrider_engine.model import Model
from outrider_engine.providers import usable, wish
from outrider_engine.session import load_runtime

log = logging.getLogger(__name__)


def providers_of(settings: RuntimeSettings) -> tuple[str, ...]:
    """ONNX Runtime's wanted providers that this machine has, in their order; () where none is wanted. Says why the others are left out.

    Raises:
        OperatorSetupError: there is not exactly one ONNX Runtime here, or it lacks one that is required, or all of them.
    """
    wanted = wish(settings.providers).onnx
    if not wanted:
        return ()
    found = usable(wanted, load_runtime().get_available_providers(), required=settings.required)
    for each in found.absent:
        log.warning(
            "provider.absent",
            extra={
                "provider": each.provider,
                "instead": found.providers[0],
                "profile": settings.profile,
                "fix": each.fix,
            },
        )
    return found.providers


def say_provider(task: str, model: Model, wanted: Sequence[str]) -> None:
    """A provider that is built in and does not work here (no driver, no GPU) makes way without an error: it is said."""
    runs_on = model.variant.provider
    if wanted and runs_on != wanted[0]:
        log.warning("provider.fell_back", extra={"task": task, "provider": wanted[0], "instead": runs_on})
