"""Finite mixtures: p(x | params) = sum_k weight_k p(x | component k); weights may depend on covariates."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters, trees
from jaxem.core.checks import instance, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit, as_params, check_shapes, names_of, of_fit
from jaxem.core.data import (
    Columns,
    Data,
    Dataset,
    check_counts,
    count,
    counted,
    plain,
    split_weights,
    values_of,
    with_values,
)
from jaxem.core.dataset import arrays_of, as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import weighted
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.families.protocol import Family
from jaxem.gates import protocol as gates
from jaxem.gates.constant import Constant
from jaxem.latent.classes import Responsibilities, expected
from jaxem.models import observations
from jaxem.models.classes import ClassModel
from jaxem.models.copies import Copies, MergedMixtures, MixtureSums, Vmapped
from jaxem.models.masked import Maskable
from jaxem.models.mixture_distribution import Distribution
from jaxem.models.observations import real
from jaxem.models.starts import Start, blame, check_sound, is_sound, read_start, start_components


class MixtureParams(NamedTuple):
    """The parameters of a mixture."""

    weights: Any  # the parameters of the gate; of Constant (K,), non-negative, sum to one
    components: Any  # the parameters of the family, for K classes


@register
@dataclasses.dataclass(frozen=True)
class Mixture(ClassModel, Maskable, Distribution):
    r"""A mixture of ``k`` components of one family.

    .. math:: \text{E: } r_{nk} \propto w_k\, p(x_n \mid \theta_k), \qquad
              \text{M: } w_k = n_k / N,\; n_k = \textstyle\sum_n r_{nk},\;
              \theta_k \text{ the family's maximiser under weights } r_{nk}

    With a gate on covariates u_n (mixtures of experts, latent classes with covariates), w_k is w_k(u_n).

    The data are an array (N, ...), with or without weights (see ``jaxem.dataset``). The posterior q is a
    ``Responsibilities``; the parameters are a ``MixtureParams``.

    Arguments:
        family: the distribution of an observation given its component, such as ``Normal()``.
        k: the number of components, at least 1.
        gate: the distribution of the component: ``Constant()`` (default), or ``Softmax()`` of the covariates ``given``.

    Raises:
        ValueError: ``family`` is not a family, ``gate`` not a gate, or ``k`` is not a whole number of at least 1.

    Source: McLachlan & Peel (2000), chapter 2; Dayton & Macready (1988) for gates on covariates.
    """

    family: Family
    k: int = dataclasses.field(metadata={"static": True})
    gate: Any = Constant()

    def __post_init__(self) -> None:
        observations.check_definition(self)
        instance("Mixture: gate", self.gate, "a gate, such as Softmax()", "declare", "log_prob", "statistics")

    @property
    def accurate(self) -> bool:
        """Whether log-densities are right to a few units in the last place, as declared by the family."""
        return getattr(self.family, "accurate", False)

    def declare(self) -> MixtureParams:
        return MixtureParams(self.gate.declare(), self.family.declare())

    def prepare(self, params: MixtureParams, x: Data | None) -> MixtureParams:
        """The contexts of the gate and of the family."""
        own = None if x is None else self._own(x)
        return MixtureParams(self.gate.prepare(params.weights, x), self.family.prepare(params.components, own))

    def _own(self, x: Data) -> Data:
        """The observations as the family takes them: covariates that only the gate uses are left out."""
        if not isinstance(x, Dataset) or x.given is None or "given" in families.takes(self.family):
            return x
        return plain(dataclasses.replace(x, given=None))

    def _parts(self, c: MixtureParams, x: Data) -> tuple[Data, Data]:
        """The observations as the gate and as the family take them, real numbers of the parameters' dtype."""
        x = real(x, float_dtype(c))
        return x, self._own(x)

    def table(self, c: MixtureParams, x: Data) -> Array:
        """log w_k + log p(x_n | component k), (N, K)."""
        x, own = self._parts(c, x)
        return self.gate.log_prob(c.weights, x) + observed.log_density(self.family, c.components, own)

    def log_marginal(self, c: MixtureParams, x: Data) -> Array:
        """log sum_k w_k p(x_n | k), (N,).

        With constant weights the sum is linear in them, so that the derivative in a weight of zero is right too.
        """
        if not self.gate.homogeneous:
            return jax.nn.logsumexp(self.table(c, x), axis=1)
        log_b = observed.log_density(self.family, c.components, self._parts(c, x)[1])
        w = self.gate.probability(c.weights)[None, :].astype(log_b.dtype)
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
        x, own = self._parts(c, x)
        density, hidden = observed.infer(self.family, c.components, own)
        return self.gate.log_prob(c.weights, x) + density, hidden

    def complete(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """sum_k r_nk (log w_k + E log p(x_n, u_n | k)), (N,)."""
        x, own = self._parts(c, x)
        density = observed.complete(self.family, c.components, q.hidden, own)
        return expected(q.probabilities, self.gate.log_prob(c.weights, x) + density)

    def entropy_rows(self, c: MixtureParams, q: Responsibilities, x: Data) -> Array:
        """-sum_k r_nk log r_nk + sum_k r_nk (entropy of the family's own hidden variables given class k), (N,)."""
        of_classes = super().entropy_rows(c, q, x)
        if not jax.tree.leaves(q.hidden):
            return of_classes
        own = observed.hidden_entropy(self.family, c.components, q.hidden, self._parts(c, x)[1])
        return of_classes + expected(q.probabilities, own)

    def divergence_rows(self, q: Responsibilities, p: Responsibilities) -> Array:
        """KL(q || p) of each observation, (N,), for the classes and the family's own hidden variables given them."""
        of_classes = super().divergence_rows(q, p)
        if not jax.tree.leaves(q.hidden):
            return of_classes
        return of_classes + expected(q.probabilities, families.hidden_divergence(self.family, q.hidden, p.hidden))

    def sums(self, c: MixtureParams | None, w: Array | None, q: Responsibilities, x: Data) -> MixtureSums:
        """The gate's and the family's sums, weighted by responsibilities times observation weights ``w (N,)``."""
        r = weighted(q.probabilities, w)
        x = real(x, r.dtype)
        gate, components = (None, None) if c is None else c
        of_family = observed.statistics(self.family, components, r, q.hidden, self._own(x))
        return MixtureSums(self.gate.statistics(gate, r, x), of_family)

    def maximum(self, c: MixtureParams | None, sums: MixtureSums) -> MixtureParams:
        """w_k = n_k / N, or a step of the gate, and the family's maximiser for each class."""
        gate, components = (None, None) if c is None else c
        return MixtureParams(self.gate.maximize(gate, sums.gate), self.family.maximize(components, sums.components))

    def expected(self, c: MixtureParams, params: MixtureParams, sums: MixtureSums) -> Array:
        """Q from the sums: sum_k n_k log w_k plus the family's part, up to a constant."""
        own = self.family.expected(c.components, params.components, sums.components)
        return self.gate.expected(c.weights, params.weights, sums.gate) + own

    def log_prior(self, params: MixtureParams) -> Array | float:
        """The log-priors of the gate and the family; without one a prior is flat."""
        return gates.log_prior(self.gate, params.weights) + families.log_prior(self.family, params.components)

    def degenerate(self, params: MixtureParams) -> Array:
        """Whether a component is empty, as the gate defines it, or has collapsed."""
        return gates.degenerate(self.gate, params.weights) | families.degenerate(self.family, params.components)

    def coincide(self, params: MixtureParams) -> Array:
        """Whether every class equals another one, so that EM cannot separate them."""
        return families.coincide(self.family, params.components)

    def class_sizes(self, params: MixtureParams, data: Data) -> Array:
        """The share of each component in the population of the data, (K,): the mean of its probabilities."""
        data, params = arrays_of(data, names_of(params)), of_fit(params)
        if self.gate.homogeneous:
            return self.gate.probability(self.gate.prepare(params.weights, None))
        x, w = counted(data)
        p = jnp.exp(_log_gate(self, params, x))
        w = jnp.ones((p.shape[0],), p.dtype) if w is None else w.astype(p.dtype)
        return (w[:, None] * p).sum(axis=0) / w.sum()

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
        own = self._own(x)
        of_data = key, self.family, own, weights, self.k, start, given, dtype, active
        sizes, components = start_components(*of_data)
        params = MixtureParams(self.gate.start(sizes, x), components)
        return params, is_sound(self.family, components, own)

    def diagnose(self, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        blame(self.family, self._own(x), None if weights is None else weights > 0)

    def sample(self, key: Array, params: MixtureParams, n: int) -> Array:
        """Observations drawn from the mixture.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Observations (n, ...).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, the parameters do not
                fit the model, or the components depend on covariates.
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
        if "given" in self.takes:
            raise ValueError("Mixture.sample: draws depend on covariates; use sample_like(key, params, data)")
        return _draw(self, key, params, whole_number("Mixture.sample: n", n, 0))

    def sample_like(self, key: Array, params: MixtureParams, data: Data) -> Data:
        """As many observations as ``data`` hold, drawn from the mixture; covariates and missing cells stay as they are.

        Arguments:
            key: a random key.
            params: parameters of the mixture, or a ``Fit``.
            data: N observations, of which only shapes, covariates, lengths and missing cells are used.

        Returns:
            Observations (N, ...), or a ``Dataset`` where ``data`` have covariates, lengths or missing cells. Weights
            are left out.

        Raises:
            ValueError: as for ``sample``, or the data do not fit the model.
        """
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        x, n = split_weights(data)[0], count(data)
        params, family = as_params(self, params), self.family
        if self.gate.homogeneous and not hasattr(family, "sample_like"):
            return with_values(x, _draw(self, key, params, n)[1])
        return with_values(x, _draw_like(self, key, params, x, n))

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
        return (*families.takes(self.family), *self.gate.takes)

    def features(self, x: Data) -> Array:
        """Real numbers (N, F), close together where observations are alike; used by starts."""
        return observed.features(self.family, self._own(x))

    def supports(self, x: Data) -> Array:
        """(N,), whether each observation lies in the support."""
        return observed.supports(self.family, self._own(x))

    def copies(self) -> Copies:
        """Many such mixtures at once."""
        declared = parameters.leaves(self.declare())
        flat = all(param.axes[:1] == ("K",) and "K" not in param.axes[1:] for param in declared)
        return MergedMixtures(self.family, self.k) if flat and self._plain else Vmapped(self)

    @property
    def _plain(self) -> bool:
        """Whether the weights are constant, without a prior: what the quick forms of many mixtures take for granted."""
        return isinstance(self.gate, Constant) and self.gate.prior is None

    @property
    def maskable(self) -> bool:
        """Whether ``masked`` is exact: with a gate on covariates a class cannot have probability zero."""
        return self._plain and super().maskable

    def impute(self, params: MixtureParams, data: Data, key: Array | None = None) -> Any:
        """The values with missing cells replaced; see ``jaxem.impute``."""
        params, data = admit(self, params, data)
        return _impute(self, params, split_weights(data)[0], key)

    def check_shapes(self, params: MixtureParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        if data is not None:
            gates.check(self.gate, data, f"Mixture of {type(self.family).__name__}")
        lengths = gates.sizes(self.gate, data)
        observations.check(self, params, data, ("N",), *self.gate.takes, lengths=lengths)

    def axis_labels(self, given: Any, columns: Mapping[str, Columns]) -> dict[str, list[str]]:
        """The names of coefficients: those of the covariates, by the letter of the axis."""
        of_gate = gates.axis_labels(self.gate, given, columns, 1)
        return of_gate | families.axis_labels(self.family, given, columns, 1)

    def validate(self, params: MixtureParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, weights = split_weights(trees.at_hand(data))
        observations.check_enough(self, count(x))
        observations.check_support(self.family, self._own(x), None if weights is None else weights != 0)

    def allows(self, params: MixtureParams, data: Data) -> Array:
        """Whether every observation of nonzero weight lies in the support, (); for traced values."""
        x, weights = split_weights(data)
        return observations.supported(self.family, self._own(x), None if weights is None else weights != 0).all()


@program(quick="few numbers", static_argnames=("start",))
def _init(model: Mixture, key: Array, data: Data, given: Array | None, start: str) -> tuple[MixtureParams, Array]:
    return model.first(key, data, given, start)


@program
def _impute(model: Mixture, params: MixtureParams, x: Data, key: Array | None) -> Any:
    x, own = model._parts(params, x)
    q = choose(model.prepare(params, x), lambda c: ClassModel.infer(model, c, x))
    return observed.impute(model.family, params.components, q.probabilities, own, key)


@program(static_argnames=("n",))
def _draw(model: Mixture, key: Array, params: MixtureParams, n: int) -> tuple[Array, Array]:
    label_key, x_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, jnp.log(model.gate.probability(params.weights)), shape=(n,))
    return labels, model.family.sample(x_key, params.components, labels)


@program(static_argnames=("n",))
def _draw_like(model: Mixture, key: Array, params: MixtureParams, x: Data, n: int) -> Any:
    label_key, x_key = jax.random.split(key)
    if model.gate.homogeneous:
        log_w, shape = jnp.log(model.gate.probability(params.weights)), (n,)
    else:
        log_w, shape = _log_gate(model, params, x), None
    labels = jax.random.categorical(label_key, log_w, shape=shape)
    family: Any = model.family
    if hasattr(family, "sample_like"):
        return values_of(family.sample_like(x_key, params.components, labels, model._own(x)))
    return family.sample(x_key, params.components, labels)


@program
def _log_gate(model: Mixture, params: MixtureParams, x: Data) -> Array:
    return model.gate.log_prob(model.gate.prepare(params.weights, x), model._parts(params, x)[0])
