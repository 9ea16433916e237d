"""What is used of formulaic, which is imported when the first formula is read: terms and model matrices."""

import warnings
from collections.abc import Iterable
from typing import Any


def is_offset(term: Any) -> bool:
    """Whether a term is ``offset(...)``."""
    return str(term).startswith("offset(") and len(term.factors) == 1


def is_column(term: Any) -> bool:
    """Whether a response is a column as it is."""
    return len(term.factors) == 1 and term.factors[0].eval_method.value == "lookup"


def formulaic() -> Any:
    """The module formulaic."""
    try:
        import formulaic
    except ImportError as error:
        raise ImportError('formulas need formulaic: pip install "jaxem[formula]"') from error
    return formulaic


def _context() -> dict[str, Any]:
    """The functions of formulas beside those of formulaic."""
    from formulaic.transforms.cubic_spline import cubic_spline
    from formulaic.utils.stateful_transforms import stateful_transform

    def spline(x: Any, df: int = 4, _state: Any = None) -> Any:
        return cubic_spline(x, df=df, constraints="center", _state=_state)

    return {"spline": stateful_transform(spline), "offset": lambda x: x}


def matrix(spec: Any, table: Any) -> Any:
    """The model matrix of a specification, or of a formula, which then becomes one: ``model_spec`` of the result."""
    f, context = formulaic(), _context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", f.errors.DataMismatchWarning)
        try:
            if hasattr(spec, "get_model_matrix") and hasattr(spec, "column_names"):
                return spec.get_model_matrix(table, context=context)
            return f.model_matrix(spec, table, context=context, output="numpy", na_action="raise")
        except (f.errors.FormulaicError, f.errors.DataMismatchWarning, ValueError) as error:
            raise ValueError(f"formula: {error}") from error


def variables(terms: Iterable[Any]) -> set[str]:
    """The names of columns in terms of a formula: all names but those of functions."""
    from formulaic.transforms import TRANSFORMS
    from formulaic.utils.variables import get_required_variables

    found = set()
    for factor in (factor for term in terms for factor in term.factors):
        if factor.eval_method.value == "lookup":
            found.add(str(factor.expr))
        elif factor.eval_method.value == "python":
            names = get_required_variables(factor.expr, {})
            found |= {str(name.root) for name in names if "value" in {str(role.value) for role in name.roles}}
    return found - set(TRANSFORMS)
