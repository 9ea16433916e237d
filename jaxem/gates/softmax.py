"""The multinomial logit of the class given covariates."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices, newton
from jaxem.core.checks import brief
from jaxem.core.data import Columns, Data
from jaxem.core.parameters import Param, covariate_labels
from jaxem.core.records import register
from jaxem.core.spaces import ZeroSum
from jaxem.core.spaces.zero_sum import contrasts
from jaxem.gates import protocol


class SoftmaxParams(NamedTuple):
    """The parameters of ``Softmax``."""

    coefficients: Array  # (K, P), zero sum over K; the intercept is column 0


class SoftmaxSums(NamedTuple):
    """Sums about the coefficients of the context."""

    score: Array  # (K, P), sum_n (r_nk - w_n p_nk) u_n
    pairs: Array  # (K (K - 1) / 2, P, P), sum_n w_n p_nj p_nk u_n u_n' of each pair j < k of classes
    gram: Array  # (P, P), sum_n w_n u_n u_n'
    total: Array  # (), sum_n w_n


@register
@dataclasses.dataclass(frozen=True)
class Softmax:
    r"""Class probabilities that depend on covariates u (P,), by a multinomial logit.

    .. math:: p_{nk} = e^{\beta_k \cdot u_n} / \sum_j e^{\beta_j \cdot u_n}, \qquad \sum_k \beta_k = 0

    An M-step is one Newton step of sum_nk r_nk log p_nk from the coefficients of the E-step, with the exact Hessian.
    The parameters are a ``SoftmaxParams``; the coefficients of all classes sum to zero, so that no class is a reference
    and classes can be renumbered. The contrast of two classes, a row minus another, is a coefficient relative to a
    reference.

    Arguments:
        on: the name of the covariates in the dict ``given`` of the data, or several names; default ``None``: ``given``
            is one array, (N,) or (N, P).
        intercept: whether a column of ones is put before the covariates; default True.

    Raises:
        ValueError: ``on`` is neither a name, nor several, nor ``None``.

    Source: Dayton & Macready (1988); Jordan & Jacobs (1994).
    """

    on: str | tuple[str, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    intercept: bool = dataclasses.field(default=True, metadata={"static": True})

    homogeneous: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("given",)

    def __post_init__(self) -> None:
        on = tuple(self.on) if isinstance(self.on, list) else self.on
        names = (on,) if isinstance(on, str) else on
        if names is not None and not (isinstance(names, tuple) and names and all(isinstance(o, str) for o in names)):
            raise ValueError(f"Softmax: on must be the name of covariates, several names or None; got {brief(on)}")
        object.__setattr__(self, "on", on)

    @property
    def _letter(self) -> str:
        """The name of the axis of coefficients: gates on other covariates have another length."""
        on = (self.on,) if isinstance(self.on, str) else self.on or ()
        return ".".join(["P", *on, *([] if self.intercept else ["slopes"])])

    def declare(self) -> SoftmaxParams:
        return SoftmaxParams(Param(ZeroSum(), ("K", self._letter), improves=True))  # pyright: ignore[reportArgumentType]

    def prepare(self, params: SoftmaxParams, x: Data | None) -> SoftmaxParams:
        return params

    def _design(self, x: Data, dtype: Any) -> Array:
        return protocol.design(x, self.on, self.intercept, dtype, "Softmax")

    def log_prob(self, c: SoftmaxParams, x: Data, allowed: Array | None = None) -> Array:
        """log p_nk, (N, K); ``allowed (K,)``: the classes that are possible, default all."""
        u = self._design(x, c.coefficients.dtype)
        logits = matrices.product(u, c.coefficients.T)
        return jax.nn.log_softmax(logits if allowed is None else jnp.where(allowed[None, :], logits, -jnp.inf), axis=1)

    def statistics(self, c: SoftmaxParams | None, r: Array, x: Data, allowed: Array | None = None) -> SoftmaxSums:
        """Score and information about the coefficients of the context.

        The covariance of the indicators of the classes is a sum over pairs of classes, in which nothing cancels:
        diag(p) - p p' = sum_{j < k} p_j p_k (e_j - e_k) (e_j - e_k)'.
        """
        if c is None:
            raise ValueError("Softmax: sums are taken about the coefficients of the E-step; q.at is missing")
        u = self._design(x, r.dtype)
        p, w = jnp.exp(self.log_prob(c, x, allowed)), r.sum(axis=1, keepdims=True)
        j, k = np.triu_indices(r.shape[1], 1)
        squares = (u[:, :, None] * u[:, None, :]).reshape(u.shape[0], -1)
        pairs = matrices.product((w * p[:, j] * p[:, k]).T, squares)
        score = matrices.product((r - w * p).T, u)
        return SoftmaxSums(score, pairs.reshape(-1, *(u.shape[1],) * 2), matrices.product((w * u).T, u), w.sum())

    def maximize(self, c: SoftmaxParams, sums: SoftmaxSums, basis: Array | None = None) -> SoftmaxParams:
        """One Newton step, in coordinates in which the information is regular: orthonormal contrasts of the classes.

        Covariates are centred, as u' = t u, so that ones far from zero are not nearly collinear with the intercept.
        ``basis (K, K - 1)``: the contrasts, default those of all classes; a column of zeros is no coordinate.
        """
        k, p = sums.score.shape
        if k == 1:
            return c
        t = jnp.eye(p, dtype=sums.gram.dtype)
        if self.intercept:
            t = t.at[1:, 0].set(-sums.gram[1:, 0] / sums.total)
            squares = jnp.diagonal(sums.gram)
            constant = squares - sums.gram[:, 0] ** 2 / sums.total <= 8 * p * jnp.finfo(t.dtype).eps * squares
            t = jnp.where(constant.at[0].set(False)[:, None], 0, t)  # a constant covariate repeats the intercept
        v = jnp.asarray(contrasts(k) if basis is None else basis, sums.score.dtype)
        between = v[np.triu_indices(k, 1)[0]] - v[np.triu_indices(k, 1)[1]]  # (pairs, K - 1), V' (e_j - e_k)
        outer = (between[:, :, None] * between[:, None, :]).reshape(between.shape[0], -1)
        information = matrices.product(outer.T, _sandwich(t, sums.pairs).reshape(between.shape[0], -1))
        information = information.reshape(k - 1, k - 1, p, p).transpose(0, 2, 1, 3).reshape(((k - 1) * p,) * 2)
        gram = jnp.kron(jnp.eye(k - 1, dtype=v.dtype), _sandwich(t, sums.gram))
        score = matrices.product(matrices.product(v.T, sums.score), t.T).reshape(-1)
        # What is left of the information of a separated gate ends below the rounding error of the score: no step then.
        own, squares = jnp.diagonal(information), jnp.diagonal(gram)
        own = jnp.where(own <= jnp.finfo(own.dtype).eps / jnp.sqrt(sums.total) * squares, 0, own)
        # The further a gate is on its way to infinity, where its maximum may be, the longer a step may be.
        size = jnp.sqrt((matrices.product(c.coefficients, sums.gram) * c.coefficients).sum() / sums.total)
        step = newton.step(score, information, own, sums.total, gram, newton.LONGEST + size)
        return SoftmaxParams(c.coefficients + matrices.product(matrices.product(v, step.reshape(k - 1, p)), t))

    def expected(self, c: SoftmaxParams, params: SoftmaxParams, sums: SoftmaxSums) -> Array:
        """The quadratic model about the coefficients of the context, whose maximiser is the Newton step."""
        d = params.coefficients - c.coefficients
        j, k = np.triu_indices(d.shape[0], 1)
        between = d[j] - d[k]
        curvature = (between[:, :, None] * sums.pairs * between[:, None, :]).sum()
        unread = 0 * (sums.gram.sum() + sums.total)  # what is NaN there makes Q NaN too
        return (sums.score * d).sum() - 0.5 * curvature + unread

    def start(self, sizes: Array, x: Data, allowed: Array | None = None) -> SoftmaxParams:
        """No slopes; the intercepts give the classes their sizes."""
        p = protocol.columns(x, self.on, self.intercept, "Softmax")
        log_p = jnp.log(jnp.maximum(sizes / sizes.sum(), jnp.finfo(sizes.dtype).eps))
        allowed = jnp.ones(sizes.shape, bool) if allowed is None else allowed
        intercepts = jnp.where(allowed, log_p - log_p.mean(where=allowed), 0)
        coefficients = jnp.zeros((sizes.shape[0], p), sizes.dtype)
        return SoftmaxParams(coefficients.at[:, 0].set(intercepts) if self.intercept else coefficients)

    def check(self, x: Data, title: str) -> None:
        protocol.covariates(x, self.on, f"{title} with the gate Softmax")

    def sizes(self, x: Data) -> dict[str, int]:
        return {self._letter: protocol.columns(x, self.on, self.intercept, "Softmax")}

    def axis_labels(self, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
        """The names of the coefficients: ``intercept`` and the columns of the covariates."""
        names = covariate_labels(given, columns, self.on, leading)
        return {} if names is None else {self._letter: ["intercept"] * self.intercept + names}


def _sandwich(t: Array, a: Array) -> Array:
    """t a t', for ``a (..., P, P)``."""
    return matrices.product(matrices.product(t, a), t.T)
