"""Hold the families of metrics, one a file; every file here is imported by ``clbench.evaluate``."""
