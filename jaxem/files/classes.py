"""The table of the classes that a file may name: jaxem's own. Nothing is ever imported by a name from a file.

Names are part of the format: whoever renames a class, or a field, adds an upgrade (see ``formats.py``).
"""

from typing import Any

from jaxem import families, gates, models
from jaxem.core import spaces
from jaxem.core.data import Columns
from jaxem.core.spaces.held import Held
from jaxem.core.spaces.linked import Linked
from jaxem.core.spaces.tied import Tied
from jaxem.families.items import Items
from jaxem.fitting.result import Fit
from jaxem.gates.transitions import Free
from jaxem.models.restricted.model import Restricted
from jaxem.models.state_space_patterns import Pattern


def _is_record(kind: Any) -> bool:
    """Whether ``kind`` is a dataclass or a named tuple, so that its fields say all."""
    return isinstance(kind, type) and (hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields"))


_PUBLIC = [
    kind
    for module in (families, gates, models, spaces)
    for name in dir(module)
    if _is_record(kind := getattr(module, name))
]
_INNER = [Columns, Fit, Free, Held, Items, Linked, Pattern, Restricted, Tied]  # made by public functions, not by users

CLASSES: dict[str, Any] = {kind.__name__: kind for kind in (*_PUBLIC, *_INNER)}
