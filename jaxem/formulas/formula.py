"""Models described by a formula: responses, covariates of the components, and covariates of the gate.

The formulas are those of formulaic (extra ``formula``), which is imported when the first one is read.
"""

import dataclasses
import itertools
from typing import Any

from jaxem.core.checks import brief
from jaxem.core.data import Dataset
from jaxem.core.frames import Levels
from jaxem.families import Regression
from jaxem.formulas.matrices import formulaic, is_column, is_offset, variables
from jaxem.formulas.specification import Side, Specification
from jaxem.formulas.table import How, Missing
from jaxem.gates import Constant, Softmax
from jaxem.models import Mixture

_PARTS = ("components", "gate")


@dataclasses.dataclass(frozen=True, eq=False)
class Formula:
    """The data that a formula describes, and how to make them from another data frame. ``jaxem.formula`` makes it.

    Arguments:
        text: the formula.
        data: a ``Dataset``: the responses as ``values``; in ``given`` the covariates of the components,
            ``"components"``, those of the gate, ``"gate"``, and ``"offset"``, as far as there are any.
    """

    text: str
    data: Dataset
    _spec: Specification

    def __repr__(self) -> str:
        return f"Formula({self.text!r}): {self.data!r}"

    def new(self, frame: Any) -> Dataset:
        """The data set of another data frame, by the same specification: its knots, levels and means are kept.

        Arguments:
            frame: a data frame, or a dict of columns, with the covariates of the formula. Where it lacks a response,
                all responses count as missing, which is enough for class probabilities given covariates, for
                ``jaxem.impute`` (the mean of the responses) and for ``sample_like``.

        Returns:
            A ``Dataset``.

        Raises:
            ValueError: a column is missing, or holds a level that the earlier data did not have; or a cell is missing
                where it may not be.
        """
        return self._spec.read(frame, self.data, {})[0]

    def component(self, family: Any, **options: Any) -> Any:
        """The regression of the components: ``Regression(family, on="components")``.

        It has the intercept and the offset of the formula. Where the formula gives the components an intercept only, it
        is the family itself.

        Arguments:
            family: the distribution of the response, such as ``Normal()``.
            options: further options of ``Regression``.

        Returns:
            A family.

        Raises:
            ValueError: there are no covariates, so that there is nothing to which ``options`` apply.
        """
        side = self._spec.sides["components"]
        if not side.names and self._spec.offset is None:
            if options or not side.intercept:
                raise ValueError(f"formula: {self.text!r} has no covariates of the components; use the family itself")
            return family
        on = "components" if side.names else ()
        return Regression(
            family, on=on, intercept=side.intercept, offset=None if self._spec.offset is None else "offset", **options
        )

    def gate(self) -> Any:
        """The gate: ``Softmax(on="gate")``, or ``Constant()`` without covariates.

        Returns:
            A gate, with the intercept of the formula.
        """
        side = self._spec.sides["gate"]
        return Softmax(on="gate", intercept=side.intercept) if side.names else Constant()

    def mixture(self, family: Any, k: int, **options: Any) -> Mixture:
        """The mixture that the formula describes: ``Mixture(component(family), k, gate=gate())``.

        Arguments:
            family: the distribution of the response, such as ``Normal()``.
            k: the number of components.
            options: further options of ``Regression``.

        Returns:
            A ``Mixture``.
        """
        return Mixture(self.component(family, **options), k, gate=self.gate())


def formula(
    text: str,
    frame: Any,
    *,
    weights: str | None = None,
    missing: Missing = "refuse",
    levels: Levels | None = None,
    separate: bool = False,
) -> Formula:
    r"""The data set and the model that a formula describes.

    .. math:: \text{responses} \sim \text{covariates of the components} \mid \text{covariates of the gate}

    Both sides are in the language of formulaic, which is that of R: ``x:z``, ``x * z``, ``log(x)``, ``C(x)``,
    ``poly(x, 2)``, ``bs(x, df=5)``, ``cr(x, df=5)``, ``- 1`` for no intercept. Beside these:

    * ``spline(x, df=4)``: a natural cubic spline of ``df`` columns, centred, linear beyond the range of the data;
    * ``offset(x)``: a term of the components' predictor without a coefficient, such as ``offset(log(t))``;
    * ``y1 + y2 ~ ...``: several responses, in the columns of ``values``.

    ``~ x`` alone has no responses: all count as missing.

    Arguments:
        text: the formula, such as ``"y ~ x + spline(age) | party"``; the part after ``|`` may be left out.
        frame: a data frame (pandas, polars, pyarrow), or a dict of columns. Text and categories are coded by
            indicators of their levels; a response that is one gets its code.
        weights: the column of the observations' weights; default: each counts once.
        missing: ``"refuse"`` (default): a missing cell in a column that the formula uses is an error. ``"drop"``: such
            rows are left out, as R does. ``"nan"``: responses may be missing; covariates may not.
        levels: as for ``jaxem.dataset``; the first level is the reference of a covariate.
        separate: whether several responses are a dict of columns, for a ``Product``; default False.

    Returns:
        A ``Formula``: its ``data``, ``new(frame)`` for other data, and the models ``mixture(family, k)``,
        ``component(family)`` and ``gate()``.

    Raises:
        ImportError: formulaic (the extra ``formula``) is not installed.
        ValueError: the formula cannot be read, or names what is not a column; or as for ``jaxem.dataset``.

    Source: Wilkinson & Rogers (1973); Leisch (2004) for the two parts.
    """
    if missing not in ("refuse", "drop", "nan"):
        raise ValueError(f"formula: missing must be 'refuse', 'drop' or 'nan'; got {brief(missing)}")
    if not isinstance(text, str):
        raise ValueError(f"formula: the formula must be a text; got {brief(text)}")
    f = formulaic()
    try:
        parsed = f.Formula(text)
    except f.errors.FormulaicError as error:
        raise ValueError(f"formula: {text!r} cannot be read: {error}") from error
    left = list(parsed.lhs) if hasattr(parsed, "lhs") else []
    right = parsed.rhs if hasattr(parsed, "lhs") else parsed
    right = right.root if isinstance(right, f.formula.StructuredFormula) else right
    right = right if isinstance(right, tuple) else (right,)
    if len(right) > len(_PARTS):
        raise ValueError(f"formula: {text!r} has {len(right)} parts separated by |; at most two: components | gate")
    terms = {part: list(side) for part, side in itertools.zip_longest(_PARTS, right, fillvalue=())}
    covariates = [term for side in terms.values() for term in side]
    offsets = [term for term in terms["components"] if is_offset(term)]
    terms["components"] = [term for term in terms["components"] if not is_offset(term)]
    if any("offset(" in str(term) for side in terms.values() for term in side):
        raise ValueError("formula: offset() is a term by itself, of the components only")
    formula_of = f.formula.SimpleFormula
    sides = {}
    for part, side in terms.items():
        intercept = any(str(term) == "1" for term in side) or (part == "gate" and not side)
        sides[part] = Side(formula_of(side) if len(side) > intercept else None, intercept)
    responses = {str(term): None if is_column(term) else formula_of([term]) for term in left}
    how = How(weights, missing, separate)
    offset, names = formula_of(offsets) if offsets else None, (variables(covariates), variables(left))
    data, spec = Specification(responses, sides, offset, names, how).read(frame, None, dict(levels or {}))
    return Formula(text, data, spec)
