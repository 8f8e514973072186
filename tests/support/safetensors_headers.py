"""Headers of safetensors files, sound and not; the reference reader says which is which."""

from __future__ import annotations

from ckptkit.stores.safetensors.header import CODES

F32 = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HEADERS = [
    f'{{"a":{F32}}}',
    f' \n{{"a":{F32}}}  \t',
    '{"a":["F32",[1],[0,4]]}',
    '{"a":["F32",[1],[0,4],1]}',
    '{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}',
    '{"a":{"dtype":{"F32":{}},"shape":[1],"data_offsets":[0,4]}}',
    '{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}',
    '{"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}}',
    '{"a":{"shape":[1],"data_offsets":[0,4]}}',
    '{"a":null}',
    '{"a":5}',
    "[]",
    "",
    "null",
    f'{{"__metadata__":null,"a":{F32}}}',
    f'{{"__metadata__":{{"x":"y"}},"a":{F32}}}',
    f'{{"__metadata__":{{"x":1}},"a":{F32}}}',
    f'{{"__metadata__":[],"a":{F32}}}',
    f'{{"a":{F32}}} x',
    f'{{"a":{F32},}}',
    f'\ufeff{{"a":{F32}}}',
    f'{{"":{F32}}}',
    f'{{"\\ud83d\\ude00":{F32}}}',
    f'{{"\\ud83d":{F32}}}',
    f'{{"\\ude00":{F32}}}',
    f'{{"a\tb":{F32}}}',
    *(
        f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}'
        for shape, offsets in [
            ("[]", "[0,4]"),
            ("[1.0]", "[0,4]"),
            ("[1e0]", "[0,4]"),
            ("[true]", "[0,4]"),
            ("[-1]", "[0,4]"),
            ("[1]", "[-0,4]"),
            ("[1]", "[false,4]"),
            ("[1]", "[0,4,8]"),
            ("[1]", "[4]"),
            ("[1]", "[4,0]"),
            ("[1]", "[0,5]"),
            ("[2]", "[0,4]"),
            ("[1]", "[1,5]"),
            ("{}", "[0,4]"),
            ("null", "[0,4]"),
            ("[01]", "[0,4]"),
            ("[1,1,1,1,1,1,1,1,1,1]", "[0,4]"),
            ("[0,9223372036854775808,4]", "[0,0]"),
            ("[9223372036854775808,4,0]", "[0,0]"),
            ("[4611686018427387904]", "[0,0]"),
            ("[18446744073709551615,0]", "[0,0]"),
            ("[18446744073709551616,0]", "[0,0]"),
            ("[1]", "[0,18446744073709551615]"),
            ("[NaN]", "[0,4]"),
        ]
    ),
    *(
        f'{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":{extra}}}}}'
        for extra in [
            "1e400",
            "0e400",
            "NaN",
            "-Infinity",
            '"\\ud800"',
            '"\\udc00"',
            "9" * 300,
            "9" * 310,
            "9" * 5000,
            "[" * 125 + "]" * 125,
            "[" * 126 + "]" * 126,
            '{"y":' * 125 + "1" + "}" * 125,
            '{"y":' * 126 + "1" + "}" * 126,
            "[" * 100_000,
        ]
    ),
    *(
        f'{{"a":{{"dtype":"{code}","shape":[{n}],"data_offsets":[0,4]}}}}'
        for code in [*CODES, "C128", "F8", "I4"]
        for n in (0, 1, 2, 4, 5, 6, 8)
    ),
    '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}',
    '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}',
    '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    '{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    '{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    '"c":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
]
