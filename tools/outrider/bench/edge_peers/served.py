"""What every peer does with an input: the body that the agent reads, the same file in ONNX Runtime on one thread, a small JSON answer."""

import sys
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from outrider_engine.session import load_runtime

READ: "msgspec.json.Decoder[Body]"
WRITE = msgspec.json.Encoder()


class Part(Struct):
    """As the agent's API takes bytes."""

    base64: bytes


class Body(Struct):
    """As the agent's API takes an input."""

    parts: dict[str, Part]


class Reply(Struct):
    """What every peer answers."""

    label: int
    probabilities: list[float]


READ = msgspec.json.Decoder(Body)


class Onnx:
    """The model of ``file``."""

    def __init__(self, file: str) -> None:
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        [asked] = self._session.get_inputs()
        self._name, self._shape = asked.name, (1, *asked.shape[1:])

    def __call__(self, numbers: bytes) -> Reply:
        """The answer to one input."""
        feeds: dict[str, Any] = {self._name: np.frombuffer(numbers, "<f4").reshape(self._shape)}
        logits = self._session.run(None, feeds)[0][0]
        exponents = np.exp(logits - logits.max())
        return Reply(label=int(logits.argmax()), probabilities=(exponents / exponents.sum()).tolist())


def only_part(body: bytes) -> bytes:
    """The bytes of the one part of a body."""
    [part] = READ.decode(body).parts.values()
    return part.base64


def arguments() -> tuple[str, int]:
    """(file of the model, port), as each program is started with."""
    return sys.argv[1], int(sys.argv[2])
