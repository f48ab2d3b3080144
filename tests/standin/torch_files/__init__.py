"""What a probe can ask of a CUDA build of torch; see standin/torch_package.py, which installs these files."""

from ._standin import suffer_import

suffer_import()

from . import backends, cuda, distributed, version  # noqa: E402
from ._device import Tensor, device  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ["Tensor", "__version__", "backends", "cuda", "device", "distributed", "version"]
