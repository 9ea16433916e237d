"""Residuals that are standard normal where the model is right, whatever its distributions."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from jaxem.core import tables, trees
from jaxem.core.checks import prng_key
from jaxem.core.compilation import program
from jaxem.core.conversion import admit
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, require

Kind = Literal["forecast", "ordinary"]


@dataclasses.dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of observations; prints how far they are from a standard normal sample."""

    values: np.ndarray  # (N,) or (N, T), z = Phi^-1(u); NaN where nothing was observed
    probabilities: np.ndarray  # u, uniform on (0, 1) where the model is right
    weights: np.ndarray | None  # (N,)
    kind: str  # "quantile" of independent observations; "forecast" or "ordinary" in a sequence

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The residuals z (M,), probabilities u (M,) and weights (M,) of what was observed, one after the other."""
        weights = np.ones(len(self.values)) if self.weights is None else self.weights
        weights = np.broadcast_to(weights.reshape(-1, *(1,) * (self.values.ndim - 1)), self.values.shape)
        seen = ~np.isnan(self.values) & (weights > 0)
        return self.values[seen], self.probabilities[seen], weights[seen]

    @property
    def distance(self) -> float:
        """The largest difference between the distribution of u and the uniform one (Kolmogorov)."""
        _, u, w = self.known
        order = np.argsort(u)
        upto = np.cumsum(w[order]) / w.sum()
        before = np.append(0.0, upto[:-1])
        return float(max((upto - u[order]).max(), (u[order] - before).max()))

    def __str__(self) -> str:
        z, _, w = self.known
        mean = np.average(z, weights=w)
        limit = f"; of a right model below {1.358 / w.sum() ** 0.5:.3f} in 95 %"
        limit = "" if self.kind == "ordinary" else limit  # neighbours depend on each other
        rows = [
            ("mean", tables.number(mean, 3)),
            ("std. deviation", tables.number(np.average((z - mean) ** 2, weights=w) ** 0.5, 3)),
            ("smallest", tables.number(z.min(), 3)),
            ("largest", tables.number(z.max(), 3)),
            ("distance of u", f"{self.distance:.3f}{limit}"),
        ]
        return tables.fields(f"Residuals, {self.kind}, of {tables.number(w.sum())} observations", rows)

    __repr__ = __str__


def residuals(
    model: Any, params: Params, data: Data, *, kind: Kind = "forecast", key: Array | None = None
) -> Residuals:
    r"""Quantile residuals: each observation by the model's distribution function, on the normal scale.

    .. math:: u_n = P(X < x_n) + v_n\, P(X = x_n), \qquad z_n = \Phi^{-1}(u_n), \qquad v_n \sim U(0, 1)

    Where the model is right, the u are independent and uniform, and the z standard normal; estimated parameters make
    them slightly less spread. In a hidden Markov model the probabilities are those given the observations before
    (``"forecast"``, independent of each other) or all others (``"ordinary"``, better at showing single outliers). Only
    counts are randomised by v; both tails are computed by themselves, so that an outlier has its true distance.
    ``jaxem.plot.residuals``, ``plot.pp`` and ``plot.qq`` draw them.

    Arguments:
        model: a ``Mixture`` or an ``HMM`` of a family of single numbers (with or without covariates).
        params: parameters of the model, or a ``Fit``.
        data: N observations, or N sequences; some may be missing.
        kind: ``"forecast"`` (default) or ``"ordinary"``; of sequences only.
        key: the key of v; default ``jax.random.key(0)``.

    Returns:
        A ``Residuals``, with arrays (N,), or (N, T) for sequences.

    Raises:
        ValueError: the model has no ``distribution``; its family has no distribution function, and is named; ``kind``
            is unknown; ``key`` is not a random key; the call is inside a trace; or parameters, data and model do not
            fit each other.

    Source: Dunn & Smyth (1996); Zucchini, MacDonald & Langrock (2016), section 6.2, "pseudo-residuals".
    """
    if kind not in ("forecast", "ordinary"):
        raise ValueError(f"residuals: kind must be 'forecast' or 'ordinary'; got {kind!r}")
    key = jax.random.key(0) if key is None else key
    prng_key("residuals", key)
    params, data = admit(model, params, data)
    if trees.is_traced(params, data):
        raise ValueError("jaxem.inference.residuals needs concrete values: it cannot run inside jit, vmap or grad")
    require(model, "residuals", "distribution")
    of_sequences = model.event_ndim > getattr(getattr(model, "family", None), "event_ndim", model.event_ndim)
    tails = model.distribution(params, data, kind) if of_sequences else model.distribution(params, data)
    u, z = (np.asarray(part) for part in _on_the_scale(key, *tails))
    weights = split_weights(data)[1]
    weights = None if weights is None else np.asarray(weights)
    return Residuals(z, u, weights, kind if of_sequences else "quantile")


@program(quick="always")
def _on_the_scale(key: Array, below: Array, at: Array, above: Array) -> tuple[Array, Array]:
    """u and z, each from the nearer end."""
    v = jax.random.uniform(key, below.shape, below.dtype)
    u, rest = below + v * at, above + (1 - v) * at
    low = u < rest
    return u, jnp.where(low, ndtri(u), -ndtri(rest))
