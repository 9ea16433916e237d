"""Gates: distributions of the class, given covariates or nothing."""

from jaxem.gates.constant import Constant as Constant
from jaxem.gates.protocol import Gate as Gate
from jaxem.gates.softmax import Softmax as Softmax
from jaxem.gates.softmax import SoftmaxParams as SoftmaxParams
