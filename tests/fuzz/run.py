"""Fuzzes the targets one after another, each in a child, and says what came of it: a table, and a last line of JSON.

    python tests/fuzz/run.py --seconds 60 --corpus DIR [TARGET …]

The corpus grows in ``DIR/TARGET`` from the targets' seeds, and goes on from there next time; what crashed lies in
``DIR/findings``. Exit status 1 when there is a finding. A finding, once fixed, belongs into ``tests/fuzz/regressions``.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fuzz_targets import EDGES, TARGETS  # noqa: E402  found through the line above

_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")
_GRACE_S = 120
_TAIL_BYTES = 4_000


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, required=True, help="folder that the corpora grow in")
    asked = parser.parse_args()
    results = {}
    for name in asked.targets or TARGETS:
        results[name] = result = fuzz(name, corpus=asked.corpus, seconds=asked.seconds)
        finding = result["finding"] or "none"
        print(f"{name:12} {result['executions']:>10,} executions  coverage {result['coverage']:>6}  finding: {finding}")
    print(json.dumps(results, separators=(",", ":")))
    return int(any(result["finding"] for result in results.values()))


def fuzz(name: str, *, corpus: Path, seconds: int) -> dict[str, int | str]:
    """Fuzzes one target for that long; executions, coverage (edges of Python code), features, and the finding's file."""
    folder, findings = corpus / name, corpus / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    for seed in (*TARGETS[name].seeds(), *EDGES):
        (folder / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    before = set(findings.iterdir())
    flags = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={findings}/{name}-",
        "-rss_limit_mb=1024",
        "-timeout=10",
        "-print_final_stats=1",
    ]
    child = subprocess.run(
        [sys.executable, str(HERE / "one.py"), name, str(folder), *flags],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + _GRACE_S,
        check=False,
    )
    if child.returncode:
        print(child.stderr[-_TAIL_BYTES:], file=sys.stderr)
    coverage, features = (_COVERAGE.findall(child.stderr) or [("0", "0")])[-1]
    executions = (_EXECUTIONS.findall(child.stderr) or ["0"])[-1]
    found = sorted(path.name for path in set(findings.iterdir()) - before)
    finding = found[0] if found else (f"status {child.returncode}" if child.returncode else "")
    return {
        "executions": int(executions),
        "coverage": int(coverage),
        "features": int(features),
        "seconds": seconds,
        "finding": finding,
    }


if __name__ == "__main__":
    sys.exit(main())
