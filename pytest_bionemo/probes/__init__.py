"""Probes read facts about what is installed or visible. None opens a CUDA context in this process.

What can hang or crash (a driver library, ``import torch``) is asked of a child process with a deadline.
"""
