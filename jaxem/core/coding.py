"""How columns of data frames are coded: as in earlier data, whose columns are found by their names."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.core import missing_cells
from jaxem.core.data import Columns, Dataset, Named, Sharded
from jaxem.core.frames import Levels, Trust, Wanted, codes, refuse_absent


class Coding(NamedTuple):
    """How columns of data frames shall be coded."""

    before: Mapping[str, Columns]  # the columns of earlier data, by path
    levels: Levels  # of other columns
    trust: Trust = "entries"  # where the levels of the rest come from
    part: str = ""

    @classmethod
    def of(cls, like: Any, levels: Levels | None) -> "Coding":
        """The coding of earlier data, or of ``levels``."""
        if like is None:
            return cls({}, dict(levels or {}))
        like = like.data if isinstance(like, Sharded) else like
        names = getattr(like, "names", None)
        if levels is not None:
            raise ValueError("dataset: like= has the levels of the earlier data; leave levels= out")
        if not names:
            raise ValueError("dataset: like= needs a Dataset that came from a data frame, or a Fit to one")
        return cls(dict(names), {})

    def within(self, part: str) -> "Coding":
        return self._replace(part=part)

    def at(self, path: str) -> Wanted:
        """How the frame at this path below the part is coded."""
        return Wanted(self.before.get(self.part + path), self.levels, self.trust)

    def check(self, named: Named | None) -> None:
        """Raise ``ValueError`` where ``levels`` names a column that is in no data frame."""
        there = {column for _, columns in named or () for column in columns.names}
        unknown = [column for column in self.levels if column not in there]
        if unknown:
            raise ValueError(f"dataset: levels names {', '.join(map(repr, unknown))}, which is no column of the data")


PLAIN = Coding({}, {})


def dotted(path: Any) -> str:
    """The path of a node below a part, such as ``.items``; ``""`` for the whole."""
    where = jax.tree_util.keystr(path, simple=True, separator=".")
    return f".{where}" if where else ""


def as_before(data: Dataset, like: Named | None, spread: bool = False) -> Dataset:
    """The data with the columns and levels of earlier data, where both have names and these are not the same."""
    before, now = dict(like or ()), dict(data.names or ())
    different = [path for path in now if path in before and now[path] != before[path]]
    if not different:
        return data
    if spread:
        raise ValueError(
            f"{different[0]}: the columns or levels are not those of the fit; change that: jaxem.dataset(..., like=fit)"
        )

    def again(tree: Any, masks: Any, part: str) -> tuple[Any, Any]:
        nodes, structure = jax.tree_util.tree_flatten_with_path(tree)
        seen = [None] * len(nodes) if masks is None else jax.tree.leaves(masks)
        pairs = []
        for (path, leaf), mask in zip(nodes, seen, strict=True):
            where = part + dotted(path)
            moved = (leaf, mask)
            if where in different:
                moved = _recoded(leaf, mask, now[where], before[where], where)
            pairs.append((jnp.asarray(moved[0]), moved[1]))
        arrays, found = zip(*pairs, strict=True)
        return jax.tree.unflatten(structure, arrays), None if masks is None else jax.tree.unflatten(structure, found)

    values, observed = again(data.values, data.observed, "values")
    given = None if data.given is None else again(data.given, None, "given")[0]
    names = tuple((path, before[path] if path in different else columns) for path, columns in now.items())
    moved = dataclasses.replace(data, values=values, given=given, observed=observed, names=names)
    return missing_cells.arranged(moved)


def _recoded(array: Any, observed: Any, own: Columns, like: Columns, name: str) -> tuple[Any, Any]:
    """Columns that were coded one way, (..., D), and their mask, coded as ``like``; see ``read``.

    Raises ``ValueError`` for a column that is missing and for a level in use that ``like`` does not have.
    """
    refuse_absent(like.names, own.names, name)
    order = [own.names.index(column) for column in like.names]
    single = np.ndim(array) == 1  # a series
    array = array if single else array[..., np.array(order)]
    observed = observed if single or observed is None else observed[..., np.array(order)]
    for place, (column, source) in enumerate(zip(like.names, order, strict=True)):
        before, after = own.levels[source], like.levels[place]
        if before == after:
            continue
        what = f"{name}: column {column!r}"
        if before is None or after is None:
            kinds = ("numbers", "text") if before is None else ("text", "numbers")
            raise ValueError(f"{what} holds {kinds[0]}; that of the earlier data held {kinds[1]}")
        here = np.asarray(array if single else array[..., place])
        seen = (
            np.ones(here.shape, bool) if observed is None else np.asarray(observed if single else observed[..., place])
        )
        texts = [before[int(code)] if 0 <= code < len(before) else "" for code in here.ravel()]
        new = codes(texts, seen.ravel(), after, what).reshape(here.shape)
        array = new if single else np.asarray(array).copy()
        if not single:
            array[..., place] = new
    return array, observed
