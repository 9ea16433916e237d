"""Generalised EM: an M-step by gradient ascent (Dempster, Laird & Rubin 1977; Neal & Hinton 1998)."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxem.algorithms import ascent, metric
from jaxem.algorithms import groups as parts
from jaxem.algorithms.ascent import Function, Optimizer, Pace
from jaxem.algorithms.em import proposed
from jaxem.algorithms.groups import Group
from jaxem.algorithms.measure import Coordinates, coordinates, few, measure, over_blocks, places
from jaxem.algorithms.metric import Metric
from jaxem.algorithms.protocol import State
from jaxem.core import bound, trees
from jaxem.core.checks import brief, instance, number, whole_field
from jaxem.core.data import Data, count, rows, size
from jaxem.core.model import Params, has, is_additive, require
from jaxem.core.records import register


class Memory(NamedTuple):
    """What GEM carries from one iteration to the next."""

    q: Any  # posterior at the current parameters; None where the M-step works on batches
    paces: tuple[Pace | None, ...]  # one for each group of parameters; None where it has a maximiser in closed form
    units: Array  # (P,), units of all free coordinates; where P is large, each measurement starts from the last units
    key: Array | None
    defined: Array  # whether the gradient of Q was finite
    climbs: Array  # number of M-steps so far


@functools.cache
def _default_optimizer() -> optax.GradientTransformationExtraArgs:
    return optax.lbfgs()  # one object for all, so that two GEM() are equal and share one compiled program


@register
@dataclasses.dataclass(frozen=True)
class GEM:
    r"""Generalised EM: an M-step of ``steps`` ascents of Q(theta | q) in unconstrained coordinates, by optax.

    A step of the optimiser is taken only if Q (plus the log-prior) does not fall; otherwise the next try takes half of
    it. So the objective never falls, whatever the learning rate.

    Units make no difference. The optimiser works on Q per observed value, in coordinates measured by the curvature of Q
    (``algorithms/metric.py``). There a step of gradient ascent with learning rate 1 is about a Newton step, and a unit
    of length is about the standard error of one observation. So a learning rate means the same for any model, in any
    units and for any amount of data. The optimiser's state (schedules, momentum) is kept between iterations. Where the
    curvature has changed, which is checked at iterations 1, 2, 4, 8, ..., all of it but the schedules is reset. L-BFGS
    is reset at every iteration, because it would mistake the change of Q between iterations for curvature.

    A slow optimiser hardly moves the parameters long before the optimum, so small steps alone prove nothing. ``fit``
    reports convergence only when, besides the stopping rule, a Newton step on Q, with gradient g and Hessian H at the
    parameters of the E-step, would gain at most ``gain_tol`` per observed value (or at most what rounding error hides,
    but no more than 5e-5 in all):

    .. math:: \tfrac12 g' |H|^{-1} g \le gain\_tol \cdot size(data).

    For more than 32 coordinates the gain is found by conjugate gradients. An unknown gain (a curvature that is NaN, or
    conjugate gradients that did not finish) is not convergence. A gradient that is NaN ends the fit as ``NON_FINITE``.

    The model must have ``e_step``, ``q_function`` and ``entropy``. With ``batch_size`` its observations must be
    independent; it then needs ``log_prob``, or additive statistics.

    Arguments:
        optimizer: any optax optimiser; default ``None``: ``optax.lbfgs()``. JAX compiles anew for a newly built
            optimiser, so build it once and reuse it.
        steps: tries of the optimiser per M-step and group of parameters; default 10.
        gain_tol: greatest gain per observed value that a Newton step may promise at convergence; default 1e-10.
        groups: groups of parameters, a tuple of ``Group``, maximised one after another, each by the optimiser or in
            closed form (ECM, Meng & Rubin 1993), on Q or on the log-likelihood itself (ECME, Liu & Rubin 1994). Groups
            on the log-likelihood come last. Parameters in no group are held fixed. Default ``()``: one group of all.
        batch_size: observations per step of the optimiser, drawn anew with the ``key`` of ``fit``; default ``None``:
            all. With batches the whole iteration is judged by the objective: where the objective fell, the iteration is
            refused (counted in ``fit.fallbacks``), and the next one goes half as far.

    Raises:
        ValueError: ``steps`` or ``batch_size`` is not a whole number of at least 1, ``gain_tol`` is negative or not
            finite, ``optimizer`` is no optax optimiser, ``groups`` is not a tuple of ``Group``, a group on the
            log-likelihood comes before one on Q, or a group in closed form is combined with ``batch_size``.

    Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998).
    """

    optimizer: optax.GradientTransformation | None = dataclasses.field(default=None, metadata={"static": True})
    steps: int = dataclasses.field(default=10, metadata={"static": True})
    gain_tol: float = 1e-10
    groups: tuple[Group, ...] = dataclasses.field(default=(), metadata={"static": True})
    batch_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    monotone: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "steps", 1)
        whole_field(self, "batch_size", 1, optional=True)
        number("GEM: gain_tol", self.gain_tol, 0, math.inf)
        if self.optimizer is not None:
            instance("GEM: optimizer", self.optimizer, "an optax optimiser, such as optax.adam(0.1)", "init", "update")
        if not isinstance(self.groups, tuple) or not all(isinstance(group, Group) for group in self.groups):
            raise ValueError(f"GEM: groups must be a tuple of jaxem.algorithms.Group; got {brief(self.groups)}")
        likelihood = [group.likelihood for group in self.groups]
        if likelihood != sorted(likelihood):
            raise ValueError(
                "GEM: groups that climb the likelihood must come after those that climb Q, because raising Q raises "
                "the objective only from the parameters of the E-step; reorder groups"
            )
        if self.batch_size is not None and any(group.maximize for group in self.groups):
            raise ValueError("GEM: a group with a closed form needs all observations; leave batch_size out")

    def random(self) -> bool:
        return self.batch_size is not None

    def requires(self) -> tuple[str, ...]:
        likelihood = any(group.likelihood for group in self.groups)
        return ("e_step", "q_function", "entropy", *(("log_likelihood",) if likelihood else ()))

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        if self.batch_size is not None and not (is_additive(model) or has(model, "log_prob")):
            # A model with neither may have no observations to draw.
            require(model, "GEM in batches", "log_prob")
        whole = self._all(model, params)
        paces = [
            None if group.maximize else self._start(model, params, group, whole.u.size, data)
            for group in self._groups(params)
        ]
        key = key if self.random() else None
        memory = Memory(None, tuple(paces), jnp.ones_like(whole.u), key, jnp.bool_(True), jnp.int32(0))
        state = State(params, None, jnp.int32(0), jnp.int32(0), jnp.bool_(False), memory)
        shape = jax.eval_shape(lambda: self.move(model, state, params, data))
        assert shape.objective is not None  # GEM requires a bound
        q = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape.memory.q)
        return state._replace(objective=jnp.full((), jnp.nan, shape.objective.dtype), memory=state.memory._replace(q=q))

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self.move(model, self.before(model, params, data, key), params, data)

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        params, found = proposed(self, model, state, data, begins)
        new = self.move(model, found, params, data)
        return trees.select(jnp.asarray(begins), new, self._judged(model, state, new, data)) if self.random() else new

    def propose(self, model: Any, state: State, data: Data) -> tuple[Params, State]:
        memory, value = state.memory, state.objective
        assert value is not None  # init requires a bound
        whole = self._all(model, state.params)
        first = memory.climbs == 0
        found = measure(model, state.params, memory.q, value, data, whole, memory.units, first, self.gain_tol)
        defined = trees.all_finite(found.gradient)
        params, paces, key = state.params, [], memory.key
        for group, pace in zip(self._groups(params), memory.paces, strict=True):
            holds = group.holds(params)
            if group.maximize is not None:
                reached = group.maximize(params, memory.q, data)
            else:
                key, here = (None, None) if key is None else jax.random.split(key)
                metric = found.restricted(places(holds, whole))
                reached, pace = self._ascend(model, group, params, pace, metric, state, data, here)
            params = parts.merge(holds, parts.part(holds, reached), params)
            paces.append(pace)
        units = found.metric.forward if found.hessian is None else memory.units
        memory = Memory(memory.q, tuple(paces), units, key, defined, memory.climbs + 1)
        return params, state._replace(settled=found.settled, memory=memory)

    def move(self, model: Any, state: State, params: Params, data: Data) -> State:
        params = trees.stored(params, state.evaluations >> 31)
        if not self.random():
            q = model.e_step(params, data)
            objective = bound.objective(model, params, q, data)
        else:
            q, on = None, lambda q, part: bound.evidence(model, params, q, part)
            objective = bound.penalized(model, over_blocks(model, params, data, on), params)
        memory = state.memory._replace(q=q)
        return state._replace(params=params, objective=objective, evaluations=state.evaluations + 1, memory=memory)

    @property
    def _transform(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.optimizer or _default_optimizer())

    def _groups(self, params: Params) -> tuple[Group, ...]:
        return self.groups or (Group(tuple(trees.leaf_names(params))),)

    def _all(self, model: Any, params: Params) -> Coordinates:
        """The coordinates of all groups of parameters."""
        inside = [group.holds(params) for group in self._groups(params)]
        return coordinates(model, params, jax.tree.map(lambda *each: any(each), *inside))

    def _optimizer(self, at: Coordinates, data: Data) -> Optimizer:
        observed = size(data, at.u.dtype)
        return Optimizer(self._transform, at.unravel, jnp.where(observed > 0, observed, 1))

    def _start(self, model: Any, params: Params, group: Group, p: int, data: Data) -> Pace:
        at = coordinates(model, params, group.holds(params))
        return ascent.start(self._optimizer(at, data), metric.identity(at.u, few(p)))

    def _ascend(
        self,
        model: Any,
        group: Group,
        params: Params,
        pace: Any,
        metric: Metric,
        state: State,
        data: Data,
        key: Array | None,
    ) -> tuple[Params, Pace]:
        """The parameters after the ascent over one group, from ``params``, on the bound at ``state.params``."""
        at = coordinates(model, params, group.holds(params))
        optimizer = self._optimizer(at, data)
        pace = ascent.measured(optimizer, pace, metric)

        def on_all(u: Array) -> Array:
            return _climbed(model, group, at.forward(u), state.memory.q, data, 1.0)

        def on_batch(key: Array) -> Function:
            n, size = count(data), self.batch_size
            assert size is not None
            batch = rows(data, jax.random.randint(key, (size,), 0, n))
            q = model.e_step(state.params, batch)
            return lambda u: _climbed(model, group, at.forward(u), q, batch, n / size)

        if key is None:
            end = ascent.climb(optimizer, on_all, at.u, pace, self.steps)
        else:
            end = ascent.drift(optimizer, on_batch, at.u, pace, jax.random.split(key, self.steps))
        # Mapping to coordinates and back rounds, so parameters that did not move are returned as they were.
        return trees.select(end.moved, at.forward(end.free), params), end.pace

    def _judged(self, model: Any, old: State, new: State, data: Data) -> State:
        """The state after an iteration on batches if the objective did not fall, else the old one at half the pace."""
        faster, held_back = [], []
        for pace, group in zip(new.memory.paces, self._groups(old.params), strict=True):
            optimizer = self._optimizer(coordinates(model, old.params, group.holds(old.params)), data)
            faster.append(pace._replace(scale=jnp.minimum(2 * pace.scale, 1)))
            held_back.append(ascent.slower(optimizer, pace, ~ascent.holds_nan(pace.optimizer)))
        kept = new._replace(memory=new.memory._replace(paces=tuple(faster)))
        refused = new._replace(
            params=old.params,
            objective=old.objective,
            fallbacks=new.fallbacks + 1,
            settled=jnp.bool_(False),
            memory=new.memory._replace(paces=tuple(held_back)),
        )
        assert new.objective is not None and old.objective is not None
        better = trees.select(new.objective >= old.objective, kept, refused)  # NaN is refused
        # Without a gradient a shorter step is no use, so the fit ends as NON_FINITE.
        undefined = new._replace(params=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), new.params))
        return trees.select(new.memory.defined, better, undefined)


def _climbed(model: Any, group: Group, params: Params, q: Any, data: Data, share: float) -> Array:
    """The function that a group maximises: ``share`` times Q or the log-likelihood of ``data``, plus the log-prior."""
    value = model.log_likelihood(params, data) if group.likelihood else model.q_function(params, q, data)
    return bound.penalized(model, share * value, params)
