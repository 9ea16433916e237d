"""State-space models by name: structural time series, ARMA processes seen with noise, and dynamic factors."""

from typing import Any

from jaxem.core.checks import whole_number
from jaxem.models.state_space import StateSpace


def local_level(**options: Any) -> StateSpace:
    r"""A level that moves at random, seen with noise.

    .. math:: y_t = \mu_t + v_t, \qquad \mu_t = \mu_{t-1} + w_t

    Arguments:
        **options: further arguments of ``StateSpace``; the first level is diffuse unless ``initial`` is given.

    Returns:
        A ``StateSpace`` of one state: the level.

    Raises:
        ValueError: as for ``StateSpace``.

    Source: Durbin & Koopman (2012), chapter 2.
    """
    return StateSpace(1, transition=[[1]], loadings=[[1]], **{"process": "diagonal", "initial": "diffuse", **options})


def local_trend(**options: Any) -> StateSpace:
    r"""A level with a slope, both of which move at random, seen with noise.

    .. math:: y_t = \mu_t + v_t, \qquad \mu_t = \mu_{t-1} + \nu_{t-1} + w_t, \qquad \nu_t = \nu_{t-1} + w'_t

    Arguments:
        **options: further arguments of ``StateSpace``, such as ``process=[0, None]`` for a smooth trend; the first
            level and slope are diffuse unless ``initial`` is given.

    Returns:
        A ``StateSpace`` of two states: level and slope.

    Raises:
        ValueError: as for ``StateSpace``.

    Source: Durbin & Koopman (2012), section 3.2.
    """
    options = {"process": "diagonal", "initial": "diffuse", **options}
    return StateSpace(2, transition=[[1, 1], [0, 1]], loadings=[[1, 0]], **options)


def seasonal(period: int, **options: Any) -> StateSpace:
    r"""A level with a slope, and a pattern of seasons that sums to noise over each period, seen with noise.

    .. math:: y_t = \mu_t + \gamma_t + v_t, \qquad \gamma_t = -\gamma_{t-1} - \dots - \gamma_{t-s+1} + w''_t

    Arguments:
        period: s, the number of seasons, at least 2.
        **options: further arguments of ``StateSpace``. ``process`` holds the variances of level, slope and seasons, 0
            for one that does not move.

    Returns:
        A ``StateSpace`` of ``period + 1`` states: level, slope, the present season and those before it.

    Raises:
        ValueError: ``period`` is not a whole number of at least 2; or as for ``StateSpace``.

    Source: Harvey (1989), section 2.3; Durbin & Koopman (2012), section 3.2.
    """
    s = whole_number("seasonal: period", period, 2)
    k = s + 1  # level, slope, the season, and the seasons before: those with noise come first
    A = [[0.0] * k for _ in range(k)]
    A[0][0] = A[0][1] = A[1][1] = 1.0
    A[2][2:] = [-1.0] * (s - 1)
    for i in range(3, k):
        A[i][i - 1] = 1.0
    C = [[1.0, 0.0, 1.0] + [0.0] * (s - 2)]
    options = {"process": "diagonal", "initial": "diffuse", **options}
    return StateSpace(k, transition=A, loadings=C, shocks=3, **options)


def arma(p: int, q: int = 0, **options: Any) -> StateSpace:
    r"""An ARMA(p, q) process seen with noise.

    .. math:: y_t = x_t + \theta_1 x_{t-1} + \dots + \theta_q x_{t-q} + v_t, \qquad
              x_t = \phi_1 x_{t-1} + \dots + \phi_p x_{t-p} + w_t

    EM cannot estimate an ARMA process that is seen without noise: the states are then known from the observations
    alone, so that the M-step returns the parameters that it was given.

    Arguments:
        p: the number of coefficients phi, at least 1.
        q: the number of coefficients theta (default 0: an autoregression).
        **options: further arguments of ``StateSpace``; the first state is diffuse unless ``initial`` is given.

    Returns:
        A ``StateSpace`` of max(p, q + 1) states: x at the present and at earlier steps.

    Raises:
        ValueError: ``p`` or ``q`` is not a whole number, ``p`` is below 1 or ``q`` below 0; or as for ``StateSpace``.

    Source: Hamilton (1994), section 13.1.
    """
    p, q = whole_number("arma: p", p, 1), whole_number("arma: q", q, 0)
    k = max(p, q + 1)
    A: list[list[Any]] = [[None] * p + [0.0] * (k - p)]
    A += [[1.0 if j == i else 0.0 for j in range(k)] for i in range(k - 1)]
    C = [[1.0] + [None] * q + [0.0] * (k - q - 1)]
    options = {"process": "diagonal", "initial": "diffuse", **options}
    return StateSpace(k, transition=A, loadings=C, shocks=1, **options)


def dynamic_factors(k: int, outputs: int, **options: Any) -> StateSpace:
    r"""``k`` factors that follow a vector autoregression, behind ``outputs`` series, with loadings that are identified.

    .. math:: y_t = C f_t + v_t, \qquad f_t = A f_{t-1} + w_t, \qquad w_t \sim N(0, Q)

    The first k rows of the loadings are the identity: factor i is what series i has in common with the others.

    Arguments:
        k: the number of factors, at least 1.
        outputs: the number of series, more than k.
        **options: further arguments of ``StateSpace``, such as ``transition`` or ``process``.

    Returns:
        A ``StateSpace`` of ``k`` states: the factors.

    Raises:
        ValueError: ``k`` is not a whole number of at least 1, or ``outputs`` not one above ``k``; or as for
            ``StateSpace``.

    Source: Geweke (1977); Bai & Wang (2015) for the identification.
    """
    k, outputs = whole_number("dynamic_factors: k", k, 1), whole_number("dynamic_factors: outputs", outputs, k + 1)
    C: list[list[Any]] = [[1.0 if j == i else 0.0 for j in range(k)] for i in range(k)]
    C += [[None] * k for _ in range(outputs - k)]
    return StateSpace(k, loadings=C, **{"initial": "diffuse", **options})
