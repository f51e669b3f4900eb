"""The contract of each kind of method, for this package's methods and for anybody's.

    from holdfast.testing import check_defence
    from mypackage.tether import Tether

    def test_contract():
        check_defence(Tether)

`checks_of(kind)` gives the single checks, to be run one test each. They use a random model of
three blocks (`holdfast.testing.tiny`), read nothing from disk and need no network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
