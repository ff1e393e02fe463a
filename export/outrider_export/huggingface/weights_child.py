"""Pickled weights become safetensors, from inside the limited child: load tensors, write one file, say so.

Run as ``python -m outrider_export.huggingface.weights_child OUT MEMORY_MB CPU_S FILE…``. The memory is what it may use beyond
what PyTorch has mapped when it is loaded.
"""

import resource
import sys
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from outrider_export.huggingface.weights import Converted

_PAGE = resource.getpagesize()


def main(arguments: list[str]) -> int:
    """Prints what came of it; the exit status is 0 whatever it says."""
    out, memory_mb, cpu_s, *files = arguments
    torch.set_num_threads(1)
    confine(int(memory_mb), int(cpu_s))
    sys.stdout.write(msgspec.json.encode(convert(Path(out), [Path(file) for file in files])).decode() + "\n")
    return 0


def confine(memory_mb: int, cpu_s: int) -> None:
    """Bounds what this process can do, for good."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE if sys.platform == "linux" else 0
    bound = mapped + (memory_mb << 20)
    limits = {
        resource.RLIMIT_AS: bound if mapped else resource.RLIM_INFINITY,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: memory_mb << 20,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def convert(out: Path, files: list[Path]) -> Converted:
    """One safetensors file of all the tensors in ``files``."""
    tensors: dict[str, torch.Tensor] = {}
    try:
        for file in files:
            found = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(found, dict):
                return Converted(ok=False, detail=f"it holds a {type(found).__name__}")
            for name, tensor in found.items():
                if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                    return Converted(ok=False, detail=f"{str(name)[:80]!r} is no plain tensor")
                # A copy: safetensors refuses tensors that share memory, as tied weights do.
                tensors[name] = tensor.detach().clone().contiguous()
        save_file(tensors, str(out), metadata={"format": "pt"})
    except MemoryError:
        return Converted(ok=False, detail="it asks for more memory than its size warrants")
    except Exception as error:  # noqa: BLE001 -- torch names no set of errors for hostile bytes; this child is their end
        if type(error).__name__ == "UnpicklingError":  # by its name: no module here imports what raises it
            return Converted(ok=False, detail=f"it holds more than tensors ({str(error).splitlines()[0][:200]})")
        return Converted(ok=False, detail=f"it does not load ({type(error).__name__}: {str(error)[:200]})")
    return Converted(ok=True, tensors=len(tensors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
