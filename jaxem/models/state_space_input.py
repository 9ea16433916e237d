"""The input of state-space models: starts, and checks of data and parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import parameters
from jaxem.core.arrays import check_precision
from jaxem.core.checks import prng_key
from jaxem.core.conversion import check_shapes
from jaxem.core.data import (
    Columns,
    Data,
    Dataset,
    Sharded,
    check_counts,
    counted,
    inside,
    lengths_of,
    observed_of,
    split_weights,
    total,
    values_of,
)
from jaxem.core.dataset import as_data
from jaxem.core.parameters import covariate_labels
from jaxem.core.trees import at_hand, float_dtype, is_traced
from jaxem.models import observations
from jaxem.models.state_space_patterns import Spec, layout


class Input:
    """The functions of ``StateSpace`` that look at data before a fit."""

    @property
    def takes(self: Any) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        whole = self.noise == "full" or (isinstance(self.noise, tuple) and isinstance(self.noise[0], tuple))
        inputs = self.state_inputs is not None or self.output_inputs is not None
        return ("lengths", *(() if whole else ("observed",)), *(("given",) if inputs else ()))

    def init(self: Any, key: Array, data: Data) -> Any:
        """Parameters to start a fit from: states that persist, and half of the variance of the data as noise.

        Free loadings have random directions; inputs start without effect. Fixed elements have their values.

        Arguments:
            key: a random key.
            data: N sequences (N, T, D), with or without weights, missing cells and inputs.

        Returns:
            A ``StateSpaceParams``.

        Raises:
            ValueError: ``key`` is not a random key, or the data do not fit the model. Values that are traced are not
                checked.
        """
        prng_key("StateSpace.init", key)
        data = as_data(data)
        check_shapes(self, None, data)
        if not is_traced(self, data):
            self.check_values(data)
        x, weights = counted(data)
        dtype = float_dtype(x)
        y, k, r = values_of(x).astype(dtype), self.states, self.shocks
        seen = inside(jnp.ones(y.shape, bool) if observed_of(x) is None else observed_of(x), lengths_of(x))
        w = jnp.where(seen, jnp.ones((), dtype) if weights is None else weights.astype(dtype)[:, None, None], 0)
        w = w / w.sum(axis=(0, 1), keepdims=True)
        y = jnp.where(w > 0, y, 0)
        mean = (w * y).sum(axis=(0, 1))
        variance = (w * (y - mean[None, None]) ** 2).sum(axis=(0, 1))
        variance = jnp.where(variance > 0, variance, 1)
        d, p = y.shape[2], x.given.shape[2] if "given" in self.takes else 0
        own = isinstance(self.loadings, tuple) and (layout(self.loadings, (d, k))[1] != 0).any()
        scale = variance.mean() if own else jnp.ones((), dtype)  # fixed loadings: states in units of the data
        keys = jax.random.split(key, 2)
        directions = jax.random.normal(keys[0], (d, k), dtype)
        directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
        decay = jnp.linspace(0.9, 0.5, k, dtype=dtype)
        first = self.initial_pair
        return self._params(
            None if first is None else fill(first[0], jnp.zeros((k,), dtype)),
            None if first is None else covariance(first[1], k, scale),
            fill(self.transition, jnp.diag(decay)),
            None if self.state_inputs is None else fill(self.state_inputs, jnp.zeros((k, p), dtype)),
            covariance(self.process, r, scale / 4),
            fill(self.loadings, jnp.sqrt(variance / 2)[:, None] * directions),
            None if self.output_inputs is None else fill(self.output_inputs, jnp.zeros((d, p), dtype)),
            covariance(self.noise, d, variance / 2),
        )

    def check_shapes(self: Any, params: Any, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        sizes = {"k": self.states, "r": self.shocks}
        if data is not None:
            observations.check_parts(self, data, *self.takes)
            y = values_of(data)
            if not hasattr(y, "ndim") or y.ndim != 3 or 0 in y.shape:
                shape = tuple(y.shape) if hasattr(y, "shape") else type(y).__name__
                raise ValueError(f"StateSpace needs sequences of shape (N, T, D); got {shape}")
            if y.shape[1] < 2:
                raise ValueError("StateSpace needs sequences of at least 2 steps")
            sizes["D"] = y.shape[2]
            record = data.data if isinstance(data, Sharded) else data
            given = record.given if isinstance(record, Dataset) else None
            if "given" in self.takes:
                shape = getattr(given, "shape", ())
                if len(shape) != 3 or shape[1] != y.shape[1]:
                    raise ValueError(f"StateSpace needs inputs given of shape (N, T, P); got {shape or 'none'}")
                sizes["P"] = shape[2]
            for name in ("loadings", "output_inputs", "noise"):
                spec = getattr(self, name)
                if isinstance(spec, tuple) and len(spec) != y.shape[2]:
                    raise ValueError(f"StateSpace: {name} are of {len(spec)} variables; the data have {y.shape[2]}")
        if params is not None:
            title = f"StateSpace with {self.states} states"
            parameters.check_shapes(title, self.declare(), params, sizes)

    def axis_labels(self, given: Any, columns: Mapping[str, Columns]) -> dict[str, list[str]]:
        """The names of the inputs."""
        names = covariate_labels(given, columns, None, 2)
        return {} if names is None else {"P": names}

    def validate(self, params: Any, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def allows(self, params: Any, data: Data) -> Array:
        """Whether every value of a sequence of nonzero weight is finite, (); for traced values."""
        return _finite(data).all()

    def check_values(self: Any, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        good = _finite(at_hand(data))
        if not good.all():
            raise ValueError(f"the data must be finite; sequence {int(good.argmin())} is not")
        first, y = self.initial_pair, values_of(data)
        if first is not None and y.shape[0] == 1 and not _is_known(first[1]):
            raise ValueError(
                "StateSpace: the covariance of the first state cannot be estimated from one sequence; give it, such as "
                "initial=('free', [[1.0]]), or use initial='diffuse'"
            )
        if jnp.issubdtype(y.dtype, jnp.integer):
            check_precision(y, jnp.result_type(float), "the data")

    def sample_size(self, data: Data) -> Array:
        """The number of steps, ().

        The sum over sequences of weight times length, without steps of which nothing is seen.
        """
        x, weights = counted(as_data(data))
        seen = observed_of(x)
        seen = jnp.ones(values_of(x).shape, bool) if seen is None else seen
        steps = inside(seen, lengths_of(x)).any(axis=2)
        return total(steps.sum(axis=1).astype(float_dtype(x)), weights)


def fill(spec: Spec, start: Array) -> Array:
    """The start of a matrix with a pattern: its fixed numbers, and one mean for elements that are equal."""
    index, values = layout(spec, start.shape)
    count = int(index.max(initial=-1)) + 1
    if not count:
        return jnp.asarray(values, start.dtype)
    means = jnp.stack([jnp.where(index == g, start, 0).sum() / int((index == g).sum()) for g in range(count)])
    return jnp.where(index < 0, jnp.asarray(values, start.dtype), means[np.maximum(index, 0)])


def covariance(spec: Spec, size: int, variances: Array) -> Array:
    """The start of a covariance: these variances where they are not fixed."""
    variances = jnp.broadcast_to(variances, (size,))
    if spec == "full":
        return jnp.diag(variances)
    if isinstance(spec, tuple) and isinstance(spec[0], tuple):
        return jnp.asarray(spec, variances.dtype)
    return fill("free" if spec == "diagonal" else spec, variances)


def _is_known(spec: Spec) -> bool:
    """Whether a covariance is given."""
    if isinstance(spec, str):
        return False
    return all(isinstance(entry, float | tuple) for entry in spec)


def _finite(data: Data) -> Array:
    """(N,), whether each sequence is finite up to its end or has weight zero."""
    x, weights = split_weights(data)
    y = values_of(x)
    xp = y.__array_namespace__()
    ok = xp.isfinite(y)
    if isinstance(x, Dataset):
        ok = ok | ~inside(xp.ones(y.shape, bool), x.lengths)
    good = ok.all(axis=(1, 2))
    return good if weights is None else good | (weights == 0)
