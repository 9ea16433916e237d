"""The protocol of a gate: the distribution of the class of one observation, given its covariates or nothing."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.contexts import Context
from jaxem.core.data import Columns, Data, given_of
from jaxem.core.parameters import Declared
from jaxem.core.trees import float_dtype


class Gate(Protocol):
    """p(z_n = k | covariates of n), for all K classes at once.

    ``x`` are rows: a ``Dataset`` where the data have covariates, else their values, which a gate never uses. A context
    c is what ``prepare`` returns for the parameters, once per iteration; sums are taken about it. All functions may be
    mapped by ``vmap`` over an axis of gates, such as the rows of a transition matrix.

    These functions are optional; those below this class supply the default where a gate lacks one:

    * ``log_prior(params) -> ()`` -- a log-prior, which ``maximize`` must then include.
    * ``probability(c) -> (K,)`` -- of a homogeneous gate: the probabilities, which may be zero.
    * ``degenerate(params) -> ()`` -- whether a class has become empty.
    * ``check(x, title)`` -- raises ``ValueError`` where the covariates that the gate needs are not there.
    * ``sizes(x) -> dict`` -- the lengths of the axes that it declares with letters other than K.
    * ``axis_labels(given, columns, leading) -> dict`` -- the names along these axes, for tables.
    """

    homogeneous: bool  # whether all observations share one distribution of the class
    takes: tuple[str, ...]  # the parts of the data that it uses: ("given",) or ()

    def declare(self) -> Declared:
        """A declaration of each array of the parameters; an axis ``K`` is the classes."""
        ...

    def prepare(self, params: Any, x: Data | None) -> Context:
        """The context; of ``x`` only shapes are used, ``None`` where no observations will follow."""
        ...

    def log_prob(self, c: Context, x: Data) -> Array:
        """log p(z_n = k), (N, K); (1, K) of a homogeneous gate."""
        ...

    def statistics(self, c: Context, r: Array, x: Data) -> Any:
        """Sums over n, weighted by r (N, K), that determine the maximiser, or one step towards it."""
        ...

    def maximize(self, c: Context, sums: Any) -> Any:
        """The parameters that maximise sum_nk r_nk log p(z_n = k) plus the log-prior, or improve it (``Param``)."""
        ...

    def expected(self, c: Context, params: Any, sums: Any) -> Array:
        """sum_nk r_nk log p(z_n = k) from the sums alone, up to a constant free of ``params``.

        Of an array that is only improved, the quadratic model about the context's parameters.
        """
        ...

    def start(self, sizes: Array, x: Data) -> Any:
        """The parameters of a start, in which class k has the share ``sizes (K,)`` of all observations."""
        ...


def log_prior(gate: Any, params: Any) -> Array | float:
    """The gate's log-prior; 0 without one."""
    return gate.log_prior(params) if hasattr(gate, "log_prior") else 0.0


def has_prior(gate: Any) -> bool:
    """Whether the gate has a log-prior."""
    return hasattr(gate, "log_prior") and getattr(gate, "prior", gate) is not None


def degenerate(gate: Any, params: Any) -> Array:
    """Whether a class has become empty; false where the gate does not say."""
    return gate.degenerate(params) if hasattr(gate, "degenerate") else jnp.bool_(False)


def check(gate: Any, x: Data, title: str) -> None:
    """Raise ``ValueError`` where the covariates that the gate needs are not there."""
    if hasattr(gate, "check"):
        gate.check(x, title)


def sizes(gate: Any, x: Data | None) -> dict[str, int]:
    """The lengths of the axes that the gate declares with letters, as far as ``x`` tells."""
    return gate.sizes(x) if x is not None and hasattr(gate, "sizes") else {}


def axis_labels(gate: Any, given: Any, columns: Mapping[str, Columns], leading: int) -> dict[str, list[str]]:
    """The names along the axes that the gate declares with letters, as far as its covariates have names."""
    return gate.axis_labels(given, columns, leading) if hasattr(gate, "axis_labels") else {}


def covariates(x: Data, on: str | tuple[str, ...] | None, title: str) -> list[Array]:
    """The covariates of rows, arrays (N, ...): ``given``, or its parts ``on``; ``ValueError`` where there are none."""
    given = given_of(x)
    needs = f"{title} needs covariates: jaxem.dataset(values, given=...)"
    if given is None:
        raise ValueError(f"{needs}; the data have none")
    if on is None:
        if not hasattr(given, "ndim"):
            raise ValueError(f"{needs}, one array; given is a {type(given).__name__}, so say which: on=...")
        return [given]
    for name in (on,) if isinstance(on, str) else on:
        if not isinstance(given, dict) or not hasattr(given.get(name), "ndim"):
            names = sorted(given) if isinstance(given, dict) else f"a {type(given).__name__}"
            raise ValueError(f"{needs} with an array named {name!r}; given is {names}")
    return [given[name] for name in ((on,) if isinstance(on, str) else on)]


def design(x: Data, on: str | tuple[str, ...] | None, intercept: bool, dtype: Any, title: str) -> Array:
    """The design matrix (N, P): a column of ones first, if there is an intercept, and the covariates."""
    parts = [u.reshape(u.shape[0], -1) for u in covariates(x, on, title)]
    dtype = float_dtype(parts, jax.ShapeDtypeStruct((), dtype))  # floats wider than the parameters stay so
    ones = [jnp.ones((parts[0].shape[0], 1), dtype)] if intercept else []
    return jnp.concatenate([*ones, *(u.astype(dtype) for u in parts)], axis=1)


def columns(x: Data, on: str | tuple[str, ...] | None, intercept: bool, title: str) -> int:
    """P, the number of columns of the design matrix of rows ``x``; only shapes are used."""
    return jax.eval_shape(lambda x: design(x, on, intercept, jnp.float32, title), x).shape[1]
