"""Estimators with scikit-learn's names, parameters and attributes (extra ``sklearn``); loaded on demand."""
