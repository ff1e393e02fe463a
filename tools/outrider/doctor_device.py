"""Checks of a device: does its profile fit, on what do its models run, are its slots sound. Changes nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from outrider.doctor_findings import Finding, Subject
from outrider_wire.errors import OutriderError
from outrider_wire.profile import Profile


def profile(subject: Subject) -> Iterator[Finding]:
    """Whether the profile that the configuration names is this machine's, or which one would be."""
    from outrider.machine import best_fit, misfits, this_machine
    from outrider_edge.profile import known, load_profile

    if subject.edge is None:
        return
    machine, named = this_machine(), subject.edge.runtime.profile
    best = best_fit((load_profile(name, Path()) for name in known()), machine)
    advice = f'set [runtime] profile = "{best.name}"' if best is not None else "write one: docs/profiles.md"
    if not named:
        if best is not None and best.hardware.compatible:
            yield Finding(check="profile", level="warning", what=f"none, and this is a {best.description}", fix=advice)
        else:
            yield Finding(check="profile", level="ok", what="none")
        return
    try:
        chosen = load_profile(named, Path())
    except OutriderError as error:
        yield Finding(check="profile", level="bad", what=error.what, fix=error.fix)
        return
    wrong = misfits(chosen, machine)
    if wrong:
        yield Finding(check="profile", level="warning", what=f"{chosen.name}: {'; '.join(wrong)}", fix=advice)
    else:
        yield Finding(check="profile", level="ok", what=f"{chosen.name} fits this machine")
    yield from _power(chosen)
    yield from _thermal(subject.edge.thermal)


def _power(chosen: Profile) -> Iterator[Finding]:
    from outrider.machine import power_mode

    modes = [mode.name for mode in chosen.power.modes]
    found = power_mode() if modes else ""
    if found and found not in modes:
        fix = f"advised: {', '.join(modes)}; sudo nvpmodel -p --verbose lists their numbers"
        yield Finding(check="power mode", level="warning", what=found, fix=fix)
    elif found:
        yield Finding(check="power mode", level="ok", what=found)


def _thermal(terms: Any) -> Iterator[Finding]:
    from outrider_edge.thermal.rules import headroom
    from outrider_edge.thermal.zones import read_zones

    if not terms.enabled:
        return
    left = headroom(read_zones(Path(terms.path), terms.zones), terms)
    if left is None:
        fix = "set thermal.throttle_c and thermal.zones, or thermal.enabled = false"
        yield Finding(check="temperature", level="warning", what="no zone tells when it throttles", fix=fix)
    elif left < terms.margin_c:
        what = f"{left:.0f} degrees until the chip throttles: the agent slows down"
        yield Finding(check="temperature", level="warning", what=what, fix="cool the board, or give it less to do")
    else:
        yield Finding(check="temperature", level="ok", what=f"{left:.0f} degrees until the chip throttles")


def provider(subject: Subject) -> Iterator[Finding]:
    """On what the models will run, and what that does to their certificates."""
    from outrider_engine.bundle import open_bundle
    from outrider_engine.providers import usable, wish
    from outrider_engine.session import load_runtime

    if subject.edge is None:
        return
    settings = subject.edge.runtime
    try:
        found = usable(
            wish(settings.providers).onnx, load_runtime().get_available_providers(), required=settings.required
        )
    except OutriderError as error:
        yield Finding(check="provider", level="bad", what=error.what, fix=error.fix)
        return
    for each in found.absent:
        what = f"{each.provider} is wanted and not there; {found.providers[0]} takes its place"
        yield Finding(check="provider", level="warning", what=what, fix=each.fix)
    for entry in subject.edge.tasks:
        try:
            bundle = open_bundle(Path(entry.bundle))
        except OutriderError:
            continue  # said by the check of the tasks
        manifest = bundle.manifest
        variant = manifest.variant_for(settings.precisions, found.providers[0] if found.providers else "")
        used = found.providers[0] if found.providers else variant.provider
        what = f"{manifest.task} runs on {used}, {variant.precision}"
        certificate, runs = manifest.certificate, replace(variant, provider=used)
        if certificate is not None and (fault := manifest.certificate_fault(runs)):
            fix = f"certify it there, or set runtime.providers = [{certificate.provider!r}]"
            if missing := manifest.replay_fault(runs):
                what += f", and nothing of it is certified: {fault}; {missing}"
            else:
                what += f", uncertified until it has replayed the certification items: {fault}"
            yield Finding(check="provider", level="warning", what=what, fix=fix)
        else:
            yield Finding(check="provider", level="ok", what=what)


def slots(subject: Subject) -> Iterator[Finding]:
    """Whether the active slot of each task holds a whole bundle, and where its update stands."""
    from outrider.settings_files import read_task
    from outrider_edge.updates.slots import SlotFolder

    for entry in subject.edge.tasks if subject.edge else ():
        try:
            task = read_task(Path(entry.file))
        except OutriderError:
            continue  # said by the check of the tasks
        folder = SlotFolder(folder=subject.edge.folder / "slots" / task.name, task=task)
        active = folder.pointer()
        if active is None:
            yield Finding(check="slots", level="ok", what=f"{task.name}: none yet, the configured bundle answers")
            continue
        try:
            bundle = folder.open(active)
        except OutriderError as error:
            fix = "the agent falls back by itself at its next start; check the disk"
            yield Finding(check="slots", level="bad", what=f"{task.name}: slot {active}: {error.what}", fix=fix)
            continue
        record = folder.record()
        state = record.state if record is not None else "without a record"
        yield Finding(check="slots", level="ok", what=f"{task.name}: {active} holds {bundle.manifest.version}, {state}")


def queues(subject: Subject) -> Iterator[Finding]:
    """Queues that nothing bounds, or only beyond what the machine has; only with ``--production``."""
    import shutil

    from outrider.machine import this_machine

    if not subject.production:
        return
    edge, cloud, memory = subject.edge, subject.cloud, this_machine().memory_mb * 1024 * 1024
    if edge is not None:
        place = next(each for each in (edge.folder, *edge.folder.absolute().parents) if each.exists())
        if edge.outbox.max_bytes > shutil.disk_usage(place).total:
            yield _unbounded("edge.toml: outbox.max_bytes is more than its disk", "set it to what may really wait")
        if edge.outbox.min_free_bytes == 0:
            yield _unbounded("edge.toml: the outbox may fill the disk to its last byte", "set outbox.min_free_bytes")
    if cloud is not None and memory and cloud.batch.queue_max_bytes > memory // 2:
        yield _unbounded("cloud.toml: batch.queue_max_bytes is more than half the memory", "lower it")


def _unbounded(what: str, fix: str) -> Finding:
    return Finding(check="production", level="bad", what=what, fix=fix)
