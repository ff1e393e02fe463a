"""``outrider bench``: what a layer of ours costs, against the bare thing measured in the same run. A table, then one JSON line."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen

app = group("Measure what Outrider costs, against the bare thing in the same run.")

TaskFile = Annotated[Path | None, typer.Option("--task", metavar="FILE", help="Default: the task that ships.")]
BundleDir = Annotated[Path | None, typer.Option("--bundle", metavar="DIR", help="Default: the bundle that ships.")]


@app.command()
def edge(
    *,
    task: TaskFile = None,
    bundle: BundleDir = None,
    inputs: Annotated[int, typer.Option(min=25, help="Inputs of each kind.")] = 1000,
    peers: Annotated[
        bool, typer.Option("--peers", help="Beside LitServe, mosec and bare aiohttp too, and swapped under load.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each server at each concurrency.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.2, help="Of each turn.")] = 1.0,
    swaps: Annotated[int, typer.Option(min=1, help="Of the model under load.")] = 10,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time inputs: a bare session, the agent in process, its HTTP API."""
    import asyncio

    import msgspec

    from outrider.bench.edge import EdgePlan, measure
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    if peers:
        from outrider.bench.edge_peers.contenders import check_installed

        check_installed()
    task, bundle = _shipped(task, bundle)
    with tempfile.TemporaryDirectory() as folder, bar(screen) as tell:
        found = asyncio.run(measure(EdgePlan(task=task, bundle=bundle, folder=Path(folder), inputs=inputs), tell))
    rows = []
    for name, kind in found.kinds.items():
        rows.append((name, "bare session.run", *_times(kind.raw_p50_ms, kind.raw_p95_ms), "1.0"))
        rows.append(
            (
                name,
                "agent, in process",
                *_times(kind.pipeline_p50_ms, kind.pipeline_p95_ms),
                _ratio(kind.pipeline_ratio),
            )
        )
        rows.append((name, "  of which preparing", _ms(kind.prepare_p50_ms), "", ""))
        rows.append((name, "agent, HTTP", *_times(kind.http_p50_ms, kind.http_p95_ms), _ratio(kind.http_ratio)))
    rows.append(("", "deciding", *_times(found.deciding_p50_ms, found.deciding_p95_ms), ""))
    looking = f"looking in a memory of {found.memory_entries}"
    rows.append(("", looking, *_times(found.memory_lookup_p50_ms, found.memory_lookup_p95_ms), ""))
    screen.table(("inputs", "way", "p50 ms", "p95 ms", "× bare"), rows)
    resident = "unknown" if found.rss_mb is None else f"{found.rss_mb:.0f} MB after {found.requests} requests"
    screen.table(("daemon", ""), [("cold start", f"{found.cold_start_s:.2f} s"), ("resident", resident)])
    line = msgspec.to_builtins(found)
    if peers:
        from outrider.bench.edge_peers.show import beside_peers

        line |= beside_peers(screen, rounds=rounds, seconds=seconds, swaps=swaps)
    Screen(json=True).value(line)


