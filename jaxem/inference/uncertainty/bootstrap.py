"""The bootstrap: refit the model to resampled or simulated data and measure how the estimates vary (Efron 1979)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, tables, trees
from jaxem.core.checks import number, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import convert_named
from jaxem.core.data import Data, Dataset, count, lengths_of, split_weights, values_of, with_weights
from jaxem.core.model import Params, has
from jaxem.core.spaces import Space, answers
from jaxem.fitting.fit import check_call, choose, fit_alone
from jaxem.fitting.result import Status
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_start
from jaxem.inference.alignment import align
from jaxem.inference.coordinates import labels_of, parameter_names, parameter_spaces
from jaxem.inference.simulation import batches, draw, in_batches, prepare, replicated, sound

Kind = Literal["parametric", "nonparametric"]


class Bootstrap(NamedTuple):
    """The result of ``bootstrap``; prints as a table of estimates, standard errors and 95 % intervals."""

    estimate: Params  # the parameters of the fit
    replicates: Params  # like ``estimate``, with a leading axis of the R replicates whose fit did not fail
    objectives: Array  # (R,), the objective of each of those, on its own data
    statuses: Array  # (replicates,), the status of every fit, failed ones too
    kind: str  # "nonparametric" or "parametric"
    aligned: bool  # whether class labels (or rotations) were matched with those of the estimate
    still: Params  # True where no replicate moved a parameter by more than rounding: held, or a probability of 0 or 1
    names: tuple[str, ...]  # the name of every parameter
    library: str | None = None  # of the data frame that the data came as

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``parameter``, ``estimate``, ``std_error``, ``lower`` and ``upper`` (95 %).
        """
        parts = [self.estimate, self.standard_errors, *self.intervals()]
        flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in parts]
        return dict(
            zip(("parameter", "estimate", "std_error", "lower", "upper"), [list(self.names), *flat], strict=True)
        )

    @property
    def failed(self) -> int:
        """The number of fits that failed; they are left out of ``replicates``."""
        return int((~sound(self.statuses)).sum())

    @property
    def standard_errors(self) -> Params:
        """The standard deviation of each parameter over the replicates (divisor R - 1), shaped like the estimate.

        NaN where no replicate moved the parameter (see ``still``): resampling says nothing about its error.
        """
        deviations = jax.tree.map(lambda leaf: leaf.std(axis=0, ddof=1), self.replicates)
        return _unless(self.still, deviations)

    def intervals(self, level: float = 0.95) -> tuple[Params, Params]:
        """Percentile intervals of every parameter.

        The intervals stay inside the parameter space and do not depend on the coordinates.

        Arguments:
            level: the coverage, a probability strictly between 0 and 1; default 0.95.

        Returns:
            (lower, upper), each shaped like the estimate; NaN where no replicate moved the parameter.

        Raises:
            ValueError: the level is not in (0, 1).

        Source: Efron (1981).
        """
        number("level (such as 0.95)", level, 0, 1, open_ends=True)

        def end(share: float) -> Params:
            return _unless(self.still, jax.tree.map(lambda leaf: jnp.quantile(leaf, share, axis=0), self.replicates))

        return end((1 - level) / 2), end((1 + level) / 2)

    def __str__(self) -> str:
        values = np.stack(list(self.as_dict().values())[1:], 1)
        names = tables.names(self.names)
        rows = [["parameter", "estimate", "std. error", "2.5 %", "97.5 %"]]
        rows += [[name, *tables.with_error(*row)] for name, row in zip(names, values, strict=True)]
        lines = tables.columns(rows, "<>>>>")
        still = [name for name, value in zip(names, values[:, 1], strict=True) if np.isnan(value)]
        if still:
            lines.append(f"no standard error, because no replicate moved these parameters: {', '.join(still)}")
        unfinished = int((self.statuses == Status.MAX_STEPS).sum())
        title = f"Bootstrap, {self.kind}: {self.statuses.size} replicates, {self.failed} failed and left out"
        title += f", {unfinished} stopped by max_steps" if unfinished else ""
        title += "; labels matched" if self.aligned else ""
        return "\n".join([title, *lines])

    __repr__ = __str__


def _unless(still: Params, values: Params) -> Params:
    return jax.tree.map(lambda at, value: jnp.where(at, jnp.nan, value), still, values)


