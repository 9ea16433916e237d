"""The data of a hidden Markov model: their shapes, their size, and checks of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core import parameters, trees
from jaxem.core.conversion import as_params
from jaxem.core.data import Columns, Data, Dataset, Spread, check_counts, counted, observed_of, total
from jaxem.core.dataset import as_data
from jaxem.core.trees import float_dtype
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.gates import protocol as gates
from jaxem.latent import chain_steps
from jaxem.models import observations
from jaxem.models.sequences import at_starts, counted_steps, frames_of, shape, unpack


class Sequences:
    """The functions of a hidden Markov model that look at data before any parameters do."""

    @property
    def event_ndim(self: Any) -> int:
        """The number of axes of one observation."""
        return 1 + self.family.event_ndim

    @property
    def takes(self: Any) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        given = ("given",) * bool({*self.initial.takes, *self.moves.takes} - set(families.takes(self.family)))
        return ("lengths", *given, *families.takes(self.family))

    def features(self: Any, x: Data) -> Array:
        """The mean and the logarithm of the standard deviation of each feature over the steps, (N, 2 F); for starts."""
        steps, lengths = unpack(x)
        n, t = shape(steps)
        each = observed.features(self.family, frames_of(families.own(self.family, steps))).reshape(n, t, -1)
        seen = chain_steps.within(lengths, t)[:, :, None] & ~jnp.isnan(each)
        number = seen.sum(axis=1).astype(each.dtype)
        mean = jnp.where(seen, each, 0).sum(axis=1) / number
        square = jnp.where(seen, (each - mean[:, None, :]) ** 2, 0).sum(axis=1) / number
        return jnp.concatenate([mean, 0.5 * jnp.log(square + jnp.finfo(each.dtype).tiny)], axis=1)

    def supports(self: Any, x: Data) -> Array:
        """(N,), whether each sequence lies in the support, up to its end."""
        steps = families.own(self.family, unpack(x)[0])
        return observed.supports(self.family, frames_of(steps)).reshape(shape(steps)).all(axis=1)

    def sample_size(self: Any, data: Data) -> Array:
        """The number of single observations, ().

        The sum over sequences of weight times length, without steps at which every cell is missing.
        """
        sequences, weights = counted(as_data(data))
        x, lengths = unpack(sequences)
        seen = chain_steps.within(lengths, shape(x)[1])
        for mask in jax.tree.leaves(observed_of(x)):
            seen = seen & mask.reshape(*seen.shape, -1).any(axis=-1)
        return total(seen.sum(axis=1).astype(float_dtype(x)), weights)

    def check_shapes(self: Any, params: Any | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        observations.check(self, params, data, ("N", "T"), *self.takes)
        if isinstance(data, Dataset) and data.given is not None:
            n, t = shape(data)
            for leaf in jax.tree.leaves(data.given):
                if leaf.shape[:2] != (n, t):
                    raise ValueError(
                        f"HMM: covariates need the shape ({n}, {t}) or ({n}, {t}, P), a row for each step; got "
                        f"{tuple(leaf.shape)}"
                    )
        if data is None:
            return
        covariates = at_starts(data.data if isinstance(data, Spread) else data)
        for gate in (self.initial, self.moves):
            gates.check(gate, covariates, "HMM")
            if params is not None and not gate.homogeneous:
                own = params.initial if gate is self.initial else params.transition
                parameters.check_shapes("HMM", gate.declare(), own, {"K": self.k, **gates.sizes(gate, covariates)})

    def axis_labels(self: Any, given: Any, columns: Mapping[str, Columns]) -> dict[str, list[str]]:
        """The names of coefficients: those of the covariates, by the letter of the axis."""
        of_gates = gates.axis_labels(self.initial, given, columns, 2) | gates.axis_labels(self.moves, given, columns, 2)
        return of_gates | families.axis_labels(self.family, given, columns, 2)

    def validate(self: Any, params: Any, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)
        if self.moves.homogeneous:
            self.moves.check_params(as_params(self, params).transition)

    def check_values(self: Any, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, within = counted_steps(trees.at_hand(data))
        x = families.own(self.family, x)
        observations.check_enough(self, int(within.sum()))
        observations.check_support(self.family, x, within)

    def allows(self: Any, params: Any, data: Data) -> Array:
        """Whether every observation within a sequence of nonzero weight lies in the support, (); for traced values."""
        x, within = counted_steps(data)
        return observations.supported(self.family, families.own(self.family, x), within).all()
