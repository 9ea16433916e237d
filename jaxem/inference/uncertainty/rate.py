"""The rate of convergence of EM: the largest eigenvalue of the derivative of the EM map, and its eigenvector.

At a maximum dM = I_complete^-1 I_missing. Along each eigenvector an iteration leaves a share of the distance to the
maximum that equals the share of information that is missing there (Dempster, Laird & Rubin 1977, section 3). dM is
self-adjoint in the inner product of I_complete, so Lanczos' method (1950) applies. It needs only products with dM (by
``jvp``) and with I_complete, never a matrix.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, frame_output, tables, trees
from jaxem.core.checks import instance
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, size
from jaxem.core.model import Params, check_model, has, has_m_step, require
from jaxem.core.records import register
from jaxem.fitting.result import Fit
from jaxem.fitting.validation import check_start
from jaxem.inference.coordinates import name_direction, parameter_names, probes
from jaxem.inference.regularity import (
    REASONS,
    STATIONARY,
    InformationError,
    Regularity,
    rounding_of,
)
from jaxem.inference.uncertainty.edges import within_rounding
from jaxem.inference.uncertainty.information import em_map_at, field

_KRYLOV = 48  # Lanczos vectors in one round, at most; they span the whole space of a small model
_ROUNDS = 20
_LEAP = 1.0  # the longest Newton step, in standard errors (without Q, relative to the size of the parameters)
_APART = 1e-3  # the largest distance of a model without Q from its fixed point, relative to its parameters


@register
@dataclasses.dataclass(frozen=True)
class ConvergenceRate:
    """The share of the distance to the maximum that remains after one iteration of EM.

    Fields are NaN in a lane (one fit under ``vmap``) that has no rate.
    """

    rate: Array  # the largest eigenvalue of dM below one
    direction: Params  # its eigenvector, as a change of the parameters: where EM is slowest
    error: Array  # bound on the error of ``rate``: the residual of Lanczos' method plus the change in its last round
    flat: Array  # whether dM has an eigenvalue of one by the model's structure: the likelihood is constant there
    flat_direction: Params  # the eigenvector of that eigenvalue, as a change of the parameters
    empirical: Array  # the rate estimated from the end of a fit's trace; NaN without one
    # The parameters that move most along ``direction``.
    names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    # The parameters that move most along ``flat_direction``.
    flat_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The rate as one row.

        Returns:
            A dict: ``rate``, ``error``, ``empirical``, ``along`` and ``flat_along``.
        """
        numbers = {"rate": self.rate, "error": self.error, "empirical": self.empirical}
        texts = {"along": ", ".join(self.names), "flat_along": ", ".join(self.flat_names)}
        return {name: [float(value)] for name, value in numbers.items()} | {name: [one] for name, one in texts.items()}

    def iterations(self, share: float) -> Array:
        r"""The number of iterations after which the given share of the distance to the maximum remains.

        .. math:: \lceil \log(share) / \log(rate) \rceil

        Arguments:
            share: the share of the distance that remains, in (0, 1); e.g. 0.1 for one decimal digit.

        Returns:
            A whole number, as a float, shaped like ``rate``.
        """
        return jnp.ceil(jnp.log(jnp.asarray(share, self.rate.dtype)) / jnp.log(self.rate))

    def __str__(self) -> str:
        if trees.is_traced(self.rate) or np.ndim(self.rate):
            return f"ConvergenceRate of {jnp.size(self.rate)} lanes"
        left = 1 - float(self.rate)  # decides how many digits are shown
        rate, *_ = tables.with_error(self.rate, max(float(self.error), 1e-5 * left))
        rows = [("rate", f"{rate} (within {float(self.error):.0e})"), ("along", ", ".join(self.names))]
        if self.rate < 1:  # False for NaN
            rows.append(("iterations for a digit", f"{math.log(0.1) / math.log(max(float(self.rate), 1e-300)):.1f}"))
        if not np.isnan(self.empirical):
            rows.insert(1, ("seen in the trace", tables.number(self.empirical)))
        if self.flat:
            rows.append(("flat along", f"{', '.join(self.flat_names)}: eigenvalue 1, EM does not move there"))
        return tables.fields("Convergence of EM", rows)

    __repr__ = __str__


