"""``verify``: does this model obey the laws of EM, here, on these data?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxem.core import constraints, trees
from jaxem.core.data import Data, count
from jaxem.core.model import Params, has, is_additive, missing, spaces_of
from jaxem.fitting.fit import canonical
from jaxem.fitting.validation import check_start
from jaxem.inference.certificate import Certificate, Check, Verdict
from jaxem.inference.laws import LARGEST_HESSIAN, Laws, needs

# law: (method, statement, tolerance in eps, whether rounding of the parameters moves it)
_LAWS = {
    "touch": ("touch", "ELBO(θ, e_step(θ)) = L(θ)", 32, False),
    "tangent": ("tangent", "∇ELBO(θ, q) = ∇L(θ) at q = e_step(θ)", 64, True),
    "objective": ("objective", "the E-step's normaliser = L(θ)", 32, False),
    "KL ≥ 0": ("non_negative", "L(θ) − ELBO(θ, q) ≥ 0 at other q", 32, False),
    "decomposition": ("decomposition", "L(θ) = ELBO(θ, q) + KL(q‖p) at other q", 32, False),
    "E-step": ("posterior_is_best", "ELBO(θ, q) ≤ ELBO(θ, e_step(θ)) at other q", 32, False),
    "minorisation": ("minorises", "B(θ′, θ) ≤ L(θ′) at other θ′", 32, False),
    "curvature": ("curvature", "∇²L − ∇²B ⪰ 0 at θ′ = θ", 64, True),
    "M-step stationary": ("m_step_stationary", "∇Q = 0 at m_step(q)", 64, True),
    "M-step optimal": ("m_step_optimal", "Q(θ′) ≤ Q(m_step(q)) at other θ′", 32, False),
    "ascent": ("ascent", "L(M(θ)) ≥ L(θ)", 32, False),
    "additivity": ("additive", "statistics of two halves add up", 32, False),
    "maximize": ("maximize_is_m_step", "maximize(statistics(q)) = m_step(q)", 64, False),
}


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
    gradients also to ``conditioning``, the number of eps by which a gradient moves when the parameters are rounded.
    Near a singular covariance that is large, and the certificate weak: the tolerance printed says so.

    Raises ``ValueError`` where the parameters lie outside the model or the data cannot be used.

    Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998); Minka (1998) for the bound that touches.
    """
    params, data = canonical(params, data)
    check_start(model, params, data)
    key = jax.random.key(0) if key is None else key
    u, _ = ravel_pytree(constraints.inverse(spaces_of(model), params))
    why_not = _unchecked(model, data, u.shape[0])
    laws = tuple(name for name in _LAWS if name not in why_not)
    residuals, conditioning, data_size = _measure(model, params, data, key, probes, laws)
    eps = float(jnp.finfo(u.dtype).eps)
    names = _coordinate_names(model, params)
    checks = []
    for law, (_, statement, factor, conditioned) in _LAWS.items():
        if law in why_not:
            checks.append(Check(law, statement, np.nan, np.nan, why_not[law], None, Verdict.UNCHECKED))
            continue
        residual, worst = (np.asarray(part) for part in residuals[law])
        moved = float(conditioning["M-step" in law]) if conditioned else 1.0
        tolerance = factor * eps * moved
        origin = f"{factor} eps" + (f" x conditioning {moved:.1e}" if conditioned else "")
        verdict = Verdict.HOLDS if residual <= tolerance else Verdict.VIOLATED  # NaN holds nothing
        leaf = names[int(worst)] if worst >= 0 else None
        checks.append(Check(law, statement, float(residual), tolerance, origin, leaf, verdict))
    certificate = Certificate(tuple(checks), u.dtype.name, float(data_size))
    if strict:
        certificate.raise_if_violated()
    return certificate


@jax.jit(static_argnames=("probes", "laws"))
def _measure(
    model: Any, params: Params, data: Data, key: Array, probes: int, laws: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[Array, Array], Array]:
    measured = Laws(model, params, data, key, probes)
    residuals = {law: getattr(measured, _LAWS[law][0])() for law in laws}
    one = jnp.ones((), measured.point.u.dtype)
    at_point = measured.conditioning(measured.point.u) if has(model, "q_function") else one
    after = measured.m_step_conditioning() if "M-step stationary" in laws else one
    return residuals, (at_point, after), measured.point.size


def _unchecked(model: Any, data: Data, coordinates: int) -> dict[str, str]:
    """The laws that cannot be checked, and why."""
    reasons = {}
    for law, (method, *_) in _LAWS.items():
        absent = missing(model, *needs(model)[method])
        if absent:
            reasons[law] = f"the model lacks {', '.join(absent)}"
    if "curvature" not in reasons and coordinates > LARGEST_HESSIAN:
        reasons["curvature"] = f"{coordinates} coordinates are more than {LARGEST_HESSIAN}"
    if is_additive(model) and count(data) < 2:
        reasons["additivity"] = "one observation has no halves"
    return reasons


def _coordinate_names(model: Any, params: Params) -> list[str]:
    free = constraints.inverse(spaces_of(model), params)
    sizes = [leaf.size for leaf in jax.tree.leaves(free)]
    names = trees.leaf_names(params)
    return [name for name, n in zip(names, sizes, strict=True) for _ in range(n)]
