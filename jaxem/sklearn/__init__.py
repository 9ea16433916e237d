"""Estimators with scikit-learn's names, parameters and attributes (extra ``sklearn``); loaded on demand."""

try:
    import sklearn as _  # noqa: F401
except ImportError as error:
    raise ImportError('jaxem.sklearn needs scikit-learn: pip install "jaxem[sklearn]"') from error

from jaxem.sklearn.factors import FactorAnalysis as FactorAnalysis
from jaxem.sklearn.gaussian import GaussianMixture as GaussianMixture
from jaxem.sklearn.hmm_categorical import CategoricalHMM as CategoricalHMM
from jaxem.sklearn.hmm_gaussian import GaussianHMM as GaussianHMM
from jaxem.sklearn.hmm_mixture import GMMHMM as GMMHMM
from jaxem.sklearn.hmm_multinomial import MultinomialHMM as MultinomialHMM
from jaxem.sklearn.hmm_poisson import PoissonHMM as PoissonHMM
from jaxem.sklearn.latent_class import LatentClass as LatentClass
from jaxem.sklearn.mixtures import MixtureModel as MixtureModel
from jaxem.sklearn.mixtures import StudentTMixture as StudentTMixture
from jaxem.sklearn.regressions import MixtureOfRegressions as MixtureOfRegressions