@app.command()
def escalate(
    *,
    task: TaskFile = None,
    bundle: BundleDir = None,
    sizes: Annotated[
        str, typer.Option(metavar="BYTES,…", help="Payload sizes; above 64 KiB a part is pulled.")
    ] = "1024,20480,307200",
    repeats: Annotated[int, typer.Option(min=1, help="Round trips of each variant and size.")] = 200,
    sustained: Annotated[int, typer.Option(min=32, help="Escalations for the rate.")] = 2000,
    queued: Annotated[int, typer.Option(min=1, help="In the outbox of the agent whose memory is looked at.")] = 100_000,
    drained: Annotated[int, typer.Option(min=1, help="Inputs that wait out an outage.")] = 10_000,
    asked: Annotated[int, typer.Option(min=64, help="Escalations of each turn at the cloud's workers.")] = 1_500,
    delivery: Annotated[bool, typer.Option(help="Outbox, outage, workers and wire too; minutes.")] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time escalations against an MQTT echo, and their delivery."""
    import msgspec

    from outrider.bench.delivery import DeliveryPlan, measure_delivery
    from outrider.bench.escalate import EscalatePlan, measure
    from outrider.progress import bar
    from outrider_link.settings import read_text
    from outrider_wire.task import parse_task

    screen = Screen(json=json, quiet=quiet)
    task, bundle = _shipped(task, bundle)
    parsed = parse_task(read_text(task), str(task))
    with tempfile.TemporaryDirectory() as name, bar(screen) as tell:
        folder = Path(name)
        for part in ("escalate", "delivery"):
            (folder / part).mkdir()
        plan = EscalatePlan(
            task=parsed,
            bundle=bundle,
            folder=folder / "escalate",
            sizes=_numbers(sizes),
            repeats=repeats,
            sustained=sustained,
        )
        found = measure(plan, tell)
        more = DeliveryPlan(
            task=parsed, bundle=bundle, folder=folder / "delivery", queued=queued, drained=drained, asked=asked
        )
        delivered = measure_delivery(more, tell) if delivery else None
    rows: list[Sequence[object]] = []
    for size, figures in found.sizes.items():
        rows += _escalation_rows(size, figures)
    screen.table(("bytes", "way", "p50 ms", "p95 ms", "ratio"), rows)
    screen.table(
        (f"sustained, {found.concurrency} at once", "a second"),
        [("echo", f"{found.echo_per_s:.0f}"), ("durable escalations", f"{found.escalations_per_s:.0f}")],
    )
    if delivered is not None:
        screen.table(("delivery", ""), _delivery_rows(delivered))
    line = msgspec.to_builtins(found) | (msgspec.to_builtins(delivered) if delivered is not None else {})
    Screen(json=True).value(line)


def _delivery_rows(found: Any) -> list[Sequence[object]]:
    rates = [
        ("durable enqueues, one by one", found.enqueue_per_s),
        ("durable enqueues, 32 at a time", found.enqueue_32_per_s),
        (f"answered after an outage of {found.drained:,} inputs", found.drain_per_s),
        ("  the device's own part of it", found.drain_stub_per_s),
        ("one worker of the cloud, 20 KB", found.one_worker_per_s),
        ("two workers, 20 KB", found.two_workers_per_s),
        ("bare echo, 20 KB", found.worker_echo_per_s),
    ]
    rows: list[Sequence[object]] = [(what, f"{rate:,.0f} a second") for what, rate in rates]
    rows += [(f"beyond the payload of {size} bytes", f"{one.wire_overhead:.1%}") for size, one in found.wire.items()]
    rows.append(("agent with 1,000 queued", f"{found.rss_mb_1k:.0f} MB"))
    rows.append((f"agent with {found.queued:,} queued", f"{found.rss_mb_100k:.0f} MB"))
    return rows


@app.command()
def drift(
    *,
    seed: Annotated[int, typer.Option(help="Of the demo's world and models.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Streams of each kind.")] = 50,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the demo keeps its models.")] = Path(
        ".outrider/demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count audits until the watch sees that the camera has changed."""
    from outrider.bench.drift import DriftPlan, measure
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    with bar(screen) as tell:
        found = measure(DriftPlan(folder=folder, seed=seed, seeds=seeds), tell)
    columns = ("camera", "kept", "differs", "wrong", "clean audits", "audits to the alarm", "inputs", "plain product")
    for rule, ruled in found.rules.items():
        screen.table(columns, _drift_rows(ruled, found.seeds), title=f"Kept by {rule}")
    screen.note(
        f"{found.tolerated_risk:.1%} of audits may differ ({found.promised_risk:.1%} promised, {found.label_source}); "
        f"medians of {found.seeds} streams; {found.audit_rate:.0%} of what is kept is audited",
    )
    Screen(json=True).value(found)


def _drift_rows(ruled: Any, seeds: int) -> list[Sequence[object]]:
    false = f"false: {ruled.false_alarms} of {seeds} streams"
    rows: list[Sequence[object]] = [("the device's", *_pool(ruled.clean), f"{ruled.clean_audits:,}", false, "", "")]
    for name, one in ruled.drifts.items():
        for delay in one.delays:
            shares = (name, *_pool(one.pool)) if delay is one.delays[0] else ("", "", "", "")
            late = (_audits(delay.audits), _audits(delay.inputs), _audits(delay.product_audits))
            rows.append((*shares, f"{delay.clean_audits:,}", *late))
    return rows


def _pool(pool: Any) -> tuple[str, str, str]:
    return f"{pool.kept:.0%}", f"{pool.disagreement:.1%}", f"{pool.risk:.1%}"


def _audits(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


@app.command()
def progressive(
    *,
    seed: Annotated[int, typer.Option(help="Of the demo's world and models.")] = 0,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the demo keeps its models.")] = Path(
        ".outrider/demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Weigh what a first form saves against what it costs."""
    from outrider.bench.progressive import ProgressivePlan, measure
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    with bar(screen) as tell:
        found = measure(ProgressivePlan(folder=folder, seed=seed), tell)
    columns = ("sent", "bytes", "of full", "right", "pulled", "first form enough, and right")
    for source, ways in found.sources.items():
        rows = [_way_row(name, way, ways["full"].bytes) for name, way in ways.items()]
        screen.table(columns, rows, title=f"Pictures as {source}")
    screen.note(
        f"{found.escalated} escalated questions; a first form is enough from a confidence of {found.enough:g} on, at "
        f"temperatures {', '.join(f'{name} {value:.2f}' for name, value in found.temperatures.items())}"
    )
    Screen(json=True).value(found)


def _way_row(name: str, way: Any, full_bytes: float) -> Sequence[object]:
    pulled = f"{way.pulled:.1%}" if name.endswith("-then-full") else ""
    right = "" if way.first_accuracy is None else f"{1 - way.pulled:.1%}, {way.first_accuracy:.1%}"
    return (name, f"{way.bytes:,.0f}", f"{way.bytes / full_bytes:.0%}", f"{way.accuracy:.1%}", pulled, right)


@app.command()
def gate(
    *,
    task: Annotated[
        list[str] | None,
        typer.Option(help="easy-vqa, mnist1d, fashion, fashion-weak or text; repeat it for several. Default: mnist1d."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Deals, captures and trainings; intervals need several.")] = 5,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your own copy of the data, for fashion and text.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Get that data with apt-get or npm first, once.")] = False,
    call_price: Annotated[float, typer.Option(min=0, metavar="USD", help="Of one large-model call.")] = 0.0005,
    megabyte_price: Annotated[float, typer.Option(min=0, metavar="USD", help="Of one megabyte sent.")] = 0.05,
    work: Annotated[Path, typer.Option(metavar="DIR", help="What is kept for the next run.")] = Path(".outrider/bench"),
    out: Annotated[Path | None, typer.Option("-o", metavar="DIR", help="For the pictures. Default: the same.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank every way of deciding what the large model is asked."""
    from outrider.bench.gate.kept import Shelf
    from outrider.bench.gate.run import GatePlan, measure
    from outrider.bench.gate.show import show, tell_aims
    from outrider.bench.gate.study import Prices
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    plan = GatePlan(
        tasks=task or ["mnist1d"],
        seeds=seeds,
        shelf=Shelf(folder=work, data=data),
        out=out or work,
        prices=Prices(call=call_price, megabyte=megabyte_price),
        fetch=fetch,
    )
    with bar(screen) as tell:
        found = measure(plan, tell)
    for study, judged in zip(found.studies, found.judged, strict=True):
        show(study, judged, screen)
    if found.together is not None:
        tell_aims([found.together], screen)
    screen.note(f"pictures: {', '.join(map(str, found.pictures))}")
    Screen(json=True).value(found.line)


@app.command()
def ota(
    *,
    seed: Annotated[int, typer.Option(help="Of the demo's world and models.")] = 0,
    large_mb: Annotated[int, typer.Option(min=0, metavar="MB", help="Of the synthetic model; 0: none.")] = 100,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the demo keeps its models.")] = Path(
        ".outrider/demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Weigh deltas against whole files, patch-from and bsdiff4."""
    from outrider.bench.ota import OtaPlan, line_of, measure
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    with bar(screen) as tell:
        found = measure(OtaPlan(folder=folder, seed=seed, large_mb=large_mb), tell)
    columns = (
        "update",
        "file",
        "zstd",
        "patch-from",
        "bsdiff4",
        "outrider",
        "of zstd",
        "of best",
        "make s",
        "MB/s",
        "MB",
    )
    screen.table(columns, [_update_row(name, case) for name, case in found.cases.items()])
    screen.table(
        ("release, INT8", "right", "kept", "of these wrong", "certified", "as fp32", "support distance"),
        [_worth_row(name, worth) for name, worth in found.worth.items()],
    )
    Screen(json=True).value(line_of(found))


def _update_row(name: str, case: Any) -> Sequence[object]:
    sizes = [case.size, case.full_zstd, case.patch_from, case.bsdiff4, case.outrider]
    said = ["" if size is None else f"{size:,}" for size in sizes]
    shares = (f"{case.outrider / case.full_zstd:.1%}", f"{case.outrider / case.best_other:.2f}")
    return (name, *said, *shares, f"{case.make_s:.2f}", f"{case.apply_mb_s:.0f}", f"{case.rss_mb:.0f}")


def _worth_row(name: str, worth: Any) -> Sequence[object]:
    shares = (worth.right, worth.kept, worth.wrong)
    certified = "yes" if worth.certified else "no"
    return (name, *map("{:.1%}".format, shares), certified, f"{worth.agreement:.1%}", worth.support.partition(":")[0])


@app.command()
def export(
    *,
    task: Annotated[
        list[str] | None,
        typer.Option(help="easy-vqa, mnist1d, fashion, text or digits; repeat it. Default: the first two."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of deals and trainings.")] = 0,
    data: Annotated[
        list[str] | None, typer.Option(metavar="TASK=DIR", help="Your own copy of a task's data; digits needs one.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Get other data with apt-get or npm first, once.")] = False,
    work: Annotated[Path, typer.Option(metavar="DIR", help="What is kept for the next run.")] = Path(".outrider/bench"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure every variant of the demo's and other models."""
    from outrider.bench.export import ExportPlan, aims, measure
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    copies = dict(each.partition("=")[::2] for each in data or ())
    plan = ExportPlan(
        tasks=task or ["easy-vqa", "mnist1d"],
        seed=seed,
        folder=work,
        data={name: Path(folder) for name, folder in copies.items()},
        fetch=fetch,
    )
    with bar(screen) as tell:
        found = measure(plan, tell)
    columns = ("variant", "bytes", "of fp32", "p50 ms", "p95 ms", "MB", "agreement", "right (95 %)", "kept", "")
    for model, variants in found.items():
        rows = [_export_row(name, one, variants["fp32"].bytes) for name, one in variants.items()]
        screen.table(columns, rows, title=model)
    for sentence in aims(found):
        screen.note(sentence)
    Screen(json=True).value(found)


def _export_row(name: str, one: Any, plain: int) -> Sequence[object]:
    right = f"{one.accuracy:.1%} ({one.accuracy_low:.1%}–{one.accuracy_high:.1%})"
    share, ships = f"{one.bytes / plain:.0%}", "" if one.ships else "out of tolerance"
    times = (*_times(one.p50_ms, one.p95_ms), f"{one.resident_mb:.1f}")
    return (name, f"{one.bytes:,}", share, *times, f"{one.agreement:.2%}", right, f"{one.coverage:.1%}", ships)


def _escalation_rows(size: str, figures: Any) -> list[Sequence[object]]:
    disk = _times(figures.escalate_p50_ms, figures.escalate_p95_ms)
    memory = _times(figures.memory_p50_ms, figures.memory_p95_ms)
    return [
        (size, "echo", *_times(figures.echo_p50_ms, figures.echo_p95_ms), ""),
        (size, "echo with the same commits", *_times(figures.durable_echo_p50_ms, figures.durable_echo_p95_ms), ""),
        (size, "escalation, disk", *disk, f"{figures.escalate_ratio:.2f} × echo with commits"),
        (size, "escalation, memory", *memory, f"{figures.memory_ratio:.2f} × echo"),
    ]


def _shipped(task: Path | None, bundle: Path | None) -> tuple[Path, Path]:
    """What was named, or the demo that ships.

    Raises:
        OperatorConfigError: only one of the two was named.
    """
    import outrider_edge
    from outrider_wire.errors import OperatorConfigError

    if (task is None) != (bundle is None):
        raise OperatorConfigError(
            "--task and --bundle belong together", reason="half_named", fix="name both, or neither for the demo's"
        )
    demo = Path(outrider_edge.__file__).parent / "demo"
    return task or demo / "task.toml", bundle or demo / "bundle"


def _numbers(text: str) -> list[int]:
    from outrider_wire.errors import OperatorConfigError

    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise OperatorConfigError(
            f"--sizes {text!r} is not a list of bytes", reason="invalid_value", fix="write --sizes 1024,20480"
        ) from error


def _times(p50_ms: float, p95_ms: float) -> tuple[str, str]:
    return _ms(p50_ms), _ms(p95_ms)


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _ratio(value: float) -> str:
    return f"{value:.1f}"
