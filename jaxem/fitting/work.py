"""How long fits take, roughly: enough to choose how hard to compile them and by which algorithm to climb."""

from typing import Any

import jax

from jaxem.algorithms import em
from jaxem.core.data import Data, Sharded
from jaxem.core.keeping import Kept
from jaxem.core.model import Params, has_m_step
from jaxem.core.streams import Streamed

# Seconds on one core. An iteration takes some operations of its own, and then a little for every number that an
# operation makes and for every product in a product of matrices: within a factor of four for 13 models, from 10
# counts to 10^6, and for chains of 5,000 steps.
_OVERHEAD = 3e-5
_NUMBER = 3e-10
_PRODUCT = 6e-11
_TURNS = 8  # turns of a loop whose number of turns depends on values
_ASCENT = 20  # E-steps that an M-step by gradient ascent takes as long as
_STEPS = 100  # iterations of a fit, typically
LONG = 1.0  # a fit estimated at so many seconds is worth the compilation of an accelerator
_known = Kept(1024)


def fit(model: Any, params: Params, data: Data) -> float:
    """The seconds that one fit takes."""
    return _STEPS * iteration(model, params, data)


def iteration(model: Any, params: Params, data: Data) -> float:
    """The seconds that one iteration of EM takes, by the operations of its trace."""
    if isinstance(data, Streamed):
        return 1.0  # whatever is read from a file is worth a full effort
    data = data.data if isinstance(data, Sharded) else data
    leaves, structure = jax.tree.flatten((model, params, data))
    key = structure, tuple(map(jax.typeof, leaves))
    seconds = _known.get(key)
    if seconds is None:
        seconds = _of_trace(model, params, data)
        _known.put(key, seconds)
    return seconds


def _of_trace(model: Any, params: Params, data: Data) -> float:
    try:
        # The model comes by closure: JAX would keep an argument alive, and the user's functions with it.
        trace = jax.make_jaxpr(lambda params, data: em.iteration(model, params, data))(params, data)
    except Exception:  # the fit meets the same error, and says more
        return _OVERHEAD
    return _OVERHEAD + _seconds(trace.jaxpr) * (1 if has_m_step(model) else _ASCENT)


def _seconds(jaxpr: Any) -> float:
    """The seconds of all operations; those inside a loop count as often as it turns."""
    total = 0.0
    for equation in jaxpr.eqns:
        parts = [_seconds(part) for part in _inside(equation.params)]
        name = equation.primitive.name
        if not parts:
            made = sum(getattr(out.aval, "size", 1) for out in equation.outvars)
            total += _NUMBER * made
            if name == "dot_general":
                (summed, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                for axis in summed:
                    made *= shape[axis]
                total += _PRODUCT * made
        elif name == "cond":
            total += max(parts)
        else:
            total += sum(parts) * {"scan": equation.params.get("length"), "while": _TURNS}.get(name, 1)
    return total


def _inside(params: dict[str, Any]) -> list[Any]:
    """The traces among the parameters of an operation."""
    values = [part for value in params.values() for part in (value if isinstance(value, tuple | list) else [value])]
    return [part for part in (getattr(value, "jaxpr", value) for value in values) if hasattr(part, "eqns")]
