"""Class weights that are the same for every observation."""

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.scipy.special import gammaln

from jaxem.core.arrays import as_array
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Simplex
from jaxem.latent.classes import log_probability, log_times


@register
@dataclasses.dataclass(frozen=True)
class Constant:
    r"""Class probabilities w (K,) that do not depend on covariates.

    .. math:: w_k = \frac{n_k + a_k - 1}{\sum_j (n_j + a_j - 1)}, \qquad n_k = \sum_n r_{nk}

    The parameters are the array w. Without a prior, a = 1.

    Arguments:
        prior: the concentration a of a Dirichlet prior, a number of at least 1 for all classes or an array (K,) of
            such; default ``None``: no prior. With a > 1 no class becomes empty.

    Raises:
        ValueError: ``prior`` is not finite numbers of at least 1.

    Source: McLachlan & Peel (2000), section 2.8; Gelman et al. (2013), section 3.4, for the prior.
    """

    prior: Any = None

    homogeneous: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.prior is None or isinstance(self.prior, Tracer):
            return
        prior = as_array(self.prior, "Constant: prior", False)
        prior = prior.astype(jnp.result_type(float)) if not jnp.issubdtype(prior.dtype, jnp.floating) else prior
        if not (isinstance(prior, Tracer) or bool(((prior >= 1) & (prior < math.inf)).all())):
            raise ValueError(f"Constant: prior must be finite numbers of at least 1; got {np.asarray(prior)}")
        object.__setattr__(self, "prior", prior)

    def declare(self) -> Param:
        return Param.of(Simplex(), "K")

    def prepare(self, params: Array, x: Data | None) -> Array:
        return params

    def log_prob(self, c: Array, x: Data) -> Array:
        """log w_k, (1, K)."""
        return log_probability(c)[None, :]

    def probability(self, c: Array) -> Array:
        """w, (K,)."""
        return c

    def statistics(self, c: Any, r: Array, x: Data) -> Array:
        """n_k = sum_n r_nk, (K,)."""
        return r.sum(axis=0)

    def maximize(self, c: Any, sums: Array) -> Array:
        n = sums if self.prior is None else sums + (self.prior.astype(sums.dtype) - 1)
        return n / n.sum()

    def expected(self, c: Any, params: Array, sums: Array) -> Array:
        return log_times(sums, params).sum()

    def start(self, sizes: Array, x: Data) -> Array:
        return sizes / sizes.sum()

    def log_prior(self, params: Array) -> Array | float:
        """log Dirichlet(w | a), normalised; 0 without a prior."""
        if self.prior is None:
            return 0.0
        a = jnp.broadcast_to(self.prior.astype(params.dtype), params.shape)
        return gammaln(a.sum()) - gammaln(a).sum() + log_times(a - 1, params).sum()

    def degenerate(self, params: Array) -> Array:
        """Whether a class is empty: its weight is below eps^2.

        Among 1 / eps observations that is less than eps of one. A weight of exactly zero counts as empty too: it is not
        kept as structure. Use fewer classes.
        """
        return (params < jnp.finfo(params.dtype).eps ** 2).any()
