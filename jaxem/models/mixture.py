"""Finite mixtures: p(x | params) = sum_k weight_k p(x | component k); weights may depend on covariates."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import instance
from jaxem.core.data import Data
from jaxem.core.records import register
from jaxem.core.rows import weighted
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
from jaxem.models.mixture_classes import Components
from jaxem.models.mixture_data import Observations
from jaxem.models.mixture_distribution import Distribution
from jaxem.models.mixture_params import MixtureParams
from jaxem.models.mixture_sampling import Sampling
from jaxem.models.mixture_starts import Starts
from jaxem.models.observations import real


@register
@dataclasses.dataclass(frozen=True)
class Mixture(ClassModel, Components, Starts, Sampling, Observations, Maskable, Distribution):
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

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant whatever the data."""
        return self.k * getattr(self.family, "redundant", 0)

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
