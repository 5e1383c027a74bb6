"""Pictures from http addresses: bounded in bytes and time, led to no other scheme, and checked as any picture is."""

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.errors import DataError
from ssdlite.images import download
from ssdlite.images.download import downloaded
from ssdlite.images.media import find_sources, is_address
from ssdlite.images.reading import read_image


def red_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (200, 20, 10)).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path that is asked for."""

    released = threading.Event()  # the slow answers end

    def do_GET(self) -> None:
        getattr(self, f"get_{self.path.lstrip('/').partition('.')[0].replace('-', '_')}")()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def answer(self, content: bytes, length: int | None = None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def get_picture(self) -> None:
        self.answer(red_png(), len(red_png()))

    def get_text(self) -> None:
        self.answer(b"<html>no picture</html>")

    def get_none(self) -> None:
        self.send_error(404, "Not \x1b[31mthere")

    def get_to_picture(self) -> None:
        self.answer(b"", 0, 302, Location="/picture.png")

    def get_to_file(self) -> None:
        self.answer(b"", 0, 302, Location=f"file://{__file__}")

    def get_to_ftp(self) -> None:
        self.answer(b"", 0, 302, Location="ftp://127.0.0.1/picture.png")

    def get_in_a_circle(self) -> None:
        self.answer(b"", 0, 302, Location=self.path)

    def get_large(self) -> None:
        """States its size and sends nothing."""
        self.answer(b"", 1001)

    def get_endless(self) -> None:
        self.answer(b"")
        while not self.released.is_set():
            self.wfile.write(b"x" * 100)

    def get_cut(self) -> None:
        self.answer(red_png()[:20], len(red_png()))

    def get_slow(self) -> None:
        """A byte now and then, so that no socket has to wait for long."""
        self.answer(b"")
        while not self.released.wait(0.02):
            self.wfile.write(b"x")

    def get_slow_headers(self) -> None:
        self.send_response(200)
        self.flush_headers()
        while not self.released.wait(0.02):
            self.wfile.write(b"X")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Handler.released.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("name", ["picture.png", "to-picture"])
def test_a_picture_is_had_and_leaves_no_file(name: str, server: str) -> None:
    with downloaded(f"{server}/{name}", ".png") as path:
        assert (read_image(path) == np.full((8, 12, 3), (200, 20, 10), np.uint8)).all()
        assert path.suffix == ".png"
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", r"the server answers 404 'Not \\x1b\[31mthere'"),
        ("to-file", 'the server answers 302 "Found - Redirection to url \'file://.*is not allowed"'),
        ("to-ftp", "cannot be had \\('unknown url type: ftp'\\)"),
        ("in-a-circle", "the server answers 302 'The HTTP server returned a redirect e"),
        ("large.png", r"cannot be had \('more than 1000 bytes'\)"),
        ("endless.png", r"cannot be had \('more than 1000 bytes'\)"),
        ("cut.png", r"cannot be had \('ended after 20 of \d\d bytes'\)"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    name: str, message: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST_DOWNLOAD_BYTES", 1000)
    with pytest.raises(DataError, match=f"^{server}/{name}: {message}") as error, downloaded(f"{server}/{name}"):
        pass
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", ["slow.png", "slow-headers"])
def test_a_server_that_takes_its_time_is_given_up(name: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MOST_DOWNLOAD_SECONDS", 0.25)
    start = time.monotonic()
    with pytest.raises(DataError, match=f"{name}: took more than 0.25 seconds$"), downloaded(f"{server}/{name}"):
        pass
    assert time.monotonic() - start < 5


def test_what_is_no_picture_is_said_of_the_address(server: str) -> None:
    with (
        pytest.raises(DataError, match=f"^{server}/text: cannot be read as an image"),
        downloaded(f"{server}/text") as path,
    ):
        read_image(path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a.png", "data:image/png;base64,AAAA"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(DataError, match="unknown url type"), downloaded(url):
        pass


def test_an_address_is_one_unless_a_file_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = ("https://a/b.jpg", "HTTP://a", "file:///a", "C://a", "a.jpg", "http:/a", "//a")
    assert [is_address(text) for text in texts] == [True, True, True, False, False, False, False]
    (tmp_path / "https:" / "a").mkdir(parents=True)
    (tmp_path / "https:" / "a" / "b.jpg").touch()
    assert not is_address("https://a/b.jpg")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a/b/photo.JPG?size=large#top", "photo.JPG"),
        ("https://a/..%2f..%2fetc%2fpasswd", "passwd.png"),
        ("https://a/b/..%5c..%5cx.png", "x.png"),
        ("https://a/..", "picture.png"),
        ("https://a", "picture.png"),
        ("https://a/.hidden.png", "hidden.png"),
        ("https://a/%1b%5b31m%00x.webp", "_31m_x.webp"),
        ("https://a/film.mp4", "film.mp4.png"),
        (f"https://a/{'x' * 300}.png", "x" * 96 + ".png"),
    ],
)
def test_the_copy_of_a_picture_from_an_address_has_a_plain_name(url: str, target: str, tmp_path: Path) -> None:
    ((source,), problems, _) = find_sources([url], tmp_path)
    assert (source.target.as_posix(), source.is_video, source.name, problems) == (target, False, url, [])
