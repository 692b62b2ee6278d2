"""The theorems as numbers computed from the data."""
