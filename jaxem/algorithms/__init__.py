"""Algorithms: ways to maximise the objective."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.algorithms.anderson import Anderson as Anderson
    from jaxem.algorithms.annealed import AnnealedEM as AnnealedEM
    from jaxem.algorithms.em import EM as EM
    from jaxem.algorithms.generalized import GEM as GEM
    from jaxem.algorithms.groups import Group as Group
    from jaxem.algorithms.hard import HardEM as HardEM
    from jaxem.algorithms.incremental import IncrementalEM as IncrementalEM
    from jaxem.algorithms.monte_carlo import SAEM as SAEM
    from jaxem.algorithms.monte_carlo import MonteCarloEM as MonteCarloEM
    from jaxem.algorithms.online import OnlineEM as OnlineEM
    from jaxem.algorithms.squarem import SQUAREM as SQUAREM

on_demand()
