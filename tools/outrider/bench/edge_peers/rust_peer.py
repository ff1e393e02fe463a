"""mosec, ``python -m outrider.bench.edge_peers.rust_peer MODEL PORT``: a web server in Rust, and one worker process."""

import os
import sys

import mosec

from outrider.bench.edge_peers.served import WRITE, Onnx, Reply, arguments, only_part

_FILE = "OUTRIDER_BENCH_MODEL"


class Classifier(mosec.Worker):  # type: ignore[misc]  # an untyped library
    """Made in the worker's process, from the environment."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._model = Onnx(os.environ[_FILE])

    def deserialize(self, data: bytes) -> bytes:
        """From the request's body."""
        return only_part(data)

    def forward(self, data: bytes) -> Reply:
        """One input; batches are off, as they are by default."""
        return self._model(data)

    def serialize(self, data: Reply) -> bytes:
        """To the reply's."""
        return WRITE.encode(data)


def main() -> None:
    """Serves ``/inference`` until SIGTERM."""
    file, port = arguments()
    sys.argv = ["mosec", "--address", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    server = mosec.Server()  # type: ignore[no-untyped-call,unused-ignore]
    server.append_worker(Classifier, num=1, env=[{_FILE: file}])
    server.run()  # type: ignore[no-untyped-call,unused-ignore]


if __name__ == "__main__":
    main()
