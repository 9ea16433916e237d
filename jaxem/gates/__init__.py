"""Gates: distributions of the class, given covariates or nothing."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.gates.constant import Constant as Constant
    from jaxem.gates.nodes import Nodes as Nodes
    from jaxem.gates.protocol import Gate as Gate
    from jaxem.gates.softmax import Softmax as Softmax
    from jaxem.gates.softmax import SoftmaxParams as SoftmaxParams
    from jaxem.gates.stationary import Stationary as Stationary
    from jaxem.gates.transitions import Allowed as Allowed
    from jaxem.gates.transitions import Cyclic as Cyclic
    from jaxem.gates.transitions import LeftToRight as LeftToRight
    from jaxem.gates.transitions import Sticky as Sticky

on_demand()
