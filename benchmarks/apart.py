"""A contestant in a process of its own, so that what another one asks of its process does not reach it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from ssdlite.benchmark.stages import use_threads

Make = Callable[..., Callable[[], object]]


class Apart:
    """Called, it has its process call what ``make(*arguments)`` gave there, and waits until that is done."""

    def __init__(self, threads: int, make: Make, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, threads, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self) -> None:
        self._pipe.send(None)
        self._pipe.recv()


def _serve(pipe: Connection, threads: int, make: Make, arguments: tuple[object, ...]) -> None:
    use_threads(threads)
    call = make(*arguments)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        call()
        pipe.send(None)
