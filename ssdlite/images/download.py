"""A picture from an http(s) address: no other scheme, so many bytes and seconds, and checked as any picture is."""

from __future__ import annotations

import queue
import tempfile
import threading
import urllib.request as web
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from ssdlite import __version__
from ssdlite.errors import DataError, quote

MOST_DOWNLOAD_BYTES = 1 << 26  # of a download: a JPEG of the 89 million pixels that are read has about as many
MOST_DOWNLOAD_SECONDS = 30.0  # from the first to the last byte
CHUNK_BYTES = 1 << 16


@contextmanager
def downloaded(url: str, suffix: str = "") -> Iterator[Path]:
    """The content of ``url`` as a temporary file with this suffix; a DataError about that file names the address.

    Raises:
        DataError: another scheme than http(s), here or where the server redirects to; more than
            ``MOST_DOWNLOAD_BYTES`` or ``MOST_DOWNLOAD_SECONDS``; or what the server or the system says.
    """
    content = _fetch(url)
    with tempfile.TemporaryDirectory(prefix="ssdlite-") as folder:
        path = Path(folder) / f"picture{suffix}"
        path.write_bytes(content)
        del content
        try:
            yield path
        except DataError as error:
            raise DataError(str(error).replace(str(path), url)) from None


def _fetch(url: str) -> bytes:
    """In a thread of its own: a server that sends its answer byte by byte would outlast every timeout of a socket."""
    outcome: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            outcome.put(_receive(url, given_up))
        except Exception as error:  # raised below, where it is waited for
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        received = outcome.get(timeout=MOST_DOWNLOAD_SECONDS)
    except queue.Empty:
        raise DataError(f"{url}: took more than {MOST_DOWNLOAD_SECONDS:g} seconds") from None
    finally:
        given_up.set()
    if isinstance(received, HTTPError):  # a redirection to what is no http(s) as well
        received.close()
        raise DataError(f"{url}: the server answers {received.code} {quote(received.reason)}")
    if isinstance(received, (URLError, HTTPException, OSError, ValueError)):
        raise DataError(f"{url}: cannot be had ({quote(str(getattr(received, 'reason', received)))})")
    if isinstance(received, Exception):
        raise received
    return received


def _receive(url: str, given_up: threading.Event) -> bytes:
    request = web.Request(url, headers={"User-Agent": f"ssdlite/{__version__}", "Accept": "image/*"})
    content = bytearray()
    with _opener().open(request, timeout=MOST_DOWNLOAD_SECONDS) as answer:
        stated = answer.headers.get("Content-Length", "")
        most = int(stated) if stated.isdecimal() else 0
        while most <= MOST_DOWNLOAD_BYTES and not given_up.is_set() and (chunk := answer.read1(CHUNK_BYTES)):
            content += chunk
            most = max(most, len(content))
    if most > MOST_DOWNLOAD_BYTES:
        raise ValueError(f"more than {MOST_DOWNLOAD_BYTES} bytes")
    if len(content) < most:
        raise ValueError(f"ended after {len(content)} of {most} bytes")
    return bytes(content)


def _opener() -> web.OpenerDirector:
    """Of http and https alone: ``urllib.request.urlopen`` reads file:, ftp: and data: as well."""
    proxies = {scheme: proxy for scheme, proxy in web.getproxies().items() if scheme in ("http", "https")}
    opener = web.OpenerDirector()
    for handler in (
        web.ProxyHandler(proxies),
        web.HTTPHandler(),
        web.HTTPSHandler(),
        web.HTTPRedirectHandler(),
        web.HTTPDefaultErrorHandler(),
        web.HTTPErrorProcessor(),
        web.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
