"""SavedModel messages as plain trees, from their binary and their text form alike.

Only fields named in `MESSAGES` are kept.  Both parsers are our own because the graph of a stranger
is to be read exactly as TensorFlow would read it, and refused where that is in doubt: a field that
occurs twice is joined or overridden as protobuf does, and a depth of 100 messages is the limit, as
in protobuf.  Nothing in a tree refers to code.
Source: protobuf.dev/programming-guides/encoding and /text-format; field numbers from
tensorflow/core/framework/*.proto and core/protobuf/{saved_model,meta_graph,saver,
saved_object_graph}.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ckptkit.errors import FormatError

MAX_DEPTH = 100
MAX_TEXT_BYTES = 256 << 20  # text is 3 to 10 times its binary form

Tree = dict[str, list[Any]]
"""Values by field name, in the order of the file: bytes, int, or Tree."""

# message -> field number -> (name, what: "bytes", "int", or a message).
# A map field is a message of key and value.
MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "SavedModel": {1: ("saved_model_schema_version", "int"), 2: ("meta_graphs", "MetaGraphDef")},
    "MetaGraphDef": {
        1: ("meta_info_def", "MetaInfoDef"),
        2: ("graph_def", "GraphDef"),
        3: ("saver_def", "SaverDef"),
        4: ("collection_def", "CollectionEntry"),
        5: ("signature_def", "SignatureEntry"),
        6: ("asset_file_def", "AssetFileDef"),
        7: ("object_graph_def", "SavedObjectGraph"),
    },
    "MetaInfoDef": {4: ("tags", "bytes"), 5: ("tensorflow_version", "bytes")},
    "GraphDef": {1: ("node", "NodeDef"), 2: ("library", "FunctionDefLibrary")},
    "FunctionDefLibrary": {1: ("function", "FunctionDef"), 2: ("gradient", "GradientDef")},
    "GradientDef": {1: ("function_name", "bytes"), 2: ("gradient_func", "bytes")},
    "FunctionDef": {
        1: ("signature", "OpDef"),
        3: ("node_def", "NodeDef"),
        4: ("ret", "StringEntry"),
        5: ("attr", "AttrEntry"),
        6: ("control_ret", "StringEntry"),
    },
    "OpDef": {1: ("name", "bytes"), 2: ("input_arg", "ArgDef")},
    "ArgDef": {1: ("name", "bytes")},
    "NodeDef": {
        1: ("name", "bytes"),
        2: ("op", "bytes"),
        3: ("input", "bytes"),
        4: ("device", "bytes"),
        5: ("attr", "AttrEntry"),
    },
    "AttrEntry": {1: ("key", "bytes"), 2: ("value", "AttrValue")},
    "AttrValue": {
        1: ("list", "ListValue"),
        2: ("s", "bytes"),
        8: ("tensor", "TensorProto"),
        10: ("func", "NameAttrList"),
    },
    "ListValue": {2: ("s", "bytes"), 8: ("tensor", "TensorProto"), 9: ("func", "NameAttrList")},
    "NameAttrList": {1: ("name", "bytes"), 2: ("attr", "AttrEntry")},
    "TensorProto": {8: ("string_val", "bytes")},
    "StringEntry": {1: ("key", "bytes"), 2: ("value", "bytes")},
    "SaverDef": {
        1: ("filename_tensor_name", "bytes"),
        2: ("save_tensor_name", "bytes"),
        3: ("restore_op_name", "bytes"),
    },
    "CollectionEntry": {1: ("key", "bytes"), 2: ("value", "CollectionDef")},
    "CollectionDef": {1: ("node_list", "Values"), 5: ("any_list", "AnyList")},
    "AnyList": {1: ("value", "Any")},
    "Any": {1: ("type_url", "bytes"), 2: ("value", "bytes")},
    "Values": {1: ("value", "bytes")},
    "SignatureEntry": {1: ("key", "bytes"), 2: ("value", "SignatureDef")},
    "SignatureDef": {
        1: ("inputs", "TensorInfoEntry"),
        2: ("outputs", "TensorInfoEntry"),
        3: ("method_name", "bytes"),
    },
    "TensorInfoEntry": {1: ("key", "bytes"), 2: ("value", "TensorInfo")},
    "TensorInfo": {
        1: ("name", "bytes"),
        4: ("coo_sparse", "CooSparse"),
        5: ("composite_tensor", "CompositeTensor"),
    },
    "CooSparse": {
        1: ("values_tensor_name", "bytes"),
        2: ("indices_tensor_name", "bytes"),
        3: ("dense_shape_tensor_name", "bytes"),
    },
    "CompositeTensor": {2: ("components", "TensorInfo")},
    "AssetFileDef": {1: ("tensor_info", "TensorInfo"), 2: ("filename", "bytes")},
    "SavedObjectGraph": {1: ("nodes", "SavedObject"), 2: ("concrete_functions", "ConcreteEntry")},
    "SavedObject": {
        1: ("children", "ObjectReference"),
        4: ("user_object", "SavedUserObject"),
        5: ("asset", "SavedAsset"),
        6: ("function", "SavedFunction"),
        7: ("variable", "SavedVariable"),
        8: ("bare_concrete_function", "SavedBareFunction"),
        11: ("saveable_objects", "SaveableEntry"),
    },
    "ObjectReference": {1: ("node_id", "int"), 2: ("local_name", "bytes")},
    "SavedUserObject": {1: ("identifier", "bytes"), 3: ("metadata", "bytes")},
    "SavedAsset": {1: ("asset_file_def_index", "int")},
    "SavedFunction": {1: ("concrete_functions", "bytes")},
    "SavedBareFunction": {1: ("concrete_function_name", "bytes")},
    "SavedVariable": {6: ("name", "bytes")},
    "SaveableEntry": {1: ("key", "bytes"), 2: ("value", "SaveableObject")},
    "SaveableObject": {2: ("save_function", "int"), 3: ("restore_function", "int")},
    "ConcreteEntry": {1: ("key", "bytes"), 2: ("value", "ConcreteFunction")},
    "SavedMetadata": {1: ("nodes", "MetadataNode")},
    "MetadataNode": {
        3: ("node_path", "bytes"),
        4: ("identifier", "bytes"),
        5: ("metadata", "bytes"),
    },
    "FingerprintDef": {
        1: ("saved_model_checksum", "int"),
        5: ("checkpoint_hash", "int"),
        6: ("version", "VersionDef"),
        7: ("uuid", "bytes"),
    },
    "VersionDef": {1: ("producer", "int")},
    "ConcreteFunction": {2: ("bound_inputs", "int")},
}
_BY_NAME = {message: dict(fields.values()) for message, fields in MESSAGES.items()}
_BY_NAME["Any"]["[tensorflow.AssetFileDef]"] = "AssetFileDef"  # how text spells one out


def text_of(tree: Tree, name: str) -> str:
    """Return a string field ("" where absent; the last, where it occurs twice)."""
    values = tree.get(name)
    return values[-1].decode("utf-8", "backslashreplace") if values else ""


def texts_of(tree: Tree, name: str) -> list[str]:
    """Return a repeated string field."""
    return [value.decode("utf-8", "backslashreplace") for value in tree.get(name, ())]


def tree_of(tree: Tree, name: str) -> Tree:
    """Return a message field, all its occurrences joined, as protobuf joins them."""
    values = tree.get(name, ())
    if len(values) == 1:
        return values[0]  # type: ignore[no-any-return]
    joined: Tree = {}
    for value in values:
        for key, items in value.items():
            joined.setdefault(key, []).extend(items)
    return joined


# --- binary ---------------------------------------------------------------------------------------


def from_binary(message: str, data: bytes, where: str) -> Tree:
    """Return the tree of a serialised message; raises FormatError."""
    return _binary(MESSAGES[message], memoryview(data), 0, where)


def _binary(fields: dict[int, tuple[str, str]], data: memoryview, depth: int, where: str) -> Tree:
    if depth > MAX_DEPTH:
        raise FormatError(where, f"messages nest deeper than {MAX_DEPTH}")
    tree: Tree = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, where)
        kind = tag & 7
        if not tag >> 3 or tag >> 32:
            raise FormatError(where, f"not a message: tag {tag}")
        if kind == 2:
            size, at = _varint(data, at, where)
            value: Any = data[at : at + size]
            at += size
        elif kind == 0:
            value, at = _varint(data, at, where)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            value = None
        else:
            raise FormatError(where, f"not a message: wire type {kind}")
        if at > end:
            raise FormatError(where, "a message is cut short")
        field = fields.get(tag >> 3)
        if field is not None:
            _keep(tree, field, kind, value, depth, where)
    return tree


def _keep(
    tree: Tree, field: tuple[str, str], kind: int, value: Any, depth: int, where: str
) -> None:
    """Add one field to the tree; one of the wrong wire type is unknown to protobuf too."""
    name, what = field
    if what == "int":
        if kind == 0:
            tree.setdefault(name, []).append(value)
        elif kind == 2:  # packed
            at = 0
            while at < len(value):
                number, at = _varint(value, at, where)
                tree.setdefault(name, []).append(number)
    elif kind == 2:
        if what == "bytes":
            tree.setdefault(name, []).append(bytes(value))
        else:
            inner = _binary(MESSAGES[what], value, depth + 1, where)
            tree.setdefault(name, []).append(inner)


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise FormatError(where, "a message is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise FormatError(where, "a number of more than 10 bytes")


# --- text -----------------------------------------------------------------------------------------

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
