"""Finite mixtures: p(x | params) = sum_k weight_k p(x | component k)."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.constraints import Simplex
from jaxem.core.conversion import as_params, check_shapes
from jaxem.core.data import Data, check_counts, count, counted, split_weights
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import weighted
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent.classes import Responsibilities, expected, log_probability, log_times
from jaxem.models import observations
from jaxem.models.classes import ClassModel
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class MixtureParams(NamedTuple):
    weights: Array  # (K,), sum to one
    components: Any  # the family's own, for K classes


class MixtureSums(NamedTuple):
    sizes: Array  # (K,), n_k = sum_n r_nk
    components: Any  # the family's own


@register
@dataclasses.dataclass(frozen=True)
class Mixture(ClassModel):
    r"""A mixture of ``k`` components of one family.

    .. math:: \text{E: } r_{nk} \propto w_k\, p(x_n \mid \theta_k), \qquad
              \text{M: } w_k = n_k / N,\; n_k = \textstyle\sum_n r_{nk},\;
              \theta_k \text{ the family's maximiser under weights } r_{nk}

    Data: an array ``(N, ...)``, with weights or without; q: ``Responsibilities``. McLachlan & Peel (2000), chapter 2.
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        observations.check_definition(self)

    @property
    def accurate(self) -> bool:
        """Whether log-densities are known to a few units in the last place: as the family says of its own."""
        return getattr(self.family, "accurate", False)

    def declare(self) -> MixtureParams:
        weights = Param.of(Simplex(), "K")
        return MixtureParams(weights, self.family.declare())  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MixtureParams, x: Data | None) -> MixtureParams:
        """The weights, and the family's context."""
        return params._replace(components=self.family.prepare(params.components, 0 if x is None else count(x)))

    def table(self, c: MixtureParams, x: Data) -> Array:
        """log w_k + log p(x_n | component k), (N, K)."""
        return log_probability(c.weights)[None, :] + self.family.log_density(c.components, real(x, c.weights.dtype))

    def log_marginal(self, c: MixtureParams, x: Data) -> Array:
        """log sum_k w_k p(x_n | k), (N,), linear in the weights: so its derivative in one that is zero is right too."""
        w = c.weights[None, :]
        log_b = self.family.log_density(c.components, real(x, w.dtype))
        log_w, known = jax.lax.stop_gradient(jnp.log(w)), log_b != -jnp.inf
        top = jax.lax.stop_gradient((log_w + log_b).max(axis=-1))
        top = jnp.where(jnp.isfinite(top), top, 0)
        # Without its class an observation may be far less likely: the derivative in a weight of zero ends at half of
        # the exponents, so that nothing overflows.
        limit = jnp.maximum(jnp.where(w > 0, -log_w, 0), math.log(float(jnp.finfo(log_b.dtype).max)) / 2)
        ratio = jnp.exp(jnp.minimum(jnp.where(known, log_b, 0) - top[:, None], limit))
        return top + jnp.log((w * jnp.where(known, ratio, 0)).sum(axis=-1))

    def infer(self, c: MixtureParams, x: Data) -> Responsibilities:
        """Bayes' rule for each observation, and the family's own hidden variables."""
        hidden = families.hidden(self.family, c.components, real(x, c.weights.dtype))
        return super().infer(c, x)._replace(hidden=hidden)

    def complete(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """sum_k r_nk (log w_k + E log p(x_n, u_n | k)), (N,)."""
        density = families.complete(self.family, c.components, q.hidden, real(x, c.weights.dtype))
        return expected(q.probabilities, log_probability(c.weights)[None, :] + density)

    def entropy_rows(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """-sum_k r_nk log r_nk, and r_nk times the entropy of the family's own hidden variables, (N,)."""
        of_classes = super().entropy_rows(c, q, x)
        if not families.has_hidden(self.family):
            return of_classes
        own = families.hidden_entropy(self.family, c.components, q.hidden, real(x, c.weights.dtype))
        return of_classes + expected(q.probabilities, own)

    def divergence_rows(self, q: Responsibilities, p: Responsibilities) -> Array:
        """KL(q || p) of each observation, (N,): of classes, and of the family's own hidden variables given those."""
        of_classes = super().divergence_rows(q, p)
        if not families.has_hidden(self.family):
            return of_classes
        return of_classes + expected(q.probabilities, families.hidden_divergence(self.family, q.hidden, p.hidden))

    def sums(self, c: MixtureParams | None, w: Array | None, q: Responsibilities, x: Data) -> MixtureSums:
        """Class sizes and the family's sums, under responsibilities times observation weights."""
        r = weighted(q.probabilities, w)
        return MixtureSums(r.sum(axis=0), self.family.statistics(c and c.components, r, q.hidden, real(x, r.dtype)))

    def maximum(self, c: MixtureParams | None, sums: MixtureSums) -> MixtureParams:
        """w_k = n_k / N, and the family's maximiser for each class."""
        n = sums.sizes
        return MixtureParams(n / n.sum(), self.family.maximize(c and c.components, sums.components))

    def expected(self, c: MixtureParams, params: MixtureParams, sums: MixtureSums) -> Array:
        """Q from the sums: sum_k n_k log w_k and the family's, up to a constant."""
        own = self.family.expected(c.components, params.components, sums.components)
        return log_times(sums.sizes, params.weights).sum() + own

    def log_prior(self, params: MixtureParams) -> Array | float:
        """The family's; flat on the weights."""
        return families.log_prior(self.family, params.components)

    def degenerate(self, params: MixtureParams) -> Array:
        """Whether a component is empty (a weight below eps^2: less than eps of one among 1 / eps observations) or
        has collapsed. A weight of exactly zero is no structure to be kept, but a component too many: use fewer."""
        empty = (params.weights < jnp.finfo(params.weights.dtype).eps ** 2).any()
        return empty | families.degenerate(self.family, params.components)

    def coincide(self, params: MixtureParams) -> Array:
        """Whether every class is the same as another: then EM cannot part them."""
        return families.coincide(self.family, params.components)

    def permute(self, params: MixtureParams, order: Array) -> MixtureParams:
        """The same mixture, in which component ``order[k]`` is called k."""
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: MixtureParams) -> Array:
        """What components are sorted by, (K, F): where each lies."""
        return parameters.locations(self.declare(), params)

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> MixtureParams:
        """A random start, ``"kmeans++"``, ``"points"`` or ``"responsibilities"`` (see ``models/starts.py``); or the
        M-step on given classes (N,) or probabilities of classes (N, K)."""
        prng_key("Mixture.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self._check_values(data)
        name, given = read_start(start, self.k, (count(data),), float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def diagnose(self, data: Data) -> None:
        """Raise ``ValueError`` where no start can be made from the data, with what to do."""
        x, weights = split_weights(data)
        blame(self.family, x, None if weights is None else weights > 0)

    def sample(self, key: Array, params: MixtureParams, n: int) -> Array:
        """``n`` observations."""
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self, key: Array, params: MixtureParams, n: int) -> tuple[Array, Array]:
        """``n`` labels and their observations."""
        prng_key("Mixture.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        label_key, x_key = jax.random.split(key)
        shape = (whole_number("Mixture.sample: n", n, 0),)
        labels = jax.random.categorical(label_key, jnp.log(params.weights), shape=shape)
        return labels, self.family.sample(x_key, params.components, labels)

    def check_shapes(self, params: MixtureParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters and data (or of one alone) do not fit the model."""
        x = None if data is None else observations.values_of(self, data)
        if x is not None:
            observations.check_shape(self, x, ("N",))
        if params is not None:
            observations.check_params(self, params, x, 1)

    def validate(self, params: MixtureParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self._check_values(data)

    def _check_values(self, data: Data) -> None:
        check_counts(data)
        x, weights = split_weights(data)
        observations.check_enough(self, x.shape[0])
        observations.check_support(self.family, x, None if weights is None else weights != 0)

    def allows(self, params: MixtureParams, data: Data) -> Array:
        """Whether every observation that counts is possible, for values that are traced."""
        x, weights = split_weights(data)
        return observations.supported(self.family, x, None if weights is None else weights != 0).all()


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Mixture, key: Array, data: Data, given: Array | None, start: str) -> tuple[MixtureParams, Array]:
    x, weights = counted(data)
    dtype = float_dtype(x)
    x = real(x, dtype)
    params = MixtureParams(*start_components(key, model.family, x, weights, model.k, start, given, dtype))
    return params, is_sound(model.family, params.components, x)
