"""What a family is: the distribution of one observation given its class, for all K classes at once."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core.constraints import Spaces
from jaxem.core.trees import float_dtype


class Family(Protocol):
    """One distribution per class; ``x (N, ...)`` holds N observations of ``event_ndim`` axes each.

    A family knows nothing of the latent structure: mixtures and hidden Markov models give it weights
    r_nk = q(z_n = k) and get back statistics that add up over observations.

    A family may also have ``log_prior(params)``, then included by ``maximize``; ``degenerate(params)``, whether
    some class has collapsed to where its density has no bound; ``anchor(params)``, the same family with its
    statistics taken about ``params``; ``forms(params, x)``, the same at these parameters in a quick and in a
    careful form, and whether the first is accurate enough (or ``None``, for data of such a shape);
    ``diagnose(x, dtype)``, in words why no start can be made from the NumPy rows ``x``, or ``None``;
    ``contrasts(params) -> (K, F)``, numbers without units by which classes differ; and ``permute(params, order)``.
    The functions below this class supply the answer of a family that has not. Parameters that all classes share
    have no axis of classes: which those are is seen from what ``maximize`` returns. The first array that has a row
    for each class says where it lies.
    """

    event_ndim: int
    support: str  # what an observation must be, in words

    @property
    def constraints(self) -> Spaces:
        """The spaces of the parameters, shaped like them."""
        ...

    def log_density(self, params: Any, x: Array) -> Array:
        """log p(x_n | class k), (N, K)."""
        ...

    def statistics(self, weights: Array, x: Array) -> Any:
        """Sums over n of weights (N, K) times what the maximiser needs."""
        ...

    def maximize(self, statistics: Any) -> Any:
        """The parameters that maximise sum_nk r_nk log p(x_n | class k), plus the log-prior."""
        ...

    def expected(self, params: Any, statistics: Any) -> Array:
        """sum_nk r_nk log p(x_n | class k) from the statistics alone, up to a constant free of ``params``."""
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


def log_prior(family: Any, params: Any) -> Array | float:
    """The family's log-prior; 0 without one."""
    return family.log_prior(params) if hasattr(family, "log_prior") else 0.0


def degenerate(family: Any, params: Any) -> Array:
    """Whether a class has collapsed."""
    return family.degenerate(params) if hasattr(family, "degenerate") else jnp.bool_(False)


def diagnose(family: Any, x: np.ndarray, dtype: np.dtype) -> str | None:
    """Why no start can be made from the rows ``x``; ``None`` where nothing is known against it."""
    return family.diagnose(x, dtype) if hasattr(family, "diagnose") else None


def anchor(family: Any, params: Any) -> Any:
    """The family with its statistics taken about ``params``."""
    return family.anchor(params) if hasattr(family, "anchor") else family


def forms(family: Any, params: Any, x: Array) -> tuple[Any, Any, Array] | None:
    """The family at ``params``, quick and careful, and whether the first is accurate enough; ``None``: no choice."""
    return family.forms(params, x) if hasattr(family, "forms") else None


def permute(family: Any, params: Any, order: Array) -> Any:
    """The parameters in which class ``order[k]`` is called k."""
    if hasattr(family, "permute"):
        return family.permute(params, order)
    leaves, treedef = jax.tree.flatten(params)
    own = _of_classes(family, leaves, order.shape[0])
    return jax.tree.unflatten(treedef, [leaf[order] if one else leaf for leaf, one in zip(leaves, own, strict=True)])


def label_keys(family: Any, params: Any, k: int) -> Array:
    """Where each class lies, (K, F): the first array with a row for each (means, rates, probabilities)."""
    leaves = jax.tree.leaves(params)
    first = leaves[_of_classes(family, leaves, k).index(True)]
    return first.reshape(k, -1)


def _of_classes(family: Any, leaves: list[Array], k: int) -> list[bool]:
    """Which of the parameters have a row for each class: those that have one more where there is one class more.

    An array that all classes share may happen to be as long as there are classes, so its shape alone does not tell.
    """

    def shapes(k: int, event: tuple[int, ...]) -> list[tuple[int, ...]]:
        weights, x = jax.ShapeDtypeStruct((1, k), dtype), jax.ShapeDtypeStruct((1, *event), dtype)
        found = jax.eval_shape(lambda weights, x: family.maximize(family.statistics(weights, x)), weights, x)
        return [leaf.shape for leaf in jax.tree.leaves(found)]

    dtype, like = float_dtype(leaves), [leaf.shape for leaf in leaves]
    # An observation is shaped like a row of one of them.
    for event in dict.fromkeys(shape[1 : 1 + family.event_ndim] for shape in like if len(shape) > family.event_ndim):
        try:
            if shapes(k, event) == like:
                more = shapes(k + 1, event)
                return [b[:1] == (k + 1,) and a != b for a, b in zip(like, more, strict=True)]
        except (TypeError, ValueError, IndexError):
            continue  # such data have other columns
    return [shape[:1] == (k,) for shape in like]


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
