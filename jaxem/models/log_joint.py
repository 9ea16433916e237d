"""A model derived from one function: log p(x, z = k | params) of one observation."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxem.core.checks import brief
from jaxem.core.constraints import Spaces, check_spaces
from jaxem.core.data import Data, count, split_weights
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.models.classes import ClassModel


def from_log_joint(
    log_joint: Callable[..., Array],
    *,
    constraints: Spaces = None,
    m_step: Callable[..., Params] | None = None,
    log_prior: Callable[..., Array] | None = None,
    init: Callable[..., Params] | None = None,
    sample: Callable[..., Data] | None = None,
    permute: Callable[..., Params] | None = None,
    label_keys: Callable[..., Array] | None = None,
) -> "LogJointModel":
    r"""A model with one discrete latent variable per observation, derived from its log-joint alone.

    With p_nk = log_joint(params, x_n)_k, the E-step, the bound and the log-likelihood are

    .. math:: r_{nk} = e^{p_{nk}} / \sum_j e^{p_{nj}}, \quad
              Q = \sum_{nk} r_{nk}\, p_{nk}, \quad
              H = -\sum_{nk} r_{nk} \log r_{nk}, \quad
              L = \sum_n \log \sum_k e^{p_{nk}} .

    Data may have weights.

    Arguments:
        log_joint: ``log_joint(params, x) -> (K,)``, log p(x, z = k | params) of one observation x (one row of the
            data) and each class k.
        constraints: a tree of parameter spaces, or one space for all parameters (default: all parameters are real).
        m_step: ``m_step(q, data) -> params``, with ``q.probabilities (N, K)``, the exact maximiser of Q where there is
            one. Without it the M-step is gradient ascent on Q (``GEM``).
        log_prior: ``log_prior(params) -> ()``; the fit is then MAP (default: maximum likelihood).
        init: ``init(key, data) -> params``, as in ``jaxem.Model``.
        sample: ``sample(key, params, n) -> data``, as in ``jaxem.Model``.
        permute: ``permute(params, order) -> params``, as in ``jaxem.Model``.
        label_keys: ``label_keys(params) -> (K, F)``, as in ``jaxem.Model``.

    Returns:
        A ``LogJointModel``, to be fitted like any model.

    Raises:
        ValueError: an argument that must be a function is none, or ``constraints`` are not spaces. When data are met:
            ``log_joint`` fails on one observation, or does not return real numbers of shape (K,).

    Source: Dempster, Laird & Rubin (1977), section 4.3.
    """
    return LogJointModel(log_joint, m_step, log_prior, init, sample, permute, label_keys, constraints)


@register
@dataclasses.dataclass(frozen=True)
class LogJointModel(ClassModel):
    """The model that ``from_log_joint`` returns.

    Arguments:
        log_joint, m_step, log_prior, init, sample, permute, label_keys: as in ``from_log_joint``.
        spaces: the ``constraints`` of ``from_log_joint``.

    Raises:
        ValueError: as for ``from_log_joint``.
    """

    log_joint: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    m_step: Callable[..., Params] | None = dataclasses.field(metadata={"static": True})  # pyright: ignore[reportIncompatibleMethodOverride]
    log_prior: Callable[..., Array] | None = dataclasses.field(metadata={"static": True})
    init: Callable[..., Params] | None = dataclasses.field(metadata={"static": True})
    sample: Callable[..., Data] | None = dataclasses.field(metadata={"static": True})
    permute: Callable[..., Params] | None = dataclasses.field(metadata={"static": True})
    label_keys: Callable[..., Array] | None = dataclasses.field(metadata={"static": True})
    spaces: Spaces

    # The M-step is the user's function or is missing; it is not derived from sums.
    made_of: ClassVar[dict[str, str]] = {**ClassModel.made_of, "m_step": "m_step"}

    @property
    def constraints(self) -> Spaces:
        """The space of each array of the parameters."""
        return self.spaces

    def __post_init__(self) -> None:
        if not callable(self.log_joint) or isinstance(self.log_joint, type):
            raise ValueError(f"from_log_joint needs a function (params, x) -> (K,); got {brief(self.log_joint)}")
        for name in ("m_step", "log_prior", "init", "sample", "permute", "label_keys"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise ValueError(f"from_log_joint: {name} must be a function; got {brief(getattr(self, name))}")
        check_spaces("from_log_joint", self.spaces)

    def prepare(self, params: Params, x: Data | None) -> Params:
        return params

    def table(self, c: Params, x: Data) -> Array:
        """log p(x_n, z_n = k | params), (N, K)."""
        return jax.vmap(self.log_joint, in_axes=(None, 0))(c, x)

    def check_shapes(self, params: Params | None, data: Data | None) -> None:
        """Raise ``ValueError`` where ``log_joint`` fails on one observation or does not return (K,) real numbers."""
        if params is None or data is None:
            return
        observations, _ = split_weights(data)
        if count(observations) == 0:
            raise ValueError("from_log_joint needs observations; the data hold none")
        row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), observations)
        what = f"log_joint(params, x) of one observation of shape {[leaf.shape for leaf in jax.tree.leaves(row)]}"
        try:
            found = jax.eval_shape(self.log_joint, params, row)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            first = str(error).splitlines()[0][:120] if str(error) else ""
            raise ValueError(f"{what} fails with {type(error).__name__}: {first}") from error
        if not isinstance(found, jax.ShapeDtypeStruct) or found.ndim != 1 or found.shape[0] == 0:
            got = f"shape {found.shape}" if hasattr(found, "shape") else brief(found)
            raise ValueError(f"{what} must be K numbers, log p(x, z = k) for each class, of shape (K,); got {got}")
        if not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(f"{what} must be real numbers; got {found.dtype}")
