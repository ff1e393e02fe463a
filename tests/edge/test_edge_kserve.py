"""The Open Inference Protocol v2 on the agent: by plain HTTP, and by the client that Triton's users have."""

import base64
import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absent import skip_without
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from edge_agents import QUIET, SERVE, Bench, running_agent, serve_environment, write_config

from factory import QUESTION, make_task, sure, unsure
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.kserve.mapping import parts_of
from outrider_edge.local_api.kserve.routes import KserveRoutes
from outrider_edge.local_api.kserve.tensors import HEADER, read_request
from outrider_wire.errors import CallerInputError
from outrider_wire.task import AnswerSpace, InputPart, Task

INFER = "/v2/models/colours/infer"
TRITON_VARIABLE = "OUTRIDER_TEST_TRITONCLIENT"
"""A folder that ``pip install --target`` has put ``tritonclient[http]`` into, where this environment has none."""


class Served:
    """An agent whose routes of the protocol are open."""

    def __init__(self, bench: Bench, client: TestClient[web.Request, web.Application]) -> None:
        self.agent = bench.agent
        self.uplink = bench.uplink
        self._client = client

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._client.get(path) as reply:
            return reply.status, await reply.json()

    async def post(self, body: bytes | dict[str, Any], head: int | None = None, path: str = INFER) -> tuple[int, Any]:
        """Status and JSON; of a binary reply, its JSON and the bytes behind it as ``tail``."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if head is None else {HEADER: str(head)}
        async with self._client.post(path, data=data, headers=headers) as reply:
            whole, length = await reply.read(), reply.headers.get(HEADER)
        if length is None:
            return reply.status, json.loads(whole)
        return reply.status, {**json.loads(whole[: int(length)]), "tail": whole[int(length) :]}


@asynccontextmanager
async def served(folder: Path, **about: Any) -> AsyncIterator[Served]:
    async with running_agent(folder, **about) as bench:
        groups = [KserveRoutes(agent=bench.agent, version="9")]
        app = Api(agent=bench.agent, status=lambda: None, metrics=bytes, groups=groups).application()  # type: ignore[arg-type,return-value]  # neither is asked for
        async with TestClient(TestServer(app)) as client:
            yield Served(bench, client)


def tensor(name: str, *data: str, **more: Any) -> dict[str, Any]:
    """A BYTES tensor in JSON."""
    return {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": list(data), **more}


def asked(*images: bytes, **more: Any) -> dict[str, Any]:
    """A request in JSON, pictures as base64."""
    coded = [base64.b64encode(image).decode() for image in images]
    picture = tensor("image", *coded, parameters={"content_type": "base64"})
    return {"inputs": [picture, tensor("question", *[QUESTION] * len(images))], **more}


def outputs(reply: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of a JSON reply, by output."""
    return {output["name"]: output["data"] for output in reply["outputs"]}


