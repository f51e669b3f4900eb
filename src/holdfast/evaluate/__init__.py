"""What a model says and what happens inside it: answers, options, states.

Each name is imported when it is first asked for; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
