"""What a family is: the distribution of one observation given its class, for all K classes at once."""

from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.contexts import Context, choose
from jaxem.core.parameters import Declared


class Family(Protocol):
    """One distribution per class; ``x (N, ...)`` holds N observations of ``event_ndim`` axes each.

    A family knows nothing of the latent structure: mixtures and hidden Markov models give it weights
    r_nk = q(z_n = k), those of the observations included, and get back sums over observations. A context c is what
    ``prepare`` makes of the parameters, once an iteration. Sums are taken about the parameters of their context, so
    that nothing cancels far from zero; ``maximize`` and ``expected`` undo it. For a start, which has no parameters
    yet, ``statistics`` and ``maximize`` get ``None`` for a context: sums about zero. Where those are good for the
    location only, the family is ``centred``, and a start takes a second pass.

    A family may also have ``log_prior(params)``, then included by ``maximize``; ``degenerate(params)``, whether some
    class has collapsed to where its density has no bound; ``diagnose(x, dtype)``, in words why no start can be made
    from the NumPy rows ``x``, or ``None``; ``contrasts(params) -> (K, F)``, numbers without units by which classes
    differ. One that has hidden variables u of its own has ``hidden(c, x)``, what describes their posterior, leaves
    (N, K, ...); ``complete(c, hidden, x)``, E log p(x, u | k), ``hidden_entropy(c, hidden, x)``, and
    ``hidden_divergence(hidden, other)``, KL from one posterior to another, all (N, K). The functions below this class
    supply the answer of a family that has not.
    """

    event_ndim: int
    support: str  # what an observation must be, in words

    def declare(self) -> Declared:
        """What each array of the parameters is."""
        ...

    def prepare(self, params: Any, rows: int) -> Context:
        """What an iteration at these parameters needs more than once, for so many observations."""
        ...

    def log_density(self, c: Context, x: Array) -> Array:
        """log p(x_n | class k), (N, K)."""
        ...

    def statistics(self, c: Context, r: Array, hidden: Any, x: Array) -> Any:
        """Sums over n of r (N, K) times what the maximiser needs."""
        ...

    def maximize(self, c: Context, sums: Any) -> Any:
        """The parameters that maximise sum_nk r_nk log p(x_n | class k), plus the log-prior."""
        ...

    def expected(self, c: Context, params: Any, sums: Any) -> Array:
        """sum_nk r_nk log p(x_n | class k) from the sums alone, up to a constant free of ``params``."""
        ...

    def features(self, x: Array) -> Array:
        """(N, F) real numbers whose distances say which observations are alike; for starts."""
        ...

    def supports(self, x: Array) -> Array:
        """(N,), whether each observation is possible at all."""
        ...

    def sample(self, key: Array, params: Any, labels: Array) -> Array:
        """One observation for each label, (n, ...)."""
        ...


def impossible(x: Array, dtype: jnp.dtype) -> Array:
    """The log-density of observations outside the support, (N,): -inf, and NaN for one that is NaN."""
    unknown = jnp.isnan(x).reshape(x.shape[0], -1).any(axis=1)
    return jnp.where(unknown, jnp.nan, -jnp.inf).astype(dtype)


def log_density(family: Any, params: Any, x: Array) -> Array:
    """log p(x_n | class k), (N, K), of observations that are met once."""
    return choose(family.prepare(params, x.shape[0]), lambda c: family.log_density(c, x))


def hidden(family: Any, c: Context, x: Array) -> Any:
    """The posterior of the family's own hidden variables, leaves (N, K, ...); nothing where it has none."""
    return family.hidden(c, x) if hasattr(family, "hidden") else ()


def complete(family: Any, c: Context, u: Any, x: Array) -> Array:
    """E log p(x_n, u | class k), (N, K)."""
    return family.complete(c, u, x) if hasattr(family, "complete") else family.log_density(c, x)


def has_hidden(family: Any) -> bool:
    """Whether the family has hidden variables of its own."""
    return hasattr(family, "hidden")


def hidden_entropy(family: Any, c: Context, u: Any, x: Array) -> Array:
    """The entropy of the family's own hidden variables, (N, K), where it has any."""
    return family.hidden_entropy(c, u, x)


def hidden_divergence(family: Any, u: Any, v: Any) -> Array:
    """KL between two posteriors of the family's own hidden variables, (N, K), where it has any."""
    return family.hidden_divergence(u, v)


def log_prior(family: Any, params: Any) -> Array | float:
    """The family's log-prior; 0 without one."""
    return family.log_prior(params) if hasattr(family, "log_prior") else 0.0


def degenerate(family: Any, params: Any) -> Array:
    """Whether a class has collapsed."""
    return family.degenerate(params) if hasattr(family, "degenerate") else jnp.bool_(False)


def diagnose(family: Any, x: np.ndarray, dtype: np.dtype) -> str | None:
    """Why no start can be made from the rows ``x``; ``None`` where nothing is known against it."""
    return family.diagnose(x, dtype) if hasattr(family, "diagnose") else None


_ALIKE = 0.03  # in units of a standard deviation, a log-rate or a probability: far below what makes two classes of one


def coincide(family: Any, params: Any) -> Array:
    """Whether every class is the same as another one, or as good as.

    Where the family has no ``contrasts``, it is taken not to be.
    """
    if not hasattr(family, "contrasts"):
        return jnp.bool_(False)
    contrasts = family.contrasts(params)
    gaps = jnp.abs(contrasts[:, None, :] - contrasts[None, :, :]).max(axis=-1)
    others = jnp.where(jnp.eye(gaps.shape[0], dtype=bool), jnp.inf, gaps)
    return (others.min(axis=1) <= _ALIKE).all()
