"""pytest plugin (``-p tests.kernels_over_files``) for nbval, which offers no setting of its kernels.

They get :func:`i2vae_lib.notebooks.kernel_settings`.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any

import nbval.kernel
from jupyter_client.manager import KernelManager

from i2vae_lib.notebooks import kernel_settings

folders = ExitStack()
atexit.register(folders.close)


def over_files(**words: Any) -> KernelManager:
    return KernelManager(config=folders.enter_context(kernel_settings()), **words)


nbval.kernel.KernelManager = over_files
