"""Mutants of code: one operator, constant, call or return of a function changed.

Sources are read as syntax trees and never written: `mutated` returns a compiled module in which
one node is another, with the line numbers of the original.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_CALLED = {"any": "all", "all": "any", "min": "max", "max": "min"}
# Their first two arguments have no order.
_SYMMETRIC = frozenset({"max", "min", "isclose", "maximum", "minimum", "equal", "not_equal",
                        "logical_and", "logical_or", "bitwise_xor", "vdot",
                        "is_exact"})  # fmt: skip
_STATEMENTS = (ast.Expr, ast.Return, ast.Raise, ast.Continue, ast.Break, ast.AugAssign)


@dataclass(frozen=True)
class OperatorMutant:
    """One change of one file.

    file: relative to the repository.  function: qualified name of the function or method around
    it, outermost; "" at the level of the module or a class.  node, variant: which change, among
    those that `mutants_of` finds.  before, after: source of the smallest part that shows it.
    first, last: the lines of the statement that is changed (its head, where it has a body).
    """

    file: str
    function: str
    operator: str
    before: str
    after: str
    number: int  # of those that are alike in this function
    node: int
    variant: int
    line: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """What stays the same while other parts of the file change."""
        parts = (self.file, self.function, self.operator, self.before, self.after, self.number)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def rank(self, seed: int) -> str:
        """A draw by rank keeps what was drawn when other mutants come and go."""
        return hashlib.sha256(f"{seed} {self.name}".encode()).hexdigest()


def draw(mutants: list[OperatorMutant], count: int, seed: int) -> list[OperatorMutant]:
    """Return so many mutants, the same for the same seed and sources, by file and line."""
    drawn = sorted(mutants, key=lambda mutant: mutant.rank(seed))[:count]
    return sorted(drawn, key=lambda mutant: (mutant.file, mutant.line, mutant.name))


def mutants_of(path: Path, root: Path) -> list[OperatorMutant]:
    """Return every mutant of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = _parents(tree)
    skipped = _skipped(tree)
    counts: Counter[tuple[str, ...]] = Counter()
    found = []
    for index, node in enumerate(ast.walk(tree)):
        if node in skipped:
            continue
        for variant, (operator, other) in enumerate(_variants(node, parents)):
            shown = _shown(node, parents)
            key = (_function(node, parents), operator, ast.unparse(shown), _after(node, other))
            statement = _statement(node, parents)
            body = getattr(statement, "body", None)
            last = body[0].lineno - 1 if isinstance(body, list) else statement.end_lineno
            found.append(
                OperatorMutant(
                    path.relative_to(root).as_posix(), *key, counts[key], index, variant,
                    getattr(node, "lineno", statement.lineno), statement.lineno,
                    max(statement.lineno, last or 0),
                )
            )  # fmt: skip
            counts[key] += 1
    return found


def mutated(mutant: OperatorMutant, root: Path) -> CodeType:
    """Return the file's module, compiled with the change."""
    path = root / mutant.file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = list(ast.walk(tree))[mutant.node]
    parents = _parents(tree)
    _, other = list(_variants(node, parents))[mutant.variant]
    ast.copy_location(other, node)
    parent, field, at = parents[node]
    if at is None:
        setattr(parent, field, other)
    else:
        getattr(parent, field)[at] = other
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


# --- where ----------------------------------------------------------------------------------------


Parents = dict[ast.AST, tuple[ast.AST, str, int | None]]


def _parents(tree: ast.AST) -> Parents:
    found: Parents = {}
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST):
                    found[child] = (node, field, at)
    return found


def _around(node: ast.AST, parents: Parents) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node][0]
        yield node


def _function(node: ast.AST, parents: Parents) -> str:
    """Return the outermost function's qualified name; "" for what runs on import."""
    names: list[str] = []
    inner: ast.AST = node
    for outer in [node, *_around(node, parents)]:
        if isinstance(outer, ast.FunctionDef):
            # defaults and decorators of a function run when it is made
            in_body = any(inner is each for each in outer.body)
            names = [outer.name] if in_body else []
        elif isinstance(outer, ast.ClassDef) and names:
            names.insert(0, outer.name)
        inner = outer
    return ".".join(names)


