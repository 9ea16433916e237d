"""The parameters of a state-space model, its context and its sums."""

from typing import Any, NamedTuple

from jax import Array

from jaxem.models.state_space_equations import EquationSums


class StateSpaceParams(NamedTuple):
    """The parameters of a state-space model; ``None`` where the model has no such part."""

    initial_mean: Any  # (k,), or None
    initial_covariance: Any  # (k, k), or (k,) where diagonal, or None
    transition: Array  # (k, k), A
    state_inputs: Array | None  # (k, P), B
    process: Array  # (r, r) or (r,), the covariance or variances of w
    loadings: Array  # (D, k), C
    output_inputs: Array | None  # (D, P), D
    noise: Array  # (D,) or (D, D), the variances or covariance of v


class StateSpaceSums(NamedTuple):
    """The sums of the three equations."""

    first: EquationSums | None
    moves: EquationSums
    outputs: EquationSums


class Prepared(NamedTuple):
    """The context: the M-step needs the parameters alone, and the sums no more than the dynamics."""

    at: StateSpaceParams
    dynamics: Any = None  # Dynamics
    noise: Any = None  # Noise
    information: Any = None  # Information, where it is the same for all sequences


class Noise(NamedTuple):
    """The noise of the observations."""

    whitener: Array  # R^-1/2 (D, D); R^1/2 (D,) where R is diagonal
    whitened: Array  # (D, k), R^-1/2 C
    volume: Array  # log|2 pi R| / 2
