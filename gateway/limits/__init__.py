"""How much may come: limits and budgets per key, and the bounded queue before the engines."""
