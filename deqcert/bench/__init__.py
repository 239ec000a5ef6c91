"""Measurements: solvers, forms of a model, what starts save, and what this machine has."""
