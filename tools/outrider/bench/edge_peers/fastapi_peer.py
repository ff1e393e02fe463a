"""LitServe, ``python -m outrider.bench.edge_peers.fastapi_peer MODEL PORT``: FastAPI, a queue, and one worker process.

JSON is read and written by LitServe itself, as its documentation has it.
"""

import base64
from typing import Any

import litserve

from outrider.bench.edge_peers.served import Onnx, Reply, arguments


class Api(litserve.LitAPI):  # type: ignore[misc]  # it has none
    """Made before the worker is started, and sent to it."""

    def __init__(self, file: str) -> None:
        super().__init__(api_path="/infer")
        self._file = file

    def setup(self, device: str) -> None:
        """In the worker."""
        del device
        self.model = Onnx(self._file)

    def decode_request(self, request: dict[str, Any], **_: Any) -> bytes:
        """From parsed JSON."""
        [part] = request["parts"].values()
        return base64.b64decode(part["base64"])

    def predict(self, x: bytes, **_: Any) -> Reply:
        """One input; batches are off, as they are by default."""
        return self.model(x)

    def encode_response(self, output: Reply, **_: Any) -> dict[str, Any]:
        """To what becomes JSON."""
        return {"label": output.label, "probabilities": output.probabilities}


def main() -> None:
    """Serves until SIGTERM."""
    file, port = arguments()
    server = litserve.LitServer(Api(file), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
