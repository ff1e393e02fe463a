"""Which operators an ONNX file of a given opset may hold, as the ``onnx`` package tells. Reads no bytes of a model."""

import re
from collections.abc import Mapping

from outrider_engine.walk import ModelFacts
from outrider_wire.errors import OperatorConfigError


def check_operators(facts: ModelFacts) -> None:
    """Refuses a file whose operators its own opset has not, or whose opset the ``onnx`` package here does not know.

    Raises:
        OperatorConfigError: names the operator, with the opset that has it.
    """
    from onnx import defs

    newest = defs.onnx_opset_version()
    if facts.opset > newest:
        raise OperatorConfigError(
            f"the ONNX file is of opset {facts.opset}, and this machine knows opsets up to {newest}",
            reason="unsupported_opset",
            fix=f"export it with opset {newest} or an older one",
        )
    known = first_opsets()
    for operator in facts.operators:
        if "." in operator:
            continue  # of another domain: the walk has its own table of these
        first = known.get(operator)
        if first is None or first > facts.opset:
            raise OperatorConfigError(
                f"the ONNX file uses operator {operator}, which opset {facts.opset} has not",
                reason="unsupported_operator",
                fix=f"ONNX has {operator} since opset {first}: export it with that one or a newer one"
                if first
                else f"no opset up to {newest} has it: replace it by operators that ONNX has",
            )


def first_opsets() -> Mapping[str, int]:
    """Operator of the default domain → the first opset that has it."""
    from onnx import defs

    found: dict[str, int] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            found[schema.name] = min(schema.since_version, found.get(schema.name, schema.since_version))
    return found


def untranslated(said: str, opset: int) -> OperatorConfigError | None:
    """The error for a torch operator that has no form in ONNX, from what torch's exporter said; None: it said something else."""
    named = re.search(r"target=torch\.ops\.(\w+)\.(\w+)", said)
    if named is None:
        return None
    plain = named[2].strip("_").replace("_", "").lower()
    first = next((first for name, first in first_opsets().items() if name.lower() == plain), 0)
    if first > opset:
        fix = f"ONNX has it since opset {first}, and what is exported here is of opset {opset}: compute it from other operators"
    else:
        fix = f"no operator of opset {opset} computes it: replace it in the module's forward()"
    return OperatorConfigError(
        f"operator {named[1]}.{named[2]} of the module has no form in ONNX", reason="unsupported_operator", fix=fix
    )
