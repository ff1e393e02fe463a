"""What the packages may never do with bytes: unpickle, load YAML, run a checkpoint's code, unpack an archive. Read from their syntax."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("wire", "export", "edge", "cloud", "tools")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

CODE_CARRIERS = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "yaml",
    "ruamel",
}
ARCHIVES = {"tarfile", "zipfile", "zstandard", "zstd", "lzma", "bz2", "gzip", "py7zr", "rarfile"}
UNPACKERS = {"extractall", "unpack_archive", "decompress", "decompressobj"}
PUBLIC_DATA = {
    "export/outrider_engine/delta/codes.py": "the streams of a delta, piece by piece, no more than is asked for",
    "export/outrider_engine/items.py": "certification items, up to the size that their shape says",
    "export/outrider_engine/delta/plan.py": "nothing: it packs, to compare sizes",
    "tools/outrider/bench/ota.py": "nothing: it packs, to compare sizes",
    "tools/outrider/bench/gate/tasks/text.py": "a public data set by its digest, for the benchmark alone",
    "tools/outrider/bench/gate/tasks/fashion.py": "a public data set by its digest, for the benchmark alone",
}
"""The files that may unpack, and what."""
MUST_SAY = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
    ("", "extractall"): ("filter", "data"),
    ("", "from_pretrained"): ("trust_remote_code", False),
}
"""A call, and the argument that it must carry, whatever the library's default is this year."""
NEVER = {"register_custom_ops_library", "enable_custom_ops", "load_external_data_for_model"}
"""Calls that bring foreign code or files into a model's process."""


def faults(source: str, *, unpacks: bool = False) -> Iterator[str]:
    """What a module may not do, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            banned = CODE_CARRIERS | (set() if unpacks else ARCHIVES)
            yield from (f"{node.lineno}: imports {name}" for name in names if name.partition(".")[0] in banned)
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in _call_faults(node, unpacks))


def _call_faults(call: ast.Call, unpacks: bool) -> Iterator[str]:
    match call.func:
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            pass
        case ast.Attribute(attr=name):
            owner = ""
        case _:
            return
    if name in NEVER or (name in UNPACKERS and not unpacks):
        yield f"calls {name}"
    for key in ((owner, name), ("", name)):
        if key in MUST_SAY:
            argument, wanted = MUST_SAY[key]
            said = [word.value for word in call.keywords if word.arg == argument]
            if not said or not isinstance(said[0], ast.Constant) or said[0].value != wanted:
                yield f"calls {name} without {argument}={wanted!r}"
            return


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_unpickles_or_unpacks(room: str) -> None:
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(f"{room}/"):
            found += [f"{name}:{fault}" for fault in faults(path.read_text(), unpacks=name in PUBLIC_DATA)]
    assert not found, "\n".join(found)


def test_an_exception_is_one_that_is_used() -> None:
    for name in PUBLIC_DATA:
        assert list(faults((ROOT / name).read_text())), f"{name} unpacks nothing any more: strike it out"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "import zipfile",
        "from tarfile import open as o",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "shutil.unpack_archive(path)",
        "archive.extractall(folder)",
        "zlib.decompress(data)",
        "kind.from_pretrained(folder, trust_remote_code=True)",
        "options.register_custom_ops_library(path)",
    ],
)
def test_the_rule_sees_what_it_forbids(source: str) -> None:
    assert list(faults(source))


def test_the_rule_lets_pass_what_is_safe() -> None:
    assert not list(
        faults(
            "import json\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nself.load(p)\nzlib.crc32(b'')"
        )
    )
