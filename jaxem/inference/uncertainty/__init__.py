"""How precise the estimates are, and how much information is missing."""
