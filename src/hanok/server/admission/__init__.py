"""Who may do how much: rates, budgets, answers under way."""
