"""The verbs of ``stm VERB`` (or ``python -m stm VERB``), one file for each.

A verb is the function with the name of its file, such as ``train`` in ``train.py``. Its parameters are the options
(`options`), its docstring is the help, and ``--json`` prints the dict that it returns. The file may also define
``show(result)``, which returns the text to print instead. Help and tests find the verbs in this folder; there is no
other list of them.
"""
