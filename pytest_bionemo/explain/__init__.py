"""``python -m pytest_bionemo explain``: what a check checks, why, how it decides, how to fix it, and on whose word.

Everything is derived from the code: docstrings, the source of the check and of what it calls, the tables of facts.
Nothing is run: no driver is started, no torch imported, no fixture set up.
"""
