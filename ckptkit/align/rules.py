"""Rename rules that a person gives: `RE=>REPL`, one a line in a file.

Where values are moved on the way, as `ckptkit convert` can, transforms follow:
`RE=>REPL | STEP | STEP` (see `ckptkit.align.transforms`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.side_files import rule_lines
from ckptkit.align.transforms import Transform, parse_transform
from ckptkit.errors import UsageError

OPEN_MARK = "#?"  # before a rule that is one of several candidates
_NAMED = 4  # candidates that a message names
_SUGGEST_AT_LEAST = 3  # pairs, before a rule is proposed
_SUGGEST_AT_MOST = 3  # rules
_VOTERS = 1_000  # names that are looked at to find rules
_CANDIDATES = 64  # names that each is held against; rules that are tried


class Rule(NamedTuple):
    """Names of OLD in which `pattern` is found become, with the match replaced, names of NEW."""

    pattern: re.Pattern[str]
    replacement: str
    text: str
    transform: Transform = Transform()

    def apply(self, name: str) -> str | None:
        """Return the new name, or None where the pattern is not found."""
        new, count = self.pattern.subn(self.replacement, name)
        return new if count else None


def parse_rule(text: str, *, transforms: bool = False) -> Rule:
    """Return the rule written as `RE=>REPL`.

    Args:
        text: the rule, with a Python regular expression on its left.
        transforms: whether `RE=>REPL | STEP | STEP` may be given.

    Raises:
        UsageError: it is no rule, or a step is no transform.
    """
    pattern, arrow, rest = text.partition("=>")
    replacement, *steps = (part.strip() for part in rest.split("|"))
    pattern = pattern.strip()
    if not arrow or not pattern:
        raise UsageError(f"{text!r} is not a rename rule", hint="write 'RE=>REPLACEMENT'")
    if steps and not transforms:
        raise UsageError(f"{text!r}: only `ckptkit convert` transforms tensors")
    try:
        rule = Rule(re.compile(pattern), replacement, text, parse_transform(steps))
        re.compile(f"{pattern}|").sub(replacement, "")  # refuses groups that do not exist
    except (re.error, IndexError) as error:
        raise UsageError(f"{text!r}: {error}", hint="the left side is a Python regex") from error
    except UsageError as error:
        raise UsageError(f"{text!r}: {error.message}", hint=error.hint) from error
    return rule


def read_rules(path: Path, *, transforms: bool = False) -> list[Rule]:
    """Return the rules of a file: one a line, `#` starts a comment line.

    A line that `#?` starts is a candidate: one of several rules for a tensor, of which a person is
    to choose one.  Until then the file is refused.

    Args:
        path: the file.
        transforms: see `parse_rule`.

    Raises:
        UsageError: a line is no rule, or is left open; the line is named.
        PathNotFoundError: there is no such file.
    """
    rules = []
    candidates: dict[object, list[tuple[Rule, str]]] = {}
    for line, where in rule_lines(path, beside=OPEN_MARK):
        is_open = line.startswith(OPEN_MARK)
        try:
            rule = parse_rule(line.removeprefix(OPEN_MARK), transforms=transforms)
        except UsageError as error:
            raise UsageError(error.message, where=where, hint=error.hint) from error
        if is_open:
            candidates.setdefault(_target(rule), []).append((rule, where))
        else:
            rules.append(rule)
    decided = {_target(rule) for rule in rules}
    for target, found in candidates.items():
        if target not in decided:
            where = found[0][1]
            name = _plain(found[0][0].replacement)
            texts = [_candidate_text(rule) for rule, _ in found]
            raise UsageError(
                f"{name} is left open: {' or '.join(texts[:_NAMED])}"
                + (f" or {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""),
                where=where,
                hint=f"take `{OPEN_MARK}` off the rule that is right",
            )
    return rules


def _target(rule: Rule) -> object:
    """Return what of which tensor a rule gives: of one only one rule can be right."""
    return rule.replacement, rule.transform.into or rule.transform.term


def _candidate_text(rule: Rule) -> str:
    name = re.sub(r"\\(.)", r"\1", rule.pattern.pattern.removeprefix("^").removesuffix("$"))
    return f"{name} ({rule.transform})" if rule.transform else name


def _plain(replacement: str) -> str:
    return replacement.replace(r"\174", "|").replace(r"\040", " ").replace(r"\\", "\\")


def write_rules(path: Path, names: Iterable[tuple[str, str]]) -> int:
    """Write one exact rule for each (old name, new name); return how many."""
    from ckptkit._io.atomic import replacing  # here, since rules are seldom written

    lines = [exact_rule(old, new) for old, new in sorted(names)]
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return len(lines)


def exact_rule(old: str, new: str, transform: Transform | None = None) -> str:
    """Return the rule that sends one name to another, and no other name anywhere."""
    pattern = re.escape(old).replace("=>", r"=\>")
    replacement = new.replace("\\", r"\\").replace("|", r"\174")
    if replacement != replacement.strip():
        replacement = replacement.replace(" ", r"\040")
    return f"^{pattern}$=>{replacement}" + (f" | {transform}" if transform else "")


class RuleMatches(NamedTuple):
    """What rules pair, as (old key, new key, rule text), and the texts of those that do not."""

    pairs: tuple[tuple[str, str, str], ...]
    unused: tuple[str, ...]


def apply_rules(
    rules: Sequence[Rule],
    old: Mapping[str, Sequence[str]],
    new: Mapping[str, Sequence[str]],
) -> RuleMatches:
    """Pair keys by rules.

    The last rule whose pattern is found in a name decides for it, and counts as used if a tensor of
    NEW has the name it gives.

    Args:
        rules: in the order in which they were given.
        old: key -> names of each tensor of OLD, best first.
        new: key -> names of each tensor of NEW, best first.

    Raises:
        UsageError: two tensors are sent to one.
    """
    target = by_label(new)
    sender: dict[str, tuple[str, str]] = {}
    used: set[str] = set()
    for key, names in old.items():
        decision = _apply(rules, names, target)
        if decision is None:
            continue
        new_key, text = decision
        used.add(text)
        if new_key in sender:
            both = f"{_label(old, sender[new_key][0])} and {_label(old, key)}"
            raise UsageError(
                f"rename rules send both {both} to {_label(new, new_key)}",
                hint="make the rules tell them apart",
            )
        sender[new_key] = key, text
    pairs = tuple((key, new_key, text) for new_key, (key, text) in sender.items())
    return RuleMatches(pairs, tuple(rule.text for rule in rules if rule.text not in used))


def by_label(new: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return {name: key}; of two keys with one name it is the one that has it further in front."""
    target: dict[str, str] = {}
    for rank in range(max((len(names) for names in new.values()), default=0)):
        for key, names in new.items():
            if rank < len(names):
                target.setdefault(names[rank], key)
    return target


