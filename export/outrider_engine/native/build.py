"""One engine built from one ONNX model, here and now. Knows no cache and no processes; `outrider_engine.native.build_child` calls it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from outrider_engine.native.adapters import Adapter
from outrider_engine.native.library import Library, Network, Parser, logger_of
from outrider_engine.native.target import MAX_BATCH, Target
from outrider_wire.errors import BundleMismatchError

Tell = Callable[[str, float], None]
"""Told the phase, and the share of the whole that is done, 0 to 1."""


class Built(NamedTuple):
    """What came of a build."""

    engine: bytes
    saved: bytes
    """What makes the next build faster; empty: nothing does."""


def build_engine(
    data: bytes, target: Target, *, adapter: Adapter, library: Library, saved: bytes = b"", tell: Tell
) -> Built:
    """Builds an engine, on one thread.

    Args:
        data: the ONNX model, which has been walked.
        target: for what.
        adapter: of the same library.
        library: the module.
        saved: as `Built.saved` of an earlier build.
        tell: told the progress.

    Raises:
        BundleMismatchError: the library cannot read the model, or makes no engine of it (``engine_refused``).
        OperatorSetupError: the library does not build for that GPU.
    """
    told: list[str] = []
    logger = logger_of(library, told)
    builder = library.Builder(logger)
    builder.max_threads = 1
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(data):
        raise _refused(adapter.name, "cannot read the model", [*_errors(parser), *told])
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    monitor = monitor_of(library, tell)
    config.progress_monitor = monitor
    adapter.configure(library, config, target, saved)
    if (profile := _profile(builder.create_optimization_profile(), network)) is not None:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(adapter.name, "makes no engine of the model", told)
    return Built(bytes(plan), adapter.harvest(config))


def _profile(profile: Any, network: Network) -> Any | None:
    """A profile of batches from 1 to `MAX_BATCH`; None where the model leaves no size open.

    Raises:
        BundleMismatchError: it leaves another size open than the batch.
    """
    open_ones = 0
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise BundleMismatchError(
                f"input {tensor.name!r} of shape {shape} leaves another size open than its batch",
                reason="dynamic_shape",
                fix="export the model with fixed sizes, or run it on ONNX Runtime",
            )
        if shape and shape[0] < 0:
            open_ones += 1
            profile.set_shape(tensor.name, _of(shape, 1), _of(shape, 1), _of(shape, MAX_BATCH))
    return profile if open_ones else None


def _of(shape: Sequence[int], batch: int) -> tuple[int, ...]:
    return (batch, *shape[1:])


def monitor_of(library: Library, tell: Tell) -> Any:
    """A progress monitor of the library's own kind: the share is that of the outermost phase, refined by the one inside it."""
    steps: dict[str, int] = {}
    done: dict[str, int] = {}
    nested: list[str] = []

    def share() -> float:
        found, width = 0.0, 1.0
        for phase in nested[:3]:
            width /= max(1, steps[phase])
            found += width * min(done[phase], steps[phase] - 1 if phase != nested[-1] else steps[phase])
        return min(1.0, found)

    def phase_start(self: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        steps[phase_name], done[phase_name] = num_steps, 0
        nested.append(phase_name)
        tell(phase_name, share())

    def step_complete(self: Any, phase_name: str, step: int) -> bool:
        done[phase_name] = step + 1
        tell(phase_name, share())
        return True

    def phase_finish(self: Any, phase_name: str) -> None:
        if phase_name in nested:
            del nested[nested.index(phase_name) :]

    def init(self: Any) -> None:
        library.IProgressMonitor.__init__(self)

    methods = {
        "__init__": init,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("Tells", (library.IProgressMonitor,), methods)()


def _errors(parser: Parser) -> list[str]:
    return [" ".join(str(parser.get_error(index)).split())[:400] for index in range(parser.num_errors)]


def _refused(name: str, what: str, told: Sequence[str]) -> BundleMismatchError:
    said = f": {told[0]}" if told else ""
    return BundleMismatchError(
        f"{name} {what}{said}", reason="engine_refused", fix="the model goes on answering on ONNX Runtime"
    )
