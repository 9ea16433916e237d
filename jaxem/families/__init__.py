"""Families: distributions of one observation given its class."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.families.bernoulli import Bernoulli as Bernoulli
    from jaxem.families.bernoulli import BernoulliParams as BernoulliParams
    from jaxem.families.beta import Beta as Beta
    from jaxem.families.beta import BetaParams as BetaParams
    from jaxem.families.binomial import Binomial as Binomial
    from jaxem.families.binomial import BinomialParams as BinomialParams
    from jaxem.families.categorical import Categorical as Categorical
    from jaxem.families.categorical import CategoricalParams as CategoricalParams
    from jaxem.families.censored import Censored as Censored
    from jaxem.families.coarse import grouped as grouped
    from jaxem.families.coarse import limited as limited
    from jaxem.families.conjugate import BetaPrior as BetaPrior
    from jaxem.families.conjugate import DirichletPrior as DirichletPrior
    from jaxem.families.conjugate import GammaPrior as GammaPrior
    from jaxem.families.exponential import Exponential as Exponential
    from jaxem.families.exponential import ExponentialParams as ExponentialParams
    from jaxem.families.forms import Oriented as Oriented
    from jaxem.families.forms import Shaped as Shaped
    from jaxem.families.gamma import Gamma as Gamma
    from jaxem.families.gamma import GammaParams as GammaParams
    from jaxem.families.items import ItemResponseParams as ItemResponseParams
    from jaxem.families.log_normal import LogNormal as LogNormal
    from jaxem.families.multinomial import Multinomial as Multinomial
    from jaxem.families.multinomial import MultinomialParams as MultinomialParams
    from jaxem.families.multivariate_normal import MultivariateNormal as MultivariateNormal
    from jaxem.families.multivariate_normal import MultivariateNormalParams as MultivariateNormalParams
    from jaxem.families.multivariate_student_t import MultivariateStudentT as MultivariateStudentT
    from jaxem.families.multivariate_student_t import MultivariateStudentTParams as MultivariateStudentTParams
    from jaxem.families.negative_binomial import NegativeBinomial as NegativeBinomial
    from jaxem.families.negative_binomial import NegativeBinomialParams as NegativeBinomialParams
    from jaxem.families.normal import Normal as Normal
    from jaxem.families.normal import NormalParams as NormalParams
    from jaxem.families.normal_prior import NormalInverseWishart as NormalInverseWishart
    from jaxem.families.per_class import PerClass as PerClass
    from jaxem.families.poisson import Poisson as Poisson
    from jaxem.families.poisson import PoissonParams as PoissonParams
    from jaxem.families.poisson_vector import PoissonVector as PoissonVector
    from jaxem.families.poisson_vector import PoissonVectorParams as PoissonVectorParams
    from jaxem.families.prior_observations import PriorObservations as PriorObservations
    from jaxem.families.product import Product as Product
    from jaxem.families.protocol import Family as Family
    from jaxem.families.regression import Regression as Regression
    from jaxem.families.regression import RegressionParams as RegressionParams
    from jaxem.families.student_t import StudentT as StudentT
    from jaxem.families.student_t import StudentTParams as StudentTParams
    from jaxem.families.truncated import Truncated as Truncated
    from jaxem.families.von_mises import VonMises as VonMises
    from jaxem.families.von_mises import VonMisesParams as VonMisesParams
    from jaxem.families.weibull import Weibull as Weibull
    from jaxem.families.weibull import WeibullParams as WeibullParams
    from jaxem.families.zero_inflated import ZeroInflated as ZeroInflated
    from jaxem.families.zero_inflated import ZeroInflatedParams as ZeroInflatedParams

on_demand()
