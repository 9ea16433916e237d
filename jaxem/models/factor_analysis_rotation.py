"""The rotations of the factors, which change no likelihood."""

from typing import Any

import jax.numpy as jnp

from jaxem.models.factor_analysis_params import FactorAnalysisParams


class Rotation:
    """The functions of a factor analysis that are about rotations of its factors."""

    @property
    def redundant(self: Any) -> int:
        """The number of directions in which the likelihood is constant: k (k - 1) / 2 rotations of the factors."""
        return self.k * (self.k - 1) // 2

    def identified(self: Any, params: FactorAnalysisParams) -> int:
        """The number of parameters of N(mean, any covariance), D + D (D + 1) / 2.

        The data cannot identify more of them, however many factors there are (Ledermann 1937).
        """
        d = params.mean.shape[0]
        return d + d * (d + 1) // 2

    def rotate(self: Any, params: FactorAnalysisParams, reference: FactorAnalysisParams) -> FactorAnalysisParams:
        """The same model with its factors rotated (or reflected) so that the loadings are closest to a reference.

        The loadings become Lambda R, which minimises the squared distance to the reference loadings in units of the
        noise Psi of the reference: R = U V', where U S V' = Lambda' Psi^-1 Lambda_reference.

        Arguments:
            params: parameters of the model.
            reference: parameters of the same shapes.

        Returns:
            ``params`` with other loadings (D, k), and the same likelihood.

        Source: Schoenemann (1966).
        """
        u, _, v = jnp.linalg.svd(params.loadings.T @ (reference.loadings / reference.noise[:, None]))
        return params._replace(loadings=params.loadings @ u @ v)

    def canonical(self: Any, params: FactorAnalysisParams) -> FactorAnalysisParams:
        """The same model with its factors in canonical order and sign.

        Lambda' Psi^-1 Lambda is then diagonal with decreasing entries, and each column of Psi^-1/2 Lambda has a sum
        that is not negative.

        Arguments:
            params: parameters of the model.

        Returns:
            ``params`` with other loadings (D, k), and the same likelihood.

        Source: Lawley & Maxwell (1971).
        """
        root = jnp.sqrt(params.noise)[:, None]
        scaled = params.loadings / root
        scaled = scaled @ jnp.linalg.svd(scaled, full_matrices=False)[2].T
        sign = jnp.where(scaled.sum(axis=0) < 0, -1, 1).astype(scaled.dtype)
        return params._replace(loadings=root * scaled * sign[None, :])
