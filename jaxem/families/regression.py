"""Regression: the distribution of a response given covariates, for each class."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import brief
from jaxem.core.data import Columns, Data, given_of, values_of, with_values
from jaxem.core.parameters import Param
from jaxem.core.spaces import Positive, Real
from jaxem.families import freedom, protocol, regression_squares, unbounded
from jaxem.families import regression_responses as responses
from jaxem.families.bernoulli import Bernoulli
from jaxem.families.binomial import Binomial
from jaxem.families.censored import Censored
from jaxem.families.gamma import Gamma
from jaxem.families.negative_binomial import NegativeBinomial
from jaxem.families.normal import Normal
from jaxem.families.poisson import Poisson
from jaxem.families.regression_design import Design, Rows, Split, design
from jaxem.families.regression_squares import Prepared
from jaxem.families.student_t import StudentT
from jaxem.families.tails import Tails, refuse


class RegressionParams(NamedTuple):
    """The parameters of ``Regression``."""

    coefficients: Array | None  # (K, P), the intercept first; None where all are shared
    shared: Array | None = None  # (Q,), of the columns that classes share; None without any
    dispersions: Array | None = None  # (K,), or () where tied; None where the response has none
    tails: Array | None = None  # of a t response, as in ``StudentTParams``


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Regression:
    r"""A response y given covariates x, with coefficients of its own in each class.

    .. math:: g(E[y \mid x, k]) = \eta_k = \beta_{k0} + x \cdot \beta_k + \text{offset}

    The data are ``jaxem.dataset(y, given=x)``: the response, (N,), and the covariates, (N, columns), or a dict of
    covariates, each (N,) or (N, columns). In a chain they are (N, T) and (N, T, columns). A response may be missing; a
    covariate may not. The parameters are a ``RegressionParams``.

    ================================  ============================  ==============================================
    ``family``                        links                         dispersion phi
    ================================  ============================  ==============================================
    ``Normal()``                      identity                      the variance
    ``StudentT()``                    identity                      the squared scale
    ``Censored(Normal())`` (tobit)    identity                      the variance; the response is two columns
    ``Poisson()``                     log                           --
    ``NegativeBinomial()``            log                           variance m + phi m^2
    ``Gamma()``                       log                           variance phi m^2: one over the shape
    ``Bernoulli()``, ``Binomial(T)``  logit, probit, cloglog        --
    ================================  ============================  ==============================================

    The first three have M-steps in closed form (weighted least squares). The others take one Newton step, so that
    their parameters are declared as improving. A ``floor`` of ``Normal`` keeps the variance of a class from vanishing
    where it could fit its responses perfectly.

    Arguments:
        family: the distribution of the response; see above.
        link: g, by name; the first of the above by default.
        on: the name of the covariates in ``given``, or several; default: ``given`` is one array.
        intercept: whether there is an intercept beside the covariates; default True.
        offset: the name of a part of ``given`` that is added to the predictor, such as the logarithm of an exposure;
            default: none.
        tied: the covariates whose coefficients all classes share: names, places among the columns, ``"all"``, and
            ``"intercept"``; default: none.
        dispersion: ``"free"`` (default), one for each class, or ``"tied"``, one for all.

    Raises:
        ValueError: the family has no regression, the link is not one of its links, or another option is not valid.

    Source: McLachlan & Peel (2000), chapter 5; Lange, Little & Taylor (1989) for t; Amemiya (1984) for tobit;
    Gruen & Leisch (2008) for mixtures of generalised linear models.
    """

    family: Any
    link: str | None = None
    on: str | tuple[str, ...] | None = None
    intercept: bool = True
    offset: str | None = None
    tied: str | int | tuple[str | int, ...] = ()
    dispersion: Literal["free", "tied"] = "free"

    takes: ClassVar[tuple[str, ...]] = ("given",)

    def __post_init__(self) -> None:
        for name in ("on", "tied"):  # lists cannot be hashed
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        _ = self._design, self._response  # whose checks raise
        if self.dispersion not in ("free", "tied"):
            raise ValueError(f"Regression: dispersion must be 'free' or 'tied'; got {brief(self.dispersion)}")
        if getattr(self.family, "prior", None) is not None:
            raise ValueError(f"Regression cannot use the prior of {type(self.family).__name__}: leave it out")
        if self.link is not None and self.link not in self._response.links:
            raise ValueError(
                f"Regression of {type(self.family).__name__}: the link must be one of "
                f"{list(self._response.links)}; got {brief(self.link)}"
            )

    @property
    def _design(self) -> Design:
        return design(self.on, self.intercept, self.offset, self.tied)

    @property
    def _response(self) -> Any:
        return _response(self.family, self.link)

    @property
    def event_ndim(self) -> int:
        return self._response.event_ndim

    @property
    def support(self) -> str:
        """A description of valid responses."""
        return self._response.support

    @property
    def centred(self) -> bool:
        return not self._response.improves

    @property
    def _tied(self) -> bool:
        return self.dispersion == "tied"

    @property
    def _only_improves(self) -> bool:
        """Whether the coefficients are those of one step: for a generalised linear model, and where the variances of
        the classes weigh the columns that they share."""
        return self._response.improves or (bool(self._design.tied) and not self._tied)

    def declare(self) -> RegressionParams:
        own, improves = self._design.has_own, self._only_improves
        response = self._response
        dispersed = Param.of(Positive(), "" if self._tied else "K", location=not own and not self._tied)
        tails = freedom.declared(response.freedom)
        return RegressionParams(
            Param.of(Real(), "K own", location=True, improves=improves) if own else None,  # pyright: ignore
            Param.of(Real(), "shared", improves=improves) if self._design.tied else None,  # pyright: ignore
            dataclasses.replace(dispersed, improves=improves) if response.dispersed else None,  # pyright: ignore
            tails,  # pyright: ignore[reportArgumentType]
        )

    def prepare(self, params: RegressionParams, x: Data | None) -> Prepared:
        own, shared, dispersions, tails = params
        like = own if own is not None else dispersions
        assert like is not None
        spread = jnp.zeros((), like.dtype) if dispersions is None else dispersions
        spread = jnp.broadcast_to(spread, like.shape[:1])
        return Prepared(Split(own, shared), spread, freedom.of_classes(self._response.freedom, tails, spread))

    def _read(self, c: Prepared, x: Data) -> tuple[Rows, Array]:
        """The rows, and their linear predictors (N, K)."""
        rows = self._design.read(x)
        return rows, rows.predictor(c.coefficients, c.dispersions.shape[0])

    def log_density(self, c: Prepared, x: Data) -> Array:
        rows, eta = self._read(c, x)
        return self._response.log_density(c, eta, rows.y.astype(eta.dtype))

    def tails(self, c: Prepared, x: Data) -> Tails:
        if self.event_ndim:
            refuse(self.family)
        rows, eta = self._read(c, x)
        return self._response.tails(c, eta, rows.y.astype(eta.dtype)[:, None])

    # The hidden variables of t and tobit

    def hidden(self, c: Prepared, x: Data) -> Any:
        if not hasattr(self._response, "hidden"):
            return ()
        rows, eta = self._read(c, x)
        return self._response.hidden(c, eta, rows.y.astype(eta.dtype))

    def complete(self, c: Prepared, u: Any, x: Data) -> Array:
        if not hasattr(self._response, "hidden"):
            return self.log_density(c, x)
        rows, eta = self._read(c, x)
        return self._response.complete(c, u, eta, rows.y.astype(eta.dtype))

    def hidden_entropy(self, c: Prepared, u: Any, x: Data) -> Array:
        return self._response.hidden_entropy(u, values_of(x))

    def hidden_divergence(self, u: Any, other: Any) -> Array:
        return self._response.hidden_divergence(u, other)

    # The M-step

    def statistics(self, c: Prepared | None, r: Array, u: Any, x: Data) -> Any:
        if c is None:
            rows = self._design.read(x)
            y = self._response.point(rows.y.astype(r.dtype))
            y = y if rows.offset is None else y - rows.offset
            return regression_squares.about_zero(r, rows.z, y, self._response.freedom)
        rows, eta = self._read(c, x)
        y = rows.y.astype(eta.dtype)
        if self._response.improves:
            return responses.statistics(self._response, c, r, rows.z, eta, y)
        return self._response.statistics(c, r, u, rows.z, eta, y)

    def maximize(self, c: Prepared | None, sums: Any) -> RegressionParams:
        response = self._response
        if c is not None and response.improves:
            own, shared = responses.coefficients(c, sums)
            spread = responses.dispersions(c, sums, self._tied) if response.dispersed else None
            return RegressionParams(own, shared, spread)
        weighed = c is not None and self._design.tied and not self._tied
        d, step = regression_squares.least_squares(sums, 1 / c.dispersions if weighed and c is not None else None)
        own, shared = regression_squares.moved(None if c is None else c.coefficients, step)
        left, n = regression_squares.remaining(sums, d), sums.sizes
        spread = left.sum() / n.sum() if self._tied else left / n
        tails = None if sums.excess is None else freedom.maximize(response.freedom, n, sums.excess)
        return RegressionParams(own, shared, spread if response.dispersed else None, tails)

    def expected(self, c: Prepared, params: RegressionParams, sums: Any) -> Array:
        own, shared, spread, _ = params
        if self._response.improves:
            return responses.expected(c, Split(own, shared), spread, sums, self._tied)
        new = self.prepare(params, None)
        return regression_squares.expected(c, new.coefficients, new.dispersions, new.tails, sums)

    def degenerate(self, params: RegressionParams) -> Array:
        c = self.prepare(params, None)
        own = params.coefficients
        size = jnp.zeros_like(c.dispersions) if own is None or not self.intercept else own[:, 0]
        return self._response.degenerate(c.dispersions, size)

    # Observations

    def features(self, x: Data) -> Array:
        """Signed roots of residuals of one regression for all rows, times each column; for starts.

        Classes differ in the sign of these products, wherever their regressions differ. Clusters of responses and
        covariates themselves would be neighbourhoods, each with rows of every class.
        """
        rows = self._design.read(x)
        z = rows.z.joined()
        regular = (_pivots(z) > _least_pivot(z)).all()
        y = self._response.point(rows.y.astype(z.dtype))
        y = y if rows.offset is None else y - rows.offset
        if self.intercept:
            middle = z[:, 1:] - z[:, 1:].mean(axis=0, keepdims=True)
            spread = jnp.sqrt((middle**2).mean(axis=0, keepdims=True))
            z = jnp.concatenate([z[:, :1], middle / jnp.where(spread > 0, spread, 1)], axis=1)
        columns = Split(z, None)
        d, _ = regression_squares.least_squares(
            regression_squares.about_zero(jnp.ones_like(z[:, :1]), columns, y), None
        )
        products = (y - matrices.product(z, d[0]))[:, None] * z
        # Where no start is sound, ``diagnose`` says why: features that do not vary are not.
        return jnp.where(regular, jnp.sign(products) * jnp.sqrt(jnp.abs(products)), 0)

    def supports(self, x: Data) -> Array:
        return self._response.supports(values_of(x))

    def sample(self, key: Array, params: RegressionParams, labels: Array) -> Array:
        """Refused by name: a response is drawn given covariates."""
        raise ValueError("Regression cannot be sampled without covariates; use sample_like with data that have them")

    def sample_like(self, key: Array, params: RegressionParams, labels: Array, x: Data) -> Data:
        """Responses given the covariates of ``x`` and the classes ``labels (N,)``, with the missing cells of ``x``."""
        return with_values(x, self.redraw(key, params, labels, x))

    def redraw(self, key: Array, params: RegressionParams, labels: Array, x: Data) -> Array:
        """A draw of each response given its covariates and its class."""
        c = self.prepare(params, None)
        _, eta = self._read(c, x)
        eta = jnp.take_along_axis(eta, labels[:, None], axis=1)[:, 0]
        return self._response.sample(key, eta, c.dispersions[labels], c.tails[labels])

    def impute(self, params: RegressionParams, r: Array, x: Data) -> Array:
        """The mean of each response given its covariates and the class probabilities r (N, K)."""
        _, eta = self._read(self.prepare(params, None), x)
        return (r * self._response.mean(eta)).sum(axis=1)

    # Checks

    def check_shape(self, x: Data, leading: tuple[str, ...], title: str) -> None:
        """Raise ``ValueError`` where responses or covariates are not shaped as needed."""
        response = _Shaped(self.event_ndim, 2 if self.event_ndim else None)
        protocol.check_shape(response, values_of(x), leading, title)
        self._design.check(given_of(x), leading, title)

    def sizes(self, values: Any, leading: int) -> dict[str, int]:
        return {}

    def widths(self, given: Any, leading: int) -> dict[str, int]:
        """The numbers of columns with a coefficient for each class, and of those that classes share."""
        return self._design.widths(given, leading)

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        """The names of the coefficients: ``intercept`` and the columns of the covariates."""
        return self._design.axis_labels(given, columns, leading)

    def diagnose(self, x: Data, dtype: np.dtype) -> str | None:
        """Why no start can be made from the responses and covariates ``x``; ``None`` where no reason is found."""
        rows = self._design.read(x)
        y = np.asarray(self._response.point(jnp.asarray(rows.y)), np.float64)
        z = np.asarray(rows.z.joined(), np.float64)
        if not np.isfinite(z).all():
            return "the covariates must be finite"
        known = y[~np.isnan(y)][:, None]
        if not self._response.improves and known.size:
            found = unbounded.out_of_range(known, dtype) or unbounded.constant(known, dtype, "leave the model out")
            if found is not None:
                return found
        return self._dependent(z, dtype)

    def _dependent(self, z: np.ndarray, dtype: np.dtype) -> str | None:
        """A message where the columns ``z (N, P)`` are linearly dependent to the precision of ``dtype``."""
        size = np.sqrt((z**2).sum(axis=0))
        pivots = np.diagonal(np.linalg.qr(z / np.where(size > 0, size, 1))[1]) ** 2
        bad = np.flatnonzero(pivots <= _least_pivot(z.astype(dtype)))
        if not bad.size:
            return None
        names = ["the intercept"] * self.intercept + [f"covariate {j}" for j in range(z.shape[1])]
        return (
            f"the coefficients cannot be told apart, for {names[int(bad[0])]} is a sum of multiples of the columns "
            f"before it, to the precision of {dtype}: drop it, or subtract its mean where that is large beside its "
            "spread"
        )


class _Shaped(NamedTuple):
    """What ``protocol.check_shape`` asks of a family."""

    event_ndim: int
    dimensions: int | None


def _pivots(z: Array) -> Array:
    """The squared distance of each column, as a share of its square, to the span of those before it, (P,)."""
    size = jnp.sqrt((z**2).sum(axis=0, keepdims=True))
    unit = z / jnp.where(size > 0, size, 1)
    return jnp.nan_to_num(jnp.diagonal(matrices.cholesky(matrices.product(unit.T, unit)))) ** 2


def _least_pivot(z: Any) -> float:
    """Below this, what distinguishes a column is rounding error in the sums of products."""
    return 4 * z.shape[1] * float(np.finfo(z.dtype).eps)


def _response(family: Any, link: str | None) -> Any:
    """The response of a family; ``ValueError`` where it has no regression."""
    match family:
        case Normal():
            return regression_squares.NormalResponse(floor=family.floor)
        case StudentT():
            return regression_squares.StudentTResponse(freedom=family.freedom)
        case Censored(family=Normal()):
            return regression_squares.CensoredResponse(family=family)
        case Poisson():
            return responses.PoissonResponse()
        case NegativeBinomial():
            return responses.NegativeBinomialResponse()
        case Gamma():
            return responses.GammaResponse()
        case Bernoulli():
            return responses.BinaryResponse(1, link or "logit")
        case Binomial():
            return responses.BinaryResponse(family.trials, link or "logit")
        case _:
            raise ValueError(
                "Regression: family must be Normal(), StudentT(), Censored(Normal()), Poisson(), NegativeBinomial(), "
                f"Gamma(), Bernoulli() or Binomial(...); got {brief(family)}"
            )
