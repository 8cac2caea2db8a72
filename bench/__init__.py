"""What the product costs: ratios taken in one run."""
