"""``verify``: does this model obey the laws of EM, here, on these data?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxem.core import constraints, trees
from jaxem.core.checks import prng_key, whole_number
from jaxem.core.conversion import convert
from jaxem.core.data import Data, count
from jaxem.core.model import Params, check_model, is_additive, missing, require, spaces_of
from jaxem.fitting.validation import check_start
from jaxem.inference.certificate import Certificate, Check, Verdict
from jaxem.inference.laws import LAWS
from jaxem.inference.measurements import LARGEST_HESSIAN, measure


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

    ``probes``: how many random other parameters the inequalities are tried at (drawn from ``key``, default a fixed
    one), at distances from a tenth of an error bar to three. Works on any model, in float32 and float64. With
    ``strict``, a violated law raises ``LawViolationError``, naming the law and the parameter array.

    A law that needs what the model lacks is reported as not checked, never as holding: where there is no
    ``log_likelihood``, nothing can be said of touching, and the table says so.

    Each residual is dimensionless (see ``jaxem/inference/laws.py``) and held to a multiple of eps; laws about
    gradients also to their conditioning, the number of eps by which a gradient moves when the parameters are rounded.
    Near a singular covariance that is large, and the certificate weak: the tolerance printed says so.

    Raises ``ValueError`` where the parameters lie outside the model or the data cannot be used.

    Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998); Minka (1998) for the bound that touches.
    """
    check_model(model)
    require(model, "verify", "e_step")
    probes = whole_number("verify: probes", probes, 1)
    if key is not None:
        prng_key("verify", key)
    params, data = convert(model, params, data)
    check_start(model, params, data)
    key = jax.random.key(0) if key is None else key
    names = _coordinate_names(model, params)
    why_not = _unchecked(model, data, len(names))
    measured = measure(model, params, data, key, probes)
    conditioning = {"here": measured.conditioning_here, "after": measured.conditioning_after}
    dtype = trees.float_dtype(params)
    eps = float(jnp.finfo(dtype).eps)
    checks = []
    for name, law in LAWS.items():
        if name in why_not:
            check = Check(name, law.statement, np.nan, np.nan, why_not[name], None, Verdict.UNCHECKED)
            checks.append(check)
            continue
        residual, worst = law.residual(measured)
        moved = conditioning[law.conditioned] if law.conditioned else 1.0
        tolerance = law.factor * eps * moved
        origin = f"{law.factor} eps" + (f" x conditioning {moved:.1e}" if law.conditioned else "")
        verdict = Verdict.HOLDS if residual <= tolerance else Verdict.VIOLATED  # NaN holds nothing
        leaf = names[worst] if worst >= 0 else None
        checks.append(Check(name, law.statement, residual, tolerance, origin, leaf, verdict))
    certificate = Certificate(tuple(checks), dtype.name, float(measured.size))
    if strict:
        certificate.raise_if_violated()
    return certificate


def _unchecked(model: Any, data: Data, coordinates: int) -> dict[str, str]:
    """The laws that cannot be checked, and why."""
    reasons = {}
    for name, law in LAWS.items():
        absent = missing(model, *law.needs(model))
        if absent:
            reasons[name] = f"the model lacks {', '.join(absent)}"
    if "curvature" not in reasons and coordinates > LARGEST_HESSIAN:
        reasons["curvature"] = f"{coordinates} coordinates are more than {LARGEST_HESSIAN}"
    if is_additive(model) and count(data) < 2:
        reasons["additivity"] = "one observation has no halves"
    return reasons


def _coordinate_names(model: Any, params: Params) -> list[str]:
    free = jax.eval_shape(constraints.inverse, spaces_of(model), params)
    sizes = [leaf.size for leaf in jax.tree.leaves(free)]
    names = trees.leaf_names(params)
    return [name for name, n in zip(names, sizes, strict=True) for _ in range(n)]
