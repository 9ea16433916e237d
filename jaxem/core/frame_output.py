"""Tables of results as data frames."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from jaxem.core.frames import LIBRARIES


def make(columns: Mapping[str, Any], library: str | None, index: Any = None) -> Any:
    """A data frame of these columns, in ``library`` or else in the first library that is installed.

    ``index``: a pandas index, which a pandas frame gets; others get a column ``index`` first.
    """
    if library is not None and library not in LIBRARIES:
        raise ValueError(f"library must be one of {', '.join(LIBRARIES)}; got {library!r}")
    try:
        import narwhals.stable.v2 as nw
    except ImportError as error:
        raise ImportError('data frames need narwhals: pip install "jaxem[frames]"') from error
    installed = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    if not installed and library is None:
        raise ImportError(f"a data frame needs one of {', '.join(LIBRARIES)}; none is installed")
    backend: Any = library or installed[0]
    if index is not None and backend != "pandas":
        columns = {"index": list(map(str, index)) if getattr(index, "nlevels", 1) > 1 else list(index), **columns}
    made = nw.from_dict(dict(columns), backend=backend).to_native()
    if index is not None and backend == "pandas":
        made.index = index
    return made


def to_frame(self: Any, library: str | None = None) -> Any:
    """The table as a data frame.

    Arguments:
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``; default: the library of the data frame that the data came
            as, or else the first of them that is installed.

    Returns:
        A data frame with the columns that ``as_dict()`` describes.

    Raises:
        ImportError: narwhals (the extra ``frames``) or the library is not installed.
        ValueError: the library is none of the above.
    """
    own = getattr(self, "library", None) or None
    return make(self.as_dict(), own if library is None else library, getattr(self, "row_labels", None))
