"""Print the page of the fault matrix: ``python -m faults`` in the folder of the tests."""

from faults import matrix

print(matrix.page(), end="")
