"""The multinomial distribution of counts in D categories, given their total."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import whole_number
from jaxem.core.data import Data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Simplex
from jaxem.families import conjugate
from jaxem.families.conjugate import DirichletPrior
from jaxem.families.protocol import impossible
from jaxem.families.stirling import deviance, of_count
from jaxem.families.sums import weighted_sums
from jaxem.latent.classes import log_times


class MultinomialParams(NamedTuple):
    """The parameters of ``Multinomial``."""

    probabilities: Array  # (K, D), sum to one over the D categories


class MultinomialStatistics(NamedTuple):
    counts: Array  # (K, D), sum_n r_nk x_nd


@register
@dataclasses.dataclass(frozen=True)
class Multinomial:
    r"""The multinomial distribution of counts in D categories; the total T_n of each row is given.

    .. math:: \log p(x \mid T, k) = \log T! - \sum_d \log x_d! + \sum_d x_d \log p_{kd}, \quad T = \sum_d x_d, \qquad
              \text{M: } p_{kd} = \frac{\sum_n r_{nk}\, x_{nd}}{\sum_n r_{nk} T_n}

    The data are counts (N, D), one column for each category; the parameters are a ``MultinomialParams``. With the two
    columns (successes, failures) this is the binomial distribution with a number of trials for each observation. All
    cells of a row must be seen: the total of a row with a gap is not known.

    Arguments:
        trials: the total of every row, a whole number of at least 1; rows with another total are then refused. Default
            None: each row has a total of its own, so that rows cannot be sampled without data.
        prior: a ``DirichletPrior``; the fit is then MAP, and c - 1 is added to the counts.
            ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``trials`` is neither None nor a whole number of at least 1, or ``prior`` is not a
            ``DirichletPrior``.

    Source: Loader (2000) for the computation of the log-density.
    """

    trials: int | None = dataclasses.field(default=None, metadata={"static": True})
    prior: DirichletPrior | None = None

    event_ndim: ClassVar[int] = 1
    whole_rows: ClassVar[str] = "the total of a row with a gap is not known"
    accurate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.trials is not None:
            object.__setattr__(self, "trials", whole_number("Multinomial: trials", self.trials, 1))
        conjugate.check(self, DirichletPrior, self.prior, by_column=True)

    @property
    def dimensions(self) -> int | None:
        """D, the number of columns, where the prior has a number for each; else ``None``."""
        return conjugate.columns(self.prior)

    @property
    def support(self) -> str:
        """A description of valid observations."""
        of_rows = "" if self.trials is None else f" that sum to {self.trials}"
        return f"non-negative whole numbers{of_rows}"

    def declare(self) -> MultinomialParams:
        return MultinomialParams(Param.of(Simplex(), "K D", location=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: MultinomialParams, x: Data | None) -> MultinomialParams:
        return params

    def log_density(self, c: MultinomialParams, x: Array) -> Array:
        p = c.probabilities
        possible = self.supports(x)
        counts = jnp.where(possible[:, None], x, 0).astype(p.dtype)
        total = counts.sum(axis=1)

        # Poisson log-densities with rates T p, summed over the columns, less that of the total at its own rate.
        rates = total[None, :, None] * p.T[:, None, :]
        lost = deviance(counts.T[:, :, None], rates).sum(axis=0)
        density = (of_count(counts).sum(axis=1) - of_count(total))[:, None] - lost
        return jnp.where(possible[:, None], density, impossible(x, density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Array) -> MultinomialStatistics:
        return MultinomialStatistics(weighted_sums(r, x))

    def maximize(self, c: Any, sums: MultinomialStatistics) -> MultinomialParams:
        (counts,) = conjugate.added(self.prior, sums.counts)
        return MultinomialParams(counts / counts.sum(axis=1, keepdims=True))

    def expected(self, c: Any, params: MultinomialParams, sums: MultinomialStatistics) -> Array:
        return log_times(sums.counts, params.probabilities).sum()

    def log_prior(self, params: MultinomialParams) -> Array | float:
        return conjugate.log_density(self.prior, params.probabilities)

    def contrasts(self, params: MultinomialParams) -> Array:
        return params.probabilities

    def features(self, x: Array) -> Array:
        """The shares of the total in each category; a row of zeros tells nothing."""
        total = x.sum(axis=1, keepdims=True)
        return jnp.where(total > 0, x / jnp.where(total > 0, total, 1), jnp.nan)

    def supports(self, x: Array) -> Array:
        counts = ((x >= 0) & (x == jnp.round(x)) & jnp.isfinite(x)).all(axis=1)
        return counts if self.trials is None else counts & (x.sum(axis=1) == self.trials)

    def diagnose(self, x: np.ndarray, dtype: np.dtype) -> str | None:
        """Why no start can be made from the rows ``x``; ``None`` where no reason is found."""
        if self.prior is None and x.max() == 0:
            return "the likelihood of these data has no maximum, for all counts are zero"
        return None

    def sample(self, key: Array, params: MultinomialParams, labels: Array) -> Array:
        if self.trials is None:
            raise ValueError("Multinomial: to sample rows, give their total, Multinomial(trials)")
        p = params.probabilities[labels]
        return jax.random.multinomial(key, jnp.full(labels.shape, self.trials, p.dtype), p, dtype=p.dtype)
