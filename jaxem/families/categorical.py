"""The categorical distribution of D independent codes, each with its own number of levels."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.checks import brief, whole_number
from jaxem.core.data import Data, Dataset, observed_of, values_of
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.spaces import Simplex
from jaxem.families import conjugate, indicators
from jaxem.families.conjugate import DirichletPrior
from jaxem.families.protocol import impossible
from jaxem.families.sums import weighted_sums
from jaxem.latent.classes import log_times


class CategoricalParams(NamedTuple):
    """The parameters of ``Categorical``."""

    probabilities: tuple[Array, ...]  # one (K, levels_d) for each dimension


class CategoricalStatistics(NamedTuple):
    counts: Array  # (K, sum of levels), sum_n r_nk [x_nd = level]


@register
@dataclasses.dataclass(frozen=True)
class Categorical:
    r"""The distribution of D codes x_d = 0, ..., levels_d - 1 that are independent given the class.

    .. math:: \log p(x \mid k) = \sum_d \log p_{kd}[x_d], \qquad
              \text{M: } p_{kd}[l] = \frac{\sum_n r_{nk} [x_{nd} = l]}{\sum_n r_{nk}}

    The data are whole numbers (N, D), of which cells may be missing; the parameters are a ``CategoricalParams``.

    Arguments:
        levels: a tuple of D whole numbers of at least 1, the number of levels of each column.
        prior: a ``DirichletPrior`` for every column, or a tuple with one for each (or ``None``); the fit is then MAP,
            and c - 1 is added to the counts. ``None`` (default): maximum likelihood.

    Raises:
        ValueError: ``levels`` is not a tuple (or list), is empty, or holds something other than whole numbers of at
            least 1; or ``prior`` is not as said, or has another number of levels than its column.
    """

    levels: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    prior: DirichletPrior | tuple[DirichletPrior | None, ...] | None = None

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("observed",)
    never_in_part: ClassVar[str] = "levels have no order, so that there is none between two of them"
    support: ClassVar[str] = "codes from 0 to levels - 1 in each dimension"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, tuple | list):
            raise ValueError(
                f"Categorical: levels must be a tuple, one number for each column; got {brief(self.levels)}"
            )
        if not self.levels:
            raise ValueError("Categorical: levels must name at least one column; the tuple is empty")
        levels = tuple(whole_number("Categorical: each of the levels", number, 1) for number in self.levels)
        object.__setattr__(self, "levels", levels)
        if isinstance(self.prior, tuple) and len(self.prior) != len(levels):
            raise ValueError(f"Categorical: there are {len(self.prior)} priors for {len(levels)} columns")
        for prior, number in zip(self._priors, levels, strict=True):
            conjugate.check(self, DirichletPrior, prior, by_column=True)
            if conjugate.columns(prior) not in (None, number):
                raise ValueError(
                    f"Categorical: the prior of a column of {number} levels has {conjugate.columns(prior)} numbers"
                )

    @property
    def _priors(self) -> tuple[DirichletPrior | None, ...]:
        """The prior of each column."""
        return self.prior if isinstance(self.prior, tuple) else (self.prior,) * len(self.levels)

    @property
    def dimensions(self) -> int:
        """D, the number of columns."""
        return len(self.levels)

    def declare(self) -> CategoricalParams:
        each = (Param(Simplex(), ("K", levels), location=True, column=d) for d, levels in enumerate(self.levels))
        return CategoricalParams(tuple(each))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: CategoricalParams, x: Data | None) -> Array:
        """Log-probabilities of all levels of all dimensions, (K, sum of levels)."""
        return indicators.log(jnp.concatenate(params.probabilities, axis=1))

    def _one_hot(self, x: Data, dtype: jnp.dtype) -> Array:
        """Indicators (N, sum of levels) of the levels of all dimensions; zeros where the code is missing."""
        values, seen = values_of(x).astype(dtype), observed_of(x)
        offsets = np.concatenate([[0], np.cumsum(self.levels)[:-1]])
        level = np.arange(sum(self.levels)) - offsets[self._dimension]
        found = values[:, self._dimension] == level.astype(dtype)[None, :]
        return (found if seen is None else found & seen[:, self._dimension]).astype(dtype)

    @property
    def _dimension(self) -> np.ndarray:
        """The dimension of each column of the indicators."""
        return np.repeat(np.arange(len(self.levels)), self.levels)

    def _split(self, table: Array) -> tuple[Array, ...]:
        return tuple(jnp.split(table, np.cumsum(self.levels)[:-1], axis=1))

    def log_density(self, c: Array, x: Data) -> Array:
        density = indicators.log_density(self._one_hot(x, c.dtype), c)
        return jnp.where(self.supports(x)[:, None], density, impossible(values_of(x), density.dtype)[:, None])

    def statistics(self, c: Any, r: Array, hidden: Any, x: Data) -> CategoricalStatistics:
        return CategoricalStatistics(weighted_sums(r, self._one_hot(x, r.dtype)))

    def maximize(self, c: Any, sums: CategoricalStatistics) -> CategoricalParams:
        counts = [conjugate.added(*pair)[0] for pair in zip(self._priors, self._split(sums.counts), strict=True)]
        totals = [n.sum(axis=1, keepdims=True) for n in counts]
        new = [n / total for n, total in zip(counts, totals, strict=True)]
        if c is not None:  # a column that is never seen in a class: any value maximises
            old = self._split(jnp.exp(c))
            new = [jnp.where(total == 0, *pair) for total, *pair in zip(totals, old, new, strict=True)]
        return CategoricalParams(tuple(new))

    def expected(self, c: Any, params: CategoricalParams, sums: CategoricalStatistics) -> Array:
        return log_times(sums.counts, jnp.concatenate(params.probabilities, axis=1)).sum()

    def log_prior(self, params: CategoricalParams) -> Array | float:
        pairs = zip(self._priors, params.probabilities, strict=True)
        return sum((conjugate.log_density(*pair) for pair in pairs), start=0.0)

    def contrasts(self, params: CategoricalParams) -> Array:
        return jnp.concatenate(params.probabilities, axis=1)

    def features(self, x: Data) -> Array:
        indicators, seen = self._one_hot(x, jnp.result_type(float)), observed_of(x)
        return indicators if seen is None else jnp.where(seen[:, self._dimension], indicators, jnp.nan)

    def supports(self, x: Data) -> Array:
        values, seen = values_of(x), observed_of(x)
        if not jnp.issubdtype(values.dtype, jnp.floating):
            values = values.astype(jnp.result_type(float))  # 256 exceeds a uint8
        levels = np.array(self.levels).astype(values.dtype)[None, :]
        possible = (values >= 0) & (values < levels) & (values == jnp.round(values))
        return (possible if seen is None else possible | ~seen).all(axis=1)

    def impute(self, params: CategoricalParams, r: Array, x: Dataset) -> Array:
        """A mean of codes means nothing: each missing code becomes the most probable one."""
        best = [(r @ p).argmax(axis=1) for p in params.probabilities]
        return jnp.stack(best, axis=1)

    def sample(self, key: Array, params: CategoricalParams, labels: Array) -> Array:
        keys = jax.random.split(key, len(self.levels))
        draws = [jax.random.categorical(k, jnp.log(p[labels])) for k, p in zip(keys, params.probabilities, strict=True)]
        return jnp.stack(draws, axis=1)
