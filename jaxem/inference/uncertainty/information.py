r"""Observed, complete and missing information, all by automatic differentiation.

With s(u) = d/du' Q(u' | q(u)) at u' = u, which is the gradient of the objective (Fisher's identity),

.. math:: I_{complete} = -\partial^2_{u'} Q(u' | q), \qquad I_{observed} = -\nabla s = -\nabla^2 L, \qquad
          I_{missing} = I_{complete} - I_{observed}

Three routes lead to the observed information. ``"hessian"``: the Hessian of L, which does not use the E-step.
``"oakes"``: the derivative of s through the E-step (Oakes 1999). ``"sem"``: I_complete (1 - dM), from the Jacobian dM
of the EM map (Meng & Rubin 1991).

A log-prior is included in the complete information and in the observed one, as it is in the M-step and in the
objective; the missing information concerns the data only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import bound, expectation, frame_output, parameters, tables, trees
from jaxem.core.arrays import as_array
from jaxem.core.compilation import ahead, program
from jaxem.core.conversion import convert, convert_named
from jaxem.core.coordinates import chart, into, living
from jaxem.core.data import Data, size
from jaxem.core.model import Params, has, has_m_step, require
from jaxem.core.records import register
from jaxem.fitting.validation import check_start
from jaxem.inference.coordinates import along_all, coordinate_names, coordinates_like, edged, labels_of
from jaxem.inference.regularity import Regularity, Verdict, judge, refuse, without
from jaxem.inference.uncertainty import edges

_ROUNDS = 4  # rounds of the search for edges: holding some can reveal another

Route = Literal["hessian", "oakes", "sem"]


class Products(NamedTuple):
    """Information matrices times a direction, each (P,); ``None`` where the model has no ``q_function``."""

    observed: Array  # by the information in the data
    complete: Array | None  # by the information in data and latent variables together
    missing: Array | None  # by the difference of the two


@register
@dataclasses.dataclass(frozen=True)
class Information:
    """Information matrices in unconstrained coordinates; prints as a table of their diagonals.

    Under ``vmap`` the matrices have a leading axis of lanes; a lane without regular information is NaN.
    """

    observed: Array  # (P, P)
    complete: Array | None  # (P, P); None where the model has no q_function
    missing: Array | None  # (P, P), complete - observed
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})  # the names of the P coordinates
    library: str | None = dataclasses.field(default=None, metadata={"aside": True})  # of the data frame of the data

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The diagonals by columns.

        Returns:
            A dict: ``coordinate``, ``observed``, ``complete``, ``missing``, and its ``share``.
        """
        observed = np.diagonal(self.observed)
        complete = np.full_like(observed, np.nan) if self.complete is None else np.diagonal(self.complete)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(complete != 0, (complete - observed) / complete, np.nan)
        parts = [list(self.names), observed, complete, complete - observed, share]
        return dict(zip(("coordinate", "observed", "complete", "missing", "share"), parts, strict=True))

    def __str__(self) -> str:
        if np.ndim(self.observed) != 2 or trees.is_traced(self.observed):
            return f"Information of {len(self.names)} coordinates, shape {jnp.shape(self.observed)}"
        found = self.as_dict()
        heads, (names, *numbers) = list(found), found.values()
        rows = [heads]
        for name, *values, share in zip(tables.names(names), *numbers, strict=True):
            rows.append([name, *(tables.number(value, 5) for value in values), tables.fixed(share, 3)])
        return "\n".join(["Information (the diagonal)", *tables.columns(rows, "<>>>>")])

    __repr__ = __str__


def choose_route(model: Any, route: Route | None) -> Route:
    """``route``, by default the first that the model supports; ``ValueError`` where the model lacks what it needs."""
    if route is None:
        route = "hessian" if has(model, "log_likelihood") else "oakes"
    if route not in ("hessian", "oakes", "sem"):
        raise ValueError(f'route must be "hessian", "oakes" or "sem"; got {route!r}')
    require(model, f"information by the route {route!r}", "log_likelihood" if route == "hessian" else "q_function")
    if route == "sem" and not has_m_step(model):
        require(model, "information by the route 'sem'", "m_step")
    if route == "sem" and parameters.improving_of(model) is not None:
        raise ValueError(
            'information by the route "sem" needs an M-step that maximises Q; that of this model only improves it: use '
            '"hessian" or "oakes"'
        )
    return route


