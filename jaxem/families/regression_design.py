"""The columns of a regression: covariates read from ``given``, the intercept, and which columns all classes share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import brief
from jaxem.core.data import Columns, Data, given_of, values_of
from jaxem.core.parameters import covariate_labels
from jaxem.core.trees import float_dtype


class Split(NamedTuple):
    """Something of each column: of those with a coefficient for each class, then of those that classes share."""

    own: Array | None  # (..., P); None where there is no such column
    shared: Array | None  # (..., Q)

    def joined(self) -> Array:
        """All columns, (..., P + Q)."""
        return jnp.concatenate([part for part in self if part is not None], axis=-1)

    def like(self, columns: Array) -> "Split":
        """``columns (..., P + Q)``, split as this."""
        own = 0 if self.own is None else self.own.shape[-1]
        first, rest = columns[..., :own], columns[..., own:]
        return Split(None if self.own is None else first, None if self.shared is None else rest)


class Rows(NamedTuple):
    """What a regression needs of N observations."""

    y: Array  # (N, ...), responses
    z: Split  # columns, (N, P) and (N, Q)
    offset: Array | None  # (N,)

    def predictor(self, coefficients: Split, k: int) -> Array:
        """The linear predictor z_n . beta_k + offset_n, (N, K)."""
        products = [
            matrices.product(z, jnp.atleast_2d(beta).T)
            for z, beta in zip(self.z, coefficients, strict=True)
            if z is not None and beta is not None
        ]
        eta = products[0] if len(products) == 1 else products[0] + products[1]
        eta = eta if self.offset is None else eta + self.offset[:, None]
        return jnp.broadcast_to(eta, (eta.shape[0], k))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Design:
    """Which parts of ``given`` are covariates and offset, and which columns all classes share; see ``Regression``."""

    on: tuple[str, ...] | None
    intercept: bool
    offset: str | None
    tied: tuple[int | str, ...]

    @property
    def has_own(self) -> bool:
        """Whether a column has a coefficient for each class."""
        intercept = self.intercept and "intercept" not in self.tied
        return intercept or "all" not in self.tied

    def read(self, x: Data) -> Rows:
        """Responses, columns and offset of the rows ``x``."""
        given = given_of(x)
        y = values_of(x)
        n = jax.tree.leaves(y)[0].shape[0]
        own, shared = [], []
        columns = [("intercept", None, jnp.ones((n, 1)))] if self.intercept else []
        columns += [(name, place, leaf[:, None]) for name, place, leaf in self._columns(given, 1)]
        for name, place, column in columns:
            (shared if self._is_tied(name, place) else own).append(column)
        dtype = float_dtype((y, given))
        stack = lambda parts: jnp.concatenate([part.astype(dtype) for part in parts], axis=1) if parts else None
        return Rows(y, Split(stack(own), stack(shared)), None if self.offset is None else given[self.offset])

    def widths(self, given: Any, leading: int) -> dict[str, int]:
        """The numbers of columns with a coefficient for each class, and of those that classes share."""
        tied = [self._is_tied(name, place) for name, place, _ in self._columns(given, leading)]
        tied = [self._is_tied("intercept", None)] * self.intercept + tied
        return {"own": tied.count(False), "shared": tied.count(True)}

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        """The names of the columns with a coefficient for each class, and of those that classes share."""
        names = covariate_labels(given, columns, self.on, leading)
        if names is None:
            return {}
        places = [(name, place) for name, place, _ in self._columns(given, leading)]
        if self.intercept:
            names, places = ["intercept", *names], [("intercept", None), *places]
        found: dict[str, list[str]] = {"own": [], "shared": []}
        for name, place in zip(names, places, strict=True):
            found["shared" if self._is_tied(*place) else "own"].append(name)
        return found

    def _is_tied(self, name: str, place: int | None) -> bool:
        return name in self.tied or (place is not None and ("all" in self.tied or place in self.tied))

    def _columns(self, given: Any, leading: int) -> list[tuple[str, int, Any]]:
        """The name of each covariate, its place, and its values (N,) or (N, T)."""
        leaves = [("", given)] if self.on is None else [(name, given[name]) for name in self.on]
        found: list[tuple[str, int, Any]] = []
        for name, leaf in leaves:
            if len(leaf.shape) == leading:
                found.append((name, len(found), leaf))
                continue
            pick = lambda j, leaf=leaf: leaf[..., j] if hasattr(leaf, "at") or hasattr(leaf, "strides") else leaf
            found += [(name, len(found) + j, pick(j)) for j in range(leaf.shape[leading])]
        return found

    def check(self, given: Any, leading: tuple[str, ...], title: str) -> None:
        """Raise ``ValueError`` where ``given`` does not hold what the regression needs."""
        axes = f"({', '.join(leading)})"
        if given is None:
            raise ValueError(f"{title} needs covariates: pass jaxem.dataset(y, given=...)")
        named = (*(self.on or ()), *(() if self.offset is None else (self.offset,)))
        if named and not isinstance(given, dict):
            raise ValueError(f"{title} needs a dict of covariates with {', '.join(map(repr, named))}; got one array")
        for name in named:
            if name not in given:
                raise ValueError(f"{title} needs {name!r} in given; its keys are {', '.join(map(repr, given))}")
        if self.on is None and not hasattr(given, "shape"):
            keys = f" with the keys {', '.join(map(repr, given))}" if isinstance(given, dict) else ""
            raise ValueError(f"{title}: given is a {type(given).__name__}{keys}; say which parts are covariates by on=")
        for name in named or (None,):
            leaf: Any = given if name is None else given[name]
            shape = tuple(leaf.shape)
            wide = name != self.offset or name is None
            if len(shape) != len(leading) and not (wide and len(shape) == len(leading) + 1):
                what = "given" if name is None else f"given[{name!r}]"
                wanted = f"{axes} or ({', '.join(leading)}, columns)" if wide else axes
                raise ValueError(f"{title} needs {what} of shape {wanted}; got {shape}")
        columns = self._columns(given, len(leading))
        for place in self.tied:
            if isinstance(place, int) and place >= len(columns):
                raise ValueError(f"{title}: tied names column {place}, and there are {len(columns)}, counted from 0")
            if isinstance(place, str) and place not in ("all", "intercept", *(self.on or ())):
                raise ValueError(f"{title}: tied names {place!r}, which is not one of its covariates")
        if not columns and not self.intercept:
            raise ValueError(f"{title} needs a covariate or an intercept")
        if self.has_own and self.widths(given, len(leading))["own"] == 0:
            raise ValueError(f"{title}: every column is tied; say so by tied=('intercept', 'all')")


def design(on: Any, intercept: Any, offset: Any, tied: Any) -> Design:
    """The design of these options; ``ValueError`` where one of them is not valid."""
    if on is not None and not isinstance(on, str) and not _are_names(on):
        raise ValueError(f"Regression: on must be the name of a part of given, or several; got {brief(on)}")
    if not isinstance(intercept, bool):
        raise ValueError(f"Regression: intercept must be True or False; got {brief(intercept)}")
    if offset is not None and not isinstance(offset, str):
        raise ValueError(f"Regression: offset must be the name of a part of given; got {brief(offset)}")
    if offset is not None and on is None:
        raise ValueError("Regression: with an offset, say which parts of given are covariates by on=")
    tied = (tied,) if isinstance(tied, str | int) and not isinstance(tied, bool) else tied
    if not isinstance(tied, tuple | list) or not all(_is_column(place) for place in tied):
        raise ValueError(f"Regression: tied must be names or numbers of covariates, or 'all'; got {brief(tied)}")
    if "intercept" in tied and not intercept:
        raise ValueError("Regression: tied names the intercept, and there is none")
    return Design((on,) if isinstance(on, str) else None if on is None else tuple(on), intercept, offset, tuple(tied))


def _are_names(on: Any) -> bool:
    return isinstance(on, tuple | list) and all(isinstance(name, str) for name in on) and len(set(on)) == len(on)


def _is_column(place: Any) -> bool:
    return isinstance(place, str) or (isinstance(place, int) and not isinstance(place, bool) and place >= 0)
