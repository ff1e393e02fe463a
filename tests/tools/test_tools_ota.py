"""``outrider ota`` against a cloud API that behaves as the real one is specified to."""

import hashlib
import socket

import pytest
from aiohttp import web

import factory
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest

TOKEN = "let-me-in"


class FakeCloud:
    """Blobs, releases, assignments and devices, kept in memory."""

    def __init__(self):
        self.blobs = {}
        self.uploads = []
        self.releases = []
        self.assigned = {}
        self.devices = ["cam-1", "cam-2"]
        self.slots = {}

    def application(self):
        app = web.Application(client_max_size=1 << 26, middlewares=[self.guard])
        app.router.add_get("/v1/blobs/{sha256}", self.get_blob)  # and HEAD
        app.router.add_put("/v1/blobs/{sha256}", self.put_blob)
        app.router.add_post("/v1/releases", self.add_release)
        app.router.add_post("/v1/releases/{digest}/assign", self.assign)
        app.router.add_get("/v1/devices", self.list_devices)
        return app

    @web.middleware
    async def guard(self, request, handler):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.error(401, "unauthorised", "the bearer token is missing or wrong", "send the token")
        return await handler(request)

    async def get_blob(self, request):
        return web.Response(status=200 if request.match_info["sha256"] in self.blobs else 404)

    async def put_blob(self, request):
        data, sha256 = await request.read(), request.match_info["sha256"]
        if hashlib.sha256(data).hexdigest() != sha256:
            return self.error(422, "digest", "not what its digest says", "send it again")
        self.blobs[sha256] = data
        self.uploads.append(sha256)
        return web.json_response({"sha256": sha256, "size": len(data)}, status=201)

    async def add_release(self, request):
        digest = (await request.json())["manifest"]
        manifest = decode_manifest(self.blobs[digest])
        if absent := [entry.path for entry in manifest.files if entry.sha256 not in self.blobs]:
            return self.error(422, "file_missing", f"{absent[0]} is not here", "put it first")
        self.releases.append(digest)
        return web.json_response({"digest": digest, "task": manifest.task}, status=201)

    async def assign(self, request):
        digest, wanted = request.match_info["digest"], (await request.json())["devices"]
        names = self.devices if wanted == "all" else wanted
        if strangers := [name for name in names if name not in self.devices]:
            return self.error(404, "unknown_device", f"no device {strangers[0]!r}", "start its agent first")
        for name in names:
            self.assigned[name] = {"colours": {"release": digest, "counter": 1}}
        return web.json_response({"release": digest, "counters": dict.fromkeys(names, 1)})

    async def list_devices(self, _):
        rows = [
            {
                "device": name,
                "online": name == "cam-1",
                "agent": "0.1.0",
                "seen_ms": 1,
                "slots": self.slots.get(name, {}),
                "telemetry": {},
                "assigned": self.assigned.get(name, {}),
            }
            for name in self.devices
        ]
        return web.json_response({"devices": rows})

    def error(self, status, reason, what, fix):
        return web.json_response({"error": {"reason": reason, "what": what, "fix": fix, "part": ""}}, status=status)


@pytest.fixture
def cloud():
    return FakeCloud()


@pytest.fixture
def ota(outrider, cloud, serve, tmp_path):
    """``ota("status")``: the command, told where the cloud is and how to get in."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    variables = {
        "OUTRIDER_OTA_CLOUD": serve(cloud.application()).url,
        "OUTRIDER_OTA_TOKEN_FILE": str(tmp_path / "token"),
    }
    return lambda *arguments: outrider("ota", *arguments, **variables)


@pytest.fixture
def bundle(tmp_path):
    return factory.make_bundle(tmp_path / "bundle", version="7")


def digest_of(bundle):
    return hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()


def test_publish_uploads_everything_and_offers_it_to_all(ota, cloud, bundle):
    ran = ota("publish", bundle, "--yes", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["counters"] == {"cam-1": 1, "cam-2": 1}
    assert cloud.releases == [digest_of(bundle)]
    assert len(cloud.blobs) == 3


def test_publish_uploads_only_what_is_missing(ota, cloud, bundle, tmp_path):
    ota("publish", bundle, "--yes")
    cloud.uploads.clear()
    other = factory.make_bundle(tmp_path / "other", version="8", threshold=0.9)
    assert ota("publish", other, "--yes", "--json").json["uploads"] == [MANIFEST_FILE]
    assert cloud.uploads == [digest_of(other)]


def test_publish_to_one_device_leaves_the_others(ota, cloud, bundle):
    assert ota("publish", bundle, "--to", "cam-2", "--yes").code == 0
    assert list(cloud.assigned) == ["cam-2"]


def test_a_dry_run_says_what_and_does_nothing(ota, cloud, bundle):
    ran = ota("publish", bundle, "--dry-run")
    assert ran.code == 0
    assert ran.out.startswith("would publish colours 7")
    assert "to all devices" in ran.out
    assert not cloud.blobs and not cloud.releases


def test_without_a_yes_nothing_is_published(ota, cloud, bundle):
    ran = ota("publish", bundle)
    assert ran.code == 2
    assert "add --yes" in ran.err
    assert not cloud.blobs


def test_a_damaged_bundle_is_refused_before_anything_is_sent(ota, cloud, bundle):
    (bundle / "golden.msgpack").write_bytes(b"")
    assert ota("publish", bundle, "--yes").code == 3
    assert not cloud.blobs


def test_a_device_that_nobody_knows_is_said(ota, bundle):
    ran = ota("publish", bundle, "--to", "cam-9", "--yes")
    assert ran.code == 1
    assert "start its agent first" in ran.err


def test_status_tells_what_runs_and_what_should(ota, cloud, bundle):
    ota("publish", bundle, "--yes")
    cloud.slots["cam-1"] = {
        "colours": {
            "task": "colours",
            "running": "a" * 64,
            "version": "6",
            "slot": "a",
            "state": "refused",
            "reason": "the self-test failed",
            "offered": digest_of(bundle),
        }
    }
    first, second = ota("status", "--json").json["devices"]
    assert first == {
        "device": "cam-1",
        "online": True,
        "task": "colours",
        "running": "a" * 64,
        "version": "6",
        "desired": digest_of(bundle),
        "state": "refused",
        "reason": "the self-test failed",
        "current": False,
        "held": "",
        "refused": None,
        "unsigned": False,
    }
    assert (second["online"], second["running"], second["current"]) == (False, "", False)
    table = ota("status").out
    assert "the self-test failed" in table
    assert digest_of(bundle)[:12] in table


def test_status_of_an_empty_fleet_says_how_to_begin(ota, cloud):
    cloud.devices = []
    assert "outrider edge run" in ota("status").out


def test_a_wrong_token_is_refused_with_the_fix(ota, tmp_path):
    (tmp_path / "token").write_text("wrong")
    ran = ota("status")
    assert ran.code == 3
    assert "bearer token" in ran.err


def test_an_empty_token_file_is_said(ota, tmp_path):
    (tmp_path / "token").write_text("")
    assert "holds no token" in ota("status").err


def test_a_cloud_that_is_not_there_is_unreachable(outrider):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ran = outrider("ota", "status", "--cloud", f"http://127.0.0.1:{port}")
    assert ran.code == 4
    assert "outrider cloud serve" in ran.err
