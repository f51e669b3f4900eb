"""What a reader gets: one page, the verdict as data, cards, tables."""
