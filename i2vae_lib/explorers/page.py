"""The server of ``i2vae explore``: Voila, for this machine and whoever has the token alone.

A process of its own (``python -P -m i2vae_lib.explorers.page``), started by :func:`.light.explore` in a folder that
holds nothing but the page; it reads no configuration, and ends when its standard input does, that is with its parent.
"""

import logging
import os
import signal
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

import tornado.ioloop
import tornado.web
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httputil import HTTPServerRequest
from voila.app import Voila

_TOKEN = "I2VAE_PAGE_TOKEN"  # the variable that has the token: other users can read a command line, but no environment

MOST_KERNELS = 6  # each open page has one, of half a gigabyte

# what the page's widgets need; Voila would load every extension that JupyterLab has here
_EXTENSIONS = ["anywidget", "@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8"]

_IDLE_SECONDS = 600  # after which a kernel ends whose page is closed

# what every browser's page speaks; the older one lets a single message take all memory
PROTOCOL = "v1.kernel.websocket.jupyter.org"


def _refusal(request: HTTPServerRequest, port: int) -> str | None:
    """Why a request is not served; None: it is.

    A page of another site that has its own name point here sends that name as ``Host``, any other its own ``Origin``.
    """
    hosts = {f"{name}{end}" for name in ("127.0.0.1", "localhost") for end in (f":{port}", *[""] * (port == 80))}
    if (host := request.headers.get("Host", "").lower()) not in hosts:
        return f"Host {host!r} is not this machine"
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() not in {f"http://{one}" for one in hosts}:
        return f"Origin {origin!r} is another site"
    if request.headers.get("Upgrade", "").lower() == "websocket":
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        if PROTOCOL not in (one.strip() for one in offered):
            return f"a websocket speaks {PROTOCOL}"
    return None


class _Refused(tornado.web.RequestHandler):
    def initialize(self, reason: str) -> None:
        self.reason = reason

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"refused: {self.reason}\n")


def guard(app: tornado.web.Application, port: int) -> None:
    """Ask :func:`_refusal` of every request, before any handler of ``app`` sees it."""
    find = app.find_handler

    def guarded(request: HTTPServerRequest, **words: Any) -> Any:
        reason = _refusal(request, port)
        if reason is None:
            return find(request, **words)
        return app.get_handler_delegate(request, _Refused, {"reason": reason})

    app.find_handler = guarded  # type: ignore[method-assign]


class Kernels(AsyncMappingKernelManager):
    """So many at a time, and none that nobody looks at."""

    def __init__(self, **words: Any):
        super().__init__(**words)  # type: ignore[no-untyped-call]
        self.cull_idle_timeout, self.cull_interval = _IDLE_SECONDS, 60
        self._starting = 0

    async def start_kernel(self, **words: Any) -> str:  # type: ignore[override]
        if len(self.list_kernel_ids()) + self._starting >= MOST_KERNELS:
            raise tornado.web.HTTPError(503, f"{MOST_KERNELS} pages are open: close one, and reload after a moment")
        self._starting += 1
        try:
            return await super().start_kernel(**words)
        finally:
            self._starting -= 1


class _Server(Voila):
    """Voila behind :func:`guard`."""

    def listen(self) -> None:
        guard(self.app, self.port)
        # the loop starts once the port is held
        tornado.ioloop.IOLoop.current().add_callback(print, f"{self.address} for you alone; Ctrl-C ends it", flush=True)
        super().listen()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def launch_browser(self) -> None:
        # by a file, for the browser's command line is everybody's to read
        opened = Path("open.html").resolve()
        opened.write_text(f'<meta http-equiv="refresh" content="0; url={self.address}">', encoding="utf-8")
        threading.Thread(target=webbrowser.open, args=(opened.as_uri(),), daemon=True).start()


def hide(secret: str) -> None:
    """Keep a text out of every line that this process logs: requests that fail are logged with their address."""
    make = logging.getLogRecordFactory()

    def without(*words: Any, **named: Any) -> logging.LogRecord:
        record = make(*words, **named)
        record.msg, record.args = record.getMessage().replace(secret, "[token]"), ()
        return record

    logging.setLogRecordFactory(without)


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _main(notebook: str, port: str, *, open_browser: bool) -> None:
    """Serve a notebook that :func:`.contents.write_page` wrote, until SIGTERM or the end of its input."""
    server = _Server(
        ip="127.0.0.1",
        config_file_paths=[],  # else what lies in the working directory and in the user's folders would count
        port=int(port),
        port_retries=0,  # at that port or not at all: who holds it may be somebody else
        token=os.environ[_TOKEN],
        open_browser=open_browser,
        notebook_path=notebook,
        log_level=logging.WARNING,
    )
    hide(server.token)
    server.config.VoilaConfiguration.template = "kit"
    server.config.VoilaConfiguration.extension_allowlist = _EXTENSIONS
    server.config.VoilaConfiguration.multi_kernel_manager_class = Kernels
    server.config.VoilaConfiguration.preheat_kernel = True  # one page is always ready: imports take seconds
    server.config.VoilaKernelManager.fill_delay = 5.0  # the next one starts when this page is drawn
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server.initialize([])
    server.start()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], open_browser="--no-browser" not in sys.argv)
