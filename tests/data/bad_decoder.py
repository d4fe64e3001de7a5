"""A clip spec whose decoding hangs or dies for files of certain names, in whichever process it happens."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass

import stm.data.stream.clips
import stm.data.stream.guarded
from stm.data.stream.clips import ClipSpec, load_views
from stm.explain.frames import read_pictures


def _hang_or_die(path):
    if path.endswith("hangs.mp4"):
        time.sleep(3600)
    if path.endswith("crashes.mp4"):
        os._exit(139)


def load_or_die(path, num_frames, width, height, label, seed, spec, *more):
    _hang_or_die(path)
    return load_views(path, num_frames, width, height, label, seed, spec, *more)


def read_or_die(path, config, most_frames, info):
    """What explains reads, likewise."""
    _hang_or_die(path)
    return read_pictures(path, config, most_frames, info)


@dataclass(frozen=True)
class BadDecoderSpec(ClipSpec):
    """Installs the decoder above in the process that unpickles it: Ray's worker."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        stm.data.stream.guarded.load_views = load_or_die


@dataclass(frozen=True)
class DyingSpec(ClipSpec):
    """Has the process that unpickles it die, or hang, when it is to decode the packet of a certain time."""

    bad_pts: tuple[int, ...] = ()
    hangs: bool = False

    def __setstate__(self, state):
        self.__dict__.update(state)
        from stm.data.windows.decoding import Decoding

        decode = Decoding._decode

        def decode_or_die(decoding, packet):
            if packet is not None and packet.pts in self.bad_pts:
                if self.hangs:
                    time.sleep(3600)
                ctypes.string_at(0)
            decode(decoding, packet)

        Decoding._decode = decode_or_die
