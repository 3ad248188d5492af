import sys
from importlib import import_module

import checkpoint
from engines import serve

name, folder = sys.argv[1:]
serve(import_module(f"engines.{name}").Engine(checkpoint.read(folder)))
