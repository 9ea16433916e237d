"""Models: one latent structure each."""

from jaxem.models.mixture import Mixture as Mixture
from jaxem.models.mixture import MixtureParams as MixtureParams
