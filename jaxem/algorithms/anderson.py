"""Damped Anderson acceleration with restarts and monotonicity control (DAAREM; Henderson & Varadhan 2019)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.algorithms import extrapolation
from jaxem.algorithms.em import EM, climbed, proposed
from jaxem.algorithms.protocol import Climber, State
from jaxem.core import parameters, trees
from jaxem.core.checks import number, whole_field
from jaxem.core.coordinates import all_into, chart, into, living
from jaxem.core.data import Data
from jaxem.core.model import Params
from jaxem.core.records import register

_TO_TRY, _REFUSED, _ACCEPTED, _REPLACED = range(4)  # what became of the leap of an iteration
_GROWTH = 4.0  # factor by which the longest extrapolated step allowed grows


class Memory(NamedTuple):
    """What Anderson carries from one iteration to the next; p coordinates, a history of at most m steps."""

    inner: State  # state of the accelerated algorithm, at the same parameters
    living: Array  # (p,), which coordinates were free in the chart of u and f
    u: Array  # (p,), coordinates before the last step
    f: Array  # (p,), what the map added to them, M(u) - u
    du: Array  # (m, p), differences of successive u; zero in unused rows
    df: Array  # (m, p), differences of successive f; zero in unused rows
    held: Array  # number of rows in use; -1 at the start, where u and f are unknown too
    trust: Array  # s: raised by a success, lowered by a refusal
    cap: Array  # longest extrapolated step allowed, as a multiple of the length of f
    steps: Array  # (p,), longest step of each coordinate so far


@register
@dataclasses.dataclass(frozen=True)
class Anderson:
    r"""Anderson acceleration: extrapolates from the last m steps of another algorithm as if its map M were linear.

    In unconstrained coordinates, with f_k = M(u_k) - u_k, and the last differences of u and of f in the columns of X
    and F,

    .. math:: u_{k+1} = u_k + f_k - (X + F)\, \gamma, \qquad \gamma = (F'F + \lambda I)^{-1} F' f_k .

    The damping lambda shortens the coefficients to \|gamma\|^2 = delta \|gamma_{\lambda = 0}\|^2, where
    delta = 1 / (1 + ``alpha``^(``kappa`` - s)). Damping is strong at first and fades as s, the number of successes,
    grows. The history is cleared after m steps.

    Two rules are stricter than in the paper. First, a step that ends with a lower objective than it began with (the
    paper allows 0.01), or outside the model, is replaced by M(u) and counted in ``fit.fallbacks``. It also lowers s by
    m, as a cycle that lowers the objective does in the paper. Second, the extrapolated step has a greatest length, as a
    multiple of the length of f: 4 at first, 4 times more whenever a step of that length succeeds, half as much when a
    step fails. Without this limit the coefficients have no bound at the edge of a space, where a coordinate moves to
    infinity at a constant pace.

    An iteration costs one evaluation, or two where the step is refused. Coordinates that have units, such as means, are
    measured by their own steps, so units change no decision. The model must have an objective.

    Arguments:
        inner: the algorithm to accelerate; default ``EM()``. It must be monotone, draw no random numbers, and have
            ``before``, ``propose`` and ``move``.
        order: m, the greatest number of steps in the history; default ``None``: min(10, ceil(p / 2)) for p coordinates.
        alpha: base of the damping, at least 1; default 1.2, the paper's value.
        kappa: number of successes at which delta is one half; default 25, the paper's value.

    Raises:
        ValueError: ``order`` is not a whole number of at least 1, ``alpha`` or ``kappa`` is not a number in its range,
            or ``inner`` cannot be accelerated.

    Source: Henderson & Varadhan (2019).
    """

    inner: Climber = dataclasses.field(default_factory=EM)
    order: int | None = dataclasses.field(default=None, metadata={"static": True})
    alpha: float = 1.2
    kappa: float = 25.0

    monotone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_field(self, "order", 1, optional=True)
        number("Anderson: alpha", self.alpha, 1, math.inf)
        number("Anderson: kappa", self.kappa, -math.inf, math.inf)
        extrapolation.check_inner("Anderson", self.inner)

    def random(self) -> bool:
        return False

    @property
    def exact(self) -> bool:
        """Whether the objective of the inner algorithm is the log-likelihood (plus the log-prior) itself."""
        return getattr(self.inner, "exact", False)

    def requires(self) -> tuple[str, ...]:
        return (*self.inner.requires(), "objective")

    def sums(self, state: State) -> tuple[Params, Any] | None:
        return self.inner.sums(state.memory.inner) if hasattr(self.inner, "sums") else None  # pyright: ignore

    def before(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self._start(model, params, self.inner.before(model, params, data, key))

    def init(self, model: Any, params: Params, data: Data, key: Array | None) -> State:
        return self._start(model, params, self.inner.init(model, params, data, key))

    def _start(self, model: Any, params: Params, inner: State) -> State:
        """The state at the start, from that of the accelerated algorithm."""
        u = into(model, params)
        m = min(self.order or min(10, -(-u.size // 2)), u.size)
        none, columns = jnp.zeros_like(u), jnp.zeros((m, u.size), u.dtype)
        zero, lives = jnp.zeros((), u.dtype), living(model, params)
        return inner._replace(
            memory=Memory(inner, lives, none, none, columns, columns, jnp.int32(-1), zero, zero + _GROWTH, none)
        )

    def step(self, model: Any, state: State, data: Data, begins: Array | bool = False) -> State:
        memory = state.memory
        plain, found = proposed(self.inner, model, memory.inner, data, begins)
        # The chart is that of the plain step, so that what the plain step has set to exactly zero stays zero.
        u, ahead = all_into(model, (state.params, plain), plain)
        f = ahead - u
        steps = extrapolation.longest_steps(f, memory.steps)
        unit = extrapolation.units(model, ahead, plain, steps)

        # Coordinates of different charts cannot be compared, so a new chart clears the history.
        lives = living(model, plain)
        same = (lives == memory.living).all()
        before = jnp.where(same, memory.held, -1)
        known = before >= 0
        row = jnp.maximum(before, 0)
        du = jnp.where(same, memory.du, 0).at[row].set(jnp.where(known, u - memory.u, 0))
        df = jnp.where(same, memory.df, 0).at[row].set(jnp.where(known, f - memory.f, 0))
        gamma = _coefficients(df / unit[None, :], f / unit, self._share(memory.trust))
        jump = f - gamma @ (du + df)
        lengths = jnp.linalg.norm(jump / unit), jnp.linalg.norm(f / unit)
        capped = lengths[0] > memory.cap * lengths[1]
        jump = jump * jnp.where(capped, memory.cap * lengths[1] / lengths[0], 1)
        bold = known & jnp.isfinite(jump).all()

        leap = chart(model, plain)(u + jump)
        may_fall = (bold | (parameters.improving_of(model) is not None)) & ~jnp.asarray(begins)

        def evaluate(carry: tuple[Array, State]) -> tuple[Array, State]:
            """The leap, or the plain step where the leap was refused; they share one compiled E-step."""
            stage, at = carry
            again = stage == _REFUSED
            begun = found._replace(evaluations=at.evaluations, fallbacks=at.fallbacks + again.astype(jnp.int32))
            goal = trees.select(bold & ~again, leap, plain)
            new = climbed(self.inner, model, begun, goal, data, judged=again)
            assert state.objective is not None
            fell = may_fall & ~extrapolation.passes(model, new, state.objective, data)
            stage = jnp.where(again, _REPLACED, jnp.where(fell, _REFUSED, _ACCEPTED))
            return stage.astype(jnp.int32), new

        going = lambda carry: carry[0] <= _REFUSED
        stage, end = jax.lax.while_loop(going, evaluate, (jnp.int32(_TO_TRY), found))
        refused = stage == _REPLACED

        m = du.shape[0]
        trust = jnp.where(refused, memory.trust - m, memory.trust + bold.astype(u.dtype))
        trust = jnp.maximum(trust, -2 * jnp.asarray(self.kappa, u.dtype))
        cap = jnp.where(bold & capped, _GROWTH * memory.cap, memory.cap)
        cap = jnp.where(refused, jnp.maximum(memory.cap / 2, 1), cap)
        full = before + 1 == m
        du, df = (jnp.where(full, 0, history) for history in (du, df))
        held = jnp.where(full, 0, before + 1)
        after = Memory(end, lives, u, f, du, df, held, trust, cap, steps)
        return end._replace(memory=trees.select(jnp.asarray(begins), memory._replace(inner=end), after))

    def _share(self, trust: Array) -> Array:
        """delta, the squared length of the damped coefficients relative to the undamped ones."""
        alpha, kappa = (jnp.asarray(x, trust.dtype) for x in (self.alpha, self.kappa))
        return 1 / (1 + alpha ** (kappa - trust))


def _coefficients(df: Array, f: Array, share: Array) -> Array:
    """The damped least-squares coefficients gamma (m,) of f in the rows of ``df (m, p)``.

    With F = U diag(d) V', gamma(lambda) = V diag(d / (d^2 + lambda)) U'f. Bisection finds the lambda at which gamma has
    the length that ``share`` asks for.
    """
    v, d, ut = jnp.linalg.svd(df, full_matrices=False)  # df = F' = V diag(d) U'
    largest = d.max()
    eps = jnp.finfo(d.dtype).eps
    solvable = d > 8 * max(df.shape) * eps * largest
    d = jnp.where(solvable, d, 1)
    b = jnp.where(solvable, ut @ f, 0)
    target = share * ((b / d) ** 2).sum()

    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = ends  # logarithms of lambda
        middle = (low + high) / 2
        length = ((b * d / (d**2 + jnp.exp(middle))) ** 2).sum()
        return (jnp.where(length > target, middle, low), jnp.where(length > target, high, middle)), None

    scale = 2 * jnp.log(jnp.where(largest > 0, largest, 1))
    # From far below the smallest solvable d^2 to a lambda large enough for any share that occurs.
    start = (scale + 3 * jnp.log(eps), scale + 30)
    (low, high), _ = jax.lax.scan(halve, start, length=40)
    damping = jnp.exp((low + high) / 2)
    return v @ jnp.where(solvable, b * d / (d**2 + damping), 0)
