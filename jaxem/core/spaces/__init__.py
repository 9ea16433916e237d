"""Parameter spaces. Each is one class, which answers every question about the space."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.core.spaces.affine import Affine as Affine
    from jaxem.core.spaces.decreasing import Decreasing as Decreasing
    from jaxem.core.spaces.elementwise import Positive as Positive
    from jaxem.core.spaces.elementwise import Real as Real
    from jaxem.core.spaces.elementwise import UnitInterval as UnitInterval
    from jaxem.core.spaces.orientation import Orientation as Orientation
    from jaxem.core.spaces.positive_definite import PositiveDefinite as PositiveDefinite
    from jaxem.core.spaces.protocol import Edge as Edge
    from jaxem.core.spaces.protocol import Space as Space
    from jaxem.core.spaces.simplex import Simplex as Simplex
    from jaxem.core.spaces.unit_volume import UnitDeterminant as UnitDeterminant
    from jaxem.core.spaces.unit_volume import UnitProduct as UnitProduct
    from jaxem.core.spaces.zero_sum import ZeroSum as ZeroSum
    from jaxem.core.spaces.zero_sum import ZeroSumWhere as ZeroSumWhere

on_demand()
