"""The npm packages that the test set-up has installed (`tools/get_node_packages.sh`). Knows where they are, not what they do."""

import os
import shutil
import sys
from pathlib import Path

from absent import skip_without


def packages() -> Path:
    """The folder ``node_modules``; skips the running test where it is not there."""
    found = Path(os.environ.get("OUTRIDER_NODE_MODULES") or Path(sys.prefix) / "node/node_modules")
    if not found.is_dir():
        skip_without("npm's packages", "run tools/get_node_packages.sh; it needs npm and its registry")
    return found


def node() -> str:
    """The Node.js of this machine; skips the running test where there is none."""
    if (found := shutil.which("node")) is None:
        skip_without("Node.js", "install Node.js 18 or newer")
    return found
