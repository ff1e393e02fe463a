"""How a bundle becomes a model here: which variant, on which execution providers, under which bounds. Knows no model's inside."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider_edge.config import RuntimeSettings
from outrider_edge.updates.jobs import SelfTest
from outrider_edge.updates.starting import Load
from outrider_engine.bundle import Bundle, open_bundle
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.model import Model, load_model
from outrider_engine.providers import usable, wish
from outrider_engine.resident import Residents
from outrider_engine.selftest import SelfTestReport, run_selftest
from outrider_engine.session import RunOptions, graph_cache, load_runtime
from outrider_wire.errors import BundleError
from outrider_wire.images import Decode
from outrider_wire.manifest import Manifest, Precision, Variant
from outrider_wire.task import Task

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


@dataclass(frozen=True, kw_only=True)
class LoadTerms:
    """How every model of an agent is loaded."""

    providers: tuple[str, ...]
    """ONNX Runtime's that are here, in order; (): the one that the bundle names."""
    precisions: Sequence[Precision]
    """In order of preference; empty: as the bundle orders its variants."""
    options: RunOptions
    residents: Residents
    decode: Decode

    def variant(self, manifest: Manifest) -> Variant:
        """Which of a bundle's variants runs here."""
        return manifest.variant_for(self.precisions, self.providers[0] if self.providers else "")


def load_terms(settings: RuntimeSettings, cache: CacheFolder, decode: Decode) -> LoadTerms:
    """The terms of a configuration, optimised graphs kept in ``cache``. Errors as `providers_of`."""
    return LoadTerms(
        providers=providers_of(settings),
        precisions=settings.precisions,
        options=RunOptions(
            threads=settings.threads,
            arena=settings.arena,
            spinning=settings.spinning,
            io_binding=settings.io_binding,
            graphs=graph_cache(cache),
        ),
        residents=Residents(bytes_of(settings.models_mb)),
        decode=decode,
    )


def loader(task: Task, terms: LoadTerms) -> Load:
    """Loads this task's models."""

    def load(bundle: Bundle) -> Model:
        variant = terms.variant(bundle.manifest)
        model = load_model(
            bundle,
            options=terms.options,
            variant=variant.name,
            providers=terms.providers or None,
            bounds=task.inputs,
            decode=terms.decode,
            residents=terms.residents,
        )
        say_provider(task.name, model, terms.providers)
        if model.certified and model.manifest.certificate is not None:
            log.warning("model.uncertified", extra={"task": task.name, "variant": variant.name, "why": model.certified})
        return model

    return load


def self_test(terms: LoadTerms) -> SelfTest:
    """Tests, in a limited child, the variant of a bundle that will run here."""

    def tested(folder: Path) -> SelfTestReport:
        try:
            variant = terms.variant(open_bundle(folder).manifest).name
        except BundleError as error:
            return SelfTestReport(ok=False, reason=error.reason, detail=str(error))
        return run_selftest(folder, variant=variant)

    return tested


def bytes_of(megabytes: int | None) -> int | None:
    """Of MB of 2^20 bytes; None: no bound."""
    return None if megabytes is None else megabytes << 20
