"""Finding a recipe: what each layer loses and costs by each candidate, and the best combination of them."""
