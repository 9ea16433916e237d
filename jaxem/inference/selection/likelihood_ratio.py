"""The likelihood-ratio test with a bootstrap null distribution, e.g. for the number of components (McLachlan 1987)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, tables
from jaxem.core.bound import has_objective
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, size
from jaxem.core.dataset import as_data
from jaxem.core.labels import library_of
from jaxem.core.model import check_model, has, require
from jaxem.fitting.restarts import fit_restarts
from jaxem.fitting.result import Fit, FitError, Status
from jaxem.fitting.stopping import Rule, aitken
from jaxem.inference.simulation import batches, draw, in_batches, prepare, replicated, sound

NAMES = ("null", "alternative")
_MISSED = 0.1  # T below minus this means a missed maximum; fits stop closer to it, and chance moves T by about 1


class LikelihoodRatio(NamedTuple):
    """The result of ``likelihood_ratio_test``; prints as a few lines."""

    statistic: Array  # 2 (L_alternative - L_null) on the data
    null_distribution: Array  # (replicates - failed,), the statistic on data drawn from the fitted null model
    p_value: Array  # (1 + number at least as large) / (1 + their number); NaN where the alternative missed its maximum
    failed: int  # replicates in which a model could not be fitted; left out
    null: Fit  # the best fit of the smaller model to the data
    alternative: Fit  # the best fit of the larger model to the data
    restarts: int  # the number of starts of each fit
    times_best_found: tuple[int, int]  # how many starts found the best fit to the data: null, alternative
    found_once: int  # replicates in which only one start found the best fit of a model
    below: int  # replicates in which the alternative ended below the null, its special case
    library: str | None = None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The test as one row.

        Returns:
            A dict: ``statistic``, ``p_value``, the two log-likelihoods, ``replicates``, ``failed``.
        """
        fits = {"null": self.null.objective, "alternative": self.alternative.objective}
        return {
            "statistic": [float(self.statistic)],
            "p_value": [float(self.p_value)],
            **{name: [np.nan if value is None else float(value)] for name, value in fits.items()},
            "replicates": [self.null_distribution.size],
            "failed": [self.failed],
        }

    def __str__(self) -> str:
        kept, tried = self.null_distribution.size, self.null_distribution.size + self.failed
        counted = f"({tried} replicates, {self.failed} failed and left out)"
        ratio, starts = tables.fixed(self.statistic, 4), self.restarts
        lines = [f"likelihood ratio {ratio}, p = {tables.number(self.p_value, 4)} {counted}"]
        if np.isnan(self.p_value):
            lines = [
                f"likelihood ratio {ratio}, no p-value {counted}",
                "the alternative ended below the null on the data, and it holds the null as a special case: its starts "
                "missed its maximum. Raise restarts",
            ]
        null, alternative = self.times_best_found
        found = f"best fit to the data found by {null} of {starts} starts (null) and {alternative} (alternative)"
        lines.append(f"{found}; in {self.found_once} of {kept} replicates by one start only")
        if starts == 1:
            lines[-1] = "one start each: whether it found the best fit is not known"
        elif 1 in self.times_best_found or 2 * self.found_once > kept:
            lines[-1] += ". There may be better ones: raise restarts"
        if self.below:
            lines.append(
                f"the alternative ended below the null in {self.below} of {kept} replicates, where its starts missed "
                "its maximum: p may be too small. Raise restarts"
            )
        for name, end in zip(NAMES, (self.null, self.alternative), strict=True):
            if end.status != Status.CONVERGED:
                lines.append(f"the fit of the {name} to the data ended {Status(int(end.status)).name}")
        return "\n".join(lines)

    __repr__ = __str__


