"""Pictures and films of what the network sees: feature maps of its blocks, and evidence for a class."""
