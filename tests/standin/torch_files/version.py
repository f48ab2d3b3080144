"""What the build was made of."""

from ._standin import SPEC

__version__: str = SPEC["version"]
debug = False
cuda: str | None = SPEC["cuda"]
git_version: str = SPEC["git_version"]
hip: str | None = SPEC["hip"]
