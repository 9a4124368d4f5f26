"""`kinmass gallery`: serves the pages on 127.0.0.1 alone, to whoever has the address with its token.

Only GET is answered. What an address names is a suite that is in the store, and numbers: no part of it becomes a path.
Nothing on the pages comes from elsewhere, which their content security policy also forbids; there are no scripts.
Tornado is here already: Dask brings it.
"""

import getpass
import hashlib
import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.web

from kinmass.eval.gallery.index import Index
from kinmass.eval.gallery.pages import Pages, Refusal
from kinmass.eval.gallery.stored import NotShown, networks_of
from kinmass.eval.tables.tasks import sources_of
from kinmass.gen.look.style import own_style
from kinmass.gen.storage.store import StoreError
from kinmass.gen.words import counted

ADDRESS, PORT = "127.0.0.1", 8050
_HEADERS = {
    "Server": "kinmass",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SUITE, _NUMBER = r"([A-Za-z0-9_-]{1,200})", r"([0-9]{1,9})"
#: Threads that read galaxies for lists and small pictures. Figures and networks have one thread of their own:
#: matplotlib may not be used by several.
READERS = 4


class _Handler(tornado.web.RequestHandler):
    """Answers GET with what `make`, a method of Pages, returns for the parts of the address and its query."""

    def initialize(self, pages: Pages, token: str, make: Callable[..., bytes], kind: str, pool: Any) -> None:
        """Take what the route says: the pages, the token, the method of Pages, the type of its bytes, its threads."""
        self.pages, self.token, self.make, self.kind, self.pool = pages, token, make, kind, pool

    def set_default_headers(self) -> None:
        """Forbid everything that comes from elsewhere, on every answer."""
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse whoever has not the token, and another site whose name leads here (DNS rebinding)."""
        if urlsplit(f"//{self.request.host}").hostname not in (ADDRESS, "localhost"):
            raise tornado.web.HTTPError(403)
        cookie = f"kinmass-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"
        if hmac.compare_digest(self.get_query_argument("token", "").encode(), self.token.encode()):
            self.set_cookie(cookie, self.token, httponly=True, samesite="Strict", path="/")
            query = [(key, self.get_query_argument(key)) for key in self.request.query_arguments if key != "token"]
            self.redirect(f"/{self.request.path.lstrip('/')}" + (f"?{urlencode(query)}" if query else ""))
        elif not hmac.compare_digest((self.get_cookie(cookie) or "").encode(), self.token.encode()):
            raise tornado.web.HTTPError(403)

    async def get(self, *parts: str) -> None:
        """Answer with the page, or 404 and one sentence where there is none."""
        query = {key: self.get_query_argument(key) for key in self.request.query_arguments}
        loop = tornado.ioloop.IOLoop.current()
        try:
            content = await loop.run_in_executor(self.pool, lambda: self.make(query, *parts))
        except (Refusal, NotShown, StoreError) as error:
            self.set_status(404)
            self.finish(self.pages.message(str(error)))
            return
        self.set_header("Content-Type", self.kind)
        if self.kind.startswith("image"):
            self.set_header("Cache-Control", "private, max-age=60")
        else:
            self.set_header("Cache-Control", "no-store")
        self.finish(content)

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer a refusal with one sentence in place of Tornado's page."""
        sentences = {
            403: "This page needs the whole address that `kinmass gallery` has printed, with its token.",
            404: "There is no such page.",
            405: "This page is only there to be read.",
        }
        sentence = sentences.get(status_code, "This cannot be shown: the terminal of `kinmass gallery` says why.")
        self.finish(self.pages.message(sentence))


def application(pages: Pages, token: str) -> tornado.web.Application:
    """Return the application; every address that is not one of these is answered with 404."""
    readers, artist = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)
    html, png = "text/html; charset=utf-8", "image/png"

    def missing(query: dict[str, str], *parts: str) -> bytes:
        """Raise Refusal for an address that leads nowhere."""
        raise Refusal("There is no such page; the list of all galaxies is at /.")

    routes = [
        (r"/", pages.listing, html, readers),
        (rf"/galaxy/{_SUITE}/{_NUMBER}", pages.galaxy, html, artist),
        (rf"/tile/{_SUITE}/{_NUMBER}\.png", pages.tile, png, readers),
        (rf"/map/{_SUITE}/{_NUMBER}/{_NUMBER}/([0-7])\.png", pages.map, png, artist),
        (rf"/profile/{_SUITE}/{_NUMBER}/{_NUMBER}\.png", pages.profile, png, artist),
        (r"/style\.css", pages.style, "text/css", readers),
        (r".*", missing, html, readers),
    ]
    return tornado.web.Application(
        [
            (route, _Handler, {"pages": pages, "token": token, "make": make, "kind": kind, "pool": pool})
            for route, make, kind, pool in routes
        ]
    )


def bind(port: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1 at a port, or (None) at PORT or else a free one. Raises OSError."""
    for attempt in (PORT, 0) if port is None else (port,):
        try:
            if attempt > 65535:  # of which the system would take another, without a word
                raise OverflowError("a port is a number up to 65535")
            return tornado.netutil.bind_sockets(attempt, ADDRESS)[0]
        except (OSError, OverflowError) as error:
            if attempt != PORT or port is not None:
                raise OSError(f"port {attempt} of {ADDRESS} cannot be used ({error}); give another --port") from error
    raise AssertionError


def _user() -> str:
    """Return the user's name, or USER where the system has none for the number, as in a container that is given one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"


@own_style()
def serve(store: Path, runs: list[Path], results: Path, port: int | None = None, check: bool = False) -> int:
    """Serve the gallery of a store until it is interrupted. Raises StoreError, RunError or OSError at the start.

    results: where predictions of runs that cannot be written to are kept. check: whether to read every map for damage.
    """
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    index = Index(store, sources_of(runs, results, classical=False), check)
    listening, token = bind(port), secrets.token_urlsafe(18)
    port = listening.getsockname()[1]
    server = tornado.httpserver.HTTPServer(application(Pages(index, networks_of(runs)), token))
    server.add_sockets([listening])
    reading = index.start()
    n_galaxies = sum(len(table.names) for table in index.suites.values())
    print(f"{store}: {counted(n_galaxies, 'galaxy', 'galaxies')} of {', '.join(index.suites)}; Ctrl-C ends it")
    print(f"open                  http://{ADDRESS}:{port}/?token={token}")
    print(f"from elsewhere first  ssh -N -L {port}:{ADDRESS}:{port} {_user()}@{socket.getfqdn()}", flush=True)
    try:
        tornado.ioloop.IOLoop.current().start()
    except KeyboardInterrupt:
        print()
    finally:
        index.stop()
        reading.join(timeout=10)  # it reads through threads that an interpreter which ends no longer starts
    return 0
