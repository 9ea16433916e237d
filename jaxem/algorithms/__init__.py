"""How to climb."""
