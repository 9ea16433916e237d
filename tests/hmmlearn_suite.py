"""A plugin of pytest: hmmlearn's own tests see jaxem's classes under hmmlearn's names."""

import hmmlearn.hmm

import jaxem.sklearn

for name in ("GaussianHMM", "CategoricalHMM", "PoissonHMM", "MultinomialHMM", "GMMHMM"):
    setattr(hmmlearn.hmm, name, getattr(jaxem.sklearn, name))
