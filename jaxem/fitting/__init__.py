"""The fitting loop, stopping rules, restarts, checkpoints, and the result of a fit."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.core.compilation import effort as effort
    from jaxem.fitting.explain import explain as explain
    from jaxem.fitting.fit import fit as fit
    from jaxem.fitting.many import fit_many as fit_many
    from jaxem.fitting.many import fit_many_restarts as fit_many_restarts
    from jaxem.fitting.pieces import Report as Report
    from jaxem.fitting.restarts import Restarts as Restarts
    from jaxem.fitting.restarts import fit_restarts as fit_restarts
    from jaxem.fitting.result import Fit as Fit
    from jaxem.fitting.result import FitError as FitError
    from jaxem.fitting.result import FitWarning as FitWarning
    from jaxem.fitting.result import Status as Status
    from jaxem.fitting.result import check as check
    from jaxem.fitting.resume import resume as resume
    from jaxem.fitting.stopping import aitken as aitken
    from jaxem.fitting.stopping import all_of as all_of
    from jaxem.fitting.stopping import any_of as any_of
    from jaxem.fitting.stopping import objective_change as objective_change
    from jaxem.fitting.stopping import parameter_change as parameter_change
    from jaxem.fitting.stopping import plateau as plateau
    from jaxem.fitting.stream import fit_stream as fit_stream

on_demand()
