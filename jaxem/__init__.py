"""jaxem: expectation-maximisation on JAX, with every bound verified by autodiff."""

from jaxem.algorithms.anderson import Anderson as Anderson
from jaxem.algorithms.annealed import AnnealedEM as AnnealedEM
from jaxem.algorithms.blocks import Block as Block
from jaxem.algorithms.em import EM as EM
from jaxem.algorithms.generalized import GEM as GEM
from jaxem.algorithms.hard import HardEM as HardEM
from jaxem.algorithms.incremental import IncrementalEM as IncrementalEM
from jaxem.algorithms.monte_carlo import SAEM as SAEM
from jaxem.algorithms.monte_carlo import MonteCarloEM as MonteCarloEM
from jaxem.algorithms.online import OnlineEM as OnlineEM
from jaxem.algorithms.squarem import SQUAREM as SQUAREM
from jaxem.core.bound import elbo as elbo
from jaxem.core.bound import kl as kl
from jaxem.core.bound import surrogate as surrogate
from jaxem.core.constraints import Positive as Positive
from jaxem.core.constraints import PositiveDefinite as PositiveDefinite
from jaxem.core.constraints import Real as Real
from jaxem.core.constraints import Simplex as Simplex
from jaxem.core.constraints import UnitInterval as UnitInterval
from jaxem.core.data import Sequences as Sequences
from jaxem.core.data import Weighted as Weighted
from jaxem.core.data import pad_sequences as pad_sequences
from jaxem.core.expectation import em_map as em_map
from jaxem.core.log_joint import from_log_joint as from_log_joint
from jaxem.core.model import Model as Model
from jaxem.fitting.fit import fit as fit
from jaxem.fitting.restarts import Restarts as Restarts
from jaxem.fitting.restarts import fit_restarts as fit_restarts
from jaxem.fitting.result import Fit as Fit
from jaxem.fitting.result import FitError as FitError
from jaxem.fitting.result import Status as Status
from jaxem.fitting.result import check as check
from jaxem.fitting.stopping import aitken as aitken
from jaxem.fitting.stopping import all_of as all_of
from jaxem.fitting.stopping import any_of as any_of
from jaxem.fitting.stopping import objective_change as objective_change
from jaxem.fitting.stopping import parameter_change as parameter_change
from jaxem.fitting.stopping import plateau as plateau
from jaxem.inference.certificate import Certificate as Certificate
from jaxem.inference.certificate import LawViolationError as LawViolationError
from jaxem.inference.verify import verify as verify

__version__ = "0.1.0"
