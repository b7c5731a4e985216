"""How answers are judged: scores in [0, 1], and tests over them."""
