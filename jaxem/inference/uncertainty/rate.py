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

from jaxem.core import tables, trees
from jaxem.core.checks import instance
from jaxem.core.compilation import program
from jaxem.core.conversion import convert
from jaxem.core.coordinates import chart, into
from jaxem.core.data import Data, size
from jaxem.core.model import Params, check_model, has, has_m_step, require
from jaxem.core.records import register
from jaxem.fitting.result import Fit
from jaxem.fitting.stopping import rounding
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

_KRYLOV = 48  # vectors of one round: all there are, in a small model
_ROUNDS = 20
_LEAP = 1.0  # Newton's longest step, in standard errors (without Q, in sizes of the parameters)
_APART = 1e-3  # how far a model without Q may be from its fixed point, relative to its parameters


@register
@dataclasses.dataclass(frozen=True)
class ConvergenceRate:
    """The share of the distance to the maximum that an iteration of EM leaves; NaN fields in a lane without one."""

    rate: Array  # the largest eigenvalue of dM below one
    direction: Params  # along which, as a change of the parameters
    error: Array  # how far an eigenvalue may be from ``rate``: what Lanczos' method left, and the last step's change
    flat: Array  # whether dM has an eigenvalue one by the model's structure: the likelihood does not change there
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
        left = 1 - float(self.rate)  # what its digits are for
        rate, *_ = tables.with_error(self.rate, max(float(self.error), 1e-5 * left))
        rows = [("rate", f"{rate} (within {float(self.error):.0e})"), ("along", ", ".join(self.names))]
        if self.rate < 1:  # NaN is not
            rows.append(("iterations for a digit", f"{math.log(0.1) / math.log(max(float(self.rate), 1e-300)):.1f}"))
        if not np.isnan(self.empirical):
            rows.insert(1, ("seen in the trace", tables.number(self.empirical)))
        if self.flat:
            rows.append(("flat along", f"{', '.join(self.flat_names)}: eigenvalue 1, EM does not move there"))
        return tables.fields("Convergence of EM", rows)

    __repr__ = __str__


class _Spectrum(NamedTuple):
    """The derivative of the EM map at one point: what Lanczos' method found of it, and Newton's step from there."""

    params: Params
    ahead: Params  # after Newton's step towards the fixed point
    gap: Array  # how far one iteration of EM moves, in the inner product
    distance: Array  # of that step in standard errors (without Q, relative to the parameters), and of those before it
    rate: Array  # the largest eigenvalue that can be told from one
    vector: Array  # (P,), in coordinates
    residual: Array  # of that pair, and rounding error
    change: Array  # by how much ``rate`` differed one step before
    values: Array  # all eigenvalues that were found, ascending
    place: Array  # of ``rate`` among them
    near: Array  # how many eigenvalues cannot be told from one
    near_value: Array  # the smallest of them
    near_vector: Array
    top: Array  # the largest eigenvalue of all
    top_vector: Array
    diagonal: Array  # (P,) of the inner product
    least: Array  # how far from one an eigenvalue is to be told from it

    @property
    def error(self) -> Array:
        """How far an eigenvalue of the derivative at the maximum may be from ``rate``."""
        return self.residual + self.change


