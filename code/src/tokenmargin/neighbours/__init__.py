"""Results of related papers beside this book's own: one module a paper."""
