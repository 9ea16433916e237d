"""The laws of EM, measured at a point: ``verify`` and the certificate that it returns."""

from jaxem.inference.verify.certificate import Certificate as Certificate
from jaxem.inference.verify.certificate import LawViolationError as LawViolationError
from jaxem.inference.verify.certify import verify as verify
