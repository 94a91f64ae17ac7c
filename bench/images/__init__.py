"""Images: what is put on a machine, built from the folder `firmware-images/` and named by its content.

`payload` compiles the bench's own program, `kernel` Linux; the kernel's modules are imported where they are used,
since they need more than the standard library.
"""

from __future__ import annotations

from bench.images.init import build_init
from bench.images.kernel_image import KernelImage
from bench.images.payload import PAYLOADS, PayloadImage, build_payload, default_cache

__all__ = ["PAYLOADS", "KernelImage", "PayloadImage", "build_init", "build_payload", "default_cache"]
