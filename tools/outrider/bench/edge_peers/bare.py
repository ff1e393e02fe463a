"""aiohttp with the model on its event loop, ``python -m outrider.bench.edge_peers.bare MODEL PORT``: the least that Python can do."""

from aiohttp import web

from outrider.bench.edge_peers.served import WRITE, Onnx, arguments, only_part


def main() -> None:
    """Serves until SIGTERM."""
    file, port = arguments()
    model = Onnx(file)

    async def infer(request: web.Request) -> web.Response:
        said = model(only_part(await request.read()))
        return web.Response(body=WRITE.encode(said), content_type="application/json")

    app = web.Application()
    app.router.add_post("/infer", infer)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main()