def log_likelihood_at(model: Any, params: Params, data: Data) -> Callable[[Array], Array]:
    """The log-likelihood plus the log-prior, as a function of the coordinates."""
    at = chart(model, params)
    return lambda u: bound.penalized(model, model.log_likelihood(at(u), data), at(u))


def score_at(model: Any, params: Params, data: Data) -> Callable[[Array, Array], Array]:
    """(u, v) -> d/du of Q(u | e_step(v)) + log-prior: the gradient of the objective where v = u."""
    at = chart(model, params)

    def score(u: Array, v: Array) -> Array:
        q = model.e_step(at(v), data)
        return jax.grad(lambda w: bound.penalized(model, model.q_function(at(w), q, data), at(w)))(u)

    return score


def em_map_at(model: Any, params: Params, data: Data) -> Callable[[Array], Array]:
    """The EM map M, from coordinates to coordinates."""
    at = chart(model, params)
    return lambda u: into(model, trees.cast(expectation.iterate(model, at(u), data), u.dtype), params)


def field(model: Any, params: Params, data: Data, what: Route | Literal["complete"]) -> Callable[[Array], Array]:
    """The vector field whose derivative gives the information: a gradient, or the EM map."""
    if what == "hessian":
        return jax.grad(log_likelihood_at(model, params, data))
    if what == "sem":
        return em_map_at(model, params, data)
    score, u = score_at(model, params, data), into(model, params)
    if what == "oakes":
        return lambda w: score(w, w)
    if not has(model, "e_step", "statistics", "expected_log_joint") or parameters.improving_of(model) is not None:
        return lambda w: score(w, u)
    # Q from the sums is Q from the rows, and takes less to compile.
    at, sums = chart(model, params), model.statistics(model.e_step(params, data), data)
    return jax.grad(lambda w: bound.penalized(model, model.expected_log_joint(at(w), sums), at(w)))


@program(static_argnames=("route",))
def _products(model: Any, params: Params, data: Data, direction: Array, route: Route) -> Products:
    u = into(model, params)

    def along(what: Any, v: Array) -> Array:
        return jax.jvp(field(model, params, data, what), (u,), (v,))[1]

    seen = -along("complete", direction - along("sem", direction)) if route == "sem" else -along(route, direction)
    if not has(model, "q_function"):
        return Products(seen, None, None)
    whole = -along("complete", direction)
    return Products(seen, whole, whole - seen)


def information_product(
    model: Any, params: Params, data: Data, direction: Array, *, route: Route | None = None
) -> Products:
    """The observed, complete and missing information, each times ``direction``, without forming a matrix.

    For models with many parameters: it takes a few passes over the data. Edges and maxima are not checked: the result
    is a derivative at ``params``, whatever that point is.

    Arguments:
        model: the model.
        params: the parameters at which to differentiate, or a ``Fit``.
        data: the data.
        direction: a vector in unconstrained coordinates, (P,).
        route: as in ``jaxem.inference.information``.

    Returns:
        ``Products``: observed, complete and missing information times the direction, each (P,); complete and missing
        are ``None`` where the model has no ``q_function``.

    Raises:
        ValueError: the model lacks what the route needs, or the direction is not (P,).
    """
    params, data = convert(model, params, data)
    check_start(model, params, data)
    p = jax.eval_shape(lambda params: into(model, params), params).shape
    direction = as_array(direction, "the direction", check_digits=False).astype(trees.float_dtype(params))
    if direction.shape != p:
        raise ValueError(f"the direction has shape {direction.shape}; the unconstrained coordinates have {p}")
    return _products(model, params, data, direction, choose_route(model, route))


