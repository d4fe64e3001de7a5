"""All of stm's uses of Ray that are not public API. Each is guarded, and was tested with Ray 2.60.

| function | part of Ray | effect if it is missing |
|---|---|---|
| `hush_process_counts` | ``ray._private.worker.print_to_stdstream`` | a warning is shown in the terminal |
| `torch_trainer` | ``TorchTrainer._register_sigint_handler`` | Ray's own handler ends a training on Ctrl-C |
| `has_dashboard` | ``ray._private.worker.get_dashboard_url`` | a dashboard is assumed to run |
| `most_of` | ``ray._private.state.state`` | the largest size of the cluster is unknown |
| `execution_callback` | ``ray.data._internal.execution.execution_callback`` | a waiting executor uses a core |
| `wake_readers` | ``OpState.get_output_blocking`` of an executor's last operator | each waiting rank uses CPU |
| `hold_back` | ``StreamingExecutor._backpressure_policies`` | the plan runs far ahead of decoding |
| `keep_moving` | the same | a stream with too little memory for its ranks stops forever |
| `end_executions` | ``StreamingExecutor`` is a thread of that name | an interrupted command may exit with status 1 |
| `near_the_caller` | ``DataContext.scheduling_strategy`` (deprecated) | a stream's tasks are spread over all nodes |
| `let_borrow` | ``StreamingExecutor._resource_manager._get_total_resources`` | streams have equal shares of CPUs |
| `end_together` | ``SplitCoordinator._current_executor`` | streams continue without their ranks |
| `task_attempt` | ``ray._private.worker.global_worker`` | retried tasks are not isolated, so a bad file ends the run |
| `signals_are_ours` | ``ray._raylet.CoreWorker``, two of ``ray._private.utils`` | SIGTERM saves no checkpoint |
| `head_here` | ``ray._private.services.canonicalize_bootstrap_address`` | `auto` is not checked before Ray joins |
| `patient_start` | three functions of ``ray._private.services`` | Ray does not start on a busy machine |
| `raylet_here` | ``ray._private.worker._global_node`` | the command ends without our message if Ray dies |
| `refuses` | the name of a call of GCS, ``GetClusterId`` | a wrong token is reported only after a minute |
| `server_version` | ``JobSubmissionClient._server_ray_version`` | the cluster is assumed to have our version |

Importing this module does not import Ray.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

SEEN_WITH = "2.60"

_PROCESS_COUNT = "PYTHON worker processes have been started on node"


def hush_process_counts() -> None:
    """Hide the warning that a node has started many processes for its cores, which is normal on one machine.

    Each part of a run is a process, and most of them wait. Ray has no setting for this warning, and prints it with a
    private function; if that function is missing, the warning is shown.
    """
    worker = _worker()
    show = getattr(worker, "print_to_stdstream", None)
    if show is None or getattr(show, "leaves_out", False):
        return

    def show_the_rest(data: Any, *arguments: Any, **keywords: Any) -> None:
        lines = [line for line in data["lines"] if _PROCESS_COUNT not in line]
        if lines:
            show({**data, "lines": lines}, *arguments, **keywords)

    show_the_rest.leaves_out = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = show_the_rest


@contextlib.contextmanager
def signals_are_ours() -> Iterator[None]:
    """While Ray starts, keep the command's signal handlers.

    Ray would replace the program's SIGTERM handler twice: in Python, and in C++ by one that prints addresses and aborts
    after 3 s. A signal to the command's process group, as from `timeout` or a terminal that closes, would also end
    Ray's processes before the command can save anything. A SIGTERM between Ray's handler and ours is blocked until ours
    is back, and none goes to Ray's threads.
    """
    from ray import _raylet
    from ray._private import utils

    raylet: Any = _raylet

    set_handler: Any = getattr(utils, "set_sigterm_handler", None)
    in_child: Any = getattr(utils, "set_kill_on_parent_death_linux", None)
    core: Any = getattr(raylet, "CoreWorker", None)
    handler = signal.getsignal(signal.SIGTERM)
    elsewhere = threading.current_thread() is not threading.main_thread()
    if None in (set_handler, in_child, core) or handler in (signal.SIG_DFL, None) or elsewhere:
        yield
        return

    # Ray's handler would run in any thread that does not block SIGTERM: only this one, which ends before.
    done = threading.Event()
    taker = threading.Thread(target=done.wait, daemon=True)
    taker.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def apart() -> None:
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        in_child()

    def when_none_takes_it(*words: Any, **named: Any) -> Any:
        done.set()
        taker.join()
        return core(*words, **named)

    raylet.CoreWorker = when_none_takes_it
    utils.set_sigterm_handler = lambda _: None
    utils.set_kill_on_parent_death_linux = apart
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        utils.set_kill_on_parent_death_linux = in_child
        raylet.CoreWorker = core
        done.set()
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


_AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


@contextlib.contextmanager
def patient_start(times: int = 3) -> Iterator[None]:
    """While Ray starts, let it start on a busy machine.

    A raylet aborts if its agents, which are Python, have not reported their ports within 15 s (Ray's issue 65983), so
    their ports are chosen here. Ray also asks only once whether its raylet runs; here it asks up to ``times`` times.
    """
    from ray._private import services

    names = ("start_raylet", "start_ray_process", "get_node")
    start, run, ask = before = [getattr(services, name, None) for name in names]
    if None in before:
        yield
        return
    chosen = dict(zip(_AGENT_PORTS, _free_ports(len(_AGENT_PORTS)), strict=True))

    def start_with_ports(*arguments: Any, **keywords: Any) -> Any:
        given = {name: keywords.get(name) or port for name, port in chosen.items()}
        return start(*arguments, **{**keywords, **given})  # type: ignore[misc]

    def run_with_port(command: list[str], process_type: str, *more: Any, **keywords: Any) -> Any:
        if process_type == "raylet":  # Ray passes this port to the agent, but not to the raylet
            name = "dashboard_agent_listen_port"
            command = [*command, f"--{name}={chosen[name]}"]
        return run(command, process_type, *more, **keywords)  # type: ignore[misc]

    def ask_again(*arguments: Any) -> Any:
        for _ in range(times - 1):
            try:
                return ask(*arguments)  # type: ignore[misc]
            except RuntimeError:
                if not _raylet_lives():
                    break
        return ask(*arguments)  # type: ignore[misc]

    ours = (start_with_ports, run_with_port, ask_again)
    for name, function in zip(names, ours, strict=True):
        setattr(services, name, function)
    try:
        yield
    finally:
        for name, theirs in zip(names, before, strict=True):
            setattr(services, name, theirs)


_PORTS = range(20_000, 32_768)
"""Ports that neither Ray nor a connection without a chosen port takes, so they stay free until Ray binds them."""


def _free_ports(number: int) -> list[int]:
    found: list[int] = []
    for port in random.Random().sample(_PORTS, len(_PORTS)):  # `random` itself may have a seed
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        found.append(port)
        if len(found) == number:
            break
    return found


def _raylet_lives() -> bool:
    """Return whether a raylet that this process started runs."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def torch_trainer(started: Callable[[Any], None]) -> type:
    """Return a ``ray.train.torch.TorchTrainer`` class that does not handle Ctrl-C and calls ``started(controller)``.

    Ray's own handler ends the process with exit status 0 when Ctrl-C is pressed three times.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            started(controller)

    return Trainer


def has_dashboard() -> bool:
    """Return whether the connected cluster runs Ray's dashboard; True if Ray does not tell."""
    address = getattr(_worker(), "get_dashboard_url", None)
    return True if address is None else bool(address())


def most_of(name: str) -> float | None:
    """Return the largest total of a resource that the autoscaler's nodes can have; None if it does not tell.

    KubeRay's autoscaler tells it; that of `ray up` does not in Ray 2.60.
    """
    try:
        from ray._private.state import state

        limits = state.get_max_resources_from_cluster_config()
    except Exception:  # any error means that it does not tell
        return None
    return None if limits is None else float(limits.get(name, 0.0))


def task_attempt() -> int:
    """Return how often Ray has run this task before, from its core worker; 0 if that does not tell."""
    core_worker = getattr(getattr(_worker(), "global_worker", None), "core_worker", None)
    attempt = getattr(core_worker, "get_current_task_attempt_number", None)
    return 0 if attempt is None else int(attempt())


def head_here() -> str | None:
    """Return HOST:PORT of the cluster that ``auto`` means on this machine; None if Ray does not tell.

    Raises ``ConnectionError`` if there is none.
    """
    try:
        from ray._private import services
    except ImportError:
        return None
    find = getattr(services, "canonicalize_bootstrap_address", None)
    if find is None:
        return None
    found = find("auto") or next(iter(services.find_gcs_addresses()), None)
    if found in (None, "auto"):
        raise ConnectionError("no Ray cluster runs on this machine")
    return str(found)


def raylet_here() -> tuple[int, str] | None:
    """Return the process id of this program's raylet, and the folder of its logs; None if Ray does not tell.

    A driver whose raylet has ended waits forever, or until it sends something: then Ray ends it with status 1.
    """
    import psutil

    node = getattr(_worker(), "_global_node", None)
    name, logs = getattr(node, "raylet_socket_name", None), getattr(node, "_logs_dir", "")
    if name is None:
        return None
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and any(name in word for word in process.cmdline()):
                return process.pid, str(logs)
    return None


def refuses(where: str, token: str | None) -> bool:
    """Return whether the cluster with its GCS at HOST:PORT refuses ``token``, or a missing one (None)."""
    try:
        import grpc
    except ImportError:
        return False
    shown = [("authorization", f"Bearer {token}")] if token else []
    try:
        with grpc.insecure_channel(where, [("grpc.enable_http_proxy", 0)]) as channel:
            ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
            ask(b"", timeout=5.0, metadata=shown)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def server_version(client: Any) -> str:
    """Return Ray's version on the cluster of a ``JobSubmissionClient``; ours if it does not tell."""
    import ray

    return str(getattr(client, "_server_ray_version", ray.__version__))


def execution_callback() -> type:
    """Return the base class of callbacks in Ray Data's scheduling loop; ``object`` if there is none."""
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
    except ImportError:
        return object
    return ExecutionCallback


def add_execution_callback(context: Any, callback: type) -> None:
    """Add a callback to executions under a ``DataContext``; do nothing if Ray has no such callbacks."""
    known = getattr(context, "custom_execution_callback_classes", None)
    if known is not None and execution_callback() is not object:
        context.custom_execution_callback_classes = [*known, callback]


def wake_readers(executor: Any) -> None:
    """Let the readers of a Ray Data executor sleep until there is a block for them, and record how it ended.

    In Ray, each reader polls a hundred times a second, in one process for all ranks of a split. `_state_of` reads how
    the executor ended.
    """
    state: Any = (getattr(executor, "_output_node", None) or (None, None))[1]
    names = [
        "get_output_blocking",
        "add_output",
        "mark_finished",
        "output_queue",
        "_finished",
        "_exception",
    ]
    names += ["_num_waiting_consumers", "_waiting_consumers_lock"]
    if not all(hasattr(state, name) for name in names):
        return
    take, add, finish = state.get_output_blocking, state.add_output, state.mark_finished
    came: dict[int | None, threading.Event] = defaultdict(threading.Event)

    def ended() -> bool:
        return bool(state._finished or state._exception is not None)

    def wait_and_take(split: int | None = None) -> Any:
        if not state.output_queue.has_next(split) and not ended():
            with state._waiting_consumers_lock:
                state._num_waiting_consumers += 1
            try:
                while not state.output_queue.has_next(split) and not ended():
                    came[split].clear()
                    if not state.output_queue.has_next(split) and not ended():
                        came[split].wait(1.0)
            finally:
                with state._waiting_consumers_lock:
                    state._num_waiting_consumers -= 1
        return take(split)

    def add_and_wake(bundle: Any) -> None:
        add(bundle)
        came[bundle.output_split_idx].set()

    def finish_and_wake(error: Any = None) -> None:
        whole = error is None and all(op.has_completed() for op in executor._topology)
        executor.came_to_its_end = whole
        finish(error)
        for each in list(came.values()):
            each.set()

    state.get_output_blocking = wait_and_take
    state.add_output = add_and_wake
    state.mark_finished = finish_and_wake


def hold_back(executor: Any, operator: str, most: int) -> None:
    """Stop a Ray Data executor from reading an operator's output while ``most`` of its blocks wait.

    Ray limits bytes, so it would create thousands of small blocks before the first is used.
    """
    policies = getattr(executor, "_backpressure_policies", None)
    topology: Any = getattr(executor, "_topology", None)
    if policies is None or topology is None:
        return

    class HeldBack:
        name = "stm"

        def can_add_input(self, op: Any) -> bool:
            return True

        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            held = operator in op.name and topology[op].total_enqueued_output_blocks() >= most
            return 0 if held else None

    policies.append(HeldBack())


def keep_moving(executor: Any, operator: str) -> None:
    """Let a Ray Data executor exceed its limits by a task if a reader waits and no task works.

    Ray does this itself, but it counts the task of ``operator``, which runs as long as the stream and does not compute.
    """
    policies = getattr(executor, "_backpressure_policies", None)
    topology: Any = getattr(executor, "_topology", None)
    readers: Any = (getattr(executor, "_output_node", None) or (None, None))[1]
    if policies is None or topology is None or not hasattr(readers, "num_waiting_consumers"):
        return

    def stands_still() -> bool:
        at_work = sum(op.num_active_tasks() for op in topology if operator not in op.name)
        return not at_work and bool(readers.num_waiting_consumers)

    class Moving:
        def __init__(self, policy: Any) -> None:
            self._policy = policy

        def __getattr__(self, name: str) -> Any:
            return getattr(self._policy, name)

        def can_add_input(self, op: Any) -> bool:
            return self._policy.can_add_input(op) or stands_still()

    policies[:] = map(Moving, policies)


def end_executions(patience_s: float = 30.0) -> None:
    """End the executors of Ray Data in this process before Ray is shut down, and wait for their threads.

    Ray itself waits only 2 s for them. An executor that calls Ray after its shutdown ends the process with status 1.
    """
    executors = [t for t in threading.enumerate() if t.name.startswith("StreamingExecutor-")]
    for executor in executors:
        shutdown = getattr(executor, "shutdown", None)
        with contextlib.suppress(Exception):  # the error of an execution that failed
            if shutdown is not None:
                shutdown(force=True)
        executor.join(patience_s)


def near_the_caller(context: Any) -> None:
    """Let executions under a ``DataContext`` start their tasks on their own node while it has free CPUs."""
    with warnings.catch_warnings():
        # These will be removed in 2027, and Ray has no other setting for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("scheduling_strategy", "scheduling_strategy_large_args"):
            if hasattr(context, name):
                setattr(context, name, "DEFAULT")


def let_borrow(executor: Any, cpus: float) -> None:
    """Let a Ray Data executor use up to ``cpus`` CPUs, even if Ray Data assigns it fewer."""
    manager: Any = getattr(executor, "_resource_manager", None)
    dealt_out = getattr(manager, "_get_total_resources", None)
    if dealt_out is None:
        return

    def lent() -> Any:
        own = dealt_out()
        return own.copy(cpu=max(own.cpu, cpus))

    manager._get_total_resources = lent


def end_together(splits: list[list[Any]], every_s: float = 0.5) -> None:
    """End the executors of the other ``streaming_split``s when that of the first is ended early; return at once.

    Ray Train ends only the first when it ends its workers, and the others would continue to use CPUs.
    """
    coordinators: list[Any] = [getattr(split[0], "_coord_actor", None) for split in splits]
    first, *others = coordinators
    if first is None or not others:
        return

    def watch() -> None:
        state = "runs"
        while state == "runs":
            time.sleep(every_s)
            state = _state_of(first)
        for other in others if state == "ended" else []:
            with contextlib.suppress(Exception):
                other.shutdown_executor.remote()

    threading.Thread(target=watch, name="streams end together", daemon=True).start()


def _state_of(coordinator: Any) -> str:
    """Return the state of the executor of a ``streaming_split``: `runs`, `done`, or `ended` if it was ended early."""
    import ray

    try:
        return str(ray.get(coordinator.__ray_call__.remote(_state_here), timeout=60))
    except ray.exceptions.GetTimeoutError:
        return "runs"
    except Exception:  # its process has ended
        return "ended"


def _state_here(coordinator: Any) -> str:
    executor = getattr(coordinator, "_current_executor", None)
    whole = getattr(executor, "came_to_its_end", None)  # set by `wake_readers`
    return {True: "done", False: "ended", None: "runs"}[whole]


def _worker() -> Any:
    try:
        from ray._private import worker
    except ImportError:
        return None
    return worker
