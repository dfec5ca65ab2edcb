"""What a recipe declares of the networks that it trains, for a plan: named outputs, and whether there are logits."""