def _statement(node: ast.AST, parents: Parents) -> ast.stmt:
    return next(each for each in [node, *_around(node, parents)] if isinstance(each, ast.stmt))


def _shown(node: ast.AST, parents: Parents) -> ast.AST:
    """Return a part that reads well: not a lone constant, but what it stands in."""
    if isinstance(node, ast.Constant):
        for outer in _around(node, parents):
            if isinstance(outer, ast.Compare | ast.BinOp | ast.Call | ast.Subscript | ast.stmt):
                return outer if not hasattr(outer, "body") else node
    return node


def _after(node: ast.AST, other: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(ast.copy_location(other, node))) or "nothing"


def _skipped(tree: ast.AST) -> set[ast.AST]:
    """Return what no run depends on: annotations, docstrings, texts that are composed."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts.append(node)
        if isinstance(node, ast.JoinedStr | ast.ImportFrom | ast.Import):
            parts.append(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "TypeVar"):
            parts.append(node)
        # an assert and `strict` of zip are claims about the code around, which no run can show
        is_claim = isinstance(node, ast.keyword) and node.arg == "strict"
        if is_claim or isinstance(node, ast.Assert):
            parts.append(node)
        for part in parts:
            if part is not None:
                found.update(ast.walk(part))
    return found


# --- what -----------------------------------------------------------------------------------------


def _variants(node: ast.AST, parents: Parents) -> Iterator[tuple[str, ast.AST]]:
    """Yield (operator, other node) for each way to change a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        op = _COMPARISONS[type(node.ops[0])]()
        yield "comparison", ast.Compare(node.left, [op], node.comparators)
    if isinstance(node, ast.BoolOp):
        op_other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", ast.BoolOp(op_other, node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "operator dropped", node.operand
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node.left):
        yield "arithmetic", ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    if isinstance(node, ast.Constant):
        yield from _constants(node, parents)
    if isinstance(node, ast.expr):
        parent, field, _ = parents.get(node, (None, "", None))
        if field == "test" and isinstance(parent, ast.If | ast.IfExp | ast.While):
            yield "condition negated", ast.UnaryOp(ast.Not(), node)
        if field == "ifs":
            yield "condition negated", ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Call):
        yield from _calls(node)
    if isinstance(node, _STATEMENTS):
        yield from _statements(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _constants(node: ast.Constant, parents: Parents) -> Iterator[tuple[str, ast.AST]]:
    value: Any = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant + 1", ast.Constant(value + 1)
        yield "constant - 1", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 2 if value else 1.0)
    elif isinstance(value, str) and isinstance(parents[node][0], ast.Compare):
        yield "text", ast.Constant(f"{value}?")


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    arguments = node.args
    is_check = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if (
        len(arguments) > 1
        and not is_check
        and name not in _SYMMETRIC
        and ast.unparse(arguments[0]) != ast.unparse(arguments[1])
        and not any(isinstance(each, ast.Starred) for each in arguments[:2])
    ):
        swapped = [arguments[1], arguments[0], *arguments[2:]]
        yield "arguments swapped", ast.Call(node.func, swapped, node.keywords)
    if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
        func = ast.Name(_CALLED[node.func.id], ast.Load())
        yield "function", ast.Call(func, arguments, node.keywords)


def _statements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call removed", ast.Pass()
    if isinstance(node, ast.Return) and not _is_none(node.value):
        yield "return removed", ast.Return(ast.Constant(None))
    if isinstance(node, ast.Raise):
        yield "raise removed", ast.Pass()
    if isinstance(node, ast.Continue):
        yield "loop", ast.Break()
    if isinstance(node, ast.Break):
        yield "loop", ast.Continue()
    if isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "arithmetic", ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)
