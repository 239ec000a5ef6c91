"""The heads by name."""

HEADS = ("lda", "qda", "robust-lda")
"""Linear with a shared covariance, quadratic, and linear for a radius."""
