"""Showing measurements: rows, tables, figures, model card, comparison."""
