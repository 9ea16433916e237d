"""Item response: answers to the items of a test, given a normal ability of each person."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import parameters
from jaxem.core.checks import brief, prng_key, whole_number
from jaxem.core.compilation import program
from jaxem.core.conversion import admit, as_params, check_shapes, names_of
from jaxem.core.data import Data, check_counts, count, counted, split_weights, values_of, with_values
from jaxem.core.dataset import as_data
from jaxem.core.records import register
from jaxem.core.rows import FromRows, weighted
from jaxem.core.sizes import of_rows
from jaxem.core.trees import float_dtype, is_traced
from jaxem.families import observed
from jaxem.families.items import ItemContext, ItemResponseParams, Items
from jaxem.gates.nodes import Nodes
from jaxem.latent import classes
from jaxem.latent.classes import Responsibilities
from jaxem.models import observations
from jaxem.models.item_response_curves import Curves
from jaxem.models.observations import real

Kind = Literal["rasch", "2pl", "graded"]


class Abilities(NamedTuple):
    """The posterior of the ability of each person."""

    means: Array  # (N,), in standard deviations of the population
    deviations: Array  # (N,)


@register
@dataclasses.dataclass(frozen=True)
class ItemResponse(FromRows, Curves):
    r"""Answers x_d = 0, 1, ... that are independent given the ability t ~ N(0, 1) of a person.

    .. math:: P(x_d \ge l \mid t) = F(a_d t + b_{dl}), \qquad F(u) = 1 / (1 + e^{-u}), \quad b_{d1} > b_{d2} > \dots

    The E-step is Bayes' rule at the nodes of Gauss-Hermite quadrature; the M-step maximises the expected log-likelihood
    of slopes and intercepts exactly. The difficulty of a level is -b_dl / a_d. The data are codes (N, D), of which
    cells may be missing; the posterior q is a ``Responsibilities`` over nodes; the parameters are an
    ``ItemResponseParams``. Slopes of all items may change sign together without a change of the likelihood.

    Arguments:
        kind: ``"2pl"`` (default): items with two levels, each with a slope and an intercept. ``"rasch"``: one slope
            common to all, the standard deviation of ability where slopes are one. ``"graded"``: ordered levels.
        levels: the number of levels of each item, each at least 2; needed by ``"graded"`` and by no other kind.
        points: the number of nodes, at least 2; default 61.

    Raises:
        ValueError: an argument is none of the above.

    Source: Bock & Aitkin (1981); Samejima (1969) for graded responses.
    """

    kind: Kind = dataclasses.field(default="2pl", metadata={"static": True})
    levels: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    points: int = dataclasses.field(default=61, metadata={"static": True})

    event_ndim: ClassVar[int] = 1
    accurate: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("observed",)

    def __post_init__(self) -> None:
        if self.kind not in ("rasch", "2pl", "graded"):
            raise ValueError(f"ItemResponse: kind must be 'rasch', '2pl' or 'graded'; got {brief(self.kind)}")
        if (self.kind == "graded") != (self.levels is not None):
            raise ValueError(
                f"ItemResponse: kind 'graded' needs levels, and no other kind takes them; got {brief(self.levels)}"
            )
        if self.levels is not None:
            if not isinstance(self.levels, tuple | list) or not self.levels:
                raise ValueError(f"ItemResponse: levels must be a tuple, one for each item; got {brief(self.levels)}")
            levels = tuple(whole_number("ItemResponse: each of the levels", number, 2) for number in self.levels)
            object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "points", whole_number("ItemResponse: points", self.points, 2))

    @property
    def gate(self) -> Nodes:
        """The distribution of ability."""
        return Nodes(self.points)

    @property
    def family(self) -> Items:
        """The distribution of the answers at each node of ability."""
        return Items(tuple(self.gate.positions.tolist()), self.levels, self.kind == "rasch")

    def declare(self) -> parameters.Declared:
        return self.family.declare()

    def prepare(self, params: ItemResponseParams, x: Data | None) -> ItemContext:
        return self.family.prepare(params, x)

    def table(self, c: ItemContext, x: Data) -> Array:
        """log w_q + log p(x_n | node q), (N, Q)."""
        dtype = c.log_probabilities.dtype
        density = observed.log_density(self.family, c, real(x, dtype))
        return self.gate.log_prob((), x).astype(dtype) + density

    def infer(self, c: ItemContext, x: Data) -> Responsibilities:
        """The posterior probability of each node."""
        return classes.infer(self.table(c, x))

    def tempered(self, c: ItemContext, x: Data, inverse_temperature: Array | float) -> Responsibilities:
        """Probabilities proportional to those of the joint distribution to this power."""
        return classes.tempered(self.table(c, x), inverse_temperature)

    def draw(self, c: ItemContext, x: Data, key: Array) -> Responsibilities:
        """All probability on one node per person, drawn from its posterior."""
        return classes.draw(self.table(c, x), key)

    def log_marginal(self, c: ItemContext, x: Data) -> Array:
        """log sum_q w_q p(x_n | node q), (N,)."""
        return jax.nn.logsumexp(self.table(c, x), axis=1)

    def complete(self, c: ItemContext, q: Responsibilities, x: Data) -> Array:
        """sum_q r_nq (log w_q + log p(x_n | node q)), (N,)."""
        return classes.expected(q.probabilities, self.table(c, x))

    def entropy_rows(self, c: ItemContext, q: Responsibilities, x: Data) -> Array:
        """-sum_q r_nq log r_nq, (N,)."""
        return classes.entropy(q.probabilities)

    def divergence_rows(self, q: Responsibilities, p: Responsibilities) -> Array:
        """KL(q || p) of each person, (N,)."""
        return classes.divergence(q.probabilities, p.probabilities)

    def sums(self, c: ItemContext | None, w: Array | None, q: Responsibilities, x: Data) -> Any:
        """The expected number of answers of each level to each item at each node."""
        r = weighted(q.probabilities, w)
        return observed.statistics(self.family, c, r, (), real(x, r.dtype))

    def maximum(self, c: ItemContext | None, sums: Any) -> ItemResponseParams:
        """Slopes and intercepts that maximise Q."""
        if c is None:
            raise ValueError("ItemResponse: the M-step begins at the parameters of the E-step; q.at is missing")
        return self.family.maximize(c, sums)

    def expected(self, c: ItemContext, params: ItemResponseParams, sums: Any) -> Array:
        """Q from the sums."""
        return self.family.expected(c, params, sums)

    def init(self, key: Array, data: Data) -> ItemResponseParams:
        """Parameters to start a fit from: random positive slopes, and the intercepts that give the observed shares.

        Arguments:
            key: a random key.
            data: codes (N, D) of N persons, with or without weights.

        Returns:
            An ``ItemResponseParams``.

        Raises:
            ValueError: ``key`` is not a random key, or the data do not fit the model.
        """
        prng_key("ItemResponse.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        return _init(self, key, data)

    def first(self, key: Array, data: Data, *_: Any) -> tuple[ItemResponseParams, Array]:
        """A start, and whether it is sound."""
        x, weights = counted(data)
        dtype = float_dtype(x)
        x = real(x, dtype)
        one = jnp.ones((count(x), 1), dtype) if weights is None else weights.astype(dtype)[:, None]
        codes = self.family.codes(values_of(x).shape[1])
        counts = codes.statistics(None, one, (), x).counts[0] + 0.5
        each = jnp.split(counts, np.cumsum(codes.levels)[:-1])
        shares = jnp.concatenate([part / part.sum() for part in each])
        number = 1 if self.kind == "rasch" else len(codes.levels)
        slopes = jax.random.uniform(key, (number,), dtype, 0.5, 1.5)
        return self.family.start(shares, slopes), jnp.bool_(True)

    def abilities(self, params: ItemResponseParams, data: Data) -> Abilities:
        """The posterior mean and standard deviation of each person's ability.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: codes (N, D). Weights are ignored.

        Returns:
            ``Abilities(means, deviations)``, each (N,), in standard deviations of the population; NaN where an answer
            is NaN or impossible. A person without any answer has 0 and 1.

        Raises:
            ValueError: the shapes of parameters and data do not fit the model, or parts of the data do not fit each
                other.

        Source: Bock & Mislevy (1982), expected a posteriori.
        """
        params, data = admit(self, params, data)
        return of_rows(lambda x: _abilities(self, params, x), data)

    def latent_scores(self, params: ItemResponseParams, data: Data) -> tuple[str, Array, Array]:
        """Posterior means and standard deviations of the ability of each person; see ``jaxem.scores``.

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N observations, in any form that ``fit`` takes.

        Returns:
            ``"ability"``, the means (N, 1) and the standard deviations (N, 1).
        """
        q = self.abilities(params, data)
        return "ability", q.means[:, None], q.deviations[:, None]

    def sample(self, key: Array, params: ItemResponseParams, n: int) -> Array:
        """Answers of ``n`` persons, whose abilities are drawn from N(0, 1).

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of persons, at least 0.

        Returns:
            Codes (n, D).

        Raises:
            ValueError: ``key`` is not a random key, ``n`` is not a whole number of at least 0, or the parameters do not
                fit the model.
        """
        return self.sample_joint(key, params, n)[1]

    def sample_joint(self, key: Array, params: ItemResponseParams, n: int) -> tuple[Array, Array]:
        """Abilities and answers of ``n`` persons.

        Arguments:
            key: a random key.
            params: parameters of the model, or a ``Fit``.
            n: the number of persons, at least 0.

        Returns:
            Abilities (n,) and codes (n, D).

        Raises:
            ValueError: as for ``sample``.
        """
        prng_key("ItemResponse.sample", key)
        params = as_params(self, params)
        self.check_shapes(params, None)
        return _draw(self, key, params, whole_number("ItemResponse.sample: n", n, 0))

    def sample_like(self, key: Array, params: ItemResponseParams, data: Data) -> Data:
        """Answers of as many persons as ``data`` hold, with the same missing cells; see ``sample``."""
        data = as_data(data, like=names_of(params), trust="nothing")
        check_shapes(self, None, data)
        x = split_weights(data)[0]
        return with_values(x, self.sample(key, params, count(x)))

    def features(self, x: Data) -> Array:
        """Indicators of the levels, NaN where missing."""
        return self.family.features(x)

    def supports(self, x: Data) -> Array:
        """(N,), whether each answer is one of the levels."""
        return observed.supports(self.family, x)

    def check_shapes(self, params: ItemResponseParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        d = None if self.levels is None else len(self.levels)
        if data is not None:
            observations.check_parts(self, data, *self.takes)
            x = values_of(data)
            if not hasattr(x, "ndim") or x.ndim != 2 or 0 in x.shape or d not in (None, x.shape[1]):
                got = f"shape {tuple(x.shape)}" if hasattr(x, "ndim") else f"a {type(x).__name__}"
                raise ValueError(f"ItemResponse needs codes (N, {'D' if d is None else d}); got {got}")
            d = x.shape[1]
        if params is not None:
            on = "" if d is None else f" of {d} items"
            sizes = {} if d is None else {"D": d}
            parameters.check_shapes(f"ItemResponse {self.kind!r}{on}", self.declare(), params, sizes)

    def validate(self, params: ItemResponseParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, weights = split_weights(data)
        counts = None if weights is None else weights != 0
        observations.check_support(self.family, x, counts)
        rows = x if counts is None else jax.tree.map(lambda leaf: leaf[np.asarray(counts)], x)
        codes = self.family.codes(values_of(x).shape[1])
        one = jnp.ones((count(rows), 1))
        seen = np.split(np.asarray(codes.statistics(None, one, (), rows).counts[0]), np.cumsum(codes.levels)[:-1])
        for d, found in enumerate(seen):
            if (found == 0).any():
                raise ValueError(
                    f"ItemResponse: nobody has level {int(found.argmin())} of item {d}, so that its threshold is "
                    "infinite: leave the item out, or join levels"
                )

    def allows(self, params: ItemResponseParams, data: Data) -> Array:
        """Whether every answer of nonzero weight is one of the levels, (); for traced values."""
        x, weights = split_weights(data)
        return observations.supported(self.family, x, None if weights is None else weights != 0).all()


@program(quick="few numbers")
def _init(model: ItemResponse, key: Array, data: Data) -> ItemResponseParams:
    return model.first(key, data)[0]


@program(static_argnames=("n",))
def _draw(model: ItemResponse, key: Array, params: ItemResponseParams, n: int) -> tuple[Array, Array]:
    t_key, x_key = jax.random.split(key)
    t = jax.random.normal(t_key, (n,), float_dtype(params))
    return t, model.family.answers(x_key, params, t)


@program
def _abilities(model: ItemResponse, params: ItemResponseParams, x: Data) -> Abilities:
    q = model.e_step(params, x)
    r = jnp.where(jnp.isfinite(q.log_normalizer)[:, None], q.probabilities, jnp.nan)
    t = jnp.asarray(model.gate.positions, r.dtype)
    means = r @ t
    return Abilities(means, jnp.sqrt((r * (t[None, :] - means[:, None]) ** 2).sum(axis=1)))
