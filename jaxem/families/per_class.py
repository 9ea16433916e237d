"""Classes whose distributions are of different families."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import parameters, trees
from jaxem.core.checks import instance
from jaxem.core.contexts import choose
from jaxem.core.data import Data, count
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Real
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family

Each = tuple[Any, ...]  # something of each class


@register
@dataclasses.dataclass(frozen=True)
class PerClass:
    r"""A family of its own for each class, all of them distributions of the same kind of observation.

    .. math:: \log p(x \mid k) = \log p_k(x), \qquad \text{M: the maximiser of each family under its own weights}

    The parameters are a tuple with those of each family, for one class. Every observation must lie in the support of
    all families. Classes cannot be renumbered.

    Arguments:
        families: the K families, such as ``(Normal(), StudentT())``; as many as the model has classes. They may
            have hidden variables of its own that other classes share.

    Raises:
        ValueError: ``families`` is no sequence of families, or they are distributions of other kinds of observations.

    Source: Zucchini, MacDonald & Langrock (2016), section 1.2, for states that differ in kind.
    """

    families: tuple[Family, ...]

    exchangeable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.families, tuple | list) or not self.families:
            raise ValueError(f"PerClass: families must be a sequence with one for each class; got {self.families!r}")
        for k, family in enumerate(self.families):
            needed = ("declare", "log_density", "statistics", "maximize", "expected")
            instance(f"PerClass: class {k}", family, "a family, such as Normal()", *needed)
        kinds = {family.event_ndim for family in self.families}
        if len(kinds) > 1:
            raise ValueError(f"PerClass: families of one observation share its axes; they have {sorted(kinds)}")
        object.__setattr__(self, "families", tuple(self.families))

    def _each(self, of: Callable[..., Any], *trees: Any) -> Each:
        """``of(family, ...)`` for each class, with its entry of each tree; an empty tree or ``None`` is passed on."""
        entry = lambda tree, k: tree[k] if isinstance(tree, tuple) and tree else tree
        return tuple(of(family, *(entry(tree, k) for tree in trees)) for k, family in enumerate(self.families))

    # What the families declare

    @property
    def event_ndim(self) -> int:
        """The number of axes of one observation."""
        return self.families[0].event_ndim

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return " and ".join(dict.fromkeys(family.support for family in self.families))

    @property
    def accurate(self) -> bool:
        """Whether the log-densities of all families are right to a few units in the last place."""
        return all(getattr(family, "accurate", False) for family in self.families)

    @property
    def separate(self) -> bool:
        """Each class has parameters of its own, but models that differ in K share no program."""
        return False

    @property
    def prior(self) -> Any:
        """The families that have a prior; ``None`` without one."""
        return tuple(family for family in self.families if families.has_prior(family)) or None

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data that all families can use."""
        everyone = [set(families.takes(family)) for family in self.families]
        given = ("given",) if any("given" in takes for takes in everyone) else ()
        seen = all("observed" in takes for takes in everyone) and self.event_ndim > 0
        return (*given, *(("observed",) if seen else ()))

    def declare(self) -> Each:
        return tuple(parameters.of_class(family.declare(), k) for k, family in enumerate(self.families))

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self.families)

    def _rows(self, x: Data) -> Each:
        """The observations as each family takes them."""
        return tuple(families.own(family, x) for family in self.families)

    # The density, and hidden variables of the families

    def prepare(self, params: Each, x: Data | None) -> Each:
        prepared = lambda family, own, rows: family.prepare(own, rows)
        return self._each(prepared, params, None if x is None else self._rows(x))

    def log_density(self, c: Each, x: Data) -> Array:
        return jnp.concatenate(self._each(observed.log_density, c, self._rows(x)), axis=1)

    def infer(self, c: Each, x: Data) -> tuple[Array, Any]:
        found = self._each(observed.infer, c, self._rows(x))
        hidden = tuple(own for _, own in found)
        return jnp.concatenate([density for density, _ in found], axis=1), hidden if jax.tree.leaves(hidden) else ()

    def hidden(self, c: Each, x: Data) -> Any:
        found = self._each(observed.hidden, c, self._rows(x))
        return found if jax.tree.leaves(found) else ()

    def complete(self, c: Each, hidden: Any, x: Data) -> Array:
        return jnp.concatenate(self._each(observed.complete, c, hidden, self._rows(x)), axis=1)

    def hidden_entropy(self, c: Each, hidden: Any, x: Data) -> Array:
        def of(family: Any, c: Any, u: Any, rows: Data) -> Array:
            if not jax.tree.leaves(u):
                return jnp.zeros((count(x), 1), trees.float_dtype(hidden))
            return observed.hidden_entropy(family, c, u, rows)

        return jnp.concatenate(self._each(of, c, hidden, self._rows(x)), axis=1)

    def hidden_divergence(self, hidden: Any, other: Any) -> Array:
        n, dtype = jax.tree.leaves(hidden)[0].shape[0], trees.float_dtype(hidden)
        none = jnp.zeros((n, 1), dtype)
        of = lambda family, u, v: families.hidden_divergence(family, u, v) if jax.tree.leaves(u) else none
        return jnp.concatenate(self._each(of, hidden, other), axis=1)

    # The M-step

    def _columns(self, r: Array) -> Each:
        """The weights (N, 1) of each class."""
        return tuple(r[:, k : k + 1] for k in range(self.classes))

    def statistics(self, c: Each | None, r: Array, hidden: Any, x: Data) -> Each:
        return self._each(observed.statistics, c, self._columns(r), hidden, self._rows(x))

    def maximize(self, c: Each | None, sums: Each) -> Each:
        return self._each(lambda family, c, sums: family.maximize(c, sums), c, sums)

    def expected(self, c: Each, params: Each, sums: Each) -> Array:
        of = lambda family, c, params, sums: family.expected(c, params, sums)
        return jnp.stack(self._each(of, c, params, sums)).sum()

    def log_prior(self, params: Each) -> Array | float:
        return sum(self._each(families.log_prior, params), start=0.0)

    def degenerate(self, params: Each) -> Array:
        return jnp.stack(self._each(families.degenerate, params)).any()

    def start(self, key: Array, r: Array, x: Data) -> Each:
        """A start of each family under the weights of its class."""

        def of(family: Any, key: Array, r: Array, rows: Data) -> Any:
            if hasattr(family, "start"):
                return family.start(key, r, rows)
            found = family.maximize(None, observed.statistics(family, None, r, (), rows))
            if not getattr(family, "centred", False):
                return found
            c = family.prepare(found, rows)  # sums about zero are accurate enough for the location only
            again = lambda c: observed.statistics(family, c, r, observed.hidden(family, c, rows), rows)
            return family.maximize(c, choose(c, again))

        return self._each(of, tuple(jax.random.split(key, self.classes)), self._columns(r), self._rows(x))

    # Observations

    def features(self, x: Data) -> Array:
        return observed.features(self.families[0], self._rows(x)[0])

    def supports(self, x: Data) -> Array:
        return jnp.stack(self._each(observed.supports, self._rows(x))).all(axis=0)

    def sample(self, key: Array, params: Each, labels: Array) -> Any:
        of = lambda family, key, own: family.sample(key, own, jnp.zeros_like(labels))
        return _chosen(labels, self._each(of, tuple(jax.random.split(key, self.classes)), params))

    def redraw(self, key: Array, params: Each, labels: Array, x: Data) -> Any:
        of = lambda family, key, own, rows: observed.redraw(family, key, own, jnp.zeros_like(labels), rows)
        keys = tuple(jax.random.split(key, self.classes))
        return _chosen(labels, self._each(of, keys, params, self._rows(x)))

    def impute(self, params: Each, r: Array, x: Data) -> Any:
        means = self._each(
            lambda family, r, own, rows: observed.impute(family, own, jnp.ones_like(r), rows),
            *(self._columns(r), params, self._rows(x)),
        )
        of = lambda *each: sum(r[:, k].reshape(-1, *(1,) * (m.ndim - 1)) * m for k, m in enumerate(each))
        return jax.tree.map(of, *means)

    def means(self, params: Each) -> list[tuple[Param, Array]]:
        """E x of each class; classes whose families have other means than numbers of one shape have none to print."""
        found = [array for pairs in self._each(families.means, params) for _, array in pairs]
        if len(found) != self.classes or len({array.shape for array in found}) > 1:
            raise ValueError("PerClass: the families have no means of one kind to print side by side")
        joined = jnp.concatenate(found)
        return [(Param.of(Real(), "K D" if joined.ndim == 2 else "K", location=True), joined)]

    # Checks

    def diagnose(self, x: Any, dtype: np.dtype) -> str | None:
        """Why no start can be made from the values ``x`` in this dtype; ``None`` where no reason is found."""
        return next((why for why in self._each(lambda f: families.diagnose(f, x, dtype)) if why is not None), None)

    def check_shape(self, x: Data, leading: tuple[str, ...], title: str) -> None:
        """Raise ``ValueError`` where the values do not have the shape that each family needs."""
        for k, family in enumerate(self.families):
            families.check_shape(family, families.own(family, x), leading, f"{title}: class {k}")

    def sizes(self, values: Any, leading: int) -> dict[str, int]:
        """The lengths of the axes that the families declare with letters."""
        found = {f"class {k}": 1 for k in range(self.classes)}
        for family in self.families:
            found |= families.sizes(family, values, leading)
        return found


def _chosen(labels: Array, each: Each) -> Any:
    """The entry of each row that its label names, from a tree of rows for each class."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[labels, jnp.arange(labels.shape[0])], *each)
