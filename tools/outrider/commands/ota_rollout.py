"""``outrider ota rollout|status|wait|approve|pause|resume|abort|rollback|stop``: a signed release on its way through a fleet."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.commands.options import CloudAddress, DryRun, Json, Quiet, Yes
from outrider.commands.ota_options import (
    DEFAULT_REPOSITORY,
    CaFile,
    Folder,
    Keys,
    PassphraseFile,
    TokenFile,
    cloud_of,
    finish,
    usage,
    workplace,
)
from outrider.commands.ota_shared import ACT, ASK, Given, sharing
from outrider.output import Screen
from outrider.releases import DEFAULT_CLOUD
from outrider_wire.errors import CallerInputError, OperatorConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outrider.rollouts import Foretold, RolloutApi
    from outrider_wire.rollout import RolloutPlan


def rollout(
    *,
    release: Annotated[
        list[str] | None,
        typer.Argument(metavar="RELEASE…", help="Beginning of a signed release's digest, or its version; one a task."),
    ] = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="5%,25%,100%",
            help="Stages, apart by commas; terms of one by +: 5%, site=berlin, site=berlin+25%, devices=cam-1|cam-2.",
        ),
    ] = "5%,25%,100%",
    minimum: Annotated[
        str,
        typer.Option(
            "--min", metavar="60%", help="What must have finished a stage: a share of it (3 at least), or a count."
        ),
    ] = "60%",
    soak: Annotated[str, typer.Option(metavar="2h", help="The least time between the beginnings of stages.")] = "2h",
    start: Annotated[str, typer.Option(metavar="TIME", help="ISO 8601 (UTC), or 2h for in two hours.")] = "",
    expires: Annotated[str, typer.Option(metavar="30d", help="How long the plan is good for.")] = "30d",
    freeze: Annotated[
        str, typer.Option(metavar='"Fri 16:00-Mon 08:00"', help="When nothing begins (UTC), apart by commas.")
    ] = "",
    approve_each: Annotated[
        bool, typer.Option("--approve-each", help="A person approves each stage after the first.")
    ] = False,
    rollback_to: Annotated[
        list[str] | None, typer.Option(metavar="RELEASE", help="What may be returned to; default: what ran before.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the rollout; default: one is made.")] = "",
    failures: Annotated[str, typer.Option("--max-failures", metavar="2%", help="Halts above this rate.")] = "2%",
    rollbacks: Annotated[str, typer.Option("--max-rollbacks", metavar="2%", help="Halts above this rate.")] = "2%",
    alarms: Annotated[str, typer.Option("--max-alarms", metavar="2%", help="Of risk alarms on devices.")] = "2%",
    silence: Annotated[str, typer.Option("--max-silence", metavar="10%", help="Of devices that fall silent.")] = "10%",
    silent_after: Annotated[str, typer.Option(metavar="6h", help="When a device counts as silent.")] = "6h",
    escalation: Annotated[
        str, typer.Option("--max-escalation", metavar="5%", help="Rise of the escalated share, against the others.")
    ] = "5%",
    confidence: Annotated[str, typer.Option(metavar="95%", help="A good release is halted at most 1 − this.")] = "95%",
    automatic: Annotated[
        bool, typer.Option("--automatic", help="Signed with the automatic role, for its canary group alone.")
    ] = False,
    signed: Annotated[
        str, typer.Option("--signed", metavar="NAME", help="Begin the plan of that name, which is signed already.")
    ] = "",
    key: Keys = None,
    folder: Folder = DEFAULT_REPOSITORY,
    passphrase_file: PassphraseFile = None,
    cloud: CloudAddress = DEFAULT_CLOUD,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only sign the plan here, for a stick; --cloud is not asked.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan a rollout, sign the plan, and begin it.

    --dry-run says of each stage its devices, what it can detect, bytes, time and blockers, and needs no key.
    Exit codes: 0 begun, 1 not confirmed, 2 usage, 3 refused, 4 the cloud does not answer, 5 signatures are still lacking.
    """
    from outrider import planning, rollouts

    screen = Screen(json=json, quiet=quiet)
    link = None if offline else cloud_of(cloud, token_file, ca_file)
    if link is None and not offline:
        raise OperatorConfigError("no cloud is named", reason="no_cloud", fix="give --cloud, or --offline")
    place = workplace(folder, passphrase_file)
    api = rollouts.RolloutApi(link[0]) if link else None
    if signed and api:
        _begin(screen, api, place, signed)
        return
    if not release:
        raise OperatorConfigError("no release is named", reason="invalid_rollout", fix="see: outrider ota history")
    rates = {
        "failures": failures,
        "rollbacks": rollbacks,
        "alarms": alarms,
        "silence": silence,
        "escalation": escalation,
        "confidence": confidence,
    }
    with usage():
        asked = planning.Asked(
            releases=release,
            groups=groups,
            minimum=minimum,
            soak=soak,
            start=start,
            expires=expires,
            freeze=freeze,
            approve_each=approve_each,
            rollback_to=rollback_to or [],
            name=name,
            thresholds={limit: rollouts.rate(text) for limit, text in rates.items()},
            silent_after=silent_after,
            automatic=automatic,
        )
        plan = planning.make_plan(place, asked)
    foretold = api.forecast(plan) if api else None
    if foretold:
        _foretell(screen, plan, foretold)
    if dry_run:
        screen.result({"dry_run": True, "plan": plan, "forecast": foretold}, f"would begin {plan.rollout}")
        return
    if not key:
        raise OperatorConfigError("a plan is signed with its task's key", reason="no_key", fix="give --key URI")
    act = f"sign and begin {plan.rollout} for {foretold.devices} device(s)" if foretold else f"sign {plan.rollout}"
    if not screen.confirmed(f"{act}?", yes=yes):
        screen.note("nothing was signed")
        raise typer.Exit(1)
    from outrider.ota import publishing

    lacking = publishing.sign_plan(place, plan, key, automatic=automatic)
    came = finish(place, screen, link)
    if any(lacking.values()):
        next_ = f"export DIR --rollout {plan.rollout}" if offline else f"rollout --signed {plan.rollout}"
        then = f"when all have signed: outrider ota {next_}"
        screen.result({"dry_run": False, "plan": plan, "lacking": lacking, **came}, then)
        raise typer.Exit(5)
    if api is None:
        then = f"✓ signed {plan.rollout}; next: outrider ota export DIR --rollout {plan.rollout} --bundle BUNDLE"
        screen.result({"dry_run": False, "plan": plan, **came}, then)
        return
    standing = api.begin(plan.releases[0].task, plan.rollout)
    done = {"dry_run": False, "plan": plan, "forecast": foretold, "rollout": standing, **came}
    screen.result(done, f"✓ {plan.rollout} has begun; see: outrider ota status {plan.rollout} --watch")


