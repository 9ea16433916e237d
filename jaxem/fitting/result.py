"""The result of a fit: ``Fit``, ``Status``, and ``check``, which turns a failure into an exception."""

import dataclasses
import enum
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxem.core import tables
from jaxem.core.checks import instance
from jaxem.core.data import Data, Named
from jaxem.core.labels import labelled
from jaxem.core.model import Params
from jaxem.core.records import register
from jaxem.core.trees import leaf_names


class Status(enum.IntEnum):
    """How a fit ended. Only ``CONVERGED`` is convergence."""

    CONVERGED = 0  # the stopping rule was met
    MAX_STEPS = 1  # max_steps was reached first
    NON_FINITE = 2  # a parameter or the objective became NaN or infinite
    DECREASED = 3  # the objective fell by more than rounding error
    DEGENERATE = 4  # a component emptied or became singular
    PRECISION = 5  # rounding error is all that moves the parameters, and more may be left than the rule allows
    INVALID = 6  # the data or the start lie outside what the model allows; found in a trace or in sharded data
    SCREENED = 7  # of many starts: left behind by others, or dropped where it met the best one
    INTERRUPTED = 8  # Ctrl-C came during a run with progress or checkpoint; the fit is as far as it came


CAUSES = {
    Status.CONVERGED: "the stopping rule was met",
    Status.MAX_STEPS: (
        "max_steps was reached before the stopping rule was met. EM slows down where much information is missing "
        "(components that overlap): raise max_steps, or accelerate. A rule that is tighter than rounding error "
        "is never met"
    ),
    Status.NON_FINITE: (
        "a parameter or the objective became NaN or infinite. Likely: NaN or inf in the data, a start under which "
        "an observation is impossible, or an update that divides by zero"
    ),
    Status.DECREASED: (
        "the objective fell by more than rounding error, which no correct EM step does. Likely: an M-step that "
        "does not maximise the Q of this E-step (jaxem.verify names the law it breaks), a prior that is in only one "
        "of log_prior and the M-step, or covariances so near singular that 32 bits do not resolve them (use 64)"
    ),
    Status.DEGENERATE: (
        "a component emptied or its covariance became singular; the likelihood may have no maximum there. Use fewer "
        "components, another start, a simpler covariance, or a prior"
    ),
    Status.PRECISION: (
        "each step is now rounding error, and at the rate at which EM converged here the maximum may be more than a "
        "hundredth of a standard error away (fit.left: log-likelihood still to win). Use 64 bits, subtract a large "
        "offset from the data, or accelerate"
    ),
    Status.INVALID: (
        "the data or the start lie outside what the model allows: a weight that is negative or NaN (or none above "
        "zero), a length that is not from 1 to T, an observation that is NaN or impossible, or a start outside its "
        "spaces. Outside jit and vmap the same is a ValueError that says where"
    ),
    Status.SCREENED: (
        "other starts were ahead, or this one met the best of them, so it was not run to the end. Raise finalists to "
        "run more"
    ),
    Status.INTERRUPTED: (
        "the run was interrupted (Ctrl-C) before it ended. Go on from its checkpoint by jaxem.resume, or begin another "
        "fit at fit.params"
    ),
}

# Nothing failed, though only the first converged.
USABLE = (Status.CONVERGED, Status.MAX_STEPS, Status.PRECISION, Status.INTERRUPTED)


_COINCIDENT = (
    "every class is the same as another, and EM cannot part equal classes: a saddle, unless fewer classes fit as well. "
    "Start from classes that differ"
)


class FitWarning(UserWarning):
    """A fit converged, but its result needs attention (see ``Fit.warnings``)."""


class FitError(RuntimeError):
    """A fit did not converge, or its derivative is undefined.

    Raised by ``check``, by derivatives of a fit, and by comparisons of models whose fits failed.
    """


