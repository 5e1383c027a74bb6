"""Protobuf's text format, as TensorFlow's pipeline.config and label maps have it, without their schema."""

from __future__ import annotations

import ast
import re
from typing import Union

from ssdlite.errors import CheckpointError

MAX_CHARACTERS = 2**21
MAX_DEPTH = 50
TOKEN = re.compile(
    r"\s+|#[^\n]*"  # passed over
    r"|(?P<word>[A-Za-z_][\w.]*|[-+]?(?:\d[\w.+-]*|\.\d[\w+-]*))"
    r"|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<mark>[{}<>:\[\],;])"
)

Message = dict[str, list[Union["Message", str]]]


def parse_textproto(text: str, where: str) -> Message:
    """Field names to lists of messages and words (numbers, names and texts alike, as they stand).

    Raises:
        CheckpointError: it is not that format; the message begins with ``where``.
    """
    if len(text) > MAX_CHARACTERS:
        raise CheckpointError(f"{where}: {len(text)} characters, more than the {MAX_CHARACTERS} that are read")
    try:
        parser = _Parser(text)
        message = parser.message(0, "")
    except (ValueError, SyntaxError) as error:  # SyntaxError: an escape in a text that is none
        raise CheckpointError(f"{where}: not protobuf's text format, or damaged ({error})") from None
    return message


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def next(self) -> tuple[str, str]:
        """(kind, token); kind is empty at the end."""
        while self.position < len(self.text):
            match = TOKEN.match(self.text, self.position)
            if match is None or match.end() == self.position:
                raise ValueError(f"unexpected {self.text[self.position]!r} at character {self.position}")
            self.position = match.end()
            if match.lastgroup:
                return match.lastgroup, match.group()
        return "", ""

    def message(self, depth: int, end: str) -> Message:
        if depth > MAX_DEPTH:
            raise ValueError(f"messages {depth} deep")
        fields: Message = {}
        while True:
            kind, token = self.next()
            if token == end:
                return fields
            if token in (",", ";"):
                continue
            if kind != "word":
                raise ValueError(f"expected a field, got {token or 'the end'!r}")
            self.field(fields.setdefault(token, []), depth)

    def field(self, values: list[Message | str], depth: int) -> None:
        kind, token = self.next()
        if token == ":":
            kind, token = self.next()
        if token == "[":
            while token != "]":
                kind, token = self.next()
                if kind in ("word", "text") or token in ("{", "<"):
                    values.append(self.value(kind, token, depth))
                elif token not in (",", "]"):
                    raise ValueError(f"unexpected {token or 'end'!r} in a list")
            return
        values.append(self.value(kind, token, depth))

    def value(self, kind: str, token: str, depth: int) -> Message | str:
        if token in ("{", "<"):
            return self.message(depth + 1, "}" if token == "{" else ">")
        if kind == "text":
            return str(ast.literal_eval(token))
        if kind == "word":
            return token
        raise ValueError(f"expected a value, got {token or 'the end'!r}")
