r"""How fast EM converges, and along what: the largest eigenvalue of the derivative of the EM map.

At a maximum dM = I_complete^-1 I_missing: the share of information that is missing along each direction is what an
iteration leaves of the distance along it (Dempster, Laird & Rubin 1977, section 3). dM is self-adjoint in the inner
product of I_complete, so Lanczos' method applies (1950): products with dM (``jvp``) and with I_complete, no matrix.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import trees
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has, has_m_step, require
from jaxem.core.records import register
from jaxem.fitting.result import Fit
from jaxem.fitting.stopping import rounding
from jaxem.fitting.validation import check_start
from jaxem.inference.coordinates import name_direction, probes
from jaxem.inference.information import em_map_at, field
from jaxem.inference.regularity import (
    REASONS,
    STATIONARY,
    InformationError,
    Regularity,
    at_edge,
    at_edge_error,
    unmoved,
)

_KRYLOV = 48  # vectors of one round: all there are, in a small model
_ROUNDS = 20
_APART = 1e-3  # how far a model without Q may be from its fixed point, relative to its parameters


@register
@dataclasses.dataclass(frozen=True)
class ConvergenceRate:
    """The share of the distance to the maximum that an iteration of EM leaves; NaN fields in a lane without one."""

    rate: Array  # the largest eigenvalue of dM below one
    direction: Params  # along which, as a change of the parameters
    error: Array  # how far an eigenvalue may be from ``rate``
    flat: Array  # whether dM has an eigenvalue one: the likelihood is flat somewhere, and EM does not move there
    flat_direction: Params
    empirical: Array  # the rate seen at the end of a fit's trace; NaN without
    names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    flat_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    def iterations(self, share: float) -> Array:
        """How many iterations leave the ``share`` of the distance: log(share) / log(rate)."""
        return jnp.ceil(jnp.log(jnp.asarray(share, self.rate.dtype)) / jnp.log(self.rate))

    def __str__(self) -> str:
        if trees.is_traced(self.rate) or np.ndim(self.rate):
            return f"ConvergenceRate of {jnp.size(self.rate)} lanes"
        rows = [
            ("rate", f"{float(self.rate):.6g} (within {float(self.error):.0e})"),
            ("along", ", ".join(self.names)),
            ("iterations for a digit", f"{math.log(0.1) / math.log(max(float(self.rate), 1e-300)):.1f}"),
        ]
        if not np.isnan(self.empirical):
            rows.insert(1, ("seen in the trace", f"{float(self.empirical):.6g}"))
        if self.flat:
            rows.append(("flat along", f"{', '.join(self.flat_names)}: eigenvalue 1, EM does not move there"))
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(["Convergence of EM", *(f"  {name:<{width}}{text}" for name, text in rows)])

    __repr__ = __str__


class _Spectrum(NamedTuple):
    rate: Array
    vector: Array  # (P,), in coordinates
    error: Array
    flat: Array
    flat_vector: Array
    top: Array  # the largest eigenvalue of all
    distance: Array  # standard errors to the maximum; without Q, relative to the parameters
    diagonal: Array  # (P,) of the inner product
    least: Array  # how far from one an eigenvalue is to be told from it


def convergence_rate(model: Any, params: Params, data: Data, *, fit: Fit | None = None) -> ConvergenceRate:
    r"""The rate at which EM converges to ``params``, a maximum, and the direction in which it is slowest.

    .. math:: \theta_{t+1} - \hat\theta \approx \partial M\, (\theta_t - \hat\theta), \qquad
              \partial M = I_{complete}^{-1} I_{missing}

    ``fit``: its trace gives the empirical rate, from the last gains above rounding (a gain shrinks by rate^2).
    Where the likelihood is flat along a direction (rotations of factors) dM has an eigenvalue one there; EM does not
    move along it, so ``rate`` is the largest below one and ``flat`` says so. Needs an M-step; without ``q_function``
    the inner product is that of the parameters, relative to their size.

    Raises ``InformationError`` where ``params`` are no maximum or lie at an edge, ``ValueError`` where the model lacks
    an M-step, or the eigenvalue was not found. Inside a trace, NaN instead.

    Source: Dempster, Laird & Rubin (1977); Meng & Rubin (1994) on the rate and its direction.
    """
    if not has_m_step(model):
        require(model, "the rate of EM", "m_step")
    params, data = convert(model, params, data)
    check_start(model, params, data)
    u = into(model, params)
    start = jax.random.normal(jax.random.key(0), u.shape, u.dtype)
    empirical = jnp.asarray(jnp.nan, u.dtype) if fit is None else _empirical(fit, size(data, u.dtype))
    found = _spectrum(model, params, data, start)
    edge = at_edge(model, params)
    if trees.is_traced(found.rate):
        good = _sound(found, model) & ~edge.any() & (found.error <= _wanted(found))
        numbers = found._replace(flat=found.flat.astype(u.dtype))
        found = jax.tree.map(lambda part: jnp.where(good, part, jnp.nan), numbers)
        along = (_as_parameters(model, params, vector) for vector in (found.vector, found.flat_vector))
        return ConvergenceRate(found.rate, next(along), found.error, found.flat > 0, next(along), empirical)
    if edge.any():
        raise at_edge_error(params, np.asarray(edge))
    for _ in range(_ROUNDS):
        if not found.error > _wanted(found):
            break
        found = _spectrum(model, params, data, found.vector)
    _refuse(found, model, params)
    along = [_as_parameters(model, params, vector) for vector in (found.vector, found.flat_vector)]
    names = name_direction(model, params, found.vector, found.diagonal)
    flat_names = name_direction(model, params, found.flat_vector, found.diagonal) if found.flat else ()
    return ConvergenceRate(found.rate, along[0], found.error, found.flat, along[1], empirical, names, flat_names)


def _wanted(found: _Spectrum) -> Array:
    """The accuracy that tells a slow EM from a slower one: a hundredth of what is left of one."""
    return 0.01 * (1 - found.rate)


def _sound(found: _Spectrum, model: Any) -> Array:
    near = found.distance <= (STATIONARY if has(model, "q_function") else _APART)
    return near & (found.top <= 1 + found.least)


def _refuse(found: _Spectrum, model: Any, params: Params) -> None:
    def reason(code: Regularity, vector: Array, amount: Any) -> InformationError:
        names = ", ".join(name_direction(model, params, vector, found.diagonal))
        return InformationError(REASONS[code].format(names=names, amount=float(amount)))

    if not np.isfinite(found.top) or not np.isfinite(found.distance):
        raise InformationError("the rate of EM: a derivative of the EM map is NaN or infinite here")
    if found.distance <= STATIONARY and found.top > 1 + found.least:
        raise reason(Regularity.NOT_MAXIMUM, found.flat_vector, 1 - found.top)
    if not _sound(found, model):
        if has(model, "q_function"):
            raise reason(Regularity.NOT_STATIONARY, found.vector, found.distance)
        raise InformationError(
            f"this is not a fixed point of EM: it is about {float(found.distance):.1e} of the parameters' size away. "
            "Fit to the end, with a smaller tol or more max_steps"
        )
    if not found.error <= _wanted(found):
        raise ValueError(
            f"the largest eigenvalue of the EM map was not found: about {float(found.rate):.6g}, within "
            f"{float(found.error):.0e} after {_ROUNDS} rounds"
        )


@program
def _as_parameters(model: Any, params: Params, vector: Array) -> Params:
    return jax.jvp(chart(model, params), (into(model, params),), (vector,))[1]


@program
def _spectrum(model: Any, params: Params, data: Data, start: Array) -> _Spectrum:
    u, em = into(model, params), em_map_at(model, params, data)
    p, dtype = u.shape[0], u.dtype
    push = lambda v: jax.jvp(em, (u,), (v,))[1]
    known = has(model, "q_function")
    if known:
        score = field(model, params, data, "complete")
        inner = lambda v: -jax.jvp(score, (u,), (v,))[1]
    else:
        scale = jnp.concatenate([jnp.full((leaf.size,), _size(leaf), dtype) for leaf in jax.tree.leaves(params)])
        scale = scale if scale.shape == u.shape else jnp.ones_like(u)
        inner = lambda v: v / scale**2

    def step(basis: tuple[Array, Array, Array], j: Array) -> tuple[tuple[Array, Array, Array], Array]:
        """One more vector, orthonormal in the inner product; zero once there is none left."""
        vectors, images, raw = basis  # v_j, C v_j, and the next v before it is made orthogonal
        for _ in range(2):
            raw = raw - vectors.T @ (images @ raw)
        image = inner(raw)
        length = jnp.sqrt(jnp.maximum(raw @ image, 0))
        new = length > 64 * p * jnp.finfo(dtype).eps  # dM makes no vector longer
        factor = jnp.where(new, 1 / jnp.where(new, length, 1), 0)
        v = raw * factor
        pushed = push(v)
        vectors, images = vectors.at[j].set(v), images.at[j].set(image * factor)
        return (vectors, images, pushed), pushed

    m = min(p, _KRYLOV)
    zeros, first = jnp.zeros((m, p), dtype), push(start)
    length = jnp.sqrt(jnp.maximum(first @ inner(first), 0))
    first = first / jnp.where(length > 0, length, 1)
    (V, CV, _), W = jax.lax.scan(step, (zeros, zeros, first), jnp.arange(m))
    T = CV @ W.T  # dM in the basis: T_ij = <v_i, dM v_j>
    if known:
        values, vectors = jnp.linalg.eigh((T + T.T) / 2)
    else:
        values, vectors = (part.real for part in jnp.linalg.eig(T))
        order = jnp.argsort(values)
        values, vectors = values[order], vectors[:, order]
    ritz = vectors.T @ V  # (m, P)
    moved = em(u) - u
    along = inner(moved)
    gap = jnp.sqrt(jnp.maximum(moved @ along, 0))
    share = gap / jnp.sqrt(size(data, dtype)) if known else gap
    least = unmoved(share, dtype)
    one = jnp.abs(values - 1) <= least
    below = jnp.where(values < 1 - least, values, -jnp.inf)
    index, flat_index = below.argmax(), jnp.where(one.any(), one.argmax(), values.argmax())
    rate, x = jnp.maximum(values[index], 0), ritz[index]
    residual = push(x) - values[index] * x
    error = jnp.sqrt(jnp.maximum(residual @ inner(residual), 0))
    distance = gap / jnp.sqrt(1 - rate) if known else gap / (1 - rate)
    signs = probes(u)
    diagonal = (signs * jax.lax.map(inner, signs)).sum(axis=0)
    return _Spectrum(rate, x, error, one.any(), ritz[flat_index], values.max(), distance, diagonal, least)


def _size(leaf: Array) -> Array:
    largest = jnp.abs(leaf).max(initial=0)
    return jnp.where(largest > 0, largest, 1)


def _empirical(fit: Fit, data_size: Array) -> Array:
    """From the gains of the objective: the last one that stands well above rounding, and the one ten times as large."""
    nothing = jnp.full((), jnp.nan, data_size.dtype)
    if fit.trace is None or fit.objective is None or fit.trace.shape[0] < 3:
        return nothing
    gains, steps = jnp.diff(fit.trace), jnp.arange(fit.trace.shape[0] - 1)
    clear = gains > 64 * rounding(fit.objective, data_size)  # NaN is not
    last = jnp.where(clear, steps, -1).max()
    first = jnp.where(clear & (steps < last) & (gains >= 10 * gains[last]), steps, -1).max()
    apart = (last - first).astype(gains.dtype)
    return jnp.where(first >= 0, (gains[last] / gains[first]) ** (1 / (2 * apart)), nothing)
