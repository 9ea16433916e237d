"""Factor analysis: a model with continuous latent variables (Rubin & Thayer 1982)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices, parameters
from jaxem.core.arrays import check_precision
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.constraints import Positive, Real
from jaxem.core.conversion import admit, as_params, check_shapes
from jaxem.core.data import (
    Data,
    Dataset,
    check_counts,
    counted,
    observed_of,
    split_weights,
    values_of,
)
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.core.sizes import of_rows
from jaxem.core.trees import all_finite, float_dtype, is_traced
from jaxem.families import incomplete, unbounded
from jaxem.families.protocol import missing_as_nan
from jaxem.latent import gaussian
from jaxem.latent.gaussian import Factors, Seen
from jaxem.models import observations
from jaxem.models.observations import real
from jaxem.models.starts import check_sound, varies


class FactorAnalysisParams(NamedTuple):
    """The parameters of a factor analysis."""

    mean: Array  # (D,)
    loadings: Array  # (D, k)
    noise: Array  # (D,), variances


class FactorSums(NamedTuple):
    """Sums over n, with e = x - mean - loadings z at the parameters of the context, and w = (z, 1)."""

    ee: Array  # (D,), sum E[e^2]
    ew: Array  # (D, k + 1), sum E[e w']
    ww: Array  # (k + 1, k + 1), sum E[w w']; with missing cells (D, k + 1, k + 1), over the rows in which d is seen


class Prepared(NamedTuple):
    at: FactorAnalysisParams
    seen: Seen
    patterns: Any  # what depends only on which cells a row misses (see ``families/incomplete.py``)


@register
@dataclasses.dataclass(frozen=True)
class FactorAnalysis(FromRows):
    r"""Factor analysis: x = mean + loadings z + e, with ``k`` factors z ~ N(0, I) and noise e ~ N(0, diag(noise)).

    .. math:: \text{E: } V = (I + \Lambda' \Psi^{-1} \Lambda)^{-1},\; m_n = V \Lambda' \Psi^{-1} (x_n - \mu)
              \qquad
              \text{M: } (\Lambda, \mu) = S_{xw} S_{ww}^{-1},\;
              \Psi = \operatorname{diag}(S_{xx} - (\Lambda, \mu) S_{wx}) / N,\; w = (z, 1)

    The data are an array (N, D), with or without weights. The posterior q is a ``Factors``; the parameters are a
    ``FactorAnalysisParams``. The likelihood is that of N(mean, loadings loadings' + diag(noise)), so the loadings are
    determined up to a rotation. The M-step sums residuals instead of x, so that nothing cancels where the data are far
    from zero or the noise is small.

    Arguments:
        k: the number of factors, at least 1. Data need more than k columns.

    Raises:
        ValueError: ``k`` is not a whole number of at least 1.

    Source: Rubin & Thayer (1982).
    """

    k: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole_number("FactorAnalysis: k", self.k, 1))

    accurate: ClassVar[bool] = True

    def declare(self) -> FactorAnalysisParams:
        mean, loadings, noise = Param.of(Real(), "D", location=True), Param.of(Real(), "D k"), Param.of(Positive(), "D")
        return FactorAnalysisParams(mean, loadings, noise)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: FactorAnalysisParams, x: Data | None) -> Prepared:
        patterns = None
        if x is not None and observed_of(x) is not None:
            patterns = incomplete.prepare(_covariance(params)[None], x)
        return Prepared(params, Seen.through(params.loadings, params.noise), patterns)

    def _centred(self, c: Prepared, x: Data) -> tuple[Array, Array | None]:
        """x - mean, zero where missing, and the mask of the cells that are seen."""
        y, seen = real(values_of(x), c.at.mean.dtype) - c.at.mean[None, :], observed_of(x)
        return (y, None) if seen is None else (jnp.where(seen, y, 0), seen)

    def infer(self, c: Prepared, x: Data) -> Factors:
        """The posterior of the factors."""
        y, seen = self._centred(c, x)
        return gaussian.infer(c.seen, y, seen)

    def tempered(self, c: Prepared, x: Data, inverse_temperature: Array | float) -> Factors:
        """The posterior with the same means and its covariance divided by ``inverse_temperature``."""
        y, seen = self._centred(c, x)
        return gaussian.tempered(c.seen, y, inverse_temperature, seen)

    def draw(self, c: Prepared, x: Data, key: Array) -> Factors:
        """All probability on one draw of the factors of each observation."""
        y, seen = self._centred(c, x)
        return gaussian.draw(c.seen, y, key, seen)

    def log_marginal(self, c: Prepared, x: Data) -> Array:
        """log N(x_n; mean, loadings loadings' + diag(noise)), (N,).

        By the Cholesky factor of that (D, D) matrix, or of its rows and columns that are seen; NaN where x_n is NaN.
        """
        covariance = _covariance(c.at)
        if observed_of(x) is not None:
            x = real(x, c.at.mean.dtype)
            return incomplete.distance(c.at.mean[None], covariance[None], c.patterns, x).log_normal()[:, 0]
        y, _ = self._centred(c, x)
        lower = matrices.cholesky(covariance)
        z = matrices.solve_lower(lower, y.T)
        log_determinant = matrices.log_determinant(lower)
        return -0.5 * (y.shape[1] * math.log(2 * math.pi) + log_determinant + (z**2).sum(axis=0))

    def complete(self, c: Prepared, q: Factors, x: Data) -> Array:
        """E_q [log N(z; 0, I) + log N(x; mean + loadings z, diag(noise))], (N,)."""
        _, loadings, noise = c.at
        y, seen = self._centred(c, x)
        turned = jnp.matmul(loadings, q.covariance)  # (D, k), or (N, D, k)
        spread = (turned * jnp.broadcast_to(loadings, turned.shape)).sum(axis=-1)  # the variances of loadings z under q
        squares = (y - q.means @ loadings.T) ** 2 + jnp.broadcast_to(spread, y.shape)
        each = math.log(2 * math.pi) + jnp.log(noise)[None, :] + squares / noise[None, :]
        given = -0.5 * (each if seen is None else jnp.where(seen, each, 0)).sum(axis=1)
        return given + gaussian.expected_log_prior(q)

    def entropy_rows(self, c: Prepared, q: Factors, x: Data) -> Array:
        """log|2 pi e V| / 2, (N,)."""
        return gaussian.entropy(q)

    def divergence_rows(self, q: Factors, p: Factors) -> Array:
        """KL(q || p) between normal distributions, (N,)."""
        return gaussian.divergence(q, p)

    def sums(self, c: Prepared | None, w: Array | None, q: Factors, x: Data) -> FactorSums:
        """Expected sums of squares and products of the residual and (z, 1)."""
        values, seen = real(values_of(x), q.means.dtype), observed_of(x)
        n = jnp.ones((values.shape[0],), values.dtype) if w is None else w.astype(values.dtype)
        one_more = jnp.concatenate([q.means, jnp.ones((values.shape[0], 1), values.dtype)], axis=1)  # (z, 1)
        coefficients = _coefficients(c and c.at, values.shape[1], self.k, values.dtype)
        e = values - coefficients[None, :, -1] - q.means @ coefficients[:, :-1].T
        counts = n[:, None] != 0  # a row of weight zero adds nothing, even where it is NaN
        e, one_more = jnp.where(counts, e, 0), jnp.where(counts, one_more, 0)
        times_n = one_more * n[:, None]
        uncertainty = jnp.zeros((*q.covariance.shape[:-2], self.k + 1, self.k + 1), values.dtype)
        uncertainty = uncertainty.at[..., :-1, :-1].set(q.covariance)
        # e = E e - loadings (z - E z): the deviation of z from its mean enters e with the opposite sign
        if seen is None:
            shared = n.sum() * (coefficients @ uncertainty)
            ww = one_more.T @ times_n + n.sum() * uncertainty
        else:
            e = jnp.where(seen, e, 0)
            m = self.k + 1
            counted = seen.astype(values.dtype).T  # (D, N)
            uncertain = matrices.product(counted, jnp.where(counts, n[:, None] * uncertainty.reshape(-1, m * m), 0))
            squares = (one_more[:, :, None] * times_n[:, None, :]).reshape(-1, m * m)
            shared = jnp.matmul(coefficients[:, None, :], uncertain.reshape(-1, m, m))[:, 0]
            ww = (matrices.product(counted, squares) + uncertain).reshape(-1, m, m)
        return FactorSums(n @ e**2 + (shared * coefficients).sum(axis=1), e.T @ times_n - shared, ww)

    def expected(self, c: Prepared | None, params: FactorAnalysisParams, sums: FactorSums) -> Array:
        """Q from the sums, up to a constant.

        It is -sum_d (N log psi_d + E sum_n (x_nd - mu_d - lambda_d' z_n)^2 / psi_d) / 2.
        """
        ee, ew, ww = sums
        d, dtype = params.mean.size, ew.dtype
        change = _coefficients(params, d, self.k, dtype) - _coefficients(c and c.at, d, self.k, dtype)
        moved = change @ ww if ww.ndim == 2 else jnp.matmul(ww, change[:, :, None])[:, :, 0]
        squares = ee - 2 * (change * ew).sum(axis=1) + (moved * change).sum(axis=1)
        return -0.5 * (ww[..., -1, -1] * jnp.log(params.noise) + squares / params.noise).sum()

    def maximum(self, c: Prepared | None, sums: FactorSums) -> FactorAnalysisParams:
        """The regression of x on (z, 1); the noise is its residual variance."""
        ee, ew, ww = sums
        lower = matrices.cholesky(ww)
        change = matrices.solve(lower, ew.T).T if ww.ndim == 2 else matrices.solve(lower, ew[:, :, None])[:, :, 0]
        noise = (ee - (change * ew).sum(axis=1)) / ww[..., -1, -1]
        coefficients = _coefficients(c and c.at, change.shape[0], self.k, change.dtype) + change
        return FactorAnalysisParams(coefficients[:, -1], coefficients[:, :-1], noise)

    def degenerate(self, params: FactorAnalysisParams) -> Array:
        """Whether a noise variance is zero to rounding error (a Heywood case).

        The noise is the variance minus the part that the factors explain; below 16 eps of that part it is rounding
        error.
        """
        explained = (params.loadings**2).sum(axis=1)
        return (params.noise <= 16 * jnp.finfo(params.noise.dtype).eps * explained).any()

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant: k (k - 1) / 2 rotations of the factors."""
        return self.k * (self.k - 1) // 2

    def identified(self, params: FactorAnalysisParams) -> int:
        """The number of parameters of N(mean, any covariance), D + D (D + 1) / 2.

        The data cannot identify more of them, however many factors there are (Ledermann 1937).
        """
        d = params.mean.shape[0]
        return d + d * (d + 1) // 2

    def rotate(self, params: FactorAnalysisParams, reference: FactorAnalysisParams) -> FactorAnalysisParams:
        """The same model with its factors rotated (or reflected) so that the loadings are closest to a reference.

        The loadings become Lambda R, which minimises the squared distance to the reference loadings in units of the
        noise Psi of the reference: R = U V', where U S V' = Lambda' Psi^-1 Lambda_reference.

        Arguments:
            params: parameters of the model.
            reference: parameters of the same shapes.

        Returns:
            ``params`` with other loadings (D, k), and the same likelihood.

        Source: Schoenemann (1966).
        """
        u, _, v = jnp.linalg.svd(params.loadings.T @ (reference.loadings / reference.noise[:, None]))
        return params._replace(loadings=params.loadings @ u @ v)

    def canonical(self, params: FactorAnalysisParams) -> FactorAnalysisParams:
        """The same model with its factors in canonical order and sign.

        Lambda' Psi^-1 Lambda is then diagonal with decreasing entries, and each column of Psi^-1/2 Lambda has a sum
        that is not negative.

        Arguments:
            params: parameters of the model.

        Returns:
            ``params`` with other loadings (D, k), and the same likelihood.

        Source: Lawley & Maxwell (1971).
        """
        root = jnp.sqrt(params.noise)[:, None]
        scaled = params.loadings / root
        scaled = scaled @ jnp.linalg.svd(scaled, full_matrices=False)[2].T
        sign = jnp.where(scaled.sum(axis=0) < 0, -1, 1).astype(scaled.dtype)
        return params._replace(loadings=root * scaled * sign[None, :])

    def init(self, key: Array, data: Data) -> FactorAnalysisParams:
        """Parameters to start a fit from: the variance of each variable is split evenly between loadings and noise.

        The mean is that of the data; the rows of the loadings have random directions.

        Arguments:
            key: a random key.
            data: N observations (N, D), with or without weights.

        Returns:
            A ``FactorAnalysisParams``.

        Raises:
            ValueError: ``key`` is not a random key; the data do not fit the model; or no start can be made from them
                (a constant column, or a spread whose square overflows or vanishes). Values that are traced are not
                checked.
        """
        prng_key("FactorAnalysis.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self._check_values(data)
        params, sound = _init(self, key, data)
        check_sound(sound, self, data)
        return params

    def first(self, key: Array, data: Data, *_: Any) -> tuple[FactorAnalysisParams, Array]:
        """A start, and whether it is sound."""
        observations, weights = counted(data)
        dtype = float_dtype(observations)
        x, seen = values_of(observations).astype(dtype), observed_of(observations)
        counts = jnp.ones((x.shape[0],), dtype) if weights is None else weights.astype(dtype)
        counts = jnp.broadcast_to(counts[:, None], x.shape) if seen is None else jnp.where(seen, counts[:, None], 0)
        share = counts / counts.sum(axis=0)[None, :]
        x = jnp.where(share > 0, x, 0)
        mean = (share * x).sum(axis=0)
        y = x - mean[None, :]
        y = y - (share * y).sum(axis=0)[None, :]  # corrects for the rounding of the mean
        variance = (share * y**2).sum(axis=0)
        directions = jax.random.normal(key, (x.shape[1], self.k), dtype)
        directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
        params = FactorAnalysisParams(mean, jnp.sqrt(variance / 2)[:, None] * directions, variance / 2)
        sound = all_finite(params) & ~self.degenerate(params) & varies(missing_as_nan(observations).astype(dtype))
        return params, sound

    def diagnose(self, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        dtype, rows = np.dtype(float_dtype(x)), np.asarray(values_of(x), np.float64)
        rows = rows if weights is None else rows[np.asarray(weights) > 0]
        found = unbounded.out_of_range(rows, dtype) or unbounded.constant(rows, dtype)
        if found is not None:
            raise ValueError(found)

    def predict(self, params: FactorAnalysisParams, data: Data) -> Array:
        """The posterior mean of the factors of each observation.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations (N, D). Weights are ignored.

        Returns:
            Means (N, k); NaN where the observation is not finite.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        return self.factors(params, data).means

    def factors(self, params: FactorAnalysisParams, data: Data) -> Factors:
        """The posterior of the factors of each observation, a normal distribution.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations (N, D). Weights are ignored.

        Returns:
            A ``Factors``: means (N, k), NaN where the observation is not finite, and the covariance (k, k), which is
            common to all observations, or (N, k, k) where cells are missing.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        found: list[Factors] = []

        def by_rows(x: Data) -> dict[str, Any]:
            found.append(_posterior(self, params, x))
            rows = {"means": found[0].means, "log_normalizer": found[0].log_normalizer}
            if found[0].covariance.ndim == 3:  # else it is common to all rows
                rows["covariance"] = found[0].covariance
            return rows

        rows = of_rows(by_rows, data)
        return found[0]._replace(**rows)

    def latent_scores(self, params: FactorAnalysisParams, data: Data) -> tuple[str, Array, Array]:
        """Posterior means and standard deviations of the factors; see ``jaxem.scores``.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes.

        Returns:
            ``"factor"``, the means (N, k) and the standard deviations (N, k).
        """
        q = self.factors(params, data)
        deviations = jnp.sqrt(jnp.diagonal(q.covariance, axis1=-2, axis2=-1))
        return "factor", q.means, jnp.broadcast_to(deviations, q.means.shape)

    def sample(self, key: Array, params: FactorAnalysisParams, n: int) -> Array:
        """Observations drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Observations (n, D).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, or the parameters do
                not fit the model.
        """
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self, key: Array, params: FactorAnalysisParams, n: int) -> tuple[Array, Array]:
        """Factors and observations drawn from the model.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of observations, at least 0.

        Returns:
            Factors (n, k) and their observations (n, D).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("FactorAnalysis.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        return _draw(self, key, params, whole_number("FactorAnalysis.sample: n", n, 0))

    event_ndim: ClassVar[int] = 1
    takes: ClassVar[tuple[str, ...]] = ("observed",)

    def features(self, x: Data) -> Array:
        """The values, NaN where missing."""
        return missing_as_nan(x)

    def supports(self, x: Data) -> Array:
        """(N,), whether each observation is finite."""
        return jnp.isfinite(values_of(x)).all(axis=1)

    def impute(self, params: FactorAnalysisParams, data: Data, key: Array | None = None) -> Array:
        """The values with missing cells replaced; see ``jaxem.impute``."""
        params, data = admit(self, params, data)
        if observed_of(data) is None:
            return values_of(data)
        return _impute(self, params, split_weights(data)[0], key)

    def check_shapes(self, params: FactorAnalysisParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        x = None
        if data is not None:
            observations.check_parts(self, data, *self.takes)
            x = values_of(data)
            if not hasattr(x, "ndim"):
                raise ValueError(f"FactorAnalysis needs one array of data; got a {type(x).__name__}")
            if x.ndim != 2 or 0 in x.shape:
                raise ValueError(f"FactorAnalysis needs data of shape (N, D); got {tuple(x.shape)}")
            d = x.shape[1]
            if self.k >= d:
                raise ValueError(f"{self.k} factors cannot be told from the noise of {d} variables; use k < {d}")
        if params is not None:
            d = params.mean.size if x is None else x.shape[1]
            title = f"FactorAnalysis with k = {self.k} of {d} variables"
            parameters.check_shapes(title, self.declare(), params, {"D": d, "k": self.k})

    def validate(self, params: FactorAnalysisParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self._check_values(data)

    def allows(self, params: FactorAnalysisParams, data: Data) -> Array:
        """Whether every observation of nonzero weight is finite, (); for traced values."""
        return _finite(data).all()

    def _check_values(self, data: Data) -> None:
        check_counts(data)
        x = values_of(data)
        if x.shape[0] < 2:
            raise ValueError(f"FactorAnalysis needs at least 2 observations; got {x.shape[0]}")
        good = _finite(data)
        if not good.all():
            raise ValueError(
                f"the data must be finite; observation {int(jnp.argmin(good))} is not ({int((~good).sum())} in all)"
            )
        if jnp.issubdtype(x.dtype, jnp.integer):
            check_precision(x, jnp.result_type(float), "the data")


def _finite(data: Data) -> Array:
    """(N,), whether each observation is finite or has weight zero; missing cells are."""
    x, weights = split_weights(data)
    good = jnp.isfinite(values_of(x)).all(axis=1)
    return good if weights is None else good | (weights == 0)


def _covariance(params: FactorAnalysisParams) -> Array:
    """Lambda Lambda' + Psi, (D, D)."""
    return params.loadings @ params.loadings.T + jnp.diag(params.noise)


def _coefficients(params: FactorAnalysisParams | None, d: int, k: int, dtype: Any) -> Array:
    """(loadings, mean), (D, k + 1); zeros without parameters."""
    if params is None:
        return jnp.zeros((d, k + 1), dtype)
    return jnp.concatenate([params.loadings, params.mean[:, None]], axis=1)


@program
def _posterior(model: FactorAnalysis, params: FactorAnalysisParams, x: Array) -> Factors:
    q = model.e_step(params, x)
    return q._replace(means=jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.means, jnp.nan))


@program(static_argnames=("n",))
def _draw(model: FactorAnalysis, key: Array, params: FactorAnalysisParams, n: int) -> tuple[Array, Array]:
    z_key, e_key = jax.random.split(key)
    z = jax.random.normal(z_key, (n, model.k), params.mean.dtype)
    e = jax.random.normal(e_key, (n, params.mean.shape[0]), params.mean.dtype)
    return z, params.mean[None, :] + z @ params.loadings.T + jnp.sqrt(params.noise)[None, :] * e


@program
def _impute(model: FactorAnalysis, params: FactorAnalysisParams, x: Dataset, key: Array | None) -> Array:
    if key is None:
        found = params.mean[None, :] + model.e_step(params, x).means @ params.loadings.T
    else:
        z_key, e_key = jax.random.split(key)
        found = params.mean[None, :] + model.sample_posterior(z_key, params, x).means @ params.loadings.T
        found = found + jnp.sqrt(params.noise)[None, :] * jax.random.normal(e_key, found.shape, found.dtype)
    return jnp.where(x.observed, real(x.values, found.dtype), found)


@program(quick="few numbers")
def _init(model: FactorAnalysis, key: Array, data: Data) -> tuple[FactorAnalysisParams, Array]:
    return model.first(key, data)