class _Spectrum(NamedTuple):
    """The spectrum of dM at one point, as found by Lanczos' method, and the Newton step from that point."""

    params: Params
    ahead: Params  # the parameters after a Newton step towards the fixed point
    gap: Array  # the length of one EM step, in the inner product
    distance: Array  # the length of all Newton steps, in standard errors (without Q, relative to the parameters)
    rate: Array  # the largest eigenvalue that can be distinguished from one
    vector: Array  # (P,), its eigenvector in coordinates
    residual: Array  # of that pair, plus rounding error
    change: Array  # by how much ``rate`` changed in the last step
    values: Array  # all eigenvalues that were found, ascending
    place: Array  # the index of ``rate`` in ``values``
    near: Array  # how many eigenvalues cannot be distinguished from one
    near_value: Array  # the smallest of them
    near_vector: Array
    top: Array  # the largest eigenvalue of all
    top_vector: Array
    diagonal: Array  # (P,) of the inner product
    least: Array  # the smallest resolved difference of an eigenvalue from one

    @property
    def error(self) -> Array:
        """A bound on the difference between ``rate`` and an eigenvalue of the derivative at the maximum."""
        return self.residual + self.change


def convergence_rate(model: Any, params: Params, data: Data, *, fit: Fit | None = None) -> ConvergenceRate:
    r"""The rate at which EM converges to ``params``, a maximum, and the direction in which it is slowest.

    .. math:: \theta_{t+1} - \hat\theta \approx \partial M\, (\theta_t - \hat\theta), \qquad
              \partial M = I_{complete}^{-1} I_{missing}

    The rate is the largest eigenvalue of dM below one. An eigenvalue of exactly one occurs where the likelihood is flat
    by the structure of the model (``model.redundant`` such directions, e.g. rotations of factors). EM does not move
    along these directions; they are reported in ``flat`` and do not count as the rate.

    dM is evaluated at the maximum itself, which Newton's method finds from ``params`` up to rounding error. If an EM
    iteration there still moves by g in the inner product of I_complete, eigenvalues are uncertain by about
    g / sqrt(size of the data); rounding error, measured by how far dM is from self-adjoint, adds to that. An eigenvalue
    within ten times the larger of the two from one is not resolved. For a model without ``q_function`` the inner
    product is that of the parameters, each array relative to its size.

    Arguments:
        model: the model; it needs an M-step.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        fit: a ``Fit``, whose trace gives the empirical rate, from the last gains of the objective above rounding error
            (a gain shrinks by rate^2 in each iteration). Default: the empirical rate is NaN.

    Returns:
        A ``ConvergenceRate``. Inside a trace its fields are NaN where ``InformationError`` would be raised, and it has
        no names.

    Raises:
        InformationError: ``params`` are not a maximum or lie at an edge; or an eigenvalue cannot be distinguished from
            one although the structure of the model does not imply it, so that EM is that slow or does not move at all.
        ValueError: the model has no M-step.

    Source: Dempster, Laird & Rubin (1977); Meng & Rubin (1994) on the rate and its direction.
    """
    check_model(model)
    if fit is not None:
        instance("convergence_rate: fit", fit, "a Fit", "trace", "objective")
    if not has_m_step(model):
        require(model, "the rate of EM", "m_step")
    params, data = convert(model, params, data)
    check_start(model, params, data)
    u = into(model, params)
    empirical = jnp.asarray(jnp.nan, u.dtype) if fit is None else _empirical(fit, size(data, u.dtype))
    found = _search(model, params, data)
    edge = within_rounding(model, params)
    if trees.is_traced(found.rate):
        good = _sound(found, model) & ~edge.any() & _resolved(found, model) & _known(found)
        parts = (found.rate, found.vector, found.error, (found.near > 0).astype(u.dtype), found.near_vector)
        rate, *rest = jax.tree.map(lambda part: jnp.where(good, part, jnp.nan), parts)
        along = (_as_parameters(model, params, vector) for vector in (rest[0], rest[3]))
        return ConvergenceRate(rate, next(along), rest[1], rest[2] > 0, next(along), empirical)
    if edge.any():
        names = ", ".join(np.array(parameter_names(model, params))[np.asarray(edge)][:4])
        raise InformationError(
            f"the parameters lie at the edge of their space, at {names}, or are still on their way there: the "
            "derivative of EM in coordinates does not give the rate along these. Set them to zero or one, where they "
            "are held, and fit again for the rate of the others; or fit a model without them"
        )
    _refuse(found, model, params)
    flat = found.near > 0
    along = [_as_parameters(model, params, vector) for vector in (found.vector, found.near_vector)]
    names = name_direction(model, params, found.vector, found.diagonal)
    flat_names = name_direction(model, params, found.near_vector, found.diagonal) if flat else ()
    return ConvergenceRate(found.rate, along[0], found.error, flat, along[1], empirical, names, flat_names)


