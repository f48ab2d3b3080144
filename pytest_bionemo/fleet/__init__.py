"""Many reports of nodes folded into one fleet verdict: ``python -m pytest_bionemo fleet``.

Files in, one document out: nothing here asks a driver, a scheduler or a network.
"""