def bootstrap(
    model: Any,
    params: Params,
    data: Data,
    *,
    key: Array,
    replicates: int = 1000,
    kind: Kind = "nonparametric",
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
) -> Bootstrap:
    """Standard errors and percentile intervals of ``params``, a fit to ``data``, from refits to replicate data sets.

    Each replicate is fitted from ``params``, so that it stays near the same maximum. Its class labels are then matched
    with those of ``params`` (``align``) where the model has ``permute`` and ``predict_proba``; its factors are rotated
    instead where the model has ``rotate``. A model with neither is assumed to need no matching. All fits run in one
    compiled program, on each core a part of them.

    A parameter that no replicate moves, such as a probability of zero (which EM never leaves), has the standard error
    NaN.

    Arguments:
        model: the model that was fitted.
        params: the estimate, or its ``Fit``.
        data: the data of that fit.
        key: the key of the random draws.
        replicates: the number of replicates, at least 2; default 1000.
        kind: ``"nonparametric"`` (default): n rows drawn with replacement, expressed as weights, so the model must
            accept weights. Weights of ``data`` count rows: as many rows are drawn as the weights sum to.
            ``"parametric"``: data drawn from the model, by ``sample_like(key, params, data)`` or
            ``sample(key, params, n)``; weights of ``data`` must then be whole numbers.
        algorithm, tol, stop, max_steps: as in ``jaxem.fit``. A fit that stops at ``max_steps`` is kept, and counted
            when the result is printed; a fit that failed is left out and counted in ``failed``.
        batch_size: how many fits run side by side. Default: on a CPU one, on other devices as many as fill the device.

    Returns:
        A ``Bootstrap``.

    Raises:
        ValueError: ``params`` lie outside the model; the kind is unknown; there are fewer than 2 replicates; the model
            cannot sample; the data are a single observation (one sequence is one observation) or all rows are equal, so
            that resampling would give errors of zero; the weights sum to fewer than 2 rows; fewer than 2 fits
            succeeded; no replicate moved any parameter; or the call is inside a trace.

    Source: Efron & Tibshirani (1993); O'Hagan, Murphy, Scrucca & Gormley (2019) for mixtures.
    """
    if kind not in ("parametric", "nonparametric"):
        raise ValueError(f"bootstrap: kind must be 'parametric' or 'nonparametric'; got {kind!r}")
    replicates = whole_number("bootstrap: replicates", replicates, 2)
    if batch_size is not None:
        batch_size = whole_number("bootstrap: batch_size", batch_size, 1)
    prng_key("bootstrap", key)
    params, data, names = convert_named(model, params, data)
    labels = labels_of(model, data, names)
    if trees.is_traced(params, data, key):
        raise ValueError("bootstrap needs concrete values (which fits failed): it cannot run inside jit, vmap or grad")
    check_start(model, params, data)
    if kind == "nonparametric":
        _check_rows(data)
    algorithm = choose(algorithm, model)
    max_steps = check_call("bootstrap", algorithm, max_steps, key, tol, stop)
    if kind == "parametric":
        data = prepare(model, data)
    draws = None if kind == "parametric" else _draws(data)
    size = batches(model, params, data, replicates) if batch_size is None else batch_size
    how = algorithm, stop, tol
    given = lambda keys: (model, params, data, keys, *how, draws, max_steps, size)
    fitted, objectives, statuses = replicated(_replicates, given, key, replicates)
    kept = np.flatnonzero(np.asarray(sound(statuses)))
    if kept.size < 2:
        ends = ", ".join(Status(code).name for code in np.unique(np.asarray(statuses)))
        raise ValueError(f"bootstrap: {replicates - kept.size} of {replicates} fits failed ({ends})")
    fitted, objectives, statuses = jax.device_put(
        (*jax.tree.map(lambda leaf: leaf[kept], (fitted, objectives)), statuses)
    )
    still = _still(model, fitted, params)
    every = parameter_names(model, params, labels)
    found = Bootstrap(params, fitted, objectives, statuses, kind, _has_labels(model), still, every, labels.library)
    if all(np.asarray(leaf).all() for leaf in jax.tree.leaves(still)):
        raise ValueError(
            f"bootstrap: none of {kept.size} fits moved from the estimate, so its error cannot be estimated. Check "
            "that max_steps allows steps and that the parameters depend on the data"
        )
    return found