def _wanted(found: _Spectrum) -> Array:
    """The error at which the search stops: one per cent of 1 - rate."""
    return 0.01 * (1 - found.rate)


def _known(found: _Spectrum) -> Array:
    """Whether the rate is known to within a quarter of 1 - rate."""
    return found.error <= 0.25 * (1 - found.rate)


def _sound(found: _Spectrum, model: Any) -> Array:
    near = found.distance <= (STATIONARY if has(model, "q_function") else _APART)
    return near & (found.top <= 1 + found.least)


def _resolved(found: _Spectrum, model: Any) -> Array:
    return found.near <= getattr(model, "redundant", 0)


def _refuse(found: _Spectrum, model: Any, params: Params) -> None:
    def named(vector: Array) -> str:
        return ", ".join(name_direction(model, params, vector, found.diagonal))

    if not np.isfinite(found.top) or not np.isfinite(found.distance):
        raise InformationError("the rate of EM: a derivative of the EM map is NaN or infinite here")
    if found.distance <= STATIONARY and found.top > 1 + found.least:
        text = REASONS[Regularity.NOT_MAXIMUM]
        raise InformationError(text.format(names=named(found.top_vector), amount=float(1 - found.top)))
    resolved = _resolved(found, model) and _known(found)  # if not, the distance is uncertain too
    if not _sound(found, model) and (resolved or not found.gap <= STATIONARY):
        if has(model, "q_function"):
            text = REASONS[Regularity.NOT_STATIONARY]
            raise InformationError(text.format(names=named(found.vector), amount=float(found.distance)))
        raise InformationError(
            f"this is not a fixed point of EM: it is about {float(found.distance):.1e} of the parameters' size away. "
            "Continue the fit, with a smaller tol or a larger max_steps"
        )
    if found.rate.dtype != jnp.float64:
        better = "Use double precision (jax_enable_x64)"
    elif found.least > 100 * rounding_of(found.diagonal.size, found.rate.dtype):
        better = "Fit again with a smaller tol, such as 1e-14"
    else:
        better = "Double precision is not enough: if the likelihood is flat there, take that parameter out of the model"
    if not _resolved(found, model):
        raise InformationError(
            f"the rate of EM is not resolved: along {named(found.near_vector)} an eigenvalue of the EM map is within "
            f"{abs(1 - float(found.near_value)):.1e} of one and cannot be distinguished from it (that takes a "
            f"difference of {float(found.least):.1e}). Either EM is that slow there, or it does not move because the "
            f"likelihood is flat. {better}. The largest eigenvalue that is resolved, {float(found.rate):.6g} along "
            f"{named(found.vector)}, is not the rate"
        )
    if not _known(found):
        rate, error = tables.with_error(found.rate, found.error)
        raise InformationError(
            f"the rate of EM is not resolved: along {named(found.vector)} the largest eigenvalue of the EM map is "
            f"{rate}, with an error of up to {error}, so it cannot be distinguished from one. {better}"
        )


