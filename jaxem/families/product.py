"""Mixed columns: parts of an observation that are independent given its class, each with a family of its own."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import data, trees
from jaxem.core.checks import brief, instance
from jaxem.core.contexts import Context
from jaxem.core.data import Columns, Data, Dataset, observed_of, values_of, with_values
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family

Parts = dict[str, Any]  # something of each part, by its name


@register
@dataclasses.dataclass(frozen=True)
class Product:
    r"""The distribution of an observation of several parts that are independent given the class.

    .. math:: \log p(x \mid k) = \sum_{\text{parts}} \log p(x_{\text{part}} \mid k), \qquad
              \text{M: the maximiser of each part}

    The data are a dict with the values of each part, in the shape that its family needs. A part of a single column may
    be (N,) or (N, 1), whatever its family. With ``jaxem.dataset`` parts may be columns of a data frame,
    ``{"age": frame["age"], "items": frame[["q1", "q2"]]}``, and cells may be missing in each part whose family can use
    missing cells. The parameters are a dict with those of each part.

    Arguments:
        parts: the family of each part: a dict from names to families, or pairs of a name and a family. A family may
            have hidden variables of its own, or be a ``Product`` or a ``Component``.

    Raises:
        ValueError: there is no part, two parts have one name, a name is not a text, or a part is not a family.

    Source: McLachlan & Peel (2000), section 5.5; Hunt & Jorgensen (1999) for mixed columns.
    """

    parts: Mapping[str, Family]

    event_ndim: ClassVar[int] = 1

    def __post_init__(self) -> None:
        given = self.parts
        pairs = list(given.items() if isinstance(given, Mapping) else given if isinstance(given, tuple | list) else ())
        if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"Product: parts must be a dict from names to families; got {brief(given)}")
        for name, family in pairs:
            if not isinstance(name, str) or not name:
                raise ValueError(f"Product: the name of a part must be a text; got {brief(name)}")
            needed = ("declare", "log_density", "statistics", "maximize", "expected")
            instance(f"Product: part {name!r}", family, "a family, such as Normal()", *needed)
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"Product: two parts have one name; the names are {[name for name, _ in pairs]}")
        object.__setattr__(self, "parts", dict(sorted(pairs)))  # in the order that JAX gives to the keys of a dict

    def _each(self, of: Callable[..., Any], *trees: Any) -> Parts:
        """``of(family, ...)`` for each part, with its entry of each tree; an empty tree has an empty entry."""
        entry = lambda tree, name: tree[name] if tree else tree
        return {name: of(family, *(entry(tree, name) for tree in trees)) for name, family in self.parts.items()}

    def _rows(self, x: Data) -> Parts:
        """The observations of each part, as its family takes them."""
        return {
            name: _shaped(family, data.part(x, name, *families.takes(family)), 1) for name, family in self.parts.items()
        }

    # What the parts declare

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return "; ".join(f"{name}: {family.support}" for name, family in self.parts.items())

    @property
    def accurate(self) -> bool:
        """Whether the log-densities of all parts are right to a few units in the last place."""
        return all(getattr(family, "accurate", False) for family in self.parts.values())

    @property
    def centred(self) -> bool:
        """Whether sums about zero are accurate enough for the location only, in any part."""
        return any(getattr(family, "centred", False) for family in self.parts.values())

    @property
    def separate(self) -> bool:
        """Whether no part is spoilt by a class without weight."""
        return all(map(families.separate, self.parts.values()))

    @property
    def prior(self) -> Parts | None:
        """The parts that have a prior; ``None`` without one."""
        return {name: family for name, family in self.parts.items() if families.has_prior(family)} or None

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data that can be used: masks, as each part is asked for its own, and covariates."""
        given = any("given" in families.takes(family) for family in self.parts.values())
        return ("observed", "given") if given else ("observed",)

    def declare(self) -> Parts:
        within = lambda name, declared: jax.tree.map(
            lambda param: param.within(name), declared, is_leaf=lambda node: isinstance(node, Param)
        )
        return {name: within(name, family.declare()) for name, family in self.parts.items()}

    # The density, and the family's own hidden variables

    def prepare(self, params: Parts, x: Data | None) -> Context:
        prepared = lambda family, own, part: family.prepare(own, part)
        return self._each(prepared, params, None if x is None else self._rows(x))

    def log_density(self, c: Context, x: Data) -> Array:
        return _total(self._each(observed.log_density, c, self._rows(x)))

    def hidden(self, c: Context, x: Data) -> Parts | tuple[()]:
        found = self._each(observed.hidden, c, self._rows(x))
        return found if jax.tree.leaves(found) else ()

    def infer(self, c: Context, x: Data) -> tuple[Array, Any]:
        found = self._each(observed.infer, c, self._rows(x))
        hidden = {name: own for name, (_, own) in found.items()}
        density = _total({name: own for name, (own, _) in found.items()})
        return density, hidden if jax.tree.leaves(hidden) else ()

    def complete(self, c: Context, hidden: Parts, x: Data) -> Array:
        return _total(self._each(observed.complete, c, hidden, self._rows(x)))

    def hidden_entropy(self, c: Context, hidden: Parts, x: Data) -> Array:
        of = lambda family, c, u, part: 0.0 if not jax.tree.leaves(u) else observed.hidden_entropy(family, c, u, part)
        return _total(self._each(of, c, hidden, self._rows(x)))

    def hidden_divergence(self, hidden: Parts, other: Parts) -> Array:
        of = lambda family, u, v: 0.0 if not jax.tree.leaves(u) else families.hidden_divergence(family, u, v)
        return _total(self._each(of, hidden, other))

    # The M-step

    def statistics(self, c: Context, r: Array, hidden: Parts, x: Data) -> Parts:
        of = lambda family, c, hidden, part: observed.statistics(family, c, r, hidden, part)
        return self._each(of, c, hidden, self._rows(x))

    def maximize(self, c: Context, sums: Parts) -> Parts:
        return self._each(lambda family, c, sums: family.maximize(c, sums), c, sums)

    def expected(self, c: Context, params: Parts, sums: Parts) -> Array:
        of = lambda family, c, params, sums: family.expected(c, params, sums)
        return _total(self._each(of, c, params, sums))

    def log_prior(self, params: Parts) -> Array | float:
        return _total(self._each(families.log_prior, params))

    def degenerate(self, params: Parts) -> Array:
        return jnp.stack(list(self._each(families.degenerate, params).values())).any()

    def means(self, params: Parts) -> list[tuple[Param, Array]]:
        found = self._each(families.means, params)
        return [(param.within(name), own) for name, pairs in found.items() for param, own in pairs]

    def contrasts(self, params: Parts) -> Array | None:
        found = self._each(families.contrasts, params)
        return None if any(part is None for part in found.values()) else _joined(found)

    @property
    def start(self) -> Callable[[Array, Array, Data], Parts]:
        """A start of each part; the attribute is missing where no part has a start of its own."""
        if not any(hasattr(family, "start") for family in self.parts.values()):
            raise AttributeError("start")

        def of_parts(key: Array, r: Array, x: Data) -> Parts:
            of = lambda family, key, part: observed.start(family, key, r, part)
            return self._each(of, self._keys(key), self._rows(x))

        return of_parts

    # Observations

    def features(self, x: Data) -> Array:
        return _joined(self._each(observed.features, self._rows(x)))

    def supports(self, x: Data) -> Array:
        possible = jnp.stack(list(self._each(observed.supports, self._rows(x)).values())).all(axis=0)
        for mask in self._unusable(x).values():  # in a trace, where masks could not be checked
            possible = possible & mask.reshape(mask.shape[0], -1).all(axis=1)
        return possible

    def _unusable(self, x: Data) -> Parts:
        """The masks of the parts that cannot use missing cells."""
        masks = observed_of(x)
        refused = [name for name, family in self.parts.items() if "observed" not in families.takes(family)]
        return {} if masks is None else {name: masks[name] for name in refused}

    def sample(self, key: Array, params: Parts, labels: Array) -> Parts:
        return self._each(lambda family, key, own: family.sample(key, own, labels), self._keys(key), params)

    def sample_like(self, key: Array, params: Parts, labels: Array, x: Data) -> Data:
        """Observations with the covariates and the missing cells of ``x``."""

        def of(family: Any, key: Array, own: Any, part: Data) -> Any:
            if hasattr(family, "sample_like"):
                return values_of(family.sample_like(key, own, labels, part))
            return family.sample(key, own, labels)

        return with_values(x, self._each(of, self._keys(key), params, self._rows(x)))

    def _keys(self, key: Array) -> Parts:
        return dict(zip(self.parts, jax.random.split(key, len(self.parts)), strict=True))

    def impute(self, params: Parts, r: Array, x: Dataset) -> Parts:
        of = lambda family, own, part: observed.impute(family, own, r, part)
        return with_values(x, self._each(of, params, self._rows(x))).values

    def redraw(self, key: Array, params: Parts, labels: Array, x: Dataset) -> Parts:
        def of(family: Any, key: Array, own: Any, part: Data) -> Any:
            return values_of(part) if observed_of(part) is None else observed.redraw(family, key, own, labels, part)

        return with_values(x, self._each(of, self._keys(key), params, self._rows(x))).values

    # Checks

    def diagnose(self, x: Data, dtype: np.dtype) -> str | None:
        """Why no start can be made from ``x`` in this dtype; ``None`` where no reason is found."""
        given = lambda family: [part for part in families.takes(family) if part == "given"]
        own = {name: data.part(x, name, *given(family)) for name, family in self.parts.items()}
        of = lambda family, own: families.diagnose(family, _shaped(family, own, 1), dtype)
        return next((f"part {name!r}: {why}" for name, why in self._each(of, own).items() if why is not None), None)

    def check_shape(self, x: Data, leading: tuple[str, ...], title: str) -> None:
        """Raise ``ValueError`` where a part does not fit its family.

        A part may be missing, have another shape than its family needs, or have missing cells that it cannot use.
        """
        values = values_of(x)
        names = ", ".join(map(repr, self.parts))
        if not isinstance(values, dict):
            raise ValueError(f"{title} needs a dict of data with the keys {names}; got {brief(values)}")
        for what, found in (
            ("data for", set(self.parts) - set(values)),
            ("no data for", set(values) - set(self.parts)),
        ):
            if found:
                raise ValueError(
                    f"{title} needs {what} {', '.join(map(repr, sorted(found, key=str)))}: its parts are {names}"
                )
        for name, mask in self._unusable(x).items():
            if not isinstance(mask, Tracer) and not bool(mask.all()):
                family = self.parts[name]
                reason = getattr(family, "whole_rows", None)
                because = "" if reason is None else f" ({reason})"
                raise ValueError(
                    f"{title}: {type(family).__name__} of part {name!r} cannot use missing cells: leave those rows "
                    f"out{because}"
                )
        shapes = {}
        for name, family in self.parts.items():
            own = data.part(x, name, *families.takes(family))
            families.check_shape(family, _shaped(family, own, len(leading)), leading, f"{title}: part {name!r}")
            shapes[name] = jax.tree.leaves(values[name])[0].shape[: len(leading)]
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{title} needs parts that share the axes {', '.join(leading)}; got {shapes}")

    def sizes(self, values: Parts | None, leading: int) -> dict[str, int]:
        """The lengths of the axes that the parts declare with letters."""
        found = {}
        for name, family in self.parts.items():
            own = None if values is None else _shaped(family, values[name], leading)
            found |= {f"{name}.{axis}": length for axis, length in families.sizes(family, own, leading).items()}
        return found

    def widths(self, given: Any, leading: int) -> dict[str, int]:
        """The lengths of the axes that covariates determine."""
        parts: Mapping[str, Any] = self.parts
        own = {name: family.widths(given, leading) for name, family in parts.items() if hasattr(family, "widths")}
        return {f"{name}.{axis}": length for name, found in own.items() for axis, length in found.items()}

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        """The names along the axes that covariates determine."""
        own = {name: families.axis_labels(family, given, columns, leading) for name, family in self.parts.items()}
        return {f"{name}.{axis}": names for name, found in own.items() for axis, names in found.items()}


def _shaped(family: Any, x: Data, leading: int) -> Data:
    """The data of one part after ``leading`` axes: one column has an axis of its own where the family needs one."""

    def of(leaf: Any) -> Any:
        if leaf.shape[leading:] not in ((), (1,)) or family.event_ndim > 1 or len(leaf.shape) < leading:
            return leaf
        shape = leaf.shape[:leading] + (1,) * family.event_ndim
        if leaf.shape == shape:
            return leaf
        return (
            jax.ShapeDtypeStruct(shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.reshape(shape)
        )

    if isinstance(x, Dataset):
        return dataclasses.replace(x, values=_shaped(family, x.values, leading), observed=jax.tree.map(of, x.observed))
    return of(x) if hasattr(x, "shape") else x


def _total(terms: Parts) -> Any:
    return functools.reduce(operator.add, terms.values())


def _joined(columns: Parts) -> Array:
    """The columns of all parts side by side, in the widest floating dtype."""
    dtype = trees.float_dtype(columns)
    return jnp.concatenate([found.astype(dtype) for found in columns.values()], axis=1)
