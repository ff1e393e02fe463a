"""python-tuf's errors as Outrider's, in one table. Knows no metadata."""

import contextlib
from collections.abc import Iterator

from tuf.api import exceptions as tuf

from outrider_wire.errors import OutriderError, TrustRefusedError, UnreachableError

_TUF_REASONS = (
    (tuf.ExpiredMetadataError, "metadata_expired", "have it signed again; what runs goes on running"),
    (tuf.UnsignedMetadataError, "metadata_unsigned", "have enough of the role's keys sign it"),
    (tuf.BadVersionNumberError, "metadata_rolled_back", "fetch from a source that has the newest metadata"),
    (tuf.LengthOrHashMismatchError, "metadata_mixed", "fetch again: files of different states were served together"),
    (tuf.DownloadLengthMismatchError, "metadata_too_large", "do not trust that source"),
    (tuf.DownloadHTTPError, "metadata_missing", "the source lacks a file that signed metadata names: publish it again"),
    (tuf.RepositoryError, "metadata_invalid", "do not trust that source"),
    (ValueError, "metadata_invalid", "do not trust that source"),
)
"""The first that fits counts."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises `TrustRefusedError` or `UnreachableError` for what python-tuf raises inside."""
    try:
        yield
    except OutriderError:
        raise
    except Exception as error:
        for kind, reason, fix in _TUF_REASONS:
            if isinstance(error, kind):
                raise TrustRefusedError(f"the metadata is refused: {error}", reason=reason, fix=fix) from error
        if isinstance(error, tuf.DownloadError):
            cause = error.__cause__
            if isinstance(cause, OutriderError):
                raise cause from error
            raise UnreachableError(f"metadata cannot be fetched: {error}", reason="source_unreachable") from error
        raise
