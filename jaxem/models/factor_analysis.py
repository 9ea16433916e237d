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
from jaxem.core.data import Data, check_counts, counted, split_weights, values_of
from jaxem.core.dataset import as_data
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.core.sizes import of_rows
from jaxem.core.trees import all_finite, float_dtype, is_traced
from jaxem.families import unbounded
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
    ww: Array  # (k + 1, k + 1), sum E[w w']


class Prepared(NamedTuple):
    at: FactorAnalysisParams
    seen: Seen


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
        mean, loadings, noise = Param.of(Real(), "D"), Param.of(Real(), "D k"), Param.of(Positive(), "D")
        return FactorAnalysisParams(mean, loadings, noise)  # pyright: ignore[reportArgumentType]

    def prepare(self, params: FactorAnalysisParams, x: Data | None) -> Prepared:
        return Prepared(params, Seen.through(params.loadings, params.noise))

    def _centred(self, c: Prepared, x: Array) -> Array:
        return real(x, c.at.mean.dtype) - c.at.mean[None, :]

    def infer(self, c: Prepared, x: Array) -> Factors:
        """The posterior of the factors."""
        return gaussian.infer(c.seen, self._centred(c, x))

    def tempered(self, c: Prepared, x: Array, inverse_temperature: Array | float) -> Factors:
        """The posterior with the same means and its covariance divided by ``inverse_temperature``."""
        return gaussian.tempered(c.seen, self._centred(c, x), inverse_temperature)

    def draw(self, c: Prepared, x: Array, key: Array) -> Factors:
        """All probability on one draw of the factors of each observation."""
        return gaussian.draw(c.seen, self._centred(c, x), key)

    def log_marginal(self, c: Prepared, x: Array) -> Array:
        """log N(x_n; mean, loadings loadings' + diag(noise)), (N,), by the Cholesky factor of that (D, D) matrix.

        NaN where x_n is NaN.
        """
        y = self._centred(c, x)
        lower = matrices.cholesky(c.at.loadings @ c.at.loadings.T + jnp.diag(c.at.noise))
        z = matrices.solve_lower(lower, y.T)
        log_determinant = matrices.log_determinant(lower)
        return -0.5 * (y.shape[1] * math.log(2 * math.pi) + log_determinant + (z**2).sum(axis=0))

    def complete(self, c: Prepared, q: Factors, x: Array) -> Array:
        """E_q [log N(z; 0, I) + log N(x; mean + loadings z, diag(noise))], (N,)."""
        _, loadings, noise = c.at
        residual = self._centred(c, x) - q.means @ loadings.T
        spread = (loadings @ q.covariance * loadings).sum(axis=1)  # (D,), the variance of (loadings z)_d under q
        constant = math.log(2 * math.pi) * noise.size + jnp.log(noise).sum()
        given = -0.5 * (constant + ((residual**2 + spread[None, :]) / noise[None, :]).sum(axis=1))
        return given + gaussian.expected_log_prior(q)

    def entropy_rows(self, c: Prepared, q: Factors, x: Array) -> Array:
        """log|2 pi e V| / 2, (N,)."""
        return gaussian.entropy(q)

    def divergence_rows(self, q: Factors, p: Factors) -> Array:
        """KL(q || p) between normal distributions, (N,)."""
        return gaussian.divergence(q, p)

    def sums(self, c: Prepared | None, w: Array | None, q: Factors, x: Array) -> FactorSums:
        """Expected sums of squares and products of the residual and (z, 1)."""
        x = real(x, q.means.dtype)
        n = jnp.ones((x.shape[0],), x.dtype) if w is None else w.astype(x.dtype)
        one_more = jnp.concatenate([q.means, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)  # (z, 1)
        uncertainty = jnp.zeros((self.k + 1, self.k + 1), x.dtype).at[:-1, :-1].set(q.covariance)
        coefficients = _coefficients(c and c.at, x.shape[1], self.k, x.dtype)
        e = x - coefficients[None, :, -1] - q.means @ coefficients[:, :-1].T
        counts = n[:, None] != 0  # a row of weight zero adds nothing, even where it is NaN
        e, one_more = jnp.where(counts, e, 0), jnp.where(counts, one_more, 0)
        times_n = one_more * n[:, None]
        # e = E e - loadings (z - E z): the deviation of z from its mean enters e with the opposite sign
        shared = n.sum() * (coefficients @ uncertainty)
        return FactorSums(
            n @ e**2 + (shared * coefficients).sum(axis=1),
            e.T @ times_n - shared,
            one_more.T @ times_n + n.sum() * uncertainty,
        )

    def expected(self, c: Prepared | None, params: FactorAnalysisParams, sums: FactorSums) -> Array:
        """Q from the sums, -sum_d (N log psi_d + E sum_n (x_nd - mu_d - lambda_d' z_n)^2 / psi_d) / 2, up to a
        constant."""
        ee, ew, ww = sums
        d, dtype = params.mean.size, ew.dtype
        change = _coefficients(params, d, self.k, dtype) - _coefficients(c and c.at, d, self.k, dtype)
        squares = ee - 2 * (change * ew).sum(axis=1) + ((change @ ww) * change).sum(axis=1)
        return -0.5 * (ww[-1, -1] * jnp.log(params.noise) + squares / params.noise).sum()

    def maximum(self, c: Prepared | None, sums: FactorSums) -> FactorAnalysisParams:
        """The regression of x on (z, 1); the noise is its residual variance."""
        ee, ew, ww = sums
        lower = matrices.cholesky(ww)
        change = matrices.solve(lower, ew.T).T
        noise = (ee - (change * ew).sum(axis=1)) / ww[-1, -1]
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

    def diagnose(self, data: Data) -> None:
        """Raise a ``ValueError`` that says why no start can be made from the data, and what to do."""
        x, weights = split_weights(data)
        dtype, rows = np.dtype(float_dtype(x)), np.asarray(x, np.float64)
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
            common to all observations.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.
        """
        params, data = admit(self, params, data)
        found: list[Factors] = []

        def by_rows(x: Array) -> tuple[Array, Array]:
            found.append(_posterior(self, params, x))  # the covariance has no rows
            return found[0].means, found[0].log_normalizer

        means, log_normalizer = of_rows(by_rows, data)
        return found[0]._replace(means=means, log_normalizer=log_normalizer)

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
        n = whole_number("FactorAnalysis.sample: n", n, 0)
        z_key, e_key = jax.random.split(key)
        z = jax.random.normal(z_key, (n, self.k), params.mean.dtype)
        e = jax.random.normal(e_key, (n, params.mean.shape[0]), params.mean.dtype)
        x = params.mean[None, :] + z @ params.loadings.T + jnp.sqrt(params.noise)[None, :] * e
        return z, x

    def check_shapes(self, params: FactorAnalysisParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        x = None
        if data is not None:
            observations.check_parts(self, data)
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
        x, _ = split_weights(data)
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
    """(N,), whether each observation is finite or has weight zero."""
    x, weights = split_weights(data)
    good = jnp.isfinite(x).all(axis=1)
    return good if weights is None else good | (weights == 0)


def _coefficients(params: FactorAnalysisParams | None, d: int, k: int, dtype: Any) -> Array:
    """(loadings, mean), (D, k + 1); zeros without parameters."""
    if params is None:
        return jnp.zeros((d, k + 1), dtype)
    return jnp.concatenate([params.loadings, params.mean[:, None]], axis=1)


@program
def _posterior(model: FactorAnalysis, params: FactorAnalysisParams, x: Array) -> Factors:
    q = model.e_step(params, x)
    return q._replace(means=jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.means, jnp.nan))


@program(quick="few numbers")
def _init(model: FactorAnalysis, key: Array, data: Data) -> tuple[FactorAnalysisParams, Array]:
    x, weights = counted(data)
    dtype = float_dtype(x)
    x = x.astype(dtype)
    counts = jnp.ones((x.shape[0],), dtype) if weights is None else weights.astype(dtype)
    share = (counts / counts.sum())[:, None]
    x = jnp.where(share > 0, x, 0)
    mean = (share * x).sum(axis=0)
    y = x - mean[None, :]
    y = y - (share * y).sum(axis=0)[None, :]  # corrects for the rounding of the mean
    variance = (share * y**2).sum(axis=0)
    directions = jax.random.normal(key, (x.shape[1], model.k), dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    params = FactorAnalysisParams(mean, jnp.sqrt(variance / 2)[:, None] * directions, variance / 2)
    return params, all_finite(params) & ~model.degenerate(params) & varies(x)
