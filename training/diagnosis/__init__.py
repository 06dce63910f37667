"""`--diagnose`: what goes on inside a network while it learns, and what is wrong with it in words."""
