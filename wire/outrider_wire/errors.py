"""Every error Outrider raises on purpose, and whose move it is. Knows nothing of HTTP, MQTT or exit screens.

The first word of a name is the guilty side::

    OutriderError
    ├── OperatorError            whoever configured or started this process
    │   ├── OperatorConfigError      a file, flag or variable does not hold what it must
    │   └── OperatorSetupError       the machine lacks something: a port, a library, a broker
    ├── CallerError              the application that submitted an input
    │   ├── CallerInputError         a part is missing, extra, damaged, of the wrong type or too large
    │   └── CallerUnknownError       no such task, input or file
    ├── PeerError                the other end of the wire
    │   ├── PeerMessageError         bytes that do not parse, or exceed a bound
    │   └── PeerVersionError         a wire version that this side does not serve
    ├── BundleError              whoever made or moved the model bundle
    │   ├── BundleDamagedError       a file is missing, truncated, or has another digest
    │   ├── BundleUnsafeError        it asks for something no bundle may do
    │   └── BundleMismatchError      sound, but not for this task, runtime or certificate
    ├── TrustError               whoever signs, serves or keeps what says which releases there are
    │   ├── TrustRefusedError        not signed as it must be, expired, older than what was seen, or of another kind
    │   ├── TrustDamagedError        what this device keeps of it is not what it wrote
    │   └── TrustClockError          this device's clock is behind what it has proof of
    ├── RuleRefusalError         nobody's fault: a gate, certificate or policy says no
    ├── UnreachableError         a broker, server or device does not answer
    └── UndecidedError           the time ran out before there was an answer

``reason`` is a stable snake_case code (it appears on the wire, in metrics and in ``--json``); ``fix`` is the way out, in words.
"""

from typing import ClassVar


class OutriderError(Exception):
    """Base of the tree. ``str()`` gives one sentence that says what is wrong and what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, reason: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


class OperatorError(OutriderError):
    """Whoever configured or started this process must act."""

    exit_code = 2


class OperatorConfigError(OperatorError):
    """A configuration file, flag or environment variable does not hold what it must."""


class OperatorSetupError(OperatorError):
    """The machine lacks something: a free port, a library, a writable folder."""


class CallerError(OutriderError):
    """The application that submitted an input must act."""


class CallerInputError(CallerError):
    """A part of the input is missing, extra, damaged, of the wrong type, or too large."""

    def __init__(self, what: str, *, reason: str, fix: str = "", part: str = "") -> None:
        super().__init__(what, reason=reason, fix=fix)
        self.part = part


class CallerUnknownError(CallerError):
    """The caller named a task, input or file that does not exist here."""


class PeerError(OutriderError):
    """The other end of the wire sent something it should not have."""


class PeerMessageError(PeerError):
    """Bytes that do not parse, or exceed a bound."""


class PeerVersionError(PeerError):
    """A wire version that this side does not serve."""


class BundleError(OutriderError):
    """Whoever made or moved the bundle must act."""

    exit_code = 3


class BundleDamagedError(BundleError):
    """A file is missing, truncated, or has another digest than the manifest says."""


class BundleUnsafeError(BundleError):
    """The bundle asks for something no bundle may do: a path outside itself, external data, a foreign operator."""


class BundleMismatchError(BundleError):
    """A sound bundle, but not for this task, runtime, provider or certificate."""


class TrustError(OutriderError):
    """Nothing new may be believed now; what runs goes on running."""

    exit_code = 3


class TrustRefusedError(TrustError):
    """Metadata, an order or a stop that is not signed as it must be, has expired, is older than what was seen, or is of another kind."""


class TrustDamagedError(TrustError):
    """What this device keeps of the metadata is not what it wrote: it refuses rather than forget what it had seen."""


class TrustClockError(TrustError):
    """The clock stands before a moment that is known to have passed, so that nothing would ever expire."""


class RuleRefusalError(OutriderError):
    """A gate, certificate or policy refuses; the figures are in the sentence."""

    exit_code = 3


class UnreachableError(OutriderError):
    """A broker, server or device does not answer."""

    exit_code = 4


class UndecidedError(OutriderError):
    """The time ran out before there was an answer."""

    exit_code = 5
