"""``verify``: measure whether a model obeys the laws of EM at a point."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import constraints, trees
from jaxem.core.checks import flag, prng_key, whole_number
from jaxem.core.conversion import convert
from jaxem.core.data import Data
from jaxem.core.model import Params, check_model, missing, require, spaces_of
from jaxem.fitting.validation import check_start
from jaxem.inference.verify.certificate import Certificate, Check, Verdict
from jaxem.inference.verify.laws import LAWS, Law, find, parts_named
from jaxem.inference.verify.measurements import LARGEST_HESSIAN, Measured, measure
from jaxem.inference.verify.point import describe


def verify(
    model: Any,
    params: Params,
    data: Data,
    *,
    key: Array | None = None,
    probes: int = 12,
    strict: bool = False,
) -> Certificate:
    r"""A certificate of the laws of EM: which of them hold for this model at ``params``.

    Among them, with q = e_step(params, data) and B(., params) the surrogate:

    .. math:: B(\theta, \theta_i) = E_q \log p(x, z \mid \theta) + H(q) \le L(\theta), \qquad
              B(\theta_i, \theta_i) = L(\theta_i), \qquad L(M(\theta_i)) \ge L(\theta_i)

    (the last with the log-prior added to L, where there is one).

    The laws of the E-step and the M-step are also measured after one EM iteration and at some of the probes, each with
    the posterior at that point. The last line of the certificate says whether the point is a maximum, a saddle, at an
    edge, flat, or not stationary. That is information, not a law: a correct model can be verified at any point.

    A law that needs a function the model lacks is reported as not checked, never as holding. Without
    ``log_likelihood``, for example, it cannot be checked that the bound touches L.

    Each residual is dimensionless (see ``laws.py``). Its tolerance is a multiple of eps, plus the rounding error that
    is measured at points a few units in the last place apart. Where rounding error could hide a real fault (means of
    1e6 in float32), the law is reported as "not checked: rounding hides it", and the certificate is not ``ok``.

    Arguments:
        model: any model with ``e_step``, in float32 or float64.
        params: the point, or a ``Fit``.
        data: the data.
        key: the key of the random probes; default a fixed one.
        probes: how many other random parameters the inequalities are tried at, at distances from a tenth of an error
            bar to three; default 12.
        strict: whether a violated law raises ``LawViolationError``; default False.

    Returns:
        A ``Certificate``.

    Raises:
        ValueError: the parameters lie outside the model, the data cannot be used, or the model has no ``e_step``.
        LawViolationError: with ``strict``, a law is violated; the message names the law and the parameter array.

    Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998); Minka (1998) for the bound that touches.
    """
    check_model(model)
    require(model, "verify", "e_step")
    flag("verify: strict", strict)
    probes = whole_number("verify: probes", probes, 1)
    if key is not None:
        prng_key("verify", key)
    params, data = convert(model, params, data)
    check_start(model, params, data)
    key = jax.random.key(0) if key is None else key
    names = _coordinate_names(model, params)
    dtype = trees.float_dtype(params)
    laws = {name: law for name, law in LAWS.items() if law.applies(model, data)}
    with np.errstate(all="ignore"):  # values that are not finite are reported by the laws
        measured = measure(model, params, data, key, probes)
        checks = [_check(name, law, model, params, measured, names, dtype) for name, law in laws.items()]
        point = _point(model, measured, names)
    certificate = Certificate(tuple(checks), dtype.name, measured.size, point)
    if strict:
        certificate.raise_if_violated()
    return certificate


def _point(model: Any, measured: Measured, names: list[str]) -> str:
    """One line about the point itself."""
    if measured.surroundings is not None:
        return describe(measured.surroundings, names)
    absent = missing(model, "q_function", "log_likelihood")
    why = f"the model lacks {', '.join(absent)}" if absent else f"more than {LARGEST_HESSIAN} coordinates"
    return f"unknown: {why}"


def _check(
    name: str, law: Law, model: Any, params: Params, measured: Measured, coordinates: list[str], dtype: Any
) -> Check:
    """Compare one law with what was measured."""
    decisive = "q_function" in law.needs(model)
    why_not = _why_not(name, law, model, measured, len(coordinates))
    if why_not:
        return Check(name, law.statement, np.nan, np.nan, why_not, None, Verdict.UNCHECKED, decisive)
    found = find(law, measured, float(jnp.finfo(dtype).eps))
    origin = f"{law.factor} eps"
    if law.conditioning(measured):
        origin += f" + {law.conditioning(measured):.1e} eps of conditioning"
    if found.rounding:
        origin += f" + rounding error of {found.rounding:.1e}, as measured"
    verdict = Verdict.HOLDS if found.residual <= found.tolerance else Verdict.VIOLATED  # NaN counts as violated
    if verdict is Verdict.VIOLATED:
        excuse = law.excuse(model, measured, found.tolerance)
        if excuse:
            return Check(name, law.statement, np.nan, np.nan, excuse, None, Verdict.UNCHECKED, decisive)
    elif not found.tolerance <= law.limit(measured):
        verdict = Verdict.UNCHECKED
        origin = f"rounding hides it: a verdict needs a tolerance of at most {law.limit(measured):.1e} ({origin})"
    place = _place(law, found.place, model, params, measured, coordinates)
    return Check(name, law.statement, found.residual, found.tolerance, origin, place, verdict, decisive)


def _why_not(name: str, law: Law, model: Any, measured: Measured, coordinates: int) -> str | None:
    """Why a law cannot be checked; ``None`` where it can."""
    absent = missing(model, *law.needs(model))
    if absent:
        return f"the model lacks {', '.join(absent)}"
    if name == "curvature" and coordinates > LARGEST_HESSIAN:
        return f"{coordinates} coordinates are more than {LARGEST_HESSIAN}"
    gap = law.gap(measured, measured.here)
    if gap is None:
        return measured.no_parts or "it cannot be measured on these data"
    return None if np.size(gap) else "the model has none of the quantities that it is about"


def _place(law: Law, index: int, model: Any, params: Params, measured: Measured, coordinates: list[str]) -> str | None:
    """The name of what the largest gap belongs to."""
    if index < 0 or law.places == "probes" or not law.places:
        return None
    if law.places == "coordinates":
        return coordinates[index]
    if law.places == "leaves":
        leaf, space = trees.leaf_names(params)[index], constraints.describe(spaces_of(model), params)[index]
        return f"{leaf}, which must be {space}"
    if law.places == "entries":
        sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(params)]
        return trees.leaf_names(params)[int(np.searchsorted(np.cumsum(sizes), index, side="right"))]
    assert measured.here.parts is not None
    return measured.here.parts.names[parts_named(measured.here.parts.names, law.statistics)[index]]


def _coordinate_names(model: Any, params: Params) -> list[str]:
    free = jax.eval_shape(constraints.inverse, spaces_of(model), params)
    sizes = [leaf.size for leaf in jax.tree.leaves(free)]
    names = trees.leaf_names(params)
    return [name for name, n in zip(names, sizes, strict=True) for _ in range(n)]
