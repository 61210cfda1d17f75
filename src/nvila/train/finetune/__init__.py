"""Fine-tuning a checkpoint by one command: options to a recipe, data and memory checked before, the best kept.

Read options.py (what is asked for), survey.py (the data), recipe.py (what the trainer runs), measure.py and plan.py
(what it takes), evaluate.py (held-out scores), run.py (all of it in order) and sweep.py (the search for a ratio).
"""
