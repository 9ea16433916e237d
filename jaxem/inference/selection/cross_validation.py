"""Cross-validated log-likelihood."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, tables, trees
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.data import Data, check_counts, count, split_weights, with_weights
from jaxem.core.dataset import as_data
from jaxem.core.labels import library_of
from jaxem.core.model import check_model, require
from jaxem.fitting.fit import check_call, choose
from jaxem.fitting.restarts import fit_restarts
from jaxem.fitting.result import Status
from jaxem.fitting.stopping import Rule
from jaxem.inference.sample_size import sample_size
from jaxem.inference.selection.floors import without_floors
from jaxem.inference.simulation import in_parts, sound


class CrossValidation(NamedTuple):
    """The result of ``cross_validate``; prints as one line."""

    held_out: Array  # (folds,), log-likelihood of each fold under the fit to the others; NaN where that fit failed
    sizes: Array  # (folds,), the number of observations held out (see ``sample_size``)
    statuses: Array  # (folds,), the status of each fit
    library: str | None = None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The folds by columns.

        Returns:
            A dict: ``fold``, ``held_out``, ``size``, ``status``.
        """
        statuses = [Status(int(code)).name for code in np.asarray(self.statuses)]
        held_out, sizes = np.asarray(self.held_out), np.asarray(self.sizes)
        return {"fold": np.arange(sizes.size), "held_out": held_out, "size": sizes, "status": statuses}

    @property
    def log_likelihood(self) -> float:
        """The held-out log-likelihood, summed over all folds; NaN where a fit failed."""
        return float(self.held_out.sum())

    @property
    def mean(self) -> float:
        """The held-out log-likelihood per observation; every observation counts the same, whatever its fold."""
        return float(self.held_out.sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        r"""The standard error of ``mean``, estimated from the differences of folds; NaN where a fold is not finite.

        .. math:: \frac{1}{\sum_f n_f} \sqrt{\frac{F}{F - 1} \sum_f (L_f - \bar L n_f)^2}, \qquad
                  \bar L = \sum_f L_f / \sum_f n_f

        This is the error of a ratio of sums; for F folds of equal size it is that of a mean of F numbers.

        Source: Cochran (1977), section 6.3.
        """
        held_out, sizes = np.asarray(self.held_out, np.float64), np.asarray(self.sizes, np.float64)
        folds = held_out.size
        if not np.isfinite(held_out).all():
            return float("nan")
        apart = held_out - held_out.sum() / sizes.sum() * sizes
        return float(np.sqrt(folds / (folds - 1) * (apart**2).sum()) / sizes.sum())

    def __str__(self) -> str:
        codes, times = np.unique(self.statuses, return_counts=True)
        ends = ", ".join(f"{n} {Status(code).name}" for code, n in zip(codes, times, strict=True))
        mean, error = tables.with_error(self.mean, self.standard_error)
        text = (
            f"{self.sizes.size} folds: held-out log-likelihood {tables.fixed(self.log_likelihood, 3)}, {mean} an "
            f"observation (standard error over the folds {error}); fits ended {ends}"
        )
        failed = int(np.isnan(self.held_out).sum())
        return text + f"; {failed} of them failed, so that there is no sum over all observations" * (failed > 0)

    __repr__ = __str__


def cross_validate(
    model: Any,
    data: Data,
    *,
    key: Array,
    folds: int = 10,
    restarts: int = 5,
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
) -> CrossValidation:
    r"""The held-out log-likelihood of each fold under the model fitted to all other folds.

    .. math:: L_f = \log p(x_f \mid \hat\theta_{-f})

    Rows are assigned to folds at random, rows of weight zero last. On a CPU a part of the folds
    runs on each core, elsewhere all under one ``vmap``. Where all
    folds have the same size and the data have no weights, each lane receives its own rows, so any model with ``init``
    and ``log_likelihood`` can be used. Otherwise each lane receives all rows, those that are left out with weight zero,
    and the model must accept weights.

    Arguments:
        model: the model; it needs ``init`` and ``log_likelihood``.
        data: the data; any weights multiply the observations.
        key: the key of the folds and of the random starts.
        folds: the number of folds, at least 2 and at most the number of observations with weight; default 10.
        restarts: the number of random starts of each fit; default 5.
        algorithm, tol, stop, max_steps: as in ``jaxem.fit``.

    Returns:
        A ``CrossValidation``.

    Raises:
        ValueError: there are fewer than 2 folds, or more folds than observations with weight; or the model lacks
            ``init`` or ``log_likelihood``.

    Source: Smyth (2000), *Model selection for probabilistic clustering using cross-validated likelihood*.
    """
    check_model(model)
    require(model, "cross_validate", "init", "log_likelihood")
    library, data = library_of(data), as_data(data)
    check_counts(data)
    n = count(data)
    _, weights = split_weights(data)
    if weights is not None and not trees.is_traced(weights):
        n = int((weights > 0).sum())
    folds, restarts = whole_number("folds", folds, 2), whole_number("restarts", restarts, 1)
    prng_key("cross_validate", key)
    if folds > n:
        raise ValueError(f"cross_validate: folds must be between 2 and the {n} observations; got {folds}")
    model.init(key, data)  # outside the trace, so that unsuitable data raise a ValueError
    algorithm = choose(algorithm, model)
    max_steps = check_call("cross_validate", algorithm, max_steps, key, tol, stop)
    given = lambda some: (model, key, data, algorithm, stop, tol, some, folds, restarts, max_steps)
    if trees.is_traced(model, key, data):
        return _cross_validate(*given(jnp.arange(folds)))
    found = in_parts(_cross_validate, given, np.arange(folds))
    return CrossValidation(*jax.device_put(found[:3]), library=library)


@program(static_argnames=("folds", "restarts", "max_steps"))
def _cross_validate(
    model: Any,
    key: Array,
    data: Data,
    algorithm: Any,
    stop: Any,
    tol: Any,
    some: Array,
    folds: int,
    restarts: int,
    max_steps: int,
) -> CrossValidation:
    """The results of ``some`` of the folds."""
    n = count(data)
    deal_key, fit_key = jax.random.split(key)
    dealt = jax.random.permutation(deal_key, n)
    observations, weights = split_weights(data)
    apart = n % folds == 0 and weights is None  # whether each lane receives only its own rows
    if weights is None:
        weights = jnp.ones((n,), trees.float_dtype(data))
    else:
        dealt = dealt[jnp.argsort(weights[dealt] <= 0, stable=True)]

    def rows(indices: Array) -> Data:
        return jax.tree.map(lambda leaf: leaf[indices], data)

    def one(key: Array, fold: Array) -> tuple[Array, Array, Array]:
        if apart:
            held = dealt.reshape(folds, -1)[fold]
            others = dealt.reshape(folds, -1)[(fold + 1 + jnp.arange(folds - 1)) % folds].reshape(-1)
            train, test = rows(others), rows(held)
        else:
            held = jnp.zeros((n,), bool).at[dealt].set(jnp.arange(n) % folds == fold)
            train = with_weights(observations, jnp.where(held, 0, weights))
            test = with_weights(observations, jnp.where(held, weights, 0))
        best = fit_restarts(
            model, train, key=key, restarts=restarts, algorithm=algorithm, stop=stop, tol=tol, max_steps=max_steps
        ).best
        value = without_floors(model).log_likelihood(best.params, test)
        return jnp.where(sound(best.status), value, jnp.nan), sample_size(model, test), best.status

    lanes = jax.random.split(fit_key, folds)[some], some
    if jax.default_backend() == "cpu":  # one after another: none waits for the slowest
        return CrossValidation(*jax.lax.map(lambda lane: one(*lane), lanes))
    return CrossValidation(*jax.vmap(one)(*lanes))
