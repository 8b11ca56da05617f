"""Runs an example on loopback: run_example.py FILE ARGUMENT..."""

import runpy
import sys

import p2pd

p2pd.NODE_DEFAULTS["bind"] = "127.0.0.1"
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
