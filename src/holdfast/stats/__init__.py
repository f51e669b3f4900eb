"""From rows of verdicts to rates, prices and comparisons, each with its interval; numpy only."""
