"""The report of an evaluation, as one HTML page (``stm.report.page.write``)."""
