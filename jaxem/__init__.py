"""jaxem: expectation-maximisation on JAX, with every bound verified by autodiff.

The names for a first fit are here; everything else is in the submodules, which ``dir(jaxem)`` lists too.
"""

from typing import TYPE_CHECKING

from jaxem import algorithms as algorithms
from jaxem import core as core
from jaxem import families as families
from jaxem import files as files
from jaxem import fitting as fitting
from jaxem import gates as gates
from jaxem import inference as inference
from jaxem import models as models
from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem import datasets as datasets
    from jaxem import plot as plot
    from jaxem import sklearn as sklearn
    from jaxem.algorithms import EM as EM
    from jaxem.algorithms import GEM as GEM
    from jaxem.algorithms import SAEM as SAEM
    from jaxem.algorithms import SQUAREM as SQUAREM
    from jaxem.algorithms import Anderson as Anderson
    from jaxem.algorithms import AnnealedEM as AnnealedEM
    from jaxem.algorithms import HardEM as HardEM
    from jaxem.algorithms import IncrementalEM as IncrementalEM
    from jaxem.algorithms import MonteCarloEM as MonteCarloEM
    from jaxem.algorithms import OnlineEM as OnlineEM
    from jaxem.core import Affine as Affine
    from jaxem.core import Model as Model
    from jaxem.core import Positive as Positive
    from jaxem.core import PositiveDefinite as PositiveDefinite
    from jaxem.core import Real as Real
    from jaxem.core import Simplex as Simplex
    from jaxem.core import UnitInterval as UnitInterval
    from jaxem.core.data import Dataset as Dataset
    from jaxem.core.dataset import dataset as dataset
    from jaxem.core.lags import lagged as lagged
    from jaxem.core.shards import shard as shard
    from jaxem.files import export as export
    from jaxem.files import load as load
    from jaxem.files import save as save
    from jaxem.fitting import Fit as Fit
    from jaxem.fitting import FitError as FitError
    from jaxem.fitting import FitWarning as FitWarning
    from jaxem.fitting import Status as Status
    from jaxem.fitting import check as check
    from jaxem.fitting import explain as explain
    from jaxem.fitting import fit as fit
    from jaxem.fitting import fit_many as fit_many
    from jaxem.fitting import fit_many_restarts as fit_many_restarts
    from jaxem.fitting import fit_restarts as fit_restarts
    from jaxem.fitting import fit_stream as fit_stream
    from jaxem.fitting import resume as resume
    from jaxem.formulas import formula as formula
    from jaxem.inference import classes as classes
    from jaxem.inference import impute as impute
    from jaxem.inference import scores as scores
    from jaxem.inference import select as select
    from jaxem.inference import summary as summary
    from jaxem.inference.verify import verify as verify
    from jaxem.models.log_joint import from_log_joint as from_log_joint
    from jaxem.models.restricted import restrict as restrict
    from jaxem.models.restricted import with_prior as with_prior

__version__ = "0.1.0"

on_demand()
