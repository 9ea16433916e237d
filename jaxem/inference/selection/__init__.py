"""Which of several models: criteria, cross-validation, tests."""
