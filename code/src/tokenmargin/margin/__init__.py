"""Margin problems: the token SVM and its relatives, each answer certified."""
