"""The machinery of the book: execution, claims, numbers, figures, rendering, checks."""
