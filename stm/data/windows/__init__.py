"""The windows of a long video or a stream, each as a clip: every frame is decoded once, and memory is bounded.

cutting.py     frames and their times in, windows out: plain arithmetic
damage.py      which frames are not to be trusted
decoding.py    a source's frames as windows; what runs in the child process
reader.py      that child process: its deadlines, crashes, a stream that breaks off or is faster than we are
"""
