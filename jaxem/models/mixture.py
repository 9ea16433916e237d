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
from jaxem.core.contexts import choose
from jaxem.core.conversion import as_params, check_shapes
from jaxem.core.data import Data, check_counts, count, counted, split_weights, with_values
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import weighted
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.latent.classes import Responsibilities, expected, log_probability, log_times
from jaxem.models import observations
from jaxem.models.classes import ClassModel
from jaxem.models.copies import Copies, MergedMixtures, MixtureSums, Vmapped
from jaxem.models.masked import Maskable
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class MixtureParams(NamedTuple):
    """The parameters of a mixture."""

    weights: Array  # (K,), non-negative, sum to one
    components: Any  # the parameters of the family, for K classes


@register
@dataclasses.dataclass(frozen=True)
class Mixture(ClassModel, Maskable):
    r"""A mixture of ``k`` components of one family.

    .. math:: \text{E: } r_{nk} \propto w_k\, p(x_n \mid \theta_k), \qquad
              \text{M: } w_k = n_k / N,\; n_k = \textstyle\sum_n r_{nk},\;
              \theta_k \text{ the family's maximiser under weights } r_{nk}

    The data are an array (N, ...), with or without weights (see ``jaxem.dataset``). The posterior q is a
    ``Responsibilities``; the parameters are a ``MixtureParams``.

    Arguments:
        family: the distribution of an observation given its component, such as ``Normal()``.
        k: the number of components, at least 1.

    Raises:
        ValueError: ``family`` is not a family, or ``k`` is not a whole number of at least 1.

    Source: McLachlan & Peel (2000), chapter 2.
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        observations.check_definition(self)

    @property
    def accurate(self) -> bool:
        """Whether log-densities are right to a few units in the last place, as declared by the family."""
        return getattr(self.family, "accurate", False)

    def declare(self) -> MixtureParams:
        weights = Param.of(Simplex(), "K")
        return MixtureParams(weights, self.family.declare())  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MixtureParams, x: Data | None) -> MixtureParams:
        """The weights and the context of the family."""
        return params._replace(components=self.family.prepare(params.components, x))

    def table(self, c: MixtureParams, x: Data) -> Array:
        """log w_k + log p(x_n | component k), (N, K)."""
        return log_probability(c.weights)[None, :] + observed.log_density(
            self.family, c.components, real(x, c.weights.dtype)
        )

    def log_marginal(self, c: MixtureParams, x: Data) -> Array:
        """log sum_k w_k p(x_n | k), (N,).

        The sum is linear in the weights, so that the derivative in a weight of zero is right too.
        """
        w = c.weights[None, :]
        log_b = observed.log_density(self.family, c.components, real(x, w.dtype))
        log_w, known = jax.lax.stop_gradient(jnp.log(w)), log_b != -jnp.inf
        top = jax.lax.stop_gradient((log_w + log_b).max(axis=-1))
        top = jnp.where(jnp.isfinite(top), top, 0)
        # A class of weight zero may fit an observation far better than all others do. The derivative in that weight
        # is capped at half the range of the exponents, so that nothing overflows.
        limit = jnp.maximum(jnp.where(w > 0, -log_w, 0), math.log(float(jnp.finfo(log_b.dtype).max)) / 2)
        ratio = jnp.exp(jnp.minimum(jnp.where(known, log_b, 0) - top[:, None], limit))
        return top + jnp.log((w * jnp.where(known, ratio, 0)).sum(axis=-1))

    def joint(self, c: MixtureParams, x: Data) -> tuple[Array, Any]:
        """The table of an E-step, and the posterior of the family's own hidden variables."""
        density, hidden = observed.infer(self.family, c.components, real(x, c.weights.dtype))
        return log_probability(c.weights)[None, :] + density, hidden

    def complete(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """sum_k r_nk (log w_k + E log p(x_n, u_n | k)), (N,)."""
        density = observed.complete(self.family, c.components, q.hidden, real(x, c.weights.dtype))
        return expected(q.probabilities, log_probability(c.weights)[None, :] + density)

    def entropy_rows(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """-sum_k r_nk log r_nk + sum_k r_nk (entropy of the family's own hidden variables given class k), (N,)."""
        of_classes = super().entropy_rows(c, q, x)
        if not jax.tree.leaves(q.hidden):
            return of_classes
        own = observed.hidden_entropy(self.family, c.components, q.hidden, real(x, c.weights.dtype))
        return of_classes + expected(q.probabilities, own)

    def divergence_rows(self, q: Responsibilities, p: Responsibilities) -> Array:
        """KL(q || p) of each observation, (N,), for the classes and the family's own hidden variables given them."""
        of_classes = super().divergence_rows(q, p)
        if not jax.tree.leaves(q.hidden):
            return of_classes
        return of_classes + expected(q.probabilities, families.hidden_divergence(self.family, q.hidden, p.hidden))

    def sums(self, c: MixtureParams | None, w: Array | None, q: Responsibilities, x: Data) -> MixtureSums:
        """Class sizes and the family's sums, weighted by responsibilities times observation weights ``w (N,)``."""
        r = weighted(q.probabilities, w)
        return MixtureSums(
            r.sum(axis=0), observed.statistics(self.family, c and c.components, r, q.hidden, real(x, r.dtype))
        )

    def maximum(self, c: MixtureParams | None, sums: MixtureSums) -> MixtureParams:
        """w_k = n_k / N, and the family's maximiser for each class."""
        n = sums.sizes
        return MixtureParams(n / n.sum(), self.family.maximize(c and c.components, sums.components))

    def expected(self, c: MixtureParams, params: MixtureParams, sums: MixtureSums) -> Array:
        """Q from the sums: sum_k n_k log w_k plus the family's part, up to a constant."""
        own = self.family.expected(c.components, params.components, sums.components)
        return log_times(sums.sizes, params.weights).sum() + own

    def log_prior(self, params: MixtureParams) -> Array | float:
        """The log-prior of the family; the prior of the weights is flat."""
        return families.log_prior(self.family, params.components)

    def degenerate(self, params: MixtureParams) -> Array:
        """Whether a component is empty or has collapsed.

        A component is empty where its weight is below eps^2: among 1 / eps observations that is less than eps of one.
        A weight of exactly zero counts as empty too: it is not kept as structure. Use fewer components.
        """
        empty = (params.weights < jnp.finfo(params.weights.dtype).eps ** 2).any()
        return empty | families.degenerate(self.family, params.components)

    def coincide(self, params: MixtureParams) -> Array:
        """Whether every class equals another one, so that EM cannot separate them."""
        return families.coincide(self.family, params.components)

    def class_means(self, params: MixtureParams) -> list[tuple[Param, Array]]:
        """E x given each component: arrays with an axis of components, each with its declaration."""
        return families.means(self.family, params.components)

    def permute(self, params: MixtureParams, order: Array) -> MixtureParams:
        """The same mixture with its components renumbered.

        Arguments:
            params: parameters of the mixture.
            order: a permutation (K,); component ``order[k]`` becomes component k.

        Returns:
            Parameters of the same shapes.
        """
        return parameters.permuted(self.declare(), params, order)

    def label_keys(self, params: MixtureParams) -> Array:
        """The location of each component, (K, F), by which components are sorted."""
        return parameters.locations(self.declare(), params)

    def init(self, key: Array, data: Data, start: Start = "kmeans++") -> MixtureParams:
        """Parameters to start a fit from: one M-step on random or given class probabilities.

        Arguments:
            key: a random key.
            data: N observations, with or without weights.
            start: ``"kmeans++"`` (default): seeds among the observations, far from each other; each observation goes
                mostly to the nearest seed. ``"points"``: seeds drawn evenly among the observations.
                ``"responsibilities"``: class probabilities drawn evenly from the simplex. Or given classes (N,), whole
                numbers from 0 to K - 1, or given class probabilities (N, K).

        Returns:
            A ``MixtureParams``.

        Raises:
            ValueError: ``key`` is not a random key; the data do not fit the model, or no start can be made from them
                (a constant column, for example); ``start`` is none of the above, has the wrong shape, or leaves a
                class without observations. Values that are traced are not checked.

        Source: Arthur & Vassilvitskii (2007) for k-means++.
        """
        prng_key("Mixture.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        name, given = read_start(start, self.k, (count(data),), float_dtype(data))
        params, sound = _init(self, key, data, given, name)
        check_sound(sound, self, data)
        return params

    def first(
        self, key: Array, data: Data, given: Array | None, start: str, active: Array | None = None
    ) -> tuple[MixtureParams, Array]:
        """A start, and whether it is sound; ``active (K,)``: the classes that take part."""
        x, weights = counted(data)
        dtype = float_dtype(x)
        x = real(x, dtype)
        of_data = key, self.family, x, weights, self.k, start, given, dtype, active
        params = MixtureParams(*start_components(*of_data))
        return params, is_sound(self.family, params.components, x)

    def diagnose(self, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        blame(self.family, x, None if weights is None else weights > 0)

    def sample(self, key: Array, params: MixtureParams, n: int) -> Array:
        """Observations drawn from the mixture.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Observations (n, ...).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, or the parameters do
                not fit the model.
        """
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self, key: Array, params: MixtureParams, n: int) -> tuple[Array, Array]:
        """Classes and observations drawn from the mixture.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Classes (n,) and their observations (n, ...).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("Mixture.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        label_key, x_key = jax.random.split(key)
        shape = (whole_number("Mixture.sample: n", n, 0),)
        labels = jax.random.categorical(label_key, jnp.log(params.weights), shape=shape)
        return labels, self.family.sample(x_key, params.components, labels)

    def sample_like(self, key: Array, params: MixtureParams, data: Data) -> Data:
        """As many observations as ``data`` hold, drawn from the mixture, with the same lengths and missing cells.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            data: N observations, of which only shapes, lengths and missing cells are used.

        Returns:
            Observations (N, ...), or a ``Dataset`` where ``data`` have lengths or missing cells. Weights are left out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data)
        check_shapes(self, None, data)
        x, n = split_weights(data)[0], count(data)
        if not hasattr(self.family, "sample_like"):
            return with_values(x, self.sample(key, params, n))
        params = as_params(self, params)
        label_key, x_key = jax.random.split(key)
        labels = jax.random.categorical(label_key, jnp.log(params.weights), shape=(n,))
        family: Any = self.family
        return family.sample_like(x_key, params.components, labels, x)

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant whatever the data."""
        return self.k * getattr(self.family, "redundant", 0)

    @property
    def event_ndim(self) -> int:
        """The number of axes of one observation."""
        return self.family.event_ndim

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        return families.takes(self.family)

    def features(self, x: Data) -> Array:
        """Real numbers (N, F), close together where observations are alike; used by starts."""
        return observed.features(self.family, x)

    def supports(self, x: Data) -> Array:
        """(N,), whether each observation lies in the support."""
        return observed.supports(self.family, x)

    def copies(self) -> Copies:
        """Many such mixtures at once."""
        declared = parameters.leaves(self.declare())
        flat = all(param.axes[:1] == ("K",) and "K" not in param.axes[1:] for param in declared)
        return MergedMixtures(self.family, self.k) if flat else Vmapped(self)

    def impute(self, params: MixtureParams, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``."""
        return _impute(self, params, split_weights(data)[0], key)

    def check_shapes(self, params: MixtureParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        observations.check(self, params, data, ("N",))

    def validate(self, params: MixtureParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, weights = split_weights(data)
        observations.check_enough(self, count(x))
        observations.check_support(self.family, x, None if weights is None else weights != 0)

    def allows(self, params: MixtureParams, data: Data) -> Array:
        """Whether every observation of nonzero weight lies in the support, (); for traced values."""
        x, weights = split_weights(data)
        return observations.supported(self.family, x, None if weights is None else weights != 0).all()


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Mixture, key: Array, data: Data, given: Array | None, start: str) -> tuple[MixtureParams, Array]:
    return model.first(key, data, given, start)


@program
def _impute(model: Mixture, params: MixtureParams, x: Data, key: Array | None) -> Any:
    x = real(x, params.weights.dtype)
    q = choose(model.prepare(params, x), lambda c: ClassModel.infer(model, c, x))
    return observed.impute(model.family, params.components, q.probabilities, x, key)
