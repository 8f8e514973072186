"""JSON that no file of ours may hold, and what its refusal says."""

from __future__ import annotations

REFUSED = [
    (b"", "not JSON at character 0"),
    (b"{", "not JSON"),
    (b"{} {}", "not JSON at character 3: Extra data"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b'"\xff"', "not UTF-8 at byte 1"),
    (b'"\xed\xa0\x80"', "not UTF-8"),
    (b'"a\nb"', "not JSON"),
    (b'{"a":1,"a":1}', "the key 'a' is given twice"),
    (b'[{"x":{"a":1,"\\u0061":2}}]', "the key 'a' is given twice"),
    (b"NaN", "NaN is no JSON number"),
    (b"[-Infinity]", "-Infinity is no JSON number"),
    (b"1e999", "number out of range: 1e999"),
    (b"9" * 5000, "JSON refused"),
    (b'"\\ud800"', "lone surrogate"),
    (b'{"\\udfff":1}', "lone surrogate"),
    (b'["\\ud83d\\u0041"]', "lone surrogate"),
    (b"[" * 128 + b"]" * 128, "nested deeper than 127 levels"),
    (b'{"a":' * 128 + b"1" + b"}" * 128, "nested deeper than 127 levels"),
    (b"[" * 1_000_000, "nested deeper than 127 levels"),
]
