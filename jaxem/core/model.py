"""The model protocol, and ``Model``, a record of plain functions."""

import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jax

from jaxem.core.capabilities import has as has
from jaxem.core.capabilities import missing as missing
from jaxem.core.capabilities import require as require
from jaxem.core.checks import brief
from jaxem.core.constraints import Spaces, check_spaces
from jaxem.core.records import register
from jaxem.core.spaces import Real

Params = Any
Posterior = Any  # q: the few numbers that describe p(z | x, params)
Statistics = Any


def _static(**keywords: Any) -> Any:
    return dataclasses.field(metadata={"static": True}, **keywords)


@register
@dataclasses.dataclass(frozen=True)
class Model:
    r"""A model as a record of plain functions; ``e_step`` and ``m_step`` are enough to fit it.

    Any object with these attributes is a model. Each function beyond the first two adds features; a feature that needs
    a missing function says so by name. ``jaxem.core.capabilities(model)`` lists the functions that a model has and
    lacks, in the groups below. With x the data, z the latent variables and q a distribution over z:

    EM
        * ``e_step(params, data) -> q``: the posterior p(z | x, params).
        * ``m_step(q, data) -> params``: the maximiser of ``q_function + log_prior``.
        * ``log_prior(params)``: added to the objective, so that the fit is MAP instead of maximum likelihood.

    Bound: the objective, gradient M-steps, the certificate
        * ``q_function(params, q, data)``: E_q log p(x, z | params).
        * ``entropy(q, data)``: -E_q log q.
        * ``log_likelihood(params, data)``: log p(x | params) by a route that does not pass through ``e_step``.
        * ``log_prob(params, data) -> (N,)``: the same for each observation.
        * ``log_normalizer(q, data)``: log p(x | params), computed during the E-step: the objective at no extra cost.
        * ``divergence(q, p, data)``: KL(q || p) between two posteriors; ``verify`` compares it with L - ELBO.

    Sums: EM in blocks, over devices, on streams, in memory that does not grow with N
        * ``statistics(q, data)`` and ``maximize(statistics) -> params``: the M-step on sums over observations.
        * ``expected_log_joint(params, statistics)``: ``q_function`` from the sums alone, up to a constant free of
          ``params``. The objective still to be gained can then be estimated below the rounding error of the objective.

    Classes
        * ``predict_proba(params, data) -> (..., K)``: the posterior probability of each class.
        * ``permute(params, order) -> params``: the same model, in which class ``order[k]`` becomes class k.
        * ``label_keys(params) -> (K, F)``: the keys by which classes are sorted.
        * ``coincide(params) -> bool``: whether every class equals another, so that EM cannot separate them.
        * ``c_step(params, data) -> q``: the most probable z, in the form of ``e_step``'s q, with entropy 0
          (``HardEM``).
        * ``tempered_e_step(params, data, inverse_temperature) -> q``: q proportional to that power of
          p(x, z | params); its ``log_normalizer`` is still log p(x | params) (``AnnealedEM``).

    Sampling
        * ``init(key, data) -> params``: a random start, for restarts.
        * ``sample(key, params, n) -> data``: n observations.
        * ``sample_like(key, params, data) -> data``: as many observations as in ``data``, with the same lengths and
          covariates.
        * ``sample_posterior(key, params, data) -> q``: one draw of z, in the form that ``statistics`` takes
          (``MonteCarloEM`` and ``SAEM``, which need no ``e_step``).

    Parameters and input
        * ``constraints``: a tree of parameter spaces, or one space for all.
        * ``degenerate(params) -> bool``: whether the parameters have left the model (an empty component, a singular
          covariance).
        * ``check_shapes(params, data)``: raises ``ValueError`` for shapes that do not fit, inside a trace too.
        * ``validate(params, data)``: raises ``ValueError`` for input that cannot be fitted.
        * ``allows(params, data) -> bool``: the same test for traced values; where it is False the fit ends ``INVALID``.
        * ``sample_size(data)``: the number of observations that BIC counts, where that is not the number of rows.

    The functions are static under ``jit``: the same functions share one compiled program, and a new lambda is compiled
    anew.

    Raises:
        ValueError: an attribute is not a function, or ``constraints`` are not spaces.
    """

    e_step: Callable[..., Posterior] | None = _static(default=None)
    m_step: Callable[..., Params] | None = _static(default=None)
    q_function: Callable[..., Any] | None = _static(default=None)
    entropy: Callable[..., Any] | None = _static(default=None)
    log_likelihood: Callable[..., Any] | None = _static(default=None)
    log_prior: Callable[..., Any] | None = _static(default=None)
    statistics: Callable[..., Statistics] | None = _static(default=None)
    maximize: Callable[..., Params] | None = _static(default=None)
    expected_log_joint: Callable[..., Any] | None = _static(default=None)
    log_normalizer: Callable[..., Any] | None = _static(default=None)
    divergence: Callable[..., Any] | None = _static(default=None)
    constraints: Spaces = None
    init: Callable[..., Params] | None = _static(default=None)
    sample: Callable[..., Any] | None = _static(default=None)
    sample_like: Callable[..., Any] | None = _static(default=None)
    sample_size: Callable[..., Any] | None = _static(default=None)
    predict_proba: Callable[..., Any] | None = _static(default=None)
    permute: Callable[..., Params] | None = _static(default=None)
    label_keys: Callable[..., Any] | None = _static(default=None)
    log_prob: Callable[..., Any] | None = _static(default=None)
    degenerate: Callable[..., Any] | None = _static(default=None)
    coincide: Callable[..., Any] | None = _static(default=None)
    validate: Callable[..., None] | None = _static(default=None)
    allows: Callable[..., Any] | None = _static(default=None)
    check_shapes: Callable[..., None] | None = _static(default=None)
    c_step: Callable[..., Posterior] | None = _static(default=None)
    tempered_e_step: Callable[..., Posterior] | None = _static(default=None)
    sample_posterior: Callable[..., Posterior] | None = _static(default=None)

    def __post_init__(self) -> None:
        check_spaces("Model", self.constraints)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "constraints" and value is not None and not callable(value):
                raise ValueError(f"Model: {field.name} must be a function; got {brief(value)}")


