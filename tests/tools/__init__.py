"""What the documents of this repository compare stm with and check it by. Not part of what is installed."""
