"""The windows of a long video or a stream as clips: every frame is decoded once, and memory is bounded.

cutting.py     turns frames and their times into windows: plain arithmetic
damage.py      finds the frames that damage has reached
decoding.py    decodes a source into windows in the child process
reader.py      runs that child process: deadlines, crashes, and streams that break off or are too fast
"""