@program(quick="few numbers")
def _as_parameters(model: Any, params: Params, vector: Array) -> Params:
    return jax.jvp(chart(model, params), (into(model, params),), (vector,))[1]


@program(quick="very few numbers")
def _search(model: Any, params: Params, data: Data) -> _Spectrum:
    """Newton's method to the fixed point of EM, with the spectrum of dM from Lanczos' method at each of its points.

    Newton's method ends once it no longer halves the length of EM's own step. At its last point Lanczos' method is
    restarted from the eigenvectors found, until the eigenvalue is accurate enough.
    """
    u = into(model, params)
    look = lambda there, vector: _spectrum(model, there, data, vector)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(look, params, u))
    inf = jnp.full((), jnp.inf, u.dtype)
    empty = empty._replace(ahead=params, gap=inf, change=inf)

    def again(carry: tuple[_Spectrum, Array, Array, Array]) -> tuple[_Spectrum, Array, Array, Array]:
        best, moving, rounds, _ = carry
        found = best.vector + best.near_vector + best.top_vector
        new = look(trees.select(moving, best.ahead, best.params), jnp.where(moving, jnp.zeros_like(found), found))
        nearer = moving & (new.gap < best.gap / 2)  # False for NaN
        change = jnp.where(moving & (rounds > 0), jnp.abs(new.values - best.values)[new.place], best.change)
        change = jnp.where(nearer, change, jnp.fmin(change, best.change))
        gone = jnp.where(nearer, best.distance, 0) + new.distance  # the way so far, and what is left
        gone = jnp.where(moving, gone, best.distance)
        best = trees.select(nearer | ~moving | (rounds == 0), new._replace(distance=gone), best)._replace(change=change)
        done = ~nearer & (best.residual <= _wanted(best)) | ~jnp.isfinite(best.residual)
        return best, nearer, rounds + 1, done

    going = lambda carry: ~carry[3] & (carry[2] < _ROUNDS)
    return jax.lax.while_loop(going, again, (empty, jnp.bool_(True), jnp.int32(0), jnp.bool_(False)))[0]


