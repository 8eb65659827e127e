"""What the evaluation's tables say: comparisons with paired intervals, highest rates, losses, claims, sensitivity."""