def likelihood_ratio_test(
    null: Any,
    alternative: Any,
    data: Data,
    *,
    key: Array,
    replicates: int = 199,
    restarts: int = 10,
    algorithm: Algorithm | None = None,
    stop: Rule | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
) -> LikelihoodRatio:
    r"""A bootstrap test of the ``null`` model (k components, say) against the ``alternative`` (k + 1).

    .. math:: T = 2 \left(\max L_{alternative} - \max L_{null}\right), \qquad
              p = \frac{1 + \#\{T^*_b \ge T\}}{1 + B}, \quad x^*_b \sim p(x \mid \hat\theta_{null})

    T does not have a chi-squared distribution: under the null a weight lies at the edge of its space, and the
    parameters of that class are not identified. The null distribution is therefore simulated: each replicate data set
    is drawn from the fitted null model, and both models are fitted to it exactly as they were to the data.

    The test is as good as the starts are; the result says how many of them found the best fit, on the data and in the
    replicates. If T is below -0.1 (fits stop closer to their maximum than that), the starts of the alternative missed
    its maximum: on the data the p-value is then NaN, and such replicates are counted in ``below``. The check is skipped
    where a model has a prior, because its fit does not end at the largest likelihood, so that T may be negative.

    Arguments:
        null: the null model; it needs ``init``, a likelihood, and ``sample_like`` or ``sample``.
        alternative: the alternative model, of which the null is a special case; it needs ``init`` and a likelihood.
        data: the data; weights must be whole numbers.
        key: the key of starts and replicates.
        replicates: the number B of simulated data sets; default 199. One in which every start of a model failed is left
            out and counted in ``failed``.
        restarts: the number of random starts of each fit; default 10.
        algorithm, max_steps: as in ``jaxem.fit``. A fit that stops at ``max_steps`` counts with the likelihood it
            reached.
        stop: the stopping rule; default ``jaxem.fitting.aitken(1e-6)``, because T depends on the likelihood only.
        batch_size: how many replicates run side by side; default as in ``jaxem.inference.bootstrap``.

    Returns:
        A ``LikelihoodRatio``.

    Raises:
        ValueError: a model lacks ``init`` or a likelihood; the null model cannot sample; or weights are not whole
            numbers.
        FitError: all fits of a model to the data failed, or no replicate could be fitted by both models.

    Source: McLachlan (1987); Davison & Hinkley (1997), section 4.2, for counting the data among the replicates.
    """
    for model in (null, alternative):
        check_model(model)
        require(model, "likelihood_ratio_test", "init")
        if not has_objective(model):
            require(model, "likelihood_ratio_test", "log_likelihood")
    replicates, restarts = whole_number("replicates", replicates, 1), whole_number("restarts", restarts, 1)
    max_steps = whole_number("max_steps", max_steps, 0)
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    prng_key("likelihood_ratio_test", key)
    library, data = library_of(data), prepare(null, as_data(data))
    rule = aitken(1e-6) if stop is None else stop
    observed_key, null_key = jax.random.split(key)
    fits, found = [], []
    for name, model, fit_key in zip(NAMES, (null, alternative), jax.random.split(observed_key), strict=True):
        run = fit_restarts(
            model, data, key=fit_key, restarts=restarts, algorithm=algorithm, stop=rule, max_steps=max_steps
        )
        if not sound(run.best.status):
            raise FitError(f"every fit of the {name} model to the data failed: {Status(int(run.best.status)).name}")
        fits.append(run.best)
        found.append(int(run.times_best_found))
    observed = 2 * (_likelihood(alternative, fits[1]) - _likelihood(null, fits[0]))
    batch = batch_size or batches(alternative, fits[1].params, data, replicates, restarts)
    of_null, options = fits[0].params, (algorithm, rule, restarts, max_steps, batch)
    given = lambda keys: ((null, alternative), of_null, data, keys, *options)
    simulated, times = replicated(_null_distribution, given, null_key, replicates)
    good = np.isfinite(simulated)
    simulated, times = simulated[good], times[good]
    if not simulated.size:
        raise FitError("no replicate could be fitted by both models: use fewer components, or a prior")
    slack = 2 * _apart(data, observed.dtype) * 2  # two likelihoods, each doubled in T
    as_large = (~(simulated < observed - slack)).sum()  # where T is NaN all count as large
    p_value = (1 + as_large) / (1 + simulated.size)
    below = 0
    if not any(_has_prior(model, end) for model, end in zip((null, alternative), fits, strict=True)):
        below = int((simulated < -_MISSED).sum())
        p_value = jnp.where(observed >= -_MISSED, p_value, jnp.nan)
    once = int((times == 1).any(axis=1).sum()) if restarts > 1 else 0
    failed = replicates - simulated.size
    of_null = jax.device_put(simulated)
    return LikelihoodRatio(
        *(observed, of_null, p_value, failed, fits[0], fits[1], restarts, (found[0], found[1]), once, below, library)
    )


def _apart(data: Data, dtype: Any) -> Array:
    """The difference below which two likelihoods count as the same maximum: 1e-6 for each observed value."""
    return 1e-6 * size(data, dtype)


def _has_prior(model: Any, end: Fit) -> bool:
    return end.objective is not None and bool(_likelihood(model, end) != end.objective)


def _likelihood(model: Any, end: Fit) -> Array:
    """L at the end of a fit: the objective without the prior."""
    assert end.objective is not None
    return end.objective - model.log_prior(end.params) if has(model, "log_prior") else end.objective


@program(static_argnames=("restarts", "max_steps", "batch_size"))
def _null_distribution(
    models: tuple[Any, Any],
    params: Any,
    data: Data,
    keys: Array,
    algorithm: Any,
    rule: Any,
    restarts: int,
    max_steps: int,
    batch_size: int,
) -> tuple[Array, Array]:
    """T of each replicate, not finite where a model could not be fitted, and how many starts found each best fit."""

    def highest(model: Any, data: Data, key: Array) -> tuple[Array, Array]:
        """The likelihood of the best fit, NaN where all failed, and how many starts found it."""
        options = {"algorithm": algorithm, "stop": rule, "max_steps": max_steps}
        run = fit_restarts(model, data, key=key, restarts=restarts, **options)
        likelihood = _likelihood(model, run.best)
        good = sound(run.best.status) & jnp.isfinite(likelihood)
        return jnp.where(good, likelihood, jnp.nan), run.times_best_found

    def one(key: Array) -> tuple[Array, Array]:
        data_key, null_key, alternative_key = jax.random.split(key, 3)
        again = draw(models[0], params, data, data_key)
        lower, found = highest(models[0], again, null_key)
        upper, also_found = highest(models[1], again, alternative_key)
        return 2 * (upper - lower), jnp.stack([found, also_found])

    return in_batches(one, keys, batch_size)
