"""The embedded broker's own process: ``python -m outrider_link.broker_child CONFIG``. Ends when its standard input closes."""

import logging
import os
import sys
import threading


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # rumqttd runs in native threads that nothing else ends


def main() -> None:
    """Serves the rumqttd configuration named on the command line until the parent goes away."""
    from iotcore import Broker  # noqa: PLC0415  an optional library

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # rumqttd opens an error-level span for every packet that it routes.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Broker(config_path=sys.argv[1]).run_forever()


if __name__ == "__main__":
    main()
