"""What the devices of a machine measured before: kept where it was asked for, compared, and drawn over time.

Nothing is kept unless somebody asks for it: ``--bionemo-save``, or ``python -m pytest_bionemo history save``.
"""
