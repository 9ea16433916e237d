"""The bound, declared parameters and their spaces, data, and the model protocol."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.core.bound import elbo as elbo
    from jaxem.core.bound import kl as kl
    from jaxem.core.bound import surrogate as surrogate
    from jaxem.core.capabilities import Capabilities as Capabilities
    from jaxem.core.capabilities import capabilities as capabilities
    from jaxem.core.expectation import em_map as em_map
    from jaxem.core.model import Model as Model
    from jaxem.core.parameters import Param as Param
    from jaxem.core.spaces import Affine as Affine
    from jaxem.core.spaces import Positive as Positive
    from jaxem.core.spaces import PositiveDefinite as PositiveDefinite
    from jaxem.core.spaces import Real as Real
    from jaxem.core.spaces import Simplex as Simplex
    from jaxem.core.spaces import Space as Space
    from jaxem.core.spaces import UnitInterval as UnitInterval

on_demand()
