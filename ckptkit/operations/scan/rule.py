"""By what rule an op of TensorFlow is called harmless, and what is known of those that are not.

An op is harmless when running it can only compute: nothing outside the process is read, written,
called or waited for.  TensorFlow does not say so of an op, but its registration says enough to
decide, and in doubt an op is left out:

1.  it is registered in TensorFlow itself and its name does not begin with "_" (internal);
2.  no input, output or attribute has a word for something outside in its name (`filename`, `path`,
    `address`, `token`, ...: OUTSIDE);
3.  its name has no word for input and output, devices, distribution, debugging or graphs that are
    made when it runs (KINDS);
4.  it is stateless; or its state is behind a handle among its inputs and outputs (variables,
    tables, queues, random generators); or it draws random numbers; or it is control flow, a call
    or an assertion (CONTROL).

REVIEWED are exceptions, each with its reason.  `harmless_ops.txt` is what this gives for the
TensorFlow named in its first line, `path_inputs.txt` which inputs of the other ops are paths;
`python tests/support/make_harmless_ops.py` makes both anew.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from ckptkit.text import lazy_pattern

OUTSIDE = lazy_pattern(
    r"(^|_)(files?|filenames?|filepaths?|paths?|dirs?|logdir|director(y|ies)|prefix(es)?|patterns?"
    r"|address|hosts?|hostname|urls?|uri|server|service|port|protocol|target|driver|source|token"
    r"|dump|program|module|executable|script|command|plugin|library|env|region|memory_limit"
    r"|workers?|writer|checkpoint|snapshot|debug|engine)(_|$)"
)
KINDS = lazy_pattern(
    r"Print|PyFunc|Summary|Send|Recv|Collective|Nccl|TPU|Tpu|Xla|XLA|Infeed|Outfeed|Rpc|Remote"
    r"|DataService|Debug|Dump|Session|FileSystem|Abort|^Test|Mlir|TRT|^Save|Restore|Checkpoint"
    r"|Sleep|^Fake(?!Quant)|Stub|Distributed|DTensor|Delegate|Calibration|Stats|Worker|Snapshot"
    r"|Stage|Unstage|LMDB|Reader|Cluster|FromGraph|Deserialize|Experimental|BoostedTrees|Heartbeat"
    r"|Device|Kernel|^Write|^Read(?!Var)|CustomOp|^Import|ThreadPool|Timestamp|Aggregator|Mesh"
    r"|Elem(ent)?AtIndex|>|^Host|^Copy"
)
CONTROL = frozenset(
    {
        "Assert",
        "Case",
        "CheckNumerics",
        "CheckNumericsV2",
        "For",
        "GuaranteeConst",
        "If",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "StatelessCase",
        "StatelessIf",
        "StatelessWhile",
        "SymbolicGradient",
        "While",
    }
)
RANDOM = lazy_pattern(r"Random|Uniform|Normal|Multinomial|Gamma|Poisson|Sampl|Binomial")
REVIEWED = {
    "AudioSummary": "makes a string, writes nothing",
    "AudioSummaryV2": "makes a string, writes nothing",
    "HistogramSummary": "makes a string, writes nothing",
    "ImageSummary": "makes a string, writes nothing",
    "MergeSummary": "makes a string, writes nothing",
    "ScalarSummary": "makes a string, writes nothing",
    "TensorSliceDataset": "is_files is a hint",
    "TensorSummary": "makes a string, writes nothing",
    "TensorSummaryV2": "makes a string, writes nothing",
    "ApproxTopK": "recall_target is a number",
    "CTCBeamSearchDecoder": "top_paths is a number",
    "CudnnRNN": "its state is cuDNN's dropout",
    "CudnnRNNBackprop": "its state is cuDNN's dropout",
    "CudnnRNNBackpropV2": "host_reserved is a tensor",
    "CudnnRNNBackpropV3": "host_reserved is a tensor",
    "CudnnRNNV2": "host_reserved is a tensor",
    "CudnnRNNV3": "host_reserved is a tensor",
    "DeviceIndex": "tells on which device it runs",
    "FakeParam": "stands for a value that is never used",
    "HashTable": "a table in memory",
    "MutableDenseHashTable": "a table in memory",
    "MutableHashTable": "a table in memory",
    "MutableHashTableOfTensors": "a table in memory",
    "NonDeterministicInts": "draws random numbers",
    "ParseSequenceExample": "debug_name is a label",
    "ParseSequenceExampleV2": "debug_name is a label",
    "ParseSingleSequenceExample": "debug_name is a label",
    "RegexFullMatch": "pattern is a regular expression",
    "RegexReplace": "pattern is a regular expression",
    "ShardedFilename": "makes a string, opens nothing",
    "ShardedFilespec": "makes a string, opens nothing",
    "Stack": "a stack in memory",
    "StaticRegexFullMatch": "pattern is a regular expression",
    "StaticRegexReplace": "pattern is a regular expression",
    "TemporaryVariable": "a variable",
    "TensorArray": "an array in memory",
    "TensorArrayGrad": "source is a label",
    "TensorArrayGradV2": "source is a label",
    "TensorArrayGradV3": "source is a label",
    "TensorArrayGradWithShape": "source is a label",
    "TensorArrayV2": "an array in memory",
    "VarHandleOp": "debug_name is a label",
    "Variable": "a variable",
    "VariableV2": "a variable",
}
HANDLE_TYPES = (20, 21)  # DT_RESOURCE, DT_VARIANT; above 100 stand the reference types


class OpFacts(NamedTuple):
    """What an op's registration says.  arguments: of inputs, outputs and attributes, by name.

    types: the data types of inputs and outputs (DataType enum; 0: it depends).
    inputs: names of inputs that may be strings, by position; those after a list of inputs, whose
    position depends, are told from the end.
    """

    name: str
    is_stateful: bool
    arguments: tuple[str, ...]
    types: tuple[int, ...]
    inputs: tuple[tuple[int, str], ...] = ()


def is_harmless(op: OpFacts) -> bool:
    """Whether the rule above calls an op harmless."""
    if op.name in REVIEWED:
        return True
    if op.name.startswith("_") or KINDS.search(op.name):
        return False
    if any(OUTSIDE.search(argument.lower()) for argument in op.arguments):
        return False
    has_handle = any(kind in HANDLE_TYPES or kind > 100 for kind in op.types)
    return not op.is_stateful or has_handle or op.name in CONTROL or bool(RANDOM.search(op.name))


def path_positions(op: OpFacts) -> tuple[int, ...]:
    """Return which inputs of an op are paths, by their names."""
    return tuple(at for at, name in op.inputs if OUTSIDE.search(name.lower()))


@cache
def _path_inputs() -> dict[str, tuple[int, ...]]:
    text = Path(__file__).with_name("path_inputs.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: tuple(map(int, positions)) for name, *positions in rows}


def path_inputs(op: str) -> tuple[int, ...]:
    """Return the positions of an op's inputs that are paths; none where it takes no path."""
    return _path_inputs().get(op, ())


