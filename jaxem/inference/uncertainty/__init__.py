"""Uncertainty of estimates: information, standard errors, intervals, bootstrap, and the rate of EM."""
