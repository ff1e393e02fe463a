"""Certification items: the rows that a bundle was certified on, as its model read them, for whatever else is to run it. Runs no model.

MessagePack, bounded before anything is unpacked. A tensor's distinct values are kept once and rows index them; numbers that are few
(a picture has 256 levels a channel) are kept as positions in a table of them, bit for bit, and all of it is deflated. Groups are
numbers: their names stay with whoever made the bundle.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from outrider_wire.errors import BundleDamagedError
from outrider_wire.limits import LABELS, PARTS
from outrider_wire.replay import CertifiedRows, Ladder

ITEMS_FILE = "certification.msgpack"
MAX_ROWS = 50_000
MAX_BYTES = 256 * 1024 * 1024
"""Of a file, and of what is unpacked from it."""
_NAMES = 256
_TABLE = 65_536
"""Different numbers that positions of two bytes can tell apart."""
_Count = Annotated[int, Meta(ge=0, lt=2**31)]
_Row = Annotated[list[_Count], Meta(max_length=MAX_ROWS)]


class _Column(Struct, kw_only=True, frozen=True):
    """Distinct values of one tensor."""

    dtype: Literal["float32", "float16", "int64", "int32", "uint8", "bool"]
    shape: Annotated[list[Annotated[int, Meta(ge=0, lt=2**24)]], Meta(min_length=1, max_length=9)]
    """Of all of them: (distinct, *shape of one)."""
    table: bytes = b""
    """The different numbers, little-endian; empty: ``codes`` are the numbers themselves."""
    width: Literal[1, 2, 4, 8]
    """Bytes of one code."""
    codes: bytes
    """Deflated."""
    rows: _Row
    """Row → position of its value."""


class _File(Struct, kw_only=True, frozen=True):
    certificate: Annotated[str, Meta(max_length=64)]
    tensors: Annotated[dict[str, _Column], Meta(min_length=1, max_length=PARTS)]
    labels: _Row
    groups: _Row
    answers: _Row
    kept: _Row
    """1 or 0."""
    strata: Annotated[list[str], Meta(max_length=_NAMES)] = []
    stratum: _Row = []
    """Row → its place in ``strata``; empty without any."""
    ladders: Annotated[dict[str, Ladder], Meta(min_length=1, max_length=_NAMES)]


_DECODER = msgspec.msgpack.Decoder(_File)


@dataclass(frozen=True, kw_only=True)
class CertificationItems:
    """The rows, with what the certified model did."""

    certificate: str
    """Id of the certificate that they made."""
    rows: CertifiedRows
    _columns: Mapping[str, "_Values"]

    def __len__(self) -> int:
        return len(self.rows.labels)

    @property
    def tensors(self) -> frozenset[str]:
        """What each row has."""
        return frozenset(self._columns)

    def examples(self, start: int, stop: int) -> list[dict[str, NDArray[Any]]]:
        """The tensors of these rows, each as `outrider_engine.model.Model.infer` takes it."""
        places = range(start, min(stop, len(self)))
        return [{name: column.of(row) for name, column in self._columns.items()} for row in places]


@dataclass(frozen=True, kw_only=True)
class _Values:
    """One tensor of all rows, unpacked as far as its codes."""

    codes: NDArray[Any]
    """(distinct, *shape)"""
    table: NDArray[Any] | None
    rows: NDArray[np.int64]

    def of(self, row: int) -> NDArray[Any]:
        """The tensor of one row."""
        codes = self.codes[self.rows[row]]
        found: NDArray[Any] = codes if self.table is None else self.table[codes]
        return found


def encode_items(
    *,
    certificate: str,
    values: Mapping[str, NDArray[Any]],
    index: Mapping[str, NDArray[np.int64]],
    rows: CertifiedRows,
) -> bytes:
    """The file's bytes; the same rows give the same.

    Args:
        certificate: id of the certificate that they made.
        values: tensor → its distinct values (distinct, *shape).
        index: tensor → row → position there.
        rows: the rest of the rows.

    Raises:
        ValueError: there are more than `MAX_ROWS` rows, or a tensor of another type than the format has.
    """
    if len(rows.labels) > MAX_ROWS:
        raise ValueError(f"{len(rows.labels)} rows are more than {MAX_ROWS}")
    names = sorted(set(rows.strata))
    return msgspec.msgpack.encode(
        _File(
            certificate=certificate,
            tensors={name: _packed(array, index[name]) for name, array in sorted(values.items())},
            labels=rows.labels.tolist(),
            groups=rows.groups.tolist(),
            answers=rows.answers.tolist(),
            kept=rows.kept.astype(np.int64).tolist(),
            strata=names,
            stratum=[names.index(each) for each in rows.strata],
            ladders=dict(sorted(rows.ladders.items())),
        )
    )


def decode_items(data: bytes, *, labels: int = LABELS) -> CertificationItems:
    """The items of a file; ``labels``: how many the bundle has.

    Raises:
        BundleDamagedError: it does not parse, contradicts itself, or asks for more memory than `MAX_BYTES` (``items_damaged``).
    """
    if len(data) > MAX_BYTES:
        raise _damaged(f"{len(data)} bytes are more than {MAX_BYTES}")
    try:
        file = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _damaged(str(error)) from error
    n = len(file.labels)
    lengths = {n, len(file.groups), len(file.answers), len(file.kept), *(len(c.rows) for c in file.tensors.values())}
    if not n or len(lengths) > 1 or len(file.stratum) not in (0, n):
        raise _damaged("its columns are of different lengths, or empty")
    if (
        max(*file.labels, *file.answers) >= labels
        or max(file.kept) > 1
        or max(file.stratum, default=-1) >= len(file.strata)
    ):
        raise _damaged("a row names a label or a stratum that there is not")
    if any(len(each.thresholds) != len(each.coverages) for each in file.ladders.values()):
        raise _damaged("a sequence has more thresholds than coverages")
    if sum(math.prod(column.shape) * column.width for column in file.tensors.values()) > MAX_BYTES:
        raise _damaged(f"it unpacks to more than {MAX_BYTES} bytes")
    rows = CertifiedRows(
        labels=np.asarray(file.labels, np.int64),
        groups=np.asarray(file.groups, np.int64),
        strata=[file.strata[place] for place in file.stratum],
        answers=np.asarray(file.answers, np.int64),
        kept=np.asarray(file.kept, np.bool_),
        ladders=file.ladders,
    )
    columns = {name: _unpacked(column) for name, column in file.tensors.items()}
    return CertificationItems(certificate=file.certificate, rows=rows, _columns=columns)


def _packed(array: NDArray[Any], rows: NDArray[np.int64]) -> _Column:
    """Positions in a table where there are few numbers, compared by their bits; else the numbers."""
    dtype: Any = array.dtype.name
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    bits, codes = np.unique(plain.view(f"<u{plain.itemsize}"), return_inverse=True)
    size, table = plain.itemsize, b""
    if len(bits) <= _TABLE and 1 + (len(bits) > 256) < size:
        size = 1 + (len(bits) > 256)
        table = bits.tobytes()
        packed = codes.reshape(array.shape).astype(f"<u{size}").tobytes()
    else:
        packed = plain.tobytes()
    width: Any = size
    shape = list(array.shape)
    return _Column(
        dtype=dtype, shape=shape, table=table, width=width, codes=zlib.compress(packed, 6), rows=rows.tolist()
    )


def _unpacked(column: _Column) -> _Values:
    dtype = np.dtype(column.dtype).newbyteorder("<")
    size = math.prod(column.shape) * column.width
    if not column.table and column.width != dtype.itemsize:
        raise _damaged(f"numbers of {dtype.itemsize} bytes are kept in {column.width}")
    opened = zlib.decompressobj()
    try:
        data = opened.decompress(column.codes, size + 1)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(data) != size or not opened.eof:
        raise _damaged(f"a tensor unpacks to another size than {size} bytes")
    if max(column.rows) >= column.shape[0]:
        raise _damaged("a row names a value that there is not")
    rows = np.asarray(column.rows, np.int64)
    if not column.table:
        return _Values(codes=np.frombuffer(data, dtype).reshape(column.shape), table=None, rows=rows)
    if len(column.table) % dtype.itemsize or column.width > 2:
        raise _damaged("its table of numbers is cut off")
    codes, table = np.frombuffer(data, f"<u{column.width}"), np.frombuffer(column.table, dtype)
    if size and int(codes.max()) >= len(table):
        raise _damaged("a code names a number that there is not")
    return _Values(codes=codes.reshape(column.shape), table=table, rows=rows)


def _damaged(what: str) -> BundleDamagedError:
    return BundleDamagedError(
        f"the certification items are damaged: {what}", reason="items_damaged", fix="fetch or build the bundle again"
    )