@program(static_argnames=("what",), quick="very few numbers")
def _derivative(model: Any, params: Params, data: Data, what: Any) -> tuple[Array, Array]:
    """A field at the coordinates (P,), and its derivative (P, P): for a gradient, minus it, the information."""
    u, f = into(model, params), field(model, params, data, what)
    values, columns = along_all(lambda v: jax.jvp(f, (u,), (v,)), u)
    return values[0], columns.T if what == "sem" else -(columns + columns.T) / 2


class Measured(NamedTuple):
    """Information at a point, whether or not it is a maximum, and the verdict on it."""

    params: Params  # the point, where entries of a simplex that are at an edge are set to zero
    lives: Array  # (P,), True for coordinates that are not held
    rising: Array  # (T,), True for parameters at an edge from which the objective rises into the space
    observed: Array
    complete: Array | None
    verdict: Verdict


class _Seen(NamedTuple):
    lives: Array
    verdict: Verdict
    out: Array  # (T,), True for parameters that are converging to an edge


@program(quick="few numbers")
def _look(
    model: Any,
    params: Params,
    data: Data,
    observed: Array,
    complete: Array | None,
    gradient: Array,
    held: Array,
    rising: Array,
) -> _Seen:
    lives, data_size = living(model, params) & ~held, size(data, observed.dtype)
    reference = jnp.diag(jnp.abs(jnp.diagonal(observed))) if complete is None else complete
    degenerate = model.degenerate(params) if has(model, "degenerate") else jnp.bool_(False)
    verdict = judge(observed, reference, gradient, jnp.asarray(edged(model, params)), lives, data_size, degenerate)
    verdict = verdict._replace(code=jnp.where(rising.any(), jnp.int32(Regularity.INWARD), verdict.code))
    return _Seen(lives, verdict, edges.running_off(model, params, reference, verdict, data_size))


def _measure(
    model: Any, params: Params, data: Data, route: Route, held: Array, rising: Array
) -> tuple[Measured, Array]:
    """The information, the verdict on it, and what is converging to an edge; one small program for each matrix."""
    gradient = complete = None
    # While one program is traced, another core compiles those before it.
    ahead(_derivative, model, params, data, route)
    u = coordinates_like(model, params)
    matrix = jax.ShapeDtypeStruct(u.shape * 2, u.dtype)
    ahead(_look, model, params, data, matrix, matrix if has(model, "q_function") else None, u, held, rising)
    if has(model, "q_function"):
        gradient, complete = _derivative(model, params, data, "complete")
    value, observed = _derivative(model, params, data, route)
    if route == "sem":
        observed = _from_sem(complete, observed)
    else:
        gradient = value
    seen = _look(model, params, data, observed, complete, gradient, held, rising)
    return Measured(params, seen.lives, rising, observed, complete, seen.verdict), seen.out


@program
def _from_sem(complete: Array, derivative: Array) -> Array:
    """I_complete (1 - dM), symmetrised: the observed information (Meng & Rubin 1991)."""
    observed = complete @ (jnp.eye(derivative.shape[0], dtype=derivative.dtype) - derivative)
    return (observed + observed.T) / 2


def measure(model: Any, params: Params, data: Data, route: Route) -> Measured:
    """Information at the point, with every parameter that is at an edge, or converging to one, held there."""

    def hold(params: Params, held: Array, out: Array) -> tuple[Params, Array, Array]:
        rising = edges.rising(model, params, data, out)
        return *edges.hold(model, params, held, out), rising

    def look(params: Params, held: Array, rising: Array) -> tuple[Measured, Array]:
        return _measure(model, params, data, route, held, rising)

    out = edges.within_rounding(model, params)
    held: Any = np.zeros(edged(model, params).shape, bool)
    rising: Any = np.zeros(out.shape, bool)
    if trees.is_traced(out, data):
        held = jnp.asarray(held)
        return _measure_in_a_trace(hold, look, params, held, out)
    for round in range(_ROUNDS):
        if np.asarray(out).any():
            params, held, rising = hold(params, held, out)
        elif round > 0:
            break
        found, out = look(params, held, rising)
    return found  # pyright: ignore[reportPossiblyUnboundVariable]


