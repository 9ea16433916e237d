"""Estimators with scikit-learn's names, parameters and attributes (extra ``sklearn``); loaded on demand."""

try:
    import sklearn as _  # noqa: F401
except ImportError as error:
    raise ImportError('jaxem.sklearn needs scikit-learn: pip install "jaxem[sklearn]"') from error

from jaxem.sklearn.gaussian import GaussianMixture as GaussianMixture
