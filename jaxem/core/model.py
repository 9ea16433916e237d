"""What is fitted: the model protocol, and ``Model``, a record of plain functions."""

import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jax

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

    Any object with these attributes is a model. Each one beyond the first two buys something; what needs one
    that is missing says so by name. With x the data, z the latent variables and q a distribution over z:

    * ``e_step(params, data) -> q`` -- the posterior p(z | x, params).
    * ``m_step(q, data) -> params`` -- the maximiser of ``q_function + log_prior``.
    * ``q_function(params, q, data)`` -- E_q log p(x, z | params); with ``entropy`` it is the bound, and makes
      gradient M-steps possible.
    * ``entropy(q, data)`` -- -E_q log q.
    * ``log_likelihood(params, data)`` -- log p(x | params) by a route that does not pass through ``e_step``.
    * ``log_prior(params)`` -- added to the objective: MAP instead of maximum likelihood.
    * ``statistics(q, data)`` and ``maximize(statistics)`` -- additive over observations: EM in blocks, in
      memory that does not grow with the number of observations.
    * ``expected_log_joint(params, statistics)`` -- ``q_function`` from the sums alone, up to a constant free of
      ``params``: what is left to climb is then known to a better precision than the objective's.
    * ``log_normalizer(q, data)`` -- log p(x | params), computed during the E-step: the objective for free.
    * ``divergence(q, p, data)`` -- KL(q || p) between two posteriors, checked against L - ELBO.
    * ``constraints`` -- a tree of parameter spaces, or one space for all: unconstrained coordinates.
    * ``init(key, data) -> params`` -- a random start, for restarts.
    * ``sample(key, params, n) -> data``, ``log_prob(params, data) -> (N,)`` -- simulation, per observation.
      ``sample_like(key, params, data) -> data`` where data have more shape than a number of rows.
    * ``sample_size(data)`` -- what BIC counts as observations, where that is not the number of rows.
    * ``predict_proba(params, data) -> (..., K)``, ``permute(params, order) -> params``,
      ``label_keys(params) -> (K, F)`` -- for latent classes: their posterior, the same parameters with class
      ``order[k]`` called k, and what the classes are sorted by.
    * ``degenerate(params) -> bool`` -- whether the parameters have left the model (an empty component, a
      singular covariance).
    * ``coincide(params) -> bool`` -- whether every class is the same as another, so that EM cannot part them.
    * ``validate(params, data)`` -- raises ``ValueError`` for input that cannot be fitted; ``allows(params, data) ->
      bool`` -- the same of values that are traced: where it is False the fit ends ``INVALID``.
      ``check_shapes(params, data)`` -- raises ``ValueError`` for shapes that do not fit, in a trace too.
    * ``c_step(params, data) -> q`` -- the most probable z, in the form of ``e_step``'s q, with entropy 0: ``HardEM``.
    * ``tempered_e_step(params, data, inverse_temperature) -> q`` -- q proportional to that power of
      p(x, z | params); its ``log_normalizer`` is still log p(x | params): ``AnnealedEM``.
    * ``sample_posterior(key, params, data) -> q`` -- one draw of z, in the form that ``statistics`` takes:
      ``MonteCarloEM`` and ``SAEM``, which need no ``e_step``.

    The functions are static under ``jit``: the same functions share one compiled program, a new lambda
    compiles anew.
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


HOW_TO_WRITE = {
    "e_step": "e_step(params, data) -> q, the posterior p(z | x, params)",
    "m_step": "m_step(q, data) -> params, the maximiser of the expected complete-data log-likelihood",
    "q_function": "q_function(params, q, data) = E_q log p(x, z | params), a scalar",
    "entropy": "entropy(q, data) = -E_q log q, a scalar",
    "log_likelihood": "log_likelihood(params, data) = log p(x | params), a scalar, without calling e_step",
    "statistics": "statistics(q, data), a tree of sums over the observations",
    "maximize": "maximize(statistics) -> params",
    "constraints": "constraints, a tree of spaces shaped like the parameters (or one space for all)",
    "init": "init(key, data) -> params, a random start",
    "sample": "sample(key, params, n) -> data",
    "sample_like": "sample_like(key, params, data) -> data of the same form, by the covariates that data have",
    "predict_proba": "predict_proba(params, data) -> (..., K), the posterior probability of each class",
    "permute": "permute(params, order) -> params, in which class order[k] is called k",
    "label_keys": "label_keys(params) -> (K, F), what the classes are sorted by, the first column first",
    "divergence": "divergence(q, p, data) = KL(q || p) between two posteriors",
    "c_step": "c_step(params, data) -> q, the posterior with all its probability on the most probable z",
    "tempered_e_step": "tempered_e_step(params, data, inverse_temperature) -> q, the normalised power of p(x, z)",
    "sample_posterior": "sample_posterior(key, params, data) -> q, one draw of z in the form that statistics takes",
}


def check_model(model: Any) -> None:
    """Raise ``ValueError`` where ``model`` is a class, or something else."""
    if isinstance(model, type):
        raise ValueError(f"the model is the class {model.__name__}; make one: {model.__name__}(...)")
    plain = isinstance(model, tuple | list | dict | str | int | float | None) or hasattr(model, "dtype")
    if plain or hasattr(model, "status") or isinstance(model, FunctionType):
        raise ValueError(f"the first argument must be a model; got {brief(model)}. The order is (model, params, data)")


def has(model: Any, *names: str) -> bool:
    """Whether the model offers every one of ``names``."""
    made_of = getattr(model, "made_of", {})  # of a model of rows a function is there where what it is made of is
    return all(getattr(model, made_of.get(name, name), None) is not None for name in names)


def missing(model: Any, *names: str) -> list[str]:
    """Those of ``names`` that the model lacks."""
    return [name for name in names if not has(model, name)]


def require(model: Any, feature: str, *names: str) -> None:
    """Raise ``ValueError`` where the model lacks what ``feature`` needs, with how to write it."""
    absent = missing(model, *names)
    if absent:
        how = "; ".join(HOW_TO_WRITE.get(name, name) for name in absent)
        raise ValueError(f"{feature} needs {' and '.join(absent)}, which {type(model).__name__} lacks. Write: {how}.")


def is_additive(model: Any) -> bool:
    """Whether EM can run on sums over observations."""
    return has(model, "statistics", "maximize")


def has_m_step(model: Any) -> bool:
    """Whether the model maximises in closed form."""
    return is_additive(model) or has(model, "m_step")


def spaces_of(model: Any) -> Spaces:
    """The model's parameter spaces; unconstrained where it names none."""
    return model.constraints if has(model, "constraints") else Real()


def require_classes(model: Any, feature: str, params: Any, data: Any) -> None:
    """Raise ``ValueError`` where the model's latent variables are not classes."""
    require(model, feature, "predict_proba")
    if not hasattr(jax.eval_shape(model.predict_proba, params, data), "shape"):
        raise ValueError(
            f"{feature} needs latent classes; the latent variable of {type(model).__name__} is not discrete"
        )
