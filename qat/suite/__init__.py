"""Suites: every row of a set of tables, from the file that names them to the tables that show them."""
