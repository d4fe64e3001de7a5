"""What an evaluation found, as one page to look at (``stm.report.page.write``)."""
