"""Ready-made models, one latent structure each."""

from jaxem.models.component import Component as Component
from jaxem.models.factor_analysis import FactorAnalysis as FactorAnalysis
from jaxem.models.factor_analysis import FactorAnalysisParams as FactorAnalysisParams
from jaxem.models.hmm import HMM as HMM
from jaxem.models.hmm import HMMParams as HMMParams
from jaxem.models.item_response import Abilities as Abilities
from jaxem.models.item_response import ItemResponse as ItemResponse
from jaxem.models.mixture import Mixture as Mixture
from jaxem.models.mixture import MixtureParams as MixtureParams
from jaxem.models.state_space import StateSpace as StateSpace
from jaxem.models.state_space import StateSpaceParams as StateSpaceParams
from jaxem.models.switching_autoregression import SwitchingAutoregression as SwitchingAutoregression
from jaxem.models.switching_autoregression import SwitchingParams as SwitchingParams
