"""Which package brings code that a config or a graph names: by module, registered name or op.

A module's package is called as the module is, unless MODULES says otherwise.  A name under which a
class is registered (`package>Class`) or an op with a prefix (`Package>Op`) says whose it is in the
same way; PREFIXES are those that are not the package's own name.  Ops of a package whose names tell
nothing are in OPS, as patterns of whole names, from the packages' own registrations.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class CodePackage(NamedTuple):
    """A package: what pip calls it, which module is imported, the Keras that it is for.

    keras: as pip writes it; "" where it does not matter.
    """

    distribution: str
    module: str
    keras: str = ""


_TEXT = CodePackage("tensorflow-text", "tensorflow_text")
_FORESTS = CodePackage("tensorflow-decision-forests", "tensorflow_decision_forests")
_ADDONS = CodePackage("tensorflow-addons", "tensorflow_addons", "<3")
_IO = CodePackage("tensorflow-io", "tensorflow_io")
_RECOMMENDERS = CodePackage("tensorflow-recommenders-addons", "tensorflow_recommenders_addons")
_HUB = CodePackage("keras-hub", "keras_hub", ">=3")
_NLP = CodePackage("keras-nlp", "keras_nlp")
_CV = CodePackage("keras-cv", "keras_cv")
_MODELS = CodePackage("tf-models-official", "official", "<3")
_SENTENCEPIECE = CodePackage("tf-sentencepiece", "tf_sentencepiece")
_RANKING = CodePackage("tensorflow-ranking", "tensorflow_ranking", "<3")
_TRANSFORM = CodePackage("tensorflow-transform", "tensorflow_transform")

MODULES = {
    "autokeras": CodePackage("autokeras", "autokeras"),
    "efficientnet": CodePackage("efficientnet", "efficientnet", "<3"),
    "keras_contrib": CodePackage("keras-contrib", "keras_contrib", "<3"),
    "keras_cv": _CV,
    "keras_hub": _HUB,
    "keras_nlp": _NLP,
    "keras_rs": CodePackage("keras-rs", "keras_rs", ">=3"),
    "keras_tuner": CodePackage("keras-tuner", "keras_tuner"),
    "larq": CodePackage("larq", "larq", "<3"),
    "official": _MODELS,
    "qkeras": CodePackage("qkeras", "qkeras", "<3"),
    "sklearn": CodePackage("scikit-learn", "sklearn"),
    "spektral": CodePackage("spektral", "spektral", "<3"),
    "tensorflow_addons": _ADDONS,
    "tensorflow_decision_forests": _FORESTS,
    "tensorflow_hub": CodePackage("tensorflow-hub", "tensorflow_hub", "<3"),
    "tensorflow_io": _IO,
    "tensorflow_model_optimization": CodePackage(
        "tensorflow-model-optimization", "tensorflow_model_optimization", "<3"
    ),
    "tensorflow_probability": CodePackage("tensorflow-probability", "tensorflow_probability"),
    "tensorflow_ranking": _RANKING,
    "tensorflow_recommenders": CodePackage(
        "tensorflow-recommenders", "tensorflow_recommenders", "<3"
    ),
    "tensorflow_text": _TEXT,
    "tensorflow_transform": _TRANSFORM,
    "transformers": CodePackage("transformers", "transformers", "<3"),
}
PREFIXES = {
    "Addons": _ADDONS,
    "IO": _IO,
    "TFText": _TEXT,
    "Text": _MODELS,
    "Vision": _MODELS,
    "TFR": _RECOMMENDERS,
    "keras_contrib": MODULES["keras_contrib"],
}
# tensorflow_text/core/ops, tensorflow_decision_forests/tensorflow/ops and the like
OPS = (
    (
        _TEXT,
        r"Sentencepiece\w*|FastWordpiece\w*|FastSentencepiece\w*|WordpieceTokenize\w*|RegexSplit\w*"
        r"|UnicodeScriptTokenize\w*|WhitespaceTokenize\w*|CaseFoldUTF8|NormalizeUTF8\w*"
        r"|FindSourceOffsets|SplitMergeTokenize\w*|SplitMergeFromLogits\w*|SentenceFragments\w*"
        r"|MaxSpanningTree|ConstrainedSequence|NgramsStringJoin|RougeL|SpanAlignment"
        r"|ByteSplit\w*|Utf8Binarize|PhraseTokenize\w*|PhraseDetokenize\w*|TrimmerOp\w*"
        r"|StringTrimmer\w*|RoundRobin\w*",
    ),
    (_FORESTS, r"SimpleML\w*"),
    (_IO, r"IO>\w+"),
    (_ADDONS, r"Addons>\w+"),
    (_RECOMMENDERS, r"TFRA>\w+|Cuckoo\w*|TfraCuckoo\w*"),
    (_SENTENCEPIECE, r"TfSentencepiece\w*"),
    (
        CodePackage("struct2tensor", "struct2tensor"),
        r"(Decode|Run|Create)?\w*Proto(Sparse|Index)\w*",
    ),
    (CodePackage("tensorflow-probability", "tensorflow_probability"), r"TFP\w+"),
    (CodePackage("horovod", "horovod"), r"Horovod\w+"),
    (CodePackage("tensorflow-quantum", "tensorflow_quantum"), r"Tfq\w+"),
    (
        CodePackage("tensorflow-compression", "tensorflow_compression"),
        r"Compress\w*|(Entropy|Run)"
        r"\w*(Encode|Decode)\w*|Create\w*Range(Encoder|Decoder)|\w*Range(Encode|Decode)\w*"
        r"|PmfToQuantizedCdf|StochasticRound",
    ),
)


def package_of_module(module: str) -> CodePackage | None:
    """Return the package of a module that is not of this file alone; None for `__main__`."""
    top = module.partition(".")[0]
    if not top or top in ("__main__", "builtins"):
        return None
    return MODULES.get(top, CodePackage(top.replace("_", "-"), top))


def package_of_registered(name: str) -> CodePackage | None:
    """Return the well-known package under whose name a class is registered; None for others."""
    prefix, found, _class = name.partition(">")
    if not found:
        return None
    return PREFIXES.get(prefix, MODULES.get(prefix))


def package_of_op(op: str) -> CodePackage | None:
    """Return the well-known package that registers an op; None where it is nobody's."""
    prefix, found, _name = op.partition(">")
    for package, pattern in OPS:
        if re.fullmatch(pattern, op):
            return package
    return PREFIXES.get(prefix, MODULES.get(prefix)) if found else None
