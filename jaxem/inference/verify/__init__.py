"""The laws of EM, measured at a point: ``verify`` and the certificate that it returns."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.inference.verify.certificate import Certificate as Certificate
    from jaxem.inference.verify.certificate import LawViolationError as LawViolationError
    from jaxem.inference.verify.certify import verify as verify

on_demand()
