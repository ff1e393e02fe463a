"""Reason codes of updates: why a release does not begin, is refused, or goes back. In a slot's report, and in replies at the device.

What is said of the files themselves (``digest_mismatch``, ``blob_gone``, a self-test's own words) passes through unchanged.
"""

from collections.abc import Mapping
from typing import NamedTuple


class UpdateReason(NamedTuple):
    """What one code says."""

    means: str
    do: str


UPDATE_REASONS: Mapping[str, UpdateReason] = {
    code: UpdateReason(means, do)
    for code, means, do in (
        # it may not begin now
        ("too_early", "its stage has not begun", "nothing: it waits"),
        ("frozen", "the plan freezes updates now", "nothing: it waits"),
        (
            "outside_window",
            "the device has windows for updates, and this is none",
            "nothing, or change updates.windows",
        ),
        ("metered_link", "the link costs money now", "nothing: it waits for another"),
        ("pinned", "a person has pinned the device to what runs", "outrider edge update pin --off"),
        ("stopped", "an emergency stop stands", "lift it, when its reason is gone"),
        ("ledger_damaged", "both copies of what must not be forgotten are damaged", "remove the folder updates"),
        ("updates_held", "a stop, a pin or damage holds every update", "see: outrider edge update status"),
        ("slots_unwritable", "the disk takes nothing", "free the disk, or replace it"),
        (
            "trial_lost",
            "the process or the machine ended while it was tested or loaded, which may be no fault of its own",
            "nothing the first times: it is tried again; then look at the device's power and memory, and order it again",
        ),
        (
            "selftest_again",
            "the self-test was ended from outside, or came to no end on a busy device",
            "nothing: it is tested again; look at the device's memory",
        ),
        ("update_failed", "a step failed in a way that nobody foresaw", "see the agent's log, and report it"),
        # the order may not be carried out
        ("order_older", "a newer order was heeded", "nothing: the newest counts"),
        ("order_reused", "another order had the same number", "look who signs orders"),
        ("order_foreign_plan", "order and plan are of different rollouts", "look who signs orders"),
        ("order_expired", "it ran out before it could begin", "order it again"),
        ("order_twice", "it names a task twice", "look who signs orders"),
        ("order_partial", "it leaves out a task that its plan changes too", "order all of them"),
        ("plan_expired", "the plan has run out", "sign another"),
        ("plan_unsigned", "nobody who may has signed the plan", "publish it, or look who signs orders"),
        ("no_plan", "the folder has no signed plan", "copy the whole repository"),
        ("not_in_group", "no group of the plan has this device yet", "wait for its stage, or sign a plan that has it"),
        ("not_in_plan", "the plan has no such release", "look who signs orders"),
        ("task_not_here", "the device has no such task", "take it out of the plan's group"),
        ("release_unsigned", "nobody who may has signed the release", "publish it"),
        ("refused_before", "this device has refused that release", "publish a repaired one"),
        (
            "rollback_not_permitted",
            "the plan permits no return to it",
            "name it in rollback_to, and sign the plan again",
        ),
        ("rollback_overtaken", "a newer release than the plan's runs here", "roll back by that release's plan"),
        ("counter_older", "a release with a higher counter has run here", "publish it with a higher one, or roll back"),
        ("counter_reused", "another release has had that counter", "publish it with a higher one"),
        ("counter_mismatch", "release and order disagree on its counter", "look who signs orders"),
        ("version_reused", "that version runs here with another digest", "give it a version of its own"),
        ("agent_too_old", "it needs a newer agent", "update the agent first"),
        ("wrong_arch", "it is for another processor", "sign a plan without this device"),
        ("wrong_profile", "it is for other boards", "sign a plan without this device"),
        ("too_little_memory", "it needs more memory than the board has", "sign a plan without this device"),
        ("unsigned", "what nobody signed is not taken here", "sign it; give the device a root"),
        ("nothing_signed", "the device has no root of trust", "set updates.root"),
        # it ended before it ran
        ("unfit", "it can never run here", "see the reason"),
        ("too_late", "a step took longer than its deadline", "order it again, once the cause is gone"),
        ("companion", "another task of the order failed", "see that task"),
        ("replaced", "another task of the order was given another one", "order them together"),
        ("selftest_failed", "the limited child refused it", "see the reason"),
        ("selftest_slow", "one inference takes longer than updates.selftest_ms", "publish a faster one"),
        (
            "load_crash",
            "the process ended three times while it was loaded beside the model in use, and the machine stayed up",
            "give the board more memory, or publish a smaller one",
        ),
        ("bad_golden", "it does not give its golden answers here", "test it on such a board"),
        ("wrong_task", "the bundle is for another task, or lacks what this one needs", "publish another"),
        ("wrong_release", "what came is another release than the one offered", "publish it again"),
        ("disk_full", "the release needs more room than is free", "free the disk"),
        # it ran, and went back
        ("tripped", "it failed on live input", "see the reason"),
        ("live_failure", "it raised, or gave NaN or infinity, on a valid input", "publish a repaired one"),
        ("live_disagreement", "it surely says something else than the one before too often", "look at its data"),
        ("live_risk", "its audits are wrong more often than certified", "certify it on this device's data"),
        ("live_latency", "its p95 is far above that of the one before", "publish a faster one"),
        ("live_memory", "the agent has far more resident with it", "publish a smaller one"),
        ("live_heat", "the board has come close to throttling with it", "publish a lighter one"),
        ("crash_loop", "the process ended three times in its probation, the machine staying up", "see the agent's log"),
        (
            "power_loop",
            "the machine went down five times in a row in its probation",
            "look at its power, and its memory",
        ),
        ("by_hand", "a person returned", "ask that person"),
        ("slot_unusable", "a slot is damaged or was edited", "nothing: another release runs; order it again"),
        ("slot_edited", "a slot holds what nobody put there", "look who writes on the device's disk"),
        ("record_lost", "the record of a task was lost, and made anew", "nothing: look at the disk"),
        # at the device
        ("no_such_folder", "there is no such folder", "give the whole path"),
        ("not_on_probation", "nothing is on probation", "nothing"),
        ("nothing_before", "the other slot holds nothing that has run here", "order a release to return to"),
        ("update_under_way", "an update is under way", "pin first, or wait"),
    )
}
"""By code."""


def update_reasons() -> str:
    """All of them as a table in Markdown."""
    rows = [f"| `{code}` | {row.means} | {row.do} |" for code, row in UPDATE_REASONS.items()]
    return "\n".join(["| code | means | what to do |", "|---|---|---|", *rows]) + "\n"
