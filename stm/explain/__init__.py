"""What the network sees: feature maps of its blocks and evidence for a class, as pictures, films and figures."""
