"""How clearly observations belong to their classes."""

import dataclasses
from typing import Any

import numpy as np

from jaxem.core import tables, trees
from jaxem.core.conversion import admit
from jaxem.core.data import Data, split_weights
from jaxem.core.model import Params, require


@dataclasses.dataclass(frozen=True, eq=False)
class Separation:
    """Mean class probabilities of the observations assigned to each class; prints as a table."""

    shares: np.ndarray  # (K,), of observations whose most probable class is this
    table: np.ndarray  # (K, K), row j: the mean probabilities of all classes among those assigned to j; NaN for none
    entropy: float  # relative entropy, 1: all observations are certain, 0: none is; NaN for one class

    def __str__(self) -> str:
        k = len(self.shares)
        rows = [["assigned to", "share", *(f"class {j}" for j in range(k))]]
        for j, (share, row) in enumerate(zip(self.shares, self.table, strict=True)):
            rows.append([f"class {j}", f"{100 * share:.1f} %", *("" if np.isnan(p) else f"{p:.3f}" for p in row)])
        title = f"Mean class probabilities; relative entropy {tables.number(self.entropy, 3)}"
        return "\n".join([title, *tables.columns(rows, "<" + ">" * (k + 1))])

    __repr__ = __str__


def separation(model: Any, params: Params, data: Data) -> Separation:
    r"""How well the model separates its classes: the mean probabilities of those assigned to each, and the entropy.

    .. math:: \text{table}_{jk} = \frac{\sum_{n \in j} r_{nk}}{\#\{n \in j\}}, \quad j = \arg\max_k r_{nk}, \qquad
              E = 1 + \frac{\sum_{nk} r_{nk} \log r_{nk}}{N \log K}

    Means on the diagonal above 0.7 or 0.8 are usual marks of a useful classification. In a sequence each step counts as
    one observation.

    Arguments:
        model: a model with ``predict_proba``, such as a ``Mixture`` or an ``HMM``.
        params: parameters of the model, or a ``Fit``.
        data: the data, with or without weights. Observations that are impossible under ``params`` do not count.

    Returns:
        A ``Separation``.

    Raises:
        ValueError: the model lacks ``predict_proba``, the call is inside a trace, or parameters, data and model do not
            fit each other.

    Source: Nagin (2005), chapter 5, for the table; Ramaswamy, DeSarbo, Reibstein & Robinson (1993) for the entropy.
    """
    params, data = admit(model, params, data)
    if trees.is_traced(params, data):
        raise ValueError("jaxem.inference.separation needs concrete values: it cannot run inside jit, vmap or grad")
    require(model, "separation", "predict_proba")
    r, w = rows_and_weights(np.asarray(model.predict_proba(params, data)), split_weights(data)[1])
    k, label = r.shape[1], r.argmax(axis=1)
    each = np.array([w[label == j].sum() for j in range(k)])
    sums = np.array([(w[label == j, None] * r[label == j]).sum(axis=0) for j in range(k)])
    with np.errstate(invalid="ignore", divide="ignore"):
        table = sums / np.where(each > 0, each, np.nan)[:, None]
        logs = np.where(r > 0, np.log(np.where(r > 0, r, 1)), 0)
        entropy = 1 + (w[:, None] * r * logs).sum() / (w.sum() * np.log(k)) if k > 1 else np.nan
    return Separation(each / w.sum(), table, float(entropy))


def rows_and_weights(probabilities: np.ndarray, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities as rows (M, K) with weights (M,), without rows that are unknown or after an end."""
    r = probabilities
    w = np.ones(len(r)) if weights is None else np.asarray(weights, float)
    w = np.broadcast_to(w.reshape(-1, *(1,) * (r.ndim - 2)), r.shape[:-1]).ravel()
    r = r.reshape(-1, r.shape[-1])
    counts = (r.sum(axis=1) > 0.5) & (w > 0)  # NaN does not count
    return r[counts], w[counts]