def _label(names: Mapping[str, Sequence[str]], key: str) -> str:
    return names[key][0] if names[key] else key


def _apply(
    rules: Sequence[Rule], names: Sequence[str], target: Mapping[str, str]
) -> tuple[str, str] | None:
    for rule, new_key in deciding(rules, names, target):
        return new_key, rule.text
    return None


def deciding(
    rules: Sequence[Rule], names: Sequence[str], target: Mapping[str, str]
) -> Iterator[tuple[Rule, str]]:
    """Yield (rule, key of NEW) for the rules that fit a tensor called `names`, the last one first.

    target: {name: key} of NEW.
    """
    for rule in reversed(rules):
        for name in names:
            renamed = rule.apply(name)
            if renamed is not None and renamed in target:
                yield rule, target[renamed]
                break


def suggest_rules(
    old: Mapping[str, tuple[object, ...]], new: Mapping[str, tuple[object, ...]]
) -> list[tuple[str, int]]:
    """Return rules that would pair left-over names, each with how many it would pair.

    A rule replaces a leading part of the name, and is proposed only when at least three tensors
    agree on it.

    Args:
        old: name -> dtype and shape of what is left over of OLD.
        new: name -> dtype and shape of what is left over of NEW.
    """
    # Names of NEW by what a rule leaves alone: the last part, dtype and shape.
    by_tail: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name, kind in new.items():
        tail = (name.rpartition("/")[2], *kind)
        by_tail[tail].append(name)
    # Each pair of names that could belong together votes for the rule from one to the other.
    votes: Counter[tuple[str, str]] = Counter()
    for name, kind in list(old.items())[:_VOTERS]:
        for other in by_tail.get((name.rpartition("/")[2], *kind), ())[:_CANDIDATES]:
            votes[_heads(name, other)] += 1
    # The rules with most votes, each for names that no other has paired.
    rules: list[tuple[str, int]] = []
    used: set[str] = set()
    for (old_head, new_head), count in votes.most_common(_CANDIDATES):
        if old_head == new_head or count < _SUGGEST_AT_LEAST or len(rules) == _SUGGEST_AT_MOST:
            continue
        pairs = {
            name: other
            for name, kind in old.items()
            if name.startswith(old_head) and f"old {name}" not in used
            for other in (new_head + name[len(old_head) :],)
            if new.get(other) == kind and f"new {other}" not in used
        }
        if len(pairs) >= _SUGGEST_AT_LEAST:
            rules.append((f"^{re.escape(old_head)}=>{new_head}", len(pairs)))
            used.update(f"old {name}" for name in pairs)
            used.update(f"new {other}" for other in pairs.values())
    return rules


def _heads(old_name: str, new_name: str) -> tuple[str, str]:
    """Return the leading parts that differ, before the longest common tail of whole components."""
    old_parts, new_parts = old_name.split("/"), new_name.split("/")
    common = 0
    while (
        common < min(len(old_parts), len(new_parts))
        and old_parts[-1 - common] == new_parts[-1 - common]
    ):
        common += 1
    heads = ("/".join(parts[: len(parts) - common]) for parts in (old_parts, new_parts))
    old_head, new_head = (f"{head}/" if head else "" for head in heads)
    return old_head, new_head
