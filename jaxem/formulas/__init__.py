"""Models described by formulas (extra ``formula``)."""

from jaxem.formulas.formula import Formula as Formula
from jaxem.formulas.formula import formula as formula
