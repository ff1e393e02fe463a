"""Where a bundle's weights lie: beside it. Loads no torch, so that whoever only moves bundles need not."""

from pathlib import Path


def checkpoint_path(bundle: Path) -> Path:
    """Where a bundle's checkpoint lies: beside it, never inside."""
    return bundle.with_name(f"{bundle.name}.safetensors")