@cache
def harmless_ops() -> frozenset[str]:
    """Return the names of all ops that are known to be harmless."""
    text = Path(__file__).with_name("harmless_ops.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


# --- what the others do ---------------------------------------------------------------------------

WRITES = "writes files"
# (pattern of whole names, what it does).  An op of neither list is unknown.
_EFFECTS = (
    ("runs code", r"PyFunc(Stateless)?|EagerPyFunc|TRTEngineOp|.*TRT.*|XlaCustomCall(V2)?"),
    ("runs code elsewhere", r"Remote\w*|Rpc\w+|DataService\w*|RegisterDataset(V2)?"),
    ("sends or receives data", r"_?(Host)?(Send|Recv)|Collective\w+|Nccl\w+"),
    (
        WRITES,
        r"WriteFile|Save(V2|Slices)?|MergeV2Checkpoints|DatasetToTFRecord|SaveDataset(V2)?"
        r"|DistributedSave|\w*Summary(File|Db)Writer|SummaryWriter|Write\w*Summary|ImportEvent"
        r"|(Close|Flush)SummaryWriter|DumpTensor|CalibrationStatisticsSaver|Debug\w+"
        r"|ExperimentalDatasetToTFRecord|DTensorSave\w*|CacheDataset(V2)?|\w*Snapshot\w*Dataset\w*",
    ),
    ("prints, or writes files", r"Print(V2)?"),
    (
        "reads files",
        r"ReadFile|MatchingFiles|(WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB)Reader(V2)?"
        r"|(Experimental)?(TextLine|TFRecord|FixedLengthRecord|LMDB|CSV|Sql|MatchingFiles)"
        r"Dataset(V2)?|InitializeTableFromTextFile(V2)?|(DTensor)?Restore(V2|Slice)?"
        r"|LoadAndRemapMatrix|GenerateVocabRemapping|LoadDataset"
        r"|FixedUnigramCandidateSampler|Skipgram|RecordInput|ImmutableConst|(De|En)code(Proto)(V2)?"
        r"|BigQuery\w+",
    ),
    ("changes how files are reached", r"FileSystemSetConfiguration"),
    ("stops or delays the process", r"Abort|Sleep\w*"),
)
_COMPILED = tuple((what, lazy_pattern(pattern)) for what, pattern in _EFFECTS)


def effect_of(op: str) -> str | None:
    """Return what an op that acts on the outside does, in a few words; None where not known."""
    for what, pattern in _COMPILED:
        if pattern.fullmatch(op):
            return what
    return None
