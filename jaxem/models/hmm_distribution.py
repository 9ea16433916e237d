"""The distribution function of each observation of a hidden Markov model, given the others."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.compilation import program
from jaxem.core.contexts import choose
from jaxem.core.conversion import admit
from jaxem.core.data import Data
from jaxem.core.sizes import of_rows
from jaxem.families import observed
from jaxem.families.tails import Tails
from jaxem.latent import chain, chain_steps
from jaxem.models.sequences import is_sequence, shape, unpack

Kind = Literal["forecast", "ordinary"]


class Distribution:
    """The function of a hidden Markov model that residuals are made of."""

    def distribution(self: Any, params: Any, data: Data, kind: Kind = "forecast") -> Tails:
        r"""The probabilities on both sides of each observation, for residuals (``jaxem.inference.residuals``).

        .. math:: P(X_t < x_t \mid \text{others}) = \sum_k p(z_t = k \mid \text{others})\, P(X_t < x_t \mid k)

        Arguments:
            params: parameters of the model, or a ``Fit``.
            data: N sequences. Weights are ignored.
            kind: which others: ``"forecast"`` (default), the observations before t; ``"ordinary"``, all but that at t.

        Returns:
            ``Tails(below, at, above)``, each (N, T). NaN after the end of a sequence, where the observation is missing,
            and in a sequence that contains NaN or is impossible.

        Raises:
            ValueError: ``kind`` is none of these; the family has no distribution function; or parameters, data and
                model do not fit each other.

        Source: Zucchini, MacDonald & Langrock (2016), section 6.2.
        """
        if kind not in ("forecast", "ordinary"):
            raise ValueError(f"HMM.distribution: kind must be 'forecast' or 'ordinary'; got {kind!r}")
        params, data = admit(self, params, data)
        return of_rows(lambda x: _distribution(self, params, x, kind), data)


@program(static_argnames=("kind",))
def _distribution(model: Any, params: Any, sequences: Data, kind: Kind) -> Tails:
    x, lengths = unpack(sequences)

    def of(c: Any) -> Tails:
        pi, A = model.pi_A(c, x)
        log_b, inside = model.log_b(c, x), chain_steps.within(lengths, shape(x)[1])
        filtered, log_c = chain.filtered_probabilities(pi, A, log_b, lengths)
        before = jnp.broadcast_to(jnp.atleast_2d(pi), filtered[:, 0].shape)[:, None]
        moved = filtered[:, :-1] @ A if A.ndim == 2 else jnp.einsum("nti,ntij->ntj", filtered[:, :-1], A)
        p = jnp.concatenate([before, moved], axis=1)
        if kind == "ordinary":
            p = jax.nn.softmax(jnp.log(p) + _log_after(jnp.log(A), log_b, inside), axis=2)
        found = model._of_frames(lambda e, x: observed.tails(model.family, e, x), c, x)
        sound = inside & (jnp.isfinite(log_c.sum(axis=1)) & is_sequence(lengths, x))[:, None]
        of_steps = lambda part: (p * part.reshape(p.shape)).sum(axis=2)
        return jax.tree.map(lambda part: jnp.where(sound, of_steps(part), jnp.nan), found)

    return choose(model.prepare(params, x), of)


def _log_after(log_A: Array, log_b: Array, inside: Array) -> Array:
    """log p(x_{t+1} ... x_T | z_t = k) up to a constant of each step, (N, T, K)."""
    n, t, k = log_b.shape
    every = log_A[None, None] if log_A.ndim == 2 else log_A
    moves = jnp.moveaxis(jnp.broadcast_to(every, (n, t - 1, k, k)), 1, 0)

    def step(after: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        moves, log_b, inside = now
        found = jax.nn.logsumexp(moves + (log_b + after)[:, None, :], axis=2)
        found = found - found.max(axis=1, keepdims=True)
        found = jnp.where(inside[:, None], found, 0)  # nothing comes after the last step
        return found, found

    steps = moves, jnp.moveaxis(log_b[:, 1:], 1, 0), inside[:, 1:].T
    zero = jnp.zeros((n, k), log_b.dtype)
    _, found = jax.lax.scan(step, zero, steps, reverse=True)
    return jnp.concatenate([jnp.moveaxis(found, 0, 1), zero[:, None]], axis=1)
