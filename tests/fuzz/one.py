"""Fuzzes one target in this process, until libFuzzer ends it: ``python one.py TARGET CORPUS [-flag=value …]``.

Needs atheris (`pip install 'outrider[fuzz]'`). Python code is instrumented as it is imported; what is written in C (msgspec,
Pillow's decoders) is run but not seen.
"""

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / room) for room in ("tests", "wire", "export", "edge", "cloud")]

with atheris.instrument_imports(
    include=["outrider_wire", "outrider_engine", "outrider_edge.local_api", "PIL", "tomllib"]
):
    from fuzz_targets import TARGETS

if __name__ == "__main__":
    name, corpus, *flags = sys.argv[1:]
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], corpus, f"-max_len={target.max_len}", *flags], target.run)
    atheris.Fuzz()
