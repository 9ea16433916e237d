"""The bootstrap: fit again to data like these, and see how far the parameters move (Efron 1979)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import trees
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.data import Data, Weighted, count, split_weights
from jaxem.core.model import Params, has
from jaxem.fitting.fit import choose, fit
from jaxem.fitting.result import Status
from jaxem.fitting.stopping import Rule
from jaxem.fitting.validation import check_start
from jaxem.inference.alignment import align
from jaxem.inference.simulation import batches, draw, in_batches, prepare, sound

Kind = Literal["parametric", "nonparametric"]


class Bootstrap(NamedTuple):
    """The fits of ``bootstrap``; prints as a table of estimates, standard errors and 95 % intervals."""

    estimate: Params
    replicates: Params  # as ``estimate``, with a leading axis of the replicates whose fit did not fail
    objectives: Array  # of those, each on its own data
    statuses: Array  # (replicates,), of all fits
    kind: str
    aligned: bool  # whether labels (or rotations) were matched with the estimate's

    @property
    def failed(self) -> int:
        """How many fits failed, and are left out."""
        return int((~sound(self.statuses)).sum())

    @property
    def standard_errors(self) -> Params:
        """The standard deviation of each parameter over the replicates (with R - 1), shaped like the estimate."""
        return jax.tree.map(lambda leaf: leaf.std(axis=0, ddof=1), self.replicates)

    def intervals(self, level: float = 0.95) -> tuple[Params, Params]:
        """Percentile intervals, (lower, upper), each shaped like the estimate (Efron 1981).

        They respect the parameter space, whatever the coordinates. Raises ``ValueError`` for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval must lie between 0 and 1; it is {level}")

        def end(share: float) -> Params:
            return jax.tree.map(lambda leaf: jnp.quantile(leaf, share, axis=0), self.replicates)

        return end((1 - level) / 2), end((1 + level) / 2)

    def __str__(self) -> str:
        columns = [self.estimate, self.standard_errors, *self.intervals()]
        values = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in columns], 1)
        names = element_names(self.estimate)
        width = max(map(len, [*names, "parameter"]))
        lines = [f"{'parameter':<{width}}{'estimate':>13}{'std. error':>13}{'2.5 %':>13}{'97.5 %':>13}"]
        for name, row in zip(names, values, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{value:>13.6g}" for value in row))
        unfinished = int((self.statuses == Status.MAX_STEPS).sum())
        title = f"Bootstrap, {self.kind}: {self.statuses.size} replicates, {self.failed} failed and left out"
        title += f", {unfinished} stopped by max_steps" if unfinished else ""
        title += "; labels matched" if self.aligned else ""
        return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])

    __repr__ = __str__


def bootstrap(
    model: Any,
    params: Params,
    data: Data,
    key: Array,
    replicates: int = 1000,
    *,
    kind: Kind = "nonparametric",
    algorithm: Algorithm | None = None,
    tol: float = 1e-10,
    stop: Rule | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
) -> Bootstrap:
    """Standard errors and intervals of ``params``, a fit to ``data``, from fits to data like these.

    ``"nonparametric"``: n rows drawn with replacement, as weights: the model must take ``jaxem.Weighted``. Weights
    that ``data`` have already count as so many equal rows. ``"parametric"``: data drawn from the model itself by its
    ``sample_like(key, params, data)`` or ``sample(key, params, n)``.

    Each replicate is fitted from ``params``, so that it climbs the same hill, and its labels are matched with theirs
    (``align``) where the model has ``permute``, its factors turned where it has ``rotate``. A model with neither is
    taken to have none. All fits run in one program, ``batch_size`` at a time (default: on a CPU one
    after another, elsewhere as many as fill the device).
    Fits that failed are left out and counted; one that reached ``max_steps`` is kept and counted.

    Raises ``ValueError`` where ``params`` lie outside the model, the kind is unknown, there are fewer than 2
    replicates, the model cannot sample, or every fit failed.

    Source: Efron & Tibshirani (1993); O'Hagan, Murphy, Scrucca & Gormley (2019) for mixtures.
    """
    if kind not in ("parametric", "nonparametric"):
        raise ValueError(f"bootstrap: kind must be 'parametric' or 'nonparametric'; got {kind!r}")
    if replicates < 2:
        raise ValueError(f"bootstrap: replicates must be at least 2; got {replicates}")
    params, data = convert(model, params, data)
    check_start(model, params, data)
    algorithm = choose(algorithm, model)
    if kind == "parametric":
        data = prepare(model, data)
    draws = None if kind == "parametric" else _draws(data)
    size = batches(model, params, data, replicates) if batch_size is None else batch_size
    fitted, objectives, statuses = _replicates(
        model, params, data, key, algorithm, stop, tol, replicates, draws, max_steps, size
    )
    kept = np.flatnonzero(np.asarray(sound(statuses)))
    if kept.size < 2:
        ends = ", ".join(Status(code).name for code in np.unique(np.asarray(statuses)))
        raise ValueError(f"bootstrap: {replicates - kept.size} of {replicates} fits failed ({ends})")
    fitted, objectives = jax.tree.map(lambda leaf: leaf[kept], (fitted, objectives))
    return Bootstrap(params, fitted, objectives, statuses, kind, _has_labels(model))


def _has_labels(model: Any) -> bool:
    return has(model, "rotate") or has(model, "permute", "predict_proba")


def _draws(data: Data) -> int:
    """How many rows a non-parametric replicate draws: as many as there are, weights counted."""
    observations, weights = split_weights(data)
    return count(observations) if weights is None else round(float(weights.sum()))


@program(static_argnames=("replicates", "draws", "max_steps", "batch_size"))
def _replicates(
    model: Any,
    params: Params,
    data: Data,
    key: Array,
    algorithm: Any,
    stop: Any,
    tol: Any,
    replicates: int,
    draws: int | None,
    max_steps: int,
    batch_size: int,
) -> tuple[Params, Array, Array]:
    def one(key: Array) -> tuple[Params, Array, Array]:
        data_key, fit_key = jax.random.split(key)
        again = draw(model, params, data, data_key) if draws is None else resample(data_key, data, draws)
        end = fit(model, params, again, algorithm=algorithm, stop=stop, tol=tol, max_steps=max_steps, key=fit_key)
        named = align(model, end.params, params, data) if _has_labels(model) else end.params
        objective = jnp.nan if end.objective is None else end.objective
        return named, jnp.asarray(objective), end.status

    return in_batches(one, jax.random.split(key, replicates), batch_size)


def resample(key: Array, data: Data, draws: int) -> Weighted:
    """``draws`` rows drawn with replacement, as multinomial weights."""
    observations, weights = split_weights(data)
    n = count(observations)
    dtype = trees.float_dtype(data)
    if weights is None:
        rows = jax.random.randint(key, (draws,), 0, n)
    else:
        cumulative = jnp.cumsum(weights.astype(dtype))
        u = jax.random.uniform(key, (draws,), dtype) * cumulative[-1]
        rows = jnp.minimum(jnp.searchsorted(cumulative, u, side="right"), n - 1)
    return Weighted(observations, jnp.zeros((n,), dtype).at[rows].add(1))


def element_names(tree: Any) -> list[str]:
    """The name of every number, e.g. ``components.means[0, 1]``."""
    names = []
    for name, leaf in zip(trees.leaf_names(tree), jax.tree.leaves(tree), strict=True):
        for index in np.ndindex(jnp.shape(leaf)):
            names.append(f"{name}[{', '.join(map(str, index))}]" if index else name)
    return names
