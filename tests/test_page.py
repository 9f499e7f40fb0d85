"""The page of ``i2vae explore`` is for this machine and whoever has the token: hostile requests are refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import tornado.web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketHandler, websocket_connect

pytest.importorskip("voila")
from i2vae_lib.explorers.page import MOST_KERNELS, PROTOCOL, Kernels, guard, hide


class Page(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write("page")

    post = get


class Channels(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True  # nothing but the guard stands before it

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return PROTOCOL if PROTOCOL in subprotocols else None


async def status(headers: dict[str, str], path: str = "/", method: str = "GET", protocols: Any = None) -> int:
    """Of a request to a guarded server; headers may name its port as PORT. 101: a websocket that was opened."""
    app = tornado.web.Application([("/channels", Channels), (".*", Page)])
    sock, port = bind_unused_port()
    guard(app, port)
    server = HTTPServer(app)
    server.add_sockets([sock])
    named = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
    try:
        if path == "/channels":
            asked = HTTPRequest(f"ws://127.0.0.1:{port}/channels", headers=named)
            try:
                (await websocket_connect(asked, subprotocols=protocols)).close()
                return 101
            except Exception as error:
                return int(getattr(error, "code", 0))
        body = "" if method == "POST" else None
        asked = HTTPRequest(f"http://127.0.0.1:{port}{path}", method, named, body)
        return int((await AsyncHTTPClient().fetch(asked, raise_error=False)).code)
    finally:
        server.stop()


OWN = {"Host": "127.0.0.1:PORT"}
HOSTILE: list[dict[str, str]] = [
    {"Host": "evil.example:PORT"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:PORT"},
    {"Host": "127.0.0.1"},
    {"Host": "127.0.0.1:1"},
    {"Host": "user@127.0.0.1:PORT"},
    {"Host": "0.0.0.0:PORT"},
    {"Host": "[::1]:PORT"},
    OWN | {"Origin": "http://evil.example:PORT"},
    OWN | {"Origin": "https://127.0.0.1:PORT"},
    OWN | {"Origin": "http://127.0.0.1:1"},
    OWN | {"Origin": "null"},
    OWN | {"Origin": ""},
    {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
]


@pytest.mark.parametrize("headers", HOSTILE, ids=str)
def test_request_when_it_comes_from_elsewhere(headers: dict[str, str]) -> None:
    refused = (400, 403)  # tornado itself refuses what is no host
    assert asyncio.run(status(headers)) in refused
    assert asyncio.run(status(headers, "/voila/api/shutdown/a", "POST")) in refused
    assert asyncio.run(status(headers, "/channels", protocols=[PROTOCOL])) in refused


@pytest.mark.parametrize(
    "headers", [{}, OWN, {"Host": "LOCALHOST:PORT"}, OWN | {"Origin": "http://127.0.0.1:PORT"}], ids=str
)
def test_request_when_it_is_our_own(headers: dict[str, str]) -> None:
    assert asyncio.run(status(headers)) == 200
    assert asyncio.run(status(headers, "/channels", protocols=["other", PROTOCOL])) == 101


@pytest.mark.parametrize("path", ["/nothing", "/broken", "/channels"])
def test_log_of_a_request_that_fails_has_no_token(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def get(page: Page) -> None:
        if page.request.path == "/broken":
            raise ZeroDivisionError
        page.set_status(404)

    monkeypatch.setattr(Page, "get", get)
    for name in ("tornado.access", "tornado.application"):  # Jupyter's applications send them elsewhere
        monkeypatch.setattr(logging.getLogger(name), "parent", logging.getLogger())
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.WARNING, logger=name)
    make = logging.getLogRecordFactory()
    try:
        hide("0123abcd")
        asyncio.run(status(OWN, f"{path}?token=0123abcd"))
    finally:
        logging.setLogRecordFactory(make)
    assert f"{path}?token=[token]" in caplog.text and "0123abcd" not in caplog.text


@pytest.mark.parametrize("protocols", [None, [], ["v0"], ["v1.kernel.websocket.jupyter.org.evil"]])
def test_websocket_when_it_speaks_the_older_protocol(protocols: list[str] | None) -> None:
    assert asyncio.run(status(OWN, "/channels", protocols=protocols)) == 403


def test_kernels_when_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: Any, **words: Any) -> str:
        await asyncio.sleep(0.01)
        self.there.append(str(len(self.there)))
        return self.there[-1]

    monkeypatch.setattr(Kernels.__mro__[1], "start_kernel", start)
    kernels = Kernels()
    kernels.there = []  # type: ignore[attr-defined]
    monkeypatch.setattr(Kernels, "list_kernel_ids", lambda self: self.there)

    async def visits() -> list[Any]:
        return await asyncio.gather(*(kernels.start_kernel() for _ in range(3 * MOST_KERNELS)), return_exceptions=True)

    found = asyncio.run(visits())
    refused = [one for one in found if isinstance(one, tornado.web.HTTPError)]
    assert len(found) - len(refused) == MOST_KERNELS and {one.status_code for one in refused} == {503}
    assert 0 < kernels.cull_idle_timeout <= 3600 and not kernels.cull_connected