@program(quick="few numbers")
def _still(model: Any, replicates: Params, params: Params) -> Params:
    """Which parameters no replicate moved by more than rounding error, shaped like the parameters.

    The range of a probability is compared with 1: a value of 1e-100 is zero for this purpose, because EM does not leave
    it in any replicate and changes of its logarithm say nothing about the estimate. Every other parameter is compared
    with its own size.
    """

    def one(space: Space, leaf: Array) -> Array:
        unit = answers.unit(space)
        scale = jnp.abs(leaf).max(axis=0) if unit is None else unit
        return ~(leaf.max(axis=0) - leaf.min(axis=0) > 64 * jnp.finfo(leaf.dtype).eps * scale)  # NaN counts as unmoved

    leaves, structure = jax.tree.flatten(replicates)
    found = [one(*both) for both in zip(parameter_spaces(model, params), leaves, strict=True)]
    return jax.tree.unflatten(structure, found)


def _check_rows(data: Data) -> None:
    """Raise ``ValueError`` where every resampled data set would equal the original."""
    observations, weights = split_weights(data)
    counts = np.ones(count(observations), bool) if weights is None else np.asarray(weights) > 0
    instead = "kind='parametric', which draws new data from the model"
    if counts.sum() < 2:
        raise ValueError(
            "bootstrap: the data are one observation (one sequence is one), so every resampled data set is the same "
            f"and every error would be zero. Use {instead}"
        )
    if weights is not None and _draws(data) < 2:
        raise ValueError(
            f"bootstrap draws as many rows as the weights sum to, here {float(weights.sum()):.3g}; at least 2 are "
            f"needed. Give weights that count observations, or use {instead}"
        )
    if not (_differ_from(observations, int(counts.argmax())) & counts).any():
        raise ValueError(
            "bootstrap: all observations are equal, so every resampled data set is the same and every error would be "
            f"zero. Use {instead}"
        )


def _differ_from(observations: Data, row: int) -> np.ndarray:
    """Which observations (N,) differ from observation ``row``; padding is ignored."""
    lengths = lengths_of(observations)
    n = count(observations)
    found = np.zeros(n, bool)
    for leaf in map(np.asarray, jax.tree.leaves(values_of(observations))):
        other = leaf != leaf[row]
        if lengths is not None:
            inside = np.arange(leaf.shape[1]) < np.asarray(lengths)[:, None]
            other = other & inside.reshape(*inside.shape, *(1,) * (leaf.ndim - 2))
        found |= other.reshape(n, -1).any(axis=1)
    return found if lengths is None else found | (np.asarray(lengths) != np.asarray(lengths)[row])


def _has_labels(model: Any) -> bool:
    return has(model, "rotate") or has(model, "permute", "predict_proba")


def _draws(data: Data) -> int:
    """The number of rows that a non-parametric replicate draws: N, or the sum of the weights."""
    observations, weights = split_weights(data)
    return count(observations) if weights is None else round(float(weights.sum()))


@program(static_argnames=("draws", "max_steps", "batch_size"))
def _replicates(
    model: Any,
    params: Params,
    data: Data,
    keys: Array,
    algorithm: Any,
    stop: Any,
    tol: Any,
    draws: int | None,
    max_steps: int,
    batch_size: int,
) -> tuple[Params, Array, Array]:
    def one(key: Array) -> tuple[Params, Array, Array]:
        data_key, fit_key = jax.random.split(key)
        again = draw(model, params, data, data_key) if draws is None else resample(data_key, data, draws)
        options = {"algorithm": algorithm, "stop": stop, "tol": tol, "max_steps": max_steps}
        end, _ = fit_alone(model, params, again, **options, key=fit_key)
        named = align(model, end.params, params, data) if _has_labels(model) else end.params
        objective = jnp.nan if end.objective is None else end.objective
        return named, jnp.asarray(objective), end.status

    return in_batches(one, keys, batch_size)


def resample(key: Array, data: Data, draws: int) -> Dataset:
    """``draws`` rows drawn with replacement, expressed as multinomial weights."""
    observations, weights = split_weights(data)
    n = count(observations)
    dtype = trees.float_dtype(data)
    if weights is None:
        rows = jax.random.randint(key, (draws,), 0, n)
    else:
        cumulative = jnp.cumsum(weights.astype(dtype))
        u = jax.random.uniform(key, (draws,), dtype) * cumulative[-1]
        rows = jnp.minimum(jnp.searchsorted(cumulative, u, side="right"), n - 1)
    return with_weights(observations, jnp.zeros((n,), dtype).at[rows].add(1))