async def test_server_and_models_tell_what_they_are(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert await api.get("/v2") == (
            200,
            {"name": "outrider", "version": "9", "extensions": ["binary_tensor_data"]},
        )
        assert await api.get("/v2/health/live") == (200, {"live": True})
        assert await api.get("/v2/health/ready") == (200, {"ready": True})
        status, model = await api.get("/v2/models/colours")
        assert (status, model["versions"]) == (200, ["1"])
        assert [(each["name"], each["datatype"], each["shape"]) for each in model["inputs"]] == [
            ("image", "BYTES", [-1]),
            ("question", "BYTES", [-1]),
        ]
        assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
        assert await api.get("/v2/models/colours/versions/1") == (status, model)
        assert await api.get("/v2/models/colours/versions/1/ready") == (200, {"name": "colours", "ready": True})


async def test_a_batch_gets_a_row_an_input_and_each_is_in_the_account(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, reply = await api.post(asked(sure(2), sure(0), id="mine"))
        assert (status, reply["id"], reply["model_name"], reply["model_version"]) == (200, "mine", "colours", "1")
        told = outputs(reply)
        assert told["label"] == ["blue", "red"]
        assert told["certified"] == [True, True]
        assert told["answered_by"] == ["edge", "edge"]
        rows = np.array(told["probabilities"]).reshape(2, 3)
        assert rows.argmax(axis=1).tolist() == [2, 0]
        assert told["confidence"] == pytest.approx(rows.max(axis=1).tolist())
        assert len(set(told["input_id"])) == 2
        assert (await api.get(f"/v1/answers/{told['input_id'][0]}"))[1]["label"] == "blue"
        assert api.agent.account("colours").edge == 2


async def test_bytes_behind_the_json_are_the_same_input(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        packed = [struct.pack("<I", len(part)) + part for part in (sure(2), QUESTION.encode())]
        head = json.dumps(
            {
                "inputs": [
                    {"name": name, "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(part)}}
                    for name, part in zip(("image", "question"), packed, strict=True)
                ],
                "outputs": [
                    {"name": "probabilities", "parameters": {"binary_data": True}},
                    {"name": "label", "parameters": {"binary_data": True}},
                    {"name": "certified", "parameters": {"binary_data": True}},
                    {"name": "why"},
                ],
            }
        ).encode()
        status, reply = await api.post(head + b"".join(packed), len(head))
        assert status == 200
        probabilities, label, certified, why = reply["outputs"]
        sizes = [each["parameters"]["binary_data_size"] for each in (probabilities, label, certified)]
        assert sizes == [12, 8, 1]
        assert np.frombuffer(reply["tail"][:12], "<f4").argmax() == 2
        assert reply["tail"][12:] == struct.pack("<I", 4) + b"blue" + b"\x01"
        assert why["data"] == ["accepted"]


async def test_an_input_that_the_device_is_unsure_of_is_escalated_like_any_other(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        wishes = {"wait": "provisional", "group": "clip-3", "timeout": 20_000_001}
        _, reply = await api.post(asked(unsure(), parameters=wishes))
        told = outputs(reply)
        assert (told["final"], told["state"], told["certified"]) == ([False], ["pending"], [False])
        entry = await api.uplink.sent.get()
        assert (entry.id, entry.group, entry.answer_within_ms) == (told["input_id"][0], "clip-3", 20_001)
        await api.uplink.answer(entry.id)
        _, final = await api.get(f"/v1/answers/{entry.id}")
        assert (final["label"], final["state"]) == ("blue", "cloud")
        _, insisted = await api.post(asked(sure(0), parameters={"insist": True, "wait": "provisional"}))
        assert outputs(insisted)["why"] == ["requested"]


BAD: dict[str, tuple[Any, int | None, tuple[int, str]]] = {
    "no JSON": (b"x", None, (400, "damaged_body")),
    "nested too deeply": (b"[" * 100_000, None, (400, "damaged_body")),
    "an unknown parameter": (asked(sure(0), parameters={"priority": 1}), None, (400, "damaged_body")),
    "two deadlines": (
        asked(sure(0), parameters={"timeout": 1, "answer_within_ms": 1}),
        None,
        (400, "invalid_parameter"),
    ),
    "a deadline before now": (asked(sure(0), parameters={"timeout": -9_000}), None, (400, "invalid_wait")),
    "an unknown output": (asked(sure(0), outputs=[{"name": "logits"}]), None, (400, "unknown_output")),
    "a header longer than the body": (asked(sure(0)), 10_000, (400, "damaged_body")),
    "bytes that no tensor names": (json.dumps(asked(sure(0))).encode() + b"xx", None, (400, "damaged_body")),
    "a picture as text": ({"inputs": [tensor("image", "x"), tensor("question", "?")]}, None, (400, "wrong_type")),
    "no base64": (
        {"inputs": [tensor("image", "%%", parameters={"content_type": "base64"}), tensor("question", "?")]},
        None,
        (400, "damaged_tensor"),
    ),
    "a shape of another size": ({"inputs": [tensor("question", "?", shape=[2])]}, None, (400, "damaged_tensor")),
    "a vast shape": ({"inputs": [tensor("question", "?", shape=[2**40, 2**40])]}, None, (400, "damaged_tensor")),
    "batches of two sizes": (
        {"inputs": [asked(sure(0))["inputs"][0], tensor("question", "?", "?")]},
        None,
        (400, "wrong_shape"),
    ),
    "an empty batch": ({"inputs": [tensor("question")]}, None, (400, "wrong_shape")),
    "a part twice": ({"inputs": [tensor("question", "?")] * 2}, None, (400, "duplicate_part")),
    "a missing part": ({"inputs": [tensor("question", "?")]}, None, (400, "missing_part")),
    "an extra part": (
        {"inputs": [*asked(sure(0))["inputs"], tensor("audio", "x")]},
        None,
        (400, "extra_part"),
    ),
    "numbers for a question": (
        {"inputs": [{"name": "question", "datatype": "FP32", "shape": [1], "data": [0.5]}]},
        None,
        (400, "wrong_datatype"),
    ),
    "a datatype that is not read": (
        {"inputs": [{"name": "question", "datatype": "INT64", "shape": [1], "data": [1]}]},
        None,
        (400, "wrong_datatype"),
    ),
    "numbers among the strings": ({"inputs": [tensor("question", 3)]}, None, (400, "damaged_tensor")),  # type: ignore[arg-type]  # that is the point
    "no values": ({"inputs": [{"name": "question", "datatype": "BYTES", "shape": [1]}]}, None, (400, "damaged_tensor")),
    "shared memory": (
        {"inputs": [tensor("question", "?", parameters={"shared_memory_region": "x"})]},
        None,
        (400, "damaged_body"),
    ),
    "no picture": (asked(b"no picture"), None, (415, "not_an_image")),
    "too large": (b" " * 400_000, None, (413, "too_large")),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_request_gets_a_sentence_and_is_counted(tmp_path: Path, case: str) -> None:
    body, head, told = BAD[case]
    async with served(tmp_path) as api:
        status, reply = await api.post(body, head)
        assert (status, reply["reason"]) == told, reply
        assert isinstance(reply["error"], str)
        assert api.agent.account().refused == 1
        assert (await api.post(asked(sure(0))))[0] == 200


async def test_what_is_not_served_is_not_found(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        for path in ("/v2/models/shapes", "/v2/models/shapes/ready", "/v2/models/colours/versions/2"):
            status, reply = await api.get(path)
            assert (status, isinstance(reply["error"], str)) == (404, True)
        assert (await api.post(asked(sure(0)), path="/v2/models/shapes/infer"))[1]["reason"] == "unknown_task"


@pytest.mark.parametrize(
    "data",
    [b"\x01", b"\x05\x00\x00\x00ab", b"\xff\xff\xff\xff"],
    ids=["half a length", "half an element", "a vast element"],
)
def test_elements_that_end_early_are_refused(data: bytes) -> None:
    entry = {"name": "q", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(CallerInputError, match="ends within"):
        read_request(head + data, str(len(head)))


@pytest.mark.parametrize("binary", [False, True])
def test_a_series_becomes_its_numbers_little_endian(binary: bool) -> None:
    task = Task(
        name="hum", inputs=[InputPart(name="wave", modality="series")], answer=AnswerSpace(labels=["calm", "loud"])
    )
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    entry: dict[str, Any] = {"name": "wave", "datatype": "FP32", "shape": [2, 3]}
    entry |= {"parameters": {"binary_data_size": rows.nbytes}} if binary else {"data": rows.tolist()}
    head = json.dumps({"inputs": [entry]}).encode()
    _, tensors = read_request(head + (rows.tobytes() if binary else b""), str(len(head)))
    assert parts_of(task, tensors) == [{"wave": row.tobytes()} for row in rows]


TRITON = """
import sys
import numpy as np
import tritonclient.http as http

address, picture, question = sys.argv[1:]
client = http.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready()
assert client.get_server_metadata()["name"] == "outrider"
model = client.get_model_metadata("colours")
assert client.is_model_ready("colours") and client.is_model_ready("colours", model["versions"][0])
assert not client.is_model_ready("shapes")


def input_of(name, value, binary):
    made = http.InferInput(name, [1], "BYTES")
    made.set_data_from_numpy(np.array([value], dtype=np.object_), binary_data=binary)
    return made


for binary in (True, False):
    for outputs in (None, [http.InferRequestedOutput("label", binary_data=binary), http.InferRequestedOutput("probabilities")]):
        for packing in (None, "gzip"):
            result = client.infer(
                "colours",
                [input_of("image", open(picture, "rb").read(), True), input_of("question", question, binary)],
                outputs=outputs, request_id="7", timeout=5_000_000, parameters={"group": "g"},
                request_compression_algorithm=packing, response_compression_algorithm=packing,
            )
            [label] = result.as_numpy("label").tolist()
            assert label in (b"blue", "blue"), label
            assert result.as_numpy("probabilities").shape == (1, 3)
            assert result.get_response()["id"] == "7"
    assert outputs is None or result.as_numpy("certified") is None
try:
    client.infer("colours", [input_of("question", question, True)])
except http.InferenceServerException as error:
    print(error.status(), error.message())
"""


def test_tritons_client_works_unchanged(tmp_path: Path) -> None:
    folder = os.environ.get(TRITON_VARIABLE, "")
    if not folder and importlib.util.find_spec("tritonclient") is None:
        skip_without("tritonclient", f"pip install --target DIR 'tritonclient[http]', and {TRITON_VARIABLE}=DIR")
    (tmp_path / "blue.png").write_bytes(sure(2))
    agent = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(write_config(tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
        env=serve_environment(),
    )
    try:
        assert agent.stdout is not None
        address = agent.stdout.readline().strip().removeprefix("http://")
        ran = subprocess.run(
            [sys.executable, "-c", TRITON, address, str(tmp_path / "blue.png"), QUESTION],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": folder},
        )
    finally:
        agent.terminate()
        agent.wait(30)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("400 part 'image' is missing")


async def test_readiness_ends_when_the_agent_stops(tmp_path: Path) -> None:
    async with served(tmp_path, task=make_task(policy=QUIET)) as api:
        await api.agent.drain(0.0)
        assert await api.get("/v2/health/ready") == (503, {"ready": False})
        assert await api.get("/v2/models/colours/ready") == (503, {"name": "colours", "ready": False})
