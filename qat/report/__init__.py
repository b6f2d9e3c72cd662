"""Error rates with intervals, the one result row, its guards, tables, figures, W&B and the model card.

Everything shown to a reader is drawn from the rows of `report.json` and from nothing else.
"""
