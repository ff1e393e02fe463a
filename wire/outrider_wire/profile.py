"""A device profile: what a kind of board has, and how the agent behaves on it. Knows no file, no machine and no runtime."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import Precision
from outrider_wire.names import END, Name
from outrider_wire.settings import parse_toml

NATIVE_PROVIDERS = ("tensorrt", "tensorrt_rtx")
"""Engines that run a model without ONNX Runtime."""
OnnxProvider = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9]{{1,56}}ExecutionProvider{END}")]
"""A name of ONNX Runtime's: ``CUDAExecutionProvider``."""
Provider = Annotated[str, Meta(pattern=rf"^([A-Za-z0-9]{{1,56}}ExecutionProvider|{'|'.join(NATIVE_PROVIDERS)}){END}")]
"""One of these, or of `NATIVE_PROVIDERS`."""
OnnxProviders = Annotated[list[OnnxProvider], Meta(max_length=16)]
Providers = Annotated[list[Provider], Meta(max_length=16)]
Celsius = Annotated[float, Meta(ge=20.0, le=150.0)]
Folder = Annotated[str, Meta(pattern=rf"^(/[A-Za-z0-9._-]+){{1,16}}{END}", max_length=256)]
"""An absolute path."""
Text = Annotated[str, Meta(max_length=512)]
Zone = Annotated[str, Meta(min_length=1, max_length=64)]


class Hardware(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the board is: compared with the machine by the doctor."""

    arch: Literal["x86_64", "aarch64"]
    memory_mb: Annotated[int, Meta(ge=64, le=16_777_216)] | None = None
    """The least that the board is sold with; None: any."""
    compute_capability: Annotated[str, Meta(pattern=rf"^([0-9]{{1,2}}\.[0-9])?{END}")] = ""
    """Of its CUDA GPU; '' without one."""
    compatible: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=16)] = []
    """Entries of the device tree's ``compatible``, any of which names this board; empty: not told by it."""


class RuntimeTerms(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How models run."""

    providers: Annotated[list[Provider], Meta(min_length=1, max_length=16)] = field(
        default_factory=lambda: ["CPUExecutionProvider"]
    )
    """In order of preference; one that is not installed is left out, and said."""
    required: OnnxProviders = []
    """Those without which the agent does not start."""
    precisions: Annotated[list[Precision], Meta(max_length=8)] = []
    """In order of preference, of what this hardware runs well; empty: as the bundle orders them."""
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    """Threads within one operator."""


class LimitTerms(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the agent may take of the board."""

    models_mb: Annotated[int, Meta(ge=1, le=16_777_216)] | None = None
    """Memory for loaded models; None: no limit of its own."""
    cache_mb: Annotated[int, Meta(ge=0, le=16_777_216)] | None = None
    """Disk for optimised graphs and engines; None: no limit of its own."""
    outbox_mb: Annotated[int, Meta(ge=1, le=16_777_216)] | None = None
    """Disk for what waits for the cloud; None: as `edge.toml` says."""


class PowerMode(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One mode of ``nvpmodel``, by the name in ``/etc/nvpmodel.conf``: the numbers differ between releases."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    watts: Annotated[float, Meta(gt=0, le=1000)] | None = None
    use: Text = ""
    """When it is the right one."""


class PowerTerms(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Hints: nothing here is set by the agent."""

    modes: Annotated[list[PowerMode], Meta(max_length=16)] = []
    """The advised one first."""


class ThermalTerms(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When the agent lowers its rate, so that the chip need not."""

    enabled: bool = False
    zones: Annotated[list[Zone], Meta(max_length=32)] = []
    """Patterns (``*`` and ``?``) of the zones' types that count; empty: all."""
    throttle_c: Celsius | None = None
    """Where the chip throttles; a zone's own passive trip point counts where it is lower. None: only zones that name one are watched."""
    margin_c: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """With less headroom than this the rate is lowered, a step every `every_s`."""
    hysteresis_c: Annotated[float, Meta(gt=0, le=30)] = 4.0
    """The rate is raised again, a step at a time, with this much more headroom than `margin_c`."""
    least_duty: Annotated[float, Meta(ge=0.01, le=1.0)] = 0.1
    """The lowest rate: the share of the time that models may run."""
    every_s: Annotated[float, Meta(ge=0.05, le=60)] = 2.0
    path: Folder = "/sys/class/thermal"
    """Where the zones are read."""


class StorageTerms(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where things are kept."""

    data_dir: Folder | None = None
    """Outbox, slots and keys: must survive a reboot and an update of the system. None: as `edge.toml` says."""
    cache_dir: Folder | None = None
    """What can be made again."""


class Profile(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole of a profile. Every setting in it gives way to the same one in `edge.toml`."""

    name: Name
    description: Text = ""
    tested: Text = ""
    """On what it has run; '': on nothing, and the figures are the makers'."""
    hardware: Hardware
    runtime: RuntimeTerms = RuntimeTerms()
    limits: LimitTerms = LimitTerms()
    power: PowerTerms = PowerTerms()
    thermal: ThermalTerms = ThermalTerms()
    storage: StorageTerms = StorageTerms()


def parse_profile(text: str, source: str) -> Profile:
    """A profile from its TOML text.

    Raises:
        OperatorConfigError: ``source``, the line, what is wrong there, and for an unknown key the nearest known one.
    """
    profile = parse_toml(text, Profile, source)
    runtime = profile.runtime
    if extra := [name for name in runtime.required if name not in runtime.providers]:
        raise _wrong(source, f"runtime.required names {extra[0]}, which runtime.providers does not", "add it there")
    for key, values in (("providers", runtime.providers), ("precisions", runtime.precisions)):
        if len(set(values)) < len(values):
            raise _wrong(source, f"runtime.{key} names one twice", "name each once")
    return profile


def _wrong(source: str, what: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(f"{source}: {what}", reason="invalid_value", fix=fix)
