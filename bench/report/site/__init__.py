"""`bench report`: a static site that opens from disk. `build` is the whole of it."""

from bench.report.site.build import Built, build

__all__ = ["Built", "build"]
