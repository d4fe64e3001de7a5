"""The runnable jobs, one a verb of ``stm``; each is also ``python -m pipelines.<verb>``."""
