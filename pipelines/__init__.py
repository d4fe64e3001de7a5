"""What can be run, one file a verb of ``stm``: ``stm VERB``, or ``python -m stm VERB``.

A verb is a function of its file's name, as ``train`` of ``train.py``. Its parameters are the options (`options`), the
first lines of its docstring the help, and the dict that it returns is what ``--json`` prints. Beside it may stand
``show(result)``, which makes the text for people of that dict. Nothing else lists verbs: help and tests look here.
"""
