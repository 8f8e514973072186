"""What comes of a restore, whichever framework restores: the fields of RestoreResult.  Child alone.

Every variable is marked before; one that still holds its mark was not restored, whatever the
restore itself says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UsageError
from ckptkit.runners.child.session import Result
from ckptkit.runners.errors import error_text
from ckptkit.runners.marks import is_marked

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(kw_only=True)
class Way:
    """A way in which a file is restored.

    weights: {name: variable} of all weights.  by: who pairs file and model.  places: of the objects
    in the file.  pairs: see RestoreResult.
    """

    weights: Mapping[str, Any]
    by: str = "ckptkit"
    places: list[str] = field(default_factory=list)
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)

    def restore(self) -> dict[str, str]:
        """Fill the objects; return what the framework's assertions say, by name.

        Raises what reading the file raises.
        """
        raise NotImplementedError

    def write(self, out: str) -> str:
        """Write what all variables hold; return the path."""
        raise NotImplementedError

    def left_out(self, written: str | None, unrestored: list[str]) -> dict[str, str]:
        """Return {name: status} of the weights that are not in what was written."""
        del written, unrestored
        return {}


def restored(
    way: Way,
    out: str | None,
    *,
    variables: Iterable[str],
    marked: Mapping[str, Any],
    value_of: Callable[[Any], Array],
    has_optimizer: bool,
) -> Result:
    """Restore, and write what then is there to `out`.

    Args:
        way: how.
        out: a prefix; None where nothing is to be written.
        variables: names of all variables.
        marked: {name: variable} of those that hold a mark.
        value_of: gives the values of a variable.
        has_optimizer: whether there is one that is restored, too.

    Returns:
        The fields of RestoreResult.

    Raises:
        UsageError: where the user has to say more.
    """
    error: Exception | None = None
    verdicts: dict[str, str] = {}
    try:
        verdicts = way.restore()
    except UsageError:
        raise
    except Exception as raised:  # what is wrong with the file is the answer, not an accident
        error = raised
    written = None if out is None else way.write(out)
    unrestored = [name for name, variable in marked.items() if is_marked(value_of(variable))]
    return {
        "path": written,
        "error": error_text(error) if error else "",
        "error_kind": type(error).__name__ if error else "",
        "unrestored": unrestored,
        "unmarked": sorted({*variables} - marked.keys()),
        "optimizer": has_optimizer,
        "root_children": way.places,
        "verdicts": verdicts,
        "by": way.by,
        "pairs": way.pairs,
        "left_out": way.left_out(written, unrestored),
    }
