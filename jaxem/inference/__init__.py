"""Uncertainty of estimates and model choice; the laws of EM are in ``verify``."""

from typing import TYPE_CHECKING

from jaxem.core.on_demand import on_demand

if TYPE_CHECKING:
    from jaxem.inference.alignment import align as align
    from jaxem.inference.alignment import canonical as canonical
    from jaxem.inference.each_row import Classes as Classes
    from jaxem.inference.each_row import Scores as Scores
    from jaxem.inference.each_row import classes as classes
    from jaxem.inference.each_row import scores as scores
    from jaxem.inference.imputation import impute as impute
    from jaxem.inference.regularity import InformationError as InformationError
    from jaxem.inference.residuals import Residuals as Residuals
    from jaxem.inference.residuals import residuals as residuals
    from jaxem.inference.selection.comparison import Candidate as Candidate
    from jaxem.inference.selection.comparison import Selection as Selection
    from jaxem.inference.selection.comparison import select as select
    from jaxem.inference.selection.criteria import aic as aic
    from jaxem.inference.selection.criteria import aicc as aicc
    from jaxem.inference.selection.criteria import bic as bic
    from jaxem.inference.selection.criteria import icl as icl
    from jaxem.inference.selection.criteria import number_of_parameters as number_of_parameters
    from jaxem.inference.selection.cross_validation import CrossValidation as CrossValidation
    from jaxem.inference.selection.cross_validation import cross_validate as cross_validate
    from jaxem.inference.selection.likelihood_ratio import LikelihoodRatio as LikelihoodRatio
    from jaxem.inference.selection.likelihood_ratio import likelihood_ratio_test as likelihood_ratio_test
    from jaxem.inference.separation import Separation as Separation
    from jaxem.inference.separation import separation as separation
    from jaxem.inference.uncertainty.bootstrap import Bootstrap as Bootstrap
    from jaxem.inference.uncertainty.bootstrap import bootstrap as bootstrap
    from jaxem.inference.uncertainty.class_profile import Profile as Profile
    from jaxem.inference.uncertainty.class_profile import profile as profile
    from jaxem.inference.uncertainty.information import Information as Information
    from jaxem.inference.uncertainty.information import information as information
    from jaxem.inference.uncertainty.information import information_product as information_product
    from jaxem.inference.uncertainty.intervals import Intervals as Intervals
    from jaxem.inference.uncertainty.intervals import confidence_intervals as confidence_intervals
    from jaxem.inference.uncertainty.profile import profile_interval as profile_interval
    from jaxem.inference.uncertainty.rate import ConvergenceRate as ConvergenceRate
    from jaxem.inference.uncertainty.rate import convergence_rate as convergence_rate
    from jaxem.inference.uncertainty.standard_errors import covariance as covariance
    from jaxem.inference.uncertainty.standard_errors import standard_errors as standard_errors
    from jaxem.inference.uncertainty.summary import Summary as Summary
    from jaxem.inference.uncertainty.summary import summary as summary

on_demand()
