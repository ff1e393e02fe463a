"""Every fault that is simulated, in one table, and which of them this machine can cause."""

from collections.abc import Mapping, Sequence

from outrider.sim import fault_lines, fault_processes, fault_resources
from outrider.sim.fault import Fault
from outrider.sim.power.lives import LIVES
from outrider.sim.power.mounted import missing
from outrider.sim.world import Kind
from outrider_wire.errors import OperatorConfigError

FAULTS: Mapping[str, Fault] = {
    fault.name: fault for fault in (*fault_processes.FAULTS, *fault_lines.FAULTS, *fault_resources.FAULTS)
}
"""Of a whole system."""
POWER_CUTS: Mapping[str, str] = {f"power-cut-{name}": name for name in LIVES}
"""Name → what lives on the disk whose power goes."""
NAMES: Sequence[str] = (*FAULTS, *POWER_CUTS)


def impossible(name: str, broker: Kind) -> str:
    """Why this fault cannot be caused here; '' when it can."""
    needs = FAULTS[name].needs if name in FAULTS else frozenset({"disks"})
    if "disks" in needs and (problem := missing()):
        return problem
    if "mosquitto" in needs and broker != "mosquitto":
        return "the embedded broker remembers nothing: take --broker mosquitto"
    return ""


def chosen(names: Sequence[str]) -> Sequence[str]:
    """These, or all when none is named.

    Raises:
        OperatorConfigError: there is no such fault.
    """
    for name in names:
        if name not in NAMES:
            raise OperatorConfigError(
                f"there is no fault {name!r}", reason="unknown_fault", fix=f"name some of: {', '.join(NAMES)}"
            )
    return names or NAMES
