"""``outrider edge update``: the updates of this device, looked at and taken in hand, at the device."""

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import AgentAddress, DryRun, Json, Quiet, Yes, group

app = group("See how updates stand, install from a folder, keep, return, pin.")

Task = Annotated[str, typer.Argument(metavar="TASK", help="Name of a task.")]
Why = Annotated[str, typer.Option("--reason", help="For whoever reads the report.")]


@app.command()
def status(agent: AgentAddress = "", json: Json = False, quiet: Quiet = False) -> None:
    """Show what runs in every slot, what is under way until when, and what ended."""
    from outrider.output import Screen

    _show(Screen(json=json, quiet=quiet), _ask(agent, "GET", "/v1/updates"))


@app.command()
def check(agent: AgentAddress = "", json: Json = False, quiet: Quiet = False) -> None:
    """Ask for newer signed metadata now, and verify it."""
    from outrider.output import Screen

    _show(Screen(json=json, quiet=quiet), _ask(agent, "POST", "/v1/updates/check"))


@app.command()
def install(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder on this device: a repository, or a bundle.")],
    *,
    rollout: Annotated[str, typer.Option(help="Of the folder's signed plans, this one.")] = "",
    agent: AgentAddress = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Install from a folder, such as a USB stick, with the same checks as over the air.

    With a root of trust: a folder with metadata/ and targets/, a signed plan that has this device, and the releases' files. Without
    one, where unsigned releases are taken: a bundle.
    """
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    wish: dict[str, Any] = {"path": str(path.absolute()), "rollout": rollout or None}
    found = _ask(agent, "POST", "/v1/updates/install", {**wish, "dry_run": True})
    what = ", ".join(f"{task} {release[:12]}…" for task, release in found["releases"].items())
    if dry_run:
        screen.result(found, f"would install {what}")
        return
    if not screen.confirmed(f"install {what}?", yes=yes):
        raise typer.Exit(1)
    begun = _ask(agent, "POST", "/v1/updates/install", {**wish, "dry_run": False})
    screen.result(begun, f"begun: {what}; see: outrider edge update status")


@app.command()
def commit(task: Task, agent: AgentAddress = "", yes: Yes = False, json: Json = False, quiet: Quiet = False) -> None:
    """End a probation well, now: the new release stays."""
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    if not screen.confirmed(f"keep what is on probation for {task}?", yes=yes):
        raise typer.Exit(1)
    kept = _ask(agent, "POST", f"/v1/updates/{_part(task)}/commit")
    screen.result(kept, f"kept: {', '.join(kept['tasks'])}")


@app.command()
def rollback(
    task: Task,
    *,
    reason: Why = "",
    agent: AgentAddress = "",
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Return to the release before, and refuse what runs for good."""
    from outrider.output import Screen

    screen = Screen(json=json, quiet=quiet)
    if not screen.confirmed(f"return {task} to the release before, and refuse what runs for good?", yes=yes):
        raise typer.Exit(1)
    done = _ask(agent, "POST", f"/v1/updates/{_part(task)}/rollback", {"reason": reason})
    screen.result(done, f"{task} returns to {done['release'][:12]}…")


@app.command()
def pin(
    *,
    off: Annotated[bool, typer.Option("--off", help="Take updates again.")] = False,
    reason: Why = "",
    agent: AgentAddress = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stay on what runs, over restarts, until --off."""
    from outrider.output import Screen

    found = _ask(agent, "POST", "/v1/updates/pin", {"pinned": not off, "reason": reason})
    screen = Screen(json=json, quiet=quiet)
    screen.result(found, "updates are taken again" if off else "pinned to what runs; end it with: --off")


def _ask(agent: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the agent on this machine; errors as it tells them."""
    from outrider.client import default_address
    from outrider.updates_desk import ask

    return ask(agent or default_address(), method, path, body)


def _part(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _show(screen: Any, found: dict[str, Any]) -> None:
    how = "signed releases only" if found["signed"] else "no root of trust"
    words = f"{how}; order {found['order']}, stop {found['stop']}{' (standing)' if found['stopped'] else ''}"
    screen.result(found, words + (f"; HELD: {found['held']}" if found["held"] else ""))
    screen.table(
        ("task", "runs", "version", "slot", "state", "about", "left", "order", "outcome", "reason"),
        [
            (
                slot["task"],
                slot["running"][:12],
                slot["version"],
                slot["slot"],
                slot["state"],
                slot["offered"][:12] or "–",
                f"{slot['left_s'] / 3600:.1f} h" if "left_s" in slot else "–",
                slot.get("order", "–"),
                slot.get("outcome", "–"),
                slot["reason"],
            )
            for slot in found["slots"]
        ],
    )
    if found["attack"]:
        screen.note(f"something forged, replayed or damaged was refused: {found['attack']}")
    if found["ends"]:
        screen.table(
            ("#", "task", "order", "rollout", "release", "ended", "why"),
            [
                (
                    end["sequence"],
                    end["task"],
                    end["order"] or "–",
                    end["rollout"] or "–",
                    end["release"][:12],
                    end["outcome"],
                    end["reason"],
                )
                for end in found["ends"]
            ],
        )
