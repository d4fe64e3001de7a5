"""Programs behind the comparisons and checks in the documents of this repository; they are not installed."""
