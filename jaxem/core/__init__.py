"""What EM is: models, bounds, parameter spaces, data."""
