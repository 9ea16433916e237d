"""A model as a family: each class of an outer structure has a copy of the model of its own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.data import Data, values_of, with_weights
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.core.trees import float_dtype
from jaxem.models.copies import Copies, Vmapped
from jaxem.models.sequences import without_lengths


@register
@dataclasses.dataclass(frozen=True)
class Component:
    r"""A model with sums as a family of distributions, one copy for each class.

    .. math:: \log p(x \mid k) = \log \int p(x, u \mid \theta_k)\, du

    The hidden variables u of the model become hidden variables of the family. Three examples:
    ``Mixture(Component(FactorAnalysis(2)), k)`` is a mixture of factor analysers,
    ``HMM(Component(Mixture(Normal(), 3)), k)`` a hidden Markov model whose emissions are mixtures, and
    ``Mixture(Component(HMM(Poisson(), 2)), k)`` a mixture of hidden Markov models. The data are those of the model; for
    an outer HMM they have one more axis, of steps. The parameters are those of the model, each array with a new first
    axis (K,).

    Arguments:
        model: a ``Mixture``, an ``HMM`` or a ``FactorAnalysis``, or another model of rows
            (see ``jaxem.core.rows.FromRows``) with ``features``, ``supports`` and ``first``.

    Raises:
        ValueError: ``model`` lacks one of these functions.

    Source: Ghahramani & Hinton (1996) for factor analysers; Smyth (1997) for hidden Markov models.
    """

    model: Any

    def __post_init__(self) -> None:
        needed = ("declare", "prepare", "infer", "log_marginal", "complete", "entropy_rows", "divergence_rows", "sums")
        needed += ("maximum", "expected", "features", "supports", "first")
        lacks = [name for name in needed if not hasattr(self.model, name)]
        if lacks:
            raise ValueError(f"Component: {type(self.model).__name__} lacks {', '.join(lacks)}; see FromRows")

    @property
    def _copies(self) -> Copies:
        return self.model.copies() if hasattr(self.model, "copies") else Vmapped(self.model)

    @property
    def event_ndim(self) -> int:
        """The number of axes of one observation."""
        return self.model.event_ndim

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data that the model can use."""
        return getattr(self.model, "takes", ())

    @property
    def accurate(self) -> bool:
        """As for the model."""
        return getattr(self.model, "accurate", False)

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood of one copy is constant."""
        return getattr(self.model, "redundant", 0)

    @property
    def support(self) -> str:
        """A description of valid observations."""
        return getattr(getattr(self.model, "family", None), "support", "finite numbers")

    def declare(self) -> parameters.Declared:
        return parameters.nested(self.model.declare())

    def check_shape(self, values: Any, leading: tuple[str, ...], title: str) -> None:
        """Raise ``ValueError`` where the model cannot use such values."""
        if len(leading) > 1:  # the steps of all sequences, one after the other
            steps = without_lengths(values)
            values = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps))
        self.model.check_shapes(None, values)

    def sizes(self, values: Any, leading: int) -> dict[str, int]:
        """D, where the parameters have an axis of that name."""
        has_columns = any("D" in param.axes for param in parameters.leaves(self.declare()))
        return {"D": values.shape[-1]} if has_columns and hasattr(values, "shape") else {}

    def prepare(self, params: Params, x: Data | None) -> Any:
        return self._copies.prepare(params, x)

    def log_density(self, c: Any, x: Data) -> Array:
        return self._copies.log_density(c, x)

    def infer(self, c: Any, x: Data) -> tuple[Array, Any]:
        return self._copies.infer(c, x)

    def hidden(self, c: Any, x: Data) -> Any:
        return self._copies.infer(c, x)[1]

    def complete(self, c: Any, u: Any, x: Data) -> Array:
        return self._copies.complete(c, u, x)

    def hidden_entropy(self, c: Any, u: Any, x: Data) -> Array:
        return self._copies.entropy(c, u, x)

    def hidden_divergence(self, u: Any, v: Any) -> Array:
        return self._copies.divergence(u, v)

    def statistics(self, c: Any, r: Array, u: Any, x: Data) -> Any:
        return self._copies.statistics(c, r, u, x)

    def maximize(self, c: Any, sums: Any) -> Params:
        found = self._copies.maximize(c, sums)
        return jax.tree.unflatten(jax.tree.structure(self._like()), jax.tree.leaves(found))

    def _like(self) -> Any:
        return jax.tree.map(lambda _: 0, self.declare(), is_leaf=lambda node: isinstance(node, parameters.Param))

    def expected(self, c: Any, params: Params, sums: Any) -> Array:
        return self._copies.expected(c, params, sums)

    def start(self, key: Array, r: Array, x: Data) -> Params:
        """A start of each copy by the model itself, on the observations weighted by r (N, K)."""
        one = lambda key, w: self.model.first(key, with_weights(x, w), None, "kmeans++")[0]
        return jax.vmap(one, (0, 1))(jax.random.split(key, r.shape[1]), r)

    def log_prior(self, params: Params) -> Array | float:
        if not hasattr(self.model, "log_prior"):
            return 0.0
        dtype = float_dtype(params)
        return jax.vmap(lambda params: jnp.asarray(self.model.log_prior(params), dtype))(params).sum()

    def degenerate(self, params: Params) -> Array:
        return jax.vmap(self.model.degenerate)(params).any()

    def features(self, x: Data) -> Array:
        return self.model.features(x)

    def supports(self, x: Data) -> Array:
        return self.model.supports(x)

    def impute(self, params: Params, r: Array, x: Data) -> Any:
        each = jax.vmap(lambda params: self.model.impute(params, x))(params)  # (K, N, ...)
        weighted = lambda leaf: (r.T.reshape(*r.T.shape, *(1,) * (leaf.ndim - 2)) * leaf).sum(axis=0)
        return jax.tree.map(weighted, each)

    def redraw(self, key: Array, params: Params, labels: Array, x: Data) -> Any:
        return self._of_labels(lambda key, params: self.model.impute(params, x, key), key, params, labels)

    def sample(self, key: Array, params: Params, labels: Array) -> Any:
        return self._of_labels(lambda key, params: self.model.sample(key, params, labels.shape[0]), key, params, labels)

    def sample_like(self, key: Array, params: Params, labels: Array, x: Data) -> Any:
        """As ``sample``, of the same lengths and with the same missing cells as x."""
        if not hasattr(self.model, "sample_like"):
            return (
                dataclasses.replace(x, values=self.sample(key, params, labels))
                if x is not values_of(x)
                else (self.sample(key, params, labels))
            )
        return self._of_labels(lambda key, params: self.model.sample_like(key, params, x), key, params, labels)

    def _of_labels(self, one: Any, key: Array, params: Params, labels: Array) -> Any:
        """For each row what ``one(key, params)`` returns for the copy that its label names."""
        copies = jax.tree.leaves(params)[0].shape[0]
        each = jax.vmap(one)(jax.random.split(key, copies), params)  # (K, N, ...)
        return jax.tree.map(lambda leaf: leaf[labels, jnp.arange(labels.shape[0])], each)
