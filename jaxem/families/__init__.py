"""Families: distributions of one observation given its class."""

from jaxem.families.bernoulli import Bernoulli as Bernoulli
from jaxem.families.bernoulli import BernoulliParams as BernoulliParams
from jaxem.families.categorical import Categorical as Categorical
from jaxem.families.categorical import CategoricalParams as CategoricalParams
from jaxem.families.exponential import Exponential as Exponential
from jaxem.families.exponential import ExponentialParams as ExponentialParams
from jaxem.families.forms import Oriented as Oriented
from jaxem.families.forms import Shaped as Shaped
from jaxem.families.multivariate_normal import MultivariateNormal as MultivariateNormal
from jaxem.families.multivariate_normal import MultivariateNormalParams as MultivariateNormalParams
from jaxem.families.normal import Normal as Normal
from jaxem.families.normal import NormalParams as NormalParams
from jaxem.families.normal_prior import NormalInverseWishart as NormalInverseWishart
from jaxem.families.poisson import Poisson as Poisson
from jaxem.families.poisson import PoissonParams as PoissonParams
from jaxem.families.protocol import Family as Family
