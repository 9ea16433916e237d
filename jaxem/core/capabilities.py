"""What a model can do, in groups of functions; and what is missing, by name and with how to write it."""

from typing import Any, NamedTuple

from jaxem.core import frame_output, tables

# Of each group: what it is for, and of each of its functions how to write it.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "EM": (
        "an iteration",
        {
            "e_step": "e_step(params, data) -> q, the posterior p(z | x, params)",
            "m_step": "m_step(q, data) -> params, the maximiser of the expected complete-data log-likelihood",
            "log_prior": "log_prior(params), a scalar added to the objective",
        },
    ),
    "bound": (
        "the objective, gradient M-steps, the certificate",
        {
            "q_function": "q_function(params, q, data) = E_q log p(x, z | params), a scalar",
            "entropy": "entropy(q, data) = -E_q log q, a scalar",
            "log_likelihood": "log_likelihood(params, data) = log p(x | params), a scalar, without calling e_step",
            "log_prob": "log_prob(params, data) -> (N,), log p(x_n | params) of each observation",
            "log_normalizer": "log_normalizer(q, data) = log p(x | params), a scalar that the E-step computed",
            "divergence": "divergence(q, p, data) = KL(q || p) between two posteriors, a scalar",
        },
    ),
    "sums": (
        "EM in blocks, over devices and on streams",
        {
            "statistics": "statistics(q, data), a tree of sums over the observations",
            "maximize": "maximize(statistics) -> params",
            "expected_log_joint": "expected_log_joint(params, statistics), q_function from the sums alone",
        },
    ),
    "classes": (
        "predictions, labels, hard and annealed EM",
        {
            "predict_proba": "predict_proba(params, data) -> (..., K), the posterior probability of each class",
            "permute": "permute(params, order) -> params, in which class order[k] is called k",
            "label_keys": "label_keys(params) -> (K, F), what the classes are sorted by, the first column first",
            "coincide": "coincide(params) -> bool, whether every class equals another",
            "c_step": "c_step(params, data) -> q, the posterior with all its probability on the most probable z",
            "tempered_e_step": (
                "tempered_e_step(params, data, inverse_temperature) -> q, the normalised power of p(x, z)"
            ),
        },
    ),
    "sampling": (
        "restarts, the parametric bootstrap, Monte Carlo EM",
        {
            "init": "init(key, data) -> params, a random start",
            "sample": "sample(key, params, n) -> data",
            "sample_like": "sample_like(key, params, data) -> data of the same form, by the covariates of data",
            "sample_posterior": (
                "sample_posterior(key, params, data) -> q, one draw of z in the form that statistics takes"
            ),
        },
    ),
    "parameters and input": (
        "spaces, checks, counts",
        {
            "constraints": "constraints, a tree of spaces shaped like the parameters (or one space for all)",
            "degenerate": "degenerate(params) -> bool, whether the parameters have left the model",
            "check_shapes": "check_shapes(params, data), which raises ValueError for shapes that do not fit",
            "validate": "validate(params, data), which raises ValueError for input that cannot be fitted",
            "allows": "allows(params, data) -> bool, what validate says of values that are traced",
            "sample_size": "sample_size(data), the number of observations that BIC counts",
        },
    ),
}
_HOW_TO_WRITE = {name: how for _, functions in GROUPS.values() for name, how in functions.items()}


def has(model: Any, *names: str) -> bool:
    """Whether the model offers every one of ``names``.

    A model whose parts take one of its functions away names that function in ``lacking``.
    """
    made_of = getattr(model, "made_of", {})  # a derived function is there where the functions it is made of are
    offered = lambda name: getattr(model, made_of.get(name, name), None) is not None
    return all(offered(name) and name not in getattr(model, "lacking", ()) for name in names)


def missing(model: Any, *names: str) -> list[str]:
    """Those of ``names`` that the model lacks."""
    return [name for name in names if not has(model, name)]


def require(model: Any, feature: str, *names: str) -> None:
    """Raise ``ValueError`` where the model lacks what ``feature`` needs, with how to write it."""
    absent = missing(model, *names)
    if absent:
        how = "; ".join(_HOW_TO_WRITE.get(name, name) for name in absent)
        raise ValueError(f"{feature} needs {' and '.join(absent)}, which {type(model).__name__} lacks. Write: {how}.")


class Capabilities(NamedTuple):
    """What a model offers and what it lacks, by group; prints as a table."""

    model: str  # the name of its class
    offered: dict[str, tuple[str, ...]]  # of each group the functions that it has
    lacking: dict[str, tuple[str, ...]]  # of each group the functions that it lacks

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """The table by columns.

        Returns:
            A dict: ``group``, ``for``, ``offers``, ``lacks``.
        """
        listed = lambda part: [", ".join(part[group]) or "-" for group in GROUPS]
        purposes = [purpose for purpose, _ in GROUPS.values()]
        return {"group": list(GROUPS), "for": purposes, "offers": listed(self.offered), "lacks": listed(self.lacking)}

    def __str__(self) -> str:
        found = self.as_dict()
        rows = [list(found), *(list(row) for row in zip(*found.values(), strict=True))]
        return "\n".join([self.model, *tables.columns(rows, "<<<<")])

    __repr__ = __str__


def capabilities(model: Any) -> Capabilities:
    """What a model can do, in groups: EM, bound, sums, classes, sampling, and parameters and input.

    Arguments:
        model: any model, such as a ``jaxem.Model`` or a ``Mixture``.

    Returns:
        The functions that it offers and those that it lacks, of each group; ``jaxem.Model`` says what each one buys.
    """

    def those(group: str, there: bool) -> tuple[str, ...]:
        return tuple(name for name in GROUPS[group][1] if has(model, name) is there)

    offered, lacking = ({group: those(group, there) for group in GROUPS} for there in (True, False))
    return Capabilities(type(model).__name__, offered, lacking)