def convergence_rate(model: Any, params: Params, data: Data, *, fit: Fit | None = None) -> ConvergenceRate:
    r"""The rate at which EM converges to ``params``, a maximum, and the direction in which it is slowest.

    .. math:: \theta_{t+1} - \hat\theta \approx \partial M\, (\theta_t - \hat\theta), \qquad
              \partial M = I_{complete}^{-1} I_{missing}

    ``fit``: its trace gives the empirical rate, from the last gains above rounding (a gain shrinks by rate^2).
    Where the likelihood is flat by the structure of the model (``model.redundant`` rotations of factors) dM has an
    eigenvalue one; EM does not move along it, so ``rate`` is the largest below one and ``flat`` says so. Needs an
    M-step; without ``q_function`` the inner product is that of the parameters, relative to their size.

    The derivative belongs to the maximum, which Newton's method finds from ``params`` as nearly as rounding allows. An
    iteration of EM that moves by g of the inner product there leaves every eigenvalue blurred by about
    g / sqrt(size of the data): an invariance of the likelihood shows as 1 up to that. Beside it stand rounding errors,
    measured by how far dM is from self-adjoint. An eigenvalue no further from one than ten times this is not resolved.

    Raises ``InformationError`` where ``params`` are no maximum or lie at an edge, and where an eigenvalue cannot be
    told from one though the structure does not ask for it: EM may be as slow as that, or not move at all.
    ``ValueError`` where the model lacks an M-step. Inside a trace, NaN instead.

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
            "derivative of EM in coordinates says nothing of its rate along these. Set them to zero or one, where they "
            "are held, and fit again for the rate of the others; or fit a model without them"
        )
    _refuse(found, model, params)
    flat = found.near > 0
    along = [_as_parameters(model, params, vector) for vector in (found.vector, found.near_vector)]
    names = name_direction(model, params, found.vector, found.diagonal)
    flat_names = name_direction(model, params, found.near_vector, found.diagonal) if flat else ()
    return ConvergenceRate(found.rate, along[0], found.error, flat, along[1], empirical, names, flat_names)


def _wanted(found: _Spectrum) -> Array:
    """The accuracy that tells a slow EM from a slower one: a hundredth of what is left of one."""
    return 0.01 * (1 - found.rate)


def _known(found: _Spectrum) -> Array:
    """Whether the eigenvalue was found at all: to a quarter of what is left of one."""
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
    resolved = _resolved(found, model) and _known(found)  # else the distance is no better known
    if not _sound(found, model) and (resolved or not found.gap <= STATIONARY):
        if has(model, "q_function"):
            text = REASONS[Regularity.NOT_STATIONARY]
            raise InformationError(text.format(names=named(found.vector), amount=float(found.distance)))
        raise InformationError(
            f"this is not a fixed point of EM: it is about {float(found.distance):.1e} of the parameters' size away. "
            "Fit to the end, with a smaller tol or more max_steps"
        )
    if found.rate.dtype != jnp.float64:
        better = "Use 64 bits (jax_enable_x64)"
    elif found.least > 100 * rounding_of(found.diagonal.size, found.rate.dtype):
        better = "Fit again with a smaller tol, such as 1e-14"
    else:
        better = "64 bits cannot tell: if the likelihood is flat there, leave that parameter out"
    if not _resolved(found, model):
        raise InformationError(
            f"the rate of EM is not resolved: along {named(found.near_vector)} an eigenvalue of the EM map is within "
            f"{abs(1 - float(found.near_value)):.1e} of one, and cannot be told from it (that takes "
            f"{float(found.least):.1e}). EM is as slow as that there, or does not move at all: the likelihood may be "
            f"flat. {better}; the largest eigenvalue that is resolved, {float(found.rate):.6g} along "
            f"{named(found.vector)}, is not the rate"
        )
    if not _known(found):
        rate, error = tables.with_error(found.rate, found.error)
        raise InformationError(
            f"the rate of EM is not resolved: along {named(found.vector)} the largest eigenvalue of the EM map is "
            f"{rate}, but it may be off by {error} and so cannot be told from one. {better}"
        )


@program(quick="few numbers")
def _as_parameters(model: Any, params: Params, vector: Array) -> Params:
    return jax.jvp(chart(model, params), (into(model, params),), (vector,))[1]


@program(quick="very few numbers")
def _search(model: Any, params: Params, data: Data) -> _Spectrum:
    """Newton's method to the fixed point, with what Lanczos' method tells of the derivative at each of its points.

    The last point is the first after which an iteration of EM does not move half as far; there Lanczos' method is
    started anew from the vector found, until the eigenvalue stands.
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
        nearer = moving & (new.gap < best.gap / 2)  # NaN is not
        change = jnp.where(moving & (rounds > 0), jnp.abs(new.values - best.values)[new.place], best.change)
        change = jnp.where(nearer, change, jnp.fmin(change, best.change))
        gone = jnp.where(nearer, best.distance, 0) + new.distance  # the way here, and what is left
        gone = jnp.where(moving, gone, best.distance)
        best = trees.select(nearer | ~moving | (rounds == 0), new._replace(distance=gone), best)._replace(change=change)
        done = ~nearer & (best.residual <= _wanted(best)) | ~jnp.isfinite(best.residual)
        return best, nearer, rounds + 1, done

    going = lambda carry: ~carry[3] & (carry[2] < _ROUNDS)
    return jax.lax.while_loop(going, again, (empty, jnp.bool_(True), jnp.int32(0), jnp.bool_(False)))[0]


def _spectrum(model: Any, params: Params, data: Data, start: Array) -> _Spectrum:
    """Lanczos' method at ``params``, from ``start (P,)`` or where that is zero from EM's own step."""
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
    whole_space = m == p  # then of the unit vectors, else of dM^j v: an eigenvalue that is there twice is found twice
    seeds = jnp.eye(m, p, dtype=dtype) / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))[None, :]

    def step(basis: tuple[Array, Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], Array]:
        """One more vector, orthonormal in the inner product; zero where there is none."""
        (vectors, images, raw), (j, seed) = basis, at  # v_j, C v_j, and the next v before it is made orthogonal
        raw = seed if whole_space else raw
        for _ in range(2):
            raw = raw - vectors.T @ (images @ raw)
        image = inner(raw)
        length = jnp.sqrt(jnp.maximum(raw @ image, 0))
        new = length > 64 * p * jnp.finfo(dtype).eps  # the seeds have length one, and dM makes no vector longer
        factor = jnp.where(new, 1 / jnp.where(new, length, 1), 0)
        v = raw * factor
        pushed = push(v)
        vectors, images = vectors.at[j].set(v), images.at[j].set(image * factor)
        return (vectors, images, pushed), pushed

    zeros, first = jnp.zeros((m, p), dtype), start
    if not whole_space:  # powers of dM times EM's own step span Newton's; a little of everything finds what it lacks
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

    # Newton's step, (1 - dM)^-1 of EM's own; where no vector of the basis reaches, EM's own. Along a direction that is
    # flat by structure EM does not move, and there is nothing to divide by.
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
    if known:  # in standard errors: the observed information is the complete one less the missing
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
    rest = W.T @ vectors[:, index] - values[index] * x  # dM x, less what it should be
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
    """From the gains of the objective: the last one that stands well above rounding, and the one ten times as large."""
    nothing = jnp.full((), jnp.nan, data_size.dtype)
    if fit.trace is None or fit.objective is None or fit.trace.shape[0] < 3:
        return nothing
    gains, steps = jnp.diff(fit.trace), jnp.arange(fit.trace.shape[0] - 1)
    clear = (gains > 64 * rounding(fit.objective, data_size)) & jnp.isfinite(gains)
    last = jnp.where(clear, steps, -1).max()
    first = jnp.where(clear & (steps < last) & (gains >= 10 * gains[last]), steps, -1).max()
    apart = (last - first).astype(gains.dtype)
    return jnp.where(first >= 0, (gains[last] / gains[first]) ** (1 / (2 * apart)), nothing)
