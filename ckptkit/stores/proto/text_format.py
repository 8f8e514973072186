"""SavedModel messages from protobuf's text form, as the trees of `_protos`.

One pass, without recursion.  Source: protobuf.dev/programming-guides/text-format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ckptkit.errors import FormatError
from ckptkit.stores.proto.wire import MAX_DEPTH, MESSAGES, Tree

MAX_TEXT_BYTES = 256 << 20  # text is 3 to 10 times its binary form

_BY_NAME = {message: dict(fields.values()) for message, fields in MESSAGES.items()}
_BY_NAME["Any"]["[tensorflow.AssetFileDef]"] = "AssetFileDef"  # how text spells one out
_TOKEN = re.compile(
    r"""(?:\s+|\#[^\n]*)*
    (?:(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<word>[-+.\w]+)
      |(?P<mark>[{}<>\[\]:,;/])
      |(?P<end>\Z))""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(
    rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)
_PLAIN = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_CLOSING = {"{": "}", "<": ">"}


def from_text(message: str, data: bytes, where: str) -> Tree:
    """Return the tree of a message in protobuf's text form; raises FormatError."""
    if len(data) > MAX_TEXT_BYTES:
        raise FormatError(where, f"{len(data)} bytes of text are more than is read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(where, "not text") from None
    return _Text(text, where).run(message)


class _Text:
    """One pass over the tokens, with a stack of open messages in place of recursion."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.tokens = self._split(text)
        self.kind, self.token = next(self.tokens)

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while True:
            match = _TOKEN.match(text, at)
            if match is None:
                raise FormatError(self.where, f"not protobuf text at character {at}")
            kind = str(match.lastgroup)
            yield kind, match[kind]
            if kind == "end":
                return
            at = match.end()

    def _next(self) -> tuple[str, str]:
        taken = self.kind, self.token
        if self.kind != "end":
            self.kind, self.token = next(self.tokens)
        return taken

    def _fail(self, expected: str) -> FormatError:
        found = self.token or "the end"
        return FormatError(self.where, "not protobuf text", expected=expected, found=repr(found))

    def run(self, message: str) -> Tree:
        root: Tree = {}
        # (tree or None where unknown, its message, the closing mark)
        stack: list[tuple[Tree | None, str, str]] = [(root, message, "")]
        while True:
            tree, name, closing = stack[-1]
            if self.kind == "end" or (self.kind == "mark" and self.token == closing):
                if (self.kind == "end") != (len(stack) == 1):
                    raise self._fail(closing or "a field")
                if self.kind == "end":
                    return root
                self._next()
                stack.pop()
                self._separator()
                continue
            self._field(stack, tree, name)
            if len(stack) > MAX_DEPTH:
                raise FormatError(self.where, f"messages nest deeper than {MAX_DEPTH}")

    def _separator(self) -> None:
        if self.kind == "mark" and self.token in (",", ";"):
            self._next()

    def _field(
        self, stack: list[tuple[Tree | None, str, str]], tree: Tree | None, name: str
    ) -> None:
        """Take one field: its name and value, or the opening of a message."""
        key = self._field_name()
        what = _BY_NAME[name].get(key) if tree is not None else None
        if self.token == ":" and self.kind == "mark":
            self._next()
        if self.kind == "mark" and self.token in _CLOSING:
            self._open(stack, tree, key, what)
            return
        if self.kind == "mark" and self.token == "[":
            self._list(tree, key, what)
        else:
            self._keep(tree, key, what, self._scalar())
        self._separator()

    def _field_name(self) -> str:
        if self.kind == "word":
            return self._next()[1]
        if self.kind == "mark" and self.token == "[":  # an extension, or what an Any holds
            last = ""
            while not (self.kind == "mark" and self.token == "]"):
                kind, last = self._next()
                if kind == "end":
                    raise self._fail("]")
            self._next()
            return f"[{last}]"
        raise self._fail("a field name")

    def _open(
        self,
        stack: list[tuple[Tree | None, str, str]],
        tree: Tree | None,
        key: str,
        what: str | None,
    ) -> None:
        closing = _CLOSING[self._next()[1]]
        if tree is None or what in (None, "bytes", "int"):
            stack.append((None, "", closing))
            return
        inner: Tree = {}
        tree.setdefault(key, []).append(inner)
        stack.append((inner, str(what), closing))

    def _list(self, tree: Tree | None, key: str, what: str | None) -> None:
        """Take `[value, ...]` of scalars."""
        self._next()
        while not (self.kind == "mark" and self.token == "]"):
            if self.kind == "mark" and self.token in _CLOSING:
                raise FormatError(self.where, "a list of messages in brackets is not read")
            self._keep(tree, key, what, self._scalar())
            if self.kind == "mark" and self.token == ",":
                self._next()
        self._next()

    def _scalar(self) -> tuple[str, Any]:
        if self.kind == "string":
            parts = []
            while self.kind == "string":
                parts.append(_unescaped(self._next()[1][1:-1]))
            return "string", b"".join(parts)
        if self.kind == "word":
            return "word", self._next()[1]
        raise self._fail("a value")

    def _keep(self, tree: Tree | None, key: str, what: str | None, value: tuple[str, Any]) -> None:
        if tree is None or what is None:
            return
        kind, content = value
        if what == "bytes" and kind == "string":
            tree.setdefault(key, []).append(content)
        elif what == "int" and kind == "word":
            try:
                tree.setdefault(key, []).append(int(content, 0))
            except ValueError:
                raise FormatError(self.where, f"{key}: {content!r} is no number") from None
        else:
            raise FormatError(self.where, f"{key} has a value of the wrong kind")


def _unescaped(text: str) -> bytes:
    if "\\" not in text:
        return text.encode()

    def plain(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, short, long, other = match.groups()
        if octal:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal:
            return bytes([int(hexadecimal, 16)])
        if short or long:
            return chr(min(int(short or long, 16), 0x10FFFF)).encode("utf-8", "replace")
        return _PLAIN.get(other, other)

    return _ESCAPE.sub(plain, text.encode())
