"""A model's mathematics, in four ideas.

Load and save: `files` (which are loaded), `content` (their hashes), `skeleton` (what the library
makes of their names), `weights`, `originals`, `adapter` (which ends merged), `memory`.
Run it: `states` (the only forward passes training makes), `passes` (packed, recomputed, compiled,
counted), `head` (from states to words).
Judge with it: `judging` (what judges that are models share), `choices` (next words and labels),
`merging` (an adapter of others).
What methods share: `vectors` and `gradients` over parameters, `perturb` (shifted layer outputs),
`reference` (states beside those of the start), `opening`, `depth`. While a customer trains: `leash`
(cross-entropy and KL a row), `schedules`, `risk` (who says how risky a row is), `probe`. What one
method needs lies in its own folder.

Each name is imported when it is first asked for; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
