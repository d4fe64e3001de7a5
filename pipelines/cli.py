"""``stm VERB``: hands the rest of the command line to the verb's module, and imports nothing else."""

from __future__ import annotations

import difflib
import importlib
import sys

VERBS = {
    "demo": "make videos, train STM and a network blind to time on them, compare",
    "index": "probe every video of a dataset once, write its manifest",
    "prepare": "make training data that is cheap to decode, as files or in shards",
    "train": "train a network; the same command continues an interrupted run",
    "splits": "train and measure each published split of UCF-101 or HMDB-51, and their mean",
    "tune": "search learning rates, segment counts and any other setting, each trial a training run",
    "evaluate": "measure a checkpoint on a manifest, each video once",
    "predict": "name the action in videos",
    "register": "make a trained network a model of MLflow's, loadable anywhere, champion by a rule",
    "serve": "answer videos over HTTP",
    "explain": "show what the network sees in videos, as pictures and films",
    "export": "write a trained network as ONNX, torch.export or safetensors, checked",
    "submit": "run a verb on a cluster elsewhere, with the code of this folder",
    "jobs": "list, follow or stop what was submitted",
    "doctor": "check this machine or a cluster before a job is given to it",
    "plan": "say how many nodes a training takes, how long and how dear, from measured rates",
    "bench": "measure decoding, the data stream and the network on this machine",
}


def usage() -> str:
    verbs = "\n".join(f"  {verb:<10}{summary}" for verb, summary in VERBS.items())
    return f"""usage: stm VERB [--option VALUE ...]

Action recognition with STM (ICCV 2019) on Ray: video files in, a trained network out.

{verbs}

examples:
  stm demo
  stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output manifests/ucf101
  stm train --data.train manifests/ucf101/train.parquet --data.val manifests/ucf101/val.parquet
  stm train --config something-v1-t8
  stm VERB --help
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb; exit status as in ``pipelines.console``."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb in ("--version", "-V", "version"):
        from stm import __version__

        print(f"stm {__version__}")
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `stm {near[0]}`?" if near else f"verbs are {', '.join(VERBS)}"
        print(f"stm: no verb {verb!r}: {hint}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"pipelines.{verb}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