def _measure_in_a_trace(hold: Any, look: Any, params: Params, held: Array, out: Array) -> Measured:
    """The same rounds inside a trace: a ``while_loop``, because values cannot be inspected."""

    def step(carry: Any) -> Any:
        i, params, held, out, _ = carry
        params, held, rising = hold(params, held, out)
        found, out = look(params, held, rising)
        return i + 1, params, held, out, found

    def more(carry: Any) -> Array:
        i, _, _, out, found = carry
        return (i == 0) | ((i < _ROUNDS) & out.any() & ~found.rising.any())

    shapes = jax.eval_shape(look, params, held, jnp.zeros_like(out))[0]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.while_loop(more, step, (jnp.int32(0), params, held, out, nothing))[4]


def regular(model: Any, params: Params, data: Data, route: Route) -> Measured:
    """Information at a maximum, with edges held; ``InformationError`` where there is none, NaN inside a trace."""
    found = measure(model, params, data, route)
    observed, complete = found.observed, found.complete
    if not trees.is_traced(observed):
        diagonal = np.where(found.lives, np.diagonal(observed if complete is None else complete), 1)
        refuse(found.verdict, model, params, diagonal, np.asarray(found.rising))
        return found
    good = found.verdict.code == Regularity.REGULAR
    observed, complete = jax.tree.map(lambda part: jnp.where(good, part, jnp.nan), (observed, complete))
    return found._replace(observed=observed, complete=complete)


def information(model: Any, params: Params, data: Data, *, route: Route | None = None) -> Information:
    r"""The observed, complete and missing information at a maximum, in unconstrained coordinates.

    .. math:: I_{observed} = I_{complete} - I_{missing} = -\nabla^2 L, \qquad
              I_{complete} = -\partial^2_{u'} Q(u' | q(u)) \big|_{u' = u}

    A log-prior, where the model has one, is added to L and to Q.

    A parameter at an edge of its space, such as a probability that is zero or converging to zero, is held there and its
    coordinate is left out: the information is that of the other coordinates, conditional on it.

    Arguments:
        model: the model.
        params: the maximum, or its ``Fit``.
        data: the data of the fit.
        route: how to compute the observed information. ``"hessian"``: the Hessian of L; needs ``log_likelihood``.
            ``"oakes"``: the derivative of the expected score through the E-step; needs ``q_function``. ``"sem"``: from
            the Jacobian of the EM map; needs ``q_function`` and ``m_step``. All agree. Default: ``"hessian"`` where the
            model has ``log_likelihood``, else ``"oakes"``.

    Returns:
        An ``Information``: ``observed``, ``complete`` and ``missing``, each (P, P), and the ``names`` of the P
        coordinates. ``complete`` and ``missing`` are ``None`` where the model has no ``q_function``. Inside a trace,
        where shapes cannot depend on values, rows and columns of held coordinates are NaN.

    Raises:
        InformationError: (a ``ValueError``) there is no regular information, e.g. because the maximum is more than 0.1
            standard errors away, the point is a saddle, or the likelihood is flat in some direction. The message names
            the reason and the parameters. Inside a trace (``jit``, ``vmap``) the result is NaN instead.
        ValueError: the model lacks what the route needs.

    Source: Orchard & Woodbury (1972); Louis (1982); Oakes (1999); Meng & Rubin (1991).
    """
    params, data, named = convert_named(model, params, data)
    check_start(model, params, data)
    route = choose_route(model, route)
    found = regular(model, params, data, route)
    labels = labels_of(model, data, named)
    parts, names = (found.observed, found.complete), coordinate_names(model, params, labels)
    if trees.is_traced(found.observed):
        parts = (None if part is None else without(part, found.lives, jnp.nan) for part in parts)
    elif not np.asarray(found.lives).all():
        free = np.flatnonzero(found.lives)
        names = tuple(names[i] for i in free)
        parts = (None if part is None else jnp.asarray(np.asarray(part)[np.ix_(free, free)]) for part in parts)
    observed, complete = parts
    missing = None if complete is None else complete - observed  # pyright: ignore
    return Information(observed, complete, missing, names, labels.library)  # pyright: ignore[reportArgumentType]
