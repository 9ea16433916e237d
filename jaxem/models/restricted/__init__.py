"""Restrictions of parameters, and log-priors of any form, on every model whose Q is a function of its sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxem.core import parameters, trees
from jaxem.core.checks import brief
from jaxem.core.conversion import of_fit
from jaxem.core.model import Params, check_model
from jaxem.core.rows import FromRows
from jaxem.models.restricted.applied import read, symmetric
from jaxem.models.restricted.model import Prior, Restricted, _numbers
from jaxem.models.restricted.reading import Leaf


def restrict(
    model: Any,
    fixed: Mapping[str, Any] | None = None,
    tied: Sequence[str | Sequence[str]] = (),
    params: Params | None = None,
) -> Restricted:
    r"""The model with some parameters fixed, equal to each other, or an affine map of fewer numbers.

    .. math:: \max_\theta Q(\theta) \text{ subject to } \theta_i = v_i, \quad \theta_i = \theta_j, \quad
              \theta = f + D \beta

    Parameters keep their shape, so that predictions and tables are as for the model. Degrees of freedom, standard
    errors, criteria, accelerators and the certificate follow from the restriction. The M-step is in closed form where
    the restriction leaves one; else it climbs Q by Newton's method.

    Arguments:
        model: a model of rows, such as a ``Mixture``, an ``HMM`` or a ``FactorAnalysis``; may be restricted already.
        fixed: what is fixed, by name: ``{"components.variances": 1.0}``, elements ``{"transition[0, 2]": 0.0}`` or
            slices ``{"emissions.means[1:, 0]": [1.0, 2.0]}``. A value is a number, numbers of the shape that is named,
            a pair (mask, numbers) of which only elements under the mask are fixed, ``None`` (the value in ``params``),
            or, of a whole array of real numbers, a ``jaxem.Affine``. A probability of zero stays exactly zero.
        tied: what is equal: ``"components.variances"`` for all classes, ``"components.means[0] =
            components.means[1]"`` or ``["a.variances", "b.variances"]`` for parts of one shape and kind. Of
            probabilities whole rows can be tied, of covariance matrices whole matrices.
        params: parameters, whose values fix what ``fixed`` leaves open, and whose shapes say how many columns there
            are; default ``None``: the model knows the shapes of all that is named.

    Returns:
        A model. ``model.project(params)`` moves any parameters under the restriction; a fit refuses starting values
        that violate it. ``permute`` and ``label_keys`` are there only where the restriction says the same of classes
        in any order.

    Raises:
        ValueError: a name is unknown, values or shapes do not fit, parts of the restriction contradict each other, or
            the space of a parameter cannot be restricted like this.

    Source: Holmes, Ward & Wills (2012) for affine maps; Kim & Taylor (1995) for EM under linear restrictions.
    """
    own, spaces, touched, priors, order = _unwrapped("restrict", model)
    declared = own.declare()
    sizes = {"K": own.k, "k": own.k} if isinstance(getattr(own, "k", None), int) else {}
    values: list[Any] = [None] * len(spaces)
    if params is not None:
        params = of_fit(params)
        parameters.check_shapes("restrict", declared, jax.tree.map(np.asarray, params), sizes)
        values = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    leaves = [
        Leaf(name, space, param.axes, value, sizes)
        for name, space, param, value in zip(
            trees.leaf_names(_numbers(declared)), spaces, parameters.leaves(declared), values, strict=True
        )
    ]
    new, changed, found = read(leaves, {} if fixed is None else fixed, tied)
    same = order and symmetric(found, parameters.leaves(declared))
    return Restricted(own, new, tuple(sorted({*touched, *changed})), same, priors)


def with_prior(model: Any, log_prior: Prior) -> Restricted:
    r"""The model with a log-prior of any form added to its objective.

    .. math:: \max_\theta\; L(\theta) + \log p(\theta)

    The M-step climbs Q + log p by Newton's method, over the parameters on which the log-prior depends and those that Q
    couples with them; of all others it is the model's own. Conjugate priors are arguments of families and keep their
    closed form.

    Arguments:
        model: a model of rows, such as a ``Mixture``; may be restricted.
        log_prior: ``log_prior(params)``, a scalar, twice differentiable. The prior may be improper.

    Returns:
        A model. ``permute`` and ``label_keys`` are not there, because the prior may tell classes apart.

    Raises:
        ValueError: the model is not one of rows, or ``log_prior`` is not a function.
    """
    if not callable(log_prior):
        raise ValueError(f"with_prior: log_prior must be a function of the parameters; got {brief(log_prior)}")
    own, spaces, touched, priors, _ = _unwrapped("with_prior", model)
    return Restricted(own, spaces, touched, False, (*priors, log_prior))


def _unwrapped(title: str, model: Any) -> tuple[Any, tuple[Any, ...], tuple[int, ...], tuple[Prior, ...], bool]:
    """The model, and what restricts it already."""
    check_model(model)
    if isinstance(model, Restricted):
        return model.model, model.spaces, model.touched, model.priors, model.symmetric
    if not isinstance(model, FromRows) or not hasattr(model, "expected"):
        absent = "the functions of rows" if not isinstance(model, FromRows) else "expected(c, params, sums)"
        raise ValueError(
            f"{title} makes a new M-step, for which Q must be a function of sums about the parameters of the E-step, "
            f"and {type(model).__name__} lacks {absent} that say so: its own m_step or maximize knows only the maximum "
            "over all parameters. Put the restriction or the prior into the m_step that you write, or write the model "
            "as a class with functions of rows (jaxem.core.rows.FromRows), as Mixture, HMM and FactorAnalysis are"
        )
    declared = getattr(model, "declare")()  # noqa: B009
    return model, tuple(param.space for param in parameters.leaves(declared)), (), (), True