@register
@dataclasses.dataclass(frozen=True)
class Fit:
    """The result of ``fit``: parameters, objective, and how the fit ended.

    Under ``vmap`` every field has a leading axis of lanes. After a failure (``NON_FINITE``, ``DECREASED``,
    ``DEGENERATE``) ``params`` is the last good iterate; where the input was ``INVALID`` it is the start.
    """

    params: Params  # the parameters at the end; after a failure the last good ones
    objective: Array | None  # log-likelihood (plus log-prior) at exactly these params; None without a bound
    trace: Array | None  # (max_steps + 1,), objective of each iterate, the start first; NaN after the end
    steps: Array  # iterations taken
    evaluations: Array  # E-steps computed
    fallbacks: Array  # refused steps, which would have lowered the objective or left the model
    status: Array  # a Status, as int32
    left: Array | float = math.nan  # estimated rise of the objective still to come; NaN where unknown
    coincident: Array | bool = False  # whether every latent class equals another, which EM cannot separate
    # The columns of the data frame that it was fitted to, by part. Results that jit, vmap or jax.tree.map return do not
    # have them.
    names: Named | None = dataclasses.field(default=None, metadata={"aside": True})
    library: str | None = dataclasses.field(default=None, metadata={"aside": True})  # of that data frame

    @property
    def converged(self) -> Array:
        """Whether the stopping rule was met."""
        return self.status == Status.CONVERGED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings besides the status, as texts; needs concrete values, so it cannot run in a trace."""
        lanes = np.atleast_1d(np.asarray(self.coincident) & np.isin(self.status, USABLE))
        if not lanes.any():
            return ()
        where = f" in {int(lanes.sum())} of {lanes.size} lanes" if lanes.size > 1 else ""
        return (f"{_COINCIDENT}{where}",)

    def __str__(self) -> str:
        if isinstance(self.status, Tracer) or not isinstance(self.status, jax.Array | np.ndarray):
            return f"Fit(abstract, params={self.params})"
        status = np.asarray(self.status)
        if status.ndim:
            return _lanes(self, status)
        rows = [("status", Status(int(status)).name), ("steps", f"{self.steps}")]
        if self.evaluations != self.steps + 1:
            rows.append(("evaluations", f"{self.evaluations}"))
        if self.fallbacks:
            rows.append(("fallbacks", f"{self.fallbacks}"))
        value = "none (the model has no bound)" if self.objective is None else f"{self.objective:.10g}"
        rows.append(("objective", value))
        if np.isfinite(self.left):
            rows.append(("left", f"about {float(self.left):.1g}"))
        for name, leaf in zip(leaf_names(self.params), jax.tree.leaves(self.params), strict=True):
            rows.append((name, tables.array(leaf)))
        rows += [("warning", text) for text in self.warnings]
        return tables.fields("Fit", rows)

    __repr__ = __str__


def with_names(fit: Fit, data: Data, before: Named | None = None) -> Fit:
    """The fit with the names of the columns of its data, as the user passed them; ``before``: those of its start."""
    found = labelled(data, before)
    library = None if found.origin is None else found.origin.library
    return fit if found.names is None else dataclasses.replace(fit, names=found.names, library=library)


def _lanes(fit: Fit, status: np.ndarray) -> str:
    lines = [f"Fit of {status.size} lanes"]
    for code in Status:
        lanes = np.flatnonzero(status.ravel() == code)
        if lanes.size:
            lines.append(f"  {code.name:<11} {lanes.size}")
    if fit.objective is not None:
        objective = np.asarray(fit.objective)
        objective = objective[np.isfinite(objective)]
        span = f"{objective.min():.10g} to {objective.max():.10g}" if objective.size else "none finite"
        lines.append(f"  objective   {span}")
    lines.append(f"  steps       {np.min(fit.steps)} to {np.max(fit.steps)}")
    lines += [f"  warning     {text}" for text in fit.warnings]
    return "\n".join(lines)


def usable(status: Array) -> Array:
    """Whether fits did not fail; ``MAX_STEPS``, ``PRECISION`` and ``INTERRUPTED`` are not failures."""
    return jnp.isin(status, jnp.asarray(USABLE, status.dtype))


def check(fit: Fit) -> Fit:
    """``fit`` itself, unchanged, if every lane of it converged; otherwise a ``FitError`` is raised.

    Each text of ``fit.warnings`` (classes that coincide) becomes a Python warning, a ``FitWarning``.

    Arguments:
        fit: the result of ``fit`` or ``fit_many``, or the ``best`` of many starts; concrete, not traced.

    Returns:
        ``fit``.

    Raises:
        FitError: a lane did not converge. The message names the status, its likely causes, and the lanes.
        ValueError: ``fit`` is not a ``Fit``, or it is traced (inside ``jit``, ``vmap`` or ``grad``).
    """
    instance("jaxem.check: the argument", fit, "a Fit (of many starts, their .best)", "params", "status", "steps")
    if isinstance(fit.status, Tracer):
        raise ValueError("jaxem.check looks at values, so it cannot run inside jit, vmap or grad; use fit.status")
    status = np.asarray(fit.status)
    failed = np.flatnonzero(status.ravel() != Status.CONVERGED)
    if failed.size == 0:
        for text in fit.warnings:
            warnings.warn(text, FitWarning, stacklevel=2)
        return fit
    parts = []
    for code in sorted(set(status.ravel()[failed].tolist())):
        lanes = np.flatnonzero(status.ravel() == code)
        shown = ", ".join(map(str, lanes[:10])) + (", ..." if lanes.size > 10 else "")
        where = f" in lane(s) {shown}" if status.ndim else f" after {int(fit.steps)} steps"
        parts.append(f"{Status(code).name}{where}: {CAUSES[Status(code)]}.")
    raise FitError(" ".join(parts))
