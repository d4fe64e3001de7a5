"""Checks of a machine or a cluster before a job is given to it: ``stm doctor``.

A check asks every node in a task of its own, with a deadline; a plain function makes a finding of the answers. It
takes what the nodes said as dicts, so that nodes which run another version of this code can still be understood.
"""
