"""Many copies of one model at once, each with parameters of its own: what ``Component`` is made of.

In all functions a context or an array of parameters has a leading axis of K copies, a posterior u has an axis of copies
after that of the N rows, and tables are (N, K).
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent import classes
from jaxem.latent.classes import Responsibilities, expected, log_probability, log_times
from jaxem.models.observations import real


class Copies(Protocol):
    """The functions of a family, for K copies of a model."""

    def prepare(self, params: Params, x: Data | None) -> Any: ...
    def infer(self, c: Any, x: Data) -> tuple[Array, Any]: ...
    def log_density(self, c: Any, x: Data) -> Array: ...
    def complete(self, c: Any, u: Any, x: Data) -> Array: ...
    def entropy(self, c: Any, u: Any, x: Data) -> Array: ...
    def divergence(self, u: Any, v: Any) -> Array: ...
    def statistics(self, c: Any, r: Array, u: Any, x: Data) -> Any: ...
    def maximize(self, c: Any, sums: Any) -> Params: ...
    def expected(self, c: Any, params: Params, sums: Any) -> Array: ...


@register
@dataclasses.dataclass(frozen=True)
class Vmapped:
    """Copies of any model: ``vmap`` over the axis of copies of each function of rows, and nothing else."""

    model: Any

    def prepare(self, params: Params, x: Data | None) -> Any:
        return jax.vmap(lambda params: self.model.prepare(params, x))(params)

    def infer(self, c: Any, x: Data) -> tuple[Array, Any]:
        u = jax.vmap(self.model.infer, (0, None), 1)(c, x)
        return u.log_normalizer, u

    def log_density(self, c: Any, x: Data) -> Array:
        return jax.vmap(self.model.log_marginal, (0, None), 1)(c, x)

    def complete(self, c: Any, u: Any, x: Data) -> Array:
        return jax.vmap(self.model.complete, (0, 1, None), 1)(c, u, x)

    def entropy(self, c: Any, u: Any, x: Data) -> Array:
        return jax.vmap(self.model.entropy_rows, (0, 1, None), 1)(c, u, x)

    def divergence(self, u: Any, v: Any) -> Array:
        return jax.vmap(self.model.divergence_rows, (1, 1), 1)(u, v)

    def statistics(self, c: Any, r: Array, u: Any, x: Data) -> Any:
        return jax.vmap(self.model.sums, (0, 1, 1, None))(c, r, u, x)

    def maximize(self, c: Any, sums: Any) -> Params:
        return jax.vmap(self.model.maximum)(c, sums)

    def expected(self, c: Any, params: Params, sums: Any) -> Array:
        return jax.vmap(self.model.expected)(c, params, sums).sum()


class MixtureSums(NamedTuple):
    """The sums over observations that the M-step of mixtures needs."""

    gate: Any  # the sums of the gate; of constant weights (K,), n_k = sum_n r_nk; of K mixtures of J classes (K, J)
    components: Any  # the sums of the family


class Merged(NamedTuple):
    """The context of K mixtures."""

    weights: Array  # (K, J)
    components: Any  # the context of the family, for K J classes


@register
@dataclasses.dataclass(frozen=True)
class MergedMixtures:
    """Copies of a mixture of ``j`` classes: the K J classes of all of them are those of one family, computed together.

    Each array of the family's parameters must have a row for each class.
    """

    family: Family
    j: int = dataclasses.field(metadata={"static": True})

    def _flat(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

    def _table(self, values: Array) -> Array:
        """(N, K J) as (N, K, J)."""
        return jnp.moveaxis(self._columns(values), 2, 0)

    def _columns(self, values: Array) -> Array:
        """(N, K J) as (K, J, N), with observations in columns."""
        return values.T.reshape(-1, self.j, values.shape[0])

    def prepare(self, params: Any, x: Data | None) -> Merged:
        return Merged(params.weights, self.family.prepare(self._flat(params.components), x))

    def infer(self, c: Merged, x: Data) -> tuple[Array, Responsibilities]:
        density, own = observed.infer(self.family, c.components, real(x, c.weights.dtype))
        found, normalizer = classes.normalized(log_probability(c.weights)[:, :, None] + self._columns(density))
        return normalizer.T, Responsibilities(jnp.moveaxis(found, 2, 0), normalizer.T, own)

    def log_density(self, c: Merged, x: Data) -> Array:
        density = observed.log_density(self.family, c.components, real(x, c.weights.dtype))
        return jax.nn.logsumexp(log_probability(c.weights)[None] + self._table(density), axis=2)

    def complete(self, c: Merged, u: Responsibilities, x: Data) -> Array:
        density = observed.complete(self.family, c.components, u.hidden, real(x, c.weights.dtype))
        return expected(u.probabilities, log_probability(c.weights)[None] + self._table(density))

    def entropy(self, c: Merged, u: Responsibilities, x: Data) -> Array:
        of_classes = classes.entropy(u.probabilities)
        if not jax.tree.leaves(u.hidden):
            return of_classes
        own = observed.hidden_entropy(self.family, c.components, u.hidden, real(x, c.weights.dtype))
        return of_classes + expected(u.probabilities, self._table(own))

    def divergence(self, u: Responsibilities, v: Responsibilities) -> Array:
        of_classes = classes.divergence(u.probabilities, v.probabilities)
        if not jax.tree.leaves(u.hidden):
            return of_classes
        own = families.hidden_divergence(self.family, u.hidden, v.hidden)
        return of_classes + expected(u.probabilities, self._table(own))

    def statistics(self, c: Merged, r: Array, u: Responsibilities, x: Data) -> MixtureSums:
        r, n = r.T[:, None, :], r.shape[0]
        each = jnp.where(r == 0, 0, r * jnp.moveaxis(u.probabilities, 0, 2))  # (K, J, N)
        of_data = each.reshape(-1, n).T, u.hidden, real(x, r.dtype)
        return MixtureSums(each.sum(axis=2), observed.statistics(self.family, c.components, *of_data))

    def maximize(self, c: Merged, sums: MixtureSums) -> Any:
        components = self.family.maximize(c.components, sums.components)
        k = c.weights.shape[0]
        nested = jax.tree.map(lambda leaf: leaf.reshape(k, self.j, *leaf.shape[1:]), components)
        return sums.gate / sums.gate.sum(axis=1, keepdims=True), nested

    def expected(self, c: Merged, params: Any, sums: MixtureSums) -> Array:
        own = self.family.expected(c.components, self._flat(params.components), sums.components)
        return log_times(sums.gate, params.weights).sum() + own
