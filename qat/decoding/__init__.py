"""From what a model emits to text."""
