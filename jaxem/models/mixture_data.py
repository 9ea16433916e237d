"""The data of a mixture: their parts, and checks of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax import Array

from jaxem.core import trees
from jaxem.core.data import Columns, Data, Dataset, check_counts, count, plain, split_weights
from jaxem.core.trees import float_dtype
from jaxem.families import observed
from jaxem.families import protocol as families
from jaxem.gates import protocol as gates
from jaxem.models import observations
from jaxem.models.mixture_params import MixtureParams
from jaxem.models.observations import real


class Observations:
    """The functions of a mixture that look at data before any parameters do."""

    def _own(self: Any, x: Data) -> Data:
        """The observations as the family takes them: covariates that only the gate uses are left out."""
        if not isinstance(x, Dataset) or x.given is None or "given" in families.takes(self.family):
            return x
        return plain(dataclasses.replace(x, given=None))

    def _parts(self: Any, c: MixtureParams, x: Data) -> tuple[Data, Data]:
        """The observations as the gate and as the family take them, real numbers of the parameters' dtype."""
        x = real(x, float_dtype(c))
        return x, self._own(x)

    @property
    def event_ndim(self: Any) -> int:
        """The number of axes of one observation."""
        return self.family.event_ndim

    @property
    def takes(self: Any) -> tuple[str, ...]:
        """The parts of the data, beside values, that the model can use."""
        return (*families.takes(self.family), *self.gate.takes)

    def features(self: Any, x: Data) -> Array:
        """Real numbers (N, F), close together where observations are alike; used by starts."""
        return observed.features(self.family, self._own(x))

    def supports(self: Any, x: Data) -> Array:
        """(N,), whether each observation lies in the support."""
        return observed.supports(self.family, self._own(x))

    def check_shapes(self: Any, params: MixtureParams | None, data: Data | None) -> None:
        """Raise ``ValueError`` where the shapes of parameters or data do not fit the model; either may be ``None``."""
        if data is not None:
            gates.check(self.gate, data, f"Mixture of {type(self.family).__name__}")
        lengths = gates.sizes(self.gate, data)
        observations.check(self, params, data, ("N",), *self.gate.takes, lengths=lengths)

    def axis_labels(self: Any, given: Any, columns: Mapping[str, Columns]) -> dict[str, list[str]]:
        """The names of coefficients: those of the covariates, by the letter of the axis."""
        of_gate = gates.axis_labels(self.gate, given, columns, 1)
        return of_gate | families.axis_labels(self.family, given, columns, 1)

    def validate(self: Any, params: MixtureParams, data: Data) -> None:
        """Raise ``ValueError`` where parameters and data do not fit the model."""
        self.check_shapes(params, data)
        self.check_values(data)

    def check_values(self: Any, data: Data) -> None:
        """Raise ``ValueError`` for data that cannot be fitted, whatever the parameters."""
        check_counts(data)
        x, weights = split_weights(trees.at_hand(data))
        observations.check_enough(self, count(x))
        observations.check_support(self.family, self._own(x), None if weights is None else weights != 0)

    def allows(self: Any, params: MixtureParams, data: Data) -> Array:
        """Whether every observation of nonzero weight lies in the support, (); for traced values."""
        x, weights = split_weights(data)
        return observations.supported(self.family, self._own(x), None if weights is None else weights != 0).all()
