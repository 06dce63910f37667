"""`cornet tune`: many short trainings over ranges of a family's options, judged on validation rows alone."""
