"""``verify``: does this model obey the laws of EM, here, on these data?"""

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
    r"""Measure every law of EM at ``params`` and say which hold.

    The E-step and the M-step are also measured after one EM iteration and at some of the probes, each with the
    posterior of that point.

    ``probes``: how many random other parameters the inequalities are tried at (drawn from ``key``, default a fixed
    one), at distances from a tenth of an error bar to three. Works on any model, in float32 and float64. With
    ``strict``, a violated law raises ``LawViolationError``, naming the law and the parameter array.

    The last line says of the point itself whether it is a maximum, a saddle, at an edge, flat, or not stationary. That
    is information and no law: a right model can be verified anywhere.

    A law that needs what the model lacks is reported as not checked, never as holding: where there is no
    ``log_likelihood``, nothing can be said of touching, and the table says so.

    Each residual is dimensionless (see ``laws.py``) and held to a multiple of eps, and to the rounding
    error that is seen at points a few units in the last place apart. Where that would hide a real fault (means of 1e6
    in float32) the law is "not checked: rounding hides it", and the certificate is not ``ok``.

    Raises ``ValueError`` where the parameters lie outside the model or the data cannot be used.

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
    with np.errstate(all="ignore"):  # what is not finite is found so
        measured = measure(model, params, data, key, probes)
        checks = [_check(name, law, model, params, measured, names, dtype) for name, law in laws.items()]
        point = _point(model, measured, names)
    certificate = Certificate(tuple(checks), dtype.name, measured.size, point)
    if strict:
        certificate.raise_if_violated()
    return certificate


def _point(model: Any, measured: Measured, names: list[str]) -> str:
    """One line on the point itself."""
    if measured.surroundings is not None:
        return describe(measured.surroundings, names)
    absent = missing(model, "q_function", "log_likelihood")
    why = f"the model lacks {', '.join(absent)}" if absent else f"more than {LARGEST_HESSIAN} coordinates"
    return f"unknown: {why}"


def _check(
    name: str, law: Law, model: Any, params: Params, measured: Measured, coordinates: list[str], dtype: Any
) -> Check:
    """Hold one law to what was measured."""
    decisive = "q_function" in law.needs(model)
    why_not = _why_not(name, law, model, measured, len(coordinates))
    if why_not:
        return Check(name, law.statement, np.nan, np.nan, why_not, None, Verdict.UNCHECKED, decisive)
    found = find(law, measured, float(jnp.finfo(dtype).eps))
    origin = f"{law.factor} eps"
    if law.conditioning(measured):
        origin += f" + {law.conditioning(measured):.1e} eps of conditioning"
    if found.rounding:
        origin += f" + rounding of {found.rounding:.1e} as seen"
    verdict = Verdict.HOLDS if found.residual <= found.tolerance else Verdict.VIOLATED  # NaN holds nothing
    if verdict is Verdict.VIOLATED:
        excuse = law.excuse(model, measured, found.tolerance)
        if excuse:
            return Check(name, law.statement, np.nan, np.nan, excuse, None, Verdict.UNCHECKED, decisive)
    elif not found.tolerance <= law.limit(measured):
        verdict = Verdict.UNCHECKED
        origin = f"rounding hides it: the tolerance may be {law.limit(measured):.1e} at most ({origin})"
    place = _place(law, found.place, model, params, measured, coordinates)
    return Check(name, law.statement, found.residual, found.tolerance, origin, place, verdict, decisive)


def _why_not(name: str, law: Law, model: Any, measured: Measured, coordinates: int) -> str | None:
    """Why a law cannot be checked, if so."""
    absent = missing(model, *law.needs(model))
    if absent:
        return f"the model lacks {', '.join(absent)}"
    if name == "curvature" and coordinates > LARGEST_HESSIAN:
        return f"{coordinates} coordinates are more than {LARGEST_HESSIAN}"
    gap = law.gap(measured, measured.here)
    if gap is None:
        return measured.no_parts or "there is nothing to measure it by"
    return None if np.size(gap) else "the model lacks what it is about"


def _place(law: Law, index: int, model: Any, params: Params, measured: Measured, coordinates: list[str]) -> str | None:
    """What the worst entry of a gap is of."""
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
