"""Nodes of an autoscaler that are processes of this machine, each with its own folder for the code of jobs."""

from __future__ import annotations

import functools
import itertools
from typing import Any
from unittest import mock

from ray._private import parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

_number = itertools.count(1)


class NodesApart(FakeMultiNodeProvider):
    """Ray's provider for tests, whose nodes share the head's session folder: a node that unpacks a job's code there
    first removes what lies there, and so the folder that the job's driver is running in."""

    def _create_node_with_resources_and_labels(self, *arguments: Any, **named: Any) -> None:
        folder = f"runtime_resources-{next(_number)}"
        own = functools.partial(parameter.RayParams, runtime_env_dir_name=folder)
        with mock.patch.object(parameter, "RayParams", own):
            super()._create_node_with_resources_and_labels(*arguments, **named)
