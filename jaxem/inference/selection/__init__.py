"""Model choice: information criteria, cross-validation, likelihood-ratio tests."""
