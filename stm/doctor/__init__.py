"""Check a machine or a cluster before a job runs on it, as ``stm doctor`` does.

A check runs a task on every node, with a deadline, and a plain function turns the answers into a finding. The answers
are dicts, so that it also understands nodes with another version of this code.
"""
