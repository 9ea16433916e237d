"""Linear Gaussian state-space models: a hidden state that follows a linear recursion, seen with noise."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import matrices
from jaxem.core.checks import whole_number
from jaxem.core.constraints import Positive, PositiveDefinite, Real
from jaxem.core.parameters import Param
from jaxem.core.records import register
from jaxem.core.rows import FromRows
from jaxem.models.state_space_expectation import Expectation
from jaxem.models.state_space_identity import redundant
from jaxem.models.state_space_input import Input
from jaxem.models.state_space_maximum import Maximum
from jaxem.models.state_space_params import StateSpaceParams
from jaxem.models.state_space_patterns import Spec, frozen
from jaxem.models.state_space_prediction import Prediction
from jaxem.models.state_space_specification import check, is_matrix, space_of


@register
@dataclasses.dataclass(frozen=True)
class StateSpace(FromRows, Expectation, Maximum, Input, Prediction):
    r"""A linear Gaussian state-space model with ``states`` hidden states.

    .. math:: x_1 \sim N(m, P), \quad x_t = A x_{t-1} + B u_t + w_t, \quad y_t = C x_t + D u_t + v_t, \quad
              w_t \sim N(0, Q), \quad v_t \sim N(0, R)

    One observation is one sequence. The data are an array (N, T, D), or a list of sequences (T_n, D), with or without
    weights, missing cells (``noise="diagonal"``) and inputs ``given (N, T, P)`` (see ``jaxem.dataset``). The posterior
    q is a ``States``; the parameters are a ``StateSpaceParams``.

    Every matrix is ``"free"`` or a pattern, a nested list in which a number is fixed (0: a structural zero), ``None``
    is free, and elements with the same name are equal. Fixed elements are not counted as free parameters.
    Covariances are ``"full"``, ``"diagonal"``, a list of variances (a pattern; 0: no noise), or a matrix of numbers.
    ``local_level()``, ``local_trend()``, ``seasonal()``, ``arma()`` and ``dynamic_factors()`` make such models.

    A model without any restriction is known up to an invertible map of its states, which changes no likelihood
    (``redundant`` directions).

    Arguments:
        states: k, the number of states, at least 1.
        transition: A (k, k).
        loadings: C (D, k).
        process: Q, the covariance of the noise of the first ``shocks`` states.
        noise: R, the covariance of the noise of the observations; ``"diagonal"`` by default.
        initial: ``"free"`` (default): m and P are estimated, P from two sequences or more. ``"diffuse"``: nothing is
            known about the first state, p(x_1) = 1; the likelihood is then that of the observations beyond those that
            determine it. Or a pair (mean, covariance) of patterns, such as ``([0.0], [[1.0]])``.
        state_inputs: B (k, P); ``None`` (default): inputs do not move the states.
        output_inputs: D (D, P); ``None`` (default): inputs do not enter the observations.
        shocks: the number of states that have noise, the first ones; default: all. The others move exactly, and their
            rows of A and B must be fixed, because the EM algorithm cannot move them.
        parallel: whether the passes over time are associative scans (about 2 log2(T) rounds, with more arithmetic).
            ``None`` (default): not on a CPU. The posterior is the same either way.

    Raises:
        ValueError: a pattern has the wrong shape; a free element cannot be estimated; or the first state is diffuse
            and the scale of the states is not fixed, so that the likelihood has no bound.

    Source: Shumway & Stoffer (1982); Holmes (2013) for fixed and equal elements; Durbin & Koopman (2012).
    """

    states: int = dataclasses.field(metadata={"static": True})
    transition: Spec = dataclasses.field(default="free", metadata={"static": True})
    loadings: Spec = dataclasses.field(default="free", metadata={"static": True})
    process: Spec = dataclasses.field(default="full", metadata={"static": True})
    noise: Spec = dataclasses.field(default="diagonal", metadata={"static": True})
    initial: Spec = dataclasses.field(default="free", metadata={"static": True})
    state_inputs: Spec = dataclasses.field(default=None, metadata={"static": True})
    output_inputs: Spec = dataclasses.field(default=None, metadata={"static": True})
    shocks: Any = dataclasses.field(default=None, metadata={"static": True})
    parallel: bool | None = dataclasses.field(default=None, metadata={"static": True})

    accurate = True

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("states", whole_number("StateSpace: states", self.states, 1))
        put("shocks", self.states if self.shocks is None else whole_number("StateSpace: shocks", self.shocks, 1))
        for name in ("transition", "loadings", "process", "noise", "initial", "state_inputs", "output_inputs"):
            put(name, frozen(getattr(self, name)))
        if self.parallel not in (None, True, False):
            raise ValueError(f"StateSpace: parallel must be None, True or False; got {self.parallel!r}")
        check(self)

    _params = StateSpaceParams

    @property
    def initial_pair(self) -> tuple[Spec, Spec] | None:
        """The patterns of the mean and the covariance of the first state; ``None`` where it is diffuse."""
        if self.initial == "diffuse":
            return None
        return ("free", "full") if self.initial == "free" else self.initial

    def declare(self) -> StateSpaceParams:
        def matrix(spec: Spec, axes: str) -> Any:
            return None if spec is None else Param.of(space_of(Real(), spec), axes)

        def covariance(spec: Spec, axis: str) -> Param:
            if spec == "diagonal" or not is_matrix(spec):
                return Param.of(space_of(Positive(), spec), axis)
            space = PositiveDefinite()
            if spec != "full":
                values = np.array(spec)
                space = space.hold(np.ones(values.shape, bool), values)
            return Param.of(space, f"{axis} {axis}")

        first = self.initial_pair
        return StateSpaceParams(
            None if first is None else matrix(first[0], "k"),
            None if first is None else covariance(first[1], "k"),  # pyright: ignore[reportArgumentType]
            matrix(self.transition, "k k"),
            matrix(self.state_inputs, "k P"),
            covariance(self.process, "r"),  # pyright: ignore[reportArgumentType]
            matrix(self.loadings, "D k"),
            matrix(self.output_inputs, "D P"),
            covariance(self.noise, "D"),  # pyright: ignore[reportArgumentType]
        )

    def degenerate(self, params: StateSpaceParams) -> Array:
        """Whether a covariance is no longer positive definite, or a variance of the observations is zero."""
        found = ~(params.noise > 0).all() if params.noise.ndim == 1 else jnp.asarray(False)
        for covariance in (params.noise, params.process, params.initial_covariance):
            if covariance is not None and covariance.ndim == 2:
                found = found | ~jnp.isfinite(matrices.cholesky(covariance)).all()
        return found

    @property
    def redundant(self) -> int:
        """The number of directions in which the likelihood is constant: maps of the states that keep the pattern."""
        return redundant(self)[0]