@sharing(*ASK)
def status(
    *,
    rollout: Annotated[str, typer.Argument(metavar="[ROLLOUT]", help="One alone.", show_default=False)] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until it is over.")] = False,
    every: Annotated[str, typer.Option(metavar="2s", help="How often, with --watch.")] = "2s",
    given: Given,
) -> None:
    """Show what runs on every device, and all rollouts or one.

    With --watch and no name: the one that is under way, else the newest.
    """
    from outrider import durations, releases, rollouts, rollouts_show

    screen, api = given.screen, given.api
    if watch:
        with usage():
            every_s = float(durations.seconds(every))
        rollouts_show.watch(screen, api, rollouts.newest(api, rollout), every_s=every_s)
    elif rollout:
        rollouts_show.show(screen, api.one(rollout))
    else:
        rollouts_show.fleet(screen, releases.rows(api.cloud.devices()), api.standings())


@sharing(*ASK)
def wait(
    *,
    rollout: Annotated[
        str, typer.Argument(metavar="[ROLLOUT]", help="Default: the one that is under way, else the newest.")
    ] = "",
    timeout: Annotated[str, typer.Option(metavar="1h", help="Give up after this.")] = "1h",
    given: Given,
) -> None:
    """Wait for a rollout's end, for pipelines.

    Exit codes: 0 finished; 3 halted by a threshold, aborted, expired or rolled back; 4 the cloud does not answer; 5 timed out, or
    a person must decide.
    """
    from outrider import durations, rollouts

    screen, api = given.screen, given.api
    name, last = rollouts.newest(api, rollout), ""
    code = 5
    standing = rollouts.Standing(rollout=name, state="unknown")
    with usage():
        within_s = float(durations.seconds(timeout))
    for standing in rollouts.changes(api, name, every_s=1.0, within_s=within_s):
        if standing.state in rollouts.ENDED_WELL | rollouts.ENDED_ILL | rollouts.UNDECIDED:
            code = 0 if standing.state in rollouts.ENDED_WELL else 3 if standing.state in rollouts.ENDED_ILL else 5
            break
        if (line := rollouts.headline(standing)) != last:
            screen.note(line)
            last = line
    else:
        screen.note(f"after {timeout} it has not ended")
    screen.result(standing, rollouts.headline(standing))
    if code:
        raise typer.Exit(code)