def check_model(model: Any) -> None:
    """Raise ``ValueError`` where ``model`` is not a model: a class, an array, a ``Fit``, a function, a container."""
    if isinstance(model, type):
        raise ValueError(f"the model is the class {model.__name__}; make one: {model.__name__}(...)")
    plain = isinstance(model, tuple | list | dict | str | int | float | None) or hasattr(model, "dtype")
    if plain or hasattr(model, "status") or isinstance(model, FunctionType):
        raise ValueError(f"the first argument must be a model; got {brief(model)}. The order is (model, params, data)")


def is_additive(model: Any) -> bool:
    """Whether EM can run on sums over observations."""
    return has(model, "statistics", "maximize")


def has_m_step(model: Any) -> bool:
    """Whether the model maximises in closed form."""
    return is_additive(model) or has(model, "m_step")


def spaces_of(model: Any) -> Spaces:
    """The parameter spaces of the model; ``Real`` where it declares none."""
    return model.constraints if has(model, "constraints") else Real()


def require_classes(model: Any, feature: str, params: Any, data: Any) -> None:
    """Raise ``ValueError`` if the latent variables of the model are not classes."""
    require(model, feature, "predict_proba")
    if not hasattr(jax.eval_shape(model.predict_proba, params, data), "shape"):
        raise ValueError(f"{feature} needs latent classes: predict_proba must return an array (..., K)")


def of_fit(params: Params) -> Params:
    """The parameters of a ``Fit``; any other value unchanged. Raises ``ValueError`` for a result of many starts."""
    if hasattr(params, "params") and hasattr(params, "status"):
        return params.params
    if hasattr(params, "best") and hasattr(params, "times_best_found"):
        raise ValueError("the parameters are the result of many starts, not of one fit; give its .best")
    return params
