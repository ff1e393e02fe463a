"""Makes the samples in firmware_configs/broker from the topic table: ``python tests/assets/make_broker_samples.py``."""

import re
from collections.abc import Iterator
from pathlib import Path

from outrider import broker_site
from outrider_wire.access import SHARED, Grant, cloud_grants, device_grants
from outrider_wire.topics import Topics

FOLDER = Path(__file__).parents[2] / "firmware_configs/broker"
_SITE = broker_site.Site(folder=Path("/etc/outrider/site"), hosts=["cloud.example"], user="mosquitto")
_PLACE = re.compile(r"(<!-- table -->\n).*?(<!-- /table -->)", re.DOTALL)
_WORDS = {"say": "publishes on", "hear": "hears", "subscribe": "shares the subscription"}


def samples() -> dict[str, str]:
    """The files by name, as they should be."""
    readme = (FOLDER / "README.md").read_text()
    return {
        "mosquitto.conf": broker_site.mosquitto_conf(_SITE, "/etc/outrider/site/broker", broker_site.PLUGINS[0]),
        "dynamic-security.json": broker_site.rules_json(_SITE).decode(),
        "README.md": _PLACE.sub(lambda found: found[1] + "\n".join(_table()) + "\n" + found[2], readme),
    }


def _table() -> Iterator[str]:
    topics = Topics()
    yield "| who | may | topic |"
    yield "|---|---|---|"
    device = [Grant(each.action, each.topic.replace("DEVICE", "{device}")) for each in device_grants(topics, "DEVICE")]
    for who, grants in (("a device", device), ("a cloud worker", cloud_grants(topics))):
        for grant in grants:
            if grant.action != "subscribe" or grant.topic.startswith(SHARED):
                yield f"| {who} | {_WORDS[grant.action]} | `{grant.topic}` |"


if __name__ == "__main__":
    for name, text in samples().items():
        (FOLDER / name).write_text(text)
