"""One component more? The likelihood-ratio test whose null distribution only the bootstrap knows (McLachlan 1987)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core.bound import has_objective
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import as_data
from jaxem.core.data import Data
from jaxem.core.model import check_model, has, require
from jaxem.fitting.fit import fit
from jaxem.fitting.restarts import fit_restarts
from jaxem.fitting.result import Fit, FitError, Status
from jaxem.fitting.stopping import Rule, aitken
from jaxem.inference.simulation import batches, draw, in_batches, prepare, sound

NAMES = ("null", "alternative")


class LikelihoodRatio(NamedTuple):
    """What ``likelihood_ratio_test`` found."""

    statistic: Array  # 2 (L_alternative - L_null) on the data
    null_distribution: Array  # (replicates - failed,), the same on data drawn from the fitted null model
    p_value: Array  # (1 + how many of those are as large) / (1 + their number)
    failed: int  # replicates of which one of the two fits failed; left out
    null: Fit
    alternative: Fit

    def __str__(self) -> str:
        tried = self.null_distribution.size + self.failed
        return (
            f"likelihood ratio {float(self.statistic):.4f}, p = {float(self.p_value):.4g} "
            f"({tried} replicates, {self.failed} failed and left out)"
        )

    __repr__ = __str__


def likelihood_ratio_test(
    null: Any,
    alternative: Any,
    key: Array,
    data: Data,
    *,
    replicates: int = 199,
    restarts: int = 10,
    algorithm: Algorithm | None = None,
    stop: Rule | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
) -> LikelihoodRatio:
    r"""Does the ``alternative`` (k + 1 components, say) fit better than chance, were the ``null`` model (k) true?

    .. math:: T = 2 \left(\max L_{alternative} - \max L_{null}\right), \qquad
              p = \frac{1 + \#\{T^*_b \ge T\}}{1 + B}, \quad x^*_b \sim p(x \mid \hat\theta_{null})

    T has no chi-squared distribution: under the null a weight lies at the edge of its space, and what the class of
    that weight looks like is not defined. So it is simulated: each of ``replicates`` data sets is drawn from the fitted
    null model, and both models are fitted to it as they were to the data, from ``restarts`` random starts. All of it
    runs in one program, ``batch_size`` replicates at a time (default: as in ``bootstrap``). ``stop``: by default
    ``jaxem.aitken(1e-6)``, for T asks for the likelihood only.

    A replicate in which every start of one model failed is left out and counted; a fit that reached ``max_steps``
    counts with what it reached. A negative T says that the starts of the alternative missed its maximum: raise
    ``restarts``. The level is exact only as far as they find it.

    Raises ``ValueError`` where a model lacks ``init`` or a likelihood, or the null model cannot sample (see
    ``bootstrap``), and ``FitError`` where a fit to the data, or all of those to replicates, failed.

    Source: McLachlan (1987); the count of the data among the replicates: Davison & Hinkley (1997), section 4.2.
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
    data = prepare(null, as_data(data))
    rule = aitken(1e-6) if stop is None else stop
    observed_key, null_key = jax.random.split(key)
    fits = []
    for name, model, fit_key in zip(NAMES, (null, alternative), jax.random.split(observed_key), strict=True):
        end = fit_restarts(
            model, fit_key, data, restarts=restarts, algorithm=algorithm, stop=rule, max_steps=max_steps
        ).best
        if not sound(end.status):
            raise FitError(f"every fit of the {name} model to the data failed: {Status(int(end.status)).name}")
        fits.append(end)
    observed = 2 * (_likelihood(alternative, fits[1]) - _likelihood(null, fits[0]))
    size = batch_size or batches(alternative, fits[1].params, data, replicates, restarts)
    simulated, good = _null_distribution(
        (null, alternative), fits[0].params, data, null_key, algorithm, rule, restarts, max_steps, replicates, size
    )
    simulated = simulated[good]
    if not simulated.size:
        raise FitError("no replicate could be fitted by both models: use fewer components or a prior")
    as_large = (simulated >= observed).sum()
    p_value = (1 + as_large) / (1 + simulated.size)
    return LikelihoodRatio(observed, simulated, p_value, replicates - simulated.size, fits[0], fits[1])


def _likelihood(model: Any, end: Fit) -> Array:
    """L at the end of a fit: the objective without the prior."""
    assert end.objective is not None
    return end.objective - model.log_prior(end.params) if has(model, "log_prior") else end.objective


@program(static_argnames=("restarts", "max_steps", "replicates", "batch_size"))
def _null_distribution(
    models: tuple[Any, Any],
    params: Any,
    data: Data,
    key: Array,
    algorithm: Any,
    rule: Any,
    restarts: int,
    max_steps: int,
    replicates: int,
    batch_size: int,
) -> tuple[Array, Array]:
    """T of each replicate, and whether both models were fitted to it."""

    def highest(model: Any, data: Data, key: Array) -> Array:
        """The likelihood of the best fit; -inf where all failed."""

        def one(key: Array) -> tuple[Array, Array]:
            init_key, fit_key = jax.random.split(key)
            start = model.init(init_key, data)
            end = fit(model, start, data, algorithm=algorithm, stop=rule, max_steps=max_steps, key=fit_key)
            rank = jnp.where(sound(end.status), jnp.asarray(end.objective), -jnp.inf)
            return rank, _likelihood(model, end)

        # One after another where the replicates are: finished fits need not wait.
        ranks, likelihoods = in_batches(one, jax.random.split(key, restarts), 1 if batch_size == 1 else restarts)
        return jnp.where(ranks.max() > -jnp.inf, likelihoods[ranks.argmax()], -jnp.inf)

    def one(key: Array) -> tuple[Array, Array]:
        data_key, null_key, alternative_key = jax.random.split(key, 3)
        again = draw(models[0], params, data, data_key)
        lower, upper = highest(models[0], again, null_key), highest(models[1], again, alternative_key)
        return 2 * (upper - lower), jnp.isfinite(lower) & jnp.isfinite(upper)

    return in_batches(one, jax.random.split(key, replicates), batch_size)
