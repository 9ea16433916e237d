"""Ready-made models, one latent structure each."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.models.component import Component as Component
    from jaxem.models.factor_analysis import FactorAnalysis as FactorAnalysis
    from jaxem.models.factor_analysis_params import FactorAnalysisParams as FactorAnalysisParams
    from jaxem.models.hmm import HMM as HMM
    from jaxem.models.hmm import HMMParams as HMMParams
    from jaxem.models.item_response import Abilities as Abilities
    from jaxem.models.item_response import ItemResponse as ItemResponse
    from jaxem.models.mixture import Mixture as Mixture
    from jaxem.models.mixture_params import MixtureParams as MixtureParams
    from jaxem.models.state_space import StateSpace as StateSpace
    from jaxem.models.state_space_forms import arma as arma
    from jaxem.models.state_space_forms import dynamic_factors as dynamic_factors
    from jaxem.models.state_space_forms import local_level as local_level
    from jaxem.models.state_space_forms import local_trend as local_trend
    from jaxem.models.state_space_forms import seasonal as seasonal
    from jaxem.models.state_space_params import StateSpaceParams as StateSpaceParams
    from jaxem.models.switching_autoregression import SwitchingAutoregression as SwitchingAutoregression
    from jaxem.models.switching_params import SwitchingParams as SwitchingParams

on_demand()
