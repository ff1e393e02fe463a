"""What came of a simulation of a fleet, in words."""

from collections import Counter
from collections.abc import Iterator

from outrider.sim.fleet.goods import DARK
from outrider.sim.fleet.running import BAD, GOOD, FleetStory
from outrider.sim.fleet.timeline import BAD_AT_MOST, GOOD_AT_LEAST

Row = tuple[str, str, str]


def rows(story: FleetStory) -> list[Row]:
    """What was found, and what was promised."""
    figures, books = story.figures, [each.books for each in story.devices]
    asked, bad = sum(each.asked for each in books), story.releases["bad"].digest
    reached = Counter(each.profile for each in story.devices if bad in each.books.ran)
    where = ", ".join(f"{n} {profile}" for profile, n in sorted(reached.items())) or "nobody"
    return [
        ("devices", str(figures.devices), ""),
        ("moments without a model", str(figures.without_model), f"0 of {sum(each.looks for each in books)} looks"),
        ("the bad release reached", f"{figures.bad_release_reach:.1%} ({where})", f"at most {BAD_AT_MOST:.0%}"),
        ("how it ended", story.ends.get(BAD, ""), "halted by itself"),
        ("the good release reached", f"{figures.good_release_reach:.1%}", f"at least {GOOD_AT_LEAST:.0%}"),
        ("how it ended", story.ends.get(GOOD, ""), "finished"),
        ("bytes against whole images", f"{figures.bytes_ratio:.1%}", ""),
        ("inputs refused", str(figures.requests_refused), f"0 of {asked}"),
        ("power cuts", str(sum(each.cuts for each in books)), ""),
        ("disks that were full", str(sum(each.fulls for each in books)), ""),
        ("devices on bad links", str(sum(each.fate.line != "fair" for each in story.devices)), ""),
        ("devices that never return", str(sum(bool(each.fate.lost) for each in story.devices)), ""),
    ]


def notes(story: FleetStory) -> Iterator[str]:
    """What the figures rest on, and what was not as promised."""
    profiles, order = Counter(story.profiles.values()), story.order
    if order.naive:
        yield "the plan: 1 %, 10 %, then all, whatever the profile"
    else:
        yield f"the plan: canaries of each profile ({story.canaries} in all, the failing profile's last), a tenth of the rest, then all"
    shares = ", ".join(f"{n} {profile}" for profile, n in profiles.items())
    yield f"profiles: {shares}; the bad release fails on {DARK} alone"
    yield (
        f"self-tests: {story.children} in a child process, {story.taken} verdicts taken from an earlier one on the same digest; "
        "loaded models are shared by digest, and every device verifies its own files"
    )
    yield (
        f"the calendar ran {order.speed:g} times as fast as the clock for {story.took_s:.0f} s; "
        f"the disks were {'in memory' if story.in_memory else 'folders of this machine'}; "
        "writes that were not yet synced survive a cut here: that they may be lost is what 'sim faults' tries"
    )
    ends = Counter(end for each in story.devices for end in each.books.bad_ends)
    for end, n in ends.most_common(6):
        yield f"{n} devices: {end}"
    for device in story.devices:
        for what in device.books.without_model[:1]:
            yield f"{device.name} had no model: {what}"
    yield from story.figures.broken()


def title(story: FleetStory) -> str:
    """Of the picture."""
    figures, order = story.figures, story.order
    return (
        f"{figures.devices} devices, {'naive plan' if order.naive else 'canaries by profile'}, seed {order.seed}: the bad release reached "
        f"{figures.bad_release_reach:.1%}, the good one {figures.good_release_reach:.1%}"
    )
