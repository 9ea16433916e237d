"""What the fit is worth."""