Rollout = Annotated[
    str,
    typer.Argument(
        metavar="[ROLLOUT]", help="Default: the one that is under way, else the newest.", show_default=False
    ),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with the rollout, for whoever reads it.")]


def _word(wanted: str, about: str) -> "Callable[..., None]":
    """The command that says one word on a rollout; ``about``: its help."""

    @sharing(*ACT)
    def say(
        *,
        rollout: Rollout = "",
        note: Note = "",
        given: Given,
    ) -> None:
        _act(wanted, rollout, note, given)

    say.__name__, say.__doc__ = wanted, about
    return say


WORDS = {
    "approve": "Let the next stage begin. Needed where the plan asks for it, and where figures prove nothing.",
    "pause": "Let nobody new begin; who has begun goes on.",
    "abort": "End it; who has the release keeps it.",
    "rollback": "Order everybody back. To what the plan names, else to what ran before; needs no offline key.",
}
"""Words that take no more than the rollout."""


@sharing(*ACT)
def resume(
    *,
    rollout: Rollout = "",
    note: Note = "",
    forgive: Annotated[
        bool, typer.Option("--forgive", help="After a halt: what went wrong so far does not count.")
    ] = False,
    given: Given,
) -> None:
    """Go on after a pause, or after a halt; its own stop is lifted."""
    _act("resume", rollout, note, given, forgive=forgive)


@sharing(*ACT)
def stop(
    *,
    rollout: Annotated[
        list[str] | None, typer.Argument(metavar="[ROLLOUT]…", help="Default: all updates.", show_default=False)
    ] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Let them go on.")] = False,
    note: Note = "",
    given: Given,
) -> None:
    """Stop what is under way on all devices; or lift that. At the next safe point, within seconds; needs no offline key."""
    screen, dry_run = given.screen, given.dry_run
    names = rollout or []
    whom = ", ".join(names) or "all updates"
    what = f"let {whom} go on" if lift else f"stop {whom}"
    if not dry_run and not screen.confirmed(f"{what} on every device?", yes=given.yes):
        raise typer.Exit(1)
    said = given.api.stop(names, lifted=lift, reason=note, dry_run=dry_run)
    screen.result(said, f"would {what}" if dry_run else f"✓ {what}: said to every device")


_WORDS = {wanted: _word(wanted, about) for wanted, about in WORDS.items()}
COMMANDS = (
    rollout,
    status,
    wait,
    _WORDS["approve"],
    _WORDS["pause"],
    resume,
    _WORDS["abort"],
    _WORDS["rollback"],
    stop,
)
"""Commands of the group, by the functions' names."""


def _act(wanted: str, rollout: str, note: str, given: Given, *, forgive: bool = False) -> None:
    """One word on one rollout. Exit codes: 0 done, 1 not confirmed, 3 not in its state, 4 the cloud does not answer."""
    from outrider import rollouts

    screen, api = given.screen, given.api
    name = rollouts.newest(api, rollout)
    would = api.act(name, wanted, note=note, forgive=forgive, dry_run=True)
    if given.dry_run:
        screen.result({"dry_run": True, "rollout": would}, f"would be {rollouts.headline(would)}")
        return
    members = rollouts.counted(would.members) or "no devices yet"
    if not screen.confirmed(f"{wanted} {name} ({members})?", yes=given.yes):
        screen.note("nothing was done")
        raise typer.Exit(1)
    done = api.act(name, wanted, note=note, forgive=forgive, dry_run=False)
    screen.result({"dry_run": False, "rollout": done}, f"✓ {rollouts.headline(done)}")


def _begin(screen: Screen, api: "RolloutApi", place: Any, name: str) -> None:
    """Begins a plan that is signed in the working copy."""
    from outrider.ota import publishing
    from outrider_trust.facts import auto_role, plan_path

    for task in publishing.tasks_of(place):
        for automatic, role in ((False, task), (True, auto_role(task))):
            path = plan_path(task, name, automatic=automatic)
            if place.repository.version(role) and path in place.repository.read(role).signed.targets:
                standing = api.begin(task, name)
                screen.result({"rollout": standing}, f"✓ {name} has begun")
                return
    raise CallerInputError(
        f"no plan {name!r} is signed in this working copy", reason="unknown_plan", fix="see: outrider ota history"
    )


def _foretell(screen: Screen, plan: "RolloutPlan", foretold: "Foretold") -> None:
    from outrider import rollouts
    from outrider.bundle_report import size
    from outrider_wire.rollout_text import freeze_text

    screen.table(
        ("stage", "group", "devices", "must finish", "detects", "bytes", "time", "blocked"),
        rollouts.stage_rows(foretold),
        title=f"{plan.rollout}: {size(foretold.bytes)} to {foretold.devices} devices, {rollouts.span(foretold.seconds)} or more",
    )
    if plan.freeze:
        screen.note(f"nothing begins {', '.join(freeze_text(window) for window in plan.freeze)} (UTC)")
    if foretold.outside:
        screen.note(f"{foretold.outside} device(s) are in no stage")
    for warning in foretold.warnings:
        screen.note(f"note: {warning}")