def _spectrum(model: Any, params: Params, data: Data, start: Array) -> _Spectrum:
    """Lanczos' method at ``params``, started from ``start (P,)``, or from EM's own step where that is zero."""
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

    moved = em(u) - u
    signs = probes(u)
    diagonal = (signs * jax.lax.map(inner, signs)).sum(axis=0)

    m = min(p, _KRYLOV)
    whole_space = m == p  # then the basis starts from unit vectors, not dM^j v, which would miss repeated eigenvalues
    seeds = jnp.eye(m, p, dtype=dtype) / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))[None, :]

    def step(basis: tuple[Array, Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], Array]:
        """One more vector, orthonormal in the inner product; zero where the space is exhausted."""
        (vectors, images, raw), (j, seed) = basis, at  # v_j, C v_j, and the next v before orthogonalisation
        raw = seed if whole_space else raw
        for _ in range(2):
            raw = raw - vectors.T @ (images @ raw)
        image = inner(raw)
        length = jnp.sqrt(jnp.maximum(raw @ image, 0))
        new = length > 64 * p * jnp.finfo(dtype).eps  # seeds have length one, and dM lengthens none
        factor = jnp.where(new, 1 / jnp.where(new, length, 1), 0)
        v = raw * factor
        pushed = push(v)
        vectors, images = vectors.at[j].set(v), images.at[j].set(image * factor)
        return (vectors, images, pushed), pushed

    zeros, first = jnp.zeros((m, p), dtype), start
    if not whole_space:  # powers of dM times EM's own step span Newton's step; a random part reaches all directions
        firsts = jnp.stack([start, moved, push(jax.random.normal(jax.random.key(0), u.shape, dtype))])
        lengths = jnp.sqrt(jnp.maximum((firsts * jax.lax.map(inner, firsts)).sum(axis=1), 0))
        begun = lengths[0] > 0
        wanted = jnp.where(begun, jnp.asarray([1, 0, 1e-3], dtype), jnp.asarray([0, 1, 1e-3], dtype))
        first = jnp.where(lengths > 0, wanted / jnp.where(lengths > 0, lengths, 1), 0) @ firsts
    (V, CV, _), W = jax.lax.scan(step, (zeros, zeros, first), (jnp.arange(m), seeds))
    T = CV @ W.T  # dM in the basis: T_ij = <v_i, dM v_j>
    if known:
        values, vectors = jnp.linalg.eigh((T + T.T) / 2)
    else:
        values, vectors = (part.real for part in jnp.linalg.eig(T))
        order = jnp.argsort(values)
        values, vectors = values[order], vectors[:, order]
    ritz = vectors.T @ V  # (m, P)

    # Newton's step is (1 - dM)^-1 times EM's own; outside the basis it is EM's own. Along a direction that is flat by
    # structure EM does not move and 1 - dM is zero, so no division is made there.
    c = CV @ moved
    if known:
        left = jnp.abs(1 - values)
        flat = jnp.argsort(jnp.argsort(left)) < getattr(model, "redundant", 0)
        newton = ritz.T @ ((vectors.T @ c) / jnp.where(flat, 1, jnp.maximum(left, jnp.finfo(dtype).eps)))
    else:
        newton = V.T @ (jnp.linalg.pinv(jnp.eye(m, dtype=dtype) - T) @ c)
    newton = newton + (moved - V.T @ c)
    steps = jnp.stack([moved, newton])
    squares = (steps * jax.lax.map(inner, steps)).sum(axis=1)
    gap = jnp.sqrt(jnp.maximum(squares[0], 0))  # NaN stays NaN
    if known:  # in standard errors: observed information = complete - missing
        squares = squares - (jnp.minimum(values, 1)[None, :] * (steps @ CV.T @ vectors) ** 2).sum(axis=1)
    leap = jnp.sqrt(jnp.maximum(squares[1], 0))
    ahead = chart(model, params)(u + newton * jnp.minimum(1, _LEAP / jnp.where(leap > 0, leap, 1)))

    share = gap / jnp.sqrt(size(data, dtype)) if known else gap
    rounding = jnp.abs(T - T.T).max() if known else jnp.zeros((), dtype)
    least = jnp.maximum(10 * jnp.maximum(share, rounding), rounding_of(p, dtype))

    near = jnp.abs(values - 1) <= least
    index = jnp.where(values < 1 - least, values, -jnp.inf).argmax()
    near_index = jnp.where(near, values, jnp.inf).argmin()
    rate, x = jnp.maximum(values[index], 0), ritz[index]
    rest = W.T @ vectors[:, index] - values[index] * x  # dM x - lambda x
    residual = jnp.sqrt(jnp.maximum(rest @ inner(rest), 0)) + rounding + rounding_of(1, dtype)
    nothing = jnp.full((), jnp.inf, dtype)
    return _Spectrum(
        *(params, ahead, gap, leap, rate, x, residual, nothing, values, index, near.sum()),
        *(values[near_index], ritz[near_index], values[-1], ritz[-1], diagonal, least),
    )


def _size(leaf: Array) -> Array:
    largest = jnp.abs(leaf).max(initial=0)
    return jnp.where(largest > 0, largest, 1)


def _empirical(fit: Fit, data_size: Array) -> Array:
    """The rate from two gains of the objective: the last one well above rounding error, and one ten times as large."""
    nothing = jnp.full((), jnp.nan, data_size.dtype)
    if fit.trace is None or fit.objective is None or fit.trace.shape[0] < 3:
        return nothing
    gains, steps = jnp.diff(fit.trace), jnp.arange(fit.trace.shape[0] - 1)
    clear = (gains > 64 * bound.rounding(fit.objective, data_size)) & jnp.isfinite(gains)
    last = jnp.where(clear, steps, -1).max()
    first = jnp.where(clear & (steps < last) & (gains >= 10 * gains[last]), steps, -1).max()
    apart = (last - first).astype(gains.dtype)
    return jnp.where(first >= 0, (gains[last] / gains[first]) ** (1 / (2 * apart)), nothing)
